"""The tables of a replay: in memory as long as they are small, and in a temporary database from then on.

What a replay must remember grows with the chain: every executed transaction's id, every record of the state, every page of its tree. Only
a small part of it is asked for again, but nobody knows which. So rows that were written or asked for lately are held in memory; when they
take more than `HOT_BYTES_MAX`, all of them move to the database and memory begins anew.

Source: docs/spec/audit.md 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from ledger.keyspace import Table, WriteSet

if TYPE_CHECKING:
    from node.storage.scratch import Scratch

HOT_BYTES_MAX: Final = 96 * 1024 * 1024
"""Estimated memory of the rows held; half a million transaction ids."""
ROW_BYTES: Final = 160
"""What Python needs for a row besides its key and value, about."""


class AuditTables:
    """Tables for `ledger.audit.Auditor`; use them with `with`.

    Args:
        hot_bytes_max: How much memory the rows may take, about.
        is_recorded: Whether `take_changes` will be asked: what is written is kept until then.
    """

    def __init__(self, *, hot_bytes_max: int = HOT_BYTES_MAX, is_recorded: bool = False) -> None:
        self._hot_bytes_max = hot_bytes_max
        self._hot: dict[Table, dict[bytes, bytes | None]] = {table: {} for table in Table}
        self._hot_bytes = 0
        self._cold: Scratch | None = None
        self._changes: WriteSet | None = {} if is_recorded else None

    def __enter__(self) -> AuditTables:
        """Return the tables, empty."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the database, if there is one."""
        if self._cold is not None:
            self._cold.close()

    @property
    def has_spilled(self) -> bool:
        """Whether a part of the rows is in a database."""
        return self._cold is not None

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value under `key`, or None."""
        try:
            return self._hot[table][key]
        except KeyError:
            if self._cold is None:
                return None
        value = self._cold.get(table, key)
        if value is not None:
            self._hold(table, key, value)
        return value

    def keys(self, table: Table) -> Iterator[bytes]:
        """Yield the key of every row of a table once; nothing may be written meanwhile."""
        hot = dict(self._hot[table])
        yield from (key for key, value in hot.items() if value is not None)
        if self._cold is not None:
            yield from (key for key in self._cold.keys(table) if key not in hot)

    def apply(self, writes: Mapping[tuple[Table, bytes], bytes | None]) -> None:
        """Make every change of `writes` visible."""
        if self._changes is not None:
            self._changes.update(writes)
        for (table, key), value in writes.items():
            self._hold(table, key, value)
        if self._hot_bytes > self._hot_bytes_max:
            self._spill()

    def take_changes(self) -> WriteSet:
        """Return what was written since the last call."""
        assert self._changes is not None, "changes are recorded only where somebody takes them"
        changes, self._changes = self._changes, {}
        return changes

    def _hold(self, table: Table, key: bytes, value: bytes | None) -> None:
        # A row that is written again counts again: then the rows move a little early.
        self._hot_bytes += ROW_BYTES + len(key) + (0 if value is None else len(value))
        self._hot[table][key] = value

    def _spill(self) -> None:
        if self._cold is None:
            from node.storage.scratch import Scratch

            self._cold = Scratch()
        for table, rows in self._hot.items():
            self._cold.write(table, rows)
            rows.clear()
        self._hot_bytes = 0
