"""One diff in the hands of every tool: a tree that it fits is made from the diff itself, so any accepted text can be compared.

The file that the tools get is a whole patch file, with preamble and trailer, because that is what people apply.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path as FilePath

from agent.files import Files
from agent.files import Path as AnyPath
from agent.inventory import take_inventory
from agent.plan import Plan, PlannedChange
from agent.stage import stage_tree
from provenance.diff import parse_diff_untrusted
from provenance.diff_apply import apply_diff
from provenance.diff_lint import LintRule, lint_diff
from provenance.diff_model import MODE_REGULAR, Allowance, ChangeKind, Diff, FileChange, FileState
from provenance.layout import BODY_END, split_patch_file_untrusted
from tests.testkit.appliers import GNU_TOOLS, INSTALLED, Outcome, Tool, outcome_in, run_tool, write_tree
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


EVERYTHING = frozenset(Allowance)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A diff that we apply, and who does something else."""

    pre: dict[str, FileState]
    post: dict[str, FileState]
    directories: frozenset[str]
    """Every directory afterwards, when those go that the diff empties."""
    disagreements: dict[Tool, Outcome]


def base_for(diff: Diff, *, keep: bool = True) -> dict[str, FileState]:
    """Return a tree that the diff fits: its old lines at their places, and other lines between.

    Args:
        diff: A parsed diff.
        keep: Whether every directory holds a file that the diff does not touch.

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
            content = b"".join(_old_lines(change)) if change.binary is None else change.binary[0].content
            tree[source] = FileState(change.old_mode or MODE_REGULAR, content)
    if any(f"{path}/".startswith(f"{other}/") for path in tree for other in tree if path != other):
        raise NoTreeError("a file is a directory of another")
    for path in list(tree) if keep else ():
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


class _UnsyncedFiles(Files):
    """Files that need not outlive the machine."""

    def sync_filesystem(self, descriptor: int, path: AnyPath) -> None:
        pass


def apply_as_agent(diff: Diff, pre: dict[str, FileState], changed: Mapping[str, FileState | None]) -> Outcome:
    """Return what the agent stages of a diff on a disk that holds `pre`, where the patch may remove directories."""
    renames = {change.path: change.reads[0] for change in diff.files if change.kind is not ChangeKind.ADD}
    sources = {path: renames.get(path, path) for path in changed}
    changes = tuple(
        PlannedChange(
            path.encode(),
            changed[path],
            source.encode() if (source := sources[path]) in pre and changed[path] else None,
        )
        for path in sorted(changed, key=str.encode)
    )
    with tempfile.TemporaryDirectory(prefix="patchwarden-stage-") as name:
        root, staged = FilePath(name, "tree"), FilePath(name, "staged")
        write_tree(root, pre)
        root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            plan = Plan(changes, {}, removes_directories=True)
            stage_tree(_UnsyncedFiles(), root_fd, take_inventory(root_fd), plan, str(staged))
        finally:
            os.close(root_fd)
        return outcome_in(staged, True, b"")


def compare(
    text: bytes,
    pre: dict[str, FileState] | None = None,
    tools: Sequence[Tool] = INSTALLED,
    allowed: frozenset[Allowance] = frozenset(),
) -> Comparison | None:
    """Return what the tools make of a diff that we apply to `pre`, or to a tree made for it; None when we refuse it.

    Directories that the diff empties are expected to go: every tool but busybox removes them in any case, and ours where it may.

    Raises:
        NoTreeError: As `base_for`.
    """
    try:
        diff = parse_diff_untrusted(text, allowed)
        pre = base_for(diff) if pre is None else pre
        changed = apply_diff(diff, {path: pre.get(path) for path in diff.reads})
    except RejectedError:
        return None
    merged = {**pre, **changed}
    post = {path: state for path, state in merged.items() if state is not None}
    ours = apply_as_agent(diff, pre, changed)
    assert ours.tree == post, "the agent's tree is what the diff says"
    data = patch_file_around(text)
    told = {finding.rule for finding in lint_diff(diff, pre)}
    disagreements: dict[Tool, Outcome] = {}
    for tool in tools:
        # The limits that we tell people about.
        if tool is Tool.BUSYBOX and LintRule.BUSYBOX in told:
            continue
        accepted, tree, directories = True, post, ours.directories
        partial = tool in GNU_TOOLS and LintRule.GNU_PATCH in told
        if partial:
            accepted, tree = False, without_binary(diff, pre, changed)
        if tool is Tool.GIT_AM:
            outcome, _ = am_file(pre, data, *(["--keep-cr"] if LintRule.MAIL_LINE_END in told else []))
        else:
            outcome = run_tool(tool, pre, data)
        # What is left out may leave its directory behind, empty.
        differs = not partial and outcome.directories != directories
        if differs or (outcome.accepted, outcome.tree) != (accepted, tree):
            disagreements[tool] = outcome
    return Comparison(pre, post, ours.directories, disagreements)


def without_binary(
    diff: Diff, pre: Mapping[str, FileState], changed: Mapping[str, FileState | None]
) -> dict[str, FileState]:
    """Return the tree that a tool leaves which passes over binary sections and says so."""
    skipped = {path for change in diff.files if change.binary is not None for path in change.paths}
    tree = {**pre, **{path: state for path, state in changed.items() if path not in skipped}}
    return {path: state for path, state in tree.items() if state is not None}
