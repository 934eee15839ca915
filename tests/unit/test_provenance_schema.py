"""The published structure: `extract` conforms to the schema, the schema is strict, and its files are what the code says."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from provenance import schema
from provenance.diff_model import FileState
from provenance.errors import InvalidMetadataError
from provenance.identity import CreatorIdentity
from provenance.schema import extract, extract_text, read_diff, schema_document, schema_text
from provenance.verify import verify_patch_untrusted
from tests.testkit.certificates import make_chain
from tests.testkit.patches import (
    ALICE,
    EVERY_KIND_AFTER,
    EVERY_KIND_BEFORE,
    EVERY_KIND_RENAMES,
    make_patch,
    make_released_patch,
    trailer_lines,
)

EIGHT_FIELDS = {
    "creation_timestamp",
    "creator_identity",
    "reason_for_patch",
    "affected_components",
    "patch_diff",
    "build_environment",
    "validation_tests",
    "attestation_signatures",
}
VALIDATOR = jsonschema.Draft202012Validator(
    schema_document(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)
SAMPLES = {
    "unsigned by others": make_patch(),
    "released": make_released_patch(),
    "every kind": make_patch(
        EVERY_KIND_BEFORE,
        EVERY_KIND_AFTER,
        EVERY_KIND_RENAMES,
        not_after="2027-01-01T00:00:00Z",
        supersedes=("a" * 64,),
    ),
    "x509": make_patch(
        creator_identity=CreatorIdentity.from_certificates(make_chain(ALICE), "Alice", "alice@acme.example")
    ),
    "with a line set aside": make_patch() + trailer_lines(make_patch())[0] + b"\n",
}


def extracted(name: str = "released") -> dict[str, Any]:
    """The document as a reader gets it: through JSON."""
    loaded: dict[str, Any] = json.loads(json.dumps(extract(verify_patch_untrusted(SAMPLES[name]))))
    return loaded


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema_document())


@pytest.mark.parametrize(
    "path", ["provenance/schema/patch-provenance-v1.schema.json", "docs/spec/patch-provenance-v1.schema.json"]
)
def test_the_published_files_are_the_codes_schema(repository_root: Path, path: str) -> None:
    assert (repository_root / path).read_text(encoding="utf-8") == schema_text()


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_every_extracted_document_conforms(name: str) -> None:
    document = extracted(name)
    VALIDATOR.validate(document)
    assert document.keys() >= EIGHT_FIELDS


def test_the_diff_is_there_as_text() -> None:
    diff = verify_patch_untrusted(SAMPLES["released"]).file.diff
    document = extracted()
    assert document["patch_diff"] == diff.decode()
    assert read_diff(document["patch_diff"]) == diff


@pytest.mark.parametrize(
    "content",
    [b"plain\n", 'ü \u202e € \U0001f600 " \\ \t\n'.encode() * 20, b"\xff\xfe not UTF-8\n" * 20, "cut €".encode()[:-1]],
)
@pytest.mark.parametrize("piece", [3, 6, 3 << 18])
def test_the_text_in_pieces_is_the_text_of_the_document(
    content: bytes, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_PIECE_BYTES", piece)
    data = make_patch({"a": FileState(0o100644, b"old\n")}, {"a": FileState(0o100644, content)})
    patch = verify_patch_untrusted(data)
    pieces = list(extract_text(patch, "marker-0123"))
    assert "".join(pieces) == json.dumps(extract(patch), indent=2, ensure_ascii=False)
    assert piece > 6 or len(pieces) > 10


def test_a_diff_that_is_not_utf8_is_there_as_marked_base64() -> None:
    diff = verify_patch_untrusted(SAMPLES["every kind"]).file.diff
    document = extracted("every kind")
    assert document["patch_diff"]["encoding"] == "base64"
    assert read_diff(document["patch_diff"]) == diff


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "provenance.field.object"),
        ({"encoding": "hex", "data": ""}, "provenance.field.object"),
        ({"encoding": "base64", "data": "AB=="}, "provenance.field.base64"),
    ],
)
def test_another_diff_member_is_refused(value: Any, code: str) -> None:
    with pytest.raises(InvalidMetadataError) as caught:
        read_diff(value)
    assert caught.value.code == code


def test_attestations_are_decoded_in_the_order_of_the_file() -> None:
    attestations = extracted()["attestation_signatures"]
    assert [(one["index"], one["status"], one["role"], one["verdict"]) for one in attestations] == [
        (1, "verified", "tests", "approve"),
        (2, "verified", "security-review", "approve"),
    ]
    assert attestations[1]["statement"]["predicate"]["comment"] == "read twice"
    assert extracted()["release_seal"]["attestations"] == [one["payload_sha256"] for one in attestations]


def test_a_line_set_aside_is_named_with_its_reason() -> None:
    (refused,) = extracted("with a line set aside")["attestation_signatures"]
    assert (refused["index"], refused["status"], refused["code"]) == (1, "refused", "provenance.statement.subject")


def objects(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every object that the schema describes member by member."""
    if isinstance(value, dict):
        below = [
            found
            for name, item in value.items()
            if name not in {"document", "statement"}
            for found in objects(item, (*path, name))
        ]
        return [path, *below]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in objects(item, (*path, index))]
    return []


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_the_schema_allows_no_other_member_and_misses_none(name: str) -> None:
    document = extracted(name)
    for path in objects(document):
        changed = copy.deepcopy(document)
        target = changed
        for part in path:
            target = target[part]
        target["crit"] = 1
        assert not VALIDATOR.is_valid(changed), path
        del target["crit"]
        for member in list(target):
            kept = target.pop(member)
            assert not VALIDATOR.is_valid(changed), (path, member)
            target[member] = kept
        assert VALIDATOR.is_valid(changed)
