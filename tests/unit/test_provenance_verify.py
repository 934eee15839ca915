"""Verification, step by step: what each step refuses, with which class and code, and that nothing in a file can be changed."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from provenance.diff_model import FileState
from provenance.errors import DiffRefusedError, InvalidMetadataError, InvalidSignatureError, MalformedPatchError
from provenance.identity import CreatorIdentity
from provenance.layout import BODY_END
from provenance.limits import COMPONENTS_SUMMARISED_MIN
from provenance.patchfile import build_patch_file
from provenance.preamble import render_preamble
from provenance.statement import AuthorStatement, decode_author_statement_untrusted, encode_author_statement
from provenance.verify import check_metadata, check_signature_untrusted, extract_metadata, verify_patch_untrusted
from tests.testkit.certificates import make_chain
from tests.testkit.patches import (
    ALICE,
    BOB,
    CAROL,
    EVERY_KIND_AFTER,
    EVERY_KIND_BEFORE,
    EVERY_KIND_RENAMES,
    FRAME_BEFORE,
    make_metadata,
    make_patch,
    make_released_patch,
    resign,
    resign_with_preamble,
    trailer_lines,
    with_author_payload,
    with_lines,
)
from wire import canonical_json
from wire.envelope import Envelope, Signature, encode_envelope, pae, sign_envelope
from wire.errors import RejectedError
from wire.hashing import sha256

PATCH = make_patch()


def refusal(data: bytes) -> RejectedError:
    with pytest.raises(RejectedError) as caught:
        verify_patch_untrusted(data)
    return caught.value


def test_a_verified_patch_tells_what_was_put_into_it() -> None:
    metadata, diff = make_metadata(EVERY_KIND_BEFORE, EVERY_KIND_AFTER, EVERY_KIND_RENAMES)
    data = build_patch_file(metadata, diff, ALICE)
    patch = verify_patch_untrusted(data)
    assert patch.metadata == metadata
    assert patch.diff.raw == diff
    assert patch.author_key == ALICE.public_key
    assert patch.patch_id == sha256(render_preamble(metadata) + diff + BODY_END).hex()
    assert patch.author_payload_digest == sha256(patch.author_envelope.payload)
    assert (patch.attestations, patch.attestations_refused, patch.seal) == ((), (), None)


def test_the_three_steps_one_by_one_lead_to_the_same_patch() -> None:
    data = make_released_patch()
    assert check_metadata(extract_metadata(check_signature_untrusted(data))) == verify_patch_untrusted(data)


def test_the_same_inputs_make_the_same_bytes() -> None:
    assert make_patch() == PATCH
    assert make_released_patch() == make_released_patch()


@pytest.mark.parametrize("kind", ["did-ed25519", "did-p256", "x509"])
def test_the_signing_key_follows_from_the_creator_identity(kind: str) -> None:
    key = BOB if kind == "did-p256" else ALICE
    creator = (
        CreatorIdentity.from_certificates(make_chain(ALICE), "Alice", "alice@acme.example")
        if kind == "x509"
        else CreatorIdentity.from_key(key.public_key, "Somebody", "somebody@acme.example")
    )
    metadata, diff = make_metadata(creator_identity=creator)
    assert verify_patch_untrusted(build_patch_file(metadata, diff, key)).author_key == key.public_key


def test_the_statement_alone_reads_back_for_those_without_the_file() -> None:
    patch = verify_patch_untrusted(PATCH)
    statement = decode_author_statement_untrusted(patch.author_envelope.payload)
    assert statement == AuthorStatement(patch.patch_id, patch.metadata.patch_diff.sha256, patch.metadata)
    assert encode_author_statement(statement) == patch.author_envelope.payload


# Every byte.


def test_every_flipped_byte_of_the_body_is_refused() -> None:
    body_size = len(verify_patch_untrusted(PATCH).file.body)
    for position in range(body_size):
        flipped = bytearray(PATCH)
        flipped[position] ^= 0x01
        error = refusal(bytes(flipped))
        assert isinstance(error, MalformedPatchError | InvalidSignatureError), (position, error)


@pytest.mark.slow
def test_every_byte_of_the_body_is_there_once() -> None:
    body_size = len(verify_patch_untrusted(PATCH).file.body)
    for position in range(body_size):
        assert isinstance(
            refusal(PATCH[:position] + PATCH[position + 1 :]), MalformedPatchError | InvalidSignatureError
        )
        doubled = PATCH[: position + 1] + PATCH[position:]
        assert isinstance(refusal(doubled), MalformedPatchError | InvalidSignatureError)


@pytest.mark.slow
@pytest.mark.parametrize("mask", [0x01, 0x20])
def test_every_flipped_byte_of_the_authors_line_is_refused(mask: int) -> None:
    start = len(verify_patch_untrusted(PATCH).file.body)
    for position in range(start, len(PATCH)):
        flipped = bytearray(PATCH)
        flipped[position] ^= mask
        error = refusal(bytes(flipped))
        assert isinstance(error, MalformedPatchError | InvalidSignatureError), (position, error)


def test_every_cut_of_the_file_is_refused_or_ends_between_attestations() -> None:
    data = make_released_patch()
    whole = verify_patch_untrusted(data)
    ends = set()
    end = len(whole.file.body)
    for line in whole.file.trailer:
        end += len(line) + 1
        ends.add(end)
    for length in range(len(data)):
        if length in ends:
            assert verify_patch_untrusted(data[:length]).seal is None
        else:
            refusal(data[:length])


# Step 1: the signature.


def test_a_signature_of_another_key_is_refused() -> None:
    patch = verify_patch_untrusted(PATCH)
    forged = sign_envelope(patch.author_envelope.payload, CAROL)
    error = refusal(patch.file.body + encode_envelope(forged) + b"\n")
    assert (type(error), error.code) == (InvalidSignatureError, "provenance.signature.keyid")
    # Naming Alice's key does not help: the signature is still Carol's.
    renamed = replace(forged, signatures=(replace(forged.signatures[0], keyid=ALICE.public_key.key_id_hex),))
    error = refusal(patch.file.body + encode_envelope(renamed) + b"\n")
    assert (type(error), error.code) == (InvalidSignatureError, "provenance.signature.invalid")


def test_a_signature_by_another_algorithm_under_the_same_key_id_is_refused() -> None:
    patch = verify_patch_untrusted(PATCH)
    payload = patch.author_envelope.payload
    signature = BOB.sign(pae(patch.author_envelope.payload_type, payload))
    envelope = Envelope(
        patch.author_envelope.payload_type, payload, (Signature(ALICE.public_key.key_id_hex, signature),)
    )
    assert refusal(patch.file.body + encode_envelope(envelope) + b"\n").code == "provenance.signature.invalid"


def test_the_payload_type_is_signed() -> None:
    patch = verify_patch_untrusted(PATCH)
    renamed = replace(patch.author_envelope, payload_type="application/json")
    error = refusal(patch.file.body + encode_envelope(renamed) + b"\n")
    assert (type(error), error.code) == (MalformedPatchError, "provenance.statement.payload_type")


def test_metadata_naming_another_creator_needs_that_creators_signature() -> None:
    def name_carol(statement: dict[str, Any]) -> None:
        statement["predicate"]["creator_identity"]["did"] = CAROL.public_key.did

    assert refusal(resign(PATCH, name_carol)).code == "provenance.signature.keyid"


@pytest.mark.parametrize(
    ("identity", "code"),
    [
        (None, "provenance.signature.creator"),
        ({}, "provenance.signature.creator"),
        ({"kind": "did", "did": "did:key:zz", "name": "A", "email": "a@b", "crit": 1}, "provenance.signature.creator"),
        ({"kind": "web", "did": ALICE.public_key.did, "name": "A", "email": "a@b"}, "provenance.signature.creator"),
        ({"kind": "did", "did": "did:web:example.org", "name": "A", "email": "a@b"}, "wire.key.did"),
        ({"kind": "x509", "certificate_chain": ["AAAA"], "name": "A", "email": "a@b"}, "wire.x509.malformed"),
    ],
)
def test_a_creator_without_a_key_is_an_invalid_signature(identity: object, code: str) -> None:
    def change(statement: dict[str, Any]) -> None:
        statement["predicate"]["creator_identity"] = identity

    error = refusal(resign(PATCH, change))
    assert (type(error), error.code) == (InvalidSignatureError, code)


def test_a_predicate_without_a_creator_is_an_invalid_signature() -> None:
    assert (
        refusal(resign(PATCH, lambda statement: statement["predicate"].pop("creator_identity"))).code
        == "provenance.signature.creator"
    )


@pytest.mark.parametrize(("index", "code"), [(0, "provenance.signature.body"), (1, "provenance.signature.diff")])
def test_a_statement_about_other_bytes_is_refused(index: int, code: str) -> None:
    def change(statement: dict[str, Any]) -> None:
        statement["subject"][index]["digest"]["sha256"] = "0" * 64

    error = refusal(resign(PATCH, change))
    assert (type(error), error.code) == (InvalidSignatureError, code)


def test_an_authors_line_on_another_body_is_refused() -> None:
    other = make_patch(after={"src/frame.c": FileState(0o100644, FRAME_BEFORE + b"/* more */\n")})
    data = verify_patch_untrusted(other).file.body + trailer_lines(PATCH)[0] + b"\n"
    assert refusal(data).code == "provenance.signature.body"


# The statement's form.


def _member(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(statement: dict[str, Any]) -> None:
        statement[name] = value

    return change


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("_type", "https://in-toto.io/Statement/v0.1", "provenance.statement.type"),
        ("_type", None, "provenance.statement.type"),
        ("predicateType", "https://patchwarden.dev/provenance/patch/v2", "provenance.statement.predicate_type"),
        ("predicateType", "https://patchwarden.dev/provenance/review/v1", "provenance.statement.predicate_type"),
        ("predicateType", "patch", "provenance.statement.predicate_type"),
        ("predicateType", 1, "provenance.statement.predicate_type"),
        ("predicateType", "https://example.org/" + "x" * 300, "provenance.statement.predicate_type"),
        ("predicate", [], "provenance.statement.predicate"),
        ("predicate", "x", "provenance.statement.predicate"),
        ("subject", {}, "provenance.statement.subject"),
        ("subject", [], "provenance.statement.subject"),
        ("subject", [{"name": "patch-body", "digest": {"sha256": "0" * 64}}], "provenance.statement.subject"),
        ("subject", [{"name": "patch-body", "digest": {"sha512": "0" * 128}}] * 2, "provenance.statement.subject"),
        ("subject", [{"name": "patch-body", "digest": {"sha256": "0" * 63}}] * 2, "provenance.statement.subject"),
        (
            "subject",
            [{"name": "patch-body", "digest": {"sha256": "0" * 64, "md5": ""}}] * 2,
            "provenance.statement.subject",
        ),
        (
            "subject",
            [{"name": "patch-body", "digest": {"sha256": "0" * 64}, "uri": ""}] * 2,
            "provenance.statement.subject",
        ),
        ("crit", ["x"], "provenance.statement.members"),
        ("PredicateType", "x", "provenance.statement.members"),
    ],
)
def test_a_statement_has_exactly_its_form(name: str, value: object, code: str) -> None:
    error = refusal(resign(PATCH, _member(name, value)))
    assert (type(error), error.code) == (MalformedPatchError, code)


@pytest.mark.parametrize(
    "addition", [{"digest": {"md5": "0" * 32}}, {"uri": "https://example.org"}], ids=["digest", "member"]
)
def test_a_subject_says_nothing_more_than_its_name_and_digest(addition: dict[str, Any]) -> None:
    def change(statement: dict[str, Any]) -> None:
        subject = statement["subject"][1]
        subject["digest"].update(addition.get("digest", {}))
        subject.update({member: value for member, value in addition.items() if member != "digest"})

    error = refusal(resign(PATCH, change))
    assert (type(error), error.code) == (MalformedPatchError, "provenance.statement.subject")


def test_subjects_have_one_order() -> None:
    error = refusal(resign(PATCH, lambda statement: statement["subject"].reverse()))
    assert error.code == "provenance.statement.subject"


def test_a_statement_lacks_no_member() -> None:
    assert refusal(resign(PATCH, lambda statement: statement.pop("_type"))).code == "provenance.statement.members"
    assert refusal(with_author_payload(PATCH, b"[]")).code == "provenance.statement.members"


# The JSON that was signed: readers that disagree must never meet it.


def _payload() -> bytes:
    return verify_patch_untrusted(PATCH).author_envelope.payload


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b'"release_counter":1', b'"release_counter":1,"release_counter":9', "wire.json.duplicate_member"),
        (b'"release_counter":1', b'"release_counter":1.0', "wire.json.float"),
        (b'"release_counter":1', b'"release_counter":1e3', "wire.json.float"),
        (b'"release_counter":1', b'"release_counter":1e400', "wire.json.float"),
        (b'"release_counter":1', b'"release_counter":NaN', "wire.json.float"),
        (b'"release_counter":1', b'"release_counter":-0', "wire.json.float"),
        (b'"release_counter":1', b'"release_counter":Infinity', "wire.json.float"),
        (b'"release_counter":1', b'"release_counter":9007199254740992', "wire.json.integer_range"),
        (b'"release_counter":1', b'"release_counter": 1', "wire.json.not_canonical"),
        (b"Alice", b"\\u0041lice", "wire.json.not_canonical"),
        (b"Alice", b"\\ud800", "wire.json.surrogate"),
        (b"Alice", b"e\xcc\x81", "wire.json.not_nfc"),
        (b"Alice", b"\xff", "wire.json.utf8"),
        (b"Alice", b"\xed\xa0\x80", "wire.json.utf8"),
        (b'"not_after":null', b'"not_after":' + b"[" * 40 + b"]" * 40, "wire.json.too_deep"),
        (b'"supersedes":[]', b'"supersedes":[' + b"0," * 100_000 + b"0]", "wire.json.too_many_items"),
        (b'"not_after":null', b'"not_after":nul', "wire.json.syntax"),
        (b'{"_type"', b'\xef\xbb\xbf{"_type"', "wire.json.bom"),
    ],
    ids=lambda value: value[:40].decode("ascii", "backslashreplace") if isinstance(value, bytes) else value,
)
def test_json_with_two_readings_is_refused_although_its_author_signed_it(old: bytes, new: bytes, code: str) -> None:
    payload = _payload()
    assert payload.count(old) >= 1
    error = refusal(with_author_payload(PATCH, payload.replace(old, new)))
    assert (type(error), error.code) == (MalformedPatchError, code)


# The envelope's form.


def _line(old: bytes, new: bytes) -> bytes:
    line = trailer_lines(PATCH)[0]
    assert line.count(old) == 1
    return verify_patch_untrusted(PATCH).file.body + line.replace(old, new) + b"\n"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b',"payloadType"', b' ,"payloadType"', "wire.envelope.not_canonical"),
        (b'"payloadType"', b'"payloadtype"', "wire.envelope.members"),
        (b',"signatures"', b',"junk":1,"signatures"', "wire.envelope.members"),
        (b'"keyid"', b'"crit":1,"keyid"', "wire.envelope.members"),
        (b'"signatures":[', b'"signatures":[],"signatures":[', "wire.json.duplicate_member"),
        (b'=="}]', b'="}]', "wire.envelope.base64"),
        (b'=="}]', b'"}]', "wire.envelope.base64"),
        (b'{"payload":"', b'{"payload":"\\n', "wire.envelope.base64"),
        (b'{"payload":"ey', b'{"payload":"e_', "wire.envelope.base64"),
        (
            b'"signatures":[{',
            b'"signatures":[{"keyid":"' + b"0" * 64 + b'","sig":"AAAA"},{',
            "wire.envelope.signatures",
        ),
    ],
    ids=lambda value: value[:30].decode() if isinstance(value, bytes) else value,
)
def test_an_envelope_has_one_form(old: bytes, new: bytes, code: str) -> None:
    error = refusal(_line(old, new))
    assert (type(error), error.code) == (MalformedPatchError, code)


def test_base64_with_unused_bits_is_refused() -> None:
    patch = verify_patch_untrusted(PATCH)
    document = json.loads(patch.file.trailer[0])
    signature = document["signatures"][0]["sig"]
    assert signature.endswith("==")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = signature[:-3] + alphabet[alphabet.index(signature[-3]) + 1] + "=="
    assert base64.b64decode(other) == base64.b64decode(signature)
    document["signatures"][0]["sig"] = other
    error = refusal(patch.file.body + canonical_json.encode(document) + b"\n")
    assert (type(error), error.code) == (MalformedPatchError, "wire.envelope.base64")


def test_two_signatures_of_one_key_in_one_envelope_are_refused() -> None:
    patch = verify_patch_untrusted(PATCH)
    document = json.loads(patch.file.trailer[0])
    document["signatures"] *= 2
    error = refusal(patch.file.body + canonical_json.encode(document) + b"\n")
    assert (type(error), error.code) == (MalformedPatchError, "wire.envelope.signatures")


def test_the_authors_line_is_the_first() -> None:
    data = make_released_patch()
    lines = trailer_lines(data)
    for permuted in ([lines[1], lines[0], *lines[2:]], lines[1:], lines[::-1]):
        error = refusal(with_lines(data, permuted))
        assert isinstance(error, MalformedPatchError), error
        assert error.code in {"provenance.statement.subject", "provenance.statement.predicate_type"}


# Step 2 is test_provenance_metadata.py and test_provenance_preamble.py. Step 3: the metadata describes the diff.


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("sha256", "diff_digest"),
        ("size_bytes", "diff_size"),
        ("files", "diff_files"),
        ("lines_added", "diff_lines_added"),
        ("lines_removed", "diff_lines_removed"),
    ],
)
def test_a_summary_of_another_diff_is_refused(field: str, code: str) -> None:
    def change(statement: dict[str, Any]) -> None:
        summary = statement["predicate"]["patch_diff"]
        summary[field] = "0" * 64 if field == "sha256" else summary[field] + 1

    error = refusal(resign(PATCH, change))
    assert (type(error), error.code) == (InvalidMetadataError, f"provenance.metadata.{code}")


def test_a_diff_with_two_meanings_is_refused_although_its_author_signed_it() -> None:
    patch = verify_patch_untrusted(PATCH)
    for old, new in ((b"+++ b/src/frame.c", b"+++ b/src/other.c"), (b"@@ -3,7 +3,7 @@", b"@@ -3,7 +3,8 @@")):
        diff = patch.file.diff.replace(old, new)
        assert diff != patch.file.diff
        summary = replace(patch.metadata.patch_diff, sha256=sha256(diff).hex(), size_bytes=len(diff))
        metadata = replace(patch.metadata, patch_diff=summary)
        body = render_preamble(metadata) + diff + BODY_END
        statement = AuthorStatement(sha256(body).hex(), sha256(diff).hex(), metadata)
        error = refusal(body + encode_envelope(sign_envelope(encode_author_statement(statement), ALICE)) + b"\n")
        assert isinstance(error, DiffRefusedError), error
        with pytest.raises(DiffRefusedError):
            build_patch_file(metadata, diff, ALICE)


def test_metadata_outside_its_form_is_refused_at_step_2_with_the_signature_intact() -> None:
    data = resign(PATCH, lambda statement: statement["predicate"].update(release_counter=0))
    signed = check_signature_untrusted(data)
    with pytest.raises(InvalidMetadataError) as caught:
        extract_metadata(signed)
    assert caught.value.code == "provenance.field.range"


# Building.


def test_nobody_signs_with_a_key_that_the_metadata_does_not_name() -> None:
    metadata, diff = make_metadata()
    with pytest.raises(InvalidSignatureError) as caught:
        build_patch_file(metadata, diff, CAROL)
    assert caught.value.code == "provenance.signature.keyid"


def test_metadata_too_long_for_a_trailer_line_is_refused_when_building(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few files are always listed; the limit is lower here, because they would need more than it otherwise."""
    monkeypatch.setattr("provenance.patchfile.ENVELOPE_LINE_BYTES_MAX", 64 * 1024)
    before = {f"folder/{i:04}": FileState(0o100644, b"a\n") for i in range(COMPONENTS_SUMMARISED_MIN - 1)}
    after = {path: FileState(0o100644, b"b\n") for path in before}
    metadata, diff = make_metadata(before, after)
    with pytest.raises(MalformedPatchError) as caught:
        build_patch_file(metadata, diff, ALICE)
    assert caught.value.code == "provenance.file.author_line_length"


def test_metadata_that_only_the_form_refuses_is_never_signed() -> None:
    metadata, diff = make_metadata(release_counter=0)
    with pytest.raises(InvalidMetadataError) as caught:
        build_patch_file(metadata, diff, ALICE)
    assert caught.value.code == "provenance.field.range"


def test_the_patch_id_survives_signing_again() -> None:
    metadata, diff = make_metadata(creator_identity=CreatorIdentity.from_key(BOB.public_key, "Bob", "bob@beta.example"))
    data = build_patch_file(metadata, diff, BOB)
    again = resign_with_preamble(data, metadata, BOB)
    assert verify_patch_untrusted(again).patch_id == verify_patch_untrusted(data).patch_id
