"""What goes into a replica and what comes out, as values. The order of duties is the order of the fields of `Effects`.

The driver's contract, in full:

1. One task calls `Replica.step`. Events are handled one at a time; their effects are carried out in the order in which they came out.
2. `send` may leave at once, and may be lost, repeated or reordered.
3. `persist` goes to one writer that finishes them in order. Further steps may run meanwhile. Each finished one is reported by
   `Persisted`, also one that holds a hard state only.
4. Before it writes, the writer executes `persist.entries` on the ledger. If it refuses one:

   * it writes the hard state in any case;
   * without `truncate_from` it writes the entries before the refused one; with `truncate_from` **neither truncates nor writes any
     entry**: the old blocks are replaced by all of the new ones or stay (docs/spec/consensus.md 6.3);
   * it drops `send_after_persist`, reports `Persisted` for what it wrote, and then `EntriesRefused`;
   * entries of persists that came out before that report and stand upon a refused one are dropped without a report of their own
     (their hard states are written and reported).

5. `send_after_persist` leaves when the `persist` of the same effects is durable, never before.
6. `apply` and `certificate` are committed: the ledger makes them its state in one synced batch, in order, each exactly once.
7. A failed write ends the process. Nothing is retried.
8. A block whose execution changes who votes or learns is reported as such: by `Propose` when this node makes it, and by `Persisted` when
   it is durable, also when this node made it.
9. A snapshot is installed only while nothing else is being written, only when `Replica.needs_snapshot` says so at that moment, in one
   synced write that keeps the hard state (`hard_state_after_snapshot`); then comes `InstalledSnapshot`, or a new `Replica`.
10. Blocks are pruned between two steps, never above the commit height, and their `term_and_hash` is kept for the height below the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from consensus.membership import Configuration, ConfigurationAt
from consensus.messages import Entry, Message, NodeId
from wire.certificate import CommitCertificate, ElectionCertificate
from wire.hashing import Digest


@dataclass(frozen=True, slots=True)
class HardState:
    """What must be durable before a promise that rests on it leaves: the term, and the vote given in it."""

    term: int = 0
    """The latest term this validator has seen, 0 or more."""
    voted_for: NodeId | None = None
    """The candidate that got this validator's vote in `term`."""


def hard_state_after_snapshot(hard_state: HardState, term: int) -> HardState:
    """Return what must be on disk beside a snapshot whose block is of `term`: no log is ahead of the stored term, no vote is forgotten."""
    return hard_state if term <= hard_state.term else HardState(term, None)


# Events


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick of the driver's clock has passed; 50 to 100 ms in a usual network."""

    now_ms: int | None = None
    """When this tick came, in milliseconds on a clock that nobody sets and that goes on while the process is stopped or the machine
    sleeps; None: unknown, so there are no leases. Ticks are `Config.tick_ms` apart at least, and one that is late does not bring another
    one nearer than the next."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message came from a peer whose identity the transport has proven."""

    message: Message
    sender: NodeId
    now_ms: int | None = None
    """When it came, as in `Tick`; needed by a `ReadIndexRequest` that a lease shall answer."""


@dataclass(frozen=True, slots=True)
class Propose:
    """This node, as leader, has made and executed a block that extends its last one."""

    entry: Entry
    """Term: the current one. Height: the last one plus one."""
    configuration: Configuration | None = None
    """What the block's execution made of the configuration, when it changed it."""


@dataclass(frozen=True, slots=True)
class Persisted:
    """One `Persist` is durable."""

    upto_height: int
    """Height of the last block of the log on disk now."""
    block_hash: Digest
    """Hash of that block; of genesis at height 0."""
    hard_state: HardState
    """The hard state on disk now."""
    truncate_from: int | None = None
    """The `truncate_from` of what was written; None also when the truncation was dropped because a block was refused."""
    configurations: tuple[ConfigurationAt, ...] = ()
    """For each block in this write that changed the configuration its height and the configuration after it, ascending."""


@dataclass(frozen=True, slots=True)
class EntriesRefused:
    """The ledger refused a block of a `Persist`. Every earlier `Persist` has been reported by `Persisted` before."""

    height: int
    block_hash: Digest
    reason: str
    """The ledger's error code and sentence, for the alarm."""


@dataclass(frozen=True, slots=True)
class PeerUnreachable:
    """What was last sent to the peer may be lost."""

    peer: NodeId
    is_closed: bool = False
    """Whether the peer's end closed the connection: its process has ended. A peer that only falls silent may be slow."""


@dataclass(frozen=True, slots=True)
class PeerReachable:
    """A connection to the peer stands (again)."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class TransferLeadership:
    """This node, as leader, shall hand leadership to another voter. Proposals are refused until it has, or has failed to."""

    to: NodeId | None = None
    """Who shall lead; None for whoever is furthest."""


@dataclass(frozen=True, slots=True)
class ReadIndex:
    """Somebody wants to read what is committed, nothing older than this moment (Raft 6.4 of the thesis).

    It is answered by `Effects.reads_ready` or `Effects.reads_refused`, exactly once, here and now or by a later step.
    """

    request_id: int
    """The driver's name for the request, different from those that are pending."""
    now_ms: int | None = None
    """When it was asked for or later, as in `Tick`; needed by a lease."""


@dataclass(frozen=True, slots=True)
class InstalledSnapshot:
    """The disk holds a snapshot now and no block above it. `Replica.needs_snapshot` allowed it, and nothing was being written."""

    height: int
    term: int
    block_hash: Digest
    configuration: Configuration
    """The one that rules at `height`."""
    certificate: CommitCertificate
    """For this very block; the driver has verified it."""


Event: TypeAlias = (
    Tick
    | Received
    | Propose
    | Persisted
    | EntriesRefused
    | PeerUnreachable
    | PeerReachable
    | TransferLeadership
    | ReadIndex
    | InstalledSnapshot
)


# Effects


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to one peer, never to this node itself."""

    to: NodeId
    message: Message


@dataclass(frozen=True, slots=True)
class Persist:
    """One atomic, synced write."""

    hard_state: HardState | None = None
    """To be written when not None."""
    truncate_from: int | None = None
    """Blocks from this height on leave the log, in the same write that adds `entries`; never at or below the commit height."""
    entries: tuple[Entry, ...] = ()
    """Blocks without gap, the first one at `truncate_from` or right after the last one of the log."""


@dataclass(frozen=True, slots=True)
class NeedSnapshot:
    """The leader no longer has the next block that this node needs: a snapshot must come from somewhere."""

    leader: NodeId
    height_min: int
    """The snapshot's block has this height or a greater one; then the leader has everything above it."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What the driver must do after one step, in the order of the fields."""

    send: tuple[Outgoing, ...] = ()
    """May leave at once."""
    persist: Persist | None = None
    """Must be durable before `send_after_persist` leaves."""
    send_after_persist: tuple[Outgoing, ...] = ()
    """Leaves when `persist` is durable; empty when `persist` is None."""
    apply: tuple[Entry, ...] = ()
    """Committed and durable here, ascending without gap over the life of the replica, each exactly once."""
    certificate: CommitCertificate | None = None
    """Comes with every `apply` and with nothing else: proves its last entry, and thereby the others."""
    elected: ElectionCertificate | None = None
    """This node leads from now on: it must propose a block upon `last_hash` that carries this certificate."""
    stepped_down: bool = False
    """This node led until now and does so no more."""
    removed: bool = False
    """It is committed that this node neither votes nor learns any more: its consensus is over. Comes once."""
    reads_ready: tuple[tuple[int, int], ...] = ()
    """(request id, height) of reads that may be answered, from a state at that height or above it."""
    reads_refused: tuple[int, ...] = ()
    """Request ids of reads that cannot be confirmed now: no leader, a leader that changed, or too many. They may be asked again."""
    need_snapshot: NeedSnapshot | None = None
    """Comes again with each heartbeat until a snapshot is installed."""
    alarms: tuple[str, ...] = ()
    """Each a stable code, a colon and a sentence: what an honest network never shows."""


NO_EFFECTS = Effects()
"""Nothing to do."""
