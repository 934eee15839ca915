"""What is noted about a run beside the clients' calls: each node's blocks as they are committed, its memory, the machine's load."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from node.local.client import LocalClient
from tests.faults.cluster import Cluster
from tests.faults.machine import resident_kib
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
class Slope:
    """How one process's memory went."""

    node: str
    pid: int
    span_s: float
    """From the end of its warm-up to its last sample."""
    first_kib: int
    last_kib: int
    most_kib: int
    kib_per_minute: float | None
    """By least squares; None for a short life."""
    late_kib_per_minute: float | None
    """The same over the last third of its life, when its caches have filled."""

    def __str__(self) -> str:
        return (
            f"{self.node:<3} pid {self.pid:<7} {self.span_s:6.0f} s after warm-up  {self.first_kib / 1024:6.1f} -> "
            f"{self.last_kib / 1024:6.1f} MiB (most {self.most_kib / 1024:6.1f})  "
            f"{_shown(self.kib_per_minute)}, in the last third {_shown(self.late_kib_per_minute)}"
        )


def _shown(slope: float | None) -> str:
    return "too short a life" if slope is None else f"{slope:+.0f} KiB/min"


def least_squares(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the line through the points; they must not all have one x."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def _slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Return KiB a minute, or None when the points span too little time to say."""
    return least_squares(points) * 60 if points[-1][0] - points[0][0] >= SLOPE_SPAN_S_MIN else None


class Sampler(threading.Thread):
    """Takes each node's memory and the machine's load once a second."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(name="sampler", daemon=True)
        self._cluster = cluster
        self._ended = threading.Event()
        self._samples: dict[tuple[str, int], list[tuple[float, int]]] = {}
        self.loads: list[float] = []

    def run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.loads.append(os.getloadavg()[0])
            for node in self._cluster.nodes:
                if node.is_running and (kib := resident_kib(node.pid)) is not None:
                    self._samples.setdefault((node.name, node.pid), []).append((time.monotonic(), kib))

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def slopes(self) -> list[Slope]:
        """Return how the memory of each process went that lived beyond its warm-up, the longest-lived of each node first."""
        slopes = []
        for (name, pid), samples in self._samples.items():
            begin = samples[0][0] + WARM_UP_S
            points = [(at, kib) for at, kib in samples if at >= begin]
            if len(points) < 2:
                continue
            span_s = points[-1][0] - points[0][0]
            late = [(at, kib) for at, kib in points if at >= points[-1][0] - span_s / 3]
            most = max(kib for _, kib in points)
            slopes.append(Slope(name, pid, span_s, points[0][1], points[-1][1], most, _slope(points), _slope(late)))
        return sorted(slopes, key=lambda slope: (slope.node, -slope.span_s))

    def load_text(self) -> str:
        """Return the machine's load average over the run."""
        ordered = sorted(self.loads) or [0.0]
        return f"load average {ordered[0]:.1f} to {ordered[-1]:.1f}, median {ordered[len(ordered) // 2]:.1f}"
