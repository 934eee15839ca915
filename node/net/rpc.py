"""Requests and responses in both directions on one stream.

========  =====  ==========================================================
frame     kind   after the kind byte
========  =====  ==========================================================
REQUEST   1      id (4 bytes), length of the method (1 byte), method, payload
RESPONSE  2      id, payload
ERROR     3      id, canonical encoding of (family, code, message, hint)
PING      4      id
PONG      5      id
CANCEL    6      id: the requester no longer waits
========  =====  ==========================================================

Each side numbers its own requests. Source: docs/spec/network.md 5.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog
import trio

from node.errors import PeerProtocolError, PeerUnavailableError
from node.net.channel import ByteStream, FrameChannel
from node.net.limits import (
    ERROR_BYTES_MAX,
    METHOD_BYTES_MAX,
    RPC_PAYLOAD_BYTES_MAX,
    RPC_PENDING_MAX,
    RPC_QUEUE_BYTES_MAX,
    RPC_SERVED_MAX,
)
from wire.codec import decode_untrusted, encode
from wire.errors import CorruptionError, MalformedError, PatchwardenError, RejectedError, UnavailableError
from wire.fields import as_text, as_tuple
from wire.keys import KeyId

Handler = Callable[[KeyId, bytes], Awaitable[bytes]]
"""Answers one request: takes the peer and the payload, returns the response, or raises an error of a family."""

_REQUEST: Final = 1
_RESPONSE: Final = 2
_ERROR: Final = 3
_PING: Final = 4
_PONG: Final = 5
_CANCEL: Final = 6
_ID_BYTES: Final = 4
_HEADER_BYTES: Final = 1 + _ID_BYTES
_IDS: Final = 2 ** (8 * _ID_BYTES)

_METHOD: Final = re.compile(r"[a-z][a-z0-9_.-]*", re.ASCII)
_CODE: Final = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)+", re.ASCII)
_CODE_BYTES_MAX: Final = 100
_MESSAGE_BYTES_MAX: Final = 1000

_log = structlog.get_logger("node.net")


class _Pending:
    """One request of ours that waits for its answer."""

    __slots__ = ("answered", "error", "payload")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.payload: bytes | None = None
        self.error: PatchwardenError | None = None


class RpcEndpoint:
    """One end of the RPC stream of a connection.

    Args:
        stream: The stream.
        peer: Whose requests these are.
        handlers: Method to handler; read at each request, so handlers may be added later.
    """

    def __init__(self, stream: ByteStream, peer: KeyId, handlers: Mapping[str, Handler]) -> None:
        self.channel = FrameChannel(stream, self._on_frames, RPC_QUEUE_BYTES_MAX)
        self._peer = peer
        self._handlers = handlers
        self._pending: dict[int, _Pending] = {}
        self._serving: dict[int, trio.CancelScope] = {}
        self._last_id = 0
        self._ping_id = 0
        self._pinged_at: float | None = None
        self.rtt_ms: float | None = None
        """The last measured round trip, milliseconds."""
        self._used_at = trio.current_time()
        self._nursery: trio.Nursery | None = None
        self._closed = False

    async def run(self) -> None:
        """Carry requests and responses until the connection fails or the peer breaks a rule; then fail whatever waits.

        Raises:
            PeerUnavailableError: ``node.net.connection_lost``.
            PeerProtocolError: ``node.net.protocol``.
            CorruptionError: What a handler of ours found; the node must stop.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.channel.run_writer)
                nursery.start_soon(self.channel.run_reader)
        finally:
            self._closed = True
            for pending in self._pending.values():
                pending.error = PeerUnavailableError("node.net.connection_lost", "the connection to the peer was lost")
                pending.answered.set()
            self._pending.clear()

    async def request(self, method: str, payload: bytes, timeout_s: float) -> bytes:
        """Return the peer's answer.

        Raises:
            RejectedError: The peer refused, with its code and sentence; ``node.net.too_large`` when the payload does not fit.
            UnavailableError: The peer cannot now, with its code; ``node.net.timeout``, ``node.net.busy``, ``node.net.connection_lost``.
        """
        if len(payload) > RPC_PAYLOAD_BYTES_MAX:
            raise RejectedError(
                "node.net.too_large",
                "the request is too long",
                expected=f"at most {RPC_PAYLOAD_BYTES_MAX} bytes",
                actual=len(payload),
            )
        if self._closed:
            raise PeerUnavailableError("node.net.connection_lost", "the connection to the peer was lost")
        if len(self._pending) >= RPC_PENDING_MAX:
            raise PeerUnavailableError("node.net.busy", "too many requests to this peer wait for an answer")
        name = method.encode("ascii")
        assert 0 < len(name) <= METHOD_BYTES_MAX, "methods are our own short names"
        request_id = self._last_id = (self._last_id + 1) % _IDS
        pending = self._pending[request_id] = _Pending()
        header = request_id.to_bytes(_ID_BYTES, "big")
        try:
            with trio.move_on_after(timeout_s):
                await self.channel.send(b"".join((bytes((_REQUEST,)), header, bytes((len(name),)), name, payload)))
                await pending.answered.wait()
        finally:
            self._pending.pop(request_id, None)
            if not pending.answered.is_set():
                # A full queue means that the peer is slow; it will find out when it answers.
                self.channel.push(bytes((_CANCEL,)) + header)
        if pending.error is not None:
            raise pending.error
        if pending.payload is None:
            raise PeerUnavailableError("node.net.timeout", f"the peer did not answer {method} within {timeout_s:g} s")
        return pending.payload

    def unused_s(self) -> float:
        """Return for how long no request has been under way in either direction."""
        if self._pending or self._serving:
            self._used_at = trio.current_time()
        return trio.current_time() - self._used_at

    def ping(self) -> None:
        """Begin to measure the round trip time, unless a measurement is under way."""
        if self._pinged_at is None:
            self._ping_id = (self._ping_id + 1) % _IDS
            if self.channel.push(bytes((_PING,)) + self._ping_id.to_bytes(_ID_BYTES, "big")):
                self._pinged_at = trio.current_time()

    def _on_frames(self, frames: list[bytes]) -> None:
        for frame in frames:
            if len(frame) < _HEADER_BYTES:
                raise _protocol_error("a frame is shorter than its header")
            message_id = int.from_bytes(frame[1:_HEADER_BYTES], "big")
            match frame[0]:
                case 1:
                    self._on_request(message_id, frame)
                case 2:
                    pending = self._pending.pop(message_id, None)
                    if pending is not None:
                        pending.payload = frame[_HEADER_BYTES:]
                        pending.answered.set()
                case 3:
                    error = _decode_error_untrusted(frame[_HEADER_BYTES:])
                    pending = self._pending.pop(message_id, None)
                    if pending is not None:
                        pending.error = error
                        pending.answered.set()
                case 4:
                    self.channel.push(bytes((_PONG,)) + frame[1:_HEADER_BYTES])
                case 5:
                    if self._pinged_at is not None and message_id == self._ping_id:
                        self.rtt_ms = (trio.current_time() - self._pinged_at) * 1000
                        self._pinged_at = None
                case 6:
                    scope = self._serving.get(message_id)
                    if scope is not None:
                        scope.cancel()
                case kind:
                    raise _protocol_error(f"there is no frame of kind {kind}")

    def _on_request(self, request_id: int, frame: bytes) -> None:
        start = _HEADER_BYTES + 1
        name = frame[start : start + frame[_HEADER_BYTES]] if len(frame) > _HEADER_BYTES else b""
        if len(frame) <= _HEADER_BYTES or len(name) != frame[_HEADER_BYTES] or not 0 < len(name) <= METHOD_BYTES_MAX:
            raise _protocol_error("a request's method is cut off")
        method = name.decode("ascii", "replace")
        if not _METHOD.fullmatch(method):
            raise _protocol_error("a request's method is not a name")
        if request_id in self._serving:
            raise _protocol_error("a request's id is in use")
        handler = self._handlers.get(method)
        if handler is None:
            self._push_error(request_id, RejectedError("node.net.unknown_method", f"there is no method {method}"))
        elif len(self._serving) >= RPC_SERVED_MAX:
            self._push_error(
                request_id, PeerUnavailableError("node.net.busy", "this peer has too many requests under way here")
            )
        else:
            assert self._nursery is not None, "frames come from the reader, which runs in the nursery"
            self._serving[request_id] = trio.CancelScope()
            self._nursery.start_soon(self._serve, request_id, method, handler, frame[start + len(name) :])

    async def _serve(self, request_id: int, method: str, handler: Handler, payload: bytes) -> None:
        scope = self._serving[request_id]
        try:
            with scope:
                try:
                    response = await handler(self._peer, payload)
                    assert len(response) <= RPC_PAYLOAD_BYTES_MAX, f"the response to {method} does not fit into a frame"
                except (RejectedError, UnavailableError) as error:
                    self._push_error(request_id, error)
                except CorruptionError as error:
                    self._push_error(request_id, _peer_failed(method))
                    _log.error("a request found corruption", method=method, code=error.code, message=error.message)
                    raise
                except (
                    Exception
                ) as error:  # The border of a task that serves a peer: a bug in a handler must not end the node.
                    _log.exception("a request handler failed", method=method, peer=self._peer.hex()[:16])
                    self._push_error(request_id, _peer_failed(method))
                    if isinstance(error, ExceptionGroup) and error.subgroup(CorruptionError):
                        raise
                else:
                    await self.channel.send(
                        b"".join((bytes((_RESPONSE,)), request_id.to_bytes(_ID_BYTES, "big"), response))
                    )
        finally:
            del self._serving[request_id]

    def _push_error(self, request_id: int, error: PatchwardenError) -> None:
        # Errors are small and at most one for each request: a queue without room for them belongs to a peer that does not read.
        body = _encode_error(error)
        if not self.channel.push(b"".join((bytes((_ERROR,)), request_id.to_bytes(_ID_BYTES, "big"), body))):
            _log.warning(
                "an error response was dropped: the peer does not read", peer=self._peer.hex()[:16], code=error.code
            )


def _encode_error(error: PatchwardenError) -> bytes:
    family = "rejected" if isinstance(error, RejectedError) else "unavailable"
    return encode((family, error.code, _plain(error.message), _plain(error.hint)))


def _plain(text: str) -> str:
    """Return `text` as ASCII that `as_text` accepts at the other end."""
    return "".join(mark if mark.isprintable() else "?" for mark in text.encode("ascii", "replace").decode("ascii"))[
        :_MESSAGE_BYTES_MAX
    ]


def _decode_error_untrusted(data: bytes) -> PatchwardenError:
    try:
        family, code, message, hint = as_tuple(decode_untrusted(data, bytes_max=ERROR_BYTES_MAX), "error", length=4)
        code = as_text(code, "code", _CODE_BYTES_MAX)
        message, hint = as_text(message, "message", _MESSAGE_BYTES_MAX), as_text(hint, "hint", _MESSAGE_BYTES_MAX)
    except MalformedError as error:
        raise _protocol_error(f"an error response is malformed: {error}") from error
    if not _CODE.fullmatch(code) or family not in ("rejected", "unavailable"):
        raise _protocol_error("an error response has no code or family that we know")
    return (RejectedError if family == "rejected" else UnavailableError)(code, message, hint=hint)


def _peer_failed(method: str) -> PeerUnavailableError:
    return PeerUnavailableError("node.net.peer_failed", f"the node could not serve {method}; its log says why")


def _protocol_error(what: str) -> PeerProtocolError:
    return PeerProtocolError("node.net.protocol", f"a peer broke the protocol: {what}")
