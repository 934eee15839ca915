"""The HTTP gateway over a core that is a fake with the real interface: forms, limits, errors, access."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from openapi_spec_validator import validate

from node.gateway.access import Access
from node.gateway.app import build_app
from node.gateway.events import with_keep_alive
from node.gateway.limits import GatewayLimits
from node.gateway.patch_files import PatchFiles
from node.patch_store import PatchStore, upload_name
from wire.errors import CorruptionError, PatchwardenError, RejectedError, UnavailableError
from wire.hashing import sha256

TOKEN = "f00d" * 16
DIGEST = "ab" * 32


class FakeCore:
    """Answers calls from a table; remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.blocked = asyncio.Event()

    async def call(
        self, method: str, more: Mapping[str, Any] | None = None, *, timeout_s: float = 60, **params: Any
    ) -> Any:
        assert timeout_s > 0
        self.calls.append((method, {**params, **(more or {})}))
        answer = self.answers.get(method, {})
        if isinstance(answer, Exception):
            raise answer
        if answer == "wait":
            await self.blocked.wait()
            return {}
        return answer

    async def stream(self, method: str, **params: Any) -> AsyncIterator[Any]:
        self.calls.append((method, params))
        for height in range(params.get("from_height", 0), 5):
            yield {"height": height}
        raise UnavailableError("node.local.unreachable", "the core went away")


@lru_cache
def _app(limits: GatewayLimits) -> FastAPI:
    """Return an application for the module's lifetime: making its models takes longer than a test; core and access are set for each."""
    return build_app(FakeCore(), token_path=Path("unused"), patches_path=Path("unused"), limits=limits)  # type: ignore[arg-type]


Scenario = Callable[[httpx.AsyncClient, FakeCore], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    token = tmp_path / "rpc.token"
    token.write_text(TOKEN + "\n")

    def run(scenario: Scenario, limits: GatewayLimits | None = None) -> None:
        async def main() -> None:
            core = FakeCore()
            app = _app(limits or GatewayLimits())
            app.state.core, app.state.access = core, Access(token)
            transport = httpx.ASGITransport(app=app)
            async with asyncio.timeout(20):
                async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
                    await scenario(client, core)

        asyncio.run(main())

    return run


def _is_problem(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["code"] == code
    assert document["status"] == status
    assert document["type"] == f"urn:patchwarden:problem:{code}"
    if status in (429, 503):
        assert int(response.headers["retry-after"]) >= 1


def test_openapi_document_is_valid_and_describes_problems(run: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        document = (await client.get("/openapi.json")).json()
        validate(document)
        assert document["openapi"].startswith("3.1")
        for path, operations in document["paths"].items():
            for operation in operations.values():
                for status in ("422", "500", "503"):
                    assert "application/problem+json" in operation["responses"][status]["content"], path
        assert "HTTPValidationError" not in document["components"]["schemas"]

    run(scenario)


def test_answers_of_the_core_pass_unchanged_with_security_headers(run: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        core.answers["status"] = {"name": "v1", "height": 2**53 - 1}
        response = await client.get("/v1/status")
        assert response.json() == core.answers["status"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "script-src 'self'" in response.headers["content-security-policy"]

    run(scenario)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RejectedError("node.patch.not_found", "no"), 404),
        (RejectedError("ledger.identity.exists", "no"), 409),
        (RejectedError("ledger.tx.too_large", "no"), 413),
        (RejectedError("ledger.tx.malformed", "no"), 400),
        (RejectedError("node.param.text", "no"), 400),
        (RejectedError("ledger.tx.wrong_chain", "no"), 422),
        (UnavailableError("node.no_leader", "later"), 503),
        (UnavailableError("ledger.mempool.signer_full", "later"), 429),
        (CorruptionError("node.storage.checksum", "bad"), 500),
    ],
)
def test_errors_of_the_core_become_problems(run: Callable[..., None], error: PatchwardenError, status: int) -> None:
    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        core.answers["patches.get"] = error
        _is_problem(await client.get(f"/v1/patches/{DIGEST}"), status, error.code)

    run(scenario)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "node.http.no_such_path"),
        ("DELETE", "/v1/status", 405, "node.http.method_not_allowed"),
        ("GET", "/v1/blocks/-1", 422, "node.http.invalid_request"),
        ("GET", "/v1/blocks/99999999999999999999", 422, "node.http.invalid_request"),
        ("GET", "/v1/patches/XYZ", 422, "node.http.invalid_request"),
        ("GET", "/v1/blocks?limit=501", 422, "node.http.invalid_request"),
        ("GET", "/v1/events", 422, "node.http.invalid_request"),
    ],
)
def test_wrong_requests_are_problems(run: Callable[..., None], method: str, path: str, status: int, code: str) -> None:
    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        headers = {"last-event-id": "x"} if path == "/v1/events" else {}
        _is_problem(await client.request(method, path, headers=headers), status, code)
        assert core.calls == []

    run(scenario)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"transactions": []}',
        b'{"transactions": ["not base64!"]}',
        b'{"transactions": ["YQ=="], "wait": "forever"}',
        b'{"transactions": ["YQ=="], "timeout_ms": "10"}',
        b'{"transactions": ["YQ=="], "timeout_ms": 0}',
        b'{"transactions": ["YQ=="], "unknown": 1}',
    ],
)
def test_malformed_submissions_never_reach_the_core(run: Callable[..., None], body: bytes) -> None:
    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        response = await client.post("/v1/transactions", content=body, headers={"content-type": "application/json"})
        _is_problem(response, 422, "node.http.invalid_request")
        assert core.calls == []

    run(scenario)


def test_body_nested_too_deeply_is_a_problem(run: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        headers = {"content-type": "application/json"}
        response = await client.post("/v1/transactions", content=b"[" * 100_000, headers=headers)
        _is_problem(response, 400, "node.http.invalid_request")
        assert core.calls == []

    run(scenario)


def test_single_refused_transaction_is_a_problem_and_a_batch_has_results(run: Callable[..., None]) -> None:
    refused = {
        "tx_id": DIGEST,
        "status": "refused",
        "height": None,
        "error": {"family": "rejected", "code": "ledger.tx.expired", "message": "late", "hint": ""},
    }
    good = {"tx_id": DIGEST, "status": "committed", "height": 3, "error": None}

    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        core.answers["tx.submit"] = [refused]
        response = await client.post("/v1/transactions", json={"transactions": ["YQ=="]})
        _is_problem(response, 422, "ledger.tx.expired")
        assert response.json()["tx_id"] == DIGEST
        core.answers["tx.submit"] = [refused, good]
        response = await client.post("/v1/transactions", json={"transactions": ["YQ==", "Yg=="], "wait": "none"})
        assert response.status_code == 200
        assert response.json() == {"results": [refused, good]}

    run(scenario)


def test_batch_for_which_there_is_no_room_is_asked_to_come_back(run: Callable[..., None]) -> None:
    """Guarded by `routes_submit._is_crowded_out`: without it a flood of batches would be answered with 200."""
    full = {"family": "unavailable", "code": "ledger.mempool.full", "message": "full", "hint": ""}
    signer_full = full | {"code": "ledger.mempool.signer_full"}
    bad = {"family": "rejected", "code": "ledger.tx.bad_signature", "message": "bad", "hint": ""}
    slow = full | {"code": "node.submit.timeout"}

    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        async def submit(*outcomes: tuple[str, dict[str, str] | None]) -> httpx.Response:
            core.answers["tx.submit"] = [
                {"tx_id": DIGEST, "status": status, "height": None, "error": error} for status, error in outcomes
            ]
            return await client.post("/v1/transactions", json={"transactions": ["AAAA"] * len(outcomes)})

        _is_problem(await submit(("refused", full), ("refused", full)), 503, "ledger.mempool.full")
        _is_problem(await submit(("refused", signer_full), ("refused", full)), 429, "ledger.mempool.signer_full")
        partly = await submit(("admitted", None), ("refused", full))
        assert (partly.status_code, partly.headers["retry-after"]) == (200, "1")
        # What is wrong stays wrong, and what timed out may be committed: both answers are results.
        for outcome in (("refused", bad), ("unknown", slow)):
            response = await submit(outcome, outcome)
            assert response.status_code == 200
            assert "retry-after" not in response.headers

    run(scenario)


def test_bodies_that_are_too_much_together_are_asked_to_come_back(run: Callable[..., None]) -> None:
    """Guarded by `GatewayLimits.bodies_bytes_max`: each body alone is within its own limit."""
    limits = GatewayLimits(body_bytes_max=1000, bodies_bytes_max=1500)
    document = {"transactions": ["AAAA"] * 110}

    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        core.answers["tx.submit"] = "wait"
        first = asyncio.create_task(client.post("/v1/transactions", json=document))
        while not core.calls:  # noqa: ASYNC110 - lets the task run until it is inside
            await asyncio.sleep(0)
        _is_problem(await client.post("/v1/transactions", json=document), 503, "node.http.overloaded")
        core.answers["tx.submit"] = [{"tx_id": DIGEST, "status": "admitted", "height": None, "error": None}]
        core.blocked.set()
        await first
        assert (await client.post("/v1/transactions", json=document)).status_code == 200

    assert 750 < len(json.dumps(document, separators=(",", ":"))) < 1000
    run(scenario, limits)


def test_body_beyond_its_limit_is_refused_before_and_while_it_arrives(run: Callable[..., None]) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 100

    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        response = await client.post("/v1/transactions", content=b"x" * 501)
        _is_problem(response, 413, "node.http.body_too_large")
        _is_problem(await client.post("/v1/transactions", content=chunks()), 413, "node.http.body_too_large")
        assert core.calls == []

    run(scenario, GatewayLimits(body_bytes_max=500))


def test_too_many_requests_are_asked_to_come_back(run: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        core.answers["status"] = "wait"
        waiting = [asyncio.create_task(client.get("/v1/status")) for _ in range(2)]
        while len(core.calls) < 2:  # noqa: ASYNC110 - lets the two tasks run until both are inside
            await asyncio.sleep(0)
        _is_problem(await client.get("/v1/status"), 503, "node.http.overloaded")
        core.blocked.set()
        assert [(await task).status_code for task in waiting] == [200, 200]
        assert (await client.get("/v1/genesis")).status_code == 200

    run(scenario, GatewayLimits(requests_in_flight_max=2))


def test_request_that_takes_too_long_is_ended(run: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        core.answers["status"] = "wait"
        _is_problem(await client.get("/v1/status"), 503, "node.http.timeout")

    run(scenario, GatewayLimits(request_timeout_s=0.05))


def test_bug_in_a_route_is_a_problem_without_its_text(run: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        core.answers["status"] = KeyError("secret")
        response = await client.get("/v1/status")
        _is_problem(response, 500, "node.bug")
        assert "secret" not in response.text

    run(scenario)


@pytest.mark.parametrize(
    "authorization", [None, "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ü"]
)
def test_agent_operations_need_the_token(run: Callable[..., None], authorization: str | None) -> None:
    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        headers = {} if authorization is None else {"authorization": authorization.encode()}
        for path in ("/v1/agent/apply", "/v1/agent/explain", "/v1/agent/rollback"):
            response = await client.post(path, json={"target": "app", "patch_id": DIGEST}, headers=headers)
            _is_problem(response, 401, "node.auth.required")
            assert response.headers["www-authenticate"] == "Bearer"
        _is_problem(await client.post("/v1/agent/drift", json={}, headers=headers), 401, "node.auth.required")
        _is_problem(await client.get("/v1/agent/outbox", headers=headers), 401, "node.auth.required")
        assert core.calls == []

    run(scenario)


def test_agent_operations_pass_with_the_token(run: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        core.answers["agent.apply"] = {"code": "SUCCESS"}
        response = await client.post(
            "/v1/agent/apply",
            json={"target": "app", "patch_id": DIGEST},
            headers={"authorization": f"Bearer {TOKEN}"},
        )
        assert response.json() == {"code": "SUCCESS"}
        assert core.calls == [("agent.apply", {"target": "app", "file": None, "patch_id": DIGEST})]

    run(scenario)


def test_how_far_an_agent_is_can_be_asked_without_a_token(run: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        core.answers["agent.progress"] = {"target": "app", "work": None}
        response = await client.get("/v1/agent/progress", params={"target": "app"})
        assert response.json() == {"target": "app", "work": None}
        assert core.calls == [("agent.progress", {"target": "app"})]
        assert (await client.get("/v1/agent/progress")).status_code == 422

    run(scenario)


def test_rollback_drift_and_outbox_are_asked_for_with_all_that_they_take(run: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        core.answers |= {"agent.rollback": {"outcomes": []}, "agent.drift": [], "agent.outbox": []}
        headers = {"authorization": f"Bearer {TOKEN}"}
        undo = {"target": "app", "patch_id": DIGEST}
        more = undo | {"with_dependants": True, "explain": True}
        for body in (undo, more):
            assert (await client.post("/v1/agent/rollback", json=body, headers=headers)).json() == {"outcomes": []}
        for looked_at in ({}, {"target": "app", "full": True}):
            assert (await client.post("/v1/agent/drift", json=looked_at, headers=headers)).json() == []
        for query in ("", "?after=7&limit=3"):
            assert (await client.get(f"/v1/agent/outbox{query}", headers=headers)).json() == []
        assert core.calls == [
            ("agent.rollback", undo | {"with_dependants": False, "explain": False}),
            ("agent.rollback", more),
            ("agent.drift", {"target": None, "full": False}),
            ("agent.drift", {"target": "app", "full": True}),
            ("agent.outbox", {"after": 0, "limit": 64}),
            ("agent.outbox", {"after": 7, "limit": 3}),
        ]

    run(scenario)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/agent/rollback", {"target": "app"}),
        ("/v1/agent/rollback", {"target": "app", "patch_id": "12"}),
        ("/v1/agent/rollback", {"target": "app", "patch_id": DIGEST, "explain": "yes"}),
        ("/v1/agent/rollback", {"target": "app", "patch_id": DIGEST, "force": True}),
        ("/v1/agent/drift", {"full": 1}),
        ("/v1/agent/drift", {"target": ""}),
    ],
)
def test_what_an_agent_operation_does_not_take_is_refused_and_nothing_is_asked(
    run: Callable[..., None], path: str, body: dict[str, object]
) -> None:
    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        headers = {"authorization": f"Bearer {TOKEN}"}
        _is_problem(await client.post(path, json=body, headers=headers), 422, "node.http.invalid_request")
        _is_problem(await client.get("/v1/agent/outbox?limit=65", headers=headers), 422, "node.http.invalid_request")
        assert core.calls == []

    run(scenario)


PUBLISHED = bytes(range(256)) * 4000
FILE_DIGEST = sha256(PUBLISHED).hex()
EXPECTED = {"patch_id": DIGEST, "file_digest": FILE_DIGEST, "file_bytes": len(PUBLISHED), "file_here": False}


class KeepingCore(FakeCore):
    """A core that keeps uploads as the real one does."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.store = PatchStore(directory, random_suffix=lambda: "x")
        self.answers["patches.expect"] = EXPECTED
        self.answers["patches.locate"] = EXPECTED

    async def call(self, method: str, more: Mapping[str, Any] | None = None, **params: Any) -> Any:
        answer = await super().call(method, more, **params)
        if method == "patches.take":
            self.store.take(params["upload"], sha256(PUBLISHED))
            return {name: EXPECTED[name] for name in ("patch_id", "file_digest", "file_bytes")}
        return answer


@pytest.fixture
def exchange(tmp_path: Path) -> Callable[..., None]:
    """Return a runner of scenarios with a core that keeps files, and the directory that it keeps them in."""

    def run(scenario: Callable[[httpx.AsyncClient, KeepingCore, Path], Awaitable[None]], **limits: Any) -> None:
        async def main() -> None:
            directory = tmp_path / "patches"
            core, settings = KeepingCore(directory), GatewayLimits(**limits)
            app = _app(settings)
            app.state.core = core
            app.state.patch_files = PatchFiles(directory, uploads_max=settings.uploads_max)
            transport = httpx.ASGITransport(app=app)
            async with asyncio.timeout(20):
                async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
                    await scenario(client, core, directory)

        asyncio.run(main())

    return run


class Pieces:
    """A body that counts what was taken from it."""

    def __init__(self, data: bytes, piece_bytes: int = 10_000) -> None:
        self._data, self._piece_bytes, self.taken = data, piece_bytes, 0
        self.gate: asyncio.Event | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.taken < len(self._data):
            piece = self._data[self.taken : self.taken + self._piece_bytes]
            self.taken += len(piece)
            yield piece
            if self.gate is not None:
                await self.gate.wait()


def _put(client: httpx.AsyncClient, content: bytes | Pieces, **headers: str) -> Awaitable[httpx.Response]:
    return client.put(f"/v1/patches/{DIGEST}", content=content, headers=headers)


def test_patch_file_goes_both_ways_as_bytes(exchange: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, core: KeepingCore, directory: Path) -> None:
        stored = await _put(client, Pieces(PUBLISHED))
        assert stored.json() == {"patch_id": DIGEST, "file_digest": FILE_DIGEST, "file_bytes": len(PUBLISHED)}
        assert os.listdir(directory) == [FILE_DIGEST]
        assert [method for method, _ in core.calls] == ["patches.expect", "patches.take"]
        fetched = await client.get(f"/v1/patches/{DIGEST}/file")
        assert fetched.content == PUBLISHED
        assert fetched.headers["content-length"] == str(len(PUBLISHED))

    exchange(scenario)


def test_nothing_of_an_unpublished_file_is_read(exchange: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, core: KeepingCore, directory: Path) -> None:
        core.answers["patches.expect"] = RejectedError("node.patch.not_published", "the ledger does not name it")
        body = Pieces(PUBLISHED)
        _is_problem(await _put(client, body), 422, "node.patch.not_published")
        assert body.taken == 0
        assert os.listdir(directory) == []

    exchange(scenario)


def test_another_file_than_the_published_leaves_nothing_behind(exchange: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, core: KeepingCore, directory: Path) -> None:
        longer = Pieces(PUBLISHED + b"x" * 200_000)
        for body in (Pieces(b"x" + PUBLISHED[1:]), Pieces(PUBLISHED[:-1]), longer):
            _is_problem(await _put(client, body), 422, "node.patch.wrong_digest")
        assert longer.taken <= len(PUBLISHED) + 10_000, "the body is not read beyond the published length"
        said = Pieces(PUBLISHED)
        _is_problem(await _put(client, said, **{"content-length": "7"}), 422, "node.patch.wrong_digest")
        assert said.taken == 0
        # The same when the file is here: then nothing is written at all.
        core.answers["patches.expect"] = {**EXPECTED, "file_here": True}
        _is_problem(await _put(client, b"x" + PUBLISHED[1:]), 422, "node.patch.wrong_digest")
        assert (await _put(client, PUBLISHED)).status_code == 200
        assert {method for method, _ in core.calls} == {"patches.expect"}
        assert os.listdir(directory) == []

    exchange(scenario)


def test_files_that_arrive_together_are_few_and_held_nowhere(exchange: Callable[..., None]) -> None:
    """Guarded by `GatewayLimits.uploads_max`; the bytes count nowhere else, since no process holds them."""

    async def scenario(client: httpx.AsyncClient, core: KeepingCore, directory: Path) -> None:
        gate = asyncio.Event()
        bodies = [Pieces(PUBLISHED), Pieces(PUBLISHED)]
        for body in bodies:
            body.gate = gate
        arriving = [asyncio.create_task(_put(client, body)) for body in bodies]
        while not all(body.taken for body in bodies):  # noqa: ASYNC110 - lets both tasks run until they are inside
            await asyncio.sleep(0)
        late = Pieces(PUBLISHED)
        _is_problem(await _put(client, late), 503, "node.http.overloaded")
        assert late.taken == 0
        gate.set()
        assert [(await task).status_code for task in arriving] == [200, 200]
        assert os.listdir(directory) == [FILE_DIGEST]

    assert len(PUBLISHED) > 1000
    exchange(scenario, uploads_max=2, bodies_bytes_max=1000)


def test_a_file_that_stops_arriving_is_given_up(exchange: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, core: KeepingCore, directory: Path) -> None:
        body = Pieces(PUBLISHED)
        body.gate = asyncio.Event()
        _is_problem(await _put(client, body), 503, "node.http.timeout")
        assert os.listdir(directory) == []

    exchange(scenario, body_timeout_s=0.05)


def test_what_a_dead_gateway_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / upload_name(FILE_DIGEST, "0" * 16)).write_bytes(b"half")
    (tmp_path / FILE_DIGEST).write_bytes(PUBLISHED)
    PatchFiles(tmp_path, uploads_max=1).remove_leftovers()
    assert [path.name for path in tmp_path.iterdir()] == [FILE_DIGEST]


def test_events_resume_after_the_last_one_seen(run: Callable[..., None]) -> None:
    async def scenario(client: httpx.AsyncClient, core: FakeCore) -> None:
        for headers, query, first in (({}, "?from_height=3", 3), ({"last-event-id": "1"}, "", 2)):
            response = await client.get(f"/v1/events{query}", headers=headers)
            assert response.headers["content-type"].startswith("text/event-stream")
            events = [part for part in response.text.split("\n\n") if part.startswith("id:")]
            assert [json.loads(event.split("data: ")[1])["height"] for event in events] == list(range(first, 5))
            assert events[0].startswith(f"id: {first}\nevent: block\n")

    run(scenario)


def test_quiet_event_stream_says_that_it_is_there() -> None:
    async def quiet() -> AsyncIterator[str]:
        yield "first"
        await asyncio.sleep(3600)

    async def main() -> list[str]:
        stream = with_keep_alive(quiet(), every_s=0.001)
        seen = [await anext(stream) for _ in range(3)]
        await stream.aclose()  # type: ignore[attr-defined]
        return seen

    assert asyncio.run(main()) == [": open\n\n", "first", ": still here\n\n"]
