"""A host whose root has gone bad: it signs whatever it likes with its own key, and with the keys of nobody else.

Each lie says what becomes of it: the code with which the ledger refuses it, or by what everybody can see it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ledger.bodies import Body, DeploymentIntent, DeploymentOutcome, HostReport, PatchWithdraw
from ledger.rollout_bodies import GroupAssign, RolloutDecide
from tests.scale.sequencer import Sequencer, refusal

INVENTED: Final = b"\x66" * 32
"""A tree that is nobody's."""


class Liar:
    """One bad host, beside an honest one whose records it knows."""

    def __init__(
        self, sequencer: Sequencer, *, name: str, victim: str, patch_id: bytes, tree: bytes, rollout: str
    ) -> None:
        self._sequencer = sequencer
        self.name, self._victim, self._patch_id, self._tree, self._rollout = name, victim, patch_id, tree, rollout

    def before_its_turn(self) -> dict[str, str]:
        """Return what becomes of what it tries while its wave is closed."""
        intent, outcome = self._intent(), self._outcome(None)
        victims_intent = next(
            each.deployment_id for each in self._sequencer.view.deployments() if each.host == self._victim
        )
        lies: dict[str, tuple[Body, Callable[[Body], str]]] = {
            "apply before its turn": (intent, self._refused),
            "outcome SUCCESS without an intent": (outcome, self._refused),
            "outcome for another host's intent": (replace(outcome, intent_tx_id=victims_intent), self._refused),
            "a record that leaves a number out": (replace(intent, counter=intent.counter + 1), self._refused),
            "a record that names another one before it": (replace(intent, previous=INVENTED), self._refused),
            "a report in another host's name": (HostReport("adopt", "app", b"{}"), self._forged),
            "halt the rollout": (RolloutDecide(self._rollout, "halt", ""), self._refused),
            "put itself into another group": (GroupAssign("canary@acme", (self.name,)), self._refused),
            "withdraw the patch": (PatchWithdraw(self._patch_id, ""), self._refused),
        }
        return {lie: check(body) for lie, (body, check) in lies.items()}

    def in_its_turn(self) -> dict[str, str]:
        """Say that the patch was applied, with a tree that it made up, and return what becomes of that and of saying it twice."""
        chain = self._sequencer.chain
        opened = chain.sign(self._intent(), self.name)
        chain.commit(opened)
        found = {
            "outcome that changes nothing": self._refused(replace(self._outcome(opened.tx_id), tree_after=self._tree))
        }
        other_tree = replace(self._outcome(opened.tx_id), tree_before=INVENTED, tree_after=self._tree)
        found["outcome for another tree than announced"] = self._refused(other_tree)
        closed = chain.sign(self._outcome(opened.tx_id), self.name)
        chain.commit(closed)
        found["outcome SUCCESS with a tree that it made up"] = ""
        found["the same outcome a second time"] = self._refused(self._outcome(opened.tx_id))
        found["the same transaction a second time"] = refusal(self._sequencer, closed)
        found["count the success again by announcing anew"] = self._count_again()
        return found

    def _count_again(self) -> str:
        view = self._sequencer.view
        before = view.rollout(self._rollout)
        chain = self._sequencer.chain
        opened = chain.sign(replace(self._intent(), tree_before=INVENTED), self.name)
        chain.commit(opened)
        chain.commit(
            chain.sign(replace(self._outcome(opened.tx_id), tree_before=INVENTED, tree_after=self._tree), self.name)
        )
        after = self._sequencer.view.rollout(self._rollout)
        assert before is not None
        assert after is not None
        assert [counts[:5] for counts in before.counts] == [counts[:5] for counts in after.counts]
        return "counted once"

    def _refused(self, body: Body) -> str:
        return refusal(self._sequencer, self._sequencer.chain.sign(body, self.name))

    def _forged(self, body: Body) -> str:
        """Sign with its own key under the other host's key id, which is what another host's name is."""
        chain = self._sequencer.chain
        honest = chain.sign(body, self._victim)
        forged = replace(honest, signature=chain.key(self.name).sign(honest.tx_id))
        return refusal(self._sequencer, forged)

    def _intent(self) -> DeploymentIntent:
        record = self._sequencer.view.host(self.name)
        counter, previous = (1, bytes(32)) if record is None else (record.counter + 1, record.last_tx_id)
        return DeploymentIntent(counter, previous, "app", self._patch_id, self._tree, b"{}")

    def _outcome(self, opened: bytes | None) -> DeploymentOutcome:
        intent = self._intent()
        return DeploymentOutcome(
            intent.counter, intent.previous, "app", self._patch_id, opened, "SUCCESS", self._tree, INVENTED, b"{}"
        )
