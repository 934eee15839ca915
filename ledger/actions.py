"""What a proposal of governance does when enough organisations have voted for it.

An action's wire form is a tuple that begins with its name. The actions about organisations stand in `ledger.organisation_actions`, those
about validators in `ledger.validator_actions`, those about policies in `ledger.policy_actions`, the one about rollouts in
`ledger.rollout_actions`; all are re-exported here.

Source: docs/spec/ledger.md 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

from ledger.errors import TransactionRefusedError
from ledger.limits import (
    BLOCK_ROOM_BYTES,
    NETWORK_LIMITS,
    REASON_BYTES_MAX,
)
from ledger.organisation_actions import (
    ORGANISATION_ACTIONS,
    AddAdministrator,
    AddCaCertificate,
    AddOrganisation,
    Administrator,
    OrganisationAction,
    RemoveCaCertificate,
    RemoveOrganisation,
    RenameOrganisation,
    ResumeOrganisation,
    SuspendOrganisation,
)
from ledger.policy_actions import POLICY_ACTIONS, PolicyAction, SetPolicy, SetPolicyCases, as_policies, as_policy_schema
from ledger.rollout_actions import DecideRollout
from ledger.validator_actions import (
    VALIDATOR_ACTIONS,
    AddLearner,
    PromoteLearner,
    RemoveValidator,
    ReplaceValidator,
    ValidatorAction,
)
from wire.codec import Value
from wire.fields import as_digest, as_int, as_text, as_tuple
from wire.limits import NAME_BYTES_MAX

THRESHOLDS: Final = ("majority", "two-thirds", "unanimous")
__all__ = [
    "THRESHOLDS",
    "Action",
    "AddAdministrator",
    "AddCaCertificate",
    "AddLearner",
    "AddOrganisation",
    "Administrator",
    "DecideRollout",
    "OrganisationAction",
    "PolicyAction",
    "PromoteLearner",
    "RemoveCaCertificate",
    "RemoveOrganisation",
    "RemoveValidator",
    "RenameOrganisation",
    "ReplaceValidator",
    "ResumeOrganisation",
    "RevokeKey",
    "SetLimits",
    "SetPolicy",
    "SetPolicyCases",
    "SetThreshold",
    "SuspendOrganisation",
    "ValidatorAction",
    "WithdrawPatch",
    "action_from_value_untrusted",
    "as_policies",
    "as_policy_schema",
    "as_threshold",
]


@dataclass(frozen=True, slots=True)
class SetThreshold:
    """Change how many organisations decide."""

    NAME: ClassVar[str] = "set-threshold"
    threshold: str
    """One of `THRESHOLDS`."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, self.threshold)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> SetThreshold:
        """Return the action; raises `MalformedError` or ``ledger.proposal.bad_threshold``."""
        _, threshold = as_tuple(value, "action", length=2)
        return cls(as_threshold(threshold))


@dataclass(frozen=True, slots=True)
class SetLimits:
    """Change how long transactions and blocks may be, from the next block on."""

    NAME: ClassVar[str] = "set-limits"
    transaction_bytes_max: int
    """The longest transaction."""
    block_bytes_max: int
    """The longest block."""
    block_transactions_max: int
    """Transactions in one block."""

    @property
    def values(self) -> tuple[int, int, int]:
        """The three limits in the order of `ledger.limits.NETWORK_LIMITS`."""
        return (self.transaction_bytes_max, self.block_bytes_max, self.block_transactions_max)

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, *self.values)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> SetLimits:
        """Return the action; raises `MalformedError`, or ``ledger.proposal.bad_limits`` (out of range, or no room for a transaction)."""
        _, *values = as_tuple(value, "action", length=4)
        limits = cls(
            *(
                _as_limit(each, name, *bounds)
                for each, (name, bounds) in zip(values, NETWORK_LIMITS.items(), strict=True)
            )
        )
        if limits.block_bytes_max < limits.transaction_bytes_max + BLOCK_ROOM_BYTES:
            raise TransactionRefusedError(
                "ledger.proposal.bad_limits",
                "block_bytes_max leaves no room for the longest transaction",
                expected=f"at least {limits.transaction_bytes_max + BLOCK_ROOM_BYTES}",
                actual=limits.block_bytes_max,
            )
        return limits


@dataclass(frozen=True, slots=True)
class RevokeKey:
    """Revoke any identity's key, the last administrator's included: how a compromise is declared from outside."""

    NAME: ClassVar[str] = "revoke-key"
    key_id: bytes
    """The key, 32 bytes."""
    last_valid_height: int
    """The last height at which it counts; may lie in the past."""
    reason: str
    """Why, for people."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, self.key_id, self.last_valid_height, self.reason)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> RevokeKey:
        """Return the action; raises `MalformedError`."""
        _, key_id, last_valid_height, reason = as_tuple(value, "action", length=4)
        return cls(
            as_digest(key_id, "key_id"),
            as_int(last_valid_height, "last_valid_height"),
            as_text(reason, "reason", REASON_BYTES_MAX),
        )


@dataclass(frozen=True, slots=True)
class WithdrawPatch:
    """Withdraw any patch."""

    NAME: ClassVar[str] = "withdraw-patch"
    patch_id: bytes
    """The patch, 32 bytes."""
    reason: str
    """Why, for people."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, self.patch_id, self.reason)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> WithdrawPatch:
        """Return the action; raises `MalformedError`."""
        _, patch_id, reason = as_tuple(value, "action", length=3)
        return cls(as_digest(patch_id, "patch_id"), as_text(reason, "reason", REASON_BYTES_MAX))


Action: TypeAlias = (
    PolicyAction
    | SetThreshold
    | SetLimits
    | RevokeKey
    | WithdrawPatch
    | DecideRollout
    | OrganisationAction
    | ValidatorAction
)
"""Everything that a proposal can do in this version."""

_READERS: Final[dict[str, Callable[[tuple[object, ...]], Action]]] = {
    action.NAME: action.from_value_untrusted
    for action in (
        *POLICY_ACTIONS,
        SetThreshold,
        SetLimits,
        RevokeKey,
        WithdrawPatch,
        DecideRollout,
        *ORGANISATION_ACTIONS,
        *VALIDATOR_ACTIONS,
    )
}


def action_from_value_untrusted(value: object) -> Action:
    """Return the action whose wire form is `value`.

    Raises:
        MalformedError: ``wire.field.*``.
        TransactionRefusedError: ``ledger.proposal.unknown_action``, and the codes of the action's own rules.
    """
    parts = as_tuple(value, "action")
    name = as_text(parts[0] if parts else None, "action name", NAME_BYTES_MAX)
    reader = _READERS.get(name)
    if reader is None:
        raise TransactionRefusedError(
            "ledger.proposal.unknown_action",
            "the proposal's action is not known",
            expected=" or ".join(_READERS),
            actual=name,
        )
    return reader(parts)


def as_threshold(value: object) -> str:
    """Return `value`, one of `THRESHOLDS`; raises ``ledger.proposal.bad_threshold``."""
    if not isinstance(value, str) or value not in THRESHOLDS:
        raise TransactionRefusedError(
            "ledger.proposal.bad_threshold",
            "the threshold is not known",
            expected=" or ".join(THRESHOLDS),
            actual=value,
        )
    return value


def _as_limit(value: object, name: str, least: int, most: int) -> int:
    limit = as_int(value, name)
    if not least <= limit <= most:
        raise TransactionRefusedError(
            "ledger.proposal.bad_limits", f"{name} is out of range", expected=f"{least} to {most}", actual=limit
        )
    return limit
