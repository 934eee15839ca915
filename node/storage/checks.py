"""One row on disk: the value, followed by a checksum over table, key and value.

LevelDB checks its own blocks only when asked, and only when it reads them from the file: this checksum is ours from the moment a row is
made until the moment it is used, and because it covers the key, a row that turns up under another key is refused as well.

Source: docs/spec/storage.md 2.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from node.errors import StorageError

CHECKSUM_BYTES: Final = 4


def row_key(table: int, key: bytes) -> bytes:
    """Return the database key of a row: one byte for the table, then the table's own key."""
    return bytes((table,)) + key


def seal_row(database_key: bytes, value: bytes) -> bytes:
    """Return `value` with its checksum, ready to be stored under `database_key`."""
    return value + crc32(value, crc32(database_key)).to_bytes(CHECKSUM_BYTES, "big")


def open_row(database_key: bytes, stored: bytes) -> bytes:
    """Return the value of a stored row after verifying its checksum.

    Raises:
        StorageError: ``node.storage.checksum``, with the table and the key in its details.
    """
    value = stored[:-CHECKSUM_BYTES]
    if len(stored) < CHECKSUM_BYTES or crc32(value, crc32(database_key)) != int.from_bytes(
        stored[-CHECKSUM_BYTES:], "big"
    ):
        table, key = database_key[0], database_key[1:]
        raise StorageError(
            "node.storage.checksum",
            f"row {key.hex() or '(empty key)'} of table {table} is damaged: its checksum does not hold",
            hint="restore the data directory from a backup, or remove it and let the node join again",
            details={"table": table, "key": key.hex()},
        )
    return value
