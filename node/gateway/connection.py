"""uvicorn's HTTP connection with a deadline for the header of each request.

uvicorn waits for ever for a connection's first byte, and for the rest of a header that trickles; whoever opens connections and says nothing
would in time hold every place of the gateway.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from node.gateway.limits import DEFAULT_LIMITS


class BoundedConnection(H11Protocol):
    """A connection that is cut when the next request's header is not whole in time."""

    header_timeout_s: ClassVar[float] = DEFAULT_LIMITS.header_timeout_s
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Wait for the first request."""
        super().connection_made(transport)
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
