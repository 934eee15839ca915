"""Bundles: what goes in comes out, in pieces of any size, and damage of any byte is noticed."""

from __future__ import annotations

import pytest

from ledger.bundle import (
    DATA_BYTES_MAX,
    MAGIC,
    BundledBlock,
    BundledData,
    BundleDecoder,
    BundledPatch,
    BundledTransaction,
    BundleEncoder,
    BundleEnd,
    BundleHead,
    BundleItem,
)
from ledger.errors import ArchiveRefusedError
from wire.codec import Value, encode
from wire.framing import encode_frame
from wire.hashing import sha256

FILE = bytes(range(256)) * 3
FOUNDED = sha256(b"founding document")
EXPECTED = [
    BundleHead("net", FOUNDED, 812),
    BundledBlock(b"block 812", None),
    BundledBlock(b"block 813" * 40, b"certificate"),
    BundledPatch(sha256(FILE), len(FILE)),
    BundledData(FILE[:300]),
    BundledData(FILE[300:]),
    BundledTransaction(b"signed"),
    BundleEnd(6),
]
CLOSING = encode_frame(encode(("end", 6, FOUNDED)))


def bundle() -> bytes:
    encoder = BundleEncoder()
    return b"".join(
        [
            encoder.begin("net", FOUNDED, 812),
            encoder.block(b"block 812", None),
            encoder.block(b"block 813" * 40, b"certificate"),
            encoder.patch(sha256(FILE), len(FILE)),
            encoder.data(FILE[:300]),
            encoder.data(FILE[300:]),
            encoder.transaction(b"signed"),
            encoder.end(),
        ]
    )


def read(data: bytes, piece: int) -> list[BundleItem]:
    decoder = BundleDecoder()
    items = [
        item for start in range(0, len(data), piece) for item in decoder.feed_untrusted(data[start : start + piece])
    ]
    decoder.finish()
    return items


def refusal(data: bytes) -> str:
    with pytest.raises(ArchiveRefusedError) as caught:
        read(data, 1000)
    return caught.value.code


@pytest.mark.parametrize("piece", [1, 7, 21, 22, 1000, 10_000])
def test_items_come_back_in_pieces_of_any_size(piece: int) -> None:
    assert read(bundle(), piece) == EXPECTED


def test_every_changed_byte_is_noticed() -> None:
    data = bundle()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        code = refusal(bytes(changed))
        assert code.startswith("ledger.bundle."), place


@pytest.mark.parametrize("length", [0, 5, len(MAGIC), len(MAGIC) + 2, 100, -1])
def test_a_bundle_that_was_cut_is_noticed(length: int) -> None:
    assert refusal(bundle()[:length]) == "ledger.bundle.truncated"


def test_items_before_a_cut_are_given() -> None:
    decoder = BundleDecoder()
    assert decoder.feed_untrusted(bundle()[:-10]) == EXPECTED[:-1]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"patchwarden-archive 1\n" + bytes(20), "ledger.bundle.magic"),
        (bundle() + encode_frame(encode(("end", 6, FOUNDED))), "ledger.bundle.trailing"),
        (bundle() + b"\0\0", "ledger.bundle.trailing"),
        (bundle()[: -len(CLOSING)] + encode_frame(encode(("end", 5, FOUNDED))), "ledger.bundle.count"),
    ],
)
def test_what_is_no_bundle_is_refused(data: bytes, code: str) -> None:
    assert refusal(data) == code


HEAD: Value = ("bundle", "net", FOUNDED, 1)
MALFORMED: dict[str, list[Value]] = {
    "closed at once": [("end", 0, sha256(MAGIC))],
    "no head": [("block", b"b", None)],
    "nothing": [()],
    "number": [7],
    "unknown": [HEAD, ("letter", b"b")],
    "two heads": [HEAD, HEAD],
    "short": [HEAD, ("block", b"b")],
    "empty file": [HEAD, ("patch", FOUNDED, 0)],
    "digest": [HEAD, ("patch", b"short", 1)],
    "piece too long": [HEAD, ("data", bytes(DATA_BYTES_MAX + 1))],
    "text": [HEAD, ("transaction", "text")],
    "end": [HEAD, ("end", 0)],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_an_item_without_its_form_is_refused(name: str) -> None:
    frames = b"".join(encode_frame(encode(value)) for value in MALFORMED[name])
    assert refusal(MAGIC + frames) == "ledger.bundle.malformed"


def test_a_frame_that_is_too_long_is_refused_before_it_is_read() -> None:
    assert refusal(MAGIC + b"\xff\xff\xff\xff") == "ledger.bundle.malformed"
