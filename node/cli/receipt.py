"""`patchwarden receipt`: proofs that a transaction was committed, for people who ask no node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.command import Command, Session, group
from node.cli.lazy import Place
from node.cli.output import fields
from node.cli.params import DIGEST, FILE, FILE_OR_DASH

if TYPE_CHECKING:
    from ledger.genesis import Genesis
    from ledger.proofs import Receipt

receipt = group(
    "Get a transaction's portable receipt; verify one offline.",
    {
        "get": Place("node.cli.receipt:get", "Get the receipt of a committed transaction."),
        "verify": Place("node.cli.receipt:verify", "Verify a receipt with the founding document alone."),
    },
)


@click.command(
    "get", cls=Command, node=True, examples=("patchwarden receipt get 9f86d081884c7d65… --out receipt.json",)
)
@click.argument("tx_id", type=DIGEST, metavar="TX")
@click.option("--out", type=FILE_OR_DASH, metavar="FILE", help="Write the receipt to FILE. Default: show it.")
@click.pass_obj
def get(session: Session, tx_id: str, out: Path | None) -> None:
    """Get the receipt of TX: transaction, Merkle path, certified header, certificate."""
    from node.cli.files import write_file

    document = session.client().call("receipt.get", tx_id=tx_id)
    encoded = json.dumps(document, indent=2, ensure_ascii=False)
    if out is None:
        session.output.emit(document, encoded.splitlines())
        return
    write_file(out, encoded.encode() + b"\n")
    session.output.emit({"tx_id": tx_id, "file": str(out)}, fields((("receipt of", tx_id), ("written to", out))))


@click.command(
    "verify",
    cls=Command,
    examples=("patchwarden receipt verify receipt.json --genesis genesis.json",),
)
@click.argument("file", type=FILE_OR_DASH, metavar="FILE")
@click.option("--genesis", type=FILE, required=True, metavar="FILE", help="The network's founding document.")
@click.pass_obj
def verify(session: Session, file: Path, genesis: Path) -> None:
    """Verify the receipt in FILE offline: only the founding document is trusted. Exit code 1 when it does not hold."""
    founding = read_genesis(genesis)
    proof = read_receipt(file)
    document = verified_receipt_document(proof, founding)
    session.output.emit(
        document,
        fields(
            (
                ("receipt", "valid"),
                ("transaction", document["tx_id"]),
                ("kind", document["kind"]),
                ("chain", document["chain_id"]),
                ("certified at", f"height {document['height']}, term {document['term']}"),
                ("place in the log", f"{document['log_index']} of {document['log_size']}"),
            )
        ),
    )


def read_genesis(path: Path) -> Genesis:
    """Return the founding document in a file.

    Raises:
        RejectedError: ``ledger.genesis.*``, ``cli.file.*``.
    """
    from ledger.genesis import decode_genesis_untrusted
    from ledger.limits import GENESIS_BYTES_MAX
    from node.cli.files import read_file

    return decode_genesis_untrusted(read_file(path, GENESIS_BYTES_MAX))


def read_receipt(path: Path) -> Receipt:
    """Return the receipt in a file; nothing about it is verified.

    Raises:
        RejectedError: ``ledger.receipt.*``, ``cli.file.*``.
    """
    from node.cli.files import read_file
    from wire.limits import TX_BYTES_MAX

    return receipt_from_document(_json(read_file(path, 3 * TX_BYTES_MAX)))


def receipt_from_document(document: Any) -> Receipt:
    """Return the receipt that a node's document holds; nothing about it is verified."""
    from ledger.proofs import Receipt

    return Receipt.from_json_untrusted(document)


def verified_receipt_document(proof: Receipt, genesis: Genesis) -> dict[str, Any]:
    """Return what a receipt proves, after verifying it.

    Raises:
        RejectedError: It does not hold.
    """
    from ledger.proofs import verify_receipt

    transaction = verify_receipt(proof, genesis)
    return {
        "valid": True,
        "tx_id": transaction.tx_id.hex(),
        "kind": transaction.kind,
        "chain_id": genesis.chain_id,
        "height": proof.header.height,
        "term": proof.header.term,
        "log_index": proof.log_index,
        "log_size": proof.header.log_size,
    }


def _json(data: bytes) -> Any:
    from node.cli.errors import FileError

    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FileError("cli.file.not_json", "the file is not JSON") from error
