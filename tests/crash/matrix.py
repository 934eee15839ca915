"""Every point of an operation, one after the other: bring the host there, hurt it, look, recover, compare.

===== ========================================================================================================================
depth what is hurt
===== ========================================================================================================================
0     a change, at each eligible call
1     a change is killed before each call that changes something, and its recovery hurt at each eligible call
2     a change is killed where the answer to "what happened?" changes, its recovery killed there too, and the recovery after that
      hurt at each eligible call
===== ========================================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.crash.calls import Call
from tests.crash.faults import FAULTS, Fault, Plan
from tests.crash.host import Host
from tests.crash.story import APPLY, FAILING, PASSING, ROLLBACK, FindingError

OPERATIONS: Final = {
    "apply": (APPLY, "", 0),
    "rollback": (ROLLBACK, "", 0),
    "hooks": (APPLY, PASSING, 0),
    "trial": (APPLY, FAILING, 0),
    "recover": (APPLY, "", 1),
    "recover-rollback": (ROLLBACK, "", 1),
    "recover-trial": (APPLY, FAILING, 1),
    "rerecover": (APPLY, "", 2),
    "rerecover-rollback": (ROLLBACK, "", 2),
}
"""By name: what changes the tree, whether its hooks pass, and at which depth it is hurt. A trial fails, and the change is taken back."""
POINTS_MAX: Final = 20_000
"""An operation makes fewer calls than this, or does not end."""
_TURNING_CALLS: Final = frozenset({"renameat2", "exchange", "syncfs"})
_TURNING_FILES: Final = ("/journal", "/outbox", "/state.json")


@dataclass
class Tally:
    """What was found."""

    points: int = 0
    findings: list[tuple[str, str]] = field(default_factory=list)
    """Kind, and where with what."""

    def count(self, kind: str) -> int:
        """Return the number of findings of a kind."""
        return sum(each == kind for each, _ in self.findings)


class Matrix:
    """The points of one host.

    Args:
        host: The host.
        part: Of how many parts this process does which: (1, 2) does the second of two.
        stride: Every how many-th point is done; 1 does all.
        stop_at_first: Whether one finding is enough.
    """

    def __init__(
        self, host: Host, part: tuple[int, int] = (0, 1), stride: int = 1, *, stop_at_first: bool = False
    ) -> None:
        self._host = host
        self._part = part
        self._stride = stride
        self.tally = Tally()
        self._stop_at_first = stop_at_first

    def run(self, depth: int, fault: Fault) -> Tally:
        """Return what was found at all points of this part."""
        if depth == 0:
            for at in self._numbers(split=True):
                if not self._point(f"at {at}", [], fault, at):
                    break
        elif depth == 1:
            for first in self._numbers(split=True):
                if not self._within([first], fault):
                    break
        else:
            self._recover_again(fault)
        return self.tally

    def _recover_again(self, fault: Fault) -> None:
        mine = -1
        for first in self._numbers(split=False):
            call = self._reach([first])
            if call is None:
                return
            if not is_turning(call):
                continue
            for second in self._numbers(split=False):
                call = self._reach([first, second])
                if call is None:
                    break
                if is_turning(call):
                    mine += 1
                    if mine % self._part[1] == self._part[0]:
                        self._within([first, second], fault)

    def _within(self, killed_at: list[int], fault: Fault) -> bool:
        """Hurt the recovery after kills at all its points; return whether the kills happened."""
        if self._reach(killed_at) is None:
            return False
        # Not always the same ones, when not all are done.
        for at in range(1 + sum(killed_at) % self._stride, POINTS_MAX, self._stride):
            where = f"{' and '.join(f'killed at {each}' for each in killed_at)}, recovery at {at}"
            if not self._point(where, killed_at, fault, at):
                return True
        raise AssertionError("a recovery must end")

    def _numbers(self, *, split: bool) -> Iterator[int]:
        number, of = self._part if split else (0, 1)
        return iter(range(1 + number * self._stride, POINTS_MAX, of * self._stride))

    def _reach(self, killed_at: list[int]) -> Call | None:
        """Bring the host to where these kills leave it; return the last call they stopped, or None when there is no such call."""
        self._host.restore()
        hit = None
        for index, at in enumerate(killed_at):
            plan = Plan(FAULTS["kill"], at)
            self._host.run(Host.recover if index else Host.act, plan)
            hit = plan.hit
        return hit

    def _point(self, where: str, killed_at: list[int], fault: Fault, at: int) -> bool:
        """Do one point; return whether there was such a call."""
        plan = Plan(fault, at)
        try:
            self._reach(killed_at)
            self._host.run(Host.recover if killed_at else Host.act, plan, cut=fault.cut)
            if plan.hit is None:
                return False
            self._host.look_meanwhile()
            said = self._host.run(Host.check, None)
            if "side" not in said:
                raise FindingError("unexplained", f"afterwards the agent does not start: {said}")
        except FindingError as finding:
            self.tally.findings.append((finding.kind, f"{where} ({plan.hit}): {finding.sentence}"))
            if plan.hit is None or self._stop_at_first:
                return False
        self.tally.points += 1
        return True


def is_turning(call: Call) -> bool:
    """Return whether a call is one before which the answer to "what happened?" may be another than after it."""
    return call.name in _TURNING_CALLS or any(part in path for part in _TURNING_FILES for path in call.paths)
