"""A stopped node's store, opened to be read: for verifying it, and for auditing it without starting the node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ledger.keyspace import Table, height_key
from node.cli.errors import CommandError

if TYPE_CHECKING:
    from ledger.genesis import Genesis
    from node.cli.output import Output
    from node.storage.leveldb import Store


@contextmanager
def open_stopped(home_path: Path) -> Iterator[tuple[Genesis, Store]]:
    """Give the founding document and the store of a node that does not run.

    Raises:
        CommandError: ``cli.store.missing``: there is no node home, or it never ran.
        StorageRefusedError: ``node.storage.in_use``: the node runs.
        CorruptionError: ``node.storage.*``.
    """
    from node.cli.receipt import read_genesis
    from node.config import Home
    from node.keystore import load_key
    from node.storage.leveldb import Store

    home = Home(home_path)
    if not home.data.is_dir():
        raise CommandError("cli.store.missing", f"{home_path} holds no store", hint="name a node's home with --home")
    genesis = read_genesis(home.genesis)
    key = load_key(home.node_key)
    store = Store.open(home.data, chain_id=genesis.chain_id, node_key_id=key.public_key.key_id)
    try:
        yield genesis, store
    finally:
        store.close()


def read_blocks(store: Store) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield every stored block from height 1 on, with its certificate where one is stored."""
    for key, block in store.iterate(Table.BLOCK, height_key(1)):
        yield block, store.get(Table.CERTIFICATE, key)


def verify_home(home_path: Path, output: Output) -> dict[str, Any]:
    """Return what reading the whole store of a stopped node found.

    Raises:
        CorruptionError: ``node.storage.*``: a row is damaged.
    """
    from ledger.audit import AuditLevel, Auditor

    with open_stopped(home_path) as (genesis, store):
        rows = sum(1 for table in range(1, 128) for _ in store.iterate(table))
        blocks = sum(1 for _ in store.iterate(Table.HEADER, height_key(1)))
        auditor = Auditor(genesis, level=AuditLevel.SIGNATURES)
        with output.progress("blocks", blocks) as progress:
            for block, certificate in read_blocks(store):
                auditor.feed(block, certificate)
                progress.update(auditor.height)
        summary = auditor.finish()
    findings = [{"height": each.height, "what": each.what, "message": each.message} for each in summary.findings]
    if summary.blocks != blocks:
        findings.append(
            {
                "height": summary.blocks,
                "what": "node.storage.hole",
                "message": f"the store has {blocks} headers and {summary.blocks} blocks",
            }
        )
    return {
        "path": str(home_path),
        "rows": rows,
        "height": summary.height,
        "transactions": summary.transactions,
        "findings": findings,
    }
