"""The linearizability checker against known histories, and against a twin that tries every order."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.faults.history import NEVER, Action, Operation, Outcome
from tests.faults.linearizability import EXISTS, apply, check_register

SEEDS = 3000


def op(
    number: int,
    action: Action,
    span: tuple[int, int],
    *,
    argument: str | None = None,
    result: str | None = None,
    outcome: Outcome | None = "ok",
) -> Operation:
    return Operation(
        number=number,
        client=f"c{number}",
        action=action,
        key="k",
        argument=argument,
        tx_ids=(),
        called_ns=span[0],
        returned_ns=NEVER if outcome is None else span[1],
        outcome=outcome,
        result=result,
    )


def test_reads_between_writes_see_the_latest_one() -> None:
    history = [
        op(1, "create", (0, 10), argument="a"),
        op(2, "read", (11, 20), result="a"),
        op(3, "write", (21, 30), argument="b"),
        op(4, "read", (31, 40), result="b"),
    ]
    assert check_register(history).is_linearizable


def test_stale_read_is_found_and_shown() -> None:
    history = [
        op(1, "create", (0, 10), argument="a"),
        op(2, "write", (11, 20), argument="b"),
        op(3, "read", (21, 30), result="a"),
    ]
    verdict = check_register(history)
    assert not verdict.is_linearizable
    assert [each.number for each in verdict.stuck] == [3]
    assert verdict.value == "b"


def test_read_that_overlaps_a_write_may_see_either_value_but_never_goes_back() -> None:
    write = op(2, "write", (11, 100), argument="b")
    create = op(1, "create", (0, 10), argument="a")
    old, new = op(3, "read", (20, 30), result="a"), op(4, "read", (40, 50), result="b")
    assert check_register([create, write, old, new]).is_linearizable
    swapped = [create, write, op(3, "read", (20, 30), result="b"), op(4, "read", (40, 50), result="a")]
    assert not check_register(swapped).is_linearizable


def test_only_one_creation_succeeds_and_a_refusal_needs_an_earlier_one() -> None:
    first, second = op(1, "create", (0, 10), argument="a"), op(2, "create", (5, 15), argument="b")
    assert not check_register([first, second]).is_linearizable
    refused = op(2, "create", (5, 15), argument="b", outcome="refused", result=EXISTS)
    assert check_register([first, refused]).is_linearizable
    early = op(2, "create", (0, 1), argument="b", outcome="refused", result=EXISTS)
    late = op(1, "create", (2, 3), argument="a")
    assert not check_register([early, late]).is_linearizable


def test_call_without_an_answer_may_take_effect_late_or_never() -> None:
    history = [
        op(1, "create", (0, 10), argument="a"),
        op(2, "write", (11, 0), argument="b", outcome=None),
        op(3, "read", (20, 30), result="a"),
    ]
    assert check_register(history).is_linearizable
    assert check_register([*history, op(4, "read", (40, 50), result="b")]).is_linearizable
    assert not check_register(
        [*history, op(4, "read", (40, 50), result="b"), op(5, "read", (60, 70), result="a")]
    ).is_linearizable


def test_call_without_an_answer_cannot_take_effect_before_it_was_made() -> None:
    history = [
        op(1, "create", (0, 10), argument="a"),
        op(2, "read", (20, 30), result="b"),
        op(3, "write", (40, 0), argument="b", outcome=None),
    ]
    assert not check_register(history).is_linearizable


def test_lost_acknowledged_write_is_found() -> None:
    history = [op(1, "create", (0, 10), argument="a"), op(2, "write", (11, 20), argument="b")]
    history += [op(number, "read", (number * 10, number * 10 + 5), result="a") for number in (3, 4)]
    assert not check_register(history).is_linearizable


def test_long_history_with_few_calls_at_once_takes_few_steps() -> None:
    history = [op(0, "create", (0, 1), argument="0")]
    for number in range(1, 2000):
        at = number * 10
        history.append(op(number, "write", (at, at + 25), argument=str(number)))
    assert check_register(history).steps < 20_000


def _all_orders(history: list[Operation]) -> bool:
    """The twin: place any subset of the calls without an answer, in any order that respects time."""
    done = [each for each in history if not each.is_open]
    pending = [each for each in history if each.is_open and each.action != "read"]
    for count in range(len(pending) + 1):
        for chosen in itertools.combinations(pending, count):
            for order in itertools.permutations([*done, *chosen]):
                if _is_good(order):
                    return True
    return False


def _is_good(order: tuple[Operation, ...]) -> bool:
    for later, earlier in itertools.combinations(reversed(order), 2):
        if later.returned_ns < earlier.called_ns:
            return False
    value: str | None = None
    for each in order:
        fits, value = apply(value, each)
        if not fits:
            return False
    return True


@pytest.mark.slow
def test_checker_agrees_with_the_twin_that_tries_every_order() -> None:
    verdicts = []
    for seed in range(SEEDS):
        chance = random.Random(seed)
        history = []
        for number in range(chance.randint(2, 6)):
            begin = chance.randrange(30)
            span = (begin, begin + chance.randint(1, 15))
            outcome: Outcome | None = "ok" if chance.random() < 0.85 else None
            match chance.choice(("create", "write", "read", "refused")):
                case "create":
                    history.append(op(number, "create", span, argument=f"v{number}", outcome=outcome))
                case "write":
                    history.append(op(number, "write", span, argument=f"v{number}", outcome=outcome))
                case "read":
                    seen = chance.choice([None, *(f"v{other}" for other in range(4))])
                    history.append(op(number, "read", span, result=seen, outcome=outcome))
                case _:
                    history.append(op(number, "create", span, argument="x", outcome="refused", result=EXISTS))
        found = check_register(history).is_linearizable
        assert found == _all_orders(history), f"seed {seed}: {history}"
        verdicts.append(found)
    assert 0.1 < sum(verdicts) / len(verdicts) < 0.9
