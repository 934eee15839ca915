"""The replica: one event in, its effects out.

This module decides which role a replica has and what a role gets to see; `follower`, `candidate` and `leader` say what a role does.

=============  =====================================================  ==============
role           becomes                                                upon
=============  =====================================================  ==============
follower       precandidate                                           election timeout, log durable
precandidate   candidate                                              a majority would vote for it
candidate      leader                                                 a majority did, its own vote durable
any            follower                                               a higher term, or a leader of its own term
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
from consensus.config import Config, Role, Status, Stored
from consensus.effects import (
    Effects,
    EntriesRefused,
    Event,
    HardState,
    PeerReachable,
    PeerUnreachable,
    Persisted,
    Propose,
    Received,
    Tick,
)
from consensus.errors import ProposalRefusedError
from consensus.follower import Following
from consensus.leader import Leadership
from consensus.limits import TERM_STEP_MAX
from consensus.log import LogReader
from consensus.messages import (
    Append,
    AppendReply,
    Message,
    NodeId,
    PreVote,
    PreVoteReply,
    RequestVote,
    Vote,
)
from consensus.quorum import VoteResult
from wire.hashing import Digest

__all__ = ["Config", "HardState", "LogReader", "Replica", "Role", "Status", "Stored"]


class Replica:
    """One Raft replica. Not thread-safe: one task owns it."""

    __slots__ = ("_candidacy", "_common", "_following", "_leadership", "_precandidacy", "_refused")

    def __init__(self, config: Config, stored: Stored, log: LogReader, entropy: Callable[[int], int]) -> None:
        """Start as a follower with what the disk holds.

        Args:
            config: Identity, validators and limits.
            stored: Hard state and commit height from disk.
            log: Reads the durable log.
            entropy: ``entropy(n)`` returns an integer from 0 to n - 1; spreads election timeouts.

        Raises:
            StoredStateError: ``consensus.stored.*`` when what the disk holds contradicts itself.
        """
        self._common = Common(config, stored, log, entropy)
        self._refused: dict[Digest, int] = {}
        self._following = Following(self._common, self._refused)
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
            match=leadership.match if leadership else MappingProxyType({}),
            heard=leadership.heard if leadership else MappingProxyType({}),
            round_confirmed=leadership.round_confirmed if leadership else 0,
        )

    def step(self, event: Event) -> Effects:
        """Take one event in and return what the driver must do; `consensus/effects.py` states the driver's duties.

        Raises:
            ProposalRefusedError: For `Propose` only: ``consensus.not_leader``, ``consensus.stale_proposal`` or
                ``consensus.window_full``; nothing has changed.
        """
        match event:
            case Received(message, sender):
                self._receive(message, sender)
            case Persisted():
                self._note_persisted(event)
            case Tick():
                self._tick()
            case Propose(entry):
                if self._leadership is None:
                    raise ProposalRefusedError(
                        "consensus.not_leader",
                        "only the leader proposes blocks",
                        hint="send the transactions to the leader",
                    )
                self._leadership.propose(entry)
            case EntriesRefused(height, block_hash, reason):
                self._note_refused(height, block_hash, reason)
            case PeerUnreachable(peer):
                if self._leadership is not None:
                    self._leadership.note_unreachable(peer)
            case PeerReachable(peer):
                if self._leadership is not None:
                    self._leadership.note_reachable(peer)
            case _ as never:
                assert_never(never)
        return self._common.take_effects()

    # Time

    def _tick(self) -> None:
        common = self._common
        common.ticks += 1
        if self._leadership is not None:
            if not self._leadership.tick():
                self._become_follower(common.term, None)
            return
        common.election_elapsed += 1
        if common.election_elapsed < common.election_timeout or not common.is_voter:
            return
        self._following.drop_held()
        # Only durable blocks may be claimed. Blocks on their way to the disk will be there in a moment; a disk that hangs must not lead.
        if common.log.is_durable:
            self._begin_poll()

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
                self._set_role(Role.CANDIDATE, None)
                self._common.draw_election_timeout()
                self._candidacy = Candidacy(self._common)
                self._following = Following(self._common, self._refused)
            case VoteResult.LOST:
                # The timer keeps running: the next poll comes after the timeout, not at once.
                self._set_role(Role.FOLLOWER, None)
            case VoteResult.PENDING:
                pass

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
        self._common.role = role
        self._common.leader = leader
        self._precandidacy = None
        self._candidacy = None
        self._leadership = None

    # The disk

    def _note_persisted(self, event: Persisted) -> None:
        common = self._common
        common.hard_state_durable = event.hard_state
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

    # Messages

    def _receive(self, message: Message, sender: NodeId) -> None:
        common = self._common
        if not common.configuration.is_member(sender) or sender == common.config.node_id:
            common.alarm("consensus.stranger", f"a message came from {sender.hex()}, which is no other validator")
            return
        if _author(message) != sender:
            common.alarm("consensus.sender", f"{sender.hex()} sent a message in the name of {_author(message).hex()}")
            return
        if message.term > common.term + TERM_STEP_MAX:
            common.alarm("consensus.term", f"{sender.hex()} names term {message.term}, far ahead of {common.term}")
            return
        match message:
            case Append():
                self._receive_append(message)
            case AppendReply():
                if message.term > common.term:
                    self._become_follower(message.term, None)
                elif message.term == common.term and self._leadership is not None:
                    self._leadership.handle_reply(message)
            case PreVote():
                self._receive_pre_vote(message)
            case PreVoteReply():
                self._receive_pre_vote_reply(message)
            case RequestVote():
                self._receive_request_vote(message)
            case Vote():
                if message.term > common.term:
                    self._become_follower(message.term, None)
                elif message.term == common.term and self._candidacy is not None:
                    self._candidacy.handle_vote(message)
                    self._conclude_election()
            case _ as never:
                assert_never(never)

    def _receive_append(self, message: Append) -> None:
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
        common.election_elapsed = 0
        self._following.handle_append(message)

    def _refuse_stale(self, message: Append) -> AppendReply:
        common = self._common
        return AppendReply(
            term=common.term,
            follower=common.config.node_id,
            ok=False,
            match_height=0,
            received_height=0,
            reject_height=message.prev_height,
            hint_term=0,
            hint_height=0,
            commit_height=common.commit_height,
            round_id=0,
            acknowledgements=(),
        )

    def _receive_pre_vote(self, message: PreVote) -> None:
        common = self._common
        granted = (
            common.is_voter
            and message.term > common.term
            and common.role is not Role.LEADER
            and not common.hears_leader()
            and self._may_support(message)
        )
        # A refusal names our own term, so that a candidate that is behind catches up; a grant names the candidate's and binds nobody.
        term = message.term if granted else common.term
        common.send(message.candidate, PreVoteReply(term, granted, common.config.node_id))

    def _receive_pre_vote_reply(self, message: PreVoteReply) -> None:
        if not message.granted and message.term > self._common.term:
            self._become_follower(message.term, None)
        elif self._precandidacy is not None:
            self._precandidacy.handle_reply(message)
            self._conclude_poll()

    def _receive_request_vote(self, message: RequestVote) -> None:
        common = self._common
        if message.term > common.term:
            if not message.transfer and (common.role is Role.LEADER or common.hears_leader()):
                # A leader that is heard is not deposed by somebody who does not hear it (Raft 6, last problem): not even the term moves.
                return
            self._become_follower(message.term, None)
        basis = (message.last_term, message.last_height, message.last_hash)
        voted_for = common.hard_state.voted_for
        granted = (
            common.is_voter
            and message.term == common.term
            and common.leader is None
            # Once more for the same request only: after a restart nobody knows any more what was signed.
            and (voted_for is None or (voted_for == message.candidate and common.vote_basis == basis))
            and self._may_support(message)
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

    def _may_support(self, message: PreVote | RequestVote) -> bool:
        """Return whether the candidate's log may lead ours: at least as up to date, and not against what is committed here."""
        common = self._common
        last_height, last_hash = message.last_height, message.last_hash
        if not common.is_up_to_date((message.last_term, last_height)):
            return False
        if last_height < common.commit_height:
            common.alarm(
                "consensus.fork", f"{message.candidate.hex()} stands for election without what is committed here"
            )
            return False
        if last_height <= common.log.last_height:
            term, block_hash = common.log.term_and_hash(last_height)
            if block_hash != last_hash and (last_height == common.commit_height or term == message.last_term):
                common.alarm(
                    "consensus.equivocation",
                    f"two blocks at height {last_height}: {block_hash.hex()} and {last_hash.hex()} of {message.candidate.hex()}",
                )
                return False
        return True


def _author(message: Message) -> NodeId:
    match message:
        case Append():
            return message.leader
        case AppendReply():
            return message.follower
        case PreVote() | RequestVote():
            return message.candidate
        case PreVoteReply() | Vote():
            return message.voter
        case _ as never:
            assert_never(never)
