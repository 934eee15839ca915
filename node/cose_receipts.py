"""Receipts in COSE: validators sign roots of the log when somebody asks, and a node collects a majority of such signatures.

A validator signs only the root of a block that is committed here: committed means certified, and a certified root never changes. What it
has signed is remembered for a while, and so is what was collected, so that many receipts under one header cost one round of questions.

=================  ======================  ============================================================
method             request                 response
=================  ======================  ============================================================
receipt.sign       (height)                signature of the log root of that height's header, 64 bytes
=================  ======================  ============================================================

Source: docs/spec/proofs.md 7.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import structlog
import trio

from ledger.block import Header
from ledger.configuration import Configuration
from ledger.configuration_history import build_configuration_proof
from ledger.cose_receipt import build_cose_receipts, sign_log_root, signed_bytes
from ledger.proofs import build_receipt
from ledger.state import StateView
from wire.certificate import majority
from wire.codec import decode_untrusted, encode
from wire.errors import RejectedError, UnavailableError
from wire.fields import as_bytes, as_int, as_tuple
from wire.keys import ED25519_SIGNATURE_BYTES, KeyId, PrivateKey

if TYPE_CHECKING:
    from node.app import Node

RECEIPT_SIGN: Final = "receipt.sign"
SIGN_TIMEOUT_S: Final = 5.0
"""How long a majority may take to sign."""
CATCH_UP_S: Final = 2.0
"""How long a validator that is behind waits for the block whose root it is to sign."""
REMEMBERED_MAX: Final = 1024
"""Heights whose signatures are remembered."""
_REQUEST_BYTES_MAX: Final = 64

_log = structlog.get_logger("node.receipts")


class CoseReceiptMaker:
    """Signs roots for others where this node votes, and makes COSE receipts."""

    def __init__(self, node: Node, key: PrivateKey) -> None:
        self._node = node
        self._key = key
        self._signatures: OrderedDict[int, dict[KeyId, bytes]] = OrderedDict()

    def register(self) -> None:
        """Answer the method of this module on the node's network."""
        self._node.network.handle(RECEIPT_SIGN, self._handle)

    async def make(self, tx_id: bytes, height_min: int) -> bytes:
        """Return the COSE receipts of a committed transaction, under the first certified header of its height or of `height_min`.

        Raises:
            ProofRefusedError: ``ledger.receipt.not_found``.
            UnavailableError: ``ledger.receipt.not_certified``, ``ledger.receipt.log_too_short``, ``ledger.history.pruned``;
                ``node.receipt.no_majority``: too few validators signed in time.
        """
        with self._node.replica.store.snapshot() as snapshot:
            receipt = build_receipt(snapshot, tx_id, height_min)
            configuration = build_configuration_proof(snapshot, receipt.header.height).configuration
        signatures = await self._collect(receipt.header, configuration)
        return build_cose_receipts(receipt, configuration, signatures).encode()

    async def sign(self, height: int) -> bytes:
        """Return this node's signature of the log root at a committed height.

        Raises:
            RejectedError: ``node.receipt.not_a_validator``, ``node.receipt.unknown_height``.
            UnavailableError: ``node.receipt.behind``: this node does not have that block yet.
        """
        own = self._key.public_key.key_id
        if (known := self._known(height).get(own)) is not None:
            return known
        replica = self._node.replica
        with trio.move_on_after(CATCH_UP_S):
            await replica.wait_above(height - 1)
        if replica.height < height:
            raise UnavailableError("node.receipt.behind", "this node does not have that block yet")
        with replica.store.snapshot() as snapshot:
            header = StateView(snapshot).header_at(height)
            if header is None:
                raise RejectedError("node.receipt.unknown_height", "this node keeps no header of that height")
            if own not in build_configuration_proof(snapshot, height).configuration.members:
                raise RejectedError("node.receipt.not_a_validator", "this node has no vote at that height")
        signature = sign_log_root(self._key, replica.chain_id, header.log_root)
        self._remember(height, own, signature)
        return signature

    async def _handle(self, peer: KeyId, payload: bytes) -> bytes:
        del peer
        (height,) = as_tuple(decode_untrusted(payload, bytes_max=_REQUEST_BYTES_MAX), "request", length=1)
        return encode(await self.sign(as_int(height, "height", 1)))

    async def _collect(self, header: Header, configuration: Configuration) -> Mapping[KeyId, bytes]:
        """Return signatures of the header's log root by a majority, asking everybody at once for those that are not known."""
        found = {
            key_id: signature
            for key_id, signature in self._known(header.height).items()
            if self._holds(header, configuration, key_id, signature)
        }
        if not _is_majority(found, configuration):
            with trio.move_on_after(SIGN_TIMEOUT_S):
                async with trio.open_nursery() as nursery:
                    for key_id in configuration.members:
                        if key_id not in found:
                            nursery.start_soon(self._ask, key_id, header, configuration, found, nursery.cancel_scope)
        if not _is_majority(found, configuration):
            raise UnavailableError(
                "node.receipt.no_majority",
                f"{len(found)} of {len(configuration.members)} validators signed the log root in time",
                hint="ask again, or for the JSON form, which needs no new signatures",
            )
        return found

    async def _ask(
        self,
        key_id: KeyId,
        header: Header,
        configuration: Configuration,
        found: dict[KeyId, bytes],
        scope: trio.CancelScope,
    ) -> None:
        try:
            if key_id == self._key.public_key.key_id:
                signature = await self.sign(header.height)
            else:
                address = self._node.peer_addresses().get(key_id)
                answer = await self._node.network.request(
                    key_id, RECEIPT_SIGN, encode((header.height,)), timeout_s=SIGN_TIMEOUT_S, address=address
                )
                value = decode_untrusted(answer, bytes_max=_REQUEST_BYTES_MAX + ED25519_SIGNATURE_BYTES)
                signature = as_bytes(value, "signature", length=ED25519_SIGNATURE_BYTES)
        except (UnavailableError, RejectedError) as error:
            _log.info("validator did not sign", validator=key_id.hex()[:16], height=header.height, code=error.code)
            return
        if not self._holds(header, configuration, key_id, signature):
            # It signed something else: another root means another history, which the cross-check of checkpoints finds.
            _log.warning("validator's signature does not hold", validator=key_id.hex()[:16], height=header.height)
            return
        found[key_id] = signature
        self._remember(header.height, key_id, signature)
        if _is_majority(found, configuration):
            scope.cancel()

    @staticmethod
    def _holds(header: Header, configuration: Configuration, key_id: KeyId, signature: bytes) -> bool:
        member = configuration.members.get(key_id)
        return member is not None and member.is_valid(signed_bytes(header.chain_id, key_id, header.log_root), signature)

    def _known(self, height: int) -> dict[KeyId, bytes]:
        return self._signatures.get(height, {})

    def _remember(self, height: int, key_id: KeyId, signature: bytes) -> None:
        self._signatures.setdefault(height, {})[key_id] = signature
        self._signatures.move_to_end(height)
        if len(self._signatures) > REMEMBERED_MAX:
            self._signatures.popitem(last=False)


def _is_majority(found: Mapping[KeyId, bytes], configuration: Configuration) -> bool:
    return all(sum(key_id in group for key_id in found) >= majority(len(group)) for group in configuration.quorums)
