"""What a replica is told at its start, and what it tells about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from consensus import limits
from consensus.effects import HardState
from consensus.membership import Configuration, ConfigurationAt
from consensus.messages import NodeId
from consensus.progress import ProgressState
from wire.certificate import CommitCertificate
from wire.hashing import Digest
from wire.keys import PrivateKey, PublicKey


class Role(StrEnum):
    """What a replica is at the moment."""

    FOLLOWER = "follower"
    PRECANDIDATE = "precandidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True)
class Config:
    """The identity of one replica and its limits; a wrong one is the caller's bug and fails an assertion."""

    chain_id: str
    """Bound into every signature."""
    node_id: NodeId
    """The key id of `key`."""
    key: PrivateKey
    """The Ed25519 node key."""
    validators: tuple[PublicKey, ...] = ()
    """Who votes when `Stored.configurations` does not say it: the founding validators. A node that is not among them only follows."""
    election_ticks: int = limits.ELECTION_TICKS
    heartbeat_ticks: int = limits.HEARTBEAT_TICKS
    append_bytes_max: int = limits.APPEND_BYTES_MAX
    append_entries_max: int = limits.APPEND_ENTRIES_MAX
    inflight_max: int = limits.INFLIGHT_MAX
    uncommitted_blocks_max: int = limits.UNCOMMITTED_BLOCKS_MAX
    uncommitted_bytes_max: int = limits.UNCOMMITTED_BYTES_MAX
    held_bytes_max: int = limits.HELD_BYTES_MAX
    recent_bytes_max: int = limits.RECENT_BYTES_MAX
    lease_reads: bool = False
    """Whether this node binds itself to the leader that it hears, and as leader reads by such promises (docs/spec/consensus.md 11.1)."""
    tick_ms: int = limits.TICK_MS
    """How long a tick is, at least. For `lease_reads` only: elsewhere time is counted in ticks."""

    def __post_init__(self) -> None:
        """Check what the program, not an operator, must get right."""
        assert self.node_id == self.key.public_key.key_id, "the node id is the key id of the node key"
        assert 1 <= self.heartbeat_ticks < self.election_ticks, "several heartbeats fit into an election timeout"
        assert 1 <= self.append_entries_max <= limits.APPEND_ENTRIES_MAX
        assert 1 <= self.append_bytes_max <= limits.APPEND_BYTES_MAX
        assert 1 <= self.uncommitted_blocks_max < limits.ACKNOWLEDGEMENTS_MAX
        assert self.inflight_max >= 1
        assert self.tick_ms >= 1

    @property
    def promise_ms(self) -> int:
        """How long, in milliseconds, this node is sure to support nobody but the leader that it has just heard; 0 without `lease_reads`."""
        if not self.lease_reads:
            return 0
        return min(max(self.election_ticks - limits.LEASE_MARGIN_TICKS, 0) * self.tick_ms, limits.PROMISE_MS_MAX)


@dataclass(frozen=True, slots=True)
class Stored:
    """What the driver reads from disk at the start, besides the log itself."""

    hard_state: HardState
    commit_height: int
    """The height that the ledger has applied; 0 for genesis only."""
    commit_certificate: CommitCertificate | None = None
    """The certificate with the greatest height, at most `commit_height`; None at genesis."""
    configurations: tuple[ConfigurationAt, ...] = ()
    """The configuration that rules at `commit_height`, with that height or the one of the block that made it; then one for each block of
    the log above it that changed it, ascending. Empty: `Config.validators` vote at every height."""


@dataclass(frozen=True, slots=True)
class PeerProgress:
    """What a leader knows about one peer."""

    state: ProgressState
    match_height: int
    """Up to here the peer's log is durable and the leader's."""
    commit_height: int
    """The peer's commit height, as it last said."""
    is_heard: bool
    """It answered since the last quorum check."""


class NextBlock(NamedTuple):
    """What a leader must know to build a block: a small part of its `Status`, cheap enough to be asked for after every event."""

    term: int
    last_height: int
    last_hash: Digest
    commit_height: int
    can_change_configuration: bool
    """As in `Status`."""


@dataclass(frozen=True, slots=True)
class Status:
    """What a replica knows now."""

    role: Role
    term: int
    leader: NodeId | None
    """Whom this node follows, itself when it leads, None when nobody is known."""
    voted_for: NodeId | None
    last_term: int
    last_height: int
    last_hash: Digest
    durable_height: int
    """Up to here the log in memory is on disk."""
    commit_height: int
    """Proven by a certificate and durable here; everything up to it has been handed out in `Effects.apply`."""
    match: Mapping[NodeId, int]
    """When leading: the height up to which each peer's log is durable and the same. Else empty."""
    heard: Mapping[NodeId, bool]
    """When leading: which peers answered since the last quorum check. Else empty."""
    round_confirmed: int
    """When leading: the latest heartbeat round that a majority has answered, this node included. Else 0."""
    configuration: Configuration
    """The one that rules at the end of the log, as far as it is durable or proposed by this node."""
    configuration_height: int
    """The block since which it rules, or a later one at or below the commit height."""
    can_change_configuration: bool
    """When leading: `Propose` takes a configuration now, unless it is ``consensus.configuration_unready``. Else False."""
    transfer_to: NodeId | None
    """When leading: who is to take over, while proposals are refused for it."""
    progress: Mapping[NodeId, PeerProgress]
    """When leading: each peer that gets blocks, learners and those on their way out included. Else empty."""

    @property
    def is_configuration_committed(self) -> bool:
        """Whether `configuration` is for good."""
        return self.configuration_height <= self.commit_height
