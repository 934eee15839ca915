"""Exact application: the result where pre-images are right, a code and nothing else where they are not."""

from __future__ import annotations

import pytest

from provenance.diff import FileState, parse_diff_untrusted
from provenance.diff_apply import apply_diff, split_lines
from provenance.diff_make import make_diff
from provenance.errors import ApplyRefusedError
from tests.testkit.diffs import BASE, CHANGES, Tree, executable, insert, numbered, regular

HEADER = b"diff --git a/a b/a\n--- a/a\n+++ b/a\n"
MODIFY = make_diff({"a": regular(BASE)}, {"a": regular(insert(BASE, 10, b"new\n"))})


def refusal(diff: bytes, pre: Tree) -> ApplyRefusedError:
    before = dict(pre)
    with pytest.raises(ApplyRefusedError) as caught:
        apply_diff(parse_diff_untrusted(diff), pre)
    assert dict(pre) == before
    return caught.value


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_gives_exactly_the_state_it_was_made_from(name: str) -> None:
    change = CHANGES[name]
    diff = parse_diff_untrusted(change.make())
    pre = {path: change.pre.get(path) for path in diff.reads}
    assert apply_diff(diff, pre) == {path: change.post.get(path) for path in diff.paths}


def test_the_result_holds_the_touched_paths_only() -> None:
    diff = parse_diff_untrusted(MODIFY)
    assert list(apply_diff(diff, {"a": regular(BASE), "b": regular(b"other")})) == ["a"]


def test_a_mode_that_the_diff_does_not_say_stays() -> None:
    text = b"".join(line for line in MODIFY.splitlines(keepends=True) if not line.startswith(b"index"))
    assert apply_diff(parse_diff_untrusted(text), {"a": executable(BASE)}) == {
        "a": executable(insert(BASE, 10, b"new\n"))
    }


DELETE = make_diff({"a": regular(BASE)}, {"a": None})
DELETE_EMPTY = make_diff({"a": regular(b"")}, {"a": None})
ADD = make_diff({}, {"a": regular(b"x\n")})
RENAME = make_diff({"a": regular(BASE)}, {"b": regular(BASE), "a": None}, {"b": "a"})
COPY = make_diff({"a": regular(BASE)}, {"b": regular(BASE), "a": regular(BASE)}, copies={"b": "a"})
COPY_CHANGED = make_diff({"a": regular(BASE)}, {"b": regular(BASE[:-7]), "a": regular(BASE)}, copies={"b": "a"})
AT_END = make_diff({"a": regular(BASE)}, {"a": regular(BASE + b"more\n")})
NO_NEWLINE = make_diff({"a": regular(BASE)}, {"a": regular(BASE + b"more")})


@pytest.mark.parametrize(
    ("diff", "pre", "rule"),
    [
        pytest.param(MODIFY, {}, "unknown_path", id="state not given"),
        pytest.param(MODIFY, {"a": None}, "absent", id="file to change is absent"),
        pytest.param(DELETE, {"a": None}, "absent", id="file to delete is absent"),
        pytest.param(RENAME, {"a": None, "b": None}, "absent", id="file to rename is absent"),
        pytest.param(ADD, {"a": regular(b"")}, "exists", id="file to add is there"),
        pytest.param(RENAME, {"a": regular(BASE), "b": regular(b"")}, "exists", id="target of a rename is there"),
        pytest.param(COPY, {"b": None}, "unknown_path", id="state of a copy's source not given"),
        pytest.param(COPY, {"a": None, "b": None}, "absent", id="file to copy is absent"),
        pytest.param(COPY, {"a": regular(BASE), "b": regular(b"")}, "exists", id="target of a copy is there"),
        pytest.param(COPY, {"a": FileState(0o120000, b"x"), "b": None}, "mode", id="file to copy is a link"),
        pytest.param(COPY_CHANGED, {"a": regular(b"x\n" + BASE), "b": None}, "mismatch", id="source of a copy differs"),
        pytest.param(MODIFY, {"a": executable(BASE)}, "mode", id="mode differs"),
        pytest.param(MODIFY, {"a": FileState(0o100600, BASE)}, "mode", id="mode is none of ours"),
        pytest.param(MODIFY, {"a": regular(b"shift\n" + BASE)}, "mismatch", id="offset (H1)"),
        pytest.param(MODIFY, {"a": regular(BASE.replace(b"line 9\n", b"LINE 9\n"))}, "mismatch", id="fuzz (H2)"),
        pytest.param(MODIFY, {"a": regular(insert(BASE, 10, b"new\n"))}, "mismatch", id="applied twice (H4)"),
        pytest.param(MODIFY, {"a": regular(numbered(9))}, "mismatch", id="file too short"),
        pytest.param(MODIFY, {"a": regular(BASE.replace(b"\n", b"\r\n"))}, "mismatch", id="CR LF (H10)"),
        pytest.param(MODIFY, {"a": regular(BASE + b"\0")}, "binary", id="NUL elsewhere in the file"),
        pytest.param(DELETE, {"a": regular(BASE + b"more\n")}, "remainder", id="deleted file has more"),
        pytest.param(DELETE_EMPTY, {"a": regular(b"x")}, "remainder", id="deleted file is not empty"),
        pytest.param(AT_END, {"a": regular(BASE + b"other\n")}, "hunk_context", id="end is no end"),
        pytest.param(NO_NEWLINE, {"a": regular(BASE + b"other\n")}, "no_newline", id="line without newline inside"),
        pytest.param(AT_END, {"a": regular(BASE[:-1])}, "mismatch", id="newline missing at the end"),
        pytest.param(HEADER + b"@@ -1 +1 @@\n-x\n+x\n", {"a": regular(b"x\n")}, "no_change", id="nothing changes"),
        pytest.param(
            HEADER + b"@@ -0,0 +1 @@\n+x\n", {"a": regular(b"y\n")}, "hunk_context", id="insertion without context"
        ),
        pytest.param(
            HEADER + b"@@ -1,7 +1,6 @@\n 1\n 2\n 3\n 4\n-5\n 6\n 7\n",
            {"a": regular(b"1\n2\n3\n4\n5\n6\n7\n8\n")},
            "hunk_context",
            id="less context after than before",
        ),
    ],
)
def test_a_wrong_pre_image_is_refused_and_nothing_changes(diff: bytes, pre: Tree, rule: str) -> None:
    error = refusal(diff, pre)
    assert error.code == f"provenance.apply.{rule}"
    assert error.details["path"] in ("a", "b")


def test_copies_unfold_to_so_many_bytes_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    pre: Tree = {"a": regular(BASE), "b": None}
    monkeypatch.setattr("provenance.diff_apply.COPIED_BYTES_MAX", len(BASE))
    assert apply_diff(parse_diff_untrusted(COPY), pre) == {"b": regular(BASE)}
    monkeypatch.setattr("provenance.diff_apply.COPIED_BYTES_MAX", len(BASE) - 1)
    assert refusal(COPY, pre).code == "provenance.apply.size"


def test_a_refusal_tells_the_line_of_the_file() -> None:
    error = refusal(MODIFY, {"a": regular(BASE.replace(b"line 12\n", b"LINE 12\n"))})
    assert error.details == {"path": "a", "line": 12}
    assert "line 12" in error.message
    assert "LINE 12" in error.message


def test_a_second_file_that_does_not_fit_leaves_no_trace_of_the_first() -> None:
    change = CHANGES["several files"]
    diff = make_diff(change.pre, change.post)
    assert refusal(diff, {**change.pre, "b/c": regular(b"other\n"), "n": None}).code == "provenance.apply.mismatch"


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [b"\n"]),
        (b"a", [b"a"]),
        (b"a\n\nb", [b"a\n", b"\n", b"b"]),
        (b"a\rb\x0b\x0c\x1c\x85c\r\n", [b"a\rb\x0b\x0c\x1c\x85c\r\n"]),
    ],
)
def test_only_a_line_feed_ends_a_line(content: bytes, lines: list[bytes]) -> None:
    assert split_lines(content) == lines
