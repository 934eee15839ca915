"""Collecting COSE receipts, and asking peers for checkpoints: with validators that are away, behind, or lie."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
import trio

from ledger import actions, bodies
from ledger.checkpoint import build_checkpoint
from ledger.cose_receipt import decode_cose_receipts_untrusted, verify_cose_receipts
from ledger.keyspace import MemoryStore
from ledger.transaction import decode_transaction_untrusted
from node import cose_receipts
from node.cose_receipts import RECEIPT_SIGN, CoseReceiptMaker
from node.sync import CHECKPOINT_GET, PeerLedger, SyncServer
from tests.testkit.ledger import Chain, key_of, node_key
from wire.codec import encode
from wire.errors import RejectedError, UnavailableError
from wire.keys import KeyId, PrivateKey

Handler = Callable[[KeyId, bytes], Awaitable[bytes]]


class FakeReplica:
    """A chain in memory as a replica that stands still."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.chain_id = chain.genesis.chain_id
        self.store = self

    @contextmanager
    def snapshot(self) -> Iterator[MemoryStore]:
        yield self.chain.store

    @property
    def height(self) -> int:
        return self.chain.height

    async def wait_above(self, height: int) -> int:
        if self.height <= height:
            await trio.sleep_forever()
        return self.height


class FakeNode:
    """One node with its makers; its network is the table of all nodes' handlers."""

    def __init__(self, chain: Chain, key: PrivateKey, nodes: dict[KeyId, FakeNode]) -> None:
        self.replica = FakeReplica(chain)
        self.network = self
        self.nodes = nodes
        self.handlers: dict[str, Handler] = {}
        self.asked: list[str] = []
        self.receipts = CoseReceiptMaker(self, key)  # type: ignore[arg-type]
        self.receipts.register()
        nodes[key.public_key.key_id] = self

    def handle(self, method: str, handler: Handler) -> None:
        self.handlers[method] = handler

    def peer_addresses(self) -> dict[KeyId, str]:
        return dict.fromkeys(self.nodes, "somewhere")

    async def request(
        self, peer: KeyId, method: str, payload: bytes, *, timeout_s: float, address: str | None
    ) -> bytes:
        assert timeout_s > 0
        self.asked.append(method)
        if peer not in self.nodes:
            raise UnavailableError("node.net.unreachable", "nobody there")
        return await self.nodes[peer].handlers[method](peer, payload)


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain()
    chain.register("web1@acme", "host")
    for _ in range(3):
        chain.submit(bodies.HostReport("drift", "site", b"x"), "web1@acme")
    return chain


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cose_receipts, "SIGN_TIMEOUT_S", 0.2)
    monkeypatch.setattr(cose_receipts, "CATCH_UP_S", 0.05)


def network(chain: Chain, *indexes: int) -> list[FakeNode]:
    nodes: dict[KeyId, FakeNode] = {}
    return [FakeNode(chain, node_key(index), nodes) for index in indexes]


def tx_id(chain: Chain, height: int) -> bytes:
    return decode_transaction_untrusted(chain.blocks[height].transactions[0]).tx_id


async def make(node: FakeNode, height: int, height_min: int = 0) -> int:
    """Make the receipts of a block's transaction, verify them, and return how many there are."""
    chain = node.replica.chain
    receipts = decode_cose_receipts_untrusted(await node.receipts.make(tx_id(chain, height), height_min))
    assert verify_cose_receipts(receipts, chain.genesis).tx_id == tx_id(chain, height)
    return len(receipts.signatures)


async def test_a_majority_signs_and_is_asked_once(chain: Chain) -> None:
    first, *_ = network(chain, 1, 2, 3, 4)
    assert await make(first, 3) == 3
    asked = len(first.asked)
    assert 2 <= asked <= 3
    assert await make(first, 3) == 3
    assert await make(first, 2, 3) == 3, "another transaction under the same header"
    assert len(first.asked) == asked


async def test_a_host_asks_validators_and_signs_nothing_itself(chain: Chain) -> None:
    nodes = network(chain, 1, 2, 3)[0].nodes
    host = FakeNode(chain, key_of("web1@acme"), nodes)
    assert await make(host, 3) == 3
    with pytest.raises(RejectedError) as refused:
        await host.receipts.sign(3)
    assert refused.value.code == "node.receipt.not_a_validator"


async def test_two_of_four_are_too_few_and_it_says_so(chain: Chain) -> None:
    first, _ = network(chain, 1, 2)
    with pytest.raises(UnavailableError) as unavailable:
        await first.receipts.make(tx_id(chain, 3), 0)
    assert unavailable.value.code == "node.receipt.no_majority"
    FakeNode(chain, node_key(3), first.nodes)
    assert await make(first, 3) == 3


async def test_a_validator_that_is_behind_does_not_sign_what_it_does_not_have(chain: Chain) -> None:
    behind = Chain(chain.genesis)
    behind.apply(chain.blocks[1])
    first, second, _ = network(chain, 1, 2, 3)
    second.replica.chain = behind
    with pytest.raises(UnavailableError) as unavailable:
        await second.receipts.sign(3)
    assert unavailable.value.code == "node.receipt.behind"
    with pytest.raises(UnavailableError):
        await first.receipts.make(tx_id(chain, 3), 0)


async def test_a_validator_with_another_history_does_not_count(chain: Chain) -> None:
    """It signs its own root, not the one that it is asked for."""
    rival = Chain(chain.genesis)
    rival.apply(chain.blocks[1])
    rival.nonces = 1_000_000
    for _ in range(3):
        rival.submit(bodies.HostReport("drift", "forged", b"x"), "web1@acme")
    first, second, _ = network(chain, 1, 2, 3)
    second.replica.chain = rival
    with pytest.raises(UnavailableError) as unavailable:
        await first.receipts.make(tx_id(chain, 3), 0)
    assert unavailable.value.code == "node.receipt.no_majority"


async def test_both_groups_sign_while_a_change_is_under_way() -> None:
    chain = Chain()
    chain.register("web1@acme", "host")
    chain.add_learner(5)
    chain.adopt(actions.ReplaceValidator("v2", "v5"))
    first, *_ = network(chain, 1, 2, 3, 4)
    assert await make(first, chain.height) == 3, "three old ones, of whom three are new ones too"
    first, *_ = network(chain, 1, 2, 5)
    with pytest.raises(UnavailableError):
        await first.receipts.make(tx_id(chain, chain.height), 0)


@pytest.mark.parametrize("payload", [b"", encode((0,)), encode((-1,)), encode(("1",)), encode((1, 2)), encode(None)])
async def test_a_request_out_of_form_is_refused(chain: Chain, payload: bytes) -> None:
    (first,) = network(chain, 1)
    with pytest.raises(RejectedError):
        await first.handlers[RECEIPT_SIGN](KeyId(bytes(32)), payload)


async def test_a_transaction_that_is_not_there_has_no_receipts(chain: Chain) -> None:
    (first,) = network(chain, 1)
    with pytest.raises(RejectedError) as refused:
        await first.receipts.make(bytes(32), 0)
    assert refused.value.code == "ledger.receipt.not_found"


async def test_what_is_remembered_is_bounded(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cose_receipts, "REMEMBERED_MAX", 2)
    first, *_ = network(chain, 1, 2, 3)
    for height in (2, 3, 4):
        assert await make(first, height) == 3
    asked = len(first.asked)
    await make(first, 4)
    assert len(first.asked) == asked
    await make(first, 2)
    assert len(first.asked) > asked


# -- checkpoints -------------------------------------------------------------------------------------------------------


async def test_peers_answer_with_their_newest_checkpoint_up_to_a_height(chain: Chain) -> None:
    first, second = network(chain, 1, 2)
    second.handlers[CHECKPOINT_GET] = SyncServer(second)._checkpoint  # type: ignore[arg-type]
    peer = PeerLedger(first, node_key(2).public_key.key_id, "somewhere")  # type: ignore[arg-type]
    assert await peer.checkpoint(None) == build_checkpoint(chain.store).to_text()
    assert await peer.checkpoint(2) == build_checkpoint(chain.store, 2).to_text()
    assert await peer.checkpoint(0) is None
    for wrong in (encode(()), encode(("x",)), encode((-1,)), b""):
        with pytest.raises(RejectedError):
            await second.handlers[CHECKPOINT_GET](KeyId(bytes(32)), wrong)
