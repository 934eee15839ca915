"""Binary content, links and removed directories reach a target only where its operator and the patch's author both allow them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.files import Files
from agent.results import ResultCode
from provenance.diff import MODE_LINK, Allowance, FileState
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, TARGET, TREE, World

pytestmark = pytest.mark.trio

EVERYTHING = tuple(sorted(Allowance))
BEFORE = {"old/gone.txt": TREE["old/gone.txt"], "lib/keep/data.bin": TREE["lib/keep/data.bin"]}
AFTER = {"lib/keep/data.bin": FileState(0o100644, b"\0changed"), "lib/current": FileState(MODE_LINK, b"keep/data.bin")}


def wide_patch(**changes: Any) -> bytes:
    return patches.make_patch(BEFORE, AFTER, **({"allowances": EVERYTHING} | changes))


async def world_with(tmp_path: Path, allowed: tuple[str, ...]) -> World:
    world = World(tmp_path)
    await world.add_target(allowed=list(allowed))
    return world


async def test_allowed_by_both_it_is_done(tmp_path: Path) -> None:
    world = await world_with(tmp_path, EVERYTHING)
    outcome = await world.agent.apply(world.release(wide_patch()), TARGET, OPERATOR)
    assert outcome.code is ResultCode.SUCCESS, outcome.message
    assert os.readlink(world.root / "lib/current") == "keep/data.bin"
    assert (world.root / "lib/current").read_bytes() == b"\0changed"
    assert not (world.root / "old").exists()
    assert outcome.tree_after == world.digest()
    # And changed again.
    changed = {**AFTER, "lib/current": FileState(MODE_LINK, b"keep")}
    data = patches.make_patch(AFTER, changed, release_counter=2, allowances=(Allowance.SYMLINK,))
    outcome = await world.agent.apply(world.release(data), TARGET, OPERATOR)
    assert outcome.code is ResultCode.SUCCESS, outcome.message
    assert os.readlink(world.root / "lib/current") == "keep"


@pytest.mark.parametrize("missing", EVERYTHING)
async def test_what_the_operator_does_not_allow_is_refused(tmp_path: Path, missing: Allowance) -> None:
    world = await world_with(tmp_path, tuple(each for each in EVERYTHING if each != missing))
    before = world.digest()
    outcome = await world.agent.apply(world.release(wide_patch()), TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.not_allowed")
    assert world.digest() == before
    assert world.leftovers() == []
    assert world.intents() == []
    # The operator changes his mind.
    await world.agent.allow_target(TARGET, list(EVERYTHING))
    outcome = await world.agent.apply(world.release(wide_patch(), publish=False), TARGET, OPERATOR)
    assert outcome.code is ResultCode.SUCCESS, outcome.message


async def test_a_directory_stays_unless_the_author_says_so(tmp_path: Path) -> None:
    world = await world_with(tmp_path, EVERYTHING)
    outcome = await world.agent.apply(
        world.release(wide_patch(allowances=(Allowance.BINARY, Allowance.SYMLINK))), TARGET, OPERATOR
    )
    assert outcome.code is ResultCode.SUCCESS, outcome.message
    assert list((world.root / "old").iterdir()) == []


async def test_a_link_of_the_target_is_not_what_the_author_signed(tmp_path: Path) -> None:
    world = World(tmp_path)
    (world.root / "lib/current").symlink_to("/etc/passwd")
    await world.add_target(allowed=list(EVERYTHING))
    outcome = await world.agent.apply(world.release(wide_patch()), TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.pre_image")


async def test_a_target_allows_only_what_is_known(tmp_path: Path) -> None:
    world = await world_with(tmp_path, ())
    for wrong in (["everything"], "binary", [["binary"]], 7):
        with pytest.raises(Exception, match="known allowances") as caught:
            await world.agent.allow_target(TARGET, wrong)
        assert getattr(caught.value, "code", "") == "agent.target.allowance"


class Stop(BaseException):
    """Ends an application like a crash, in this process."""


@pytest.mark.parametrize("call", ["symlink", "fchmod", "exchange"])
async def test_a_crash_leaves_the_old_tree_or_the_new_one(tmp_path: Path, call: str) -> None:
    world = await world_with(tmp_path, EVERYTHING)
    before = world.digest()
    data = world.release(wide_patch())

    def step(name: str, path: str | bytes) -> None:
        if name == call:
            raise Stop

    world.files = Files(step)
    world.reopen()
    with pytest.raises(Stop):
        await world.agent.apply(data, TARGET, OPERATOR)
    assert world.digest() == before
    world.files = None
    agent = world.reopen()
    await agent.recover()
    assert world.digest() == before
    assert world.leftovers() == []
