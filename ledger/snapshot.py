"""A network's state at one certified height, in chunks: for a node that begins there instead of at genesis, believing nobody.

A snapshot is a *manifest* and its *chunks*. The manifest carries the header whose state root the state must have, that header's
certificate, and the proof of the validators who signed it. The chunks carry rows, in order of table and key::

    manifest   (1, chain id, genesis hash, header, certificate, configuration proof, frontier, rows, bytes, (SHA-256 of each chunk, …))
    chunk      (1, index, ((table, key, value), …))
    rows       all of STATE, then those of EXECUTED whose transactions a next block could repeat (`ledger.executed`)

Two nodes at the same height make the same bytes, so chunks can come from any of them. Everything else that a node needs follows: the state
tree is built anew and its root compared, the chain of executed transactions must end where the state says, the frontier must have the log
root of the header.

Source: docs/spec/ledger.md 15.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from ledger.block import HEADER_BYTES_MAX, Header
from ledger.certificate import verify_block_certificate
from ledger.configuration_history import (
    ConfigurationProof,
    build_configuration_proof,
    verify_configuration_proof,
)
from ledger.errors import NotYetAvailableError, SnapshotRefusedError
from ledger.executed import window_start
from ledger.genesis import Genesis
from ledger.keyspace import RangeReader, Table, height_key
from ledger.limits import (
    SNAPSHOT_CHUNK_BYTES,
    SNAPSHOT_CHUNK_ROWS_MAX,
    SNAPSHOT_CHUNKS_MAX,
    SNAPSHOT_MANIFEST_BYTES_MAX,
)
from ledger.state import StateView
from wire.certificate import CommitCertificate, decode_commit_certificate_untrusted, encode_commit_certificate
from wire.codec import decode_untrusted, encode
from wire.errors import RejectedError
from wire.fields import as_bytes, as_digest, as_identifier, as_int, as_tuple
from wire.hashing import DOMAIN_SNAPSHOT, Digest, hash_domain, sha256
from wire.limits import CERTIFICATE_BYTES_MAX
from wire.merkle import FRONTIER_BYTES_MAX, Frontier, decode_frontier_untrusted

SNAPSHOT_VERSION: Final = 1

_FIELDS: Final = 10
_ROW_FRAME_BYTES: Final = 16
"""More than a row takes besides its key and value: a header for each, and the table."""
_KEYS_END: Final = b"\xff"
"""After every key of STATE: their kinds are letters."""

Row: TypeAlias = tuple[int, bytes, bytes]
"""Table, key and value."""


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """What a snapshot is of, and which chunks make it."""

    chain_id: str
    """The network."""
    genesis_hash: Digest
    """Hash of the founding document, 32 bytes."""
    header: Header
    """The block after which this is the state."""
    certificate: CommitCertificate
    """That block's commit certificate."""
    configuration: ConfigurationProof
    """What leads from the founding validators to those that the header names."""
    frontier: Frontier
    """The log after that block."""
    rows: int
    """Rows in all chunks."""
    bytes_total: int
    """Bytes of all chunks."""
    chunk_digests: tuple[Digest, ...]
    """SHA-256 of each chunk, in order, 32 bytes each."""

    @property
    def height(self) -> int:
        """The height at which this is the state."""
        return self.header.height

    @property
    def snapshot_id(self) -> Digest:
        """Names the snapshot: 32 bytes that cover the whole manifest and through it every chunk."""
        return hash_domain(DOMAIN_SNAPSHOT, self.encode())

    def encode(self) -> bytes:
        """Return the canonical encoding, at most `SNAPSHOT_MANIFEST_BYTES_MAX` bytes."""
        return encode(
            (
                SNAPSHOT_VERSION,
                self.chain_id,
                self.genesis_hash,
                self.header.encode(),
                encode_commit_certificate(self.certificate),
                self.configuration.to_value(),
                self.frontier.encode(),
                self.rows,
                self.bytes_total,
                self.chunk_digests,
            )
        )


def decode_manifest_untrusted(raw: bytes) -> SnapshotManifest:
    """Return the manifest whose one encoding is `raw`. Nothing is verified.

    Raises:
        SnapshotRefusedError: ``ledger.snapshot.malformed`` (details name the rule of `wire` that was broken).
    """
    try:
        values = as_tuple(decode_untrusted(raw, bytes_max=SNAPSHOT_MANIFEST_BYTES_MAX), "manifest", length=_FIELDS)
        as_int(values[0], "version", SNAPSHOT_VERSION, SNAPSHOT_VERSION)
        header = as_bytes(values[3], "header", bytes_max=HEADER_BYTES_MAX)
        certificate = as_bytes(values[4], "certificate", bytes_max=CERTIFICATE_BYTES_MAX)
        return SnapshotManifest(
            as_identifier(values[1], "chain_id"),
            as_digest(values[2], "genesis_hash"),
            Header.from_value_untrusted(decode_untrusted(header, bytes_max=HEADER_BYTES_MAX)),
            decode_commit_certificate_untrusted(certificate),
            ConfigurationProof.from_value_untrusted(values[5]),
            decode_frontier_untrusted(as_bytes(values[6], "frontier", bytes_max=FRONTIER_BYTES_MAX)),
            as_int(values[7], "rows"),
            as_int(values[8], "bytes"),
            tuple(
                as_digest(each, "chunk digest")
                for each in as_tuple(values[9], "chunk digests", length_max=SNAPSHOT_CHUNKS_MAX)
            ),
        )
    except RejectedError as error:
        raise malformed("manifest", error) from error


def verify_manifest(manifest: SnapshotManifest, genesis: Genesis) -> None:
    """Return only when the validators of the network that `genesis` founded stand behind the manifest's header.

    The caller still has to see that the chunks lead to the header's state root: `ledger.snapshot_install.SnapshotInstaller`.

    Raises:
        SnapshotRefusedError: ``ledger.snapshot.wrong_chain``, ``ledger.snapshot.log`` (the frontier is not that of the header).
        ProofRefusedError: ``ledger.proof.*``.
        InvalidCertificateError: ``wire.certificate.*``.
    """
    header = manifest.header
    for ours, theirs in (
        (genesis.chain_id, manifest.chain_id),
        (genesis.chain_id, header.chain_id),
        (genesis.genesis_hash, manifest.genesis_hash),
    ):
        if ours != theirs:
            raise refuse_snapshot("wrong_chain", "the snapshot is of another network", ours, theirs)
    configuration = verify_configuration_proof(manifest.configuration, genesis.chain_id, genesis.validators)
    verify_block_certificate(manifest.certificate, header, configuration)
    log = (manifest.frontier.size, manifest.frontier.root())
    if log != (header.log_size, header.log_root):
        raise refuse_snapshot(
            "log",
            "the frontier is not that of the header's log",
            f"size {header.log_size}, root {header.log_root.hex()}",
            f"size {log[0]}, root {log[1].hex()}",
        )


class SnapshotBuilder:
    """Makes the snapshot of a certified tip: first all `chunks`, one after the other, then `manifest`.

    It holds one chunk at a time, and a digest of each.

    Args:
        reader: One consistent state of the tables, which must not change meanwhile.

    Raises:
        NotYetAvailableError: ``ledger.snapshot.not_certified``: the tip has no certificate of its own.
    """

    __slots__ = ("_bytes", "_certificate", "_digests", "_is_complete", "_reader", "_rows", "_view")

    def __init__(self, reader: RangeReader) -> None:
        self._reader = reader
        self._view = StateView(reader)
        certificate = self._view.certificate(self._view.height)
        if certificate is None:
            raise NotYetAvailableError(
                "ledger.snapshot.not_certified",
                f"block {self._view.height} has no certificate of its own",
                hint="try again after the next block",
            )
        self._certificate = decode_commit_certificate_untrusted(certificate)
        self._digests: list[Digest] = []
        self._rows = 0
        self._bytes = 0
        self._is_complete = False

    @property
    def height(self) -> int:
        """The height of which this is the snapshot."""
        return self._view.height

    def chunks(self) -> Iterator[bytes]:
        """Yield the chunks in order, each at most `SNAPSHOT_CHUNK_BYTES_MAX` bytes. Once only."""
        assert not self._digests, "a builder makes its chunks once"
        rows: list[Row] = []
        size = 0
        for row in self._all_rows():
            row_bytes = len(row[1]) + len(row[2]) + _ROW_FRAME_BYTES
            if rows and (size + row_bytes > SNAPSHOT_CHUNK_BYTES or len(rows) == SNAPSHOT_CHUNK_ROWS_MAX):
                yield self._chunk(rows)
                rows, size = [], 0
            rows.append(row)
            size += row_bytes
        yield self._chunk(rows)
        self._is_complete = True

    def manifest(self) -> SnapshotManifest:
        """Return the manifest of the chunks that were made."""
        assert self._is_complete, "the manifest comes after the last chunk"
        tip = self._view.tip
        network = self._view.network
        return SnapshotManifest(
            network.chain_id,
            Digest(network.genesis_hash),
            tip.header,
            self._certificate,
            build_configuration_proof(self._reader, tip.header.height),
            tip.frontier,
            self._rows,
            self._bytes,
            tuple(self._digests),
        )

    def _all_rows(self) -> Iterator[Row]:
        for key, value in self._reader.iterate(Table.STATE, b"", _KEYS_END):
            yield int(Table.STATE), key, value
        start, stop = height_key(window_start(self.height)), height_key(self.height + 1)
        for key, value in self._reader.iterate(Table.EXECUTED, start, stop):
            yield int(Table.EXECUTED), key, value

    def _chunk(self, rows: list[Row]) -> bytes:
        chunk = encode((SNAPSHOT_VERSION, len(self._digests), tuple(rows)))
        self._digests.append(sha256(chunk))
        self._rows += len(rows)
        self._bytes += len(chunk)
        return chunk


def malformed(what: str, error: RejectedError) -> SnapshotRefusedError:
    """Return the refusal of bytes that are no `what`."""
    return SnapshotRefusedError(
        "ledger.snapshot.malformed",
        f"the {what} of the snapshot does not have its form: {error.message}",
        details={"cause": error.code},
    )


def refuse_snapshot(rule: str, sentence: str, expected: object = None, actual: object = None) -> SnapshotRefusedError:
    """Return the refusal ``ledger.snapshot.<rule>``."""
    return SnapshotRefusedError(f"ledger.snapshot.{rule}", sentence, expected=expected, actual=actual)
