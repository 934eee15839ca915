"""Log, hard state, commits and certificates: each change whole, no hole taken for the end, reads the same before and after a restart."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from consensus.effects import HardState, Persist
from consensus.messages import Entry
from ledger.keyspace import Table, WriteSet, height_key
from node.errors import StorageError, StorageRefusedError
from node.storage.block_store import (
    TABLE_HARD_STATE,
    TABLE_LOG_ENTRY,
    TABLE_LOG_TERM,
    TABLE_LOG_TIP,
    BlockStore,
)
from node.storage.leveldb import Store
from node.storage.tables import TABLE_STORE
from wire.certificate import CommitCertificate
from wire.hashing import Digest, sha256
from wire.keys import KeyId

GENESIS_HASH = sha256(b"genesis")
VOTER = KeyId(sha256(b"voter"))


@dataclass(frozen=True)
class Header:
    height: int
    term: int


@dataclass(frozen=True)
class Block:
    header: Header


@dataclass(frozen=True)
class Executed:
    """What `BlockStore.commit` reads of ledger.transition.Executed."""

    block: Block
    block_hash: Digest
    writes: WriteSet = field(default_factory=dict)


def entry(height: int, term: int = 1, tag: bytes = b"", size: int = 0) -> Entry:
    data = b"block %d of term %d %b" % (height, term, tag) + b"." * size
    return Entry(term, height, sha256(data), data)


def executed(block: Entry) -> Any:
    key = height_key(block.height)
    writes: WriteSet = {(Table.BLOCK, key): block.data, (Table.META, b"tip"): key, (Table.STATE, b"x"): block.data}
    return Executed(Block(Header(block.height, block.term)), block.block_hash, writes)


def certificate(block: Entry) -> CommitCertificate:
    return CommitCertificate(block.term, block.height, block.block_hash, ((VOTER, b"s" * 64),))


def open_raw(path: Path) -> Store:
    return Store.open(path, chain_id="test-chain", node_key_id=KeyId(bytes(32)))


def open_blocks(path: Path) -> BlockStore:
    writes: WriteSet = {(Table.BLOCK, height_key(0)): b"genesis block", (Table.META, b"tip"): height_key(0)}
    return BlockStore.bootstrap(open_raw(path), GENESIS_HASH, writes)


def reopen(blocks: BlockStore) -> BlockStore:
    path = blocks.store.path
    blocks.store.close()
    return open_blocks(path)


@pytest.fixture
def blocks(tmp_path: Path) -> Iterator[BlockStore]:
    blocks = open_blocks(tmp_path / "data")
    yield blocks
    blocks.store.close()


def rows_of(store: Store) -> dict[tuple[int, bytes], bytes]:
    return {(table, key): value for table in range(256) for key, value in store.iterate(table) if table != 64}


def test_a_new_store_holds_genesis(blocks: BlockStore) -> None:
    assert (blocks.first_height, blocks.last_height, blocks.committed_height) == (1, 0, 0)
    assert blocks.term_and_hash(0) == (0, GENESIS_HASH)
    assert blocks.get(Table.BLOCK, height_key(0)) == b"genesis block"
    stored = blocks.load()
    assert (stored.hard_state, stored.commit_height, stored.commit_certificate) == (HardState(), 0, None)


def test_another_genesis_is_refused(tmp_path: Path) -> None:
    open_blocks(tmp_path / "data").store.close()
    store = open_raw(tmp_path / "data")
    before = rows_of(store)
    with pytest.raises(StorageRefusedError) as caught:
        BlockStore.bootstrap(store, sha256(b"another"), {(Table.META, b"tip"): b"x"})
    assert caught.value.code == "node.storage.foreign_directory"
    assert rows_of(store) == before
    store.close()


def test_what_was_persisted_is_there_after_a_restart(tmp_path: Path) -> None:
    blocks = open_blocks(tmp_path / "data")
    entries = (entry(1), entry(2), entry(3, term=4))
    blocks.persist(Persist(HardState(4, VOTER), None, entries))
    for _ in range(2):
        assert blocks.last_height == 3
        assert blocks.committed_height == 0
        assert blocks.load().hard_state == HardState(4, VOTER)
        assert tuple(blocks.entry(height) for height in (1, 2, 3)) == entries
        assert blocks.term_and_hash(3) == (4, entries[2].block_hash)
        blocks = reopen(blocks)
    blocks.store.close()


def test_a_vote_alone_changes_the_hard_state_alone(blocks: BlockStore) -> None:
    blocks.persist(Persist(HardState(1, None), None, (entry(1),)))
    blocks.persist(Persist(HardState(2, VOTER), None, ()))
    assert blocks.load().hard_state == HardState(2, VOTER)
    assert blocks.last_height == 1


def test_an_empty_persist_and_an_empty_commit_write_nothing(blocks: BlockStore) -> None:
    before = rows_of(blocks.store)
    blocks.persist(Persist())
    blocks.commit((), None)
    assert rows_of(blocks.store) == before


def test_truncation_replaces_the_tail_in_one_batch(tmp_path: Path) -> None:
    blocks = open_blocks(tmp_path / "data")
    blocks.persist(Persist(HardState(1), None, tuple(entry(height) for height in range(1, 6))))
    assert blocks.entry(4).term == 1  # cached, and must not come back
    new = (entry(3, term=2, tag=b"new"), entry(4, term=2, tag=b"new"))
    blocks.persist(Persist(HardState(2), 3, new))
    for _ in range(2):
        assert blocks.last_height == 4
        assert blocks.entries(1, 4, 10_000) == (entry(1), entry(2), *new)
        assert blocks.store.get(TABLE_LOG_ENTRY, height_key(5)) is None
        assert blocks.store.get(TABLE_LOG_TERM, height_key(5)) is None
        blocks = reopen(blocks)
    blocks.store.close()


def test_truncation_without_new_blocks_shortens_the_log(tmp_path: Path) -> None:
    blocks = open_blocks(tmp_path / "data")
    blocks.persist(Persist(None, None, (entry(1), entry(2))))
    blocks.persist(Persist(None, 2, ()))
    assert reopen(blocks).last_height == 1


def test_a_committed_block_is_never_truncated(blocks: BlockStore) -> None:
    blocks.persist(Persist(None, None, (entry(1), entry(2))))
    blocks.commit((executed(entry(1)),), certificate(entry(1)))
    before = rows_of(blocks.store)
    with pytest.raises(AssertionError):
        blocks.persist(Persist(None, 1, (entry(1, term=2),)))
    with pytest.raises(AssertionError):
        blocks.persist(Persist(None, None, (entry(4),)))
    assert rows_of(blocks.store) == before


def test_a_commit_moves_blocks_from_the_log_into_the_ledger(tmp_path: Path) -> None:
    blocks = open_blocks(tmp_path / "data")
    entries = tuple(entry(height) for height in range(1, 5))
    blocks.persist(Persist(HardState(1), None, entries))
    blocks.commit(tuple(executed(block) for block in entries[:3]), certificate(entries[2]))
    for _ in range(2):
        assert (blocks.committed_height, blocks.last_height) == (3, 4)
        assert blocks.get(Table.META, b"tip") == height_key(3)
        assert [blocks.store.get(TABLE_LOG_ENTRY, height_key(height)) for height in range(1, 5)] == [
            None,
            None,
            None,
            entries[3].data,
        ]
        assert blocks.entries(1, 4, 10_000) == entries
        stored = blocks.load()
        assert (stored.commit_height, stored.commit_certificate) == (3, certificate(entries[2]))
        blocks = reopen(blocks)
    blocks.store.close()


def test_what_is_written_together_is_one_batch_with_the_same_outcome(tmp_path: Path) -> None:
    first, second = open_blocks(tmp_path / "one"), open_blocks(tmp_path / "two")
    entries = tuple(entry(height) for height in range(1, 6))
    replaced = tuple(entry(height, term=2, tag=b"new") for height in (3, 4, 5, 6))
    persists = [
        Persist(HardState(1, VOTER), None, entries[:2]),
        Persist(None, None, entries[2:]),
        Persist(HardState(2), 3, replaced),
    ]
    commits = [
        (tuple(executed(block) for block in entries[:2]), certificate(entries[1])),
        ((executed(replaced[0]), executed(replaced[1])), certificate(replaced[1])),
        ((), certificate(replaced[0])),
    ]
    for persist in persists:
        first.persist(persist)
    for blocks, proof in commits:
        first.commit(blocks, proof)
    batches: list[int] = []
    write = second.store.write
    second.store.write = lambda rows: batches.append(len(rows)) or write(rows)  # type: ignore[method-assign, func-returns-value]
    second.write(persists, commits)
    assert len(batches) == 1
    for _ in range(2):
        assert (second.committed_height, second.last_height) == (4, 6)
        assert second.entries(1, 6, 100_000) == (*entries[:2], *replaced)
        assert second.load() == first.load()
        # Rows that number batches or name the directory differ.
        own = {(TABLE_STORE, b"sequence"), (TABLE_STORE, b"owner")}
        ours, theirs = (
            {key: row for key, row in rows_of(each.store).items() if key not in own} for each in (second, first)
        )
        assert ours == theirs
        first, second = reopen(first), reopen(second)
    first.store.close()
    second.store.close()


def test_of_what_is_written_together_all_or_nothing_is_written(blocks: BlockStore) -> None:
    before = rows_of(blocks.store)
    for persists, commits in (
        ([Persist(None, None, (entry(1),)), Persist(None, None, (entry(3),))], []),
        ([Persist(None, None, (entry(1),))], [((executed(entry(1, term=2)),), None)]),
        ([Persist(None, None, (entry(1),))], [((executed(entry(1)),), certificate(entry(2)))]),
    ):
        with pytest.raises(AssertionError):
            blocks.write(persists, commits)
        assert rows_of(blocks.store) == before
        assert (blocks.last_height, blocks.committed_height) == (0, 0)


def test_an_observer_commits_blocks_that_its_log_never_had(tmp_path: Path) -> None:
    blocks = open_blocks(tmp_path / "data")
    blocks.commit((executed(entry(1)), executed(entry(2))), certificate(entry(2)))
    blocks.commit((executed(entry(3)),), None)
    blocks.commit((), certificate(entry(3)))
    for _ in range(2):
        assert (blocks.committed_height, blocks.last_height) == (3, 3)
        assert blocks.entries(1, 3, 10_000) == (entry(1), entry(2), entry(3))
        assert blocks.find_certificate(3) == certificate(entry(3))
        assert blocks.find_certificate(2) == certificate(entry(2))
        assert blocks.find_certificate(1) is None
        blocks = reopen(blocks)
    blocks.store.close()


def test_a_commit_of_another_block_than_the_logged_one_is_our_bug(blocks: BlockStore) -> None:
    blocks.persist(Persist(None, None, (entry(1),)))
    before = rows_of(blocks.store)
    for wrong in (executed(entry(1, term=2)), executed(entry(2))):
        with pytest.raises(AssertionError):
            blocks.commit((wrong,), None)
    with pytest.raises(AssertionError):
        blocks.commit((), certificate(entry(1)))
    assert rows_of(blocks.store) == before


def test_reads_of_many_blocks_keep_to_the_byte_limit_but_give_one(blocks: BlockStore) -> None:
    entries = tuple(entry(height, size=1000) for height in range(1, 6))
    size = len(entries[0].data)
    blocks.persist(Persist(None, None, entries))
    assert blocks.entries(1, 5, 3 * size) == entries[:3]
    assert blocks.entries(2, 5, 1) == entries[1:2]
    assert blocks.entries(2, 3, 1_000_000) == entries[1:3]


def test_the_cache_of_blocks_is_bounded(blocks: BlockStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.storage.block_store.ENTRY_CACHE_BYTES", 5_000)
    blocks.persist(Persist(None, None, tuple(entry(height, size=1000) for height in range(1, 30))))
    for _ in range(2):
        for height in range(1, 30):
            assert blocks.entry(height) == entry(height, size=1000)
    assert sum(len(cached.data) for cached in blocks._entries.values()) == blocks._entries_bytes <= 5_000


@pytest.mark.parametrize(
    ("table", "key", "code"),
    [
        (TABLE_LOG_ENTRY, height_key(2), "node.storage.missing_row"),
        (TABLE_LOG_ENTRY, height_key(3), "node.storage.missing_row"),
        (TABLE_LOG_ENTRY, height_key(4), "node.storage.missing_row"),
        (TABLE_LOG_TERM, height_key(4), "node.storage.missing_row"),
        (TABLE_LOG_TERM, height_key(3), "node.storage.missing_row"),
        (TABLE_LOG_TERM, height_key(1), "node.storage.missing_row"),
        (TABLE_LOG_TERM, height_key(0), "node.storage.missing_row"),
        (TABLE_LOG_TIP, b"", "node.storage.missing_row"),
        (Table.BLOCK, height_key(1), "node.storage.missing_row"),
    ],
)
def test_a_hole_is_not_the_end_of_the_log(tmp_path: Path, table: int, key: bytes, code: str) -> None:
    blocks = open_blocks(tmp_path / "data")
    blocks.persist(Persist(HardState(1), None, tuple(entry(height) for height in range(1, 5))))
    blocks.commit((executed(entry(1)),), certificate(entry(1)))
    blocks.store.write({(table, key): None})
    blocks.store.close()
    store = open_raw(tmp_path / "data")
    before = rows_of(store)
    with pytest.raises(StorageError) as caught:
        BlockStore.bootstrap(store, GENESIS_HASH, {(Table.META, b"tip"): b"x"})
    assert caught.value.code == code
    assert rows_of(store) == before
    store.close()


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        (TABLE_LOG_TIP, b"", b"\xff"),
        (TABLE_LOG_TIP, b"", b"\x93\x01\x02\x03"),
        (TABLE_LOG_TERM, height_key(2), b"short"),
        (TABLE_LOG_TERM, height_key(2), bytes(40)),
    ],
)
def test_rows_that_we_did_not_write_are_refused(tmp_path: Path, table: int, key: bytes, value: bytes) -> None:
    blocks = open_blocks(tmp_path / "data")
    blocks.persist(Persist(HardState(1), None, (entry(1), entry(2))))
    blocks.store.write({(table, key): value})
    blocks.store.close()
    store = open_raw(tmp_path / "data")
    with pytest.raises(StorageError) as caught:
        BlockStore(store)
    assert caught.value.code == "node.storage.damaged"
    store.close()


@pytest.mark.parametrize("value", [b"\xff", b"\x92\x01\x02", b"\x92\xff\xc0", b"\x91\x01"])
def test_a_damaged_hard_state_is_refused(blocks: BlockStore, value: bytes) -> None:
    blocks.store.write({(TABLE_HARD_STATE, b""): value})
    with pytest.raises(StorageError) as caught:
        blocks.load()
    assert caught.value.code == "node.storage.damaged"


def test_a_damaged_certificate_is_refused(blocks: BlockStore) -> None:
    blocks.store.write({(Table.CERTIFICATE, height_key(0)): b"nonsense"})
    with pytest.raises(StorageError) as caught:
        blocks.find_certificate(5)
    assert caught.value.code == "node.storage.damaged"


def test_reads_beside_the_writing_thread_never_see_a_hole(blocks: BlockStore) -> None:
    """A commit moves a block from one table to another while the event loop reads it."""
    blocks.persist(Persist(None, None, tuple(entry(height) for height in range(1, 201))))

    def commit_all() -> None:
        for height in range(1, 201):
            blocks.commit((executed(entry(height)),), certificate(entry(height)))

    writer = threading.Thread(target=commit_all)
    writer.start()
    reads = 0
    while writer.is_alive():
        blocks._entries.clear()
        blocks._entries_bytes = 0
        height = blocks.committed_height + 1
        if height <= 200:
            assert blocks.entry(height) == entry(height)
            reads += 1
    writer.join()
    assert reads > 0
    assert blocks.committed_height == 200
