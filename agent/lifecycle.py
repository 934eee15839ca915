"""One patch on one target, from its bytes to its recorded end, and after a crash anywhere in between.

Safe to be killed at any point: the intent is open in the outbox before anything changes, the journal says on which side of the switch the
tree is, and `recover` brings both together before anything else is done with the target. What costs time or touches a disk runs in threads.

Source: docs/spec/agent.md 4 to 7.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import trio

from agent.access import LedgerAccess
from agent.applying import Application, Made, Settled, apply_patch, settle, try_out
from agent.blocking import run_blocking
from agent.clock_watch import ClockWatch
from agent.config import AgentConfig
from agent.context import HostFacts
from agent.decision import Decision, facts_alone, latest_moment
from agent.delivery import Delivery
from agent.documents import adoption_body, history_record, outcome_detail
from agent.errors import (
    ApplyFailedError,
    MetadataRefusedError,
    OutboxError,
    ReplicaStaleError,
    StateCorruptError,
    StateWriteError,
    TargetRefusedError,
)
from agent.facts import ACTION_APPLY, ACTION_ROLLBACK, Requester
from agent.files import TEMPORARY_SUFFIX, Files, is_there
from agent.highwater import HighWater, read_high_water, write_high_water
from agent.hooks import HookRun, HookRunner
from agent.inventory import Inventory
from agent.limits import DECISION_AGE_MS_MAX, OUTBOX_REFUSALS_MAX
from agent.outbox import Entry, Outbox
from agent.pipeline import Case, Judged, encode_decision, judge
from agent.policy_cache import PolicyCache
from agent.progress import ACTION_EXPLAIN, ACTION_RECOVER, FILES
from agent.registry import Target
from agent.results import Outcome, ResultCode, StepName, StepResult, done_code, result_code
from agent.split_views import SettledSplit, SplitViews, SplitViewStatus
from agent.switch import Journal, Phase, Side
from agent.target import JOURNAL_FILE, Installed, Mode
from ledger.block import ZERO_DIGEST
from ledger.bodies import DeploymentIntent, DeploymentOutcome, HostReport
from ledger.state import StateView
from wire import canonical_json
from wire.errors import PatchwardenError, RejectedError, UnavailableError
from wire.hashing import Digest

HIGH_WATER_FILE: Final = "highwater.json"
SPLIT_VIEWS_FILE: Final = "split-views.json"

Note = Callable[[str, Mapping[str, object]], None]
"""Told what happens in the background: an event name and its facts. The node logs it."""

_INTERRUPTED: Final = {
    Side.NEW: "the {what} was interrupted after the switch and is complete",
    Side.OLD: "the {what} was interrupted before the switch; nothing was changed",
    Side.OTHER: "the {what} was interrupted, and the target is neither the old tree nor the new one: somebody else has written to it",
}

_AFTER_TRIAL: Final = {
    Side.NEW: "the old tree is not there any more, so the new one stands although it did not pass",
    Side.OLD: "the old tree stands again",
    Side.OTHER: "the target's directory is neither the old one nor the new one",
}


@dataclass(frozen=True, slots=True)
class Recovery:
    """What became of an application that a crash, or a ledger out of reach, had left open."""

    target: str
    patch_id: str
    """64 hexadecimal digits."""
    applied: bool
    """Whether what was asked for is done: the patch applied, or undone."""
    message: str
    """One sentence."""
    outcome_tx: bytes
    """tx_id of the outcome, queued now."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "target": self.target,
            "patch_id": self.patch_id,
            "applied": self.applied,
            "message": self.message,
            "outcome_tx": self.outcome_tx.hex(),
        }


class Lifecycle:
    """What can happen to the targets of one host. The caller holds a target's lock around every call that names it.

    Args:
        config: The agent's settings.
        ledger: The ledger as the node offers it.
        outbox: What waits for the ledger; only read here.
        delivery: The way to the ledger.
        files: The door to the file system.
        policies: Checked policy sets.
        now_ms: The clock: milliseconds since the epoch, UTC.
        clock: Tells whether that clock has jumped; None where nobody can tell.
        note: Told what happens.

    Raises:
        StateCorruptError: ``agent.state.damaged``.
    """

    def __init__(
        self,
        config: AgentConfig,
        ledger: LedgerAccess,
        outbox: Outbox,
        delivery: Delivery,
        *,
        files: Files,
        policies: PolicyCache,
        now_ms: Callable[[], int],
        clock: ClockWatch | None = None,
        note: Note,
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._outbox = outbox
        self._delivery = delivery
        self._files = files
        self._now_ms = now_ms
        self._clock = clock
        self._note = note
        self._policies = policies
        self._alone = 0
        self._mark_path = os.path.join(config.directory, HIGH_WATER_FILE)
        self._mark = read_high_water(self._mark_path)
        self._mark_lock = threading.Lock()
        self._split_views = SplitViews(files, os.path.join(config.directory, SPLIT_VIEWS_FILE))
        self.stopping = threading.Event()
        """Set when the agent ends: a hook that may take long is given up then, and what it was to judge is taken back."""

    @property
    def mark(self) -> HighWater | None:
        """The highest certified block acted on, or None before the first."""
        return self._mark

    def clock_step_ms(self) -> int:
        """Return by how much the host's clock has jumped, milliseconds; 0 where nobody can tell."""
        return 0 if self._clock is None else self._clock.step_ms(self._ledger.view().header)

    def split_views(self) -> tuple[SplitViewStatus, ...]:
        """Return every split view that this host knows of, lowest height first."""
        return self._split_views.known(self._ledger.split_heights(), self._ledger.view())

    def settle_split_view(self, height: int, reason: str, by: str) -> SplitViewStatus:
        """Return a split view after it is settled, durably. Blocking.

        Raises:
            SplitViewRefusedError: ``agent.split_view.unknown``, ``agent.split_view.too_many``.
            MalformedError: ``wire.field.*``.
            OSError: It was not written.
        """
        said = SettledSplit(height, reason, by, self._now_ms())
        status = self._split_views.settle(said, self._ledger.split_heights(), self._ledger.view())
        self._note("agent.split_view.settled", {"height": height, "reason": reason, "by": by})
        return status

    async def explain(self, slot: Target, data: bytes, requester: Requester, action: str = ACTION_APPLY) -> Outcome:
        """Return how an application, or a rollback, would end now; nothing is changed or recorded."""
        with slot.tracker.work(ACTION_EXPLAIN):
            judged, tree = await run_blocking(self._judge, slot, data, requester, action)
        return _ended(slot, judged, tree)

    def _judge(self, slot: Target, data: bytes, requester: Requester, action: str) -> tuple[Judged, Digest | None]:
        """Return how the case ends before anything changes, and the tree's digest. Blocking."""
        state = slot.state()
        try:
            root_fd = slot.open_root()
        except PatchwardenError as error:
            return _unreadable(error, action), None
        try:
            try:
                inventory = slot.last_inventory(root_fd, state.tree_digest)
            except (RejectedError, UnavailableError) as error:
                return _unreadable(error, action), None
            case = Case(
                data=data,
                requester=requester,
                view=self._ledger.view(),
                mark=self._mark,
                split_views=self._split_views,
                split_heights=self._ledger.split_heights(),
                host=HostFacts(
                    identity=self._config.identity_id,
                    group=self._config.host_group,
                    replica_age_ms=max(0, self._ledger.replica_age_ms()),
                    replica_age_ms_max=self._config.replica_age_ms_max,
                    records_waiting=len(self._outbox.pending),
                    unacknowledged_intents=self._outbox.unacknowledged,
                ),
                now_ms=self._now_ms(),
                clock_step_ms=self.clock_step_ms(),
                config=slot.config,
                state=state,
                inventory=inventory,
                root_fd=root_fd,
                look=lambda paths: slot.look_at(root_fd, paths),
                policies=self._policies,
                action=action,
                flags=slot.flags,
                read_patch=slot.store.read_patch,
                tracker=slot.tracker,
            )
            judged = judge(case)
            if judged.plan is not None:
                judged.tree_after = slot.digest_after(judged.plan)
            return judged, inventory.tree_digest if judged.inventory is None else judged.inventory.tree_digest
        finally:
            os.close(root_fd)

    async def apply(self, slot: Target, data: bytes, requester: Requester, action: str = ACTION_APPLY) -> Outcome:
        """Return how the application, or the rollback, ended; every ending is recorded, and only a success changes the target.

        Args:
            slot: The target.
            data: A whole patch file; of a rollback, the one that was applied.
            requester: Who asks.
            action: `ACTION_APPLY` or `ACTION_ROLLBACK`.

        Raises:
            TargetRefusedError: ``agent.target.not_adopted``.
            CorruptionError: The agent's state or the replica is damaged. An open application stays open for `recover`.
        """
        with slot.tracker.work(action):
            return await self._apply(slot, data, requester, action)

    async def _apply(self, slot: Target, data: bytes, requester: Requester, action: str) -> Outcome:
        judged, tree = await run_blocking(self._judge, slot, data, requester, action)
        outcome = _ended(slot, judged, tree)
        if judged.error is not None:
            return await self._record_refusal(slot, outcome, data, requester)
        assert judged.decision is not None, "an allowed patch has a decision"
        assert judged.mark is not None, "an allowed patch was decided on a block"
        try:
            await run_blocking(self._raise_mark, judged.mark)
        except StateWriteError as error:
            return await self._record_refusal(slot, _failed(outcome, StepName.INTENT, error), data, requester)
        try:
            intent, outcome = await self._announce(slot, outcome, judged)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._give_up(slot, outcome)
            raise
        if intent is None:
            return await self._record_refusal(slot, outcome, data, requester)
        # Counted while it lasts, so that several targets at once keep the bound.
        self._alone += intent.height is None
        try:
            # A caller that is cancelled now only stops listening: the application is carried to its recorded end.
            with trio.CancelScope(shield=True):
                if intent.height is None and intent.refusal is None:
                    outcome = await run_blocking(self._go_on_alone, outcome, judged)
                if intent.height is not None or outcome.unacknowledged:
                    outcome = await self._change_unless_late(slot, outcome, judged, data, intent)
            return await self._record(slot, outcome, requester, data, closes=intent.sequence)
        finally:
            self._alone -= intent.height is None

    async def _give_up(self, slot: Target, outcome: Outcome) -> None:
        """Close the intent of a caller that did not wait for it; nothing was changed."""
        entry = next((each for each in self._outbox.open_intents if _target_of(each) == slot.config.name), None)
        if entry is not None:
            await self.close_open_intent(entry, slot, Settled(None, Side.OLD, outcome.tree_before))

    async def _announce(self, slot: Target, outcome: Outcome, judged: Judged) -> tuple[Entry | None, Outcome]:
        """Return the intent, committed if its height is set, and how the application would end if it ended here."""
        assert judged.decision is not None, "only what was decided is announced"
        assert outcome.tree_before is not None, "only a readable tree is changed"
        body = DeploymentIntent(
            counter=0,
            previous=ZERO_DIGEST,
            target=slot.config.name,
            patch_id=bytes.fromhex(judged.patch_id),
            tree_before=outcome.tree_before,
            decision=encode_decision(judged.decision),
        )
        slot.tracker.begin(StepName.INTENT, "waiting for the ledger to have the intent")
        try:
            queued = await self._delivery.queue(body)
        except OutboxError as error:
            return None, _failed(outcome, StepName.INTENT, error)
        problem: PatchwardenError | None = None
        try:
            with trio.fail_after(self._config.intent_wait_s):
                await self._delivery.deliver(self._config.intent_wait_s, until=queued.sequence)
        except OutboxError as error:
            problem = error
        except trio.TooSlowError:
            problem = OutboxError(
                "agent.ledger.unavailable", f"the intent was not committed within {self._config.intent_wait_s:g} s"
            )
        intent = self._outbox.find_intent(queued.sequence)
        assert intent is not None, "an intent is kept until its outcome is delivered"
        if intent.height is not None:
            message = f"committed at height {intent.height}"
            passed = replace(outcome, intent_tx=intent.transaction.tx_id)
            return intent, _passed(passed, StepName.INTENT, message)
        if intent.refusal is not None:
            problem = _refused_intent(*intent.refusal)
        assert problem is not None, "an intent that is neither delivered nor refused has a reason to wait"
        return intent, _failed(replace(outcome, intent_tx=intent.transaction.tx_id), StepName.INTENT, problem)

    def _go_on_alone(self, outcome: Outcome, judged: Judged) -> Outcome:
        """Return the outcome as one that goes on without the ledger, if host and policy allow that; otherwise as it is. Blocking."""
        decision = judged.decision
        assert decision is not None, "what was announced was decided"
        count = self._outbox.unacknowledged + self._alone
        bound = self._config.unacknowledged_intents_max
        if count > bound:
            used = f"; {count - 1} of at most {bound} changes already wait for the ledger to have their intents"
            return _adding(outcome, used) if bound else outcome
        verdict = self._policies.get(self._ledger.view().policy(decision.policy_version)).evaluate(
            facts_alone(decision.facts, count)
        )
        if not verdict.allowed:
            return outcome
        message = f"waits in the outbox; host and policy allow {count} changes before the ledger has their intents"
        announced = StepResult(StepName.INTENT, True, outcome.reason, message)
        return replace(
            outcome,
            code=done_code(outcome.action),
            reason="",
            message="every requirement holds",
            hint="",
            steps=(*outcome.steps[:-1], announced),
            unacknowledged=count,
        )

    async def _change_unless_late(
        self, slot: Target, outcome: Outcome, judged: Judged, data: bytes, intent: Entry
    ) -> Outcome:
        """Return how the application ended; it is stopped when its intent was long on its way, or a split view was found meanwhile."""
        assert judged.decision is not None, "what was announced was decided"
        try:
            if intent.height is not None:
                _check_age(judged.decision, self._ledger.view(), intent.height)
            self._split_views.check_settled(self._ledger.split_heights(), self._ledger.view())
        except ReplicaStaleError as error:
            return _failed(outcome, StepName.APPLY, error)
        return await self._change(slot, outcome, judged, data, intent)

    async def _change(self, slot: Target, outcome: Outcome, judged: Judged, data: bytes, intent: Entry) -> Outcome:
        """Return how the application ended, with the target changed if and only if that is SUCCESS."""
        assert judged.plan is not None, "an allowed patch is planned"
        assert judged.patch is not None, "an allowed patch is verified"
        assert judged.inventory is not None, "a planned patch has an inventory"
        assert judged.state is not None, "a planned patch has a state"
        assert judged.tree_after is not None, "a planned patch has a result"
        application = Application(
            data=data,
            plan=judged.plan,
            inventory=judged.inventory,
            installed=Installed(
                patch_id=judged.patch_id,
                release_counter=judged.patch.metadata.release_counter,
                components=judged.patch.metadata.component_names,
                height=intent.height or 0,
                intent_tx=intent.transaction.tx_id.hex(),
                applied_ms=self._now_ms(),
            ),
            intent=intent.sequence,
            state=judged.state,
            action=judged.action,
            restores=judged.restores,
            tree_after=judged.tree_after,
            tracker=slot.tracker,
            unacknowledged=outcome.unacknowledged,
        )
        hooks = self._hooks(slot, judged.patch_id, judged.action)
        problem: PatchwardenError | None = None
        warning = ""
        made: Made | None = None
        try:
            made = await run_blocking(apply_patch, self._files, slot.store, slot.config, application, hooks)
            if slot.config.hooks.judge:
                made = None  # Whoever is put back to work may write to the tree.
                warning = await run_blocking(try_out, self._files, slot.store, hooks)
        except (RejectedError, UnavailableError) as error:
            problem = error
        slot.tracker.begin(StepName.APPLY, "recording the new tree", unit=FILES)
        changed = tuple(change.path.decode() for change in judged.plan.changes) if problem is None else ()
        settled = await run_blocking(self._settle, slot, intent.sequence, problem is None, made, changed)
        if settled.is_done and settled.journal is not None:
            done = replace(outcome, tree_after=settled.journal.tree_after, hooks=tuple(hooks.runs))
            how = "file by file, in place" if slot.config.mode is Mode.IN_PLACE else "in one switch"
            message = f"{len(judged.plan.changes)} paths changed {how}"
            return _passed(done, StepName.APPLY, f"{message}; {warning}" if warning else message)
        if hooks.runs and settled.side is Side.OLD:
            await self._restore(slot, hooks)
        if problem is None:
            problem = ApplyFailedError("agent.apply.io", "somebody replaced the target's files during the switch")
        ended = replace(outcome, tree_after=settled.tree_digest, hooks=tuple(hooks.runs))
        return _failed(ended, StepName.APPLY, _told(problem, settled))

    def _hooks(self, slot: Target, patch_id: str, action: str) -> HookRunner:
        told = {
            "PATCHWARDEN_TARGET": slot.config.name,
            "PATCHWARDEN_ROOT": slot.config.root,
            "PATCHWARDEN_PATCH": patch_id,
        }
        what = "rollback" if action == ACTION_ROLLBACK else "apply"
        return HookRunner(slot.config.hooks, slot.store.directory, told, what, self.stopping, tracker=slot.tracker)

    async def _restore(self, slot: Target, hooks: HookRunner) -> None:
        """Put the target back to work on the tree that stands; that this fails is recorded, and changes nothing."""
        try:
            await run_blocking(hooks.restore)
        except UnavailableError as error:
            self._note("agent.hook.failed", {"target": slot.config.name, "message": error.message})

    async def _record_refusal(self, slot: Target, outcome: Outcome, data: bytes, requester: Requester) -> Outcome:
        if len(self._outbox.pending) < OUTBOX_REFUSALS_MAX:
            try:
                return await self._record(slot, outcome, requester, data, closes=None)
            except OutboxError as error:
                self._note("agent.outbox.full", {"target": slot.config.name, "message": error.message})
        await self._remember(slot, outcome)
        return outcome

    async def _record(
        self, slot: Target, outcome: Outcome, requester: Requester, data: bytes, *, closes: int | None
    ) -> Outcome:
        """Return the outcome after it stands in the outbox, and on the ledger if that does not take long."""
        body = _outcome_body(slot.config.name, outcome, outcome_detail(outcome, requester, data))
        slot.tracker.begin(StepName.RECORD, "recording the outcome")
        with trio.CancelScope(shield=True):
            entry = await self._delivery.queue(body, closes=closes)
            if closes is not None:
                await self._forget_patches(slot)
            await self._clean_up(slot)
        outcome = replace(outcome, outcome_tx=entry.transaction.tx_id)
        slot.tracker.begin(StepName.RECORD, "waiting for the ledger to have the outcome")
        try:
            outcome = await self._deliver_soon(outcome, entry)
        finally:
            with trio.CancelScope(shield=True):
                await self._remember(slot, outcome)
        return outcome

    async def _deliver_soon(self, outcome: Outcome, entry: Entry) -> Outcome:
        with trio.move_on_after(self._config.outcome_wait_s):
            try:
                await self._delivery.deliver(self._config.outcome_wait_s, until=entry.sequence)
            except OutboxError as error:
                self._note("agent.delivery.waits", {"code": error.code, "message": error.message})
        settled = self._delivery.find_settled(entry.sequence)
        if settled is None or settled.height is None:
            waiting = StepResult(StepName.RECORD, True, "", "the outcome waits in the outbox for the ledger")
            return replace(outcome, steps=(*outcome.steps, waiting))
        recorded = StepResult(StepName.RECORD, True, "", f"recorded at height {settled.height}")
        return replace(
            outcome,
            outcome_tx=settled.transaction.tx_id,
            recorded_height=settled.height,
            steps=(*outcome.steps, recorded),
        )

    # Recovery

    async def tell_adoption(self, slot: Target) -> None:
        """Queue the report of a baseline that was written, and that the ledger may not know of yet; nothing where there is none.

        A process killed before the mark is taken back tells the same baseline once more: the report first, so that it is never lost.

        Raises:
            StateWriteError: ``agent.state.write``: the mark stays.
            StateCorruptError: ``agent.state.*``.
        """
        adopted = await run_blocking(slot.untold_adoption)
        if adopted is None:
            return
        report = HostReport("adopt", slot.config.name, adoption_body(adopted))
        last = next((each for each in reversed(self._outbox.pending) if _target_of(each) == slot.config.name), None)
        if last is None or last.body != report:
            await self._delivery.queue(report, owed=True)
        await run_blocking(slot.mark_adoption_told)

    async def recover(self, slot: Target) -> Recovery | None:
        """Return what became of the target's open application, after its outcome was queued; None when there is none.

        An adoption that was not told is told first: nothing was begun since.

        Raises:
            StateWriteError: ``agent.state.write``.
            StateCorruptError: ``agent.state.*``.
        """
        await self.tell_adoption(slot)
        entry = next((each for each in self._outbox.open_intents if _target_of(each) == slot.config.name), None)
        if entry is None and not _has_rest(slot):
            return None
        with slot.tracker.work(ACTION_RECOVER):
            return await self._recover(slot, entry)

    async def _recover(self, slot: Target, entry: Entry | None) -> Recovery | None:
        recovery: Recovery | None = None
        if entry is not None:
            settled = await run_blocking(self._settle, slot, entry.sequence, False, None, ())
            journal = settled.journal
            runs: tuple[HookRun, ...] = ()
            if journal is not None and journal.hooked and journal.phase is not Phase.KEPT:
                hooks = self._hooks(slot, journal.patch_id, journal.action)
                await self._restore(slot, hooks)
                runs = tuple(hooks.runs)
            recovery = await self.close_open_intent(entry, slot, settled, runs)
            await self._forget_patches(slot)
        await self._clean_up(slot)
        return recovery

    def is_open(self, slot: Target) -> bool:
        """Return whether an application of the target is open, or has left something that could not be removed."""
        return _has_rest(slot) or any(True for _ in self._open_intents(slot))

    async def close_open_intent(
        self, entry: Entry, slot: Target | None, settled: Settled | None, hooks: tuple[HookRun, ...] = ()
    ) -> Recovery:
        """Return the truth about an open intent, after it stands in the outbox as its outcome.

        Args:
            entry: The open intent.
            slot: Its target, or None when the host has it no more.
            settled: What the disk says; None without a target: then nothing of it can have been applied.
            hooks: How the hooks ended that were run in the recovery.

        Raises:
            StateCorruptError: ``agent.state.*``.
        """
        body = entry.body
        assert isinstance(body, DeploymentIntent), "open intents are intents"
        journal = None if settled is None else settled.journal
        action = _announced_action(body)
        side = Side.OLD if settled is None or journal is None else settled.side
        applied = settled is not None and settled.is_done
        tree = body.tree_before if settled is None or settled.tree_digest is None else settled.tree_digest
        reason, message = _interrupted(side, journal, action, failed_trial=settled is not None and settled.failed_trial)
        outcome = Outcome(
            code=done_code(action) if applied else ResultCode.APPLY_FAILED,
            reason="" if applied else reason,
            message=message,
            target=body.target,
            patch_id=body.patch_id.hex(),
            decision=None,
            steps=(),
            tree_before=Digest(body.tree_before),
            tree_after=journal.tree_after if applied and journal is not None else Digest(tree),
            intent_tx=entry.transaction.tx_id,
            action=action,
            hooks=hooks,
            unacknowledged=journal.unacknowledged if applied and journal is not None else 0,
        )
        detail = outcome_detail(outcome, None, None)
        queued = await self._delivery.queue(_outcome_body(body.target, outcome, detail), closes=entry.sequence)
        outcome = replace(outcome, outcome_tx=queued.transaction.tx_id)
        if slot is not None:
            await self._remember(slot, outcome)
        self._note("agent.recovered", {"target": body.target, "patch": outcome.patch_id, "applied": applied})
        return Recovery(body.target, outcome.patch_id, applied, outcome.message, queued.transaction.tx_id)

    def _settle(
        self, slot: Target, intent: int, is_durable: bool, made: Made | None, changed: tuple[str, ...]
    ) -> Settled:
        def look(journal: Journal | None) -> Inventory | None:
            return slot.look_again(journal, is_done=is_durable, made=made)

        return settle(self._files, slot.store, slot.config, intent, look, is_durable=is_durable, changed=changed)

    async def _clean_up(self, slot: Target) -> None:
        """Remove what the application left. The truth is recorded, so a disk that fails now costs nothing but space."""
        if not _has_rest(slot):
            return
        slot.tracker.begin(StepName.RECORD, "removing what is not needed any more")
        try:
            await run_blocking(slot.finish)
        except (StateWriteError, TargetRefusedError) as error:
            self._note("agent.clean_up.failed", {"target": slot.config.name, "message": error.message})

    async def _forget_patches(self, slot: Target) -> None:
        """Remove the kept files that no record needs. A disk that fails now costs nothing but space until the next start."""
        try:
            await run_blocking(self.forget_patches, slot)
        except (StateWriteError, StateCorruptError) as error:
            self._note("agent.clean_up.failed", {"target": slot.config.name, "message": error.message})

    def forget_patches(self, slot: Target) -> None:
        """Remove the kept files of patches that are neither installed nor named by an open intent. Blocking.

        Raises:
            StateCorruptError: ``agent.state.damaged``; nothing is removed.
            OSError: Not all of them could be removed.
        """
        state = slot.store.read_target_state()
        if state is None:
            return
        kept = {each.patch_id for each in state.installed}
        kept |= {each.patch_id.hex() for each in self._open_intents(slot)}
        slot.store.forget_patches(kept)

    def _open_intents(self, slot: Target) -> Iterator[DeploymentIntent]:
        bodies = (each.body for each in self._outbox.open_intents)
        return (each for each in bodies if isinstance(each, DeploymentIntent) and each.target == slot.config.name)

    async def _remember(self, slot: Target, outcome: Outcome) -> None:
        """Add the ending to the local history, which only informs: the records that count are in the outbox."""
        try:
            await run_blocking(slot.append_history, history_record(outcome, self._now_ms()))
        except (StateWriteError, StateCorruptError) as error:
            self._note("agent.history.failed", {"target": slot.config.name, "message": error.message})

    def _raise_mark(self, mark: HighWater) -> None:
        """Remember the highest block acted on, durably, before acting on it. Blocking.

        Each target has its own thread here: two that wrote at once would share one unfinished file, and the lower mark could win.
        """
        with self._mark_lock:
            if self._mark is None or mark.height > self._mark.height:
                write_high_water(self._files, self._mark_path, mark)
                self._mark = mark


def _target_of(entry: Entry) -> str:
    return entry.body.target


def _has_rest(slot: Target) -> bool:
    """Return whether an application has left a journal or a staging directory, or may have: a disk that fails has not said no."""
    journal = slot.store.path(JOURNAL_FILE)
    try:
        return any(map(is_there, (journal, journal + TEMPORARY_SUFFIX, slot.config.staging)))
    except OSError:
        return True


def _check_age(decision: Decision, view: StateView, height: int) -> None:
    """Return when the ledger heard of a decision soon enough after it was taken for it to be acted on: a host may have slept in between.

    Raises:
        ReplicaStaleError: ``agent.replica.decision_late``.
    """
    decided_on, heard_in = view.header_at(decision.height), view.header_at(height) or view.header
    latest_ms = decision.facts.now_ms if decided_on is None else latest_moment(decision.facts, decided_on.time_ms)
    late_ms = heard_in.time_ms - latest_ms
    if late_ms > DECISION_AGE_MS_MAX:
        raise ReplicaStaleError(
            "agent.replica.decision_late",
            "the intent came to the ledger too long after it was decided on",
            expected=f"a block of at most {DECISION_AGE_MS_MAX} ms later",
            actual=f"{late_ms} ms",
            hint="apply again",
        )


def _interrupted(side: Side, journal: Journal | None, action: str, *, failed_trial: bool) -> tuple[str, str]:
    """Return code and sentence of what a crash came to; what had failed before it is told as what it was."""
    what = "rollback" if action == ACTION_ROLLBACK else "application"
    if journal is None or not failed_trial:
        return "agent.apply.interrupted", _INTERRUPTED[side].format(what=what)
    tree = _AFTER_TRIAL[side]
    if journal.failure is not None:
        code, message = journal.failure
        return code, f"{message}; {tree}"
    return "agent.apply.interrupted", f"the {what} was interrupted before the target was known to be healthy; {tree}"


def _told(problem: PatchwardenError, settled: Settled) -> PatchwardenError:
    """Return the problem with what became of the tree, where hooks had judged it."""
    if not settled.failed_trial:
        return problem
    return ApplyFailedError(problem.code, f"{problem.message}; {_AFTER_TRIAL[settled.side]}", hint=problem.hint)


def _announced_action(body: DeploymentIntent) -> str:
    """Return what an intent of this host announced, by the facts of its own decision."""
    decision = canonical_json.decode_untrusted(body.decision)
    facts = decision.get("facts") if isinstance(decision, dict) else None
    return str(facts.get("action", ACTION_APPLY)) if isinstance(facts, dict) else ACTION_APPLY


def _unreadable(error: PatchwardenError, action: str) -> Judged:
    """Return a case that ended because the target itself cannot be read."""
    return Judged(steps=[StepResult(StepName.ADMIT, False, error.code, error.message)], error=error, action=action)


def _ended(slot: Target, judged: Judged, tree: Digest | None) -> Outcome:
    """Return the outcome of a judged case in which nothing was changed."""
    error = judged.error
    return Outcome(
        code=done_code(judged.action) if error is None else result_code(error),
        reason="" if error is None else error.code,
        message="every requirement holds" if error is None else error.message,
        target=slot.config.name,
        patch_id=judged.patch_id,
        decision=judged.decision,
        steps=tuple(judged.steps),
        tree_before=tree,
        tree_after=tree,
        hint="" if error is None else error.hint,
        action=judged.action,
    )


def _passed(outcome: Outcome, step: StepName, message: str) -> Outcome:
    return replace(outcome, steps=(*outcome.steps, StepResult(step, True, "", message)))


def _adding(outcome: Outcome, words: str) -> Outcome:
    """Return an outcome whose last step has failed, with more words about why."""
    last = replace(outcome.steps[-1], message=outcome.steps[-1].message + words)
    return replace(outcome, message=outcome.message + words, steps=(*outcome.steps[:-1], last))


def _failed(outcome: Outcome, step: StepName, error: PatchwardenError) -> Outcome:
    return replace(
        outcome,
        code=result_code(error),
        reason=error.code,
        message=error.message,
        hint=error.hint,
        steps=(*outcome.steps, StepResult(step, False, error.code, error.message)),
    )


def _refused_intent(code: str, message: str) -> PatchwardenError:
    """Return why the ledger would not have the intent: what it says about the patch outweighs an older decision."""
    if code.startswith(("ledger.patch.", "ledger.rollout.")):
        return MetadataRefusedError(code, message)
    return OutboxError(code, message)


def _outcome_body(target: str, outcome: Outcome, detail: bytes) -> DeploymentOutcome:
    before = ZERO_DIGEST if outcome.tree_before is None else outcome.tree_before
    return DeploymentOutcome(
        counter=0,
        previous=ZERO_DIGEST,
        target=target,
        patch_id=bytes.fromhex(outcome.patch_id) if outcome.patch_id else ZERO_DIGEST,
        intent_tx_id=None,
        result=outcome.code.value,
        tree_before=before,
        tree_after=before if outcome.tree_after is None else outcome.tree_after,
        detail=detail,
    )
