"""Short writes leave the event loop as soon as the disk is slow, and come back when it is quick again."""

from __future__ import annotations

import pytest

from node.pace import SLOW_PERIOD_S, SLOW_WRITE_S, STALLED_WRITE_S, WRITES_JUDGED, WritePace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def write(pace: WritePace, clock: Clock, seconds: float) -> None:
    with pace.watched():
        clock.now += seconds


def test_quick_writes_stay_and_a_single_slow_one_changes_nothing(clock: Clock) -> None:
    pace = WritePace(clock)
    for _ in range(20):
        for _ in range(WRITES_JUDGED - WRITES_JUDGED // 2):
            write(pace, clock, SLOW_WRITE_S / 2)
        for _ in range(WRITES_JUDGED // 2):
            write(pace, clock, 2 * SLOW_WRITE_S)
            assert pace.is_quick


def test_most_writes_slow_send_the_next_ones_away_until_they_are_quick_for_a_while(clock: Clock) -> None:
    pace = WritePace(clock)
    for number in range(WRITES_JUDGED):
        assert pace.is_quick is (number <= WRITES_JUDGED // 2)
        write(pace, clock, 2 * SLOW_WRITE_S)
    clock.now += SLOW_PERIOD_S / 2
    for _ in range(WRITES_JUDGED):
        write(pace, clock, SLOW_WRITE_S / 2)
    assert not pace.is_quick
    clock.now += SLOW_PERIOD_S
    assert pace.is_quick


def test_a_write_that_stalls_is_enough(clock: Clock) -> None:
    pace = WritePace(clock)
    write(pace, clock, 2 * STALLED_WRITE_S)
    assert not pace.is_quick
    clock.now += SLOW_PERIOD_S
    assert pace.is_quick


def fail(pace: WritePace, clock: Clock) -> None:
    with pace.watched():
        clock.now += 1
        raise OSError("the disk is gone")


def test_a_slow_write_that_fails_counts(clock: Clock) -> None:
    pace = WritePace(clock)
    with pytest.raises(OSError, match="disk"):
        fail(pace, clock)
    assert not pace.is_quick
