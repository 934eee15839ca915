"""The file of a patch is kept while the patch is installed, or an open intent may install it yet; then it goes, crash or not."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from agent.files import Files
from agent.results import ResultCode
from agent.target import PATCHES_DIRECTORY, STATE_FILE
from provenance.layout import split_patch_file_untrusted
from tests.testkit.agent import OPERATOR, TARGET, World

pytestmark = pytest.mark.trio
MODES = pytest.mark.parametrize("mode", ["exchange", "in-place"])


class Stop(BaseException):
    """Ends an application like a crash, in this process."""


def patches_of(world: World) -> Path:
    return world.directory / "home" / "agent" / "targets" / TARGET / PATCHES_DIRECTORY


def kept(world: World) -> list[str]:
    return sorted(os.listdir(patches_of(world)))


async def make_world(directory: Path, **target: Any) -> tuple[World, bytes, str]:
    world = World(directory)
    await world.add_target(**target)
    data = world.release()
    return world, data, split_patch_file_untrusted(data).patch_id


@MODES
async def test_what_is_installed_is_kept_and_what_was_undone_goes(tmp_path: Path, mode: str) -> None:
    world, data, patch_id = await make_world(tmp_path, mode=mode)
    assert (await world.agent.apply(data, TARGET, OPERATOR)).code is ResultCode.SUCCESS
    assert kept(world) == [patch_id]
    world.reopen()
    assert kept(world) == [patch_id]
    (outcome,) = await world.agent.rollback(patch_id, TARGET, OPERATOR)
    assert outcome.code is ResultCode.ROLLED_BACK
    assert kept(world) == []


@MODES
async def test_an_application_that_fails_leaves_no_file(tmp_path: Path, mode: str) -> None:
    world, data, patch_id = await make_world(tmp_path, mode=mode)
    seen: list[list[str]] = []

    def step(name: str, path: str | bytes) -> None:
        if str(path).endswith("journal.json.new") or (name == "rename" and "journal" in os.fsdecode(path)):
            seen.append(kept(world))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    world.files = Files(step)
    outcome = await world.reopen().apply(data, TARGET, OPERATOR)
    assert outcome.code is ResultCode.APPLY_FAILED
    assert seen[0] == [patch_id]  # it had come that far
    assert kept(world) == []
    assert world.leftovers() == []


@MODES
async def test_killed_it_stays_as_long_as_the_intent_is_open(tmp_path: Path, mode: str) -> None:
    """Kill before each call that is about the file, the journal or the switch; `test_agent_crash.py` kills before all calls."""
    for number in range(40):
        directory = tmp_path / str(number)
        world, data, patch_id = await make_world(directory, mode=mode)
        calls = 0

        def step(name: str, path: str | bytes, number: int = number) -> None:
            nonlocal calls
            if name == "exchange" or any(
                word in os.fsdecode(path) for word in (PATCHES_DIRECTORY, "journal", STATE_FILE)
            ):
                calls += 1
                if calls > number:
                    raise Stop

        world.files = Files(step)
        world.reopen()
        try:
            outcome = await world.agent.apply(data, TARGET, OPERATOR)
        except Stop:
            pass
        else:
            assert outcome.code is ResultCode.SUCCESS
            world.agent.close()
            break
        was_there = patch_id in kept(world)
        world.files = None
        world.reopen()
        if was_there and world.agent.status().intents_open:
            assert patch_id in kept(world)  # opening alone does not take it away from who finishes it
        await world.agent.recover()
        state = (await world.agent.show_target(TARGET)).state
        assert kept(world) == [each.patch_id for each in state.installed]
        assert world.leftovers() == []
        world.agent.close()
    assert number > 8


async def test_a_file_that_cannot_be_removed_now_goes_with_the_next_start(tmp_path: Path) -> None:
    world, data, patch_id = await make_world(tmp_path)
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success
    refused = []

    def step(name: str, path: str | bytes) -> None:
        if name == "unlink" and os.fsdecode(path).endswith(patch_id):
            refused.append(path)
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    world.files = Files(step)
    (outcome,) = await world.reopen().rollback(patch_id, TARGET, OPERATOR)
    assert outcome.code is ResultCode.ROLLED_BACK
    assert refused
    assert "agent.clean_up.failed" in [event for event, _ in world.notes]
    assert kept(world) == [patch_id]
    world.reopen()  # a disk that still refuses does not keep the agent from starting
    assert kept(world) == [patch_id]
    world.files = None
    world.reopen()
    assert kept(world) == []


async def test_what_an_older_version_left_goes_with_the_start(tmp_path: Path) -> None:
    world, data, patch_id = await make_world(tmp_path)
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success
    (patches_of(world) / ("ab" * 32)).write_bytes(b"a patch that never took effect")
    world.reopen()
    assert kept(world) == [patch_id]


async def test_nothing_is_removed_on_the_word_of_a_damaged_or_missing_state(tmp_path: Path) -> None:
    world, data, patch_id = await make_world(tmp_path)
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success
    state = patches_of(world).parent / STATE_FILE
    whole = state.read_bytes()
    state.write_bytes(whole.replace(patch_id.encode(), b"0" * 64))
    world.reopen()
    assert kept(world) == [patch_id]
    state.unlink()
    world.reopen()
    assert kept(world) == [patch_id]
