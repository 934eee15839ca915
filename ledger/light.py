"""Light clients: follow a chain by certified headers alone, believe no node, and never go back.

A light client begins with the founding document or with a checkpoint that came on a trusted way, its *start*. Any node's newer checkpoint
moves its *head*: directly, over any number of blocks, since the proof of the configuration leads along the changes of the validators. The
head is the highest certified header that it ever saw; it is kept, so that no node can show an older chain as the newest one later.

Three things are asked of every step, besides what a certified header needs anyway: heights, terms and the log's size do not fall, the
log only grew, and the path to the validators holds from the start too. Certified headers that contradict each other are a
`SplitViewError`, which has both. What was refused changed nothing: every step makes a new client.

Source: docs/spec/proofs.md 8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ledger.block import Header
from ledger.checkpoint import (
    Checkpoint,
    SplitView,
    checkpoint_from_text_untrusted,
    trust_checkpoint,
    verify_checkpoint,
)
from ledger.configuration_history import ConfigurationProof
from ledger.consistency import ConsistencyProof, verify_extends
from ledger.cose_receipt import CoseReceipts, verify_cose_receipts
from ledger.errors import ProofRefusedError
from ledger.genesis import Genesis, decode_genesis_untrusted
from ledger.limits import CHECKPOINT_BYTES_MAX, GENESIS_BYTES_MAX
from ledger.proofs import Receipt, verify_receipt
from ledger.state_proof import CertifiedStateProof, ProvenState, verify_certified_state_proof
from ledger.transaction import Transaction
from ledger.trust import TrustedHead, follow_configuration
from wire.certificate import CommitCertificate
from wire.codec import decode_untrusted, encode
from wire.errors import RejectedError
from wire.fields import as_bytes, as_tuple
from wire.hashing import DIGEST_BYTES, sha256

STATE_MAGIC: Final = b"patchwarden/light/1\n"
"""Begins the bytes of a kept client."""
STATE_BYTES_MAX: Final = 2 * CHECKPOINT_BYTES_MAX + GENESIS_BYTES_MAX + 1024
"""The longest kept client."""


class SplitViewError(ProofRefusedError):
    """Two certified headers of one network cannot both be: the validators have shown two histories (``ledger.light.split_view``)."""

    def __init__(self, first: Checkpoint, second: Checkpoint) -> None:
        super().__init__(
            "ledger.light.split_view",
            f"two certified headers contradict each other, at heights {first.height} and {second.height}: the validators have "
            "shown two histories",
            hint="keep both; find out with `patchwarden audit blame` who is guilty",
            expected=first.header.hash(),
            actual=second.header.hash(),
        )
        self.first = first
        self.second = second

    def evidence(self) -> SplitView:
        """Return both as evidence; with different heights it still lacks the headers between them."""
        return SplitView(self.first, self.second)


@dataclass(frozen=True, slots=True)
class LightClient:
    """What somebody knows of a chain who follows its headers only."""

    start: Genesis | Checkpoint
    """What is trusted without proof."""
    head: TrustedHead
    """The highest certified header that was verified, and its validators; without a header: nothing but the start yet."""
    newest: Checkpoint | None = None
    """The head with its certificate, to be shown to others; None while there is none."""

    @classmethod
    def from_genesis(cls, genesis: Genesis) -> LightClient:
        """Return a client that trusts the founding document."""
        return cls(genesis, TrustedHead.founding(genesis))

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> LightClient:
        """Return a client that trusts a checkpoint because of the way on which it came; it must agree with itself.

        Raises:
            RejectedError: ``ledger.proof.*``, ``wire.certificate.*``.
        """
        return cls(checkpoint, trust_checkpoint(checkpoint), checkpoint)

    @property
    def height(self) -> int:
        """The head's height; 0 with the founding document alone."""
        return self.head.height

    @property
    def origin(self) -> TrustedHead:
        """The start, as a head."""
        if isinstance(self.start, Genesis):
            return TrustedHead.founding(self.start)
        return TrustedHead(self.start.header.chain_id, self.start.configuration.configuration, self.start.header)

    def advance(self, checkpoint: Checkpoint, consistency: ConsistencyProof | None) -> LightClient:
        """Return the client with the checkpoint as its head; itself when that is the head already.

        Args:
            checkpoint: From any node.
            consistency: Shows that the head's log is the beginning of the checkpoint's, see `needs_consistency`; from any node.

        Raises:
            SplitViewError: The checkpoint holds, and contradicts the head.
            ProofRefusedError: ``ledger.light.older``, ``ledger.light.consistency`` (none was given), ``ledger.proof.*``.
            RejectedError: ``wire.certificate.*``, ``wire.merkle.*``.
        """
        verified = self.check(checkpoint)
        if self.head.header is not None:
            if checkpoint.height < self.height:
                raise ProofRefusedError(
                    "ledger.light.older",
                    "the checkpoint is older than what was seen before",
                    hint="ask another node: this one is behind, or shows an old chain as the newest",
                    expected=f"at least height {self.height}",
                    actual=checkpoint.height,
                )
            if checkpoint.height == self.height:
                return self
            if self.needs_consistency(checkpoint.header):
                if consistency is None:
                    raise ProofRefusedError(
                        "ledger.light.consistency",
                        "nothing shows that the log only grew",
                        hint="a consistency proof does (`patchwarden proof consistency`)",
                        expected=f"a proof from {self.head.header.log_size} to {checkpoint.header.log_size}",
                    )
                verify_extends(consistency, self.head.header, checkpoint.header)
        return replace(self, head=verified, newest=checkpoint)

    def check(self, checkpoint: Checkpoint) -> TrustedHead:
        """Return the checkpoint, older or newer than the head, as a verified head: it holds and does not contradict the client's own.

        Raises:
            SplitViewError: It holds, and contradicts the head.
            RejectedError: ``ledger.proof.*`` (also for an older header under other validators than the head's), ``wire.certificate.*``.
        """
        newest = self.newest
        contradicts = newest is not None and _contradict(newest.header, checkpoint.header)
        try:
            verified = verify_checkpoint(checkpoint, self.head)
        except RejectedError:
            # Under former validators nothing leads on from the head; a contradiction is one from the start on.
            if not contradicts:
                raise
            verified = verify_checkpoint(checkpoint, self.origin)
        if newest is not None and contradicts:
            if checkpoint.header.validators_hash == newest.header.validators_hash:
                checkpoint = replace(checkpoint, configuration=newest.configuration)
            # What is shown to others must hold for them, who have no head.
            verify_checkpoint(checkpoint, self.origin)
            raise SplitViewError(*_ordered(newest, checkpoint))
        self._check_path(checkpoint)
        return verified

    def needs_consistency(self, header: Header) -> bool:
        """Return whether a step to this header needs the proof that the log only grew: not from an empty log, nor without growth."""
        before = self.head.header
        return before is not None and 0 < before.log_size < header.log_size

    def verify_receipt(self, receipt: Receipt | CoseReceipts) -> Transaction:
        """Return the transaction that the receipt proves to be in the log.

        Raises:
            SplitViewError: The receipt's header contradicts the head.
            RejectedError: As `ledger.proofs.verify_receipt` and `ledger.cose_receipt.verify_cose_receipts`.
        """
        if isinstance(receipt, CoseReceipts):
            return verify_cose_receipts(receipt, self.head)
        self.check(self.checkpoint_of(receipt.header, receipt.certificate, receipt.configuration))
        return verify_receipt(receipt, self.head)

    def verify_state_proof(self, proof: CertifiedStateProof) -> ProvenState:
        """Return what the state holds at the height of the proof's header, which may be below or above the head's.

        Raises:
            SplitViewError: The proof's header contradicts the head.
            RejectedError: As `ledger.state_proof.verify_certified_state_proof`.
        """
        self.check(self.checkpoint_of(proof.header, proof.certificate, proof.configuration))
        return verify_certified_state_proof(proof, self.head)

    def checkpoint_of(
        self, header: Header, certificate: CommitCertificate, configuration: ConfigurationProof | None
    ) -> Checkpoint:
        """Return what a receipt or state proof says of a header as a checkpoint. Nothing is verified."""
        # Left out, it is the founding one; a client that began elsewhere has no other than its own that could be it.
        known = self.newest.configuration if self.newest is not None else None
        if configuration is None and known is not None and header.validators_hash == known.configuration.hash:
            configuration = known
        return Checkpoint(header, certificate, configuration or ConfigurationProof((), self.origin.configuration))

    def to_bytes(self) -> bytes:
        """Return the bytes in which the client is kept, with a checksum: `light_client_from_bytes_untrusted` reads them."""
        genesis = self.start.document if isinstance(self.start, Genesis) else None
        checkpoint = self.start.to_text() if isinstance(self.start, Checkpoint) else None
        newest = None if self.newest is None else self.newest.to_text()
        body = STATE_MAGIC + encode((genesis, checkpoint, newest))
        return body + sha256(body)

    def _check_path(self, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint whose configuration proof does not lead from the start: it could not be verified from there again."""
        if self.newest is not None and checkpoint.configuration == self.newest.configuration:
            return
        configuration, above = follow_configuration(self.origin, checkpoint.configuration)
        if configuration.hash != checkpoint.header.validators_hash or checkpoint.height <= above:
            raise ProofRefusedError(
                "ledger.proof.configuration",
                "the proof of the validators leads to others than the header's",
                expected=checkpoint.header.validators_hash,
                actual=configuration.hash,
            )


def light_client_from_bytes_untrusted(data: bytes) -> LightClient:
    """Return the client that was kept in these bytes. Its head is verified from its start again.

    Raises:
        ProofRefusedError: ``ledger.light.damaged``.
    """
    body, checksum = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    if len(data) > STATE_BYTES_MAX or not body.startswith(STATE_MAGIC) or sha256(body) != checksum:
        raise _damaged("its first line or its checksum is wrong")
    try:
        value = decode_untrusted(body[len(STATE_MAGIC) :], bytes_max=STATE_BYTES_MAX)
        genesis, checkpoint, newest = as_tuple(value, "light client", length=3)
        if genesis is not None and checkpoint is None:
            client = LightClient.from_genesis(decode_genesis_untrusted(as_bytes(genesis, "genesis")))
        elif genesis is None:
            text = as_bytes(checkpoint, "checkpoint")
            client = LightClient.from_checkpoint(checkpoint_from_text_untrusted(text))
        else:
            raise _damaged("it has two starts")
        if newest is not None:
            head = checkpoint_from_text_untrusted(as_bytes(newest, "newest"))
            client = replace(client, head=client.check(head), newest=head)
    except RejectedError as error:
        if error.code == "ledger.light.damaged":
            raise
        raise _damaged(error.message) from error
    return client


def _contradict(first: Header, second: Header) -> bool:
    """Return whether no chain can have both headers, whatever lies between them."""
    lower, higher = (first, second) if first.height <= second.height else (second, first)
    if lower.height == higher.height:
        return lower.hash() != higher.hash()
    if lower.term > higher.term or lower.log_size > higher.log_size:
        return True
    return lower.log_size == higher.log_size and lower.log_root != higher.log_root


def _ordered(first: Checkpoint, second: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    return (first, second) if first.height <= second.height else (second, first)


def _damaged(why: str) -> ProofRefusedError:
    return ProofRefusedError(
        "ledger.light.damaged",
        f"this is not what a light client kept: {why}",
        hint="begin again with the founding document or a checkpoint that you trust",
    )
