"""The lines of a diff, a place in them, and the refusal of one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from provenance.errors import DiffRefusedError

_REFUSED_HEADERS: Final = (
    (b"GIT binary patch", "binary", "binary changes are accepted only where the author allows them (binary)"),
    (b"Binary files ", "binary", "a binary change shows its content: print it with git diff --binary"),
    (b"dissimilarity index ", "rewrite", "complete rewrites are not accepted: print the diff without -B"),
)


class Reader:
    """The lines of a diff and a place in them."""

    __slots__ = ("index", "lines")

    def __init__(self, lines: Sequence[bytes]) -> None:
        self.lines = lines
        self.index = 0

    @property
    def at_end(self) -> bool:
        """Whether all lines are read."""
        return self.index >= len(self.lines)

    @property
    def number(self) -> int:
        """1-based number of the current line, for people."""
        return self.index + 1

    @property
    def line(self) -> bytes:
        """The current line without newline; b"" at the end, which no rule accepts."""
        return b"" if self.at_end else self.lines[self.index]

    def take(self, prefix: bytes) -> bytes | None:
        """Step over the current line if it begins so, and return the rest of it."""
        line = self.line
        if not line.startswith(prefix):
            return None
        self.index += 1
        return line[len(prefix) :]

    def demand(self, prefix: bytes, message: str) -> bytes:
        """As `take`, but refuse the diff if the line begins otherwise."""
        rest = self.take(prefix)
        if rest is None:
            raise self.unexpected(message)
        return rest

    def unexpected(self, message: str) -> DiffRefusedError:
        """Return the refusal of the current line, with the code of its own if it is a known one."""
        if self.at_end:
            return refusal("truncated", f"the diff ends where more must follow; {message}", self.number)
        for prefix, rule, sentence in _REFUSED_HEADERS:
            if self.line.startswith(prefix):
                return refusal(rule, sentence, self.number)
        return refusal("unexpected_line", message, self.number, actual=self.line)


def refusal(rule: str, message: str, line: int, *, expected: object = None, actual: object = None) -> DiffRefusedError:
    """Return the refusal of one line."""
    return DiffRefusedError(
        f"provenance.diff.{rule}", f"line {line}: {message}", expected=expected, actual=actual, details={"line": line}
    )
