"""Pruned history and snapshots under real processes: new hosts begin from a snapshot, slow ones converge, killed ones go on."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import httpx
import pytest

from ledger import bodies
from tests.testkit.cluster import Cluster, NodeProcess, running_cluster

pytestmark = [pytest.mark.live, pytest.mark.slow]

KEPT = 20
SEED = 20261122


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings: dict[str, object] = {"history": f"pruned:{KEPT}", "idle_block_interval_ms": 400}
    with running_cluster(tmp_path_factory.mktemp("net"), validators=3, settings=settings) as cluster:
        for name in ("web1@acme", "web2@acme", "web3@acme", "web4@acme"):
            cluster.register(name, "host")
        yield cluster


def advance(cluster: Cluster, blocks: int, among: Sequence[NodeProcess] | None = None) -> None:
    """Let the chain grow by at least so many blocks."""
    leader = cluster.leader(among)
    begin = leader.status(cluster.client)["height"]
    while (leader := cluster.leader(among)).status(cluster.client)["height"] < begin + blocks:
        report = bodies.HostReport("inventory", "app", os.urandom(100))
        (result,) = cluster.submit([cluster.sign(report, "web1@acme")], to=leader)
        assert result["status"] == "committed"


def history_from(cluster: Cluster, node: NodeProcess) -> int:
    return int(node.status(cluster.client)["storage"]["history_from"])


def wait_pruned(cluster: Cluster, beyond: int) -> None:
    for node in cluster.validators:
        cluster.wait_for(lambda node=node: history_from(cluster, node) > beyond, f"{node.name} has pruned", node)  # type: ignore[misc]


def configure(node: NodeProcess, **settings: object) -> None:
    with (node.home / "config.toml").open("a", encoding="utf-8") as file:
        file.writelines(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())


def test_validators_prune_and_say_so_when_asked_for_what_is_gone(cluster: Cluster) -> None:
    advance(cluster, 3 * KEPT)
    wait_pruned(cluster, 1)
    for node in cluster.validators:
        response = cluster.client.get(f"{node.rpc}/v1/blocks/1")
        assert response.status_code == 410
        assert response.json()["code"] == "ledger.history.pruned"
        storage = node.status(cluster.client)["storage"]
        assert storage["snapshot_height"] + 1 >= storage["history_from"]
        assert cluster.client.get(f"{node.rpc}/v1/blocks/{storage['history_from'] + 2}").status_code == 200
        assert cluster.client.get(f"{node.rpc}/v1/blocks/0").status_code == 200


def test_a_new_host_begins_from_a_snapshot(cluster: Cluster) -> None:
    host = cluster.add_host("web2@acme")
    configure(host, bootstrap="snapshot")
    cluster.start([host])
    assert "begins from a snapshot" in host.log()
    assert history_from(cluster, host) > 1
    cluster.wait_equal([*cluster.validators, host])
    advance(cluster, 3)
    cluster.wait_equal([*cluster.validators, host])
    assert host.stop() == 0
    cluster.start([host])
    cluster.wait_equal([*cluster.validators, host])


def test_a_new_host_that_wants_all_blocks_takes_a_snapshot_when_nobody_has_them(cluster: Cluster) -> None:
    host = cluster.add_host("web3@acme")
    cluster.start([host])
    cluster.wait_for(lambda: history_from(cluster, host) > 1, "the host has begun anew", host)
    assert "began anew from a snapshot" in host.log()
    cluster.wait_equal([*cluster.validators, host])


def test_a_host_slower_than_pruning_converges(cluster: Cluster) -> None:
    host = next(host for host in cluster.hosts if host.name == "web3")
    before = host.status(cluster.client)["height"]
    host.signal(signal.SIGSTOP)
    advance(cluster, 3 * KEPT)
    # It is no live follower any more after a while, and beyond twice the kept history nobody waits for it anyway.
    wait_pruned(cluster, before + 1)
    host.signal(signal.SIGCONT)
    cluster.wait_for(lambda: history_from(cluster, host) > before, "the host has begun anew", host, timeout_s=90)
    cluster.wait_equal([*cluster.validators, host])


def test_a_host_killed_at_any_moment_of_its_beginning_goes_on(cluster: Cluster) -> None:
    chance = random.Random(SEED)
    host = cluster.add_host("web4@acme")
    configure(host, bootstrap="snapshot")
    for _ in range(6):
        host.start()
        time.sleep(chance.uniform(0.3, 2.5))
        host.kill()
        if chance.random() < 0.3:
            shutil.rmtree(host.home / "data", ignore_errors=True)
    cluster.start([host])
    assert history_from(cluster, host) > 1
    cluster.wait_equal([*cluster.validators, host])


def test_a_pruned_validator_comes_back_and_agrees(cluster: Cluster) -> None:
    leader = cluster.leader()
    node = next(node for node in cluster.validators[1:] if node is not leader)
    first = history_from(cluster, node)
    node.kill()
    advance(cluster, 5)
    cluster.start([node])
    assert history_from(cluster, node) >= first
    cluster.wait_equal(cluster.validators)


@contextmanager
def load(cluster: Cluster, nodes: Sequence[NodeProcess]) -> Iterator[list[str]]:
    """Submit beside the body, one transaction after the other to one node after the other; give the ids of the committed ones."""
    committed: list[str] = []
    stopped = threading.Event()

    def submit() -> None:
        for number in itertools.count():
            if stopped.is_set():
                return
            report = bodies.HostReport("inventory", "app", os.urandom(100))
            # The validator that is stopped may have led: whoever asks tries again.
            with suppress(AssertionError, httpx.HTTPError):
                (result,) = cluster.submit([cluster.sign(report, "web1@acme")], to=nodes[number % len(nodes)])
                if result["status"] == "committed":
                    committed.append(result["tx_id"])

    thread = threading.Thread(target=submit)
    thread.start()
    try:
        yield committed
    finally:
        stopped.set()
        thread.join(60)
        assert not thread.is_alive()


def kill_while_it_comes_back(node: NodeProcess, chance: random.Random) -> None:
    """Start the node and kill it, again and again: while it opens, fetches, fills, installs, or follows already."""
    for _ in range(2):
        node.start()
        time.sleep(chance.uniform(0.8, 2.5))
        node.kill()


@pytest.mark.parametrize("stop", [signal.SIGSTOP, signal.SIGKILL])
def test_a_validator_behind_pruning_converges_under_load(cluster: Cluster, stop: signal.Signals) -> None:
    """It was stopped, or its process had ended; the others went on without it, and pruned what it needs next."""
    node = next(node for node in cluster.validators if node is not cluster.leader())
    others = [each for each in cluster.validators if each is not node]
    before = node.status(cluster.client)["height"]
    begins = node.log().count("began anew from a snapshot")
    with load(cluster, others) as committed:
        node.signal(stop)
        for other in others:
            cluster.wait_for(
                # Some blocks lie in the buffers of its connections: it needs none that come after those.
                lambda other=other: history_from(cluster, other) > before + KEPT,  # type: ignore[misc]
                f"{other.name} has pruned what {node.name} needs",
                other,
            )
        if stop == signal.SIGSTOP:
            node.signal(signal.SIGCONT)
        else:
            assert node.process is not None
            node.process.wait(10)
            kill_while_it_comes_back(node, random.Random(SEED))
            cluster.start([node])
        cluster.wait_for(lambda: history_from(cluster, node) > before + KEPT, f"{node.name} has begun anew", node)
        # It takes part again while the load goes on: what is committed now, it commits.
        count = len(committed)
        cluster.wait_for(lambda: len(committed) >= count + 20, "the load goes on")
        tip = cluster.leader(others).status(cluster.client)["height"]
        cluster.wait_for(lambda: node.status(cluster.client)["height"] >= tip, f"{node.name} keeps up", node)
    cluster.wait_equal(cluster.validators)
    assert node.log().count("began anew from a snapshot") > begins
    assert "a snapshot is needed" in node.log()
    for tx_id in committed[-20:]:
        response = cluster.client.get(f"{node.rpc}/v1/transactions/{tx_id}")
        # It knows every one of them; the blocks of some may be pruned by now.
        assert response.status_code == 200 or response.json()["code"] == "ledger.history.pruned"
    if stop == signal.SIGSTOP:
        # With one of the others gone, it is needed for every block: its acknowledgements count.
        others[0].kill()
        advance(cluster, 2, among=[node, others[1]])
        cluster.start([others[0]])
        cluster.wait_equal(cluster.validators)
