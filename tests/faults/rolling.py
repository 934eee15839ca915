"""Validators are restarted one after the other, and leadership is moved by command, under load: no submission may fail."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.faults.clients import Workload
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.ending import Result, judge, read_logs, settle_nodes
from tests.faults.history import Recorder, longest_gap_s, read_history
from tests.faults.linearizability import EXISTS
from tests.faults.measures import count_elections, percentile
from tests.faults.node import Node
from tests.faults.watch import BlockLedger, Sampler

HAND_OVER_MS_MAX: Final = 300.0
"""The longest that a hand-over may take, from the request until another node leads."""
COMMANDS: Final = 10
"""Hand-overs by command after the restarts."""
SETTLE_S: Final = (0.5, 1.5)
_HANDED_OVER: Final = re.compile(r'"took_ms": ?([0-9.]+).*"event": ?"leadership handed over"')


@dataclass(frozen=True, slots=True)
class _Step:
    """One restart, or one hand-over by command."""

    text: str
    begin_ns: int
    end_ns: int
    hand_overs_ms: tuple[float, ...]


def measure_rolling(directory: Path, rounds: int, seed: int) -> Result:
    """Restart every validator so many times in turn; print what hand-overs took and how long clients waited."""
    result = Result()
    chance = random.Random(f"rolling {seed}")
    cluster = Cluster(directory / "nodes")
    with closing(Recorder(directory / "history.jsonl")) as recorder, running_cluster(cluster):
        blocks = BlockLedger(cluster.nodes)
        workload = Workload(
            cluster, recorder, seed=seed, clients=4, pause_s=0.01, loaders=2, batch=20, batch_interval_s=0.1
        )
        sampler = Sampler(cluster, lambda: workload.acknowledged)
        for part in (blocks, sampler, workload):
            part.start()
        time.sleep(2)
        elections = count_elections(cluster)
        steps = []
        for _ in range(rounds):
            for node in cluster.validators:
                steps.append(_restart(cluster, node, result))
                time.sleep(chance.uniform(*SETTLE_S))
        for _ in range(COMMANDS):
            steps.append(_hand_over(cluster))
            time.sleep(chance.uniform(*SETTLE_S))
        elections = count_elections(cluster) - elections
        workload.stop()
        sampler.stop()
        blocks.stop()
        result.violations += blocks.violations
        settle_nodes(cluster)
        judge(cluster, recorder, result)
    _report(result, steps, workload, recorder)
    hand_overs = sum(len(step.hand_overs_ms) for step in steps)
    result.add(f"{elections} elections for {hand_overs} hand-overs")
    result.add(f"{sampler.load_text()} on {os.cpu_count()} processors")
    read_logs(cluster, result)
    return result


def _restart(cluster: Cluster, node: Node, result: Result) -> _Step:
    leads = cluster.find_leader() is node
    offset, begin, begin_ns = node.log_size(), time.monotonic(), time.monotonic_ns()
    if (code := node.stop()) != 0:
        result.violations.append(f"{node.name} ended with {code} on SIGTERM")
    ended_s = time.monotonic() - begin
    node.start()
    up_s = node.wait_up()
    cluster.wait_level()
    took = tuple(float(value) for value in _HANDED_OVER.findall(node.log_since(offset)))
    text = f"restart of {node.name}{', which led' if leads else ''}: ended after {ended_s:.2f} s, up again after {up_s:.2f} s more"
    return _Step(text, begin_ns, time.monotonic_ns(), took)


def _hand_over(cluster: Cluster) -> _Step:
    leader, begin_ns = cluster.wait_leader(), time.monotonic_ns()
    answer = leader.call("node.transfer-leadership")
    cluster.wait_leader()
    return _Step(f"hand-over by {leader.name} by command", begin_ns, time.monotonic_ns(), (answer["took_ms"],))


def _report(result: Result, steps: Sequence[_Step], workload: Workload, recorder: Recorder) -> None:
    calls = [each for each in read_history(recorder.path) if each.action in ("create", "write", "load")]
    gaps: list[float] = []
    took: list[float] = []
    for step in steps:
        gap_s = longest_gap_s(recorder.returns_ns, step.begin_ns, step.end_ns)
        slowest = [
            (each.returned_ns - each.called_ns) / 1e9
            for each in calls
            if not each.is_open and each.called_ns < step.end_ns and each.returned_ns > step.begin_ns
        ]
        gaps.append(gap_s)
        took += step.hand_overs_ms
        hand_over = "".join(f"; handed over in {ms:.0f} ms" for ms in step.hand_overs_ms)
        result.add(
            f"{step.text}{hand_over}; longest time without an acknowledgement {gap_s:.2f} s, "
            f"slowest submission {max(slowest, default=0):.2f} s"
        )
    failed = {code: count for code, count in workload.answers.items() if code.startswith("unexpected")}
    # Two clients may create the same register: one of them is refused by right.
    refused = sum(each.outcome == "refused" and each.result != EXISTS for each in calls)
    again = ", ".join(f"{count} {code}" for code, count in workload.answers.most_common(12))
    result.add(
        f"{workload.acknowledged} transactions acknowledged, {refused} submissions failed; tried again: {again or 'none'}"
    )
    if failed or refused:
        result.violations.append(f"{refused} submissions failed: {failed}")
    result.add(
        f"{len(took)} hand-overs: median {percentile(took, 0.5):.0f} ms, max {max(took):.0f} ms; "
        f"longest time without an acknowledgement in all {len(steps)} steps: {max(gaps):.2f} s"
    )
    if max(took) > HAND_OVER_MS_MAX:
        result.violations.append(f"a hand-over took {max(took):.0f} ms, more than {HAND_OVER_MS_MAX:.0f}")
