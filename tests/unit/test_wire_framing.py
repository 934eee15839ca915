"""Frames whole, in pieces and joined; lengths that lie."""

from __future__ import annotations

import pytest

from wire.errors import MalformedError
from wire.framing import FrameDecoder, encode_frame
from wire.limits import FRAME_BYTES_MAX

PAYLOADS = [b"", b"a", b"bc" * 1000, b"\x00\x00\x00\x05", b""]
STREAM = b"".join(map(encode_frame, PAYLOADS))


def test_frame_is_length_and_payload() -> None:
    assert encode_frame(b"abc") == b"\x00\x00\x00\x03abc"
    assert encode_frame(b"") == b"\x00\x00\x00\x00"


def test_whole_stream_gives_every_payload() -> None:
    assert FrameDecoder().feed(STREAM) == PAYLOADS


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1999, 2001])
def test_pieces_give_the_same_payloads(size: int) -> None:
    decoder = FrameDecoder()
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert [payload for piece in pieces for payload in decoder.feed(piece)] == PAYLOADS
    assert decoder.bytes_buffered == 0


def test_payloads_are_bytes_that_no_later_feed_changes() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(encode_frame(b"one")[:5]) == []
    frames = decoder.feed(encode_frame(b"one")[5:] + encode_frame(b"two"))
    decoder.feed(encode_frame(b"three"))
    assert frames == [b"one", b"two"]
    assert {type(frame) for frame in frames} == {bytes}


def test_rest_is_held_and_counted() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(STREAM + b"\x00\x00") == PAYLOADS
    assert decoder.bytes_buffered == 2
    assert decoder.feed(b"\x00\x02a") == []
    assert decoder.bytes_buffered == 5
    assert decoder.feed(b"b") == [b"ab"]
    assert decoder.bytes_buffered == 0
    assert decoder.feed(b"") == []


@pytest.mark.parametrize(
    "before", [b"", encode_frame(b"ok"), encode_frame(b"ok")[:3]], ids=["alone", "after a frame", "inside a frame"]
)
def test_length_above_the_limit_is_refused_and_changes_nothing(before: bytes) -> None:
    decoder = FrameDecoder(frame_bytes_max=10)
    decoder.feed(before)
    held = decoder.bytes_buffered
    rest = encode_frame(b"ok")[len(before) :] if held else b""
    with pytest.raises(MalformedError) as caught:
        decoder.feed(rest + b"\x00\x00\x00\x0bx")
    assert caught.value.code == "wire.frame.too_large"
    assert decoder.bytes_buffered == held


def test_length_is_refused_before_its_payload_comes() -> None:
    with pytest.raises(MalformedError) as caught:
        FrameDecoder().feed((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
    assert caught.value.code == "wire.frame.too_large"


def test_limit_itself_passes() -> None:
    assert FrameDecoder(frame_bytes_max=10).feed(encode_frame(b"x" * 10)) == [b"x" * 10]
    assert encode_frame(b"x" * 10, frame_bytes_max=10)
    with pytest.raises(MalformedError) as caught:
        encode_frame(b"x" * 11, frame_bytes_max=10)
    assert caught.value.code == "wire.frame.too_large"


def test_buffer_never_exceeds_one_frame() -> None:
    decoder = FrameDecoder(frame_bytes_max=1000)
    stream = b"".join(encode_frame(b"y" * size) for size in (1000, 0, 999, 1000))
    for start in range(0, len(stream), 13):
        decoder.feed(stream[start : start + 13])
        assert decoder.bytes_buffered < 1004
