"""X.509 certificate chains of code signers, checked against given anchors at a given time.

For organisations that already have a PKI: a chain leads from the signer's certificate to a CA certificate that the organisation has on the
ledger. Nothing is fetched; revocation is the ledger's. The rules are a small subset of RFC 5280, and what lies outside it is refused:

1. Ed25519 or ECDSA P-256 with SHA-256 in every certificate.
2. Each certificate is signed by the next, and the last by an anchor (or is that anchor).
3. Every certificate, the anchor included, is valid at the given time.
4. The leaf is no CA, may sign (`digitalSignature`), and is meant for code signing (extended key usage, present and explicit). A
   ``did:key`` among its subject alternative names is that of its own key.
5. Every issuer is a CA with `keyCertSign`, and its path length constraint, if any, is kept.
6. No critical extension is unknown. Name constraints and certificate policies count as unknown: they are not evaluated here.

Source: docs/spec/wire.md 11; RFC 5280 4.2 and 6.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID

from wire.errors import InvalidCertificateError, MalformedError
from wire.keys import PublicKey, public_key_from_spki_untrusted
from wire.limits import X509_CERTIFICATE_BYTES_MAX, X509_CHAIN_LENGTH_MAX

_ExtensionT = TypeVar("_ExtensionT", bound=x509.ExtensionType)

_SIGNATURE_ALGORITHMS: Final = frozenset((SignatureAlgorithmOID.ED25519, SignatureAlgorithmOID.ECDSA_WITH_SHA256))

_KNOWN_EXTENSIONS: Final = frozenset(
    (
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,  # says more about the subject and constrains nothing
    )
)
"""Extensions that may be critical."""

_URI: Final = x509.UniformResourceIdentifier
_DID_KEY: Final = "did:key:"


@dataclass(frozen=True, slots=True)
class CertificateChain:
    """A parsed chain of certificates; nothing about it is verified."""

    public_key: PublicKey
    "The leaf's key."
    subject: str
    "The leaf's subject, as RFC 4514 writes it."
    issuer: str
    "The leaf's issuer, as RFC 4514 writes it."
    serial: int
    "The leaf's serial number."
    not_before: int
    "From when the leaf is valid: seconds since the epoch, included."
    not_after: int
    "Until when the leaf is valid: seconds since the epoch, included."
    ders: tuple[bytes, ...]
    "The certificates in DER, the leaf first, each followed by its issuer; 1 to `X509_CHAIN_LENGTH_MAX`."


@dataclass(frozen=True, slots=True)
class Anchor:
    """A CA certificate that may stand at the end of a chain."""

    public_key: PublicKey
    "The CA's key."
    subject: str
    "The CA's subject, as RFC 4514 writes it."
    serial: int
    "The CA certificate's serial number."
    not_before: int
    "From when it is valid: seconds since the epoch, included."
    not_after: int
    "Until when it is valid: seconds since the epoch, included."
    der: bytes
    "The certificate in DER."


@dataclass(frozen=True, slots=True)
class _Certificate:
    """One parsed certificate with what the rules look at."""

    parsed: x509.Certificate
    der: bytes
    public_key: PublicKey
    subject: str
    issuer: str
    not_before: int
    not_after: int
    basic_constraints: x509.BasicConstraints | None
    key_usage: x509.KeyUsage | None
    extended_key_usage: x509.ExtendedKeyUsage | None
    alternative_names: x509.SubjectAlternativeName | None


def certificate_chain_untrusted(ders: Sequence[bytes]) -> CertificateChain:
    """Return the parsed chain of DER certificates, the leaf first. Nothing is verified: `verify_chain` does that.

    Raises:
        MalformedError: ``wire.x509.length`` (none, too many, or one too long), ``wire.x509.malformed``, ``wire.x509.algorithm``,
            ``wire.x509.critical_extension``, and the ``wire.key.*`` codes for a certificate's key.
    """
    if not 1 <= len(ders) <= X509_CHAIN_LENGTH_MAX:
        raise MalformedError(
            "wire.x509.length",
            "a chain has another number of certificates",
            expected=f"1 to {X509_CHAIN_LENGTH_MAX}",
            actual=len(ders),
        )
    leaf, *_ = [_parse(der) for der in ders]
    return CertificateChain(
        public_key=leaf.public_key,
        subject=leaf.subject,
        issuer=leaf.issuer,
        serial=leaf.parsed.serial_number,
        not_before=leaf.not_before,
        not_after=leaf.not_after,
        ders=tuple(ders),
    )


def anchor_untrusted(der: bytes) -> Anchor:
    """Return the CA certificate of `der` when it may issue certificates at all. Whether it deserves trust is the caller's knowledge.

    Raises:
        MalformedError: As `certificate_chain_untrusted`.
        InvalidCertificateError: ``wire.x509.not_ca``, ``wire.x509.key_usage``.
    """
    certificate = _parse(der)
    _check_issuer(certificate, below=0)
    return Anchor(
        public_key=certificate.public_key,
        subject=certificate.subject,
        serial=certificate.parsed.serial_number,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        der=der,
    )


def verify_chain(chain: CertificateChain, anchors: Sequence[bytes], at_seconds: int) -> None:
    """Return only when the chain leads to one of the anchors and its leaf might sign code at the given time.

    Args:
        chain: The parsed chain.
        anchors: Trusted CA certificates in DER. One that is damaged is refused like a damaged chain.
        at_seconds: The time that counts, in seconds since the epoch: when the ledger recorded the signature, not now.

    Raises:
        MalformedError: As `certificate_chain_untrusted`, for an anchor.
        InvalidCertificateError: ``wire.x509.no_anchor``, ``wire.x509.issuer`` (name), ``wire.x509.signature``,
            ``wire.x509.not_yet_valid``, ``wire.x509.expired``, ``wire.x509.leaf_is_ca``, ``wire.x509.not_ca``,
            ``wire.x509.path_length``, ``wire.x509.key_usage``, ``wire.x509.extended_key_usage``, ``wire.x509.subject_did``.
    """
    path = [_parse(der) for der in chain.ders]
    _check_leaf(path[0])
    for subject, issuer in pairwise(path):
        _check_issued(subject, issuer)
    # A leaf is never its own anchor, even when somebody lists it as one.
    if len(path) == 1 or path[-1].der not in anchors:
        path.append(_find_anchor(path[-1], [_parse(der) for der in anchors], at_seconds))
    for depth, issuer in enumerate(path[1:]):
        _check_issuer(issuer, below=depth)
    for certificate in path:
        _check_time(certificate, at_seconds)


def _parse(der: bytes) -> _Certificate:
    if len(der) > X509_CERTIFICATE_BYTES_MAX:
        raise MalformedError(
            "wire.x509.length",
            "a certificate is too long",
            expected=f"at most {X509_CERTIFICATE_BYTES_MAX} bytes",
            actual=len(der),
        )
    try:
        # Everything that the library parses lazily is asked for here, so that a damaged certificate fails in one place.
        parsed = x509.load_der_x509_certificate(der)
        algorithm = parsed.signature_algorithm_oid
        extensions = parsed.extensions
        key = parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        subject = parsed.subject.rfc4514_string()
        issuer = parsed.issuer.rfc4514_string()
        not_before = int(parsed.not_valid_before_utc.timestamp())
        not_after = int(parsed.not_valid_after_utc.timestamp())
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise MalformedError(
            "wire.x509.malformed", f"a certificate cannot be parsed ({type(error).__name__})"
        ) from None
    if algorithm not in _SIGNATURE_ALGORITHMS:
        raise MalformedError(
            "wire.x509.algorithm",
            "a certificate is signed with another algorithm",
            expected="Ed25519 or ECDSA with SHA-256",
            actual=algorithm.dotted_string,
        )
    for extension in extensions:
        if extension.critical and extension.oid not in _KNOWN_EXTENSIONS:
            raise MalformedError(
                "wire.x509.critical_extension",
                "a certificate has a critical extension that is not evaluated here",
                actual=extension.oid.dotted_string,
            )
    return _Certificate(
        parsed=parsed,
        der=der,
        public_key=public_key_from_spki_untrusted(key),
        subject=subject,
        issuer=issuer,
        not_before=not_before,
        not_after=not_after,
        basic_constraints=_find_extension(extensions, x509.BasicConstraints),
        key_usage=_find_extension(extensions, x509.KeyUsage),
        extended_key_usage=_find_extension(extensions, x509.ExtendedKeyUsage),
        alternative_names=_find_extension(extensions, x509.SubjectAlternativeName),
    )


def _find_extension(extensions: x509.Extensions, kind: type[_ExtensionT]) -> _ExtensionT | None:
    for extension in extensions:
        if isinstance(extension.value, kind):
            return extension.value
    return None


def _check_leaf(leaf: _Certificate) -> None:
    if leaf.basic_constraints is not None and leaf.basic_constraints.ca:
        raise _refuse("leaf_is_ca", leaf, "is a CA, and CAs sign no patches")
    if leaf.key_usage is None or not leaf.key_usage.digital_signature:
        raise _refuse("key_usage", leaf, "is not for signatures (key usage digitalSignature)")
    if leaf.extended_key_usage is None or ExtendedKeyUsageOID.CODE_SIGNING not in leaf.extended_key_usage:
        raise _refuse("extended_key_usage", leaf, "is not for code signing (extended key usage codeSigning)")
    for uri in () if leaf.alternative_names is None else leaf.alternative_names.get_values_for_type(_URI):
        if uri.startswith(_DID_KEY) and uri != leaf.public_key.did:
            raise _refuse("subject_did", leaf, "names the did:key of another key than its own")


def _check_issuer(issuer: _Certificate, below: int) -> None:
    """Return when the certificate may issue others, with `below` further CAs between it and the leaf."""
    if issuer.basic_constraints is None or not issuer.basic_constraints.ca:
        raise _refuse("not_ca", issuer, "is no CA and may not issue certificates")
    if issuer.key_usage is None or not issuer.key_usage.key_cert_sign:
        raise _refuse("key_usage", issuer, "may not sign certificates (key usage keyCertSign)")
    path_length = issuer.basic_constraints.path_length
    if path_length is not None and below > path_length:
        raise _refuse("path_length", issuer, f"allows {path_length} CAs below it and has {below}")


def _check_time(certificate: _Certificate, at_seconds: int) -> None:
    if at_seconds < certificate.not_before:
        raise _refuse(
            "not_yet_valid",
            certificate,
            f"is valid from {certificate.not_before} on, and the time asked is {at_seconds}",
        )
    if at_seconds > certificate.not_after:
        raise _refuse(
            "expired", certificate, f"was valid until {certificate.not_after}, and the time asked is {at_seconds}"
        )


def _check_issued(subject: _Certificate, issuer: _Certificate) -> None:
    if subject.parsed.issuer != issuer.parsed.subject:
        raise _refuse("issuer", subject, "names another issuer than the next certificate of the chain")
    if not _is_signed_by(subject, issuer):
        raise _refuse("signature", subject, "is not signed by the issuer it names")


def _is_signed_by(subject: _Certificate, issuer: _Certificate) -> bool:
    try:
        # Also compares the names and the inner with the outer algorithm.
        subject.parsed.verify_directly_issued_by(issuer.parsed)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _find_anchor(last: _Certificate, anchors: Sequence[_Certificate], at_seconds: int) -> _Certificate:
    """Return the anchor that issued `last`; of several for one key, as after a renewal, the first that is valid at the time."""
    issuers = [each for each in anchors if last.parsed.issuer == each.parsed.subject and _is_signed_by(last, each)]
    if not issuers:
        raise _refuse("no_anchor", last, "is not issued by any of the trusted CA certificates")
    return next((each for each in issuers if each.not_before <= at_seconds <= each.not_after), issuers[0])


def _refuse(rule: str, certificate: _Certificate, sentence: str) -> InvalidCertificateError:
    return InvalidCertificateError(
        f"wire.x509.{rule}",
        f"the certificate of {certificate.subject[:100]!a} {sentence}",
        details={"serial": f"{certificate.parsed.serial_number:x}"},
    )
