"""Plots as numbers: where each layer of a stack lies, which ticks an axis has. Pure; `figures` makes SVG of it.

A course is a staircase: what a block said holds until the next one that says something. Heights are rounded where layers meet and
not one by one, so that the stack is never lower or higher than its hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PLOT_POINTS_MAX: Final = 160
"""Points that a plot is drawn from, whatever came."""
Y_TICKS_MAX: Final = 5
X_TICKS_MAX: Final = 5
_SECOND, _MINUTE, _HOUR, _DAY = 1_000, 60_000, 3_600_000, 86_400_000
_TIME_STEPS: Final = (
    *(step * _SECOND for step in (1, 2, 5, 10, 15, 30)),
    *(step * _MINUTE for step in (1, 2, 5, 10, 15, 30)),
    *(step * _HOUR for step in (1, 2, 3, 6, 12)),
    *(step * _DAY for step in (1, 2, 5, 10, 30, 90, 365, 3_650, 36_500)),
)
"""Distances between ticks of a time axis, ms."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The rectangle in which is drawn, and what its sides mean. Times in ms, places in units of the picture."""

    begin_ms: int
    end_ms: int
    """After `begin_ms`."""
    top: int
    """The number at the upper side, at least 1; 0 is at the lower one."""
    left: int
    right: int
    upper: int
    lower: int

    def x(self, time_ms: int) -> int:
        """Return where a moment is; one outside is at the side."""
        inside = min(max(time_ms, self.begin_ms), self.end_ms)
        return self.left + (inside - self.begin_ms) * (self.right - self.left) // (self.end_ms - self.begin_ms)

    def y(self, number: int) -> int:
        """Return where a number is; one outside is at the side."""
        inside = min(max(number, 0), self.top)
        return self.lower - inside * (self.lower - self.upper) // self.top


def make_frame(begin_ms: int, end_ms: int, number_max: int, *, width: int, height: int) -> Frame:
    """Return a frame in a picture of that size, with room for labels; a moment or a nothing becomes something that can be drawn."""
    step = number_step(number_max)
    top = max(step, -(-number_max // step) * step)
    return Frame(begin_ms, max(end_ms, begin_ms + _SECOND), top, 52, width - 12, 34, height - 30)


def thin(times: Sequence[int], count_max: int = PLOT_POINTS_MAX) -> list[int]:
    """Return the places of at most `count_max` of `times`, in order: the first, and of each of equal stretches the last."""
    if len(times) <= count_max:
        return list(range(len(times)))
    begin, span = times[0], max(1, times[-1] - times[0])
    last_of = {
        min(count_max - 2, (time_ms - begin) * (count_max - 1) // span): place
        for place, time_ms in enumerate(times)
        if place
    }
    return [0, *last_of.values()]


def stack(values: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the border above each layer at each point: of the first layer its values, of the last one the sums.

    Args:
        values: For each layer its number at each point, never negative.
    """
    borders: list[list[int]] = []
    below = [0] * len(values[0]) if values else []
    for layer in values:
        below = [under + max(0, number) for under, number in zip(below, layer, strict=True)]
        borders.append(below)
    return borders


def staircase(frame: Frame, times: Sequence[int], numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return the corners of the line of a number that holds until the next point, from left to right, to the end of the frame."""
    corners: list[tuple[int, int]] = []
    for time_ms, number in zip(times, numbers, strict=True):
        x, y = frame.x(time_ms), frame.y(number)
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    if corners:
        corners.append((frame.right, corners[-1][1]))
    return _without_repeats(corners)


def band(lower: Sequence[tuple[int, int]], upper: Sequence[tuple[int, int]]) -> str:
    """Return the path of the area between two staircases."""
    return path([*upper, *reversed(lower)]) + "Z" if upper else ""


def path(corners: Sequence[tuple[int, int]]) -> str:
    """Return corners as the data of a path."""
    return "".join(f"{'L' if place else 'M'}{x} {y}" for place, (x, y) in enumerate(corners))


def number_step(number_max: int) -> int:
    """Return the distance between ticks up to `number_max`: 1, 2 or 5 with zeros, so that there are at most `Y_TICKS_MAX` above 0."""
    scale = 1
    while True:
        for step in (scale, 2 * scale, 5 * scale):
            if -(-max(1, number_max) // step) <= Y_TICKS_MAX:
                return step
        scale *= 10


def number_ticks(frame: Frame) -> list[int]:
    """Return the numbers that an axis names, from 0 to the top."""
    return list(range(0, frame.top + 1, number_step(frame.top)))


def time_ticks(frame: Frame) -> list[int]:
    """Return the moments that an axis names, rising, at most `X_TICKS_MAX` + 1 of them, at round times of UTC."""
    span = frame.end_ms - frame.begin_ms
    step = next((each for each in _TIME_STEPS if span // each <= X_TICKS_MAX), max(span, 1))
    first = -(-frame.begin_ms // step) * step
    return list(range(first, frame.end_ms + 1, step))


def label_rows(places: Sequence[int], widths: Sequence[int], rows_max: int) -> list[int | None]:
    """Return in which row each label stands so that none covers another; None for one that finds no room.

    Args:
        places: Where each begins, in rising order.
        widths: How wide each is.
        rows_max: How many rows there are.
    """
    free = [min(places, default=0)] * rows_max
    rows: list[int | None] = []
    for place, width in zip(places, widths, strict=True):
        row = next((index for index, begin in enumerate(free) if begin <= place), None)
        if row is not None:
            free[row] = place + width
        rows.append(row)
    return rows


def _without_repeats(corners: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [corner for place, corner in enumerate(corners) if not place or corner != corners[place - 1]]
