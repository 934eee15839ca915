"""Patches and what is said about them: published by their author, attested by others, withdrawn.

The ledger holds the author's envelope and every attestation's envelope, never the diff. It checks everything that the envelopes alone can
prove; that the file's preamble and diff agree with them is checked by whoever has the file (`provenance.verify`).

Source: docs/spec/ledger.md 5.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ledger.bodies import PatchAttest, PatchPublish, PatchWithdraw
from ledger.errors import TransactionRefusedError
from ledger.keyspace import attestation_key, attestation_list_key, component_key, identity_key, patch_key
from ledger.limits import ATTESTATIONS_PER_PATCH_MAX, ENVELOPE_BYTES_MAX
from ledger.records import (
    ACTIVE,
    AttestationList,
    AttestationRecord,
    ComponentRecord,
    IdentityRecord,
    KeyRecord,
    PatchRecord,
    Record,
)
from ledger.roles import ADMINISTRATOR, DEVELOPER, attestor_role, is_attestor
from ledger.rules_common import Context, Effects, check_role, not_authorised, refuse
from ledger.state import StateView
from provenance.metadata import PatchMetadata
from provenance.statement import (
    AttestationStatement,
    AuthorStatement,
    decode_attestation_statement_untrusted,
    decode_author_statement_untrusted,
)
from provenance.timestamp import seconds_from_timestamp
from wire.envelope import PAYLOAD_TYPE_INTOTO, Envelope, decode_envelope_untrusted, verify_envelope
from wire.errors import InvalidSignatureError, RejectedError
from wire.keys import KeyId

NO_VERDICT: Final = "none"


@dataclass(frozen=True, slots=True)
class _Claim:
    """An envelope whose signature holds, and who made it."""

    envelope: Envelope
    key: KeyRecord
    signer: IdentityRecord


def publish_patch(view: StateView, context: Context, body: PatchPublish) -> Effects:
    """Return the patch's record, the release counters that it raises, and the patches that it replaces.

    Raises:
        TransactionRefusedError: ``ledger.tx.not_authorised``, ``ledger.patch.exists``, ``.bad_envelope`` (form), ``.unknown_key``,
            ``.key_not_valid``, ``.wrong_author`` (another identity's key), ``.bad_signature``, ``.wrong_creator`` (the metadata names
            another key), ``.wrong_subject`` (another patch), ``.expired``, ``.counter_not_increasing``, ``.unknown_prerequisite``,
            ``.unknown_superseded``, ``.supersedes_foreign``.
    """
    check_role(context, DEVELOPER, "publish patches")
    if view.patch(body.patch_id) is not None:
        raise refuse("patch.exists", "the patch is published already", actual=body.patch_id)
    claim = _read_claim(view, context, body.envelope)
    if claim.signer.identity_id != context.signer.identity_id:
        raise refuse(
            "patch.wrong_author",
            "a patch is published by its author",
            claim.signer.identity_id,
            context.signer.identity_id,
        )
    statement = _read_author_statement(claim.envelope)
    metadata = statement.metadata
    _check_creator(metadata, claim.key)
    if statement.body_sha256 != body.patch_id.hex():
        raise refuse(
            "patch.wrong_subject", "the author's statement is about another patch", body.patch_id, statement.body_sha256
        )
    if metadata.not_after is not None and seconds_from_timestamp(metadata.not_after) * 1000 < context.time_ms:
        raise refuse("patch.expired", "the patch has expired", f"not_after in the future of block {context.height}",
                     metadata.not_after)  # fmt: skip
    components = metadata.component_names
    records: dict[bytes, Record] = {}
    for name in components:
        highest = view.release_counter(name)
        if metadata.release_counter <= highest:
            raise refuse(
                "patch.counter_not_increasing",
                f"a patch of {name} with this or a higher release counter is published",
                f"more than {highest}",
                metadata.release_counter,
                hint="sign the patch again with a higher release_counter",
            )
        records[component_key(name)] = ComponentRecord(name, metadata.release_counter, body.patch_id)
    prerequisites = tuple(bytes.fromhex(each) for each in metadata.prerequisites)
    for patch_id in prerequisites:
        if view.patch(patch_id) is None:
            raise refuse("patch.unknown_prerequisite", "a prerequisite is not published", actual=patch_id)
    supersedes = tuple(bytes.fromhex(each) for each in metadata.supersedes)
    for patch_id in supersedes:
        old = view.patch(patch_id)
        if old is None:
            raise refuse("patch.unknown_superseded", "a superseded patch is not published", actual=patch_id)
        if old.organisation != context.signer.organisation:
            raise refuse(
                "patch.supersedes_foreign",
                "a patch can supersede only patches of its own organisation",
                context.signer.organisation,
                old.organisation,
            )
        records[patch_key(patch_id)] = replace(old, superseded_by=body.patch_id)
    records[patch_key(body.patch_id)] = PatchRecord(
        patch_id=body.patch_id,
        author=context.signer.identity_id,
        organisation=context.signer.organisation,
        author_key_id=claim.key.key_id,
        author_payload_digest=claim.envelope.payload_digest,
        diff_digest=bytes.fromhex(statement.diff_sha256),
        file_digest=body.file_digest,
        file_bytes=body.file_bytes,
        published_height=context.height,
        tx_id=context.tx_id,
        attestation_digests=body.attestation_digests,
        components=components,
        release_counter=metadata.release_counter,
        supersedes=supersedes,
        prerequisites=prerequisites,
        superseded_by=None,
        withdrawn_height=None,
        withdrawn_reason="",
    )
    return Effects(records, (patch_key(body.patch_id), *(patch_key(each) for each in supersedes)))


def attest_patch(view: StateView, context: Context, body: PatchAttest) -> Effects:
    """Return the attestation's record, the patch's list, and the attestation that it replaces.

    The attestor may submit it, or any developer or attestor may pass it on. Passed on, it counts only as the attestor's first word in that
    role: otherwise whoever kept an old envelope could undo a newer verdict.

    Raises:
        TransactionRefusedError: ``ledger.tx.not_authorised``, ``ledger.patch.not_found``, ``.withdrawn``, ``.bad_envelope`` (form),
            ``.unknown_key``, ``.key_not_valid``, ``.attestor_not_active``, ``.bad_signature``, ``.not_an_attestation``,
            ``.wrong_attestor`` (it names another), ``.wrong_subject`` (another patch or statement), ``.not_attestor`` (role not held),
            ``.self_approval``, ``.duplicate_attestation``, ``.relay_not_first``, ``.too_many_attestations``.
    """
    if DEVELOPER not in context.signer.roles and not is_attestor(context.signer.roles):
        raise not_authorised(context, "submit attestations", f"the role {DEVELOPER} or {attestor_role('<role>')}")
    patch = _find(view, body.patch_id)
    if patch.withdrawn_height is not None:
        raise refuse("patch.withdrawn", f"the patch was withdrawn at height {patch.withdrawn_height}")
    claim = _read_claim(view, context, body.envelope)
    statement = _read_attestation(claim.envelope)
    status = view.acting_status(claim.signer)
    if status != ACTIVE:
        raise refuse("patch.attestor_not_active", f"{claim.signer.identity_id} or its organisation is {status}")
    _check_attestor(patch, claim, statement)
    digest = claim.envelope.payload_digest
    attestor = claim.signer.identity_id
    if view.attestation(digest) is not None:
        raise refuse("patch.duplicate_attestation", "the attestation is recorded already", actual=digest)
    known = view.attestation_list(body.patch_id)
    if len(known.payload_digests) >= ATTESTATIONS_PER_PATCH_MAX:
        raise refuse(
            "patch.too_many_attestations",
            "the patch has too many attestations",
            f"at most {ATTESTATIONS_PER_PATCH_MAX}",
        )
    records: dict[bytes, Record] = {}
    current = []
    for each in known.current:
        older = view.attestation(each[2])
        assert older is not None, "listed attestations are recorded"
        # A scan does not take a review back: what is replaced is what the same person said of the same kind in the same role.
        if (*each[:2], older.predicate_type) == (attestor, statement.role, statement.predicate_type):
            if context.signer.identity_id != attestor:
                raise refuse(
                    "patch.relay_not_first",
                    f"only {attestor} can change their recorded verdict",
                    attestor,
                    context.signer.identity_id,
                    hint="let the attestor submit the attestation",
                )
            records[attestation_key(each[2])] = replace(older, current=False)
        else:
            current.append(each)
    records[attestation_key(digest)] = AttestationRecord(
        patch_id=body.patch_id,
        payload_digest=digest,
        identity_id=attestor,
        organisation=claim.signer.organisation,
        key_id=claim.key.key_id,
        role=statement.role,
        verdict=statement.verdict.value if statement.verdict is not None else NO_VERDICT,
        predicate_type=statement.predicate_type,
        recorded_height=context.height,
        tx_id=context.tx_id,
        current=True,
    )
    records[attestation_list_key(body.patch_id)] = AttestationList(
        (*known.payload_digests, digest), (*current, (attestor, statement.role, digest))
    )
    return Effects(records, (patch_key(body.patch_id), identity_key(attestor)))


def withdraw_patch(view: StateView, context: Context, body: PatchWithdraw) -> Effects:
    """Return the withdrawn patch.

    Raises:
        TransactionRefusedError: ``ledger.patch.not_found``, ``ledger.tx.not_authorised``, ``ledger.patch.withdrawn``.
    """
    patch = _find(view, body.patch_id)
    signer = context.signer
    is_administrator = ADMINISTRATOR in signer.roles and signer.organisation == patch.organisation
    if signer.identity_id != patch.author and not is_administrator:
        raise not_authorised(
            context, "withdraw this patch", f"its author {patch.author} or an administrator of {patch.organisation}"
        )
    return withdrawn(view, context, body.patch_id, body.reason)


def withdrawn(view: StateView, context: Context, patch_id: bytes, reason: str) -> Effects:
    """Return the withdrawn patch, whoever decided it.

    Raises:
        TransactionRefusedError: ``ledger.patch.not_found``, ``ledger.patch.withdrawn``: it is already.
    """
    patch = _find(view, patch_id)
    if patch.withdrawn_height is not None:
        raise refuse("patch.withdrawn", f"the patch was withdrawn at height {patch.withdrawn_height}")
    changed = replace(patch, withdrawn_height=context.height, withdrawn_reason=reason)
    return Effects({patch_key(patch_id): changed}, (patch_key(patch_id),))


def _find(view: StateView, patch_id: bytes) -> PatchRecord:
    patch = view.patch(patch_id)
    if patch is None:
        raise refuse("patch.not_found", "the patch is not published", actual=patch_id, hint="publish it first")
    return patch


def _read_claim(view: StateView, context: Context, line: bytes) -> _Claim:
    """Return the envelope with the key that it names and that key's identity, once the signature holds."""
    try:
        envelope = decode_envelope_untrusted(line, bytes_max=ENVELOPE_BYTES_MAX)
    except RejectedError as error:
        raise _bad_envelope(error) from error
    if envelope.payload_type != PAYLOAD_TYPE_INTOTO:
        raise refuse(
            "patch.bad_envelope", "the payload is not an in-toto statement", PAYLOAD_TYPE_INTOTO, envelope.payload_type
        )
    # The envelope names a key; the key's algorithm and its owner come from the ledger, never from the message.
    key_id = KeyId(bytes.fromhex(envelope.signatures[0].keyid))
    key = view.key(key_id)
    signer = None if key is None else view.identity(key.identity_id)
    if key is None or signer is None:
        raise refuse("patch.unknown_key", "the envelope's key belongs to nobody on this ledger", actual=key_id)
    if not key.is_valid_at(context.height):
        raise refuse(
            "patch.key_not_valid",
            f"the envelope's key of {signer.identity_id} does not count at height {context.height}",
            actual=key_id,
        )
    try:
        verify_envelope(envelope, key.public_key)
    except InvalidSignatureError as error:
        raise refuse(
            "patch.bad_signature", f"the envelope's signature by {signer.identity_id} does not hold"
        ) from error
    return _Claim(envelope, key, signer.acting_at(context.time_ms))


def _read_author_statement(envelope: Envelope) -> AuthorStatement:
    try:
        return decode_author_statement_untrusted(envelope.payload)
    except RejectedError as error:
        raise _bad_envelope(error) from error


def _read_attestation(envelope: Envelope) -> AttestationStatement:
    try:
        statement = decode_attestation_statement_untrusted(envelope.payload)
    except RejectedError as error:
        raise _bad_envelope(error) from error
    if not isinstance(statement, AttestationStatement):
        raise refuse(
            "patch.not_an_attestation",
            "a release seal says nothing about a patch that the ledger records",
            hint="publish the sealed file: its attestations' digests go into patch.publish",
        )
    return statement


def _check_creator(metadata: PatchMetadata, key: KeyRecord) -> None:
    try:
        creator_key_id = metadata.creator_identity.public_key().key_id
    except RejectedError as error:
        raise _bad_envelope(error) from error
    if creator_key_id != key.key_id:
        raise refuse(
            "patch.wrong_creator",
            "creator_identity names another key than the one that signed",
            key.key_id,
            creator_key_id,
        )


def _check_attestor(patch: PatchRecord, claim: _Claim, statement: AttestationStatement) -> None:
    signer = claim.signer
    if (statement.attestor.identity, statement.attestor.did) != (signer.identity_id, claim.key.public_key.did):
        raise refuse(
            "patch.wrong_attestor",
            "the attestation names another attestor than the one who signed it",
            f"{signer.identity_id} with {claim.key.public_key.did}",
            f"{statement.attestor.identity} with {statement.attestor.did}",
        )
    binding = statement.binding
    for name, expected, actual in (
        ("body", patch.patch_id, binding.body_sha256),
        ("diff", patch.diff_digest, binding.diff_sha256),
        ("author's statement", patch.author_payload_digest, binding.author_sha256),
    ):
        if expected.hex() != actual:
            raise refuse("patch.wrong_subject", f"the attestation is about another {name}", expected, actual)
    role = attestor_role(statement.role)
    if role not in signer.roles:
        raise refuse(
            "patch.not_attestor", f"{signer.identity_id} may not attest in this role", role, ", ".join(signer.roles)
        )
    if signer.identity_id == patch.author:
        raise refuse("patch.self_approval", f"{signer.identity_id} is the patch's author and cannot attest it")


def _bad_envelope(error: RejectedError) -> TransactionRefusedError:
    return TransactionRefusedError(
        "ledger.patch.bad_envelope",
        f"the envelope does not have its form: {error.message}",
        hint=error.hint,
        details={"cause": error.code},
    )
