"""Frames on one stream: a writer that coalesces, a reader that hands over what came, a bounded queue between caller and wire.

Many small messages in one write cost a fiftieth of one write each (docs/spec/network.md 4), so the writer takes everything that is
queued, up to `WRITE_BYTES_MAX`. A frame without payload is a heartbeat: whoever receives it has received something, nothing else happens.

A write is never cancelled by itself: half an encrypted message on the wire would silence every stream of the connection for ever. Whoever
cancels `run_writer` aborts the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import trio

from node.errors import PeerProtocolError
from node.net.limits import READ_BYTES_MAX, WRITE_BYTES_MAX
from wire.errors import MalformedError
from wire.framing import FrameDecoder, encode_frame

HEARTBEAT_FRAME: Final = encode_frame(b"")


class ByteStream(Protocol):
    """One full-duplex stream of a connection."""

    async def read(self, bytes_max: int) -> bytes:
        """Return what has arrived, 1 to `bytes_max` bytes; raise `PeerUnavailableError` at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Write all of `data`; raise `PeerUnavailableError` when the connection is gone. Never cancel it alone."""
        ...


class FrameChannel:
    """The frames of one stream in both directions.

    Args:
        stream: What carries them.
        on_frames: Called on the event loop with the payloads that one read completed, heartbeats left out; must not block.
        queue_bytes_max: How many bytes may wait to be written.
    """

    def __init__(self, stream: ByteStream, on_frames: Callable[[list[bytes]], None], queue_bytes_max: int) -> None:
        self._stream = stream
        self._on_frames = on_frames
        self._queue_bytes_max = queue_bytes_max
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._filled = trio.Event()
        self._drained = trio.Event()
        self._writing_since: float | None = None
        self.received_bytes = 0
        """Grows with every read: the watchdog sees life in it."""
        self.sent_at = trio.current_time()
        """When the last write ended."""

    def push(self, payload: bytes) -> bool:
        """Queue one frame; return False when the queue is full. Never blocks. An empty queue takes a frame of any legal size."""
        if self._queue_bytes and self._queue_bytes + len(payload) > self._queue_bytes_max:
            return False
        self._append(encode_frame(payload))
        return True

    async def send(self, payload: bytes) -> None:
        """Queue one frame, waiting while the queue is full."""
        while not self.push(payload):
            await self._drained.wait()

    def heartbeat(self) -> None:
        """Queue an empty frame unless something is queued or being written, which serves as well."""
        if not self._queue and self._writing_since is None:
            self._append(HEARTBEAT_FRAME)

    async def wait_drained(self) -> None:
        """Return when everything queued so far has been handed to the connection."""
        while self._queue or self._writing_since is not None:
            await self._drained.wait()

    def stalled_s(self) -> float:
        """Return for how long the present write has been going on; 0 when there is none."""
        return 0.0 if self._writing_since is None else trio.current_time() - self._writing_since

    async def run_writer(self) -> None:
        """Write what is queued, until the connection fails.

        Raises:
            PeerUnavailableError: ``node.net.connection_lost``.
        """
        while True:
            if not self._queue:
                self._filled = trio.Event()
                await self._filled.wait()
            frames = [self._queue.popleft()]
            size = len(frames[0])
            while self._queue and size + len(self._queue[0]) <= WRITE_BYTES_MAX:
                size += len(self._queue[0])
                frames.append(self._queue.popleft())
            data = memoryview(frames[0] if len(frames) == 1 else b"".join(frames))
            for start in range(0, size, WRITE_BYTES_MAX):
                self._writing_since = trio.current_time()
                await self._stream.write(bytes(data[start : start + WRITE_BYTES_MAX]))
                self.sent_at = trio.current_time()
            self._writing_since = None
            self._queue_bytes -= size
            drained, self._drained = self._drained, trio.Event()
            drained.set()

    async def run_reader(self) -> None:
        """Read frames and hand them over, until the connection fails or the peer breaks a rule.

        Raises:
            PeerUnavailableError: ``node.net.connection_lost``.
            PeerProtocolError: ``node.net.protocol`` for a frame beyond the limit; also what `on_frames` raises.
        """
        decoder = FrameDecoder()
        while True:
            data = await self._stream.read(READ_BYTES_MAX)
            self.received_bytes += len(data)
            try:
                frames = decoder.feed(data)
            except MalformedError as error:
                raise PeerProtocolError(
                    "node.net.protocol", f"a peer sent a frame that is too long ({error})"
                ) from error
            payloads = [frame for frame in frames if frame]
            if payloads:
                self._on_frames(payloads)

    def _append(self, frame: bytes) -> None:
        self._queue.append(frame)
        self._queue_bytes += len(frame)
        self._filled.set()
