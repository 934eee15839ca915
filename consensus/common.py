"""What a replica has in every role, and the two things every role does: collect effects, and commit."""

from __future__ import annotations

from collections.abc import Callable

from consensus.certificates import Certificates
from consensus.config import Config, Role, Stored
from consensus.effects import NO_EFFECTS, Effects, NeedSnapshot, Outgoing, Persist
from consensus.log import LogReader, Position, RaftLog, Write, check_stored
from consensus.membership import Configuration, Configurations, build_configuration
from consensus.messages import Entry, Message, NodeId
from wire.certificate import (
    CommitCertificate,
    ElectionCertificate,
    acknowledgement_message,
    verify_commit_quorums,
    vote_message,
)
from wire.hashing import Digest
from wire.limits import BLOCK_BYTES_MAX

LastBlock = tuple[int, int, Digest]
"""Term, height and hash of a candidate's last block: what a vote is signed over, besides term and candidate."""


class Outbox:
    """The effects of one step while it runs."""

    __slots__ = (
        "after_persist",
        "alarms",
        "apply",
        "certificate",
        "elected",
        "need_snapshot",
        "reads_ready",
        "reads_refused",
        "removed",
        "send",
        "stepped_down",
        "write",
    )

    def __init__(self) -> None:
        """Begin empty."""
        self.send: list[Outgoing] = []
        self.after_persist: list[Outgoing] = []
        self.write: Write | None = None
        self.apply: list[Entry] = []
        self.certificate: CommitCertificate | None = None
        self.elected: ElectionCertificate | None = None
        self.stepped_down = False
        self.removed = False
        self.reads_ready: list[tuple[int, int]] = []
        self.reads_refused: list[int] = []
        self.need_snapshot: NeedSnapshot | None = None
        self.alarms: list[str] = []


class Common:
    """State that outlives roles. Only `consensus` modules touch it; the driver sees `Replica`."""

    def __init__(self, config: Config, stored: Stored, reader: LogReader, entropy: Callable[[int], int]) -> None:
        """Begin with what is on disk; see `Replica`."""
        check_stored(reader, stored.hard_state.term, stored.commit_height)
        self.config = config
        self.configurations = Configurations(stored.configurations or ((0, build_configuration(config.validators)),))
        self.log = RaftLog(reader, config.recent_bytes_max)
        self.certificates = Certificates(reader, stored.commit_certificate)
        self.hard_state = stored.hard_state
        self.hard_state_durable = stored.hard_state
        self.vote_basis: LastBlock | None = None
        """What the vote in `hard_state` was signed over; None when there is none or a restart has forgotten it."""
        self.commit_height = stored.commit_height
        self.role = Role.FOLLOWER
        self.leader: NodeId | None = None
        self.is_leader_gone = False
        """Whether the leader's end has closed the connection, and nothing has come from it since."""
        self.ticks = 0
        """Ticks since the start."""
        self.election_elapsed = 0
        """Ticks since a leader was heard, a vote was given, or an election began."""
        # Nobody knows what this node promised before it was started.
        self._bound_until = config.election_ticks if config.lease_reads else 0
        self._entropy = entropy
        self.election_timeout = 0
        self.draw_election_timeout()
        self._hard_state_before = self.hard_state
        self.out = Outbox()

    @property
    def term(self) -> int:
        """The current term."""
        return self.hard_state.term

    @property
    def configuration(self) -> Configuration:
        """The configuration that rules at the end of the log, as far as this node can know it."""
        return self.configurations.latest

    @property
    def is_voter(self) -> bool:
        """Whether this node votes in it."""
        return self.configurations.latest.is_voter(self.config.node_id)

    def may_sign(self, height: int) -> bool:
        """Return whether this node's acknowledgement of the block at `height` counts."""
        configuration = self.configurations.at(height)
        return configuration is not None and configuration.is_voter(self.config.node_id)

    @property
    def last_block(self) -> LastBlock:
        """Term, height and hash of the last block in memory."""
        return self.log.last_term, self.log.last_height, self.log.last_hash

    def draw_election_timeout(self) -> None:
        """Restart the election timer with a timeout of one to two times the least one."""
        self.election_elapsed = 0
        self.election_timeout = self.config.election_ticks + self._entropy(self.config.election_ticks)

    def hears_leader(self) -> bool:
        """Return whether a leader was heard within the least election timeout: then nobody else gets support (Raft 6, 9.6)."""
        return (
            self.leader is not None and not self.is_leader_gone and self.election_elapsed < self.config.election_ticks
        )

    @property
    def is_bound(self) -> bool:
        """Whether a leader may still rely on this node's promise to support nobody else and not to stand."""
        return self.ticks < self._bound_until

    def note_leader_heard(self) -> None:
        """Restart the timer, and promise the leader what the answer will say."""
        self.election_elapsed = 0
        if self.config.lease_reads:
            self._bound_until = self.ticks + self.config.election_ticks

    def note_leader_gone(self) -> None:
        """Wait no longer than a spread of the least timeout: the leader's process has ended, and who is left must not all stand at once."""
        self.is_leader_gone = True
        bound_for = max(self._bound_until - self.ticks, 0)
        soon = self.election_elapsed + bound_for + 1 + self._entropy(self.config.election_ticks)
        self.election_timeout = min(self.election_timeout, soon)

    def note_leader_back(self) -> None:
        """Be as patient with the leader as ever: its end closed the connection, but it lives."""
        if self.is_leader_gone:
            self.is_leader_gone = False
            self.draw_election_timeout()

    def is_up_to_date(self, position: Position) -> bool:
        """Return whether a log that ends at `position` is at least as up to date as everything written here (Raft 5.4.1)."""
        return position >= self.log.position

    # Signatures

    def sign_vote(self, candidate: NodeId, basis: LastBlock) -> bytes:
        """Return this validator's signature for `candidate` in the current term."""
        return self.config.key.sign(vote_message(self.config.chain_id, self.term, candidate, *basis))

    def sign_acknowledgement(self, height: int, block_hash: Digest) -> bytes:
        """Return this validator's signature for a durable block of the current term."""
        return self.config.key.sign(acknowledgement_message(self.config.chain_id, self.term, height, block_hash))

    def verify_certificate(self, certificate: CommitCertificate) -> None:
        """Return only when the certificate proves its block committed, under the configuration that rules at its height.

        Raises:
            InvalidCertificateError: As `wire.certificate.verify_commit_quorums`.
        """
        # Who ruled long ago is forgotten; then the oldest that is known must do, for alarms only: what is committed needs no proof.
        configuration = self.configurations.at(certificate.height) or self.configurations.tracked[0][1]
        verify_commit_quorums(certificate, self.config.chain_id, configuration.quorums)

    # Effects

    def send(self, to: NodeId, message: Message) -> None:
        """Let `message` leave at once."""
        self.out.send.append(Outgoing(to, message))

    def send_bound(self, to: NodeId, message: Message) -> None:
        """Let `message` leave once the hard state in memory is durable, which may be now."""
        if self.hard_state == self.hard_state_durable:
            self.out.send.append(Outgoing(to, message))
        else:
            self.out.after_persist.append(Outgoing(to, message))

    def alarm(self, code: str, sentence: str) -> None:
        """Tell the driver about something that an honest network never shows."""
        self.out.alarms.append(f"{code}: {sentence}")

    def commit(self, certificate: CommitCertificate) -> None:
        """Hand out every block up to the certificate's. It is verified, and its block is in the log and durable."""
        assert self.commit_height < certificate.height <= self.log.durable_height
        assert self.log.contains(certificate.height, certificate.block_hash)
        low = self.commit_height + 1
        was_member = self._is_committed_member()
        while low <= certificate.height:
            batch = self.log.entries(low, certificate.height - low + 1, BLOCK_BYTES_MAX)
            self.out.apply.extend(batch)
            low += len(batch)
        self.commit_height = certificate.height
        self.certificates.add(certificate)
        self.out.certificate = certificate
        self.configurations.forget_below(self.commit_height)
        if was_member and not self._is_committed_member():
            self.out.removed = True

    def _is_committed_member(self) -> bool:
        configuration = self.configurations.at(self.commit_height)
        return configuration is not None and configuration.is_member(self.config.node_id)

    def take_effects(self) -> Effects:
        """Return what this step collected, and begin the next one."""
        out = self.out
        hard_state_changed = self.hard_state is not self._hard_state_before
        self._hard_state_before = self.hard_state
        write = out.write
        # A reply that waits for a hard state of an earlier step writes it again: rare, and no order between persists is needed.
        hard_state = self.hard_state if hard_state_changed or out.after_persist else None
        if write is not None:
            persist: Persist | None = Persist(hard_state, write.truncate_from, write.entries)
        elif hard_state is not None:
            persist = Persist(hard_state)
        else:
            persist = None
        if persist is None and not (
            out.send
            or out.apply
            or out.elected
            or out.stepped_down
            or out.removed
            or out.reads_ready
            or out.reads_refused
            or out.need_snapshot
            or out.alarms
        ):
            return NO_EFFECTS
        self.out = Outbox()
        return Effects(
            send=tuple(out.send),
            persist=persist,
            send_after_persist=tuple(out.after_persist),
            apply=tuple(out.apply),
            certificate=out.certificate,
            elected=out.elected,
            stepped_down=out.stepped_down,
            removed=out.removed,
            reads_ready=tuple(out.reads_ready),
            reads_refused=tuple(out.reads_refused),
            need_snapshot=out.need_snapshot,
            alarms=tuple(out.alarms),
        )
