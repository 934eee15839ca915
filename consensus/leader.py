"""Leading: proposing, counting signed acknowledgements, certifying, keeping the followers' timers quiet, handing over.

Source: Raft 5.3, 5.4.2, 6; thesis 3.10, 4, 6.2 (CheckQuorum), 6.4; docs/spec/consensus.md 5 to 11.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from consensus.acknowledgements import AcknowledgementBook
from consensus.common import Common
from consensus.errors import ProposalRefusedError
from consensus.lease import Lease
from consensus.limits import REFUSED_TIMEOUTS
from consensus.log import Write
from consensus.membership import Configuration
from consensus.messages import AppendReply, Entry, NodeId, TimeoutNow
from consensus.reads import LeaderReads, Read
from consensus.replication import Replication
from consensus.transfer import Transfer, choose_successor, find_successor


class Leadership:
    """What a leader knows for the time of its term."""

    __slots__ = (
        "_book",
        "_common",
        "_elapsed",
        "_has_committed",
        "_lease",
        "_reads",
        "_refused_at",
        "_refused_timeouts",
        "_transfer",
        "_transfer_not_before",
        "_uncommitted",
        "_uncommitted_bytes",
        "peers",
    )

    def __init__(self, common: Common) -> None:
        """Tell every peer at once who leads."""
        assert common.log.is_durable
        self._common = common
        self.peers = Replication(common)
        """How far each peer is, and what it is sent."""
        self._book = AcknowledgementBook(common)
        self._reads = LeaderReads(common)
        self._lease = Lease(common.config)
        self._elapsed = 0
        self._has_committed = False
        self._refused_at = 0
        self._refused_timeouts = 0
        self._transfer: Transfer | None = None
        self._transfer_not_before = 0
        self._uncommitted: deque[tuple[int, int]] = deque()
        self._uncommitted_bytes = 0
        self.peers.heartbeat()

    # Reading

    @property
    def can_change_configuration(self) -> bool:
        """Whether a block that changes the configuration may be proposed: one of this term, and the last such block, are committed.

        The first keeps a leader from building upon a configuration that an earlier one has replaced elsewhere (the single-step bug of
        2015), the second keeps uncommitted changes from piling up. And not by a leader that is on its way out.
        """
        return self._is_settled and self._transfer is None and not self._is_leaving

    @property
    def _is_settled(self) -> bool:
        common = self._common
        return self._has_committed and common.configurations.latest_height <= common.commit_height

    @property
    def _is_leaving(self) -> bool:
        return self._common.config.node_id not in self._common.configuration.successors

    @property
    def transfer_to(self) -> NodeId | None:
        """Who is to take over."""
        return None if self._transfer is None else self._transfer.to

    # Events

    def propose(self, entry: Entry, configuration: Configuration | None) -> None:
        """Append the block, send it and have it written.

        Raises:
            ProposalRefusedError: ``consensus.stale_proposal``, ``consensus.transferring``, ``consensus.window_full``,
                ``consensus.configuration_busy``, ``consensus.leaving``, ``consensus.configuration_unready``; nothing has changed.
        """
        common, log = self._common, self._common.log
        self._check_proposal(entry)
        if configuration is not None:
            self._check_change(configuration)
        log.append(entry)
        self._uncommitted.append((entry.height, len(entry.data)))
        self._uncommitted_bytes += len(entry.data)
        common.out.write = Write(None, (entry,))
        if configuration is not None:
            # It rules from now on, not from its commitment on (Raft 6).
            common.configurations.propose(entry.height, configuration)
            self.peers.change(configuration, self._elapsed)
        self.peers.feed_all()

    @property
    def is_refused(self) -> bool:
        """Whether followers who refuse this leader's blocks have kept it from committing anything for too long."""
        return self._refused_timeouts >= REFUSED_TIMEOUTS

    def tick(self, now_ms: int | None = None) -> bool:
        """Take note of time; return False when no majority was heard for an election timeout, or none takes this leader's blocks."""
        config = self._common.config
        self._elapsed += 1
        self._lease.note_tick(now_ms)
        if self._transfer is not None and self._elapsed >= self._transfer.until:
            self._transfer = None
            self._transfer_not_before = self._elapsed + config.election_ticks
        self.peers.drop_departed(self._elapsed)
        if self._elapsed % config.heartbeat_ticks == 0:
            self._lease.note_round(self.peers.round_id + 1)
            self.peers.heartbeat()
            self._hand_over_if_ready(again=True)
        if self._elapsed % config.election_ticks == 0:
            self._count_refusals()
            if self.is_refused or not self.peers.check_quorum():
                return False
        self._leave_if_due()
        return True

    def note_durable(self) -> None:
        """Count this leader's own disk."""
        # Its own height too: where nobody else is needed, nobody acknowledges anything.
        self._commit([*self._book.heights(), self._common.log.durable_height])

    def handle_reply(self, message: AppendReply) -> None:
        """Take note of what a peer holds, certify what a majority acknowledged, and send what comes next."""
        peer = message.follower
        progress = self.peers.find(peer)
        if progress is None:
            return
        progress.heard = True
        self._lease.note_promise(peer, message.round_id, message.promise_ms)
        if message.round_id > progress.round_id:
            progress.round_id = min(message.round_id, self.peers.round_id)
            self._advance_reads()
        if not self.peers.note_answer(peer, progress, message):
            return
        heights = self._book.add(peer, message.acknowledgements)
        if not (heights and self._commit(heights)):
            self.peers.feed(peer)
        self._hand_over_if_ready()

    def read(self, read: Read, now_ms: int | None = None) -> None:
        """Answer the read when this leader is confirmed, after now; at once when a lease says that nobody else leads at `now_ms`."""
        if self._has_lease(now_ms):
            self._reads.answer(read)
            return
        self._reads.add(read)
        self._advance_reads()

    def refuse_reads(self) -> None:
        """Refuse every read that is pending: this node leads no more."""
        self._reads.refuse_all()

    def transfer(self, to: NodeId | None) -> None:
        """Begin to hand leadership over; a hand-over to somebody else is given up for it.

        Raises:
            TransferRefusedError: ``consensus.transfer.target``, ``consensus.transfer.nobody``; nothing has changed.
        """
        self._begin_transfer(choose_successor(self._common, self.peers, to))

    # Refusals

    def _count_refusals(self) -> None:
        """Note whether another period went by without a commitment because followers refuse the blocks: this node's clock may be wrong."""
        common = self._common
        is_stuck = common.log.last_height > common.commit_height == self._refused_at and not self.peers.may_commit
        self._refused_timeouts = self._refused_timeouts + 1 if is_stuck else 0
        self._refused_at = common.commit_height

    # Proposals

    def _check_proposal(self, entry: Entry) -> None:
        common, log = self._common, self._common.log
        if (entry.term, entry.height) != (common.term, log.last_height + 1):
            # Blocks are built while time goes on: leadership may have been lost and won again since.
            raise ProposalRefusedError(
                "consensus.stale_proposal",
                "the block does not extend this leader's last one",
                hint="build a block upon the last one and propose that",
                expected=f"term {common.term}, height {log.last_height + 1}",
                actual=f"term {entry.term}, height {entry.height}",
            )
        if self._transfer is not None:
            raise ProposalRefusedError(
                "consensus.transferring",
                "leadership is being handed over",
                hint="send the transactions to the next leader",
                actual=self._transfer.to,
            )
        # The first block of a term is always let in: only it can commit what fills the window.
        if log.last_term == common.term:
            self._check_window()

    def _check_window(self) -> None:
        config = self._common.config
        ahead = self._common.log.last_height - self._common.commit_height
        if ahead >= config.uncommitted_blocks_max or self._uncommitted_bytes >= config.uncommitted_bytes_max:
            raise ProposalRefusedError(
                "consensus.window_full",
                "too many blocks await commitment",
                hint="propose again when blocks have been applied",
                expected=f"at most {config.uncommitted_blocks_max} blocks and {config.uncommitted_bytes_max} bytes ahead",
                actual=f"{ahead} blocks and {self._uncommitted_bytes} bytes",
            )

    def _check_change(self, configuration: Configuration) -> None:
        common = self._common
        assert configuration.may_follow(common.configuration), "the ledger changes voters in two steps"
        if not self._is_settled:
            raise ProposalRefusedError(
                "consensus.configuration_busy",
                "the last change of the configuration, or the first block of the term, is not committed yet",
                hint="propose a block without the change, and the change when that is committed",
                expected=f"height {common.configurations.latest_height} and a block of term {common.term} committed",
                actual=f"committed up to {common.commit_height}",
            )
        if not configuration.is_voter(common.config.node_id):
            # A leader's own removal is finished by its successor. So no leader depends on a majority that it is not part of, and nobody
            # outside the configuration ever has to be elected to finish a change.
            raise ProposalRefusedError(
                "consensus.leaving",
                "a leader does not propose the block from which on it is no voter",
                hint="leadership is handed over by itself; the next leader proposes the block",
            )
        if configuration.is_joint and not self.peers.can_decide(configuration):
            raise ProposalRefusedError(
                "consensus.configuration_unready",
                "those who are up and have caught up could decide nothing under the new configuration",
                hint="wait until the learners to be promoted have caught up and enough voters are up",
                expected="a majority of each group of voters within the window of uncommitted blocks",
            )

    # Committing

    def _commit(self, heights: list[int]) -> bool:
        common = self._common
        certificate = self._book.find_certificate(heights)
        if certificate is None:
            return False
        common.commit(certificate)
        self._has_committed = True
        self._book.forget_upto(certificate.height)
        while self._uncommitted and self._uncommitted[0][0] <= certificate.height:
            self._uncommitted_bytes -= self._uncommitted.popleft()[1]
        self.peers.note_committed(certificate.height, self._elapsed)
        self._advance_reads()
        self._leave_if_due()
        return True

    # Reads

    def _has_lease(self, now_ms: int | None) -> bool:
        # As with rounds, nothing is read before a block of this term is committed. And not by who is about to lead no more.
        return (
            self._has_committed and self._transfer is None and self._lease.is_held(self._common.configuration, now_ms)
        )

    def _advance_reads(self) -> None:
        reads = self._reads
        if reads.is_round_under_way:
            reads.confirm(self.peers.round_confirmed)
        # Nothing is read before a block of this term is committed: until then this leader may know less than is committed (Raft 8).
        while self._has_committed and reads.is_waiting and not reads.is_round_under_way:
            self.peers.begin_round()
            reads.begin(self.peers.round_id)
            reads.confirm(self.peers.round_confirmed)

    # Handing over

    def _begin_transfer(self, to: NodeId) -> None:
        if self.transfer_to != to:
            self._transfer = Transfer(to, self._elapsed + self._common.config.election_ticks)
        self._hand_over_if_ready()

    def _hand_over_if_ready(self, *, again: bool = False) -> None:
        if self._transfer is None or (self._transfer.is_asked and not again):
            return
        common, progress = self._common, self.peers.find(self._transfer.to)
        assert progress is not None, "who votes is a peer, and members do not change meanwhile"
        if progress.match_height == common.log.last_height:
            self._transfer = replace(self._transfer, is_asked=True)
            # Who asks for votes at the leader's wish gets them in spite of promises, and this may arrive when the hand-over is given up.
            self._lease.give_up()
            common.send(self._transfer.to, TimeoutNow(common.term, common.config.node_id))

    def _leave_if_due(self) -> None:
        """Hand leadership over when the change under way is committed and takes this node out."""
        if (
            self._is_leaving
            and self._is_settled
            and self._transfer is None
            and self._elapsed >= self._transfer_not_before
        ):
            successor = find_successor(self._common, self.peers)
            if successor is not None:
                self._begin_transfer(successor)
