"""Merkle trees against the twin for every size to 70, and every kind of wrong proof."""

from __future__ import annotations

import hashlib
from itertools import count

import pytest

from tests.testkit.wire_twins import slow_consistency, slow_inclusion, slow_root
from wire.codec import Value, encode
from wire.errors import InvalidProofError, MalformedError
from wire.hashing import Digest
from wire.merkle import (
    EMPTY_ROOT,
    FRONTIER_BYTES_MAX,
    PROOF_HASHES_MAX,
    SIZE_MAX,
    Frontier,
    consistency_proof,
    decode_frontier_untrusted,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
    verify_consistency,
    verify_inclusion,
)

SIZE = 70
ENTRIES = [b"entry %d" % index for index in range(SIZE)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
NODES = {(level, index): digest for level, index, digest in Frontier().extend(LEAVES)[1]}
ROOTS = [Digest(slow_root(ENTRIES[:size])) for size in range(SIZE + 1)]


def read_node(level: int, index: int) -> Digest:
    return NODES[level, index]


def test_leaf_and_node_hashes_have_their_own_prefix() -> None:
    assert leaf_hash(b"x") == hashlib.sha256(b"\x00x").digest()
    assert node_hash(LEAVES[0], LEAVES[1]) == hashlib.sha256(b"\x01" + LEAVES[0] + LEAVES[1]).digest()
    assert hashlib.sha256().digest() == EMPTY_ROOT


def test_roots_match_the_definition_for_every_size() -> None:
    frontier = Frontier()
    for size in range(SIZE + 1):
        assert root(LEAVES[:size]) == ROOTS[size]
        assert frontier.root() == ROOTS[size]
        assert frontier.size == size
        assert Frontier().extend(LEAVES[:size])[0] == frontier
        if size < SIZE:
            frontier = frontier.append(LEAVES[size])


def test_extending_in_any_two_steps_gives_the_same_tree_and_nodes() -> None:
    for cut in range(SIZE + 1):
        first, nodes_first = Frontier().extend(LEAVES[:cut])
        second, nodes_second = first.extend(LEAVES[cut:])
        assert second.root() == ROOTS[SIZE]
        assert {(level, index): digest for level, index, digest in nodes_first + nodes_second} == NODES
        assert len(nodes_first) + len(nodes_second) == len(NODES)


def test_extend_gives_exactly_the_perfect_subtrees() -> None:
    assert set(NODES) == {(level, index) for level in range(SIZE.bit_length()) for index in range(SIZE >> level)}
    for (level, index), digest in NODES.items():
        assert digest == slow_root(ENTRIES[index << level : (index + 1) << level])


def test_inclusion_proofs_match_the_definition_for_every_size() -> None:
    for size in range(1, SIZE + 1):
        for index in range(size):
            proof = inclusion_proof(read_node, index, size)
            assert list(proof) == slow_inclusion(index, ENTRIES[:size])
            verify_inclusion(LEAVES[index], index, size, proof, ROOTS[size])


def test_consistency_proofs_match_the_definition_for_every_pair_of_sizes() -> None:
    for after in range(SIZE + 1):
        for before in range(after + 1):
            proof = consistency_proof(read_node, before, after)
            assert list(proof) == ([] if before == 0 else slow_consistency(before, ENTRIES[:after]))
            verify_consistency(before, ROOTS[before], after, ROOTS[after], proof)


def inclusion_code(leaf: Digest, index: int, size: int, proof: tuple[Digest, ...], top: Digest) -> str:
    with pytest.raises(InvalidProofError) as caught:
        verify_inclusion(leaf, index, size, proof, top)
    return caught.value.code


def test_inclusion_proof_holds_for_nothing_else() -> None:
    other = leaf_hash(b"other")
    for size in (1, 2, 3, 7, 8, 13, 64, 70):
        for index in range(size):
            proof = inclusion_proof(read_node, index, size)
            top = ROOTS[size]
            assert inclusion_code(other, index, size, proof, top) == "wire.merkle.root"
            assert inclusion_code(LEAVES[index], index, size, proof, other) == "wire.merkle.root"
            assert inclusion_code(LEAVES[index], index, size, (*proof, other), top) == "wire.merkle.length"
            if proof:
                assert inclusion_code(LEAVES[index], index, size, proof[:-1], top) == "wire.merkle.length"
                assert inclusion_code(LEAVES[index], index, size, proof[1:], top) == "wire.merkle.length"
                assert inclusion_code(LEAVES[index], index, size, (), top) == "wire.merkle.length"
            for place in range(len(proof)):
                changed = (*proof[:place], other, *proof[place + 1 :])
                assert inclusion_code(LEAVES[index], index, size, changed, top) == "wire.merkle.root"
            for wrong in range(size):
                if wrong != index:
                    assert inclusion_code(LEAVES[index], wrong, size, proof, top) in (
                        "wire.merkle.root",
                        "wire.merkle.length",
                    )


@pytest.mark.parametrize(("index", "size"), [(0, 0), (5, 5), (-1, 5), (6, 5), (0, -1), (0, SIZE_MAX + 1)])
def test_leaf_outside_the_tree_is_refused(index: int, size: int) -> None:
    assert inclusion_code(LEAVES[0], index, size, (), ROOTS[1]) == "wire.merkle.range"
    with pytest.raises(InvalidProofError) as caught:
        inclusion_proof(read_node, index, size)
    assert caught.value.code == "wire.merkle.range"


def consistency_code(
    before: int, root_before: Digest, after: int, root_after: Digest, proof: tuple[Digest, ...]
) -> str:
    with pytest.raises(InvalidProofError) as caught:
        verify_consistency(before, root_before, after, root_after, proof)
    return caught.value.code


def test_consistency_proof_holds_for_nothing_else() -> None:
    other = leaf_hash(b"other")
    for after in (1, 2, 3, 7, 8, 13, 64, 70):
        for before in range(1, after):
            proof = consistency_proof(read_node, before, after)
            first, second = ROOTS[before], ROOTS[after]
            assert consistency_code(before, other, after, second, proof) == "wire.merkle.root"
            assert consistency_code(before, first, after, other, proof) == "wire.merkle.root"
            assert consistency_code(before, second, after, first, proof) == "wire.merkle.root"
            assert consistency_code(before, first, after, second, (*proof, other)) == "wire.merkle.length"
            assert consistency_code(before, first, after, second, ()) == "wire.merkle.length"
            assert consistency_code(before, first, after, second, proof[:-1]) == "wire.merkle.length"
            for place in range(len(proof)):
                changed = (*proof[:place], other, *proof[place + 1 :])
                assert consistency_code(before, first, after, second, changed) == "wire.merkle.root"


def test_consistency_without_a_proof_is_only_of_equal_or_empty_trees() -> None:
    other = leaf_hash(b"other")
    assert consistency_code(5, ROOTS[5], 5, other, ()) == "wire.merkle.root"
    assert consistency_code(5, ROOTS[5], 5, ROOTS[5], (other,)) == "wire.merkle.length"
    assert consistency_code(0, EMPTY_ROOT, 5, ROOTS[5], (other,)) == "wire.merkle.length"
    assert consistency_code(0, other, 5, ROOTS[5], ()) == "wire.merkle.root"
    assert consistency_code(0, EMPTY_ROOT, 0, other, ()) == "wire.merkle.root"
    assert consistency_code(0, other, 0, EMPTY_ROOT, ()) == "wire.merkle.root"


@pytest.mark.parametrize(("before", "after"), [(6, 5), (-1, 5), (0, SIZE_MAX + 1)])
def test_sizes_that_shrink_or_are_impossible_are_refused(before: int, after: int) -> None:
    assert consistency_code(before, ROOTS[1], after, ROOTS[1], ()) == "wire.merkle.range"
    with pytest.raises(InvalidProofError) as caught:
        consistency_proof(read_node, before, after)
    assert caught.value.code == "wire.merkle.range"


def test_hash_of_another_length_is_no_proof() -> None:
    # With 31 and 33 bytes the node's preimage is the same as with 32 and 32.
    for bad in (LEAVES[1] + b"x", LEAVES[1][:-1], b""):
        assert inclusion_code(LEAVES[0], 0, 2, (Digest(bad),), ROOTS[2]) == "wire.merkle.length"
        assert consistency_code(1, ROOTS[1], 2, ROOTS[2], (Digest(bad),)) == "wire.merkle.length"


def test_endless_proof_is_refused_before_hashing() -> None:
    long = (LEAVES[0],) * (PROOF_HASHES_MAX + 1)
    assert inclusion_code(LEAVES[0], 0, SIZE_MAX, long, ROOTS[1]) == "wire.merkle.length"
    assert consistency_code(1, ROOTS[1], SIZE_MAX, ROOTS[1], long) == "wire.merkle.length"


# -- the frontier's encoding --


def test_frontier_survives_encoding() -> None:
    for size in range(SIZE + 1):
        frontier, _ = Frontier().extend(LEAVES[:size])
        assert decode_frontier_untrusted(frontier.encode()) == frontier
    largest = Frontier(SIZE_MAX, (LEAVES[0],) * 63)
    assert len(largest.encode()) <= FRONTIER_BYTES_MAX
    assert decode_frontier_untrusted(largest.encode()) == largest


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (1, "wire.field.tuple"),
        ((1,), "wire.field.length"),
        ((-1, ()), "wire.field.range"),
        ((2**63, (bytes(32),)), "wire.field.range"),
        ((1, b""), "wire.field.tuple"),
        ((1, (bytes(31),)), "wire.field.length"),
        ((2**63 - 1, (bytes(32),) * 64), "wire.field.length"),
        ((0, (bytes(32),)), "wire.merkle.frontier"),
        ((1, ()), "wire.merkle.frontier"),
        ((4, (bytes(32),) * 2), "wire.merkle.frontier"),
    ],
    ids=count(),
)
def test_frontier_of_wrong_form_is_refused(value: Value, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        decode_frontier_untrusted(encode(value))
    assert caught.value.code == code


def test_frontier_of_an_impossible_size_cannot_be_made() -> None:
    for size in (-1, SIZE_MAX + 1):
        with pytest.raises(MalformedError) as caught:
            Frontier(size, (LEAVES[0],))
        assert caught.value.code == "wire.merkle.frontier"
