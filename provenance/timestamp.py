"""Times as the metadata writes them: RFC 3339 in UTC with seconds and `Z`, and nothing else.

Calendar arithmetic only: nothing here knows what time it is. Civil dates follow the proleptic Gregorian calendar, without leap seconds.

Source: docs/spec/patch-file.md 4.1; RFC 3339 5.6; RFC 5322 3.3.
"""

from __future__ import annotations

import re
from typing import Final

from provenance.errors import InvalidMetadataError

SECONDS_MAX: Final = 253_402_300_799
"""9999-12-31T23:59:59Z, the last second with a year of four digits."""

_FORM: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})Z", re.ASCII)
_DAYS_BEFORE_MONTH: Final = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
_DAYS_IN_MONTH: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_WEEKDAYS: Final = ("Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed")
"""1970-01-01 was a Thursday."""
_DAY_SECONDS: Final = 86_400
_YEAR_MIN: Final = 1970
_YEAR_MAX: Final = 9999


def seconds_from_timestamp(text: str, name: str = "timestamp") -> int:
    """Return the seconds since 1970-01-01T00:00:00Z that `text` names, 0 to `SECONDS_MAX`.

    Args:
        text: Such as ``2026-11-22T06:50:00Z``.
        name: The field, for the error.

    Raises:
        InvalidMetadataError: ``provenance.field.timestamp`` for another form or a moment that does not exist.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise _refuse(name, "is not RFC 3339 in UTC with whole seconds", text)
    year, month, day, hour, minute, second = (int(part) for part in match.groups())
    if not (year >= _YEAR_MIN and 1 <= month <= 12 and 1 <= day <= _month_days(year, month)):
        raise _refuse(name, "names a day that the calendar since 1970 does not have", text)
    if hour > 23 or minute > 59 or second > 59:
        raise _refuse(name, "names a time that the day does not have", text)
    return _days(year, month, day) * _DAY_SECONDS + hour * 3600 + minute * 60 + second


def timestamp_from_seconds(seconds: int) -> str:
    """Return the timestamp of a moment, such as ``2026-11-22T06:50:00Z``.

    Args:
        seconds: Since 1970-01-01T00:00:00Z, 0 to `SECONDS_MAX`.

    Raises:
        InvalidMetadataError: ``provenance.field.timestamp`` outside that range.
    """
    if not 0 <= seconds <= SECONDS_MAX:
        raise _refuse("timestamp", "is outside the years 1970 to 9999", seconds)
    year, month, day = _date(seconds // _DAY_SECONDS)
    rest = seconds % _DAY_SECONDS
    return f"{year:04}-{month:02}-{day:02}T{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}Z"


def mail_date(timestamp: str) -> str:
    """Return the same moment as a mail's `Date:` writes it, such as ``Sun, 22 Nov 2026 06:50:00 +0000``.

    Raises:
        InvalidMetadataError: ``provenance.field.timestamp``.
    """
    days = seconds_from_timestamp(timestamp) // _DAY_SECONDS
    year, month, day = _date(days)
    return f"{_WEEKDAYS[days % 7]}, {day:02} {_MONTHS[month - 1]} {year:04} {timestamp[11:19]} +0000"


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _month_days(year: int, month: int) -> int:
    return 29 if month == 2 and _is_leap(year) else _DAYS_IN_MONTH[month - 1]


def _days(year: int, month: int, day: int) -> int:
    """Return the days from 1970-01-01 to a date."""
    leap_days = _leap_days_before(year) - _leap_days_before(_YEAR_MIN)
    after_february = 1 if month > 2 and _is_leap(year) else 0
    return (year - _YEAR_MIN) * 365 + leap_days + _DAYS_BEFORE_MONTH[month - 1] + after_february + day - 1


def _leap_days_before(year: int) -> int:
    return (year - 1) // 4 - (year - 1) // 100 + (year - 1) // 400


def _date(days: int) -> tuple[int, int, int]:
    """Return year, month and day of the date so many days after 1970-01-01."""
    year = min(_YEAR_MIN + days // 365, _YEAR_MAX)  # Never too early: 365 days is the shortest year.
    while _days(year, 1, 1) > days:
        year -= 1
    rest = days - _days(year, 1, 1)
    month = 1
    while rest >= _month_days(year, month):
        rest -= _month_days(year, month)
        month += 1
    return year, month, rest + 1


def _refuse(name: str, sentence: str, actual: object) -> InvalidMetadataError:
    return InvalidMetadataError(
        "provenance.field.timestamp",
        f"{name} {sentence}",
        expected="YYYY-MM-DDThh:mm:ssZ",
        actual=actual,
        details={"field": name},
    )
