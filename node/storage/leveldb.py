"""The store: one LevelDB of checked rows, owned by one process, one node identity and one incarnation.

* A write is one synced batch: all of it is durable when the call returns, or the store has failed and the node must stop. Nothing is ever
  written without sync: LevelDB may keep a later synced row and lose an earlier unsynced one.
* After one failed write every further one fails: LevelDB itself keeps failing then, and what reached the disk is known only after a
  restart.
* Every read verifies the row's checksum, and what a read found damaged is remembered until somebody asks (`take_damage`).
* Every batch carries its number, and the file ``HIGH_WATER`` beside the database says which number was acknowledged last: LevelDB takes
  damage at the very end of its log for a write that was never finished, and would come back without the last acknowledged batch.
* The whole database can be replaced by another one in one step (`new_database`, `switch`): that is how a snapshot is installed, and how a
  damaged store is made anew.

All calls block. `write` belongs into a thread; `get` of a single row takes microseconds and may run on the event loop.
Source: docs/spec/storage.md.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

from node.clock import random_bytes
from node.errors import StorageError, StorageFailedError, StorageRefusedError
from node.storage.checks import CHECKSUM_BYTES, HINT, open_row, row_key, seal_row
from node.storage.database import Database, DatabaseCorruptionError, DatabaseError, ScannedRow, Snapshot
from node.storage.tables import TABLE_STORE
from wire.codec import decode_untrusted, encode
from wire.errors import MalformedError
from wire.fields import as_bytes, as_int, as_text, as_tuple

if TYPE_CHECKING:
    from wire.keys import KeyId

STORE_VERSION: Final = 1
"""The layout of docs/spec/storage.md; another version is refused."""

_OWNER_KEY: Final = b"owner"
_SEQUENCE_KEY: Final = b"sequence"
_OWNER_BYTES_MAX: Final = 1024

INCARNATION_BYTES: Final = 16
HIGH_WATER_FILE: Final = "HIGH_WATER"
DATABASE_FILE: Final = "DATABASE"
"""Names the directory of the database in use; without it that is `FIRST_DATABASE`."""
FIRST_DATABASE: Final = "db"
REPAIR_FILE: Final = "REPAIR"
"""Present when damage was found that only the next start can repair; says what, for people."""
DAMAGE_MAX: Final = 1000
"""Damaged rows remembered at once; the scrubbing finds the others again."""
_DATABASE_NAME: Final = re.compile(r"db(?:-([1-9][0-9]{0,9}))?")
_SEQUENCE_BYTES: Final = 8
_HIGH_WATER_BYTES: Final = _SEQUENCE_BYTES + CHECKSUM_BYTES

SPACE_RESERVE_BYTES: Final = 256 * 1024 * 1024
"""Below this much free space the node admits no transactions, so that what is already ordered can still be written."""

_SEQUENCE_ROW: Final = row_key(TABLE_STORE, _SEQUENCE_KEY)


class Store:
    """One open data directory. Make it with `Store.open`; use it from any thread; close it when no thread uses it any more."""

    def __init__(
        self,
        path: Path,
        *,
        lock_descriptor: int,
        high_water_descriptor: int,
        database: Database,
        incarnation: bytes,
        owner_row: bytes,
        sequence: int,
    ) -> None:
        self.path = path
        self.incarnation = incarnation
        """16 bytes, made with the data directory: a node whose disk was wiped comes back as another incarnation."""
        self._lock_descriptor = lock_descriptor
        self._high_water_descriptor = high_water_descriptor
        self._database = database
        self._owner_row = owner_row
        self._sequence = sequence
        self._writing = Lock()
        self._failed: str | None = None
        self._damage: dict[tuple[int, bytes], StorageError] = {}

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
            name = _database_name(path)
            _remove_databases(path, keep=name)
            database = Database(path / name)
            undo.callback(database.close)
            high_water_descriptor = os.open(path / HIGH_WATER_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, high_water_descriptor)
            damaged: list[str] = []
            sequence = _check_sequence(database, path, high_water_descriptor, damaged)
            owner_row = _own(database, path, chain_id, node_key_id, remembered=remembered, damaged=damaged)
            incarnation = _decode_owner(owner_row)[-1]
            if incarnation_file is not None and remembered is None:
                _remember_incarnation(incarnation_file, incarnation)
            undo.pop_all()
        store = cls(
            path,
            lock_descriptor=lock_descriptor,
            high_water_descriptor=high_water_descriptor,
            database=database,
            incarnation=incarnation,
            owner_row=owner_row,
            sequence=sequence,
        )
        if damaged:
            store.ask_for_repair(damaged)
        return store

    # Reading

    def get(self, table: int, key: bytes) -> bytes | None:
        """Return the row's value, or None when there is no such row.

        Raises:
            StorageError: ``node.storage.checksum``, ``node.storage.damaged``.
        """
        try:
            return self._database.get(table, key)
        except StorageError as error:
            self.note_damage(table, key, error)
            raise

    def iterate(
        self, table: int, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key, value) of the rows with start <= key < stop in the order of the keys, backwards if `reverse`.

        What is written during the iteration is not seen by it.

        Raises:
            StorageError: ``node.storage.checksum``, ``node.storage.damaged``.
        """
        return self._database.iterate(table, start, stop, reverse=reverse)

    def snapshot(self) -> Snapshot:
        """Return a reader of the rows as they are now; close it after use."""
        return self._database.snapshot()

    def scan(self, start: bytes = b"") -> Iterator[ScannedRow]:
        """Yield every row of every table from the database key `start` on with what is wrong with it; goes on behind damage."""
        return self._database.scan(start)

    def salvage(self, table: int, key: bytes) -> bytes | None:
        """Return the row's value if its own checksum holds, even out of a damaged part of a file; None when there is nothing to save."""
        return self._database.salvage(table, key)

    def is_sound(self, table: int, key: bytes) -> bool:
        """Return whether the row can be read, or is not there; nothing is remembered for `take_damage`."""
        try:
            self._database.get(table, key)
        except StorageError:
            return False
        return True

    def note_damage(self, table: int, key: bytes, error: StorageError) -> None:
        """Remember that a row was found damaged, for `take_damage`."""
        if len(self._damage) < DAMAGE_MAX:
            self._damage[table, key] = error

    def take_damage(self) -> dict[tuple[int, bytes], StorageError]:
        """Return the rows that reads have found damaged since the last call."""
        taken, self._damage = self._damage, {}
        return taken

    # Writing

    def write(self, rows: Mapping[tuple[int, bytes], bytes | None]) -> None:
        """Make all of `rows` durable in one batch; None deletes a row. Blocks until the disk has it (0.2 to 100 ms).

        Raises:
            StorageFailedError: ``node.storage.write_failed``, or ``node.storage.damaged`` when LevelDB came across a damaged file; the
                store takes no further writes, the node must stop.
        """
        with self._writing:
            if self._failed is not None:
                raise _write_failed(self.path, self._failed)
            try:
                sequence = (self._sequence + 1).to_bytes(_SEQUENCE_BYTES, "big")
                self._database.write({**rows, (TABLE_STORE, _SEQUENCE_KEY): sequence})
                # Not synced: what it says may be old after a power failure, never wrong.
                os.pwrite(self._high_water_descriptor, seal_row(_SEQUENCE_ROW, sequence), 0)
                self._sequence += 1
            except (DatabaseError, OSError) as error:
                self._failed = str(error)
                if isinstance(error, DatabaseCorruptionError):
                    # LevelDB came across a damaged file while it tidied up. It will again, so the next start makes the database anew.
                    self.ask_for_repair([f"LevelDB: {error}"])
                    raise StorageFailedError(
                        "node.storage.damaged",
                        f"LevelDB takes no more writes, because a file of {self.path} is damaged: {error}",
                        hint=HINT,
                    ) from error
                raise _write_failed(self.path, self._failed) from error

    def own_rows(self) -> dict[tuple[int, bytes], bytes]:
        """Return the rows about the directory itself as this process knows them, however they look on disk."""
        return {(TABLE_STORE, _OWNER_KEY): self._owner_row}

    # Another database in its place

    def new_database(self) -> Database:
        """Return an empty database beside the one in use; what is written there counts nothing before `switch`.

        Without a `switch` the next opening of the directory removes it.

        Raises:
            StorageError: ``node.storage.damaged``.
            StorageFailedError: ``node.storage.write_failed``.
        """
        number = _DATABASE_NAME.fullmatch(self._database.path.name)
        assert number is not None
        name = f"{FIRST_DATABASE}-{int(number[1] or 0) + 1}"
        try:
            if (self.path / name).exists():
                shutil.rmtree(self.path / name)
        except OSError as error:
            raise _write_failed(self.path / name, str(error)) from error
        return Database(self.path / name)

    def discard(self, database: Database) -> None:
        """Remove a database that `new_database` made and nobody wants any more; calling it again does nothing."""
        assert database is not self._database, "the database is in use"
        database.close()
        shutil.rmtree(database.path, ignore_errors=True)

    def switch(self, database: Database) -> None:
        """Use `database`, which `new_database` made, from now on, in one durable step; the old one goes with its last reader.

        Whatever is interrupted here, the next opening finds either the old database or the new one, whole.

        Raises:
            StorageFailedError: ``node.storage.write_failed``; the store takes no further writes, the node must stop.
        """
        with self._writing:
            if self._failed is not None:
                raise _write_failed(self.path, self._failed)
            sequence = (self._sequence + 1).to_bytes(_SEQUENCE_BYTES, "big")
            try:
                database.write(self.own_rows() | {(TABLE_STORE, _SEQUENCE_KEY): sequence})
                sync_directory(database.path)
                write_durably(self.path / DATABASE_FILE, database.path.name + "\n")
                os.pwrite(self._high_water_descriptor, seal_row(_SEQUENCE_ROW, sequence), 0)
            except (DatabaseError, OSError) as error:
                self._failed = str(error)
                raise _write_failed(self.path, self._failed) from error
            old, self._database = self._database, database
            self._sequence += 1
            self._damage = {}
            weakref.finalize(old, shutil.rmtree, old.path, ignore_errors=True)

    # Repair

    @property
    def needs_repair(self) -> bool:
        """Whether damage was found that only a start can repair."""
        return needs_repair(self.path)

    def ask_for_repair(self, findings: Iterable[str]) -> None:
        """Let the next start read the whole store and repair it before it uses it. A full or broken disk keeps this from being noted."""
        with suppress(OSError):
            write_durably(self.path / REPAIR_FILE, json.dumps({"findings": list(findings)}, indent=1) + "\n")

    def repair_done(self) -> None:
        """Take back `ask_for_repair`.

        Raises:
            StorageFailedError: ``node.storage.write_failed``.
        """
        try:
            (self.path / REPAIR_FILE).unlink(missing_ok=True)
            sync_directory(self.path)
        except OSError as error:
            raise _write_failed(self.path, str(error)) from error

    def has_space(self) -> bool:
        """Return whether the file system has more than `SPACE_RESERVE_BYTES` left for us."""
        return self.free_bytes() > SPACE_RESERVE_BYTES

    def free_bytes(self) -> int:
        """Return how many bytes the file system has left for us."""
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

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


def needs_repair(path: Path) -> bool:
    """Return whether a start of the node with the data directory `path` begins with a repair."""
    return (path / REPAIR_FILE).exists()


def _database_name(path: Path) -> str:
    """Return the name of the database in use."""
    try:
        name = (path / DATABASE_FILE).read_text("ascii").removesuffix("\n")
    except FileNotFoundError:
        return FIRST_DATABASE
    except (OSError, UnicodeDecodeError) as error:
        raise _not_ours(path / DATABASE_FILE) from error
    if _DATABASE_NAME.fullmatch(name) is None or not (path / name).is_dir():
        raise _not_ours(path / DATABASE_FILE)
    return name


def _not_ours(file: Path) -> StorageError:
    return StorageError(
        "node.storage.damaged",
        f"the file {file} is not what this node wrote",
        hint="restore the data directory from a backup, or remove it and let the node join again",
    )


def _remove_databases(path: Path, *, keep: str) -> None:
    """Remove what an interrupted `switch` or its preparation has left."""
    for entry in path.iterdir():
        if entry.name != keep and _DATABASE_NAME.fullmatch(entry.name) is not None:
            shutil.rmtree(entry, ignore_errors=True)


def _get_own(database: Database, key: bytes, damaged: list[str]) -> bytes | None:
    """Return a row about the directory; one that lies in a damaged part of a file and holds itself is taken, and `damaged` says so.

    Raises:
        StorageError: ``node.storage.checksum``, ``node.storage.damaged``.
    """
    try:
        return database.get(TABLE_STORE, key)
    except StorageError as error:
        value = database.salvage(TABLE_STORE, key)
        if value is None:
            raise
        damaged.append(error.message)
        return value


def _own(
    database: Database,
    path: Path,
    chain_id: str,
    node_key_id: KeyId,
    *,
    remembered: bytes | None,
    damaged: list[str],
) -> bytes:
    """Return the owner row of a directory that is ours, claiming it when it is new."""
    row = _get_own(database, _OWNER_KEY, damaged)
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
        return row
    if not database.is_empty:
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
    owner_row = encode((STORE_VERSION, chain_id, bytes(node_key_id), incarnation))
    try:
        database.write({(TABLE_STORE, _OWNER_KEY): owner_row})
    except DatabaseError as error:
        raise _write_failed(path, str(error)) from error
    return owner_row


def _check_sequence(database: Database, path: Path, high_water_descriptor: int, damaged: list[str]) -> int:
    """Return the number of the last batch in the database, which must be at least the last one that was acknowledged."""
    row = _get_own(database, _SEQUENCE_KEY, damaged)
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
    try:
        write_durably(file, incarnation.hex() + "\n")
    except OSError as error:
        raise _write_failed(file, str(error)) from error


def write_durably(file: Path, text: str) -> None:
    """Put `text` into a small file, all or nothing, so that it is there after a power failure. Raises `OSError`."""
    temporary = file.with_name(file.name + ".tmp")
    try:
        with open(temporary, "w", encoding="ascii") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
        sync_directory(file.parent)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_failed(path: Path, reason: str) -> StorageFailedError:
    return StorageFailedError(
        "node.storage.write_failed",
        f"writing to {path} failed: {reason}",
        hint="check the disk and its free space, then start the node again; nothing that was acknowledged is lost",
    )
