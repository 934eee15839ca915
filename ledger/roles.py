"""The roles that an identity can hold, and the readers that refuse every other.

======================  ==================================================================================
role                    may
======================  ==================================================================================
``administrator``       manage the identities of its organisation, propose and vote
``developer``           publish patches
``attestor:<role>``     attest in that role; ``<role>`` is an identifier such as ``security-review``
``host``                record deployments and reports
``release-manager``     roll patches out to the host groups of its organisation, halt, resume and withdraw that
``auditor``             nothing that changes the ledger; it names who is meant to look
``validator``           nothing by itself: the validator set decides who votes on blocks
======================  ==================================================================================

A role that is held may be bound to a time: then it counts only in blocks of that time. `roles_at` is the one place that decides it.

Source: docs/spec/ledger.md 4.2.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from ledger.errors import TransactionRefusedError
from ledger.limits import ROLES_MAX
from wire.errors import MalformedError
from wire.fields import as_identifier, as_tuple

ADMINISTRATOR: Final = "administrator"
DEVELOPER: Final = "developer"
HOST: Final = "host"
RELEASE_MANAGER: Final = "release-manager"
AUDITOR: Final = "auditor"
VALIDATOR: Final = "validator"
ATTESTOR_PREFIX: Final = "attestor:"

PLAIN_ROLES: Final = (ADMINISTRATOR, AUDITOR, DEVELOPER, HOST, RELEASE_MANAGER, VALIDATOR)


RoleTerm: TypeAlias = tuple[str, int | None, int | None]
"""A role, and the first and the last moment at which it counts: block times in milliseconds, both included; None for no bound."""


def roles_at(roles: tuple[str, ...], terms: tuple[RoleTerm, ...], time_ms: int) -> tuple[str, ...]:
    """Return those of `roles` that count in a block of `time_ms`."""
    over = {
        role
        for role, from_ms, until_ms in terms
        if (from_ms is not None and time_ms < from_ms) or (until_ms is not None and time_ms > until_ms)
    }
    return tuple(role for role in roles if role not in over) if over else roles


def attestor_role(role: str) -> str:
    """Return the identity role that lets its holder attest in `role`."""
    return ATTESTOR_PREFIX + role


def is_attestor(roles: Iterable[str]) -> bool:
    """Return whether any of `roles` lets its holder attest."""
    return any(role.startswith(ATTESTOR_PREFIX) for role in roles)


def normalise_roles(roles: Iterable[str]) -> tuple[str, ...]:
    """Return the roles in order and without repeats: their one form in transactions and records."""
    return tuple(sorted(set(roles)))


def as_roles(value: object, name: str) -> tuple[str, ...]:
    """Return `value`, 1 to `ROLES_MAX` roles in order and without repeats.

    Raises:
        MalformedError: ``wire.field.*``.
        TransactionRefusedError: ``ledger.identity.bad_role``.
    """
    roles = tuple(as_role(role, name) for role in as_tuple(value, name, length_max=ROLES_MAX))
    if not roles or roles != normalise_roles(roles):
        raise TransactionRefusedError(
            "ledger.identity.bad_role",
            f"{name} must be one or more roles in order and without repeats",
            actual=", ".join(roles),
        )
    return roles


def as_role(value: object, name: str) -> str:
    """Return `value`, a role.

    Raises:
        TransactionRefusedError: ``ledger.identity.bad_role``.
    """
    if isinstance(value, str):
        if value in PLAIN_ROLES:
            return value
        if value.startswith(ATTESTOR_PREFIX):
            try:
                return ATTESTOR_PREFIX + as_identifier(value.removeprefix(ATTESTOR_PREFIX), name)
            except MalformedError:
                pass  # Told below, with all the roles there are.
    raise TransactionRefusedError(
        "ledger.identity.bad_role",
        f"{name} holds something that is not a role",
        expected=f"{', '.join(PLAIN_ROLES)} or {ATTESTOR_PREFIX}<role>",
        actual=value,
    )
