"""Scrubbing: every damaged row is found, what single rows or a peer's block can repair is repaired, everything else ends the node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from consensus.effects import HardState, Persist
from consensus.messages import Entry
from ledger import bodies
from ledger.block import Block
from ledger.genesis import genesis_block
from ledger.keyspace import Table, height_key, identity_key
from ledger.state import StateView
from ledger.transaction import decode_transaction_untrusted
from node.errors import StorageError
from node.machine import Machine
from node.scrub import Scrubber
from node.storage.block_store import BlockStore
from node.storage.leveldb import Store
from node.storage.tables import (
    TABLE_HARD_STATE,
    TABLE_LOG_ENTRY,
    TABLE_LOG_TERM,
    TABLE_LOG_TIP,
    TABLE_STORE,
)
from node.storage.verify import StoreFinding, verify_store
from node.sync import CertifiedBlock, certified_blocks
from tests.testkit import damage
from tests.testkit.ledger import Chain, make_certificate, node_key
from tests.testkit.node import certified
from wire.certificate import encode_commit_certificate
from wire.errors import UnavailableError

ALONE = 5
"""Height of a block that lies alone in a block of LevelDB's files."""
VOTE = HardState(2, node_key(2).public_key.key_id)


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain()
    for name in ("alice@acme", "bob@beta"):
        chain.register(name, "developer")
    chain.register("web1@acme", "host")
    for number in range(2):
        # Longer than a block of LevelDB's files: the second one lies alone in its own.
        reports = [bodies.HostReport("inventory", "app", bytes((number, part)) * 1500) for part in range(3)]
        chain.apply(chain.build(*(chain.sign(report, by="web1@acme") for report in reports)).block)
    chain.elect(2)
    chain.register("carl@gamma", "developer")
    chain.register("dora@gamma", "developer")
    return chain


def committed_height(chain: Chain) -> int:
    return chain.height - 1


def tail(chain: Chain) -> Entry:
    """The last block of the chain, which the replica has in its log and not yet committed."""
    block = chain.blocks[chain.height]
    return Entry(block.header.term, block.header.height, block.block_hash, block.raw)


@pytest.fixture
def data(tmp_path: Path, chain: Chain) -> Path:
    """A closed store: all blocks but the last are committed, each with its certificate; the last is in the log; a vote was given."""
    from tests.testkit.ledger import Chain as Fresh

    replay = Fresh(genesis=chain.genesis)
    with opened(tmp_path / "data", chain) as blocks:
        for block in chain.blocks[1 : committed_height(chain) + 1]:
            blocks.commit([replay.apply(block)], chain.certificate(block))
        blocks.persist(Persist(VOTE, None, (tail(chain),)))
    damage.compact(tmp_path / "data")
    return tmp_path / "data"


@contextmanager
def opened(data: Path, chain: Chain) -> Iterator[BlockStore]:
    store = Store.open(data, chain_id=chain.genesis.chain_id, node_key_id=node_key(1).public_key.key_id)
    try:
        block, writes = genesis_block(chain.genesis)
        yield BlockStore.bootstrap(store, block.block_hash, writes)
    finally:
        store.close()


class FakePeer:
    """A peer that answers from a function of the height."""

    def __init__(self, answer: Callable[[int], list[CertifiedBlock]]) -> None:
        self.name = "peer"
        self.answer = answer
        self.asked: list[int] = []

    async def blocks(self, start: int, *, bytes_max: int, wait_ms: int) -> list[CertifiedBlock]:
        assert (bytes_max, wait_ms) == (1, 0)
        self.asked.append(start)
        return self.answer(start)


def honest(chain: Chain) -> FakePeer:
    return FakePeer(lambda height: certified(chain, height)[:1])


def rows_of(blocks: BlockStore) -> dict[tuple[int, bytes], bytes]:
    rows = {}
    for row in blocks.store.scan():
        value = blocks.store.get(row.table, row.key)
        assert value is not None
        if (row.table, row.key) != (TABLE_STORE, b"sequence"):
            rows[row.table, row.key] = value
    return rows


async def _no_sleep(seconds: float) -> None:
    assert seconds > 0
    await trio.lowlevel.checkpoint()


async def scrub(
    blocks: BlockStore, *peers: FakePeer, memory: dict[int, bytes] | None = None, rows_per_s: int = 50, passes: int = 2
) -> Scrubber:
    """Scrub until so many passes are over, in no time."""
    scrubber = Scrubber(
        blocks,
        rows_per_s=rows_per_s,
        peers=lambda: peers,  # type: ignore[arg-type,return-value]
        find_raw=(memory or {}).get,
        now_ms=lambda: 7_000,
        machine=Machine(sleep=_no_sleep),
    )
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrubber.run)
            while scrubber.status.passes < passes:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    return scrubber


async def test_a_sound_store_is_read_from_end_to_end_and_left_as_it_is(data: Path, chain: Chain) -> None:
    with opened(data, chain) as blocks:
        before = rows_of(blocks)
        scrubber = await scrub(blocks)
        status = scrubber.status
        assert (status.damaged, status.repaired, status.waiting, status.passes, status.last_pass_ms) == (
            0,
            0,
            0,
            2,
            7_000,
        )
        assert status.rows >= 2 * (len(before) + 1)
        assert rows_of(blocks) == before


def tx_of(chain: Chain, height: int) -> bytes:
    return decode_transaction_untrusted(chain.blocks[height].transactions[0]).tx_id


def history_row(chain: Chain) -> tuple[int, bytes]:
    return Table.HISTORY, identity_key("alice@acme") + b"\x00" + height_key(1) + bytes(4)


REPAIRABLE: dict[str, Callable[[Chain], tuple[int, bytes]]] = {
    "block": lambda chain: (Table.BLOCK, height_key(2)),
    "last committed block": lambda chain: (Table.BLOCK, height_key(committed_height(chain))),
    "header": lambda chain: (Table.HEADER, height_key(2)),
    "block hash": lambda chain: (Table.BLOCK_HASH, chain.blocks[3].block_hash),
    "certificate": lambda chain: (Table.CERTIFICATE, height_key(committed_height(chain))),
    "term": lambda chain: (TABLE_LOG_TERM, height_key(1)),
    "term of the tail": lambda chain: (TABLE_LOG_TERM, height_key(chain.height)),
    "log entry": lambda chain: (TABLE_LOG_ENTRY, height_key(chain.height)),
    "tip": lambda chain: (TABLE_LOG_TIP, b""),
    "vote": lambda chain: (TABLE_HARD_STATE, b""),
    "history": history_row,
    "transaction": lambda chain: (Table.TX_INDEX, tx_of(chain, 2)),
    "owner": lambda chain: (TABLE_STORE, b"owner"),
    "sequence": lambda chain: (TABLE_STORE, b"sequence"),
}


def damage_open(blocks: BlockStore, table: int, key: bytes) -> None:
    """Damage a row under a running node."""
    from node.storage.checks import row_key

    stored = blocks.store._database._db.get(row_key(table, key))
    assert stored is not None
    blocks.store._database._db.put(row_key(table, key), stored[:-1] + bytes((stored[-1] ^ 1,)))


@pytest.mark.parametrize("name", REPAIRABLE)
async def test_a_damaged_row_is_found_and_repaired_while_the_node_runs(data: Path, chain: Chain, name: str) -> None:
    with opened(data, chain) as blocks:
        blocks.load()
        before = rows_of(blocks)
        table, key = REPAIRABLE[name](chain)
        damage_open(blocks, table, key)
        with pytest.raises(StorageError):
            blocks.store.get(table, key)
        scrubber = await scrub(blocks, honest(chain))
        assert (scrubber.status.damaged, scrubber.status.repaired, scrubber.status.waiting) == (1, 1, 0)
        assert rows_of(blocks) == before
        assert not blocks.store.needs_repair


async def test_a_log_entry_comes_from_memory_before_anybody_is_asked(data: Path, chain: Chain) -> None:
    peer = honest(chain)
    with opened(data, chain) as blocks:
        before = rows_of(blocks)
        damage_open(blocks, TABLE_LOG_ENTRY, height_key(chain.height))
        await scrub(blocks, peer, memory={chain.height: tail(chain).data})
        assert rows_of(blocks) == before
        assert not peer.asked


async def test_an_older_certificate_goes_when_a_later_one_proves_the_same(data: Path, chain: Chain) -> None:
    with opened(data, chain) as blocks:
        damage_open(blocks, Table.CERTIFICATE, height_key(1))
        scrubber = await scrub(blocks)
        assert scrubber.status.repaired == 1
        assert blocks.get(Table.CERTIFICATE, height_key(1)) is None


async def test_what_a_reader_finds_is_repaired_although_scrubbing_is_off(data: Path, chain: Chain) -> None:
    with opened(data, chain) as blocks:
        before = rows_of(blocks)
        damage_open(blocks, Table.HEADER, height_key(2))
        with pytest.raises(StorageError):
            StateView(blocks).header_at(2)
        scrubber = Scrubber(
            blocks,
            rows_per_s=0,
            peers=lambda: (),
            find_raw=lambda _: None,
            now_ms=lambda: 0,
            machine=Machine(sleep=_no_sleep),
        )
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scrubber.run)
                while not scrubber.status.repaired:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        assert scrubber.status.rows == 0
        assert rows_of(blocks) == before


def _other_block(chain: Chain, height: int) -> list[CertifiedBlock]:
    return certified(chain, height + 1)[:1]


def _block_of_another_network(chain: Chain, height: int) -> list[CertifiedBlock]:
    del height
    from tests.testkit.ledger import make_genesis

    other = Chain(genesis=make_genesis(chain_id="other-net"))
    other.register("alice@acme", "developer")
    other.register("bob@acme", "developer")
    return certified(other, 2)[:1]


def _garbage(chain: Chain, height: int) -> list[CertifiedBlock]:
    del chain, height
    return [CertifiedBlock(b"\x93garbage", b"\x93garbage")]


def _nothing(chain: Chain, height: int) -> list[CertifiedBlock]:
    del chain, height
    return []


def _away(chain: Chain, height: int) -> list[CertifiedBlock]:
    del chain, height
    raise UnavailableError("node.net.unreachable", "away")


@pytest.mark.parametrize("lie", [_other_block, _block_of_another_network, _garbage, _nothing, _away])
async def test_a_block_that_is_not_the_lost_one_is_not_taken(
    data: Path, chain: Chain, lie: Callable[[Chain, int], list[CertifiedBlock]]
) -> None:
    with opened(data, chain) as blocks:
        before = rows_of(blocks)
        damage_open(blocks, Table.BLOCK, height_key(2))
        liar = FakePeer(lambda height: lie(chain, height))
        scrubber = await scrub(blocks, liar)
        assert liar.asked == [2]
        assert (scrubber.status.damaged, scrubber.status.repaired, scrubber.status.waiting) == (1, 0, 1)
        with pytest.raises(StorageError):
            blocks.store.get(Table.BLOCK, height_key(2))
        await scrub(blocks, liar, honest(chain))
        assert rows_of(blocks) == before


def _by_strangers(chain: Chain, block: Block) -> bytes:
    strangers = [node_key(index) for index in (11, 12, 13)]
    return encode_commit_certificate(make_certificate(chain.genesis.chain_id, strangers, block))


def _by_a_minority(chain: Chain, block: Block) -> bytes:
    return encode_commit_certificate(make_certificate(chain.genesis.chain_id, chain.node_keys[:2], block))


def _of_another_block(chain: Chain, block: Block) -> bytes:
    return encode_commit_certificate(chain.certificate(chain.blocks[block.header.height - 1]))


@pytest.mark.parametrize("forge", [_by_strangers, _by_a_minority, _of_another_block])
async def test_a_certificate_that_does_not_hold_is_not_taken(
    data: Path, chain: Chain, forge: Callable[[Chain, Block], bytes]
) -> None:
    height = committed_height(chain)
    block = chain.blocks[height]
    with opened(data, chain) as blocks:
        before = rows_of(blocks)
        damage_open(blocks, Table.CERTIFICATE, height_key(height))
        liar = FakePeer(lambda _: [CertifiedBlock(block.raw, forge(chain, block))])
        silent = FakePeer(lambda _: [CertifiedBlock(block.raw, None)])
        scrubber = await scrub(blocks, liar, silent)
        assert (scrubber.status.repaired, scrubber.status.waiting) == (0, 1)
        await scrub(blocks, liar, honest(chain))
        assert rows_of(blocks) == before


@pytest.mark.parametrize(
    ("table", "key"),
    [
        (Table.STATE, identity_key("alice@acme")),
        (Table.META, b"tip"),
        (Table.LOG_NODE, None),
        (Table.STATE_NODE, None),
        (Table.EXECUTED, None),
        (Table.CONFIGURATION, height_key(0)),
        (Table.IDENTITY_VERSION, None),
    ],
)
async def test_a_row_that_only_execution_can_make_ends_the_node_which_says_which(
    data: Path, chain: Chain, table: int, key: bytes | None
) -> None:
    with opened(data, chain) as blocks:
        found = next(blocks.store.iterate(table))[0] if key is None else key
        damage_open(blocks, table, found)
        with pytest.RaisesGroup(StorageError) as caught:
            await scrub(blocks, honest(chain))
        error = caught.value.exceptions[0]
        assert error.code == "node.storage.checksum"
        assert f"row {found.hex()} of table {int(table)}" in error.message
        assert blocks.store.needs_repair


async def test_a_damaged_file_is_covered_row_by_row_and_marked_for_the_next_start(data: Path, chain: Chain) -> None:
    damage.flip_bit_of_row(data, Table.BLOCK, height_key(ALONE))
    with opened(data, chain) as blocks:
        with pytest.raises(StorageError):
            rows_of(blocks)
        scrubber = await scrub(blocks, honest(chain))
        assert scrubber.status.damaged == scrubber.status.repaired >= 1
        assert not [found for found in verify_store(blocks.store) if isinstance(found, StoreFinding)]
        assert rows_of(blocks)[Table.BLOCK, height_key(ALONE)] == chain.blocks[ALONE].raw
        assert blocks.store.needs_repair


async def test_rows_that_are_lost_in_a_file_end_the_node(data: Path, chain: Chain) -> None:
    damage.destroy_block_of_row(data, Table.BLOCK, height_key(ALONE))
    with opened(data, chain) as blocks:
        with pytest.RaisesGroup(StorageError) as caught:
            await scrub(blocks, honest(chain))
        assert caught.value.exceptions[0].code == "node.storage.unreadable"
        assert blocks.store.needs_repair


async def test_peers_serve_what_repairs_ask_for(data: Path, chain: Chain) -> None:
    """The question that the repair asks gives the very block, and its certificate, from a production node."""
    with opened(data, chain) as blocks:
        for height in range(1, committed_height(chain) + 1):
            (answer, *_) = certified_blocks(StateView(blocks), height, 1)
            assert answer.block == chain.blocks[height].raw
            assert answer.certificate is not None
