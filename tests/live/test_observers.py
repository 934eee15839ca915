"""Observers as real processes: they serve each other, survive liars, killed parents and their own death."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Sequence

import pytest

from ledger import bodies
from node.distribution.chunks import CHUNK_BYTES
from node.sync_slots import rank
from provenance.diff_model import FileState
from tests.testkit import patches
from tests.testkit.cluster import Cluster, NodeProcess, running_cluster
from tests.testkit.ledger import key_of, node_key
from wire.keys import KeyId

pytestmark = [pytest.mark.live, pytest.mark.slow]

OBSERVERS_MAX = 2
LIES = ("garbage", "boasts", "slow")
BLOCKS = 60
"""How many more there are when the liars come."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # Validators give patch files to nobody; hosts that are to do so say so themselves.
    settings: dict[str, object] = {
        "observers_max": OBSERVERS_MAX,
        "idle_block_interval_ms": 500,
        "patch_uploads_max": 0,
    }
    with running_cluster(tmp_path_factory.mktemp("net"), validators=2, settings=settings) as cluster:
        cluster.register("alice@acme", "developer")
        names = [f"web{number}@acme" for number in range(6)] + [f"{lie}@acme" for lie in LIES]
        names.append(victim_of([key_of(f"{lie}@acme").public_key.key_id for lie in LIES]))
        for name in names:
            cluster.register(name, "host")
        yield cluster


def victim_of(liars: Sequence[KeyId]) -> str:
    """Return a host that asks these liars before it asks a validator: each node has an order of its own."""
    validators = [node_key(index + 1).public_key.key_id for index in range(2)]
    for number in range(1000):
        name = f"victim{number}@acme"
        own = key_of(name).public_key.key_id
        if max(rank(own, liar) for liar in liars) < min(rank(own, validator) for validator in validators):
            return name
    raise AssertionError("chance has an end")


def configure(node: NodeProcess, **settings: object) -> None:
    path = node.home / "config.toml"
    lines = [line for line in path.read_text().splitlines() if line.partition(" ")[0] not in settings]
    path.write_text("\n".join([*lines, *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]) + "\n")


def advance(cluster: Cluster, blocks: int) -> None:
    leader = cluster.leader()
    for _ in range(blocks):
        report = bodies.HostReport("inventory", "app", os.urandom(100))
        (result,) = cluster.submit([cluster.sign(report, "web0@acme")], to=leader)
        assert result["status"] == "committed"


def sync(cluster: Cluster, host: NodeProcess) -> dict[str, object]:
    document: dict[str, object] = host.status(cluster.client)["sync"]
    return document


def fed(cluster: Cluster, node: NodeProcess) -> list[str]:
    return [entry["key_id"] for entry in node.status(cluster.client)["observers"]["fed"]]


def test_observers_beyond_the_limit_follow_other_observers(cluster: Cluster) -> None:
    hosts = [cluster.add_host(f"web{number}@acme") for number in range(6)]
    for host in hosts:
        configure(host, patch_uploads_max=6)
    cluster.start(hosts)
    cluster.wait_equal()
    own = {host.status(cluster.client)["node_key_id"] for host in hosts}
    for validator in cluster.validators:
        status = validator.status(cluster.client)
        assert len(status["observers"]["fed"]) <= OBSERVERS_MAX
        assert not any(entry["beyond_limit"] for entry in status["observers"]["fed"])
        metrics = cluster.client.get(f"{validator.rpc}/metrics").text
        assert f"patchwarden_observers {len(status['observers']['fed'])}.0" in metrics
    relays = [host for host in hosts if fed(cluster, host)]
    assert relays
    assert all(set(fed(cluster, host)) <= own for host in relays)
    # Two slots each, at two validators: four at most have one there, the others follow observers.
    deep = [host for host in hosts if host.status(cluster.client)["sync"]["depth"] > 1]
    assert deep
    advance(cluster, 3)
    cluster.wait_equal()


def patch_bytes(cluster: Cluster, node: NodeProcess, direction: str) -> int:
    text = cluster.client.get(f"{node.rpc}/metrics").text
    found = re.search(rf'^patchwarden_patch_bytes_total{{direction="{direction}"}} (\S+)$', text, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def test_hosts_give_each_other_a_patch_file_that_validators_refuse(cluster: Cluster) -> None:
    before = {"data.txt": FileState(0o100644, b"0\n")}
    after = {"data.txt": FileState(0o100644, b"".join(b"%032d\n" % number for number in range(20_000)))}
    data = patches.make_patch(before, after)
    assert len(data) > 2 * CHUNK_BYTES
    patch_id = cluster.publish(data)
    *givers, taker = cluster.hosts
    cluster.wait_equal()
    for host in givers:
        stored = cluster.client.put(f"{host.rpc}/v1/patches/{patch_id}", content=data)
        assert stored.status_code == 200, stored.text
    fetched = cluster.client.get(f"{taker.rpc}/v1/patches/{patch_id}/file")
    assert fetched.content == data
    assert patch_bytes(cluster, taker, "received") == len(data)
    assert [patch_bytes(cluster, node, "sent") for node in cluster.validators] == [0, 0]
    assert sum(patch_bytes(cluster, node, "sent") for node in givers) == len(data)
    assert taker.status(cluster.client)["patches"]["dropped"] == []


def test_when_a_parent_is_killed_its_children_find_another(cluster: Cluster) -> None:
    parent = max(cluster.hosts, key=lambda host: len(fed(cluster, host)))
    assert fed(cluster, parent)
    parent.kill()
    advance(cluster, 3)
    others = [node for node in cluster.nodes if node is not parent]
    cluster.wait_equal(others)
    cluster.start([parent])
    cluster.wait_equal()


def test_liars_are_dropped_reported_and_survived(cluster: Cluster) -> None:
    for host in cluster.hosts:
        host.stop()  # So that there is room, and little to run.
    advance(cluster, BLOCKS)
    liars = []
    for lie in LIES:
        liar = cluster.add_host(f"{lie}@acme")
        (liar.home / "lie").write_text(lie)
        configure(liar, observers_max=0)  # Nobody is told of it but by its operator.
        liar.module = "tests.testkit.lying_node"
        liars.append(liar)
    cluster.start(liars)
    cluster.wait_equal([*cluster.validators, *liars])
    victim = cluster.add_host(victim_of([key_of(f"{lie}@acme").public_key.key_id for lie in LIES]))
    addresses = [json.loads((liar.home / "run.json").read_text())["multiaddr"] for liar in liars]
    configure(victim, peers=addresses)
    cluster.start([victim])
    cluster.wait_equal([*cluster.validators, victim])
    expected = {addresses[0]: "ledger.block.malformed", addresses[1]: "node.sync.withheld"}

    def are_dropped() -> bool:
        dropped = victim.status(cluster.client)["sync"]["dropped"]
        return expected.items() <= {entry["address"]: entry["code"] for entry in dropped}.items()

    cluster.wait_for(are_dropped, "the liars are dropped", victim)
    metrics = cluster.client.get(f"{victim.rpc}/metrics").text
    for code in expected.values():
        assert f'patchwarden_sync_peers_dropped_total{{code="{code}"}} ' in metrics
        assert f'"code": "{code}"' in victim.log()
    # The one that never answers is still there, and nobody waits for it.
    advance(cluster, 3)
    cluster.wait_equal([*cluster.validators, victim])


def test_an_observer_killed_while_it_catches_up_goes_on_where_it_was(cluster: Cluster) -> None:
    for other in cluster.hosts:
        if other.is_up():
            other.stop()
    advance(cluster, 30)
    host = next(host for host in cluster.hosts if host.name == "web5")
    height = cluster.leader().status(cluster.client)["height"]
    reached = [0]
    for pause_s in (0.05, 0.3):
        host.start()
        cluster.wait_for(host.is_up, "the host is up", host)
        reached.append(host.status(cluster.client)["height"])
        time.sleep(pause_s)
        host.kill()
    cluster.start([host])
    assert reached == sorted(reached), "nothing that was committed is fetched again"
    cluster.wait_for(lambda: host.status(cluster.client)["height"] >= height, "the host has caught up", host)
    cluster.wait_equal([*cluster.validators, host])
