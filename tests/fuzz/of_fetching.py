"""What a peer answers a node that fetches a patch file: claims, lists and chunks, in a real fetch, judged and written to a real disk."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from node.distribution.chunks import CHUNK_BYTES, ChunkHasher, ChunkList, count_chunks
from node.distribution.fetching import BUG, Neighbours, PatchFetcher
from node.distribution.plan import Found, State
from node.distribution.serving import (
    decode_chunk_untrusted,
    decode_found_untrusted,
    decode_list_untrusted,
    encode_found,
)
from node.patch_store import PatchStore
from node.telemetry import Metrics
from tests.fuzz.target import Target
from tests.testkit.ledger import key_of
from tests.testkit.patch_mesh import MACHINE
from wire.codec import encode
from wire.hashing import Digest, sha256
from wire.keys import KeyId

TWO_CHUNKS: Final = 1
"""The first byte's bits: the file has two chunks instead of one;"""
WITH_HOLDER: Final = 2
"""somebody has it who is honest;"""
RAW_LIST: Final = 4
"""the first piece is the answer with the list, instead of one that fits the pieces;"""
RAW_CLAIM: Final = 8
"""the next piece is the first answer to the question for the file, instead of the list's root."""
SEPARATOR: Final = b"|"
TRUE: Final = b"*"
"""A piece that stands for the chunk as it is,"""
GONE: Final = b"-"
"""and for none."""
FILES: Final = (b"patch", bytes(CHUNK_BYTES) + b"tail")


class Holder:
    """A peer that has the file."""

    address = "/ip4/127.0.0.1/tcp/9"

    def __init__(self, name: str, content: bytes) -> None:
        self.key_id = KeyId(sha256(name.encode()))
        self.name = name
        self.content = content

    def true(self, number: int) -> bytes:
        return self.content[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]

    async def patch_find(self, digest: Digest, address: str | None, *, is_stranded: bool) -> Found:
        await trio.lowlevel.checkpoint()
        return Found(State.HERE, 0, self.chunks().root, ())

    async def patch_list(self, digest: Digest, size: int) -> ChunkList | None:
        await trio.lowlevel.checkpoint()
        return self.chunks()

    async def patch_chunk(self, digest: Digest, number: int) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return self.true(number)

    async def patch_done(self, digest: Digest, *, has_file: bool) -> None:
        await trio.lowlevel.checkpoint()

    def chunks(self) -> ChunkList:
        hasher = ChunkHasher()
        for number in range(count_chunks(len(self.content))):
            hasher.add(self.true(number))
        return hasher.finish()[1]


class Stranger(Holder):
    """A peer that answers what the input says."""

    def __init__(self, content: bytes, flags: int, pieces: list[bytes]) -> None:
        super().__init__("stranger", content)
        self.raw_list = pieces.pop(0) if flags & RAW_LIST and pieces else None
        self.claims = pieces[:1] if flags & RAW_CLAIM else None
        self.pieces = pieces[1:] if flags & RAW_CLAIM else pieces

    def piece(self, number: int) -> bytes | None:
        piece = self.pieces[number] if number < len(self.pieces) else GONE
        return {TRUE: self.true(number), GONE: None}.get(piece, piece)

    def chunks(self) -> ChunkList:
        pieces = [self.piece(number) for number in range(count_chunks(len(self.content)))]
        return ChunkList(len(self.content), tuple(sha256(piece or b"") for piece in pieces))

    async def patch_find(self, digest: Digest, address: str | None, *, is_stranded: bool) -> Found:
        if self.claims is None:
            return await super().patch_find(digest, address, is_stranded=is_stranded)
        await trio.lowlevel.checkpoint()
        return decode_found_untrusted(self.claims.pop()) if self.claims else Found(State.ABSENT, 0, None, ())

    async def patch_list(self, digest: Digest, size: int) -> ChunkList | None:
        await trio.lowlevel.checkpoint()
        chunks = decode_list_untrusted(encode(self.chunks().raw) if self.raw_list is None else self.raw_list, size)
        if chunks is None:
            self.claims = []  # It does not have the file after all: nobody waits ten seconds of jumps for it.
        return chunks

    async def patch_chunk(self, digest: Digest, number: int) -> bytes | None:
        await trio.lowlevel.checkpoint()
        chunk = decode_chunk_untrusted(encode(self.piece(number)))
        if chunk is None:
            self.claims = []
        return chunk


def take_fetch(data: bytes) -> bool:
    """A stranger's answers: whatever they are, the fetch ends with the file or without it, and somebody honest is enough."""
    flags = data[0] if data else 0
    content = FILES[flags & TWO_CHUNKS]
    digest = sha256(content)
    stranger, holder = Stranger(content, flags, data[1:].split(SEPARATOR)), Holder("holder", content)
    neighbours = Neighbours([stranger], [holder] if flags & WITH_HOLDER else [])
    metrics = Metrics()

    async def make_room(size: int) -> None:
        await trio.lowlevel.checkpoint()

    with tempfile.TemporaryDirectory(prefix="patchwarden-fuzz-") as directory:
        store = PatchStore(Path(directory), random_suffix=lambda: "x")
        fetcher = PatchFetcher(
            key_of("own").public_key.key_id,
            store,
            neighbours=lambda: neighbours,
            connect=lambda key_id, address: Holder(address, content),
            announced=lambda: None,
            make_room=make_room,
            metrics=metrics,
            machine=MACHINE,
        )

        async def fetch() -> bool:
            is_here = await fetcher.fetch(digest, len(content))
            assert holder.key_id.hex() not in {each["key_id"] for each in fetcher.document()["dropped"]}
            return is_here

        with capture_logs():
            is_here = trio.run(fetch, clock=MockClock(autojump_threshold=0))
        kept = store.read(digest, 0, len(content) + 1)
        assert kept == (content if is_here else None), "what is kept is the file"
    assert is_here or not flags & WITH_HOLDER, "one who has it is enough"
    bugs = metrics.registry.get_sample_value("patchwarden_patch_peers_dropped_total", {"code": BUG})
    assert not bugs, "a bug was met"
    return is_here


def seeds() -> list[bytes]:
    """Return files from strangers and from others, in one chunk and in two."""
    root = Holder("", FILES[1]).chunks().root
    claim = encode_found(Found(State.HERE, 2, root, ()))
    assert SEPARATOR not in claim, "the root is always the same"
    return [
        bytes([flags]) + SEPARATOR.join(pieces)
        for flags, pieces in (
            (0, [b"patch"]),
            (0, [b"patches"]),
            (WITH_HOLDER, [b"short"]),
            (TWO_CHUNKS, [TRUE, b"tail"]),
            (TWO_CHUNKS, [TRUE, b"tails"]),
            (TWO_CHUNKS, [b"short", b"tail"]),
            (TWO_CHUNKS | WITH_HOLDER, [b"short", b"tail"]),
            (TWO_CHUNKS | WITH_HOLDER, [TRUE, GONE]),
            (TWO_CHUNKS | WITH_HOLDER | RAW_LIST, [encode(None), TRUE, b"tail"]),
            (TWO_CHUNKS | RAW_CLAIM, [claim, TRUE, b"tail"]),
        )
    ]


def targets() -> list[Target]:
    return [Target("patch-fetch", take_fetch, seeds, words=(SEPARATOR, TRUE, GONE), short_inputs=60)]
