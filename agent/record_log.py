"""An append-only log of small records: what `append` returned from survives any crash, and damage is never taken for the end.

::

    <first 16 hexadecimal digits of SHA-256 of the JSON> SP <canonical JSON> LF     one line a record

A last line without its line feed was being written when the process ended; nothing depended on it, and it is cut off. Any other line that
does not read back is damage, and the agent stops.

Source: docs/spec/agent.md 5.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final

from agent.errors import StateCorruptError
from agent.files import Files, is_there
from agent.limits import LOG_BYTES_MAX, RECORD_BYTES_MAX
from agent.state_file import damaged
from wire import canonical_json
from wire.errors import RejectedError
from wire.hashing import sha256

_CHECK_DIGITS: Final = 16

Record = dict[str, Any]


class RecordLog:
    """One log file, open for appending by this process.

    Args:
        files: The door to the file system.
        path: The file; made when it is not there. Its directory must be.
    """

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self._path = path
        self._failed = False
        if not is_there(path):
            files.replace(path, b"")
        records, end, size = _read(path)
        self._records = records
        self._size = end
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if end < size:
                files.truncate(self._descriptor, end, path)
            # A process that was killed before its sync has left lines that are there to be read, and gone after a power cut: nothing may
            # be done because of a record before it is durable.
            files.sync(self._descriptor, path)
            files.sync_directory(os.path.dirname(path))
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def lines(self) -> int:
        """Number of records in the log."""
        return len(self._records)

    @property
    def size(self) -> int:
        """Bytes of the log."""
        return self._size

    def close(self) -> None:
        """Release the file; nothing can be written any more."""
        # A closed descriptor's number may soon belong to somebody else's file.
        self._failed = True
        os.close(self._descriptor)

    @property
    def records(self) -> tuple[Record, ...]:
        """All records, oldest first."""
        return tuple(self._records)

    def append(self, record: Record) -> None:
        """Add a record, durably.

        Raises:
            StateCorruptError: ``agent.state.append``: the file system failed. What is on the disk is unknown, so nothing more is written;
                reopening finds out.
        """
        if self._failed:
            raise self._failure("an earlier write failed")
        line = _encode(record)
        try:
            self._files.write(self._descriptor, line, self._path)
            self._files.sync(self._descriptor, self._path)
        except OSError as error:
            self._failed = True
            raise self._failure(error.strerror or "unknown error") from error
        self._records.append(record)
        self._size += len(line)

    def rewrite(self, records: Iterable[Record]) -> None:
        """Replace all records in one step.

        Raises:
            StateCorruptError: ``agent.state.append``, as `append`.
        """
        kept = list(records)
        data = b"".join(map(_encode, kept))
        try:
            self._files.replace(self._path, data)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            self._failed = True
            raise self._failure(error.strerror or "unknown error") from error
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._records = kept
        self._size = len(data)

    def _failure(self, sentence: str) -> StateCorruptError:
        return StateCorruptError(
            "agent.state.append",
            f"{self._path} cannot be written: {sentence}",
            hint="restart the agent when the disk works again; it recovers from what is there",
        )


def read_records(path: str) -> tuple[Record, ...]:
    """Return the records of a log that another process may be appending to; empty when there is no file.

    Raises:
        StateCorruptError: ``agent.state.damaged``.
    """
    try:
        return tuple(_read(path)[0]) if is_there(path) else ()
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror}") from error


def _encode(record: Record) -> bytes:
    body = canonical_json.encode(record)
    if len(body) > RECORD_BYTES_MAX:
        raise AssertionError("records are bounded where they are built")
    return sha256(body).hex()[:_CHECK_DIGITS].encode() + b" " + body + b"\n"


def _read(path: str) -> tuple[list[Record], int, int]:
    """Return the records, where the last whole line ends, and the size of the file."""
    try:
        with open(path, "rb") as file:
            data = file.read(LOG_BYTES_MAX + 1)
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror}") from error
    if len(data) > LOG_BYTES_MAX:
        raise damaged(path, "is too large")
    end = data.rfind(b"\n") + 1
    lines = data[:end].split(b"\n")[:-1]
    return [_decode(path, number, line) for number, line in enumerate(lines, 1)], end, len(data)


def _decode(path: str, number: int, line: bytes) -> Record:
    check, separator, body = line.partition(b" ")
    if not separator or check != sha256(body).hex()[:_CHECK_DIGITS].encode():
        raise damaged(path, f"is damaged in line {number}")
    try:
        record = canonical_json.decode_untrusted(body, bytes_max=RECORD_BYTES_MAX)
    except RejectedError as error:
        raise damaged(path, f"is damaged in line {number}: {error.message}") from error
    if not isinstance(record, dict):
        raise damaged(path, f"is damaged in line {number}: not an object")
    return record
