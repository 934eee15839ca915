"""A source tree on this machine, read file by file for making and importing patches. Links are never followed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from node.cli.errors import CommandError, FileError
from provenance.diff_model import (
    MODE_EXECUTABLE,
    MODE_LINK,
    MODE_REGULAR,
    ChangeKind,
    Diff,
    FileChange,
    FileState,
    Hunk,
)
from provenance.diff_paths import check_path

FILE_BYTES_MAX: Final = 64 * 1024 * 1024
"""One source file; a patch file is not larger either."""


_MARKERS: Final = {b"+": b"-", b"-": b"+", b" ": b" "}
_KINDS: Final = {
    ChangeKind.ADD: ChangeKind.DELETE,
    ChangeKind.DELETE: ChangeKind.ADD,
    ChangeKind.MODIFY: ChangeKind.MODIFY,
    ChangeKind.RENAME: ChangeKind.RENAME,
}
"""What undoes a change; a copy is undone by taking its file away, whatever that holds."""


class SourceTree:
    """The tree beneath `base`.

    Args:
        base: A directory.
        links: Whether a path may be a symbolic link itself, whose content then is its target.
    """

    def __init__(self, base: Path, *, links: bool = False) -> None:
        self.base = base
        self._links = links
        if not base.is_dir():
            raise FileError(
                "cli.base.missing", f"{base} is not a directory", hint="name the unpatched tree with --base"
            )

    def read(self, path: str) -> FileState | None:
        """Return the state of one file, or None when it is not there.

        Args:
            path: Relative, `/` between components.

        Raises:
            DiffRefusedError: ``provenance.diff.path_*``: no patch may name this path.
            CommandError: ``cli.base.not_regular``, ``cli.base.link``, ``cli.base.too_large``.
        """
        check_path(path)
        place = self.base
        mode = 0
        parts = path.split("/")
        try:
            for part in parts:
                place = place / part
                mode = place.lstat().st_mode
                if stat.S_ISLNK(mode) and self._links and place == self.base / path:
                    return FileState(MODE_LINK, os.fsencode(place.readlink()))
                if stat.S_ISLNK(mode):
                    raise CommandError("cli.base.link", f"{place} is a symbolic link, and links are not patched")
            if not stat.S_ISREG(mode):
                raise CommandError("cli.base.not_regular", f"{place} is not a regular file")
            descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with open(descriptor, "rb") as stream:
                content = stream.read(FILE_BYTES_MAX + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise FileError("cli.base.unreadable", f"{place} cannot be read: {error.strerror}") from error
        if len(content) > FILE_BYTES_MAX:
            raise CommandError("cli.base.too_large", f"{place} is too long", expected=f"at most {FILE_BYTES_MAX} bytes")
        return FileState(MODE_EXECUTABLE if mode & stat.S_IXUSR else MODE_REGULAR, content)

    def states(self, diff: Diff) -> dict[str, FileState | None]:
        """Return the state of every file that a diff touches or copies."""
        return {path: self.read(path) for path in diff.reads}


def reverse_diff(diff: Diff) -> Diff:
    """Return the diff that undoes `diff` but for its copies, as a value to apply; it has no text of its own."""
    files = tuple(
        FileChange(
            kind=_KINDS[change.kind],
            old_path=change.new_path,
            new_path=change.old_path,
            old_mode=change.new_mode,
            new_mode=change.old_mode,
            similarity=change.similarity,
            blobs=None,
            hunks=tuple(
                Hunk(
                    old_start=hunk.new_start,
                    old_count=hunk.new_count,
                    new_start=hunk.old_start,
                    new_count=hunk.old_count,
                    section=hunk.section,
                    lines=tuple(_MARKERS[line[:1]] + line[1:] for line in hunk.lines),
                )
                for hunk in change.hunks
            ),
            binary=None if change.binary is None else change.binary[::-1],
        )
        for change in diff.files
        if change.kind in _KINDS
    )
    return Diff(files, b"", diff.lines_removed, diff.lines_added)
