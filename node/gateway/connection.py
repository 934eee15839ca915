"""uvicorn's HTTP connection with a deadline for the header of each request, and an answer of ours when there are too many connections.

uvicorn waits for ever for a connection's first byte, and for the rest of a header that trickles; whoever opens connections and says nothing
would in time hold every place of the gateway. Its own answer to one connection too many has neither problem document nor `Retry-After`.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from node.gateway.limits import DEFAULT_LIMITS
from node.gateway.problems import problem


class BoundedConnection(H11Protocol):
    """A connection that is cut when the next request's header is not whole in time."""

    header_timeout_s: ClassVar[float] = DEFAULT_LIMITS.header_timeout_s
    connections_max: ClassVar[int] = DEFAULT_LIMITS.connections_max
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self.connections_max:
            self.app = problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "node.http.overloaded",
                "the gateway has too many connections already",
                headers={"Connection": "close"},
            )
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._clear_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Wait no more once a request is being answered; its body and its answer have limits of their own."""
        super().data_received(data)
        if self._is_answering():
            self._clear_deadline()

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it is here already."""
        super().on_response_complete()
        if not self._is_answering():
            self._set_deadline()

    def _is_answering(self) -> bool:
        return bool(self.cycle) and not self.cycle.response_complete  # None before the first request

    def _set_deadline(self) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(self.header_timeout_s, self.transport.abort)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
