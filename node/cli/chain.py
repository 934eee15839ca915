"""A chain to read from its beginning: a live node, the store of a stopped one, or an archive file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from node.cli.errors import CommandError, FileError
from node.local.protocol import decode_blob_untrusted
from wire.limits import BLOCK_BYTES_MAX, CERTIFICATE_BYTES_MAX, MEBIBYTE

if TYPE_CHECKING:
    from ledger.archive import ArchiveItem
    from node.cli.client import NodeClient
    from node.cli.command import Session

PAGE: Final = 64
"""Blocks asked for at once."""
READ_BYTES: Final = 1 << 20
GENESIS_BYTES: Final = MEBIBYTE


@dataclass(frozen=True, slots=True)
class RawBlock:
    """One encoded block and what proves it."""

    height: int
    block: bytes
    certificate: bytes | None
    """None where a later block's certificate covers it."""


@dataclass(slots=True)
class ChainSource:
    """A chain, about to be read."""

    name: str
    """Where it comes from, for people."""
    genesis: bytes
    """The founding document as the source has it."""
    blocks: Iterator[RawBlock]
    """From height 1 on, in order, to the last one that a certificate covers; read once."""
    height: int
    """How many there are; 0 when the source does not say."""


@contextmanager
def open_chain(session: Session, archive: Path | None) -> Iterator[ChainSource]:
    """Give the chain that the command line names: `--archive`, `--rpc`, or the home of a node, running or stopped.

    Raises:
        RejectedError: There is none, or the archive is damaged.
        UnavailableError: The node does not answer.
    """
    if archive is not None:
        yield _from_archive(archive)
    elif session.rpc is not None or _is_running(session):
        yield from_node(session.client(), session.rpc or str(session.node_home()))
    else:
        from node.cli.store import open_stopped, read_blocks

        with open_stopped(session.node_home()) as (genesis, store):
            blocks = (RawBlock(height, *row) for height, row in enumerate(read_blocks(store), start=1))
            from ledger.state import StateView
            from node.storage.block_store import BlockStore

            height = StateView(BlockStore(store)).height
            yield ChainSource(str(session.node_home()), genesis.document, blocks, height)


def from_node(client: NodeClient, name: str, start: int = 1) -> ChainSource:
    """Return the chain of a live node up to the last block for which it has a certificate now."""
    height = int(client.call("status")["height"])
    genesis = decode_blob_untrusted(client.call("genesis.get")["genesis"], "genesis", bytes_max=GENESIS_BYTES)
    return ChainSource(name, genesis, _certified(_pages(client, start, height)), height)


def _pages(client: NodeClient, start: int, stop: int) -> Iterator[RawBlock]:
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


def _certified(blocks: Iterator[RawBlock]) -> Iterator[RawBlock]:
    """Yield blocks as soon as a certificate covers them; those at the end that wait for theirs are left out."""
    waiting: list[RawBlock] = []
    for block in blocks:
        waiting.append(block)
        if block.certificate is not None:
            yield from waiting
            waiting.clear()


def _is_running(session: Session) -> bool:
    from node.config import Home

    return Home(session.node_home()).socket.exists()


def _from_archive(path: Path) -> ChainSource:
    from ledger.archive import ArchivedGenesis

    items = _archive_items(path)
    first = next(items, None)
    if not isinstance(first, ArchivedGenesis):
        raise FileError("cli.archive.empty", f"{path} is not a chain's archive")
    return ChainSource(str(path), first.document, _archive_blocks(items), 0)


def _archive_items(path: Path) -> Iterator[ArchiveItem]:
    from ledger.archive import ArchiveDecoder

    decoder = ArchiveDecoder()
    try:
        with path.open("rb") as stream:
            while piece := stream.read(READ_BYTES):
                yield from decoder.feed_untrusted(piece)
    except OSError as error:
        raise FileError("cli.file.unreadable", f"{path} cannot be read: {error.strerror}") from error
    decoder.finish()


def _archive_blocks(items: Iterator[ArchiveItem]) -> Iterator[RawBlock]:
    from ledger.archive import ArchivedBlock

    height = 0
    for item in items:
        if isinstance(item, ArchivedBlock):
            height += 1
            yield RawBlock(height, item.block, item.certificate)
