"""The background look at every row, and the repair of what it finds.

A row that nobody reads can be damaged for months; when it is needed, its copies elsewhere may be gone. So every row is read again and
again, at a rate that costs next to nothing. What can be made anew from other rows or a peer's block is, while the node runs; what only
executing the blocks again could make ends the node, which repairs its whole store at the next start (`node.prepare`). It never goes on
over a hole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

import structlog
import trio

from ledger.block import decode_header_untrusted
from ledger.certificate import verify_block_certificate
from ledger.configuration_history import build_configuration_proof
from ledger.keyspace import Table, height_key
from node.errors import StorageError
from node.machine import REAL_MACHINE, Machine
from node.storage.block_store import BlockStore
from node.storage.checks import row_key
from node.storage.database import ScannedRow
from node.storage.repair import Needs, NotDerivableError, RowRepair, verify_certificate_subject
from node.storage.tables import TABLE_LOG_ENTRY, show_row
from wire.errors import CorruptionError, RejectedError, UnavailableError

if TYPE_CHECKING:
    from node.sync import CertifiedBlock, PeerLedger

SLICE_ROWS: Final = 200
"""Rows read in one visit to the thread: under 2 ms, so that a commit that wants the interpreter does not wait long."""
IDLE_S: Final = 1.0
"""The pause between two looks when scrubbing is off: rows that readers found damaged are still repaired."""
PASS_PAUSE_S: Final = 5.0
"""The least time between the beginnings of two passes: a small store needs no endless reading."""
RETRY_S: Final = 10.0
"""How long a row waits that no peer could help with."""

_log = structlog.get_logger("node.scrub")


@dataclass(slots=True)
class ScrubStatus:
    """How far the look at the store is; for the status document and metrics."""

    rows: int = 0
    """Rows read since the start."""
    passes: int = 0
    """How often every row was read since the start."""
    last_pass_ms: int | None = None
    """When the last pass ended, milliseconds since epoch, UTC."""
    damaged: int = 0
    """Damaged rows found since the start."""
    repaired: int = 0
    """Rows repaired since the start."""
    waiting: int = 0
    """Damaged rows that wait for a peer."""


class Scrubber:
    """Reads the rows of `blocks` for ever, and repairs what it or any reader found damaged.

    Args:
        blocks: The store.
        rows_per_s: How many rows to read in a second; 0 reads none, and repairs only what readers find.
        peers: Returns whom to ask for blocks.
        find_raw: Returns an executed block that is in memory by its height, or None.
        now_ms: The wall clock.
        machine: Time and threads.
    """

    def __init__(
        self,
        blocks: BlockStore,
        *,
        rows_per_s: int,
        peers: Callable[[], Sequence[PeerLedger]],
        find_raw: Callable[[int], bytes | None],
        now_ms: Callable[[], int],
        machine: Machine = REAL_MACHINE,
    ) -> None:
        self.status = ScrubStatus()
        self._blocks = blocks
        self._store = blocks.store
        self._rows_per_s = rows_per_s
        self._peers = peers
        self._now_ms = now_ms
        self._machine = machine
        self._repair = RowRepair(blocks, find_raw)
        self._waiting: dict[tuple[int, bytes], float] = {}

    async def run(self) -> None:
        """Scrub until cancelled.

        Raises:
            StorageError: A row is damaged that only the next start can repair; the node must stop.
            StorageFailedError: ``node.storage.write_failed``; the node must stop.
        """
        cursor = b""
        begun = trio.current_time()
        while True:
            if self._rows_per_s:
                count = min(SLICE_ROWS, self._rows_per_s)
                found = await self._machine.in_thread(self._read, cursor, count)
                self.status.rows += len(found)
                for row in found:
                    if row.error is not None:
                        await self._handle(row.table, row.key, row.error)
                if len(found) < count:
                    cursor = b""
                    self.status.passes += 1
                    self.status.last_pass_ms = self._now_ms()
                    await self._machine.sleep(max(count / self._rows_per_s, begun + PASS_PAUSE_S - trio.current_time()))
                    begun = trio.current_time()
                else:
                    cursor = row_key(found[-1].table, found[-1].key) + b"\x00"
                    await self._machine.sleep(count / self._rows_per_s)
            else:
                await self._machine.sleep(IDLE_S)
            await self._look_after()

    def _read(self, cursor: bytes, count: int) -> list[ScannedRow]:
        return list(islice(self._store.scan(cursor), count))

    async def _look_after(self) -> None:
        """Repair what readers came across, and try again what had to wait."""
        for (table, key), error in self._store.take_damage().items():
            await self._handle(table, key, error)
        for (table, key), since in list(self._waiting.items()):
            if trio.current_time() - since > RETRY_S:
                await self._try(table, key)

    async def _handle(self, table: int, key: bytes, error: StorageError) -> None:
        lost = error.code == "node.storage.unreadable"
        if (table, key) in self._waiting or (not lost and self._store.is_sound(table, key)):
            return
        self.status.damaged += 1
        _log.error("damaged row", row=show_row(table, key), code=error.code, message=error.message)
        if error.code != "node.storage.checksum":
            # The file itself is damaged: LevelDB fails when it rewrites that file, whatever is put over it now.
            self._store.ask_for_repair([error.message])
        if lost:
            raise error
        try:
            await self._try(table, key)
        except NotDerivableError:
            self._store.ask_for_repair([error.message])
            raise error from None

    async def _try(self, table: int, key: bytes) -> None:
        needs = await self._machine.in_thread(self._repair.repair, table, key)
        if needs is not None and not await self._ask_peers(table, needs):
            self._waiting[table, key] = trio.current_time()
            _log.warning("no peer could help to repair a row yet", row=show_row(table, key))
        else:
            if needs is not None:
                # A block came, but perhaps for a row beside this one, which can be derived now.
                needs = await self._machine.in_thread(self._repair.repair, table, key)
            if needs is None:
                self._waiting.pop((table, key), None)
                self.status.repaired += 1
                _log.info("row repaired", row=show_row(table, key))
        self.status.waiting = len(self._waiting)

    async def _ask_peers(self, table: int, needs: Needs) -> bool:
        """Return whether a peer gave what `needs` says, and it was put in place."""
        for peer in self._peers():
            try:
                answer = await peer.blocks(needs.height, bytes_max=1, wait_ms=0)
                if not answer:
                    continue
                taken = await self._machine.in_thread(self._take, table, needs, answer[0])
            except (UnavailableError, RejectedError) as error:
                _log.info("peer could not help to repair", peer=peer.name, code=error.code)
            else:
                if taken:
                    return True
        return False

    def _take(self, table: int, needs: Needs, item: CertifiedBlock) -> bool:
        height = needs.height
        if needs.certificate:
            if item.certificate is None or not self._is_certificate(height, item.certificate):
                return False
            self._repair.take_certificate(height, item.certificate)
            return True
        kind = table if table in (Table.BLOCK, TABLE_LOG_ENTRY) else self._table_of(height)
        return self._repair.take_block(kind, height, item.block)

    def _table_of(self, height: int) -> int:
        return int(Table.BLOCK) if height <= self._blocks.committed_height else TABLE_LOG_ENTRY

    def _is_certificate(self, height: int, raw: bytes) -> bool:
        """Return whether a majority of the validators of that height stand behind the block that is stored there."""
        certificate = verify_certificate_subject(raw, height, self._repair.expected_hash(height))
        try:
            header_raw = self._store.get(Table.HEADER, height_key(height))
            if certificate is None or header_raw is None:
                return False
            configuration = build_configuration_proof(self._blocks, height).configuration
            verify_block_certificate(certificate, decode_header_untrusted(header_raw), configuration)
        except (RejectedError, CorruptionError):
            return False
        return True
