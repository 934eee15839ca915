"""Rollouts on the ledger: groups, waves, whose turn it is, what outcomes count for, halts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger import actions, bodies
from ledger.errors import TransactionRefusedError
from ledger.keyspace import rollout_key
from ledger.limits import GROUP_ROLLOUTS_MAX, ROLLOUT_TARGETS_MAX
from ledger.rollout_bodies import GroupAssign, RolloutCreate, RolloutDecide
from ledger.rollout_order import rank_of
from ledger.rollout_records import BUDGET, ENDED, GOVERNANCE, HALTED, RUNNING
from ledger.rollout_turn import find_turn, openings
from ledger.rollout_waves import Wave, as_waves, planned_hosts, share_of
from tests.testkit.rollouts import ADMINISTRATOR, FAILED, MANAGER, SPRING, WEB, Fleet, wave
from wire.errors import MalformedError

CANARY = wave("canary", hosts=2)
TENTH = wave("tenth", share=1_000)
ALL = wave("all")


# Arithmetic


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [(10, 0, 0), (10, 1, 1), (10, 1000, 1), (11, 1000, 2), (3, 9_999, 3), (3, 10_000, 3)],
)
def test_shares_are_rounded_up(count: int, share: int, expected: int) -> None:
    assert share_of(count, share) == expected


def test_waves_reach_ever_more_hosts_of_each_group() -> None:
    waves = (wave("one", group="a@x", hosts=2), wave("some", share=5_000), wave("fewer", share=1_000), wave("all"))
    assert planned_hosts(waves, [("a@x", 3), ("b@x", 5)]) == (2, 3, 0, 3)
    assert planned_hosts(waves, [("a@x", 1), ("b@x", 1)]) == (1, 1, 0, 0)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 17, 64, 100, 257])
def test_the_order_is_a_permutation_that_names_decide(size: int) -> None:
    ranks = [rank_of("r@x", "g@x", slot, size) for slot in range(size)]
    assert sorted(ranks) == list(range(size))
    if size > 10:
        assert ranks != [rank_of("q@x", "g@x", slot, size) for slot in range(size)]
        assert ranks != [rank_of("r@x", "h@x", slot, size) for slot in range(size)]


def test_the_order_of_the_specification() -> None:
    """Another implementation must come to the same (docs/spec/rollouts.md 4)."""
    assert [rank_of("spring@acme", "web@acme", slot, 10) for slot in range(10)] == [2, 4, 9, 1, 3, 5, 8, 0, 6, 7]


@pytest.mark.parametrize(
    "waves",
    [
        (),
        (wave("all"), wave("all")),
        (wave("half", share=5_000),),
        (wave("web", group=WEB),),
        (wave("some", hosts=3),),
        (Wave("both", None, 1, 10_000, 0, 0, 0),),
        (Wave("none", None, None, None, 0, 0, 0),),
    ],
)
def test_waves_that_are_none_are_refused(waves: tuple[Wave, ...]) -> None:
    with pytest.raises(TransactionRefusedError) as refused:
        as_waves(tuple(each.to_value() for each in waves))
    assert refused.value.code == "ledger.rollout.bad_waves"


@pytest.mark.parametrize(
    "value",
    [
        ("a", None, 0, None, 0, 0, 0),
        ("a", None, None, 0, 0, 0, 0),
        ("a", None, None, 10_001, 0, 0, 0),
        ("a", None, None, 1, 10_001, 0, 0),
        ("a", None, None, 1, 0, 10_000_001, 0),
        ("a", None, None, 1, 0, 0, 90 * 86_400_000 + 1),
        ("A b", None, None, 1, 0, 0, 0),
        ("a", "no-group", None, 1, 0, 0, 0),
    ],
)
def test_waves_out_of_form_are_refused(value: tuple[object, ...]) -> None:
    with pytest.raises(MalformedError):
        Wave.from_value_untrusted(value)


def test_bodies_out_of_form_are_refused() -> None:
    for ids in ((), ("b@x", "a@x"), ("a@x", "a@x")):
        with pytest.raises(MalformedError) as refused:
            GroupAssign.from_value_untrusted(("g@x", ids))
        assert refused.value.code == "wire.field.repeated"
    with pytest.raises(MalformedError) as refused:
        RolloutDecide.from_value_untrusted(("r@x", "stop", ""))
    assert refused.value.code == "wire.field.choice"


# Groups


def slots_of(fleet: Fleet, group: str = WEB) -> list[str]:
    found = fleet.chain.view.group(group)
    assert found is not None
    hosts = list(fleet.chain.view.group_hosts(found))
    for slot, host in enumerate(hosts):
        member = fleet.chain.view.group_member(host)
        assert member is not None
        assert (member.group_id, member.slot) == (group, slot)
    return hosts


def test_hosts_join_and_leave_and_places_have_no_gaps() -> None:
    fleet = Fleet(5)
    assert slots_of(fleet) == [f"h{number}@acme" for number in range(5)]
    fleet.assign(None, ["h1@acme", "h4@acme"])
    assert slots_of(fleet) == ["h0@acme", "h3@acme", "h2@acme"] or sorted(slots_of(fleet)) == [
        "h0@acme",
        "h2@acme",
        "h3@acme",
    ]
    assert fleet.chain.view.group_member("h1@acme") is None
    fleet.assign("db@acme", ["h0@acme", "h1@acme", "h2@acme", "h3@acme"])
    assert slots_of(fleet, "db@acme") == ["h0@acme", "h1@acme", "h2@acme", "h3@acme"]
    assert slots_of(fleet) == []
    fleet.assign(WEB, ["h1@acme"])
    assert slots_of(fleet) == ["h1@acme"]
    assert [group.group_id for group in fleet.chain.view.groups()] == ["db@acme", WEB]


def test_who_may_assign_what() -> None:
    fleet = Fleet(2)
    fleet.chain.register("web1@beta", "host")
    chain = fleet.chain
    assert chain.refused(GroupAssign(WEB, ("h0@acme",)), MANAGER) == "ledger.tx.not_authorised"
    assert chain.refused(GroupAssign(WEB, ("web1@beta",)), ADMINISTRATOR) == "ledger.group.foreign"
    assert chain.refused(GroupAssign("web@beta", ("h0@acme",)), ADMINISTRATOR) == "ledger.group.foreign"
    assert chain.refused(GroupAssign(WEB, ("alice@acme",)), ADMINISTRATOR) == "ledger.group.not_a_host"
    assert chain.refused(GroupAssign(WEB, ("nobody@acme",)), ADMINISTRATOR) == "ledger.group.not_a_host"
    assert chain.refused(GroupAssign(WEB, ("h0@acme",)), ADMINISTRATOR) == "ledger.group.no_change"
    assert chain.refused(GroupAssign(None, ("alice@acme",)), ADMINISTRATOR) == "ledger.group.no_change"
    fleet.say(bodies.IdentityRevoke("h0@acme", None, chain.height, "gone"), ADMINISTRATOR)
    fleet.assign(None, ["h0@acme"])
    assert chain.refused(GroupAssign(WEB, ("h0@acme",)), ADMINISTRATOR) == "ledger.group.not_a_host"


def test_a_group_is_full_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(2)
    fleet.register(range(2, 3))
    monkeypatch.setattr("ledger.rules_rollout.GROUP_HOSTS_MAX", 2)
    assert fleet.chain.refused(GroupAssign(WEB, ("h2@acme",)), ADMINISTRATOR) == "ledger.group.full"


# Making one


def test_a_rollout_knows_its_hosts_by_number() -> None:
    fleet = Fleet(12)
    fleet.create(CANARY, TENTH, ALL, budget=3)
    rollout = fleet.rollout
    assert (rollout.planned, rollout.status, rollout.budget) == ((2, 0, 10), RUNNING, 3)
    assert rollout.groups == ((WEB, 12, 12),)
    assert rollout.waves == (CANARY, TENTH, ALL)
    assert [len(fleet.of_wave(index)) for index in range(4)] == [2, 0, 10, 0]
    assert [each.rollout_id for each in fleet.chain.view.rollouts()] == [SPRING]
    assert len(list(fleet.chain.view.history(rollout_key(SPRING)))) == 1


def test_who_may_make_which_rollout() -> None:
    fleet = Fleet(3)
    fleet.chain.register("rob@beta", "release-manager")
    body = RolloutCreate(SPRING, fleet.patch_id, (WEB,), (ALL,), 0, "")

    def refused(by: str = MANAGER, **changes: object) -> str:
        return fleet.chain.refused(replace(body, **changes), by)  # type: ignore[arg-type]

    assert refused(ADMINISTRATOR) == "ledger.tx.not_authorised"
    assert refused("rob@beta") == "ledger.tx.not_authorised"
    assert refused("rob@beta", rollout_id="spring@beta") == "ledger.group.foreign"
    assert refused(patch_id=bytes(32)) == "ledger.patch.not_found"
    assert refused(groups=("db@acme",)) == "ledger.group.empty"
    assert refused(waves=(wave("db", group="db@acme", hosts=1), ALL)) == "ledger.rollout.bad_waves"
    fleet.create(ALL)
    assert refused() == "ledger.rollout.exists"
    assert refused(rollout_id="again@acme") == "ledger.rollout.overlaps"
    fleet.decide("withdraw")
    assert refused() == "ledger.rollout.exists"
    fleet.create(ALL, rollout_id="again@acme")
    fleet.say(bodies.PatchWithdraw(fleet.patch_id, "bad"), "alice@acme")
    assert refused(rollout_id="third@acme") == "ledger.patch.withdrawn"


def test_a_group_looks_at_few_rollouts_and_complete_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert GROUP_ROLLOUTS_MAX == 32
    monkeypatch.setattr("ledger.rules_rollout.GROUP_ROLLOUTS_MAX", 1)
    fleet = Fleet(1)
    fleet.create(ALL)
    first = fleet.patch_id
    fleet.patch_id = fleet.chain.publish(_another_patch())
    body = RolloutCreate("next@acme", fleet.patch_id, (WEB,), (ALL,), 0, "")
    assert fleet.chain.refused(body, MANAGER) == "ledger.rollout.too_many"
    fleet.patch_id = first
    fleet.apply("h0@acme")
    assert fleet.rollout.is_complete
    fleet.say(body, MANAGER)
    group = fleet.chain.view.group(WEB)
    assert group is not None
    assert group.rollouts == ("next@acme",)


def _another_patch() -> bytes:
    from tests.testkit import patches

    return patches.make_patch(release_counter=99)


# Turns


def test_waves_open_one_after_the_other() -> None:
    fleet = Fleet(6)
    fleet.create(CANARY, wave("some", hosts=4), ALL)
    canaries, some, rest = (fleet.of_wave(index) for index in range(3))
    assert [len(each) for each in (canaries, some, rest)] == [2, 2, 2]
    assert {fleet.may_intend(host) for host in canaries} == {""}
    assert {fleet.may_intend(host) for host in some + rest} == {"ledger.rollout.not_open"}
    fleet.apply(canaries[0])
    assert fleet.may_intend(some[0]) == "ledger.rollout.not_open"
    fleet.apply(canaries[1])
    assert {fleet.may_intend(host) for host in some} == {""}
    assert {fleet.may_intend(host) for host in rest} == {"ledger.rollout.not_open"}
    for host in some + rest:
        fleet.apply(host)
    assert fleet.rollout.is_complete
    assert [counts[4] for counts in fleet.rollout.counts] == [2, 2, 2, 0]


@pytest.mark.parametrize("soak", [{"soak_heights": 3}, {"soak_ms": 3_000}, {"soak_heights": 3, "soak_ms": 2_500}])
def test_a_wave_soaks_in_heights_and_time_of_the_ledger(soak: dict[str, int]) -> None:
    fleet = Fleet(2)
    fleet.create(wave("canary", hosts=1, **soak), ALL)
    fleet.apply(fleet.of_wave(0)[0])
    (last,) = fleet.of_wave(1)
    met = fleet.chain.height
    for _ in range(2):
        assert fleet.may_intend(last) == "ledger.rollout.not_open"
        fleet.chain.commit()
    assert fleet.chain.height == met + 2
    assert fleet.may_intend(last) == ""


def heights_of(fleet: Fleet) -> list[int | None]:
    return [None if at is None else at[0] for at in openings(fleet.rollout)]


def test_an_empty_wave_waits_for_nobody_but_soaks() -> None:
    fleet = Fleet(2)
    created = fleet.chain.height + 1
    fleet.create(wave("one", hosts=2, success=1), wave("none", hosts=1, soak_heights=4), ALL)
    assert fleet.rollout.planned == (2, 0, 0)
    assert heights_of(fleet) == [created, None, None, None]
    fleet.apply(fleet.hosts[0])
    met = fleet.chain.height
    assert heights_of(fleet) == [created, met, met + 4, met + 4]


def test_a_wave_that_needs_nobody_only_soaks() -> None:
    fleet = Fleet(2)
    created = fleet.chain.height + 1
    fleet.create(wave("one", hosts=1, success=0, soak_heights=3), wave("all", success=0))
    assert heights_of(fleet) == [created, created + 3, created + 3]
    fleet.apply(fleet.of_wave(0)[0])
    assert heights_of(fleet) == [created, created + 3, created + 3]
    assert fleet.rollout.is_complete


def test_a_share_of_the_hosts_is_enough() -> None:
    fleet = Fleet(10)
    fleet.create(wave("most", hosts=9, success=8_000), ALL, budget=9)
    first = fleet.of_wave(0)
    for host in first[:7]:
        fleet.apply(host)
    fleet.apply(first[7], FAILED)
    assert fleet.may_intend(fleet.of_wave(1)[0]) == "ledger.rollout.not_open"
    fleet.apply(first[8])
    assert fleet.may_intend(fleet.of_wave(1)[0]) == ""


def test_a_roll_back_closes_the_next_wave_again() -> None:
    fleet = Fleet(4)
    fleet.create(CANARY, ALL, budget=4)
    canaries, rest = fleet.of_wave(0), fleet.of_wave(1)
    for host in canaries:
        fleet.apply(host)
    fleet.apply(rest[0])
    fleet.apply(canaries[0], "ROLLED_BACK")
    assert fleet.may_intend(rest[1]) == "ledger.rollout.not_open"
    assert fleet.rollout.counts[0][:5] == (0, 0, 1, 0, 1)
    fleet.apply(canaries[0])
    assert fleet.may_intend(rest[1]) == ""
    assert fleet.rollout.failures == 1


def test_a_host_that_comes_later_goes_with_the_last_wave() -> None:
    fleet = Fleet(3)
    fleet.create(wave("canary", hosts=1), ALL)
    (late,) = fleet.register(range(7, 8))
    assert find_turn(fleet.chain.view, late, fleet.patch_id) is None
    fleet.assign(WEB, [late])
    turn = find_turn(fleet.chain.view, late, fleet.patch_id)
    assert turn is not None
    assert (turn.host.wave, turn.wave_name) == (2, "all")
    assert fleet.may_intend(late) == "ledger.rollout.not_open"
    fleet.apply(fleet.of_wave(0)[0])
    fleet.apply(late)
    assert fleet.rollout.counts[2][4] == 1
    assert not fleet.rollout.is_complete


def test_who_takes_the_place_of_a_host_that_leaves_keeps_its_wave() -> None:
    fleet = Fleet(5)
    fleet.create(wave("canary", hosts=4), ALL)
    waves = {host: fleet.wave_of(host) for host in fleet.hosts}
    fleet.assign(None, ["h1@acme", "h2@acme"])
    assert slots_of(fleet) == ["h0@acme", "h4@acme", "h3@acme"]
    for host in ("h1@acme", "h2@acme"):
        assert find_turn(fleet.chain.view, host, fleet.patch_id) is None
    assert {host: fleet.wave_of(host) for host in slots_of(fleet)} == {host: waves[host] for host in slots_of(fleet)}
    left = [waves[host] for host in slots_of(fleet)]
    assert fleet.rollout.planned == (left.count(0), left.count(1))
    # Once more: what is written down of it goes with it.
    fleet.assign(None, ["h4@acme"])
    assert find_turn(fleet.chain.view, "h4@acme", fleet.patch_id) is None
    left.remove(waves["h4@acme"])
    assert fleet.rollout.planned == (left.count(0), left.count(1))
    for host in ("h0@acme", "h3@acme"):
        assert fleet.wave_of(host) == waves[host]
    for host in sorted(("h0@acme", "h3@acme"), key=waves.__getitem__):
        fleet.apply(host)
    assert fleet.rollout.is_complete


def test_a_host_that_leaves_before_it_begins_is_waited_for_no_more() -> None:
    fleet = Fleet(4)
    fleet.create(wave("canary", hosts=2, soak_heights=2), ALL)
    (first, dead), (other, _) = fleet.of_wave(0), fleet.of_wave(1)
    fleet.apply(first)
    assert fleet.may_intend(other) == "ledger.rollout.not_open"
    fleet.assign(None, [dead])
    assert (fleet.rollout.planned, fleet.rollout.needed(0)) == ((1, 2), 1)
    left = fleet.chain.height
    # The soak begins when enough have it, which is now.
    assert openings(fleet.rollout)[1] == (left + 2, fleet.chain.blocks[-1].header.time_ms)
    fleet.assign(WEB, [dead])
    assert (fleet.rollout.planned, fleet.wave_of(dead)) == ((1, 2), 2), "who comes back comes later"


def test_a_wave_that_everybody_has_left_waits_for_nobody() -> None:
    fleet = Fleet(4)
    fleet.create(wave("canary", hosts=1), ALL)
    (dead,) = fleet.of_wave(0)
    fleet.assign(None, [dead])
    assert fleet.rollout.planned == (0, 3)
    for host in slots_of(fleet):
        fleet.apply(host)
    assert fleet.rollout.is_complete


@pytest.mark.parametrize("ended", ["under way", FAILED, "ROLLED_BACK", "failed, and not carried out"])
def test_nobody_opens_a_wave_by_taking_a_host_away_that_fails_or_hangs(ended: str) -> None:
    fleet = Fleet(3)
    fleet.create(wave("canary", hosts=1), ALL, budget=3)
    (canary,), (other, _) = fleet.of_wave(0), fleet.of_wave(1)
    opened = fleet.intend(canary)
    if ended != "under way":
        fleet.end(canary, opened, FAILED if "," in ended else ended)
    if "," in ended:
        fleet.apply(canary, "ERROR_LEDGER_UNAVAILABLE")
    before = fleet.rollout
    fleet.assign(None, [canary])
    assert fleet.rollout == before
    assert fleet.may_intend(other) == "ledger.rollout.not_open"
    if ended == "under way":
        fleet.end(canary, opened, FAILED)
        assert (fleet.rollout.failures, fleet.rollout.counts[0][:5]) == (1, (0, 1, 0, 0, 0))
        assert fleet.may_intend(other) == "ledger.rollout.not_open"


def test_a_host_that_came_to_nothing_after_it_left_is_waited_for_no_more() -> None:
    fleet = Fleet(3)
    fleet.create(wave("canary", hosts=1), ALL)
    (canary,), (other, _) = fleet.of_wave(0), fleet.of_wave(1)
    opened = fleet.intend(canary)
    fleet.assign("db@acme", [canary])
    fleet.end(canary, opened, "ERROR_STALE_REPLICA")
    assert (fleet.rollout.planned, fleet.rollout.counts[0][:5]) == ((0, 2), (0, 0, 0, 0, 0))
    assert fleet.may_intend(other) == ""


def test_a_host_that_came_to_nothing_in_another_group_of_the_rollout_goes_on() -> None:
    fleet = Fleet(3)
    fleet.assign("db@acme", fleet.register([7]))
    fleet.create(wave("canary", hosts=1, group=WEB), ALL, groups=("db@acme", WEB))
    (canary,) = fleet.of_wave(0)
    opened = fleet.intend(canary)
    fleet.assign("db@acme", [canary])
    fleet.end(canary, opened, "ERROR_STALE_REPLICA")
    assert (fleet.rollout.planned, fleet.wave_of(canary)) == ((1, 3), 0)
    fleet.apply(canary)
    assert fleet.rollout.counts[0][4] == 1


def test_a_refusal_leaves_with_its_host() -> None:
    fleet = Fleet(3)
    fleet.create(wave("canary", hosts=1), ALL)
    (canary,), (other, _) = fleet.of_wave(0), fleet.of_wave(1)
    fleet.end(canary, None, "ERROR_POLICY_DENIED")
    fleet.assign(None, [canary])
    assert fleet.rollout.planned == (0, 2)
    assert [counts[:5] for counts in fleet.rollout.counts] == [(0, 0, 0, 0, 0), (0, 0, 0, 0, 0), (0, 0, 0, 1, 0)]
    assert fleet.may_intend(other) == ""


def test_a_host_that_left_before_it_began_goes_with_its_next_group() -> None:
    fleet = Fleet(4)
    fleet.create(ALL)
    fleet.assign(None, ["h0@acme"])
    assert fleet.chain.view.rollout_host(fleet.patch_id, "h3@acme") is not None, "its wave is written down"
    fleet.assign("db@acme", ["h3@acme"])
    fleet.create(ALL, rollout_id="autumn@acme", groups=("db@acme",))
    turn = find_turn(fleet.chain.view, "h3@acme", fleet.patch_id)
    assert turn is not None
    assert (turn.rollout.rollout_id, turn.host.wave) == ("autumn@acme", 0)
    fleet.apply("h3@acme")
    assert fleet.rollout.planned == (2,)


def test_who_is_counted_elsewhere_and_moves_is_waited_for_in_one_rollout() -> None:
    fleet = Fleet(4)
    fleet.assign("db@acme", fleet.register([7]))
    fleet.create(ALL)
    opened = fleet.intend("h0@acme")
    fleet.assign("db@acme", ["h0@acme"])
    fleet.create(ALL, rollout_id="autumn@acme", groups=("db@acme",))
    fleet.assign(None, ["h7@acme"])  # The other one takes its place.
    autumn = fleet.chain.view.rollout("autumn@acme")
    assert autumn is not None
    assert autumn.planned == (0,)
    assert fleet.rollout.planned == (4,)
    fleet.end("h0@acme", opened)
    assert fleet.rollout.counts[0][4] == 1


def test_a_complete_rollout_is_not_changed_by_who_leaves() -> None:
    fleet = Fleet(4)
    fleet.create(wave("all", success=5_000))
    for host in ("h0@acme", "h1@acme"):
        fleet.apply(host)
    assert fleet.rollout.is_complete
    before = fleet.rollout
    fleet.assign(None, ["h2@acme"])
    assert fleet.rollout == before
    assert fleet.wave_of("h3@acme") == 1, "it has another place now, and goes with those that came later"
    fleet.apply("h3@acme")
    assert [counts[4] for counts in fleet.rollout.counts] == [2, 1]


def test_so_many_hosts_leave_so_many_rollouts_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.rules_rollout.GROUP_LEAVES_MAX", 2)
    fleet = Fleet(4)
    fleet.create(ALL)
    before = fleet.rollout
    body = GroupAssign(None, ("h0@acme", "h1@acme", "h2@acme"))
    assert fleet.chain.refused(body, ADMINISTRATOR) == "ledger.group.too_many_changes"
    assert fleet.rollout == before
    fleet.assign(None, ["h0@acme", "h1@acme"])
    fleet.decide("withdraw")
    fleet.assign("db@acme", ["h2@acme", "h3@acme"])


def test_who_left_stands_in_the_history_of_the_rollout() -> None:
    fleet = Fleet(3)
    fleet.create(ALL)
    before = len(list(fleet.chain.view.history(rollout_key(SPRING))))
    fleet.assign(None, ["h1@acme"])
    assert len(list(fleet.chain.view.history(rollout_key(SPRING)))) == before + 1


def test_a_host_keeps_its_rollout_when_it_changes_its_group() -> None:
    fleet = Fleet(3)
    fleet.create(wave("canary", hosts=2), ALL)
    host = fleet.of_wave(0)[0]
    opened = fleet.intend(host)
    fleet.assign("db@acme", [host])
    fleet.end(host, opened)
    assert fleet.rollout.counts[0][:5] == (0, 0, 0, 0, 1)


def test_hosts_of_no_rollout_apply_as_ever() -> None:
    fleet = Fleet(2)
    fleet.apply("h0@acme")
    fleet.create(wave("canary", hosts=1), ALL)
    (other,) = fleet.register(range(5, 6))
    fleet.apply(other)
    assert fleet.rollout.counts == ((0, 0, 0, 0, 0, None, None),) * 3


def test_what_was_applied_before_the_rollout_can_be_told() -> None:
    """There is nothing to apply any more, so the agent's refusal says it; the ledger has it installed."""
    fleet = Fleet(1)
    fleet.apply("h0@acme")
    fleet.create(ALL)
    fleet.end("h0@acme", None, "ERROR_INVALID_METADATA")
    assert fleet.rollout.is_complete


# Counting


def test_a_refusal_is_counted_once_and_is_no_failure() -> None:
    fleet = Fleet(2)
    fleet.create(wave("canary", hosts=1), ALL)
    (first,), (second,) = fleet.of_wave(0), fleet.of_wave(1)
    fleet.end(first, None, "ERROR_LEDGER_UNAVAILABLE")
    assert fleet.rollout.counts[0][:5] == (0, 0, 0, 0, 0)
    for _ in range(2):
        fleet.end(first, None, "ERROR_POLICY_DENIED")
    fleet.end(second, None, "ERROR_POLICY_DENIED")  # Not its turn: nothing to count.
    assert [counts[:5] for counts in fleet.rollout.counts] == [(0, 0, 0, 1, 0), (0, 0, 0, 0, 0), (0, 0, 0, 0, 0)]
    assert fleet.rollout.failures == 0
    fleet.apply(first)
    assert fleet.rollout.counts[0][:5] == (0, 0, 0, 0, 1)


@pytest.mark.parametrize("result", ["ERROR_LEDGER_UNAVAILABLE", "ERROR_STALE_REPLICA"])
def test_what_a_host_did_not_get_to_may_be_tried_again(result: str) -> None:
    fleet = Fleet(1)
    fleet.create(ALL)
    fleet.apply("h0@acme", result)
    assert (fleet.rollout.failures, fleet.rollout.counts[0][:5]) == (0, (0, 0, 0, 0, 0))
    fleet.apply("h0@acme")
    assert fleet.rollout.is_complete


def test_a_roll_back_that_comes_to_nothing_leaves_the_host_applied() -> None:
    fleet = Fleet(1)
    fleet.create(ALL)
    fleet.apply("h0@acme")
    fleet.apply("h0@acme", FAILED)
    assert (fleet.rollout.failures, fleet.rollout.counts[0][:5]) == (0, (0, 0, 0, 0, 1))


def test_a_host_is_what_the_worst_of_its_targets_is() -> None:
    fleet = Fleet(1)
    fleet.create(ALL, budget=1)
    one = fleet.intend("h0@acme", "one")
    two = fleet.intend("h0@acme", "two")
    assert fleet.rollout.counts[0][:5] == (1, 0, 0, 0, 0)
    fleet.end("h0@acme", one, FAILED, "one")
    assert fleet.rollout.counts[0][:5] == (1, 0, 0, 0, 0)
    fleet.end("h0@acme", two, "SUCCESS", "two")
    assert fleet.rollout.counts[0][:5] == (0, 1, 0, 0, 0)
    fleet.apply("h0@acme", "SUCCESS", "one")
    assert (fleet.rollout.counts[0][:5], fleet.rollout.failures) == ((0, 0, 0, 0, 1), 1)


def test_a_host_counts_so_many_targets() -> None:
    fleet = Fleet(1)
    fleet.create(ALL)
    for index in range(ROLLOUT_TARGETS_MAX):
        fleet.intend("h0@acme", f"t{index}")
    body = fleet.intent_body("h0@acme", "one-more")
    assert fleet.chain.refused(body, "h0@acme") == "ledger.rollout.too_many_targets"
    fleet.end("h0@acme", None, "ERROR_POLICY_DENIED", "one-more")
    assert fleet.rollout.counts[0][:5] == (1, 0, 0, 0, 0)


def test_an_intent_that_was_replaced_or_came_before_counts_for_nothing() -> None:
    fleet = Fleet(1)
    early = fleet.intend("h0@acme")
    fleet.create(ALL)
    fleet.end("h0@acme", early, FAILED)
    first = fleet.intend("h0@acme")
    second = fleet.intend("h0@acme")
    fleet.end("h0@acme", first, FAILED)
    assert (fleet.rollout.failures, fleet.rollout.counts[0][:5]) == (0, (1, 0, 0, 0, 0))
    fleet.end("h0@acme", second)
    assert fleet.rollout.counts[0][:5] == (0, 0, 0, 0, 1)


# Halting


def test_more_failures_than_the_budget_halt_it_in_the_same_block() -> None:
    fleet = Fleet(6)
    fleet.create(ALL, budget=1)
    opened = {host: fleet.intend(host) for host in fleet.hosts[:4]}
    fleet.end(fleet.hosts[0], opened[fleet.hosts[0]], FAILED)
    assert fleet.rollout.status == RUNNING
    fleet.end(fleet.hosts[1], opened[fleet.hosts[1]], FAILED)
    rollout = fleet.rollout
    assert (rollout.status, rollout.status_by, rollout.status_height) == (HALTED, BUDGET, fleet.chain.height)
    assert fleet.may_intend(fleet.hosts[4]) == "ledger.rollout.halted"
    # Those who were on their way tell how it ended, and are counted.
    fleet.end(fleet.hosts[2], opened[fleet.hosts[2]], FAILED)
    fleet.end(fleet.hosts[3], opened[fleet.hosts[3]])
    assert (fleet.rollout.failures, fleet.rollout.counts[0][:5]) == (3, (0, 3, 0, 0, 1))
    fleet.decide("resume")
    assert (fleet.rollout.status, fleet.rollout.forgiven) == (RUNNING, 3)
    fleet.apply(fleet.hosts[4], FAILED)
    assert fleet.rollout.status == RUNNING
    fleet.apply(fleet.hosts[5], FAILED)
    assert fleet.rollout.status == HALTED


def test_in_one_block_no_intent_follows_the_outcome_that_halts() -> None:
    fleet = Fleet(2)
    fleet.create(ALL)
    opened = fleet.intend("h0@acme")
    failure = fleet.chain.sign(fleet.outcome_body("h0@acme", opened, FAILED), "h0@acme")
    other = fleet.chain.sign(fleet.intent_body("h1@acme"), "h1@acme")
    built = fleet.chain.build(failure, other)
    assert [error.code for _, error in built.refused] == ["ledger.rollout.halted"]
    assert fleet.chain.build(other, failure).refused == ()


def test_a_host_rolls_back_although_the_rollout_is_halted() -> None:
    fleet = Fleet(2)
    fleet.create(ALL, budget=2)
    fleet.apply("h0@acme")
    fleet.decide("halt")
    assert fleet.may_intend("h1@acme") == "ledger.rollout.halted"
    fleet.apply("h0@acme", "ROLLED_BACK")
    assert fleet.rollout.counts[0][:5] == (0, 0, 1, 0, 0)
    assert fleet.chain.refused(fleet.intent_body("h0@acme"), "h0@acme") == "ledger.rollout.halted"


def test_who_may_decide_what() -> None:
    fleet = Fleet(1)
    fleet.chain.register("rob@beta", "release-manager")
    chain = fleet.chain

    def refused(decision: str, by: str = MANAGER, rollout_id: str = SPRING) -> str:
        return chain.refused(RolloutDecide(rollout_id, decision, ""), by)

    assert refused("halt") == "ledger.rollout.not_found"
    fleet.create(ALL)
    for by in ("rob@beta", "ben@beta", "alice@acme"):
        assert refused("halt", by) == "ledger.tx.not_authorised"
    assert refused("resume") == "ledger.rollout.no_change"
    fleet.decide("halt", ADMINISTRATOR)
    assert refused("halt") == "ledger.rollout.no_change"
    fleet.decide("resume")
    fleet.decide("withdraw")
    assert fleet.rollout.status == ENDED
    for decision in ("halt", "resume", "withdraw"):
        assert refused(decision) == "ledger.rollout.withdrawn"
    group = chain.view.group(WEB)
    assert group is not None
    assert group.rollouts == ()


def test_what_governance_halts_only_governance_resumes() -> None:
    fleet = Fleet(1)
    fleet.create(ALL)
    fleet.decide("halt")
    fleet.chain.adopt(actions.DecideRollout(SPRING, "halt", "it leaks"))
    assert (fleet.rollout.status_by, fleet.rollout.status_reason) == (GOVERNANCE, "it leaks")
    assert fleet.chain.refused(RolloutDecide(SPRING, "resume", ""), MANAGER) == "ledger.rollout.halted_by_governance"
    again = bodies.ProposalCreate(actions.DecideRollout(SPRING, "halt", "again"), "")
    assert fleet.chain.refused(again, ADMINISTRATOR) == "ledger.rollout.no_change"
    fleet.chain.adopt(actions.DecideRollout(SPRING, "resume", "it does not"))
    assert fleet.may_intend("h0@acme") == ""
    fleet.chain.adopt(actions.DecideRollout(SPRING, "withdraw", "enough"))
    missing = bodies.ProposalCreate(actions.DecideRollout("none@acme", "halt", ""), "")
    assert fleet.chain.refused(missing, ADMINISTRATOR) == "ledger.rollout.not_found"
    gone = bodies.ProposalCreate(actions.DecideRollout(SPRING, "halt", ""), "")
    assert fleet.chain.refused(gone, ADMINISTRATOR) == "ledger.rollout.withdrawn"


def test_after_a_withdrawal_another_rollout_begins_anew() -> None:
    fleet = Fleet(2)
    fleet.create(ALL, budget=5)
    fleet.apply("h0@acme", FAILED)
    opened = fleet.intend("h1@acme")
    fleet.decide("withdraw")
    assert find_turn(fleet.chain.view, "h0@acme", fleet.patch_id) is None
    fleet.end("h1@acme", opened)
    assert fleet.rollout.counts[0][:5] == (0, 1, 0, 0, 1)
    fleet.apply("h0@acme", FAILED)  # By somebody's hand: it belongs to no rollout.
    assert fleet.rollout.counts[0][:5] == (0, 1, 0, 0, 1)
    fleet.create(ALL, rollout_id="again@acme")
    fleet.apply("h0@acme")
    again = fleet.chain.view.rollout("again@acme")
    assert again is not None
    assert (again.counts[0][:5], again.failures) == ((0, 0, 0, 0, 1), 0)
    assert fleet.rollout.counts[0][:5] == (0, 1, 0, 0, 1)
