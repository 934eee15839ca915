"""Groups of hosts, and rollouts: who makes, halts, resumes and ends them, who may go, and how outcomes are counted.

Outcomes of different hosts commute: counters rise and fall with each host alone, and a rollout is halted when more hosts than its budget
have ever failed, in whatever order they say so. What a block refuses is only ever an intent; an outcome is always recorded.

Source: docs/spec/rollouts.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, cast

from ledger.bodies import DeploymentIntent, DeploymentOutcome
from ledger.keyspace import (
    group_key,
    group_member_key,
    group_slot_key,
    patch_key,
    rollout_host_key,
    rollout_key,
    rollout_link_key,
)
from ledger.limits import GROUP_HOSTS_MAX, GROUP_LEAVES_MAX, GROUP_ROLLOUTS_MAX, ROLLOUT_TARGETS_MAX
from ledger.record import Record
from ledger.records import REVOKED
from ledger.roles import ADMINISTRATOR, HOST, RELEASE_MANAGER
from ledger.rollout_actions import DecideRollout
from ledger.rollout_bodies import HALT, RESUME, WITHDRAW, GroupAssign, RolloutCreate, RolloutDecide
from ledger.rollout_counting import NOT_CARRIED_OUT, counted_host, leaves_wave, state_after, without_host
from ledger.rollout_records import (
    APPLIED,
    ENDED,
    GOVERNANCE,
    HALTED,
    NOBODY,
    REFUSED,
    RUNNING,
    UNDER_WAY,
    GroupMember,
    GroupSlot,
    HostGroup,
    RolloutHost,
    RolloutLink,
    RolloutRecord,
)
from ledger.rollout_turn import Turn, find_turn, find_wave, is_counted
from ledger.rollout_waves import planned_hosts
from ledger.rules_common import Context, Effects, check_administrator_of, not_authorised, refuse
from ledger.state import StateView

_STATUS_AFTER: Final = {HALT: HALTED, RESUME: RUNNING, WITHDRAW: ENDED}


# Groups


def assign_hosts(view: StateView, context: Context, body: GroupAssign) -> Effects:
    """Return the hosts in their group, or in none. The last host of a group takes the place of one that leaves, and keeps its waves.

    A host that leaves before it has begun leaves its waves as well, and they need fewer hosts. Rollouts that are complete wait for nobody:
    they stay as they are.

    Raises:
        TransactionRefusedError: ``ledger.tx.not_authorised``, ``ledger.group.foreign``, ``ledger.group.not_a_host``,
            ``ledger.group.no_change``, ``ledger.group.full``, ``ledger.group.too_many_changes``.
    """
    check_administrator_of(context, context.signer.organisation, "assign hosts to groups")
    organisation = context.signer.organisation
    if body.group_id is not None:
        _check_own(body.group_id, organisation, "a group")
    draft = _Groups(view, context)
    for host in body.hosts:
        _check_own(host, organisation, "a host")
        member = draft.member(host)
        current = member.group_id if member is not None else ""
        if current == (body.group_id or ""):
            raise refuse("group.no_change", f"{host} is in {body.group_id or 'no group'} already")
        if member is not None and current:
            draft.leave(member)
        if body.group_id is not None:
            identity = view.identity(host)
            if identity is None or HOST not in identity.roles or identity.status == REVOKED:
                raise refuse("group.not_a_host", f"{host} is no host of {organisation}")
            draft.join(host, body.group_id)
        else:
            draft.records[group_member_key(host)] = GroupMember(host, "", 0, 0)
    return Effects(draft.records, draft.subjects())


class _Groups:
    """Groups and their places while one transaction changes them."""

    def __init__(self, view: StateView, context: Context) -> None:
        self._view = view
        self._height = context.height
        self._time_ms = context.time_ms
        self._waves_left = 0
        self._unfinished: dict[str, tuple[str, ...]] = {}
        """Rollouts of each group that were not complete before this transaction; the others wait for nobody."""
        self.records: dict[bytes, Record] = {}

    def member(self, host: str) -> GroupMember | None:
        found = self.records.get(group_member_key(host))
        return self._view.group_member(host) if found is None else cast(GroupMember, found)

    def subjects(self) -> tuple[bytes, ...]:
        return tuple(key for key, record in self.records.items() if isinstance(record, HostGroup | RolloutRecord))

    def leave(self, member: GroupMember) -> None:
        group = self._group(member.group_id)
        unfinished = self._find_unfinished(group)
        self._waves_left += len(unfinished)
        if self._waves_left > GROUP_LEAVES_MAX:
            raise refuse(
                "group.too_many_changes",
                f"the groups have rollouts that are not complete, {len(unfinished)} in {group.group_id}",
                f"at most {GROUP_LEAVES_MAX} hosts times rollouts",
                hint="take fewer hosts at a time",
            )
        for rollout_id in unfinished:
            self._leave_wave(self._rollout(rollout_id), member)
        last = group.hosts - 1
        sequence = group.sequence
        if member.slot != last:
            sequence += 1
            moved = self.member(self._at(group.group_id, last))
            assert moved is not None, "who has a place is a member"
            for rollout_id in unfinished:
                self._keep_wave(self._rollout(rollout_id), moved)
            self._place(moved.host, group.group_id, member.slot, sequence)
        self._put(replace(group, hosts=last, sequence=sequence, changed_height=self._height))

    def join(self, host: str, group_id: str) -> None:
        group = self._group(group_id)
        if group.hosts >= GROUP_HOSTS_MAX:
            raise refuse("group.full", f"{group_id} has {GROUP_HOSTS_MAX} hosts")
        self._place(host, group_id, group.hosts, group.sequence + 1)
        self._put(replace(group, hosts=group.hosts + 1, sequence=group.sequence + 1, changed_height=self._height))

    def _leave_wave(self, rollout: RolloutRecord, member: GroupMember) -> None:
        """Make the host's wave smaller, if it has not begun there."""
        known = self._rollout_host(rollout, member.host)
        host = _counted_by(rollout, known) or RolloutHost(
            member.host, rollout.rollout_id, find_wave(rollout, member), False, ()
        )
        if leaves_wave(rollout, host):
            changed, after = without_host(rollout, host, height=self._height, time_ms=self._time_ms)
            self.records[rollout_key(rollout.rollout_id)] = changed
            if host is known:
                self.records[rollout_host_key(rollout.patch_id, host.host)] = after

    def _keep_wave(self, rollout: RolloutRecord, member: GroupMember) -> None:
        """Write down the wave of a host that goes to another place: it follows from the place alone."""
        known = self._rollout_host(rollout, member.host)
        wave = find_wave(rollout, member)
        if _counted_by(rollout, known) is not None or wave == len(rollout.planned):
            return
        other = None if known is None else self._view.rollout(known.rollout_id)
        is_open = known is not None and any(opened is not None for _, _, opened in known.targets)
        if known is not None and other is not None and (is_open or is_counted(other, known)):
            self._leave_wave(rollout, member)  # Another rollout counts it, so this one cannot wait for it.
            return
        key = rollout_host_key(rollout.patch_id, member.host)
        self.records[key] = RolloutHost(member.host, rollout.rollout_id, wave, False, ())

    def _find_unfinished(self, group: HostGroup) -> tuple[str, ...]:
        if group.group_id not in self._unfinished:
            self._unfinished[group.group_id] = tuple(
                each for each in group.rollouts if not self._rollout(each).is_complete
            )
        return self._unfinished[group.group_id]

    def _rollout(self, rollout_id: str) -> RolloutRecord:
        found = self.records.get(rollout_key(rollout_id)) or self._view.rollout(rollout_id)
        assert found is not None, "a group lists rollouts that there are"
        return cast(RolloutRecord, found)

    def _rollout_host(self, rollout: RolloutRecord, host: str) -> RolloutHost | None:
        found = self.records.get(rollout_host_key(rollout.patch_id, host))
        return self._view.rollout_host(rollout.patch_id, host) if found is None else cast(RolloutHost, found)

    def _group(self, group_id: str) -> HostGroup:
        found = self.records.get(group_key(group_id))
        if found is not None:
            return cast(HostGroup, found)
        return self._view.group(group_id) or HostGroup(group_id, 0, 0, (), self._height)

    def _put(self, group: HostGroup) -> None:
        self.records[group_key(group.group_id)] = group

    def _at(self, group_id: str, slot: int) -> str:
        found = self.records.get(group_slot_key(group_id, slot))
        return self._view.group_slot(group_id, slot).host if found is None else cast(GroupSlot, found).host

    def _place(self, host: str, group_id: str, slot: int, sequence: int) -> None:
        self.records[group_member_key(host)] = GroupMember(host, group_id, slot, sequence)
        self.records[group_slot_key(group_id, slot)] = GroupSlot(slot, host)


def _counted_by(rollout: RolloutRecord, host: RolloutHost | None) -> RolloutHost | None:
    return host if host is not None and host.rollout_id == rollout.rollout_id else None


# Rollouts


def create_rollout(view: StateView, context: Context, body: RolloutCreate) -> Effects:
    """Return the rollout, running, with how many hosts each wave has; the groups' hosts look at it from now on.

    Raises:
        TransactionRefusedError: ``ledger.tx.not_authorised``, ``ledger.rollout.exists``, ``ledger.patch.not_found``,
            ``ledger.patch.withdrawn``, ``ledger.group.foreign``, ``ledger.group.empty``, ``ledger.rollout.bad_waves``,
            ``ledger.rollout.overlaps``, ``ledger.rollout.too_many``.
    """
    signer = context.signer
    if RELEASE_MANAGER not in signer.roles or body.rollout_id.partition("@")[2] != signer.organisation:
        raise not_authorised(context, f"make the rollout {body.rollout_id}", f"the role {RELEASE_MANAGER} there")
    if view.rollout(body.rollout_id) is not None:
        raise refuse("rollout.exists", "a rollout of this name was made before", actual=body.rollout_id)
    patch = view.patch(body.patch_id)
    if patch is None:
        raise refuse("patch.not_found", "the patch is not published", actual=body.patch_id)
    if patch.withdrawn_height is not None:
        raise refuse("patch.withdrawn", f"the patch was withdrawn at height {patch.withdrawn_height}")
    groups = [_group_to_reach(view, signer.organisation, group_id) for group_id in body.groups]
    for wave in body.waves:
        if wave.group is not None and wave.group not in body.groups:
            raise refuse(
                "rollout.bad_waves",
                f"wave {wave.name} names a group of no host here",
                ", ".join(body.groups),
                wave.group,
            )
    records: dict[bytes, Record] = {}
    for group in groups:
        link = view.rollout_link(body.patch_id, group.group_id)
        other = None if link is None else view.rollout(link.rollout_id)
        if other is not None and other.status != ENDED:
            raise refuse(
                "rollout.overlaps",
                f"{other.rollout_id} brings this patch to {group.group_id} already",
                hint="withdraw that rollout first",
            )
        rollouts = (*_with_room(view, group), body.rollout_id)
        records[group_key(group.group_id)] = replace(group, rollouts=rollouts, changed_height=context.height)
        records[rollout_link_key(body.patch_id, group.group_id)] = RolloutLink(body.rollout_id, context.height)
    planned = planned_hosts(body.waves, [(group.group_id, group.hosts) for group in groups])
    records[rollout_key(body.rollout_id)] = RolloutRecord(
        rollout_id=body.rollout_id,
        organisation=signer.organisation,
        creator=signer.identity_id,
        patch_id=body.patch_id,
        components=patch.components,
        groups=tuple((group.group_id, group.hosts, group.sequence) for group in groups),
        wave_values=tuple(wave.to_value() for wave in body.waves),
        planned=planned,
        budget=body.budget,
        description=body.description,
        created_height=context.height,
        created_ms=context.time_ms,
        status=RUNNING,
        status_height=context.height,
        status_by=signer.identity_id,
        status_reason="",
        failures=0,
        forgiven=0,
        counts=(NOBODY,) * (len(body.waves) + 1),
    )
    subjects = (rollout_key(body.rollout_id), patch_key(body.patch_id), *(group_key(each) for each in body.groups))
    return Effects(records, subjects)


def decide_rollout(view: StateView, context: Context, body: RolloutDecide) -> Effects:
    """Return the rollout halted, running again, or ended, by a release manager or an administrator of its organisation.

    Raises:
        TransactionRefusedError: ``ledger.tx.not_authorised``, ``ledger.rollout.not_found``, ``ledger.rollout.withdrawn``,
            ``ledger.rollout.no_change``, ``ledger.rollout.halted_by_governance``.
    """
    signer = context.signer
    roles = {ADMINISTRATOR, RELEASE_MANAGER} & set(signer.roles)
    if not roles or body.rollout_id.partition("@")[2] != signer.organisation:
        raise not_authorised(
            context, f"{body.decision} {body.rollout_id}", f"{RELEASE_MANAGER} or {ADMINISTRATOR} of its organisation"
        )
    rollout = _find_rollout(view, body.rollout_id)
    if body.decision == RESUME and rollout.status == HALTED and rollout.status_by == GOVERNANCE:
        raise refuse("rollout.halted_by_governance", "what governance has halted, only governance lets go on")
    return _decided(view, context, rollout, decision=body.decision, by=signer.identity_id, reason=body.reason)


def decide_rollout_by_vote(view: StateView, context: Context, action: DecideRollout) -> Effects:
    """Return the rollout as governance decided.

    Raises:
        TransactionRefusedError: ``ledger.rollout.not_found``, ``ledger.rollout.withdrawn``, ``ledger.rollout.no_change``.
    """
    rollout = _find_rollout(view, action.rollout_id)
    return _decided(view, context, rollout, decision=action.decision, by=GOVERNANCE, reason=action.reason)


def decided_rollout(rollout: RolloutRecord, decision: str, *, by: str, reason: str, height: int) -> RolloutRecord:
    """Return the rollout after one of `ROLLOUT_DECISIONS` that took effect in the block of `height`."""
    status = _STATUS_AFTER[decision]
    return replace(
        rollout,
        status=status,
        status_height=height,
        status_by=by,
        status_reason=reason,
        forgiven=rollout.failures if status == RUNNING else rollout.forgiven,
    )


def _find_rollout(view: StateView, rollout_id: str) -> RolloutRecord:
    rollout = view.rollout(rollout_id)
    if rollout is None:
        raise refuse("rollout.not_found", "there is no such rollout", actual=rollout_id)
    if rollout.status == ENDED:
        raise refuse("rollout.withdrawn", f"the rollout was withdrawn at height {rollout.status_height}")
    return rollout


def _decided(
    view: StateView, context: Context, rollout: RolloutRecord, *, decision: str, by: str, reason: str
) -> Effects:
    status = _STATUS_AFTER[decision]
    # A halt by governance stands above one by the organisation or by the budget.
    is_raised = status == HALTED and by == GOVERNANCE and rollout.status_by != GOVERNANCE
    if status == rollout.status and not is_raised:
        raise refuse("rollout.no_change", f"the rollout is {status} already")
    key = rollout_key(rollout.rollout_id)
    changed = decided_rollout(rollout, decision, by=by, reason=reason, height=context.height)
    records: dict[bytes, Record] = {key: changed}
    if status == ENDED:
        for group_id, _, _ in rollout.groups:
            group = view.group(group_id)
            assert group is not None, "a group never goes"
            left = tuple(each for each in group.rollouts if each != rollout.rollout_id)
            records[group_key(group_id)] = replace(group, rollouts=left, changed_height=context.height)
    return Effects(records, (key, patch_key(rollout.patch_id)))


def _group_to_reach(view: StateView, organisation: str, group_id: str) -> HostGroup:
    _check_own(group_id, organisation, "a group")
    group = view.group(group_id)
    if group is None or group.hosts == 0:
        raise refuse("group.empty", f"{group_id} has no hosts")
    return group


def _with_room(view: StateView, group: HostGroup) -> tuple[str, ...]:
    """Return the rollouts of a group with room for one more: the oldest complete one goes when it is full."""
    if len(group.rollouts) < GROUP_ROLLOUTS_MAX:
        return group.rollouts
    for rollout_id in group.rollouts:
        rollout = view.rollout(rollout_id)
        if rollout is not None and rollout.is_complete:
            return tuple(each for each in group.rollouts if each != rollout_id)
    raise refuse(
        "rollout.too_many",
        f"{group.group_id} has {GROUP_ROLLOUTS_MAX} rollouts of which none is complete",
        hint="withdraw one",
    )


def _check_own(name: str, organisation: str, what: str) -> None:
    if name.partition("@")[2] != organisation:
        raise refuse("group.foreign", f"{name} is not {what} of {organisation}", actual=name)


# Counting


def count_intent(view: StateView, context: Context, body: DeploymentIntent) -> Mapping[bytes, Record]:
    """Return what an intent changes in the rollout of its patch. Only one that would bring the patch to the target waits for its turn.

    Raises:
        TransactionRefusedError: ``ledger.rollout.halted``, ``ledger.rollout.not_open``, ``ledger.rollout.too_many_targets``.
    """
    host = context.signer.identity_id
    turn = find_turn(view, host, body.patch_id)
    if turn is None:
        return {}
    if not _is_installed(view, host, body.target, body.patch_id):
        _check_turn(turn, context)
    targets = {name: (name, state, opened) for name, state, opened in turn.host.targets}
    targets[body.target] = (body.target, UNDER_WAY, context.tx_id)
    if len(targets) > ROLLOUT_TARGETS_MAX:
        raise refuse("rollout.too_many_targets", f"a rollout counts {ROLLOUT_TARGETS_MAX} targets of a host")
    return _counted(turn.rollout, turn.host, targets, context, body.patch_id)


def count_outcome(view: StateView, context: Context, body: DeploymentOutcome) -> Mapping[bytes, Record]:
    """Return what an outcome changes in the rollout that counts its host. It never raises: what happened is recorded."""
    host = context.signer.identity_id
    known = view.rollout_host(body.patch_id, host)
    if body.intent_tx_id is None:
        return _count_refusal(view, context, body)
    rollout = None if known is None else view.rollout(known.rollout_id)
    if known is None or rollout is None:
        return {}
    targets = {name: (name, state, opened) for name, state, opened in known.targets}
    if targets.get(body.target, ("", "", None))[2] != body.intent_tx_id:
        return {}
    state = state_after(body.result, was_installed=_is_installed(view, host, body.target, body.patch_id))
    if state is None:
        del targets[body.target]
    else:
        targets[body.target] = (body.target, state, None)
    records = _counted(rollout, known, targets, context, body.patch_id)
    return records if state is not None else _without_who_left(view, records, rollout, context, body.patch_id)


def _without_who_left(
    view: StateView, records: Mapping[bytes, Record], rollout: RolloutRecord, context: Context, patch_id: bytes
) -> Mapping[bytes, Record]:
    """Return the records, with one host fewer to go where the host came to nothing after it had left the rollout's groups."""
    changed_key = rollout_key(rollout.rollout_id)
    host_key = rollout_host_key(patch_id, context.signer.identity_id)
    changed, host = cast(RolloutRecord, records[changed_key]), cast(RolloutHost, records[host_key])
    member = view.group_member(host.host)
    is_there = member is not None and any(group == member.group_id for group, _, _ in rollout.groups)
    if is_there or not leaves_wave(changed, host):
        return records
    changed, host = without_host(changed, host, height=context.height, time_ms=context.time_ms)
    return {changed_key: changed, host_key: host}


def _count_refusal(view: StateView, context: Context, body: DeploymentOutcome) -> Mapping[bytes, Record]:
    if body.result in NOT_CARRIED_OUT:
        return {}
    turn = find_turn(view, context.signer.identity_id, body.patch_id)
    if turn is None or not turn.may_go(context.height, context.time_ms):
        return {}
    targets = {name: (name, state, opened) for name, state, opened in turn.host.targets}
    if body.target in targets or len(targets) >= ROLLOUT_TARGETS_MAX:
        return {}
    # What was applied there before the rollout came is told as a refusal, since there is nothing left to apply.
    is_installed = _is_installed(view, context.signer.identity_id, body.target, body.patch_id)
    targets[body.target] = (body.target, APPLIED if is_installed else REFUSED, None)
    return _counted(turn.rollout, turn.host, targets, context, body.patch_id)


def _check_turn(turn: Turn, context: Context) -> None:
    rollout = turn.rollout
    if rollout.status == HALTED:
        raise refuse(
            "rollout.halted",
            f"the rollout {rollout.rollout_id} was halted at height {rollout.status_height} by {rollout.status_by}",
            hint="it goes on when it is resumed",
        )
    if not turn.is_open(context.height, context.time_ms):
        raise refuse(
            "rollout.not_open",
            f"wave {turn.wave_name} of the rollout {rollout.rollout_id} is not open",
            None if turn.opens is None else f"height {turn.opens[0]} and block time {turn.opens[1]} ms",
            f"height {context.height} and block time {context.time_ms} ms",
        )


def _is_installed(view: StateView, host: str, target: str, patch_id: bytes) -> bool:
    record = view.target(host, target)
    return record is not None and any(each == patch_id for each, _ in record.installed)


def _counted(
    rollout: RolloutRecord,
    before: RolloutHost,
    targets: Mapping[str, tuple[str, str, bytes | None]],
    context: Context,
    patch_id: bytes,
) -> dict[bytes, Record]:
    """Return the rollout's and the host's record after the host's targets have changed."""
    changed, after = counted_host(rollout, before, targets, height=context.height, time_ms=context.time_ms)
    return {
        rollout_key(rollout.rollout_id): changed,
        rollout_host_key(patch_id, after.host): after,
    }
