"""`python -m tests.bench crowd`: what validators give of a patch file that 10 to 10,000 hosts want at the same moment, simulated.

The parts that decide are the real ones, the network is an event queue (`tests/testkit/patch_crowd.py`): figures are the same on every
machine, and say nothing about how long anything takes but waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.testkit.patch_crowd import Crowd, Shape

BAD: dict[str, Any] = {"slow": 0.1, "dead": 0.05, "false": 0.03, "hoards": 0.02}


def bench(add: Callable[[str, float, str, str, int], None], quick: bool) -> None:
    """Simulate crowds of several sizes, good and bad ones, and small ones with slow uploads."""
    for hosts in (10, 100) if quick else (10, 100, 1_000, 10_000):
        crowds: list[tuple[str, dict[str, Any]]] = [("all honest", {}), ("20 % are not", BAD)]
        if hosts <= 100:
            crowds.append(("20 % are not, 2 s a chunk", {**BAD, "chunk_s": 2.0}))
        for what, options in crowds:
            crowd = Crowd(Shape(hosts, **options))
            crowd.run()
            stranded = sum(host.stranded for host in crowd.hosts)
            done = "all have it" if crowd.is_done else "NOT ALL HAVE IT"
            add(f"{hosts:,} hosts, {what}: by validators", crowd.copies(), "files", f"{done}, {stranded} stranded", 2)
            add(f"{hosts:,} hosts, {what}: questions", crowd.finds(), "", "patch.find at all validators", 0)
            note = f"p50 {crowd.last_s(0.5):.0f}, p99 {crowd.last_s(0.99):.0f}"
            add(f"{hosts:,} hosts, {what}: until the last", crowd.last_s(), "s", note, 0)
