"""Waits between two attempts."""

from __future__ import annotations

from agent.limits import INBOX_RETRY_SECONDS, INBOX_RETRY_SECONDS_MAX, TURN_RETRY_SECONDS, TURN_RETRY_SECONDS_MAX
from agent.retries import Retries


class Host:
    """A clock that nobody sets, and what waits by it."""

    def __init__(self, first: int, most: int) -> None:
        self.uptime_ms = 5_000
        self.retries: Retries[str] = Retries(first, most, lambda: self.uptime_ms)

    def waits(self, key: str, number: int) -> list[int]:
        """Return the seconds of the next waits, by asking when the key is due."""
        waits = []
        for _ in range(number):
            assert self.retries.is_due(key)
            self.retries.put_off(key)
            began_ms = self.uptime_ms
            while not self.retries.is_due(key):
                self.uptime_ms += 1000
            self.uptime_ms -= 1
            assert not self.retries.is_due(key)
            self.uptime_ms += 1
            waits.append((self.uptime_ms - began_ms) // 1000)
        return waits


def test_waits_double_up_to_an_hour() -> None:
    for first, most in ((TURN_RETRY_SECONDS, TURN_RETRY_SECONDS_MAX), (INBOX_RETRY_SECONDS, INBOX_RETRY_SECONDS_MAX)):
        expected = [min(first * 2**each, most) for each in range(8)]
        assert Host(first, most).waits("a", 8) == expected
    assert (TURN_RETRY_SECONDS, TURN_RETRY_SECONDS_MAX) == (60, 3600)


def test_what_has_ended_or_is_not_kept_begins_anew() -> None:
    host = Host(10, 1000)
    retries = host.retries
    for key in ("a", "b", "c"):
        retries.put_off(key)
        retries.put_off(key)
    retries.forget("a")
    retries.keep_only({"a", "b"}.__contains__)
    assert [key in retries for key in ("a", "b", "c")] == [False, True, False]
    assert [retries.is_due(key) for key in ("a", "b", "c")] == [True, False, True]
    host.uptime_ms += 19_999
    assert not retries.is_due("b")
    host.uptime_ms += 1
    assert retries.is_due("b")
    assert host.waits("a", 2) == [10, 20]
