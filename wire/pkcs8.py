"""What an encrypted PKCS#8 file asks for before it opens: read and bounded before anything is derived.

::

    SEQUENCE                                       EncryptedPrivateKeyInfo (RFC 5958 3)
      SEQUENCE  OID, parameters                    PBES1 (RFC 8018 6.1), PKCS#12 (RFC 7292 C): salt, iterations; PBES2 (6.2):
        SEQUENCE  OID PBKDF2, SEQUENCE salt, iterations, …        RFC 8018 5.2
        SEQUENCE  OID scrypt, SEQUENCE salt, N, r, p, …           RFC 7914 7
      OCTET STRING                                 the encrypted key

Whoever gives us such a file, or swaps ours, could otherwise keep a command busy for years, or have it ask for all memory: the numbers are
the file's word. Only DER is read, and what is read here are the very bytes that the library then opens.

Source: docs/spec/wire.md 5.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from typing import Final, NamedTuple

from wire.errors import MalformedError
from wire.limits import MEBIBYTE

PKCS8_BEGIN: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
PKCS8_END: Final = b"-----END ENCRYPTED PRIVATE KEY-----"
PKCS8_WORK_MAX: Final = 10_000_000
"""Iterations of PBKDF2, or N·r·p of scrypt, that an encrypted file may ask for: some seconds. OpenSSL takes 2,048 and 131,072."""
PKCS8_MEMORY_MAX: Final = 256 * MEBIBYTE
"""Bytes that scrypt may ask for, 128·N·r: OpenSSL takes 16 MiB."""
_NUMBER_BYTES_MAX: Final = 8
"""Of one number in a file: beyond it, every one is beyond every limit."""

_SEQUENCE: Final = 0x30
_INTEGER: Final = 0x02
_OCTET_STRING: Final = 0x04
_OBJECT: Final = 0x06

_PBES2: Final = bytes.fromhex("2a864886f70d01050d")
_PBKDF2: Final = bytes.fromhex("2a864886f70d01050c")
_SCRYPT: Final = bytes.fromhex("2b06010401da47040b")
_PBES1: Final = tuple(bytes.fromhex(f"2a864886f70d0105{number:02x}") for number in (1, 3, 4, 6, 10, 11))
_PKCS12: Final = tuple(bytes.fromhex(f"2a864886f70d010c01{number:02x}") for number in range(1, 7))


class _Element(NamedTuple):
    """One element of DER."""

    tag: int
    content: bytes


def read_encrypted_untrusted(text: bytes) -> bytes:
    """Return the DER of the block `ENCRYPTED PRIVATE KEY` with which `text` begins; what stands behind it is dropped.

    Raises:
        MalformedError: ``wire.key.passphrase``: it is damaged, which is told as a wrong passphrase is.
    """
    body, end, _ = text.removeprefix(PKCS8_BEGIN).partition(PKCS8_END)
    try:
        der = b64decode(b"".join(body.split()), validate=True)
    except (Base64Error, ValueError):
        raise _damaged() from None
    if not end:
        raise _damaged()
    return der


def check_cost_untrusted(der: bytes, *, work_max: int = PKCS8_WORK_MAX, memory_max: int = PKCS8_MEMORY_MAX) -> None:
    """Return when opening an EncryptedPrivateKeyInfo costs a bounded amount.

    Args:
        der: The whole of it.
        work_max: The most iterations of PBKDF2, or N·r·p of scrypt.
        memory_max: The most bytes that scrypt may take.

    Raises:
        MalformedError: ``wire.key.pkcs8_cost``; ``wire.key.pkcs8_encrypted``: in a way that is not read; ``wire.key.passphrase``: damaged.
    """
    outer = _elements(der)
    if len(outer) != 1 or outer[0].tag != _SEQUENCE:
        raise _damaged()
    scheme, parameters = _algorithm(_elements(outer[0].content)[:1])
    if scheme in _PBES1 or scheme in _PKCS12:
        _check_work(_numbers(parameters, 1)[0], work_max)
        return
    if scheme != _PBES2:
        raise _unknown()
    derivation, numbers = _algorithm(_elements(_sequence(parameters))[:1])
    if derivation == _PBKDF2:
        _check_work(_numbers(numbers, 1)[0], work_max)
    elif derivation == _SCRYPT:
        cost, block, lanes = _numbers(numbers, 3)
        _check_work(cost * block * lanes, work_max)
        if 128 * cost * block > memory_max:
            raise _too_dear(f"at most {memory_max} bytes of memory", 128 * cost * block)
    else:
        raise _unknown()


def _check_work(work: int, work_max: int) -> None:
    if not 1 <= work <= work_max:
        raise _too_dear(f"1 to {work_max} steps of key derivation", work)


def _algorithm(found: list[_Element]) -> tuple[bytes, _Element | None]:
    """Return the object identifier and the parameters of an AlgorithmIdentifier."""
    if len(found) != 1 or found[0].tag != _SEQUENCE:
        raise _damaged()
    members = _elements(found[0].content)
    if not 1 <= len(members) <= 2 or members[0].tag != _OBJECT:
        raise _damaged()
    return members[0].content, members[1] if len(members) > 1 else None


def _sequence(element: _Element | None) -> bytes:
    if element is None or element.tag != _SEQUENCE:
        raise _damaged()
    return element.content


def _numbers(parameters: _Element | None, count: int) -> tuple[int, ...]:
    """Return the numbers that follow the salt."""
    salt, *rest = _elements(_sequence(parameters)) or [_Element(0, b"")]
    wanted = rest[:count]
    if salt.tag != _OCTET_STRING or len(wanted) != count or any(each.tag != _INTEGER for each in wanted):
        raise _unknown()
    numbers = []
    for each in wanted:
        if not 1 <= len(each.content) <= _NUMBER_BYTES_MAX:
            raise _too_dear("small numbers", f"a number of {len(each.content)} bytes")
        number = int.from_bytes(each.content, "big", signed=True)
        if number < 1:
            raise _too_dear("numbers from 1 on", number)
        numbers.append(number)
    return tuple(numbers)


def _elements(data: bytes) -> list[_Element]:
    """Return the elements that stand one after the other, each in DER's one form."""
    found = []
    at = 0
    while at < len(data):
        head = data[at : at + 2]
        if len(head) < 2 or head[0] & 0x1F == 0x1F:
            raise _damaged()
        begin, size = at + 2, head[1]
        if size & 0x80:
            digits = data[begin : begin + (size & 0x7F)]
            begin += size & 0x7F
            size = int.from_bytes(digits, "big")
            if not digits or digits[0] == 0 or size < 0x80:
                raise _damaged()
        if begin + size > len(data):
            raise _damaged()
        found.append(_Element(head[0], data[begin : begin + size]))
        at = begin + size
    return found


def _damaged() -> MalformedError:
    return MalformedError("wire.key.passphrase", "the passphrase is wrong or the encrypted key is damaged")


def _unknown() -> MalformedError:
    return MalformedError(
        "wire.key.pkcs8_encrypted",
        "the private key is encrypted in an unknown way",
        expected="PBES2 with PBKDF2 or scrypt",
        hint="write a copy as OpenSSL does by itself: openssl pkcs8 -topk8 -v2 aes-256-cbc -in FILE -out COPY",
    )


def _too_dear(expected: str, actual: object) -> MalformedError:
    return MalformedError(
        "wire.key.pkcs8_cost",
        "the private key asks for too much work or memory before it opens",
        expected=expected,
        actual=actual,
        hint="write a copy that asks for less: openssl pkcs8 -topk8 -v2 aes-256-cbc -iter 600000 -in FILE -out COPY",
    )
