"""Carrying by hand: `node export-bundle`, `agent import-bundle`, `agent outbox`, `agent export-outbox`.

What is carried is believed for what it proves and never for who brings it: the node on the other side verifies every block, certificate
and file as it does those of its peers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from node.cli.command import Command, Session
from node.cli.errors import CommandError, FileError
from node.cli.output import fields, short, table
from node.cli.params import DIGEST, FILE
from wire.errors import RejectedError

if TYPE_CHECKING:
    from ledger.bundle import BundleItem
    from node.cli.chain import RawBlock
    from node.cli.client import NodeClient

PIECE_BYTES: Final = 2 * 1024 * 1024
"""Bytes of blocks that are handed over at once, up to the next certified one."""
PIECE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Bytes of blocks without a certificate among them, from which on a bundle is refused."""
PIECE_BLOCKS: Final = 256
READ_BYTES: Final = 1 << 20
PATCHES_MAX: Final = 500
"""Newest published patches that `--patches` looks at."""
OUTBOX_PAGE: Final = 64
"""Records asked for at once: a decision each, at most 256 KiB."""


@click.command(
    "export-bundle",
    cls=Command,
    node=True,
    examples=(
        "patchwarden node export-bundle --from 812 --patches --out monday.bundle --home /srv/web2",
        "patchwarden node export-bundle --from 1 --patch 3f2a… --out all.bundle --rpc http://127.0.0.1:7080",
    ),
)
@click.option(
    "--from",
    "start",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="HEIGHT",
    help="First block: the height that the other side has, or lower.",
)
@click.option(
    "--to", "stop", type=click.IntRange(min=1), metavar="HEIGHT", help="Last block, or the next certified one."
)
@click.option(
    "--patch", "patches", type=DIGEST, multiple=True, metavar="ID", help="A patch file to take along; several."
)
@click.option(
    "--patches",
    "is_all",
    is_flag=True,
    help="Take along every published patch that is neither withdrawn nor superseded.",
)
@click.option("--out", type=FILE, required=True, metavar="FILE", help="Where it goes.")
@click.pass_obj
def export_bundle(  # noqa: PLR0917 - one parameter for each option
    session: Session, start: int, stop: int | None, patches: tuple[str, ...], is_all: bool, out: Path
) -> None:
    """Write certified blocks, and patch files, into one file that can be carried to a machine without a network.

    A node that runs is asked. The other side verifies all of it again (`agent import-bundle`).
    """
    from ledger.bundle import BundleEncoder
    from ledger.genesis import decode_genesis_untrusted
    from node.cli.audit_export import written
    from node.cli.chain import from_node

    client = session.client()
    source = from_node(client, session.rpc or "")
    founding = decode_genesis_untrusted(source.genesis)
    wanted = _wanted_patches(client, patches, is_all=is_all)
    encoder = BundleEncoder()
    last, size = start - 1, 0
    with written(out) as stream, session.output.progress("blocks", source.height) as progress:
        stream.write(encoder.begin(founding.chain_id, founding.genesis_hash, start))
        for block in _blocks(source.read(start), stop):
            stream.write(encoder.block(block.block, block.certificate))
            last = block.height
            progress.update(last)
        if last < start:
            raise CommandError(
                "cli.bundle.empty",
                f"this node has no certified block {start}",
                actual=f"height {source.height}",
                hint="choose a lower --from, or another node",
            )
        for patch_id in wanted:
            for piece in _patch_file(client, encoder, patch_id):
                stream.write(piece)
        stream.write(encoder.end())
    size = out.stat().st_size
    document = {
        "file": str(out),
        "chain_id": founding.chain_id,
        "from": start,
        "to": last,
        "patches": wanted,
        "bytes": size,
    }
    session.output.emit(
        document,
        fields(
            (
                ("written", out),
                ("blocks", f"{start} to {last}"),
                ("patches", ", ".join(map(short, wanted)) or "none"),
                ("bytes", size),
            )
        ),
    )


@click.command(
    "import-bundle",
    cls=Command,
    home=True,
    examples=("patchwarden agent import-bundle monday.bundle --home /srv/web1",),
)
@click.argument("file", type=FILE, metavar="FILE")
@click.pass_obj
def import_bundle(session: Session, file: Path) -> None:
    """Take over the blocks and patch files in FILE, on the running node of a host that is cut off.

    Every block is executed, every root compared, every certificate verified from what this node has already, as if a peer had sent them.
    What holds stays, also when something behind it does not, or when it is interrupted: the same command goes on from there.
    """
    from ledger.errors import ArchiveRefusedError
    from ledger.genesis import decode_genesis_untrusted
    from node.cli.chain import GENESIS_BYTES
    from node.local.protocol import decode_blob_untrusted

    client = session.client()
    genesis = decode_blob_untrusted(client.call("genesis.get")["genesis"], "genesis", bytes_max=GENESIS_BYTES)
    founding = decode_genesis_untrusted(genesis)
    height = int(client.call("status")["height"])
    taker = BundleTaker(client, founding.chain_id, founding.genesis_hash, height)
    with session.output.progress("height", 0) as progress:
        try:
            for item in _items(file):
                taker.take(item)
                progress.update(taker.height)
        except ArchiveRefusedError:
            taker.take_rest()
            raise
    document = taker.document(str(file), height)
    session.output.emit(
        document,
        fields(
            (
                ("bundle", f"blocks {document['from']} to {document['to']}"),
                ("taken", f"{document['taken']} blocks, {len(document['patches'])} patch files"),
                ("height", f"{height} before, {document['height']} now"),
            )
        ),
    )


@click.command("outbox", cls=Command, node=True, examples=("patchwarden agent outbox",))
@click.pass_obj
def outbox(session: Session) -> None:
    """List what this host still has to tell the ledger, in its order."""
    found = [{name: each[name] for name in each if name != "transaction"} for each in _waiting(session.client())]
    rows = [
        (
            each["sequence"],
            each["kind"],
            each["target"],
            "-" if each["counter"] is None else each["counter"],
            short(each["tx_id"]),
            each["not_after_height"],
        )
        for each in found
    ]
    session.output.emit(found, table(rows, ("place", "kind", "target", "record", "transaction", "until height")))


@click.command(
    "export-outbox",
    cls=Command,
    home=True,
    examples=("patchwarden agent export-outbox --out web1.bundle", "patchwarden tx submit web1.bundle --rpc URL"),
)
@click.option("--out", type=FILE, required=True, metavar="FILE", help="Where it goes.")
@click.pass_obj
def export_outbox(session: Session, out: Path) -> None:
    """Write what this host has to tell the ledger into one file, to be carried to a machine with a network and submitted there.

    The records stay in the outbox until a bundle that is brought back shows that the ledger has them. Submitting one twice is harmless.
    """
    from ledger.bundle import BundleEncoder
    from ledger.genesis import decode_genesis_untrusted
    from node.cli.audit_export import written
    from node.cli.chain import GENESIS_BYTES
    from node.local.protocol import decode_blob_untrusted
    from wire.limits import TX_BYTES_MAX

    client = session.client()
    genesis = decode_blob_untrusted(client.call("genesis.get")["genesis"], "genesis", bytes_max=GENESIS_BYTES)
    founding = decode_genesis_untrusted(genesis)
    encoder = BundleEncoder()
    count, until = 0, None
    with written(out) as stream:
        stream.write(encoder.begin(founding.chain_id, founding.genesis_hash, 0))
        for each in _waiting(client):
            raw = decode_blob_untrusted(each["transaction"], "transaction", bytes_max=TX_BYTES_MAX)
            stream.write(encoder.transaction(raw))
            count += 1
            until = min(each["not_after_height"], until or each["not_after_height"])
        stream.write(encoder.end())
    document = {"file": str(out), "records": count, "not_after_height": until, "bytes": out.stat().st_size}
    session.output.emit(
        document,
        fields(
            (
                ("written", out),
                ("records", count),
                ("can be submitted until", None if until is None else f"height {until}"),
                ("bytes", document["bytes"]),
            )
        ),
    )


def read_transactions(path: Path) -> list[bytes] | None:
    """Return the signed transactions in a bundle, in their order; None when the file is no bundle at all.

    Raises:
        ArchiveRefusedError: ``ledger.bundle.*``.
    """
    from ledger.bundle import MAGIC, BundledTransaction

    try:
        with path.open("rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                return None
    except OSError:
        return None  # Whoever reads it as a transaction says why.
    return [item.raw for item in _items(path) if isinstance(item, BundledTransaction)]


class BundleTaker:
    """Hands a bundle's blocks to a node in pieces that end with a certified one, and its patch files one by one."""

    def __init__(self, client: NodeClient, chain_id: str, genesis_hash: bytes, height: int) -> None:
        self._client = client
        self._network = (chain_id, genesis_hash)
        self._piece: list[dict[str, str | None]] = []
        self._piece_bytes = 0
        self._piece_start = 0
        self._first = 0
        self._next = 0
        self._own = height
        self._below: tuple[int, bytes, bytes] | None = None
        self._file: bytearray | None = None
        self._digest = b""
        self._size = 0
        self.height = height
        self.taken = 0
        self.patches: list[str] = []

    def take(self, item: BundleItem) -> None:
        """Take one item; raises what the node raises."""
        from ledger.bundle import BundledBlock, BundledData, BundledPatch, BundleEnd, BundleHead

        if self._file is not None and not isinstance(item, BundledData):
            raise RejectedError(
                "ledger.bundle.malformed",
                "a patch file in the bundle stops before its end",
                expected=f"{self._size} bytes",
                actual=f"{len(self._file)} bytes",
                hint="export it again; what came before stays",
            )
        if isinstance(item, BundleHead):
            self._check_network(item)
            self._first = self._next = item.first_height
        elif isinstance(item, BundledBlock):
            self._take_block(item.block, item.certificate)
        else:
            self._hand_over()
        if isinstance(item, BundleEnd):
            self._compare_below()
        elif isinstance(item, BundledPatch):
            self._file, self._digest, self._size = bytearray(), item.digest, item.size
        elif isinstance(item, BundledData):
            self._take_data(item.data)

    def take_rest(self) -> None:
        """Hand over what a certificate covers of a bundle that cannot be read any further."""
        while self._piece and self._piece[-1]["certificate"] is None:
            self._piece.pop()
        self._hand_over()

    def document(self, name: str, before: int) -> dict[str, Any]:
        """Return what came of it. Raises RejectedError (``node.bundle.older``)."""
        last = self._next - 1
        if self._first and last < before:
            raise RejectedError(
                "node.bundle.older",
                "the bundle ends below what this node has",
                expected=f"a block above {before}",
                actual=f"blocks {self._first} to {last}",
                hint=f"export again with --from {before}",
            )
        return {
            "file": name,
            "from": self._first,
            "to": last,
            "taken": self.taken,
            "patches": self.patches,
            "height_before": before,
            "height": self.height,
        }

    def _check_network(self, head: Any) -> None:
        if (head.chain_id, head.genesis_hash) != self._network:
            raise RejectedError(
                "node.bundle.wrong_chain",
                "the bundle is of another network",
                expected=f"{self._network[0]}, founded by {self._network[1].hex()}",
                actual=f"{head.chain_id}, founded by {head.genesis_hash.hex()}",
            )

    def _take_block(self, block: bytes, certificate: bytes | None) -> None:
        from node.local.protocol import encode_blob

        height, self._next = self._next, self._next + 1
        # What is here already was verified; the block at this node's own height shows whether the bundle is of the same history.
        if height < self._own:
            if certificate is not None:
                self._below = (height, block, certificate)
            return
        if not self._piece:
            self._piece_start = height
        self._piece.append(
            {"block": encode_blob(block), "certificate": None if certificate is None else encode_blob(certificate)}
        )
        self._piece_bytes += len(block) + len(certificate or b"")
        is_full = self._piece_bytes >= PIECE_BYTES or len(self._piece) >= PIECE_BLOCKS
        if is_full and certificate is not None:
            self._hand_over()
        elif self._piece_bytes >= PIECE_BYTES_MAX:
            raise RejectedError("node.sync.no_certificate", "the bundle has too many blocks without a certificate")

    def _hand_over(self) -> None:
        """Let the node take the piece; a bundle that begins above its height is refused by it."""
        if not self._piece:
            return
        answer = self._client.call(
            "bundle.take", **{"genesis_hash": self._network[1].hex(), "from": self._piece_start, "blocks": self._piece}
        )
        self._piece, self._piece_bytes = [], 0
        self.height = max(self.height, int(answer["height"]))
        self.taken += int(answer["taken"])

    def _compare_below(self) -> None:
        """Let the node compare the last certified block of a bundle that brings nothing new: it may be of another history."""
        from node.local.protocol import encode_blob

        if self._below is not None and self._next <= self._own:
            height, block, certificate = self._below
            blocks = [{"block": encode_blob(block), "certificate": encode_blob(certificate)}]
            self._client.call(
                "bundle.take", **{"genesis_hash": self._network[1].hex(), "from": height, "blocks": blocks}
            )

    def _take_data(self, data: bytes) -> None:
        from node.cli.patch_transfer import send_patch

        if self._file is None or len(self._file) + len(data) > self._size:
            raise RejectedError("ledger.bundle.malformed", "the bundle has bytes of a patch file that belong to none")
        self._file += data
        if len(self._file) < self._size:
            return
        whole, self._file = bytes(self._file), None
        if hashlib.sha256(whole).digest() != self._digest:
            raise RejectedError(
                "node.patch.wrong_digest",
                "a patch file in the bundle is not what its digest says",
                expected=self._digest,
                actual=hashlib.sha256(whole).digest(),
            )
        self.patches.append(send_patch(self._client, whole))


def _blocks(blocks: Iterator[Any], stop: int | None) -> Iterator[RawBlock]:
    """Yield blocks up to the first certified one at `stop` or above."""
    from node.cli.chain import DamagedBlock

    for block in blocks:
        if isinstance(block, DamagedBlock):
            raise block.error
        yield block
        if stop is not None and block.height >= stop and block.certificate is not None:
            return


def _wanted_patches(client: NodeClient, named: tuple[str, ...], *, is_all: bool) -> list[str]:
    found = list(dict.fromkeys(named))
    if is_all:
        current = [
            each["patch_id"]
            for each in client.call("patches.list", limit=PATCHES_MAX)
            if each["withdrawn_height"] is None and each["superseded_by"] is None
        ]
        found += [each for each in reversed(current) if each not in found]
    return found


def _patch_file(client: NodeClient, encoder: Any, patch_id: str) -> Iterator[bytes]:
    """Yield the bytes of a bundle that hold a patch's file."""
    from ledger.bundle import DATA_BYTES_MAX
    from node.cli.patch_transfer import receive_patch

    data = receive_patch(client, patch_id)
    yield encoder.patch(hashlib.sha256(data).digest(), len(data))
    for offset in range(0, len(data), DATA_BYTES_MAX):
        yield encoder.data(data[offset : offset + DATA_BYTES_MAX])


def _waiting(client: NodeClient) -> Iterator[dict[str, Any]]:
    """Yield the records that wait, page by page."""
    after = 0
    while True:
        page = client.call("agent.outbox", after=after, limit=OUTBOX_PAGE)
        yield from page
        if len(page) < OUTBOX_PAGE:
            return
        after = page[-1]["sequence"]


def _items(path: Path) -> Iterator[BundleItem]:
    """Yield a bundle's items as they are read.

    Raises:
        FileError: ``cli.file.unreadable``.
        ArchiveRefusedError: ``ledger.bundle.*``; what came before it stands.
    """
    from ledger.bundle import BundleDecoder

    decoder = BundleDecoder()
    try:
        stream: BinaryIO
        with path.open("rb") as stream:
            while piece := stream.read(READ_BYTES):
                yield from decoder.feed_untrusted(piece)
    except OSError as error:
        raise FileError("cli.file.unreadable", f"{path} cannot be read: {error.strerror}") from error
    decoder.finish()
