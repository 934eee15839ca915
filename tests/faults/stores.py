"""Comparing the stores of all nodes record by record, after their processes are gone.

Everything but two tables must be the same, byte for byte, at the same height. A commit certificate may carry the signatures of another
majority, and blocks inside a batch may have none: each that is there is verified, and names the block that all have. What a node keeps
about itself (its vote, its log's uncommitted end, its owner) is its own.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from ledger.certificate import verify_block_certificate
from ledger.configuration import Configuration
from ledger.configuration_history import newest_configuration_height, read_configuration_row
from ledger.genesis import genesis_block
from ledger.keyspace import Table, height_key, read_height
from ledger.state import StateView
from node.keystore import load_key
from node.storage.block_store import BlockStore
from node.storage.leveldb import Store
from node.storage.tables import TABLE_LOG_TERM
from node.storage.verify import StoreFinding, verify_store
from tests.faults.cluster import CHAIN_ID, Cluster
from tests.faults.node import Node
from wire.certificate import decode_commit_certificate_untrusted
from wire.errors import RejectedError

SAME_TABLES: Final = (*(table for table in Table if table is not Table.CERTIFICATE), TABLE_LOG_TERM)
DIFFERENCES_MAX: Final = 10


@dataclass
class Comparison:
    """What came out."""

    height: int
    rows: int
    """Rows of each store that were compared."""
    certificates: int
    """Certificates of all stores that were verified."""
    violations: list[str]


def open_store(node: Node) -> Store:
    """Open the data directory of a node that does not run."""
    key = load_key(node.home / "node.key")
    return Store.open(node.data, chain_id=CHAIN_ID, node_key_id=key.public_key.key_id)


def committed_heights(cluster: Cluster) -> list[int]:
    """Return up to where each node has committed; no node may run."""
    heights = []
    for node in cluster.nodes:
        store = open_store(node)
        try:
            heights.append(open_blocks(store, cluster).committed_height)
        finally:
            store.close()
    return heights


def open_blocks(store: Store, cluster: Cluster) -> BlockStore:
    """Return the blocks in a store."""
    block, writes = genesis_block(cluster.genesis)
    return BlockStore.bootstrap(store, block.block_hash, writes)


def compare_stores(cluster: Cluster) -> Comparison:
    """Compare all stores; they must be at one height, and no node may run."""
    with ExitStack() as stack:
        stores = []
        for node in cluster.nodes:
            store = open_store(node)
            stack.callback(store.close)
            stores.append(store)
        blocks = [open_blocks(store, cluster) for store in stores]
        heights = {each.committed_height for each in blocks}
        result = Comparison(min(heights), 0, 0, [])
        if len(heights) != 1:
            result.violations.append(f"the stores end at different heights: {sorted(heights)}")
            return result
        names = [node.name for node in cluster.nodes]
        for name, store in zip(names, stores, strict=True):
            for found in verify_store(store):
                if isinstance(found, StoreFinding):
                    result.violations.append(f"{name}: {found.code}: {found.message}")
        for table in SAME_TABLES:
            # Uncommitted blocks leave terms above the committed height.
            stop = height_key(result.height + 1) if table == TABLE_LOG_TERM else None
            result.rows += _compare_table(names, stores, int(table), stop, result.violations)
        for name, store in zip(names, stores, strict=True):
            result.certificates += _check_certificates(name, store, result.violations)
        return result


def _compare_table(
    names: Sequence[str], stores: Sequence[Store], table: int, stop: bytes | None, violations: list[str]
) -> int:
    """Note rows that are not the same in all stores; return how many rows the first one has."""
    rows = 0
    merged = heapq.merge(*(_numbered(number, store, table, stop) for number, store in enumerate(stores)))
    for key, group in _grouped(merged):
        rows += 1
        if len(group) == len(stores) and len(set(group.values())) == 1:
            continue
        if len(violations) < DIFFERENCES_MAX:
            shown = {names[number]: value.hex()[:80] for number, value in group.items()}
            violations.append(f"table {table}, key {key.hex()[:80]}: {shown}, of the stores {', '.join(names)}")
    return rows


def _numbered(number: int, store: Store, table: int, stop: bytes | None) -> Iterator[tuple[bytes, int, bytes]]:
    for key, value in store.iterate(table, b"", stop):
        yield key, number, value


def _grouped(rows: Iterator[tuple[bytes, int, bytes]]) -> Iterator[tuple[bytes, dict[int, bytes]]]:
    key: bytes | None = None
    group: dict[int, bytes] = {}
    for row_key, number, value in rows:
        if row_key != key:
            if key is not None:
                yield key, group
            key, group = row_key, {}
        group[number] = value
    if key is not None:
        yield key, group


def _check_certificates(name: str, store: Store, violations: list[str]) -> int:
    count = 0
    view = StateView(store)
    changes = _configurations(store)
    for key, row in store.iterate(Table.CERTIFICATE):
        count += 1
        block = view.block(read_height(key))
        assert block is not None, "every certificate has its block"
        # A block that changes the configuration is certified under what it makes of it.
        configuration = changes[bisect_right(changes, block.header.height, key=itemgetter(0)) - 1][1]
        try:
            verify_block_certificate(decode_commit_certificate_untrusted(row), block.header, configuration)
        except RejectedError as error:
            violations.append(f"{name} holds a certificate of block {block.header.height} that does not hold: {error}")
    return count


def _configurations(store: Store) -> list[tuple[int, Configuration]]:
    """Return from which height on which configuration held, in order."""
    found = []
    at = newest_configuration_height(store)
    while at is not None:
        row = read_configuration_row(store, at)
        found.append((at, row.configuration))
        at = row.before
    return found[::-1]
