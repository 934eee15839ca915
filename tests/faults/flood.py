"""Far more submissions than the network can take, over many connections: what honest clients, memory and elections make of it.

Needs no root: the nodes run on loopback, with their gateways.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import httpx

from ledger import bodies
from tests.faults.ending import Result
from tests.faults.flood_client import Answers
from tests.faults.machine import private_kib
from tests.faults.measures import percentile
from tests.testkit.cluster import CHAIN_ID, REPOSITORY, Cluster, NodeProcess, running_cluster

HONEST: Final = "web1@acme"
FLOODERS: Final = tuple(f"flood{number}@acme" for number in range(1, 9))
CONNECTIONS: Final = 64
"""To each of four nodes."""
BATCH: Final = 20
SMALL: Final[dict[str, object]] = {"mempool_transactions_max": 2_000, "block_transactions_max": 4}
"""Clients on the same two processors cannot offer far more than nodes with the default settings take."""
CALM_S: Final = 10.0
SAMPLE_S: Final = 0.5
NODE_KIB_MAX: Final = 400 * 1024
GATEWAY_KIB_MAX: Final = 400 * 1024
HONEST_WAIT_S_MAX: Final = 30.0
"""An honest client that comes back when it is asked to must get in within this, whoever else wants to."""
T = TypeVar("T")
_ELECTED: Final = re.compile(r'"event": ?"elected leader"')


@dataclass
class HonestClient(threading.Thread):
    """Submits one transaction after the other, comes back when it is asked to, and notes how long each took."""

    cluster: Cluster
    ended: threading.Event = field(default_factory=threading.Event)
    took_s: list[float] = field(default_factory=list)
    asked_back: Counter[int] = field(default_factory=Counter)
    tx_ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(name="honest", daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        with httpx.Client(timeout=40) as client:
            while not self.ended.is_set():
                self._submit(client)

    def _submit(self, client: httpx.Client) -> None:
        transaction = self.cluster.sign(bodies.HostReport("inventory", "honest", os.urandom(50)), HONEST)
        document = {"transactions": [base64.b64encode(transaction.raw).decode()], "timeout_ms": 5000}
        begin, attempt = time.monotonic(), 0
        while not self.ended.is_set():
            node = self.cluster.validators[attempt % len(self.cluster.validators)]
            attempt += 1
            response = client.post(f"{node.rpc}/v1/transactions", json=document)
            if response.status_code == 200 and response.json()["results"][0]["status"] == "committed":
                self.took_s.append(time.monotonic() - begin)
                self.tx_ids.append(transaction.tx_id.hex())
                return
            self.asked_back[response.status_code] += 1
            self.ended.wait(float(response.headers.get("retry-after", "0.05")))


class MemoryWatch(threading.Thread):
    """Notes the most private memory of each node's core and gateway."""

    def __init__(self, nodes: Sequence[NodeProcess]) -> None:
        super().__init__(name="memory", daemon=True)
        self._nodes = nodes
        self.ended = threading.Event()
        self.core_kib: Counter[str] = Counter()
        self.gateway_kib: Counter[str] = Counter()

    def run(self) -> None:
        while not self.ended.wait(SAMPLE_S):
            for node in self._nodes:
                assert node.process is not None
                self._note(self.core_kib, node.name, node.process.pid)
                for pid in children_of(node.process.pid):
                    self._note(self.gateway_kib, node.name, pid)

    def _note(self, most: Counter[str], name: str, pid: int) -> None:
        most[name] = max(most[name], private_kib(pid) or 0)


def children_of(pid: int) -> list[int]:
    """Return the children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def run_flood(
    cluster: Cluster, signers: Sequence[str], seconds: float, *, connections: int = CONNECTIONS, batch: int = BATCH
) -> Answers:
    """Flood all validators from a process of its own; return how it was answered."""
    command = [sys.executable, "-m", "tests.faults.flood_client", "--chain", CHAIN_ID, "--signers", ",".join(signers)]
    command += ["--connections", str(connections), "--batch", str(batch), "--seconds", str(seconds)]
    command += [node.rpc for node in cluster.validators]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False, cwd=REPOSITORY)
    if done.returncode != 0:
        raise AssertionError(done.stderr[-3000:])
    document = json.loads(done.stdout)
    return Answers(
        Counter(document["statuses"]),
        Counter(document["results"]),
        document["without_retry_after"],
        document["broken"],
    )


def measure_flood(directory: Path, seconds: float) -> Result:
    """Flood a network from eight signers, then from one; print how it was answered and what it cost."""
    result = Result()
    with running_cluster(directory / "nodes", settings=SMALL) as cluster:
        for identity in (HONEST, *FLOODERS):
            cluster.register(identity, "host")
        memory = MemoryWatch(cluster.validators)
        memory.start()
        elections = count_elections(cluster)
        _, honest = _with_honest_client(cluster, partial(time.sleep, CALM_S))
        result.add(f"no flood: {_describe(honest)}")
        for signers in (FLOODERS, FLOODERS[:1]):
            begin, before = time.monotonic(), cluster.leader().status(cluster.client)["log_size"]
            answers, honest = _with_honest_client(cluster, partial(run_flood, cluster, signers, seconds))
            rate = (cluster.leader().status(cluster.client)["log_size"] - before) / (time.monotonic() - begin)
            result.add(
                f"{seconds:g} s of flood from {len(signers)} signers over {4 * CONNECTIONS} connections: {rate:.0f} tx/s committed; "
                f"answers {_shown(answers.statuses)}; transactions in answers with 200: {_shown(answers.results)}"
            )
            result.add(f"meanwhile {_describe(honest)}")
            _judge(result, answers, honest)
        cluster.wait_equal()
        elections = count_elections(cluster) - elections
        memory.ended.set()
        memory.join()
        for name, most in (("core", memory.core_kib), ("gateway", memory.gateway_kib)):
            result.add(f"most private memory of a {name}: {max(most.values()) / 1024:.0f} MiB")
        for most, limit in ((memory.core_kib, NODE_KIB_MAX), (memory.gateway_kib, GATEWAY_KIB_MAX)):
            result.violations += [f"{name} took {kib / 1024:.0f} MiB" for name, kib in most.items() if kib > limit]
        result.add(f"{elections} elections, load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
        if elections:
            result.violations.append(f"{elections} elections under flood")
    return result


def _with_honest_client(cluster: Cluster, body: Callable[[], T]) -> tuple[T, HonestClient]:
    honest = HonestClient(cluster)
    honest.start()
    try:
        returned = body()
    finally:
        honest.ended.set()
        honest.join(60)
    return returned, honest


def _judge(result: Result, answers: Answers, honest: HonestClient) -> None:
    if answers.unexpected():
        result.violations.append(f"answers that are neither 200, 429 nor 503: {answers.unexpected()}")
    if answers.without_retry_after:
        result.violations.append(f"{answers.without_retry_after} answers do not say when to come back")
    if answers.broken:
        result.violations.append(f"{answers.broken} connections broke without an answer")
    if not honest.took_s or max(honest.took_s) > HONEST_WAIT_S_MAX:
        result.violations.append(f"an honest client does not get in: {_describe(honest)}")


def _describe(honest: HonestClient) -> str:
    if not honest.took_s:
        return f"an honest client got nothing in; asked to come back: {_shown(honest.asked_back)}"
    return (
        f"an honest client got {len(honest.took_s)} transactions in, each within p50 {percentile(honest.took_s, 0.5) * 1000:.0f} ms, "
        f"max {max(honest.took_s):.2f} s; asked to come back: {_shown(honest.asked_back)}"
    )


def _shown(counts: Counter[str] | Counter[int]) -> str:
    return ", ".join(f"{count} × {what}" for what, count in counts.most_common()) or "never"


def count_elections(cluster: Cluster) -> int:
    """Return how many elections the nodes' logs tell of."""
    return sum(len(_ELECTED.findall(node.log())) for node in cluster.validators)
