"""The attestations of a patch as a host would judge them: whether each counts now, or why not, and what policies read of it.

Source: docs/spec/agent.md 4.1.
"""

from __future__ import annotations

from typing import Any

from agent.facts import AuthorFacts
from agent.identities import why_not_counted
from agent.statements import is_statement, read_statement
from ledger.records import AttestationRecord, PatchRecord
from ledger.state import StateView
from node.documents import attestation_document


def judged_attestations(view: StateView, patch: PatchRecord) -> list[dict[str, Any]]:
    """Return the recorded attestations of a patch in order of recording, replaced ones included."""
    author = AuthorFacts(patch.author, patch.organisation, ())
    return [_document(view, record, author) for record in view.attestations(patch.patch_id)]


def _document(view: StateView, record: AttestationRecord, author: AuthorFacts) -> dict[str, Any]:
    header = view.header_at(record.recorded_height)
    why_not = why_not_counted(view, record, author)
    statement = read_statement(view, record, {}) if is_statement(record) else None
    return {
        **attestation_document(record),
        "recorded_time_ms": None if header is None else header.time_ms,
        "counts": why_not is None,
        "why_not": why_not,
        "readable": statement is None or statement.readable,
        "findings": []
        if statement is None
        else [{"id": each.id, "severity": each.severity} for each in statement.findings],
        "properties": [] if statement is None else list(statement.properties),
    }
