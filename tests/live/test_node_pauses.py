"""What stops a node's event loop although nothing is wrong: full garbage collections over what never goes away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.testkit.cluster import REPOSITORY, Cluster

pytestmark = pytest.mark.live

FULL_COLLECTION_MS_MAX = 25
"""A node whose imports are spared takes 2 ms; one whose imports are not, 90 ms."""

PROGRAM = """
import gc, sys, time
from pathlib import Path
import trio
from node.app import run_node
from node.config import Home, load_config

async def main(home):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_node, home, load_config(home))
        with trio.fail_after(60):
            while not home.run.exists():
                await trio.sleep(0.05)
        await trio.sleep(0.2)
        times = []
        for _ in range(5):
            begin = time.thread_time()
            gc.collect()
            times.append((time.thread_time() - begin) * 1000)
        print()
        print("full collection:", min(times))
        nursery.cancel_scope.cancel()

trio.run(main, Home(Path(sys.argv[1])))
"""


def test_full_collections_of_a_running_node_pass_over_what_its_start_has_left(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, validators=1, settings={"gateway": False})
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(cluster.validators[0].home)],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            timeout=120,
            check=False,
        )
    finally:
        cluster.stop()
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("full collection:"))
    assert float(line.rpartition(":")[2]) < FULL_COLLECTION_MS_MAX
