"""A replica among others: what it refuses, what it holds back, what it reports, one fact per test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from consensus.config import Role
from consensus.effects import (
    NO_EFFECTS,
    EntriesRefused,
    HardState,
    PeerReachable,
    PeerUnreachable,
    Persist,
    Propose,
    Received,
    Tick,
)
from consensus.errors import ProposalRefusedError
from consensus.limits import REFUSED_BLOCKS_MAX, REFUSED_TIMEOUTS, STAND_BACK_TIMEOUTS, TERM_STEP_MAX
from consensus.messages import Append, AppendReply, Entry, PreVote, PreVoteReply, SnapshotOffer, Vote
from consensus.progress import ProgressState
from tests.testkit.raft_bench import Bench, Seen, fork
from tests.testkit.raft_sim import GENESIS, Cluster, make_chain, make_entry
from wire.hashing import sha256


def appends(seen: Seen, index: int) -> list[Append]:
    return [message for message in seen.to(index) if isinstance(message, Append)]


def reply_of(seen: Seen) -> AppendReply:
    message = seen.only()
    assert isinstance(message, AppendReply)
    return message


# Signatures


def test_a_vote_with_a_wrong_signature_does_not_count_and_a_right_one_still_does() -> None:
    bench = Bench()
    bench.become_candidate()
    vote = bench.vote(1)
    assert vote.signature is not None
    seen = bench.receive(replace(vote, signature=bytes(64)))
    assert seen.alarm_codes == ["consensus.vote_signature"]
    assert bench.role is Role.CANDIDATE
    assert bench.receive(vote).elected is not None


def test_a_vote_is_counted_once() -> None:
    bench = Bench(5)
    bench.become_candidate()
    for _ in range(3):
        bench.receive(bench.vote(1))
    bench.receive(bench.vote(1, granted=False))
    assert bench.role is Role.CANDIDATE
    assert bench.receive(bench.vote(2)).elected is not None


def test_the_election_certificate_names_what_the_votes_were_signed_over() -> None:
    log = make_chain([1, 3])
    bench = Bench(log=log, term=5)
    bench.become_candidate()
    certificate = bench.receive(bench.vote(2)).elected
    assert certificate is not None
    assert (certificate.term, certificate.candidate) == (6, bench.ids[0])
    assert (certificate.last_term, certificate.last_height, certificate.last_hash) == (3, 2, log[1].block_hash)
    assert [signer for signer, _ in certificate.signatures] == [bench.ids[0], bench.ids[2]]


def test_votes_of_an_earlier_term_do_not_count() -> None:
    bench = Bench(term=3)
    bench.become_candidate()
    bench.receive(bench.vote(1, term=3))
    assert bench.role is Role.CANDIDATE


def test_an_acknowledgement_with_a_wrong_signature_does_not_count_and_another_completes_the_majority() -> None:
    bench = Bench(5)
    bench.become_leader()
    (entry,) = bench.disk.log
    bad = replace(bench.acknowledgement(1, entry), signature=bytes(64))
    assert bench.receive(replace(bench.reply(1, 1), acknowledgements=(bad,))).alarms == []  # not yet worth verifying
    seen = bench.receive(bench.reply(2, 1, signed=[entry]))
    assert seen.alarm_codes == ["consensus.acknowledgement"]
    assert bench.replica.status.commit_height == 0
    seen = bench.receive(bench.reply(3, 1, signed=[entry]))
    assert seen.certificate is not None
    assert [signer for signer, _ in seen.certificate.signatures] == [bench.ids[i] for i in (0, 2, 3)]
    # And who sent the bad one may still send a good one, which is no longer needed.
    assert bench.receive(bench.reply(1, 1, signed=[entry])).alarms == []


def test_an_acknowledgement_of_another_block_raises_an_alarm_and_counts_nothing() -> None:
    bench = Bench()
    bench.become_leader()
    other = make_entry(1, 1, GENESIS, b"other")
    seen = bench.receive(bench.reply(1, 1, signed=[other]))
    assert seen.alarm_codes == ["consensus.acknowledgement"]
    assert bench.replica.status.commit_height == 0


def test_acknowledgements_at_different_heights_make_no_certificate() -> None:
    bench = Bench(5)
    bench.become_leader()
    bench.propose()
    one, two = bench.disk.log
    bench.receive(bench.reply(1, 1, signed=[one]))
    bench.receive(bench.reply(2, 2, signed=[two]))
    assert bench.replica.status.commit_height == 0
    seen = bench.receive(bench.reply(3, 2, signed=[one, two]))
    assert bench.replica.status.commit_height == 2
    assert seen.certificate is not None
    assert seen.certificate.height == 2


def test_the_highest_height_with_a_majority_is_certified_and_lower_ones_come_with_it() -> None:
    bench = Bench()
    bench.become_leader()
    for _ in range(4):
        bench.propose()
    seen = bench.receive(bench.reply(1, 4, signed=bench.disk.log[:4]))
    assert [entry.height for entry in seen.apply] == [1, 2, 3, 4]
    assert seen.certificate is not None
    assert seen.certificate.height == 4


def test_acknowledgements_that_arrive_before_the_leaders_own_disk_count_when_it_is_done() -> None:
    bench = Bench(5)
    bench.become_leader(first_block=False)
    for _ in range(3):
        bench.propose(write=False)
    entries = [persist.entries[0] for persist, _ in bench.pending]
    for index in (1, 2):
        bench.receive(bench.reply(index, 3, signed=entries), write=False)
    assert bench.replica.status.commit_height == 0
    assert [entry.height for entry in bench.write(2).apply] == [1, 2]
    assert [entry.height for entry in bench.write().apply] == [3]


def test_a_follower_signs_every_block_of_the_current_term_that_is_new_on_its_disk() -> None:
    bench = Bench()
    log = make_chain([1, 1, 2, 2, 2])
    reply = reply_of(bench.receive(bench.append(1, 2, log, 0)))
    assert reply.acknowledgements == tuple(bench.acknowledgement(0, entry) for entry in log[2:])
    log = fork(log, 5, [2])
    reply = reply_of(bench.receive(bench.append(1, 2, log, 5)))
    assert reply.acknowledgements == (bench.acknowledgement(0, log[5]),)


def test_a_heartbeat_is_answered_with_every_signature_that_is_still_of_use() -> None:
    bench = Bench()
    log = make_chain([1, 1, 1])
    bench.receive(bench.append(1, 1, log, 0))
    reply = reply_of(bench.receive(bench.append(1, 1, log, 3)))
    assert [a.height for a in reply.acknowledgements] == [1, 2, 3]
    # What the leader says is committed needs no signature any more, even before the proof of it came.
    reply = reply_of(bench.receive(bench.append(1, 1, log, 3, commit_height=2)))
    assert [a.height for a in reply.acknowledgements] == [3]
    reply = reply_of(bench.receive(bench.append(1, 1, log, 3, commit_height=3, certificate=bench.certify(log[2]))))
    assert reply.acknowledgements == ()
    assert reply.commit_height == 3


# Certificates at a follower


def test_a_certificate_for_another_block_than_the_leader_sent_commits_nothing() -> None:
    bench = Bench()
    log = make_chain([1])
    other = make_entry(1, 1, GENESIS, b"other")
    seen = bench.receive(bench.append(1, 1, log, 0, commit_height=1, certificate=bench.certify(other)))
    assert seen.alarm_codes == ["consensus.certificate"]
    assert bench.replica.status.commit_height == 0


def test_a_certificate_without_a_majority_commits_nothing() -> None:
    bench = Bench(5)
    log = make_chain([1])
    seen = bench.receive(bench.append(1, 1, log, 0, commit_height=1, certificate=bench.certify(log[0], [1, 2])))
    assert seen.alarm_codes == ["consensus.certificate"]
    assert seen.apply == []


def test_a_malformed_certificate_raises_an_alarm_and_the_blocks_are_taken_all_the_same() -> None:
    bench = Bench()
    log = make_chain([1])
    message = replace(bench.append(1, 1, log, 0, commit_height=1), commit_certificate=b"\x90")
    seen = bench.receive(message)
    assert seen.alarm_codes == ["consensus.certificate"]
    assert bench.disk.log == log
    assert seen.apply == []


def test_a_certificate_above_the_leaders_commit_height_is_left_aside() -> None:
    bench = Bench()
    log = make_chain([1, 1])
    seen = bench.receive(bench.append(1, 1, log, 0, commit_height=1, certificate=bench.certify(log[1])))
    assert seen.apply == []


def test_a_lower_certificate_still_commits_when_a_higher_one_does_not_hold() -> None:
    bench = Bench()
    log = make_chain([1, 1])
    bench.receive(bench.append(1, 1, log, 0, upto=1, commit_height=1, certificate=bench.certify(log[0])), write=False)
    bad = replace(bench.certify(log[1]), signatures=bench.certify(log[0]).signatures)
    bench.receive(bench.append(1, 1, log, 1, commit_height=2, certificate=bad), write=False)
    seen = bench.write(1)
    assert seen.apply == log[:1]
    seen = bench.write()
    assert seen.alarm_codes == ["consensus.certificate"]
    assert bench.replica.status.commit_height == 1


def test_two_certificates_that_become_usable_together_commit_once() -> None:
    bench = Bench()
    log = make_chain([1, 1])
    bench.receive(bench.append(1, 1, log, 0, commit_height=1, certificate=bench.certify(log[0])), write=False)
    bench.receive(bench.append(1, 1, log, 2, commit_height=2, certificate=bench.certify(log[1])), write=False)
    seen = bench.write()
    assert seen.apply == log
    assert seen.certificate == bench.certify(log[1])


def test_a_valid_certificate_against_what_is_committed_here_is_a_fork() -> None:
    log = make_chain([1, 1])
    bench = Bench(log=log, commit_height=1)
    other = bench.certify(make_entry(1, 1, GENESIS, b"other"))
    seen = bench.receive(bench.append(1, 1, log, 2, commit_height=1, certificate=other))
    assert seen.alarm_codes == ["consensus.fork"]
    same = bench.receive(bench.append(1, 1, log, 2, commit_height=1, certificate=bench.certify(log[0])))
    assert same.alarms == []


# Equivocation


def test_a_leader_that_replaces_its_own_block_is_not_followed() -> None:
    bench = Bench()
    log = make_chain([1, 1])
    bench.receive(bench.append(1, 1, log, 0))
    other = fork(log, 1, [1, 1])
    seen = bench.receive(bench.append(1, 1, other, 1))
    assert seen.alarm_codes == ["consensus.equivocation", "consensus.equivocation"]
    assert seen.messages == []
    assert bench.disk.log == log


def test_a_leader_that_replaces_older_blocks_below_its_own_is_not_followed() -> None:
    base = make_chain([1, 1])
    bench = Bench(log=base)
    mine = fork(base, 2, [3])
    bench.receive(bench.append(1, 3, mine, 2))
    other = fork(base, 1, [2, 3, 3])
    seen = bench.receive(bench.append(1, 3, other, 1))
    assert seen.alarm_codes == ["consensus.equivocation"]
    assert bench.disk.log == mine


def test_a_preceding_block_of_the_same_term_with_another_hash_raises_an_alarm() -> None:
    bench = Bench(log=make_chain([1, 1]))
    seen = bench.receive(bench.append(1, 2, fork(make_chain([1]), 0, [1, 1, 2]), 2))
    assert seen.alarm_codes == ["consensus.equivocation"]
    assert not reply_of(seen).ok


def test_two_leaders_of_one_term_raise_an_alarm_and_the_first_one_is_followed() -> None:
    bench = Bench()
    bench.receive(bench.append(1, 1, [], 0))
    seen = bench.receive(bench.append(2, 1, make_chain([1]), 0))
    assert seen.alarm_codes == ["consensus.two_leaders"]
    assert bench.disk.log == []
    leader = Bench()
    leader.become_leader()
    assert leader.receive(leader.append(1, 1, [], 0)).alarm_codes == ["consensus.two_leaders"]
    assert leader.role is Role.LEADER


def test_a_candidate_with_another_block_at_the_same_position_gets_no_vote() -> None:
    bench = Bench(log=make_chain([1, 1]), commit_height=1)
    seen = bench.receive(bench.request_vote(1, 2, fork(make_chain([1]), 1, [1])))
    assert seen.alarm_codes == ["consensus.equivocation"]
    assert seen.only() == Vote(2, False, bench.ids[0], None)


def test_a_candidate_without_what_is_committed_here_gets_no_vote() -> None:
    bench = Bench(log=make_chain([1, 1, 1]), commit_height=2)
    seen = bench.receive(bench.request_vote(1, 5, fork(make_chain([1]), 0, [4])))
    assert seen.alarm_codes == ["consensus.fork"]
    assert seen.only() == Vote(5, False, bench.ids[0], None)
    seen = bench.receive(bench.request_vote(1, 6, fork(make_chain([1]), 0, [4, 4])))
    assert seen.alarm_codes == ["consensus.equivocation"]
    assert seen.only() == Vote(6, False, bench.ids[0], None)


# Held back: the position on disk never falls (docs/spec/consensus.md 6.3)


def held_bench(**options: int) -> tuple[Bench, list[Entry], list[Entry]]:
    """Return a follower with terms 1 1 4, its log, and the log 1 1 2 2 5 of the leader of term 5."""
    base = make_chain([1, 1])
    own = fork(base, 2, [4], b"own")
    bench = Bench(log=own, term=4, **options)
    return bench, own, fork(base, 2, [2, 2, 5], b"theirs")


def test_blocks_that_would_lower_the_position_are_held_back_and_written_with_what_leads_further() -> None:
    bench, own, theirs = held_bench()
    seen = bench.receive(bench.append(1, 5, theirs, 2, upto=3))
    reply = reply_of(seen)
    assert (reply.ok, reply.match_height, reply.received_height, reply.acknowledgements) == (True, 2, 3, ())
    assert bench.disk.log == own
    reply = reply_of(bench.receive(bench.append(1, 5, theirs, 3, upto=4)))
    assert (reply.match_height, reply.received_height) == (2, 4)
    assert bench.disk.log == own
    bench.receive(bench.append(1, 5, theirs, 4), write=False)
    ((persist, _),) = bench.pending
    assert persist == Persist(None, truncate_from=3, entries=tuple(theirs[2:]))
    reply = reply_of(bench.write())
    assert (reply.match_height, reply.received_height) == (5, 5)
    assert [a.height for a in reply.acknowledgements] == [5]
    assert bench.disk.log == theirs


def test_while_blocks_are_held_back_a_vote_still_demands_what_was_acknowledged() -> None:
    bench, own, theirs = held_bench()
    bench.receive(bench.append(1, 5, theirs, 2, upto=4))
    bench.tick(10, write=False)
    assert bench.receive(bench.request_vote(2, 6, theirs[:4])).only() == Vote(6, False, bench.ids[0], None)
    vote = bench.receive(bench.request_vote(2, 6, own)).only()
    assert isinstance(vote, Vote)
    assert vote.granted


def test_a_poll_is_refused_to_a_log_below_what_is_on_disk_while_blocks_are_held_back() -> None:
    bench, _, theirs = held_bench(election_ticks=3)
    bench.receive(bench.append(1, 5, theirs, 2, upto=4))
    while bench.replica.status.leader is not None and bench.replica._common.hears_leader():
        bench.replica._common.election_elapsed += 1
    assert bench.receive(bench.pre_vote(2, 6, theirs[:4])).only() == PreVoteReply(5, False, bench.ids[0])


def test_a_follower_whose_leader_falls_silent_stands_with_its_own_blocks_not_with_those_it_held_back() -> None:
    bench, own, theirs = held_bench()
    bench.receive(bench.append(1, 5, theirs, 2, upto=4))
    bench.become_candidate()
    assert bench.last == (4, 3, own[2].block_hash)


def test_a_new_term_forgets_what_was_held_back() -> None:
    bench, own, theirs = held_bench()
    bench.receive(bench.append(1, 5, theirs, 2, upto=4))
    reply = reply_of(bench.receive(bench.append(2, 6, own, 3)))
    assert (reply.ok, reply.match_height) == (True, 3)
    assert bench.last == (4, 3, own[2].block_hash)


def test_nothing_that_is_held_back_is_committed() -> None:
    bench, _, theirs = held_bench()
    certificate = bench.certify(theirs[2])
    seen = bench.receive(bench.append(1, 5, theirs, 2, upto=3, commit_height=3, certificate=certificate))
    assert seen.apply == []
    seen = bench.receive(bench.append(1, 5, theirs, 3))
    assert seen.apply == theirs[:3]


def test_what_lies_below_the_blocks_held_back_is_committed() -> None:
    bench, own, theirs = held_bench()
    seen = bench.receive(bench.append(1, 5, theirs, 2, upto=3, commit_height=2, certificate=bench.certify(own[1])))
    assert seen.apply == own[:2]
    assert bench.disk.log == own


def test_more_than_the_limit_is_not_held_back() -> None:
    bench, own, theirs = held_bench(held_bytes_max=60)
    seen = bench.receive(bench.append(1, 5, theirs, 2, upto=3))
    assert seen.alarms == []
    seen = bench.receive(bench.append(1, 5, theirs, 3, upto=4))
    assert seen.alarm_codes == ["consensus.held_bytes"]
    assert seen.messages == []
    assert bench.last == (4, 3, own[2].block_hash)


def test_a_lower_replacement_waits_while_other_blocks_are_on_their_way_to_the_disk() -> None:
    base = make_chain([1, 1])
    own = fork(base, 2, [4], b"own")
    theirs = fork(base, 2, [2, 5], b"theirs")
    bench = Bench(log=base)
    bench.receive(bench.append(2, 4, own, 2), write=False)
    seen = bench.receive(bench.append(1, 5, theirs, 2, upto=3), write=False)
    assert seen.messages == []
    bench.write()
    assert bench.disk.log == own
    reply = reply_of(bench.receive(bench.append(1, 5, theirs, 2, upto=3)))
    assert reply.received_height == 3
    bench.receive(bench.append(1, 5, theirs, 3))
    assert bench.disk.log == theirs


def test_the_leader_goes_on_while_a_follower_holds_blocks_back() -> None:
    _, _, theirs = held_bench()
    bench = Bench(log=theirs[:4], term=4, append_entries_max=1, inflight_max=1)
    bench.become_leader()
    (append,) = appends(bench.receive(bench.refusal(1, 4, 2, 1)), 1)
    assert [entry.height for entry in append.entries] == [3]
    (append,) = appends(bench.receive(bench.reply(1, 2, received_height=3)), 1)
    assert [entry.height for entry in append.entries] == [4]
    (append,) = appends(bench.receive(bench.reply(1, 2, received_height=4)), 1)
    assert [entry.height for entry in append.entries] == [5]
    assert bench.replica.status.match[bench.ids[1]] == 2


# Blocks that the ledger refuses


def refuse(bench: Bench, entry: Entry) -> Seen:
    bench.pending.clear()
    return bench.step(EntriesRefused(entry.height, entry.block_hash, "ledger.block.state_root: roots differ"))


def test_a_refused_block_is_forgotten_with_all_upon_it_and_the_leader_is_told() -> None:
    log = make_chain([1, 1, 1])
    bench = Bench(log=log[:1], term=1)
    bench.receive(bench.append(1, 1, log, 1), write=False)
    seen = refuse(bench, log[1])
    assert seen.alarms == [
        "consensus.block_refused: the ledger refused the leader's block at height 2 (ledger.block.state_root: roots differ)"
    ]
    reply = reply_of(seen)
    assert (reply.ok, reply.reject_height, reply.hint_height, reply.hint_term) == (False, 2, 1, 1)
    assert bench.last == (1, 1, log[0].block_hash)
    assert bench.replica.status.durable_height == 1


def test_a_refused_replacement_brings_the_old_blocks_back() -> None:
    own = make_chain([1, 2, 2])
    theirs = fork(own, 1, [3, 3, 3])
    bench = Bench(log=own)
    bench.receive(bench.append(1, 3, theirs, 1), write=False)
    assert bench.last[1] == 4
    persist, after = bench.pending[0]
    bench.pending[0] = (Persist(persist.hard_state), after)  # the writer writes the term and nothing else
    bench.write()
    reply = reply_of(bench.step(EntriesRefused(3, theirs[2].block_hash, "x")))
    assert bench.last == (2, 3, own[2].block_hash)
    # What came back is not the leader's, so it is not claimed to agree.
    assert (reply.hint_height, reply.hint_term) == (1, 1)
    assert reply_of(bench.receive(bench.append(1, 3, theirs, 1, upto=1))).match_height == 1


def test_a_refused_block_that_comes_again_is_left_out_until_an_election_timeout_has_passed() -> None:
    log = make_chain([1, 1])
    bench = Bench()
    bench.receive(bench.append(1, 1, log, 0), write=False)
    refuse(bench, log[1])
    bench.receive(bench.append(1, 1, log, 0))
    assert bench.disk.log == log[:1]
    seen = bench.receive(bench.append(1, 1, log, 1))
    assert seen.messages == []  # no answer: the leader would repeat it at once
    bench.tick(9)
    assert bench.receive(bench.append(1, 1, log, 1)).messages == []
    bench.tick(1)
    reply = reply_of(bench.receive(bench.append(1, 1, log, 1)))
    assert bench.disk.log == log
    assert reply.match_height == 2


def test_a_refused_block_that_contradicts_an_old_one_is_not_mistaken_for_agreement() -> None:
    own = make_chain([1, 2])
    theirs = fork(own, 1, [3])
    bench = Bench(log=own)
    bench.receive(bench.append(1, 3, theirs, 1), write=False)
    persist, _ = bench.pending[0]
    bench.disk.write(Persist(persist.hard_state))
    bench.pending.clear()
    bench.step(bench.persisted())
    refuse(bench, theirs[1])
    assert bench.receive(bench.append(1, 3, theirs, 1)).messages == []
    assert reply_of(bench.receive(bench.append(1, 3, theirs, 1, upto=1))).match_height == 1


def test_a_certificate_for_a_block_refused_here_raises_the_alarm_of_divergence() -> None:
    log = make_chain([1, 1])
    bench = Bench()
    bench.receive(bench.append(1, 1, log, 0), write=False)
    refuse(bench, log[0])
    seen = bench.receive(bench.append(1, 1, log, 0, commit_height=1, certificate=bench.certify(log[0])))
    assert seen.alarm_codes == ["consensus.divergence"]
    assert seen.apply == []


def test_the_memory_of_refused_blocks_is_bounded() -> None:
    bench = Bench()
    for salt in range(REFUSED_BLOCKS_MAX + 10):
        entry = make_entry(1, 1, GENESIS, b"%d" % salt)
        bench.receive(bench.append(1, 1, [entry], 0), write=False)
        refuse(bench, entry)
    assert len(bench.replica._refused) == REFUSED_BLOCKS_MAX


def test_a_verdict_about_a_block_that_is_no_longer_in_the_log_changes_nothing() -> None:
    log = make_chain([1])
    bench = Bench(log=log)
    for event in (
        EntriesRefused(1, log[0].block_hash, "durable already"),
        EntriesRefused(1, sha256(b"other"), "another block"),
        EntriesRefused(9, sha256(b"other"), "nothing there"),
    ):
        assert bench.replica.step(event) is NO_EFFECTS


def test_a_leader_whose_own_block_is_refused_steps_down() -> None:
    bench = Bench()
    bench.become_leader(first_block=False)
    bench.propose(write=False)
    entry = bench.pending[0][0].entries[0]
    seen = refuse(bench, entry)
    assert seen.stepped_down
    assert seen.alarm_codes == ["consensus.own_block_refused", "consensus.block_refused"]
    assert seen.messages == []
    assert (bench.role, bench.last[1]) == (Role.FOLLOWER, 0)


# Elections


def test_a_node_whose_disk_is_behind_does_not_stand_until_it_has_caught_up() -> None:
    bench = Bench()
    log = make_chain([1, 1])
    bench.receive(bench.append(1, 1, log, 0), write=False)
    bench.tick(50, write=False)
    assert bench.role is Role.FOLLOWER
    bench.write()
    bench.tick(1)
    assert bench.role is Role.PRECANDIDATE


def test_who_follows_a_leader_in_a_term_gives_no_vote_in_it() -> None:
    bench = Bench()
    bench.receive(bench.append(1, 1, [], 0))
    assert bench.receive(bench.request_vote(2, 1, [])).only() == Vote(1, False, bench.ids[0], None)


def test_a_poll_that_names_no_later_term_is_refused_with_our_own() -> None:
    bench = Bench(term=7)
    for term in (3, 7):
        assert bench.receive(bench.pre_vote(1, term, [])).only() == PreVoteReply(7, False, bench.ids[0])


def test_a_granted_poll_changes_nothing() -> None:
    bench = Bench(term=7)
    assert bench.receive(bench.pre_vote(1, 8, [])).only() == PreVoteReply(8, True, bench.ids[0])
    assert bench.receive(bench.pre_vote(2, 8, [])).only() == PreVoteReply(8, True, bench.ids[0])
    assert bench.replica.status.term == 7
    assert bench.pending == []


def test_a_poll_refused_with_a_higher_term_brings_that_term() -> None:
    bench = Bench(term=3)
    bench.tick(10)
    bench.receive(PreVoteReply(9, False, bench.ids[1]))
    assert (bench.role, bench.term) == (Role.FOLLOWER, 9)


def test_a_poll_that_a_majority_refuses_is_given_up_and_answers_to_it_are_ignored() -> None:
    bench = Bench()
    bench.tick(10)
    bench.receive(PreVoteReply(0, False, bench.ids[1]))
    assert bench.role is Role.PRECANDIDATE
    bench.receive(PreVoteReply(0, False, bench.ids[2]))
    assert bench.role is Role.FOLLOWER
    bench.receive(PreVoteReply(1, True, bench.ids[1]))
    assert bench.role is Role.FOLLOWER


def test_an_answer_to_an_older_poll_does_not_count() -> None:
    bench = Bench(term=4)
    bench.tick(10)
    bench.receive(PreVoteReply(4, True, bench.ids[1]))
    assert bench.role is Role.PRECANDIDATE


def test_a_precandidate_that_votes_for_another_gives_up_its_poll() -> None:
    bench = Bench()
    bench.tick(10)
    vote = bench.receive(bench.request_vote(1, 1, [])).only()
    assert isinstance(vote, Vote)
    assert vote.granted
    assert bench.role is Role.FOLLOWER
    same = Bench(term=1)
    same.tick(10)
    same.receive(same.request_vote(1, 1, []))
    assert same.role is Role.FOLLOWER


def test_a_precandidate_that_hears_a_leader_follows_it() -> None:
    bench = Bench(term=1)
    bench.tick(10)
    bench.receive(bench.append(1, 1, [], 0))
    assert (bench.role, bench.replica.status.leader) == (Role.FOLLOWER, bench.ids[1])


def test_a_vote_of_a_later_term_makes_a_follower() -> None:
    bench = Bench()
    bench.become_candidate()
    bench.receive(Vote(8, False, bench.ids[1], None))
    assert (bench.role, bench.term) == (Role.FOLLOWER, 8)


def test_an_absurd_term_is_not_followed() -> None:
    bench = Bench(term=3)
    seen = bench.receive(bench.append(1, 3 + TERM_STEP_MAX + 1, [], 0))
    assert seen.alarm_codes == ["consensus.term"]
    assert bench.term == 3
    bench.receive(bench.append(1, 3 + TERM_STEP_MAX, [], 0))
    assert bench.term == 3 + TERM_STEP_MAX


def test_a_vote_is_written_again_when_it_is_asked_for_again_before_it_is_durable() -> None:
    bench = Bench()
    request = bench.request_vote(1, 1, [])
    assert bench.receive(request, write=False).messages == []
    assert bench.receive(request, write=False).messages == []
    assert [persist for persist, _ in bench.pending] == [Persist(HardState(1, bench.ids[1]))] * 2
    votes = bench.write().messages
    assert len(votes) == 2
    assert all(isinstance(vote, Vote) and vote.granted for _, vote in votes)


# Leading


def test_a_follower_and_a_candidate_propose_nothing() -> None:
    bench = Bench()
    entry = make_entry(1, 1, GENESIS)
    for _ in range(2):
        before = bench.replica.status
        with pytest.raises(ProposalRefusedError) as caught:
            bench.step(Propose(entry))
        assert caught.value.code == "consensus.not_leader"
        assert bench.replica.status == before
        bench.become_candidate()


@pytest.mark.parametrize(("term", "height"), [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_a_proposal_that_does_not_extend_the_last_block_is_refused(term: int, height: int) -> None:
    bench = Bench(log=make_chain([1]))
    bench.become_leader(first_block=False)
    before = bench.replica.status
    with pytest.raises(ProposalRefusedError) as caught:
        bench.step(Propose(make_entry(term, height, GENESIS)))
    assert caught.value.code == "consensus.stale_proposal"
    assert bench.replica.status == before


def test_the_window_of_blocks_bounds_proposals_and_commitment_opens_it() -> None:
    bench = Bench(uncommitted_blocks_max=2)
    bench.become_leader()
    bench.propose()
    before = bench.replica.status
    with pytest.raises(ProposalRefusedError) as caught:
        bench.propose()
    assert caught.value.code == "consensus.window_full"
    assert bench.replica.status == before
    assert bench.pending == []
    bench.receive(bench.reply(1, 1, signed=bench.disk.log[:1]))
    bench.propose()


def test_the_window_of_bytes_bounds_proposals() -> None:
    bench = Bench(uncommitted_bytes_max=1000)
    bench.become_leader()
    bench.propose(b"x" * 1000)
    with pytest.raises(ProposalRefusedError) as caught:
        bench.propose()
    assert caught.value.code == "consensus.window_full"
    bench.receive(bench.reply(1, 2, signed=bench.disk.log))
    bench.propose()


def test_the_first_block_of_a_term_passes_a_full_window() -> None:
    bench = Bench(log=make_chain([1] * 5), uncommitted_blocks_max=2)
    bench.become_leader(first_block=False)
    bench.propose()
    with pytest.raises(ProposalRefusedError):
        bench.propose()


def test_appends_run_ahead_of_the_answers_as_far_as_the_window_allows() -> None:
    bench = Bench(inflight_max=2)
    bench.become_leader(first_block=False)
    bench.receive(bench.reply(1, 0))
    sent = [len(appends(bench.propose(), 1)) for _ in range(4)]
    assert sent == [1, 1, 0, 0]
    # An answer to the first makes room for one append, with all that waits.
    (append,) = appends(bench.receive(bench.reply(1, 1)), 1)
    assert [entry.height for entry in append.entries] == [3, 4]


def test_one_append_carries_so_many_blocks_and_bytes_at_most_and_one_block_always() -> None:
    bench = Bench(log=make_chain([1] * 7), append_entries_max=3)
    bench.become_leader(first_block=False)
    first, second, third = appends(bench.receive(bench.refusal(1, 7, 0, 0)), 1), [], []
    second = appends(bench.receive(bench.reply(1, 3)), 1)
    assert [entry.height for entry in first[0].entries] == [1, 2, 3]
    assert [[entry.height for entry in append.entries] for append in second] == [[4, 5, 6], [7]]
    assert third == []
    tight = Bench(log=make_chain([1] * 3), append_bytes_max=1)
    tight.become_leader(first_block=False)
    (append,) = appends(tight.receive(tight.refusal(1, 3, 0, 0)), 1)
    assert len(append.entries) == 1


def test_a_probed_follower_gets_one_append_until_it_answers() -> None:
    bench = Bench()
    bench.become_leader(first_block=False)
    assert len(appends(bench.propose(), 1)) == 1
    assert appends(bench.propose(), 1) == []
    heartbeat = appends(bench.tick(2), 1)
    assert [(append.prev_height, append.entries) for append in heartbeat] == [(0, ())]
    (append,) = appends(bench.receive(bench.reply(1, 0)), 1)
    assert [entry.height for entry in append.entries] == [1, 2]


def test_a_broken_connection_means_probing_and_a_new_one_asks_at_once() -> None:
    bench = Bench()
    bench.become_leader()
    bench.receive(bench.reply(1, 1))
    bench.propose()
    assert bench.step(PeerUnreachable(bench.ids[1])).messages == []
    assert len(appends(bench.propose(), 1)) == 1
    assert appends(bench.propose(), 1) == []
    (probe,) = appends(bench.step(PeerReachable(bench.ids[1])), 1)
    assert (probe.prev_height, probe.entries) == (1, ())
    stranger = sha256(b"stranger")
    assert bench.replica.step(PeerUnreachable(stranger)) is NO_EFFECTS  # type: ignore[arg-type]
    assert bench.replica.step(PeerReachable(stranger)) is NO_EFFECTS  # type: ignore[arg-type]


def test_connections_do_not_matter_to_who_does_not_lead() -> None:
    bench = Bench()
    assert bench.replica.step(PeerUnreachable(bench.ids[1])) is NO_EFFECTS
    assert bench.replica.step(PeerReachable(bench.ids[1])) is NO_EFFECTS


def _ticks_until_poll(bench: Bench) -> int:
    for ticks in range(1, 100):
        if any(isinstance(message, PreVote) for _, message in bench.tick().messages):
            return ticks
    raise AssertionError("it never stands")


@pytest.mark.parametrize(("drawn", "ticks"), [(0, 1), (4, 5), (9, 10)])
def test_when_the_leaders_end_closes_the_connection_the_next_poll_comes_within_one_least_timeout(
    drawn: int, ticks: int
) -> None:
    # Protected by `Common.note_leader_gone`; without it the followers wait 10 to 19 ticks for a process that has ended.
    bench = Bench(entropy=lambda n: min(drawn, n - 1))
    bench.receive(bench.append(1, 1, [], 0))
    assert bench.step(PeerUnreachable(bench.ids[1], is_closed=True)).messages == []
    assert _ticks_until_poll(bench) == ticks


def test_a_leader_that_only_falls_silent_is_waited_for_as_long_as_ever() -> None:
    bench = Bench()
    bench.receive(bench.append(1, 1, [], 0))
    bench.step(PeerUnreachable(bench.ids[1]))
    assert _ticks_until_poll(bench) == 10


def test_the_end_of_a_connection_to_somebody_who_does_not_lead_hurries_nobody() -> None:
    bench = Bench()
    bench.receive(bench.append(1, 1, [], 0))
    bench.step(PeerUnreachable(bench.ids[2], is_closed=True))
    assert _ticks_until_poll(bench) == 10


@pytest.mark.parametrize("sign", ["connection", "append"])
def test_a_leader_that_is_back_before_the_poll_is_waited_for_again(sign: str) -> None:
    bench = Bench()
    bench.receive(bench.append(1, 1, [], 0))
    bench.step(PeerUnreachable(bench.ids[1], is_closed=True))
    if sign == "connection":
        bench.step(PeerReachable(bench.ids[1]))
    else:
        bench.receive(bench.append(1, 1, [], 0))
    assert _ticks_until_poll(bench) == 10


def test_who_knows_the_leader_gone_supports_another_and_who_hears_it_does_not() -> None:
    for is_gone in (False, True):
        bench = Bench()
        bench.receive(bench.append(1, 1, [], 0))
        if is_gone:
            bench.step(PeerUnreachable(bench.ids[1], is_closed=True))
        poll = PreVote(2, bench.ids[2], 0, 0, GENESIS)
        (reply,) = bench.receive(poll).to(2)
        assert isinstance(reply, PreVoteReply)
        assert reply.granted == is_gone


def test_a_follower_that_claims_blocks_never_sent_is_not_believed() -> None:
    bench = Bench()
    bench.become_leader()
    seen = bench.receive(bench.reply(1, 5))
    assert seen.alarm_codes == ["consensus.reply"]
    assert bench.replica.status.match[bench.ids[1]] == 0
    assert seen.messages == []


def test_commitment_is_told_at_once_with_its_proof_to_whoever_holds_the_block() -> None:
    bench = Bench()
    bench.become_leader()
    bench.receive(bench.reply(2, 1))
    seen = bench.receive(bench.reply(1, 1, signed=bench.disk.log))
    for index in (1, 2):
        (append,) = appends(seen, index)
        assert (append.entries, append.commit_height) == ((), 1)
        assert append.commit_certificate is not None
    # It is not sent again with what follows, unless a heartbeat finds it still lacking.
    (append,) = appends(bench.propose(), 2)
    assert append.commit_certificate is None
    bench.receive(bench.reply(1, 2, commit_height=1))
    seen = bench.tick(2)
    assert appends(seen, 1)[0].commit_certificate is None
    assert appends(seen, 2)[0].commit_certificate is not None


def test_a_laggard_gets_the_certificates_of_what_it_is_sent() -> None:
    log = make_chain([1] * 6)
    certifier = Bench()
    certificates = [certifier.certify(log[height - 1]) for height in (2, 4, 6)]
    bench = Bench(log=log, commit_height=6, certificates=certificates, append_entries_max=2)
    bench.become_leader(first_block=False)
    follower = Bench(me=1)
    message = bench.refusal(1, 6, 0, 0)
    heights: list[int] = []
    for _ in range(20):
        answers = []
        for append in appends(bench.receive(message), 1):
            seen = follower.receive(append)
            if seen.certificate is not None:
                heights.append(seen.certificate.height)
            answers += [m for m in seen.to(0) if isinstance(m, AppendReply)]
        if not answers:
            break
        message = answers[-1]
    assert heights == [2, 4, 6]
    assert follower.disk.log == log


def test_a_follower_that_needs_pruned_blocks_is_told_to_get_a_snapshot() -> None:
    bench = Bench(log=make_chain([1] * 5), commit_height=5)
    bench.disk.first_height = 3
    bench.become_leader(first_block=False)
    seen = bench.receive(bench.refusal(1, 5, 0, 0))
    assert seen.messages == [(1, SnapshotOffer(2, bench.ids[0], first_height=3, commit_height=5, round_id=1))]
    assert bench.replica.status.progress[bench.ids[1]].state is ProgressState.SNAPSHOT
    (append,) = appends(bench.receive(bench.refusal(2, 5, 2, 1)), 2)
    assert append.entries[0].height == 3


def test_a_hint_never_points_below_what_is_committed() -> None:
    own = make_chain([3, 3, 4, 4])
    bench = Bench(log=own, commit_height=2)
    leader_log = fork(own, 2, [2, 2, 2])  # no honest one; its terms make the search run past the commit height
    reply = reply_of(bench.receive(replace(bench.append(1, 5, leader_log, 4), prev_term=2)))
    assert (reply.ok, reply.hint_height, reply.hint_term) == (False, 2, 3)


def test_an_append_of_a_lower_term_is_answered_with_ours_so_that_its_leader_steps_down() -> None:
    bench = Bench(term=4)
    reply = reply_of(bench.receive(bench.append(1, 3, [], 0)))
    assert (reply.term, reply.ok) == (4, False)
    leader = Bench(term=2)
    leader.become_leader(first_block=False)
    assert leader.receive(replace(reply, follower=leader.ids[1])).stepped_down
    assert leader.term == 4


def test_heartbeat_rounds_are_confirmed_no_further_than_they_were_begun() -> None:
    bench = Bench()
    bench.become_leader()
    for index in (1, 2):
        bench.receive(bench.reply(index, 1, round_id=77))
    assert bench.replica.status.round_confirmed == 1


def test_the_status_shows_what_a_leader_knows_about_its_followers() -> None:
    bench = Bench()
    bench.become_leader()
    bench.receive(bench.reply(1, 1))
    status = bench.replica.status
    assert status.match == {bench.ids[1]: 1, bench.ids[2]: 0}
    assert status.heard == {bench.ids[1]: True, bench.ids[2]: False}
    assert (status.leader, status.voted_for) == (bench.ids[0], bench.ids[0])
    assert (status.last_term, status.last_height, status.durable_height, status.commit_height) == (1, 1, 1, 0)


def test_answers_reach_only_a_leader_of_their_term() -> None:
    bench = Bench(log=make_chain([1]))
    assert bench.receive(bench.reply(1, 1)).messages == []
    bench.become_leader()
    assert bench.receive(bench.reply(1, 1, term=1)).messages == []
    assert bench.replica.status.match[bench.ids[1]] == 0


def test_a_quiet_step_has_no_effects() -> None:
    assert Bench().replica.step(Tick()) is NO_EFFECTS
    bench = Bench()
    assert bench.replica.step(Received(PreVoteReply(1, True, bench.ids[1]), bench.ids[1])) is NO_EFFECTS


def test_blocks_on_their_way_survive_a_lost_election_of_others() -> None:
    # A write that was overtaken by a replacement says nothing about the log that replaced it.
    own = make_chain([1, 1])
    theirs = fork(own, 1, [2, 2])
    bench = Bench()
    bench.receive(bench.append(1, 1, own, 0), write=False)
    bench.receive(bench.append(2, 2, theirs, 1), write=False)
    first = bench.write(1)
    assert bench.replica.status.durable_height == 0
    assert all(not m.acknowledgements for _, m in first.messages if isinstance(m, AppendReply))
    reply = reply_of(bench.write())
    assert (reply.match_height, [a.height for a in reply.acknowledgements]) == (3, [2, 3])
    assert bench.disk.log == theirs


# A leader whose blocks are refused


def _refuse_all(bench: Bench, height: int, *, by: Sequence[int]) -> Seen:
    """Let followers refuse the leader's block at `height` for a period of one least election timeout, while they answer heartbeats."""
    seen = Seen()
    for index in by:
        bench.receive(bench.refusal(index, height, height - 1, 1))
    for _ in range(bench.replica._common.config.election_ticks):
        for index in range(1, bench.members):
            bench.receive(bench.reply(index, height - 1))
        tick = bench.tick()
        seen.alarms += tick.alarms
        seen.stepped_down |= tick.stepped_down
    return seen


def test_a_leader_steps_down_when_those_who_refuse_its_blocks_keep_it_from_a_majority() -> None:
    bench = Bench(4)
    bench.become_leader()
    for index in (1, 2, 3):
        bench.receive(bench.reply(index, 1, signed=bench.disk.log))
    bench.propose()
    periods = [_refuse_all(bench, 2, by=(1, 2)) for _ in range(REFUSED_TIMEOUTS + 1)]
    assert [seen.stepped_down for seen in periods] == [False] * REFUSED_TIMEOUTS + [True]
    assert periods[-1].alarm_codes == ["consensus.leader_refused"]
    # Its log is the longest, so it stands back for a while.
    waits = (1 + STAND_BACK_TIMEOUTS) * bench.replica._common.config.election_ticks
    assert bench.tick(waits - 1).messages == []
    assert bench.tick().messages != []


def test_a_leader_whose_blocks_a_minority_refuses_leads_on() -> None:
    bench = Bench(4)
    bench.become_leader()
    for index in (1, 2, 3):
        bench.receive(bench.reply(index, 1, signed=bench.disk.log))
    bench.propose()
    for _ in range(3 * REFUSED_TIMEOUTS):
        assert not _refuse_all(bench, 2, by=(1,)).stepped_down


def test_a_leader_whose_followers_are_slow_to_write_leads_on() -> None:
    bench = Bench(4)
    bench.become_leader()
    bench.propose()
    for _ in range(3 * REFUSED_TIMEOUTS):
        assert not _refuse_all(bench, 2, by=()).stepped_down


def test_a_leader_whose_blocks_are_taken_after_all_leads_on() -> None:
    bench = Bench(4)
    bench.become_leader()
    for index in (1, 2, 3):
        bench.receive(bench.reply(index, 1, signed=bench.disk.log))
    bench.propose()
    for _ in range(REFUSED_TIMEOUTS):
        _refuse_all(bench, 2, by=(1, 2))
    for index in (1, 2):
        bench.receive(bench.reply(index, 2, signed=bench.disk.log[1:]))
    assert bench.replica.status.commit_height == 2
    bench.propose()
    assert not _refuse_all(bench, 3, by=(1, 2)).stepped_down


@pytest.mark.parametrize("seed", range(20))
def test_a_network_whose_leader_makes_blocks_that_all_others_refuse_finds_another_leader(seed: int) -> None:
    # As when the leader's clock jumps far ahead. Protected by `Leadership.is_refused`; without it nothing is ever committed again.
    cluster = Cluster(4, seed=seed, expected_alarms=frozenset({"consensus.block_refused", "consensus.leader_refused"}))
    wrong = cluster.elect(0)
    assert cluster.propose(wrong)
    cluster.settle()
    for node in cluster.nodes:
        if node is not wrong:
            node.refuses = lambda entry: entry.height > 1 and entry.block_hash in wrong.made
    for _ in range(600):
        leader = cluster.leader()
        if leader is not None and leader.replica.status.last_height < leader.replica.status.commit_height + 3:
            cluster.propose(leader)
        cluster.run_ticks(1)
        if all(node.disk.commit_height >= 5 for node in cluster.nodes):
            break
    assert all(node.disk.commit_height >= 5 for node in cluster.nodes), cluster.describe()
    assert not wrong.made & set(list(cluster.committed.values())[1:])
