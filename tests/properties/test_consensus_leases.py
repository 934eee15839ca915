"""Lease reads on clusters whose nodes are stopped, cut off, restarted and slow: whoever reads sees all that was committed before.

`SimNode.read` notes what must be seen, `Cluster` has one true time. Nodes tick at most at their rate; one that is stopped neither ticks
nor takes a message, and then goes on as if nothing had been.
"""

from __future__ import annotations

import random

import pytest

from consensus.config import Role
from consensus.effects import PeerUnreachable
from consensus.limits import TICK_MS
from tests.testkit.raft_sim import Cluster, Letter, SimNode


class Leases:
    """One run: mostly punctual, so that leases are held, with the faults that could make them lie."""

    def __init__(self, seed: int) -> None:
        self.random = rng = random.Random(seed)
        options = {"lease_reads": True, "election_ticks": rng.choice([4, 6, 10]), "heartbeat_ticks": 1}
        self.cluster = Cluster(rng.choice([2, 3, 3, 3, 4, 5]), seed=seed, options=options)
        self.stopped: dict[int, int] = {}
        self.delayed: list[tuple[int, Letter]] = []
        self.delays = rng.choice([0.0, 0.02, 0.1])
        self.restarts = rng.choice([0.0, 0.01, 0.03])
        self.closings = rng.choice([0.0, 0.02, 0.1])
        self.transfers = rng.choice([0.0, 0.0, 0.02])
        # Where hardly anything is proposed, those who were cut off for a while can still be elected.
        self.proposals = rng.choice([0.0, 0.01, 0.2])

    def run(self, steps: int) -> Cluster:
        parts = [self.tick, self.progress, self.fault, self.demand, self.demand]
        for _ in range(steps):
            self.cluster.now_ms += self.random.randrange(12)
            # Whoever wakes up may be asked before it sees a tick or reads what waits for it.
            for part in self.random.sample(parts, len(parts)):
                part()
        return self.cluster

    def is_awake(self, node: SimNode) -> bool:
        return node.alive and self.stopped.get(node.index, 0) <= self.cluster.now_ms

    def tick(self) -> None:
        for node in self.cluster.nodes:
            if self.is_awake(node) and self.cluster.now_ms >= node.next_tick_ms:
                node.tick()

    def progress(self) -> None:
        cluster, rng = self.cluster, self.random
        for node in cluster.nodes:
            while self.is_awake(node) and node.writes:
                node.finish_write()
        arrived = [letter for due, letter in self.delayed if due <= cluster.now_ms]
        self.delayed = [item for item in self.delayed if item[0] > cluster.now_ms]
        new, cluster.letters = cluster.letters, []
        for letter in new:
            if rng.random() < self.delays:
                self.delayed.append((cluster.now_ms + rng.randrange(20 * TICK_MS), letter))
            else:
                arrived.append(letter)
        waiting = [letter for letter in arrived if not self.is_awake(cluster.by_id[letter.to])]
        for letter in arrived:
            if self.is_awake(cluster.by_id[letter.to]):
                cluster.letters.insert(0, letter)
                cluster.deliver(0)
        cluster.letters += waiting[-200:]

    def fault(self) -> None:
        cluster, rng = self.cluster, self.random
        leader = cluster.leader()
        node = leader if leader is not None and rng.random() < 0.6 else rng.choice(cluster.nodes)
        other = rng.choice(cluster.nodes)
        if rng.random() < 0.008:
            self.stopped[node.index] = cluster.now_ms + rng.randrange(40 * TICK_MS)
        if rng.random() < 0.006:
            cluster.partition({node.id})
        if rng.random() < 0.02:
            cluster.cut |= {(node.id, other.id), (other.id, node.id)}
        if rng.random() < 0.015:
            cluster.heal()
        if other is not leader and rng.random() < self.restarts:
            other.crash()
            other.start()
        if leader is not None and other is not leader and rng.random() < self.closings:
            # As the system tells it, though the leader lives: somebody between them closed the connection.
            other.step(PeerUnreachable(leader.id, is_closed=True))
        if leader is not None and self.is_awake(leader) and rng.random() < self.transfers:
            cluster.transfer(leader, other.id)

    def demand(self) -> None:
        for node in self.cluster.nodes:
            if self.is_awake(node) and node.replica.status.role is Role.LEADER:
                if node.replica.status.last_term != node.replica.status.term or self.random.random() < self.proposals:
                    self.cluster.propose(node)
                node.read()
            elif self.is_awake(node) and self.random.random() < 0.05:
                node.read()


def test_reads_by_lease_see_everything_that_was_committed_before() -> None:
    by_lease = 0
    leaders = 0
    for seed in range(12):
        cluster = Leases(seed).run(600)
        by_lease += sum(node.reads_at_once for node in cluster.nodes)
        leaders += len(cluster.leaders)
    # Both are needed for a lease to lie: that there are any, and that leaders are replaced.
    assert by_lease > 500
    assert leaders > 14


@pytest.mark.slow
@pytest.mark.parametrize("block", range(2))
def test_reads_by_lease_see_everything_in_longer_runs_too(block: int) -> None:
    for seed in range(100 + 5 * block, 105 + 5 * block):
        Leases(seed).run(2000)
