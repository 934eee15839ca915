"""The published provenance structure: one JSON document for one verified patch, and the JSON Schema it conforms to.

The document has the specification's eight fields by their exact names, and beside them what this format adds. It is for readers: what is
signed are the bytes in the file. `provenance/schema/patch-provenance-v1.schema.json` and the copy in docs/spec are `schema_text()`.

Source: docs/spec/patch-file.md 9; JSON Schema draft 2020-12.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Final

from provenance.diff_model import MODE_LINK, MODES, Allowance, ChangeKind
from provenance.errors import InvalidMetadataError
from provenance.identity import decode_base64_untrusted, encode_base64
from provenance.limits import (
    COMMENT_BYTES_MAX,
    COMPONENT_NAME_BYTES_MAX,
    COMPONENTS_SUMMARISED_MAX,
    DESCRIPTION_BYTES_MAX,
    DID_BYTES_MAX,
    EMAIL_BYTES_MAX,
    METHOD_BYTES_MAX,
    PATCH_IDS_MAX,
    PERSON_NAME_BYTES_MAX,
    PREDICATE_TYPE_BYTES_MAX,
    REFERENCE_BYTES_MAX,
    REFERENCES_MAX,
    TEST_FILES_MAX,
    TITLE_BYTES_MAX,
)
from provenance.metadata import DIFF_FORMAT, Category
from provenance.statement import Verdict
from provenance.trailer import FIRST_INDEX, Attestation, RefusedAttestation, ReleaseSeal
from provenance.verify import VerifiedPatch
from wire import canonical_json
from wire.canonical_json import JsonValue
from wire.envelope import Envelope
from wire.fields import IDENTIFIER_PATTERN
from wire.keys import Algorithm, PublicKey
from wire.limits import JSON_INTEGER_MAX, TRAILER_LINES_MAX, X509_CHAIN_LENGTH_MAX

SCHEMA_ID: Final = "https://patchwarden.dev/provenance/patch-provenance-v1.schema.json"
_PIECE_BYTES: Final = 3 << 18
"""What is turned into text at once: a multiple of three, so that pieces of base64 make the base64 of the whole."""
FORMAT: Final = "patchwarden-patch-provenance/1"

_Schema = dict[str, JsonValue]


def extract(patch: VerifiedPatch) -> dict[str, JsonValue]:
    """Return the patch's provenance as one JSON document that conforms to `schema_document`.

    `patch_diff` is the diff's text, or base64 with a marker where the diff is not UTF-8; `attestation_signatures` is the decoded trailer,
    lines that were set aside included with their reasons.
    """
    return extract_around(patch, _diff_text(patch.file.diff))


def extract_around(patch: VerifiedPatch, patch_diff: JsonValue) -> dict[str, JsonValue]:
    """Return the document of `extract` with something else in the place of the diff, which may be very long."""
    document: dict[str, JsonValue] = dict(patch.metadata.to_json())
    document["affected_components"] = [each.to_json() for each in patch.metadata.affected_components]
    document["patch_diff_summary"] = document["patch_diff"]
    document["patch_diff"] = patch_diff
    lines: list[Attestation | RefusedAttestation] = [*patch.attestations, *patch.attestations_refused]
    lines.sort(key=lambda line: line.index)
    document["attestation_signatures"] = [
        _describe_attestation(line) if isinstance(line, Attestation) else _describe_refused(line) for line in lines
    ]
    document["format"] = FORMAT
    document["patch_id"] = patch.patch_id
    document["author_signature"] = _describe_signature(patch.author_envelope, patch.author_key)
    document["release_seal"] = _describe_seal(patch.seal) if patch.seal else None
    return document


def extract_text(patch: VerifiedPatch, marker: str) -> Iterator[str]:
    """Yield the JSON text of `extract`, indented by two; of the diff, no more than a piece is in memory at once.

    Args:
        patch: A verified patch.
        marker: A text that stands nowhere in the patch; it has nothing that JSON escapes.
    """
    view = patch.file.diff_view
    is_text = _is_utf8(view)
    stand_in: JsonValue = marker if is_text else {"encoding": "base64", "data": marker}
    text = json.dumps(extract_around(patch, stand_in), indent=2, ensure_ascii=False)
    before, found, after = text.partition(marker)
    assert found, "the marker stands where the diff belongs"
    yield before
    if is_text:
        decoder = codecs.getincrementaldecoder("utf-8")()
        for offset in range(0, len(view), _PIECE_BYTES):
            # JSON escapes every character by itself, so pieces of a text make the text.
            yield json.dumps(decoder.decode(view[offset : offset + _PIECE_BYTES]), ensure_ascii=False)[1:-1]
    else:
        for offset in range(0, len(view), _PIECE_BYTES):
            yield encode_base64(bytes(view[offset : offset + _PIECE_BYTES]))
    yield after


def _is_utf8(view: memoryview) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for offset in range(0, len(view), _PIECE_BYTES):
            decoder.decode(view[offset : offset + _PIECE_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def read_diff(patch_diff: JsonValue) -> bytes:
    """Return the bytes of the diff from the member `patch_diff` of an extracted document.

    Raises:
        InvalidMetadataError: ``provenance.field.object`` when it is neither a text nor the marked base64 object,
            ``provenance.field.base64``.
    """
    match patch_diff:
        case str(text):
            return text.encode("utf-8")
        case {"encoding": "base64", "data": str(data)}:
            return decode_base64_untrusted(data, "patch_diff.data")
        case _:
            raise InvalidMetadataError(
                "provenance.field.object", "patch_diff is neither a text nor base64 with its marker"
            )


def schema_document() -> dict[str, JsonValue]:
    """Return the JSON Schema (draft 2020-12) of what `extract` returns."""
    properties: _Schema = {
        "format": {"const": FORMAT},
        "patch_id": _ref("sha256", "SHA-256 of the body: preamble, diff and end mark."),
        "creation_timestamp": _ref("timestamp", "When the author says the patch was made, UTC."),
        "creator_identity": _ref(
            "creator_identity", "X.509 certificate chain or DID of the author; the signing key follows from it."
        ),
        "reason_for_patch": _ref("reason", "Why the patch exists."),
        "affected_components": _list(
            _ref("component"), COMPONENTS_SUMMARISED_MAX, 1, "Every changed file and the component it belongs to."
        ),
        "patch_diff": _ref("diff", "The unified diff that the file carries."),
        "build_environment": _ref(
            "build_environment", "Hash of compiler, libraries and operating system, with the document where disclosed."
        ),
        "validation_tests": _ref("validation_tests", "Hash of the test suite."),
        "attestation_signatures": _list(
            {"oneOf": [_ref("attestation"), _ref("refused_attestation")]},
            TRAILER_LINES_MAX,
            0,
            "The trailer behind the author's line, decoded, the release seal excepted.",
        ),
        "patch_diff_summary": _ref("diff_summary", "What the author signed about the diff."),
        "release_counter": _integer(1, "Grows with every release of the component."),
        "supersedes": _patch_ids("Patch ids that this patch replaces."),
        "prerequisites": _patch_ids("Patch ids that must be installed before."),
        "not_after": _nullable(_ref("timestamp"), "No host applies the patch later than this."),
        "author_signature": _ref("signature", "The author's signature over body, diff and metadata."),
        "release_seal": _nullable(_ref("seal"), "The claim that the attestations are complete."),
    }
    allowances = _list(
        {"enum": [each.value for each in Allowance]},
        len(Allowance),
        1,
        "What the patch does that a host must allow by itself; left out where there is nothing.",
        unique=True,
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "Patch provenance, version 1",
        "description": "What a signed patch file proves about itself. The format bounds lengths in bytes of UTF-8, this in characters.",
        **_object(properties, {"allowances": allowances}),
        "$defs": _definitions(),
    }


def schema_text() -> str:
    """Return the schema as the published file holds it: indented JSON with a line feed at its end."""
    return json.dumps(schema_document(), indent=2, ensure_ascii=False) + "\n"


def _definitions() -> _Schema:
    return {
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "timestamp": {
            "type": "string",
            "format": "date-time",
            "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$",
        },
        "did": {"type": "string", "pattern": "^did:key:z[1-9A-HJ-NP-Za-km-z]+$", "maxLength": DID_BYTES_MAX},
        "base64": {"type": "string", "contentEncoding": "base64", "pattern": "^[A-Za-z0-9+/]*={0,2}$"},
        "identity": {"type": "string", "pattern": f"^{IDENTIFIER_PATTERN}@{IDENTIFIER_PATTERN}$"},
        "role": {"type": "string", "pattern": f"^{IDENTIFIER_PATTERN}$"},
        "path": {"type": "string", "minLength": 1},
        "creator_identity": {
            "oneOf": [_creator("did", _ref("did")), _creator("x509", _list(_ref("base64"), X509_CHAIN_LENGTH_MAX, 1))]
        },
        "reason": _object(
            {
                "category": {"enum": [category.value for category in Category]},
                "title": _text(TITLE_BYTES_MAX, 1),
                "description": _text(DESCRIPTION_BYTES_MAX, 1),
                "references": _list(_text(REFERENCE_BYTES_MAX, 1), REFERENCES_MAX, unique=True),
            }
        ),
        "image": _object({"sha256": _ref("sha256"), "mode": {"enum": [f"{mode:06o}" for mode in (*MODES, MODE_LINK)]}}),
        "component": _object(
            {
                "name": _text(COMPONENT_NAME_BYTES_MAX, 1),
                "path": _ref("path"),
                "previous_path": _nullable(_ref("path")),
                "change": {"enum": [kind.value for kind in ChangeKind]},
                "pre": _nullable(_ref("image")),
                "post": _nullable(_ref("image")),
            }
        ),
        "diff": {
            "oneOf": [
                {"type": "string", "pattern": "^diff --git "},
                _object({"encoding": {"const": "base64"}, "data": _ref("base64")}),
            ]
        },
        "diff_summary": _object(
            {
                "format": {"const": DIFF_FORMAT},
                "sha256": _ref("sha256"),
                "size_bytes": _integer(0),
                "files": _integer(0),
                "lines_added": _integer(0),
                "lines_removed": _integer(0),
            }
        ),
        "build_environment": _object({"sha256": _ref("sha256"), "document": {"type": ["object", "null"]}}),
        "validation_tests": _object(
            {
                "sha256": _ref("sha256"),
                "count": {"type": "integer", "minimum": 0, "maximum": TEST_FILES_MAX},
                "method": _text(METHOD_BYTES_MAX, 1),
            }
        ),
        "signature": _object(_signature_properties()),
        "attestation": _object(
            {
                "index": _integer(FIRST_INDEX),
                "status": {"const": "verified"},
                "predicate_type": _text(PREDICATE_TYPE_BYTES_MAX, 1),
                "identity": _ref("identity"),
                "role": _ref("role"),
                "verdict": {"enum": [*(verdict.value for verdict in Verdict), None]},
                "comment": _text(COMMENT_BYTES_MAX, 0),
                "time": _ref("timestamp"),
                "statement": {"type": "object"},
                **_signature_properties(),
            }
        ),
        "refused_attestation": _object(
            {
                "index": _integer(FIRST_INDEX),
                "status": {"const": "refused"},
                "code": {"type": "string", "minLength": 1},
                "message": {"type": "string", "minLength": 1},
            }
        ),
        "seal": _object(
            {
                "identity": _ref("identity"),
                "attestations": _list(_ref("sha256"), TRAILER_LINES_MAX),
                "time": _ref("timestamp"),
                **_signature_properties(),
            }
        ),
    }


def _signature_properties() -> _Schema:
    return {
        "algorithm": {"enum": [algorithm.value for algorithm in Algorithm]},
        "did": _ref("did"),
        "keyid": _ref("sha256"),
        "payload_sha256": _ref("sha256"),
        "sig": _ref("base64"),
    }


def _creator(kind: str, key: _Schema) -> _Schema:
    member = "did" if kind == "did" else "certificate_chain"
    person: _Schema = {"name": _text(PERSON_NAME_BYTES_MAX, 1), "email": _text(EMAIL_BYTES_MAX, 3)}
    return _object({"kind": {"const": kind}, member: key, **person})


def _object(properties: _Schema, optional: _Schema | None = None) -> _Schema:
    """Return the schema of an object with exactly these members, and perhaps the optional ones."""
    known = {**properties, **(optional or {})}
    return {"type": "object", "properties": known, "required": list(properties), "additionalProperties": False}


def _ref(name: str, description: str = "") -> _Schema:
    return {"$ref": f"#/$defs/{name}", **({"description": description} if description else {})}


def _nullable(schema: _Schema, description: str = "") -> _Schema:
    return {"oneOf": [schema, {"type": "null"}], **({"description": description} if description else {})}


def _list(
    items: _Schema, length_max: int, length_min: int = 0, description: str = "", *, unique: bool = False
) -> _Schema:
    bounds: _Schema = {"minItems": length_min, "maxItems": length_max, "uniqueItems": unique}
    return {"type": "array", "items": items, **bounds, **({"description": description} if description else {})}


def _patch_ids(description: str) -> _Schema:
    return _list(_ref("sha256"), PATCH_IDS_MAX, 0, description, unique=True)


def _text(length_max: int, length_min: int) -> _Schema:
    return {"type": "string", "minLength": length_min, "maxLength": length_max}


def _integer(minimum: int, description: str = "") -> _Schema:
    return {
        "type": "integer",
        "minimum": minimum,
        "maximum": JSON_INTEGER_MAX,
        **({"description": description} if description else {}),
    }


def _diff_text(diff: bytes) -> JsonValue:
    try:
        return diff.decode("utf-8")
    except UnicodeDecodeError:
        return {"encoding": "base64", "data": encode_base64(diff)}


def _describe_signature(envelope: Envelope, key: PublicKey) -> dict[str, JsonValue]:
    return {
        "algorithm": key.algorithm.value,
        "did": key.did,
        "keyid": key.key_id_hex,
        "payload_sha256": envelope.payload_digest.hex(),
        "sig": encode_base64(envelope.signatures[0].sig),
    }


def _describe_attestation(attestation: Attestation) -> dict[str, JsonValue]:
    return {
        "index": attestation.index,
        "status": "verified",
        "predicate_type": attestation.predicate_type,
        "identity": attestation.identity,
        "role": attestation.role,
        "verdict": attestation.verdict.value if attestation.verdict else None,
        "comment": attestation.comment,
        "time": attestation.time,
        "statement": canonical_json.decode_untrusted(attestation.statement_json),
        **_describe_signature(attestation.envelope, attestation.key),
    }


def _describe_refused(refused: RefusedAttestation) -> dict[str, JsonValue]:
    return {"index": refused.index, "status": "refused", "code": refused.code, "message": refused.message}


def _describe_seal(seal: ReleaseSeal) -> dict[str, JsonValue]:
    attestations: list[JsonValue] = list(seal.attestations)
    return {
        "identity": seal.identity,
        "attestations": attestations,
        "time": seal.time,
        **_describe_signature(seal.envelope, seal.key),
    }
