"""Snapshots between nodes: serving them, fetching one, and beginning anew from it.

====================  ===================================================  ==========================================================
method                request                                              response
====================  ===================================================  ==========================================================
snapshot.offer        (lowest height that helps)                           manifest (bytes), or nil when there is none yet
snapshot.chunk        (SHA-256 of a chunk)                                 the chunk (bytes), or nil when it is not here
====================  ===================================================  ==========================================================

A snapshot is believed because of the certificate in its manifest and the state root that its rows lead to, whoever sent it. Chunks are
asked for by their digest, so they may come from any node that made a snapshot at that height, and one that is here already is not asked
for again, also after a restart. `SnapshotClient.fetch` fills a new database beside the one in use, which may take minutes and changes
nothing; `install_snapshot` then puts it in place in one step. The network goes on meanwhile: what would help is asked again and again
(`Demand`), and who serves keeps what is being fetched for a while (`SnapshotServer.fetched`).

Source: docs/spec/network.md 5, docs/spec/storage.md 8.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
import trio

from consensus.effects import HardState, hard_state_after_snapshot
from ledger.configuration import Configuration
from ledger.genesis import Genesis, genesis_block
from ledger.keyspace import height_key
from ledger.limits import SNAPSHOT_CHUNK_BYTES_MAX
from ledger.snapshot import SnapshotManifest, decode_manifest_untrusted, verify_manifest
from ledger.snapshot_install import SnapshotInstaller
from node.errors import SnapshotUnavailableError
from node.machine import REAL_MACHINE, Machine
from node.storage.block_store import BlockStore, as_rows, encode_hard_state, encode_log_term, encode_log_tip
from node.storage.database import DatabaseError
from node.storage.leveldb import SPACE_RESERVE_BYTES, Store
from node.storage.snapshot_files import IncomingFiles, IncomingSnapshot, SnapshotFiles, StoredSnapshot
from node.storage.tables import ONLY_KEY, TABLE_HARD_STATE, TABLE_LOG_TERM, TABLE_LOG_TIP
from node.sync import SNAPSHOT_CHUNK, SNAPSHOT_OFFER
from wire.certificate import CommitCertificate
from wire.codec import decode_untrusted, encode
from wire.errors import CorruptionError, RejectedError, UnavailableError
from wire.fields import as_digest, as_int, as_tuple
from wire.hashing import Digest
from wire.keys import KeyId

if TYPE_CHECKING:
    from node.net.network import Network
    from node.replica import LedgerReplica
    from node.storage.database import Database
    from node.sync import PeerLedger

READS_MAX: Final = 2
"""Chunks that are read from the disk at once, for all peers together; each is up to `SNAPSHOT_CHUNK_BYTES_MAX` in memory."""
ROUNDS: Final = 10
"""How often all peers are asked before a fetch gives up; a peer that has no snapshot yet begins to make one."""
ROUND_PAUSE_S: Final = 1.0
FILLED_FACTOR: Final = 3
"""Bytes on disk for each byte of a snapshot while it is installed: the chunks, the rows, and the state tree over them."""
FETCHERS_MAX: Final = 1024
"""Peers remembered that fetch chunks; the one that has not asked for the longest time is forgotten."""
FETCH_LIVE_S: Final = 10.0
"""Whoever was offered a snapshot or has asked for a chunk within this time, and as long again as it has been fetching, still fetches, or
fills its database."""
FETCH_HOLD_S: Final = 900.0
"""How long a snapshot, and the blocks above it, are kept for somebody who fetches."""
_REQUEST_BYTES_MAX: Final = 256

_log = structlog.get_logger("node.snapshots")


class SnapshotServer:
    """Answers peers from the snapshots that this node has.

    Args:
        files: The snapshots.
        want: Told the lowest height that would help somebody for whom there is none here.
        machine: Threads.
    """

    def __init__(self, files: SnapshotFiles, want: Callable[[int], None], machine: Machine = REAL_MACHINE) -> None:
        self._files = files
        self._want = want
        self._machine = machine
        self._reading = trio.CapacityLimiter(READS_MAX)
        self._fetching: OrderedDict[KeyId, _Fetching] = OrderedDict()

    def fetched(self) -> dict[KeyId, int]:
        """Return who is fetching a snapshot from here, and its height; not those that have taken `FETCH_HOLD_S` for it."""
        now = trio.current_time()
        return {
            peer: fetching.height
            for peer, fetching in self._fetching.items()
            if now - fetching.asked <= FETCH_LIVE_S + (fetching.asked - fetching.begun)
            and now - fetching.begun <= FETCH_HOLD_S
        }

    def _note_fetching(self, peer: KeyId, height: int) -> None:
        now = trio.current_time()
        before = self._fetching.pop(peer, None)
        begun = now if before is None or before.height != height else before.begun
        self._fetching[peer] = _Fetching(height, begun, now)
        if len(self._fetching) > FETCHERS_MAX:
            self._fetching.popitem(last=False)

    def register(self, network: Network) -> None:
        """Answer the methods of this module on `network`."""
        network.handle(SNAPSHOT_OFFER, self.offer)
        network.handle(SNAPSHOT_CHUNK, self.chunk)

    async def offer(self, peer: KeyId, payload: bytes) -> bytes:
        """Return the newest manifest if it is high enough; otherwise let one be made."""
        (height_min,) = as_tuple(decode_untrusted(payload, bytes_max=_REQUEST_BYTES_MAX), "request", length=1)
        wanted = as_int(height_min, "height_min", 1)
        newest: StoredSnapshot | None = self._files.newest
        if newest is None or newest.height < wanted:
            self._want(wanted)
            return encode(None)
        self._note_fetching(peer, newest.height)
        return encode(newest.manifest_raw)

    async def chunk(self, peer: KeyId, payload: bytes) -> bytes:
        """Return a chunk by its digest."""
        (value,) = as_tuple(decode_untrusted(payload, bytes_max=_REQUEST_BYTES_MAX), "request", length=1)
        digest = as_digest(value, "chunk digest")
        height = self._files.height_of(digest)
        if height is not None:
            self._note_fetching(peer, height)
        return encode(await self._machine.in_thread(self._files.chunk, digest, limiter=self._reading))


@dataclass(frozen=True, slots=True)
class _Fetching:
    """A peer that fetches the snapshot at `height`: when it began, and when it last asked for a chunk."""

    height: int
    begun: float
    asked: float


@dataclass(frozen=True, slots=True)
class Demand:
    """Which snapshot helps. Asked again and again, because the network goes on while one is fetched."""

    height_min: Callable[[], int | None]
    """Returns the least height that helps now; None when no snapshot is needed any more."""
    accepts: Callable[[SnapshotManifest], bool] = lambda _: True
    """Whether this one, which is high enough and verified, may be installed here as far as can be told now."""


def at_least(height: int) -> Demand:
    """Return the demand for any snapshot at `height` or above."""
    return Demand(lambda: height)


@dataclass(frozen=True, slots=True)
class FilledSnapshot:
    """A verified snapshot in a database of its own, ready to take the place of the one in use."""

    manifest: SnapshotManifest
    database: Database
    configuration: Configuration
    incoming: IncomingSnapshot
    """What it was made from; of no use when it is installed."""

    @property
    def height(self) -> int:
        """The height of its state."""
        return self.manifest.height

    @property
    def term(self) -> int:
        """The term of its block."""
        return self.manifest.header.term

    @property
    def block_hash(self) -> Digest:
        """The hash of its block."""
        return self.manifest.certificate.block_hash

    @property
    def certificate(self) -> CommitCertificate:
        """The certificate of its block; verified."""
        return self.manifest.certificate


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far a fetch is."""

    height: int
    chunks: int
    """How many there are."""
    chunks_here: int


@dataclass(slots=True)
class _Search:
    """What one call of `SnapshotClient.fetch` has learnt."""

    demand: Demand
    failures: Counter[Digest]
    """How often the chunks of a snapshot, by its id, could not be had."""
    above: int = 0
    """The greatest height of an offer that holds and does not help: peers are asked for something later."""

    def is_high_enough(self, manifest: SnapshotManifest) -> bool:
        height_min = self.demand.height_min()
        return height_min is not None and manifest.height >= height_min

    def helps(self, manifest: SnapshotManifest) -> bool:
        return self.is_high_enough(manifest) and self.demand.accepts(manifest)


class SnapshotClient:
    """Fetches snapshots for `store`; one at a time.

    Args:
        store: The store in use.
        genesis: The founding document.
        peers: Returns whom to ask.
        machine: Time and threads.
        incoming: Where to keep what is being fetched; by default in the store's directory.
    """

    def __init__(
        self,
        store: Store,
        genesis: Genesis,
        peers: Callable[[], Sequence[PeerLedger]],
        machine: Machine = REAL_MACHINE,
        incoming: IncomingFiles | None = None,
    ) -> None:
        self._store = store
        self._genesis = genesis
        self._peers = peers
        self._machine = machine
        self._incoming = IncomingFiles(store.path) if incoming is None else incoming
        self._condemned: set[Digest] = set()
        self.progress: FetchProgress | None = None
        """The fetch under way; None when there is none."""

    async def fetch(self, demand: Demand) -> FilledSnapshot:
        """Return a snapshot that meets `demand`, verified and in a new database; nothing in use has changed.

        What was fetched before an interruption is used again. One that is of no use any more, because the network went on, is given up for
        a later one.

        Raises:
            SnapshotUnavailableError: ``node.snapshot.none`` (no peer has one that holds), ``node.snapshot.no_space``,
                ``node.snapshot.write_failed``, ``node.snapshot.not_needed``.
        """
        search = _Search(demand, Counter())
        try:
            for number in range(ROUNDS):
                if number:
                    await self._machine.sleep(ROUND_PAUSE_S)
                height_min = demand.height_min()
                if height_min is None:
                    await self.forget_incoming()
                    raise SnapshotUnavailableError("node.snapshot.not_needed", "no snapshot is needed any more")
                manifest = await self._choose(search, height_min)
                if manifest is not None and (filled := await self._fetch(manifest, search)) is not None:
                    return filled
        finally:
            self.progress = None
        raise SnapshotUnavailableError(
            "node.snapshot.none",
            "no peer has given a snapshot that helps",
            hint="see that a peer is reachable that is ahead of this node",
        )

    async def forget_incoming(self, height_max: int | None = None) -> None:
        """Remove what was fetched of a snapshot, if it is at `height_max` or below: it is of no use then."""
        begun = await self._machine.in_thread(self._incoming.find)
        if begun is not None and (height_max is None or begun.height <= height_max):
            await self._machine.in_thread(self._incoming.open(begun).remove)

    async def _fetch(self, manifest: SnapshotManifest, search: _Search) -> FilledSnapshot | None:
        """Fetch this snapshot and fill a database with it; None when that did not work."""
        incoming = self._incoming.open(manifest)
        try:
            self._check_space(manifest)
            await self._machine.in_thread(incoming.begin)
            if not await self._fetch_chunks(incoming, search):
                # Somebody may have it later, so what is here stays; but anything else that is offered comes first now.
                search.failures[manifest.snapshot_id] += 1
                return None
            filled = await self._fill(incoming, search)
        except RejectedError as error:
            _log.warning("snapshot does not hold", height=manifest.height, code=error.code, message=error.message)
            self._condemned.add(manifest.snapshot_id)
            await self._machine.in_thread(incoming.remove)
            return None
        if filled is not None and not search.helps(manifest):
            _log.info("a later snapshot is needed by now", height=manifest.height)
            await self.discard(filled)
            return None
        return filled

    async def _fill(self, incoming: IncomingSnapshot, search: _Search) -> FilledSnapshot | None:
        """Fill a new database; None when a chunk was damaged meanwhile, or the snapshot is of no use any more.

        Step by step, so that a node that stops need not wait for the end of it. What is left of it then goes at the next start.
        """
        manifest, in_thread = incoming.manifest, self._machine.in_thread
        filling = await in_thread(_Filling, self._store, self._genesis, incoming)
        try:
            for _ in manifest.chunk_digests:
                if not search.helps(manifest) or not await in_thread(filling.feed):
                    await in_thread(self._store.discard, filling.database)
                    return None
            return await in_thread(filling.finish)
        except Exception:
            await in_thread(self._store.discard, filling.database)
            raise

    async def discard(self, filled: FilledSnapshot) -> None:
        """Forget a snapshot that was fetched and will not be installed, with everything of it on disk."""

        def remove() -> None:
            self._store.discard(filled.database)
            filled.incoming.remove()

        await self._machine.in_thread(remove)

    async def _choose(self, search: _Search, height_min: int) -> SnapshotManifest | None:
        """Return the manifest of the snapshot to fetch: one that was begun, otherwise the highest that a peer offers and that holds.

        Those whose chunks could not be had so far come last.
        """
        begun = await self._machine.in_thread(self._incoming.find)
        if begun is not None and not search.failures[begun.snapshot_id] and self._is_good(begun, search):
            return begun
        offers = [] if begun is None else [begun]
        for peer in self._peers():
            try:
                raw = await peer.snapshot_offer(max(height_min, search.above + 1))
                if raw is not None:
                    offers.append(await self._machine.in_thread(decode_manifest_untrusted, raw))
            except (UnavailableError, RejectedError) as error:
                _log.info("peer offers no snapshot", peer=peer.name, code=error.code)
        for offer in sorted(offers, key=lambda each: (search.failures[each.snapshot_id], -each.height)):
            if self._is_good(offer, search):
                return offer
        return None

    def _is_good(self, manifest: SnapshotManifest, search: _Search) -> bool:
        if not search.is_high_enough(manifest) or manifest.snapshot_id in self._condemned:
            return False
        try:
            verify_manifest(manifest, self._genesis)
        except RejectedError as error:
            _log.warning("snapshot refused", height=manifest.height, code=error.code, message=error.message)
            self._condemned.add(manifest.snapshot_id)
            return False
        if not search.demand.accepts(manifest):
            search.above = max(search.above, manifest.height)
            return False
        return True

    def _check_space(self, manifest: SnapshotManifest) -> None:
        needed = FILLED_FACTOR * manifest.bytes_total + SPACE_RESERVE_BYTES
        free = self._store.free_bytes()
        if free < needed:
            raise SnapshotUnavailableError(
                "node.snapshot.no_space",
                "the disk has no room for a snapshot",
                hint="free space on the node's disk",
                expected=f"{needed} bytes",
                actual=f"{free} bytes",
            )

    async def _fetch_chunks(self, incoming: IncomingSnapshot, search: _Search) -> bool:
        """Fetch what is missing; return whether everything is here. When it is not, no peer has given the rest, or it is not needed."""
        missing = await self._machine.in_thread(incoming.missing)
        manifest = incoming.manifest
        count = len(manifest.chunk_digests)
        _log.info("fetching a snapshot", height=manifest.height, chunks=count, missing=len(missing))
        peers = list(self._peers())
        for fetched, number in enumerate(missing):
            self.progress = FetchProgress(manifest.height, count, count - len(missing) + fetched)
            if not search.helps(manifest):
                _log.info("a later snapshot is needed by now", height=manifest.height)
                return False
            for peer in list(peers):
                if await self._fetch_chunk(incoming, number, peer):
                    break
                # Whoever lacks one chunk has most likely another snapshot; the others are asked first from now on.
                peers.remove(peer)
                peers.append(peer)
            else:
                return False
        return True

    async def _fetch_chunk(self, incoming: IncomingSnapshot, number: int, peer: PeerLedger) -> bool:
        digest = incoming.manifest.chunk_digests[number]
        try:
            data = await peer.snapshot_chunk(digest, SNAPSHOT_CHUNK_BYTES_MAX)
        except (UnavailableError, RejectedError) as error:
            _log.info("peer gives no chunk", peer=peer.name, chunk=number, code=error.code)
            return False
        return data is not None and await self._machine.in_thread(incoming.put, number, data)


class _Filling:
    """A new database that is being filled with what was fetched, one chunk after the other. Everything here blocks."""

    def __init__(self, store: Store, genesis: Genesis, incoming: IncomingSnapshot) -> None:
        self._genesis = genesis
        self._incoming = incoming
        self._chunks = incoming.chunks()
        try:
            self.database = store.new_database()
        except CorruptionError as error:
            # A disk without room, most likely. The store in use has nothing to do with it.
            raise SnapshotUnavailableError("node.snapshot.write_failed", error.message, hint=error.hint) from error
        self._installer = SnapshotInstaller(incoming.manifest, genesis, self.database)

    def feed(self) -> bool:
        """Put the next chunk in; return False when its file was damaged meanwhile."""
        chunk = next(self._chunks)
        if chunk is not None:
            _write(self.database, as_rows(self._installer.feed_untrusted(chunk)))
        return chunk is not None

    def finish(self) -> FilledSnapshot:
        """Return the full database, everything in it having been proven."""
        manifest = self._incoming.manifest
        _write(self.database, as_rows(self._installer.finish()) | snapshot_log_rows(self._genesis, manifest))
        return FilledSnapshot(manifest, self.database, manifest.configuration.configuration, self._incoming)


def _write(database: Database, rows: Mapping[tuple[int, bytes], bytes | None]) -> None:
    try:
        database.write(rows)
    except DatabaseError as error:
        raise SnapshotUnavailableError(
            "node.snapshot.write_failed",
            f"writing to {database.path} failed: {error}",
            hint="check the disk and its free space",
        ) from error


def snapshot_log_rows(genesis: Genesis, manifest: SnapshotManifest) -> dict[tuple[int, bytes], bytes | None]:
    """Return the rows that make the snapshot's block the end of the log, committed."""
    header = manifest.header
    block_hash = header.hash()
    return {
        (TABLE_LOG_TERM, height_key(0)): encode_log_term(0, genesis_block(genesis)[0].block_hash),
        (TABLE_LOG_TERM, height_key(header.height)): encode_log_term(header.term, block_hash),
        (TABLE_LOG_TIP, ONLY_KEY): encode_log_tip(header.height, block_hash, header.height, block_hash),
    }


async def install_snapshot(
    replica: LedgerReplica, filled: FilledSnapshot, hard_state: HardState | None, writing: trio.CapacityLimiter
) -> None:
    """Let `replica` be at the snapshot's height, in one durable step; its log ends there. What was fetched can be forgotten then.

    The caller sees to it that nothing is being executed or written until this returns: a validator between two steps of its core, with no
    work waiting, after `consensus.core.Replica.needs_snapshot` allowed it (`consensus.effects` rule 9); an observer between two batches.

    Args:
        replica: The replica over the store for which the snapshot was fetched.
        filled: What `SnapshotClient.fetch` returned.
        hard_state: A validator's, as it is on disk; it is kept, in a later term if the snapshot's block is of one. None for an observer.
        writing: The one that admits the node's writing thread.

    Raises:
        StorageFailedError: ``node.storage.write_failed``; the node must stop.
        SnapshotUnavailableError: ``node.snapshot.write_failed``: nothing has changed.
    """
    await replica.machine.in_thread(_switch, replica.store, filled, hard_state, limiter=writing)
    replica.restart()
    _log.warning("began anew from a snapshot", height=filled.height, block_hash=filled.block_hash.hex())


def _switch(target: Store | BlockStore, filled: FilledSnapshot, hard_state: HardState | None) -> None:
    if hard_state is not None:
        kept = hard_state_after_snapshot(hard_state, filled.term)
        _write(filled.database, {(TABLE_HARD_STATE, ONLY_KEY): encode_hard_state(kept)})
    target.switch(filled.database)


def install_offline(store: Store, filled: FilledSnapshot, hard_state: HardState | None = None) -> None:
    """Let a store that nobody uses begin at the snapshot's height, in one durable step. Blocking.

    Args:
        store: The store for which the snapshot was fetched.
        filled: What `SnapshotClient.fetch` returned.
        hard_state: A validator's; see `install_snapshot`.

    Raises:
        StorageFailedError: ``node.storage.write_failed``.
        SnapshotUnavailableError: ``node.snapshot.write_failed``: nothing has changed.
    """
    _switch(store, filled, hard_state)
    filled.incoming.remove()
