"""`affected_components` against the diff: dropping, adding or bending one entry is seen, whoever signed it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provenance.components import AffectedComponent, FileImage, check_components, describe_components
from provenance.diff import parse_diff_untrusted
from provenance.diff_model import ChangeKind, FileState
from provenance.errors import InvalidMetadataError
from provenance.patchfile import build_body
from provenance.verify import verify_patch_untrusted
from tests.testkit.patches import (
    EVERY_KIND_AFTER,
    EVERY_KIND_BEFORE,
    EVERY_KIND_RENAMES,
    Tree,
    make_metadata,
    make_patch,
    resign_with_preamble,
)

METADATA, DIFF_BYTES = make_metadata(EVERY_KIND_BEFORE, EVERY_KIND_AFTER, EVERY_KIND_RENAMES)
DIFF = parse_diff_untrusted(DIFF_BYTES)
COMPONENTS = {component.path: component for component in METADATA.affected_components}


def refusal(*components: AffectedComponent) -> InvalidMetadataError:
    with pytest.raises(InvalidMetadataError) as caught:
        check_components(components, DIFF)
    return caught.value


def changed(path: str, **changes: object) -> tuple[AffectedComponent, ...]:
    """All components, with the fields of one replaced."""
    return tuple(replace(one, **changes) if one.path == path else one for one in METADATA.affected_components)  # type: ignore[arg-type]


def test_described_components_are_those_of_the_diff() -> None:
    check_components(METADATA.affected_components, DIFF)
    assert {path: component.change for path, component in COMPONENTS.items()} == {
        "data/latin1.txt": ChangeKind.MODIFY,
        "docs/new file.txt": ChangeKind.ADD,
        "lib/b.c": ChangeKind.RENAME,
        "lätin/é.txt": ChangeKind.MODIFY,
        "old/gone.txt": ChangeKind.DELETE,
        "scripts/run": ChangeKind.MODIFY,
        "src/frame.c": ChangeKind.MODIFY,
    }
    assert COMPONENTS["lib/b.c"].previous_path == "lib/a.c"
    assert list(COMPONENTS) == sorted(COMPONENTS, key=str.encode)


def test_a_path_can_have_a_component_name_of_its_own() -> None:
    named = describe_components(DIFF, EVERY_KIND_BEFORE, EVERY_KIND_AFTER, {"src/frame.c": "parser"}, "rest")
    assert {one.path: one.name for one in named}["src/frame.c"] == "parser"
    assert {one.name for one in named} == {"parser", "rest"}


@pytest.mark.parametrize("path", sorted(COMPONENTS))
def test_a_dropped_path_is_seen(path: str) -> None:
    error = refusal(*(one for one in METADATA.affected_components if one.path != path))
    assert (error.code, error.details["path"]) == ("provenance.metadata.component_missing", path)


def test_an_added_path_is_seen() -> None:
    error = refusal(*METADATA.affected_components, replace(COMPONENTS["src/frame.c"], path="src/other.c"))
    assert (error.code, error.details["path"]) == ("provenance.metadata.component_extra", "src/other.c")


def test_the_old_path_of_a_rename_is_no_component_of_its_own() -> None:
    assert (
        refusal(*METADATA.affected_components, replace(COMPONENTS["lib/b.c"], path="lib/a.c")).code
        == "provenance.metadata.component_extra"
    )


IMAGE = FileImage("a" * 64, 0o100644)


@pytest.mark.parametrize(
    ("path", "changes", "code"),
    [
        ("src/frame.c", {"change": ChangeKind.ADD, "pre": None}, "component_change"),
        ("docs/new file.txt", {"change": ChangeKind.MODIFY, "pre": IMAGE}, "component_change"),
        ("lib/b.c", {"change": ChangeKind.MODIFY, "previous_path": None}, "component_change"),
        ("lib/b.c", {"previous_path": "lib/c.c"}, "component_change"),
        (
            "docs/new file.txt",
            {"post": replace(COMPONENTS["docs/new file.txt"].post or IMAGE, mode=0o100644)},
            "component_mode",
        ),
        ("old/gone.txt", {"pre": replace(COMPONENTS["old/gone.txt"].pre or IMAGE, mode=0o100755)}, "component_mode"),
        ("scripts/run", {"post": COMPONENTS["scripts/run"].pre}, "component_mode"),
        ("scripts/run", {"pre": COMPONENTS["scripts/run"].post}, "component_mode"),
        ("src/frame.c", {"post": replace(COMPONENTS["src/frame.c"].post or IMAGE, mode=0o100755)}, "component_mode"),
        ("src/frame.c", {"post": COMPONENTS["src/frame.c"].pre}, "component_digest"),
        ("scripts/run", {"post": FileImage("a" * 64, 0o100755)}, "component_digest"),
        ("docs/new file.txt", {"post": FileImage("a" * 64, 0o100755)}, "component_digest"),
        ("old/gone.txt", {"pre": IMAGE}, "component_digest"),
    ],
    ids=str,
)
def test_what_the_diff_determines_cannot_be_bent(path: str, changes: dict[str, object], code: str) -> None:
    error = refusal(*changed(path, **changes))
    assert (error.code, error.details["path"]) == (f"provenance.metadata.{code}", path)


def test_an_error_never_shows_a_name_raw() -> None:
    assert "\\xe4" in refusal(*(one for one in METADATA.affected_components if one.path != "lätin/é.txt")).message


def test_a_signed_file_with_a_dropped_component_is_refused() -> None:
    data = make_patch(EVERY_KIND_BEFORE, EVERY_KIND_AFTER, EVERY_KIND_RENAMES)
    bent = replace(METADATA, affected_components=METADATA.affected_components[1:])
    with pytest.raises(InvalidMetadataError) as caught:
        verify_patch_untrusted(resign_with_preamble(data, bent))
    assert caught.value.code == "provenance.metadata.component_missing"


def test_no_body_is_built_for_metadata_of_another_diff() -> None:
    with pytest.raises(InvalidMetadataError) as caught:
        build_body(replace(METADATA, affected_components=METADATA.affected_components[1:]), DIFF_BYTES)
    assert caught.value.code == "provenance.metadata.component_missing"
    with pytest.raises(InvalidMetadataError) as caught:
        build_body(make_metadata()[0], DIFF_BYTES)
    assert caught.value.code == "provenance.metadata.diff_digest"


def test_empty_files_are_added_and_deleted_without_hunks() -> None:
    empty = FileImage("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 0o100644)
    diff = parse_diff_untrusted(
        b"diff --git a/a b/a\nnew file mode 100644\nindex 0000000..e69de29\n"
        b"diff --git a/b b/b\ndeleted file mode 100644\nindex e69de29..0000000\n"
    )
    check_components(
        (
            AffectedComponent("x", "a", ChangeKind.ADD, None, empty),
            AffectedComponent("x", "b", ChangeKind.DELETE, empty, None),
        ),
        diff,
    )


def test_a_mode_changes_only_where_the_diff_says_so() -> None:
    # Without an `index` line the diff names no mode at all.
    diff = parse_diff_untrusted(b"diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-x\n+y\n")
    before, after = FileImage("a" * 64, 0o100644), FileImage("b" * 64, 0o100644)
    check_components((AffectedComponent("x", "a", ChangeKind.MODIFY, before, after),), diff)
    with pytest.raises(InvalidMetadataError) as caught:
        check_components((AffectedComponent("x", "a", ChangeKind.MODIFY, before, replace(after, mode=0o100755)),), diff)
    assert caught.value.code == "provenance.metadata.component_mode"


COPIES_BEFORE: Tree = {"a": FileState(0o100644, b"1\n2\n3\n4\n")}
COPIES_AFTER: Tree = {
    "a": FileState(0o100644, b"1\n2\n3\nfour\n"),
    "b": COPIES_BEFORE["a"],
    "c": FileState(0o100755, b"1\n2\n3\n4\n5\n"),
}
COPIES = {"b": "a", "c": "a"}


def test_a_copy_names_its_source_as_it_was_before() -> None:
    metadata, diff = make_metadata(COPIES_BEFORE, COPIES_AFTER, copies=COPIES)
    changed, copied, other = metadata.affected_components
    assert (copied.change, copied.previous_path, other.previous_path) == (ChangeKind.COPY, "a", "a")
    assert copied.pre == other.pre == changed.pre == copied.post
    patch = verify_patch_untrusted(make_patch(COPIES_BEFORE, COPIES_AFTER, copies=COPIES))
    assert patch.metadata.affected_components == metadata.affected_components
    assert AffectedComponent.from_json_untrusted(copied.to_json(), "x") == copied
    assert b"(copy of a => b)" in patch.file.preamble
    for wrong in (replace(copied, change=ChangeKind.RENAME), replace(copied, previous_path="x")):
        with pytest.raises(InvalidMetadataError) as caught:
            check_components((changed, wrong, other), parse_diff_untrusted(diff))
        assert caught.value.code == "provenance.metadata.component_change"


def test_two_components_say_the_same_of_one_file_before() -> None:
    metadata, diff = make_metadata(COPIES_BEFORE, COPIES_AFTER, copies=COPIES)
    changed, copied, other = metadata.affected_components
    assert other.pre is not None
    for wrong in (
        replace(other, pre=replace(other.pre, sha256="0" * 64)),
        replace(other, pre=replace(other.pre, sha256="1" * 64)),
    ):
        with pytest.raises(InvalidMetadataError) as caught:
            check_components((changed, copied, wrong), parse_diff_untrusted(diff))
        assert (caught.value.code, caught.value.details["path"]) == ("provenance.metadata.component_digest", "c")


@pytest.mark.parametrize("previous_path", [None, "../a"])
def test_a_copy_without_a_source_is_refused(previous_path: str | None) -> None:
    metadata, _ = make_metadata(COPIES_BEFORE, COPIES_AFTER, copies=COPIES)
    value = metadata.affected_components[1].to_json() | {"previous_path": previous_path}
    with pytest.raises(InvalidMetadataError) as caught:
        AffectedComponent.from_json_untrusted(value, "x")
    assert caught.value.code in ("provenance.field.image", "provenance.diff.path_component")
