"""The authenticated map: what its root is by definition, what its proofs show, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest

from ledger.errors import LedgerCorruptionError, ProofRefusedError
from ledger.keyspace import MemoryStore, Overlay, Table
from ledger.state_tree import (
    ROOT_PAGE,
    StateProof,
    hash_key,
    hash_value,
    prove,
    read_root,
    update,
    verify_state_proof,
)
from tests.testkit.ledger_twins import naive_state_root
from wire.hashing import Digest


def filled(entries: dict[bytes, bytes]) -> tuple[MemoryStore, Digest]:
    store = MemoryStore()
    root, writes = update(store, dict(entries))
    store.apply(writes)
    store.apply({(Table.STATE, key): value for key, value in entries.items()})
    return store, root


SOME = {b"key %d" % index: b"value %d" % index for index in range(300)}


def test_the_empty_tree_has_the_zero_root() -> None:
    store = MemoryStore()
    assert read_root(store) == bytes(32)
    assert update(store, {}) == (bytes(32), {})
    assert update(store, {b"never there": None}) == (bytes(32), {(Table.STATE_NODE, ROOT_PAGE): None})


def test_one_entry_is_its_leaf() -> None:
    store, root = filled({b"k": b"v"})
    assert root == sha256(b"\x00" + hash_key(b"k") + hash_value(b"v")).digest() == read_root(store)


def test_the_root_is_the_one_of_the_definition() -> None:
    store, root = filled(SOME)
    assert root == naive_state_root(SOME) == read_root(store)


def test_the_root_does_not_depend_on_the_way_there() -> None:
    _, at_once = filled(SOME)
    store = MemoryStore()
    root = Digest(bytes(32))
    for start in range(0, 300, 7):
        batch = dict(list(SOME.items())[start : start + 7])
        root, writes = update(store, batch | {b"temporary": b"%d" % start})
        store.apply(writes)
    root, writes = update(store, {b"temporary": None})
    store.apply(writes)
    assert root == at_once == read_root(store)
    fresh, _ = filled(SOME)
    assert rows(store) == rows(fresh), "no page of a removed entry is left"


def rows(store: MemoryStore) -> dict[bytes, bytes]:
    return dict(store.iterate(Table.STATE_NODE, b"", b"\xff" * 40))


def test_emptying_the_tree_removes_every_page() -> None:
    store, _ = filled(SOME)
    root, writes = update(store, dict.fromkeys(SOME))
    store.apply(writes)
    assert root == bytes(32)
    assert rows(store) == {}


def test_updates_stack_on_overlays() -> None:
    store, _ = filled(SOME)
    _, writes = update(store, {b"a": b"1", b"key 5": None})
    overlay = Overlay(store, writes)
    root, more = update(overlay, {b"b": b"2", b"key 6": b"new"})
    expected = {**SOME, b"a": b"1", b"b": b"2", b"key 6": b"new"}
    del expected[b"key 5"]
    assert root == naive_state_root(expected) == read_root(Overlay(overlay, more))


def test_presence_and_absence_are_proven() -> None:
    store, root = filled(SOME)
    for key in (*SOME, *(b"absent %d" % index for index in range(300))):
        proof = prove(store, key)
        assert proof.value == SOME.get(key)
        verify_state_proof(proof, root)


def test_absence_is_proven_in_both_ways() -> None:
    """By an empty place and by another leaf that stands where the key would be."""
    store, _ = filled(SOME)
    proofs = [prove(store, b"absent %d" % index) for index in range(300)]
    assert any(proof.other_leaf is None for proof in proofs)
    assert any(proof.other_leaf is not None for proof in proofs)
    empty, root = filled({})
    proof = prove(empty, b"k")
    assert (proof.siblings, proof.other_leaf) == ((), None)
    verify_state_proof(proof, root)


def forgeries(proof: StateProof) -> list[StateProof]:
    forged = [
        replace(proof, value=None),
        replace(proof, value=b"other"),
        replace(proof, key=b"other"),
        replace(proof, siblings=proof.siblings[:-1]),
        replace(proof, siblings=(*proof.siblings, Digest(bytes(32)))),
        replace(proof, siblings=(Digest(b"\x01" * 32), *proof.siblings[1:])),
        replace(proof, siblings=(Digest(b"short"), *proof.siblings[1:])),
        replace(proof, siblings=(Digest(bytes(32)),) * 257),
    ]
    return [each for each in forged if each != proof]


@pytest.mark.parametrize("key", [b"key 7", b"absent 0", b"absent 1", b"absent 2", b"absent 5"])
def test_forged_proofs_are_refused(key: bytes) -> None:
    store, root = filled(SOME)
    for forged in forgeries(prove(store, key)):
        with pytest.raises(ProofRefusedError) as refused:
            verify_state_proof(forged, root)
        assert refused.value.code == "ledger.proof.state"


def test_a_present_key_cannot_be_proven_absent_by_a_neighbour() -> None:
    store, root = filled(SOME)
    present = prove(store, b"key 7")
    neighbour = (hash_key(b"key 8"), hash_value(b"value 8"))
    itself = (hash_key(b"key 7"), hash_value(b"value 7"))
    for other_leaf in (neighbour, itself, (Digest(b"x"), Digest(b"y"))):
        with pytest.raises(ProofRefusedError):
            verify_state_proof(replace(present, value=None, other_leaf=other_leaf), root)
    with pytest.raises(ProofRefusedError):
        verify_state_proof(replace(present, other_leaf=neighbour), root)


def test_a_proof_holds_under_its_own_root_only() -> None:
    store, root = filled(SOME)
    proof = prove(store, b"key 7")
    with pytest.raises(ProofRefusedError):
        verify_state_proof(proof, bytes(32))
    _, writes = update(store, {b"key 8": b"changed"})
    store.apply(writes)
    with pytest.raises(ProofRefusedError):
        verify_state_proof(proof, read_root(store))
    verify_state_proof(proof, root)


def test_damaged_pages_are_corruption() -> None:
    deep = [key for key in rows(filled(SOME)[0]) if key[0] == 1]
    for key, value in (
        (ROOT_PAGE, b"\x00"),
        (ROOT_PAGE, b"\x00\x01\x00\x02" + bytes(32)),
        (ROOT_PAGE, b"\x00\x01\x00\x00" + bytes(33)),
        (deep[0], None),
    ):
        store, _ = filled(SOME)
        store.apply({(Table.STATE_NODE, key): value})
        with pytest.raises(LedgerCorruptionError) as error:
            update(store, dict.fromkeys(SOME, b"new"))
        assert error.value.code == "ledger.corruption.state_tree"


def test_a_value_that_is_not_the_leaf_s_is_corruption() -> None:
    for value in (None, b"other"):
        store, _ = filled(SOME)
        store.apply({(Table.STATE, b"key 7"): value})
        with pytest.raises(LedgerCorruptionError) as error:
            prove(store, b"key 7")
        assert error.value.code == "ledger.corruption.state_tree"
