"""How far a change of a target has come, for whoever looks: written by the one thread that works, read by any other.

Nobody is told anything: who wants to know asks, as often as it likes, so no reader can slow down or stop the work, however slow or dead it
is. Writing is one assignment, and costs nothing that could be measured.

Source: docs/spec/agent.md 4.7.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

ACTION_EXPLAIN: Final = "explain"
ACTION_DRIFT: Final = "drift"
ACTION_RECOVER: Final = "recover"
STEP_APPLY: Final = "apply"
"""As `agent.results.StepName.APPLY`, which stands above hooks."""
STEP_SCAN: Final = "scan"
STEP_FETCH: Final = "fetch"
PATHS: Final = "paths"
FILES: Final = "files"
KIBIBYTES: Final = "KiB"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the work at one target stands, at one moment."""

    action: str
    """`apply_patch`, `rollback_patch`, `explain`, `drift` or `recover`."""
    patch_id: str
    """64 hexadecimal digits, or "" while it is not known."""
    step: str
    """A step of the pipeline (`agent.results.StepName`), `scan` before it, or `fetch`."""
    doing: str
    """What is being done, for a person."""
    done: int
    """How much of it is done, in `unit`; at most `total` where that is known."""
    total: int
    """How much there is, or 0 when nobody knows."""
    unit: str
    """`paths`, `files` or `KiB`; "" where nothing is counted."""
    elapsed_ms: int
    """Since the work at this target began."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


class _Stage:
    """One thing that is being done. Replaced as a whole, so that nobody sees the count of one under the name of another."""

    __slots__ = ("doing", "done", "step", "total", "unit")

    def __init__(self, step: str, doing: str, total: int, unit: str) -> None:
        self.step = step
        self.doing = doing
        self.total = total
        self.unit = unit
        self.done = 0


class Tracker:
    """The progress of whatever is done at one target. Its lock is held by who works, so there is one writer at a time."""

    def __init__(self) -> None:
        self._stage: _Stage | None = None
        self._action = ""
        self._patch_id = ""
        self._began_s = 0.0

    @contextmanager
    def work(self, action: str) -> Iterator[None]:
        """Tell about this work while the body of the `with` runs, and of nothing afterwards."""
        self._action, self._patch_id, self._began_s = action, "", time.monotonic()
        self._stage = _Stage(STEP_SCAN, "beginning", 0, "")
        try:
            yield
        finally:
            self._stage = None

    def name_patch(self, patch_id: str) -> None:
        """Say which patch it is about, once that is known."""
        self._patch_id = patch_id

    def begin(self, step: str, doing: str, total: int = 0, unit: str = "") -> None:
        """Begin to do something else; nothing outside of `work`.

        Args:
            step: Of the pipeline.
            doing: What, for a person.
            total: How much there is; 0 when nobody knows.
            unit: In what it is counted; "" when nothing is.
        """
        if self._stage is not None:
            self._stage = _Stage(step, doing, total, unit)

    def reach(self, done: int) -> None:
        """Say how much is done."""
        if (stage := self._stage) is not None:
            stage.done = done

    def advance(self) -> None:
        """Say that one more is done; where nothing is counted, nothing is said."""
        if (stage := self._stage) is not None and stage.unit:
            stage.done += 1

    def look(self) -> Progress | None:
        """Return how far it is, or None when nothing is being done. From any thread."""
        stage, action, patch_id, began_s = self._stage, self._action, self._patch_id, self._began_s
        if stage is None:
            return None
        elapsed_ms = max(0, int(1000 * (time.monotonic() - began_s)))
        done = min(stage.done, stage.total) if stage.total else stage.done
        return Progress(action, patch_id, stage.step, stage.doing, done, stage.total, stage.unit, elapsed_ms)
