"""Rolling back: an installed patch is undone exactly, decided by policy, recorded, and only when nothing stands on it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from agent.decision import replay_decision_untrusted
from agent.errors import MetadataRefusedError
from agent.facts import ACTION_ROLLBACK, Requester
from agent.files import Files
from agent.policy_text import default_policy_set
from agent.results import Outcome, ResultCode, StepName
from agent.rollback import find_dependants
from agent.target import Installed, TargetState
from ledger import bodies
from provenance.diff_model import Allowance, FileState
from provenance.layout import split_patch_file_untrusted
from tests.testkit import patches
from tests.testkit.agent import HOST, OPERATOR, POLICIES, TARGET, TREE, World, read_tree
from wire.errors import UnavailableError
from wire.hashing import Digest

SECOND = {"src/frame.c": FileState(0o100644, patches.FRAME_BEFORE.replace(b"i <= length", b"i < size"))}
README = {"README": TREE["README"]}
README_AFTER = {"README": FileState(0o100644, b"read me twice\n")}


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    await world.add_target()
    return world


def id_of(data: bytes) -> str:
    return split_patch_file_untrusted(data).patch_id


async def install(world: World, data: bytes) -> str:
    """Return the id of a patch after it was applied."""
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert outcome.is_success, outcome.message
    return outcome.patch_id


async def undo(world: World, patch_id: str, **changes: Any) -> Outcome:
    """Return how one rollback ended."""
    (outcome,) = await world.agent.rollback(patch_id, TARGET, OPERATOR, **changes)
    return outcome


def replace_file(path: str, data: bytes | None) -> None:
    os.unlink(path)
    if data is not None:
        Path(path).write_bytes(data)


def installed_on_ledger(world: World) -> tuple[str, ...]:
    record = world.chain.view.target(HOST, TARGET)
    return () if record is None else tuple(patch_id.hex() for patch_id, _ in record.installed)


async def test_undone_patch_leaves_the_tree_of_before_and_is_recorded(world: World) -> None:
    before, tree = world.digest(), read_tree(world.root)
    patch_id = await install(world, world.release())
    assert installed_on_ledger(world) == (patch_id,)
    after = world.digest()
    outcome = await undo(world, patch_id)
    assert (outcome.code, outcome.action) == (ResultCode.ROLLED_BACK, ACTION_ROLLBACK)
    assert [step.step for step in outcome.steps] == list(StepName)
    assert all(step.passed for step in outcome.steps)
    assert (outcome.tree_before, outcome.tree_after) == (after, before)
    assert (world.digest(), read_tree(world.root)) == (before, tree)
    assert world.leftovers() == []
    intent, told = world.intents()[-1], world.outcomes()[-1]
    assert (told.result, told.tree_before, told.tree_after) == ("ROLLED_BACK", after, before)
    assert told.previous == told.intent_tx_id == outcome.intent_tx
    assert json.loads(told.detail)["action"] == ACTION_ROLLBACK
    assert json.loads(intent.decision)["facts"]["action"] == ACTION_ROLLBACK
    decision, verdict = replay_decision_untrusted(intent.decision, POLICIES.get(world.chain.view.policy()))
    assert decision.is_allowed
    assert verdict.allowed_by == decision.allowed_by == ("permit-rollback",)
    record = world.chain.view.target(HOST, TARGET)
    assert record is not None
    assert (record.installed, record.tree_digest) == ((), before)
    shown = await world.agent.show_target(TARGET)
    assert (shown.is_drifted, shown.state.installed) == (False, ())
    history = await world.agent.history(TARGET)
    assert [(each["code"], each["action"]) for each in history] == [
        ("ROLLED_BACK", "rollback_patch"),
        ("SUCCESS", "apply_patch"),
    ]


async def test_every_kind_of_change_is_undone(world: World) -> None:
    before, tree = world.digest(), read_tree(world.root)
    os.chmod(world.root / "src/frame.c", 0o640)
    every_kind = (patches.EVERY_KIND_BEFORE, patches.EVERY_KIND_AFTER, patches.EVERY_KIND_RENAMES)
    patch_id = await install(world, world.release(patches.make_patch(*every_kind)))
    assert not (world.root / "old").is_dir() or not any((world.root / "old").iterdir())
    assert (await undo(world, patch_id)).is_success
    assert (world.digest(), read_tree(world.root)) == (before, tree)
    assert (world.root / "src/frame.c").stat().st_mode & 0o777 == 0o640


async def test_links_binary_files_and_directories_are_undone(world: World) -> None:
    allowed = (Allowance.BINARY, Allowance.REMOVE_DIRECTORY, Allowance.SYMLINK)
    await world.agent.allow_target(TARGET, [each.value for each in allowed])
    before, tree = world.digest(), read_tree(world.root)
    old = {"lib/keep/data.bin": TREE["lib/keep/data.bin"], "bin/tool": TREE["bin/tool"], "new/deep/link": None}
    new = {
        "lib/keep/data.bin": FileState(0o100644, b"\0other\xff"),
        "bin/tool": None,
        "new/deep/link": FileState(0o120000, b"../../README"),
    }
    patch_id = await install(world, world.release(patches.make_patch(old, new, allowances=allowed)))
    assert (world.root / "new/deep/link").is_symlink()
    assert not (world.root / "bin").exists()
    # Nobody has to allow what is undone.
    await world.agent.allow_target(TARGET, [])
    assert (await undo(world, patch_id)).is_success
    assert (world.digest(), read_tree(world.root)) == (before, tree)
    assert not (world.root / "new").exists()


async def test_undone_patch_cannot_come_back_but_a_newer_release_can(world: World) -> None:
    data = world.release()
    patch_id = await install(world, data)
    assert (await undo(world, patch_id)).is_success
    again = await world.agent.apply(data, TARGET, OPERATOR)
    assert again.reason == "agent.metadata.counter_not_increasing"
    with pytest.raises(MetadataRefusedError) as refused:
        await undo(world, patch_id)
    assert refused.value.code == "agent.rollback.not_installed"
    newer = await install(world, world.release(patches.make_patch(release_counter=2)))
    assert installed_on_ledger(world) == (newer,)


async def test_explaining_changes_and_records_nothing(world: World) -> None:
    patch_id = await install(world, world.release())
    before, records = world.digest(), len(world.bodies())
    outcome = await undo(world, patch_id, explain=True)
    assert outcome.code is ResultCode.ROLLED_BACK
    assert outcome.steps[-1].step is StepName.PLAN
    assert (world.digest(), len(world.bodies())) == (before, records)


async def test_patch_under_another_one_is_refused_and_the_other_named(world: World) -> None:
    first = await install(world, world.release())
    second = await install(world, world.release(patches.make_patch(patches.AFTER, SECOND, release_counter=2)))
    before = world.digest()
    outcome = await undo(world, first)
    assert (outcome.code, outcome.reason) == (ResultCode.INVALID_METADATA, "agent.rollback.dependants")
    assert (world.digest(), world.leftovers()) == (before, [])
    told = world.outcomes()[-1]
    assert (told.result, told.intent_tx_id) == ("ERROR_INVALID_METADATA", None)
    failed = next(step for step in outcome.steps if not step.passed)
    assert failed.step is StepName.VALIDATE_METADATA
    assert second in outcome.message
    assert "--with-dependants" in outcome.hint


async def test_dependants_go_first_when_asked_for(world: World) -> None:
    before, tree = world.digest(), read_tree(world.root)
    first = await install(world, world.release())
    other = await install(world, world.release(patches.make_patch(README, README_AFTER, release_counter=2)))
    second = await install(world, world.release(patches.make_patch(patches.AFTER, SECOND, release_counter=3)))
    outcomes = await world.agent.rollback(first, TARGET, OPERATOR, with_dependants=True)
    assert [(each.patch_id, each.code) for each in outcomes] == [
        (second, ResultCode.ROLLED_BACK),
        (first, ResultCode.ROLLED_BACK),
    ]
    # What does not stand on it stays.
    assert installed_on_ledger(world) == (other,)
    assert (await undo(world, other)).is_success
    assert (world.digest(), read_tree(world.root)) == (before, tree)


async def test_patch_that_another_needs_goes_with_it(world: World) -> None:
    first = await install(world, world.release())
    needing = patches.make_patch(README, README_AFTER, release_counter=2, prerequisites=(first,))
    second = await install(world, world.release(needing))
    assert (await undo(world, first)).reason == "agent.rollback.dependants"
    outcomes = await world.agent.rollback(first, TARGET, OPERATOR, with_dependants=True)
    assert [each.patch_id for each in outcomes] == [second, first]


async def test_several_stop_at_the_first_that_is_refused(world: World) -> None:
    first = await install(world, world.release())
    await install(world, world.release(patches.make_patch(patches.AFTER, SECOND, release_counter=2)))
    await world.agent.freeze_target(TARGET, frozen=True)
    outcomes = await world.agent.rollback(first, TARGET, OPERATOR, with_dependants=True)
    assert [each.reason for each in outcomes] == ["agent.policy.not-frozen"]
    assert len(installed_on_ledger(world)) == 2


async def test_policy_decides(world: World) -> None:
    patch_id = await install(world, world.release())
    await world.agent.freeze_target(TARGET, frozen=True)
    outcome = await undo(world, patch_id)
    assert (outcome.code, outcome.reason) == (ResultCode.POLICY_DENIED, "agent.policy.not-frozen")
    told = world.outcomes()[-1]
    assert (told.result, told.intent_tx_id) == ("ERROR_POLICY_DENIED", None)
    detail = json.loads(told.detail)
    assert detail["decision"]["facts"]["action"] == detail["action"] == ACTION_ROLLBACK
    await world.agent.freeze_target(TARGET, frozen=False)
    (stranger,) = await world.agent.rollback(patch_id, TARGET, Requester("eve", (), "socket"))
    assert stranger.reason == "agent.policy.requester-is-operator"


async def test_set_of_before_there_were_rollbacks_denies_them(tmp_path: Path) -> None:
    schema, texts = default_policy_set()
    schema = schema.replace('action "apply_patch", "rollback_patch"', 'action "apply_patch"').replace(
        "rollback_patch", ""
    )
    old = tuple(
        (
            name,
            text.replace(
                'action in [Action::"apply_patch", Action::"rollback_patch"]', 'action == Action::"apply_patch"'
            ),
        )
        for name, text in texts
        if name != "permit-rollback"
    )
    world = World(tmp_path, policies=(schema, old))
    await world.add_target()
    patch_id = await install(world, world.release())
    outcome = await undo(world, patch_id)
    assert (outcome.code, outcome.reason) == (ResultCode.POLICY_DENIED, "agent.policy.policy-error")
    assert installed_on_ledger(world) == (patch_id,)


async def test_withdrawn_patch_of_a_revoked_author_can_be_undone(world: World) -> None:
    before = world.digest()
    patch_id = await install(world, world.release())
    world.chain.submit(bodies.PatchWithdraw(bytes.fromhex(patch_id), "breaks the build"), "alice@acme")
    world.chain.submit(bodies.IdentitySuspend("alice@acme", "stolen laptop"), "ada@acme")
    outcome = await undo(world, patch_id)
    assert outcome.is_success, outcome.message
    assert (world.digest(), installed_on_ledger(world)) == (before, ())


async def test_drifted_target_is_not_rolled_back(world: World) -> None:
    patch_id = await install(world, world.release())
    (world.root / "README").write_bytes(b"somebody was here\n")
    assert (await undo(world, patch_id)).reason == "agent.policy.no-drift"
    await world.agent.adopt_target(TARGET)
    # Accepted: what the patch touched goes back, what somebody wrote stays.
    outcome = await undo(world, patch_id)
    assert outcome.is_success
    assert (world.root / "README").read_bytes() == b"somebody was here\n"
    assert (world.root / "src/frame.c").read_bytes() == patches.FRAME_BEFORE


async def test_file_that_is_not_what_the_patch_made_refuses(world: World) -> None:
    patch_id = await install(world, world.release())
    (world.root / "src/frame.c").write_bytes(b"else\n")
    await world.agent.adopt_target(TARGET)
    outcome = await undo(world, patch_id)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.pre_image")
    assert "src/frame.c after the patch is not what its author signed" in outcome.message
    assert outcome.hint == "put back what the patch had made there"
    assert (world.root / "src/frame.c").read_bytes() == b"else\n"


async def test_wrong_result_is_found_before_the_switch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: whatever undoing gives, it must be the tree that the ledger says was there."""
    patch_id = await install(world, world.release())
    after = world.digest()
    monkeypatch.setattr("agent.pipeline.tree_before", lambda view, installed, tree: Digest(bytes(32)))
    outcome = await undo(world, patch_id)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.staged")
    assert (world.digest(), world.leftovers()) == (after, [])
    assert world.outcomes()[-1].result == "ERROR_APPLY_FAILED"


async def test_lost_or_exchanged_file_comes_from_a_peer_or_refuses(world: World) -> None:
    first, second = world.release(), world.release(patches.make_patch(README, README_AFTER, release_counter=2))
    one, two = await install(world, first), await install(world, second)
    kept = world.agent._registry.get(TARGET).store
    replace_file(kept.patch_path(two), first)
    held, world.ledger.patches = world.ledger.patches, {}
    with pytest.raises(UnavailableError) as refused:
        await undo(world, two)
    assert refused.value.code == "agent.ledger.patch_not_found"
    assert installed_on_ledger(world) == (one, two)
    world.ledger.patches = held
    # As long as nobody can read what the later one touches, it is taken to stand on everything.
    assert (await undo(world, one)).reason == "agent.rollback.dependants"
    assert (await undo(world, two)).is_success
    replace_file(kept.patch_path(one), None)
    assert (await undo(world, one)).is_success


async def test_stale_replica_and_cut_off_host_refuse(world: World) -> None:
    patch_id = await install(world, world.release())
    world.ledger.age_ms = 60_001
    assert (await undo(world, patch_id)).code is ResultCode.STALE_REPLICA
    world.ledger.age_ms = 0
    world.ledger.is_offline = True
    outcome = await undo(world, patch_id)
    assert outcome.code is ResultCode.LEDGER_UNAVAILABLE
    world.ledger.is_offline = False
    await world.agent._delivery.deliver(5.0)
    told = world.outcomes()[-1]
    assert (told.result, json.loads(told.detail)["action"]) == ("ERROR_LEDGER_UNAVAILABLE", ACTION_ROLLBACK)
    assert installed_on_ledger(world) == (patch_id,)


@pytest.mark.parametrize(("call", "part", "done"), [("exchange", "app", False), ("open", "state.json", True)])
async def test_interrupted_rollback_is_recorded_as_what_it_came_to(
    tmp_path: Path, call: str, part: str, done: bool
) -> None:
    world = World(tmp_path)
    await world.add_target()
    before = world.digest()
    patch_id = await install(world, world.release())
    after = world.digest()

    class Stop(BaseException):
        """Ends the rollback like a crash."""

    def step(name: str, path: str | bytes) -> None:
        if name == call and part in os.fsdecode(path):
            raise Stop

    world.files = Files(step)
    world.reopen()
    with pytest.raises(Stop):
        await undo(world, patch_id)
    world.files = None
    world.reopen()
    (recovery,) = await world.agent.recover()
    assert (recovery.applied, "rollback was interrupted" in recovery.message) == (done, True)
    assert world.digest() == (before if done else after)
    await world.agent._delivery.deliver(5.0)
    told = world.outcomes()[-1]
    assert told.result == ("ROLLED_BACK" if done else "ERROR_APPLY_FAILED")
    assert json.loads(told.detail)["action"] == ACTION_ROLLBACK
    assert installed_on_ledger(world) == (() if done else (patch_id,))
    assert not (await world.agent.show_target(TARGET)).is_drifted


async def test_rolled_back_host_counts_as_failed_for_the_fleet(world: World) -> None:
    from agent.rollout import find_rollout

    patch_id = await install(world, world.release())
    assert find_rollout(world.chain.view, bytes.fromhex(patch_id)).succeeded == (HOST,)
    await undo(world, patch_id)
    rollout = find_rollout(world.chain.view, bytes.fromhex(patch_id))
    assert (rollout.succeeded, rollout.failed) == ((), (HOST,))


def test_dependants_are_found_through_one_another() -> None:
    def installed(name: str) -> Installed:
        return Installed(name, 1, (), 1, "00" * 32, 0)

    one = patches.make_patch()
    two = patches.make_patch({**patches.AFTER, **README}, {**SECOND, **README_AFTER}, release_counter=2)
    three = patches.make_patch(README_AFTER, README, release_counter=3)
    other = patches.make_patch({"x": None}, {"x": FileState(0o100644, b"x\n")}, release_counter=4)
    kept = {id_of(data): data for data in (one, two, other, three)}
    state = TargetState(Digest(bytes(32)), tuple(installed(name) for name in kept))
    assert find_dependants(state, id_of(one), kept.get) == (id_of(three), id_of(two))
    assert find_dependants(state, id_of(two), kept.get) == (id_of(three),)
    assert find_dependants(state, id_of(other), kept.get) == ()
    assert find_dependants(state, id_of(three), kept.get) == ()
    with pytest.raises(MetadataRefusedError):
        find_dependants(state, "00" * 32, kept.get)
