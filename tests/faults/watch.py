"""What is noted about a run beside the clients' calls: each node's blocks as they are committed, its memory, the machine's load."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from node.local.client import LocalClient
from tests.faults.cluster import Cluster
from tests.faults.machine import private_kib
from tests.faults.node import Node
from wire.errors import PatchwardenError

RECONNECT_S: Final = 0.1
SAMPLE_S: Final = 1.0
COMMITS_KEPT: Final = 20_000
"""The latest announcements of all nodes; enough to find one that was made a moment ago."""
WARM_UP_S: Final = 30.0
"""Caches fill at first; a process's memory is judged from here on."""
SLOPE_SPAN_S_MIN: Final = 30.0
"""A shorter life after the warm-up gives no slope worth printing."""
SLOPE_TRANSACTIONS_MIN: Final = 1_000
"""With fewer transactions there is no slope for each of them worth printing."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A block that a node announced as committed."""

    at: float
    """Monotonic seconds."""
    node: str
    height: int
    term: int


class BlockWatch(threading.Thread):
    """Follows one node's committed blocks through its deaths, and compares them with the other nodes'."""

    def __init__(self, node: Node, ledger: BlockLedger) -> None:
        super().__init__(name=f"watch {node.name}", daemon=True)
        self._node = node
        self._ledger = ledger
        self._height = 0

    def run(self) -> None:
        while not self._ledger.ended.is_set():
            try:
                # A stream is quiet for as long as the chain is; the idle block ends a wait on a healthy node.
                with LocalClient(self._node.socket, timeout_s=15) as client:
                    for event in client.stream("events.subscribe", from_height=self._height + 1):
                        if self._ledger.ended.is_set():
                            return
                        self._height = event["height"]
                        self._ledger.note(self._node.name, event)
            except PatchwardenError:
                self._ledger.ended.wait(RECONNECT_S)


class BlockLedger:
    """Every block that any node announced: one hash and one state root for each height, or it is a violation."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.ended = threading.Event()
        self.commits: deque[Commit] = deque(maxlen=COMMITS_KEPT)
        self.terms: set[int] = set()
        """The terms of all blocks seen."""
        self.violations: list[str] = []
        self._lock = threading.Lock()
        self._known: dict[int, tuple[str, str, str]] = {}
        self._watches = [BlockWatch(node, self) for node in nodes]

    def start(self) -> None:
        for watch in self._watches:
            watch.start()

    def stop(self) -> None:
        """Tell the watches to end; they are not waited for, because a stream may be quiet."""
        self.ended.set()

    def note(self, node: str, event: dict[str, Any]) -> None:
        at = time.monotonic()
        with self._lock:
            self.commits.append(Commit(at, node, event["height"], event["term"]))
            self.terms.add(event["term"])
            seen = (event["block_hash"], event["state_root"], node)
            known = self._known.setdefault(event["height"], seen)
            if known[:2] != seen[:2]:
                self.violations.append(f"two committed blocks at height {event['height']}: {known} and {seen}")

    def find_commit(self, after: float, term_above: int, nodes: Sequence[str]) -> Commit | None:
        """Return the first block of a higher term that one of the nodes announced after a moment."""
        with self._lock:
            return next(
                (c for c in self.commits if c.at >= after and c.term > term_above and c.node in nodes),
                None,
            )


@dataclass(frozen=True, slots=True)
class Sample:
    """One process's memory at one moment."""

    at: float
    """Monotonic seconds."""
    kib: int
    """Private memory."""
    transactions: int
    """Acknowledged to all clients by then."""


@dataclass(frozen=True, slots=True)
class Slope:
    """How one process's memory went."""

    node: str
    pid: int
    is_whole: bool
    """Whether the process lived through the whole run."""
    span_s: float
    """From the end of its warm-up to its last sample."""
    first_kib: int
    last_kib: int
    most_kib: int
    late_kib_per_minute: float | None
    """By least squares over the last half of its life, when its caches have filled; None for a short life."""
    late_kib_per_thousand: float | None
    """The same for each 1,000 transactions; None when there were hardly any."""

    def __str__(self) -> str:
        late = "too short a life"
        if self.late_kib_per_minute is not None:
            late = f"in the last half {self.late_kib_per_minute / 1024:+.3f} MiB/min"
            if self.late_kib_per_thousand is not None:
                late += f", {self.late_kib_per_thousand:+.1f} KiB per 1,000 transactions"
        return (
            f"{self.node:<3} pid {self.pid:<7} {'never restarted' if self.is_whole else 'restarted':<15} {self.span_s:6.0f} s  "
            f"{self.first_kib / 1024:6.1f} -> {self.last_kib / 1024:6.1f} MiB (most {self.most_kib / 1024:6.1f}); {late}"
        )


def judge_memory(node: str, pid: int, samples: Sequence[Sample], *, is_whole: bool) -> Slope | None:
    """Return how the memory went after the warm-up, or None when the process hardly outlived it."""
    after = [sample for sample in samples if sample.at >= samples[0].at + WARM_UP_S]
    if len(after) < 2:
        return None
    span_s = after[-1].at - after[0].at
    late = [sample for sample in after if sample.at >= after[-1].at - span_s / 2]
    per_minute = per_thousand = None
    if span_s >= SLOPE_SPAN_S_MIN:
        per_minute = least_squares([(sample.at, sample.kib) for sample in late]) * 60
        if late[-1].transactions - late[0].transactions >= SLOPE_TRANSACTIONS_MIN:
            per_thousand = least_squares([(sample.transactions, sample.kib) for sample in late]) * 1000
    most = max(sample.kib for sample in samples)
    return Slope(node, pid, is_whole, span_s, after[0].kib, after[-1].kib, most, per_minute, per_thousand)


def least_squares(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the line through the points; they must not all have one x."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


class Sampler(threading.Thread):
    """Takes each node's memory and the machine's load once a second."""

    def __init__(self, cluster: Cluster, count_transactions: Callable[[], int]) -> None:
        super().__init__(name="sampler", daemon=True)
        self._cluster = cluster
        self._count_transactions = count_transactions
        self._ended = threading.Event()
        self._samples: dict[tuple[str, int], list[Sample]] = {}
        self.loads: list[float] = []

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.loads.append(os.getloadavg()[0])
            transactions = self._count_transactions()
            for node in self._cluster.nodes:
                if node.is_running and (kib := private_kib(node.pid)) is not None:
                    sample = Sample(time.monotonic(), kib, transactions)
                    self._samples.setdefault((node.name, node.pid), []).append(sample)

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def most_kib(self, node: str) -> int:
        """Return the most private memory that any process of the node had; 0 when none was seen."""
        return max((s.kib for (name, _), samples in self._samples.items() if name == node for s in samples), default=0)

    def slopes(self) -> list[Slope]:
        """Return how the memory of each process went that lived beyond its warm-up, the longest-lived of each node first."""
        lives = Counter(name for name, _ in self._samples)
        slopes = [
            slope
            for (name, pid), samples in self._samples.items()
            if (slope := judge_memory(name, pid, samples, is_whole=lives[name] == 1)) is not None
        ]
        return sorted(slopes, key=lambda slope: (not slope.is_whole, slope.node, -slope.span_s))

    def load_text(self) -> str:
        """Return the machine's load average over the run."""
        ordered = sorted(self.loads) or [0.0]
        return f"load average {ordered[0]:.1f} to {ordered[-1]:.1f}, median {ordered[len(ordered) // 2]:.1f}"
