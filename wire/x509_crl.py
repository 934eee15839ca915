"""X.509 certificate revocation lists: which certificates a CA has taken back, read and verified, never fetched.

A list is signed by the key of a CA certificate that is trusted already. Only whole lists of one issuer are read: with an indirect list, a
partitioned one or a delta the absence of a serial number would mean something else, so their critical extensions are refused.

Source: docs/spec/wire.md 11.1; RFC 5280 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID, SignatureAlgorithmOID

from wire.errors import InvalidCertificateError, MalformedError
from wire.limits import X509_CRL_BYTES_MAX, X509_CRL_ENTRIES_MAX
from wire.x509 import anchor_untrusted

SERIAL_BYTES: Final = 20
"""A serial number has at most this many bytes (RFC 5280 4.1.2.2)."""
CRL_NUMBER_MAX: Final = 2**63 - 1
"""The highest CRL number that is read. RFC 5280 5.2.3 lets a CA count further, which none reaches that counts."""

_SIGNATURE_ALGORITHMS: Final = frozenset((SignatureAlgorithmOID.ED25519, SignatureAlgorithmOID.ECDSA_WITH_SHA256))
_REVERSIBLE: Final = frozenset((x509.ReasonFlags.certificate_hold, x509.ReasonFlags.remove_from_crl))


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A list that a CA signed."""

    number: int
    """Its CRL number: a newer list has a higher one."""
    this_update: int
    """When it was made: seconds since the epoch."""
    next_update: int
    """When a newer one is due: seconds since the epoch."""
    serials: tuple[bytes, ...]
    """Serial numbers of the certificates that are revoked for ever, 20 bytes each, in order."""


def issuer_bytes(der: bytes) -> bytes:
    """Return the encoded name that a certificate in DER, which parses, names as its issuer."""
    return x509.load_der_x509_certificate(der).issuer.public_bytes()


def subject_bytes(der: bytes) -> bytes:
    """Return the encoded name that a certificate in DER, which parses, has itself."""
    return x509.load_der_x509_certificate(der).subject.public_bytes()


def serial_bytes(der: bytes) -> bytes:
    """Return the serial number of a certificate in DER, which parses: 20 bytes; none when it is one that no list can name."""
    serial = x509.load_der_x509_certificate(der).serial_number
    return serial.to_bytes(SERIAL_BYTES, "big") if _is_serial(serial) else b""


def verify_revocation_list(der: bytes, authority: bytes) -> RevocationList:
    """Return the list of `der`, which the CA of the certificate `authority` signed.

    Args:
        der: From anybody.
        authority: A trusted CA certificate in DER.

    Raises:
        MalformedError: ``wire.x509.crl_length``, ``wire.x509.crl_malformed``, ``wire.x509.algorithm``, ``wire.x509.critical_extension``;
            as `anchor_untrusted` for the authority.
        InvalidCertificateError: ``wire.x509.crl_usage``, ``wire.x509.crl_issuer``, ``wire.x509.crl_signature``.
    """
    anchor = anchor_untrusted(authority)
    parsed = x509.load_der_x509_certificate(anchor.der)
    usage = parsed.extensions.get_extension_for_class(x509.KeyUsage).value
    if not usage.crl_sign:
        raise InvalidCertificateError("wire.x509.crl_usage", "the CA may not sign revocation lists (key usage cRLSign)")
    if len(der) > X509_CRL_BYTES_MAX:
        raise MalformedError(
            "wire.x509.crl_length",
            "the list is too long",
            expected=f"at most {X509_CRL_BYTES_MAX} bytes",
            actual=len(der),
        )
    try:
        crl = x509.load_der_x509_crl(der)
        algorithm = crl.signature_algorithm_oid
        extensions = list(crl.extensions)
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        issuer = crl.issuer
        updates = (crl.last_update_utc, crl.next_update_utc)
        entries = [(each.serial_number, list(each.extensions)) for each in crl]
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.ExtensionNotFound,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise MalformedError(
            "wire.x509.crl_malformed",
            f"the list cannot be read ({type(error).__name__})",
            expected="DER with a CRL number",
        ) from None
    if updates[1] is None or len(entries) > X509_CRL_ENTRIES_MAX:
        raise MalformedError(
            "wire.x509.crl_malformed",
            "the list has no next update, or too many entries",
            expected=f"at most {X509_CRL_ENTRIES_MAX} entries",
            actual=len(entries),
        )
    if not 0 <= number <= CRL_NUMBER_MAX or not all(_is_serial(serial) for serial, _ in entries):
        raise MalformedError(
            "wire.x509.crl_malformed",
            "the list's number or a serial number in it is out of range",
            expected=f"a number up to {CRL_NUMBER_MAX}, serial numbers of at most {SERIAL_BYTES} bytes, none negative",
        )
    if algorithm not in _SIGNATURE_ALGORITHMS:
        raise MalformedError(
            "wire.x509.algorithm", "the list is signed with another algorithm", actual=algorithm.dotted_string
        )
    critical = [
        each.oid for each in (*extensions, *(one for _, several in entries for one in several)) if each.critical
    ]
    if critical:
        raise MalformedError(
            "wire.x509.critical_extension",
            "the list has a critical extension that is not evaluated here",
            actual=critical[0].dotted_string,
        )
    if any(each.oid == ExtensionOID.DELTA_CRL_INDICATOR for each in extensions):
        raise MalformedError("wire.x509.critical_extension", "the list is a delta, not a whole one")
    if issuer != parsed.subject:
        raise InvalidCertificateError("wire.x509.crl_issuer", "the list names another issuer than the CA")
    if not crl.is_signature_valid(load_der_public_key(anchor.public_key.spki)):  # type: ignore[arg-type]
        raise InvalidCertificateError("wire.x509.crl_signature", "the list is not signed by the CA")
    final = {serial.to_bytes(SERIAL_BYTES, "big") for serial, extensions in entries if not _is_reversible(extensions)}
    return RevocationList(number, int(updates[0].timestamp()), int(updates[1].timestamp()), tuple(sorted(final)))


def _is_serial(number: int) -> bool:
    return 0 <= number < 1 << 8 * SERIAL_BYTES


def _is_reversible(extensions: list[x509.Extension[x509.ExtensionType]]) -> bool:
    return any(
        each.oid == CRLEntryExtensionOID.CRL_REASON
        and isinstance(each.value, x509.CRLReason)
        and each.value.reason in _REVERSIBLE
        for each in extensions
    )
