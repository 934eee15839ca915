"""Whole clusters of replicas in one process, from one seed: simulated disks and network, and what must hold after every event.

The cluster is a driver that keeps the contract of `consensus/effects.py` to the letter, with a ledger that checks hash links and can be
told to refuse blocks. Every message is encoded and decoded on its way.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from consensus.config import Config, Role, Stored
from consensus.core import Replica
from consensus.effects import (
    Effects,
    EntriesRefused,
    Event,
    HardState,
    Outgoing,
    PeerReachable,
    PeerUnreachable,
    Persist,
    Persisted,
    Propose,
    Received,
    Tick,
)
from consensus.errors import ProposalRefusedError
from consensus.messages import AppendReply, Entry, NodeId, RequestVote, Vote, decode_message_untrusted, encode_message
from wire.certificate import (
    CommitCertificate,
    acknowledgement_message,
    majority,
    verify_commit_certificate,
    verify_election_certificate,
    vote_message,
)
from wire.codec import decode_untrusted, encode
from wire.hashing import Digest, sha256
from wire.keys import Algorithm, PrivateKey, private_key_from_seed

CHAIN_ID = "sim"
GENESIS = sha256(b"genesis")

_KEYS = [private_key_from_seed(Algorithm.ED25519, sha256(b"validator %d" % index)) for index in range(9)]


def sim_keys(count: int) -> list[PrivateKey]:
    """Return `count` fixed node keys, ascending by node id, so that index order is id order."""
    return sorted(_KEYS[:count], key=lambda key: key.public_key.key_id)


def make_entry(term: int, height: int, prev_hash: Digest, payload: bytes = b"") -> Entry:
    """Return a block whose hash covers its position, its parent and its payload."""
    data = encode((term, height, prev_hash, payload))
    return Entry(term, height, sha256(data), data)


def make_chain(
    terms: list[int], prev_hash: Digest = GENESIS, first_height: int = 1, payload: bytes = b""
) -> list[Entry]:
    """Return linked blocks with these terms."""
    entries: list[Entry] = []
    for height, term in enumerate(terms, first_height):
        entries.append(make_entry(term, height, prev_hash, payload))
        prev_hash = entries[-1].block_hash
    return entries


def prev_hash_of(entry: Entry) -> Digest:
    """Return the parent's hash that a block of `make_entry` names."""
    value = decode_untrusted(entry.data, bytes_max=2**24)
    assert isinstance(value, tuple)
    assert isinstance(value[2], bytes)
    return Digest(value[2])


class SimDisk:
    """What survives a crash; serves as the replica's log reader."""

    def __init__(self) -> None:
        self.log: list[Entry] = []
        self.hard_state = HardState()
        self.commit_height = 0
        self.certificates: dict[int, CommitCertificate] = {}
        self.first_height = 1

    @property
    def last_height(self) -> int:
        return len(self.log)

    @property
    def last_hash(self) -> Digest:
        return self.log[-1].block_hash if self.log else GENESIS

    @property
    def position(self) -> tuple[int, int]:
        return (self.log[-1].term if self.log else 0, len(self.log))

    def entry(self, height: int) -> Entry:
        return self.log[height - 1]

    def entries(self, low: int, high: int, bytes_max: int) -> tuple[Entry, ...]:
        assert 1 <= low <= high <= len(self.log)
        found: list[Entry] = []
        size = 0
        for entry in self.log[low - 1 : high]:
            size += len(entry.data)
            if found and size > bytes_max:
                break
            found.append(entry)
        return tuple(found)

    def term_and_hash(self, height: int) -> tuple[int, Digest]:
        if height == 0:
            return 0, GENESIS
        entry = self.log[height - 1]
        return entry.term, entry.block_hash

    def find_certificate(self, height_max: int) -> CommitCertificate | None:
        heights = [height for height in self.certificates if height <= height_max]
        return self.certificates[max(heights)] if heights else None

    def stored(self) -> Stored:
        return Stored(self.hard_state, self.commit_height, self.find_certificate(self.commit_height))

    def write(self, persist: Persist, *, with_entries: bool = True) -> None:
        if persist.hard_state is not None:
            assert persist.hard_state.term >= self.hard_state.term, "the term never falls"
            self.hard_state = persist.hard_state
        if with_entries:
            if persist.truncate_from is not None:
                assert persist.truncate_from > self.commit_height, "nothing committed is truncated"
                del self.log[persist.truncate_from - 1 :]
            for entry in persist.entries:
                assert entry.height == len(self.log) + 1
                assert prev_hash_of(entry) == self.last_hash
                self.log.append(entry)


@dataclass
class Write:
    """A persist under way."""

    persist: Persist | None
    messages: tuple[Outgoing, ...]


class SimNode:
    """One replica with its disk and its writer."""

    def __init__(self, cluster: Cluster, index: int) -> None:
        self.cluster = cluster
        self.index = index
        self.key = cluster.keys[index]
        self.id: NodeId = self.key.public_key.key_id
        self.disk = SimDisk()
        self.alive = False
        self.writes: deque[Write] = deque()
        self.alarms: list[str] = []
        self.applied: list[Entry] = []
        self.refuses: Callable[[Entry], bool] = lambda entry: False
        self.moody = 0.0
        self.acknowledged: tuple[int, int] = (0, 0)
        self.votes: dict[int, tuple[NodeId, int, int, Digest]] = {}
        self.requests: dict[tuple[NodeId, int], tuple[int, int, Digest]] = {}
        self.made: set[Digest] = set()
        self.replica: Replica

    def start(self) -> None:
        config = Config(
            chain_id=CHAIN_ID,
            node_id=self.id,
            key=self.key,
            validators=tuple(key.public_key for key in self.cluster.keys),
            **self.cluster.options,
        )
        self.replica = Replica(config, self.disk.stored(), self.disk, self.cluster.random.randrange)
        self.alive = True
        self.writes.clear()

    def crash(self) -> None:
        """Lose everything that is not on disk; the write under way may have reached it all the same."""
        if self.writes and self.cluster.random.random() < 0.5:
            write = self.writes[0].persist
            if write is not None and not self._stands_upon_refused(write):
                if not any(self._refuses(entry) for entry in write.entries):
                    self._write(write, with_entries=True)
        self.alive = False
        self.writes.clear()

    def step(self, event: Event) -> Effects:
        before = self.replica.status.commit_height
        effects = self.replica.step(event)
        self._carry_out(effects, before)
        self.cluster.check_node(self)
        return effects

    def finish_write(self) -> None:
        """Execute and write the oldest persist, and report it."""
        write = self.writes.popleft()
        persist = write.persist
        assert persist is not None
        refused: Entry | None = None
        good: list[Entry] = []
        if self._stands_upon_refused(persist):
            # Upon a refused block: dropped without a report of its own.
            self._write(persist, with_entries=False)
            self._report()
            return
        for entry in persist.entries:
            if self._refuses(entry):
                refused = entry
                break
            good.append(entry)
        if refused is None:
            self._write(persist, with_entries=True)
            for outgoing in write.messages:
                self.cluster.post(self, outgoing)
            self._report()
            return
        if persist.truncate_from is None:
            self._write(Persist(persist.hard_state, None, tuple(good)), with_entries=True)
        else:
            self._write(persist, with_entries=False)
        # What stands upon it and came out before the report goes with it: the next writes find their parent missing.
        self._report()
        self.step(EntriesRefused(refused.height, refused.block_hash, "sim.refused"))

    def _stands_upon_refused(self, persist: Persist) -> bool:
        if not persist.entries:
            return False
        parent = persist.entries[0].height - 1
        return parent > self.disk.last_height or prev_hash_of(persist.entries[0]) != self.disk.term_and_hash(parent)[1]

    def _refuses(self, entry: Entry) -> bool:
        if entry.block_hash in self.made:
            return False
        # A bad mood passes: like a clock that is behind and finds a block's time too far ahead.
        return self.refuses(entry) or (self.moody > 0 and self.cluster.random.random() < self.moody)

    def _report(self) -> None:
        self.step(Persisted(self.disk.last_height, self.disk.last_hash, self.disk.hard_state))

    def _write(self, persist: Persist, *, with_entries: bool) -> None:
        before = self.disk.position
        self.disk.write(persist, with_entries=with_entries)
        assert self.disk.position >= before, "the position of the log on disk never falls"
        if with_entries:
            for entry in persist.entries:
                self.cluster.note_durable(self, entry)

    def _carry_out(self, effects: Effects, commit_before: int) -> None:
        for outgoing in effects.send:
            self.cluster.post(self, outgoing)
        if effects.persist is not None:
            self.writes.append(Write(effects.persist, effects.send_after_persist))
        else:
            assert not effects.send_after_persist
        assert (effects.certificate is not None) == bool(effects.apply)
        for height, entry in enumerate(effects.apply, commit_before + 1):
            assert entry.height == height, "applied in order, each exactly once"
            assert self.disk.log[height - 1] == entry, "only durable blocks are applied"
            self.cluster.note_committed(self, entry)
        if effects.certificate is not None:
            assert effects.certificate.block_hash == effects.apply[-1].block_hash
            self.cluster.check_certificate(effects.certificate)
            self.disk.certificates[effects.certificate.height] = effects.certificate
            self.disk.commit_height = effects.certificate.height
            self.applied.extend(effects.apply)
        if effects.elected is not None:
            verify_election_certificate(effects.elected, CHAIN_ID, self.cluster.validators)
            assert effects.elected.last_hash == self.replica.status.last_hash
            self.cluster.note_elected(self, effects.elected.term)
        if effects.alarms:
            self.alarms.extend(effects.alarms)
            self.cluster.note_alarms(self, effects.alarms)


@dataclass
class Letter:
    """One message on its way."""

    sender: NodeId
    to: NodeId
    data: bytes


@dataclass
class Faults:
    """How often things go wrong; a swarm draws these per run."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    crash: float = 0.0
    partition: float = 0.0
    slow_disk: float = 0.0
    refusal: float = 0.0
    """How likely a follower's ledger refuses a block at each attempt."""


@dataclass
class Cluster:
    """Some nodes, the letters between them, and the book of what has happened."""

    size: int
    seed: int = 0
    options: dict[str, int] = field(default_factory=dict)
    expected_alarms: frozenset[str] = frozenset()
    """Codes of alarms that a test provokes; any other alarm is a failure."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.keys = sim_keys(self.size)
        self.validators = {key.public_key.key_id: key.public_key for key in self.keys}
        self.letters: list[Letter] = []
        self.cut: set[tuple[NodeId, NodeId]] = set()
        self.leaders: dict[int, NodeId] = {}
        self.committed: dict[int, Digest] = {}
        self.blocks: dict[tuple[int, int], Digest] = {}
        self.durable_ever: set[tuple[NodeId, Digest]] = set()
        self.checked_certificates: set[tuple[int, int, tuple[tuple[NodeId, bytes], ...]]] = set()
        self.events = 0
        self.nodes = [SimNode(self, index) for index in range(self.size)]
        self.by_id = {node.id: node for node in self.nodes}
        for node in self.nodes:
            node.start()

    # What happens

    def post(self, sender: SimNode, outgoing: Outgoing) -> None:
        message = outgoing.message
        assert outgoing.to != sender.id, "a node does not write to itself"
        match message:
            case Vote(term, True, voter, signature):
                assert sender.disk.hard_state == HardState(term, outgoing.to), "a vote is durable before it leaves"
                assert voter == sender.id
                basis = sender.requests[outgoing.to, term]
                signed = vote_message(CHAIN_ID, term, outgoing.to, *basis)
                assert signature is not None
                assert self.validators[voter].is_valid(signed, signature)
                self._note_vote(sender, term, (outgoing.to, *basis))
            case RequestVote():
                assert sender.disk.hard_state == HardState(message.term, sender.id), "a candidate's term is durable"
                assert (message.last_height, message.last_hash) == (sender.disk.last_height, sender.disk.last_hash)
                self._note_vote(
                    sender,
                    message.term,
                    (sender.id, message.last_term, message.last_height, message.last_hash),
                )
            case AppendReply():
                assert sender.disk.hard_state.term >= message.term, "the term is durable before an answer leaves"
                assert message.match_height <= sender.disk.last_height
                for acknowledgement in message.acknowledgements:
                    entry = sender.disk.log[acknowledgement.height - 1]
                    assert entry.block_hash == acknowledgement.block_hash, "only durable blocks are acknowledged"
                    assert entry.term == message.term, "only blocks of the current term are acknowledged"
                    signed = acknowledgement_message(CHAIN_ID, message.term, entry.height, entry.block_hash)
                    assert self.validators[sender.id].is_valid(signed, acknowledgement.signature)
                    sender.acknowledged = max(sender.acknowledged, (entry.term, entry.height))
            case _:
                pass
        self.letters.append(Letter(sender.id, outgoing.to, encode_message(message)))

    def deliver(self, index: int, *, keep: bool = False) -> None:
        letter = self.letters[index]
        if not keep:
            self._take(index)
        node = self.by_id[letter.to]
        if not node.alive or (letter.sender, letter.to) in self.cut:
            return
        message = decode_message_untrusted(letter.data)
        assert encode_message(message) == letter.data
        if isinstance(message, RequestVote):
            node.requests[letter.sender, message.term] = (message.last_term, message.last_height, message.last_hash)
        self.events += 1
        node.step(Received(message, letter.sender))

    def drop(self, index: int) -> None:
        self._take(index)

    def _take(self, index: int) -> None:
        # Ordered links in the usual case, so no swap with the last.
        del self.letters[index]

    def propose(self, node: SimNode, payload: bytes | None = None) -> bool:
        """Let `node` propose upon its last block if it leads and has room; return whether it did."""
        status = node.replica.status
        if payload is None:
            payload = self.random.randbytes(4)
        entry = make_entry(status.term, status.last_height + 1, status.last_hash, payload)
        try:
            node.step(Propose(entry))
        except ProposalRefusedError:
            assert node.replica.status == status, "a refused proposal changes nothing"
            return False
        node.made.add(entry.block_hash)
        return True

    def partition(self, side: set[NodeId], *, one_way: bool = False) -> None:
        for a in self.by_id:
            for b in self.by_id:
                if a in side and b not in side:
                    self.cut.add((a, b))
                    if not one_way:
                        self.cut.add((b, a))

    def heal(self) -> None:
        self.cut.clear()

    # What must hold

    def note_durable(self, node: SimNode, entry: Entry) -> None:
        known = self.blocks.setdefault((entry.term, entry.height), entry.block_hash)
        assert known == entry.block_hash, "log matching: one block per term and height"
        self.durable_ever.add((node.id, entry.block_hash))

    def note_committed(self, node: SimNode, entry: Entry) -> None:
        known = self.committed.setdefault(entry.height, entry.block_hash)
        assert known == entry.block_hash, f"state machine safety at height {entry.height}"

    def note_elected(self, node: SimNode, term: int) -> None:
        known = self.leaders.setdefault(term, node.id)
        assert known == node.id, f"election safety in term {term}"
        for height, block_hash in self.committed.items():
            assert node.disk.log[height - 1].block_hash == block_hash, "leader completeness"

    def note_alarms(self, node: SimNode, alarms: tuple[str, ...]) -> None:
        codes = {alarm.split(":")[0] for alarm in alarms}
        assert codes <= self.expected_alarms, alarms

    def _note_vote(self, voter: SimNode, term: int, vote: tuple[NodeId, int, int, Digest]) -> None:
        known = voter.votes.setdefault(term, vote)
        assert known == vote, "one vote in a term, for one candidate with one log"
        assert (vote[1], vote[2]) >= voter.acknowledged, "no vote for a log that ends below what was acknowledged"

    def check_certificate(self, certificate: CommitCertificate) -> None:
        key = (certificate.term, certificate.height, certificate.signatures)
        if key in self.checked_certificates:
            return
        self.checked_certificates.add(key)
        verify_commit_certificate(certificate, CHAIN_ID, self.validators)
        holders = sum((node.id, certificate.block_hash) in self.durable_ever for node in self.nodes)
        assert holders >= majority(self.size), "certificate soundness: a majority had the block on disk"

    def check_node(self, node: SimNode) -> None:
        status = node.replica.status
        assert status.commit_height == node.disk.commit_height
        assert status.commit_height <= status.durable_height <= status.last_height
        assert status.term >= node.disk.hard_state.term
        if status.role is Role.LEADER:
            assert self.leaders[status.term] == node.id

    # Running

    def leader(self) -> SimNode | None:
        """Return the living leader of the highest term."""
        leading = [n for n in self.nodes if n.alive and n.replica.status.role is Role.LEADER]
        return max(leading, key=lambda n: n.replica.status.term, default=None)

    def settle(self, steps_max: int = 20_000) -> None:
        """Finish every write and deliver every letter, in order, until nothing moves."""
        for _ in range(steps_max):
            busy = False
            for node in self.nodes:
                while node.alive and node.writes:
                    node.finish_write()
                    busy = True
            if self.letters:
                self.deliver(0)
                busy = True
            if not busy:
                return
        raise AssertionError("the cluster never comes to rest")

    def tick_all(self) -> None:
        for node in self.nodes:
            if node.alive:
                node.step(Tick())

    def run_ticks(self, ticks: int) -> None:
        for _ in range(ticks):
            self.tick_all()
            self.settle()

    def elect(self, index: int) -> SimNode:
        """Make one node lead by letting time pass for it alone until its election timeout; the others must not hear a leader."""
        node = self.nodes[index]
        for _ in range(100):
            node.step(Tick())
            self.settle()
            if node.replica.status.role is Role.LEADER:
                return node
        raise AssertionError("the node was not elected")

    def random_event(self, faults: Faults) -> None:
        """Let one thing happen."""
        self.events += 1
        if not self._random_fault(faults):
            self._random_progress(faults)

    def _random_fault(self, faults: Faults) -> bool:
        rng = self.random
        if rng.random() < faults.crash:
            node = rng.choice(self.nodes)
            if node.alive:
                node.crash()
                for other in self.nodes:
                    if other.alive:
                        other.step(PeerUnreachable(node.id))
            return True
        if rng.random() < faults.crash * 4:
            node = rng.choice(self.nodes)
            if not node.alive:
                node.start()
                for other in self.nodes:
                    if other.alive and other is not node:
                        other.step(PeerReachable(node.id))
            return True
        if rng.random() < faults.partition:
            if self.cut and rng.random() < 0.6:
                self.heal()
            else:
                leader = self.leader()
                if leader is not None and rng.random() < 0.5:
                    # The interesting cut: a leader that goes on proposing to too few.
                    side = {leader.id} | {node.id for node in self.nodes if rng.random() < 0.25}
                else:
                    side = {node.id for node in self.nodes if rng.random() < 0.5}
                self.partition(side, one_way=rng.random() < 0.3)
            return True
        return False

    def _random_progress(self, faults: Faults) -> None:
        rng = self.random
        choice = rng.random()
        if self.letters and choice < 0.55:
            index = rng.randrange(len(self.letters)) if rng.random() < faults.reordering else 0
            if rng.random() < faults.loss:
                self.drop(index)
            else:
                self.deliver(index, keep=rng.random() < faults.duplication)
            return
        node = rng.choice(self.nodes)
        if not node.alive:
            return
        if choice < 0.75:
            if node.writes and rng.random() >= faults.slow_disk:
                node.finish_write()
        elif choice < 0.9:
            node.step(Tick())
        else:
            leading = [node for node in self.nodes if node.alive and node.replica.status.role is Role.LEADER]
            if leading:
                self.propose(rng.choice(leading))

    def run_random(self, events: int, faults: Faults) -> None:
        for node in self.nodes:
            node.moody = faults.refusal
        for _ in range(events):
            self.random_event(faults)
            if len(self.letters) > 2000:
                del self.letters[:1000]

    def demand_liveness(self, ticks_max: int = 400) -> None:
        """Faults end: within some time one leader commits a new block at every node."""
        self.heal()
        for node in self.nodes:
            node.moody = 0.0
            if not node.alive:
                node.start()
        target: Digest | None = None
        for _ in range(ticks_max):
            self.run_ticks(1)
            leader = self.leader()
            if leader is not None:
                status = leader.replica.status
                if status.last_term != status.term or target is None:
                    if self.propose(leader):
                        target = leader.replica.status.last_hash
                        self.settle()
            if target is not None and all(node.disk.last_hash == target for node in self.nodes):
                if all(node.disk.commit_height == node.disk.last_height for node in self.nodes):
                    return
        raise AssertionError("no liveness: " + "; ".join(str(node.replica.status) for node in self.nodes))


def random_faults(rng: random.Random) -> Faults:
    """Draw a swarm: some kinds of fault are absent in each run, so that others can bite."""

    def rate(most: float) -> float:
        return rng.random() * most if rng.random() < 0.7 else 0.0

    return Faults(
        loss=rate(0.3),
        duplication=rate(0.3),
        reordering=rate(1.0),
        crash=rate(0.01),
        partition=rate(0.03),
        slow_disk=rate(0.9),
        refusal=rate(0.2),
    )


def run_seed(seed: int, events: int = 2000) -> Cluster:
    """Run one random cluster under random faults, then demand liveness; a failure names the seed and how to play it again."""
    rng = random.Random(seed)
    cluster = Cluster(
        rng.choice([1, 2, 3, 3, 4, 5, 5, 7]),
        seed,
        options={
            "uncommitted_blocks_max": rng.choice([1, 4, 16]),
            "append_entries_max": rng.choice([1, 2, 8]),
            "inflight_max": rng.choice([1, 2, 8]),
            "recent_bytes_max": rng.choice([0, 1000, 1_000_000]),
            "election_ticks": rng.choice([3, 5, 10]),
            "heartbeat_ticks": rng.choice([1, 2]),
        },
        # Refusals pass, so a block can be certified that this node refused a moment ago.
        expected_alarms=frozenset({"consensus.block_refused", "consensus.divergence"}),
    )
    try:
        cluster.run_random(events, random_faults(rng))
        cluster.demand_liveness()
    except AssertionError as error:
        error.add_note(f"seed {seed}, {events} events: python -m tests.testkit.raft_replay {seed} {events}")
        raise
    return cluster
