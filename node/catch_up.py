"""A validator that fell behind pruning: its leader does not keep the next block any more, so it goes on from a snapshot.

::

    core ──need_snapshot──► CatchUp ──fetch──► peers
                               │ a verified snapshot in a database of its own
                               ▼
                            step task: lets what is under way finish, asks the core once more, switches, tells the core

Fetching takes its time beside everything else and changes nothing. What happens then belongs to whoever steps the core
(`node.validator`), because between the core's last word and `InstalledSnapshot` nothing else may be executed or written.

Source: docs/spec/storage.md 8, docs/spec/consensus.md 12.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol

import structlog
import trio

from ledger.snapshot import SnapshotManifest
from node.snapshots import Demand, FilledSnapshot
from wire.errors import UnavailableError

if TYPE_CHECKING:
    from consensus.core import Replica
    from node.machine import Machine

RETRY_PAUSE_S: Final = 3.0
"""The pause after a fetch that brought nothing. Before it, peers were asked several times already."""

_log = structlog.get_logger("node.catch_up")


class SnapshotSource(Protocol):
    """Where snapshots come from; `node.snapshots.SnapshotClient`."""

    async def fetch(self, demand: Demand) -> FilledSnapshot:
        """Return a verified snapshot that meets `demand`, or raise `UnavailableError`."""
        ...

    async def discard(self, filled: FilledSnapshot) -> None:
        """Forget a snapshot that will not be installed."""
        ...

    async def forget_incoming(self, height_max: int | None = None) -> None:
        """Remove what was fetched of a snapshot at `height_max` or below."""
        ...


class CatchUp:
    """Fetches snapshots for the validator that steps `core`, one at a time, as long as its leader says that it needs one.

    Args:
        source: Where they come from.
        core: Asked what helps; never stepped here.
        machine: Time.
        install: Returns when the snapshot is installed, or was found to be of no use.
    """

    def __init__(
        self,
        source: SnapshotSource,
        core: Replica,
        machine: Machine,
        install: Callable[[FilledSnapshot], Awaitable[None]],
    ) -> None:
        self._source = source
        self._core = core
        self._machine = machine
        self._install = install
        self._height_min = 0
        self._asked = trio.Event()

    def need(self, height_min: int) -> None:
        """Take note that only a snapshot at `height_min` or above helps; the last word counts. Never blocks."""
        self._height_min = height_min
        self._asked.set()

    async def run(self) -> None:
        """Fetch and install whenever one is needed, until cancelled.

        Raises:
            CorruptionError: The disk failed while a snapshot was installed; the node must stop.
        """
        # A process that ended right after an installation may have left what it installed.
        await self._source.forget_incoming(self._core.status.commit_height)
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            while (height_min := self._needed()) is not None:
                await self._catch_up(height_min)

    def _needed(self) -> int | None:
        return self._height_min if self._core.status.commit_height < self._height_min else None

    def _accepts(self, manifest: SnapshotManifest) -> bool:
        return self._core.needs_snapshot(manifest.height, manifest.header.term, manifest.certificate.block_hash)

    async def _catch_up(self, height_min: int) -> None:
        _log.warning(
            "the leader keeps the next block no more: a snapshot is needed",
            height=self._core.status.commit_height,
            height_min=height_min,
        )
        begun = trio.current_time()
        try:
            filled = await self._source.fetch(Demand(self._needed, self._accepts))
        except UnavailableError as error:
            _log.warning("no snapshot yet", code=error.code, reason=error.message)
            await self._machine.sleep(RETRY_PAUSE_S)
        else:
            _log.info("snapshot fetched", height=filled.height, seconds=round(trio.current_time() - begun, 1))
            await self._install(filled)
