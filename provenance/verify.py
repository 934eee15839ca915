"""From bytes to a verified patch, in three steps whose order stands in their types.

::

    bytes ──check_signature_untrusted──▶ SignedPatch     the key that the metadata names signed exactly this body and diff
          ──extract_metadata───────────▶ DescribedPatch  the metadata has its form, and the preamble shows exactly it
          ──check_metadata─────────────▶ VerifiedPatch   the metadata describes the diff; attestations are bound and signed; the seal holds

What the caller must still do, because only a ledger knows: whose the author's and attestors' keys are, and whether they may speak; whether
the patch is withdrawn, superseded or expired; and, on the host, whether the pre-images are there.

Attestations that prove nothing are set aside one by one and named; a seal that does not hold refuses the whole file.

Source: docs/spec/patch-file.md 7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from provenance.components import check_allowances, check_components
from provenance.diff import parse_diff_untrusted
from provenance.diff_model import Diff
from provenance.errors import InvalidMetadataError, InvalidSignatureError, MalformedPatchError, refuse_as
from provenance.identity import CreatorIdentity
from provenance.intoto import Statement
from provenance.layout import PatchFile, PatchId, split_patch_file_untrusted
from provenance.limits import ENVELOPE_LINE_BYTES_MAX
from provenance.metadata import DiffSummary, PatchMetadata, read_wide
from provenance.preamble import render_preamble
from provenance.statement import Binding, decode_author_form_untrusted
from provenance.trailer import Attestation, RefusedAttestation, ReleaseSeal, read_trailer
from wire.envelope import PAYLOAD_TYPE_INTOTO, Envelope, decode_envelope_untrusted, verify_envelope
from wire.errors import InvalidSignatureError as WireInvalidSignatureError
from wire.errors import RejectedError
from wire.hashing import Digest, sha256
from wire.keys import PublicKey


@dataclass(frozen=True, slots=True)
class SignedPatch:
    """A file whose body and diff are covered by the signature of the key that its own metadata names."""

    file: PatchFile
    """The parts of the file."""
    envelopes: tuple[Envelope, ...]
    """The trailer decoded, the author's first."""
    statement: Statement
    """The author's; its predicate is still unread but for the creator."""
    author_key: PublicKey
    """The key that signed."""


@dataclass(frozen=True, slots=True)
class DescribedPatch:
    """A signed file whose metadata has its form and is what the preamble shows."""

    signed: SignedPatch
    """From the step before."""
    metadata: PatchMetadata
    """The author's predicate."""


@dataclass(frozen=True, slots=True)
class VerifiedPatch:
    """A patch of which everything holds that the file alone can prove. Only `check_metadata` makes one."""

    patch_id: PatchId
    """SHA-256 of the body, 64 hexadecimal digits."""
    file: PatchFile
    """The parts of the file."""
    metadata: PatchMetadata
    """What the author says; it describes `diff`."""
    author_key: PublicKey
    """The key that signed; whose it is, the ledger knows."""
    author_envelope: Envelope
    """The author's line, decoded."""
    author_payload_digest: Digest
    """SHA-256 of the author's payload: what attestations are bound to."""
    diff: Diff
    """The parsed diff."""
    attestations: tuple[Attestation, ...]
    """Those that are about this patch and signed with the key they name, in order."""
    attestations_refused: tuple[RefusedAttestation, ...]
    """Those set aside, in order, each with code and sentence."""
    seal: ReleaseSeal | None
    """The release seal, when there is one; whether its signer may seal, the ledger knows."""

    @property
    def binding(self) -> Binding:
        """Return what a new attestation must be about."""
        return Binding(self.patch_id, self.metadata.patch_diff.sha256, self.author_payload_digest.hex())


def verify_patch_untrusted(data: bytes) -> VerifiedPatch:
    """Return the patch when all three steps hold.

    Args:
        data: A whole patch file.

    Raises:
        MalformedPatchError: As `check_signature_untrusted`, and ``provenance.diff.*``.
        InvalidSignatureError: As `check_signature_untrusted`.
        InvalidMetadataError: As `extract_metadata` and `check_metadata`.
    """
    return check_metadata(extract_metadata(check_signature_untrusted(data)))


def check_signature_untrusted(data: bytes) -> SignedPatch:
    """Return the signed patch: the file has its layout, and the key that the metadata names signed this body and this diff.

    Args:
        data: A whole patch file.

    Raises:
        MalformedPatchError: ``provenance.file.*``, ``provenance.statement.*``, ``wire.envelope.*``, ``wire.json.*``.
        InvalidSignatureError: ``provenance.signature.creator`` (no creator can be read), ``.keyid``, ``.invalid``, ``.body``, ``.diff``;
            ``wire.key.*`` and ``wire.x509.*`` for a creator without an acceptable key.

    Source: docs/spec/patch-file.md 7.1.
    """
    file = split_patch_file_untrusted(data)
    envelopes = decode_trailer_untrusted(file.trailer)
    author = envelopes[0]
    if author.payload_type != PAYLOAD_TYPE_INTOTO:
        raise MalformedPatchError(
            "provenance.statement.payload_type",
            "the author's payload is not an in-toto statement",
            expected=PAYLOAD_TYPE_INTOTO,
            actual=author.payload_type,
        )
    statement = decode_author_form_untrusted(author.payload)
    key = _creator_key(statement)
    _verify_author(author, key)
    body_sha256, diff_sha256 = statement.digests
    for name, signed, actual in (
        ("body", body_sha256, sha256(file.body_view).hex()),
        ("diff", diff_sha256, sha256(file.diff_view).hex()),
    ):
        if signed != actual:
            raise InvalidSignatureError(
                f"provenance.signature.{name}",
                f"the author did not sign this {name}",
                hint="The file was changed after signing: get it again from its source.",
                expected=signed,
                actual=actual,
            )
    return SignedPatch(file, envelopes, statement, key)


def extract_metadata(signed: SignedPatch) -> DescribedPatch:
    """Return the patch with its metadata read, and the preamble proven to show exactly that.

    Raises:
        InvalidMetadataError: ``provenance.field.*``, ``provenance.metadata.*`` of `PatchMetadata.from_json_untrusted`,
            ``provenance.preamble.not_equal``.

    Source: docs/spec/patch-file.md 7.2.
    """
    metadata = read_wide(PatchMetadata.from_json_untrusted(signed.statement.predicate), signed.file.listing)
    expected = render_preamble(metadata)
    if signed.file.preamble != expected:
        line, shown, demanded = _first_difference(signed.file.preamble, expected)
        raise InvalidMetadataError(
            "provenance.preamble.not_equal",
            f"line {line} of the preamble is not what the metadata renders",
            expected=demanded,
            actual=shown,
            details={"line": line},
        )
    return DescribedPatch(signed, metadata)


def check_metadata(
    described: DescribedPatch,
    progress: Callable[[int], None] | None = None,
    broken_seal: Callable[[InvalidMetadataError], None] | None = None,
) -> VerifiedPatch:
    """Return the verified patch: the metadata describes the diff, every attestation kept is bound and signed, a seal holds.

    Args:
        described: The patch.
        progress: Told how many bytes of the diff are read.
        broken_seal: Told of a seal that does not hold, in place of a refusal; what is returned then is for telling a person about the file,
            and for nothing else. None: such a file is refused.

    Raises:
        DiffRefusedError: ``provenance.diff.*``.
        InvalidMetadataError: ``provenance.metadata.diff_digest``, ``.diff_size``, ``.diff_files``, ``.diff_lines_added``,
            ``.diff_lines_removed``, ``.component_*``, ``.allowance_unused``; ``provenance.seal.*``.

    Source: docs/spec/patch-file.md 7.3 and 7.4.
    """
    signed, metadata = described.signed, described.metadata
    file = signed.file
    diff = parse_diff_untrusted(
        file.raw, frozenset(metadata.allowances), begin=len(file.preamble), end=file.diff_end, progress=progress
    )
    check_allowances(metadata.allowances, diff)
    _check_summary(metadata.patch_diff, DiffSummary.of(diff))
    check_components(metadata.affected_components, diff)
    author = signed.envelopes[0]
    # Its first step has hashed the body, and compared.
    patch_id, payload_digest = PatchId(signed.statement.digests[0]), author.payload_digest
    binding = Binding(patch_id, metadata.patch_diff.sha256, payload_digest.hex())
    trailer = read_trailer(signed.envelopes[1:], binding, metadata, signed.author_key, broken_seal)
    return VerifiedPatch(
        patch_id=patch_id,
        file=signed.file,
        metadata=metadata,
        author_key=signed.author_key,
        author_envelope=author,
        author_payload_digest=payload_digest,
        diff=diff,
        attestations=trailer.attestations,
        attestations_refused=trailer.attestations_refused,
        seal=trailer.seal,
    )


def decode_trailer_untrusted(trailer: Sequence[bytes]) -> tuple[Envelope, ...]:
    """Return the envelopes that the trailer's lines hold.

    Raises:
        MalformedPatchError: ``wire.envelope.*``, ``wire.json.*``.
    """
    return tuple(_decode_line(index, line) for index, line in enumerate(trailer))


def _decode_line(index: int, line: bytes) -> Envelope:
    try:
        return decode_envelope_untrusted(line, bytes_max=ENVELOPE_LINE_BYTES_MAX)
    except RejectedError as error:
        raise refuse_as(MalformedPatchError, error, f"trailer line {index + 1}") from error


def _creator_key(statement: Statement) -> PublicKey:
    """Return the key that follows from `creator_identity`; nothing else of the predicate is believed or read yet."""
    try:
        creator = CreatorIdentity.from_json_untrusted(statement.predicate.get("creator_identity"))
    except InvalidMetadataError as error:
        raise InvalidSignatureError(
            "provenance.signature.creator", f"no key can be read: {error.message}", details=error.details
        ) from error
    try:
        return creator.public_key()
    except InvalidMetadataError as error:
        raise refuse_as(InvalidSignatureError, error) from error


def _verify_author(author: Envelope, key: PublicKey) -> None:
    keyid = author.signatures[0].keyid
    if keyid != key.key_id_hex:
        raise InvalidSignatureError(
            "provenance.signature.keyid",
            "the author's key id is not that of creator_identity",
            expected=key.key_id_hex,
            actual=keyid,
        )
    try:
        verify_envelope(author, key)
    except WireInvalidSignatureError as error:
        raise InvalidSignatureError(
            "provenance.signature.invalid", f"author: {error.message}", hint=error.hint, details=error.details
        ) from error


def _check_summary(signed: DiffSummary, actual: DiffSummary) -> None:
    facts = (
        ("digest", signed.sha256, actual.sha256),
        ("size", signed.size_bytes, actual.size_bytes),
        ("files", signed.files, actual.files),
        ("lines_added", signed.lines_added, actual.lines_added),
        ("lines_removed", signed.lines_removed, actual.lines_removed),
    )
    for rule, said, found in facts:
        if said != found:
            raise InvalidMetadataError(
                f"provenance.metadata.diff_{rule}",
                f"patch_diff says another {rule} than the diff has",
                expected=found,
                actual=said,
            )


def _first_difference(actual: bytes, expected: bytes) -> tuple[int, str, str]:
    """Return the 1-based number of the first line that differs, and that line of both; they are known to differ."""
    shown, demanded = actual.decode().split("\n"), expected.decode().split("\n")
    index = next(i for i, (one, other) in enumerate(zip_longest(shown, demanded)) if one != other)
    return index + 1, "".join(shown[index : index + 1]), "".join(demanded[index : index + 1])
