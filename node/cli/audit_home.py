"""What an audit of a stopped node's home looks at besides its blocks: every row it stores, and whether its state is the derived one.

A node answers questions from its tables. Blocks that hold say nothing about them: somebody with access to the disk can change a row and
its checksum too. So the state that the replay came to is compared with the stored one, row by row.

Source: docs/spec/audit.md 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ledger.audit_state import Finding
from ledger.keyspace import Table, read_height

if TYPE_CHECKING:
    from node.cli.audit_store import AuditTables
    from node.storage.leveldb import Store
    from node.storage.verify import StoreFinding

_BY_HEIGHT: Final = frozenset({Table.BLOCK, Table.CERTIFICATE, Table.HEADER, Table.CONFIGURATION, Table.EXECUTED})


def find_damaged_rows(store: Store, height: int) -> Iterator[Finding]:
    """Yield every row that cannot be read and every missing one, at the height that it is about, else at `height`, the store's own.

    Blocks and certificates are left out: reading the chain finds them.
    """
    from node.storage.verify import StoreSummary, verify_store

    for found in verify_store(store):
        if not isinstance(found, StoreSummary) and found.table not in (Table.BLOCK, Table.CERTIFICATE):
            yield Finding(_height_of(found, height), found.code, found.message, "", "")


def find_other_state(store: Store, derived: AuditTables, height: int) -> Iterator[Finding]:
    """Yield every row of the stored state that is not what the blocks lead to, and every one that is missing.

    Args:
        store: After block `height`.
        derived: The state that a full replay of the same blocks came to.
        height: Of both.
    """
    from node.errors import StorageError

    for table in (Table.STATE, Table.STATE_NODE):
        try:
            for key in derived.keys(table):
                if store.get(table, key) is None:
                    sentence = f"row {key.hex()} of table {table.name}, to which the blocks lead, is missing"
                    ours = derived.get(table, key)
                    assert ours is not None, "a key that is listed has a row"
                    yield Finding(height, "cli.audit.other_state", sentence, _shown(ours), "no such row")
            for key, value in store.iterate(table):
                ours = derived.get(table, key)
                if ours != value:
                    yield Finding(
                        height,
                        "cli.audit.other_state",
                        f"row {key.hex()} of table {table.name} is not what the blocks lead to",
                        "no such row" if ours is None else _shown(ours),
                        _shown(value),
                    )
        except StorageError:
            return  # Told by `find_damaged_rows`.


def _shown(value: bytes) -> str:
    return value.hex() if len(value) <= 64 else f"{value[:64].hex()}… ({len(value)} bytes)"


def _height_of(found: StoreFinding, height: int) -> int:
    if found.table in _BY_HEIGHT and len(found.key) == 8:
        return read_height(found.key)
    return height
