"""Reading the ledger: `StateView` answers questions about one height, and everybody above the ledger reads only through it.

The records it returns are defined in `ledger.records` and re-exported here.

Source: docs/spec/ledger.md 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from ledger import keyspace
from ledger.block import Block, Header, decode_block_untrusted, decode_header_untrusted
from ledger.errors import HistoryPrunedError, LedgerCorruptionError
from ledger.keyspace import RangeReader, Reader, Table
from ledger.records import (
    ACTIVE,
    SUSPENDED,
    Administration,
    AttestationList,
    AttestationRecord,
    ComponentRecord,
    Configuration,
    DeploymentRecord,
    EvidenceRecord,
    Governance,
    HostRecord,
    IdentityRecord,
    KeyRecord,
    Network,
    Organisation,
    PatchRecord,
    PendingAct,
    PolicyCases,
    PolicyPending,
    PolicySet,
    PolicyVersion,
    ProposalRecord,
    Record,
    RetiredValidator,
    Revocations,
    Standing,
    TargetRecord,
    Validator,
    ValidatorSet,
)
from ledger.rollout_records import GroupMember, GroupSlot, HostGroup, RolloutHost, RolloutLink, RolloutRecord
from wire.codec import decode_untrusted, encode
from wire.errors import RejectedError
from wire.fields import as_bytes, as_tuple
from wire.hashing import Digest
from wire.merkle import Frontier, decode_frontier_untrusted

__all__ = [
    "AttestationList",
    "AttestationRecord",
    "ComponentRecord",
    "Configuration",
    "DeploymentRecord",
    "EvidenceRecord",
    "Governance",
    "GroupMember",
    "HistoryEntry",
    "HostGroup",
    "HostRecord",
    "IdentityRecord",
    "KeyRecord",
    "Location",
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
    "RolloutHost",
    "RolloutRecord",
    "Standing",
    "StateView",
    "TargetRecord",
    "Tip",
    "Validator",
    "ValidatorSet",
]

TIP_BYTES_MAX: Final = 8192
"""A header and at most 63 peaks of 32 bytes."""

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Tip:
    """Where the chain stands: enough to execute the next block."""

    header: Header
    """Header of the last executed block."""
    block_hash: Digest
    """Its hash, 32 bytes."""
    frontier: Frontier
    """The log after it."""

    def encode(self) -> bytes:
        """Return the META row."""
        return encode((self.header.encode(), self.frontier.encode()))

    @classmethod
    def decode(cls, data: bytes) -> Tip:
        """Return the tip that `encode` made `data` from.

        Raises:
            LedgerCorruptionError: ``ledger.corruption.tip``.
        """
        try:
            header_raw, frontier_raw = as_tuple(decode_untrusted(data, bytes_max=TIP_BYTES_MAX), "tip", length=2)
            header = decode_header_untrusted(as_bytes(header_raw, "header"))
            return cls(header, header.hash(), decode_frontier_untrusted(as_bytes(frontier_raw, "frontier")))
        except RejectedError as error:
            raise LedgerCorruptionError(
                "ledger.corruption.tip", f"the stored tip cannot be read: {error.message}"
            ) from error


@dataclass(frozen=True, slots=True)
class Location:
    """Where a transaction stands."""

    height: int
    """Height of its block."""
    index: int
    """Its place in the block, from 0."""
    log_index: int
    """Its place in the log of all transactions, from 0."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A transaction that concerns a subject."""

    height: int
    """Height of its block."""
    index: int
    """Its place in the block, from 0."""
    tx_id: bytes
    """32 bytes."""


class StateView:
    """The ledger as `reader` has it. Every call reads anew: a view of a moving reader moves, so give it a snapshot or an overlay.

    Lists (`identities`, `patches`, `history`, …) need a `RangeReader`; everything else works over any `Reader`.
    """

    __slots__ = ("_reader",)

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    # The chain

    @property
    def tip(self) -> Tip:
        """Where the chain stands.

        Raises:
            LedgerCorruptionError: ``ledger.corruption.no_genesis``: the reader holds no chain.
        """
        raw = self._reader.get(Table.META, keyspace.TIP_KEY)
        if raw is None:
            raise LedgerCorruptionError("ledger.corruption.no_genesis", "the tables hold no chain")
        return Tip.decode(raw)

    @property
    def header(self) -> Header:
        """Header of the last executed block."""
        return self.tip.header

    @property
    def height(self) -> int:
        """Height of the last executed block."""
        return self.tip.header.height

    @property
    def network(self) -> Network:
        """What the founding document fixed for ever."""
        return self._need(keyspace.NETWORK_KEY, Network)

    @property
    def chain_id(self) -> str:
        """The network's name."""
        return self.network.chain_id

    @property
    def genesis_hash(self) -> bytes:
        """Hash of the founding document, 32 bytes."""
        return self.network.genesis_hash

    @property
    def genesis_document(self) -> bytes:
        """The founding document in canonical JSON."""
        raw = self._reader.get(Table.META, keyspace.GENESIS_KEY)
        if raw is None:
            raise LedgerCorruptionError("ledger.corruption.no_genesis", "the tables hold no founding document")
        return raw

    @property
    def history_start(self) -> int:
        """The lowest height whose block and history are kept here; 0 where everything is.

        The header one below is kept too, and block 0 always.
        """
        raw = self._reader.get(Table.META, keyspace.HISTORY_KEY)
        return 0 if raw is None else keyspace.read_height(raw)

    def check_kept(self, height: int) -> None:
        """Return only when the block of `height` and what happened in it are kept here, or are still to come.

        Raises:
            HistoryPrunedError: ``ledger.history.pruned``.
        """
        start = self.history_start
        if height < start:
            raise HistoryPrunedError(
                "ledger.history.pruned",
                f"this node keeps no history below height {start}",
                hint="ask a node that keeps the full history",
                details={"height": height, "history_start": start},
            )

    def header_at(self, height: int) -> Header | None:
        """Return the header of block `height`, or None above the tip."""
        raw = self._reader.get(Table.HEADER, keyspace.height_key(height))
        return None if raw is None else decode_header_untrusted(raw)

    def block(self, height: int) -> Block | None:
        """Return block `height`, or None above the tip or below what is kept."""
        raw = self._reader.get(Table.BLOCK, keyspace.height_key(height))
        return None if raw is None else decode_block_untrusted(raw)

    def height_of(self, block_hash: bytes) -> int | None:
        """Return the height of the block with this hash, or None."""
        raw = self._reader.get(Table.BLOCK_HASH, block_hash)
        return None if raw is None else keyspace.read_height(raw)

    def certificate(self, height: int) -> bytes | None:
        """Return the encoded commit certificate that was stored for `height`, or None: a later one covers it."""
        return self._reader.get(Table.CERTIFICATE, keyspace.height_key(height))

    def location(self, tx_id: bytes) -> Location | None:
        """Return where an executed transaction stands, or None."""
        raw = self._reader.get(Table.TX_INDEX, tx_id)
        return None if raw is None else Location(*keyspace.unpack_location(raw))

    # Members

    def organisation(self, name: str) -> Organisation | None:
        """Return the organisation, or None."""
        return self._find(keyspace.organisation_key(name), Organisation)

    def standing(self, organisation: str) -> Standing | None:
        """Return what was decided about an organisation's membership, or None while nothing was."""
        return self._find(keyspace.standing_key(organisation), Standing)

    def organisation_status(self, name: str) -> str:
        """Return whether a member is ``active``, ``suspended`` or ``removed``."""
        standing = self.standing(name)
        return ACTIVE if standing is None else standing.status

    def administration_threshold(self, organisation: str) -> int:
        """Return how many administrators of the organisation must agree on what changes its identities."""
        administration = self._find(keyspace.administration_key(organisation), Administration)
        return 1 if administration is None else administration.threshold

    def revocations(self, organisation: str, issuer: bytes) -> Revocations | None:
        """Return what the CA with this name (SHA-256 of it, encoded) has taken back, or None while it has published no list here."""
        return self._find(keyspace.revocations_key(organisation, issuer), Revocations)

    def pending_act(self, act_id: bytes) -> PendingAct | None:
        """Return the act of administration that was proposed under this id, whatever became of it, or None."""
        return self._find(keyspace.pending_act_key(act_id), PendingAct)

    def acting_status(self, identity: IdentityRecord) -> str:
        """Return ``active`` when the identity and its organisation are, else why it may not act: the organisation's status, or its own."""
        return identity.status if not identity.is_active else self.organisation_status(identity.organisation)

    def recorded_status(self, identity: IdentityRecord) -> str:
        """Return ``active`` when what the ledger recorded of the identity may count, else why none of it does.

        As `acting_status`, but for a revoked identity: what it may still have said its keys tell, by their last valid heights.
        """
        return identity.status if identity.status == SUSPENDED else self.organisation_status(identity.organisation)

    def identity(self, identity_id: str) -> IdentityRecord | None:
        """Return the identity, or None."""
        return self._find(keyspace.identity_key(identity_id), IdentityRecord)

    def key(self, key_id: bytes) -> KeyRecord | None:
        """Return the public key's record, or None."""
        return self._find(keyspace.key_key(key_id), KeyRecord)

    def identity_of_key(self, key_id: bytes) -> IdentityRecord | None:
        """Return the identity that the key belongs to, or None."""
        key = self.key(key_id)
        return None if key is None else self.identity(key.identity_id)

    def configuration(self) -> Configuration:
        """Return who decides after this block: under it the block itself is certified, and the next one proposed."""
        return self._need(keyspace.VALIDATORS_KEY, Configuration)

    def validators(self) -> ValidatorSet:
        """Return the nodes that vote on blocks; while a change of them is under way, those before it."""
        return self.configuration().voters

    def retired_validator(self, key_id: bytes) -> RetiredValidator | None:
        """Return the node that had this key and was removed, or None."""
        return self._find(keyspace.retired_key(key_id), RetiredValidator)

    def evidence(self, subject: bytes) -> EvidenceRecord | None:
        """Return what is proven against a validator (key id) or about a height (`keyspace.height_key`), or None."""
        return self._find(keyspace.evidence_key(subject), EvidenceRecord)

    def governance(self) -> Governance:
        """Return who votes on proposals and how many votes decide."""
        return self._need(keyspace.GOVERNANCE_KEY, Governance)

    def proposal(self, proposal_id: bytes) -> ProposalRecord | None:
        """Return the proposal, or None."""
        return self._find(keyspace.proposal_key(proposal_id), ProposalRecord)

    def policy(self, version: int | None = None) -> PolicySet:
        """Return the policy set in force, or an earlier version.

        Raises:
            LedgerCorruptionError: ``ledger.corruption.missing``: there is no such version; ask only for versions up to the current one.
        """
        if version is None:
            version = self.policy_version().version
        return self._need(keyspace.policy_key(version), PolicySet)

    def policy_version(self) -> PolicyVersion:
        """Return which policy set is in force, without its texts."""
        return self._need(keyspace.POLICY_VERSION_KEY, PolicyVersion)

    def policy_pending(self) -> PolicyPending | None:
        """Return the set that was adopted for a later height and waits for it, or None."""
        waiting = self._find(keyspace.POLICY_PENDING_KEY, PolicyPending)
        return None if waiting is None or waiting.version <= self.policy_version().version else waiting

    def policy_cases(self) -> PolicyCases:
        """Return the network's own cases for policy sets; empty before any were adopted."""
        return self._find(keyspace.POLICY_CASES_KEY, PolicyCases) or PolicyCases("", 0)

    def policies(self) -> Iterator[PolicySet]:
        """Yield every policy set that was ever adopted, in order of version: also one that waits, or never came into force."""
        waiting = self.policy_pending()
        newest = self.policy_version().version if waiting is None else waiting.version
        return (self.policy(version) for version in range(newest + 1))

    # Patches

    def patch(self, patch_id: bytes) -> PatchRecord | None:
        """Return the published patch, or None."""
        return self._find(keyspace.patch_key(patch_id), PatchRecord)

    def attestation(self, payload_digest: bytes) -> AttestationRecord | None:
        """Return the attestation with this payload, or None."""
        return self._find(keyspace.attestation_key(payload_digest), AttestationRecord)

    def attestation_list(self, patch_id: bytes) -> AttestationList:
        """Return the digests of all attestations of a patch, and which are current."""
        return self._find(keyspace.attestation_list_key(patch_id), AttestationList) or AttestationList((), ())

    def attestations(self, patch_id: bytes) -> tuple[AttestationRecord, ...]:
        """Return all attestations of a patch in the order in which they were recorded, replaced ones included."""
        digests = self.attestation_list(patch_id).payload_digests
        return tuple(self._need(keyspace.attestation_key(digest), AttestationRecord) for digest in digests)

    def release_counter(self, component: str) -> int:
        """Return the highest release counter that was published for a component; 0 when there is none."""
        record = self._find(keyspace.component_key(component), ComponentRecord)
        return 0 if record is None else record.release_counter

    # Hosts

    def host(self, identity_id: str) -> HostRecord | None:
        """Return where a host's chain of deployment records stands, or None before its first."""
        return self._find(keyspace.host_key(identity_id), HostRecord)

    def target(self, host: str, target: str) -> TargetRecord | None:
        """Return what the ledger last heard about a host's tree, or None."""
        return self._find(keyspace.target_key(host, target), TargetRecord)

    def deployment(self, deployment_id: bytes) -> DeploymentRecord | None:
        """Return the deployment whose intent (or whose outcome, for a refusal without intent) has this tx_id, or None."""
        return self._find(keyspace.deployment_key(deployment_id), DeploymentRecord)

    # Groups and rollouts

    def group(self, group_id: str) -> HostGroup | None:
        """Return the group of hosts, or None where there never was one."""
        return self._find(keyspace.group_key(group_id), HostGroup)

    def group_member(self, host: str) -> GroupMember | None:
        """Return which group a host is in, or None where it is in none."""
        member = self._find(keyspace.group_member_key(host), GroupMember)
        return None if member is None or not member.group_id else member

    def group_slot(self, group_id: str, slot: int) -> GroupSlot:
        """Return which host has a place of a group that has at least so many hosts."""
        return self._need(keyspace.group_slot_key(group_id, slot), GroupSlot)

    def rollout(self, rollout_id: str) -> RolloutRecord | None:
        """Return the rollout, or None."""
        return self._find(keyspace.rollout_key(rollout_id), RolloutRecord)

    def rollout_link(self, patch_id: bytes, group_id: str) -> RolloutLink | None:
        """Return by which rollout a patch comes to the hosts of a group, the newest one, or None where none did."""
        return self._find(keyspace.rollout_link_key(patch_id, group_id), RolloutLink)

    def rollout_host(self, patch_id: bytes, host: str) -> RolloutHost | None:
        """Return how far a patch under a rollout has come on a host, or None where nothing was said yet."""
        return self._find(keyspace.rollout_host_key(patch_id, host), RolloutHost)

    # Lists, over a RangeReader

    def groups(self) -> Iterator[HostGroup]:
        """Yield all groups of hosts in order of id."""
        return self._list(keyspace.GROUP, HostGroup)

    def group_hosts(self, group: HostGroup, start: int = 0) -> Iterator[str]:
        """Yield the hosts of a group in order of their places, from place `start` on."""
        return (self.group_slot(group.group_id, slot).host for slot in range(start, group.hosts))

    def rollouts(self) -> Iterator[RolloutRecord]:
        """Yield all rollouts in order of id."""
        return self._list(keyspace.ROLLOUT, RolloutRecord)

    def rollout_hosts(self, patch_id: bytes, after: str = "") -> Iterator[RolloutHost]:
        """Yield every host of which a rollout of this patch counts something, in order of id, behind `after`."""
        return self._list(keyspace.rollout_host_key(patch_id, ""), RolloutHost, after.encode())

    def organisations(self) -> Iterator[Organisation]:
        """Yield all organisations in order of name."""
        return self._list(keyspace.ORGANISATION, Organisation)

    def identities(self, after: str = "") -> Iterator[IdentityRecord]:
        """Yield all identities with an id after `after`, in order of id."""
        return self._list(keyspace.IDENTITY, IdentityRecord, after.encode())

    def keys(self) -> Iterator[KeyRecord]:
        """Yield all keys in order of key id."""
        return self._list(keyspace.KEY, KeyRecord)

    def patches(self, after: bytes = b"") -> Iterator[PatchRecord]:
        """Yield all published patches with an id after `after`, in order of patch id."""
        return self._list(keyspace.PATCH, PatchRecord, after)

    def proposals(self) -> Iterator[ProposalRecord]:
        """Yield all proposals in order of id."""
        return self._list(keyspace.PROPOSAL, ProposalRecord)

    def pending_acts(self) -> Iterator[PendingAct]:
        """Yield all acts of administration that were proposed, in order of id."""
        return self._list(keyspace.PENDING_ACT, PendingAct)

    def hosts(self) -> Iterator[HostRecord]:
        """Yield all hosts that have deployment records, in order of id."""
        return self._list(keyspace.HOST, HostRecord)

    def targets(self, host: str | None = None) -> Iterator[TargetRecord]:
        """Yield the targets of one host or of all, in order of host and name."""
        prefix = keyspace.TARGET if host is None else keyspace.target_key(host, "")
        return self._list(prefix, TargetRecord)

    def retired_validators(self) -> Iterator[RetiredValidator]:
        """Yield all nodes that were removed, in order of key id."""
        return self._list(keyspace.RETIRED, RetiredValidator)

    def evidences(self) -> Iterator[EvidenceRecord]:
        """Yield everything that is proven against validators and about forks."""
        return self._list(keyspace.EVIDENCE, EvidenceRecord)

    def deployments(self) -> Iterator[DeploymentRecord]:
        """Yield all deployments in order of id; `history` of a host or a patch gives them in order of time."""
        return self._list(keyspace.DEPLOYMENT, DeploymentRecord)

    def history(self, subject: bytes, height_from: int = 0) -> Iterator[HistoryEntry]:
        """Yield the transactions that concern `subject` from `height_from` on, oldest first; none from below `history_start`.

        Args:
            subject: A key of `ledger.keyspace`: `identity_key`, `organisation_key`, `patch_key`, `target_key` or `proposal_key`.
                A host's history is that of its identity.
            height_from: The first height.
        """
        start, stop = keyspace.history_range(subject, max(height_from, self.history_start))
        for key, tx_id in self._ranges().iterate(Table.HISTORY, start, stop):
            yield HistoryEntry(*keyspace.read_history_position(key), tx_id)

    def identity_at(self, identity_id: str, height: int) -> IdentityRecord | None:
        """Return the identity as it was after block `height`, or None before its registration.

        Raises:
            HistoryPrunedError: ``ledger.history.pruned``.
        """
        self.check_kept(height + 1)
        start = keyspace.identity_version_key(identity_id, 0)
        stop = keyspace.identity_version_key(identity_id, height + 1)
        newest: bytes | None = None
        for _, raw in self._ranges().iterate(Table.IDENTITY_VERSION, start, stop):
            newest = raw
        return None if newest is None else IdentityRecord.decode(newest)

    # Access

    def _find(self, key: bytes, record: type[R]) -> R | None:
        raw = self._reader.get(Table.STATE, key)
        return None if raw is None else record.decode(raw)

    def _need(self, key: bytes, record: type[R]) -> R:
        found = self._find(key, record)
        if found is None:
            raise LedgerCorruptionError(
                "ledger.corruption.missing", f"the tables lack a {record.__name__} that must be there"
            )
        return found

    def _list(self, prefix: bytes, record: type[R], after: bytes = b"") -> Iterator[R]:
        start = prefix + after + b"\x00" if after else prefix
        for _, raw in self._ranges().iterate(Table.STATE, start, keyspace.prefix_stop(prefix)):
            yield record.decode(raw)

    def _ranges(self) -> RangeReader:
        # Checked by use: a reader that cannot list has no such method, and asking it for lists is a bug of the caller.
        return cast(RangeReader, self._reader)
