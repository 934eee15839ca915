"""The long run: rounds of faults on a loaded cluster, then everything heals, and what was recorded is judged."""

from __future__ import annotations

import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger import bodies
from tests.faults import kinds
from tests.faults.clients import Workload
from tests.faults.cluster import HOST_IDENTITY, Cluster, running_cluster
from tests.faults.ending import Result, judge, read_logs, settle_nodes
from tests.faults.history import Recorder, longest_gap_s
from tests.faults.kinds import KINDS, NothingToHurt, Stage
from tests.faults.machine import HarnessError, cpu_seconds, find_clock_obstacle, find_strace_obstacle
from tests.faults.measures import count_elections
from tests.faults.node import SMALL_DISK_BYTES
from tests.faults.schedule import Round, draw_rounds
from tests.faults.watch import BlockLedger, Sampler

RECOVERY_S_MAX: Final = 30.0
"""After a round has healed, a transaction must be committed through every node within this."""
GROWTH_BYTES_A_MINUTE: Final = 24 * 1024 * 1024
"""More than this load's data on one node; otherwise the small disk would be full for good in a long run."""
POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class _Span:
    kinds: tuple[str, ...]
    begin_ns: int
    end_ns: int
    recovery_s: float


def available_kinds(only: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """Return the kinds of faults that this machine lets happen, and why not the others."""
    reasons: dict[str, str] = {}
    strace_obstacle = find_strace_obstacle()
    for name in only or sorted(KINDS):
        need = KINDS[name].need
        if need == "strace" and strace_obstacle is not None:
            reasons[name] = strace_obstacle
        elif need == "clock library" and (clock_obstacle := find_clock_obstacle()) is not None:
            reasons[name] = clock_obstacle
    return [name for name in only or sorted(KINDS) if name not in reasons], reasons


class MixedRun:
    """One run of rounds of faults."""

    def __init__(self, directory: Path, *, seed: int, minutes: float, only: Sequence[str] | None = None) -> None:
        self.directory = directory
        self.seed = seed
        self.minutes = minutes
        self.kinds, self.refused_kinds = available_kinds(only)
        if not self.kinds:
            raise HarnessError(f"none of these faults can be made here: {self.refused_kinds}")
        self.result = Result()
        self._spans: list[_Span] = []
        self._summary: list[str] = []
        chance = random.Random(f"cast {seed}")
        small, spared = chance.sample(range(4), 2)
        self.cluster = Cluster(
            directory / "nodes",
            host=True,
            movable_clocks="clock" in self.kinds,
            small_disk=small if {"disk-low", "disk-full"} & set(self.kinds) else None,
            small_disk_bytes=SMALL_DISK_BYTES + int(minutes * GROWTH_BYTES_A_MINUTE),
        )
        self._spared = spared

    def run(self) -> Result:
        """Do everything; the files stay in the directory."""
        result = self.result
        result.add(f"seed {self.seed}, {self.minutes:g} minutes, faults: {' '.join(self.kinds)}")
        for name, reason in self.refused_kinds.items():
            result.add(f"not made here: {name}: {reason}")
        with closing(Recorder(self.directory / "history.jsonl")) as recorder, running_cluster(self.cluster):
            stage = Stage(self.cluster, spared=self.cluster.validators[self._spared])
            assert stage.spared is not None
            small = next((node.name for node in self.cluster.nodes if node.has_small_disk), "none")
            result.add(f"never killed: {stage.spared.name}; small disk: {small}")
            with self._observing(recorder) as (blocks, workload):
                try:
                    self._rounds(stage, recorder, blocks)
                finally:
                    kinds.end_everything(stage)
                self._settle_clients(stage, workload)
            recorder.close()
            result.violations += stage.violations
            result.violations += blocks.violations
            settle_nodes(self.cluster)
            judge(self.cluster, recorder, result)
        read_logs(self.cluster, result)
        self._add_summary()
        return result

    def _add_summary(self) -> None:
        """Print what docs/testing.md is to tell of this run."""
        kinds = Counter(name for span in self._spans for name in span.kinds)
        lines = [
            f"rounds: {self.result.rounds}, by kind: {', '.join(f'{name} {count}' for name, count in sorted(kinds.items()))}",
            f"elections: {count_elections(self.cluster)}",
            *self._summary,
            f"violations: {len(self.result.violations)}",
        ]
        self.result.add("summary")
        for line in lines:
            self.result.add(f"  {line}")

    @contextmanager
    def _observing(self, recorder: Recorder) -> Iterator[tuple[BlockLedger, Workload]]:
        """Let clients and watches run during the body; then print what they counted."""
        workload = Workload(self.cluster, recorder, seed=self.seed)
        blocks = BlockLedger(self.cluster.nodes)
        sampler = Sampler(self.cluster, lambda: workload.acknowledged)
        begin = time.monotonic()
        blocks.start()
        sampler.start()
        workload.start()
        try:
            yield blocks, workload
        finally:
            workload.ended.set()
            sampler.stop()
            blocks.stop()
        switch_share = cpu_seconds(self.cluster.network.switch_pid) / (time.monotonic() - begin)
        self.result.add(
            f"{sampler.load_text()} on {os.cpu_count()} processors; the switch used {switch_share:.0%} of one"
        )
        for slope in sampler.slopes():
            if slope.is_whole or slope.late_kib_per_minute is not None:
                self.result.add(f"memory  {slope}")
        self._summary = [
            f"transactions acknowledged: {workload.acknowledged}",
            *(f"memory: {slope}" for slope in sampler.slopes() if slope.is_whole),
            sampler.load_text(),
        ]
        answers = ", ".join(f"{count} {code}" for code, count in workload.answers.most_common(12))
        self.result.add(f"answers that were tried again: {answers or 'none'}")

    # Rounds

    def _rounds(self, stage: Stage, recorder: Recorder, blocks: BlockLedger) -> None:
        self._sleep(2, stage)
        end = time.monotonic() + self.minutes * 60
        for each in draw_rounds(self.seed, self.kinds):
            if time.monotonic() > end or stage.violations or blocks.violations:
                break
            self.result.rounds += 1
            self._round(each, stage, recorder)
        self.result.add(f"{self.result.rounds} rounds, {len(blocks.terms)} terms with a block")
        self._add_gaps(recorder)

    def _round(self, each: Round, stage: Stage, recorder: Recorder) -> None:
        begin_ns = time.monotonic_ns()
        texts = []
        with ExitStack() as stack:
            for index, name in enumerate(each.kinds):
                try:
                    text = stack.enter_context(KINDS[name].happening(stage, each.chance(index)))
                except NothingToHurt:
                    continue
                recorder.fault(name, "begin", text)
                texts.append(text)
            self._sleep(each.hold_s, stage)
        recorder.fault("+".join(each.kinds), "end", "; ".join(texts))
        recovery_s = self._wait_recovered(stage)
        self._spans.append(_Span(each.kinds, begin_ns, time.monotonic_ns(), recovery_s))
        self.result.add(
            f"round {each.number:<3} {'; '.join(texts) or 'nothing to hurt'}: {each.hold_s:.1f} s, well after {recovery_s:.1f} s"
        )
        self._sleep(each.rest_s, stage)

    def _sleep(self, seconds: float, stage: Stage) -> None:
        """Let time pass, and look for nodes that end by themselves."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for node in self.cluster.nodes:
                if not node.is_running and not node.expected_down:
                    assert node.process is not None
                    node.expected_down = True
                    stage.violate(
                        f"{node.name} ended by itself with {node.process.returncode}: "
                        f"{node.log_since(max(0, node.log_size() - 2500))}"
                    )
            time.sleep(POLL_S)

    def _wait_recovered(self, stage: Stage) -> float:
        """Return the seconds until a new transaction was committed and seen by every node."""
        begin = time.monotonic()
        marker = self.cluster.sign(bodies.HostReport("inventory", "recovery", b""), HOST_IDENTITY)
        try:
            height = self.cluster.submit(marker, timeout_s=RECOVERY_S_MAX)
            for node in self.cluster.nodes:
                self.cluster.wait_for(
                    lambda node=node: (node.status() or {"height": 0})["height"] >= height,  # type: ignore[misc]
                    f"{node.name} has block {height}",
                    max(1.0, RECOVERY_S_MAX - (time.monotonic() - begin)),
                )
        except HarnessError as error:
            states = {node.name: (node.status() or {}) for node in self.cluster.nodes}
            shown = {
                name: {key: status.get(key) for key in ("role", "term", "leader", "height", "last_height")}
                for name, status in states.items()
            }
            stage.violate(f"the network does not recover when all faults have ended: {error}; {shown}")
        return time.monotonic() - begin

    def _add_gaps(self, recorder: Recorder) -> None:
        by_kind: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for span in self._spans:
            gap_s = longest_gap_s(recorder.returns_ns, span.begin_ns, span.end_ns)
            if len(span.kinds) == 1:
                by_kind[span.kinds[0]].append((gap_s, span.recovery_s))
            else:
                by_kind["two at once"].append((gap_s, span.recovery_s))
        for name, pairs in sorted(by_kind.items()):
            self.result.add(
                f"{name:<12} {len(pairs):>3} times; longest time without an acknowledgement "
                f"{max(gap for gap, _ in pairs):5.2f} s; whole again at most {max(healed for _, healed in pairs):5.2f} s after"
            )

    # The end

    def _settle_clients(self, stage: Stage, workload: Workload) -> None:
        """Give the calls that are under way time to be answered, then end the clients."""
        if not stage.violations:
            time.sleep(3)
        workload.stop()
