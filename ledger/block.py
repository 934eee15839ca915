"""Blocks and their headers: form and hashes. Whether a block is the valid successor of another is `ledger.transition`'s question.

A header is the canonical encoding of fourteen values, and its domain-separated SHA-256 is the block's hash::

    (1, chain id, height, term, previous hash, time in ms, proposer, transactions root, log size, log root,
     state root, validators hash, policy hash, election hash)

A block is the canonical encoding of (header values, transactions, proposer's signature, election certificate or None). The hash covers the
transactions through their root and the election certificate through its hash; it does not cover the proposer's signature, which covers it.
A block never contains its own commit certificate.

Source: docs/spec/ledger.md 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.errors import BlockRefusedError
from wire.certificate import proposal_message
from wire.codec import Value, decode_untrusted, encode
from wire.errors import InvalidSignatureError, MalformedError
from wire.fields import as_bytes, as_digest, as_identifier, as_int, as_optional, as_tuple
from wire.hashing import DIGEST_BYTES, DOMAIN_BLOCK, DOMAIN_ELECTION, Digest, hash_domain
from wire.keys import KeyId, PublicKey
from wire.limits import BLOCK_BYTES_MAX, BLOCK_TRANSACTIONS_MAX, CERTIFICATE_BYTES_MAX, SIGNATURE_BYTES_MAX

HEADER_VERSION: Final = 1
HEADER_BYTES_MAX: Final = 1024
"""A header is about 360 bytes; a chain id has at most 63."""
ZERO_DIGEST: Final = Digest(bytes(DIGEST_BYTES))
"""Stands where there is no digest: no election certificate, no proposer (genesis), no previous record of a host."""

_HEADER_FIELDS: Final = 14
_BLOCK_FIELDS: Final = 4


@dataclass(frozen=True, slots=True)
class Header:
    """What a block commits to."""

    chain_id: str
    """The network."""
    height: int
    """0 for genesis, one more for each block."""
    term: int
    """The consensus term in which it was proposed; 0 for genesis."""
    previous_hash: Digest
    """Hash of the block before; the founding document's hash for genesis, 32 bytes."""
    time_ms: int
    """The proposer's clock, milliseconds since epoch, UTC; never before the block before."""
    proposer: KeyId
    """The validator that proposed it, 32 bytes; zeros for genesis."""
    transactions_root: Digest
    """Merkle root over this block's transactions, 32 bytes."""
    log_size: int
    """Transactions since genesis, this block's included."""
    log_root: Digest
    """Merkle root over all of them, 32 bytes."""
    state_root: Digest
    """Root of the state after this block, 32 bytes."""
    validators_hash: Digest
    """Hash of the validator set after this block, 32 bytes."""
    policy_hash: Digest
    """Hash of the policy set after this block, 32 bytes."""
    election_hash: Digest
    """Hash of the election certificate in the block, or zeros without one, 32 bytes."""

    def to_value(self) -> tuple[Value, ...]:
        """Return the wire form."""
        return (
            HEADER_VERSION,
            self.chain_id,
            self.height,
            self.term,
            self.previous_hash,
            self.time_ms,
            self.proposer,
            self.transactions_root,
            self.log_size,
            self.log_root,
            self.state_root,
            self.validators_hash,
            self.policy_hash,
            self.election_hash,
        )

    def encode(self) -> bytes:
        """Return the canonical encoding."""
        return encode(self.to_value())

    def hash(self) -> Digest:
        """Return the block's hash, 32 bytes. It encodes and hashes each time."""
        return hash_domain(DOMAIN_BLOCK, self.encode())

    @classmethod
    def from_value_untrusted(cls, value: object) -> Header:
        """Return the header; raises `MalformedError`."""
        values = as_tuple(value, "header", length=_HEADER_FIELDS)
        as_int(values[0], "header version", HEADER_VERSION, HEADER_VERSION)
        return cls(
            chain_id=as_identifier(values[1], "chain_id"),
            height=as_int(values[2], "height"),
            term=as_int(values[3], "term"),
            previous_hash=as_digest(values[4], "previous_hash"),
            time_ms=as_int(values[5], "time_ms"),
            proposer=KeyId(as_digest(values[6], "proposer")),
            transactions_root=as_digest(values[7], "transactions_root"),
            log_size=as_int(values[8], "log_size"),
            log_root=as_digest(values[9], "log_root"),
            state_root=as_digest(values[10], "state_root"),
            validators_hash=as_digest(values[11], "validators_hash"),
            policy_hash=as_digest(values[12], "policy_hash"),
            election_hash=as_digest(values[13], "election_hash"),
        )


@dataclass(frozen=True, slots=True)
class Block:
    """A block of good form. Only `build_raw_block` and `decode_block_untrusted` make one, so the parts belong together."""

    header: Header
    """What it commits to."""
    transactions: tuple[bytes, ...]
    """Wire forms, in order of execution; not decoded."""
    proposer_signature: bytes
    """The proposer's signature over `proposal_message` of the hash; empty for genesis."""
    election: bytes | None
    """Encoded election certificate of the proposer's term, or None."""
    block_hash: Digest
    """Hash of the header, 32 bytes."""
    raw: bytes
    """The whole wire form."""


def build_raw_block(
    header: Header, transactions: tuple[bytes, ...], proposer_signature: bytes, election: bytes | None
) -> Block:
    """Return the block that these parts make. Nothing is checked."""
    raw = encode((header.to_value(), transactions, proposer_signature, election))
    return Block(header, transactions, proposer_signature, election, header.hash(), raw)


def decode_block_untrusted(raw: bytes) -> Block:
    """Return the block whose one wire form is `raw`; its transactions stay bytes.

    Raises:
        BlockRefusedError: ``ledger.block.too_large``, ``ledger.block.too_many_transactions``,
            ``ledger.block.malformed`` (details name the rule of `wire` that was broken).
    """
    if len(raw) > BLOCK_BYTES_MAX:
        raise BlockRefusedError(
            "ledger.block.too_large",
            "the block is too long",
            expected=f"at most {BLOCK_BYTES_MAX} bytes",
            actual=len(raw),
        )
    try:
        values = as_tuple(decode_untrusted(raw, bytes_max=BLOCK_BYTES_MAX), "block", length=_BLOCK_FIELDS)
        header = Header.from_value_untrusted(values[0])
        transactions = as_tuple(values[1], "transactions")
        if len(transactions) > BLOCK_TRANSACTIONS_MAX:
            raise too_many_transactions(len(transactions), BLOCK_TRANSACTIONS_MAX)
        return Block(
            header=header,
            transactions=tuple(as_bytes(each, "transaction") for each in transactions),
            proposer_signature=as_bytes(values[2], "proposer_signature", bytes_max=SIGNATURE_BYTES_MAX),
            election=as_optional(values[3], "election", _as_election),
            block_hash=header.hash(),
            raw=raw,
        )
    except MalformedError as error:
        raise BlockRefusedError(
            "ledger.block.malformed",
            f"the block does not have its form: {error.message}",
            hint=error.hint,
            details={"cause": error.code},
        ) from error


def decode_header_untrusted(raw: bytes) -> Header:
    """Return the header whose one wire form is `raw`.

    Raises:
        BlockRefusedError: ``ledger.block.malformed``.
    """
    try:
        return Header.from_value_untrusted(decode_untrusted(raw, bytes_max=HEADER_BYTES_MAX))
    except MalformedError as error:
        raise BlockRefusedError(
            "ledger.block.malformed",
            f"the header does not have its form: {error.message}",
            hint=error.hint,
            details={"cause": error.code},
        ) from error


def check_proposer_signature(block: Block, proposer: PublicKey) -> None:
    """Return only when `proposer` signed the block's hash.

    Raises:
        BlockRefusedError: ``ledger.block.bad_proposer_signature``.
    """
    try:
        proposer.verify(proposal_message(block.block_hash), block.proposer_signature)
    except InvalidSignatureError as error:
        raise BlockRefusedError(
            "ledger.block.bad_proposer_signature",
            f"the proposer's signature does not hold for block {block.header.height}",
            details={"height": block.header.height},
        ) from error


def hash_election(election: bytes | None) -> Digest:
    """Return what `Header.election_hash` must be: the certificate's hash under its domain, or zeros without one."""
    return ZERO_DIGEST if election is None else hash_domain(DOMAIN_ELECTION, election)


def too_many_transactions(count: int, count_max: int) -> BlockRefusedError:
    """Return the refusal of a block with too many transactions."""
    return BlockRefusedError(
        "ledger.block.too_many_transactions",
        "the block holds too many transactions",
        expected=f"at most {count_max}",
        actual=count,
    )


def _as_election(value: object, name: str) -> bytes:
    return as_bytes(value, name, bytes_max=CERTIFICATE_BYTES_MAX)
