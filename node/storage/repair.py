"""One damaged row, made anew from what else is known: what this process remembers, other rows, or a block that a peer has sent.

==============================  ==========================================================================================
row                             comes from
==============================  ==========================================================================================
any, in a damaged part of a     itself: its own checksum holds
file
STORE, LOG_TIP, HARD_STATE      this process' memory
LOG_TERM, HEADER, HISTORY       the block of their height
BLOCK_HASH                      LOG_TERM, where the hash stands beside its height
TX_INDEX                        EXECUTED, the ids of a block's transactions
BLOCK, LOG_ENTRY                a block whose hash is the one that LOG_TERM, HEADER or the next block names
CERTIFICATE                     a certificate of that block; or it goes, when a later one proves the same
everything else                 nothing here: it is what executing the blocks leads to (`node.storage.rebuild`)
==============================  ==========================================================================================

Nothing is believed because of who sent it. Source: docs/spec/storage.md 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ledger.block import Block, Header, decode_block_untrusted, decode_header_untrusted
from ledger.executed import decode_executed_link
from ledger.keyspace import Table, height_key, pack_location, read_height, read_history_position
from ledger.transaction import decode_transaction_untrusted
from node.errors import StorageError
from node.storage import tables
from node.storage.block_store import BlockStore, encode_log_term
from wire.certificate import CommitCertificate, decode_commit_certificate_untrusted
from wire.errors import RejectedError
from wire.hashing import Digest

_LASTING_TABLES: Final = frozenset({int(Table.BLOCK_HASH), int(Table.TX_INDEX), int(Table.HISTORY)})
_BLOCK_TABLES: Final = frozenset({int(Table.BLOCK), tables.TABLE_LOG_ENTRY})


@dataclass(frozen=True, slots=True)
class Needs:
    """What a repair is waiting for."""

    height: int
    """Whose block or certificate."""
    certificate: bool
    """Whether it is the certificate."""


class NotDerivableError(Exception):
    """The row cannot be made anew from single rows; the whole store must be (`node.storage.rebuild`)."""


class _MissingError(Exception):
    """Something from outside would help."""

    def __init__(self, needs: Needs) -> None:
        super().__init__(needs)
        self.needs = needs


class RowRepair:
    """Repairs single rows of `blocks`. Blocking: call it in a thread.

    Args:
        blocks: The store.
        find_raw: Returns an executed block that is still in memory by its height, or None.
    """

    def __init__(self, blocks: BlockStore, find_raw: Callable[[int], bytes | None] = lambda _height: None) -> None:
        self._blocks = blocks
        self._store = blocks.store
        self._find_raw = find_raw

    def repair(self, table: int, key: bytes) -> Needs | None:
        """Repair the row if it is still damaged; return what is missing for that, or None when it is sound now.

        Raises:
            NotDerivableError: No single row or block helps.
            StorageFailedError: ``node.storage.write_failed``; the node must stop.
        """
        if table == tables.TABLE_STORE and key not in {own for _, own in self._store.own_rows()}:
            self._store.write({})  # The number of the last batch is part of every batch.
            return None
        try:
            if table in _LASTING_TABLES:
                # Found by searching, and never changed once it is there: commits need not wait for it.
                value = self._derive(table, key)
                self._blocks.mend(table, key, lambda: value)
            else:
                self._blocks.mend(table, key, lambda: self._derive(table, key))
        except _MissingError as error:
            return error.needs
        except StorageError as error:
            raise NotDerivableError from error  # What it would be derived from is damaged as well.
        return None

    def take_block(self, table: int, height: int, raw: bytes) -> bool:
        """Put a block from anybody into a damaged row of BLOCK or LOG_ENTRY; return False when it is another block than the lost one."""
        assert table in _BLOCK_TABLES
        expected = self.expected_hash(height)
        try:
            block = decode_block_untrusted(raw)
        except RejectedError:
            return False
        if expected is None or block.header.height != height or block.block_hash != expected:
            return False
        self._blocks.mend(table, height_key(height), lambda: raw)
        return True

    def take_certificate(self, height: int, raw: bytes) -> None:
        """Put a certificate that the caller has verified for the block at `height` into its damaged row."""
        self._blocks.mend(Table.CERTIFICATE, height_key(height), lambda: raw)

    def expected_hash(self, height: int) -> Digest | None:
        """Return the hash that the rows around it give the block at `height`, or None when none of them can be read."""
        for find in (self._hash_of_term_row, self._hash_of_header, self._hash_of_next):
            try:
                found = find(height)
            except (StorageError, RejectedError):
                continue
            if found is not None:
                return found
        return None

    def _derive(self, table: int, key: bytes) -> bytes | None:
        saved = self._store.salvage(table, key)
        if saved is not None:
            return saved
        known = (self._store.own_rows() | self._blocks.known_rows()).get((table, key))
        if known is not None:
            return known
        match table:
            case Table.BLOCK | tables.TABLE_LOG_ENTRY:
                return self._block_raw(read_height(key))
            case tables.TABLE_LOG_TERM:
                header = self._block(read_height(key)).header
                return encode_log_term(header.term, header.hash())
            case Table.HEADER:
                return self._block(read_height(key)).header.encode()
            case Table.CERTIFICATE:
                self._check_later_certificate(read_height(key))
                return None
            case Table.BLOCK_HASH:
                return self._height_of(Digest(key))
            case Table.HISTORY:
                height, index = read_history_position(key)
                return decode_transaction_untrusted(self._block(height).transactions[index]).tx_id
            case Table.TX_INDEX:
                return self._location(key)
            case _:
                raise NotDerivableError

    def _block_raw(self, height: int) -> bytes:
        """Return the encoded block at `height` from the other table or from memory."""
        expected = self.expected_hash(height)
        for find in (self._find_raw, self._committed_raw, self._logged_raw):
            try:
                raw = find(height)
                if raw is not None and decode_block_untrusted(raw).block_hash == expected:
                    return raw
            except (StorageError, RejectedError):
                continue
        raise _MissingError(Needs(height, certificate=False))

    def _block(self, height: int) -> Block:
        for find in (self._committed_raw, self._logged_raw):
            try:
                raw = find(height)
            except StorageError as error:
                raise _MissingError(Needs(height, certificate=False)) from error
            if raw is not None:
                return decode_block_untrusted(raw)
        raise NotDerivableError

    def _committed_raw(self, height: int) -> bytes | None:
        return self._store.get(Table.BLOCK, height_key(height))

    def _logged_raw(self, height: int) -> bytes | None:
        return self._store.get(tables.TABLE_LOG_ENTRY, height_key(height))

    def _hash_of_term_row(self, height: int) -> Digest | None:
        if self._store.get(tables.TABLE_LOG_TERM, height_key(height)) is None:
            return None
        return self._blocks.term_and_hash(height)[1]

    def _hash_of_header(self, height: int) -> Digest | None:
        header = self._header(height)
        return None if header is None else header.hash()

    def _hash_of_next(self, height: int) -> Digest | None:
        header = self._header(height + 1)
        if header is None:
            raw = self._logged_raw(height + 1)
            header = None if raw is None else decode_block_untrusted(raw).header
        return None if header is None else header.previous_hash

    def _header(self, height: int) -> Header | None:
        raw = self._store.get(Table.HEADER, height_key(height))
        return None if raw is None else decode_header_untrusted(raw)

    def _check_later_certificate(self, height: int) -> None:
        """Return when a later certificate proves this block too, so that its own may go."""
        rows = self._store.iterate(
            Table.CERTIFICATE, height_key(height + 1), height_key(self._blocks.committed_height + 1)
        )
        if next(rows, None) is None:
            raise _MissingError(Needs(height, certificate=True))

    def _height_of(self, block_hash: Digest) -> bytes:
        for key, row in self._store.iterate(tables.TABLE_LOG_TERM):
            if row.endswith(block_hash):
                return key
        raise NotDerivableError

    def _location(self, tx_id: bytes) -> bytes:
        for key, row in self._store.iterate(Table.EXECUTED, reverse=True):
            if tx_id in row:
                link = decode_executed_link(read_height(key), row)
                if tx_id in link.tx_ids:
                    index = link.tx_ids.index(Digest(tx_id))
                    return pack_location(link.height, index, link.first + index)
        raise NotDerivableError


def verify_certificate_subject(raw: bytes, height: int, block_hash: Digest | None) -> CommitCertificate | None:
    """Return the certificate if it is about the block with this height and hash; its signatures are not checked."""
    try:
        certificate = decode_commit_certificate_untrusted(raw)
    except RejectedError:
        return None
    return certificate if (certificate.height, certificate.block_hash) == (height, block_hash) else None
