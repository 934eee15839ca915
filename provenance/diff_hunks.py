"""The strict reader of hunks: counts that hold, places that follow from each other, context that leaves one place for every tool."""

from __future__ import annotations

import re
from typing import Final

from provenance.diff_lines import NO_NEWLINE_LINE, HunkLines
from provenance.diff_model import ChangeKind, Hunk
from provenance.diff_reader import Reader, refusal
from provenance.errors import DiffRefusedError

CONTEXT_LINES: Final = 3
"""Context before and after a change wherever the file has it; git's and GNU diff's default, and what their searches rely on."""

_HUNK_HEADER: Final = re.compile(
    # A count of 1 is left out, and no number has leading zeros: one printed form for each hunk.
    rb"@@ -(0|[1-9][0-9]{0,8})(?:,(0|[2-9]|[1-9][0-9]{1,8}))? \+(0|[1-9][0-9]{0,8})(?:,(0|[2-9]|[1-9][0-9]{1,8}))? @@(?: ([^\r]+))?",
)
_NO_NEWLINE: Final = NO_NEWLINE_LINE[:-1]


def read_hunks(reader: Reader, kind: ChangeKind) -> tuple[Hunk, ...]:
    """Read all hunks of a section and check their places against each other."""
    section_at = reader.number - 2
    hunks: list[Hunk] = []
    old_end = shift = 0
    must_be_last = False
    while reader.line.startswith(b"@@ "):
        at = reader.number
        if must_be_last:
            raise refusal("hunk_context", "after a hunk that ends its file no other one follows", at)
        hunk, ends_file = _read_hunk(reader)
        if hunk.old_begin < old_end:
            raise refusal("hunk_order", "hunks stand in the file's order and do not overlap", at)
        if hunk.new_begin != hunk.old_begin + shift:
            raise refusal(
                "hunk_position", "the new position follows from the old one", at, expected=hunk.old_begin + shift + 1
            )
        must_be_last = _check_context(hunk, at) or ends_file
        old_end = hunk.old_begin + hunk.old_count
        shift += hunk.new_count - hunk.old_count
        hunks.append(hunk)
    if not hunks:
        raise reader.unexpected("a hunk beginning with '@@ ' follows the names")
    if kind in (ChangeKind.ADD, ChangeKind.DELETE):
        covered = hunks[0].old_count if kind is ChangeKind.ADD else hunks[0].new_count
        if len(hunks) != 1 or covered or hunks[0].old_begin:
            raise refusal("whole_file", "an added or deleted file is one hunk of nothing else", section_at)
    return tuple(hunks)


def _check_context(hunk: Hunk, line: int) -> bool:
    """Raise unless the amount of context leaves one place for every tool; return whether that place is the end of the file.

    git and GNU patch read less context on one side as "here the file begins" or "here it ends". So less than `CONTEXT_LINES`, or less
    than on the other side, is accepted only there. The application checks the end against the pre-image.
    """
    before, after = hunk.context_before, hunk.context_after
    if (before < CONTEXT_LINES or before < after) and hunk.old_begin:
        raise refusal(
            "hunk_context",
            "a hunk inside a file has at least three lines of context before the change, and no fewer than after it",
            line,
            expected=max(CONTEXT_LINES, after),
            actual=before,
        )
    return after < CONTEXT_LINES or after < before


def _read_hunk(reader: Reader) -> tuple[Hunk, bool]:
    """Read one hunk; also return whether a missing newline says that it ends its file."""
    at = reader.number
    match = _HUNK_HEADER.fullmatch(reader.line)
    if match is None:
        raise refusal("hunk_header", "a hunk header has the form '@@ -l,n +l,n @@ heading'", at, actual=reader.line)
    old_start, new_start = int(match[1]), int(match[3])
    old_count = 1 if match[2] is None else int(match[2])
    new_count = 1 if match[4] is None else int(match[4])
    if (old_count and not old_start) or (new_count and not new_start):
        raise refusal("hunk_header", "only an empty side begins at line 0", at, actual=reader.line)
    reader.step()
    body, ends_file = _read_hunk_lines(reader, old_count, new_count)
    hunk = Hunk(old_start, old_count, new_start, new_count, match[5] or b"", body)
    if hunk.context_before == len(body):
        raise refusal("no_change", "a hunk changes something", at)
    return hunk, ends_file


def _read_hunk_lines(reader: Reader, old_left: int, new_left: int) -> tuple[HunkLines, bool]:
    """Read as many lines as the header counts, markers kept; the flag says whether one of them lacks its newline."""
    begin = reader.position
    count = lacking = 0
    old_ended = new_ended = False
    marker_before = b" "
    while old_left or new_left:
        line = reader.line
        marker = line[:1]
        on_old, on_new = marker in (b" ", b"-"), marker in (b" ", b"+")
        if not on_old and not on_new:
            raise _bad_hunk_line(reader)
        if (on_old and not old_left) or (on_new and not new_left):
            raise refusal("hunk_count", "a hunk has as many lines as its header says", reader.number)
        if marker == b"-" and marker_before == b"+":
            raise refusal("hunk_order", "removed lines stand before added ones", reader.number)
        if (on_old and old_ended) or (on_new and new_ended):
            raise refusal("no_newline", "after a line without newline its side of the file has ended", reader.number)
        reader.step()
        count += 1
        old_left -= on_old
        new_left -= on_new
        if reader.line == _NO_NEWLINE:
            if len(line) == 1:
                raise refusal("no_newline", "a line without newline has content", reader.number)
            reader.step()
            lacking += 1
            old_ended, new_ended = old_ended or on_old, new_ended or on_new
        marker_before = marker
    if reader.line[:1] in (b" ", b"-", b"+"):
        raise refusal("hunk_count", "a hunk has as many lines as its header says", reader.number)
    return HunkLines(reader.data, begin, reader.position, count, lacking), old_ended or new_ended


def _bad_hunk_line(reader: Reader) -> DiffRefusedError:
    if reader.at_end or reader.line.startswith((b"diff --git ", b"@@ ")):
        return refusal("hunk_count", "a hunk has as many lines as its header says", reader.number)
    if reader.line.startswith(b"\\"):
        return refusal(
            "no_newline", "a line without newline is followed by exactly git's English sentence, once", reader.number
        )
    return refusal("hunk_line", "a hunk line begins with a space, '-' or '+'", reader.number, actual=reader.line)
