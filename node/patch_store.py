"""Patch files by the SHA-256 of their bytes, in one directory of the node's home.

A file is taken only when the ledger names its digest, so a stranger cannot fill the disk: what may be stored is bounded by what was
published. Files are written beside their place, synced, and renamed, so a file that is there is whole.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from node.errors import StorageFailedError
from wire.errors import RejectedError
from wire.hashing import Digest, sha256
from wire.limits import PATCH_FILE_BYTES_MAX

CHUNK_BYTES_MAX: Final = 1024 * 1024
"""The most that one read for a peer returns."""
STORE_BYTES_MAX: Final = 8 * 1024 * 1024 * 1024
"""All patch files of one node together."""
UPLOAD_SUFFIX: Final = ".upload"
"""Ends the name of a file that the gateway is receiving."""
_UPLOAD_NAME: Final = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{16}\.upload")


def upload_name(digest: str, random: str) -> str:
    """Return the name under which the gateway receives a file: its hexadecimal digest and 16 random digits."""
    return f"{digest}.{random}{UPLOAD_SUFFIX}"


class PatchStore:
    """The patch files beneath `path`. All calls block for one file's reading or writing."""

    def __init__(self, path: Path, *, random_suffix: Callable[[], str]) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        self._random_suffix = random_suffix
        self._bytes = 0
        for entry in os.scandir(path):
            if entry.name.endswith((".part", UPLOAD_SUFFIX)):
                os.unlink(entry.path)  # What a crash left half written.
            else:
                self._bytes += entry.stat().st_size

    def has(self, digest: Digest) -> bool:
        """Return whether the file is here."""
        return self._file(digest).exists()

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
        self._bytes += len(data)

    def check_room(self, size: int) -> None:
        """Return when `size` more bytes may be kept. Raises RejectedError: ``node.patch.store_full``."""
        if self._bytes + size > STORE_BYTES_MAX:
            raise RejectedError("node.patch.store_full", "the node keeps no more patch files", expected=STORE_BYTES_MAX)

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
        self._bytes += size

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
        """Return up to `length` bytes from `offset`, or None when the file is not here."""
        try:
            with self._file(digest).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except FileNotFoundError:
            return None

    def _file(self, digest: Digest) -> Path:
        # A digest is 32 bytes: its hexadecimal form cannot leave the directory.
        return self._path / digest.hex()


def _failed(error: OSError) -> StorageFailedError:
    return StorageFailedError(
        "node.patch.write_failed", f"the patch file was not stored: {error.strerror}", hint="check the disk"
    )
