"""`python -m tests.bench observers`: what observers cost the validators, and how old a block is when it reaches them.

Every observer is a process of its own with its own LevelDB, and speaks libp2p over loopback; they run without HTTP. All of them share this
machine's processors with the validators, so the load is small and steady; what counts are the ratios to the run without observers.
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ledger import bodies
from node.local.client import LocalClient
from tests.bench import machine
from tests.bench.http import LeanClient, submission
from tests.testkit.cluster import Cluster, NodeProcess, running_cluster
from wire.errors import PatchwardenError

BATCH: Final = 50
"""Transactions in one request, which makes about one block."""
PAUSE_S: Final = 0.5
BODY_BYTES: Final = 300
START_AT_ONCE: Final = 10
START_TIMEOUT_S: Final = 300.0
SETTLE_S: Final = 40.0
"""Time for observers to find their places before anything is measured, and for connections that found none to be closed."""
UNLIMITED: Final = 512
"""As many slots as anybody may have: every observer follows validators."""


@dataclass
class Run:
    """What one network has shown."""

    observers: int
    limit: int
    cpu_us: float = 0.0
    """Processor time of one validator for a transaction."""
    cpu_share: float = 0.0
    """Of one processor, for one validator."""
    rpc_bytes: float = 0.0
    """Bytes that one validator sent to observers, and to validators besides consensus, for a transaction."""
    rpc_bytes_max: float = 0.0
    """The same for the one that sent most."""
    connections: float = 0.0
    """Peers connected to one validator."""
    fed: float = 0.0
    """Observers that one validator feeds."""
    ages_ms: list[float] = field(default_factory=list)
    """How old a block was when it was committed at an observer, for each block and observer."""
    leader_ages_ms: list[float] = field(default_factory=list)
    """The same at the leader."""
    depths: Counter[int] = field(default_factory=Counter)
    """How many observers are how many steps away from the validators."""
    observer_cpu_us: float = 0.0
    """Processor time of one observer for a transaction."""
    observer_mib: float = 0.0


class Watch:
    """Notes how old each block is when a node has committed it."""

    def __init__(self, node: NodeProcess, start: int) -> None:
        self.ages_ms: list[float] = []
        self._client = LocalClient(node.socket, timeout_s=60)
        self._start = start
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(PatchwardenError):
            for event in self._client.stream("events.subscribe", from_height=self._start):
                if self._ended:
                    return
                # Blocks without transactions are the leader's heartbeat and tell nothing about the load.
                if event["transactions"]:
                    self.ages_ms.append(time.time() * 1e3 - event["time_ms"])

    def end(self) -> list[float]:
        self._ended = True
        return self.ages_ms


def status(node: NodeProcess) -> dict[str, Any]:
    """Return a node's status over its local socket."""
    with LocalClient(node.socket, timeout_s=60) as client:
        document: dict[str, Any] = client.call("status")
        return document


def metric(node: NodeProcess, name: str) -> float:
    """Return one value of a node's metrics."""
    with LocalClient(node.socket, timeout_s=60) as client:
        found = re.search(rf"^{re.escape(name)} (\S+)$", str(client.call("metrics")), re.MULTILINE)
    assert found is not None, name
    return float(found[1])


async def submit_steadily(url: str, bodies_: Sequence[bytes]) -> float:
    """Send one request every `PAUSE_S`; return the seconds that it took."""
    begin = time.perf_counter()
    async with LeanClient(url) as client:
        for number, body in enumerate(bodies_):
            await asyncio.sleep(max(0.0, begin + number * PAUSE_S - time.perf_counter()))
            answer = await client.post("/v1/transactions", body)
            assert answer.count(b'"committed"') == BATCH, answer[:300]
    return time.perf_counter() - begin


def start_observers(cluster: Cluster, count: int) -> list[NodeProcess]:
    """Return so many running observers that are at the validators' height."""
    names = [f"web{number}@acme" for number in range(count)]
    for name in names:
        cluster.register(name, "host")
    hosts = [cluster.add_host(name) for name in names]
    for host in hosts:
        with (host.home / "config.toml").open("a", encoding="utf-8") as file:
            file.write("gateway = false\n")
    for begin in range(0, count, START_AT_ONCE):
        for host in hosts[begin : begin + START_AT_ONCE]:
            host.start()
        for host in hosts[begin : begin + START_AT_ONCE]:
            cluster.wait_for(host.is_up, f"{host.name} is up", host, timeout_s=START_TIMEOUT_S)
    height = status(cluster.validators[0])["height"]
    for host in hosts:
        cluster.wait_for(
            lambda host=host: status(host)["height"] >= height,  # type: ignore[misc]
            f"{host.name} has caught up",
            host,
            timeout_s=START_TIMEOUT_S,
        )
    return hosts


def measure(observers: int, limit: int, requests: int) -> Run:
    """Return what a network of four validators shows with so many observers."""
    run = Run(observers, limit)
    settings: dict[str, object] = {"observers_max": limit, "scrub_rows_per_s": 0}
    with tempfile.TemporaryDirectory() as directory, running_cluster(Path(directory), settings=settings) as cluster:
        cluster.register("reporter@acme", "host")
        hosts = start_observers(cluster, observers)
        time.sleep(SETTLE_S)
        leader = cluster.leader()
        queue = [
            submission(
                [
                    cluster.sign(bodies.HostReport("inventory", "app", os.urandom(BODY_BYTES)), "reporter@acme")
                    for _ in range(BATCH)
                ]
            )
            for _ in range(requests)
        ]
        height = status(leader)["height"]
        watches = [Watch(host, height + 1) for host in hosts]
        leader_watch = Watch(leader, height + 1)
        pids = [status(node)["pid"] for node in cluster.validators]
        host_pids = [status(node)["pid"] for node in hosts]
        rpc = 'patchwarden_sent_bytes{stream="rpc"}'
        sent = [metric(node, rpc) for node in cluster.validators]
        cpu = [machine.cpu_seconds(pid) for pid in pids]
        host_cpu = [machine.cpu_seconds(pid) for pid in host_pids]
        seconds = asyncio.run(submit_steadily(leader.rpc, queue))
        used = [machine.cpu_seconds(pid) - before for pid, before in zip(pids, cpu, strict=True)]
        host_used = [machine.cpu_seconds(pid) - before for pid, before in zip(host_pids, host_cpu, strict=True)]
        time.sleep(1)
        sent = [metric(node, rpc) - before for node, before in zip(cluster.validators, sent, strict=True)]
        transactions = requests * BATCH
        run.cpu_us = statistics.mean(used) / transactions * 1e6
        run.cpu_share = statistics.mean(used) / seconds
        run.rpc_bytes = statistics.mean(sent) / transactions
        run.rpc_bytes_max = max(sent) / transactions
        statuses = [status(node) for node in cluster.validators]
        run.connections = statistics.mean(each["peers_connected"] for each in statuses)
        run.fed = statistics.mean(len(each["observers"]["fed"]) for each in statuses)
        run.leader_ages_ms = leader_watch.end()
        for watch in watches:
            run.ages_ms.extend(watch.end())
        run.depths = Counter(status(host)["sync"]["depth"] for host in hosts)
        if hosts:
            run.observer_cpu_us = statistics.mean(host_used) / transactions * 1e6
            run.observer_mib = statistics.mean(machine.resident_mib(pid) for pid in host_pids)
    return run


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def bench(add: Callable[[str, float, str, str, int], None], quick: bool) -> None:
    """Measure 0, 1, 10 and 50 observers under two limits, and 50 that all follow validators."""
    requests = 10 if quick else 60
    few = [(0, 8), (1, 8), (4, 1)]
    # With four slots each, ten observers fill them all: what fifty cost then must be the same.
    plan = few if quick else [(0, 8), (1, 8), (10, 8), (50, 8), (50, UNLIMITED), (10, 4), (50, 4)]
    alone: Run | None = None
    for observers, limit in plan:
        run = measure(observers, limit, requests)
        alone = alone or run
        what = f"{observers} observers, " + ("no limit" if limit == UNLIMITED else f"limit {limit}")
        ratio = f"{run.cpu_us / alone.cpu_us:.2f} of what it takes without observers"
        add(f"{what}: processor time of a validator", run.cpu_us, "µs/tx", ratio, 0)
        add(f"{what}: the same, of one processor", run.cpu_share * 100, "%", "", 1)
        add(f"{what}: sent to observers by a validator", run.rpc_bytes, "B/tx", f"most: {run.rpc_bytes_max:.0f}", 0)
        add(f"{what}: peers connected to a validator", run.connections, "", f"{run.fed:.1f} of them fed", 1)
        add(f"{what}: age of a block at the leader, p50", quantile(run.leader_ages_ms, 0.5), "ms", "", 1)
        add(f"{what}: age of a block at the leader, p99", quantile(run.leader_ages_ms, 0.99), "ms", "", 1)
        if observers:
            depths = ", ".join(f"{count} at depth {depth}" for depth, count in sorted(run.depths.items()))
            add(f"{what}: age of a block at an observer, p50", quantile(run.ages_ms, 0.5), "ms", depths, 1)
            add(f"{what}: age of a block at an observer, p99", quantile(run.ages_ms, 0.99), "ms", "", 1)
            add(f"{what}: processor time of an observer", run.observer_cpu_us, "µs/tx", "", 0)
            add(f"{what}: memory of an observer", run.observer_mib, "MiB", "", 0)
