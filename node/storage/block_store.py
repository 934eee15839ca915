"""What consensus and the ledger keep in the store: the log, the hard state, committed blocks, and their certificates.

==========  =====  ==================  ================================================================
table       no.    key                 value
==========  =====  ==================  ================================================================
LOG_ENTRY   65     height (8 bytes)    the block, as long as it is not committed
HARD_STATE  66     empty               term, vote
LOG_TERM    67     height (8 bytes)    term (8 bytes), block hash (32 bytes); committed heights too, genesis at 0
LOG_TIP     68     empty               last height, last hash, committed height, committed hash
==========  =====  ==================  ================================================================

Committed blocks stand in the ledger's own table BLOCK: a commit writes everything that executing the blocks changed, moves the committed
height and removes the LOG_ENTRY rows, all in one batch. LOG_TIP says how far the log reaches: a missing or damaged row is a hole, never
the end of the log.

`persist`, `commit` and `write` block, one waiting for the other; the reads may run beside them. Source: docs/spec/storage.md 4.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Final, Protocol, cast

from consensus.config import Stored
from consensus.effects import HardState, Persist
from consensus.messages import Entry
from ledger.keyspace import HISTORY_KEY, Table, WriteSet, height_key, read_height
from ledger.pruning import prune_blocks, prune_executed, sweep_history
from node.errors import StorageError, StorageRefusedError
from node.storage.checks import row_error
from node.storage.database import Database, Snapshot
from node.storage.leveldb import Store
from node.storage.tables import (
    ONLY_KEY,
    TABLE_HARD_STATE,
    TABLE_LOG_ENTRY,
    TABLE_LOG_TERM,
    TABLE_LOG_TIP,
)
from wire.certificate import CommitCertificate, decode_commit_certificate_untrusted, encode_commit_certificate
from wire.codec import Value, decode_untrusted, encode
from wire.errors import MalformedError, RejectedError
from wire.fields import as_bytes, as_digest, as_int, as_optional, as_tuple
from wire.hashing import DIGEST_BYTES, Digest
from wire.keys import KeyId

if TYPE_CHECKING:
    from ledger.transition import Executed

_TERM_BYTES: Final = 8
_ROW_BYTES_MAX: Final = 1024

PRUNE_STEP_BLOCKS: Final = 64
"""Blocks deleted in one write."""
ENTRY_CACHE_BYTES: Final = 16 * 1024 * 1024
"""Blocks read again and again while several followers catch up."""


@dataclass(frozen=True, slots=True)
class _Tip:
    """How far log and ledger reach."""

    last_height: int
    last_hash: Digest
    committed_height: int
    committed_hash: Digest

    def encode(self) -> bytes:
        return encode_log_tip(self.last_height, self.last_hash, self.committed_height, self.committed_hash)


class BlockStore:
    """The blocks of one replica over an open store that holds at least genesis; see `BlockStore.bootstrap`."""

    def __init__(self, store: Store) -> None:
        """Read how far log and ledger reach, and check that no block between the two is missing.

        Raises:
            StorageError: ``node.storage.missing_row``, ``node.storage.damaged``, ``node.storage.checksum``.
        """
        self.store = store
        self._writing = Lock()
        self._load()

    def _load(self) -> None:
        store = self.store
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._entries_bytes = 0
        self._entries_lock = Lock()
        self._truncations = 0
        self._hard_state: HardState | None = None
        self._first_height = read_first_height(store)
        tip = decode_log_tip(self._row(TABLE_LOG_TIP, ONLY_KEY))
        self._last_height, self._last_hash, self._committed_height, self._committed_hash = tip
        self._check_log()

    def reload(self) -> None:
        """Forget what was read of the store and read it anew: another database stands in its place.

        Raises:
            StorageError: As for the constructor.
        """
        with self._writing:
            self._load()

    def switch(self, database: Database) -> None:
        """Use `database`, which `Store.new_database` made, from now on, in one durable step. Blocks.

        Pruning and repair write rows that they have derived from rows of the old one: none of them runs meanwhile.

        Raises:
            StorageFailedError: ``node.storage.write_failed``; the node must stop.
            StorageError: As for the constructor.
        """
        with self._writing:
            self.store.switch(database)
            self._load()

    @classmethod
    def bootstrap(cls, store: Store, genesis_hash: Digest, genesis_writes: WriteSet) -> BlockStore:
        """Return the blocks in `store`, after writing genesis when the store is new.

        Args:
            store: The open data directory.
            genesis_hash: Hash of block 0.
            genesis_writes: Everything that block 0 changes (`ledger.genesis.genesis_block`).

        Raises:
            StorageRefusedError: ``node.storage.foreign_directory`` when the store began with another genesis block.
            StorageError: As for the constructor.
            StorageFailedError: ``node.storage.write_failed``.
        """
        genesis_row = store.get(TABLE_LOG_TERM, height_key(0))
        if genesis_row is None:
            if store.get(TABLE_LOG_TIP, ONLY_KEY) is not None:
                raise _missing(TABLE_LOG_TERM, height_key(0))
            rows = dict(as_rows(genesis_writes))
            rows[TABLE_LOG_TERM, height_key(0)] = encode_log_term(0, genesis_hash)
            rows[TABLE_LOG_TIP, ONLY_KEY] = encode((0, genesis_hash, 0, genesis_hash))
            store.write(rows)
        elif genesis_row[_TERM_BYTES:] != genesis_hash:
            raise StorageRefusedError(
                "node.storage.foreign_directory",
                f"the data directory {store.path} began with another genesis block",
                hint="use the genesis document that this network was founded with, or an empty directory",
                expected=genesis_hash,
                actual=genesis_row[_TERM_BYTES:],
            )
        return cls(store)

    # The ledger's side: a Reader and RangeReader of the committed state.

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the committed record under `key`, or None.

        Raises:
            StorageError: ``node.storage.checksum``, ``node.storage.damaged``.
        """
        return self.store.get(table, key)

    def iterate(
        self, table: Table, start: bytes = b"", stop: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and values with start <= key < stop in byte order, backwards if `reverse`; later writes are not seen.

        Raises:
            StorageError: ``node.storage.checksum``, ``node.storage.damaged``.
        """
        return self.store.iterate(table, start, stop, reverse=reverse)

    def snapshot(self) -> Snapshot:
        """Return a reader of the committed state as it is now; close it after use."""
        return self.store.snapshot()

    # Consensus' side: a LogReader.

    @property
    def first_height(self) -> int:
        """Height of the lowest block that is kept; 1 unless history was pruned or began with a snapshot."""
        return self._first_height

    @property
    def last_height(self) -> int:
        """Height of the last block on disk; 0 at genesis."""
        return self._last_height

    @property
    def committed_height(self) -> int:
        """Height up to which the ledger's tables have the blocks' effects."""
        return self._committed_height

    def load(self) -> Stored:
        """Return what the consensus core must know at its start.

        Raises:
            StorageError: ``node.storage.damaged``, ``node.storage.checksum``.
        """
        row = self.store.get(TABLE_HARD_STATE, ONLY_KEY)
        hard_state = HardState()
        if row is not None:
            self._hard_state = hard_state = decode_hard_state(row)
        return Stored(hard_state, self._committed_height, self.find_certificate(self._committed_height))

    def entry(self, height: int) -> Entry:
        """Return the block at `height`, 1 to `last_height`.

        Raises:
            StorageError: ``node.storage.missing_row``, ``node.storage.damaged``, ``node.storage.checksum``.
        """
        assert self.first_height <= height <= self._last_height, f"there is no block {height} in the log"
        with self._entries_lock:
            cached = self._entries.get(height)
            if cached is not None:
                self._entries.move_to_end(height)
                return cached
            truncations = self._truncations
        key = height_key(height)
        # Uncommitted first: when a commit runs beside us, the block is in BLOCK before it leaves LOG_ENTRY.
        data = self.store.get(TABLE_LOG_ENTRY, key)
        if data is None:
            data = self._row(Table.BLOCK, key)
        term, block_hash = self.term_and_hash(height)
        entry = Entry(term, height, block_hash, data)
        self._remember(entry, truncations)
        return entry

    def entries(self, low: int, high: int, bytes_max: int) -> tuple[Entry, ...]:
        """Return the blocks `low` to `high`, both included, as many as fit into `bytes_max` bytes of data but at least one.

        Raises:
            StorageError: As for `entry`.
        """
        entries: list[Entry] = []
        size = 0
        for height in range(low, high + 1):
            entry = self.entry(height)
            size += len(entry.data)
            if entries and size > bytes_max:
                break
            entries.append(entry)
        return tuple(entries)

    def term_and_hash(self, height: int) -> tuple[int, Digest]:
        """Return term and hash of the block at `height`, 0 to `last_height`; at height 0 term 0 and the hash of genesis.

        Raises:
            StorageError: ``node.storage.missing_row``, ``node.storage.damaged``, ``node.storage.checksum``.
        """
        return decode_log_term(self._row(TABLE_LOG_TERM, height_key(height)))

    def find_certificate(self, height_max: int) -> CommitCertificate | None:
        """Return the stored commit certificate with the greatest height that is at most `height_max`, or None.

        Raises:
            StorageError: ``node.storage.damaged``, ``node.storage.checksum``.
        """
        rows = self.store.iterate(Table.CERTIFICATE, b"", height_key(height_max + 1), reverse=True)
        for _, row in rows:
            with _Damaged("CERTIFICATE"):
                return decode_commit_certificate_untrusted(row)
        return None

    # Writes; one at a time.

    @property
    def is_writing(self) -> bool:
        """Whether somebody writes at this moment, so that another write would wait."""
        return self._writing.locked()

    def persist(self, persist: Persist) -> None:
        """Make hard state, truncation and new blocks durable in one batch. Blocks.

        Raises:
            StorageFailedError: ``node.storage.write_failed``; the node must stop.
        """
        self.write((persist,), ())

    def commit(self, executed: Sequence[Executed], certificate: CommitCertificate | None) -> None:
        """Make executed blocks the committed state, and their certificate, in one batch. Blocks.

        Args:
            executed: Blocks in order, the first one right above `committed_height`. They may be in the log already, with the same hashes
                (a validator), or extend it (an observer).
            certificate: Proves the last of them, or one before it; may also come alone.

        Raises:
            StorageFailedError: ``node.storage.write_failed``; the node must stop.
        """
        self.write((), ((executed, certificate),))

    def write(
        self, persists: Sequence[Persist], commits: Sequence[tuple[Sequence[Executed], CommitCertificate | None]]
    ) -> None:
        """Do what `persist` does for each of `persists`, then what `commit` does for each of `commits`, all in one batch. Blocks.

        Raises:
            StorageFailedError: ``node.storage.write_failed``; the node must stop.
        """
        with self._writing:
            rows: dict[tuple[int, bytes], bytes | None] = {}
            tip = _Tip(self._last_height, self._last_hash, self._committed_height, self._committed_hash)
            for persist in persists:
                tip = self._add_persist(rows, tip, persist)
            for executed, certificate in commits:
                tip = self._add_commit(rows, tip, executed, certificate)
            if not rows:
                return
            self.store.write(rows)
            for persist in persists:
                if persist.hard_state is not None:
                    self._hard_state = persist.hard_state
                if persist.truncate_from is not None:
                    self._forget_from(persist.truncate_from)
            self._last_height, self._last_hash = tip.last_height, tip.last_hash
            self._committed_height, self._committed_hash = tip.committed_height, tip.committed_hash

    def _add_persist(self, rows: dict[tuple[int, bytes], bytes | None], tip: _Tip, persist: Persist) -> _Tip:
        if persist.hard_state is not None:
            rows[TABLE_HARD_STATE, ONLY_KEY] = encode_hard_state(persist.hard_state)
        last_height, last_hash = tip.last_height, tip.last_hash
        if persist.truncate_from is not None:
            assert persist.truncate_from > tip.committed_height, "a committed block cannot be truncated"
            for height in range(persist.truncate_from, last_height + 1):
                rows[TABLE_LOG_ENTRY, height_key(height)] = None
                rows[TABLE_LOG_TERM, height_key(height)] = None
            if persist.truncate_from <= last_height:
                last_height = persist.truncate_from - 1
                last_hash = self._hash_with(rows, last_height)
        for entry in persist.entries:
            assert entry.height == last_height + 1, f"block {entry.height} does not follow block {last_height}"
            rows[TABLE_LOG_ENTRY, height_key(entry.height)] = entry.data
            rows[TABLE_LOG_TERM, height_key(entry.height)] = encode_log_term(entry.term, entry.block_hash)
            last_height, last_hash = entry.height, entry.block_hash
        tip = replace(tip, last_height=last_height, last_hash=last_hash)
        if persist.truncate_from is not None or persist.entries:
            rows[TABLE_LOG_TIP, ONLY_KEY] = tip.encode()
        return tip

    def _add_commit(
        self,
        rows: dict[tuple[int, bytes], bytes | None],
        tip: _Tip,
        executed: Sequence[Executed],
        certificate: CommitCertificate | None,
    ) -> _Tip:
        height, block_hash = tip.committed_height, tip.committed_hash
        for block in executed:
            header = block.block.header
            assert header.height == height + 1, f"block {header.height} does not follow committed block {height}"
            height, block_hash = header.height, block.block_hash
            key = height_key(height)
            if height <= tip.last_height:
                assert self._hash_with(rows, height) == block_hash, f"block {height} is not the one in the log"
                rows[TABLE_LOG_ENTRY, key] = None
            else:
                rows[TABLE_LOG_TERM, key] = encode_log_term(header.term, block_hash)
            rows.update(as_rows(block.writes))
        last_height, last_hash = tip.last_height, tip.last_hash
        if height > last_height:
            last_height, last_hash = height, block_hash
        tip = _Tip(last_height, last_hash, height, block_hash)
        if executed:
            rows[TABLE_LOG_TIP, ONLY_KEY] = tip.encode()
        if certificate is not None:
            assert certificate.height <= height, "a certificate came before its block"
            rows[Table.CERTIFICATE, height_key(certificate.height)] = encode_commit_certificate(certificate)
        return tip

    def _hash_with(self, rows: Mapping[tuple[int, bytes], bytes | None], height: int) -> Digest:
        """Return the hash of the block at `height` as it will be when `rows` are written."""
        row = rows.get((TABLE_LOG_TERM, height_key(height)))
        return decode_log_term(row)[1] if row is not None else self.term_and_hash(height)[1]

    def known_rows(self) -> dict[tuple[int, bytes], bytes]:
        """Return the rows that this process knows without the disk, because it wrote or read them itself: tip, term and vote."""
        rows = {
            (TABLE_LOG_TIP, ONLY_KEY): encode_log_tip(
                self._last_height, self._last_hash, self._committed_height, self._committed_hash
            )
        }
        if self._hard_state is not None:
            rows[TABLE_HARD_STATE, ONLY_KEY] = encode_hard_state(self._hard_state)
        return rows

    def mend(self, table: int, key: bytes, derive: Callable[[], bytes | None]) -> bool:
        """Write what `derive` returns over a damaged row, None deleting it; return whether the row was still damaged.

        Nothing else is written meanwhile, so that a row which a commit has replaced or removed is not brought back.

        Raises:
            StorageFailedError: ``node.storage.write_failed``; the node must stop.
        """
        with self._writing:
            if self.store.is_sound(table, key):
                return False
            self.store.write({(table, key): derive()})
            return True

    def raise_first_height(self, height: int) -> None:
        """Answer no questions about blocks below `height` from now on, so that `prune_rows` may delete them. Never blocks."""
        assert height <= self._committed_height, "what is not committed is not pruned"
        self._first_height = max(self._first_height, height)

    def prune_step(self, blocks_max: int) -> bool:
        """Delete the oldest blocks below `first_height`, or what is left of them; return False when there is nothing left to delete.

        Args:
            blocks_max: Blocks in this step.

        Raises:
            StorageFailedError: ``node.storage.write_failed``; the node must stop.
        """
        with self._writing:
            start = read_first_height(self.store)
            rows = as_rows(prune_blocks(self, self._first_height, blocks_max))
            stop = start if not rows else read_height(rows[Table.META, HISTORY_KEY] or b"")
            # Of the height below the first one the log's term and hash stay: what the first block follows.
            for height in range(max(1, start - 1), stop - 1):
                rows[TABLE_LOG_TERM, height_key(height)] = None
            rows |= as_rows(prune_executed(self, blocks_max))
            if rows:
                self.store.write(rows)
            return bool(rows)

    def sweep_step(self, cursor: bytes, rows_max: int) -> bytes | None:
        """Delete entries of HISTORY about blocks that are gone; return where to go on, or None at the end of the table.

        Args:
            cursor: Empty to begin.
            rows_max: Rows looked at in this step.

        Raises:
            StorageFailedError: ``node.storage.write_failed``; the node must stop.
        """
        writes, following = sweep_history(self, cursor, rows_max)
        if writes:
            with self._writing:
                self.store.write(as_rows(writes))
        return following

    def _check_log(self) -> None:
        """Raise unless every block from genesis to the tip has its row where it must be; reads keys of the uncommitted part only."""
        for height, expected in ((self._committed_height, self._committed_hash), (self._last_height, self._last_hash)):
            if self.term_and_hash(height)[1] != expected:
                raise _damaged("LOG_TIP", f"it names another block at height {height} than LOG_TERM")
        if self._committed_height >= self._first_height or self._committed_height == 0:
            self._row(Table.BLOCK, height_key(self._committed_height))
        expected_height = self._committed_height + 1
        for key, _ in self.store.iterate(TABLE_LOG_ENTRY):
            if read_height(key) != expected_height:
                break
            self.term_and_hash(expected_height)
            expected_height += 1
        if expected_height != self._last_height + 1:
            raise _missing(TABLE_LOG_ENTRY, height_key(expected_height))

    def _row(self, table: int, key: bytes) -> bytes:
        row = self.store.get(table, key)
        if row is None:
            raise _missing(table, key)
        return row

    def _remember(self, entry: Entry, truncations: int) -> None:
        with self._entries_lock:
            if truncations != self._truncations or entry.height in self._entries:
                return  # Read before a truncation that may have removed it, or remembered by another thread.
            self._entries[entry.height] = entry
            self._entries_bytes += len(entry.data)
            while self._entries_bytes > ENTRY_CACHE_BYTES and len(self._entries) > 1:
                self._entries_bytes -= len(self._entries.popitem(last=False)[1].data)

    def _forget_from(self, height: int) -> None:
        with self._entries_lock:
            self._truncations += 1
            for forgotten in [known for known in self._entries if known >= height]:
                self._entries_bytes -= len(self._entries.pop(forgotten).data)


class SupportsGet(Protocol):
    """Anything that rows can be read from."""

    def get(self, table: int, key: bytes) -> bytes | None:
        """Return the row's value, or None."""
        ...


class _Damaged:
    """Turns a refusal of the readers of `wire` into a storage error: these bytes were ours."""

    def __init__(self, row: str) -> None:
        self._row = row

    def __enter__(self) -> None:
        """Begin to read the row."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Raise the storage error for a refusal, let everything else pass."""
        if isinstance(error, RejectedError):
            raise _damaged(self._row, str(error)) from error


def encode_log_term(term: int, block_hash: Digest) -> bytes:
    """Return the LOG_TERM row of a block."""
    return term.to_bytes(_TERM_BYTES, "big") + block_hash


def decode_log_term(row: bytes) -> tuple[int, Digest]:
    """Return term and block hash from a LOG_TERM row.

    Raises:
        StorageError: ``node.storage.damaged``.
    """
    if len(row) != _TERM_BYTES + DIGEST_BYTES:
        raise _damaged("LOG_TERM", f"{len(row)} bytes")
    return int.from_bytes(row[:_TERM_BYTES], "big"), Digest(row[_TERM_BYTES:])


def encode_log_tip(last_height: int, last_hash: Digest, committed_height: int, committed_hash: Digest) -> bytes:
    """Return the LOG_TIP row."""
    return encode((last_height, last_hash, committed_height, committed_hash))


def decode_log_tip(row: bytes) -> tuple[int, Digest, int, Digest]:
    """Return last height, last hash, committed height, and committed hash.

    Raises:
        StorageError: ``node.storage.damaged``.
    """
    last_height, last_hash, committed_height, committed_hash = _values(row, "LOG_TIP", 4)
    with _Damaged("LOG_TIP"):
        last = as_int(last_height, "last_height")
        return (
            last,
            as_digest(last_hash, "last_hash"),
            as_int(committed_height, "committed_height", maximum=last),
            as_digest(committed_hash, "committed_hash"),
        )


def encode_hard_state(hard_state: HardState) -> bytes:
    """Return the HARD_STATE row."""
    return encode((hard_state.term, hard_state.voted_for))


def decode_hard_state(row: bytes) -> HardState:
    """Return the hard state from its row.

    Raises:
        StorageError: ``node.storage.damaged``.
    """
    term, voted_for = _values(row, "HARD_STATE", 2)
    with _Damaged("HARD_STATE"):
        return HardState(as_int(term, "term"), as_optional(voted_for, "voted_for", _as_key_id))


def read_first_height(reader: SupportsGet) -> int:
    """Return the height of the lowest block that is kept; 1 unless history was pruned or began with a snapshot.

    Raises:
        StorageError: ``node.storage.checksum``, ``node.storage.damaged``.
    """
    row = reader.get(Table.META, HISTORY_KEY)
    return 1 if row is None else read_height(row)


def as_rows(writes: WriteSet) -> dict[tuple[int, bytes], bytes | None]:
    """Return the same dictionary: a `Table` is an int, which the invariant type of a dictionary's keys cannot say."""
    return cast("dict[tuple[int, bytes], bytes | None]", writes)


def _values(row: bytes, name: str, length: int) -> tuple[Value, ...]:
    try:
        value = decode_untrusted(row, bytes_max=_ROW_BYTES_MAX)
        as_tuple(value, name, length=length)
    except MalformedError as error:
        raise _damaged(name, str(error)) from error
    assert isinstance(value, tuple)
    return value


def _as_key_id(value: object, name: str) -> KeyId:
    return KeyId(as_bytes(value, name, length=DIGEST_BYTES))


def _damaged(row: str, reason: str) -> StorageError:
    return StorageError(
        "node.storage.damaged",
        f"a {row} row is not what this node wrote: {reason}",
        hint="restore the data directory from a backup, or remove it and let the node join again",
    )


def _missing(table: int, key: bytes) -> StorageError:
    return row_error("node.storage.missing_row", table, key, "is missing; the log has a hole there")
