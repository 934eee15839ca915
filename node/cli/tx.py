"""`patchwarden tx`: transactions by their ids."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import click

from node.cli.command import Command, Session, group
from node.cli.errors import CommandError
from node.cli.lazy import Place
from node.cli.output import fields, table
from node.cli.params import DIGEST, FILE_OR_DASH
from wire.errors import RejectedError, UnavailableError

POLL_S: Final = 0.2
"""Pause between two looks for a transaction that another node may have got."""

tx = group(
    "Show, submit and wait for transactions.",
    {
        "show": Place("node.cli.tx:show", "Show a transaction and where it stands."),
        "submit": Place("node.cli.tx:submit_files", "Submit transactions that were signed elsewhere."),
        "wait": Place("node.cli.tx:wait", "Wait until a transaction is in a block."),
    },
)


@click.command("show", cls=Command, node=True, examples=("patchwarden tx show 9f86d081884c7d65…",))
@click.argument("tx_id", type=DIGEST, metavar="TX")
@click.pass_obj
def show(session: Session, tx_id: str) -> None:
    """Show the transaction TX: who signed it, what it says, in which block it stands."""
    document = session.client().call("tx.get", tx_id=tx_id)
    session.output.emit(document, transaction_lines(document))


@click.command(
    "submit",
    cls=Command,
    node=True,
    submits=False,
    examples=(
        "patchwarden identity suspend eve@acme --reason drill --key admin.key --write-transaction suspend.tx",
        "patchwarden tx submit suspend.tx",
        "patchwarden tx submit web1-outbox.bundle",
    ),
)
@click.argument("files", type=FILE_OR_DASH, nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--wait",
    "how",
    type=click.Choice(["none", "admitted", "committed"]),
    default="committed",
    show_default=True,
    help="How far to wait.",
)
@click.option(
    "--timeout",
    "wait_s",
    type=click.FloatRange(min=0.1, max=120),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the block.",
)
@click.pass_obj
def submit_files(session: Session, files: tuple[Path, ...], how: str, wait_s: float) -> None:
    """Submit the signed transactions in FILEs, also a host's outbox in a bundle. Submitting one again is harmless: it is executed once."""
    from ledger.transaction import decode_transaction_untrusted
    from node.cli.bundle import read_transactions
    from node.cli.files import STANDARD, read_file
    from node.local.protocol import encode_blob, error_from_json
    from wire.limits import TX_BYTES_MAX

    bundles = {path: None if path == STANDARD else read_transactions(path) for path in files}
    transactions = [
        decode_transaction_untrusted(raw) for path in files for raw in bundles[path] or [read_file(path, TX_BYTES_MAX)]
    ]
    session.timeout_s = wait_s
    client = session.client()
    # Records of a host are each admitted behind the one before: one at a time, and only behind what is in a block.
    is_ordered = any(found is not None for found in bundles.values())
    results: list[Any] = []
    for chunk in [[each] for each in transactions] if is_ordered else [transactions]:
        results += client.call(
            "tx.submit",
            transactions=[encode_blob(each.raw) for each in chunk],
            wait="committed" if is_ordered else how,
            timeout_ms=int(wait_s * 1000),
        )
        if is_ordered and results[-1].get("error"):
            break
    rows = [
        (each.tx_id.hex(), each.kind, result["status"], result["height"])
        for each, result in zip(transactions, results, strict=False)
    ]
    session.output.emit(results, table(rows, ("transaction", "kind", "status", "height")))
    for result in results:
        if result.get("error"):
            raise error_from_json(result["error"])


@click.command("wait", cls=Command, node=True, examples=("patchwarden tx wait 9f86d081884c7d65… --timeout 30",))
@click.argument("tx_id", type=DIGEST, metavar="TX")
@click.option(
    "--timeout",
    "wait_s",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait.",
)
@click.pass_obj
def wait(session: Session, tx_id: str, wait_s: float) -> None:
    """Wait until the transaction TX stands in a block; exit code 3 when it does not in time."""
    deadline = time.monotonic() + wait_s
    client = session.client()
    while True:
        try:
            document = client.call("tx.get", tx_id=tx_id)
        except RejectedError as error:
            if not error.code.endswith(".not_found"):
                raise
            document = None
        if document is not None and document["status"] == "committed":
            session.output.emit(document, transaction_lines(document))
            return
        if time.monotonic() >= deadline:
            raise UnavailableError(
                "cli.tx.timeout",
                f"transaction {tx_id} is in no block after {wait_s:g} s",
                hint="wait longer: --timeout",
            )
        time.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))


def transaction_lines(document: dict[str, Any]) -> list[str]:
    """Return a transaction for a person."""
    place = "not in a block yet"
    if document["height"] is not None:
        place = f"block {document['height']}, place {document['index']}"
    return [
        *fields(
            (
                ("transaction", document["tx_id"]),
                ("kind", document["kind"]),
                ("stands in", place),
                ("signed by", document["signer"] or f"key {document['signer_key_id']}"),
                ("signing key", document["signer_key_id"]),
                ("executable until", f"height {document['not_after_height']}"),
            )
        ),
        "body:",
        *(f"  {line}" for line in json.dumps(document["body"], indent=2, ensure_ascii=False).splitlines()),
    ]


def find_transaction(session: Session, tx_id: str) -> dict[str, Any]:
    """Return a committed transaction's document.

    Raises:
        CommandError: ``cli.tx.pending``: it is known and in no block yet.
    """
    document: dict[str, Any] = session.client().call("tx.get", tx_id=tx_id)
    if document["height"] is None:
        raise CommandError("cli.tx.pending", f"transaction {tx_id} is in no block yet", hint="patchwarden tx wait")
    return document
