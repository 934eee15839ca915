"""Keys in OpenSSH's own notations: the line of a ``.pub`` file, and the private key file that `ssh-keygen` writes.

::

    public    ssh-ed25519 BASE64 [COMMENT]             BASE64 of string "ssh-ed25519", string point (32 bytes)
              ecdsa-sha2-nistp256 BASE64 [COMMENT]     BASE64 of string type, string "nistp256", string uncompressed point (65 bytes)
    private   PEM block "OPENSSH PRIVATE KEY"          with one key, not encrypted

A string is its length (4 bytes, big endian) and its bytes. Encrypted files are refused: their key derivation (bcrypt) is in no library that
we ship, and its cost is whatever the file says.

Source: docs/spec/wire.md 5; RFC 4253 6.6; RFC 5656 3.1; RFC 8709 4; OpenSSH's PROTOCOL.key.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from wire.errors import MalformedError, show_value
from wire.keys import (
    Algorithm,
    PrivateKey,
    PublicKey,
    private_key_from_library,
    private_key_from_pem_untrusted,
    public_key_from_raw_untrusted,
    public_key_from_spki_untrusted,
)
from wire.limits import PEM_BYTES_MAX

OPENSSH_PRIVATE: Final = b"-----BEGIN OPENSSH PRIVATE KEY-----"
OPENSSH_LINE_BYTES_MAX: Final = 1024
"""A public key's line: a key of ours takes 170 characters, the comment is for people."""
OPENSSH_TYPES: Final = {Algorithm.ED25519: b"ssh-ed25519", Algorithm.P256: b"ecdsa-sha2-nistp256"}
"""OpenSSH's name of each algorithm."""

_LINE: Final = re.compile(rb"([a-z0-9@.-]{1,64}) ([A-Za-z0-9+/]+={0,2})(?: [^\r\n]*)?\n?")
_MAGIC: Final = b"openssh-key-v1\x00"
_NOT_ENCRYPTED: Final = _MAGIC + b"\x00\x00\x00\x04none\x00\x00\x00\x04none\x00\x00\x00\x00\x00\x00\x00\x01"
"""How an acceptable file begins: cipher none, derivation none without options, one key."""


def openssh_line(key: PublicKey, comment: str = "") -> bytes:
    """Return the key as the one line of a ``.pub`` file, line feed included.

    Raises:
        MalformedError: ``wire.key.openssh_comment``: the comment is not one line of printable ASCII, or too long.
    """
    line = (
        b" ".join((OPENSSH_TYPES[key.algorithm], b64encode(_blob(key)), *((comment.encode(),) if comment else ())))
        + b"\n"
    )
    if not (comment.isascii() and (comment.isprintable() or not comment)) or len(line) > OPENSSH_LINE_BYTES_MAX:
        raise MalformedError("wire.key.openssh_comment", "the comment is no short line of printable ASCII")
    return line


def public_key_from_openssh_untrusted(line: bytes) -> PublicKey:
    """Return the checked key of a ``.pub`` line. What stands after the key is a comment and is dropped.

    Raises:
        MalformedError: ``wire.key.openssh`` (not such a line, another kind of key, or not its one form), ``wire.key.small_order``,
            ``wire.key.point``.
    """
    match = _LINE.fullmatch(line) if len(line) <= OPENSSH_LINE_BYTES_MAX else None
    if match is None:
        raise _refuse("the line is no OpenSSH public key", line[:64])
    try:
        blob = b64decode(match[2], validate=True)
    except (Base64Error, ValueError):
        raise _refuse("the key's base64 is damaged", match[2]) from None
    for algorithm, name in OPENSSH_TYPES.items():
        head, length = _HEADS[algorithm]
        if match[1] == name and blob.startswith(head) and len(blob) == len(head) + length:
            point = blob[len(head) :]
            break
    else:
        raise _refuse("the OpenSSH key is of another kind", match[1])
    # Base64 has several texts for the last bytes of one key; only its own is read.
    if b64encode(blob) != match[2]:
        raise _refuse("the key's base64 is not canonical", match[2])
    if algorithm is Algorithm.ED25519:
        return public_key_from_raw_untrusted(algorithm, point)
    return public_key_from_spki_untrusted(_P256_SPKI_HEAD + point)


def private_key_from_file_untrusted(data: bytes, passphrase: bytes | None) -> PrivateKey:
    """Return the private key of a file in either container: PKCS#8 PEM, or OpenSSH's own.

    Raises:
        MalformedError: As `private_key_from_pem_untrusted` and `private_key_from_openssh_untrusted`; ``wire.key.passphrase_unused``.
    """
    if not data.strip().startswith(OPENSSH_PRIVATE):
        return private_key_from_pem_untrusted(data, passphrase)
    if passphrase is not None:
        raise MalformedError(
            "wire.key.passphrase_unused",
            "a passphrase was given for an OpenSSH key, of which only unencrypted ones are read",
            hint="give no passphrase",
        )
    return private_key_from_openssh_untrusted(data)


def private_key_from_openssh_untrusted(text: bytes) -> PrivateKey:
    """Return the private key of a file that `ssh-keygen` wrote without a passphrase.

    Raises:
        MalformedError: ``wire.key.openssh`` (not such a file, several keys, or damaged), ``wire.key.openssh_encrypted``,
            ``wire.key.algorithm``.
    """
    body = text.strip()
    if len(text) > PEM_BYTES_MAX or not body.startswith(OPENSSH_PRIVATE):
        raise MalformedError("wire.key.openssh", "the file is not an OpenSSH private key", expected="one PEM block")
    head = _decode_head(body)
    if head.startswith(_MAGIC) and not head.startswith(_NOT_ENCRYPTED):
        raise MalformedError(
            "wire.key.openssh_encrypted",
            "the OpenSSH private key is encrypted, or the file holds several",
            hint="take the passphrase off a copy: ssh-keygen -p -N '' -f COPY; `key import` encrypts what it writes",
        )
    try:
        key = serialization.load_ssh_private_key(body, None)
    except UnsupportedAlgorithm:
        raise MalformedError(
            "wire.key.algorithm", "the private key is of an unknown kind", expected="Ed25519 or P-256"
        ) from None
    except (ValueError, TypeError, NotImplementedError):  # The last one for a point of P-256 in another form.
        raise MalformedError("wire.key.openssh", "the OpenSSH private key is damaged") from None
    return private_key_from_library(key)


def openssh_private_text(key: PrivateKey) -> bytes:
    """Return the key as `ssh-keygen` would write it without a passphrase: whoever reads these bytes can sign."""
    pem = serialization.load_pem_private_key(key.to_pem(None), None)
    assert isinstance(pem, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey), "a PrivateKey is one of the two"
    return pem.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def _blob(key: PublicKey) -> bytes:
    head, length = _HEADS[key.algorithm]
    return head + key.spki[-length:]  # Both kinds of SubjectPublicKeyInfo end with the point.


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _decode_head(body: bytes) -> bytes:
    """Return the first bytes of the block, as far as `_NOT_ENCRYPTED` reaches; nothing when they are no base64."""
    joined = b"".join(body.removeprefix(OPENSSH_PRIVATE).split())[: len(_NOT_ENCRYPTED) // 3 * 4 + 4]
    try:
        return b64decode(joined, validate=True)
    except (Base64Error, ValueError):
        return b""


def _refuse(sentence: str, actual: bytes | str) -> MalformedError:
    shown = actual.decode("ascii", "replace") if isinstance(actual, bytes) else actual
    return MalformedError(
        "wire.key.openssh", sentence, expected="ssh-ed25519 or ecdsa-sha2-nistp256", actual=show_value(shown)
    )


# What stands before the point in a SubjectPublicKeyInfo (wire.keys), and in a blob of OpenSSH; both begin an uncompressed point with 04.
_P256_SPKI_HEAD: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_HEADS: Final = {
    Algorithm.ED25519: (_string(b"ssh-ed25519") + (32).to_bytes(4, "big"), 32),
    Algorithm.P256: (_string(b"ecdsa-sha2-nistp256") + _string(b"nistp256") + (65).to_bytes(4, "big") + b"\x04", 64),
}
"""The bytes before the point, and how many of it follow."""
