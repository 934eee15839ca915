"""An observer: follows certified blocks from whichever peer answers, and believes none of them.

What makes a block final is the certificate, not the sender: a batch is executed block by block, every root compared, and committed up to
the
highest certificate in it that holds. A peer whose blocks do not hold is left for another and logged; what it sent changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog
import trio

from consensus.effects import Persist, hard_state_after_snapshot
from ledger.certificate import verify_block_certificate
from ledger.state import StateView
from ledger.transition import Executed
from node.replica import LedgerReplica
from node.snapshots import SnapshotClient, at_least, install_snapshot
from node.sync import CertifiedBlock, PeerLedger
from node.telemetry import Metrics
from wire.certificate import CommitCertificate, decode_commit_certificate_untrusted
from wire.errors import RejectedError, UnavailableError

BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
"""Blocks asked for at once."""
LONG_POLL_S: Final = 20.0
"""How long a peer may keep the question open until it has a new block."""
RETRY_PAUSE_S: Final = 0.2
"""The pause before the next peer is asked; it doubles while none answers."""
RETRY_PAUSE_MAX_S: Final = 3.0
HISTORY_PRUNED: Final = "ledger.history.pruned"
"""A peer has forgotten the block that it was asked for."""

_log = structlog.get_logger("node.observer")


class Observer:
    """Keeps `replica` up with the network through `peers`."""

    def __init__(
        self,
        replica: LedgerReplica,
        peers: Sequence[PeerLedger],
        metrics: Metrics,
        snapshots: SnapshotClient | None = None,
        *,
        votes: bool = False,
    ) -> None:
        """Be ready to follow.

        Args:
            replica: What is kept up.
            peers: Whom to ask, in turn.
            metrics: What is counted.
            snapshots: Where to begin anew when the next block is kept nowhere; None to wait.
            votes: Whether this node will vote as soon as the ledger names it. Then the term of what it follows is written beside it, in the
                same write: whenever it ends, its next start may be that of a voter, whose log must not be ahead of its term.
        """
        self._hard_state = replica.store.load().hard_state if votes else None
        self._replica = replica
        self._peers = list(peers)
        self._metrics = metrics
        self._snapshots = snapshots
        self._writing = trio.CapacityLimiter(1)
        self.following: str | None = None

    async def run(self) -> None:
        """Follow until cancelled.

        Raises:
            StorageFailedError: The disk did not take a block; the node must stop.
            CorruptionError: Two certified blocks contradict each other; the node must stop and keep the evidence.
        """
        pause_s = RETRY_PAUSE_S
        index = 0
        asked, pruned = 0, False  # Since a peer was of use.
        if self._snapshots is not None:
            # A process that ended right after an installation may have left what it installed.
            await self._snapshots.forget_incoming(self._replica.height)
        while True:
            peer = self._peers[index % len(self._peers)]
            try:
                self.following = peer.name
                advanced = await self._follow_once(peer)
                pause_s = RETRY_PAUSE_S
                if advanced:
                    asked, pruned = 0, False
                    continue
            except UnavailableError as error:
                _log.info("peer does not help", peer=peer.name, code=error.code)
                pruned = pruned or error.code == HISTORY_PRUNED
            except RejectedError as error:
                _log.warning(
                    "peer sent blocks that do not hold", peer=peer.name, code=error.code, message=error.message
                )
                self._metrics.blocks_refused.inc()
            self.following = None
            index += 1
            asked += 1
            if pruned and asked >= len(self._peers):
                await self._begin_anew()
                asked, pruned = 0, False
            machine = self._replica.machine
            await machine.sleep(machine.jittered(pause_s))
            pause_s = min(pause_s * 2, RETRY_PAUSE_MAX_S)

    async def _begin_anew(self) -> None:
        """Go on from a snapshot: everybody was asked, and who answered has forgotten the blocks that come next here."""
        if self._snapshots is None:
            return
        _log.warning("the next block is kept nowhere any more: a snapshot is needed", height=self._replica.height)
        try:
            filled = await self._snapshots.fetch(at_least(self._replica.height + 1))
            await install_snapshot(self._replica, filled, self._hard_state, self._writing)
            self._adopt_term(filled.term)
            self._metrics.snapshots_installed.inc()
            await self._snapshots.forget_incoming(filled.height)
        except UnavailableError as error:
            _log.warning("no snapshot yet", code=error.code, reason=error.message)

    async def _follow_once(self, peer: PeerLedger) -> bool:
        """Ask `peer` for what comes next and commit what holds; return whether the peer was of use."""
        asked = trio.current_time()
        answer = await peer.blocks(self._replica.height + 1, bytes_max=BATCH_BYTES_MAX, wait_ms=int(LONG_POLL_S * 1000))
        if not answer:
            # A question that stayed open without a new block is what a quiet chain looks like; a quick "nothing" is a peer behind us.
            return trio.current_time() - asked > LONG_POLL_S / 2
        await self._take(answer)
        return True

    async def _take(self, blocks: Sequence[CertifiedBlock]) -> None:
        """Execute a batch and commit it up to its highest certificate; on a refusal nothing of it stays."""
        chain = self._replica.chain
        base = self._replica.height
        certificate: CommitCertificate | None = None
        try:
            for item in blocks:
                executed = await self._replica.execute_untrusted(item.block, block_hash=None, now_ms=None)
                if item.certificate is not None:
                    candidate = decode_commit_certificate_untrusted(item.certificate)
                    # The configuration after the block: a change of the validators is decided under itself.
                    verify_block_certificate(candidate, executed.block.header, StateView(chain.tip()).configuration())
                    certificate = candidate
                    await self._commit(
                        list(chain.executed_between(chain.committed_height, candidate.height)), candidate
                    )
            if certificate is None:
                raise RejectedError(
                    "node.sync.no_certificate", "a batch of blocks carries no certificate", expected="one at its end"
                )
        finally:
            if chain.tip_height > chain.committed_height:
                chain.take_from(chain.committed_height + 1)
        assert self._replica.height > base

    def _adopt_term(self, term: int) -> tuple[Persist, ...]:
        """Return what must be written with blocks of `term`: nothing, or the later term of one who will vote."""
        before = self._hard_state
        if before is not None:
            self._hard_state = hard_state_after_snapshot(before, term)
        return () if self._hard_state == before else (Persist(self._hard_state),)

    async def _commit(self, blocks: list[Executed], certificate: CommitCertificate) -> None:
        persists = self._adopt_term(certificate.term)
        await self._replica.machine.in_thread(
            self._replica.commit_to_store, blocks, certificate, persists, limiter=self._writing
        )
        self._replica.committed(blocks)
        self._metrics.committed(blocks)
