"""Transactions: what a member of the network signs, exactly once, for everybody to execute.

The wire form is the canonical encoding of nine values::

    (1, chain id, kind, body, signer key id, nonce, not after height, client time in ms, signature)

``tx_id`` is a domain-separated SHA-256 of the first eight, and the signature covers those 32 bytes. The log's leaf covers the signature
too, so it is the leaf hash, and not the tx_id, by which a checked signature is remembered: two transactions can share a tx_id and differ
in their signatures, only one of them valid.

Source: docs/spec/ledger.md 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NewType

from ledger.bodies import BODY_READERS, Body
from ledger.errors import TransactionRefusedError
from ledger.limits import NONCE_BYTES
from ledger.records import KeyRecord
from wire.codec import decode_untrusted, encode
from wire.errors import MalformedError
from wire.fields import INTEGER_MAX, as_bytes, as_digest, as_identifier, as_int, as_tuple
from wire.hashing import DOMAIN_TRANSACTION, Digest, hash_domain
from wire.keys import KeyId, PublicKey, Signer, public_key_from_spki_untrusted
from wire.limits import SIGNATURE_BYTES_MAX, TX_BYTES_MAX
from wire.merkle import leaf_hash

TxId = NewType("TxId", Digest)
"""Names a transaction: 32 bytes."""

TRANSACTION_VERSION: Final = 1

_FIELDS: Final = 9
_ARRAY_8: Final = b"\x98"
_BIN_8_HEADER_BYTES: Final = 2


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction of good form. Nothing is known about its signature or its effect yet."""

    chain_id: str
    """The network it is for."""
    kind: str
    """The body's kind."""
    body: Body
    """What it says."""
    signer_key_id: KeyId
    """The key that must have signed it, 32 bytes."""
    nonce: bytes
    """16 bytes of chance."""
    not_after_height: int
    """The last height at which it can be executed."""
    client_time_ms: int
    """The submitter's clock, milliseconds since epoch, UTC; told to people, never decided upon."""
    signature: bytes
    """Over `tx_id`."""
    tx_id: TxId
    """32 bytes."""
    leaf_hash: Digest
    """Hash of `raw` as a leaf of the log, 32 bytes."""
    raw: bytes
    """The whole wire form, signature included."""


@dataclass(frozen=True, slots=True)
class SignatureJob:
    """One signature check that can be made anywhere: in a thread, in another process, in a batch."""

    leaf_hash: Digest
    """The transaction; put this into `verified` when the check holds."""
    spki: bytes
    """The key as DER SubjectPublicKeyInfo."""
    message: bytes
    """What must be signed: the tx_id."""
    signature: bytes
    """The signature."""


def build_transaction(  # noqa: PLR0917 - the order of the wire form
    chain_id: str,
    kind: str,
    body: Body,
    key: Signer,
    nonce: bytes,
    not_after_height: int,
    client_time_ms: int,
) -> Transaction:
    """Return the transaction that says `body`, signed by `key`.

    Args:
        chain_id: The network it is for.
        kind: ``body.KIND``.
        body: What it says.
        key: The signer's key.
        nonce: 16 bytes of chance.
        not_after_height: The last height at which it may be executed; at most `NOT_AFTER_WINDOW_MAX` beyond the executing height.
        client_time_ms: The submitter's clock, milliseconds since epoch, UTC.

    Raises:
        TransactionRefusedError: What `decode_transaction_untrusted` would say about it.
    """
    unsigned = (
        TRANSACTION_VERSION,
        chain_id,
        kind,
        body.to_value(),
        key.public_key.key_id,
        nonce,
        not_after_height,
        client_time_ms,
    )
    signature = key.sign(hash_domain(DOMAIN_TRANSACTION, encode(unsigned)))
    return decode_transaction_untrusted(encode((*unsigned, signature)))


def decode_transaction_untrusted(raw: bytes) -> Transaction:
    """Return the transaction whose one wire form is `raw`. Its signature is not checked.

    Raises:
        TransactionRefusedError: ``ledger.tx.too_large``, ``ledger.tx.malformed`` (details name the rule of `wire` that was broken),
            ``ledger.tx.unknown_kind``, ``ledger.identity.bad_role``, ``ledger.proposal.*`` for an action's form.
    """
    if len(raw) > TX_BYTES_MAX:
        raise TransactionRefusedError(
            "ledger.tx.too_large",
            "the transaction is too long",
            expected=f"at most {TX_BYTES_MAX} bytes",
            actual=len(raw),
        )
    try:
        values = as_tuple(decode_untrusted(raw, bytes_max=TX_BYTES_MAX), "transaction", length=_FIELDS)
        version, chain_id, kind, body, signer, nonce, not_after_height, client_time_ms, signature = values
        as_int(version, "version", TRANSACTION_VERSION, TRANSACTION_VERSION)
        reader = BODY_READERS.get(kind) if type(kind) is str else None
        if reader is None:
            raise TransactionRefusedError(
                "ledger.tx.unknown_kind",
                "the transaction's kind is not known",
                expected=" or ".join(BODY_READERS),
                actual=kind,
            )
        checked_signature = as_bytes(signature, "signature", bytes_max=SIGNATURE_BYTES_MAX)
        # The first eight values' own encoding is these bytes under the header of a shorter tuple: nothing is encoded again.
        unsigned = _ARRAY_8 + raw[1 : len(raw) - len(checked_signature) - _BIN_8_HEADER_BYTES]
        return Transaction(
            chain_id=as_identifier(chain_id, "chain_id"),
            kind=str(kind),
            body=reader(body),
            signer_key_id=KeyId(as_digest(signer, "signer_key_id")),
            nonce=as_bytes(nonce, "nonce", length=NONCE_BYTES),
            not_after_height=as_int(not_after_height, "not_after_height"),
            client_time_ms=as_int(client_time_ms, "client_time_ms", 0, INTEGER_MAX),
            signature=checked_signature,
            tx_id=TxId(hash_domain(DOMAIN_TRANSACTION, unsigned)),
            leaf_hash=leaf_hash(raw),
            raw=raw,
        )
    except MalformedError as error:
        raise TransactionRefusedError(
            "ledger.tx.malformed",
            f"the transaction does not have its form: {error.message}",
            hint=error.hint,
            details={"cause": error.code},
        ) from error


def signature_job(transaction: Transaction, key: KeyRecord | PublicKey) -> SignatureJob:
    """Return the check that shows whether `key` signed `transaction`.

    Args:
        transaction: Whose ``signer_key_id`` is the key's id.
        key: The ledger's record of the key, or the key.
    """
    assert key.key_id == transaction.signer_key_id, "a transaction is checked with the key that it names"
    return SignatureJob(transaction.leaf_hash, key.spki, transaction.tx_id, transaction.signature)


def check_signatures(jobs: Iterable[SignatureJob]) -> tuple[bool, ...]:
    """Return for each job whether its signature holds, in order. It needs nothing but the jobs, so it runs in any process."""
    return tuple(public_key_from_spki_untrusted(job.spki).is_valid(job.message, job.signature) for job in jobs)
