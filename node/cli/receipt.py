"""`patchwarden receipt`: proofs that a transaction was committed, for people who ask no node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.command import Command, Session, group
from node.cli.lazy import Place
from node.cli.output import fields
from node.cli.params import DIGEST, FILE_OR_DASH
from node.cli.trusted import parse_json, read_genesis, read_trusted, trust_options, trust_text

if TYPE_CHECKING:
    from ledger.cose_receipt import CoseReceipts
    from ledger.genesis import Genesis
    from ledger.proofs import Receipt
    from ledger.transaction import Transaction
    from ledger.trust import TrustedHead

__all__ = [
    "get",
    "read_genesis",
    "read_receipt",
    "receipt",
    "receipt_from_bytes",
    "receipt_from_document",
    "receipt_lines",
    "verified_receipt_document",
    "verify",
    "verify_any_receipt",
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
        "patchwarden receipt get 9f86d081884c7d65… --format cose --out receipt.cbor",
    ),
)
@click.argument("tx_id", type=DIGEST, metavar="TX")
@click.option(
    "--height",
    type=click.IntRange(min=0),
    metavar="H",
    help="Under a header of at least this height, such as that of a checkpoint. Default: the first certified one.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "cose"]),
    default="json",
    show_default=True,
    help="cose: RFC 9942, one receipt for each of a majority of the validators; needs --out.",
)
@click.option("--out", type=FILE_OR_DASH, metavar="FILE", help="Write the receipt to FILE. Default: show it.")
@click.pass_obj
def get(session: Session, tx_id: str, height: int | None, form: str, out: Path | None) -> None:
    """Get the receipt of TX: transaction, Merkle path, and what leads from the log's root to the validators."""
    from node.cli.files import write_file

    if form == "cose":
        if out is None:
            raise click.UsageError("a COSE receipt is no text: name a file with --out")
        answer = session.client().call("receipt.cose", tx_id=tx_id, height=height)
        write_file(out, _decode_cose(answer["file"]))
        session.output.emit({"tx_id": tx_id, "file": str(out)}, fields((("receipts of", tx_id), ("written to", out))))
        return
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
    proof = read_receipt(file)
    document = verified_receipt_document(proof, trusted)
    session.output.emit(document, receipt_lines(proof, document, trusted))


def receipt_lines(proof: Receipt | CoseReceipts, document: dict[str, Any], trusted: TrustedHead) -> Iterator[str]:
    """Return for a person what a receipt proves; `document` is that of `verified_receipt_document`."""
    certified = None if document["height"] is None else f"height {document['height']}, term {document['term']}"
    return fields(
        (
            ("receipt", "valid"),
            ("because of", trust_text(trusted)),
            ("transaction", document["tx_id"]),
            ("kind", document["kind"]),
            ("chain", document["chain_id"]),
            ("signed by", _signers(proof)),
            ("certified at", certified),
            ("place in the log", f"{document['log_index']} of {document['log_size']}"),
        )
    )


def _signers(proof: Receipt | CoseReceipts) -> str | None:
    from ledger.cose_receipt import CoseReceipts

    if not isinstance(proof, CoseReceipts):
        return None
    return f"{len(proof.signatures)} validators, a majority, each by a COSE receipt of its own"


def read_receipt(path: Path) -> Receipt | CoseReceipts:
    """Return the receipt in a file, JSON or COSE; nothing about it is verified.

    Raises:
        RejectedError: ``ledger.receipt.*``, ``cli.file.*``.
    """
    from ledger.cose_receipt import SET_BYTES_MAX
    from node.cli.files import read_file

    return receipt_from_bytes(read_file(path, SET_BYTES_MAX))


def receipt_from_bytes(data: bytes) -> Receipt | CoseReceipts:
    """Return the receipt in a file's bytes, JSON or COSE; nothing about it is verified.

    Raises:
        RejectedError: ``ledger.receipt.*``, ``cli.file.not_json``.
    """
    from ledger.cose_receipt import decode_cose_receipts_untrusted

    # A JSON text never begins with the byte of a CBOR map of two or three members, which is no character of UTF-8.
    if data[:1] in (b"\xa2", b"\xa3"):
        return decode_cose_receipts_untrusted(data)
    return receipt_from_document(parse_json(data))


def receipt_from_document(document: Any) -> Receipt:
    """Return the receipt that a node's document holds; nothing about it is verified."""
    from ledger.proofs import Receipt

    return Receipt.from_json_untrusted(document)


def verify_any_receipt(proof: Receipt | CoseReceipts, trusted: Genesis | TrustedHead) -> Transaction:
    """Return the transaction that a receipt of either form proves to be in the log.

    Raises:
        RejectedError: It does not hold.
    """
    from ledger.cose_receipt import CoseReceipts, verify_cose_receipts
    from ledger.proofs import verify_receipt

    if isinstance(proof, CoseReceipts):
        return verify_cose_receipts(proof, trusted)
    return verify_receipt(proof, trusted)


def verified_receipt_document(proof: Receipt | CoseReceipts, trusted: Genesis | TrustedHead) -> dict[str, Any]:
    """Return what a receipt proves, after verifying it. A COSE receipt names no header.

    Raises:
        RejectedError: It does not hold.
    """
    from ledger.proofs import Receipt

    transaction = verify_any_receipt(proof, trusted)
    header, log_size = (proof.header, proof.header.log_size) if isinstance(proof, Receipt) else (None, proof.log_size)
    return {
        "valid": True,
        "format": "cose" if header is None else "json",
        "tx_id": transaction.tx_id.hex(),
        "kind": transaction.kind,
        "chain_id": trusted.chain_id,
        "height": None if header is None else header.height,
        "term": None if header is None else header.term,
        "log_index": proof.log_index,
        "log_size": log_size,
    }


def _decode_cose(text: str) -> bytes:
    from ledger.cose_receipt import SET_BYTES_MAX, decode_cose_receipts_untrusted
    from node.local.protocol import decode_blob_untrusted

    data = decode_blob_untrusted(text, "file", bytes_max=SET_BYTES_MAX)
    decode_cose_receipts_untrusted(data)
    return data
