"""JSON against the reference library and Python's own reader; envelopes over any payload."""

from __future__ import annotations

import json
from unicodedata import normalize

import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from wire.canonical_json import JsonValue, decode_untrusted, encode
from wire.envelope import decode_envelope_untrusted, encode_envelope, sign_envelope, verify_envelope
from wire.errors import MalformedError, RejectedError
from wire.keys import Algorithm, private_key_from_seed
from wire.limits import JSON_INTEGER_MAX

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20).map(lambda text: normalize("NFC", text))
scalars = st.none() | st.booleans() | st.integers(-JSON_INTEGER_MAX, JSON_INTEGER_MAX) | texts
documents: st.SearchStrategy[JsonValue] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(texts, inner, max_size=6), max_leaves=25
)
KEYS = {algorithm: private_key_from_seed(algorithm, b"\x05" * 32) for algorithm in Algorithm}


@given(documents)
@example({"\ufb01": 1, "\U00010000": 2, "a": 3})
def test_document_has_the_reference_form_and_comes_back(value: JsonValue) -> None:
    data = encode(value)
    assert data == rfc8785.dumps(value)  # type: ignore[arg-type]
    assert decode_untrusted(data) == value
    assert decode_untrusted(data, canonical=False) == value


@given(documents, st.integers(0, 3), st.booleans(), st.booleans())
def test_other_forms_are_read_alike_where_they_are_allowed(
    value: JsonValue, indent: int, escaped: bool, reverse: bool
) -> None:
    if reverse and isinstance(value, dict):
        value = dict(reversed(value.items()))
    data = json.dumps(value, indent=indent or None, ensure_ascii=escaped).encode()
    assert decode_untrusted(data, canonical=False) == value


@given(
    st.binary(max_size=60)
    | st.text(alphabet='[]{}",:\\u0129eE.+- dD8ntrfals\x00é\u0301', max_size=60).map(lambda text: text.encode())
)
def test_any_bytes_are_refused_or_one_canonical_document(data: bytes) -> None:
    try:
        value = decode_untrusted(data)
    except MalformedError as error:
        code = error.code
    else:
        assert rfc8785.dumps(value) == data  # type: ignore[arg-type]
        assert json.loads(data) == value
        return
    assert code.startswith("wire.json.")


@given(
    st.binary(max_size=60)
    | st.text(alphabet='[]{}",:\\u0129eE.+- dD8ntrfals\x00é\u0301', max_size=60).map(lambda text: text.encode())
)
def test_accepted_document_of_any_form_is_read_as_python_reads_it(data: bytes) -> None:
    try:
        value = decode_untrusted(data, canonical=False)
    except MalformedError:
        return
    assert json.loads(data) == value
    assert decode_untrusted(encode(value)) == value


@given(st.binary(max_size=300), st.sampled_from(list(Algorithm)))
def test_envelope_over_any_payload_comes_back_and_verifies(payload: bytes, algorithm: Algorithm) -> None:
    key = KEYS[algorithm]
    line = encode_envelope(sign_envelope(payload, key))
    assert decode_untrusted(line, canonical=True)
    envelope = decode_envelope_untrusted(line)
    assert envelope.payload == payload
    assert encode_envelope(envelope) == line
    verify_envelope(envelope, key.public_key)


LINE = encode_envelope(sign_envelope(b'{"a":1}', KEYS[Algorithm.ED25519]))


@given(st.data())
def test_changed_line_is_refused_or_does_not_verify(data: st.DataObject) -> None:
    changed = bytearray(LINE)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    if bytes(changed) == LINE:
        return
    try:
        verify_envelope(decode_envelope_untrusted(bytes(changed), allow_many=True), KEYS[Algorithm.ED25519].public_key)
    except RejectedError:
        return
    raise AssertionError("a changed envelope verified")
