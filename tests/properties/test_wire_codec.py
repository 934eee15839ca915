"""The codec against its twin: the same bytes for every value, and the same verdict on every byte string."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from tests.testkit.wire_twins import TwinRefusedError, slow_decode, slow_encode, values
from wire.codec import Value, decode_untrusted, encode
from wire.errors import MalformedError

BYTES_MAX = 1_000_000


def decoded(data: bytes) -> tuple[Value] | None:
    try:
        return (decode_untrusted(data, bytes_max=BYTES_MAX),)
    except MalformedError:
        return None


def slowly_decoded(data: bytes) -> tuple[Value] | None:
    try:
        return (slow_decode(data),)
    except TwinRefusedError:
        return None


def shape(value: Value) -> object:
    """Tell True from 1 and b"" from "", which `==` on tuples does only for the latter."""
    return tuple(shape(item) for item in value) if isinstance(value, tuple) else (type(value).__name__, value)


def assert_same_verdict(data: bytes) -> None:
    ours, twins = decoded(data), slowly_decoded(data)
    assert (ours is None) == (twins is None)
    if ours is not None and twins is not None:
        assert shape(ours[0]) == shape(twins[0])
        assert encode(ours[0]) == data


@given(values)
def test_value_has_the_twins_encoding_and_comes_back(value: Value) -> None:
    data = encode(value)
    assert data == slow_encode(value)
    assert shape(decode_untrusted(data, bytes_max=len(data))) == shape(value)


@given(values, values)
def test_different_values_have_different_encodings(one: Value, two: Value) -> None:
    assert (encode(one) == encode(two)) == (shape(one) == shape(two))


@given(st.binary(max_size=80))
@example(b"\x93\xcc\x80\xd0\xdf\xc4\x00")
@example(b"\xcf\x00\x00\x00\x01\x00\x00\x00\x00")
@example(b"\xd3\xff\xff\xff\xff\x7f\xff\xff\xff")
def test_any_bytes_are_refused_or_the_one_encoding(data: bytes) -> None:
    assert_same_verdict(data)


@given(values, st.data())
def test_changed_encoding_is_refused_or_the_one_encoding_of_another_value(value: Value, data: st.DataObject) -> None:
    encoded = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(encoded)))
        match data.draw(st.sampled_from(["insert", "remove", "replace"])):
            case "insert":
                encoded[place:place] = data.draw(st.binary(min_size=1, max_size=5))
            case "remove":
                del encoded[place : place + data.draw(st.integers(1, 4))]
            case _:
                encoded[place : place + 1] = data.draw(st.binary(min_size=1, max_size=1))
    assert_same_verdict(bytes(encoded))


# Bytes that look like array headers send the decoder through its walk over the headers first.
DECOYS = b"\xdc\xdd" * 4000


@given(values, st.binary(max_size=40))
def test_walk_over_headers_changes_no_verdict(value: Value, tail: bytes) -> None:
    assert_same_verdict(encode((DECOYS, value, (value, value))))
    assert_same_verdict(encode((DECOYS,))[:-1] + tail)
    assert_same_verdict(b"\x92" + encode(DECOYS) + tail)
    assert_same_verdict(b"\x93" + encode(DECOYS) + encode(value) + tail)


@given(st.recursive(st.binary(min_size=1, max_size=6), lambda inner: st.lists(inner, max_size=5).map(b"".join)))
def test_soup_of_headers_is_judged_like_the_twin(soup: bytes) -> None:
    assert_same_verdict(b"\x94" + encode(DECOYS) + soup)
