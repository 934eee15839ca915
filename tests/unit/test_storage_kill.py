"""A process that writes is killed at random moments: what it acknowledged is there, and no batch is there in part."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from node.storage.leveldb import Store
from wire.keys import KeyId

pytestmark = [pytest.mark.live, pytest.mark.slow]

ROWS_PER_BATCH = 40
ROUNDS = 8

_WRITER = f"""
import sys
from pathlib import Path
from node.storage.leveldb import Store
store = Store.open(Path(sys.argv[1]), chain_id="test-chain", node_key_id=bytes(32))
number = int.from_bytes(store.get(7, b"\\x00") or b"", "big")
out = sys.stdout.buffer
while True:
    number += 1
    value = number.to_bytes(8, "big")
    rows = {{(7, bytes((row,))): value for row in range({ROWS_PER_BATCH})}}
    rows[8, value] = value * 50
    store.write(rows)
    out.write(value)
    out.flush()
"""


def test_nothing_acknowledged_is_lost_and_no_batch_is_torn(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    acknowledged = 0
    for _ in range(ROUNDS):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path / "data")], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        first = writer.stdout.read(8)
        time.sleep(chance.uniform(0, 0.15))
        writer.kill()
        numbers = first + writer.stdout.read()
        writer.wait()
        writer.stdout.close()
        acknowledged = int.from_bytes(numbers[(len(numbers) // 8 - 1) * 8 :][:8], "big")
        store = Store.open(tmp_path / "data", chain_id="test-chain", node_key_id=KeyId(bytes(32)))
        values = {store.get(7, bytes((row,))) for row in range(ROWS_PER_BATCH)}
        assert len(values) == 1, f"a batch is there in part; seed {seed}"
        last = int.from_bytes(values.pop() or b"", "big")
        # The last batch may be durable although its acknowledgement was never read.
        assert acknowledged <= last <= acknowledged + 1, f"seed {seed}"
        assert [int.from_bytes(key, "big") for key, _ in store.iterate(8)] == list(range(1, last + 1)), f"seed {seed}"
        store.close()
    assert acknowledged > ROUNDS
