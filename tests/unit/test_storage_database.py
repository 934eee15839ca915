"""One LevelDB with damage in it: a scan names what is damaged and goes on; a database is replaced in one step or not at all."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from node.errors import StorageError
from node.storage.database import (
    COMPACTION_FILES_MAX,
    TABLE_FILE_BYTES,
    WRITE_BUFFER_BYTES,
    Database,
    ScannedRow,
)
from node.storage.leveldb import DATABASE_FILE, HIGH_WATER_FILE, REPAIR_FILE, SPACE_RESERVE_BYTES, Store
from tests.testkit import damage
from wire.keys import KeyId

KEY_ID = KeyId(bytes(range(32)))
ROWS = 600


def open_store(data: Path) -> Store:
    return Store.open(data, chain_id="test-chain", node_key_id=KEY_ID)


def value_of(number: int) -> bytes:
    return b"value %06d " % number * 6


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A closed data directory with rows in three tables, all in LevelDB's table files."""
    store = open_store(tmp_path / "data")
    for table in (2, 7, 200):
        store.write({(table, number.to_bytes(4, "big")): value_of(number) for number in range(ROWS)})
    store.close()
    damage.compact(tmp_path / "data")
    return tmp_path / "data"


def found_in(rows: list[ScannedRow]) -> list[tuple[int, bytes, str, bool]]:
    return [(row.table, row.key, row.error.code, row.value_holds) for row in rows if row.error is not None]


def test_a_scan_of_a_sound_store_yields_every_row_once(data: Path) -> None:
    store = open_store(data)
    rows = list(store.scan())
    assert [row.error for row in rows] == [None] * (3 * ROWS + 2)
    assert len({(row.table, row.key) for row in rows}) == len(rows)
    half = bytes((7,)) + (300).to_bytes(4, "big")
    assert [(row.table, row.key) for row in store.scan(half)] == [(row.table, row.key) for row in rows[ROWS + 300 :]]
    store.close()


def test_a_damaged_row_is_named_and_nothing_else(data: Path) -> None:
    damage.damage_row(data, 7, (5).to_bytes(4, "big"))
    damage.damage_row(data, 200, (599).to_bytes(4, "big"))
    store = open_store(data)
    assert found_in(list(store.scan())) == [
        (7, (5).to_bytes(4, "big"), "node.storage.checksum", False),
        (200, (599).to_bytes(4, "big"), "node.storage.checksum", False),
    ]
    store.close()


def test_a_flipped_bit_in_a_file_names_the_row_and_its_neighbours_can_be_saved(data: Path) -> None:
    """LevelDB refuses the whole block; only one row of it has really changed."""
    key = (300).to_bytes(4, "big")
    damage.flip_bit_of_row(data, 7, key)
    store = open_store(data)
    with pytest.raises(StorageError) as caught:
        store.get(7, key)
    assert caught.value.code == "node.storage.damaged"
    assert dict(caught.value.details) == {"table": 7, "key": key.hex()}
    with pytest.raises(StorageError):
        list(store.iterate(7))
    rows = list(store.scan())
    assert len(rows) == 3 * ROWS + 2
    found = found_in(rows)
    assert [entry for entry in found if entry[2] == "node.storage.checksum"] == [
        (7, key, "node.storage.checksum", False)
    ]
    neighbours = [entry for entry in found if entry[2] == "node.storage.damaged"]
    assert 10 < len(neighbours) < 100
    assert all(holds for *_, holds in neighbours)
    assert store.salvage(7, key) is None
    for table, neighbour, _, _ in neighbours:
        assert store.salvage(table, neighbour) == value_of(int.from_bytes(neighbour, "big"))
    assert store.take_damage().keys() == {(7, key)}
    assert store.take_damage() == {}
    store.close()


@pytest.mark.parametrize(("before_value", "code"), [(9, "node.storage.checksum"), (1, "node.storage.damaged")])
def test_a_flipped_bit_beside_a_value_does_not_go_unnoticed(data: Path, before_value: int, code: str) -> None:
    """In the key the row's checksum tells; in the number of the write the row vanishes, and only the block around it tells."""
    damage.flip_bit_of_row(data, 7, (300).to_bytes(4, "big"), before_value=before_value)
    store = open_store(data)
    assert code in [found for _, _, found, _ in found_in(list(store.scan()))]
    store.close()


def test_a_part_of_a_file_that_cannot_be_read_at_all_is_said_and_the_rest_is_read(data: Path) -> None:
    damage.destroy_block_of_row(data, 7, (300).to_bytes(4, "big"))
    store = open_store(data)
    rows = list(store.scan())
    codes = [code for _, _, code, _ in found_in(rows)]
    assert codes == ["node.storage.unreadable"]
    sound = {(row.table, row.key) for row in rows if row.error is None}
    assert 3 * ROWS - 100 < len(sound) < 3 * ROWS
    assert (7, (300).to_bytes(4, "big")) not in sound
    assert (200, (599).to_bytes(4, "big")) in sound
    store.close()


def test_the_first_and_the_last_block_of_a_store_may_be_unreadable(data: Path) -> None:
    damage.destroy_block_of_row(data, 2, (0).to_bytes(4, "big"))
    damage.destroy_block_of_row(data, 200, (599).to_bytes(4, "big"))
    store = open_store(data)
    rows = list(store.scan())
    assert "node.storage.unreadable" in [code for _, _, code, _ in found_in(rows)]
    assert len(rows) > 3 * ROWS - 200
    store.close()


def test_a_directory_whose_owner_row_lies_in_a_damaged_part_opens_and_asks_for_a_repair(tmp_path: Path) -> None:
    store = open_store(tmp_path / "data")
    store.write({(64, b"neighbour"): value_of(1)})
    store.close()
    damage.flip_bit_of_row(tmp_path / "data", 64, b"neighbour")
    store = open_store(tmp_path / "data")
    assert store.needs_repair
    assert "table 64 (STORE) cannot be read" in (tmp_path / "data" / REPAIR_FILE).read_text()
    store.repair_done()
    assert not store.needs_repair
    store.close()


def fill(store: Store) -> Database:
    new = store.new_database()
    new.write({(7, b"new"): b"new"})
    return new


def test_a_switch_replaces_everything_and_lasts(data: Path) -> None:
    store = open_store(data)
    incarnation, high_water = store.incarnation, (data / HIGH_WATER_FILE).read_bytes()
    store.switch(fill(store))
    store.close()
    # Its number is above the last acknowledged one, or the opening would miss writes.
    store = open_store(data)
    for _ in range(2):
        assert store.get(7, b"new") == b"new"
        assert store.get(7, (1).to_bytes(4, "big")) is None
        assert store.incarnation == incarnation
        store.write({(7, b"later"): b"later"})
        store.close()
        assert (data / HIGH_WATER_FILE).read_bytes() > high_water
        gc.collect()
        assert sorted(path.name for path in data.glob("db*")) == ["db-1"]
        store = open_store(data)
    store.switch(fill(store))
    assert (data / DATABASE_FILE).read_text() == "db-2\n"
    store.close()


def test_a_reader_of_the_old_database_reads_on_to_its_end(data: Path) -> None:
    store = open_store(data)
    snapshot = store.snapshot()
    rows = store.iterate(7)
    next(rows)
    store.switch(fill(store))
    assert snapshot.get(7, (5).to_bytes(4, "big")) == value_of(5)
    assert len(list(rows)) == ROWS - 1
    assert (data / "db").exists()
    snapshot.close()
    del snapshot, rows
    gc.collect()
    assert not (data / "db").exists()
    store.close()


def test_a_database_that_was_never_switched_to_is_removed_at_the_next_opening(data: Path) -> None:
    store = open_store(data)
    fill(store).close()
    again = fill(store)
    again.close()
    store.close()
    assert (data / "db-1").exists()
    store = open_store(data)
    assert not (data / "db-1").exists()
    assert store.get(7, (5).to_bytes(4, "big")) == value_of(5)
    store.close()


@pytest.mark.parametrize("content", ["", "db-0\n", "db-7\n", "../db\n", "db-1\x00", "ä"])
def test_a_pointer_that_we_did_not_write_is_refused(data: Path, content: str) -> None:
    (data / DATABASE_FILE).write_text(content)
    with pytest.raises(StorageError) as caught:
        open_store(data)
    assert caught.value.code == "node.storage.damaged"
    assert (data / "db").is_dir(), "nothing is removed on the word of a damaged pointer"


_SWITCH = """
import sys
from pathlib import Path
from node.storage.leveldb import Store
from wire.keys import KeyId
store = Store.open(Path(sys.argv[1]), chain_id="test-chain", node_key_id=KeyId(bytes(range(32))))
new = store.new_database()
new.write({(7, b"new"): b"new"})
store.switch(new)
store.close()
"""
_CALLS = "mkdir,rename,unlink,rmdir,fsync,fdatasync,pwrite64,ftruncate"
_STEPS_MAX = 80


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_process_killed_at_any_step_of_a_switch_leaves_one_whole_database(tmp_path: Path) -> None:
    """The process is killed by strace at its n-th system call that changes files, for every n until it is through."""
    outcomes = []
    for number in range(1, _STEPS_MAX):
        data = tmp_path / f"data{number}"
        store = open_store(data)
        store.write({(7, b"old"): b"old"})
        store.close()
        done = subprocess.run(
            [
                *("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={_CALLS}"),
                *("-e", f"inject={_CALLS}:signal=KILL:when={number}"),
                *(sys.executable, "-B", "-c", _SWITCH, str(data)),
            ],
            capture_output=True,
            timeout=120,
            check=False,
        )
        store = open_store(data)
        rows = store.get(7, b"old"), store.get(7, b"new")
        assert rows in {(b"old", None), (None, b"new")}
        outcomes.append(rows)
        store.write({(7, b"later"): b"later"})
        store.close()
        open_store(data).close()
        shutil.rmtree(data)
        if done.returncode == 0:
            break
    assert number > 8, "the switch has more steps than that"
    assert outcomes == sorted(outcomes, key=lambda rows: rows[0] is None), (
        "before some step the old one, after it the new one"
    )
    assert len(set(outcomes)) == 2


def test_what_a_node_keeps_in_reserve_holds_a_compaction_and_both_write_buffers() -> None:
    """With files of 32 MiB a node without room ended by itself: one compaction wrote 320 MB (30 minutes of faults, seed 20261122)."""
    assert COMPACTION_FILES_MAX * TABLE_FILE_BYTES + 2 * WRITE_BUFFER_BYTES <= SPACE_RESERVE_BYTES
