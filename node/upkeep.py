"""What a node does for its store while it runs: repair damage, make snapshots, forget what is not kept, lead only while there is room.

It also says long before what will expire.

Everything here is in the background and bounded; nothing here decides about blocks.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from consensus.progress import ProgressState
from ledger.state import StateView
from node.expiry import Certificate, ExpiryWatch, find_certificates
from node.history import HistoryKeeper
from node.room import lead_only_with_room
from node.scrub import Scrubber
from node.snapshots import SnapshotServer
from node.storage.snapshot_files import SnapshotFiles
from node.sync import SyncServer

if TYPE_CHECKING:
    from node.app import Node
    from wire.keys import KeyId


class Upkeep:
    """The background work of one node on its store."""

    def __init__(self, node: Node, sync: SyncServer) -> None:
        self._node = node
        self._sync = sync
        self._files = SnapshotFiles(node.replica.store.store.path)
        self._server = SnapshotServer(self._files, self._want_snapshot, node.replica.machine)
        self._server.register(node.network)
        self.history = HistoryKeeper(
            node.replica,
            self._files,
            keep_blocks=node.config.history_blocks,
            interval_blocks=node.config.snapshot_interval_blocks,
            followers=self._followers,
            fetched=self._fetched,
            has_left_behind=self._has_left_behind,
        )
        self.scrubber = Scrubber(
            node.replica.store,
            rows_per_s=node.config.scrub_rows_per_s,
            peers=node.relaying.peers,
            find_raw=self._find_raw,
            now_ms=node.replica.now_ms,
            machine=node.replica.machine,
        )

        self.expiry = ExpiryWatch(
            find=partial(node.replica.machine.in_thread, self._certificates),
            now_ms=node.replica.now_ms,
            metrics=node.metrics,
            sleep=node.replica.machine.sleep,
        )

    async def run(self) -> None:
        """Look after the store until cancelled.

        Raises:
            StorageError: Damage that only the next start can repair; the node must stop.
            StorageFailedError: ``node.storage.write_failed``; the node must stop.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.scrubber.run)
            nursery.start_soon(self.history.run)
            nursery.start_soon(self.expiry.run)
            if (validator := self._node.validator) is not None:
                nursery.start_soon(
                    partial(
                        lead_only_with_room,
                        is_leader=lambda: validator.is_leader,
                        has_space=self._node.replica.store.store.has_space,
                        hand_over=validator.transfer_leadership,
                        sleep=self._node.replica.machine.sleep,
                    )
                )

    def document(self) -> dict[str, Any]:
        """Return how the store is, for the status document."""
        status = self.scrubber.status
        blocks = self._node.replica.store
        newest = self._files.newest
        fetch = self._node.snapshots.progress
        return {
            "history_from": 0 if blocks.first_height == 1 else blocks.first_height,
            "snapshot_height": None if newest is None else newest.height,
            "snapshot_fetch": None if fetch is None else asdict(fetch),
            "rows_scrubbed": status.rows,
            "scrub_passes": status.passes,
            "last_scrub_ms": status.last_pass_ms,
            "rows_damaged": status.damaged,
            "rows_repaired": status.repaired,
            "rows_waiting": status.waiting,
            "repair_at_start": blocks.store.needs_repair,
        }

    def observe(self) -> None:
        """Set the metrics of the store; called when somebody asks for them."""
        status, metrics = self.scrubber.status, self._node.metrics
        metrics.scrub_rows.set(status.rows)
        metrics.scrub_passes.set(status.passes)
        metrics.scrub_damaged.set(status.damaged)
        metrics.scrub_repaired.set(status.repaired)
        metrics.scrub_waiting.set(status.waiting)

    def _certificates(self) -> tuple[Certificate, ...]:
        with self._node.replica.store.snapshot() as snapshot:
            return tuple(find_certificates(StateView(snapshot)))

    def _want_snapshot(self, height: int) -> None:
        self.history.want(height)

    def _followers(self) -> dict[str, int]:
        return {key_id.hex()[:16]: height for key_id, height in self._next_heights().items()}

    def _next_heights(self) -> dict[KeyId, int]:
        """Return the live followers and the next block that each needs: those that ask, and those whom this node as leader sends to."""
        found = self._sync.followers()
        if self._node.validator is not None:
            for key_id, progress in self._node.validator.status.progress.items():
                if progress.is_heard:
                    found[key_id] = progress.match_height + 1
        return found

    def _fetched(self) -> set[int]:
        """Return the heights of the snapshots that peers are fetching here; who needs a block above it has it."""
        next_heights = self._next_heights()
        return {height for peer, height in self._server.fetched().items() if next_heights.get(peer, 0) <= height}

    def _has_left_behind(self) -> bool:
        if self._node.validator is None:
            return False
        progress = self._node.validator.status.progress
        return any(each.is_heard and each.state is ProgressState.SNAPSHOT for each in progress.values())

    def _find_raw(self, height: int) -> bytes | None:
        if height == 0:
            return self._node.genesis_block_raw
        return self._node.replica.chain.find_raw(height)
