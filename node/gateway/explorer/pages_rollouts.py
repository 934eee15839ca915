"""Pages about rollouts: the list, and one with its plots, waves, decisions and hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from node.gateway.explorer.figures import STATES, failures_over_time, hosts_over_time, wave_bar
from node.gateway.explorer.html import Element, Node, el, href
from node.gateway.explorer.parts import (
    badge,
    block_link,
    digest_link,
    facts,
    group_link,
    host_link,
    identity_link,
    link,
    page,
    pages,
    section,
    table,
    text,
    when,
)

Document = dict[str, Any]

FILTERS: Final = ("applied", "under-way", "failed", "rolled-back", "refused", "silent")
"""States by which hosts can be listed."""
_NAMES: Final = dict(STATES)


def rollouts_page(found: Sequence[Document], ways: Node) -> Element:
    """Return the list of rollouts, the newest first."""
    rows = [
        (
            link(text(each["rollout_id"]), "rollouts", each["rollout_id"]),
            badge(state_of(each)),
            digest_link(each["patch_id"], "patches"),
            f"{sum(wave['applied'] for wave in each['waves'])} of {sum(wave['hosts'] for wave in each['waves'])}",
            f"{each['failures'] - each['failures_forgiven']} of {each['budget']}",
            when(each["created_ms"]),
        )
        for each in found
    ]
    titles = ("rollout", "state", "patch", "hosts applied", "failures of budget", "begun")
    empty = "No rollout was ever begun. One begins with “patchwarden rollout create”."
    return page("Rollouts", "rollouts", table("Rollouts, the newest first", titles, rows, empty=empty), ways)


def rollout_page(rollout: Document, course: Document, hosts: Document, *, state: str | None, is_first: bool) -> Element:
    """Return one rollout.

    Args:
        rollout: What it is, with the counts of each wave.
        course: How it came to be.
        hosts: One page of its hosts.
        state: The state by which these are chosen, or None for all.
        is_first: Whether the page begins with the first of them.
    """
    rollout_id = rollout["rollout_id"]
    return page(
        rollout_id,
        "rollouts",
        el("p", text(rollout["description"])) if rollout["description"] else None,
        _facts(rollout),
        section("Course", _plots(rollout, course)),
        section("Waves", _waves(rollout)),
        section("Decisions", _decisions(course)),
        el("section", el("h2", "Hosts", id="hosts"), _hosts(rollout, hosts, state, is_first=is_first)),
    )


def state_of(rollout: Document) -> str:
    """Return what a rollout is in a word: a running one that has reached what it needs is complete."""
    return "complete" if rollout["status"] == "running" and rollout["complete"] else str(rollout["status"])


def _facts(rollout: Document) -> Element:
    failures = rollout["failures"] - rollout["failures_forgiven"]
    forgiven = rollout["failures_forgiven"]
    is_plain = rollout["status_height"] == rollout["created_height"]
    why: Node = [" since block ", block_link(rollout["status_height"]), " by ", text(rollout["status_by"])]
    reason: Node = [": ", text(rollout["status_reason"])] if rollout["status_reason"] else None
    return facts(
        ("State", [badge(state_of(rollout)), None if is_plain else [why, reason]]),
        ("Patch", el("a", el("code", rollout["patch_id"]), href=href("patches", rollout["patch_id"]))),
        ("Components", [[text(each), " "] for each in rollout["components"]]),
        (
            "Groups",
            [[group_link(each["group_id"], ""), f" ({each['hosts']} of its hosts) "] for each in rollout["groups"]],
        ),
        (
            "Begun",
            [
                when(rollout["created_ms"]),
                " in block ",
                block_link(rollout["created_height"]),
                " by ",
                identity_link(rollout["creator"]),
            ],
        ),
        (
            "Failures",
            f"{failures} of {rollout['budget']} that it may have"
            + (f", and {forgiven} before it was resumed" if forgiven else ""),
        ),
        ("As of", ["block ", block_link(rollout["height"]), ", ", when(rollout["time_ms"])]),
    )


def _plots(rollout: Document, course: Document) -> Node:
    if not course["points"]:
        return el(
            "p",
            "This node keeps no history from the beginning of this rollout, so there is nothing to draw. The numbers of the waves are "
            "right. A node that keeps the full history shows the course.",
            class_="notice",
        )
    notice = None
    if not course["complete"]:
        notice = el(
            "p",
            "The history of this patch is longer than what is drawn, or was not kept in full, so the end of the plots is not the state "
            "above. The numbers of the waves are right.",
            class_="notice",
        )
    return [notice, hosts_over_time(rollout, course), failures_over_time(rollout, course)]


def _waves(rollout: Document) -> Element:
    waves = [*rollout["waves"]]
    if rollout["later"]["hosts"]:
        waves.append(
            {**rollout["later"], "name": "(came later)", "group": None, "needed": 0, "soak_heights": 0, "soak_ms": 0}
        )
    titles = (
        "wave",
        "begins",
        "hosts",
        "needed",
        "applied",
        "under way",
        "failed",
        "rolled back",
        "refused",
        "offline",
        "waiting",
        "soak",
        "hosts by state",
    )
    rows = [
        (
            [text(wave["name"]), [" of ", text(wave["group"])] if wave["group"] else None],
            _begins(rollout, wave),
            wave["hosts"],
            wave["needed"],
            *(
                wave[name]
                for name in ("applied", "under_way", "failed", "rolled_back", "refused", "offline", "waiting")
            ),
            _soak(wave),
            wave_bar(wave),
        )
        for wave in waves
    ]
    return table("Waves in their order, with their hosts by state", titles, rows, numbers=range(2, 11))


def _begins(rollout: Document, wave: Document) -> Node:
    at = wave["opens"]
    if at is None:
        return "when enough have gone before"
    is_past = at["height"] <= rollout["height"] and at["time_ms"] <= rollout["time_ms"]
    return [badge("open") if wave["open"] else badge("begun") if is_past else "not before ", " ", when(at["time_ms"])]


def _soak(wave: Document) -> str:
    parts = []
    if wave["soak_ms"]:
        parts.append(_duration(wave["soak_ms"]))
    if wave["soak_heights"]:
        parts.append(f"{wave['soak_heights']} blocks")
    return " and ".join(parts) or "none"


def _duration(time_ms: int) -> str:
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if time_ms >= size and time_ms % size == 0:
            return f"{time_ms // size} {unit}"
    return f"{time_ms} ms"


def _decisions(course: Document) -> Element:
    rows = [
        (
            block_link(each["height"]),
            when(each["time_ms"]),
            badge(each["status"]),
            text(each["by"]),
            text(each["reason"]) if each["reason"] else None,
        )
        for each in course["marks"]
    ]
    empty = "This node keeps no history of them."
    return table(
        "Begun, halted, resumed and withdrawn",
        ("block", "time", "status", "by", "why"),
        rows,
        numbers=(0,),
        empty=empty,
    )


def _hosts(rollout: Document, hosts: Document, state: str | None, *, is_first: bool) -> Node:
    rollout_id = rollout["rollout_id"]
    waves = [*rollout["waves"], rollout["later"]]

    def count(name: str) -> int:
        names = ("waiting", "offline") if name == "silent" else (name.replace("-", "_"),)
        return sum(int(wave[each]) for wave in waves for each in names)

    choices = [
        ("all", None, sum(wave["hosts"] for wave in waves)),
        *((_NAMES[each.replace("-", "_")], each, count(each)) for each in FILTERS),
    ]
    filters = el(
        "nav",
        el(
            "ul",
            [
                el(
                    "li",
                    el(
                        "a",
                        f"{label} ({total})",
                        href=href("rollouts", rollout_id, state=each) + "#hosts",
                        aria_current="true" if each == state else None,
                    ),
                )
                for label, each, total in choices
            ],
        ),
        aria_label="Hosts by state",
        class_="filters",
    )
    rows: list[tuple[Node, ...]] = [
        (
            host_link(each["host"]),
            badge("nothing heard" if each["state"] == "silent" else each["state"]),
            [text(each["wave"]), " (came later)" if each["later"] else None],
            group_link(each["group"], "none now"),
            [[text(target["target"]), " ", badge(target["state"]), " "] for target in each["targets"]],
        )
        for each in hosts["hosts"]
    ]
    label = "all" if state is None else _NAMES[state.replace("-", "_")]
    more = hosts["next"]
    following = None if more is None else href("rollouts", rollout_id, state=state, after=more) + "#hosts"
    return [
        filters,
        table(
            f"Hosts of the rollout: {label}",
            ("host", "state", "wave", "group", "targets"),
            rows,
            empty="None on this page.",
        ),
        pages(
            ("From the beginning", None if is_first else href("rollouts", rollout_id, state=state) + "#hosts"),
            ("Next hosts", following),
            what="hosts",
        ),
    ]
