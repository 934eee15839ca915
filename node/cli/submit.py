"""Signing and submitting transactions for commands, and telling what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ledger.limits import NONCE_BYTES
from ledger.transaction import Transaction, build_transaction
from node import clock
from node.cli.client import NodeClient
from node.cli.files import write_file
from node.cli.output import fields
from node.local.protocol import encode_blob, error_from_json
from wire.errors import UnavailableError

if TYPE_CHECKING:
    from ledger.bodies import Body
    from node.cli.command import Session
    from wire.keys import Signer

NOT_AFTER_HEIGHTS: Final = 1_000
"""A transaction that a node lost is certainly dead this many blocks later; on a quiet chain that is hours."""
BATCH_MAX: Final = 500
"""Transactions in one submission."""


@dataclass(frozen=True, slots=True)
class Committed:
    """A transaction that stands in a block."""

    tx_id: str
    """64 hexadecimal digits."""
    height: int
    """Of its block."""
    kind: str
    """What it says."""

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"tx_id": self.tx_id, "kind": self.kind, "height": self.height}


def sign(client: NodeClient, body: Body, key: Signer) -> Transaction:
    """Return the transaction that says `body`, signed for the chain that the node follows."""
    status = client.call("status")
    return build_transaction(
        status["chain_id"],
        body.KIND,
        body,
        key,
        clock.random_bytes(NONCE_BYTES),
        int(status["height"]) + NOT_AFTER_HEIGHTS,
        clock.now_ms(),
    )


def submit(client: NodeClient, transactions: Sequence[Transaction], timeout_s: float) -> list[Committed]:
    """Return where the transactions stand, after waiting for their blocks.

    Raises:
        PatchwardenError: Why the first refused one was refused; the others may be committed.
        UnavailableError: ``node.submit.timeout``, ``node.no_leader``: unknown yet. Submitting the same again is safe.
    """
    committed: list[Committed] = []
    for start in range(0, len(transactions), BATCH_MAX):
        batch = transactions[start : start + BATCH_MAX]
        results = client.call(
            "tx.submit",
            transactions=[encode_blob(transaction.raw) for transaction in batch],
            wait="committed",
            timeout_ms=int(timeout_s * 1000),
        )
        for transaction, result in zip(batch, results, strict=True):
            if result["status"] != "committed":
                raise _not_committed(transaction, result)
            committed.append(Committed(transaction.tx_id.hex(), int(result["height"]), transaction.kind))
    return committed


def submit_body(session: Session, body: Body, summary: Iterable[tuple[str, object]]) -> Committed | None:
    """Sign `body` with the session's key, submit it and say so; with `--write-transaction` write it instead.

    Args:
        session: The command's session.
        body: What the transaction says.
        summary: What a person should read about it, as (name, value).
    """
    client = session.client()
    transaction = sign(client, body, session.key())
    if session.transaction_out is not None:
        write_transaction(session, transaction, summary)
        return None
    (committed,) = submit(client, [transaction], session.timeout_s)
    session.output.emit(
        committed.document(),
        fields((*summary, ("transaction", committed.tx_id), ("height", committed.height))),
    )
    return committed


def write_transaction(session: Session, transaction: Transaction, summary: Iterable[tuple[str, object]]) -> None:
    """Write a signed transaction to the file that `--write-transaction` names, and say so."""
    assert session.transaction_out is not None, "the caller has looked"
    write_file(session.transaction_out, transaction.raw)
    document = {
        "tx_id": transaction.tx_id.hex(),
        "kind": transaction.kind,
        "height": None,
        "file": str(session.transaction_out),
        "not_after_height": transaction.not_after_height,
    }
    session.output.emit(
        document,
        fields(
            (
                *summary,
                ("transaction", document["tx_id"]),
                ("written to", session.transaction_out),
                ("submit before height", transaction.not_after_height),
            )
        ),
    )


def _not_committed(transaction: Transaction, result: dict[str, Any]) -> Exception:
    if result.get("error"):
        return error_from_json(result["error"])
    return UnavailableError(
        "node.submit.timeout",
        f"transaction {transaction.tx_id.hex()} is {result['status']} and not yet in a block",
        hint=f"wait for it: patchwarden tx wait {transaction.tx_id.hex()}",
    )
