"""A host that takes its turn in a rollout by itself, through the same pipeline as everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from agent.errors import MetadataRefusedError
from agent.limits import TURN_RETRY_SECONDS, TURN_RETRY_SECONDS_MAX
from agent.results import ResultCode
from agent.turns import check_turn, find_open_turns
from ledger import bodies
from ledger.rollout_bodies import GroupAssign, RolloutCreate, RolloutDecide
from ledger.rollout_order import rank_of
from ledger.rollout_records import HALTED, RolloutRecord
from tests.testkit.agent import HOST, OPERATOR, TARGET, TREE, World, write_tree
from tests.testkit.rollouts import ADMINISTRATOR, BEFORE, FAILED, MANAGER, SPRING, WEB, wave


class Fleet(World):
    """Two hosts in a group: ours, and one that only speaks to the ledger."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.chain.register("web2@acme", "host")
        self.chain.register(MANAGER, "release-manager")
        self.chain.submit(GroupAssign(WEB, (HOST, "web2@acme")), ADMINISTRATOR)
        self.data = self.release()
        self.patch_id = self.chain.view.patches().__next__().patch_id

    def create(self, *waves: Any, budget: int = 0) -> None:
        self.chain.submit(RolloutCreate(SPRING, self.patch_id, (WEB,), waves or (wave("all"),), budget, ""), MANAGER)

    def decide(self, decision: str) -> None:
        self.chain.submit(RolloutDecide(SPRING, decision, ""), MANAGER)

    def other(self, result: str = "SUCCESS") -> None:
        """Let the other host apply it."""
        opened = self.chain.submit(
            bodies.DeploymentIntent(1, bytes(32), "site", self.patch_id, BEFORE, b"{}"), "web2@acme"
        ).tx_id
        after = b"\x02" * 32 if result == "SUCCESS" else BEFORE
        self.chain.submit(
            bodies.DeploymentOutcome(2, opened, "site", self.patch_id, opened, result, BEFORE, after, b"{}"),
            "web2@acme",
        )

    @property
    def rollout(self) -> RolloutRecord:
        found = self.chain.view.rollout(SPRING)
        assert found is not None
        return found


@pytest.fixture
async def fleet(tmp_path: Path) -> Fleet:
    fleet = Fleet(tmp_path)
    await fleet.add_target()
    return fleet


async def test_a_host_applies_what_its_turn_brings(fleet: Fleet) -> None:
    assert await fleet.agent.take_turns() == ()
    fleet.create()
    (outcome,) = await fleet.agent.take_turns()
    assert (outcome.code, outcome.target) == (ResultCode.SUCCESS, TARGET)
    assert fleet.rollout.counts[0][4] == 1
    ((event, facts),) = [note for note in fleet.notes if note[0].startswith("agent.turn")]
    assert (event, facts["rollout"], facts["result"]) == ("agent.turn", SPRING, "SUCCESS")
    decision = outcome.decision
    assert decision is not None
    requester = decision.facts.requester
    assert (requester.name, requester.roles, requester.channel) == (SPRING, ("operator",), "automatic")
    assert await fleet.agent.take_turns() == ()
    fleet.agent.close()


async def test_a_host_waits_for_its_wave(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    await fleet.add_target()
    ours = rank_of(SPRING, WEB, 0, 2)
    fleet.create(wave("one", hosts=1), wave("all"))
    if ours == 0:
        assert len(await fleet.agent.take_turns()) == 1
    else:
        assert await fleet.agent.take_turns() == ()
        refused = await fleet.agent.apply(fleet.data, TARGET, OPERATOR)
        assert (refused.code, refused.reason) == (ResultCode.INVALID_METADATA, "agent.metadata.rollout_not_open")
        fleet.other()
        assert [each.code for each in await fleet.agent.take_turns()] == [ResultCode.SUCCESS]
    fleet.agent.close()


async def test_nothing_goes_while_it_is_halted(fleet: Fleet) -> None:
    fleet.create()
    fleet.other(FAILED)
    assert fleet.rollout.status == HALTED
    assert await fleet.agent.take_turns() == ()
    with pytest.raises(MetadataRefusedError) as refused:
        check_turn(fleet.chain.view, HOST, fleet.patch_id)
    assert refused.value.code == "agent.metadata.rollout_halted"
    explained = await fleet.agent.explain(fleet.data, TARGET, OPERATOR)
    assert explained.reason == "agent.metadata.rollout_halted"
    fleet.decide("resume")
    assert len(await fleet.agent.take_turns()) == 1
    fleet.agent.close()


async def test_a_halt_between_decision_and_intent_is_the_ledgers_word(fleet: Fleet) -> None:
    """The replica does not know of the halt yet; the ledger refuses the intent, and nothing was changed."""
    fleet.create()
    await fleet.agent._delivery.deliver(5.0)
    decided_on = fleet.ledger.snapshot()
    fleet.decide("halt")
    fleet.ledger.frozen = decided_on
    before = fleet.digest()
    (outcome,) = await fleet.agent.take_turns()
    assert (outcome.code, outcome.reason) == (ResultCode.INVALID_METADATA, "ledger.rollout.halted")
    assert fleet.digest() == before
    fleet.agent.close()


async def test_a_refusal_is_recorded_once_and_tried_again_when_it_would_succeed(fleet: Fleet) -> None:
    fleet.create()
    await fleet.agent.freeze_target(TARGET, frozen=True)
    (refused,) = await fleet.agent.take_turns()
    assert refused.code is ResultCode.POLICY_DENIED
    assert fleet.rollout.counts[0][:5] == (0, 0, 0, 1, 0)
    records = len(fleet.outcomes())
    for _ in range(3):
        assert await fleet.agent.take_turns() == ()
        fleet.pass_ms(2 * TURN_RETRY_SECONDS * 1000)
    assert len(fleet.outcomes()) == records
    await fleet.agent.freeze_target(TARGET, frozen=False)
    fleet.pass_ms(TURN_RETRY_SECONDS_MAX * 1000)
    assert [each.code for each in await fleet.agent.take_turns()] == [ResultCode.SUCCESS]
    assert fleet.rollout.counts[0][:5] == (0, 0, 0, 0, 1)
    fleet.agent.close()


async def test_a_clock_that_was_wrong_for_a_moment_puts_nothing_off(fleet: Fleet) -> None:
    fleet.create()
    right, year_ms = fleet.now_ms, 365 * 86_400_000
    fleet.now_ms, fleet.ledger.age_ms = right + year_ms, year_ms
    (outcome,) = await fleet.agent.take_turns()
    assert outcome.code is ResultCode.STALE_REPLICA
    fleet.now_ms, fleet.ledger.age_ms = right, 0
    assert await fleet.agent.take_turns() == ()
    fleet.pass_ms(TURN_RETRY_SECONDS * 1000)
    assert [each.code for each in await fleet.agent.take_turns()] == [ResultCode.SUCCESS]
    fleet.agent.close()


async def test_what_is_there_already_is_told(fleet: Fleet) -> None:
    assert (await fleet.agent.apply(fleet.data, TARGET, OPERATOR)).is_success
    fleet.create()
    (outcome,) = await fleet.agent.take_turns()
    assert outcome.reason == "agent.metadata.already_applied"
    assert fleet.rollout.counts[0][:5] == (0, 0, 0, 0, 1)
    fleet.pass_ms(3_600_000)
    assert await fleet.agent.take_turns() == ()
    fleet.agent.close()


async def test_a_tree_that_was_set_up_anew_does_not_count_as_applied(fleet: Fleet) -> None:
    """It had the patch; the tree that stands there now does not, and its release is used up."""
    assert (await fleet.agent.apply(fleet.data, TARGET, OPERATOR)).code is ResultCode.SUCCESS
    await fleet.agent.remove_target(TARGET)
    write_tree(fleet.root, TREE)
    await fleet.add_target()
    fleet.create()
    (outcome,) = await fleet.agent.take_turns()
    assert outcome.reason == "agent.metadata.counter_not_increasing"
    assert fleet.rollout.counts[0][:5] == (0, 0, 0, 1, 0)
    # Under another name it is another target.
    await fleet.agent.remove_target(TARGET)
    await fleet.add_target(name="fresh")
    (outcome,) = await fleet.agent.take_turns()
    assert (outcome.code, outcome.target) == (ResultCode.SUCCESS, "fresh")
    fleet.agent.close()


async def test_what_was_rolled_back_does_not_come_back_by_itself(fleet: Fleet) -> None:
    fleet.create(budget=1)
    assert len(await fleet.agent.take_turns()) == 1
    (undone,) = await fleet.agent.rollback(fleet.patch_id.hex(), TARGET, OPERATOR)
    assert undone.code is ResultCode.ROLLED_BACK
    assert (fleet.rollout.counts[0][:5], fleet.rollout.failures) == ((0, 0, 1, 0, 0), 1)
    fleet.pass_ms(3_600_000)
    assert await fleet.agent.take_turns() == ()
    fleet.agent.close()


async def test_withdrawn_patches_and_targets_without_the_component_are_left_alone(fleet: Fleet) -> None:
    fleet.create()
    await fleet.agent.remove_target(TARGET)
    assert len(find_open_turns(fleet.chain.view, HOST)) == 1
    assert await fleet.agent.take_turns() == ()
    await fleet.add_target(components=["something-else"])
    assert await fleet.agent.take_turns() == ()
    fleet.chain.submit(bodies.PatchWithdraw(fleet.patch_id, "bad"), "alice@acme")
    assert find_open_turns(fleet.chain.view, HOST) == []
    fleet.agent.close()


async def test_a_file_that_nobody_has_is_asked_for_again(fleet: Fleet) -> None:
    fleet.create()
    kept = dict(fleet.ledger.patches)
    fleet.ledger.patches.clear()
    assert await fleet.agent.take_turns() == ()
    assert fleet.notes[-1][1]["code"] == "agent.ledger.patch_not_found"
    fleet.ledger.patches.update(kept)
    assert await fleet.agent.take_turns() == ()
    fleet.pass_ms(TURN_RETRY_SECONDS * 1000)
    assert len(await fleet.agent.take_turns()) == 1
    fleet.agent.close()


class Told(list[tuple[str, dict[str, object]]]):
    """Notes that say when a turn was taken."""

    def __init__(self, applied: trio.Event) -> None:
        super().__init__()
        self._applied = applied

    def append(self, note: tuple[str, dict[str, object]]) -> None:
        super().append(note)
        if note[0] == "agent.turn":
            self._applied.set()


@pytest.mark.parametrize("takes_part", [True, False])
async def test_the_running_agent_looks_by_itself(fleet: Fleet, takes_part: bool) -> None:
    fleet.create()
    applied = trio.Event()
    fleet.notes = Told(applied)
    agent = fleet.reopen(turns_interval_s=0.01 if takes_part else None)
    async with trio.open_nursery() as nursery:
        await nursery.start(agent.run)
        if takes_part:
            with trio.fail_after(60):
                await applied.wait()
        else:
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert fleet.rollout.counts[0][4] == 0
        nursery.cancel_scope.cancel()
    agent.close()
