"""What validators sign, and the certificates that a majority of such signatures makes.

Three things of consensus can be checked by a stranger: that a block was acknowledged, that a leader was elected, and that a proposer stands
behind a block. Each has its own domain, so no signature can be taken for another::

    proposal          DOMAIN_PROPOSAL   block hash (which covers the chain id)
    acknowledgement   DOMAIN_ACK        chain id, term, height, block hash
    pre-vote          DOMAIN_PREVOTE    chain id, term, candidate, candidate's last term, last height, last block hash
    vote              DOMAIN_VOTE       the same

The module knows signatures and majorities, not which validators a height has: `consensus` and `ledger` bring those.

Source: docs/spec/wire.md 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from wire import fields
from wire.codec import Value, decode_untrusted, encode
from wire.errors import InvalidCertificateError, MalformedError
from wire.hashing import DOMAIN_ACK, DOMAIN_PREVOTE, DOMAIN_PROPOSAL, DOMAIN_VOTE, Digest, hash_domain
from wire.keys import KEY_ID_BYTES, KeyId, PublicKey
from wire.limits import CERTIFICATE_BYTES_MAX, SIGNATURE_BYTES_MAX, VALIDATORS_MAX

CERTIFICATE_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class CommitCertificate:
    """Acknowledgements of one block in its own term; with a majority of the validators it proves that block and its ancestors committed."""

    term: int
    "The block's term, which is also the term in which it was acknowledged."
    height: int
    "The block's height."
    block_hash: Digest
    "The block's hash, 32 bytes."
    signatures: tuple[tuple[KeyId, bytes], ...]
    "(key id, signature) of each signer, strictly ascending by key id, 1 to `VALIDATORS_MAX`."

    def __post_init__(self) -> None:
        """Refuse signers out of order or twice (`MalformedError`, ``wire.certificate.order``): a certificate has one encoding."""
        _check_order(self.signatures)


@dataclass(frozen=True, slots=True)
class ElectionCertificate:
    """Votes for one candidate in one term; with a majority of the validators it proves the candidate is that term's leader."""

    term: int
    "The term of the election."
    candidate: KeyId
    "The candidate's key id, 32 bytes."
    last_term: int
    "The term of the candidate's last block when it asked for the votes."
    last_height: int
    "The height of that block."
    last_hash: Digest
    "The hash of that block, 32 bytes: the leader's first block must extend it."
    signatures: tuple[tuple[KeyId, bytes], ...]
    "(key id, signature) of each voter, strictly ascending by key id, 1 to `VALIDATORS_MAX`."

    def __post_init__(self) -> None:
        """Refuse voters out of order or twice (`MalformedError`, ``wire.certificate.order``): a certificate has one encoding."""
        _check_order(self.signatures)


def majority(validators: int) -> int:
    """Return how many of so many validators are a majority: any two majorities share a validator."""
    return validators // 2 + 1


def proposal_message(block_hash: Digest) -> Digest:
    """Return the 32-byte digest that a proposer signs for its block."""
    return hash_domain(DOMAIN_PROPOSAL, block_hash)


def acknowledgement_message(chain_id: str, term: int, height: int, block_hash: Digest) -> Digest:
    """Return the 32-byte digest that a validator signs when it has made a block of the current term durable."""
    return hash_domain(DOMAIN_ACK, encode((chain_id, term, height, block_hash)))


def prevote_message(  # noqa: PLR0917 - the order of the signed fields, as the specification lists them
    chain_id: str, term: int, candidate: KeyId, last_term: int, last_height: int, last_hash: Digest
) -> Digest:
    """Return the 32-byte digest that a validator signs when it would vote for a candidate in `term`."""
    return hash_domain(DOMAIN_PREVOTE, encode((chain_id, term, candidate, last_term, last_height, last_hash)))


def vote_message(  # noqa: PLR0917 - the order of the signed fields, as the specification lists them
    chain_id: str, term: int, candidate: KeyId, last_term: int, last_height: int, last_hash: Digest
) -> Digest:
    """Return the 32-byte digest that a validator signs when it votes for a candidate in `term`."""
    return hash_domain(DOMAIN_VOTE, encode((chain_id, term, candidate, last_term, last_height, last_hash)))


def encode_commit_certificate(certificate: CommitCertificate) -> bytes:
    """Return the certificate's one encoding, at most `CERTIFICATE_BYTES_MAX` bytes."""
    return encode(
        (
            CERTIFICATE_VERSION,
            certificate.term,
            certificate.height,
            certificate.block_hash,
            _signature_values(certificate.signatures),
        )
    )


def decode_commit_certificate_untrusted(data: bytes) -> CommitCertificate:
    """Return the certificate that `data` encodes; no signature is checked.

    Raises:
        MalformedError: ``wire.codec.*``, ``wire.field.*``, ``wire.certificate.version``, ``wire.certificate.order``.
    """
    values = fields.as_tuple(decode_untrusted(data, bytes_max=CERTIFICATE_BYTES_MAX), "commit certificate", length=5)
    _check_version(values[0])
    return CommitCertificate(
        term=fields.as_int(values[1], "term"),
        height=fields.as_int(values[2], "height"),
        block_hash=fields.as_digest(values[3], "block_hash"),
        signatures=_signatures(values[4]),
    )


def encode_election_certificate(certificate: ElectionCertificate) -> bytes:
    """Return the certificate's one encoding, at most `CERTIFICATE_BYTES_MAX` bytes."""
    return encode(
        (
            CERTIFICATE_VERSION,
            certificate.term,
            certificate.candidate,
            certificate.last_term,
            certificate.last_height,
            certificate.last_hash,
            _signature_values(certificate.signatures),
        )
    )


def decode_election_certificate_untrusted(data: bytes) -> ElectionCertificate:
    """Return the certificate that `data` encodes; no signature is checked.

    Raises:
        MalformedError: ``wire.codec.*``, ``wire.field.*``, ``wire.certificate.version``, ``wire.certificate.order``.
    """
    values = fields.as_tuple(decode_untrusted(data, bytes_max=CERTIFICATE_BYTES_MAX), "election certificate", length=7)
    _check_version(values[0])
    return ElectionCertificate(
        term=fields.as_int(values[1], "term"),
        candidate=KeyId(fields.as_bytes(values[2], "candidate", length=KEY_ID_BYTES)),
        last_term=fields.as_int(values[3], "last_term"),
        last_height=fields.as_int(values[4], "last_height"),
        last_hash=fields.as_digest(values[5], "last_hash"),
        signatures=_signatures(values[6]),
    )


def verify_commit_certificate(
    certificate: CommitCertificate, chain_id: str, validators: Mapping[KeyId, PublicKey]
) -> None:
    """Return only when a majority of `validators` acknowledged the block and every signature in the certificate holds.

    The caller still has to know that `validators` is the set that rules at this height.

    Raises:
        InvalidCertificateError: ``wire.certificate.stranger``, ``wire.certificate.too_few``, ``wire.certificate.signature``.
    """
    verify_commit_quorums(certificate, chain_id, (validators,))


def verify_commit_quorums(
    certificate: CommitCertificate, chain_id: str, quorums: Sequence[Mapping[KeyId, PublicKey]]
) -> None:
    """Return only when a majority of each group in `quorums` acknowledged the block and every signature holds.

    The caller still has to know that these groups rule at this height: one set of validators, or two while its change is under way.

    Args:
        certificate: What is to be verified.
        chain_id: Of the chain.
        quorums: At least one group.

    Raises:
        InvalidCertificateError: ``wire.certificate.stranger``, ``wire.certificate.too_few``, ``wire.certificate.signature``.
    """
    message = acknowledgement_message(chain_id, certificate.term, certificate.height, certificate.block_hash)
    _verify_signatures(certificate.signatures, message, quorums)


def verify_election_certificate(
    certificate: ElectionCertificate, chain_id: str, validators: Mapping[KeyId, PublicKey]
) -> None:
    """Return only when a majority of `validators` voted for the candidate and every signature in the certificate holds.

    The caller still has to know that `validators` is the set that rules in this election, and that the candidate is one of them.

    Raises:
        InvalidCertificateError: ``wire.certificate.stranger``, ``wire.certificate.too_few``, ``wire.certificate.signature``.
    """
    verify_election_quorums(certificate, chain_id, (validators,))


def verify_election_quorums(
    certificate: ElectionCertificate, chain_id: str, quorums: Sequence[Mapping[KeyId, PublicKey]]
) -> None:
    """Return only when a majority of each group in `quorums` voted for the candidate and every signature holds.

    The caller still has to know that these groups rule after the block that the certificate names, and that the candidate is in one.

    Args:
        certificate: What is to be verified.
        chain_id: Of the chain.
        quorums: At least one group.

    Raises:
        InvalidCertificateError: ``wire.certificate.stranger``, ``wire.certificate.too_few``, ``wire.certificate.signature``.
    """
    message = vote_message(
        chain_id,
        certificate.term,
        certificate.candidate,
        certificate.last_term,
        certificate.last_height,
        certificate.last_hash,
    )
    _verify_signatures(certificate.signatures, message, quorums)


def _verify_signatures(
    signatures: tuple[tuple[KeyId, bytes], ...], message: Digest, quorums: Sequence[Mapping[KeyId, PublicKey]]
) -> None:
    assert quorums, "somebody rules at every height"
    keys = {key_id: key for group in quorums for key_id, key in group.items()}
    # An empty group needs one signature of a member, so nothing can pass for it. Cheap checks first: a forger must not cost us a
    # signature verification for every stranger it names.
    for key_id, _ in signatures:
        if key_id not in keys:
            raise InvalidCertificateError(
                "wire.certificate.stranger", "a signer is not a validator of this set", actual=key_id
            )
    for group in quorums:
        needed = majority(len(group))
        signers = sum(key_id in group for key_id, _ in signatures)
        if signers < needed:
            raise InvalidCertificateError(
                "wire.certificate.too_few",
                "the signers are no majority",
                expected=f"at least {needed} of {len(group)} validators",
                actual=signers,
            )
    for key_id, signature in signatures:
        if not keys[key_id].is_valid(message, signature):
            raise InvalidCertificateError(
                "wire.certificate.signature", "a validator's signature does not hold", actual=key_id
            )


def _check_order(signatures: tuple[tuple[KeyId, bytes], ...]) -> None:
    for (before, _), (after, _) in pairwise(signatures):
        if before >= after:
            raise MalformedError("wire.certificate.order", "signers must ascend by key id, each once", actual=after)


def _check_version(value: object) -> None:
    version = fields.as_int(value, "version")
    if version != CERTIFICATE_VERSION:
        raise MalformedError(
            "wire.certificate.version",
            "the certificate is of another version",
            expected=CERTIFICATE_VERSION,
            actual=version,
        )


def _signature_values(signatures: tuple[tuple[KeyId, bytes], ...]) -> Value:
    return tuple((bytes(key_id), signature) for key_id, signature in signatures)


def _signatures(value: object) -> tuple[tuple[KeyId, bytes], ...]:
    return tuple(_signature(pair) for pair in fields.as_tuple(value, "signatures", length_max=VALIDATORS_MAX))


def _signature(value: object) -> tuple[KeyId, bytes]:
    key_id, signature = fields.as_tuple(value, "signatures", length=2)
    return (
        KeyId(fields.as_bytes(key_id, "signer", length=KEY_ID_BYTES)),
        fields.as_bytes(signature, "signature", bytes_max=SIGNATURE_BYTES_MAX),
    )
