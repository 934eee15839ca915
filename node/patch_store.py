"""Patch files by the SHA-256 of their bytes, in one directory of the node's home.

A file is taken only when the ledger names its digest, so a stranger cannot fill the disk: what may be stored is bounded by what was
published. Files are written beside their place, synced, and renamed, so a file that is there is whole. What is being fetched lies beside
them (`node.distribution.partial`) and counts with the length that the ledger says it will have.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.distribution.chunks import CHUNK_BYTES, ChunkHasher, ChunkList
from node.distribution.limits import STORE_BYTES_MAX
from node.distribution.partial import (
    HAVE_SUFFIX,
    PARTIAL_SUFFIX,
    PartialFile,
    open_partial,
    remove_partial,
    size_of_partial,
)
from node.errors import StorageFailedError
from wire.errors import RejectedError, UnavailableError
from wire.hashing import Digest, sha256
from wire.limits import PATCH_FILE_BYTES_MAX

LISTS_CACHED_MAX: Final = 64
"""Files whose chunks are remembered; making a list anew reads the whole file."""
UPLOADS_MAX: Final = 8
"""Files that may be arriving in parts, the gateway's included."""
UPLOAD_IDLE_S_MAX: Final = 120.0
"""How long the next part may take; what waits longer gives way to another file."""
UPLOAD_SUFFIX: Final = ".upload"
"""Ends the name of a file that the gateway is receiving."""
_UPLOAD_NAME: Final = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{16}\.upload")
_FILE_NAME: Final = re.compile(r"[0-9a-f]{64}")


def upload_name(digest: str, random: str) -> str:
    """Return the name under which the gateway receives a file: its hexadecimal digest and 16 random digits."""
    return f"{digest}.{random}{UPLOAD_SUFFIX}"


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file that is here, or a part of one."""

    digest: Digest
    """SHA-256 of the whole."""
    size: int
    """Bytes of the whole."""
    used_s: float
    """When it was used last, seconds of the wall clock."""
    is_partial: bool
    """Whether it is still to be fetched."""


class PatchStore:
    """The patch files beneath `path`. All calls block for one file's reading or writing; they may come from several threads."""

    def __init__(
        self,
        path: Path,
        *,
        random_suffix: Callable[[], str],
        bytes_max: int = STORE_BYTES_MAX,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        self._random_suffix = random_suffix
        self._now_s = now_s
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}
        self._lists: OrderedDict[Digest, ChunkList] = OrderedDict()
        for entry in list(os.scandir(path)):
            stem, suffix = os.path.splitext(entry.name)
            if suffix in (".part", UPLOAD_SUFFIX):
                os.unlink(entry.path)  # What a crash left half written.
            elif suffix == PARTIAL_SUFFIX:
                size = size_of_partial(path / f"{stem}{HAVE_SUFFIX}")
                if size is None or not (path / entry.name).is_file() or (path / stem).exists():
                    os.unlink(entry.path)
                else:
                    self._sizes[entry.name] = size
            elif suffix == HAVE_SUFFIX:
                if not (path / f"{stem}{PARTIAL_SUFFIX}").exists() or (path / stem).exists():
                    os.unlink(entry.path)
            else:
                self._sizes[entry.name] = entry.stat().st_size

    @property
    def bytes_kept(self) -> int:
        """Bytes of all files, those that are being fetched with the length that they will have."""
        with self._lock:
            return sum(self._sizes.values())

    def has(self, digest: Digest) -> bool:
        """Return whether the file is here; one that cannot be looked at is not."""
        return os.path.exists(self._file(digest))

    def put(self, data: bytes, digest: Digest) -> None:
        """Keep a file whose bytes hash to `digest`; a file that is here already stays.

        Raises:
            RejectedError: Too large (`node.patch.too_large`), other bytes (`node.patch.wrong_digest`), or no room
            (`node.patch.store_full`).
            StorageFailedError: The disk did not take it.
        """
        if len(data) > PATCH_FILE_BYTES_MAX:
            raise RejectedError(
                "node.patch.too_large", "the patch file is too large", expected=PATCH_FILE_BYTES_MAX, actual=len(data)
            )
        if sha256(data) != digest:
            raise RejectedError(
                "node.patch.wrong_digest", "the file is not the published one", expected=digest, actual=sha256(data)
            )
        place = self._file(digest)
        if place.exists():
            return
        self.check_room(len(data))
        part = place.with_name(f"{digest.hex()}.{self._random_suffix()}.part")
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._move(part, place)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise _failed(error) from error
        self._note_size(digest.hex(), len(data))

    def missing_room(self, size: int) -> int:
        """Return how many bytes have to go before `size` more may be kept."""
        return max(0, self.bytes_kept + size - self._bytes_max)

    def check_room(self, size: int) -> None:
        """Return when `size` more bytes may be kept. Raises RejectedError: ``node.patch.store_full``."""
        if self.missing_room(size):
            raise RejectedError("node.patch.store_full", "the node keeps no more patch files", expected=self._bytes_max)

    # -- what is being fetched -------------------------------------------------------------------------------------

    def open_partial(self, digest: Digest, size: int) -> PartialFile:
        """Return the file as far as it was fetched; from now on it counts with all of its bytes.

        Raises:
            RejectedError: ``node.patch.store_full``.
            UnavailableError: ``node.patch.write_failed``.
        """
        name = f"{digest.hex()}{PARTIAL_SUFFIX}"
        with self._lock:
            is_new = name not in self._sizes
        if is_new:
            self.check_room(size)
        self._note_size(name, size)
        return open_partial(self._path, digest, size)

    def adopt(self, partial: PartialFile, digest: Digest, chunks: ChunkList) -> None:
        """Make a fetched file one of the files here; its bytes were found to be right.

        Raises:
            UnavailableError: ``node.patch.write_failed``.
        """
        partial.finish()
        with self._lock:
            self._sizes.pop(f"{digest.hex()}{PARTIAL_SUFFIX}", None)
            self._sizes[digest.hex()] = chunks.size
        self._note_list(digest, chunks)

    def forget_partial(self, digest: Digest) -> None:
        """Remove what was opened to be fetched, if it is there."""
        with suppress(OSError):
            remove_partial(self._path, digest)
            with self._lock:
                self._sizes.pop(f"{digest.hex()}{PARTIAL_SUFFIX}", None)

    # -- what may go -----------------------------------------------------------------------------------------------

    def files(self) -> list[KeptFile]:
        """Return every file and every part of one."""
        found = []
        for entry in list(os.scandir(self._path)):
            stem, suffix = os.path.splitext(entry.name)
            with self._lock:
                size = self._sizes.get(entry.name)
            if size is None or _FILE_NAME.fullmatch(stem) is None or suffix not in ("", PARTIAL_SUFFIX):
                continue
            with suppress(FileNotFoundError):
                used_s = entry.stat(follow_symlinks=False).st_mtime
                found.append(KeptFile(Digest(bytes.fromhex(stem)), size, used_s, is_partial=bool(suffix)))
        return found

    def remove(self, file: KeptFile) -> None:
        """Remove a file, or what was fetched of it. Raises OSError: a file stays."""
        name = file.digest.hex()
        if file.is_partial:
            self.forget_partial(file.digest)
            return
        self._file(file.digest).unlink(missing_ok=True)
        with self._lock:
            self._sizes.pop(name, None)
            self._lists.pop(file.digest, None)

    def touch(self, digest: Digest) -> None:
        """Take note that the file was used now."""
        with suppress(OSError):
            os.utime(self._file(digest))

    # -- what its chunks are ---------------------------------------------------------------------------------------

    def chunk_list(self, digest: Digest) -> ChunkList | None:
        """Return what the chunks of a file are, or None when it is not here. A file that does not hold any more is removed."""
        with self._lock:
            chunks = self._lists.get(digest)
        if chunks is not None:
            return chunks if self.has(digest) else None
        hasher = ChunkHasher()
        try:
            with self._file(digest).open("rb") as file:
                while piece := file.read(CHUNK_BYTES):
                    hasher.add(piece)
        except OSError:
            return None
        found, chunks = hasher.finish()
        if found != digest:
            # Nobody may be told that this is the file: they would take us for a liar.
            with suppress(OSError):
                self.remove(KeptFile(digest, chunks.size, 0.0, is_partial=False))
            return None
        self._note_list(digest, chunks)
        return chunks

    def _note_list(self, digest: Digest, chunks: ChunkList) -> None:
        with self._lock:
            self._lists[digest] = chunks
            self._lists.move_to_end(digest)
            if len(self._lists) > LISTS_CACHED_MAX:
                self._lists.popitem(last=False)

    def _note_size(self, name: str, size: int) -> None:
        with self._lock:
            self._sizes[name] = size

    def append(self, upload: str, offset: int, part: bytes, size: int) -> int:
        """Return how many bytes of a file have arrived with this part; parts come in order, the first one begins the file.

        Args:
            upload: As `upload_name` has it.
            offset: Where the part belongs.
            part: Its bytes.
            size: What the whole file has.

        Raises:
            RejectedError: Not behind the parts before, or beyond the file (`node.patch.no_upload`, `node.patch.wrong_part`).
            UnavailableError: Too many files are arriving (`node.patch.too_many_uploads`).
            StorageFailedError: The disk did not take it.
        """
        if _UPLOAD_NAME.fullmatch(upload) is None:
            raise RejectedError("node.patch.no_upload", "no such file was received", actual=upload)
        if offset + len(part) > size or not part:
            raise RejectedError(
                "node.patch.wrong_part", "a part lies beyond the file", expected=size, actual=offset + len(part)
            )
        flags = os.O_WRONLY | os.O_NOFOLLOW | (os.O_APPEND if offset else os.O_CREAT | os.O_EXCL)
        try:
            if not offset:
                self._make_place()
            descriptor = os.open(self._path / upload, flags, 0o600)
            with open(descriptor, "ab" if offset else "wb") as file:
                found = os.fstat(descriptor).st_size
                if found != offset:
                    raise RejectedError(
                        "node.patch.wrong_part", "a part is not the next one", expected=found, actual=offset
                    )
                file.write(part)
        except FileNotFoundError as error:
            raise RejectedError("node.patch.no_upload", "no such file was received", actual=upload) from error
        except OSError as error:
            raise _failed(error) from error
        return offset + len(part)

    def forget_upload(self, upload: str) -> None:
        """Remove what has arrived of a file, if anything of it is left."""
        if _UPLOAD_NAME.fullmatch(upload) is not None:
            with suppress(OSError):
                (self._path / upload).unlink(missing_ok=True)

    def _make_place(self) -> None:
        """Remove files whose parts have stopped coming; raise when too many others are arriving."""
        arriving = 0
        for entry in os.scandir(self._path):
            if entry.name.endswith(UPLOAD_SUFFIX):
                if self._now_s() - entry.stat().st_mtime > UPLOAD_IDLE_S_MAX:
                    os.unlink(entry.path)
                else:
                    arriving += 1
        if arriving >= UPLOADS_MAX:
            raise UnavailableError("node.patch.too_many_uploads", "too many patch files are arriving", hint="try again")

    def take(self, upload: str, digest: Digest) -> None:
        """Keep what the gateway has received under the name `upload`, if it hashes to `digest`; it is read piece by piece.

        Raises:
            RejectedError: No such upload (`node.patch.no_upload`), too large, other bytes, or no room, as `put`.
            StorageFailedError: The disk did not take it.
        """
        path = self._path / upload
        try:
            if _UPLOAD_NAME.fullmatch(upload) is None:
                raise FileNotFoundError
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise RejectedError("node.patch.no_upload", "no such file was received", actual=upload) from error
        place = self._file(digest)
        with open(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            if size > PATCH_FILE_BYTES_MAX:
                raise RejectedError(
                    "node.patch.too_large", "the patch file is too large", expected=PATCH_FILE_BYTES_MAX, actual=size
                )
            found = hashlib.file_digest(file, "sha256").digest()
            if found != digest:
                raise RejectedError(
                    "node.patch.wrong_digest", "the file is not the published one", expected=digest, actual=found
                )
            if place.exists():
                return
            self.check_room(size)
            try:
                os.fsync(descriptor)
                self._move(path, place)
            except OSError as error:
                raise _failed(error) from error
        self._note_size(digest.hex(), size)

    def _move(self, part: Path, place: Path) -> None:
        """Give a synced file its final name, durably. Raises OSError."""
        part.rename(place)
        directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def size(self, digest: Digest) -> int | None:
        """Return the file's size in bytes, or None when it is not here."""
        try:
            return self._file(digest).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, digest: Digest, offset: int = 0, length: int = PATCH_FILE_BYTES_MAX) -> bytes | None:
        """Return up to `length` bytes from `offset`, or None when the file is not here.

        Raises:
            UnavailableError: ``node.patch.read_failed``.
        """
        try:
            with self._file(digest).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnavailableError(
                "node.patch.read_failed", f"the patch file cannot be read: {error.strerror}", hint="check the disk"
            ) from error

    def _file(self, digest: Digest) -> Path:
        # A digest is 32 bytes: its hexadecimal form cannot leave the directory.
        return self._path / digest.hex()


def _failed(error: OSError) -> StorageFailedError:
    return StorageFailedError(
        "node.patch.write_failed", f"the patch file was not stored: {error.strerror}", hint="check the disk"
    )
