"""An observer: follows certified blocks from several peers at once, and believes none of them.

::

    choose ──► source task A ─┐  each: ask for a slot, then for ranges             ┌─ refused: the source is dropped, the rest goes on
               source task B ─┼──► RangePlan ──► execute, compare, verify, commit ─┤
               source task C ─┘    in order                                        └─ committed: also for those who follow this node

What makes a block final is the certificate, not the sender: a batch is executed block by block, every root compared, and committed up to
the highest certificate in it that holds. A peer whose blocks do not hold is dropped for a while, logged and counted; what it sent changes
nothing.

Far behind, an observer takes from several sources at once. Near the end it keeps two: one is asked for what comes next, the other is there
when that one fails. Sources are validators while they have slots, and other observers (`node.joining`).

Source: docs/spec/network.md 7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog
import trio

from consensus.effects import Persist, hard_state_after_snapshot
from ledger.block import decode_block_untrusted
from ledger.certificate import verify_block_certificate
from ledger.state import StateView
from ledger.transition import Executed
from node.joining import BEHIND, DEEP, FULL, LOOP, PATH_MAX, Joined, owner_of_untrusted
from node.replica import LedgerReplica
from node.snapshots import SnapshotClient, at_least, install_snapshot
from node.sync import HISTORY_PRUNED, CertifiedBlock
from node.sync_ranges import Batch, Job, RangePlan
from node.sync_slots import Wish, is_loop
from node.sync_sources import Candidate, Directory
from node.telemetry import Metrics
from wire.certificate import CommitCertificate, decode_commit_certificate_untrusted
from wire.errors import RejectedError, UnavailableError
from wire.hashing import Digest
from wire.keys import KeyId

BATCH_BYTES_MAX: Final = 2 * 1024 * 1024
"""Blocks asked for at once."""
LONG_POLL_S: Final = 10.0
"""How long a peer may keep the question open until it has a new block."""
RENEW_S: Final = 2.0
"""How often a source is asked to keep this node's slot."""
SOURCES: Final = 2
"""Sources near the end of the chain."""
SOURCES_FAR: Final = 4
"""Sources while many blocks are missing."""
FAR_BLOCKS: Final = 256
"""So many missing blocks are many."""
SOURCES_STRANDED: Final = 6
"""Sources while those that are followed do not help."""
STRANDED_S: Final = 5.0
"""Whom nobody has helped for so long says so, and is given a slot where there is none."""
IDLE_S: Final = 0.5
"""How often a source without work, or an observer without enough sources, looks again."""
FIXED_S: Final = 5.0
"""How often the configured peers and the validators are looked up."""
WRITE_BLOCKS_MAX: Final = 32
"""Committed blocks in one write."""
CARRIED_MAX: Final = 8
"""Pieces of bundles that wait to be taken over."""
RETRY_PAUSE_S: Final = 3.0
"""The pause after a snapshot could not be had."""
WITHHELD: Final = "node.sync.withheld"
"""A source does not give a block that it says it has."""
TIMEOUT: Final = "node.net.timeout"
"""A peer did not answer in time."""
NO_CERTIFICATE: Final = "node.sync.no_certificate"
"""A batch does not end with a certificate."""

_log = structlog.get_logger("node.observer")


class SourcePeer(Protocol):
    """A peer that may be a source; `node.sync.PeerLedger`."""

    key_id: KeyId
    """Its node key."""
    address: str
    """Where it is dialled."""

    @property
    def name(self) -> str:
        """The peer for people."""
        ...

    async def join(self, wish: Wish) -> Joined:
        """Ask for a slot."""
        ...

    async def blocks(self, start: int, *, bytes_max: int, wait_ms: int, end: int | None = None) -> list[CertifiedBlock]:
        """Return blocks from `start` on."""
        ...


@dataclass(eq=False, slots=True)
class _Source:
    """A peer that is being followed."""

    peer: SourcePeer
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    head: int = 0
    """The height up to which it says it has blocks."""
    path: tuple[KeyId, ...] = ()
    """Through whom blocks come to it."""
    renew_at: float = 0.0
    """When to ask for the slot again."""
    is_admitted: bool = False
    is_idle: bool = False
    """Whether it waits for something to do."""


@dataclass(eq=False, slots=True)
class _Carried:
    """Blocks that somebody brought by hand."""

    start: int
    blocks: Sequence[CertifiedBlock]
    done: trio.Event = field(default_factory=trio.Event)
    """Set when they are committed, or were refused."""
    error: RejectedError | None = None
    is_taken: bool = False
    """Whether this node has looked at all of them."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an observer knows of the node around it."""

    own: KeyId
    """The node's key."""
    announce: Callable[[], str | None] = lambda: None
    """Returns where others may follow this node, a multiaddress with ``/p2p/…``."""
    room: Callable[[], int] = lambda: 0
    """Returns how many more may."""
    connect: Callable[[KeyId, str], SourcePeer | None] = lambda _key_id, _address: None
    """Returns the way to ask an observer that somebody named."""
    certified: Callable[[], int] = lambda: 0
    """Returns a height that is known to be certified, whoever said so."""


class Observer:
    """Keeps `replica` up with the network."""

    def __init__(
        self,
        replica: LedgerReplica,
        peers: Callable[[], Sequence[SourcePeer]],
        metrics: Metrics,
        snapshots: SnapshotClient | None = None,
        *,
        votes: bool = False,
        surroundings: Surroundings | None = None,
    ) -> None:
        """Be ready to follow.

        Args:
            replica: What is kept up.
            peers: Returns whom to ask before anybody is named: the configured ones and the validators.
            metrics: What is counted.
            snapshots: Where to begin anew when the next block is kept nowhere; None to wait.
            votes: Whether this node will vote as soon as the ledger names it. Then the term of what it follows is written beside it, in the
                same write: whenever it ends, its next start may be that of a voter, whose log must not be ahead of its term.
            surroundings: The node around it.
        """
        self._hard_state = replica.store.load().hard_state if votes else None
        self._replica = replica
        self._peers = peers
        self._metrics = metrics
        self._snapshots = snapshots
        self._around = surroundings or Surroundings(KeyId(Digest(bytes(32))))
        self._writing = trio.CapacityLimiter(1)
        self._directory = Directory(self._around.own)
        self._plan = RangePlan(replica.height)
        self._active: dict[KeyId, _Source] = {}
        self._changed = trio.Event()
        self._fixed: dict[KeyId, SourcePeer] = {}
        self._unhelpful: set[KeyId] = set()
        self._is_pruned = False
        self._fine_at = 0.0
        self._snapshot_needed = trio.Event()
        self._carried: deque[_Carried] = deque()

    # -- what others see -------------------------------------------------------------------------------------------

    @property
    def following(self) -> str | None:
        """Who is asked for what comes next, for people; None while there is nobody."""
        source = self._main_source()
        return None if source is None else source.peer.name

    @property
    def path(self) -> tuple[KeyId, ...]:
        """Through whom blocks come to this node, a validator first; empty while they do not."""
        source = self._main_source()
        return () if source is None else (*source.path, source.peer.key_id)

    @property
    def is_fed(self) -> bool:
        """Whether blocks come to this node now."""
        return self._main_source() is not None

    @property
    def sources(self) -> int:
        """From how many peers this node takes blocks."""
        return sum(source.is_admitted for source in self._active.values())

    def others(self, named_max: int) -> list[SourcePeer]:
        """Return ways to ask those that are followed, and then at most so many observers that somebody named."""
        found = {key_id: source.peer for key_id, source in self._active.items() if source.is_admitted}
        for candidate in self._directory.named(trio.current_time())[:named_max]:
            peer = self._around.connect(candidate.key_id, candidate.address)
            if peer is not None:
                found.setdefault(candidate.key_id, peer)
        return list(found.values())

    def document(self) -> dict[str, Any]:
        """Return whom this node follows and whom it has dropped, for the status document."""
        now = trio.current_time()
        tail = self._main_source()
        return {
            "depth": len(self.path),
            "sources": [
                {
                    "key_id": key_id.hex(),
                    "address": source.peer.address,
                    "head": source.head,
                    "depth": len(source.path) + 1,
                    "is_main": source is tail,
                }
                for key_id, source in self._active.items()
                if source.is_admitted
            ],
            "dropped": [
                {
                    "key_id": each.key_id.hex(),
                    "address": each.address,
                    "code": each.code,
                    "times": each.lies,
                    "for_s": round(each.not_before - now),
                }
                for each in self._directory.dropped(now)
            ],
        }

    def _main_source(self) -> _Source | None:
        tail = self._plan.tail_source
        if tail is not None and tail in self._active:
            return self._active[tail]
        admitted = [source for source in self._active.values() if source.is_admitted]
        return max(admitted, key=lambda source: source.head, default=None)

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow until cancelled.

        Raises:
            StorageFailedError: The disk did not take a block; the node must stop.
            CorruptionError: A row is damaged; the node must stop.
        """
        if self._snapshots is not None:
            # A process that ended right after an installation may have left what it installed.
            await self._snapshots.forget_incoming(self._replica.height)
        while True:
            self._plan = RangePlan(self._replica.height)
            self._fine_at = trio.current_time()
            self._unhelpful, self._is_pruned, self._snapshot_needed = set(), False, trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._choose_sources, nursery)
                nursery.start_soon(self._execute_batches)
                await self._snapshot_needed.wait()
                nursery.cancel_scope.cancel()
            if not await self._begin_anew():
                await self._replica.machine.sleep(self._replica.machine.jittered(RETRY_PAUSE_S))

    async def _begin_anew(self) -> bool:
        """Go on from a snapshot: everybody was asked, and who answered has forgotten the blocks that come next here."""
        assert self._snapshots is not None
        _log.warning("the next block is kept nowhere any more: a snapshot is needed", height=self._replica.height)
        try:
            filled = await self._snapshots.fetch(at_least(self._replica.height + 1))
            await install_snapshot(self._replica, filled, self._hard_state, self._writing)
        except UnavailableError as error:
            _log.warning("no snapshot yet", code=error.code, reason=error.message)
            return False
        self._adopt_term(filled.term)
        self._metrics.snapshots_installed.inc()
        await self._snapshots.forget_incoming(filled.height)
        return True

    async def take_carried(self, start: int, blocks: Sequence[CertifiedBlock]) -> int:
        """Return how many blocks were new, after they are committed exactly as if a peer had sent them.

        Args:
            start: The height that the first one should have.
            blocks: The last one with its certificate. Those that are here already are compared with what is here.

        Raises:
            RejectedError: ``node.bundle.gap``; ``node.bundle.other_block``: another block stands at that height here; or the ledger's code
                for a block or a certificate that does not hold: what comes before it stays.
            UnavailableError: ``node.bundle.busy``, ``node.bundle.interrupted``: ask again.
        """
        if len(self._carried) >= CARRIED_MAX:
            raise UnavailableError("node.bundle.busy", "another bundle is being taken over", hint="try again")
        before = self._replica.height
        self._check_fits(start, blocks)
        carried = _Carried(start, blocks)
        # The task that commits what peers send commits this too: one thing at a time, and a disk that fails ends the node.
        self._carried.append(carried)
        self._notify()
        await carried.done.wait()
        if carried.error is not None:
            raise carried.error
        if not carried.is_taken:
            raise UnavailableError("node.bundle.interrupted", "the node began anew from a snapshot", hint="try again")
        return self._replica.height - before

    def _check_fits(self, start: int, blocks: Sequence[CertifiedBlock]) -> None:
        """Refuse blocks that do not continue what is here, or contradict it where they overlap."""
        height = self._replica.height
        if start > height + 1:
            raise RejectedError(
                "node.bundle.gap",
                "the bundle begins above what this node needs next",
                expected=f"block {height + 1} or lower",
                actual=f"block {start}",
                hint=f"export again with --from {height}",
            )
        with self._replica.view() as view:
            # A block's hash covers all before it: what agrees at one height agrees below.
            for known in range(start, min(height, start + len(blocks) - 1) + 1):
                header = view.header_at(known)
                block = decode_block_untrusted(blocks[known - start].block)
                if header is not None and header.hash() != block.block_hash:
                    raise RejectedError(
                        "node.bundle.other_block",
                        f"the bundle has another block at height {known} than this node has committed",
                        expected=header.hash(),
                        actual=block.block_hash,
                        hint="it is forged, or of a history that this node cannot verify: patchwarden audit blame compares two",
                    )

    async def _take_from_hand(self, carried: _Carried) -> None:
        """Commit what was brought by hand; whoever waits for it learns what came of it."""
        try:
            await self._take(Batch(carried.start, carried.blocks, self._around.own))
            carried.is_taken = True
        except RejectedError as error:
            carried.error = error
        finally:
            carried.done.set()
            self._plan.go_back(self._replica.height)

    # -- sources ---------------------------------------------------------------------------------------------------

    async def _choose_sources(self, nursery: trio.Nursery) -> None:
        """Keep as many sources as are wanted."""
        asked = -FIXED_S
        while True:
            if trio.current_time() - asked >= FIXED_S:
                asked = trio.current_time()
                self._fixed = {peer.key_id: peer for peer in self._peers()}
                self._directory.set_fixed({key_id: peer.address for key_id, peer in self._fixed.items()})
            if self._is_stranded():
                self._directory.hurry(trio.current_time())
            while len(self._active) < self._sources_wanted():
                candidate = self._directory.choose(self._active, trio.current_time())
                if candidate is None:
                    break
                self._start_source(nursery, candidate)
            await self._wait_changed()

    def _start_source(self, nursery: trio.Nursery, candidate: Candidate) -> None:
        peer = self._fixed.get(candidate.key_id) or self._around.connect(candidate.key_id, candidate.address)
        if peer is None:
            self._directory.note_failed(candidate.key_id, "node.net.unreachable", trio.current_time())
            return
        source = self._active[candidate.key_id] = _Source(peer)
        nursery.start_soon(self._run_source, source)

    def _sources_wanted(self) -> int:
        if self._is_stranded():
            return SOURCES_STRANDED
        return SOURCES_FAR if self._missing() > FAR_BLOCKS else SOURCES

    def _is_stranded(self) -> bool:
        """Whether nobody has helped for a while: there is no source, or there is more and those who are followed do not give it."""
        now = trio.current_time()
        if self.is_fed and self._missing() <= 0:
            self._fine_at = now
        return now - self._fine_at > STRANDED_S

    def _missing(self) -> int:
        heads = [source.head for source in self._active.values() if source.is_admitted]
        return max([self._around.certified(), *heads], default=0) - self._replica.height

    async def _run_source(self, source: _Source) -> None:
        """Take blocks from one peer until it fails, lies or is not needed any more."""
        key_id = source.peer.key_id
        try:
            with source.scope:
                await self._draw(source)
        except UnavailableError as error:
            self._note_unavailable(source, error)
        except RejectedError as error:
            self._drop(key_id, error)
        finally:
            self._active.pop(key_id, None)
            self._plan.release(key_id)
            if not any(each.is_admitted for each in self._active.values()):
                self._directory.hurry(trio.current_time())
            self._notify()

    def _note_unavailable(self, source: _Source, error: UnavailableError) -> None:
        now, key_id = trio.current_time(), source.peer.key_id
        if error.code in (FULL, LOOP, DEEP):
            self._directory.note_full(key_id, error.code, now)
            _log.debug("peer has no slot", peer=source.peer.name, code=error.code)
            return
        _log.info("peer does not help", peer=source.peer.name, code=error.code)
        if error.code == TIMEOUT and source.is_admitted:
            # It has let others wait for it. Who cannot be reached costs nothing.
            self._directory.note_full(key_id, error.code, now)
        else:
            self._directory.note_failed(key_id, error.code, now)
        self._metrics.sync_peers_failed.labels(error.code).inc()
        self._unhelpful.add(key_id)
        self._is_pruned = self._is_pruned or error.code == HISTORY_PRUNED
        if self._is_pruned and self._snapshots is not None and self._unhelpful.issuperset(self._fixed):
            self._snapshot_needed.set()

    def _drop(self, key_id: KeyId, error: RejectedError) -> None:
        """Leave a peer alone because of what it sent, and use nothing of it."""
        pause_s = self._directory.note_lie(key_id, error.code, trio.current_time())
        _log.warning(
            "peer sent blocks that do not hold and is dropped",
            peer=key_id.hex()[:16],
            code=error.code,
            message=error.message,
            for_s=round(pause_s),
        )
        self._metrics.blocks_refused.inc()
        self._metrics.sync_peers_dropped.labels(error.code).inc()
        self._unhelpful.add(key_id)
        self._plan.forget(key_id)
        if (source := self._active.get(key_id)) is not None:
            source.scope.cancel()

    async def _draw(self, source: _Source) -> None:
        key_id = source.peer.key_id
        await self._join(source)
        while not self._is_surplus(source):
            now = trio.current_time()
            if now >= source.renew_at:
                await self._join(source)
                now = trio.current_time()
            heads = [each.head for each in self._active.values() if each.is_admitted]
            certified = self._around.certified()
            job = self._plan.next_job(
                key_id,
                head=source.head,
                head_max=max(heads),
                certified=certified,
                may_wait=not self._has_nearer(source),
                now=now,
            )
            source.is_idle = job is None
            if job is None:
                await self._wait_changed()
                continue
            wait_ms = int(LONG_POLL_S * 1000) if job.end is None else 0
            blocks = await source.peer.blocks(job.start, end=job.end, bytes_max=BATCH_BYTES_MAX, wait_ms=wait_ms)
            self._plan.deliver(key_id, blocks)
            if blocks:
                source.head = max(source.head, job.start + len(blocks) - 1)
            else:
                known = max(certified, self._replica.height)
                _judge_nothing(job, source.head, known, trio.current_time() - now)
                self._directory.note_useful(key_id, trio.current_time())
            self._notify()

    async def _join(self, source: _Source) -> None:
        """Get or keep a slot.

        Raises:
            RejectedError: The answer has no good form.
            UnavailableError: No answer, or no slot.
        """
        wish = Wish(
            self._around.announce(),
            self._replica.height,
            self._around.room(),
            self.sources,
            is_stranded=self._is_stranded(),
        )
        joined = await source.peer.join(wish)
        for address in joined.offers:
            try:
                self._directory.learn(owner_of_untrusted(address), address)
            except RejectedError as error:
                _log.debug("a peer named an address that is none", peer=source.peer.name, code=error.code)
        refusal = joined.refusal
        if refusal is None and is_loop(self._around.own, (*joined.path, source.peer.key_id)):
            refusal = LOOP
        if refusal is None and len(joined.path) >= PATH_MAX:
            refusal = DEEP
        if refusal is not None:
            raise UnavailableError(refusal, "the peer does not feed this node")
        source.head, source.path = max(source.head, joined.head), joined.path
        source.renew_at = trio.current_time() + RENEW_S
        if not source.is_admitted:
            source.is_admitted = True
            _log.info("follows", peer=source.peer.name, address=source.peer.address, depth=len(joined.path) + 1)
            self._notify()

    def _is_surplus(self, source: _Source) -> bool:
        """Whether there are more sources than wanted, and this one came last of those that are not asked for what comes next."""
        if len(self._active) <= self._sources_wanted():
            return False
        spare = [each for key_id, each in self._active.items() if key_id != self._plan.tail_source]
        return bool(spare) and spare[-1] is source

    def _has_nearer(self, source: _Source) -> bool:
        """Whether a source that has nothing to do is nearer to the validators."""
        return any(each.is_idle and len(each.path) < len(source.path) for each in self._active.values())

    def _notify(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _wait_changed(self) -> None:
        with trio.move_on_after(IDLE_S):
            await self._changed.wait()

    # -- blocks ----------------------------------------------------------------------------------------------------

    async def _execute_batches(self) -> None:
        """Commit what came, in order."""
        while True:
            if self._carried:
                await self._take_from_hand(self._carried.popleft())
                self._notify()
                continue
            batch = self._plan.take()
            if batch is None:
                await self._changed.wait()
                continue
            try:
                await self._take(batch)
            except RejectedError as error:
                self._plan.go_back(self._replica.height)
                self._drop(batch.source, error)
            else:
                self._directory.note_useful(batch.source, trio.current_time())
                self._fine_at = trio.current_time()
                self._unhelpful.clear()
                self._is_pruned = False
            self._notify()

    async def _take(self, batch: Batch) -> None:
        """Execute a batch and commit it up to its highest certificate; on a refusal nothing above the last one that holds stays."""
        chain = self._replica.chain
        groups: list[tuple[list[Executed], CommitCertificate]] = []
        reached = chain.committed_height
        try:
            for item in batch.blocks[reached + 1 - batch.start :]:
                executed = await self._replica.execute_untrusted(item.block, block_hash=None, now_ms=None)
                if item.certificate is None:
                    continue
                certificate = decode_commit_certificate_untrusted(item.certificate)
                # The configuration after the block: a change of the validators is decided under itself.
                verify_block_certificate(certificate, executed.block.header, StateView(chain.tip()).configuration())
                if groups and (
                    certificate.term != groups[-1][1].term
                    or certificate.height - chain.committed_height > WRITE_BLOCKS_MAX
                ):
                    proven, groups = groups, []
                    await self._commit(proven)
                groups.append((list(chain.executed_between(reached, certificate.height)), certificate))
                reached = certificate.height
            if reached < chain.tip_height:
                raise RejectedError(
                    NO_CERTIFICATE, "a batch of blocks ends without a certificate", expected="one at its end"
                )
            if groups:  # Otherwise another way has brought all of it meanwhile.
                await self._commit(groups)
        except RejectedError:
            if chain.tip_height > reached:
                chain.take_from(reached + 1)
            if groups:
                await self._commit(groups)  # What came before it holds.
            raise
        finally:
            if chain.tip_height > chain.committed_height:
                chain.take_from(chain.committed_height + 1)

    def _adopt_term(self, term: int) -> tuple[Persist, ...]:
        """Return what must be written with blocks of `term`: nothing, or the later term of one who will vote."""
        before = self._hard_state
        if before is not None:
            self._hard_state = hard_state_after_snapshot(before, term)
        return () if self._hard_state == before else (Persist(self._hard_state),)

    async def _commit(self, groups: Sequence[tuple[list[Executed], CommitCertificate]]) -> None:
        """Write blocks of one term with their certificates, all or nothing."""
        persists = self._adopt_term(groups[-1][1].term)
        await self._replica.machine.in_thread(self._replica.commit_to_store, groups, persists, limiter=self._writing)
        blocks = [executed for group, _ in groups for executed in group]
        self._replica.committed(blocks)
        self._metrics.committed(blocks)


def _judge_nothing(job: Job, head: int, certified: int, waited_s: float) -> None:
    """Return when a source may have nothing to say.

    Args:
        job: What it was asked for.
        head: The height up to which it says it has blocks.
        certified: A height that is known to be certified.
        waited_s: How long it took.

    Raises:
        RejectedError: It has the block by its own word (`node.sync.withheld`).
        UnavailableError: It is behind (`node.sync.behind`).
    """
    if head >= job.start:
        raise RejectedError(
            WITHHELD, "a peer does not give a block that it says it has", expected=f"block {job.start}", actual=head
        )
    # A question that stayed open without a new block is what a quiet chain looks like; a quick "nothing" is a peer behind us.
    if certified >= job.start or waited_s < LONG_POLL_S / 2:
        raise UnavailableError(BEHIND, "the peer is behind what is certified")
