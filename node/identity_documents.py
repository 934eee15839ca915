"""The JSON documents about what a revocation takes back: the same from a node and from an offline replay. Source: docs/spec/api.md."""

from __future__ import annotations

from typing import Any, Final

from ledger.affected import Act, Affected, AffectedPatch
from node.documents import attestation_document

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
