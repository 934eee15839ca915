"""A chain to read from its beginning: a live node, the store of a stopped one, or an archive file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, TypeAlias

from ledger.keyspace import Table, height_key
from node.cli.errors import CommandError, FileError
from node.local.protocol import decode_blob_untrusted
from wire.codec import decode_untrusted
from wire.errors import MalformedError, PatchwardenError
from wire.limits import BLOCK_BYTES_MAX, CERTIFICATE_BYTES_MAX, MEBIBYTE

if TYPE_CHECKING:
    from ledger.archive import ArchiveItem
    from ledger.genesis import Genesis
    from node.cli.client import NodeClient
    from node.cli.command import Session
    from node.storage.leveldb import Store

PAGE: Final = 64
"""Blocks asked for at once."""
READ_BYTES: Final = 1 << 20
GENESIS_BYTES: Final = MEBIBYTE
END_BYTES_MAX: Final = 64
"""The closing record of an archive."""


@dataclass(frozen=True, slots=True)
class RawBlock:
    """One encoded block and what proves it."""

    height: int
    block: bytes
    certificate: bytes | None
    """None where a later block's certificate covers it."""
    damage: PatchwardenError | None = None
    """Why the certificate is missing although there was one."""


@dataclass(frozen=True, slots=True)
class DamagedBlock:
    """A block that is there and cannot be read."""

    height: int
    error: PatchwardenError
    """Why."""


ReadBlock: TypeAlias = RawBlock | DamagedBlock


@dataclass(slots=True)
class ChainSource:
    """A chain, about to be read."""

    kind: str
    """``node``, ``home`` or ``archive``."""
    name: str
    """Where it comes from, for people."""
    genesis: bytes
    """The founding document as the source has it."""
    height: int
    """How many blocks there are, for people; 0 when the source does not say."""
    read: Callable[[int], Iterator[ReadBlock]]
    """Gives the blocks from a height on, in order, to the last one that a certificate covers; call it once."""
    store: Store | None = None
    """The store that a home has, to be looked at further."""

    @property
    def blocks(self) -> Iterator[RawBlock]:
        """The blocks from height 1 on; raises at the first that cannot be read."""
        for each in self.read(1):
            if isinstance(each, DamagedBlock):
                raise each.error
            if each.damage is not None:
                raise each.damage
            yield each


@contextmanager
def open_chain(session: Session, archive: Path | None) -> Iterator[ChainSource]:
    """Give the chain that the command line names: `--archive`, `--rpc`, or the home of a node, running or stopped.

    Raises:
        RejectedError: There is none, or the archive is damaged where it begins.
        UnavailableError: The node does not answer.
    """
    if archive is not None:
        with open_archive(archive) as source:
            yield source
    elif session.rpc is not None or is_running(session):
        yield from_node(session.client(), session.rpc or str(session.node_home()))
    else:
        from node.cli.store import open_stopped

        with open_stopped(session.node_home()) as (genesis, store):
            yield _from_store(str(session.node_home()), genesis, store)


def from_node(client: NodeClient, name: str) -> ChainSource:
    """Return the chain of a live node up to the last block for which it has a certificate now."""
    height = int(client.call("status")["height"])
    genesis = decode_blob_untrusted(client.call("genesis.get")["genesis"], "genesis", bytes_max=GENESIS_BYTES)
    return ChainSource("node", name, genesis, height, lambda start: _certified(_pages(client, start, height)))


def _pages(client: NodeClient, start: int, stop: int) -> Iterator[ReadBlock]:
    height = start
    while height <= stop:
        page = client.call("blocks.raw", **{"from": height, "limit": min(PAGE, stop - height + 1)})
        if not page:
            raise CommandError("cli.chain.hole", f"the node has no block {height}", hint="ask another node")
        for each in page:
            block = decode_blob_untrusted(each["block"], "block", bytes_max=BLOCK_BYTES_MAX)
            certificate = None
            if each["certificate"] is not None:
                certificate = decode_blob_untrusted(each["certificate"], "certificate", bytes_max=CERTIFICATE_BYTES_MAX)
            if each["height"] != height:
                raise CommandError(
                    "cli.chain.order", "the node sent another block", expected=height, actual=each["height"]
                )
            yield RawBlock(height, block, certificate)
            height += 1


def _certified(blocks: Iterator[ReadBlock]) -> Iterator[ReadBlock]:
    """Yield blocks as soon as a certificate covers them, or damage hides whether one does; those at the end that wait are left out."""
    waiting: list[ReadBlock] = []
    for block in blocks:
        waiting.append(block)
        if isinstance(block, DamagedBlock) or block.damage is not None or block.certificate is not None:
            yield from waiting
            waiting.clear()


def is_running(session: Session) -> bool:
    """Return whether the node of the session's home runs: then it is asked, and its store is not opened."""
    from node.config import Home

    return Home(session.node_home()).socket.exists()


def _from_store(name: str, genesis: Genesis, store: Store) -> ChainSource:
    from ledger.state import StateView
    from node.storage.block_store import BlockStore

    view = StateView(BlockStore(store))
    view.check_kept(1)
    height = view.height
    return ChainSource(
        "home", name, genesis.document, height, lambda start: _certified(_stored(store, start, height)), store
    )


def _stored(store: Store, start: int, stop: int) -> Iterator[ReadBlock]:
    """Yield the committed blocks of a stopped node's store; a damaged row does not hide those behind it."""
    from node.errors import StorageError
    from node.storage.checks import row_error

    for height in range(start, stop + 1):
        key = height_key(height)
        try:
            block = store.get(Table.BLOCK, key)
        except StorageError as error:
            yield DamagedBlock(height, error)
            continue
        if block is None:
            yield DamagedBlock(height, row_error("node.storage.missing_row", Table.BLOCK, key, "is missing"))
            continue
        try:
            yield RawBlock(height, block, store.get(Table.CERTIFICATE, key))
        except StorageError as error:
            yield RawBlock(height, block, None, error)


@contextmanager
def open_archive(path: Path) -> Iterator[ChainSource]:
    """Give the chain in an archive; its founding document is read already.

    Raises:
        FileError: ``cli.file.unreadable``, ``cli.archive.empty``.
        ArchiveRefusedError: ``ledger.archive.*``: what begins there is not an archive.
    """
    from ledger.archive import ArchivedGenesis

    with _opened(path) as stream:
        items = _archive_items(stream, path)
        first = next(items, None)
        if not isinstance(first, ArchivedGenesis):
            raise FileError("cli.archive.empty", f"{path} is not a chain's archive")
        height = _announced_height(path)
        yield ChainSource("archive", str(path), first.document, height, lambda start: _archive_blocks(items, start))


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        stream = path.open("rb", buffering=READ_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from error
    with stream:
        yield stream


def _archive_items(stream: BinaryIO, path: Path) -> Iterator[ArchiveItem]:
    """Yield the items of an archive, each before the next one is looked at: what is wrong there hides nothing."""
    from ledger.archive import MAGIC, ArchiveDecoder
    from wire.framing import LENGTH_BYTES
    from wire.limits import FRAME_BYTES_MAX

    decoder = ArchiveDecoder(is_tolerant=True)
    try:
        piece = stream.read(len(MAGIC))
        while piece:
            yield from decoder.feed_untrusted(piece)
            head = stream.read(LENGTH_BYTES)
            piece = head + stream.read(min(int.from_bytes(head, "big"), FRAME_BYTES_MAX))
    except OSError as error:
        raise _unreadable(path, error) from error
    decoder.finish()


def _archive_blocks(items: Iterator[ArchiveItem], start: int) -> Iterator[ReadBlock]:
    from ledger.archive import ArchivedBlock, ArchivedDamage

    height = 0
    for item in items:
        if isinstance(item, ArchivedBlock | ArchivedDamage):
            height += 1
            if height < start:
                continue
            if isinstance(item, ArchivedBlock):
                yield RawBlock(height, item.block, item.certificate)
            else:
                yield DamagedBlock(height, item.error)


def _announced_height(path: Path) -> int:
    """Return how many blocks an archive's closing record names, for a progress bar; 0 when there is none to be seen."""
    from ledger.sealed_stream import END
    from wire.codec import encode

    try:
        with path.open("rb") as stream:
            stream.seek(-min(END_BYTES_MAX, path.stat().st_size), 2)
            tail = stream.read()
    except OSError as error:
        raise _unreadable(path, error) from error
    mark = encode((END, 0, b""))[: 2 + len(END)]
    found = tail.rfind(mark)
    if found < 0:
        return 0
    try:
        values = decode_untrusted(tail[found:], bytes_max=END_BYTES_MAX)
    except MalformedError:
        return 0
    blocks = values[1] if isinstance(values, tuple) and len(values) == 3 else 0
    return blocks if type(blocks) is int else 0


def _unreadable(path: Path, error: OSError) -> FileError:
    return FileError("cli.file.unreadable", f"{path} cannot be read: {error.strerror}")
