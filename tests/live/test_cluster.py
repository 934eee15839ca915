"""Four validators as real processes: they agree, survive the leader's death, and lose nothing that they acknowledged."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from ledger import bodies
from ledger.block import Block, build_raw_block, decode_block_untrusted
from ledger.bundle import BundleEncoder
from ledger.checkpoint import Checkpoint, SplitView, verify_split_view
from ledger.configuration import Configuration
from ledger.configuration_history import ConfigurationProof
from ledger.trust import TrustedHead
from node.local.client import LocalClient
from tests.testkit.cli import refused, run_json
from tests.testkit.cluster import Cluster, NodeProcess, running_cluster
from tests.testkit.ledger import make_certificate, node_key
from wire.certificate import CommitCertificate, encode_commit_certificate

pytestmark = pytest.mark.live

GIVE_UP_S = 60
"""How long a client tries one submission again before that counts as lost."""
RETRY_S = 0.02
FAILOVER_S_MAX = 5.0
"""Usually 0.7 s (`make bench failover`, two at most are promised); a shared machine can stop all of us for seconds."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("net")) as cluster:
        cluster.register("web1@acme", "host")
        yield cluster


def _report(cluster: Cluster, payload: bytes) -> bodies.Body:
    return bodies.HostReport("inventory", "app", payload)


def test_every_node_takes_transactions_and_all_agree(cluster: Cluster) -> None:
    for node in cluster.validators:
        (result,) = cluster.submit([cluster.sign(_report(cluster, os.urandom(300)), "web1@acme")], to=node)
        assert result["status"] == "committed"
    assert cluster.wait_equal()["height"] >= 5


def test_submitting_again_gives_the_first_receipt_from_any_node(cluster: Cluster) -> None:
    transaction = cluster.sign(_report(cluster, b"once"), "web1@acme")
    first = cluster.submit([transaction])
    cluster.wait_equal()
    for node in cluster.validators:
        assert cluster.submit([transaction], to=node) == first


def test_a_host_that_saw_another_history_puts_it_on_record(cluster: Cluster) -> None:
    """Three of four validators' keys have signed a second block of height 2: a host keeps that checkpoint and meets this chain."""
    host = cluster.add_host("web1@acme")
    rival = _rival_checkpoint(cluster, 2)
    (host.home / "checkpoints").mkdir()
    (host.home / "checkpoints" / "highest.checkpoint").write_bytes(rival.to_text())
    cluster.start([host])
    cluster.wait_for(lambda: host.status(cluster.client)["split_views"] == 1, "the host finds the split view", host)
    assert _metric(cluster, host, "split_views") == 1
    (path,) = (host.home / "checkpoints").glob("split-view-2-*.json")
    evidence = SplitView.from_json_untrusted(json.loads(path.read_bytes()))
    assert verify_split_view(evidence, TrustedHead.founding(cluster.genesis)) == 2

    def recorded() -> bool:
        history = cluster.client.get(f"{cluster.validators[0].rpc}/v1/history/identity/web1@acme").json()
        return any(each["kind"] == "evidence.submit" for each in history)

    cluster.wait_for(recorded, "the evidence is on the ledger", host)
    for node in cluster.validators:
        # They compare with each other over the real network, and find nothing.
        cluster.wait_for(lambda node=node: _metric(cluster, node, "checkpoints_compared") > 0, "they compare", node)  # type: ignore[misc]
        assert node.status(cluster.client)["split_views"] == 0
        assert "peer's checkpoint does not hold" not in node.log()
    _check_stopped_by_the_split_view(cluster, host)
    _check_stopped_by_a_bundle(cluster, host)
    host.stop()
    cluster.hosts.remove(host)


def _check_stopped_by_the_split_view(cluster: Cluster, host: NodeProcess) -> None:
    """Nothing is applied, also after a restart, until the host's operator settles it."""
    tree = host.home.parent / "guarded"
    tree.mkdir()
    at_home = ("--home", host.home)
    run_json("agent", "target", "add", "app", tree, "--component", "frames", *at_home)
    assert run_json("agent", "target", "mode", "app", "in-place", *at_home) == {"target": "app", "mode": "in-place"}
    assert run_json("agent", "target", "show", "app", *at_home)["mode"] == "in-place"
    patch = tree.with_name("any.patch")
    patch.write_bytes(b"whatever: it is not read")
    for start in (False, True):
        if start:
            host.stop()
            cluster.start([host])
        outcome = run_json("agent", "apply", patch, "--target", "app", *at_home, code=3)
        assert (outcome["code"], outcome["reason"]) == ("ERROR_STALE_REPLICA", "agent.replica.split_view")
        assert outcome["tree_before"] == outcome["tree_after"]
    (found,) = run_json("agent", "split-view", "list", *at_home, code=1)
    assert (found["height"], found["found_here"], found["on_ledger"], found["settled"]) == (2, True, True, None)
    assert refused("agent", "split-view", "settle", 3, "--reason", "no", *at_home) == "agent.split_view.unknown"
    settled = run_json("agent", "split-view", "settle", 2, "--reason", "v1 to v3 were replaced", *at_home)
    assert settled["settled"]["reason"] == "v1 to v3 were replaced"
    assert run_json("agent", "split-view", "list", *at_home) == [settled]
    assert run_json("agent", "status", *at_home)["split_views_open"] == []
    outcome = run_json("agent", "apply", patch, "--target", "app", *at_home, code=1)
    assert outcome["reason"] == "provenance.file.start"


def _check_stopped_by_a_bundle(cluster: Cluster, host: NodeProcess) -> None:
    """Somebody carries a second certified block of height 3 to the host: it is evidence as well, and goes on the ledger."""
    forged, certificate = _rival_block(cluster, 3)
    encoder = BundleEncoder()
    bundle = host.home.parent / "another-history.bundle"
    pieces = (
        encoder.begin(cluster.genesis.chain_id, cluster.genesis.genesis_hash, 3),
        encoder.block(forged.raw, encode_commit_certificate(certificate)),
        encoder.end(),
    )
    bundle.write_bytes(b"".join(pieces))
    assert refused("agent", "import-bundle", bundle, "--home", host.home) == "node.bundle.split_view"
    cluster.wait_for(
        lambda: (
            [each["on_ledger"] for each in run_json("agent", "split-view", "list", "--home", host.home, code=1)]
            == [True] * 2
        ),
        "the evidence from the bundle is on the ledger",
        host,
    )
    assert run_json("agent", "status", "--home", host.home)["split_views_open"] == [3]


def _metric(cluster: Cluster, node: NodeProcess, name: str) -> float:
    text = cluster.client.get(f"{node.rpc}/metrics").text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"patchwarden_{name} "))


def _rival_checkpoint(cluster: Cluster, height: int) -> Checkpoint:
    forged, certificate = _rival_block(cluster, height)
    return Checkpoint(forged.header, certificate, ConfigurationProof((), Configuration(cluster.genesis.validators)))


def _rival_block(cluster: Cluster, height: int) -> tuple[Block, CommitCertificate]:
    """Return another block of this height that three of the four validators' keys have signed."""
    (answer,) = cluster.client.get(f"{cluster.validators[0].rpc}/v1/blocks/{height}/raw").json()
    block = decode_block_untrusted(base64.b64decode(answer["block"]))
    header = replace(block.header, time_ms=block.header.time_ms + 1)
    forged = build_raw_block(header, block.transactions, block.proposer_signature, block.election)
    return forged, make_certificate(cluster.genesis.chain_id, [node_key(index) for index in (1, 2, 3)], forged)


class Submissions(threading.Thread):
    """Submits one transaction after the other to one node, as a client that retries; keeps what was acknowledged."""

    def __init__(self, cluster: Cluster, nodes: list[NodeProcess]) -> None:
        super().__init__(daemon=True)
        self.cluster = cluster
        self.nodes = nodes
        self.acknowledged: list[tuple[str, float]] = []
        self.ended = threading.Event()
        self.given_up: list[str] = []

    def run(self) -> None:
        with httpx.Client(timeout=30) as client:
            self._submit_for_ever(client)

    def _submit_for_ever(self, client: httpx.Client) -> None:
        number = 0
        while not self.ended.is_set():
            number += 1
            transaction = self.cluster.sign(_report(self.cluster, number.to_bytes(8, "big")), "web1@acme")
            give_up_at = time.monotonic() + GIVE_UP_S
            answer = ""
            for attempt in itertools.count():
                if time.monotonic() > give_up_at:
                    self.given_up.append(f"{transaction.tx_id.hex()}: {answer}")
                    break
                try:
                    response = client.post(
                        f"{self.nodes[attempt % len(self.nodes)].rpc}/v1/transactions",
                        json={"transactions": [_base64(transaction.raw)], "timeout_ms": 5000},
                    )
                    answer = response.text
                    result = response.json()["results"][0] if response.status_code == 200 else {"status": "refused"}
                except (httpx.HTTPError, OSError, json.JSONDecodeError) as error:
                    answer, result = repr(error), {"status": "unanswered"}
                if result["status"] == "committed":
                    self.acknowledged.append((result["tx_id"], time.monotonic()))
                    break
                # A client that asks again at once would use up its patience before a node has drawn breath.
                time.sleep(RETRY_S)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_killed_leader_is_replaced_and_nothing_acknowledged_is_lost(cluster: Cluster) -> None:
    leader = cluster.leader()
    others = [node for node in cluster.validators if node is not leader]
    clients = [Submissions(cluster, others) for _ in range(4)]
    for client in clients:
        client.start()
    cluster.wait_for(lambda: min(len(client.acknowledged) for client in clients) >= 5, "load runs")

    killed_at = time.monotonic()
    leader.kill()
    successor = cluster.leader(others)
    took_s = time.monotonic() - killed_at
    before = [len(client.acknowledged) for client in clients]
    cluster.wait_for(
        lambda: all(len(client.acknowledged) > count + 5 for client, count in zip(clients, before, strict=True)),
        "submissions go on",
    )
    for client in clients:
        client.ended.set()
    for client in clients:
        client.join(60)

    assert successor is not leader
    assert took_s <= FAILOVER_S_MAX
    cluster.start([leader])
    final = cluster.wait_equal()
    acknowledged = [tx_id for client in clients for tx_id, _ in client.acknowledged]
    assert len(set(acknowledged)) == len(acknowledged)
    for node in cluster.validators:
        for tx_id in acknowledged:
            response = cluster.client.get(f"{node.rpc}/v1/transactions/{tx_id}")
            assert response.json()["status"] == "committed", (node.name, tx_id)
    assert final["log_size"] >= len(acknowledged)


def test_paused_follower_costs_nothing_and_catches_up(cluster: Cluster) -> None:
    leader = cluster.leader()
    follower = next(node for node in cluster.validators if node is not leader)
    follower.signal(signal.SIGSTOP)
    try:
        for _ in range(5):
            (result,) = cluster.submit([cluster.sign(_report(cluster, os.urandom(100)), "web1@acme")], to=leader)
            assert result["status"] == "committed"
    finally:
        follower.signal(signal.SIGCONT)
    cluster.wait_equal()


def test_gateway_that_dies_is_started_again(cluster: Cluster) -> None:
    node = cluster.validators[0]
    pid = node.status(cluster.client)["pid"]
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    children = children or _children_of(pid)
    (gateway,) = [child for child in children if b"node.gateway" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(gateway, signal.SIGKILL)
    cluster.wait_for(lambda: node.status(cluster.client)["gateway_restarts"] >= 1, "the gateway is back", node)


def _children_of(pid: int) -> list[int]:
    children = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text()
            except OSError:
                continue
            if int(status.rpartition(")")[2].split()[1]) == pid:
                children.append(int(entry.name))
    return children


def test_node_ends_in_order_and_comes_back(cluster: Cluster) -> None:
    node = next(node for node in cluster.validators if node is not cluster.leader())
    assert node.stop() == 0
    assert not (node.home / "run.json").exists()
    assert not node.socket.exists()
    cluster.start([node])
    cluster.wait_equal()


def test_second_node_on_one_home_is_refused(cluster: Cluster) -> None:
    node = cluster.validators[1]
    second = NodeProcess(node.home, node.name)
    before = (node.home / "run.json").read_text()
    result = subprocess.run(
        [sys.executable, "-m", "node.process", str(second.home)], capture_output=True, timeout=30, check=False
    )
    assert result.returncode == 1
    assert b"node.storage.in_use" in result.stderr
    assert (node.home / "run.json").read_text() == before
    assert node.status(cluster.client)["name"] == node.name


def test_wiped_validator_does_not_come_back_as_itself(cluster: Cluster) -> None:
    node = next(node for node in cluster.validators if node is not cluster.leader())
    assert node.stop() == 0
    kept = node.home / "data.kept"
    (node.home / "data").rename(kept)
    done = subprocess.run(
        [sys.executable, "-m", "node.process", str(node.home)], capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert b"node.storage.wiped" in done.stderr
    shutil.rmtree(node.home / "data", ignore_errors=True)
    kept.rename(node.home / "data")
    cluster.start([node])
    cluster.wait_equal()


def test_linearizable_read_on_any_validator_sees_what_was_acknowledged(cluster: Cluster) -> None:
    for number in range(5):
        name = f"reader{number}@acme"
        cluster.register(name, "auditor")
        for node in cluster.validators:
            document = cluster.client.get(f"{node.rpc}/v1/identities/{name}").json()
            assert document["identity"] == name
            assert document["as_of"]["consistency"] == "linearizable"
    for node in cluster.validators:
        height = node.status(cluster.client)["height"]
        asked = cluster.client.get(f"{node.rpc}/v1/policy").json()["as_of"]
        assert asked["consistency"] == "linearizable"
        assert asked["height"] >= height
        local = cluster.client.get(f"{node.rpc}/v1/policy?consistency=local").json()["as_of"]
        assert local["consistency"] == "local"
        assert local["height"] >= height
        assert 0 <= local["replica_age_ms"] < 60_000


def test_isolated_validator_answers_no_linearizable_read(cluster: Cluster) -> None:
    lonely, *others = cluster.validators
    for node in others:
        node.signal(signal.SIGSTOP)
    try:
        response = cluster.client.get(f"{lonely.rpc}/v1/policy")
        assert response.status_code == 503
        assert response.json()["code"] in ("node.read.unconfirmed", "node.read.timeout")
        url = f"{lonely.rpc}/v1/policy?consistency=local"
        first, second = (cluster.client.get(url).json()["as_of"] for _ in range(2))
        assert first["height"] == second["height"] == lonely.status(cluster.client)["height"]
        assert first["replica_age_ms"] < second["replica_age_ms"] + 1  # nothing comes any more: what it has grows old
        assert second["replica_age_ms"] > 0
    finally:
        for node in others:
            node.signal(signal.SIGCONT)
    cluster.leader()
    cluster.wait_equal()


def test_leadership_goes_where_it_is_asked_to(cluster: Cluster) -> None:
    for _ in range(3):
        leader = cluster.leader()
        target = next(node for node in cluster.validators if node is not leader)
        with LocalClient(leader.socket) as client:
            answer = client.call("node.transfer-leadership", to=target.name)
        assert answer["transferred"]
        assert answer["took_ms"] >= 0
        assert '"leadership handed over"' in leader.log()
        assert cluster.leader() is target


def test_rolling_restart_under_load_fails_no_submission(cluster: Cluster) -> None:
    clients = [Submissions(cluster, cluster.validators) for _ in range(2)]
    for client in clients:
        client.start()
    cluster.wait_for(lambda: min(len(client.acknowledged) for client in clients) >= 3, "load runs")
    for node in cluster.validators:
        assert node.stop() == 0
        cluster.start([node])
    for client in clients:
        client.ended.set()
    for client in clients:
        client.join(60)
        assert not client.given_up
        gaps = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(client.acknowledged)]
        print(f"{len(client.acknowledged)} acknowledged, longest gap {max(gaps):.2f} s")
    cluster.wait_equal()
