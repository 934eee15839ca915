"""How a rollout came to be what it is: its record after each transaction about its patch, computed anew from what the ledger keeps.

The record itself only counts, and says nothing of the past. This goes through the history of the patch with the rules that counted it
(`ledger.rules_rollout`), so whoever shows a course has nothing but the ledger to believe, and sees at its end whether it is the record.

Source: docs/spec/rollouts.md 9.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ledger.actions import action_from_value_untrusted
from ledger.bodies import HostReport
from ledger.keyspace import patch_key, target_key
from ledger.records import DeploymentRecord
from ledger.rollout_actions import DecideRollout
from ledger.rollout_bodies import RolloutCreate, RolloutDecide
from ledger.rollout_counting import NOT_CARRIED_OUT, counted_host, state_after
from ledger.rollout_records import (
    APPLIED,
    ENDED,
    GOVERNANCE,
    NOBODY,
    REFUSED,
    RUNNING,
    UNDER_WAY,
    RolloutHost,
    RolloutRecord,
)
from ledger.rollout_turn import find_wave, is_reached, openings
from ledger.rules_host import is_empty_adoption
from ledger.rules_rollout import decided_rollout
from ledger.state import HistoryEntry, StateView
from ledger.transaction import decode_transaction_untrusted


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """One transaction about the patch of a rollout, and the rollout after it."""

    height: int
    """Height of its block."""
    time_ms: int
    """That block's time."""
    rollout: RolloutRecord | None
    """The rollout as it was then; None before it was made."""


def replay_rollout(view: StateView, rollout: RolloutRecord) -> Iterator[RolloutStep]:
    """Yield the rollout after each transaction about its patch, oldest first.

    Where this replica keeps the whole history and no host was counted by two rollouts, the last step has `rollout` as it is.

    Args:
        view: The ledger at one height.
        rollout: Its record there.
    """
    replay = _Replay(view, rollout)
    height = time_ms = -1
    for entry in view.history(patch_key(rollout.patch_id)):
        if entry.height != height:
            header = view.header_at(entry.height)
            assert header is not None, "what has a place in a block has its header"
            height, time_ms = entry.height, header.time_ms
        replay.take(entry, time_ms)
        yield RolloutStep(height, time_ms, replay.now)


@dataclass(slots=True)
class _Replay:
    """What is known while the history of one patch is gone through."""

    view: StateView
    rollout: RolloutRecord
    now: RolloutRecord | None = None
    hosts: dict[str, RolloutHost | None] = field(default_factory=dict)
    """What this rollout counts of each host; None for one that it does not count."""
    installed: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """Host and target that have the patch, with the place, height and index, of the outcome that says so."""
    outcomes: dict[bytes, DeploymentRecord] = field(default_factory=dict)
    """Outcomes that are still to come, by their transaction."""

    def take(self, entry: HistoryEntry, time_ms: int) -> None:
        """Go on by one transaction."""
        closed = self.outcomes.pop(entry.tx_id, None)
        if closed is not None:
            self._end(closed, entry, time_ms)
            return
        opened = self.view.deployment(entry.tx_id)
        if opened is None:
            self._decide(entry)
        elif opened.intent_height is None:
            self._refuse(opened, entry, time_ms)
        else:
            if opened.outcome_tx_id is not None:
                self.outcomes[opened.outcome_tx_id] = opened
            self._intend(opened, entry.height, time_ms)

    def _decide(self, entry: HistoryEntry) -> None:
        block = self.view.block(entry.height)
        assert block is not None, "what has a place in the history has its block"
        transaction = decode_transaction_untrusted(block.transactions[entry.index])
        body = transaction.body
        rollout_id = self.rollout.rollout_id
        if isinstance(body, RolloutCreate):
            if body.rollout_id == rollout_id:
                self.now = _at_first(self.rollout)
            return
        if isinstance(body, RolloutDecide):
            if body.rollout_id == rollout_id and self.now is not None:
                signer = self.view.identity_of_key(transaction.signer_key_id)
                by = "" if signer is None else signer.identity_id
                self._decided(body.decision, by, body.reason, entry.height)
            return
        # A vote, or a proposal that needed no other one, is among a patch's history only when it took effect.
        proposal = self.view.proposal(getattr(body, "proposal_id", entry.tx_id))
        action = None if proposal is None else action_from_value_untrusted(proposal.action)
        if isinstance(action, DecideRollout) and action.rollout_id == rollout_id:
            self._decided(action.decision, GOVERNANCE, action.reason, entry.height)

    def _decided(self, decision: str, by: str, reason: str, height: int) -> None:
        if self.now is not None:
            self.now = decided_rollout(self.now, decision, by=by, reason=reason, height=height)

    def _intend(self, deployment: DeploymentRecord, height: int, time_ms: int) -> None:
        host = self._host(deployment.host)
        if host is None or self.now is None or self.now.status == ENDED:
            return
        self._count(host, deployment.target, UNDER_WAY, deployment.deployment_id, (height, time_ms))

    def _end(self, deployment: DeploymentRecord, entry: HistoryEntry, time_ms: int) -> None:
        place = (deployment.host, deployment.target)
        was_installed = self._is_installed(place, entry)
        if deployment.result == "SUCCESS":
            self.installed[place] = (entry.height, entry.index)
        elif deployment.result == "ROLLED_BACK":
            self.installed.pop(place, None)
        host = self._host(deployment.host)
        if host is None or self.now is None:
            return
        if (deployment.target, UNDER_WAY, deployment.deployment_id) in host.targets:
            state = state_after(deployment.result, was_installed=was_installed)
            self._count(host, deployment.target, state, None, (entry.height, time_ms))

    def _refuse(self, deployment: DeploymentRecord, entry: HistoryEntry, time_ms: int) -> None:
        host = self._host(deployment.host)
        if host is None or self.now is None or self.now.status != RUNNING or deployment.result in NOT_CARRIED_OUT:
            return
        is_known = any(name == deployment.target for name, _, _ in host.targets)
        if not is_known and is_reached(openings(self.now)[host.wave], entry.height, time_ms):
            is_installed = self._is_installed((deployment.host, deployment.target), entry)
            self._count(host, deployment.target, APPLIED if is_installed else REFUSED, None, (entry.height, time_ms))

    def _is_installed(self, place: tuple[str, str], entry: HistoryEntry) -> bool:
        """Return whether a target has the patch just before a transaction; that it has another tree since, its own history says."""
        since = self.installed.get(place)
        if since is None:
            return False
        for each in self.view.history(target_key(*place), since[0]):
            at = (each.height, each.index)
            if at >= (entry.height, entry.index):
                break
            if at > since and self._is_empty_adoption(each):
                del self.installed[place]
                return False
        return True

    def _is_empty_adoption(self, entry: HistoryEntry) -> bool:
        block = self.view.block(entry.height)
        assert block is not None, "what has a place in the history has its block"
        body = decode_transaction_untrusted(block.transactions[entry.index]).body
        return isinstance(body, HostReport) and is_empty_adoption(body)

    def _count(
        self, host: RolloutHost, target: str, state: str | None, opened: bytes | None, at: tuple[int, int]
    ) -> None:
        assert self.now is not None, "who counts has looked"
        targets = {each[0]: each for each in host.targets}
        if state is None:
            del targets[target]
        else:
            targets[target] = (target, state, opened)
        self.now, self.hosts[host.host] = counted_host(self.now, host, targets, height=at[0], time_ms=at[1])

    def _host(self, name: str) -> RolloutHost | None:
        if name not in self.hosts:
            self.hosts[name] = self._first(name)
        return self.hosts[name]

    def _first(self, name: str) -> RolloutHost | None:
        """Return a host before anything was counted of it, with its wave; None where this rollout does not count it."""
        rollout = self.rollout
        known = self.view.rollout_host(rollout.patch_id, name)
        if known is not None and known.rollout_id == rollout.rollout_id:
            return replace(known, has_failed=False, targets=())
        member = self.view.group_member(name)
        later = None if known is None else self.view.rollout(known.rollout_id)
        if later is None or rollout.status != ENDED or later.created_height <= rollout.status_height:
            return None
        wave = len(rollout.planned) if member is None else find_wave(rollout, member)
        return RolloutHost(name, rollout.rollout_id, wave, False, ())


def _at_first(rollout: RolloutRecord) -> RolloutRecord:
    """Return a rollout as it was made."""
    return replace(
        rollout,
        status=RUNNING,
        status_height=rollout.created_height,
        status_by=rollout.creator,
        status_reason="",
        failures=0,
        forgiven=0,
        counts=(NOBODY,) * len(rollout.counts),
    )
