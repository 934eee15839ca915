"""A database that is filled with a chain from its beginning, beside the one in use or where there is none yet.

What was put in and is not written yet lies over what is: so block follows block without a write for each, in bounded memory.

Source: docs/spec/storage.md 6.3, 9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.keyspace import WriteSet
from node.errors import StorageFailedError
from node.storage.database import DatabaseError

if TYPE_CHECKING:
    from node.storage.database import Database

BATCH_BYTES: Final = 4 * 1024 * 1024
"""Rows written at once."""


class Filling:
    """A new database, with rows that are still to be written over it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.rows: dict[tuple[int, bytes], bytes | None] = {}
        self._bytes = 0

    def get(self, table: int, key: bytes) -> bytes | None:
        """Return the value under `key`, or None."""
        try:
            return self.rows[table, key]
        except KeyError:
            return self.database.get(table, key)

    def put(self, writes: WriteSet) -> None:
        """Make every change of `writes` visible."""
        for row, value in writes.items():
            self.rows[row] = value
            self._bytes += len(row[1]) + len(value or b"")

    def flush_if_large(self) -> bool:
        """Write what is waiting if it is much; return whether it was."""
        if self._bytes < BATCH_BYTES:
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Make everything durable.

        Raises:
            StorageFailedError: ``node.storage.write_failed``.
        """
        try:
            self.database.write(self.rows)
        except DatabaseError as error:
            raise StorageFailedError(
                "node.storage.write_failed",
                f"writing to {self.database.path} failed: {error}",
                hint="check the disk and its free space, then start the node again",
            ) from error
        self.rows = {}
        self._bytes = 0
