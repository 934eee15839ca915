"""Rows that need no longer life than their process: a LevelDB without checksums and without sync, in a directory that goes with it.

Source: docs/spec/audit.md 5.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final, Self, TypeVar

import plyvel

from node.storage.checks import row_key
from wire.errors import UnavailableError

WRITE_BUFFER_BYTES: Final = 8 * 1024 * 1024
CACHE_BYTES: Final = 16 * 1024 * 1024
OPEN_FILES_MAX: Final = 64
BLOOM_FILTER_BITS: Final = 12
"""Nearly every question is whether a new transaction was executed before, and the answer no."""
BATCH_ROWS: Final = 20_000

T = TypeVar("T")


class Scratch:
    """One temporary database; use it with `with`."""

    def __init__(self) -> None:
        """Make it where temporary files go (``TMPDIR``).

        Raises:
            UnavailableError: ``node.storage.no_scratch``.
        """
        self.path = Path(tempfile.mkdtemp(prefix="patchwarden-audit-"))
        try:
            self._db = plyvel.DB(
                str(self.path),
                create_if_missing=True,
                write_buffer_size=WRITE_BUFFER_BYTES,
                lru_cache_size=CACHE_BYTES,
                max_open_files=OPEN_FILES_MAX,
                bloom_filter_bits=BLOOM_FILTER_BITS,
                compression=None,
            )
        except plyvel.Error as error:
            shutil.rmtree(self.path, ignore_errors=True)
            raise _failed(self.path, error) from error

    def get(self, table: int, key: bytes) -> bytes | None:
        """Return the row's value, or None.

        Raises:
            UnavailableError: ``node.storage.no_scratch``.
        """
        try:
            return self._db.get(row_key(table, key))
        except plyvel.Error as error:
            raise _failed(self.path, error) from error

    def keys(self, table: int) -> Iterator[bytes]:
        """Yield the keys of a table's rows, in order.

        Raises:
            UnavailableError: ``node.storage.no_scratch``.
        """
        try:
            for key in self._db.iterator(prefix=bytes((table,)), include_value=False):
                yield key[1:]
        except plyvel.Error as error:
            raise _failed(self.path, error) from error

    def write(self, table: int, rows: Mapping[bytes, bytes | None]) -> None:
        """Store rows of a table, None removes one; nothing is synced.

        Raises:
            UnavailableError: ``node.storage.no_scratch``.
        """
        try:
            for some in batched(rows.items(), BATCH_ROWS):
                with self._db.write_batch() as batch:
                    for key, value in some:
                        if value is None:
                            batch.delete(row_key(table, key))
                        else:
                            batch.put(row_key(table, key), value)
        except plyvel.Error as error:
            raise _failed(self.path, error) from error

    def close(self) -> None:
        """Remove it; calling it again does nothing."""
        self._db.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> Self:
        """Return the database itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        self.close()


def batched(items: Iterable[T], count: int) -> Iterator[list[T]]:
    """Yield the items in lists of `count`, the last one shorter."""
    rest = iter(items)
    while some := list(islice(rest, count)):
        yield some


def _failed(path: Path, error: Exception) -> UnavailableError:
    return UnavailableError(
        "node.storage.no_scratch",
        f"the temporary database {path} cannot be used: {error}",
        hint="set TMPDIR to a directory with room",
    )
