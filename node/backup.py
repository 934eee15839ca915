"""Making a backup of one node: everything at one certified height, while the node goes on.

LevelDB gives a view of all rows at one moment; the backup is written from it step by step, a few megabytes at a time, with a pause after
each step so that consensus has the interpreter. Memory stays bounded whatever the chain's length. The same code makes a backup of a node
that is stopped.

Keys are left out. Where the caller asks for the node's key, it comes encrypted: this module never sees a passphrase.

Source: docs/spec/storage.md 9.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from ledger.archive import ArchiveEncoder
from ledger.checkpoint import build_checkpoint
from ledger.keyspace import Table, height_key
from ledger.snapshot import SnapshotBuilder
from ledger.state import StateView
from node.config import Home, NodeConfig
from node.errors import BackupUnavailableError
from node.params import ParameterError, as_optional_text
from node.storage.backup_files import (
    ARCHIVE,
    CHECKPOINT,
    CONFIG,
    DESCRIPTION,
    GENESIS,
    NODE_KEY,
    PATCHES,
    PIECE_BYTES,
    SNAPSHOT,
    SNAPSHOT_MANIFEST,
    BackupDescription,
    BackupWriter,
    refuse,
)
from node.storage.block_store import read_first_height
from node.storage.checks import row_error
from node.storage.database import Snapshot
from node.storage.snapshot_files import chunk_name
from wire.hashing import sha256
from wire.limits import PATCH_FILE_BYTES_MAX, PEM_BYTES_MAX

if TYPE_CHECKING:
    from node.app import Node
    from node.local.protocol import Json

STEP_PAUSE_S: Final = 0.01
"""The pause after each step in a running node: a backup must not take the interpreter or the disk from consensus."""
CERTIFIED_TIMEOUT_S: Final = 30.0
"""How long a backup waits for a tip that has a certificate of its own."""
CERTIFIED_POLL_S: Final = 0.1
ENCRYPTED_PEM: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
"""Begins every key that may stand in a backup."""

_log = structlog.get_logger("node.backup")


class BackupMaker:
    """Writes the backup of one node from one view of its rows.

    Args:
        reader: The rows at one moment; its tip is certified. The caller closes it.
        home: The node's home.
        writer: Where it goes.
        key_pem: The node's key, encrypted, or None to leave it out.
        config: The node's settings.
        software: The release that writes it.
    """

    def __init__(
        self,
        reader: Snapshot,
        home: Home,
        writer: BackupWriter,
        *,
        config: NodeConfig,
        software: str,
        key_pem: bytes | None = None,
    ) -> None:
        self._reader = reader
        self._home = home
        self._writer = writer
        self._config = config
        self._software = software
        self._key_pem = key_pem
        self._view = StateView(reader)
        self._tip = self._view.tip
        self.height = self._tip.header.height
        """The height at which it stands."""
        self.patches_damaged: list[str] = []
        """Names of patch files that are not what their name says; they are left out."""

    def steps(self) -> Iterator[int]:
        """Write the backup, yielding after a few megabytes each how many bytes are written; it appears with the last step.

        Raises:
            BackupRefusedError: ``node.backup.*``.
            BackupUnavailableError: ``node.backup.*``.
            StorageError: A row is damaged or missing: no backup is made of a damaged store.
        """
        writer, view = self._writer, self._view
        writer.put(GENESIS, view.genesis_document)
        writer.put(CONFIG, self._home.config.read_bytes())
        writer.put(CHECKPOINT, build_checkpoint(self._reader).to_text())
        if self._key_pem is not None:
            writer.put(NODE_KEY, self._key_pem)
        is_full = read_first_height(self._reader) == 1
        if is_full:
            yield from self._write_archive()
        yield from self._write_snapshot()
        yield from self._write_patches()
        header = self._tip.header
        description = BackupDescription(
            chain_id=view.chain_id,
            genesis_hash=view.genesis_hash.hex(),
            height=self.height,
            block_hash=self._tip.block_hash.hex(),
            state_root=header.state_root.hex(),
            time_ms=header.time_ms,
            history="full" if is_full else "snapshot",
            name=self._config.name,
            role=self._config.role,
            software=self._software,
            files=writer.files,
        )
        writer.put(DESCRIPTION, description.encode())
        writer.finish()
        yield writer.bytes_written

    def document(self) -> dict[str, Any]:
        """Return what was written, for whoever asked for it."""
        header = self._tip.header
        return {
            "path": str(self._writer.target),
            "height": self.height,
            "block_hash": self._tip.block_hash.hex(),
            "state_root": header.state_root.hex(),
            "time_ms": header.time_ms,
            "files": self._writer.files,
            "bytes": self._writer.bytes_written,
            "patches_damaged": self.patches_damaged,
            "with_key": self._key_pem is not None,
        }

    def _write_archive(self) -> Iterator[int]:
        encoder = ArchiveEncoder()
        height = 0
        with self._writer.open(ARCHIVE) as file:
            waiting = bytearray(encoder.begin(self._view.genesis_document))
            for key, block in self._reader.iterate(Table.BLOCK, height_key(1), height_key(self.height + 1)):
                height += 1
                if key != height_key(height):
                    break
                waiting += encoder.block(block, self._reader.get(Table.CERTIFICATE, key))
                if len(waiting) >= PIECE_BYTES:
                    file.write(bytes(waiting))
                    waiting.clear()
                    yield self._writer.bytes_written
            if height != self.height:
                raise row_error("node.storage.missing_row", Table.BLOCK, height_key(height + 1), "is missing")
            file.write(bytes(waiting) + encoder.end())

    def _write_snapshot(self) -> Iterator[int]:
        builder = SnapshotBuilder(self._reader)
        for number, chunk in enumerate(builder.chunks()):
            self._writer.put(f"{SNAPSHOT}/{chunk_name(number)}", chunk)
            yield self._writer.bytes_written
        self._writer.put(SNAPSHOT_MANIFEST, builder.manifest().encode())

    def _write_patches(self) -> Iterator[int]:
        """Copy every patch file that a patch at this height names and that is here, whole."""
        written: set[bytes] = set()
        for patch in self._view.patches():
            name = patch.file_digest.hex()
            if patch.file_digest in written:
                continue
            try:
                with (self._home.patches / name).open("rb") as stream:
                    data = stream.read(PATCH_FILE_BYTES_MAX + 1)
            except FileNotFoundError:
                continue  # Published, and never stored here: others have it, or nobody.
            written.add(patch.file_digest)
            if sha256(data) != patch.file_digest:
                self.patches_damaged.append(name)
                continue
            self._writer.put(f"{PATCHES}/{name}", data)
            yield self._writer.bytes_written


class BackupServices:
    """What a running node answers about backups of itself."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._is_busy = False

    def methods(self) -> dict[str, Any]:
        """Return the methods by their names on the socket."""
        return {"node.backup": self.backup}

    async def backup(self, params: Mapping[str, Json]) -> AsyncIterator[dict[str, Any]]:
        """Write a backup, yielding how far it is, and last what was written.

        Whoever stops listening ends it; nothing is left then.

        Raises:
            BackupRefusedError: ``node.backup.*``.
            BackupUnavailableError: ``node.backup.*``.
        """
        target = Path(as_optional_text(params, "path") or "")
        if not target.is_absolute():
            raise ParameterError("node.param.path", "path must be absolute", actual=str(target))
        pem = as_optional_text(params, "encrypted_key")
        if self._is_busy:
            raise BackupUnavailableError("node.backup.busy", "a backup is being written already")
        self._is_busy = True
        try:
            async with aclosing(self._run(target, None if pem is None else pem.encode())) as events:
                async for event in events:
                    yield event
        finally:
            self._is_busy = False

    async def _run(self, target: Path, key_pem: bytes | None) -> AsyncGenerator[dict[str, Any], None]:
        node, in_thread = self._node, self._node.replica.machine.in_thread
        check_key_pem(key_pem)
        reader = await self._certified_reader()
        try:
            writer = await in_thread(BackupWriter, target)
            steps: Iterator[int] = iter(())
            try:
                software = node.status_document()["version"]
                maker = BackupMaker(reader, node.home, writer, config=node.config, software=software, key_pem=key_pem)
                _log.info("backup begins", height=maker.height, path=str(target))
                steps = maker.steps()
                while (done := await in_thread(next, steps, None)) is not None:
                    yield {"height": maker.height, "bytes": done}
                    await node.replica.machine.sleep(STEP_PAUSE_S)
            finally:
                with trio.CancelScope(shield=True):
                    await in_thread(_end, steps, writer)
        finally:
            reader.close()
        _log.info("backup written", height=maker.height, bytes=writer.bytes_written, path=str(target))
        yield {"done": maker.document()}

    async def _certified_reader(self) -> Snapshot:
        """Return a view of the rows whose tip has a certificate of its own."""
        with trio.move_on_after(CERTIFIED_TIMEOUT_S):
            while True:
                reader = self._node.replica.store.snapshot()
                if is_certified(reader):
                    return reader
                reader.close()
                await self._node.replica.machine.sleep(CERTIFIED_POLL_S)
        raise not_certified()


def _end(steps: Iterator[int], writer: BackupWriter) -> None:
    if isinstance(steps, Generator):
        steps.close()  # It reads from the view that is closed next.
    writer.abandon()


def is_certified(reader: Snapshot) -> bool:
    """Return whether the tip has a certificate of its own."""
    view = StateView(reader)
    return view.certificate(view.height) is not None


def not_certified() -> BackupUnavailableError:
    """Return the refusal of a backup at a height that nothing proves."""
    return BackupUnavailableError(
        "node.backup.not_certified",
        "the newest block here has no certificate of its own, so nothing would prove the backup",
        hint="let the node commit a block, then try again",
    )


def check_key_pem(pem: bytes | None) -> None:
    """Return only when the key, if there is one, is encrypted.

    Raises:
        BackupRefusedError: ``node.backup.key``.
    """
    if pem is not None and (not pem.startswith(ENCRYPTED_PEM) or len(pem) > PEM_BYTES_MAX):
        raise refuse("key", "a key goes into a backup only encrypted with a passphrase")


def backup_stopped(
    reader: Snapshot, home: Home, config: NodeConfig, target: Path, *, software: str, key_pem: bytes | None = None
) -> Iterator[dict[str, Any]]:
    """Write the backup of a node that does not run, yielding how far it is, and last what was written.

    Raises:
        BackupRefusedError: ``node.backup.*``.
        BackupUnavailableError: ``node.backup.*``.
        StorageError: A row is damaged or missing.
    """
    check_key_pem(key_pem)
    if not is_certified(reader):
        raise not_certified()
    writer = BackupWriter(target)
    try:
        maker = BackupMaker(reader, home, writer, config=config, software=software, key_pem=key_pem)
        for done in maker.steps():
            yield {"height": maker.height, "bytes": done}
    finally:
        writer.abandon()
    yield {"done": maker.document()}
