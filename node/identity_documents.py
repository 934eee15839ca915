"""The JSON documents about what a revocation takes back, the same from a node and from an offline replay, and about administration.

Source: docs/spec/api.md.
"""

from __future__ import annotations

from typing import Any, Final

from ledger.affected import Act, Affected, AffectedPatch
from ledger.quorum import acting_administrators
from ledger.records import OPEN, PendingAct
from ledger.rules_administration import is_approval_counted
from ledger.state import StateView
from node.documents import attestation_document, show_values

Document = dict[str, Any]

AFFECTED_MAX: Final = 10_000
"""Patches, and transactions, that one answer lists; the counts are always whole."""


def affected_document(affected: Affected) -> Document:
    """Return what a revocation takes back; of very long lists the first `AFFECTED_MAX`."""
    installed = sorted({(place.host, place.target) for each in affected.patches for place in each.installed})
    return {
        "identity": affected.identity_id,
        "keys": [{"key_id": key_id.hex(), "last_valid_height": height} for key_id, height in affected.keys],
        "patch_count": len(affected.patches),
        "patches": [_patch(each) for each in affected.patches[:AFFECTED_MAX]],
        "targets": [{"host": host, "target": target} for host, target in installed[:AFFECTED_MAX]],
        "act_count": len(affected.acts),
        "acts": [_act(each) for each in affected.acts[:AFFECTED_MAX]],
    }


def administration_document(view: StateView, organisation: str, limit: int) -> Document:
    """Return how an organisation is administered, and the acts that were proposed, the newest first; the view lists."""
    acts = [each for each in view.pending_acts() if each.organisation == organisation]
    acts.sort(key=lambda each: (-each.created_height, each.act_id))
    return {
        "organisation": organisation,
        "threshold": view.administration_threshold(organisation),
        "acting": list(acting_administrators(view, organisation, view.height + 1, {})),
        "height": view.height,
        "acts": [_act_of_administration(view, each) for each in acts[:limit]],
    }


def _act_of_administration(view: StateView, act: PendingAct) -> Document:
    is_over = act.status == OPEN and view.height >= act.expires_height
    time_ms = view.header.time_ms
    return {
        "act_id": act.act_id.hex(),
        "proposer": act.proposer,
        "kind": act.kind,
        "body": show_values(act.body),
        "created_height": act.created_height,
        "expires_height": act.expires_height,
        "status": "expired" if is_over else act.status,
        "approvals": [
            {
                "identity": approval[0],
                "key_id": approval[1].hex(),
                "height": approval[2],
                "counted": is_approval_counted(view, act, approval, time_ms),
            }
            for approval in act.approvals
        ],
        "closed_height": act.closed_height,
    }


def _patch(affected: AffectedPatch) -> Document:
    patch = affected.patch
    return {
        "patch_id": patch.patch_id.hex(),
        "author": patch.author,
        "published_height": patch.published_height,
        "components": list(patch.components),
        "withdrawn_height": patch.withdrawn_height,
        "author_affected": affected.is_author,
        "attestations": [attestation_document(each) for each in affected.attestations],
        "approvals_left": affected.approvals_left,
        "installed": [
            {"host": place.host, "target": place.target, "height": place.height} for place in affected.installed
        ],
    }


def _act(act: Act) -> Document:
    return {
        "height": act.height,
        "index": act.index,
        "tx_id": act.tx_id.hex(),
        "kind": act.kind,
        "key_id": act.key_id.hex(),
        "about": act.about,
    }
