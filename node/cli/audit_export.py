"""`patchwarden audit export`: the chain as an archive that replays elsewhere, or its transactions for other tools."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from node.cli.command import Command, Session
from node.cli.errors import FileError
from node.cli.output import fields
from node.cli.params import FILE
from node.clock import random_bytes

if TYPE_CHECKING:
    from ledger.bodies import Body
    from node.cli.chain import ChainSource, RawBlock
    from node.cli.output import Progress

COLUMNS: Final = (
    "height",
    "index",
    "time_ms",
    "tx_id",
    "kind",
    "signer_key_id",
    "not_after_height",
    "client_time_ms",
    "summary",
)


@click.command(
    "export",
    cls=Command,
    node=True,
    examples=(
        "patchwarden audit export --format archive --out chain.archive",
        "patchwarden audit export --format jsonl --from 800 --to 900 --out transactions.jsonl --rpc http://127.0.0.1:7080",
        "patchwarden audit export --format parquet --archive chain.archive --out transactions.parquet",
    ),
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["archive", "jsonl", "csv", "parquet"]),
    required=True,
    help="The whole chain, or its transactions: one a line, or in columns.",
)
@click.option(
    "--from", "start", type=click.IntRange(min=1), metavar="H", help="First height; not for archives, which are whole."
)
@click.option("--to", "stop", type=click.IntRange(min=1), metavar="H", help="Last height; not for archives.")
@click.option("--archive", type=FILE, metavar="FILE", help="Read this archive instead of a node.")
@click.option("--out", type=FILE, required=True, metavar="FILE", help="Where it goes.")
@click.pass_obj
def export(  # noqa: PLR0917 - one parameter for each option
    session: Session, kind: str, start: int | None, stop: int | None, archive: Path | None, out: Path
) -> None:
    """Write the chain, up to the last block that a certificate covers, to a file."""
    from node.cli.chain import open_chain

    if kind == "archive" and (start is not None or stop is not None):
        raise click.UsageError("an archive holds the whole chain: --from and --to are for jsonl, csv and parquet")
    with open_chain(session, archive) as source, session.output.progress("blocks", source.height) as progress:
        if kind == "archive":
            blocks, transactions = write_archive(source, out, progress), None
        elif kind == "parquet":
            blocks, transactions = _write_parquet(source, out, start or 1, stop, progress)
        else:
            blocks, transactions = _write_lines(source, kind, out, start or 1, stop, progress)
    document = {
        "file": str(out),
        "format": kind,
        "blocks": blocks,
        "transactions": transactions,
        "bytes": out.stat().st_size,
    }
    session.output.emit(
        document,
        fields((("written", out), ("blocks", blocks), ("transactions", transactions), ("bytes", document["bytes"]))),
    )


def write_archive(source: ChainSource, out: Path, progress: Progress | None = None) -> int:
    """Write a chain's archive and return how many blocks it holds; the file is there whole or not at all."""
    from ledger.archive import ArchiveEncoder

    encoder = ArchiveEncoder()
    count = 0
    with written(out) as stream:
        stream.write(encoder.begin(source.genesis))
        for block in source.blocks:
            stream.write(encoder.block(block.block, block.certificate))
            count += 1
            if progress is not None:
                progress.update(count)
        stream.write(encoder.end())
    return count


def _write_lines(  # noqa: PLR0917 - what is written where
    source: ChainSource, kind: str, out: Path, start: int, stop: int | None, progress: Progress
) -> tuple[int, int]:
    encode = _csv_row if kind == "csv" else _json_line
    transactions = 0
    counted = _Counted(source, start, stop, progress)
    with written(out) as stream:
        if kind == "csv":
            stream.write(_csv_row(dict(zip(COLUMNS, COLUMNS, strict=True))))
        for block in counted:
            for row in _rows(block):
                stream.write(encode(row))
                transactions += 1
    return counted.blocks, transactions


def _write_parquet(source: ChainSource, out: Path, start: int, stop: int | None, progress: Progress) -> tuple[int, int]:
    from ledger.genesis import decode_genesis_untrusted
    from node.cli.audit_parquet import parquet_writer

    founding = decode_genesis_untrusted(source.genesis)
    counted = _Counted(source, start, stop, progress)
    with written(out) as stream:
        write, close = parquet_writer(stream, founding.chain_id, founding.genesis_hash.hex())
        try:
            transactions = write(_column_row(row) for block in counted for row in _rows(block))
        finally:
            close()
    return counted.blocks, transactions


class _Counted:
    """The blocks from one height to another, counted and shown as they are read."""

    def __init__(self, source: ChainSource, start: int, stop: int | None, progress: Progress) -> None:
        self._source = source
        self._start = start
        self._stop = stop
        self._progress = progress
        self.blocks = 0

    def __iter__(self) -> Iterator[RawBlock]:
        for block in self._source.blocks:
            if self._stop is not None and block.height > self._stop:
                return
            self._progress.update(block.height)
            if block.height >= self._start:
                self.blocks += 1
                yield block


def _rows(block: RawBlock) -> Iterator[dict[str, Any]]:
    from ledger.block import decode_block_untrusted
    from ledger.transaction import decode_transaction_untrusted
    from node.cli.audit_trace import summary_of
    from node.documents import transaction_document

    decoded = decode_block_untrusted(block.block)
    for index, raw in enumerate(decoded.transactions):
        transaction = decode_transaction_untrusted(raw)
        document = transaction_document(transaction, signer=None, height=block.height, index=index)
        del document["signer"], document["status"]
        said = {"time_ms": decoded.header.time_ms, "summary": summary_of(transaction.body)}
        yield {**document, **said, "fields": named_fields(transaction.body)}


def named_fields(body: Body) -> dict[str, Any]:
    """Return what a transaction says, by the names of its body's fields; bytes as hexadecimal digits."""
    from node.documents import show_values

    names = [each.name for each in dataclasses.fields(body)]
    values = show_values(body.to_value())
    return dict(zip(names, values, strict=True))


def _json_line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _column_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a Parquet file (docs/operations/audit-export.md)."""
    same = {
        name: row[name]
        for name in (
            "height",
            "index",
            "tx_id",
            "kind",
            "signer_key_id",
            "not_after_height",
            "client_time_ms",
            "summary",
        )
    }
    body = json.dumps(row["fields"], ensure_ascii=False, separators=(",", ":"))
    return {**same, "time": row["time_ms"], "body": body, "raw": base64.b64decode(row["raw"])}


def _csv_row(row: dict[str, Any]) -> bytes:
    text = io.StringIO()
    # A cell that begins like a formula would be one in a spreadsheet.
    cells = [row[name] for name in COLUMNS]
    safe = [f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell for cell in cells]
    csv.writer(text, lineterminator="\n").writerow(safe)
    return text.getvalue().encode()


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """Give a file to be written; it takes the name `path` when the body ends well, and leaves nothing otherwise."""
    temporary = path.with_name(f".{path.name}.{random_bytes(8).hex()}.part")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise FileError("cli.file.unwritable", f"{path} cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
