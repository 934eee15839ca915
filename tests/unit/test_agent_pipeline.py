"""The pipeline: each result code for the right reason, every ending recorded, and an untouched target unless it is SUCCESS."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cedar_request import cedar_requests
from agent.decision import replay_decision_untrusted
from agent.errors import PolicyRefusedError, StateCorruptError
from agent.facts import Requester, facts_from_json_untrusted
from agent.policy import PolicyEngine
from agent.policy_text import check_policy_set, default_policy_set
from agent.results import Outcome, ResultCode, StepName
from ledger import actions, bodies
from ledger.affected import cut_keys, find_affected, index_of_view
from ledger.checkpoint import SplitView
from provenance import patchfile
from provenance.component_listing import component_paths
from provenance.diff_model import FileState
from provenance.layout import split_patch_file_untrusted
from provenance.limits import COMPONENTS_SUMMARISED_MIN
from provenance.verify import verify_patch_untrusted
from tests.testkit import patches
from tests.testkit.agent import HOST, NOW_MS, OPERATOR, POLICIES, TARGET, TREE, FakeLedger, World, read_tree, write_tree
from tests.testkit.forks import Branch
from tests.testkit.ledger import attest_body, key_of
from wire import canonical_json
from wire.errors import RejectedError, UnavailableError
from wire.hashing import sha256
from wire.limits import PATCH_FILE_BYTES_MAX


@pytest.fixture
async def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    await world.add_target()
    return world


async def refuse(world: World, data: bytes, code: ResultCode, reason: str, requester: Requester = OPERATOR) -> Outcome:
    """Apply, and show that it is refused for this reason, recorded, explained alike before, and that nothing was changed."""
    before, tree = world.digest(), read_tree(world.root)
    recorded = len(world.outcomes())
    asked = await world.agent.explain(data, TARGET, requester)
    assert len(world.outcomes()) == recorded
    outcome = await world.agent.apply(data, TARGET, requester)
    assert (outcome.code, outcome.reason) == (code, reason), outcome.message
    assert (asked.code, asked.reason) == (code, reason), asked.message
    assert world.digest() == before
    assert read_tree(world.root) == tree
    assert outcome.tree_before == outcome.tree_after == before
    assert world.leftovers() == []
    assert len(world.outcomes()) == recorded + 1
    told = world.outcomes()[-1]
    assert (told.result, told.tree_before, told.tree_after, told.intent_tx_id) == (code.value, before, before, None)
    detail = json.loads(told.detail)
    assert detail["reason"] == reason
    assert detail["requester"]["name"] == requester.name
    history = await world.agent.history(TARGET)
    assert (history[0]["code"], history[0]["reason"]) == (code.value, reason)
    assert not outcome.steps[-2].passed
    assert outcome.steps[-1].step is StepName.RECORD
    return outcome


# Success


async def test_approved_patch_is_applied_and_recorded(world: World) -> None:
    data = world.release()
    before = world.digest()
    asked = await world.agent.explain(data, TARGET, OPERATOR)
    assert asked.code is ResultCode.SUCCESS
    assert world.digest() == before
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert outcome.code is ResultCode.SUCCESS, outcome.message
    assert [step.step for step in outcome.steps] == list(StepName)
    assert all(step.passed for step in outcome.steps)
    expected = {name: state for name, state in {**TREE, **patches.AFTER}.items() if state is not None}
    assert read_tree(world.root) == expected
    assert outcome.tree_before == before
    assert outcome.tree_after == world.digest() != before
    assert world.leftovers() == []

    (intent,), (told,) = world.intents(), world.outcomes()
    assert (intent.counter, told.counter) == (1, 2)
    assert told.previous == told.intent_tx_id == outcome.intent_tx
    assert (told.result, told.tree_before, told.tree_after) == ("SUCCESS", before, outcome.tree_after)
    view = world.chain.view
    location = view.location(outcome.outcome_tx or b"")
    assert location is not None
    assert location.height == outcome.recorded_height
    record = view.target("web1@acme", TARGET)
    assert record is not None
    assert record.tree_digest == outcome.tree_after
    assert [patch.hex() for patch, _ in record.installed] == [outcome.patch_id]

    status = await world.agent.show_target(TARGET)
    assert not status.is_drifted
    assert [each.patch_id for each in status.state.installed] == [outcome.patch_id]
    kept = world.directory / "home" / "agent" / "targets" / TARGET / "patches" / outcome.patch_id
    assert kept.read_bytes() == data


async def test_recorded_decision_gives_the_same_verdict_again(world: World) -> None:
    outcome = await world.agent.apply(world.release(), TARGET, OPERATOR)
    (intent,) = world.intents()
    policy = world.chain.view.policy()
    decision, verdict = replay_decision_untrusted(intent.decision, POLICIES.get(policy))
    assert decision == outcome.decision
    assert decision.policy_hash == policy.policy_hash
    assert (verdict.allowed, verdict.allowed_by) == (True, decision.allowed_by)
    assert decision.facts.approvals[0].identity == "bob@beta"


async def test_every_kind_of_change_is_applied_exactly(world: World) -> None:
    data = world.release(
        patches.make_patch(patches.EVERY_KIND_BEFORE, patches.EVERY_KIND_AFTER, patches.EVERY_KIND_RENAMES)
    )
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert outcome.code is ResultCode.SUCCESS, outcome.message
    after = {**TREE, **patches.EVERY_KIND_AFTER}
    assert read_tree(world.root) == {name: state for name, state in after.items() if state is not None}
    assert list((world.root / "old").iterdir()) == [], "a directory goes only where author and operator allow it"


def wide_patch(count: int) -> tuple[patches.Tree, bytes]:
    """Return the files that a patch adds, and the patch, whose statement names them by digest."""
    added = {f"src/new/{i}.c": FileState(0o100644, b"%d\n" % i) for i in range(count)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patchfile, "COMPONENTS_MAX", count - 1)
        return added, patches.make_patch({}, added)


async def test_wide_patch_is_decided_on_its_paths_and_recorded_by_their_digest(world: World) -> None:
    added, data = wide_patch(COMPONENTS_SUMMARISED_MIN)
    outcome = await world.agent.apply(world.release(data), TARGET, OPERATOR)
    assert outcome.code is ResultCode.SUCCESS, outcome.message
    assert read_tree(world.root) == {**{name: state for name, state in TREE.items() if state is not None}, **added}
    (intent,) = world.intents()
    assert len(intent.decision) < 8192
    engine = POLICIES.get(world.chain.view.policy())
    decision, verdict = replay_decision_untrusted(intent.decision, engine)
    assert decision.facts.lacks_paths
    assert engine.can_judge(decision.facts), "no rule of the default set looks at paths"
    assert verdict.allowed
    patch = verify_patch_untrusted(data)
    paths = component_paths(patch.metadata.affected_components)
    whole = decision.facts.with_paths(paths)
    assert outcome.decision is not None
    assert whole == outcome.decision.facts
    assert not whole.lacks_paths
    assert whole.to_json() == decision.facts.to_json(), "what is recorded stays the same"
    verdict = engine.evaluate(whole)
    assert (verdict.allowed, verdict.allowed_by) == (True, decision.allowed_by)
    for other in ({}, {name: each[1:] for name, each in paths.items()}):
        with pytest.raises(PolicyRefusedError) as caught:
            decision.facts.with_paths(other)
        assert caught.value.code == "agent.policy.facts"


@pytest.mark.parametrize("wrong", [{"count": 0}, {"count": "1"}, {"sha256": 1}, {"more": 1}])
async def test_recorded_digest_of_paths_has_its_form(world: World, wrong: dict[str, object]) -> None:
    _, data = wide_patch(COMPONENTS_SUMMARISED_MIN)
    asked = await world.agent.explain(world.release(data), TARGET, OPERATOR)
    assert asked.decision is not None
    document = json.loads(canonical_json.encode(asked.decision.facts.to_json()))
    assert facts_from_json_untrusted(document).lacks_paths
    document["components"][0]["paths"].update(wrong)
    with pytest.raises(PolicyRefusedError):
        facts_from_json_untrusted(document)


@pytest.mark.parametrize("attribute", ["resource.paths", 'resource["paths"]', 'resource["p\\u{61}ths"]'])
async def test_rule_about_paths_is_not_judged_without_them(world: World, attribute: str) -> None:
    rule = f'@id("r") forbid (principal, action, resource) when {{ {attribute}.contains("src/new/7.c") }};'
    schema, rules = default_policy_set()
    engine = PolicyEngine(check_policy_set(schema, [*rules, ("r", rule)]))
    _, data = wide_patch(COMPONENTS_SUMMARISED_MIN)
    asked = await world.agent.explain(world.release(data), TARGET, OPERATOR)
    assert asked.decision is not None
    whole = asked.decision.facts
    recorded = facts_from_json_untrusted(json.loads(canonical_json.encode(whole.to_json())))
    assert [engine.can_judge(facts) for facts in (whole, recorded)] == [True, False]
    assert [engine.evaluate(facts).forbidden_by[0][0] for facts in (whole, recorded)] == ["r", "policy-error"]


async def test_rule_about_a_path_sees_every_path_of_a_wide_patch(world: World) -> None:
    _, data = wide_patch(COMPONENTS_SUMMARISED_MIN)
    asked = await world.agent.explain(world.release(data), TARGET, OPERATOR)
    assert asked.decision is not None
    requests = cedar_requests(asked.decision.facts)
    (entity,) = [each for each in requests[0].entities if each["uid"]["type"] == "Component"]
    assert len(entity["attrs"]["paths"]) == COMPONENTS_SUMMARISED_MIN


async def test_patches_follow_one_another(world: World) -> None:
    first = world.release()
    first_id = split_patch_file_untrusted(first).patch_id
    second_tree = {"src/frame.c": replace(patches.AFTER["src/frame.c"], content=b"int x;\n")}  # type: ignore[type-var]
    second = world.release(patches.make_patch(patches.AFTER, second_tree, release_counter=2, prerequisites=(first_id,)))
    await refuse(world, second, ResultCode.INVALID_METADATA, "agent.metadata.prerequisite_missing")
    for data in (first, second):
        outcome = await world.agent.apply(data, TARGET, OPERATOR)
        assert outcome.code is ResultCode.SUCCESS, outcome.message
    assert (world.root / "src/frame.c").read_bytes() == b"int x;\n"
    assert len((await world.agent.show_target(TARGET)).state.installed) == 2
    assert [body.counter for body in world.bodies() if hasattr(body, "counter")] == [1, 2, 3, 4, 5]


# Tampering


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


async def test_tampered_body_diff_or_author_line_is_refused(world: World) -> None:
    data = world.release()
    file = split_patch_file_untrusted(data)
    description = data.index(b"Found by fuzzing")
    await refuse(world, flip(data, description), ResultCode.INVALID_SIGNATURE, "provenance.signature.body")
    changed_line = data.index(b"+    for (int i")
    await refuse(world, flip(data, changed_line + 10), ResultCode.INVALID_SIGNATURE, "provenance.signature.body")
    lines = [patches.trailer_lines(data)[0].replace(b'"payload":"', b'"payload":"A', 1)]
    tampered = patches.with_lines(data, lines)
    outcome = await world.agent.apply(tampered, TARGET, OPERATOR)
    assert outcome.code in (ResultCode.MALFORMED_PATCH, ResultCode.INVALID_SIGNATURE)
    assert file.patch_id == split_patch_file_untrusted(tampered).patch_id
    assert world.intents() == []


async def test_every_byte_of_the_body_counts(world: World) -> None:
    data = world.release()
    body = len(split_patch_file_untrusted(data).body)
    before = world.digest()
    for position in range(0, body, 37):
        outcome = await world.agent.explain(flip(data, position), TARGET, OPERATOR)
        assert outcome.code in (ResultCode.MALFORMED_PATCH, ResultCode.INVALID_SIGNATURE), position
    assert world.digest() == before


async def test_tampered_metadata_is_refused_even_when_resigned(world: World) -> None:
    data = world.release()

    def lie(payload: dict) -> None:  # type: ignore[type-arg]
        payload["predicate"]["patch_diff"]["lines_added"] += 1

    forged = patches.resign(data, lie)
    outcome = await world.agent.apply(forged, TARGET, OPERATOR)
    assert outcome.code is ResultCode.INVALID_METADATA
    metadata, _ = patches.make_metadata()
    elsewhere = replace(metadata.affected_components[0], path="src/other.c")
    lying = patches.resign_with_preamble(data, replace(metadata, affected_components=(elsewhere,)))
    outcome = await world.agent.apply(lying, TARGET, OPERATOR)
    assert outcome.code is ResultCode.INVALID_METADATA
    assert outcome.reason.startswith("provenance.metadata.component")
    assert world.intents() == []


async def test_metadata_other_than_published_is_refused(world: World) -> None:
    data = world.release()

    def other_base(payload: dict) -> None:  # type: ignore[type-arg]
        payload["predicate"]["affected_components"][0]["pre"]["sha256"] = "5a" * 32

    await refuse(world, patches.resign(data, other_base), ResultCode.INVALID_METADATA, "agent.metadata.other_statement")


async def test_tampered_attestation_is_named_and_denied(world: World) -> None:
    data = world.release()
    lines = patches.trailer_lines(data)
    signature = json.loads(lines[1])["signatures"][0]["sig"]
    swapped = signature[:4] + ("A" if signature[4] != "A" else "B") + signature[5:]
    tampered = patches.with_lines(data, [lines[0], lines[1].replace(signature.encode(), swapped.encode()), lines[2]])
    outcome = await refuse(world, tampered, ResultCode.POLICY_DENIED, "agent.policy.attestations-intact")
    assert outcome.decision is not None
    assert any("trailer line 2" in sentence for sentence in outcome.decision.set_aside)


async def test_attestation_of_another_patch_is_denied(world: World) -> None:
    data = world.release()
    other = patches.approve(patches.make_patch(release_counter=9))
    mixed = patches.with_lines(data, [*patches.trailer_lines(data), patches.trailer_lines(other)[1]])
    outcome = await refuse(world, mixed, ResultCode.POLICY_DENIED, "agent.policy.attestations-intact")
    assert outcome.decision is not None
    assert "another patch" in outcome.decision.set_aside[0]


# Signers


async def test_unknown_author_is_refused(world: World) -> None:
    mallory = key_of("mallory@evil")
    metadata, diff = patches.make_metadata()
    from provenance.metadata import CreatorIdentity
    from provenance.patchfile import build_patch_file

    creator = CreatorIdentity.from_key(mallory.public_key, "Mallory", "mallory@evil.example")
    data = build_patch_file(replace(metadata, creator_identity=creator), diff, mallory)
    await refuse(world, data, ResultCode.INVALID_DEVELOPER, "agent.developer.unknown_key")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (bodies.IdentitySuspend("alice@acme", "on leave"), "agent.developer.suspended"),
        (bodies.IdentityRevoke("alice@acme", None, 0, "left"), "agent.developer.revoked"),
        (bodies.IdentityUpdateRoles("alice@acme", ("auditor",)), "agent.developer.wrong_role"),
        (
            bodies.IdentityRevoke("alice@acme", patches.ALICE.public_key.key_id, 1, "stolen"),
            "agent.developer.key_not_valid",
        ),
    ],
    ids=["suspended", "revoked", "wrong-role", "key-revoked"],
)
async def test_author_who_may_not_act_is_refused(world: World, body: bodies.Body, reason: str) -> None:
    data = world.release()
    world.chain.submit(body, "ada@acme")
    await refuse(world, data, ResultCode.INVALID_DEVELOPER, reason)


def decide(world: World, action: actions.Action, *voters: str) -> None:
    """Let two organisations decide about the third."""
    proposal = world.chain.submit(bodies.ProposalCreate(action, ""), voters[0]).tx_id
    for voter in voters:
        world.chain.submit(bodies.ProposalVote(proposal, True), voter)


async def test_author_of_a_suspended_organisation_is_refused(world: World) -> None:
    data = world.release()
    decide(world, actions.SuspendOrganisation("acme", ""), "ben@beta", "gil@gamma")
    outcome = await world.agent.explain(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.INVALID_DEVELOPER, "agent.developer.suspended")
    assert "alice@acme's organisation is suspended" in outcome.message


async def test_attestor_of_a_suspended_organisation_does_not_count(world: World) -> None:
    data = world.release()
    decide(world, actions.SuspendOrganisation("beta", "under investigation"), "ada@acme", "gil@gamma")
    outcome = await refuse(world, data, ResultCode.POLICY_DENIED, "agent.policy.security-review-approval")
    assert outcome.decision is not None
    assert "the attestor bob@beta's organisation is suspended" in outcome.decision.set_aside[0]
    decide(world, actions.ResumeOrganisation("beta"), "ada@acme", "gil@gamma")
    assert (await world.agent.explain(data, TARGET, OPERATOR)).is_success


async def test_key_revoked_after_publication_still_counts(world: World) -> None:
    data = world.release()
    revoke = bodies.IdentityRevoke("alice@acme", patches.ALICE.public_key.key_id, world.chain.height, "lost")
    world.chain.register("other@acme", "developer")
    world.chain.submit(revoke, "ada@acme")
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert outcome.code is ResultCode.SUCCESS, outcome.message


async def test_revoked_identity_counts_up_to_its_last_valid_height(world: World) -> None:
    """A point of compromise takes back what came after it, and `identity affected` lists exactly that."""
    data = world.release()
    patch_id = bytes.fromhex(verify_patch_untrusted(data).patch_id)
    before = await world.agent.explain(data, TARGET, OPERATOR)
    at = next(
        each.recorded_height for each in world.chain.view.attestations(patch_id) if each.identity_id == "bob@beta"
    )
    world.chain.register("other@acme", "developer")
    for identity, administrator in (("bob@beta", "ben@beta"), ("alice@acme", "ada@acme")):
        world.chain.submit(bodies.IdentityRevoke(identity, None, world.chain.height, "left"), administrator)
        assert taken_back(world, identity) == set()
    after = await world.agent.explain(data, TARGET, OPERATOR)
    assert after.is_success, after.message
    assert before.decision is not None
    assert after.decision is not None
    assert after.decision.facts.approvals == before.decision.facts.approvals
    # The point moves to the last block before the approval: now it is taken back.
    world.chain.submit(bodies.IdentityRevoke("bob@beta", None, at - 1, "bribed"), "ben@beta")
    assert taken_back(world, "bob@beta") == {(patch_id, False)}
    outcome = await refuse(world, data, ResultCode.POLICY_DENIED, "agent.policy.security-review-approval")
    assert outcome.decision is not None
    assert (
        f"the attestor is revoked: the key was revoked with last valid height {at - 1}" in outcome.decision.set_aside[0]
    )
    published = world.chain.view.patch(patch_id)
    assert published is not None
    world.chain.submit(bodies.IdentityRevoke("alice@acme", None, published.published_height - 1, "bribed"), "ada@acme")
    assert taken_back(world, "alice@acme") == {(patch_id, True)}
    await refuse(world, data, ResultCode.INVALID_DEVELOPER, "agent.developer.revoked")


def taken_back(world: World, identity: str) -> set[tuple[bytes, bool]]:
    """Return what `identity affected` lists: patches, and whether the author is the one."""
    keys = cut_keys(world.chain.view, world.chain.height, identity, None, None)
    found = find_affected(world.chain.view, index_of_view(world.chain.view, identity, 1), identity, keys)
    return {(each.patch.patch_id, each.is_author) for each in found.patches}


@pytest.mark.parametrize(
    ("body", "administrator", "part"),
    [
        (bodies.IdentitySuspend("bob@beta", "on leave"), "ben@beta", "bob@beta's approval as security-review does not"),
        (bodies.IdentityRevoke("bob@beta", None, 0, "left"), "ben@beta", "the attestor is revoked"),
        (
            bodies.IdentityRevoke("bob@beta", patches.BOB.public_key.key_id, 1, "stolen laptop"),
            "ben@beta",
            "was revoked with last valid height 1",
        ),
    ],
    ids=["suspended", "revoked", "key-revoked"],
)
async def test_attestor_who_may_not_act_does_not_count(
    world: World, body: bodies.Body, administrator: str, part: str
) -> None:
    data = world.release()
    world.chain.submit(body, administrator)
    outcome = await refuse(world, data, ResultCode.POLICY_DENIED, "agent.policy.security-review-approval")
    assert outcome.decision is not None
    assert part in outcome.decision.set_aside[0]
    assert "needs 1 more approval from another organisation than acme" in outcome.decision.missing
    assert "role security-review" in outcome.hint


async def test_missing_approvals_are_named(world: World) -> None:
    data = world.release(attest=False)
    outcome = await refuse(world, data, ResultCode.POLICY_DENIED, "agent.policy.security-review-approval")
    assert outcome.decision is not None
    assert [rule for rule, _ in outcome.decision.forbidden_by] == [
        "security-review-approval",
        "two-independent-approvals",
    ]
    assert sum("not recorded on the ledger" in each for each in outcome.decision.set_aside) == 2


async def test_same_approval_twice_counts_once(world: World) -> None:
    data = patches.approve(patches.make_patch())
    lines = patches.trailer_lines(data)
    doubled = patches.with_lines(data, [*lines, lines[1]])
    world.publish(data)
    outcome = await refuse(world, doubled, ResultCode.POLICY_DENIED, "agent.policy.two-independent-approvals")
    assert outcome.decision is not None
    assert len(outcome.decision.facts.approvals) == 1


async def test_one_person_with_two_roles_counts_once(world: World) -> None:
    world.chain.submit(bodies.IdentityUpdateRoles("bob@beta", ("attestor:qa", "attestor:security-review")), "ben@beta")
    data = patches.approve(patches.approve(patches.make_patch()), patches.BOB, "bob@beta", "qa")
    world.publish(data)
    outcome = await refuse(world, data, ResultCode.POLICY_DENIED, "agent.policy.two-independent-approvals")
    assert outcome.decision is not None
    assert len(outcome.decision.facts.approvals) == 2


async def test_approval_of_the_authors_organisation_does_not_count(world: World) -> None:
    eve = world.chain.register("eve@acme", "attestor:qa")
    data = patches.approve(patches.approve(patches.make_patch()), eve, "eve@acme", "qa")
    world.publish(data)
    outcome = await refuse(world, data, ResultCode.POLICY_DENIED, "agent.policy.two-independent-approvals")
    assert outcome.decision is not None
    assert "the author's organisation acme" in outcome.decision.set_aside[0]


async def test_self_approval_does_not_count(world: World) -> None:
    world.chain.submit(bodies.IdentityUpdateRoles("alice@acme", ("attestor:qa", "developer")), "ada@acme")
    data = patches.approve(patches.make_patch())
    world.publish(data)
    own = patches.sign_raw(
        verify_patch_untrusted(data),
        lambda payload: payload["predicate"].update(
            attestor={"identity": "alice@acme", "did": patches.ALICE.public_key.did}
        ),
        patches.ALICE,
    )
    from wire.envelope import encode_envelope

    data = patches.with_lines(data, [*patches.trailer_lines(data), encode_envelope(own)])
    outcome = await refuse(world, data, ResultCode.POLICY_DENIED, "agent.policy.two-independent-approvals")
    assert outcome.decision is not None
    assert any("author" in each for each in outcome.decision.set_aside)


async def test_rejection_denies_even_when_stripped_from_the_file(world: World) -> None:
    data = world.release()
    world.chain.register("rita@beta", "attestor:compliance")
    rejected = patches.approve(data, key_of("rita@beta"), "rita@beta", "compliance", "reject")
    world.chain.submit(attest_body(rejected), "rita@beta")
    for file in (rejected, data):
        outcome = await refuse(world, file, ResultCode.POLICY_DENIED, "agent.policy.no-rejection")
        assert outcome.decision is not None
        assert outcome.decision.facts.rejections[0].identity == "rita@beta"


async def test_later_verdict_replaces_the_earlier(world: World) -> None:
    data = world.release()
    changed_mind = patches.approve(data, verdict="reject")
    world.chain.submit(attest_body(changed_mind), "bob@beta")
    outcome = await refuse(world, data, ResultCode.POLICY_DENIED, "agent.policy.no-rejection")
    assert outcome.decision is not None
    assert any("a later one" in each for each in outcome.decision.set_aside)


# Ledger


async def test_unpublished_patch_is_refused(world: World) -> None:
    data = world.release(publish=False)
    await refuse(world, data, ResultCode.INVALID_METADATA, "agent.metadata.not_published")


async def test_withdrawn_patch_is_refused(world: World) -> None:
    data = world.release()
    patch_id = bytes.fromhex(split_patch_file_untrusted(data).patch_id)
    world.chain.submit(bodies.PatchWithdraw(patch_id, "it breaks start-up"), "alice@acme")
    outcome = await refuse(world, data, ResultCode.INVALID_METADATA, "agent.metadata.withdrawn")
    assert "it breaks start-up" in outcome.message


async def test_superseded_patch_is_refused(world: World) -> None:
    data = world.release()
    patch_id = split_patch_file_untrusted(data).patch_id
    world.release(patches.make_patch(release_counter=2, supersedes=(patch_id,)))
    await refuse(world, data, ResultCode.INVALID_METADATA, "agent.metadata.superseded")


async def test_expired_patch_is_refused(world: World) -> None:
    data = world.release(patches.make_patch(not_after="2026-11-22T07:00:00Z"))
    await refuse(world, data, ResultCode.INVALID_METADATA, "agent.metadata.expired")


async def test_clock_that_runs_behind_does_not_revive_a_patch(world: World) -> None:
    data = world.release(patches.make_patch(not_after="2026-11-22T07:29:30Z"))
    world.now_ms = NOW_MS - 50_000
    assert (await world.agent.explain(data, TARGET, OPERATOR)).is_success
    world.chain.apply(world.chain.build(time_ms=NOW_MS).block)
    await refuse(world, data, ResultCode.INVALID_METADATA, "agent.metadata.expired")


async def test_patch_is_never_applied_twice(world: World) -> None:
    data = world.release()
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success
    await refuse(world, data, ResultCode.INVALID_METADATA, "agent.metadata.already_applied")


async def test_older_release_cannot_come_back(world: World) -> None:
    old = world.release()
    new = world.release(patches.make_patch(release_counter=2))
    assert (await world.agent.apply(new, TARGET, OPERATOR)).is_success
    write_tree(world.root, TREE)
    await world.agent.adopt_target(TARGET)
    await refuse(world, old, ResultCode.INVALID_METADATA, "agent.metadata.counter_not_increasing")
    await world.agent.remove_target(TARGET)
    await world.add_target()
    await refuse(world, old, ResultCode.INVALID_METADATA, "agent.metadata.counter_not_increasing")


async def test_stale_replica_is_refused(world: World) -> None:
    data = world.release()
    world.ledger.age_ms = 60_001
    await refuse(world, data, ResultCode.STALE_REPLICA, "agent.replica.stale")


@pytest.mark.parametrize("years", [-10, 10])
async def test_clock_ten_years_off_is_refused(world: World, years: int) -> None:
    """Behind, nobody can tell how old the replica is; ahead, it is ten years old."""
    data = world.release()
    world.now_ms += years * 365 * 86_400_000
    world.ledger.age_ms = max(0, world.now_ms - world.ledger.view().header.time_ms)
    code = "agent.replica.stale" if years > 0 else "agent.replica.clock_behind"
    await refuse(world, data, ResultCode.STALE_REPLICA, code)


async def test_replica_that_was_rolled_back_is_refused(world: World) -> None:
    data = world.release()
    earlier = world.ledger.snapshot()
    second = world.release(patches.make_patch(release_counter=2))
    assert (await world.agent.apply(second, TARGET, OPERATOR)).is_success
    before = world.digest()
    world.ledger.frozen = earlier
    for restart in (False, True):
        agent = world.reopen() if restart else world.agent
        outcome = await agent.explain(data, TARGET, OPERATOR)
        assert (outcome.code, outcome.reason) == (ResultCode.STALE_REPLICA, "agent.replica.rolled_back")
        outcome = await agent.apply(data, TARGET, OPERATOR)
        assert (outcome.code, outcome.reason) == (ResultCode.STALE_REPLICA, "agent.replica.rolled_back")
        assert outcome.recorded_height is None, "a replica that lacks our own records is not one to number on"
    assert world.digest() == before
    world.ledger.frozen = None
    await world.agent.recover()
    await world.agent._delivery.deliver(5.0)
    assert [body.result for body in world.outcomes()] == ["SUCCESS"] + ["ERROR_STALE_REPLICA"] * 2


async def test_replica_with_another_history_is_refused(tmp_path: Path, world: World) -> None:
    data = world.release()
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success
    other = World(tmp_path / "other")
    while other.chain.height < world.chain.height + 2:
        other.chain.apply(other.chain.build(time_ms=other.chain.view.header.time_ms + 7).block)
    world.ledger.frozen = other.ledger.snapshot()
    outcome = await world.agent.explain(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.STALE_REPLICA, "agent.replica.forked")


async def test_open_split_view_is_refused_until_somebody_settles_it(world: World) -> None:
    data = world.release()
    world.ledger.splits = frozenset({2, 3})
    for agent in (world.agent, world.reopen()):
        assert agent.status().split_views_open == (2, 3)
        await refuse(world, data, ResultCode.STALE_REPLICA, "agent.replica.split_view")
    kept = world.directory / "home" / "agent" / "split-views.json"
    assert not kept.exists()
    for height, reason, code in (
        (4, "nobody knows of this one", "agent.split_view.unknown"),
        (2, "", "wire.field.length"),
        (2, "x" * 501, "wire.field.length"),
        (2, "two\nlines", "wire.field.characters"),
    ):
        with pytest.raises(RejectedError) as caught:
            await world.agent.settle_split_view(height, reason, "root")
        assert caught.value.code == code
    assert not kept.exists()
    status = await world.agent.settle_split_view(2, "v1 was replaced", "root")
    assert status.to_json() == {
        "height": 2,
        "found_here": True,
        "on_ledger": False,
        "settled": {"reason": "v1 was replaced", "by": "root", "time_ms": NOW_MS},
    }
    outcome = await refuse(world, data, ResultCode.STALE_REPLICA, "agent.replica.split_view")
    assert "settle 3 " in outcome.hint
    await world.agent.settle_split_view(3, "v1 was replaced", "root")
    assert world.reopen().status().split_views_open == ()
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success


async def test_split_view_on_the_ledger_stops_every_host(world: World) -> None:
    data = world.release()
    ours, theirs = Branch.of(world.chain), Branch.of(world.chain)
    ours.add([1])
    theirs.add([1], late_ms=1)
    split = SplitView(ours.checkpoint(), theirs.checkpoint())
    world.chain.submit(bodies.EvidenceSubmit(canonical_json.encode(split.to_json())), HOST)
    await refuse(world, data, ResultCode.STALE_REPLICA, "agent.replica.split_view")
    (status,) = world.agent.split_views()
    assert (status.height, status.is_found_here, status.is_on_ledger) == (split.height, False, True)
    await world.agent.settle_split_view(split.height, "the second one was never shown to anybody", "root")
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success


async def test_split_view_found_after_the_decision_stops_the_change(world: World) -> None:
    data = world.release()
    before = world.digest()

    class FindsOneMeanwhile(FakeLedger):
        async def submit(self, raw: bytes) -> None:
            self.splits = frozenset({2})
            await super().submit(raw)

    world.ledger.__class__ = FindsOneMeanwhile
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.STALE_REPLICA, "agent.replica.split_view")
    assert world.digest() == before
    (intent,), (told,) = world.intents(), world.outcomes()
    assert told.intent_tx_id is not None
    assert (told.result, told.tree_before, told.tree_after) == ("ERROR_STALE_REPLICA", intent.tree_before, before)
    assert world.leftovers() == []


async def test_what_was_settled_is_never_forgotten_nor_guessed(world: World) -> None:
    world.ledger.splits = frozenset({2})
    await world.agent.settle_split_view(2, "v1 was replaced", "root")
    kept = world.directory / "home" / "agent" / "split-views.json"
    whole = kept.read_bytes()
    for damaged in (whole[:-3], whole.replace(b"replaced", b"rewarded"), b"", _state_file({"version": 2})):
        kept.write_bytes(damaged)
        with pytest.raises(StateCorruptError) as caught:
            world.reopen()
        assert caught.value.code == "agent.state.damaged"


def _state_file(document: dict[str, object]) -> bytes:
    body = canonical_json.encode(document)
    return body + b"\n" + sha256(body).hex().encode() + b"\n"


async def test_ledger_out_of_reach_applies_nothing_and_loses_nothing(world: World) -> None:
    data = world.release()
    before = world.digest()
    world.ledger.is_offline = True
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.LEDGER_UNAVAILABLE, "agent.ledger.unavailable")
    assert outcome.intent_tx is not None
    assert outcome.recorded_height is None
    assert world.digest() == before
    assert (world.intents(), world.outcomes()) == ([], [])
    assert world.agent.status().records_waiting == 3
    world.reopen()
    assert await world.agent.recover() == []
    world.ledger.is_offline = False
    await world.agent._delivery.deliver(5.0)
    (intent,), (told,) = world.intents(), world.outcomes()
    assert told.intent_tx_id == outcome.intent_tx
    assert told.result == "ERROR_LEDGER_UNAVAILABLE"
    assert told.tree_after == intent.tree_before == before
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success


async def test_intent_that_the_ledger_refuses_stops_the_patch(world: World) -> None:
    data = world.release()
    patch_id = bytes.fromhex(split_patch_file_untrusted(data).patch_id)
    await world.agent._delivery.deliver(5.0)
    before = world.digest()
    decided_on = world.ledger.snapshot()
    world.chain.submit(bodies.PatchWithdraw(patch_id, "too late"), "alice@acme")
    world.ledger.frozen = decided_on
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.INVALID_METADATA, "ledger.patch.withdrawn")
    world.ledger.frozen = None
    await world.agent._delivery.deliver(5.0)
    assert world.digest() == before
    assert world.intents() == []
    (told,) = world.outcomes()
    assert (told.result, told.intent_tx_id, told.counter) == ("ERROR_INVALID_METADATA", None, 1)


async def test_suspended_host_applies_nothing(world: World) -> None:
    data = world.release()
    before = world.digest()
    world.chain.submit(bodies.IdentitySuspend("web1@acme", "maintenance"), "ada@acme")
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.LEDGER_UNAVAILABLE, "ledger.tx.signer_suspended")
    assert world.digest() == before
    world.chain.submit(bodies.IdentityResume("web1@acme"), "ada@acme")
    await world.agent._delivery.deliver(5.0)
    assert [body.result for body in world.outcomes()] == ["ERROR_LEDGER_UNAVAILABLE"]


async def test_lost_receipt_is_found_on_the_ledger(world: World) -> None:
    data = world.release()
    world.ledger.loses_receipts = True
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert outcome.code is ResultCode.LEDGER_UNAVAILABLE
    world.ledger.loses_receipts = False
    await world.agent._delivery.deliver(5.0)
    assert len(world.intents()) == 1
    assert [body.result for body in world.outcomes()] == ["ERROR_LEDGER_UNAVAILABLE"]


# Policy and target


async def test_requester_without_role_is_denied(world: World) -> None:
    data = world.release()
    viewer = Requester("guest", ("viewer",), "rpc")
    await refuse(world, data, ResultCode.POLICY_DENIED, "agent.policy.requester-is-operator", viewer)


@pytest.mark.parametrize("hidden", ["access \u202e\u2066// checked\u2069", "evil();\rgood();"])
async def test_text_that_hides_from_a_reader_is_denied(world: World, hidden: str) -> None:
    after = patches.FRAME_BEFORE + hidden.encode() + b"\n"
    before = {"src/frame.c": FileState(0o100644, patches.FRAME_BEFORE)}
    data = world.release(patches.make_patch(before, {"src/frame.c": FileState(0o100644, after)}))
    await refuse(world, data, ResultCode.POLICY_DENIED, "agent.policy.no-hidden-text")


async def test_frozen_target_is_denied(world: World) -> None:
    data = world.release()
    await world.agent.freeze_target(TARGET, frozen=True)
    await refuse(world, data, ResultCode.POLICY_DENIED, "agent.policy.not-frozen")
    world.reopen()
    await refuse(world, data, ResultCode.POLICY_DENIED, "agent.policy.not-frozen")
    await world.agent.freeze_target(TARGET, frozen=False)
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success


async def test_closed_maintenance_window_is_denied(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.add_target(windows=["mon-sat 00:00-24:00", "sun 06:00-07:00"])
    data = world.release()
    await refuse(world, data, ResultCode.POLICY_DENIED, "agent.policy.in-maintenance-window")
    world.now_ms = NOW_MS + 24 * 3_600_000
    assert (await world.agent.explain(data, TARGET, OPERATOR)).is_success


async def test_component_that_is_not_carried_is_denied(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.add_target(components=["pkg:deb/debian/bar@1.0"])
    await refuse(world, world.release(), ResultCode.POLICY_DENIED, "agent.policy.component-is-listed")


async def test_drifted_target_is_denied_until_it_is_adopted_or_repaired(world: World) -> None:
    data = world.release()
    (world.root / "README").write_bytes(b"somebody was here\n")
    await refuse(world, data, ResultCode.POLICY_DENIED, "agent.policy.no-drift")
    (world.root / "README").write_bytes(b"read me\n")
    assert (await world.agent.explain(data, TARGET, OPERATOR)).is_success
    (world.root / "new").write_bytes(b"")
    await refuse(world, data, ResultCode.POLICY_DENIED, "agent.policy.no-drift")
    await world.agent.adopt_target(TARGET)
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success


async def test_empty_policy_set_denies(tmp_path: Path) -> None:
    world = World(tmp_path, policies=("", ()))
    await world.add_target()
    outcome = await refuse(world, world.release(), ResultCode.POLICY_DENIED, "agent.policy.policy-error")
    assert outcome.decision is not None


async def test_policy_set_that_cannot_be_used_denies(tmp_path: Path) -> None:
    deep = '@id("deep") permit (principal, action, resource) when { ' + "(" * 390 + "true" + ")" * 390 + "};"
    from agent.policy_text import default_policy_set

    world = World(tmp_path, policies=(default_policy_set()[0], (("deep", deep),)))
    await world.add_target()
    await refuse(world, world.release(), ResultCode.POLICY_DENIED, "agent.policy.policy-error")


# Diff and target


async def test_diff_that_does_not_fit_is_refused(world: World) -> None:
    data = world.release()
    (world.root / "src/frame.c").write_bytes(patches.FRAME_BEFORE + b"/* local change */\n")
    await world.agent.adopt_target(TARGET)
    outcome = await refuse(world, data, ResultCode.APPLY_FAILED, "agent.apply.pre_image")
    assert "src/frame.c" in outcome.message
    (world.root / "src/frame.c").unlink()
    await world.agent.adopt_target(TARGET)
    await refuse(world, data, ResultCode.APPLY_FAILED, "agent.apply.pre_image")


async def test_pre_image_with_another_mode_is_refused(world: World) -> None:
    data = world.release()
    (world.root / "src/frame.c").chmod(0o755)
    await world.agent.adopt_target(TARGET)
    await refuse(world, data, ResultCode.APPLY_FAILED, "agent.apply.pre_image")


def hostile(path: bytes) -> Callable[[bytes], bytes]:
    def change(diff: bytes) -> bytes:
        return diff.replace(b"src/frame.c", path)

    return change


@pytest.mark.parametrize(
    "path", [b"../../../etc/passwd", b"/etc/passwd", b".git/hooks/pre-commit", b".GIT/config", b"a//b", b"./a"]
)
async def test_hostile_paths_are_refused(world: World, path: bytes) -> None:
    data = world.release()
    diff = split_patch_file_untrusted(data).diff
    body = split_patch_file_untrusted(data).body.replace(diff, hostile(path)(diff))
    payload_diff = hostile(path)(diff)
    from wire.hashing import sha256

    forged = patches.resign_body(data, body)

    def same_diff(payload: dict) -> None:  # type: ignore[type-arg]
        payload["subject"][0]["digest"]["sha256"] = sha256(body).hex()
        payload["subject"][1]["digest"]["sha256"] = sha256(payload_diff).hex()
        payload["predicate"]["patch_diff"]["sha256"] = sha256(payload_diff).hex()
        payload["predicate"]["patch_diff"]["size_bytes"] = len(payload_diff)

    assert forged.startswith(body)
    payload = patches.author_payload(data)
    same_diff(payload)
    from wire import canonical_json
    from wire.envelope import encode_envelope, sign_envelope

    forged = body + encode_envelope(sign_envelope(canonical_json.encode(payload), patches.ALICE)) + b"\n"
    outcome = await world.agent.apply(forged, TARGET, OPERATOR)
    assert outcome.code is ResultCode.MALFORMED_PATCH
    assert outcome.reason.startswith("provenance.diff.path")
    assert world.intents() == []


async def test_path_through_a_symbolic_link_is_refused(world: World, tmp_path: Path) -> None:
    data = world.release()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "frame.c").write_bytes(patches.FRAME_BEFORE)
    (world.root / "src/frame.c").unlink()
    (world.root / "src").rmdir()
    (world.root / "src").symlink_to(outside)
    await world.agent.adopt_target(TARGET)
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.link")
    assert (outside / "frame.c").read_bytes() == patches.FRAME_BEFORE


async def test_path_that_is_a_symbolic_link_is_refused(world: World, tmp_path: Path) -> None:
    data = world.release()
    secret = tmp_path / "secret"
    secret.write_bytes(patches.FRAME_BEFORE)
    (world.root / "src/frame.c").unlink()
    (world.root / "src/frame.c").symlink_to(secret)
    await world.agent.adopt_target(TARGET)
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.link")
    assert secret.read_bytes() == patches.FRAME_BEFORE


async def test_garbage_is_refused_and_recorded(world: World) -> None:
    for data in (b"", b"\0" * 1000, b"diff --git a/x b/x\n", b"{" * 10_000):
        outcome = await world.agent.apply(data, TARGET, OPERATOR)
        assert outcome.code is ResultCode.MALFORMED_PATCH
        assert outcome.patch_id == ""
    assert [body.result for body in world.outcomes()] == ["ERROR_MALFORMED_PATCH"] * 4


async def test_oversized_file_is_refused_before_it_is_read(world: World) -> None:
    outcome = await world.agent.explain(bytes(PATCH_FILE_BYTES_MAX + 1), TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.MALFORMED_PATCH, "agent.admit.too_large")


async def test_unknown_target_is_refused(world: World) -> None:
    with pytest.raises(Exception, match="no such target") as caught:
        await world.agent.explain(b"", "nope", OPERATOR)
    assert caught.value.code == "agent.target.unknown"  # type: ignore[attr-defined]


async def test_published_patch_is_fetched_by_its_id(world: World) -> None:
    data = world.release()
    patch_id = split_patch_file_untrusted(data).patch_id
    assert await world.agent.fetch_patch(patch_id) == data
    world.ledger.patches = dict.fromkeys(world.ledger.patches, b"poisoned")
    with pytest.raises(UnavailableError) as caught:
        await world.agent.fetch_patch(patch_id)
    assert caught.value.code == "agent.ledger.patch_not_found"
    with pytest.raises(Exception, match="not published"):
        await world.agent.fetch_patch("00" * 32)


async def test_explaining_costs_little(world: World) -> None:
    data = world.release()
    await world.agent.explain(data, TARGET, OPERATOR)
    spent = []
    for _ in range(9):
        begin = time.process_time()
        outcome = await world.agent.explain(data, TARGET, OPERATOR)
        spent.append(time.process_time() - begin)
    assert outcome.is_success
    assert sorted(spent)[4] < 0.030


async def test_status_and_history_tell_what_happened(world: World) -> None:
    data = world.release()
    await world.agent.apply(b"", TARGET, OPERATOR)
    await world.agent.apply(data, TARGET, OPERATOR)
    status = world.agent.status()
    assert (status.records_waiting, status.intents_open, status.counter) == (0, 0, 3)
    assert status.targets == (TARGET,)
    assert status.high_water is not None
    history = await world.agent.history(TARGET)
    assert [entry["code"] for entry in history] == ["SUCCESS", "ERROR_MALFORMED_PATCH"]
    assert (await world.agent.history(TARGET, 1))[0]["code"] == "SUCCESS"
    json.dumps([status.to_json(), (await world.agent.show_target(TARGET)).to_json(), list(history)])
