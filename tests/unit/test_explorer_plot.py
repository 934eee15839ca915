"""Plots as numbers: nothing, one point, many hosts; axes rise, and a stack is as high as its hosts."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.gateway.explorer import figures, plot
from node.gateway.explorer.html import Element, el, render

TIMES = st.lists(st.integers(0, 2**45), min_size=1, max_size=300).map(sorted)


@given(st.integers(0, 2**45), st.integers(0, 10**9), st.integers(0, 2 * 10**6))
def test_axes_rise_within_the_frame_with_few_ticks(begin: int, span: int, number_max: int) -> None:
    frame = plot.make_frame(begin, begin + span, number_max, width=720, height=300)
    numbers, times = plot.number_ticks(frame), plot.time_ticks(frame)
    assert numbers[0] == 0
    assert numbers[-1] == frame.top >= max(1, number_max)
    assert len(numbers) <= plot.Y_TICKS_MAX + 1
    assert len(times) <= plot.X_TICKS_MAX + 1
    for ticks, places in ((numbers, [-frame.y(each) for each in numbers]), (times, [frame.x(each) for each in times])):
        assert all(low < high for low, high in pairwise(ticks))
        assert all(low <= high for low, high in pairwise(places))
    assert all(frame.begin_ms <= each <= frame.end_ms for each in times)
    assert (frame.x(begin - 1), frame.x(frame.end_ms + 1)) == (frame.left, frame.right)
    assert (frame.y(-1), frame.y(frame.top + 1)) == (frame.lower, frame.upper)


@given(st.lists(st.lists(st.integers(0, 10_000), min_size=3, max_size=3), min_size=1, max_size=6))
def test_a_stack_is_as_high_as_its_hosts(values: list[list[int]]) -> None:
    borders = plot.stack(values)
    assert borders[-1] == [sum(layer[place] for layer in values) for place in range(3)]
    for lower, upper in pairwise(borders):
        assert all(low <= high for low, high in zip(lower, upper, strict=True))


@given(TIMES, st.data())
def test_a_staircase_goes_right_and_holds_until_the_next_point(times: list[int], data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, 50), min_size=len(times), max_size=len(times)))
    frame = plot.make_frame(times[0], times[-1], 50, width=720, height=300)
    corners = plot.staircase(frame, times, numbers)
    assert all(before[0] <= after[0] for before, after in pairwise(corners))
    assert all(before[0] == after[0] or before[1] == after[1] for before, after in pairwise(corners)), "no slopes"
    assert corners[0][0] == frame.left
    assert corners[-1] == (frame.right, frame.y(numbers[-1]))
    assert len(corners) <= 2 * len(times) + 1


@given(TIMES, st.integers(2, 200))
def test_thinning_is_bounded_and_keeps_both_ends(times: list[int], count_max: int) -> None:
    places = plot.thin(times, count_max)
    assert len(places) <= count_max
    assert (places[0], places[-1]) == (0, len(times) - 1)
    assert all(before < after for before, after in pairwise(places))


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(1, 120)), max_size=20).map(sorted), st.integers(1, 3))
def test_no_label_covers_another(labels: list[tuple[int, int]], rows_max: int) -> None:
    rows = plot.label_rows([at for at, _ in labels], [width for _, width in labels], rows_max)
    ends: dict[int, int] = {}
    for (at, width), row in zip(labels, rows, strict=True):
        if row is not None:
            assert 0 <= row < rows_max
            assert ends.get(row, 0) <= at
            ends[row] = at + width
    assert rows[:1] in ([], [0])


def test_nothing_is_drawn_of_nothing() -> None:
    assert plot.stack([]) == []
    assert plot.thin([]) == []
    assert plot.path([]) == plot.band([], []) == ""
    assert plot.label_rows([], [], 2) == []
    assert figures.hosts_over_time(rollout(), course([])) is None
    assert figures.failures_over_time(rollout(), course([])) is None
    assert figures.transactions_by_block([]) is None


def rollout(**changes: Any) -> dict[str, Any]:
    return {"status": "running", "complete": False, "time_ms": 10_000_000, "height": 99, **changes}


def course(points: list[dict[str, Any]], budget: int = 3) -> dict[str, Any]:
    marks = [
        {"time_ms": point["time_ms"], "status": status}
        for point, status in zip(points, ("running", "halted"), strict=False)
    ]
    waves = [
        {"name": "canary", "time_ms": 1_000},
        {"name": "a-name-that-is-far-too-long-for-a-plot", "time_ms": 9_000_000},
    ]
    return {"points": points, "budget": budget, "marks": marks, "waves": waves if points else []}


def point(time_ms: int, hosts: int, applied: int = 0, failed: int = 0) -> dict[str, Any]:
    return {
        "height": time_ms // 1000, "time_ms": time_ms, "applied": applied, "under_way": 0, "failed": failed, "rolled_back": 0,
        "refused": 0, "silent": hosts - applied - failed, "failures": failed, "failures_forgiven": 0,
    }  # fmt: skip


def drawn(figure: object) -> str:
    assert isinstance(figure, Element)
    return render(figure)


def area_of(path: str) -> int:
    """Return twice the area inside a path."""
    corners = [(int(x), int(y)) for x, y in re.findall(r"[ML](\d+) (\d+)", path)]
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise([*corners, corners[0]])))


def test_each_layer_is_as_large_as_its_hosts_for_as_long_as_they_were_so() -> None:
    points = [
        point(0, 10, applied=2, failed=3),
        point(10_000, 10, applied=8, failed=1),
        point(20_000, 10, applied=8, failed=1),
    ]
    markup = drawn(figures.hosts_over_time(rollout(status="halted", time_ms=20_000), {**course(points), "waves": []}))
    areas = {name: area_of(path) for path, name in re.findall(r'<path d="([^"]*)" class="layer ([a-z-]+)"', markup)}
    wanted = {"applied": 10, "under-way": 0, "failed": 4, "rolled-back": 0, "refused": 0, "silent": 6}
    assert areas.keys() == wanted.keys()
    assert {name: round(20 * area / sum(areas.values())) for name, area in areas.items()} == wanted


def test_one_point_is_a_picture() -> None:
    markup = drawn(figures.hosts_over_time(rollout(time_ms=1_000, height=1), course([point(1_000, 5)])))
    assert "A stack of 5 hosts" in markup
    assert "nothing heard 5" in markup
    assert "NaN" not in markup


@pytest.mark.parametrize("hosts", [10_000, 1_048_576])
def test_many_hosts_and_many_moments_give_a_bounded_picture(hosts: int) -> None:
    points = [point(1_000 * number, hosts, applied=min(hosts, number), failed=0) for number in range(1, 5_000)]
    markup = drawn(figures.hosts_over_time(rollout(), course(points)))
    assert markup.count("<tr>") == plot.PLOT_POINTS_MAX + 1
    assert max(len(path) for path in re.findall(r' d="([^"]*)"', markup)) < 2 * plot.PLOT_POINTS_MAX * 2 * 10
    assert len(markup) < 120_000


def test_waves_that_have_begun_are_marked_and_others_are_not() -> None:
    markup = drawn(figures.hosts_over_time(rollout(), course([point(1_000, 5), point(8_000, 5, 2)])))
    assert markup.count('class="mark wave"') == 2
    assert markup.count('class="mark status"') == 1
    assert "a-name-that-is-…" in markup


@pytest.mark.parametrize(
    ("changes", "end"),
    [({}, "13:46:40"), ({"status": "halted"}, "02:42:29"), ({"time_ms": 9_000_001, "complete": True}, "02:30:00")],
)
def test_a_plot_goes_to_now_while_it_is_going_on(changes: dict[str, Any], end: str) -> None:
    given = rollout(**{"time_ms": 49_600_000, **changes})
    assert f"to 1970-01-01 {end} UTC" in drawn(
        figures.hosts_over_time(given, course([point(1_000, 5), point(8_000, 5, 2)]))
    )


@pytest.mark.parametrize(("budget", "is_drawn"), [(0, True), (3, True), (10_000, False)])
def test_the_budget_is_a_line_unless_it_is_far_away(budget: int, is_drawn: bool) -> None:
    markup = drawn(figures.failures_over_time(rollout(), course([point(1_000, 9), point(2_000, 9, 1, 2)], budget)))
    assert (f">budget {budget}</text>" in markup) == is_drawn
    assert f"The budget is {budget}" in markup


def test_a_wave_bar_is_as_long_as_its_hosts() -> None:
    names = ("under_way", "failed", "rolled_back", "refused", "offline", "waiting")
    bar = drawn(figures.wave_bar({**dict.fromkeys(names, 0), "applied": 1, "waiting": 2}))
    assert sum(int(width) for width in re.findall(r' width="(\d+)"', bar)) == 200
    assert figures.wave_bar({**dict.fromkeys(names, 0), "applied": 0}) is None


def test_what_is_no_element_is_text() -> None:
    hostile = "<script>alert('1')</script>&\u202e\x00\"\r"
    markup = render(el("p", hostile, title=hostile))
    assert "<script" not in markup
    assert "\u202e" not in markup
    assert markup.count("&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;&amp;[U+202E][U+0000]&quot;[U+000D]") == 2
    for wrong in ({"onclick": "x"}, {"style": "x"}, {"a b": "x"}):
        with pytest.raises(AssertionError):
            el("p", **wrong)
    with pytest.raises(AssertionError):
        el("br", "x")
    assert render(el("p", 1, None, ["a", el("b", hidden=True, lang=None)])).endswith("<p>1a<b hidden></b></p>\n")
