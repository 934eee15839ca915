"""Putting a split view on record: by whom, and what becomes of it when that fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ledger import bodies
from ledger.checkpoint import SplitView, build_checkpoint, find_split_view
from ledger.transaction import decode_transaction_untrusted
from node.evidence import put_on_record
from tests.testkit.ledger import Chain, key_of, node_key
from wire.errors import RejectedError, UnavailableError


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain()
    chain.register("web1@acme", "host")
    for _ in range(3):
        chain.submit(bodies.HostReport("drift", "site", b""), "web1@acme")
    return chain


@pytest.fixture(scope="module")
def split(chain: Chain) -> SplitView:
    rival = Chain(chain.genesis)
    rival.apply(chain.blocks[1])
    rival.nonces = 1_000_000
    rival.submit(bodies.HostReport("drift", "forged", b""), "web1@acme")
    found = find_split_view(chain.store, build_checkpoint(rival.store))
    assert found is not None
    return found


class Submitting:
    """A node as `put_on_record` sees it: what is submitted is put into a block, or refused as told."""

    def __init__(self, chain: Chain, error: Exception | None = None) -> None:
        self.chain = chain
        self.error = error
        self.submitted: list[bytes] = []
        self.replica = SimpleNamespace(latest_view=lambda: chain.view, now_ms=lambda: chain.genesis.time_ms)
        self.submitter = self

    async def submit(self, raws: list[bytes], **_: Any) -> list[Any]:
        self.submitted += raws
        if isinstance(self.error, UnavailableError):
            raise self.error
        return [SimpleNamespace(error=self.error, height=self.chain.height + 1)]


async def test_a_host_submits_what_the_ledger_accepts(chain: Chain, split: SplitView) -> None:
    node = Submitting(chain)
    assert await put_on_record(node, key_of("web1@acme"), split)  # type: ignore[arg-type]
    (raw,) = node.submitted
    transaction = decode_transaction_untrusted(raw)
    assert isinstance(transaction.body, bodies.EvidenceSubmit)
    assert chain.build(transaction).block.transactions == (raw,)


async def test_asked_again_it_is_the_same_transaction(chain: Chain, split: SplitView) -> None:
    node = Submitting(chain)
    for _ in range(2):
        await put_on_record(node, key_of("web1@acme"), split)  # type: ignore[arg-type]
    assert node.submitted[0] == node.submitted[1]


async def test_a_validators_key_is_nobodys_and_keeps_it(chain: Chain, split: SplitView) -> None:
    node = Submitting(chain)
    assert await put_on_record(node, node_key(1), split)  # type: ignore[arg-type]
    assert node.submitted == []


@pytest.mark.parametrize(
    ("error", "is_done"),
    [
        (RejectedError("ledger.evidence.recorded", "somebody was faster"), True),
        (RejectedError("ledger.checkpoint.no_split", "it is none"), True),
        (UnavailableError("node.no_leader", "no leader is known"), False),
    ],
)
async def test_only_what_may_still_succeed_is_tried_again(
    chain: Chain, split: SplitView, error: Exception, is_done: bool
) -> None:
    node = Submitting(chain, error)
    assert await put_on_record(node, key_of("web1@acme"), split) is is_done  # type: ignore[arg-type]
