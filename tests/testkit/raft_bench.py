"""One replica on a bench: the test plays the other validators, the disk and the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from consensus.config import Config, Role
from consensus.core import Replica
from consensus.effects import Effects, Event, HardState, NeedSnapshot, Persist, Persisted, Propose, Received, Tick
from consensus.limits import TICK_MS
from consensus.membership import Configuration
from consensus.messages import (
    Acknowledgement,
    Append,
    AppendReply,
    Entry,
    Message,
    NodeId,
    PreVote,
    PreVoteReply,
    RequestVote,
    Vote,
    author_of,
)
from tests.testkit.raft_sim import CHAIN_ID, SimDisk, make_chain, make_entry, persisted, sim_keys
from wire.certificate import (
    CommitCertificate,
    ElectionCertificate,
    acknowledgement_message,
    encode_commit_certificate,
    majority,
    vote_message,
)
from wire.hashing import Digest
from wire.keys import PublicKey


@dataclass
class Seen:
    """What one or more steps brought, in order."""

    messages: list[tuple[int, Message]] = field(default_factory=list)
    """(index of the receiver, message), as they left."""
    apply: list[Entry] = field(default_factory=list)
    certificate: CommitCertificate | None = None
    elected: ElectionCertificate | None = None
    stepped_down: bool = False
    removed: bool = False
    reads_ready: list[tuple[int, int]] = field(default_factory=list)
    reads_refused: list[int] = field(default_factory=list)
    need_snapshot: NeedSnapshot | None = None
    alarms: list[str] = field(default_factory=list)

    def to(self, index: int) -> list[Message]:
        """Return the messages for one peer."""
        return [message for receiver, message in self.messages if receiver == index]

    def add(self, other: Seen) -> None:
        """Append what came after it."""
        self.messages += other.messages
        self.apply += other.apply
        self.certificate = other.certificate or self.certificate
        self.elected = other.elected or self.elected
        self.stepped_down = self.stepped_down or other.stepped_down
        self.removed = self.removed or other.removed
        self.reads_ready += other.reads_ready
        self.reads_refused += other.reads_refused
        self.need_snapshot = other.need_snapshot or self.need_snapshot
        self.alarms += other.alarms

    def only(self) -> Message:
        """Return the one message."""
        assert len(self.messages) == 1, self.messages
        return self.messages[0][1]

    @property
    def alarm_codes(self) -> list[str]:
        """The codes of the alarms."""
        return [alarm.split(":")[0] for alarm in self.alarms]


class Bench:
    """A replica `me` (by default index 0) among `size` validators, and a disk that is written when the test says so."""

    def __init__(
        self,
        size: int = 3,
        *,
        me: int = 0,
        log: Sequence[Entry] = (),
        term: int | None = None,
        voted_for: int | None = None,
        commit_height: int = 0,
        certificates: Sequence[CommitCertificate] = (),
        entropy: Callable[[int], int] = lambda n: 0,
        members: int | None = None,
        configuration: tuple[str, str | None, str] | None = None,
        **options: int,
    ) -> None:
        """Begin with a log; the first `members` validators vote at genesis, or those that `configuration` says (see `rules`)."""
        self.keys = sim_keys(9)[:size]
        self.ids = [key.public_key.key_id for key in self.keys]
        self.me = me
        self.disk = SimDisk()
        self.disk.log = list(log)
        self.disk.commit_height = commit_height
        self.disk.certificates = {certificate.height: certificate for certificate in certificates}
        if term is None:
            term = log[-1].term if log else 0
        self.disk.hard_state = HardState(term, None if voted_for is None else self.ids[voted_for])
        self.entropy = entropy
        self.members = size if members is None else members
        self.disk.founders = (
            rules("".join(map(str, range(self.members)))) if configuration is None else rules(*configuration)
        )
        self.options = options
        self.now_ms = 1_000_000
        """The clock of leases; a tick takes `TICK_MS`, a test may let more time pass."""
        self.pending: list[tuple[Persist, tuple[tuple[int, Message], ...]]] = []
        self.replica: Replica
        self.restart()

    def restart(self) -> None:
        """Start (again) with what is on disk."""
        config = Config(chain_id=CHAIN_ID, node_id=self.ids[self.me], key=self.keys[self.me], **self.options)
        self.pending.clear()
        self.replica = Replica(config, self.disk.stored(), self.disk, self.entropy)

    # What the replica is

    @property
    def role(self) -> Role:
        return self.replica.status.role

    @property
    def term(self) -> int:
        return self.replica.status.term

    @property
    def voters(self) -> list[int]:
        """The indices of who votes at the end of this replica's log."""
        return [index for index, node_id in enumerate(self.ids) if self.replica.status.configuration.is_voter(node_id)]

    @property
    def voted_for(self) -> int | None:
        voted_for = self.replica.status.voted_for
        return None if voted_for is None else self.ids.index(voted_for)

    @property
    def terms(self) -> list[int]:
        """The terms of the blocks on disk."""
        return [entry.term for entry in self.disk.log]

    @property
    def last(self) -> tuple[int, int, Digest]:
        status = self.replica.status
        return status.last_term, status.last_height, status.last_hash

    # Driving

    def step(self, event: Event, *, write: bool = True) -> Seen:
        """Take one event in; unless told otherwise, write at once and report it."""
        seen = Seen()
        self._take(self.replica.step(event), seen)
        if write:
            self._write_all(seen)
        return seen

    def write(self, count: int | None = None) -> Seen:
        """Finish `count` (by default all) writes."""
        seen = Seen()
        self._write_all(seen, count)
        return seen

    def tick(self, count: int = 1, *, write: bool = True) -> Seen:
        """Let time pass."""
        seen = Seen()
        for _ in range(count):
            self.now_ms += TICK_MS
            self._take(self.replica.step(Tick(self.now_ms)), seen)
            if write:
                self._write_all(seen)
        return seen

    def receive(self, message: Message, *, sender: int | None = None, write: bool = True) -> Seen:
        """Take a message in from its author, or from `sender`."""
        return self.step(Received(message, self.author(message) if sender is None else self.ids[sender]), write=write)

    def author(self, message: Message) -> NodeId:
        return author_of(message)

    def _take(self, effects: Effects, seen: Seen) -> None:
        seen.messages.extend((self.ids.index(o.to), o.message) for o in effects.send)
        after = tuple((self.ids.index(o.to), o.message) for o in effects.send_after_persist)
        if effects.persist is not None:
            self.pending.append((effects.persist, after))
        else:
            assert not after
        seen.apply.extend(effects.apply)
        if effects.certificate is not None:
            seen.certificate = effects.certificate
            self.disk.commit_height = effects.certificate.height
            self.disk.certificates[effects.certificate.height] = effects.certificate
        seen.elected = effects.elected or seen.elected
        seen.stepped_down = seen.stepped_down or effects.stepped_down
        seen.removed = seen.removed or effects.removed
        seen.reads_ready.extend(effects.reads_ready)
        seen.reads_refused.extend(effects.reads_refused)
        seen.need_snapshot = effects.need_snapshot or seen.need_snapshot
        seen.alarms.extend(effects.alarms)

    def _write_all(self, seen: Seen, count: int | None = None) -> None:
        while self.pending and (count is None or count > 0):
            persist, after = self.pending.pop(0)
            self.disk.write(persist)
            seen.messages.extend(after)
            self._take(self.replica.step(self.persisted(persist)), seen)
            if count is not None:
                count -= 1

    def persisted(self, persist: Persist | None = None) -> Persisted:
        """Return the report of what is on disk now, after `persist` was written."""
        return persisted(self.disk, Persist() if persist is None else persist)

    # Becoming something

    def become_candidate(self) -> Seen:
        """Let the timer run out and let everybody agree to an election."""
        seen = Seen()
        for _ in range(100):
            if self.role is not Role.FOLLOWER:
                break
            tick = self.tick()
            seen.messages.extend(tick.messages)
            seen.elected = tick.elected
        assert self.role is not Role.FOLLOWER, "the timer ran out and nothing happened"
        for index in self.voters:
            if self.role is Role.PRECANDIDATE and index != self.me:
                term = self.term + 1
                other = self.receive(PreVoteReply(term, True, self.ids[index]))
                seen.messages.extend(other.messages)
        return seen

    def become_leader(self, *, first_block: bool = True) -> Seen:
        """Win an election with the votes of a majority, and propose the first block of the term."""
        seen = self.become_candidate()
        for index in self.voters:
            if self.role is Role.CANDIDATE and index != self.me:
                seen = self.receive(self.vote(index))
        assert self.role is Role.LEADER
        if first_block:
            seen.messages.extend(self.propose().messages)
        return seen

    def propose(self, payload: bytes = b"", *, configuration: Configuration | None = None, write: bool = True) -> Seen:
        """Propose a block upon the last one, perhaps one that changes the configuration."""
        _, last_height, last_hash = self.last
        entry = make_entry(self.term, last_height + 1, last_hash, payload, configuration)
        return self.step(Propose(entry, configuration), write=write)

    def change(self, voters: str, incoming: str | None = None, learners: str = "", *, write: bool = True) -> Seen:
        """Propose a block that makes this configuration (see `rules`)."""
        return self.propose(configuration=rules(voters, incoming, learners), write=write)

    def agree(self, *indices: int, commit_height: int = 0, round_id: int = 1) -> Seen:
        """Let these peers hold the whole log and acknowledge everything that is not committed yet."""
        seen = Seen()
        last_height = self.replica.status.last_height
        for index in indices:
            signed = [e for e in self.disk.log[self.disk.commit_height :] if e.term == self.term]
            reply = self.reply(index, last_height, signed=signed, commit_height=commit_height, round_id=round_id)
            seen.add(self.receive(reply))
        return seen

    # What the others say

    def vote(self, index: int, *, term: int | None = None, granted: bool = True) -> Vote:
        """Return a validator's vote for this replica's last block."""
        term = self.term if term is None else term
        if not granted:
            return Vote(term, False, self.ids[index], None)
        message = vote_message(CHAIN_ID, term, self.ids[self.me], *self.last)
        return Vote(term, True, self.ids[index], self.keys[index].sign(message))

    def request_vote(self, index: int, term: int, log: Sequence[Entry], *, transfer: bool = False) -> RequestVote:
        """Return a validator's request for votes with that log."""
        last_term, last_height, last_hash = end_of(log)
        return RequestVote(term, self.ids[index], last_term, last_height, last_hash, transfer)

    def is_signed(self, vote: Vote, request: RequestVote) -> bool:
        """Return whether the vote is the voter's signature for that request."""
        basis = (request.last_term, request.last_height, request.last_hash)
        message = vote_message(CHAIN_ID, vote.term, request.candidate, *basis)
        key = self.keys[self.ids.index(vote.voter)].public_key
        return vote.signature is not None and key.is_valid(message, vote.signature)

    def pre_vote(self, index: int, term: int, log: Sequence[Entry]) -> PreVote:
        """Return a validator's poll with that log."""
        return PreVote(term, self.ids[index], *end_of(log))

    def append(
        self,
        index: int,
        term: int,
        log: Sequence[Entry],
        prev_height: int,
        *,
        upto: int | None = None,
        commit_height: int = 0,
        certificate: CommitCertificate | None = None,
        round_id: int = 1,
    ) -> Append:
        """Return a leader's append of its `log` after `prev_height`, up to and including `upto`."""
        prev_term, _, prev_hash = end_of(log[:prev_height])
        entries = tuple(log[prev_height : len(log) if upto is None else upto])
        return Append(
            term,
            self.ids[index],
            prev_term,
            prev_height,
            prev_hash,
            entries,
            commit_height,
            None if certificate is None else encode_commit_certificate(certificate),
            round_id,
        )

    def acknowledgement(self, index: int, entry: Entry) -> Acknowledgement:
        """Return a validator's signed acknowledgement of a block in its own term."""
        message = acknowledgement_message(CHAIN_ID, entry.term, entry.height, entry.block_hash)
        return Acknowledgement(entry.height, entry.block_hash, self.keys[index].sign(message))

    def reply(
        self,
        index: int,
        match_height: int,
        *,
        term: int | None = None,
        signed: Sequence[Entry] = (),
        received_height: int | None = None,
        commit_height: int = 0,
        round_id: int = 1,
        promise_ms: int = 0,
    ) -> AppendReply:
        """Return a follower's answer that agrees up to `match_height` and acknowledges `signed`."""
        return AppendReply(
            term=self.term if term is None else term,
            follower=self.ids[index],
            ok=True,
            match_height=match_height,
            received_height=match_height if received_height is None else received_height,
            reject_height=0,
            hint_term=0,
            hint_height=0,
            commit_height=commit_height,
            round_id=round_id,
            acknowledgements=tuple(self.acknowledgement(index, entry) for entry in signed),
            promise_ms=promise_ms,
        )

    def refusal(
        self, index: int, reject_height: int, hint_height: int, hint_term: int, *, term: int | None = None
    ) -> AppendReply:
        """Return a follower's refusal with its hint."""
        return AppendReply(
            term=self.term if term is None else term,
            follower=self.ids[index],
            ok=False,
            match_height=0,
            received_height=0,
            reject_height=reject_height,
            hint_term=hint_term,
            hint_height=hint_height,
            commit_height=0,
            round_id=1,
            acknowledgements=(),
        )

    def certify(self, entry: Entry, signers: Sequence[int] | None = None) -> CommitCertificate:
        """Return a commit certificate for a block by `signers`, by default just a majority."""
        if signers is None:
            signers = range(majority(self.members))
        signatures = sorted((self.ids[i], self.acknowledgement(i, entry).signature) for i in signers)
        return CommitCertificate(entry.term, entry.height, entry.block_hash, tuple(signatures))


def rules(voters: str, incoming: str | None = None, learners: str = "") -> Configuration:
    """Return the configuration of the validators with these indices, one digit each."""
    keys = [key.public_key for key in sim_keys(9)]

    def group(digits: str) -> tuple[PublicKey, ...]:
        return tuple(keys[int(digit)] for digit in digits)

    return Configuration(group(voters), None if incoming is None else group(incoming), group(learners))


def changed(
    log: Sequence[Entry], term: int, voters: str, incoming: str | None = None, learners: str = ""
) -> list[Entry]:
    """Return `log` with a block of `term` upon it that makes this configuration."""
    _, height, last_hash = end_of(log)
    return [*log, make_entry(term, height + 1, last_hash, b"", rules(voters, incoming, learners))]


def end_of(log: Sequence[Entry]) -> tuple[int, int, Digest]:
    """Return term, height and hash of a log's last block; of genesis when there is none."""
    if not log:
        return 0, 0, SimDisk().last_hash
    return log[-1].term, log[-1].height, log[-1].block_hash


def fork(log: Sequence[Entry], height: int, terms: list[int], payload: bytes = b"fork") -> list[Entry]:
    """Return `log` up to `height`, followed by other blocks with these terms."""
    kept = list(log[:height])
    return kept + make_chain(terms, end_of(kept)[2], height + 1, payload)
