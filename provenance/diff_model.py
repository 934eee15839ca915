"""The parsed diff as values, and its one printed form.

A `Diff` is what `provenance.diff.parse_diff_untrusted` proves about some bytes; `print_diff` turns it back into the same bytes.
Nothing here checks a value: the parser and the maker of diffs do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from provenance.diff_lines import NO_NEWLINE_LINE, HunkLines

MODE_REGULAR: Final = 0o100644
"""A regular file, in git's notation."""
MODE_EXECUTABLE: Final = 0o100755
"""An executable regular file."""
MODES: Final = (MODE_REGULAR, MODE_EXECUTABLE)
"""The modes that a diff may name; every other one (submodules, set-user-id) is refused."""
MODE_LINK: Final = 0o120000
"""A symbolic link, whose content is its target: only with `Allowance.SYMLINK`."""


class Allowance(StrEnum):
    """What a patch does only if its author says so in the metadata and the target's operator in its configuration."""

    BINARY = "binary"
    """Changes of files that hold NUL bytes: GNU patch and busybox patch leave them out."""
    REMOVE_DIRECTORY = "remove-directory"
    """Directories that the patch empties are removed, as git does; without it they stay, empty."""
    SYMLINK = "symlink"
    """Symbolic links are added, changed and deleted."""


class ChangeKind(StrEnum):
    """What a section of a diff does to its file."""

    ADD = "add"
    MODIFY = "modify"
    DELETE = "delete"
    RENAME = "rename"
    COPY = "copy"
    """A new file that begins as another one was before the whole diff; that one is not touched by it."""


@dataclass(frozen=True, slots=True)
class Hunk:
    """One run of changed lines with its context."""

    old_start: int
    """1-based number of the first pre-image line; with `old_count` 0, the number of the line before the place (0 at the top)."""
    old_count: int
    """Lines of the pre-image that the hunk covers."""
    new_start: int
    """As `old_start`, in the post-image."""
    new_count: int
    """Lines of the post-image that the hunk covers."""
    section: bytes
    """The heading after the second `@@`, without the space before it; only for a reader, never for application."""
    lines: Sequence[bytes]
    """Marker (space, `-` or `+`) and the file's own bytes: a line ends with LF unless the file ends there without one. A tuple, or
    `HunkLines` of a text."""

    @property
    def lines_added(self) -> int:
        """Return the number of `+` lines: those that the old side does not have."""
        return len(self.lines) - self.old_count

    @property
    def lines_removed(self) -> int:
        """Return the number of `-` lines: those that the new side does not have."""
        return len(self.lines) - self.new_count

    @property
    def old_begin(self) -> int:
        """Return the 0-based index of the first covered pre-image line."""
        return self.old_start - 1 if self.old_count else self.old_start

    @property
    def new_begin(self) -> int:
        """Return the 0-based index of the first covered post-image line."""
        return self.new_start - 1 if self.new_count else self.new_start

    @property
    def context_before(self) -> int:
        """Return the number of context lines before the first changed line."""
        return _leading_context(iter(self.lines))

    @property
    def context_after(self) -> int:
        """Return the number of context lines after the last changed line."""
        return _leading_context(reversed(self.lines))


@dataclass(frozen=True, slots=True)
class BinaryPart:
    """One side of a binary change."""

    content: bytes
    """All its bytes; b"" where there is no file."""
    encoded: bytes
    """The lines of the diff that it stands in, without `literal SIZE` and the empty line."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """One section of a diff: everything it does to one path (two for a rename)."""

    kind: ChangeKind
    old_path: str | None
    """Path of the pre-image, relative, `/` between components; for a copy, of its source; None when the file is added."""
    new_path: str | None
    """Path of the post-image; None when the file is deleted."""
    old_mode: int | None
    """One of `MODES`, or None where the diff does not say it (always None when the file is added)."""
    new_mode: int | None
    """One of `MODES`, or None where the diff does not say it (always None when the file is deleted)."""
    similarity: int | None
    """Percent, 0–100, on a rename or copy; 100 means equal content. Otherwise None."""
    blobs: tuple[str, str] | None
    """Git's names of both contents as the `index` line gives them (4–64 hexadecimal digits). Shown, never trusted."""
    hunks: tuple[Hunk, ...]
    """In the order of the file; empty when the content stays, is empty or binary."""
    binary: tuple[BinaryPart, BinaryPart] | None = None
    """Content before and after, of a binary change."""

    @property
    def changes_content(self) -> bool:
        """Return whether the section says anything about content."""
        return bool(self.hunks) or self.binary is not None

    @property
    def is_link(self) -> bool:
        """Return whether the section is about a symbolic link."""
        return MODE_LINK in (self.old_mode, self.new_mode)

    @property
    def path(self) -> str:
        """Return the path after the change, or the path that a deletion removes."""
        path = self.old_path if self.new_path is None else self.new_path
        if path is None:  # pragma: no cover - the parser never builds a section without a path
            raise AssertionError("a section names at least one path")
        return path

    @property
    def paths(self) -> tuple[str, ...]:
        """Return every path that the change touches: one, or old and new of a rename; not the source of a copy."""
        if self.kind is ChangeKind.RENAME and self.old_path is not None and self.new_path is not None:
            return (self.old_path, self.new_path)
        return (self.path,)

    @property
    def reads(self) -> tuple[str, ...]:
        """Return every path whose state before the section needs: those that it touches, and the source of a copy."""
        if self.kind is ChangeKind.COPY and self.old_path is not None:
            return (self.old_path, *self.paths)
        return self.paths

    @property
    def lines_added(self) -> int:
        """Return the number of `+` lines."""
        return sum(hunk.lines_added for hunk in self.hunks)

    @property
    def lines_removed(self) -> int:
        """Return the number of `-` lines."""
        return sum(hunk.lines_removed for hunk in self.hunks)


@dataclass(frozen=True, slots=True)
class Diff:
    """A whole diff that has one meaning for every tool."""

    files: tuple[FileChange, ...]
    """The sections in the order of the text; no path occurs twice."""
    text: bytes | memoryview
    """The text itself, or a stretch of the file around it; `print_diff` gives the same bytes."""
    lines_added: int
    """`+` lines in all sections."""
    lines_removed: int
    """`-` lines in all sections."""

    @property
    def raw(self) -> bytes:
        """Return the text as bytes of its own; a copy where it is a stretch of a file."""
        return bytes(self.text)

    @property
    def needs(self) -> frozenset[Allowance]:
        """Return the allowances without which the diff would have been refused."""
        needed = {Allowance.BINARY} if any(change.binary is not None for change in self.files) else set()
        if any(change.is_link for change in self.files):
            needed.add(Allowance.SYMLINK)
        return frozenset(needed)

    @property
    def paths(self) -> tuple[str, ...]:
        """Return every touched path, sorted by its UTF-8 bytes."""
        return tuple(sorted((path for change in self.files for path in change.paths), key=str.encode))

    @property
    def reads(self) -> tuple[str, ...]:
        """Return every path whose state before is needed, each once: `paths` and the sources of copies, sorted by UTF-8 bytes."""
        return tuple(sorted({path for change in self.files for path in change.reads}, key=str.encode))


@dataclass(frozen=True, slots=True)
class FileState:
    """One regular file, or symbolic link, at one moment."""

    mode: int
    """`MODE_REGULAR`, `MODE_EXECUTABLE` or `MODE_LINK`."""
    content: bytes
    """All its bytes; of a link, its target."""


def print_diff(diff: Diff) -> bytes:
    """Return the text of a diff, computed from its parts; equal to `diff.raw` for every parsed diff.

    Source: docs/spec/diff.md 2.
    """
    return b"".join(_print_pieces(diff))


def _print_pieces(diff: Diff) -> Iterator[bytes | memoryview]:
    """Yield the text of a diff; the lines of a hunk one by one, so that a long hunk is not put together twice."""
    for change in diff.files:
        for piece in _print_change(change):
            if isinstance(piece, bytes):
                yield piece
            elif isinstance(piece, HunkLines):
                yield piece.text
            else:
                yield from _print_lines(piece)


def is_printed_form(diff: Diff, data: bytes, begin: int, end: int) -> bool:
    """Return whether `print_diff` gives a stretch of `data`, which the diff was parsed from, without making the text again."""
    at = begin
    for change in diff.files:
        for piece in _print_change(change):
            if isinstance(piece, HunkLines) and piece.is_of(data):
                if piece.begin != at:
                    return False
                at = piece.end
            elif data.startswith(text := piece if isinstance(piece, bytes) else b"".join(_print_lines(piece)), at, end):
                at += len(text)
            else:
                return False
    return at == end


def print_header(change: FileChange) -> bytes:
    """Return the lines of a section before its first hunk, in git's order."""
    return b"".join(_print_header(change))


def print_mode(mode: int) -> bytes:
    """Return a mode in git's notation, six octal digits."""
    return b"%06o" % mode


def name_tail(path: str) -> bytes:
    """Return what follows a path on `---` and `+++` lines: TAB for a path with a space, so that GNU patch reads all of it."""
    return b"\t\n" if " " in path else b"\n"


def _print_change(change: FileChange) -> Iterator[bytes | Sequence[bytes]]:
    """Yield the section's text; the lines of a hunk as one piece that is not text yet."""
    yield from _print_header(change)
    if change.binary is not None:
        old, new = change.binary
        yield b"GIT binary patch\n"
        for part in (new, old):
            yield b"literal %d\n" % len(part.content)
            yield part.encoded
            yield b"\n"
    for hunk in change.hunks:
        yield print_hunk_header(hunk)
        yield hunk.lines


def _print_header(change: FileChange) -> Iterator[bytes]:
    old = change.old_path if change.old_path is not None else change.path
    new = change.new_path if change.new_path is not None else change.path
    yield b"diff --git a/%s b/%s\n" % (old.encode(), new.encode())
    modes_differ = change.old_mode != change.new_mode
    if change.kind is ChangeKind.ADD and change.new_mode is not None:
        yield b"new file mode %s\n" % print_mode(change.new_mode)
    elif change.kind is ChangeKind.DELETE and change.old_mode is not None:
        yield b"deleted file mode %s\n" % print_mode(change.old_mode)
    elif modes_differ and change.old_mode is not None and change.new_mode is not None:
        yield b"old mode %s\n" % print_mode(change.old_mode)
        yield b"new mode %s\n" % print_mode(change.new_mode)
    if change.similarity is not None:
        yield b"similarity index %d%%\n" % change.similarity
        word = change.kind.value.encode()
        yield b"%s from %s\n%s to %s\n" % (word, old.encode(), word, new.encode())
    if change.blobs is not None:
        in_place = change.kind not in (ChangeKind.ADD, ChangeKind.DELETE)
        mode = (
            b" " + print_mode(change.old_mode) if in_place and not modes_differ and change.old_mode is not None else b""
        )
        yield b"index %s..%s%s\n" % (change.blobs[0].encode(), change.blobs[1].encode(), mode)
    if change.hunks:
        yield b"--- /dev/null\n" if change.old_path is None else b"--- a/%s%s" % (old.encode(), name_tail(old))
        yield b"+++ /dev/null\n" if change.new_path is None else b"+++ b/%s%s" % (new.encode(), name_tail(new))


def print_hunk_header(hunk: Hunk) -> bytes:
    """Return the line in front of the hunk's own."""
    heading = b" " + hunk.section if hunk.section else b""
    ranges = (_print_range(hunk.old_start, hunk.old_count), _print_range(hunk.new_start, hunk.new_count))
    return b"@@ -%s +%s @@%s\n" % (*ranges, heading)


def _print_lines(lines: Sequence[bytes]) -> Iterator[bytes]:
    for line in lines:
        yield line
        if not line.endswith(b"\n"):
            yield b"\n" + NO_NEWLINE_LINE


def _print_range(start: int, count: int) -> bytes:
    return b"%d" % start if count == 1 else b"%d,%d" % (start, count)


def _leading_context(lines: Iterator[bytes]) -> int:
    count = 0
    for line in lines:
        if not line.startswith(b" "):
            break
        count += 1
    return count
