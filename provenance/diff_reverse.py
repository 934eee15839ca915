"""Undoing a diff: what it added is removed, what it removed is added, at the same places.

Every section is turned round and applied as any other is: to what the diff made it gives what was there before, and to anything else it
refuses. A copy has no opposite that a diff could show whole: its path is emptied, and only the digest that the author signed tells that
the file is what the diff made. Whoever undoes checks both images against those digests.

Source: docs/spec/diff.md 5.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from provenance.diff_apply import apply_each
from provenance.diff_model import ChangeKind, Diff, FileChange, FileState, Hunk
from provenance.errors import ApplyRefusedError

_OPPOSITE_KIND: Final = {
    ChangeKind.ADD: ChangeKind.DELETE,
    ChangeKind.DELETE: ChangeKind.ADD,
    ChangeKind.MODIFY: ChangeKind.MODIFY,
    ChangeKind.RENAME: ChangeKind.RENAME,
}
_OPPOSITE_MARKER: Final = {b"+": b"-", b"-": b"+", b" ": b" "}


def undo_diff(diff: Diff, post: Mapping[str, FileState | None]) -> dict[str, FileState | None]:
    """Return the state of every touched path before the diff, None where the file was then absent.

    Args:
        diff: A parsed diff.
        post: State after it, None for an absent file; holds at least every path of `diff.paths`. It is not changed.

    Returns:
        Exactly the paths of `diff.paths`, in their order.

    Raises:
        ApplyRefusedError: As `apply_diff`, of the opposite.

    Source: docs/spec/diff.md 5.1.
    """
    pre: dict[str, FileState | None] = {}
    for _, before in undo_each(diff, post.__getitem__):
        pre.update(before)
    return {path: pre[path] for path in diff.paths}


def undo_each(
    diff: Diff, read: Callable[[str], FileState | None]
) -> Iterator[tuple[FileChange, dict[str, FileState | None]]]:
    """Yield every section with the states before it, in the diff's order; no two files need to be in memory at once.

    Args:
        diff: A parsed diff.
        read: The state of a path after the whole diff, None for an absent file.

    Raises:
        ApplyRefusedError: As `undo_diff`.
    """
    for change in diff.files:
        if change.kind is not ChangeKind.COPY:
            turned = Diff((_reverse_change(change),), b"", diff.lines_removed, diff.lines_added)
            for _, _, before in apply_each(turned, read):
                yield change, before
            continue
        if read(change.path) is None:
            raise ApplyRefusedError(
                "provenance.apply.absent",
                f"{change.path!a}: a copy to remove is not there",
                details={"path": change.path},
            )
        yield change, {change.path: None}


def _reverse_change(change: FileChange) -> FileChange:
    return FileChange(
        kind=_OPPOSITE_KIND[change.kind],
        old_path=change.new_path,
        new_path=change.old_path,
        old_mode=change.new_mode,
        new_mode=change.old_mode,
        similarity=change.similarity,
        blobs=None if change.blobs is None else (change.blobs[1], change.blobs[0]),
        hunks=tuple(_reverse_hunk(hunk) for hunk in change.hunks),
        binary=None if change.binary is None else (change.binary[1], change.binary[0]),
    )


def _reverse_hunk(hunk: Hunk) -> Hunk:
    return Hunk(
        old_start=hunk.new_start,
        old_count=hunk.new_count,
        new_start=hunk.old_start,
        new_count=hunk.old_count,
        section=hunk.section,
        lines=tuple(_OPPOSITE_MARKER[line[:1]] + line[1:] for line in hunk.lines),
    )
