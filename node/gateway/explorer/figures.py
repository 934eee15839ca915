"""Plots as SVG inside the page, each with a title, a description and a table of the same numbers.

Colours come from classes of the style sheet, so that they follow light and dark; nothing here is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from node.gateway.explorer import plot
from node.gateway.explorer.html import Element, Node, el
from node.gateway.explorer.parts import number, table, when

Document = dict[str, Any]

WIDTH: Final = 720
HEIGHT: Final = 300
FAILURES_HEIGHT: Final = 200
LABEL_UNITS: Final = 8
"""Width of a character of a label, about."""
LABEL_CHARACTERS_MAX: Final = 16
LABEL_ROWS: Final = 2
MARKS_MAX: Final = 24
"""Lines for waves and decisions in one plot, the newest."""
BARS_MAX: Final = 100
TAIL_SHARE: Final = 12
"""Behind the last event a plot goes on by one part in so many, so that what it led to can be seen."""
FAILURES_ZOOM_MAX: Final = 10
"""The budget is drawn while it is at most so many times the failures."""

STATES: Final = (
    ("applied", "applied"),
    ("under_way", "under way"),
    ("failed", "failed"),
    ("rolled_back", "rolled back"),
    ("refused", "refused"),
    ("silent", "nothing heard"),
)
"""Layers of the stack from below: member of a point, and its name for people."""


def hosts_over_time(rollout: Document, course: Document) -> Node:
    """Return the plot of hosts by state over the ledger's time, with the waves' beginnings."""
    points = _thin(course["points"])
    if not points:
        return None
    times = [each["time_ms"] for each in points]
    totals = [sum(each[name] for name, _ in STATES) for each in points]
    frame = _frame(rollout, course, times, max(totals), HEIGHT)
    borders = [
        plot.staircase(frame, times, each) for each in plot.stack([[p[name] for p in points] for name, _ in STATES])
    ]
    below = plot.staircase(frame, times, [0] * len(points))
    layers = []
    for (name, label), upper in zip(STATES, borders, strict=True):
        layers.append(el("path", el("title", label), d=plot.band(below, upper), class_=f"layer {_css(name)}"))
        below = upper
    last = points[-1]
    told = ", ".join(f"{label} {last[name]}" for name, label in STATES if last[name])
    hosts = "1 host" if totals[-1] == 1 else f"{number(totals[-1])} hosts"
    return _figure(
        "hosts-plot",
        "Hosts by state over time",
        f"A stack of {hosts}, from {_stamp(times[0])} to {_stamp(frame.end_ms)} of the ledger's time. At the end: {told}.",
        [_axes(frame), layers, _marks(frame, _events(course))],
        height=HEIGHT,
        legend=[
            el("li", el("span", class_=f"swatch {_css(name)}"), f"{label}: ", number(last[name]))
            for name, label in STATES
        ],
        numbers=_course_table(points),
    )


def failures_over_time(rollout: Document, course: Document) -> Node:
    """Return the plot of failures that count, against the budget."""
    points = _thin(course["points"])
    if not points:
        return None
    times = [each["time_ms"] for each in points]
    counting = [each["failures"] - each["failures_forgiven"] for each in points]
    budget = course["budget"]
    # A budget far above what happened would press it flat; then the line lies above the picture, and the text says where.
    top = max(*counting, min(budget, FAILURES_ZOOM_MAX * max(1, *counting))) + 1
    frame = _frame(rollout, course, times, top, FAILURES_HEIGHT)
    line = plot.path(plot.staircase(frame, times, counting))
    drawn: list[Node] = [el("path", d=line, class_="line failures")]
    if budget <= frame.top:
        y = frame.y(budget)
        drawn.append(el("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_="line budget"))
        drawn.append(el("text", f"budget {budget}", x=frame.right - 4, y=y - 5, class_="label end"))
    return _figure(
        "failures-plot",
        "Failures against the budget",
        f"Hosts on which it failed or was rolled back since it was last let go on: {counting[-1]} at the end. The budget is {budget}; "
        "one more halts the rollout.",
        [_axes(frame), drawn, _marks(frame, _events(course))],
        height=FAILURES_HEIGHT,
        legend=[
            el("li", el("span", class_="swatch line failures"), "failures that count: ", number(counting[-1])),
            el("li", el("span", class_="swatch line budget"), "budget: ", number(budget)),
        ],
        numbers=table(
            "Failures against the budget, as drawn",
            ("height", "time", "failures", "forgiven", "count"),
            [
                (each["height"], when(each["time_ms"]), each["failures"], each["failures_forgiven"], count)
                for each, count in zip(points, counting, strict=True)
            ],
            numbers=(0, 2, 3, 4),
        ),
    )


def transactions_by_block(blocks: Sequence[Document]) -> Node:
    """Return the plot of transactions in the newest blocks; `blocks` the newest first."""
    shown = list(reversed(blocks[:BARS_MAX]))
    if not shown:
        return None
    most = max(each["transactions"] for each in shown)
    each_holds = "1 transaction each" if most == 1 else f"{number(most)} transactions each"
    frame = plot.make_frame(0, len(shown) * 1_000, most, width=WIDTH, height=FAILURES_HEIGHT)
    bars = []
    for place, block in enumerate(shown):
        x, y = frame.x(place * 1_000), frame.y(block["transactions"])
        width = max(1, frame.x(place * 1_000 + 800) - x)
        bars.append(
            el(
                "rect",
                el("title", f"block {block['height']}: {block['transactions']} transactions"),
                x=x,
                y=y,
                width=width,
                height=frame.lower - y,
                class_="bar",
            )
        )
    heights = (shown[0]["height"], shown[-1]["height"])
    ends = [
        el("text", number(heights[0]), x=frame.left, y=frame.lower + 18, class_="label"),
        el("text", number(heights[1]), x=frame.right, y=frame.lower + 18, class_="label end"),
    ]
    span_ms = shown[-1]["time_ms"] - shown[0]["time_ms"]
    total = sum(each["transactions"] for each in shown[1:])
    rate = "" if span_ms <= 0 else f", {total * 1000 / span_ms:.2f} a second over the time between them"
    return _figure(
        "blocks-plot",
        "Transactions in the newest blocks",
        f"Blocks {heights[0]} to {heights[1]} hold at most {each_holds}{rate}.",
        [_number_axis(frame), bars, ends],
        height=FAILURES_HEIGHT,
        legend=[],
        numbers=table(
            "Transactions in the newest blocks, as drawn",
            ("height", "time", "transactions"),
            [(each["height"], when(each["time_ms"]), each["transactions"]) for each in shown],
            numbers=(0, 2),
        ),
    )


def wave_bar(wave: Document) -> Node:
    """Return one wave as a bar of its hosts; its table says the same in numbers."""
    members = [(name, wave["waiting"] + wave["offline"] if name == "silent" else wave[name]) for name, _ in STATES]
    total = sum(count for _, count in members)
    if not total:
        return None
    borders = [0, *(border[0] for border in plot.stack([[count] for _, count in members]))]
    return el(
        "svg",
        [
            el(
                "rect",
                x=200 * low // total,
                y=0,
                width=200 * high // total - 200 * low // total,
                height=14,
                class_=f"layer {_css(name)}",
            )
            for (name, _), low, high in zip(members, borders, borders[1:], strict=False)
            if high > low
        ],
        viewBox="0 0 200 14",
        preserveAspectRatio="none",
        class_="wave-bar",
        aria_hidden="true",
    )


def _figure(
    figure_id: str, title: str, description: str, drawn: Node, *, height: int, legend: list[Element], numbers: Node
) -> Element:
    return el(
        "figure",
        el("figcaption", el("h3", title), el("p", description)),
        el(
            "div",
            el(
                "svg",
                el("title", title, id=f"{figure_id}-title"),
                el("desc", description, id=f"{figure_id}-desc"),
                drawn,
                viewBox=f"0 0 {WIDTH} {height}",
                role="img",
                aria_labelledby=f"{figure_id}-title {figure_id}-desc",
            ),
            class_="scroll",
            tabindex=0,
            role="region",
            aria_label=f"{title}, plot",
        ),
        el("ul", legend, class_="legend") if legend else None,
        el("details", el("summary", f"The numbers of this plot: {title.lower()}"), numbers),
    )


def _course_table(points: Sequence[Document]) -> Element:
    return table(
        "Hosts by state over time, as drawn",
        ("height", "time", *(label for _, label in STATES)),
        [(each["height"], when(each["time_ms"]), *(each[name] for name, _ in STATES)) for each in points],
        numbers=(0, *range(2, 2 + len(STATES))),
    )


def _thin(points: Sequence[Document]) -> list[Document]:
    return [points[place] for place in plot.thin([each["time_ms"] for each in points])]


def _frame(rollout: Document, course: Document, times: Sequence[int], top: int, height: int) -> plot.Frame:
    """Return a frame from the first point to now, or where all is over to a little behind the last event."""
    now = rollout["time_ms"]
    last = max(times[-1], *(at for at, _, _ in _events(course)), times[0])
    if rollout["status"] != "running" or rollout["complete"]:
        now = min(now, last + (last - times[0]) // TAIL_SHARE)
    return plot.make_frame(times[0], max(last, now), top, width=WIDTH, height=height)


def _events(course: Document) -> list[tuple[int, str, str]]:
    """Return what is marked: time, label and kind of each wave that has begun and each change of status, in order."""
    events = [(wave["time_ms"], wave["name"], "wave") for wave in course["waves"]]
    # The first one is the making of the rollout, where its first wave begins.
    events += [(mark["time_ms"], mark["status"], "status") for mark in course["marks"][1:]]
    return sorted(events)[-MARKS_MAX:]


def _marks(frame: plot.Frame, events: Sequence[tuple[int, str, str]]) -> Node:
    labels = [
        label if len(label) <= LABEL_CHARACTERS_MAX else label[: LABEL_CHARACTERS_MAX - 1] + "…"
        for _, label, _ in events
    ]
    places = [frame.x(at) for at, _, _ in events]
    widths = [LABEL_UNITS * (len(label) + 2) for label in labels]
    # At the right side a label stands before its line.
    begins = [min(place, frame.right - width) for place, width in zip(places, widths, strict=True)]
    order = sorted(range(len(events)), key=lambda index: (begins[index], index))
    rows = plot.label_rows([begins[index] for index in order], [widths[index] for index in order], LABEL_ROWS)
    drawn: list[Node] = []
    for index, row in zip(order, rows, strict=True):
        at, label, kind = events[index]
        text = el("title", f"{'wave ' if kind == 'wave' else ''}{label}, {_stamp(at)}")
        drawn.append(
            el(
                "line",
                text,
                x1=places[index],
                x2=places[index],
                y1=frame.upper - 4,
                y2=frame.lower,
                class_=f"mark {kind}",
            )
        )
        if row is not None:
            drawn.append(el("text", labels[index], x=begins[index] + 3, y=12 + 14 * row, class_=f"label {kind}"))
    return drawn


def _axes(frame: plot.Frame) -> Node:
    is_long = frame.end_ms - frame.begin_ms >= 48 * 3_600_000
    is_short = frame.end_ms - frame.begin_ms < 10 * 60_000
    form = "%m-%d %H:%M" if is_long else "%H:%M:%S" if is_short else "%H:%M"
    times: list[Node] = []
    for at in plot.time_ticks(frame):
        x = frame.x(at)
        times.append(el("line", x1=x, x2=x, y1=frame.lower, y2=frame.lower + 4, class_="axis"))
        times.append(el("text", _stamp(at, form), x=x, y=frame.lower + 18, class_="label middle"))
    return [_number_axis(frame), times]


def _number_axis(frame: plot.Frame) -> Node:
    drawn: list[Node] = []
    for tick in plot.number_ticks(frame):
        y = frame.y(tick)
        drawn.append(el("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_="axis" if not tick else "grid"))
        drawn.append(el("text", number(tick), x=frame.left - 6, y=y + 4, class_="label end"))
    return drawn


def _stamp(time_ms: int, form: str = "%Y-%m-%d %H:%M:%S UTC") -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime(form)
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms"


def _css(name: str) -> str:
    return name.replace("_", "-")
