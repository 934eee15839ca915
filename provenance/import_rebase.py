"""Where a foreign patch's hunks belong in one base: the search of GNU patch without fuzz, refusing what has two answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from provenance.diff_apply import split_lines
from provenance.diff_binary import apply_delta, blob_name
from provenance.diff_match import find_lines
from provenance.diff_model import MODE_LINK, MODE_REGULAR, FileState
from provenance.diff_paths import check_path
from provenance.errors import ImportRefusedError
from provenance.import_model import ForeignBinary, ForeignFile, ForeignHunk, ForeignPatch, Move, Note, Rebased
from wire.errors import RejectedError

SEARCH_LINES_MAX: Final = 50_000_000
"""Lines looked at in all searches of one patch: seconds of work; a patch that needs more is not meant for this base."""

ReadState: TypeAlias = Callable[[str], FileState | None]
"""Answers the state of a path in the base, None if it is absent. Called with checked paths only."""


def rebase(foreign: ForeignPatch, read: ReadState, *, strip: int | None = None) -> Rebased:
    """Return what the patch does to a base, with every hunk at its one place.

    Without `strip` the patch is tried with one leading component taken from its names and with none. If both fit the base, names that
    all begin with `a/` and `b/` decide; otherwise the patch is refused.

    Args:
        foreign: A patch that was read.
        read: The base; the `get` of a mapping will do.
        strip: Leading components of its names that do not belong to the base's paths, 0 or 1, if the caller knows.

    Raises:
        ImportRefusedError: `provenance.import.<rule>`, the 1-based line of the patch in `details["line"]`.
        DiffRefusedError: `provenance.diff.path_*` for a name that no diff may touch.

    Source: docs/spec/diff.md 7.3.
    """
    if strip is not None:
        return _Base(read, strip).apply(foreign)
    absent = "provenance.import.absent"
    results: dict[int, Rebased] = {}
    refusals: dict[int, RejectedError] = {}
    for level in (1, 0):
        try:
            results[level] = _Base(read, level).apply(foreign)
        except RejectedError as error:
            refusals[level] = error
    prefixed = all(_is_prefixed(file) for file in foreign.files)
    if len(results) == 2 and not prefixed and results[0].post != results[1].post:
        raise ImportRefusedError(
            "provenance.import.strip_ambiguous",
            "the names fit the base with and without their first component",
            hint="Say which is meant: --strip 1 takes the first component away, --strip 0 leaves it.",
        )
    if 1 in results:
        return results[1]
    # A file of the base proves that names stand for themselves. Without that, a refused addition would end up below `b/`.
    if 0 in results and (refusals[1].code == absent or any(state is not None for state in results[0].pre.values())):
        return results[0]
    # Of two refusals, the one that says more: a name that is not there is what the wrong level usually gives.
    if not prefixed and refusals[1].code == absent and refusals[0].code != absent:
        raise refusals[0]
    raise refusals[1]


class _Base:
    """The base while a patch is applied to a copy of it."""

    def __init__(self, read: ReadState, strip: int) -> None:
        self._read = read
        self._strip = strip
        self._pre: dict[str, FileState | None] = {}
        self._now: dict[str, FileState | None] = {}
        self._renames: dict[str, str] = {}
        self._copies: dict[str, str] = {}
        self._moves: list[Move] = []
        self._notes: list[Note] = []
        self._lines: dict[str, int] = {}
        self._search_lines = 0

    def apply(self, foreign: ForeignPatch) -> Rebased:
        for file in foreign.files:
            self._apply_file(file)
        touched = {path for path, state in self._pre.items() if self._now[path] != state}
        renames = {new: old for new, old in sorted(self._renames.items()) if self._is_plain_rename(old, new)}
        for new in self._renames.keys() - renames.keys():
            self._note(self._lines[new], f"a rename becomes a deletion and an addition: {new!a}")
        copies = {new: old for new, old in sorted(self._copies.items()) if self._is_plain_copy(old, new, renames)}
        for new in self._copies.keys() - copies.keys():
            self._note(self._lines[new], f"a copy becomes an addition: {new!a}")
        for path in self._lines.keys() - touched:
            self._note(self._lines[path], f"nothing of it is left, the file ends as it was: {path!a}")
        named = sorted(touched.union(copies.values()))
        return Rebased(
            pre={path: self._pre[path] for path in named},
            post={path: self._now[path] for path in named},
            renames=renames,
            copies=copies,
            strip=self._strip,
            moves=tuple(self._moves),
            notes=tuple(sorted(self._notes, key=lambda note: note.line)),
        )

    def _note(self, line: int, text: str) -> None:
        self._notes.append(Note(line, text))

    def _is_plain_rename(self, old: str, new: str) -> bool:
        """Return whether a rename is still one after all sections, in a form that every tool reads."""
        before, after = self._pre[old], self._now[new]
        if before is None or after is None or self._pre[new] is not None or self._now[old] is not None:
            return False
        # GNU patch reads names with spaces only from `---` and `+++`, which a rename without changed lines does not have.
        return before.content != after.content or " " not in old + new

    def _is_plain_copy(self, source: str, new: str, renames: Mapping[str, str]) -> bool:
        """Return whether a copy is still one of what the base has, in a form that every tool reads."""
        before, after = self._pre[source], self._now[new]
        if before is None or after is None or self._pre[new] is not None or new in renames:
            return False
        if MODE_LINK in (before.mode, after.mode):
            return False
        if self._now[source] is None:
            # GNU patch copies nothing any more when an earlier section has taken the source away.
            taken_by = next((path for path, old in renames.items() if old == source), source)
            if new.encode() > taken_by.encode():
                return False
        return before.content != after.content or " " not in source + new

    def _get(self, path: str) -> FileState | None:
        if path not in self._now:
            check_path(path)
            self._pre[path] = self._now[path] = self._read(path)
        return self._now[path]

    def _apply_file(self, file: ForeignFile) -> None:
        if file.rename_from is not None and file.rename_to is not None:
            self._apply_rename(file, file.rename_from, file.rename_to)
            return
        path = self._find_path(file)
        if path in self._lines:
            self._note(file.line, f"it joins the section of line {self._lines[path]} for the same file: {path!a}")
        self._lines.setdefault(path, file.line)
        state = self._get(path)
        is_new = file.old_name is None or (state is None and _adds_whole_file(file.hunks))
        if is_new and state is not None:
            raise _refusal("exists", f"a file to add is already in the base: {path!a}", file.line)
        if not is_new and state is None:
            raise _refusal("absent", f"a file to change is not in the base: {path!a}", file.line)
        before = FileState(file.new_mode or MODE_REGULAR, b"") if state is None else state
        content = self._apply_hunks(file, before.content, path)
        if file.new_name is None:
            if content:
                raise _refusal(
                    "remainder", f"a deleted file has lines that the patch does not show: {path!a}", file.line
                )
            self._now[path] = None
        else:
            self._now[path] = FileState(file.new_mode or before.mode, content)

    def _apply_rename(self, file: ForeignFile, source: str, target: str) -> None:
        state = self._get(source)
        if file.is_copy:
            # Git copies what was there before the whole patch, whatever earlier sections have made of it.
            state = self._pre[source] or state
        if state is None:
            raise _refusal("absent", f"a file to rename or copy is not in the base: {source!a}", file.line)
        if self._get(target) is not None:
            raise _refusal("exists", f"a file stands where another one should go: {target!a}", file.line)
        content = self._apply_hunks(file, state.content, source)
        self._now[target] = FileState(file.new_mode or state.mode, content)
        self._lines.setdefault(target, file.line)
        if file.is_copy:
            self._copies[target] = source
        else:
            self._now[source] = None
            self._renames[target] = source

    def _find_path(self, file: ForeignFile) -> str:
        """Return the path that a section means: the new name, or the old one where only that is in the base."""
        names = [self._strip_name(name, file.line) for name in (file.new_name, file.old_name) if name is not None]
        known = [name for name in dict.fromkeys(names) if self._get(name) is not None]
        if len(known) > 1:
            raise _refusal(
                "name_ambiguous", f"two names of one section are in the base: {known[0]!a} and {known[1]!a}", file.line
            )
        return known[0] if known else names[0]

    def _strip_name(self, name: str, line: int) -> str:
        components = [component for component in name.split("/") if component not in ("", ".")]
        if name.startswith("/") or len(components) <= self._strip:
            raise _refusal("absent", f"a name does not lead into the base: {name!a}", line)
        return "/".join(components[self._strip :])

    def _apply_hunks(self, file: ForeignFile, content: bytes, path: str) -> bytes:
        if file.binary is not None:
            return _apply_binary(file.binary, content, path, file.line)
        if not file.has_carriage_returns:
            return self._place(file.hunks, content, path)
        # The whole section has gone through a conversion to CR LF, or it really changes a file with such lines.
        try:
            result = self._place([hunk.without_carriage_returns() for hunk in file.hunks], content, path)
            self._note(file.line, f"carriage returns are taken off its lines: {path!a}")
            return result
        except ImportRefusedError as refusal:
            if refusal.code != "provenance.import.mismatch":
                raise
            return self._place(file.hunks, content, path)

    def _place(self, hunks: Sequence[ForeignHunk], content: bytes, path: str) -> bytes:
        """Return the content after all hunks of one section."""
        lines = split_lines(content)
        result: list[bytes] = []
        moves: list[Move] = []
        done = shift = 0
        for hunk in hunks:
            begin = self._locate(lines, hunk, done, shift, path)
            end = begin + len(hunk.old_lines)
            if hunk.new_lines and not hunk.new_lines[-1].endswith(b"\n") and end != len(lines):
                raise _refusal("no_newline", f"a line without newline is the last one of its file: {path!a}", hunk.line)
            result += lines[done:begin]
            result += hunk.new_lines
            done = end
            shift = begin - _guess(hunk)
            if shift:
                moves.append(Move(path, hunk.line, shift))
        self._moves += moves
        return b"".join(result + lines[done:])

    def _locate(self, lines: Sequence[bytes], hunk: ForeignHunk, frozen: int, shift: int, path: str) -> int:
        """Return the index at which the hunk's old lines stand, not before `frozen`."""
        pattern = list(hunk.old_lines)
        last = len(lines) - len(pattern)
        if not pattern:
            if lines:
                raise _refusal(
                    "no_context", f"lines are inserted at a place that no context fixes: {path!a}", hunk.line
                )
            return 0
        # Less context on one side says that the file begins or ends there; both git and GNU patch read it so.
        if hunk.context_before < hunk.context_after and hunk.old_start <= 1:
            candidates = [0] if not frozen and list(lines[: len(pattern)]) == pattern else []
        elif hunk.context_after < hunk.context_before:
            candidates = [last] if last >= frozen and list(lines[last:]) == pattern else []
        else:
            expected = _guess(hunk) + shift
            if expected >= frozen and list(lines[expected : expected + len(pattern)]) == pattern:
                return expected
            self._search_lines += len(lines) - frozen
            if self._search_lines > SEARCH_LINES_MAX:
                raise _refusal("search_limit", "too many hunks of the patch are not where it says", hunk.line)
            candidates = find_lines(lines, pattern, frozen)
        if not candidates:
            raise self._mismatch(lines, hunk, shift, path)
        if len(candidates) > 1:
            shown = ", ".join(str(at + 1) for at in candidates[:3])
            raise _refusal(
                "ambiguous", f"a hunk that has moved fits {path!a} at more than one line ({shown})", hunk.line
            )
        return candidates[0]

    def _mismatch(self, lines: Sequence[bytes], hunk: ForeignHunk, shift: int, path: str) -> ImportRefusedError:
        if find_lines(lines, list(hunk.new_lines), 0) if hunk.new_lines else []:
            return _refusal("already_applied", f"a hunk's result already stands in {path!a}", hunk.line)
        expected = _guess(hunk) + shift
        wanted, found = next(
            ((old, new) for old, new in zip(hunk.old_lines, lines[max(0, expected) :], strict=False) if old != new),
            (hunk.old_lines[0], b""),
        )
        return _refusal(
            "mismatch", f"a hunk fits nowhere in {path!a}", hunk.line, expected=_show(wanted), actual=_show(found)
        )


def _apply_binary(binary: ForeignBinary, content: bytes, path: str, line: int) -> bytes:
    """Return the content after a binary change, whose own names of both contents must hold."""
    if not _has_name(content, binary.old_name):
        raise _refusal("mismatch", f"a binary change was made for another content of {path!a}", line)
    result = apply_delta(content, binary.data) if binary.is_delta else binary.data
    if result is None or not _has_name(result, binary.new_name):
        raise _refusal("binary", f"a binary change does not give what it names: {path!a}", line)
    return result


def _has_name(content: bytes, name: str) -> bool:
    """Return whether git's name of a content is this, or begins so; zeros, or no name, for an absent or empty one."""
    if not name.strip("0"):
        return not content
    return any(blob_name(content, digits).startswith(name) for digits in (40, 64))


def _adds_whole_file(hunks: Sequence[ForeignHunk]) -> bool:
    return len(hunks) == 1 and not hunks[0].old_lines and not hunks[0].old_start


def _guess(hunk: ForeignHunk) -> int:
    """Return the 0-based index at which the hunk says that it stands."""
    return hunk.old_start - 1 if hunk.old_lines else hunk.old_start


def _is_prefixed(file: ForeignFile) -> bool:
    return (file.old_name is None or file.old_name.startswith("a/")) and (
        file.new_name is None or file.new_name.startswith("b/")
    )


def _show(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\n")


def _refusal(
    rule: str, message: str, line: int, *, expected: object = None, actual: object = None
) -> ImportRefusedError:
    """Return the refusal of one line of the patch."""
    return ImportRefusedError(
        f"provenance.import.{rule}", f"line {line}: {message}", expected=expected, actual=actual, details={"line": line}
    )
