"""The strict reader: what it accepts and shows, and that each forbidden form is refused with its own code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from provenance import diff as diff_module
from provenance.diff import MODE_EXECUTABLE, MODE_REGULAR, ChangeKind, parse_diff_untrusted, print_diff
from provenance.errors import DiffRefusedError, MalformedPatchError
from tests.testkit.diffs import CHANGES, Change

HOSTILE = Path(__file__).parent.parent / "vectors" / "patches" / "hostile"
HOSTILE_INDEX: dict[str, dict[str, str]] = json.loads((HOSTILE / "index.json").read_text())

MODIFY = (
    b"diff --git a/src/frame.c b/src/frame.c\nindex 1234567..89abcde 100644\n--- a/src/frame.c\n+++ b/src/frame.c\n"
    b"@@ -10,7 +10,8 @@ int parse(void)\n one\n two\n three\n-four\n+FOUR\n+more\n five\n six\n seven\n"
)


def refusal(data: bytes) -> DiffRefusedError:
    with pytest.raises(DiffRefusedError) as caught:
        parse_diff_untrusted(data)
    return caught.value


def test_a_modification_is_read_with_all_its_parts() -> None:
    diff = parse_diff_untrusted(MODIFY)
    (change,) = diff.files
    (hunk,) = change.hunks
    assert (change.kind, change.old_path, change.new_path) == (ChangeKind.MODIFY, "src/frame.c", "src/frame.c")
    assert (change.old_mode, change.new_mode) == (MODE_REGULAR, MODE_REGULAR)
    assert change.blobs == ("1234567", "89abcde")
    assert (hunk.old_start, hunk.old_count, hunk.new_start, hunk.new_count) == (10, 7, 10, 8)
    assert hunk.section == b"int parse(void)"
    assert hunk.lines[3:6] == (b"-four\n", b"+FOUR\n", b"+more\n")
    assert (hunk.context_before, hunk.context_after) == (3, 3)
    assert (diff.lines_added, diff.lines_removed) == (2, 1)
    assert diff.raw == MODIFY
    assert print_diff(diff) == MODIFY


def test_without_index_line_the_mode_is_not_said() -> None:
    (change,) = parse_diff_untrusted(MODIFY.replace(b"index 1234567..89abcde 100644\n", b"")).files
    assert (change.old_mode, change.new_mode, change.blobs) == (None, None, None)


def test_an_index_line_may_leave_the_mode_out() -> None:
    text = MODIFY.replace(b" 100644\n", b"\n")
    (change,) = parse_diff_untrusted(text).files
    assert (change.old_mode, change.blobs) == (None, ("1234567", "89abcde"))


def test_a_rename_names_both_paths() -> None:
    text = b"diff --git a/old b/new\nold mode 100644\nnew mode 100755\nsimilarity index 100%\nrename from old\nrename to new\n"
    diff = parse_diff_untrusted(text)
    (change,) = diff.files
    assert (change.kind, change.old_path, change.new_path, change.similarity) == (ChangeKind.RENAME, "old", "new", 100)
    assert (change.old_mode, change.new_mode) == (MODE_REGULAR, MODE_EXECUTABLE)
    assert (change.path, change.paths, diff.paths) == ("new", ("old", "new"), ("new", "old"))


def test_a_line_without_newline_keeps_the_bytes_of_the_file() -> None:
    text = b"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-one\n\\ No newline at end of file\n+one\n"
    (change,) = parse_diff_untrusted(text).files
    assert change.hunks[0].lines == (b"-one", b"+one\n")


def test_paths_are_sorted_by_their_bytes() -> None:
    section = b"diff --git a/%s b/%s\nnew file mode 100644\nindex 0000000..e69de29\n"
    names = ["z", "B", "é", "b", "b0", "a/b"]
    diff = parse_diff_untrusted(b"".join(section % (name.encode(), name.encode()) for name in names))
    assert diff.paths == ("B", "a/b", "b", "b0", "z", "é")


@pytest.mark.parametrize("blob", ["e69de29", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", "473a0f4c3be8"])
def test_an_empty_file_is_added_with_the_name_of_no_content(blob: str) -> None:
    text = b"diff --git a/x b/x\nnew file mode 100755\nindex 0000000..%s\n" % blob.encode()
    (change,) = parse_diff_untrusted(text).files
    assert (change.kind, change.new_mode, change.hunks) == (ChangeKind.ADD, MODE_EXECUTABLE, ())


@pytest.mark.parametrize("name", CHANGES)
def test_every_kind_of_change_is_printed_as_it_was_read(name: str) -> None:
    change: Change = CHANGES[name]
    text = change.make()
    assert print_diff(parse_diff_untrusted(text)) == text


@pytest.mark.parametrize("name", HOSTILE_INDEX)
def test_hostile_diff_is_refused_with_its_code(name: str) -> None:
    error = refusal((HOSTILE / f"{name}.diff").read_bytes())
    assert error.code == HOSTILE_INDEX[name]["code"]
    assert isinstance(error, MalformedPatchError)
    assert error.message


def test_the_hostile_vectors_and_their_index_are_the_same_set() -> None:
    assert {path.stem for path in HOSTILE.glob("*.diff")} == set(HOSTILE_INDEX)


def test_every_code_of_the_reader_has_a_vector_or_a_test_here(repository_root: Path) -> None:
    source = "".join(
        path.read_text()
        for path in sorted((repository_root / "provenance").glob("diff*.py"))
        if path.stem in PARSER_MODULES
    )
    rules = set(re.findall(r'\brefusal\(\s*"([a-z0-9_]+)"', source)) | set(
        re.findall(r'"provenance\.diff\.([a-z0-9_]+)"', source)
    )
    rules |= set(re.findall(r'_refusal\(\s*"(path_[a-z]+)"', source))
    shown = {entry["code"].removeprefix("provenance.diff.") for entry in HOSTILE_INDEX.values()}
    # `not_canonical` is the proof of the whole; no input is known that gets so far.
    # Links are read only where they are allowed: test_diff_wide.py.
    assert rules - shown == {"size", "path_length", "not_canonical", "link_form"}


PARSER_MODULES = ("diff", "diff_reader", "diff_hunks", "diff_paths")


def test_a_refusal_tells_the_line() -> None:
    error = refusal(MODIFY + MODIFY)
    assert error.code == "provenance.diff.duplicate_path"
    assert error.details == {"line": 15}
    assert error.message.startswith("line 15: ")


@pytest.mark.parametrize(
    ("limit", "value", "data"),
    [
        ("DIFF_BYTES_MAX", len(MODIFY) - 1, MODIFY),
        ("DIFF_LINES_MAX", MODIFY.count(b"\n") - 1, MODIFY),
        ("DIFF_LINE_BYTES_MAX", 37, MODIFY),
        ("DIFF_FILES_MAX", 1, MODIFY + MODIFY.replace(b"frame", b"other")),
    ],
)
def test_a_diff_beyond_a_limit_is_refused_and_one_at_the_limit_is_not(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int, data: bytes
) -> None:
    monkeypatch.setattr(diff_module, limit, value)
    assert refusal(data).code == "provenance.diff.size"
    monkeypatch.setattr(diff_module, limit, value + 1)
    assert parse_diff_untrusted(data).raw == data


def test_the_limits_are_the_published_ones() -> None:
    assert diff_module.DIFF_BYTES_MAX == 128 * 1024 * 1024
    assert diff_module.DIFF_LINES_MAX == 4_000_000
    assert diff_module.DIFF_LINE_BYTES_MAX == 1024 * 1024
    assert diff_module.DIFF_FILES_MAX == 20_000
