"""Targets and the agent's background: adding, adopting, drift, deliveries, one process at a time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.errors import StateCorruptError, StateWriteError, TargetRefusedError
from agent.files import Files
from agent.results import ResultCode
from tests.testkit import patches
from tests.testkit.agent import COMPONENT, HOST, OPERATOR, TARGET, TREE, World, write_tree
from wire.errors import PatchwardenError, RejectedError, UnavailableError
from wire.limits import KIBIBYTE


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    await world.add_target()
    return world


async def refuse(world: World, code: str, **changes: Any) -> None:
    before = world.agent.list_targets()
    with pytest.raises(PatchwardenError) as caught:
        await world.add_target(**changes)
    assert caught.value.code == code
    assert world.agent.list_targets() == before


async def test_new_target_has_its_tree_as_baseline(world: World) -> None:
    status = await world.agent.show_target(TARGET)
    assert status.tree_digest == status.state.tree_digest == world.digest()
    assert not status.is_drifted
    await world.agent._delivery.deliver(5.0)
    (report,) = world.reports()
    assert (report.report_kind, report.target) == ("adopt", TARGET)
    assert json.loads(report.body)["tree_digest"] == world.digest().hex()
    assert world.leftovers() == []
    world.reopen()
    assert world.agent.list_targets() == (TARGET,)


async def test_what_cannot_be_a_target_is_refused(world: World, tmp_path: Path) -> None:
    other = tmp_path / "srv" / "other"
    other.mkdir()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(other)
    (tmp_path / "through").symlink_to(tmp_path / "srv")
    await refuse(world, "agent.target.exists")
    await refuse(world, "agent.target.overlap", name="again")
    await refuse(world, "agent.target.overlap", name="above", root=str(tmp_path / "srv"))
    await refuse(world, "agent.target.overlap", name="below", root=str(world.root / "src"))
    await refuse(world, "agent.target.overlap", name="agent", root=str(tmp_path / "home" / "agent" / "targets"))
    await refuse(world, "agent.target.missing", name="none", root=str(tmp_path / "none"))
    await refuse(world, "agent.target.not_a_directory", name="file", root=str(tmp_path / "file"))
    await refuse(world, "agent.target.link", name="link", root=str(tmp_path / "link"))
    await refuse(world, "agent.target.link", name="through", root=str(tmp_path / "through" / "other"))
    await refuse(world, "agent.target.root", name="relative", root="srv/other")
    os.mkfifo(other / "pipe")
    await refuse(world, "agent.target.special_file", name="other", root=str(other))
    # Nothing is left of any of them: after a restart, too, there is the one target and nothing else.
    world.reopen()
    assert world.agent.list_targets() == (TARGET,)
    assert os.listdir(world.directory / "home" / "agent" / "targets") == [TARGET]


async def test_target_that_cannot_be_written_down_is_none(world: World, tmp_path: Path) -> None:
    other = tmp_path / "srv" / "other"
    write_tree(other, TREE)
    targets = world.directory / "home" / "agent" / "targets"
    steps, fails = 0, 1

    def step(call: str, path: str | bytes) -> None:
        nonlocal steps
        if "targets/other" in os.fsdecode(path) and call not in ("unlink", "remove_directory"):
            steps += 1
            if steps == fails:
                raise OSError(28, "No space left on device")

    world.files = Files(step)
    world.reopen()
    while fails < 100:
        steps = 0
        try:
            await world.add_target(name="other", root=str(other))
        except StateWriteError:
            assert world.agent.list_targets() == (TARGET,)
            assert os.listdir(targets) == [TARGET]
            fails += 1
        else:
            break
    assert 8 < fails < 99
    assert world.agent.list_targets() == (TARGET, "other")


async def test_target_of_which_the_ledger_cannot_hear_is_not_added(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "srv" / "other"
    other.mkdir()
    monkeypatch.setattr("agent.outbox.OUTBOX_ENTRIES_MAX", 0)
    await refuse(world, "agent.outbox.full", name="other", root=str(other))
    assert os.listdir(tmp_path / "home" / "agent" / "targets") == [TARGET]
    world.reopen()
    assert world.agent.list_targets() == (TARGET,)


async def test_target_without_a_baseline_is_told_and_blinds_nobody(world: World, tmp_path: Path) -> None:
    other = tmp_path / "srv" / "other"
    other.mkdir()
    await world.add_target(name="other", root=str(other))
    (world.directory / "home" / "agent" / "targets" / "other" / "state.json").unlink()
    world.reopen()
    (found,) = await world.agent.check_drift()
    assert (found.config.name, found.problem_code) == ("other", "agent.target.not_adopted")
    assert not found.has_baseline
    glanced = await world.agent.glance_at_target("other")
    assert glanced.to_json()["recorded_tree_digest"] is None
    assert glanced.to_json()["drifted"]
    async with world.agent._lock(world.agent._registry.get("other")):
        busy = await world.agent.glance_at_target("other")
    assert (busy.is_busy, busy.problem_code) == (True, "agent.target.not_adopted")
    assert not (await world.agent.glance_at_target(TARGET)).is_drifted
    await world.agent._delivery.deliver(5.0)
    assert [body.report_kind for body in world.reports()] == ["adopt", "adopt"]
    await world.agent.remove_target("other")
    assert await world.agent.check_drift() == ()


async def test_number_of_targets_is_bounded(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.registry.TARGETS_MAX", 1)
    (tmp_path / "srv" / "other").mkdir()
    await refuse(world, "agent.target.too_many", name="other", root=str(tmp_path / "srv" / "other"))


async def test_two_targets_do_not_touch_one_another(world: World, tmp_path: Path) -> None:
    other = tmp_path / "srv" / "other"
    write_tree(other, patches.EVERY_KIND_BEFORE)
    await world.add_target(name="other", root=str(other))
    data = world.release()
    first = await world.agent.apply(data, TARGET, OPERATOR)
    second = await world.agent.apply(data, "other", OPERATOR)
    assert first.is_success
    assert second.is_success
    counters = [body.counter for body in world.bodies() if hasattr(body, "counter")]
    assert counters == [1, 2, 3, 4]


async def test_applications_of_one_target_wait_for_one_another(world: World) -> None:
    data = world.release()
    outcomes = []

    async def apply() -> None:
        outcomes.append(await world.agent.apply(data, TARGET, OPERATOR))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(apply)
    assert sorted(outcome.reason for outcome in outcomes) == ["", *["agent.metadata.already_applied"] * 2]


async def test_cancelled_caller_does_not_stop_an_announced_application(world: World) -> None:
    data = world.release()
    with trio.CancelScope() as scope:
        world.files = Files(lambda name, path: trio.from_thread.run_sync(scope.cancel) if name == "exchange" else None)
        world.reopen()
        await world.agent.apply(data, TARGET, OPERATOR)
    assert scope.cancel_called
    assert (await world.agent.show_target(TARGET)).state.installed != ()
    await world.agent._delivery.deliver(5.0)
    assert [body.result for body in world.outcomes()] == ["SUCCESS"]
    assert world.agent.status().intents_open == 0


async def test_cancelled_caller_leaves_no_intent_open(world: World) -> None:
    data = world.release()
    before = world.digest()

    class Slow(type(world.ledger)):  # type: ignore[misc]
        async def submit(self, raw: bytes) -> None:
            scope.cancel()
            await trio.sleep_forever()

    world.ledger.__class__ = Slow
    with trio.CancelScope() as scope:
        await world.agent.apply(data, TARGET, OPERATOR)
    assert scope.cancelled_caught
    assert world.agent.status().intents_open == 0
    assert (await world.agent.history(TARGET))[0]["reason"] == "agent.apply.interrupted"
    world.ledger.__class__ = Slow.__base__
    await world.agent._delivery.deliver(5.0)
    assert [body.result for body in world.outcomes()] == ["ERROR_APPLY_FAILED"]
    assert world.digest() == before


async def test_writer_during_the_application_is_noticed(world: World) -> None:
    data = world.release()
    for name, meddle in (
        ("added", lambda: (world.root / "log").write_bytes(b"line\n")),
        ("changed", lambda: (world.root / "README").write_bytes(b"changed\n")),
        ("touched", lambda: (world.root / "src/frame.c").write_bytes(patches.FRAME_BEFORE)),
    ):
        write_tree(world.root, TREE)
        await world.agent.adopt_target(TARGET)

        def step(call: str, path: str | bytes, meddle: Any = meddle) -> None:
            if call == "syncfs":
                meddle()

        world.files = Files(step)
        world.reopen()
        outcome = await world.agent.apply(data, TARGET, OPERATOR)
        assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.tree_changed"), name
        assert outcome.intent_tx is not None
        assert world.leftovers() == []
        world.files = None
        world.reopen()
    await world.agent._delivery.deliver(5.0)
    assert [body.result for body in world.outcomes()] == ["ERROR_APPLY_FAILED"] * 3
    assert len(world.intents()) == 3


async def test_root_replaced_during_the_switch_is_told(world: World) -> None:
    data = world.release()

    def step(call: str, path: str | bytes) -> None:
        if call == "exchange":
            world.root.rename(world.root.parent / "moved")
            world.root.mkdir()
            raise OSError(5, "Input/output error")

    world.files = Files(step)
    world.reopen()
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.io")
    assert outcome.tree_after == world.digest() != outcome.tree_before


# Drift


async def test_drift_is_told_once_with_its_paths(world: World) -> None:
    assert await world.agent.check_drift() == ()
    (world.root / "README").write_bytes(b"changed\n")
    (world.root / os.fsdecode(b"b\xc3\xa4d \xff")).write_bytes(b"")
    (status,) = await world.agent.check_drift()
    assert (status.is_drifted, status.drifted_count) == (True, 2)
    assert status.drifted_paths == ("README", "bäd \\xff")
    await world.agent.check_drift()
    world.reopen()
    await world.agent.check_drift()
    await world.agent._delivery.deliver(5.0)
    (report,) = [each for each in world.reports() if each.report_kind == "drift"]
    body = json.loads(report.body)
    assert body["paths"] == ["README", "bäd \\xff"]
    assert (body["paths_count"], body["tree_digest"]) == (2, world.digest().hex())
    (world.root / "README").write_bytes(b"changed again\n")
    await world.agent.check_drift()
    await world.agent._delivery.deliver(5.0)
    assert [each.report_kind for each in world.reports()] == ["adopt", "drift", "drift"]
    assert any(event == "agent.drift" for event, _ in world.notes)


async def test_report_of_many_paths_fits(world: World) -> None:
    for number in range(60):
        (world.root / f"{number:03d}{'x' * 200}").write_bytes(b"")
    (status,) = await world.agent.check_drift()
    assert status.drifted_count == 60
    await world.agent._delivery.deliver(5.0)
    body = world.reports()[-1].body
    assert len(body) <= 4 * KIBIBYTE
    assert json.loads(body)["paths_count"] == 60
    assert 0 < len(json.loads(body)["paths"]) < 60


async def test_adoption_makes_the_tree_the_record(world: World) -> None:
    (world.root / "README").write_bytes(b"changed\n")
    status = await world.agent.adopt_target(TARGET)
    assert not status.is_drifted
    assert await world.agent.check_drift() == ()
    await world.agent._delivery.deliver(5.0)
    assert [each.report_kind for each in world.reports()] == ["adopt", "adopt"]


async def test_target_that_cannot_be_read_says_so(world: World) -> None:
    data = world.release()
    world.root.rename(world.root.parent / "away")
    status = await world.agent.show_target(TARGET)
    assert status.tree_digest is None
    assert "not there" in status.problem
    assert status.is_drifted
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.target.missing")
    assert outcome.tree_before is None
    (world.root.parent / "away").rename(world.root)
    os.mkfifo(world.root / "pipe")
    outcome = await world.agent.explain(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.target.special_file")
    assert len(await world.agent.check_drift()) == 1


async def test_removed_target_is_gone_and_its_tree_stays(world: World) -> None:
    await world.agent.remove_target(TARGET)
    assert world.agent.list_targets() == ()
    assert (world.root / "README").exists()
    for call in (
        world.agent.show_target(TARGET),
        world.agent.history(TARGET),
        world.agent.adopt_target(TARGET),
        world.agent.freeze_target(TARGET, frozen=True),
        world.agent.remove_target(TARGET),
        world.agent.apply(b"", TARGET, OPERATOR),
    ):
        with pytest.raises(RejectedError) as caught:
            await call
        assert caught.value.code == "agent.target.unknown"
    world.reopen()
    assert world.agent.list_targets() == ()


async def test_target_that_is_gone_with_the_directory_above_can_be_removed(world: World) -> None:
    shutil.rmtree(world.root.parent)
    await world.agent.remove_target(TARGET)
    with pytest.raises(TargetRefusedError):
        await world.agent.history(TARGET)


async def test_ledger_hears_that_a_target_is_not_guarded_any_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.outbox.OUTBOX_ENTRIES_MAX", 0)
    with pytest.raises(UnavailableError) as caught:
        await world.agent.remove_target(TARGET)
    assert caught.value.code == "agent.outbox.full"
    assert world.agent.list_targets() == (TARGET,)
    monkeypatch.undo()
    await world.agent.remove_target(TARGET)
    await world.agent._delivery.deliver(5.0)
    told = world.reports()[-1]
    assert (told.report_kind, told.target) == ("drift", TARGET)
    assert json.loads(told.body) == {
        "version": 1,
        "tree_digest": None,
        "recorded_tree_digest": world.digest().hex(),
        "paths_count": 0,
        "problem": "the host guards this tree no longer: its operator has removed the target",
        "problem_code": "agent.target.removed",
    }
    await world.add_target()
    await world.agent._delivery.deliver(5.0)
    assert world.reports()[-1].report_kind == "adopt"


async def test_target_whose_removal_was_interrupted_is_guarded_and_told_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.agent._registry, "remove", lambda name: (_ for _ in ()).throw(OSError(5, "killed here")))
    with pytest.raises(StateWriteError):
        await world.agent.remove_target(TARGET)
    world.reopen()
    assert await world.agent.check_drift() == ()
    await world.agent._delivery.deliver(5.0)
    assert [body.report_kind for body in world.reports()] == ["adopt", "drift", "repair"]


async def test_target_added_again_has_what_its_tree_shows_to_be_installed(world: World, tmp_path: Path) -> None:
    data = world.release()
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success
    installed = (await world.agent.show_target(TARGET)).state.installed
    await world.agent.remove_target(TARGET)
    await world.add_target(components=["pkg:deb/debian/*"])
    assert (await world.agent.show_target(TARGET)).state.installed == installed
    await world.agent._delivery.deliver(5.0)
    known = world.chain.view.target(HOST, TARGET)
    assert known is not None
    assert [each.hex() for each, _ in known.installed] == [each.patch_id for each in installed]
    assert "installed" not in json.loads(world.reports()[-1].body)
    # Another tree never had it; that the release is used up, stays.
    other = tmp_path / "srv" / "other"
    write_tree(other, TREE)
    await world.agent.remove_target(TARGET)
    await world.add_target(root=str(other))
    state = (await world.agent.show_target(TARGET)).state
    assert state.installed == ()
    await world.agent._delivery.deliver(5.0)
    known = world.chain.view.target(HOST, TARGET)
    assert known is not None
    assert known.installed == ()
    assert state.counter(COMPONENT) == installed[0].release_counter
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert outcome.reason == "agent.metadata.counter_not_increasing"
    assert len(await world.agent.history(TARGET)) == 2


async def test_target_whose_record_is_lost_can_be_adopted(world: World) -> None:
    (world.directory / "home" / "agent" / "targets" / TARGET / "state.json").unlink()
    world.reopen()
    with pytest.raises(RejectedError) as caught:
        await world.agent.apply(b"", TARGET, OPERATOR)
    assert caught.value.code == "agent.target.not_adopted"
    await world.agent.adopt_target(TARGET)
    assert not (await world.agent.show_target(TARGET)).is_drifted


# The agent as a whole


async def test_one_process_holds_the_directory(world: World) -> None:
    with pytest.raises(UnavailableError) as caught:
        world.open()
    assert caught.value.code == "agent.state.in_use"
    world.reopen()


async def test_agent_that_cannot_start_says_why_and_lets_go(world: World) -> None:
    world.agent.close()
    home = world.directory / "home" / "agent"
    (home / "outbox.log").rename(home / "kept")
    failed = OSError(28, "No space left on device")

    def step(call: str, path: str | bytes) -> None:
        raise failed

    world.files = Files(step)
    with pytest.raises(StateWriteError) as caught:
        world.open()
    assert caught.value.code == "agent.state.write"
    assert "No space left" in caught.value.message
    (home / "kept").rename(home / "outbox.log")
    world.files = None
    world.agent = world.open()
    assert world.agent.list_targets() == (TARGET,)


async def test_files_that_a_killed_process_had_not_finished_are_removed_at_start(world: World) -> None:
    home = world.directory / "home" / "agent"
    unfinished = [
        home / "highwater.json.new",
        home / "targets" / TARGET / "state.json.new",
        home / "targets" / TARGET / "patches" / f"{0:064x}.new",
    ]
    before = sorted(home.rglob("*"))
    for path in unfinished:
        path.write_bytes(b"half")
    world.reopen()
    assert sorted(home.rglob("*")) == before


async def test_damaged_state_stops_the_agent(world: World) -> None:
    path = world.directory / "home" / "agent" / "targets" / TARGET / "state.json"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(StateCorruptError):
        await world.agent.apply(b"", TARGET, OPERATOR)
    with pytest.raises(StateCorruptError):
        await world.agent.check_drift()
    world.agent.close()
    (path.parent / "target.json").write_bytes(b"")
    with pytest.raises(StateCorruptError):
        world.open()


async def test_failing_disk_is_told_as_what_it_is(world: World) -> None:
    def step(call: str, path: str | bytes) -> None:
        if "target.json" in os.fsdecode(path):
            raise OSError(28, "No space left on device", os.fsdecode(path))

    world.files = Files(step)
    world.reopen()
    with pytest.raises(StateWriteError) as caught:
        await world.agent.freeze_target(TARGET, frozen=True)
    assert caught.value.code == "agent.state.write"
    assert "No space left" in caught.value.message


async def test_history_that_cannot_be_written_stops_nothing(world: World) -> None:
    data = world.release()
    history = world.directory / "home" / "agent" / "targets" / TARGET / "history.log"
    history.write_bytes(b"damaged\n")
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success
    assert world.notes[-1][0] == "agent.history.failed"
    with pytest.raises(StateCorruptError):
        await world.agent.history(TARGET)


async def test_history_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.registry.HISTORY_LINES_MAX", 6)
    for _ in range(9):
        await world.agent.apply(b"", TARGET, OPERATOR)
    assert 3 <= len(await world.agent.history(TARGET)) <= 6
    assert len(world.outcomes()) == 9
    assert await world.agent.history(TARGET, 0) == ()


async def test_flood_of_refusals_leaves_room_for_outcomes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.lifecycle.OUTBOX_REFUSALS_MAX", 3)
    world.ledger.is_offline = True
    for _ in range(5):
        outcome = await world.agent.apply(b"", TARGET, OPERATOR)
    assert outcome.outcome_tx is None
    assert world.agent.status().records_waiting == 3
    assert len(await world.agent.history(TARGET)) == 5


async def wait_until(is_true: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not is_true():  # noqa: ASYNC110 - what is waited for has no event to wait on
            await trio.sleep(0.01)


async def test_full_outbox_applies_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    data = world.release()
    monkeypatch.setattr("agent.outbox.OUTBOX_ENTRIES_MAX", 0)
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.LEDGER_UNAVAILABLE, "agent.outbox.full")
    assert outcome.intent_tx is None
    assert (await world.agent.history(TARGET))[0]["reason"] == "agent.outbox.full"
    assert any(event == "agent.outbox.full" for event, _ in world.notes)


async def test_running_agent_recovers_delivers_and_looks_for_drift(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Threads and a jumping clock do not mix, so the pauses are real and short.
    monkeypatch.setattr("agent.runtime.DELIVERY_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("agent.runtime.DELIVERY_PAUSE_SECONDS_MAX", 0.02)
    world.ledger.is_offline = True
    agent = world.reopen(drift_interval_s=0.05)
    await agent.apply(b"", TARGET, OPERATOR)
    assert world.outcomes() == []
    async with trio.open_nursery() as nursery:
        await nursery.start(agent.run)
        await wait_until(lambda: "no validator answers" in agent.status().delivery_problem)
        world.ledger.is_offline = False
        await wait_until(lambda: [body.result for body in world.outcomes()] == ["ERROR_MALFORMED_PATCH"])
        await wait_until(lambda: agent.status().delivery_problem == "")
        (world.root / "README").write_bytes(b"changed\n")
        await wait_until(lambda: world.reports()[-1].report_kind == "drift")
        state = world.directory / "home" / "agent" / "targets" / TARGET / "state.json"

        def has_failed() -> bool:
            state.unlink(missing_ok=True)  # A look that had begun may write it again.
            return any(event == "agent.drift.failed" for event, _ in world.notes)

        await wait_until(has_failed)
        nursery.cancel_scope.cancel()
    assert any(event == "agent.delivery.waits" for event, _ in world.notes)
