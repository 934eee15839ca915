"""Drift: when a host looks, how closely, what it tells the ledger, and that it never looks into the middle of a change."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from agent.drift import SCAN_FILE, is_full_due, own_moment_s
from agent.errors import ApplyFailedError, StateCorruptError
from agent.files import Files
from agent.hooks import HookKind
from agent.inventory import Inventory
from agent.registry import Target
from tests.testkit.agent import NOW_MS, OPERATOR, TARGET, TREE, World

DAY_MS = 86_400_000


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    await world.add_target()
    return world


async def wait_until(is_true: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not is_true():  # noqa: ASYNC110 - what is waited for has no event to wait on
            await trio.sleep(0.01)


async def kinds(world: World) -> list[str]:
    await world.agent._delivery.deliver(5.0)
    return [each.report_kind for each in world.reports()]


async def test_repaired_drift_is_told_once(world: World) -> None:
    (world.root / "README").write_bytes(b"changed\n")
    await world.agent.check_drift()
    readme = TREE["README"]
    assert readme is not None
    (world.root / "README").write_bytes(readme.content)
    assert await world.agent.check_drift() == ()
    assert await world.agent.check_drift() == ()
    world.reopen()
    assert await world.agent.check_drift() == ()
    assert await kinds(world) == ["adopt", "drift", "repair"]
    assert json.loads(world.reports()[-1].body) == {"version": 1, "tree_digest": world.digest().hex()}
    record = world.chain.view.target("web1@acme", TARGET)
    assert record is not None
    assert record.report_kind == "repair"
    # The same drift once more is a new one.
    (world.root / "README").write_bytes(b"changed\n")
    await world.agent.check_drift()
    assert await kinds(world) == ["adopt", "drift", "repair", "drift"]


async def test_tree_that_cannot_be_one_is_told_and_so_is_its_return(world: World) -> None:
    away = world.root.parent / "away"
    world.root.rename(away)
    (status,) = await world.agent.check_drift()
    assert (status.tree_digest, status.problem_code) == (None, "agent.target.missing")
    await world.agent.check_drift()
    assert await kinds(world) == ["adopt", "drift"]
    body = json.loads(world.reports()[-1].body)
    assert (body["tree_digest"], body["problem_code"]) == (None, "agent.target.missing")
    world.reopen()
    away.rename(world.root)
    assert await world.agent.check_drift() == ()
    assert await kinds(world) == ["adopt", "drift", "repair"]


async def test_tree_that_moves_while_it_is_read_is_no_drift_yet(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def moving(self: Target, root_fd: int, *, full: bool = False) -> Inventory:
        raise ApplyFailedError("agent.target.changing", "a file of the target changes while it is read")

    with monkeypatch.context() as patched:
        patched.setattr(Target, "take_inventory", moving)
        (status,) = await world.agent.check_drift()
        assert status.problem_code == "agent.target.changing"
    assert await world.agent.check_drift() == ()
    assert await kinds(world) == ["adopt"]


async def test_repaired_target_is_patched_again_and_a_drifted_one_is_not(world: World) -> None:
    data = world.release()
    (world.root / "README").write_bytes(b"changed\n")
    refused = await world.agent.apply(data, TARGET, OPERATOR)
    assert refused.reason == "agent.policy.no-drift"
    await world.agent.adopt_target(TARGET)
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success
    assert (await kinds(world))[-1] == "adopt"


async def test_every_file_is_read_when_it_is_due_and_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bool] = []
    take = Target.take_inventory

    def noticed(self: Target, root_fd: int, *, full: bool = False) -> Inventory:
        looked.append(full)
        return take(self, root_fd, full=full)

    monkeypatch.setattr(Target, "take_inventory", noticed)

    async def look(**how: Any) -> bool:
        looked.clear()
        await world.agent.check_drift(**how)
        (full,) = looked
        return full

    assert await look()
    assert not await look()
    assert await look(full=True)
    world.now_ms = NOW_MS + DAY_MS - 1
    assert not await look()
    world.reopen()
    assert not await look()
    world.now_ms = NOW_MS + DAY_MS
    assert await look()
    assert (await world.agent.show_target(TARGET)).full_scan_ms == NOW_MS + DAY_MS
    # A clock that went back puts nothing off.
    world.now_ms = NOW_MS
    assert await look()
    assert not await look()
    world.reopen(drift_full_interval_s=0.001)
    world.now_ms += 1
    assert await look()


async def test_damaged_scan_record_is_told(world: World) -> None:
    await world.agent.check_drift()
    path = world.directory / "home" / "agent" / "targets" / TARGET / SCAN_FILE
    path.write_bytes(path.read_bytes().replace(b"full_ms", b"full_mz"))
    with pytest.raises(StateCorruptError):
        await world.agent.check_drift()


def test_due_at_the_interval_and_when_time_went_back() -> None:
    assert is_full_due(None, 0, 10)
    assert not is_full_due(1000, 1000, 10)
    assert not is_full_due(1000, 10_999, 10)
    assert is_full_due(1000, 11_000, 10)
    assert is_full_due(1000, 999, 10)


def test_hosts_spread_over_the_interval_and_each_keeps_its_place() -> None:
    assert own_moment_s("web1@acme", 300) == own_moment_s("web1@acme", 300)
    offsets = [own_moment_s(f"web{number}@acme", 300.0) for number in range(10_000)]
    assert all(0 <= each < 300 for each in offsets)
    share = Counter(int(each // 30) for each in offsets)
    assert all(900 < share[tenth] < 1100 for tenth in range(10))


async def test_nobody_looks_into_a_change_on_trial(world: World) -> None:
    gate = world.directory / "gate"
    program = world.directory / "health"
    program.write_text(f"#!/bin/sh\ntouch {gate}.reached\nwhile [ ! -e {gate} ]; do sleep 0.01; done\n")
    program.chmod(0o755)
    await world.agent.set_hook(TARGET, HookKind.HEALTH, {"argv": [str(program)], "timeout_s": 600})
    data = world.release()
    seen: list[str] = []

    async def look_and_wait() -> None:
        seen.append("looking")
        assert await world.agent.check_drift(TARGET) == ()
        seen.append("looked")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.agent.apply, data, TARGET, OPERATOR)
        await wait_until(lambda: os.path.exists(f"{gate}.reached"))
        # The new tree stands, and no record explains it yet.
        assert await world.agent.check_drift(wait=False) == ()
        glance = await world.agent.glance_at_target(TARGET)
        assert (glance.is_busy, glance.is_drifted) == (True, False)
        nursery.start_soon(look_and_wait)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == ["looking"]
        gate.touch()
    assert seen == ["looking", "looked"]
    shown = await world.agent.glance_at_target(TARGET)
    assert (shown.is_busy, len(shown.state.installed)) == (False, 1)
    assert await kinds(world) == ["adopt"]


async def test_open_application_is_recovered_before_anybody_looks(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.add_target()
    data = world.release()

    class Stop(BaseException):
        """Ends the application like a crash."""

    def step(name: str, path: str | bytes) -> None:
        if name == "open" and "state.json" in os.fsdecode(path):
            raise Stop

    world.files = Files(step)
    world.reopen()
    with pytest.raises(Stop):
        await world.agent.apply(data, TARGET, OPERATOR)
    world.files = None
    world.reopen()
    # The new tree stands and the state still tells of the old one: that is no drift.
    assert await world.agent.check_drift() == ()
    assert await kinds(world) == ["adopt"]
    assert [each.result for each in world.outcomes()] == ["SUCCESS"]
