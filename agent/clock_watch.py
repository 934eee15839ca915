"""Whether the host's clock can be believed: it may not jump against a clock that nobody can set.

A wall clock is set by operators and by programs that follow a time server, and whoever sets it back makes an old replica look fresh and
opens yesterday's maintenance window. So the agent holds it against the time since boot: a *step* of more than `CLOCK_JUMP_MS_MAX`, either
way, is a jump. Who was right, the clock before the step or the one after it, nobody knows until the network says so: a block that is
certified later, and whose time is that of the clock, makes it believed again. So does going back to where it was.

Source: docs/spec/agent.md 4.6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from agent.errors import ReplicaStaleError
from agent.limits import CLOCK_JUMP_MS_MAX
from ledger.block import Header


@dataclass(frozen=True, slots=True)
class _Anchor:
    """A moment at which the clock was believed."""

    now_ms: int
    uptime_ms: int
    height: int
    """Height of the newest certified block then."""


class ClockWatch:
    """Compares two clocks of one host since this object was made. Safe to use from several threads.

    Args:
        now_ms: The wall clock: milliseconds since the epoch, UTC.
        uptime_ms: Milliseconds on a clock that nobody sets and that goes on while the machine sleeps.
    """

    def __init__(self, now_ms: Callable[[], int], uptime_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._uptime_ms = uptime_ms
        self._lock = Lock()
        self._anchor = _Anchor(now_ms(), uptime_ms(), -1)

    def step_ms(self, header: Header) -> int:
        """Return by how much the clock is ahead of where it should be, milliseconds; negative when it is behind.

        Args:
            header: Of the newest certified block. One that is new, and as old as `CLOCK_JUMP_MS_MAX` at most, makes the clock believed.
        """
        with self._lock:
            now_ms, uptime_ms = self._now_ms(), self._uptime_ms()
            anchor = self._anchor
            if anchor.height < 0:
                # What is here at the start says nothing about the clock; what comes later does.
                self._anchor = anchor = _Anchor(anchor.now_ms, anchor.uptime_ms, header.height)
            elif header.height > anchor.height and abs(now_ms - header.time_ms) <= CLOCK_JUMP_MS_MAX:
                self._anchor = anchor = _Anchor(now_ms, uptime_ms, header.height)
            return (now_ms - anchor.now_ms) - (uptime_ms - anchor.uptime_ms)


def check_clock(step_ms: int) -> None:
    """Return when the clock has not jumped.

    Args:
        step_ms: What `ClockWatch.step_ms` said.

    Raises:
        ReplicaStaleError: ``agent.replica.clock_jumped``.
    """
    if abs(step_ms) > CLOCK_JUMP_MS_MAX:
        raise ReplicaStaleError(
            "agent.replica.clock_jumped",
            f"the host's clock was set {'forwards' if step_ms > 0 else 'back'}, and no block has come since that says that it is right",
            expected=f"at most {CLOCK_JUMP_MS_MAX} ms",
            actual=f"{abs(step_ms)} ms",
            hint="set the clock; the next certified block, or a restart of the node, makes it believed",
        )
