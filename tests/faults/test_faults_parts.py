"""The parts of the harness that need no cluster: rules for packets, schedules, the history file, and the checks that judge a run."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.faults import disk
from tests.faults.checks import Ledger, check_acknowledged, check_history, check_real_time_order, check_states
from tests.faults.history import NEVER, Action, Operation, Recorder, longest_gap_s, read_history
from tests.faults.kinds import KINDS
from tests.faults.network import Impairment, combine, firewall_ruleset, switch_rules
from tests.faults.node import Node
from tests.faults.schedule import draw_rounds
from tests.faults.switch import Switch
from tests.faults.watch import WARM_UP_S, Sample, judge_memory, least_squares

# The network


def test_rules_are_laid_over_each_other() -> None:
    blocked, lossy = Impairment(blocked=True), Impairment(loss_permille=100, delay_ms=5)
    combined = combine([{(0, 1): lossy}, {(0, 1): blocked, (1, 0): lossy}, {(1, 0): Impairment(delay_ms=10)}])
    assert combined[0, 1] == Impairment(blocked=True, loss_permille=100, delay_ms=5)
    assert combined[1, 0] == Impairment(loss_permille=100, delay_ms=15)


def test_the_receiver_drops_what_is_lost_and_the_switch_delays() -> None:
    rules = {(0, 2): Impairment(blocked=True), (1, 2): Impairment(loss_permille=300, delay_ms=20)}
    ruleset = firewall_ruleset(2, rules)
    assert "ip saddr 198.18.77.1 drop" in ruleset
    assert "ip saddr 198.18.77.2 numgen random mod 1000 < 300 drop" in ruleset
    assert "saddr" not in firewall_ruleset(0, rules)
    assert switch_rules(rules) == {"1>2": {"delay_ms": 20, "jitter_ms": 0, "duplicate_permille": 0}}


def test_the_switch_keeps_the_order_of_a_direction_whatever_the_jitter() -> None:
    switch = Switch([0, 1], random.Random(1))
    switch.set_rules({"0>1": {"delay_ms": 10, "jitter_ms": 10}})
    for number in range(200):
        switch._pass(0, 1, bytes([number]), now=number / 10_000)
    waiting = sorted(switch._waiting)
    assert [frame[0] for _, _, _, frame in waiting] == list(range(200))
    assert len({at for at, *_ in waiting}) > 10


# The schedule


def test_a_seed_draws_the_same_rounds_and_every_kind_comes_once_before_any_comes_twice() -> None:
    names = sorted(KINDS)
    first, second = (list(islice(draw_rounds(7, names), 60)) for _ in range(2))
    assert first == second
    assert {each.kinds[0] for each in first[: len(names)]} == set(names)
    assert list(islice(draw_rounds(8, names), 60)) != first


# A full disk


def test_filling_a_disk_that_is_full_already_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node writes, too: the room that was seen may be gone. Closing the ballast must not try to write what did not fit."""
    (tmp_path / disk.BALLAST).symlink_to("/dev/full")
    monkeypatch.setattr(disk, "free_bytes", lambda node: 4096)
    disk.fill(cast("Node", SimpleNamespace(data=tmp_path, has_small_disk=True)), 0)


# The history


def test_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "history.jsonl")
    number = recorder.call("c1", "write", "k", "v", ["aa"])
    recorder.call("c2", "read", "k", "log")
    recorder.fault("kill", "begin", "kill -9 v1")
    recorder.returned(number, "ok", node="v1", height=7, heights=[7], attempts=2)
    recorder.close()
    written, unanswered = read_history(tmp_path / "history.jsonl")
    assert (written.action, written.argument, written.tx_ids, written.heights) == ("write", "v", ("aa",), (7,))
    assert written.called_ns < written.returned_ns
    assert unanswered.is_open
    assert unanswered.returned_ns == NEVER


def test_the_longest_gap_counts_the_silence_around_a_fault() -> None:
    second = 1_000_000_000
    assert longest_gap_s([1 * second, 2 * second, 9 * second], 3 * second, 4 * second) == 7
    assert longest_gap_s([], 3 * second, 4 * second) == 1


# The checks


def op(number: int, action: Action, span: tuple[int, int], height: int, **changes: object) -> Operation:
    made = Operation(
        number=number,
        client="c",
        action=action,
        key="k",
        argument=f"v{number}",
        tx_ids=(f"t{number}",),
        called_ns=span[0],
        returned_ns=span[1],
        outcome="ok",
        node="n1",
        height=height,
        heights=(height,),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def ledger_of(*operations: Operation) -> Ledger:
    places = {each.tx_ids[0]: ((each.heights[0], 0),) for each in operations}
    values = tuple(((each.heights[0], 0), each.argument or "") for each in operations)
    return Ledger(9, places, {"k": values})


CREATE, WRITE = op(1, "create", (0, 10), 1), op(2, "write", (20, 30), 2)


def test_good_history_has_nothing_wrong() -> None:
    look = op(3, "look", (40, 50), 2, tx_ids=(), heights=(), argument=None, result="v2")
    assert check_history([CREATE, WRITE, look], ledger_of(CREATE, WRITE)) == []


def test_lost_and_doubled_and_moved_transactions_are_found() -> None:
    assert "is lost" in next(check_acknowledged([CREATE, WRITE], ledger_of(CREATE)))
    ledger = ledger_of(CREATE, WRITE)
    doubled = replace(ledger, positions={**ledger.positions, "t2": ((2, 0), (3, 4))})
    assert "2 times" in next(check_acknowledged([CREATE, WRITE], doubled))
    assert "stands at 2 and not at 5" in next(check_acknowledged([CREATE, replace(WRITE, heights=(5,))], ledger))


def test_refused_transaction_that_stands_on_the_ledger_is_found() -> None:
    refused = replace(WRITE, outcome="refused", height=None, heights=())
    assert "refused transaction" in next(check_acknowledged([CREATE, refused], ledger_of(CREATE, WRITE)))


def test_call_that_stands_before_what_had_returned_when_it_began_is_found() -> None:
    early = op(3, "write", (40, 50), 2, argument="v3")
    assert "is not above 2" in next(check_real_time_order([CREATE, WRITE, early], ledger_of(CREATE, WRITE, early)))
    at_once = op(3, "write", (25, 50), 2, argument="v3")
    assert list(check_real_time_order([CREATE, WRITE, at_once], ledger_of(CREATE, WRITE, at_once))) == []


@pytest.mark.parametrize(("height", "result"), [(1, "v2"), (2, "v1")])
def test_local_read_of_a_value_that_was_not_there_is_found(height: int, result: str) -> None:
    look = op(3, "look", (40, 50), height, tx_ids=(), heights=(), result=result)
    assert "did not hold it" in next(check_states([look], ledger_of(CREATE, WRITE)))


def test_node_that_goes_back_is_found() -> None:
    new = op(3, "look", (40, 50), 2, tx_ids=(), heights=(), result="v2")
    old = op(4, "look", (60, 70), 1, tx_ids=(), heights=(), result="v1")
    assert "went back" in next(check_states([new, old], ledger_of(CREATE, WRITE)))
    elsewhere = replace(old, node="n2")
    assert list(check_states([new, elsewhere], ledger_of(CREATE, WRITE))) == []


def test_slope_of_a_line_is_its_slope() -> None:
    assert least_squares([(0, 1), (1, 3), (2, 5)]) == 2


def test_memory_is_judged_by_the_last_half_of_a_life_after_its_warm_up() -> None:
    warm_up = [Sample(at, int(1000 * at), 10 * int(at)) for at in range(int(WARM_UP_S))]
    rising = [Sample(WARM_UP_S + at, 50_000 + 10 * at, 10 * at) for at in range(100)]
    flat = [Sample(WARM_UP_S + 100 + at, 60_000 + 2 * at, 1000 + 20 * at) for at in range(101)]
    slope = judge_memory("v1", 1, [*warm_up, *rising, *flat], is_whole=True)
    assert slope is not None
    assert slope.late_kib_per_minute == pytest.approx(120)
    assert slope.late_kib_per_thousand == pytest.approx(100)
    assert (slope.first_kib, slope.last_kib, slope.most_kib) == (50_000, 60_200, 60_200)
    assert judge_memory("v1", 1, warm_up, is_whole=True) is None
