"""Patch files between a command and a node: in parts through the socket, whole over HTTP, and by their place to a host's agent."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from node.agent_service import AgentService
from node.cli import patch_transfer
from node.cli.client import SocketClient
from node.cli.patch_transfer import patch_argument, receive_patch, send_patch
from node.local.protocol import decode_blob_untrusted, encode_blob
from node.patch_store import PatchStore
from node.services import Services
from provenance.layout import split_patch_file_untrusted
from tests.testkit import patches
from wire.errors import RejectedError
from wire.hashing import Digest, sha256

DATA = patches.make_patch()
PATCH_ID = str(split_patch_file_untrusted(DATA).patch_id)


class Record(SimpleNamespace):
    patch_id: bytes
    file_digest: bytes
    file_bytes: int


class Socket(SocketClient):
    """A socket to services of this process, which know one published patch."""

    def __init__(self, services: Any) -> None:
        self.services = services
        self.calls: list[dict[str, Any]] = []

    def call(self, method: str, **params: Any) -> Any:
        import trio

        self.calls.append({"method": method, **params})
        return trio.run(getattr(self.services, method.replace(".", "_")), params)


@pytest.fixture
def socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Socket:
    for module in (patch_transfer, __import__("node.services", fromlist=["x"])):
        monkeypatch.setattr(module, "PART_BYTES_MAX", 1000)
    record = Record(patch_id=bytes.fromhex(PATCH_ID), file_digest=sha256(DATA), file_bytes=len(DATA))
    services = Services.__new__(Services)

    async def bring(digest: Digest, size: int) -> bool:
        return node.patch_store.has(digest) and node.patch_store.size(digest) == size

    async def make_room(size: int) -> None:
        node.patch_store.check_room(size)

    store = PatchStore(tmp_path / "patches", random_suffix=lambda: "x")
    node = SimpleNamespace(patch_store=store, patches=SimpleNamespace(bring=bring, make_room=make_room))
    monkeypatch.setattr(services, "_node", node, raising=False)
    monkeypatch.setattr(Services, "_published", lambda self, patch_id: record)
    monkeypatch.setattr(Services, "_find_patch", lambda self, params: record)
    return Socket(services)


def test_a_file_goes_in_parts_and_comes_back_in_parts(socket: Socket) -> None:
    assert send_patch(socket, DATA, PATCH_ID) == PATCH_ID
    parts = [decode_blob_untrusted(each["file"], "file", bytes_max=1000) for each in socket.calls]
    assert b"".join(parts) == DATA
    assert len(parts) == -(-len(DATA) // 1000) > 1
    assert len({each["upload"] for each in socket.calls}) == 1
    store = socket.services._node.patch_store
    assert store.read(Digest(sha256(DATA))) == DATA
    socket.calls.clear()
    assert receive_patch(socket, PATCH_ID) == DATA
    assert len(socket.calls) == len(parts)
    assert send_patch(socket, DATA) == PATCH_ID, "a file that is here already is taken as it is"


def test_another_file_is_refused_by_its_last_part(socket: Socket, tmp_path: Path) -> None:
    with pytest.raises(RejectedError) as caught:
        send_patch(socket, DATA[:-2] + b" \n", PATCH_ID)
    assert caught.value.code == "node.patch.wrong_digest"
    assert list(tmp_path.joinpath("patches").iterdir()) == [], "nothing of it stays"
    with pytest.raises(RejectedError) as caught:
        send_patch(socket, DATA + bytes(1000), PATCH_ID)
    assert caught.value.code in ("node.patch.wrong_part", "node.patch.wrong_digest")


def test_a_node_that_sends_less_than_it_says_is_not_believed(socket: Socket, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"file": encode_blob(b""), "file_bytes": 5}
    monkeypatch.setattr(socket, "call", lambda method, **params: answer)
    with pytest.raises(RejectedError) as caught:
        receive_patch(socket, PATCH_ID)
    assert caught.value.code == "node.patch.file_cut"


def test_over_http_it_is_one_body() -> None:
    calls: list[dict[str, Any]] = []

    def call(method: str, **params: Any) -> Any:
        calls.append({"method": method, **params})
        return {"patch_id": PATCH_ID, "file": encode_blob(DATA)}

    client: Any = SimpleNamespace(call=call)
    assert send_patch(client, DATA, PATCH_ID) == PATCH_ID
    assert receive_patch(client, PATCH_ID) == DATA
    assert calls[0] == {"method": "patches.put", "patch_id": PATCH_ID, "file": encode_blob(DATA)}
    assert patch_argument(client, Path("x"), DATA) == {"file": encode_blob(DATA)}


async def test_a_file_too_long_for_a_request_is_named_by_its_place(
    socket: Socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "large.patch"
    place.write_bytes(DATA)
    assert patch_argument(socket, place, DATA) == {"file": encode_blob(DATA)}
    monkeypatch.setattr(patch_transfer, "BLOB_BYTES_MAX", len(DATA) - 1)
    argument = patch_argument(socket, place, DATA)
    assert argument == {"path": str(place)}
    service = AgentService.__new__(AgentService)
    assert await service._patch(argument) == DATA
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(place)
    os.mkfifo(pipe)
    for wrong in ("large.patch", str(tmp_path), str(link), str(pipe), str(tmp_path / "missing"), "/\0", "/\ud800", 7):
        with pytest.raises(RejectedError) as caught:
            await service._patch({"path": wrong})
        assert caught.value.code == "node.param.path", wrong
    with pytest.raises(RejectedError) as caught:
        await service._patch({"path": str(place), "patch_id": PATCH_ID})
    assert caught.value.code == "node.param.patch"
