"""The embedded agent: the ledger as the node offers it, and the agent's methods on the local socket.

The agent sees its node's own replica and nothing else; no network call stands between a patch and the decision about it. Only bringing
records to the ledger, and fetching a patch file that is not here yet, go to peers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from agent.access import CommittedAt
from ledger.state import StateView
from ledger.transaction import TxId
from wire.errors import UnavailableError
from wire.hashing import Digest

if TYPE_CHECKING:
    from node.app import Node

SUBMIT_TIMEOUT_MS: Final = 5_000
"""How long one submission looks for a validator that takes it."""


class NodeLedger:
    """`agent.access.LedgerAccess` over a running node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def chain_id(self) -> str:
        """The network's name."""
        return self._node.replica.chain_id

    def view(self) -> StateView:
        """Return the replica at its newest certified height. The snapshot behind it is released with the view."""
        return StateView(self._node.replica.store.snapshot())

    def replica_age_ms(self) -> int:
        """Return the milliseconds since the time of the replica's newest certified block."""
        return self._node.replica.replica_age_ms()

    def split_heights(self) -> frozenset[int]:
        """Return the heights at which this node has found two certified histories, also before its last start."""
        return frozenset(self._node.checkpoints.split_heights)

    async def submit(self, raw: bytes) -> None:
        """Return when a validator has accepted the transaction, or it is on the ledger already.

        Raises:
            RejectedError: The ledger's code.
            UnavailableError: Nobody could be asked.
        """
        (result,) = await self._node.submitter.submit([raw], wait="admitted", timeout_ms=SUBMIT_TIMEOUT_MS)
        if result.error is not None:
            raise result.error

    async def wait_receipt(self, tx_id: TxId, timeout_s: float) -> CommittedAt:
        """Return when the local replica holds the transaction.

        Raises:
            UnavailableError: Not within `timeout_s` seconds (`node.submit.timeout`).
        """
        with trio.move_on_after(timeout_s):
            await self._node.replica.wait_transaction(tx_id)
            location = self._node.replica.latest_view().location(tx_id)
            assert location is not None, "a committed transaction has its place"
            return CommittedAt(location.height, tx_id)
        raise UnavailableError(
            "node.submit.timeout", "the record is not on this replica yet", expected=f"within {timeout_s:g} s"
        )

    async def fetch_patch(self, digest: bytes, size: int) -> bytes | None:
        """Return the patch file with this SHA-256 and length from here or from peers, or None when nobody has it."""
        return await self._node.patches.get(Digest(digest), size)
