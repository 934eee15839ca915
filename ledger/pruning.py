"""Forgetting history that a node does not want to keep, step by step and never more than asked for.

What remains is enough to execute, to serve snapshots and to prove everything about the kept part. A step returns rows to remove; a node
that stops between two steps goes on with the next one later.

===================  ===============================================================================  ========================
step                 removes                                                                          when
===================  ===============================================================================  ========================
`prune_blocks`       blocks below a height, their headers, certificates, hashes and log nodes         first
`prune_executed`     ids of transactions in such blocks that can no longer be executed anyway         then, until it is empty
`sweep_history`      rows of HISTORY about such blocks, by going through all                          then, once now and then
===================  ===============================================================================  ========================

The configurations of the validators stay: receipts of kept transactions lead through all of them. So do the versions of identities.

Source: docs/spec/ledger.md 15.4.
"""

from __future__ import annotations

from typing import Final

from ledger.block import Header
from ledger.errors import LedgerCorruptionError
from ledger.executed import decode_executed_link, window_start
from ledger.keyspace import (
    HISTORY_KEY,
    RangeReader,
    Reader,
    Table,
    WriteSet,
    height_key,
    log_node_key,
    read_height,
    read_history_position,
)
from ledger.log_rows import superfluous_places
from ledger.state import StateView

_HISTORY_END: Final = b"\xff"
"""After every key of HISTORY: subjects are keys of STATE, whose kinds are letters."""


def prune_blocks(reader: Reader, keep_from: int, blocks_max: int) -> WriteSet:
    """Return what removes the oldest kept blocks; nothing when none lies below `keep_from`.

    Args:
        reader: The committed ledger.
        keep_from: The lowest height to keep; the tip's block stays in any case.
        blocks_max: Blocks in this step, at least 1.

    Raises:
        LedgerCorruptionError: ``ledger.corruption.missing``: a header is missing.
    """
    assert blocks_max >= 1
    view = StateView(reader)
    start = max(1, view.history_start)
    stop = min(keep_from, view.height, start + blocks_max)
    if stop <= start:
        return {}
    # The header right below the kept part stays: it says where in the log that part begins, and what the first kept block extends.
    writes: WriteSet = {(Table.META, HISTORY_KEY): height_key(stop)}
    size_before = _header(view, start - 1).log_size
    for height in range(start, stop):
        writes[Table.BLOCK, height_key(height)] = None
    for height in range(max(1, start - 1), stop - 1):
        writes[Table.BLOCK_HASH, _header(view, height).hash()] = None
        writes[Table.HEADER, height_key(height)] = None
        writes[Table.CERTIFICATE, height_key(height)] = None
    for level, index in superfluous_places(size_before, _header(view, stop - 1).log_size):
        writes[Table.LOG_NODE, log_node_key(level, index)] = None
    return writes


def prune_executed(reader: RangeReader, blocks_max: int) -> WriteSet:
    """Return what removes the ids of transactions whose blocks are gone and whose ``not_after_height`` has certainly passed.

    Args:
        reader: The committed ledger.
        blocks_max: Blocks in this step, at least 1.

    Raises:
        LedgerCorruptionError: ``ledger.corruption.record``.
    """
    assert blocks_max >= 1
    view = StateView(reader)
    stop = min(view.history_start, window_start(view.height))
    writes: WriteSet = {}
    rows = reader.iterate(Table.EXECUTED, height_key(0), height_key(stop))
    for (key, raw), _ in zip(rows, range(blocks_max), strict=False):
        writes[Table.EXECUTED, key] = None
        for tx_id in decode_executed_link(read_height(key), raw).tx_ids:
            writes[Table.TX_INDEX, tx_id] = None
    return writes


def sweep_history(reader: RangeReader, cursor: bytes, rows_max: int) -> tuple[WriteSet, bytes | None]:
    """Return what removes entries about blocks that are gone, among the next rows of HISTORY, and where to go on.

    Args:
        reader: The committed ledger.
        cursor: Empty to begin; then what the call before returned.
        rows_max: Rows to look at in this step, at least 1.

    Returns:
        The rows to remove, and the next cursor or None at the end of the table.
    """
    assert rows_max >= 1
    start = StateView(reader).history_start
    writes: WriteSet = {}
    for seen, (key, _) in enumerate(reader.iterate(Table.HISTORY, cursor, _HISTORY_END)):
        if seen == rows_max:
            return writes, key
        height, _ = read_history_position(key)
        if height < start:
            writes[Table.HISTORY, key] = None
    return writes, None


def _header(view: StateView, height: int) -> Header:
    header = view.header_at(height)
    if header is None:
        raise LedgerCorruptionError("ledger.corruption.missing", f"header {height} is missing")
    return header
