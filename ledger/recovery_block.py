"""The block in which a recovery stands: its form, and that it can follow the block below it.

It has no proposer, no signature and no election; its one transaction is the recovery, which nobody signs: the administrators'
signatures are in it. So the bytes of both follow from the recovery and what lies below, and two survivors with the same recovery
make the same block.

Source: docs/spec/recovery.md 3.
"""

from __future__ import annotations

from collections.abc import Iterator

from ledger.block import ZERO_DIGEST, Block, Header
from ledger.configuration import Configuration
from ledger.errors import BlockRefusedError, TransactionRefusedError
from ledger.limits import NONCE_BYTES
from ledger.recovery import Recovery
from ledger.transaction import TRANSACTION_VERSION, Transaction, decode_transaction_untrusted
from wire.codec import encode
from wire.errors import RejectedError
from wire.hashing import Digest


def is_recovery_block(header: Header) -> bool:
    """Return whether the header says that nobody proposed its block, as only that of a recovery does; block 0 aside."""
    return header.height > 0 and not any(header.proposer)


def recovery_transaction(recovery: Recovery) -> Transaction:
    """Return the one transaction that says the recovery."""
    statement = recovery.statement
    return decode_transaction_untrusted(
        encode(
            (
                TRANSACTION_VERSION,
                statement.header.chain_id,
                Recovery.KIND,
                recovery.to_value(),
                ZERO_DIGEST,
                statement.message()[:NONCE_BYTES],
                statement.height,
                statement.time_ms,
                b"",
            )
        )
    )


def find_recovery(block: Block) -> Recovery | None:
    """Return the recovery that stands in the block, or None where it is no recovery block or holds something else. Nothing is verified."""
    if not is_recovery_block(block.header) or len(block.transactions) != 1:
        return None
    try:
        body = decode_transaction_untrusted(block.transactions[0]).body
    except RejectedError:
        return None
    return body if isinstance(body, Recovery) else None


def recovery_refusals(
    tip_hash: Digest, configuration: Configuration, block: Block
) -> Iterator[tuple[str, RejectedError | None]]:
    """Yield each rule by which a recovery block does not follow, with what says why.

    Args:
        tip_hash: Hash of the block before, 32 bytes.
        configuration: The one after the block before.
        block: A recovery block from anybody.
    """
    if block.proposer_signature or block.election is not None:
        yield "is a recovery's and carries a signature or an election", None
    recovery = find_recovery(block)
    if recovery is None:
        yield "has no proposer and is not a recovery's", None
        return
    statement = recovery.statement
    if statement.header.hash() != tip_hash or recovery.configuration.hash != configuration.hash:
        yield "recovers the chain above another block", None
        return
    if (block.header.term, block.header.time_ms) != (statement.term, statement.time_ms):
        yield "is not of the term and the time that its recovery names", None
    try:
        recovery.verify()
    except RejectedError as error:
        yield f"holds a recovery that does not hold: {error.message}", error


def check_recovery_transaction(transaction: Transaction, recovery: Recovery, header: Header, tip_hash: Digest) -> None:
    """Return only when the transaction may be executed: in its own block, right above the header that it keeps, in its one form.

    Args:
        transaction: From anybody.
        recovery: Its body.
        header: Of the block in which it would be executed.
        tip_hash: Hash of the block before, 32 bytes.

    Raises:
        RejectedError: ``ledger.recovery.*``, ``ledger.proof.*``, ``wire.*``.
    """
    if not is_recovery_block(header):
        raise _refuse("misplaced", "a recovery stands in a block of its own, which no validator proposes")
    if recovery.header.hash() != tip_hash:
        raise _refuse(
            "wrong_parent", "the recovery keeps another block than the last one", recovery.header.hash(), tip_hash
        )
    if recovery_transaction(recovery).raw != transaction.raw:
        raise _refuse("form", "the transaction of a recovery has one form, and this is another")
    recovery.verify()


def unexpected_recovery(header: Header) -> BlockRefusedError:
    """Return the refusal of a recovery block that came from a leader: it comes by the operator's hand, or with a certificate above it."""
    return BlockRefusedError(
        "ledger.block.recovery_by_hand",
        f"block {header.height} is a recovery's and came from a leader",
        hint="if the organisations have decided so: stop the node, `patchwarden recovery apply`, start it",
    )


def _refuse(rule: str, sentence: str, expected: object = None, actual: object = None) -> TransactionRefusedError:
    return TransactionRefusedError(f"ledger.recovery.{rule}", sentence, expected=expected, actual=actual)
