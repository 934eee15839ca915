"""Leading: sending blocks, counting signed acknowledgements, certifying, keeping the followers' timers quiet.

Source: Raft 5.3, 5.4.2, 6.2 (CheckQuorum in the thesis); docs/spec/consensus.md 5 and 7.
"""

from __future__ import annotations

from collections import deque
from types import MappingProxyType

from consensus.acknowledgements import AcknowledgementBook
from consensus.common import Common
from consensus.errors import ProposalRefusedError
from consensus.log import Write
from consensus.messages import Append, AppendReply, Entry, NodeId
from consensus.progress import Progress, ProgressState


class Leadership:
    """What a leader knows for the time of its term."""

    __slots__ = ("_book", "_common", "_elapsed", "_progress", "_round_id", "_uncommitted", "_uncommitted_bytes")

    def __init__(self, common: Common) -> None:
        """Tell every follower at once who leads."""
        assert common.log.is_durable
        self._common = common
        self._progress = {peer: Progress(common.log.last_height + 1) for peer in common.others}
        self._book = AcknowledgementBook(common)
        self._elapsed = 0
        self._round_id = 0
        self._uncommitted: deque[tuple[int, int]] = deque()
        self._uncommitted_bytes = 0
        self._heartbeat()

    # Reading

    @property
    def match(self) -> MappingProxyType[NodeId, int]:
        """Up to where each follower's log is durable and the same."""
        return MappingProxyType({peer: progress.match_height for peer, progress in self._progress.items()})

    @property
    def heard(self) -> MappingProxyType[NodeId, bool]:
        """Which followers answered since the last quorum check."""
        return MappingProxyType({peer: progress.heard for peer, progress in self._progress.items()})

    @property
    def round_confirmed(self) -> int:
        """The latest heartbeat round that a majority has answered."""
        rounds = {peer: progress.round_id for peer, progress in self._progress.items()}
        rounds[self._common.config.node_id] = self._round_id
        return self._common.configuration.value_reached(rounds)

    # Events

    def propose(self, entry: Entry) -> None:
        """Append the block, send it and have it written.

        Raises:
            ProposalRefusedError: ``consensus.stale_proposal``, ``consensus.window_full``; nothing has changed.
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
        # The first block of a term is always let in: only it can commit what fills the window.
        if log.last_term == common.term:
            self._check_window()
        log.append(entry)
        self._uncommitted.append((entry.height, len(entry.data)))
        self._uncommitted_bytes += len(entry.data)
        common.out.write = Write(None, (entry,))
        for peer in common.others:
            self._feed(peer)

    def tick(self) -> bool:
        """Take note of time; return False when no majority was heard for an election timeout."""
        self._elapsed += 1
        if self._elapsed % self._common.config.heartbeat_ticks == 0:
            self._heartbeat()
        if self._elapsed % self._common.config.election_ticks == 0:
            heard = {peer for peer, progress in self._progress.items() if progress.heard}
            if not self._common.configuration.is_quorum({self._common.config.node_id, *heard}):
                return False
            for progress in self._progress.values():
                progress.heard = False
        return True

    def note_durable(self) -> None:
        """Count this leader's own disk."""
        self._commit(self._book.heights() if self._common.others else [self._common.log.durable_height])

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
        progress = self._progress[message.follower]
        progress.heard = True
        progress.round_id = max(progress.round_id, min(message.round_id, self._round_id))
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
        heights = self._book.add(message.follower, message.acknowledgements)
        if not (heights and self._commit(heights)):
            self._feed(message.follower)

    # Sending

    def _handle_refusal(self, message: AppendReply, progress: Progress) -> None:
        if progress.is_stale_refusal(message.reject_height):
            return
        log = self._common.log
        # Skip back over whole terms that the follower cannot have (Raft 5.3, end), on this side as the follower did on its own.
        agreed, _ = log.find_last_at_or_below_term(message.hint_height, message.hint_term)
        progress.probe_from(min(agreed, message.reject_height - 1) + 1)
        self._feed(message.follower)

    def _heartbeat(self) -> None:
        self._round_id += 1
        for peer, progress in self._progress.items():
            # Certificates may have been lost; a follower that still lacks one gets it again.
            progress.certificate_sent = 0
            self._send(peer, progress, ())

    def _feed(self, peer: NodeId) -> None:
        """Send blocks as far as the window allows."""
        common, config = self._common, self._common.config
        progress = self._progress[peer]
        while progress.next_height <= common.log.last_height and progress.can_send(config.inflight_max):
            if progress.next_height < common.log.first_height:
                common.alarm("consensus.log.pruned", f"{peer.hex()} needs blocks that this node no longer has")
                return
            entries = common.log.entries(progress.next_height, config.append_entries_max, config.append_bytes_max)
            self._send(peer, progress, entries)

    def _send(self, peer: NodeId, progress: Progress, entries: tuple[Entry, ...]) -> None:
        common = self._common
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
        self._book.forget_upto(certificate.height)
        while self._uncommitted and self._uncommitted[0][0] <= certificate.height:
            self._uncommitted_bytes -= self._uncommitted.popleft()[1]
        for peer, progress in self._progress.items():
            self._feed(peer)
            if progress.state is ProgressState.REPLICATE and progress.certificate_sent < certificate.height:
                self._send(peer, progress, ())
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
