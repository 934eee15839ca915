"""What an accepted diff may still hide from a reader, or do differently in the hands of a tool that knows less.

Nothing here refuses: a finding is shown to people, and a policy may count it. The rules about what is refused stand in `diff`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from provenance.diff_apply import split_lines
from provenance.diff_match import find_lines
from provenance.diff_model import MODE_REGULAR, ChangeKind, Diff, FileChange, FileState, print_header

FINDINGS_MAX: Final = 1000
"""Findings of one diff; a diff that earns more is not read line by line anyway."""


class LintRule(StrEnum):
    """Why a line or a section deserves a second look."""

    BIDIRECTIONAL = "bidirectional"
    """An added line reorders what follows it on a screen ("Trojan source")."""
    INVISIBLE = "invisible"
    """An added line holds characters that show nothing."""
    CARRIAGE_RETURN = "carriage_return"
    """An added line returns to its own beginning, so that a terminal hides its first part."""
    CONTROL = "control"
    """An added line holds another control character, such as one that begins a terminal's escape sequence."""
    MIXED_SCRIPT = "mixed_script"
    """A word of an added line mixes Latin with Cyrillic or Greek letters, which look alike."""
    MAIL_LINE_END = "mail_line_end"
    """A line ends with CR LF: `git am` strips the CR unless it is told `--keep-cr`."""
    BUSYBOX = "busybox"
    """busybox patch leaves another result, or none."""
    GNU_PATCH = "gnu_patch"
    """GNU patch leaves the section out, with an error."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to look at."""

    rule: LintRule
    path: str
    line: int
    """1-based line of the diff: the line itself, or the section's or hunk's first one."""
    message: str


_BIDIRECTIONAL: Final = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_INVISIBLE: Final = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2028\u2029\u2060-\u2065\u206a-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")  # TAB and form feed are ordinary in sources
_LATIN: Final = re.compile("[A-Za-z]")
_WORD: Final = re.compile(r"\w+")
_LOOKALIKE: Final = re.compile("[\u0370-\u03ff\u0400-\u052f]")


HIDING: Final = frozenset(
    {
        LintRule.BIDIRECTIONAL,
        LintRule.INVISIBLE,
        LintRule.CARRIAGE_RETURN,
        LintRule.CONTROL,
        LintRule.MIXED_SCRIPT,
    }
)
"""What makes a reader see something else than a compiler; the other rules are about tools."""


def find_hidden_text(diff: Diff) -> frozenset[LintRule]:
    """Return the ways in which added lines hide something from a reader, however many lines there are.

    Source: docs/spec/diff.md 8.
    """
    found: set[LintRule] = set()
    for change in diff.files:
        for hunk in change.hunks:
            for line in hunk.lines:
                found.update(rule for rule, _ in _lint_line(line))
        if found >= HIDING:
            break
    return HIDING & found


def lint_diff(diff: Diff, pre: Mapping[str, FileState | None] | None = None) -> tuple[Finding, ...]:
    """Return the findings in the order of the diff, at most `FINDINGS_MAX`.

    Args:
        diff: A parsed diff.
        pre: The pre-images, if known; only with them is it seen where busybox patch would put a hunk elsewhere.

    Source: docs/spec/diff.md 8.
    """
    findings: list[Finding] = []
    line = 1
    for change in diff.files:
        for finding in _lint_change(change, line, pre):
            findings.append(finding)
            if len(findings) == FINDINGS_MAX:
                return tuple(findings)
        line += _count_lines(change)
    return tuple(findings)


def _count_lines(change: FileChange) -> int:
    """Return the number of text lines of a section."""
    lacking = sum(not line.endswith(b"\n") for hunk in change.hunks for line in hunk.lines)
    binary = sum(2 + part.encoded.count(b"\n") for part in change.binary or ()) + (change.binary is not None)
    return print_header(change).count(b"\n") + binary + sum(1 + len(hunk.lines) for hunk in change.hunks) + lacking


def _lint_change(change: FileChange, line: int, pre: Mapping[str, FileState | None] | None) -> Iterator[Finding]:
    for message in _lint_for_busybox(change):
        yield Finding(LintRule.BUSYBOX, change.path, line, message)
    if change.binary is not None:
        yield Finding(LintRule.GNU_PATCH, change.path, line, "GNU patch does not apply binary changes")
    state = None if pre is None else pre.get(change.reads[0])
    lines = None if state is None else split_lines(state.content)
    done = 0
    at = line + print_header(change).count(b"\n")
    for hunk in change.hunks:
        begin, end = hunk.old_begin, hunk.old_begin + hunk.old_count
        old_lines = [hunk_line[1:] for hunk_line in hunk.lines if hunk_line[:1] != b"+"]
        if lines is not None and old_lines and find_lines(lines[done:end], old_lines, 0)[:1] != [begin - done]:
            yield Finding(
                LintRule.BUSYBOX,
                change.path,
                at,
                "busybox patch takes the first place that fits, which is an earlier one",
            )
        done = end
        at += 1
        for hunk_line in hunk.lines:
            for rule, message in _lint_line(hunk_line):
                yield Finding(rule, change.path, at, message)
            at += 1 if hunk_line.endswith(b"\n") else 2


def _lint_for_busybox(change: FileChange) -> Iterator[str]:
    """Yield what busybox patch (measured: 1.35) cannot do."""
    if change.binary is not None:
        yield "busybox patch does not apply binary changes, and says nothing"
    if change.is_link:
        yield "busybox patch makes a file of a link"
    match change.kind:
        case ChangeKind.RENAME | ChangeKind.COPY:
            yield f"busybox patch does not {change.kind}"
        case ChangeKind.DELETE:
            yield "busybox patch leaves a deleted file in place, empty"
        case ChangeKind.ADD:
            if change.new_mode != MODE_REGULAR:
                yield "busybox patch adds every file as not executable"
            if not change.hunks:
                yield "busybox patch adds no empty file"
        case ChangeKind.MODIFY:
            if change.old_mode != change.new_mode:
                yield "busybox patch does not change modes"
            if change.hunks and not change.hunks[0].old_count:
                yield "busybox patch takes a change of an empty file for a new file"
    if any(not line.endswith(b"\n") for hunk in change.hunks for line in hunk.lines):
        yield "busybox patch does not know lines without newline"


def _lint_line(hunk_line: bytes) -> Iterator[tuple[LintRule, str]]:
    """Yield the findings of one hunk line."""
    if hunk_line.endswith((b"\r\n", b"\r")):  # a line without newline has one in the diff
        yield LintRule.MAIL_LINE_END, "the line ends with CR LF; git am needs --keep-cr"
    if not hunk_line.startswith(b"+"):
        return
    text = hunk_line[1:].removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "surrogateescape")
    if text.isascii() and text.isprintable():
        return
    if "\r" in text:
        yield LintRule.CARRIAGE_RETURN, "the line has a carriage return inside"
    for rule, pattern, message in (
        (LintRule.BIDIRECTIONAL, _BIDIRECTIONAL, "the line changes the direction of writing"),
        (LintRule.INVISIBLE, _INVISIBLE, "the line has an invisible character"),
        (LintRule.CONTROL, _CONTROL, "the line has a control character"),
    ):
        if (match := pattern.search(text)) is not None:
            yield rule, f"{message} (U+{ord(match[0]):04X})"
    for match in _WORD.finditer(text):
        lookalike = _LOOKALIKE.search(match[0])
        if lookalike is not None and _LATIN.search(match[0]) is not None:
            name = unicodedata.name(lookalike[0], "a letter")
            yield LintRule.MIXED_SCRIPT, f"a word mixes Latin letters with {name}"
            return
