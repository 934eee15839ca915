"""The records under the state root: what the ledger knows after a block, one frozen record for each thing.

What a record is stands in `ledger.record`, and the configuration of the validators in `ledger.configuration`; both are re-exported here.

Source: docs/spec/ledger.md 4.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Final, cast

from ledger.configuration import Configuration, RetiredValidator, Validator, ValidatorSet
from ledger.record import RECORD_BYTES_MAX, RECORD_VERSION, Record, corrupt_record, decode_record
from ledger.roles import ADMINISTRATOR, RoleTerm, roles_at
from wire.codec import Value, encode
from wire.hashing import DOMAIN_POLICY, Digest, hash_domain
from wire.keys import KeyId, PublicKey, public_key_from_spki_untrusted

__all__ = [
    "ACTIVE",
    "DEFEATED",
    "EXECUTED",
    "OPEN",
    "RECORD_BYTES_MAX",
    "RECORD_VERSION",
    "REMOVED",
    "REVOKED",
    "SUSPENDED",
    "WITHDRAWN",
    "Administration",
    "AttestationList",
    "AttestationRecord",
    "ComponentRecord",
    "Configuration",
    "DeploymentRecord",
    "EvidenceRecord",
    "Governance",
    "HostRecord",
    "IdentityRecord",
    "KeyRecord",
    "Network",
    "Organisation",
    "PatchRecord",
    "PolicyCases",
    "PolicyPending",
    "PolicySet",
    "PolicyVersion",
    "ProposalRecord",
    "Record",
    "RetiredValidator",
    "Revocations",
    "Standing",
    "TargetRecord",
    "TransactionChain",
    "Validator",
    "ValidatorSet",
    "hash_policy",
]

ACTIVE: Final = "active"
SUSPENDED: Final = "suspended"
REVOKED: Final = "revoked"
REMOVED: Final = "removed"

OPEN: Final = "open"
EXECUTED: Final = "executed"
DEFEATED: Final = "rejected"
WITHDRAWN: Final = "withdrawn"

_WITH_TERMS: Final = 2
"""Version of an identity's record with role terms."""


@dataclass(frozen=True, slots=True)
class Network(Record):
    """What the founding document fixed: the name and the document for ever, the limits until governance sets others."""

    chain_id: str
    """The network's name; every signature covers it."""
    genesis_hash: bytes
    """Domain-separated SHA-256 of the canonical founding document, 32 bytes."""
    transaction_bytes_max: int
    """The longest transaction of this network, at most `TX_BYTES_MAX`."""
    block_bytes_max: int
    """The longest block of this network, at most `BLOCK_BYTES_MAX`."""
    block_transactions_max: int
    """Transactions in one block of this network, at most `BLOCK_TRANSACTIONS_MAX`."""


@dataclass(frozen=True, slots=True)
class Organisation(Record):
    """A member of the network; it owns identities and has one vote."""

    name: str
    """Identifier; the part of an identity id after ``@``."""
    display_name: str
    """Name for people."""
    admitted_height: int
    """Height of the block that admitted it; 0 for a founder."""
    ca_certificates: tuple[bytes, ...]
    """DER certificates in which the chains of its identities must be anchored."""
    administrators: tuple[str, ...]
    """Ids of its active identities with the role administrator, bound to no time, in order of id."""


@dataclass(frozen=True, slots=True)
class Standing(Record):
    """What the network has decided about an organisation's membership; it is active where nothing was decided."""

    organisation: str
    """Identifier."""
    status: str
    """``active``, ``suspended`` (reversible) or ``removed`` (for ever)."""
    changed_height: int
    """Height of the block that decided it."""
    reason: str
    """Why, for people; empty when it was resumed."""


@dataclass(frozen=True, slots=True)
class Administration(Record):
    """How many administrators of an organisation must agree on what changes its identities; one where there is no such record."""

    organisation: str
    """Identifier."""
    threshold: int
    """1 to `ADMINISTRATORS_MAX`."""
    changed_height: int
    """Height of the block that decided it."""


@dataclass(frozen=True, slots=True)
class Revocations(Record):
    """The certificates that a CA of an organisation has taken back, by its newest list on the ledger."""

    organisation: str
    """Identifier."""
    issuer: bytes
    """SHA-256 of the CA's encoded name, 32 bytes."""
    number: int
    """CRL number of that list."""
    this_update: int
    """When the CA made it: seconds since the epoch."""
    next_update: int
    """When it promised a newer one."""
    recorded_height: int
    """Height of the block that recorded it."""
    serials: tuple[bytes, ...]
    """Serial numbers, 20 bytes each, in order: those of this list and of every former one."""


@dataclass(frozen=True, slots=True)
class PendingAct(Record):
    """An act of administration and who has agreed to it; it is executed with the approval that is still lacking."""

    act_id: bytes
    """tx_id of the transaction that proposed it, 32 bytes."""
    organisation: str
    """Whose identities it is about."""
    proposer: str
    """Identity id."""
    kind: str
    """What it does: the kind of an `AdministrativeBody`."""
    body: tuple[Value, ...]
    """That body's wire form."""
    created_height: int
    """Height of the block that proposed it."""
    expires_height: int
    """The last height at which it can be approved."""
    status: str
    """``open``, ``executed`` or ``withdrawn``."""
    approvals: tuple[tuple[str, bytes, int], ...]
    """Identity, key id and height of each administrator's approval, in order of identity; the proposer's is one of them."""
    closed_height: int | None
    """Height at which it stopped being open, or None."""


@dataclass(frozen=True, slots=True)
class IdentityRecord(Record):
    """A person, service or host of an organisation."""

    identity_id: str
    """Such as ``alice@acme``."""
    organisation: str
    """The part after ``@``."""
    display_name: str
    """Name for people."""
    roles: tuple[str, ...]
    """In order, without repeats: see `ledger.roles`."""
    status: str
    """``active``, ``suspended`` (reversible) or ``revoked`` (for ever)."""
    key_ids: tuple[KeyId, ...]
    """All keys it ever had, oldest first, 32 bytes each."""
    registered_height: int
    """Height of the block that registered it."""
    changed_height: int
    """Height of the last block that changed this record."""
    role_terms: tuple[RoleTerm, ...] = ()
    """The roles that are bound to a time, in order of role."""

    def encode(self) -> bytes:
        """Return the canonical encoding. Without terms it is that of before there were any, so that old roots stay what they are."""
        values = tuple(getattr(self, each.name) for each in fields(self))
        return encode((_WITH_TERMS, *values) if self.role_terms else (RECORD_VERSION, *values[:-1]))

    @classmethod
    def decode(cls, data: bytes) -> IdentityRecord:
        """Return the record that `encode` made `data` from.

        Raises:
            LedgerCorruptionError: ``ledger.corruption.record``.
        """
        value = decode_record(cls, data)
        count = len(fields(cls))
        if len(value) != count + (value[0] == _WITH_TERMS) or value[0] not in (RECORD_VERSION, _WITH_TERMS):
            raise corrupt_record(cls, "wrong shape or version")
        if value[0] == _WITH_TERMS and not value[-1]:
            raise corrupt_record(cls, "no terms in a record with terms")
        return cls(*cast("tuple[Any, ...]", value[1:]))

    @property
    def is_active(self) -> bool:
        """Whether it may act now, given a valid key."""
        return self.status == ACTIVE

    def roles_at(self, time_ms: int) -> tuple[str, ...]:
        """Return the roles that count in a block of `time_ms`."""
        return roles_at(self.roles, self.role_terms, time_ms) if self.role_terms else self.roles

    def acting_at(self, time_ms: int) -> IdentityRecord:
        """Return the identity with the roles alone that count in a block of `time_ms`; to be read, never to be stored."""
        return replace(self, roles=self.roles_at(time_ms)) if self.role_terms else self

    @property
    def is_lasting_administrator(self) -> bool:
        """Whether it is an administrator who stays one: active, and the role is bound to no time."""
        return (
            self.is_active and ADMINISTRATOR in self.roles and all(term[0] != ADMINISTRATOR for term in self.role_terms)
        )


@dataclass(frozen=True, slots=True)
class KeyRecord(Record):
    """A public key and when its signatures count. Revocation is by height, never by clock."""

    key_id: KeyId
    """SHA-256 of `spki`, 32 bytes."""
    spki: bytes
    """DER SubjectPublicKeyInfo; the algorithm follows from it and from nothing else."""
    identity_id: str
    """Whose key it is, for ever: a key is registered once in a network's life."""
    added_height: int
    """The first height at which it counts."""
    retired_height: int | None
    """The last height at which it counts because a rotation replaced it, or None."""
    last_valid_height: int | None
    """The last height at which it counts because a revocation said so, or None; may lie before the revocation itself."""
    reason: str
    """Why it was revoked, for people, or empty."""
    certificate_chain: tuple[bytes, ...]
    """DER certificates from the leaf upwards, or empty for a bare key (a DID)."""

    def is_valid_at(self, height: int) -> bool:
        """Whether what the ledger recorded at `height` under this key counts."""
        return (
            self.added_height <= height
            and (self.retired_height is None or height <= self.retired_height)
            and (self.last_valid_height is None or height <= self.last_valid_height)
        )

    @property
    def public_key(self) -> PublicKey:
        """The key itself."""
        return public_key_from_spki_untrusted(self.spki)


@dataclass(frozen=True, slots=True)
class PatchRecord(Record):
    """A published patch: the author's statement is on the ledger, the diff is not."""

    patch_id: bytes
    """SHA-256 of the patch file's body, 32 bytes."""
    author: str
    """Identity id of the author."""
    organisation: str
    """The author's organisation."""
    author_key_id: KeyId
    """The key that signed the author's statement."""
    author_payload_digest: bytes
    """SHA-256 of the author's payload bytes: what attestations bind to, 32 bytes."""
    diff_digest: bytes
    """SHA-256 of the diff, 32 bytes."""
    file_digest: bytes
    """SHA-256 of the whole patch file as published, 32 bytes: its address in the nodes' file stores."""
    file_bytes: int
    """Size of that file."""
    published_height: int
    """Height of the block that recorded it."""
    tx_id: bytes
    """The publishing transaction, 32 bytes."""
    attestation_digests: tuple[bytes, ...]
    """Payload digests of the attestations that the file carried when it was published, in its order."""
    components: tuple[str, ...]
    """Names of the affected components, in order, without repeats."""
    release_counter: int
    """Monotonic per component: an older patch cannot come back."""
    supersedes: tuple[bytes, ...]
    """Patches that this one replaces."""
    prerequisites: tuple[bytes, ...]
    """Patches that must be applied first."""
    superseded_by: bytes | None
    """The newest patch that replaces this one, or None."""
    withdrawn_height: int | None
    """From this height on no agent applies it, or None."""
    withdrawn_reason: str
    """Why, for people, or empty."""


@dataclass(frozen=True, slots=True)
class AttestationRecord(Record):
    """One attestor's verdict on one patch, at the height where the ledger recorded it."""

    patch_id: bytes
    """The patch, 32 bytes."""
    payload_digest: bytes
    """SHA-256 of the attestation's payload bytes, 32 bytes."""
    identity_id: str
    """The attestor."""
    organisation: str
    """The attestor's organisation."""
    key_id: KeyId
    """The key that signed it; it counts if that key is valid at `recorded_height`."""
    role: str
    """Attestation role such as ``security-review``; the attestor held ``attestor:<role>``."""
    verdict: str
    """``approve``, ``reject``, or ``none`` where the statement says neither."""
    predicate_type: str
    """What kind of statement it is: a URI."""
    recorded_height: int
    """Height of the block that recorded it: the only time of an attestation that counts."""
    tx_id: bytes
    """The recording transaction, 32 bytes."""
    current: bool
    """False once a later one of the same attestor, role and predicate type replaced it."""


@dataclass(frozen=True, slots=True)
class AttestationList(Record):
    """The attestations of one patch in the order in which they were recorded."""

    payload_digests: tuple[bytes, ...]
    """Payload digests, 32 bytes each."""
    current: tuple[tuple[str, str, bytes], ...]
    """Identity id, role and payload digest of the ones that are current, in order of recording: one for each attestor, role and kind."""


@dataclass(frozen=True, slots=True)
class HostRecord(Record):
    """Where a host's chain of deployment records stands."""

    host: str
    """Identity id with the role host."""
    counter: int
    """Number of its last deployment record; 0 before the first."""
    last_tx_id: bytes
    """Its last deployment record, 32 bytes; zeros before the first."""
    changed_height: int
    """Height of the block with that record."""


@dataclass(frozen=True, slots=True)
class TargetRecord(Record):
    """What the ledger last heard about one directory tree of a host."""

    host: str
    """Identity id."""
    target: str
    """The tree's name on its host."""
    tree_digest: bytes | None
    """Digest of the tree after the last successful deployment, or None when there was none."""
    installed: tuple[tuple[bytes, int], ...]
    """Patch id and height for each installed patch, oldest first, at most `INSTALLED_MAX`."""
    changed_height: int
    """Height of the block that last changed this record."""
    report_kind: str
    """The kind of the last report about it (``drift``, ``repair``, ``adopt``, ``rollback``), or empty."""
    report_tx_id: bytes | None
    """The transaction with that report, or None."""
    report_height: int | None
    """Its height, or None."""


@dataclass(frozen=True, slots=True)
class DeploymentRecord(Record):
    """One application of a patch, or one refusal, as its host told it."""

    deployment_id: bytes
    """tx_id of the intent; of the outcome where a refusal had no intent."""
    host: str
    """Identity id."""
    target: str
    """The tree's name on its host."""
    patch_id: bytes
    """The patch; 32 zero bytes when the refused file had none."""
    counter: int
    """The host's counter of the record that opened it."""
    intent_height: int | None
    """Height of the intent, or None for a refusal without one."""
    outcome_height: int | None
    """Height of the outcome, or None while it is open: an intent without outcome is a gap that an auditor sees."""
    outcome_tx_id: bytes | None
    """The outcome, or None while it is open."""
    result: str
    """The outcome's result code, or empty while it is open."""
    tree_before: bytes
    """Tree digest before, 32 bytes."""
    tree_after: bytes | None
    """Tree digest after, or None while it is open."""


@dataclass(frozen=True, slots=True)
class ComponentRecord(Record):
    """The highest release counter that was published for one component."""

    name: str
    """The component."""
    release_counter: int
    """The highest recorded."""
    patch_id: bytes
    """The patch that carried it."""


@dataclass(frozen=True, slots=True)
class PolicySet(Record):
    """The policies in force from a height on; an empty set denies."""

    version: int
    """0 for the founding set, one more with each adopted set."""
    schema: str
    """Cedar schema in its human form; the same text as in the policies' engine."""
    policies: tuple[tuple[str, str], ...]
    """Name and text of each policy."""
    policy_hash: bytes
    """Domain-separated SHA-256 of schema and policies, 32 bytes; stands in every header."""
    adopted_height: int
    """The first height at which it is in force: that of the block that adopted it, or the later one that was decided with it."""


@dataclass(frozen=True, slots=True)
class PolicyPending(Record):
    """The policy set that was last adopted for a later height. It waits while its version is above the one in force."""

    version: int
    """Its version."""
    policy_hash: bytes
    """Its hash."""
    activate_height: int
    """The first height at which it is in force."""


@dataclass(frozen=True, slots=True)
class PolicyCases(Record):
    """The network's own cases: what every policy set that is proposed has to come to."""

    cases: str
    """JSON text, or empty for none. The ledger does not read it."""
    adopted_height: int
    """Height of the block that adopted them; 0 before any."""


@dataclass(frozen=True, slots=True)
class PolicyVersion(Record):
    """Which policy set is in force."""

    version: int
    """Its version."""
    policy_hash: bytes
    """Its hash."""


@dataclass(frozen=True, slots=True)
class Governance(Record):
    """Who votes and how many votes decide."""

    threshold: str
    """``majority``, ``two-thirds`` or ``unanimous`` of the organisations."""
    organisations: tuple[str, ...]
    """Names of all organisations that have a vote, in order; not those that are suspended or removed."""
    changed_height: int
    """Height of the block that last changed this record."""


@dataclass(frozen=True, slots=True)
class ProposalRecord(Record):
    """A proposal of governance and the votes so far."""

    proposal_id: bytes
    """tx_id of the transaction that created it, 32 bytes."""
    proposer: str
    """Identity id."""
    organisation: str
    """The proposer's organisation."""
    action: tuple[Value, ...]
    """What it does when it is executed: the wire form of a `ledger.actions` record."""
    description: str
    """Why, for people."""
    created_height: int
    """Height of the block that created it."""
    expires_height: int
    """The last height at which it can be voted on."""
    status: str
    """``open``, ``executed``, ``rejected`` or ``withdrawn``."""
    votes: tuple[tuple[str, str, bool, int], ...]
    """Organisation, voting identity, approval, height; one for each organisation, in order of organisation. Which of them count is
    `ledger.quorum`'s to say."""
    closed_height: int | None
    """Height at which it stopped being open, or None."""


@dataclass(frozen=True, slots=True)
class TransactionChain(Record):
    """Commits to the ids of all executed transactions, so that a snapshot can prove which ones must not be executed again."""

    digest: bytes
    """Of the last block with transactions (`ledger.executed`), 32 bytes; it covers all before."""
    height: int
    """Height of that block."""


def hash_policy(schema: str, policies: tuple[tuple[str, str], ...]) -> Digest:
    """Return the hash by which headers and decisions name a policy set, 32 bytes."""
    return hash_domain(DOMAIN_POLICY, encode((schema, policies)))


@dataclass(frozen=True, slots=True)
class EvidenceRecord(Record):
    """A proof of what must not happen: the first one about its subject. The proof itself stands in the transaction."""

    kind: str
    """A `ledger.blame_proof.BlameKind`, or ``split-view``."""
    validator: KeyId | None
    """Who is convicted, 32 bytes; None for a split view."""
    fork_height: int | None
    """For a split view the height at which two certified histories differ, else None."""
    proof_digest: bytes
    """SHA-256 of the proof's canonical JSON, 32 bytes."""
    submitter: str
    """The identity that submitted it."""
    recorded_height: int
    """Height of the block that recorded it."""
    tx_id: bytes
    """The transaction that holds the proof, 32 bytes."""
