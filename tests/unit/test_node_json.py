"""JSON that two readers could read in two ways, and text that is no text: refused at every door, and no node ends by it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from node.gateway.app import build_app
from node.local.client import LocalClient
from node.local.protocol import decode_message_untrusted
from node.local.server import LocalServer
from node.params import as_name, as_optional_text
from wire.errors import RejectedError

AMBIGUOUS = {
    "one member twice": b'{"id":1,"id":2,"method":"echo"}',
    "one member twice, deeper": b'{"id":1,"method":"echo","params":{"a":{"b":1,"b":2}}}',
    "not a number": b'{"id":1,"method":"echo","params":{"x":NaN}}',
    "infinity": b'{"id":1,"method":"echo","params":{"x":-Infinity}}',
    "UTF-16": '{"id":1,"method":"echo"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"id":1,"method":"echo"}',
    "not UTF-8": b'{"id":1,"method":"echo","params":{"x":"\xff"}}',
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_frames_that_can_be_read_in_two_ways_are_refused(kind: str) -> None:
    with pytest.raises(RejectedError) as caught:
        decode_message_untrusted(AMBIGUOUS[kind])
    assert caught.value.code == "node.local.malformed"


@pytest.fixture
async def served(tmp_path: Path, nursery: trio.Nursery) -> Path:
    async def echo(params: Mapping[str, Any]) -> Any:
        return dict(params)

    async def refuse(params: Mapping[str, Any]) -> Any:
        raise RejectedError("test.rule", f"there is no such thing: {params['name']}")

    path = tmp_path / "core.sock"
    await nursery.start(LocalServer(path, {"echo": echo, "refuse": refuse}).run)
    return path


def _frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


async def _ask(path: Path, payload: bytes) -> bytes:
    async with await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(_frame(payload))
        with trio.fail_after(5):
            return await stream.receive_some(10_000)


@pytest.mark.parametrize("method", ["echo", "refuse"])
async def test_an_answer_that_cannot_be_written_costs_one_request_and_not_the_node(served: Path, method: str) -> None:
    answer = await _ask(served, json.dumps({"id": 1, "method": method, "params": {"name": "\ud800"}}).encode())
    assert json.loads(answer[4:])["error"]["code"] == "node.bug"

    def blocking() -> Any:
        with LocalClient(served) as client:
            return client.call("echo", still="here")

    assert await trio.to_thread.run_sync(blocking) == {"still": "here"}


async def test_a_request_id_is_an_integer_and_no_truth_value(served: Path) -> None:
    assert await _ask(served, b'{"id":true,"method":"echo","params":{}}') == b""


@pytest.mark.parametrize("read", [as_name, as_optional_text])
def test_a_lone_surrogate_is_no_text(read: Any) -> None:
    with pytest.raises(RejectedError) as caught:
        read({"x": "a\udfff"}, "x")
    assert caught.value.code == "node.param.text"
    assert read({"x": "ä"}, "x") == "ä"


MEMBERS = {
    "/v1/transactions": '"transactions":["YQ=="]',
    "/v1/agent/explain": '"target":"app"',
    "/v1/agent/apply": '"target":"app"',
}


@pytest.mark.parametrize("path", MEMBERS)
@pytest.mark.parametrize("form", ["{{{0},{0}}}", "UTF-16", "{{{0},{0},}}", '{{{0},"\\ud800":1}}', '{{{0},"x":NaN}}'])
def test_bodies_that_can_be_read_in_two_ways_never_reach_the_core(tmp_path: Path, path: str, form: str) -> None:
    body = f"{{{MEMBERS[path]}}}".encode("utf-16") if form == "UTF-16" else form.format(MEMBERS[path]).encode()
    (tmp_path / "rpc.token").write_text("f00d\n")

    class NoCore:
        async def call(self, *_: object, **__: object) -> Any:
            raise AssertionError("the core was asked")

    async def ask() -> httpx.Response:
        app = build_app(NoCore(), token_path=tmp_path / "rpc.token", patches_path=tmp_path)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://node") as client:
            headers = {"content-type": "application/json", "authorization": "Bearer f00d"}
            return await client.post(path, content=body, headers=headers)

    response = asyncio.run(ask())
    assert (response.status_code, response.json()["code"]) == (422, "node.http.invalid_request")
    assert response.headers["content-type"] == "application/problem+json"
