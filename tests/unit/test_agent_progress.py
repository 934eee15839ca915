"""How far a change of a target has come can be asked at any moment, is right about what it counts, and asking never holds up anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.errors import TargetRefusedError
from agent.facts import ACTION_APPLY, ACTION_ROLLBACK
from agent.files import Files
from agent.hooks import HookKind
from agent.progress import Progress, Tracker
from agent.results import StepName
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, TARGET, World

TRUE = os.path.realpath("/usr/bin/true")
DECIDING = [
    ("scan", "beginning"),
    ("scan", "reading what has changed in the target"),
    ("admit", "admitting the patch"),
    ("verify-signature", "verifying the signature"),
    ("extract-metadata", "reading the metadata"),
    ("verify-identities", "verifying the identities"),
    ("validate-metadata", "validating the metadata"),
    ("validate-metadata", "reading the diff"),
    ("validate-metadata", "looking at the target"),
    ("policy", "asking the policy"),
    ("plan", "planning"),
    ("intent", "waiting for the ledger to have the intent"),
]
RECORDING = [
    ("apply", "recording the new tree"),
    ("record", "recording the outcome"),
    ("record", "removing what is not needed any more"),
    ("record", "waiting for the ledger to have the outcome"),
]
EXCHANGE = [
    ("apply", "looking at the target again"),
    ("apply", "staging the new tree"),
    ("apply", "making the new tree durable"),
    ("apply", "proving the new tree"),
    ("apply", "running the before hook"),
    ("apply", "switching the trees"),
    ("apply", "running the health hook"),
]
IN_PLACE = [
    ("apply", "writing the new files"),
    ("apply", "keeping the old files"),
    ("apply", "making the new files durable"),
    ("apply", "checking the old files again"),
    ("apply", "running the before hook"),
    ("apply", "putting the new files in place"),
    ("apply", "running the health hook"),
]


class Watcher:
    """Looks at a target's progress before every change of the file system, as anybody else might at that moment."""

    def __init__(self, tmp_path: Path) -> None:
        self.seen: list[Progress] = []
        self.ended = 0
        """How often nothing was being done at that moment."""
        self.world: World | None = None
        self.world = World(tmp_path, files=Files(self.look))

    def look(self, call: str, path: str | bytes) -> None:
        if self.world is not None:
            found = self.world.agent.progress(TARGET) if TARGET in self.world.agent.list_targets() else None
            self.seen += [] if found is None else [found]
            self.ended += found is None

    def stages(self) -> list[tuple[str, str]]:
        """What was being done, in order, each once."""
        return list(dict.fromkeys((each.step, each.doing) for each in self.seen))

    def counts(self, doing: str) -> list[tuple[int, int]]:
        return [(each.done, each.total) for each in self.seen if each.doing == doing]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Everything that anybody begins to do, in order."""
    found: list[tuple[str, str]] = []
    begin = Tracker.begin

    def recorded(self: Tracker, step: str, doing: str, total: int = 0, unit: str = "") -> None:
        if self.look() is not None and found[-1:] != [(str(step), doing)]:
            found.append((str(step), doing))
        begin(self, step, doing, total, unit)

    monkeypatch.setattr(Tracker, "begin", recorded)
    return found


def test_nothing_is_told_outside_of_work() -> None:
    tracker = Tracker()
    tracker.begin("apply", "staging", 5, "paths")
    tracker.advance()
    tracker.reach(3)
    assert tracker.look() is None
    with tracker.work(ACTION_APPLY):
        assert (now := tracker.look()) is not None
        assert (now.action, now.patch_id, now.step, now.doing, now.done, now.total, now.unit) == (
            ("apply_patch", "", "scan", "beginning", 0, 0, "")
        )
        tracker.name_patch("ab" * 32)
        tracker.begin(StepName.APPLY, "staging", 2, "paths")
        for expected in (1, 2, 2):
            tracker.advance()
            now = tracker.look()
            assert now is not None
            assert (now.done, now.total) == (expected, 2), "never more than there is"
        tracker.begin("record", "reading", unit="files")
        tracker.reach(7)
        now = tracker.look()
        assert now is not None
        document = now.to_json()
        assert document.pop("elapsed_ms") >= 0
        assert document == {
            "action": "apply_patch",
            "patch_id": "ab" * 32,
            "step": "record",
            "doing": "reading",
            "done": 7,
            "total": 0,
            "unit": "files",
        }
        tracker.begin("record", "waiting")
        tracker.advance()
        now = tracker.look()
        assert now is not None
        assert now.done == 0, "where nothing is counted, nothing is"
    assert tracker.look() is None


def test_work_that_fails_is_over() -> None:
    tracker = Tracker()
    with pytest.raises(KeyError), tracker.work(ACTION_ROLLBACK):
        raise KeyError
    assert tracker.look() is None


@pytest.mark.parametrize("mode", ["exchange", "in-place"])
async def test_an_application_tells_each_step_and_counts_its_paths(
    tmp_path: Path, begun: list[tuple[str, str]], mode: str
) -> None:
    watcher = Watcher(tmp_path)
    world = watcher.world
    assert world is not None
    await world.add_target(mode=mode)
    for kind in (HookKind.BEFORE, HookKind.HEALTH):
        await world.agent.set_hook(TARGET, kind, {"argv": [TRUE]})
    data = world.release()
    begun.clear()
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert outcome.is_success, outcome.message
    wanted = EXCHANGE if mode == "exchange" else IN_PLACE
    expected = [*DECIDING[2:], *wanted, *RECORDING]
    # Whether a target that is changed in place is scanned first depends on how long ago it was.
    assert [each for each in dict.fromkeys(begun) if each[0] != "scan"] == expected
    seen = [each for each in watcher.stages() if each[0] == "apply"]
    assert seen == [each for each in [*wanted, *RECORDING] if each in seen], "seen from outside in the same order"
    counted = [each for each in wanted if watcher.counts(each[1]) and max(t for _, t in watcher.counts(each[1]))]
    assert counted, "something was counted while it was done"
    for _, doing in counted:
        counts = watcher.counts(doing)
        assert counts == sorted(counts), doing
        assert all(done <= total for done, total in counts)
    assert all(each.patch_id == outcome.patch_id for each in watcher.seen if each.step == "apply")
    assert all(each.action == "apply_patch" for each in watcher.seen if each.step == "apply")
    assert world.agent.progress(TARGET) is None, "nothing is being done any more"


async def test_staging_counts_every_path_of_the_new_tree(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path)
    world = watcher.world
    assert world is not None
    await world.add_target(components=["*"])
    before = {f"d{number % 3}/f{number:03}": patches.FileState(0o100644, b"old\n") for number in range(60)}
    for path, state in before.items():
        place = world.root / path
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(state.content)
    await world.agent.adopt_target(TARGET)
    after: dict[str, Any] = {path: patches.FileState(0o100644, b"new\n") for path in list(before)[:40]}
    after |= dict.fromkeys(list(before)[40:50])
    added = {"new/one": patches.FileState(0o100644, b"one\n")}
    data = world.release(patches.make_patch({k: before.get(k) for k in {**after, **added}}, {**after, **added}))
    watcher.seen.clear()
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert outcome.is_success, outcome.message
    total = (
        len(list(world.root.rglob("*"))) - 1 + 10
    )  # what was there, what goes, and what is new but for its directory
    counts = watcher.counts("staging the new tree")
    assert {each for _, each in counts} == {total}
    assert counts[-1] == (total, total)
    assert len({done for done, _ in counts}) > 40
    undone = (await world.agent.rollback(outcome.patch_id, TARGET, OPERATOR))[0]
    assert undone.code == "ROLLED_BACK", undone.message
    assert {each.action for each in watcher.seen if each.step == "apply"} == {"apply_patch", "rollback_patch"}


async def test_a_refusal_and_a_question_are_told_until_they_end(tmp_path: Path, begun: list[tuple[str, str]]) -> None:
    world = World(tmp_path)
    await world.add_target()
    data = world.release(attest=False)
    begun.clear()
    explained = await world.agent.explain(data, TARGET, OPERATOR)
    assert explained.code == "ERROR_POLICY_DENIED"
    assert begun == DECIDING[1:10]
    assert world.agent.progress(TARGET) is None
    begun.clear()
    refused = await world.agent.apply(data, TARGET, OPERATOR)
    assert refused.code == "ERROR_POLICY_DENIED"
    assert begun == [*DECIDING[1:10], RECORDING[1], RECORDING[3]]
    assert world.agent.progress(TARGET) is None


async def test_asking_does_not_wait_for_the_target(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.add_target()
    slot = world.agent._registry.get(TARGET)
    async with world.agent._lock(slot):
        with slot.tracker.work(ACTION_APPLY):
            found = world.agent.progress(TARGET)  # no await: it cannot wait for the lock
    assert found is not None
    assert found.step == "scan"
    with pytest.raises(TargetRefusedError) as caught:
        world.agent.progress("other")
    assert caught.value.code == "agent.target.unknown"


async def test_looking_for_drift_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    await world.add_target()
    slot = world.agent._registry.get(TARGET)
    found: list[Progress | None] = []
    status = slot.status

    def looked(**arguments: Any) -> Any:
        answer = status(**arguments)
        found.append(slot.tracker.look())
        return answer

    monkeypatch.setattr(slot, "status", looked)
    await world.agent.check_drift(TARGET, full=True)
    (one,) = found
    assert one is not None
    assert (one.action, one.step, one.unit) == ("drift", "scan", "files")
    assert one.done == sum(path.is_file() for path in world.root.rglob("*")), "each file was read"
