"""One machine's disk, and the store that the node sees on it: the interface of `node.storage.leveldb.Store`, with faults.

What a crash leaves depends on the crash. When a process is killed, everything that it handed to the operating system is there. When the
power fails, what was not synced may be there, or be lost, or be torn; torn batches are dropped when the store is opened, as LevelDB does.
A flipped bit stays until something overwrites the row, and is found by the row's checksum (`node.storage.checks`, the production code).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from pathlib import Path
from random import Random

from ledger.snapshot import SnapshotManifest
from node.errors import StorageError, StorageFailedError
from node.storage.checks import open_row, row_key, seal_row
from node.storage.database import DatabaseError, ScannedRow
from wire.hashing import Digest

Rows = dict[bytes, bytes]
Boundary = Callable[[str], None]
"""Called between any two effects with what comes next; raises when the machine ends there."""


class SimDisk:
    """What outlives a process."""

    def __init__(self, name: str, random: Random) -> None:
        self.name = name
        self.random = random
        self.tables: dict[int, Rows] = {}
        self.unsynced: list[dict[tuple[int, bytes], bytes | None]] = []
        """For each batch that no sync has covered yet: the rows as they were before it."""
        self.in_doubt: list[dict[tuple[int, bytes], bytes | None]] = []
        """Batches whose sync has failed."""
        self.batches = 0
        """Batches in the database."""
        self.high_water = 0
        """Batches that were acknowledged; written without sync."""
        self.high_water_synced = 0
        self.damaged: set[tuple[int, bytes]] = set()
        """Rows in which a bit is wrong."""
        self.wants_repair = False
        """Whether the next start must look at every row first."""
        self.snapshots: dict[int, tuple[SnapshotManifest, tuple[bytes, ...]]] = {}
        """Whole snapshots by height: manifest and chunks."""
        self.incoming: dict[Digest, tuple[SnapshotManifest, dict[int, bytes]]] = {}
        """Snapshots that are being fetched, by id: manifest, and the chunks that are here by number."""
        self.checkpoint: bytes | None = None
        """The highest checkpoint that was seen."""
        self.is_nearly_full = False
        self.is_full = False
        self.sync_fails = False

    def get(self, table: int, key: bytes) -> bytes | None:
        return self.tables.get(table, {}).get(key)

    def apply(self, rows: Mapping[tuple[int, bytes], bytes | None]) -> None:
        """Make a whole batch visible. It is durable after the next `sync`."""
        before: dict[tuple[int, bytes], bytes | None] = {}
        for (table, key), stored in rows.items():
            before[int(table), key] = self.get(table, key)
            self._put(int(table), key, stored)
        self.batches += 1
        self.unsynced.append(before)

    def sync(self) -> None:
        self.unsynced.clear()

    def replace(self, tables: dict[int, Rows]) -> None:
        """Put another database in the place of this one, durably."""
        self.tables = tables
        self.batches += 1
        self.unsynced.clear()
        self.damaged.clear()

    def lose_power(self) -> int:
        """Lose a random part of what was not synced; return how many batches are gone."""
        kept = self.random.randint(0, len(self.unsynced))
        lost = len(self.unsynced) - kept
        for before in reversed(self.unsynced[kept:]):
            for (table, key), stored in before.items():
                self._put(table, key, stored)
        self.batches -= lost
        self.unsynced.clear()
        self.high_water = self.random.randint(self.high_water_synced, self.high_water)
        self.high_water_synced = self.high_water
        return lost

    def flip_bit(self) -> tuple[int, bytes] | None:
        """Damage one row, the kinds of rows being equally likely; return its place."""
        table = self.random.choice([number for number, rows in sorted(self.tables.items()) if rows])
        key = self.random.choice(sorted(self.tables[table]))
        if (table, key) in self.damaged:
            return None
        stored = bytearray(self.tables[table][key])
        stored[self.random.randrange(len(stored))] ^= 1 << self.random.randrange(8)
        self.tables[table][key] = bytes(stored)
        self.damaged.add((table, key))
        return table, key

    def _put(self, table: int, key: bytes, stored: bytes | None) -> None:
        rows = self.tables.setdefault(table, {})
        self.damaged.discard((table, key))
        if stored is None:
            rows.pop(key, None)
        else:
            rows[key] = stored


class SimSnapshot:
    """The rows as they were at one moment."""

    def __init__(self, tables: Mapping[int, Rows]) -> None:
        self._tables = {table: copy(rows) for table, rows in tables.items()}

    def get(self, table: int, key: bytes) -> bytes | None:
        return read_row(self._tables.get(table, {}), table, key)

    def iterate(
        self, table: int, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return list_rows(self._tables.get(table, {}), table, start, stop, reverse=reverse)

    def close(self) -> None:
        self._tables = {}

    def __enter__(self) -> SimSnapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SimDatabase:
    """Another database beside the one in use; it counts nothing before `SimStore.switch`, and is gone when the process ends."""

    def __init__(self, path: Path, disk: SimDisk, boundary: Boundary) -> None:
        self.path = path
        self.tables: dict[int, Rows] = {}
        self._disk = disk
        self._boundary = boundary

    def get(self, table: int, key: bytes) -> bytes | None:
        return read_row(self.tables.get(table, {}), table, key)

    def iterate(
        self, table: int, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return list_rows(self.tables.get(table, {}), table, start, stop, reverse=reverse)

    def write(self, rows: Mapping[tuple[int, bytes], bytes | None]) -> None:
        self._boundary("write beside")
        if self._disk.is_full or self._disk.sync_fails:
            raise DatabaseError("input/output error")
        for (table, key), value in rows.items():
            table_rows = self.tables.setdefault(int(table), {})
            if value is None:
                table_rows.pop(key, None)
            else:
                table_rows[key] = seal_row(row_key(table, key), value)

    def close(self) -> None:
        """Nothing is open."""


class SimStore:
    """The store of one process on a disk. As in production, one failed write is the last."""

    def __init__(self, disk: SimDisk, boundary: Boundary) -> None:
        """Open the disk.

        Raises:
            StorageError: ``node.storage.lost_writes`` when acknowledged batches are gone.
        """
        self.disk = disk
        self.path = Path("/simulated") / disk.name
        self._boundary = boundary
        self._failed = False
        self._damage: dict[tuple[int, bytes], StorageError] = {}
        for rows in disk.in_doubt:
            if disk.random.random() < 0.5:
                disk.apply(rows)
        disk.in_doubt.clear()
        if disk.batches < disk.high_water:
            raise StorageError(
                "node.storage.lost_writes", f"{disk.name} lost {disk.high_water - disk.batches} acknowledged writes"
            )
        # LevelDB writes what it recovers from its log into a new file, and syncs that.
        self.sync()

    def get(self, table: int, key: bytes) -> bytes | None:
        try:
            return read_row(self.disk.tables.get(table, {}), table, key)
        except StorageError as error:
            self._damage[table, key] = error
            raise

    def salvage(self, table: int, key: bytes) -> bytes | None:
        return self.get(table, key) if self.is_sound(table, key) else None

    def is_sound(self, table: int, key: bytes) -> bool:
        try:
            read_row(self.disk.tables.get(table, {}), table, key)
        except StorageError:
            return False
        return True

    def take_damage(self) -> dict[tuple[int, bytes], StorageError]:
        taken, self._damage = self._damage, {}
        return taken

    def own_rows(self) -> dict[tuple[int, bytes], bytes]:
        return {}

    @property
    def needs_repair(self) -> bool:
        return self.disk.wants_repair

    def ask_for_repair(self, findings: Iterable[str]) -> None:
        del findings
        if not self.disk.is_full:
            self.disk.wants_repair = True

    def repair_done(self) -> None:
        self.disk.wants_repair = False

    def iterate(
        self, table: int, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return list_rows(self.disk.tables.get(table, {}), table, start, stop, reverse=reverse)

    def snapshot(self) -> SimSnapshot:
        return SimSnapshot(self.disk.tables)

    def has_space(self) -> bool:
        return not (self.disk.is_nearly_full or self.disk.is_full)

    def free_bytes(self) -> int:
        return 1 << 40 if self.has_space() else 0

    def new_database(self) -> SimDatabase:
        return SimDatabase(self.path, self.disk, self._boundary)

    def discard(self, database: SimDatabase) -> None:
        database.tables = {}

    def switch(self, database: SimDatabase) -> None:
        """Put the database in the place of the one in use: the machine ends before it, or after it."""
        if self._failed:
            raise self._failure("an earlier write failed")
        self._boundary("switch")
        if self.disk.is_full or self.disk.sync_fails:
            self._failed = True
            raise self._failure("input/output error")
        self.disk.replace(database.tables)
        self.disk.high_water = self.disk.batches
        self._boundary("switched")

    def scan(self, start: bytes = b"") -> Iterator[ScannedRow]:
        for table, rows in sorted(self.disk.tables.items()):
            for key in sorted(rows):
                if row_key(table, key) < start:
                    continue
                try:
                    read_row(rows, table, key)
                except StorageError as error:
                    yield ScannedRow(table, key, error, value_holds=False)
                else:
                    yield ScannedRow(table, key, None)

    def write(self, rows: Mapping[tuple[int, bytes], bytes | None]) -> None:
        """Make a batch durable, or fail, or end with the machine: before it, within it, or after it."""
        disk = self.disk
        if self._failed:
            raise self._failure("an earlier write failed")
        self._boundary("write")
        if disk.is_full:
            self._failed = True
            raise self._failure("no space left on device")
        sealed = {
            (int(table), key): None if value is None else seal_row(row_key(table, key), value)
            for (table, key), value in rows.items()
        }
        if disk.sync_fails:
            # What a failed sync leaves is unknown until the next start; this process does not see it, as LevelDB has it.
            self._failed = True
            disk.in_doubt.append(sealed)
            raise self._failure("input/output error")
        # A crash from here to the sync leaves a batch that is complete in the page cache, or torn: then it is dropped at the next start.
        self._boundary("torn write")
        disk.apply(sealed)
        self._boundary("unsynced write")
        self.sync()
        self._boundary("written")
        disk.high_water = disk.batches

    def sync(self) -> None:
        """Make durable what was written."""
        self.disk.sync()

    def close(self) -> None:
        """Nothing is open."""

    def _failure(self, reason: str) -> StorageFailedError:
        return StorageFailedError("node.storage.write_failed", f"writing to {self.path} failed: {reason}")


def read_row(rows: Rows, table: int, key: bytes) -> bytes | None:
    """Return the row after verifying its checksum, as production does."""
    stored = rows.get(key)
    return None if stored is None else open_row(row_key(table, key), stored)


def list_rows(
    rows: Rows, table: int, start: bytes, stop: bytes | None, *, reverse: bool
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows with start <= key < stop, checked, in order of key."""
    for key in sorted((key for key in rows if key >= start and (stop is None or key < stop)), reverse=reverse):
        yield key, open_row(row_key(table, key), rows[key])
