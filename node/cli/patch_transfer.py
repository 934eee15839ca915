"""Patch files between a command and a node: in parts through the local socket, as one body over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from node.cli.client import NodeClient, SocketClient
from node.clock import random_bytes
from node.local.protocol import BLOB_BYTES_MAX, PART_BYTES_MAX, decode_blob_untrusted, encode_blob
from provenance.layout import split_patch_file_untrusted
from wire.errors import RejectedError
from wire.limits import PATCH_FILE_BYTES_MAX

_UPLOAD_BYTES = 8


def send_patch(client: NodeClient, data: bytes, patch_id: str | None = None) -> str:
    """Give the node a published patch file, in parts where one request has no room for it; return the patch's id.

    Args:
        client: The node.
        data: The file.
        patch_id: What it is expected to be; None for whatever it is.

    Raises:
        PatchwardenError: What the node answers: ``node.patch.*``.
    """
    if not isinstance(client, SocketClient) or len(data) <= PART_BYTES_MAX:
        expected = {} if patch_id is None else {"patch_id": patch_id}
        return str(client.call("patches.put", file=encode_blob(data), **expected)["patch_id"])
    found = str(split_patch_file_untrusted(data).patch_id) if patch_id is None else patch_id
    upload = random_bytes(_UPLOAD_BYTES).hex()
    for offset in range(0, len(data), PART_BYTES_MAX):
        part = encode_blob(data[offset : offset + PART_BYTES_MAX])
        client.call("patches.put", patch_id=found, file=part, upload=upload, offset=offset)
    return found


def receive_patch(client: NodeClient, patch_id: str) -> bytes:
    """Return a published patch file as the node has it; nothing of it is verified.

    Raises:
        PatchwardenError: What the node answers: ``node.patch.*``; ``node.patch.file_cut`` when it sends less than it says.
    """
    if not isinstance(client, SocketClient):
        return decode_blob_untrusted(
            client.call("patches.file", patch_id=patch_id)["file"], "file", bytes_max=PATCH_FILE_BYTES_MAX
        )
    data = bytearray()
    while True:
        answer = client.call("patches.file", patch_id=patch_id, offset=len(data), length=PART_BYTES_MAX)
        part = decode_blob_untrusted(answer["file"], "file", bytes_max=PART_BYTES_MAX)
        data += part
        if len(data) >= answer["file_bytes"]:
            return bytes(data)
        if not part:
            raise RejectedError(
                "node.patch.file_cut",
                "the node sends less than it says",
                expected=answer["file_bytes"],
                actual=len(data),
            )


def patch_argument(client: NodeClient, path: Path, data: bytes) -> dict[str, Any]:
    """Return what names a patch file in a request to a host's agent: its bytes, or its place where a request has no room for them."""
    if isinstance(client, SocketClient) and len(data) > BLOB_BYTES_MAX:
        return {"path": str(path.resolve())}
    return {"file": encode_blob(data)}
