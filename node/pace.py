"""Where a short synced write happens: on the event loop while the disk is quick, in a thread otherwise.

A thread costs a commit more than the disk does: going there and back takes two task switches, two thread switches and the lock of the
interpreter, 0.15 ms on an idle machine and milliseconds on a busy one, while the disks that validators are meant for sync a block in 0.1
to 0.3 ms. But whoever waits for a slow disk on the event loop sends no heartbeats. So a write that stalls sends the next ones to the
thread, and so do writes of which most are slow, until that has not been so for a while. What a write takes in the thread counts as well.
A single slow write says nothing: where processors are busy, the process may have lost its own in the middle of it, and a thread would make
that worse.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import Final

SLOW_WRITE_S: Final = 0.005
"""A write that takes longer is slow: a tenth of what a heartbeat may be late."""
STALLED_WRITE_S: Final = 0.05
"""A write that takes longer is enough by itself: half of what lies between two heartbeats."""
WRITES_JUDGED: Final = 5
"""Of so many last writes, the median is judged."""
SLOW_PERIOD_S: Final = 1.0
"""How long after the disk was found slow the writes are done in the thread."""
INLINE_BYTES_MAX: Final = 16 * 1024
"""Of blocks in one write on the event loop; more of them take their time in Python alone."""


class WritePace:
    """Watches one node's synced writes."""

    def __init__(self, seconds: Callable[[], float] = perf_counter) -> None:
        """Judge nothing yet; `seconds` is a clock for short times."""
        self._seconds = seconds
        self._slow_until = 0.0
        self._last: deque[float] = deque([0.0] * WRITES_JUDGED, maxlen=WRITES_JUDGED)

    @property
    def is_quick(self) -> bool:
        """Whether the disk was not found slow lately."""
        return self._seconds() >= self._slow_until

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take note of how long the block takes, also when it raises."""
        begin = self._seconds()
        try:
            yield
        finally:
            end = self._seconds()
            self._last.append(end - begin)
            if end - begin > STALLED_WRITE_S or median(self._last) > SLOW_WRITE_S:
                self._slow_until = end + SLOW_PERIOD_S
