"""The mode of a target can be changed while nothing is open: tried as for a new target, whole after a crash, and never a drift."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.files import Files
from agent.results import ResultCode
from agent.state_file import read_state
from agent.target import Mode, TargetConfig
from provenance.layout import split_patch_file_untrusted
from tests.testkit.agent import OPERATOR, TARGET, WORK_NAME, World
from wire.errors import PatchwardenError

pytestmark = pytest.mark.trio
OTHER = {"exchange": "in-place", "in-place": "exchange"}
BOTH = pytest.mark.parametrize("mode", OTHER)


class Stop(BaseException):
    """Ends a change like a crash, in this process."""


async def make_world(directory: Path, mode: str) -> World:
    world = World(directory)
    await world.add_target(mode=mode)
    return world


def written_mode(world: World) -> Mode:
    document = read_state(str(world.directory / "home" / "agent" / "targets" / TARGET / "target.json"))
    assert document is not None
    return TargetConfig.from_json_untrusted(document).mode


async def refused(world: World, mode: Any, name: str = TARGET) -> str:
    before = written_mode(world), world.digest()
    with pytest.raises(PatchwardenError) as caught:
        await world.agent.change_mode(name, mode)
    assert (written_mode(world), world.digest()) == before
    return caught.value.code


@BOTH
async def test_patches_get_into_the_target_in_the_new_mode(tmp_path: Path, mode: str) -> None:
    world = await make_world(tmp_path, mode)
    before = world.digest()
    await world.agent.change_mode(TARGET, OTHER[mode])
    assert ("agent.target.mode", {"target": TARGET, "mode": OTHER[mode]}) in world.notes
    assert world.leftovers() == []
    for restart in (False, True):
        if restart:
            world.reopen()
        shown = await world.agent.show_target(TARGET)
        assert (shown.to_json()["mode"], shown.is_drifted) == (OTHER[mode], False)
    inode = world.root.stat().st_ino
    data = world.release()
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert outcome.code is ResultCode.SUCCESS, outcome.message
    assert (world.root.stat().st_ino == inode) == (OTHER[mode] == "in-place")
    # And back again, to undo in the old mode what was done in the new one.
    await world.agent.change_mode(TARGET, mode)
    (outcome,) = await world.agent.rollback(split_patch_file_untrusted(data).patch_id, TARGET, OPERATOR)
    assert outcome.code is ResultCode.ROLLED_BACK, outcome.message
    assert world.digest() == before
    assert world.leftovers() == []


@BOTH
async def test_what_is_no_mode_or_no_target_is_refused_and_the_same_mode_is_nothing(tmp_path: Path, mode: str) -> None:
    world = await make_world(tmp_path, mode)
    for wrong in ("by-hand", "", None, 7, [mode]):
        assert await refused(world, wrong) == "agent.target.mode"
    assert await refused(world, mode, "nowhere") == "agent.target.unknown"
    await world.agent.change_mode(TARGET, mode)
    assert written_mode(world).value == mode


@pytest.mark.parametrize(
    ("mode", "call", "code"),
    [("exchange", "link", "agent.target.no_in_place"), ("in-place", "exchange", "agent.target.no_exchange")],
)
async def test_a_mode_that_the_file_system_does_not_have_is_refused(
    tmp_path: Path, mode: str, call: str, code: str
) -> None:
    world = await make_world(tmp_path, mode)

    def step(name: str, path: str | bytes) -> None:
        if name == call:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    world.files = Files(step)
    world.reopen()
    assert await refused(world, OTHER[mode]) == code
    assert world.leftovers() == []
    world.files = None
    world.reopen()
    assert (await world.agent.show_target(TARGET)).config.mode.value == mode
    assert (await world.agent.apply(world.release(), TARGET, OPERATOR)).is_success


async def test_what_somebody_else_has_at_the_work_directory_is_left_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    (world.root / WORK_NAME).mkdir()
    (world.root / WORK_NAME / "mine").write_bytes(b"content")
    await world.add_target(mode="exchange")
    assert await refused(world, "in-place") == "agent.target.own_directory"
    assert (world.root / WORK_NAME / "mine").read_bytes() == b"content"


async def test_refused_while_a_patch_is_being_applied(tmp_path: Path) -> None:
    world = await make_world(tmp_path, "exchange")
    data = world.release()
    waits, goes_on = trio.Event(), trio.Event()
    wait_receipt = world.ledger.wait_receipt

    async def wait(*arguments: Any) -> Any:
        waits.set()
        await goes_on.wait()
        return await wait_receipt(*arguments)

    world.ledger.wait_receipt = wait  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.agent.apply, data, TARGET, OPERATOR)
        await waits.wait()
        assert await refused(world, "in-place") == "agent.target.busy"
        with pytest.raises(PatchwardenError) as caught:
            await world.agent.change_standby(TARGET, kept=False)
        assert caught.value.code == "agent.target.busy"
        goes_on.set()
    assert [each.result for each in world.outcomes()] == ["SUCCESS"]
    await world.agent.change_mode(TARGET, "in-place")


@BOTH
async def test_an_open_application_is_recovered_first(tmp_path: Path, mode: str) -> None:
    world = await make_world(tmp_path, mode)
    data = world.release()

    def step(name: str, path: str | bytes) -> None:
        if os.fsdecode(path).endswith("state.json"):
            raise Stop

    world.files = Files(step)
    world.reopen()
    with pytest.raises(Stop):
        await world.agent.apply(data, TARGET, OPERATOR)
    after = world.digest()
    # It cannot be recovered yet: then the mode stays, too.
    world.files = Files(failing_at("state.json"))
    world.reopen()
    assert await refused(world, OTHER[mode]) == "agent.state.write"
    world.files = None
    world.reopen()
    await world.agent.change_mode(TARGET, OTHER[mode])
    assert [each.result for each in world.outcomes()] in ([], ["SUCCESS"])
    shown = await world.agent.show_target(TARGET)
    assert (shown.tree_digest, shown.is_drifted, len(shown.state.installed)) == (after, False, 1)
    assert world.leftovers() == []


def failing_at(name: str) -> Any:
    def step(call: str, path: str | bytes) -> None:
        if call in ("open", "rename") and os.fsdecode(path).endswith((name, f"{name}.new")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return step


async def test_an_application_that_leaves_something_open_refuses(tmp_path: Path) -> None:
    """What cannot be removed is still there: the directory in which the agent works in the old mode."""
    world = await make_world(tmp_path, "exchange")
    staging = world.root.parent / f".{world.root.name}.patchwarden-{TARGET}"
    staging.mkdir()

    def step(call: str, path: str | bytes) -> None:
        if call == "rmdir":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    world.files = Files(step)
    world.reopen()
    assert await refused(world, "in-place") == "agent.target.busy"


@BOTH
async def test_killed_at_any_call_the_target_has_one_mode_and_no_drift(tmp_path: Path, mode: str) -> None:
    found: set[str] = set()
    for number in range(60):
        world = await make_world(tmp_path / str(number), mode)
        calls = 0

        def step(name: str, path: str | bytes, number: int = number) -> None:
            nonlocal calls
            calls += 1
            if calls > number:
                raise Stop

        world.reopen()
        world.agent._files._step = step  # from here on: opening makes calls of its own
        try:
            await world.agent.change_mode(TARGET, OTHER[mode])
        except Stop:
            pass
        else:
            world.agent.close()
            break
        world.reopen()
        await world.agent.recover()
        shown = await world.agent.show_target(TARGET)
        found.add(shown.config.mode.value)
        assert not shown.is_drifted, number
        assert world.leftovers() == [], number
        # Whichever it is, it can be changed to the other one.
        await world.agent.change_mode(TARGET, OTHER[shown.config.mode.value])
        world.agent.close()
    assert found == set(OTHER)
    assert number > 8
