"""Which chunk from whom next: the part of a fetch that decides, without I/O. Time is an argument.

::

    named    whom somebody has named for this file         asked first
    near     those this node follows                       asked like them: there is a connection already
    fixed    configured peers and validators               asked when no host has the file, in an order that all hosts share
    far      other hosts that this node has heard of       asked when none of these helps: each costs a connection

A peer first says whether it has the file and under which root (`Found`). The root that most of them claim is chosen, one of them gives the
list, and each of them is asked for chunks, a few at a time. Hosts ask validators one after the other and not beyond the first that has the
file, so a validator's limit (`node.distribution.places`) holds for all validators together as long as nobody is stranded for long.

Nobody is blamed for what somebody else has said: a peer lies when it breaks its own word, and those who claimed a root lie together
when the whole does not hold. Source: docs/spec/network.md 9.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from node.distribution.chunks import ChunkList, count_chunks, single_chunk
from node.sync_slots import rank
from wire.hashing import Digest
from wire.keys import KeyId

SOURCES: Final = 3
"""Peers that chunks come from at a time; fewer for a small file."""
CHUNKS_PER_SOURCE: Final = 8
"""A further source is looked for with every so many chunks of the file."""
PIPELINE: Final = 2
"""Chunks that one peer is asked for at a time."""
FINDS_AT_ONCE: Final = 3
"""Peers that are asked at a time whether they have the file."""
CANDIDATES_MAX: Final = 128
"""Peers known for one file."""
CANDIDATE_FAILURES_MAX: Final = 3
"""A peer that has failed so often in a row is left alone for `REST_S`."""
SLOW_MAX: Final = 2
"""The same for one that was overtaken so often."""
REST_S: Final = 60.0
"""The same for one that has a place and the file, and does not give a chunk in time."""
FAR_WAIT_S: Final = 1.0
"""Without a source for so long, other hosts that this node has heard of are asked, too."""
OVERTAKE_S: Final = 2.0
"""What everything waits for is asked of another peer after this."""
FIND_WAIT_S: Final = 0.5
"""How long peers that have not answered yet are waited for when others have."""
STRANDED_S: Final = 10.0
"""Who has waited for so long without getting anything says so to validators."""
PATIENCE_S: Final = 60.0
PATIENCE_BYTES_PER_S: Final = 65_536
"""The same while hosts say that they are getting the file, or have no place just now: so long, and the file's time at this rate; after
twice as long a fetch gives up."""
NEXT_VALIDATOR_S: Final = 60.0
"""A stranded host asks one validator more after each such time."""
SOON_PAUSE_S: Final = 0.25
SOON_PAUSE_MAX_S: Final = 4.0
"""A host that is getting the file, or has no place, is asked again after a pause between these, twice as long each time."""
FIXED_PAUSE_S: Final = 1.0
LATER_PAUSE_S: Final = 5.0
LATER_PAUSE_MAX_S: Final = 60.0
"""The same for a validator without a place, and for anybody without the file."""
FALSE_LIST: Final = "node.patch.false_list"
"""A peer's list is not the one whose root it claimed, or the whole that it leads to is not the file."""
FALSE_CHUNK: Final = "node.patch.false_chunk"
"""A chunk is not what its sender has said it is."""
SLOW: Final = "node.patch.slow"
"""Others gave a chunk that this one had been asked for long before."""


class Tier(Enum):
    """How a peer is known."""

    NAMED = 0
    """Somebody has named it for this file."""
    NEAR = 1
    """This node follows it."""
    FIXED = 2
    """It is configured, or a validator."""
    FAR = 3
    """This node has heard of it while it looked for somebody to follow."""


class State(Enum):
    """What a peer says about the file."""

    HERE = "here"
    """It has it, and has a place for the asker."""
    BUSY = "busy"
    """It has it, and has no place."""
    COMING = "coming"
    """It is getting it."""
    ABSENT = "absent"
    """It does not have it."""


class Kind(Enum):
    """What a peer is asked for."""

    FIND = "find"
    LIST = "list"
    CHUNK = "chunk"


class Verdict(Enum):
    """What becomes of a chunk."""

    KEEP = "keep"
    IGNORE = "ignore"
    """It is here already, or belongs to another list than the one that is followed now."""
    LIE = "lie"


@dataclass(frozen=True, slots=True)
class Found:
    """A peer's answer to the question for the file."""

    state: State
    progress: int
    """How many chunks it has, where it is getting the file."""
    root: Digest | None
    """What it says the list's root is, where it has the file."""
    offers: tuple[str, ...]
    """Addresses of others that may have it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to one peer. The plan counts on an answer, or a word about why there is none."""

    peer: KeyId
    kind: Kind
    number: int = 0
    """The chunk, counted from 0."""
    is_stranded: bool = False
    """Whether to say that nobody else has helped."""


@dataclass(slots=True)
class _Peer:
    key_id: KeyId
    tier: Tier
    order: tuple[int, bytes]
    state: State | None = None
    """What it said last; None before that, and after it has failed."""
    root: Digest | None = None
    """What it said last that the root is. Kept whatever happens later: it may prove to be a lie."""
    not_before: float = 0.0
    pauses: int = 0
    failures: int = 0
    slow: int = 0
    is_out: bool = False
    """Whether it is left alone for the rest of this fetch: it has lied, nearly always."""
    has_hope: bool = False
    """Whether it said last that it has the file, or is getting it."""
    was_asked: bool = False
    asked_at: float | None = None
    """Since when it has been asked for the file; None when it is not."""
    pressed_at: float = float("-inf")
    """When it was last told that nobody else has helped."""
    listing: bool = False
    chunks: dict[int, float] = field(default_factory=dict)
    """The chunks it is being asked for, and since when."""

    @property
    def gives(self) -> bool:
        """Whether it has the file and a place for this node."""
        return self.state is State.HERE and not self.is_out


class FetchPlan:
    """The plan for one file.

    Args:
        own: This node.
        digest: SHA-256 of the file, as the ledger says.
        size: Its bytes, as the ledger says.
        now: Seconds.
    """

    def __init__(self, own: KeyId, digest: Digest, size: int, now: float) -> None:
        self._own = own
        self._digest = digest
        self._size = size
        self._count = count_chunks(size)
        self._peers: dict[KeyId, _Peer] = {}
        self._single = single_chunk(size, digest)
        self._list = self._single
        self._root: Digest | None = None if self._single is None else self._single.root
        self._have: set[int] = set()
        self._wanted: set[int] = set(range(self._count))
        """Chunks that are neither here nor asked for."""
        self._asked: dict[int, set[KeyId]] = {}
        self._refuted: set[Digest] = set()
        self._refuted_at = now
        self._first_here_at: float | None = None
        self._progress_at = now
        """When a chunk came last."""
        self._hope_at = now
        """When a host said last that it is getting the file, or has it and no place."""
        self._stranded_at: float | None = None
        """Since when nobody has helped."""
        self._patience_s = PATIENCE_S + size / PATIENCE_BYTES_PER_S

    # -- what is known ---------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many chunks the file has."""
        return self._count

    @property
    def chunks(self) -> ChunkList | None:
        """The list that is followed now."""
        return self._list

    @property
    def have(self) -> frozenset[int]:
        """The chunks that are here."""
        return frozenset(self._have)

    @property
    def is_complete(self) -> bool:
        """Whether every chunk of the list is here."""
        return len(self._have) == self._count

    @property
    def givers(self) -> tuple[KeyId, ...]:
        """Who gives this node a place now."""
        return tuple(peer.key_id for peer in self._peers.values() if peer.gives)

    def add_peer(self, key_id: KeyId, tier: Tier, now: float) -> bool:
        """Let the plan ask this peer, too; return False when it is known already, or there are too many.

        Somebody who did not have the file and is named for it now is asked again soon.
        """
        known = self._peers.get(key_id)
        if known is not None and tier is Tier.NAMED and known.state is State.ABSENT:
            known.not_before = min(known.not_before, now + SOON_PAUSE_S)
        if key_id == self._own or known is not None or len(self._peers) >= CANDIDATES_MAX:
            return False
        # Every host asks the same validator first; the rest of a host's order is its own.
        asker = KeyId(self._digest) if tier is Tier.FIXED else self._own
        self._peers[key_id] = _Peer(key_id, tier, (tier.value, rank(asker, key_id)))
        return True

    def resume(self, chunks: ChunkList) -> None:
        """Go on with the list that an earlier fetch has followed; only before the first question."""
        if self._single is None:
            self._follow(chunks)

    def note_here(self, numbers: Iterable[int]) -> None:
        """Take note that these chunks are here already and are what the list says."""
        self._have.update(numbers)
        self._wanted -= self._have

    def note_lost(self, numbers: Iterable[int]) -> None:
        """Take note that these chunks are not here after all: what the disk gives back is not what was written."""
        self._have.difference_update(numbers)
        self._wanted = set(range(self._count)) - self._have - self._asked.keys()

    def abandon(self) -> None:
        """Forget what is under way: nobody will say what became of it."""
        for peer in self._peers.values():
            peer.asked_at, peer.listing = None, False
            for number in tuple(peer.chunks):
                self._unask(peer, number)

    def is_stranded(self, now: float) -> bool:
        """Return whether nobody has helped for a while."""
        if any(peer.chunks for peer in self._peers.values()):
            return False
        waited = now - self._progress_at
        return waited > self._patience_s or (waited > STRANDED_S and now - self._hope_at > STRANDED_S)

    def is_hopeless(self, now: float) -> bool:
        """Return whether to give up: nobody has the file, or nothing has come for too long."""
        if self.is_complete:
            return False
        if now - self._progress_at > 2 * self._patience_s:
            return True
        # Three failures may be over in a second, as those of a machine that is about to start or has too much to do.
        is_late = now - self._progress_at > STRANDED_S
        return all(
            peer.is_out
            or (
                not peer.has_hope
                and (
                    (peer.failures >= CANDIDATE_FAILURES_MAX and is_late)
                    or (peer.state is State.ABSENT and peer.asked_at is None)
                )
            )
            for peer in self._peers.values()
        )

    # -- what to do ------------------------------------------------------------------------------------------------

    def next(self, now: float) -> Ask | None:
        """Return the next question, which counts as asked now; None while there is nothing to ask."""
        self._choose_root(now)
        return self._next_find(now) or self._next_list() or self._next_chunk(now)

    def _next_find(self, now: float) -> Ask | None:
        asking = sum(peer.asked_at is not None for peer in self._peers.values())
        if asking >= FINDS_AT_ONCE:
            return None
        wanted = min(SOURCES, 1 + self._count // CHUNKS_PER_SOURCE)
        usable = sum(peer.gives and self._is_followed(peer) for peer in self._peers.values())
        is_stranded = self.is_stranded(now)
        if not is_stranded:
            self._stranded_at = None
        elif self._stranded_at is None:
            self._stranded_at = now
        if usable >= wanted and not is_stranded:
            return None
        hosts = [each for each in self._peers.values() if each.tier in (Tier.NAMED, Tier.NEAR)]
        hosts.sort(key=lambda each: (each.was_asked, each.failures, each.order))
        host = next((each for each in hosts if _may_be_asked(each, now)), None)
        fixed = self._next_fixed(hosts, now, is_stranded, usable) if host is None or self._refuted else None
        peer = fixed or host or (None if usable else self._next_far(now))
        if peer is None:
            return None
        peer.asked_at, peer.was_asked = now, True
        if is_stranded:
            peer.pressed_at = now
        return Ask(peer.key_id, Kind.FIND, is_stranded=is_stranded)

    def _next_fixed(self, hosts: list[_Peer], now: float, is_stranded: bool, usable: int) -> _Peer | None:
        """Return the validator to ask, if it is their turn: the first in order, or one behind those that cannot help."""
        is_turn = is_stranded or bool(self._refuted)
        if not is_turn:
            if usable:
                return None
            for host in hosts:
                is_quick = host.asked_at is not None and now - host.asked_at <= FIND_WAIT_S
                if is_quick or not (host.was_asked or host.is_out):
                    return None
                if not host.is_out and host.state in (State.COMING, State.BUSY, State.HERE):
                    return None
        validators = [each for each in self._peers.values() if each.tier is Tier.FIXED and not each.is_out]
        # Those that have failed come behind the others: they must not take the turns of one that answers.
        more = 0 if self._stranded_at is None else int((now - self._stranded_at) / NEXT_VALIDATOR_S)
        for peer in sorted(validators, key=lambda each: (each.failures, each.order)):
            # Whoever was asked before this node was stranded is told at once; after that with the pauses of any other answer.
            is_news = is_stranded and not peer.failures and peer.pressed_at < (self._stranded_at or now)
            is_due = peer.not_before <= now or is_news
            if is_due and not peer.gives and peer.asked_at is None:
                return peer
            is_able = peer.asked_at is not None or peer.state not in (None, State.ABSENT)
            if is_able and not self._refuted:
                if not more:
                    return None  # Those behind it are asked only if it cannot help, or has not for too long.
                more -= 1
        return None

    def _next_far(self, now: float) -> _Peer | None:
        """Return one of the other hosts, if nobody else has helped for a while, or nobody else can."""
        is_alone = all(
            peer.is_out or (peer.was_asked and peer.asked_at is None and not peer.has_hope)
            for peer in self._peers.values()
            if peer.tier is not Tier.FAR
        )
        if not is_alone and now - max(self._progress_at, self._hope_at) <= FAR_WAIT_S:
            return None
        far = [each for each in self._peers.values() if each.tier is Tier.FAR and _may_be_asked(each, now)]
        return min(far, key=lambda each: (each.was_asked, each.failures, each.order), default=None)

    def _choose_root(self, now: float) -> None:
        """Settle on whose word about the chunks to follow."""
        if self._single is not None:
            return
        claims: dict[Digest, list[_Peer]] = {}
        for peer in self._peers.values():
            if peer.gives and peer.root is not None and peer.root not in self._refuted:
                claims.setdefault(peer.root, []).append(peer)
        if not claims or self._root in claims:
            return
        if any(each.chunks for each in self._peers.values()):
            return  # What is under way was asked for by the present list.
        assert self._first_here_at is not None, "somebody has claimed a root"
        is_asking = any(each.asked_at is not None for each in self._peers.values())
        if is_asking and now - max(self._first_here_at, self._refuted_at) < FIND_WAIT_S:
            return

        def weight(root: Digest) -> tuple[bool, int, bytes]:
            # Once somebody has lied, what a validator says counts for more than what many say.
            fixed = any(each.tier is Tier.FIXED and each.root == root for each in self._peers.values())
            return fixed and bool(self._refuted), len(claims[root]), bytes(root)

        self._root = max(claims, key=weight)

    def _next_list(self) -> Ask | None:
        if self._root is None or (self._list is not None and self._list.root == self._root):
            return None
        givers = [peer for peer in self._peers.values() if peer.gives and peer.root == self._root]
        if not givers or any(peer.listing for peer in givers):
            return None
        peer = min(givers, key=lambda each: (each.failures, each.order))
        peer.listing = True
        return Ask(peer.key_id, Kind.LIST)

    def _next_chunk(self, now: float) -> Ask | None:
        if self._list is None or self._list.root != self._root:
            return None
        free = [
            peer
            for peer in self._peers.values()
            if peer.gives and self._is_followed(peer) and len(peer.chunks) < PIPELINE and peer.not_before <= now
        ]
        if not free:
            return None
        peer = min(free, key=lambda each: (len(each.chunks), each.slow, each.order))
        number = min(self._wanted, default=None) if self._wanted else self._overdue(peer, now)
        if number is None:
            return None
        self._wanted.discard(number)
        self._asked.setdefault(number, set()).add(peer.key_id)
        peer.chunks[number] = now
        return Ask(peer.key_id, Kind.CHUNK, number)

    def _overdue(self, peer: _Peer, now: float) -> int | None:
        """Return a chunk for which another peer alone has been asked for too long."""
        for number, askers in sorted(self._asked.items()):
            if number not in self._have and len(askers) == 1 and peer.key_id not in askers:
                (other,) = askers
                if now - self._peers[other].chunks[number] > OVERTAKE_S:
                    return number
        return None

    # -- what became of it -----------------------------------------------------------------------------------------

    def note_found(self, key_id: KeyId, found: Found, now: float) -> str | None:
        """Take a peer's answer; return a code if it is a lie, after which the peer is out."""
        peer = self._peers[key_id]
        peer.asked_at = None
        if found.root is not None and (
            found.root in self._refuted or (self._single is not None and found.root != self._single.root)
        ):
            self.note_lie(key_id)
            return FALSE_LIST
        if found.root is not None:
            peer.root = found.root
        peer.state = found.state
        peer.has_hope = found.state is not State.ABSENT
        if found.state is State.HERE:
            if found.root is None:
                self.note_lie(key_id)  # Whoever has a file knows its root.
                return FALSE_LIST
            if self._first_here_at is None:
                self._first_here_at = now
            return None
        if found.state in (State.COMING, State.BUSY) and peer.tier is not Tier.FIXED:
            self._hope_at = now  # In a crowd that is how waiting looks. How long it may go on, patience says.
        if found.state is State.ABSENT:
            self._pause(peer, now, LATER_PAUSE_S, LATER_PAUSE_MAX_S)
        elif peer.tier is Tier.FIXED:
            self._pause(peer, now, FIXED_PAUSE_S, LATER_PAUSE_MAX_S)
        else:
            self._pause(peer, now, SOON_PAUSE_S, SOON_PAUSE_MAX_S)
        return None

    def note_list(self, key_id: KeyId, chunks: ChunkList | None, now: float) -> str | None:
        """Take the list that a peer has sent, None when it has none any more; return a code if it lied.

        The list is followed from now on. Which chunks are here by it, the caller finds out (`note_here`) before it asks for the next one.
        """
        peer = self._peers[key_id]
        peer.listing = False
        if chunks is None:
            self._fail(peer, now)
            return None
        if chunks.root != peer.root or chunks.size != self._size:
            self.note_lie(key_id)
            return FALSE_LIST
        if chunks.root == self._root:
            self._follow(chunks)
        return None

    def judge(self, key_id: KeyId, number: int, digest: Digest, size: int) -> Verdict:
        """Return what becomes of a chunk with this SHA-256 and so many bytes. One to keep must be written, and then told to `note_stored`.

        A list may name the digest of a chunk of another length than its place in the file has: who claims such a list lies as well.
        """
        peer = self._peers[key_id]
        if self._list is None or not self._is_followed(peer):
            self._unask(peer, number)
            return Verdict.IGNORE
        if self._list.digests[number] != digest or self._list.length(number) != size:
            self._unask(peer, number)
            self.note_lie(key_id)
            return Verdict.LIE
        return Verdict.IGNORE if number in self._have else Verdict.KEEP

    def note_stored(self, key_id: KeyId, number: int, now: float) -> tuple[KeyId, ...]:
        """Take note that a chunk was written; return who has been asked for it before and is left alone for being slow."""
        peer = self._peers[key_id]
        begun = peer.chunks.get(number, now)
        self._unask(peer, number)
        peer.failures = peer.pauses = 0
        if number in self._have:
            return ()
        self._have.add(number)
        self._wanted.discard(number)
        self._progress_at = self._hope_at = now
        slow = []
        for other_id in self._asked.get(number, set()):
            other = self._peers[other_id]
            if other.chunks[number] < begun:
                other.slow += 1
                if other.slow == SLOW_MAX:
                    self._rest(other, now)
                    slow.append(other_id)
        return tuple(slow)

    def note_ignored(self, key_id: KeyId, number: int) -> None:
        """Take note that a chunk came which is not needed."""
        self._unask(self._peers[key_id], number)

    def note_failed(self, ask: Ask, now: float, *, is_busy: bool = False, is_late: bool = False) -> bool:
        """Take note that a question brought nothing; return whether the peer is left alone for a while now.

        Args:
            ask: The question.
            now: Seconds.
            is_busy: Whether the peer has said that it has no place any more.
            is_late: Whether it has not answered in time.
        """
        peer = self._peers[ask.peer]
        if ask.kind is Kind.FIND:
            peer.asked_at = None
        elif ask.kind is Kind.LIST:
            peer.listing = False
        else:
            self._unask(peer, ask.number)
        if is_busy:
            peer.state = State.BUSY
            self._pause(peer, now, SOON_PAUSE_S, SOON_PAUSE_MAX_S)
            return False
        was_resting = peer.not_before - now > LATER_PAUSE_S
        self._fail(peer, now)
        if ask.kind is Kind.FIND:
            # With longer and longer pauses: it may be the only one that has the file.
            return peer.failures == CANDIDATE_FAILURES_MAX
        if (is_late and ask.kind is Kind.CHUNK) or peer.failures >= CANDIDATE_FAILURES_MAX:
            self._rest(peer, now)
            return not was_resting
        return False

    def note_lie(self, key_id: KeyId) -> None:
        """Leave a peer alone: it broke its word."""
        self.leave_out(key_id)

    def leave_out(self, key_id: KeyId) -> None:
        """Ask a peer nothing more in this fetch."""
        self._peers[key_id].is_out = True

    def refute(self, now: float) -> tuple[KeyId, ...]:
        """Take note that the whole is not the file; return all who claimed the root that led there, and who are out now."""
        assert self._root is not None, "there was a list"
        self.abandon()
        liars = [peer for peer in self._peers.values() if peer.root == self._root]
        for peer in liars:
            peer.is_out = True
        self._refuted.add(self._root)
        self._refuted_at = self._progress_at = self._hope_at = now
        self._root = None if self._single is None else self._single.root
        self._have.clear()
        self._wanted = set(range(self._count))
        return tuple(peer.key_id for peer in liars)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _is_followed(self, peer: _Peer) -> bool:
        return self._root is not None and peer.root == self._root

    def _follow(self, chunks: ChunkList) -> None:
        self._list, self._root = chunks, chunks.root
        self._have.clear()
        self._wanted = set(range(self._count)) - self._asked.keys()

    def _unask(self, peer: _Peer, number: int) -> None:
        peer.chunks.pop(number, None)
        askers = self._asked.get(number)
        if askers is not None:
            askers.discard(peer.key_id)
            if not askers:
                del self._asked[number]
                if number not in self._have:
                    self._wanted.add(number)

    def _fail(self, peer: _Peer, now: float) -> None:
        peer.state = None
        peer.failures += 1
        self._pause(peer, now, SOON_PAUSE_S, REST_S)

    @staticmethod
    def _rest(peer: _Peer, now: float) -> None:
        peer.state = None
        peer.not_before = now + REST_S

    @staticmethod
    def _pause(peer: _Peer, now: float, least_s: float, most_s: float) -> None:
        peer.not_before = now + min(least_s * (1 << min(peer.pauses, 16)), most_s)
        peer.pauses += 1


def _may_be_asked(peer: _Peer, now: float) -> bool:
    """Return whether to ask the peer for the file: it is not giving already, nor being asked, and its pause is over."""
    return not peer.is_out and not peer.gives and peer.asked_at is None and peer.not_before <= now
