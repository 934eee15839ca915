"""From a failing run to the smallest part of its plan that still fails alike.

What is left out never moves what stays, but it changes what machines and messages draw, so a smaller plan may fail or not by chance: each
candidate is simply tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.sim.plan import NARROWINGS, Narrowing, Plan, narrow
from tests.sim.world import Outcome

RUNS_MAX = 150
"""Candidates that are tried at most: about a minute."""


class Shrinker:
    """Looks for smaller plans that fail with the same code.

    Args:
        plan: The plan that fails.
        code: How.
        run: Plays a plan.
    """

    def __init__(self, plan: Plan, code: str, run: Callable[[Plan], Outcome], runs_max: int = RUNS_MAX) -> None:
        self._plan = plan
        self._code = code
        self._run = run
        self.runs_left = runs_max
        self.best = Narrowing()

    def shrink(self) -> Narrowing:
        """Return the smallest part that was found to fail alike."""
        self._cut_time()
        self._drop_faults()
        for name in NARROWINGS:
            self._try(replace(self.best, without=(*self.best.without, name)))
        for clients in range(1, self._plan.clients):
            if self._try(replace(self.best, clients=clients)):
                break
        self._drop_faults()
        self._cut_time()
        return self.best

    def _try(self, candidate: Narrowing) -> bool:
        if self.runs_left <= 0:
            return False
        self.runs_left -= 1
        violation = self._run(narrow(self._plan, candidate)).violation
        if violation is None or violation.code != self._code:
            return False
        self.best = candidate
        return True

    def _cut_time(self) -> None:
        for part in (0.25, 0.5, 0.75):
            whole = self._plan.fault_s if self.best.until_s is None else self.best.until_s
            if self._try(replace(self.best, until_s=round(whole * part, 2))):
                return

    def _drop_faults(self) -> None:
        numbers = [fault.number for fault in narrow(self._plan, self.best).faults]
        if numbers and self._try(replace(self.best, faults=())):
            return
        size = len(numbers) // 2
        while size >= 1:
            start = 0
            while start < len(numbers):
                left = numbers[:start] + numbers[start + size :]
                if self._try(replace(self.best, faults=tuple(left))):
                    numbers = left
                else:
                    start += size
            size //= 2
