"""DER taken apart and put together again, for what no library writes: certificates and lists with numbers out of range."""

from __future__ import annotations

from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

CONSTRUCTED = 0x20
INTEGER = 0x02
BIT_STRING = 0x03
SEQUENCE = 0x30
ED25519 = bytes.fromhex("300506032b6570")


def encode(tag: int, content: bytes) -> bytes:
    """Return one element."""
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x80 | (size.bit_length() + 7) // 8]) + _big(size)
    return bytes([tag]) + length + content


def sign(body: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return a signed certificate or list around its body."""
    return encode(SEQUENCE, body + ED25519 + encode(BIT_STRING, b"\0" + key.sign(body)))


def replace_integer(data: bytes, old: int, new: bytes) -> bytes:
    """Return the elements with the content of every integer `old` replaced."""
    return b"".join(_replaced(tag, content, old, new) for tag, content in _elements(data))


def _replaced(tag: int, content: bytes, old: int, new: bytes) -> bytes:
    if tag & CONSTRUCTED:
        return encode(tag, replace_integer(content, old, new))
    if tag == INTEGER and int.from_bytes(content, "big", signed=True) == old:
        return encode(tag, new)
    return encode(tag, content)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        tag, size, start = data[at], data[at + 1], at + 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(data[at + 2 : start], "big")
        yield tag, data[start : start + size]
        at = start + size


def _big(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
