"""The leader's book of signed acknowledgements, out of which commit certificates come.

A certificate needs a majority of signatures over the very same block. Followers sign every block they make durable, so they meet at common
heights whatever batches their disks write. A signature costs about as much to verify as everything else about a block, so only those that
complete a majority are verified, and only for the highest height that can be certified.

Source: docs/spec/consensus.md 7.
"""

from __future__ import annotations

from collections.abc import Iterable

from consensus.common import Common
from consensus.messages import Acknowledgement, NodeId
from wire.certificate import CommitCertificate, acknowledgement_message


class AcknowledgementBook:
    """Acknowledgements of blocks of the current term above the commit height."""

    __slots__ = ("_by_height", "_common", "_verified")

    def __init__(self, common: Common) -> None:
        """Begin empty."""
        self._common = common
        self._by_height: dict[int, dict[NodeId, bytes]] = {}
        self._verified: dict[int, set[NodeId]] = {}

    def add(self, signer: NodeId, acknowledgements: Iterable[Acknowledgement]) -> list[int]:
        """Take down what names a block of this term that is not committed; return the heights, ascending."""
        common, log = self._common, self._common.log
        heights: list[int] = []
        for acknowledgement in acknowledgements:
            height = acknowledgement.height
            if not common.commit_height < height <= log.last_height:
                continue
            term, block_hash = log.term_and_hash(height)
            # Raft 5.4.2: only blocks of the current term are counted; they carry the earlier ones with them.
            if term != common.term:
                continue
            if block_hash != acknowledgement.block_hash:
                common.alarm(
                    "consensus.acknowledgement",
                    f"{signer.hex()} acknowledged block {acknowledgement.block_hash.hex()} at height {height}, "
                    f"where this leader proposed {block_hash.hex()}",
                )
                continue
            self._by_height.setdefault(height, {}).setdefault(signer, acknowledgement.signature)
            heights.append(height)
        return heights

    def find_certificate(self, heights: Iterable[int]) -> CommitCertificate | None:
        """Return a certificate for the highest of `heights` that enough voters have acknowledged, and this node's disk; or None."""
        durable_height = self._common.log.durable_height
        for height in sorted(heights, reverse=True):
            if self._common.commit_height < height <= durable_height:
                certificate = self._certify(height)
                if certificate is not None:
                    return certificate
        return None

    def heights(self) -> list[int]:
        """Return the heights that have acknowledgements, ascending."""
        return sorted(self._by_height)

    def forget_upto(self, height: int) -> None:
        """Forget what is committed."""
        for gone in [h for h in self._by_height if h <= height]:
            del self._by_height[gone]
            self._verified.pop(gone, None)

    def _certify(self, height: int) -> CommitCertificate | None:
        common = self._common
        me = common.config.node_id
        signatures = self._by_height.get(height, {})
        term, block_hash = common.log.term_and_hash(height)
        # The configuration that a block makes already rules over that block (Raft 6). It counts its voters and nobody else: neither
        # learners nor, when it is none of them, this leader.
        configuration = common.configurations.at(height)
        assert configuration is not None
        if term != common.term or not configuration.is_quorum({me, *signatures}):
            return None
        message = acknowledgement_message(common.config.chain_id, term, height, block_hash)
        verified = self._verified.setdefault(height, set())
        for signer, signature in sorted(signatures.items()):
            if configuration.is_quorum({me, *verified}):
                break
            if signer in verified or signer not in configuration.keys:
                continue
            if configuration.keys[signer].is_valid(message, signature):
                verified.add(signer)
            else:
                del signatures[signer]
                common.alarm(
                    "consensus.acknowledgement",
                    f"an acknowledgement of {signer.hex()} for height {height} has a signature that does not hold",
                )
        if not configuration.is_quorum({me, *verified}):
            return None
        signed = {signer: signatures[signer] for signer in verified}
        if configuration.is_voter(me):
            signed[me] = common.sign_acknowledgement(height, block_hash)
        return CommitCertificate(term, height, block_hash, tuple(sorted(signed.items())))
