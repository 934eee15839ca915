"""What transactions say about groups of hosts and rollouts.

Source: docs/spec/rollouts.md 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Final, TypeAlias

from ledger.limits import (
    DESCRIPTION_BYTES_MAX,
    GROUP_CHANGES_MAX,
    GROUP_HOSTS_MAX,
    REASON_BYTES_MAX,
    ROLLOUT_GROUPS_MAX,
)
from ledger.rollout_waves import Wave, as_waves
from wire.codec import Value
from wire.errors import MalformedError
from wire.fields import as_digest, as_identity_id, as_int, as_optional, as_text, as_tuple

HALT: Final = "halt"
RESUME: Final = "resume"
WITHDRAW: Final = "withdraw"
ROLLOUT_DECISIONS: Final = (HALT, RESUME, WITHDRAW)


@dataclass(frozen=True, slots=True)
class GroupAssign:
    """Put hosts into a group of their organisation, or take them out of the one that they are in."""

    KIND: ClassVar[str] = "group.assign"
    group_id: str | None
    """Such as ``web@acme``; a group is there as soon as it has a host. None takes the hosts out."""
    hosts: tuple[str, ...]
    """Identity ids in order, each once; 1 to `GROUP_CHANGES_MAX`."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.group_id, self.hosts)

    @classmethod
    def from_value_untrusted(cls, value: object) -> GroupAssign:
        """Return the body; raises `MalformedError`."""
        group_id, hosts = as_tuple(value, "body", length=2)
        return cls(as_optional(group_id, "group_id", as_identity_id), _as_ids(hosts, "hosts", GROUP_CHANGES_MAX))


@dataclass(frozen=True, slots=True)
class RolloutCreate:
    """Bring a patch to the hosts of some groups, wave by wave."""

    KIND: ClassVar[str] = "rollout.create"
    rollout_id: str
    """Such as ``spring@acme``, never used before; the part after ``@`` is the releasing organisation."""
    patch_id: bytes
    """A published patch, 32 bytes. Its components are those of the rollout."""
    groups: tuple[str, ...]
    """Groups of the releasing organisation in order, each once; 1 to `ROLLOUT_GROUPS_MAX`."""
    waves: tuple[Wave, ...]
    """In the order in which they go; the last reaches every host."""
    budget: int
    """On how many hosts it may fail or be rolled back; one more halts the rollout."""
    description: str
    """For people."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        waves = tuple(wave.to_value() for wave in self.waves)
        return (self.rollout_id, self.patch_id, self.groups, waves, self.budget, self.description)

    @classmethod
    def from_value_untrusted(cls, value: object) -> RolloutCreate:
        """Return the body; raises `MalformedError` or ``ledger.rollout.bad_waves``."""
        rollout_id, patch_id, groups, waves, budget, description = as_tuple(value, "body", length=6)
        return cls(
            as_identity_id(rollout_id, "rollout_id"),
            as_digest(patch_id, "patch_id"),
            _as_ids(groups, "groups", ROLLOUT_GROUPS_MAX),
            as_waves(waves),
            as_int(budget, "budget", 0, GROUP_HOSTS_MAX),
            as_text(description, "description", DESCRIPTION_BYTES_MAX, multiline=True),
        )


@dataclass(frozen=True, slots=True)
class RolloutDecide:
    """Halt a rollout, let it go on, or end it."""

    KIND: ClassVar[str] = "rollout.decide"
    rollout_id: str
    """The rollout."""
    decision: str
    """One of `ROLLOUT_DECISIONS`."""
    reason: str
    """Why, for people."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.rollout_id, self.decision, self.reason)

    @classmethod
    def from_value_untrusted(cls, value: object) -> RolloutDecide:
        """Return the body; raises `MalformedError`."""
        rollout_id, decision, reason = as_tuple(value, "body", length=3)
        return cls(
            as_identity_id(rollout_id, "rollout_id"),
            as_rollout_decision(decision),
            as_text(reason, "reason", REASON_BYTES_MAX),
        )


RolloutBody: TypeAlias = GroupAssign | RolloutCreate | RolloutDecide
"""Everything that an identity can say about rollouts."""


def as_rollout_decision(value: object) -> str:
    """Return `value`, one of `ROLLOUT_DECISIONS`; raises ``wire.field.choice``."""
    if not isinstance(value, str) or value not in ROLLOUT_DECISIONS:
        raise MalformedError(
            "wire.field.choice",
            "decision is not known",
            expected=" or ".join(ROLLOUT_DECISIONS),
            actual=value,
            details={"field": "decision"},
        )
    return value


def _as_ids(value: object, name: str, count_max: int) -> tuple[str, ...]:
    """Return `value`, 1 to `count_max` ids of the form ``name@organisation`` in order, each once."""
    ids = tuple(as_identity_id(each, name) for each in as_tuple(value, name, length_max=count_max))
    if not ids or any(one >= next_one for one, next_one in pairwise(ids)):
        raise MalformedError(
            "wire.field.repeated",
            f"{name} must be at least one, in order, none twice",
            details={"field": name},
        )
    return ids
