"""The exact application of a diff: every hunk at its own line, every byte as the diff says, or nothing.

No offset, no fuzz, no reversal. The diff's parser has already refused what tools read differently; what is left to see is whether these
pre-images are the ones that the diff was taken from, as far as the diff shows them. Only the digests in the signed metadata prove the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from provenance.diff_hunks import CONTEXT_LINES
from provenance.diff_model import MODE_LINK, MODES, ChangeKind, Diff, FileChange, FileState, Hunk
from provenance.errors import ApplyRefusedError

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
    post: dict[str, FileState | None] = {}
    room = COPIED_BYTES_MAX
    for change in diff.files:
        for path in change.reads:
            if path not in pre:
                raise _refusal("unknown_path", "the state of a touched path is not given", path)
        result = _apply_change(change, pre)
        if change.kind is ChangeKind.COPY and (made := result[change.path]) is not None:
            room -= len(made.content)
            if room < 0:
                raise _refusal("size", "copies have too many bytes", change.path, expected=COPIED_BYTES_MAX)
        post.update(result)
    return {path: post[path] for path in diff.paths}


def split_lines(content: bytes) -> list[bytes]:
    """Return the lines of a file with their LF; only the last one can be without. No other byte ends a line."""
    lines = [line + b"\n" for line in content.split(b"\n")]
    last = lines.pop()[:-1]
    if last:
        lines.append(last)
    return lines


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
    lines = split_lines(content)
    result: list[bytes] = []
    done = 0
    for hunk in hunks:
        begin, end = hunk.old_begin, hunk.old_begin + hunk.old_count
        if end > len(lines):
            raise _refusal("mismatch", "the file has the lines that the diff expects", path, line=len(lines) + 1)
        result += lines[done:begin]
        at = begin
        for hunk_line in hunk.lines:
            marker, text = hunk_line[:1], hunk_line[1:]
            if marker != b"+":
                if lines[at] != text:
                    raise _mismatch(path, at, text, lines[at])
                at += 1
            if marker != b"-":
                result.append(text)
        if end != len(lines):
            _check_inside(hunk, path, end)
        done = end
    return b"".join(result + lines[done:])


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
