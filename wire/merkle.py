"""The Merkle tree of RFC 9162 over SHA-256: roots, a frontier that grows, and proofs of inclusion and consistency.

A leaf is hashed with 0x00 before it and a node with 0x01, so no leaf can pass for a node. Perfect subtrees are addressed by (level, index):
level 0 holds the leaf hashes, and node (level, index) covers the leaves from ``index << level`` on, ``1 << level`` of them. A perfect
subtree never changes again, so those nodes, stored as `Frontier.extend` gives them, are all that any proof needs::

    level 2        (2,0)
    level 1    (1,0)   (1,1)   (1,2)                 7 leaves: the frontier's peaks are (2,0) (1,2) (0,6)
    level 0   0   1   2   3   4   5   6

Source: docs/spec/wire.md 10; RFC 9162 2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256 as _sha256
from typing import Final, TypeAlias

from wire import codec, fields
from wire.errors import InvalidProofError, MalformedError
from wire.hashing import DIGEST_BYTES, Digest

Node: TypeAlias = tuple[int, int, Digest]
"""(level, index, hash) of a perfect subtree."""

ReadNode: TypeAlias = Callable[[int, int], Digest]
"""Gives the hash of the perfect subtree (level, index)."""

EMPTY_ROOT: Final = Digest(_sha256(b"").digest())
"""The root of the tree without leaves. Source: RFC 9162 2.1.1."""

SIZE_MAX: Final = 2**63 - 1
PROOF_HASHES_MAX: Final = 128
"""No proof of a tree of at most `SIZE_MAX` leaves is longer: two hashes a level."""
FRONTIER_BYTES_MAX: Final = 4096
"""An encoded frontier: at most 63 peaks of 34 bytes."""


def leaf_hash(data: bytes) -> Digest:
    """Return the hash of a leaf: SHA-256 of 0x00 and `data`."""
    return Digest(_sha256(b"\0" + data).digest())


def node_hash(left: Digest, right: Digest) -> Digest:
    """Return the hash of a node: SHA-256 of 0x01 and both children."""
    return Digest(_sha256(b"\1" + left + right).digest())


def root(leaf_hashes: Sequence[Digest]) -> Digest:
    """Return the root over the leaf hashes, in order; `EMPTY_ROOT` for none.

    Level by level: joining neighbours and carrying an odd last one up gives RFC 9162's split at the largest power of two.
    """
    if not leaf_hashes:
        return EMPTY_ROOT
    level = list(leaf_hashes)
    while len(level) > 1:
        odd = level[-1:] if len(level) % 2 else []
        pairs = zip(level[::2], level[1::2], strict=False)
        level = [Digest(_sha256(b"\1" + left + right).digest()) for left, right in pairs] + odd
    return level[0]


@dataclass(frozen=True, slots=True)
class Frontier:
    """A tree reduced to what it takes to grow it and to know its root."""

    size: int = 0
    "Leaves so far, 0 to `SIZE_MAX`."
    peaks: tuple[Digest, ...] = ()
    "The hashes of the largest perfect subtrees from left to right: one for each bit set in `size`."

    def __post_init__(self) -> None:
        """Refuse peaks that do not fit the size (`MalformedError`, ``wire.merkle.frontier``)."""
        if not 0 <= self.size <= SIZE_MAX or len(self.peaks) != self.size.bit_count():
            raise MalformedError(
                "wire.merkle.frontier",
                "a frontier has one peak for each bit of its size",
                expected=f"{self.size.bit_count()} peaks for size {self.size}",
                actual=len(self.peaks),
            )

    def append(self, leaf: Digest) -> Frontier:
        """Return the frontier with one more leaf hash."""
        peaks = list(self.peaks)
        size = self.size
        while size & 1:
            leaf = node_hash(peaks.pop(), leaf)
            size >>= 1
        return Frontier(self.size + 1, (*peaks, leaf))

    def extend(self, leaves: Iterable[Digest]) -> tuple[Frontier, list[Node]]:
        """Return the frontier with all the leaf hashes, and every perfect subtree that they complete, level 0 included.

        A store that keeps those nodes can answer `inclusion_proof` and `consistency_proof` for every size up to the new one.
        """
        peaks = list(self.peaks)
        size = self.size
        nodes: list[Node] = []
        for leaf in leaves:
            level, index, digest = 0, size, leaf
            nodes.append((level, index, digest))
            while index & 1:
                digest = node_hash(peaks.pop(), digest)
                level += 1
                index >>= 1
                nodes.append((level, index, digest))
            peaks.append(digest)
            size += 1
        return Frontier(size, tuple(peaks)), nodes

    def root(self) -> Digest:
        """Return the root of the tree: the peaks joined from right to left."""
        if not self.peaks:
            return EMPTY_ROOT
        digest = self.peaks[-1]
        for peak in self.peaks[-2::-1]:
            digest = node_hash(peak, digest)
        return digest

    def encode(self) -> bytes:
        """Return the frontier's one encoding, at most `FRONTIER_BYTES_MAX` bytes."""
        return codec.encode((self.size, self.peaks))


def decode_frontier_untrusted(data: bytes) -> Frontier:
    """Return the frontier that `data` encodes.

    Raises:
        MalformedError: ``wire.codec.*``, ``wire.field.*``, ``wire.merkle.frontier``.
    """
    values = fields.as_tuple(codec.decode_untrusted(data, bytes_max=FRONTIER_BYTES_MAX), "frontier", length=2)
    size = fields.as_int(values[0], "size", maximum=SIZE_MAX)
    peaks = fields.as_tuple(values[1], "peaks", length_max=SIZE_MAX.bit_length())
    return Frontier(size, tuple(fields.as_digest(peak, "peak") for peak in peaks))


def inclusion_proof(read_node: ReadNode, index: int, size: int) -> tuple[Digest, ...]:
    """Return the audit path of leaf `index` in the tree of `size` leaves, from the leaf upwards.

    Args:
        read_node: The stored perfect subtrees of a tree of at least `size` leaves.
        index: The leaf, 0 to `size` - 1.
        size: The leaves of the tree that is proven about, which may be an earlier state of the stored one.

    Raises:
        InvalidProofError: ``wire.merkle.range``.
    """
    if not 0 <= index < size <= SIZE_MAX:
        raise InvalidProofError(
            "wire.merkle.range", "no such leaf in a tree of this size", expected=f"0 to {size - 1}", actual=index
        )
    return tuple(_subtree(read_node, begin, end) for begin, end in reversed(_path(index, size)))


def verify_inclusion(leaf: Digest, index: int, size: int, proof: Sequence[Digest], root: Digest) -> None:
    """Return only when `proof` leads from the leaf hash at `index` to `root`, the root of a tree of `size` leaves.

    Raises:
        InvalidProofError: ``wire.merkle.range``, ``wire.merkle.length``, ``wire.merkle.root``.
    """
    _check_root(root, root_from_inclusion(leaf, index, size, proof), "the inclusion proof")


def root_from_inclusion(leaf: Digest, index: int, size: int, proof: Sequence[Digest]) -> Digest:
    """Return the root of a tree of `size` leaves to which `proof` leads from the leaf hash at `index`.

    Raises:
        InvalidProofError: ``wire.merkle.range``, ``wire.merkle.length``.
    """
    # RFC 9162 2.1.3.2, with its variable names: fn is the node's index at the present level, sn the last node's.
    if not 0 <= index < size <= SIZE_MAX:
        raise InvalidProofError(
            "wire.merkle.range", "no such leaf in a tree of this size", expected=f"0 to {size - 1}", actual=index
        )
    _check_proof_hashes(proof)
    fn, sn = index, size - 1
    digest = leaf
    for sibling in proof:
        if sn == 0:
            raise _wrong_length(len(proof))
        if fn & 1 or fn == sn:
            digest = node_hash(sibling, digest)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            digest = node_hash(digest, sibling)
        fn >>= 1
        sn >>= 1
    if sn:
        raise _wrong_length(len(proof))
    return digest


def consistency_proof(read_node: ReadNode, size_before: int, size_after: int) -> tuple[Digest, ...]:
    """Return the proof that the tree of `size_before` leaves is the beginning of the tree of `size_after` leaves.

    Empty when the sizes are equal or the first is 0: there is nothing to prove.

    Args:
        read_node: The stored perfect subtrees of a tree of at least `size_after` leaves.
        size_before: The earlier size.
        size_after: The later size, at least `size_before`.

    Raises:
        InvalidProofError: ``wire.merkle.range``.
    """
    _check_sizes(size_before, size_after)
    if size_before in (0, size_after):
        return ()
    # RFC 9162 2.1.4.1: walk down to the last leaf of the earlier tree until a subtree lies wholly in it. That subtree heads the proof,
    # unless it is the whole earlier tree, which the verifier knows.
    spans = _path(size_before - 1, size_after)
    begin, end = 0, size_after
    siblings: list[tuple[int, int]] = []
    for span in spans:
        if end == size_before:
            break
        siblings.append(span)
        begin, end = (span[1], end) if span[0] == begin else (begin, span[0])
    head = [] if begin == 0 else [(begin, end)]
    return tuple(_subtree(read_node, *span) for span in head + siblings[::-1])


def verify_consistency(
    size_before: int, root_before: Digest, size_after: int, root_after: Digest, proof: Sequence[Digest]
) -> None:
    """Return only when `proof` shows that the tree of `root_before` is the beginning of the tree of `root_after`.

    Raises:
        InvalidProofError: ``wire.merkle.range``, ``wire.merkle.length``, ``wire.merkle.root``.
    """
    _check_sizes(size_before, size_after)
    _check_proof_hashes(proof)
    if size_before in (0, size_after):
        if proof:
            raise _wrong_length(len(proof))
        # The earlier tree is empty or the same tree: only one root is possible for it.
        _check_root(root_before, EMPTY_ROOT if size_before == 0 else root_after, "the earlier root")
        if size_after == 0:
            _check_root(root_after, EMPTY_ROOT, "the later root")
        return
    # RFC 9162 2.1.4.2, with its variable names. A size that is a power of two is one perfect subtree, which the proof leaves out.
    path = [root_before, *proof] if size_before & (size_before - 1) == 0 else list(proof)
    if not path:
        raise _wrong_length(0)
    fn, sn = size_before - 1, size_after - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    before = after = path[0]
    for sibling in path[1:]:
        if sn == 0:
            raise _wrong_length(len(proof))
        if fn & 1 or fn == sn:
            before = node_hash(sibling, before)
            after = node_hash(sibling, after)
            while not fn & 1 and fn:
                fn >>= 1
                sn >>= 1
        else:
            after = node_hash(after, sibling)
        fn >>= 1
        sn >>= 1
    if sn:
        raise _wrong_length(len(proof))
    _check_root(root_before, before, "the earlier root")
    _check_root(root_after, after, "the later root")


def _path(index: int, size: int) -> list[tuple[int, int]]:
    """Return, from the root down, the spans (begin, end) of leaves beside the way to leaf `index`."""
    spans: list[tuple[int, int]] = []
    begin, end = 0, size
    while end - begin > 1:
        # RFC 9162's split: the largest power of two smaller than the number of leaves.
        middle = begin + (1 << ((end - begin - 1).bit_length() - 1))
        if index < middle:
            spans.append((middle, end))
            end = middle
        else:
            spans.append((begin, middle))
            begin = middle
    return spans


def _subtree(read_node: ReadNode, begin: int, end: int) -> Digest:
    """Return the root over the leaves from `begin` to `end`, joined from stored perfect subtrees; `begin` is aligned to the span."""
    peaks: list[Digest] = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        peaks.append(read_node(level, begin >> level))
        begin += 1 << level
    digest = peaks.pop()
    while peaks:
        digest = node_hash(peaks.pop(), digest)
    return digest


def _check_sizes(size_before: int, size_after: int) -> None:
    if not 0 <= size_before <= size_after <= SIZE_MAX:
        raise InvalidProofError(
            "wire.merkle.range",
            "the earlier tree is not the smaller one",
            expected=f"0 to {size_after} leaves",
            actual=size_before,
        )


def _check_proof_hashes(proof: Sequence[Digest]) -> None:
    # A hash of another length would move the border between the two children of a node.
    if len(proof) > PROOF_HASHES_MAX or any(len(digest) != DIGEST_BYTES for digest in proof):
        raise _wrong_length(len(proof))


def _check_root(expected: Digest, actual: Digest, what: str) -> None:
    if actual != expected:
        raise InvalidProofError("wire.merkle.root", f"{what} does not match", expected=expected, actual=actual)


def _wrong_length(length: int) -> InvalidProofError:
    return InvalidProofError(
        "wire.merkle.length", "the proof has the wrong number of hashes for these sizes", actual=length
    )
