"""Replicas on real LevelDB directories, fed from the in-memory chains of `tests.testkit.ledger`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ledger.genesis import Genesis, genesis_block
from node.replica import LedgerReplica
from node.storage.block_store import BlockStore
from node.storage.leveldb import Store
from node.sync import CertifiedBlock
from tests.testkit.ledger import Chain, node_key
from wire.certificate import encode_commit_certificate


@contextmanager
def open_store(path: Path, genesis: Genesis) -> Iterator[Store]:
    """Give the store of validator 1 in a new or existing directory."""
    store = Store.open(path, chain_id=genesis.chain_id, node_key_id=node_key(1).public_key.key_id)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def open_replica(path: Path, genesis: Genesis, *, now_ms: int | None = None) -> Iterator[LedgerReplica]:
    """Give a replica at genesis in a new or existing directory; its clock stands still."""
    with open_store(path, genesis) as store:
        block, writes = genesis_block(genesis)
        clock = genesis.time_ms if now_ms is None else now_ms
        yield LedgerReplica(BlockStore.bootstrap(store, block.block_hash, writes), lambda: clock)


def certified(chain: Chain, start: int = 1, *, certify_every: int = 1) -> list[CertifiedBlock]:
    """Return the chain's blocks from `start` on as a peer sends them; the last one always has its certificate."""
    blocks = chain.blocks[start:]
    return [
        CertifiedBlock(
            block.raw,
            encode_commit_certificate(chain.certificate(block))
            if (index + 1) % certify_every == 0 or index + 1 == len(blocks)
            else None,
        )
        for index, block in enumerate(blocks)
    ]
