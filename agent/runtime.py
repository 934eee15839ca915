"""The agent that a node embeds: receives a patch file, decides, announces, applies, records; recovers at start.

Everything that touches a disk or costs time runs in threads; each target has one lock, and one thing happens to it at a time. The agent
asks nothing but its `LedgerAccess`, its clock and its source of chance.

An application is safe to be killed anywhere: the intent is open in the outbox before anything changes, the journal says on which side of
the switch the tree is, and `recover` brings both together before anything else is done with the target.

Source: docs/spec/agent.md.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import trio

from agent.access import CommittedAt, LedgerAccess
from agent.blocking import run_blocking, write_error
from agent.clock_watch import ClockWatch
from agent.config import AgentConfig
from agent.delivery import Delivery
from agent.documents import drift_body, removal_body, repair_body
from agent.drift import NO_TREE, PASSING, is_full_due, own_moment_s, read_full_scan_ms
from agent.errors import ApplyFailedError, MetadataRefusedError, OutboxError, StateCorruptError, TargetRefusedError
from agent.facts import ACTION_ROLLBACK, Requester
from agent.files import Files
from agent.hooks import HookKind, Hooks, check_programs
from agent.lifecycle import Lifecycle, Note, Recovery
from agent.limits import (
    CLOCK_JUMP_MS_MAX,
    DELIVERY_PAUSE_SECONDS,
    DELIVERY_PAUSE_SECONDS_MAX,
    DELIVERY_SECONDS_MAX,
    TURN_RETRY_SECONDS,
    TURN_RETRY_SECONDS_MAX,
)
from agent.outbox import Entry, HostBody, Outbox
from agent.policy_cache import PolicyCache
from agent.progress import ACTION_DRIFT, Progress
from agent.registry import Registry, Target, TargetStatus
from agent.results import Outcome, ResultCode
from agent.retries import Retries
from agent.rollback import find_dependants, find_installed, height_of, is_file_of
from agent.split_views import SplitViewStatus
from agent.target import LOCK_FILE
from agent.turns import CHANNEL, OpenTurn, find_open_turns
from ledger.bodies import HostReport
from ledger.transaction import Transaction, build_transaction
from wire.errors import RejectedError, UnavailableError
from wire.hashing import Digest, sha256

if TYPE_CHECKING:
    from trio_typing import TaskStatus

__all__ = [
    "Agent",
    "AgentConfig",
    "AgentStatus",
    "CommittedAt",
    "LedgerAccess",
    "Outcome",
    "Recovery",
    "Requester",
    "ResultCode",
    "TargetStatus",
]

OUTBOX_FILE: Final = "outbox.log"
TARGETS_DIRECTORY: Final = "targets"
AUTOMATIC_ROLES: Final = ("operator",)
"""Who lets a host take part in rollouts asks, as its operator, for what they bring; policies tell it apart by its channel."""
_HISTORY_DEFAULT: Final = 100


def _no_note(event: str, facts: Mapping[str, object]) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """How the agent stands."""

    identity_id: str
    targets: tuple[str, ...]
    """Names."""
    records_waiting: int
    """Records that wait for the ledger."""
    records_delivered: int
    records_refused: int
    """Records that the ledger refused for good."""
    intents_open: int
    """Applications between their intent and their outcome."""
    unacknowledged_intents: int
    """Changes that were carried out and whose intents the ledger is not known to have."""
    unacknowledged_intents_max: int
    """How many there may be; 0 waits for each acknowledgement."""
    counter: int
    """Last number in the host's chain of deployment records that was signed here."""
    replica_height: int
    replica_age_ms: int
    replica_age_ms_max: int
    high_water: int | None
    """Highest block acted on, or None before the first."""
    clock_step_ms: int
    """By how much the host's clock has jumped; beyond `CLOCK_JUMP_MS_MAX`, either way, nothing is applied."""
    delivery_problem: str
    """Why records wait, or ""."""
    split_views_open: tuple[int, ...]
    """Heights of split views that nobody has settled here: while there is one, nothing is applied."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "identity": self.identity_id,
            "targets": list(self.targets),
            "records_waiting": self.records_waiting,
            "records_delivered": self.records_delivered,
            "records_refused": self.records_refused,
            "intents_open": self.intents_open,
            "unacknowledged_intents": self.unacknowledged_intents,
            "unacknowledged_intents_max": self.unacknowledged_intents_max,
            "counter": self.counter,
            "replica_height": self.replica_height,
            "replica_age_ms": self.replica_age_ms,
            "replica_age_ms_max": self.replica_age_ms_max,
            "high_water": self.high_water,
            "clock_step_ms": self.clock_step_ms,
            "clock_jumped": abs(self.clock_step_ms) > CLOCK_JUMP_MS_MAX,
            "delivery_problem": self.delivery_problem,
            "split_views_open": list(self.split_views_open),
        }


class Agent:
    """The attestation agent of one host. Opens its directory at once; one process at a time may.

    Args:
        config: Its settings.
        ledger: The ledger as the node offers it.
        now_ms: The clock: milliseconds since the epoch, UTC.
        uptime_ms: Milliseconds on a clock that nobody sets, and by which rollouts' patches wait.
        clock: Tells whether that clock has jumped; None where nobody can tell.
        nonce: Returns 16 fresh random bytes.
        files: The door to the file system.
        policies: Policy sets already checked, when several agents of one process share them.
        note: Told what happens in the background.

    Raises:
        UnavailableError: ``agent.state.in_use``: another process holds the directory.
        StateCorruptError: ``agent.state.damaged``.
        StateWriteError: ``agent.state.write``: the directory cannot be made, read or written.
    """

    def __init__(
        self,
        config: AgentConfig,
        ledger: LedgerAccess,
        *,
        now_ms: Callable[[], int],
        uptime_ms: Callable[[], int],
        clock: ClockWatch | None = None,
        nonce: Callable[[], bytes],
        files: Files | None = None,
        policies: PolicyCache | None = None,
        note: Note = _no_note,
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._now_ms = now_ms
        self._nonce = nonce
        self._files = Files() if files is None else files
        self._note = note
        try:
            self._registry = Registry(self._files, self._path(TARGETS_DIRECTORY))
            self._lock_fd = _hold(self._path(LOCK_FILE))
            try:
                self._files.remove_unfinished(config.directory)
                self._outbox = Outbox(self._files, self._path(OUTBOX_FILE))
            except BaseException:
                os.close(self._lock_fd)
                raise
        except OSError as error:
            raise write_error(error) from error
        self._delivery = Delivery(self._outbox, ledger, config.identity_id, self._sign)
        self._lifecycle = Lifecycle(
            config,
            ledger,
            self._outbox,
            self._delivery,
            files=self._files,
            policies=PolicyCache() if policies is None else policies,
            now_ms=now_ms,
            clock=clock,
            note=note,
        )
        try:
            for slot in self._registry:
                # What a killed process left of an application that is recorded. Damage is told where the state is needed.
                with suppress(OSError, StateCorruptError):
                    self._lifecycle.forget_patches(slot)
        except BaseException:
            self.close()
            raise
        self._locks: dict[str, trio.Lock] = {}
        self._registry_lock = trio.Lock()
        self._delivery_problem = ""
        self._retries: Retries[tuple[str, str]] = Retries(TURN_RETRY_SECONDS, TURN_RETRY_SECONDS_MAX, uptime_ms)

    def close(self) -> None:
        """Release the agent's directory."""
        self._outbox.close()
        os.close(self._lock_fd)

    # Patches

    async def explain(self, data: bytes, target: str, requester: Requester) -> Outcome:
        """Return how an application would end now; nothing is changed or recorded anywhere.

        Args:
            data: A whole patch file; untrusted.
            target: The target's name.
            requester: Who asks.

        Raises:
            TargetRefusedError: ``agent.target.unknown``, ``agent.target.not_adopted``.
            CorruptionError: The agent's state or the replica is damaged.
        """
        slot = self._registry.get(target)
        async with self._lock(slot):
            return await self._lifecycle.explain(slot, data, requester)

    async def apply(self, data: bytes, target: str, requester: Requester) -> Outcome:
        """Return how the application ended; every ending is recorded, and only SUCCESS changes the target.

        Args:
            data: A whole patch file; untrusted.
            target: The target's name.
            requester: Who asks.

        Raises:
            TargetRefusedError: ``agent.target.unknown``, ``agent.target.not_adopted``.
            UnavailableError: ``agent.state.in_use``: another process changes the target.
            CorruptionError: The agent's state or the replica is damaged. An open application stays open for `recover`.
        """
        slot = self._registry.get(target)
        async with self._lock(slot):
            lock_fd = await run_blocking(_hold, slot.store.path(LOCK_FILE))
            try:
                await self._lifecycle.recover(slot)
                return await self._lifecycle.apply(slot, data, requester)
            finally:
                os.close(lock_fd)

    async def rollback(
        self, patch_id: str, target: str, requester: Requester, *, with_dependants: bool = False, explain: bool = False
    ) -> tuple[Outcome, ...]:
        """Return how the rollback of an installed patch ended; of several, one after the other, until one is refused or fails.

        Args:
            patch_id: 64 hexadecimal digits.
            target: The target's name.
            requester: Who asks.
            with_dependants: Whether patches that stand on this one are undone before, the newest first; without it they refuse.
            explain: Whether to say only how it would end (with dependants: how the first one would); nothing is changed or recorded.

        Raises:
            TargetRefusedError: ``agent.target.unknown``, ``agent.target.not_adopted``.
            MetadataRefusedError: ``agent.rollback.not_installed``.
            UnavailableError: ``agent.state.in_use``; ``agent.ledger.patch_not_found``: the kept file is lost, and no peer has it now.
            CorruptionError: The agent's state or the replica is damaged. What is open stays open for `recover`.
        """
        slot = self._registry.get(target)
        async with self._lock(slot):
            if explain:
                order = await run_blocking(_rollback_order, slot, patch_id, with_dependants)
                data = await self._kept_patch(slot, order[0])
                return (await self._lifecycle.explain(slot, data, requester, ACTION_ROLLBACK),)
            lock_fd = await run_blocking(_hold, slot.store.path(LOCK_FILE))
            try:
                await self._lifecycle.recover(slot)
                outcomes: list[Outcome] = []
                for each in await run_blocking(_rollback_order, slot, patch_id, with_dependants):
                    data = await self._kept_patch(slot, each)
                    outcomes.append(await self._lifecycle.apply(slot, data, requester, ACTION_ROLLBACK))
                    if not outcomes[-1].is_success:
                        break
                return tuple(outcomes)
            finally:
                os.close(lock_fd)

    async def _kept_patch(self, slot: Target, patch_id: str) -> bytes:
        """Return the file of an installed patch as the target keeps it, or where that is lost or damaged, from a peer."""
        data = await run_blocking(slot.store.read_patch, patch_id)
        return data if data is not None and is_file_of(data, patch_id) else await self.fetch_patch(patch_id)

    async def fetch_patch(self, patch_id: str) -> bytes:
        """Return the file of a published patch from the local store or a peer.

        Raises:
            MetadataRefusedError: ``agent.metadata.not_published``.
            UnavailableError: ``agent.ledger.patch_not_found``: nobody has it now.
        """
        record = self._ledger.view().patch(bytes.fromhex(patch_id))
        if record is None:
            raise MetadataRefusedError("agent.metadata.not_published", "the patch is not published", actual=patch_id)
        data = await self._ledger.fetch_patch(record.file_digest, record.file_bytes)
        if data is None or sha256(data) != record.file_digest:
            raise OutboxError("agent.ledger.patch_not_found", "no peer has the file of this patch now", actual=patch_id)
        return data

    def targets_for(self, patch_id: bytes) -> tuple[str, ...] | None:
        """Return the targets that carry a component of a published patch, or None when the ledger does not know it."""
        record = self._ledger.view().patch(patch_id)
        if record is None:
            return None
        return tuple(
            slot.config.name for slot in self._registry if any(slot.config.carries(each) for each in record.components)
        )

    def roots(self) -> tuple[str, ...]:
        """Return the roots of all targets, absolute paths."""
        return tuple(slot.config.root for slot in self._registry)

    def progress(self, target: str) -> Progress | None:
        """Return how far it is what is being done at a target, or None when nothing is. Never waits.

        Raises:
            TargetRefusedError: ``agent.target.unknown``.
        """
        return self._registry.get(target).tracker.look()

    async def installed_patches(self) -> frozenset[bytes]:
        """Return the ids of the patches that are installed at any target, and so may be rolled back.

        Raises:
            StateCorruptError: ``agent.state.damaged``.
        """
        return await run_blocking(self._registry.installed_patches)

    # Split views

    def split_views(self) -> tuple[SplitViewStatus, ...]:
        """Return every split view that this host knows of, lowest height first; one that is not settled stops every application."""
        return self._lifecycle.split_views()

    async def settle_split_view(self, height: int, reason: str, by: str) -> SplitViewStatus:
        """Return a split view after somebody who answers for this host has settled it; it stops nothing any more.

        Args:
            height: Where the histories differ.
            reason: Why this host goes on with the history that it has, one line.
            by: Who says so, a local name.

        Raises:
            SplitViewRefusedError: ``agent.split_view.unknown``, ``agent.split_view.too_many``.
            MalformedError: ``wire.field.*``: the reason.
            StateWriteError: ``agent.state.write``.
        """
        return await run_blocking(self._lifecycle.settle_split_view, height, reason, by)

    # Targets

    async def add_target(self, document: dict[str, Any]) -> TargetStatus:
        """Return the status of a new target; its tree as it is becomes the baseline, and the ledger is told.

        Args:
            document: ``name``, ``root``, ``components``, ``windows``, ``frozen`` and ``allowed``; untrusted.

        Raises:
            RejectedError: ``agent.target.*``, ``wire.field.*``.
            UnavailableError: ``agent.target.*``, ``agent.outbox.full``.
        """
        async with self._registry_lock:
            # Nothing is guarded of which the ledger will not hear: a caller that is gone now only stops listening.
            self._outbox.check_room()
            with trio.CancelScope(shield=True):
                status = await run_blocking(self._registry.add, document)
                slot = self._registry.get(status.config.name)
                async with self._lock(slot):
                    await self._lifecycle.tell_adoption(slot)
        return status

    def list_targets(self) -> tuple[str, ...]:
        """Return the names of all targets."""
        return tuple(target.config.name for target in self._registry)

    async def show_target(self, name: str) -> TargetStatus:
        """Return the target as it is configured, recorded, and found now; that there is no record is told as its problem.

        Raises:
            TargetRefusedError: ``agent.target.unknown``.
        """
        slot = self._registry.get(name)
        async with self._lock(slot):
            return self._with_heights(await run_blocking(slot.status))

    async def glance_at_target(self, name: str) -> TargetStatus:
        """Return the target's status without waiting for a change that is under way: then as it was seen last, and told to be busy.

        Raises:
            TargetRefusedError: ``agent.target.unknown``.
        """
        slot = self._registry.get(name)
        if self._lock(slot).locked():
            return self._with_heights(await run_blocking(slot.status_while_busy))
        return await self.show_target(name)

    async def adopt_target(self, name: str) -> TargetStatus:
        """Return the target's status after its tree as it is has become the recorded one; the ledger is told.

        Raises:
            TargetRefusedError: ``agent.target.*``.
            UnavailableError: ``agent.target.*``, ``agent.outbox.full``.
        """
        slot = self._registry.get(name)
        async with self._lock(slot):
            await self._lifecycle.recover(slot)
            self._outbox.check_room()
            with trio.CancelScope(shield=True):
                status = await run_blocking(slot.adopt)
                await self._lifecycle.tell_adoption(slot)
        return status

    async def freeze_target(self, name: str, *, frozen: bool) -> None:
        """Stop all changes of a target, or allow them again. Raises TargetRefusedError, StateWriteError."""
        slot = self._registry.get(name)
        async with self._lock(slot):
            await run_blocking(slot.change, replace(slot.config, frozen=frozen))

    async def allow_target(self, name: str, allowed: object) -> None:
        """Let patches do these things at a target, and no others. Raises TargetRefusedError, StateWriteError."""
        slot = self._registry.get(name)
        async with self._lock(slot):
            config = type(slot.config).from_json_untrusted({**slot.config.to_json(), "allowed": allowed})
            await run_blocking(slot.change, config)

    async def change_mode(self, name: str, mode: object) -> None:
        """Let a target be changed in another mode from now on, after it was tried; refused while anything is done with it.

        Args:
            name: The target's name.
            mode: ``exchange`` or ``in-place``; untrusted.

        Raises:
            TargetRefusedError: ``agent.target.unknown``, ``agent.target.mode``, ``agent.target.own_directory``,
                ``agent.target.mount_point``.
            ApplyFailedError: ``agent.target.busy``, ``agent.target.no_exchange``, ``agent.target.no_in_place``.
            UnavailableError: ``agent.state.in_use``, ``agent.state.write``, and what keeps an open application from being recovered.
            CorruptionError: The agent's state is damaged.
        """
        slot = self._registry.get(name)
        async with self._held_at_rest(slot):
            await run_blocking(slot.change_mode, mode)
        self._note("agent.target.mode", {"target": name, "mode": slot.config.mode.value})

    async def change_standby(self, name: str, *, kept: bool) -> None:
        """Let a large target have a standby tree, or none from now on; refused while anything is done with it.

        Raises:
            TargetRefusedError: ``agent.target.unknown``.
            ApplyFailedError: ``agent.target.busy``.
            UnavailableError: ``agent.state.in_use``, ``agent.state.write``, and what keeps an open application from being recovered.
            CorruptionError: The agent's state is damaged.
        """
        slot = self._registry.get(name)
        async with self._held_at_rest(slot):
            await run_blocking(partial(slot.change_standby, kept=kept))
        self._note("agent.target.standby", {"target": name, "kept": kept})

    @asynccontextmanager
    async def _held_at_rest(self, slot: Target) -> AsyncIterator[None]:
        """Keep everybody else from a target that rests, once what a crash left open is recovered. Raises as `change_mode`."""
        if self._lock(slot).locked():
            raise _busy(slot.config.name)
        async with self._lock(slot):
            lock_fd = await run_blocking(_hold, slot.store.path(LOCK_FILE))
            try:
                await self._lifecycle.recover(slot)
                if self._lifecycle.is_open(slot):
                    raise _busy(slot.config.name)
                yield
            finally:
                os.close(lock_fd)

    async def set_hook(self, name: str, kind: HookKind, hook: object) -> None:
        """Let something run around changes of a target, or with None nothing any more.

        Args:
            name: The target's name.
            kind: When it runs.
            hook: ``argv``, ``timeout_s``, ``retries``, ``interval_s`` and ``soak_s``, or None; untrusted.

        Raises:
            TargetRefusedError: ``agent.target.unknown``, ``agent.target.hook``, ``agent.hook.program``, ``agent.hook.inside_target``.
            StateWriteError: ``agent.state.write``.
        """
        slot = self._registry.get(name)
        async with self._lock(slot):
            document = slot.config.hooks.with_hook(kind, None).to_json()
            hooks = Hooks.from_json_untrusted(document if hook is None else {**document, kind.value: hook})
            roots = tuple(each.config.root for each in self._registry)
            if hook is not None:
                await run_blocking(check_programs, hooks, roots)
            await run_blocking(slot.change, replace(slot.config, hooks=hooks))

    async def remove_target(self, name: str) -> None:
        """Forget a target, and tell the ledger that nobody vouches for its tree from now on; the tree and its history stay.

        Raises:
            TargetRefusedError: ``agent.target.unknown``.
            UnavailableError: ``agent.apply.immutable``, ``agent.outbox.full``, ``agent.state.*``: it is still guarded.
            CorruptionError: The agent's state is damaged.
        """
        slot = self._registry.get(name)
        async with self._registry_lock, self._lock(slot):
            await self._lifecycle.recover(slot)
            await run_blocking(slot.remove_second_trees)
            recorded = await run_blocking(_recorded_tree, slot)
            if recorded is not None:
                # If this is as far as it comes, the next look finds the tree as recorded, and tells that, too.
                await run_blocking(slot.mark_drift_reported, NO_TREE)
            await self._delivery.queue(HostReport("drift", name, removal_body(recorded or NO_TREE)))
            await run_blocking(self._registry.remove, name)

    async def history(self, name: str, limit: int = _HISTORY_DEFAULT) -> tuple[dict[str, Any], ...]:
        """Return how the last applications and refusals ended, newest first. Raises TargetRefusedError, StateCorruptError."""
        slot = self._registry.get(name)
        return await run_blocking(slot.history, limit)

    async def check_drift(
        self, name: str | None = None, *, full: bool = False, wait: bool = True
    ) -> tuple[TargetStatus, ...]:
        """Return the status of every target that has drifted; each drift is told to the ledger once, and so is its end.

        A target is looked at between changes, never in the middle of one.

        Args:
            name: One target; None for all.
            full: Whether every file is read; otherwise only where that is due, and else what changed.
            wait: Whether to wait for the end of a change; otherwise a target that is being changed is left for the next time.

        Raises:
            TargetRefusedError: ``agent.target.unknown``.
            UnavailableError: ``agent.outbox.full``, ``agent.state.*``.
            CorruptionError: The agent's state is damaged.
        """
        drifted = []
        for slot in tuple(self._registry) if name is None else (self._registry.get(name),):
            if not wait and self._lock(slot).locked():
                continue
            async with self._lock(slot):
                await self._lifecycle.recover(slot)
                with slot.tracker.work(ACTION_DRIFT):
                    status = await run_blocking(self._scan, slot, full)
                if status.is_drifted:
                    drifted.append(status)
                await self._report_drift(slot, status)
        return tuple(drifted)

    def _scan(self, slot: Target, full: bool) -> TargetStatus:
        now_ms = self._now_ms()
        due = full or is_full_due(read_full_scan_ms(slot.store), now_ms, self._config.drift_full_interval_s)
        return slot.status(full_at_ms=now_ms if due else None)

    async def _report_drift(self, slot: Target, status: TargetStatus) -> None:
        if status.problem_code in PASSING:
            return
        if not status.has_baseline:
            self._note("agent.drift.failed", {"target": slot.config.name, "message": status.problem})
            return
        found = NO_TREE if status.tree_digest is None else status.tree_digest
        if status.is_drifted and found != status.state.drift_reported:
            await self._delivery.queue(HostReport("drift", slot.config.name, drift_body(status)))
            await run_blocking(slot.mark_drift_reported, found)
            self._note("agent.drift", {"target": slot.config.name, "paths": status.drifted_count})
        elif not status.is_drifted and status.state.drift_reported is not None:
            await self._delivery.queue(HostReport("repair", slot.config.name, repair_body(status)))
            await run_blocking(slot.mark_drift_reported, None)
            self._note("agent.drift.repaired", {"target": slot.config.name})

    def status(self) -> AgentStatus:
        """Return how the agent stands."""
        return AgentStatus(
            identity_id=self._config.identity_id,
            targets=self.list_targets(),
            records_waiting=len(self._outbox.pending),
            records_delivered=self._outbox.delivered_count,
            records_refused=self._outbox.refused_count,
            intents_open=len(self._outbox.open_intents),
            unacknowledged_intents=self._outbox.unacknowledged,
            unacknowledged_intents_max=self._config.unacknowledged_intents_max,
            counter=self._outbox.head.counter,
            replica_height=self._ledger.view().height,
            replica_age_ms=self._ledger.replica_age_ms(),
            replica_age_ms_max=self._config.replica_age_ms_max,
            high_water=None if self._lifecycle.mark is None else self._lifecycle.mark.height,
            clock_step_ms=self._lifecycle.clock_step_ms(),
            delivery_problem=self._delivery_problem,
            split_views_open=tuple(each.height for each in self.split_views() if each.settled is None),
        )

    def waiting(self, after: int, limit: int) -> tuple[Entry, ...]:
        """Return at most `limit` records that wait for the ledger and were queued behind the sequence `after`, in their order."""
        return tuple(islice((each for each in self._outbox.pending if each.sequence > after), limit))

    # Background

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Recover, then deliver records, look for drift and take turns in rollouts until cancelled.

        Raises:
            CorruptionError: The agent's state is damaged; the node must stop.
        """
        try:
            try:
                await self.recover()
            except (RejectedError, UnavailableError) as error:
                # What is open stays open: nothing is done with its target before it is recovered, which is tried again then.
                self._note("agent.recovery.failed", {"code": error.code, "message": error.message})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._deliver_for_ever)
                nursery.start_soon(self._check_drift_for_ever)
                if self._config.turns_interval_s is not None:
                    nursery.start_soon(self._take_turns_for_ever, self._config.turns_interval_s)
                task_status.started()
        finally:
            self._lifecycle.stopping.set()

    async def recover(self) -> list[Recovery]:
        """Return what became of every open application, after its outcome was queued. At start, and harmless at any time.

        Raises:
            StateCorruptError: ``agent.state.*``.
        """
        found = []
        for slot in self._registry:
            async with self._lock(slot):
                recovery = await self._lifecycle.recover(slot)
                if recovery is not None:
                    found.append(recovery)
        # An intent of a target that is no longer there: nothing of it can have been applied since.
        for entry in self._outbox.open_intents:
            if self._registry.find(entry.body.target) is None:
                found.append(await self._lifecycle.close_open_intent(entry, None, None))
        return found

    async def _deliver_for_ever(self) -> None:
        pause = DELIVERY_PAUSE_SECONDS
        while True:
            try:
                await self._delivery.deliver(DELIVERY_SECONDS_MAX)
            except UnavailableError as error:
                if not self._delivery_problem:
                    self._note("agent.delivery.waits", {"code": error.code, "message": error.message})
                self._delivery_problem = error.message
                with trio.move_on_after(pause):
                    while not self._delivery.is_first_on_ledger():  # noqa: ASYNC110 - a replica has no event for that
                        await trio.sleep(DELIVERY_PAUSE_SECONDS)
                pause = min(2 * pause, DELIVERY_PAUSE_SECONDS_MAX)
            else:
                self._delivery_problem = ""
                pause = DELIVERY_PAUSE_SECONDS
                await self._delivery.wait_queued()

    async def _check_drift_for_ever(self) -> None:
        interval_s = self._config.drift_interval_s
        next_s = trio.current_time() + own_moment_s(self._config.identity_id, interval_s)
        while True:
            await trio.sleep_until(next_s)
            for name in self.list_targets():
                try:
                    await self.check_drift(name, wait=False)
                except (RejectedError, UnavailableError) as error:
                    self._note("agent.drift.failed", {"target": name, "message": str(error)})
            # By the clock, not from the end of one scan to the next: a host keeps its place in the interval.
            next_s = max(next_s + interval_s, trio.current_time())

    # Rollouts

    async def take_turns(self) -> tuple[Outcome, ...]:
        """Return how the patches ended that rollouts bring to this host now, each recorded like any other application.

        What was refused once is asked about again, ever less often, and tried only when it would succeed: the ledger knows the refusal.

        Raises:
            CorruptionError: The agent's state or the replica is damaged.
        """
        turns = find_open_turns(self._ledger.view(), self._config.identity_id)
        rollouts = {each.rollout_id for each in turns}
        self._retries.keep_only(lambda key: key[0] in rollouts)
        outcomes = []
        for turn in turns:
            for slot in self._registry:
                if not any(slot.config.carries(name) for name in turn.patch.components):
                    continue
                name = slot.config.name
                if not turn.is_wanted(name) or not self._retries.is_due((turn.rollout_id, name)):
                    continue
                outcome = await self._take_turn(turn, name)
                if outcome is None or not outcome.is_success:
                    self._retries.put_off((turn.rollout_id, name))
                if outcome is not None:
                    outcomes.append(outcome)
        return tuple(outcomes)

    async def _take_turn(self, turn: OpenTurn, target: str) -> Outcome | None:
        """Return how the application ended, or None when none was tried."""
        requester = Requester(turn.rollout_id, AUTOMATIC_ROLES, CHANNEL)
        facts: dict[str, object] = {"rollout": turn.rollout_id, "target": target}
        try:
            data = await self.fetch_patch(turn.patch.patch_id.hex())
            if turn.state_of(target) is not None and not (await self.explain(data, target, requester)).is_success:
                return None
            outcome = await self.apply(data, target, requester)
        except (RejectedError, UnavailableError) as error:
            self._note("agent.turn.failed", {**facts, "code": error.code, "message": error.message})
            return None
        self._note("agent.turn", {**facts, "result": outcome.code.value, "reason": outcome.reason})
        return outcome

    async def _take_turns_for_ever(self, interval_s: float) -> None:
        # Hosts look at different moments, each always at its own: ten thousand would otherwise ask for one file at once.
        await trio.sleep(own_moment_s(self._config.identity_id, interval_s))
        while True:
            await self.take_turns()
            await trio.sleep(interval_s)

    # Small things

    def _with_heights(self, status: TargetStatus) -> TargetStatus:
        """Return the status with the heights that the ledger has given intents since, of changes that did not wait for it."""
        installed = status.state.installed
        if all(each.height for each in installed):
            return status
        host, name, view = self._config.identity_id, status.config.name, self._ledger.view()
        told = tuple(replace(each, height=height_of(view, host, name, each) or 0) for each in installed)
        return replace(status, state=replace(status.state, installed=told))

    def _sign(self, body: HostBody) -> Transaction:
        return build_transaction(
            self._ledger.chain_id,
            body.KIND,
            body,
            self._config.key,
            self._nonce(),
            self._ledger.view().height + self._config.not_after_window,
            self._now_ms(),
        )

    def _lock(self, slot: Target) -> trio.Lock:
        return self._locks.setdefault(slot.config.name, trio.Lock())

    def _path(self, name: str) -> str:
        return os.path.join(self._config.directory, name)


def _recorded_tree(slot: Target) -> Digest | None:
    """Return the recorded tree digest of a target, or None where its record is lost or damaged."""
    try:
        return slot.state().tree_digest
    except (TargetRefusedError, StateCorruptError):
        return None


def _rollback_order(slot: Target, patch_id: str, with_dependants: bool) -> tuple[str, ...]:
    """Return the patches to undo, in order; the named one comes last."""
    state = slot.state()
    find_installed(state, patch_id)
    dependants = find_dependants(state, patch_id, slot.store.read_patch) if with_dependants else ()
    return (*dependants, patch_id)


def _busy(name: str) -> ApplyFailedError:
    return ApplyFailedError(
        "agent.target.busy",
        "something is being done with the target, or an application is open",
        actual=name,
        hint="try again",
    )


def _hold(path: str) -> int:
    """Return a descriptor that holds the lock file until it is closed, also by the process's death.

    Raises:
        UnavailableError: ``agent.state.in_use``.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UnavailableError("agent.state.in_use", f"another process holds {path}") from error
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
