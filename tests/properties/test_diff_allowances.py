"""Diffs that need an allowance in the hands of every tool: binary content, links, removed directories, and all of it at once.

Compared are files, links, modes and directories. Emptied directories are removed by git's tools and GNU patch in any case, so ours is told
to do so, too. GNU patch passes over binary sections, ends with 1 and must do all the rest; busybox patch is compared where no finding says
that it differs. `make meaning EXAMPLES=5000` draws more.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from provenance.diff import MODE_LINK, FileState, parse_diff_untrusted
from provenance.diff_apply import apply_diff
from provenance.diff_binary import blob_name
from provenance.diff_lint import LintRule, lint_diff
from provenance.diff_make import make_diff
from provenance.import_series import Imported, Refused, Source, import_series
from tests.testkit.appliers import GIT_TOOLS, GNU_TOOLS, Tool, git_print, run_tool
from tests.testkit.differential import EVERYTHING, ONE_OF_EACH, Comparison, NoTreeError, base_for, compare
from tests.testkit.diffs import Change, regular, wide_changes
from wire.errors import RejectedError

pytestmark = pytest.mark.slow

ALLOWED = Path(__file__).parent.parent / "vectors" / "patches" / "allowed"
CORPUS = json.loads((ALLOWED / "index.json").read_text())
TEXTS = [(ALLOWED / f"{name}.diff").read_bytes() for name in CORPUS]
EXAMPLES = int(os.environ.get("PATCHWARDEN_EXAMPLES", "0"))
"""How many examples of each kind are drawn, if not the few of the ordinary run."""


def examples(few: int) -> settings:
    return settings(max_examples=EXAMPLES or few, suppress_health_check=[HealthCheck.too_slow])


def check(comparison: Comparison | None) -> None:
    assert comparison is not None
    told = {
        tool.name: (outcome.accepted, outcome.output[:500], outcome.tree, outcome.directories)
        for tool, outcome in comparison.disagreements.items()
    }
    assert not told, f"we leave {comparison.post} and {comparison.directories} of {comparison.pre}"


def compare_alone(text: bytes) -> Comparison | None:
    """Compare over a tree that holds nothing but what the diff reads, so that directories are emptied."""
    return compare(text, base_for(parse_diff_untrusted(text, EVERYTHING), keep=False), allowed=EVERYTHING)


@pytest.mark.parametrize("name", CORPUS)
def test_the_corpus_means_the_same_to_every_tool(name: str) -> None:
    text = (ALLOWED / f"{name}.diff").read_bytes()
    check(compare_alone(text))
    if not name.startswith("directory-"):
        with pytest.raises(RejectedError):
            parse_diff_untrusted(text)


def test_the_corpus_is_what_its_index_says() -> None:
    assert sorted(CORPUS) == sorted(path.stem for path in ALLOWED.glob("*.diff"))
    assert all(CORPUS.values())


@examples(15)
@given(wide_changes())
def test_the_difference_of_any_two_trees_means_the_same_to_every_tool(change: Change) -> None:
    try:
        text = change.make(EVERYTHING)
    except RejectedError:
        assume(False)
    pre = {path: state for path, state in change.pre.items() if state is not None}
    check(compare(text, pre, allowed=EVERYTHING))


WORDS = (
    b"", b" ", b"\n", b"\r", b"\t", b"/", b"..", b" 120000", b"new file mode 120000\n", b"deleted file mode 120000\n", b"old mode 100644\n",
    b"new mode 100755\n", b"GIT binary patch\n", b"literal 0\nHcmV?d00001\n\n", b"literal 1\nIcmZPo0RR91\n\n", b"delta 4\n",
    b"\\ No newline at end of file\n", b"@@ -1 +1 @@\n", b"--- /dev/null\n", b"-x\n+y\n", b"similarity index 50%\n",
    b"diff --git a/q b/q\n",
    b"rename from a\nrename to q\n", b"copy from a\ncopy to q\n", b"0" * 40, b"-- \n",
)  # fmt: skip


@st.composite
def edited_texts(draw: st.DrawFn) -> bytes:
    """Draw a diff that we accept, one to three edits or foreign sections away from one of the corpus."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 3))):
        before = text
        kind = draw(st.integers(0, 3))
        if kind == 0:
            text = text + draw(st.sampled_from(TEXTS))
        elif kind == 1:
            begin = draw(st.integers(0, len(text)))
            text = text[:begin] + draw(st.sampled_from(WORDS)) + text[begin + draw(st.integers(0, 3)) :]
        else:
            lines = text.splitlines(keepends=True)
            begin = draw(st.integers(0, len(lines)))
            lines[begin : begin + draw(st.integers(0, 2))] = draw(
                st.sampled_from([[], lines[begin : begin + 1] * 2]) | st.sampled_from(WORDS).map(lambda word: [word])
            )
            text = b"".join(lines)
        try:
            parse_diff_untrusted(text, EVERYTHING)
        except RejectedError:
            text = before
    return text


@examples(30)
@given(edited_texts())
def test_an_edited_diff_that_we_accept_means_the_same_to_every_tool(text: bytes) -> None:
    try:
        comparison = compare(text, tools=ONE_OF_EACH, allowed=EVERYTHING)
    except NoTreeError:
        event("no tree")
        return
    event("compared" if comparison else "does not apply to the tree made for it")
    if comparison:
        check(comparison)


@examples(10)
@given(wide_changes(), st.sampled_from([(), ("-M",), ("-M", "-C", "--find-copies-harder"), ("-D", "--no-renames")]))
def test_what_git_prints_is_imported_to_what_git_makes_of_it(change: Change, options: tuple[str, ...]) -> None:
    """Git's own text, delta and literal, renames and copies as git finds them: what the import takes, git applies to the same tree."""
    pre = {path: state for path, state in change.pre.items() if state is not None}
    foreign = git_print(pre, change.post, "--binary", "--full-index", *options)
    (imported,) = import_series([Source("x", foreign, 1)], pre.get, EVERYTHING)
    if isinstance(imported, Refused):
        event(imported.error.code)
        return
    event("imported, with a delta" if b"\ndelta " in foreign else "imported")
    assert isinstance(imported, Imported)
    tree = {path: state for path, state in {**pre, **imported.rebased.post}.items() if state is not None}
    assert tree == change.tree
    outcome = run_tool(Tool.GIT_APPLY, pre, foreign)
    assert (outcome.accepted, outcome.tree) == (True, tree), outcome.output


def test_what_git_prints_without_a_delta_is_read_as_it_is() -> None:
    """Also by the strict reader: git compresses in its own way, and that is the one thing in a diff with more than one form."""
    pre = {"a.bin": regular(b"\0old"), "d/gone": FileState(MODE_LINK, b"/etc")}
    post = {"a.bin": regular(bytes(range(256))), "d/gone": None, "l": FileState(MODE_LINK, b"a.bin")}
    text = git_print(pre, post, "--binary", "--full-index")
    assert b"\ndelta " not in text
    diff = parse_diff_untrusted(text, EVERYTHING)
    assert apply_diff(diff, {path: pre.get(path) for path in diff.reads}) == post
    check(compare(text, pre, allowed=EVERYTHING))


def test_content_named_by_sha_256_is_for_repositories_of_that_kind() -> None:
    """Elsewhere git takes the name for a short one and refuses; no tool makes something else of it."""
    pre, post = {"a.bin": regular(b"\0old")}, {"a.bin": regular(b"\0new")}
    text = make_diff(pre, post, {}, EVERYTHING)
    for state in (pre["a.bin"], post["a.bin"]):
        text = text.replace(blob_name(state.content, 40).encode(), blob_name(state.content, 64).encode())
    diff = parse_diff_untrusted(text, EVERYTHING)
    assert apply_diff(diff, pre) == post
    for tool in GIT_TOOLS:
        outcome = run_tool(tool, pre, text)
        assert (outcome.accepted, outcome.tree) == (False, pre), tool
        outcome = run_tool(tool, pre, text, object_format="sha256")
        assert (outcome.accepted, outcome.tree) == (True, post), (tool, outcome.output)


# The comparison can fail.


def test_without_the_finding_gnu_patch_would_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ALLOWED / "binary-between-text.diff").read_bytes()
    told = {finding.rule for finding in lint_diff(parse_diff_untrusted(text, EVERYTHING))}
    assert LintRule.GNU_PATCH in told
    monkeypatch.setattr("tests.testkit.differential.lint_diff", lambda diff, pre: ())
    comparison = compare_alone(text)
    assert comparison is not None
    assert set(comparison.disagreements) == {*GNU_TOOLS, Tool.BUSYBOX}


def test_a_directory_that_stays_would_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ALLOWED / "directory-removed.diff").read_bytes()
    monkeypatch.setattr("agent.stage.emptied_directories", lambda plan, inventory: ())
    comparison = compare_alone(text)
    assert comparison is not None
    assert set(comparison.disagreements) == {*GIT_TOOLS, *GNU_TOOLS}


def test_git_and_gnu_patch_disagree_about_a_link_whose_mode_no_line_says() -> None:
    """Why we refuse it: git goes by the tree's mode, GNU patch patches no link without being told so."""
    text = b"diff --git a/l b/l\n--- a/l\n+++ b/l\n@@ -1 +1 @@\n-x\n\\ No newline at end of file\n+y\n\\ No newline at end of file\n"
    pre = {"l": FileState(MODE_LINK, b"x")}
    assert compare(text, pre, allowed=EVERYTHING) is None
    outcomes = {tool: run_tool(tool, pre, text) for tool in (Tool.GIT_APPLY, Tool.PATCH)}
    assert outcomes[Tool.GIT_APPLY].tree != outcomes[Tool.PATCH].tree
