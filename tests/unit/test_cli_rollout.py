"""`patchwarden rollout`: waves as they are typed, and how far a rollout has come as it is shown."""

from __future__ import annotations

from typing import Any

import click
import pytest

from ledger.rollout_waves import Wave
from node.cli.rollout import BAR_WIDTH, TimeType, WaveType, bar, status_lines
from node.rollout_documents import group_document, rollout_document
from tests.testkit.cli import run
from tests.testkit.rollouts import FAILED, SPRING, WEB, Fleet, wave


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("canary:5", Wave("canary", None, 5, None, 10_000, 0, 0)),
        ("tenth:10%", Wave("tenth", None, None, 1_000, 10_000, 0, 0)),
        ("some:0.5%:success=97.25%", Wave("some", None, None, 50, 9_725, 0, 0)),
        ("all:all:soak=2h:blocks=20:group=web@acme", Wave("all", "web@acme", None, 10_000, 10_000, 20, 7_200_000)),
    ],
)
def test_waves_as_they_are_typed(text: str, expected: Wave) -> None:
    assert WaveType().convert(text, None, None) == expected


BAD_WAVES = "canary canary: canary:-1 canary:0 Canary:5 a:5:soak=10 a:5:soak=10w a:101% a:1.234% a:5:blocks=x a:5:what=1 a:5:soak=91d"


@pytest.mark.parametrize("text", [*BAD_WAVES.split(), "a:5:success=all", "a:5:group=web"])
def test_waves_that_are_none(text: str) -> None:
    with pytest.raises(click.BadParameter):
        WaveType().convert(text, None, None)


def test_times_as_they_are_typed() -> None:
    assert [TimeType().convert(text, None, None) for text in ("30s", "10m", "2h", "1d", 7)] == [
        30_000,
        600_000,
        7_200_000,
        86_400_000,
        7,
    ]


def test_a_slip_is_a_usage_error() -> None:
    node = ("--rpc", "http://127.0.0.1:1")
    assert run("rollout", "assign", "web@acme", *node).code == 2
    assert run("rollout", "status", "spring", *node).code == 2
    assert run("rollout", "create", "spring@acme", "--wave", "all", *node).code == 2


def document_of(fleet: Fleet, ahead_ms: int = 0) -> dict[str, Any]:
    header = fleet.chain.blocks[-1].header
    return rollout_document(fleet.rollout, header.height, header.time_ms + ahead_ms)


def test_a_rollout_is_shown_wave_by_wave() -> None:
    fleet = Fleet(10)
    fleet.create(wave("canary", hosts=2), wave("all", success=9_000), budget=1)
    canaries = fleet.of_wave(0)
    fleet.apply(canaries[0])
    fleet.intend(canaries[1])
    document = document_of(fleet)
    first, second = document["waves"]
    assert (first["hosts"], first["applied"], first["under_way"], first["waiting"], first["open"]) == (2, 1, 1, 0, True)
    assert (second["needed"], second["waiting"], second["open"], second["opens"]) == (8, 8, False, None)
    assert document["failures_left"] == 1
    text = "\n".join(status_lines(document))
    assert "when enough have gone before" in text
    assert f"|{'#' * 20}{'~' * 20}|" in text
    assert f"|{'.' * BAR_WIDTH}|" in text


def test_who_says_nothing_is_offline_after_a_while() -> None:
    fleet = Fleet(4)
    fleet.create(wave("half", hosts=2, success=5_000), wave("all"), budget=3)
    fleet.apply(fleet.of_wave(0)[0])
    assert [each["offline"] for each in document_of(fleet)["waves"]] == [0, 0]
    later = document_of(fleet, 300_000)
    assert [(each["waiting"], each["offline"]) for each in later["waves"]] == [(0, 1), (0, 2)]
    fleet.decide("halt")
    halted = document_of(fleet, 300_000)
    assert [(each["waiting"], each["offline"]) for each in halted["waves"]] == [(1, 0), (2, 0)]
    assert halted["failures_left"] is None


def test_halts_failures_and_late_hosts_are_told() -> None:
    fleet = Fleet(2)
    fleet.create(budget=0)
    fleet.apply("h0@acme", FAILED)
    (late,) = fleet.register(range(7, 8))
    fleet.decide("resume")
    fleet.assign(WEB, [late])
    fleet.apply(late)
    fleet.decide("halt")
    text = "\n".join(status_lines(document_of(fleet)))
    assert "halted since height" in text
    assert "by rita@acme: why" in text
    assert "0 of 0 that it may have, and 1 before it was resumed" in text
    assert "(came later)" in text
    group = fleet.chain.view.group(WEB)
    assert group is not None
    assert group_document(group)["rollouts"] == [SPRING]


@pytest.mark.parametrize("counts", [(1, 0), (999, 1), (1, 999), (3, 3), (0, 0), (10**6, 1)])
def test_a_bar_has_its_width_and_forgets_nobody(counts: tuple[int, int]) -> None:
    names = ("applied", "under_way", "failed", "rolled_back", "refused", "offline", "waiting")
    drawn = bar({**dict.fromkeys(names, 0), "applied": counts[0], "failed": counts[1]})
    assert len(drawn) == BAR_WIDTH
    assert (counts[0] > 0) == ("#" in drawn)
    assert (counts[1] > 0) == ("x" in drawn)
