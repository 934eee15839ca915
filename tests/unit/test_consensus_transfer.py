"""Handing leadership over: to whom, when, and what happens when it fails."""

from __future__ import annotations

import pytest

from consensus.config import Role
from consensus.effects import NO_EFFECTS, Received, TransferLeadership
from consensus.errors import ProposalRefusedError, TransferRefusedError
from consensus.messages import RequestVote, TimeoutNow, Vote
from tests.testkit.raft_bench import Bench, Seen, changed
from tests.testkit.raft_sim import Cluster, make_chain


def leading(size: int = 3, **options: int) -> Bench:
    bench = Bench(size, **options)
    bench.become_leader()
    bench.agree(*range(1, size))
    return bench


def transfer(bench: Bench, to: int | None = None) -> Seen:
    return bench.step(TransferLeadership(None if to is None else bench.ids[to]))


def asked(seen: Seen) -> list[int]:
    return [index for index, message in seen.messages if isinstance(message, TimeoutNow)]


def test_who_has_everything_is_asked_at_once() -> None:
    bench = leading()
    seen = transfer(bench)
    assert seen.messages == [(1, TimeoutNow(1, bench.ids[0]))]
    assert bench.replica.status.transfer_to == bench.ids[1]
    assert bench.role is Role.LEADER


def test_of_those_who_answer_the_one_with_the_most_blocks_is_chosen() -> None:
    bench = Bench(4)
    bench.become_leader()
    bench.propose()
    bench.agree(3)
    bench.receive(bench.reply(1, 1, signed=bench.disk.log[:1]))
    assert asked(transfer(bench)) == [3]


def test_who_fell_silent_is_not_chosen() -> None:
    bench = leading()
    for _ in range(20):
        bench.agree(2)
        bench.tick()
    assert asked(transfer(bench)) == [2]


def test_who_is_behind_is_fed_first_and_nothing_more_is_proposed_meanwhile() -> None:
    bench = leading()
    bench.propose()
    bench.agree(1)
    assert asked(transfer(bench, 2)) == []
    before = bench.replica.status
    with pytest.raises(ProposalRefusedError) as caught:
        bench.propose()
    assert caught.value.code == "consensus.transferring"
    assert bench.replica.status == before
    assert asked(bench.agree(2)) == [2]


def test_the_request_is_repeated_with_the_heartbeats_since_it_may_be_lost() -> None:
    bench = leading()
    transfer(bench)
    assert asked(bench.agree(1, 2)) == []
    assert asked(bench.tick(2)) == [1]
    assert asked(bench.tick(2)) == [1]


def test_after_an_election_timeout_the_leader_goes_on() -> None:
    bench = leading()
    transfer(bench, 1)
    for _ in range(9):
        bench.agree(1, 2)
        bench.tick()
    assert bench.replica.status.transfer_to == bench.ids[1]
    bench.tick()
    assert bench.replica.status.transfer_to is None
    assert bench.propose().messages != []
    assert asked(bench.tick(2)) == []


def test_a_second_wish_for_the_same_gives_no_more_time_and_one_for_another_begins_anew() -> None:
    bench = leading()
    transfer(bench, 1)
    bench.tick(9)
    transfer(bench, 1)
    bench.agree(1, 2)
    bench.tick()
    assert bench.replica.status.transfer_to is None
    transfer(bench, 1)
    bench.tick(5)
    assert asked(transfer(bench, 2)) == [2]
    bench.agree(1, 2)
    bench.tick(9)
    assert bench.replica.status.transfer_to == bench.ids[2]


@pytest.mark.parametrize(("to", "code"), [(0, "target"), (3, "target"), (None, "nobody")])
def test_who_cannot_lead_is_refused_and_nothing_changes(to: int | None, code: str) -> None:
    bench = Bench(4, configuration=("012", None, "3"))
    bench.become_leader()
    before = bench.replica.status
    with pytest.raises(TransferRefusedError) as caught:
        transfer(bench, to)
    assert caught.value.code == f"consensus.transfer.{code}"
    assert bench.replica.status == before


def test_a_lone_voter_has_nobody_to_hand_over_to() -> None:
    bench = Bench(2, configuration=("0", None, "1"))
    bench.become_leader()
    bench.agree(1)
    with pytest.raises(TransferRefusedError) as caught:
        transfer(bench)
    assert caught.value.code == "consensus.transfer.nobody"


def test_while_joint_only_who_stays_is_a_target() -> None:
    bench = Bench(4, log=changed(make_chain([1]), 1, "012", "023"), members=3)
    bench.become_leader()
    with pytest.raises(TransferRefusedError) as caught:
        transfer(bench, 1)
    assert caught.value.code == "consensus.transfer.target"
    assert transfer(bench, 3) == Seen()
    assert bench.replica.status.transfer_to == bench.ids[3]


def test_who_does_not_lead_hands_nothing_over() -> None:
    bench = Bench()
    with pytest.raises(TransferRefusedError) as caught:
        transfer(bench)
    assert caught.value.code == "consensus.not_leader"


# Being asked


def following(**options: int) -> Bench:
    bench = Bench(**options)
    bench.receive(bench.append(1, 1, make_chain([1]), 0))
    return bench


def test_who_is_asked_stands_at_once_without_a_poll() -> None:
    bench = following()
    seen = bench.receive(TimeoutNow(1, bench.ids[1]))
    assert bench.role is Role.CANDIDATE
    assert seen.messages == [(i, RequestVote(2, bench.ids[0], *bench.last, transfer=True)) for i in (1, 2)]


def test_only_the_leader_of_this_term_can_ask() -> None:
    bench = following()
    for term, sender in ((1, 2), (2, 1), (0 + 1, 2)):
        assert bench.replica.step(Received(TimeoutNow(term, bench.ids[sender]), bench.ids[sender])) is NO_EFFECTS
    bench.receive(bench.append(1, 4, make_chain([1]), 1))
    assert bench.receive(TimeoutNow(1, bench.ids[1])) == Seen()
    assert bench.role is Role.FOLLOWER


def test_who_does_not_vote_does_not_stand() -> None:
    bench = Bench(4, me=3, configuration=("012", None, "3"))
    bench.receive(bench.append(1, 1, make_chain([1]), 0))
    assert bench.receive(TimeoutNow(1, bench.ids[1])) == Seen()
    assert bench.role is Role.FOLLOWER


def test_who_is_still_writing_does_not_stand() -> None:
    bench = following()
    bench.receive(bench.append(1, 1, make_chain([1, 1]), 1), write=False)
    assert bench.receive(TimeoutNow(1, bench.ids[1]), write=False) == Seen()
    assert bench.role is Role.FOLLOWER


def test_a_voter_that_hears_the_leader_votes_all_the_same_and_the_leader_too() -> None:
    bench = following()
    vote = bench.receive(bench.request_vote(2, 2, bench.disk.log, transfer=True)).only()
    assert isinstance(vote, Vote)
    assert vote.granted
    leader = leading()
    seen = leader.receive(leader.request_vote(1, 2, leader.disk.log, transfer=True))
    assert seen.stepped_down
    assert [m.granted for _, m in seen.messages if isinstance(m, Vote)] == [True]


# Among others


@pytest.mark.parametrize("size", [2, 3, 4, 5, 9])
def test_leadership_goes_round_without_an_election_timeout(size: int) -> None:
    cluster = Cluster(size, seed=size)
    leader = cluster.elect(0)
    for turn in range(2 * size):
        cluster.propose(leader)
        cluster.settle()
        assert leader.replica.status.can_change_configuration
        target = cluster.nodes[(turn + 1) % size]
        assert cluster.transfer(leader, target.id)
        cluster.settle()
        assert cluster.leader() is target
        leader = target
    assert max(cluster.leaders) == 2 * size + 1


def test_a_target_that_is_cut_off_costs_an_election_timeout_of_proposals_and_no_leader() -> None:
    cluster = Cluster(3, seed=1)
    leader = cluster.elect(0)
    cluster.propose(leader)
    cluster.settle()
    cluster.partition({cluster.nodes[2].id})
    assert cluster.transfer(leader, cluster.nodes[2].id)
    cluster.settle()
    assert not cluster.propose(leader)
    cluster.run_ticks(10)
    assert cluster.leader() is leader
    assert leader.replica.status.term == 1
    assert cluster.propose(leader)
    cluster.settle()
    assert len(cluster.committed) == 2
