"""The core's Unix socket: what goes in comes out, and what is malformed harms nobody else."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from node.local.client import LocalClient
from node.local.protocol import (
    FRAME_BYTES_MAX,
    InternalError,
    decode_blob_untrusted,
    encode_blob,
    encode_message,
    error_from_json,
    error_to_json,
)
from node.local.server import LocalServer
from wire.errors import CorruptionError, PatchwardenError, RejectedError, UnavailableError


class _Methods:
    def __init__(self) -> None:
        self.release = trio.Event()
        self.cancelled = 0

    async def echo(self, params: Mapping[str, Any]) -> Any:
        return dict(params)

    async def refuse(self, params: Mapping[str, Any]) -> Any:
        raise RejectedError("test.rule", "the rule is broken", hint="mend it", expected=1, actual=2)

    async def crash(self, params: Mapping[str, Any]) -> Any:
        raise KeyError("secret")

    async def wait(self, params: Mapping[str, Any]) -> Any:
        try:
            await self.release.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        return "released"

    async def count(self, params: Mapping[str, Any]) -> AsyncIterator[Any]:
        for number in range(params["to"]):
            yield number

    def all(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("echo", "refuse", "crash", "wait", "count")}


@pytest.fixture
async def served(tmp_path: Path, nursery: trio.Nursery) -> tuple[Path, _Methods]:
    methods = _Methods()
    path = tmp_path / "core.sock"
    await nursery.start(LocalServer(path, methods.all()).run)
    return path, methods


async def _call(path: Path, method: str, **params: Any) -> Any:
    def blocking() -> Any:
        with LocalClient(path, timeout_s=10) as client:
            return client.call(method, **params)

    return await trio.to_thread.run_sync(blocking)


async def test_call_returns_the_result(served: tuple[Path, _Methods]) -> None:
    assert await _call(served[0], "echo", text="ü", number=3) == {"text": "ü", "number": 3}


async def test_refusal_arrives_with_family_code_message_and_hint(served: tuple[Path, _Methods]) -> None:
    with pytest.raises(RejectedError) as caught:
        await _call(served[0], "refuse")
    assert (caught.value.code, caught.value.hint) == ("test.rule", "mend it")
    assert caught.value.message == "the rule is broken: expected 1, got 2"


async def test_bug_is_named_without_its_text_and_the_server_goes_on(served: tuple[Path, _Methods]) -> None:
    with pytest.raises(InternalError) as caught:
        await _call(served[0], "crash")
    assert caught.value.code == "node.bug"
    assert "secret" not in caught.value.message
    assert await _call(served[0], "echo") == {}


async def test_unknown_method_is_refused(served: tuple[Path, _Methods]) -> None:
    with pytest.raises(RejectedError) as caught:
        await _call(served[0], "no.such")
    assert caught.value.code == "node.local.unknown_method"


async def test_socket_is_for_its_owner_only(served: tuple[Path, _Methods]) -> None:
    assert stat.S_IMODE(os.stat(served[0]).st_mode) == 0o600


async def test_stream_yields_every_event_in_order(served: tuple[Path, _Methods]) -> None:
    def blocking() -> list[Any]:
        with LocalClient(served[0], timeout_s=10) as client:
            return list(client.stream("count", to=100))

    assert await trio.to_thread.run_sync(blocking) == list(range(100))


async def test_requests_of_one_connection_run_side_by_side_and_cancel_reaches_the_method(
    served: tuple[Path, _Methods],
) -> None:
    path, methods = served
    stream = await trio.open_unix_socket(str(path))
    async with stream:
        await stream.send_all(encode_message({"id": 1, "method": "wait", "params": {}}))
        await stream.send_all(encode_message({"id": 2, "method": "echo", "params": {"a": 1}}))
        answer = await stream.receive_some(1000)
        assert answer == encode_message({"id": 2, "result": {"a": 1}})
        await stream.send_all(encode_message({"id": 1, "method": "cancel", "params": {}}))
        await stream.send_all(encode_message({"id": 3, "method": "echo", "params": {}}))
        assert await stream.receive_some(1000) == encode_message({"id": 3, "result": {}})
    assert methods.cancelled == 1


async def test_client_that_leaves_ends_its_requests(served: tuple[Path, _Methods]) -> None:
    path, methods = served
    stream = await trio.open_unix_socket(str(path))
    await stream.send_all(encode_message({"id": 1, "method": "wait", "params": {}}))
    await stream.send_all(encode_message({"id": 2, "method": "echo", "params": {}}))
    await stream.receive_some(1000)
    await stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    for _ in range(1000):
        if methods.cancelled:
            break
        await trio.lowlevel.checkpoint()
    assert methods.cancelled == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff",
        (FRAME_BYTES_MAX + 1).to_bytes(4, "big"),
        b"\x00\x00\x00\x03{]}",
        b"\x00\x00\x00\x02[]",
        encode_message({"id": "1", "method": "echo", "params": {}}),
        encode_message({"id": 1, "method": 7, "params": {}}),
        encode_message({"id": 1, "method": "echo", "params": []}),
        b"\x00\x00\x00\x02\xff\xfe",
        b"\x00\x01\x00\x00" + b"[" * 65536,
    ],
)
async def test_garbage_ends_its_connection_and_no_other(served: tuple[Path, _Methods], garbage: bytes) -> None:
    stream = await trio.open_unix_socket(str(served[0]))
    async with stream:
        await stream.send_all(garbage)
        assert await stream.receive_some(1000) == b""
    assert await _call(served[0], "echo", still="here") == {"still": "here"}


async def test_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RejectedError) as caught:
        await LocalServer(tmp_path / ("x" * 120), {}).run()
    assert caught.value.code == "node.local.path_too_long"


def test_nobody_at_the_socket_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        LocalClient(tmp_path / "none.sock")
    assert caught.value.code == "node.local.unreachable"


def test_server_that_dies_in_the_middle_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "core.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    client = LocalClient(path, timeout_s=5)
    peer, _ = listener.accept()
    peer.sendall(b"\x00\x00\x00\xff{")
    peer.close()
    with client, pytest.raises(UnavailableError) as caught:
        client.call("echo")
    listener.close()
    assert caught.value.code == "node.local.unreachable"


@pytest.mark.parametrize("kind", [RejectedError, UnavailableError, CorruptionError, InternalError])
def test_error_survives_the_journey(kind: type[PatchwardenError]) -> None:
    error = kind("a.code", "a sentence", hint="a hint", details={"height": 3})
    back = error_from_json(error_to_json(error))
    assert type(back) is kind
    assert (back.code, back.message, back.hint, dict(back.details)) == ("a.code", "a sentence", "a hint", {"height": 3})


@pytest.mark.parametrize("document", [None, 3, [], {"family": "?"}, {}])
def test_unreadable_refusal_is_a_bug_not_a_crash(document: Any) -> None:
    assert isinstance(error_from_json(document), InternalError)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "not_base64"),
        ("a", "not_base64"),
        ("YQ", "not_base64"),
        ("ü===", "not_base64"),
        ("YR==", "not_base64"),  # Bits that no byte needs: found by the fuzzer, accepted as "YQ==" before.
        ("YWF=", "not_base64"),
        ("YWFhYR==", "not_base64"),
        ("YWFh" * 9, "too_large"),
    ],
)
def test_blob_must_be_base64_of_bounded_size(value: Any, code: str) -> None:
    with pytest.raises(RejectedError) as caught:
        decode_blob_untrusted(value, "file", bytes_max=24)
    assert caught.value.code == f"node.param.{code}"


def test_blob_round_trip() -> None:
    assert decode_blob_untrusted(encode_blob(b"\x00\xff"), "file", bytes_max=2) == b"\x00\xff"
