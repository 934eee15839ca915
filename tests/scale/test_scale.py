"""The fleet in small: what `python -m tests.scale --hosts 10000` does and checks, with 200 hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scale.fleet import LIES, Simulation
from tests.testkit.ledger import Chain


@pytest.mark.slow
async def test_two_hundred_hosts_go_through_a_rollout_and_no_record_is_lost(tmp_path: Path) -> None:
    simulation = Simulation(tmp_path, 200, together=40)
    await simulation.run()
    rollout = simulation.status
    assert (rollout["status"], rollout["complete"]) == ("running", True)
    assert [wave["hosts"] for wave in rollout["waves"]] == [5, 15, 80, 100]
    assert sum(wave["failed"] for wave in rollout["waves"]) == rollout["failures"] == 4
    assert sum(wave["applied"] for wave in rollout["waves"]) == 196
    before = simulation.status_before_return
    assert sum(wave["offline"] + wave["waiting"] for wave in before["waves"]) == 10
    assert simulation.refusals == LIES
    assert (simulation.figures["lost"], simulation.figures["records"]) == (0, 398)
    # Every host's decision names few others, so an intent does not grow with the fleet.
    assert simulation.sequencer.largest["deployment.intent"] < 16_384
    # Somebody who has nothing but the blocks comes to the same state.
    follower = Chain(genesis=simulation.sequencer.chain.genesis)
    for block in simulation.sequencer.chain.blocks[1:]:
        follower.apply(block, certify=False)
    assert follower.view.rollout("spring@acme") == simulation.sequencer.view.rollout("spring@acme")
