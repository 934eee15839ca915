"""`python -m tests.bench distribution`: what validators send of a patch file that 1, 10 and 30 hosts fetch at the same moment.

Every host is a process of its own that speaks libp2p over loopback; all share this machine's processors with the validators, so the time
says little about a network of machines. The bytes do.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from node.local.client import LocalClient
from provenance.diff_model import FileState
from tests.bench.bench_observers import metric, quantile, start_observers, status
from tests.testkit import patches
from tests.testkit.cluster import NodeProcess, running_cluster

LINES: Final = 250_000
LINE_BYTES: Final = 64
SETTLE_S: Final = 15.0
"""Time for hosts to find their places in the relay tree."""
FETCH_TIMEOUT_S: Final = 600.0
SENT: Final = 'patchwarden_patch_bytes_total{direction="sent"}'
RECEIVED: Final = 'patchwarden_patch_bytes_total{direction="received"}'


@dataclass
class Run:
    """What one network has shown."""

    hosts: int
    file_bytes: int
    validators_sent: list[float] = field(default_factory=list)
    """Bytes of the file that each validator sent."""
    hosts_sent: list[float] = field(default_factory=list)
    hosts_received: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """How long each host took."""


def fetch(host: NodeProcess, patch_id: str) -> float:
    """Let a host fetch the file; return the seconds that it took."""
    begin = time.perf_counter()
    with LocalClient(host.socket, timeout_s=FETCH_TIMEOUT_S) as client:
        client.call("patches.locate", patch_id=patch_id)
    return time.perf_counter() - begin


def measure(hosts: int, lines: int) -> Run:
    """Return what a network of four validators shows with so many hosts."""
    before = {"data.txt": FileState(0o100644, b"0\n")}
    content = b"".join(b"%0*d\n" % (LINE_BYTES - 1, number) for number in range(lines))
    data = patches.make_patch(before, {"data.txt": FileState(0o100644, content)})
    run = Run(hosts, len(data))
    with tempfile.TemporaryDirectory() as directory, running_cluster(Path(directory)) as cluster:
        cluster.register("alice@acme", "developer")
        nodes = start_observers(cluster, hosts)
        patch_id = cluster.publish(data)
        time.sleep(SETTLE_S)
        height = status(cluster.validators[0])["height"]
        for node in nodes:
            cluster.wait_for(lambda node=node: status(node)["height"] >= height, "the host follows", node)  # type: ignore[misc]
        with ThreadPoolExecutor(hosts) as pool:
            run.seconds = list(pool.map(fetch, nodes, [patch_id] * hosts))
        run.validators_sent = [metric(node, SENT) for node in cluster.validators]
        run.hosts_sent = [metric(node, SENT) for node in nodes]
        run.hosts_received = [metric(node, RECEIVED) for node in nodes]
        dropped = [json.dumps(each) for node in nodes for each in status(node)["patches"]["dropped"]]
        assert not dropped, dropped
    return run


def bench(add: Callable[[str, float, str, str, int], None], quick: bool) -> None:
    """Measure 1, 10 and 30 hosts."""
    for hosts in (1, 3) if quick else (1, 10, 30):
        run = measure(hosts, LINES // 8 if quick else LINES)
        size = run.file_bytes
        what = f"{hosts} hosts, {size / 2**20:.0f} MiB"
        sent = sum(run.validators_sent)
        most = f"most by one: {max(run.validators_sent) / size:.2f}"
        add(f"{what}: sent by all validators", sent / size, "files", most, 2)
        add(f"{what}: sent by hosts", sum(run.hosts_sent) / size, "files", f"most: {max(run.hosts_sent) / size:.2f}", 2)
        add(f"{what}: received by a host", statistics.mean(run.hosts_received) / size, "files", "", 2)
        add(f"{what}: until a host has it, p50", quantile(run.seconds, 0.5), "s", "", 1)
        add(f"{what}: until the last has it", max(run.seconds), "s", "", 1)
