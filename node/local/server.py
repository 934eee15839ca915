"""The core's Unix socket: one task a connection, one task a request, both counted.

A method is an async function from parameters to a JSON result, or an async generator of events. What a method raises goes back to the
caller
by family and code; what is not one of ours is a bug: it is logged here, at the task's outermost border, and the caller gets its name only.
"""

from __future__ import annotations

import inspect
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import trio

from node.local.protocol import (
    CONNECTIONS_MAX,
    FRAME_BYTES_MAX,
    LENGTH_BYTES,
    REQUESTS_IN_FLIGHT_MAX,
    InternalError,
    Json,
    decode_message_untrusted,
    encode_message,
    error_to_json,
)
from wire.errors import PatchwardenError, RejectedError

Method = Callable[[Mapping[str, Json]], Awaitable[Json] | AsyncIterator[Json]]

READ_BYTES: Final = 1 << 16
"""How much one read takes from the socket; each connection has room for it."""
SEND_TIMEOUT_S: Final = 10.0
"""How long a client may leave an answer unread before its connection is cut."""
SOCKET_BACKLOG: Final = 64
SOCKET_PATH_BYTES_MAX: Final = 107
"""Linux's limit for the path of a Unix socket (`sun_path`, without its end mark)."""

if TYPE_CHECKING:
    from trio_typing import TaskStatus

_log = structlog.get_logger("node.local")


class LocalServer:
    """Answers `methods` on the Unix socket at `path`."""

    def __init__(self, path: Path, methods: Mapping[str, Method]) -> None:
        self._path = path
        self._methods = methods

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; the socket file is gone afterwards.

        Raises:
            RejectedError: The home's path is too long for a socket (`node.local.path_too_long`).
        """
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(_bind(self._path)))
        limiter = trio.CapacityLimiter(CONNECTIONS_MAX)
        try:
            async with listener, trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    await limiter.acquire_on_behalf_of(token := object())
                    stream = await listener.accept()
                    nursery.start_soon(self._serve, stream, limiter, token)
        finally:
            self._path.unlink(missing_ok=True)

    async def _serve(self, stream: trio.SocketStream, limiter: trio.CapacityLimiter, token: object) -> None:
        connection = _Connection(stream, self._methods)
        try:
            async with stream:
                await connection.run()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except* RejectedError as group:
            # A peer that cannot even frame gets no answer: the connection ends, the node goes on.
            _log.warning("local connection refused", reason=str(group.exceptions[0]))
        finally:
            limiter.release_on_behalf_of(token)


def _bind(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise RejectedError(
            "node.local.path_too_long",
            f"the node home's path is too long for a Unix socket at {path}",
            expected=f"at most {SOCKET_PATH_BYTES_MAX} bytes",
            hint="use a home with a shorter path",
        )
    # The data directory's lock has shown that no other core runs here, so a file at this place is what a crash left.
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(SOCKET_BACKLOG)
    return listener


class _Connection:
    """One client: reads frames, starts a task for each request, writes answers one at a time."""

    def __init__(self, stream: trio.SocketStream, methods: Mapping[str, Method]) -> None:
        self._stream = stream
        self._methods = methods
        self._sending = trio.Lock()
        self._running: dict[int, trio.CancelScope] = {}
        self._slots = trio.Semaphore(REQUESTS_IN_FLIGHT_MAX)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            buffer = bytearray()
            # Not `receive_some`: what is made for a whole read and given back for the most part tears holes into the process's memory.
            received = bytearray(READ_BYTES)
            view = memoryview(received)
            while True:
                try:
                    count = await self._stream.socket.recv_into(received)
                except OSError:
                    count = 0  # The client has gone without a goodbye.
                if not count:
                    nursery.cancel_scope.cancel()
                    return
                buffer += view[:count]
                while (payload := _take_frame(buffer)) is not None:
                    await self._accept(payload, nursery)

    async def _accept(self, payload: bytes, nursery: trio.Nursery) -> None:
        message = decode_message_untrusted(payload)
        number, method, params = message.get("id"), message.get("method"), message.get("params", {})
        if type(number) is not int or not isinstance(method, str) or not isinstance(params, dict):
            raise RejectedError("node.local.malformed", "a request needs an integer id, a method and params")
        if method == "cancel":
            if scope := self._running.get(number):
                scope.cancel()
            return
        if number in self._running:
            raise RejectedError("node.local.malformed", "a request id is in use", actual=number)
        await self._slots.acquire()
        scope = self._running[number] = trio.CancelScope()
        nursery.start_soon(self._answer, number, method, params, scope)

    async def _answer(self, number: int, method: str, params: dict[str, Json], scope: trio.CancelScope) -> None:
        try:
            with scope:
                message = await self._call(number, method, params)
                await self._send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # The client has gone; the reading side ends the connection.
        finally:
            del self._running[number]
            self._slots.release()

    async def _call(self, number: int, method: str, params: dict[str, Json]) -> dict[str, Json]:
        function = self._methods.get(method)
        try:
            if function is None:
                raise RejectedError("node.local.unknown_method", "the core has no such method", actual=method)
            outcome = function(params)
            if inspect.isasyncgen(outcome):
                async with aclosing(outcome) as events:
                    async for event in events:
                        await self._send({"id": number, "event": event})
                return {"id": number, "result": None}
            assert inspect.isawaitable(outcome)
            return {"id": number, "result": await outcome}
        except PatchwardenError as error:
            return {"id": number, "error": error_to_json(error)}
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception as error:  # noqa: BLE001 - the outermost border of one request: a bug must not end the node
            _log.exception("local method failed", method=method)
            bug = InternalError(
                "node.bug", f"the node met a bug in {method} ({type(error).__name__}); its log has the trace"
            )
            return {"id": number, "error": error_to_json(bug)}

    async def _send(self, message: dict[str, Json]) -> None:
        try:
            frame = encode_message(message)
        except RejectedError as error:
            frame = encode_message({"id": message["id"], "error": error_to_json(error)})
        except ValueError:
            # A lone surrogate or a NaN in an answer of ours: a bug of one request, like any other.
            _log.exception("an answer cannot be written as JSON")
            bug = InternalError("node.bug", "the node met a bug in its answer; its log has the trace")
            frame = encode_message({"id": message["id"], "error": error_to_json(bug)})
        async with self._sending:
            # Half a frame would garble every answer after it: a cancelled request still finishes its frame, and a client
            # who does not read for this long loses the connection.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + SEND_TIMEOUT_S) as sending:
                await self._stream.send_all(frame)
            if sending.cancelled_caught:
                await trio.aclose_forcefully(self._stream)
                raise trio.BrokenResourceError


def _take_frame(buffer: bytearray) -> bytes | None:
    """Remove and return the first whole frame's payload, or return None while it is incomplete."""
    if len(buffer) < LENGTH_BYTES:
        return None
    length = int.from_bytes(buffer[:LENGTH_BYTES], "big")
    if length > FRAME_BYTES_MAX:
        raise RejectedError(
            "node.local.frame_too_large", "the frame is too large", expected=FRAME_BYTES_MAX, actual=length
        )
    if len(buffer) < LENGTH_BYTES + length:
        return None
    payload = bytes(buffer[LENGTH_BYTES : LENGTH_BYTES + length])
    del buffer[: LENGTH_BYTES + length]
    return payload
