"""The author's metadata: one JSON form both ways, and every value outside it refused with the rule's code."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from provenance.errors import InvalidMetadataError
from provenance.metadata import DiffSummary, PatchMetadata, check_metadata_form, normalise_text
from tests.testkit.patches import EVERY_KIND_AFTER, EVERY_KIND_BEFORE, EVERY_KIND_RENAMES, make_metadata
from wire import canonical_json

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
Change = Callable[[dict[str, Any]], object]


def every_kind_json() -> dict[str, Any]:
    """Metadata with a component of every kind, optional fields filled, as plain JSON."""
    metadata, _ = make_metadata(
        EVERY_KIND_BEFORE,
        EVERY_KIND_AFTER,
        EVERY_KIND_RENAMES,
        supersedes=(A, B),
        prerequisites=(C,),
        not_after="2027-01-01T00:00:00Z",
    )
    loaded: dict[str, Any] = json.loads(canonical_json.encode(metadata.to_json()))
    return loaded


def refusal(value: object) -> InvalidMetadataError:
    with pytest.raises(InvalidMetadataError) as caught:
        PatchMetadata.from_json_untrusted(value)
    return caught.value


def test_metadata_reads_back_as_it_was_written() -> None:
    plain = every_kind_json()
    metadata = PatchMetadata.from_json_untrusted(plain)
    assert metadata.to_json() == plain
    assert PatchMetadata.from_json_untrusted(metadata.to_json()) == metadata
    check_metadata_form(metadata)


def test_metadata_has_the_specifications_fields_and_no_other() -> None:
    assert set(every_kind_json()) == {
        "creation_timestamp",
        "creator_identity",
        "reason_for_patch",
        "affected_components",
        "patch_diff",
        "build_environment",
        "validation_tests",
        "release_counter",
        "supersedes",
        "prerequisites",
        "not_after",
    }


def paths_of_objects(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every object inside the metadata that is ours to define: not what stands in the build environment's document."""
    if isinstance(value, dict):
        below = [
            found
            for name, item in value.items()
            if name != "document"
            for found in paths_of_objects(item, (*path, name))
        ]
        return [path, *below]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in paths_of_objects(item, (*path, index))]
    return []


OBJECTS = paths_of_objects(every_kind_json())


def at(plain: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        plain = plain[part]
    return plain


@pytest.mark.parametrize("path", OBJECTS, ids=lambda path: ".".join(map(str, path)) or "predicate")
def test_unknown_and_missing_members_are_refused_in_every_object(path: tuple[str | int, ...]) -> None:
    plain = every_kind_json()
    at(plain, path)["crit"] = []
    assert refusal(plain).code == "provenance.field.member_unknown"
    for member in at(every_kind_json(), path):
        plain = every_kind_json()
        del at(plain, path)[member]
        assert refusal(plain).code == "provenance.field.member_missing", member
        plain = every_kind_json()
        # Some readers match names without case: an author must not be able to show them another value.
        at(plain, path)[member.capitalize()] = at(plain, path).pop(member)
        assert refusal(plain).code == "provenance.field.member_unknown", member


def leaves(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, dict):
        return [found for name, item in value.items() if name != "document" for found in leaves(item, (*path, name))]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in leaves(item, (*path, index))] or [path]
    return [path]


@pytest.mark.parametrize("wrong", [True, [[]], {"a": 1}, -1, "\x00", "  ", 2**53])
@pytest.mark.parametrize("path", leaves(every_kind_json()), ids=lambda path: ".".join(map(str, path)))
def test_a_value_of_another_type_is_refused_everywhere(path: tuple[str | int, ...], wrong: object) -> None:
    plain = every_kind_json()
    at(plain, path[:-1])[path[-1]] = copy.deepcopy(wrong)
    assert refusal(plain).code.startswith(("provenance.field.", "provenance.diff.path_"))


def _set(*path_and_value: Any) -> Change:
    *path, last, value = path_and_value

    def change(plain: dict[str, Any]) -> None:
        at(plain, tuple(path))[last] = value

    change.__name__ = f"{'.'.join(map(str, (*path, last)))}={value!a:.30}"  # names the test
    return change


def components_reversed(plain: dict[str, Any]) -> None:
    plain["affected_components"].reverse()


def component_twice(plain: dict[str, Any]) -> None:
    plain["affected_components"].insert(0, plain["affected_components"][0])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_set("creation_timestamp", "2026-11-22T06:50:00+00:00"), "provenance.field.timestamp"),
        (_set("creation_timestamp", 1795330200), "provenance.field.timestamp"),
        (_set("reason_for_patch", "category", "security"), "provenance.field.choice"),
        (_set("reason_for_patch", "category", "Bug-Fix"), "provenance.field.choice"),
        (_set("reason_for_patch", "title", ""), "provenance.field.length"),
        (_set("reason_for_patch", "title", "x" * 201), "provenance.field.length"),
        (_set("reason_for_patch", "title", "é" * 101), "provenance.field.length"),
        (_set("reason_for_patch", "title", " x"), "provenance.field.spaces"),
        (_set("reason_for_patch", "title", "x\u00a0"), "provenance.field.spaces"),
        (_set("reason_for_patch", "title", "two\nlines"), "provenance.field.characters"),
        (_set("reason_for_patch", "title", "carriage\rreturn"), "provenance.field.characters"),
        (_set("reason_for_patch", "title", "bidi \u202e override"), "provenance.field.characters"),
        (_set("reason_for_patch", "title", "e\u0301"), "provenance.field.not_nfc"),
        (_set("reason_for_patch", "title", "=?utf-8?q?Re=3A?="), "provenance.field.encoded_word"),
        (_set("reason_for_patch", "description", ""), "provenance.field.length"),
        (_set("reason_for_patch", "description", "x" * (32 * 1024 + 1)), "provenance.field.length"),
        (_set("reason_for_patch", "description", "a \nb"), "provenance.field.spaces"),
        (_set("reason_for_patch", "description", "a\n\n"), "provenance.field.spaces"),
        (_set("reason_for_patch", "description", "a\tb"), "provenance.field.characters"),
        (_set("reason_for_patch", "description", "a\u2028b"), "provenance.field.characters"),
        (_set("reason_for_patch", "references", ["CVE-2026-1"]), "provenance.field.reference"),
        (_set("reason_for_patch", "references", ["cve-2026-0001"]), "provenance.field.reference"),
        (_set("reason_for_patch", "references", ["javascript:alert(1)"]), "provenance.field.reference"),
        (_set("reason_for_patch", "references", ["https://a b"]), "provenance.field.reference"),
        (_set("reason_for_patch", "references", ["CVE-2026-0001"] * 2), "provenance.field.duplicate"),
        (_set("reason_for_patch", "references", [f"CVE-2026-{i:04}" for i in range(65)]), "provenance.field.length"),
        (_set("affected_components", []), "provenance.field.length"),
        (_set("affected_components", 0, "name", ""), "provenance.field.length"),
        (_set("affected_components", 0, "name", "pkg:deb"), "provenance.field.purl"),
        (_set("affected_components", 0, "name", "pkg:deb/a b"), "provenance.field.purl"),
        (_set("affected_components", 0, "change", "replace"), "provenance.field.choice"),
        (_set("affected_components", 0, "path", "/etc/passwd"), "provenance.diff.path_absolute"),
        (_set("affected_components", 0, "path", "a/../b"), "provenance.diff.path_component"),
        (_set("affected_components", 0, "path", ".git/config"), "provenance.diff.path_control"),
        (_set("affected_components", 0, "pre", None), "provenance.field.image"),
        (_set("affected_components", 0, "post", None), "provenance.field.image"),
        (_set("affected_components", 0, "previous_path", "x"), "provenance.field.image"),
        (_set("affected_components", 0, "pre", "mode", "100664"), "provenance.field.choice"),
        (_set("affected_components", 0, "pre", "mode", "104755"), "provenance.field.choice"),
        (_set("affected_components", 0, "pre", "mode", 33188), "provenance.field.choice"),
        (_set("affected_components", 0, "pre", "sha256", "A" * 64), "provenance.field.digest"),
        (_set("affected_components", 0, "pre", "sha256", "a" * 63), "provenance.field.digest"),
        (components_reversed, "provenance.field.order"),
        (component_twice, "provenance.field.order"),
        (_set("patch_diff", "format", "context"), "provenance.field.choice"),
        (_set("patch_diff", "size_bytes", "17"), "provenance.field.integer"),
        (_set("patch_diff", "files", True), "provenance.field.integer"),
        (_set("patch_diff", "lines_added", -1), "provenance.field.range"),
        (_set("build_environment", "sha256", A), "provenance.metadata.build_environment_digest"),
        (_set("build_environment", "document", "machine", "arm64"), "provenance.metadata.build_environment_digest"),
        (_set("build_environment", "document", []), "provenance.field.object"),
        (_set("validation_tests", "count", -1), "provenance.field.range"),
        (_set("validation_tests", "count", 1_000_001), "provenance.field.range"),
        (_set("validation_tests", "method", ""), "provenance.field.length"),
        (_set("release_counter", 0), "provenance.field.range"),
        (_set("release_counter", True), "provenance.field.integer"),
        (_set("supersedes", [B, A]), "provenance.field.order"),
        (_set("supersedes", [A, A]), "provenance.field.order"),
        (_set("supersedes", [f"{i:064x}" for i in range(65)]), "provenance.field.length"),
        (_set("supersedes", "a" * 64), "provenance.field.list"),
        (_set("prerequisites", [A, C]), "provenance.metadata.prerequisite_superseded"),
        (_set("not_after", "2026-11-22T06:50:00Z"), "provenance.metadata.not_after"),
        (_set("not_after", "2020-01-01T00:00:00Z"), "provenance.metadata.not_after"),
    ],
)
def test_a_value_outside_its_field_is_refused_with_the_rules_code(change: Change, code: str) -> None:
    plain = every_kind_json()
    change(plain)
    assert refusal(plain).code == code


@pytest.mark.parametrize("value", [None, [], "predicate", 1])
def test_a_predicate_is_an_object(value: object) -> None:
    assert refusal(value).code == "provenance.field.object"


def test_a_build_document_that_is_too_long_is_refused() -> None:
    plain = every_kind_json()
    plain["build_environment"]["document"]["filler"] = "x" * (256 * 1024)
    assert refusal(plain).code == "provenance.field.length"


def test_optional_fields_have_one_empty_form() -> None:
    plain = json.loads(canonical_json.encode(make_metadata()[0].to_json()))
    assert (plain["supersedes"], plain["prerequisites"], plain["not_after"]) == ([], [], None)
    plain["build_environment"]["document"] = None
    assert PatchMetadata.from_json_untrusted(plain).build_environment.document is None


def test_our_own_tools_meet_the_same_checks() -> None:
    metadata, _ = make_metadata()
    with pytest.raises(InvalidMetadataError) as caught:
        check_metadata_form(replace(metadata, release_counter=0))
    assert caught.value.code == "provenance.field.range"


def test_a_summary_counts_what_stands_in_the_diff() -> None:
    metadata, diff = make_metadata(EVERY_KIND_BEFORE, EVERY_KIND_AFTER, EVERY_KIND_RENAMES)
    assert metadata.patch_diff.size_bytes == len(diff)
    assert metadata.patch_diff.files == diff.count(b"diff --git ")
    assert isinstance(metadata.patch_diff, DiffSummary)
    assert (metadata.patch_diff.lines_added, metadata.patch_diff.lines_removed) == (4, 6)


@pytest.mark.parametrize(
    ("text", "one_line", "paragraphs"),
    [
        ("  a \t b\r\nc ", "a b c", "a      b\nc"),
        ("e\u0301", "\u00e9", "\u00e9"),
        ("a\r\rb\n\n", "a b", "a\n\nb"),
        ("a \n b", "a b", "a\n b"),
        ("", "", ""),
    ],
)
def test_a_persons_text_has_one_form(text: str, one_line: str, paragraphs: str) -> None:
    assert normalise_text(text) == one_line
    assert normalise_text(text, multiline=True) == paragraphs


def test_normalising_never_hides_a_forbidden_character() -> None:
    metadata, _ = make_metadata()
    reason = replace(metadata.reason_for_patch, description=normalise_text("a \u202e b \x00 c", multiline=True))
    with pytest.raises(InvalidMetadataError) as caught:
        check_metadata_form(replace(metadata, reason_for_patch=reason))
    assert caught.value.code == "provenance.field.characters"
