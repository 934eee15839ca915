"""Yamux over a Noise session, for few streams with many small messages: what travels is libp2p's protocol, byte for byte.

libp2p 0.8.1 brings a Yamux of its own. It spends four fifths of a small message's cost on locks, on three reads of the socket for one
frame, and on a window update for each read: two validators that exchange a block and an acknowledgement send each other eight frames. Here
one read of the socket serves every frame that has come, a frame leaves in one call without a task switch, and a window is opened again
when half of it is used.

* Nothing that leaves can be cut by a cancellation: what the socket does not take at once, a task of the connection sends later.
* A peer may have `STREAMS_MAX` streams of its own open, and send `RECEIVE_WINDOW_BYTES` ahead of their readers; beyond it, it breaks the
  protocol, and the connection ends.

Source: https://github.com/hashicorp/yamux/blob/master/spec.md; docs/spec/network.md 4.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any, Final

import structlog
import trio
from libp2p.abc import IMuxedConn, IMuxedStream
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)

HEADER: Final = struct.Struct("!BBHII")
"""Version, type, flags, stream, length."""
INITIAL_WINDOW_BYTES: Final = 256 * 1024
"""What either side may send on a new stream; the protocol fixes it."""
RECEIVE_WINDOW_BYTES: Final = 4 * 1024 * 1024
"""What a peer may send on a stream ahead of its reader: 40 MB/s over a round trip of 100 ms."""
FRAME_DATA_BYTES_MAX: Final = 65_500
"""Data in a frame that we send: with its header it fits into one Noise message."""
STREAMS_MAX: Final = 32
"""Streams that the peer opened and that are not closed; one more is refused at once."""
SOCKET_READ_BYTES: Final = 256 * 1024
BACKLOG_BYTES_MAX: Final = 256 * 1024
"""What may wait for the socket before writers wait."""
BACKLOG_BYTES_END: Final = 16 * BACKLOG_BYTES_MAX
"""Writers wait long before: whoever lets so much wait asks for answers, such as to pings, and does not read them."""

_VERSION: Final = 0
_DATA: Final = 0
_WINDOW_UPDATE: Final = 1
_PING: Final = 2
_GO_AWAY: Final = 3
_SYN: Final = 1
_ACK: Final = 2
_FIN: Final = 4
_RST: Final = 8
_LENGTH_BYTES: Final = 2
"""Of the length before each Noise message."""

_received = bytearray(SOCKET_READ_BYTES)
"""Where every connection of this process reads to, and at once copies from. `os.read` would make 256 KiB each time and give most of it
back: what stays behind it for long keeps the rest from being used again, and in half an hour the process takes twice its memory."""
_received_view = memoryview(_received)

_log = structlog.get_logger("node.net")


class _ProtocolError(Exception):
    """The peer sent what Yamux does not allow."""


class MuxedStream(IMuxedStream):  # type: ignore[misc]  # libp2p is not followed by the type checker
    """One stream of a `Muxer`."""

    def __init__(self, muxer: Muxer, stream_id: int, *, is_ours: bool) -> None:
        self.stream_id = stream_id
        self.muxed_conn = muxer
        self.is_ours = is_ours
        self.received = bytearray()
        self.receive_window = RECEIVE_WINDOW_BYTES
        """What the peer may still send."""
        self.send_window = INITIAL_WINDOW_BYTES
        self.has_ended = False
        """The peer sends no more."""
        self.is_reset = False
        self._is_closed = False
        self._unreturned = 0
        self._changed = trio.Event()
        self._take: Callable[[bytes], None] | None = None
        self._take_error: Exception | None = None

    # What the muxer tells

    def deliver(self, data: bytearray) -> None:
        """Keep what has arrived for the reader, or hand it over at once."""
        if self._take is None:
            self.received += data
            self.wake()
            return
        try:
            self._take(bytes(data))
        except Exception as error:  # noqa: BLE001 - raised by `receive`, in the task of whom it concerns
            self._take, self._take_error = None, error
            self.wake()
            return
        self._return_window(len(data))

    def wake(self) -> None:
        """Let whoever waits look again."""
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _wait(self) -> None:
        await self._changed.wait()

    # What libp2p and the network ask for

    async def read(self, n: int | None = None) -> bytes:
        """Return what has arrived, 1 to `n` bytes.

        Raises:
            MuxedStreamEOF: The peer sends no more, or the connection is gone.
            MuxedStreamReset: Either side reset the stream.
        """
        while not self.received:
            if self.is_reset:
                raise MuxedStreamReset("the stream was reset")
            if self.has_ended or self.muxed_conn.is_closed:
                raise MuxedStreamEOF("the peer sends no more")
            await self._wait()
        if n is None or n < 0 or n >= len(self.received):
            data, self.received = bytes(self.received), bytearray()
        else:
            data = bytes(self.received[:n])
            del self.received[:n]
        self._return_window(len(data))
        return data

    async def receive(self, take: Callable[[bytes], None]) -> None:
        """Call `take` with all that arrives, as soon as it does and without a task switch, until the stream ends.

        Raises:
            MuxedStreamEOF: The peer sends no more, or the connection is gone.
            MuxedStreamReset: Either side reset the stream.
            Exception: What `take` raised; it is not called again.
        """
        while self.received:
            take(await self.read())
        self._take = take
        try:
            while not (self._take_error or self.is_reset or self.has_ended or self.muxed_conn.is_closed):
                await self._wait()
        finally:
            self._take = None
        if self._take_error is not None:
            raise self._take_error
        await self.read()  # Nothing is left, so it says why.

    def _return_window(self, count: int) -> None:
        """Let the peer send more, once half of its window was read."""
        self._unreturned += count
        if 2 * self._unreturned >= RECEIVE_WINDOW_BYTES and not self.has_ended:
            self.receive_window += self._unreturned
            self.muxed_conn.send(_WINDOW_UPDATE, 0, self.stream_id, self._unreturned)
            self._unreturned = 0

    def write_now(self, data: bytes) -> bool:
        """Hand `data`, which fits into one frame, to the connection if peer and socket take it at once; return whether they do."""
        if (
            len(data) > min(self.send_window, FRAME_DATA_BYTES_MAX)
            or self._is_closed
            or self.is_reset
            or not self.muxed_conn.is_writable
        ):
            return False
        self.send_window -= len(data)
        self.muxed_conn.send(_DATA, 0, self.stream_id, len(data), data)
        return True

    async def write(self, data: bytes) -> None:
        """Hand all of `data` to the connection, as soon as the peer's window and the socket take it.

        Raises:
            MuxedStreamError: The stream is closed for writing, was reset, or the connection is gone.
        """
        at = 0
        while at < len(data):
            if self._is_closed or self.is_reset or self.muxed_conn.is_closed:
                raise MuxedStreamError("the stream takes no more")
            if self.send_window == 0:
                await self._wait()
                continue
            chunk = data[at : at + min(self.send_window, FRAME_DATA_BYTES_MAX)]
            at += len(chunk)
            self.send_window -= len(chunk)
            self.muxed_conn.send(_DATA, 0, self.stream_id, len(chunk), chunk)
            await self.muxed_conn.wait_writable()

    async def close(self) -> None:
        """Send no more; what the peer sends may still be read."""
        if not self._is_closed and not self.is_reset:
            self._is_closed = True
            self.muxed_conn.send(_WINDOW_UPDATE, _FIN, self.stream_id, 0)
            if self.has_ended:
                self.muxed_conn.forget(self)
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        """End both directions at once."""
        if not self.is_reset:
            self.is_reset = True
            self.muxed_conn.send(_WINDOW_UPDATE, _RST, self.stream_id, 0)
            self.muxed_conn.forget(self)
            self.wake()
        await trio.lowlevel.checkpoint()

    def note_end(self) -> None:
        """Take note that the peer sends no more."""
        self.has_ended = True
        if self._is_closed:
            self.muxed_conn.forget(self)
        self.wake()

    def set_deadline(self, ttl: int) -> None:
        """Raise: deadlines are the callers' own."""
        raise NotImplementedError("use a cancel scope")

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return the peer's IP address and port."""
        return self.muxed_conn.get_remote_address()

    async def __aenter__(self) -> MuxedStream:
        """Return this stream."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the stream."""
        await self.close()


class Muxer(IMuxedConn):  # type: ignore[misc]  # libp2p is not followed by the type checker
    """All streams of one connection; `start` runs it.

    Args:
        conn: The secured connection, over which nobody else reads or writes from now on.
        peer_id: Whose key the handshake has proven.
    """

    def __init__(self, conn: Any, peer_id: Any) -> None:
        self.secured_conn = conn
        self.peer_id = peer_id
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        self.on_close: object = None
        """Set by libp2p; its own loop hears of the end by `accept_stream`."""
        self._noise = conn.conn
        self._socket = self._noise.read_writer.read_write_closer.stream.stream.socket
        self._streams: dict[int, MuxedStream] = {}
        self._next_id = 1 if conn.is_initiator else 2
        self._offer, self._offered = trio.open_memory_channel[MuxedStream](STREAMS_MAX)
        self._backlog = bytearray()
        self._has_backlog = trio.Event()
        self._writable = trio.Event()

    # Life

    async def start(self) -> None:
        """Carry the streams until the connection ends."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_backlog)
                self.event_started.set()
                await self._receive()
                nursery.cancel_scope.cancel()
        except* (OSError, trio.ClosedResourceError) as group:
            _log.debug("a connection ended", reason=repr(group.exceptions[0]))
        except* Exception as group:  # noqa: BLE001 - whatever a peer's bytes cause ends with its connection
            _log.info("a connection broke the protocol", reason=repr(group.exceptions[0]))
        finally:
            self._end()

    async def close(self) -> None:
        """Say goodbye if the socket takes it at once, and close it. Never waits for the peer."""
        if not self.is_closed:
            self.send(_GO_AWAY, 0, 0, 0)
        self._end()
        await trio.lowlevel.checkpoint()

    def _end(self) -> None:
        self._socket.close()
        self.event_closed.set()
        self.event_started.set()
        self._offer.close()
        self._writable.set()
        self._has_backlog.set()
        for stream in self._streams.values():
            stream.wake()

    @property
    def is_initiator(self) -> bool:
        """Whether this side dialled."""
        return bool(self.secured_conn.is_initiator)

    @property
    def is_established(self) -> bool:
        """Whether streams may be opened."""
        return self.event_started.is_set() and not self.is_closed

    @property
    def is_closed(self) -> bool:
        """Whether the connection is gone."""
        return self.event_closed.is_set()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return the peer's IP address and port."""
        address: tuple[str, int] | None = self.secured_conn.get_remote_address()
        return address

    def get_transport_addresses(self) -> list[Any]:
        """Return the peer's address as libp2p writes it."""
        return list(self.secured_conn.get_transport_addresses())

    def get_connection_type(self) -> Any:
        """Return what libp2p calls the way to the peer."""
        return self.secured_conn.get_connection_type()

    # Streams

    async def open_stream(self) -> MuxedStream:
        """Return a new stream of ours.

        Raises:
            MuxedStreamError: The connection is gone.
        """
        if self.is_closed:
            raise MuxedStreamError("the connection is gone")
        stream = self._streams[self._next_id] = MuxedStream(self, self._next_id, is_ours=True)
        self._next_id += 2
        self.send(_WINDOW_UPDATE, _SYN, stream.stream_id, RECEIVE_WINDOW_BYTES - INITIAL_WINDOW_BYTES)
        await self.wait_writable()
        return stream

    async def accept_stream(self) -> MuxedStream:
        """Return the next stream that the peer opened.

        Raises:
            MuxedConnUnavailable: The connection is gone.
        """
        try:
            return await self._offered.receive()
        except trio.EndOfChannel:
            raise MuxedConnUnavailable("the connection is gone") from None

    def forget(self, stream: MuxedStream) -> None:
        """Drop a stream that is over in both directions."""
        self._streams.pop(stream.stream_id, None)

    # Sending

    def send(self, kind: int, flags: int, stream_id: int, length: int, data: bytes = b"") -> None:
        """Send one frame, after all that was sent before. Never blocks; does nothing when the connection is gone."""
        if self.is_closed:
            return
        message = self._noise.encrypt(HEADER.pack(_VERSION, kind, flags, stream_id, length) + data)
        packet = len(message).to_bytes(_LENGTH_BYTES, "big") + message
        if not self._backlog:
            try:
                sent = os.write(self._socket.fileno(), packet)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._end()
                return
            if sent == len(packet):
                return
            packet = packet[sent:]
        self._backlog += packet
        self._has_backlog.set()
        if len(self._backlog) > BACKLOG_BYTES_END:
            self._end()

    @property
    def is_writable(self) -> bool:
        """Whether the connection stands and nothing waits for its socket."""
        return not self._backlog and not self.is_closed

    async def wait_writable(self) -> None:
        """Return when the socket has taken most of what was sent, or the connection is gone."""
        while len(self._backlog) > BACKLOG_BYTES_MAX and not self.is_closed:
            if self._writable.is_set():
                self._writable = trio.Event()
            await self._writable.wait()

    async def _send_backlog(self) -> None:
        while True:
            await self._has_backlog.wait()
            while self._backlog:
                await trio.lowlevel.wait_writable(self._socket)
                try:
                    sent = os.write(self._socket.fileno(), memoryview(self._backlog)[:SOCKET_READ_BYTES])
                except BlockingIOError:
                    continue
                del self._backlog[:sent]
                if len(self._backlog) <= BACKLOG_BYTES_MAX:
                    self._writable.set()
            self._has_backlog = trio.Event()

    # Receiving

    async def _receive(self) -> None:
        encrypted = b""
        plain = bytearray(self.secured_conn._drain(None))  # What came along with the last step of the negotiation.
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                # Not `recv`: it would try to read first, in vain, and switch tasks once more when it has read.
                count = os.readv(self._socket.fileno(), [_received])
            except BlockingIOError:
                continue
            if not count:
                return
            encrypted += _received_view[:count]
            at, end = 0, len(encrypted)
            while end - at >= _LENGTH_BYTES:
                stop = at + _LENGTH_BYTES + int.from_bytes(encrypted[at : at + _LENGTH_BYTES], "big")
                if stop > end:
                    break
                plain += self._noise.decrypt(encrypted[at + _LENGTH_BYTES : stop])
                at = stop
            encrypted = encrypted[at:]
            if not self._take_frames(plain):
                return

    def _take_frames(self, plain: bytearray) -> bool:
        """Take every whole frame out of `plain`; return False after the peer's goodbye."""
        at = 0
        while len(plain) - at >= HEADER.size:
            version, kind, flags, stream_id, length = HEADER.unpack_from(plain, at)
            if version != _VERSION or kind > _GO_AWAY:
                raise _ProtocolError(f"a frame of version {version} and type {kind}")
            if kind == _GO_AWAY:
                return False
            stop = at + HEADER.size
            if kind == _PING:
                if flags & _SYN:
                    self.send(_PING, _ACK, 0, length)
            else:
                if kind == _DATA:
                    stop += length
                    # A stream that is gone may still be written to for a while.
                    stream = self._streams.get(stream_id)
                    if length > (RECEIVE_WINDOW_BYTES if stream is None else stream.receive_window):
                        raise _ProtocolError("more data than the window allows")
                    if stop > len(plain):
                        break
                self._take_frame(kind, flags, stream_id, length, plain[at + HEADER.size : stop])
            at = stop
        del plain[:at]
        return True

    def _take_frame(self, kind: int, flags: int, stream_id: int, length: int, data: bytearray) -> None:
        if flags & _SYN:
            self._accept(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if kind == _WINDOW_UPDATE:
            stream.send_window += length
            stream.wake()
        elif data:
            stream.receive_window -= length
            stream.deliver(data)
        if flags & _RST:
            stream.is_reset = True
            self.forget(stream)
            stream.wake()
        elif flags & _FIN:
            stream.note_end()

    def _accept(self, stream_id: int) -> None:
        if stream_id in self._streams or stream_id % 2 == self._next_id % 2 or stream_id == 0:
            raise _ProtocolError(f"a stream {stream_id} is not the peer's to open")
        if sum(1 for stream in self._streams.values() if not stream.is_ours) >= STREAMS_MAX:
            self.send(_WINDOW_UPDATE, _RST, stream_id, 0)
            return
        stream = MuxedStream(self, stream_id, is_ours=False)
        try:
            self._offer.send_nowait(stream)
        except trio.WouldBlock:
            self.send(_WINDOW_UPDATE, _RST, stream_id, 0)
            return
        self._streams[stream_id] = stream
        self.send(_WINDOW_UPDATE, _ACK, stream_id, RECEIVE_WINDOW_BYTES - INITIAL_WINDOW_BYTES)
