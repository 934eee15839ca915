"""The exact application of a diff: every hunk at its own line, every byte as the diff says, or nothing.

No offset, no fuzz, no reversal. The diff's parser has already refused what tools read differently; what is left to see is whether these
pre-images are the ones that the diff was taken from, as far as the diff shows them. Only the digests in the signed metadata prove the rest.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from provenance.diff_hunks import CONTEXT_LINES
from provenance.diff_model import MODE_LINK, MODES, ChangeKind, Diff, FileChange, FileState, Hunk
from provenance.errors import ApplyRefusedError

_SKIP_BYTES: Final = 64 * 1024
"""Text in which line feeds are counted at once."""
COPIED_BYTES_MAX: Final = 1024 * 1024 * 1024
"""Contents of all copies of one diff: a line of text can name a file of any length, and many lines the same one."""


def apply_diff(diff: Diff, pre: Mapping[str, FileState | None]) -> dict[str, FileState | None]:
    """Return the state of every touched path after the diff, None where the file is then absent.

    Args:
        diff: A parsed diff.
        pre: State before, None for an absent file; holds at least every path of `diff.reads`. It is not changed.

    Returns:
        Exactly the paths of `diff.paths`, in their order.

    Raises:
        ApplyRefusedError: `provenance.apply.<rule>` with the path in `details["path"]`, and the 1-based line of the pre-image
            in `details["line"]` where one is at fault.

    Source: docs/spec/diff.md 5.
    """
    for path in diff.reads:
        if path not in pre:
            raise _refusal("unknown_path", "the state of a touched path is not given", path)
    post: dict[str, FileState | None] = {}
    for _, _, result in apply_each(diff, pre.__getitem__):
        post.update(result)
    return {path: post[path] for path in diff.paths}


def apply_each(
    diff: Diff, read: Callable[[str], FileState | None]
) -> Iterator[tuple[FileChange, dict[str, FileState | None], dict[str, FileState | None]]]:
    """Yield every section with the states before and after it, in the diff's order; no two files need to be in memory at once.

    Args:
        diff: A parsed diff.
        read: The state of a path before the whole diff, None for an absent file. Asked for the source of a copy whenever it is copied.

    Raises:
        ApplyRefusedError: As `apply_diff`.
    """
    room = COPIED_BYTES_MAX
    for change in diff.files:
        before = {path: read(path) for path in change.reads}
        after = _apply_change(change, before)
        if change.kind is ChangeKind.COPY and (made := after[change.path]) is not None:
            room -= len(made.content)
            if room < 0:
                raise _refusal("size", "copies have too many bytes", change.path, expected=COPIED_BYTES_MAX)
        yield change, before, after


def split_lines(content: bytes) -> list[bytes]:
    """Return the lines of a file with their LF; only the last one can be without. No other byte ends a line."""
    return io.BytesIO(content).readlines()


def _apply_change(change: FileChange, pre: Mapping[str, FileState | None]) -> dict[str, FileState | None]:
    path = change.path
    if change.kind is ChangeKind.ADD:
        if pre[path] is not None:
            raise _refusal("exists", "a file to add is already there", path)
        return {path: FileState(_demand_mode(change.new_mode), _apply_content(change, b"", path))}
    old_path = change.reads[0]
    state = _demand_state(pre[old_path], change.old_mode, old_path)
    content = _apply_content(change, state.content, old_path)
    mode = state.mode if change.new_mode is None else change.new_mode
    match change.kind:
        case ChangeKind.DELETE:
            if content:
                raise _refusal("remainder", "a deleted or emptied file has no line that the diff does not show", path)
            return {path: None}
        case ChangeKind.RENAME:
            if pre[path] is not None:
                raise _refusal("exists", "a file stands where a renamed one should go", path)
            return {old_path: None, path: FileState(mode, content)}
        case ChangeKind.COPY:
            if pre[path] is not None:
                raise _refusal("exists", "a file stands where a copy should go", path)
            return {path: FileState(mode, content)}
        case _:
            if content == state.content and mode == state.mode:
                raise _refusal("no_change", "a modification changes content or mode", path)
            return {path: FileState(mode, content)}


def _demand_state(state: FileState | None, mode: int | None, path: str) -> FileState:
    """Return the pre-image's state, with the mode that the diff claims if it claims one."""
    if state is None:
        raise _refusal("absent", "a file to change is not there", path)
    if state.mode not in MODES and (state.mode, mode) != (MODE_LINK, MODE_LINK):
        raise _refusal(
            "mode", "only regular files with mode 100644 or 100755 are changed", path, actual=f"{state.mode:06o}"
        )
    if mode is not None and state.mode != mode:
        raise _refusal(
            "mode",
            "the file has the mode that the diff claims",
            path,
            expected=f"{mode:06o}",
            actual=f"{state.mode:06o}",
        )
    return state


def _demand_mode(mode: int | None) -> int:
    if mode is None:  # pragma: no cover - a parsed addition always carries its mode
        raise AssertionError("an addition carries a mode")
    return mode


def _apply_content(change: FileChange, content: bytes, path: str) -> bytes:
    """Return the content after the section, whichever way it says it."""
    if change.binary is None:
        return _apply_hunks(change.hunks, content, path)
    before, after = change.binary
    if content != before.content:
        raise _refusal("mismatch", "the file has the binary content that the diff expects", path)
    return after.content


def _apply_hunks(hunks: tuple[Hunk, ...], content: bytes, path: str) -> bytes:
    """Return the content after all hunks, each at exactly its own line."""
    if not hunks:
        return content
    if b"\0" in content:
        raise _refusal("binary", "a file with NUL bytes is not changed by a text diff", path)
    view, total = memoryview(content), count_lines(content)
    result = io.BytesIO()
    place = done = 0
    for hunk in hunks:
        begin, end = hunk.old_begin, hunk.old_begin + hunk.old_count
        if end > total:
            raise _refusal("mismatch", "the file has the lines that the diff expects", path, line=total + 1)
        at = _skip_lines(content, place, begin - done)
        result.write(view[place:at])
        number = begin
        for hunk_line in hunk.lines:
            if not hunk_line.startswith(b"+"):
                stop = content.find(b"\n", at) + 1 or len(content)
                if content[at:stop] != hunk_line[1:]:
                    raise _mismatch(path, number, hunk_line[1:], content[at:stop])
                at = stop
                number += 1
            if not hunk_line.startswith(b"-"):
                result.write(hunk_line[1:])
        if end != total:
            _check_inside(hunk, path, end)
        place, done = at, end
    result.write(view[place:])
    return result.getvalue()


def count_lines(content: bytes) -> int:
    """Return how many lines a file has; the last one can be without LF."""
    return content.count(b"\n") + (not content.endswith(b"\n") if content else 0)


def _skip_lines(content: bytes, place: int, lines: int) -> int:
    """Return where the line begins that lies so many behind the one at `place`; the end of the file where none does."""
    while lines:
        stop = place + _SKIP_BYTES
        found = content.count(b"\n", place, stop)
        if found < lines and stop < len(content):
            place, lines = stop, lines - found
            continue
        while lines:
            place = content.find(b"\n", place) + 1
            if not place:
                return len(content)
            lines -= 1
    return place


def _mismatch(path: str, index: int, expected: bytes, actual: bytes) -> ApplyRefusedError:
    shown = (expected.decode("utf-8", "backslashreplace"), actual.decode("utf-8", "backslashreplace"))
    message = "the file has the lines that the diff expects"
    return _refusal("mismatch", message, path, line=index + 1, expected=shown[0], actual=shown[1])


def _check_inside(hunk: Hunk, path: str, end: int) -> None:
    """Raise if a hunk that claims to end its file is followed by more of it."""
    if not hunk.new_count:
        raise _refusal(
            "remainder", "a deleted or emptied file has no line that the diff does not show", path, line=end + 1
        )
    if not hunk.lines[-1].endswith(b"\n"):
        raise _refusal("no_newline", "a line without newline is the last one of its file", path, line=end + 1)
    after = hunk.context_after
    if after < CONTEXT_LINES or after < hunk.context_before:
        raise _refusal(
            "hunk_context",
            "a hunk with less context after its change than three lines or than before it ends its file",
            path,
            line=end + 1,
        )


def _refusal(
    rule: str, message: str, path: str, *, line: int | None = None, expected: object = None, actual: object = None
) -> ApplyRefusedError:
    """Return the refusal of one path."""
    where = ascii(path) if line is None else f"{path!a} line {line}"
    details: dict[str, str | int] = {"path": path}
    if line is not None:
        details["line"] = line
    return ApplyRefusedError(
        f"provenance.apply.{rule}", f"{where}: {message}", expected=expected, actual=actual, details=details
    )
