"""Waits between two attempts."""

from __future__ import annotations

from agent.limits import INBOX_RETRY_SECONDS, INBOX_RETRY_SECONDS_MAX, TURN_RETRY_SECONDS, TURN_RETRY_SECONDS_MAX
from agent.retries import Retries


def _waits(retries: Retries[str], key: str, number: int) -> list[int]:
    """Return the seconds of the next waits, by asking when the key is due."""
    now_ms, waits = 0, []
    for _ in range(number):
        assert retries.is_due(key, now_ms)
        retries.put_off(key, now_ms)
        seconds = next(each for each in range(1, 100_000) if retries.is_due(key, now_ms + 1000 * each))
        assert not retries.is_due(key, now_ms + 1000 * seconds - 1)
        waits.append(seconds)
        now_ms += 1000 * seconds
    return waits


def test_waits_double_up_to_an_hour() -> None:
    for first, most in ((TURN_RETRY_SECONDS, TURN_RETRY_SECONDS_MAX), (INBOX_RETRY_SECONDS, INBOX_RETRY_SECONDS_MAX)):
        expected = [min(first * 2**each, most) for each in range(8)]
        assert _waits(Retries(first, most), "a", 8) == expected
    assert (TURN_RETRY_SECONDS, TURN_RETRY_SECONDS_MAX) == (60, 3600)


def test_what_has_ended_or_is_not_kept_begins_anew() -> None:
    retries: Retries[str] = Retries(10, 1000)
    for key in ("a", "b", "c"):
        retries.put_off(key, 0)
        retries.put_off(key, 0)
    retries.forget("a")
    retries.keep_only({"a", "b"}.__contains__)
    assert [key in retries for key in ("a", "b", "c")] == [False, True, False]
    assert [retries.is_due(key, 0) for key in ("a", "b", "c")] == [True, False, True]
    assert _waits(retries, "a", 2) == [10, 20]
    assert not retries.is_due("b", 19_999)
    assert retries.is_due("b", 20_000)
