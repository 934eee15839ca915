"""Consistency proofs: the log of all transactions only ever grew, from one size to another.

The proof alone says nothing: it joins two log roots, which come from two checkpoints, or from the headers of receipts.

Source: docs/spec/proofs.md 4; RFC 9162 2.1.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.block import Header
from ledger.errors import ProofRefusedError
from ledger.keyspace import Reader
from ledger.proof_json import ProofReader
from ledger.proofs import build_consistency_proof
from ledger.state import StateView
from wire.hashing import Digest
from wire.merkle import PROOF_HASHES_MAX, verify_consistency

CONSISTENCY_VERSION: Final = 1
_MEMBERS: Final = frozenset({"version", "chain_id", "size_before", "size_after", "hashes"})


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """Shows that the log of the later size begins with that of the earlier one."""

    chain_id: str
    """The network."""
    size_before: int
    """Transactions in the earlier log."""
    size_after: int
    """Transactions in the later log."""
    hashes: tuple[Digest, ...]
    """The proof, 32 bytes each."""

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "version": CONSISTENCY_VERSION,
            "chain_id": self.chain_id,
            "size_before": self.size_before,
            "size_after": self.size_after,
            "hashes": [digest.hex() for digest in self.hashes],
        }

    @classmethod
    def from_json_untrusted(cls, value: object) -> ConsistencyProof:
        """Return the proof of good form. Nothing is verified.

        Raises:
            ProofRefusedError: ``ledger.proof.malformed``.
        """
        reader = ProofReader(_malformed)
        members = reader.members(value, _MEMBERS, optional=frozenset())
        chain_id = members["chain_id"]
        if members["version"] != CONSISTENCY_VERSION or not isinstance(chain_id, str):
            raise _malformed("the version is not known, or chain_id is no text")
        return cls(
            chain_id,
            reader.number(members, "size_before"),
            reader.number(members, "size_after"),
            reader.digests(members, "hashes", PROOF_HASHES_MAX),
        )


def build_consistency(reader: Reader, size_before: int, size_after: int) -> ConsistencyProof:
    """Return the proof between two sizes of the log, up to the tip's.

    Raises:
        ProofRefusedError: ``ledger.proof.log_size``: not 0 ≤ before ≤ after ≤ the tip's size.
        HistoryPrunedError: ``ledger.history.pruned``: it would lead through a part of the log that is not kept here.
        LedgerCorruptionError: ``ledger.corruption.missing``.
    """
    header = StateView(reader).header
    if not 0 <= size_before <= size_after <= header.log_size:
        raise ProofRefusedError(
            "ledger.proof.log_size",
            "the log has no such sizes",
            expected=f"0 ≤ before ≤ after ≤ {header.log_size}",
            actual=f"before {size_before}, after {size_after}",
        )
    hashes = build_consistency_proof(reader, size_before, size_after)
    return ConsistencyProof(header.chain_id, size_before, size_after, hashes)


def verify_extends(proof: ConsistencyProof, before: Header, after: Header) -> None:
    """Return only when the log of the later header begins with that of the earlier one.

    Args:
        proof: From anybody.
        before: A certified header that was verified.
        after: Another one.

    Raises:
        ProofRefusedError: ``ledger.proof.wrong_chain``, ``ledger.proof.log_size`` (about other sizes than the headers').
        InvalidProofError: ``wire.merkle.*``.
    """
    if not proof.chain_id == before.chain_id == after.chain_id:
        raise ProofRefusedError(
            "ledger.proof.wrong_chain",
            "the proof and the headers are of different networks",
            expected=f"{before.chain_id}, {after.chain_id}",
            actual=proof.chain_id,
        )
    if (proof.size_before, proof.size_after) != (before.log_size, after.log_size):
        raise ProofRefusedError(
            "ledger.proof.log_size",
            "the proof is about other sizes of the log",
            expected=f"{before.log_size} to {after.log_size}",
            actual=f"{proof.size_before} to {proof.size_after}",
        )
    verify_consistency(proof.size_before, before.log_root, proof.size_after, after.log_root, proof.hashes)


def _malformed(why: str) -> ProofRefusedError:
    return ProofRefusedError("ledger.proof.malformed", f"the consistency proof does not have its form: {why}")
