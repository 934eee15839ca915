"""Raft as its paper says it, sections 6 to 8, and as the dissertation says it, chapters 3, 4 and 6: one test per sentence that rules.

Sections 5 and figure 2 are in ``test_consensus_paper.py``. Where this replica does otherwise, the test says so and why. Sections with a
``t`` are the dissertation's (Ongaro: Consensus: Bridging Theory and Practice).
"""

from __future__ import annotations

from typing import Any

import pytest

from consensus.config import Config, Role
from consensus.effects import InstalledSnapshot, Persist, Propose, ReadIndex, TransferLeadership
from consensus.errors import ProposalRefusedError
from consensus.membership import Configuration
from consensus.messages import (
    Append,
    AppendReply,
    Entry,
    ReadIndexReply,
    ReadIndexRequest,
    RequestVote,
    SnapshotOffer,
    TimeoutNow,
    Vote,
)
from tests.testkit.raft_bench import Bench, Seen, changed, fork, rules
from tests.testkit.raft_sim import Cluster, SimDisk, make_chain, make_entry, sim_keys


def leading(size: int = 3, **options: Any) -> Bench:
    bench = Bench(size, **options)
    bench.become_leader()
    bench.agree(*range(1, size))
    return bench


# 6 Cluster membership changes


def test_6_a_server_that_adds_the_new_configuration_to_its_log_uses_it_for_all_future_decisions() -> None:
    # "regardless of whether the entry is committed"
    bench = Bench(5, members=3)
    bench.receive(bench.append(1, 1, changed(make_chain([1]), 1, "012", "034"), 0))
    assert bench.replica.status.commit_height == 0
    assert bench.replica.status.configuration == rules("012", "034")
    seen = bench.become_candidate()
    assert {index for index, _ in seen.messages} == {1, 2, 3, 4}


def test_6_the_leader_uses_the_rules_of_the_joint_configuration_to_determine_when_its_entry_is_committed() -> None:
    bench = leading(5, configuration=("012", None, "34"))
    bench.change("012", "034")
    bench.agree(1, 2)  # the old ones alone
    assert bench.replica.status.commit_height == 1
    bench.agree(3)
    assert bench.replica.status.commit_height == 2


def test_6_log_entries_are_replicated_to_all_servers_in_both_configurations() -> None:
    bench = leading(5, configuration=("012", None, "34"))
    bench.change("012", "034")
    bench.agree(1, 2, 3, 4)
    seen = bench.propose()
    assert {index for index, m in seen.messages if isinstance(m, Append) and m.entries} == {1, 2, 3, 4}


@pytest.mark.parametrize("me", [1, 3])
def test_6_any_server_from_either_configuration_may_serve_as_leader(me: int) -> None:
    bench = Bench(5, me=me, log=changed(make_chain([1]), 1, "012", "034"), members=3)
    bench.become_candidate()
    for index in {0, 1, 2, 3, 4} - {me}:
        if bench.role is Role.CANDIDATE:
            bench.receive(bench.vote(index))
    assert bench.role is Role.LEADER


@pytest.mark.parametrize(("granted", "elected"), [((1, 2), False), ((3, 4), False), ((1, 3), True)])
def test_6_agreement_for_elections_requires_separate_majorities_from_both(
    granted: tuple[int, ...], elected: bool
) -> None:
    bench = Bench(5, log=changed(make_chain([1]), 1, "012", "034"), members=3)
    bench.become_candidate()
    for index in granted:
        bench.receive(bench.vote(index))
    assert (bench.role is Role.LEADER) is elected


def test_6_once_the_joint_configuration_is_committed_the_leader_may_create_the_new_one() -> None:
    bench = leading(3)
    bench.change("012", "01")
    with pytest.raises(ProposalRefusedError) as caught:
        bench.change("01")
    assert caught.value.code == "consensus.configuration_busy"
    bench.agree(1)
    bench.change("01")
    bench.agree(1)
    assert bench.replica.status.is_configuration_committed
    assert bench.replica.status.configuration == rules("01")


def test_6_when_the_new_configuration_is_committed_servers_outside_it_can_be_shut_down() -> None:
    cluster = Cluster(4, seed=6, expected_alarms=frozenset({"consensus.stranger"}))
    leader = cluster.elect(0)
    cluster.propose(leader)
    cluster.settle()
    voters = cluster.founders.voters
    cluster.change(leader, Configuration(voters, voters[:3]))
    cluster.settle()
    leader = cluster.finish_change()
    cluster.run_ticks(4)
    gone = cluster.nodes[3]
    assert gone.removed
    gone.crash()
    before = leader.disk.commit_height
    cluster.propose(leader)
    cluster.settle()
    assert leader.disk.commit_height == before + 1


def test_6_new_servers_join_as_non_voting_members_and_are_not_considered_for_majorities() -> None:
    bench = Bench(4, configuration=("012", None, "3"))
    bench.become_leader()
    bench.agree(3)
    assert bench.replica.status.commit_height == 0
    seen = bench.tick(2)
    assert 3 in {index for index, _ in seen.messages}  # it gets everything


def test_6_a_leader_that_is_not_part_of_the_new_configuration_ends_with_it() -> None:
    # The paper lets it lead on without counting itself until the new configuration is committed. Here it hands over as soon as the joint
    # one is, so that nobody ever leads who is no voter (docs/spec/consensus.md 9.5).
    bench = leading(3)
    bench.change("012", "12")
    seen = bench.agree(1, 2)
    assert [index for index, m in seen.messages if isinstance(m, TimeoutNow)] == [1]
    with pytest.raises(ProposalRefusedError):
        bench.change("12")


# 7 Log compaction


def snapshot_of(log: list[Entry], height: int) -> SimDisk:
    disk = SimDisk()
    disk.log = list(log)
    disk.founders = rules("012")
    disk.certificates = {height: Bench().certify(log[height - 1])}
    return disk


def installed(bench: Bench, disk: SimDisk, height: int) -> Seen:
    entry = disk.log[height - 1]
    assert bench.replica.needs_snapshot(height, entry.term, entry.block_hash)
    bench.disk.install(disk, height)
    configuration = bench.disk.configuration_at(height)
    return bench.step(InstalledSnapshot(height, entry.term, entry.block_hash, configuration, disk.certificates[height]))


def test_7_the_leader_sends_a_snapshot_when_it_has_discarded_the_next_entry_for_a_follower() -> None:
    log = make_chain([1] * 5)
    bench = Bench(log=log, commit_height=5, certificates=[Bench().certify(entry) for entry in log])
    bench.disk.first_height = 4
    bench.become_leader(first_block=False)
    seen = bench.receive(bench.refusal(1, 5, 1, 1))
    assert [type(message) for message in seen.to(1)] == [SnapshotOffer]


def test_7_a_snapshot_with_new_information_makes_the_follower_discard_its_entire_log() -> None:
    theirs = make_chain([1, 2, 2, 2])
    bench = Bench(log=fork(theirs, 1, [1, 1]))
    installed(bench, snapshot_of(theirs, 4), 4)
    assert bench.last == (2, 4, theirs[3].block_hash)
    assert bench.replica.status.commit_height == 4


def test_7_a_snapshot_of_a_prefix_of_the_log_retains_what_follows_it() -> None:
    # The paper deletes what is covered; here the log has it anyway, so the snapshot is not installed at all.
    log = make_chain([1, 1, 1, 1])
    bench = Bench(log=log)
    assert not bench.replica.needs_snapshot(2, 1, log[1].block_hash)
    assert bench.last == (1, 4, log[3].block_hash)


def test_7_the_snapshot_has_the_index_and_the_term_for_the_check_of_the_first_entry_that_follows() -> None:
    theirs = make_chain([1, 2, 2])
    bench = Bench()
    installed(bench, snapshot_of(theirs, 3), 3)
    more = fork(theirs, 3, [2])
    reply = bench.receive(bench.append(1, 2, more, 3)).only()
    assert isinstance(reply, AppendReply)
    assert (reply.ok, reply.match_height) == (True, 4)
    other = fork(theirs, 2, [3, 3])
    seen = bench.receive(bench.append(2, 3, other, 3))
    assert seen.alarm_codes == ["consensus.fork"]


def test_7_the_snapshot_includes_the_latest_configuration() -> None:
    theirs = changed(make_chain([1, 1]), 1, "012", "01")
    bench = Bench()
    installed(bench, snapshot_of(theirs, 3), 3)
    assert bench.replica.status.configuration == rules("012", "01")


def test_7_the_offer_is_a_sign_of_life_of_the_leader() -> None:
    bench = Bench()
    for round_id in range(1, 6):
        bench.tick(9)
        bench.receive(SnapshotOffer(1, bench.ids[1], 10, 12, round_id))
    assert (bench.role, bench.replica.status.leader) == (Role.FOLLOWER, bench.ids[1])


# 8 Client interaction; t6.4 Processing read-only queries more efficiently


def test_8_a_leader_needs_a_blank_entry_of_its_term_before_it_knows_what_is_committed() -> None:
    log = make_chain([1, 1])
    bench = Bench(log=log, commit_height=1, certificates=[Bench().certify(log[0])])
    bench.become_leader(first_block=False)
    assert bench.step(ReadIndex(1)).messages == []
    bench.propose()
    bench.agree(1)
    assert bench.replica.status.commit_height == 3


def test_8_a_leader_exchanges_heartbeats_with_a_majority_before_it_responds_to_a_read() -> None:
    bench = leading(5)
    seen = bench.step(ReadIndex(1))
    assert len(seen.messages) == 4
    for index, ready in ((1, []), (2, [(1, 1)])):
        assert bench.receive(bench.reply(index, 1, round_id=2)).reads_ready == ready


def test_t6_4_the_read_index_is_the_commit_index_of_when_the_request_came() -> None:
    bench = leading()
    bench.step(ReadIndex(1))
    bench.propose()
    bench.agree(1)
    assert bench.receive(bench.reply(1, 2, round_id=2)).reads_ready == [(1, 1)]


def test_t6_4_a_follower_asks_the_leader_for_a_read_index_and_answers_from_its_own_state() -> None:
    leader, follower = leading(), Bench(me=1)
    follower.receive(follower.append(0, 1, leader.disk.log, 0))
    request = follower.step(ReadIndex(5)).only()
    assert isinstance(request, ReadIndexRequest)
    leader.receive(request)
    (reply,) = [m for m in leader.receive(leader.reply(2, 1, round_id=2)).to(1) if isinstance(m, ReadIndexReply)]
    # Its own state may be behind: the driver waits until it has applied that height.
    assert follower.receive(reply).reads_ready == [(5, 1)]
    assert follower.replica.status.commit_height == 0


def test_t6_4_1_a_lease_lasts_from_when_the_round_was_sent_and_ends_before_the_election_timeout() -> None:
    # "assumes a bound on clock drift"; an option here, which every doubt about clocks refuses (test_consensus_lease.py).
    bench = leading(lease_reads=True)
    (round_id,) = {m.round_id for _, m in bench.tick(2).messages if isinstance(m, Append)}
    bench.receive(bench.reply(1, 1, round_id=round_id, promise_ms=400))
    held = 0
    while bench.step(ReadIndex(held, bench.now_ms)).reads_ready:
        bench.tick()
        held += 1
    assert 0 < held < 10


# t3.10 Leadership transfer extension


def test_t3_10_the_prior_leader_stops_accepting_new_client_requests() -> None:
    bench = leading()
    bench.step(TransferLeadership(bench.ids[1]))
    with pytest.raises(ProposalRefusedError) as caught:
        bench.propose()
    assert caught.value.code == "consensus.transferring"


def test_t3_10_the_prior_leader_fully_updates_the_targets_log_and_then_sends_timeout_now() -> None:
    bench = leading()
    bench.propose()
    bench.agree(2)
    assert not any(isinstance(m, TimeoutNow) for m in bench.step(TransferLeadership(bench.ids[1])).to(1))
    assert any(isinstance(m, TimeoutNow) for m in bench.agree(1).to(1))


def test_t3_10_the_target_starts_a_new_election_at_once() -> None:
    # "has the same effect as the target server's election timer firing"; without the poll, which those who hear the leader would refuse.
    bench = Bench()
    bench.receive(bench.append(1, 1, make_chain([1]), 0))
    seen = bench.receive(TimeoutNow(1, bench.ids[1]))
    assert (bench.role, bench.term) == (Role.CANDIDATE, 2)
    requests = [m for _, m in seen.messages if isinstance(m, RequestVote)]
    assert len(requests) == 2
    assert all(request.transfer for request in requests)


def test_t3_10_after_about_an_election_timeout_the_prior_leader_aborts_and_resumes() -> None:
    bench = leading()
    bench.step(TransferLeadership(bench.ids[1]))
    for _ in range(10):
        bench.agree(1, 2)
        bench.tick()
    assert bench.replica.status.transfer_to is None
    assert bench.propose().messages != []


# t4 Cluster membership changes


def test_t4_1_a_leader_needs_a_commit_of_its_term_before_it_changes_the_configuration() -> None:
    # The correction of 2015, which the dissertation as printed does not have.
    bench = Bench(3, log=make_chain([1]))
    bench.become_leader()
    with pytest.raises(ProposalRefusedError) as caught:
        bench.change("012", "01")
    assert caught.value.code == "consensus.configuration_busy"


def test_t4_1_servers_take_requests_of_leaders_and_candidates_that_their_configuration_does_not_name() -> None:
    # "a server accepts AppendEntries requests from a leader that is not part of its latest configuration", and grants votes; but only
    # while it hears no leader of its own.
    bench = Bench(4, members=3)
    log = make_chain([1])
    reply = bench.receive(bench.append(3, 1, log, 0)).only()
    assert isinstance(reply, AppendReply)
    assert reply.ok
    other = Bench(4, members=3)
    vote = other.receive(other.request_vote(3, 1, [])).only()
    assert isinstance(vote, Vote)
    assert vote.granted


def test_t4_2_1_a_leader_aborts_a_change_whose_new_server_has_not_caught_up() -> None:
    bench = Bench(3, configuration=("01", None, "2"), uncommitted_blocks_max=4)
    bench.become_leader()
    for _ in range(6):
        bench.agree(1)
        bench.propose()
    bench.agree(1)
    with pytest.raises(ProposalRefusedError) as caught:
        bench.change("01", "12")
    assert caught.value.code == "consensus.configuration_unready"


def test_t4_2_3_servers_outside_the_configuration_do_not_disrupt_it() -> None:
    bench = leading(4, members=3)
    for message in (
        bench.request_vote(3, 9, make_chain([8])),
        bench.request_vote(3, 9, make_chain([8]), transfer=True),
        bench.pre_vote(3, 9, make_chain([8])),
    ):
        bench.receive(message)
        assert (bench.role, bench.term) == (Role.LEADER, 1)


# Figure 2 and chapter 3, as far as it is in no other test


def test_figure_2_commit_index_is_the_lesser_of_the_leaders_and_the_last_new_entry() -> None:
    bench = Bench(log=make_chain([1, 1, 1]))
    log = bench.disk.log
    certificate = bench.certify(log[2])
    bench.receive(bench.append(1, 1, log, 0, upto=2, commit_height=3, certificate=certificate))
    assert bench.replica.status.commit_height == 0  # it proves 3, which this append has not verified
    bench.receive(bench.append(1, 1, log, 2, commit_height=3))
    assert bench.replica.status.commit_height == 3


def test_figure_2_an_entry_that_conflicts_is_deleted_with_all_that_follow_it() -> None:
    own = make_chain([1, 1, 1, 1])
    bench = Bench(log=own)
    theirs = fork(own, 1, [2])
    bench.receive(bench.append(1, 2, theirs, 1), write=False)
    ((persist, _),) = bench.pending
    assert (persist.truncate_from, persist.entries) == (2, (theirs[1],))
    bench.write()
    assert bench.disk.log == theirs


def test_figure_2_match_index_begins_at_zero_and_only_rises() -> None:
    bench = Bench(log=make_chain([1, 1]))
    bench.become_leader()
    assert set(bench.replica.status.match.values()) == {0}
    for told, expected in ((3, 3), (2, 3), (0, 3)):
        bench.receive(bench.reply(1, told))
        assert bench.replica.status.match[bench.ids[1]] == expected


def test_5_2_a_leader_of_a_former_term_does_not_restart_the_election_timer() -> None:
    bench = Bench(term=5)
    bench.tick(9)
    bench.receive(bench.append(1, 4, [], 0))
    bench.tick()
    assert bench.role is Role.PRECANDIDATE


def test_5_3_a_leader_creates_at_most_one_entry_with_a_given_index_in_a_term() -> None:
    bench = Bench()
    bench.become_leader()
    first = bench.disk.log[0]
    again = make_entry(bench.term, 1, SimDisk().last_hash, b"another one")
    with pytest.raises(ProposalRefusedError) as caught:
        bench.step(Propose(again))
    assert caught.value.code == "consensus.stale_proposal"
    assert bench.disk.log == [first]


def test_5_4_3_a_leader_has_every_entry_that_was_committed_before_its_term() -> None:
    cluster = Cluster(5, seed=543)
    for index in (0, 3, 1, 4):
        for node in cluster.nodes:
            if node.alive:
                node.crash()
            node.start()
        leader = cluster.elect(index)  # `Cluster.note_elected` compares it with all that is committed
        cluster.propose(leader)
        cluster.settle()
    assert len(cluster.committed) == 4


def test_5_6_heartbeats_are_more_frequent_than_election_timeouts() -> None:
    key = sim_keys(1)[0]
    for heartbeat, election in ((10, 10), (11, 10), (0, 10)):
        with pytest.raises(AssertionError):
            Config("c", key.public_key.key_id, key, heartbeat_ticks=heartbeat, election_ticks=election)


def test_t3_8_term_and_vote_and_log_survive_a_restart_and_the_commit_index_may_be_found_anew() -> None:
    log = make_chain([1, 1, 2])
    bench = Bench(log=log, term=3, voted_for=1)
    status = bench.replica.status
    assert (status.term, bench.voted_for, bench.last) == (3, 1, (2, 3, log[2].block_hash))
    assert status.commit_height == 0
    seen = bench.receive(bench.append(2, 3, log, 3, commit_height=3, certificate=bench.certify(log[2])))
    assert seen.apply == log


def test_t6_2_a_leader_steps_down_if_an_election_timeout_elapses_without_a_round_to_a_majority() -> None:
    bench = leading(5)
    bench.receive(bench.reply(1, 1))
    assert bench.tick(10).stepped_down is False  # both 2 to 4 answered in the period before
    bench.receive(bench.reply(1, 1))
    assert bench.tick(10).stepped_down is True


def test_t10_2_1_the_leader_writes_to_its_own_disk_while_it_sends() -> None:
    bench = leading()
    seen = bench.propose(write=False)
    assert {index for index, m in seen.messages if isinstance(m, Append) and m.entries} == {1, 2}
    assert [type(persist) for persist, _ in bench.pending] == [Persist]
