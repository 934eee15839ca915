"""A log that does not begin at the first block: followers that need a snapshot, and those that have one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.config import Role
from consensus.effects import HardState, InstalledSnapshot, NeedSnapshot, PeerReachable, hard_state_after_snapshot
from consensus.messages import Append, AppendReply, Entry, SnapshotOffer
from consensus.progress import ProgressState
from tests.testkit.raft_bench import Bench, Seen, changed, fork, rules
from tests.testkit.raft_sim import Cluster, SimDisk, make_chain


def pruned_leader(first_height: int = 4, length: int = 5) -> Bench:
    """Return a leader that has committed `length` blocks and has them from `first_height` on."""
    log = make_chain([1] * length)
    certificates = [Bench().certify(entry) for entry in log]
    bench = Bench(log=log, commit_height=length, certificates=certificates)
    bench.disk.first_height = first_height
    bench.become_leader(first_block=False)
    return bench


def donor(log: list[Entry], height: int) -> SimDisk:
    disk = SimDisk()
    disk.log = list(log)
    disk.founders = rules("012")
    disk.certificates = {height: Bench().certify(log[height - 1])}
    return disk


def install(bench: Bench, disk: SimDisk, height: int) -> Seen:
    """Install a snapshot as a driver does, having asked whether it is wanted."""
    entry = disk.log[height - 1]
    assert bench.replica.needs_snapshot(height, entry.term, entry.block_hash)
    bench.disk.install(disk, height)
    configuration = bench.disk.configuration_at(height)
    return bench.step(InstalledSnapshot(height, entry.term, entry.block_hash, configuration, disk.certificates[height]))


# The leader


def test_who_needs_pruned_blocks_gets_an_offer_with_each_heartbeat_and_nothing_else() -> None:
    bench = pruned_leader()
    seen = bench.receive(bench.refusal(1, 5, 1, 1))
    offer = SnapshotOffer(2, bench.ids[0], first_height=4, commit_height=5, round_id=1)
    assert seen.messages == [(1, offer)]
    assert bench.propose().to(1) == []
    assert bench.tick(2).to(1) == [replace(offer, round_id=2)]
    progress = bench.replica.status.progress[bench.ids[1]]
    assert (progress.state, progress.match_height) == (ProgressState.SNAPSHOT, 0)


def test_its_answers_keep_the_leader_in_office() -> None:
    bench = pruned_leader()
    bench.receive(bench.refusal(1, 5, 1, 1))
    for _ in range(30):
        seen = bench.tick()
        assert not seen.stepped_down
        bench.receive(bench.reply(1, 1))


def test_once_it_has_a_snapshot_it_gets_what_stands_upon_it() -> None:
    bench = pruned_leader()
    bench.receive(bench.refusal(1, 5, 1, 1))
    assert bench.receive(bench.reply(1, 2)).to(1) == []
    assert bench.replica.status.progress[bench.ids[1]].state is ProgressState.SNAPSHOT
    (append,) = bench.receive(bench.reply(1, 3)).to(1)
    assert isinstance(append, Append)
    assert (append.prev_height, [entry.height for entry in append.entries]) == (3, [4, 5])


def test_late_refusals_do_not_disturb_who_waits_for_a_snapshot() -> None:
    bench = pruned_leader()
    bench.receive(bench.refusal(1, 5, 1, 1))
    assert bench.receive(bench.refusal(1, 5, 4, 1)).messages == []
    assert bench.replica.status.progress[bench.ids[1]].state is ProgressState.SNAPSHOT


def test_a_connection_that_is_back_brings_the_offer_at_once() -> None:
    bench = pruned_leader()
    bench.receive(bench.refusal(1, 5, 1, 1))
    (offer,) = bench.step(PeerReachable(bench.ids[1])).to(1)
    assert isinstance(offer, SnapshotOffer)


def test_blocks_that_are_pruned_while_they_are_awaited_turn_into_an_offer() -> None:
    bench = pruned_leader(first_height=1)
    bench.receive(bench.refusal(1, 5, 1, 1))
    bench.disk.first_height = 6
    (offer,) = bench.receive(bench.reply(1, 2)).to(1)
    assert isinstance(offer, SnapshotOffer)
    assert offer.first_height == 6


def test_a_hint_into_what_is_pruned_is_taken_as_it_is() -> None:
    bench = pruned_leader(first_height=4)
    # The block below the first one is known, and matches.
    (append,) = bench.receive(bench.refusal(1, 5, 3, 1)).to(1)
    assert isinstance(append, Append)
    assert append.prev_height == 3
    (offer,) = bench.receive(bench.refusal(2, 5, 2, 1)).to(2)
    assert isinstance(offer, SnapshotOffer)


def test_an_offer_of_an_older_term_is_answered_with_ours() -> None:
    bench = Bench(term=5)
    reply = bench.receive(SnapshotOffer(4, bench.ids[1], 10, 20, 3)).only()
    assert isinstance(reply, AppendReply)
    assert (reply.term, reply.ok, reply.reject_height) == (5, False, 0)


# The follower


def test_a_follower_is_told_what_it_needs_and_answers_where_it_stands() -> None:
    log = make_chain([1, 1])
    bench = Bench(log=log, commit_height=1)
    seen = bench.receive(SnapshotOffer(1, bench.ids[1], first_height=10, commit_height=20, round_id=3))
    assert seen.need_snapshot == NeedSnapshot(bench.ids[1], 9)
    reply = seen.only()
    assert isinstance(reply, AppendReply)
    assert (reply.ok, reply.match_height, reply.round_id, reply.acknowledgements) == (True, 1, 3, ())
    assert bench.replica.status.leader == bench.ids[1]
    assert bench.tick(9).messages == []


def test_an_offer_that_comes_late_needs_nothing() -> None:
    log = make_chain([1, 1, 1])
    bench = Bench(log=log, commit_height=3)
    assert bench.receive(SnapshotOffer(1, bench.ids[1], 4, 20, 3)).need_snapshot is None


def test_an_installed_snapshot_is_where_the_log_begins() -> None:
    theirs = changed(make_chain([1, 1]), 2, "012", "0123")
    bench = Bench(members=3, log=make_chain([1]), commit_height=1, term=2)
    bench.receive(SnapshotOffer(2, bench.ids[1], first_height=4, commit_height=3, round_id=5))
    seen = install(bench, donor(theirs, 3), 3)
    reply = seen.only()
    assert isinstance(reply, AppendReply)
    assert (reply.ok, reply.match_height, reply.commit_height, reply.acknowledgements) == (True, 3, 3, ())
    status = bench.replica.status
    assert (status.last_height, status.durable_height, status.commit_height) == (3, 3, 3)
    assert status.configuration == rules("012", "0123")
    more = fork(theirs, 3, [2])
    reply = bench.receive(bench.append(1, 2, more, 3)).only()
    assert isinstance(reply, AppendReply)
    assert [a.height for a in reply.acknowledgements] == [4]


def test_appends_that_reach_below_the_snapshot_bring_what_stands_upon_it() -> None:
    theirs = make_chain([1, 1, 1, 1, 1])
    bench = Bench(term=1)
    bench.receive(SnapshotOffer(1, bench.ids[1], 4, 3, 1))
    install(bench, donor(theirs, 3), 3)
    for prev in (0, 1, 2, 3):
        reply = bench.receive(bench.append(1, 1, theirs, prev, upto=4)).only()
        assert isinstance(reply, AppendReply)
        assert (reply.ok, reply.match_height) == (True, 4)
    certificate = Bench().certify(theirs[0])
    assert bench.receive(bench.append(1, 1, theirs, 4, commit_height=3, certificate=certificate)).alarms == []


def test_a_snapshot_of_a_later_term_takes_the_node_there_and_keeps_no_vote_of_it() -> None:
    assert hard_state_after_snapshot(HardState(3, None), 3) == HardState(3, None)
    theirs = make_chain([4, 4])
    bench = Bench(term=2, voted_for=1)
    assert hard_state_after_snapshot(bench.disk.hard_state, 2) == bench.disk.hard_state
    seen = install(bench, donor(theirs, 2), 2)
    assert bench.disk.hard_state == HardState(4, None)
    assert (bench.term, bench.voted_for, seen.messages) == (4, None, [])
    bench.restart()
    assert bench.replica.status.commit_height == 2


def test_a_snapshot_without_this_node_says_that_it_is_removed() -> None:
    theirs = changed(changed(make_chain([1]), 1, "012", "12"), 1, "12")
    bench = Bench()
    assert install(bench, donor(theirs, 3), 3).removed


def test_a_node_that_follows_nobody_is_told_of_its_removal_at_once() -> None:
    """Nothing else comes out of that step; protected by `out.removed` in `consensus.common.Common.take_effects`."""
    theirs = changed(changed(make_chain([1]), 1, "012", "12"), 1, "12")
    bench = Bench(term=1)
    seen = install(bench, donor(theirs, 3), 3)
    assert (seen.removed, seen.messages) == (True, [])


def test_held_blocks_are_forgotten_for_a_snapshot() -> None:
    base = make_chain([1, 1])
    own = fork(base, 2, [4], b"own")
    theirs = fork(base, 2, [2, 2, 5], b"theirs")
    bench = Bench(log=own, term=4)
    bench.receive(bench.append(1, 5, theirs, 2, upto=3))
    install(bench, donor(theirs, 5), 5)
    assert bench.last == (5, 5, theirs[4].block_hash)
    assert bench.replica.status.durable_height == 5


def test_who_leads_or_stands_needs_no_snapshot() -> None:
    bench = Bench()
    theirs = make_chain([4, 4])
    assert bench.replica.needs_snapshot(2, 4, theirs[1].block_hash)
    bench.become_candidate()
    assert not bench.replica.needs_snapshot(2, 4, theirs[1].block_hash)


# Among others


def test_a_follower_slower_than_pruning_still_converges() -> None:
    cluster = Cluster(3, seed=18)
    leader = cluster.elect(0)
    slow = cluster.nodes[2]
    slow.crash()
    for _ in range(50):
        cluster.propose(leader)
        cluster.settle()
        leader.disk.first_height = cluster.nodes[1].disk.first_height = leader.disk.commit_height + 1
    slow.start()
    for _ in range(30):
        cluster.run_ticks(1)
        cluster.propose(leader)
        cluster.settle()
        # Pruning goes on faster than snapshots are fetched.
        leader.disk.first_height = leader.disk.commit_height + 1
    assert leader.replica.status.role is Role.LEADER
    assert slow.disk.commit_height > 50
    assert slow.disk.first_height > 50


@pytest.mark.parametrize("seed", range(6))
def test_a_cluster_that_prunes_everything_elects_and_goes_on(seed: int) -> None:
    cluster = Cluster(3, seed=seed)
    for turn in range(6):
        leader = cluster.elect(turn % 3)
        for _ in range(4):
            cluster.propose(leader)
            cluster.settle()
        for node in cluster.nodes:
            node.disk.first_height = node.disk.commit_height + 1
            node.crash()
            node.start()
    cluster.demand_liveness()
    assert len(cluster.committed) >= 24
