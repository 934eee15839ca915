"""The lines of a hunk as a stretch of the text that they stand in: made when they are looked at, so that a diff is not held twice.

A diff of 100 MB has two million lines, and a line that is an object of its own takes twice its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, overload

NO_NEWLINE_LINE: Final = b"\\ No newline at end of file\n"
"""What follows a hunk line whose own newline is not in the file."""
_BATCH_BYTES: Final = 64 * 1024
"""Text whose lines are made at once."""
_LINE: Final = re.compile(rb"[^\n]*\n")


class HunkLines(Sequence[bytes]):
    """The lines of one hunk: marker and the file's own bytes; equal to the tuple of them.

    Args:
        data: The text around them.
        begin: Where the first one begins.
        end: Behind the line feed of the last one, or of the marker that it has no newline.
        count: How many there are.
        lacking: How many have no newline in the file; each is followed by `NO_NEWLINE_LINE`.
    """

    __slots__ = ("_count", "_data", "begin", "end", "lacking")

    def __init__(self, data: bytes, begin: int, end: int, count: int, lacking: int) -> None:
        self._data = data
        self._count = count
        self.begin = begin
        self.end = end
        self.lacking = lacking

    @property
    def text(self) -> memoryview:
        """The lines as they stand in the diff."""
        return memoryview(self._data)[self.begin : self.end]

    def is_of(self, data: bytes) -> bool:
        """Return whether this is a stretch of exactly that text."""
        return self._data is data

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        if not self.lacking:
            yield from self._raw_lines()
            return
        before = b""
        for line in self._raw_lines():
            if line == NO_NEWLINE_LINE:
                before = before[:-1]
                continue
            if before:
                yield before
            before = line
        if before:
            yield before

    def __reversed__(self) -> Iterator[bytes]:
        stop = self.end
        is_lacking = False
        while stop > self.begin:
            start = max(self._data.rfind(b"\n", self.begin, stop - 1) + 1, self.begin)
            line = self._data[start:stop]
            stop = start
            if line == NO_NEWLINE_LINE:
                is_lacking = True
                continue
            yield line[:-1] if is_lacking else line
            is_lacking = False

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[bytes, ...]: ...
    def __getitem__(self, index: int | slice) -> bytes | tuple[bytes, ...]:
        if index == -1 and self._count:
            return next(reversed(self))
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HunkLines | tuple):
            return NotImplemented
        return len(self) == len(other) and all(one == each for one, each in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return tuple(self).__hash__()  # Of a set in one process, and nothing else.

    def __repr__(self) -> str:
        return repr(tuple(self))

    def _raw_lines(self) -> Iterator[bytes]:
        begin = self.begin
        while begin < self.end:
            stop = min(begin + _BATCH_BYTES, self.end)
            if stop < self.end:
                stop = self._data.find(b"\n", stop, self.end) + 1
            yield from _LINE.findall(self._data, begin, stop)
            begin = stop
