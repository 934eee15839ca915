"""When what did not succeed is tried again: after a wait that doubles, from one bound to another.

Source: docs/spec/agent.md 3.4, 3.5.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Retries(Generic[K]):
    """What waits, and until when. In memory only: a restart tries at once.

    Args:
        first_seconds: The first wait.
        most_seconds: No wait is longer.
        uptime_ms: Milliseconds on a clock that nobody sets: one that was wrong for a moment must put nothing off for longer.
    """

    def __init__(self, first_seconds: int, most_seconds: int, uptime_ms: Callable[[], int]) -> None:
        self._first_seconds = first_seconds
        self._most_seconds = most_seconds
        self._uptime_ms = uptime_ms
        self._waits: dict[K, tuple[int, int]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._waits

    def is_due(self, key: K) -> bool:
        """Return whether it may be tried now."""
        wait = self._waits.get(key)
        return wait is None or self._uptime_ms() >= wait[0]

    def put_off(self, key: K) -> None:
        """Wait twice as long as the last time."""
        _, last = self._waits.get(key, (0, 0))
        seconds = min(2 * last or self._first_seconds, self._most_seconds)
        self._waits[key] = (self._uptime_ms() + 1000 * seconds, seconds)

    def forget(self, key: K) -> None:
        """It has ended; the next time it is as if it had never waited."""
        self._waits.pop(key, None)

    def keep_only(self, is_kept: Callable[[K], bool]) -> None:
        """Forget every other one."""
        self._waits = {key: wait for key, wait in self._waits.items() if is_kept(key)}
