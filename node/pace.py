"""Where a short synced write happens: on the event loop while the disk is quick, in a thread otherwise.

A thread costs a commit more than the disk does: going there and back takes two task switches, two thread switches and the lock of the
interpreter, 0.15 ms on an idle machine and milliseconds on a busy one, while the disks that validators are meant for sync a block in 0.1
to 0.3 ms. But whoever waits for a slow disk on the event loop sends no heartbeats. So the first slow write sends the next ones to the
thread, until no write has been slow for a while. What a write takes in the thread counts as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

SLOW_WRITE_S: Final = 0.005
"""A write that takes longer is slow: a tenth of what a heartbeat may be late."""
SLOW_PERIOD_S: Final = 1.0
"""How long after a slow write the following ones are done in the thread."""
INLINE_BYTES_MAX: Final = 16 * 1024
"""Of blocks in one write on the event loop; more of them take their time in Python alone."""


class WritePace:
    """Watches one node's synced writes."""

    def __init__(self) -> None:
        self._slow_until = 0.0

    @property
    def is_quick(self) -> bool:
        """Whether no write was slow lately."""
        return perf_counter() >= self._slow_until

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take note of how long the block takes, also when it raises."""
        begin = perf_counter()
        try:
            yield
        finally:
            end = perf_counter()
            if end - begin > SLOW_WRITE_S:
                self._slow_until = end + SLOW_PERIOD_S
