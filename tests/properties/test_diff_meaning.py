"""A single meaning: whatever our reader accepts, git apply, git am, GNU patch and busybox make the same tree of it as we do.

Over a committed corpus, over diffs of trees that hypothesis draws, and over texts that it edits; for texts, the tree is made from the diff.
`make fuzz FUZZ="--target diff-tools"` does the last for as long as you like.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st

from provenance.diff import parse_diff_untrusted
from tests.testkit.appliers import INSTALLED, Tool
from tests.testkit.differential import KEEP, ONE_OF_EACH, Comparison, NoTreeError, compare
from tests.testkit.diffs import CHANGES, Change, changes, numbered, regular
from wire.errors import RejectedError

pytestmark = pytest.mark.slow

ACCEPTED = Path(__file__).parent.parent / "vectors" / "patches" / "accepted"
CORPUS = json.loads((ACCEPTED / "index.json").read_text())
TEXTS = [
    *(change.make() for change in CHANGES.values()),
    *((ACCEPTED / f"{name}.diff").read_bytes() for name in CORPUS),
]


def check(comparison: Comparison | None) -> None:
    assert comparison is not None
    told = {
        tool.name: (outcome.accepted, outcome.output[:500], outcome.tree)
        for tool, outcome in comparison.disagreements.items()
    }
    assert not told, f"we leave {comparison.post} of {comparison.pre}"


def test_every_tool_is_here_to_compare_with() -> None:
    assert set(INSTALLED) == set(Tool), "git, patch and busybox are what `make setup` installs"


@pytest.mark.parametrize("name", CORPUS)
def test_the_corpus_means_the_same_to_every_tool(name: str) -> None:
    check(compare((ACCEPTED / f"{name}.diff").read_bytes()))


def test_the_corpus_is_what_its_index_says() -> None:
    assert sorted(CORPUS) == sorted(path.stem for path in ACCEPTED.glob("*.diff"))
    assert all(CORPUS.values())


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(changes())
@example(Change({}, {"a": regular(b"\xff\r")}))
def test_the_difference_of_any_two_trees_means_the_same_to_every_tool(change: Change) -> None:
    try:
        text = change.make()
    except RejectedError:
        assume(False)
    pre = {path: state for path, state in change.pre.items() if state is not None}
    keep = {f"{path.rpartition('/')[0]}/{KEEP}".lstrip("/"): regular(b"") for path in pre}
    check(compare(text, pre | keep))


WORDS = (
    b"", b" ", b"\t", b"/", b"b/", b"-1,3", b"+1", b",0", b"\n", b"\\ No newline at end of file\n", b"\r\n", b"\0", b"old mode 100644\n",
    b"new mode 100755\n", b"index 1234..abcd 100644\n", b"similarity index 50%\n", b"-x\n+y\n", b"+\n", b"-- \n", b" x\n",
    b"@@ -30,6 +31,7 @@ x\n a\n b\n c\n+d\n e\n f\n g\n", b"\xff", b"\xe2\x80\xa8",
)  # fmt: skip


@st.composite
def edited_texts(draw: st.DrawFn) -> bytes:
    """Draw a diff that we accept, one to three edits away from one of the corpus; half of the edits are of whole lines."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 3))):
        before = text
        if draw(st.booleans()):
            lines = text.splitlines(keepends=True)
            begin = draw(st.integers(0, len(lines)))
            lines[begin : begin + draw(st.integers(0, 2))] = draw(
                st.sampled_from([[], lines[begin : begin + 1] * 2]) | st.sampled_from(WORDS).map(lambda word: [word])
            )
            text = b"".join(lines)
        else:
            begin = draw(st.integers(0, len(text)))
            text = text[:begin] + draw(st.sampled_from(WORDS)) + text[begin + draw(st.integers(0, 3)) :]
        try:
            parse_diff_untrusted(text)
        except RejectedError:
            text = before
    return text


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(edited_texts())
def test_an_edited_diff_that_we_accept_means_the_same_to_every_tool(text: bytes) -> None:
    try:
        comparison = compare(text, tools=ONE_OF_EACH)
    except NoTreeError:
        event("no tree")
        return
    event("compared" if comparison else "does not apply to the tree made for it")
    if comparison:
        check(comparison)


def test_without_the_rule_about_context_the_tools_would_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: git puts such a line at the end of the file."""
    text = b"diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -4,0 +5 @@\n+new\n"
    assert compare(text) is None
    monkeypatch.setattr("provenance.diff_hunks.CONTEXT_LINES", 0)
    monkeypatch.setattr("provenance.diff_apply.CONTEXT_LINES", 0)
    comparison = compare(text, {"a": regular(numbered(20))})
    assert comparison is not None
    assert set(comparison.disagreements) >= {Tool.GIT_APPLY, Tool.GIT_APPLY_INDEX, Tool.GIT_AM}
