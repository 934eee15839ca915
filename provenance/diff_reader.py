"""The lines of a diff, one at a time, and the refusal of one line."""

from __future__ import annotations

from typing import Final

from provenance.errors import DiffRefusedError

_REFUSED_HEADERS: Final = (
    (b"GIT binary patch", "binary", "binary changes are accepted only where the author allows them (binary)"),
    (b"Binary files ", "binary", "a binary change shows its content: print it with git diff --binary"),
    (b"dissimilarity index ", "rewrite", "complete rewrites are not accepted: print the diff without -B"),
)


class Reader:
    """A place in a stretch of text whose every line ends with LF; it only goes forward, and holds one line.

    Args:
        data: The text around it.
        begin: Where the first line begins.
        end: Behind the last line feed.
        line_bytes_max: The longest accepted line, without its line feed.
    """

    __slots__ = ("_end", "_line_bytes_max", "_next", "at_end", "data", "line", "number", "position")

    def __init__(self, data: bytes, begin: int, end: int, line_bytes_max: int) -> None:
        self.data = data
        self._end = end
        self._line_bytes_max = line_bytes_max
        self._next = begin
        self.position = begin
        """Where the current line begins."""
        self.number = 0
        """1-based number of the current line, for people."""
        self.at_end = False
        """Whether all lines are read."""
        self.line = b""
        """The current line without newline; b"" at the end, which no rule accepts."""
        self.step()

    def step(self) -> None:
        """Go to the next line."""
        self.number += 1
        self.position = begin = self._next
        if begin >= self._end:
            self.at_end = True
            self.line = b""
            return
        stop = self.data.find(b"\n", begin, self._end)
        if stop - begin > self._line_bytes_max:
            raise refusal(
                "size", "a line has too many bytes", self.number, expected=self._line_bytes_max, actual=stop - begin
            )
        self.line = self.data[begin:stop]
        self._next = stop + 1

    def take(self, prefix: bytes) -> bytes | None:
        """Step over the current line if it begins so, and return the rest of it."""
        line = self.line
        if not line.startswith(prefix):
            return None
        self.step()
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
