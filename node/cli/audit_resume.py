r"""The file from which an interrupted replay goes on: what it has come to, appended every now and then, durable each time.

::

    "patchwarden-audit 1" LF
    frame(encode((release, genesis hash, level, kind of source, its name or "")))
    frame(encode(("rows", ((table, key, value or nil), …))))            what was written to the tables since the last point; any number
    frame(encode(("point", body, SHA-256 of the file so far and the body)))
    …

    body = encode((state, digest of what was fed, SHA-256 of the last block, milliseconds spent))

A point closes everything before it. What stands behind the last one was being written when the replay was interrupted, and is cut off;
anything else that is not as it was written is refused, and so is a file that belongs to another replay.

Source: docs/spec/audit.md 4.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ledger.audit_state import STATE_BYTES_MAX, AuditState, decode_audit_state_untrusted
from ledger.keyspace import Table, WriteSet
from node.cli.chain import DamagedBlock, ReadBlock
from node.cli.errors import CommandError, FileError
from wire.codec import decode_untrusted, encode
from wire.errors import MalformedError, RejectedError
from wire.fields import as_bytes, as_digest, as_int, as_optional, as_tuple
from wire.framing import LENGTH_BYTES, encode_frame

if TYPE_CHECKING:
    from ledger.audit import Auditor
    from ledger.genesis import Genesis
    from node.cli.audit_store import AuditTables
    from node.cli.chain import ChainSource

MAGIC: Final = b"patchwarden-audit 1\n"
ROWS: Final = "rows"
POINT: Final = "point"
ROWS_MAX: Final = 10_000
"""Rows in one frame."""
RECORD_BYTES_MAX: Final = STATE_BYTES_MAX + 4096
BLOCKS_MAX: Final = 1000
"""Blocks after which the next point is written,"""
TRANSACTIONS_MAX: Final = 50_000
"""and transactions; whichever comes first."""
START: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class Fed:
    """Which blocks a replay has been fed, in 64 bytes."""

    digest: bytes = START
    """SHA-256 over the digest before, the last block and its certificate, 32 bytes."""
    last: bytes = START
    """SHA-256 of the last block, 32 bytes."""

    def after(self, block: ReadBlock) -> Fed:
        """Return the same with one more block."""
        if isinstance(block, DamagedBlock):
            raw, proof = b"", block.error.code.encode()
        else:
            raw, proof = block.block, block.certificate or b""
        return Fed(sha256(self.digest + len(raw).to_bytes(4, "big") + raw + proof).digest(), sha256(raw).digest())


@dataclass(frozen=True, slots=True)
class Point:
    """Where a replay can go on."""

    state: AuditState
    """What the auditor knew."""
    fed: Fed
    """What it had been fed."""
    seconds: float
    """How long it had taken, all its runs together."""


class ResumeFile:
    """A resume file that this process owns; use it with `with`.

    Args:
        path: The file; made when it is not there.
        source: The chain that is replayed.
        genesis: Its founding document.
        level: The audit's level.
    """

    def __init__(self, path: Path, source: ChainSource, genesis: Genesis, level: str) -> None:
        # What is read anew in any case is known by its bytes; from a live node the blocks before are taken as they were.
        name = source.name if source.kind == "node" else ""
        self._binding = (version("patchwarden"), genesis.genesis_hash, level, source.kind, name)
        self._path = path
        self._hash = sha256()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unwritable(error) from error
        self._at = (0, 0)

    def __enter__(self) -> ResumeFile:
        """Return the file; nobody else uses it."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.__exit__()
            raise CommandError("cli.resume.in_use", f"another audit is using {self._path}") from error
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        os.close(self._descriptor)

    def load(self, tables: AuditTables) -> Point | None:
        """Put every row into `tables` and return the last point; None for a new file. What follows the last point is cut off.

        Raises:
            CommandError: ``cli.resume.damaged``, ``cli.resume.foreign`` (another source, founding document, level or release).
        """
        point: Point | None = None
        rows: WriteSet = {}
        kept = 0
        try:
            for offset, kind, values in self._records():
                if kind == ROWS:
                    rows.update(_read_rows(values))
                elif kind == POINT:
                    point = _read_point(values)
                    tables.apply(rows)
                    tables.take_changes()  # They are in the file.
                    rows = {}
                kept = offset if kind != ROWS else kept
        except RejectedError as error:
            if isinstance(error, CommandError):
                raise
            raise self._damaged(error.message) from error
        try:
            if not kept:
                self._begin()
            else:
                self._reopen(kept)
        except OSError as error:
            raise self._unwritable(error) from error
        if point is not None:
            self._at = (point.state.height, point.state.transactions)
        return point

    def check(self, point: Point, blocks: Iterator[ReadBlock], *, has_all: bool) -> Iterator[ReadBlock]:
        """Yield the blocks behind the point, after showing that those up to it are the ones that were fed.

        Args:
            point: From `load`.
            blocks: From height 1 on, or from that of the point on.
            has_all: Which of the two.

        Raises:
            CommandError: ``cli.resume.other_chain``.
        """
        fed, height = Fed(), point.state.height
        for block in islice(blocks, height if has_all else min(height, 1)):
            fed = fed.after(block)
        if fed != point.fed and (has_all or fed.last != point.fed.last):
            raise CommandError(
                "cli.resume.other_chain",
                f"the blocks up to {height} are not those that {self._path} was made from",
                hint="use another --resume file, or remove this one to begin anew",
            )
        yield from blocks

    def is_due(self, auditor: Auditor) -> bool:
        """Return whether it is time for a point."""
        height, transactions = self._at
        return auditor.height - height >= BLOCKS_MAX or auditor.transactions - transactions >= TRANSACTIONS_MAX

    def save(self, auditor: Auditor, tables: AuditTables, fed: Fed, seconds: float) -> None:
        """Make where the replay stands durable.

        Raises:
            FileError: ``cli.file.unwritable``.
        """
        state = auditor.suspend()
        if (state.height, state.transactions) == self._at:
            return
        try:
            changes = iter(tables.take_changes().items())
            while some := tuple((int(table), key, value) for (table, key), value in islice(changes, ROWS_MAX)):
                self._write(encode((ROWS, some)))
            body = encode((state.encode(), fed.digest, fed.last, round(seconds * 1000)))
            self._write(encode((POINT, body, _checksum(self._hash.digest(), body))))
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._unwritable(error) from error
        self._at = (state.height, state.transactions)

    def _begin(self) -> None:
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._hash = sha256()
        self._put(MAGIC)
        self._write(encode(self._binding))

    def _reopen(self, kept: int) -> None:
        os.ftruncate(self._descriptor, kept)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._hash = sha256()
        left = kept
        while left:
            piece = os.read(self._descriptor, min(left, 1 << 20))
            self._hash.update(piece)
            left -= len(piece)

    def _records(self) -> Iterator[tuple[int, str, tuple[object, ...]]]:
        """Yield where each record ends, its kind and its values; the first one's kind is empty. Ends where the file is cut."""
        with open(os.dup(self._descriptor), "rb") as stream:
            stream.seek(0)
            magic = stream.read(len(MAGIC))
            if not MAGIC.startswith(magic):
                raise self._damaged("it does not begin like one")
            digest, offset, kind = sha256(magic), len(MAGIC), ""
            while len(head := stream.read(LENGTH_BYTES)) == LENGTH_BYTES:
                length = int.from_bytes(head, "big")
                if length > RECORD_BYTES_MAX:
                    raise self._damaged(f"at byte {offset} it announces {length} bytes")
                record = stream.read(length)
                if len(record) < length:
                    return
                values = as_tuple(decode_untrusted(record, bytes_max=RECORD_BYTES_MAX), "record")
                if not kind:
                    self._check_binding(values)
                    kind = POINT
                    offset += LENGTH_BYTES + length
                    yield offset, "", values
                else:
                    kind = str(values[0]) if values else ""
                    if kind not in (ROWS, POINT):
                        raise self._damaged(f"at byte {offset} there is no record of a known kind")
                    if kind == POINT and values[2:] != (_checksum(digest.digest(), values[1]),):
                        raise self._damaged(f"the checksum at byte {offset} does not hold")
                    offset += LENGTH_BYTES + length
                    yield offset, kind, values
                digest.update(head + record)

    def _check_binding(self, values: tuple[object, ...]) -> None:
        if values == self._binding:
            return
        names = ("release", "founding document", "level", "kind of source", "source")
        if len(values) != len(names):
            raise self._damaged("it does not say what it belongs to")
        for name, theirs, ours in zip(names, values, self._binding, strict=True):
            if theirs != ours:
                raise CommandError(
                    "cli.resume.foreign",
                    f"{self._path} belongs to an audit of another {name}",
                    expected=ours,
                    actual=theirs,
                    hint="use another --resume file, or remove this one to begin anew",
                )

    def _write(self, record: bytes) -> None:
        self._put(encode_frame(record, RECORD_BYTES_MAX))

    def _put(self, data: bytes) -> None:
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def _damaged(self, why: str) -> CommandError:
        return CommandError(
            "cli.resume.damaged",
            f"{self._path} is not a resume file as it was written: {why}",
            hint="remove it to begin anew",
        )

    def _unwritable(self, error: OSError) -> FileError:
        return FileError("cli.file.unwritable", f"{self._path} cannot be written: {error.strerror}")


def _checksum(before: bytes, body: object) -> bytes:
    return sha256(before + as_bytes(body, "point")).digest()


def _read_rows(values: tuple[object, ...]) -> Iterator[tuple[tuple[Table, bytes], bytes | None]]:
    _, rows = as_tuple(values, "rows", length=2)
    for row in as_tuple(rows, "rows"):
        table, key, value = as_tuple(row, "row", length=3)
        try:
            yield (Table(as_int(table, "table")), as_bytes(key, "key")), as_optional(value, "value", as_bytes)
        except ValueError as error:
            raise MalformedError("wire.field.choice", "a row is of no table", actual=table) from error


def _read_point(values: tuple[object, ...]) -> Point:
    body = decode_untrusted(as_bytes(values[1], "point"), bytes_max=RECORD_BYTES_MAX)
    state, digest, last, milliseconds = as_tuple(body, "point", length=4)
    return Point(
        decode_audit_state_untrusted(as_bytes(state, "state")),
        Fed(as_digest(digest, "digest"), as_digest(last, "last block")),
        as_int(milliseconds, "milliseconds") / 1000,
    )
