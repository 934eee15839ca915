"""One follower stands still, then has a slow disk, under full load: what it costs the others in throughput, and everybody in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from tests.faults import disk
from tests.faults.clients import Workload
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.ending import Result, judge, read_logs, settle_nodes
from tests.faults.history import Recorder
from tests.faults.machine import find_strace_obstacle
from tests.faults.measures import count_elections
from tests.faults.node import Node
from tests.faults.watch import BlockLedger, Sampler

PHASE_S: Final = 60.0
CALM_S: Final = 30.0
SYNC_DELAY_MS: Final = 150
SHARE_MIN: Final = 0.5
"""Of the throughput without the fault that the others must keep. With one of five processes stopped they have more processor time; what
they must never do is to wait for it."""
MEMORY_KIB_MAX: Final = 400 * 1024
"""No node may ever take more: every queue and cache has a limit, and all of them together with the interpreter are below this."""


def measure_pressure(directory: Path, seed: int) -> Result:
    """Print throughput and memory without a fault, with a stopped follower, and with a follower whose disk is slow."""
    result = Result()
    cluster = Cluster(directory / "nodes")
    with closing(Recorder(directory / "history.jsonl")) as recorder, running_cluster(cluster):
        leader = cluster.wait_leader()
        follower = next(node for node in cluster.validators if node is not leader)
        blocks = BlockLedger(cluster.nodes)
        workload = Workload(cluster, recorder, seed=seed, clients=2, loaders=3, batch=100, batch_interval_s=0)
        sampler = Sampler(cluster, lambda: workload.acknowledged)
        for part in (blocks, sampler, workload):
            part.start()
        time.sleep(5)
        elections = count_elections(cluster)

        def phase(text: str, seconds: float) -> float:
            begin, acknowledged = time.monotonic(), workload.acknowledged
            time.sleep(seconds)
            rate = (workload.acknowledged - acknowledged) / (time.monotonic() - begin)
            most = ", ".join(f"{node.name} {sampler.most_kib(node.name) / 1024:.0f}" for node in cluster.nodes)
            result.add(f"{text}: {rate:.0f} tx/s; most memory so far {most} MiB; load average {os.getloadavg()[0]:.1f}")
            return rate

        calm = phase(f"{CALM_S:g} s without a fault", CALM_S)
        with _stopped(cluster, follower):
            stopped = phase(f"{PHASE_S:g} s with {follower.name} stopped", PHASE_S)
        begin = time.monotonic()
        cluster.wait_level(120)
        result.add(f"{follower.name} is level again {time.monotonic() - begin:.1f} s after it goes on, under load")
        rates = [("stopped", stopped)]
        if (obstacle := find_strace_obstacle()) is None:
            with disk.injected(follower, f"{disk.SYNCS}:delay_enter={SYNC_DELAY_MS * 1000}"):
                text = f"{PHASE_S:g} s with {SYNC_DELAY_MS} ms more for every sync of {follower.name}"
                rates.append(("slow", phase(text, PHASE_S)))
            cluster.wait_level(120)
        else:
            result.add(f"not made here: a slow disk: {obstacle}")
        elections = count_elections(cluster) - elections
        workload.stop()
        sampler.stop()
        blocks.stop()
        result.violations += blocks.violations
        settle_nodes(cluster)
        judge(cluster, recorder, result)
    for name, rate in rates:
        result.add(f"throughput with the {name} follower: {rate / calm:.0%} of that without")
        if rate < SHARE_MIN * calm:
            result.violations.append(f"a {name} follower leaves the others {rate / calm:.0%} of their throughput")
    for node in cluster.nodes:
        if sampler.most_kib(node.name) > MEMORY_KIB_MAX:
            result.violations.append(f"{node.name} took {sampler.most_kib(node.name) / 1024:.0f} MiB")
    result.add(f"{elections} elections; {sampler.load_text()} on {os.cpu_count()} processors")
    if elections:
        result.violations.append(f"{elections} elections although the leader was well")
    for slope in sampler.slopes():
        result.add(f"memory  {slope}")
    read_logs(cluster, result)
    return result


@contextmanager
def _stopped(cluster: Cluster, node: Node) -> Iterator[None]:
    """Keep a node stopped during the body; clients do not ask it meanwhile, as a balancer before the nodes would see to."""
    nodes = cluster.nodes
    node.pause()
    cluster.nodes = [each for each in nodes if each is not node]
    try:
        yield
    finally:
        cluster.nodes = nodes
        node.resume()
