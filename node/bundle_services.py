"""The socket's method that takes over what was carried by hand.

Blocks that cannot follow are looked at once more: when they are certified and contradict this node's history, they are the evidence that
there are two, and are kept as such.

Source: docs/spec/network.md 8; docs/spec/proofs.md 6.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ledger.block import decode_block_untrusted
from node.local.protocol import Json, decode_blob_untrusted
from node.params import as_hex_digest, as_integer
from node.sync import BLOCKS_ANSWER_MAX, CertifiedBlock
from wire.certificate import CommitCertificate, decode_commit_certificate_untrusted
from wire.errors import MalformedError, RejectedError
from wire.limits import BLOCK_BYTES_MAX, CERTIFICATE_BYTES_MAX

if TYPE_CHECKING:
    from node.app import Node

BUNDLE_BLOCKS_MAX: Final = BLOCKS_ANSWER_MAX
"""Blocks in one call."""


class BundleServices:
    """Takes over certified blocks on a node that follows others."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def methods(self) -> dict[str, Callable[[Mapping[str, Json]], Any]]:
        """Return the methods by their names on the socket."""
        return {"bundle.take": self.take}

    async def take(self, params: Mapping[str, Json]) -> dict[str, Any]:
        """Verify and commit carried blocks as if a peer had sent them; return how many were new, and the height."""
        observer = self._node.observer
        if observer is None:
            raise RejectedError(
                "node.bundle.not_an_observer",
                "a validator takes blocks from consensus alone",
                hint="give the bundle to a host or another node that follows",
            )
        with self._node.replica.view() as view:
            founded = view.genesis_hash
        named = as_hex_digest(params, "genesis_hash")
        if named != founded:
            raise RejectedError(
                "node.bundle.wrong_chain", "the bundle is of another network", expected=founded, actual=named
            )
        items = params.get("blocks")
        if not isinstance(items, list) or not 1 <= len(items) <= BUNDLE_BLOCKS_MAX:
            raise MalformedError("node.param.blocks", f"blocks must be a list of 1 to {BUNDLE_BLOCKS_MAX} members")
        blocks = [_block(each) for each in items]
        try:
            taken = await observer.take_carried(as_integer(params, "from"), blocks)
        except RejectedError as error:
            await self._keep_evidence(blocks, error)
            raise
        return {"taken": taken, "height": self._node.replica.height}

    async def _keep_evidence(self, blocks: Sequence[CertifiedBlock], error: RejectedError) -> None:
        """Return when refused blocks prove nothing; what proves that the validators have certified another history is kept.

        Raises:
            RejectedError: ``node.bundle.split_view``: they do.
        """
        try:
            headers = [(decode_block_untrusted(each.block).header, _certificate(each)) for each in blocks]
        except RejectedError:
            return
        evidence = await self._node.checkpoints.take_blocks_untrusted(headers, "a bundle")
        if evidence is not None:
            raise RejectedError(
                "node.bundle.split_view",
                "the bundle holds another history, which the validators of this one have certified; "
                "a host applies nothing until that is settled",
                hint=f"keep {evidence}: patchwarden checkpoint accuse puts it on record; then patchwarden agent split-view settle",
                details={"cause": error.code},
            ) from error


def _certificate(block: CertifiedBlock) -> CommitCertificate | None:
    return None if block.certificate is None else decode_commit_certificate_untrusted(block.certificate)


def _block(value: Json) -> CertifiedBlock:
    if not isinstance(value, dict):
        raise MalformedError("node.param.blocks", "a member of blocks must be an object")
    certificate = value.get("certificate")
    return CertifiedBlock(
        decode_blob_untrusted(value.get("block"), "block", bytes_max=BLOCK_BYTES_MAX),
        None
        if certificate is None
        else decode_blob_untrusted(certificate, "certificate", bytes_max=CERTIFICATE_BYTES_MAX),
    )
