"""How the mark of a recovery is shown, wherever somebody follows a chain across one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledger.audit_state import RecoveryMark
    from ledger.configuration_history import ConfigurationProof


def mark_document(mark: RecoveryMark) -> dict[str, Any]:
    """Return a mark as a document."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(mark).items()}


def marks_of(proof: ConfigurationProof | None) -> list[dict[str, Any]]:
    """Return the marks of the recoveries that a proof of the validators leads across."""
    from ledger.audit_state import mark_of

    return [] if proof is None else [mark_document(mark_of(each)) for each in proof.recoveries]


def mark_lines(marks: Iterable[dict[str, Any]]) -> list[str]:
    """Return for a person one sentence for each mark."""
    return [
        f"RECOVERED at height {each['height']}: the majority of the validators was declared lost ({', '.join(each['lost'])}) by"
        f" {', '.join(each['signers'])}. What had been certified above height {each['kept_height']} was given up."
        f" Reason: {each['reason']}"
        for each in marks
    ]
