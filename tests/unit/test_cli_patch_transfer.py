"""Patch files between a command and a node: in parts through the socket, whole over HTTP, and by their place to a host's agent."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from node.agent_service import AgentService
from node.cli import patch_transfer, rpc
from node.cli.client import SocketClient
from node.cli.errors import NodeUnreachableError
from node.cli.patch_files import published_part
from node.cli.patch_transfer import patch_place, receive_patch, send_patch
from node.cli.rpc import RpcClient
from node.local.protocol import decode_blob_untrusted, encode_blob
from node.patch_store import PatchStore
from node.services import Services
from provenance.layout import split_patch_file_untrusted
from provenance.verify import verify_patch_untrusted
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


class Gateway:
    """A node over HTTP that has one file, or takes it."""

    def __init__(self, answer: httpx.Response | None = None) -> None:
        self.requests: list[tuple[str, str, str | None, bytes]] = []
        self.answer = answer
        self.client = RpcClient("http://127.0.0.1:1", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        self.requests.append((request.method, request.url.path, request.headers.get("content-length"), body))
        if self.answer is not None:
            return self.answer
        return (
            httpx.Response(200, json={"patch_id": PATCH_ID})
            if request.method == "PUT"
            else httpx.Response(200, content=DATA)
        )


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.client.close()


def test_over_http_it_is_one_body_in_pieces(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "PIECE_BYTES", 1000)
    told: list[tuple[int, int]] = []
    assert send_patch(gateway.client, memoryview(DATA), PATCH_ID, lambda *count: told.append(count)) == PATCH_ID
    assert gateway.requests == [("PUT", f"/v1/patches/{PATCH_ID}", str(len(DATA)), DATA)]
    assert told == [(min(offset + 1000, len(DATA)), len(DATA)) for offset in range(0, len(DATA), 1000)]
    told.clear()
    assert receive_patch(gateway.client, PATCH_ID, lambda *count: told.append(count)) == DATA
    assert told[-1] == (len(DATA), len(DATA))
    assert len(told) > 1
    assert send_patch(gateway.client, DATA) == PATCH_ID, "the id is read from the file where nobody says it"


def test_a_node_over_http_that_sends_too_much_is_cut(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_transfer, "PATCH_FILE_BYTES_MAX", len(DATA) - 1)
    with pytest.raises(RejectedError) as caught:
        receive_patch(gateway.client, PATCH_ID)
    assert caught.value.code == "node.patch.too_large"


@pytest.mark.parametrize("method", ["send", "receive"])
def test_a_refusal_over_http_is_the_node_s_own(gateway: Gateway, method: str) -> None:
    gateway.answer = httpx.Response(
        409, json={"code": "node.patch.not_published", "family": "rejected", "detail": "no"}
    )
    with pytest.raises(RejectedError) as caught:
        send_patch(gateway.client, DATA, PATCH_ID) if method == "send" else receive_patch(gateway.client, PATCH_ID)
    assert caught.value.code == "node.patch.not_published"


@pytest.mark.parametrize("method", ["send", "receive"])
def test_a_connection_that_breaks_is_told_as_that(method: str) -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("it broke")

    client = RpcClient("http://127.0.0.1:1", transport=httpx.MockTransport(broken))
    with pytest.raises(NodeUnreachableError) as caught:
        send_patch(client, DATA, PATCH_ID) if method == "send" else receive_patch(client, PATCH_ID)
    client.close()
    assert caught.value.code == "cli.rpc.unreachable"


def test_through_the_socket_each_part_is_told(socket: Socket) -> None:
    told: list[tuple[int, int]] = []
    send_patch(socket, DATA, PATCH_ID, lambda *count: told.append(count))
    expected = [(min(offset + 1000, len(DATA)), len(DATA)) for offset in range(0, len(DATA), 1000)]
    assert told == expected
    told.clear()
    receive_patch(socket, PATCH_ID, lambda *count: told.append(count))
    assert told == expected


def test_a_node_that_never_ends_is_cut(socket: Socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_transfer, "PATCH_FILE_BYTES_MAX", 10)
    monkeypatch.setattr(socket, "call", lambda method, **params: {"file": encode_blob(b"x" * 4), "file_bytes": 1 << 60})
    with pytest.raises(RejectedError) as caught:
        receive_patch(socket, PATCH_ID)
    assert caught.value.code == "node.patch.too_large"


def test_what_a_published_file_is_of_a_longer_one_is_found_by_its_digest() -> None:
    attested = patches.approve(patches.approve(DATA), patches.CAROL, "carol@gamma", "qa")
    patch = verify_patch_untrusted(attested)
    found = published_part(patch, sha256(DATA).hex())
    assert found is not None
    assert bytes(found) == DATA
    whole = published_part(patch, sha256(attested).hex())
    assert whole is not None
    assert bytes(whole) == attested
    assert published_part(patch, sha256(b"another").hex()) is None


async def test_a_long_file_is_named_by_its_place(
    socket: Socket, gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "large.patch"
    place.write_bytes(DATA)
    argument = patch_place(socket, place)
    assert argument == {"path": str(place)}
    assert patch_place(gateway.client, place) is None, "another machine may read other files"
    assert patch_place(socket, tmp_path) is None
    assert patch_place(socket, tmp_path / "missing") is None
    with contextlib.suppress(OSError):  # some file systems have only names of UTF-8
        odd = tmp_path / os.fsdecode(b"\xff.patch")
        odd.write_bytes(DATA)
        assert patch_place(socket, odd) is None, "no request can carry its name"
    monkeypatch.setattr(patch_transfer, "PART_BYTES_MAX", len(DATA))
    assert patch_place(socket, place) is None, "a short one goes as it is"
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
