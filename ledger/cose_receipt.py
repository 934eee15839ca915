"""Receipts in COSE: the proof that a transaction is in the log, in the form that others' libraries read (RFC 9942).

A COSE receipt is one signature over a root of the log, and the path from an entry to it. One signature is one validator's word; so a
receipt here is a *set*: the entry, one COSE receipt for each of a majority of the validators, and what leads to those validators where they
are not the founding ones any more. Each receipt of the set is complete by itself, for whoever trusts that one validator.

Nothing is signed for every block: a validator signs the root of a block that is committed on its disk, when somebody asks. What it signs is
COSE's ``Sig_structure``, a CBOR array; everything else that node keys sign is a digest of 32 bytes under a domain, so neither can be taken
for the other.

Source: docs/spec/proofs.md 7; RFC 9942 4 and 5; RFC 9052 4.4; RFC 9162 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ledger.configuration import Configuration
from ledger.configuration_history import ConfigurationProof
from ledger.errors import NotYetAvailableError, ProofRefusedError
from ledger.genesis import Genesis
from ledger.proof_json import TEXT_MAX
from ledger.proofs import Receipt, wrong_chain
from ledger.transaction import Transaction, decode_transaction_untrusted
from ledger.trust import TrustedHead, follow_configuration
from wire import cbor, codec
from wire.certificate import majority
from wire.errors import RejectedError
from wire.hashing import DIGEST_BYTES, Digest
from wire.keys import ED25519_SIGNATURE_BYTES, KEY_ID_BYTES, KeyId, PrivateKey
from wire.limits import TX_BYTES_MAX, VALIDATORS_MAX
from wire.merkle import PROOF_HASHES_MAX, SIZE_MAX, leaf_hash, root_from_inclusion

ORIGIN: Final = "patchwarden/"
"""Begins the issuer of every receipt; the network's name follows."""
RECEIPT_BYTES_MAX: Final = 8 * 1024
"""One COSE receipt: about 800 bytes at a million transactions."""
SET_BYTES_MAX: Final = TX_BYTES_MAX + TEXT_MAX + VALIDATORS_MAX * RECEIPT_BYTES_MAX

COSE_SIGN1: Final = 18
ALGORITHM: Final = 1
EDDSA: Final = -8
KEY_ID: Final = 4
CWT_CLAIMS: Final = 15
ISSUER: Final = 1
DATA_STRUCTURE: Final = 395
RFC9162_SHA256: Final = 1
DATA_STRUCTURE_PROOFS: Final = 396
INCLUSION: Final = -1

_ENTRY: Final = 1
_RECEIPTS: Final = 2
_CONFIGURATION: Final = 3


@dataclass(frozen=True, slots=True)
class CoseReceipts:
    """Everything that proves one transaction, as COSE receipts of a majority of the validators."""

    entry: bytes
    """The transaction's wire form: the entry of the log."""
    log_index: int
    """Its place in the log, from 0."""
    log_size: int
    """The size of the log whose root is signed."""
    audit_path: tuple[Digest, ...]
    """Hashes from the leaf to the root, 32 bytes each."""
    chain_id: str
    """The network."""
    signatures: tuple[tuple[KeyId, bytes], ...]
    """(key id, signature) of each validator, strictly ascending by key id."""
    configuration: ConfigurationProof | None = None
    """What leads from the founding validators to these, or None when they are the same."""

    def encode(self) -> bytes:
        """Return the set's one encoding."""
        receipts = tuple(self.encode_one(key_id, signature) for key_id, signature in self.signatures)
        pairs: dict[int, cbor.Value] = {_ENTRY: self.entry, _RECEIPTS: receipts}
        if self.configuration is not None:
            pairs[_CONFIGURATION] = codec.encode(self.configuration.to_value())
        return cbor.encode(cbor.make_map(pairs))

    def encode_one(self, key_id: KeyId, signature: bytes) -> bytes:
        """Return one validator's COSE receipt."""
        proof = cbor.encode((self.log_size, self.log_index, self.audit_path))
        unprotected = cbor.make_map({DATA_STRUCTURE_PROOFS: cbor.make_map({INCLUSION: (proof,)})})
        return cbor.encode(
            cbor.Tag(COSE_SIGN1, (protected_header(self.chain_id, key_id), unprotected, None, signature))
        )


def protected_header(chain_id: str, key_id: KeyId) -> bytes:
    """Return the encoded protected header of one validator's receipt."""
    claims = cbor.make_map({ISSUER: ORIGIN + chain_id})
    return cbor.encode(
        cbor.make_map({ALGORITHM: EDDSA, KEY_ID: key_id, CWT_CLAIMS: claims, DATA_STRUCTURE: RFC9162_SHA256})
    )


def signed_bytes(chain_id: str, key_id: KeyId, log_root: Digest) -> bytes:
    """Return what a validator signs in its receipt: the ``Sig_structure`` over protected header and root."""
    return cbor.encode(("Signature1", protected_header(chain_id, key_id), b"", log_root))


def sign_log_root(key: PrivateKey, chain_id: str, log_root: Digest) -> bytes:
    """Return a validator's signature of a root of the log. The caller knows that the root is of a committed block."""
    return key.sign(signed_bytes(chain_id, key.public_key.key_id, log_root))


def build_cose_receipts(
    receipt: Receipt, configuration: Configuration, signatures: Mapping[KeyId, bytes]
) -> CoseReceipts:
    """Return the set that proves what `receipt` proves.

    Args:
        receipt: Under the header whose log root was signed.
        configuration: The validators after that header.
        signatures: Of its log root (`sign_log_root`), each verified, by key id; as many as it takes are put into the set.

    Raises:
        NotYetAvailableError: ``ledger.receipt.log_too_short``: RFC 9942 has no form for the only entry of a log.
        ProofRefusedError: ``ledger.receipt.too_few``.
    """
    if not receipt.audit_path:
        raise NotYetAvailableError(
            "ledger.receipt.log_too_short",
            "a COSE receipt needs a log of at least two transactions",
            hint="ask for it under a later header, or for the JSON form",
        )
    # Whoever is in both groups of a change under way counts in both, so they come first.
    signers = sorted(signatures, key=lambda each: (-sum(each in group for group in configuration.quorums), each))
    chosen: dict[KeyId, bytes] = {}
    for group in configuration.quorums:
        lacking = majority(len(group)) - sum(key_id in group for key_id in chosen)
        more = [key_id for key_id in signers if key_id in group and key_id not in chosen]
        chosen |= {key_id: signatures[key_id] for key_id in more[: max(0, lacking)]}
    _check_majority(tuple(chosen), configuration)
    return CoseReceipts(
        receipt.transaction,
        receipt.log_index,
        receipt.header.log_size,
        receipt.audit_path,
        receipt.header.chain_id,
        tuple(sorted(chosen.items())),
        receipt.configuration,
    )


def decode_cose_receipts_untrusted(data: bytes) -> CoseReceipts:
    """Return the set whose one encoding is `data`. No signature is verified.

    Raises:
        ProofRefusedError: ``ledger.receipt.malformed``.
    """
    try:
        return _decode(data)
    except ProofRefusedError:
        raise
    except RejectedError as error:
        raise _malformed(error.message) from error


def verify_cose_receipts(receipts: CoseReceipts, trusted: Genesis | TrustedHead) -> Transaction:
    """Return the transaction that a majority of the validators, each by a receipt of its own, proves to be in the log.

    Args:
        receipts: From anybody.
        trusted: The founding document, or a head that was verified before.

    Raises:
        RejectedError: ``ledger.receipt.wrong_chain``, ``ledger.receipt.stranger``, ``ledger.receipt.too_few``,
            ``ledger.receipt.signature``, ``ledger.proof.*`` and ``wire.certificate.*`` for the validators' changes, ``wire.merkle.*``,
            ``ledger.tx.*``.
    """
    head = TrustedHead.founding(trusted) if isinstance(trusted, Genesis) else trusted
    if receipts.chain_id != head.chain_id:
        raise wrong_chain("the receipts are of another network", head.chain_id, receipts.chain_id)
    transaction = decode_transaction_untrusted(receipts.entry)
    if transaction.chain_id != head.chain_id:
        raise wrong_chain("the transaction is for another network", head.chain_id, transaction.chain_id)
    configuration = head.configuration
    if receipts.configuration is not None:
        configuration, _ = follow_configuration(head, receipts.configuration)
    log_root = root_from_inclusion(
        leaf_hash(receipts.entry), receipts.log_index, receipts.log_size, receipts.audit_path
    )
    _check_majority([key_id for key_id, _ in receipts.signatures], configuration)
    for key_id, signature in receipts.signatures:
        message = signed_bytes(receipts.chain_id, key_id, log_root)
        if not configuration.members[key_id].is_valid(message, signature):
            raise ProofRefusedError(
                "ledger.receipt.signature", "a validator's signature of the log root does not hold", actual=key_id
            )
    return transaction


def _check_majority(signers: Sequence[KeyId], configuration: Configuration) -> None:
    # Cheap checks first: a forger must not cost us a signature verification for every stranger it names.
    for key_id in signers:
        if key_id not in configuration.members:
            raise ProofRefusedError(
                "ledger.receipt.stranger",
                "a signer is not among the validators",
                hint="get the receipt anew, or verify it from a checkpoint of its time",
                actual=key_id,
            )
    for group in configuration.quorums:
        needed = majority(len(group))
        found = sum(key_id in group for key_id in signers)
        if found < needed:
            raise ProofRefusedError(
                "ledger.receipt.too_few",
                "the signers are no majority",
                expected=f"at least {needed} of {len(group)} validators",
                actual=found,
            )


def _decode(data: bytes) -> CoseReceipts:
    members = cbor.decode_untrusted(data, bytes_max=SET_BYTES_MAX)
    if not isinstance(members, cbor.Map) or [key for key, _ in members.pairs] not in (
        [_ENTRY, _RECEIPTS],
        [_ENTRY, _RECEIPTS, _CONFIGURATION],
    ):
        raise _malformed("a set is a map with the keys 1, 2 and maybe 3")
    entry, encoded, raw = members.get(_ENTRY), members.get(_RECEIPTS), members.get(_CONFIGURATION)
    if not isinstance(entry, bytes) or not isinstance(encoded, tuple) or not 1 <= len(encoded) <= VALIDATORS_MAX:
        raise _malformed(f"a set has an entry and 1 to {VALIDATORS_MAX} receipts")
    configuration = None
    if len(members.pairs) == _CONFIGURATION:
        if not isinstance(raw, bytes):
            raise _malformed("the configuration is no byte string")
        configuration = ConfigurationProof.from_value_untrusted(codec.decode_untrusted(raw, bytes_max=TEXT_MAX))
    parts = [_decode_one(each) for each in encoded]
    if any(before[0] >= after[0] for before, after in pairwise(parts)):
        raise _malformed("the receipts do not ascend by key id, each validator once")
    if any(each[2:] != parts[0][2:] for each in parts):
        raise _malformed("the receipts are not about one root of the log")
    chain_id, log_size, log_index, path = parts[0][2:]
    signatures = tuple((key_id, signature) for key_id, signature, *_ in parts)
    receipts = CoseReceipts(entry, log_index, log_size, path, chain_id, signatures, configuration)
    if receipts.encode() != data:
        raise _malformed("a receipt has other headers than those of its form")
    return receipts


def _decode_one(data: cbor.Value) -> tuple[KeyId, bytes, str, int, int, tuple[Digest, ...]]:
    """Return key id, signature, chain id, log size, log index and path; what is left out here is compared by encoding anew."""
    if not isinstance(data, bytes):
        raise _malformed("a receipt is no byte string")
    match cbor.decode_untrusted(data, bytes_max=RECEIPT_BYTES_MAX):
        case cbor.Tag(18, (bytes() as protected, cbor.Map() as unprotected, None, bytes() as signature)):
            header = cbor.decode_untrusted(protected, bytes_max=RECEIPT_BYTES_MAX)
        case _:
            raise _malformed("a receipt is no tagged COSE_Sign1 with a detached payload")
    proofs = unprotected.get(DATA_STRUCTURE_PROOFS)
    match header, proofs:
        case cbor.Map(), cbor.Map(((-1, (bytes() as proof,)),)):
            claims, key_id = header.get(CWT_CLAIMS), header.get(KEY_ID)
        case _:
            raise _malformed("a receipt lacks its headers, or has not exactly one inclusion proof")
    issuer = claims.get(ISSUER) if isinstance(claims, cbor.Map) else None
    if not isinstance(key_id, bytes) or len(key_id) != KEY_ID_BYTES or len(signature) != ED25519_SIGNATURE_BYTES:
        raise _malformed("a receipt's key id has 32 bytes, its signature 64")
    if not isinstance(issuer, str) or not issuer.startswith(ORIGIN):
        raise _malformed(f"a receipt's issuer begins with {ORIGIN}")
    match cbor.decode_untrusted(proof, bytes_max=RECEIPT_BYTES_MAX):
        case (int() as size, int() as index, tuple() as path) if 0 <= index < size <= SIZE_MAX:
            hashes = tuple(Digest(each) for each in path if isinstance(each, bytes) and len(each) == DIGEST_BYTES)
        case _:
            raise _malformed("an inclusion proof is tree size, leaf index and path")
    if not 1 <= len(path) == len(hashes) <= PROOF_HASHES_MAX:
        raise _malformed(f"a path has 1 to {PROOF_HASHES_MAX} hashes of 32 bytes")
    return KeyId(key_id), signature, issuer.removeprefix(ORIGIN), size, index, hashes


def _malformed(why: str) -> ProofRefusedError:
    return ProofRefusedError("ledger.receipt.malformed", f"the receipt does not have its form: {why}")
