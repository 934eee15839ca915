"""One row on disk: the value, followed by a checksum over table, key and value.

LevelDB checks its own blocks only when asked, and only when it reads them from the file: this checksum is ours from the moment a row is
made until the moment it is used, and because it covers the key, a row that turns up under another key is refused as well.

Source: docs/spec/storage.md 2.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from node.errors import StorageError
from node.storage.tables import show_row

CHECKSUM_BYTES: Final = 4
HINT: Final = "start the node again: it repairs its store from its own blocks and its peers before it takes part"


def row_key(table: int, key: bytes) -> bytes:
    """Return the database key of a row: one byte for the table, then the table's own key."""
    return bytes((table,)) + key


def seal_row(database_key: bytes, value: bytes) -> bytes:
    """Return `value` with its checksum, ready to be stored under `database_key`."""
    return value + crc32(value, crc32(database_key)).to_bytes(CHECKSUM_BYTES, "big")


def holds(database_key: bytes, stored: bytes) -> bool:
    """Return whether the checksum of a stored row holds."""
    value = stored[:-CHECKSUM_BYTES]
    return len(stored) >= CHECKSUM_BYTES and crc32(value, crc32(database_key)) == int.from_bytes(
        stored[-CHECKSUM_BYTES:], "big"
    )


def open_row(database_key: bytes, stored: bytes) -> bytes:
    """Return the value of a stored row after verifying its checksum.

    Raises:
        StorageError: ``node.storage.checksum``, with the table and the key in its details.
    """
    if not holds(database_key, stored):
        raise row_error(
            "node.storage.checksum", database_key[0], database_key[1:], "is damaged: its checksum does not hold"
        )
    return stored[:-CHECKSUM_BYTES]


def row_error(code: str, table: int, key: bytes, what: str) -> StorageError:
    """Return the error about one row; its details name table and key for whoever repairs it."""
    return StorageError(code, f"{show_row(table, key)} {what}", hint=HINT, details={"table": table, "key": key.hex()})
