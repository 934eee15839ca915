"""A patch file that is being fetched, on disk: what has come of it survives the end of the process.

::

    patches/<digest>.partial     the file, as long as it will be, with holes where chunks are missing
    patches/<digest>.have        magic, size, length of a chunk, root, list, and one bit for each chunk that was written

Neither is synced before the file is whole: bits are believed only after the chunks that they speak of were read again, so whatever a power
cut has left is found out, and costs no more than fetching it again. Blocking: call everything here in a thread, one call at a time.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

from node.distribution.chunks import (
    CHUNK_BYTES,
    DIGEST_BYTES,
    ChunkHasher,
    ChunkList,
    count_chunks,
    read_list_untrusted,
)
from wire.errors import MalformedError, UnavailableError
from wire.hashing import Digest, sha256

PARTIAL_SUFFIX: Final = ".partial"
HAVE_SUFFIX: Final = ".have"
_MAGIC: Final = b"PWPART01"
_HEAD: Final = struct.Struct(">8sQI32s")
_FILE_MODE: Final = 0o600


class PartialFile:
    """One file that is being fetched. Made by `open_partial`.

    Args:
        directory: Where the node keeps patch files.
        digest: SHA-256 of the whole, which names it.
        size: Its bytes.
    """

    def __init__(self, directory: Path, digest: Digest, size: int) -> None:
        self._directory = directory
        self._digest = digest
        self._size = size
        self._data = directory / f"{digest.hex()}{PARTIAL_SUFFIX}"
        self._state = directory / f"{digest.hex()}{HAVE_SUFFIX}"
        self._data_fd = -1
        self._state_fd = -1
        self.chunks: ChunkList | None = None
        """The list that the chunks here belong to."""
        self.have: set[int] = set()
        """The chunks that are here."""

    def open(self) -> None:
        """Open the file; `chunks` and `have` say what an earlier process has left that holds.

        Raises:
            UnavailableError: ``node.patch.write_failed``.
        """
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._data_fd = os.open(self._data, flags, _FILE_MODE)
            left = _read_state(self._state, self._size)
            os.ftruncate(self._data_fd, self._size)
            if left is None:
                return
            chunks, bits = left
            here = {
                number
                for number in range(len(chunks.digests))
                if bits[number // 8] >> (number % 8) & 1
                and sha256(self._read(chunks, number)) == chunks.digests[number]
            }
            self._write_state(chunks, here)
        except OSError as error:
            self.close()
            raise write_failed(error) from error

    def kept_under(self, chunks: ChunkList) -> set[int]:
        """Return which chunks that are here are the same by another list. Reads nothing."""
        if self.chunks is None:
            return set()
        return {number for number in self.have if self.chunks.digests[number] == chunks.digests[number]}

    def follow(self, chunks: ChunkList) -> None:
        """Let chunks belong to this list from now on; those that are the same by it stay.

        Raises:
            UnavailableError: ``node.patch.write_failed``.
        """
        if self.chunks == chunks:
            return
        try:
            self._write_state(chunks, self.kept_under(chunks))
        except OSError as error:
            raise write_failed(error) from error

    def write(self, number: int, data: bytes) -> None:
        """Write a chunk that is what the list says.

        Raises:
            UnavailableError: ``node.patch.write_failed``.
        """
        assert self.chunks is not None, "a chunk belongs to a list"
        assert len(data) == self.chunks.length(number), "it is what the list says, and so as long"
        try:
            _write_all(self._data_fd, data, self.chunks.offset(number))
            self.have.add(number)
            self._write_bits(number)
        except OSError as error:
            raise write_failed(error) from error

    def forget(self, numbers: set[int]) -> None:
        """Take note that these chunks are not here after all.

        Raises:
            UnavailableError: ``node.patch.write_failed``.
        """
        try:
            self.have -= numbers
            for number in numbers:
                self._write_bits(number)
        except OSError as error:
            raise write_failed(error) from error

    def measure(self) -> tuple[Digest, ChunkList]:
        """Return the digest of what is here, and what its chunks are.

        Raises:
            UnavailableError: ``node.patch.write_failed``.
        """
        hasher = ChunkHasher()
        try:
            for number in range(count_chunks(self._size)):
                hasher.add(
                    os.pread(self._data_fd, min(CHUNK_BYTES, self._size - number * CHUNK_BYTES), number * CHUNK_BYTES)
                )
        except OSError as error:
            raise write_failed(error) from error
        return hasher.finish()

    def finish(self) -> None:
        """Make it the file itself, durably. To be called when `measure` has given its digest.

        Raises:
            UnavailableError: ``node.patch.write_failed``.
        """
        try:
            os.fsync(self._data_fd)
            self._data.rename(self._directory / self._digest.hex())
            self._state.unlink(missing_ok=True)
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise write_failed(error) from error

    def close(self) -> None:
        """Close what is open; everything stays on disk."""
        for descriptor in (self._data_fd, self._state_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self._data_fd = self._state_fd = -1

    def _read(self, chunks: ChunkList, number: int) -> bytes:
        return os.pread(self._data_fd, chunks.length(number), chunks.offset(number))

    def _write_state(self, chunks: ChunkList, here: set[int]) -> None:
        """Replace the state in one step. Raises OSError."""
        bits = bytearray(-(-len(chunks.digests) // 8))
        for number in here:
            bits[number // 8] |= 1 << (number % 8)
        part = self._state.with_name(f"{self._state.name}.part")
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
        try:
            _write_all(descriptor, _HEAD.pack(_MAGIC, chunks.size, CHUNK_BYTES, chunks.root) + chunks.raw + bits, 0)
            part.rename(self._state)
        except OSError:
            os.close(descriptor)
            raise
        if self._state_fd >= 0:
            os.close(self._state_fd)
        self._state_fd = descriptor
        self.chunks, self.have = chunks, here

    def _write_bits(self, number: int) -> None:
        assert self.chunks is not None
        begin = number - number % 8
        byte = sum(1 << bit for bit in range(8) if begin + bit in self.have)
        _write_all(self._state_fd, bytes([byte]), _HEAD.size + len(self.chunks.digests) * DIGEST_BYTES + number // 8)


def open_partial(directory: Path, digest: Digest, size: int) -> PartialFile:
    """Return the partial file of that digest, with what an earlier process has left of it.

    Raises:
        UnavailableError: ``node.patch.write_failed``.
    """
    partial = PartialFile(directory, digest, size)
    partial.open()
    return partial


def size_of_partial(path: Path) -> int | None:
    """Return how long the file will be whose state is at `path`; None when that is no state that could be gone on with."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
    except OSError:
        return None
    if len(head) != _HEAD.size:
        return None
    magic, size, chunk_bytes, _ = _HEAD.unpack(head)
    return int(size) if (magic, chunk_bytes) == (_MAGIC, CHUNK_BYTES) else None


def remove_partial(directory: Path, digest: Digest) -> None:
    """Remove what was fetched of a file. Raises OSError."""
    for suffix in (HAVE_SUFFIX, PARTIAL_SUFFIX):
        (directory / f"{digest.hex()}{suffix}").unlink(missing_ok=True)


def write_failed(error: OSError) -> UnavailableError:
    """Return what a fetch ends with when the disk fails."""
    return UnavailableError(
        "node.patch.write_failed", f"the patch file was not kept: {error.strerror}", hint="check the disk"
    )


def _read_state(path: Path, size: int) -> tuple[ChunkList, bytes] | None:
    """Return the list and the bits, or None when they are not there or do not hold. Raises OSError."""
    count = count_chunks(size)
    length = _HEAD.size + count * DIGEST_BYTES + -(-count // 8)
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            raw = file.read(length + 1)
        if len(raw) != length or _HEAD.unpack_from(raw)[:3] != (_MAGIC, size, CHUNK_BYTES):
            return None
        with suppress(MalformedError):
            chunks = read_list_untrusted(raw[_HEAD.size : _HEAD.size + count * DIGEST_BYTES], size)
            if chunks.root == _HEAD.unpack_from(raw)[3]:
                return chunks, raw[_HEAD.size + count * DIGEST_BYTES :]
    return None


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
