"""Whole clusters under faults: safety after every event, then liveness once the faults end.

A failing run names its seed; ``python -m tests.testkit.raft_replay SEED`` plays it again. A seed that ever failed is listed below.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from consensus.config import Role
from consensus.effects import HardState, PeerReachable, PeerUnreachable
from consensus.membership import Configuration
from consensus.messages import RequestVote, encode_message
from tests.testkit.raft_sim import GENESIS, Cluster, Faults, Letter, run_seed

SEEDS_THAT_FAILED = [
    45,  # leader and follower exchanged a refused block without end
]


@pytest.mark.parametrize("seed", [*range(20), *SEEDS_THAT_FAILED])
def test_a_random_cluster_is_safe_and_lives_again_when_the_faults_end(seed: int) -> None:
    run_seed(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_many_random_clusters_are_safe_and_live_again(block: int) -> None:
    for seed in range(1000 + 25 * block, 1025 + 25 * block):
        run_seed(seed)


def test_a_cluster_without_faults_commits_everything_it_proposes() -> None:
    cluster = Cluster(3, seed=0)
    leader = cluster.elect(0)
    for _ in range(200):
        assert cluster.propose(leader)
        cluster.settle()
    assert len(cluster.committed) == 200
    assert all(node.disk.commit_height == 200 for node in cluster.nodes)
    assert all(node.disk.log == leader.disk.log for node in cluster.nodes)


@pytest.mark.parametrize("size", range(1, 10))
def test_a_cluster_of_any_size_up_to_nine_elects_and_commits(size: int) -> None:
    cluster = Cluster(size, seed=size)
    cluster.demand_liveness()
    # As many as may fail do so, and it goes on.
    for node in cluster.nodes[: (size - 1) // 2]:
        node.crash()
    cluster.run_ticks(60)
    leader = cluster.leader()
    assert leader is not None
    before = leader.disk.commit_height
    assert cluster.propose(leader)
    cluster.settle()
    assert leader.disk.commit_height > before


def grow_and_shrink(cluster: Cluster, most: int, between: Callable[[], None]) -> None:
    """Take in one node after the other until `most` vote, then let them go until one is left; every second time the leader goes."""

    def members() -> Configuration:
        return cluster.finish_change().replica.status.configuration

    def step(configuration: Configuration) -> None:
        for _ in range(200):
            before = members()
            if before == configuration or before.incoming == configuration.voters:
                break
            target = configuration
            if configuration.voters != before.voters:
                target = Configuration(before.voters, configuration.voters, configuration.learners)
            cluster.change(cluster.finish_change(), target)
            between()
        assert members() == configuration

    for node in cluster.nodes[1:most]:
        voters = members().voters
        step(Configuration(voters, None, (node.key.public_key,)))
        between()
        step(Configuration((*voters, node.key.public_key)))
        between()
    assert len(members().voters) == most
    for count in range(most - 1, 0, -1):
        leader = cluster.finish_change()
        gone = leader if count % 2 else next(node for node in cluster.nodes if members().is_voter(node.id))
        step(Configuration(tuple(key for key in members().voters if key != gone.key.public_key)))
        between()
    assert len(members().voters) == 1


def test_a_network_grows_from_one_to_nine_and_shrinks_to_one_without_a_pause() -> None:
    cluster = Cluster(9, seed=19, founding=1, expected_alarms=frozenset({"consensus.stranger"}))
    cluster.elect(0)

    def between() -> None:
        for _ in range(6):
            leader = cluster.leader()
            if leader is not None:
                cluster.propose(leader)
            cluster.run_ticks(1)

    grow_and_shrink(cluster, 9, between)
    # Only leaders that left were followed by others, and they handed over: nobody's timer ever ran out.
    assert max(cluster.leaders) <= 1 + 8
    assert sum(node.removed for node in cluster.nodes) == 8
    assert len(cluster.committed) > 100
    cluster.demand_liveness()


@pytest.mark.parametrize("seed", range(4))
def test_a_network_grows_and_shrinks_under_faults(seed: int) -> None:
    alarms = frozenset({"consensus.stranger", "consensus.block_refused", "consensus.divergence"})
    cluster = Cluster(9, seed=seed, founding=1, options={"election_ticks": 5}, expected_alarms=alarms)
    cluster.elect(0)
    faults = Faults(
        loss=0.05, duplication=0.05, reordering=0.3, crash=0.002, partition=0.005, slow_disk=0.3, reads=0.3, pruning=0.1
    )

    def between() -> None:
        cluster.run_random(150, faults)
        cluster.heal()
        for node in cluster.nodes:
            if not node.alive:
                node.start()

    grow_and_shrink(cluster, 7, between)
    cluster.demand_liveness()
    assert len(cluster.committed) > 40


def test_the_simulator_notices_a_vote_that_was_forgotten() -> None:
    # The test of the test: a disk that loses a vote it has reported durable.
    cluster = Cluster(3)
    voter, *candidates = cluster.nodes
    for node in candidates:
        request = RequestVote(1, node.id, 0, 0, GENESIS)
        cluster.letters.append(Letter(node.id, voter.id, encode_message(request)))
    cluster.deliver(0)
    voter.finish_write()
    voter.crash()
    voter.disk.hard_state = HardState(1, None)
    voter.start()
    cluster.deliver(0)
    with pytest.raises(AssertionError, match="one vote in a term"):
        voter.finish_write()


def test_the_simulator_notices_a_block_that_was_forgotten() -> None:
    cluster = Cluster(3)
    leader = cluster.elect(0)
    cluster.propose(leader)
    cluster.settle()
    for node in cluster.nodes:
        node.crash()
    for node in cluster.nodes[1:]:
        node.disk.log.clear()
        node.disk.commit_height = 0
        node.disk.certificates.clear()
        node.start()
    with pytest.raises(AssertionError, match=r"leader completeness|no vote for a log that ends below"):
        cluster.run_ticks(100)


class ClusterMachine(RuleBasedStateMachine):
    """Hypothesis chooses every event, and shrinks what it finds."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(3, seed=0, options={"append_entries_max": 2, "inflight_max": 2, "lease_reads": True})

    @rule(index=st.integers(0, 2), count=st.sampled_from([1, 1, 10, 20]))
    def tick(self, index: int, count: int) -> None:
        node = self.cluster.nodes[index]
        if node.alive:
            for _ in range(count):
                node.tick()

    @precondition(lambda self: self.cluster.letters)
    @rule(where=st.integers(0, 10_000), keep=st.booleans())
    def deliver(self, where: int, keep: bool) -> None:
        self.cluster.deliver(where % len(self.cluster.letters), keep=keep)

    @precondition(lambda self: self.cluster.letters)
    @rule()
    def deliver_all(self) -> None:
        for _ in range(len(self.cluster.letters)):
            self.cluster.deliver(0)

    @precondition(lambda self: self.cluster.letters)
    @rule(where=st.integers(0, 10_000))
    def drop(self, where: int) -> None:
        self.cluster.drop(where % len(self.cluster.letters))

    @rule(index=st.integers(0, 2))
    def finish_write(self, index: int) -> None:
        node = self.cluster.nodes[index]
        if node.alive and node.writes:
            node.finish_write()

    @rule(index=st.integers(0, 2))
    def propose(self, index: int) -> None:
        node = self.cluster.nodes[index]
        if node.alive and node.replica.status.role is Role.LEADER:
            self.cluster.propose(node, b"")

    @rule(index=st.integers(0, 2))
    def read(self, index: int) -> None:
        if self.cluster.nodes[index].alive:
            self.cluster.nodes[index].read()

    @rule(index=st.integers(0, 2))
    def crash_or_start(self, index: int) -> None:
        node = self.cluster.nodes[index]
        if node.alive:
            node.crash()
        else:
            node.start()
        for other in self.cluster.nodes:
            if other.alive and other is not node:
                other.step(PeerReachable(node.id) if node.alive else PeerUnreachable(node.id))

    @invariant()
    def committed_blocks_are_on_a_majority_of_disks(self) -> None:
        for height, block_hash in self.cluster.committed.items():
            holders = sum(
                height <= len(node.disk.log) and node.disk.log[height - 1].block_hash == block_hash
                for node in self.cluster.nodes
            )
            assert holders >= 2

    def teardown(self) -> None:
        self.cluster.letters.clear()
        self.cluster.demand_liveness()


def test_no_sequence_of_events_that_hypothesis_finds_breaks_safety() -> None:
    run_state_machine_as_test(ClusterMachine, settings=settings(max_examples=30, stateful_step_count=60))


@pytest.mark.slow
def test_no_longer_sequence_of_events_that_hypothesis_finds_breaks_safety() -> None:
    run_state_machine_as_test(ClusterMachine, settings=settings(max_examples=150, stateful_step_count=150))
