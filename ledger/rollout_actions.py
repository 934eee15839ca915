"""What a proposal of governance does to rollouts.

Source: docs/spec/rollouts.md 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ledger.limits import REASON_BYTES_MAX
from ledger.rollout_bodies import as_rollout_decision
from wire.codec import Value
from wire.fields import as_identity_id, as_text, as_tuple


@dataclass(frozen=True, slots=True)
class DecideRollout:
    """Halt any rollout, let it go on, or end it. What governance has halted, only governance lets go on."""

    NAME: ClassVar[str] = "decide-rollout"
    rollout_id: str
    """The rollout."""
    decision: str
    """One of `ledger.rollout_bodies.ROLLOUT_DECISIONS`."""
    reason: str
    """Why, for people."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, self.rollout_id, self.decision, self.reason)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> DecideRollout:
        """Return the action; raises `MalformedError`."""
        _, rollout_id, decision, reason = as_tuple(value, "action", length=4)
        return cls(
            as_identity_id(rollout_id, "rollout_id"),
            as_rollout_decision(decision),
            as_text(reason, "reason", REASON_BYTES_MAX),
        )
