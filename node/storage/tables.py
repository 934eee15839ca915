"""The names and numbers of all tables of a store: the ledger's (below 64) and those of this package (from 64 on).

Source: docs/spec/storage.md 2.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from ledger.keyspace import Table

TABLE_STORE: Final = 64
"""Rows about the data directory itself."""
TABLE_LOG_ENTRY: Final = 65
"""Height to the encoded block, as long as it is not committed."""
TABLE_HARD_STATE: Final = 66
"""Term and vote, under the empty key."""
TABLE_LOG_TERM: Final = 67
"""Height to term and block hash, committed heights too."""
TABLE_LOG_TIP: Final = 68
"""How far log and committed state reach, under the empty key."""
TABLE_MAX: Final = 255

ONLY_KEY: Final = b""
"""The key of a table that has a single row."""

NAMES: Final = MappingProxyType(
    {int(table): table.name for table in Table}
    | {
        TABLE_STORE: "STORE",
        TABLE_LOG_ENTRY: "LOG_ENTRY",
        TABLE_HARD_STATE: "HARD_STATE",
        TABLE_LOG_TERM: "LOG_TERM",
        TABLE_LOG_TIP: "LOG_TIP",
    }
)


def show_row(table: int, key: bytes) -> str:
    """Return how a row is named to people, such as ``row 0000000000000007 of table 7 (BLOCK)``."""
    return f"row {key.hex() or '(empty key)'} of table {table} ({NAMES.get(table, 'unknown')})"
