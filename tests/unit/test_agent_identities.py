"""Who counts: certificates, rotation, seals, and records whose form is not what the agent wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.decision import decision_from_json_untrusted
from agent.errors import PolicyRefusedError, ReplicaStaleError, StateCorruptError
from agent.files import Files
from agent.highwater import HighWater, check_replica, read_high_water, write_high_water
from agent.pipeline import encode_decision
from agent.results import Outcome, ResultCode
from agent.state_file import write_state
from agent.switch import read_journal
from ledger import bodies
from provenance.metadata import CreatorIdentity
from provenance.patchfile import build_patch_file
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, TARGET, World
from tests.testkit.certificates import make_chain
from tests.testkit.ledger import BLOCK_MS, key_of
from wire import canonical_json
from wire.hashing import sha256


async def make_world(tmp_path: Path, **changes: Any) -> World:
    world = World(tmp_path, **changes)
    await world.add_target()
    return world


async def explain(world: World, data: bytes) -> Outcome:
    return await world.agent.explain(data, TARGET, OPERATOR)


def certified_patch(chain: tuple[bytes, ...]) -> bytes:
    metadata, diff = patches.make_metadata()
    creator = CreatorIdentity.from_certificates(chain, "Alice Example", "alice@acme.example")
    return build_patch_file(replace(metadata, creator_identity=creator), diff, patches.ALICE)


async def test_author_with_a_certificate_of_the_organisation_is_accepted(tmp_path: Path) -> None:
    chain = make_chain(patches.ALICE)
    world = await make_world(tmp_path, ca_certificates=(chain[1],))
    data = world.release(certified_patch(chain))
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert outcome.is_success, outcome.message


async def test_certificate_that_is_not_anchored_is_refused(tmp_path: Path) -> None:
    world = await make_world(tmp_path)
    data = world.release(certified_patch(make_chain(patches.ALICE)))
    outcome = await explain(world, data)
    assert (outcome.code, outcome.reason) == (ResultCode.INVALID_DEVELOPER, "agent.developer.certificate")


async def test_unpublished_patch_is_judged_with_todays_keys(tmp_path: Path) -> None:
    chain = make_chain(patches.ALICE)
    world = await make_world(tmp_path, ca_certificates=(chain[1],))
    data = world.release(certified_patch(chain), publish=False)
    assert (await explain(world, data)).reason == "agent.metadata.not_published"


async def test_key_that_was_rotated_counts_for_what_was_published_before(tmp_path: Path) -> None:
    world = await make_world(tmp_path)
    before = world.release()
    new_key = key_of("alice's new key")
    rotate = bodies.IdentityRotateKey("alice@acme", patches.ALICE.public_key.key_id, new_key.public_key.spki)
    world.chain.submit(rotate, "ada@acme")
    assert (await explain(world, before)).is_success
    world.chain.register("other@acme", "developer")
    after = patches.make_patch(release_counter=2)
    outcome = await explain(world, after)
    assert (outcome.code, outcome.reason) == (ResultCode.INVALID_DEVELOPER, "agent.developer.key_not_valid")
    assert "retired" in outcome.message


async def test_attestors_rotated_key_still_counts(tmp_path: Path) -> None:
    world = await make_world(tmp_path)
    data = world.release()
    new_key = key_of("bob's new key")
    rotate = bodies.IdentityRotateKey("bob@beta", patches.BOB.public_key.key_id, new_key.public_key.spki)
    world.chain.submit(rotate, "ben@beta")
    assert (await explain(world, data)).is_success


@pytest.mark.parametrize(
    ("registered", "sealed"),
    [(("developer", "attestor:release"), True), (("auditor",), True), (None, False)],
    ids=["release-manager", "colleague", "stranger"],
)
async def test_seal_counts_when_its_signer_may_speak(
    tmp_path: Path, registered: tuple[str, ...] | None, sealed: bool
) -> None:
    world = await make_world(tmp_path)
    if registered is not None:
        world.chain.register("dave@acme", *registered)
    data = patches.seal(world.release(publish=False))
    world.publish(data)
    outcome = await explain(world, data)
    assert outcome.is_success, outcome.message
    assert outcome.decision is not None
    assert outcome.decision.facts.patch.sealed is sealed


async def test_broken_seal_refuses_the_file(tmp_path: Path) -> None:
    world = await make_world(tmp_path)
    world.chain.register("dave@acme", "developer")
    data = patches.seal(world.release(publish=False))
    world.publish(data)
    lines = patches.trailer_lines(data)
    stripped = patches.with_lines(data, [lines[0], lines[1], lines[3]])
    outcome = await explain(world, stripped)
    assert (outcome.code, outcome.reason) == (ResultCode.INVALID_METADATA, "provenance.seal.attestations")


async def test_test_result_is_neither_approval_nor_rejection(tmp_path: Path) -> None:
    world = await make_world(tmp_path)
    world.chain.register("ci@acme", "attestor:tests")
    data = patches.add_test_result(world.release(publish=False))
    world.publish(data)
    outcome = await explain(world, data)
    assert outcome.is_success, outcome.message
    assert outcome.decision is not None
    assert len(outcome.decision.facts.approvals) == 2


async def test_too_many_components_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.context.COMPONENTS_DECIDED_MAX", 0)
    world = await make_world(tmp_path)
    outcome = await explain(world, world.release())
    assert (outcome.code, outcome.reason) == (ResultCode.INVALID_METADATA, "agent.metadata.too_many_components")


async def test_decision_that_no_intent_can_carry_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.pipeline.DECISION_BYTES_MAX", 100)
    world = await make_world(tmp_path)
    outcome = await explain(world, world.release())
    assert (outcome.code, outcome.reason) == (ResultCode.POLICY_DENIED, "agent.policy.facts_too_large")


async def test_reason_that_is_not_in_normal_form_cannot_be_recorded(tmp_path: Path) -> None:
    world = await make_world(tmp_path)
    data = world.release()
    outcome = await world.agent.explain(data, TARGET, replace(OPERATOR, name="e\u0301va"))
    assert (outcome.code, outcome.reason) == (ResultCode.POLICY_DENIED, "agent.policy.facts")


# Records


async def test_decision_reads_back(tmp_path: Path) -> None:
    world = await make_world(tmp_path)
    outcome = await explain(world, world.release(attest=False))
    assert outcome.decision is not None
    document = canonical_json.decode_untrusted(encode_decision(outcome.decision))
    assert decision_from_json_untrusted(document) == outcome.decision
    assert outcome.to_json()["decision"]["verdict"] == "deny"
    assert isinstance(document, dict)
    changes: list[dict[str, Any]] = [
        {"version": 1},
        {"engine": ""},
        {"engine": 1},
        {"verdict": "maybe"},
        {"allowed_by": "x"},
        {"allowed_by": [1]},
        {"forbidden_by": [["one"]]},
        {"policy_hash": "00"},
        {"policy_hash": "xx"},
        {"height": 7},
        {"policy_version": "1"},
        {"facts": {}},
    ]
    for change in changes:
        with pytest.raises(PolicyRefusedError):
            decision_from_json_untrusted({**document, **change})
    with pytest.raises(PolicyRefusedError):
        decision_from_json_untrusted([])
    with pytest.raises(PolicyRefusedError):
        decision_from_json_untrusted({})


def test_high_water_reads_back(tmp_path: Path) -> None:
    path = str(tmp_path / "highwater.json")
    assert read_high_water(path) is None
    mark = HighWater(7, sha256(b"block"))
    write_high_water(Files(), path, mark)
    assert read_high_water(path) == mark
    for document in ({}, {"height": "7", "block_hash": "00" * 32}, {"height": 7, "block_hash": "00"}):
        write_state(Files(), path, document)
        with pytest.raises(StateCorruptError):
            read_high_water(path)


async def test_replica_is_checked_against_the_mark(tmp_path: Path) -> None:
    world = await make_world(tmp_path)
    view = world.ledger.view()
    tip = check_replica(view, None, 0, 0, view.header.time_ms)
    assert tip == HighWater(view.height, view.tip.block_hash)
    assert check_replica(view, tip, 5, 5, view.header.time_ms - 5) == tip
    for mark, age, late_ms, code in (
        (None, 6, 0, "stale"),
        (None, 0, -6, "clock_behind"),
        (HighWater(view.height + 1, tip.block_hash), 0, 0, "rolled_back"),
        (HighWater(view.height, sha256(b"other")), 0, 0, "forked"),
    ):
        with pytest.raises(ReplicaStaleError) as caught:
            check_replica(view, mark, age, 5, view.header.time_ms + late_ms)
        assert caught.value.code == f"agent.replica.{code}"


def test_journal_of_another_form_is_damage(tmp_path: Path) -> None:
    path = str(tmp_path / "journal.json")
    assert read_journal(path) is None
    for document in ({}, {"version": 2}, {"version": 1, "patch_id": "x"}):
        write_state(Files(), path, document)
        with pytest.raises(StateCorruptError):
            read_journal(path)


async def test_role_that_ran_out_counts_for_what_was_published_in_its_time(tmp_path: Path) -> None:
    world = await make_world(tmp_path)
    data = world.release()
    until_ms = world.chain.blocks[-1].header.time_ms + BLOCK_MS
    world.chain.submit(bodies.IdentitySetRoleTerm("alice@acme", "developer", None, until_ms), "ada@acme")
    world.chain.commit()
    assert (await explain(world, data)).is_success
    outcome = await explain(world, patches.make_patch(release_counter=2))
    assert (outcome.code, outcome.reason) == (ResultCode.INVALID_DEVELOPER, "agent.developer.wrong_role")
