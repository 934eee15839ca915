"""The course of a rollout as numbers: how many hosts were in which state when, in the ledger's time.

It is computed from the history of the patch (`ledger.rollout_history`), a few thousand rows for a fleet of thousands, in slices between
which the node does everything else; one at a time, and kept until the history goes on.

Source: docs/spec/rollouts.md 9.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from ledger.keyspace import patch_key
from ledger.rollout_history import replay_rollout
from ledger.rollout_records import RUNNING, RolloutRecord
from ledger.rollout_turn import Moment, is_reached, openings
from ledger.state import StateView
from node.rollout_documents import COUNT_NAMES

Document = dict[str, Any]

COURSE_ROWS_MAX: Final = 200_000
"""Transactions about one patch that a course is computed from; the course of a longer history ends there and says so."""
COURSE_SLICE_ROWS: Final = 20
"""After so many, about 0.5 ms of work, the node does something else: a longer slice would stand before every message of the consensus."""
COURSE_POINTS_MAX: Final = 500
"""Points in one answer."""
COURSE_POINTS_DEFAULT: Final = 200
COURSES_KEPT_MAX: Final = 16
"""Courses that are kept, the last asked for."""
COURSE_MARKS_MAX: Final = 100
"""Changes of status that are told, the newest."""


@dataclass(slots=True)
class Course:
    """What was computed of one rollout."""

    height: int
    """The height of the ledger that it was computed from."""
    points: list[Document] = field(default_factory=list)
    """One for each block that changed something, oldest first."""
    marks: list[Document] = field(default_factory=list)
    """Changes of status, oldest first."""
    begun: dict[int, Moment] = field(default_factory=dict)
    """When waves first went, by their place. One that waited for nothing but time may be missing at the end."""
    running_since: Moment = (0, 0)
    """When the rollout was made or let go on, last."""
    complete: bool = False
    """Whether it ends at the rollout's record: nothing was cut, pruned or counted elsewhere."""


class Courses:
    """Computes courses, one at a time, and keeps some."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Course] = OrderedDict()
        self._busy = trio.Lock()

    async def find(self, view: StateView, rollout: RolloutRecord, rows_max: int = COURSE_ROWS_MAX) -> Course:
        """Return the course of a rollout up to the height of `view`."""
        kept = self._fresh(view, rollout)
        if kept is not None:
            return kept
        async with self._busy:
            # Whoever waited asks again: most often somebody else has just had it computed.
            found = self._fresh(view, rollout) or await _compute(view, rollout, rows_max)
            self._kept[rollout.rollout_id] = found
            self._kept.move_to_end(rollout.rollout_id)
            while len(self._kept) > COURSES_KEPT_MAX:
                self._kept.popitem(last=False)
            return found

    def _fresh(self, view: StateView, rollout: RolloutRecord) -> Course | None:
        kept = self._kept.get(rollout.rollout_id)
        if kept is None or view.height < kept.height:
            return None
        return None if any(view.history(patch_key(rollout.patch_id), kept.height + 1)) else kept


async def _compute(view: StateView, rollout: RolloutRecord, rows_max: int) -> Course:
    course = Course(view.height)
    last: RolloutRecord | None = None
    for row, step in enumerate(replay_rollout(view, rollout)):
        if row == rows_max:
            return course
        if row % COURSE_SLICE_ROWS == COURSE_SLICE_ROWS - 1:
            await trio.lowlevel.checkpoint()
        if step.rollout is None or step.rollout == last:
            continue
        now = step.rollout
        if last is not None:
            _note_waves(course, last, (step.height, step.time_ms))
        if now.status == RUNNING and (last is None or last.status != RUNNING):
            course.running_since = (step.height, step.time_ms)
        if last is None or (last.status, last.status_by) != (now.status, now.status_by):
            course.marks.append(_mark(now, step.time_ms))
            del course.marks[:-COURSE_MARKS_MAX]
        if course.points and course.points[-1]["height"] == step.height:
            course.points.pop()
        course.points.append(_point(now, step.height, step.time_ms))
        last = now
    course.complete = last == rollout
    return course


def _note_waves(course: Course, rollout: RolloutRecord, until: Moment) -> None:
    """Note which waves have begun up to a moment until which the rollout was as it is given."""
    if rollout.status != RUNNING or len(course.begun) == len(rollout.planned):
        return
    since = course.running_since
    for place, at in enumerate(openings(rollout)[:-1]):
        if place not in course.begun and at is not None and is_reached(at, *until):
            course.begun[place] = (max(at[0], since[0]), max(at[1], since[1]))


def _point(rollout: RolloutRecord, height: int, time_ms: int) -> Document:
    heard = [sum(column) for column in zip(*(wave[:5] for wave in rollout.counts), strict=True)]
    in_plan = sum(heard) - sum(rollout.counts[-1][:5])
    return {
        "height": height,
        "time_ms": time_ms,
        **dict(zip(COUNT_NAMES, heard, strict=True)),
        "silent": max(0, sum(rollout.planned) - in_plan),
        "failures": rollout.failures,
        "failures_forgiven": rollout.forgiven,
    }


def _mark(rollout: RolloutRecord, time_ms: int) -> Document:
    return {
        "height": rollout.status_height,
        "time_ms": time_ms,
        "status": rollout.status,
        "by": rollout.status_by,
        "reason": rollout.status_reason,
    }


def course_document(rollout: RolloutRecord, course: Course, points_max: int, now: Moment) -> Document:
    """Return a course with at most `points_max` points: of each stretch of time the last one, and the first of all.

    Args:
        rollout: The rollout as it is.
        course: How it came to be.
        points_max: 2 or more.
        now: Height and time of the newest block.
    """
    if course.complete:
        # A wave whose time has come since is in no transaction of the history.
        _note_waves(course, rollout, now)
    names = [wave.name for wave in rollout.waves]
    return {
        "rollout_id": rollout.rollout_id,
        "budget": rollout.budget,
        "points": thin_points(course.points, points_max),
        "points_total": len(course.points),
        "marks": course.marks,
        "waves": [
            {"name": names[place], "height": at[0], "time_ms": at[1]} for place, at in sorted(course.begun.items())
        ],
        "complete": course.complete,
        "height": course.height,
    }


def thin_points(points: Sequence[Document], points_max: int) -> list[Document]:
    """Return at most `points_max` (2 or more) of the points: the first, and of each of equal stretches of time the last."""
    if len(points) <= points_max:
        return list(points)
    begin, span = points[0]["time_ms"], max(1, points[-1]["time_ms"] - points[0]["time_ms"])
    last_of: dict[int, Document] = {}
    for point in points[1:]:
        last_of[min(points_max - 2, (point["time_ms"] - begin) * (points_max - 1) // span)] = point
    return [points[0], *last_of.values()]
