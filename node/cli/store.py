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
    from node.storage.verify import StoreSummary


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
    """Return what reading the whole store of a stopped node found: every damaged or missing row, then what the audit says of the chain.

    Raises:
        CorruptionError: ``node.storage.*``: the store cannot be opened at all.
    """
    with open_stopped(home_path) as (genesis, store):
        findings, summary = _verify_rows(store)
        document = {
            "path": str(home_path),
            "rows": summary.rows,
            "height": summary.committed_height,
            "log_height": summary.last_height,
            "transactions": None,
            "findings": findings,
        }
        if not findings:
            document["transactions"] = _audit(genesis, store, output, findings)
    return document


def _verify_rows(store: Store) -> tuple[list[dict[str, Any]], StoreSummary]:
    from node.storage.tables import NAMES
    from node.storage.verify import StoreSummary, verify_store

    findings: list[dict[str, Any]] = []
    for found in verify_store(store):
        if isinstance(found, StoreSummary):
            return findings, found
        findings.append(
            {
                "what": found.code,
                "message": found.message,
                "table": None if found.table is None else NAMES.get(found.table, str(found.table)),
                "key": None if found.table is None else found.key.hex(),
                "height": None,
            }
        )
    raise AssertionError("a summary comes last")


def _audit(genesis: Genesis, store: Store, output: Output, findings: list[dict[str, Any]]) -> int | None:
    """Add what is wrong with the chain to `findings`; return how many transactions it has, None where its beginning is not kept."""
    from ledger.audit import AuditLevel, Auditor
    from node.storage.block_store import read_first_height

    if read_first_height(store) > 1:
        return None  # Without the blocks from genesis on there is nothing to replay; the rows themselves are sound.
    blocks = sum(1 for _ in store.iterate(Table.HEADER, height_key(1)))
    auditor = Auditor(genesis, level=AuditLevel.SIGNATURES)
    with output.progress("blocks", blocks) as progress:
        for block, certificate in read_blocks(store):
            auditor.feed(block, certificate)
            progress.update(auditor.height)
    summary = auditor.finish()
    findings += [
        {
            "what": each.what,
            "message": f"block {each.height}: {each.message}",
            "table": None,
            "key": None,
            "height": each.height,
        }
        for each in summary.findings
    ]
    return summary.transactions
