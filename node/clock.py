"""The node's only door to the wall clock and to chance: everything below floor 4 gets both as arguments."""

from __future__ import annotations

import secrets
import time


class Clock:
    """The wall clock as an object, for those who are given one; tests give another with the same methods."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch, UTC."""
        return now_ms()

    def monotonic_ms(self) -> int:
        """Return milliseconds since an arbitrary moment; never goes back."""
        return monotonic_ms()


def now_ms() -> int:
    """Return milliseconds since the epoch, UTC; may jump when the operator sets the clock."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Return milliseconds since an arbitrary moment; never goes back."""
    return time.monotonic_ns() // 1_000_000


def uptime_ms() -> int:
    """Return milliseconds since an arbitrary moment; never goes back, and goes on while the machine sleeps where the system can tell."""
    source = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(source) // 1_000_000


def entropy(count: int) -> int:
    """Return an unpredictable integer from 0 to `count` - 1; the `entropy` that `consensus.core.Replica` is given."""
    return secrets.randbelow(count)


def random_bytes(length: int) -> bytes:
    """Return `length` unpredictable bytes: nonces, tokens, seeds."""
    return secrets.token_bytes(length)


def jittered(seconds: float) -> float:
    """Return between half of `seconds` and all of it, so that nodes that failed together do not retry together."""
    return seconds * (0.5 + secrets.randbelow(1 << 16) / (1 << 17))
