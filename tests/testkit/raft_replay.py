"""Play seeds of the consensus simulator again: ``python -m tests.testkit.raft_replay SEED [EVENTS]`` or ``FIRST-LAST [EVENTS]``."""

from __future__ import annotations

import sys

from tests.testkit.raft_sim import run_seed


def main(arguments: list[str]) -> None:
    first, _, last = arguments[0].partition("-")
    events = int(arguments[1]) if len(arguments) > 1 else 2000
    for seed in range(int(first), int(last or first) + 1):
        cluster = run_seed(seed, events)
        print(
            f"seed {seed}: {cluster.size} validators, {cluster.events} events, {len(cluster.committed)} blocks, "
            f"{sum(node.reads_answered for node in cluster.nodes)} reads, {sum(node.reads_at_once for node in cluster.nodes)} by lease"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
