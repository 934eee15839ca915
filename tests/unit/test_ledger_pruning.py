"""Forgetting history: what stays is enough for everything that comes, and what went is said to have gone."""

from __future__ import annotations

import pytest

import ledger.executed
from ledger import actions, bodies
from ledger.errors import HistoryPrunedError, LedgerCorruptionError
from ledger.keyspace import MemoryStore, Table, height_key, identity_key, read_height, read_history_position
from ledger.log_rows import frontier_rows, peak_places, superfluous_places
from ledger.proofs import build_consistency_proof, build_receipt, verify_receipt
from ledger.pruning import prune_blocks, prune_executed, sweep_history
from ledger.snapshot import SnapshotBuilder
from ledger.state import StateView
from ledger.transaction import decode_transaction_untrusted
from ledger.transition import execute_block
from tests.testkit.ledger import Chain, make_genesis
from wire.hashing import Digest, sha256
from wire.merkle import Frontier, inclusion_proof, verify_consistency, verify_inclusion


@pytest.fixture
def chain() -> Chain:
    """A host that reports much, validators that change, and blocks of one to six transactions."""
    chain = Chain(make_genesis(validators=3))
    chain.register("web1@acme", "host")
    chain.add_learner(4)
    chain.adopt(actions.ReplaceValidator("v2", "v4"))
    chain.settle()
    for count in (1, 2, 0, 6, 3, 5, 1, 4):
        chain.commit(*(chain.sign(bodies.HostReport("drift", f"t{n}", b""), "web1@acme") for n in range(count)))
    return chain


def pruned(chain: Chain, keep_from: int, step: int = 3) -> MemoryStore:
    """Return a copy of the chain's store without the blocks below `keep_from`."""
    store = MemoryStore()
    store.apply(chain.store.dump())
    while writes := prune_blocks(store, keep_from, step):
        store.apply(writes)
    while writes := prune_executed(store, step):
        store.apply(writes)
    cursor: bytes | None = b""
    while cursor is not None:
        writes, cursor = sweep_history(store, cursor, step)
        store.apply(writes)
    return store


def keys(store: MemoryStore, table: Table) -> list[bytes]:
    return sorted(key for its, key in store.dump() if its is table)


@pytest.mark.parametrize("keep_from", [2, 5, 9, 14])
@pytest.mark.parametrize("step", [1, 2, 100])
def test_the_kept_part_is_whole(chain: Chain, keep_from: int, step: int) -> None:
    store = pruned(chain, keep_from, step)
    view = StateView(store)
    assert view.history_start == keep_from
    assert [read_height(key) for key in keys(store, Table.BLOCK)] == [0, *range(keep_from, chain.height + 1)]
    headers = [read_height(key) for key in keys(store, Table.HEADER)]
    assert headers == sorted({0, *range(keep_from - 1, chain.height + 1)})
    assert len(keys(store, Table.BLOCK_HASH)) == len(headers)
    for block in chain.blocks[keep_from:]:
        for raw in block.transactions:
            receipt = build_receipt(store, decode_transaction_untrusted(raw).tx_id)
            assert receipt == build_receipt(chain.store, decode_transaction_untrusted(raw).tx_id)
            verify_receipt(receipt, chain.genesis)
    sizes = sorted({block.header.log_size for block in chain.blocks[keep_from - 1 :]})
    roots = {block.header.log_size: block.header.log_root for block in chain.blocks}
    for first in sizes:
        for second in sizes[sizes.index(first) :]:
            proof = build_consistency_proof(store, first, second)
            verify_consistency(first, roots[first], second, roots[second], proof)


def test_the_chain_goes_on_and_snapshots_are_the_same(chain: Chain) -> None:
    store = pruned(chain, 12)
    for count in (3, 0, 7):
        block = chain.commit(
            *(chain.sign(bodies.HostReport("drift", f"u{n}", b""), "web1@acme") for n in range(count))
        ).block
        store.apply(execute_block(store, block, now_ms=None).writes)
        store.apply({(Table.CERTIFICATE, height_key(chain.height)): chain.view.certificate(chain.height)})
    assert store.get(Table.META, b"tip") == chain.store.get(Table.META, b"tip")
    ours, theirs = SnapshotBuilder(store), SnapshotBuilder(chain.store)
    assert list(ours.chunks()) == list(theirs.chunks())
    assert ours.manifest() == theirs.manifest()
    again = pruned(chain, 12)
    while writes := prune_blocks(again, chain.height, 2):
        again.apply(writes)
    while writes := prune_blocks(store, chain.height, 100):
        store.apply(writes)
    assert keys(again, Table.LOG_NODE) == keys(store, Table.LOG_NODE)
    assert [read_height(key) for key in keys(store, Table.BLOCK)] == [0, chain.height]


def test_nothing_is_removed_twice_or_too_much(chain: Chain) -> None:
    assert prune_blocks(chain.store, 0, 5) == {}
    assert prune_blocks(chain.store, 1, 5) == {}
    assert prune_executed(chain.store, 5) == {}
    assert sweep_history(chain.store, b"", 10**6) == ({}, None)
    # The tip's block stays, whatever is asked.
    store = pruned(chain, 10**9, 4)
    assert StateView(store).history_start == chain.height
    assert StateView(store).block(chain.height) == chain.blocks[-1]
    assert prune_blocks(store, 10**9, 4) == {}


def test_what_went_is_said_to_have_gone(chain: Chain) -> None:
    store = pruned(chain, 9)
    view = StateView(store)
    gone = decode_transaction_untrusted(chain.blocks[8].transactions[0])
    for ask in (
        lambda: build_receipt(store, gone.tx_id),
        lambda: view.check_kept(8),
        lambda: view.identity_at("web1@acme", 7),
        lambda: build_consistency_proof(store, 2, chain.blocks[-1].header.log_size),
    ):
        with pytest.raises(HistoryPrunedError) as error:
            ask()
        assert error.value.code == "ledger.history.pruned"
    assert view.identity_at("web1@acme", 8) == view.identity("web1@acme")
    heights = [entry.height for entry in view.history(identity_key("web1@acme"))]
    assert heights
    assert min(heights) >= 9
    assert heights == [each.height for each in chain.view.history(identity_key("web1@acme"), 9)]


def test_lists_leave_out_what_is_not_swept_yet(chain: Chain) -> None:
    chain.store.apply(prune_blocks(chain.store, 9, 100))
    entries = list(chain.view.history(identity_key("web1@acme")))
    assert min(entry.height for entry in entries) >= 9
    left = {read_history_position(key)[0] for key in keys(chain.store, Table.HISTORY)}
    assert min(left) < 9
    writes, cursor = sweep_history(chain.store, b"", 10**6)
    chain.store.apply(writes)
    assert cursor is None
    assert min(read_history_position(key)[0] for key in keys(chain.store, Table.HISTORY)) >= 9


def test_ids_stay_as_long_as_they_could_come_again(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    store = pruned(chain, 14)
    assert keys(store, Table.TX_INDEX) == keys(chain.store, Table.TX_INDEX), "the window reaches back to genesis"
    monkeypatch.setattr(ledger.executed, "NOT_AFTER_WINDOW_MAX", 8)
    store = pruned(chain, 14, 1)
    window = chain.height + 1 - 8
    assert min(read_height(key) for key in keys(store, Table.EXECUTED)) == window
    for block in chain.blocks[1:]:
        for raw in block.transactions:
            known = store.get(Table.TX_INDEX, decode_transaction_untrusted(raw).tx_id)
            assert (known is not None) == (block.header.height >= window)
    # Where blocks are kept longer than that, their transactions can still be found.
    store = pruned(chain, 4)
    assert min(read_height(key) for key in keys(store, Table.EXECUTED)) == 4


def test_a_missing_header_is_corruption(chain: Chain) -> None:
    chain.store.apply({(Table.HEADER, height_key(3)): None})
    with pytest.raises(LedgerCorruptionError) as error:
        prune_blocks(chain.store, 9, 100)
    assert error.value.code == "ledger.corruption.missing"


@pytest.mark.parametrize("size", range(1, 40))
def test_peaks_and_what_is_left_prove_everything_later(size: int) -> None:
    """Brute force over small logs: with only the rows that stay, every later leaf has its proof."""
    leaves = [sha256(b"%d" % index) for index in range(40)]
    frontier, nodes = Frontier().extend(leaves[:size])
    assert set(frontier_rows(frontier).values()) == set(frontier.peaks)
    at_size = {(level, index): digest for level, index, digest in nodes}
    for before in range(size + 1):
        gone = set(superfluous_places(before, size))
        expected = {place for place in at_size if place not in peak_places(size)}
        first = {place for place in expected if (place[1] + 1) << place[0] <= before}
        assert gone <= expected
        # What an earlier step had removed is the rest.
        assert expected - gone == first - set(peak_places(before))
    kept = {place: at_size[place] for place in peak_places(size)}
    whole, more = frontier.extend(leaves[size:])
    kept |= {(level, index): digest for level, index, digest in more}
    for total in range(size + 1, 41):
        root = Frontier().extend(leaves[:total])[0].root()
        for leaf in range(size, total):
            proof = inclusion_proof(lambda level, index: Digest(kept[level, index]), leaf, total)
            verify_inclusion(leaves[leaf], leaf, total, proof, root)
    assert whole.size == 40
