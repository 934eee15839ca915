"""Where a transaction's processor time goes, by cause, on the leader and on a follower.

The nodes run as `tests.bench.profiled`. Gateways are processes of their own and are shown as one figure.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import machine
from tests.bench.profiled import CAUSES
from tests.testkit.cluster import Cluster, NodeProcess

WAIT_S = 10.0


def cpu_ns(pid: int) -> int:
    """Return the processor time that a process' threads have used; threads that ended are not in it."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total


def gateway_of(pid: int) -> int:
    """Return the process id of a core's gateway."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    (child,) = (int(child) for task in tasks for child in (task / "children").read_text().split())
    return child


def _seconds(node: NodeProcess, pid: int) -> dict[str, float]:
    file = node.home / "profile.json"
    file.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR2)
    begin = time.monotonic()
    while not file.exists():
        if time.monotonic() - begin > WAIT_S:
            raise AssertionError(f"{node.name} wrote no profile")
        time.sleep(0.01)
    seconds: dict[str, float] = json.loads(file.read_text())
    return seconds


def profile(cluster: Cluster, load: Callable[[], int], add: Callable[[str, float, str, str], None], what: str) -> None:
    """Run `load`, which returns how many transactions it had committed, and report microseconds for each by cause."""
    leader = cluster.leader()
    nodes = [leader, *(node for node in cluster.validators if node is not leader)]
    pids = [node.status(cluster.client)["pid"] for node in nodes]
    gateway = gateway_of(pids[0])
    for pid in pids:
        os.kill(pid, signal.SIGUSR1)
    before = [cpu_ns(pid) for pid in [*pids, gateway]]
    count = load()
    used_us = [(cpu_ns(pid) - start) / 1e3 / count for pid, start in zip([*pids, gateway], before, strict=True)]
    costs = []
    for node, pid, cost in zip(nodes, pids, used_us, strict=False):
        seconds = _seconds(node, pid)
        total = sum(seconds.values())
        costs.append({cause: cost * seconds.get(cause, 0) / total for cause in CAUSES})
    verify_us = machine.verify_us()
    for cause in CAUSES:
        follower = statistics.mean(each[cause] for each in costs[1:])
        add(f"{what}: {cause}", costs[0][cause], "µs/tx", f"on a follower {follower:.1f}")
    follower = statistics.mean(used_us[1:4])
    mean = statistics.mean(used_us[:4])
    add(f"{what}: a leader's core", used_us[0], "µs/tx", f"on a follower {follower:.1f}")
    add(
        f"{what}: a validator's core, mean of all",
        mean,
        "µs/tx",
        f"{mean / verify_us:.1f} verifications of {verify_us:.0f} µs",
    )
    add(f"{what}: the leader's gateway", used_us[-1], "µs/tx", "")
