"""A node that is flooded says so, keeps within its limits, and lets honest clients in when they come back as asked."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ledger import bodies
from tests.faults.flood import children_of, run_flood
from tests.faults.machine import private_kib
from tests.testkit.cluster import running_cluster

pytestmark = [pytest.mark.live, pytest.mark.slow]

FLOODERS = ("flood1@acme", "flood2@acme")
FLOOD_S = 4
SETTINGS: dict[str, object] = {"mempool_transactions_max": 20, "block_transactions_max": 1}
"""So little that one request of 20 transactions by one signer, who may have half of the places, is more than there is room for:
however slow the client is."""
MEMORY_KIB_MAX = 400 * 1024
HONEST_S_MAX = 60


def test_a_flood_is_asked_to_come_back_and_the_node_lives(tmp_path: Path) -> None:
    """Guarded by `Mempool.add`, `GatewayLimits` and `problems.problem`: no bound, or none that says when to come back, fails this."""
    with running_cluster(tmp_path, validators=1, settings=SETTINGS) as cluster:
        for identity in ("web1@acme", *FLOODERS):
            cluster.register(identity, "host")
        (node,) = cluster.validators
        for signers in (FLOODERS, FLOODERS[:1]):
            answers = run_flood(cluster, signers, FLOOD_S, connections=40)
            assert not answers.unexpected()
            assert answers.without_retry_after == 0
            assert answers.broken == 0
            codes = " ".join([*answers.statuses, *answers.results])
            assert "ledger.mempool." in codes, "the flood was too small to show anything"
            refused = {text for text in answers.results if text.startswith("refused")}
            assert refused <= {"refused ledger.mempool.full", "refused ledger.mempool.signer_full"}
        begin = time.monotonic()
        (result,) = cluster.submit([cluster.sign(bodies.HostReport("inventory", "app", b"honest"), "web1@acme")])
        assert result["status"] == "committed"
        assert time.monotonic() - begin < HONEST_S_MAX
        assert node.process is not None
        for pid in (node.process.pid, *children_of(node.process.pid)):
            assert (private_kib(pid) or 0) < MEMORY_KIB_MAX
        assert node.stop() == 0
