"""The strict reader of unified diffs: bytes in, a `Diff` with one meaning out, or a refusal with a code.

Accepted is what `git diff` prints for text: modified, added, deleted, renamed, copied files with modes 100644 and 100755. Whatever two of
git, GNU patch and busybox patch read differently is refused, as is every text that the printed form does not give back byte for byte.
Binary content and symbolic links are read only with an `Allowance`.
The reader goes once over the lines; all its work is linear in the size of the text.

======================  =======================================================
module                  holds
======================  =======================================================
``diff_model``          the values and their printed form
``diff_paths``          which path names are allowed
``diff_reader``         the lines and the place in them
``diff_hunks``          the reader of hunks
``diff_binary``         the reader of binary content
``diff`` (this one)     the reader of sections; also the door to the values
``diff_apply``          the exact application to pre-images
``diff_match``          which lines of two files differ
``diff_make``           the exact diff between two states
``diff_lint``           what an accepted diff may still hide
======================  =======================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from provenance.diff_binary import BINARY_BYTES_MAX, begins_binary, read_binary
from provenance.diff_hunks import read_hunks
from provenance.diff_model import (
    MODE_EXECUTABLE,
    MODE_LINK,
    MODE_REGULAR,
    MODES,
    Allowance,
    BinaryPart,
    ChangeKind,
    Diff,
    FileChange,
    FileState,
    Hunk,
    is_printed_form,
    name_tail,
    print_diff,
)
from provenance.diff_paths import check_link_target, check_no_nesting, decode_path_untrusted
from provenance.diff_reader import Reader, refusal
from provenance.errors import DiffRefusedError
from wire.limits import PATCH_FILE_BYTES_MAX

__all__ = [
    "MODES",
    "MODE_EXECUTABLE",
    "MODE_LINK",
    "MODE_REGULAR",
    "Allowance",
    "ChangeKind",
    "Diff",
    "FileChange",
    "FileState",
    "Hunk",
    "parse_diff_untrusted",
    "print_diff",
]

DIFF_BYTES_MAX: Final = PATCH_FILE_BYTES_MAX
"""One diff: it cannot be larger than the file around it."""
DIFF_LINES_MAX: Final = 4_000_000
"""Lines of one diff: what `DIFF_BYTES_MAX` holds at an ordinary 32 bytes a line."""
DIFF_LINE_BYTES_MAX: Final = 1024 * 1024
"""One line without its newline; generated sources do hold lines of hundreds of kilobytes."""
DIFF_FILES_MAX: Final = 20_000
"""Sections of one diff, more than a release of a large system touches."""

_INDEX: Final = re.compile(rb"([0-9a-f]{4,64})\.\.([0-9a-f]{4,64})(?: ([0-7]{6}))?")
_MODE: Final = re.compile(rb"[0-7]{6}")
_SIMILARITY: Final = re.compile(rb"(0|[1-9][0-9]?|100)%")
_EMPTY_BLOBS: Final = (
    "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
    "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813",
)
"""Git's names of empty content, with SHA-1 and with SHA-256."""


_NOTHING: Final[frozenset[Allowance]] = frozenset()


def parse_diff_untrusted(
    data: bytes,
    allowed: frozenset[Allowance] = _NOTHING,
    *,
    begin: int = 0,
    end: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Diff:
    """Return the diff that `data` is, whole: nothing stands before, between or after its sections.

    The caller must still compare pre-images: a diff says nothing about the tree that it is meant for.

    Args:
        data: The diff's bytes, at most `DIFF_BYTES_MAX`, from `diff --git ` up to and including the last newline; or a file around it.
        allowed: What its author allows it to hold besides text.
        begin: Where in `data` the diff begins.
        end: Behind its last newline; by default the end of `data`.
        progress: Told after each section how many bytes are read.

    Returns:
        A diff for which `print_diff` gives `data` again.

    Raises:
        DiffRefusedError: `provenance.diff.<rule>` with the 1-based line in `details["line"]` where one line is at fault.

    Source: docs/spec/diff.md 2 to 4.
    """
    end = len(data) if end is None else end
    if end - begin > DIFF_BYTES_MAX:
        raise DiffRefusedError(
            "provenance.diff.size", "a diff has too many bytes", expected=DIFF_BYTES_MAX, actual=end - begin
        )
    if begin == end:
        raise DiffRefusedError("provenance.diff.empty", "a diff changes at least one file")
    if data[end - 1 : end] != b"\n":
        raise DiffRefusedError("provenance.diff.truncated", "the last line of a diff ends with a newline")
    if (count := data.count(b"\n", begin, end)) > DIFF_LINES_MAX:
        raise DiffRefusedError(
            "provenance.diff.size", "a diff has too many lines", expected=DIFF_LINES_MAX, actual=count
        )
    if (position := data.find(b"\0", begin, end)) >= 0:
        line = data.count(b"\n", begin, position) + 1
        raise refusal("nul_byte", "a text diff has no NUL byte: busybox patch ends the line there", line)
    reader = Reader(data, begin, end, DIFF_LINE_BYTES_MAX)
    files: list[FileChange] = []
    touched: set[str] = set()
    room = BINARY_BYTES_MAX
    while not reader.at_end:
        at = reader.number
        change = _read_section(reader, allowed, room)
        room -= sum(len(part.content) for part in change.binary or ())
        for path in change.paths:
            if path in touched:
                raise refusal("duplicate_path", "two sections touch one path", at, actual=path)
            touched.add(path)
        files.append(change)
        if progress is not None:
            progress(reader.position - begin)
        if len(files) > DIFF_FILES_MAX:
            raise refusal("size", "a diff has too many sections", at, expected=DIFF_FILES_MAX)
    _check_copies(files)
    check_no_nesting(touched.union(*(change.reads for change in files)))
    added = sum(change.lines_added for change in files)
    removed = sum(change.lines_removed for change in files)
    text = data if (begin, end) == (0, len(data)) else memoryview(data)[begin:end]
    diff = Diff(tuple(files), text, added, removed)
    if not is_printed_form(
        diff, data, begin, end
    ):  # pragma: no cover - each rule above already fixes the text; this is the proof of the whole
        raise DiffRefusedError("provenance.diff.not_canonical", "a diff is exactly what its own parts print")
    return diff


def _read_section(reader: Reader, allowed: frozenset[Allowance], room: int) -> FileChange:
    """Read one section, header and content."""
    at = reader.number
    names = reader.demand(b"diff --git ", "a section begins with 'diff --git '")
    links = Allowance.SYMLINK in allowed
    kind, old_mode, new_mode = _read_modes(reader, links=links)
    similarity: int | None = None
    if reader.line.startswith(b"similarity index "):
        if kind is not ChangeKind.MODIFY:
            raise refusal(
                "header_order", "a file that is added or deleted is not renamed or copied as well", reader.number
            )
        kind, similarity, old, new = _read_move(reader)
        _check_names(names, b"a/%s b/%s" % (old.encode(), new.encode()), at)
    elif reader.line.startswith((b"rename from ", b"rename to ")):
        raise refusal("header_order", "'similarity index' stands before 'rename from'", reader.number)
    else:
        old = new = _split_names(names, at)
    blobs, index_mode = _read_index(reader, kind, links=links)
    if index_mode is not None:
        if old_mode is not None or kind in (ChangeKind.ADD, ChangeKind.DELETE):
            raise refusal("index_line", "an index line names a mode only where no other line does", reader.number - 1)
        old_mode = new_mode = index_mode
    hunks: tuple[Hunk, ...] = ()
    binary: tuple[BinaryPart, BinaryPart] | None = None
    if Allowance.BINARY in allowed and begins_binary(reader):
        binary = read_binary(reader, blobs, room)
    elif reader.line.startswith((b"--- ", b"@@ ", b"+++ ")):
        _read_name_line(reader, b"--- ", b"a/", None if kind is ChangeKind.ADD else old)
        _read_name_line(reader, b"+++ ", b"b/", None if kind is ChangeKind.DELETE else new)
        hunks = read_hunks(reader, kind)
    elif not reader.at_end and not reader.line.startswith(b"diff --git "):
        raise reader.unexpected("after its header a section goes on with '--- ', or ends")
    if binary is not None and not reader.at_end and not reader.line.startswith(b"diff --git "):
        raise reader.unexpected("a binary change ends its section")
    change = FileChange(
        kind=kind,
        old_path=None if kind is ChangeKind.ADD else old,
        new_path=None if kind is ChangeKind.DELETE else new,
        old_mode=old_mode,
        new_mode=new_mode,
        similarity=similarity,
        blobs=blobs,
        hunks=hunks,
        binary=binary,
    )
    _check_substance(change, at)
    if change.is_link:
        _check_link(change, at)
    return change


def _read_modes(reader: Reader, *, links: bool) -> tuple[ChangeKind, int | None, int | None]:
    """Read the lines that say what happens to the file and its mode; none of them: modified, mode not said."""
    if (text := reader.take(b"new file mode ")) is not None:
        return ChangeKind.ADD, None, _parse_mode(text, reader.number - 1, links=links)
    if (text := reader.take(b"deleted file mode ")) is not None:
        return ChangeKind.DELETE, _parse_mode(text, reader.number - 1, links=links), None
    if (text := reader.take(b"old mode ")) is not None:
        old = _parse_mode(text, reader.number - 1)
        new = _parse_mode(reader.demand(b"new mode ", "'new mode' follows 'old mode'"), reader.number - 1)
        if old == new:
            raise refusal("mode", "a change of mode changes the mode", reader.number - 1)
        return ChangeKind.MODIFY, old, new
    return ChangeKind.MODIFY, None, None


def _parse_mode(text: bytes, line: int, *, links: bool = False) -> int:
    if _MODE.fullmatch(text) is None:
        raise refusal("mode", "a mode has six octal digits", line, actual=text.decode("latin-1"))
    mode = int(text, 8)
    if links and mode == MODE_LINK:
        return mode
    if mode & 0o170000 != 0o100000:
        raise refusal(
            "file_type",
            "only regular files are accepted, and links where the author allows them (symlink)",
            line,
            actual=text.decode("latin-1"),
        )
    if mode not in MODES:
        raise refusal("mode", "a mode is 100644 or 100755", line, actual=text.decode("latin-1"))
    return mode


def _read_move(reader: Reader) -> tuple[ChangeKind, int, str, str]:
    """Read `similarity index`, then `rename from` and `rename to`, or `copy from` and `copy to`."""
    text = reader.demand(b"similarity index ", "a rename or copy has a similarity")
    if _SIMILARITY.fullmatch(text) is None:
        raise refusal("similarity", "a similarity is a percentage from 0% to 100%", reader.number - 1, actual=text)
    kind = ChangeKind.COPY if reader.line.startswith(b"copy from ") else ChangeKind.RENAME
    word = kind.value
    old = _decode_name(
        reader.demand(f"{word} from ".encode(), "'rename from' or 'copy from' follows 'similarity index'"),
        reader.number - 1,
    )
    new = _decode_name(reader.demand(f"{word} to ".encode(), f"'{word} to' follows '{word} from'"), reader.number - 1)
    if old == new:
        raise refusal("name_disagreement", f"a {word} has two names", reader.number - 1, actual=new)
    return kind, int(text[:-1]), old, new


def _read_index(reader: Reader, kind: ChangeKind, *, links: bool) -> tuple[tuple[str, str] | None, int | None]:
    """Read the optional index line: both blob names and the mode."""
    text = reader.take(b"index ")
    if text is None:
        return None, None
    line = reader.number - 1
    match = _INDEX.fullmatch(text)
    if match is None:
        raise refusal("index_line", "an index line has two blob names and at most one mode", line, actual=text)
    old, new = match[1].decode(), match[2].decode()
    old_absent, new_absent = not old.strip("0"), not new.strip("0")
    if old_absent != (kind is ChangeKind.ADD) or new_absent != (kind is ChangeKind.DELETE):
        raise refusal(
            "index_line", "a blob name of zeros stands for the missing side, and only there", line, actual=text
        )
    if old == new:
        raise refusal("index_line", "an index line names two contents", line, actual=text)
    return (old, new), None if match[3] is None else _parse_mode(match[3], line, links=links)


def _read_name_line(reader: Reader, marker: bytes, prefix: bytes, path: str | None) -> None:
    """Step over a `---` or `+++` line that names exactly `path` (None: `/dev/null`)."""
    text = reader.demand(marker, f"'{marker.decode()}' with the file's name comes next")
    expected = b"/dev/null" if path is None else prefix + path.encode() + name_tail(path)[:-1]
    if text == expected:
        return
    line = reader.number - 1
    if text.startswith(b'"'):
        raise refusal("quoted_name", "names in quotes are not accepted", line)
    if path is not None and text == prefix + path.encode():
        raise refusal("name_tab", "a name with a space ends with a TAB, or GNU patch reads it short", line)
    if b"\t" in text and text.split(b"\t", 1)[0] == expected.rstrip(b"\t"):
        raise refusal("name_suffix", "nothing follows a name, no TAB without need and no date", line, actual=text)
    raise refusal("name_disagreement", "all names of a section agree", line, expected=expected, actual=text)


def _split_names(names: bytes, line: int) -> str:
    """Return P of `a/P b/P`."""
    if names.startswith(b'"') or names.endswith(b'"'):
        raise refusal("quoted_name", "names in quotes are not accepted", line)
    half = len(names) // 2
    if not names.startswith(b"a/") or b" b/" not in names:
        raise refusal("name_prefix", "names begin with 'a/' and 'b/'", line, actual=names)
    if names[half : half + 3] != b" b/" or names[2:half] != names[half + 3 :]:
        raise refusal(
            "name_disagreement", "both names of a section agree unless it is a rename or copy", line, actual=names
        )
    return decode_path_untrusted(names[2:half], line=line)


def _decode_name(name: bytes, line: int) -> str:
    if name.startswith(b'"'):
        raise refusal("quoted_name", "names in quotes are not accepted", line)
    return decode_path_untrusted(name, line=line)


def _check_names(names: bytes, expected: bytes, line: int) -> None:
    if names != expected:
        raise refusal("name_disagreement", "all names of a section agree", line, expected=expected, actual=names)


def _check_substance(change: FileChange, line: int) -> None:
    """Raise unless the section's parts fit each other: something changes, and no line speaks of content that stays."""
    match change.kind:
        case ChangeKind.ADD | ChangeKind.DELETE:
            if not change.changes_content:
                _check_empty(change, line)
        case ChangeKind.MODIFY:
            if not change.changes_content and change.old_mode == change.new_mode:
                raise refusal("no_change", "a section changes something", line)
            if change.blobs is not None and not change.changes_content:
                raise refusal("index_line", "an index line stands only where content changes", line)
        case ChangeKind.RENAME | ChangeKind.COPY:
            if (change.similarity == 100) == change.changes_content:
                raise refusal("similarity", f"a {change.kind} has hunks exactly if its similarity is below 100%", line)
            if change.blobs is not None and not change.changes_content:
                raise refusal("index_line", "an index line stands only where content changes", line)
    if not change.changes_content and any(" " in path for path in change.reads):
        raise refusal(
            "name_space", "GNU patch does not find a name with a space in a section without '---' and '+++'", line
        )


def _check_copies(files: list[FileChange]) -> None:
    """Raise unless every copy is of a file that was there before the whole diff, and still is at its place in the diff.

    Git copies what was there before the first section, whatever stands in between. GNU patch does too, unless an earlier section has
    taken the source away: then it copies nothing. A source that the diff itself makes is copied by GNU patch and refused by git.
    """
    if all(change.kind is not ChangeKind.COPY for change in files):
        return
    made = {change.path for change in files if change.kind not in (ChangeKind.MODIFY, ChangeKind.DELETE)}
    gone: set[str] = set()
    for change in files:
        if change.kind is ChangeKind.COPY:
            source = change.reads[0]
            if source in made or source in gone:
                raise DiffRefusedError(
                    "provenance.diff.copy",
                    f"{change.path!a}: a copy is of a file that was there before the diff, and stands in front of the section "
                    "that takes its source away",
                    actual=source,
                    details={"path": change.path},
                )
        elif change.kind in (ChangeKind.RENAME, ChangeKind.DELETE):
            gone.add(change.paths[0])


def _check_link(change: FileChange, line: int) -> None:
    """Raise unless a section about a link shows the targets whole, and the one it is to have is below the root."""
    if change.kind in (ChangeKind.RENAME, ChangeKind.COPY) or change.binary is not None or len(change.hunks) != 1:
        raise refusal("link_form", "a link is added, changed or deleted by one hunk with its whole target", line)
    lines = change.hunks[0].lines
    expected = {ChangeKind.ADD: (b"+",), ChangeKind.DELETE: (b"-",)}.get(change.kind, (b"-", b"+"))
    if tuple(each[:1] for each in lines) != expected or any(each.endswith(b"\n") for each in lines):
        raise refusal("link_form", "a link's target is one line without newline", line)
    if lines[-1][:1] == b"+":
        check_link_target(lines[-1][1:], change.path, line=line)


def _check_empty(change: FileChange, line: int) -> None:
    """Raise unless a file that comes or goes without a hunk has an index line that says it is empty.

    Without the line, GNU patch in batch mode leaves a deleted empty file where it is.
    """
    blobs = change.blobs or ("", "")
    name = blobs[1] if change.kind is ChangeKind.ADD else blobs[0]
    if not name or not any(empty.startswith(name) for empty in _EMPTY_BLOBS):
        raise refusal(
            "index_line", "an empty file that is added or deleted has an index line with the name of no content", line
        )
