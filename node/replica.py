"""A node's copy of the ledger: executing blocks that others made, committing what a certificate proves, telling who waits.

`LedgerReplica` is what validators and observers share. It owns the executed tail (`node.chain`), remembers which transactions' signatures
this
node has verified, so that each is verified once, and wakes whoever waits for a height or a transaction. It never decides *which* block is
next: consensus does (`node.validator`), or a certificate (`node.observer`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Final

import structlog
import trio

from consensus.effects import Persist
from ledger.block import Block, decode_block_untrusted
from ledger.keyspace import Reader
from ledger.recovery_block import find_recovery
from ledger.state import StateView
from ledger.transaction import SignatureJob, Transaction, decode_transaction_untrusted
from ledger.transition import Executed, execute_block, signature_jobs
from node.chain import Chain
from node.machine import REAL_MACHINE, Machine
from node.storage.block_store import BlockStore
from wire.certificate import CommitCertificate
from wire.errors import CorruptionError, RejectedError, UnavailableError
from wire.hashing import Digest
from wire.keys import public_key_from_spki_untrusted

VERIFIED_TRANSACTIONS_MAX: Final = 50_000
"""Remembered transactions whose signature this node has verified and that are in no committed block yet: more than a mempool and the
blocks above the committed one hold, at 200 bytes each. The oldest are forgotten and would be verified again."""
VERIFY_INLINE_MAX: Final = 8
"""Signatures verified on the event loop at once (about half a millisecond); more go to the verifying thread."""
WAITERS_MAX: Final = 50_000
"""Transactions that callers wait for at once."""

_log = structlog.get_logger("node.replica")


class LedgerReplica:
    """One node's copy of the ledger, on top of `store`."""

    def __init__(self, store: BlockStore, now_ms: Callable[[], int], machine: Machine = REAL_MACHINE) -> None:
        self.store = store
        self.now_ms = now_ms
        self.machine = machine
        view = StateView(store)
        self.chain_id = view.chain_id
        self.chain = Chain(store, view.height, view.tip.block_hash, view.header.time_ms)
        self._view = view
        self._advanced_ms = machine.uptime_ms()
        self._verified: OrderedDict[Digest, None] = OrderedDict()
        self._verifying = trio.CapacityLimiter(1)
        self._advanced = trio.Event()
        self._waiting: dict[Digest, tuple[trio.Event, int]] = {}
        self.transactions_committed = 0

    @property
    def height(self) -> int:
        """The height of the last committed block."""
        return self.chain.committed_height

    @contextmanager
    def view(self) -> Iterator[StateView]:
        """Give the committed ledger at one height; it stays as it is while later blocks are committed."""
        with self.store.snapshot() as snapshot:
            yield StateView(snapshot)

    def latest_view(self) -> StateView:
        """Return the committed ledger without a snapshot: for reads that end before the event loop runs anything else."""
        return self._view

    def replica_age_ms(self) -> int:
        """Return the milliseconds since the last committed block was made, or since it came where that is longer; never negative.

        The wall clock can be set back, by somebody who wants an old replica to look fresh; the other clock cannot.
        """
        return max(0, self.now_ms() - self._view.header.time_ms, self.machine.uptime_ms() - self._advanced_ms)

    async def wait_above(self, height: int) -> int:
        """Return the committed height as soon as it is above `height`."""
        while self.height <= height:
            await self._advanced.wait()
        return self.height

    async def wait_transaction(self, tx_id: Digest) -> None:
        """Return when the transaction is committed; the caller sets the deadline.

        Raises:
            UnavailableError: Too many callers wait already (`node.submit.too_many_waiting`).
        """
        if self.is_committed(tx_id):
            return
        event, count = self._waiting.get(tx_id, (None, 0))
        if event is None:
            if len(self._waiting) >= WAITERS_MAX:
                raise UnavailableError("node.submit.too_many_waiting", "too many callers wait for transactions")
            event = trio.Event()
        self._waiting[tx_id] = (event, count + 1)
        try:
            await event.wait()
        finally:
            if (entry := self._waiting.get(tx_id)) is not None and entry[0] is event:
                if entry[1] == 1:
                    del self._waiting[tx_id]
                else:
                    self._waiting[tx_id] = (event, entry[1] - 1)

    def is_committed(self, tx_id: Digest) -> bool:
        """Return whether the transaction stands in a committed block."""
        return self._view.location(tx_id) is not None

    async def execute_untrusted(self, raw: bytes, *, block_hash: Digest | None, now_ms: int | None) -> Executed:
        """Execute a block of somebody else's making on the tip and put it on top of the chain.

        Args:
            raw: The encoded block.
            block_hash: The hash it was announced under; None accepts what it hashes to.
            now_ms: This node's clock, which bounds how far ahead the block's may be; None for blocks with a certificate.

        Raises:
            RejectedError: The block breaks a rule; nothing has changed.
        """
        block, transactions = _decode_untrusted(raw, block_hash)
        reader = self.chain.tip()
        await self.verify_transactions(reader, transactions)
        return self._execute(reader, block, transactions, now_ms)

    def execute_now_untrusted(self, raw: bytes, *, block_hash: Digest | None, now_ms: int | None) -> Executed | None:
        """Do what `execute_untrusted` does if it need not wait for the verifying thread; otherwise change nothing and return None.

        Raises:
            RejectedError: As there.
        """
        block, transactions = _decode_untrusted(raw, block_hash)
        reader = self.chain.tip()
        jobs = self._signature_jobs(reader, transactions)
        if len(jobs) > VERIFY_INLINE_MAX:
            return None
        self._remember(_verify(jobs))
        return self._execute(reader, block, transactions, now_ms)

    def _execute(
        self, reader: Reader, block: Block, transactions: Sequence[Transaction], now_ms: int | None
    ) -> Executed:
        executed = execute_block(reader, block, now_ms=now_ms, verified=self.verified, decoded=transactions)
        self.chain.push(executed)
        return executed

    def execute_stored_tail(self) -> list[Executed]:
        """Put the blocks that a former run persisted and did not see committed back on top of the chain; return them. At the start only.

        Raises:
            CorruptionError: One of them no longer executes (`node.store.tail_not_valid`).
        """
        tail = []
        for height in range(self.chain.tip_height + 1, self.store.last_height + 1):
            entry = self.store.entry(height)
            try:
                executed = execute_block(self.chain.tip(), decode_block_untrusted(entry.data), now_ms=None)
            except RejectedError as error:
                raise CorruptionError(
                    "node.store.tail_not_valid",
                    f"the stored block at height {height} no longer executes: {error.message}",
                    hint="verify the store with `patchwarden node verify-store`",
                ) from error
            self.chain.push(executed)
            tail.append(executed)
        return tail

    async def verify_transactions(self, reader: Reader, transactions: Sequence[Transaction]) -> None:
        """Verify the signatures that this node has not verified yet and remember those that hold."""
        jobs = self._signature_jobs(reader, transactions)
        if not jobs:
            return
        if len(jobs) <= VERIFY_INLINE_MAX:
            good = _verify(jobs)
        else:
            good = await self.machine.in_thread(_verify, jobs, limiter=self._verifying)
        self._remember(good)

    def _signature_jobs(self, reader: Reader, transactions: Sequence[Transaction]) -> Sequence[SignatureJob]:
        # By leaf hash, which covers the signature: a transaction's id does not, so a forged copy has the id of a good one.
        return signature_jobs(reader, [each for each in transactions if each.leaf_hash not in self._verified])

    def _remember(self, good: Sequence[Digest]) -> None:
        for leaf in good:
            self._verified[leaf] = None
        while len(self._verified) > VERIFIED_TRANSACTIONS_MAX:
            self._verified.popitem(last=False)

    def is_verified(self, transaction: Transaction) -> bool:
        """Return whether this node has verified the transaction's signature."""
        return transaction.leaf_hash in self._verified

    @property
    def verified(self) -> Set[Digest]:
        """The leaf hashes of the transactions whose signature this node has verified."""
        return self._verified.keys()

    def restart(self) -> None:
        """Go on from what the store holds, which has become another database; whoever waited for what is in it is woken.

        Nothing may be executed or written meanwhile.
        """
        self.store.reload()
        view = StateView(self.store)
        assert view.height > self.height, "a replica never goes back"
        self.chain = Chain(self.store, view.height, view.tip.block_hash, view.header.time_ms)
        self._view = view
        self._advanced_ms = self.machine.uptime_ms()
        for tx_id in [tx_id for tx_id in self._waiting if self.is_committed(tx_id)]:
            self._waiting.pop(tx_id)[0].set()
        advanced, self._advanced = self._advanced, trio.Event()
        advanced.set()

    def commit_to_store(
        self,
        groups: Sequence[tuple[Sequence[Executed], CommitCertificate | None]],
        persists: Sequence[Persist] = (),
    ) -> None:
        """Write executed blocks and their certificates durably, all or nothing. Blocking: call it in the writing thread.

        Args:
            groups: What was executed, in order, each with the certificate that proves the last block of it.
            persists: What else belongs into the same write.

        Raises:
            StorageFailedError: The disk did not take it; the node must stop.
        """
        self.store.write(persists, groups)

    def committed(self, blocks: Sequence[Executed]) -> None:
        """Make durable blocks the committed tip and wake whoever waited for them."""
        if not blocks:
            return
        self.chain.release_through(blocks[-1].block.header.height)
        self._view = StateView(self.store)
        self._advanced_ms = self.machine.uptime_ms()
        for executed in blocks:
            if (recovery := find_recovery(executed.block)) is not None:
                _log.warning(
                    "the network was recovered: the organisations went on without a majority of the validators",
                    height=executed.height,
                    kept_height=recovery.header.height,
                    signers=[each.identity_id for each in recovery.approvals],
                    validators=[each.name for each in recovery.after],
                    reason=recovery.statement.reason,
                )
            self.transactions_committed += len(executed.tx_ids)
            for transaction in executed.transactions:
                # Nobody executes it again; kept, these would be most of what a node remembers.
                self._verified.pop(transaction.leaf_hash, None)
            for tx_id in executed.tx_ids:
                if (entry := self._waiting.pop(tx_id, None)) is not None:
                    entry[0].set()
        advanced, self._advanced = self._advanced, trio.Event()
        advanced.set()


def _decode_untrusted(raw: bytes, block_hash: Digest | None) -> tuple[Block, list[Transaction]]:
    block = decode_block_untrusted(raw)
    if block_hash is not None and block.block_hash != block_hash:
        raise RejectedError(
            "ledger.block.wrong_hash",
            "the block is not the one announced",
            expected=block_hash,
            actual=block.block_hash,
        )
    return block, [decode_transaction_untrusted(transaction) for transaction in block.transactions]


def _verify(jobs: Sequence[SignatureJob]) -> list[Digest]:
    return [
        job.leaf_hash for job in jobs if public_key_from_spki_untrusted(job.spki).is_valid(job.message, job.signature)
    ]
