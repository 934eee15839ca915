"""Signing keys: Ed25519 (by PyNaCl) and ECDSA P-256 with SHA-256 (by cryptography), their ids and their DIDs.

A key has exactly one form in each notation, so one key has one id::

    raw      32 bytes (Ed25519) or 33 bytes, a compressed point (P-256)
    spki     DER SubjectPublicKeyInfo, 44 bytes or 91 bytes (P-256: named curve, uncompressed point)
    key_id   SHA-256 of spki
    did      did:key:z + base58btc of the multicodec prefix and raw

Refused when a key is made, and so never verified with: Ed25519 points of small order (under them one signature holds for every message
in the usual libraries), points outside the prime-order group, encodings that are not the point's own, points off the curve.

An algorithm always comes from the key record, never from a message. Where a key or a passphrase comes from is the caller's business.

Source: docs/spec/wire.md 5; RFC 8032; RFC 8410; RFC 5480; FIPS 186-5; did:key specification, section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from hashlib import sha512
from typing import Final, NewType, Protocol, assert_never

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from nacl import bindings as sodium
from nacl.exceptions import BadSignatureError

from wire.base58 import BASE58_CHARACTERS_MAX, base58_decode_untrusted, base58_encode
from wire.errors import InvalidSignatureError, MalformedError
from wire.hashing import sha256
from wire.limits import PEM_BYTES_MAX, SIGNATURE_BYTES_MAX
from wire.pkcs8 import PKCS8_BEGIN, PKCS8_WORK_MAX, check_cost_untrusted, read_encrypted_untrusted

KeyId = NewType("KeyId", bytes)
"""The SHA-256 of a key's SubjectPublicKeyInfo: exactly 32 bytes."""

KEY_ID_BYTES: Final = 32
SEED_BYTES: Final = 32
ED25519_RAW_BYTES: Final = 32
P256_RAW_BYTES: Final = 33
ED25519_SIGNATURE_BYTES: Final = 64

_KEYS_CACHED_MAX: Final = 4096
"""Public keys kept parsed: more than the identities that are active at one time; about 2 MiB."""


class Algorithm(StrEnum):
    """The signature algorithms. The text is what key records and messages for people carry."""

    ED25519 = "ed25519"
    P256 = "ecdsa-p256-sha256"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A checked public key. Only the `public_key_from_…_untrusted` functions and `PrivateKey.public_key` make one."""

    algorithm: Algorithm
    "Which algorithm this key verifies; never taken from a signature."
    raw: bytes
    "32-byte Ed25519 point or 33-byte compressed P-256 point."
    spki: bytes
    "DER SubjectPublicKeyInfo, 44 or 91 bytes."
    key_id: KeyId
    "SHA-256 of `spki`, 32 bytes."

    @property
    def key_id_hex(self) -> str:
        """The key id as 64 lower-case hexadecimal digits, as envelopes carry it."""
        return self.key_id.hex()

    @property
    def did(self) -> str:
        """The key as a ``did:key:z…`` identifier."""
        return _did_of(self.algorithm, self.raw)

    @property
    def pem(self) -> bytes:
        """The key as a PEM ``PUBLIC KEY`` block, for other tools."""
        return serialization.load_der_public_key(self.spki).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def verify(self, message: bytes, signature: bytes) -> None:
        """Return only when `signature` is this key's signature of `message`.

        Args:
            message: The signed bytes themselves; hashing is part of the algorithm.
            signature: 64 bytes for Ed25519, DER for P-256.

        Raises:
            InvalidSignatureError: ``wire.signature.invalid``.
        """
        if not self.is_valid(message, signature):
            raise InvalidSignatureError(
                "wire.signature.invalid",
                "the signature does not hold for this message and key",
                hint="check that the message is unchanged and was signed with the key of this id",
                details={"key_id": self.key_id_hex, "algorithm": self.algorithm.value},
            )

    def is_valid(self, message: bytes, signature: bytes) -> bool:
        """Return whether `signature` is this key's signature of `message`."""
        match self.algorithm:
            case Algorithm.ED25519:
                # crypto_sign_open takes signature and message joined: a wrong length would shift the border between them.
                if len(signature) != ED25519_SIGNATURE_BYTES:
                    return False
                try:
                    sodium.crypto_sign_open(signature + message, self.raw)
                except BadSignatureError:
                    return False
                return True
            case Algorithm.P256:
                if len(signature) > SIGNATURE_BYTES_MAX:
                    return False
                try:
                    _p256_public(self.spki).verify(signature, message, _P256_VERIFY)
                except InvalidSignature:
                    return False
                return True
            case _ as never:
                assert_never(never)


class Signer(Protocol):
    """Who can sign with a key: a `PrivateKey`, or something that asks a token or another program to."""

    @property
    def public_key(self) -> PublicKey:
        """The key that verifies what `sign` returns."""

    def sign(self, message: bytes) -> bytes:
        """Return the signature of `message` under `public_key`; raises when there is none."""


class PrivateKey:
    """A private key. Its text form names the public key only, and it cannot be pickled or copied."""

    __slots__ = ("_secret", "public_key")

    public_key: PublicKey
    _secret: bytes | ec.EllipticCurvePrivateKey

    def __init__(self, secret: bytes | ec.EllipticCurvePrivateKey) -> None:
        """Wrap a 32-byte Ed25519 seed or a P-256 private key; use `private_key_from_seed` or `private_key_from_pem_untrusted`."""
        if isinstance(secret, bytes):
            point, secret = sodium.crypto_sign_seed_keypair(secret)
            self.public_key = _ed25519_from_raw(point)
        else:
            encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            self.public_key = public_key_from_spki_untrusted(secret.public_key().public_bytes(encoding, form))
        self._secret = secret

    def __repr__(self) -> str:
        """Return the public key's id; never the secret."""
        return f"<PrivateKey {self.algorithm} {self.public_key.key_id_hex}>"

    def __reduce__(self) -> str:
        """Refuse to be pickled or copied: a secret leaves this object only by `to_pem` and `seed`."""
        raise TypeError("a private key is not pickled or copied; write it with to_pem")

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm of this key."""
        return self.public_key.algorithm

    @property
    def seed(self) -> bytes:
        """The 32-byte seed of an Ed25519 key, for the libp2p host.

        Raises:
            MalformedError: ``wire.key.no_seed`` for a P-256 key.
        """
        if not isinstance(self._secret, bytes):
            raise MalformedError("wire.key.no_seed", "only an Ed25519 key has a seed", actual=self.algorithm.value)
        return self._secret[:SEED_BYTES]

    def sign(self, message: bytes) -> bytes:
        """Return the signature of `message`: 64 bytes (Ed25519) or DER of at most 72 bytes (P-256); the same one every time."""
        if isinstance(self._secret, bytes):
            return sodium.crypto_sign(message, self._secret)[:ED25519_SIGNATURE_BYTES]
        return self._secret.sign(message, _P256_SIGN)

    def to_pem(self, passphrase: bytes | None) -> bytes:
        """Return the key as a PEM PKCS#8 block, encrypted when a passphrase is given.

        Raises:
            MalformedError: ``wire.key.passphrase`` for an empty passphrase: None is the way to ask for no encryption.
        """
        if passphrase is not None and not passphrase:
            raise MalformedError(
                "wire.key.passphrase", "an empty passphrase encrypts nothing", hint="give a passphrase or none at all"
            )
        encryption = (
            serialization.NoEncryption() if passphrase is None else serialization.BestAvailableEncryption(passphrase)
        )
        key = (
            ed25519.Ed25519PrivateKey.from_private_bytes(self.seed) if isinstance(self._secret, bytes) else self._secret
        )
        return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def public_key_from_raw_untrusted(algorithm: Algorithm, raw: bytes) -> PublicKey:
    """Return the checked key of a raw point: 32 bytes for Ed25519, 33 bytes (compressed) for P-256.

    Raises:
        MalformedError: ``wire.key.length``, ``wire.key.small_order``, ``wire.key.point``.
    """
    expected = ED25519_RAW_BYTES if algorithm is Algorithm.ED25519 else P256_RAW_BYTES
    if len(raw) != expected:
        raise MalformedError(
            "wire.key.length", f"an {algorithm} key has another length", expected=f"{expected} bytes", actual=len(raw)
        )
    match algorithm:
        case Algorithm.ED25519:
            return _ed25519_from_raw(raw)
        case Algorithm.P256:
            return _p256_from_raw(raw)
        case _ as never:
            assert_never(never)


def public_key_from_spki_untrusted(der: bytes) -> PublicKey:
    """Return the checked key of a DER SubjectPublicKeyInfo in the one form that this project accepts.

    Raises:
        MalformedError: ``wire.key.spki`` (another algorithm, curve, parameter, point form or DER), ``wire.key.small_order``,
            ``wire.key.point``.
    """
    if len(der) == len(_ED25519_SPKI) + ED25519_RAW_BYTES and der.startswith(_ED25519_SPKI):
        return _ed25519_from_raw(der[len(_ED25519_SPKI) :])
    if len(der) == len(_P256_SPKI) + 64 and der.startswith(_P256_SPKI):
        return _p256_from_spki(der)
    raise MalformedError(
        "wire.key.spki",
        "the public key is not an Ed25519 or P-256 key in its canonical DER form",
        expected="44 bytes (Ed25519) or 91 bytes (P-256, named curve, uncompressed point)",
        actual=der,
    )


def public_key_from_did_untrusted(did: str) -> PublicKey:
    """Return the checked key that a ``did:key`` identifier contains; nothing is resolved anywhere.

    Raises:
        MalformedError: ``wire.key.did`` (not ``did:key:z…`` of an Ed25519 or P-256 key, or not in its one form), ``wire.key.base58``,
            ``wire.key.small_order``, ``wire.key.point``.
    """
    if not did.startswith(_DID_PREFIX) or len(did) > len(_DID_PREFIX) + BASE58_CHARACTERS_MAX:
        raise MalformedError("wire.key.did", "the identifier is not a did:key", expected=f"{_DID_PREFIX}…", actual=did)
    data = base58_decode_untrusted(did[len(_DID_PREFIX) :])
    # Base58 is one to one, so decode and encode give the same text and need no comparison.
    for algorithm, prefix, length in (
        (Algorithm.ED25519, _MULTICODEC_ED25519, ED25519_RAW_BYTES),
        (Algorithm.P256, _MULTICODEC_P256, P256_RAW_BYTES),
    ):
        if data.startswith(prefix) and len(data) == len(prefix) + length:
            return public_key_from_raw_untrusted(algorithm, data[len(prefix) :])
    raise MalformedError(
        "wire.key.did", "the did:key is of another kind of key", expected="an Ed25519 or P-256 key", actual=did
    )


def private_key_from_seed(algorithm: Algorithm, seed: bytes) -> PrivateKey:
    """Return the private key that follows from 32 bytes of entropy: the same key for the same seed.

    For P-256 the scalar is SHA-512 of a domain and the seed, reduced to 1 … n-1: 512 bits leave no measurable bias (FIPS 186-5 A.2.1).

    Raises:
        MalformedError: ``wire.key.seed`` when the seed is not 32 bytes long.
    """
    if len(seed) != SEED_BYTES:
        raise MalformedError(
            "wire.key.seed", "a seed has another length", expected=f"{SEED_BYTES} bytes", actual=f"{len(seed)} bytes"
        )
    match algorithm:
        case Algorithm.ED25519:
            return PrivateKey(seed)
        case Algorithm.P256:
            scalar = int.from_bytes(sha512(_P256_SEED_DOMAIN + seed).digest(), "big") % (_P256_ORDER - 1) + 1
            return PrivateKey(ec.derive_private_key(scalar, ec.SECP256R1()))
        case _ as never:
            assert_never(never)


def private_key_from_pem_untrusted(
    pem: bytes, passphrase: bytes | None, *, work_max: int = PKCS8_WORK_MAX
) -> PrivateKey:
    """Return the private key of a PEM PKCS#8 block.

    Args:
        pem: The file, at most `PEM_BYTES_MAX` bytes.
        passphrase: What opens it, if it is encrypted.
        work_max: The most steps of key derivation that it may ask for.

    Raises:
        MalformedError: ``wire.key.pem`` (not PKCS#8 PEM, or too long), ``wire.key.passphrase_missing``, ``wire.key.passphrase_unused``,
            ``wire.key.passphrase`` (wrong, or the encrypted block is damaged), ``wire.key.pkcs8_cost`` (it asks for too much work or
            memory), ``wire.key.pkcs8_encrypted`` (in a way that is not read), ``wire.key.algorithm``.
    """
    text = pem.strip()
    encrypted = text.startswith(PKCS8_BEGIN)
    if len(pem) > PEM_BYTES_MAX or not (encrypted or text.startswith(_PEM_PLAIN)):
        raise MalformedError(
            "wire.key.pem", "the file is not a PKCS#8 private key in PEM", expected=_PEM_PLAIN.decode("ascii")
        )
    der = read_encrypted_untrusted(text) if encrypted else b""
    if encrypted:
        check_cost_untrusted(der, work_max=work_max)
    if encrypted and not passphrase:
        raise MalformedError("wire.key.passphrase_missing", "the private key is encrypted", hint="give its passphrase")
    if passphrase is not None and not encrypted:
        raise MalformedError(
            "wire.key.passphrase_unused",
            "the private key is not encrypted, but a passphrase was given",
            hint="give no passphrase",
        )
    try:
        if encrypted:  # the bytes whose cost was bounded, and no others that the block could be taken for
            key = serialization.load_der_private_key(der, passphrase)
        else:
            key = serialization.load_pem_private_key(text, passphrase)
    except UnsupportedAlgorithm:
        raise MalformedError(
            "wire.key.algorithm", "the private key is of an unknown kind", expected="Ed25519 or P-256"
        ) from None
    except (ValueError, TypeError, InternalError):
        # A wrong passphrase and a damaged block are reported alike, a key of the wrong length as `InternalError`. The library's text is
        # dropped: it may quote the file.
        if encrypted:
            raise MalformedError(
                "wire.key.passphrase", "the passphrase is wrong or the encrypted key is damaged"
            ) from None
        raise MalformedError("wire.key.pem", "the private key is damaged") from None
    return private_key_from_library(key)


def private_key_from_library(key: object) -> PrivateKey:
    """Return a private key that the library has read from some container.

    Raises:
        MalformedError: ``wire.key.algorithm`` when it is neither an Ed25519 nor a P-256 key.
    """
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return PrivateKey(key.private_bytes_raw())
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return PrivateKey(key)
    raise MalformedError(
        "wire.key.algorithm",
        "the private key is of another kind",
        expected="Ed25519 or P-256",
        actual=type(key).__name__,
    )


def verify_batch(checks: Iterable[tuple[PublicKey, bytes, bytes]]) -> tuple[bool, ...]:
    """Return, for each (key, message, signature), whether the signature holds.

    The one seam for many signatures: a worker process or a true batch algorithm can take its place.
    """
    return tuple(key.is_valid(message, signature) for key, message, signature in checks)


@lru_cache(maxsize=_KEYS_CACHED_MAX)
def _ed25519_from_raw(raw: bytes) -> PublicKey:
    if _is_small_order(raw):
        raise MalformedError(
            "wire.key.small_order", "an Ed25519 key of small order proves nothing", hint="make a new key", actual=raw
        )
    # True only for a canonical encoding of a point of the prime-order group.
    if not sodium.crypto_core_ed25519_is_valid_point(raw):
        raise MalformedError("wire.key.point", "the bytes are no point that an Ed25519 key can have", actual=raw)
    spki = _ED25519_SPKI + raw
    return PublicKey(Algorithm.ED25519, raw, spki, KeyId(sha256(spki)))


def _is_small_order(raw: bytes) -> bool:
    """Return whether `raw` encodes, canonically or not, one of the eight points whose order divides 8.

    Their y is 0, 1, -1 or one of the two of order 8, whatever the sign bit. Source: RFC 8032 5.1; "Taming the many EdDSAs", table 1.
    """
    y = int.from_bytes(raw, "little") & ((1 << 255) - 1)
    return y % _ED25519_PRIME in _SMALL_ORDER_Y


def _p256_from_raw(raw: bytes) -> PublicKey:
    # Any other first byte (0 is infinity, 4 uncompressed, 6 and 7 hybrid) is refused here, so that no library's leniency counts.
    if raw[0] not in (2, 3):
        raise MalformedError(
            "wire.key.point", "a P-256 key is a compressed point", expected="a first byte of 2 or 3", actual=raw
        )
    return _p256_checked(raw)


@lru_cache(maxsize=_KEYS_CACHED_MAX)
def _p256_checked(raw: bytes) -> PublicKey:
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw)
    except ValueError:
        raise _p256_off_curve(raw) from None
    return _p256_key(key)


@lru_cache(maxsize=_KEYS_CACHED_MAX)
def _p256_from_spki(spki: bytes) -> PublicKey:
    return _p256_key(_p256_public(spki))


def _p256_key(key: ec.EllipticCurvePublicKey) -> PublicKey:
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    raw = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    return PublicKey(Algorithm.P256, raw, spki, KeyId(sha256(spki)))


@lru_cache(maxsize=_KEYS_CACHED_MAX)
def _p256_public(spki: bytes) -> ec.EllipticCurvePublicKey:
    """Return the library's key of a SubjectPublicKeyInfo with our prefix; cached, so that verifying again parses nothing."""
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), spki[len(_P256_SPKI) - 1 :])
    except ValueError:
        raise _p256_off_curve(spki) from None
    return key


def _p256_off_curve(actual: bytes) -> MalformedError:
    return MalformedError("wire.key.point", "the bytes are no point of the P-256 curve", actual=actual)


@lru_cache(maxsize=_KEYS_CACHED_MAX)
def _did_of(algorithm: Algorithm, raw: bytes) -> str:
    prefix = _MULTICODEC_ED25519 if algorithm is Algorithm.ED25519 else _MULTICODEC_P256
    return _DID_PREFIX + base58_encode(prefix + raw)


# SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING (32 bytes follow) }. Source: RFC 8410 4.
_ED25519_SPKI: Final = bytes.fromhex("302a300506032b6570032100")
# SEQUENCE { SEQUENCE { OID 1.2.840.10045.2.1, OID 1.2.840.10045.3.1.7 }, BIT STRING (04, then 64 bytes follow) }. Source: RFC 5480 2.1.1.
_P256_SPKI: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")

# varint(0xed) and varint(0x1200). Source: multicodec table, ed25519-pub and p256-pub.
_MULTICODEC_ED25519: Final = b"\xed\x01"
_MULTICODEC_P256: Final = b"\x80\x24"
_DID_PREFIX: Final = "did:key:z"

_PEM_PLAIN: Final = b"-----BEGIN PRIVATE KEY-----"

_P256_VERIFY: Final = ec.ECDSA(hashes.SHA256())
# RFC 6979: no chance, so a replayed run signs the same bytes and a weak generator leaks no key.
_P256_SIGN: Final = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
_P256_SEED_DOMAIN: Final = b"patchwarden/p256-seed/1"
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

_ED25519_PRIME: Final = 2**255 - 19
_ORDER_8_Y: Final = int.from_bytes(
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"
)
_SMALL_ORDER_Y: Final = frozenset((0, 1, _ED25519_PRIME - 1, _ORDER_8_Y, _ED25519_PRIME - _ORDER_8_Y))
