"""Replicas on real LevelDB directories, homes of stopped nodes and archives, fed from the in-memory chains of `tests.testkit.ledger`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ledger.archive import ArchiveEncoder
from ledger.genesis import Genesis, genesis_block
from node.config import Home
from node.keystore import save_key
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


def raw_blocks(chain: Chain) -> list[tuple[bytes, bytes | None]]:
    """Return each block of the chain after genesis with its certificate, encoded."""
    return [(block.raw, chain.view.certificate(block.header.height)) for block in chain.blocks[1:]]


def write_archive(path: Path, chain: Chain, blocks: Sequence[tuple[bytes, bytes | None]] | None = None) -> Path:
    """Write an archive of the chain, or of other blocks under its founding document."""
    encoder = ArchiveEncoder()
    chosen = raw_blocks(chain) if blocks is None else blocks
    data = [encoder.begin(chain.genesis.document), *(encoder.block(*block) for block in chosen), encoder.end()]
    path.write_bytes(b"".join(data))
    return path


def stopped_home(path: Path, chain: Chain) -> Home:
    """Make the home of validator 1 that was stopped with the whole chain committed."""
    home = Home(path)
    home.path.mkdir()
    home.genesis.write_bytes(chain.genesis.document)
    save_key(home.node_key, node_key(1))
    again = Chain(genesis=chain.genesis)
    with open_replica(home.data, chain.genesis) as replica:
        for block in chain.blocks[1:]:
            replica.store.commit([again.apply(block)], chain.certificate(block))
    return home
