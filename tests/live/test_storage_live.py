"""Damaged, full, copied and failing disks under real processes: the truth is told, and what can be repaired is."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger import bodies
from ledger.keyspace import Table, height_key, identity_key
from node.storage.leveldb import SPACE_RESERVE_BYTES
from node.storage.tables import TABLE_HARD_STATE, TABLE_LOG_TIP
from tests.testkit import damage
from tests.testkit.cluster import Cluster, NodeProcess, running_cluster

pytestmark = [pytest.mark.live, pytest.mark.slow]

EXIT_REJECTED = 1
EXIT_CORRUPTION = 4


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings: dict[str, object] = {"scrub_rows_per_s": 100_000}
    with running_cluster(tmp_path_factory.mktemp("net"), validators=3, settings=settings) as cluster:
        cluster.register("web1@acme", "host")
        for _ in range(5):
            submit(cluster)
        yield cluster


def submit(cluster: Cluster, *, to: NodeProcess | None = None) -> str:
    # Close to a block of LevelDB's files each, so that damage to one leaves the others readable.
    report = bodies.HostReport("inventory", "app", os.urandom(3500))
    (result,) = cluster.submit([cluster.sign(report, "web1@acme")], to=to)
    assert result["status"] == "committed", result
    return str(result["tx_id"])


def follower(cluster: Cluster) -> NodeProcess:
    leader = cluster.leader()
    return next(node for node in cluster.validators if node is not leader)


def run_to_its_end(node: NodeProcess, timeout_s: float = 60) -> subprocess.CompletedProcess[bytes]:
    """Start the node and return how it ended by itself."""
    return subprocess.run(
        [sys.executable, "-m", "node.process", str(node.home)],
        capture_output=True,
        timeout=timeout_s,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )


def verify_store(node: NodeProcess) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "node.cli", "node", "verify-store", "--home", str(node.home)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode


@pytest.mark.parametrize(
    ("table", "key"),
    [
        (Table.STATE, identity_key("web1@acme")),
        (Table.META, b"tip"),
        (Table.BLOCK, height_key(3)),
        (Table.HEADER, height_key(2)),
    ],
)
def test_a_damaged_row_is_repaired_before_the_node_takes_part(cluster: Cluster, table: int, key: bytes) -> None:
    node = follower(cluster)
    assert node.stop() == 0
    damage.damage_row(node.home / "data", table, key)
    assert verify_store(node) == EXIT_CORRUPTION
    # Noticed by a read, or by the scrubbing: then the node ends, and its next start begins with the repair.
    node.start()
    cluster.wait_for(lambda: node.is_up() or _has_ended(node), "the node is up or has ended")
    if not _is_sound_within(cluster, node, 20.0):
        assert node.process is not None
        assert node.process.wait(30) == EXIT_CORRUPTION
        assert f"row {key.hex()} of table {int(table)}" in node.log()
        cluster.start([node])
    cluster.wait_equal()
    assert node.stop() == 0
    assert verify_store(node) == 0
    cluster.start([node])
    submit(cluster, to=node)
    cluster.wait_equal()


def _has_ended(node: NodeProcess) -> bool:
    return node.process is not None and node.process.poll() is not None


def _is_sound_within(cluster: Cluster, node: NodeProcess, seconds: float) -> bool:
    """Return whether the node has read all its rows and none is damaged any more; False when it ends."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not _has_ended(node):
        try:
            storage = node.status(cluster.client)["storage"]
        except (httpx.HTTPError, FileNotFoundError, ValueError):
            continue
        if storage["scrub_passes"] >= 1 and storage["rows_waiting"] == 0:
            return True
        time.sleep(0.05)
    return False


def test_a_row_that_is_damaged_while_the_node_runs_comes_back_from_a_peer(cluster: Cluster) -> None:
    """The bit flips in the file beneath the running process."""
    node = follower(cluster)
    assert node.stop() == 0
    damage.compact(node.home / "data")
    cluster.start([node])
    cluster.wait_equal()
    database = damage.database_of(node.home / "data")
    raw = _raw_block(cluster, 4)
    files = [file for file in database.glob("*.ldb") if raw in file.read_bytes()]
    assert files
    for file in files:
        content = file.read_bytes()
        with file.open("r+b") as stream:
            stream.seek(content.index(raw) + len(raw) // 2)
            stream.write(bytes((content[content.index(raw) + len(raw) // 2] ^ 1,)))

    def repaired() -> bool:
        storage = node.status(cluster.client)["storage"]
        return bool(storage["rows_repaired"] >= 1 and storage["rows_waiting"] == 0)

    # LevelDB itself may come across the file first, when it tidies up: then it takes no more writes, and the node ends.
    cluster.wait_for(lambda: _has_ended(node) or repaired(), "the block was repaired or the node has ended")
    if not _has_ended(node):
        assert node.status(cluster.client)["storage"]["repair_at_start"]
        assert _raw_block(cluster, 4, node) == raw
        node.stop()
    assert node.process is not None
    assert node.process.returncode == 0 or "node.storage.damaged" in node.log()
    cluster.start([node])
    assert "the store was made anew" in node.log()
    assert not node.status(cluster.client)["storage"]["repair_at_start"]
    cluster.wait_equal()


def _raw_block(cluster: Cluster, height: int, node: NodeProcess | None = None) -> bytes:
    response = cluster.client.get(f"{(node or cluster.validators[0]).rpc}/v1/blocks/{height}/raw")
    response.raise_for_status()
    document: Any = response.json()
    return base64.b64decode((document[0] if isinstance(document, list) else document)["block"])


@pytest.mark.parametrize(("table", "name"), [(TABLE_HARD_STATE, "HARD_STATE"), (TABLE_LOG_TIP, "LOG_TIP")])
def test_a_validator_that_lost_what_it_promised_does_not_vote(cluster: Cluster, table: int, name: str) -> None:
    node = follower(cluster)
    assert node.stop() == 0
    kept = node.home / "data.kept"
    shutil.copytree(node.home / "data", kept)
    damage.damage_row(node.home / "data", table, b"")
    for _ in range(2):
        done = run_to_its_end(node)
        assert done.returncode == EXIT_CORRUPTION
        assert f"of table {table} ({name})".encode() in done.stderr
        assert not (node.home / "run.json").exists()
    shutil.rmtree(node.home / "data")
    kept.rename(node.home / "data")
    cluster.start([node])
    cluster.wait_equal()


# Writes that fail, disks that are full, directories that belong to somebody else


@contextmanager
def injected(node: NodeProcess, *expressions: str) -> Iterator[None]:
    """Let system calls of the running node fail during the body, as `strace -e` describes it."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    assert node.process is not None
    command = ["strace", "-f", "-qq", "-p", str(node.process.pid), "-o", str(node.home / "strace.log")]
    for expression in expressions:
        command += ["-e", expression]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 10
        while _is_untraced(node.process.pid):
            if tracer.poll() is not None:
                assert tracer.stderr is not None
                pytest.skip(f"strace may not attach here: {tracer.stderr.read().decode(errors='replace')[:200]}")
            assert time.monotonic() < deadline, "strace did not attach"
            time.sleep(0.01)
        yield
    finally:
        tracer.terminate()
        tracer.wait(10)
        if tracer.stderr is not None:
            tracer.stderr.close()


def _is_untraced(pid: int) -> bool:
    try:
        return "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False


@pytest.mark.parametrize(
    ("call", "error", "reason"),
    [
        ("fsync,fdatasync", "EIO", "Input/output error"),
        ("fsync,fdatasync", "ENOSPC", "No space left on device"),
    ],
)
def test_a_failed_sync_ends_the_node_and_loses_nothing_that_was_acknowledged(
    cluster: Cluster, call: str, error: str, reason: str
) -> None:
    node = follower(cluster)
    others = [each for each in cluster.validators if each is not node]
    acknowledged = [submit(cluster, to=node)]
    with injected(node, f"trace={call}", f"inject={call}:error={error}"):
        acknowledged.append(submit(cluster, to=others[0]))
        assert node.process is not None
        assert node.process.wait(30) == EXIT_CORRUPTION
    assert "node.storage.write_failed" in node.log()
    assert reason in node.log()
    assert not (node.home / "run.json").exists()
    acknowledged.append(submit(cluster, to=others[0]))
    cluster.start([node])
    cluster.wait_equal()
    for tx_id in acknowledged:
        response = cluster.client.get(f"{node.rpc}/v1/transactions/{tx_id}")
        assert response.json()["status"] == "committed"


def test_a_full_disk_stops_admission_and_nothing_else_and_recovers_without_a_restart(
    tmp_path: Path,
) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small file system can only be mounted by root")
    disk = tmp_path / "disk"
    disk.mkdir()
    size = SPACE_RESERVE_BYTES + 48 * 1024 * 1024
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "patchwarden-test", str(disk)], check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        with running_cluster(disk, validators=1) as cluster:
            cluster.register("web1@acme", "host")
            (node,) = cluster.validators
            submit(cluster)
            height = node.status(cluster.client)["height"]
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(56 * 1024 * 1024))
            response = _post(cluster, node)
            assert response.status_code == 503
            assert "Retry-After" in response.headers
            assert response.json()["code"] == "node.disk_low"
            # Reads go on, and so does the chain: what is ordered already can still be written.
            assert node.status(cluster.client)["height"] >= height
            cluster.wait_for(lambda: node.status(cluster.client)["height"] > height, "idle blocks are made", node)
            ballast.unlink()
            assert _post(cluster, node).status_code == 200
            assert node.stop() == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _post(cluster: Cluster, node: NodeProcess) -> httpx.Response:
    transaction = cluster.sign(bodies.HostReport("inventory", "app", os.urandom(50)), "web1@acme")
    return cluster.client.post(
        f"{node.rpc}/v1/transactions",
        json={"transactions": [base64.b64encode(transaction.raw).decode()], "wait": "committed", "timeout_ms": 8000},
    )


def test_the_data_directory_of_another_node_is_refused(cluster: Cluster) -> None:
    node, other = cluster.validators[:2]
    assert node.stop() == 0
    assert other.stop() == 0
    kept = node.home / "data.kept"
    (node.home / "data").rename(kept)
    shutil.copytree(other.home / "data", node.home / "data")
    done = run_to_its_end(node)
    assert done.returncode == EXIT_REJECTED
    assert b"node.storage.foreign_directory" in done.stderr
    assert b"another node key" in done.stderr
    shutil.rmtree(node.home / "data")
    kept.rename(node.home / "data")
    cluster.start([node, other])
    cluster.wait_equal()


def test_an_older_database_in_the_directory_is_refused(cluster: Cluster) -> None:
    """Somebody restored `db` from a backup: what was acknowledged since is missing."""
    node = follower(cluster)
    assert node.stop() == 0
    database = damage.database_of(node.home / "data")
    old = node.home / "old"
    shutil.copytree(database, old)
    cluster.start([node])
    submit(cluster, to=node)
    cluster.wait_equal()
    assert node.stop() == 0
    assert damage.database_of(node.home / "data") == database
    now = node.home / "now"
    database.rename(now)
    old.rename(database)
    done = run_to_its_end(node)
    assert done.returncode == EXIT_CORRUPTION
    assert b"node.storage.lost_writes" in done.stderr
    shutil.rmtree(database)
    now.rename(database)
    cluster.start([node])
    cluster.wait_equal()
