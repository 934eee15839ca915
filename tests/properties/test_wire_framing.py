"""Frames cut anywhere give the same payloads, and lying lengths never fill the buffer."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from wire.errors import MalformedError
from wire.framing import FrameDecoder, encode_frame


@given(st.lists(st.binary(max_size=50), max_size=12), st.lists(st.integers(0, 700), max_size=12), st.binary(max_size=3))
def test_stream_cut_anywhere_gives_the_same_payloads(payloads: list[bytes], cuts: list[int], tail: bytes) -> None:
    stream = b"".join(map(encode_frame, payloads)) + tail
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    decoder = FrameDecoder()
    received = [payload for start, end in pairwise(places) for payload in decoder.feed(stream[start:end])]
    assert received == payloads
    assert decoder.bytes_buffered == len(tail)
    assert FrameDecoder().feed(stream) == payloads


@given(st.lists(st.binary(max_size=20), max_size=30), st.integers(0, 30))
def test_any_bytes_keep_the_buffer_bounded(pieces: list[bytes], frame_bytes_max: int) -> None:
    decoder = FrameDecoder(frame_bytes_max)
    refused: MalformedError | None = None
    held = 0
    for piece in pieces:
        held = decoder.bytes_buffered
        try:
            payloads = decoder.feed(piece)
        except MalformedError as error:
            refused = error
            break
        assert all(len(payload) <= frame_bytes_max for payload in payloads)
        assert decoder.bytes_buffered < frame_bytes_max + 4
    if refused is not None:
        assert refused.code == "wire.frame.too_large"
        assert decoder.bytes_buffered == held
