"""Recovery: going on when a majority of the validators is lost for good, by the word of the organisations' administrators.

No certificate can be had any more for what comes next, so something else must stand in its place, once and visibly: a *statement* that
names the last certified header that is kept and the validators that decide from the block above it on, signed by administrators of as many
organisations as a proposal of governance would need. Who they are is proven against the state root of that very header, which the old
validators certified. So a recovery is verified by whoever can follow the validators up to that header, without any block.

It stands on the chain in a block of its own, the *recovery block*: no proposer, no election, one transaction. The block follows from the
recovery and the state below it alone, so every survivor makes the same one.

Source: docs/spec/recovery.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, TypeVar

from ledger.block import HEADER_BYTES_MAX, Header
from ledger.certificate import verify_block_certificate
from ledger.configuration import (
    CONFIGURATION_BYTES_MAX,
    Configuration,
    ValidatorSet,
    decode_configuration_untrusted,
)
from ledger.errors import LedgerCorruptionError, ProofRefusedError
from ledger.keyspace import GOVERNANCE_KEY, Reader, identity_key, key_key
from ledger.limits import ORGANISATIONS_MAX, REASON_BYTES_MAX
from ledger.quorum import votes_needed
from ledger.record import RECORD_BYTES_MAX
from ledger.records import Governance, IdentityRecord, KeyRecord, Record
from ledger.roles import ADMINISTRATOR
from ledger.state_tree import KEY_BITS, StateProof, prove, verify_state_proof
from wire.certificate import CommitCertificate, decode_commit_certificate_untrusted, encode_commit_certificate
from wire.codec import Value, decode_untrusted, encode
from wire.errors import MalformedError
from wire.fields import as_bytes, as_digest, as_identity_id, as_int, as_text, as_tuple
from wire.hashing import DOMAIN_RECOVERY, Digest, hash_domain
from wire.keys import KeyId, Signer
from wire.limits import CERTIFICATE_BYTES_MAX, SIGNATURE_BYTES_MAX

RECOVERY_VERSION: Final = 1
RECOVERY_FIELDS: Final = 5
"""Values of a recovery; a finished change of the validators has three."""
TERMS_AHEAD: Final = 1_000
"""How far the term of a recovery is above the last one that its maker knows: no survivor may have promised anything in a later one."""

R = TypeVar("R", bound=Record)

_STATEMENT_FIELDS: Final = 7
_APPROVAL_FIELDS: Final = 5
_PROOF_FIELDS: Final = 2


@dataclass(frozen=True, slots=True)
class RecoveryStatement:
    """What the administrators sign."""

    header: Header
    """The last certified header that is kept; it names the chain."""
    term: int
    """Term of the recovery block, above every term in which a survivor has promised anything."""
    time_ms: int
    """Time of the recovery block, milliseconds since epoch, UTC; not before the header's."""
    voters: ValidatorSet
    """Who decides from the recovery block on."""
    log_height: int
    """Height of the last block in the log from which this was made; those above the header were never certified there and are dropped."""
    reason: str
    """Why, for people."""

    @property
    def height(self) -> int:
        """Height of the recovery block."""
        return self.header.height + 1

    @property
    def configuration(self) -> Configuration:
        """The configuration from the recovery block on."""
        return Configuration(self.voters)

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (
            RECOVERY_VERSION,
            self.header.encode(),
            self.term,
            self.time_ms,
            self.configuration.encode(),
            self.log_height,
            self.reason,
        )

    def message(self) -> Digest:
        """Return what is signed, 32 bytes."""
        return hash_domain(DOMAIN_RECOVERY, encode(self.to_value()))

    @classmethod
    def from_value_untrusted(cls, value: object) -> RecoveryStatement:
        """Return the statement; raises `MalformedError`."""
        values = as_tuple(value, "recovery statement", length=_STATEMENT_FIELDS)
        as_int(values[0], "version", RECOVERY_VERSION, RECOVERY_VERSION)
        raw = as_bytes(values[1], "header", bytes_max=HEADER_BYTES_MAX)
        configuration = decode_configuration_untrusted(
            as_bytes(values[4], "configuration", bytes_max=CONFIGURATION_BYTES_MAX)
        )
        if configuration != Configuration(configuration.voters):
            raise MalformedError("wire.field.voters", "a recovery names voters and nobody else")
        return cls(
            Header.from_value_untrusted(decode_untrusted(raw, bytes_max=HEADER_BYTES_MAX)),
            as_int(values[2], "term"),
            as_int(values[3], "time_ms"),
            configuration.voters,
            as_int(values[5], "log_height"),
            as_text(values[6], "reason", REASON_BYTES_MAX),
        )


@dataclass(frozen=True, slots=True)
class Approval:
    """An administrator's signature under a statement, and what shows under the header's state root that it is one."""

    identity_id: str
    """Such as ``ada@acme``."""
    key_id: KeyId
    """The key that signed, 32 bytes."""
    identity: StateProof
    """What the state holds for the identity."""
    key: StateProof
    """What the state holds for the key."""
    signature: bytes
    """Over `RecoveryStatement.message`; empty while nobody has signed."""

    @property
    def organisation(self) -> str:
        """The part of the identity's id after ``@``: an organisation's identities are its own."""
        return self.identity_id.partition("@")[2]

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (
            self.identity_id,
            self.key_id,
            _proof_value(self.identity),
            _proof_value(self.key),
            self.signature,
        )

    @classmethod
    def from_value_untrusted(cls, value: object) -> Approval:
        """Return the approval; nothing is verified. Raises `MalformedError`."""
        identity_id, key_id, identity, key, signature = as_tuple(value, "approval", length=_APPROVAL_FIELDS)
        name, digest = as_identity_id(identity_id, "identity"), KeyId(as_digest(key_id, "key_id"))
        return cls(
            name,
            digest,
            _proof_from_value_untrusted(identity, identity_key(name)),
            _proof_from_value_untrusted(key, key_key(digest)),
            as_bytes(signature, "signature", bytes_max=SIGNATURE_BYTES_MAX),
        )


@dataclass(frozen=True, slots=True)
class Recovery:
    """A statement with everything that proves it, to whoever trusts the voters of its header."""

    KIND: ClassVar[str] = "network.recover"
    statement: RecoveryStatement
    """What was decided."""
    configuration: Configuration
    """The configuration of the header."""
    certificate: CommitCertificate
    """The header's certificate, by the validators before."""
    governance: StateProof
    """What the state holds about threshold and organisations."""
    approvals: tuple[Approval, ...]
    """One for each organisation that agrees, in order of the organisations."""

    @property
    def header(self) -> Header:
        """The last certified header that is kept."""
        return self.statement.header

    @property
    def since(self) -> int:
        """The first height at which the new validators decide."""
        return self.statement.height

    @property
    def after(self) -> ValidatorSet:
        """Who is trusted after it."""
        return self.statement.voters

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (
            self.statement.to_value(),
            self.configuration.encode(),
            encode_commit_certificate(self.certificate),
            _proof_value(self.governance),
            tuple(each.to_value() for each in self.approvals),
        )

    @classmethod
    def from_value_untrusted(cls, value: object) -> Recovery:
        """Return the recovery; nothing is verified. Raises `MalformedError`."""
        statement, configuration, certificate, governance, approvals = as_tuple(
            value, "recovery", length=RECOVERY_FIELDS
        )
        return cls(
            RecoveryStatement.from_value_untrusted(statement),
            decode_configuration_untrusted(as_bytes(configuration, "configuration", bytes_max=CONFIGURATION_BYTES_MAX)),
            decode_commit_certificate_untrusted(as_bytes(certificate, "certificate", bytes_max=CERTIFICATE_BYTES_MAX)),
            _proof_from_value_untrusted(governance, GOVERNANCE_KEY),
            tuple(
                Approval.from_value_untrusted(each)
                for each in as_tuple(approvals, "approvals", length_max=ORGANISATIONS_MAX)
            ),
        )

    def verify(self) -> None:
        """Return only when the recovery holds for whoever trusts the voters of `configuration`.

        Raises:
            ProofRefusedError: ``ledger.recovery.*``, ``ledger.proof.*``.
            InvalidCertificateError: ``wire.certificate.*``.
        """
        check_recovery(self)
        governance = governance_of(self)
        needed = votes_needed(governance.threshold, len(governance.organisations))
        if len(self.approvals) < needed:
            raise _refuse(
                "too_few",
                "too few organisations have signed the recovery",
                f"at least {needed} of {', '.join(governance.organisations)}",
                ", ".join(each.organisation for each in self.approvals) or "none",
            )


def check_recovery(recovery: Recovery) -> None:
    """Return only when the statement can be made and every approval so far holds; whether they are enough is not asked.

    Raises:
        ProofRefusedError: ``ledger.recovery.*``, ``ledger.proof.*``.
        InvalidCertificateError: ``wire.certificate.*``.
    """
    statement, header = recovery.statement, recovery.header
    verify_block_certificate(recovery.certificate, header, recovery.configuration)
    if statement.term <= header.term:
        raise _refuse("term", "a recovery is of a later term than the header", f"above {header.term}", statement.term)
    if statement.time_ms < header.time_ms:
        raise _refuse("time", "a recovery is not older than the header", header.time_ms, statement.time_ms)
    if statement.log_height < header.height:
        raise _refuse("log_height", "the log ends below the header", header.height, statement.log_height)
    governance = governance_of(recovery)
    _check_voters(statement.voters, recovery.configuration, governance)
    message = statement.message()
    last = ""
    for approval in recovery.approvals:
        if approval.organisation <= last:
            raise _refuse(
                "order", "organisations sign a recovery once each, in order", f"after {last}", approval.organisation
            )
        last = approval.organisation
        check_administrator(approval, header, governance).public_key.verify(message, approval.signature)


def governance_of(recovery: Recovery) -> Governance:
    """Return threshold and organisations as the header's state root proves them.

    Raises:
        ProofRefusedError: ``ledger.proof.state``, ``ledger.recovery.record``.
    """
    verify_state_proof(recovery.governance, recovery.header.state_root)
    return _decode(Governance, recovery.governance)


def check_administrator(approval: Approval, header: Header, governance: Governance) -> KeyRecord:
    """Return the key of an active administrator, of an organisation that has a vote, after the header.

    Raises:
        ProofRefusedError: ``ledger.proof.state``, ``ledger.recovery.record``, ``ledger.recovery.not_administrator``.
    """
    for proof in (approval.identity, approval.key):
        verify_state_proof(proof, header.state_root)
    identity, key = _decode(IdentityRecord, approval.identity), _decode(KeyRecord, approval.key)
    is_one = (
        identity.organisation in governance.organisations
        and identity.organisation == approval.organisation
        and ADMINISTRATOR in identity.roles
        and identity.is_active
        and key.identity_id == identity.identity_id
        and key.is_valid_at(header.height + 1)
    )
    if not is_one:
        raise _refuse(
            "not_administrator",
            f"{approval.identity_id} could not vote with this key at height {header.height + 1}",
            "an active administrator of an organisation with a vote, and a key that counts",
        )
    return key


def build_candidates(
    reader: Reader, identities: Iterable[tuple[IdentityRecord, Iterable[KeyRecord]]]
) -> tuple[Approval, ...]:
    """Return an unsigned approval for each of these keys.

    Args:
        reader: The state after the header.
        identities: Administrators, each with its keys.
    """
    return tuple(
        Approval(
            identity.identity_id,
            key.key_id,
            prove(reader, identity_key(identity.identity_id)),
            prove(reader, key_key(key.key_id)),
            b"",
        )
        for identity, keys in identities
        for key in keys
    )


def approve(recovery: Recovery, candidate: Approval, key: Signer) -> Recovery:
    """Return the recovery with the candidate's signature, in the place of one of the same organisation."""
    assert key.public_key.key_id == candidate.key_id, "a candidate signs with its own key"
    signature = key.sign(recovery.statement.message())
    signed = Approval(candidate.identity_id, candidate.key_id, candidate.identity, candidate.key, signature)
    others = [each for each in recovery.approvals if each.organisation != signed.organisation]
    approvals = tuple(sorted([*others, signed], key=lambda each: each.organisation))
    return Recovery(recovery.statement, recovery.configuration, recovery.certificate, recovery.governance, approvals)


def _check_voters(voters: ValidatorSet, before: Configuration, governance: Governance) -> None:
    for what in ("name", "key_id", "address"):
        values = [getattr(each, what) for each in voters]
        if len(set(values)) != len(values):
            raise _refuse("voters", f"two validators have one {what}")
    if not len(voters):
        raise _refuse("voters", "a recovery leaves nobody to decide")
    for voter in voters:
        if voter.organisation not in governance.organisations:
            raise _refuse(
                "voters",
                f"{voter.name} is of no organisation that has a vote",
                " or ".join(governance.organisations),
                voter.organisation,
            )
    if voters.public_keys.keys() >= before.members.keys():
        raise _refuse("voters", "nobody is lost: a recovery takes at least one validator away")


def _decode(record: type[R], proof: StateProof) -> R:
    if proof.value is None:
        raise _refuse("record", f"the state holds no {record.__name__} there")
    try:
        return record.decode(proof.value)
    except LedgerCorruptionError as error:
        raise _refuse("record", f"what is proven is no {record.__name__}: {error.message}") from error


def _proof_value(proof: StateProof) -> tuple[Value, ...]:
    # Presence only, so there is no other leaf; the key follows from what the proof is about.
    return (proof.value, proof.siblings)


def _proof_from_value_untrusted(value: object, key: bytes) -> StateProof:
    raw, siblings = as_tuple(value, "state proof", length=_PROOF_FIELDS)
    return StateProof(
        key,
        as_bytes(raw, "value", bytes_max=RECORD_BYTES_MAX),
        tuple(as_digest(each, "sibling") for each in as_tuple(siblings, "siblings", length_max=KEY_BITS)),
        None,
    )


def _refuse(rule: str, sentence: str, expected: object = None, actual: object = None) -> ProofRefusedError:
    return ProofRefusedError(f"ledger.recovery.{rule}", sentence, expected=expected, actual=actual)
