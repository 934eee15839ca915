"""The state tree against its definition, over every way to get to a set of entries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ledger.keyspace import MemoryStore, Overlay, Table
from ledger.state_tree import prove, read_root, update, verify_state_proof
from tests.testkit.ledger_twins import naive_state_root

KEYS = st.integers(0, 40).map(lambda number: b"k%d" % number)
"""Few keys, so that batches change, remove and restore the same ones."""
BATCHES = st.lists(st.dictionaries(KEYS, st.none() | st.binary(max_size=3), max_size=12), max_size=8)


@given(BATCHES)
def test_any_history_gives_the_defined_root_and_honest_proofs(batches: list[dict[bytes, bytes | None]]) -> None:
    store = MemoryStore()
    entries: dict[bytes, bytes] = {}
    for batch in batches:
        root, writes = update(store, batch)
        store.apply(writes)
        store.apply({(Table.STATE, key): value for key, value in batch.items()})
        for key, value in batch.items():
            if value is None:
                entries.pop(key, None)
            else:
                entries[key] = value
        assert root == read_root(store) == naive_state_root(entries)
    root = read_root(store)
    for number in range(41):
        proof = prove(store, b"k%d" % number)
        assert proof.value == entries.get(b"k%d" % number)
        verify_state_proof(proof, root)


@given(BATCHES)
def test_overlays_and_one_batch_agree_with_single_steps(batches: list[dict[bytes, bytes | None]]) -> None:
    reader: MemoryStore | Overlay = MemoryStore()
    together: dict[bytes, bytes | None] = {}
    for batch in batches:
        _, writes = update(reader, batch)
        reader = Overlay(reader, writes)
        together |= batch
    root, writes = update(MemoryStore(), together)
    assert read_root(reader) == root
    fresh = MemoryStore()
    fresh.apply(writes)
    pages = {key: value for (_, key), value in fresh.dump().items()}
    assert all(reader.get(Table.STATE_NODE, key) == value for key, value in pages.items())
