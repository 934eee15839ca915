"""Who speaks: the author and every attestor, judged by the local replica at one height.

Revocation is by height, of a key and of a whole identity: what the ledger recorded up to the last valid height counts, whatever happened
later. An identity that is suspended now, or whose organisation is suspended or removed, does not count at all. What an attestor said counts
only as the ledger recorded it: a verdict that stands in the file alone is set aside, and a rejection that was stripped from the file counts
all the same.

Source: docs/spec/agent.md 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent.errors import DeveloperRefusedError
from agent.facts import AttestorFacts, AuthorFacts, StatementFacts
from agent.statements import is_statement, read_statement
from ledger.records import ACTIVE, REVOKED, SUSPENDED, AttestationRecord, IdentityRecord, KeyRecord, PatchRecord
from ledger.roles import DEVELOPER, is_attestor
from ledger.state import StateView
from provenance.identity import CreatorIdentity, CreatorKind
from provenance.trailer import Attestation
from provenance.verify import VerifiedPatch
from wire.errors import RejectedError
from wire.keys import PublicKey
from wire.x509 import certificate_chain_untrusted, verify_chain

APPROVE: Final = "approve"
REJECT: Final = "reject"

_HARMLESS_CODES: Final = frozenset({"provenance.attestation.duplicate", "provenance.attestation.self_approval"})
"""Lines that are set aside although their signature and binding hold: said twice, or by the author."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What attestors say about a patch, and what of it counts."""

    approvals: tuple[AttestorFacts, ...]
    """Approvals that count, in recorded order; the author's organisation is never among them."""
    rejections: tuple[AttestorFacts, ...]
    """Rejections that count, in recorded order."""
    statements: tuple[StatementFacts, ...]
    """Other attestations than reviews that count, in recorded order, whatever they say."""
    set_aside: tuple[str, ...]
    """One sentence for each attestation that does not count, with the reason."""


def check_author(view: StateView, key: PublicKey, creator: CreatorIdentity, record: PatchRecord | None) -> AuthorFacts:
    """Return who the author is, somebody whose patches this network accepts.

    Args:
        view: The replica at one height.
        key: The key that signed the patch.
        creator: What the metadata says about the author.
        record: The patch on the ledger, or None when it is not published.

    Raises:
        DeveloperRefusedError: ``agent.developer.unknown_key``, ``.suspended``, ``.revoked``, ``.wrong_role``, ``.key_not_valid``,
            ``.certificate``.
    """
    key_record = view.key(key.key_id)
    identity = None if key_record is None else view.identity(key_record.identity_id)
    if key_record is None or identity is None:
        raise _refuse("unknown_key", "the author's key belongs to nobody on the ledger", actual=key.did)
    status = view.recorded_status(identity)
    if status != ACTIVE:
        rule = "suspended" if status == SUSPENDED else "revoked"
        raise _refuse(rule, f"the author {_of_whom(identity)} is {status}")
    height = view.height if record is None else record.published_height
    if identity.status == REVOKED and not key_record.is_valid_at(height):
        raise _refuse(
            "revoked", f"the author {identity.identity_id} is revoked: the key {_why_not_valid(key_record, height)}"
        )
    # A role that is bound to a time counts for what the ledger recorded in it; one that was taken away counts for nothing more.
    roles = identity.roles_at((view.header_at(height) or view.header).time_ms)
    if DEVELOPER not in roles:
        raise _refuse(
            "wrong_role",
            f"the author {identity.identity_id} does not hold the role {DEVELOPER} at height {height}",
            actual=", ".join(roles),
        )
    if not key_record.is_valid_at(height):
        raise _refuse("key_not_valid", f"the author's key {_why_not_valid(key_record, height)}", actual=key.did)
    if creator.kind is CreatorKind.X509:
        _check_certificates(view, creator, identity, height)
    return AuthorFacts(identity.identity_id, identity.organisation, roles)


def judge_attestations(
    view: StateView, patch_id: bytes, author: AuthorFacts, payloads: Mapping[bytes, bytes] | None = None
) -> Verdicts:
    """Return what the ledger's attestations of a patch amount to at the view's height.

    Args:
        view: The replica at one height.
        patch_id: The patch, 32 bytes.
        author: Its author.
        payloads: Payloads of the patch file at hand, by digest; statements that it lacks are read from the ledger.
    """
    approvals: list[AttestorFacts] = []
    rejections: list[AttestorFacts] = []
    statements: list[StatementFacts] = []
    set_aside: list[str] = []
    for record in view.attestations(patch_id):
        if not record.current:
            continue
        reason = why_not_counted(view, record, author)
        if reason is not None:
            set_aside.append(f"{_verdict(record.identity_id, record.verdict, record.role)} does not count: {reason}")
            continue
        if is_statement(record):
            statements.append(read_statement(view, record, payloads or {}))
        if record.verdict in (APPROVE, REJECT):
            facts = AttestorFacts(record.identity_id, record.organisation, record.role, record.recorded_height)
            (approvals if record.verdict == APPROVE else rejections).append(facts)
    return Verdicts(tuple(approvals), tuple(rejections), tuple(statements), tuple(set_aside))


def describe_file_attestations(view: StateView, patch: VerifiedPatch) -> tuple[str, ...]:
    """Return one sentence for each attestation of the file that the ledger does not have, or that proves nothing."""
    sentences = [
        f"trailer line {refused.index + 1} does not count: {refused.message}" for refused in patch.attestations_refused
    ]
    for attestation in patch.attestations:
        record = view.attestation(attestation.payload_digest)
        if record is None:
            sentences.append(f"{_said(attestation)} does not count: it is in the file but not recorded on the ledger")
        elif not record.current:
            sentences.append(f"{_said(attestation)} does not count: a later one of the same attestor replaced it")
    return tuple(sentences)


def count_damaged(patch: VerifiedPatch) -> int:
    """Return the number of trailer lines whose form, signature or binding does not hold."""
    return sum(refused.code not in _HARMLESS_CODES for refused in patch.attestations_refused)


def is_sealed(view: StateView, patch: VerifiedPatch, author: AuthorFacts) -> bool:
    """Return whether the file ends with a release seal by somebody of the author's organisation, or an attestor, who may act now."""
    if patch.seal is None:
        return False
    key = view.key(patch.seal.key.key_id)
    identity = None if key is None else view.identity(key.identity_id)
    return (
        key is not None
        and identity is not None
        and view.acting_status(identity) == ACTIVE
        and identity.identity_id == patch.seal.identity
        and key.is_valid_at(view.height)
        and (identity.organisation == author.organisation or is_attestor(identity.roles_at(view.header.time_ms)))
    )


def _check_certificates(view: StateView, creator: CreatorIdentity, identity: IdentityRecord, height: int) -> None:
    """Check the author's chain against the organisation's CA certificates at the time of the block that recorded the patch."""
    organisation = view.organisation(identity.organisation)
    header = view.header_at(height) or view.header
    anchors = () if organisation is None else organisation.ca_certificates
    try:
        verify_chain(certificate_chain_untrusted(creator.certificate_chain), anchors, header.time_ms // 1000)
    except RejectedError as error:
        raise _refuse(
            "certificate",
            f"the author's certificates are not of {identity.organisation}: {error.message}",
            actual=error.code,
        ) from error


def why_not_counted(view: StateView, record: AttestationRecord, author: AuthorFacts) -> str | None:
    """Return why an attestation of a patch by `author` does not count now, or None: it does."""
    if not record.current:
        return "a later one of the same attestor, role and kind replaced it"
    identity = view.identity(record.identity_id)
    key = view.key(record.key_id)
    if identity is None or key is None:
        return "the attestor is not registered"
    status = view.recorded_status(identity)
    if status != ACTIVE:
        return (
            f"the attestor is {status}"
            if identity.status == SUSPENDED
            else f"the attestor {_of_whom(identity)} is {status}"
        )
    if not key.is_valid_at(record.recorded_height):
        whose = "the attestor is revoked: the key" if identity.status == REVOKED else "the key"
        return f"{whose} {_why_not_valid(key, record.recorded_height)}"
    if record.identity_id == author.identity:
        return "the author cannot attest the own patch"
    if record.verdict == APPROVE and record.organisation == author.organisation:
        return f"the attestor belongs to the author's organisation {author.organisation}"
    return None


def _of_whom(identity: IdentityRecord) -> str:
    """Return who may not act: the suspended identity, or its organisation."""
    return identity.identity_id if identity.status == SUSPENDED else f"{identity.identity_id}'s organisation"


def _why_not_valid(key: KeyRecord, height: int) -> str:
    if key.last_valid_height is not None and height > key.last_valid_height:
        reason = f" ({key.reason})" if key.reason else ""
        return f"was revoked with last valid height {key.last_valid_height}, and this was recorded at {height}{reason}"
    if key.retired_height is not None and height > key.retired_height:
        return f"was retired at height {key.retired_height}, and this was recorded at {height}"
    return f"was added at height {key.added_height}, and this was recorded at {height}"


def _said(attestation: Attestation) -> str:
    verdict = "statement" if attestation.verdict is None else attestation.verdict.value
    return _verdict(attestation.identity, verdict, attestation.role)


def _verdict(identity: str, verdict: str, role: str) -> str:
    word = {APPROVE: "approval", REJECT: "rejection"}.get(verdict, "statement")
    return f"{identity}'s {word} as {role}"


def _refuse(rule: str, sentence: str, actual: object = None) -> DeveloperRefusedError:
    return DeveloperRefusedError(f"agent.developer.{rule}", sentence, actual=actual)
