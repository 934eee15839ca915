"""The look at every row: a sound store shows nothing, each damaged or missing row shows itself."""

from __future__ import annotations

from pathlib import Path

import plyvel

from ledger.keyspace import Table, WriteSet, height_key
from node.storage.block_store import TABLE_LOG_TERM, TABLE_LOG_TIP, BlockStore
from node.storage.checks import row_key
from node.storage.leveldb import Store
from node.storage.verify import StoreFinding, StoreSummary, verify_store
from tests.unit.test_storage_blocks import GENESIS_HASH, certificate, entry, executed
from wire.keys import KeyId


def make_store(path: Path) -> Store:
    store = Store.open(path, chain_id="test-chain", node_key_id=KeyId(bytes(32)))
    writes: WriteSet = {(Table.BLOCK, height_key(0)): b"genesis", (Table.HEADER, height_key(0)): b"header"}
    blocks = BlockStore.bootstrap(store, GENESIS_HASH, writes)
    for height in (1, 2):
        done = executed(entry(height))
        done.writes[Table.HEADER, height_key(height)] = b"header"
        blocks.commit((done,), certificate(entry(height)))
    return store


def test_a_sound_store_has_no_findings(tmp_path: Path) -> None:
    store = make_store(tmp_path / "data")
    (summary,) = verify_store(store)
    assert isinstance(summary, StoreSummary)
    assert (summary.committed_height, summary.last_height) == (2, 2)
    assert summary.rows == len(list(store.scan())) > 10
    store.close()


def test_every_damaged_row_is_named_and_the_look_goes_on(tmp_path: Path) -> None:
    make_store(tmp_path / "data").close()
    database = plyvel.DB(str(tmp_path / "data" / "db"))
    for table, key in ((Table.BLOCK, height_key(1)), (Table.STATE, b"x")):
        stored = database.get(row_key(table, key))
        assert stored is not None
        database.put(row_key(table, key), stored[:-1] + bytes((stored[-1] ^ 1,)), sync=True)
    database.close()
    store = Store.open(tmp_path / "data", chain_id="test-chain", node_key_id=KeyId(bytes(32)))
    findings = [found for found in verify_store(store) if isinstance(found, StoreFinding)]
    assert [found.code for found in findings] == ["node.storage.checksum"] * 2
    assert "table 2" in findings[0].message
    assert f"row {height_key(1).hex()} of table 7" in findings[1].message
    store.close()


def test_every_missing_row_is_named(tmp_path: Path) -> None:
    store = make_store(tmp_path / "data")
    store.write(
        {(Table.HEADER, height_key(1)): None, (TABLE_LOG_TERM, height_key(0)): None, (Table.BLOCK, height_key(0)): None}
    )
    findings = [found for found in verify_store(store) if isinstance(found, StoreFinding)]
    assert {found.code for found in findings} == {"node.storage.missing_row"}
    assert [found.message for found in findings] == [
        f"row {height_key(0).hex()} of table 67 (LOG_TERM) is missing",
        f"row {height_key(0).hex()} of table 7 (BLOCK) is missing",
        f"row {height_key(1).hex()} of table 6 (HEADER) is missing",
    ]
    store.close()


def test_a_store_without_its_tip_ends_with_a_summary_that_says_so(tmp_path: Path) -> None:
    store = make_store(tmp_path / "data")
    store.write({(TABLE_LOG_TIP, b""): None})
    *findings, summary = verify_store(store)
    assert [found.code for found in findings if isinstance(found, StoreFinding)] == ["node.storage.missing_row"]
    assert isinstance(summary, StoreSummary)
    assert (summary.committed_height, summary.last_height) == (None, None)
    store.close()
