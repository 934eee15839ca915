"""What a host reads from the ledger beyond yes and no: scans, verifications, how far a patch has come, emergencies without a review."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.decision import Decision
from agent.results import ResultCode
from agent.rollout import find_rollout
from ledger import bodies
from ledger.block import ZERO_DIGEST, Block
from ledger.state import StateView
from provenance.attestation import build_predicate_attestation
from provenance.layout import split_patch_file_untrusted
from provenance.patchfile import append_attestation
from provenance.predicates import PREDICATE_SVR, PREDICATE_VSA, PREDICATE_VULNS, severity_of
from provenance.verify import verify_patch_untrusted
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, TARGET, World
from tests.testkit.ledger import administrator_of, attest_body, key_of, publish_body
from wire.envelope import encode_envelope
from wire.errors import RejectedError

OTHER = "web2@acme"


class PrunedView(StateView):
    """A replica that keeps no blocks."""

    def block(self, height: int) -> Block | None:
        return None


async def make_world(tmp_path: Path) -> World:
    world = World(tmp_path)
    for identity, *roles in (
        ("scan@beta", "attestor:vulnerability-scan"),
        ("ci@acme", "attestor:vulnerability-scan"),
        ("verifier@gamma", "attestor:verification"),
        ("eve@beta", "attestor:emergency"),
        ("frank@gamma", "attestor:later-review"),
        (OTHER, "host"),
    ):
        world.chain.register(identity, *roles)
    await world.add_target()
    return world


def scan(*findings: tuple[str, str]) -> dict[str, Any]:
    result = [{"id": each, "severity": [{"method": "cvss_score", "score": score}]} for each, score in findings]
    return {"scanner": {"uri": "pkg:github/aquasecurity/trivy", "result": result}}


def attest(data: bytes, identity: str, role: str, predicate_type: str, predicate: dict[str, Any]) -> bytes:
    patch = verify_patch_untrusted(data)
    raw = json.dumps(predicate).encode()
    envelope = build_predicate_attestation(
        patch, predicate_type, raw, role, key_of(identity), identity, "", patches.LATER
    )
    return append_attestation(data, encode_envelope(envelope))


async def decide(world: World, data: bytes) -> Decision:
    decision = (await world.agent.explain(data, TARGET, OPERATOR)).decision
    assert decision is not None
    return decision


async def test_scans_and_verifications_become_facts(tmp_path: Path) -> None:
    world = await make_world(tmp_path)
    data = attest(patches.make_patch(), "scan@beta", "vulnerability-scan", PREDICATE_VULNS, scan(("CVE-1", "9.8")))
    data = attest(
        data, "verifier@gamma", "verification", PREDICATE_SVR,
        {"verifier": {"id": "https://verifier.example"}, "properties": ["SLSA_BUILD_LEVEL_3"]},
    )  # fmt: skip
    facts = (await decide(world, world.release(data))).facts
    found, verified = facts.statements
    assert (found.identity, [(each.id, each.severity) for each in found.findings]) == (
        "scan@beta",
        [("CVE-1", "critical")],
    )
    assert (verified.predicate_type, verified.properties) == (PREDICATE_SVR, ("SLSA_BUILD_LEVEL_3",))
    # A statement without a verdict is no approval.
    assert [each.identity for each in facts.approvals] == ["bob@beta", "carol@gamma"]


async def test_scan_that_was_taken_out_of_the_file_counts_all_the_same(tmp_path: Path) -> None:
    world = await make_world(tmp_path)
    data = world.release(patches.make_patch())
    scanned = attest(data, "ci@acme", "vulnerability-scan", PREDICATE_VULNS, scan(("CVE-2", "7.5"), ("CVE-3", "odd")))
    world.chain.submit(attest_body(scanned), "ci@acme")
    (statement,) = (await decide(world, data)).facts.statements
    assert [(each.id, each.severity) for each in statement.findings] == [("CVE-2", "high"), ("CVE-3", "unknown")]
    assert statement.readable


async def test_scan_of_a_revoked_key_is_set_aside_and_named(tmp_path: Path) -> None:
    world = await make_world(tmp_path)
    data = attest(patches.make_patch(), "scan@beta", "vulnerability-scan", PREDICATE_VULNS, scan())
    data = world.release(data)
    body = bodies.IdentityRevoke("scan@beta", None, 1, "stolen")
    world.chain.submit(body, administrator_of("beta"))
    decision = await decide(world, data)
    assert decision.facts.statements == ()
    assert any("scan@beta's statement as vulnerability-scan does not count" in each for each in decision.set_aside)


async def test_statement_that_this_node_has_pruned_is_not_readable(tmp_path: Path) -> None:
    world = await make_world(tmp_path)
    data = world.release(patches.make_patch())
    scanned = attest(data, "scan@beta", "vulnerability-scan", PREDICATE_VULNS, scan())
    world.chain.submit(attest_body(scanned), "scan@beta")
    world.ledger.frozen = PrunedView(world.chain.store)
    (statement,) = (await decide(world, data)).facts.statements
    assert (statement.readable, statement.findings) == (False, ())
    # Who has the file has the statement.
    (statement,) = (await decide(world, scanned)).facts.statements
    assert statement.readable


@pytest.mark.parametrize(
    ("predicate_type", "predicate", "code"),
    [
        (PREDICATE_VULNS, {}, "object"),
        (PREDICATE_VULNS, {"scanner": {"uri": "x"}}, "list"),
        (PREDICATE_VULNS, {"scanner": {"result": []}}, "text"),
        (PREDICATE_VULNS, {"scanner": {"uri": "x", "result": ["CVE-1"]}}, "object"),
        (PREDICATE_VULNS, {"scanner": {"uri": "x", "result": [{"severity": []}]}}, "text"),
        (PREDICATE_VULNS, {"scanner": {"uri": "x", "result": [{"id": "CVE-1"}]}}, "list"),
        (PREDICATE_VULNS, {"scanner": {"uri": "x", "result": [{"id": "A", "severity": [{"score": 9}]}]}}, "text"),
        (PREDICATE_VULNS, {"scanner": {"uri": "x", "result": [{"id": "A", "severity": []}] * 2049}}, "length"),
        (PREDICATE_SVR, {"verifier": {"id": "x"}}, "list"),
        (PREDICATE_SVR, {"verifier": "x", "properties": []}, "object"),
        (PREDICATE_SVR, {"verifier": {}, "properties": []}, "text"),
        (PREDICATE_VSA, {"verificationResult": "PASSED", "verifiedLevels": "SLSA_BUILD_LEVEL_3"}, "list"),
    ],
)
def test_statement_without_the_form_that_policies_read_is_refused(
    predicate_type: str, predicate: dict[str, Any], code: str
) -> None:
    with pytest.raises(RejectedError) as caught:
        attest(patches.make_patch(), "scan@beta", "vulnerability-scan", predicate_type, predicate)
    assert caught.value.code == f"provenance.field.{code}"


@pytest.mark.parametrize(
    ("score", "severity"),
    [
        ("10", "critical"),
        ("10.0", "critical"),
        ("10.1", "unknown"),
        ("9.0", "critical"),
        ("8.9", "high"),
        ("6.9", "medium"),
        ("3.9", "low"),
        ("0.1", "low"),
        ("0.0", "none"),
        ("MEDIUM", "medium"),
        ("moderate", "medium"),
        ("-1", "unknown"),
        ("٩.٨", "unknown"),
        ("CVSS:3.1/AV:N", "unknown"),
        ("", "unknown"),
    ],
)
def test_severity_follows_the_bands_of_cvss(score: str, severity: str) -> None:
    assert severity_of(score) == severity


def record(world: World, data: bytes, host: str, result: str | None) -> None:
    """Put an intent of another host on the ledger, and its outcome where there is a result."""
    patch_id = publish_body(data).patch_id
    chain = world.chain.view.host(host)
    counter, previous = (0, ZERO_DIGEST) if chain is None else (chain.counter, chain.last_tx_id)
    intent = bodies.DeploymentIntent(counter + 1, previous, "app", patch_id, ZERO_DIGEST, b"{}")
    tx_id = world.chain.submit(intent, host).tx_id
    if result is not None:
        outcome = bodies.DeploymentOutcome(
            counter + 2, tx_id, "app", patch_id, tx_id, result, ZERO_DIGEST, bytes([1]) * 32, b"{}"
        )
        world.chain.submit(outcome, host)


async def test_rollout_follows_the_last_that_each_host_recorded(tmp_path: Path) -> None:
    world = await make_world(tmp_path)
    data = world.release()
    patch_id = bytes.fromhex(split_patch_file_untrusted(data).patch_id)
    assert find_rollout(world.chain.view, patch_id).first_success_ms == -1
    record(world, data, OTHER, "ERROR_APPLY_FAILED")
    assert find_rollout(world.chain.view, patch_id).failed == (OTHER,)
    record(world, data, OTHER, "SUCCESS")
    rollout = find_rollout(world.chain.view, patch_id)
    assert (rollout.succeeded, rollout.failed) == ((OTHER,), ())
    assert rollout.first_success_ms == world.chain.view.header.time_ms
    # What is announced and has not ended changes nothing.
    record(world, data, OTHER, None)
    assert find_rollout(world.chain.view, patch_id).succeeded == (OTHER,)
    assert (await decide(world, data)).facts.rollout.succeeded == (OTHER,)


async def test_refusal_by_policy_is_no_failure_of_the_patch(tmp_path: Path) -> None:
    world = await make_world(tmp_path)
    data = patches.make_patch()
    world.publish(data)
    assert (await world.agent.apply(data, TARGET, OPERATOR)).code is ResultCode.POLICY_DENIED
    assert (await decide(world, data)).facts.rollout.failed == ()


async def test_emergency_waits_for_its_later_review(tmp_path: Path) -> None:
    world = await make_world(tmp_path)
    data = patches.approve(patches.make_patch(), key_of("eve@beta"), "eve@beta", "emergency")
    data = world.release(data)
    applied = await world.agent.apply(data, TARGET, OPERATOR)
    assert applied.is_success, applied.message
    second = patches.make_patch(release_counter=2)
    second = world.release(second)
    (emergency,) = (await decide(world, second)).facts.system.emergencies
    assert emergency.patch == split_patch_file_untrusted(data).patch_id
    reviewed = patches.approve(data, key_of("frank@gamma"), "frank@gamma", "later-review")
    world.chain.submit(attest_body(reviewed), "frank@gamma")
    assert (await decide(world, second)).facts.system.emergencies == ()
