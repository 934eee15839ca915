"""`make bench`: what a network of four validators does on this machine, beside what the machine itself does in the same run.

    python -m tests.bench [--quick] [--json FILE] [SECTION …]       sections: network profile failover agent patch replay command

The sections `observers`, `distribution` and `crowd` run only when they are named: each takes as long as all the others together.

Never a timed test: nothing here fails because something was slow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ledger import bodies
from ledger.transaction import Transaction
from provenance.diff_model import FileState
from tests.bench import bench_audit, bench_crowd, bench_distribution, bench_observers, bench_patch, bench_tree, machine
from tests.bench.http import LeanClient, submission
from tests.bench.profile import profile
from tests.testkit import patches
from tests.testkit.cluster import REPOSITORY, Cluster, NodeProcess, running_cluster
from tests.testkit.scene import approved, running_scene

PAYLOAD_BYTES = 300
BATCH = 100
BATCH_CONNECTIONS = 4
SINGLE_CONNECTIONS = 100
FILES = 10


@dataclass
class Report:
    """Figures in the order in which they were found."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float, unit: str, note: str = "", digits: int = 1) -> None:
        self.values[name] = value
        self.rows.append((name, f"{value:,.{digits}f} {unit}", note))
        print(f"  {name:<46} {value:>12,.{digits}f} {unit:<6} {note}", flush=True)


def percentile(values: list[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def report_transaction(cluster: Cluster) -> Transaction:
    """Return a signed host.report with a body of `PAYLOAD_BYTES`."""
    return cluster.sign(bodies.HostReport("inventory", "app", os.urandom(PAYLOAD_BYTES)), "web1@acme")


async def submit_all(url: str, queue: list[bytes], connections: int, expected: int) -> float:
    """Send every body over so many connections, one request each at a time; return the seconds until all are committed."""

    async def worker() -> None:
        async with LeanClient(url) as client:
            while queue:
                answer = await client.post("/v1/transactions", queue.pop())
                assert answer.count(b'"committed"') == expected, answer[:300]

    begin = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(connections)))
    return time.perf_counter() - begin


def heartbeats(cluster: Cluster, node: NodeProcess) -> list[tuple[float, float]]:
    """Return how many heartbeats of a leader were answered within so many seconds, as its metrics count them."""
    text = cluster.client.get(f"{node.rpc}/metrics").text
    found = re.findall(r'^patchwarden_heartbeat_duration_seconds_bucket\{le="([^"]+)"\} (\S+)$', text, re.MULTILINE)
    return [(float(limit), float(count)) for limit, count in found]


def quantile_ms(buckets: list[tuple[float, float]], share: float) -> float:
    """Return the time within which `share` of what the buckets count ended, in milliseconds, linear within a bucket."""
    total = buckets[-1][1]
    assert total > 0, "nothing was counted"
    lower, below = 0.0, 0.0
    for limit, count in buckets:
        if count >= share * total:
            inside = 1.0 if limit == float("inf") else (share * total - below) / max(1.0, count - below)
            return (lower + ((limit if limit != float("inf") else 2 * lower) - lower) * inside) * 1e3
        lower, below = limit, count
    raise AssertionError("the last bucket holds everything")


def bench_network(report: Report, quick: bool) -> None:
    """Throughput, latency, processor time and memory of four validators."""
    with tempfile.TemporaryDirectory() as directory, running_cluster(Path(directory)) as cluster:
        cluster.register("web1@acme", "host")
        leader = cluster.leader()
        pids = [node.status(cluster.client)["pid"] for node in cluster.validators]

        latencies = []

        async def one_at_a_time(count: int) -> None:
            async with LeanClient(leader.rpc) as client:
                for _ in range(count):
                    body = submission([report_transaction(cluster)])
                    begin = time.perf_counter()
                    answer = await client.post("/v1/transactions", body)
                    latencies.append((time.perf_counter() - begin) * 1e3)
                    assert b'"committed"' in answer, answer[:300]

        asyncio.run(one_at_a_time(100 if quick else 500))
        report.add("commit latency, one at a time, p50", percentile(latencies, 0.5), "ms", "target <= 6")
        report.add("commit latency, one at a time, p99", percentile(latencies, 0.99), "ms")

        beats = heartbeats(cluster, leader)
        rates, costs = [], []
        batches = 20 if quick else 60
        for _ in range(1 if quick else 5):
            queue = [submission([report_transaction(cluster) for _ in range(BATCH)]) for _ in range(batches)]
            before = [machine.cpu_seconds(pid) for pid in pids]
            seconds = asyncio.run(submit_all(leader.rpc, queue, BATCH_CONNECTIONS, BATCH))
            used = [machine.cpu_seconds(pid) - start for pid, start in zip(pids, before, strict=True)]
            rates.append(batches * BATCH / seconds)
            costs.append(statistics.mean(used) / (batches * BATCH) * 1e6)
        report.add("batched, 4 x 100 in flight", statistics.median(rates), "tx/s", "target >= 2,000", 0)
        report.add("batched, processor time per validator", statistics.median(costs), "µs/tx")
        beats = [
            (limit, after - before)
            for (limit, after), (_, before) in zip(heartbeats(cluster, leader), beats, strict=True)
        ]
        report.add("heartbeat to answer under this load, p50", quantile_ms(beats, 0.5), "ms")
        report.add("heartbeat to answer under this load, p99", quantile_ms(beats, 0.99), "ms", "target < 50")

        rates, costs = [], []
        singles = 500 if quick else 1500
        for _ in range(1 if quick else 3):
            queue = [submission([report_transaction(cluster)]) for _ in range(singles)]
            before = [machine.cpu_seconds(pid) for pid in pids]
            seconds = asyncio.run(submit_all(leader.rpc, queue, SINGLE_CONNECTIONS, 1))
            used = [machine.cpu_seconds(pid) - start for pid, start in zip(pids, before, strict=True)]
            rates.append(singles / seconds)
            costs.append(statistics.mean(used) / singles * 1e6)
        report.add("singly, 100 in flight", statistics.median(rates), "tx/s", "", 0)
        report.add("singly, processor time per validator", statistics.median(costs), "µs/tx")
        report.add(
            "memory of a validator's core", statistics.mean(machine.resident_mib(pid) for pid in pids), "MiB", "", 0
        )


def bench_profile(report: Report, quick: bool) -> None:
    """Processor time by cause, per transaction."""

    def add(name: str, value: float, unit: str, note: str) -> None:
        report.add(name, value, unit, note)

    with (
        tempfile.TemporaryDirectory() as directory,
        running_cluster(Path(directory), module="tests.bench.profiled") as cluster,
    ):
        cluster.register("web1@acme", "host")
        leader = cluster.leader()

        def load(requests: int, size: int, connections: int) -> Callable[[], int]:
            queue = [submission([report_transaction(cluster) for _ in range(size)]) for _ in range(requests)]

            def run() -> int:
                asyncio.run(submit_all(leader.rpc, queue, connections, size))
                return requests * size

            return run

        for what, requests, size, connections in (
            ("batched", 20 if quick else 200, BATCH, BATCH_CONNECTIONS),
            ("singly, 100 in flight", 300 if quick else 3000, 1, SINGLE_CONNECTIONS),
            ("one at a time", 100 if quick else 1500, 1, 1),
        ):
            profile(cluster, load(requests, size, connections), add, what)


def bench_failover(report: Report, quick: bool) -> None:
    """Time from kill -9 of the leader to the first transaction that another leader commits."""
    times = []
    with tempfile.TemporaryDirectory() as directory, running_cluster(Path(directory)) as cluster:
        cluster.register("web1@acme", "host")
        for _ in range(2 if quick else 7):
            leader = cluster.leader()
            others = [node for node in cluster.validators if node is not leader]
            cluster.wait_equal()
            begin = time.perf_counter()
            leader.kill()
            _commit_somewhere(cluster, others)
            times.append((time.perf_counter() - begin) * 1e3)
            cluster.start([leader])
            cluster.wait_equal()
    report.add("failover after kill -9, median", statistics.median(times), "ms", "target <= 1,500", 0)
    report.add("failover after kill -9, slowest", max(times), "ms", "", 0)


def _commit_somewhere(cluster: Cluster, nodes: list[NodeProcess]) -> None:
    transaction = report_transaction(cluster)
    for attempt in range(1000):
        try:
            (result,) = cluster.submit([transaction], to=nodes[attempt % len(nodes)], timeout_ms=300)
        except AssertionError:
            continue  # No leader yet: the answer said 503.
        if result["status"] == "committed":
            return
    raise AssertionError("no leader")


def _tree(generation: int) -> patches.Tree:
    return {
        f"src/file{number}.c": FileState(
            0o100644, b"".join(b"line %d, generation %d\n" % (line, generation) for line in range(200))
        )
        for number in range(FILES)
    }


def bench_agent(report: Report, quick: bool) -> None:
    """What a decision costs, and a whole application."""
    with tempfile.TemporaryDirectory() as directory, running_scene(Path(directory), _tree(0)) as scene:
        pid = scene.host.status(scene.cluster.client)["pid"]
        data = approved(patches.make_patch(_tree(0), _tree(1)))
        scene.cluster.publish(data)
        scene.wait_level()
        assert scene.agent("explain", data)["code"] == "SUCCESS"
        walls = []
        count = 20 if quick else 100
        before = machine.cpu_seconds(pid)
        for _ in range(count):
            begin = time.perf_counter()
            scene.agent("explain", data)
            walls.append((time.perf_counter() - begin) * 1e3)
        work = (machine.cpu_seconds(pid) - before) / count * 1e3
        report.add("agent explain, 10 files, work", work, "ms", "target <= 30")
        report.add("agent explain, 10 files, wall p50", percentile(walls, 0.5), "ms")
        applies = []
        for generation in range(1, 3 if quick else 8):
            data = (
                approved(patches.make_patch(_tree(generation - 1), _tree(generation), release_counter=generation))
                if generation > 1
                else data
            )
            if generation > 1:
                scene.cluster.publish(data)
                scene.wait_level()
            begin = time.perf_counter()
            assert scene.agent("apply", data)["code"] == "SUCCESS"
            applies.append((time.perf_counter() - begin) * 1e3)
        report.add("agent apply with two commits, wall p50", percentile(applies, 0.5), "ms")
        report.add("memory of a host's core", machine.resident_mib(pid), "MiB", "", 0)


def bench_one_patch(report: Report, quick: bool) -> None:
    """What a patch of ten files costs, step by step, without the network."""
    targets = {"create": "target <= 60", "verify": "target <= 5", "decide": "target <= 2", "apply": "target <= 40"}
    for name, value in bench_patch.measure(quick).items():
        report.add(f"patch of 10 files: {name}", value, "ms", targets.get(name, ""))
    for name, (value, note) in bench_tree.measure(quick).items():
        report.add(f"in a tree of 10,000: {name}", value, "ms", note)


def bench_replay(report: Report, quick: bool) -> None:
    """Replays of archives: many transactions in large blocks, and many small blocks."""
    with tempfile.TemporaryDirectory() as directory:
        large, small = Path(directory) / "large.archive", Path(directory) / "small.archive"
        bench_audit.make(large, 20_000 if quick else 100_000, 250)
        bench_audit.make(small, 2_000 if quick else 10_000, 1)
        for path, level, name, target in (
            (large, "full", "audit replay, full", "target >= 20,000"),
            (small, "signatures", "audit replay, signatures, small blocks", "target >= 5,000"),
            (small, "headers", "audit replay, headers, small blocks", ""),
        ):
            runs, ratios = [], []
            for _ in range(1 if quick else 5):
                before = machine.verify_us()
                runs.append(bench_audit.replay(path, level, 2, []))
                count = runs[-1].transactions if level == "full" else runs[-1].blocks
                ratios.append(count / runs[-1].seconds * (before + machine.verify_us()) / 2 / 2e6)
            median = sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]
            count, unit = (median.transactions, "tx") if level == "full" else (median.blocks, "block")
            report.add(f"{name}, start-up included", count / median.seconds, f"{unit}/s", target, 0)
            report.add(f"{name}: processor time", median.processor_seconds / count * 1e6, f"µs/{unit}")
            if level == "full":
                report.add(f"{name}: against bare verification", statistics.median(ratios), "ratio", "", 2)
                report.add(f"{name}: memory of the main process", max(run.peak_mib for run in runs), "MiB", "", 0)


def _patchwarden(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "node.cli", *arguments], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    if done.returncode:
        raise AssertionError(f"patchwarden {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def bench_command(report: Report, quick: bool) -> None:
    """How soon the command answers."""
    times = []
    for _ in range(3 if quick else 15):
        begin = time.perf_counter()
        _patchwarden("--help")
        times.append((time.perf_counter() - begin) * 1e3)
    report.add("patchwarden --help, median", statistics.median(times), "ms", "target <= 300", 0)


def bench_observers_cost(report: Report, quick: bool) -> None:
    """What 1, 10 and 50 observers cost the validators, and how far behind they are."""

    def add(name: str, value: float, unit: str, note: str, digits: int) -> None:
        report.add(name, value, unit, note, digits)

    bench_observers.bench(add, quick)


def bench_distributing(report: Report, quick: bool) -> None:
    """What validators send of a patch file that 1, 10 and 30 hosts fetch."""

    def add(name: str, value: float, unit: str, note: str, digits: int) -> None:
        report.add(name, value, unit, note, digits)

    bench_distribution.bench(add, quick)


def bench_crowds(report: Report, quick: bool) -> None:
    """Simulate crowds of hosts that want one patch file."""

    def add(name: str, value: float, unit: str, note: str, digits: int) -> None:
        report.add(name, value, unit, note, digits)

    bench_crowd.bench(add, quick)


SECTIONS: dict[str, Callable[[Report, bool], None]] = {
    "network": bench_network,
    "profile": bench_profile,
    "failover": bench_failover,
    "agent": bench_agent,
    "patch": bench_one_patch,
    "replay": bench_replay,
    "command": bench_command,
    "observers": bench_observers_cost,
    "distribution": bench_distributing,
    "crowd": bench_crowds,
}
BY_NAME_ONLY = frozenset({"observers", "distribution", "crowd"})
"""They take longer than all the others together."""


def main() -> None:
    """Run the chosen sections and print their figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=" ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="fewer rounds: to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    arguments = parser.parse_args()
    unknown = set(arguments.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no such section: {' '.join(sorted(unknown))}")
    report = Report()
    print("machine")
    report.add("load average at the start", machine.load_average(), "", "above 0.5: somebody else is at work", 2)
    report.add("Ed25519 verification, one core", machine.verify_us(), "µs")
    report.add("fdatasync of a small append, p50", machine.sync_ms(), "ms", "", 2)
    for name in arguments.sections or (each for each in SECTIONS if each not in BY_NAME_ONLY):
        print(name)
        SECTIONS[name](report, arguments.quick)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
