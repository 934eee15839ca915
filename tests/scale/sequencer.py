"""The ledger of the simulation: real transactions, blocks, execution and state, put into order by one sequencer instead of by consensus.

Every block is executed twice, by whoever builds it and by a follower that compares every root, as on a network of two. What is not there:
other validators, their signatures and elections, the network between them, LevelDB, and disks. So nothing here says how long a commit
takes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from time import perf_counter
from typing import Final

import trio

from agent.access import CommittedAt
from ledger.genesis import Genesis
from ledger.keyspace import MemoryStore, Table
from ledger.state import StateView
from ledger.transaction import Transaction, TxId, decode_transaction_untrusted
from ledger.transition import check_transaction
from tests.testkit.ledger import Chain
from wire.errors import RejectedError, UnavailableError

BLOCK_TRANSACTIONS: Final = 256
"""As many as a leader puts into a block unless configured otherwise."""
GATHER_SECONDS: Final = 0.02
"""Real time during which submissions gather for a block."""
LISTED: Final = (Table.STATE, Table.HISTORY)
"""Tables that somebody lists."""

Row = tuple[int, bytes | None]


class VersionedStore(MemoryStore):
    """Tables that keep every value with its version, so that a view of a past one costs nothing and never moves."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 0
        self._rows: dict[tuple[Table, bytes], list[Row]] = {}
        self._order: dict[Table, list[bytes]] = {table: [] for table in LISTED}

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self.get_at(table, key, self.version)

    def get_at(self, table: Table, key: bytes, version: int) -> bytes | None:
        for at, value in reversed(self._rows.get((table, key), ())):
            if at <= version:
                return value
        return None

    def iterate(self, table: Table, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self.iterate_at(table, start, stop, self.version)

    def iterate_at(self, table: Table, start: bytes, stop: bytes, version: int) -> Iterator[tuple[bytes, bytes]]:
        order = self._order[table]
        for key in order[bisect_left(order, start) : bisect_left(order, stop)]:
            value = self.get_at(table, key, version)
            if value is not None:
                yield key, value

    def apply(self, writes: Mapping[tuple[Table, bytes], bytes | None]) -> None:
        version = self.version + 1
        for (table, key), value in writes.items():
            rows = self._rows.get((table, key))
            if rows is None:
                self._rows[table, key] = [(version, value)]
                if table in self._order:
                    insort(self._order[table], key)
            else:
                # Nobody looks further back than a few blocks.
                self._rows[table, key] = [*rows[-7:], (version, value)]
        self.version = version

    @property
    def bytes_held(self) -> dict[Table, int]:
        """Bytes of the newest keys and values by table."""
        found: Counter[Table] = Counter()
        for (table, key), rows in self._rows.items():
            found[table] += len(key) + len(rows[-1][1] or b"")
        return found


class At:
    """A `RangeReader` of one version."""

    def __init__(self, store: VersionedStore) -> None:
        self._store, self._version = store, store.version

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self._store.get_at(table, key, self._version)

    def iterate(self, table: Table, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._store.iterate_at(table, start, stop, self._version)


class Sequencer:
    """Takes transactions of everybody, and cuts blocks of them."""

    def __init__(self, genesis: Genesis) -> None:
        self.store = VersionedStore()
        self.chain = Chain(genesis=genesis, store=self.store)
        self.patches: dict[bytes, bytes] = {}
        self.kinds: Counter[str] = Counter()
        self.kind_bytes: Counter[str] = Counter()
        self.largest: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.fullest = 0
        self.execution_s = 0.0
        self._waiting: deque[Transaction] = deque()
        self._arrived = trio.Event()
        self._committed: dict[bytes, trio.Event] = {}

    @property
    def view(self) -> StateView:
        """The ledger at the tip; it does not move."""
        return StateView(At(self.store))

    @property
    def time_ms(self) -> int:
        """The tip's time."""
        return self.chain.blocks[-1].header.time_ms

    def admit(self, transaction: Transaction) -> trio.Event:
        """Return what is set when the transaction is in a block, or known not to come into one.

        Raises:
            RejectedError: The ledger's refusal.
        """
        event = self._committed.get(transaction.tx_id)
        if event is None:
            check_transaction(self.store, transaction, verified=False)
            event = self._committed[transaction.tx_id] = trio.Event()
            self._waiting.append(transaction)
            self._arrived.set()
        return event

    def cut(self) -> int:
        """Make a block of what waits, empty when nothing does; return how many transactions it has."""
        taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), BLOCK_TRANSACTIONS))]
        started = perf_counter()
        built = self.chain.build(*taken)
        self.chain.apply(built.block)
        self.execution_s += perf_counter() - started
        # Whoever lost its place (a halt came before it in this very block) hears what admission says now.
        for _, error in built.refused:
            self.refused[error.code] += 1
        done = len(built.block.transactions)
        for transaction in taken:
            if self.view.location(transaction.tx_id) is not None:
                self.kinds[transaction.kind] += 1
                self.kind_bytes[transaction.kind] += len(transaction.raw)
                self.largest[transaction.kind] = max(self.largest[transaction.kind], len(transaction.raw))
            elif transaction in built.left:
                self._waiting.append(transaction)
                continue
            self._committed.pop(transaction.tx_id).set()
        self.fullest = max(self.fullest, done)
        return done

    async def run(self) -> None:
        """Cut a block whenever something has gathered, for ever."""
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            await trio.sleep(GATHER_SECONDS)
            while self._waiting:
                self.cut()
                await trio.lowlevel.checkpoint()

    async def say(self, transaction: Transaction) -> None:
        """Return when the transaction is committed.

        Raises:
            RejectedError: The ledger's refusal.
        """
        await self.admit(transaction).wait()
        if self.view.location(transaction.tx_id) is None:
            check_transaction(self.store, transaction, verified=True)


class HostLedger:
    """`agent.access.LedgerAccess` of one host; every host has the same replica here, half a second old."""

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer

    @property
    def chain_id(self) -> str:
        return self._sequencer.chain.genesis.chain_id

    def view(self) -> StateView:
        return self._sequencer.view

    def replica_age_ms(self) -> int:
        return 500

    def split_heights(self) -> frozenset[int]:
        return frozenset()

    async def submit(self, raw: bytes) -> None:
        transaction = decode_transaction_untrusted(raw)
        if self._sequencer.view.location(transaction.tx_id) is None:
            await self._sequencer.say(transaction)

    async def wait_receipt(self, tx_id: TxId, timeout_s: float) -> CommittedAt:
        del timeout_s
        location = self._sequencer.view.location(tx_id)
        if location is None:
            raise UnavailableError("scale.not_committed", "the transaction is in no block")
        return CommittedAt(location.height, tx_id)

    async def fetch_patch(self, digest: bytes, size: int) -> bytes | None:
        del size
        return self._sequencer.patches.get(digest)


def refusal(sequencer: Sequencer, transaction: Transaction) -> str:
    """Return the code with which the ledger refuses a transaction, or "" when it would take it."""
    try:
        check_transaction(sequencer.store, transaction, verified=False)
    except RejectedError as error:
        return error.code
    return ""
