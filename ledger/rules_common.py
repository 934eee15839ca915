"""What the rules share: who speaks, what comes out, and the refusals that several of them make.

Source: docs/spec/ledger.md 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ledger.errors import TransactionRefusedError
from ledger.records import IdentityRecord, KeyRecord, Record
from ledger.roles import ADMINISTRATOR


@dataclass(frozen=True, slots=True)
class Context:
    """Who speaks, and when. The signer is active and the key valid at `height`; the signature holds."""

    tx_id: bytes
    """The transaction, 32 bytes."""
    signer: IdentityRecord
    """Who signed it, with the roles that count at `time_ms` only; what is written back is read from the view."""
    key: KeyRecord
    """The key that signed it."""
    height: int
    """Height of the block in which it is executed."""
    time_ms: int
    """That block's time, milliseconds since epoch, UTC: the only clock that a rule may look at."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What a transaction changes."""

    records: Mapping[bytes, Record]
    """State key to new record."""
    subjects: tuple[bytes, ...] = ()
    """State keys of the things that it concerns, for the history."""


def refuse(
    code: str, sentence: str, expected: object = None, actual: object = None, *, hint: str = ""
) -> TransactionRefusedError:
    """Return the refusal ``ledger.<code>``."""
    return TransactionRefusedError(f"ledger.{code}", sentence, expected=expected, actual=actual, hint=hint)


def check_role(context: Context, role: str, what: str) -> None:
    """Return only when the signer holds `role`; raises ``ledger.tx.not_authorised`` otherwise."""
    if role not in context.signer.roles:
        raise not_authorised(context, what, f"the role {role}")


def check_administrator_of(context: Context, organisation: str, what: str) -> None:
    """Return only when the signer is an administrator of `organisation`; raises ``ledger.tx.not_authorised`` otherwise."""
    if ADMINISTRATOR not in context.signer.roles or context.signer.organisation != organisation:
        raise not_authorised(context, what, f"an administrator of {organisation}")


def not_authorised(context: Context, what: str, expected: str) -> TransactionRefusedError:
    """Return the refusal for a signer who may not do `what`."""
    signer = context.signer
    return refuse(
        "tx.not_authorised",
        f"{signer.identity_id} may not {what}",
        expected,
        f"{', '.join(signer.roles) or 'no role that counts now'} of {signer.organisation}",
    )
