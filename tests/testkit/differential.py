"""One diff in the hands of every tool: a tree that it fits is made from the diff itself, so any accepted text can be compared.

The file that the tools get is a whole patch file, with preamble and trailer, because that is what people apply.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from provenance.diff import parse_diff_untrusted
from provenance.diff_apply import apply_diff
from provenance.diff_lint import LintRule, lint_diff
from provenance.diff_model import MODE_REGULAR, ChangeKind, Diff, FileChange, FileState
from provenance.layout import BODY_END, split_patch_file_untrusted
from tests.testkit.appliers import INSTALLED, Outcome, Tool, run_tool
from tests.testkit.git_tool import am_file
from tests.testkit.patches import make_released_patch
from wire.errors import RejectedError

ONE_OF_EACH = tuple(tool for tool in INSTALLED if tool in (Tool.GIT_APPLY, Tool.PATCH, Tool.BUSYBOX))
"""One tool of each family; the others differ from them in where they take the tree from."""
KEEP = ".keep"
"""A file that no diff touches, in each directory, so that none disappears with its last file."""


class NoTreeError(Exception):
    """No tree is made for this diff: it would be too large, or its names cannot be on one disk together."""


LINES_MAX = 100_000
NAME_BYTES_MAX = 200


@dataclass(frozen=True, slots=True)
class Comparison:
    """A diff that we apply, and who does something else."""

    pre: dict[str, FileState]
    post: dict[str, FileState]
    disagreements: dict[Tool, Outcome]


def base_for(diff: Diff) -> dict[str, FileState]:
    """Return a tree that the diff fits: its old lines at their places, and other lines between.

    Raises:
        NoTreeError: There is none that is worth a test.
    """
    tree: dict[str, FileState] = {}
    for change in diff.files:
        if any(len(part.encode()) > NAME_BYTES_MAX for path in change.reads for part in path.split("/")):
            raise NoTreeError("a name is too long for this disk")
        if change.kind is ChangeKind.ADD:
            continue
        source = change.reads[0]
        if change.changes_content or source not in tree:  # of several sections about one file, one that shows lines
            tree[source] = FileState(change.old_mode or MODE_REGULAR, b"".join(_old_lines(change)))
    if any(f"{path}/".startswith(f"{other}/") for path in tree for other in tree if path != other):
        raise NoTreeError("a file is a directory of another")
    for path in list(tree):
        parts = path.split("/")[:-1]
        for length in range(len(parts) + 1):
            keep = "/".join([*parts[:length], KEEP])
            tree.setdefault(keep, FileState(MODE_REGULAR, b""))
    return tree


def _old_lines(change: FileChange) -> Iterator[bytes]:
    """Yield the lines of a file that every hunk fits; after a last hunk that has context at its end, three lines more."""
    at = 0
    for hunk in change.hunks:
        if hunk.old_begin > LINES_MAX:
            raise NoTreeError("the file would be too long")
        for number in range(at, hunk.old_begin):
            yield b"filler %d\n" % number
        yield from (line[1:] for line in hunk.lines if not line.startswith(b"+"))
        at = hunk.old_begin + hunk.old_count
    if change.hunks and change.kind is not ChangeKind.DELETE and change.hunks[-1].context_after >= 3:
        last = change.hunks[-1].lines[-1]
        if last.endswith(b"\n"):
            yield from (b"after %d\n" % number for number in range(3))


@cache
def _around() -> tuple[bytes, bytes]:
    file = split_patch_file_untrusted(make_released_patch())
    return file.preamble, BODY_END + b"".join(line + b"\n" for line in file.trailer)


def patch_file_around(text: bytes) -> bytes:
    """Return a patch file that holds the diff; its signatures are of another one, which no tool reads."""
    preamble, trailer = _around()
    return preamble + text + trailer


def compare(
    text: bytes, pre: dict[str, FileState] | None = None, tools: Sequence[Tool] = INSTALLED
) -> Comparison | None:
    """Return what the tools make of a diff that we apply to `pre`, or to a tree made for it; None when we refuse it.

    Raises:
        NoTreeError: As `base_for`.
    """
    try:
        diff = parse_diff_untrusted(text)
        pre = base_for(diff) if pre is None else pre
        changed = apply_diff(diff, {path: pre.get(path) for path in diff.reads})
    except RejectedError:
        return None
    merged = {**pre, **changed}
    post = {path: state for path, state in merged.items() if state is not None}
    data = patch_file_around(text)
    told = {finding.rule for finding in lint_diff(diff, pre)}
    disagreements: dict[Tool, Outcome] = {}
    for tool in tools:
        # The two limits that we tell people about.
        if tool is Tool.BUSYBOX and LintRule.BUSYBOX in told:
            continue
        if tool is Tool.GIT_AM:
            outcome, _ = am_file(pre, data, *(["--keep-cr"] if LintRule.MAIL_LINE_END in told else []))
        else:
            outcome = run_tool(tool, pre, data)
        if not outcome.accepted or outcome.tree != post:
            disagreements[tool] = outcome
    return Comparison(pre, post, disagreements)
