"""The ids of executed transactions, chained block by block and committed to by the state.

A transaction must not be executed twice, so a node that begins from a snapshot must learn which ones were. The table TX_INDEX is not
under the state root; this chain is, through one record (`ledger.records.TransactionChain`)::

    EXECUTED[h] = encode((digest before, height before, log index of the first, (tx_id, …)))
    digest      = hash_domain(DOMAIN_EXECUTED, h || EXECUTED[h])

Blocks without transactions have no link. Once a transaction can no longer be executed because its ``not_after_height`` has passed, it needs
no memory: links older than `NOT_AFTER_WINDOW_MAX` heights may go, with their rows of TX_INDEX.

Source: docs/spec/ledger.md 15.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.errors import LedgerCorruptionError
from ledger.keyspace import Table, WriteSet, height_key, pack_location
from ledger.limits import NOT_AFTER_WINDOW_MAX
from ledger.records import TransactionChain
from wire.codec import decode_untrusted, encode
from wire.errors import MalformedError
from wire.fields import as_digest, as_int, as_tuple
from wire.hashing import DOMAIN_EXECUTED, Digest, hash_domain
from wire.limits import BLOCK_TRANSACTIONS_MAX, KIBIBYTE

LINK_BYTES_MAX: Final = 64 * KIBIBYTE
"""An encoded link: at most `BLOCK_TRANSACTIONS_MAX` ids of 34 bytes."""
FIRST: Final = TransactionChain(bytes(32), 0)
"""Stands before the first block with transactions."""


@dataclass(frozen=True, slots=True)
class ExecutedLink:
    """The transactions of one block, and what was executed before them."""

    height: int
    """The block's height."""
    before: TransactionChain
    """The chain before it."""
    first: int
    """Place of its first transaction in the log of all."""
    tx_ids: tuple[Digest, ...]
    """Its transactions, in order; at least one."""

    def encode(self) -> bytes:
        """Return the row of EXECUTED."""
        return encode((self.before.digest, self.before.height, self.first, self.tx_ids))

    @property
    def chain(self) -> TransactionChain:
        """The chain after it. It encodes and hashes each time."""
        return TransactionChain(hash_domain(DOMAIN_EXECUTED, height_key(self.height) + self.encode()), self.height)

    def index_rows(self) -> WriteSet:
        """Return the rows of TX_INDEX for its transactions."""
        return {
            (Table.TX_INDEX, tx_id): pack_location(self.height, index, self.first + index)
            for index, tx_id in enumerate(self.tx_ids)
        }


def decode_executed_link_untrusted(height: int, raw: bytes) -> ExecutedLink:
    """Return the link of block `height` that `raw` encodes; nothing is compared with any chain.

    Raises:
        MalformedError: ``wire.codec.*``, ``wire.field.*``.
    """
    digest, before, first, ids = as_tuple(decode_untrusted(raw, bytes_max=LINK_BYTES_MAX), "executed", length=4)
    tx_ids = tuple(as_digest(each, "tx_id") for each in as_tuple(ids, "tx_ids", length_max=BLOCK_TRANSACTIONS_MAX))
    chain = TransactionChain(as_digest(digest, "digest before"), as_int(before, "height before"))
    return ExecutedLink(height, chain, as_int(first, "first"), tx_ids)


def decode_executed_link(height: int, raw: bytes) -> ExecutedLink:
    """Return the stored link of block `height`.

    Raises:
        LedgerCorruptionError: ``ledger.corruption.record``.
    """
    try:
        return decode_executed_link_untrusted(height, raw)
    except MalformedError as error:
        raise LedgerCorruptionError(
            "ledger.corruption.record", f"the stored ids of block {height} cannot be read: {error.message}"
        ) from error


def window_start(height: int) -> int:
    """Return the lowest height whose transactions a block after `height` could still repeat; at least 1."""
    return max(1, height + 1 - NOT_AFTER_WINDOW_MAX)
