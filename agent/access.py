"""How the agent sees the ledger: a view at one height, and a way to put a transaction on it. The node implements it.

Source: docs/spec/agent.md 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ledger.state import StateView
from ledger.transaction import TxId


@dataclass(frozen=True, slots=True)
class CommittedAt:
    """Where a transaction stands for ever."""

    height: int
    """Height of its block, which is certified and in the local replica."""
    tx_id: TxId
    """32 bytes."""


class LedgerAccess(Protocol):
    """The ledger as a host's own node offers it."""

    @property
    def chain_id(self) -> str:
        """The network's name."""
        ...

    def view(self) -> StateView:
        """Return the local replica at its newest certified height; the view never moves, whatever is committed meanwhile."""
        ...

    def replica_age_ms(self) -> int:
        """Return the milliseconds since the time of the replica's newest certified block."""
        ...

    def split_heights(self) -> frozenset[int]:
        """Return the heights at which this node has found two certified histories, also before its last start."""
        ...

    async def submit(self, raw: bytes) -> None:
        """Return when a validator has accepted the transaction for a block, or it is on the ledger already.

        Raises:
            RejectedError: The ledger's code: it refuses the transaction.
            UnavailableError: Nobody could be asked; it may or may not have been accepted.
        """
        ...

    async def wait_receipt(self, tx_id: TxId, timeout_s: float) -> CommittedAt:
        """Return when the local replica holds the transaction.

        Raises:
            UnavailableError: Not within `timeout_s` seconds.
        """
        ...

    async def fetch_patch(self, digest: bytes, size: int) -> bytes | None:
        """Return the patch file with this SHA-256 and length from the local store or from peers, or None when nobody has it."""
        ...
