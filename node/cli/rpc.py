"""A node over HTTP: the methods of the local socket, mapped onto the paths of docs/spec/api.md.

A refusal arrives as a problem document (RFC 9457) and is raised as the error that the node raised: the same family, code, sentence and
hint. Nothing here follows redirects or reads proxy settings: the address on the command line is the one that is asked.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx

from node.cli.errors import CommandError, NodeUnreachableError
from node.local.protocol import encode_blob, error_from_json
from wire.errors import PatchwardenError, RejectedError

Json = Any

CONNECT_TIMEOUT_S: Final = 5.0
LONG_TIMEOUT_S: Final = 140.0
"""How long the answer to a request may take that waits for commits and disks; a node's gateway ends it itself after 130 s."""
PIECE_BYTES: Final = 1 << 20
"""What is held at once of a file on its way."""
Progress = Callable[[int, int], None]
_REJECTED: Final = range(400, 500)
_UNAVAILABLE: Final = frozenset({429, 502, 503, 504})
_CORRUPTION: Final = ("ledger.corruption.", "node.storage.", "agent.state.")
"""What the codes of damaged data begin with: a 500 that is the operator's business and no bug."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a method stands in the HTTP interface."""

    verb: str
    """GET, POST or PUT."""
    path: str
    """With `{parameter}` where the path holds one; the others go into the query (GET) or the body (POST)."""
    result: str = "json"
    """`json`: the answer is the document; `file`: bytes that the document holds as base64; `text`: a plain text."""
    is_long: bool = False
    """Whether the answer may wait for commits, disks, or a large file."""


ROUTES: Final[Mapping[str, Route]] = {
    "status": Route("GET", "/v1/status"),
    "validators": Route("GET", "/v1/validators"),
    "peers": Route("GET", "/v1/peers"),
    "genesis.get": Route("GET", "/v1/genesis"),
    "blocks.list": Route("GET", "/v1/blocks"),
    "blocks.get": Route("GET", "/v1/blocks/{height}"),
    "blocks.raw": Route("GET", "/v1/blocks/{from}/raw"),
    "tx.get": Route("GET", "/v1/transactions/{tx_id}"),
    "tx.submit": Route("POST", "/v1/transactions"),
    "receipt.get": Route("GET", "/v1/transactions/{tx_id}/receipt"),
    "identities.list": Route("GET", "/v1/identities"),
    "identities.get": Route("GET", "/v1/identities/{identity}"),
    "identities.history": Route("GET", "/v1/identities/{identity}/history"),
    "identities.affected": Route("GET", "/v1/identities/{identity}/affected"),
    "administration.get": Route("GET", "/v1/organisations/{organisation}/administration"),
    "organisations.list": Route("GET", "/v1/organisations"),
    "patches.list": Route("GET", "/v1/patches"),
    "patches.get": Route("GET", "/v1/patches/{patch_id}"),
    "patches.attestations": Route("GET", "/v1/patches/{patch_id}/attestations"),
    "patches.put": Route("PUT", "/v1/patches/{patch_id}", is_long=True),
    "patches.file": Route("GET", "/v1/patches/{patch_id}/file", result="file", is_long=True),
    "deployments.list": Route("GET", "/v1/deployments"),
    "hosts.list": Route("GET", "/v1/hosts"),
    "hosts.get": Route("GET", "/v1/hosts/{host}"),
    "hosts.records": Route("GET", "/v1/hosts/{host}/records"),
    "targets.get": Route("GET", "/v1/hosts/{host}/targets/{target}"),
    "rollouts.list": Route("GET", "/v1/rollouts"),
    "rollouts.get": Route("GET", "/v1/rollouts/{rollout_id}"),
    "rollouts.turn": Route("GET", "/v1/rollouts/{rollout_id}/turns/{host}"),
    "rollouts.hosts": Route("GET", "/v1/rollouts/{rollout_id}/hosts"),
    "rollouts.course": Route("GET", "/v1/rollouts/{rollout_id}/course"),
    "groups.list": Route("GET", "/v1/groups"),
    "groups.get": Route("GET", "/v1/groups/{group_id}"),
    "policy.get": Route("GET", "/v1/policy"),
    "policy.history": Route("GET", "/v1/policy/history"),
    "policy.cases": Route("GET", "/v1/policy/cases"),
    "policy.decisions": Route("GET", "/v1/policy/decisions"),
    "policy.decision": Route("GET", "/v1/policy/decisions/{deployment_id}"),
    "governance.status": Route("GET", "/v1/governance"),
    "governance.history": Route("GET", "/v1/governance/history"),
    "governance.certificates": Route("GET", "/v1/governance/certificates"),
    "governance.list": Route("GET", "/v1/governance/proposals"),
    "governance.get": Route("GET", "/v1/governance/proposals/{proposal_id}"),
    "receipt.cose": Route("GET", "/v1/transactions/{tx_id}/cose-receipt", result="file"),
    "proofs.state": Route("GET", "/v1/proofs/state"),
    "proofs.consistency": Route("GET", "/v1/proofs/consistency"),
    "checkpoint.get": Route("GET", "/v1/checkpoint", result="text"),
    "history": Route("GET", "/v1/history/{subject}/{id}"),
    "events.subscribe": Route("GET", "/v1/events"),
    "metrics": Route("GET", "/metrics", result="text"),
    "health.live": Route("GET", "/livez"),
    "health.ready": Route("GET", "/readyz"),
    "agent.status": Route("GET", "/v1/agent/status"),
    "agent.history": Route("GET", "/v1/agent/history"),
    "agent.progress": Route("GET", "/v1/agent/progress"),
    "agent.explain": Route("POST", "/v1/agent/explain", is_long=True),
    "agent.apply": Route("POST", "/v1/agent/apply", is_long=True),
    "agent.rollback": Route("POST", "/v1/agent/rollback", is_long=True),
    "agent.drift": Route("POST", "/v1/agent/drift", is_long=True),
    "agent.outbox": Route("GET", "/v1/agent/outbox"),
}


class RpcClient:
    """A connection to one node's HTTP interface.

    Args:
        url: Base URL, such as ``http://127.0.0.1:7080``.
        token: The bearer token for operations that only the node's own operator may ask for.
        timeout_s: How long one answer may take.
        transport: Another way to the server, for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/") or parts.query:
            raise CommandError(
                "cli.rpc.url", "--rpc is not a base URL", expected="http://HOST:PORT or https://HOST:PORT", actual=url
            )
        if token and parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            raise CommandError(
                "cli.rpc.token_in_clear",
                "a node's token is not sent over plain HTTP to another machine",
                hint="run the command on that machine with --home alone, or use an https URL",
                actual=url,
            )
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        headers = {"accept": "application/json", "user-agent": "patchwarden-cli"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        self._client = httpx.Client(
            base_url=self._url,
            headers=headers,
            timeout=self._timeout,
            follow_redirects=False,
            trust_env=False,
            verify=ssl.create_default_context() if parts.scheme == "https" else False,
            transport=transport,
        )

    def call(self, method: str, **params: Json) -> Json:
        """Return the method's document; raises what the node raised.

        Raises:
            PatchwardenError: What the node raised.
            UnavailableError: ``cli.rpc.unreachable``.
            CommandError: ``cli.rpc.no_such_method``: HTTP does not offer it.
        """
        route = _route(method)
        request = self._request(route, {name: value for name, value in params.items() if value is not None})
        try:
            response = self._client.send(request)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if not response.is_success:
            raise _error(response)
        if route.result == "file":
            return {"patch_id": params.get("patch_id"), "file": encode_blob(response.content)}
        if route.result == "text":
            return response.text
        document = _json(response)
        return document["results"] if method == "tx.submit" else document

    def send_file(self, method: str, data: bytes | memoryview, progress: Progress, **params: Json) -> Json:
        """Return the method's document for a file that goes as it is, piece by piece.

        Args:
            method: What is asked for.
            data: The file.
            progress: Told how many bytes have gone, and how many there are.
            params: The method's parameters.

        Raises:
            PatchwardenError: As `call`.
        """

        def pieces() -> Iterator[bytes]:
            for offset in range(0, len(data), PIECE_BYTES):
                piece = bytes(data[offset : offset + PIECE_BYTES])
                yield piece
                progress(offset + len(piece), len(data))

        request = self._request(_route(method), dict(params), content=pieces(), length=len(data))
        try:
            response = self._client.send(request)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if not response.is_success:
            raise _error(response)
        return _json(response)

    def receive_file(self, method: str, bytes_max: int, progress: Progress, **params: Json) -> bytes:
        """Return the file that the method answers with, received piece by piece.

        Args:
            method: What is asked for.
            bytes_max: How long it may be.
            progress: Told how many bytes have come, and how many there are; 0 when the node does not say.
            params: The method's parameters.

        Raises:
            PatchwardenError: As `call`.
            RejectedError: ``node.patch.too_large``.
        """
        request = self._request(_route(method), dict(params))
        try:
            response = self._client.send(request, stream=True)
            try:
                if not response.is_success:
                    response.read()
                    raise _error(response)
                length = response.headers.get("content-length", "")
                total = int(length) if length.isdecimal() else 0
                parts: list[bytes] = []
                received = 0
                for piece in response.iter_bytes(PIECE_BYTES):
                    received += len(piece)
                    if received > bytes_max:
                        raise RejectedError(
                            "node.patch.too_large",
                            "the node sends too large a file",
                            expected=f"at most {bytes_max} bytes",
                        )
                    parts.append(piece)
                    progress(received, total)
                return b"".join(parts)
            finally:
                response.close()
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def stream(self, method: str, **params: Json) -> Iterator[Json]:
        """Yield the events of a subscription (server-sent events).

        Raises:
            PatchwardenError: As `call`.
        """
        request = self._request(_route(method), {name: value for name, value in params.items() if value is not None})
        request.headers["accept"] = "text/event-stream"
        try:
            response = self._client.send(request, stream=True)
            try:
                if not response.is_success:
                    response.read()
                    raise _error(response)
                yield from _events(response.iter_lines())
            finally:
                response.close()
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def _request(
        self, route: Route, params: dict[str, Json], *, content: Iterator[bytes] | None = None, length: int = 0
    ) -> httpx.Request:
        path, timeout = route.path, self._timeout
        if route.is_long:
            timeout = httpx.Timeout(max(self._timeout_s, LONG_TIMEOUT_S), connect=CONNECT_TIMEOUT_S)
        if "hash" in params:
            raise CommandError(
                "cli.rpc.by_hash", "HTTP finds blocks by their height", hint="use --home instead of --rpc"
            )
        for name in list(params):
            if f"{{{name}}}" in path:
                path = path.replace(f"{{{name}}}", quote(str(params.pop(name)), safe="@"))
        if route.verb == "PUT":
            headers = {"content-type": "application/octet-stream", "content-length": str(length)}
            return self._client.build_request(
                "PUT", path, content=content, headers=headers, params=params, timeout=timeout
            )
        if route.verb == "POST":
            return self._client.build_request("POST", path, json=params, timeout=timeout)
        return self._client.build_request("GET", path, params=params, timeout=timeout)

    def _unreachable(self, error: httpx.TransportError) -> NodeUnreachableError:
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return NodeUnreachableError(
                "cli.rpc.timeout",
                f"the node at {self._url} did not answer in time",
                hint="ask again, or raise --timeout",
            )
        return NodeUnreachableError(
            "cli.rpc.unreachable",
            f"no node answers at {self._url}: {str(error).lower() or 'the connection broke'}",
            hint="start it with `patchwarden node start`, or give another --rpc",
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _route(method: str) -> Route:
    route = ROUTES.get(method)
    if route is None:
        raise CommandError(
            "cli.rpc.no_such_method", f"HTTP does not offer {method}", hint="use --home instead of --rpc"
        )
    return route


def _json(response: httpx.Response) -> Json:
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError) as error:
        raise NodeUnreachableError(
            "cli.rpc.not_json",
            f"what answers at {response.request.url} is no node of ours",
            hint="check the address",
        ) from error


def _error(response: httpx.Response) -> PatchwardenError:
    """Return the error that a problem document stands for."""
    try:
        problem = json.loads(response.content)
    except (ValueError, RecursionError):
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    status = response.status_code
    family = problem.get("family")
    code = str(problem.get("code") or f"cli.rpc.http_{status}")
    if family is None:
        if status in _UNAVAILABLE:
            family = "unavailable"
        elif status in _REJECTED:
            family = "rejected"
        else:
            family = "corruption" if code.startswith(_CORRUPTION) else "bug"
    return error_from_json(
        {
            "family": family,
            "code": code,
            "message": problem.get("detail") or problem.get("title") or f"the node answered with HTTP status {status}",
            "hint": problem.get("hint") or "",
            "details": problem.get("details"),
        }
    )


def _events(lines: Iterator[str]) -> Iterator[Json]:
    """Yield the data of server-sent events that carry JSON; comments and keep-alives are skipped."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield json.loads("\n".join(data))
            data.clear()
