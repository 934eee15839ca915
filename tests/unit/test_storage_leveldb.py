"""The store of checked rows: damage is noticed, directories have one owner, a failed write is the last one."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import plyvel
import pytest

from node.errors import StorageError, StorageFailedError, StorageRefusedError
from node.storage.checks import open_row, row_key, seal_row
from node.storage.leveldb import HIGH_WATER_FILE, Store
from wire.keys import KeyId

CHAIN_ID = "test-chain"
KEY_ID = KeyId(bytes(range(32)))
OTHER_KEY_ID = KeyId(bytes(32))


def open_store(path: Path, **changes: object) -> Store:
    arguments: dict[str, object] = {"chain_id": CHAIN_ID, "node_key_id": KEY_ID, **changes}
    return Store.open(path, **arguments)  # type: ignore[arg-type]


def tamper(path: Path, database_key: bytes, stored: bytes) -> None:
    """Write raw bytes behind the store's back."""
    database = plyvel.DB(str(path / "db"))
    database.put(database_key, stored, sync=True)
    database.close()


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    store = open_store(tmp_path / "data")
    store.write({(7, b"a"): b"", (7, b""): b"x" * 100_000, (255, b"\xff" * 3): bytes(range(256))})
    store.write({(7, b"a"): b"new", (7, b"gone"): None})
    store.close()
    store = open_store(tmp_path / "data")
    assert store.get(7, b"a") == b"new"
    assert store.get(7, b"") == b"x" * 100_000
    assert store.get(255, b"\xff" * 3) == bytes(range(256))
    assert store.get(7, b"gone") is None
    store.close()


def test_a_deleted_row_is_gone(tmp_path: Path) -> None:
    store = open_store(tmp_path / "data")
    store.write({(7, b"a"): b"1", (7, b"b"): b"2"})
    store.write({(7, b"a"): None})
    assert store.get(7, b"a") is None
    assert list(store.iterate(7)) == [(b"b", b"2")]
    store.close()


def test_iteration_keeps_to_its_table_and_range(tmp_path: Path) -> None:
    store = open_store(tmp_path / "data")
    store.write({(table, bytes((key,))): bytes((table, key)) for table in (6, 7, 8) for key in (0, 1, 2, 255)})
    assert [key for key, _ in store.iterate(7)] == [b"\x00", b"\x01", b"\x02", b"\xff"]
    assert list(store.iterate(7, b"\x01", b"\xff")) == [(b"\x01", b"\x07\x01"), (b"\x02", b"\x07\x02")]
    assert [key for key, _ in store.iterate(7, b"\x01", b"\xff", reverse=True)] == [b"\x02", b"\x01"]
    assert [key for key, _ in store.iterate(7, reverse=True)] == [b"\xff", b"\x02", b"\x01", b"\x00"]
    assert list(store.iterate(9)) == []
    store.close()


def test_a_snapshot_does_not_see_later_writes(tmp_path: Path) -> None:
    store = open_store(tmp_path / "data")
    store.write({(7, b"a"): b"old"})
    with store.snapshot() as snapshot:
        store.write({(7, b"a"): b"new", (7, b"b"): b"new"})
        assert snapshot.get(7, b"a") == b"old"
        assert list(snapshot.iterate(7)) == [(b"a", b"old")]
    assert store.get(7, b"a") == b"new"
    store.close()


def test_damage_of_any_byte_of_a_row_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path / "data")
    store.write({(7, b"key"): b"the value", (7, b"kez"): b"another"})
    store.close()
    database_key = row_key(7, b"key")
    sealed = seal_row(database_key, b"the value")
    damaged = [
        sealed[:index] + bytes((sealed[index] ^ bit,)) + sealed[index + 1 :]
        for index in range(len(sealed))
        for bit in (1, 128)
    ]
    damaged += [sealed[:length] for length in range(len(sealed))]
    damaged += [
        sealed + b"\x00",
        seal_row(row_key(7, b"kez"), b"the value"),
        seal_row(row_key(8, b"key"), b"the value"),
    ]
    for stored in damaged:
        tamper(tmp_path / "data", database_key, stored)
        store = open_store(tmp_path / "data")
        for read in (lambda store=store: store.get(7, b"key"), lambda store=store: list(store.iterate(7))):
            with pytest.raises(StorageError) as caught:
                read()
            assert caught.value.code == "node.storage.checksum"
            assert dict(caught.value.details) == {"table": 7, "key": b"key".hex()}
        assert store.get(7, b"kez") == b"another"
        store.close()


def test_a_row_under_another_key_is_refused() -> None:
    sealed = seal_row(row_key(7, b"a"), b"value")
    assert open_row(row_key(7, b"a"), sealed) == b"value"
    with pytest.raises(StorageError):
        open_row(row_key(7, b"b"), sealed)


def test_damage_of_the_files_is_refused_or_harmless(tmp_path: Path) -> None:
    """Whatever single byte of LevelDB's files changes, no acknowledged row is missing or different without a word."""
    rows = {(7, bytes((number,))): bytes((number,)) * 40 for number in range(6)}
    store = open_store(tmp_path / "data")
    for row, value in rows.items():
        store.write({row: value})
    store.close()
    noticed: set[str] = set()
    for file in sorted(path for path in (tmp_path / "data" / "db").iterdir() if path.suffix in (".log", ".ldb")):
        original = file.read_bytes()
        for index in range(0, len(original), 7):
            copy = tmp_path / "copy"
            subprocess.run(["cp", "-r", str(tmp_path / "data"), str(copy)], check=True)
            (copy / "db" / file.name).write_bytes(
                original[:index] + bytes((original[index] ^ 0x55,)) + original[index + 1 :]
            )
            try:
                store = open_store(copy)
                try:
                    assert {row: store.get(*row) for row in rows} == rows
                finally:
                    store.close()
            except StorageError as error:
                noticed.add(error.code)
            subprocess.run(["rm", "-r", str(copy)], check=True)
    # The last: damage at the very end of LevelDB's log, which LevelDB itself takes for a write that was never finished.
    assert noticed == {"node.storage.damaged", "node.storage.lost_writes"}


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"chain_id": "another"}, "network"), ({"node_key_id": OTHER_KEY_ID}, "node key")],
)
def test_a_foreign_directory_is_refused(tmp_path: Path, changes: dict[str, object], what: str) -> None:
    open_store(tmp_path / "data").close()
    with pytest.raises(StorageRefusedError, match=f"another {what}") as caught:
        open_store(tmp_path / "data", **changes)
    assert caught.value.code == "node.storage.foreign_directory"
    open_store(tmp_path / "data").close()


def test_a_database_without_an_owner_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    tamper_path = tmp_path / "data"
    database = plyvel.DB(str(tamper_path / "db"), create_if_missing=True)
    database.put(b"\x07key", b"value")
    database.close()
    with pytest.raises(StorageError) as caught:
        open_store(tmp_path / "data")
    assert caught.value.code == "node.storage.damaged"


def test_a_directory_in_use_is_refused_and_says_by_whom(tmp_path: Path) -> None:
    store = open_store(tmp_path / "data")
    with pytest.raises(StorageRefusedError, match=str(os.getpid())) as caught:
        open_store(tmp_path / "data")
    assert caught.value.code == "node.storage.in_use"
    store.write({(7, b"a"): b"still ours"})
    store.close()
    open_store(tmp_path / "data").close()


def test_a_wiped_directory_is_refused_by_the_incarnation_beside_it(tmp_path: Path) -> None:
    remembers = {"incarnation_file": tmp_path / "incarnation"}
    store = open_store(tmp_path / "data", **remembers)
    incarnation = store.incarnation
    store.close()
    assert (tmp_path / "incarnation").read_text() == incarnation.hex() + "\n"
    store = open_store(tmp_path / "data", **remembers)
    assert store.incarnation == incarnation
    store.close()
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(StorageRefusedError) as caught:
        open_store(tmp_path / "data", **remembers)
    assert caught.value.code == "node.storage.wiped"
    open_store(tmp_path / "other").close()
    with pytest.raises(StorageRefusedError, match="incarnation") as caught:
        open_store(tmp_path / "other", **remembers)
    assert caught.value.code == "node.storage.foreign_directory"


@pytest.mark.parametrize("content", ["", "abc", "zz" * 16, "00" * 15])
def test_a_damaged_incarnation_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "incarnation").write_text(content)
    with pytest.raises(StorageError) as caught:
        open_store(tmp_path / "data", incarnation_file=tmp_path / "incarnation")
    assert caught.value.code == "node.storage.damaged"


def test_a_database_older_than_what_was_acknowledged_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path / "data")
    store.write({(7, b"a"): b"1"})
    store.close()
    subprocess.run(["cp", "-r", str(tmp_path / "data" / "db"), str(tmp_path / "old")], check=True)
    store = open_store(tmp_path / "data")
    store.write({(7, b"a"): b"2"})
    store.write({(7, b"a"): b"3"})
    store.close()
    subprocess.run(["rm", "-r", str(tmp_path / "data" / "db")], check=True)
    (tmp_path / "old").rename(tmp_path / "data" / "db")
    with pytest.raises(StorageError, match="last 2 acknowledged writes") as caught:
        open_store(tmp_path / "data")
    assert caught.value.code == "node.storage.lost_writes"


def test_a_damaged_high_water_file_is_refused_and_an_empty_one_is_not(tmp_path: Path) -> None:
    store = open_store(tmp_path / "data")
    store.write({(7, b"a"): b"1"})
    store.close()
    file = tmp_path / "data" / HIGH_WATER_FILE
    original = file.read_bytes()
    for index in range(len(original)):
        file.write_bytes(original[:index] + bytes((original[index] ^ 1,)) + original[index + 1 :])
        with pytest.raises(StorageError) as caught:
            open_store(tmp_path / "data")
        assert caught.value.code == "node.storage.damaged"
    file.write_bytes(b"")
    open_store(tmp_path / "data").close()


_WRITE_UNTIL_IT_FAILS = """
import resource, sys
from pathlib import Path
from node.errors import StorageFailedError
from node.storage.leveldb import Store
store = Store.open(Path(sys.argv[1]), chain_id="test-chain", node_key_id=bytes(range(32)))
limit = 200_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
number = 0
try:
    while True:
        store.write({(7, b"last"): str(number + 1).encode(), (7, number.to_bytes(4, "big")): b"x" * 5_000})
        number += 1
except StorageFailedError as error:
    print(number, error.code)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
try:
    store.write({(7, b"later"): b"x"})
except StorageFailedError as error:
    print(error.code)
print(store.get(7, b"last").decode())
"""


def test_a_failed_write_is_the_last_one_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """The file size limit of a child process stands in for a full disk; lifting it does not revive the store."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    child = subprocess.run(
        [sys.executable, "-c", _WRITE_UNTIL_IT_FAILS, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    first, second, third = child.stdout.splitlines()
    acknowledged = int(first.split()[0])
    assert first.split()[1] == second == "node.storage.write_failed"
    assert int(third) == acknowledged > 10
    store = open_store(tmp_path / "data")
    assert int(store.get(7, b"last") or b"0") >= acknowledged
    assert store.get(7, (acknowledged - 1).to_bytes(4, "big")) == b"x" * 5_000
    assert store.get(7, b"later") is None
    store.close()


def test_the_error_of_a_failed_write_belongs_to_the_family_that_stops_the_node() -> None:
    from wire.errors import CorruptionError

    assert issubclass(StorageFailedError, CorruptionError)
    assert issubclass(StorageError, CorruptionError)
