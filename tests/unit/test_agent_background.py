"""What the agent does by itself goes on after whatever one target, one disk error or one peer does."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from agent.errors import StateWriteError, TargetRefusedError
from agent.registry import Target
from tests.testkit.agent import World


async def test_a_part_that_fails_for_now_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.runtime.DELIVERY_PAUSE_SECONDS", 0.01)
    world = World(tmp_path)
    await world.add_target()
    agent = world.agent
    deliver = agent._delivery.deliver
    told = trio.Event()
    attempts = 0

    async def refused(slot: Target) -> None:
        raise TargetRefusedError("agent.target.root", "the root is gone")

    async def fails_twice(timeout_s: float, until: int | None = None) -> None:
        nonlocal attempts
        attempts += 1
        if attempts <= 2:
            assert (agent.status().delivery_problem == "") == (attempts == 1)
            raise StateWriteError("agent.state.write", "the disk is full")
        await deliver(timeout_s, until)
        told.set()

    monkeypatch.setattr(agent._lifecycle, "recover", refused)
    monkeypatch.setattr(agent._delivery, "deliver", fails_twice)
    async with trio.open_nursery() as nursery:
        await nursery.start(agent.run)
        with trio.fail_after(60):
            await told.wait()
        nursery.cancel_scope.cancel()
    assert agent.status().delivery_problem == ""
    assert [event for event, _ in world.notes] == ["agent.recovery.failed", "agent.delivery.waits"]
    assert [report.report_kind for report in world.reports()] == ["adopt"]
    agent.close()
