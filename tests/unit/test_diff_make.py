"""Made diffs: git's form, the same bytes for the same states, and refusals for what has no text form."""

from __future__ import annotations

import pytest

from provenance.diff import FileState
from provenance.diff_make import make_diff
from provenance.diff_match import Edit, find_edits, find_lines
from provenance.errors import DiffRefusedError, MakeRefusedError
from tests.testkit.diffs import BASE, Tree, executable, insert, numbered, regular


def test_a_made_diff_is_byte_for_byte_what_git_prints() -> None:
    before = b"int f(void)\n{\n" + numbered(9)
    after = insert(before, 8, b"new\n")
    text = make_diff({"src/a.c": regular(before)}, {"src/a.c": regular(after)})
    assert text == (
        b"diff --git a/src/a.c b/src/a.c\n"
        b"index 3c4d25e828cc60ed3ab724003caede217b9c4772..68e6b5f71318ea481c7ec39f7e6146ebd72d00f3 100644\n"
        b"--- a/src/a.c\n+++ b/src/a.c\n@@ -6,6 +6,7 @@ line 3\n line 4\n line 5\n line 6\n+new\n line 7\n line 8\n line 9\n"
    )


def test_sections_stand_in_the_order_of_their_paths() -> None:
    text = make_diff({}, {name: regular(b"x\n") for name in ("z", "B", "é", "b", "a/b")})
    assert [line.split(b" b/")[1] for line in text.splitlines() if line.startswith(b"diff")] == [
        b"B",
        b"a/b",
        b"b",
        b"z",
        "é".encode(),
    ]


def test_a_rename_is_shown_only_where_it_is_said() -> None:
    pre: Tree = {"a": regular(BASE)}
    post: Tree = {"a": None, "b": regular(BASE)}
    assert b"rename from a\nrename to b\n" in make_diff(pre, post, {"b": "a"})
    assert b"rename" not in make_diff(pre, post)


def test_the_similarity_is_the_share_of_bytes_that_stay() -> None:
    text = make_diff({"a": regular(b"1234\n" * 10)}, {"a": None, "b": regular(b"1234\n" * 9 + b"4321\n")}, {"b": "a"})
    assert b"similarity index 90%\n" in text
    text = make_diff({"a": regular(b"x\n" * 5000)}, {"a": None, "b": regular(b"x\n" * 5000 + b"y\n")}, {"b": "a"})
    assert b"similarity index 99%\n" in text


def test_a_heading_is_cut_and_never_hides_text() -> None:
    def heading(line: bytes) -> bytes:
        content = line + b"\n" + numbered(12)
        text = make_diff({"a": regular(content)}, {"a": regular(insert(content, 10, b"new\n"))})
        return next(part for part in text.splitlines() if part.startswith(b"@@ ")).partition(b" @@")[2]

    # "line 7" above the hunk begins with a letter as well and is nearer.
    assert heading(b"void f()") == b" line 6"
    content = b"long_name" * 20 + b"  \n" + b" x\n" * 12
    text = make_diff({"a": regular(content)}, {"a": regular(content.replace(b" x\n" * 12, b" x\n" * 11 + b" y\n"))})
    assert b" @@ " + (b"long_name" * 20)[:80] + b"\n" in text
    content = b"name\rother\n" + b" x\n" * 12
    text = make_diff({"a": regular(content)}, {"a": regular(content[:-3] + b" y\n")})
    assert b" @@\n" in text


@pytest.mark.parametrize(
    ("pre", "post", "renames", "rule"),
    [
        ({"a": regular(BASE)}, {"a": regular(BASE)}, {}, "no_change"),
        ({}, {}, {}, "no_change"),
        ({"a": None}, {}, {}, "no_change"),
        ({"a": regular(b"a\0")}, {"a": regular(b"b")}, {}, "binary"),
        ({"a": regular(b"a")}, {"a": regular(b"b\0")}, {}, "binary"),
        ({}, {"a": FileState(0o100600, b"x\n")}, {}, "mode"),
        ({"a": FileState(0o120000, b"x")}, {"a": None}, {}, "mode"),
        ({"a": regular(b"x")}, {"a": regular(b"x"), "b": regular(b"x")}, {"b": "a"}, "rename"),
        ({"a": regular(b"x"), "b": regular(b"")}, {"a": None, "b": regular(b"x")}, {"b": "a"}, "rename"),
        ({"a": None}, {"b": regular(b"x")}, {"b": "a"}, "rename"),
        ({"a": regular(b"x")}, {"a": None}, {"b": "a"}, "rename"),
        ({"a": regular(b"x")}, {"b": regular(b"x"), "c": regular(b"x")}, {"b": "a", "c": "a"}, "rename"),
    ],
)
def test_states_without_a_text_form_are_refused(pre: Tree, post: Tree, renames: dict[str, str], rule: str) -> None:
    with pytest.raises(MakeRefusedError) as caught:
        make_diff(pre, post, renames)
    assert caught.value.code == f"provenance.make.{rule}"


@pytest.mark.parametrize(
    ("pre", "post", "copies"),
    [
        pytest.param({}, {"b": regular(b"x")}, {"b": "a"}, id="source is not there"),
        pytest.param({"a": regular(b"x")}, {"a": regular(b"x")}, {"b": "a"}, id="nothing comes"),
        pytest.param(
            {"a": regular(b"x"), "b": regular(b"y")},
            {"a": regular(b"x"), "b": regular(b"x")},
            {"b": "a"},
            id="not free",
        ),
        pytest.param({"a": regular(b"x")}, {"b": regular(b"x")}, {"b": "a"}, id="source goes before it is copied"),
    ],
)
def test_what_is_no_copy_is_not_shown_as_one(pre: Tree, post: Tree, copies: dict[str, str]) -> None:
    with pytest.raises(MakeRefusedError) as caught:
        make_diff(pre, post, copies=copies)
    assert caught.value.code == "provenance.make.copy"


def test_a_copy_is_shown_only_where_it_is_said() -> None:
    pre: Tree = {"a": regular(BASE)}
    post: Tree = {"a": regular(BASE), "b": regular(BASE)}
    text = make_diff(pre, post, copies={"b": "a"})
    assert text == b"diff --git a/a b/b\nsimilarity index 100%\ncopy from a\ncopy to b\n"
    assert b"copy" not in make_diff(pre, post)


@pytest.mark.parametrize(
    ("post", "code"),
    [
        ({"../a": regular(b"x\n")}, "path_component"),
        ({".git/config": regular(b"x\n")}, "path_control"),
        ({"sp ace": regular(b"")}, "name_space"),
        ({"a": regular(b"x\n"), "a/b": regular(b"x\n")}, "path_nesting"),
        ({"a": regular(b"x" * (1024 * 1024))}, "size"),
    ],
)
def test_a_change_that_the_reader_refuses_is_not_made(post: Tree, code: str) -> None:
    with pytest.raises(DiffRefusedError) as caught:
        make_diff({}, post)
    assert caught.value.code == f"provenance.diff.{code}"


def test_binary_content_that_stays_is_no_obstacle() -> None:
    assert b"new mode 100755" in make_diff({"a": regular(b"\0")}, {"a": executable(b"\0")})
    assert b"rename to b" in make_diff({"a": regular(b"\0")}, {"a": None, "b": regular(b"\0")}, {"b": "a"})


def test_edits_are_shortest_where_that_is_cheap() -> None:
    old = [b"a\n", b"b\n", b"c\n", b"a\n", b"b\n", b"b\n", b"a\n"]
    new = [b"c\n", b"b\n", b"a\n", b"b\n", b"a\n", b"c\n"]
    edits = find_edits(old, new)
    # Myers' own example: five edits.
    assert sum(edit.old_end - edit.old_begin + edit.new_end - edit.new_begin for edit in edits) == 5


def test_an_insertion_stands_at_its_last_place() -> None:
    assert find_edits([b"}\n", b"x\n"], [b"}\n", b"}\n", b"x\n"]) == [Edit(1, 1, 1, 2)]
    assert find_edits([b"a\n", b"a\n", b"a\n"], [b"a\n"]) == [Edit(1, 3, 1, 1)]


def test_edits_that_slide_together_become_one() -> None:
    old, new = [b"x\n"], [b"x\n", b"x\n", b"y\n", b"x\n"]
    edits = find_edits(old, new)
    assert len(edits) == 1


def test_beyond_the_cap_unique_lines_are_the_anchors() -> None:
    old = [b"p\n", b"anchor\n", b"q\n", b"q\n"]
    new = [b"r\n", b"anchor\n", b"s\n", b"t\n"]
    assert find_edits(old, new, distance_max=0) == [Edit(0, 1, 0, 1), Edit(2, 4, 2, 4)]
    assert find_edits([b"q\n", b"q\n"], [b"r\n", b"q\n", b"s\n"], distance_max=0) == [Edit(0, 2, 0, 3)]


def test_large_files_that_share_nothing_take_no_time_to_speak_of() -> None:
    old = [b"%d\n" % (number % 7) for number in range(50_000)]
    new = [b"%d\n" % (number % 11) for number in range(50_000)]
    edits = find_edits(old, new)
    assert edits[0].old_begin == edits[0].new_begin


def test_all_places_of_a_pattern_are_found() -> None:
    lines = [b"a", b"a", b"b", b"a", b"a", b"a", b"b"]
    assert find_lines(lines, [b"a", b"a"], 0) == [0, 3, 4]
    assert find_lines(lines, [b"a", b"a"], 1) == [3, 4]
    assert find_lines(lines, [b"a", b"a", b"b"], 0) == [0, 4]
    assert find_lines(lines, [b"c"], 0) == []
    assert find_lines([], [b"c"], 0) == []
