"""A foreign patch as values: what its header says about it, and its sections as loosely as other tools write them."""

from __future__ import annotations

from dataclasses import dataclass

from provenance.diff_model import FileState


@dataclass(frozen=True, slots=True)
class ForeignMetadata:
    """What a git mail or a DEP-3 header tells about a patch; proposals for the author, who signs what is right.

    Every text is NFC without control or invisible characters and within the limits of the patch file's own metadata.
    """

    title: str
    """One line, without `[PATCH n/m]`; "" if the patch has no header."""
    description: str
    """Lines separated by LF; may be ""."""
    author_name: str
    """"" if the header names nobody."""
    author_email: str
    """"" if the header names nobody."""
    references: tuple[str, ...]
    """CVE ids, then URLs of bug reports, each once, in the order of the header."""
    origin: str
    """Where the patch comes from, as DEP-3's `Origin` says it; may be ""."""
    category: str
    """A guess: `security-update`, `feature` or `bug-fix`."""


@dataclass(frozen=True, slots=True)
class ForeignHunk:
    """One hunk as its file gives it."""

    old_start: int
    """1-based first line in the tree that the patch was made for; a hint."""
    old_lines: tuple[bytes, ...]
    """Context and removed lines: the file's own bytes, LF included where the file has it."""
    new_lines: tuple[bytes, ...]
    """Context and added lines."""
    context_before: int
    """Context lines at its beginning."""
    context_after: int
    """Context lines at its end."""
    line: int
    """1-based line of its header in the patch."""

    def without_carriage_returns(self) -> ForeignHunk:
        """Return the hunk with LF where lines end with CR LF."""
        return ForeignHunk(
            self.old_start,
            tuple(_strip_return(line) for line in self.old_lines),
            tuple(_strip_return(line) for line in self.new_lines),
            self.context_before,
            self.context_after,
            self.line,
        )


@dataclass(frozen=True, slots=True)
class ForeignFile:
    """One section of a foreign patch."""

    old_name: str | None
    """As written, prefix included; None for `/dev/null` or a file dated at the epoch."""
    new_name: str | None
    """As written, prefix included; None for `/dev/null` or a file dated at the epoch."""
    is_git: bool
    """The section begins with `diff --git`, so that modes, renames and copies count."""
    rename_from: str | None
    """Path of the source of a rename or a copy; it has no prefix."""
    rename_to: str | None
    """Path of its target; set together with `rename_from`."""
    is_copy: bool
    """`rename_from` stays."""
    old_mode: int | None
    new_mode: int | None
    """From git's header lines; None if not said."""
    has_carriage_returns: bool
    """The section's own name lines end with CR LF, as if the patch had gone through a conversion."""
    hunks: tuple[ForeignHunk, ...]
    line: int
    """1-based line of the section in the patch."""


@dataclass(frozen=True, slots=True)
class ForeignPatch:
    """A patch in somebody else's form: nothing about it has been compared with a tree."""

    metadata: ForeignMetadata
    files: tuple[ForeignFile, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """A hunk that was found at another line than the patch says."""

    path: str
    line: int
    """1-based line of the hunk in the patch."""
    offset: int
    """Lines by which its place lies further down (negative: up)."""


@dataclass(frozen=True, slots=True)
class Rebased:
    """What a foreign patch does to one base, exactly: the input of `make_diff`."""

    pre: dict[str, FileState | None]
    """State of every touched path in the base."""
    post: dict[str, FileState | None]
    """State of the same paths afterwards."""
    renames: dict[str, str]
    """Old path by new path."""
    strip: int
    """Leading components that the names of the patch have in front of the base's paths: 0 or 1."""
    moves: tuple[Move, ...]
    """Hunks whose lines have moved, for a person to look at."""


def _strip_return(line: bytes) -> bytes:
    return line[:-2] + b"\n" if line.endswith(b"\r\n") else line.removesuffix(b"\r")
