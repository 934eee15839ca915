"""Which path names a diff may carry: those that every tool, terminal and file system reads as the same single file."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from provenance.errors import DiffRefusedError

PATH_BYTES_MAX: Final = 1024
"""One path in UTF-8: a quarter of Linux' PATH_MAX, so that it still fits under a target's root."""
COMPONENT_BYTES_MAX: Final = 255
"""One component in UTF-8: Linux' NAME_MAX."""
COMPONENTS_MAX: Final = 64
"""Components of one path; bounds the work of `check_no_nesting`."""

CONTROL_COMPONENTS: Final = frozenset({".git", "git~1"})
"""Components that steer a version control system instead of being content; compared without case, trailing dots and spaces."""

_FORBIDDEN_CHARACTER: Final = re.compile(
    # Control characters; the quote and the backslash, which make git print the name in quotes; and characters that show nothing or
    # reorder what is shown (among them those that some file systems ignore when they compare names). Listed by hand: Unicode
    # categories grow with Python's version, and two nodes must agree about a patch.
    '[\x00-\x1f\x7f-\x9f"\\\\\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164'
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def decode_path_untrusted(name: bytes, *, line: int) -> str:
    """Return the path that a name line carries, safe to join beneath a root.

    Args:
        name: The name without `a/` or `b/`.
        line: 1-based line of the diff, for the error.

    Raises:
        DiffRefusedError: `provenance.diff.path_*`; see the source.

    Source: docs/spec/diff.md 3.
    """
    if len(name) > PATH_BYTES_MAX:
        raise _refusal(
            "path_length", "a path has too many bytes", line, expected=f"at most {PATH_BYTES_MAX}", actual=len(name)
        )
    try:
        path = name.decode("utf-8")
    except UnicodeDecodeError:
        raise _refusal("path_encoding", "a path is UTF-8", line, actual=name) from None
    check_path(path, line=line)
    return path


def check_path(path: str, *, line: int | None = None) -> None:
    """Raise unless the path is one that a diff may name; `line` only locates the error.

    Raises:
        DiffRefusedError: `provenance.diff.path_length`, `path_encoding`, `path_character`, `path_absolute`, `path_component`,
            `path_space`, `path_control`.

    Source: docs/spec/diff.md 3.
    """
    try:
        size = len(path.encode("utf-8"))
    except UnicodeEncodeError:
        raise _refusal("path_encoding", "a path is UTF-8 without surrogates", line, actual=path) from None
    if size > PATH_BYTES_MAX:
        raise _refusal(
            "path_length", "a path has too many bytes", line, expected=f"at most {PATH_BYTES_MAX}", actual=size
        )
    if (found := _FORBIDDEN_CHARACTER.search(path)) is not None:
        raise _refusal(
            "path_character",
            "a path has no control, invisible, quote or backslash character",
            line,
            actual=found.group(),
        )
    if not unicodedata.is_normalized("NFC", path):
        raise _refusal("path_encoding", "a path is in Unicode normal form C", line, actual=path)
    if path.startswith("/"):
        raise _refusal("path_absolute", "a path is relative", line, actual=path)
    components = path.split("/")
    if len(components) > COMPONENTS_MAX:
        raise _refusal(
            "path_length",
            "a path has too many components",
            line,
            expected=f"at most {COMPONENTS_MAX}",
            actual=len(components),
        )
    for component in components:
        _check_component(component, path, line)


def check_link_target(target: bytes, path: str, *, line: int | None = None) -> None:
    """Raise unless a link at `path` leads to a place below the root: relative, `..` only in front and never out.

    What it leads to may be absent, and may itself be a link of the tree, whose own target is not looked at.

    Raises:
        DiffRefusedError: `provenance.diff.link_target`.

    Source: docs/spec/diff.md 3.
    """
    components = target.split(b"/")
    up = 0
    while up < len(components) and components[up] == b"..":
        up += 1
    rest = b"/".join(components[up:])
    if up > path.count("/") or not (rest or up):
        raise _refusal("link_target", "a link leads to a place below the root of the tree", line, actual=target)
    if rest:
        try:
            check_path(rest.decode("utf-8"), line=line)
        except UnicodeDecodeError:
            raise _refusal("link_target", "the target of a link is UTF-8", line, actual=target) from None
        except DiffRefusedError as error:
            raise _refusal("link_target", f"the target of a link is a path: {error.message}", line) from error


def check_no_nesting(paths: Iterable[str]) -> None:
    """Raise if one path would be a directory of another: tools disagree about the order of such changes.

    Raises:
        DiffRefusedError: `provenance.diff.path_nesting`.

    Source: docs/spec/diff.md 3.
    """
    known = frozenset(paths)
    for path in sorted(known):
        end = path.rfind("/")
        while end > 0:
            if path[:end] in known:
                raise _refusal("path_nesting", "no touched path is a directory of another one", None, actual=path)
            end = path.rfind("/", 0, end)


def _check_component(component: str, path: str, line: int | None) -> None:
    if component in ("", ".", ".."):
        raise _refusal("path_component", "no component of a path is empty, '.' or '..'", line, actual=path)
    if len(component.encode()) > COMPONENT_BYTES_MAX:
        raise _refusal(
            "path_length", "a path component has too many bytes", line, expected=f"at most {COMPONENT_BYTES_MAX}"
        )
    if component[0] == " " or component[-1] == " ":
        # GNU patch reads such a name short, even before a TAB.
        raise _refusal("path_space", "no component of a path begins or ends with a space", line, actual=path)
    if component.rstrip(". ").casefold() in CONTROL_COMPONENTS:
        raise _refusal("path_control", "a patch does not touch version control's own files", line, actual=path)


def _refusal(
    rule: str, message: str, line: int | None, *, expected: object = None, actual: object = None
) -> DiffRefusedError:
    where = "" if line is None else f"line {line}: "
    details = None if line is None else {"line": line}
    return DiffRefusedError(
        f"provenance.diff.{rule}", where + message, expected=expected, actual=actual, details=details
    )
