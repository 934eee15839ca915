"""What holds for every pair of states and for every text: round trips, exactness, and refusals as the only failure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from provenance.diff import FileState, parse_diff_untrusted, print_diff
from provenance.diff_apply import apply_diff, split_lines
from provenance.diff_lint import lint_diff
from provenance.diff_make import make_diff
from provenance.diff_match import EDIT_DISTANCE_MAX, find_edits, find_lines
from provenance.diff_reverse import undo_diff
from provenance.errors import ApplyRefusedError
from provenance.imports import read_foreign_patch_untrusted, rebase
from tests.testkit.diffs import CHANGES, Change, changes, contents, edited, regular
from wire.errors import RejectedError

T = TypeVar("T")

HOSTILE = [
    path.read_bytes()
    for path in sorted((Path(__file__).parent.parent / "vectors" / "patches" / "hostile").glob("*.diff"))
]
STRAY_LINES = [b"@@ -1 +1 @@", b"--- a/a", b"+++ b/a", b"\\ No newline at end of file", b"+", b"-x", b" "]
TEXTS = [change.make() for change in CHANGES.values()]


def attempt(function: Callable[..., T], *arguments: object) -> T | str:
    """Return what the function answers, or the code of its refusal; any other exception is a finding."""
    try:
        return function(*arguments)
    except RejectedError as error:
        return error.code


def make(change: Change) -> bytes:
    text = attempt(change.make)
    assume(text != "provenance.diff.name_space")
    assert isinstance(text, bytes)
    return text


@given(changes())
def test_a_made_diff_is_read_printed_and_applied_exactly(change: Change) -> None:
    text = make(change)
    diff = parse_diff_untrusted(text)
    assert print_diff(diff) == text
    assert apply_diff(diff, {path: change.pre.get(path) for path in diff.reads}) == {
        path: change.post.get(path) for path in diff.paths
    }
    turned = dict(reversed(change.pre.items())), dict(reversed(change.post.items()))
    assert make_diff(*turned, copies=change.copies) == text
    assert (diff.lines_added, diff.lines_removed) == tuple(
        sum(line.startswith(mark) for file in diff.files for hunk in file.hunks for line in hunk.lines)
        for mark in (b"+", b"-")
    )


@given(changes())
def test_a_made_diff_does_not_apply_to_any_other_state(change: Change) -> None:
    diff = parse_diff_untrusted(make(change))
    with pytest.raises(ApplyRefusedError):
        apply_diff(diff, {path: change.post.get(path) for path in diff.reads})


@given(changes())
def test_undoing_a_diff_gives_what_was_before_and_refuses_anything_else(change: Change) -> None:
    diff = parse_diff_untrusted(make(change))
    before = {path: change.pre.get(path) for path in diff.paths}
    assert undo_diff(diff, {path: change.post.get(path) for path in diff.paths}) == before
    with pytest.raises(ApplyRefusedError):
        undo_diff(diff, before)


@given(changes())
def test_a_made_diff_is_imported_as_what_it_is(change: Change) -> None:
    text = make(change)
    result = rebase(read_foreign_patch_untrusted(text), change.pre.get, strip=1)
    assert make_diff(result.pre, result.post, result.renames, copies=result.copies) == text
    assert result.moves == ()


@given(contents(), st.data(), st.sampled_from([0, 2, 5, EDIT_DISTANCE_MAX]))
def test_edits_turn_the_old_lines_into_the_new(old: bytes, data: st.DataObject, distance_max: int) -> None:
    before, after = split_lines(old), split_lines(data.draw(edited(old)))
    result: list[bytes] = []
    at = 0
    for edit in find_edits(before, after, distance_max=distance_max):
        assert edit.old_begin > at or not result
        result += before[at : edit.old_begin]
        assert len(result) == edit.new_begin
        result += after[edit.new_begin : edit.new_end]
        at = edit.old_end
    assert result + before[at:] == after


@given(
    st.lists(st.sampled_from([b"a", b"b"])),
    st.lists(st.sampled_from([b"a", b"b"]), min_size=1, max_size=4),
    st.integers(0, 5),
)
def test_a_pattern_is_found_where_a_naive_search_finds_it(lines: list[bytes], pattern: list[bytes], begin: int) -> None:
    naive = [at for at in range(begin, len(lines)) if lines[at : at + len(pattern)] == pattern]
    assert find_lines(lines, pattern, begin) == naive


@given(contents())
def test_lines_are_the_content(content: bytes) -> None:
    lines = split_lines(content)
    assert b"".join(lines) == content
    assert all(line.endswith(b"\n") for line in lines[:-1])
    assert all(line.count(b"\n") == line.endswith(b"\n") and line for line in lines)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a good or hostile text with a few lines or bytes changed."""
    text = draw(st.sampled_from(TEXTS + HOSTILE))
    lines = text.split(b"\n")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.integers(0, 4)):
            case 0:
                del lines[at]
                lines = lines or [b""]
            case 1:
                lines.insert(at, draw(st.sampled_from(text.split(b"\n"))))
            case 2:
                lines[at] = lines[at].swapcase()
            case 3:
                cut = draw(st.integers(0, len(lines[at])))
                lines[at] = lines[at][:cut] + draw(st.binary(max_size=3)) + lines[at][cut + draw(st.integers(0, 2)) :]
            case _:
                lines[at] = draw(st.sampled_from(STRAY_LINES))
    return b"\n".join(lines)


@given(st.one_of(damaged(), st.binary(), st.binary().map(lambda data: b"diff --git a/a b/a\n" + data)))
@example(b"\n")
def test_whatever_the_bytes_the_strict_reader_answers_or_refuses(data: bytes) -> None:
    diff = attempt(parse_diff_untrusted, data)
    if isinstance(diff, str):
        assert diff.startswith("provenance.diff.")
        return
    assert print_diff(diff) == data == diff.raw
    assert len(set(diff.paths)) == sum(len(change.paths) for change in diff.files)
    pre = {path: regular(b"line 1\nline 2\n") for path in diff.reads}
    lint_diff(diff, pre)
    post = attempt(apply_diff, diff, pre)
    if isinstance(post, str):
        assert post.startswith("provenance.apply.")
        return
    assert list(post) == list(diff.paths)


@given(st.one_of(damaged(), st.binary(), st.binary().map(lambda data: b"--- a/a\n+++ b/a\n@@ -1 +1 @@\n" + data)))
def test_whatever_the_bytes_the_import_answers_or_refuses(data: bytes) -> None:
    base: dict[str, FileState] = {name: regular(b"line 1\nline 2\n") for name in ("a", "b", "b c")}
    foreign = attempt(read_foreign_patch_untrusted, data)
    if isinstance(foreign, str):
        assert foreign.startswith("provenance.import.")
        return
    assert foreign.metadata.title.isprintable()
    result = attempt(rebase, foreign, base.get)
    text = (
        result
        if isinstance(result, str)
        else attempt(make_diff, result.pre, result.post, result.renames, frozenset(), result.copies)
    )
    if isinstance(result, str) or isinstance(text, str):
        assert str(text).split(".")[1] in ("import", "diff", "make")
        return
    diff = parse_diff_untrusted(text)
    assert apply_diff(diff, {path: base.get(path) for path in diff.reads}) == {
        path: result.post[path] for path in diff.paths
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["modify", "several files", "rename, mode and content", "no newline at the end as context"]
)
def test_no_single_changed_byte_goes_unseen(name: str) -> None:
    """Each byte of a diff that is changed leads to a refusal or to a diff that says so; never to the same files from another text."""
    change = CHANGES[name]
    text = change.make()
    original = parse_diff_untrusted(text).files
    for at in range(len(text)):
        for bit in (1, 32, 128):
            other = text[:at] + bytes([text[at] ^ bit]) + text[at + 1 :]
            diff = attempt(parse_diff_untrusted, other)
            assert isinstance(diff, str) or diff.files != original
