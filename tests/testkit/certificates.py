"""A small deterministic PKI for tests: Ed25519 certificates with fixed times and serial numbers, so the same bytes every run."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wire.keys import PrivateKey

NOT_BEFORE = datetime(2026, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(2030, 1, 1, tzinfo=UTC)
CA_KEY = Ed25519PrivateKey.from_private_bytes(b"certificate authority".ljust(32, b"\0"))


def make_chain(
    key: PrivateKey, name: str = "Alice Example", *, not_before: datetime = NOT_BEFORE, not_after: datetime = NOT_AFTER
) -> tuple[bytes, bytes]:
    """Return leaf and CA certificate in DER, both valid from and until then; the leaf carries the public key of `key`, an Ed25519 key."""
    leaf_key = Ed25519PrivateKey.from_private_bytes(key.seed).public_key()
    ca_name = _name("Acme Code Signing CA")
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    ca_usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    authority = (
        _builder(ca_name, ca_name, 1, not_before, not_after)
        .public_key(CA_KEY.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(ca_usage, critical=True)
        .sign(CA_KEY, None)
    )
    leaf = (
        _builder(_name(name), ca_name, 2, not_before, not_after)
        .public_key(leaf_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .sign(CA_KEY, None)
    )
    return leaf.public_bytes(Encoding.DER), authority.public_bytes(Encoding.DER)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, serial: int, not_before: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
