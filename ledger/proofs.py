"""Receipts: proof, for a stranger without the chain, that a transaction is part of it for ever.

A receipt joins the transaction to the log root of a header by an audit path, the header to the network's validators by a commit
certificate, and those to the founding ones by the changes since. With the founding document alone anybody can check it offline.

What a receipt does not show is whether the signer's key counted: that the validators' majority decided when they executed the block.

Source: docs/spec/ledger.md 11.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ledger.block import Header, decode_header_untrusted
from ledger.certificate import verify_block_certificate
from ledger.configuration import Configuration
from ledger.configuration_history import (
    ConfigurationProof,
    build_configuration_proof,
    verify_configuration_proof,
)
from ledger.errors import LedgerCorruptionError, NotYetAvailableError, ProofRefusedError
from ledger.genesis import Genesis
from ledger.keyspace import Reader, Table, log_node_key
from ledger.state import StateView
from ledger.transaction import Transaction, decode_transaction_untrusted
from wire.certificate import CommitCertificate, decode_commit_certificate_untrusted, encode_commit_certificate
from wire.codec import decode_untrusted, encode
from wire.errors import RejectedError
from wire.hashing import DIGEST_BYTES, Digest
from wire.limits import TX_BYTES_MAX
from wire.merkle import PROOF_HASHES_MAX, ReadNode, consistency_proof, inclusion_proof, verify_inclusion

RECEIPT_VERSION: Final = 1
_MEMBERS: Final = frozenset({"version", "chain_id", "transaction", "log_index", "audit_path", "header", "certificate"})
_CONFIGURATION: Final = "configuration"
"""A member that is there when the header's configuration is not the founding one."""
_TEXT_MAX: Final = 2 * TX_BYTES_MAX
"""The longest base64 text in a receipt."""


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
        changed: dict[str, object] = {}
        if self.configuration is not None:
            changed[_CONFIGURATION] = _to_base64(encode(self.configuration.to_value()))
        return changed | {
            "version": RECEIPT_VERSION,
            "chain_id": self.header.chain_id,
            "transaction": _to_base64(self.transaction),
            "log_index": self.log_index,
            "audit_path": [digest.hex() for digest in self.audit_path],
            "header": _to_base64(self.header.encode()),
            "certificate": _to_base64(encode_commit_certificate(self.certificate)),
        }

    @classmethod
    def from_json_untrusted(cls, value: object) -> Receipt:
        """Return the receipt of good form. Nothing is verified.

        Raises:
            ProofRefusedError: ``ledger.receipt.malformed``.
        """
        if not isinstance(value, dict) or value.keys() - {_CONFIGURATION} != _MEMBERS:
            raise _malformed(
                f"a receipt has exactly the members {', '.join(sorted(_MEMBERS))}, and maybe {_CONFIGURATION}"
            )
        if value["version"] != RECEIPT_VERSION:
            raise _malformed("the version is not known")
        log_index, path = value["log_index"], value["audit_path"]
        if type(log_index) is not int or log_index < 0:
            raise _malformed("log_index is not a number from 0")
        if not isinstance(path, list) or len(path) > PROOF_HASHES_MAX:
            raise _malformed(f"audit_path is not a list of at most {PROOF_HASHES_MAX} digests")
        try:
            header = decode_header_untrusted(_from_base64(value, "header"))
            certificate = decode_commit_certificate_untrusted(_from_base64(value, "certificate"))
            configuration = None
            if _CONFIGURATION in value:
                raw = _from_base64(value, _CONFIGURATION)
                configuration = ConfigurationProof.from_value_untrusted(decode_untrusted(raw, bytes_max=_TEXT_MAX))
        except RejectedError as error:
            if isinstance(error, ProofRefusedError):
                raise
            raise _malformed(error.message) from error
        if value["chain_id"] != header.chain_id:
            raise _malformed("chain_id is not the header's")
        audit_path = tuple(_digest(item) for item in path)
        return cls(_from_base64(value, "transaction"), log_index, audit_path, header, certificate, configuration)


def build_receipt(reader: Reader, tx_id: bytes) -> Receipt:
    """Return the receipt of an executed transaction under the first certified header at or above its block.

    Args:
        reader: A store with the blocks' rows and the certificates.
        tx_id: The transaction, 32 bytes.

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
    header, certificate = _first_certified(view, location.height)
    path = inclusion_proof(_node_reader(reader), location.log_index, header.log_size)
    proof = build_configuration_proof(reader, header.height)
    configuration = None if proof.is_founding else proof
    return Receipt(block.transactions[location.index], location.log_index, path, header, certificate, configuration)


def verify_receipt(receipt: Receipt, genesis: Genesis) -> Transaction:
    """Return the transaction that the receipt proves to be on the chain that `genesis` founded.

    Args:
        receipt: From anybody.
        genesis: The founding document that the caller trusts.

    Raises:
        RejectedError: ``ledger.receipt.wrong_chain``, ``ledger.proof.*``, also for the validators' changes, ``wire.certificate.*``,
            ``wire.merkle.*``, ``ledger.tx.*`` for a transaction without its form.
    """
    if receipt.header.chain_id != genesis.chain_id:
        raise ProofRefusedError(
            "ledger.receipt.wrong_chain",
            "the receipt is of another network",
            expected=genesis.chain_id,
            actual=receipt.header.chain_id,
        )
    configuration = Configuration(genesis.validators)
    if receipt.configuration is not None:
        configuration = verify_configuration_proof(receipt.configuration, genesis.chain_id, genesis.validators)
    verify_block_certificate(receipt.certificate, receipt.header, configuration)
    transaction = decode_transaction_untrusted(receipt.transaction)
    if transaction.chain_id != genesis.chain_id:
        raise ProofRefusedError(
            "ledger.receipt.wrong_chain",
            "the transaction is for another network",
            expected=genesis.chain_id,
            actual=transaction.chain_id,
        )
    header = receipt.header
    verify_inclusion(transaction.leaf_hash, receipt.log_index, header.log_size, receipt.audit_path, header.log_root)
    return transaction


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


def _to_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _from_base64(value: Mapping[str, object], name: str) -> bytes:
    text = value[name]
    if not isinstance(text, str) or len(text) > _TEXT_MAX:
        raise _malformed(f"{name} is not a base64 text of at most {_TEXT_MAX} characters")
    try:
        data = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise _malformed(f"{name} is not base64") from None
    if _to_base64(data) != text:
        raise _malformed(f"{name} is not in the one canonical form of base64")
    return data


def _digest(value: object) -> Digest:
    try:
        digest = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        digest = b""
    if len(digest) != DIGEST_BYTES or digest.hex() != value:
        raise _malformed("audit_path holds something that is not a digest in lower hexadecimal digits")
    return Digest(digest)


def _malformed(why: str) -> ProofRefusedError:
    return ProofRefusedError("ledger.receipt.malformed", f"the receipt does not have its form: {why}")
