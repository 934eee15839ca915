"""Transactions that wait for a block: bounded, in order of arrival, each at most once.

It decides nothing about validity and never executes; `ledger.transition` does, before a transaction comes in and again when a block is
built. `take` leaves what it returns in place, because a block that was built may still be lost; `remove` follows the commit.

Source: docs/spec/ledger.md 10.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ledger.errors import NotYetAvailableError
from ledger.transaction import Transaction
from wire.limits import BLOCK_BYTES_MAX, BLOCK_TRANSACTIONS_MAX, MEBIBYTE

TRANSACTIONS_MAX: Final = 20_000
"""Waiting transactions: some seconds of a loaded network's work."""
BYTES_MAX: Final = 64 * MEBIBYTE
"""Their encodings together."""
SIGNER_SHARE: Final = 2
"""One signer may hold one part in so many of the places, so that no signer shuts out the others."""


class Mempool:
    """A queue of distinct transactions.

    Args:
        transactions_max: How many may wait.
        bytes_max: How long their encodings may be together.
        per_signer_max: How many may wait under one key; by default every `SIGNER_SHARE`-th place.
    """

    __slots__ = ("_bytes", "_bytes_max", "_per_signer", "_per_signer_max", "_transactions", "_transactions_max")

    def __init__(
        self,
        *,
        transactions_max: int = TRANSACTIONS_MAX,
        bytes_max: int = BYTES_MAX,
        per_signer_max: int | None = None,
    ) -> None:
        self._transactions: dict[bytes, Transaction] = {}  # by tx_id; a dict keeps the order of arrival
        self._per_signer: dict[bytes, int] = {}
        self._bytes = 0
        self._transactions_max = transactions_max
        self._bytes_max = bytes_max
        self._per_signer_max = max(1, transactions_max // SIGNER_SHARE) if per_signer_max is None else per_signer_max

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._transactions)

    def __contains__(self, tx_id: object) -> bool:
        """Return whether the transaction waits."""
        return tx_id in self._transactions

    @property
    def bytes_waiting(self) -> int:
        """How long the waiting transactions are together."""
        return self._bytes

    def find(self, tx_id: bytes) -> Transaction | None:
        """Return the waiting transaction, or None."""
        return self._transactions.get(tx_id)

    def add(self, transaction: Transaction) -> bool:
        """Return True when the transaction now waits at the end, False when it waited already.

        Raises:
            NotYetAvailableError: ``ledger.mempool.full``, ``ledger.mempool.signer_full``: try again after the next blocks.
        """
        if transaction.tx_id in self._transactions:
            return False
        size = len(transaction.raw)
        if len(self._transactions) >= self._transactions_max or self._bytes + size > self._bytes_max:
            raise NotYetAvailableError(
                "ledger.mempool.full",
                "too many transactions wait for a block",
                hint="try again in a moment",
                expected=f"at most {self._transactions_max} transactions and {self._bytes_max} bytes",
                actual=f"{len(self._transactions)} and {self._bytes}",
            )
        waiting = self._per_signer.get(transaction.signer_key_id, 0)
        if waiting >= self._per_signer_max:
            raise NotYetAvailableError(
                "ledger.mempool.signer_full",
                "too many transactions of this signer wait for a block",
                hint="try again in a moment",
                expected=f"at most {self._per_signer_max}",
                actual=waiting,
            )
        self._transactions[transaction.tx_id] = transaction
        self._per_signer[transaction.signer_key_id] = waiting + 1
        self._bytes += size
        return True

    def take(
        self, bytes_max: int = BLOCK_BYTES_MAX, count_max: int = BLOCK_TRANSACTIONS_MAX
    ) -> tuple[Transaction, ...]:
        """Return the first transactions, in order of arrival, that fit; they keep waiting until they are removed."""
        taken: list[Transaction] = []
        for transaction in self._transactions.values():
            bytes_max -= len(transaction.raw)
            if bytes_max < 0 or len(taken) == count_max:
                break
            taken.append(transaction)
        return tuple(taken)

    def remove(self, tx_ids: Iterable[bytes]) -> None:
        """Forget these transactions; unknown ones do no harm."""
        for tx_id in tx_ids:
            transaction = self._transactions.pop(tx_id, None)
            if transaction is None:
                continue
            self._bytes -= len(transaction.raw)
            left = self._per_signer[transaction.signer_key_id] - 1
            if left:
                self._per_signer[transaction.signer_key_id] = left
            else:
                del self._per_signer[transaction.signer_key_id]

    def expire(self, height: int) -> tuple[Transaction, ...]:
        """Forget and return those that no block after `height` can execute any more.

        Args:
            height: Of the last executed block.
        """
        dead = tuple(each for each in self._transactions.values() if each.not_after_height <= height)
        self.remove([each.tx_id for each in dead])
        return dead
