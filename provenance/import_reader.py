"""The loose reader of sections and hunks, as other tools write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from provenance.diff_binary import read_packed
from provenance.diff_model import MODE_LINK, MODES
from provenance.errors import ImportRefusedError
from provenance.import_model import ForeignBinary, ForeignFile, ForeignHunk, Note

TRAILING_BLANKS_MAX: Final = 3
"""Blank context lines that may be missing at the very end: mail programs cut them, and every tool puts them back."""

NAME_LINE_BYTES_MAX: Final = 8192
"""What stands after `--- ` or `+++ `: the longest path in octal escapes with a date, and twice that."""

NOTES_MAX: Final = 200
"""Lines about one patch that a person may still want to read."""
_NOTE_BYTES_MAX: Final = 120

_NOISE: Final = re.compile(rb"Index:? .*|=+|diff .*|-- ?|[0-9]+\.[0-9][^ ]*(?: \([^()]*\))?|\s+|git-series .*|cgit .*")
"""What diff programs print above a section, and a mail's signature with git's version."""
_HUNK_HEADER: Final = re.compile(rb"@@ -([0-9]{1,9})(?:,([0-9]{1,9}))? \+([0-9]{1,9})(?:,([0-9]{1,9}))? @@")
_MAIL_START: Final = re.compile(rb"From [0-9a-f]{40,64} [A-Z][a-z]{2} [A-Z][a-z]{2} ")
_DATE: Final = re.compile(
    rb"[ \t]+(?:(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2}) (?P<time>[0-9]{2}:[0-9]{2})(?P<seconds>:[0-9]{2}(?:\.[0-9]+)?)?"
    rb"(?: (?P<zone>[+-][0-9]{4}))?|[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} (?:[A-Z]{3,5} )?[0-9]{4}(?: [+-][0-9]{4})?)[ \t]*"
)
_MODE_SUBMODULE: Final = 0o160000
_BINARY_PART: Final = re.compile(rb"(literal|delta) (0|[1-9][0-9]{0,8})")
_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_ESCAPE: Final = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_ESCAPED: Final = {
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"v": b"\v",
    b'"': b'"',
    b"\\": b"\\",
}


@dataclass(slots=True)
class _GitHeader:
    """What the lines between `diff --git` and the hunks say."""

    is_new: bool = False
    is_deleted: bool = False
    old_mode: int | None = None
    new_mode: int | None = None
    source: bytes | None = None
    target: bytes | None = None
    is_copy: bool = False
    blobs: tuple[str, str] = ("", "")


class Reader:
    """The lines of a foreign patch and a place in them; the lines of a hunk are let go when they were read."""

    def __init__(self, lines: list[bytes]) -> None:
        self.lines = lines
        self.index = 0
        self.mails = 0
        self.notes: list[Note] = []

    @property
    def at_end(self) -> bool:
        """Whether all lines are read."""
        return self.index >= len(self.lines)

    def line(self, ahead: int = 0) -> bytes:
        """Return a line without its end, CR included; b"" behind the last one."""
        at = self.index + ahead
        return self.lines[at].rstrip(b"\r\n") if at < len(self.lines) else b""

    def skip_text(self) -> int:
        """Go to the next section or the end, and return the index; what no section is must not be another kind of diff."""
        first = self.index
        while not self.at_end:
            line = self.line()
            if self._is_section():
                break
            if first and line and _NOISE.fullmatch(line) is None:
                self._note(self.index, f"not taken over, it stands between sections or below them: {_show(line)}")
            if _MAIL_START.match(line):
                self.mails += 1
                if self.mails > 1:
                    raise refusal("several_patches", "a file holds one patch; import the mails one by one", self.index)
            elif line.startswith((b"GIT binary patch", b"Binary files ")):
                raise refusal("binary", "binary changes are not accepted", self.index)
            elif (
                line.startswith(b"*** ")
                and self.line(1).startswith(b"--- ")
                and self.line(2).startswith(b"***************")
            ):
                raise refusal("not_unified", "context diffs are not read", self.index)
            elif line.startswith(b"@@ ") and _HUNK_HEADER.match(line):
                raise refusal("no_names", "a hunk stands below the names of its file", self.index)
            self.index += 1
        return self.index

    def read_section(self) -> ForeignFile:
        """Read the section that begins at the current line."""
        at = self.index
        git: _GitHeader | None = None
        git_names = b""
        if self.line().startswith(b"diff --git "):
            git_names = self.line()[len(b"diff --git ") :]
            self.index += 1
            git = self._read_git_header()
        old_name: str | None
        new_name: str | None
        binary: ForeignBinary | None = None
        if self._is_name_pair():
            has_returns = all(self.lines[self.index + ahead].endswith(b"\r\n") for ahead in (0, 1))
            old_name = self._parse_name(self.line()[4:])
            new_name = self._parse_name(self.line(1)[4:], ahead=1)
            self.index += 2
            hunks = self._read_hunks()
        else:
            has_returns, hunks = False, ()
            binary = self._read_binary(git)
            old_name = new_name = self._common_git_name(git_names, at, git)
        if git is not None:
            old_name = None if git.is_new else old_name
            new_name = None if git.is_deleted else new_name
        rename_from = None if git is None or git.source is None else self._decode(git.source, at)
        rename_to = None if git is None or git.target is None else self._decode(git.target, at)
        if old_name is None and new_name is None and rename_to is None:
            raise refusal("no_names", "a section names a file", at)
        return ForeignFile(
            old_name=old_name,
            new_name=new_name,
            is_git=git is not None,
            rename_from=rename_from,
            rename_to=rename_to,
            is_copy=git is not None and git.is_copy,
            old_mode=None if git is None else git.old_mode,
            new_mode=None if git is None else git.new_mode,
            has_carriage_returns=has_returns,
            hunks=hunks,
            line=at + 1,
            binary=binary,
        )

    def _is_section(self) -> bool:
        return self.line().startswith(b"diff --git ") or self._is_name_pair()

    def _is_name_pair(self) -> bool:
        return (
            self.line().startswith(b"--- ")
            and self.line(1).startswith(b"+++ ")
            and _HUNK_HEADER.match(self.line(2)) is not None
        )

    def _read_git_header(self) -> _GitHeader:
        header = _GitHeader()
        while not self.at_end and not self._is_section():
            word, rest = self._split_header_line()
            match word:
                case b"old mode" | b"deleted file mode":
                    header.old_mode = self._parse_mode(rest)
                    header.is_deleted = word == b"deleted file mode"
                case b"new mode" | b"new file mode":
                    header.new_mode = self._parse_mode(rest)
                    header.is_new = word == b"new file mode"
                case b"rename from" | b"copy from":
                    header.source = rest
                    header.is_copy = word == b"copy from"
                case b"rename to" | b"copy to":
                    header.target = rest
                case b"index":
                    old, _, new = rest.partition(b" ")[0].decode("ascii", "replace").partition("..")
                    header.blobs = (old, new)
                case b"similarity index" | b"dissimilarity index":
                    pass
                case _:
                    break
            self.index += 1
        if (header.source is None) != (header.target is None):
            raise refusal("no_names", "a rename or copy names both files", self.index)
        return header

    def _split_header_line(self) -> tuple[bytes, bytes]:
        """Return the words and the value of a git header line; (b"", b"") for any other line."""
        line = self.line()
        for word in (
            b"old mode",
            b"new mode",
            b"deleted file mode",
            b"new file mode",
            b"similarity index",
            b"dissimilarity index",
        ):
            if line.startswith(word + b" "):
                return word, line[len(word) + 1 :]
        for word in (b"rename from", b"rename to", b"copy from", b"copy to", b"index"):
            if line.startswith(word + b" "):
                return word, line[len(word) + 1 :]
        return b"", b""

    def _parse_mode(self, text: bytes) -> int:
        try:
            mode = int(text, 8)
        except ValueError:
            raise refusal("mode", "a mode is 100644 or 100755", self.index, actual=text.decode("latin-1")) from None
        if mode == 0o100664:
            # Old git versions recorded group-writable files; git itself has long read them so.
            self._note(self.index, "mode 100664 is read as 100644")
            mode = 0o100644
        if mode not in (*MODES, MODE_LINK):
            what = "a submodule is another repository's commit and no file: " if mode == _MODE_SUBMODULE else ""
            raise refusal(
                "mode",
                f"{what}only links and regular files with mode 100644 or 100755 are accepted",
                self.index,
                actual=text.decode("latin-1"),
            )
        return mode

    def _parse_name(self, text: bytes, ahead: int = 0) -> str | None:
        """Return the name on a `---` or `+++` line without date; None if it says that the file is not there."""
        if len(text) > NAME_LINE_BYTES_MAX:
            raise refusal("name", "a name line has too many bytes", self.index + ahead, expected=NAME_LINE_BYTES_MAX)
        date = None
        if text.startswith(b'"'):
            name = text
        elif b"\t" in text:
            name, _, rest = text.partition(b"\t")
            date = _DATE.fullmatch(b"\t" + rest)
        else:
            date = _DATE.search(text)
            name = text if date is None or date.end() != len(text) else text[: date.start()]
        if name == b"/dev/null" or (date is not None and _is_epoch(date)):
            return None
        return self._decode(name, self.index + ahead)

    def _decode(self, name: bytes, index: int) -> str:
        if name.startswith(b'"'):
            match = _QUOTED.match(name)
            if match is None:
                raise refusal("name", "a quoted name ends with a quote", index)
            name = _ESCAPE.sub(_unescape, match[1])
        try:
            return name.decode("utf-8")
        except UnicodeDecodeError:
            raise refusal("name", "a file's name is UTF-8", index, actual=name) from None

    def _common_git_name(self, names: bytes, index: int, git: _GitHeader | None) -> str | None:
        """Return the name that both halves of a `diff --git` line share, with its prefix; None for a rename, which says its names."""
        if git is not None and git.source is not None:
            return None
        if names.startswith(b'"'):
            match = _QUOTED.match(names)
            first = b"" if match is None else match[0]
            if names == first + b" " + first[:1] + b"b" + first[2:]:
                return self._decode(first, index)
        half = len(names) // 2
        first, second = names[:half], names[half + 1 :]
        if names[half : half + 1] == b" " and (
            first == second or first.partition(b"/")[2] == second.partition(b"/")[2] != b""
        ):
            return self._decode(second, index)
        raise refusal("no_names", "a section without hunks names its file twice in the same way", index, actual=names)

    def _read_binary(self, git: _GitHeader | None) -> ForeignBinary | None:
        """Read both parts of a binary change and return the first, if one stands here."""
        if git is None or self.line() != b"GIT binary patch":
            return None
        at = self.index
        self.index += 1
        parts: list[tuple[bool, bytes]] = []
        while len(parts) < 2 and (match := _BINARY_PART.fullmatch(self.line())) is not None:
            self.index += 1
            begin = self.index
            while self.line():
                self.index += 1
            data = read_packed([line.rstrip(b"\r\n") for line in self.lines[begin : self.index]], int(match[2]))
            if data is None:
                raise refusal("binary", "a part of a binary change is damaged", begin)
            parts.append((match[1] == b"delta", data))
            self.index += not self.at_end
        if not parts:
            raise refusal("binary", "a binary change begins with its new content", at)
        return ForeignBinary(*parts[0], *git.blobs)

    def _read_hunks(self) -> tuple[ForeignHunk, ...]:
        hunks: list[ForeignHunk] = []
        while (match := _HUNK_HEADER.match(self.line())) is not None:
            at = self.index
            self.index += 1
            counts = [1 if group is None else int(group) for group in (match[2], match[4])]
            hunks.append(self._read_hunk(at, int(match[1]), counts[0], counts[1]))
        return tuple(hunks)

    def _read_hunk(self, at: int, old_start: int, old_left: int, new_left: int) -> ForeignHunk:
        old: list[bytes] = []
        new: list[bytes] = []
        before = after = 0
        changed = False
        blanks = 0
        while old_left or new_left:
            if self.at_end:
                # Mail programs cut blank lines at the end; more than a few are no accident.
                blanks += 1
                self._note(self.index - 1, "a blank line cut off at the end is put back")
                if blanks > TRAILING_BLANKS_MAX:
                    raise refusal("hunk_count", "a hunk has as many lines as its header says", at)
                line = b" \n"
            else:
                line = self._take_hunk_line()
            marker, text = line[:1], line[1:]
            if marker != b"+":
                old.append(text)
                old_left -= 1
            if marker != b"-":
                new.append(text)
                new_left -= 1
            if old_left < 0 or new_left < 0:
                raise refusal("hunk_count", "a hunk has as many lines as its header says", self.index - 1)
            if marker == b" ":
                after += 1
                before += not changed
            else:
                changed, after = True, 0
        if not changed:
            raise refusal("no_change", "a hunk changes something", at)
        return ForeignHunk(old_start, tuple(old), tuple(new), before, after, at + 1)

    def _take_hunk_line(self) -> bytes:
        """Step over one hunk line and return it with its marker; its newline is missing if the patch says so."""
        line = self.lines[self.index]
        if line in (b"\n", b"\r\n"):
            line = b" " + line  # a blank context line whose only space was trimmed
            self._note(self.index, "a blank context line gets its space back")
        if line[:1] not in (b" ", b"-", b"+"):
            raise refusal("hunk_line", "a hunk line begins with a space, '-' or '+'", self.index, actual=line)
        self.lines[self.index] = b""
        self.index += 1
        if not self.at_end and self.lines[self.index].startswith(b"\\ "):
            self.index += 1
            return line.removesuffix(b"\n")
        if line.endswith(b"\n"):
            return line
        # A patch whose last newline was cut is a common accident, and the marker above would say if it were meant.
        self._note(self.index - 1, "the newline cut off at the end of the patch is put back")
        return line + b"\n"

    def _note(self, index: int, text: str) -> None:
        """Keep what is not taken over as it stands; beyond `NOTES_MAX` only that there is more."""
        if len(self.notes) < NOTES_MAX:
            self.notes.append(Note(index + 1, text))
        elif len(self.notes) == NOTES_MAX:
            self.notes.append(Note(index + 1, "more such lines follow"))


def _show(line: bytes) -> str:
    """Return a line as a terminal may show it, cut."""
    return line[:_NOTE_BYTES_MAX].decode("ascii", "backslashreplace").translate(_UNPRINTABLE)


_UNPRINTABLE: Final = dict.fromkeys((*range(32), 127), "?")


def _is_epoch(date: re.Match[bytes]) -> bool:
    """Return whether a date is 1970-01-01 00:00 UTC, which GNU diff prints for a missing file."""
    if date["day"] not in (b"1969-12-31", b"1970-01-01") or date["zone"] is None:
        return False
    zone = date["zone"]
    offset = int(zone[1:3]) * 60 + int(zone[3:5])
    minutes = int(date["time"][:2]) * 60 + int(date["time"][3:5]) - (24 * 60 if date["day"] == b"1969-12-31" else 0)
    return minutes == (offset if zone[:1] == b"+" else -offset) and not (date["seconds"] or b"").strip(b":0.")


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes([int(code, 8) & 0xFF]) if len(code) == 3 else _ESCAPED.get(code, match[0])


def refusal(
    rule: str, message: str, index: int, *, expected: object = None, actual: object = None
) -> ImportRefusedError:
    """Return the refusal of one line, given by its 0-based index."""
    return ImportRefusedError(
        f"provenance.import.{rule}",
        f"line {index + 1}: {message}",
        expected=expected,
        actual=actual,
        details={"line": index + 1},
    )
