"""The operators: they let machines join, vote, and leave, by the transactions that the command line would send.

What they wish for may be impossible by the time it is voted on; then the ledger refuses it and they let it be. What the ledger has accepted
must come to its end: a network that stays joint is not alive.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import trio

from ledger import bodies
from ledger.actions import Action
from ledger.configuration import Configuration
from ledger.validator_actions import AddLearner, PromoteLearner, RemoveValidator, ReplaceValidator
from tests.sim.errors import ViolationError
from tests.sim.plan import Aim, Change
from tests.testkit.ledger import ADMINISTRATORS, validator
from wire.errors import RejectedError

if TYPE_CHECKING:
    from tests.sim.world import World

VOTERS = ("acme", "beta")
"""Two of three organisations decide."""
TIMEOUT_MS = 1000
VOTERS_MAX = 7
EXPECTED = ("ledger.proposal.", "ledger.tx.expired")
"""Refusals of what was possible when it was wished for."""


class Operator:
    """Sees to the changes of one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._running = 0
        self._idle = trio.Event()

    def start(self) -> None:
        """Begin each change at its time."""
        for number, change in enumerate(self._world.plan.changes):
            self._running += 1
            self._world.nursery.start_soon(self._see_to, number, change)

    async def finish(self) -> None:
        """Return when nobody works at a change any more, and none is under way."""
        if self._running:
            await self._idle.wait()
        while self._world.oracle.configuration.is_joint:  # noqa: ASYNC110 - whoever looks at the oracle changes nothing
            await trio.sleep(0.05)

    async def _see_to(self, number: int, change: Change) -> None:
        rng = Random(f"operator {self._world.plan.seed} {number}")
        await trio.sleep(change.at_s)
        if not self._world.are_faults_over:
            action = self._choose(change.aim, rng)
            if action is not None:
                await self._adopt(f"o{number + 1}", action, rng)
        self._running -= 1
        if not self._running:
            self._idle.set()

    def _choose(self, aim: Aim, rng: Random) -> Action | None:
        configuration = self._world.oracle.configuration
        voters = list(configuration.incoming or configuration.voters)
        learners = list(configuration.learners)
        match aim:
            case Aim.ADD:
                return self._add(configuration, rng)
            case Aim.PROMOTE if learners and len(voters) < VOTERS_MAX:
                return PromoteLearner(rng.choice(learners).name)
            case Aim.REMOVE if len(voters) > 1:
                return RemoveValidator(rng.choice(voters + learners).name)
            case Aim.REMOVE_LEADER if len(voters) > 1:
                leader = self._world.leader()
                return None if leader is None else RemoveValidator(leader.name)
            case Aim.REPLACE if learners:
                return ReplaceValidator(rng.choice(voters).name, rng.choice(learners).name)
        return None

    def _add(self, configuration: Configuration, rng: Random) -> Action | None:
        oracle = self._world.oracle
        waiting = [
            node
            for node in self._world.nodes
            if node.is_spare and configuration.nodes.find(node.id) is None and node.id not in oracle.retired
        ]
        if not waiting:
            return None
        node = rng.choice(waiting)
        if not node.peers:
            node.peers = [member.id for member in self._world.members]
            node.start()
        return AddLearner(validator(node.index + 1))

    async def _adopt(self, name: str, action: Action, rng: Random) -> None:
        trace, counts = self._world.trace, self._world.oracle.counts
        trace.tell(name, f"wants {action.to_value()[0]} {getattr(action, 'name', '')}")
        proposal = await self._submit(name, bodies.ProposalCreate(action, ""), VOTERS[0], rng)
        for organisation in VOTERS if proposal is not None else ():
            if await self._submit(name, bodies.ProposalVote(proposal or b"", True), organisation, rng) is None:
                break
        else:
            if proposal is not None:
                counts[f"changes: {action.to_value()[0]}"] += 1
                trace.tell(name, "has what it wants")

    async def _submit(self, name: str, body: bodies.Body, organisation: str, rng: Random) -> bytes | None:
        """Return the id of the transaction when it is committed, None when it is refused."""
        world = self._world
        transaction = world.clients.sign(body, ADMINISTRATORS[organisation])
        world.clients.waiting[name] = f"{name} waits for {body.KIND}"
        while True:
            node = rng.choice(world.members if world.are_faults_over else world.nodes)
            result = await world.clients.submit(node, transaction, rng, TIMEOUT_MS)
            if result.status in ("committed", "refused"):
                break
            await trio.sleep(rng.uniform(0.01, 0.1))
        del world.clients.waiting[name]
        if result.status == "committed":
            return bytes(transaction.tx_id)
        assert result.error is not None
        world.trace.tell(name, f"is refused: {result.error.code}")
        if isinstance(result.error, RejectedError) and not result.error.code.startswith(EXPECTED):
            raise ViolationError("operator.refused", f"{name}: {result.error}")
        return None
