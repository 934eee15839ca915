"""Standing for election: first asking whether it could be won (PreVote), then asking for signed votes.

Source: Raft 5.2, 9.6; docs/spec/consensus.md 4.
"""

from __future__ import annotations

from consensus.common import Common, LastBlock
from consensus.effects import HardState
from consensus.messages import NodeId, PreVote, PreVoteReply, RequestVote, Vote
from consensus.quorum import VoteResult
from wire.certificate import ElectionCertificate, vote_message


class PreCandidacy:
    """A poll before an election. It changes nobody's term and binds nobody."""

    __slots__ = ("_answers", "_common")

    def __init__(self, common: Common) -> None:
        """Ask every other voter."""
        self._common = common
        self._answers = {common.config.node_id: True}
        last_term, last_height, last_hash = common.last_block
        for peer in common.configuration.other_voters(common.config.node_id):
            common.send(peer, PreVote(common.term + 1, common.config.node_id, last_term, last_height, last_hash))

    @property
    def result(self) -> VoteResult:
        """How the poll stands."""
        return self._common.configuration.vote_result(self._answers)

    def handle_reply(self, message: PreVoteReply) -> None:
        """Count the answer if it belongs to this poll."""
        if message.granted and message.term == self._common.term + 1:
            self._answers[message.voter] = True
        elif not message.granted:
            self._answers.setdefault(message.voter, False)


class Candidacy:
    """An election. Begins a new term with a vote for itself, which counts like every other when it is durable."""

    __slots__ = ("_answers", "_basis", "_common", "_signatures")

    def __init__(self, common: Common, *, transfer: bool = False) -> None:
        """Raise the term, vote for this node, and ask every other voter when that is durable.

        Args:
            common: The replica's state.
            transfer: The leader asked for this election, so those who hear it need not withhold their votes.
        """
        assert common.log.is_durable, "a candidate claims only blocks that are on its disk"
        self._common = common
        self._basis: LastBlock = common.last_block
        self._answers: dict[NodeId, bool] = {}
        self._signatures: dict[NodeId, bytes] = {}
        common.hard_state = HardState(common.term + 1, common.config.node_id)
        common.vote_basis = self._basis
        last_term, last_height, last_hash = self._basis
        for peer in common.configuration.other_voters(common.config.node_id):
            request = RequestVote(common.term, common.config.node_id, last_term, last_height, last_hash, transfer)
            common.send_bound(peer, request)

    @property
    def result(self) -> VoteResult:
        """How the election stands."""
        return self._common.configuration.vote_result(self._answers)

    def note_durable(self) -> None:
        """Count this node's own vote once it is on disk."""
        common = self._common
        me = common.config.node_id
        if common.hard_state_durable == common.hard_state and me not in self._answers:
            self._answers[me] = True
            self._signatures[me] = common.sign_vote(me, self._basis)

    def handle_vote(self, message: Vote) -> None:
        """Count the vote if its signature holds; a refusal counts too. The term is known to be the current one."""
        common = self._common
        key = common.configuration.keys.get(message.voter)
        if key is None or message.voter in self._answers:
            # Who is no voter was not asked.
            return
        if message.signature is not None:
            signed = vote_message(common.config.chain_id, common.term, common.config.node_id, *self._basis)
            if not key.is_valid(signed, message.signature):
                common.alarm(
                    "consensus.vote_signature", f"a vote of {message.voter.hex()} has a signature that does not hold"
                )
                return
            self._signatures[message.voter] = message.signature
        self._answers[message.voter] = message.granted

    def build_certificate(self) -> ElectionCertificate:
        """Return the proof that this node was elected."""
        assert self.result is VoteResult.WON
        last_term, last_height, last_hash = self._basis
        return ElectionCertificate(
            term=self._common.term,
            candidate=self._common.config.node_id,
            last_term=last_term,
            last_height=last_height,
            last_hash=last_hash,
            signatures=tuple(sorted(self._signatures.items())),
        )
