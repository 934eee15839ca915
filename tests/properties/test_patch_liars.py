"""Whatever list and chunks peers send, a fetch ends with the file or without it, and never with a bug; who is honest is not blamed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from node.distribution.chunks import CHUNK_BYTES, ChunkList, count_chunks
from node.distribution.fetching import BUG
from node.distribution.plan import Found, State
from tests.testkit.patch_mesh import Mesh, Node
from wire.hashing import Digest, sha256
from wire.keys import KeyId

CONTENT = Random(15).randbytes(2 * CHUNK_BYTES + 9)
CHUNKS_MAX = count_chunks(len(CONTENT))


@dataclass(frozen=True, slots=True)
class Script:
    """What a peer claims, lists and sends."""

    lengths: tuple[int | None, ...]
    """Of the chunks that it sends; None where it sends none. A chunk has the right bytes as far as there are any."""
    bent: frozenset[int]
    """The chunks with a wrong first byte."""
    listed: frozenset[int]
    """The chunks that its list names as it sends them; the others are named as they should be."""
    is_cut: bool
    """Whether its list has a digest too few."""
    keeps_word: bool
    """Whether the root that it claims is that of its list."""


class Scripted(Node):
    script: Script
    content: bytes

    def piece(self, number: int) -> bytes | None:
        length = self.script.lengths[number]
        piece = self.content[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
        if length is None:
            return None
        sent = piece.ljust(length, b"?")[:length]
        return bytes([sent[0] ^ 1]) + sent[1:] if sent and number in self.script.bent else sent

    def listed(self) -> ChunkList:
        digests = []
        for number in range(count_chunks(len(self.content))):
            sent = self.piece(number) if number in self.script.listed else None
            true = self.content[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
            digests.append(sha256(true if sent is None else sent))
        return ChunkList(len(self.content), tuple(digests))

    async def find(self, peer: KeyId, digest: Digest, address: str | None, *, is_stranded: bool) -> Found:
        await trio.lowlevel.checkpoint()
        return Found(State.HERE, 0, self.listed().root if self.script.keeps_word else sha256(b"another"), ())

    async def list_chunks(self, peer: KeyId, digest: Digest, size: int) -> ChunkList | None:
        from node.distribution.chunks import read_list_untrusted

        await trio.lowlevel.checkpoint()
        return read_list_untrusted(self.listed().raw[: -32 if self.script.is_cut else None], size)

    async def chunk(self, peer: KeyId, digest: Digest, number: int) -> bytes | None:
        await trio.sleep(self.mesh.chunk_s)
        return self.piece(number)


NUMBERS = st.frozensets(st.integers(0, CHUNKS_MAX - 1))
LENGTHS = st.sampled_from((None, 0, 1, 8, 9, 10, CHUNK_BYTES - 1, CHUNK_BYTES))
SCRIPTS = st.builds(
    Script,
    lengths=st.tuples(*[LENGTHS] * CHUNKS_MAX),
    bent=NUMBERS,
    listed=NUMBERS,
    is_cut=st.sampled_from((False, False, False, True)),
    keeps_word=st.sampled_from((True, True, True, False)),
)
SHORT = Script((5, *[CHUNK_BYTES] * (CHUNKS_MAX - 1)), frozenset(), frozenset({0}), is_cut=False, keeps_word=True)


async def run(scripts: list[Script], size: int, directory: Path, *, with_holder: bool) -> None:
    mesh = Mesh(directory)
    content = CONTENT[:size]
    for number, script in enumerate(scripts):
        node = mesh.add(f"s{number}", Scripted)
        assert isinstance(node, Scripted)
        node.script, node.content = script, content
    own = mesh.add("own")
    own.near = [f"s{number}" for number in range(len(scripts))]
    if with_holder:
        mesh.add("v1", is_validator=True).store.put(content, sha256(content))
    with trio.fail_after(1000):
        is_here = await own.fetcher.fetch(sha256(content), size)
    assert own.store.read(sha256(content)) == (content if is_here else None)
    assert is_here or not with_holder, "one who has it is enough"
    assert not own.metrics.registry.get_sample_value("patchwarden_patch_peers_dropped_total", {"code": BUG})
    blamed = {each["key_id"] for each in own.fetcher.document()["dropped"]}
    assert not blamed & {node.key_id.hex() for node in mesh.nodes.values() if not isinstance(node, Scripted)}


@settings(max_examples=80, deadline=None)
@example([SHORT], len(CONTENT), False)
@example([SHORT, SHORT], len(CONTENT), True)
@given(
    st.lists(SCRIPTS, min_size=1, max_size=3),
    st.sampled_from((1, CHUNK_BYTES, CHUNK_BYTES + 1, len(CONTENT))),
    st.booleans(),
)
def test_whatever_list_and_chunks_a_peer_sends_the_fetch_ends_with_the_file_or_without_it(
    scripts: list[Script], size: int, with_holder: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        trio.run(
            lambda: run(scripts, size, Path(directory), with_holder=with_holder),
            clock=MockClock(autojump_threshold=0),
        )
