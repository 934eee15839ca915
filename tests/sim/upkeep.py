"""What a node does for its store beside consensus, on a simulated disk: snapshots, pruning, scrubbing, and repair before a start.

The classes that decide are production code (`node.history`, `node.snapshots`, `node.scrub`, `node.storage.rebuild`); what stands here is
where files would lie, and the order in which `node.upkeep` and `node.prepare` put these parts together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from ledger.checkpoint import SplitView
from ledger.genesis import Genesis, genesis_block
from ledger.snapshot import SnapshotBuilder, SnapshotManifest, decode_manifest_untrusted
from ledger.trust import TrustedHead
from node.checkpoint_watch import HIGHEST, CheckpointWatch
from node.errors import SnapshotUnavailableError, StorageError
from node.history import HistoryKeeper
from node.machine import Machine
from node.prepare import make_anew
from node.room import lead_only_with_room
from node.scrub import Scrubber
from node.snapshots import SnapshotClient, SnapshotServer
from node.storage.snapshot_files import IncomingSnapshot, SnapshotFiles, StoredSnapshot
from node.storage.verify import StoreFinding, verify_store
from node.sync import CertifiedBlock, PeerLedger, SyncServer, certified_blocks
from tests.sim.disk import SimDisk, SimStore
from tests.sim.errors import ViolationError
from wire.errors import CorruptionError, UnavailableError
from wire.hashing import Digest, sha256

if TYPE_CHECKING:
    from tests.sim.node import Process, SimNode


class SimSnapshotFiles(SnapshotFiles):
    """The snapshots that a machine serves, on its disk."""

    def __init__(self, disk: SimDisk) -> None:
        super().__init__(Path("/simulated") / disk.name)
        self._disk = disk

    def open(self) -> None:
        self._snapshots = [self._stored(height) for height in sorted(self._disk.snapshots)]

    def make(self, reader: object, pause: Callable[[], None] = lambda: None) -> StoredSnapshot:  # type: ignore[override]
        del pause
        builder = SnapshotBuilder(reader)  # type: ignore[arg-type]
        chunks = tuple(builder.chunks())
        manifest = decode_manifest_untrusted(builder.manifest().encode())
        _demand_room(self._disk)
        self._disk.snapshots[manifest.height] = manifest, chunks
        made = self._stored(manifest.height)
        self._snapshots = [each for each in self._snapshots if each.height < made.height] + [made]
        return made

    def forget_old(self, fetched: Collection[int] = ()) -> None:
        super().forget_old(fetched)
        kept = {each.height for each in self._snapshots}
        self._disk.snapshots = {height: each for height, each in self._disk.snapshots.items() if height in kept}

    def chunk(self, digest: Digest) -> bytes | None:
        for manifest, chunks in self._disk.snapshots.values():
            if digest in manifest.chunk_digests:
                return chunks[manifest.chunk_digests.index(digest)]
        return None

    def _stored(self, height: int) -> StoredSnapshot:
        manifest, _ = self._disk.snapshots[height]
        return StoredSnapshot(self._path / str(height), manifest, manifest.encode())


class SimIncomingFiles:
    """Where a machine keeps what it is fetching: `node.storage.snapshot_files.IncomingFiles`."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk

    def find(self) -> SnapshotManifest | None:
        return next((manifest for manifest, _ in self._disk.incoming.values()), None)

    def open(self, manifest: SnapshotManifest) -> SimIncomingSnapshot:
        return SimIncomingSnapshot(self._disk, manifest)


class SimIncomingSnapshot(IncomingSnapshot):
    """One snapshot that is being fetched."""

    def __init__(self, disk: SimDisk, manifest: SnapshotManifest) -> None:
        self.manifest = manifest
        self._id = manifest.snapshot_id
        self._disk = disk

    def begin(self) -> None:
        _demand_room(self._disk)
        self._disk.incoming = {self._id: self._disk.incoming.get(self._id, (self.manifest, {}))}

    def missing(self) -> list[int]:
        return [number for number, chunk in enumerate(self.chunks()) if chunk is None]

    def put(self, number: int, data: bytes) -> bool:
        if sha256(data) != self.manifest.chunk_digests[number]:
            return False
        _demand_room(self._disk)
        self._disk.incoming[self._id][1][number] = data
        return True

    def chunks(self) -> Iterator[bytes | None]:
        _, here = self._disk.incoming.get(self._id, (None, {}))
        for number in range(len(self.manifest.chunk_digests)):
            yield here.get(number)

    def remove(self) -> None:
        self._disk.incoming.pop(self._id, None)


def _demand_room(disk: SimDisk) -> None:
    if disk.is_full or disk.sync_fails:
        raise SnapshotUnavailableError("node.snapshot.write_failed", "writing a snapshot failed: input/output error")


class SimCheckpointWatch(CheckpointWatch):
    """Compares what others hold to be certified, and keeps the highest on the machine's disk. There is never anything to report."""

    def __init__(self, process: Process) -> None:
        self._disk = process.node.disk
        super().__init__(
            process.replica,
            TrustedHead.founding(process.node.world.genesis),
            Path("/simulated") / self._disk.name,
            peers=process.peer_ledgers,
            report=self._find_fault,
            is_lost=lambda: process.validator is not None and process.validator.status.leader is None,
            on_ahead=lambda: None if process.validator is None else process.link_validators(),
        )

    def load(self) -> None:
        if self._disk.checkpoint is not None:
            self._restore(self._disk.checkpoint)

    def _keep(self, name: str, data: bytes) -> None:
        if name == HIGHEST and not (self._disk.is_full or self._disk.sync_fails):
            self._disk.checkpoint = data

    async def _find_fault(self, split: SplitView) -> bool:
        raise ViolationError("split_view", f"two blocks are certified at height {split.height}")


class SimUpkeep:
    """The background work of one process on its store, put together as `node.upkeep.Upkeep` does."""

    def __init__(self, process: Process, sync: SyncServer) -> None:
        config, machine = process.node.config, process.replica.machine
        self._process = process
        self._sync = sync
        files = SimSnapshotFiles(process.node.disk)
        server = SnapshotServer(files, self._want_snapshot, machine)
        server.register(process.endpoint)  # type: ignore[arg-type]
        self.history = HistoryKeeper(
            process.replica,
            files,
            keep_blocks=config.history_blocks,
            interval_blocks=config.snapshot_interval_blocks,
            followers=self._followers,
            fetched=lambda: set(server.fetched().values()),
        )
        self.scrubber = Scrubber(
            process.replica.store,
            rows_per_s=config.scrub_rows_per_s,
            peers=process.peer_ledgers,
            find_raw=self._find_raw,
            now_ms=process.replica.now_ms,
            machine=machine,
        )

    async def run(self) -> None:
        """Look after the store until cancelled, or until it needs a repair that only a start can make."""
        process = self._process
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.scrubber.run)
            nursery.start_soon(self.history.run)
            if (validator := process.validator) is not None:
                nursery.start_soon(
                    partial(
                        lead_only_with_room,
                        is_leader=lambda: validator.is_leader,
                        has_space=process.replica.store.store.has_space,
                        hand_over=validator.transfer_leadership,
                        sleep=process.replica.machine.sleep,
                    )
                )

    def _want_snapshot(self, height: int) -> None:
        self.history.want(height)

    def _followers(self) -> dict[str, int]:
        found = {key_id.hex()[:16]: height for key_id, height in self._sync.followers().items()}
        if self._process.validator is not None:
            for key_id, progress in self._process.validator.status.progress.items():
                if progress.is_heard:
                    found[key_id.hex()[:16]] = progress.match_height + 1
        return found

    def _find_raw(self, height: int) -> bytes | None:
        process = self._process
        if height == 0:
            return genesis_block(process.node.world.genesis)[0].raw
        return process.replica.chain.find_raw(height)


class Repair:
    """Makes a damaged store anew before a process uses it, as `node.prepare` does.

    Args:
        node: Whose.
        store: The damaged one.
        peers: Whom to ask for a snapshot.
        machine: Time and threads.
    """

    def __init__(self, node: SimNode, store: SimStore, peers: Sequence[PeerLedger], machine: Machine) -> None:
        self._node = node
        self._store = store
        self._peers = peers
        self._machine = machine

    async def run(self) -> None:
        """Return when the store is sound.

        Raises:
            StorageError: Something is lost that nobody can make anew, or nobody can now.
        """
        store, world = self._store, self._node.world
        findings = [each for each in verify_store(store) if isinstance(each, StoreFinding)]  # type: ignore[arg-type]
        world.trace.tell(self._node.name, f"repairs its store: {[each.message for each in findings]}")
        client = snapshot_client(store, world.genesis, lambda: self._peers, self._machine)
        try:
            await make_anew(
                store,  # type: ignore[arg-type]
                world.genesis,
                self._peers,
                votes=True,
                client=client,
                fetch=self._fetch,
                machine=self._machine,
            )
        except StorageError:
            if findings:
                raise
        else:
            world.oracle.counts["repairs"] += 1
            store.repair_done()

    def _fetch(self, height: int) -> Iterator[list[CertifiedBlock]]:
        """Yield what each machine has that can be reached now; a thread that waits for them is more than this needs."""
        world = self._node.world
        for other in world.nodes:
            process = other.process
            if other is self._node or process is None or world.network.is_cut(other.index, self._node.index):
                continue
            if other.pauses or not process.knows(self._node.id):
                continue
            try:
                with process.replica.view() as view:
                    view.check_kept(height)
                    blocks = certified_blocks(view, height, 1)
            except (CorruptionError, UnavailableError):
                continue
            if blocks:
                yield blocks


def snapshot_client(
    store: SimStore, genesis: Genesis, peers: Callable[[], Sequence[PeerLedger]], machine: Machine
) -> SnapshotClient:
    """Return the client that fetches snapshots for a store."""
    incoming = SimIncomingFiles(store.disk)
    return SnapshotClient(store, genesis, peers, machine, incoming)  # type: ignore[arg-type]
