"""A crowd of hosts that want one patch file at the same moment: what decides in `node.distribution`, on a network that is an event queue.

Plans and places are the real ones; a question, an answer and a chunk are events with random delays, an upload takes its sender's time, some
hosts die, some are slow, some lie. Nothing reads a clock, and chance comes from a seed: the same crowd gives the same figures everywhere.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from random import Random
from typing import Final

from node.distribution.chunks import CHUNK_BYTES, ChunkList
from node.distribution.limits import HOST_PLACES, VALIDATOR_PLACES
from node.distribution.places import Places
from node.distribution.plan import Ask, FetchPlan, Found, Kind, State, Tier, Verdict
from tests.testkit.sync import key_id_named
from wire.hashing import sha256
from wire.keys import KeyId

TIMEOUT_S: Final = 10.0
CHUNK_TIMEOUT_S: Final = 20.0
TICK_S: Final = 1.0
"""How often a host with nothing to do looks whether a pause is over."""
RETRY_S: Final = 30.0
"""After how long a host whose fetch has ended without the file begins again."""
FANOUT: Final = 8
FAR: Final = 16
SLOW_FACTOR: Final = 20
FALSE: Final = sha256(b"rubbish")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a crowd is like."""

    hosts: int
    chunks: int = 4
    validators: int = 4
    with_file: int = 1
    """Validators that have the file."""
    chunk_s: float = 0.1
    """How long an upload of one chunk takes."""
    is_tree: bool = True
    """Whether hosts follow each other; otherwise they know validators, and a few others by hearsay."""
    slow: float = 0.0
    """The share of hosts whose uploads take `SLOW_FACTOR` times as long; this and the next ones are shares of all hosts."""
    dead: float = 0.0
    """Answers nothing, from some moment of the first minute on."""
    false: float = 0.0
    """Claims the file, and sends something else after as long as an honest one would take, or nearly as long as anybody waits."""
    hoards: float = 0.0
    """Takes every place it can get, and gives nothing: it is `busy` for everybody."""
    hidden: float = 0.0
    """Can be reached by nobody."""
    seconds: float = 3600.0
    """When the simulation ends."""
    seed: int = 1


@dataclass(eq=False, slots=True)
class Peer:
    """One node of the crowd."""

    name: str
    key_id: KeyId
    kind: str
    places: Places
    chunk_s: float
    near: list[Peer] = field(default_factory=list)
    far: list[Peer] = field(default_factory=list)
    followers: set[KeyId] = field(default_factory=set)
    plan: FetchPlan | None = None
    have: set[int] = field(default_factory=set)
    has_file: bool = False
    begins: float = 0.0
    done_at: float | None = None
    dies_at: float = float("inf")
    free_at: float = 0.0
    ticking: bool = False
    dropped: set[KeyId] = field(default_factory=set)
    asked: set[KeyId] = field(default_factory=set)
    sent: int = 0
    finds: int = 0
    stranded: int = 0
    """How often it said so to a validator."""
    gave_up: int = 0

    @property
    def is_honest(self) -> bool:
        """Whether it wants the file, and would give it."""
        return self.kind in ("honest", "slow", "hidden")


class Crowd:
    """A crowd of the given shape, before the first question."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.random = Random(shape.seed)
        self.now = 0.0
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        names = (sha256(b"chunk %d" % number) for number in range(shape.chunks))
        self.size = (shape.chunks - 1) * CHUNK_BYTES + 1
        self.true = ChunkList(self.size, tuple(names))
        self.digest = self.true.digests[0] if shape.chunks == 1 else sha256(b"the file")
        self.validators = [self._make(f"v{each}", "validator", VALIDATOR_PLACES) for each in range(shape.validators)]
        for peer in self.validators[: shape.with_file]:
            peer.has_file = True
        self.hosts = [self._make(f"h{each}", self._kind(), HOST_PLACES) for each in range(shape.hosts)]
        self.peers = {peer.key_id: peer for peer in (*self.validators, *self.hosts)}
        self._settle()

    def run(self) -> None:
        """Let everybody fetch until all honest hosts have the file, or the time is over."""
        for host in self.hosts:
            # The block that makes hosts want the file comes to a host from one that it follows.
            host.begins = max((source.begins for source in host.near), default=0.0) + self.random.uniform(0, 0.5)
            if host.kind != "false":
                self._at(host.begins, partial(self._begin, host))
        waiting = {host.key_id for host in self.hosts if host.is_honest}
        while self._events and self._events[0][0] <= self.shape.seconds:
            self.now, _, event = heapq.heappop(self._events)
            event()
            if waiting:
                waiting -= {key_id for key_id in self._finished if key_id in waiting}
                self._finished.clear()
            if not waiting:
                return

    # -- figures ---------------------------------------------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        """Whether every honest host has the file."""
        return all(host.has_file for host in self.hosts if host.is_honest)

    def copies(self, peers: Iterable[Peer] | None = None) -> float:
        """Return what these have sent, all validators by default, in units of the file."""
        return sum(peer.sent for peer in (self.validators if peers is None else peers)) / self.shape.chunks

    def finds(self) -> int:
        """Return how often validators were asked for the file."""
        return sum(peer.finds for peer in self.validators)

    def last_s(self, share: float = 1.0) -> float:
        """Return when this share of all honest hosts had the file."""
        times = sorted(host.done_at for host in self.hosts if host.done_at is not None and host.is_honest)
        return times[min(len(times) - 1, int(len(times) * share))] if times else 0.0

    # -- how it is made --------------------------------------------------------------------------------------------

    def _make(self, name: str, kind: str, limit: int) -> Peer:
        chunk_s = self.shape.chunk_s * (SLOW_FACTOR if kind == "slow" else 1)
        peer = Peer(name, key_id_named(name), kind, Places(limit, is_rationed=kind == "validator"), chunk_s)
        if kind == "dead":
            peer.dies_at = self.random.uniform(0, 60)
        return peer

    def _kind(self) -> str:
        shape, draw = self.shape, self.random.random()
        for kind in ("slow", "dead", "false", "hoards", "hidden"):
            draw -= getattr(shape, kind)
            if draw < 0:
                return kind
        return "honest"

    def _settle(self) -> None:
        """Let each host follow two others that are nearer to validators, as far as there is any."""
        self._finished: list[KeyId] = []
        first = FANOUT * len(self.validators)
        open_hosts = [host for host in self.hosts if host.kind != "hidden"]
        for number, host in enumerate(self.hosts):
            above = [each for each in self.hosts[: number // FANOUT] if each.kind != "hidden"]
            if self.shape.is_tree and number >= first and above:
                sources = {
                    above[min(len(above) - 1, number // FANOUT - len(self.validators))],
                    self.random.choice(above),
                }
                host.near = sorted(sources, key=lambda each: each.key_id)
                for source in host.near:
                    source.followers.add(host.key_id)
            if open_hosts:
                host.far = self.random.choices(open_hosts, k=FAR)

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), event))

    # -- a host ----------------------------------------------------------------------------------------------------

    def _is_dead(self, peer: Peer) -> bool:
        return self.now >= peer.dies_at

    def _begin(self, host: Peer) -> None:
        plan = host.plan = FetchPlan(host.key_id, self.digest, self.size, self.now)
        if host.have:
            plan.resume(self.true)
            plan.note_here(host.have)
        for tier, peers in ((Tier.FIXED, self.validators), (Tier.NEAR, host.near), (Tier.FAR, host.far)):
            for peer in peers:
                self._add(host, peer.key_id, tier)
        self._pump(host)

    def _add(self, host: Peer, key_id: KeyId, tier: Tier) -> None:
        assert host.plan is not None
        if key_id not in host.dropped:
            host.plan.add_peer(key_id, tier, self.now)

    def _pump(self, host: Peer) -> None:
        plan = host.plan
        if plan is None or self._is_dead(host):
            return
        if plan.is_complete:
            self._end(host, has_file=True)
            return
        if plan.is_hopeless(self.now):
            host.gave_up += 1
            self._end(host, has_file=False)
            self._at(self.now + RETRY_S, partial(self._begin, host))
            return
        while (ask := plan.next(self.now)) is not None:
            self._send(host, plan, ask)
        if not host.ticking:
            host.ticking = True
            self._at(self.now + TICK_S, partial(self._tick, host))

    def _tick(self, host: Peer) -> None:
        host.ticking = False
        self._pump(host)

    def _end(self, host: Peer, *, has_file: bool) -> None:
        plan = host.plan
        assert plan is not None
        host.plan = None
        host.have = set(plan.have)
        if has_file:
            host.has_file, host.done_at = True, self.now
            self._finished.append(host.key_id)
        for key_id in plan.givers:
            places = self.peers[key_id].places
            places.done(self.digest, host.key_id, chunks=self.shape.chunks, has_file=has_file, now=self.now)

    def _send(self, host: Peer, plan: FetchPlan, ask: Ask) -> None:
        """Let a question arrive at a peer, and its answer come back."""
        assert ask.peer not in host.dropped, "who was dropped is asked again"
        peer = self.peers[ask.peer]
        host.asked.add(ask.peer)
        if peer.kind == "validator":
            peer.finds += ask.kind is Kind.FIND
            host.stranded += ask.is_stranded
        there = self.now + self.random.uniform(0.005, 0.1)
        if self._is_dead(peer) or peer.kind == "hidden":
            limit_s = CHUNK_TIMEOUT_S if ask.kind is Kind.CHUNK else TIMEOUT_S
            self._at(self.now + limit_s, partial(self._fail, host, plan, ask, is_late=True))
        elif ask.kind is Kind.FIND:
            self._at(there, partial(self._answer_find, host, plan, ask, peer))
        else:
            self._at(there, partial(self._answer, host, plan, ask, peer))

    # -- the peer --------------------------------------------------------------------------------------------------

    def _answer_find(self, host: Peer, plan: FetchPlan, ask: Ask, peer: Peer) -> None:
        """As `node.distribution.serving.PatchServer.find` does."""
        offers = partial(peer.places.others, self.digest, host.key_id, self.now)
        root = self.true.root
        if peer.kind == "false":
            found = Found(State.HERE, self.shape.chunks, root, ())
        elif peer.kind == "hoards":
            found = Found(State.BUSY, self.shape.chunks, root, ())
        elif peer.has_file:
            address = None if host.kind == "hidden" else host.name
            may = peer.places.ask(
                self.digest,
                host.key_id,
                address,
                chunks=self.shape.chunks,
                is_stranded=ask.is_stranded,
                now=self.now,
            )
            found = Found(State.HERE if may else State.BUSY, self.shape.chunks, root, offers())
        elif peer.plan is not None and peer.plan.givers:
            found = Found(State.COMING, len(peer.plan.have), None, offers())
        elif peer.plan is not None and host.key_id in peer.followers:
            found = Found(State.COMING, 0, None, offers())
        else:
            found = Found(State.ABSENT, 0, None, offers())
        self._back(host, plan, partial(self._found, host, plan, ask, found))

    def _answer(self, host: Peer, plan: FetchPlan, ask: Ask, peer: Peer) -> None:
        if peer.kind == "false" and ask.kind is Kind.CHUNK:
            takes_s = self.random.choice((peer.chunk_s, CHUNK_TIMEOUT_S - 1))
            self._at(self.now + takes_s, partial(self._received, host, plan, ask, FALSE))
            return
        if peer.kind == "false":
            self._back(host, plan, partial(self._listed, host, plan, ask))
            return
        takes = peer.places.spend if ask.kind is Kind.CHUNK else peer.places.renew
        if not takes(self.digest, host.key_id, self.now):
            self._back(host, plan, partial(self._fail, host, plan, ask, is_busy=True))
            return
        if ask.kind is Kind.LIST:
            self._back(host, plan, partial(self._listed, host, plan, ask))
            return
        peer.sent += 1
        peer.free_at = max(peer.free_at, self.now) + peer.chunk_s
        if peer.free_at - self.now > CHUNK_TIMEOUT_S:
            self._at(self.now + CHUNK_TIMEOUT_S, partial(self._fail, host, plan, ask, is_late=True))
        else:
            self._at(peer.free_at, partial(self._received, host, plan, ask, self.true.digests[ask.number]))

    def _back(self, host: Peer, plan: FetchPlan, event: Callable[[], None]) -> None:
        self._at(self.now + self.random.uniform(0.005, 0.1), event)

    # -- what became of it -----------------------------------------------------------------------------------------

    def _fail(self, host: Peer, plan: FetchPlan, ask: Ask, *, is_busy: bool = False, is_late: bool = False) -> None:
        if host.plan is plan:
            plan.note_failed(ask, self.now, is_busy=is_busy, is_late=is_late)
            self._pump(host)

    def _found(self, host: Peer, plan: FetchPlan, ask: Ask, found: Found) -> None:
        if host.plan is not plan:
            return
        code = plan.note_found(ask.peer, found, self.now)
        assert code is None, "nobody lies about roots here"
        for name in found.offers:
            self._add(host, key_id_named(name), Tier.NAMED)
        self._pump(host)

    def _listed(self, host: Peer, plan: FetchPlan, ask: Ask) -> None:
        if host.plan is plan:
            assert plan.note_list(ask.peer, self.true, self.now) is None
            self._pump(host)

    def _received(self, host: Peer, plan: FetchPlan, ask: Ask, digest: bytes) -> None:
        if host.plan is not plan:
            return
        verdict = plan.judge(ask.peer, ask.number, digest, self.true.length(ask.number))  # type: ignore[arg-type]
        if verdict is Verdict.LIE:
            assert self.peers[ask.peer].kind == "false", "somebody honest was blamed"
            host.dropped.add(ask.peer)
        elif verdict is Verdict.IGNORE:
            plan.note_ignored(ask.peer, ask.number)
        else:
            plan.note_stored(ask.peer, ask.number, self.now)
        self._pump(host)
