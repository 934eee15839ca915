"""A bundle with another certified history is evidence: kept, reported, and the host applies nothing any more; a forgery is none."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from agent.errors import ReplicaStaleError
from agent.files import Files
from agent.split_views import SplitViews
from ledger import bodies
from ledger.block import decode_block_untrusted
from ledger.bundle import BundledBlock, BundleEnd, BundleHead
from ledger.checkpoint import SplitView, verify_split_view
from ledger.contradiction import find_split_in_blocks
from ledger.rules_evidence import SPLIT_VIEW_KIND
from ledger.trust import TrustedHead
from ledger.validator_actions import PromoteLearner
from node.bundle_services import BundleServices
from node.checkpoint_watch import CheckpointWatch
from node.cli.bundle import BundleTaker
from node.observer import Observer
from node.replica import LedgerReplica
from node.sync import CertifiedBlock
from node.telemetry import Metrics
from tests.testkit.ledger import Chain, make_certificate, node_key
from tests.testkit.node import certified, open_replica
from wire import canonical_json
from wire.certificate import encode_commit_certificate
from wire.errors import RejectedError

FORK = 4
"""The first height at which the histories differ."""


def drift(chain: Chain, target: str) -> None:
    chain.submit(bodies.HostReport("drift", target, b""), "web1@acme")


def forked(chain: Chain, blocks: int = 0) -> Chain:
    """Return a second history of the same validators that shares everything below `FORK`."""
    rival = Chain(chain.genesis)
    for block in chain.blocks[1:FORK]:
        rival.apply(block)
    rival.nonces = 1_000_000
    for _ in range(blocks):
        drift(rival, "forged")
    return rival


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain()
    chain.register("web1@acme", "host")
    for _ in range(6):
        drift(chain, "site")
    assert chain.height == 7
    return chain


@pytest.fixture(scope="module")
def rival(chain: Chain) -> Chain:
    rival = forked(chain, 5)
    assert rival.height == 8
    return rival


class Host:
    """A node that follows, cut off, with its watch and what its agent asks."""

    def __init__(self, replica: LedgerReplica, chain: Chain, directory: Path) -> None:
        self.replica = replica
        self.chain = chain
        self.directory = directory
        self.reported: list[SplitView] = []
        self.observer = Observer(replica, lambda: (), Metrics())
        self.checkpoints = CheckpointWatch(
            replica, TrustedHead.founding(chain.genesis), directory, peers=list, report=self._report
        )
        self.checkpoints.load()
        node: Any = SimpleNamespace(replica=replica, observer=self.observer, checkpoints=self.checkpoints)
        self.take = BundleServices(node).take

    async def _report(self, split: SplitView) -> bool:
        self.reported.append(split)
        return True

    async def follow(self, height: int) -> None:
        await self.observer.take_carried(1, certified(self.chain)[:height])

    async def refused(self, start: int, blocks: Sequence[CertifiedBlock]) -> RejectedError:
        """Return how a piece of a bundle is refused; nothing of it is taken."""
        before = self.replica.height
        taker = BundleTaker(self, self.chain.genesis.chain_id, self.chain.genesis.genesis_hash, before)  # type: ignore[arg-type]

        def run() -> None:
            taker.take(BundleHead(self.chain.genesis.chain_id, self.chain.genesis.genesis_hash, start))
            for each in blocks:
                taker.take(BundledBlock(each.block, each.certificate))
            taker.take(BundleEnd(len(blocks)))

        with pytest.raises(RejectedError) as caught:
            await trio.to_thread.run_sync(run)
        assert self.replica.height == before
        return caught.value

    def call(self, method: str, **params: Any) -> Any:
        """Stand for the node's client, in the command's thread."""
        assert method == "bundle.take"
        return trio.from_thread.run(partial(self.take, params))

    def evidence(self) -> list[Path]:
        return sorted(self.directory.glob("split-view-*.json"))

    def check_agent(self, directory: Path) -> None:
        """Return when an agent on this node may decide. Raises ReplicaStaleError."""
        views = SplitViews(Files(), str(directory / "split-views.json"))
        views.check_settled(self.checkpoints.split_heights, self.replica.latest_view())


@asynccontextmanager
async def host(tmp_path: Path, chain: Chain, height: int) -> AsyncIterator[Host]:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        here = Host(replica, chain, tmp_path / "checkpoints")
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.observer.run)
                await here.follow(height)
                yield here
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize(
    ("own_height", "start", "stop"),
    [
        (7, 1, 8),  # overlaps, and goes on above
        (7, 7, 8),  # begins at the host's own height
        (5, 4, 8),
        (3 + 1, 5, 8),  # begins right above: the first block does not follow
        (7, 2, 6),  # brings nothing new, and would be refused as older
        (7, 4, 7),
    ],
)
async def test_another_certified_history_is_kept_as_evidence_and_stops_the_agent(  # noqa: PLR0917
    tmp_path: Path, chain: Chain, rival: Chain, own_height: int, start: int, stop: int, every: int
) -> None:
    async with host(tmp_path, chain, own_height) as here:
        here.check_agent(tmp_path)
        blocks = certified(rival, start)[: stop - start + 1]
        blocks = [
            each if (index + 1) % every == 0 or index + 1 == len(blocks) else CertifiedBlock(each.block, None)
            for index, each in enumerate(blocks)
        ]
        error = await here.refused(start, blocks)
        assert error.code == "node.bundle.split_view"
        (path,) = here.evidence()
        assert str(path) in error.hint
        kept = SplitView.from_json_untrusted(json.loads(path.read_bytes()))
        assert verify_split_view(kept, TrustedHead.founding(chain.genesis)) == kept.height
        assert here.checkpoints.split_heights == {kept.height}
        with pytest.raises(ReplicaStaleError) as caught:
            here.check_agent(tmp_path)
        assert caught.value.code == "agent.replica.split_view"
        # The same file again says the same and adds nothing; what was found is reported once.
        assert (await here.refused(start, blocks)).hint == error.hint
        await here.checkpoints.report()
        await here.checkpoints.report()
        assert (here.evidence(), here.reported) == ([path], [kept])
    with open_replica(tmp_path / "data", chain.genesis) as replica:  # after a restart
        again = Host(replica, chain, tmp_path / "checkpoints")
        assert again.checkpoints.splits == [kept]
        with pytest.raises(ReplicaStaleError):
            again.check_agent(tmp_path)


async def test_the_ledger_takes_the_evidence(tmp_path: Path, chain: Chain, rival: Chain) -> None:
    network = Chain(chain.genesis)
    for block in chain.blocks[1:]:
        network.apply(block)
    network.nonces = 2_000_000
    async with host(tmp_path, chain, 4) as here:
        await here.refused(5, certified(rival, 5))
        (split,) = here.checkpoints.splits
    network.submit(bodies.EvidenceSubmit(canonical_json.encode(split.to_json())), "web1@acme")
    (record,) = [each for each in network.view.evidences() if each.kind == SPLIT_VIEW_KIND]
    assert record.fork_height == split.height == 4


def minority(rival: Chain) -> list[CertifiedBlock]:
    return signed_by(rival, rival.node_keys[:2])


def strangers(rival: Chain) -> list[CertifiedBlock]:
    return signed_by(rival, [node_key(index) for index in (11, 12, 13)])


def signed_by(rival: Chain, keys: list[Any]) -> list[CertifiedBlock]:
    return [
        CertifiedBlock(block.raw, encode_commit_certificate(make_certificate(rival.genesis.chain_id, keys, block)))
        for block in rival.blocks[FORK:]
    ]


def unsigned(rival: Chain) -> list[CertifiedBlock]:
    return [CertifiedBlock(block.raw, None) for block in rival.blocks[FORK:]]


def with_certificate_of_another(rival: Chain) -> list[CertifiedBlock]:
    blocks = certified(rival, FORK)
    return [CertifiedBlock(blocks[0].block, blocks[1].certificate), *blocks[1:2]]


def torn(rival: Chain) -> list[CertifiedBlock]:
    blocks = certified(rival, FORK)
    return [blocks[0], blocks[2]]


@pytest.mark.parametrize("forge", [minority, strangers, unsigned, with_certificate_of_another, torn])
@pytest.mark.parametrize("own_height", [4, 7])
async def test_a_forgery_is_refused_and_is_no_evidence(
    tmp_path: Path, chain: Chain, rival: Chain, forge: Any, own_height: int
) -> None:
    async with host(tmp_path, chain, own_height) as here:
        blocks = forge(rival)
        params = {
            "genesis_hash": chain.genesis.genesis_hash.hex(),
            "from": FORK,
            "blocks": json.loads(json.dumps([_blob(each) for each in blocks])),
        }
        with pytest.raises(RejectedError) as caught:
            await here.take(params)
        assert caught.value.code == "node.bundle.other_block"
        assert (here.evidence(), here.checkpoints.split_heights) == ([], set())
        here.check_agent(tmp_path)
        # The network's own history goes on.
        await here.follow(chain.height)
        assert here.replica.height == chain.height


def _blob(block: CertifiedBlock) -> dict[str, str | None]:
    from node.local.protocol import encode_blob

    return {
        "block": encode_blob(block.block),
        "certificate": None if block.certificate is None else encode_blob(block.certificate),
    }


@pytest.mark.parametrize("is_provable", [True, False])
async def test_a_history_that_has_changed_its_validators_is_evidence_where_it_is_certified_before(
    tmp_path: Path, chain: Chain, is_provable: bool
) -> None:
    """Blocks alone do not lead to validators that this chain does not know."""
    rival = forked(chain)
    drift(rival, "forged")
    rival.add_learner(5)
    rival.adopt(PromoteLearner("v5"))
    rival.settle()
    blocks = certified(rival, FORK, certify_every=1 if is_provable else 10_000)
    async with host(tmp_path, chain, 7) as here:
        params = {
            "genesis_hash": chain.genesis.genesis_hash.hex(),
            "from": FORK,
            "blocks": [_blob(each) for each in blocks],
        }
        with pytest.raises(RejectedError) as caught:
            await here.take(params)
        assert caught.value.code == ("node.bundle.split_view" if is_provable else "node.bundle.other_block")
        assert bool(here.evidence()) == is_provable


async def test_the_own_history_is_no_contradiction(tmp_path: Path, chain: Chain) -> None:
    async with host(tmp_path, chain, 5) as here:
        for start in range(1, chain.height + 1):
            headers = [(decode_block_untrusted(each.block).header, chain.certificate(block)) for each, block in
                       zip(certified(chain, start), chain.blocks[start:], strict=True)]  # fmt: skip
            with here.replica.store.snapshot() as reader:
                assert find_split_in_blocks(reader, headers) is None
                assert find_split_in_blocks(reader, []) is None
            assert await here.checkpoints.take_blocks_untrusted(headers, "a test") is None
