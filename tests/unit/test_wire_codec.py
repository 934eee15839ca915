"""The codec's refusals, each with its code, and the limits at their border."""

from __future__ import annotations

import enum
import resource
import struct
import time
from itertools import count
from typing import Any

import msgpack
import pytest

from wire.codec import Value, decode_untrusted, encode
from wire.errors import MalformedError
from wire.limits import CODEC_DEPTH_MAX, CODEC_ITEMS_MAX, MEBIBYTE


def code_of(data: bytes, bytes_max: int = 8 * MEBIBYTE) -> str:
    with pytest.raises(MalformedError) as caught:
        decode_untrusted(data, bytes_max=bytes_max)
    return caught.value.code


def nested(depth: int) -> Value:
    value: Value = 7
    for _ in range(depth):
        value = (value,)
    return value


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63, 2**64 - 1),
        *(-1, -32, -33, -128, -129, -32768, -32769, -(2**31), -(2**31) - 1, -(2**63)),
        *(
            b"",
            b"a" * 255,
            b"a" * 256,
            b"a" * 65535,
            b"a" * 65536,
            "",
            "é" * 15,
            "é" * 16,
            "a" * 255,
            "a" * 256,
            "a" * 65536,
            "\U0010ffff",
        ),
        *((), (1,), (None,) * 15, (None,) * 16, (None,) * 65535, (None,) * 65536, ((), ((), ()))),
    ],
    ids=count(),
)
def test_value_comes_back(value: Value) -> None:
    data = encode(value)
    decoded = decode_untrusted(data, bytes_max=len(data))
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        # Longer than necessary
        (b"\xcc\x7f", "not_canonical"),
        (b"\xcd\x00\x01", "not_canonical"),
        (b"\xce\x00\x00\xff\xff", "not_canonical"),
        (b"\xcf" + bytes(8), "not_canonical"),
        (b"\xd0\x01", "not_canonical"),
        (b"\xd0\xe0", "not_canonical"),
        (b"\xd1\xff\x80", "not_canonical"),
        (b"\xd3" + b"\x00" * 7 + b"\x01", "not_canonical"),
        (b"\xd3\x7f" + b"\xff" * 7, "not_canonical"),
        (b"\xc5\x00\x01a", "not_canonical"),
        (b"\xc6\x00\x00\x00\x01a", "not_canonical"),
        (b"\xd9\x01a", "not_canonical"),
        (b"\xda\x00\x01a", "not_canonical"),
        (b"\xdb\x00\x00\x00\x01a", "not_canonical"),
        (b"\xdc\x00\x01\x01", "not_canonical"),
        (b"\xdd\x00\x00\x00\x01\x01", "not_canonical"),
        (b"\x92\x01\xcc\x01", "not_canonical"),
        # Types that do not exist here
        (b"\x80", "type"),
        (b"\x91\x80", "type"),
        (b"\xde\x00\x00", "type"),
        (b"\xdf\x00\x00\x00\x00", "type"),
        (b"\xca\x00\x00\x00\x00", "type"),
        (b"\xcb" + struct.pack(">d", 1.5), "type"),
        (b"\x91\xcb" + struct.pack(">d", float("nan")), "type"),
        (b"\xc7\x00\x05", "type"),
        (b"\x81\x01\x02", "malformed"),
        (b"\x81\x90\x01", "malformed"),
        (b"\x82\x01\x02\x01\x03", "malformed"),
        (b"\xd4\x05a", "malformed"),
        (b"\xd6\xff\x00\x00\x00\x00", "malformed"),
        (b"\xc7\x00\xff", "malformed"),
        (b"\xc7\x00\x85", "malformed"),
        (b"\xc1", "malformed"),
        # Not one whole value
        (b"", "malformed"),
        (b"\x01\x01", "malformed"),
        (b"\x92\x01", "malformed"),
        (b"\xc4\x05a", "malformed"),
        (b"\xcd\x00", "malformed"),
        (b"\xdd\xff\xff\xff\xff", "malformed"),
        (b"\xc6\xff\xff\xff\xff", "malformed"),
        # Not UTF-8
        (b"\xa1\xff", "malformed"),
        (b"\xa2\xc0\x80", "malformed"),
        (b"\xa3\xed\xa0\x80", "malformed"),
        (b"\xa4\xf4\x90\x80\x80", "malformed"),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else value,
)
def test_refusal(data: bytes, code: str) -> None:
    assert code_of(data) == f"wire.codec.{code}"


def test_length_is_checked_before_anything_else() -> None:
    assert code_of(b"\xc1" * 11, bytes_max=10) == "wire.codec.too_large"
    assert code_of(b"\xc1" * 10, bytes_max=10) == "wire.codec.malformed"


def test_depth_at_its_border() -> None:
    value = nested(CODEC_DEPTH_MAX)
    assert decode_untrusted(encode(value), bytes_max=100) == value
    assert code_of(b"\x91" * (CODEC_DEPTH_MAX + 1) + b"\x07") == "wire.codec.too_deep"
    assert code_of(b"\x91" * CODEC_DEPTH_MAX + b"\x90") == "wire.codec.too_deep"
    with pytest.raises(MalformedError) as caught:
        encode(nested(CODEC_DEPTH_MAX + 1))
    assert caught.value.code == "wire.codec.too_deep"


@pytest.mark.parametrize("depth", [600, 1023, 1025, 100_000])
def test_deep_nesting_is_refused_without_recursion(depth: int) -> None:
    assert code_of(b"\x91" * depth + b"\x07") in ("wire.codec.too_deep", "wire.codec.malformed")


def test_number_of_values_at_its_border() -> None:
    # The outer tuple counts as one value.
    value: Value = (None,) * (CODEC_ITEMS_MAX - 1)
    assert decode_untrusted(encode(value), bytes_max=MEBIBYTE) == value
    flat: Any = [None] * CODEC_ITEMS_MAX
    assert code_of(msgpack.packb([flat])) == "wire.codec.too_many_items"
    assert code_of(msgpack.packb([[None] * (CODEC_ITEMS_MAX // 2)] * 2)) == "wire.codec.too_many_items"
    with pytest.raises(MalformedError) as caught:
        encode(tuple(flat))
    assert caught.value.code == "wire.codec.too_many_items"


def test_lying_array_headers_cost_neither_memory_nor_time() -> None:
    # msgpack alone took 1.5 GB and four seconds for this megabyte.
    bomb = (b"\xdd" + CODEC_ITEMS_MAX.to_bytes(4, "big")) * 1000
    bomb += bytes(MEBIBYTE - len(bomb))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    assert code_of(bomb) == "wire.codec.too_many_items"
    assert time.perf_counter() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # in KiB


@pytest.mark.parametrize(
    ("tail", "code"),
    [
        (b"", "malformed"),
        (b"\xdd\x00\x03\x0d\x41", "too_many_items"),
        (b"\xdc\xff\xff" * 4, "too_many_items"),
        (b"\x91" * 17 + b"\x07", "too_deep"),
        (b"\x80", "type"),
        (b"\x81\x01\x01", "type"),
        (b"\xd4\x05a", "type"),
        (b"\xc1", "type"),
        (b"\xcb", "type"),
        (b"\xc4", "malformed"),
        (b"\xdb\xff", "malformed"),
        (b"\x91\xc0\xc2", "malformed"),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else value,
)
def test_headers_are_walked_before_decoding_where_many_could_lie(tail: bytes, code: str) -> None:
    # A first item full of bytes that look like array headers makes the walk necessary; the tail is what it then meets.
    decoys = encode(b"\xdc\xdd" * 2000)
    assert code_of(b"\x92" + decoys + tail) == f"wire.codec.{code}"


@pytest.mark.parametrize(
    "value",
    [
        (0, 127, 200, -32, -1, 300, 70_000, 2**40, 2**63, -100, -200, -40_000, -(2**40), None, True, False),
        ("", "a", "a" * 31, "é" * 40, "a" * 300, "a" * 70_000),
        (b"", b"a" * 300, b"a" * 70_000),
        ((), (1, (2, ())), (0,) * 15, (0,) * 16, (0,) * 70_000),
    ],
    ids=["scalars", "texts", "bytes", "tuples"],
)
def test_walked_value_comes_back(value: Value) -> None:
    value = (b"\xdd" * 5000, value, (value,))
    assert decode_untrusted(encode(value), bytes_max=MEBIBYTE) == value


@pytest.mark.parametrize(
    "value",
    [
        *(None, False, True, 0, 0x7F, -1, -32, 0x80, 0x8081, 0x80818283, 0x8081828384858687),
        *(-0x7F, -0x7F81, -0x7F818283, -0x7F81828384858687),
        *("", "a", "a" * 31, "a" * 32, "a" * 0x80, "a" * 0x8081, "a" * 0x818181),
        *(b"", b"a", b"a" * 0x81, b"a" * 0x8181, b"a" * 0x818181),
        *((), (1,), (1,) * 15, (1,) * 16, (1,) * 0x8181, (1,) * 0x18181),
    ],
    ids=count(),
)
def test_walk_takes_each_form_for_as_long_as_it_is(value: Value) -> None:
    # The walk calls a map a type error and the decoder calls it malformed: so the walk must meet it exactly after the value.
    decoys = encode(b"\xdc\xdd" * 2000)
    assert code_of(b"\x93" + decoys + encode(value) + b"\x81\x01\x01", bytes_max=16 * MEBIBYTE) == "wire.codec.type"


def test_walk_counts_like_the_check_after_decoding() -> None:
    value: Value = (b"\xdd" * 5000, *(None,) * (CODEC_ITEMS_MAX - 2))
    assert decode_untrusted(encode(value), bytes_max=MEBIBYTE) == value
    more = msgpack.packb([b"\xdd" * 5000, *[None] * (CODEC_ITEMS_MAX - 1)])
    assert code_of(more) == "wire.codec.too_many_items"


def test_walk_takes_the_same_depth_as_the_check_after_decoding() -> None:
    decoys = b"\xdd" * 5000
    deepest: Value = (decoys, nested(CODEC_DEPTH_MAX - 1))
    assert decode_untrusted(encode(deepest), bytes_max=MEBIBYTE) == deepest
    # A map after what is too deep: the walk must stop before it.
    deeper = b"\x92" + encode(decoys) + b"\x91" * CODEC_DEPTH_MAX + b"\x81\x01\x01"
    assert code_of(deeper) == "wire.codec.too_deep"


def test_walk_ends_with_the_value() -> None:
    assert code_of(encode((b"\xdd" * 5000, 1)) + b"\x80") == "wire.codec.malformed"


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        [1],
        {},
        {1: 2},
        bytearray(b"a"),
        object(),
        (1, [2]),
        ((1.5,),),
        2**64,
        -(2**63) - 1,
        "\ud800",
        (("\udfff",),),
    ],
    ids=count(),
)
def test_value_without_encoding_is_refused(value: Any) -> None:
    with pytest.raises(MalformedError) as caught:
        encode(value)
    assert caught.value.code == "wire.codec.unencodable"


def test_subclasses_are_encoded_as_what_they_are() -> None:
    class Kind(enum.StrEnum):
        PUBLISH = "patch.publish"

    class Level(enum.IntEnum):
        HIGH = 300

    assert encode(Kind.PUBLISH) == encode("patch.publish")
    assert encode((Kind.PUBLISH, Level.HIGH)) == encode(("patch.publish", 300))
    assert encode(Level.HIGH) == encode(300)


def test_error_quotes_no_payload() -> None:
    with pytest.raises(MalformedError) as caught:
        decode_untrusted(b"\xaasecret\xff\xff\xff\xff", bytes_max=100)
    assert "secret" not in str(caught.value.as_dict())
