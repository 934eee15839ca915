"""What a node proves: methods of the local socket whose answers are verified by people who do not trust the node.

Each reads one snapshot, so a proof never mixes two heights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ledger.checkpoint import build_checkpoint
from ledger.consistency import build_consistency
from ledger.errors import NotYetAvailableError, ProofRefusedError
from ledger.proofs import build_receipt
from ledger.state_proof import build_certified_state_proof
from node.local.protocol import encode_blob
from node.params import Params, as_hex_digest, as_integer, as_name, as_optional_integer
from wire.errors import RejectedError

if TYPE_CHECKING:
    from node.app import Node

Document = dict[str, Any]


class ProofServices:
    """The proving methods of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def methods(self) -> dict[str, Callable[[Params], Any]]:
        """Return every method by its name on the socket."""
        return {
            "receipt.get": self.receipt,
            "receipt.cose": self.cose_receipt,
            "proofs.state": self.state,
            "proofs.consistency": self.consistency,
            "checkpoint.get": self.checkpoint,
        }

    async def receipt(self, params: Params) -> Document:
        """Return the portable receipt of a committed transaction, under a header of at least the given height."""
        tx_id = as_hex_digest(params, "tx_id")
        height = as_optional_integer(params, "height") or 0
        with self._node.replica.store.snapshot() as snapshot:
            try:
                return build_receipt(snapshot, tx_id, height).to_json()
            except ProofRefusedError as error:
                raise _no_transaction(tx_id) from error

    async def cose_receipt(self, params: Params) -> Document:
        """Return the COSE receipts of a committed transaction, by a majority of the validators."""
        tx_id = as_hex_digest(params, "tx_id")
        height = as_optional_integer(params, "height") or 0
        try:
            return {"file": encode_blob(await self._node.receipts.make(tx_id, height))}
        except ProofRefusedError as error:
            if error.code != "ledger.receipt.not_found":
                raise
            raise _no_transaction(tx_id) from error

    async def state(self, params: Params) -> Document:
        """Return the proof that a record is, or is not, in the state of the newest certified block."""
        subject, name = as_name(params, "subject"), as_name(params, "id")
        with self._node.replica.store.snapshot() as snapshot:
            return build_certified_state_proof(snapshot, subject, name).to_json()

    async def consistency(self, params: Params) -> Document:
        """Return the proof that the log of one size begins with the log of another."""
        before, after = as_integer(params, "from"), as_integer(params, "to")
        with self._node.replica.store.snapshot() as snapshot:
            return build_consistency(snapshot, before, after).to_json()

    async def checkpoint(self, params: Params) -> str:
        """Return the newest certified header, or the newest up to a height, as a checkpoint."""
        height = as_optional_integer(params, "height")
        with self._node.replica.store.snapshot() as snapshot:
            try:
                return build_checkpoint(snapshot, height).to_text().decode()
            except NotYetAvailableError as error:
                if height is None:
                    raise  # The first block is on its way.
                raise RejectedError(
                    "node.checkpoint.not_found",
                    f"this node has no certified header up to height {height}",
                    hint="height 0 has none; below kept history, ask another node",
                ) from error


def _no_transaction(tx_id: bytes) -> RejectedError:
    return RejectedError(
        "node.transaction.not_found",
        f"there is no such transaction on this replica: {tx_id.hex()}",
        hint="this replica may be behind; compare its height with another node's",
    )
