"""A new baseline is on the ledger or it is none: stopped before any call, by a full disk, a full outbox, or a caller that goes away."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.errors import OutboxError
from agent.files import Files
from agent.target import STATE_FILE
from tests.testkit.agent import TARGET, World, tree_digest_of, write_tree
from tests.testkit.patches import BEFORE
from wire.errors import PatchwardenError

CALLS_MAX = 200


class Killed(BaseException):
    """The process ends here."""


class Stopper:
    """Ends the process, or fails, in front of one call to the file system, counted from 1 since it was armed.

    Args:
        mode: ``kill``, or ``full`` for a disk that takes no more.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.left = 0
        self.files = Files(self.step)

    def step(self, call: str, path: str | bytes) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed if self.mode == "kill" else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def stopped(self, world: World, stop_at: int, step: Callable[[], Awaitable[Any]]) -> bool:
        """Return whether something was stopped in front of that call; the agent starts again, and tells what it has to tell."""
        world.files = self.files
        world.reopen()
        self.left = stop_at
        with suppress(Killed, PatchwardenError):
            await step()
        is_over = self.left > 0
        self.left = 0
        world.files = None
        world.reopen()
        await world.agent.recover()
        await world.agent._delivery.deliver(5.0)
        return not is_over


def adopted(world: World, target: str) -> list[str]:
    """Return the trees of all adoptions of a target that the ledger has heard of."""
    found = [each for each in world.reports() if (each.report_kind, each.target) == ("adopt", target)]
    return [json.loads(each.body)["tree_digest"] for each in found]


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    await world.add_target()
    await world.agent._delivery.deliver(5.0)
    return world


@pytest.mark.parametrize("mode", ["kill", "full"])
async def test_adoption_stopped_anywhere_is_told_or_has_not_happened(world: World, mode: str) -> None:
    stopper = Stopper(mode)
    seen = []
    for stop_at in range(1, CALLS_MAX):
        (world.root / "README").write_text(f"somebody else's, number {stop_at}\n")
        new = world.digest().hex()
        is_stopped = await stopper.stopped(world, stop_at, lambda: world.agent.adopt_target(TARGET))
        status = await world.agent.show_target(TARGET)
        assert status.is_drifted == (status.state.tree_digest.hex() != new)
        assert adopted(world, TARGET).count(new) == (not status.is_drifted), f"stopped at {stop_at}"
        assert status.state.tree_digest.hex() == adopted(world, TARGET)[-1], f"stopped at {stop_at}"
        assert not status.state.untold
        if not is_stopped:
            break
        seen.append(status.is_drifted)
    assert len(seen) >= 10, "each call is a place to stop"
    assert mode == "full" or seen == sorted(seen, reverse=True), "once it has happened, it has happened"
    assert {True, False} == set(seen)
    assert not status.is_drifted
    world.agent.close()


@pytest.mark.parametrize("mode", ["kill", "full"])
async def test_target_whose_adding_was_stopped_anywhere_is_told_or_is_none(world: World, mode: str) -> None:
    stopper = Stopper(mode)
    seen = []
    for stop_at in range(1, CALLS_MAX):
        name = f"other-{stop_at}"
        root = world.root.with_name(name)
        write_tree(root, BEFORE)
        document = world.document(name=name, root=str(root))
        is_stopped = await stopper.stopped(world, stop_at, lambda: world.agent.add_target(document))  # noqa: B023
        is_there = name in world.agent.list_targets()
        assert adopted(world, name) == [tree_digest_of(root).hex()] * is_there, f"stopped at {stop_at}"
        if not is_stopped:
            break
        seen.append(is_there)
        if is_there:
            await world.agent.remove_target(name)
    assert len(seen) >= 10, "each call is a place to stop"
    assert mode == "full" or seen == sorted(seen), "once it has happened, it has happened"
    assert {True, False} == set(seen)
    assert is_there
    world.agent.close()


async def test_full_outbox_refuses_an_adoption_before_anything_is_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.root / "README").write_text("somebody else's\n")
    state = world.directory / "home" / "agent" / "targets" / TARGET / STATE_FILE
    before = state.read_bytes()
    monkeypatch.setattr("agent.outbox.OUTBOX_ENTRIES_MAX", 0)
    with pytest.raises(OutboxError) as caught:
        await world.agent.adopt_target(TARGET)
    assert caught.value.code == "agent.outbox.full"
    assert state.read_bytes() == before
    assert (await world.agent.show_target(TARGET)).is_drifted
    world.agent.close()


async def test_adoption_that_was_begun_finds_room_in_an_outbox_that_is_full_since(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (world.root / "README").write_text("somebody else's\n")

    def kill(call: str, path: str | bytes) -> None:
        if os.fsdecode(path).endswith("outbox.log") and call == "write":
            raise Killed

    world.files = Files(kill)
    world.reopen()
    with pytest.raises(Killed):
        await world.agent.adopt_target(TARGET)
    world.files = None
    monkeypatch.setattr("agent.outbox.OUTBOX_ENTRIES_MAX", 0)
    world.reopen()
    assert not (await world.agent.show_target(TARGET)).is_drifted
    await world.agent.check_drift()  # Whatever is done with the target tells it first.
    await world.agent._delivery.deliver(5.0)
    assert adopted(world, TARGET)[1:] == [world.digest().hex()]
    world.agent.close()


@pytest.mark.parametrize("adds", [False, True])
async def test_caller_that_goes_away_only_stops_listening(world: World, adds: bool) -> None:
    name = "other" if adds else TARGET
    root = world.root.with_name("other") if adds else world.root
    write_tree(root, BEFORE)
    scope = trio.CancelScope()

    def give_up(call: str, path: str | bytes) -> None:
        if call == "rename" and os.fsdecode(path).endswith(STATE_FILE):
            trio.from_thread.run_sync(scope.cancel)

    world.files = Files(give_up)
    world.reopen()
    with scope:
        await (
            world.agent.add_target(world.document(name=name, root=str(root)))
            if adds
            else world.agent.adopt_target(name)
        )
    assert scope.cancel_called
    await world.agent._delivery.deliver(5.0)
    status = await world.agent.show_target(name)
    assert not status.is_drifted
    assert not status.state.untold
    assert adopted(world, name)[-1] == tree_digest_of(root).hex()
    world.agent.close()
