"""The JSON documents that the agent puts on the ledger and into its history.

Source: docs/spec/agent.md 8.
"""

from __future__ import annotations

import os
from typing import Any, Final
from unicodedata import normalize

from agent.facts import Requester
from agent.record_log import Record
from agent.registry import TargetStatus
from agent.results import Outcome
from ledger.bodies import DeploymentOutcome
from ledger.limits import DETAIL_BYTES_MAX, REPORT_BYTES_MAX
from wire import canonical_json
from wire.hashing import Digest, sha256

_MESSAGE_CHARACTERS_MAX: Final = 2000
_PROBLEM_CHARACTERS_MAX: Final = 500


def outcome_detail(outcome: Outcome, requester: Requester | None, data: bytes | None) -> bytes:
    """Return the detail of an outcome in canonical JSON, at most `DETAIL_BYTES_MAX` bytes.

    Args:
        outcome: How it ended.
        requester: Who asked, or None when recovery found it.
        data: The patch file, or None when it is not at hand.
    """
    document: dict[str, Any] = {
        "version": 1,
        "action": outcome.action,
        "reason": outcome.reason,
        "message": _text(outcome.message),
        "step": outcome.steps[-1].step.value if outcome.steps else "recovery",
        "requester": None if requester is None else _requester(requester),
        "file_sha256": None if data is None else sha256(data).hex(),
        "file_bytes": None if data is None else len(data),
    }
    if outcome.hooks:
        document["hooks"] = [run.to_json() for run in outcome.hooks]
    if outcome.unacknowledged:
        document["unacknowledged"] = outcome.unacknowledged
    # An intent carries its decision; a refusal has no intent, so its decision goes here.
    if outcome.decision is not None and outcome.intent_tx is None:
        whole = canonical_json.encode({**document, "decision": outcome.decision.to_json()})
        if len(whole) <= DETAIL_BYTES_MAX:
            return whole
        document["decision_bytes"] = len(whole)
    return canonical_json.encode(document)


def unrecorded_body(body: DeploymentOutcome, code: str) -> bytes:
    """Return the body of a drift report about a change whose record the ledger refused for good: no record explains the tree."""
    document = {
        "version": 1,
        "tree_digest": body.tree_after.hex(),
        "recorded_tree_digest": body.tree_before.hex(),
        "paths_count": 0,
        "unrecorded": {"patch_id": body.patch_id.hex(), "result": body.result, "code": code},
    }
    return _bounded(document, [])


def history_record(outcome: Outcome, now_ms: int) -> Record:
    """Return an ending as a record of the target's local history."""
    return {
        "time_ms": now_ms,
        "action": outcome.action,
        "code": outcome.code.value,
        "reason": outcome.reason,
        "message": _text(outcome.message),
        "patch_id": outcome.patch_id,
        "tree_before": None if outcome.tree_before is None else outcome.tree_before.hex(),
        "tree_after": None if outcome.tree_after is None else outcome.tree_after.hex(),
        "intent_tx": None if outcome.intent_tx is None else outcome.intent_tx.hex(),
        "outcome_tx": None if outcome.outcome_tx is None else outcome.outcome_tx.hex(),
        "recorded_height": outcome.recorded_height,
        "hooks": [run.to_json() for run in outcome.hooks],
    }


def adoption_body(status: TargetStatus) -> bytes:
    """Return the body of an adopt report: the baseline that an administrator accepted, and what the host knows nothing of, if so."""
    document: dict[str, Any] = {"version": 1, "tree_digest": _hex(status.tree_digest), "root": status.config.root}
    # Of a target that was removed and comes back with another tree, or of which the record was lost, the ledger would go on listing
    # what the old one had.
    if not status.state.installed:
        document["installed"] = []
    if not status.state.counters:
        document["counters"] = {}
    return _bounded(document, [])


def drift_body(status: TargetStatus) -> bytes:
    """Return the body of a drift report: both digests and as many of the differing paths as fit."""
    document: dict[str, Any] = {
        "version": 1,
        "tree_digest": _hex(status.tree_digest),
        "recorded_tree_digest": status.state.tree_digest.hex(),
        "paths_count": status.drifted_count,
    }
    if status.tree_digest is None:
        document |= {"problem": _text(status.problem)[:_PROBLEM_CHARACTERS_MAX], "problem_code": status.problem_code}
    return _bounded(document, [_text(path) for path in status.drifted_paths])


def removal_body(recorded: Digest) -> bytes:
    """Return the body of a drift report that says that a target is guarded no more: whatever its tree becomes, no record explains it."""
    document = {
        "version": 1,
        "tree_digest": None,
        "recorded_tree_digest": recorded.hex(),
        "paths_count": 0,
        "problem": "the host guards this tree no longer: its operator has removed the target",
        "problem_code": "agent.target.removed",
    }
    return _bounded(document, [])


def repair_body(status: TargetStatus) -> bytes:
    """Return the body of a repair report: the tree is again what the records explain."""
    return _bounded({"version": 1, "tree_digest": _hex(status.tree_digest)}, [])


def _bounded(document: dict[str, Any], paths: list[str]) -> bytes:
    """Return `document` with as many of `paths` as `REPORT_BYTES_MAX` allows."""
    while True:
        body = canonical_json.encode({**document, "paths": paths} if paths else document)
        if len(body) <= REPORT_BYTES_MAX or not paths:
            return body
        paths = paths[: len(paths) // 2]


def _requester(requester: Requester) -> dict[str, Any]:
    return {"name": requester.name, "roles": list(requester.roles), "channel": requester.channel}


def _text(text: str) -> str:
    """Return a message as canonical JSON takes it: normal form C, and no byte of a path that is no text."""
    clean = os.fsencode(text).decode("utf-8", errors="backslashreplace")
    return normalize("NFC", clean[:_MESSAGE_CHARACTERS_MAX])


def _hex(digest: bytes | None) -> str | None:
    return None if digest is None else digest.hex()
