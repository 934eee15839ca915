"""Traps 19 and 20 of the store: state and applied height in one batch, and every record synced before anybody hears of it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from consensus.effects import HardState, Persist
from ledger.keyspace import Table, height_key
from node.errors import StorageFailedError
from node.storage.block_store import BlockStore
from tests.unit.test_storage_blocks import certificate, entry, executed, open_blocks


class Dying:
    """A store of which only so many writes reach the disk: then the process is gone."""

    def __init__(self, store: Any, writes: int) -> None:
        self._store = store
        self.left = writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, rows: Mapping[tuple[int, bytes], bytes | None]) -> None:
        if self.left == 0:
            raise StorageFailedError("node.storage.write_failed", "the process was killed here")
        self.left -= 1
        self._store.write(rows)


@pytest.mark.parametrize("writes", [0, 1])
def test_trap_19_state_and_applied_height_move_together_wherever_the_process_dies(tmp_path: Path, writes: int) -> None:
    # Protected by the one `self.store.write(rows)` in which LOG_TIP stands beside what the blocks changed (`rows.update`).
    blocks = open_blocks(tmp_path / "data")
    entries = tuple(entry(height) for height in range(1, 4))
    blocks.persist(Persist(HardState(1), None, entries))
    store = blocks.store
    blocks.store = Dying(store, writes)  # type: ignore[assignment]
    try:
        blocks.commit(tuple(executed(block) for block in entries), certificate(entries[2]))
    except StorageFailedError:
        assert writes == 0
    store.close()
    blocks = open_blocks(tmp_path / "data")
    applied = 3 if writes else 0
    assert blocks.committed_height == applied
    assert blocks.get(Table.META, b"tip") == height_key(applied)
    assert blocks.get(Table.STATE, b"x") == (entries[2].data if writes else None)
    assert blocks.find_certificate(10) == (certificate(entries[2]) if writes else None)
    blocks.store.close()


def test_trap_20_blocks_and_the_vote_of_one_persist_move_together(tmp_path: Path) -> None:
    # Protected by the one `self.store.write(rows)` with hard state, blocks and LOG_TIP.
    blocks = open_blocks(tmp_path / "data")
    store = blocks.store
    for writes in (0, 1):
        blocks.store = Dying(store, writes)  # type: ignore[assignment]
        try:
            blocks.persist(Persist(HardState(7), None, (entry(1, 7),)))
        except StorageFailedError:
            assert writes == 0
        again = BlockStore(store)
        assert (again.last_height, again.load().hard_state.term) == ((1, 7) if writes else (0, 0))
    store.close()


_WRITES = 12
_WRITER = f"""
import os, sys
from pathlib import Path
from node.storage.leveldb import Store
store = Store.open(Path(sys.argv[1]), chain_id="test-chain", node_key_id=bytes(32))
os.write(2, b"begin")
for number in range({_WRITES}):
    store.write({{(7, b"key"): b"%d" % number}})
    os.write(2, b"written")
"""


def test_trap_20_no_write_returns_before_its_sync(tmp_path: Path, repository_root: Path) -> None:
    # Protected by `sync=True` in `Database.write`. A kernel that is never told to sync loses what was acknowledged when the power fails,
    # and LevelDB may keep a later synced record and lose an earlier unsynced one; no test without a power failure would notice.
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    run = subprocess.run(
        [
            *("strace", "-f", "-qq", "-e", "trace=fsync,fdatasync,write", "-o", str(trace)),
            *(sys.executable, "-c", _WRITER, str(tmp_path / "data")),
        ],
        capture_output=True,
        text=True,
        cwd=repository_root,
        timeout=120,
        check=False,
    )
    if "ptrace" in run.stderr and run.returncode != 0:
        pytest.skip(f"strace may not trace here: {run.stderr[:200]}")
    assert run.returncode == 0, run.stderr
    # A call that another thread interrupts stands in two lines; its beginning is enough, since one thread's calls come one after the other.
    calls = re.findall(r'(fsync|fdatasync)\(\d+|write\(2, "(begin|written)"', trace.read_text(errors="replace"))
    story = [call or word for call, word in calls]
    story = story[story.index("begin") + 1 :]
    since = 0
    written = 0
    for each in story:
        if each == "written":
            assert since > 0, f"write {written} returned without a sync"
            since, written = 0, written + 1
        else:
            since += 1
    assert written == _WRITES
