"""Archives: what goes in comes out, in pieces of any size, and damage of any byte is noticed."""

from __future__ import annotations

import pytest

from ledger.archive import (
    MAGIC,
    ArchivedBlock,
    ArchiveDecoder,
    ArchivedGenesis,
    ArchiveEncoder,
    ArchiveEnd,
    ArchiveItem,
)
from ledger.errors import ArchiveRefusedError
from wire.codec import encode
from wire.framing import encode_frame

BLOCKS = [(b"block one", b"certificate"), (b"block two", None), (b"block three" * 50, b"c")]


def archive() -> bytes:
    encoder = ArchiveEncoder()
    parts = [encoder.begin(b'{"chain_id":"net"}')]
    parts += [encoder.block(block, certificate) for block, certificate in BLOCKS]
    return b"".join([*parts, encoder.end()])


def read(data: bytes, piece: int) -> list[ArchiveItem]:
    decoder = ArchiveDecoder()
    items = [
        item for start in range(0, len(data), piece) for item in decoder.feed_untrusted(data[start : start + piece])
    ]
    decoder.finish()
    return items


EXPECTED = [
    ArchivedGenesis(b'{"chain_id":"net"}'),
    *(ArchivedBlock(block, certificate) for block, certificate in BLOCKS),
    ArchiveEnd(3),
]


@pytest.mark.parametrize("piece", [1, 2, 7, 64, 10**6])
def test_an_archive_is_read_back_in_pieces_of_any_size(piece: int) -> None:
    assert read(archive(), piece) == EXPECTED


def test_nothing_is_made_of_nothing() -> None:
    assert ArchiveDecoder().feed_untrusted(b"") == []


def test_every_flipped_byte_is_noticed() -> None:
    data = archive()
    for position in range(len(data)):
        damaged = data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :]
        with pytest.raises(ArchiveRefusedError):
            read(damaged, 10**6)


def test_every_cut_is_noticed() -> None:
    data = archive()
    for length in range(len(data)):
        with pytest.raises(ArchiveRefusedError) as refused:
            read(data[:length], 10**6)
        assert refused.value.code == "ledger.archive.truncated"


def refused(data: bytes) -> str:
    with pytest.raises(ArchiveRefusedError) as error:
        read(data, 10**6)
    return error.value.code


def test_refusals_have_their_codes() -> None:
    data = archive()
    encoder = ArchiveEncoder()
    start = encoder.begin(b"{}")
    assert refused(b"PK\x03\x04") == "ledger.archive.magic"
    assert refused(data + b"\x00") == "ledger.archive.trailing"
    assert refused(data + encode_frame(b"more")) == "ledger.archive.trailing"
    assert refused(MAGIC + b"\xff\xff\xff\xff") == "ledger.archive.malformed"
    for item in ((b"a", b"b", b"c"), ("end",), (b"block", 5), (5, None), 5, ("end", -1, bytes(32)), ("end", 0, b"")):
        assert refused(start + encode_frame(encode(item))) == "ledger.archive.malformed"
    assert refused(start + encode_frame(encode(("end", 1, bytes(32))))) == "ledger.archive.count"
    assert refused(start + encode_frame(encode(("end", 0, bytes(32))))) == "ledger.archive.digest"
    assert refused(MAGIC + encode_frame(bytes(2**20 + 1))) == "ledger.archive.malformed"
