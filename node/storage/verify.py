"""A look at every row of a store: what `patchwarden node verify-store` does.

It finds damaged rows and holes. Whether the blocks themselves are right (signatures, roots, certificates) is the audit's question.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ledger.keyspace import Table, height_key
from node.errors import StorageError
from node.storage.block_store import TABLE_LOG_TERM, BlockStore
from node.storage.leveldb import Store


@dataclass(frozen=True, slots=True)
class StoreFinding:
    """One thing that is wrong with a store."""

    code: str
    """``node.storage.checksum``, ``node.storage.damaged`` or ``node.storage.missing_row``."""
    message: str
    """Which row, and what is wrong with it."""


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
    try:
        for _table, _key, error in store.scan():
            rows += 1
            if error is not None:
                yield StoreFinding(error.code, error.message)
    except StorageError as error:
        yield StoreFinding(error.code, error.message)
    try:
        blocks = BlockStore(store)
    except StorageError as error:
        yield StoreFinding(error.code, error.message)
        yield StoreSummary(rows, None, None)
        return
    for height in range(blocks.committed_height + 1):
        for table in (TABLE_LOG_TERM, Table.HEADER, Table.BLOCK):
            try:
                if store.get(table, height_key(height)) is None:
                    yield StoreFinding(
                        "node.storage.missing_row", f"the row of block {height} in table {int(table)} is missing"
                    )
            except StorageError:
                continue  # Reported by the scan.
    yield StoreSummary(rows, blocks.committed_height, blocks.last_height)
