"""The replica: one event in, its effects out.

This module decides which role a replica has and what a role gets to see; `follower`, `candidate` and `leader` say what a role does.

=============  =====================================================  ==============
role           becomes                                                upon
=============  =====================================================  ==============
follower       precandidate                                           election timeout, log durable
precandidate   candidate                                              a majority would vote for it
candidate      leader                                                 a majority did, its own vote durable
any            follower                                               a higher term, or a leader of its own term
follower       candidate                                              the leader asks it to take over
leader         follower                                               no majority heard for an election timeout
=============  =====================================================  ==============

Source: docs/spec/consensus.md.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import assert_never

from consensus.candidate import Candidacy, PreCandidacy
from consensus.common import Common
from consensus.config import Config, NextBlock, Role, Status, Stored
from consensus.effects import (
    Effects,
    EntriesRefused,
    Event,
    HardState,
    InstalledSnapshot,
    PeerReachable,
    PeerUnreachable,
    Persisted,
    Propose,
    ReadIndex,
    Received,
    Tick,
    TransferLeadership,
    hard_state_after_snapshot,
)
from consensus.errors import ProposalRefusedError, TransferRefusedError
from consensus.follower import Following
from consensus.leader import Leadership
from consensus.limits import STAND_BACK_TIMEOUTS, TERM_STEP_MAX
from consensus.log import LogReader
from consensus.messages import (
    Append,
    AppendReply,
    Message,
    NodeId,
    PreVote,
    PreVoteReply,
    ReadIndexReply,
    ReadIndexRequest,
    RequestVote,
    SnapshotOffer,
    TimeoutNow,
    Vote,
    author_of,
)
from consensus.quorum import VoteResult
from consensus.reads import ForwardedReads, Read
from consensus.voter import answer_pre_vote, may_support, must_withhold
from wire.hashing import Digest

__all__ = ["Config", "HardState", "LogReader", "Replica", "Role", "Status", "Stored"]


class Replica:
    """One Raft replica. Not thread-safe: one task owns it."""

    __slots__ = ("_candidacy", "_common", "_following", "_forwarded", "_leadership", "_precandidacy", "_refused")

    def __init__(self, config: Config, stored: Stored, log: LogReader, entropy: Callable[[int], int]) -> None:
        """Start as a follower with what the disk holds.

        Args:
            config: Identity, validators and limits.
            stored: Hard state and commit height from disk.
            log: Reads the durable log.
            entropy: ``entropy(n)`` returns an integer from 0 to n - 1; spreads election timeouts, and makes this run's reads unlike those
                of the last one.

        Raises:
            StoredStateError: ``consensus.stored.*`` when what the disk holds contradicts itself.
        """
        self._common = Common(config, stored, log, entropy)
        self._refused: dict[Digest, int] = {}
        self._following = Following(self._common, self._refused)
        self._forwarded = ForwardedReads(self._common, entropy)
        self._precandidacy: PreCandidacy | None = None
        self._candidacy: Candidacy | None = None
        self._leadership: Leadership | None = None

    @property
    def status(self) -> Status:
        """What this replica knows now."""
        common, leadership = self._common, self._leadership
        last_term, last_height, last_hash = common.last_block
        return Status(
            role=common.role,
            term=common.term,
            leader=common.leader,
            voted_for=common.hard_state.voted_for,
            last_term=last_term,
            last_height=last_height,
            last_hash=last_hash,
            durable_height=common.log.durable_height,
            commit_height=common.commit_height,
            match=leadership.peers.match if leadership else MappingProxyType({}),
            heard=leadership.peers.heard if leadership else MappingProxyType({}),
            round_confirmed=leadership.peers.round_confirmed if leadership else 0,
            configuration=common.configuration,
            configuration_height=common.configurations.latest_height,
            can_change_configuration=leadership.can_change_configuration if leadership else False,
            transfer_to=leadership.transfer_to if leadership else None,
            progress=leadership.peers.progress if leadership else MappingProxyType({}),
        )

    @property
    def role(self) -> Role:
        """What this replica is now; of the status, what is asked for with every transaction."""
        return self._common.role

    @property
    def next_block(self) -> NextBlock | None:
        """What a leader builds its next block upon; None for everybody else."""
        common, leadership = self._common, self._leadership
        if leadership is None:
            return None
        _, last_height, last_hash = common.last_block
        return NextBlock(common.term, last_height, last_hash, common.commit_height, leadership.can_change_configuration)

    @property
    def leadership(self) -> tuple[int, NodeId | None]:
        """The term, and who leads in it as far as this replica knows: of the status, what is asked for after every event."""
        return self._common.term, self._common.leader

    def needs_snapshot(self, height: int, term: int, block_hash: Digest) -> bool:
        """Return whether this node may give up its log for a snapshot of that block, and has something from it.

        Not below what is committed here. Not when the block is in the log: what stands upon it may be acknowledged, and others count on
        it. And not when the log ends at a higher position: who has acknowledged that must not come to vote for less (docs/spec/consensus.md
        6.3); then a snapshot of a later leader's block will do.
        """
        common = self._common
        return (
            common.role is Role.FOLLOWER
            and height > common.commit_height
            and (term, height) >= common.log.position
            and not common.log.contains(height, block_hash)
        )

    def step(self, event: Event) -> Effects:
        """Take one event in and return what the driver must do; `consensus/effects.py` states the driver's duties.

        Raises:
            ProposalRefusedError: For `Propose` only; nothing has changed.
            TransferRefusedError: For `TransferLeadership` only; nothing has changed.
        """
        match event:
            case Received(message, sender, now_ms):
                self._receive(message, sender, now_ms)
            case Persisted():
                self._note_persisted(event)
            case Tick(now_ms):
                self._tick(now_ms)
            case EntriesRefused(height, block_hash, reason):
                self._note_refused(height, block_hash, reason)
            case ReadIndex(request_id, now_ms):
                if self._leadership is not None:
                    self._leadership.read(Read(request_id), now_ms)
                else:
                    self._forwarded.add(request_id)
            case InstalledSnapshot():
                self._install(event)
            case Propose() | TransferLeadership() | PeerUnreachable() | PeerReachable():
                self._lead(event)
            case _ as never:
                assert_never(never)
        return self._common.take_effects()

    def _lead(self, event: Propose | TransferLeadership | PeerUnreachable | PeerReachable) -> None:
        leadership = self._leadership
        match event:
            case Propose(entry, configuration):
                if leadership is None:
                    raise ProposalRefusedError(
                        "consensus.not_leader",
                        "only the leader proposes blocks",
                        hint="send the transactions to the leader",
                    )
                leadership.propose(entry, configuration)
            case TransferLeadership(to):
                if leadership is None:
                    raise TransferRefusedError(
                        "consensus.not_leader", "only the leader hands leadership over", hint="ask the leader"
                    )
                leadership.transfer(to)
            case PeerUnreachable(peer, is_closed):
                if leadership is not None:
                    leadership.peers.note_unreachable(peer)
                elif is_closed and peer == self._common.leader:
                    self._common.note_leader_gone()
            case PeerReachable(peer):
                if leadership is not None:
                    leadership.peers.note_reachable(peer)
                elif peer == self._common.leader:
                    self._common.note_leader_back()
            case _ as never:
                assert_never(never)

    # Time

    def _tick(self, now_ms: int | None) -> None:
        common = self._common
        common.ticks += 1
        self._forwarded.tick()
        if self._leadership is not None:
            if not self._leadership.tick(now_ms):
                self._step_down(is_refused=self._leadership.is_refused)
            return
        common.election_elapsed += 1
        if common.election_elapsed < common.election_timeout or not common.is_voter or common.is_bound:
            return
        self._following.drop_held()
        # Only durable blocks may be claimed. Blocks on their way to the disk will be there in a moment; a disk that hangs must not lead.
        if common.log.is_durable:
            self._begin_poll()

    def _step_down(self, *, is_refused: bool) -> None:
        common = self._common
        self._become_follower(common.term, None)
        if is_refused:
            common.alarm(
                "consensus.leader_refused", "so many validators refuse this leader's blocks that none is committed"
            )
            # Its log is the longest, so it would win again; the others must have their turn.
            common.election_timeout += STAND_BACK_TIMEOUTS * common.config.election_ticks

    # Elections

    def _begin_poll(self) -> None:
        common = self._common
        self._set_role(Role.PRECANDIDATE, None)
        common.draw_election_timeout()
        self._precandidacy = PreCandidacy(common)
        self._conclude_poll()

    def _conclude_poll(self) -> None:
        assert self._precandidacy is not None
        match self._precandidacy.result:
            case VoteResult.WON:
                self._stand(transfer=False)
            case VoteResult.LOST:
                # The timer keeps running: the next poll comes after the timeout, not at once.
                self._set_role(Role.FOLLOWER, None)
            case VoteResult.PENDING:
                pass

    def _stand(self, *, transfer: bool) -> None:
        self._set_role(Role.CANDIDATE, None)
        self._common.draw_election_timeout()
        self._candidacy = Candidacy(self._common, transfer=transfer)
        self._following = Following(self._common, self._refused)

    def _conclude_election(self) -> None:
        assert self._candidacy is not None
        common = self._common
        match self._candidacy.result:
            case VoteResult.WON if common.hard_state_durable == common.hard_state:
                certificate = self._candidacy.build_certificate()
                self._set_role(Role.LEADER, common.config.node_id)
                self._leadership = Leadership(common)
                common.out.elected = certificate
            case VoteResult.LOST:
                self._set_role(Role.FOLLOWER, None)
            case _:
                pass

    def _become_follower(self, term: int, leader: NodeId | None) -> None:
        common = self._common
        if common.role is Role.LEADER:
            common.out.stepped_down = True
            common.draw_election_timeout()
        self._following.drop_held()
        self._set_role(Role.FOLLOWER, leader)
        if term > common.term:
            common.hard_state = HardState(term, None)
            common.vote_basis = None
        self._following = Following(common, self._refused)

    def _set_role(self, role: Role, leader: NodeId | None) -> None:
        common = self._common
        if self._leadership is not None:
            self._leadership.refuse_reads()
            common.configurations.withdraw()
        self._forwarded.refuse_all()
        common.role = role
        common.leader = leader
        common.is_leader_gone = False
        self._precandidacy = None
        self._candidacy = None
        self._leadership = None

    # The disk

    def _note_persisted(self, event: Persisted) -> None:
        common = self._common
        common.hard_state_durable = event.hard_state
        common.configurations.note_written(event.truncate_from, event.configurations, common.commit_height)
        if self._candidacy is not None:
            self._candidacy.note_durable()
            self._conclude_election()
        if common.log.mark_durable(event.upto_height, event.block_hash):
            if self._leadership is not None:
                self._leadership.note_durable()
            else:
                self._following.note_durable()

    def _note_refused(self, height: int, block_hash: Digest, reason: str) -> None:
        common = self._common
        if height <= common.log.durable_height or not common.log.contains(height, block_hash):
            # Something else has taken the place of these blocks already.
            return
        if self._leadership is not None:
            common.alarm("consensus.own_block_refused", "this node's ledger refused a block that this node made")
            self._become_follower(common.term, None)
        self._following.note_refused(height, block_hash, reason)

    def _install(self, event: InstalledSnapshot) -> None:
        common, configurations = self._common, self._common.configurations
        # The log can be asked no more whether it has the block, since the disk has changed under it; the driver did before.
        assert common.role is Role.FOLLOWER
        assert event.height > common.commit_height
        self._following.drop_held()
        assert common.hard_state == common.hard_state_durable, "nothing was being written"
        common.hard_state_durable = hard_state_after_snapshot(common.hard_state, event.term)
        if event.term > common.term:
            self._become_follower(event.term, None)
        was_member = configurations.latest.is_member(common.config.node_id)
        configurations.reset(event.height, event.configuration)
        common.log.reload()
        assert (common.log.last_height, common.log.last_hash) == (event.height, event.block_hash)
        common.commit_height = event.height
        common.certificates.reset(event.certificate)
        common.out.removed = was_member and not event.configuration.is_member(common.config.node_id)
        self._following = Following(common, self._refused)
        self._following.reply()

    # Messages

    def _receive(self, message: Message, sender: NodeId, now_ms: int | None) -> None:
        common = self._common
        if sender == common.config.node_id or not self._is_admitted(message, sender):
            common.alarm("consensus.stranger", f"a message came from {sender.hex()}, which is no other member")
            return
        if author_of(message) != sender:
            common.alarm("consensus.sender", f"{sender.hex()} sent a message in the name of {author_of(message).hex()}")
            return
        if message.term > common.term + TERM_STEP_MAX:
            common.alarm("consensus.term", f"{sender.hex()} names term {message.term}, far ahead of {common.term}")
            return
        match message:
            case Append() | SnapshotOffer():
                self._receive_from_leader(message)
            case PreVote():
                answer_pre_vote(common, message)
            case RequestVote():
                self._receive_request_vote(message)
            case TimeoutNow():
                self._receive_timeout_now(message)
            case PreVoteReply():
                self._receive_pre_vote_reply(message)
            case AppendReply() | Vote() | ReadIndexRequest() | ReadIndexReply():
                self._receive_in_term(message, now_ms)
            case _ as never:
                assert_never(never)

    def _receive_in_term(
        self, message: AppendReply | Vote | ReadIndexRequest | ReadIndexReply, now_ms: int | None
    ) -> None:
        """Take in what means something in its own term only. A voter's later term is followed; readers only wait for an answer."""
        common = self._common
        if message.term > common.term and isinstance(message, AppendReply | Vote):
            self._become_follower(message.term, None)
        if message.term != common.term:
            return
        match message:
            case AppendReply():
                if self._leadership is not None:
                    self._leadership.handle_reply(message)
            case Vote():
                if self._candidacy is not None:
                    self._candidacy.handle_vote(message)
                    self._conclude_election()
            case ReadIndexRequest(_, follower, number):
                if self._leadership is not None:
                    self._leadership.read(Read(number, follower), now_ms)
            case ReadIndexReply():
                if message.leader == common.leader:
                    self._forwarded.handle_reply(message)
            case _ as never:
                assert_never(never)

    def _is_admitted(self, message: Message, sender: NodeId) -> bool:
        """Return whether the sender is a member, or may be one without this node's knowing it yet.

        Changes that are decided may not have come here, so somebody unknown may lead or be elected (thesis 4.1): it is listened to as long
        as no leader is heard. A node that hears its leader cannot be led astray by whoever was removed, or never was a member.
        """
        common = self._common
        if sender == common.leader or common.configurations.names(sender):
            return True
        may_lead = isinstance(message, Append | SnapshotOffer | PreVote | RequestVote)
        return may_lead and common.role is not Role.LEADER and not common.hears_leader()

    def _receive_from_leader(self, message: Append | SnapshotOffer) -> None:
        common = self._common
        if message.term < common.term:
            # Tells a leader that was overtaken, and lets one with a lower term than this node's find out.
            common.send_bound(message.leader, self._refuse_stale(message))
            return
        if common.role is Role.LEADER and message.term == common.term:
            common.alarm(
                "consensus.two_leaders",
                f"{message.leader.hex()} claims to lead term {message.term}, which this node leads",
            )
            return
        if message.term > common.term or common.role is not Role.FOLLOWER:
            self._become_follower(message.term, message.leader)
        elif common.leader is None:
            common.leader = message.leader
        elif common.leader != message.leader:
            common.alarm(
                "consensus.two_leaders",
                f"{message.leader.hex()} and {common.leader.hex()} both claim to lead term {message.term}",
            )
            return
        common.note_leader_back()
        common.note_leader_heard()
        match message:
            case Append():
                self._following.handle_append(message)
            case SnapshotOffer():
                self._following.handle_offer(message)
            case _ as never:
                assert_never(never)

    def _refuse_stale(self, message: Append | SnapshotOffer) -> AppendReply:
        common = self._common
        return AppendReply(
            term=common.term,
            follower=common.config.node_id,
            ok=False,
            match_height=0,
            received_height=0,
            reject_height=message.prev_height if isinstance(message, Append) else 0,
            hint_term=0,
            hint_height=0,
            commit_height=common.commit_height,
            round_id=0,
            acknowledgements=(),
        )

    def _receive_pre_vote_reply(self, message: PreVoteReply) -> None:
        if not message.granted and message.term > self._common.term:
            self._become_follower(message.term, None)
        elif self._precandidacy is not None:
            self._precandidacy.handle_reply(message)
            self._conclude_poll()

    def _receive_request_vote(self, message: RequestVote) -> None:
        common = self._common
        if message.term > common.term:
            if must_withhold(common, message):
                return
            self._become_follower(message.term, None)
        basis = (message.last_term, message.last_height, message.last_hash)
        voted_for = common.hard_state.voted_for
        granted = (
            message.term == common.term
            and common.leader is None
            and (message.transfer or not common.is_bound)
            # Once more for the same request only: after a restart nobody knows any more what was signed.
            and (voted_for is None or (voted_for == message.candidate and common.vote_basis == basis))
            and may_support(common, message)
        )
        if granted:
            if voted_for is None:
                common.hard_state = HardState(common.term, message.candidate)
                common.vote_basis = basis
                if common.role is Role.PRECANDIDATE:
                    self._set_role(Role.FOLLOWER, None)
            common.draw_election_timeout()
            signature = common.sign_vote(message.candidate, basis)
            common.send_bound(message.candidate, Vote(common.term, True, common.config.node_id, signature))
        else:
            common.send_bound(message.candidate, Vote(common.term, False, common.config.node_id, None))

    def _receive_timeout_now(self, message: TimeoutNow) -> None:
        common = self._common
        if (message.term, message.leader) != (common.term, common.leader) or common.role is not Role.FOLLOWER:
            return
        # The leader has seen this node's disk hold everything; if more has come since, the hand-over was given up.
        if common.is_voter and common.log.is_durable:
            self._stand(transfer=True)
