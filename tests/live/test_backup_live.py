"""Backup and restore with real processes: under load, killed in the middle, and back in the network as another node."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ledger import bodies
from ledger.configuration import Validator
from ledger.validator_actions import AddLearner, RemoveValidator
from node.keystore import load_key, save_key
from node.storage.backup_files import BackupReader
from tests.live.test_membership import decide, members
from tests.testkit.cli import refused, run_json
from tests.testkit.cluster import REPOSITORY, Cluster, NodeProcess, free_port, running_cluster
from tests.testkit.ledger import administrator_of, key_of

pytestmark = [pytest.mark.live, pytest.mark.slow]

TRANSACTIONS_MIN = 1_500
"""Enough that a backup and a restore take a while."""


def patchwarden(*arguments: object) -> subprocess.Popen[bytes]:
    """Start a command of its own process."""
    words = [sys.executable, "-m", "node.cli", *(str(each) for each in arguments), "-o", "json"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY)


def is_whole_if_there(backup: Path) -> bool:
    """Return whether there is a backup, every byte of which must be right then."""
    if backup.exists():
        assert list(BackupReader(backup).check_sums())
    return backup.exists()


def wait_until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


class Load:
    """Registers one identity after the other, in batches, until it is told to stop."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.committed = 0

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            batch = []
            for _ in range(100):
                number += 1
                name = f"d{number}@acme"
                body = bodies.IdentityRegister(name, name, ("developer",), key_of(name).public_key.spki)
                batch.append(self._cluster.sign(body, administrator_of("acme")))
            results = self._cluster.submit(batch)
            self.committed += sum(each["status"] == "committed" for each in results)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("net"), validators=4) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def backup(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup that was made while the network went on committing."""
    place = tmp_path_factory.mktemp("backups") / "b"
    load = Load(cluster)
    with load.running():
        cluster.wait_for(lambda: load.committed >= TRANSACTIONS_MIN, "some transactions")
        node = cluster.validators[1]
        before = node.status(cluster.client)["height"]
        document = run_json("node", "backup", "--home", node.home, "--out", place)
        after = load.committed
        cluster.wait_for(lambda: load.committed > after, "the network goes on")
    assert document["height"] >= before
    assert document["with_key"] is False
    return place


def test_a_restored_node_starts_and_catches_up(cluster: Cluster, backup: Path, tmp_path: Path) -> None:
    home, port = tmp_path / "v5", free_port()
    document = run_json(
        "node", "restore", backup, "--home", home, "--genesis", cluster.validators[0].home / "genesis.json",
        "--set", "listen", f"/ip4/127.0.0.1/tcp/{port}", "--set", "name", "v5", "--jobs", 1,
    )  # fmt: skip
    assert document["is_key_new"]
    # A new key is a stranger: governance takes it for v1's place, which it would otherwise not even connect to.
    key = load_key(home / "node.key").public_key
    learner = Validator("v5", "beta", key.spki, f"/ip4/127.0.0.1/tcp/{port}")
    decide(cluster, AddLearner(learner), cluster.validators[0])
    node = NodeProcess(home, "v5")
    cluster.extra.append(node)
    node.start()
    cluster.wait_for(node.is_up, "the restored node is up", node)
    assert node.status(cluster.client)["height"] >= document["height"]
    cluster.wait_equal([*cluster.validators, node])
    cluster.wait_for(lambda: members(cluster, cluster.validators[0])["v5"] == "learner", "it is a learner")
    decide(cluster, RemoveValidator("v5"), cluster.validators[0])
    assert node.stop() == 0


def test_a_node_killed_in_a_backup_leaves_no_backup_and_comes_back(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.validators[2]
    process = patchwarden("node", "backup", "--home", node.home, "--out", tmp_path / "b")
    part = tmp_path / ".b.part"
    wait_until(lambda: part.exists() or process.poll() is not None, "the backup begins")
    node.kill()
    _, err = process.communicate(timeout=30)
    if not is_whole_if_there(tmp_path / "b"):
        assert process.returncode == 3, err.decode()
    cluster.start([node])
    assert run_json("node", "backup", "--home", node.home, "--out", tmp_path / "c")["files"] > 4
    assert is_whole_if_there(tmp_path / "c")


def test_whoever_stops_listening_ends_the_backup(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.validators[0]
    process = patchwarden("node", "backup", "--home", node.home, "--out", tmp_path / "b")
    part = tmp_path / ".b.part"
    wait_until(lambda: part.exists() or process.poll() is not None, "the backup begins")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not part.exists(), "the node cleans up")
    is_whole_if_there(tmp_path / "b")


def test_a_restore_that_is_killed_leaves_no_home(cluster: Cluster, backup: Path, tmp_path: Path) -> None:
    home = tmp_path / "v6"
    arguments = ("node", "restore", backup, "--home", home, "--genesis", cluster.validators[0].home / "genesis.json")
    process = patchwarden(*arguments, "--jobs", 1)
    begun = tmp_path / ".v6.restoring" / "data"
    wait_until(lambda: begun.exists() or process.poll() is not None, "the restore begins")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if home.exists():  # It was quicker than the kill: then the home is whole.
        assert (home / "config.toml").exists()
        home.rename(tmp_path / "before")
    assert run_json(*arguments)["home"] == str(home)
    assert not (tmp_path / ".v6.restoring").exists()


def test_a_network_goes_on_when_three_of_four_are_destroyed(cluster: Cluster, tmp_path: Path) -> None:
    """The last test of this network: it ends with one validator, and everybody who follows sees why."""
    survivor, *lost = cluster.validators
    genesis, light = tmp_path / "genesis.json", tmp_path / "light"
    genesis.write_bytes(cluster.genesis.document)
    cluster.register("web1@acme", "host")
    host = cluster.add_host("web1@acme")
    cluster.start([host])
    cluster.wait_equal()
    run_json("light", "sync", "--state", light, "--genesis", genesis, "--rpc", survivor.rpc)
    # Nobody but those who are lost may know more than the survivor.
    height = host.status(cluster.client)["height"]
    assert host.stop() == 0
    cluster.wait_for(lambda: survivor.status(cluster.client)["height"] >= height, "the survivor has it all", survivor)
    for node in lost:
        node.kill()
        shutil.rmtree(node.home)
    assert survivor.stop() == 0

    file = tmp_path / "recovery.json"
    proposed = run_json(
        "recovery", "propose", "--home", survivor.home, "--survivor", "v1", "--reason", "three disks", "--out", file
    )
    assert proposed["lost"] == ["v2", "v3", "v4"]
    understood = "--i-understand-that-data-may-be-lost"
    apply = ("recovery", "apply", file, "--home", survivor.home, understood)
    for name in ("ada@acme", "ben@beta"):
        assert refused(*apply) == "ledger.recovery.too_few"
        save_key(tmp_path / name, key_of(name))
        run_json("recovery", "sign", file, "--genesis", genesis, "--key", tmp_path / name, understood)
    applied = run_json(*apply)
    assert applied["height"] == proposed["height"] > height

    cluster.start([survivor])
    cluster.register("after@acme", "developer")
    cluster.start([host])
    cluster.wait_equal([survivor, host])
    for node in (survivor, host):
        status = node.status(cluster.client)
        assert status["height"] > applied["height"]
        assert status["recovered_at"] == [applied["height"]]
    assert "the network was recovered" in host.log()
    synced = run_json("light", "sync", "--state", light, "--rpc", survivor.rpc)
    (mark,) = synced["recoveries"]
    assert (mark["height"], mark["signers"], mark["reason"]) == (
        applied["height"],
        ["ada@acme", "ben@beta"],
        "three disks",
    )
    report = tmp_path / "report.html"
    audit = run_json("audit", "replay", "--rpc", survivor.rpc, "--genesis", genesis, "--jobs", 1, "--report", report)
    assert audit["valid"]
    assert audit["recoveries"] == [mark]
    assert "RECOVERED at height" in report.read_text()
