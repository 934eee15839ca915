"""Which installed patch may be undone, and what would have to go with it.

Only the newest patch of a file can be undone: a later one was made on top of it. The patch files that a target keeps say which paths each
installed patch touches and which others it needs, so the answer depends on nothing but what was signed.

Source: docs/spec/agent.md 6.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent.errors import MetadataRefusedError
from agent.facts import AuthorFacts
from agent.target import Installed, TargetState
from ledger.records import PatchRecord
from ledger.state import StateView
from provenance.verify import VerifiedPatch, check_metadata, check_signature_untrusted, extract_metadata
from wire.errors import RejectedError
from wire.hashing import Digest

_NAMED_MAX: Final = 8
"""Dependants that a refusal names; it counts all of them."""

ReadPatch = Callable[[str], bytes | None]
"""Returns the kept file of an installed patch by its id, or None when it is lost."""


@dataclass(frozen=True, slots=True)
class _Touch:
    """What one installed patch stands on."""

    patch_id: str
    paths: frozenset[str]
    prerequisites: frozenset[str]
    readable: bool
    """Whether its file is there; of a lost one nothing is known, so it is taken to depend on everything."""


def find_installed(state: TargetState, patch_id: str) -> Installed:
    """Return the record of an installed patch.

    Raises:
        MetadataRefusedError: ``agent.rollback.not_installed``.
    """
    for each in state.installed:
        if each.patch_id == patch_id:
            return each
    raise MetadataRefusedError(
        "agent.rollback.not_installed",
        "the patch is not installed on this target",
        actual=patch_id,
        hint="agent status lists what is installed",
    )


def find_dependants(state: TargetState, patch_id: str, read_patch: ReadPatch) -> tuple[str, ...]:
    """Return the patches that have to go before this one, in the order in which they have to go: the newest first.

    Raises:
        MetadataRefusedError: ``agent.rollback.not_installed``.
    """
    find_installed(state, patch_id)
    order = [each.patch_id for each in state.installed]
    going = [_touch(patch_id, read_patch)]
    for later in order[order.index(patch_id) + 1 :]:
        touch = _touch(later, read_patch)
        if any(_depends(touch, each) for each in going):
            going.append(touch)
    return tuple(each.patch_id for each in reversed(going[1:]))


def check_newest(state: TargetState, patch_id: str, read_patch: ReadPatch) -> Installed:
    """Return the record of an installed patch on which no other one stands.

    Raises:
        MetadataRefusedError: ``agent.rollback.not_installed``, ``agent.rollback.dependants``.
    """
    installed = find_installed(state, patch_id)
    dependants = find_dependants(state, patch_id, read_patch)
    if dependants:
        raise MetadataRefusedError(
            "agent.rollback.dependants",
            f"{len(dependants)} patches that were applied later change the same files, or need this one: {_names(dependants)}",
            hint="undo them first, the newest first; --with-dependants does so",
            details={"count": len(dependants)},
        )
    return installed


def is_file_of(data: bytes | None, patch_id: str) -> bool:
    """Return whether these bytes are a signed patch file of exactly this patch."""
    try:
        return data is not None and check_signature_untrusted(data).file.patch_id == patch_id
    except RejectedError:
        return False


def known_author(view: StateView, record: PatchRecord | None) -> AuthorFacts:
    """Return who made an installed patch, with the roles that count now. Nobody's fall keeps a patch installed.

    Raises:
        MetadataRefusedError: ``agent.metadata.not_published``.
    """
    if record is None:
        raise MetadataRefusedError("agent.metadata.not_published", "the patch is not published on the ledger")
    identity = view.identity(record.author)
    roles = () if identity is None else identity.roles_at(view.header.time_ms)
    return AuthorFacts(record.author, record.organisation, roles)


def tree_before(view: StateView, installed: Installed, tree: Digest) -> Digest | None:
    """Return the digest of the tree on which the patch was applied; None when `tree` is not exactly what came of it.

    Other patches that came later, or an adoption, make it another tree; then only the files that the patch names are as before.
    """
    record = view.deployment(bytes.fromhex(installed.intent_tx))
    return Digest(record.tree_before) if record is not None and record.tree_after == tree else None


def height_of(view: StateView, host: str, target: str, installed: Installed) -> int | None:
    """Return the height at which the intent of an installed patch was committed; None while the ledger is not known to have it.

    Of a change without acknowledgement whose intent was signed again meanwhile, the ledger only tells by the outcome: then its height.
    """
    if installed.height:
        return installed.height
    record = view.deployment(bytes.fromhex(installed.intent_tx))
    if record is not None and record.intent_height is not None:
        return record.intent_height
    known = view.target(host, target)
    heights = dict(known.installed) if known is not None else {}
    return heights.get(bytes.fromhex(installed.patch_id))


def _names(patch_ids: tuple[str, ...]) -> str:
    more = ", …" if len(patch_ids) > _NAMED_MAX else ""
    return ", ".join(patch_ids[:_NAMED_MAX]) + more


def _touch(patch_id: str, read_patch: ReadPatch) -> _Touch:
    data = read_patch(patch_id)
    try:
        patch = None if data is None else _read(data)
    except RejectedError:
        patch = None
    if patch is None or patch.patch_id != patch_id:
        return _Touch(patch_id, frozenset(), frozenset(), False)
    return _Touch(patch_id, frozenset(patch.diff.paths), frozenset(patch.metadata.prerequisites), True)


def _read(data: bytes) -> VerifiedPatch:
    return check_metadata(extract_metadata(check_signature_untrusted(data)))


def _depends(later: _Touch, earlier: _Touch) -> bool:
    if not later.readable or not earlier.readable:
        return True
    return bool(later.paths & earlier.paths) or earlier.patch_id in later.prerequisites
