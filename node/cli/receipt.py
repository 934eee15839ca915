"""`patchwarden receipt`: proofs that a transaction was committed, for people who ask no node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.command import Command, Session, group
from node.cli.lazy import Place
from node.cli.output import fields
from node.cli.params import DIGEST, FILE_OR_DASH
from node.cli.trusted import read_genesis, read_json, read_trusted, trust_options, trust_text

if TYPE_CHECKING:
    from ledger.genesis import Genesis
    from ledger.proofs import Receipt
    from ledger.trust import TrustedHead

__all__ = [
    "get",
    "read_genesis",
    "read_receipt",
    "receipt",
    "receipt_from_document",
    "verified_receipt_document",
    "verify",
]

receipt = group(
    "Get a transaction's portable receipt; verify one offline.",
    {
        "get": Place("node.cli.receipt:get", "Get the receipt of a committed transaction."),
        "verify": Place("node.cli.receipt:verify", "Verify a receipt without a node."),
    },
)


@click.command(
    "get",
    cls=Command,
    node=True,
    examples=(
        "patchwarden receipt get 9f86d081884c7d65… --out receipt.json",
        "patchwarden receipt get 9f86d081884c7d65… --height 4000 --out receipt.json",
    ),
)
@click.argument("tx_id", type=DIGEST, metavar="TX")
@click.option(
    "--height",
    type=click.IntRange(min=0),
    metavar="H",
    help="Under a header of at least this height, such as that of a checkpoint. Default: the first certified one.",
)
@click.option("--out", type=FILE_OR_DASH, metavar="FILE", help="Write the receipt to FILE. Default: show it.")
@click.pass_obj
def get(session: Session, tx_id: str, height: int | None, out: Path | None) -> None:
    """Get the receipt of TX: transaction, Merkle path, certified header, certificate."""
    from node.cli.files import write_file

    document = session.client().call("receipt.get", tx_id=tx_id, height=height)
    encoded = json.dumps(document, indent=2, ensure_ascii=False)
    if out is None:
        session.output.emit(document, encoded.splitlines())
        return
    write_file(out, encoded.encode() + b"\n")
    session.output.emit({"tx_id": tx_id, "file": str(out)}, fields((("receipt of", tx_id), ("written to", out))))


@click.command(
    "verify",
    cls=Command,
    examples=(
        "patchwarden receipt verify receipt.json --genesis genesis.json",
        "patchwarden receipt verify receipt.json --checkpoint today.checkpoint",
    ),
)
@click.argument("file", type=FILE_OR_DASH, metavar="FILE")
@trust_options
@click.pass_obj
def verify(session: Session, file: Path, genesis: Path | None, checkpoint: Path | None) -> None:
    """Verify the receipt in FILE offline: only what you name is trusted. Exit code 1 when it does not hold."""
    trusted = read_trusted(genesis, checkpoint)
    document = verified_receipt_document(read_receipt(file), trusted)
    session.output.emit(
        document,
        fields(
            (
                ("receipt", "valid"),
                ("because of", trust_text(trusted)),
                ("transaction", document["tx_id"]),
                ("kind", document["kind"]),
                ("chain", document["chain_id"]),
                ("certified at", f"height {document['height']}, term {document['term']}"),
                ("place in the log", f"{document['log_index']} of {document['log_size']}"),
            )
        ),
    )


def read_receipt(path: Path) -> Receipt:
    """Return the receipt in a file; nothing about it is verified.

    Raises:
        RejectedError: ``ledger.receipt.*``, ``cli.file.*``.
    """
    from wire.limits import TX_BYTES_MAX

    return receipt_from_document(read_json(path, 6 * TX_BYTES_MAX))


def receipt_from_document(document: Any) -> Receipt:
    """Return the receipt that a node's document holds; nothing about it is verified."""
    from ledger.proofs import Receipt

    return Receipt.from_json_untrusted(document)


def verified_receipt_document(proof: Receipt, trusted: Genesis | TrustedHead) -> dict[str, Any]:
    """Return what a receipt proves, after verifying it.

    Raises:
        RejectedError: It does not hold.
    """
    from ledger.proofs import verify_receipt

    transaction = verify_receipt(proof, trusted)
    return {
        "valid": True,
        "tx_id": transaction.tx_id.hex(),
        "kind": transaction.kind,
        "chain_id": trusted.chain_id,
        "height": proof.header.height,
        "term": proof.header.term,
        "log_index": proof.log_index,
        "log_size": proof.header.log_size,
    }
