"""Beginning from a snapshot: chunks in, rows to write out, and nothing that counts before everything holds.

Feed the chunks in order into an empty store and write what each call returns; what `finish` returns makes the store a ledger. Until then
it has no tip, so a store that was left half filled is no ledger and is thrown away::

    installer = SnapshotInstaller(manifest, genesis, store)
    for index in range(len(manifest.chunk_digests)):
        store.write(installer.feed_untrusted(fetch(index)))
    store.write(installer.finish())

What is missing afterwards is history: blocks, headers, certificates and lists of what happened up to the snapshot
(`StateView.history_start`).

Source: docs/spec/ledger.md 15.
"""

from __future__ import annotations

from typing import Final

from ledger.block import ZERO_DIGEST
from ledger.configuration_history import ConfigurationRow
from ledger.executed import FIRST, decode_executed_link_untrusted, window_start
from ledger.genesis import Genesis, genesis_block
from ledger.keyspace import (
    GENESIS_KEY,
    HISTORY_KEY,
    IDENTITY,
    TIP_KEY,
    TRANSACTION_CHAIN_KEY,
    Reader,
    Table,
    WriteSet,
    height_key,
    read_height,
)
from ledger.limits import SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_CHUNK_ROWS_MAX
from ledger.log_rows import frontier_rows
from ledger.record import RECORD_BYTES_MAX
from ledger.records import TransactionChain
from ledger.recovery import Recovery
from ledger.snapshot import SNAPSHOT_VERSION, Row, SnapshotManifest, malformed, refuse_snapshot, verify_manifest
from ledger.state import Tip
from ledger.state_tree import read_root, update
from wire.certificate import encode_commit_certificate
from wire.codec import decode_untrusted
from wire.errors import RejectedError
from wire.fields import as_bytes, as_int, as_tuple
from wire.hashing import sha256

_HEIGHT_BYTES: Final = 8
_KEY_BYTES_MAX: Final = 1024


class SnapshotInstaller:
    """Takes the chunks of one snapshot, in order.

    Args:
        manifest: From anybody.
        genesis: The founding document that the caller trusts.
        reader: The empty store that is being filled; it must show what the calls so far returned.

    Raises:
        RejectedError: The codes of `verify_manifest`.
    """

    def __init__(self, manifest: SnapshotManifest, genesis: Genesis, reader: Reader) -> None:
        verify_manifest(manifest, genesis)
        assert read_root(reader) == ZERO_DIGEST, "a snapshot is installed into an empty store"
        self._manifest = manifest
        self._genesis = genesis
        self._reader = reader
        self._next = 0
        self._rows = 0
        self._bytes = 0
        self._last: tuple[int, bytes] = (0, b"")
        self._chain: TransactionChain | None = None

    @property
    def next_index(self) -> int:
        """The chunk that must come next, from 0; the number of chunks when all have come."""
        return self._next

    def feed_untrusted(self, chunk: bytes) -> WriteSet:
        """Return the rows that the next chunk holds and leads to. Write them before the next call.

        Raises:
            SnapshotRefusedError: ``ledger.snapshot.too_large``, ``ledger.snapshot.wrong_chunk`` (all have come), ``.chunk_digest``,
                ``.malformed``, ``.table``, ``.order``, ``.executed``: the installer is as before the call. Only ``chunk_digest`` and
                ``too_large`` are mended by the same chunk from elsewhere; anything else condemns the snapshot.
        """
        if len(chunk) > SNAPSHOT_CHUNK_BYTES_MAX:
            raise refuse_snapshot(
                "too_large", "the chunk is too long", f"at most {SNAPSHOT_CHUNK_BYTES_MAX} bytes", len(chunk)
            )
        digests = self._manifest.chunk_digests
        if self._next == len(digests):
            raise refuse_snapshot("wrong_chunk", "the snapshot has no more chunks", f"{len(digests)} chunks", None)
        if sha256(chunk) != digests[self._next]:
            raise refuse_snapshot(
                "chunk_digest",
                f"chunk {self._next} is not the one that the manifest names",
                digests[self._next],
                sha256(chunk),
            )
        rows = self._decode(chunk)
        last, chain = self._last, self._chain
        state: dict[bytes, bytes | None] = {}
        writes: WriteSet = {}
        for number, key, value in rows:
            if (number, key) <= last:
                raise refuse_snapshot("order", "rows must ascend by table and key", None, key)
            last = (number, key)
            if number == Table.STATE:
                state[key] = value
                writes[Table.STATE, key] = value
                if key[:1] == IDENTITY:
                    # From here on; what the identity was before is history.
                    writes[Table.IDENTITY_VERSION, b"%b\x00%b" % (key[1:], height_key(self._manifest.height))] = value
            else:
                chain = self._follow(chain, key, value, writes)
        _, nodes = update(self._reader, state)
        writes.update(nodes)
        self._next += 1
        self._rows += len(rows)
        self._bytes += len(chunk)
        self._last, self._chain = last, chain
        return writes

    def finish(self) -> WriteSet:
        """Return the rows that make the store a ledger at the snapshot's height, everything having been proven.

        Raises:
            SnapshotRefusedError: ``ledger.snapshot.incomplete``, ``ledger.snapshot.totals``, ``ledger.snapshot.state_root``,
                ``ledger.snapshot.executed``.
        """
        manifest = self._manifest
        if self._next != len(manifest.chunk_digests):
            raise refuse_snapshot("incomplete", "chunks are missing", len(manifest.chunk_digests), self._next)
        if (self._rows, self._bytes) != (manifest.rows, manifest.bytes_total):
            raise refuse_snapshot(
                "totals",
                "the manifest announces other totals",
                f"{manifest.rows} rows, {manifest.bytes_total} bytes",
                f"{self._rows} rows, {self._bytes} bytes",
            )
        state_root = read_root(self._reader)
        if state_root != manifest.header.state_root:
            raise refuse_snapshot(
                "state_root",
                "the state is not the one that the validators signed",
                manifest.header.state_root,
                state_root,
            )
        self._check_chain_end()
        return self._final_rows()

    def _decode(self, chunk: bytes) -> list[Row]:
        try:
            values = as_tuple(decode_untrusted(chunk, bytes_max=SNAPSHOT_CHUNK_BYTES_MAX), "chunk", length=3)
            as_int(values[0], "version", SNAPSHOT_VERSION, SNAPSHOT_VERSION)
            as_int(values[1], "index", self._next, self._next)
            rows = []
            for item in as_tuple(values[2], "rows", length_max=SNAPSHOT_CHUNK_ROWS_MAX):
                table, key, value = as_tuple(item, "row", length=3)
                rows.append(
                    (
                        as_int(table, "table"),
                        as_bytes(key, "key", bytes_max=_KEY_BYTES_MAX),
                        as_bytes(value, "value", bytes_max=RECORD_BYTES_MAX),
                    )
                )
        except RejectedError as error:
            raise malformed("chunk", error) from error
        for table, _, _ in rows:
            if table not in (Table.STATE, Table.EXECUTED):
                raise refuse_snapshot("table", "a snapshot holds no rows of this table", "STATE or EXECUTED", table)
        return rows

    def _follow(self, chain: TransactionChain | None, key: bytes, value: bytes, writes: WriteSet) -> TransactionChain:
        """Return the chain of executed transactions after one more block, and add its rows to `writes`."""
        start, stop = window_start(self._manifest.height), self._manifest.height + 1
        if len(key) != _HEIGHT_BYTES or not start <= read_height(key) < stop:
            raise refuse_snapshot("executed", "executed transactions of another height", f"{start} to {stop - 1}", key)
        try:
            link = decode_executed_link_untrusted(read_height(key), value)
        except RejectedError as error:
            raise malformed("chunk", error) from error
        if chain is None:
            if link.before.height >= start:
                raise refuse_snapshot(
                    "executed", "the first executed transactions are missing", f"below {start}", link.before.height
                )
        elif link.before != chain:
            raise refuse_snapshot(
                "executed",
                f"the transactions of block {link.height} do not follow those before",
                f"height {chain.height}, {chain.digest.hex()}",
                f"height {link.before.height}, {link.before.digest.hex()}",
            )
        writes[Table.EXECUTED, key] = value
        writes.update(link.index_rows())
        return link.chain

    def _check_chain_end(self) -> None:
        """Return only when the executed transactions that came are all that a next block could repeat, by the state's own word."""
        raw = self._reader.get(Table.STATE, TRANSACTION_CHAIN_KEY)
        expected = FIRST if raw is None else TransactionChain.decode(raw)
        if self._chain is None:
            if expected.height >= window_start(self._manifest.height):
                raise refuse_snapshot("executed", "executed transactions are missing", f"up to {expected.height}", None)
        elif self._chain != expected:
            raise refuse_snapshot(
                "executed",
                "the executed transactions are not those of the state",
                f"height {expected.height}, {expected.digest.hex()}",
                f"height {self._chain.height}, {self._chain.digest.hex()}",
            )

    def _final_rows(self) -> WriteSet:
        manifest = self._manifest
        header, height = manifest.header, manifest.height
        block_hash = header.hash()
        founding, _ = genesis_block(self._genesis)
        writes: WriteSet = {
            (Table.META, GENESIS_KEY): self._genesis.document,
            (Table.META, HISTORY_KEY): height_key(height + 1),
            (Table.CERTIFICATE, height_key(height)): encode_commit_certificate(manifest.certificate),
        }
        for each, its_hash in ((founding.header, founding.block_hash), (header, block_hash)):
            writes[Table.HEADER, height_key(each.height)] = each.encode()
            writes[Table.BLOCK_HASH, its_hash] = height_key(each.height)
        writes[Table.BLOCK, height_key(0)] = founding.raw
        before: int | None = None
        for change in manifest.configuration.changes:
            configuration = change.statement.configuration if isinstance(change, Recovery) else change.configuration
            writes.update(ConfigurationRow(before, configuration, change).writes(change.since))
            before = change.since
        writes.update(ConfigurationRow(before, manifest.configuration.configuration, None).writes(height))
        writes.update(frontier_rows(manifest.frontier))
        writes[Table.META, TIP_KEY] = Tip(header, block_hash, manifest.frontier).encode()
        return writes
