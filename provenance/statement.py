"""What the author says, what attestors say, and what a release seal says: the three kinds of statement in a trailer.

====================  =============================================  =====================================================
statement             subjects, in this order                        predicate
====================  =============================================  =====================================================
author                `patch-body`, `patch-diff`                     the metadata (provenance/metadata.py)
attestation           the same two and `author-statement`            a review of ours, or somebody else's predicate type
                                                                     with the member `patchwarden` beside its own
release seal          as an attestation                              digests of all attestation payloads, counter, supersedes
====================  =============================================  =====================================================

`author-statement` is the digest of the author's *payload bytes*, never of envelope JSON, of which one signature verifies several. So an
approval moves neither to another patch nor to other metadata of the same patch.

Source: docs/spec/patch-file.md 5 and 6; in-toto predicates test-result v0.1; SLSA verification summary v1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from provenance.errors import MalformedPatchError
from provenance.intoto import Statement, decode_statement_untrusted, encode_statement
from provenance.limits import COMMENT_BYTES_MAX, DID_BYTES_MAX
from provenance.members import (
    read_choice,
    read_hex_digest,
    read_identifier,
    read_identity_id,
    read_integer,
    read_line,
    read_list,
    read_object,
    read_paragraphs,
    read_timestamp,
    refuse_field,
)
from provenance.metadata import PatchMetadata, read_patch_ids
from provenance.predicates import PREDICATE_VSA, read_predicate_untrusted
from wire.canonical_json import JsonValue
from wire.limits import TRAILER_LINES_MAX

PREDICATE_PATCH: Final = "https://patchwarden.dev/provenance/patch/v1"
PREDICATE_REVIEW: Final = "https://patchwarden.dev/provenance/review/v1"
PREDICATE_SEAL: Final = "https://patchwarden.dev/provenance/release-seal/v1"
PREDICATE_TEST_RESULT: Final = "https://in-toto.io/attestation/test-result/v0.1"

SUBJECT_BODY: Final = "patch-body"
SUBJECT_DIFF: Final = "patch-diff"
SUBJECT_AUTHOR: Final = "author-statement"
AUTHOR_SUBJECTS: Final = (SUBJECT_BODY, SUBJECT_DIFF)
ATTESTATION_SUBJECTS: Final = (SUBJECT_BODY, SUBJECT_DIFF, SUBJECT_AUTHOR)

EXTENSION: Final = "patchwarden"
"""The member that a predicate of somebody else's type carries for us; in-toto allows extension fields anywhere."""

_ATTESTOR_MEMBERS: Final = frozenset({"identity", "did"})
_REVIEW_MEMBERS: Final = frozenset({"attestor", "role", "verdict", "comment", "time"})
_EXTENSION_MEMBERS: Final = frozenset({"attestor", "role", "comment", "time"})
_SEAL_MEMBERS: Final = frozenset({"attestor", "attestations", "release_counter", "supersedes", "time"})


class Verdict(StrEnum):
    """What an attestor says about a patch. A reject counts: policy sees it."""

    APPROVE = "approve"
    REJECT = "reject"


_VERDICTS: Final[Mapping[str, tuple[str, Mapping[str, Verdict | None]]]] = {
    PREDICATE_TEST_RESULT: ("result", {"PASSED": Verdict.APPROVE, "WARNED": None, "FAILED": Verdict.REJECT}),
    PREDICATE_VSA: ("verificationResult", {"PASSED": Verdict.APPROVE, "FAILED": Verdict.REJECT}),
}
"""Of others' predicate types: the member that decides, and what its values mean. Any other type has no verdict."""


@dataclass(frozen=True, slots=True)
class Attestor:
    """Who makes a claim, by their own word; the ledger knows whether the key is theirs."""

    identity: str
    """Identity id, such as ``bob@beta``."""
    did: str
    """did:key of the key that signs the claim, also where a certificate carries it."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the JSON form."""
        return {"identity": self.identity, "did": self.did}

    @classmethod
    def from_json_untrusted(cls, value: object, name: str) -> Attestor:
        """Return the checked record.

        Raises:
            InvalidMetadataError: ``provenance.field.*``.
        """
        members = read_object(value, name, _ATTESTOR_MEMBERS)
        return cls(
            read_identity_id(members["identity"], f"{name}.identity"),
            read_line(members["did"], f"{name}.did", DID_BYTES_MAX),
        )


@dataclass(frozen=True, slots=True)
class Binding:
    """Which patch an attestation is about: the digests of its three subjects, 64 hexadecimal digits each."""

    body_sha256: str
    """Of the body: the patch id."""
    diff_sha256: str
    """Of the diff."""
    author_sha256: str
    """Of the author statement's payload bytes."""

    @property
    def subjects(self) -> tuple[tuple[str, str], ...]:
        """Return names and digests as a statement lists them."""
        return tuple(zip(ATTESTATION_SUBJECTS, (self.body_sha256, self.diff_sha256, self.author_sha256), strict=True))


@dataclass(frozen=True, slots=True)
class AuthorStatement:
    """The first trailer line's payload."""

    body_sha256: str
    """Of the body: the patch id."""
    diff_sha256: str
    """Of the diff."""
    metadata: PatchMetadata
    """The predicate."""


@dataclass(frozen=True, slots=True)
class AttestationStatement:
    """An attestor's payload, of whatever predicate type."""

    binding: Binding
    """What it is about."""
    predicate_type: str
    """`PREDICATE_REVIEW`, `PREDICATE_TEST_RESULT` or another URI; never `PREDICATE_PATCH` or `PREDICATE_SEAL`."""
    attestor: Attestor
    """Who says it."""
    role: str
    """In which capacity, such as ``security-review``; an identifier."""
    verdict: Verdict | None
    """What it says, or None where the predicate type says nothing that is yes or no."""
    comment: str
    """For a person; at most `COMMENT_BYTES_MAX` bytes."""
    time: str
    """When, by the attestor's own clock; the ledger's order decides."""


@dataclass(frozen=True, slots=True)
class SealStatement:
    """The last line's payload when a release is sealed."""

    binding: Binding
    """What it is about."""
    attestor: Attestor
    """Who seals."""
    attestations: tuple[str, ...]
    """SHA-256 of every attestation payload between the author's line and the seal, in their order."""
    release_counter: int
    """As in the metadata."""
    supersedes: tuple[str, ...]
    """As in the metadata."""
    time: str
    """When, by the sealer's own clock."""


def encode_author_statement(statement: AuthorStatement) -> bytes:
    """Return the payload that the author signs."""
    subjects = ((SUBJECT_BODY, statement.body_sha256), (SUBJECT_DIFF, statement.diff_sha256))
    return encode_statement(subjects, PREDICATE_PATCH, statement.metadata.to_json())


def decode_author_form_untrusted(payload: bytes) -> Statement:
    """Return the author's statement with its predicate still unread: enough to find the key that must have signed it.

    Raises:
        MalformedPatchError: ``wire.json.*``, ``provenance.statement.*``.
    """
    statement = decode_statement_untrusted(payload, AUTHOR_SUBJECTS)
    if statement.predicate_type != PREDICATE_PATCH:
        raise MalformedPatchError(
            "provenance.statement.predicate_type",
            "the first trailer line is not an author's statement",
            expected=PREDICATE_PATCH,
            actual=statement.predicate_type,
        )
    return statement


def decode_author_statement_untrusted(payload: bytes) -> AuthorStatement:
    """Return the author's statement, for readers that have the envelope without the file, as the ledger does.

    Raises:
        MalformedPatchError: ``wire.json.*``, ``provenance.statement.*``.
        InvalidMetadataError: As `PatchMetadata.from_json_untrusted`.
    """
    statement = decode_author_form_untrusted(payload)
    body_sha256, diff_sha256 = statement.digests
    return AuthorStatement(body_sha256, diff_sha256, PatchMetadata.from_json_untrusted(statement.predicate))


def encode_attestation_statement(
    statement: AttestationStatement, predicate: Mapping[str, JsonValue] | None = None
) -> bytes:
    """Return the payload that an attestor signs.

    Args:
        statement: What is said.
        predicate: The members of somebody else's predicate type, without `EXTENSION`; None for a review.

    Raises:
        MalformedError: ``wire.json.*`` for a predicate that is not JSON of ours.
    """
    claim: dict[str, JsonValue] = {
        "attestor": statement.attestor.to_json(),
        "role": statement.role,
        "comment": statement.comment,
        "time": statement.time,
    }
    if predicate is None:
        members: dict[str, JsonValue] = {**claim, "verdict": statement.verdict.value if statement.verdict else None}
    else:
        members = {**predicate, EXTENSION: claim}
    return encode_statement(statement.binding.subjects, statement.predicate_type, members)


def decode_attestation_statement_untrusted(payload: bytes) -> AttestationStatement | SealStatement:
    """Return what an attestor, or the one who seals, says. Nothing is verified.

    Raises:
        MalformedPatchError: ``wire.json.*``, ``provenance.statement.*``; an author's statement is none of an attestor.
        InvalidMetadataError: ``provenance.field.*``.
    """
    statement = decode_statement_untrusted(payload, ATTESTATION_SUBJECTS)
    binding, predicate = Binding(*statement.digests), statement.predicate
    if statement.predicate_type == PREDICATE_SEAL:
        return _read_seal(binding, predicate)
    if statement.predicate_type == PREDICATE_PATCH:
        raise MalformedPatchError(
            "provenance.statement.predicate_type", "an author's statement stands among the attestations"
        )
    verdict: Verdict | None
    if statement.predicate_type == PREDICATE_REVIEW:
        claim = read_object(predicate, "predicate", _REVIEW_MEMBERS)
        verdict = Verdict(read_choice(claim["verdict"], "predicate.verdict", tuple(Verdict)))
    else:
        if EXTENSION not in predicate:
            raise refuse_field(
                "member_missing", "predicate", "lacks the member that names its attestor", EXTENSION, None
            )
        claim = read_object(predicate[EXTENSION], f"predicate.{EXTENSION}", _EXTENSION_MEMBERS)
        verdict = _read_verdict(statement.predicate_type, predicate)
        read_predicate_untrusted(statement.predicate_type, predicate)
    return AttestationStatement(
        binding=binding,
        predicate_type=statement.predicate_type,
        attestor=Attestor.from_json_untrusted(claim["attestor"], "attestor"),
        role=read_identifier(claim["role"], "role"),
        verdict=verdict,
        comment=read_paragraphs(claim["comment"], "comment", COMMENT_BYTES_MAX),
        time=read_timestamp(claim["time"], "time"),
    )


def encode_seal_statement(statement: SealStatement) -> bytes:
    """Return the payload that the one who seals signs."""
    return encode_statement(
        statement.binding.subjects,
        PREDICATE_SEAL,
        {
            "attestor": statement.attestor.to_json(),
            "attestations": list(statement.attestations),
            "release_counter": statement.release_counter,
            "supersedes": list(statement.supersedes),
            "time": statement.time,
        },
    )


def _read_seal(binding: Binding, predicate: Mapping[str, object]) -> SealStatement:
    members = read_object(predicate, "predicate", _SEAL_MEMBERS)
    attestations = read_list(members["attestations"], "attestations", TRAILER_LINES_MAX)
    return SealStatement(
        binding=binding,
        attestor=Attestor.from_json_untrusted(members["attestor"], "attestor"),
        attestations=tuple(read_hex_digest(item, f"attestations[{i}]") for i, item in enumerate(attestations)),
        release_counter=read_integer(members["release_counter"], "release_counter", 1),
        supersedes=read_patch_ids(members["supersedes"], "supersedes"),
        time=read_timestamp(members["time"], "time"),
    )


def _read_verdict(predicate_type: str, predicate: Mapping[str, object]) -> Verdict | None:
    if predicate_type not in _VERDICTS:
        return None
    member, meanings = _VERDICTS[predicate_type]
    return meanings[read_choice(predicate.get(member), f"predicate.{member}", tuple(meanings))]
