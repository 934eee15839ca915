"""Whatever peers do: a file is fetched while somebody honest has it, nobody honest is blamed, and nobody is asked for too much."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from node.distribution import plan as plan_module
from node.distribution.chunks import CHUNK_BYTES, ChunkList, count_chunks
from node.distribution.plan import (
    FINDS_AT_ONCE,
    PATIENCE_S,
    PIPELINE,
    Ask,
    FetchPlan,
    Found,
    Kind,
    State,
    Tier,
    Verdict,
)
from tests.testkit.sync import key_id_named
from wire.hashing import Digest, sha256
from wire.keys import KeyId

HONEST = ("here", "busy", "coming", "absent", "leaves", "forgets")
LIARS = ("false_chunk", "false_list", "false_root", "false_file")
DEAD = ("silent", "stalls", "refuses")
TIMEOUT_S = 10.0


@dataclass
class Peer:
    """One peer and how it behaves; ``here`` has the file from the beginning on, ``coming`` and ``busy`` after some time."""

    kind: str
    tier: Tier
    key_id: KeyId
    delay_s: float
    ready_s: float
    asked: int = 0
    chunks: int = 0
    in_flight: int = 0


@dataclass
class World:
    """A fetch of one file, by the clock of an event queue."""

    size: int
    peers: dict[KeyId, Peer]
    random: Random
    dropped: set[KeyId] = field(default_factory=set)
    content: dict[int, Digest] = field(default_factory=dict)
    chunks: int = 0
    """How many came."""

    def __post_init__(self) -> None:
        self.true = ChunkList(self.size, tuple(sha256(b"true %d" % n) for n in range(count_chunks(self.size))))
        self.digest = self.true.digests[0] if len(self.true.digests) == 1 else sha256(b"the file")

    def false_list(self, peer: Peer) -> ChunkList:
        digests = list(self.true.digests)
        digests[peer.key_id[0] % len(digests)] = sha256(peer.key_id)
        return ChunkList(self.size, tuple(digests))

    def claimed(self, peer: Peer) -> ChunkList:
        return self.false_list(peer) if peer.kind in ("false_file", "false_list") else self.true

    def find(self, peer: Peer, now: float) -> Found | None:
        if peer.kind in ("silent", "refuses"):
            return None
        is_ready = now >= peer.ready_s
        if peer.kind == "absent" or (peer.kind == "leaves" and now > peer.ready_s):
            return Found(State.ABSENT, 0, None, ())
        root = self.claimed(peer).root
        if peer.kind == "false_root":
            root = sha256(b"no list has this root" + peer.key_id)
        if peer.kind == "busy" and not is_ready:
            return Found(State.BUSY, 0, root, ())
        if peer.kind == "coming" and not is_ready:
            return Found(State.COMING, min(int(now * 10), count_chunks(self.size)), None, ())
        return Found(State.HERE, len(self.true.digests), root, ())

    def chunk(self, peer: Peer, number: int) -> Digest:
        if peer.kind == "false_chunk":
            return sha256(b"rubbish")
        return self.claimed(peer).digests[number]

    def duration(self, peer: Peer, ask: Ask) -> float:
        if peer.kind == "silent" or (peer.kind == "stalls" and ask.kind is Kind.CHUNK):
            return TIMEOUT_S
        return peer.delay_s * self.random.uniform(0.5, 1.5)


def run(world: World) -> tuple[FetchPlan, float]:
    """Carry a fetch to its end; return the plan, and how many seconds it took."""
    now = 0.0
    plan = FetchPlan(key_id_named("own"), world.digest, world.size, now)
    for peer in world.peers.values():
        plan.add_peer(peer.key_id, peer.tier, now)
    queue: list[tuple[float, int, Ask]] = []
    order = count()
    while True:
        while (ask := plan.next(now)) is not None:
            peer = world.peers[ask.peer]
            assert ask.peer not in world.dropped, "who was dropped is asked again"
            if ask.kind is Kind.CHUNK:
                peer.in_flight += 1
                assert peer.in_flight <= PIPELINE
                assert ask.number not in plan.have
            heapq.heappush(queue, (now + world.duration(peer, ask), next(order), ask))
            assert sum(each.kind is Kind.FIND for _, _, each in queue) <= FINDS_AT_ONCE
        if plan.is_complete:
            if all(world.content[n] == digest for n, digest in enumerate(world.true.digests)):
                return plan, now
            world.dropped.update(plan.refute(now))
            queue.clear()
            for peer in world.peers.values():
                peer.in_flight = 0
            continue
        if plan.is_hopeless(now) or now > 20 * PATIENCE_S:
            return plan, now
        if queue and queue[0][0] <= now + 0.1:
            now, _, ask = heapq.heappop(queue)
            answer(world, plan, ask, now)
        else:
            now += 0.1


def answer(world: World, plan: FetchPlan, ask: Ask, now: float) -> None:
    peer = world.peers[ask.peer]
    if ask.kind is Kind.CHUNK:
        peer.in_flight -= 1
    if peer.kind in ("silent", "refuses") or (peer.kind == "stalls" and ask.kind is Kind.CHUNK):
        plan.note_failed(ask, now)
    elif peer.kind in ("leaves", "forgets") and now > peer.ready_s and ask.kind is not Kind.FIND:
        plan.note_failed(ask, now, is_busy=peer.kind == "forgets")
    elif ask.kind is Kind.FIND:
        found = world.find(peer, now)
        assert found is not None
        drop(world, peer, plan.note_found(ask.peer, found, now))
    elif ask.kind is Kind.LIST:
        chunks = world.true if peer.kind == "false_list" else world.claimed(peer)
        before = plan.chunks
        drop(world, peer, plan.note_list(ask.peer, chunks, now))
        if plan.chunks is not before and plan.chunks is not None:
            wanted = plan.chunks.digests
            plan.note_here({n for n, digest in world.content.items() if wanted[n] == digest})
    else:
        digest = world.chunk(peer, ask.number)
        world.chunks += 1
        assert plan.chunks is not None
        verdict = plan.judge(ask.peer, ask.number, digest, plan.chunks.length(ask.number))
        if verdict is Verdict.LIE:
            drop(world, peer, plan_module.FALSE_CHUNK)
        elif verdict is Verdict.IGNORE:
            plan.note_ignored(ask.peer, ask.number)
        else:
            world.content[ask.number] = digest
            peer.chunks += 1
            for slow in plan.note_stored(ask.peer, ask.number, now):
                assert world.peers[slow].in_flight


def drop(world: World, peer: Peer, code: str | None) -> None:
    if code is not None:
        assert peer.kind in LIARS, f"{peer.kind} was called a liar: {code}"
        world.dropped.add(peer.key_id)


@st.composite
def worlds(draw: st.DrawFn, kinds: tuple[str, ...] = HONEST + LIARS + DEAD) -> World:
    peers = {}
    for number in range(draw(st.integers(0, 9))):
        key_id = key_id_named(f"peer{number}")
        peers[key_id] = Peer(
            draw(st.sampled_from(kinds)),
            draw(st.sampled_from(tuple(Tier))),
            key_id,
            draw(st.sampled_from((0.001, 0.05, 1.0))),
            draw(st.floats(0, 20)),
        )
    size = draw(st.sampled_from((1, CHUNK_BYTES, CHUNK_BYTES + 1, 7 * CHUNK_BYTES, 40 * CHUNK_BYTES - 5)))
    return World(size, peers, Random(draw(st.integers(0, 1 << 16))))


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_who_is_honest_is_never_blamed_and_who_lied_is_never_asked_again(world: World) -> None:
    run(world)
    honest = {key_id for key_id, peer in world.peers.items() if peer.kind not in LIARS}
    assert not honest & world.dropped


@settings(max_examples=150, deadline=None)
@given(worlds(), st.sampled_from(tuple(Tier)), st.sampled_from(("here", "busy", "coming")), st.floats(0, 20))
def test_one_honest_peer_is_enough(world: World, tier: Tier, kind: str, ready_s: float) -> None:
    key_id = key_id_named("the honest one")
    world.peers[key_id] = Peer(kind, tier, key_id, 0.01, ready_s)
    plan, _ = run(world)
    assert plan.is_complete
    # A liar costs what it has made false, and what was under way when it was found out; a slow peer what others gave meanwhile.
    liars = sum(peer.kind in LIARS for peer in world.peers.values())
    assert world.chunks <= len(world.true.digests) + (liars + len(world.peers)) * (PIPELINE + 1)


@settings(max_examples=50, deadline=None)
@given(worlds(kinds=("absent", "silent", "refuses")))
def test_without_the_file_anywhere_a_fetch_ends(world: World) -> None:
    plan, seconds = run(world)
    assert not plan.is_complete
    # Nine at most, three at a time, each asked three times.
    assert seconds < 10 * TIMEOUT_S


@settings(max_examples=50, deadline=None)
@given(worlds(kinds=("here",)), st.integers(1, 5))
def test_while_hosts_have_the_file_no_validator_is_asked_for_a_chunk(world: World, hosts: int) -> None:
    for number in range(hosts):
        key_id = key_id_named(f"host{number}")
        world.peers[key_id] = Peer("here", Tier.NEAR, key_id, 0.01, 0)
    plan, _ = run(world)
    assert plan.is_complete
    assert not any(peer.chunks for peer in world.peers.values() if peer.tier is Tier.FIXED)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 9), st.booleans())
def test_hosts_go_to_one_validator_while_it_can_help(validators: int, is_busy: bool) -> None:
    world = World(5 * CHUNK_BYTES, {}, Random(1))
    for number in range(validators):
        key_id = key_id_named(f"v{number}")
        world.peers[key_id] = Peer("busy" if is_busy else "here", Tier.FIXED, key_id, 0.01, 2.0)
    plan, _ = run(world)
    asked = [peer for peer in world.peers.values() if peer.chunks]
    assert plan.is_complete
    assert len(asked) == 1
