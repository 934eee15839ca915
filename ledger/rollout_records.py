"""The records of the state about groups of hosts and rollouts.

A rollout's record counts, so that no decision looks at more than this one record, its host's and its group's, however many hosts there are.

Source: docs/spec/rollouts.md 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from ledger.record import Record
from ledger.rollout_waves import Wave, share_of
from wire.codec import Value

RUNNING: Final = "running"
HALTED: Final = "halted"
ENDED: Final = "withdrawn"

UNDER_WAY: Final = "under-way"
APPLIED: Final = "applied"
FAILED: Final = "failed"
ROLLED: Final = "rolled-back"
REFUSED: Final = "refused"
COUNTED: Final = (UNDER_WAY, FAILED, ROLLED, REFUSED, APPLIED)
"""What can be said of a host in a rollout; where its targets differ, the first of these that one of them is."""

BUDGET: Final = "budget"
GOVERNANCE: Final = "governance"

Counts: TypeAlias = tuple[int, int, int, int, int, int | None, int | None]
"""Hosts of a wave in each state of `COUNTED`; height and block time since when enough have it applied, or None and None."""
NOBODY: Final[Counts] = (0, 0, 0, 0, 0, None, None)


@dataclass(frozen=True, slots=True)
class HostGroup(Record):
    """A group of hosts of one organisation. Its hosts have the places 0 to `hosts` − 1."""

    group_id: str
    """Such as ``web@acme``."""
    hosts: int
    """How many it has."""
    sequence: int
    """How often a place was given to a host, ever."""
    rollouts: tuple[str, ...]
    """Rollouts that its hosts look at, oldest first."""
    changed_height: int
    """Height of the block that last changed it."""


@dataclass(frozen=True, slots=True)
class GroupMember(Record):
    """Which group a host is in."""

    host: str
    """Identity id."""
    group_id: str
    """The group, or empty when it was taken out of its last one."""
    slot: int
    """Its place in the group."""
    sequence: int
    """The group's `sequence` with which it came to that place."""


@dataclass(frozen=True, slots=True)
class GroupSlot(Record):
    """Which host has a place of a group."""

    slot: int
    """The place."""
    host: str
    """Identity id."""


@dataclass(frozen=True, slots=True)
class RolloutLink(Record):
    """By which rollout a patch comes to the hosts of a group: the newest one."""

    rollout_id: str
    """The rollout."""
    linked_height: int
    """Height of the block that made it."""


@dataclass(frozen=True, slots=True)
class RolloutHost(Record):
    """How far a patch under a rollout has come on one host."""

    host: str
    """Identity id."""
    rollout_id: str
    """The rollout that counts it."""
    wave: int
    """Index of its wave; one behind the last for a host that came into the group after the rollout was made."""
    has_failed: bool
    """Whether it has failed or was rolled back there, ever."""
    targets: tuple[tuple[str, str, bytes | None], ...]
    """Target, one of `COUNTED`, and the intent that is open, in order of target."""

    @property
    def state(self) -> str | None:
        """What is said of the host, or None while nothing is."""
        states = {state for _, state, _ in self.targets}
        return next((state for state in COUNTED if state in states), None)


@dataclass(frozen=True, slots=True)
class RolloutRecord(Record):
    """A patch on its way to the hosts of some groups."""

    rollout_id: str
    """Such as ``spring@acme``."""
    organisation: str
    """The releasing organisation."""
    creator: str
    """Identity id of whoever made it."""
    patch_id: bytes
    """The patch, 32 bytes."""
    components: tuple[str, ...]
    """Its components, in order."""
    groups: tuple[tuple[str, int, int], ...]
    """Group, how many hosts it had, and its `sequence`, when the rollout was made; in order of group."""
    wave_values: tuple[tuple[Value, ...], ...]
    """The waves in their wire form."""
    planned: tuple[int, ...]
    """How many hosts each wave has."""
    budget: int
    """On how many hosts it may fail; one more halts it."""
    description: str
    """For people."""
    created_height: int
    """Height of the block that made it."""
    created_ms: int
    """That block's time."""
    status: str
    """``running``, ``halted`` or ``withdrawn``."""
    status_height: int
    """Height of the block that made it so."""
    status_by: str
    """Who: an identity, ``budget`` or ``governance``."""
    status_reason: str
    """Why, for people."""
    failures: int
    """Hosts on which it has failed or was rolled back, ever."""
    forgiven: int
    """How many of them there were when it was last let go on."""
    counts: tuple[Counts, ...]
    """For each wave, and last for the hosts that came later."""

    @property
    def waves(self) -> tuple[Wave, ...]:
        """The waves."""
        return tuple(Wave(*cast("tuple[Any, ...]", value)) for value in self.wave_values)

    def needed(self, wave: int) -> int:
        """Return on how many hosts of the wave the patch must be applied before the next one opens."""
        success = self.wave_values[wave][4]
        assert isinstance(success, int), "waves were checked when the rollout was made"
        return share_of(self.planned[wave], success)

    @property
    def is_complete(self) -> bool:
        """Whether enough hosts of every wave have the patch applied."""
        return all(self.needed(index) == 0 or self.counts[index][-1] is not None for index in range(len(self.planned)))
