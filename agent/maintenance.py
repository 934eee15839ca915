"""Maintenance windows: weekly times in UTC, written as ``mon-fri 22:00-04:00``.

Source: docs/spec/agent.md 3.2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agent.errors import TargetRefusedError

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = rf"(?:{'|'.join(_DAYS)})"
_FORM: Final = re.compile(
    rf"(?P<days>\*|{_DAY}(?:-{_DAY})?(?:,{_DAY}(?:-{_DAY})?)*) (?P<from>[0-9]{{2}}:[0-9]{{2}})-(?P<to>[0-9]{{2}}:[0-9]{{2}})",
    re.ASCII,
)
_DAY_MINUTES: Final = 24 * 60
_MINUTE_MS: Final = 60_000
_EPOCH_WEEKDAY: Final = 3
"""1970-01-01 was a Thursday."""


@dataclass(frozen=True, slots=True)
class Window:
    """A time of the week at which a target may be changed."""

    days: tuple[int, ...]
    """Days on which it opens, 0 (Monday) to 6."""
    opens: int
    """Minute of the day, 0 to 1439, UTC."""
    closes: int
    """Minute of the day at which it is closed again, 1 to 1440; not after `opens` means on the next day."""
    text: str
    """As it was written."""

    def is_open(self, now_ms: int) -> bool:
        """Return whether `now_ms`, milliseconds since the epoch in UTC, lies inside."""
        today, minute = moment_of_week(now_ms)
        if self.opens < self.closes:
            return today in self.days and self.opens <= minute < self.closes
        yesterday = (today - 1) % len(_DAYS)
        return (today in self.days and minute >= self.opens) or (yesterday in self.days and minute < self.closes)


def moment_of_week(now_ms: int) -> tuple[int, int]:
    """Return the day of the week, 0 (Monday) to 6, and the minute of the day, 0 to 1439, in UTC."""
    minutes = now_ms // _MINUTE_MS
    return (minutes // _DAY_MINUTES + _EPOCH_WEEKDAY) % len(_DAYS), minutes % _DAY_MINUTES


def parse_window_untrusted(text: str) -> Window:
    """Return the window that `text` writes: days (``*``, ``mon``, ``mon-fri``, ``sat,sun``), a space, ``HH:MM-HH:MM`` in UTC.

    Raises:
        TargetRefusedError: ``agent.target.window``.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise _refuse(text)
    opens, closes = _minute(match["from"], text), _minute(match["to"], text)
    if opens == _DAY_MINUTES or closes in (0, opens):
        raise _refuse(text)
    return Window(_parse_days(match["days"]), opens, closes, text)


def is_window_open(windows: Sequence[Window], now_ms: int) -> bool:
    """Return whether one of the windows is open; without any window it always is."""
    return not windows or any(window.is_open(now_ms) for window in windows)


def _parse_days(text: str) -> tuple[int, ...]:
    if text == "*":
        return tuple(range(len(_DAYS)))
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin = _DAYS.index(first)
        length = (_DAYS.index(last) - begin) % len(_DAYS) if last else 0
        days.update((begin + offset) % len(_DAYS) for offset in range(length + 1))
    return tuple(sorted(days))


def _minute(text: str, whole: str) -> int:
    hours, minutes = int(text[:2]), int(text[3:])
    value = hours * 60 + minutes
    if minutes > 59 or value > _DAY_MINUTES:
        raise _refuse(whole)
    return value


def _refuse(text: str) -> TargetRefusedError:
    return TargetRefusedError(
        "agent.target.window",
        "a maintenance window is not one",
        expected="days HH:MM-HH:MM in UTC, such as mon-fri 22:00-04:00",
        actual=text,
    )
