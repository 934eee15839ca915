"""`patch verify` tells who says what about a patch, in which role, when by the ledger, and whether it counts or why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ledger import bodies
from node import documents
from node.attestation_documents import judged_attestations
from node.cli import client as client_module
from node.cli.patch_names import Names
from provenance.attestation import build_predicate_attestation, build_seal
from provenance.patchfile import append_attestation
from provenance.predicates import PREDICATE_SVR, PREDICATE_VULNS
from provenance.verify import decode_trailer_untrusted, verify_patch_untrusted
from tests.testkit import patches
from tests.testkit.cli import run, run_json
from tests.testkit.ledger import Chain, administrator_of, attest_body, key_of
from wire import canonical_json
from wire.envelope import encode_envelope, sign_envelope
from wire.errors import RejectedError
from wire.hashing import sha256


class LedgerNode:
    """A node that answers `patch verify` from a chain in memory, with the documents of a real one."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def call(self, method: str, **params: Any) -> Any:
        view = self.chain.view
        match method:
            case "status":
                return {"chain_id": view.chain_id, "height": view.height}
            case "identities.list":
                found = [] if params.get("after") else list(view.identities())
                return [documents.identity_document(each, [view.key(key) for key in each.key_ids]) for each in found]  # type: ignore[misc]
            case "patches.get":
                patch = view.patch(bytes.fromhex(params["patch_id"]))
                if patch is None:
                    raise RejectedError("node.patch.not_found", "there is no such patch")
                return documents.patch_document(patch, list(view.attestations(patch.patch_id)))
            case "patches.attestations":
                patch = view.patch(bytes.fromhex(params["patch_id"]))
                assert patch is not None
                return judged_attestations(view, patch)
            case "blocks.get":
                header = view.header_at(params["height"])
                assert header is not None
                return documents.header_document(header)
        raise AssertionError(method)

    def close(self) -> None:
        pass


@pytest.fixture
def chain() -> Chain:
    chain = Chain()
    chain.register("alice@acme", "developer")
    chain.register("bob@beta", "attestor:security-review")
    chain.register("carol@gamma", "attestor:qa")
    chain.register("anna@acme", "attestor:qa")
    chain.register("scan@beta", "attestor:vulnerability-scan")
    return chain


@pytest.fixture(autouse=True)
def node(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> LedgerNode:
    found = LedgerNode(chain)
    monkeypatch.setattr(client_module, "open_client", lambda session: found)
    return found


def review(data: bytes, identity: str, role: str, verdict: str = "approve") -> bytes:
    return patches.approve(data, key_of(identity), identity, role, verdict)


def state(data: bytes, identity: str, role: str, predicate_type: str, predicate: dict[str, Any]) -> bytes:
    envelope = build_predicate_attestation(
        verify_patch_untrusted(data), predicate_type, json.dumps(predicate).encode(), role, key_of(identity), identity,
        "", patches.LATER,
    )  # fmt: skip
    return append_attestation(data, encode_envelope(envelope))


def scan(data: bytes) -> bytes:
    result = [{"id": "CVE-2026-0002", "severity": [{"method": "cvss_score", "score": "9.8"}]}]
    predicate = {"scanner": {"uri": "pkg:github/aquasecurity/trivy", "result": result}}
    return state(data, "scan@beta", "vulnerability-scan", PREDICATE_VULNS, predicate)


def sealed(data: bytes, signer: str, name: str) -> bytes:
    """Return the file with a seal by `signer`'s key in the name of `name`."""
    seal = build_seal(verify_patch_untrusted(data), key_of(signer), name, patches.LATER)
    return append_attestation(data, encode_envelope(seal))


def sealed_anyway(data: bytes) -> bytes:
    """Return the file with a seal over all its lines, also those that prove nothing."""
    patch = verify_patch_untrusted(data)
    digests = [envelope.payload_digest.hex() for envelope in decode_trailer_untrusted(patches.trailer_lines(data)[1:])]
    own = sealed(patches.with_lines(data, patches.trailer_lines(data)[:1]), "alice@acme", "alice@acme")
    statement = json.loads(verify_patch_untrusted(own).seal.envelope.payload)  # type: ignore[union-attr]
    statement["predicate"]["attestations"] = digests
    envelope = sign_envelope(canonical_json.encode(statement), key_of("alice@acme"))
    assert patch.attestations_refused
    return patches.with_lines(data, [*patches.trailer_lines(data), encode_envelope(envelope)])


def steps(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [each for each in document["steps"] if each["step"] == name]


def published(chain: Chain, data: bytes) -> bytes:
    chain.publish(data)
    count = len(verify_patch_untrusted(data).attestations)
    for line in range(1, 1 + count):
        chain.submit(attest_body(data, line), "alice@acme")
    return data


def verify(
    tmp_path: Path, data: bytes, *options: object, code: int = 0
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return the voices by who speaks, and the whole document."""
    path = tmp_path / "fix.patch"
    path.write_bytes(data)
    document = run_json("patch", "verify", path, *options, code=code)
    return {each["identity"]: each for each in document["voices"]}, document


LEDGER = ("--rpc", "http://node.test")


def test_file_alone_tells_whose_signatures_hold(tmp_path: Path) -> None:
    voices, document = verify(tmp_path, scan(review(patches.make_patch(), "bob@beta", "security-review")))
    assert {each["valid"] for each in voices.values()} == {"signature"}
    assert document["counts"] == {
        "approvers": 1, "approver_organisations": 1, "rejecters": 0, "statements": 1, "set_aside": 0,
    }  # fmt: skip
    assert voices["scan@beta"]["findings"] == [{"id": "CVE-2026-0002", "severity": "critical"}]
    text = run("patch", "verify", tmp_path / "fix.patch").out
    assert "no ledger was asked" in text
    assert "found CVE-2026-0002 (critical)" in text


def test_ledger_tells_when_and_whether_each_counts(tmp_path: Path, chain: Chain) -> None:
    data = review(review(patches.make_patch(), "bob@beta", "security-review"), "anna@acme", "qa")
    data = published(chain, scan(data))
    late = review(data, "carol@gamma", "qa")
    voices, document = verify(tmp_path, late, *LEDGER)
    bob, anna, carol = voices["bob@beta"], voices["anna@acme"], voices["carol@gamma"]
    header = chain.view.header_at(bob["recorded_height"])
    assert header is not None
    assert (bob["valid"], bob["organisation"], bob["role"], bob["verdict"]) == (
        "yes",
        "beta",
        "security-review",
        "approve",
    )
    assert bob["recorded_time_ms"] == header.time_ms
    assert (anna["valid"], anna["why_not"]) == ("no", "the attestor belongs to the author's organisation acme")
    assert (carol["valid"], carol["why_not"], carol["recorded_height"]) == ("no", "not recorded on the ledger", None)
    assert (voices["alice@acme"]["what"], voices["alice@acme"]["valid"]) == ("author", "yes")
    assert (document["counts"]["approvers"], document["counts"]["set_aside"]) == (1, 2)
    text = run("patch", "verify", tmp_path / "fix.patch", *LEDGER).out
    assert "approvals that count: 1 people of 1 organisations; rejections: 0; set aside: 2" in text
    assert f"height {bob['recorded_height']}, 20" in text


def test_stripped_rejection_and_replaced_verdict_are_told(tmp_path: Path, chain: Chain) -> None:
    data = published(chain, review(patches.make_patch(), "bob@beta", "security-review"))
    rejected = review(data, "carol@gamma", "qa", "reject")
    chain.submit(attest_body(rejected), "carol@gamma")
    changed = review(data, "bob@beta", "security-review", "reject")
    chain.submit(attest_body(changed), "bob@beta")
    _, document = verify(tmp_path, data, *LEDGER)
    rows = [(each["identity"], each["line"], each["verdict"], each["valid"]) for each in document["voices"][1:]]
    assert rows == [
        ("bob@beta", 2, "approve", "no"),
        ("carol@gamma", None, "reject", "yes"),
        ("bob@beta", None, "reject", "yes"),
    ]
    assert document["voices"][1]["why_not"] == "a later one of the same attestor, role and kind replaced it"
    assert document["counts"]["rejecters"] == 2
    assert "not in this file" in run("patch", "verify", tmp_path / "fix.patch", *LEDGER).out


def test_revoked_key_takes_the_voice_away_with_its_reason(tmp_path: Path, chain: Chain) -> None:
    data = published(chain, review(patches.make_patch(), "bob@beta", "security-review"))
    chain.submit(
        bodies.IdentityRevoke("bob@beta", key_of("bob@beta").public_key.key_id, 1, "stolen"), administrator_of("beta")
    )
    voices, document = verify(tmp_path, data, *LEDGER)
    assert voices["bob@beta"]["valid"] == "no"
    assert "revoked with last valid height 1" in voices["bob@beta"]["why_not"]
    assert document["counts"]["approvers"] == 0


def test_what_the_ledger_sets_aside_is_named_and_fails_nothing(tmp_path: Path, chain: Chain) -> None:
    """Cutting the line out of the file must not turn a NO into a YES."""
    data = published(chain, review(patches.make_patch(), "bob@beta", "security-review"))
    chain.submit(bodies.IdentityRevoke("bob@beta", None, 0, "bribed"), administrator_of("beta"))
    cut = patches.with_lines(data, patches.trailer_lines(data)[:1])
    for each in (data, cut):
        _, document = verify(tmp_path, each, *LEDGER)
        assert document["valid"]
        assert (document["counts"]["approvers"], document["counts"]["set_aside"]) == (0, 1)
    (step,) = steps(verify(tmp_path, data, *LEDGER)[1], "attestor bob@beta")
    assert (step["result"], step["code"]) == ("warning", "cli.verify.set_aside")
    assert "revoked" in step["message"]
    chain.submit(bodies.IdentitySuspend("carol@gamma", "on leave"), administrator_of("gamma"))
    voices, document = verify(tmp_path, review(data, "carol@gamma", "qa"), *LEDGER)
    assert document["valid"]
    assert voices["carol@gamma"]["why_not"] == "not recorded on the ledger"


def test_attestation_in_another_ones_name_is_a_forgery(tmp_path: Path, chain: Chain) -> None:
    data = published(chain, review(patches.make_patch(), "bob@beta", "security-review"))
    forged = patches.approve(data, key_of("carol@gamma"), "dora@beta", "security-review")
    chain.register("dora@beta", "attestor:security-review")
    voices, document = verify(tmp_path, forged, *LEDGER, code=1)
    step = steps(document, "attestation")[1]
    assert (step["result"], step["code"]) == ("failed", "cli.verify.forged_name")
    assert "signed as dora@beta, and the key is carol@gamma's" in step["message"]
    assert (voices["dora@beta"]["valid"], document["counts"]["approvers"]) == ("no", 1)
    text = run("patch", "verify", tmp_path / "fix.patch", *LEDGER).out
    assert "by dora@beta" not in text
    assert "NOT VALID" in text
    nobody = patches.approve(data, key_of("a new key"), "dora@beta", "security-review")
    (_, step) = steps(verify(tmp_path, nobody, *LEDGER, code=1)[1], "attestation")
    assert (step["result"], step["code"]) == ("failed", "cli.verify.forged_name")
    stranger = patches.approve(data, key_of("a new key"), "zed@beta", "security-review")
    (_, step) = steps(verify(tmp_path, stranger, *LEDGER)[1], "attestation")
    assert (step["result"], step["code"]) == ("warning", "cli.verify.unknown_key")


def test_seal_in_another_ones_name_is_a_forgery(tmp_path: Path, chain: Chain) -> None:
    data = published(chain, review(patches.make_patch(), "bob@beta", "security-review"))
    voices, document = verify(tmp_path, sealed(data, "carol@gamma", "alice@acme"), *LEDGER, code=1)
    (step,) = steps(document, "release seal")
    assert (step["result"], step["code"]) == ("failed", "cli.verify.forged_name")
    assert "signed as alice@acme, and the key is carol@gamma's" in step["message"]
    assert [each["valid"] for each in document["voices"] if each["what"] == "seal"] == ["no"]
    for who in ("alice@acme", "carol@gamma"):
        voices, document = verify(tmp_path, sealed(data, who, who), *LEDGER)
        assert [each["result"] for each in steps(document, "release seal") + steps(document, "sealer")] == [
            "passed"
        ] * 2
    chain.register("otto@gamma", "auditor")
    voices, document = verify(tmp_path, sealed(data, "otto@gamma", "otto@gamma"), *LEDGER)
    (step,) = steps(document, "sealer")
    assert (step["result"], step["code"]) == ("warning", "cli.verify.role")
    assert voices["otto@gamma"]["valid"] == "no"
    chain.submit(bodies.IdentitySuspend("carol@gamma", "on leave"), administrator_of("gamma"))
    _, document = verify(tmp_path, sealed(data, "carol@gamma", "carol@gamma"), *LEDGER)
    assert steps(document, "sealer")[0]["code"] == "cli.verify.status"


def test_file_that_was_cut_after_its_publication_is_told(tmp_path: Path, chain: Chain) -> None:
    reviewed = review(patches.make_patch(), "bob@beta", "security-review")
    data = published(chain, sealed(reviewed, "alice@acme", "alice@acme"))
    lines = patches.trailer_lines(data)
    (step,) = steps(verify(tmp_path, data, *LEDGER)[1], "published file")
    assert (step["result"], step["code"]) == ("passed", None)
    for left in (
        lines[:-1],
        lines[:1],
        [lines[0], lines[1], *patches.trailer_lines(review(reviewed, "carol@gamma", "qa"))[2:]],
    ):
        cut = patches.with_lines(data, left)
        _, document = verify(tmp_path, cut, *LEDGER)
        (step,) = steps(document, "published file")
        assert (step["result"], step["code"]) == ("warning", "cli.verify.other_file")
        assert f"{len(data)} bytes with the digest {sha256(data).hex()}" in step["message"]
        assert document["valid"]


def test_what_was_added_since_the_publication_is_told(tmp_path: Path, chain: Chain) -> None:
    data = published(chain, patches.make_patch())
    later = review(data, "bob@beta", "security-review")
    (step,) = steps(verify(tmp_path, later, *LEDGER)[1], "published file")
    assert step["result"] == "passed"
    assert f"added since ({len(later) - len(data)} bytes)" in step["message"]


def test_founding_document_knows_its_administrators_keys(chain: Chain) -> None:
    names = Names.of_genesis(chain.genesis)
    administrator = administrator_of("acme")
    key_id = key_of(administrator).public_key.key_id_hex
    assert names.refusal(administrator, key_id) is None
    refusal = names.refusal("alice@acme", key_id)
    assert refusal is not None
    assert refusal.code == "cli.verify.forged_name"
    # Whoever came later may have any other key.
    assert names.refusal("alice@acme", key_of("alice@acme").public_key.key_id_hex) is None


def test_broken_seal_fails_its_own_step_and_the_table_stays(tmp_path: Path, chain: Chain) -> None:
    data = patches.make_released_patch()
    lines = patches.trailer_lines(data)
    _, document = verify(tmp_path, patches.with_lines(data, [lines[0], lines[2], lines[3]]), code=1)
    assert [(each["step"], each["code"]) for each in document["steps"] if each["result"] == "failed"] == [
        ("release seal", "provenance.seal.attestations")
    ]
    assert [each["what"] for each in document["voices"]] == ["author", "attestation"]
    assert "\nNOT VALID" in run("patch", "verify", tmp_path / "fix.patch").out
    other = patches.trailer_lines(patches.approve(patches.make_patch(release_counter=2)))[1]
    broken = sealed_anyway(patches.with_lines(data, [lines[0], lines[1], other]))
    _, document = verify(tmp_path, broken, code=1)
    assert "provenance.seal.attestation_refused" in [each["code"] for each in steps(document, "release seal")]


def test_one_person_in_two_roles_is_one_person(tmp_path: Path, chain: Chain) -> None:
    chain.submit(
        bodies.IdentityUpdateRoles("bob@beta", ("attestor:qa", "attestor:security-review")), administrator_of("beta")
    )
    data = review(review(patches.make_patch(), "bob@beta", "security-review"), "bob@beta", "qa")
    _, document = verify(tmp_path, published(chain, data), *LEDGER)
    assert (document["counts"]["approvers"], document["counts"]["approver_organisations"]) == (1, 1)


def test_unpublished_patch_has_no_standing(tmp_path: Path) -> None:
    voices, _ = verify(tmp_path, review(patches.make_patch(), "bob@beta", "security-review"), *LEDGER)
    author = next(each for each in voices.values() if each["what"] == "author")
    assert (author["valid"], author["why_not"]) == ("no", "not published")
    assert voices["bob@beta"]["why_not"] == "not recorded on the ledger"


def test_line_that_proves_nothing_and_the_seal_have_their_rows(tmp_path: Path) -> None:
    other = patches.trailer_lines(patches.approve(patches.make_patch(release_counter=2)))[1]
    own = patches.make_patch()
    _, document = verify(tmp_path, patches.with_lines(own, [*patches.trailer_lines(own), other]), code=1)
    assert [(each["what"], each["valid"]) for each in document["voices"]] == [
        ("author", "signature"),
        ("refused", "no"),
    ]
    _, document = verify(tmp_path, patches.make_released_patch())
    assert [each["what"] for each in document["voices"]] == ["author", "attestation", "attestation", "seal"]
    assert document["voices"][-1]["kind"] == "seal over 2"


def test_properties_that_a_verifier_vouches_for_are_shown(tmp_path: Path) -> None:
    predicate = {
        "verifier": {"id": "https://verifier.example"},
        "timeCreated": "2026-11-22T07:00:00Z",
        "properties": ["SLSA_BUILD_LEVEL_3"],
    }
    data = state(patches.make_patch(), "scan@beta", "vulnerability-scan", PREDICATE_SVR, predicate)
    voices, _ = verify(tmp_path, data)
    assert voices["scan@beta"]["properties"] == ["SLSA_BUILD_LEVEL_3"]
    assert "vouches for SLSA_BUILD_LEVEL_3" in run("patch", "verify", tmp_path / "fix.patch").out
