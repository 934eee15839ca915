"""Merkle trees of random size against the twin, grown in random steps."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.testkit.wire_twins import slow_consistency, slow_inclusion, slow_root
from wire.errors import InvalidProofError
from wire.hashing import Digest
from wire.merkle import (
    Frontier,
    consistency_proof,
    decode_frontier_untrusted,
    inclusion_proof,
    leaf_hash,
    root,
    verify_consistency,
    verify_inclusion,
)


@given(st.lists(st.integers(0, 200), max_size=6), st.data())
@settings(max_examples=40)
def test_tree_grown_in_steps_proves_everything_about_every_size(steps: list[int], data: st.DataObject) -> None:
    size = sum(steps)
    entries = [b"%d" % index for index in range(size)]
    leaves = [leaf_hash(entry) for entry in entries]
    nodes: dict[tuple[int, int], Digest] = {}

    def read_node(level: int, index: int) -> Digest:
        return nodes[level, index]

    frontier = Frontier()
    for step in steps:
        before = frontier
        frontier, completed = frontier.extend(leaves[before.size : before.size + step])
        assert not nodes.keys() & {(level, index) for level, index, _ in completed}
        nodes.update({(level, index): digest for level, index, digest in completed})
        assert frontier.root() == slow_root(entries[: frontier.size])
        verify_consistency(
            before.size,
            before.root(),
            frontier.size,
            frontier.root(),
            consistency_proof(read_node, before.size, frontier.size),
        )
    assert decode_frontier_untrusted(frontier.encode()) == frontier
    assert root(leaves) == frontier.root()
    if size:
        earlier = data.draw(st.integers(1, size), label="earlier size")
        index = data.draw(st.integers(0, earlier - 1), label="leaf")
        proof = inclusion_proof(read_node, index, earlier)
        assert list(proof) == slow_inclusion(index, entries[:earlier])
        top = Digest(slow_root(entries[:earlier]))
        verify_inclusion(leaves[index], index, earlier, proof, top)
        assert list(consistency_proof(read_node, earlier, size)) == slow_consistency(earlier, entries)
        verify_consistency(earlier, top, size, frontier.root(), consistency_proof(read_node, earlier, size))


@given(
    st.integers(1, 2**63 - 1),
    st.data(),
    st.lists(st.binary(min_size=32, max_size=32).map(Digest), max_size=130),
    st.binary(min_size=32, max_size=32).map(Digest),
)
def test_made_up_proofs_are_refused_and_nothing_else_is_raised(
    size: int, data: st.DataObject, proof: list[Digest], top: Digest
) -> None:
    index = data.draw(st.integers(0, size - 1))
    with pytest.raises(InvalidProofError):
        verify_inclusion(leaf_hash(b"x"), index, size, proof, top)
    before = data.draw(st.integers(0, size))
    with pytest.raises(InvalidProofError):
        verify_consistency(before, top, size, leaf_hash(b"y"), proof)


@given(st.integers(1, 2**63 - 1), st.data())
def test_proofs_in_trees_of_any_size_have_the_length_that_verifiers_expect(size: int, data: st.DataObject) -> None:
    # A tree whose leaves are all alike: the hash of a perfect subtree depends on its level only, so any size can be tried.
    levels = [leaf_hash(b"same")]
    for _ in range(63):
        levels.append(root([levels[-1], levels[-1]]))

    def read_node(level: int, index: int) -> Digest:
        assert (index + 1) << level <= size, "only perfect subtrees inside the tree are read"
        return levels[level]

    def top(of_size: int) -> Digest:
        return Frontier(of_size, tuple(levels[bit] for bit in range(63, -1, -1) if of_size >> bit & 1)).root()

    index = data.draw(st.integers(0, size - 1))
    verify_inclusion(levels[0], index, size, inclusion_proof(read_node, index, size), top(size))
    before = data.draw(st.integers(0, size))
    verify_consistency(before, top(before), size, top(size), consistency_proof(read_node, before, size))
