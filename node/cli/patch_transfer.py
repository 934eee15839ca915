"""Patch files between a command and a node: in parts through the local socket, as one body over HTTP, never more than twice in memory."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, cast

from node.cli.client import NodeClient, SocketClient
from node.clock import random_bytes
from node.local.protocol import BLOB_BYTES_MAX, PART_BYTES_MAX, decode_blob_untrusted, encode_blob
from provenance.layout import split_patch_file_untrusted
from wire.errors import RejectedError
from wire.limits import PATCH_FILE_BYTES_MAX

_UPLOAD_BYTES = 8
HTTP_BLOB_BYTES_MAX: Final = 11 * 1024 * 1024
"""A patch file inside one JSON request over HTTP: as base64 it fits the 16 MiB that a gateway takes of a body."""
NO_PATH: Final = "node.param.path"
"""The node's user cannot read the file that a request names."""

Progress = Callable[[int, int], None]
"""Told how many bytes have gone or come, and how many there are."""


class FileClient(Protocol):
    """A connection over which a file goes as it is, piece by piece: HTTP."""

    def send_file(self, method: str, data: bytes | memoryview, progress: Progress, *, patch_id: str) -> dict[str, Any]:
        """Return the method's document after the file has gone."""
        ...

    def receive_file(self, method: str, bytes_max: int, progress: Progress, *, patch_id: str) -> bytes:
        """Return the file that the method answers with."""
        ...


def _untold(done: int, total: int) -> None:
    """Tell nobody."""


def send_patch(
    client: NodeClient, data: bytes | memoryview, patch_id: str | None = None, progress: Progress = _untold
) -> str:
    """Give the node a published patch file, in parts where one request has no room for it; return the patch's id.

    Args:
        client: The node.
        data: The file.
        patch_id: What it is expected to be; None for whatever it is.
        progress: Told how many bytes have gone.

    Raises:
        PatchwardenError: What the node answers: ``node.patch.*``.
    """
    if isinstance(client, SocketClient) and len(data) <= PART_BYTES_MAX:
        expected = {} if patch_id is None else {"patch_id": patch_id}
        return str(client.call("patches.put", file=encode_blob(data), **expected)["patch_id"])
    found = str(split_patch_file_untrusted(bytes(data)).patch_id) if patch_id is None else patch_id
    if not isinstance(client, SocketClient):
        sent = cast(FileClient, client).send_file("patches.put", data, progress, patch_id=found)
        return str(sent["patch_id"])
    upload = random_bytes(_UPLOAD_BYTES).hex()
    for offset in range(0, len(data), PART_BYTES_MAX):
        part = encode_blob(data[offset : offset + PART_BYTES_MAX])
        client.call("patches.put", patch_id=found, file=part, upload=upload, offset=offset)
        progress(min(offset + PART_BYTES_MAX, len(data)), len(data))
    return found


def receive_patch(client: NodeClient, patch_id: str, progress: Progress = _untold) -> bytes:
    """Return a published patch file as the node has it; nothing of it is verified.

    Args:
        client: The node.
        patch_id: 64 hexadecimal digits.
        progress: Told how many bytes have come.

    Raises:
        PatchwardenError: What the node answers: ``node.patch.*``; ``node.patch.file_cut`` when it sends less than it says,
            ``node.patch.too_large`` when it sends more than a patch file may have.
    """
    if not isinstance(client, SocketClient):
        return cast(FileClient, client).receive_file("patches.file", PATCH_FILE_BYTES_MAX, progress, patch_id=patch_id)
    parts: list[bytes] = []
    received = 0
    while True:
        answer = client.call("patches.file", patch_id=patch_id, offset=received, length=PART_BYTES_MAX)
        part = decode_blob_untrusted(answer["file"], "file", bytes_max=PART_BYTES_MAX)
        parts.append(part)
        received += len(part)
        progress(received, answer["file_bytes"])
        if received >= answer["file_bytes"]:
            return b"".join(parts)
        if received > PATCH_FILE_BYTES_MAX:
            raise too_large()
        if not part:
            raise RejectedError(
                "node.patch.file_cut",
                "the node sends less than it says",
                expected=answer["file_bytes"],
                actual=received,
            )


def too_large() -> RejectedError:
    """Return that a node sends more than a patch file may have."""
    return RejectedError(
        "node.patch.too_large",
        "the node sends too large a patch file",
        expected=f"at most {PATCH_FILE_BYTES_MAX} bytes",
    )


def patch_place(client: NodeClient, path: Path) -> dict[str, Any] | None:
    """Return what names a patch file to a host's agent by its place, where that is cheaper than its bytes; else None.

    Through the socket of this machine's node, a regular file of more than one part is named: the node reads it itself.
    """
    place = path.resolve()
    try:
        status = path.stat()
        str(place).encode()
    except (OSError, UnicodeEncodeError):
        return None
    if not isinstance(client, SocketClient) or not stat.S_ISREG(status.st_mode) or status.st_size <= PART_BYTES_MAX:
        return None
    return {"path": str(place)}


def may_go_as_bytes(client: NodeClient, path: Path) -> bool:
    """Return whether one request to a host's agent has room for the file."""
    return path.stat().st_size <= (BLOB_BYTES_MAX if isinstance(client, SocketClient) else HTTP_BLOB_BYTES_MAX)
