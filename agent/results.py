"""How an application, a refusal or a question ends: one of ten codes, with the reason that led to it.

Source: docs/spec/agent.md 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from agent.decision import Decision
from agent.errors import (
    ApplyFailedError,
    ApplyRefusedError,
    DeveloperRefusedError,
    MetadataRefusedError,
    OutboxError,
    PolicyRefusedError,
    ReplicaStaleError,
    StateWriteError,
    TargetRefusedError,
)
from agent.facts import ACTION_APPLY, ACTION_ROLLBACK
from agent.hooks import HookRun
from provenance.errors import ApplyRefusedError as DiffApplyRefusedError
from provenance.errors import InvalidMetadataError, InvalidSignatureError, MalformedPatchError
from wire.errors import PatchwardenError
from wire.hashing import Digest


class ResultCode(StrEnum):
    """How it ended."""

    SUCCESS = "SUCCESS"
    ROLLED_BACK = "ROLLED_BACK"
    MALFORMED_PATCH = "ERROR_MALFORMED_PATCH"
    STALE_REPLICA = "ERROR_STALE_REPLICA"
    INVALID_SIGNATURE = "ERROR_INVALID_SIGNATURE"
    INVALID_METADATA = "ERROR_INVALID_METADATA"
    INVALID_DEVELOPER = "ERROR_INVALID_DEVELOPER"
    POLICY_DENIED = "ERROR_POLICY_DENIED"
    LEDGER_UNAVAILABLE = "ERROR_LEDGER_UNAVAILABLE"
    APPLY_FAILED = "ERROR_APPLY_FAILED"


class StepName(StrEnum):
    """The steps of the pipeline, in order."""

    ADMIT = "admit"
    VERIFY_SIGNATURE = "verify-signature"
    EXTRACT_METADATA = "extract-metadata"
    VERIFY_IDENTITIES = "verify-identities"
    VALIDATE_METADATA = "validate-metadata"
    POLICY = "policy"
    PLAN = "plan"
    INTENT = "intent"
    APPLY = "apply"
    RECORD = "record"


@dataclass(frozen=True, slots=True)
class StepResult:
    """How one step ended."""

    step: StepName
    """Which one."""
    passed: bool
    """Whether the next one followed."""
    code: str
    """The stable code of the refusal, or "" when it passed."""
    message: str
    """What was found, one sentence."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"step": self.step.value, "passed": self.passed, "code": self.code, "message": self.message}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one application or one question ended."""

    code: ResultCode
    """Of the ten."""
    reason: str
    """The stable dotted code of what refused, such as `provenance.diff.path_parent`; "" on success."""
    message: str
    """One sentence for people."""
    target: str
    """The target's name."""
    patch_id: str
    """64 hexadecimal digits, or "" when the file has no readable body."""
    decision: Decision | None
    """What policy said, or None when the pipeline ended before it."""
    steps: tuple[StepResult, ...]
    """Every step that was taken, in order; the last one is where it ended."""
    tree_before: Digest | None
    """Tree digest before, 32 bytes; None when the tree could not be read."""
    tree_after: Digest | None
    """Tree digest after; equal to `tree_before` unless the code is SUCCESS or ROLLED_BACK."""
    intent_tx: bytes | None = None
    """tx_id of the intent, or None when there was none."""
    outcome_tx: bytes | None = None
    """tx_id of the outcome as it waits or stands on the ledger; None for a question, which records nothing."""
    unacknowledged: int = 0
    """Where the change was carried out without the ledger's acknowledgement: how many such there were then, this one included."""
    recorded_height: int | None = None
    """Height at which the ledger has the outcome, or None while it waits in the outbox."""
    hint: str = ""
    """What to do next, or ""."""
    action: str = ACTION_APPLY
    """`ACTION_APPLY` or `ACTION_ROLLBACK`: what was asked for."""
    hooks: tuple[HookRun, ...] = ()
    """How the hooks ended that were run, in order."""

    @property
    def is_success(self) -> bool:
        """Whether the patch was applied, or undone; for a question: would be."""
        return self.code in (ResultCode.SUCCESS, ResultCode.ROLLED_BACK)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "action": self.action,
            "code": self.code.value,
            "reason": self.reason,
            "message": self.message,
            "hint": self.hint,
            "target": self.target,
            "patch_id": self.patch_id,
            "decision": None if self.decision is None else self.decision.to_json(),
            "steps": [step.to_json() for step in self.steps],
            "tree_before": _hex(self.tree_before),
            "tree_after": _hex(self.tree_after),
            "intent_tx": _hex(self.intent_tx),
            "outcome_tx": _hex(self.outcome_tx),
            "recorded_height": self.recorded_height,
            "hooks": [run.to_json() for run in self.hooks],
            "unacknowledged": self.unacknowledged,
        }


def done_code(action: str) -> ResultCode:
    """Return the code of what ended well."""
    return ResultCode.ROLLED_BACK if action == ACTION_ROLLBACK else ResultCode.SUCCESS


def result_code(error: PatchwardenError) -> ResultCode:
    """Return the code under which `error` ends the pipeline; a form error of a lower floor makes the patch malformed."""
    match error:
        case ReplicaStaleError():
            return ResultCode.STALE_REPLICA
        case InvalidSignatureError():
            return ResultCode.INVALID_SIGNATURE
        case InvalidMetadataError() | MetadataRefusedError():
            return ResultCode.INVALID_METADATA
        case DeveloperRefusedError():
            return ResultCode.INVALID_DEVELOPER
        case PolicyRefusedError():
            return ResultCode.POLICY_DENIED
        case OutboxError():
            return ResultCode.LEDGER_UNAVAILABLE
        case (
            TargetRefusedError()
            | ApplyRefusedError()
            | ApplyFailedError()
            | StateWriteError()
            | DiffApplyRefusedError()
        ):
            return ResultCode.APPLY_FAILED
        case MalformedPatchError():
            return ResultCode.MALFORMED_PATCH
        case _:
            return ResultCode.MALFORMED_PATCH


def _hex(digest: bytes | None) -> str | None:
    return None if digest is None else digest.hex()
