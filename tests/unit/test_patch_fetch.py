"""Patch files come from several peers, go on where they stopped, and come in spite of liars, stalled peers and a disk that forgets."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from node.distribution.chunks import CHUNK_BYTES, ChunkHasher, ChunkList, count_chunks
from node.distribution.fetching import BUG, Neighbours
from node.distribution.partial import PartialFile, open_partial
from node.distribution.plan import FALSE_CHUNK, FALSE_LIST, SLOW, Found, State
from node.machine import Machine
from tests.testkit.patch_mesh import Liar, Mesh, Node, inline
from wire.errors import CorruptionError, MalformedError, RejectedError, UnavailableError
from wire.hashing import Digest, sha256
from wire.keys import KeyId

CONTENT = random.Random(6).randbytes(11 * CHUNK_BYTES + 77)
FILE = sha256(CONTENT)
COUNT = count_chunks(len(CONTENT))


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


def holder(mesh: Mesh, name: str, kind: type[Node] = Node, content: bytes = CONTENT, **options: int | bool) -> Node:
    node = mesh.add(name, kind, **options)
    node.store.put(content, sha256(content))
    return node


def liar(mesh: Mesh, name: str, kind: type[Liar] = Liar, lies_about: frozenset[int] = frozenset()) -> Liar:
    node = mesh.add(name, kind)
    assert isinstance(node, Liar)
    node.content, node.lies_about = CONTENT, lies_about
    return node


async def fetch(node: Node, content: bytes = CONTENT) -> bool:
    with trio.fail_after(1000):
        return await node.fetcher.fetch(sha256(content), len(content))


def dropped(node: Node) -> dict[str, str]:
    """Return whom the node has dropped for a lie, and why."""
    names = {each.key_id.hex(): each.name for each in node.mesh.nodes.values()}
    return {names[each["key_id"]]: each["code"] for each in node.fetcher.document()["dropped"]}


def reported(node: Node, code: str) -> float:
    return node.metrics.registry.get_sample_value("patchwarden_patch_peers_dropped_total", {"code": code}) or 0.0


def assert_whole(node: Node) -> None:
    assert node.store.read(FILE) == CONTENT
    assert sorted(os.listdir(node.directory)) == [FILE.hex()], "nothing is left beside it"


def test_codes_are_stable() -> None:
    assert (FALSE_CHUNK, FALSE_LIST) == ("node.patch.false_chunk", "node.patch.false_list")
    assert SLOW == "node.patch.slow"


async def test_chunks_come_from_several_peers(mesh: Mesh, autojump_clock: MockClock) -> None:
    sources = [holder(mesh, name) for name in ("a", "b", "c")]
    own = mesh.add("own")
    own.near = ["a", "b", "c"]
    assert await fetch(own)
    assert_whole(own)
    assert sum(len(node.asked_chunks) for node in sources) == COUNT, "each chunk once"
    assert sum(bool(node.asked_chunks) for node in sources) > 1
    assert [node.places.used(trio.current_time()) for node in sources] == [0, 0, 0], "places are given back"
    assert own.fetcher.document() == {"fetching": [], "dropped": []}


async def test_a_small_file_takes_two_questions(mesh: Mesh, autojump_clock: MockClock) -> None:
    source = holder(mesh, "a", content=b"small")
    own = mesh.add("own")
    own.near = ["a"]
    assert await fetch(own, b"small")
    assert own.store.read(sha256(b"small")) == b"small"
    assert source.asked_chunks == [0]


async def test_without_the_file_anywhere_nothing_is_left_behind_but_time(mesh: Mesh, autojump_clock: MockClock) -> None:
    mesh.add("a")
    mesh.add("v1", is_validator=True)
    own = mesh.add("own")
    own.near = ["a"]
    assert not await fetch(own)
    assert own.store.files() == [], "nobody has said what its chunks are"


@pytest.mark.parametrize("lies_about", [frozenset({4}), frozenset({0, 5, COUNT - 1}), frozenset(range(COUNT))])
async def test_a_false_list_costs_what_is_false_in_it(
    mesh: Mesh, autojump_clock: MockClock, lies_about: frozenset[int]
) -> None:
    liars = [liar(mesh, name, lies_about=lies_about) for name in ("l1", "l2")]
    honest = holder(mesh, "a")
    own = mesh.add("own")
    own.near = ["l1", "l2", "a"]
    assert await fetch(own)
    assert_whole(own)
    assert dropped(own) == {"l1": FALSE_LIST, "l2": FALSE_LIST}, "two who agree are still two liars"
    assert reported(own, FALSE_LIST) == 2
    assert sum(len(each.asked_chunks) for each in liars) == COUNT
    assert sorted(honest.asked_chunks) == sorted(lies_about)
    own.store.remove(own.store.files()[0])
    liars[0].asked_chunks.clear()
    assert await fetch(own)
    assert not liars[0].asked_chunks, "who has lied is left alone with the next file as well"


class FalseChunk(Liar):
    """Claims the right list and sends something else."""

    async def chunk(self, peer: KeyId, digest: Digest, number: int) -> bytes | None:
        await super().chunk(peer, digest, number)
        return self.bend(self.piece(number))

    def bend(self, data: bytes) -> bytes:
        return bytes([data[0] ^ 1]) + data[1:]


class Truncated(FalseChunk):
    def bend(self, data: bytes) -> bytes:
        return data[:-1]


class Empty(FalseChunk):
    def bend(self, data: bytes) -> bytes:
        return b""


class Longer(FalseChunk):
    def bend(self, data: bytes) -> bytes:
        return data + b"\x00"


@pytest.mark.parametrize("kind", [FalseChunk, Truncated, Empty, Longer])
async def test_a_false_chunk_convicts_who_sent_it_and_nobody_else(
    mesh: Mesh, autojump_clock: MockClock, kind: type[Liar]
) -> None:
    bad = liar(mesh, "l1", kind)
    holder(mesh, "a")
    holder(mesh, "b")
    own = mesh.add("own")
    own.near = ["l1", "a", "b"]
    assert await fetch(own)
    assert_whole(own)
    assert dropped(own) == {"l1": FALSE_CHUNK}
    assert len(bad.asked_chunks) <= 2, "what was under way when it was found out"


class OtherLength(Liar):
    """Keeps its word to the byte: its list names the digests of what it sends, which is no chunk of a file of this length."""

    lengths: Mapping[int, int] = {}

    def claimed(self, size: int) -> ChunkList:
        return ChunkList(size, tuple(sha256(self.piece(number)) for number in range(count_chunks(size))))

    def piece(self, number: int) -> bytes:
        return super().piece(number).ljust(CHUNK_BYTES, b"\x00")[: self.lengths.get(number, CHUNK_BYTES)]


@pytest.mark.parametrize("lengths", [{0: 5}, {0: 0}, {1: CHUNK_BYTES - 1}, {COUNT - 1: 78}, {}])
async def test_a_list_whose_chunks_have_other_lengths_convicts_who_claims_it(
    mesh: Mesh, autojump_clock: MockClock, lengths: dict[int, int]
) -> None:
    liars = [liar(mesh, name, OtherLength) for name in ("l1", "l2")]
    for each in liars:
        assert isinstance(each, OtherLength)
        each.lengths = {COUNT - 1: 77, **lengths} if lengths else {}
    mesh.add("v1", is_validator=True).store.put(CONTENT, FILE)
    own = mesh.add("own")
    own.near = ["l1", "l2"]
    assert await fetch(own)
    assert_whole(own)
    assert dropped(own) == {"l1": FALSE_CHUNK, "l2": FALSE_CHUNK}
    assert reported(own, BUG) == 0


async def test_a_file_of_one_chunk_is_never_taken_with_another_length(mesh: Mesh, autojump_clock: MockClock) -> None:
    """The ledger's digest and length of a file may belong to no bytes at all: who published it, said so."""

    class Right(Liar):
        def claimed(self, size: int) -> ChunkList:
            return ChunkList(len(self.content) + 1, (sha256(self.content),))

        async def find(self, peer: KeyId, digest: Digest, address: str | None, *, is_stranded: bool) -> Found:
            await trio.lowlevel.checkpoint()
            return Found(State.HERE, 0, self.claimed(0).root, ())

    bad = mesh.add("l1", Right)
    assert isinstance(bad, Right)
    bad.content = b"short"
    own = mesh.add("own")
    own.near = ["l1"]
    assert not await own.fetcher.fetch(sha256(b"short"), len(b"short") + 1)
    assert dropped(own) == {"l1": FALSE_CHUNK}
    assert os.listdir(own.directory) == []


class Breaks(Node):
    """Answers so that something goes wrong that nobody has thought of."""

    error: Exception = KeyError("a bug")

    async def chunk(self, peer: KeyId, digest: Digest, number: int) -> bytes | None:
        await trio.lowlevel.checkpoint()
        raise self.error


async def test_a_bug_that_a_peer_finds_costs_that_peer(mesh: Mesh, autojump_clock: MockClock) -> None:
    holder(mesh, "b", Breaks)
    own = mesh.add("own")
    own.near = ["b"]
    assert not await fetch(own)
    assert reported(own, BUG) >= 1
    assert dropped(own) == {}, "nothing is proven against it"
    holder(mesh, "a")
    own.near.append("a")
    assert await fetch(own)
    assert_whole(own)


class Helpless(Node):
    """Fails before it asks anybody."""

    error: Exception = KeyError("a bug")

    def _neighbours(self) -> Neighbours:
        raise self.error


async def test_a_bug_in_a_fetch_costs_that_file(mesh: Mesh, autojump_clock: MockClock) -> None:
    own = mesh.add("own", Helpless)
    with pytest.raises(UnavailableError, match="KeyError") as caught:
        await fetch(own)
    assert caught.value.code == BUG == "node.patch.bug"
    assert own.fetcher.document()["fetching"] == []
    assert os.listdir(own.directory) == []


async def test_a_damaged_replica_still_ends_the_node(mesh: Mesh, autojump_clock: MockClock) -> None:
    damage = CorruptionError("test.damage", "what this node holds is damaged")
    own = mesh.add("own", Helpless)
    assert isinstance(own, Helpless)
    own.error = damage
    with pytest.raises(CorruptionError):
        await fetch(own)
    broken = holder(mesh, "b", Breaks)
    assert isinstance(broken, Breaks)
    broken.error = damage
    other = mesh.add("other")
    other.near = ["b"]
    with pytest.raises(ExceptionGroup) as caught:
        await fetch(other)
    assert caught.value.subgroup(CorruptionError) is not None


async def test_chunks_that_come_while_the_disk_fails_are_not_written(mesh: Mesh, autojump_clock: MockClock) -> None:
    source = holder(mesh, "a")
    own = mesh.add("own")
    own.near = ["a"]

    async def in_thread(
        function: Callable[..., object], /, *arguments: object, limiter: trio.CapacityLimiter | None = None
    ) -> object:
        if getattr(function, "__name__", "") == "follow":
            await trio.sleep(1)
            raise UnavailableError("node.patch.write_failed", "no room for the list")
        return await inline(function, *arguments, limiter=limiter)

    own.fetcher._machine = Machine(in_thread=in_thread)  # type: ignore[arg-type]
    with pytest.raises(UnavailableError) as caught:
        await fetch(own)
    assert caught.value.code == "node.patch.write_failed"
    assert source.asked_chunks, "they came before the list was on disk"


async def test_a_file_that_cannot_be_read_is_told_with_a_code(mesh: Mesh) -> None:
    own = mesh.add("own")
    (own.directory / FILE.hex()).mkdir()
    with pytest.raises(UnavailableError) as caught:
        own.store.read(FILE)
    assert caught.value.code == "node.patch.read_failed"


class SlowFalseChunk(FalseChunk):
    """Sends something else just before it would be given up."""

    async def chunk(self, peer: KeyId, digest: Digest, number: int) -> bytes | None:
        await trio.sleep(9)
        return await super().chunk(peer, digest, number)


@pytest.mark.parametrize("is_alone", [False, True])
async def test_who_sends_something_else_slowly_gains_nothing(
    mesh: Mesh, autojump_clock: MockClock, is_alone: bool
) -> None:
    bad = liar(mesh, "l1", SlowFalseChunk)
    validator = holder(mesh, "v1", is_validator=True, places=2)
    own = mesh.add("own")
    own.near = ["l1"]
    if not is_alone:
        holder(mesh, "a")
        own.near.append("a")
    begun = trio.current_time()
    assert await fetch(own)
    assert_whole(own)
    assert len(bad.asked_chunks) <= 2, "what was under way when it was found out"
    if is_alone:
        assert dropped(own) == {"l1": FALSE_CHUNK}
        assert trio.current_time() - begun < 12
    else:
        assert reported(own, SLOW) == 1, "it was overtaken before it could lie"
        assert validator.sent == 0


class OtherList(Liar):
    async def list_chunks(self, peer: KeyId, digest: Digest, size: int) -> ChunkList | None:
        await trio.lowlevel.checkpoint()
        return ChunkList(size, tuple(sha256(bytes([number])) for number in range(count_chunks(size))))


class Malformed(Liar):
    async def list_chunks(self, peer: KeyId, digest: Digest, size: int) -> ChunkList | None:
        await trio.lowlevel.checkpoint()
        raise MalformedError("node.patch.list_length", "as the decoder says of a list for a longer file")


class NoRoot(Liar):
    async def find(self, peer: KeyId, digest: Digest, address: str | None, *, is_stranded: bool) -> Found:
        from dataclasses import replace

        return replace(await super().find(peer, digest, address, is_stranded=is_stranded), root=None)


@pytest.mark.parametrize(
    ("kind", "code"), [(OtherList, FALSE_LIST), (Malformed, "node.patch.list_length"), (NoRoot, FALSE_LIST)]
)
async def test_a_list_that_is_not_what_was_claimed_convicts_its_sender(
    mesh: Mesh, autojump_clock: MockClock, kind: type[Liar], code: str
) -> None:
    for name in ("l1", "l2"):
        liar(mesh, name, kind, frozenset({1}))
    mesh.add("v1", is_validator=True).store.put(CONTENT, FILE)
    own = mesh.add("own")
    own.near = ["l1", "l2"]
    assert await fetch(own)
    assert_whole(own)
    assert set(dropped(own).values()) == {code}


class Stalled(Node):
    """Answers everything but chunks."""

    async def chunk(self, peer: KeyId, digest: Digest, number: int) -> bytes | None:
        self.asked_chunks.append(number)
        await trio.sleep_forever()
        return None


class Slow(Node):
    """Takes nine seconds for a chunk, which is no failure."""

    async def chunk(self, peer: KeyId, digest: Digest, number: int) -> bytes | None:
        self.asked_chunks.append(number)
        await trio.sleep(9)
        return await super().chunk(peer, digest, number)


class Mute(Node):
    async def find(self, peer: KeyId, digest: Digest, address: str | None, *, is_stranded: bool) -> Found:
        await trio.sleep_forever()
        return await super().find(peer, digest, address, is_stranded=is_stranded)


@pytest.mark.parametrize("kind", [Stalled, Slow])
async def test_nobody_waits_for_who_stalls(mesh: Mesh, autojump_clock: MockClock, kind: type[Node]) -> None:
    holder(mesh, "s", kind)
    holder(mesh, "a")
    own = mesh.add("own")
    own.near = ["s", "a"]
    begun = trio.current_time()
    assert await fetch(own)
    assert_whole(own)
    assert trio.current_time() - begun < 9, "what it was asked for came from the other one"
    assert dropped(own) == {}, "nothing is proven against it"
    assert reported(own, SLOW) == 1


async def test_who_stalls_is_given_up_and_the_fetch_goes_on_when_another_comes(
    mesh: Mesh, autojump_clock: MockClock
) -> None:
    stalled = holder(mesh, "s", Stalled)
    own = mesh.add("own")
    own.near = ["s"]
    mesh.add("v1", is_validator=True).store.put(CONTENT, FILE)
    assert await fetch(own)
    assert_whole(own)
    assert len(stalled.asked_chunks) == 2
    assert reported(own, "node.net.timeout") == 1


async def test_who_says_nothing_does_not_hold_up_the_others(mesh: Mesh, autojump_clock: MockClock) -> None:
    for name in ("m1", "m2"):
        holder(mesh, name, Mute)
    mesh.add("v1", is_validator=True).store.put(CONTENT, FILE)
    own = mesh.add("own")
    own.near = ["m1", "m2"]
    begun = trio.current_time()
    assert await fetch(own)
    assert trio.current_time() - begun < 3


async def test_when_a_source_goes_away_the_rest_comes_from_another(mesh: Mesh, autojump_clock: MockClock) -> None:
    first = holder(mesh, "a")
    second = mesh.add("v1", is_validator=True)
    second.store.put(CONTENT, FILE)
    own = mesh.add("own")
    own.near = ["a"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch, own)
        while len(own.fetcher.document()["fetching"]) == 0 or not own.fetcher.progress(FILE):  # noqa: ASYNC110
            await trio.sleep(0.001)
        mesh.away.add("a")
    assert_whole(own)
    assert first.asked_chunks
    assert second.asked_chunks
    assert len(first.asked_chunks) + len(second.asked_chunks) <= COUNT + 2


async def interrupted(own: Node, chunks: int) -> None:
    """Fetch until so many chunks are here, and end as a process that is killed: nothing is closed or tidied up by anybody."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch, own)
        while (own.fetcher.progress(FILE) or 0) < chunks:  # noqa: ASYNC110
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    own.restart()


async def test_a_fetch_goes_on_where_it_was_interrupted(mesh: Mesh, autojump_clock: MockClock) -> None:
    source = holder(mesh, "a")
    own = mesh.add("own")
    own.near = ["a"]
    await interrupted(own, 5)
    assert own.store.bytes_kept == len(CONTENT), "it counts with the length that it will have"
    assert [each.is_partial for each in own.store.files()] == [True]
    before = len(source.asked_chunks)
    assert await fetch(own)
    assert_whole(own)
    assert len(source.asked_chunks) - before <= COUNT - 5
    assert own.store.bytes_kept == len(CONTENT)


@pytest.mark.parametrize("damage", ["data", "state", "cut", "no state", "longer"])
async def test_what_a_power_cut_has_left_is_not_believed(mesh: Mesh, autojump_clock: MockClock, damage: str) -> None:
    source = holder(mesh, "a")
    own = mesh.add("own")
    own.near = ["a"]
    await interrupted(own, 6)
    data, state = (own.directory / f"{FILE.hex()}.{suffix}" for suffix in ("partial", "have"))
    if damage == "data":
        with data.open("r+b") as file:
            file.write(bytes(2 * CHUNK_BYTES))
    elif damage == "cut":
        os.truncate(data, 10)
    elif damage == "longer":
        os.truncate(data, 20 * len(CONTENT))
    elif damage == "state":
        raw = bytearray(state.read_bytes())
        raw[60] ^= 1
        state.write_bytes(raw)
    else:
        state.unlink()
    own.restart()
    before = len(source.asked_chunks)
    assert await fetch(own)
    assert_whole(own)
    asked = len(source.asked_chunks) - before
    assert asked == COUNT if damage in ("state", "no state", "cut") else asked <= COUNT - 4
    assert dropped(own) == {}


async def test_what_was_fetched_by_a_false_list_is_not_fetched_again_where_it_was_right(
    mesh: Mesh, autojump_clock: MockClock
) -> None:
    liar(mesh, "l1", lies_about=frozenset({COUNT - 1}))
    own = mesh.add("own")
    own.near = ["l1"]
    await interrupted(own, 7)
    mesh.away.add("l1")
    source = holder(mesh, "a")
    own.near = ["a"]
    assert await fetch(own)
    assert_whole(own)
    assert len(source.asked_chunks) <= COUNT - 7


async def test_a_disk_that_forgets_makes_nobody_a_liar(
    mesh: Mesh, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder(mesh, "a")
    own = mesh.add("own")
    own.near = ["a"]
    honest_write = PartialFile.write
    forgotten = [3, 7]

    def write(partial: PartialFile, number: int, data: bytes) -> None:
        if number in forgotten:
            forgotten.remove(number)
            data = bytes(len(data))
        honest_write(partial, number, data)

    monkeypatch.setattr(PartialFile, "write", write)
    assert await fetch(own)
    assert_whole(own)
    assert dropped(own) == {}
    monkeypatch.setattr(
        PartialFile, "write", lambda partial, number, data: honest_write(partial, number, bytes(len(data)))
    )
    own.store.remove(own.store.files()[0])
    with pytest.raises(UnavailableError) as caught:
        await fetch(own)
    assert caught.value.code == "node.patch.write_failed"
    assert dropped(own) == {}


async def test_a_full_disk_ends_the_fetch_and_keeps_what_came(
    mesh: Mesh, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder(mesh, "a")
    own = mesh.add("own")
    own.near = ["a"]
    honest_write = os.pwrite

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if offset == 5 * CHUNK_BYTES:
            raise OSError(28, "No space left on device")
        return honest_write(descriptor, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", pwrite)
        with pytest.raises(UnavailableError) as caught:
            await fetch(own)
    assert caught.value.code == "node.patch.write_failed"
    assert not own.store.has(FILE)
    assert await fetch(own)
    assert_whole(own)


async def test_no_file_is_begun_that_has_no_room(mesh: Mesh, autojump_clock: MockClock) -> None:
    source = holder(mesh, "a")
    own = mesh.add("own", bytes_max=len(CONTENT) - 1)
    own.near = ["a"]
    with pytest.raises(RejectedError) as caught:
        await fetch(own)
    assert caught.value.code == "node.patch.store_full"
    assert source.asked_chunks == []
    assert os.listdir(own.directory) == []


async def test_who_waits_for_the_same_file_gets_it_from_one_fetch(mesh: Mesh, autojump_clock: MockClock) -> None:
    source = holder(mesh, "a")
    own = mesh.add("own")
    own.near = ["a"]
    results = []

    async def wait() -> None:
        results.append(await fetch(own))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(wait)
    assert results == [True] * 5
    assert len(source.asked_chunks) == COUNT


async def test_a_damaged_file_is_removed_instead_of_served(mesh: Mesh, autojump_clock: MockClock) -> None:
    damaged = holder(mesh, "a")
    place = damaged.directory / FILE.hex()
    place.write_bytes(CONTENT[:-1] + b"?")
    holder(mesh, "b")
    own = mesh.add("own")
    own.near = ["a", "b"]
    assert await fetch(own)
    assert_whole(own)
    assert dropped(own) == {}
    assert not place.exists()


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("hosts", [1, 4, 20])
async def test_a_validators_work_does_not_grow_with_the_hosts(
    mesh: Mesh, autojump_clock: MockClock, hosts: int, is_known: bool
) -> None:
    validators = [mesh.add(f"v{number}", is_validator=True, places=2) for number in range(3)]
    for validator in validators:
        validator.store.put(CONTENT, FILE)
    crowd = [mesh.add(f"h{number}") for number in range(hosts)]
    for host in crowd:
        host.near = [other.name for other in crowd if is_known and other is not host]
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for host in crowd:
            nursery.start_soon(fetch, host)
    for host in crowd:
        assert_whole(host)
        assert dropped(host) == {}
    assert trio.current_time() - begun < 5, "nobody was left to wait for somebody who waits itself"
    assert sum(validator.sent for validator in validators) <= min(hosts, 2) * len(CONTENT)
    assert sum(bool(validator.sent) for validator in validators) == 1, "all hosts go to the same one first"


async def test_who_follows_a_host_that_looks_for_the_file_waits_for_it(mesh: Mesh, autojump_clock: MockClock) -> None:
    mesh.chunk_s = 2.0
    validator = mesh.add("v1", is_validator=True, places=2)
    validator.store.put(CONTENT, FILE)
    chain = [mesh.add(f"h{number}") for number in range(4)]
    for source, host in pairwise(chain):
        host.near, source.followers = [source.name], {host.key_id}
    asked = []
    honest_find = validator.find

    async def find(peer: KeyId, digest: Digest, address: str | None, *, is_stranded: bool) -> Found:
        asked.append(mesh.nodes[peer].name)
        return await honest_find(peer, digest, address, is_stranded=is_stranded)

    validator.find = find  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        for host in chain:
            nursery.start_soon(fetch, host)
    assert set(asked) == {"h0"}, "each of the others gets it from the one before, although that takes a while"
    assert validator.sent == len(CONTENT)


async def test_three_failures_in_a_second_are_no_reason_to_give_up(mesh: Mesh, autojump_clock: MockClock) -> None:
    mesh.add("v1", is_validator=True, places=2).store.put(CONTENT, FILE)
    mesh.away.add("v1")
    own = mesh.add("own")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch, own)
        await trio.sleep(5)
        assert own.fetcher.is_fetching(FILE)
        mesh.away.clear()
    assert_whole(own)
    mesh.away.add("v1")
    own.store.remove(own.store.files()[0])
    begun = trio.current_time()
    assert not await fetch(own)
    assert 10 < trio.current_time() - begun < 20, "nor to wait for long"


async def test_when_those_who_were_named_are_gone_validators_help_again(mesh: Mesh, autojump_clock: MockClock) -> None:
    validator = mesh.add("v1", is_validator=True, places=1)
    validator.store.put(CONTENT, FILE)
    assert await fetch(mesh.add("h0"))
    mesh.away.add("h0")
    own = mesh.add("h1")
    assert await fetch(own)
    assert_whole(own)
    assert validator.sent == 2 * len(CONTENT)


async def test_hosts_help_each_other_while_validators_refuse(mesh: Mesh, autojump_clock: MockClock) -> None:
    validator = mesh.add("v1", is_validator=True, places=0)
    validator.store.put(CONTENT, FILE)
    holder(mesh, "h0")
    own = mesh.add("h1")
    own.near = ["h0"]
    assert await fetch(own)
    assert_whole(own)
    assert validator.sent == 0


def test_what_was_written_survives_a_kill(tmp_path: Path) -> None:
    hasher = ChunkHasher()
    for number in range(COUNT):
        hasher.add(CONTENT[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES])
    digest, chunks = hasher.finish()
    (tmp_path / "content").write_bytes(CONTENT)
    script = """
import os, pathlib, signal, sys
from node.distribution.chunks import CHUNK_BYTES, ChunkHasher
from node.distribution.fetching import BUG, Neighbours
from node.distribution.partial import open_partial
place = pathlib.Path(sys.argv[1])
content = (place / "content").read_bytes()
hasher = ChunkHasher()
for begin in range(0, len(content), CHUNK_BYTES):
    hasher.add(content[begin : begin + CHUNK_BYTES])
digest, chunks = hasher.finish()
partial = open_partial(place, digest, len(content))
partial.follow(chunks)
for number in (0, 3, 11):
    partial.write(number, content[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES])
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).resolve().parents[2]
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=root, check=False, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    partial = open_partial(tmp_path, digest, len(CONTENT))
    assert partial.have == {0, 3, 11}
    assert partial.chunks == chunks
    partial.close()
