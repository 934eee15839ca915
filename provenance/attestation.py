"""Making attestations and seals for a verified patch, and checking them as strictly as a stranger's.

Each builder signs a statement that is bound to the patch's body, diff and author statement, and reads its own payload back before it
returns. Appending the line to the file is `provenance.patchfile.append_attestation`.

Source: docs/spec/patch-file.md 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from provenance.errors import AttestationRefusedError, InvalidMetadataError, MalformedPatchError, refuse_as
from provenance.limits import PREDICATE_TYPE_BYTES_MAX, TEST_NAME_BYTES_MAX, TEST_NAMES_MAX
from provenance.members import read_choice, read_line, read_list, refuse_field
from provenance.statement import (
    EXTENSION,
    PREDICATE_PATCH,
    PREDICATE_REVIEW,
    PREDICATE_SEAL,
    PREDICATE_TEST_RESULT,
    AttestationStatement,
    Attestor,
    SealStatement,
    Verdict,
    decode_attestation_statement_untrusted,
    encode_attestation_statement,
    encode_seal_statement,
)
from provenance.trailer import Attestation, RefusedAttestation, ReleaseSeal
from provenance.verify import VerifiedPatch
from wire import canonical_json
from wire.canonical_json import JsonValue
from wire.envelope import Envelope, sign_envelope
from wire.errors import RejectedError
from wire.keys import Signer

__all__ = [
    "TEST_RESULTS",
    "Attestation",
    "RefusedAttestation",
    "ReleaseSeal",
    "build_attestation",
    "build_predicate_attestation",
    "build_seal",
    "build_test_result",
]

TEST_RESULTS: Final = ("PASSED", "WARNED", "FAILED")
"""What a test run can end with (in-toto test-result v0.1)."""


def build_attestation(  # noqa: PLR0917 - the order in which one says it: what, in which capacity, how, by whom
    patch: VerifiedPatch, role: str, verdict: Verdict | str, key: Signer, identity: str, comment: str, time: str
) -> Envelope:
    """Return a signed review of `patch`.

    Args:
        patch: What is reviewed.
        role: In which capacity, such as ``security-review``; an identifier.
        verdict: ``approve`` or ``reject``.
        key: The attestor's.
        identity: The attestor's identity id, such as ``bob@beta``.
        comment: For a person, or "".
        time: Now, such as ``2026-11-22T06:50:00Z``.

    Raises:
        InvalidMetadataError: ``provenance.field.*``.
        AttestationRefusedError: ``provenance.attestation.self_approval``.
    """
    said = Verdict(read_choice(verdict, "verdict", tuple(Verdict)))
    if said is Verdict.APPROVE and key.public_key == patch.author_key:
        raise AttestationRefusedError(
            "provenance.attestation.self_approval", "the author's key approves the author's patch"
        )
    return _sign(_claim(patch, PREDICATE_REVIEW, role, said, key, identity, comment, time), None, key)


def build_test_result(
    patch: VerifiedPatch,
    result: str,
    key: Signer,
    identity: str,
    time: str,
    *,
    role: str = "tests",
    comment: str = "",
    url: str | None = None,
    passed: Sequence[str] = (),
    warned: Sequence[str] = (),
    failed: Sequence[str] = (),
) -> Envelope:
    """Return a signed in-toto test result for `patch`; its configuration is the test suite that the metadata names.

    Args:
        patch: What was tested.
        result: One of `TEST_RESULTS`. PASSED counts as approve, FAILED as reject, WARNED as neither.
        key: The signer's, usually of a CI system.
        identity: The signer's identity id.
        time: Now.
        role: In which capacity; an identifier.
        comment: For a person, or "".
        url: Where the run can be seen, if anywhere.
        passed: Names of the tests that passed.
        warned: Names of the tests that passed with warnings.
        failed: Names of the tests that failed.

    Raises:
        InvalidMetadataError: ``provenance.field.*``.
    """
    read_choice(result, "result", TEST_RESULTS)
    tests = patch.metadata.validation_tests
    predicate: dict[str, JsonValue] = {
        "result": result,
        "configuration": [{"name": tests.method, "digest": {"sha256": tests.sha256}}],
    }
    for member, names in (("passedTests", passed), ("warnedTests", warned), ("failedTests", failed)):
        read_list(names, member, TEST_NAMES_MAX)
        predicate[member] = [read_line(name, member, TEST_NAME_BYTES_MAX) for name in names]
    if url is not None:
        predicate["url"] = read_line(url, "url", PREDICATE_TYPE_BYTES_MAX)
    return _sign(_claim(patch, PREDICATE_TEST_RESULT, role, None, key, identity, comment, time), predicate, key)


def build_predicate_attestation(  # noqa: PLR0917 - as `build_attestation`
    patch: VerifiedPatch,
    predicate_type: str,
    predicate: bytes,
    role: str,
    key: Signer,
    identity: str,
    comment: str,
    time: str,
) -> Envelope:
    """Return a signed attestation of any other predicate type, such as ``https://in-toto.io/attestation/vulns/v0.2``.

    Args:
        patch: What it is about.
        predicate_type: A URI; not one of this format's own.
        predicate: The predicate, a JSON object, canonical or not; the member `EXTENSION` is added to it.
        role: In which capacity; an identifier.
        key: The signer's.
        identity: The signer's identity id.
        comment: For a person, or "".
        time: Now.

    Raises:
        InvalidMetadataError: ``provenance.field.*``, ``wire.json.*``.
        MalformedPatchError: ``provenance.statement.predicate_type``.
    """
    if predicate_type in (PREDICATE_PATCH, PREDICATE_REVIEW, PREDICATE_SEAL):
        raise MalformedPatchError(
            "provenance.statement.predicate_type", "this predicate type has its own builder", actual=predicate_type
        )
    try:
        members = canonical_json.decode_untrusted(predicate, canonical=False)
    except RejectedError as error:
        raise refuse_as(InvalidMetadataError, error, "predicate") from error
    if not isinstance(members, dict):
        raise refuse_field("object", "predicate", "is not an object", "an object", type(members).__name__)
    if EXTENSION in members:
        raise refuse_field(
            "member_unknown", "predicate", "already has the member that names its attestor", None, EXTENSION
        )
    claim = _claim(patch, predicate_type, role, None, key, identity, comment, time)
    return _sign(claim, members, key)


def build_seal(patch: VerifiedPatch, key: Signer, identity: str, time: str) -> Envelope:
    """Return a signed release seal over every attestation that `patch` carries now.

    Raises:
        InvalidMetadataError: ``provenance.field.*``, ``provenance.seal.sealed`` (there is a seal), ``provenance.seal.attestation_refused``
            (a line does not hold, and a seal vouches that all do).
    """
    if patch.seal is not None:
        raise InvalidMetadataError("provenance.seal.sealed", "the patch is sealed already")
    if patch.attestations_refused:
        first = patch.attestations_refused[0]
        raise InvalidMetadataError(
            "provenance.seal.attestation_refused",
            f"trailer line {first.index + 1} does not hold: {first.message}",
            hint="Remove the line before sealing.",
        )
    statement = SealStatement(
        binding=patch.binding,
        attestor=Attestor(identity, key.public_key.did),
        attestations=tuple(attestation.payload_digest.hex() for attestation in patch.attestations),
        release_counter=patch.metadata.release_counter,
        supersedes=patch.metadata.supersedes,
        time=time,
    )
    payload = encode_seal_statement(statement)
    assert decode_attestation_statement_untrusted(payload) == statement, "a seal reads back as it was written"
    return sign_envelope(payload, key)


def _claim(  # noqa: PLR0917 - as `build_attestation`
    patch: VerifiedPatch,
    predicate_type: str,
    role: str,
    verdict: Verdict | None,
    key: Signer,
    identity: str,
    comment: str,
    time: str,
) -> AttestationStatement:
    attestor = Attestor(identity, key.public_key.did)
    return AttestationStatement(patch.binding, predicate_type, attestor, role, verdict, comment, time)


def _sign(statement: AttestationStatement, predicate: dict[str, JsonValue] | None, key: Signer) -> Envelope:
    """Return the signed statement; what a stranger would refuse of it is refused here."""
    payload = encode_attestation_statement(statement, predicate)
    decode_attestation_statement_untrusted(payload)
    return sign_envelope(payload, key)
