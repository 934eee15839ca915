"""Cross-checking: a node asks its peers what they hold to be certified, and compares it with its own chain.

Validators that agree among each other could show two histories to two sides. Neither side can tell by itself: each history holds. So every
node, hosts included, keeps asking its peers for their newest checkpoint. Two that contradict each other are written down as evidence
(`ledger.checkpoint.SplitView`), logged, counted, and put on record by `evidence.submit` where this node may sign for an identity.

::

    home/checkpoints/highest.checkpoint       the highest certified header that this node has seen, its own or a peer's
    home/checkpoints/split-view-HEIGHT-HASH.json     evidence, one file for each pair of blocks

The highest checkpoint outlives the store: a node that comes back with an older store notices it when it finds another block there.

It also names validators of whom this node's own chain does not tell yet. A validator that was away while a new one came, and came to lead,
would otherwise refuse the only one who can tell it: as a stranger (`CheckpointWatch.configuration_ahead`).

Source: docs/spec/proofs.md 6.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import structlog

from ledger.block import Header
from ledger.checkpoint import (
    Checkpoint,
    SplitView,
    build_checkpoint,
    checkpoint_from_text_untrusted,
    find_split_view,
    verify_checkpoint,
    verify_split_view,
)
from ledger.configuration import Configuration
from ledger.contradiction import find_split_in_blocks
from ledger.errors import NotYetAvailableError
from ledger.limits import CHECKPOINT_BYTES_MAX
from ledger.trust import TrustedHead
from node.replica import LedgerReplica
from node.storage.snapshot_files import write_file
from wire.certificate import CommitCertificate
from wire.errors import RejectedError, UnavailableError

CHECK_S: Final = 5.0
"""The pause between two questions, each to the next peer in turn."""
LOST_CHECK_S: Final = 1.0
"""The same of a validator that hears no leader: whoever leads may be somebody of whom it does not know yet."""
AHEAD_MAX: Final = 64
"""Checkpoints above this node's own height that wait until its chain reaches them."""
SPLITS_MAX: Final = 64
"""Split views that are written down; one is enough to know, more show how far it went."""
HIGHEST: Final = "highest.checkpoint"
_NAME: Final = re.compile(r"split-view-([0-9]{1,18})-[0-9a-f]{16}\.json")

_log = structlog.get_logger("node.checkpoints")


class CheckpointSource(Protocol):
    """A peer that can be asked what it holds to be certified."""

    @property
    def name(self) -> str:
        """The peer for people."""
        ...

    async def checkpoint(self, height_max: int | None) -> bytes | None:
        """Return the peer's newest checkpoint, or the newest up to a height, as a text; None when it has none."""
        ...


class CheckpointWatch:
    """Remembers the highest checkpoint and compares those of others with this chain.

    Args:
        replica: This node's ledger.
        founding: What this node trusts.
        directory: Where checkpoint and evidence are kept; made when it is not there.
        peers: Returns whom to ask.
        report: Called for each split view when it is on the disk; False when it should be called again later.
        is_lost: Whether this is a validator that hears no leader.
        on_ahead: Called when `configuration_ahead` has changed.
    """

    def __init__(
        self,
        replica: LedgerReplica,
        founding: TrustedHead,
        directory: Path,
        *,
        peers: Callable[[], Sequence[CheckpointSource]],
        report: Callable[[SplitView], Awaitable[bool]],
        is_lost: Callable[[], bool] = lambda: False,
        on_ahead: Callable[[], None] = lambda: None,
    ) -> None:
        self._replica = replica
        self._founding = founding
        self._directory = directory
        self._peers = peers
        self._report = report
        self._is_lost = is_lost
        self._on_ahead = on_ahead
        self._highest_configuration: Configuration | None = None
        self._unreported: list[SplitView] = []
        self._ahead: dict[bytes, tuple[str, Checkpoint]] = {}
        self.highest: Checkpoint | None = None
        """The highest certified header that was seen."""
        self.compared = 0
        """Checkpoints of peers that held and were taken for comparison, since the start."""
        self.splits: list[SplitView] = []
        """What was found since the start, and before."""
        self.split_heights: set[int] = set()
        """The heights of all of them, and of evidence that cannot be read any more: on a host nothing is applied until each is settled."""

    @property
    def configuration_ahead(self) -> Configuration | None:
        """Who the validators are under the highest certified header that was seen; None while this node's own chain is as high."""
        if self.highest is None or self.highest.height <= self._replica.height:
            return None
        return self._highest_configuration

    async def run(self) -> None:
        """Ask and compare until cancelled. `load` comes before.

        Raises:
            CorruptionError: The store is damaged; the node must stop.
        """
        turn = 0
        while True:
            pause_s = LOST_CHECK_S if self._is_lost() else CHECK_S
            await self._replica.machine.sleep(self._replica.machine.jittered(pause_s))
            await self.note_own()
            peers = self._peers()
            if peers:
                await self.ask(peers[turn % len(peers)])
                turn += 1
            await self.compare_reached()
            await self.report()

    def load(self) -> None:
        """Read what an earlier run has kept. A file that does not hold is set aside, and said so. Blocks."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / HIGHEST
        if path.exists():
            try:
                self._restore(path.read_bytes()[: CHECKPOINT_BYTES_MAX + 1])
            except RejectedError as error:
                _log.error("the kept checkpoint does not hold and is set aside", code=error.code, message=error.message)
                path.replace(path.with_suffix(".damaged"))
        for path in sorted(self._directory.glob("split-view-*.json")):
            if (named := _NAME.fullmatch(path.name)) is not None:
                # Also of a file that does not hold any more: damage must not set a host free.
                self.split_heights.add(int(named[1]))
            if len(self.splits) >= SPLITS_MAX:
                continue
            try:
                split = SplitView.from_json_untrusted(json.loads(path.read_bytes()))
                verify_split_view(split, self._founding)
            except (RejectedError, ValueError, RecursionError):
                _log.error("the kept evidence does not hold", file=str(path))
                continue
            self.splits.append(split)
            self._unreported.append(split)

    def _restore(self, text: bytes) -> None:
        """Go on from the highest checkpoint of an earlier run."""
        self.highest, self._highest_configuration = self._verified(text)
        self._ahead[self.highest.header.hash()] = ("this node, before", self.highest)
        if self.highest.height > self._replica.height:
            _log.warning(
                "this node has seen more than its store holds",
                seen_height=self.highest.height,
                height=self._replica.height,
            )

    async def note_own(self) -> None:
        """Remember this chain's own newest certified header."""
        own = await self._replica.machine.in_thread(self._build_own)
        if own is not None:
            await self._remember(own, own.configuration.configuration)

    async def ask(self, peer: CheckpointSource) -> None:
        """Compare what a peer holds to be certified, at this node's height and at its own."""
        try:
            for height_max in (self._replica.height, None):
                text = await peer.checkpoint(height_max)
                if text is not None:
                    await self.take_untrusted(text, peer.name)
        except UnavailableError as error:
            _log.debug("peer has no checkpoint", peer=peer.name, code=error.code)
        except RejectedError as error:
            _log.warning("peer's checkpoint does not hold", peer=peer.name, code=error.code, message=error.message)

    async def take_untrusted(self, text: bytes, source: str) -> None:
        """Compare a checkpoint of somebody's with this chain: now, or when the chain reaches its height.

        Raises:
            RejectedError: It has no good form, or does not hold.
        """
        # Away from the event loop: a proof of many changes of the validators takes longer than a heartbeat may be late.
        own = self._replica.latest_view().configuration()
        checkpoint, configuration = await self._replica.machine.in_thread(self._verified, text, own)
        self.compared += 1
        if checkpoint.height > self._replica.height:
            if len(self._ahead) < AHEAD_MAX:
                self._ahead[checkpoint.header.hash()] = (source, checkpoint)
        else:
            await self._compare(checkpoint, source)
        await self._remember(checkpoint, configuration)

    async def take_blocks_untrusted(
        self, blocks: Sequence[tuple[Header, CommitCertificate | None]], source: str
    ) -> Path | None:
        """Return where the evidence is kept if carried blocks show another certified history; None if they do not, or cannot prove it.

        Args:
            blocks: Headers in the order of their heights, and the certificates of those that have one; from anybody.
            source: Where they come from, for people.
        """
        split = await self._replica.machine.in_thread(self._find_in_blocks, blocks)
        if split is None:
            return None
        carried = {header.hash() for header, _ in blocks}
        sides = (split.first.header, split.second.header)
        return await self._keep_split(split, next(each for each in sides if each.hash() in carried), source)

    async def compare_reached(self) -> None:
        """Compare the checkpoints whose height this chain has reached meanwhile."""
        height = self._replica.height
        for block_hash, (source, checkpoint) in list(self._ahead.items()):
            if checkpoint.height <= height:
                del self._ahead[block_hash]
                await self._compare(checkpoint, source)

    async def report(self) -> None:
        """Report the split views that nobody has heard of yet."""
        for split in list(self._unreported):
            if await self._report(split):
                self._unreported.remove(split)

    def _build_own(self) -> Checkpoint | None:
        try:
            with self._replica.store.snapshot() as reader:
                return build_checkpoint(reader)
        except NotYetAvailableError:
            return None

    def _verified(self, text: bytes, own: Configuration | None = None) -> tuple[Checkpoint, Configuration]:
        """Return the checkpoint that holds from the founding document, or under the validators of this chain, and its validators."""
        checkpoint = checkpoint_from_text_untrusted(text)
        trusted = self._founding
        if own is not None and checkpoint.header.validators_hash == own.hash:
            trusted = TrustedHead(self._founding.chain_id, own)
        return checkpoint, verify_checkpoint(checkpoint, trusted).configuration

    async def _compare(self, checkpoint: Checkpoint, source: str) -> None:
        with self._replica.store.snapshot() as reader:
            split = find_split_view(reader, checkpoint)
        if split is not None:
            await self._keep_split(split, checkpoint.header, source)

    def _find_in_blocks(self, blocks: Sequence[tuple[Header, CommitCertificate | None]]) -> SplitView | None:
        """Return the evidence in carried blocks, verified from the founding document. Blocks."""
        with self._replica.store.snapshot() as reader:
            split = find_split_in_blocks(reader, blocks)
        if split is None:
            return None
        try:
            verify_split_view(split, self._founding)
        except RejectedError as error:
            _log.warning(
                "carried blocks contradict this chain and prove nothing", code=error.code, message=error.message
            )
            return None
        return split

    async def _keep_split(self, split: SplitView, other: Header, source: str) -> Path:
        """Return where the evidence is kept, after it is, and counts.

        Args:
            split: It holds.
            other: The header on the other side.
            source: Where it comes from, for people.
        """
        block_hash = other.hash()
        for known in self.splits:
            if block_hash in (known.first.header.hash(), known.second.header.hash()):
                return self._directory / _name_of(known.height, block_hash)
        self.split_heights.add(split.height)
        path = self._directory / _name_of(split.height, block_hash)
        _log.error(
            "split view: the validators have certified two histories",
            height=split.height,
            block_hash=block_hash.hex(),
            source=source,
            evidence=str(path),
        )
        if len(self.splits) >= SPLITS_MAX:
            return path
        await self._replica.machine.in_thread(self._keep, path.name, json.dumps(split.to_json(), indent=1).encode())
        self.splits.append(split)
        self._unreported.append(split)
        return path

    async def _remember(self, checkpoint: Checkpoint, configuration: Configuration) -> None:
        if self.highest is not None and checkpoint.height <= self.highest.height:
            return
        known = self.configuration_ahead
        self.highest, self._highest_configuration = checkpoint, configuration
        if self.configuration_ahead != known:
            self._on_ahead()
        await self._replica.machine.in_thread(self._keep, HIGHEST, checkpoint.to_text())

    def _keep(self, name: str, data: bytes) -> None:
        """Write a file durably. Blocks."""
        path = self._directory / name
        try:
            write_file(path, data)
        except OSError as error:
            # A full disk stops the store first; this file is written again with the next checkpoint.
            _log.warning("a checkpoint was not written", file=str(path), reason=error.strerror)


def _name_of(height: int, block_hash: bytes) -> str:
    """Return the name of the file that holds evidence about this height and that block of the other history."""
    return f"split-view-{height}-{block_hash.hex()[:16]}.json"
