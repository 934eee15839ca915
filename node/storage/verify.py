"""A look at every row of a store: what `patchwarden node verify-store` does, and a start that begins with a repair.

It finds damaged rows and holes. Whether the blocks themselves are right (signatures, roots, certificates) is the audit's question.

Source: docs/spec/storage.md 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ledger.keyspace import Table, height_key
from node.errors import StorageError
from node.storage.block_store import BlockStore
from node.storage.leveldb import Store
from node.storage.tables import TABLE_LOG_TERM, show_row


@dataclass(frozen=True, slots=True)
class StoreFinding:
    """One thing that is wrong with a store."""

    code: str
    """``node.storage.checksum``, ``node.storage.damaged``, ``node.storage.unreadable`` or ``node.storage.missing_row``."""
    message: str
    """Which row, and what is wrong with it."""
    table: int | None = None
    """The row's table; None when it is no single row."""
    key: bytes = b""
    """The row's key in its table."""
    value_holds: bool = False
    """Whether the row's own checksum holds: what is damaged is the file around it."""


@dataclass(frozen=True, slots=True)
class StoreSummary:
    """What was looked at; comes last."""

    rows: int
    """Rows read, damaged ones included."""
    committed_height: int | None
    """Height of the committed state; None when it could not be read."""
    last_height: int | None
    """Height of the last block in the log; None when it could not be read."""


def verify_store(store: Store) -> Iterator[StoreFinding | StoreSummary]:
    """Yield what is wrong with the rows of `store` as it is found, then one summary. Reads everything: minutes for a large store."""
    rows = 0
    seen: set[tuple[int, bytes]] = set()
    for row in store.scan():
        rows += 1
        if row.error is not None:
            seen.add((row.table, row.key))
            yield StoreFinding(row.error.code, row.error.message, row.table, row.key, row.value_holds)
    try:
        blocks = BlockStore(store)
    except StorageError as error:
        finding = finding_of(error)
        if finding.table is None or (finding.table, finding.key) not in seen:
            yield finding
        yield StoreSummary(rows, None, None)
        return
    for height in range(blocks.committed_height + 1):
        tables = (TABLE_LOG_TERM, Table.HEADER, Table.BLOCK) if height >= blocks.first_height or height == 0 else ()
        for table in tables:
            key = height_key(height)
            if (table, key) not in seen and _is_missing(store, table, key):
                yield StoreFinding("node.storage.missing_row", f"{show_row(table, key)} is missing", table, key)
    yield StoreSummary(rows, blocks.committed_height, blocks.last_height)


def finding_of(error: StorageError) -> StoreFinding:
    """Return what an error about a store says, as a finding."""
    details = dict(error.details)
    table, key = details.get("table"), details.get("key")
    if isinstance(table, int) and isinstance(key, str):
        return StoreFinding(error.code, error.message, table, bytes.fromhex(key))
    return StoreFinding(error.code, error.message)


def _is_missing(store: Store, table: int, key: bytes) -> bool:
    try:
        return store.get(table, key) is None
    except StorageError:
        return False  # Found by the scan.
