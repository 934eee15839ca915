"""Rollouts, whatever hosts do in whatever order: who may go follows from outcomes and time alone, and a halt holds."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ledger.bodies import DeploymentIntent, DeploymentOutcome
from ledger.errors import TransactionRefusedError
from ledger.keyspace import MemoryStore, Reader, Table, target_key
from ledger.record import Record
from ledger.records import IdentityRecord, KeyRecord, TargetRecord
from ledger.rollout_bodies import GroupAssign, RolloutDecide
from ledger.rollout_order import rank_of
from ledger.rollout_records import (
    COUNTED,
    HALTED,
    NOBODY,
    RUNNING,
    UNDER_WAY,
    GroupMember,
    GroupSlot,
    HostGroup,
    RolloutLink,
    RolloutRecord,
)
from ledger.rollout_turn import find_turn, is_reached, openings
from ledger.rollout_waves import Wave, planned_hosts, wave_of_rank
from ledger.rules_common import Context
from ledger.rules_rollout import assign_hosts, count_intent, count_outcome, decide_rollout
from ledger.state import StateView
from tests.testkit.ledger import key_of
from wire.hashing import sha256

GROUP, ROLLOUT, PATCH = "web@acme", "spring@acme", b"\x07" * 32
BEFORE, AFTER = b"\x01" * 32, b"\x02" * 32
RESULTS = ("SUCCESS", "SUCCESS", "SUCCESS", "ERROR_APPLY_FAILED", "ERROR_LEDGER_UNAVAILABLE", "ROLLED_BACK")

MANAGER = IdentityRecord("rita@acme", "acme", "", ("release-manager",), "active", (), 0, 0)
KEY = KeyRecord(key_of("k").public_key.key_id, key_of("k").public_key.spki, "k@acme", 0, None, None, "", ())

WAVES = st.lists(
    st.builds(
        Wave,
        name=st.just(""),
        group=st.none(),
        hosts=st.none(),
        share=st.integers(1, 9_999),
        success=st.sampled_from((0, 1, 5_000, 9_000, 10_000)),
        soak_heights=st.integers(0, 3),
        soak_ms=st.integers(0, 3_000),
    ),
    max_size=3,
)


@dataclass
class World:
    """The records of one rollout, and blocks that only have a height and a time."""

    store: MemoryStore
    height: int = 10
    transactions: int = 0

    @property
    def view(self) -> StateView:
        return StateView(self.store)

    @property
    def rollout(self) -> RolloutRecord:
        found = self.view.rollout(ROLLOUT)
        assert found is not None
        return found

    def put(self, records: dict[bytes, Record]) -> None:
        self.store.apply({(Table.STATE, key): record.encode() for key, record in records.items()})

    def context(self, host: str = "", *, manager: bool = False) -> Context:
        self.transactions += 1
        signer = MANAGER if manager else IdentityRecord(host, "acme", "", ("host",), "active", (), 0, 0)
        return Context(sha256(b"%d" % self.transactions), signer, KEY, self.height, 1000 * self.height)

    def intend(self, host: str) -> bytes:
        context = self.context(host)
        self.put(dict(count_intent(self.view, context, DeploymentIntent(1, BEFORE, "site", PATCH, BEFORE, b""))))
        return context.tx_id

    def end(self, host: str, opened: bytes, result: str) -> None:
        body = DeploymentOutcome(2, opened, "site", PATCH, opened, result, BEFORE, AFTER, b"")
        self.put(dict(count_outcome(self.view, self.context(host), body)))
        if result in ("SUCCESS", "ROLLED_BACK"):
            installed = ((PATCH, self.height),) if result == "SUCCESS" else ()
            self.put({target_key(host, "site"): TargetRecord(host, "site", AFTER, installed, 0, "", None, None)})

    def assign(self, host: str, group: str | None) -> None:
        self.transactions += 1
        signer = IdentityRecord("ada@acme", "acme", "", ("administrator",), "active", (), 0, 0)
        context = Context(sha256(b"%d" % self.transactions), signer, KEY, self.height, 1000 * self.height)
        self.put(dict(assign_hosts(self.view, context, GroupAssign(group, (host,))).records))

    def may_go(self, host: str) -> bool:
        turn = find_turn(self.view, host, PATCH)
        assert turn is not None
        return turn.may_go(self.height, 1000 * self.height)


def make_world(size: int, waves: list[Wave], budget: int) -> World:
    from dataclasses import replace

    from ledger.keyspace import (
        group_key,
        group_member_key,
        group_slot_key,
        identity_key,
        rollout_key,
        rollout_link_key,
    )

    named = [replace(wave, name=f"w{index}") for index, wave in enumerate(waves)]
    named.append(Wave("all", None, None, 10_000, 10_000, 0, 0))
    world = World(MemoryStore())
    rollout = RolloutRecord(
        ROLLOUT, "acme", "rita@acme", PATCH, (), ((GROUP, size, size),), tuple(each.to_value() for each in named),
        planned_hosts(named, [(GROUP, size)]), budget, "", 10, 10_000, RUNNING, 10, "rita@acme", "", 0, 0,
        (NOBODY,) * (len(named) + 1),
    )  # fmt: skip
    records: dict[bytes, Record] = {
        rollout_key(ROLLOUT): rollout,
        rollout_link_key(PATCH, GROUP): RolloutLink(ROLLOUT, 10),
    }
    records[group_key(GROUP)] = HostGroup(GROUP, size, size, (ROLLOUT,), 10)
    for slot in range(size):
        host = name_of(slot)
        records[group_member_key(host)] = GroupMember(host, GROUP, slot, slot + 1)
        records[group_slot_key(GROUP, slot)] = GroupSlot(slot, host)
        records[identity_key(host)] = IdentityRecord(host, "acme", "", ("host",), "active", (), 0, 0)
    world.put(records)
    return world


def name_of(slot: int) -> str:
    return f"h{slot}@acme"


class Rollouts(RuleBasedStateMachine):
    """Hosts announce and tell; somebody halts and resumes; time passes. A plain model counts for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    @initialize(size=st.integers(1, 9), waves=WAVES, budget=st.integers(0, 3))
    def begin(self, size: int, waves: list[Wave], budget: int) -> None:
        self.size, self.budget = size, budget
        self.world = make_world(size, waves, budget)
        self.open: dict[str, bytes] = {}
        self.state: dict[str, str] = {}
        self.failed: set[str] = set()
        self.away: set[str] = set()
        self.forgiven = 0
        self.in_flight_at_halt = self.undone = 0
        waves_now = self.world.rollout.waves
        self.wave = {
            name_of(slot): wave_of_rank(waves_now, GROUP, size, rank_of(ROLLOUT, GROUP, slot, size))
            for slot in range(size)
        }
        self.later = len(waves_now)

    def leave_wave(self, host: str) -> None:
        """Who is away and has neither begun nor ever failed goes with no wave any more."""
        if host in self.away and host not in self.failed and host not in self.open and host not in self.state:
            self.wave[host] = self.later

    @rule(index=st.integers(0, 8))
    def leave(self, index: int) -> None:
        host = name_of(index % self.size)
        # A rollout that is complete is not changed any more, and may become incomplete again: that is a test of its own.
        if host not in self.away and not self.world.rollout.is_complete:
            self.world.assign(host, None)
            self.away.add(host)
            self.leave_wave(host)

    @rule(index=st.integers(0, 8))
    def come_back(self, index: int) -> None:
        host = name_of(index % self.size)
        if host in self.away:
            self.world.assign(host, GROUP)
            self.away.remove(host)

    @rule(index=st.integers(0, 8))
    def announce(self, index: int) -> None:
        host = name_of(index % self.size)
        if host in self.open:
            return
        if host in self.away and self.wave[host] == self.later and host not in self.state and host not in self.failed:
            assert find_turn(self.world.view, host, PATCH) is None, "the rollout has nothing to do with it"
            return
        is_installed = self.state.get(host) == "applied"
        may = is_installed or self.world.may_go(host)
        if may:
            self.open[host] = self.world.intend(host)
            return
        with pytest.raises(TransactionRefusedError) as refused:
            self.world.intend(host)
        halted = self.world.rollout.status == HALTED
        assert refused.value.code == ("ledger.rollout.halted" if halted else "ledger.rollout.not_open")

    @precondition(lambda self: self.size and self.open)
    @rule(data=st.data(), result=st.sampled_from(RESULTS))
    def tell(self, data: st.DataObject, result: str) -> None:
        host = data.draw(st.sampled_from(sorted(self.open)))
        was_running = self.world.rollout.status == RUNNING
        self.world.end(host, self.open.pop(host), result)
        before = self.state.pop(host, None)
        if result == "SUCCESS":
            self.state[host] = "applied"
        elif result == "ROLLED_BACK":
            self.state[host] = "rolled-back"
        elif before == "applied":
            self.state[host] = "applied"
        elif result == "ERROR_APPLY_FAILED":
            self.state[host] = "failed"
        if self.state.get(host) in ("failed", "rolled-back"):
            # Who takes the patch off again while the rollout is halted brings it to nobody.
            self.undone += host not in self.failed and result == "ROLLED_BACK" and not was_running
            self.failed.add(host)
        self.leave_wave(host)
        if was_running and self.world.rollout.status == HALTED:
            self.in_flight_at_halt, self.undone = len(self.open), 0

    @rule(blocks=st.integers(1, 4))
    def pass_time(self, blocks: int) -> None:
        self.world.height += blocks

    @rule(decision=st.sampled_from(("halt", "resume")))
    def decide(self, decision: str) -> None:
        world = self.world
        context, body = world.context(manager=True), RolloutDecide(ROLLOUT, decision, "")
        if (decision == "halt") == (world.rollout.status == HALTED):
            with pytest.raises(TransactionRefusedError, match="already"):
                decide_rollout(world.view, context, body)
            return
        world.put(dict(decide_rollout(world.view, context, body).records))
        if decision == "resume":
            self.forgiven = len(self.failed)
        else:
            self.in_flight_at_halt, self.undone = len(self.open), 0

    @invariant()
    def counters_say_what_the_hosts_say(self) -> None:
        if not self.size:
            return
        rollout = self.world.rollout
        for index, counts in enumerate(rollout.counts):
            hosts = [host for host in self.wave if self.wave[host] == index]
            states = [UNDER_WAY if host in self.open else self.state.get(host) for host in hosts]
            assert list(counts[:5]) == [states.count(state) for state in COUNTED]
        assert rollout.failures == len(self.failed)
        waves = list(self.wave.values())
        assert list(rollout.planned) == [waves.count(index) for index in range(self.later)]

    @invariant()
    def a_host_keeps_its_wave_whatever_place_it_is_given(self) -> None:
        if not self.size:
            return
        for host in self.wave.keys() - self.away:
            turn = find_turn(self.world.view, host, PATCH)
            assert turn is not None
            assert turn.host.wave == self.wave[host]

    @invariant()
    def a_halted_rollout_opens_no_wave_and_budget_holds(self) -> None:
        if not self.size:
            return
        rollout = self.world.rollout
        if rollout.status == HALTED:
            assert not any(self.world.may_go(host) for host in self.wave.keys() - self.away)
        over = len(self.failed) - self.forgiven - self.budget
        if rollout.status == RUNNING:
            assert over <= 0
        else:
            # One that broke the budget, and then at most those who were on their way.
            assert over - self.undone <= 1 + self.in_flight_at_halt

    @invariant()
    def waves_open_in_order_and_only_on_success(self) -> None:
        if not self.size:
            return
        rollout, height = self.world.rollout, self.world.height
        is_open = [is_reached(at, height, 1000 * height) for at in openings(rollout)]
        assert is_open[0]
        assert is_open == sorted(is_open, reverse=True)
        for index in range(1, len(rollout.planned)):
            if is_open[index]:
                applied = sum(
                    self.state.get(host) == "applied" and host not in self.open
                    for host in self.wave
                    if self.wave[host] == index - 1
                )
                assert applied >= rollout.needed(index - 1)


Rollouts.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestRollouts = Rollouts.TestCase


def test_the_order_of_outcomes_does_not_matter_for_who_may_go() -> None:
    """Every order of the same outcomes, in blocks of their own, leads to the same counters, status and turns."""
    from hypothesis import given

    @settings(max_examples=60, deadline=None)
    @given(
        size=st.integers(2, 8),
        waves=WAVES,
        budget=st.integers(0, 4),
        data=st.data(),
    )
    def check(size: int, waves: list[Wave], budget: int, data: st.DataObject) -> None:
        hosts = [name_of(slot) for slot in range(size)]
        first = make_world(size, waves, budget)
        ready = [host for host in hosts if first.may_go(host)]
        results = {host: data.draw(st.sampled_from(RESULTS)) for host in ready}
        worlds = []
        for order in (ready, data.draw(st.permutations(ready))):
            world = make_world(size, waves, budget)
            opened = {host: world.intend(host) for host in ready}
            for host in order:
                world.height += 1
                world.end(host, opened[host], results[host])
            # However long a wave soaks.
            world.height += 10
            worlds.append(world)
        one, other = worlds
        assert [one.may_go(host) for host in hosts] == [other.may_go(host) for host in hosts]
        assert [each[:5] for each in one.rollout.counts] == [each[:5] for each in other.rollout.counts]
        assert (one.rollout.status, one.rollout.failures) == (other.rollout.status, other.rollout.failures)

    check()


def test_a_turn_costs_the_same_however_many_hosts_there_are() -> None:
    """Nothing is scanned: the rows read for a turn do not grow with the group."""

    class Counting:
        def __init__(self, reader: Reader) -> None:
            self.reader, self.reads = reader, 0

        def get(self, table: Table, key: bytes) -> bytes | None:
            self.reads += 1
            return self.reader.get(table, key)

    reads = []
    for size in (3, 3_000):
        counting = Counting(make_world(size, [], 0).store)
        assert find_turn(StateView(counting), name_of(1), PATCH) is not None
        reads.append(counting.reads)
    assert reads[0] == reads[1] <= 4
