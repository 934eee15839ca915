"""Which rows of LOG_NODE a node keeps when it does not keep the whole log.

A proof about a transaction leads through full subtrees on both sides of it. Those that lie wholly before the kept part, and are of use
for proofs about it, are the peaks of the log where the kept part begins; all others before it may go.

Source: docs/spec/ledger.md 15.4; RFC 9162 2.1.
"""

from __future__ import annotations

from collections.abc import Iterator

from ledger.keyspace import Table, WriteSet, log_node_key
from wire.merkle import Frontier


def frontier_rows(frontier: Frontier) -> WriteSet:
    """Return the rows of LOG_NODE that every proof about later transactions needs from before: the peaks."""
    return {
        (Table.LOG_NODE, log_node_key(level, index)): peak
        for (level, index), peak in zip(peak_places(frontier.size), frontier.peaks, strict=True)
    }


def peak_places(size: int) -> list[tuple[int, int]]:
    """Return level and index of each peak of a log of `size` leaves, from left to right."""
    return [(level, (size >> level) - 1) for level in range(size.bit_length() - 1, -1, -1) if size >> level & 1]


def superfluous_places(size_before: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield level and index of each node that goes when the kept part of the log begins at `size` and began at `size_before`."""
    kept = set(peak_places(size))
    for place in peak_places(size_before):
        if place not in kept:
            yield place
    for level in range(size.bit_length()):
        for index in range(size_before >> level, size >> level):
            if (level, index) not in kept:
                yield level, index
