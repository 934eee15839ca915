"""Receipts: proof, for a stranger without the chain, that a transaction is part of it for ever.

A receipt joins the transaction to the log root of a header by an audit path, the header to the network's validators by a commit
certificate, and those to the founding ones by the changes since. With the founding document alone anybody can check it offline.

What a receipt does not show is whether the signer's key counted: that the validators' majority decided when they executed the block.

Source: docs/spec/ledger.md 11.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.block import Header
from ledger.configuration_history import ConfigurationProof, build_configuration_proof
from ledger.errors import LedgerCorruptionError, NotYetAvailableError, ProofRefusedError
from ledger.genesis import Genesis
from ledger.keyspace import Reader, Table, log_node_key
from ledger.proof_json import ProofReader, certified_members, to_base64
from ledger.state import StateView
from ledger.transaction import Transaction, decode_transaction_untrusted
from ledger.trust import TrustedHead, verify_certified_header
from wire.certificate import CommitCertificate, decode_commit_certificate_untrusted
from wire.hashing import Digest
from wire.merkle import PROOF_HASHES_MAX, ReadNode, consistency_proof, inclusion_proof, verify_inclusion

RECEIPT_VERSION: Final = 1
_MEMBERS: Final = frozenset({"version", "chain_id", "transaction", "log_index", "audit_path", "header", "certificate"})


@dataclass(frozen=True, slots=True)
class Receipt:
    """Everything that proves one transaction."""

    transaction: bytes
    """Its wire form."""
    log_index: int
    """Its place in the log of all transactions, from 0."""
    audit_path: tuple[Digest, ...]
    """Hashes from the leaf to the header's log root (RFC 9162 2.1.3), 32 bytes each."""
    header: Header
    """A certified header at or above the transaction's block."""
    certificate: CommitCertificate
    """The header's commit certificate."""
    configuration: ConfigurationProof | None = None
    """What leads from the founding validators to those of the header, or None when they are the same."""

    def to_json(self) -> dict[str, object]:
        """Return the JSON form: digests in hexadecimal, longer bytes in base64."""
        return {
            "version": RECEIPT_VERSION,
            **certified_members(self.header, self.certificate, self.configuration),
            "transaction": to_base64(self.transaction),
            "log_index": self.log_index,
            "audit_path": [digest.hex() for digest in self.audit_path],
        }

    @classmethod
    def from_json_untrusted(cls, value: object) -> Receipt:
        """Return the receipt of good form. Nothing is verified.

        Raises:
            ProofRefusedError: ``ledger.receipt.malformed``.
        """
        reader = ProofReader(_malformed)
        members = reader.members(value, _MEMBERS)
        if members["version"] != RECEIPT_VERSION:
            raise _malformed("the version is not known")
        log_index = reader.number(members, "log_index")
        audit_path = reader.digests(members, "audit_path", PROOF_HASHES_MAX)
        header, certificate, configuration = reader.certified(members)
        return cls(reader.base64(members, "transaction"), log_index, audit_path, header, certificate, configuration)


def build_receipt(reader: Reader, tx_id: bytes, height_min: int = 0) -> Receipt:
    """Return the receipt of an executed transaction under the first certified header at or above its block.

    Args:
        reader: A store with the blocks' rows and the certificates.
        tx_id: The transaction, 32 bytes.
        height_min: The header's height is at least this: that of a checkpoint from which the receipt is to be verified.

    Raises:
        ProofRefusedError: ``ledger.receipt.not_found``: no such transaction was executed.
        NotYetAvailableError: ``ledger.receipt.not_certified``: no block from its own on is certified yet.
        HistoryPrunedError: ``ledger.history.pruned``: the transaction is known, its block no longer kept here.
        LedgerCorruptionError: ``ledger.corruption.missing``: a row is missing.
    """
    view = StateView(reader)
    location = view.location(tx_id)
    if location is None:
        raise ProofRefusedError("ledger.receipt.not_found", "the transaction is not on the ledger", actual=tx_id)
    view.check_kept(location.height)
    block = view.block(location.height)
    if block is None:
        raise LedgerCorruptionError("ledger.corruption.missing", f"block {location.height} is missing")
    header, certificate = _first_certified(view, max(location.height, height_min))
    path = inclusion_proof(_node_reader(reader), location.log_index, header.log_size)
    proof = build_configuration_proof(reader, header.height)
    configuration = None if proof.is_founding else proof
    return Receipt(block.transactions[location.index], location.log_index, path, header, certificate, configuration)


def verify_receipt(receipt: Receipt, trusted: Genesis | TrustedHead) -> Transaction:
    """Return the transaction that the receipt proves to be on the chain that the caller trusts.

    Args:
        receipt: From anybody.
        trusted: The founding document, or a head that was verified before.

    Raises:
        RejectedError: ``ledger.receipt.wrong_chain``, ``ledger.proof.*``, also for the validators' changes, ``wire.certificate.*``,
            ``wire.merkle.*``, ``ledger.tx.*`` for a transaction without its form.
    """
    head = TrustedHead.founding(trusted) if isinstance(trusted, Genesis) else trusted
    header = receipt.header
    if header.chain_id != head.chain_id:
        raise wrong_chain("the receipt is of another network", head.chain_id, header.chain_id)
    verify_certified_header(head, header, receipt.certificate, receipt.configuration)
    transaction = decode_transaction_untrusted(receipt.transaction)
    if transaction.chain_id != head.chain_id:
        raise wrong_chain("the transaction is for another network", head.chain_id, transaction.chain_id)
    verify_inclusion(transaction.leaf_hash, receipt.log_index, header.log_size, receipt.audit_path, header.log_root)
    return transaction


def wrong_chain(sentence: str, expected: str, actual: str) -> ProofRefusedError:
    """Return the refusal of a receipt that is about another network."""
    return ProofRefusedError("ledger.receipt.wrong_chain", sentence, expected=expected, actual=actual)


def build_consistency_proof(reader: Reader, size_before: int, size_after: int) -> tuple[Digest, ...]:
    """Return the proof that the log of `size_after` transactions begins with the log of `size_before` (RFC 9162 2.1.4).

    It is verified by `wire.merkle.verify_consistency` with the log roots of two headers.

    Raises:
        MalformedError: ``wire.merkle.*``: the sizes do not fit each other.
        HistoryPrunedError: ``ledger.history.pruned``: it would lead through a part of the log that is not kept here.
        LedgerCorruptionError: ``ledger.corruption.missing``: a row is missing; ask only for sizes up to the tip's.
    """
    return consistency_proof(_node_reader(reader), size_before, size_after)


def _node_reader(reader: Reader) -> ReadNode:
    def read_node(level: int, index: int) -> Digest:
        raw = reader.get(Table.LOG_NODE, log_node_key(level, index))
        if raw is None:
            _check_log_kept(reader, (index + 1) << level)
            raise LedgerCorruptionError(
                "ledger.corruption.missing", f"node {index} of level {level} of the log is missing"
            )
        return Digest(raw)

    return read_node


def _check_log_kept(reader: Reader, end: int) -> None:
    """Return only when the part of the log before leaf `end` is not wholly one whose nodes are no longer kept."""
    view = StateView(reader)
    start = view.history_start
    before = view.header_at(start - 1) if start else None
    if before is not None and end <= before.log_size:
        view.check_kept(start - 1)


def _first_certified(view: StateView, height: int) -> tuple[Header, CommitCertificate]:
    for candidate in range(height, view.height + 1):
        raw = view.certificate(candidate)
        header = view.header_at(candidate)
        if raw is not None and header is not None:
            return header, decode_commit_certificate_untrusted(raw)
    raise NotYetAvailableError(
        "ledger.receipt.not_certified",
        f"no block from {height} on is certified yet",
        hint="ask again in a moment",
    )


def _malformed(why: str) -> ProofRefusedError:
    return ProofRefusedError("ledger.receipt.malformed", f"the receipt does not have its form: {why}")
