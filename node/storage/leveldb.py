"""The store: checked rows in one LevelDB, owned by one process, one node identity and one incarnation.

* A write is one synced batch: all of it is durable when the call returns, or the store has failed and the node must stop. Nothing is ever
  written without sync: LevelDB may keep a later synced row and lose an earlier unsynced one.
* After one failed write every further one fails: LevelDB itself keeps failing then, and what reached the disk is known only after a
  restart.
* Every read verifies the row's checksum.
* Every batch carries its number, and the file ``HIGH_WATER`` beside the database says which number was acknowledged last: LevelDB takes
  damage at the very end of its log for a write that was never finished, and would come back without the last acknowledged batch.

All calls block. `write` belongs into a thread; `get` of a single row takes microseconds and may run on the event loop.
This is the only module that imports plyvel. Source: docs/spec/storage.md.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import plyvel

from node.clock import random_bytes
from node.errors import StorageError, StorageFailedError, StorageRefusedError
from node.storage.checks import CHECKSUM_BYTES, open_row, row_key, seal_row
from wire.codec import decode_untrusted, encode
from wire.errors import MalformedError
from wire.fields import as_bytes, as_int, as_text, as_tuple

if TYPE_CHECKING:
    from wire.keys import KeyId

STORE_VERSION: Final = 1
"""The layout of docs/spec/storage.md; another version is refused."""

TABLE_STORE: Final = 64
"""Rows about the data directory itself. Tables below 64 belong to the ledger, those from 64 on to node/storage."""
TABLE_MAX: Final = 255
_OWNER_KEY: Final = b"owner"
_SEQUENCE_KEY: Final = b"sequence"
_OWNER_BYTES_MAX: Final = 1024

INCARNATION_BYTES: Final = 16
HIGH_WATER_FILE: Final = "HIGH_WATER"
_SEQUENCE_BYTES: Final = 8
_HIGH_WATER_BYTES: Final = _SEQUENCE_BYTES + CHECKSUM_BYTES

WRITE_BUFFER_BYTES: Final = 16 * 1024 * 1024
"""Measured with 2,250 rows a batch: 4 MiB stalls for up to 950 ms, 16 MiB for 57 ms; reopening takes 24, 68, 140, 165 ms with 4, 16, 32,
64 MiB."""
TABLE_FILE_BYTES: Final = 32 * 1024 * 1024
CACHE_BYTES: Final = 32 * 1024 * 1024
OPEN_FILES_MAX: Final = 256
BLOOM_FILTER_BITS: Final = 10
"""Most reads of admission ask for rows that do not exist (a new transaction id, a free identity)."""

SPACE_RESERVE_BYTES: Final = 256 * 1024 * 1024
"""Below this much free space the node admits no transactions, so that what is already ordered can still be written."""

_SEQUENCE_ROW: Final = row_key(TABLE_STORE, _SEQUENCE_KEY)


class Snapshot:
    """The rows as they were at one moment, whatever is written later. Close it: LevelDB keeps old rows for it."""

    def __init__(self, snapshot: plyvel.Snapshot) -> None:
        self._snapshot = snapshot

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
        return _iterate(self._snapshot, table, start, stop, reverse=reverse)

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


class Store:
    """One open data directory. Make it with `Store.open`; use it from any thread; close it when no thread uses it any more."""

    def __init__(
        self,
        path: Path,
        *,
        lock_descriptor: int,
        high_water_descriptor: int,
        database: plyvel.DB,
        incarnation: bytes,
        sequence: int,
    ) -> None:
        self.path = path
        self.incarnation = incarnation
        """16 bytes, made with the data directory: a node whose disk was wiped comes back as another incarnation."""
        self._lock_descriptor = lock_descriptor
        self._high_water_descriptor = high_water_descriptor
        self._database = database
        self._sequence = sequence
        self._failed: str | None = None

    @classmethod
    def open(cls, path: Path, *, chain_id: str, node_key_id: KeyId, incarnation_file: Path | None = None) -> Store:
        """Open the data directory `path`, making it when it is not there, and return the store that owns it.

        Args:
            path: The directory; holds the file ``LOCK`` and the LevelDB ``db``.
            chain_id: The network whose blocks are stored.
            node_key_id: Whose replica this is.
            incarnation_file: A file outside `path` that remembers the incarnation. When it exists, a data directory that is new or has
                another incarnation is refused: a validator that lost its log must not vote as if it remembered.

        Raises:
            StorageRefusedError: ``node.storage.in_use``, ``node.storage.foreign_directory``, ``node.storage.wiped``.
            StorageError: ``node.storage.damaged``, ``node.storage.checksum``, ``node.storage.lost_writes``.
            StorageFailedError: ``node.storage.write_failed``.
        """
        lock_descriptor = _lock(path)
        with ExitStack() as undo:
            undo.callback(os.close, lock_descriptor)
            remembered = _read_incarnation(incarnation_file)
            database = _open_database(path / "db")
            undo.callback(database.close)
            high_water_descriptor = os.open(path / HIGH_WATER_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, high_water_descriptor)
            sequence = _check_sequence(database, path, high_water_descriptor)
            incarnation = _own(database, path, chain_id, node_key_id, remembered)
            if incarnation_file is not None and remembered is None:
                _remember_incarnation(incarnation_file, incarnation)
            undo.pop_all()
        return cls(
            path,
            lock_descriptor=lock_descriptor,
            high_water_descriptor=high_water_descriptor,
            database=database,
            incarnation=incarnation,
            sequence=sequence,
        )

    def get(self, table: int, key: bytes) -> bytes | None:
        """Return the row's value, or None when there is no such row.

        Raises:
            StorageError: ``node.storage.checksum``, ``node.storage.damaged``.
        """
        return _get(self._database, table, key)

    def iterate(
        self, table: int, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) of the rows with start <= key < stop in the order of the keys, backwards if `reverse`.

        What is written during the iteration is not seen by it.

        Raises:
            StorageError: ``node.storage.checksum``, ``node.storage.damaged``.
        """
        return _iterate(self._database, table, start, stop, reverse=reverse)

    def write(self, rows: Mapping[tuple[int, bytes], bytes | None]) -> None:
        """Make all of `rows` durable in one batch; None deletes a row. Blocks until the disk has it (0.2 to 100 ms).

        Raises:
            StorageFailedError: ``node.storage.write_failed``; the store takes no further writes, the node must stop.
        """
        if self._failed is not None:
            raise _write_failed(self.path, self._failed)
        try:
            batch = self._database.write_batch(sync=True)
            for (table, key), value in rows.items():
                database_key = row_key(table, key)
                if value is None:
                    batch.delete(database_key)
                else:
                    batch.put(database_key, seal_row(database_key, value))
            sequence = (self._sequence + 1).to_bytes(_SEQUENCE_BYTES, "big")
            batch.put(_SEQUENCE_ROW, seal_row(_SEQUENCE_ROW, sequence))
            batch.write()
            # Not synced: what it says may be old after a power failure, never wrong.
            os.pwrite(self._high_water_descriptor, seal_row(_SEQUENCE_ROW, sequence), 0)
            self._sequence += 1
        except (plyvel.Error, OSError) as error:
            self._failed = str(error)
            raise _write_failed(self.path, self._failed) from error

    def snapshot(self) -> Snapshot:
        """Return a reader of the rows as they are now; close it after use."""
        return Snapshot(self._database.snapshot())

    def scan(self) -> Iterator[tuple[int, bytes, StorageError | None]]:
        """Yield table, key and what is wrong, or None, for every row of every table; goes on after a damaged row.

        Raises:
            StorageError: ``node.storage.damaged`` when LevelDB itself cannot go on.
        """
        iterator = self._database.iterator(verify_checksums=True, fill_cache=False)
        try:
            for database_key, stored in iterator:
                found = None
                try:
                    open_row(database_key, stored)
                except StorageError as error:
                    found = error
                yield database_key[0], database_key[1:], found
        except plyvel.Error as error:
            raise StorageError(
                "node.storage.damaged", f"LevelDB cannot read on: {error}", hint="restore the directory from a backup"
            ) from error

    def has_space(self) -> bool:
        """Return whether the file system has more than `SPACE_RESERVE_BYTES` left for us."""
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize > SPACE_RESERVE_BYTES

    def close(self) -> None:
        """Close the database and give up the directory; calling it again does nothing."""
        if self._lock_descriptor >= 0:
            self._database.close()
            os.close(self._high_water_descriptor)
            os.close(self._lock_descriptor)
            self._lock_descriptor = -1


def _lock(path: Path) -> int:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise StorageRefusedError(
            "node.storage.in_use",
            f"another process{f' ({holder})' if holder else ''} uses the data directory {path}",
            hint="stop the other node first",
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"pid {os.getpid()}\n".encode("ascii"), 0)
    return descriptor


def _open_database(path: Path) -> plyvel.DB:
    try:
        return plyvel.DB(
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


def _own(database: plyvel.DB, path: Path, chain_id: str, node_key_id: KeyId, remembered: bytes | None) -> bytes:
    """Return the incarnation of a directory that is ours, claiming it when it is new."""
    row = _get(database, TABLE_STORE, _OWNER_KEY)
    if row is not None:
        version, stored_chain_id, stored_key_id, incarnation = _decode_owner(row)
        owner = (
            ("storage version", STORE_VERSION, version),
            ("network", chain_id, stored_chain_id),
            ("node key", bytes(node_key_id), stored_key_id),
            ("incarnation", incarnation if remembered is None else remembered, incarnation),
        )
        for what, expected, actual in owner:
            if expected != actual:
                raise StorageRefusedError(
                    "node.storage.foreign_directory",
                    f"the data directory {path} belongs to another {what}",
                    hint="point the node at its own data directory, or at an empty one",
                    expected=expected,
                    actual=actual,
                )
        return incarnation
    if next(iter(database.iterator(include_value=False)), None) is not None:
        raise StorageError(
            "node.storage.damaged",
            f"the database in {path} holds rows but does not say whose they are",
            hint="restore it from a backup",
        )
    if remembered is not None:
        raise StorageRefusedError(
            "node.storage.wiped",
            f"this node had a data directory before, and {path} is empty",
            hint="restore the directory, or let the network admit this node anew",
        )
    incarnation = random_bytes(INCARNATION_BYTES)
    database_key = row_key(TABLE_STORE, _OWNER_KEY)
    owner_row = encode((STORE_VERSION, chain_id, bytes(node_key_id), incarnation))
    try:
        database.put(database_key, seal_row(database_key, owner_row), sync=True)
    except plyvel.Error as error:
        raise _write_failed(path, str(error)) from error
    return incarnation


def _check_sequence(database: plyvel.DB, path: Path, high_water_descriptor: int) -> int:
    """Return the number of the last batch in the database, which must be at least the last one that was acknowledged."""
    row = _get(database, TABLE_STORE, _SEQUENCE_KEY)
    sequence = 0 if row is None else int.from_bytes(row, "big")
    stored = os.pread(high_water_descriptor, _HIGH_WATER_BYTES + 1, 0)
    try:
        # Empty: a new directory, or a power failure right after it was made.
        high_water = int.from_bytes(open_row(_SEQUENCE_ROW, stored), "big") if stored else 0
    except StorageError as error:
        raise StorageError(
            "node.storage.damaged",
            f"the file {path / HIGH_WATER_FILE} is not what this node wrote",
            hint="restore the data directory from a backup, or remove it and let the node join again",
        ) from error
    if sequence < high_water:
        raise StorageError(
            "node.storage.lost_writes",
            f"the database in {path} has lost its last {high_water - sequence} acknowledged writes",
            hint="restore the data directory from a backup, or remove it and let the node join again",
            expected=high_water,
            actual=sequence,
        )
    return sequence


def _decode_owner(row: bytes) -> tuple[int, str, bytes, bytes]:
    try:
        version, chain_id, node_key_id, incarnation = as_tuple(
            decode_untrusted(row, bytes_max=_OWNER_BYTES_MAX), "owner", length=4
        )
        return (
            as_int(version, "version"),
            as_text(chain_id, "chain_id", _OWNER_BYTES_MAX),
            as_bytes(node_key_id, "node_key_id", length=32),
            as_bytes(incarnation, "incarnation", length=INCARNATION_BYTES),
        )
    except MalformedError as error:
        raise StorageError(
            "node.storage.damaged", f"the row that names the directory's owner is malformed: {error}"
        ) from error


def _read_incarnation(file: Path | None) -> bytes | None:
    if file is None or not file.exists():
        return None
    try:
        return as_bytes(bytes.fromhex(file.read_text("ascii").strip()), "incarnation", length=INCARNATION_BYTES)
    except ValueError as error:
        raise StorageError("node.storage.damaged", f"{file} does not hold an incarnation") from error
    except MalformedError as error:
        raise StorageError("node.storage.damaged", f"{file} does not hold an incarnation: {error}") from error


def _remember_incarnation(file: Path, incarnation: bytes) -> None:
    temporary = file.with_name(file.name + ".tmp")
    try:
        with open(temporary, "w", encoding="ascii") as stream:
            stream.write(incarnation.hex() + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
        directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _write_failed(file, str(error)) from error


def _get(database: plyvel.DB | plyvel.Snapshot, table: int, key: bytes) -> bytes | None:
    database_key = row_key(table, key)
    try:
        stored = database.get(database_key, verify_checksums=True)
    except plyvel.Error as error:
        raise _damaged(table, error) from error
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
    try:
        for database_key, stored in iterator:
            yield database_key[1:], open_row(database_key, stored)
    except plyvel.Error as error:
        raise _damaged(table, error) from error


def _table_stop(table: int) -> bytes | None:
    """Return the first key after the table's; None, the end of the database, for the last table."""
    return bytes((table + 1,)) if table < TABLE_MAX else None


def _damaged(table: int, error: Exception) -> StorageError:
    return StorageError(
        "node.storage.damaged",
        f"LevelDB cannot read table {table}: {error}",
        hint="restore the data directory from a backup, or remove it and let the node join again",
        details={"table": table},
    )


def _write_failed(path: Path, reason: str) -> StorageFailedError:
    return StorageFailedError(
        "node.storage.write_failed",
        f"writing to {path} failed: {reason}",
        hint="check the disk and its free space, then start the node again; nothing that was acknowledged is lost",
    )
