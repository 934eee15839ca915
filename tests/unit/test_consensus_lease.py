"""Leases: who promises what, what a leader makes of promises, and every doubt that ends a lease (docs/spec/consensus.md 11.1).

That reads by lease never lie among whole clusters is in ``tests/properties/test_consensus_leases.py`` and ``test_consensus_cluster.py``.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.config import Config, Role
from consensus.effects import PeerUnreachable, Persisted, ReadIndex, Received, Tick, TransferLeadership
from consensus.lease import Lease
from consensus.limits import LEASE_GAP_TICKS, LEASE_ROUNDS_MAX, PROMISE_MS_MAX, TICK_MS
from consensus.messages import (
    Append,
    AppendReply,
    PreVoteReply,
    ReadIndexReply,
    ReadIndexRequest,
    SnapshotOffer,
    TimeoutNow,
    Vote,
)
from tests.testkit.raft_bench import Bench, Seen, changed, rules
from tests.testkit.raft_sim import Cluster, make_chain, sim_keys

PROMISE_MS = 8 * TICK_MS
"""What a follower promises with the default of ten ticks: two of them are no time that is sure to pass."""
HELD_MS = PROMISE_MS - PROMISE_MS // 10
"""What its leader makes of that: clocks may differ in speed."""


def leading(size: int = 3, **options: int) -> Bench:
    bench = Bench(size, **{"lease_reads": True, **options})
    bench.become_leader()
    bench.agree(*range(1, size))
    return bench


def promise(bench: Bench, *indices: int, promise_ms: int = PROMISE_MS, round_id: int | None = None) -> Seen:
    """Let these peers answer the latest round."""
    seen = Seen()
    for index in indices:
        height = bench.replica.status.last_height
        latest = bench.replica.status.round_confirmed + 1 if round_id is None else round_id
        seen.add(bench.receive(bench.reply(index, height, round_id=latest, promise_ms=promise_ms)))
    return seen


def with_lease(size: int = 3, **options: int) -> Bench:
    """Return a leader whose latest round, of this very tick, a majority has answered."""
    bench = leading(size, **options)
    (round_id,) = {m.round_id for _, m in bench.tick(2).messages if isinstance(m, Append)}
    promise(bench, *range(1, size // 2 + 1), round_id=round_id)
    return bench


def read(bench: Bench, after_ms: int = 0) -> Seen:
    return bench.step(ReadIndex(7, bench.now_ms + after_ms))


# The leader


def test_a_read_under_a_lease_is_answered_at_once_and_asks_nobody() -> None:
    seen = read(with_lease())
    assert (seen.reads_ready, seen.messages) == ([(7, 1)], [])


def test_without_the_option_promises_mean_nothing() -> None:
    # Protected by `not config.lease_reads` in `Lease.__init__`.
    seen = read(with_lease(lease_reads=False))
    assert seen.reads_ready == []
    assert len(seen.messages) == 2


def test_without_a_clock_there_is_no_lease() -> None:
    bench = with_lease()
    assert bench.step(ReadIndex(1)).reads_ready == []
    bench = leading()
    bench.step(Tick())
    bench.step(Tick())
    promise(bench, 1, 2)
    assert read(bench).reads_ready == []


def test_a_lease_ends_when_the_promise_does_counted_from_when_the_round_was_sent() -> None:
    # Protected by `sent_ms` in `Lease.note_promise`: the answer may have taken any time.
    bench = leading()
    (round_id,) = {m.round_id for _, m in bench.tick(2).messages if isinstance(m, Append)}
    sent_ms = bench.now_ms
    bench.tick(5)
    promise(bench, 1, round_id=round_id)
    for _ in range(2):
        bench.now_ms += TICK_MS // 2
        expected = [(7, 1)] if bench.now_ms < sent_ms + HELD_MS else []
        assert read(bench).reads_ready == expected
    bench.tick(2)
    assert bench.now_ms > sent_ms + HELD_MS
    assert read(bench).reads_ready == []


def test_ticks_that_are_slow_do_not_prolong_a_lease() -> None:
    # Protected by `sent_ms` in `Lease.note_promise` again: each tick takes twice its time, as on a machine with too much to do.
    bench = leading()
    (round_id,) = {m.round_id for _, m in bench.tick(2).messages if isinstance(m, Append)}
    sent_ms = bench.now_ms
    for count in range(5):
        promise(bench, 1, round_id=round_id)
        assert bool(bench.step(ReadIndex(count, bench.now_ms)).reads_ready) is (bench.now_ms < sent_ms + HELD_MS)
        bench.now_ms += TICK_MS
        bench.tick()


def test_a_clock_that_stands_still_does_not_prolong_a_lease() -> None:
    # Protected by `_until_tick` in `Lease.is_held`.
    bench = with_lease()
    still = bench.now_ms
    for count in range(10):
        assert bool(bench.step(ReadIndex(count, still)).reads_ready) is (count < HELD_MS // TICK_MS)
        bench.step(Tick(still))


@pytest.mark.parametrize(
    ("leap_ms", "is_held"),
    [(0, True), (LEASE_GAP_TICKS * TICK_MS, True), (LEASE_GAP_TICKS * TICK_MS + 1, False), (-1, False), (10**9, False)],
)
def test_a_stop_or_a_leap_before_a_read_refuses_the_lease(leap_ms: int, is_held: bool) -> None:
    # Protected by `_is_in_doubt` in `Lease.is_held`.
    seen = read(with_lease(), leap_ms)
    assert bool(seen.reads_ready) is is_held
    assert bool(seen.messages) is not is_held  # a round takes its place


@pytest.mark.parametrize("leap_ms", [LEASE_GAP_TICKS * TICK_MS + 1, -1, -(10**5)])
def test_a_tick_that_came_late_or_went_back_ends_every_promise(leap_ms: int) -> None:
    # Protected by `_is_in_doubt` in `Lease.note_tick`: whatever was promised before, time cannot be trusted.
    bench = with_lease()
    bench.now_ms += leap_ms
    bench.step(Tick(bench.now_ms))
    assert read(bench).reads_ready == []
    # Nor by an answer to what was sent before.
    promise(bench, 1, 2, round_id=bench.replica.status.round_confirmed)
    assert bench.step(ReadIndex(8, bench.now_ms)).reads_ready == []
    (round_id,) = {m.round_id for _, m in bench.tick(2).messages if isinstance(m, Append)}
    promise(bench, 1, round_id=round_id)
    assert bench.step(ReadIndex(9, bench.now_ms)).reads_ready == [(9, 1)]


def test_no_read_by_lease_before_a_block_of_the_own_term_is_committed() -> None:
    # Protected by `_has_committed` in `Leadership._has_lease`.
    bench = Bench(log=make_chain([1, 1]), lease_reads=True)
    bench.become_leader()
    (round_id,) = {m.round_id for _, m in bench.tick(2).messages if isinstance(m, Append)}
    for index in (1, 2):
        bench.receive(bench.reply(index, 2, round_id=round_id, promise_ms=PROMISE_MS))
    assert read(bench).reads_ready == []
    bench.agree(1, round_id=round_id)
    assert bench.step(ReadIndex(8, bench.now_ms)).reads_ready == [(8, 3)]


def test_no_read_by_lease_while_leadership_is_handed_over_and_none_after_somebody_was_asked_to_stand() -> None:
    # Protected by `_transfer` in `Leadership._has_lease` and by `Lease.give_up`.
    bench = with_lease(5)
    bench.propose()
    bench.step(TransferLeadership(bench.ids[4]))  # it lacks the block, so it is not asked yet
    assert bench.replica.status.transfer_to == bench.ids[4]
    assert read(bench).reads_ready == []
    for _ in range(6):
        bench.tick(2)
        promise(bench, 1, 2)
    assert bench.replica.status.transfer_to is None
    assert bench.step(ReadIndex(8, bench.now_ms)).reads_ready == [(8, 1)]
    asked = bench.step(TransferLeadership(bench.ids[1]))
    if not asked.to(1):
        asked = bench.agree(1, 2)
    assert any(isinstance(message, TimeoutNow) for message in asked.to(1))
    for _ in range(6):
        bench.tick(2)
        promise(bench, 1, 2)
    assert (bench.replica.status.transfer_to, bench.role) == (None, Role.LEADER)
    # The request may arrive now, and votes given at the leader's wish break no promise.
    assert bench.step(ReadIndex(9, bench.now_ms)).reads_ready == []


def test_a_minority_of_promises_is_no_lease_and_the_shortest_of_a_majority_counts() -> None:
    bench = leading(5)
    (round_id,) = {m.round_id for _, m in bench.tick(2).messages if isinstance(m, Append)}
    promise(bench, 1, round_id=round_id)
    promise(bench, 2, round_id=round_id, promise_ms=0)  # somebody without the option
    assert read(bench).reads_ready == []
    promise(bench, 3, round_id=round_id, promise_ms=2 * TICK_MS)
    bench = leading(5)
    (round_id,) = {m.round_id for _, m in bench.tick(2).messages if isinstance(m, Append)}
    promise(bench, 1, round_id=round_id)
    promise(bench, 3, round_id=round_id, promise_ms=2 * TICK_MS)
    assert read(bench).reads_ready == [(7, 1)]
    assert read(bench, 2 * TICK_MS).reads_ready == []


def test_while_joint_both_halves_must_promise_and_learners_never_count() -> None:
    # Protected by `value_reached` in `Lease.is_held`.
    bench = Bench(6, log=changed(make_chain([1]), 1, "012", "034", "5"), members=3, lease_reads=True)
    bench.become_leader()
    bench.agree(1, 3)
    (round_id,) = {m.round_id for _, m in bench.tick(2).messages if isinstance(m, Append)}
    for index, is_held in ((1, False), (2, False), (5, False), (4, True)):
        promise(bench, index, round_id=round_id)
        assert bool(read(bench).reads_ready) is is_held


def test_answers_to_rounds_that_were_never_sent_or_are_forgotten_promise_nothing() -> None:
    key, peer = sim_keys(9)[:2]
    lease = Lease(Config(chain_id="sim", node_id=key.public_key.key_id, key=key, lease_reads=True))
    other = peer.public_key.key_id
    for count in range(LEASE_ROUNDS_MAX + 3):
        lease.note_tick(1000 + count * TICK_MS)
        lease.note_round(10 + count)
    now_ms = 1000 + (LEASE_ROUNDS_MAX + 2) * TICK_MS
    for round_id in (0, 9, 12):
        lease.note_promise(other, round_id, PROMISE_MS_MAX)
        assert not lease.is_held(rules("012"), now_ms)
    # A number from the future is worth what the latest round is worth.
    lease.note_promise(other, 10**9, 2 * TICK_MS)
    assert lease.is_held(rules("012"), now_ms)
    assert not lease.is_held(rules("012"), now_ms + 2 * TICK_MS)


def test_a_follower_is_answered_by_lease_too() -> None:
    bench = with_lease()
    request = ReadIndexRequest(1, bench.ids[2], 55)
    seen = bench.step(Received(request, bench.ids[2], bench.now_ms))
    assert seen.messages == [(2, ReadIndexReply(1, bench.ids[0], 55, 1))]
    seen = bench.step(Received(request, bench.ids[2], bench.now_ms + 10**6))
    assert not any(isinstance(message, ReadIndexReply) for _, message in seen.messages)


def test_a_lone_voter_reads_at_once() -> None:
    bench = leading(1)
    bench.tick()
    assert read(bench).reads_ready == [(7, 1)]


# The follower


def following(**options: int) -> Bench:
    bench = Bench(5, **{"lease_reads": True, **options})
    bench.tick(9)
    bench.receive(bench.append(1, 1, [], 0))
    return bench


@pytest.mark.parametrize(
    ("options", "promise_ms"),
    [
        ({}, PROMISE_MS),
        ({"lease_reads": False}, 0),
        ({"election_ticks": 3}, TICK_MS),
        ({"tick_ms": 7}, 56),
        ({"tick_ms": 10**9}, PROMISE_MS_MAX),
    ],
)
def test_every_answer_to_a_leader_says_what_is_promised(options: dict[str, int], promise_ms: int) -> None:
    bench = Bench(**{"lease_reads": True, **options})
    for message in (
        bench.append(1, 1, [], 0),
        bench.append(1, 1, make_chain([1, 1]), 1),
        SnapshotOffer(1, bench.ids[1], 9, 8, 3),
    ):
        reply = bench.receive(message).only()
        assert isinstance(reply, AppendReply)
        assert reply.promise_ms == promise_ms
    # A leader of the past gets none.
    stale = bench.receive(bench.append(2, 1, [], 0))
    assert stale.messages == []
    bench.receive(bench.append(2, 3, [], 0))
    stale_reply = bench.receive(bench.append(1, 1, [], 0)).only()
    assert isinstance(stale_reply, AppendReply)
    assert stale_reply.promise_ms == 0


def test_a_promise_outlives_the_term_in_which_it_was_given() -> None:
    # Protected by `is_bound` in `must_withhold`, `answer_pre_vote` and `_receive_request_vote`: who takes a later term knows no leader.
    bench = following()
    bench.receive(PreVoteReply(4, False, bench.ids[2]))
    assert (bench.term, bench.replica.status.leader) == (4, None)
    for term in (4, 5):
        answers = bench.receive(bench.request_vote(2, term, [])).messages
        assert answers in ([], [(2, Vote(4, False, bench.ids[0], None))])
    assert bench.term == 4
    assert bench.receive(bench.pre_vote(2, 6, [])).only() == PreVoteReply(4, False, bench.ids[0])
    bench.tick(9)
    assert not any(isinstance(m, Vote) and m.granted for _, m in bench.receive(bench.request_vote(2, 4, [])).messages)
    bench.tick()
    vote = bench.receive(bench.request_vote(2, 4, [])).only()
    assert isinstance(vote, Vote)
    assert vote.granted


def test_a_closed_connection_hastens_nothing_within_a_promise() -> None:
    # Protected by `bound_for` in `Common.note_leader_gone` and by `is_bound`: the leader may live, and somebody else have closed it.
    bench = following()
    bench.step(PeerUnreachable(bench.ids[1], is_closed=True))
    assert bench.receive(bench.pre_vote(2, 2, [])).only() == PreVoteReply(1, False, bench.ids[0])
    assert bench.receive(bench.request_vote(2, 2, [])).messages == []
    bench.tick(9)
    assert bench.receive(bench.pre_vote(2, 2, [])).only() == PreVoteReply(1, False, bench.ids[0])
    assert bench.role is Role.FOLLOWER
    bench.tick(2)
    assert bench.role is Role.PRECANDIDATE
    without = following(lease_reads=False)
    without.step(PeerUnreachable(without.ids[1], is_closed=True))
    assert without.receive(without.pre_vote(2, 2, [])).only() == PreVoteReply(2, True, without.ids[0])
    without.tick()
    assert without.role is Role.PRECANDIDATE


def test_a_restart_forgets_no_promise() -> None:
    # Protected by `_bound_until` in `Common.__init__`: nobody knows what was promised before.
    bench = following()
    bench.restart()
    assert bench.receive(bench.request_vote(2, 2, [])).messages == []
    assert bench.receive(bench.pre_vote(2, 2, [])).only() == PreVoteReply(1, False, bench.ids[0])
    bench.tick(10)
    vote = bench.receive(bench.request_vote(2, 2, [])).only()
    assert isinstance(vote, Vote)
    assert vote.granted
    other = following(lease_reads=False)
    other.restart()
    assert isinstance(other.receive(other.request_vote(2, 2, [])).only(), Vote)


def test_the_leaders_wish_goes_before_the_promise() -> None:
    bench = following()
    vote = bench.receive(bench.request_vote(2, 2, [], transfer=True)).only()
    assert isinstance(vote, Vote)
    assert vote.granted
    chosen = following()
    chosen.receive(TimeoutNow(1, chosen.ids[1]))
    assert chosen.role is Role.CANDIDATE


def test_acknowledgements_of_a_later_write_promise_nothing_new() -> None:
    # What is answered when a write ends names the round heard before it, and the leader counts from when that was sent.
    bench = following()
    bench.receive(bench.append(1, 1, make_chain([1]), 0, round_id=5), write=False)
    reply = bench.write().only()
    assert isinstance(reply, AppendReply)
    assert (reply.round_id, reply.promise_ms) == (5, PROMISE_MS)
    again = bench.replica.step(Persisted(1, bench.disk.last_hash, bench.disk.hard_state))
    assert all(replace(o.message, round_id=5) == o.message for o in again.send if isinstance(o.message, AppendReply))


# Among others


def test_a_stopped_leader_that_was_replaced_refuses_its_lease_when_it_wakes_up() -> None:
    cluster = Cluster(3, seed=15, options={"lease_reads": True})
    cluster.run_ticks(40)
    stopped = cluster.leader()
    assert stopped is not None
    cluster.propose(stopped)
    cluster.run_ticks(4)
    stopped.read()
    assert stopped.reads_at_once == 1
    cluster.cut = {(stopped.id, node.id) for node in cluster.nodes} | {(node.id, stopped.id) for node in cluster.nodes}
    for _ in range(60):
        for node in cluster.nodes:
            if node is not stopped:
                node.tick()
        cluster.settle()
    other = cluster.leader()
    assert other is not None
    assert other is not stopped
    cluster.propose(other)
    cluster.settle()
    # It wakes up: no tick has come to it, and it still believes to lead.
    assert stopped.replica.status.role is Role.LEADER
    stopped.read()
    cluster.settle()
    assert stopped.reads_answered == 1
    cluster.heal()
    cluster.run_ticks(10)
    assert (stopped.reads_answered, stopped.reads) == (1, {})
