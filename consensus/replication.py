"""Sending: what each peer of a leader gets, how far ahead, and for how long.

Peers are everybody in the configuration, learners included, and those that have left it until they know. Nothing here decides anything:
what is committed is a matter of signatures (`consensus.acknowledgements`).

Source: Raft 5.3; docs/spec/consensus.md 5.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from consensus.common import Common
from consensus.config import PeerProgress
from consensus.limits import LEAVING_TIMEOUTS
from consensus.membership import Configuration
from consensus.messages import Append, AppendReply, Entry, NodeId, SnapshotOffer
from consensus.progress import Progress, ProgressState


class Replication:
    """The leader's book about all its peers, and the messages that follow from it."""

    __slots__ = ("_common", "_peers", "round_id")

    def __init__(self, common: Common) -> None:
        """Begin to probe everybody whom the configurations known here name: those that left may not know it yet."""
        self._common = common
        self._peers: dict[NodeId, Progress] = {}
        self.round_id = 0
        """The number of the latest heartbeat round; rounds of one term never share one."""
        for _, configuration in common.configurations.tracked:
            self._add(configuration)
        self._note_leaving(0)

    # Reading

    def find(self, peer: NodeId) -> Progress | None:
        """Return what is known about a peer; None for whoever is none."""
        return self._peers.get(peer)

    @property
    def match(self) -> Mapping[NodeId, int]:
        """Up to where each peer's log is durable and the same."""
        return MappingProxyType({peer: progress.match_height for peer, progress in self._peers.items()})

    @property
    def heard(self) -> Mapping[NodeId, bool]:
        """Which peers answered since the last quorum check."""
        return MappingProxyType({peer: progress.heard for peer, progress in self._peers.items()})

    @property
    def progress(self) -> Mapping[NodeId, PeerProgress]:
        """How far each peer is."""
        return MappingProxyType(
            {
                peer: PeerProgress(progress.state, progress.match_height, progress.commit_height, progress.heard)
                for peer, progress in self._peers.items()
            }
        )

    @property
    def round_confirmed(self) -> int:
        """The latest heartbeat round that enough voters have answered, this leader among them if it is one."""
        rounds = {peer: progress.round_id for peer, progress in self._peers.items()}
        rounds[self._common.config.node_id] = self.round_id
        return self._common.configuration.value_reached(rounds)

    def answering(self, among: Collection[NodeId]) -> list[NodeId]:
        """Return who of these peers has answered lately, those with the most blocks first."""
        found = [peer for peer in among if (p := self._peers.get(peer)) is not None and (p.heard or p.heard_before)]
        return sorted(found, key=lambda peer: -self._peers[peer].match_height)

    def can_decide(self, configuration: Configuration) -> bool:
        """Return whether those who answer and have almost caught up, this leader among them, can decide under `configuration`."""
        common = self._common
        near = common.log.last_height - common.config.uncommitted_blocks_max
        present = [peer for peer in self.answering(self._peers) if self._peers[peer].match_height >= near]
        return configuration.is_quorum({common.config.node_id, *present})

    # Members

    def change(self, configuration: Configuration, now: int) -> None:
        """Send to the members of `configuration`, which the last block has just made, and no longer to those who are none.

        Args:
            configuration: The new one.
            now: The leader's tick.
        """
        for peer in self._add(configuration):
            self._send(peer, self._peers[peer], ())
        self._note_leaving(now)

    def note_committed(self, height: int, now: int) -> None:
        """Send what may be sent now, and the certificate of `height` to whoever holds that block."""
        self._begin_farewells(now)
        for peer, progress in self._peers.items():
            self.feed(peer)
            if progress.state is ProgressState.REPLICATE and progress.certificate_sent < height:
                self._send(peer, progress, ())

    def drop_departed(self, now: int) -> None:
        """Forget who left so long ago that it has heard of it or will not."""
        departed = [peer for peer, p in self._peers.items() if p.leaves_at is not None and p.leaves_at <= now]
        for peer in departed:
            del self._peers[peer]

    def _add(self, configuration: Configuration) -> list[NodeId]:
        new = [peer for peer in configuration.peers(self._common.config.node_id) if peer not in self._peers]
        for peer in new:
            self._peers[peer] = Progress(self._common.log.last_height + 1)
        return new

    def _note_leaving(self, now: int) -> None:
        for peer, progress in self._peers.items():
            progress.leaves_since = self._common.configurations.excluded_since(peer)
            progress.leaves_at = None
        self._begin_farewells(now)

    def _begin_farewells(self, now: int) -> None:
        common = self._common
        for progress in self._peers.values():
            if progress.leaves_since is None or progress.leaves_since > common.commit_height:
                continue
            if progress.leaves_at is None:
                progress.leaves_at = now + LEAVING_TIMEOUTS * common.config.election_ticks

    # Time

    def heartbeat(self) -> None:
        """Begin a round in which every peer also gets the certificate that it still lacks: the one sent before may be lost."""
        for progress in self._peers.values():
            progress.certificate_sent = 0
        self.begin_round()

    def begin_round(self) -> None:
        """Ask every peer whether it still follows; answers name this round or a later one only if they came after now."""
        self.round_id += 1
        for peer, progress in self._peers.items():
            self._send(peer, progress, ())

    @property
    def may_commit(self) -> bool:
        """Whether those who do not refuse this leader's blocks are enough to commit them."""
        willing = {peer for peer, progress in self._peers.items() if not progress.refuses}
        return self._common.configuration.is_quorum({self._common.config.node_id, *willing})

    def check_quorum(self) -> bool:
        """Return whether enough voters answered since the last check, and begin the next period."""
        heard = {peer for peer, progress in self._peers.items() if progress.heard}
        for progress in self._peers.values():
            progress.heard_before, progress.heard = progress.heard, False
        return self._common.configuration.is_quorum({self._common.config.node_id, *heard})

    # Peers

    def note_answer(self, peer: NodeId, progress: Progress, message: AppendReply) -> bool:
        """Take note of where a peer stands; return whether it is to be dealt with further.

        It is not when it refused, when it claims too much, or when it knows now that it is no member any more.
        """
        common = self._common
        if message.ok and message.received_height > common.log.last_height:
            common.alarm("consensus.reply", f"{peer.hex()} claims to hold blocks that this leader never sent")
            return False
        progress.commit_height = max(progress.commit_height, message.commit_height)
        if not message.ok:
            self._note_refusal(peer, progress, message)
            return False
        progress.paused = False
        progress.note_agreement(message.match_height, message.received_height)
        progress.resume_from(common.log.first_height)
        if progress.leaves_since is not None and progress.leaves_since <= progress.commit_height:
            del self._peers[peer]
            return False
        return True

    def note_unreachable(self, peer: NodeId) -> None:
        """Stop sending ahead to a peer that may have lost what was sent."""
        progress = self._peers.get(peer)
        if progress is not None and progress.state is ProgressState.REPLICATE:
            progress.probe_from(progress.match_height + 1)

    def note_reachable(self, peer: NodeId) -> None:
        """Find out at once where a peer stands that is back."""
        progress = self._peers.get(peer)
        if progress is not None:
            progress.probe_from(progress.match_height + 1)
            self._send(peer, progress, ())

    def _note_refusal(self, peer: NodeId, progress: Progress, message: AppendReply) -> None:
        if progress.is_stale_refusal(message.reject_height):
            return
        progress.refuses = True
        log = self._common.log
        agreed = message.hint_height
        if agreed >= log.first_height:
            # Skip back over whole terms that the follower cannot have (Raft 5.3, end), on this side as the follower did on its own.
            agreed, _ = log.find_last_at_or_below_term(message.hint_height, message.hint_term)
        progress.probe_from(min(agreed, message.reject_height - 1) + 1)
        self.feed(peer)

    # Messages

    def feed_all(self) -> None:
        """Send everybody blocks as far as the windows allow."""
        for peer in self._peers:
            self.feed(peer)

    def feed(self, peer: NodeId) -> None:
        """Send a peer blocks as far as its window allows."""
        common, config = self._common, self._common.config
        progress = self._peers[peer]
        height_max = common.log.last_height
        if progress.leaves_since is not None:
            # A peer never holds an uncommitted block that takes it out: it could not be elected upon it, yet refuse its vote to all others.
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
            self._send_offer(peer)
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
                round_id=self.round_id,
            ),
        )
        if entries:
            progress.note_sent(entries[-1].height)

    def _send_offer(self, peer: NodeId) -> None:
        common = self._common
        common.send(
            peer,
            SnapshotOffer(
                term=common.term,
                leader=common.config.node_id,
                first_height=common.log.first_height,
                commit_height=common.commit_height,
                round_id=self.round_id,
            ),
        )
