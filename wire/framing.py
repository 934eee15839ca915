"""Frames on a byte stream: a 4-byte big-endian length, then so many bytes.

The decoder takes whatever pieces a stream delivers and gives whole payloads. It holds at most one unfinished frame and refuses a length
above its limit as soon as the four bytes are there, before it buffers anything for them.

Source: docs/spec/wire.md 9.
"""

from __future__ import annotations

from typing import Final

from wire.errors import MalformedError
from wire.limits import FRAME_BYTES_MAX

LENGTH_BYTES: Final = 4


def encode_frame(payload: bytes, frame_bytes_max: int = FRAME_BYTES_MAX) -> bytes:
    """Return the payload with its length before it.

    Raises:
        MalformedError: ``wire.frame.too_large`` for more than `frame_bytes_max` bytes of payload.
    """
    if len(payload) > frame_bytes_max:
        raise _too_large(frame_bytes_max, len(payload))
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


class FrameDecoder:
    """The receiving end of one stream. After a refusal the stream has no more borders: close it, and feed no more.

    Args:
        frame_bytes_max: The longest accepted payload.
    """

    __slots__ = ("_buffer", "_frame_bytes_max")

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        """Start at a frame's border with nothing buffered."""
        self._frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()

    @property
    def bytes_buffered(self) -> int:
        """How many bytes of an unfinished frame are held; 0 at a frame's border, so a stream may end here."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the payloads that `data` completes, in order.

        Raises:
            MalformedError: ``wire.frame.too_large``. Frames that came whole before the bad length in the same `data` are lost with it,
                and the decoder keeps what it held before this call.
        """
        buffer = self._buffer
        if not buffer:
            # The usual case: whole frames in one piece. They are cut from `data` itself and only a rest is copied.
            frames, used = self._cut(data)
            if used < len(data):
                buffer += memoryview(data)[used:]
            return frames
        held = len(buffer)
        buffer += data
        try:
            frames, used = self._cut(buffer)
        except MalformedError:
            del buffer[held:]
            raise
        del buffer[:used]
        return frames

    def _cut(self, data: bytes | bytearray) -> tuple[list[bytes], int]:
        frames: list[bytes] = []
        position = 0
        while len(data) - position >= LENGTH_BYTES:
            start = position + LENGTH_BYTES
            length = int.from_bytes(data[position:start], "big")
            if length > self._frame_bytes_max:
                raise _too_large(self._frame_bytes_max, length)
            if len(data) - start < length:
                break
            frames.append(bytes(data[start : start + length]))
            position = start + length
        return frames, position


def _too_large(frame_bytes_max: int, length: int) -> MalformedError:
    return MalformedError(
        "wire.frame.too_large", "the frame is too long", expected=f"at most {frame_bytes_max} bytes", actual=length
    )
