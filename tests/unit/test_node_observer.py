"""An observer believes certificates, never peers: what does not hold changes nothing, and the next peer is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from consensus.effects import HardState
from ledger.keyspace import height_key
from node.observer import Observer, SourcePeer
from node.replica import LedgerReplica
from node.storage.block_store import decode_hard_state, decode_log_term, decode_log_tip
from node.storage.tables import ONLY_KEY, TABLE_HARD_STATE, TABLE_LOG_TERM, TABLE_LOG_TIP
from node.sync import CertifiedBlock, certified_blocks
from node.telemetry import Metrics
from tests.testkit.ledger import Chain, make_certificate, make_genesis, node_key
from tests.testkit.node import certified, open_replica
from tests.testkit.sync import ScriptedSource
from wire.certificate import encode_commit_certificate
from wire.errors import UnavailableError


@pytest.fixture
def chain() -> Chain:
    chain = Chain()
    chain.register("alice@acme", "developer")
    chain.register("web1@acme", "host")
    chain.elect(2)
    chain.register("bob@beta", "attestor:security-review")
    return chain


async def _follow(
    replica: LedgerReplica, peers: Sequence[SourcePeer], until: Callable[[], bool], *, votes: bool = False
) -> None:
    observer = Observer(replica, lambda: peers, Metrics(), votes=votes)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(observer.run)
            while not until():  # noqa: ASYNC110 - what is waited for has no event; the deadline is above
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()


async def test_observer_commits_what_is_certified(tmp_path: Path, chain: Chain) -> None:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        peer = ScriptedSource("honest", [certified(chain)])
        await _follow(replica, [peer], lambda: replica.height == chain.height)
        assert replica.latest_view().tip == chain.view.tip
        assert replica.store.committed_height == chain.height


@pytest.mark.parametrize("votes", [True, False])
async def test_who_will_vote_has_the_term_of_what_it_follows_whenever_it_ends(
    tmp_path: Path, chain: Chain, votes: bool
) -> None:
    """Its next start may be that of a voter, who refuses a log ahead of its term: seed 1897 of the simulator."""
    written: list[tuple[int, int]] = []
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        store = replica.store.store
        write = store.write

        def watched(rows: dict[tuple[int, bytes], bytes | None]) -> None:
            write(rows)
            tip = decode_log_tip(store.get(TABLE_LOG_TIP, ONLY_KEY) or b"")
            row = store.get(TABLE_HARD_STATE, ONLY_KEY)
            log_term = decode_log_term(store.get(TABLE_LOG_TERM, height_key(tip[0])) or b"")[0]
            written.append((0 if row is None else decode_hard_state(row).term, log_term))

        store.write = watched  # type: ignore[method-assign, assignment]
        peer = ScriptedSource("honest", [certified(chain)])
        await _follow(replica, [peer], lambda: replica.height == chain.height, votes=votes)
        assert replica.store.load().hard_state == HardState(2 if votes else 0)
    assert {log_term for _, log_term in written} == {1, 2}
    assert all(term == (log_term if votes else 0) for term, log_term in written)


async def test_one_certificate_covers_the_blocks_below_it(tmp_path: Path, chain: Chain) -> None:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        peer = ScriptedSource("honest", [certified(chain, certify_every=100)])
        await _follow(replica, [peer], lambda: replica.height == chain.height)
        assert replica.latest_view().certificate(chain.height) is not None
        assert replica.latest_view().certificate(1) is None


def _without_certificates(chain: Chain) -> list[CertifiedBlock]:
    return [replace(item, certificate=None) for item in certified(chain)]


def _certificate_of_strangers(chain: Chain) -> list[CertifiedBlock]:
    block = chain.blocks[1]
    strangers = [node_key(index) for index in (11, 12, 13)]
    return [
        CertifiedBlock(block.raw, encode_commit_certificate(make_certificate(chain.genesis.chain_id, strangers, block)))
    ]


def _certificate_of_a_minority(chain: Chain) -> list[CertifiedBlock]:
    block = chain.blocks[1]
    few = chain.node_keys[:2]
    return [CertifiedBlock(block.raw, encode_commit_certificate(make_certificate(chain.genesis.chain_id, few, block)))]


def _certificate_of_another_block(chain: Chain) -> list[CertifiedBlock]:
    return [CertifiedBlock(chain.blocks[1].raw, encode_commit_certificate(chain.certificate(chain.blocks[2])))]


def _block_of_another_network(chain: Chain) -> list[CertifiedBlock]:
    other = Chain(genesis=make_genesis(chain_id="other-net"))
    other.register("alice@acme", "developer")
    return certified(other)


def _gap(chain: Chain) -> list[CertifiedBlock]:
    return certified(chain, 2)


def _garbage(chain: Chain) -> list[CertifiedBlock]:
    return [CertifiedBlock(b"\x93garbage", None)]


def _flipped_transaction(chain: Chain) -> list[CertifiedBlock]:
    item = certified(chain)[0]
    raw = bytearray(item.block)
    raw[len(raw) // 2] ^= 1
    return [CertifiedBlock(bytes(raw), item.certificate)]


@pytest.mark.parametrize(
    "lie",
    [
        _without_certificates,
        _certificate_of_strangers,
        _certificate_of_a_minority,
        _certificate_of_another_block,
        _block_of_another_network,
        _gap,
        _garbage,
        _flipped_transaction,
    ],
)
async def test_lying_peer_changes_nothing_and_the_next_one_is_asked(
    tmp_path: Path, chain: Chain, lie: Callable[[Chain], list[CertifiedBlock]]
) -> None:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        liar = ScriptedSource("liar", [lie(chain)])
        observer = Observer(replica, lambda: [liar], Metrics())
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(observer.run)
                while not observer.document()["dropped"]:  # noqa: ASYNC110 - what is waited for has no event
                    await trio.sleep(0.005)
                assert replica.height == 0
                assert replica.chain.tip_height == 0
                honest = ScriptedSource("honest", [certified(chain)], head=chain.height)
                nursery.cancel_scope.cancel()
        await _follow(replica, [honest], lambda: replica.height == chain.height)
        assert honest.asked[0] == 1


async def test_good_blocks_before_a_bad_one_stay(tmp_path: Path, chain: Chain) -> None:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        good = certified(chain)
        liar = ScriptedSource("liar", [[good[0], replace(good[2])]])
        await _follow(replica, [liar], lambda: replica.height == 1)
        assert replica.store.committed_height == 1
        honest = ScriptedSource("honest", [good[1:]])
        await _follow(replica, [honest], lambda: replica.height == chain.height)
        assert honest.asked[0] == 2


async def test_peer_that_does_not_answer_is_left(tmp_path: Path, chain: Chain) -> None:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        away = ScriptedSource("away", [UnavailableError("node.net.unreachable", "away")])
        behind = ScriptedSource("behind", [[]])
        honest = ScriptedSource("honest", [certified(chain)])
        await _follow(replica, [away, behind, honest], lambda: replica.height == chain.height)


async def test_observer_goes_on_where_it_stopped(tmp_path: Path, chain: Chain) -> None:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        await _follow(replica, [ScriptedSource("p", [certified(chain)[:1]])], lambda: replica.height == 1)
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        peer = ScriptedSource("p", [certified(chain, 2)])
        await _follow(replica, [peer], lambda: replica.height == chain.height)
        assert peer.asked[0] == 2


@pytest.mark.parametrize("bytes_max", [1, 2000, 10**6])
async def test_served_batches_end_with_a_certificate(tmp_path: Path, chain: Chain, bytes_max: int) -> None:
    for _ in range(3):
        block = chain.build().block
        chain.apply(block, certify=False)
    chain.apply(chain.build().block)
    batch = certified_blocks(chain.view, 1, bytes_max)
    assert batch[-1].certificate is not None
    assert [item.block for item in batch] == [block.raw for block in chain.blocks[1 : len(batch) + 1]]
    if bytes_max == 1:
        # From the first uncertified block on, one batch must reach the next certificate, however little was asked for.
        assert len(certified_blocks(chain.view, 4, 1)) == 4


async def test_nothing_is_served_above_the_tip(chain: Chain) -> None:
    assert certified_blocks(chain.view, chain.height + 1, 10**6) == []
