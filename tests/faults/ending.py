"""The end of every run: all nodes are ended at one height, their stores are compared, and what clients were told is judged by one store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tests.faults import checks, disk
from tests.faults.cluster import Cluster
from tests.faults.history import Recorder, read_history
from tests.faults.machine import HarnessError
from tests.faults.stores import committed_heights, compare_stores, open_blocks, open_store

SETTLE_ATTEMPTS: Final = 5
LOG_ALARMS: Final = (
    "consensus.fork",
    "consensus.two_leaders",
    "consensus.equivocation",
    "node.divergence",
    "Traceback",
)
"""What no log may ever hold, whatever the faults."""


@dataclass
class Result:
    """What a run found out."""

    violations: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    rounds: int = 0

    def add(self, line: str) -> None:
        """Print a line and keep it."""
        print(line, flush=True)
        self.lines.append(line)


def settle_nodes(cluster: Cluster) -> None:
    """End all nodes at one height: as a power cut ends them.

    Raises:
        HarnessError: They never stand at one height.
    """
    for node in cluster.nodes:
        if node.has_small_disk:
            disk.release(node)
    for _ in range(SETTLE_ATTEMPTS):
        for node in cluster.nodes:
            if not node.is_running:
                node.start()
                node.wait_up()
        cluster.wait_equal()
        for node in cluster.nodes:
            node.kill()
        if len(set(committed_heights(cluster))) == 1:
            return
    raise HarnessError("the nodes never stood at one height when they were ended")


def judge(cluster: Cluster, recorder: Recorder, result: Result) -> None:
    """Compare the stores of the ended nodes, and what clients were told with one of them."""
    comparison = compare_stores(cluster)
    result.violations += comparison.violations
    result.add(
        f"stores of {len(cluster.nodes)} nodes at height {comparison.height}: {comparison.rows} rows each, "
        f"{'all equal' if not comparison.violations else 'NOT EQUAL'}; {comparison.certificates} certificates verified"
    )
    store = open_store(cluster.nodes[0])
    try:
        ledger = checks.read_ledger(open_blocks(store, cluster), comparison.height)
    finally:
        store.close()
    operations = read_history(recorder.path)
    found = checks.check_history(operations, ledger)
    result.violations += found
    registers = len({each.key for each in operations if each.key})
    result.add(f"{len(operations)} calls: {checks.count_actions(operations)}")
    result.add(
        f"{len(ledger.positions)} transactions on the ledger; nothing acknowledged lost or doubled, "
        f"{registers} registers linearizable"
        if not found
        else f"{len(found)} violations in the history"
    )


def read_logs(cluster: Cluster, result: Result) -> None:
    """Print what the nodes' logs tell, and take what they may never hold for violations."""
    for node in cluster.nodes:
        lines = node.log_since(0).splitlines()
        for word in LOG_ALARMS:
            bad = [line for line in lines if word in line]
            if bad:
                result.violations.append(f"the log of {node.name} has {len(bad)} lines with {word}: {bad[0][:600]}")
        alarms = sum("consensus alarm" in line for line in lines)
        refused = sum('"block refused"' in line for line in lines)
        result.add(f"log of {node.name}: {node.starts} starts, {alarms} consensus alarms, {refused} blocks refused")
