"""Raft as its paper says it: one test per sentence of section 5 that rules an implementation, with the section.

Ongaro, Ousterhout: In Search of an Understandable Consensus Algorithm (extended version). Where this replica does more than the paper
(PreVote, signed votes, certificates), the test says so. Index is height, log entry is block.
"""

from __future__ import annotations

import pytest

from consensus.config import Role
from consensus.effects import HardState, Propose, Received, Tick
from consensus.errors import ProposalRefusedError
from consensus.messages import Append, AppendReply, PreVote, PreVoteReply, RequestVote, Vote
from tests.testkit.raft_bench import Bench, fork
from tests.testkit.raft_sim import Cluster, make_chain, make_entry

# 5.1 Raft basics


def test_5_1_followers_are_passive_and_issue_no_requests() -> None:
    bench = Bench()
    assert bench.role is Role.FOLLOWER
    assert bench.tick(bench.replica.status.term + 9).messages == []


def test_5_1_the_leader_handles_all_requests_and_a_follower_redirects() -> None:
    bench = Bench()
    log = make_chain([1])
    bench.receive(bench.append(1, 1, log, 0))
    with pytest.raises(ProposalRefusedError) as caught:
        bench.step(Propose(make_entry(1, 2, log[0].block_hash)))
    assert caught.value.code == "consensus.not_leader"
    assert bench.replica.status.leader == bench.ids[1]


def test_5_1_at_most_one_leader_in_a_given_term() -> None:
    cluster = Cluster(5, seed=1)
    for index in range(5):
        for node in cluster.nodes:
            node.crash()
            node.start()
        cluster.elect(index)
    assert len(cluster.leaders) == 5


def test_5_1_if_one_servers_current_term_is_smaller_it_updates_to_the_larger_value() -> None:
    bench = Bench(term=1)
    bench.receive(bench.append(1, 3, [], 0))
    assert bench.term == 3
    assert bench.disk.hard_state == HardState(3, None)


@pytest.mark.parametrize("role", [Role.CANDIDATE, Role.LEADER])
def test_5_1_a_candidate_or_leader_that_discovers_its_term_is_out_of_date_reverts_to_follower(role: Role) -> None:
    bench = Bench()
    bench.become_candidate() if role is Role.CANDIDATE else bench.become_leader()
    assert bench.role is role
    seen = bench.receive(bench.refusal(1, 0, 0, 0, term=bench.term + 1))
    assert bench.role is Role.FOLLOWER
    assert bench.term == 2
    assert seen.stepped_down is (role is Role.LEADER)


def test_5_1_a_request_with_a_stale_term_is_rejected() -> None:
    bench = Bench(term=5)
    log = make_chain([4])
    reply = bench.receive(bench.append(1, 4, log, 0)).only()
    assert isinstance(reply, AppendReply)
    assert (reply.ok, reply.term) == (False, 5)
    assert bench.disk.log == []
    vote = bench.receive(bench.request_vote(1, 4, log)).only()
    assert vote == Vote(5, False, bench.ids[0], None)


# 5.2 Leader election


def test_5_2_servers_begin_as_followers() -> None:
    assert Bench().role is Role.FOLLOWER
    assert Bench(log=make_chain([1, 2]), term=7, voted_for=0).role is Role.FOLLOWER


def test_5_2_a_server_remains_a_follower_as_long_as_it_receives_valid_rpcs_from_a_leader() -> None:
    bench = Bench()
    for _ in range(20):
        bench.tick(9)
        bench.receive(bench.append(1, 1, [], 0))
    assert bench.role is Role.FOLLOWER


def test_5_2_leaders_send_periodic_heartbeats_without_entries_to_all_followers() -> None:
    bench = Bench(5)
    bench.become_leader(first_block=False)
    for _ in range(3):
        seen = bench.tick(2)
        assert sorted(index for index, _ in seen.messages) == [1, 2, 3, 4]
        assert all(isinstance(m, Append) and m.entries == () and m.term == 1 for _, m in seen.messages)


def test_5_2_without_communication_over_the_election_timeout_an_election_begins() -> None:
    bench = Bench()
    assert bench.tick(9).messages == []
    assert bench.tick(1).messages  # the poll of 9.6 comes first
    assert bench.role is Role.PRECANDIDATE


def test_5_2_to_begin_an_election_a_follower_increments_its_current_term_and_votes_for_itself() -> None:
    bench = Bench(term=4)
    seen = bench.become_candidate()
    assert bench.role is Role.CANDIDATE
    assert bench.disk.hard_state == HardState(5, bench.ids[0])
    requests = [m for _, m in seen.messages if isinstance(m, RequestVote)]
    assert len(requests) == 2
    assert {m.term for m in requests} == {5}


@pytest.mark.parametrize(("size", "needed"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3), (8, 4), (9, 4)])
def test_5_2_a_candidate_wins_with_votes_from_a_majority(size: int, needed: int) -> None:
    bench = Bench(size)
    seen = bench.become_candidate()
    for index in range(1, needed + 1):
        assert bench.role is Role.CANDIDATE
        seen = bench.receive(bench.vote(index))
    assert bench.role is Role.LEADER
    assert seen.elected is not None
    assert len(seen.elected.signatures) == needed + 1


def test_5_2_each_server_votes_for_at_most_one_candidate_first_come_first_served() -> None:
    bench = Bench()
    first = bench.receive(bench.request_vote(1, 1, [])).only()
    second = bench.receive(bench.request_vote(2, 1, [])).only()
    assert isinstance(first, Vote)
    assert first.granted
    assert second == Vote(1, False, bench.ids[0], None)


def test_5_2_once_elected_a_leader_sends_heartbeats_to_all_others_to_prevent_new_elections() -> None:
    bench = Bench()
    bench.become_candidate()
    seen = bench.receive(bench.vote(1))
    assert [index for index, _ in seen.messages] == [1, 2]
    assert all(isinstance(m, Append) for _, m in seen.messages)


def test_5_2_a_candidate_recognises_a_leader_whose_term_is_at_least_as_large() -> None:
    for term in (1, 2):
        bench = Bench()
        bench.become_candidate()
        bench.receive(bench.append(2, term, [], 0))
        assert bench.role is Role.FOLLOWER
        assert bench.replica.status.leader == bench.ids[2]


def test_5_2_a_candidate_rejects_a_leader_with_a_smaller_term_and_stays_candidate() -> None:
    bench = Bench(term=3)
    bench.become_candidate()
    bench.receive(bench.append(2, 3, [], 0))
    assert bench.role is Role.CANDIDATE


def test_5_2_with_split_votes_each_candidate_times_out_and_starts_a_new_election_with_a_higher_term() -> None:
    bench = Bench(5)
    bench.become_candidate()
    bench.receive(bench.vote(1))
    bench.receive(bench.vote(2, granted=False))
    assert bench.role is Role.CANDIDATE
    bench.tick(20)
    assert bench.role is Role.PRECANDIDATE
    for index in (1, 2):
        bench.receive(PreVoteReply(2, True, bench.ids[index]))
    assert bench.role is Role.CANDIDATE
    assert bench.term == 2


def test_5_2_a_lost_election_makes_a_follower_that_waits_for_its_timeout() -> None:
    bench = Bench()
    bench.become_candidate()
    bench.receive(bench.vote(1, granted=False))
    bench.receive(bench.vote(2, granted=False))
    assert bench.role is Role.FOLLOWER
    assert bench.tick(9).messages == []
    assert bench.tick(1).messages


def test_5_2_election_timeouts_are_chosen_randomly_from_a_fixed_interval() -> None:
    timeouts = set()
    for draw in range(10):
        bench = Bench(entropy=lambda n, draw=draw: draw % n)
        ticks = 0
        while bench.role is Role.FOLLOWER:
            bench.step(Tick())
            ticks += 1
        timeouts.add(ticks)
    assert timeouts == set(range(10, 20))


def test_5_2_each_candidate_restarts_its_randomised_timeout_at_the_start_of_an_election() -> None:
    draws = iter([0, 5, 7, 0, 0])
    bench = Bench(entropy=lambda n: next(draws))
    bench.tick(10)
    assert bench.role is Role.PRECANDIDATE
    bench.receive(PreVoteReply(1, True, bench.ids[1]))
    assert bench.role is Role.CANDIDATE
    bench.tick(16)
    assert bench.role is Role.CANDIDATE
    bench.tick(1)
    assert bench.role is Role.PRECANDIDATE


# 5.3 Log replication


def test_5_3_the_leader_appends_the_command_and_issues_append_entries_in_parallel_to_each_server() -> None:
    bench = Bench()
    bench.become_leader(first_block=False)
    for index in (1, 2):
        bench.receive(bench.reply(index, 0))
    seen = bench.propose(write=False)
    appends = [m for _, m in seen.messages if isinstance(m, Append)]
    assert [index for index, _ in seen.messages] == [1, 2]
    assert all([e.height for e in m.entries] == [1] for m in appends)


def test_5_3_the_leader_applies_an_entry_when_it_is_safely_replicated_and_not_before() -> None:
    bench = Bench()
    bench.become_leader()
    entry = bench.disk.log[0]
    assert bench.replica.status.commit_height == 0
    seen = bench.receive(bench.reply(1, 1, signed=[entry]))
    assert seen.apply == [entry]
    assert bench.replica.status.commit_height == 1


def test_5_3_if_followers_crash_or_run_slowly_the_leader_retries_indefinitely() -> None:
    bench = Bench()
    bench.become_leader()
    for _ in range(50):
        bench.receive(bench.reply(1, 1))  # one follower keeps the leader in office
        seen = bench.tick(2)
        assert any(isinstance(m, Append) and m.prev_height <= 1 for m in seen.to(2))
    seen = bench.receive(bench.reply(2, 0))
    assert [m.entries[0].height for m in seen.to(2) if isinstance(m, Append) and m.entries] == [1]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_5_3_an_entry_is_committed_once_it_is_replicated_on_a_majority(size: int) -> None:
    bench = Bench(size)
    seen = bench.become_leader()
    for index in range(1, size // 2 + 1):
        assert bench.replica.status.commit_height == 0
        seen = bench.receive(bench.reply(index, 1, signed=bench.disk.log))
    assert bench.replica.status.commit_height == 1
    if size > 1:
        assert seen.certificate is not None
        assert len(seen.certificate.signatures) == size // 2 + 1


def test_5_3_committing_an_entry_commits_all_preceding_entries_also_of_previous_leaders() -> None:
    log = make_chain([1, 2, 2])
    bench = Bench(log=log, term=3)
    bench.become_leader()
    seen = bench.receive(bench.reply(1, 4, signed=[bench.disk.log[3]]))
    assert [e.height for e in seen.apply] == [1, 2, 3, 4]
    assert seen.certificate is not None
    assert seen.certificate.height == 4


def test_5_3_the_leader_includes_the_highest_committed_index_in_future_append_entries() -> None:
    bench = Bench()
    bench.become_leader()
    bench.receive(bench.reply(1, 1, signed=bench.disk.log))
    seen = bench.tick(2)
    assert {m.commit_height for _, m in seen.messages if isinstance(m, Append)} == {1}


def test_5_3_once_a_follower_learns_that_an_entry_is_committed_it_applies_it_in_log_order() -> None:
    bench = Bench()
    log = make_chain([1, 1, 1])
    assert bench.receive(bench.append(1, 1, log, 0)).apply == []
    seen = bench.receive(bench.append(1, 1, log, 3, commit_height=2, certificate=bench.certify(log[1])))
    assert seen.apply == log[:2]
    seen = bench.receive(bench.append(1, 1, log, 3, commit_height=3, certificate=bench.certify(log[2])))
    assert seen.apply == log[2:]


def test_5_3_append_entries_names_the_entry_that_immediately_precedes_the_new_ones() -> None:
    log = make_chain([1, 2])
    bench = Bench(log=log, term=2)
    bench.become_leader(first_block=False)
    seen = bench.receive(bench.reply(1, 2))
    seen = bench.propose()
    append = next(m for m in seen.to(1) if isinstance(m, Append))
    assert (append.prev_term, append.prev_height, append.prev_hash) == (2, 2, log[1].block_hash)


@pytest.mark.parametrize(
    ("terms", "prev"),
    [
        pytest.param([1, 1], 3, id="too short"),
        pytest.param([1, 1, 2], 3, id="another term there"),
    ],
)
def test_5_3_a_follower_that_does_not_find_the_preceding_entry_refuses_the_new_ones(
    terms: list[int], prev: int
) -> None:
    own = make_chain(terms)
    bench = Bench(log=own, term=2)
    leader_log = make_chain([1, 1, 3, 3])
    reply = bench.receive(bench.append(1, 3, leader_log, prev)).only()
    assert isinstance(reply, AppendReply)
    assert not reply.ok
    assert bench.disk.log == own


def test_5_3_followers_append_entries_that_they_do_not_have() -> None:
    log = make_chain([1, 1, 2, 3])
    bench = Bench(log=log[:2])
    reply = bench.receive(bench.append(1, 3, log, 2)).only()
    assert bench.disk.log == log
    assert isinstance(reply, AppendReply)
    assert (reply.ok, reply.match_height) == (True, 4)


# Figure 7: a leader with log 1 1 1 4 4 5 5 6 6 6 in term 8, against what its followers may have.
FIGURE_7 = [
    pytest.param([1, 1, 1, 4, 4, 5, 5, 6, 6], id="a"),
    pytest.param([1, 1, 1, 4], id="b"),
    pytest.param([1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6], id="c"),
    pytest.param([1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7], id="d"),
    pytest.param([1, 1, 1, 4, 4, 4, 4], id="e"),
    pytest.param([1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3], id="f"),
]


@pytest.mark.parametrize("terms", FIGURE_7)
def test_5_3_the_leader_forces_the_followers_logs_to_duplicate_its_own(terms: list[int]) -> None:
    leader_terms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    cluster = Cluster(3, seed=7)
    leader_log = make_chain(leader_terms)
    agree = next((i for i, (a, b) in enumerate(zip(terms, leader_terms, strict=False)) if a != b), min(len(terms), 10))
    cluster.nodes[0].disk.log = list(leader_log)
    cluster.nodes[1].disk.log = fork(leader_log, agree, terms[agree:])
    cluster.nodes[2].disk.log = list(leader_log)
    for node in cluster.nodes:
        node.disk.hard_state = HardState(7, None)
        node.start()
    leader = cluster.elect(0)
    cluster.propose(leader)
    cluster.run_ticks(6)
    assert cluster.nodes[1].disk.log == leader.disk.log
    assert len(leader.disk.log) == 11
    assert cluster.nodes[1].disk.commit_height == 11


def test_5_3_the_leader_begins_with_next_index_just_after_its_last() -> None:
    log = make_chain([1, 1, 1])
    bench = Bench(log=log)
    bench.become_candidate()
    seen = bench.receive(bench.vote(1))
    assert all(isinstance(m, Append) and m.prev_height == 3 for _, m in seen.messages)


def test_5_3_after_a_rejection_the_leader_decrements_next_index_and_retries_until_the_logs_match() -> None:
    log = make_chain([1, 1, 1, 1])
    bench = Bench(log=log)
    bench.become_leader(first_block=False)
    seen = bench.receive(bench.refusal(1, 4, 2, 1))
    (append,) = seen.to(1)
    assert isinstance(append, Append)
    assert append.prev_height == 2
    assert [e.height for e in append.entries] == [3, 4]
    assert bench.receive(bench.reply(1, 4)).to(1) == []
    assert bench.replica.status.match[bench.ids[1]] == 4


def test_5_3_a_rejection_may_name_the_conflicting_term_so_that_one_round_trip_skips_it() -> None:
    own = make_chain([1] + [2] * 50)
    bench = Bench(log=own, term=2)
    leader_log = fork(own, 1, [3] * 50)
    reply = bench.receive(bench.append(1, 3, leader_log, 50)).only()
    assert isinstance(reply, AppendReply)
    # All of term 2 may agree for what the follower knows; the leader, who has no block of term 2, skips all of it.
    assert (reply.hint_height, reply.hint_term) == (49, 2)
    leader = Bench(log=leader_log[:50], term=3)
    leader.become_leader(first_block=False)
    (append,) = leader.receive(leader.refusal(1, 50, reply.hint_height, reply.hint_term)).to(1)
    assert isinstance(append, Append)
    assert append.prev_height == 1


def test_5_3_a_leader_never_overwrites_or_deletes_entries_in_its_own_log() -> None:
    log = make_chain([1, 1])
    bench = Bench(log=log)
    bench.become_leader()
    before = list(bench.disk.log)
    for message in (
        bench.refusal(1, 3, 0, 0),
        bench.refusal(1, 2, 0, 0),
        bench.reply(2, 0),
        bench.request_vote(1, 9, make_chain([8, 8, 8, 8])),
        bench.append(2, bench.term, make_chain([1, 1, 1, 1]), 0),
        bench.append(2, bench.term - 1, make_chain([1, 1, 1, 1]), 0),
    ):
        bench.receive(message)
        assert bench.disk.log == before
        assert bench.role is Role.LEADER


# 5.4 Safety


@pytest.mark.parametrize(
    ("own", "candidate", "granted"),
    [
        pytest.param([1], [1], True, id="equal"),
        pytest.param([1], [1, 1], True, id="longer in the same term"),
        pytest.param([1, 1], [1], False, id="shorter in the same term"),
        pytest.param([1, 1, 1], [1, 2], True, id="later term though shorter"),
        pytest.param([1, 2], [1, 1, 1], False, id="earlier term though longer"),
        pytest.param([], [], True, id="both empty"),
        pytest.param([1], [], False, id="empty candidate"),
    ],
)
def test_5_4_1_a_voter_denies_its_vote_if_its_own_log_is_more_up_to_date(
    own: list[int], candidate: list[int], granted: bool
) -> None:
    own_log = make_chain(own)
    common = next(
        (i for i, (a, b) in enumerate(zip(own, candidate, strict=False)) if a != b), min(len(own), len(candidate))
    )
    candidate_log = fork(own_log, common, candidate[common:])
    bench = Bench(log=own_log, term=2)
    vote = bench.receive(bench.request_vote(1, 3, candidate_log)).only()
    assert isinstance(vote, Vote)
    assert vote.granted is granted
    poll = Bench(log=own_log, term=2)
    answer = poll.receive(poll.pre_vote(1, 3, candidate_log)).only()
    assert answer == PreVoteReply(3 if granted else 2, granted, poll.ids[0])


def test_5_4_1_the_request_includes_information_about_the_candidates_log() -> None:
    log = make_chain([1, 1, 2])
    bench = Bench(log=log)
    seen = bench.become_candidate()
    for kind in (PreVote, RequestVote):
        sent = [m for _, m in seen.messages if isinstance(m, kind)]
        assert len(sent) == 2
        assert all((m.last_term, m.last_height, m.last_hash) == (2, 3, log[2].block_hash) for m in sent)


def test_5_4_2_entries_from_previous_terms_are_never_committed_by_counting_replicas() -> None:
    log = make_chain([1, 2])
    bench = Bench(5, log=log, term=3)
    bench.become_leader(first_block=False)
    for index in (1, 2, 3, 4):
        bench.receive(bench.reply(index, 2))
        # Not even when followers sign them: such a signature is for another term than the block's.
        bench.receive(bench.reply(index, 2, signed=log))
    assert bench.replica.status.commit_height == 0
    bench.propose()
    for index in (1, 2):
        bench.receive(bench.reply(index, 3, signed=[bench.disk.log[2]]))
    assert bench.replica.status.commit_height == 3


# 5.5 Follower and candidate crashes


def test_5_5_requests_are_idempotent() -> None:
    bench = Bench()
    log = make_chain([1, 1])
    append = bench.append(1, 1, log, 0)
    first = bench.receive(append).only()
    second = bench.receive(append).only()
    assert first == second
    assert bench.disk.log == log
    assert bench.pending == []


def test_5_5_a_follower_that_crashed_gets_the_same_request_again_after_its_restart() -> None:
    bench = Bench()
    log = make_chain([1, 1])
    append = bench.append(1, 1, log, 0)
    bench.receive(append, write=False)
    bench.restart()
    assert bench.disk.log == []
    reply = bench.receive(append).only()
    assert isinstance(reply, AppendReply)
    assert reply.match_height == 2


# 5.6 Timing and availability


def test_5_6_a_leader_that_hears_no_majority_for_an_election_timeout_steps_down() -> None:
    bench = Bench(5)
    bench.become_leader()
    for _ in range(3):
        bench.receive(bench.reply(1, 1))
        bench.receive(bench.reply(2, 1))
        assert not bench.tick(10).stepped_down
    bench.receive(bench.reply(1, 1))
    assert bench.tick(10).stepped_down
    assert bench.role is Role.FOLLOWER
    assert bench.replica.status.leader is None


# Figure 2, rules for servers, as far as not above


def test_figure_2_current_term_and_vote_are_persisted_before_responding() -> None:
    bench = Bench()
    seen = bench.receive(bench.request_vote(1, 1, []), write=False)
    assert seen.messages == []
    ((persist, after),) = bench.pending
    assert persist.hard_state == HardState(1, bench.ids[1])
    assert [index for index, _ in after] == [1]


def test_figure_2_log_entries_are_persisted_before_responding() -> None:
    bench = Bench()
    seen = bench.receive(bench.append(1, 1, make_chain([1]), 0), write=False)
    assert seen.messages == []
    assert bench.write().only() == AppendReply(
        term=1,
        follower=bench.ids[0],
        ok=True,
        match_height=1,
        received_height=1,
        reject_height=0,
        hint_term=0,
        hint_height=0,
        commit_height=0,
        round_id=1,
        acknowledgements=(bench.acknowledgement(0, bench.disk.log[0]),),
    )


def test_figure_2_granting_a_vote_restarts_the_election_timer() -> None:
    bench = Bench()
    bench.tick(9)
    bench.receive(bench.request_vote(1, 1, []))
    bench.tick(9)
    assert bench.role is Role.FOLLOWER


def test_figure_2_denying_a_vote_does_not_restart_the_election_timer() -> None:
    bench = Bench(log=make_chain([1]))
    bench.tick(9)
    bench.receive(bench.request_vote(1, 2, []))
    bench.tick(1)
    assert bench.role is Role.PRECANDIDATE


# Section 6, last problem, and 9.6 of the dissertation


def test_6_servers_disregard_request_vote_when_they_believe_a_current_leader_exists() -> None:
    bench = Bench()
    bench.receive(bench.append(1, 1, [], 0))
    bench.tick(9)
    assert bench.receive(bench.request_vote(2, 5, make_chain([4]))).messages == []
    assert bench.term == 1
    bench.tick(1)
    assert bench.role is Role.PRECANDIDATE


def test_6_a_transfer_of_leadership_is_the_exception() -> None:
    bench = Bench()
    bench.receive(bench.append(1, 1, [], 0))
    vote = bench.step(Received(bench.request_vote(2, 2, [], transfer=True), bench.ids[2])).only()
    assert isinstance(vote, Vote)
    assert vote.granted


def test_9_6_a_candidate_only_increments_its_term_if_a_majority_would_vote_for_it() -> None:
    bench = Bench(term=3)
    for _ in range(10):
        bench.tick(25)
        bench.receive(PreVoteReply(3, False, bench.ids[1]))
    assert bench.term == 3
    assert bench.disk.hard_state == HardState(3, None)
