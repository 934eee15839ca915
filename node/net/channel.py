"""Frames on one stream: a writer that coalesces, a reader that hands over what came, a bounded queue between caller and wire.

A frame leaves at once when nothing is queued, none left just before, and the connection takes it: a task switch would cost as much as the
frame. Otherwise the writer takes everything that is queued, up to `WRITE_BYTES_MAX`, in one write. A frame without payload is a heartbeat:
whoever receives it has received something, nothing else happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import trio

from node.errors import PeerProtocolError
from node.net.limits import WRITE_BYTES_MAX
from wire.errors import MalformedError
from wire.framing import FrameDecoder, encode_frame

HEARTBEAT_FRAME: Final = encode_frame(b"")
AT_ONCE_PAUSE_S: Final = 0.0003
"""A frame that comes sooner after the last one waits for the writer: more may come that leave in the same write."""


class ByteStream(Protocol):
    """One full-duplex stream of a connection."""

    async def receive(self, take: Callable[[bytes], None]) -> None:
        """Call `take` on the event loop with whatever arrives, until the end.

        Raises:
            PeerUnavailableError: At the end.
            Exception: What `take` raised; it is not called again.
        """
        ...

    def write_now(self, data: bytes) -> bool:
        """Write all of `data` if the connection takes it at once; return whether it did. Never blocks."""
        ...

    async def write(self, data: bytes) -> None:
        """Write all of `data`; raise `PeerUnavailableError` when the connection is gone."""
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
        self._decoder = FrameDecoder()
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._filled = trio.Event()
        self._drained = trio.Event()
        self._writing_since: float | None = None
        self.received_bytes = 0
        """Grows with every read: the watchdog sees life in it."""
        self.sent_bytes = 0
        """Grows with every write."""
        self.sent_at = trio.current_time()
        """When the last write ended."""

    def push(self, payload: bytes) -> bool:
        """Queue one frame; return False when the queue is full. Never blocks. An empty queue takes a frame of any legal size."""
        if self._queue_bytes and self._queue_bytes + len(payload) > self._queue_bytes_max:
            return False
        self._send_or_append(encode_frame(payload))
        return True

    async def send(self, payload: bytes) -> None:
        """Queue one frame, waiting while the queue is full."""
        while not self.push(payload):
            await self._drained.wait()

    def heartbeat(self) -> None:
        """Queue an empty frame unless something is queued or being written, which serves as well."""
        if not self._queue and self._writing_since is None:
            self._send_or_append(HEARTBEAT_FRAME)

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
            self.sent_bytes += size
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
        await self._stream.receive(self._take)

    def _take(self, data: bytes) -> None:
        self.received_bytes += len(data)
        try:
            frames = self._decoder.feed(data)
        except MalformedError as error:
            raise PeerProtocolError("node.net.protocol", f"a peer sent a frame that is too long ({error})") from error
        payloads = [frame for frame in frames if frame]
        if payloads:
            self._on_frames(payloads)

    def _send_or_append(self, frame: bytes) -> None:
        now = trio.current_time()
        if (
            not self._queue
            and self._writing_since is None
            and now - self.sent_at >= AT_ONCE_PAUSE_S
            and len(frame) <= WRITE_BYTES_MAX
            and self._stream.write_now(frame)
        ):
            self.sent_at = now
            self.sent_bytes += len(frame)
        else:
            self._append(frame)

    def _append(self, frame: bytes) -> None:
        self._queue.append(frame)
        self._queue_bytes += len(frame)
        self._filled.set()
