"""The HTTP client: every method at its path, every problem as the error that the node raised."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from node.cli.errors import CommandError, NodeUnreachableError
from node.cli.rpc import ROUTES, RpcClient
from node.gateway.app import build_app
from node.gateway.limits import GatewayLimits
from node.local.client import AsyncLocalClient
from node.local.protocol import InternalError, encode_blob
from wire.errors import CorruptionError, PatchwardenError, RejectedError, UnavailableError

URL = "http://127.0.0.1:7080"
PARAMS: dict[str, Any] = {
    "rollout_id": "spring@acme", "group_id": "web@acme", "organisation": "acme", "deployment_id": "34" * 32,
    "height": 7, "from": 7, "tx_id": "ab" * 32, "identity": "alice@acme", "patch_id": "cd" * 32, "proposal_id": "ef" * 32,
    "host": "web1@acme", "target": "app", "subject": "patch", "id": "12" * 32, "file": encode_blob(b"patch"),
}  # fmt: skip


def client(answer: Callable[[httpx.Request], httpx.Response], **options: Any) -> RpcClient:
    return RpcClient(URL, transport=httpx.MockTransport(answer), **options)


def problem(status: int, **members: Any) -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: httpx.Response(status, json=members, headers={"content-type": "application/problem+json"})


def test_every_method_asks_a_path_of_the_gateway(tmp_path: Path) -> None:
    app = build_app(AsyncLocalClient(tmp_path / "core.sock"), token_path=tmp_path / "rpc.token", patches_path=tmp_path)
    offered = {(verb.upper(), path) for path, operations in app.openapi()["paths"].items() for verb in operations}
    for method, route in ROUTES.items():
        path = route.path.replace("{from}", "{height}").replace("{id}", "{name}")
        assert (route.verb, path) in offered, method


@pytest.mark.parametrize("method", [name for name, route in ROUTES.items() if route.verb != "PUT"])
def test_parameters_go_into_path_query_and_body(method: str) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"results": []})

    route = ROUTES[method]
    names = [name for name in PARAMS if f"{{{name}}}" in route.path]
    client(answer).call(method, **{name: PARAMS[name] for name in names}, limit=5, nothing=None)
    (request,) = asked
    assert request.method == route.verb
    assert "{" not in request.url.path
    for name in names:
        assert str(PARAMS[name]) in request.url.path
    if route.verb == "GET":
        assert dict(request.url.params) == {"limit": "5"}
    else:
        assert json.loads(request.content) == {"limit": 5}


def test_names_are_quoted_into_the_path() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path.decode())
        return httpx.Response(200, json={})

    client(answer).call("identities.get", identity="a/../b?c@acme")
    assert asked == ["/v1/identities/a%2F..%2Fb%3Fc@acme"]


def test_patch_file_becomes_the_documents_blob() -> None:
    answer = client(lambda request: httpx.Response(200, content=b"\x00file")).call("patches.file", patch_id="ab" * 32)
    assert answer == {"patch_id": "ab" * 32, "file": encode_blob(b"\x00file")}


def test_submission_gives_its_results() -> None:
    results = [{"tx_id": "ab" * 32, "status": "committed", "height": 3, "error": None}]
    assert (
        client(lambda request: httpx.Response(200, json={"results": results})).call("tx.submit", transactions=["AA=="])
        == results
    )


def test_token_travels_as_bearer() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization", ""))
        return httpx.Response(200, json={})

    client(answer, token="secret").call("agent.status")
    client(answer).call("agent.status")
    assert seen == ["Bearer secret", ""]


@pytest.mark.parametrize("host", ["192.0.2.1", "node.example", "[2001:db8::1]"])
def test_token_is_not_sent_in_clear_to_another_machine(host: str) -> None:
    with pytest.raises(CommandError) as caught:
        RpcClient(f"http://{host}:7080", token="secret")
    assert caught.value.code == "cli.rpc.token_in_clear"
    assert "secret" not in caught.value.message
    RpcClient(f"http://{host}:7080").close()
    RpcClient(f"https://{host}:7080", token="secret").close()
    for loopback in ("127.0.0.1", "localhost", "[::1]"):
        RpcClient(f"http://{loopback}:7080", token="secret").close()


@pytest.mark.parametrize(
    ("status", "members", "family", "code"),
    [
        (422, {"code": "ledger.patch.exists", "detail": "it is", "hint": "look"}, RejectedError, "ledger.patch.exists"),
        (404, {"code": "node.patch.not_found", "detail": "no"}, RejectedError, "node.patch.not_found"),
        (503, {"code": "node.no_leader", "detail": "later"}, UnavailableError, "node.no_leader"),
        (429, {"code": "node.http.rate", "detail": "slower"}, UnavailableError, "node.http.rate"),
        (500, {"code": "node.storage.checksum", "detail": "damaged"}, CorruptionError, "node.storage.checksum"),
        (500, {"code": "node.internal", "detail": "bug"}, InternalError, "node.internal"),
        (409, {"code": "x.y", "detail": "odd", "family": "unavailable"}, UnavailableError, "x.y"),
        (418, {}, RejectedError, "cli.rpc.http_418"),
    ],
)
def test_problem_is_raised_as_what_the_node_raised(
    status: int, members: dict[str, Any], family: type[PatchwardenError], code: str
) -> None:
    with pytest.raises(family) as caught:
        client(problem(status, **members)).call("status")
    assert caught.value.code == code
    assert caught.value.hint == members.get("hint", "")
    if "detail" in members:
        assert caught.value.message == members["detail"]


@pytest.mark.parametrize("content", [b"", b"<html>", b"[1]", b'"x"', b"\xff"])
def test_error_that_is_no_problem_document_still_has_a_code(content: bytes) -> None:
    with pytest.raises(UnavailableError) as caught:
        client(lambda request: httpx.Response(503, content=content)).call("status")
    assert caught.value.code == "cli.rpc.http_503"


def test_answer_that_is_not_json_is_no_node() -> None:
    with pytest.raises(NodeUnreachableError) as caught:
        client(lambda request: httpx.Response(200, content=b"<html>")).call("status")
    assert caught.value.code == "cli.rpc.not_json"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (httpx.ConnectError("refused"), "cli.rpc.unreachable"),
        (httpx.ConnectTimeout("slow"), "cli.rpc.unreachable"),
        (httpx.ReadTimeout("slow"), "cli.rpc.timeout"),
        (httpx.RemoteProtocolError("broke"), "cli.rpc.unreachable"),
    ],
)
def test_broken_connection_is_unavailable(error: httpx.TransportError, code: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error

    for use in (lambda: client(answer).call("status"), lambda: list(client(answer).stream("events.subscribe"))):
        with pytest.raises(NodeUnreachableError) as caught:
            use()
        assert caught.value.code == code


def test_redirects_are_not_followed() -> None:
    with pytest.raises(PatchwardenError):
        client(lambda request: httpx.Response(302, headers={"location": "http://elsewhere/"})).call("status")


def test_events_are_read_whatever_the_pieces() -> None:
    stream = b': hello\n\nid: 1\nevent: block\ndata: {"height":\ndata: 1}\n\n\n: keep-alive\n\ndata:{"height":2}\n\ndata: {"unfinished":'

    class Pieces(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for start in range(0, len(stream), 3):
                yield stream[start : start + 3]

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept"] == "text/event-stream"
        assert request.url.params["from_height"] == "1"
        return httpx.Response(200, stream=Pieces())

    assert list(client(answer).stream("events.subscribe", from_height=1)) == [{"height": 1}, {"height": 2}]


def test_subscription_that_is_refused_raises() -> None:
    with pytest.raises(RejectedError) as caught:
        list(client(problem(400, code="node.param.integer", detail="no")).stream("events.subscribe"))
    assert caught.value.code == "node.param.integer"


def test_what_http_does_not_offer_says_so() -> None:
    with pytest.raises(CommandError) as caught:
        client(problem(500)).call("node.stop")
    assert caught.value.code == "cli.rpc.no_such_method"
    with pytest.raises(CommandError) as caught:
        client(problem(500)).call("blocks.get", hash="ab" * 32)
    assert caught.value.code == "cli.rpc.by_hash"


def test_what_waits_for_commits_and_disks_has_longer_than_the_gateway_gives_it() -> None:
    timeouts: dict[str, float] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        timeouts[request.url.path] = request.extensions["timeout"]["read"]
        return httpx.Response(200, json={})

    client = RpcClient("http://127.0.0.1:1", timeout_s=75.0, transport=httpx.MockTransport(answer))
    client.call("agent.apply", target="app", patch_id="ab" * 32)
    client.call("agent.status")
    client.close()
    assert timeouts["/v1/agent/status"] == 75.0
    assert timeouts["/v1/agent/apply"] > GatewayLimits().request_timeout_s
