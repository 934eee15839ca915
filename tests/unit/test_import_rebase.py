"""Placing foreign hunks in a base: moved ones are found, fuzzy and ambiguous ones are refused with their line."""

from __future__ import annotations

import pytest

from provenance import import_rebase
from provenance.diff_make import make_diff
from provenance.diff_model import FileState
from provenance.errors import DiffRefusedError, ImportRefusedError
from provenance.imports import Move, Rebased, read_foreign_patch_untrusted, rebase
from tests.testkit.diffs import BASE, Tree, executable, insert, numbered, regular


def bring(patch: bytes, base: Tree, strip: int | None = None) -> Rebased:
    return rebase(read_foreign_patch_untrusted(patch), base.get, strip=strip)


def refusal(patch: bytes, base: Tree, strip: int | None = None) -> ImportRefusedError:
    with pytest.raises(ImportRefusedError) as caught:
        bring(patch, base, strip)
    return caught.value


MODIFY = make_diff({"d/a": regular(BASE)}, {"d/a": regular(insert(BASE, 10, b"new\n"))})
CHANGED = insert(BASE, 10, b"new\n")
PLAIN = MODIFY[MODIFY.index(b"--- ") :]


def test_a_patch_that_fits_is_applied() -> None:
    result = bring(MODIFY, {"d/a": regular(BASE)})
    assert (result.pre, result.post) == ({"d/a": regular(BASE)}, {"d/a": regular(CHANGED)})
    assert (result.strip, result.moves, result.renames) == (1, (), {})
    assert make_diff(result.pre, result.post) == MODIFY


@pytest.mark.parametrize("above", [1, 3, 500])
def test_a_hunk_that_has_moved_is_found_and_told(above: int) -> None:
    extra = numbered(above, "above")
    result = bring(MODIFY, {"d/a": regular(extra + BASE)})
    assert result.post == {"d/a": regular(extra + CHANGED)}
    assert result.moves == (Move("d/a", 5, above),)


def test_a_hunk_can_have_moved_up() -> None:
    assert bring(MODIFY, {"d/a": regular(BASE.partition(b"line 5\n")[2])}).moves == (Move("d/a", 5, -5),)


def test_later_hunks_are_expected_where_earlier_ones_have_moved_to() -> None:
    same = b"same\n" * 10
    content = numbered(30) + same * 2
    after = content.replace(b"line 9\n", b"").replace(same * 2, same + b"new\n" + same)
    patch = make_diff({"a": regular(content)}, {"a": regular(after)})
    result = bring(patch, {"a": regular(b"above\n" * 4 + content)})
    assert [move.offset for move in result.moves] == [4, 4]


@pytest.mark.parametrize(
    ("names", "strip"),
    [
        ((b"a/d/a", b"b/d/a"), 1),
        ((b"d/a", b"d/a"), 0),
        ((b"./d/a", b"./d/a"), 0),
        ((b"pkg-1.orig/d/a", b"pkg-1/d/a"), 1),
        ((b"x/d//a", b"y/d/a"), 1),
    ],
)
def test_the_strip_level_is_proven_by_the_base(names: tuple[bytes, bytes], strip: int) -> None:
    patch = PLAIN.replace(b"a/d/a", names[0]).replace(b"b/d/a", names[1])
    result = bring(patch, {"d/a": regular(BASE)})
    assert (result.strip, result.post) == (strip, {"d/a": regular(CHANGED)})
    assert bring(patch, {"d/a": regular(BASE)}, strip).post == result.post


def test_a_strip_level_that_is_not_proven_is_refused() -> None:
    patch = PLAIN.replace(b"a/d/a", b"d/a").replace(b"b/d/a", b"d/a")
    base = {"d/a": regular(BASE), "a": regular(BASE)}
    error = refusal(patch, base)
    assert error.code == "provenance.import.strip_ambiguous"
    assert list(bring(patch, base, 0).post) == ["d/a"]
    assert list(bring(patch, base, 1).post) == ["a"]


def test_prefixes_decide_where_both_levels_fit() -> None:
    assert list(bring(MODIFY, {"d/a": regular(BASE), "b/d/a": regular(BASE), "a/d/a": regular(BASE)}).post) == ["d/a"]


def test_the_old_name_counts_where_only_it_is_in_the_base() -> None:
    assert list(bring(PLAIN.replace(b"b/d/a", b"b/d/a.new"), {"d/a": regular(BASE)}).post) == ["d/a"]


NEW_FILE = b"--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+x\n"
GONE_FILE = b"--- a/n\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"


def test_files_come_and_go() -> None:
    assert bring(NEW_FILE, {}).post == {"n": regular(b"x\n")}
    assert bring(GONE_FILE, {"n": executable(b"x\n")}).post == {"n": None}
    assert bring(NEW_FILE.replace(b"/dev/null", b"a/n"), {}).post == {"n": regular(b"x\n")}
    assert bring(b"diff --git a/n b/n\nnew file mode 100755\nindex 0000000..e69de29\n", {}).post == {
        "n": executable(b"")
    }
    assert bring(
        b"diff --git a/n b/n\ndeleted file mode 100755\nindex e69de29..0000000\n", {"n": regular(b"")}
    ).post == {"n": None}


def test_modes_renames_and_copies_are_followed() -> None:
    rename = (
        b"diff --git a/x b/y\nold mode 100644\nnew mode 100755\nsimilarity index 100%\nrename from x\nrename to y\n"
    )
    result = bring(rename, {"x": regular(BASE)})
    assert (result.post, result.renames) == ({"x": None, "y": executable(BASE)}, {"y": "x"})
    copy = b"diff --git a/x b/y\nsimilarity index 100%\ncopy from x\ncopy to y\n"
    result = bring(copy, {"x": regular(BASE)})
    assert (result.post, result.renames, result.copies) == (
        {"x": regular(BASE), "y": regular(BASE)},
        {},
        {"y": "x"},
    )


def test_a_copy_is_of_the_file_before_the_patch_and_an_addition_where_tools_would_differ() -> None:
    copy = b"diff --git a/x b/%s\nsimilarity index 100%%\ncopy from x\ncopy to %s\n"
    changed = make_diff({"x": regular(BASE)}, {"x": regular(insert(BASE, 10, b"new\n"))})
    result = bring(changed + copy % (b"y", b"y"), {"x": regular(BASE)})
    assert (result.post["y"], result.copies) == (regular(BASE), {"y": "x"})
    gone = make_diff({"x": regular(BASE)}, {"x": None})
    result = bring(copy % (b"w", b"w") + gone, {"x": regular(BASE)})
    assert (result.post, result.copies) == ({"w": regular(BASE), "x": None}, {"w": "x"})
    result = bring(gone + copy % (b"y", b"y"), {"x": regular(BASE)})
    assert (result.post, result.copies) == ({"x": None, "y": regular(BASE)}, {})
    assert [note.text for note in result.notes] == ["a copy becomes an addition: 'y'"]
    result = bring(copy % (b"y z", b"y z"), {"x": regular(BASE)})
    assert (result.post, result.copies) == ({"y z": regular(BASE)}, {})
    link = bring(copy % (b"y", b"y"), {"x": FileState(0o120000, b"x")})
    assert (link.post, link.copies) == ({"y": FileState(0o120000, b"x")}, {})
    renamed = b"diff --git a/x b/v\nsimilarity index 100%\nrename from x\nrename to v\n"
    result = bring(copy % (b"u", b"u") + copy % (b"w", b"w") + renamed, {"x": regular(BASE)})
    assert (result.renames, result.copies) == ({"v": "x"}, {"u": "x"})
    assert make_diff(result.pre, result.post, result.renames, copies=result.copies)


def test_a_pure_rename_with_a_space_is_shown_as_two_changes() -> None:
    rename = b"diff --git a/x b/y z\nsimilarity index 100%\nrename from x\nrename to y z\n"
    result = bring(rename, {"x": regular(BASE)})
    assert (result.post, result.renames) == ({"x": None, "y z": regular(BASE)}, {})
    assert make_diff(result.pre, result.post, result.renames)


def test_a_renamed_file_that_comes_again_is_no_rename() -> None:
    patch = (
        b"diff --git a/n b/y\nsimilarity index 100%\nrename from n\nrename to y\ndiff --git a/n b/n\nnew file mode 100644\n"
        + NEW_FILE
    )
    result = bring(patch, {"n": regular(BASE)})
    assert (result.post, result.renames) == ({"n": regular(b"x\n"), "y": regular(BASE)}, {})


def test_two_sections_for_one_file_follow_each_other() -> None:
    second = make_diff({"d/a": regular(CHANGED)}, {"d/a": regular(insert(CHANGED, 3, b"second\n"))})
    assert bring(MODIFY + second, {"d/a": regular(BASE)}).post == {"d/a": regular(insert(CHANGED, 3, b"second\n"))}
    back = make_diff({"d/a": regular(CHANGED)}, {"d/a": regular(BASE)})
    assert bring(MODIFY + back, {"d/a": regular(BASE)}).post == {}


def test_carriage_returns_of_a_conversion_are_taken_off_and_real_ones_kept() -> None:
    assert bring(PLAIN.replace(b"\n", b"\r\n"), {"d/a": regular(BASE)}).post == {"d/a": regular(CHANGED)}
    base = {"d/a": regular(BASE.replace(b"\n", b"\r\n"))}
    assert bring(PLAIN.replace(b"\n", b"\r\n"), base).post == {"d/a": regular(CHANGED.replace(b"\n", b"\r\n"))}
    headers, hunks = PLAIN[: PLAIN.index(b"@@")], PLAIN[PLAIN.index(b"@@") :]
    assert bring(headers + hunks.replace(b"\n", b"\r\n"), base).post == {
        "d/a": regular(CHANGED.replace(b"\n", b"\r\n"))
    }


def test_content_that_is_no_utf8_is_kept() -> None:
    base = BASE.replace(b"line 9", b"\xff\xfe")
    patch = MODIFY.replace(b"line 9", b"\xff\xfe")
    assert bring(patch, {"d/a": regular(base)}).post == {"d/a": regular(insert(base, 10, b"new\n"))}


def test_a_hunk_at_the_end_is_found_at_the_end() -> None:
    patch = make_diff({"a": regular(BASE)}, {"a": regular(BASE + b"more\n")})
    assert bring(patch, {"a": regular(b"above\n" + BASE)}).post == {"a": regular(b"above\n" + BASE + b"more\n")}
    assert refusal(patch, {"a": regular(BASE + b"below\n")}).code == "provenance.import.mismatch"


def test_a_hunk_at_the_beginning_is_found_at_the_beginning() -> None:
    patch = make_diff({"a": regular(BASE)}, {"a": regular(b"first\n" + BASE)})
    assert bring(patch, {"a": regular(BASE + b"below\n")}).post == {"a": regular(b"first\n" + BASE + b"below\n")}
    assert refusal(patch, {"a": regular(b"above\n" + BASE)}).code == "provenance.import.mismatch"


REPEATED = b"".join(b"same\n" * 7 + b"%d\n" % number for number in range(3))


RENAME = b"diff --git a/x b/y\nrename from x\nrename to y\n"
NO_CONTEXT = b"--- a/n\n+++ b/n\n@@ -3,0 +4 @@\n+x\n"
SAME = b"--- a/n\n+++ b/n\n@@ -40,2 +40,3 @@\n same\n+new\n same\n"
GLUE = b"--- a/n\n+++ b/n\n@@ -1 +1 @@\n-x\n+y\n\\ No newline at end of file\n"
EMPTY_GONE = b"diff --git a/n b/n\ndeleted file mode 100644\n"


@pytest.mark.parametrize(
    ("patch", "base", "rule", "line"),
    [
        pytest.param(MODIFY, {}, "absent", 1, id="file is not there"),
        pytest.param(GONE_FILE, {}, "absent", 1, id="deleted file is not there"),
        pytest.param(NEW_FILE, {"n": regular(b"")}, "exists", 1, id="new file is there"),
        pytest.param(RENAME, {}, "absent", 1, id="renamed file is not there"),
        pytest.param(
            b"diff --git a/x b/y\nrename from x\nrename to y\n",
            {"x": regular(b""), "y": regular(b"")},
            "exists",
            1,
            id="target is there",
        ),
        pytest.param(GONE_FILE, {"n": regular(b"x\nmore\n")}, "remainder", 1, id="deleted file has more"),
        pytest.param(
            b"diff --git a/n b/n\ndeleted file mode 100644\n",
            {"n": regular(b"x\n")},
            "remainder",
            1,
            id="deleted file is not empty",
        ),
        pytest.param(MODIFY, {"d/a": regular(BASE.replace(b"line 9\n", b"other\n"))}, "mismatch", 5, id="fuzz"),
        pytest.param(MODIFY, {"d/a": regular(CHANGED)}, "already_applied", 5, id="applied before"),
        pytest.param(
            PLAIN.replace(b"b/d/a", b"b/d/b"),
            {"d/a": regular(BASE), "d/b": regular(BASE)},
            "name_ambiguous",
            1,
            id="two names",
        ),
        pytest.param(
            b"--- a/n\n+++ b/n\n@@ -3,0 +4 @@\n+x\n",
            {"n": regular(BASE)},
            "no_context",
            3,
            id="insertion without context",
        ),
        pytest.param(
            b"--- a/n\n+++ b/n\n@@ -40,2 +40,3 @@\n same\n+new\n same\n",
            {"n": regular(REPEATED)},
            "ambiguous",
            3,
            id="several places",
        ),
        pytest.param(
            b"--- a/n\n+++ b/n\n@@ -1 +1 @@\n-x\n+y\n\\ No newline at end of file\n",
            {"n": regular(b"x\nz\n")},
            "no_newline",
            3,
            id="newline",
        ),
        pytest.param(
            PLAIN.replace(b"a/d/a", b"/d/a").replace(b"b/d/a", b"/d/a"),
            {"d/a": regular(BASE)},
            "absent",
            1,
            id="absolute names",
        ),
    ],
)
def test_a_patch_without_one_place_is_refused_with_its_line(patch: bytes, base: Tree, rule: str, line: int) -> None:
    before = dict(base)
    error = refusal(patch, base)
    assert error.code == f"provenance.import.{rule}"
    assert error.details == {"line": line}
    assert dict(base) == before


@pytest.mark.parametrize("name", [b"b/../x", b"b/.git/config", b"b/x/../../y"])
def test_a_name_that_no_diff_may_touch_is_never_asked_for(name: bytes) -> None:
    asked: list[str] = []

    def read(path: str) -> None:
        asked.append(path)

    patch = read_foreign_patch_untrusted(b"--- /dev/null\n+++ " + name + b"\n@@ -0,0 +1 @@\n+x\n")
    with pytest.raises(DiffRefusedError) as caught:
        rebase(patch, read, strip=1)
    assert caught.value.code.startswith("provenance.diff.path_")
    assert asked == []


def test_the_refusal_that_says_more_is_given() -> None:
    # Strip 1 finds the file but not the lines; strip 0 does not even find the file.
    assert refusal(PLAIN, {"d/a": regular(b"other\n")}).code == "provenance.import.mismatch"
    plain = PLAIN.replace(b"a/d/a", b"d/a").replace(b"b/d/a", b"d/a")
    assert refusal(plain, {"d/a": regular(b"other\n")}).code == "provenance.import.mismatch"


def test_searching_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_rebase, "SEARCH_LINES_MAX", 20)
    assert refusal(MODIFY, {"d/a": regular(b"above\n" + BASE)}, 1).code == "provenance.import.search_limit"
    assert bring(MODIFY, {"d/a": regular(BASE)}, 1).post
