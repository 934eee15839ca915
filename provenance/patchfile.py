"""Making patch files: body, author's signature, appended attestations. Everything made here is verified before it is returned.

::

    metadata + diff ──build_body──▶ body ──sign──▶ file ──append_attestation──▶ file ──append_attestation (seal)──▶ file, closed

Source: docs/spec/patch-file.md 2 and 7.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from provenance.component_listing import ComponentSummary
from provenance.components import check_allowances, check_components
from provenance.diff import parse_diff_untrusted
from provenance.errors import AttestationRefusedError, InvalidMetadataError, MalformedPatchError
from provenance.layout import (
    BODY_END,
    PatchFile,
    PatchId,
    check_file_size,
    split_patch_file_untrusted,
    split_trailer_untrusted,
)
from provenance.limits import COMPONENTS_MAX, COMPONENTS_SUMMARISED_MIN, ENVELOPE_LINE_BYTES_MAX
from provenance.metadata import DiffSummary, PatchMetadata, check_metadata_form
from provenance.preamble import render_preamble
from provenance.statement import AuthorStatement, encode_author_statement
from provenance.trailer import read_trailer
from provenance.verify import VerifiedPatch, decode_trailer_untrusted, verify_patch_untrusted
from wire.envelope import encode_envelope, sign_envelope
from wire.hashing import sha256
from wire.keys import Signer

__all__ = [
    "BODY_END",
    "PatchFile",
    "PatchId",
    "append_attestation",
    "build_body",
    "build_patch_file",
    "check_appended",
    "split_patch_file_untrusted",
]


def build_body(metadata: PatchMetadata, diff: bytes) -> bytes:
    """Return preamble, diff and end mark: everything that is signed as the body.

    Raises:
        DiffRefusedError: ``provenance.diff.*``.
        InvalidMetadataError: ``provenance.field.*``, ``provenance.metadata.*`` when the metadata does not describe this diff.
    """
    return b"".join((_check_body(metadata, diff), diff, BODY_END))


def _check_body(metadata: PatchMetadata, diff: bytes) -> bytes:
    """Return the preamble of a body whose parts fit each other; raises as `build_body`."""
    check_metadata_form(metadata)
    parsed = parse_diff_untrusted(diff, frozenset(metadata.allowances))
    check_allowances(metadata.allowances, parsed)
    if metadata.patch_diff != (summary := DiffSummary.of(parsed)):
        raise InvalidMetadataError(
            "provenance.metadata.diff_digest",
            "patch_diff does not describe this diff",
            expected=summary,
            actual=metadata.patch_diff,
        )
    check_components(metadata.affected_components, parsed)
    return render_preamble(metadata)


def build_patch_file(metadata: PatchMetadata, diff: bytes, key: Signer) -> bytes:
    """Return a signed patch file without attestations; as `build_verified_patch`."""
    return build_verified_patch(metadata, diff, key)[0]


def build_verified_patch(metadata: PatchMetadata, diff: bytes, key: Signer) -> tuple[bytes, VerifiedPatch]:
    """Return a signed patch file without attestations, and what a stranger reads in it.

    Args:
        metadata: What the author says about the diff. Components that a statement has no room for are named there by their digest.
        diff: A unified diff in the one form that `provenance.diff` accepts.
        key: The one that `creator_identity` names.

    Raises:
        DiffRefusedError: ``provenance.diff.*``.
        InvalidMetadataError: As `build_body`.
        InvalidSignatureError: ``provenance.signature.keyid`` when `key` is another one, ``wire.key.*``, ``wire.x509.*``.
        MalformedPatchError: ``provenance.file.author_line_length`` when the metadata is too long for a trailer line.
    """
    count = len(metadata.affected_components)
    if count > COMPONENTS_MAX:
        metadata = _summarised(metadata)
    preamble, line = _sign_body(metadata, diff, key)
    if len(line) > ENVELOPE_LINE_BYTES_MAX and COMPONENTS_SUMMARISED_MIN <= count <= COMPONENTS_MAX:
        preamble, line = _sign_body(_summarised(metadata), diff, key)
    if len(line) > ENVELOPE_LINE_BYTES_MAX:
        raise MalformedPatchError(
            "provenance.file.author_line_length",
            "the metadata is too long for a trailer line",
            hint="Disclose only the build environment's digest, or split the patch.",
            expected=f"at most {ENVELOPE_LINE_BYTES_MAX} bytes",
            actual=len(line),
        )
    data = b"".join((preamble, diff, BODY_END, line, b"\n"))
    return data, verify_patch_untrusted(data)


def _summarised(metadata: PatchMetadata) -> PatchMetadata:
    """Return the metadata of a wide patch: its statement names the components' digest, and the preamble lists them."""
    return replace(metadata, component_summary=ComponentSummary.of(metadata.affected_components))


def _sign_body(metadata: PatchMetadata, diff: bytes, key: Signer) -> tuple[bytes, bytes]:
    """Return the preamble and the author's line; the body is hashed piece by piece."""
    preamble = _check_body(metadata, diff)
    hasher = hashlib.sha256(preamble)
    hasher.update(diff)
    hasher.update(BODY_END)
    statement = AuthorStatement(hasher.hexdigest(), sha256(diff).hex(), metadata)
    return preamble, encode_envelope(sign_envelope(encode_author_statement(statement), key))


def append_attestation(data: bytes, line: bytes) -> bytes:
    """Return the patch file with one more trailer line, an attestation or a seal; its body and patch id stay.

    Args:
        data: A patch file that verifies.
        line: `encode_envelope` of an attestation, without line feed.

    Raises:
        MalformedPatchError: As `verify_patch_untrusted`, for the file and for the line.
        InvalidSignatureError: As `verify_patch_untrusted`, for the file.
        InvalidMetadataError: As `verify_patch_untrusted`; ``provenance.seal.sealed`` after a seal; ``provenance.seal.*`` for a seal that
            does not hold for this file.
        AttestationRefusedError: The reason for which verification would set the line aside.
    """
    check_appended(verify_patch_untrusted(data), line)
    return b"".join((data, line, b"\n"))


def check_appended(patch: VerifiedPatch, line: bytes) -> None:
    """Return when a verified patch file, with one more trailer line and its line feed behind it, verifies too.

    What was verified is not verified again: nothing behind the body changes what the body proves.

    Args:
        patch: The file as it is.
        line: `encode_envelope` of an attestation or a seal, without line feed.

    Raises:
        MalformedPatchError: ``provenance.file.*`` and ``wire.envelope.*`` for the line, and a file that becomes too long by it.
        InvalidMetadataError: ``provenance.seal.sealed`` after a seal; ``provenance.seal.*`` for a seal that does not hold for this file.
        AttestationRefusedError: The reason for which verification would set the line aside.
    """
    if patch.seal is not None:
        raise InvalidMetadataError(
            "provenance.seal.sealed",
            "the patch is sealed: nothing can be added",
            hint="Attest before sealing, or publish the attestation alone.",
        )
    if b"\n" in line:
        raise MalformedPatchError("provenance.file.trailer_line", "an attestation is one line")
    check_file_size(len(patch.file.raw) + len(line) + 1)
    trailer = split_trailer_untrusted(b"".join(each + b"\n" for each in (*patch.file.trailer, line)))
    after = read_trailer(decode_trailer_untrusted(trailer)[1:], patch.binding, patch.metadata, patch.author_key)
    if len(after.attestations_refused) > len(patch.attestations_refused):
        refused = after.attestations_refused[-1]
        raise AttestationRefusedError(refused.code, refused.message)
