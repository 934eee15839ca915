"""What a proposal of governance does to the policies: another set, at once or from a height on, and the network's own cases.

Source: docs/spec/ledger.md 6; docs/spec/policy.md 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

from ledger.errors import TransactionRefusedError
from ledger.limits import (
    POLICIES_MAX,
    POLICY_BYTES_MAX,
    POLICY_CASES_BYTES_MAX,
    POLICY_SCHEMA_BYTES_MAX,
    POLICY_SET_BYTES_MAX,
)
from wire.codec import Value
from wire.fields import as_identifier, as_int, as_text, as_tuple

_AT_ONCE_LENGTH: Final = 3
"""Members of a `SetPolicy` that does not say when."""


@dataclass(frozen=True, slots=True)
class SetPolicy:
    """Adopt another policy set."""

    NAME: ClassVar[str] = "set-policy"
    schema: str
    """Cedar schema text."""
    policies: tuple[tuple[str, str], ...]
    """Name (identifier) and text of each policy, in order of name."""
    activate_height: int = 0
    """The first height at which it is in force; 0, or one that has passed when the deciding vote comes, for at once."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form; without a height it is that of a set that is in force at once."""
        value: tuple[Value, ...] = (self.NAME, self.schema, self.policies)
        return (*value, self.activate_height) if self.activate_height else value

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> SetPolicy:
        """Return the action; raises `MalformedError` or ``ledger.proposal.bad_policy_set``."""
        if len(value) == _AT_ONCE_LENGTH:
            _, schema, policies = as_tuple(value, "action", length=_AT_ONCE_LENGTH)
            activate_height: object = None
        else:
            _, schema, policies, activate_height = as_tuple(value, "action", length=_AT_ONCE_LENGTH + 1)
        return cls(
            as_policy_schema(schema, "schema"),
            as_policies(policies, "policies"),
            0 if activate_height is None else as_int(activate_height, "activate_height", 1),
        )


@dataclass(frozen=True, slots=True)
class SetPolicyCases:
    """Set the cases that every later policy set must pass; whoever proposes or votes runs them, the ledger keeps them."""

    NAME: ClassVar[str] = "set-policy-cases"
    cases: str
    """JSON text, or empty for none."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (self.NAME, self.cases)

    @classmethod
    def from_value_untrusted(cls, value: tuple[object, ...]) -> SetPolicyCases:
        """Return the action; raises `MalformedError`."""
        _, cases = as_tuple(value, "action", length=2)
        return cls(as_text(cases, "cases", POLICY_CASES_BYTES_MAX, multiline=True))


PolicyAction: TypeAlias = SetPolicy | SetPolicyCases
"""Everything that a proposal can do to the policies."""

POLICY_ACTIONS: Final[tuple[type[PolicyAction], ...]] = (SetPolicy, SetPolicyCases)


def as_policy_schema(value: object, name: str) -> str:
    """Return `value`, a policy schema's text; raises `MalformedError`."""
    return as_text(value, name, POLICY_SCHEMA_BYTES_MAX, multiline=True)


def as_policies(value: object, name: str) -> tuple[tuple[str, str], ...]:
    """Return `value`, named policy texts in order of name, without repeats.

    Raises:
        MalformedError: ``wire.field.*``.
        TransactionRefusedError: ``ledger.proposal.bad_policy_set`` (order, repeats, or too large together).
    """
    policies = tuple(_as_policy(item, name) for item in as_tuple(value, name, length_max=POLICIES_MAX))
    names = [each for each, _ in policies]
    if names != sorted(set(names)):
        raise TransactionRefusedError(
            "ledger.proposal.bad_policy_set",
            f"{name} must stand in order of name, each name once",
            actual=", ".join(names),
        )
    total_bytes = sum(len(text.encode()) for _, text in policies)
    if total_bytes > POLICY_SET_BYTES_MAX:
        raise TransactionRefusedError(
            "ledger.proposal.bad_policy_set",
            f"{name} are too large together",
            expected=f"at most {POLICY_SET_BYTES_MAX} bytes",
            actual=total_bytes,
        )
    return policies


def _as_policy(value: object, name: str) -> tuple[str, str]:
    policy_name, text = as_tuple(value, name, length=2)
    return as_identifier(policy_name, f"{name} name"), as_text(
        text, f"{name} text", POLICY_BYTES_MAX, 1, multiline=True
    )
