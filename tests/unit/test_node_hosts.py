"""What a node tells about hosts and about the course of rollouts, from a ledger in memory."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from ledger import bodies
from ledger.keyspace import HISTORY_KEY, Table, height_key
from node.rollout_course import Courses, thin_points
from tests.testkit.core import MemoryCore
from tests.testkit.rollouts import FAILED, SPRING, WEB, Fleet, wave
from wire import canonical_json
from wire.errors import RejectedError

PATHS = ["etc/frames.conf", "bin/<script>alert(1)</script>"]
DRIFT = canonical_json.encode({"version": 1, "tree_digest": "22" * 32, "paths_count": 3, "paths": PATHS})


def make_fleet(hosts: int = 6) -> Fleet:
    fleet = Fleet(hosts)
    fleet.create(wave("canary", hosts=2), wave("all", success=5_000), budget=3)
    first, second = fleet.of_wave(0)
    fleet.apply(first)
    fleet.apply(second)
    fleet.apply(fleet.of_wave(1)[0], FAILED)
    fleet.say(bodies.HostReport("drift", "site", DRIFT), first)
    return fleet


def ask(fleet: Fleet, method: str, **params: Any) -> Any:
    return trio.run(MemoryCore(fleet.chain).services[method], params)


def test_hosts_are_listed_page_by_page_with_what_drifted() -> None:
    fleet = make_fleet()
    drifted = fleet.of_wave(0)[0]
    pages: list[str] = []
    after: str | None = None
    while page := ask(fleet, "hosts.list", after=after, limit=4):
        pages += [each["host"] for each in page]
        after = pages[-1]
    assert pages == sorted(fleet.hosts)
    assert {each["host"]: each["targets_drifted"] for each in ask(fleet, "hosts.list")}[drifted] == 1
    assert "alice@acme" not in pages


def test_a_host_is_told_with_the_paths_of_its_drift() -> None:
    fleet = make_fleet()
    document = ask(fleet, "hosts.get", host=fleet.of_wave(0)[0])
    (target,) = document["targets"]
    assert (document["group"], target["report_kind"]) == (WEB, "drift")
    assert target["report"]["detail"]["paths"] == PATHS
    assert [each["patch_id"] for each in target["installed"]] == [fleet.patch_id.hex()]
    # What is no JSON, or no object, is not told, and breaks nothing.
    for body in (b"", b"{", b"[1]", b"\xff"):
        fleet.say(bodies.HostReport("drift", "site", body), fleet.of_wave(0)[0])
        (target,) = ask(fleet, "hosts.get", host=fleet.of_wave(0)[0])["targets"]
        assert target["report"]["detail"] is None


def test_targets_beyond_the_limit_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.host_services.HOST_TARGETS_MAX", 2)
    fleet = Fleet(1)
    (host,) = fleet.hosts
    for number, target in enumerate(("a", "b", "c")):
        fleet.say(bodies.HostReport("drift", target, DRIFT), host)
        document = ask(fleet, "hosts.get", host=host)
        assert (document["targets_more"], document["targets_total"]) == (number == 2, min(2, number + 1))
        assert len(document["targets"]) == document["targets_drifted"] == document["targets_total"]
    assert ask(fleet, "hosts.list")[0]["targets_more"]


@pytest.mark.parametrize("name", ["nobody@acme", "alice@acme"])
def test_who_is_no_host_is_not_found(name: str) -> None:
    fleet = Fleet(1)
    for method in ("hosts.get", "hosts.records"):
        with pytest.raises(RejectedError) as refused:
            ask(fleet, method, host=name)
        assert refused.value.code == "node.host.not_found"


def test_records_of_a_host_go_backwards_along_its_chain() -> None:
    fleet = Fleet(2)
    fleet.create(budget=9)
    host = fleet.hosts[0]
    for _ in range(3):
        fleet.apply(host, FAILED)
    found: list[dict[str, Any]] = []
    before: str | None = None
    while True:
        page = ask(fleet, "hosts.records", host=host, before=before, limit=4)
        found += page["records"]
        before = page["next"]
        if before is None:
            break
    assert [each["counter"] for each in found] == [6, 5, 4, 3, 2, 1]
    assert [each["kind"] for each in found] == ["outcome", "intent"] * 3
    assert found[0]["deployment_id"] == found[1]["tx_id"]
    assert found[0]["result"] == FAILED
    for before in (fleet.patch_id.hex(), ask(fleet, "blocks.get", height=1)["transactions"][0]):
        with pytest.raises(RejectedError, match="no such record"):
            ask(fleet, "hosts.records", host=host, before=before)
    with pytest.raises(RejectedError, match="no such record"):
        ask(fleet, "hosts.records", host=fleet.hosts[1], before=found[0]["tx_id"])


def test_hosts_of_a_rollout_by_place_and_by_state() -> None:
    fleet = make_fleet()
    all_hosts: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = ask(fleet, "rollouts.hosts", rollout_id=SPRING, after=after, limit=4)
        all_hosts += page["hosts"]
        after = page["next"]
        if after is None:
            break
    assert {each["host"] for each in all_hosts} == set(fleet.hosts)
    assert len(all_hosts) == len(fleet.hosts)
    assert {each["wave"] for each in all_hosts} == {"canary", "all"}
    states = {each["host"]: each["state"] for each in all_hosts}
    for state in ("applied", "failed", "silent", "refused"):
        found = ask(fleet, "rollouts.hosts", rollout_id=SPRING, state=state)["hosts"]
        assert {each["host"] for each in found} == {host for host, each in states.items() if each == state}
    assert sorted(states.values()) == ["applied", "applied", "failed", "silent", "silent", "silent"]
    page = ask(fleet, "rollouts.hosts", rollout_id=SPRING, state="applied", limit=1)
    rest = ask(fleet, "rollouts.hosts", rollout_id=SPRING, state="applied", after=page["next"])
    assert [each["host"] for each in page["hosts"] + rest["hosts"]] == sorted(fleet.of_wave(0))
    for wrong, code in (({"state": "nice"}, "node.param.state"), ({"after": "alice@acme"}, "node.param.after")):
        with pytest.raises(RejectedError) as refused:
            ask(fleet, "rollouts.hosts", rollout_id=SPRING, **wrong)
        assert refused.value.code == code
    with pytest.raises(RejectedError) as refused:
        ask(fleet, "rollouts.hosts", rollout_id="other@acme")
    assert refused.value.code == "node.rollout.not_found"


def test_a_course_adds_up_to_the_hosts_and_ends_at_the_record() -> None:
    fleet = make_fleet()
    course = ask(fleet, "rollouts.course", rollout_id=SPRING)
    names = ("under_way", "failed", "rolled_back", "refused", "applied", "silent")
    assert course["complete"]
    assert {sum(point[name] for name in names) for point in course["points"]} == {len(fleet.hosts)}
    assert (course["points"][0]["silent"], course["points"][-1]["applied"], course["points"][-1]["failed"]) == (6, 2, 1)
    assert [mark["status"] for mark in course["marks"]] == ["running"]
    fleet.decide("halt")
    halted = ask(fleet, "rollouts.course", rollout_id=SPRING)
    assert [(mark["status"], mark["by"]) for mark in halted["marks"]][-1] == ("halted", "rita@acme")
    assert len(ask(fleet, "rollouts.course", rollout_id=SPRING, points=3)["points"]) <= 3


def test_a_course_knows_when_waves_began_also_when_they_have_closed_again() -> None:
    fleet = Fleet(4)
    fleet.create(wave("one", hosts=1, soak_heights=2), wave("two", hosts=2, soak_heights=3), wave("all"), budget=1)
    (first,) = fleet.of_wave(0)

    def begun() -> list[tuple[str, int]]:
        return [(each["name"], each["height"]) for each in ask(fleet, "rollouts.course", rollout_id=SPRING)["waves"]]

    made = fleet.chain.height
    assert begun() == [("one", made)]
    fleet.apply(first)
    applied = fleet.chain.height
    assert begun() == [("one", made)]
    for _ in range(2):
        fleet.say(bodies.HostReport("repair", "site", b""), first)  # Only time passes.
    assert begun() == [("one", made), ("two", applied + 2)]
    fleet.decide("halt")
    fleet.apply(first, "ROLLED_BACK")
    assert not ask(fleet, "rollouts.get", rollout_id=SPRING)["waves"][1]["open"]
    assert begun() == [("one", made), ("two", applied + 2)]
    # A wave whose time comes while it is halted begins when it is let go on.
    fleet = Fleet(2)
    fleet.create(wave("one", hosts=1, soak_heights=2), wave("all"))
    made = fleet.chain.height
    fleet.apply(fleet.of_wave(0)[0])
    fleet.decide("halt")
    for _ in range(3):
        fleet.say(bodies.HostReport("repair", "site", b""), first)
    fleet.decide("resume")
    assert begun() == [("one", made), ("all", fleet.chain.height)]


async def test_a_course_is_kept_until_the_history_goes_on() -> None:
    fleet, courses = make_fleet(), Courses()
    first = await courses.find(fleet.chain.view, fleet.rollout)
    fleet.say(bodies.HostReport("repair", "site", b""), fleet.hosts[0])  # A block that says nothing about the patch.
    assert await courses.find(fleet.chain.view, fleet.rollout) is first
    fleet.decide("halt")
    second = await courses.find(fleet.chain.view, fleet.rollout)
    assert second is not first
    assert second.complete


async def test_what_is_too_long_or_pruned_is_told_as_incomplete() -> None:
    fleet = make_fleet()
    cut = await Courses().find(fleet.chain.view, fleet.rollout, rows_max=4)
    assert not cut.complete
    assert cut.points
    fleet.chain.store.apply({(Table.META, HISTORY_KEY): height_key(fleet.chain.height)})
    pruned = await Courses().find(fleet.chain.view, fleet.rollout)
    assert (pruned.complete, pruned.points) == (False, [])


@given(st.lists(st.integers(0, 10**6), max_size=60).map(sorted), st.integers(2, 20))
def test_thinned_points_are_few_in_order_and_keep_both_ends(times: list[int], points_max: int) -> None:
    points = [{"time_ms": time_ms, "n": index} for index, time_ms in enumerate(times)]
    thin = thin_points(points, points_max)
    assert len(thin) <= points_max
    assert [each["n"] for each in thin] == sorted({each["n"] for each in thin})
    if points:
        assert (thin[0], thin[-1]) == (points[0], points[-1])
