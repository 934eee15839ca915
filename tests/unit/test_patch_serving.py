"""What a node answers those who want a patch file, byte for byte, and what it refuses."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from node.distribution.chunks import CHUNK_BYTES, ChunkList, count_chunks, read_list_untrusted, single_chunk
from node.distribution.places import Places, allowance
from node.distribution.plan import Found, State
from node.distribution.serving import (
    BUSY,
    PatchServer,
    decode_chunk_untrusted,
    decode_found_untrusted,
    decode_list_untrusted,
    encode_find,
    encode_found,
)
from node.net.address import with_peer_id_untrusted
from node.patch_store import PatchStore
from node.telemetry import Metrics
from tests.testkit.ledger import key_of
from tests.testkit.patch_mesh import MACHINE
from wire.codec import Value, decode_untrusted, encode
from wire.errors import MalformedError, PatchwardenError, UnavailableError
from wire.hashing import sha256
from wire.keys import KeyId

CONTENT = random.Random(2).randbytes(2 * CHUNK_BYTES + 5)
FILE = sha256(CONTENT)
CHUNKS = tuple(sha256(CONTENT[begin : begin + CHUNK_BYTES]) for begin in range(0, len(CONTENT), CHUNK_BYTES))
ROOT = sha256(
    b"patchwarden-chunks/1\x00" + len(CONTENT).to_bytes(8, "big") + (262_144).to_bytes(4, "big") + b"".join(CHUNKS)
)
HOST, OTHER, VALIDATOR = (key_of(name).public_key.key_id for name in ("web1@acme", "web2@acme", "v1"))
ADDRESS = with_peer_id_untrusted("/ip4/0.0.0.0/tcp/7", key_of("web1@acme").public_key.raw)
SEEN = with_peer_id_untrusted("/ip4/10.1.2.3/tcp/7", key_of("web1@acme").public_key.raw)


class Served:
    def __init__(self, path: Path) -> None:
        self.store = PatchStore(path, random_suffix=lambda: "x")
        self.store.put(CONTENT, FILE)
        self.progress: int | None = None
        self.metrics = Metrics()
        self.places = Places(1, is_rationed=True)
        self.server = PatchServer(
            self.store,
            self.places,
            remote=lambda _: "10.1.2.3:4711",
            is_exempt=lambda peer: peer == VALIDATOR,
            progress=lambda _, asker: None if asker == OTHER else self.progress,
            metrics=self.metrics,
            machine=MACHINE,
        )

    async def find(self, peer: KeyId, file: bytes = FILE, address: str | None = None) -> Found:
        return decode_found_untrusted(await self.server.find(peer, encode((file, address, False))))


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


async def test_a_file_is_found_listed_and_given_to_who_has_a_place(served: Served) -> None:
    assert await served.find(HOST, address=ADDRESS) == Found(State.HERE, 3, ROOT, ())
    assert await served.find(OTHER) == Found(State.BUSY, 3, ROOT, (SEEN,)), "the address is the one it came from"
    chunks = decode_list_untrusted(await served.server.list_chunks(HOST, encode((FILE,))), len(CONTENT))
    assert chunks == ChunkList(len(CONTENT), CHUNKS)
    assert chunks.root == ROOT
    parts = [decode_chunk_untrusted(await served.server.chunk(HOST, encode((FILE, number)))) for number in range(3)]
    assert b"".join(part or b"?" for part in parts) == CONTENT
    assert served.metrics.registry.get_sample_value("patchwarden_patch_bytes_total", {"direction": "sent"}) == len(
        CONTENT
    )
    assert await served.server.done(HOST, encode((FILE, True))) == encode(None)
    for question in (served.server.chunk(HOST, encode((FILE, 0))), served.server.list_chunks(HOST, encode((FILE,)))):
        with pytest.raises(PatchwardenError) as caught:
            await question
        assert caught.value.code == "node.patch.busy"


async def test_who_takes_part_in_consensus_needs_no_place(served: Served) -> None:
    assert (await served.find(HOST)).state is State.HERE
    assert (await served.find(VALIDATOR)).state is State.HERE
    assert decode_chunk_untrusted(await served.server.chunk(VALIDATOR, encode((FILE, 2)))) == CONTENT[-5:]


async def test_what_is_not_here_is_absent_or_coming(served: Served) -> None:
    other = sha256(b"other")
    assert await served.find(HOST, other) == Found(State.ABSENT, 0, None, ())
    served.progress = 2
    assert await served.find(HOST, other) == Found(State.COMING, 2, None, ())
    assert await served.server.chunk(VALIDATOR, encode((other, 0))) == encode(None)
    assert await served.server.list_chunks(VALIDATOR, encode((other,))) == encode(None)


async def test_an_address_of_somebody_else_is_passed_on_to_nobody(served: Served) -> None:
    assert (await served.find(OTHER, address=ADDRESS)).state is State.HERE
    assert (await served.find(HOST)).offers == ()


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("find", (FILE, None), "wire.field.length"),
        ("find", (FILE[:-1], None, False), "wire.field.length"),
        ("find", (FILE, None, 1), "wire.field.bool"),
        ("find", (FILE, "a" * 401, False), "wire.field.length"),
        ("list_chunks", (FILE, 0), "wire.field.length"),
        ("chunk", (FILE, -1), "wire.field.range"),
        ("chunk", (FILE, 1 << 31), "wire.field.range"),
        ("chunk", ("name", 0), "wire.field.bytes"),
        ("done", (FILE, None), "wire.field.bool"),
        ("done", (bytes(2000), True), "wire.codec.too_large"),
    ],
)
async def test_a_question_without_its_form_is_refused(
    served: Served, method: str, request_: tuple[Value, ...], code: str
) -> None:
    with pytest.raises(PatchwardenError) as caught:
        await getattr(served.server, method)(VALIDATOR, encode(request_))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (("there", 0, None, ()), "node.patch.state"),
        (("here", 0, b"short", ()), "wire.field.length"),
        (("here", -1, None, ()), "wire.field.range"),
        (("here", 0, None, ("a",) * 17), "wire.field.length"),
        (("here", 0, None), "wire.field.length"),
    ],
)
def test_an_answer_without_its_form_is_refused(value: tuple[Value, ...], code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        decode_found_untrusted(encode(value))
    assert caught.value.code == code


def test_lists_and_chunks_that_are_too_long_or_too_short_are_refused() -> None:
    for count in (0, 2, 4):
        with pytest.raises(MalformedError) as caught:
            decode_list_untrusted(encode(bytes(32 * count)), len(CONTENT))
        assert caught.value.code == "node.patch.list_length"
    with pytest.raises(MalformedError) as caught:
        decode_chunk_untrusted(encode(bytes(CHUNK_BYTES + 1)))
    assert caught.value.code == "wire.field.length"


def test_payloads_are_canonical() -> None:
    assert encode_find(FILE, None, is_stranded=True) == encode((FILE, None, True))
    assert encode_found(Found(State.COMING, 4, None, ("a",))) == encode(("coming", 4, None, ("a",)))


@pytest.mark.parametrize(
    ("size", "count"), [(1, 1), (CHUNK_BYTES, 1), (CHUNK_BYTES + 1, 2), (2 * CHUNK_BYTES, 2), (100 << 20, 400)]
)
def test_how_many_chunks_a_file_has_and_how_long_they_are(size: int, count: int) -> None:
    assert count_chunks(size) == count
    chunks = read_list_untrusted(bytes(32 * count), size)
    assert sum(chunks.length(number) for number in range(count)) == size
    assert [chunks.offset(number) for number in range(count)] == [number * CHUNK_BYTES for number in range(count)]
    single = single_chunk(size, FILE)
    assert (single is None) == (count > 1)
    assert single is None or single.digests == (FILE,)


async def test_a_copy_has_an_end_chunk_by_chunk(served: Served) -> None:
    await served.find(HOST, address=ADDRESS)
    for _ in range(allowance(len(CHUNKS))):
        await served.server.chunk(HOST, encode((FILE, 0)))
    with pytest.raises(UnavailableError) as caught:
        await served.server.chunk(HOST, encode((FILE, 0)))
    assert caught.value.code == BUSY
    assert (await served.find(HOST, address=ADDRESS)).state is State.BUSY, "it has had its copy"
    for _ in range(2 * allowance(len(CHUNKS))):
        await served.server.chunk(VALIDATOR, encode((FILE, 0)))


async def test_only_who_may_wait_for_a_fetch_hears_of_it(served: Served) -> None:
    served.store.remove(served.store.files()[0])
    served.progress = 0
    assert (await served.find(HOST)).state is State.COMING
    assert (await served.find(OTHER)).state is State.ABSENT


async def test_who_has_done_with_a_file_that_is_gone_meanwhile_frees_nothing(served: Served) -> None:
    await served.find(HOST, address=ADDRESS)
    served.store.remove(served.store.files()[0])
    assert decode_untrusted(await served.server.done(HOST, encode((FILE, True))), bytes_max=16) is None
    assert served.places.others(FILE, OTHER, trio.current_time()) == (SEEN,)
