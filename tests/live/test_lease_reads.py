"""Lease reads of real processes: a leader that was stopped and replaced reads nothing old when it goes on (trap 15)."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ledger import bodies
from tests.testkit.cluster import Cluster, NodeProcess, running_cluster
from tests.testkit.ledger import administrator_of, key_of

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("net"), validators=3, settings={"lease_reads": True}) as cluster:
        yield cluster


def reads_at_once(cluster: Cluster, node: NodeProcess) -> int:
    text = cluster.client.get(f"{node.rpc}/metrics").text
    (value,) = re.findall(r"^patchwarden_reads_at_once_total ([0-9.e+]+)$", text, re.MULTILINE)
    return int(float(value))


def test_a_stopped_leader_that_was_replaced_never_reads_the_past(cluster: Cluster) -> None:
    for number in range(3):
        stopped = cluster.leader()
        others = [node for node in cluster.validators if node is not stopped]

        def leases(node: NodeProcess = stopped) -> bool:
            before = reads_at_once(cluster, node)
            assert cluster.client.get(f"{node.rpc}/v1/policy").status_code == 200
            return reads_at_once(cluster, node) > before

        cluster.wait_for(leases, "the leader reads by lease", stopped)
        name = f"reader{number}@acme"
        with ThreadPoolExecutor(4) as threads:
            stopped.signal(signal.SIGSTOP)
            try:
                cluster.leader(others)
                body = bodies.IdentityRegister(name, "A reader", ("auditor",), key_of(name).public_key.spki)
                (result,) = cluster.submit([cluster.sign(body, administrator_of("acme"))], to=others[number % 2])
                assert result["status"] == "committed"
                # Its gateway runs, so these wait at its door and are the first that it sees.
                url = f"{stopped.rpc}/v1/identities/{name}"
                waiting = [threads.submit(cluster.client.get, url) for _ in range(4)]
                time.sleep(0.1)
            finally:
                stopped.signal(signal.SIGCONT)
            # Found, or nothing can be said; never that there is nobody.
            for response in (each.result() for each in waiting):
                assert response.status_code in (200, 503), response.text

        def reads(node: NodeProcess = stopped, url: str = url) -> bool:
            response = cluster.client.get(url)
            assert response.status_code in (200, 503), response.text
            return response.status_code == 200 and response.json()["as_of"]["consistency"] == "linearizable"

        cluster.wait_for(reads, "it reads again", stopped)
        cluster.wait_equal()
