"""The waves of a rollout: how many hosts of which groups each reaches, and what must hold before the next one opens.

All numbers are integers. A share is a number of ten-thousandths, and a share of hosts is rounded up, so that no share but none is nobody.

Source: docs/spec/rollouts.md 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ledger.errors import TransactionRefusedError
from ledger.limits import (
    GROUP_HOSTS_MAX,
    ROLLOUT_SHARE_WHOLE,
    ROLLOUT_SOAK_HEIGHTS_MAX,
    ROLLOUT_SOAK_MS_MAX,
    ROLLOUT_WAVES_MAX,
)
from wire.codec import Value
from wire.fields import as_identifier, as_identity_id, as_int, as_optional, as_tuple

GroupSize: TypeAlias = tuple[str, int]
"""A group's id and how many hosts it has."""


@dataclass(frozen=True, slots=True)
class Wave:
    """Which hosts go together, and when those of the next wave may go."""

    name: str
    """Identifier, once in a rollout."""
    group: str | None
    """The group whose hosts it reaches, or None for all groups of the rollout."""
    hosts: int | None
    """Up to how many hosts of each such group have gone with it, or None where `share` says it."""
    share: int | None
    """The same as a share of the group in ten-thousandths, 1 to `ROLLOUT_SHARE_WHOLE`, or None where `hosts` says it."""
    success: int
    """Share of the wave's hosts, in ten-thousandths, on which the patch must be applied before the next wave opens."""
    soak_heights: int
    """Blocks between that and the next wave."""
    soak_ms: int
    """Time of the ledger between that and the next wave, milliseconds."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.name, self.group, self.hosts, self.share, self.success, self.soak_heights, self.soak_ms)

    @classmethod
    def from_value_untrusted(cls, value: object) -> Wave:
        """Return the wave; raises `MalformedError` or ``ledger.rollout.bad_waves``."""
        name, group, hosts, share, success, soak_heights, soak_ms = as_tuple(value, "wave", length=7)
        if (hosts is None) == (share is None):
            raise _bad("a wave says how far it reaches as a number of hosts or as a share, and not as both")
        return cls(
            as_identifier(name, "wave name"),
            as_optional(group, "wave group", as_identity_id),
            None if hosts is None else as_int(hosts, "wave hosts", 1, GROUP_HOSTS_MAX),
            None if share is None else as_int(share, "wave share", 1, ROLLOUT_SHARE_WHOLE),
            as_int(success, "wave success", 0, ROLLOUT_SHARE_WHOLE),
            as_int(soak_heights, "wave soak_heights", 0, ROLLOUT_SOAK_HEIGHTS_MAX),
            as_int(soak_ms, "wave soak_ms", 0, ROLLOUT_SOAK_MS_MAX),
        )

    def reach(self, size: int) -> int:
        """Return up to how many hosts of a group of `size` have gone with this wave."""
        if self.hosts is not None:
            return min(self.hosts, size)
        assert self.share is not None, "a wave has a number of hosts or a share"
        return share_of(size, self.share)


def share_of(count: int, share: int) -> int:
    """Return `share` ten-thousandths of `count`, rounded up."""
    return (count * share + ROLLOUT_SHARE_WHOLE - 1) // ROLLOUT_SHARE_WHOLE


def reaches(waves: Sequence[Wave], group: str, size: int) -> list[int]:
    """Return for each wave how many hosts of the group have gone with it and those before; never less than with the one before."""
    reached, found = 0, []
    for wave in waves:
        if wave.group in (None, group):
            reached = max(reached, wave.reach(size))
        found.append(reached)
    return found


def planned_hosts(waves: Sequence[Wave], groups: Sequence[GroupSize]) -> tuple[int, ...]:
    """Return how many hosts each wave has, all groups together."""
    planned = [0] * len(waves)
    for group, size in groups:
        before = 0
        for index, reached in enumerate(reaches(waves, group, size)):
            planned[index] += reached - before
            before = reached
    return tuple(planned)


def wave_of_rank(waves: Sequence[Wave], group: str, size: int, rank: int) -> int:
    """Return the index of the wave with which the host of this rank, from 0, in its group goes."""
    return next(index for index, reached in enumerate(reaches(waves, group, size)) if rank < reached)


def as_waves(value: object) -> tuple[Wave, ...]:
    """Return `value`, 1 to `ROLLOUT_WAVES_MAX` waves with different names, of which the last reaches every host.

    Raises:
        MalformedError: ``wire.field.*``.
        TransactionRefusedError: ``ledger.rollout.bad_waves``.
    """
    waves = tuple(Wave.from_value_untrusted(each) for each in as_tuple(value, "waves", length_max=ROLLOUT_WAVES_MAX))
    if not waves:
        raise _bad("a rollout has at least one wave")
    if len({wave.name for wave in waves}) != len(waves):
        raise _bad("two waves have the same name")
    if waves[-1].group is not None or waves[-1].share != ROLLOUT_SHARE_WHOLE:
        raise _bad("the last wave reaches every host of every group")
    return waves


def _bad(sentence: str) -> TransactionRefusedError:
    return TransactionRefusedError("ledger.rollout.bad_waves", sentence)
