"""Cross-checking checkpoints: a second history that a majority signs is found, kept, and reported; honest peers raise no alarm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ledger import bodies
from ledger.block import decode_block_untrusted
from ledger.checkpoint import SplitView, build_checkpoint, checkpoint_from_text_untrusted, verify_split_view
from ledger.transition import execute_block
from ledger.trust import TrustedHead
from ledger.validator_actions import PromoteLearner
from node.checkpoint_watch import CheckpointWatch
from node.replica import LedgerReplica
from tests.testkit.ledger import Chain, make_certificate
from tests.testkit.node import certified, open_replica
from wire.certificate import decode_commit_certificate_untrusted
from wire.errors import RejectedError, UnavailableError


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain()
    chain.register("web1@acme", "host")
    for _ in range(6):
        report(chain, "site")
    return chain


@pytest.fixture(scope="module")
def rival(chain: Chain) -> Chain:
    """Return a second history of the same validators from height 4 on, signed by a majority of their keys."""
    rival = Chain(chain.genesis)
    for block in chain.blocks[1:4]:
        rival.apply(block)
    rival.nonces = 1_000_000
    for _ in range(2):
        report(rival, "forged")
    return rival


def report(chain: Chain, target: str) -> None:
    chain.submit(bodies.HostReport("drift", target, b""), "web1@acme")


class Peer:
    """A peer that shows the checkpoints of one chain."""

    name = "peer"

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    async def checkpoint(self, height_max: int | None) -> bytes | None:
        return build_checkpoint(self.chain.store, height_max).to_text()


class BrokenPeer(Peer):
    """A peer that answers with whatever it was given."""

    def __init__(self, answer: bytes | Exception | None) -> None:
        self.answer = answer

    async def checkpoint(self, height_max: int | None) -> bytes | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Watched:
    """A replica that is fed by hand, with its watch."""

    def __init__(self, replica: LedgerReplica, chain: Chain, directory: Path) -> None:
        self.replica = replica
        self.chain = chain
        self.reported: list[SplitView] = []
        self.takes_reports = True
        founding = TrustedHead.founding(chain.genesis)
        self.changes_ahead = 0
        self.watch = CheckpointWatch(
            replica, founding, directory, peers=list, report=self._report, on_ahead=self._note_ahead
        )
        self.watch.load()

    def _note_ahead(self) -> None:
        self.changes_ahead += 1

    async def _report(self, split: SplitView) -> bool:
        self.reported.append(split)
        return self.takes_reports

    def follow(self, height: int) -> None:
        """Let the replica reach a height."""
        for item in certified(self.chain)[self.replica.height : height]:
            executed = execute_block(self.replica.store, decode_block_untrusted(item.block), now_ms=None)
            assert item.certificate is not None
            self.replica.chain.push(executed)
            self.replica.commit_to_store([([executed], decode_commit_certificate_untrusted(item.certificate))])
            self.replica.committed([executed])


@contextmanager
def watched(tmp_path: Path, chain: Chain, height: int) -> Iterator[Watched]:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        here = Watched(replica, chain, tmp_path / "checkpoints")
        here.follow(height)
        yield here


def evidence_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "checkpoints").glob("split-view-*.json"))


async def test_honest_peers_raise_no_alarm(tmp_path: Path, chain: Chain) -> None:
    with watched(tmp_path, chain, 3) as here:
        for height in (3, 5, chain.height):
            here.follow(height)
            await here.watch.note_own()
            await here.watch.ask(Peer(chain))
            await here.watch.compare_reached()
        assert here.watch.splits == []
        assert here.watch.highest == build_checkpoint(chain.store)
        assert here.watch.compared == 6
    assert evidence_files(tmp_path) == []


async def test_the_highest_checkpoint_outlives_the_node(tmp_path: Path, chain: Chain) -> None:
    with watched(tmp_path, chain, 3) as here:
        await here.watch.ask(Peer(chain))
        kept = (tmp_path / "checkpoints" / "highest.checkpoint").read_bytes()
        assert checkpoint_from_text_untrusted(kept).height == chain.height > here.replica.height
        again = Watched(here.replica, chain, tmp_path / "checkpoints")
        assert again.watch.highest == build_checkpoint(chain.store)


@pytest.mark.parametrize("own_height", [5, 7])
async def test_a_second_history_is_found_kept_and_reported_once(
    tmp_path: Path, chain: Chain, rival: Chain, own_height: int
) -> None:
    with watched(tmp_path, chain, own_height) as here:
        for _ in range(3):
            await here.watch.ask(Peer(rival))
            await here.watch.report()
        (split,) = here.watch.splits
        assert here.reported == [split]
        (path,) = evidence_files(tmp_path)
        kept = SplitView.from_json_untrusted(json.loads(path.read_bytes()))
        assert kept == split
        assert verify_split_view(kept, TrustedHead.founding(chain.genesis)) == rival.height == 5


async def test_a_second_history_ahead_is_found_when_the_own_chain_gets_there(
    tmp_path: Path, chain: Chain, rival: Chain
) -> None:
    with watched(tmp_path, chain, 3) as here:
        await here.watch.ask(Peer(rival))
        await here.watch.compare_reached()
        assert here.watch.splits == []
        here.follow(6)
        await here.watch.compare_reached()
        assert [split.height for split in here.watch.splits] == [5]


async def test_what_was_seen_before_a_restart_is_compared_with_the_chain_afterwards(
    tmp_path: Path, chain: Chain, rival: Chain
) -> None:
    """A node that is given another past finds the block of its old one."""
    with watched(tmp_path, chain, 3) as here:
        await here.watch.ask(Peer(rival))
        again = Watched(here.replica, chain, tmp_path / "checkpoints")
        again.follow(6)
        await again.watch.compare_reached()
        assert [split.height for split in again.watch.splits] == [5]


async def test_a_report_that_nobody_took_is_made_again_also_after_a_restart(
    tmp_path: Path, chain: Chain, rival: Chain
) -> None:
    with watched(tmp_path, chain, 6) as here:
        here.takes_reports = False
        await here.watch.ask(Peer(rival))
        await here.watch.report()
        await here.watch.report()
        assert len(here.reported) == 2
        again = Watched(here.replica, chain, tmp_path / "checkpoints")
        await again.watch.report()
        await again.watch.report()
        assert again.reported == here.watch.splits


async def test_what_does_not_hold_changes_nothing(tmp_path: Path, chain: Chain, rival: Chain) -> None:
    """A minority can sign what it likes."""
    last = rival.blocks[-1]
    checkpoint = build_checkpoint(rival.store)
    minority = make_certificate(chain.genesis.chain_id, chain.node_keys[:2], last)
    unsigned = type(checkpoint)(checkpoint.header, minority, checkpoint.configuration).to_text()
    with watched(tmp_path, chain, 6) as here:
        for answer in (
            unsigned,
            b"",
            b"\xff",
            None,
            UnavailableError("node.net.timeout", "no answer"),
            RejectedError("node.net.unknown_method", "an older node"),
        ):
            await here.watch.ask(BrokenPeer(answer))
        await here.watch.report()
        assert (here.watch.splits, here.watch.highest, here.reported) == ([], None, [])
        assert here.watch.compared == 0


async def test_a_split_view_stops_a_host_also_after_a_restart_and_damage(
    tmp_path: Path, chain: Chain, rival: Chain
) -> None:
    with watched(tmp_path, chain, 6) as here:
        assert here.watch.split_heights == set()
        await here.watch.ask(Peer(rival))
        assert here.watch.split_heights == {5}
        assert Watched(here.replica, chain, tmp_path / "checkpoints").watch.split_heights == {5}
        (path,) = evidence_files(tmp_path)
        path.write_text("{")
        again = Watched(here.replica, chain, tmp_path / "checkpoints")
        assert (again.watch.splits, again.watch.split_heights) == ([], {5})


async def test_a_kept_file_that_does_not_hold_is_set_aside(tmp_path: Path, chain: Chain, rival: Chain) -> None:
    with watched(tmp_path, chain, 6) as here:
        await here.watch.ask(Peer(rival))
        kept = tmp_path / "checkpoints" / "highest.checkpoint"
        kept.write_bytes(kept.read_bytes()[:-5])
        (path,) = evidence_files(tmp_path)
        path.write_text("{")
        again = Watched(here.replica, chain, tmp_path / "checkpoints")
        assert (again.watch.highest, again.watch.splits) == (None, [])
        assert not kept.exists()
        await again.watch.note_own()
        assert checkpoint_from_text_untrusted(kept.read_bytes()).height == 6


async def test_validators_that_came_meanwhile_are_known_before_the_chain_tells_of_them(tmp_path: Path) -> None:
    """Guarded by `CheckpointWatch.configuration_ahead`."""
    chain = Chain()
    chain.register("web1@acme", "host")
    chain.add_learner(5)
    chain.adopt(PromoteLearner("v5"))
    chain.settle()
    with watched(tmp_path, chain, 1) as here:
        assert here.watch.configuration_ahead is None
        await here.watch.ask(Peer(chain))
        ahead = here.watch.configuration_ahead
        assert ahead == chain.view.configuration()
        assert "v5" in {each.name for each in ahead.voters}
        assert here.changes_ahead == 1
        again = Watched(here.replica, chain, tmp_path / "checkpoints")
        assert again.watch.configuration_ahead == ahead
        here.follow(chain.height)
        assert here.watch.configuration_ahead is None


async def test_a_checkpoint_that_does_not_hold_names_no_validators(tmp_path: Path, chain: Chain) -> None:
    other = Chain(chain.genesis)
    other.register("web1@acme", "host")
    other.add_learner(5)
    other.adopt(PromoteLearner("v5"))
    other.settle()
    forged = build_checkpoint(other.store).to_text().replace(b"\nheight ", b"\nheight 1")
    with watched(tmp_path, chain, 1) as here:
        for text in (forged, build_checkpoint(other.store).to_text()[:-80]):
            await here.watch.ask(BrokenPeer(text))
        assert here.watch.configuration_ahead is None
        assert here.changes_ahead == 0
