"""What stands behind the author's line: attestations, each checked by itself, and the release seal over all of them.

An attestation that proves nothing about this patch is set aside with its reason and the rest still counts: whoever carries the file can
always append rubbish, and must not be able to silence the others with it. A seal is different. It claims that the set is complete, so one
that does not hold, and any line it does not name, refuses the file.

Source: docs/spec/patch-file.md 6 and 7.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from provenance.errors import AttestationRefusedError, InvalidMetadataError, refuse_as
from provenance.metadata import PatchMetadata
from provenance.statement import (
    PREDICATE_REVIEW,
    AttestationStatement,
    Binding,
    SealStatement,
    Verdict,
    decode_attestation_statement_untrusted,
)
from wire.envelope import PAYLOAD_TYPE_INTOTO, Envelope, verify_envelope
from wire.errors import InvalidSignatureError as WireInvalidSignatureError
from wire.errors import RejectedError
from wire.hashing import Digest
from wire.keys import PublicKey, public_key_from_did_untrusted

FIRST_INDEX: Final = 1
"""The trailer index of the first attestation: index 0 is the author's line."""


@dataclass(frozen=True, slots=True)
class Attestation:
    """A claim about this patch, signed with the key it names. Whose key that is, the ledger knows."""

    index: int
    """Position in the trailer, 1 or more."""
    envelope: Envelope
    """The line itself, decoded."""
    payload_digest: Digest
    """SHA-256 of the payload: how the seal and the ledger refer to it."""
    key: PublicKey
    """The key that signed, from the claim's own did."""
    predicate_type: str
    """What kind of claim, a URI."""
    identity: str
    """Who claims to speak, such as ``bob@beta``."""
    role: str
    """In which capacity, such as ``security-review``."""
    verdict: Verdict | None
    """approve, reject, or None where the kind of claim has no yes or no."""
    comment: str
    """For a person."""
    time: str
    """By the attestor's own clock."""

    @property
    def keyid(self) -> str:
        """Return the signing key's id, 64 hexadecimal digits."""
        return self.key.key_id_hex

    @property
    def statement_json(self) -> bytes:
        """Return the statement in canonical JSON: the signed payload."""
        return self.envelope.payload


@dataclass(frozen=True, slots=True)
class ReleaseSeal:
    """A signed claim that the attestations of the file are these and no others, and it is true of this file."""

    index: int
    """Position in the trailer: the last."""
    envelope: Envelope
    """The line itself, decoded."""
    payload_digest: Digest
    """SHA-256 of the payload."""
    key: PublicKey
    """The key that signed, from the seal's own did."""
    identity: str
    """Who claims to have sealed."""
    attestations: tuple[str, ...]
    """Payload digests of all attestations in order, hexadecimal."""
    time: str
    """By the sealer's own clock."""

    @property
    def keyid(self) -> str:
        """Return the signing key's id, 64 hexadecimal digits."""
        return self.key.key_id_hex


@dataclass(frozen=True, slots=True)
class RefusedAttestation:
    """A trailer line that was set aside."""

    index: int
    """Position in the trailer."""
    code: str
    """Why, stable."""
    message: str
    """Why, in a sentence."""


class Trailer(NamedTuple):
    """Everything behind the author's line."""

    attestations: tuple[Attestation, ...]
    """Those that hold, in order."""
    attestations_refused: tuple[RefusedAttestation, ...]
    """Those that were set aside, in order; empty when there is a seal."""
    seal: ReleaseSeal | None
    """The release seal, when there is one."""


def read_trailer(
    envelopes: Sequence[Envelope],
    binding: Binding,
    metadata: PatchMetadata,
    author_key: PublicKey,
    broken_seal: Callable[[InvalidMetadataError], None] | None = None,
) -> Trailer:
    """Return the attestations that hold for the bound patch, those set aside, and the seal.

    Args:
        envelopes: All behind the author's, in order.
        binding: What they must be about.
        metadata: The author's, for what a seal repeats of it.
        author_key: The author's key, under which nobody approves.
        broken_seal: Told of a seal that does not hold; the trailer is then read as if it had none. Only for whoever tells a person about
            the file: None, for everybody else, refuses it.

    Raises:
        InvalidMetadataError: ``provenance.seal.*``, and what a seal's own fields break.
    """
    attestations: list[Attestation] = []
    refused: list[RefusedAttestation] = []
    seal: ReleaseSeal | None = None
    said: dict[object, object] = {}
    for index, envelope in enumerate(envelopes, FIRST_INDEX):
        try:
            statement = _read_statement(envelope)
            if isinstance(statement, SealStatement):
                # A seal is no attestation: its failures are not set aside, so they leave through this `try` as InvalidMetadataError.
                try:
                    seal = _read_seal(index, envelope, statement, envelopes, binding, metadata)
                except InvalidMetadataError as error:
                    if broken_seal is None:
                        raise
                    broken_seal(error)
                continue
            attestation = _read_attestation(index, envelope, statement, binding, author_key)
            _check_new(attestation, said)
        except AttestationRefusedError as error:
            refused.append(RefusedAttestation(index, error.code, error.message))
        else:
            attestations.append(attestation)
    if seal is not None and refused:
        broken = _refuse_seal(
            "attestation_refused", f"the sealed trailer line {refused[0].index + 1} does not hold: {refused[0].message}"
        )
        if broken_seal is None:
            raise broken
        broken_seal(broken)
        seal = None
    return Trailer(tuple(attestations), tuple(refused), seal)


def _read_statement(envelope: Envelope) -> AttestationStatement | SealStatement:
    if envelope.payload_type != PAYLOAD_TYPE_INTOTO:
        raise _refuse(
            "payload_type", "an attestation is an in-toto statement", PAYLOAD_TYPE_INTOTO, envelope.payload_type
        )
    try:
        return decode_attestation_statement_untrusted(envelope.payload)
    except RejectedError as error:
        raise refuse_as(AttestationRefusedError, error) from error


def _read_attestation(
    index: int, envelope: Envelope, statement: AttestationStatement, binding: Binding, author_key: PublicKey
) -> Attestation:
    """Return the attestation when it is about this patch and signed with the key it names."""
    if statement.binding != binding:
        raise _refuse(
            "other_patch",
            "the attestation is about another patch, or other metadata of this one",
            binding.body_sha256,
            statement.binding.body_sha256,
        )
    key = _verify(envelope, statement.attestor.did)
    if key == author_key and statement.predicate_type == PREDICATE_REVIEW and statement.verdict is Verdict.APPROVE:
        raise _refuse("self_approval", "the author's key approves the author's patch", None, key.key_id_hex)
    return Attestation(
        index=index,
        envelope=envelope,
        payload_digest=envelope.payload_digest,
        key=key,
        predicate_type=statement.predicate_type,
        identity=statement.attestor.identity,
        role=statement.role,
        verdict=statement.verdict,
        comment=statement.comment,
        time=statement.time,
    )


def _check_new(attestation: Attestation, said: dict[object, object]) -> None:
    """Refuse a claim that was already made: one person's two signatures must never look like two approvals.

    Who has changed their mind may change it back: what is compared is the last word of a key in a role.
    """
    claims: dict[object, object] = {attestation.payload_digest: True}
    if attestation.predicate_type == PREDICATE_REVIEW:
        claims[attestation.keyid, attestation.role] = attestation.verdict
    for claim, content in claims.items():
        if said.get(claim) == content:
            raise _refuse("duplicate", "the same key already said the same in the same role", None, attestation.keyid)
    said.update(claims)


def _read_seal(  # noqa: PLR0917 - everything that a seal is compared with
    index: int,
    envelope: Envelope,
    statement: SealStatement,
    envelopes: Sequence[Envelope],
    binding: Binding,
    metadata: PatchMetadata,
) -> ReleaseSeal:
    """Return the seal when it stands last, is about this patch, names exactly the lines before it, and is signed."""
    last = FIRST_INDEX + len(envelopes) - 1
    if index != last:
        raise _refuse_seal(
            "not_last", "a trailer line follows the release seal", f"the seal at line {last + 1}", f"line {index + 1}"
        )
    if statement.binding != binding:
        raise _refuse_seal(
            "other_patch", "the release seal is about another patch", binding.body_sha256, statement.binding.body_sha256
        )
    found = tuple(one.payload_digest.hex() for one in envelopes[:-1])
    if statement.attestations != found:
        raise _refuse_seal(
            "attestations",
            "the attestations are not those that were sealed",
            f"{len(statement.attestations)}: {', '.join(one[:8] for one in statement.attestations)}",
            f"{len(found)}: {', '.join(one[:8] for one in found)}",
        )
    if (statement.release_counter, statement.supersedes) != (metadata.release_counter, metadata.supersedes):
        raise _refuse_seal("release", "the seal's release counter or superseded patches are not the metadata's")
    try:
        key = _verify(envelope, statement.attestor.did)
    except AttestationRefusedError as error:
        raise _refuse_seal("signature", f"the release seal is not signed: {error.message}") from error
    return ReleaseSeal(
        index=index,
        envelope=envelope,
        payload_digest=envelope.payload_digest,
        key=key,
        identity=statement.attestor.identity,
        attestations=statement.attestations,
        time=statement.time,
    )


def _verify(envelope: Envelope, did: str) -> PublicKey:
    """Return the key of `did` when it signed the envelope."""
    try:
        key = public_key_from_did_untrusted(did)
    except RejectedError as error:
        raise refuse_as(AttestationRefusedError, error, "attestor.did") from error
    keyid = envelope.signatures[0].keyid
    if keyid != key.key_id_hex:
        raise _refuse("keyid", "the envelope's key id is not that of the attestor's did", key.key_id_hex, keyid)
    try:
        verify_envelope(envelope, key)
    except WireInvalidSignatureError as error:
        raise AttestationRefusedError(
            "provenance.attestation.signature", error.message, details=error.details
        ) from error
    return key


def _refuse(rule: str, sentence: str, expected: object, actual: object) -> AttestationRefusedError:
    return AttestationRefusedError(f"provenance.attestation.{rule}", sentence, expected=expected, actual=actual)


def _refuse_seal(rule: str, sentence: str, expected: object = None, actual: object = None) -> InvalidMetadataError:
    return InvalidMetadataError(f"provenance.seal.{rule}", sentence, expected=expected, actual=actual)
