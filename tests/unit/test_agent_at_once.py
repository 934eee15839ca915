"""Two targets, two threads, one file: what the host keeps once for all its targets is written by one of them after the other."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
import trio

from agent.files import Files
from agent.lifecycle import HIGH_WATER_FILE, SPLIT_VIEWS_FILE
from agent.results import Outcome
from tests.testkit.agent import OPERATOR, TARGET, TREE, World, write_tree

HELD_S = 0.5
"""How long the first writer stands still: a second one that does not wait for it is done before, and one that waits is let in then."""

REACHED_S_MAX = 60.0
"""How long to wait for the first writer before the test goes on, and fails, without it."""


class Held:
    """A file system in which the first writer of one file stands still before a call, until the second has ended or clearly waits."""

    def __init__(self, name: str, call: str) -> None:
        self.name, self.call = name, call
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def step(self, call: str, path: str | bytes) -> None:
        if call == self.call and self.name in os.fsdecode(path) and not self.reached.is_set():
            self.reached.set()
            self.go_on.wait(HELD_S)


def told(path: Path) -> int:
    return int(json.loads(path.read_bytes().split(b"\n")[0])["height"])


@pytest.mark.parametrize("call", ["open", "write", "rename"])
async def test_high_water_mark_never_goes_back(tmp_path: Path, call: str) -> None:
    """Also where the two applications were decided on different blocks, and the lower one is written last."""
    world = World(tmp_path)
    await world.add_target()
    other = tmp_path / "srv" / "other"
    write_tree(other, TREE)
    await world.add_target(name="other", root=str(other))
    data = world.release()
    held = Held(HIGH_WATER_FILE, call)
    world.files = Files(held.step)
    world.reopen()
    outcomes: dict[str, Outcome] = {}

    async def apply(target: str) -> None:
        outcomes[target] = await world.agent.apply(data, target, OPERATOR)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(apply, TARGET)
        await trio.to_thread.run_sync(held.reached.wait, REACHED_S_MAX)
        world.chain.register("dave@acme", "developer")
        height = world.chain.height
        await apply("other")
        held.go_on.set()
    assert {target: each.code.value for target, each in outcomes.items()} == {TARGET: "SUCCESS", "other": "SUCCESS"}
    assert told(tmp_path / "home" / "agent" / HIGH_WATER_FILE) >= height
    assert (world.reopen().status().high_water or 0) >= height
    world.agent.close()


@pytest.mark.parametrize("call", ["open", "rename"])
async def test_split_views_settled_at_once_are_both_settled(tmp_path: Path, call: str) -> None:
    world = World(tmp_path)
    world.ledger.splits = frozenset({3, 4})
    held = Held(SPLIT_VIEWS_FILE, call)
    world.files = Files(held.step)
    world.reopen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.agent.settle_split_view, 3, "ours is right", "root")
        await trio.to_thread.run_sync(held.reached.wait, REACHED_S_MAX)
        await world.agent.settle_split_view(4, "ours is right", "root")
        held.go_on.set()
    assert [each.settled is not None for each in world.reopen().split_views()] == [True, True]
    world.agent.close()
