"""Whose turn it is in a rollout: a pure function of the ledger's records, of a height and of a block's time.

The ledger asks it about every intent, agents ask it about themselves, and people read it from `rollout status`; nobody decides
centrally. It costs the records of one host, one group and one rollout, and a look at each wave.

Source: docs/spec/rollouts.md 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ledger.rollout_order import rank_of
from ledger.rollout_records import ENDED, RUNNING, GroupMember, RolloutHost, RolloutRecord
from ledger.rollout_waves import wave_of_rank
from ledger.state import StateView

Moment: TypeAlias = tuple[int, int]
"""A height and a block time, both of which must be reached."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Where a host stands in the rollout that brings a patch to it."""

    rollout: RolloutRecord
    """The rollout."""
    host: RolloutHost
    """What is counted of the host; without targets while nothing is."""
    opens: Moment | None
    """When its wave opens or opened, or None while that depends on outcomes."""

    @property
    def wave_name(self) -> str:
        """The name of its wave; of the last one for a host that came later."""
        names = [wave.name for wave in self.rollout.waves]
        return names[min(self.host.wave, len(names) - 1)]

    def is_open(self, height: int, time_ms: int) -> bool:
        """Return whether its wave is open in a block of this height and time, were the rollout not halted."""
        return is_reached(self.opens, height, time_ms)

    def may_go(self, height: int, time_ms: int) -> bool:
        """Return whether it may announce the patch in a block of this height and time."""
        return self.rollout.status == RUNNING and self.is_open(height, time_ms)


def is_reached(moment: Moment | None, height: int, time_ms: int) -> bool:
    """Return whether a block of this height and time is not before `moment`; never for None."""
    return moment is not None and height >= moment[0] and time_ms >= moment[1]


def openings(rollout: RolloutRecord) -> tuple[Moment | None, ...]:
    """Return when each wave opens, or None where that depends on outcomes still to come; last, when hosts go that came later."""
    found: list[Moment | None] = []
    at: Moment | None = (rollout.created_height, rollout.created_ms)
    for index, wave in enumerate(rollout.waves):
        found.append(at)
        if at is None:
            continue
        since: Moment | None = at
        if rollout.needed(index):
            height, time_ms = rollout.counts[index][-2:]
            since = None if height is None or time_ms is None else (max(at[0], height), max(at[1], time_ms))
        at = None if since is None else (since[0] + wave.soak_heights, since[1] + wave.soak_ms)
    found.append(found[-1])
    return tuple(found)


def find_turn(view: StateView, host: str, patch_id: bytes) -> Turn | None:
    """Return where the host stands in the rollout that brings this patch to it, or None where none does."""
    counted = view.rollout_host(patch_id, host)
    if counted is not None:
        rollout = view.rollout(counted.rollout_id)
        if rollout is not None and is_counted(rollout, counted):
            return Turn(rollout, counted, openings(rollout)[counted.wave])
    member = view.group_member(host)
    link = None if member is None else view.rollout_link(patch_id, member.group_id)
    rollout = None if link is None else view.rollout(link.rollout_id)
    if member is None or rollout is None or rollout.status == ENDED:
        return None
    wave = find_wave(rollout, member)
    return Turn(rollout, RolloutHost(host, rollout.rollout_id, wave, False, ()), openings(rollout)[wave])


def is_counted(rollout: RolloutRecord, host: RolloutHost) -> bool:
    """Return whether the rollout that a host's record names counts it: not once it is withdrawn, nor a host that left before it began."""
    has_place = host.wave < len(rollout.planned)
    return rollout.status != ENDED and (has_place or host.has_failed or bool(host.targets))


def find_wave(rollout: RolloutRecord, member: GroupMember) -> int:
    """Return the index of the wave with which a host of one of the rollout's groups goes; one behind the last if it came later."""
    for group, hosts, sequence in rollout.groups:
        if group == member.group_id and member.sequence <= sequence:
            rank = rank_of(rollout.rollout_id, group, member.slot, hosts)
            return wave_of_rank(rollout.waves, group, hosts, rank)
    return len(rollout.planned)
