"""Snapshots of the state as files: those that this node has made and serves, and those that it is fetching.

::

    data/snapshots/<height, 12 digits>/manifest, 00000.chunk, 00001.chunk, …     whole; made here, served to others
    data/snapshots/part-<height>/                                                being made; removed at the next start
    data/incoming/<snapshot id>/manifest, 00000.chunk, …                         being fetched; goes on after a restart

A chunk's file is named by its place and proven by its digest, which stands in the manifest: a file that was cut or damaged is noticed
before it is used. Blocking: call everything here in a thread. Source: docs/spec/storage.md 8.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.limits import SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_MANIFEST_BYTES_MAX
from ledger.snapshot import SnapshotBuilder, SnapshotManifest, decode_manifest_untrusted
from node.errors import SnapshotUnavailableError
from node.storage.database import Snapshot
from node.storage.leveldb import sync_directory
from wire.errors import RejectedError
from wire.hashing import Digest, sha256

SNAPSHOTS_KEPT: Final = 2
"""The newest, and the one before it, which somebody may be about to fetch."""
SNAPSHOTS_HELD_MAX: Final = 2
"""Older ones that are kept as well because somebody is in the middle of fetching them."""
MANIFEST: Final = "manifest"
_PART: Final = "part-"
_WHOLE: Final = re.compile(r"[0-9]{12}")
_INCOMING: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A whole snapshot on disk."""

    path: Path
    manifest: SnapshotManifest
    manifest_raw: bytes

    @property
    def height(self) -> int:
        """The height at which this is the state."""
        return self.manifest.height


class SnapshotFiles:
    """The snapshots that this node serves.

    Args:
        data: The node's data directory.
    """

    def __init__(self, data: Path) -> None:
        self._path = data / "snapshots"
        self._snapshots: list[StoredSnapshot] = []
        self._chunks: dict[Digest, Path] = {}

    @property
    def newest(self) -> StoredSnapshot | None:
        """The one of the greatest height, or None."""
        return self._snapshots[-1] if self._snapshots else None

    def open(self) -> None:
        """Find the whole snapshots, and remove what an interrupted making has left."""
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for entry in sorted(self._path.iterdir()):
            snapshot = _read_whole(entry) if _WHOLE.fullmatch(entry.name) else None
            if snapshot is None:
                _remove(entry)
            else:
                self._snapshots.append(snapshot)
        self._index()

    def make(self, reader: Snapshot, pause: Callable[[], None] = lambda: None) -> StoredSnapshot:
        """Make the snapshot of the state that `reader` has, durably.

        Args:
            reader: One state; the caller closes it.
            pause: Called after each chunk, for instance to let others run.

        Raises:
            NotYetAvailableError: ``ledger.snapshot.not_certified``.
            SnapshotUnavailableError: ``node.snapshot.write_failed``: there is no such snapshot; the store is not touched by this.
        """
        builder = SnapshotBuilder(reader)
        name = f"{builder.height:012}"
        part, whole = self._path / f"{_PART}{name}", self._path / name
        try:
            _remove(part)
            part.mkdir(mode=0o700)
            for number, chunk in enumerate(builder.chunks()):
                write_file(part / chunk_name(number), chunk)
                pause()
            raw = builder.manifest().encode()
            write_file(part / MANIFEST, raw)
            sync_directory(part)
            _remove(whole)
            part.rename(whole)
            sync_directory(self._path)
        except OSError as error:
            _remove(part)
            raise _write_failed(part, error) from error
        made = StoredSnapshot(whole, decode_manifest_untrusted(raw), raw)
        self._snapshots = [each for each in self._snapshots if each.height < made.height] + [made]
        self._index()
        return made

    def forget_old(self, fetched: Collection[int] = ()) -> None:
        """Remove all but the newest `SNAPSHOTS_KEPT`, and of those that are being fetched the newest `SNAPSHOTS_HELD_MAX` more.

        Args:
            fetched: The heights of the snapshots that somebody is fetching.
        """
        older, newest = self._snapshots[:-SNAPSHOTS_KEPT], self._snapshots[-SNAPSHOTS_KEPT:]
        held = [each for each in older if each.height in fetched][-SNAPSHOTS_HELD_MAX:]
        self._snapshots = held + newest
        self._index()
        for old in older:
            if old not in held:
                _remove(old.path)

    def height_of(self, digest: Digest) -> int | None:
        """Return the height of the snapshot that has the chunk with this digest, the newest one if several have; None if none has."""
        for snapshot in reversed(self._snapshots):
            if digest in snapshot.manifest.chunk_digests:
                return snapshot.height
        return None

    def chunk(self, digest: Digest) -> bytes | None:
        """Return the chunk with this digest, or None when no snapshot here has it. A damaged snapshot is given up."""
        path = self._chunks.get(digest)
        if path is None:
            return None
        data = read_chunk(path, digest)
        if data is None:
            self._snapshots = [each for each in self._snapshots if each.path != path.parent]
            self._index()
            _remove(path.parent)
        return data

    def _index(self) -> None:
        self._chunks = {
            digest: snapshot.path / chunk_name(number)
            for snapshot in self._snapshots
            for number, digest in enumerate(snapshot.manifest.chunk_digests)
        }


class IncomingFiles:
    """Where snapshots are kept that are being fetched.

    Args:
        data: The node's data directory.
    """

    def __init__(self, data: Path) -> None:
        self._data = data

    def find(self) -> SnapshotManifest | None:
        """Return the manifest of a snapshot whose fetching was interrupted, or None. Its validators are not verified."""
        return find_incoming(self._data)

    def open(self, manifest: SnapshotManifest) -> IncomingSnapshot:
        """Return the place for the snapshot that `manifest`, verified by the caller, describes; nothing is made yet."""
        return IncomingSnapshot(self._data, manifest)


class IncomingSnapshot:
    """One snapshot that is being fetched; what is there after a restart need not be fetched again.

    Args:
        data: The node's data directory.
        manifest: Verified by the caller.
    """

    def __init__(self, data: Path, manifest: SnapshotManifest) -> None:
        self.manifest = manifest
        self._path = data / "incoming" / manifest.snapshot_id.hex()

    def begin(self) -> None:
        """Make the directory, and remove those of other snapshots.

        Raises:
            SnapshotUnavailableError: ``node.snapshot.write_failed``.
        """
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for entry in self._path.parent.iterdir():
                if entry != self._path:
                    _remove(entry)
            if not (self._path / MANIFEST).exists():
                write_file(self._path / MANIFEST, self.manifest.encode())
        except OSError as error:
            raise _write_failed(self._path, error) from error

    def missing(self) -> list[int]:
        """Return which chunks are not there, or are not what the manifest names."""
        return [
            number
            for number, digest in enumerate(self.manifest.chunk_digests)
            if read_chunk(self._path / chunk_name(number), digest) is None
        ]

    def put(self, number: int, data: bytes) -> bool:
        """Keep a chunk from anybody if it is the one that the manifest names; return whether it was.

        Raises:
            SnapshotUnavailableError: ``node.snapshot.write_failed``.
        """
        if sha256(data) != self.manifest.chunk_digests[number]:
            return False
        try:
            write_file(self._path / chunk_name(number), data)
        except OSError as error:
            raise _write_failed(self._path, error) from error
        return True

    def chunks(self) -> Iterator[bytes | None]:
        """Yield every chunk in order; None in the place of one that is damaged or missing."""
        for number, digest in enumerate(self.manifest.chunk_digests):
            yield read_chunk(self._path / chunk_name(number), digest)

    def remove(self) -> None:
        """Remove everything that was fetched."""
        _remove(self._path)


def find_incoming(data: Path) -> SnapshotManifest | None:
    """Return the manifest of a snapshot whose fetching was interrupted, or None. Its validators are not verified."""
    with suppress(OSError):
        for entry in sorted((data / "incoming").iterdir()):
            if _INCOMING.fullmatch(entry.name):
                manifest = _read_manifest(entry)
                if manifest is not None and manifest[0].snapshot_id.hex() == entry.name:
                    return manifest[0]
    return None


def chunk_name(number: int) -> str:
    """Return the name of a chunk's file."""
    return f"{number:05}.chunk"


def write_file(path: Path, data: bytes) -> None:
    """Write a file durably under its name, or not at all. Raises `OSError`."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def read_chunk(path: Path, digest: Digest) -> bytes | None:
    """Return the file's content if it has this digest, or None."""
    data = _read(path, SNAPSHOT_CHUNK_BYTES_MAX)
    return data if data is not None and sha256(data) == digest else None


def _read_whole(path: Path) -> StoredSnapshot | None:
    found = _read_manifest(path)
    if found is None or f"{found[0].height:012}" != path.name:
        return None
    manifest, raw = found
    complete = all((path / chunk_name(number)).is_file() for number in range(len(manifest.chunk_digests)))
    return StoredSnapshot(path, manifest, raw) if complete else None


def _read_manifest(path: Path) -> tuple[SnapshotManifest, bytes] | None:
    raw = _read(path / MANIFEST, SNAPSHOT_MANIFEST_BYTES_MAX)
    try:
        return None if raw is None else (decode_manifest_untrusted(raw), raw)
    except RejectedError:
        return None


def _read(path: Path, bytes_max: int) -> bytes | None:
    try:
        with path.open("rb") as stream:
            data = stream.read(bytes_max + 1)
    except OSError:
        return None
    return data if len(data) <= bytes_max else None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _write_failed(path: Path, error: OSError) -> SnapshotUnavailableError:
    return SnapshotUnavailableError(
        "node.snapshot.write_failed", f"writing to {path} failed: {error}", hint="check the disk and its free space"
    )
