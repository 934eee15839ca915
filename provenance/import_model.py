"""A foreign patch as values: what its header says about it, and its sections as loosely as other tools write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from provenance.diff_model import FileState
from provenance.limits import DESCRIPTION_BYTES_MAX
from wire.limits import KIBIBYTE

CREDITS_BYTES_MAX: Final = 8 * KIBIBYTE
"""What other people than the signer say in the reason: author, origin, sign-offs; the description keeps the rest of its bytes."""


@dataclass(frozen=True, slots=True)
class Note:
    """One thing of a foreign patch that is not taken over as it stands there."""

    line: int
    """1-based line of the patch."""
    text: str
    """What becomes of it; a text that a terminal may show."""


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
    trailers: tuple[str, ...] = ()
    """Lines such as `Signed-off-by: A <a@b.c>`, `Fixes: 1234 ("title")` or DEP-3's `Forwarded: no`, in the order of the header."""
    number: tuple[int, int] | None = None
    """The n and m of `[PATCH n/m]`."""
    notes: tuple[Note, ...] = ()
    """Lines of the header that are not taken over."""

    @property
    def author(self) -> str:
        """Name and address, as far as the header gives them; "" if it names nobody."""
        return f"{self.author_name} <{self.author_email}>".strip() if self.author_email else self.author_name

    @property
    def reason(self) -> str:
        """The description with who wrote, passed on and reviewed the patch: what the signer's own `description` says of it."""
        credits = [f"Author: {self.author}"] if self.author else []
        credits += [f"Origin: {self.origin}"] if self.origin else []
        below, size = [], 0
        for line in (*credits, *self.trailers):
            size += len(line.encode()) + 1
            if size > CREDITS_BYTES_MAX:
                break
            below.append(line)
        room = DESCRIPTION_BYTES_MAX - min(size, CREDITS_BYTES_MAX) - 2
        description = self.description.encode()
        if len(description) > room:
            mark = "…"
            description = (
                description[: room - len(mark.encode())].decode("utf-8", "ignore").rstrip().encode() + mark.encode()
            )
        return "\n\n".join(part for part in (description.decode(), "\n".join(below)) if part)


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
class ForeignBinary:
    """A binary change in git's form, forward only."""

    is_delta: bool
    """`data` says how to make the new content from the old one; otherwise it is the new content."""
    data: bytes
    old_name: str
    """Git's name of the content before, whole or its beginning; zeros for none."""
    new_name: str
    """Of the content after."""


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
    binary: ForeignBinary | None = None
    """What stands in place of hunks in a binary change."""


@dataclass(frozen=True, slots=True)
class ForeignPatch:
    """A patch in somebody else's form: nothing about it has been compared with a tree."""

    metadata: ForeignMetadata
    files: tuple[ForeignFile, ...]
    notes: tuple[Note, ...] = ()
    """What the reader put right or left out below the header."""


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
    copies: dict[str, str]
    """Source by new path; sources stand in `pre` and `post`, too."""
    strip: int
    """Leading components that the names of the patch have in front of the base's paths: 0 or 1."""
    moves: tuple[Move, ...]
    """Hunks whose lines have moved, for a person to look at."""
    notes: tuple[Note, ...] = ()
    """What the exact diff says otherwise than the patch."""


def _strip_return(line: bytes) -> bytes:
    return line[:-2] + b"\n" if line.endswith(b"\r\n") else line.removesuffix(b"\r")
