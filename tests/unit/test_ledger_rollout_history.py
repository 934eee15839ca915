"""The course of a rollout, computed anew from the ledger: at each height it is the record that stood there."""

from __future__ import annotations

import random

import pytest

from ledger import bodies
from ledger.keyspace import HISTORY_KEY, Table, height_key
from ledger.rollout_actions import DecideRollout
from ledger.rollout_history import replay_rollout
from ledger.rollout_records import RolloutRecord
from ledger.rollout_turn import find_turn
from tests.testkit.rollouts import FAILED, SPRING, WEB, Fleet, wave

AUTUMN = "autumn@acme"
RESULTS = ("SUCCESS", "SUCCESS", "SUCCESS", FAILED, "ERROR_LEDGER_UNAVAILABLE", "ROLLED_BACK", "ERROR_POLICY_DENIED")


def records_by_height(fleet: Fleet, rollout_id: str, seen: dict[int, RolloutRecord]) -> None:
    found = fleet.chain.view.rollout(rollout_id)
    if found is not None:
        seen[fleet.chain.height] = found


def told(fleet: Fleet, rollout_id: str = SPRING) -> dict[int, RolloutRecord]:
    """Return the rollout after each block that said something about its patch."""
    rollout = fleet.chain.view.rollout(rollout_id)
    assert rollout is not None
    return {step.height: step.rollout for step in replay_rollout(fleet.chain.view, rollout) if step.rollout is not None}


def check(fleet: Fleet, seen: dict[int, RolloutRecord], rollout_id: str = SPRING) -> None:
    course = told(fleet, rollout_id)
    heights = sorted(course)
    assert heights
    for height, record in seen.items():
        before = [each for each in heights if each <= height]
        assert course[before[-1]] == record, height


@pytest.mark.parametrize("seed", range(4))
def test_whatever_hosts_and_people_do_the_course_ends_at_the_record(seed: int) -> None:
    chance = random.Random(seed)
    fleet = Fleet(7)
    seen: dict[int, RolloutRecord] = {}
    open_intents: dict[tuple[str, str], bytes] = {}
    for host in chance.sample(fleet.hosts, 2):
        # Before the rollout is made: one that has the patch, one that was refused it.
        fleet.apply(host, chance.choice(("SUCCESS", FAILED)))
    fleet.create(
        wave("canary", hosts=2, success=5_000, soak_heights=1), wave("half", share=5_000), wave("all"), budget=2
    )
    records_by_height(fleet, SPRING, seen)
    for number in range(120):
        host, target = chance.choice(fleet.hosts), chance.choice(("site", "blog"))
        turn = find_turn(fleet.chain.view, host, fleet.patch_id)
        header = fleet.chain.blocks[-1].header
        may = turn is not None and turn.may_go(header.height + 1, header.time_ms + 1000)
        match chance.choice(("go", "go", "go", "end", "end", "refuse", "decide", "adopt")):
            case "go" if may and (host, target) not in open_intents:
                open_intents[host, target] = fleet.intend(host, target)
            case "end" if open_intents:
                host, target = chance.choice(sorted(open_intents))
                fleet.end(host, open_intents.pop((host, target)), chance.choice(RESULTS), target)
            case "refuse":
                fleet.end(host, None, "ERROR_POLICY_DENIED", target)
            case "adopt":
                body = chance.choice((b'{"installed":[]}', b"{}"))
                fleet.say(bodies.HostReport("adopt", target, body), host)
            case "decide" if fleet.rollout.status == "halted" and fleet.rollout.status_by != "governance":
                fleet.decide("resume")
            case "decide" if fleet.rollout.status == "running" and not number % 3:
                fleet.decide("halt")
        records_by_height(fleet, SPRING, seen)
    assert len(set(seen.values())) > 10
    check(fleet, seen)


@pytest.mark.parametrize("is_early", [False, True])
def test_what_was_installed_in_another_tree_is_not_applied(*, is_early: bool) -> None:
    """A host is set up anew before its rollout comes; its refusal says only that. One that came before the application says nothing."""
    fleet = Fleet(2)
    host, other = fleet.hosts
    fleet.apply(other)
    adoption = bodies.HostReport("adopt", "site", b'{"installed":[]}')
    if is_early:
        fleet.say(adoption, host)
    fleet.apply(host)
    if not is_early:
        fleet.say(adoption, host)
    fleet.create()
    seen: dict[int, RolloutRecord] = {}
    for each in (other, host):
        fleet.end(each, None, "ERROR_POLICY_DENIED")
        records_by_height(fleet, SPRING, seen)
    assert fleet.rollout.counts[0][3:5] == ((0, 2) if is_early else (1, 1))
    check(fleet, seen)


def test_what_governance_decides_is_in_the_course() -> None:
    fleet, seen = Fleet(3), dict[int, RolloutRecord]()
    fleet.create(wave("one", hosts=1), wave("all"))
    records_by_height(fleet, SPRING, seen)
    for decision in ("halt", "resume"):
        fleet.chain.adopt(DecideRollout(SPRING, decision, "a <b>vote</b>"))
        records_by_height(fleet, SPRING, seen)
    check(fleet, seen)
    assert [each.status for each in told(fleet).values()] == ["running", "halted", "running"]


def test_after_a_withdrawal_each_rollout_has_its_own_course() -> None:
    fleet = Fleet(4)
    seen: dict[str, dict[int, RolloutRecord]] = {SPRING: {}, AUTUMN: {}}
    fleet.create(wave("half", hosts=2), wave("all"), budget=3)
    first, second = fleet.of_wave(0)
    fleet.apply(first)
    left_open = fleet.intend(second)
    records_by_height(fleet, SPRING, seen[SPRING])
    fleet.decide("withdraw")
    records_by_height(fleet, SPRING, seen[SPRING])
    fleet.create(wave("all"), budget=3, rollout_id=AUTUMN)
    records_by_height(fleet, AUTUMN, seen[AUTUMN])
    fleet.end(second, left_open, FAILED)
    for rollout_id, records in seen.items():
        records_by_height(fleet, rollout_id, records)
    for host in fleet.of_wave(0):
        if host != second:
            fleet.apply(host)
            records_by_height(fleet, AUTUMN, seen[AUTUMN])
    check(fleet, seen[SPRING])
    check(fleet, seen[AUTUMN], AUTUMN)


def test_a_rollout_that_nobody_answered_has_the_step_of_its_making() -> None:
    fleet = Fleet(2)
    fleet.create()
    assert list(told(fleet).values()) == [fleet.rollout]


def test_where_the_history_was_pruned_there_is_no_course() -> None:
    fleet = Fleet(2)
    fleet.create()
    fleet.chain.store.apply({(Table.META, HISTORY_KEY): height_key(fleet.chain.height + 1)})
    assert told(fleet) == {}
    assert WEB in {group for group, _, _ in fleet.rollout.groups}


def test_where_hosts_left_the_course_ends_with_the_numbers_of_the_record() -> None:
    fleet = Fleet(5)
    fleet.create(wave("canary", hosts=2), wave("all"), budget=2)
    first, silent = fleet.of_wave(0)
    refusing = fleet.of_wave(1)[0]
    fleet.apply(first)
    fleet.assign(None, [silent])
    fleet.end(refusing, None, "ERROR_POLICY_DENIED")
    fleet.assign(None, [refusing])
    for host in fleet.hosts:
        if host not in (first, silent, refusing):
            fleet.apply(host)
    last = list(told(fleet).values())[-1]
    assert fleet.rollout.is_complete
    assert (last.planned, last.failures, last.status) == ((1, 2), 0, "running")
    assert [counts[:5] for counts in last.counts] == [counts[:5] for counts in fleet.rollout.counts]
    # The record knows that the canaries were enough when one of them left; the course has not seen it leave.
    assert last.counts[0][5] != fleet.rollout.counts[0][5]
