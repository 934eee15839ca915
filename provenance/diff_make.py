"""The exact diff between two states of some files, in the one form that the strict parser accepts.

The text is what `git diff --full-index` prints, up to the choice between equally short edit scripts. It is parsed and applied again
before it is returned, so a caller never holds a diff that says something else than the two states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from provenance.diff import parse_diff_untrusted
from provenance.diff_apply import apply_diff, split_lines
from provenance.diff_binary import blob_name, make_part
from provenance.diff_hunks import CONTEXT_LINES
from provenance.diff_match import Edit, find_edits
from provenance.diff_model import MODE_LINK, MODES, Allowance, ChangeKind, Diff, FileChange, FileState, Hunk, print_diff
from provenance.diff_paths import check_path
from provenance.errors import MakeRefusedError

HEADING_BYTES_MAX: Final = 80
"""The heading after a hunk's second `@@`, as in git."""
_BLOB_ABSENT: Final = "0" * 40

_NO_MOVES: Mapping[str, str] = MappingProxyType({})


def make_diff(
    pre: Mapping[str, FileState | None],
    post: Mapping[str, FileState | None],
    renames: Mapping[str, str] = _NO_MOVES,
    allowed: frozenset[Allowance] = frozenset(),
    copies: Mapping[str, str] = _NO_MOVES,
) -> bytes:
    """Return the diff that turns `pre` into `post`; equal states always give equal bytes.

    Args:
        pre: State before; a path that is missing here is absent, like one with None.
        post: State after; likewise. A path that stands in neither or is equal in both is not mentioned.
        renames: Old path by new path, for files to show as renamed instead of deleted and added.
        allowed: What the diff may hold besides text.
        copies: Source by new path, for files to show as copies instead of added. What is copied is the source before.

    Returns:
        A diff that `parse_diff_untrusted` accepts and `apply_diff` turns into exactly `post`.

    Raises:
        MakeRefusedError: `provenance.make.no_change`, `binary`, `mode`, `rename` or `copy`.
        DiffRefusedError: `provenance.diff.path_*` for a path that no diff may name, `provenance.diff.size` for a diff beyond its limits.

    Source: docs/spec/diff.md 6.
    """
    changes = list(_find_changes(pre, post, renames, copies, allowed))
    if not changes:
        raise MakeRefusedError("provenance.make.no_change", "both states are equal, so there is nothing to describe")
    changes.sort(key=lambda change: change.path.encode())
    _check_order(changes)
    added = sum(change.lines_added for change in changes)
    removed = sum(change.lines_removed for change in changes)
    text = print_diff(Diff(tuple(changes), b"", added, removed))
    # The lines of a long diff are held once from here on: as its text.
    changes.clear()
    diff = parse_diff_untrusted(text, allowed)
    given = {path: pre.get(path) for path in diff.reads}
    if apply_diff(diff, given) != {
        path: post.get(path) for path in diff.paths
    }:  # pragma: no cover - the proof of this module's work
        raise AssertionError("a made diff gives back the state that it was made from")
    return diff.raw


def _find_changes(
    pre: Mapping[str, FileState | None],
    post: Mapping[str, FileState | None],
    renames: Mapping[str, str],
    copies: Mapping[str, str],
    allowed: frozenset[Allowance],
) -> Iterator[FileChange]:
    renamed: set[str] = set()
    for new_path, old_path in sorted(renames.items()):
        old, new = pre.get(old_path), post.get(new_path)
        if (
            old is None
            or new is None
            or pre.get(new_path) is not None
            or post.get(old_path) is not None
            or old_path in renamed
        ):
            raise MakeRefusedError(
                "provenance.make.rename",
                "a rename takes a file that then is gone to a place that was free",
                actual=f"{old_path} to {new_path}",
            )
        renamed |= {old_path, new_path}
        yield _describe(_Pair(old_path, old, new_path, new), allowed)
    for new_path, source in sorted(copies.items()):
        old, new = pre.get(source), post.get(new_path)
        if old is None or new is None or pre.get(new_path) is not None or new_path in renamed:
            raise MakeRefusedError(
                "provenance.make.copy",
                "a copy takes a file that was there to a place that was free",
                actual=f"{source} to {new_path}",
            )
        yield _describe(_Pair(source, old, new_path, new, is_copy=True), allowed)
    for path in sorted({*pre, *post} - renamed - copies.keys()):
        old, new = pre.get(path), post.get(path)
        if old != new:
            yield _describe(_Pair(path, old, path, new), allowed)


def _check_order(changes: Sequence[FileChange]) -> None:
    """Raise if a copy stands behind the section that takes its source away: GNU patch does not find it any more."""
    gone: set[str] = set()
    for change in changes:
        if change.kind is ChangeKind.COPY and change.reads[0] in gone:
            raise MakeRefusedError(
                "provenance.make.copy",
                "a file that goes is copied only to names that sort before the section that takes it away",
                actual=f"{change.reads[0]} to {change.path}",
            )
        if change.kind in (ChangeKind.RENAME, ChangeKind.DELETE):
            gone.add(change.paths[0])


@dataclass(frozen=True, slots=True)
class _Pair:
    """One file before and after; at least one of both is there."""

    old_path: str
    old: FileState | None
    new_path: str
    new: FileState | None
    is_copy: bool = False

    @property
    def kind(self) -> ChangeKind:
        if self.old is None:
            return ChangeKind.ADD
        if self.new is None:
            return ChangeKind.DELETE
        if self.is_copy:
            return ChangeKind.COPY
        return ChangeKind.MODIFY if self.old_path == self.new_path else ChangeKind.RENAME

    @property
    def is_move(self) -> bool:
        return self.kind in (ChangeKind.RENAME, ChangeKind.COPY)


def _describe(pair: _Pair, allowed: frozenset[Allowance]) -> FileChange:
    """Return the section for one file."""
    links = Allowance.SYMLINK in allowed
    modes = {state.mode for state in (pair.old, pair.new) if state is not None}
    if MODE_LINK in modes and (len(modes) > 1 or pair.is_move):
        raise MakeRefusedError(
            "provenance.make.mode",
            f"{pair.new_path!a}: a link does not become a file, nor a file a link, nor is it renamed or copied",
        )
    for path, state in ((pair.old_path, pair.old), (pair.new_path, pair.new)):
        check_path(path)
        if state is not None and state.mode not in MODES and not (links and state.mode == MODE_LINK):
            raise MakeRefusedError(
                "provenance.make.mode",
                f"{path!a}: a mode is 100644 or 100755",
                hint="Leave it out of the patch, or say --allow symlink." if state.mode == MODE_LINK else "",
                actual=f"{state.mode:06o}",
            )
    old_content = b"" if pair.old is None else pair.old.content
    new_content = b"" if pair.new is None else pair.new.content
    is_binary = old_content != new_content and (b"\0" in old_content or b"\0" in new_content)
    if is_binary and Allowance.BINARY not in allowed:
        raise MakeRefusedError(
            "provenance.make.binary",
            f"{pair.new_path!a}: a file with NUL bytes has no text diff",
            hint="Leave it out of the patch, or say --allow binary; only git's tools and the agent apply such changes.",
        )
    if is_binary:
        return _describe_binary(pair, old_content, new_content)
    old_lines, new_lines = split_lines(old_content), split_lines(new_content)
    edits = find_edits(old_lines, new_lines)
    kind = pair.kind
    blobs = None
    if old_content != new_content or kind in (ChangeKind.ADD, ChangeKind.DELETE):
        blobs = (_blob_name(pair.old), _blob_name(pair.new))
    old_mode = None if pair.old is None else pair.old.mode
    new_mode = None if pair.new is None else pair.new.mode
    if blobs is None and old_mode == new_mode:
        old_mode = new_mode = None  # an unchanged mode stands on the index line only, and there is none
    return FileChange(
        kind=kind,
        old_path=None if kind is ChangeKind.ADD else pair.old_path,
        new_path=None if kind is ChangeKind.DELETE else pair.new_path,
        old_mode=old_mode,
        new_mode=new_mode,
        similarity=_similarity(old_lines, new_lines, edits) if pair.is_move else None,
        blobs=blobs,
        hunks=tuple(_make_hunks(old_lines, new_lines, edits)),
    )


def _describe_binary(pair: _Pair, old_content: bytes, new_content: bytes) -> FileChange:
    """Return the section of a file that is or becomes binary."""
    kind = pair.kind
    return FileChange(
        kind=kind,
        old_path=None if kind is ChangeKind.ADD else pair.old_path,
        new_path=None if kind is ChangeKind.DELETE else pair.new_path,
        old_mode=None if pair.old is None else pair.old.mode,
        new_mode=None if pair.new is None else pair.new.mode,
        similarity=0 if pair.is_move else None,
        blobs=(_blob_name(pair.old), _blob_name(pair.new)),
        hunks=(),
        binary=(make_part(old_content), make_part(new_content)),
    )


def _blob_name(state: FileState | None) -> str:
    """Return git's SHA-1 name of a content. It helps `git am -3` to find the file; nothing of ours relies on it."""
    if state is None:
        return _BLOB_ABSENT
    return blob_name(state.content, len(_BLOB_ABSENT))


def _similarity(old: Sequence[bytes], new: Sequence[bytes], edits: Sequence[Edit]) -> int:
    """Return the percentage of bytes that stay, 100 only for equal contents."""
    if not edits:
        return 100
    size = max(sum(map(len, old)), sum(map(len, new)))
    removed = sum(len(line) for edit in edits for line in old[edit.old_begin : edit.old_end])
    return min(99, 100 * (sum(map(len, old)) - removed) // size)


def _make_hunks(old: Sequence[bytes], new: Sequence[bytes], edits: Sequence[Edit]) -> Iterator[Hunk]:
    """Yield the hunks: edits with at most twice `CONTEXT_LINES` equal lines between them share one."""
    group: list[Edit] = []
    searched = 0
    heading = b""
    for index, edit in enumerate(edits):
        group.append(edit)
        if index + 1 < len(edits) and edits[index + 1].old_begin - edit.old_end <= 2 * CONTEXT_LINES:
            continue
        begin = max(0, group[0].old_begin - CONTEXT_LINES)
        heading = _find_heading(old[searched:begin]) or heading
        searched = begin
        yield _make_hunk(old, new, group, heading)
        group = []


def _make_hunk(old: Sequence[bytes], new: Sequence[bytes], group: Sequence[Edit], heading: bytes) -> Hunk:
    old_begin = max(0, group[0].old_begin - CONTEXT_LINES)
    old_end = min(len(old), group[-1].old_end + CONTEXT_LINES)
    new_begin = group[0].new_begin - (group[0].old_begin - old_begin)
    lines: list[bytes] = []
    at = old_begin
    for edit in group:
        lines += [b" " + line for line in old[at : edit.old_begin]]
        lines += [b"-" + line for line in old[edit.old_begin : edit.old_end]]
        lines += [b"+" + line for line in new[edit.new_begin : edit.new_end]]
        at = edit.old_end
    lines += [b" " + line for line in old[at:old_end]]
    old_count = old_end - old_begin
    new_count = old_count + sum((edit.new_end - edit.new_begin) - (edit.old_end - edit.old_begin) for edit in group)
    return Hunk(
        old_start=old_begin + 1 if old_count else old_begin,
        old_count=old_count,
        new_start=new_begin + 1 if new_count else new_begin,
        new_count=new_count,
        section=heading,
        lines=tuple(lines),
    )


def _find_heading(lines: Sequence[bytes]) -> bytes | None:
    """Return the last line that looks like the beginning of a function, by git's default rule, cut and trimmed."""
    for line in reversed(lines):
        if line[:1].isalpha() or line[:1] in (b"_", b"$"):
            heading = line[:HEADING_BYTES_MAX].rstrip()
            # A carriage return inside is no heading: it would hide text in a terminal.
            return None if b"\r" in heading else heading
    return None
