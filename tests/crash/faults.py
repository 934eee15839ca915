"""What goes wrong at which call: one fault, at one point, once or from there on."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.crash.calls import NEEDS_ROOM, WRITES, Call
from tests.crash.notify import GO_ON, HALF, KILL, SHORT, Verdict

OFF_NAME: Final = ".fault-is-over"
"""A process that looks for this name says that the disk works again."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way for a call to go wrong."""

    name: str
    """As on the command line; `-always` says that it goes on."""
    verdict: Verdict
    is_eligible: Callable[[Call], bool]
    """Which calls it happens to."""
    continues: Callable[[Call], bool] | None = None
    """Which later calls it happens to as well; None when it happens once."""
    cut: int | None = None
    """How the file system loses its power with it: a flag of its shutdown; None when it does not."""

    @property
    def kills(self) -> bool:
        """Whether the process ends with it."""
        return self.verdict in (KILL, HALF)


def _changes(call: Call) -> bool:
    return call.changes


def _every(call: Call) -> bool:
    return True


def _is_write(call: Call) -> bool:
    return call.name in WRITES and call.length > 1


def _needs_room(call: Call) -> bool:
    return call.changes and call.name in NEEDS_ROOM


FAULTS: Final[dict[str, Fault]] = {
    fault.name: fault
    for fault in (
        Fault("kill", KILL, _changes),
        Fault("kill-anywhere", KILL, _every),
        Fault("torn", HALF, _is_write),
        Fault("power", KILL, _changes, cut=2),
        Fault("power-log", KILL, _changes, cut=1),
        Fault("short", SHORT, _is_write),
        Fault("enospc", errno.ENOSPC, _changes),
        Fault("enospc-always", errno.ENOSPC, _needs_room, _needs_room),
        Fault("eio", errno.EIO, _every),
        Fault("eio-always", errno.EIO, _every, _every),
        Fault("eacces", errno.EACCES, _every),
        Fault("eacces-always", errno.EACCES, _every, _every),
    )
}
"""Killed before every call that changes something: what a kill before a call that only reads leaves is the same. `kill-anywhere` does
both. `torn`: killed in the middle of a write. `power`: whatever is not synced is lost. `power-log`: the file system has written its own
journal, and nothing else that was not synced. `short`: half a write, then a full disk until it is over."""


class Plan:
    """One fault at one point of one process.

    Args:
        fault: What happens, or None to look on only.
        at: To which eligible call, counted from 1.
    """

    def __init__(self, fault: Fault | None, at: int) -> None:
        self._fault = fault
        self._at = at
        self._is_over = False
        self.count = 0
        """Eligible calls so far."""
        self.calls: list[Call] = []
        """Every call, when there is no fault."""
        self.hit: Call | None = None
        """The call to which it happened, or None."""

    def decide(self, call: Call) -> Verdict:
        """Return what becomes of a call."""
        if self._is_over or self._fault is None:
            self.calls.append(call)
            return GO_ON
        if call.paths[0].endswith(OFF_NAME):
            self._is_over = True
            return GO_ON
        fault = self._fault
        if self.hit is not None:
            if fault.verdict == SHORT and _needs_room(call):
                return errno.ENOSPC
            return fault.verdict if fault.continues is not None and fault.continues(call) else GO_ON
        if fault.is_eligible(call):
            self.count += 1
            if self.count == self._at:
                self.hit = call
                return fault.verdict
        return GO_ON
