"""A host without the ledger: it waits, unless its operator and the policy let it go on; and nothing that it did is lost or told twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.gallery import get_template, with_templates
from agent.limits import DECISION_AGE_MS_MAX
from agent.policy_text import default_policy_set
from agent.results import Outcome, ResultCode, StepName
from ledger import bodies
from ledger.transaction import TxId, decode_transaction_untrusted
from provenance.diff_model import FileState
from provenance.layout import split_patch_file_untrusted
from tests.testkit import patches
from tests.testkit.agent import HOST, OPERATOR, TARGET, World
from tests.testkit.cli import run_json
from tests.testkit.ledger import BLOCK_MS, Chain, key_of
from tests.testkit.node import write_archive

PATCHES = 4
Set = tuple[str, tuple[tuple[str, str], ...]]


def offline_hosts() -> Set:
    return with_templates([get_template("offline-hosts")])


def allowing(count: int) -> Set:
    """Return the template's set with another number in."""
    schema, texts = offline_hosts()
    return schema, tuple((name, text.replace("> 5", f"> {count}")) for name, text in texts)


def tree_of(number: int) -> dict[str, FileState | None]:
    state = patches.AFTER["src/frame.c"]
    assert isinstance(state, FileState)
    return {"src/frame.c": replace(state, content=b"int version = %d;\n" % number)}


async def cut_off(directory: Path, policies: Set, bound: int) -> tuple[World, list[bytes]]:
    """Return a host that has just lost its network, and patches for it that follow one another."""
    world = World(directory, policies=policies)
    world.reopen(unacknowledged_intents_max=bound)
    await world.add_target()
    files = [world.release()]
    before: Any = patches.AFTER
    for number in range(2, PATCHES + 1):
        after = tree_of(number)
        files.append(world.release(patches.make_patch(before, after, release_counter=number)))
        before = after
    await world.agent._delivery.deliver(5.0)
    now(world)
    world.ledger.is_offline = True
    return world, files


def now(world: World) -> None:
    world.now_ms = world.chain.view.header.time_ms + world.ledger.age_ms


async def apply(world: World, data: bytes) -> Outcome:
    now(world)
    return await world.agent.apply(data, TARGET, OPERATOR)


def kinds(world: World) -> list[str]:
    """Return what the host has told since the patches were published, in the ledger's order."""
    found = [decode_transaction_untrusted(raw) for raw in world.ledger.submitted]
    mine = [each.body for each in found if each.signer_key_id == key_of(HOST).public_key.key_id]
    return [
        body.result if isinstance(body, bodies.DeploymentOutcome) else body.KIND
        for body in mine
        if not isinstance(body, bodies.HostReport)
    ]


def intents_of(world: World) -> list[TxId]:
    found = [decode_transaction_untrusted(raw) for raw in world.ledger.submitted]
    return [each.tx_id for each in found if isinstance(each.body, bodies.DeploymentIntent)]


async def rolled_back(world: World, patch_id: str) -> str:
    """Return what a rollback would say of the patch and the target's history."""
    now(world)
    (outcome,) = await world.agent.rollback(patch_id, TARGET, OPERATOR, explain=True)
    return next(each.message for each in outcome.steps if each.step is StepName.VALIDATE_METADATA)


@pytest.mark.parametrize(
    ("policies", "bound"),
    [(offline_hosts(), 0), (default_policy_set(), 5), (allowing(0), 5)],
    ids=["not on this host", "not by the default set", "not by a policy of nought"],
)
async def test_a_host_waits_unless_operator_and_policy_let_it_go_on(tmp_path: Path, policies: Set, bound: int) -> None:
    world, files = await cut_off(tmp_path, policies, bound)
    tree = world.digest()
    outcome = await apply(world, files[0])
    assert (outcome.code, outcome.reason) == (ResultCode.LEDGER_UNAVAILABLE, "agent.ledger.unavailable")
    assert (world.digest(), outcome.unacknowledged) == (tree, 0)
    assert world.agent.status().unacknowledged_intents == 0
    # What was announced and did not happen counts for nothing: with the network back, the same patch goes in.
    world.ledger.is_offline = False
    assert (await apply(world, files[0])).code is ResultCode.SUCCESS
    assert kinds(world) == ["deployment.intent", "ERROR_LEDGER_UNAVAILABLE", "deployment.intent", "SUCCESS"]


async def test_records_of_a_host_that_went_on_come_later_and_in_order(tmp_path: Path) -> None:
    world, files = await cut_off(tmp_path, offline_hosts(), 3)
    for count, data in enumerate(files[:3], 1):
        outcome = await apply(world, data)
        assert (outcome.code, outcome.unacknowledged) == (ResultCode.SUCCESS, count), outcome.message
        step = next(each for each in outcome.steps if each.step is StepName.INTENT)
        assert (step.passed, step.code) == (True, "agent.ledger.unavailable")
        # Each is durable at once: a restart loses nothing and begins nothing anew.
        world.reopen(unacknowledged_intents_max=3)
        assert await world.agent.recover() == []
        status = world.agent.status()
        assert (status.unacknowledged_intents, status.records_waiting, status.intents_open) == (count, 2 * count, 0)
    tree = world.digest()
    outcome = await apply(world, files[3])
    assert (outcome.code, world.digest()) == (ResultCode.LEDGER_UNAVAILABLE, tree)
    assert "; 3 of at most 3 changes already wait" in outcome.message
    assert outcome.steps[-2].message == outcome.message
    assert kinds(world) == []
    installed = (await world.agent.show_target(TARGET)).state.installed
    assert [each.height for each in installed] == [0, 0, 0]
    assert "installed, not yet on the ledger" in await rolled_back(world, installed[-1].patch_id)

    world.ledger.is_offline = False
    await world.agent._delivery.deliver(5.0)
    status = world.agent.status()
    assert (status.unacknowledged_intents, status.records_waiting, status.records_refused) == (0, 0, 0)
    done = ["deployment.intent", "SUCCESS"]
    assert kinds(world) == [*done, *done, *done, "deployment.intent", "ERROR_LEDGER_UNAVAILABLE"]
    details = [json.loads(each.detail).get("unacknowledged") for each in world.outcomes()]
    assert details == [1, 2, 3, None]
    assert [each.counter for each in world.intents()] == [1, 3, 5, 7]
    target = world.chain.view.target(HOST, TARGET)
    assert target is not None
    assert target.tree_digest == world.digest()
    # As soon as the ledger has the intents, their heights are told.
    told = (await world.agent.show_target(TARGET)).state.installed
    heights = [location.height for location in map(world.chain.view.location, intents_of(world)) if location][:3]
    assert [each.height for each in told] == heights
    assert f"installed since height {heights[-1]}," in await rolled_back(world, told[-1].patch_id)
    assert [each.hex() for each, _ in target.installed] == [
        split_patch_file_untrusted(each).patch_id for each in files[:3]
    ]
    assert (await apply(world, files[3])).code is ResultCode.SUCCESS

    archive = write_archive(tmp_path / "chain.archive", world.chain)
    document = run_json("audit", "replay-decision", "--all", "--archive", archive)
    assert (document["decisions"], document["same"]) == (5, 5)


async def test_policy_bounds_them_where_the_operator_does_not(tmp_path: Path) -> None:
    world, files = await cut_off(tmp_path, allowing(1), 100)
    assert (await apply(world, files[0])).unacknowledged == 1
    outcome = await apply(world, files[1])
    assert (outcome.code, outcome.unacknowledged) == (ResultCode.LEDGER_UNAVAILABLE, 0)


async def test_a_rollback_may_go_on_alone_too(tmp_path: Path) -> None:
    world, files = await cut_off(tmp_path, offline_hosts(), 2)
    before = world.digest()
    assert (await apply(world, files[0])).unacknowledged == 1
    now(world)
    (outcome,) = await world.agent.rollback(split_patch_file_untrusted(files[0]).patch_id, TARGET, OPERATOR)
    assert (outcome.unacknowledged, world.digest()) == (2, before)
    world.ledger.is_offline = False
    await world.agent._delivery.deliver(5.0)
    assert kinds(world) == ["deployment.intent", "SUCCESS", "deployment.intent", "ROLLED_BACK"]
    archive = write_archive(tmp_path / "chain.archive", world.chain)
    document = run_json("audit", "replay-decision", "--all", "--archive", archive)
    assert (document["decisions"], document["same"]) == (2, 2)


MONTH_MS = 30 * 86_400_000


def pass_time(world: World, milliseconds: int) -> None:
    """Let the network make its next block so much later."""
    world.chain.apply(world.chain.build(time_ms=world.chain.view.header.time_ms + milliseconds).block)


@pytest.mark.parametrize("is_rollback", [False, True])
async def test_a_recovery_tells_that_the_change_went_on_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_rollback: bool
) -> None:
    """Killed right after the switch; a month later the records come to the ledger, and nobody calls the decision dated back."""
    world, files = await cut_off(tmp_path, offline_hosts(), 2)
    if is_rollback:
        assert (await apply(world, files[0])).unacknowledged == 1

    async def die(*_: object, **__: object) -> Outcome:
        raise InterruptedError

    monkeypatch.setattr(world.agent._lifecycle, "_record", die)
    now(world)
    patch_id = split_patch_file_untrusted(files[0]).patch_id
    with pytest.raises(InterruptedError):
        await (world.agent.rollback(patch_id, TARGET, OPERATOR) if is_rollback else apply(world, files[0]))
    world.reopen(unacknowledged_intents_max=2)
    (recovery,) = await world.agent.recover()
    assert recovery.applied
    pass_time(world, MONTH_MS)
    world.ledger.is_offline = False
    await world.agent._delivery.deliver(5.0)
    outcome = world.outcomes()[-1]
    assert outcome.result == ("ROLLED_BACK" if is_rollback else "SUCCESS")
    detail = json.loads(outcome.detail)
    assert (detail["step"], detail["unacknowledged"]) == ("recovery", 2 if is_rollback else 1)
    archive = write_archive(tmp_path / "chain.archive", world.chain)
    document = run_json("audit", "replay-decision", "--all", "--archive", archive)
    assert document["decisions"] == document["same"] == (2 if is_rollback else 1)


async def test_what_came_to_nothing_may_come_to_the_ledger_late(tmp_path: Path) -> None:
    world, files = await cut_off(tmp_path, default_policy_set(), 0)
    assert (await apply(world, files[0])).code is ResultCode.LEDGER_UNAVAILABLE
    pass_time(world, MONTH_MS)
    world.ledger.is_offline = False
    await world.agent._delivery.deliver(5.0)
    assert kinds(world) == ["deployment.intent", "ERROR_LEDGER_UNAVAILABLE"]
    archive = write_archive(tmp_path / "chain.archive", world.chain)
    document = run_json("audit", "replay-decision", "--all", "--archive", archive)
    assert (document["decisions"], document["same"]) == (1, 1)


@pytest.mark.parametrize(("late_ms", "code"), [(0, ResultCode.SUCCESS), (1, ResultCode.STALE_REPLICA)])
async def test_a_decision_is_acted_on_for_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late_ms: int, code: ResultCode
) -> None:
    """As when the host sleeps between its decision and its intent: what was revoked meanwhile it has not seen."""
    world, files = await cut_off(tmp_path, default_policy_set(), 0)
    world.ledger.is_offline = False
    submit, tree = world.ledger.submit, world.digest()

    async def sleep_before(raw: bytes) -> None:
        monkeypatch.setattr(world.ledger, "submit", submit)
        # The intent's own block is the next one.
        pass_time(world, DECISION_AGE_MS_MAX + world.ledger.age_ms + late_ms - BLOCK_MS)
        await submit(raw)

    monkeypatch.setattr(world.ledger, "submit", sleep_before)
    outcome = await apply(world, files[0])
    assert outcome.code is code, outcome.message
    assert outcome.reason == ("agent.replica.decision_late" if late_ms else "")
    assert (world.digest() == tree) == bool(late_ms)
    assert kinds(world) == ["deployment.intent", code.value]
    if late_ms:
        assert (await apply(world, files[0])).code is ResultCode.SUCCESS
    archive = write_archive(tmp_path / "chain.archive", world.chain)
    document = run_json("audit", "replay-decision", "--all", "--archive", archive)
    assert document["decisions"] == document["same"]


async def test_a_change_that_the_ledger_refuses_afterwards_is_told_as_drift(tmp_path: Path) -> None:
    """Somebody withdrew the patch while the host was away: intent and outcome are refused, and no record explains the tree."""
    world, files = await cut_off(tmp_path, offline_hosts(), 1)
    outcome = await apply(world, files[0])
    assert outcome.unacknowledged == 1
    patch_id = split_patch_file_untrusted(files[0]).patch_id
    world.chain.submit(bodies.PatchWithdraw(bytes.fromhex(patch_id), "it was wrong"), "alice@acme")
    world.ledger.is_offline = False
    await world.agent._delivery.deliver(5.0)
    assert kinds(world) == []
    status = world.agent.status()
    assert (status.records_waiting, status.records_refused) == (0, 2)
    report = world.reports()[-1]
    assert report.report_kind == "drift"
    body = json.loads(report.body)
    assert body["unrecorded"] == {"patch_id": patch_id, "result": "SUCCESS", "code": "ledger.host.intent_required"}
    assert body["tree_digest"] == world.digest().hex()


@pytest.mark.parametrize("before", [1, 2])
async def test_what_a_host_has_told_to_be_without_a_record_makes_no_liar_of_it(tmp_path: Path, before: int) -> None:
    """Its later decisions know that patch, its counter and its tree: those that waited beside it, and those that came after."""
    world, files = await cut_off(tmp_path, offline_hosts(), 2)
    for data in files[:before]:
        assert (await apply(world, data)).unacknowledged
    first = bytes.fromhex(split_patch_file_untrusted(files[0]).patch_id)
    world.chain.submit(bodies.PatchWithdraw(first, "it was wrong"), "alice@acme")
    world.ledger.is_offline = False
    await world.agent._delivery.deliver(5.0)
    assert (await apply(world, files[before])).code is ResultCode.SUCCESS
    assert "unrecorded" in json.loads(world.reports()[-1].body)
    archive = write_archive(tmp_path / "chain.archive", world.chain)
    document = run_json("audit", "replay-decision", "--all", "--archive", archive)
    assert document["decisions"] == document["same"] == before

    # The same story without the report, and with one about another patch, is none.
    body = world.reports()[-1].body
    for other in (b"{}", body.replace(first.hex().encode(), b"ab" * 32), body.replace(b"unrecorded", b"unregarded")):
        chain = Chain(genesis=world.chain.genesis)
        for block in world.chain.blocks[1:]:
            told = [decode_transaction_untrusted(raw) for raw in block.transactions]
            report = bodies.HostReport("drift", TARGET, other)
            changed = [chain.sign(report, HOST) if getattr(each.body, "body", None) == body else each for each in told]
            chain.apply(chain.build(*changed, time_ms=block.header.time_ms).block)
        archive = write_archive(tmp_path / "other.archive", chain)
        document = run_json("audit", "replay-decision", "--all", "--archive", archive, code=1)
        assert ("agent.replay.facts", "facts.system.installed") in {
            (each["code"], each["member"]) for each in document["findings"]
        }


async def test_going_on_alone_against_policy_is_found_by_a_replay(tmp_path: Path) -> None:
    world, files = await cut_off(tmp_path, default_policy_set(), 1)
    # An agent that was tampered with: it asks another policy than the ledger's whether it may go on.
    world.agent._lifecycle._go_on_alone = lambda outcome, judged: replace(  # type: ignore[method-assign]
        outcome, code=ResultCode.SUCCESS, reason="", unacknowledged=1
    )
    assert (await apply(world, files[0])).code is ResultCode.SUCCESS
    world.ledger.is_offline = False
    await world.agent._delivery.deliver(5.0)
    archive = write_archive(tmp_path / "chain.archive", world.chain)
    document = run_json("audit", "replay-decision", "--all", "--archive", archive, code=1)
    assert [(each["code"], each["member"]) for each in document["findings"]] == [
        ("agent.replay.verdict", "unacknowledged")
    ]


async def test_a_record_that_was_carried_to_the_ledger_by_hand_is_seen_there(tmp_path: Path) -> None:
    world, files = await cut_off(tmp_path, offline_hosts(), 1)
    assert (await apply(world, files[0])).unacknowledged == 1
    waiting = world.agent.waiting(0, 10)
    assert [each.body.KIND for each in waiting] == ["deployment.intent", "deployment.outcome"]
    assert [each.sequence for each in world.agent.waiting(waiting[0].sequence, 10)] == [waiting[1].sequence]
    assert not world.agent._delivery.is_first_on_ledger()
    for each in waiting:
        world.ledger.accept(each.transaction.raw)
    assert world.agent._delivery.is_first_on_ledger()
    # Still cut off: the replica alone says that the ledger has them, and nothing is signed or told again.
    await world.agent._delivery.deliver(5.0)
    assert world.agent.waiting(0, 10) == ()
    assert kinds(world) == ["deployment.intent", "SUCCESS"]
    assert not world.agent._delivery.is_first_on_ledger()
