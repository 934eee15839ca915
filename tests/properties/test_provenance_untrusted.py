"""Bytes from anywhere: they verify, or a `RejectedError` says why; nothing else ever comes out."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from provenance.build_environment import BuildEnvironment
from provenance.errors import InvalidMetadataError, InvalidSignatureError, MalformedPatchError
from provenance.identity import CreatorIdentity
from provenance.intoto import decode_statement_untrusted
from provenance.layout import split_patch_file_untrusted
from provenance.metadata import PatchMetadata
from provenance.statement import (
    AUTHOR_SUBJECTS,
    decode_attestation_statement_untrusted,
    decode_author_statement_untrusted,
)
from provenance.verify import verify_patch_untrusted
from tests.testkit.patches import (
    ALICE,
    BOB,
    approve,
    make_patch,
    make_released_patch,
    sign_raw,
    trailer_lines,
    with_author_payload,
    with_lines,
)
from wire import canonical_json
from wire.envelope import encode_envelope, sign_envelope
from wire.errors import RejectedError

PATCH = make_patch()
VERIFIED = verify_patch_untrusted(PATCH)
RELEASED = make_released_patch()
RELEASED_VERIFIED = verify_patch_untrusted(RELEASED)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=12), children, max_size=4),
    max_leaves=12,
)


@st.composite
def edited(draw: st.DrawFn, data: bytes) -> bytes:
    """A file with a few pieces replaced, inserted, deleted or repeated."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 200)))
        piece = draw(
            st.binary(max_size=40)
            | st.sampled_from(
                [data[start:end] * 2, b"\n", b"{}\n", b"-- \npatchwarden 1\n\n", b"diff --git a/x b/x\n", b"\0"]
            )
        )
        data = data[:start] + piece + data[end:]
    return data


@given(st.binary(max_size=2000))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    try:
        verify_patch_untrusted(data)
    except MalformedPatchError:
        return
    raise AssertionError("random bytes verified")


@given(edited(RELEASED))
def test_an_edited_file_is_refused_or_says_the_same(data: bytes) -> None:
    try:
        patch = verify_patch_untrusted(data)
    except (MalformedPatchError, InvalidSignatureError, InvalidMetadataError):
        return
    assert patch.patch_id == VERIFIED.patch_id
    assert patch.metadata == VERIFIED.metadata
    assert patch.author_payload_digest == VERIFIED.author_payload_digest
    assert {one.payload_digest for one in patch.attestations} <= {
        one.payload_digest for one in RELEASED_VERIFIED.attestations
    }


@given(edited(PATCH))
def test_splitting_keeps_every_byte_or_refuses(data: bytes) -> None:
    try:
        file = split_patch_file_untrusted(data)
    except MalformedPatchError:
        return
    assert file.preamble + file.diff + b"-- \npatchwarden 1\n\n" == file.body
    assert file.body + b"".join(line + b"\n" for line in file.trailer) == data


@given(st.permutations(trailer_lines(RELEASED)), st.integers(0, 4))
def test_no_other_order_or_number_of_lines_is_the_sealed_patch(lines: list[bytes], count: int) -> None:
    data = with_lines(RELEASED, lines[:count])
    try:
        patch = verify_patch_untrusted(data)
    except RejectedError:
        return
    assert patch.seal is None or data == RELEASED


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        found += [place for name, item in value.items() for place in places(item, (*path, name))]
    elif isinstance(value, list):
        found += [place for index, item in enumerate(value) for place in places(item, (*path, index))]
    return found


AUTHOR_STATEMENT = json.loads(VERIFIED.author_envelope.payload)
REVIEW_STATEMENT = json.loads(sign_raw(VERIFIED, lambda statement: None).payload)


def replaced(statement: Any, path: tuple[Any, ...], value: Any) -> bytes | None:
    """The statement's canonical JSON with one value replaced; None where JSON of ours cannot hold it."""
    copy = json.loads(json.dumps(statement))
    target = copy
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    try:
        return canonical_json.encode(copy)
    except RejectedError:
        return None


@given(st.sampled_from(places(AUTHOR_STATEMENT)), JSON)
def test_any_other_value_that_the_author_signs_is_refused(path: tuple[Any, ...], value: Any) -> None:
    payload = replaced(AUTHOR_STATEMENT, path, value)
    if payload is None or payload == VERIFIED.author_envelope.payload:
        return
    data = with_author_payload(PATCH, payload, ALICE)
    try:
        patch = verify_patch_untrusted(data)
    except (MalformedPatchError, InvalidSignatureError, InvalidMetadataError):
        return
    # What neither diff nor preamble show: digests of the files, which application checks, and whether the document is disclosed.
    assert path[1] in {"affected_components", "build_environment"}, path
    assert patch.metadata.to_json() == json.loads(payload)["predicate"]


@given(st.sampled_from(places(REVIEW_STATEMENT)), JSON)
def test_any_other_value_that_an_attestor_signs_is_set_aside_or_said(path: tuple[Any, ...], value: Any) -> None:
    payload = replaced(REVIEW_STATEMENT, path, value)
    if payload is None:
        return
    patch = verify_patch_untrusted(PATCH + encode_envelope(sign_envelope(payload, BOB)) + b"\n")
    assert len(patch.attestations) + len(patch.attestations_refused) == 1
    if patch.attestations:
        assert patch.attestations[0].statement_json == payload
        assert path[0] == "predicate"


@given(JSON)
def test_arbitrary_json_is_refused_by_every_reader(value: Any) -> None:
    for read in (
        PatchMetadata.from_json_untrusted,
        CreatorIdentity.from_json_untrusted,
        BuildEnvironment.from_json_untrusted,
    ):
        try:
            read(value)
        except InvalidMetadataError:
            continue
        raise AssertionError(f"{read} took {value!r}")


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_payloads_are_refused_by_every_decoder(payload: bytes) -> None:
    for decode in (
        decode_author_statement_untrusted,
        decode_attestation_statement_untrusted,
        lambda data: decode_statement_untrusted(data, AUTHOR_SUBJECTS),
    ):
        try:
            decode(payload)
        except RejectedError:
            continue
        raise AssertionError("an arbitrary payload was taken")


@given(st.data())
def test_two_attestations_in_any_order_say_the_same(data: st.DataObject) -> None:
    lines = trailer_lines(approve(approve(PATCH), role="qa"))
    permuted = data.draw(st.permutations(lines[1:]))
    patch = verify_patch_untrusted(with_lines(PATCH, [lines[0], *permuted]))
    assert {one.role for one in patch.attestations} == {"security-review", "qa"}
    assert [one.index for one in patch.attestations] == [1, 2]
