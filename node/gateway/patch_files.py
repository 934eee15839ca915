"""Patch files over HTTP, piece by piece: whoever sends or fetches one makes this process hold one piece of it, never the whole.

The core says beforehand what a file has to be, so nothing of a file that nobody has published is ever read. The bytes go beside the core's
own files, as ``<digest>.<random>.upload``; the core hashes them again before it takes them over.

Source: docs/spec/api.md 8.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Final

from fastapi import HTTPException

from node.local.client import AsyncLocalClient
from node.patch_store import UPLOAD_SUFFIX, upload_name
from wire.errors import RejectedError, UnavailableError

PIECE_BYTES: Final = 256 * 1024
"""What one request holds of a file."""
_RANDOM_BYTES: Final = 8


class PatchFiles:
    """The patch files of one node, as its gateway reaches them.

    Args:
        directory: Where the core keeps them.
        uploads_max: Files that may be arriving at once; the next one gets 503.
    """

    def __init__(self, directory: Path, *, uploads_max: int) -> None:
        self._directory = directory
        self._uploads_max = uploads_max
        self._uploads = 0

    def remove_leftovers(self) -> None:
        """Remove what a gateway that died has left half received."""
        for path in self._directory.glob(f"*{UPLOAD_SUFFIX}"):
            path.unlink(missing_ok=True)

    async def receive(
        self, core: AsyncLocalClient, patch_id: str, pieces: AsyncIterator[bytes], length: int | None
    ) -> Any:
        """Return the core's answer once it keeps the file that the ledger names for `patch_id`; any other file leaves nothing behind.

        Args:
            core: The node's core, asked before the first byte is read.
            patch_id: 64 hexadecimal digits.
            pieces: The body as it arrives.
            length: What the request says that its length is, or None.

        Raises:
            RejectedError: ``node.patch.not_published``, ``node.patch.wrong_digest``, ``node.patch.store_full``.
            UnavailableError: ``node.patch.write_failed``.
            HTTPException: Too many files are arriving (503).
        """
        expected = await core.call("patches.expect", patch_id=patch_id)
        digest, size = expected["file_digest"], expected["file_bytes"]
        if length is not None and length != size:
            raise _wrong("the file does not have the published length", size, length)
        if expected["file_here"]:
            await _copy(pieces, None, digest, size)
            return {"patch_id": patch_id, "file_digest": digest, "file_bytes": size}
        if self._uploads >= self._uploads_max:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "the gateway receives too many files already")
        path = self._directory / upload_name(digest, secrets.token_hex(_RANDOM_BYTES))
        self._uploads += 1
        try:
            with await asyncio.to_thread(_open, path) as file:
                await _copy(pieces, file, digest, size)
            return await core.call("patches.take", patch_id=patch_id, upload=path.name)
        finally:
            self._uploads -= 1
            with suppress(OSError):
                path.unlink(missing_ok=True)

    async def send(self, core: AsyncLocalClient, patch_id: str) -> tuple[AsyncIterator[bytes], int]:
        """Return a published patch file in pieces, and its length in bytes.

        Raises:
            RejectedError: ``node.patch.not_found``.
            UnavailableError: ``node.patch.file_unavailable``.
        """
        found = await core.call("patches.locate", patch_id=patch_id)
        try:
            file = await asyncio.to_thread((self._directory / found["file_digest"]).open, "rb")
        except OSError as error:
            raise UnavailableError("node.patch.file_unavailable", "this node has lost the file just now") from error
        return _pieces(file), os.fstat(file.fileno()).st_size


async def _copy(pieces: AsyncIterator[bytes], file: BinaryIO | None, digest: str, size: int) -> None:
    """Return after the whole body went into `file`, if any, and is the published one; one byte too many ends it at once."""
    hasher, received, buffer = hashlib.sha256(), 0, bytearray()
    async for piece in pieces:
        received += len(piece)
        if received > size:
            raise _wrong("the file is longer than the published one", size, received)
        hasher.update(piece)
        if file is None:
            continue
        buffer += piece
        if len(buffer) >= PIECE_BYTES:
            await asyncio.to_thread(_write, file, bytes(buffer))
            buffer.clear()
    if hasher.hexdigest() != digest:
        raise _wrong("the file is not the published one", digest, hasher.hexdigest())
    if file is not None:
        await asyncio.to_thread(_write, file, bytes(buffer))


def _open(path: Path) -> BinaryIO:
    try:
        return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb")
    except OSError as error:
        raise _not_kept(error) from error


def _write(file: BinaryIO, data: bytes) -> None:
    try:
        file.write(data)
        file.flush()
    except OSError as error:
        raise _not_kept(error) from error


def _not_kept(error: OSError) -> UnavailableError:
    return UnavailableError(
        "node.patch.write_failed", f"the file was not kept: {error.strerror}", hint="check the disk"
    )


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece


def _wrong(sentence: str, expected: object, actual: object) -> RejectedError:
    return RejectedError("node.patch.wrong_digest", sentence, expected=expected, actual=actual)
