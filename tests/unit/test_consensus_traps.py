"""The traps that bit real systems, by the numbers of the design: each one a test that fails when this replica falls into it.

A comment names the line that protects. ``python -m tests.traps`` takes each of them out and sees the test fail; its table
(``tests/testkit/trap_removals.py``) has all 26 traps, also those of the node, the store and the ledger, which are tested elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from consensus.config import Role
from consensus.effects import HardState, InstalledSnapshot, Persist, ReadIndex, Tick
from consensus.errors import ProposalRefusedError, StoredStateError
from consensus.membership import Configuration
from consensus.messages import Append, AppendReply, PreVoteReply, RequestVote, SnapshotOffer, Vote, encode_message
from tests.testkit.raft_bench import Bench, changed, fork, rules
from tests.testkit.raft_sim import Cluster, Letter, SimDisk, make_chain

# 1


def test_trap_1_an_old_overlapping_append_drops_nothing() -> None:
    # Protected in this way: blocks that agree are passed over, `Following._find_new`.
    log = make_chain([1, 1, 1, 1])
    bench = Bench()
    bench.receive(bench.append(1, 1, log, 0))
    for prev, upto in ((0, 1), (0, 2), (1, 3), (2, 2)):
        seen = bench.receive(bench.append(1, 1, log, prev, upto=upto))
        assert bench.disk.log == log
        assert bench.pending == []
        assert seen.alarms == []


def test_trap_1_truncation_begins_at_the_first_conflicting_entry() -> None:
    own = make_chain([1, 1, 2, 2])
    bench = Bench(log=own)
    theirs = fork(own, 2, [3, 3])
    bench.receive(bench.append(1, 3, theirs, 0), write=False)
    ((persist, _),) = bench.pending
    assert persist == Persist(HardState(3, None), truncate_from=3, entries=tuple(theirs[2:]))


@pytest.mark.parametrize("prev", [0, 1, 2])
def test_trap_1_nothing_committed_is_ever_truncated(prev: int) -> None:
    # Protected in this way: what is committed is not given up, `Following._find_new`.
    own = make_chain([1, 1, 1])
    bench = Bench(log=own, commit_height=2)
    theirs = fork(own, 1, [2, 2, 2]) if prev < 2 else fork(own, 0, [2, 2, 2])
    seen = bench.receive(bench.append(1, 3, theirs, prev))
    assert bench.disk.log == own
    assert seen.alarm_codes == ["consensus.fork"]
    assert seen.messages == []


# 2


def test_trap_2_a_follower_acknowledges_what_this_append_verified_not_its_own_last_index() -> None:
    # Protected by `_verified_height` in `Following._durable_height`; the block's term in `Following._sign_upto`.
    own = make_chain([1, 1, 1, 1, 1])
    bench = Bench(log=own)
    for prev, upto, expected in ((0, 2, 2), (3, 3, 3)):
        reply = bench.receive(bench.append(1, 2, own, prev, upto=upto)).only()
        assert isinstance(reply, AppendReply)
        assert (reply.ok, reply.match_height, reply.received_height) == (True, expected, expected)
        assert reply.acknowledgements == ()


def test_trap_2_a_block_of_another_leader_that_becomes_durable_is_not_acknowledged_to_the_new_one() -> None:
    old = make_chain([1, 1])
    bench = Bench()
    bench.receive(bench.append(1, 1, old, 0), write=False)
    bench.receive(bench.append(2, 2, [], 0), write=False)
    replies = [m for m in bench.write().to(2) if isinstance(m, AppendReply)]
    assert replies
    assert all(m.match_height == 0 and m.acknowledgements == () for m in replies)


# 3


def test_trap_3_commitment_ends_where_this_append_has_verified_the_log() -> None:
    # Protected by `reach` in `Following._commit`.
    own = make_chain([1, 1, 1])
    bench = Bench(log=own)
    # The leader's chain agrees with ours up to 1 only, as far as this append shows; its certificate for 3 must wait.
    seen = bench.receive(bench.append(1, 2, own, 0, upto=1, commit_height=3, certificate=bench.certify(own[2])))
    assert seen.apply == []
    seen = bench.receive(bench.append(1, 2, own, 1, commit_height=3))
    assert seen.apply == own


def test_trap_3_a_commit_height_without_a_certificate_commits_nothing() -> None:
    own = make_chain([1, 1, 1])
    bench = Bench(log=own)
    assert bench.receive(bench.append(1, 1, own, 3, commit_height=3)).apply == []
    assert bench.replica.status.commit_height == 0


# 4


def test_trap_4_figure_8_a_block_of_an_old_term_on_a_majority_can_still_be_overwritten_until_a_later_one_commits() -> (
    None
):
    cluster = Cluster(5, seed=8)
    s1, s2, s3, s4, s5 = cluster.nodes
    base = make_chain([1])
    two = fork(base, 1, [2], b"s1")
    three = fork(base, 1, [3], b"s5")
    for node, log in ((s1, two), (s2, two), (s3, base), (s4, base), (s5, three)):
        node.disk.log = list(log)
        node.disk.hard_state = HardState(3, None)
        node.start()
    s5.crash()
    cluster.elect(0)
    # (c): s1 leads term 4 and has replicated the block of term 2 to a majority, but nothing of its own term.
    cluster.run_ticks(4)
    assert sum(node.disk.log[:2] == two for node in cluster.nodes) == 4
    assert cluster.committed == {}
    # (d): it crashes, s5 wins and overwrites it.
    s1.crash()
    s2.crash()
    s2.disk.log = list(two)
    s5.start()
    for node in (s3, s4):
        node.disk.log = list(base)
        node.crash()
        node.start()
    leader = cluster.elect(4)
    assert cluster.propose(leader)
    cluster.settle()
    assert cluster.committed[2] == three[1].block_hash
    # The others come back and follow.
    s1.start()
    s2.start()
    cluster.run_ticks(30)
    assert all(node.disk.log == leader.disk.log for node in cluster.nodes)


# 5


def test_trap_5_stale_and_reordered_refusals_change_nothing() -> None:
    # Protected by `match_height` in `Progress.is_stale_refusal` and `.probe_from`.
    bench = Bench(log=make_chain([1, 1, 1]))
    bench.become_leader()
    bench.receive(bench.reply(1, 4, signed=[bench.disk.log[3]]))
    before = bench.replica.status
    for reject in (0, 1, 3, 4):
        seen = bench.receive(bench.refusal(1, reject, 0, 0))
        assert seen.messages == []
        assert bench.replica.status.match == before.match
        assert bench.replica.status.commit_height == 4
    assert bench.receive(bench.refusal(1, 9, 9, 1, term=0 + 1)).messages == []  # of a former term


def test_trap_5_a_refusal_of_another_append_than_the_probe_is_stale() -> None:
    # Protected by the probe's height in `Progress.is_stale_refusal`.
    bench = Bench(log=make_chain([1, 1, 1]))
    bench.become_leader(first_block=False)
    assert bench.receive(bench.refusal(1, 2, 0, 0)).messages == []
    assert bench.receive(bench.refusal(1, 3, 0, 0)).messages != []


def test_trap_5_an_old_agreement_lowers_nothing() -> None:
    bench = Bench()
    bench.become_leader()
    bench.receive(bench.reply(1, 1, signed=bench.disk.log))
    bench.receive(bench.reply(1, 0))
    assert bench.replica.status.match[bench.ids[1]] == 1
    assert bench.replica.status.commit_height == 1


# 6


def test_trap_6_the_vote_survives_a_crash() -> None:
    # Protected by the vote that was given in `Replica._receive_request_vote`.
    bench = Bench()
    bench.receive(bench.request_vote(1, 1, []))
    bench.restart()
    assert bench.voted_for == 1
    vote = bench.receive(bench.request_vote(2, 1, [])).only()
    assert vote == Vote(1, False, bench.ids[0], None)


def test_trap_6_after_a_restart_not_even_the_same_candidate_gets_a_second_signature() -> None:
    # Its log may be another one now, and two signed votes in one term convict the voter.
    bench = Bench()
    bench.receive(bench.request_vote(1, 1, []))
    again = bench.receive(bench.request_vote(1, 1, [])).only()
    assert isinstance(again, Vote)
    assert again.granted
    other = bench.receive(bench.request_vote(1, 1, make_chain([1]))).only()
    assert other == Vote(1, False, bench.ids[0], None)
    bench.restart()
    assert bench.receive(bench.request_vote(1, 1, [])).only() == Vote(1, False, bench.ids[0], None)


def test_trap_6_the_vote_survives_a_candidates_step_down_in_the_same_term() -> None:
    # Protected by the later term in `Replica._become_follower`.
    bench = Bench()
    bench.become_candidate()
    bench.receive(bench.append(1, 1, [], 0))
    assert bench.role is Role.FOLLOWER
    assert bench.voted_for == 0
    bench.tick(10)
    assert bench.receive(bench.request_vote(2, 1, make_chain([1]))).only() == Vote(1, False, bench.ids[0], None)


# 7


@pytest.mark.parametrize("seed", range(10))
def test_trap_7_a_kill_of_all_and_a_restart_with_skew_loses_nothing(seed: int) -> None:
    # Protected in this way: what is answered is durable, `Following._durable_height`.
    cluster = Cluster(5, seed=seed)
    leader = cluster.elect(seed % 5)
    for count in range(20):
        cluster.propose(leader)
        for _ in range(cluster.random.randrange(12)):
            if cluster.letters:
                cluster.deliver(0)
            node = cluster.random.choice(cluster.nodes)
            if node.writes:
                node.finish_write()
        assert len(cluster.committed) <= count + 1
    committed = dict(cluster.committed)
    for node in cluster.nodes:
        node.crash()
    cluster.letters.clear()
    for node in cluster.random.sample(cluster.nodes, 5):
        node.start()
        cluster.run_ticks(cluster.random.randrange(30))
    cluster.demand_liveness()
    assert committed.items() <= cluster.committed.items()


# 8


def test_trap_8_no_change_before_a_block_of_the_leaders_own_term_is_committed() -> None:
    # Protected by `_has_committed` in `Leadership._is_settled`. The bug of 2015: a new leader changes members upon a configuration that
    # an earlier leader may have replaced elsewhere.
    bench = Bench(4, log=make_chain([1, 1]), members=3)
    bench.become_leader()
    bench.receive(bench.reply(1, 2))  # blocks of the old term are on a majority: that is no commitment
    bench.receive(bench.reply(2, 2))
    with pytest.raises(ProposalRefusedError) as caught:
        bench.change("012", None, "3")
    assert caught.value.code == "consensus.configuration_busy"
    bench.agree(1)
    bench.change("012", None, "3")


def test_trap_8_at_most_one_change_is_uncommitted() -> None:
    # Protected by the comparison of heights in `Leadership._is_settled`.
    bench = Bench(4, members=3)
    bench.become_leader()
    bench.agree(1, 2)
    bench.change("012", "01")
    for change in (("01", None, ""), ("012", "01", "3")):
        with pytest.raises(ProposalRefusedError) as caught:
            bench.change(*change)
        assert caught.value.code == "consensus.configuration_busy"
    bench.agree(1)
    bench.change("01")


def test_trap_8_a_change_left_behind_by_a_former_leader_counts_as_uncommitted_too() -> None:
    log = changed(make_chain([1]), 1, "012", "01")
    bench = Bench(4, log=log, members=3)
    bench.become_leader()
    assert not bench.replica.status.can_change_configuration
    bench.agree(1)
    assert bench.replica.status.can_change_configuration


# 9


def test_trap_9_a_learner_is_not_promoted_before_the_change_that_added_it_is_committed() -> None:
    # Protected by `Leadership._is_settled`; and that it has caught up by `Replication.can_decide`.
    bench = Bench(3, configuration=("01", None, ""))
    bench.become_leader()
    bench.agree(1)
    bench.change("01", None, "2")
    bench.receive(bench.refusal(2, 2, 0, 0))
    bench.receive(bench.reply(2, 2))
    with pytest.raises(ProposalRefusedError) as caught:
        bench.change("01", "012")
    assert caught.value.code == "consensus.configuration_busy"
    bench.agree(1)
    bench.change("01", "012")


# 10


def test_trap_10_a_truncated_change_brings_back_the_members_before_and_their_peers() -> None:
    # Protected by the loop in `Configurations.note_written`.
    own = changed(make_chain([1]), 1, "012", "0134")
    theirs = fork(own, 1, [2])
    bench = Bench(5, log=own, members=3)
    assert bench.replica.status.configuration == rules("012", "0134")
    bench.receive(bench.append(1, 2, theirs, 1))
    assert bench.replica.status.configuration == rules("012")
    seen = bench.become_candidate()
    assert {index for index, _ in seen.messages} == {1, 2}
    seen = bench.receive(bench.vote(1))
    assert seen.elected is not None
    assert {index for index, _ in seen.messages} == {1, 2}
    bench.propose()
    bench.agree(2)
    assert bench.replica.status.commit_height == 3


def test_trap_10_a_change_that_a_crash_lost_is_gone_and_one_that_it_kept_rules() -> None:
    bench = Bench(4, configuration=("012", None, "3"))
    bench.become_leader()
    bench.agree(1, 2, 3)
    bench.change("012", "0123", write=False)
    bench.restart()
    assert bench.replica.status.configuration == rules("012", None, "3")
    bench = Bench(4, configuration=("012", None, "3"))
    bench.become_leader()
    bench.agree(1, 2, 3)
    bench.change("012", "0123")
    bench.restart()
    assert bench.replica.status.configuration == rules("012", "0123")


# 11


def test_trap_11_a_node_that_is_being_removed_acknowledges_until_that_is_committed() -> None:
    # Protected by `groups` of a joint configuration, and by `height_max` in `Replication.feed` that cuts it off no earlier.
    bench = Bench(2)
    bench.become_leader()
    bench.agree(1)
    bench.change("01", "0")
    bench.propose()
    assert bench.replica.status.commit_height == 1
    seen = bench.agree(1)
    assert bench.replica.status.commit_height == 3
    assert seen.certificate is not None
    assert len(seen.certificate.signatures) == 2
    leaving = Bench(2, me=1)
    log = changed(make_chain([1]), 1, "01", "0")
    reply = leaving.receive(leaving.append(0, 1, log, 0)).only()
    assert isinstance(reply, AppendReply)
    assert [a.height for a in reply.acknowledgements] == [1, 2]


def test_trap_11_a_leader_that_leaves_does_not_count_itself_where_it_is_no_voter() -> None:
    # Protected by `groups` in `Configuration.is_quorum`.
    bench = Bench(3)
    bench.become_leader()
    bench.agree(1, 2)
    bench.change("012", "12")
    bench.agree(1)  # 0 and 1 are a majority of 0 1 2, and half of 1 2
    assert bench.replica.status.commit_height == 1
    bench.agree(2)
    assert bench.replica.status.commit_height == 2


def test_trap_11_a_leader_outside_the_configuration_signs_no_certificate() -> None:
    # Protected by `is_voter(me)` in `AcknowledgementBook._certify`. No leader gets there by itself (`consensus.leaving`).
    bench = Bench(3)
    bench.become_leader()
    bench.replica._common.configurations.reset(0, rules("12"))
    bench.agree(1)
    assert bench.replica.status.commit_height == 0
    certificate = bench.agree(2).certificate
    assert certificate is not None
    assert [bench.ids.index(signer) for signer, _ in certificate.signatures] == [1, 2]


def test_trap_11_a_removed_node_never_holds_the_uncommitted_block_that_removes_it() -> None:
    # Protected by `height_max` in `Replication.feed`. With the block, 3 would refuse its vote to all who lack it and could not stand
    # itself: of 0 1 2 3, while 0 is down, nobody could be elected.
    cluster = Cluster(4, seed=11)
    leader = cluster.elect(0)
    cluster.propose(leader)
    cluster.settle()
    voters = cluster.founders.voters
    assert cluster.change(leader, Configuration(voters, voters[:3]))
    cluster.settle()
    cluster.partition({cluster.nodes[1].id, cluster.nodes[2].id})
    assert cluster.change(leader, Configuration(voters[:3]))
    cluster.settle()
    assert cluster.nodes[3].disk.last_height == 2
    leader.crash()
    cluster.heal()
    cluster.run_ticks(60)
    assert cluster.leader() is not None


# 12


def test_trap_12_a_node_that_was_removed_while_it_was_away_deposes_nobody() -> None:
    # Protected by `hears_leader` in `answer_pre_vote` and `must_withhold`.
    cluster = Cluster(4, seed=12, expected_alarms=frozenset({"consensus.stranger"}))
    leader = cluster.elect(0)
    cluster.propose(leader)
    cluster.settle()
    gone = cluster.nodes[3]
    cluster.partition({gone.id})
    voters = cluster.founders.voters
    assert cluster.change(leader, Configuration(voters, voters[:3]))
    cluster.settle()
    assert cluster.finish_change() is leader
    cluster.run_ticks(300)  # nobody sends to it any more
    cluster.heal()
    # Even when it stands in earnest, with a term far ahead and a claim to be the chosen successor.
    for transfer in (False, True):
        request = RequestVote(50, gone.id, 1, 1, gone.disk.log[0].block_hash, transfer)
        for node in cluster.nodes[:3]:
            cluster.letters.append(Letter(gone.id, node.id, encode_message(request)))
        cluster.run_ticks(50)
    assert leader.replica.status.role is Role.LEADER
    assert {node.replica.status.term for node in cluster.nodes[:3]} == {1}


def test_trap_12_a_partitioned_node_does_not_depose_a_healthy_leader() -> None:
    # Protected by the poll before the election, `Replica._begin_poll`.
    cluster = Cluster(3, seed=12)
    leader = cluster.elect(0)
    cluster.propose(leader)
    cluster.settle()
    cluster.partition({cluster.nodes[2].id})
    cluster.run_ticks(500)
    assert cluster.nodes[2].replica.status.term == 1
    cluster.heal()
    cluster.run_ticks(100)
    assert leader.replica.status.role is Role.LEADER
    assert leader.replica.status.term == 1
    assert cluster.nodes[2].replica.status.leader == leader.id


def test_trap_12_a_leader_ignores_a_candidate_with_a_higher_term() -> None:
    # Protected by stickiness in `must_withhold`.
    bench = Bench()
    bench.become_leader()
    assert bench.receive(bench.request_vote(1, 7, make_chain([6]))).messages == []
    assert (bench.role, bench.term) == (Role.LEADER, 1)
    answer = bench.receive(bench.pre_vote(1, 7, make_chain([6]))).only()
    assert answer == PreVoteReply(1, False, bench.ids[0])


# 13


def test_trap_13_polls_among_equal_logs_do_not_dead_lock() -> None:
    # Protected in this way: equal logs are up to date, `Common.is_up_to_date`.
    cluster = Cluster(2, seed=13)
    for node in cluster.nodes:
        node.replica._common.election_timeout = 10
    cluster.tick_all()
    for _ in range(9):
        cluster.tick_all()
    # Both polls are under way at the same tick and each is granted, since a poll binds nobody.
    assert [node.replica.status.role for node in cluster.nodes] == [Role.PRECANDIDATE] * 2
    cluster.settle()
    cluster.run_ticks(100)
    assert cluster.leader() is not None


# 14


def test_trap_14_no_read_is_answered_before_a_block_of_the_leaders_own_term_is_committed() -> None:
    # Protected by `_has_committed` in `Leadership._advance_reads`. The leader's disk holds block 2, which may be committed without its
    # knowing: it knows of 1 only.
    log = make_chain([1, 1])
    bench = Bench(log=log, commit_height=1, certificates=[Bench().certify(log[0])])
    bench.become_leader(first_block=False)
    assert bench.step(ReadIndex(1)).reads_ready == []
    bench.propose()
    for index in (1, 2):
        assert bench.receive(bench.reply(index, 2, round_id=1)).reads_ready == []
    seen = bench.agree(1)
    assert bench.replica.status.commit_height == 3
    assert seen.reads_ready == []
    assert bench.receive(bench.reply(2, 3, round_id=2)).reads_ready == [(1, 3)]


def test_trap_14_heartbeats_answered_before_the_read_confirm_nothing() -> None:
    # Protected by `begin_round` in `Leadership._advance_reads`, which makes a number that no earlier answer can name.
    bench = Bench()
    bench.become_leader()
    bench.agree(1, 2)
    bench.tick(2)
    late = [bench.reply(index, 1, round_id=2) for index in (1, 2)]
    assert bench.step(ReadIndex(1)).reads_ready == []
    for reply in late:
        assert bench.receive(reply).reads_ready == []
    assert bench.receive(bench.reply(1, 1, round_id=3)).reads_ready == [(1, 1)]


def test_trap_14_a_heartbeat_round_is_confirmed_by_answers_to_it_not_by_older_ones() -> None:
    bench = Bench()
    bench.become_leader()
    bench.tick(2)
    assert bench.replica.status.round_confirmed == 0
    bench.receive(bench.reply(1, 1, round_id=1))
    assert bench.replica.status.round_confirmed == 1
    bench.receive(bench.reply(2, 1, round_id=2))
    assert bench.replica.status.round_confirmed == 2
    bench.receive(bench.reply(2, 1, round_id=99))
    assert bench.replica.status.round_confirmed == 2


# 15


def test_trap_15_a_leader_that_was_stopped_reads_nothing_after_it_has_been_replaced() -> None:
    # Protected by the round's number in `LeaderReads.confirm`, which knows no time: for the stopped leader no tick has passed. Leases,
    # which are off here, are in test_consensus_lease.py.
    cluster = Cluster(3, seed=15)
    stopped = cluster.elect(0)
    cluster.propose(stopped)
    cluster.settle()
    cluster.tick_all()
    cluster.settle()
    cluster.cut = {(stopped.id, node.id) for node in cluster.nodes} | {(node.id, stopped.id) for node in cluster.nodes}
    for _ in range(60):
        for node in cluster.nodes[1:]:
            node.step(Tick())
        cluster.settle()
    other = cluster.leader()
    assert other is not None
    assert other is not stopped
    cluster.propose(other)
    cluster.settle()
    assert stopped.replica.status.role is Role.LEADER
    stopped.read()
    cluster.settle()
    assert stopped.reads_answered == 0
    cluster.heal()
    cluster.run_ticks(10)
    assert (stopped.reads_answered, stopped.reads) == (0, {})  # refused: who asks may ask again


# 17


def test_trap_17_who_hears_a_leader_is_deaf_to_strangers_whatever_they_claim() -> None:
    # Protected by `Replica._is_admitted`: without it, the stranger's term would be taken up and the leader would be deposed.
    bench = Bench(4, members=3)
    stranger = 3
    bench.receive(bench.append(1, 1, [], 0))
    for message in (
        bench.request_vote(stranger, 5, make_chain([4]), transfer=True),
        bench.pre_vote(stranger, 5, make_chain([4])),
        bench.append(stranger, 5, make_chain([4]), 0),
    ):
        seen = bench.receive(message)
        assert seen.messages == []
        assert seen.alarm_codes == ["consensus.stranger"]
        assert (bench.term, bench.replica.status.leader) == (1, bench.ids[1])
    bench.tick(9)
    assert bench.receive(bench.append(stranger, 5, make_chain([4]), 0)).alarm_codes == ["consensus.stranger"]
    # Nobody is heard: it may have been elected by a change that has not come here (thesis 4.1).
    bench.tick(1)
    bench.receive(bench.append(stranger, 5, make_chain([4]), 0))
    assert (bench.term, bench.replica.status.leader) == (5, bench.ids[stranger])


def test_trap_17_strangers_are_neither_asked_nor_counted() -> None:
    bench = Bench(4, members=3)
    stranger = 3
    seen = bench.become_candidate()
    assert {index for index, _ in seen.messages} == {1, 2}
    assert bench.receive(bench.vote(stranger)).alarm_codes == ["consensus.stranger"]
    assert bench.role is Role.CANDIDATE
    bench.receive(bench.vote(1))
    assert bench.propose().to(stranger) == []
    bench.receive(bench.reply(stranger, 1, signed=bench.disk.log))
    assert bench.replica.status.commit_height == 0


def test_trap_17_nobody_speaks_for_another() -> None:
    bench = Bench()
    bench.become_candidate()
    seen = bench.receive(bench.vote(1), sender=2)
    assert seen.alarm_codes == ["consensus.sender"]
    assert bench.role is Role.CANDIDATE
    assert bench.receive(bench.vote(0), sender=0).alarm_codes == ["consensus.stranger"]


def test_trap_17_a_node_that_is_no_validator_follows_but_neither_stands_nor_signs() -> None:
    # Protected by `is_voter` in `Replica._tick` and `may_sign` in `Following._sign_upto`.
    bench = Bench(4, me=3, members=3)
    assert bench.tick(100).messages == []
    assert bench.role is Role.FOLLOWER
    log = make_chain([2])
    reply = bench.receive(bench.append(1, 2, log, 0)).only()
    assert isinstance(reply, AppendReply)
    assert (reply.match_height, reply.acknowledgements) == (1, ())


def test_trap_17_learners_are_neither_asked_nor_counted() -> None:
    # Protected by `keys` and `groups` of `Configuration`, which hold voters only.
    bench = Bench(5, configuration=("012", None, "34"))
    seen = bench.become_candidate()
    assert {index for index, _ in seen.messages} == {1, 2}
    for index in (3, 4):
        bench.receive(bench.vote(index))
    assert bench.role is Role.CANDIDATE
    bench.receive(bench.vote(1))
    bench.propose()
    bench.agree(3, 4)
    assert bench.replica.status.commit_height == 0


# 18


def test_trap_18_a_snapshot_older_than_what_is_committed_is_not_wanted() -> None:
    # Protected by the comparison with `commit_height` in `Replica.needs_snapshot`.
    theirs = make_chain([2, 2, 2])
    bench = Bench(log=make_chain([1, 1]), commit_height=2, term=2)
    assert not bench.replica.needs_snapshot(1, 2, theirs[0].block_hash)
    assert not bench.replica.needs_snapshot(2, 2, theirs[1].block_hash)
    assert bench.replica.needs_snapshot(3, 2, theirs[2].block_hash)


def test_trap_18_a_snapshot_never_costs_blocks_that_were_acknowledged() -> None:
    # Protected by `contains` in `Replica.needs_snapshot`: 3 and 4 are acknowledged, and may be committed by this node's word.
    log = make_chain([1, 1, 1, 1])
    bench = Bench()
    bench.receive(bench.append(1, 1, log, 0))
    assert not bench.replica.needs_snapshot(2, 1, log[1].block_hash)
    # Nor while they are on their way to the disk.
    more = fork(log, 4, [1, 1])
    bench.receive(bench.append(1, 1, more, 4), write=False)
    assert not bench.replica.needs_snapshot(6, 1, more[5].block_hash)


def test_trap_18_a_snapshot_never_lowers_the_position_of_the_log() -> None:
    # Protected by the comparison with `position` in `Replica.needs_snapshot`: who has acknowledged (4, 3) must not come to vote for (2, 9).
    own = make_chain([1, 1, 4])
    bench = Bench(log=own, term=4)
    theirs = fork(own, 2, [2] * 7)
    assert not bench.replica.needs_snapshot(9, 2, theirs[8].block_hash)
    later = fork(theirs, 9, [5])
    assert bench.replica.needs_snapshot(10, 5, later[9].block_hash)


@pytest.mark.parametrize("crash", ["before", "after the write", "after the event"])
def test_trap_18_a_crash_between_any_two_steps_of_an_installation_does_no_harm(crash: str) -> None:
    theirs = changed(make_chain([1, 1]), 2, "012", "01")
    certificate = Bench().certify(theirs[2], [0, 1])
    donor = SimDisk()
    donor.log, donor.founders, donor.certificates = theirs, rules("012"), {3: certificate}
    bench = Bench(log=make_chain([1]), commit_height=1, term=1)
    bench.receive(SnapshotOffer(1, bench.ids[1], 4, 3, 1))
    if crash == "before":
        bench.restart()
        assert (bench.replica.status.commit_height, bench.last[1]) == (1, 1)
        return
    bench.disk.install(donor, 3)
    if crash == "after the event":
        bench.step(InstalledSnapshot(3, 2, theirs[2].block_hash, rules("012", "01"), certificate))
    bench.restart()
    status = bench.replica.status
    assert (status.term, status.commit_height, status.last_hash) == (2, 3, theirs[2].block_hash)
    assert (status.configuration, status.is_configuration_committed) == (rules("012", "01"), True)


def test_trap_18_fast_pruning_asks_a_slow_installation_for_a_later_snapshot() -> None:
    # Protected by `await_snapshot` in `Replication._send`: each heartbeat tells what is needed by then.
    bench = Bench()
    needs = [
        bench.receive(SnapshotOffer(1, bench.ids[1], first_height, first_height + 5, round_id)).need_snapshot
        for round_id, first_height in enumerate((10, 20, 30), 1)
    ]
    assert [need.height_min for need in needs if need is not None] == [9, 19, 29]


# 20


def test_trap_20_a_leader_counts_its_own_disk_only_when_it_is_done() -> None:
    # Protected by `durable_height` in `AcknowledgementBook.find_certificate`.
    bench = Bench()
    bench.become_leader(first_block=False)
    bench.propose(write=False)
    entry = bench.pending[0][0].entries[0]
    assert bench.receive(bench.reply(1, 1, signed=[entry]), write=False).apply == []
    assert bench.replica.status.commit_height == 0
    seen = bench.write()
    assert seen.apply == [entry]


def test_trap_20_a_single_validator_waits_for_its_own_disk_too() -> None:
    bench = Bench(1)
    bench.tick(10, write=False)
    assert bench.role is Role.CANDIDATE
    assert bench.write().elected is not None
    assert bench.propose(write=False).apply == []
    seen = bench.write()
    assert [entry.height for entry in seen.apply] == [1]
    assert seen.certificate is not None


def test_trap_20_a_candidate_counts_its_own_vote_only_when_it_is_durable() -> None:
    bench = Bench(2)
    bench.tick(10, write=False)
    bench.receive(PreVoteReply(1, True, bench.ids[1]), write=False)
    assert bench.role is Role.CANDIDATE
    bench.receive(bench.vote(1), write=False)
    assert bench.role is Role.CANDIDATE
    assert bench.write().elected is not None


def test_trap_20_a_majority_of_others_is_no_election_before_the_own_vote_is_durable() -> None:
    # Protected by the own vote in `Candidacy.note_durable`.
    bench = Bench()
    bench.tick(10, write=False)
    bench.receive(PreVoteReply(1, True, bench.ids[1]), write=False)
    for index in (1, 2):
        assert bench.receive(bench.vote(index), write=False).elected is None
    assert bench.role is Role.CANDIDATE
    elected = bench.write().elected
    assert elected is not None
    assert len(elected.signatures) == 3


def test_trap_20_a_follower_acknowledges_nothing_that_is_still_on_its_way_to_the_disk() -> None:
    bench = Bench()
    log = make_chain([1, 1])
    assert bench.receive(bench.append(1, 1, log, 0), write=False).messages == []
    heartbeat = bench.receive(bench.append(1, 1, log, 2), write=False)
    assert heartbeat.messages == []  # waits for the term, which is still on its way, too
    replies = [m for _, m in bench.write(1).messages if isinstance(m, AppendReply)]
    assert [m.match_height for m in replies] == [2]
    late = [m for _, m in bench.write().messages if isinstance(m, AppendReply)]
    assert [m.match_height for m in late] == [0]


# 21, the core's part


def test_trap_21_a_log_that_ends_below_the_commit_height_is_never_voted_over() -> None:
    # Protected in this way: the log reaches what is committed, `check_stored`.
    with pytest.raises(StoredStateError) as caught:
        Bench(log=make_chain([1, 1]), commit_height=3)
    assert caught.value.code == "consensus.stored.log"


def test_trap_21_a_log_ahead_of_the_stored_term_is_never_voted_over() -> None:
    with pytest.raises(StoredStateError) as caught:
        Bench(log=make_chain([1, 4]), term=3)
    assert caught.value.code == "consensus.stored.term"


# 24

_RUN = """
import hashlib
from tests.testkit.raft_sim import Cluster, Faults
cluster = Cluster(5, seed=24)
digest = hashlib.sha256()
post = cluster.post
def spy(sender, outgoing):
    post(sender, outgoing)
    digest.update(cluster.letters[-1].sender + cluster.letters[-1].to + cluster.letters[-1].data)
cluster.post = spy
cluster.run_random(4000, Faults(loss=0.05, reordering=0.2, crash=0.002))
print(digest.hexdigest(), len(cluster.committed))
"""


def test_trap_24_the_same_events_bring_the_same_effects_whatever_the_hash_seed(repository_root: Path) -> None:
    outputs = set()
    for hash_seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(repository_root)}
        run = subprocess.run(
            [sys.executable, "-c", _RUN],
            env=environment,
            cwd=repository_root,
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.add(run.stdout)
    (output,) = outputs
    digest, committed = output.split()
    assert len(digest) == 2 * hashlib.sha256().digest_size
    assert int(committed) > 10


# Election restarts of a lone validator (design: "elects itself after restart")


def test_a_single_validator_elects_itself_after_each_restart() -> None:
    bench = Bench(1)
    for term in range(1, 5):
        bench.become_leader()
        assert bench.term == term
        assert bench.replica.status.commit_height == term
        bench.restart()
        assert bench.role is Role.FOLLOWER


def test_heartbeats_outrun_by_blocks_do_no_harm() -> None:
    # A heartbeat that overtakes the blocks sent before it is refused; the leader probes and both converge.
    cluster = Cluster(2, seed=3)
    leader = cluster.elect(0)
    cluster.settle()
    cluster.propose(leader)
    cluster.settle()
    cluster.propose(leader)
    cluster.tick_all()
    cluster.tick_all()
    assert len([letter for letter in cluster.letters if letter.sender == leader.id]) >= 2
    cluster.deliver(len(cluster.letters) - 1)
    cluster.run_ticks(4)
    assert len(cluster.committed) == 2
    assert all(isinstance(node.disk.commit_height, int) and node.disk.commit_height == 2 for node in cluster.nodes)


def test_appends_carry_no_certificate_that_the_follower_cannot_use() -> None:
    bench = Bench()
    bench.become_leader()
    bench.receive(bench.reply(1, 1, signed=bench.disk.log))
    seen = bench.receive(bench.refusal(2, 0, 0, 0))
    assert seen.messages == []
    seen = bench.tick(2)
    certificates = {index: m.commit_certificate for index, m in seen.messages if isinstance(m, Append)}
    assert certificates[1] is not None  # holds block 1
    assert certificates[2] is None  # is still being probed below it
