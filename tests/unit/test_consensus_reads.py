"""Linearizable reads: what confirms a leader, who asks whom, and when a read is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.effects import NO_EFFECTS, ReadIndex, Tick
from consensus.limits import READS_PENDING_MAX
from consensus.membership import Configuration
from consensus.messages import Append, ReadIndexReply, ReadIndexRequest
from tests.testkit.raft_bench import Bench, Seen, changed
from tests.testkit.raft_sim import Cluster, make_chain


def leading(size: int = 3, **options: int) -> Bench:
    bench = Bench(size, **options)
    bench.become_leader()
    bench.agree(*range(1, size))
    return bench


def rounds(seen: Seen) -> set[int]:
    return {message.round_id for _, message in seen.messages if isinstance(message, Append)}


def read(bench: Bench, request_id: int = 7) -> Seen:
    return bench.step(ReadIndex(request_id))


# A leader


def test_a_read_begins_a_round_and_is_answered_when_a_majority_has_answered_that_round() -> None:
    bench = leading()
    seen = read(bench)
    assert rounds(seen) == {2}
    assert seen.reads_ready == []
    assert bench.receive(bench.reply(1, 1, round_id=1)).reads_ready == []
    assert bench.receive(bench.reply(1, 1, round_id=2)).reads_ready == [(7, 1)]
    assert bench.receive(bench.reply(2, 1, round_id=2)).reads_ready == []


def test_a_later_round_confirms_too_since_messages_get_lost() -> None:
    bench = leading()
    read(bench)
    assert rounds(bench.tick(2)) == {3}
    assert bench.receive(bench.reply(2, 1, round_id=3)).reads_ready == [(7, 1)]


def test_even_a_refusal_of_this_term_confirms_who_leads() -> None:
    bench = leading()
    read(bench)
    refusal = bench.refusal(1, 5, 0, 0)
    assert bench.receive(refusal).reads_ready == []  # round 1
    assert bench.receive(replace(refusal, round_id=2)).reads_ready == [(7, 1)]


def test_reads_that_come_while_a_round_is_under_way_share_the_next_one() -> None:
    bench = leading()
    read(bench, 1)
    for request_id in (2, 3):
        assert read(bench, request_id).messages == []
    seen = bench.receive(bench.reply(1, 1, round_id=2))
    assert seen.reads_ready == [(1, 1)]
    assert rounds(seen) == {3}
    assert bench.receive(bench.reply(1, 1, round_id=2)).reads_ready == []
    assert bench.receive(bench.reply(2, 1, round_id=3)).reads_ready == [(2, 1), (3, 1)]


def test_the_answer_is_the_commit_height_of_when_the_round_began() -> None:
    bench = leading()
    bench.propose()
    read(bench)
    bench.agree(1)
    assert bench.replica.status.commit_height == 2
    assert bench.receive(bench.reply(1, 2, round_id=2)).reads_ready == [(7, 1)]


def test_a_lone_voter_confirms_itself() -> None:
    bench = Bench(1)
    bench.become_leader()
    assert read(bench).reads_ready == [(7, 1)]
    with_learner = Bench(2, configuration=("0", None, "1"))
    with_learner.become_leader()
    assert read(with_learner).reads_ready == [(7, 1)]


def test_while_joint_both_halves_must_confirm() -> None:
    bench = Bench(5, log=changed(make_chain([1]), 1, "012", "034"), members=3)
    bench.become_leader()
    bench.agree(1, 3)
    read(bench)
    assert bench.receive(bench.reply(1, 3, round_id=2)).reads_ready == []
    assert bench.receive(bench.reply(2, 3, round_id=2)).reads_ready == []
    assert bench.receive(bench.reply(4, 3, round_id=2)).reads_ready == [(7, 3)]


def test_learners_confirm_nobody() -> None:
    bench = Bench(5, configuration=("012", None, "34"))
    bench.become_leader()
    bench.agree(1, 2, 3, 4)
    read(bench)
    for index in (3, 4):
        assert bench.receive(bench.reply(index, 1, round_id=2)).reads_ready == []
    assert bench.receive(bench.reply(1, 1, round_id=2)).reads_ready == [(7, 1)]


def test_a_leader_that_steps_down_refuses_what_is_pending() -> None:
    bench = leading()
    read(bench, 1)
    read(bench, 2)
    assert bench.receive(bench.append(1, 2, bench.disk.log, 1)).reads_refused == [1, 2]
    assert bench.receive(bench.reply(1, 1, round_id=9)).reads_ready == []


def test_too_many_reads_are_refused_and_the_others_are_not_lost() -> None:
    bench = leading()
    read(bench, 0)
    for request_id in range(1, READS_PENDING_MAX):
        assert bench.replica.step(ReadIndex(request_id)) is NO_EFFECTS
    assert bench.replica.step(ReadIndex(9999)).reads_refused == (9999,)
    assert bench.receive(bench.reply(1, 1, round_id=2)).reads_ready == [(0, 1)]
    assert len(bench.receive(bench.reply(1, 1, round_id=3)).reads_ready) == READS_PENDING_MAX - 1


# Followers


def following(**options: int) -> Bench:
    bench = Bench(**options)
    bench.receive(bench.append(1, 1, make_chain([1]), 0))
    return bench


def test_a_follower_asks_its_leader_and_passes_the_answer_on() -> None:
    bench = following()
    seen = read(bench)
    ((index, request),) = seen.messages
    assert isinstance(request, ReadIndexRequest)
    assert (index, request.term, request.follower) == (1, 1, bench.ids[0])
    answer = ReadIndexReply(1, bench.ids[1], request.number, 5)
    assert bench.receive(answer).reads_ready == [(7, 5)]
    assert bench.receive(answer) == Seen()


def test_a_leader_answers_a_followers_read_as_its_own() -> None:
    bench = leading()
    assert rounds(bench.receive(ReadIndexRequest(1, bench.ids[2], 55))) == {2}
    seen = bench.receive(bench.reply(1, 1, round_id=2))
    assert seen.to(2) == [ReadIndexReply(1, bench.ids[0], 55, 1)]
    assert seen.reads_ready == []


def test_reads_of_another_term_and_of_who_does_not_lead_are_not_answered() -> None:
    bench = leading()
    assert bench.receive(ReadIndexRequest(2, bench.ids[2], 55)) == Seen()
    assert bench.term == 1
    follower = following()
    assert follower.receive(ReadIndexRequest(1, follower.ids[2], 55)) == Seen()


def test_an_answer_that_is_not_of_the_leader_that_was_asked_is_ignored() -> None:
    bench = following()
    request = read(bench).only()
    assert isinstance(request, ReadIndexRequest)
    assert bench.receive(ReadIndexReply(1, bench.ids[2], request.number, 5)) == Seen()
    assert bench.receive(ReadIndexReply(2, bench.ids[1], request.number, 5)) == Seen()
    assert bench.receive(ReadIndexReply(1, bench.ids[1], request.number + 1, 5)) == Seen()
    assert bench.receive(ReadIndexReply(1, bench.ids[1], request.number, 5)).reads_ready == [(7, 5)]


def test_a_read_without_a_leader_is_refused_at_once() -> None:
    assert read(Bench()).reads_refused == [7]


def test_a_read_that_is_not_answered_is_refused_after_an_election_timeout() -> None:
    bench = following()
    read(bench, 1)
    bench.tick(3)
    read(bench, 2)
    bench.receive(bench.append(1, 1, make_chain([1]), 1))
    assert bench.tick(6).reads_refused == []
    assert bench.tick(1).reads_refused == [1]
    assert bench.tick(3).reads_refused == [2]


def test_a_change_of_leader_refuses_what_was_asked() -> None:
    bench = following()
    read(bench)
    assert bench.receive(bench.append(2, 2, make_chain([1]), 1)).reads_refused == [7]


def test_an_answer_to_a_request_from_before_a_restart_answers_nothing_new() -> None:
    draws = iter([1_000, 2_000])
    bench = Bench(entropy=lambda n: next(draws) if n > 100 else 0)
    bench.receive(bench.append(1, 1, make_chain([1]), 0))
    first = read(bench).only()
    bench.restart()
    bench.receive(bench.append(1, 1, make_chain([1]), 1))
    second = read(bench).only()
    assert isinstance(first, ReadIndexRequest)
    assert isinstance(second, ReadIndexRequest)
    assert first.number != second.number
    assert bench.receive(ReadIndexReply(1, bench.ids[1], first.number, 1)).reads_ready == []


def test_a_follower_refuses_reads_beyond_its_limit() -> None:
    bench = following()
    for request_id in range(READS_PENDING_MAX):
        bench.replica.step(ReadIndex(request_id))
    assert read(bench, 9999).reads_refused == [9999]


def test_a_quiet_leader_with_nothing_to_read_begins_no_round() -> None:
    bench = leading()
    assert bench.replica.step(Tick()) is NO_EFFECTS


# Among others


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_every_member_reads_what_was_committed_before(size: int) -> None:
    cluster = Cluster(size + 1, seed=size, founding=size, expected_alarms=frozenset({"consensus.stranger"}))
    leader = cluster.elect(0)
    cluster.propose(leader)
    cluster.settle()
    cluster.change(leader, Configuration(cluster.founders.voters, None, (cluster.nodes[size].key.public_key,)))
    cluster.run_ticks(3)
    for count in range(5):
        cluster.propose(leader)
        cluster.settle()
        for node in cluster.nodes:
            node.read()
        cluster.settle()
        assert [node.reads_answered for node in cluster.nodes] == [count + 1] * (size + 1)
