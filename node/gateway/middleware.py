"""Limits on what a request may cost, as plain ASGI: they hold before any route, model or decoder sees a byte."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import structlog
from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.gateway.limits import GatewayLimits
from node.gateway.problems import problem

_log = structlog.get_logger("node.gateway")

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)
"""On every answer, but for those that it has set itself: nothing of ours is framed, sniffed, or loads anything from elsewhere."""


class LimitMiddleware:
    """Counts requests, bounds bodies and times, and turns what escapes everything else into a problem document."""

    def __init__(self, app: ASGIApp, limits: GatewayLimits) -> None:
        self._app = app
        self._limits = limits
        self._in_flight = 0
        self._streams = 0
        self._bodies_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request within the limits."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # No WebSocket is ours.
        is_stream = scope["path"] == "/v1/events"
        if self._in_flight >= self._limits.requests_in_flight_max or (
            is_stream and self._streams >= self._limits.streams_max
        ):
            await problem(
                HTTPStatus.SERVICE_UNAVAILABLE, "node.http.overloaded", "the gateway answers too many requests already"
            )(scope, receive, send)
            return
        self._in_flight += not is_stream
        self._streams += is_stream
        try:
            await self._serve(scope, receive, send, None if is_stream else self._limits.request_timeout_s)
        finally:
            self._in_flight -= not is_stream
            self._streams -= is_stream

    async def _serve(self, scope: Scope, receive: Receive, send: Send, timeout_s: float | None) -> None:
        # A patch file is not held: its route takes it piece by piece, and only when the ledger names it.
        is_file = scope["method"] == "PUT" and scope["path"].startswith("/v1/patches/")
        body_max = self._limits.patch_body_bytes_max if is_file else self._limits.body_bytes_max
        too_large = f"the body is longer than {body_max} bytes"
        started = False
        received = held = 0

        async def bounded_receive() -> Message:
            nonlocal received, held
            async with asyncio.timeout(None if received < 0 else self._limits.body_timeout_s):
                message = await receive()
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                received += size
                if not is_file:
                    held += size
                    self._bodies_bytes += size
                if self._bodies_bytes > self._limits.bodies_bytes_max:
                    raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, "the gateway reads too many bodies already")
                if received > body_max:
                    # FastAPI turns every other exception out of a body's reading into a malformed request.
                    raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_large)
                if not message.get("more_body", False):
                    received = -1  # What may still come is only the client's leaving, which has no deadline.
            return message

        async def watched_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = list(message.get("headers", ()))
                names = {name for name, _ in own}
                ours = [header for header in SECURITY_HEADERS if header[0] not in names]
                message = {**message, "headers": [*own, *ours]}
            await send(message)

        async def refuse(status: int, code: str, detail: str) -> None:
            if not started:
                await problem(status, code, detail, headers={"Connection": "close"})(scope, receive, watched_send)

        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > body_max:
            await refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "node.http.body_too_large", too_large)
            return
        try:
            # Until the answer, not only until the body is read: decoded, it takes as much memory again.
            async with asyncio.timeout(timeout_s):
                await self._app(scope, bounded_receive, watched_send)
        except TimeoutError:
            await refuse(HTTPStatus.SERVICE_UNAVAILABLE, "node.http.timeout", "the request took too long")
        except Exception:  # noqa: BLE001 - the outermost border of one request: a bug costs this request, not the gateway
            _log.exception("request failed", method=scope["method"], path=scope["path"][:200])
            await refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "node.bug", "the gateway met a bug; its log has the trace")
        finally:
            self._bodies_bytes -= held
