"""Makes X.509 certificates of every kind, good and bad, from deterministic keys."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Private = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

NOT_BEFORE = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
NOT_AFTER = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)
AT = int(datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC).timestamp())

CODE_SIGNING = (ExtendedKeyUsageOID.CODE_SIGNING,)


def ed25519_key(number: int) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def p256_key(number: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(1000 + number, ec.SECP256R1())


def key_usage(*names: str) -> x509.KeyUsage:
    every = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: name in names for name in every})


def name(text: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "ACME"), x509.NameAttribute(NameOID.COMMON_NAME, text)]
    )


def certificate(
    subject: str,
    key: Private,
    issuer: str,
    issuer_key: Private,
    extensions: list[tuple[x509.ExtensionType, bool]],
    *,
    not_before: datetime.datetime = NOT_BEFORE,
    not_after: datetime.datetime = NOT_AFTER,
    serial: int = 7,
    hash_algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
) -> bytes:
    """Return a DER certificate with exactly these extensions."""
    builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer)).serial_number(serial)
    builder = builder.public_key(key.public_key()).not_valid_before(not_before).not_valid_after(not_after)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    algorithm = None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else hash_algorithm or hashes.SHA256()
    return builder.sign(issuer_key, algorithm).public_bytes(Encoding.DER)


def ca(
    subject: str,
    key: Private,
    issuer: str,
    issuer_key: Private,
    *,
    path_length: int | None = None,
    constraints: bool | None = True,
    usage: tuple[str, ...] | None = ("key_cert_sign",),
    more: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    not_before: datetime.datetime = NOT_BEFORE,
    not_after: datetime.datetime = NOT_AFTER,
    hash_algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
) -> bytes:
    """Return a DER certificate of a CA; `constraints` and `usage` None leave the extension out."""
    extensions: list[tuple[x509.ExtensionType, bool]] = []
    if constraints is not None:
        extensions.append((x509.BasicConstraints(constraints, path_length if constraints else None), True))
    if usage is not None:
        extensions.append((key_usage(*usage), True))
    return certificate(
        subject,
        key,
        issuer,
        issuer_key,
        [*extensions, *more],
        not_before=not_before,
        not_after=not_after,
        hash_algorithm=hash_algorithm,
    )


def leaf(
    key: Private,
    issuer: str,
    issuer_key: Private,
    *,
    constraints: bool | None = False,
    usage: tuple[str, ...] | None = ("digital_signature",),
    purposes: tuple[x509.ObjectIdentifier, ...] | None = CODE_SIGNING,
    more: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    not_before: datetime.datetime = NOT_BEFORE,
    not_after: datetime.datetime = NOT_AFTER,
    hash_algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
) -> bytes:
    """Return a DER certificate of a code signer named Alice."""
    extensions: list[tuple[x509.ExtensionType, bool]] = []
    if constraints is not None:
        extensions.append((x509.BasicConstraints(constraints, None), True))
    if usage is not None:
        extensions.append((key_usage(*usage), True))
    if purposes is not None:
        extensions.append((x509.ExtendedKeyUsage(purposes), False))
    return certificate(
        "Alice",
        key,
        issuer,
        issuer_key,
        [*extensions, *more],
        not_before=not_before,
        not_after=not_after,
        hash_algorithm=hash_algorithm,
    )
