"""Two measures on a healthy cluster: how soon another leader commits, and that nobody is elected without need."""

from __future__ import annotations

import os
import random
import re
import statistics
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from tests.faults.clients import Workload
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.ending import Result
from tests.faults.history import Recorder
from tests.faults.machine import HarnessError
from tests.faults.node import Node
from tests.faults.watch import BlockLedger, Sampler
from wire.errors import PatchwardenError

FAILOVER_S_MAX: Final = 20.0
SETTLE_S: Final = (1.0, 2.0)
"""The pause between two kills, when all nodes agree again: a leader dies at any moment of its heartbeat."""
SHORT_STOP_S: Final = 0.2
SHORT_STOPS: Final = 10
FULL_BATCH: Final = 100
FULL_LOADERS: Final = 4
ROUND_TRIP_SAMPLE_S: Final = 2.0
_ELECTED: Final = re.compile(r'"event": ?"elected leader"')


def percentile(values: list[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def measure_failover(directory: Path, times: int, seed: int) -> Result:
    """Kill the leader so many times under light load; print when another leader's first block was committed."""
    result = Result()
    chance = random.Random(f"failover {seed}")
    cluster = Cluster(directory / "nodes")
    with closing(Recorder(directory / "history.jsonl")) as recorder, running_cluster(cluster):
        blocks = BlockLedger(cluster.nodes)
        workload = Workload(cluster, recorder, seed=seed, clients=2, loaders=0)
        sampler = Sampler(cluster, lambda: workload.acknowledged)
        blocks.start()
        sampler.start()
        workload.start()
        committed, acknowledged = [], []
        for number in range(1, times + 1):
            cluster.wait_level()
            time.sleep(chance.uniform(*SETTLE_S))
            leader = cluster.wait_leader()
            commit_s, client_s = _kill_once(cluster, leader, blocks, recorder)
            committed.append(commit_s)
            acknowledged.append(client_s)
            load = os.getloadavg()[0]
            result.add(
                f"kill {number:>2} of {leader.name}: another leader commits after {commit_s * 1000:5.0f} ms, "
                f"a client is answered after {client_s * 1000:5.0f} ms, load average {load:.1f}"
            )
            leader.start()
            leader.wait_up()
        workload.stop()
        blocks.stop()
        sampler.stop()
        result.violations += blocks.violations
        for name, values in (("another leader commits", committed), ("a client is answered", acknowledged)):
            result.add(
                f"{name}: median {statistics.median(values) * 1000:.0f} ms, "
                f"max {max(values) * 1000:.0f} ms, min {min(values) * 1000:.0f} ms of {times}"
            )
        result.add(f"{sampler.load_text()} on {os.cpu_count()} processors")
    return result


def _kill_once(cluster: Cluster, leader: Node, blocks: BlockLedger, recorder: Recorder) -> tuple[float, float]:
    """Return the seconds until another leader's block is announced as committed, and until a client is answered."""
    status = leader.status()
    if status is None:
        raise HarnessError(f"{leader.name} does not answer")
    others = [node.name for node in cluster.validators if node is not leader]
    begin = time.monotonic()
    leader.kill()
    end = begin + FAILOVER_S_MAX
    commit = None
    while commit is None:
        if time.monotonic() > end:
            raise HarnessError(f"no other leader commits within {FAILOVER_S_MAX:g} s after the death of {leader.name}")
        commit = blocks.find_commit(begin, status["term"], others)
        time.sleep(0.001)
    answered = None
    while answered is None and time.monotonic() < end:
        answered = next((at for at in reversed(recorder.returns_ns) if at / 1e9 >= commit.at), None)
        time.sleep(0.001)
    if answered is None:
        raise HarnessError("no client is answered although another leader commits")
    first = min(at for at in recorder.returns_ns[-50:] if at / 1e9 >= commit.at)
    return commit.at - begin, first / 1e9 - begin


def measure_calm(directory: Path, minutes: float, seed: int) -> Result:
    """Load the cluster as much as it takes; print how many elections there were, and how many when nodes are stopped for a moment."""
    result = Result()
    cluster = Cluster(directory / "nodes")
    with closing(Recorder(directory / "history.jsonl")) as recorder, running_cluster(cluster):
        leader = cluster.wait_leader()
        workload = Workload(
            cluster, recorder, seed=seed, clients=2, loaders=FULL_LOADERS, batch=FULL_BATCH, batch_interval_s=0
        )
        sampler = Sampler(cluster, lambda: workload.acknowledged)
        sampler.start()
        workload.start()
        time.sleep(3)
        elections, term = count_elections(cluster), _term(cluster)
        begin = time.monotonic()
        height, transactions = _progress(leader)
        round_trips: list[float] = []
        while time.monotonic() - begin < minutes * 60:
            time.sleep(ROUND_TRIP_SAMPLE_S)
            round_trips += _round_trips_ms(cluster)
        seconds = time.monotonic() - begin
        # A term without a winner was a candidacy without need, too.
        calm = max(count_elections(cluster) - elections, _term(cluster) - term)
        end_height, end_transactions = _progress(cluster.wait_leader())
        result.add(
            f"{minutes:g} minutes of full load: {calm} elections; {(end_transactions - transactions) / seconds:.0f} tx/s, "
            f"{(end_height - height) / seconds:.1f} blocks/s"
        )
        if round_trips:
            result.add(
                f"round trip between two nodes, the application's turn included: p50 {percentile(round_trips, 0.5):.1f} ms, "
                f"p99 {percentile(round_trips, 0.99):.1f} ms, max {max(round_trips):.1f} ms of {len(round_trips)}"
            )
        stopped = _stop_for_moments(cluster)
        result.add(
            f"{SHORT_STOPS} stops of the leader and {SHORT_STOPS} of others for {SHORT_STOP_S * 1000:.0f} ms: {stopped} elections"
        )
        workload.stop()
        sampler.stop()
        result.add(f"{sampler.load_text()} on {os.cpu_count()} processors")
        for slope in sampler.slopes():
            result.add(f"memory  {slope}")
        for what, count in (("under full load", calm), ("when nodes are stopped for a moment", stopped)):
            if count:
                result.violations.append(f"{count} elections without need {what}")
    return result


def _stop_for_moments(cluster: Cluster) -> int:
    """Stop the leader and others in turn; return how many elections followed."""
    elections, term = count_elections(cluster), _term(cluster)
    for number in range(2 * SHORT_STOPS):
        leader = cluster.wait_leader()
        others = [node for node in cluster.validators if node is not leader]
        node = leader if number % 2 == 0 else others[number // 2 % len(others)]
        node.pause()
        time.sleep(SHORT_STOP_S)
        node.resume()
        time.sleep(1.0)
    return max(count_elections(cluster) - elections, _term(cluster) - term)


def _term(cluster: Cluster) -> int:
    """Return the highest term that a node is in."""
    return max((status["term"] for node in cluster.validators if (status := node.status()) is not None), default=0)


def count_elections(cluster: Cluster) -> int:
    """Return how many elections the nodes' logs tell of."""
    return sum(len(_ELECTED.findall(node.log_since(0))) for node in cluster.validators)


def _progress(node: Node) -> tuple[int, int]:
    status = node.status()
    if status is None:
        raise HarnessError(f"{node.name} does not answer")
    return status["height"], status["log_size"]


def _round_trips_ms(cluster: Cluster) -> list[float]:
    values = []
    for node in cluster.validators:
        with suppress(PatchwardenError):
            values += [peer["rtt_ms"] for peer in node.call("peers") if peer["rtt_ms"] is not None]
    return values
