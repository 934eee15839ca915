"""Deterministic CBOR, as much of it as COSE needs: one value has one encoding, and one encoding has one value.

A value is ``None``, an integer from -2**63 to 2**64-1, bytes, text, a tuple, a `Map` or a `Tag`. Floats, booleans, simple values and
indefinite lengths do not exist here. Decoding accepts the deterministic encoding alone (RFC 8949 4.2.1): shortest heads, keys of maps in
the order of their encodings, each once.

The project's own formats use `wire.codec`; this is for what others read. Source: docs/spec/wire.md 12; RFC 8949.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, TypeAlias

from wire.errors import MalformedError

DEPTH_MAX: Final = 16
"""Containers within each other."""

_UNSIGNED: Final = 0
_NEGATIVE: Final = 1
_BYTES: Final = 2
_TEXT: Final = 3
_ARRAY: Final = 4
_MAP: Final = 5
_TAG: Final = 6
_NULL: Final = 0xF6
_DIRECT_MAX: Final = 23
_LENGTHS: Final = (
    (24, Struct(">B"), 1 << 8),
    (25, Struct(">H"), 1 << 16),
    (26, Struct(">I"), 1 << 32),
    (27, Struct(">Q"), 1 << 64),
)


@dataclass(frozen=True, slots=True)
class Map:
    """A map as its pairs, in the order of the keys' encodings."""

    pairs: tuple[tuple[Value, Value], ...]
    """Key and value."""

    def get(self, key: int | str) -> Value:
        """Return the value under `key`, or None."""
        # 1 == True does not matter here: there are no booleans.
        return next((value for each, value in self.pairs if type(each) is type(key) and each == key), None)


@dataclass(frozen=True, slots=True)
class Tag:
    """A tagged value."""

    number: int
    """What it is."""
    value: Value
    """The value."""


Value: TypeAlias = "None | int | bytes | str | tuple[Value, ...] | Map | Tag"
"""Anything that has an encoding here."""


def make_map(pairs: dict[int, Value]) -> Map:
    """Return the map with these keys and values, in its order."""
    return Map(tuple(sorted(pairs.items(), key=lambda pair: encode(pair[0]))))


def encode(value: Value) -> bytes:
    """Return the one encoding of `value`. The pairs of a `Map` must be in order already: see `make_map`."""
    match value:
        case None:
            return bytes((_NULL,))
        case int():
            return _head(_UNSIGNED, value) if value >= 0 else _head(_NEGATIVE, -1 - value)
        case bytes():
            return _head(_BYTES, len(value)) + value
        case str():
            raw = value.encode()
            return _head(_TEXT, len(raw)) + raw
        case tuple():
            return _head(_ARRAY, len(value)) + b"".join(encode(each) for each in value)
        case Map(pairs):
            return _head(_MAP, len(pairs)) + b"".join(encode(key) + encode(each) for key, each in pairs)
        case Tag(number, inner):
            return _head(_TAG, number) + encode(inner)


def decode_untrusted(data: bytes, *, bytes_max: int) -> Value:
    """Return the value whose one encoding is `data`.

    Args:
        data: The whole encoding and nothing after it.
        bytes_max: The longest accepted `data`; checked before anything else.

    Raises:
        MalformedError: ``wire.cbor.too_large``, ``wire.cbor.truncated``, ``wire.cbor.trailing``, ``wire.cbor.type``,
            ``wire.cbor.not_deterministic``, ``wire.cbor.too_deep``.
    """
    if len(data) > bytes_max:
        raise _malformed("too_large", "the encoding is too long", f"at most {bytes_max} bytes", len(data))
    value, end = _decode(data, 0, DEPTH_MAX)
    if end != len(data):
        raise _malformed("trailing", "something follows the value", None, len(data) - end)
    return value


def _decode(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    if depth < 0:
        raise _malformed("too_deep", "values lie too deep within each other", f"at most {DEPTH_MAX} levels", None)
    if data[at : at + 1] == bytes((_NULL,)):
        return None, at + 1
    major, number, at = _read_head(data, at)
    match major:
        case 0:
            return number, at
        case 1 if number < 1 << 63:
            return -1 - number, at
        case 2 | 3:
            raw = data[at : at + number]
            if len(raw) != number:
                raise _truncated()
            return (raw if major == _BYTES else _text(raw)), at + number
        case 4:
            items = []
            for _ in range(_bounded(number, data, at)):
                item, at = _decode(data, at, depth - 1)
                items.append(item)
            return tuple(items), at
        case 5:
            return _decode_map(data, at, _bounded(number, data, at), depth)
        case 6:
            inner, at = _decode(data, at, depth - 1)
            return Tag(number, inner), at
        case _:
            raise _malformed("type", "a value is of a type that does not exist here", None, f"major type {major}")


def _decode_map(data: bytes, at: int, count: int, depth: int) -> tuple[Map, int]:
    pairs: list[tuple[Value, Value]] = []
    before = b""
    for _ in range(count):
        start = at
        key, at = _decode(data, at, depth - 1)
        if pairs and data[start:at] <= before:
            raise _not_deterministic("the keys of a map are out of order, or one stands twice")
        before = data[start:at]
        value, at = _decode(data, at, depth - 1)
        pairs.append((key, value))
    return Map(tuple(pairs)), at


def _read_head(data: bytes, at: int) -> tuple[int, int, int]:
    """Return major type, number, and where the head ends."""
    if at >= len(data):
        raise _truncated()
    major, low = data[at] >> 5, data[at] & 0x1F
    at += 1
    if low <= _DIRECT_MAX:
        return major, low, at
    for code, form, limit in _LENGTHS:
        if low == code:
            if len(data) < at + form.size:
                raise _truncated()
            (number,) = form.unpack_from(data, at)
            smallest = _DIRECT_MAX + 1 if form.size == 1 else 1 << (4 * form.size)
            if major > _TAG:
                break  # A float.
            if number < smallest:
                raise _not_deterministic("a number is not in its shortest form")
            assert number < limit, "a head holds no more than its bytes"
            return major, number, at + form.size
    raise _malformed("type", "a value is of a type that does not exist here", None, f"initial byte {data[at - 1]:#04x}")


def _bounded(count: int, data: bytes, at: int) -> int:
    """Return the count of items, each of which takes a byte at least: nobody makes us allocate for more."""
    if count > len(data) - at:
        raise _truncated()
    return count


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _malformed("type", "a text is not UTF-8", None, None) from None


def _head(major: int, number: int) -> bytes:
    if number <= _DIRECT_MAX:
        return bytes((major << 5 | number,))
    for code, form, limit in _LENGTHS:
        if number < limit:
            return bytes((major << 5 | code,)) + form.pack(number)
    raise AssertionError("a number of ours has at most 64 bits")


def _malformed(rule: str, sentence: str, expected: object, actual: object) -> MalformedError:
    return MalformedError(f"wire.cbor.{rule}", sentence, expected=expected, actual=actual)


def _truncated() -> MalformedError:
    return _malformed("truncated", "the encoding is cut short", None, None)


def _not_deterministic(sentence: str) -> MalformedError:
    return _malformed("not_deterministic", sentence, None, None)
