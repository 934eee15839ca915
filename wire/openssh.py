"""Keys in OpenSSH's own notations: the line of a ``.pub`` file, and the private key file that `ssh-keygen` writes.

::

    public    ssh-ed25519 BASE64 [COMMENT]             BASE64 of string "ssh-ed25519", string point (32 bytes)
              ecdsa-sha2-nistp256 BASE64 [COMMENT]     BASE64 of string type, string "nistp256", string uncompressed point (65 bytes)
    private   PEM block "OPENSSH PRIVATE KEY"          with one key, plain or encrypted by AES-256 under bcrypt's key derivation

A string is its length (4 bytes, big endian) and its bytes. What an encrypted file costs is whatever it says itself: the number of rounds is
bounded before anything is derived.

Source: docs/spec/wire.md 5; RFC 4253 6.6; RFC 5656 3.1; RFC 8709 4; OpenSSH's PROTOCOL.key.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
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
from wire.pkcs8 import PKCS8_WORK_MAX

OPENSSH_PRIVATE: Final = b"-----BEGIN OPENSSH PRIVATE KEY-----"
OPENSSH_LINE_BYTES_MAX: Final = 1024
"""A public key's line: a key of ours takes 170 characters, the comment is for people."""
OPENSSH_ROUNDS_MAX: Final = 1024
"""Rounds of key derivation that an encrypted file may ask for, about 10 ms each: `ssh-keygen` takes 16 or 24 unless told otherwise (-a)."""
OPENSSH_ROUNDS: Final = 24
"""Rounds of the files that we write; `ssh-keygen` takes 16 or 24 by itself."""
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


def private_key_from_file_untrusted(
    data: bytes, passphrase: bytes | None, *, rounds_max: int = OPENSSH_ROUNDS_MAX, work_max: int = PKCS8_WORK_MAX
) -> PrivateKey:
    """Return the private key of a file in either container: PKCS#8 PEM, or OpenSSH's own.

    Args:
        data: The file.
        passphrase: What opens it, if it is encrypted.
        rounds_max: The most rounds of key derivation that OpenSSH's file may ask for.
        work_max: The most steps of key derivation that a PKCS#8 file may ask for.

    Raises:
        MalformedError: As `private_key_from_pem_untrusted` and `private_key_from_openssh_untrusted`.
    """
    if not data.strip().startswith(OPENSSH_PRIVATE):
        return private_key_from_pem_untrusted(data, passphrase, work_max=work_max)
    return private_key_from_openssh_untrusted(data, passphrase, rounds_max=rounds_max)


def private_key_from_openssh_untrusted(
    text: bytes, passphrase: bytes | None = None, *, rounds_max: int = OPENSSH_ROUNDS_MAX
) -> PrivateKey:
    """Return the private key of a file that `ssh-keygen` wrote.

    Args:
        text: The file, at most `PEM_BYTES_MAX` bytes.
        passphrase: What opens it, if it is encrypted.
        rounds_max: The most rounds of key derivation that it may ask for.

    Raises:
        MalformedError: ``wire.key.openssh`` (not such a file, or damaged), ``wire.key.openssh_encrypted`` (in another way than
            `ssh-keygen` does by itself, or several keys), ``wire.key.openssh_rounds``, ``wire.key.passphrase_missing``,
            ``wire.key.passphrase_unused``, ``wire.key.passphrase`` (wrong, or the encrypted part is damaged), ``wire.key.algorithm``.
    """
    body = text.strip()
    if len(text) > PEM_BYTES_MAX or not body.startswith(OPENSSH_PRIVATE):
        raise MalformedError("wire.key.openssh", "the file is not an OpenSSH private key", expected="one PEM block")
    encrypted = _check_head(_decode_head(body), rounds_max)
    if encrypted and not passphrase:
        raise MalformedError("wire.key.passphrase_missing", "the private key is encrypted", hint="give its passphrase")
    if passphrase is not None and not encrypted:
        raise MalformedError(
            "wire.key.passphrase_unused",
            "the private key is not encrypted, but a passphrase was given",
            hint="give no passphrase",
        )
    try:
        key = serialization.load_ssh_private_key(body, passphrase)
    except UnsupportedAlgorithm:
        raise MalformedError(
            "wire.key.algorithm", "the private key is of an unknown kind", expected="Ed25519 or P-256"
        ) from None
    except (
        ValueError,
        TypeError,
        InvalidTag,
        NotImplementedError,
    ):  # The last one for a point of P-256 in another form.
        if encrypted:
            raise MalformedError(
                "wire.key.passphrase", "the passphrase is wrong or the encrypted key is damaged"
            ) from None
        raise MalformedError("wire.key.openssh", "the OpenSSH private key is damaged") from None
    return private_key_from_library(key)


def openssh_private_text(key: PrivateKey, passphrase: bytes | None = None) -> bytes:
    """Return the key as `ssh-keygen` would write it; without a passphrase, whoever reads these bytes can sign."""
    pem = serialization.load_pem_private_key(key.to_pem(None), None)
    assert isinstance(pem, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey), "a PrivateKey is one of the two"
    form = serialization.PrivateFormat.OpenSSH
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = form.encryption_builder().kdf_rounds(OPENSSH_ROUNDS).build(passphrase)
    return pem.private_bytes(serialization.Encoding.PEM, form, encryption)


def _blob(key: PublicKey) -> bytes:
    head, length = _HEADS[key.algorithm]
    return head + key.spki[-length:]  # Both kinds of SubjectPublicKeyInfo end with the point.


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _decode_head(body: bytes) -> bytes:
    """Return the first bytes of the block, as far as a head reaches; nothing when they are no base64."""
    text = body.removeprefix(OPENSSH_PRIVATE).partition(b"-----")[0]
    joined = b"".join(text.split())[: _HEAD_BYTES_MAX // 3 * 4 + 4]
    try:
        return b64decode(joined, validate=True)
    except (Base64Error, ValueError):
        return b""


def _check_head(head: bytes, rounds_max: int) -> bool:
    """Return whether the file is encrypted, if it is in a way that we read and at a cost that is bounded."""
    if not head.startswith(_MAGIC):
        raise MalformedError("wire.key.openssh", "the OpenSSH private key is damaged")
    if head.startswith(_NOT_ENCRYPTED):
        return False
    for start in _ENCRYPTED:
        rounds, count = (head[len(start) + _SALT_BYTES + place :][:4] for place in (0, 4))
        if not head.startswith(start) or count != b"\x00\x00\x00\x01":
            continue
        if not 1 <= int.from_bytes(rounds, "big") <= rounds_max:
            raise MalformedError(
                "wire.key.openssh_rounds",
                "the OpenSSH private key asks for too much work before it opens",
                hint="write a copy with fewer rounds: ssh-keygen -p -a 24 -f COPY",
                expected=f"1 to {rounds_max} rounds",
                actual=int.from_bytes(rounds, "big"),
            )
        return True
    raise MalformedError(
        "wire.key.openssh_encrypted",
        "the OpenSSH private key is encrypted in an unknown way, or the file holds several",
        hint="write a copy as ssh-keygen does by itself: ssh-keygen -p -Z aes256-ctr -f COPY",
        expected="one key; no cipher, or " + ", ".join(each.decode() for each in _CIPHERS) + " under bcrypt",
    )


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

_CIPHERS: Final = (b"aes256-ctr", b"aes256-cbc", b"aes256-gcm@openssh.com")
_SALT_BYTES: Final = 16
"""Of every file that `ssh-keygen` writes."""
_ENCRYPTED: Final = tuple(
    _MAGIC
    + _string(cipher)
    + _string(b"bcrypt")
    + (4 + _SALT_BYTES + 4).to_bytes(4, "big")
    + _SALT_BYTES.to_bytes(4, "big")
    for cipher in _CIPHERS
)
"""How an acceptable encrypted file begins; then come the salt, the number of rounds and the number of keys, which is 1."""
_HEAD_BYTES_MAX: Final = max(len(start) for start in _ENCRYPTED) + _SALT_BYTES + 8
