"""Attestations and seals: bound to one patch, signed with the key they name, counted once; a seal makes the set whole."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from provenance.attestation import build_attestation, build_predicate_attestation, build_seal, build_test_result
from provenance.errors import AttestationRefusedError, InvalidMetadataError, MalformedPatchError
from provenance.patchfile import append_attestation
from provenance.statement import (
    PREDICATE_PATCH,
    PREDICATE_REVIEW,
    PREDICATE_SEAL,
    PREDICATE_TEST_RESULT,
    PREDICATE_VSA,
    AttestationStatement,
    SealStatement,
    Verdict,
    decode_attestation_statement_untrusted,
)
from provenance.verify import VerifiedPatch, verify_patch_untrusted
from tests.testkit.patches import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    LATER,
    add_test_result,
    approve,
    make_patch,
    make_released_patch,
    resign,
    seal,
    sign_raw,
    trailer_lines,
    with_lines,
)
from wire import canonical_json
from wire.envelope import Envelope, Signature, encode_envelope, pae, sign_envelope
from wire.errors import RejectedError

Change = Callable[[dict[str, Any]], object]

PATCH = make_patch()
VERIFIED = verify_patch_untrusted(PATCH)
OTHER = make_patch(release_counter=2)
RELEASED = make_released_patch()


def with_envelope(data: bytes, envelope: Envelope) -> bytes:
    return data + encode_envelope(envelope) + b"\n"


def refused_code(data: bytes) -> str:
    """The code for which the last line is set aside; everything else of the file still holds."""
    patch = verify_patch_untrusted(data)
    assert patch.attestations_refused
    last = patch.attestations_refused[-1]
    assert last.index == len(patch.file.trailer) - 1
    assert last.message
    return last.code


def seal_refusal(data: bytes) -> RejectedError:
    with pytest.raises(InvalidMetadataError) as caught:
        verify_patch_untrusted(data)
    return caught.value


def test_a_released_patch_tells_who_said_what() -> None:
    patch = verify_patch_untrusted(RELEASED)
    test_result, review = patch.attestations
    assert (
        test_result.index,
        test_result.predicate_type,
        test_result.identity,
        test_result.role,
        test_result.verdict,
    ) == (
        1,
        PREDICATE_TEST_RESULT,
        "ci@acme",
        "tests",
        Verdict.APPROVE,
    )
    assert (
        review.index,
        review.predicate_type,
        review.identity,
        review.role,
        review.verdict,
        review.comment,
        review.time,
    ) == (
        2,
        PREDICATE_REVIEW,
        "bob@beta",
        "security-review",
        Verdict.APPROVE,
        "read twice",
        LATER,
    )
    assert (review.key, review.keyid) == (BOB.public_key, BOB.public_key.key_id_hex)
    assert json.loads(review.statement_json)["predicate"]["verdict"] == "approve"
    assert patch.seal is not None
    assert (patch.seal.identity, patch.seal.key, patch.seal.time) == ("dave@acme", DAVE.public_key, LATER)
    assert patch.seal.keyid == DAVE.public_key.key_id_hex
    assert patch.seal.attestations == (test_result.payload_digest.hex(), review.payload_digest.hex())
    assert patch.attestations_refused == ()


def test_a_reject_is_kept_like_an_approval() -> None:
    patch = verify_patch_untrusted(approve(approve(PATCH), CAROL, "carol@gamma", verdict="reject"))
    assert [attestation.verdict for attestation in patch.attestations] == [Verdict.APPROVE, Verdict.REJECT]


# Binding.


@pytest.mark.parametrize("index", [0, 1, 2])
def test_an_attestation_about_another_subject_is_set_aside(index: int) -> None:
    def change(statement: dict[str, Any]) -> None:
        statement["subject"][index]["digest"]["sha256"] = "0" * 64

    assert refused_code(with_envelope(PATCH, sign_raw(VERIFIED, change))) == "provenance.attestation.other_patch"


def test_an_approval_moved_to_another_patch_is_set_aside() -> None:
    approval = trailer_lines(approve(PATCH))[1]
    assert refused_code(OTHER + approval + b"\n") == "provenance.attestation.other_patch"


def test_an_approval_does_not_follow_the_same_body_under_other_metadata() -> None:
    # Same body and diff, but the author signs again with another payload (here: only the hash of the build environment).
    approval = trailer_lines(approve(PATCH))[1]
    again = resign(PATCH, lambda statement: statement["predicate"]["build_environment"].update(document=None))
    assert verify_patch_untrusted(again).patch_id == VERIFIED.patch_id
    assert refused_code(again + approval + b"\n") == "provenance.attestation.other_patch"


def test_the_authors_own_line_is_no_attestation() -> None:
    assert refused_code(PATCH + trailer_lines(PATCH)[0] + b"\n") == "provenance.statement.subject"
    statement = replace(VERIFIED.author_envelope)
    renamed = json.loads(statement.payload)
    renamed["subject"].append({"name": "author-statement", "digest": {"sha256": "0" * 64}})
    envelope = sign_envelope(canonical_json.encode(renamed), ALICE)
    assert refused_code(with_envelope(PATCH, envelope)) == "provenance.statement.predicate_type"


# Signature and key.


def test_an_attestation_signed_with_another_key_is_set_aside() -> None:
    honest = sign_raw(VERIFIED, lambda statement: None)
    stranger = sign_envelope(honest.payload, CAROL)
    assert refused_code(with_envelope(PATCH, stranger)) == "provenance.attestation.keyid"
    renamed = replace(stranger, signatures=(replace(stranger.signatures[0], keyid=BOB.public_key.key_id_hex),))
    assert refused_code(with_envelope(PATCH, renamed)) == "provenance.attestation.signature"


def test_an_ed25519_signature_under_a_p256_key_is_set_aside() -> None:
    honest = sign_raw(VERIFIED, lambda statement: None)
    signature = Signature(BOB.public_key.key_id_hex, CAROL.sign(pae(honest.payload_type, honest.payload)))
    assert (
        refused_code(with_envelope(PATCH, replace(honest, signatures=(signature,))))
        == "provenance.attestation.signature"
    )


@pytest.mark.parametrize("did", ["did:web:example.org", "did:key:z", "did:key:z6Mk"])
def test_an_attestor_without_a_key_is_set_aside(did: str) -> None:
    def change(statement: dict[str, Any]) -> None:
        statement["predicate"]["attestor"]["did"] = did

    assert refused_code(with_envelope(PATCH, sign_raw(VERIFIED, change))).startswith("wire.")


def test_another_payload_type_is_set_aside() -> None:
    honest = sign_raw(VERIFIED, lambda statement: None)
    assert (
        refused_code(with_envelope(PATCH, sign_envelope(honest.payload, BOB, "application/json")))
        == "provenance.attestation.payload_type"
    )


def test_nobody_approves_with_the_authors_key() -> None:
    def change(statement: dict[str, Any]) -> None:
        statement["predicate"]["attestor"]["did"] = ALICE.public_key.did

    assert (
        refused_code(with_envelope(PATCH, sign_raw(VERIFIED, change, ALICE))) == "provenance.attestation.self_approval"
    )
    with pytest.raises(AttestationRefusedError) as caught:
        build_attestation(VERIFIED, "security-review", "approve", ALICE, "alice@acme", "", LATER)
    assert caught.value.code == "provenance.attestation.self_approval"
    rejected = build_attestation(VERIFIED, "security-review", "reject", ALICE, "alice@acme", "found a fault", LATER)
    assert verify_patch_untrusted(with_envelope(PATCH, rejected)).attestations[0].verdict is Verdict.REJECT


# Twice.


def test_the_same_line_counts_once() -> None:
    approved = approve(PATCH)
    line = trailer_lines(approved)[1]
    patch = verify_patch_untrusted(approved + line + b"\n")
    assert len(patch.attestations) == 1
    assert refused_code(approved + line + b"\n") == "provenance.attestation.duplicate"


def test_the_same_approval_in_other_words_counts_once() -> None:
    again = build_attestation(
        VERIFIED, "security-review", "approve", BOB, "bob@beta", "and once more", "2026-11-23T00:00:00Z"
    )
    assert refused_code(with_envelope(approve(PATCH), again)) == "provenance.attestation.duplicate"
    as_another = build_attestation(VERIFIED, "security-review", "approve", BOB, "bobby@beta", "", LATER)
    assert refused_code(with_envelope(approve(PATCH), as_another)) == "provenance.attestation.duplicate"


def test_who_changed_their_mind_may_change_it_back() -> None:
    data = approve(approve(PATCH), verdict="reject")
    back = build_attestation(VERIFIED, "security-review", "approve", BOB, "bob@beta", "fixed", "2026-11-23T00:00:00Z")
    data = with_envelope(data, back)
    assert [each.verdict for each in verify_patch_untrusted(data).attestations] == [
        Verdict.APPROVE,
        Verdict.REJECT,
        Verdict.APPROVE,
    ]
    again = build_attestation(VERIFIED, "security-review", "approve", BOB, "bob@beta", "!", "2026-11-24T00:00:00Z")
    assert refused_code(with_envelope(data, again)) == "provenance.attestation.duplicate"
    # The first approval itself cannot be played again after the rejection.
    replayed = approve(approve(PATCH), verdict="reject") + trailer_lines(approve(PATCH))[1] + b"\n"
    assert refused_code(replayed) == "provenance.attestation.duplicate"


def test_the_same_test_result_counts_once_and_another_run_counts() -> None:
    tested = add_test_result(PATCH)
    assert refused_code(tested + trailer_lines(tested)[1] + b"\n") == "provenance.attestation.duplicate"
    other_run = build_test_result(VERIFIED, "PASSED", CAROL, "ci@acme", LATER, passed=["on another machine"])
    assert len(verify_patch_untrusted(with_envelope(tested, other_run)).attestations) == 2


def test_a_second_signature_of_the_same_payload_counts_once() -> None:
    # ECDSA: (r, n - s) verifies too, so the same approval has a second line.
    approved = approve(PATCH)
    envelope = verify_patch_untrusted(approved).attestations[0].envelope
    mirrored = _mirror(envelope.signatures[0].sig)
    assert BOB.public_key.is_valid(pae(envelope.payload_type, envelope.payload), mirrored)
    second = replace(envelope, signatures=(replace(envelope.signatures[0], sig=mirrored),))
    assert refused_code(with_envelope(approved, second)) == "provenance.attestation.duplicate"


def test_another_role_or_verdict_of_the_same_key_is_another_claim() -> None:
    data = approve(approve(approve(PATCH), role="qa"), verdict="reject")
    assert len(verify_patch_untrusted(data).attestations) == 3


def test_a_line_set_aside_does_not_count_as_said() -> None:
    forged = replace(
        sign_raw(VERIFIED, lambda statement: None), signatures=(Signature(BOB.public_key.key_id_hex, b"\0" * 64),)
    )
    patch = verify_patch_untrusted(with_envelope(PATCH, forged) + trailer_lines(approve(PATCH))[1] + b"\n")
    assert (len(patch.attestations), len(patch.attestations_refused)) == (1, 1)


def _mirror(signature: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, order - s)


# Form.


def _set(member: str, value: object) -> Change:
    def change(statement: dict[str, Any]) -> None:
        statement["predicate"][member] = value

    change.__name__ = f"{member}={value!a:.40}"
    return change


def drop_time(statement: dict[str, Any]) -> None:
    del statement["predicate"]["time"]


def wrong_case(statement: dict[str, Any]) -> None:
    statement["predicate"]["Verdict"] = statement["predicate"]["verdict"]


def no_predicate(statement: dict[str, Any]) -> None:
    statement["predicate"] = None


def unbound(statement: dict[str, Any]) -> None:
    del statement["subject"][2]


def foreign_without_attestor(statement: dict[str, Any]) -> None:
    statement["predicateType"] = "https://in-toto.io/attestation/vulns/v0.2"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_set("verdict", "APPROVED"), "provenance.field.choice"),
        (_set("verdict", None), "provenance.field.choice"),
        (_set("role", "Security Review"), "provenance.field.identifier"),
        (_set("role", ""), "provenance.field.identifier"),
        (_set("time", "yesterday"), "provenance.field.timestamp"),
        (_set("comment", "x" * 4097), "provenance.field.length"),
        (_set("comment", "a\u202eb"), "provenance.field.characters"),
        (_set("comment", " a"), "provenance.field.spaces"),
        (_set("comment", None), "provenance.field.text"),
        (_set("attestor", "bob@beta"), "provenance.field.object"),
        (_set("attestor", {"identity": "bob", "did": "did:key:z"}), "provenance.field.identity_id"),
        (_set("attestor", {"identity": "bob@beta"}), "provenance.field.member_missing"),
        (_set("crit", True), "provenance.field.member_unknown"),
        (wrong_case, "provenance.field.member_unknown"),
        (drop_time, "provenance.field.member_missing"),
        (no_predicate, "provenance.statement.predicate"),
        (unbound, "provenance.statement.subject"),
        (foreign_without_attestor, "provenance.field.member_missing"),
    ],
)
def test_an_attestation_outside_its_form_is_set_aside(change: Change, code: str) -> None:
    assert refused_code(with_envelope(PATCH, sign_raw(VERIFIED, change))) == code


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b'"verdict":"approve"', b'"verdict":"reject","verdict":"approve"', "wire.json.duplicate_member"),
        (b'"comment":""', b'"comment":1.5', "wire.json.float"),
        (b'"comment":""', b'"comment": ""', "wire.json.not_canonical"),
        (b'"comment":""', b'"comment":"\\ud800"', "wire.json.surrogate"),
    ],
    ids=["duplicate", "float", "space", "surrogate"],
)
def test_an_attestation_with_two_readings_is_set_aside(old: bytes, new: bytes, code: str) -> None:
    payload = sign_raw(VERIFIED, lambda statement: None).payload
    assert payload.count(old) == 1
    assert refused_code(with_envelope(PATCH, sign_envelope(payload.replace(old, new), BOB))) == code


# Every byte of an attestation's line.


@pytest.mark.slow
def test_a_flipped_byte_of_an_attestation_costs_the_file_or_only_that_attestation() -> None:
    data = approve(add_test_result(PATCH))
    whole = verify_patch_untrusted(data)
    start = len(data) - len(whole.file.trailer[2]) - 1
    set_aside = 0
    for position in range(start, len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 0x01
        try:
            patch = verify_patch_untrusted(bytes(flipped))
        except MalformedPatchError:
            continue
        assert patch.attestations == whole.attestations[:1], position
        assert [refused.index for refused in patch.attestations_refused] == [2], position
        assert (patch.patch_id, patch.metadata, patch.diff) == (whole.patch_id, whole.metadata, whole.diff)
        set_aside += 1
    assert set_aside


@pytest.mark.slow
def test_a_flipped_byte_in_a_sealed_trailer_never_leaves_a_sealed_patch() -> None:
    start = len(VERIFIED.file.body) + len(trailer_lines(RELEASED)[0]) + 1
    for position in range(start, len(RELEASED)):
        flipped = bytearray(RELEASED)
        flipped[position] ^= 0x02
        try:
            patch = verify_patch_untrusted(bytes(flipped))
        except RejectedError:
            continue
        # Only a seal that no longer reads as one leaves a file: unsealed, and the damaged line is named.
        assert patch.seal is None, position
        assert [refused.index for refused in patch.attestations_refused] == [3], position


# The seal.


def test_every_removed_permuted_or_doubled_line_under_a_seal_is_refused() -> None:
    lines = trailer_lines(RELEASED)
    author, middle, last = lines[0], lines[1:-1], lines[-1]
    for count in range(len(middle) + 1):
        for chosen in itertools.permutations(middle, count):
            if list(chosen) == middle:
                continue
            assert seal_refusal(with_lines(RELEASED, [author, *chosen, last])).code == "provenance.seal.attestations"
    assert seal_refusal(with_lines(RELEASED, [author, *middle, middle[0], last])).code == "provenance.seal.attestations"


def test_nothing_follows_a_seal() -> None:
    extra = trailer_lines(approve(PATCH, CAROL, "carol@gamma"))[1]
    assert seal_refusal(RELEASED + extra + b"\n").code == "provenance.seal.not_last"
    assert seal_refusal(RELEASED + trailer_lines(RELEASED)[-1] + b"\n").code == "provenance.seal.not_last"
    lines = trailer_lines(RELEASED)
    assert seal_refusal(with_lines(RELEASED, [lines[0], lines[-1], *lines[1:-1]])).code == "provenance.seal.not_last"


def test_without_its_seal_the_file_is_an_unsealed_patch() -> None:
    # The file alone cannot tell: the ledger's list of attestations does.
    assert verify_patch_untrusted(with_lines(RELEASED, trailer_lines(RELEASED)[:-1])).seal is None


def test_a_seal_over_nothing_says_that_there_is_nothing() -> None:
    sealed = seal(PATCH)
    assert verify_patch_untrusted(sealed).seal is not None
    lines = trailer_lines(sealed)
    added = trailer_lines(approve(PATCH))[1]
    assert seal_refusal(with_lines(sealed, [lines[0], added, lines[1]])).code == "provenance.seal.attestations"


def test_a_seal_of_another_patch_is_refused() -> None:
    other_seal = trailer_lines(seal(OTHER))[1]
    assert seal_refusal(PATCH + other_seal + b"\n").code == "provenance.seal.other_patch"


def _resealed(change: Change, key: Any = DAVE) -> bytes:
    payload = json.loads(build_seal(VERIFIED, DAVE, "dave@acme", LATER).payload)
    change(payload)
    return with_envelope(PATCH, sign_envelope(canonical_json.encode(payload), key))


def test_a_seal_repeats_counter_and_superseded_patches() -> None:
    assert seal_refusal(_resealed(_set("release_counter", 7))).code == "provenance.seal.release"
    assert seal_refusal(_resealed(_set("supersedes", ["a" * 64]))).code == "provenance.seal.release"


def test_a_seal_is_signed_with_the_key_it_names() -> None:
    assert seal_refusal(_resealed(lambda statement: None, CAROL)).code == "provenance.seal.signature"
    honest = build_seal(VERIFIED, DAVE, "dave@acme", LATER)
    broken = replace(honest, signatures=(replace(honest.signatures[0], sig=bytes(64)),))
    assert seal_refusal(with_envelope(PATCH, broken)).code == "provenance.seal.signature"
    nobody = _set("attestor", {"identity": "dave@acme", "did": "did:web:acme"})
    assert seal_refusal(_resealed(nobody)).code == "provenance.seal.signature"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_set("crit", 1), "provenance.field.member_unknown"),
        (_set("attestations", ["x"]), "provenance.field.digest"),
        (_set("attestations", ["0" * 64] * 257), "provenance.field.length"),
        (_set("supersedes", ["b" * 64, "a" * 64]), "provenance.field.order"),
        (_set("release_counter", 0), "provenance.field.range"),
        (_set("time", ""), "provenance.field.timestamp"),
        (drop_time, "provenance.field.member_missing"),
    ],
)
def test_a_seal_outside_its_form_seals_nothing_and_is_set_aside(change: Change, code: str) -> None:
    assert refused_code(_resealed(change)) == code


def test_a_seal_does_not_hold_over_a_line_that_does_not() -> None:
    broken = replace(
        sign_raw(VERIFIED, lambda statement: None), signatures=(Signature(BOB.public_key.key_id_hex, bytes(64)),)
    )
    data = with_envelope(PATCH, broken)
    refused = verify_patch_untrusted(data)
    assert refused.attestations_refused
    with pytest.raises(InvalidMetadataError) as caught:
        build_seal(refused, DAVE, "dave@acme", LATER)
    assert caught.value.code == "provenance.seal.attestation_refused"

    def name_it(statement: dict[str, Any]) -> None:
        statement["predicate"]["attestations"] = [broken.payload_digest.hex()]

    payload = json.loads(build_seal(VERIFIED, DAVE, "dave@acme", LATER).payload)
    name_it(payload)
    sealed = with_envelope(data, sign_envelope(canonical_json.encode(payload), DAVE))
    assert seal_refusal(sealed).code == "provenance.seal.attestation_refused"


# Other people's predicate types.


@pytest.mark.parametrize(
    ("result", "verdict"), [("PASSED", Verdict.APPROVE), ("WARNED", None), ("FAILED", Verdict.REJECT)]
)
def test_a_test_result_counts_as_what_it_says(result: str, verdict: Verdict | None) -> None:
    assert verify_patch_untrusted(add_test_result(PATCH, result)).attestations[0].verdict is verdict


def test_a_test_result_is_the_vetted_in_toto_predicate() -> None:
    envelope = build_test_result(
        VERIFIED,
        "FAILED",
        CAROL,
        "ci@acme",
        LATER,
        url="https://ci.example.org/7",
        passed=["a"],
        warned=["b"],
        failed=["c"],
    )
    statement = json.loads(envelope.payload)
    tests = VERIFIED.metadata.validation_tests
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert {name: value for name, value in statement["predicate"].items() if name != "patchwarden"} == {
        "result": "FAILED",
        "configuration": [{"name": "patchwarden-tree-sha256/1", "digest": {"sha256": tests.sha256}}],
        "url": "https://ci.example.org/7",
        "passedTests": ["a"],
        "warnedTests": ["b"],
        "failedTests": ["c"],
    }


@pytest.mark.parametrize("result", ["passed", "", "OK"])
def test_a_test_result_has_one_of_three_results(result: str) -> None:
    with pytest.raises(InvalidMetadataError) as caught:
        build_test_result(VERIFIED, result, CAROL, "ci@acme", LATER)
    assert caught.value.code == "provenance.field.choice"

    def change(statement: dict[str, Any]) -> None:
        statement["predicate"]["result"] = result

    payload = json.loads(build_test_result(VERIFIED, "PASSED", CAROL, "ci@acme", LATER).payload)
    change(payload)
    assert (
        refused_code(with_envelope(PATCH, sign_envelope(canonical_json.encode(payload), CAROL)))
        == "provenance.field.choice"
    )


def _predicate(predicate_type: str, predicate: bytes) -> Envelope:
    return build_predicate_attestation(VERIFIED, predicate_type, predicate, "scanner", CAROL, "ci@acme", "", LATER)


def test_any_vetted_predicate_can_be_carried() -> None:
    vulnerabilities = b'{ "scanner": {"uri": "pkg:github/aquasecurity/trivy", "result": []} }'
    data = append_attestation(
        PATCH, encode_envelope(_predicate("https://in-toto.io/attestation/vulns/v0.2", vulnerabilities))
    )
    attestation = verify_patch_untrusted(data).attestations[0]
    assert (attestation.predicate_type, attestation.verdict) == ("https://in-toto.io/attestation/vulns/v0.2", None)
    assert json.loads(attestation.statement_json)["predicate"]["scanner"]["result"] == []


@pytest.mark.parametrize(("result", "verdict"), [(b"PASSED", Verdict.APPROVE), (b"FAILED", Verdict.REJECT)])
def test_a_verification_summary_counts_as_what_it_says(result: bytes, verdict: Verdict) -> None:
    envelope = _predicate(PREDICATE_VSA, b'{"verificationResult":"' + result + b'"}')
    assert verify_patch_untrusted(with_envelope(PATCH, envelope)).attestations[0].verdict is verdict


@pytest.mark.parametrize(
    ("predicate_type", "predicate", "code"),
    [
        (PREDICATE_REVIEW, b"{}", "provenance.statement.predicate_type"),
        (PREDICATE_SEAL, b"{}", "provenance.statement.predicate_type"),
        (PREDICATE_PATCH, b"{}", "provenance.statement.predicate_type"),
        ("no uri", b"{}", "provenance.statement.predicate_type"),
        (PREDICATE_VSA, b"{}", "provenance.field.choice"),
        ("https://example.org/x", b"[]", "provenance.field.object"),
        ("https://example.org/x", b'{"patchwarden":{}}', "provenance.field.member_unknown"),
        ("https://example.org/x", b'{"a":1.5}', "wire.json.float"),
        ("https://example.org/x", b"{", "wire.json.syntax"),
    ],
)
def test_a_predicate_that_nobody_would_accept_is_not_signed(predicate_type: str, predicate: bytes, code: str) -> None:
    with pytest.raises(RejectedError) as caught:
        _predicate(predicate_type, predicate)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("security review", "approve", "bob@beta", "", LATER), "provenance.field.identifier"),
        (("security-review", "maybe", "bob@beta", "", LATER), "provenance.field.choice"),
        (("security-review", "approve", "Bob", "", LATER), "provenance.field.identity_id"),
        (("security-review", "approve", "bob@beta", "a\x00", LATER), "provenance.field.characters"),
        (("security-review", "approve", "bob@beta", "", "now"), "provenance.field.timestamp"),
    ],
)
def test_a_review_that_nobody_would_accept_is_not_signed(arguments: tuple[str, ...], code: str) -> None:
    role, verdict, identity, comment, time = arguments
    with pytest.raises(InvalidMetadataError) as caught:
        build_attestation(VERIFIED, role, verdict, BOB, identity, comment, time)
    assert caught.value.code == code


def test_a_seal_by_nobody_is_not_signed() -> None:
    with pytest.raises(InvalidMetadataError) as caught:
        build_seal(VERIFIED, DAVE, "dave", LATER)
    assert caught.value.code == "provenance.field.identity_id"
    with pytest.raises(InvalidMetadataError) as caught:
        build_seal(verify_patch_untrusted(RELEASED), DAVE, "dave@acme", LATER)
    assert caught.value.code == "provenance.seal.sealed"


def test_statements_read_back_for_those_without_the_file() -> None:
    patch = verify_patch_untrusted(RELEASED)
    review = decode_attestation_statement_untrusted(patch.attestations[1].statement_json)
    assert isinstance(review, AttestationStatement)
    assert (review.binding, review.attestor.identity) == (patch.binding, "bob@beta")
    assert patch.seal is not None
    assert isinstance(decode_attestation_statement_untrusted(patch.seal.envelope.payload), SealStatement)


# Appending.


def test_appending_changes_nothing_before() -> None:
    approved = approve(PATCH)
    assert approved.startswith(PATCH)
    assert verify_patch_untrusted(approved).patch_id == VERIFIED.patch_id


@pytest.mark.parametrize("which", ["moved", "twice", "stranger"])
def test_appending_refuses_what_verification_would_set_aside(which: str) -> None:
    approved = approve(PATCH)
    line, code = {
        "moved": (trailer_lines(approve(OTHER))[1], "provenance.attestation.other_patch"),
        "twice": (trailer_lines(approved)[1], "provenance.attestation.duplicate"),
        "stranger": (
            encode_envelope(sign_envelope(sign_raw(VERIFIED, lambda _: None).payload, CAROL)),
            "provenance.attestation.keyid",
        ),
    }[which]
    with pytest.raises(AttestationRefusedError) as caught:
        append_attestation(approved, line)
    assert caught.value.code == code


def test_appending_refuses_a_seal_that_does_not_hold() -> None:
    with pytest.raises(InvalidMetadataError) as caught:
        append_attestation(approve(PATCH), trailer_lines(seal(PATCH))[-1])
    assert caught.value.code == "provenance.seal.attestations"


def test_nothing_is_appended_to_a_sealed_patch() -> None:
    for line in (trailer_lines(approve(PATCH, CAROL, "carol@gamma"))[1], trailer_lines(RELEASED)[-1]):
        with pytest.raises(InvalidMetadataError) as caught:
            append_attestation(RELEASED, line)
        assert caught.value.code == "provenance.seal.sealed"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"", "provenance.file.trailer_line"),
        (b"{}", "wire.envelope.members"),
        (b"{}\n{}", "provenance.file.trailer_line"),
        (b"\xff", "provenance.file.trailer_byte"),
        (trailer_lines(approve(PATCH))[1] + b"\n", "provenance.file.trailer_line"),
        (b" " + trailer_lines(approve(PATCH))[1], "provenance.file.trailer_line"),
    ],
    ids=["empty", "no-envelope", "two-lines", "byte", "line-feed", "indented"],
)
def test_appending_refuses_what_is_no_line(line: bytes, code: str) -> None:
    with pytest.raises(MalformedPatchError) as caught:
        append_attestation(PATCH, line)
    assert caught.value.code == code


def test_appending_to_a_file_that_does_not_verify_is_refused() -> None:
    with pytest.raises(MalformedPatchError):
        append_attestation(PATCH[1:], trailer_lines(approve(PATCH))[1])


def test_a_patch_carries_many_attestations() -> None:
    patch: VerifiedPatch = VERIFIED
    lines = [
        encode_envelope(build_attestation(patch, f"role-{index}", "approve", CAROL, "carol@gamma", "", LATER))
        for index in range(255)
    ]
    data = PATCH + b"".join(line + b"\n" for line in lines)
    assert len(verify_patch_untrusted(data).attestations) == 255
    with pytest.raises(MalformedPatchError) as caught:
        append_attestation(data, lines[0])
    assert caught.value.code == "provenance.file.trailer_lines"
