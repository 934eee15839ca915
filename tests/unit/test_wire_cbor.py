"""Deterministic CBOR: the same bytes as another library writes, and nothing read that could be written in another way."""

from __future__ import annotations

from contextlib import suppress

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import cbor
from wire.errors import MalformedError

# RFC 8949, appendix A: those of our types.
EXAMPLES = [
    (0, "00"),
    (23, "17"),
    (24, "1818"),
    (255, "18ff"),
    (256, "190100"),
    (1000000, "1a000f4240"),
    (18446744073709551615, "1bffffffffffffffff"),
    (-1, "20"),
    (-1000, "3903e7"),
    (None, "f6"),
    (b"\x01\x02\x03\x04", "4401020304"),
    ("ü", "62c3bc"),
    ((1, (2, 3)), "8201820203"),
    (cbor.make_map({1: 2, 3: 4}), "a201020304"),
    (cbor.Tag(32, "http://www.example.com"), "d82076687474703a2f2f7777772e6578616d706c652e636f6d"),
]

VALUES: st.SearchStrategy[cbor.Value] = st.recursive(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=80),
    lambda inner: (
        st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.integers(-400, 400), inner, max_size=4).map(cbor.make_map)
        | st.builds(cbor.Tag, st.sampled_from([18, 61, 70000]), inner)
    ),
    max_leaves=12,
)


def plain(value: cbor.Value) -> object:
    """Return the value as cbor2 takes it."""
    match value:
        case tuple():
            return [plain(each) for each in value]
        case cbor.Map(pairs):
            return {key: plain(each) for key, each in pairs}
        case cbor.Tag(number, inner):
            return cbor2.CBORTag(number, plain(inner))
        case _:
            return value


@pytest.mark.parametrize(("value", "encoded"), EXAMPLES)
def test_the_examples_of_the_rfc(value: cbor.Value, encoded: str) -> None:
    assert cbor.encode(value).hex() == encoded
    assert cbor.decode_untrusted(bytes.fromhex(encoded), bytes_max=100) == value


@given(VALUES)
def test_every_value_is_written_as_another_library_writes_it_and_read_back(value: cbor.Value) -> None:
    # Its "canonical" is the order of RFC 7049, by length first; without it the pairs stay in the order of ours.
    data = cbor.encode(value)
    assert data == cbor2.dumps(plain(value))
    assert cbor.decode_untrusted(data, bytes_max=len(data)) == value


@given(st.binary(max_size=60))
def test_whatever_is_read_is_written_the_same(data: bytes) -> None:
    with suppress(MalformedError):
        assert cbor.encode(cbor.decode_untrusted(data, bytes_max=60)) == data


@pytest.mark.parametrize(
    ("encoded", "rule"),
    [
        ("", "truncated"),
        ("18", "truncated"),
        ("1900", "truncated"),
        ("43aabb", "truncated"),
        ("8201", "truncated"),
        ("9bffffffffffffffff", "truncated"),
        ("bbffffffffffffffff", "truncated"),
        ("d8", "truncated"),
        ("0000", "trailing"),
        ("1817", "not_deterministic"),
        ("190017", "not_deterministic"),
        ("1a0000ffff", "not_deterministic"),
        ("1b00000000ffffffff", "not_deterministic"),
        ("5801aa", "not_deterministic"),
        ("a201000100", "not_deterministic"),
        ("a202000100", "not_deterministic"),
        ("f4", "type"),
        ("f7", "type"),
        ("f90000", "type"),
        ("fb0000000000000000", "type"),
        ("5f4100ff", "type"),
        ("9f00ff", "type"),
        ("bf0000ff", "type"),
        ("ff", "type"),
        ("1c", "type"),
        ("61ff", "type"),
        ("3bffffffffffffffff", "type"),
        ("81" * 17 + "00", "too_deep"),
        ("c1" * 2000 + "00", "too_deep"),
        ("00" * 3000, "too_large"),
    ],
)
def test_what_has_another_form_is_refused(encoded: str, rule: str) -> None:
    with pytest.raises(MalformedError) as refused:
        cbor.decode_untrusted(bytes.fromhex(encoded), bytes_max=2500)
    assert refused.value.code == f"wire.cbor.{rule}"


def test_a_map_is_asked_by_key() -> None:
    found = cbor.make_map({395: 1, 1: -8, 4: b"k"})
    assert [key for key, _ in found.pairs] == [1, 4, 395]
    assert (found.get(1), found.get(395), found.get(2), found.get("1")) == (-8, 1, None, None)
