"""How much of the past a node keeps: it makes snapshots, and forgets blocks that its settings do not ask it to keep.

::

    pruned ……… | keep_from ………… snapshot ………… tip
                  the last N blocks, and all from the newest snapshot on

A block is forgotten only when a snapshot above it is whole on this node's disk, so that whoever needs the block can begin above it. For a
follower that is alive and slow it is kept longer, up to as many blocks again, and the log says so; then it is forgotten all the same, and
the log says that too: one slow follower must not fill everybody's disk.

Whoever was left behind fetches a snapshot, which may take longer than N blocks take to be made. So that it is not left behind again when it
has it, the snapshot and the blocks above it are kept meanwhile, for `FETCH_HOLD_S` at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from ledger.errors import NotYetAvailableError
from node.replica import LedgerReplica
from node.snapshots import FETCH_HOLD_S
from node.storage.block_store import PRUNE_STEP_BLOCKS
from node.storage.snapshot_files import SnapshotFiles, StoredSnapshot
from wire.errors import UnavailableError

CHECK_S: Final = 1.0
"""How often is looked whether there is something to do."""
ASKED_PAUSE_S: Final = 30.0
"""The least time between two snapshots that are made because a peer asked."""
CHUNK_PAUSE_S: Final = 0.005
"""The pause after each chunk: making a snapshot must not take the interpreter from consensus."""
PRUNE_AT_ONCE_MIN: Final = 64
"""Fewer blocks than this, or than a tenth of what is kept, are not worth a write."""
SWEEP_ROWS: Final = 2_000
"""Rows of HISTORY looked at in one step."""

_log = structlog.get_logger("node.history")


@dataclass(frozen=True, slots=True)
class _Hold:
    """Blocks above `height`, that of a snapshot, are kept since `begun` for those who fetch it."""

    height: int
    begun: float


class HistoryKeeper:
    """Makes the snapshots of `replica` and prunes its history.

    Args:
        replica: The node's ledger.
        files: Where the snapshots lie.
        keep_blocks: How many blocks to keep; None keeps all.
        interval_blocks: How many blocks lie between two snapshots, at most; without pruning they are made only when a peer asks.
        followers: Returns, for each follower that is alive, its name and the next block that it needs.
        fetched: Returns the heights of the snapshots that somebody is fetching from here.
        has_left_behind: Whether a live follower, which this node leads, waits until it has a snapshot from somewhere.
    """

    def __init__(
        self,
        replica: LedgerReplica,
        files: SnapshotFiles,
        *,
        keep_blocks: int | None,
        interval_blocks: int,
        followers: Callable[[], Mapping[str, int]],
        fetched: Callable[[], Collection[int]] = tuple,
        has_left_behind: Callable[[], bool] = lambda: False,
    ) -> None:
        self._replica = replica
        self._files = files
        self._keep_blocks = keep_blocks
        self._interval_blocks = (
            interval_blocks if keep_blocks is None else max(1, min(interval_blocks, keep_blocks // 2))
        )
        self._followers = followers
        self._fetched = fetched
        self._has_left_behind = has_left_behind
        self._wanted = 0
        self._made_at = -ASKED_PAUSE_S
        self._holding_for: str | None = None
        self._left_behind: str | None = None
        self._hold: _Hold | None = None

    def want(self, height: int) -> None:
        """Take note that a peer would be helped by a snapshot at `height` or above. Never blocks."""
        self._wanted = max(self._wanted, height)

    async def run(self) -> None:
        """Make snapshots and prune until cancelled.

        Raises:
            CorruptionError: The store is damaged; the node must stop.
            StorageFailedError: ``node.storage.write_failed``; the node must stop.
        """
        machine = self._replica.machine
        await machine.in_thread(self._files.open)
        await self._prune_further()  # What an earlier run began.
        while True:
            await machine.sleep(CHECK_S)
            if self._is_snapshot_due():
                await self._make_snapshot()
            if self._keep_blocks is not None:
                await self._prune(self._keep_blocks)

    # Snapshots

    def _is_snapshot_due(self) -> bool:
        newest = self._files.newest
        newest_height = 0 if newest is None else newest.height
        height = self._replica.height
        if self._keep_blocks is not None and height - newest_height >= self._interval_blocks:
            return True
        asked = newest_height < self._wanted <= height
        return asked and trio.current_time() - self._made_at >= ASKED_PAUSE_S

    async def _make_snapshot(self) -> None:
        if not self._replica.store.store.has_space():
            return  # What is ordered already needs the room more.
        try:
            made = await self._replica.machine.in_thread(self._make)
        except NotYetAvailableError:
            return  # The tip is a moment old; its certificate comes with the next write.
        except UnavailableError as error:
            _log.warning("no snapshot was made", code=error.code, reason=error.message)
            return
        await self._replica.machine.in_thread(self._files.forget_old, self._fetched())
        self._made_at = trio.current_time()
        _log.info("snapshot made", height=made.height, chunks=len(made.manifest.chunk_digests))

    def _make(self) -> StoredSnapshot:
        with self._replica.store.snapshot() as reader:
            return self._files.make(reader, lambda: time.sleep(CHUNK_PAUSE_S))

    # Pruning

    async def _prune(self, keep_blocks: int) -> None:
        keep_from = self._lowest_to_keep(keep_blocks)
        first_height = self._replica.store.first_height
        if keep_from - first_height < min(PRUNE_AT_ONCE_MIN, max(1, keep_blocks // 10)):
            return
        # First nobody asks for them any more, then they go: between two steps of the consensus core, which reads this on the event loop.
        self._replica.store.raise_first_height(keep_from)
        await self._prune_further()
        _log.info("history pruned", first_height=keep_from, was=first_height)

    def _lowest_to_keep(self, keep_blocks: int) -> int:
        newest = self._files.newest
        if newest is None:
            return 1
        wish = min(self._replica.height - keep_blocks, newest.height) + 1
        needed = {name: height for name, height in self._followers().items() if height < wish}
        held = max(wish - keep_blocks, min(needed.values(), default=wish))
        name = min(needed, key=lambda each: needed[each], default=None)
        if name is not None and held < wish and self._holding_for != name:
            _log.warning("history is kept longer for a slow follower", follower=name, next_height=needed[name])
        if name is not None and needed[name] < held and self._left_behind != name:
            _log.warning("a follower is too slow and will need a snapshot", follower=name, next_height=needed[name])
            self._left_behind = name
        self._holding_for = name
        return min(held, self._held_for_fetching(newest.height))

    def _held_for_fetching(self, newest_height: int) -> int:
        """Return from where on blocks are kept for those who must fetch a snapshot first; above every block when there is nobody."""
        nothing = self._replica.height + 1
        fetched = self._fetched()
        if not fetched and not self._has_left_behind():
            self._hold = None
            return nothing
        if not self._replica.store.store.has_space():
            return nothing
        now = trio.current_time()
        if self._hold is None or now - self._hold.begun > FETCH_HOLD_S:
            if self._hold is not None:
                _log.warning("a follower takes too long to fetch a snapshot: history is kept no longer for it")
            self._hold = _Hold(newest_height, now)
        first_height = self._replica.store.first_height
        return min([self._hold.height, *(height for height in fetched if height >= first_height - 1)]) + 1

    async def _prune_further(self) -> None:
        """Delete what lies below the first kept height, step by step."""
        blocks, machine = self._replica.store, self._replica.machine
        if blocks.first_height == 1:
            return
        while await machine.in_thread(blocks.prune_step, PRUNE_STEP_BLOCKS):
            await trio.lowlevel.checkpoint()
        cursor: bytes | None = b""
        while cursor is not None:
            cursor = await machine.in_thread(blocks.sweep_step, cursor, SWEEP_ROWS)
