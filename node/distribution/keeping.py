"""Which patch files stay on this node, by rule.

In this order, until enough is free where room is needed:

1. what was being fetched and was not gone on with for a day;
2. files that are neither held (below) nor current on the ledger, and were not used for `patch_keep_days`;
3. for room only: such files whatever their age, those unused for longest first; then current ones that are not held.

What is installed at a target of this host may be rolled back, what an open rollout brings is needed by others: both stay. A validator keeps
all that the ledger names: files come from there. Source: docs/spec/network.md 9.5.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from ledger.records import PatchRecord
from ledger.rollout_records import ENDED, RolloutRecord
from node.machine import REAL_MACHINE, Machine
from node.patch_store import KeptFile, PatchStore
from node.telemetry import Metrics
from wire.errors import PatchwardenError, RejectedError
from wire.hashing import Digest

PARTIAL_KEEP_S: Final = 86_400.0
"""How long what was fetched of a file waits for somebody to go on."""
INTERVAL_S: Final = 600.0
"""How often a node looks for files to remove."""
DAY_S: Final = 86_400.0

_log = structlog.get_logger("node.patches")


@dataclass(frozen=True, slots=True)
class Needs:
    """Why files stay."""

    held: frozenset[Digest]
    """These always: installed here or in an open rollout; on a validator whatever the ledger names."""
    current: frozenset[Digest]
    """These as long as there is room: published, and neither superseded nor withdrawn."""


def find_needs(
    patches: Iterable[PatchRecord], rollouts: Iterable[RolloutRecord], installed: Collection[bytes] | None
) -> Needs:
    """Return what the ledger's patches let a node keep.

    Args:
        patches: Every published patch.
        rollouts: Every rollout.
        installed: Ids of the patches that are installed at this host's targets; None on a validator.
    """
    coming = {rollout.patch_id for rollout in rollouts if rollout.status != ENDED}
    held, current = set(), set()
    for patch in patches:
        is_current = patch.superseded_by is None and patch.withdrawn_height is None
        if is_current:
            current.add(Digest(patch.file_digest))
        if installed is None or patch.patch_id in installed or (is_current and patch.patch_id in coming):
            held.add(Digest(patch.file_digest))
    return Needs(frozenset(held), frozenset(current))


def choose_removals(
    files: Iterable[KeptFile], needs: Needs, *, now_s: float, keep_s: float, room: int = 0
) -> list[KeptFile]:
    """Return what goes, in the order in which it goes.

    Args:
        files: What is here, and is not being fetched now.
        needs: What stays.
        now_s: The wall clock, seconds.
        keep_s: How long a file that nobody needs stays after its last use.
        room: Bytes that have to become free besides; fewer do when there is nothing else to remove.
    """
    gone: list[KeptFile] = []
    waiting: list[KeptFile] = []
    for file in sorted(files, key=lambda each: (each.used_s, each.digest)):
        if file.is_partial:
            is_old = now_s - file.used_s > PARTIAL_KEEP_S
        else:
            is_old = file.digest not in needs.held | needs.current and now_s - file.used_s > keep_s
        (gone if is_old else waiting).append(file)
    free = sum(file.size for file in gone)
    # Stable: within each of the two kinds those unused for longest come first.
    for file in sorted(waiting, key=lambda each: not each.is_partial and each.digest in needs.current):
        if free >= room:
            break
        if file.is_partial or file.digest not in needs.held:
            gone.append(file)
            free += file.size
    return gone


class PatchKeeper:
    """Removes patch files by the rule, on a schedule and when room is needed.

    Args:
        store: The files.
        needs: Returns what stays. Whatever it raises, nothing is removed then.
        is_fetching: Whether a file is being fetched now; those are never touched.
        keep_days: How long a file that nobody needs stays after its last use.
        now_s: The wall clock, seconds.
        metrics: What is counted.
        machine: Time and threads.
    """

    def __init__(
        self,
        store: PatchStore,
        *,
        needs: Callable[[], Awaitable[Needs]],
        is_fetching: Callable[[Digest], bool],
        keep_days: int,
        now_s: Callable[[], float],
        metrics: Metrics,
        machine: Machine = REAL_MACHINE,
    ) -> None:
        self._store = store
        self._needs = needs
        self._is_fetching = is_fetching
        self._keep_s = keep_days * DAY_S
        self._now_s = now_s
        self._metrics = metrics
        self._machine = machine
        self._lock = trio.Lock()

    async def run(self) -> None:
        """Remove what need not stay any more, again and again, until cancelled."""
        while True:
            await self._machine.sleep(INTERVAL_S)
            await self.sweep()

    async def make_room(self, size: int) -> None:
        """Return when `size` more bytes may be kept, removing what may go.

        Raises:
            RejectedError: ``node.patch.store_full``.
        """
        try:
            self._store.check_room(size)
        except RejectedError:
            await self.sweep(size)
            self._store.check_room(size)

    async def sweep(self, size: int = 0) -> list[KeptFile]:
        """Remove what the rule lets go, so that `size` more bytes have room if possible; return what is gone."""
        async with self._lock:
            try:
                needs = await self._needs()
                files = await self._machine.in_thread(self._store.files)
                room = self._store.missing_room(size)
                idle = [file for file in files if not self._is_fetching(file.digest)]
                gone = choose_removals(idle, needs, now_s=self._now_s(), keep_s=self._keep_s, room=room)
                for file in gone:
                    await self._machine.in_thread(self._store.remove, file)
                    self._metrics.patch_files_removed.inc()
                    _log.info("patch file removed", file=file.digest.hex(), bytes=file.size, partial=file.is_partial)
            except (PatchwardenError, OSError) as error:
                _log.warning("no patch file is removed", reason=str(error))
                return []
            return gone
