"""A damaged store made anew: from the founding document, the blocks that can still be read, and those that peers send.

::

    genesis ─► execute block 1 … committed ─► the very hash that LOG_TIP remembers ─► the tail, block by block ─► switch

The new database is filled beside the old one and takes its place in one step (`Store.switch`), so this can be interrupted anywhere. The
transactions' signatures are not checked again: that the chain ends in the remembered hash proves every block in it.

What cannot be made anew is what this node alone knew: how far its log reached, its term, and its vote. If those rows are lost, a validator
is refused with the name of the row, because it must not vote as if it remembered.

Source: docs/spec/storage.md 6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from consensus.effects import HardState, hard_state_after_snapshot
from ledger.block import Block, decode_block_untrusted, decode_header_untrusted
from ledger.certificate import verify_block_certificate
from ledger.genesis import Genesis, genesis_block
from ledger.keyspace import Overlay, Table, height_key
from ledger.state import StateView
from ledger.transaction import decode_transaction_untrusted
from ledger.transition import Executed, execute_block
from node.errors import StorageError
from node.storage.block_store import (
    decode_hard_state,
    decode_log_term,
    decode_log_tip,
    encode_hard_state,
    encode_log_term,
    encode_log_tip,
)
from node.storage.checks import HINT, row_error
from node.storage.filling import Filling
from node.storage.leveldb import Store
from node.storage.tables import (
    ONLY_KEY,
    TABLE_HARD_STATE,
    TABLE_LOG_ENTRY,
    TABLE_LOG_TERM,
    TABLE_LOG_TIP,
)
from wire.certificate import decode_commit_certificate_untrusted
from wire.errors import RejectedError
from wire.hashing import Digest

if TYPE_CHECKING:
    from node.sync import CertifiedBlock

Fetch = Callable[[int], "Iterable[Sequence[CertifiedBlock]]"]
"""Returns, one peer after the other, blocks from a height on, the last one of each answer with its certificate. Blocking."""
Report = Callable[[int, int], None]
"""Told now and then how far it is: height, and height of the end."""


@dataclass(frozen=True, slots=True)
class _Lost:
    """A block that is not in the store any more."""

    table: int
    height: int

    def error(self) -> StorageError:
        return row_error(
            "node.storage.missing_row",
            self.table,
            height_key(self.height),
            "is damaged or missing, and no peer has sent that block",
        )


@dataclass(frozen=True, slots=True)
class Promises:
    """What only this node knows: how far its log reached, and how it has voted."""

    last_height: int
    last_hash: Digest
    committed_height: int
    committed_hash: Digest
    hard_state: HardState | None
    """None for a node that does not vote."""
    last_term: int
    """Of the last block of the log; at most that of `hard_state` if the row is lost."""


def read_promises(store: Store, genesis_hash: Digest, *, votes: bool) -> Promises:
    """Return what a damaged store still says about this node's own promises.

    Args:
        store: The damaged store.
        genesis_hash: Hash of block 0: where a node begins again that has promised nothing.
        votes: Whether this node's votes and acknowledgements count.

    Raises:
        StorageError: ``node.storage.missing_row``: a validator's row is lost that nobody can make anew.
    """
    row = _read(store, TABLE_LOG_TIP, ONLY_KEY)
    if row is None and votes:
        raise row_error(
            "node.storage.missing_row", TABLE_LOG_TIP, ONLY_KEY, "is lost: nobody knows how far this log reached"
        )
    # Whoever does not vote has promised nothing, and begins again.
    last, last_hash, committed, committed_hash = (
        (0, genesis_hash, 0, genesis_hash) if row is None else decode_log_tip(row)
    )
    row = _read(store, TABLE_HARD_STATE, ONLY_KEY)
    if row is None and votes:
        # It may never have voted; but in a damaged store a row that is not there proves nothing.
        raise row_error(
            "node.storage.missing_row", TABLE_HARD_STATE, ONLY_KEY, "is lost: nobody knows how this node has voted"
        )
    hard_state = None if row is None else decode_hard_state(row)
    row = _read(store, TABLE_LOG_TERM, height_key(last))
    last_term = decode_log_term(row)[0] if row is not None else 0 if hard_state is None else hard_state.term
    return Promises(last, last_hash, committed, committed_hash, hard_state, last_term)


def _read(store: Store, table: int, key: bytes) -> bytes | None:
    """Return the row if anything of it can be read."""
    try:
        return store.get(table, key)
    except StorageError:
        return store.salvage(table, key)


class Rebuild:
    """Makes the store of one node anew; use it once. Blocking: call `run` in a thread.

    Args:
        store: The damaged store, open.
        genesis: The founding document.
        votes: Whether this node's votes and acknowledgements count, so that it must not forget any.
        fetch: How to get blocks from peers.
        report: Who wants to know how far it is.
    """

    def __init__(
        self,
        store: Store,
        genesis: Genesis,
        *,
        votes: bool,
        fetch: Fetch,
        report: Report = lambda _height, _end: None,
    ) -> None:
        self._store = store
        self._votes = votes
        self._fetch = fetch
        self._report = report
        self._genesis_block, self._genesis_writes = genesis_block(genesis)

    def run(self) -> int:
        """Make the store anew and use it; return the height of the committed state.

        Raises:
            StorageError: ``node.storage.missing_row``: a row is lost that nobody can make anew; the old database stays as it is.
                ``node.storage.damaged``: the blocks do not lead to the hash that this node committed.
            StorageFailedError: ``node.storage.write_failed``.
        """
        promises = read_promises(self._store, self._genesis_block.block_hash, votes=self._votes)
        committed, committed_hash = promises.committed_height, promises.committed_hash
        new = Filling(self._store.new_database())
        try:
            new.put(self._genesis_writes)
            new.rows[TABLE_LOG_TERM, height_key(0)] = encode_log_term(0, self._genesis_block.block_hash)
            self._replay(new, committed)
            if StateView(new).tip.block_hash != committed_hash:
                raise StorageError(
                    "node.storage.damaged",
                    f"the blocks lead to another block {committed} than this node had committed",
                    hint=HINT,
                    expected=committed_hash,
                    actual=StateView(new).tip.block_hash,
                )
            last, last_hash, term = self._copy_tail(new, promises)
            new.rows[TABLE_LOG_TIP, ONLY_KEY] = encode_log_tip(last, last_hash, committed, committed_hash)
            if promises.hard_state is not None:
                kept = hard_state_after_snapshot(promises.hard_state, term)
                new.rows[TABLE_HARD_STATE, ONLY_KEY] = encode_hard_state(kept)
            new.flush()
            self._store.switch(new.database)
        except BaseException:
            new.database.close()
            raise
        return committed

    # Committed blocks

    def _replay(self, new: Filling, committed: int) -> None:
        for height in range(1, committed + 1):
            raw = _read(self._store, Table.BLOCK, height_key(height)) or _read(
                self._store, TABLE_LOG_ENTRY, height_key(height)
            )
            executed = None if raw is None else _execute(new, raw)
            if executed is None:
                executed = self._fetch_committed(new, height)
            new.put(executed.writes)
            new.rows[TABLE_LOG_TERM, height_key(height)] = encode_log_term(
                executed.block.header.term, executed.block_hash
            )
            certificate = _read(self._store, Table.CERTIFICATE, height_key(height))
            if certificate is not None:
                new.rows[Table.CERTIFICATE, height_key(height)] = certificate
            if new.flush_if_large():
                self._report(height, committed)

    def _fetch_committed(self, new: Filling, height: int) -> Executed:
        expected = self._expected_hash(height)
        for answer in self._fetch(height):
            if answer and (executed := _execute(new, answer[0].block)) is not None:
                if expected is None or executed.block_hash == expected:
                    return executed
        raise _Lost(int(Table.BLOCK), height).error()

    # The tail

    def _copy_tail(self, new: Filling, promises: Promises) -> tuple[int, Digest, int]:
        """Take over the blocks above the committed one; return height, hash and term of the last.

        They are executed, to be sure of them, and not kept executed: that is for the node to do when it starts.
        """
        reader: Overlay | Filling = new
        tip = StateView(new).tip
        last = promises.last_height
        for height in range(promises.committed_height + 1, last + 1):
            expected = promises.last_hash if height == last else self._expected_hash(height)
            raw = _read(self._store, TABLE_LOG_ENTRY, height_key(height))
            executed = None if raw is None else _execute(reader, raw)
            superseded = False
            if executed is None or (expected is not None and executed.block_hash != expected):
                executed, superseded = self._fetch_logged(reader, height, expected, promises)
            key = height_key(height)
            new.rows[TABLE_LOG_ENTRY, key] = executed.block.raw
            new.rows[TABLE_LOG_TERM, key] = encode_log_term(executed.block.header.term, executed.block_hash)
            reader = Overlay(reader, executed.writes)
            tip = StateView(reader).tip
            if superseded:
                break
        return tip.header.height, tip.block_hash, tip.header.term

    def _fetch_logged(
        self, reader: Overlay | Filling, height: int, expected: Digest | None, promises: Promises
    ) -> tuple[Executed, bool]:
        """Return the lost block from a peer, or the one that the network has certified in its place, and whether it is that.

        While nobody lies a certified block replaces this node's own only if that was of an earlier term, and no block above it can have
        been certified either. If somebody does, this node may have acknowledged what it lost, or what lies above: a block with which the
        position does not rise is refused, since the next vote or acknowledgement would convict it (docs/spec/consensus.md 6.3).
        """
        for answer in self._fetch(height):
            executed = _execute(reader, answer[0].block) if answer else None
            if executed is None:
                continue
            if executed.block_hash == expected:
                return executed, False
            position = executed.block.header.term, height
            may_end_here = not self._votes or position > (promises.last_term, promises.last_height)
            if may_end_here and _is_certified(reader, executed, answer):
                return executed, True
        raise _Lost(TABLE_LOG_ENTRY, height).error()

    def _expected_hash(self, height: int) -> Digest | None:
        row = _read(self._store, TABLE_LOG_TERM, height_key(height))
        if row is not None:
            return decode_log_term(row)[1]
        row = _read(self._store, Table.HEADER, height_key(height))
        if row is not None:
            return decode_header_untrusted(row).hash()
        for table in (Table.BLOCK, TABLE_LOG_ENTRY):
            row = _read(self._store, table, height_key(height + 1))
            if row is not None:
                return decode_block_untrusted(row).header.previous_hash
        return None


def _execute(reader: Overlay | Filling, raw: bytes) -> Executed | None:
    """Return what the block leads to, or None when it does not follow; its transactions' signatures are not checked."""
    try:
        block: Block = decode_block_untrusted(raw)
        decoded = [decode_transaction_untrusted(each) for each in block.transactions]
        verified = {each.leaf_hash for each in decoded}
        return execute_block(reader, block, now_ms=None, verified=verified, decoded=decoded)
    except RejectedError:
        return None


def _is_certified(reader: Overlay | Filling, executed: Executed, answer: Sequence[CertifiedBlock]) -> bool:
    """Return whether a majority of the validators stands behind the last block of `answer`, whose first block is `executed`."""
    for item in answer[1:]:
        reader = Overlay(reader, executed.writes)
        following = _execute(reader, item.block)
        if following is None:
            return False
        executed = following
    raw = answer[-1].certificate
    if raw is None:
        return False
    try:
        configuration = StateView(Overlay(reader, executed.writes)).configuration()
        verify_block_certificate(decode_commit_certificate_untrusted(raw), executed.block.header, configuration)
    except RejectedError:
        return False
    return True
