"""Fetching a patch file: asks peers as the plan says, writes what holds, goes on where an earlier attempt stopped.

::

    fetch ──► FetchPlan.next ──► peer: find, list, chunk ──► judged against the list ──► PartialFile ──► whole: SHA-256 ──► PatchStore
                   ▲                                            │ a lie: dropped,                            │ false: all who said
                   └────────────── found, stored, failed ◄──────┘ logged, counted                            ▼ so are dropped

Nothing of a file is asked for that the ledger does not name, and nothing is written beyond the size that the ledger gives.
Source: docs/spec/network.md 9.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog
import trio

from node.distribution.chunks import CHUNK_BYTES, ChunkList
from node.distribution.partial import PartialFile
from node.distribution.plan import FALSE_CHUNK, FALSE_LIST, SLOW, Ask, FetchPlan, Found, Kind, Tier, Verdict
from node.distribution.serving import BUSY
from node.joining import owner_of_untrusted
from node.machine import REAL_MACHINE, Machine
from node.patch_store import PatchStore
from node.sync_sources import Directory
from node.telemetry import Metrics
from wire.errors import CorruptionError, RejectedError, UnavailableError
from wire.hashing import Digest, sha256
from wire.keys import KeyId

FETCHES_MAX: Final = 2
"""Files that are fetched at a time; further ones wait."""
TICK_S: Final = 0.1
"""How often a fetch with nothing to do looks whether a pause is over."""
DONE_S: Final = 0.5
"""How long peers that gave the file may take to hear that it is here."""
TIMEOUT: Final = "node.net.timeout"
BUG: Final = "node.patch.bug"
"""Something else went wrong than a fetch knows of: with one answer, or with the whole."""
DISK_FAILURES_MAX: Final = 2
"""How often the disk may give back something else than was written to it."""

_log = structlog.get_logger("node.patches")


class FilePeer(Protocol):
    """A peer that may have the file; `node.sync.PeerLedger`."""

    key_id: KeyId
    """Its node key."""
    address: str
    """Where it is dialled."""

    @property
    def name(self) -> str:
        """The peer for people."""
        ...

    async def patch_find(self, digest: Digest, address: str | None, *, is_stranded: bool) -> Found:
        """Ask for the file and a place."""
        ...

    async def patch_list(self, digest: Digest, size: int) -> ChunkList | None:
        """Return what its chunks are."""
        ...

    async def patch_chunk(self, digest: Digest, number: int) -> bytes | None:
        """Return a chunk."""
        ...

    async def patch_done(self, digest: Digest, *, has_file: bool) -> None:
        """Say that no more is asked for."""
        ...


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Whom to ask."""

    near: Sequence[FilePeer]
    """Hosts that this node follows."""
    fixed: Sequence[FilePeer]
    """Configured peers and validators."""
    far: Sequence[FilePeer] = ()
    """Other hosts that it has heard of."""


@dataclass(eq=False, slots=True)
class _Job:
    """One file that is being fetched."""

    digest: Digest
    size: int
    plan: FetchPlan
    partial: PartialFile
    peers: dict[KeyId, FilePeer] = field(default_factory=dict)
    changed: trio.Event = field(default_factory=trio.Event)
    writing: trio.Lock = field(default_factory=trio.Lock)
    error: UnavailableError | None = None
    """Why the disk did not take a chunk."""


@dataclass(eq=False, slots=True)
class _Turn:
    lock: trio.Lock = field(default_factory=trio.Lock)
    waiting: int = 0


class PatchFetcher:
    """Fetches files into one node's store.

    Args:
        own: This node.
        store: Where they go.
        neighbours: Returns whom to ask.
        connect: Returns the way to ask somebody who was named.
        announced: Returns where others may find this node, or None.
        make_room: Returns when so many bytes may be kept, or raises.
        metrics: What is counted.
        machine: Threads.
    """

    def __init__(
        self,
        own: KeyId,
        store: PatchStore,
        *,
        neighbours: Callable[[], Neighbours],
        connect: Callable[[KeyId, str], FilePeer],
        announced: Callable[[], str | None],
        make_room: Callable[[int], Awaitable[None]],
        metrics: Metrics,
        machine: Machine = REAL_MACHINE,
    ) -> None:
        self._own = own
        self._store = store
        self._neighbours = neighbours
        self._connect = connect
        self._announced = announced
        self._make_room = make_room
        self._metrics = metrics
        self._machine = machine
        self._received = metrics.patch_bytes.labels("received")
        self._directory = Directory(own)
        self._turns: dict[Digest, _Turn] = {}
        self._jobs: dict[Digest, _Job] = {}
        self._limiter = trio.CapacityLimiter(FETCHES_MAX)

    def progress(self, digest: Digest) -> int | None:
        """Return how many chunks are here of a file that somebody gives this node now; None when nobody does.

        Who only looks for a file itself must not be waited for: hosts that begin at the same moment would wait for each other.
        """
        job = self._jobs.get(digest)
        return None if job is None or not job.plan.givers else len(job.plan.have)

    def bytes_here(self, digest: Digest) -> int | None:
        """Return how much is here of a file that is being fetched now, bytes, or None when it is not."""
        job = self._jobs.get(digest)
        return None if job is None else min(job.size, len(job.plan.have) * CHUNK_BYTES)

    def is_fetching(self, digest: Digest) -> bool:
        """Return whether somebody here waits for the file now."""
        return digest in self._turns

    def document(self) -> dict[str, Any]:
        """Return what is being fetched, and whom this node has dropped, for the status document."""
        now = trio.current_time()
        return {
            "fetching": [
                {
                    "file_digest": digest.hex(),
                    "file_bytes": job.size,
                    "chunks": job.plan.count,
                    "chunks_here": len(job.plan.have),
                    "sources": [key_id.hex() for key_id in job.plan.givers],
                }
                for digest, job in self._jobs.items()
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

    async def fetch(self, digest: Digest, size: int) -> bool:
        """Return whether the file is here now, after peers were asked for it.

        Args:
            digest: SHA-256 of the file, as the ledger says.
            size: Its bytes, as the ledger says.

        Raises:
            RejectedError: ``node.patch.store_full``.
            UnavailableError: ``node.patch.write_failed``, ``node.patch.bug``.
        """
        turn = self._turns.setdefault(digest, _Turn())
        turn.waiting += 1
        try:
            # One at a time for each file: whoever waited finds it here, or goes on where the other one had to stop.
            async with turn.lock, self._limiter:
                return self._store.has(digest) or await self._fetch(digest, size)
        except (RejectedError, UnavailableError):
            raise
        except (
            Exception
        ) as error:  # the outermost border of one file: a bug costs this file, not the node that wants it
            if _is_corruption(error):
                raise
            _log.exception("fetching a patch file met a bug", file=digest.hex())
            raise UnavailableError(
                BUG, f"fetching the patch file met a bug ({type(error).__name__}); the node's log has the trace"
            ) from error
        finally:
            turn.waiting -= 1
            if not turn.waiting:
                del self._turns[digest]

    async def _fetch(self, digest: Digest, size: int) -> bool:
        await self._make_room(size)
        begun = trio.current_time()
        partial = await self._machine.in_thread(self._store.open_partial, digest, size)
        try:
            plan = FetchPlan(self._own, digest, size, trio.current_time())
            job = self._jobs[digest] = _Job(digest, size, plan, partial)
            if plan.chunks is not None:
                await self._machine.in_thread(partial.follow, plan.chunks)
            elif partial.chunks is not None:
                plan.resume(partial.chunks)
            plan.note_here(partial.have)
            resumed = len(plan.have)
            self._add_neighbours(job)
            is_here = False
            try:
                is_here = await self._gather_and_check(job)
            finally:
                with trio.CancelScope(shield=True):
                    await self._say_done(job, is_here)
            if is_here:
                seconds = round(trio.current_time() - begun, 3)
                _log.info("patch file fetched", file=digest.hex(), bytes=size, resumed=resumed, seconds=seconds)
            return is_here
        finally:
            self._jobs.pop(digest, None)
            partial.close()
            if not partial.have:
                self._store.forget_partial(digest)

    def _add_neighbours(self, job: _Job) -> None:
        neighbours = self._neighbours()
        self._directory.set_fixed({peer.key_id: peer.address for peer in neighbours.fixed})
        for peer in neighbours.fixed:
            self._add(job, peer, Tier.FIXED)
        for peer in neighbours.near:
            self._add(job, peer, Tier.NEAR)
        for peer in neighbours.far:
            self._add(job, peer, Tier.FAR)

    def _add(self, job: _Job, peer: FilePeer, tier: Tier) -> None:
        if self._directory.is_dropped(peer.key_id, trio.current_time()):
            return
        if job.plan.add_peer(peer.key_id, tier, trio.current_time()):
            job.peers[peer.key_id] = peer

    # -- chunks ----------------------------------------------------------------------------------------------------

    async def _gather_and_check(self, job: _Job) -> bool:
        """Return whether the file is here; who has led to another one is dropped, and the rest is asked again."""
        disk_failures = 0
        while await self._gather(job):
            found, chunks = await self._machine.in_thread(job.partial.measure)
            if found == job.digest:
                await self._machine.in_thread(self._store.adopt, job.partial, job.digest, chunks)
                return True
            followed = job.plan.chunks
            assert followed is not None, "every chunk is here"
            lost = {each for each in job.plan.have if chunks.digests[each] != followed.digests[each]}
            if not lost:
                for key_id in job.plan.refute(trio.current_time()):
                    self._drop(job, key_id, FALSE_LIST)
                continue
            disk_failures += 1
            if disk_failures > DISK_FAILURES_MAX:
                raise UnavailableError(
                    "node.patch.write_failed", "the disk does not keep what is written to it", hint="check the disk"
                )
            job.plan.note_lost(lost)
            await self._machine.in_thread(job.partial.forget, lost)
        return False

    async def _gather(self, job: _Job) -> bool:
        """Return whether every chunk is here; False when nobody gives the rest."""
        try:
            async with trio.open_nursery() as nursery:
                while job.error is None and not job.plan.is_complete and not job.plan.is_hopeless(trio.current_time()):
                    while (ask := job.plan.next(trio.current_time())) is not None:
                        nursery.start_soon(self._carry_out, job, ask)
                    job.changed = trio.Event()
                    with trio.move_on_after(TICK_S):
                        await job.changed.wait()
                nursery.cancel_scope.cancel()
        finally:
            job.plan.abandon()
        if job.error is not None:
            raise job.error
        return job.plan.is_complete

    async def _carry_out(self, job: _Job, ask: Ask) -> None:
        """Ask one question, and tell the plan what became of it."""
        peer = job.peers[ask.peer]
        try:
            if ask.kind is Kind.FIND:
                await self._find(job, peer, ask)
            elif ask.kind is Kind.LIST:
                await self._list(job, peer, ask)
            else:
                await self._chunk(job, peer, ask)
        except UnavailableError as error:
            self._note_failed(job, ask, error.code)
        except RejectedError as error:
            # What a peer refuses is no error of this family (`PeerLedger`): its answer does not have its form.
            job.plan.note_failed(ask, trio.current_time())
            job.plan.note_lie(ask.peer)
            self._drop(job, ask.peer, error.code)
        except CorruptionError:
            raise
        except Exception:  # noqa: BLE001 - the outermost border of one answer: a bug that a peer finds costs that peer, and proves nothing
            _log.exception("an answer about a patch file met a bug", peer=peer.name, file=job.digest.hex())
            job.plan.note_failed(ask, trio.current_time())
            job.plan.leave_out(ask.peer)
            self._report(job, ask.peer, BUG)
        finally:
            job.changed.set()

    async def _find(self, job: _Job, peer: FilePeer, ask: Ask) -> None:
        found = await peer.patch_find(job.digest, self._announced(), is_stranded=ask.is_stranded)
        code = job.plan.note_found(ask.peer, found, trio.current_time())
        if code is not None:
            self._drop(job, ask.peer, code)
            return
        for address in found.offers:
            try:
                key_id = owner_of_untrusted(address)
            except RejectedError:
                continue
            self._add(job, self._connect(key_id, address), Tier.NAMED)

    async def _list(self, job: _Job, peer: FilePeer, ask: Ask) -> None:
        chunks = await peer.patch_list(job.digest, job.size)
        async with job.writing:
            code = job.plan.note_list(ask.peer, chunks, trio.current_time())
            if code is not None:
                self._drop(job, ask.peer, code)
            elif chunks is not None and job.plan.chunks == chunks:
                job.plan.note_here(job.partial.kept_under(chunks))
                await self._to_disk(job, job.partial.follow, chunks)

    async def _chunk(self, job: _Job, peer: FilePeer, ask: Ask) -> None:
        data = await peer.patch_chunk(job.digest, ask.number)
        if data is None:
            self._note_failed(job, ask, "node.patch.gone")
            return
        self._received.inc(len(data))
        verdict = job.plan.judge(ask.peer, ask.number, sha256(data), len(data))
        if verdict is Verdict.LIE:
            self._drop(job, ask.peer, FALSE_CHUNK)
        elif verdict is Verdict.IGNORE:
            job.plan.note_ignored(ask.peer, ask.number)
        else:
            async with job.writing:
                if job.error is None:  # Else the list that the chunk belongs to may not be on disk.
                    await self._to_disk(job, job.partial.write, ask.number, data)
            if job.error is None:
                for slow in job.plan.note_stored(ask.peer, ask.number, trio.current_time()):
                    self._report(job, slow, SLOW)

    async def _to_disk(self, job: _Job, change: Callable[..., None], *arguments: object) -> None:
        try:
            await self._machine.in_thread(change, *arguments)
        except UnavailableError as error:
            job.error = error

    # -- who does not help -----------------------------------------------------------------------------------------

    def _note_failed(self, job: _Job, ask: Ask, code: str) -> None:
        if job.plan.note_failed(ask, trio.current_time(), is_busy=code == BUSY, is_late=code == TIMEOUT):
            self._report(job, ask.peer, code)

    def _report(self, job: _Job, key_id: KeyId, code: str) -> None:
        """Say that a peer is left alone for a while by this fetch; nothing is proven against it."""
        self._metrics.patch_peers_dropped.labels(code).inc()
        peer = job.peers[key_id]
        _log.info(
            "peer does not give a patch file", peer=peer.name, address=peer.address, file=job.digest.hex(), code=code
        )

    def _drop(self, job: _Job, key_id: KeyId, code: str) -> None:
        """Leave a peer alone for a while that has broken its word."""
        peer = job.peers[key_id]
        self._directory.learn(key_id, peer.address)
        pause_s = self._directory.note_lie(key_id, code, trio.current_time())
        self._metrics.patch_peers_dropped.labels(code).inc()
        _log.warning(
            "peer sent a patch file that does not hold and is dropped",
            peer=peer.name,
            address=peer.address,
            file=job.digest.hex(),
            code=code,
            for_s=pause_s,
        )

    async def _say_done(self, job: _Job, is_here: bool) -> None:
        """Free the places that this node holds."""

        async def say(peer: FilePeer) -> None:
            try:
                await peer.patch_done(job.digest, has_file=is_here)
            except (UnavailableError, RejectedError) as error:
                _log.debug("a peer does not hear that the file is here", peer=peer.name, code=error.code)

        with trio.move_on_after(DONE_S):
            async with trio.open_nursery() as nursery:
                for key_id in job.plan.givers:
                    nursery.start_soon(say, job.peers[key_id])


def _is_corruption(error: Exception) -> bool:
    """Return whether the node must stop: what it holds itself is damaged."""
    if isinstance(error, ExceptionGroup):
        return error.subgroup(CorruptionError) is not None
    return isinstance(error, CorruptionError)
