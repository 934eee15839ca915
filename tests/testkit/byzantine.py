"""Whole networks in which some validators lie: the real consensus core and the real ledger, from one seed.

Honest validators run `consensus.core.Replica` over a disk, execute every block before they write it, and crash and come back. A liar's key
is used by several *copies* (twins), each a replica of its own with its own disk, in any part of the network, that accepts whatever block
it is sent and may come back with an old disk. On top of that liars

* propose blocks with forged roots, forged signatures, backdated or far ahead of the clock, with two changes of who votes in one, and two
  blocks where one is due;
* lead without having been elected, with elections of a minority, or upon another block than the voters named;
* vote for everybody and acknowledge everything that they are asked for, on no disk at all;
* hold back what they should send.

In the end the *closure* is taken: every block that liars could certify with the acknowledgements that honest validators ever sent is
taken for certified, and if the liars alone could decide they rewrite history from an old block on. Then the histories are held against each
other.

``python -m tests.testkit.byzantine 0 2000`` plays so many seeds. Source: docs/spec/accountability.md 6.4, 9.
"""

from __future__ import annotations

import random
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations
from typing import Final
from unittest.mock import patch

from consensus.config import Config, Role, Stored
from consensus.core import Replica
from consensus.effects import (
    Effects,
    EntriesRefused,
    Event,
    HardState,
    InstalledSnapshot,
    Outgoing,
    Persist,
    Persisted,
    Propose,
    Received,
    Tick,
    hard_state_after_snapshot,
)
from consensus.errors import ProposalRefusedError
from consensus.membership import Configuration as Members
from consensus.membership import ConfigurationAt
from consensus.messages import Acknowledgement, Append, AppendReply, Entry, Message, NodeId, RequestVote, Vote
from ledger import actions, bodies
from ledger.archive import ArchivedBlock
from ledger.audit import Auditor
from ledger.blame import History, Verdict, find_guilty
from ledger.block import Block, build_raw_block, decode_block_untrusted, hash_election
from ledger.configuration import Configuration
from ledger.execution import block_writes
from ledger.keyspace import Overlay, Reader, Table, height_key
from ledger.records import OPEN
from ledger.state import StateView, Tip
from ledger.transaction import Transaction, build_transaction
from ledger.transition import build_block, execute_block
from tests.testkit.ledger import Chain, key_of, make_election, make_genesis, node_key, sign_all
from wire.certificate import (
    CommitCertificate,
    acknowledgement_message,
    decode_commit_certificate_untrusted,
    encode_commit_certificate,
    encode_election_certificate,
    majority,
    proposal_message,
    vote_message,
)
from wire.errors import RejectedError
from wire.hashing import Digest, sha256
from wire.keys import KeyId, PrivateKey

ELECTION_TICKS: Final = 3
EVENTS: Final = 1200
"""Things that happen in one run."""
TIPS_MAX: Final = 4
"""Histories of one run that are held against each other."""
STEP_MS: Final = 40
"""What the clock gains with each event."""
FORGERIES: Final = ("state_root", "log_root", "policy_hash", "signature", "backdated", "ahead")
UNELECTED: Final = ("nothing", "minority", "other parent", "other term")


@lru_cache(maxsize=8)
def base_chain(kind: str) -> Chain:
    """Return what every node of a network has at the beginning: ``1`` to ``5`` validators, or a change of them under way or ended.

    In the latter two another change waits for one vote.
    """
    if kind.isdigit():
        return Chain(make_genesis(validators=int(kind)))
    chain = Chain(make_genesis(validators=3))
    chain.add_learner(4)
    waiting = chain.submit(bodies.ProposalCreate(actions.RemoveValidator("v3"), ""), "ada@acme").tx_id
    chain.submit(bodies.ProposalVote(waiting, True), "ada@acme")
    chain.adopt(actions.PromoteLearner("v4") if kind == "joint" else actions.ReplaceValidator("v1", "v4"))
    if kind == "settled":
        chain.settle()
    return chain


KINDS: Final = ("1", "2", "3", "3", "3", "4", "5", "5", "joint", "replacing", "settled")


@dataclass(slots=True)
class Grown:
    """A block that exists, and the ledger after it."""

    block: Block
    parent: Digest
    reader: Reader
    configuration: Configuration
    is_forged: bool
    """Whether it, or one below it, breaks a rule: no honest validator may ever have it on its disk."""
    changes_twice: bool = field(default=False, kw_only=True)
    """Whether it is of those that break a rule by two changes of who votes."""
    is_headed: bool
    """Whether header, parent, configuration and election show nothing wrong in it and below it."""


class Forest:
    """Every block that was ever made, by hash, upon what all have in common."""

    def __init__(self, base: Chain) -> None:
        self.base = base
        tip = base.blocks[-1]
        self.root = tip.block_hash
        self.grown: dict[Digest, Grown] = {
            self.root: Grown(
                tip, tip.header.previous_hash, base.store, base.view.configuration(), is_forged=False, is_headed=True
            )
        }
        self.children: dict[Digest, set[Digest]] = {}

    def add(self, block: Block, writes: dict[tuple[Table, bytes], bytes | None], *, forged: bool, headed: bool) -> None:
        """Take the block in, upon its parent, with what it writes."""
        if block.block_hash in self.grown:
            return
        parent = self.grown[block.header.previous_hash]
        reader = Overlay(parent.reader, writes)
        self.grown[block.block_hash] = Grown(
            block,
            block.header.previous_hash,
            reader,
            StateView(reader).configuration(),
            is_forged=forged or parent.is_forged,
            is_headed=headed and parent.is_headed,
        )
        self.children.setdefault(block.header.previous_hash, set()).add(block.block_hash)

    def chain(self, block_hash: Digest) -> list[Block]:
        """Return the blocks from height 1 to this one."""
        found = []
        while block_hash != self.root:
            grown = self.grown[block_hash]
            found.append(grown.block)
            block_hash = grown.parent
        return [*self.base.blocks[1:], *reversed(found)]

    def build(  # noqa: PLR0917 - what a block is made of
        self,
        parent: Digest,
        key: PrivateKey,
        term: int,
        time_ms: int,
        election: bytes | None,
        transactions: Iterable[Transaction] = (),
        verified: frozenset[bytes] = frozenset(),
    ) -> Block:
        """Return a block that holds, as an honest leader builds it; with `verified` signatures are taken for checked."""
        built = build_block(
            self.grown[parent].reader,
            transactions,
            term=term,
            time_ms=time_ms,
            proposer=key,
            election=election,
            verified=verified,
        )
        forged = any(each.leaf_hash in verified for each in built.executed.transactions)
        self.add(built.block, built.executed.writes, forged=forged, headed=True)
        return built.block

    def forge(self, block: Block, key: PrivateKey, *, headed: bool, election: bytes | None, **changes: object) -> Block:
        """Return a block like this one with other values in its header, signed; it is taken in as forged."""
        header = replace(block.header, election_hash=hash_election(election), **changes)  # type: ignore[arg-type]
        signature = key.sign(proposal_message(header.hash()))
        forged = build_raw_block(header, block.transactions, signature, election)
        frontier = StateView(self.grown[block.block_hash].reader).tip.frontier
        writes = block_writes(forged, Tip(header, forged.block_hash, frontier))
        self.add(forged, writes, forged=True, headed=headed)
        return forged


def entry_of(block: Block) -> Entry:
    """Return the block as consensus sees it."""
    return Entry(block.header.term, block.header.height, block.block_hash, block.raw)


def members_of(configuration: Configuration) -> Members:
    """Return the configuration as consensus sees it."""
    incoming = None if configuration.incoming is None else tuple(configuration.incoming.public_keys.values())
    voters, learners = configuration.voters.public_keys, configuration.learners.public_keys
    return Members(tuple(voters.values()), incoming, tuple(learners.values()))


@dataclass
class Disk:
    """What survives a crash; serves as the replica's log reader."""

    log: list[Entry]
    commit_height: int
    certificates: dict[int, CommitCertificate]
    genesis: Digest
    hard_state: HardState = field(default_factory=HardState)
    first_height: int = 1

    def copy(self) -> Disk:
        """Return an image of it."""
        return Disk(list(self.log), self.commit_height, dict(self.certificates), self.genesis, self.hard_state)

    @property
    def last_height(self) -> int:
        return len(self.log)

    def entry(self, height: int) -> Entry:
        return self.log[height - 1]

    def entries(self, low: int, high: int, bytes_max: int) -> tuple[Entry, ...]:
        del bytes_max  # the blocks here are small
        return tuple(self.log[low - 1 : high])

    def term_and_hash(self, height: int) -> tuple[int, Digest]:
        entry = self.log[height - 1] if height else None
        return (0, self.genesis) if entry is None else (entry.term, entry.block_hash)

    def find_certificate(self, height_max: int) -> CommitCertificate | None:
        heights = [height for height in self.certificates if height <= height_max]
        return self.certificates[max(heights)] if heights else None


class Actor:
    """One process with a validator's key: an honest validator, or one copy of a liar."""

    def __init__(self, world: World, number: int, *, is_honest: bool) -> None:
        self.world = world
        self.number = number
        self.key = node_key(number)
        self.id: NodeId = self.key.public_key.key_id
        self.is_honest = is_honest
        self.disk = world.fresh_disk()
        self.image = self.disk.copy()
        self.writes: deque[tuple[Persist, tuple[Outgoing, ...]]] = deque()
        self.election: bytes | None = None
        self.group = 0
        self.alive = False
        self.replica: Replica
        self.start()

    def start(self) -> None:
        """Begin with what is on the disk."""
        disk, forest = self.disk, self.world.forest
        base = forest.base.height
        configurations: list[ConfigurationAt] = [(base, members_of(forest.grown[forest.root].configuration))]
        for entry in disk.log[base:]:
            made = members_of(forest.grown[entry.block_hash].configuration)
            if made != configurations[-1][1]:
                configurations.append((entry.height, made))
        while len(configurations) > 1 and configurations[1][0] <= disk.commit_height:
            del configurations[0]
        stored = Stored(
            disk.hard_state, disk.commit_height, disk.find_certificate(disk.commit_height), tuple(configurations)
        )
        config = Config(
            chain_id=forest.base.genesis.chain_id,
            node_id=self.id,
            key=self.key,
            election_ticks=ELECTION_TICKS,
            heartbeat_ticks=1,
        )
        self.writes.clear()
        self.election = None
        self.replica = Replica(config, stored, disk, self.world.random.randrange)
        self.alive = True

    def step(self, event: Event) -> None:
        """Let something happen, and carry out what follows."""
        effects: Effects = self.replica.step(event)
        for outgoing in effects.send:
            self.world.post(self, outgoing)
        if effects.persist is not None:
            self.writes.append((effects.persist, effects.send_after_persist))
        if effects.certificate is not None:
            self.disk.certificates[effects.certificate.height] = effects.certificate
            self.disk.commit_height = effects.certificate.height
        if effects.elected is not None:
            self.election = encode_election_certificate(effects.elected)
            self.world.propose(self)

    def finish_write(self) -> None:
        """Execute and write the oldest persist, and report it."""
        persist, messages = self.writes.popleft()
        disk = self.disk
        if persist.hard_state is not None:
            assert persist.hard_state.term >= disk.hard_state.term
            disk.hard_state = persist.hard_state
        good: list[Entry] = []
        refused: Entry | None = None
        floor = disk.last_height if persist.truncate_from is None else persist.truncate_from - 1
        if persist.entries and persist.entries[0].height == floor + 1 <= disk.last_height + 1:
            parent = disk.term_and_hash(floor)[1]
            for entry in persist.entries:
                if not self.world.accepts(self, entry, parent):
                    refused = entry
                    break
                good.append(entry)
                parent = entry.block_hash
        stands = len(good) == len(persist.entries)
        if stands or persist.truncate_from is None:
            if stands and persist.truncate_from is not None:
                assert persist.truncate_from > disk.commit_height
                del disk.log[persist.truncate_from - 1 :]
            disk.log += good
        else:
            good = []
        if stands:
            for outgoing in messages:
                self.world.post(self, outgoing)
        grown = self.world.forest.grown
        last_term, last_hash = disk.term_and_hash(disk.last_height)
        del last_term
        made = tuple(
            (entry.height, members_of(grown[entry.block_hash].configuration))
            for entry in good
            if grown[entry.block_hash].configuration != grown[grown[entry.block_hash].parent].configuration
        )
        truncated = persist.truncate_from if stands else None
        self.step(Persisted(disk.last_height, last_hash, disk.hard_state, truncated, made))
        if refused is not None:
            self.step(EntriesRefused(refused.height, refused.block_hash, "refused"))

    def crash(self) -> None:
        """Lose what is not on the disk."""
        self.alive = False
        self.writes.clear()


@dataclass(slots=True)
class Letter:
    """One message on its way."""

    sender: Actor
    to: NodeId
    message: Message


class World:
    """One network, from one seed.

    Args:
        seed: Decides everything.
        liars: How many of the validators lie; None: the seed decides, from none to all.
    """

    def __init__(self, seed: int, liars: int | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.kind = self.random.choice(KINDS)
        self.base = base_chain(self.kind)
        self.forest = Forest(self.base)
        self.chain_id = self.base.genesis.chain_id
        self.now_ms = self.base.blocks[-1].header.time_ms
        configuration = self.base.view.configuration()
        numbers = sorted(
            number
            for number in range(1, 6)
            if node_key(number).public_key.key_id in {**configuration.members, **configuration.leaving.public_keys}
        )
        drawn = self.random.choice([1, max(1, len(numbers) // 2), self.random.randint(0, len(numbers))])
        count = drawn if liars is None else min(liars, len(numbers))
        self.liars = frozenset(self.random.sample(numbers, count))
        self.letters: list[Letter] = []
        self.said: dict[Digest, dict[KeyId, bytes]] = {}
        """What honest validators acknowledged: block hash to signer and signature."""
        self.votes: dict[tuple[int, NodeId, int, int, Digest], dict[KeyId, bytes]] = {}
        self.requests: dict[tuple[NodeId, NodeId, int], tuple[int, int, Digest]] = {}
        self.nonce = 0
        self.snapshots = 0
        self.changed_twice = 0
        """Blocks with two changes of who votes that liars proposed."""
        self.shown: set[Digest] = set()
        """Blocks that left the process that made them."""
        self.loss = self.random.choice([0.0, 0.02, 0.2])
        self.withheld = self.random.choice([0.0, 0.1, 0.5])
        self.mischief = self.random.choice([0.02, 0.1, 0.4])
        self.is_split = self.random.random() < 0.5
        if self.is_split:
            self.mischief /= 5  # copies that each follow the rules are the better liars
        self.variants: dict[Digest, Block] = {}
        self.actors = [Actor(self, number, is_honest=True) for number in numbers if number not in self.liars]
        for number in sorted(self.liars):
            self.actors += [Actor(self, number, is_honest=False) for _ in range(2)]
        self.regroup()

    @property
    def guilty_ids(self) -> frozenset[KeyId]:
        """The keys of the liars."""
        return frozenset(node_key(number).public_key.key_id for number in self.liars)

    def fresh_disk(self) -> Disk:
        """Return a disk with what all have in common."""
        log = [entry_of(block) for block in self.base.blocks[1:]]
        certificates = {}
        for entry in log:
            raw = self.base.store.get(Table.CERTIFICATE, height_key(entry.height))
            if raw is not None:
                certificates[entry.height] = decode_commit_certificate_untrusted(raw)
        disk = Disk(log, len(log), certificates, self.base.blocks[0].block_hash)
        if log:
            disk.hard_state = HardState(log[-1].term, None)
        return disk

    # What happens

    def run(self, events: int = EVENTS) -> None:
        """Let so many things happen."""
        for _ in range(events):
            self.now_ms += STEP_MS
            self.happen()

    def happen(self) -> None:
        """Let one thing happen."""
        chance = self.random.random()
        alive = [actor for actor in self.actors if actor.alive]
        writing = [actor for actor in alive if actor.writes]
        if chance < 0.58 and self.letters:
            self.deliver(self.letters.pop(self.random.randrange(min(len(self.letters), 6))))
        elif chance < 0.80 and writing:
            self.random.choice(writing).finish_write()
        elif chance < 0.91 and alive:
            self.random.choice(alive).step(Tick())
        elif chance < 0.97 and alive:
            self.propose(self.random.choice(alive))
        elif chance < 0.977:
            if not self.is_split or self.random.random() < 0.2:  # long enough for an election on both sides
                self.regroup()
        elif chance < 0.988:
            self.crash_or_start()
        elif chance < 0.996:
            self.install()
        elif self.liars:
            self.usurp()

    def regroup(self) -> None:
        """Cut the network into two parts, or heal it. A split one keeps the copies of each liar apart, so that both sides can decide."""
        if self.is_split and self.random.random() < 0.7:
            honest = [actor for actor in self.actors if actor.is_honest]
            self.random.shuffle(honest)
            for index, actor in enumerate(honest):
                actor.group = index % 2
            for index, actor in enumerate(each for each in self.actors if not each.is_honest):
                actor.group = index % 2
            return
        parts = self.random.choice([1, 2, 2])
        for actor in self.actors:
            actor.group = self.random.randrange(parts)

    def crash_or_start(self) -> None:
        """End a process or start one; a liar may come back with an old disk."""
        actor = self.random.choice(self.actors)
        if actor.alive:
            actor.crash()
            if self.random.random() < 0.3:
                actor.image = actor.disk.copy()
            return
        if not actor.is_honest and self.random.random() < 0.6:
            actor.disk = actor.image.copy()
        actor.start()

    def install(self) -> None:
        """Let an honest validator that would take one begin anew from a snapshot: of any valid block that anybody could certify.

        A certificate is all that it asks for. So liars who can decide alone could give it the state after a forged block; that is not
        played, since nothing could keep it out (docs/spec/accountability.md 8).
        """
        idle = [actor for actor in self.actors if actor.is_honest and actor.alive and not actor.writes]
        certificates = self.certified()
        valid = [each for each in certificates if not self.forest.grown[each].is_forged]
        if not idle or not valid:
            return
        actor, block_hash = self.random.choice(idle), self.random.choice(valid)
        certificate = certificates[block_hash]
        height, term = certificate.height, certificate.term
        if not actor.replica.needs_snapshot(height, term, block_hash):
            return
        self.snapshots += 1
        disk = actor.disk
        kept = {at: each for at, each in disk.certificates.items() if at <= self.base.height}
        disk.log = [entry_of(block) for block in self.forest.chain(block_hash)]
        disk.commit_height = height
        disk.certificates = {**kept, height: certificate}
        disk.hard_state = hard_state_after_snapshot(disk.hard_state, term)
        if self.random.random() < 0.5:
            actor.start()
        else:
            members = members_of(self.forest.grown[block_hash].configuration)
            actor.step(InstalledSnapshot(height, term, block_hash, members, certificate))

    def post(self, sender: Actor, outgoing: Outgoing) -> None:
        """Put a message on its way."""
        message = outgoing.message
        if sender.is_honest:
            self.note(sender, outgoing)
        elif isinstance(message, Append) and message.entries:
            if self.random.random() < self.withheld:
                return
            message = self.equivocate(sender, message)
        if isinstance(message, Append):
            self.shown.update(entry.block_hash for entry in message.entries)
        self.letters.append(Letter(sender, outgoing.to, message))

    def note(self, sender: Actor, outgoing: Outgoing) -> None:
        """Remember what honest validators sign: liars can make use of it whether it arrives or not."""
        message = outgoing.message
        if isinstance(message, AppendReply):
            for each in message.acknowledgements:
                self.said.setdefault(each.block_hash, {})[sender.id] = each.signature
        elif isinstance(message, Vote) and message.signature is not None:
            basis = self.requests[sender.id, outgoing.to, message.term]
            self.votes.setdefault((message.term, outgoing.to, *basis), {})[sender.id] = message.signature

    def deliver(self, letter: Letter) -> None:
        """Let a message arrive at everybody who has the key and can be reached."""
        if self.random.random() < self.loss:
            return
        message = letter.message
        for actor in self.actors:
            if actor.id != letter.to or actor.group != letter.sender.group or not actor.alive:
                continue
            if isinstance(message, RequestVote):
                basis = (message.last_term, message.last_height, message.last_hash)
                self.requests[actor.id, message.candidate, message.term] = basis
            if not actor.is_honest and self.random.random() < self.mischief:
                self.lie(actor, letter)
            actor.step(Received(message, letter.sender.id))

    # Lies

    def lie(self, actor: Actor, letter: Letter) -> None:
        """Answer whatever is asked for, without anything on a disk."""
        message = letter.message
        if isinstance(message, RequestVote):
            signed = vote_message(
                self.chain_id,
                message.term,
                message.candidate,
                message.last_term,
                message.last_height,
                message.last_hash,
            )
            vote = Vote(message.term, True, actor.id, actor.key.sign(signed))
            self.letters.append(Letter(actor, message.candidate, vote))
        elif isinstance(message, Append) and message.entries:
            height = message.entries[-1].height
            acknowledged = tuple(
                Acknowledgement(
                    each.height,
                    each.block_hash,
                    actor.key.sign(acknowledgement_message(self.chain_id, each.term, each.height, each.block_hash)),
                )
                for each in message.entries
                if each.term == message.term
            )
            reply = AppendReply(
                message.term, actor.id, True, height, height, 0, 0, 0, message.commit_height, message.round_id, acknowledged
            )  # fmt: skip
            self.letters.append(Letter(actor, message.leader, reply))

    def equivocate(self, sender: Actor, message: Append) -> Append:
        """Return the append, or one whose last block is another of the same term and height."""
        last = message.entries[-1]
        if last.height <= self.base.height:
            return message
        block = self.forest.grown[last.block_hash].block
        if block.header.proposer != sender.id or self.random.random() > self.mischief:
            return message
        if last.block_hash not in self.variants:
            grown = self.forest.grown[last.block_hash]
            if grown.is_forged:
                return message
            self.variants[last.block_hash] = self.forest.build(
                grown.parent, sender.key, last.term, block.header.time_ms + 1, block.election
            )
        return replace(message, entries=(*message.entries[:-1], entry_of(self.variants[last.block_hash])))

    def usurp(self) -> None:
        """Let a liar lead who was not elected, upon any block that exists, with an election that does not hold."""
        number = self.random.choice(sorted(self.liars))
        actor = next(each for each in self.actors if each.number == number)
        parent = self.random.choice(list(self.forest.grown.values()))
        term = parent.block.header.term + self.random.randint(1, 3)
        how = self.random.choice(UNELECTED)
        basis = parent.block
        election: bytes | None = None
        match how:
            case "nothing":
                pass
            case "minority":
                election = make_election(self.chain_id, [actor.key], term, actor.key, basis)
                if is_quorum(parent.configuration, {actor.id}):
                    return  # that would be an election
            case "other parent":
                others = [each for each in self.forest.grown.values() if each.block != basis]
                if not others:
                    return
                election = make_election(
                    self.chain_id, self.liar_keys(), term, actor.key, self.random.choice(others).block
                )
            case _:
                election = make_election(self.chain_id, self.liar_keys(), term + 1, actor.key, basis)
        good = self.forest.build(
            parent.block.block_hash,
            actor.key,
            term,
            self.now_ms,
            make_election(self.chain_id, [actor.key], term, actor.key, basis),
        )
        # What was only built to be changed does not exist.
        self.disown(good)
        forged = self.forge_upon(good, actor.key, election)
        self.shown.add(forged.block_hash)
        self.send_block(actor, forged)

    def send_block(self, actor: Actor, block: Block) -> None:
        """Send everybody the block, past the actor's own replica."""
        header, parent = block.header, self.forest.grown[block.header.previous_hash].block
        height = parent.header.height
        append = Append(
            header.term, actor.id, parent.header.term, height, parent.block_hash, (entry_of(block),), height, None, 0
        )
        for other in self.actors:
            if other.id != actor.id:
                self.letters.append(Letter(actor, other.id, append))

    def forge_upon(self, good: Block, key: PrivateKey, election: bytes | None) -> Block:
        """Return the block with another election."""
        parent = self.forest.grown[good.header.previous_hash]
        header = replace(good.header, election_hash=hash_election(election))
        forged = build_raw_block(header, (), key.sign(proposal_message(header.hash())), election)
        frontier = StateView(parent.reader).tip.frontier
        writes = block_writes(forged, Tip(header, forged.block_hash, frontier))
        self.forest.add(forged, writes, forged=True, headed=False)
        return forged

    def disown(self, block: Block) -> None:
        """Take a block out again, unless it was shown to somebody: two copies of a liar may build the very same one."""
        if block.block_hash in self.shown:
            return
        del self.forest.grown[block.block_hash]
        self.forest.children[block.header.previous_hash].discard(block.block_hash)

    def liar_keys(self) -> list[PrivateKey]:
        """Return the keys of the liars."""
        return [node_key(number) for number in sorted(self.liars)]

    # Blocks

    def propose(self, actor: Actor) -> None:
        """Let a leader propose a block."""
        status = actor.replica.status
        if status.role is not Role.LEADER:
            return
        parent = self.forest.grown.get(status.last_hash if status.last_height else self.forest.root)
        assert parent is not None, "a leader's last block exists"
        tip = parent.block
        election = actor.election if status.term > tip.header.term else None
        block: Block | None = None
        if not actor.is_honest and self.random.random() < self.mischief:
            self.change_twice(actor, tip, status.term, election)
            block = self.forgery(actor, tip, status.term, election)
        if block is None:
            transactions = list(self.transactions(actor, parent, can_change=status.can_change_configuration))
            block = self.forest.build(tip.block_hash, actor.key, status.term, self.now_ms, election, transactions)
        changed = self.forest.grown[block.block_hash].configuration
        members = None if changed == parent.configuration else members_of(changed)
        try:
            actor.step(Propose(entry_of(block), members))
        except ProposalRefusedError:
            # The driver does not let such a block leave the node (docs/spec/consensus.md 8.1).
            self.disown(block)
        else:
            self.shown.add(block.block_hash)

    def transactions(self, actor: Actor, parent: Grown, *, can_change: bool) -> Iterator[Transaction]:
        """Yield what goes into the next block: now and then somebody is registered, and a change under way is ended."""
        view = StateView(parent.reader)
        if can_change and parent.configuration.is_joint and self.random.random() < 0.5:
            yield from self.settlement(actor, view)
        if self.random.random() < 0.3:
            name = f"user{self.random.randrange(1000)}@acme"
            if view.identity(name) is None:
                yield self.sign(
                    bodies.IdentityRegister(name, "User", ("auditor",), key_of(name).public_key.spki),
                    key_of("ada@acme"),
                )

    def settlement(self, actor: Actor, view: StateView) -> Iterator[Transaction]:
        """Yield what ends the change under way, if the actor may say it."""
        header = self.base.blocks[-1].header
        raw = self.base.store.get(Table.CERTIFICATE, height_key(header.height))
        assert raw is not None
        configuration = view.configuration()
        if header.validators_hash == configuration.hash and actor.id in configuration.members:
            yield self.sign(bodies.ValidatorSettle(header, decode_commit_certificate_untrusted(raw)), actor.key)

    def sign(self, body: bodies.Body, key: PrivateKey) -> Transaction:
        """Return the transaction."""
        self.nonce += 1
        height = self.base.height + 1000
        nonce = self.nonce.to_bytes(16, "big")
        return build_transaction(self.chain_id, body.KIND, body, key, nonce, height, self.now_ms)

    def forgery(self, actor: Actor, tip: Block, term: int, election: bytes | None) -> Block | None:
        """Return a block that breaks a rule, or None."""
        how = self.random.choice(FORGERIES)
        time_ms = self.now_ms
        if how == "signature":
            name = f"forged{self.random.randrange(1000)}@acme"
            body = bodies.IdentityRegister(name, "Forged", ("administrator",), key_of(name).public_key.spki)
            honest = self.sign(body, key_of("ada@acme"))
            # Signed by somebody else than it says.
            stolen = build_transaction(
                self.chain_id, body.KIND, body, key_of("ada@acme"), bytes(16), honest.not_after_height, 1
            )
            forged = replace_signature(stolen)
            block = self.forest.build(
                tip.block_hash, actor.key, term, time_ms, election, [forged], frozenset({forged.leaf_hash})
            )
            return block if block.transactions else None
        good = self.forest.build(tip.block_hash, actor.key, term, time_ms + 1, election)
        if self.forest.children.get(good.block_hash):
            return None  # somebody had made this very block
        change: dict[str, object]
        match how:
            case "backdated":
                change = {"time_ms": tip.header.time_ms - 1}
            case "ahead":
                change = {"time_ms": time_ms + 3_600_000}
            case _:
                change = {how: sha256(b"forged")}
        forged_block = self.forest.forge(good, actor.key, headed=how != "backdated", election=election, **change)
        if forged_block.block_hash != good.block_hash:  # the same, when the parent's root was forged already
            self.disown(good)
        return forged_block

    def change_twice(self, actor: Actor, tip: Block, term: int, election: bytes | None) -> None:
        """Where a change of who votes is under way, send everybody a block that ends it and begins the next, right in everything else."""
        parent = self.forest.grown[tip.block_hash]
        view = StateView(parent.reader)
        ending = tuple(self.settlement(actor, view)) if parent.configuration.is_joint else ()
        if not ending:
            return
        waiting = next(each.proposal_id for each in self.base.view.proposals() if each.status == OPEN)
        vote = self.sign(bodies.ProposalVote(waiting, True), key_of("ben@beta"))
        with patch("ledger.execution.check_one_change"):
            block = self.forest.build(tip.block_hash, actor.key, term, self.now_ms, election, (*ending, vote))
        grown = self.forest.grown[block.block_hash]
        grown.is_forged = grown.changes_twice = True
        assert grown.configuration.is_joint, "one change ended, and another began"
        self.changed_twice += 1
        self.shown.add(block.block_hash)
        self.send_block(actor, block)

    def accepts(self, actor: Actor, entry: Entry, parent: Digest) -> bool:
        """Return whether the actor's ledger takes the block: by execution, or if it lies, whatever it is."""
        grown = self.forest.grown.get(entry.block_hash)
        if not actor.is_honest:
            # What its own replica could not count votes under, a liar sends to others and does not follow itself.
            return grown is not None and grown.parent == parent and not grown.changes_twice
        below = self.forest.grown[parent]
        try:
            block = decode_block_untrusted(entry.data)
            executed = execute_block(below.reader, block, now_ms=self.now_ms)
        except RejectedError:
            return False
        assert grown is not None
        assert not grown.is_forged, f"seed {self.seed}: an honest validator accepts a forged block"
        assert executed.block_hash == entry.block_hash
        return True

    # The end

    def certified(self) -> dict[Digest, CommitCertificate]:
        """Return the blocks above the common ones that liars could certify, with what honest validators ever acknowledged."""
        found = {}
        for block_hash, grown in self.forest.grown.items():
            if block_hash == self.forest.root:
                continue
            header = grown.block.header
            honest = self.said.get(block_hash, {})
            for actor in self.actors:
                # A leader signs for itself only within a certificate.
                own = actor.disk.certificates.get(header.height)
                if own is not None and own.block_hash == block_hash:
                    honest = honest | dict(own.signatures)
            message = acknowledgement_message(self.chain_id, header.term, header.height, block_hash)
            signatures = honest | dict(sign_all(self.liar_keys(), message))
            signers = {signer for signer in signatures if signer in grown.configuration.members}
            if is_quorum(grown.configuration, signers):
                ordered = tuple(sorted((signer, signatures[signer]) for signer in signers))
                found[block_hash] = CommitCertificate(header.term, header.height, block_hash, ordered)
        return found

    def rewrite(self) -> None:
        """Let liars who can decide alone make another history from some block on."""
        for _ in range(self.random.randint(1, 2)):
            parent = self.random.choice(list(self.forest.grown.values()))
            if not is_quorum(parent.configuration, self.guilty_ids):
                continue
            for _ in range(self.random.randint(1, 3)):
                tip = parent.block.header
                proposers = [key for key in self.liar_keys() if key.public_key.key_id in parent.configuration.members]
                key = self.random.choice(proposers)
                if tip.proposer == key.public_key.key_id and self.random.random() < 0.4:
                    term, election = tip.term, None
                else:
                    term = tip.term + self.random.randint(1, 2)
                    election = make_election(self.chain_id, proposers, term, key, parent.block)
                # As old as may be, or as late.
                time_ms = tip.time_ms + self.random.choice([0, 1, 60_000])
                block = self.forest.build(parent.block.block_hash, key, term, time_ms, election)
                parent = self.forest.grown[block.block_hash]

    def history(self, name: str, tip: Digest, certificates: dict[Digest, CommitCertificate]) -> History:
        """Return the chain up to a block with every certificate that could be made."""
        items = []
        for block in self.forest.chain(tip):
            certificate = certificates.get(block.block_hash)
            raw = self.base.store.get(Table.CERTIFICATE, height_key(block.header.height))
            if block.header.height > self.base.height:
                raw = None if certificate is None else encode_commit_certificate(certificate)
            items.append(ArchivedBlock(block.raw, raw))
        return History(name, items)


def replace_signature(transaction: Transaction) -> Transaction:
    """Return the transaction under a signature that does not hold."""
    from ledger.transaction import decode_transaction_untrusted
    from wire.codec import decode_untrusted, encode

    values = decode_untrusted(transaction.raw, bytes_max=2**20)
    assert isinstance(values, tuple)
    return decode_transaction_untrusted(encode((*values[:-1], bytes(64))))


def is_quorum(configuration: Configuration, signers: Iterable[KeyId]) -> bool:
    """Return whether these decide under the configuration."""
    given = set(signers)
    return all(len(given & group.keys()) >= majority(len(group)) for group in configuration.quorums)


@dataclass
class Outcome:
    """What a run came to."""

    forks: int = 0
    """Pairs of certified histories that contradict each other."""
    blamed: int = 0
    """Of those, the ones that convicted somebody."""
    kinds: dict[str, int] = field(default_factory=dict)
    forged: int = 0
    """Blocks that broke a rule."""
    blocks: int = 0
    """Blocks in all, above the common ones."""
    commits: int = 0
    """Blocks that an honest validator committed."""
    changed_twice: int = 0
    """Blocks with two changes of who votes that liars sent."""
    snapshots: int = 0
    """Snapshots that honest validators installed."""
    honest_forks: int = 0
    """1 when two honest validators committed blocks that contradict each other."""

    def add(self, other: Outcome) -> None:
        """Count another run in."""
        self.forks += other.forks
        self.blamed += other.blamed
        self.forged += other.forged
        self.blocks += other.blocks
        self.commits += other.commits
        self.changed_twice += other.changed_twice
        self.snapshots += other.snapshots
        self.honest_forks += other.honest_forks
        for kind, count in other.kinds.items():
            self.kinds[kind] = self.kinds.get(kind, 0) + count


def judge(world: World) -> Outcome:
    """Return what the run came to, after showing that no honest validator is convicted, and that each fork convicts somebody."""
    if world.liars:
        world.rewrite()
    forest, outcome = world.forest, Outcome()
    outcome.blocks = len(forest.grown) - 1
    outcome.changed_twice = world.changed_twice
    outcome.snapshots = world.snapshots
    outcome.forged = sum(grown.is_forged for grown in forest.grown.values())
    honest = [actor for actor in world.actors if actor.is_honest]
    for actor in honest:
        check_honest(world, actor)
    committed = [actor.disk.log[: actor.disk.commit_height] for actor in honest]
    outcome.commits = len({entry.block_hash for log in committed for entry in log[world.base.height :]})
    outcome.honest_forks = int(
        any(mine != his for one, other in combinations(committed, 2) for mine, his in zip(one, other, strict=False))
    )
    certificates = world.certified()
    tips = [each for each in forest.grown if not forest.children.get(each) and each != forest.root]
    # Those in which honest validators had a hand first; all pairs of many tips would only say the same again.
    tips.sort(key=lambda each: (each not in world.said, each))
    for one, other in combinations(tips[:TIPS_MAX], 2):
        ours, theirs = (world.history(name, tip, certificates) for name, tip in (("one", one), ("other", other)))
        verdict = find_guilty(ours, theirs, world.base.genesis)
        check_verdict(world, verdict, is_headed=forest.grown[one].is_headed and forest.grown[other].is_headed)
        if verdict.is_conflict:
            outcome.forks += 1
            outcome.blamed += bool(verdict.blames)
        for blame in verdict.blames:
            outcome.kinds[str(blame.kind)] = outcome.kinds.get(str(blame.kind), 0) + 1
    return outcome


def check_verdict(world: World, verdict: Verdict, *, is_headed: bool) -> None:
    """Return when only liars are convicted, and somebody is if certified histories contradict each other."""
    innocent = set(verdict.guilty) - world.guilty_ids
    assert not innocent, f"seed {world.seed}: {verdict.blames} convict the innocent"
    if verdict.is_conflict and is_headed:
        assert verdict.blames, f"seed {world.seed}: a fork convicts nobody"
        assert verdict.missing == ()


def check_honest(world: World, actor: Actor) -> None:
    """Return when everything on the honest validator's disk holds, and what it committed replays without a finding."""
    for entry in actor.disk.log[world.base.height :]:
        assert not world.forest.grown[entry.block_hash].is_forged, (
            f"seed {world.seed}: a forged block on an honest disk"
        )
    auditor = Auditor(world.base.genesis)
    for entry in actor.disk.log[: actor.disk.commit_height]:
        certificate = actor.disk.certificates.get(entry.height)
        auditor.feed(entry.data, None if certificate is None else encode_commit_certificate(certificate))
    summary = auditor.finish()
    assert summary.findings == (), f"seed {world.seed}: {summary.findings}"


def play(seed: int, liars: int | None = None) -> Outcome:
    """Return what the network of this seed came to."""
    world = World(seed, liars)
    world.run()
    return judge(world)


def main(arguments: list[str]) -> int:
    """Play the seeds from the first argument up to below the second, and print what they came to; 1 when one of them failed."""
    first, last = (int(each) for each in arguments)
    total, failed, forked, both = Outcome(), 0, 0, 0
    begun = time.monotonic()
    for seed in range(first, last):
        try:
            outcome = play(seed)
        except AssertionError:
            failed += 1
            print(f"seed {seed} FAILED")
            traceback.print_exc()
            continue
        total.add(outcome)
        forked += outcome.forks > 0
        both += outcome.honest_forks
    seconds = time.monotonic() - begun
    print(
        f"{last - first} seeds in {seconds:.0f} s, {failed} failed; {total.blocks} blocks, {total.forged} of them invalid, "
        f"{total.commits} committed by honest validators, {total.snapshots} snapshots installed; "
        f"{total.changed_twice} blocks with two changes of who votes"
    )
    print(
        f"{forked} seeds with certified forks, {both} of them between honest validators; {total.forks} conflicts, {total.blamed} blamed"
    )
    print("proofs: " + ", ".join(f"{kind} {count}" for kind, count in sorted(total.kinds.items())))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
