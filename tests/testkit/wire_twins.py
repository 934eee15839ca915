"""Slow, obvious versions of what `wire` does fast, and the hypothesis strategies that feed both.

The twins are written from the formats' specifications and share no code with `wire`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from hypothesis import strategies as st

from wire.codec import Value

# Canonical msgpack


class TwinRefusedError(Exception):
    """The twin does not accept these bytes."""


def slow_encode(value: Value) -> bytes:
    """Return the shortest msgpack encoding, straight from the table in the msgpack specification."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int() if 0 <= value < 128:
            return bytes([value])
        case int() if -32 <= value < 0:
            return bytes([256 + value])
        case int() if value >= 0:
            for code, size in ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)):
                if value < 256**size:
                    return bytes([code]) + value.to_bytes(size, "big")
        case int():
            for code, size in ((0xD0, 1), (0xD1, 2), (0xD2, 4), (0xD3, 8)):
                if value >= -(256**size // 2):
                    return bytes([code]) + value.to_bytes(size, "big", signed=True)
        case bytes():
            return _slow_head(((0xC4, 1), (0xC5, 2), (0xC6, 4)), len(value)) + value
        case str():
            data = value.encode()
            head = (
                bytes([0xA0 + len(data)])
                if len(data) < 32
                else _slow_head(((0xD9, 1), (0xDA, 2), (0xDB, 4)), len(data))
            )
            return head + data
        case tuple():
            head = bytes([0x90 + len(value)]) if len(value) < 16 else _slow_head(((0xDC, 2), (0xDD, 4)), len(value))
            return head + b"".join(slow_encode(item) for item in value)
    raise TwinRefusedError(value)


def slow_decode(data: bytes) -> Value:
    """Return the value of a canonical encoding; every shorter form that would have been possible is refused where it stands."""
    value, rest = _slow_value(data, 0)
    if rest:
        raise TwinRefusedError("more follows")
    return value


def _slow_head(forms: Sequence[tuple[int, int]], length: int) -> bytes:
    for code, size in forms:
        if length < 256**size:
            return bytes([code]) + length.to_bytes(size, "big")
    raise TwinRefusedError(length)


def _take(data: bytes, count: int) -> tuple[bytes, bytes]:
    if len(data) < count:
        raise TwinRefusedError("cut short")
    return data[:count], data[count:]


def _slow_length(data: bytes, size: int, least: int) -> tuple[int, bytes]:
    head, data = _take(data, size)
    length = int.from_bytes(head, "big")
    if length < least:
        raise TwinRefusedError("not the shortest form")
    return length, data


def _slow_value(data: bytes, depth: int) -> tuple[Value, bytes]:
    head, data = _take(data, 1)
    code = head[0]
    if code <= 0x7F:
        return code, data
    if code >= 0xE0:
        return code - 256, data
    if code in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[code], data
    if 0xCC <= code <= 0xD3:
        signed = code >= 0xD0
        size = 1 << (code - (0xD0 if signed else 0xCC))
        body, data = _take(data, size)
        number = int.from_bytes(body, "big", signed=signed)
        if slow_encode(number) != head + body:
            raise TwinRefusedError("not the shortest form")
        return number, data
    if code in (0xC4, 0xC5, 0xC6):
        size = 1 << (code - 0xC4)
        length, data = _slow_length(data, size, 0 if size == 1 else 256 ** (size // 2))
        return _take(data, length)
    if 0xA0 <= code <= 0xBF or code in (0xD9, 0xDA, 0xDB):
        if code <= 0xBF:
            length = code - 0xA0
        else:
            size = 1 << (code - 0xD9)
            length, data = _slow_length(data, size, 32 if size == 1 else 256 ** (size // 2))
        body, data = _take(data, length)
        try:
            return body.decode("utf-8"), data
        except UnicodeDecodeError as error:
            raise TwinRefusedError("not UTF-8") from error
    if 0x90 <= code <= 0x9F or code in (0xDC, 0xDD):
        if code <= 0x9F:
            length = code - 0x90
        else:
            size = 2 << (code - 0xDC)
            length, data = _slow_length(data, size, 16 if size == 2 else 65536)
        if depth == 16:
            raise TwinRefusedError("too deep")
        items: list[Value] = []
        for _ in range(length):
            item, data = _slow_value(data, depth + 1)
            items.append(item)
        return tuple(items), data
    raise TwinRefusedError(f"type {code:#x}")


integers = st.integers(-(2**63), 2**64 - 1) | st.sampled_from(
    [sign * (2**bits) + step for bits in (0, 5, 7, 8, 15, 16, 31, 32, 62) for sign in (1, -1) for step in (-1, 0, 1)]
)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
scalars: st.SearchStrategy[Value] = st.none() | st.booleans() | integers | st.binary(max_size=300) | texts
values: st.SearchStrategy[Value] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=20).map(tuple), max_leaves=40
)


# Merkle trees


def slow_leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def slow_root(entries: Sequence[bytes]) -> bytes:
    """MTH(D[n]) of RFC 9162 2.1.1, as it is written there."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return slow_leaf(entries[0])
    k = _split(len(entries))
    return hashlib.sha256(b"\x01" + slow_root(entries[:k]) + slow_root(entries[k:])).digest()


def slow_inclusion(m: int, entries: Sequence[bytes]) -> list[bytes]:
    """PATH(m, D[n]) of RFC 9162 2.1.3.1, as it is written there."""
    if len(entries) == 1:
        return []
    k = _split(len(entries))
    if m < k:
        return [*slow_inclusion(m, entries[:k]), slow_root(entries[k:])]
    return [*slow_inclusion(m - k, entries[k:]), slow_root(entries[:k])]


def slow_consistency(m: int, entries: Sequence[bytes]) -> list[bytes]:
    """PROOF(m, D[n]) of RFC 9162 2.1.4.1, as it is written there."""
    return _subproof(m, entries, complete=True)


def _subproof(m: int, entries: Sequence[bytes], *, complete: bool) -> list[bytes]:
    if m == len(entries):
        return [] if complete else [slow_root(entries)]
    k = _split(len(entries))
    if m <= k:
        return [*_subproof(m, entries[:k], complete=complete), slow_root(entries[k:])]
    return [*_subproof(m - k, entries[k:], complete=False), slow_root(entries[:k])]


def _split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k
