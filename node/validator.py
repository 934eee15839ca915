"""A validator: drives the consensus core, executes what it is asked to persist, commits what it orders.

::

    network ─┐                      ┌─► send at once
    ticks ───┼─► inbox ─► step() ───┼─► work queue ─► execute ─► one synced write ─► send after persist
    work ────┘                      └─► (elected, room, transactions waiting) ─► build a block ─► propose

Two tasks and a thread. The *step* task owns `consensus.core.Replica`: nothing else steps it. The *work* task takes persists and
commits in the order in which the core asked for them: a block is executed, and compared root by root, before it is written; it is
acknowledged only after the write. What waits together is one synced write, done by the thread, or on the spot when it is short and the
disk quick (`node.pace`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Final

import structlog
import trio

from consensus.config import Config, NextBlock, Role, Status, Stored
from consensus.core import Replica
from consensus.effects import (
    Effects,
    EntriesRefused,
    Event,
    HardState,
    InstalledSnapshot,
    Outgoing,
    PeerReachable,
    PeerUnreachable,
    Persist,
    Persisted,
    Propose,
    ReadIndex,
    Received,
    Tick,
    TransferLeadership,
    hard_state_after_snapshot,
)
from consensus.errors import ProposalRefusedError, TransferRefusedError
from consensus.log import LogReader
from consensus.membership import ConfigurationAt
from consensus.messages import Append, AppendReply, Entry, ReadIndexRequest, decode_message_untrusted, encode_message
from ledger.limits import NONCE_BYTES
from ledger.mempool import Mempool
from ledger.settlement import find_settlement
from ledger.state import StateView
from ledger.transaction import Transaction, TxId, build_transaction
from ledger.transition import Executed, build_block
from node.catch_up import CatchUp, SnapshotSource
from node.config import NodeConfig
from node.errors import SnapshotUnavailableError
from node.membership import (
    changed_configuration,
    committed_configuration,
    core_configuration,
    may_change_configuration,
    with_one_change,
)
from node.pace import INLINE_BYTES_MAX, WritePace
from node.replica import LedgerReplica
from node.snapshots import FilledSnapshot, install_snapshot
from node.telemetry import Metrics, timed
from wire.certificate import CommitCertificate, ElectionCertificate, encode_election_certificate
from wire.errors import CorruptionError, RejectedError, UnavailableError
from wire.hashing import sha256
from wire.keys import KeyId, PrivateKey

INBOX_EVENTS_MAX: Final = 4096
"""Events waiting for the step task. Messages beyond it are dropped: consensus repeats what was lost."""
WORK_OPERATIONS_MAX: Final = 1024
"""Persists and commits waiting for the work task; the core's windows keep it far below."""
BATCH_OPERATIONS_MAX: Final = 64
"""Persists and commits for one visit to the writing thread."""

SETTLE_WINDOW: Final = 10_000
"""Heights for which the end of a change of validators stays executable; long after that another leader has ended it."""
READS_MAX: Final = 1024
"""Linearizable reads that wait for a leader's confirmation."""
NOTICE_HOLD_S: Final = 0.02
"""How long a message that only tells of a commit waits for one with blocks to ride on, unless somebody waits for it. It halves the messages
and the synced writes of a busy chain; on a quiet one followers learn of the last commit this much later."""
EAGER_TRANSACTIONS_MIN: Final = 64
"""With a block under way, the next is built when this many transactions wait, or when the one under way is committed.
An idle chain builds at once: latency for one, batches for many."""

EXPIRE_BLOCKS: Final = 64
"""How often, in blocks, transactions that have expired are looked for: the search reads the whole mempool."""

Send = Callable[[KeyId, bytes], bool]

_CONFIGURATION_UNREADY: Final = "consensus.configuration_unready"
_WRONG_HEIGHT: Final = "ledger.block.wrong_height"
_WRONG_PREVIOUS: Final = "ledger.block.wrong_previous"

if TYPE_CHECKING:
    from trio_typing import TaskStatus

_log = structlog.get_logger("node.validator")


@dataclass(frozen=True, slots=True)
class _PersistWork:
    persist: Persist
    send_after: tuple[Outgoing, ...]


@dataclass(frozen=True, slots=True)
class _CommitWork:
    entries: tuple[Entry, ...]
    certificate: CommitCertificate | None


@dataclass(slots=True)
class _Read:
    """A read that waits for its height."""

    answered: trio.Event
    height: int | None = None


@dataclass(slots=True)
class _Round:
    """What a leader knows of the heartbeats, and the questions whether it still leads, that a peer was sent."""

    round_id: int
    """The last one sent."""
    asked_id: int
    """The first one without an answer, or else the last one."""
    asked_at: float
    """When that was sent, by `perf_counter`."""
    is_answered: bool = False


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What of a persist may be written, after its blocks were executed."""

    persist: Persist
    refused: EntriesRefused | None
    send_after: tuple[Outgoing, ...]
    configurations: tuple[ConfigurationAt, ...]

    @property
    def is_to_write(self) -> bool:
        persist = self.persist
        return persist.hard_state is not None or persist.truncate_from is not None or bool(persist.entries)


@dataclass(frozen=True, slots=True)
class _Batch:
    """What is to be written together."""

    persists: tuple[Persist, ...]
    commits: tuple[tuple[Sequence[Executed], CommitCertificate | None], ...]
    blocks: tuple[Executed, ...]
    """All blocks of `commits`."""

    @property
    def is_empty(self) -> bool:
        return not self.persists and not self.commits

    @property
    def size(self) -> int:
        """How many bytes of blocks."""
        entries = sum(len(entry.data) for persist in self.persists for entry in persist.entries)
        return entries + sum(len(executed.block.raw) for executed in self.blocks)


class Validator:
    """A voting node's consensus, on top of `replica`."""

    def __init__(
        self,
        *,
        replica: LedgerReplica,
        config: NodeConfig,
        key: PrivateKey,
        mempool: Mempool,
        send: Send,
        entropy: Callable[[int], int],
        metrics: Metrics,
        snapshots: SnapshotSource | None = None,
        make_core: Callable[[Config, Stored, LogReader, Callable[[int], int]], Replica] = Replica,
        on_configuration: Callable[[], None] = lambda: None,
        on_leader: Callable[[], None] = lambda: None,
    ) -> None:
        """Read what is stored and be ready to run. Without `snapshots`, a validator that falls behind pruning stays behind.

        Raises:
            CorruptionError: Stored blocks do not execute.
        """
        self._on_configuration = on_configuration
        self._on_leader = on_leader
        self.removed = trio.Event()
        """Set when it is committed that this node is no member any more."""
        configurations = [committed_configuration(replica.store)]
        for executed in replica.execute_stored_tail():
            if (changed := changed_configuration(executed)) is not None:
                configurations.append((executed.height, changed))
        stored = replace(replica.store.load(), configurations=tuple(configurations))
        validators = replica.latest_view().validators()
        self._replica = replica
        self._config = config
        self._key = key
        self._mempool = mempool
        self._send = send
        self._metrics = metrics
        self._core = make_core(
            Config(
                chain_id=replica.chain_id,
                node_id=key.public_key.key_id,
                key=key,
                validators=tuple(validators.public_keys.values()),
                election_ticks=config.election_ticks,
                heartbeat_ticks=config.heartbeat_ticks,
                lease_reads=config.lease_reads,
                tick_ms=config.tick_ms,
            ),
            stored,
            replica.store,
            entropy,
        )
        self._events: deque[Event] = deque()
        self._work: deque[_PersistWork | _CommitWork] = deque()
        self._events_ready = trio.Event()
        self._work_ready = trio.Event()
        self._tick_pending = False
        self._election: ElectionCertificate | None = None
        self._writing = trio.CapacityLimiter(1)
        self._disk_hard_state: HardState = stored.hard_state
        self._disk_height = replica.store.last_height
        self._disk_hash = replica.store.term_and_hash(self._disk_height)[1]
        self._refusals_pending = 0
        self._reads: dict[int, _Read] = {}
        self._next_read = 1
        self._stepped_down = trio.Event()
        self._leader_seen: tuple[int, KeyId] | None = None
        self._leader_known = trio.Event()
        self._is_leaving = False
        self._held: dict[KeyId, Append] = {}
        self._held_ready = trio.Event()
        self._rounds_sent: dict[KeyId, _Round] = {}
        self._unready: tuple[set[TxId], ProposalRefusedError] | None = None
        self._is_awaited_elsewhere = False
        self._awaited_height = 0
        self._pace = WritePace(replica.machine.seconds)
        self._may_run_now = False
        self._is_running_now = False
        self._failure: BaseException | None = None
        self._expired_height = replica.height
        self._snapshots = snapshots
        self._catch_up = (
            None
            if snapshots is None
            else CatchUp(snapshots, self._core, replica.machine, install=self._hand_to_step_task)
        )
        self._is_working = False
        self._to_install: tuple[FilledSnapshot, trio.Event] | None = None

    @property
    def status(self) -> Status:
        """What the consensus core says of itself."""
        return self._core.status

    @property
    def is_leader(self) -> bool:
        """Whether this node leads and its first block of the term stands."""
        return self._core.role is Role.LEADER

    def mempool_grew(self) -> None:
        """Look for a block to build: transactions were admitted."""
        self._events_ready.set()

    def note_awaited_elsewhere(self) -> None:
        """Tell followers of the commit of what now waits in the mempool without delay: one of them, or a host, waits for it."""
        self._is_awaited_elsewhere = True

    def why_waiting(self, tx_id: bytes) -> UnavailableError | None:
        """Return why this leader puts a transaction of its mempool into no block for now, or None when it would."""
        if self._unready is None or tx_id not in self._unready[0]:
            return None
        return self._unready[1]

    def receive(self, sender: KeyId, payloads: list[bytes]) -> None:
        """Take consensus messages from a peer. Never blocks; drops what is malformed or beyond the inbox."""
        for payload in payloads:
            if len(self._events) >= INBOX_EVENTS_MAX:
                self._metrics.consensus_messages_dropped.inc()
                return
            try:
                message = decode_message_untrusted(payload)
            except RejectedError as error:
                _log.warning(
                    "consensus message refused", peer=sender.hex()[:16], code=error.code, message=error.message
                )
                continue
            if isinstance(message, AppendReply):
                self._note_round_answered(sender, message.round_id)
            # A read that a follower passes on came at this moment at the earliest; for nothing else the time matters.
            now_ms = self._lease_clock() if isinstance(message, ReadIndexRequest) else None
            self._events.append(Received(message, sender, now_ms))
        self._run_now()

    def _note_round_answered(self, peer: KeyId, round_id: int) -> None:
        sent = self._rounds_sent.get(peer)
        if sent is not None and round_id >= sent.asked_id and not sent.is_answered:
            sent.is_answered = True
            self._metrics.heartbeat_seconds.observe(perf_counter() - sent.asked_at)

    def link_changed(self, peer: KeyId, *, is_up: bool, is_closed: bool = False) -> None:
        """Tell the core that the link to a peer came up or went down, perhaps because its end closed it. Never blocks."""
        self._rounds_sent.pop(peer, None)
        self._post(PeerReachable(peer) if is_up else PeerUnreachable(peer, is_closed))

    async def read_index(self) -> int:
        """Return a height at or above everything that was committed anywhere when this was called; the caller sets the deadline.

        Raises:
            UnavailableError: No leader confirmed it (`node.read.unconfirmed`), or too many wait already (`node.read.too_many`).
        """
        if len(self._reads) >= READS_MAX:
            raise UnavailableError(
                "node.read.too_many", "too many reads wait for confirmation", hint="retry in a moment"
            )
        request_id = self._next_read
        self._next_read += 1
        read = self._reads[request_id] = _Read(trio.Event())
        try:
            self._post(ReadIndex(request_id, self._lease_clock()))
            await read.answered.wait()
        finally:
            del self._reads[request_id]
        if read.height is None:
            raise UnavailableError(
                "node.read.unconfirmed",
                "no leader confirmed that this replica is current",
                hint="retry, or ask for consistency=local",
            )
        return read.height

    def _lease_clock(self) -> int | None:
        """Return the time that leases are measured in, and None without leases.

        Neither ticks nor the clock of the event loop will do: they stop with the process, or with the machine.
        """
        return self._replica.machine.uptime_ms() if self._config.lease_reads else None

    def _answer_read(self, request_id: int, height: int | None) -> None:
        read = self._reads.get(request_id)
        if read is not None:
            read.height = height
            read.answered.set()

    async def transfer_leadership(self, to: KeyId | None = None) -> bool:
        """Hand leadership to another voter; return whether this node no longer leads. The caller sets the deadline.

        Args:
            to: Who shall lead; None for whoever is furthest.
        """
        led = self._leader_seen
        if led is None or not self.is_leader:
            return True
        begin = trio.current_time()
        self._post(TransferLeadership(to))
        # The core gives up by itself after an election time-out and then takes proposals again.
        with trio.move_on_after(2 * self._config.election_ticks * self._config.tick_ms / 1000):
            await self._stepped_down.wait()
            await self._wait_other_leader(led)
        term, successor = self._core.leadership
        if successor == led[1]:
            return False
        took_ms = round((trio.current_time() - begin) * 1000, 1)
        _log.info("leadership handed over", to=(successor or b"").hex()[:16], term=term, took_ms=took_ms)
        return True

    async def _wait_other_leader(self, led: tuple[int, KeyId]) -> None:
        """Return when somebody leads in a later term than `led`, at once when `led` still stands."""
        while self._core.leadership != led and self._leader_seen == led:
            await self._leader_known.wait()

    def _release_transfer(self) -> None:
        """Wake whoever waits for the end of this leadership, or for the refusal to end it."""
        stepped_down, self._stepped_down = self._stepped_down, trio.Event()
        stepped_down.set()

    def _note_leader(self) -> None:
        """Tell it when another node leads, or the same one in another term."""
        term, leader = self._core.leadership
        if leader is not None and (term, leader) != self._leader_seen:
            self._leader_seen = term, leader
            known, self._leader_known = self._leader_known, trio.Event()
            known.set()
            self._on_leader()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part in consensus until cancelled, or until this node is no member any more.

        Raises:
            CorruptionError: A certified block is not one this node can accept: it stops.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick)
            nursery.start_soon(self._do_work)
            nursery.start_soon(self._release_held)
            nursery.start_soon(self._step)
            self._may_run_now = self._replica.machine.writes_inline
            if self._catch_up is not None:
                nursery.start_soon(self._catch_up.run)
            task_status.started()
            try:
                await self.removed.wait()
            finally:
                self._may_run_now = False
            nursery.cancel_scope.cancel()

    # -- the step task ---------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await self._replica.machine.sleep(self._config.tick_ms / 1000)
            # At most one tick waits: a process that was stopped for a second must not see a second's worth of ticks at once and
            # believe its leader dead before it has read what the leader sent.
            if not self._tick_pending:
                self._tick_pending = True
                self._events.append(Tick(self._lease_clock()))
                self._events_ready.set()

    async def _step(self) -> None:
        while True:
            await self._events_ready.wait()
            self._events_ready = trio.Event()
            if self._to_install is not None:
                filled, done = self._to_install
                await self._install(filled)
                self._to_install = None
                done.set()
            if self._failure is not None:
                raise self._failure
            if self._can_run_now:
                self._run_now()
            else:
                self._take_events()
            await trio.lowlevel.checkpoint()

    def _take_events(self) -> None:
        """Let the core take everything that waits for it, and build the block that is due then."""
        # Ticks come after the messages that arrived before them.
        while self._events:
            event = self._events.popleft()
            if isinstance(event, Tick):
                self._tick_pending = False
            elif isinstance(event, EntriesRefused):
                self._refusals_pending -= 1
            try:
                effects = self._core.step(event)
                if isinstance(event, ReadIndex):
                    self._metrics.reads_at_once.inc(len(effects.reads_ready))
                self._perform(effects)
            except TransferRefusedError as error:
                _log.info("leadership is not handed over", code=error.code, reason=error.message)
                self._release_transfer()
            if not self._events:
                self._propose_if_due()
        self._propose_if_due()
        self._note_leader()

    @property
    def _can_run_now(self) -> bool:
        return self._may_run_now and not (self._is_running_now or self._is_working or self._to_install is not None)

    def _run_now(self) -> None:
        """Do at once what has come up and needs no waiting: steps of the core, short blocks, short writes; leave the rest to the tasks.

        So a message goes from the socket to its answer without a task switch, each of which costs as much as a step. It is the step task's
        work, and nothing of it is done while that task, or the work task, is in the middle of something.
        """
        if not self._can_run_now:
            self._events_ready.set()
            return
        self._is_running_now = True
        try:
            self._take_events()
            while self._do_batch_now():
                self._take_events()
        except BaseException as error:  # noqa: BLE001 - whose message it was is not to blame: the step task raises it
            self._failure, self._may_run_now = error, False
            self._events_ready.set()
        finally:
            self._is_running_now = False
        if self._work:
            self._work_ready.set()

    def _perform(self, effects: Effects) -> None:
        for outgoing in effects.send:
            self._send_message(outgoing)
        for request_id, height in effects.reads_ready:
            self._answer_read(request_id, height)
        for request_id in effects.reads_refused:
            self._answer_read(request_id, None)
        for alarm in effects.alarms:
            _log.error("consensus alarm", alarm=alarm)
            self._metrics.consensus_alarms.inc()
        if effects.elected is not None:
            self._election = effects.elected
            self._rounds_sent.clear()
            self._metrics.leader_changes.inc()
            _log.info("elected leader", term=effects.elected.term)
        if effects.stepped_down:
            self._election = None
            self._release_transfer()
            _log.info("no longer leader", term=self._core.status.term)
        self._is_leaving = self._is_leaving or effects.removed
        if effects.persist is not None:
            self._add_work(_PersistWork(effects.persist, effects.send_after_persist))
        if effects.apply or effects.certificate is not None:
            self._add_work(_CommitWork(effects.apply, effects.certificate))
        if effects.need_snapshot is not None and self._catch_up is not None:
            self._catch_up.need(effects.need_snapshot.height_min)

    def _add_work(self, work: _PersistWork | _CommitWork) -> None:
        assert len(self._work) < WORK_OPERATIONS_MAX, "the core's windows bound the work queue"
        self._work.append(work)
        if not self._is_running_now:
            self._work_ready.set()

    def _send_message(self, outgoing: Outgoing) -> None:
        message = outgoing.message
        held = self._held.pop(outgoing.to, None)
        if isinstance(message, Append):
            if held is not None and held.term == message.term and message.commit_certificate is None:
                # What was held is older: all that it told and this one does not is its certificate.
                message = replace(message, commit_certificate=held.commit_certificate)
            if self._may_hold(outgoing.to, message):
                self._held[outgoing.to] = message
                self._held_ready.set()
                return
        elif held is not None:
            self._send(outgoing.to, encode_message(held))
        self._send(outgoing.to, encode_message(message))

    def _may_hold(self, peer: KeyId, message: Append) -> bool:
        """Whether the message tells of a commit only, and nobody waits for it."""
        # A new round is a heartbeat, or the question of whether this node still leads, upon which a read waits.
        sent = self._rounds_sent.get(peer)
        if sent is None or sent.round_id != message.round_id:
            if sent is None or sent.is_answered:
                self._rounds_sent[peer] = _Round(message.round_id, message.round_id, perf_counter())
            else:
                sent.round_id = message.round_id
            return False
        if message.entries or message.commit_certificate is None:
            return False
        return not self._is_awaited_elsewhere and message.commit_height > self._awaited_height

    async def _release_held(self) -> None:
        while True:
            await self._held_ready.wait()
            self._held_ready = trio.Event()
            await self._replica.machine.sleep(NOTICE_HOLD_S)
            held, self._held = self._held, {}
            for peer, message in held.items():
                self._send(peer, encode_message(message))

    # -- installing a snapshot, in the step task --------------------------------------------------------------------

    async def _hand_to_step_task(self, filled: FilledSnapshot) -> None:
        done = trio.Event()
        self._to_install = (filled, done)
        self._events_ready.set()
        await done.wait()

    async def _install(self, filled: FilledSnapshot) -> None:
        """Go on from the snapshot if the core still wants it (`consensus.effects`, rule 9). Until this returns it is asked nothing else."""
        assert self._snapshots is not None
        await self._finish_writes()
        if not self._core.needs_snapshot(filled.height, filled.term, filled.block_hash):
            _log.info("a snapshot came too late to be of use", height=filled.height)
            await self._snapshots.discard(filled)
            return
        try:
            await install_snapshot(self._replica, filled, self._disk_hard_state, self._writing)
        except SnapshotUnavailableError as error:
            _log.warning("the snapshot could not be installed", code=error.code, reason=error.message)
            await self._snapshots.discard(filled)
            return
        self._disk_hard_state = hard_state_after_snapshot(self._disk_hard_state, filled.term)
        self._disk_height, self._disk_hash = filled.height, filled.block_hash
        configuration = core_configuration(filled.configuration)
        self._perform(
            self._core.step(
                InstalledSnapshot(filled.height, filled.term, filled.block_hash, configuration, filled.certificate)
            )
        )
        self._metrics.snapshots_installed.inc()
        waiting = self._mempool.take(self._mempool.bytes_waiting, len(self._mempool))
        self._mempool.remove([each.tx_id for each in waiting if self._replica.is_committed(each.tx_id)])
        self._on_configuration()
        await self._snapshots.forget_incoming(filled.height)
        self._leave_if_due()

    async def _finish_writes(self) -> None:
        """Let everything be written that the core has asked for, and let it hear of it; messages and ticks wait meanwhile."""
        while True:
            reports = [event for event in self._events if isinstance(event, Persisted | EntriesRefused)]
            if reports:
                self._events = deque(each for each in self._events if not isinstance(each, Persisted | EntriesRefused))
                for report in reports:
                    if isinstance(report, EntriesRefused):
                        self._refusals_pending -= 1
                    self._perform(self._core.step(report))
            elif self._work or self._is_working:
                await self._events_ready.wait()
                self._events_ready = trio.Event()
            else:
                return

    # -- building blocks -------------------------------------------------------------------------------------------

    def _propose_if_due(self) -> None:
        base = self._core.next_block
        if base is None:
            return
        if self._election is None and not self._is_block_due(base.last_height - base.commit_height):
            return
        if self._replica.chain.find_hash(base.last_height) != base.last_hash:
            return  # The work task has yet to execute what we were elected on.
        candidates = self._mempool.take(count_max=self._config.block_transactions_max)
        if base.can_change_configuration:
            candidates = with_one_change(StateView(self._replica.chain.tip()), candidates)
        else:
            # They wait in the mempool for the change under way, or for this leader's first commit.
            candidates = self._without_changes(candidates)
        refusal = self._build_and_propose(base, candidates)
        if refusal is None:
            self._unready = None
        if refusal is None or refusal.code != _CONFIGURATION_UNREADY:
            return
        # Those who are up could not finish the change: it waits, and everything else goes on.
        others = self._without_changes(candidates)
        waiting = {each.tx_id for each in candidates} - {each.tx_id for each in others}
        if self._unready is None or self._unready[0] != waiting:
            _log.warning(
                "a change of the validators waits", code=refusal.code, reason=refusal.message, hint=refusal.hint
            )
        self._unready = (waiting, refusal)
        self._build_and_propose(base, others)

    def _without_changes(self, candidates: Sequence[Transaction]) -> tuple[Transaction, ...]:
        view = StateView(self._replica.chain.tip())
        return tuple(each for each in candidates if not may_change_configuration(view, each))

    def _build_and_propose(self, base: NextBlock, candidates: Sequence[Transaction]) -> ProposalRefusedError | None:
        """Propose a block of these upon the last one, unless there is nothing to certify; return why the core refused it, if it did."""
        election = self._election
        tip = self._replica.chain.tip()
        parent_time_ms = self._replica.chain.tip_time_ms
        built = build_block(
            tip,
            candidates,
            term=base.term,
            time_ms=max(self._replica.now_ms(), parent_time_ms),
            proposer=self._key,
            election=None if election is None else encode_election_certificate(election),
            verified=self._replica.verified,
        )
        for transaction, error in built.refused:
            self._mempool.remove([transaction.tx_id])
            _log.info("transaction refused while building", tx_id=transaction.tx_id.hex(), code=error.code)
        block = built.block
        entry = Entry(term=base.term, height=block.header.height, block_hash=block.block_hash, data=block.raw)
        is_idle = base.last_height == base.commit_height
        if election is None and not block.transactions and is_idle and not self._is_idle_block_due():
            return None  # Everything that waited was refused; there is nothing to certify.
        try:
            effects = self._core.step(Propose(entry, changed_configuration(built.executed)))
        except ProposalRefusedError as error:
            return error  # The window closed meanwhile, or the like; the transactions are still in the mempool.
        self._election = None
        self._metrics.proposals.inc()
        self._replica.chain.push(built.executed)
        self._mempool.remove(built.executed.tx_ids)
        if self._is_awaited_elsewhere:
            self._awaited_height = entry.height
            self._is_awaited_elsewhere = len(self._mempool) > 0
        self._perform(effects)
        return None

    def _is_block_due(self, in_flight: int) -> bool:
        waiting = len(self._mempool)
        if in_flight == 0:
            return waiting > 0 or self._is_idle_block_due()
        return in_flight < self._config.blocks_in_flight_max and waiting >= EAGER_TRANSACTIONS_MIN

    def _is_idle_block_due(self) -> bool:
        # From the executed tip: a block that is on its way to the disk already says what an idle block would say.
        return self._replica.now_ms() - self._replica.chain.tip_time_ms >= self._config.idle_block_interval_ms

    # -- the work task ---------------------------------------------------------------------------------------------

    async def _do_work(self) -> None:
        while True:
            await self._work_ready.wait()
            self._work_ready = trio.Event()
            self._is_working = True
            while self._work:
                await self._do_batch()
            self._is_working = False
            if self._to_install is not None:
                self._events_ready.set()

    async def _do_batch(self) -> None:
        """Execute, write and report what waits, with one visit to the writing thread: going there and back costs as much as a sync."""
        persists: list[_Prepared] = []
        commits: list[_CommitWork] = []
        # Commits come after all persists of their batch: what they commit was persisted before them, and no later persist truncates it.
        while self._work and len(persists) + len(commits) < BATCH_OPERATIONS_MAX:
            work = self._work.popleft()
            if isinstance(work, _PersistWork):
                persists.append(await self._prepare(work))
            else:
                commits.append(work)
        batch = self._gather(persists, commits)
        if not batch.is_empty:
            if self._may_write_now(batch.size):
                self._write(batch)
            else:
                await self._replica.machine.in_thread(self._write, batch, limiter=self._writing)
        self._report(persists, batch)

    def _do_batch_now(self) -> bool:
        """Do what `_do_batch` does with what waits, as far as it is short; return whether that was anything."""
        persists: list[_Prepared] = []
        commits: list[_CommitWork] = []
        size = 0
        while self._work:
            work = self._work[0]
            entries = work.persist.entries if isinstance(work, _PersistWork) else work.entries
            size += sum(len(entry.data) for entry in entries)
            if not self._may_write_now(size):
                break
            if isinstance(work, _PersistWork):
                prepared = self._prepare_now(work)
                if prepared is None:
                    break
                persists.append(prepared)
            else:
                commits.append(work)
            self._work.popleft()
        if not persists and not commits:
            return False
        batch = self._gather(persists, commits)
        if not batch.is_empty:
            self._write(batch)
        self._report(persists, batch)
        return True

    def _gather(self, persists: Sequence[_Prepared], commits: Sequence[_CommitWork]) -> _Batch:
        """Return what is to be written."""
        blocks: list[Executed] = []
        certificates: list[CommitCertificate] = []
        commit_through = self._replica.height
        for commit in commits:
            if commit.entries:
                self._check_committed(commit.entries[-1])
                blocks += self._replica.chain.executed_between(commit_through, commit.entries[-1].height)
                commit_through = commit.entries[-1].height
            if commit.certificate is not None:
                certificates.append(commit.certificate)
        # Blocks with the newest proof of them; the ones before it are kept too, each proves its own height.
        groups: list[tuple[Sequence[Executed], CommitCertificate | None]] = []
        rest: Sequence[Executed] = blocks
        for certificate in certificates[:-1]:
            upto = [each for each in rest if each.height <= certificate.height]
            groups.append((upto, certificate))
            rest = rest[len(upto) :]
        if rest or certificates:
            groups.append((rest, certificates[-1] if certificates else None))
        return _Batch(tuple(each.persist for each in persists if each.is_to_write), tuple(groups), tuple(blocks))

    def _may_write_now(self, size: int) -> bool:
        """Whether a write of blocks of so many bytes may be done on the event loop."""
        return (
            size <= INLINE_BYTES_MAX
            and self._replica.machine.writes_inline
            and self._pace.is_quick
            and not self._replica.store.is_writing
        )

    def _write(self, batch: _Batch) -> None:
        """Make it durable, in the order of the log."""
        metrics = self._metrics
        with self._pace.watched(), timed(metrics.persist_seconds if batch.persists else metrics.commit_seconds):
            self._replica.store.write(batch.persists, batch.commits)

    def _report(self, persists: Sequence[_Prepared], batch: _Batch) -> None:
        for prepared in persists:
            self._report_persisted(prepared)
        self._report_committed(batch.blocks)
        self._leave_if_due()

    def _leave_if_due(self) -> None:
        if self._is_leaving and not self._work:
            # The block that says so is written: whoever asks this node, also after a restart, hears it.
            _log.warning("no longer a member: consensus ends here", height=self._replica.height)
            self.removed.set()

    async def _prepare(self, work: _PersistWork) -> _Prepared:
        persist, refused, complete = await self._execute_entries(work.persist)
        return self._prepared(persist, refused, work.send_after if complete else ())

    def _prepare_now(self, work: _PersistWork) -> _Prepared | None:
        """Do what `_prepare` does if it need not wait and the blocks hold; None leaves it to `_prepare`, for which nothing has changed."""
        persist, chain = work.persist, self._replica.chain
        if persist.truncate_from is not None:
            return None
        for entry in persist.entries:
            if chain.find_hash(entry.height) == entry.block_hash:
                continue
            if entry.height != chain.tip_height + 1:
                return None
            try:
                now_ms = self._replica.now_ms()
                done = self._replica.execute_now_untrusted(entry.data, block_hash=entry.block_hash, now_ms=now_ms)
            except RejectedError:
                return None
            if done is None:
                return None
        return self._prepared(persist, None, work.send_after)

    def _prepared(
        self, persist: Persist, refused: EntriesRefused | None, send_after: tuple[Outgoing, ...]
    ) -> _Prepared:
        configurations = []
        for entry in persist.entries:
            executed = self._replica.chain.executed(entry.height)
            if (changed := changed_configuration(executed)) is not None:
                configurations.append((entry.height, changed))
        return _Prepared(persist, refused, send_after, tuple(configurations))

    def _report_persisted(self, prepared: _Prepared) -> None:
        persist = prepared.persist
        if prepared.is_to_write:
            self._metrics.persists.inc()
            if persist.hard_state is not None:
                self._disk_hard_state = persist.hard_state
            if persist.entries:
                self._disk_height, self._disk_hash = persist.entries[-1].height, persist.entries[-1].block_hash
            self._post(
                Persisted(
                    self._disk_height,
                    self._disk_hash,
                    self._disk_hard_state,
                    persist.truncate_from,
                    prepared.configurations,
                )
            )
        if prepared.refused is not None:
            self._refusals_pending += 1
            self._post(prepared.refused)
        for outgoing in prepared.send_after:
            self._send_message(outgoing)

    async def _execute_entries(self, persist: Persist) -> tuple[Persist, EntriesRefused | None, bool]:
        """Execute what is to be persisted.

        Returns:
            What may be written; the refusal of the first block that does not hold; whether all of `persist` may be written.
        """
        chain = self._replica.chain
        replaced = chain.take_from(persist.truncate_from) if persist.truncate_from is not None else []
        for index, entry in enumerate(persist.entries):
            if chain.find_hash(entry.height) == entry.block_hash:
                continue  # Our own proposal: executed when it was built.
            try:
                await self._execute_entry(entry)
            except RejectedError as error:
                return self._refuse(persist, index, replaced, error)
        return persist, None, True

    async def _execute_entry(self, entry: Entry) -> None:
        tip_height = self._replica.chain.tip_height
        if entry.height != tip_height + 1:
            raise RejectedError(
                _WRONG_HEIGHT, "the block does not extend the tip", expected=tip_height + 1, actual=entry.height
            )
        await self._replica.execute_untrusted(entry.data, block_hash=entry.block_hash, now_ms=self._replica.now_ms())

    def _refuse(
        self, persist: Persist, index: int, replaced: list[Executed], error: RejectedError
    ) -> tuple[Persist, EntriesRefused | None, bool]:
        """Return what of `persist` may still be written after the block at `index` was refused (`consensus.effects`, rule 4)."""
        entry = persist.entries[index]
        written = persist.entries[:index]
        if persist.truncate_from is not None:
            # The old blocks are replaced by all of the new ones or stay.
            written = ()
            self._replica.chain.take_from(persist.truncate_from)
            for executed in replaced:
                self._replica.chain.push(executed)
        accepted = Persist(hard_state=persist.hard_state, truncate_from=None, entries=written)
        if self._refusals_pending and error.code in (_WRONG_HEIGHT, _WRONG_PREVIOUS):
            return accepted, None, False  # It stands upon a block that was refused before; the core learns of that one.
        _log.error(
            "block refused",
            height=entry.height,
            term=entry.term,
            block_hash=entry.block_hash.hex(),
            code=error.code,
            message=error.message,
        )
        self._metrics.blocks_refused.inc()
        refused = EntriesRefused(
            height=entry.height, block_hash=entry.block_hash, reason=f"{error.code}: {error.message}"
        )
        return accepted, refused, False

    def _check_committed(self, last: Entry) -> None:
        """Raise unless the committed block is the one that this node executed."""
        if self._replica.chain.find_hash(last.height) != last.block_hash:
            raise CorruptionError(
                "node.divergence",
                f"a certified block at height {last.height} is not the one this node executed: "
                f"{last.block_hash.hex()} is certified",
                hint="compare the nodes with `patchwarden audit replay`; this node has stopped to keep the evidence",
            )

    def _report_committed(self, blocks: Sequence[Executed]) -> None:
        if not blocks:
            return
        self._replica.committed(blocks)
        for executed in blocks:
            self._mempool.remove(executed.tx_ids)
        if self._replica.height - self._expired_height >= EXPIRE_BLOCKS:
            self._expired_height = self._replica.height
            self._mempool.expire(self._expired_height)
        self._metrics.committed(blocks)
        if any(changed_configuration(executed) is not None for executed in blocks):
            self._on_configuration()
        self._settle_if_due()
        if not self._is_running_now:
            self._events_ready.set()

    def _settle_if_due(self) -> None:
        """As leader, end a change of the validators as soon as the network has committed to it."""
        view = self._replica.latest_view()
        if not self.is_leader or not view.configuration().is_joint:
            return
        body = find_settlement(self._replica.store)
        if body is None:
            return
        # Everything about it follows from what it proves: asked for again, it is the same transaction.
        transaction = build_transaction(
            self._replica.chain_id,
            body.KIND,
            body,
            self._key,
            sha256(body.header.hash())[:NONCE_BYTES],
            body.header.height + SETTLE_WINDOW,
            body.header.time_ms,
        )
        with suppress(UnavailableError):  # A full mempool: asked for again with the next commit.
            self._mempool.add(transaction)

    def _post(self, event: Event) -> None:
        self._events.append(event)
        if not self._is_running_now:
            self._events_ready.set()
