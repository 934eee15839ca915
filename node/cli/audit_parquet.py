"""The transactions of a chain as a Parquet file, for engines that read columns.

The only module that imports pyarrow, and only when it is used: it is an extra (`pip install 'patchwarden[export]'`).

Source: docs/operations/audit-export.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, BinaryIO, Final

from node.cli.errors import CommandError

ROWS_PER_GROUP: Final = 20_000
"""Rows held in memory at once, and the smallest part that an engine can skip."""


def parquet_writer(
    stream: BinaryIO, chain_id: str, genesis_hash: str
) -> tuple[Callable[[Iterable[Mapping[str, Any]]], int], Callable[[], None]]:
    """Return how to write rows, which gives how many there were, and how to end the file.

    Raises:
        CommandError: ``cli.export.no_pyarrow``.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise CommandError(
            "cli.export.no_pyarrow",
            "this installation cannot write Parquet: pyarrow is missing",
            hint="pip install 'patchwarden[export]', or take --format jsonl or csv",
        ) from error
    schema = pyarrow.schema(
        [
            pyarrow.field("height", pyarrow.int64(), nullable=False),
            pyarrow.field("index", pyarrow.int32(), nullable=False),
            pyarrow.field("time", pyarrow.timestamp("ms", tz="UTC"), nullable=False),
            pyarrow.field("tx_id", pyarrow.string(), nullable=False),
            pyarrow.field("kind", pyarrow.dictionary(pyarrow.int8(), pyarrow.string()), nullable=False),
            pyarrow.field("signer_key_id", pyarrow.string(), nullable=False),
            pyarrow.field("not_after_height", pyarrow.int64(), nullable=False),
            # A claim of the submitter: any number of milliseconds, so no timestamp.
            pyarrow.field("client_time_ms", pyarrow.int64(), nullable=False),
            pyarrow.field("summary", pyarrow.string(), nullable=False),
            pyarrow.field("body", pyarrow.string(), nullable=False),
            pyarrow.field("raw", pyarrow.binary(), nullable=False),
        ],
        metadata={"chain_id": chain_id, "genesis_hash": genesis_hash},
    )
    writer = parquet.ParquetWriter(stream, schema, compression="zstd")

    def write(rows: Iterable[Mapping[str, Any]]) -> int:
        count = 0
        for group in _groups(iter(rows)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema), row_group_size=ROWS_PER_GROUP)
            count += len(group)
        return count

    return write, writer.close


def _groups(rows: Iterator[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    while group := list(islice(rows, ROWS_PER_GROUP)):
        yield group
