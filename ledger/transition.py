"""From one block to the next: building a block, and accepting the one valid successor that somebody else built.

The leader and every follower run the same code over the same bytes; a block is accepted only when every derived field of its header comes
out the same. A call that raises has changed nothing, because nothing is written here at all: what changes is returned.

==========================================  ==========================================
asked                                       function
==========================================  ==========================================
may this transaction come in?               `Admission.check`, `check_transaction`
what block follows from these?              `build_block`
is this block the next one?                 `execute_block`
which signatures does it need checked?      `signature_jobs`
==========================================  ==========================================

Source: docs/spec/ledger.md 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Final

from ledger.block import (
    ZERO_DIGEST,
    Block,
    Header,
    build_raw_block,
    hash_election,
    too_many_transactions,
)
from ledger.bodies import ValidatorSettle
from ledger.errors import BlockRefusedError
from ledger.execution import Execution, Sealed, block_writes
from ledger.keyspace import Reader, WriteSet
from ledger.records import Configuration, KeyRecord
from ledger.recovery import Recovery
from ledger.recovery_block import is_recovery_block, recovery_transaction
from ledger.signers import find_signing_key
from ledger.state import StateView
from ledger.succession import header_refusals, link_refusals, refuse_block, validator_refusals
from ledger.transaction import SignatureJob, Transaction, TxId, decode_transaction_untrusted, signature_job
from wire.certificate import proposal_message
from wire.errors import RejectedError
from wire.hashing import Digest
from wire.keys import KeyId, PrivateKey, PublicKey

__all__ = [
    "Admission",
    "Built",
    "Executed",
    "build_block",
    "build_recovery_block",
    "check_transaction",
    "derived_refusals",
    "execute_block",
    "header_refusals",
    "link_refusals",
    "refused_transaction",
    "signature_jobs",
    "size_refusals",
    "validator_refusals",
]

_BLOCK_FRAME_BYTES: Final = 640
"""More than a block takes besides its transactions and its election certificate: header, signature, lengths."""
_TRANSACTION_FRAME_BYTES: Final = 5
"""The longest length prefix of a transaction inside a block."""


@dataclass(frozen=True, slots=True)
class Executed:
    """A valid block, and everything to write for it in one batch."""

    block: Block
    """The block."""
    block_hash: Digest
    """Its hash, 32 bytes."""
    writes: WriteSet
    """All rows but the commit certificate: state, tree, log, indexes, block, header and tip."""
    tx_ids: tuple[TxId, ...]
    """Its transactions, in order."""
    transactions: tuple[Transaction, ...]
    """The same, decoded."""
    configuration: Configuration | None
    """The configuration of the validators from this block on, its own certificate included, if the block changes it; otherwise None."""

    @property
    def height(self) -> int:
        """The block's height."""
        return self.block.header.height


@dataclass(frozen=True, slots=True)
class Built:
    """A block that was built, and what did not go into it."""

    block: Block
    """The block, signed by its proposer."""
    executed: Executed
    """What it leads to."""
    refused: tuple[tuple[Transaction, RejectedError], ...]
    """Transactions that can no longer be executed, each with the reason: drop them."""
    left: tuple[Transaction, ...]
    """Transactions that did not fit, in order: offer them again."""


class Admission:
    """Checks transactions against one state, for a block that would follow it at once.

    Keep one while the tip stays the same: it remembers the records that it has read.

    Args:
        reader: The state; it must not change while this is used.
    """

    __slots__ = ("_execution",)

    def __init__(self, reader: Reader) -> None:
        tip = StateView(reader).tip
        self._execution = Execution(reader, replace(tip.header, height=tip.header.height + 1), tip)

    def check(self, transaction: Transaction, *, verified: bool) -> None:
        """Return only when the transaction could be executed in the next block, alone.

        Args:
            transaction: From anybody.
            verified: Whether its signature was checked already.

        Raises:
            RejectedError: See `Execution.check`.
        """
        self._execution.check(transaction, verified=verified)


def check_transaction(reader: Reader, transaction: Transaction, *, verified: bool) -> None:
    """Return only when the transaction could be executed in the next block, alone; `Admission` does it for many at less cost.

    Raises:
        RejectedError: See `Execution.check`.
    """
    Admission(reader).check(transaction, verified=verified)


def signature_jobs(reader: Reader, transactions: Iterable[Transaction]) -> tuple[SignatureJob, ...]:
    """Return the signature checks of those transactions whose keys are known to `reader`.

    Those that are signed with a key that an earlier transaction of the same block registers are missing; execution checks them itself.
    """
    view = StateView(reader)
    keys: dict[tuple[bytes, bool], KeyRecord | PublicKey | None] = {}
    jobs = []
    for transaction in transactions:
        # One key can be a node's and an identity's, and means another signer then.
        signer = (transaction.signer_key_id, isinstance(transaction.body, ValidatorSettle))
        if signer not in keys:
            keys[signer] = find_signing_key(view, transaction)
        key = keys[signer]
        if key is not None:
            jobs.append(signature_job(transaction, key))
    return tuple(jobs)


def execute_block(
    reader: Reader,
    block: Block,
    *,
    now_ms: int | None,
    verified: Set[bytes] = frozenset(),
    decoded: Sequence[Transaction] | None = None,
) -> Executed:
    """Return what the block leads to, when it is the valid successor of the tip that `reader` holds.

    Args:
        reader: The state after the block before; a store, or an overlay of blocks that are not committed.
        block: From anybody.
        now_ms: The caller's clock, against which the block's time is bounded ahead; None where the past is replayed.
        verified: Leaf hashes of transactions whose signatures were checked before. Leaf hashes, not tx_ids: they cover the signature.
        decoded: The block's transactions, when the caller has decoded them already.

    Raises:
        BlockRefusedError: ``ledger.block.*``; ``ledger.block.transaction`` when a transaction cannot be executed (details name its index,
            its tx_id and the cause's code).
    """
    tip = StateView(reader).tip
    configuration = StateView(reader).configuration()
    for refusal in header_refusals(tip, configuration, block, now_ms=now_ms):
        raise refusal
    execution = Execution(reader, block.header, tip)
    for refusal in size_refusals(execution, block):
        raise refusal
    if decoded is None:
        decoded = _decode(block)
    else:
        assert [each.raw for each in decoded] == list(block.transactions), "the decoded transactions are the block's"
    for index, transaction in enumerate(decoded):
        try:
            execution.execute(transaction, verified=transaction.leaf_hash in verified)
        except RejectedError as error:
            raise refused_transaction(index, transaction.tx_id, error) from error
    sealed = execution.seal()
    for refusal in derived_refusals(block.header, sealed.header):
        raise refusal
    return _executed(block, sealed, execution.transactions)


def build_block(
    reader: Reader,
    transactions: Iterable[Transaction],
    *,
    term: int,
    time_ms: int,
    proposer: PrivateKey,
    election: bytes | None,
    verified: Set[bytes] = frozenset(),
) -> Built:
    """Return a signed block of as many of the transactions, in their order, as are valid and fit.

    Args:
        reader: The state after the block before.
        transactions: Candidates, in order.
        term: The proposer's term.
        time_ms: The proposer's clock; where it is behind the block before, that block's time is taken.
        proposer: A validator's node key.
        election: The encoded election certificate when `term` is higher than that of the block before, and None otherwise.
        verified: Leaf hashes of transactions whose signatures were checked before.
    """
    tip = StateView(reader).tip
    parent = tip.header
    assert (election is not None) == (term > parent.term), "a term's first block carries its election certificate"
    template = Header(
        chain_id=parent.chain_id,
        height=parent.height + 1,
        term=term,
        previous_hash=tip.block_hash,
        time_ms=max(time_ms, parent.time_ms),
        proposer=proposer.public_key.key_id,
        transactions_root=ZERO_DIGEST,
        log_size=0,
        log_root=ZERO_DIGEST,
        state_root=ZERO_DIGEST,
        validators_hash=ZERO_DIGEST,
        policy_hash=ZERO_DIGEST,
        election_hash=hash_election(election),
    )
    execution = Execution(reader, template, tip)
    bytes_left = execution.network.block_bytes_max - _BLOCK_FRAME_BYTES - len(election or b"")
    count_left = execution.network.block_transactions_max
    refused: list[tuple[Transaction, RejectedError]] = []
    candidates = list(transactions)
    left: tuple[Transaction, ...] = ()
    for index, transaction in enumerate(candidates):
        size = len(transaction.raw) + _TRANSACTION_FRAME_BYTES
        if count_left == 0 or size > bytes_left:
            left = tuple(candidates[index:])
            break
        try:
            execution.execute(transaction, verified=transaction.leaf_hash in verified)
        except RejectedError as error:
            refused.append((transaction, error))
            continue
        bytes_left -= size
        count_left -= 1
    sealed = execution.seal()
    raws = tuple(transaction.raw for transaction in execution.transactions)
    signature = proposer.sign(proposal_message(sealed.tip.block_hash))
    block = build_raw_block(sealed.header, raws, signature, election)
    return Built(block, _executed(block, sealed, execution.transactions), tuple(refused), left)


def build_recovery_block(reader: Reader, recovery: Recovery) -> Executed:
    """Return the block in which the recovery stands, executed; everybody who has the recovery makes the same one.

    Args:
        reader: The state after the header that the recovery keeps.
        recovery: From anybody.

    Raises:
        RejectedError: ``ledger.recovery.*``, ``ledger.proof.*``, ``wire.*``.
    """
    tip, statement = StateView(reader).tip, recovery.statement
    template = replace(
        tip.header,
        height=tip.header.height + 1,
        term=statement.term,
        previous_hash=tip.block_hash,
        time_ms=statement.time_ms,
        proposer=KeyId(ZERO_DIGEST),
        election_hash=ZERO_DIGEST,
    )
    execution = Execution(reader, template, tip)
    execution.execute(recovery_transaction(recovery), verified=False)
    sealed = execution.seal()
    raws = tuple(each.raw for each in execution.transactions)
    return _executed(build_raw_block(sealed.header, raws, b"", None), sealed, execution.transactions)


def size_refusals(execution: Execution, block: Block) -> Iterator[BlockRefusedError]:
    """Yield every way in which the block is larger than its network's founding document allows."""
    network = execution.network
    if is_recovery_block(block.header):
        return  # One transaction, as long as its signers are many.
    if len(block.transactions) > network.block_transactions_max:
        yield too_many_transactions(len(block.transactions), network.block_transactions_max)
    if len(block.raw) > network.block_bytes_max:
        yield refuse_block(
            "too_large", block.header, "is too long", f"at most {network.block_bytes_max} bytes", len(block.raw)
        )


def derived_refusals(claimed: Header, derived: Header) -> Iterator[BlockRefusedError]:
    """Yield each derived field in which a block's header differs from what its transactions lead to."""
    for name in ("transactions_root", "log_size", "log_root", "state_root", "validators_hash", "policy_hash"):
        ours, theirs = getattr(derived, name), getattr(claimed, name)
        if ours != theirs:
            yield refuse_block(name, claimed, f"claims another {name} than its transactions lead to", ours, theirs)


def refused_transaction(index: int, tx_id: bytes, error: RejectedError) -> BlockRefusedError:
    """Return the refusal of a block whose transaction at `index` was refused by `error`."""
    return BlockRefusedError(
        "ledger.block.transaction",
        f"transaction {index} of the block cannot be executed: {error.message}",
        details={"index": index, "tx_id": tx_id.hex(), "cause": error.code},
    )


def _decode(block: Block) -> list[Transaction]:
    transactions = []
    for index, raw in enumerate(block.transactions):
        try:
            transactions.append(decode_transaction_untrusted(raw))
        except RejectedError as error:
            raise refused_transaction(index, b"", error) from error
    return transactions


def _executed(block: Block, sealed: Sealed, transactions: tuple[Transaction, ...]) -> Executed:
    writes = sealed.writes
    writes.update(block_writes(block, sealed.tip))
    tx_ids = tuple(each.tx_id for each in transactions)
    return Executed(block, block.block_hash, writes, tx_ids, transactions, sealed.configuration)
