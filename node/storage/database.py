"""One LevelDB of checked rows: reads that verify, synced batches, and a look at every row that damage does not stop.

LevelDB keeps rows in blocks of some 4 KiB, each with a checksum of its own. One bit that flips on the disk therefore makes some forty rows
unreadable, though only one of them has changed. `scan` tells the two apart with the rows' own checksums, and `salvage` reads a row that
holds out of a block that does not.

Only this module and `scratch` import plyvel. Source: docs/spec/storage.md 2, 6.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import plyvel

from node.errors import StorageError
from node.storage.checks import HINT, holds, open_row, row_error, row_key, seal_row
from node.storage.tables import NAMES, TABLE_MAX, show_row

if TYPE_CHECKING:
    from plyvel import _RawIterator

WRITE_BUFFER_BYTES: Final = 16 * 1024 * 1024
"""Measured with 2,250 rows a batch: 4 MiB stalls for up to 950 ms, 16 MiB for 57 ms; reopening takes 24, 68, 140, 165 ms with 4, 16, 32,
64 MiB."""
TABLE_FILE_BYTES: Final = 8 * 1024 * 1024
"""A compaction writes up to 25 of them anew before it removes the old ones, and must fit into `SPACE_RESERVE_BYTES`. Measured while 400 MB
of random rows are written, at most beyond what stays: 169 to 259 MiB with files of 32 MiB, 77 to 127 MiB with these."""
COMPACTION_FILES_MAX: Final = 25
"""LevelDB's bound on what one compaction of a level takes in, in files (`kExpandedCompactionByteSizeLimit`)."""
CACHE_BYTES: Final = 32 * 1024 * 1024
OPEN_FILES_MAX: Final = 512
BLOOM_FILTER_BITS: Final = 10
"""Most reads of admission ask for rows that do not exist (a new transaction id, a free identity)."""

DatabaseError = plyvel.Error
"""What LevelDB raises when a write fails."""
DatabaseCorruptionError = plyvel.CorruptionError
"""The same, when it came across damage in its files."""


@dataclass(frozen=True, slots=True)
class ScannedRow:
    """One row that a scan came across, or a place where it could read none."""

    table: int
    key: bytes
    error: StorageError | None
    """What is wrong here; None for a sound row. ``node.storage.checksum``: the row itself is damaged. ``node.storage.damaged``: it lies
    in a damaged part of a file. ``node.storage.unreadable``: rows after this one may be missing."""
    value_holds: bool = True
    """Whether the row's own checksum holds, so that `salvage` can read it."""


class Snapshot:
    """The rows as they were at one moment, whatever is written later. Close it: LevelDB keeps old rows for it."""

    def __init__(self, snapshot: plyvel.Snapshot, database: Database) -> None:
        self._snapshot = snapshot
        self._database = (
            database  # Kept alive: the files of a database that was replaced go when the last reader is gone.
        )

    def get(self, table: int, key: bytes) -> bytes | None:
        """Return the row's value, or None when there is no such row.

        Raises:
            StorageError: ``node.storage.checksum``, ``node.storage.damaged``.
        """
        return _get(self._snapshot, table, key)

    def iterate(
        self, table: int, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) of the rows with start <= key < stop in the order of the keys, backwards if `reverse`.

        Raises:
            StorageError: ``node.storage.checksum``, ``node.storage.damaged``.
        """
        yield from _iterate(self._snapshot, table, start, stop, reverse=reverse)

    def close(self) -> None:
        """Release the old rows; the snapshot cannot be read any more."""
        self._snapshot.close()

    def __enter__(self) -> Self:
        """Return the snapshot itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the snapshot."""
        self.close()


class Database:
    """One open LevelDB. Use it from any thread; close it when no thread uses it any more."""

    def __init__(self, path: Path) -> None:
        """Open the database, making it when it is not there.

        Raises:
            StorageError: ``node.storage.damaged``.
        """
        self.path = path
        try:
            self._db = plyvel.DB(
                str(path),
                create_if_missing=True,
                # Without this LevelDB drops what it cannot read of its log in silence and opens.
                paranoid_checks=True,
                write_buffer_size=WRITE_BUFFER_BYTES,
                max_file_size=TABLE_FILE_BYTES,
                lru_cache_size=CACHE_BYTES,
                max_open_files=OPEN_FILES_MAX,
                bloom_filter_bits=BLOOM_FILTER_BITS,
                # Signatures and digests do not compress.
                compression=None,
            )
        except plyvel.Error as error:
            raise StorageError(
                "node.storage.damaged",
                f"the database {path} cannot be opened: {error}",
                hint="restore the data directory from a backup, or remove it and let the node join again",
            ) from error

    @property
    def is_empty(self) -> bool:
        """Whether it has no row at all."""
        return next(iter(self._db.iterator(include_value=False)), None) is None

    def get(self, table: int, key: bytes) -> bytes | None:
        """Return the row's value, or None when there is no such row.

        Raises:
            StorageError: ``node.storage.checksum``, ``node.storage.damaged``.
        """
        return _get(self._db, table, key)

    def iterate(
        self, table: int, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) of the rows with start <= key < stop in the order of the keys, backwards if `reverse`.

        What is written during the iteration is not seen by it.

        Raises:
            StorageError: ``node.storage.checksum``, ``node.storage.damaged``.
        """
        # A generator of this method, so that it keeps the database alive that it reads.
        yield from _iterate(self._db, table, start, stop, reverse=reverse)

    def write(self, rows: Mapping[tuple[int, bytes], bytes | None]) -> None:
        """Make all of `rows` durable in one synced batch; None deletes a row.

        Raises:
            DatabaseError: The disk did not take it, or LevelDB found damage; what reached the disk is not known.
        """
        batch = self._db.write_batch(sync=True)
        for (table, key), value in rows.items():
            database_key = row_key(table, key)
            if value is None:
                batch.delete(database_key)
            else:
                batch.put(database_key, seal_row(database_key, value))
        batch.write()

    def snapshot(self) -> Snapshot:
        """Return a reader of the rows as they are now; close it after use."""
        return Snapshot(self._db.snapshot(), self)

    def salvage(self, table: int, key: bytes) -> bytes | None:
        """Return the row's value if its own checksum holds, even out of a damaged part of a file; None when there is nothing to save."""
        database_key = row_key(table, key)
        try:
            stored = self._db.get(database_key, verify_checksums=False, fill_cache=False)
        except plyvel.Error:
            return None
        return None if stored is None or not holds(database_key, stored) else open_row(database_key, stored)

    def scan(self, start: bytes = b"") -> Iterator[ScannedRow]:
        """Yield every row from the database key `start` on, sound or not, as they are when the call is made. Damage does not end it."""
        with self._db.snapshot() as snapshot, ExitStack() as opened:
            sound = opened.enter_context(_Cursor(snapshot.raw_iterator(verify_checksums=True, fill_cache=False), start))
            while not sound.failed:
                if sound.key is None:
                    return
                yield _scanned(sound, in_sound_block=True)
                sound.advance()
            # The first cursor skips every block that does not hold. A second one reads what is in them.
            raw = snapshot.raw_iterator(verify_checksums=False, fill_cache=False)
            every = opened.enter_context(_Cursor(raw, start if sound.before is None else sound.before))
            if every.key is not None and every.key == sound.before:
                every.advance()
            reported = False
            while every.key is not None or sound.key is not None:
                if every.failed and not reported:
                    reported = True
                    yield _gap(every.before if every.before is not None else start)
                if every.key is None or (sound.key is not None and sound.key < every.key):
                    yield _scanned(sound, in_sound_block=True)
                    sound.advance()
                    continue
                in_sound_block = sound.key == every.key
                yield _scanned(every, in_sound_block=in_sound_block)
                if in_sound_block:
                    sound.advance()
                every.advance()
            if every.failed and not reported:
                yield _gap(every.before if every.before is not None else start)

    def close(self) -> None:
        """Close the database; calling it again does nothing."""
        self._db.close()


class _Cursor:
    """A raw iterator that goes on behind damage, and remembers that it met some."""

    def __init__(self, iterator: _RawIterator, start: bytes) -> None:
        self._iterator = iterator
        self.failed = False
        """Whether something could not be read. LevelDB says so again at every later step, so it is known only once."""
        self.before: bytes | None = None
        """The database key before `key`; None at the beginning."""
        self.key: bytes | None = None
        """The database key where it stands; None behind the last one."""
        self.value = b""
        """What is stored there."""
        with self._noting_failure():
            iterator.seek(start)
        self._read()

    def advance(self) -> None:
        """Go to the next row that can be read."""
        if not self.failed:
            self.before = self.key
        with self._noting_failure():
            self._iterator.next()
        self._read()

    def _read(self) -> None:
        self.key = None
        while self._iterator.valid():
            try:
                self.key, self.value = self._iterator.item()
            except plyvel.Error:
                self.failed = True
                with self._noting_failure():
                    self._iterator.next()
            else:
                return

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except plyvel.Error:
            self.failed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._iterator.close()


def _scanned(cursor: _Cursor, *, in_sound_block: bool) -> ScannedRow:
    database_key = cursor.key
    assert database_key is not None
    table, key = database_key[0] if database_key else 0, database_key[1:]
    if not holds(database_key, cursor.value):
        return ScannedRow(
            table,
            key,
            row_error("node.storage.checksum", table, key, "is damaged: its checksum does not hold"),
            value_holds=False,
        )
    if not in_sound_block:
        return ScannedRow(table, key, row_error("node.storage.damaged", table, key, "lies in a damaged part of a file"))
    return ScannedRow(table, key, None)


def _gap(before: bytes) -> ScannedRow:
    table, key = before[0] if before else 0, before[1:]
    error = StorageError(
        "node.storage.unreadable",
        f"rows are lost in a part of a file that cannot be read, after {show_row(table, key)}",
        hint=HINT,
        details={"table": table, "key": key.hex()},
    )
    return ScannedRow(table, key, error, value_holds=False)


def _get(database: plyvel.DB | plyvel.Snapshot, table: int, key: bytes) -> bytes | None:
    database_key = row_key(table, key)
    try:
        stored = database.get(database_key, verify_checksums=True)
    except plyvel.Error as error:
        raise row_error("node.storage.damaged", table, key, f"cannot be read: {error}") from error
    return None if stored is None else open_row(database_key, stored)


def _iterate(
    database: plyvel.DB | plyvel.Snapshot, table: int, start: bytes, stop: bytes | None, *, reverse: bool
) -> Iterator[tuple[bytes, bytes]]:
    iterator = database.iterator(
        start=row_key(table, start),
        stop=_table_stop(table) if stop is None else row_key(table, stop),
        include_start=True,
        include_stop=False,
        reverse=reverse,
        verify_checksums=True,
        fill_cache=False,
    )
    last = start
    try:
        for database_key, stored in iterator:
            last = database_key[1:]
            yield last, open_row(database_key, stored)
    except plyvel.Error as error:
        raise StorageError(
            "node.storage.damaged",
            f"LevelDB cannot read table {table} ({NAMES.get(table, 'unknown')}) near {show_row(table, last)}: {error}",
            hint=HINT,
            details={"table": table},
        ) from error


def _table_stop(table: int) -> bytes | None:
    """Return the first key after the table's; None, the end of the database, for the last table."""
    return bytes((table + 1,)) if table < TABLE_MAX else None
