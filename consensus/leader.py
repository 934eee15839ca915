"""Leading: sending blocks, counting signed acknowledgements, certifying, keeping the followers' timers quiet.

Source: Raft 5.3, 5.4.2, 6.2 (CheckQuorum in the thesis); docs/spec/consensus.md 5 and 7.
"""

from __future__ import annotations

from collections import deque
from types import MappingProxyType

from consensus.acknowledgements import AcknowledgementBook
from consensus.common import Common
from consensus.config import PeerProgress
from consensus.errors import ProposalRefusedError, TransferRefusedError
from consensus.limits import LEAVING_TIMEOUTS
from consensus.log import Write
from consensus.membership import Configuration
from consensus.messages import Append, AppendReply, Entry, NodeId, SnapshotOffer, TimeoutNow
from consensus.progress import Progress, ProgressState
from consensus.reads import LeaderReads, Read
from consensus.transfer import Transfer, choose_successor


class Leadership:
    """What a leader knows for the time of its term."""

    __slots__ = (
        "_book",
        "_common",
        "_elapsed",
        "_has_committed",
        "_progress",
        "_reads",
        "_round_id",
        "_transfer",
        "_transfer_not_before",
        "_uncommitted",
        "_uncommitted_bytes",
    )

    def __init__(self, common: Common) -> None:
        """Tell every peer at once who leads."""
        assert common.log.is_durable
        self._common = common
        self._progress: dict[NodeId, Progress] = {}
        self._book = AcknowledgementBook(common)
        self._reads = LeaderReads(common)
        self._has_committed = False
        self._elapsed = 0
        self._round_id = 0
        self._transfer: Transfer | None = None
        self._transfer_not_before = 0
        self._uncommitted: deque[tuple[int, int]] = deque()
        self._uncommitted_bytes = 0
        # Those that a former configuration names may not know yet that they left.
        for _, configuration in common.configurations.tracked:
            self._add_peers(configuration)
        self._note_leaving()
        self._heartbeat()

    # Reading

    @property
    def match(self) -> MappingProxyType[NodeId, int]:
        """Up to where each peer's log is durable and the same."""
        return MappingProxyType({peer: progress.match_height for peer, progress in self._progress.items()})

    @property
    def heard(self) -> MappingProxyType[NodeId, bool]:
        """Which peers answered since the last quorum check."""
        return MappingProxyType({peer: progress.heard for peer, progress in self._progress.items()})

    @property
    def progress(self) -> MappingProxyType[NodeId, PeerProgress]:
        """How far each peer is."""
        return MappingProxyType(
            {
                peer: PeerProgress(progress.state, progress.match_height, progress.commit_height, progress.heard)
                for peer, progress in self._progress.items()
            }
        )

    @property
    def round_confirmed(self) -> int:
        """The latest heartbeat round that a majority has answered."""
        rounds = {peer: progress.round_id for peer, progress in self._progress.items()}
        rounds[self._common.config.node_id] = self._round_id
        return self._common.configuration.value_reached(rounds)

    @property
    def can_change_configuration(self) -> bool:
        """Whether a block that changes the configuration may be proposed: one of this term and the last such one are committed.

        The first protects against a change that an earlier leader has committed elsewhere (the single-step bug of 2015), the second keeps
        uncommitted changes from piling up. Joint consensus as such needs neither; together they make every change stand on firm ground.
        """
        common = self._common
        return self._has_committed and common.configurations.latest_height <= common.commit_height

    @property
    def transfer_to(self) -> NodeId | None:
        """Who is to take over."""
        return None if self._transfer is None else self._transfer.to

    # Events

    def propose(self, entry: Entry, configuration: Configuration | None) -> None:
        """Append the block, send it and have it written.

        Raises:
            ProposalRefusedError: ``consensus.stale_proposal``, ``consensus.transferring``, ``consensus.window_full``,
                ``consensus.configuration_busy``, ``consensus.leaving``; nothing has changed.
        """
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
        if configuration is not None:
            self._check_change(configuration)
        log.append(entry)
        self._uncommitted.append((entry.height, len(entry.data)))
        self._uncommitted_bytes += len(entry.data)
        common.out.write = Write(None, (entry,))
        if configuration is not None:
            # It rules from now on, not from its commitment on (Raft 6).
            common.configurations.propose(entry.height, configuration)
            for peer in self._add_peers(configuration):
                self._send(peer, self._progress[peer], ())
            self._note_leaving()
        for peer in self._progress:
            self._feed(peer)

    def tick(self) -> bool:
        """Take note of time; return False when no majority was heard for an election timeout."""
        common, config = self._common, self._common.config
        self._elapsed += 1
        if self._transfer is not None and self._elapsed >= self._transfer.until:
            self._transfer = None
            self._transfer_not_before = self._elapsed + config.election_ticks
        self._drop_departed()
        if self._elapsed % config.heartbeat_ticks == 0:
            self._heartbeat()
        if self._elapsed % config.election_ticks == 0:
            heard = {peer for peer, progress in self._progress.items() if progress.heard}
            if not common.configuration.is_quorum({config.node_id, *heard}):
                return False
            for progress in self._progress.values():
                progress.heard_before, progress.heard = progress.heard, False
        self._leave_if_due()
        return True

    def note_durable(self) -> None:
        """Count this leader's own disk."""
        # Its own height too: where nobody else is needed, nobody acknowledges anything.
        self._commit([*self._book.heights(), self._common.log.durable_height])

    def note_unreachable(self, peer: NodeId) -> None:
        """Stop sending ahead to a peer that may have lost what was sent."""
        progress = self._progress.get(peer)
        if progress is not None and progress.state is ProgressState.REPLICATE:
            progress.probe_from(progress.match_height + 1)

    def note_reachable(self, peer: NodeId) -> None:
        """Find out at once where a peer stands that is back."""
        progress = self._progress.get(peer)
        if progress is not None:
            progress.probe_from(progress.match_height + 1)
            self._send(peer, progress, ())

    def handle_reply(self, message: AppendReply) -> None:
        """Take note of what a follower holds, certify what a majority acknowledged, and send what comes next."""
        common = self._common
        progress = self._progress.get(message.follower)
        if progress is None:
            return
        progress.heard = True
        if message.round_id > progress.round_id:
            progress.round_id = min(message.round_id, self._round_id)
            if self._reads.is_round_under_way:
                self._advance_reads()
        if message.ok and message.received_height > common.log.last_height:
            common.alarm(
                "consensus.reply", f"{message.follower.hex()} claims to hold blocks that this leader never sent"
            )
            return
        progress.commit_height = max(progress.commit_height, message.commit_height)
        if not message.ok:
            self._handle_refusal(message, progress)
            return
        progress.paused = False
        progress.note_agreement(message.match_height, message.received_height)
        progress.resume_from(common.log.first_height)
        if progress.leaves_since is not None and progress.leaves_since <= progress.commit_height:
            # It knows that it is no member any more.
            del self._progress[message.follower]
            return
        heights = self._book.add(message.follower, message.acknowledgements)
        if not (heights and self._commit(heights)):
            self._feed(message.follower)
        self._hand_over_if_ready()

    def read(self, read: Read) -> None:
        """Answer the read when this leader is confirmed, after now."""
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
        successor = choose_successor(self._common, self._progress, to)
        if self._transfer is None or self._transfer.to != successor:
            self._transfer = Transfer(successor, self._elapsed + self._common.config.election_ticks)
        self._hand_over_if_ready()

    # Members

    def _check_change(self, configuration: Configuration) -> None:
        common = self._common
        assert configuration.may_follow(common.configuration), "the ledger changes voters in two steps"
        if not self.can_change_configuration:
            raise ProposalRefusedError(
                "consensus.configuration_busy",
                "another change of the configuration, or the first block of the term, is not committed yet",
                hint="propose a block without the change, and the change when that is committed",
                expected=f"height {common.configurations.latest_height} and a block of term {common.term} committed",
                actual=f"committed up to {common.commit_height}",
            )
        if not configuration.is_voter(common.config.node_id):
            # The last block of a leader's own removal is proposed by its successor: so no leader ever depends on a majority that it is
            # not part of, and nobody outside the configuration needs to be elected to finish the change.
            raise ProposalRefusedError(
                "consensus.leaving",
                "a leader does not propose the block from which on it is no voter",
                hint="leadership is handed over by itself; the next leader proposes it",
            )

    def _add_peers(self, configuration: Configuration) -> list[NodeId]:
        new = [peer for peer in configuration.peers(self._common.config.node_id) if peer not in self._progress]
        for peer in new:
            self._progress[peer] = Progress(self._common.log.last_height + 1)
        return new

    def _note_leaving(self) -> None:
        """Take note of who is no member any more, and from which block on."""
        for peer, progress in self._progress.items():
            progress.leaves_since = self._common.configurations.excluded_since(peer)
            progress.leaves_at = None
        self._begin_farewells()

    def _begin_farewells(self) -> None:
        """Give those who have left for good some time to hear of it."""
        common = self._common
        for progress in self._progress.values():
            if progress.leaves_since is None or progress.leaves_since > common.commit_height:
                continue
            if progress.leaves_at is None:
                progress.leaves_at = self._elapsed + LEAVING_TIMEOUTS * common.config.election_ticks

    def _drop_departed(self) -> None:
        departed = [
            peer
            for peer, progress in self._progress.items()
            if progress.leaves_at is not None and progress.leaves_at <= self._elapsed
        ]
        for peer in departed:
            del self._progress[peer]

    def _leave_if_due(self) -> None:
        """Hand leadership over when the change under way is committed and takes this node out."""
        common = self._common
        if (
            self._transfer is None
            and self._elapsed >= self._transfer_not_before
            and common.config.node_id not in common.configuration.successors
            and self.can_change_configuration
        ):
            try:
                self.transfer(None)
            except TransferRefusedError:
                self._transfer_not_before = self._elapsed + common.config.heartbeat_ticks

    def _hand_over_if_ready(self) -> None:
        if self._transfer is None:
            return
        common, progress = self._common, self._progress[self._transfer.to]
        if progress.match_height == common.log.last_height:
            common.send(self._transfer.to, TimeoutNow(common.term, common.config.node_id))

    # Reads

    def _advance_reads(self) -> None:
        if not (self._reads.is_round_under_way or self._reads.is_waiting):
            return
        self._reads.confirm(self.round_confirmed)
        # Nothing is read before a block of this term is committed: until then this leader may know less than is committed (Raft 8).
        while self._has_committed and self._reads.is_waiting and not self._reads.is_round_under_way:
            self._begin_round()
            self._reads.begin(self._round_id)
            self._reads.confirm(self.round_confirmed)

    # Sending

    def _handle_refusal(self, message: AppendReply, progress: Progress) -> None:
        if progress.is_stale_refusal(message.reject_height):
            return
        log = self._common.log
        agreed = message.hint_height
        if agreed >= log.first_height:
            # Skip back over whole terms that the follower cannot have (Raft 5.3, end), on this side as the follower did on its own.
            agreed, _ = log.find_last_at_or_below_term(message.hint_height, message.hint_term)
        progress.probe_from(min(agreed, message.reject_height - 1) + 1)
        self._feed(message.follower)

    def _heartbeat(self) -> None:
        for progress in self._progress.values():
            # Certificates may have been lost; a follower that still lacks one gets it again.
            progress.certificate_sent = 0
        self._begin_round()
        self._hand_over_if_ready()

    def _begin_round(self) -> None:
        self._round_id += 1
        for peer, progress in self._progress.items():
            self._send(peer, progress, ())

    def _feed(self, peer: NodeId) -> None:
        """Send blocks as far as the window allows."""
        common, config = self._common, self._common.config
        progress = self._progress[peer]
        height_max = common.log.last_height
        if progress.leaves_since is not None:
            # A peer never holds an uncommitted block that takes it out: it could neither be elected upon it nor let others be without it.
            height_max = max(common.commit_height, progress.leaves_since - 1)
        while progress.next_height <= height_max and progress.can_send(config.inflight_max):
            if progress.next_height < common.log.first_height:
                self._send(peer, progress, ())
                return
            count_max = min(config.append_entries_max, height_max - progress.next_height + 1)
            self._send(peer, progress, common.log.entries(progress.next_height, count_max, config.append_bytes_max))

    def _send(self, peer: NodeId, progress: Progress, entries: tuple[Entry, ...]) -> None:
        common = self._common
        if progress.next_height < common.log.first_height:
            progress.await_snapshot()
            common.send(
                peer,
                SnapshotOffer(
                    common.term, common.config.node_id, common.log.first_height, common.commit_height, self._round_id
                ),
            )
            return
        prev_height = progress.next_height - 1
        prev_term, prev_hash = common.log.term_and_hash(prev_height)
        # What the follower holds after this append, and it alone, can be proven to it.
        reach = min(common.commit_height, prev_height + len(entries))
        certificate = None
        known = max(progress.commit_height, progress.certificate_sent)
        if reach > known:
            found = common.certificates.find(known, reach)
            if found is not None:
                progress.certificate_sent, certificate = found
        common.send(
            peer,
            Append(
                term=common.term,
                leader=common.config.node_id,
                prev_term=prev_term,
                prev_height=prev_height,
                prev_hash=prev_hash,
                entries=entries,
                commit_height=common.commit_height,
                commit_certificate=certificate,
                round_id=self._round_id,
            ),
        )
        if entries:
            progress.note_sent(entries[-1].height)

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
        self._begin_farewells()
        for peer, progress in self._progress.items():
            self._feed(peer)
            if progress.state is ProgressState.REPLICATE and progress.certificate_sent < certificate.height:
                self._send(peer, progress, ())
        self._advance_reads()
        self._leave_if_due()
        return True

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
