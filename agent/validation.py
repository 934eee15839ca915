"""Whether the signed metadata agrees with the ledger's record of the patch and with what the target already holds.

Source: docs/spec/agent.md 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from agent.errors import MetadataRefusedError
from agent.target import TargetState
from ledger.records import PatchRecord
from provenance.metadata import PatchMetadata
from provenance.timestamp import seconds_from_timestamp
from provenance.verify import VerifiedPatch


def check_published(patch: VerifiedPatch, record: PatchRecord | None) -> PatchRecord:
    """Return the ledger's record, which is of exactly this patch and does not stop it.

    Raises:
        MetadataRefusedError: ``agent.metadata.not_published``, ``.other_author``, ``.other_statement``, ``.withdrawn``, ``.superseded``.
    """
    if record is None:
        raise _refuse(
            "not_published", "the patch is not published on the ledger", hint="let its author run patch publish"
        )
    if record.author_key_id != patch.author_key.key_id:
        raise _refuse("other_author", f"the ledger knows this patch as one of {record.author} under another key")
    if record.author_payload_digest != patch.author_payload_digest:
        raise _refuse(
            "other_statement",
            "the author signed another statement for this patch than the one the ledger recorded",
            expected=record.author_payload_digest,
            actual=patch.author_payload_digest,
        )
    if record.withdrawn_height is not None:
        reason = f": {record.withdrawn_reason}" if record.withdrawn_reason else ""
        raise _refuse("withdrawn", f"the patch was withdrawn at height {record.withdrawn_height}{reason}")
    if record.superseded_by is not None:
        raise _refuse("superseded", f"the patch was superseded by {record.superseded_by.hex()}")
    return record


def check_applicable(patch: VerifiedPatch, state: TargetState, now_ms: int) -> None:
    """Return when neither time nor the target's history speaks against the patch.

    Raises:
        MetadataRefusedError: ``agent.metadata.expired``, ``.already_applied``, ``.prerequisite_missing``, ``.counter_not_increasing``.
    """
    installed = {each.patch_id for each in state.installed}
    check_history(patch.metadata, patch.patch_id, installed, state.counter, now_ms)


def check_history(
    metadata: PatchMetadata, patch_id: str, installed: Collection[str], counter: Callable[[str], int], now_ms: int
) -> None:
    """Return when neither time nor what a target had before speaks against a patch.

    Args:
        metadata: What its author signed.
        patch_id: 64 hexadecimal digits.
        installed: Ids of the patches on the target.
        counter: Returns the highest release counter of a component that was applied there, -1 for none.
        now_ms: Milliseconds since the epoch, UTC.

    Raises:
        MetadataRefusedError: ``agent.metadata.expired``, ``.already_applied``, ``.prerequisite_missing``, ``.counter_not_increasing``.
    """
    if metadata.not_after is not None and seconds_from_timestamp(metadata.not_after) * 1000 < now_ms:
        raise _refuse("expired", f"the patch expired at {metadata.not_after}")
    if patch_id in installed:
        raise _refuse("already_applied", "the patch is installed on this target already")
    for prerequisite in metadata.prerequisites:
        if prerequisite not in installed:
            raise _refuse("prerequisite_missing", f"the patch {prerequisite} must be installed before")
    for name in metadata.component_names:
        highest = counter(name)
        if metadata.release_counter <= highest:
            raise _refuse(
                "counter_not_increasing",
                f"a patch of {name} with this or a higher release counter was applied to this target",
                expected=f"more than {highest}",
                actual=metadata.release_counter,
            )


def _refuse(
    rule: str, sentence: str, *, expected: object = None, actual: object = None, hint: str = ""
) -> MetadataRefusedError:
    return MetadataRefusedError(f"agent.metadata.{rule}", sentence, expected=expected, actual=actual, hint=hint)
