"""Blocks that are carried by hand: taken over exactly as if followed from a peer, and nothing of them believed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from ledger.bundle import (
    BundledBlock,
    BundledData,
    BundledPatch,
    BundledTransaction,
    BundleEncoder,
    BundleEnd,
    BundleHead,
)
from ledger.genesis import Genesis
from node.bundle_services import BundleServices
from node.cli import bundle as cli_bundle
from node.cli.bundle import BundleTaker, read_transactions
from node.observer import CARRIED_MAX, Observer
from node.replica import LedgerReplica
from node.sync import CertifiedBlock
from node.telemetry import Metrics
from provenance.layout import split_patch_file_untrusted
from tests.testkit.ledger import Chain, make_certificate, make_genesis, node_key
from tests.testkit.node import certified, open_replica
from tests.testkit.patches import make_patch
from tests.testkit.sync import ScriptedSource
from wire.certificate import encode_commit_certificate
from wire.errors import RejectedError, UnavailableError
from wire.hashing import sha256


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain()
    for name in ("alice", "bob", "carol", "dave", "erin", "frank"):
        chain.register(f"{name}@acme", "developer")
    return chain


@asynccontextmanager
async def following(replica: LedgerReplica, *peers: ScriptedSource) -> AsyncIterator[Observer]:
    """Give an observer that runs, of a node that is cut off unless there are peers."""
    observer = Observer(replica, lambda: peers, Metrics())
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(observer.run)
            yield observer
            nursery.cancel_scope.cancel()


async def refused(observer: Observer, start: int, blocks: Sequence[CertifiedBlock]) -> str:
    with pytest.raises(RejectedError) as caught:
        await observer.take_carried(start, blocks)
    return caught.value.code


async def test_carried_blocks_are_committed_as_if_followed(tmp_path: Path, chain: Chain) -> None:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with following(replica) as observer:
            assert await observer.take_carried(1, certified(chain)[:3]) == 3
            assert replica.store.committed_height == 3
            # The same again, and one that overlaps: what is here is compared and left alone.
            assert await observer.take_carried(1, certified(chain)[:3]) == 0
            assert await observer.take_carried(2, certified(chain, 2, certify_every=100)) == chain.height - 3
        assert replica.latest_view().tip == chain.view.tip
        assert replica.latest_view().certificate(chain.height) is not None


async def test_a_node_goes_on_with_a_peer_behind_what_was_carried(tmp_path: Path, chain: Chain) -> None:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        peer = ScriptedSource("honest", [certified(chain, 4)])
        peer.head = chain.height
        observer = Observer(replica, lambda: (), Metrics())
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(observer.run)
                await observer.take_carried(1, certified(chain)[:3])
                nursery.cancel_scope.cancel()
        observer = Observer(replica, lambda: [peer], Metrics())
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(observer.run)
                await replica.wait_above(chain.height - 1)
                nursery.cancel_scope.cancel()
        assert peer.asked[0] == 4


def strangers(chain: Chain) -> list[CertifiedBlock]:
    block = chain.blocks[1]
    keys = [node_key(index) for index in (11, 12, 13)]
    return [CertifiedBlock(block.raw, encode_commit_certificate(make_certificate(chain.genesis.chain_id, keys, block)))]


def minority(chain: Chain) -> list[CertifiedBlock]:
    block = chain.blocks[1]
    few = make_certificate(chain.genesis.chain_id, chain.node_keys[:2], block)
    return [CertifiedBlock(block.raw, encode_commit_certificate(few))]


def other_block(chain: Chain) -> list[CertifiedBlock]:
    return [CertifiedBlock(chain.blocks[1].raw, encode_commit_certificate(chain.certificate(chain.blocks[2])))]


def flipped(chain: Chain) -> list[CertifiedBlock]:
    item = certified(chain)[0]
    raw = bytearray(item.block)
    raw[len(raw) // 2] ^= 1
    return [CertifiedBlock(bytes(raw), item.certificate)]


def without(chain: Chain) -> list[CertifiedBlock]:
    return [replace(item, certificate=None) for item in certified(chain)]


def other_network(chain: Chain) -> list[CertifiedBlock]:
    other = Chain(genesis=make_genesis(chain_id="other-net"))
    other.register("alice@acme", "developer")
    return certified(other)


FORGERIES: dict[str, tuple[Callable[[Chain], list[CertifiedBlock]], str]] = {
    "certificate of strangers": (strangers, "wire.certificate.stranger"),
    "certificate of a minority": (minority, "wire.certificate.too_few"),
    "certificate of another block": (other_block, "ledger.proof.certificate"),
    "changed transaction": (flipped, "ledger.block.transaction"),
    "no certificate": (without, "node.sync.no_certificate"),
    "another network": (other_network, "ledger.block.wrong_chain"),
    "garbage": (lambda _: [CertifiedBlock(b"\x93garbage", None)], "ledger.block.malformed"),
}


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_forgery_changes_nothing(tmp_path: Path, chain: Chain, name: str) -> None:
    make, code = FORGERIES[name]
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with following(replica) as observer:
            found = await refused(observer, 1, make(chain))
            assert found == code
            assert (replica.height, replica.chain.tip_height) == (0, 0)
            # And the node takes what is true afterwards.
            assert await observer.take_carried(1, certified(chain)) == chain.height


async def test_what_comes_before_a_forgery_stays(tmp_path: Path, chain: Chain) -> None:
    blocks = certified(chain)
    blocks[3] = CertifiedBlock(blocks[4].block, blocks[4].certificate)
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with following(replica) as observer:
            assert await refused(observer, 1, blocks) == "ledger.block.wrong_height"
            assert replica.height == 3


async def test_a_gap_is_refused_and_says_from_where_to_export(tmp_path: Path, chain: Chain) -> None:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with following(replica) as observer:
            await observer.take_carried(1, certified(chain)[:2])
            with pytest.raises(RejectedError) as caught:
                await observer.take_carried(4, certified(chain, 4))
            assert caught.value.code == "node.bundle.gap"
            assert caught.value.hint == "export again with --from 2"
            assert replica.height == 2


async def test_another_history_is_refused(tmp_path: Path, chain: Chain) -> None:
    other = Chain(genesis=chain.genesis)
    other.register("mallory@acme", "developer")
    other.register("bob@acme", "developer")
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with following(replica) as observer:
            await observer.take_carried(1, certified(chain)[:1])
            assert await refused(observer, 1, certified(other)) == "node.bundle.other_block"
            assert await refused(observer, 2, certified(other, 2)) == "ledger.block.wrong_previous"
            assert replica.height == 1


async def test_a_node_takes_so_many_pieces_at_once(tmp_path: Path, chain: Chain) -> None:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        observer = Observer(replica, lambda: (), Metrics())
        codes: list[str] = []

        async def take() -> None:
            try:
                await observer.take_carried(1, certified(chain)[:1])
            except UnavailableError as error:
                codes.append(error.code)

        async with trio.open_nursery() as nursery:
            for _ in range(CARRIED_MAX + 1):
                nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert codes == ["node.bundle.busy"]


# -- the socket's method, and the command that uses it -----------------------------------------------------------------


def fake_node(replica: LedgerReplica, observer: Observer | None) -> Any:
    return SimpleNamespace(replica=replica, observer=observer)


class Caller:
    """A node's client, for a command that runs in a thread beside the node."""

    def __init__(self, genesis: Genesis, replica: LedgerReplica, observer: Observer | None) -> None:
        self.take = BundleServices(fake_node(replica, observer)).take
        self.genesis = genesis
        self.files: list[bytes] = []
        self.calls = 0

    def call(self, method: str, **params: Any) -> Any:
        assert method == "bundle.take"
        self.calls += 1
        return trio.from_thread.run(partial(self.take, params))

    def send_file(self, method: str, data: bytes | memoryview, progress: object, *, patch_id: str) -> dict[str, Any]:
        assert (method, patch_id) == ("patches.put", split_patch_file_untrusted(bytes(data)).patch_id)
        self.files.append(bytes(data))
        return {"patch_id": patch_id}


async def carry(caller: Any, items: Sequence[Any], height: int) -> BundleTaker:
    taker = BundleTaker(caller, caller.genesis.chain_id, caller.genesis.genesis_hash, height)

    def run() -> None:
        for item in items:
            taker.take(item)
        taker.take_rest()

    await trio.to_thread.run_sync(run)
    return taker


def bundled(chain: Chain, start: int = 1) -> list[Any]:
    head = BundleHead(chain.genesis.chain_id, chain.genesis.genesis_hash, start)
    return [head, *(BundledBlock(each.block, each.certificate) for each in certified(chain, start))]


async def test_a_bundle_is_handed_over_in_pieces_and_goes_on_where_it_was(
    tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_bundle, "PIECE_BLOCKS", 2)
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with following(replica) as observer:
            caller = Caller(chain.genesis, replica, observer)
            taker = await carry(caller, bundled(chain)[:4], 0)
            assert (taker.taken, replica.height, caller.calls) == (3, 3, 2)
            taker = await carry(caller, bundled(chain), 3)
            assert (taker.taken, taker.height) == (chain.height - 3, chain.height)
            assert taker.document("f", 3)["taken"] == chain.height - 3
            # A bundle with nothing new is no mistake; one that ends lower is the wrong one.
            assert (await carry(caller, bundled(chain), chain.height)).document("f", chain.height)["taken"] == 0
            older = await carry(caller, bundled(chain)[:3], chain.height)
            with pytest.raises(RejectedError) as caught:
                older.document("f", chain.height)
            assert caught.value.code == "node.bundle.older"


async def test_patch_files_come_behind_the_blocks_and_must_be_what_they_say(tmp_path: Path, chain: Chain) -> None:
    data = make_patch()
    file = [BundledPatch(sha256(data), len(data)), BundledData(data[:500]), BundledData(data[500:])]
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with following(replica) as observer:
            caller = Caller(chain.genesis, replica, observer)
            taker = await carry(caller, [*bundled(chain), *file], 0)
            assert (caller.files, replica.height) == ([data], chain.height)
            assert taker.patches == [split_patch_file_untrusted(data).patch_id]
            for items, code in (
                ([replace(file[0], digest=sha256(b"other")), *file[1:]], "node.patch.wrong_digest"),
                (file[1:], "ledger.bundle.malformed"),
                ([replace(file[0], size=600), *file[1:]], "ledger.bundle.malformed"),
                ([*file[:1], BundleEnd(1)], "ledger.bundle.malformed"),
                ([*file[:2], BundleEnd(2)], "ledger.bundle.malformed"),
                ([*file[:2], *file], "ledger.bundle.malformed"),
                ([*file[:2], bundled(chain)[1]], "ledger.bundle.malformed"),
            ):
                with pytest.raises(RejectedError) as caught:
                    await carry(caller, [bundled(chain)[0], *items], chain.height)
                assert caught.value.code == code
    assert caller.files == [data]


async def test_a_bundle_of_another_network_is_refused(tmp_path: Path, chain: Chain) -> None:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with following(replica) as observer:
            caller = Caller(chain.genesis, replica, observer)
            head = BundleHead("other-net", chain.genesis.genesis_hash, 1)
            with pytest.raises(RejectedError) as caught:
                await carry(caller, [head], 0)
            assert caught.value.code == "node.bundle.wrong_chain"
            params = {"genesis_hash": "ab" * 32, "from": 1, "blocks": [{"block": "", "certificate": None}]}
            with pytest.raises(RejectedError) as caught:
                await caller.take(params)
            assert caught.value.code == "node.bundle.wrong_chain"


async def test_a_validator_takes_no_bundle(tmp_path: Path, chain: Chain) -> None:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        with pytest.raises(RejectedError) as caught:
            await BundleServices(fake_node(replica, None)).take({})
        assert caught.value.code == "node.bundle.not_an_observer"


@pytest.mark.parametrize("blocks", [None, [], ["text"], [{"block": 7}], [{"certificate": ""}]])
async def test_blocks_without_their_form_are_refused(tmp_path: Path, chain: Chain, blocks: Any) -> None:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with following(replica) as observer:
            service = BundleServices(fake_node(replica, observer))
            with pytest.raises(RejectedError) as caught:
                await service.take({"genesis_hash": chain.genesis.genesis_hash.hex(), "from": 1, "blocks": blocks})
            assert caught.value.code.startswith(("node.param.", "node.local."))


def test_transactions_are_found_in_a_bundle_and_nowhere_else(tmp_path: Path, chain: Chain) -> None:
    encoder = BundleEncoder()
    data = [
        encoder.begin("net", sha256(b"g"), 0),
        encoder.transaction(b"one"),
        encoder.transaction(b"two"),
        encoder.end(),
    ]
    (tmp_path / "outbox").write_bytes(b"".join(data))
    assert read_transactions(tmp_path / "outbox") == [b"one", b"two"]
    (tmp_path / "tx").write_bytes(b"\x93 anything else")
    assert read_transactions(tmp_path / "tx") is None
    assert read_transactions(tmp_path / "missing") is None
    (tmp_path / "cut").write_bytes(b"".join(data)[:-4])
    with pytest.raises(RejectedError) as caught:
        read_transactions(tmp_path / "cut")
    assert caught.value.code == "ledger.bundle.truncated"
    assert BundledTransaction(b"one").raw == b"one"
