"""`patchwarden audit trace`: the story of one thing in the order in which the ledger recorded it, each line with its proof."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.block import when
from node.cli.command import Command, Session
from node.cli.errors import CommandError
from node.cli.output import short
from node.cli.params import FILE
from wire.errors import RejectedError

if TYPE_CHECKING:
    from ledger.bodies import Body
    from ledger.genesis import Genesis
    from node.cli.client import NodeClient

SUBJECTS: Final = ("patch", "host", "identity", "organisation", "proposal")
PAGE: Final = 500
"""Transactions that a node tells about one thing at once."""
_PROBLEM_CHARACTERS_MAX: Final = 200
"""Of what a host says is wrong with a tree, as much as a line shows."""
EVENTS_MAX: Final = 100_000
"""The longest story that is told."""


@click.command(
    "trace",
    cls=Command,
    node=True,
    examples=(
        "patchwarden audit trace patch 3f2a… --rpc http://127.0.0.1:7080 --genesis genesis.json",
        "patchwarden audit trace host web1@acme",
        "patchwarden audit trace proposal 9f86…",
    ),
)
@click.argument("subject", type=click.Choice(SUBJECTS))
@click.argument("name", metavar="ID")
@click.option(
    "--genesis", type=FILE, metavar="FILE", help="The founding document that you trust. Default: the node's own."
)
@click.pass_obj
def trace(session: Session, subject: str, name: str, genesis: Path | None) -> None:
    """Tell the story of one patch, host, identity, organisation or proposal, each line with its receipt verified.

    Exit code 1 when one does not hold.
    """
    document = run_trace(session, subject, name, genesis)
    session.output.emit(document, trace_lines(document))
    if not document["valid"]:
        click.get_current_context().exit(1)


def run_trace(session: Session, subject: str, name: str, genesis: Path | None) -> dict[str, Any]:
    """Return the story as a document.

    Raises:
        CommandError: ``cli.trace.not_found``: nothing on the ledger is about it.
    """
    from ledger.genesis import decode_genesis_untrusted
    from node.cli.chain import GENESIS_BYTES
    from node.cli.receipt import read_genesis
    from node.local.protocol import decode_blob_untrusted

    client = session.client()
    if genesis is not None:
        founding = read_genesis(genesis)
    else:
        raw = decode_blob_untrusted(client.call("genesis.get")["genesis"], "genesis", bytes_max=GENESIS_BYTES)
        founding = decode_genesis_untrusted(raw)
    events: list[dict[str, Any]] = []
    before = -1
    with session.output.progress("receipts verified", 0) as progress:
        for each in islice(_history(client, subject, name), EVENTS_MAX):
            event = _event(session, founding, each, before)
            before = before if event["log_index"] is None else event["log_index"]
            events.append(event)
            progress.update(len(events))
    if not events:
        raise CommandError("cli.trace.not_found", f"the ledger has nothing about the {subject} {name}")
    return {
        "subject": subject,
        "id": name,
        "chain_id": founding.chain_id,
        "genesis_hash": founding.genesis_hash.hex(),
        "genesis_given": genesis is not None,
        "valid": all(each["receipt"] == "valid" for each in events),
        "complete": len(events) < EVENTS_MAX,
        "events": events,
    }


def _history(client: NodeClient, subject: str, name: str) -> Iterator[dict[str, Any]]:
    """Yield what the node tells about one thing, page by page; each behind the one before."""
    start = (0, 0)
    while True:
        where = {"from": start[0], "from_index": start[1]}
        page = client.call("history", subject=subject, id=name, limit=PAGE, **where)
        for each in page:
            place = (each["height"], each["index"])
            if place < start:
                raise CommandError(
                    "cli.trace.order", "the node tells the story out of order", actual=f"block {place[0]}"
                )
            start = (place[0], place[1] + 1)
            yield each
        if len(page) < PAGE:
            return


def trace_lines(document: dict[str, Any]) -> list[str]:
    """Return a story for a person: each line with its block and place in it, and its proven place in the log of all transactions."""
    lines = []
    for each in document["events"]:
        place = f"{each['height']}.{each['index']}"
        proof = "NOT PROVEN"
        if each["receipt"] == "valid":
            proof = f"log {each['log_index']}, certified by block {each['certified_height']}"
        lines.append(
            f"{place:>9}  {when(each['time_ms'])}  {each['summary']}, by {each['signer']}  [{proof}, {short(each['tx_id'])}]"
        )
        if each["receipt"] != "valid":
            lines.append(f"           {each['receipt']}")
    count = len(document["events"])
    if not document["complete"]:
        lines.append(f"these are the first {count}; `audit export` has all")
    verdict = f"{count} records, every receipt verified against the founding document {short(document['genesis_hash'])}"
    lines.append(verdict if document["valid"] else "NOT EVERY RECEIPT HOLDS")
    return lines


def _event(session: Session, founding: Genesis, document: dict[str, Any], before: int) -> dict[str, Any]:
    """Return one line of the story: what the transaction says, told from its own bytes, and whether its receipt holds.

    Args:
        session: For the node.
        founding: The founding document.
        document: What the node says about the transaction.
        before: The place in the log that is proven for the line before; -1 before the first.
    """
    from ledger.proofs import verify_receipt
    from node.cli.receipt import receipt_from_document

    event = {
        "height": document["height"],
        "index": document["index"],
        "log_index": None,
        "certified_height": None,
        "time_ms": document["time_ms"],
        "tx_id": document["tx_id"],
        "kind": document["kind"],
        "signer": document["signer"] or f"key {short(document['signer_key_id'])}",
    }
    try:
        receipt = receipt_from_document(session.client().call("receipt.get", tx_id=document["tx_id"]))
        transaction = verify_receipt(receipt, founding)
        if transaction.tx_id.hex() != document["tx_id"]:
            raise RejectedError("cli.trace.other_receipt", "the receipt is of another transaction")
        if receipt.log_index <= before or receipt.header.height < document["height"]:
            raise RejectedError(
                "cli.trace.other_place", "the receipt proves another place than the one told", actual=receipt.log_index
            )
    except RejectedError as error:
        return {**event, "summary": document["kind"], "receipt": f"{error.message} [{error.code}]"}
    proven = {"log_index": receipt.log_index, "certified_height": receipt.header.height}
    return {**event, **proven, "summary": summary_of(transaction.body), "receipt": "valid"}


def term_text(from_ms: int | None, until_ms: int | None) -> str:
    """Return the time to which a role is bound, for people."""
    bounds = [f"{word} {when(at)}" for word, at in (("from", from_ms), ("until", until_ms)) if at is not None]
    return " ".join(bounds) or "without bounds"


def summary_of(body: Body) -> str:  # noqa: PLR0912, PLR0915 - one case for each kind of transaction
    """Return what a transaction says, in a few words."""
    from ledger import bodies, rollout_bodies
    from ledger.recovery import Recovery

    text: str = body.KIND
    match body:
        case bodies.IdentityRegister():
            text = f"{body.identity_id} registered as {', '.join(body.roles)}"
        case bodies.IdentityUpdateRoles():
            text = f"{body.identity_id} now holds {', '.join(body.roles)}"
        case bodies.IdentitySetRoleTerm():
            text = f"{body.identity_id} holds {body.role} {term_text(body.from_ms, body.until_ms)}"
        case bodies.IdentityRotateKey():
            text = f"{body.identity_id} rotated key {body.old_key_id.hex()[:12]}"
        case bodies.IdentitySuspend():
            text = f"{body.identity_id} suspended: {body.reason}"
        case bodies.IdentityResume():
            text = f"{body.identity_id} resumed"
        case bodies.IdentityRevoke():
            what = "all keys" if body.key_id is None else f"key {body.key_id.hex()[:12]}"
            text = f"{body.identity_id}: {what} revoked after height {body.last_valid_height}: {body.reason}"
        case bodies.IdentityPublishCrl():
            text = f"revocation list of a CA of {body.organisation}, ending {len(body.key_ids)} keys"
        case bodies.AdministrationSetThreshold():
            text = f"{body.threshold} administrators of {body.organisation} must agree"
        case bodies.AdministrationPropose():
            text = f"proposed: {summary_of(body.act)}"
        case bodies.AdministrationApprove():
            text = f"agreed to act {body.act_id.hex()[:12]}"
        case bodies.AdministrationWithdraw():
            text = f"withdrew act {body.act_id.hex()[:12]}"
        case bodies.ProposalCreate():
            text = f"proposed {body.action.NAME}"
        case bodies.ProposalVote():
            text = f"voted {'for' if body.approve else 'against'} proposal {body.proposal_id.hex()[:12]}"
        case bodies.ProposalWithdraw():
            text = f"withdrew proposal {body.proposal_id.hex()[:12]}"
        case bodies.PatchPublish():
            text = f"patch {body.patch_id.hex()[:12]} published"
        case bodies.PatchAttest():
            text = _attestation_summary(body)
        case bodies.PatchWithdraw():
            text = f"patch {body.patch_id.hex()[:12]} withdrawn: {body.reason}"
        case bodies.DeploymentIntent():
            what = _announced(body)
            text = f"{what} {body.target} decided and announced (record {body.counter})"
        case bodies.DeploymentOutcome():
            text = f"{body.result} for {body.patch_id.hex()[:12]} on {body.target} (record {body.counter})"
        case rollout_bodies.GroupAssign():
            text = f"{len(body.hosts)} hosts assigned to {body.group_id or 'no group'}"
        case rollout_bodies.RolloutCreate():
            text = f"rollout {body.rollout_id} of {body.patch_id.hex()[:12]} to {', '.join(body.groups)} in {len(body.waves)} waves"
        case rollout_bodies.RolloutDecide():
            text = f"rollout {body.rollout_id}: {body.decision}: {body.reason}"
        case bodies.EvidenceSubmit():
            text = _evidence_summary(body)
        case bodies.ValidatorSettle():
            text = f"change of validators settled: committed at height {body.header.height}"
        case Recovery():
            signers = ", ".join(each.identity_id for each in body.approvals)
            text = f"RECOVERED: the majority of the validators was declared lost by {signers}: {body.statement.reason}"
        case bodies.HostReport():
            text = f"report {body.report_kind} about {body.target}{_differing(body)}"
    return text


def _differing(body: Any) -> str:
    """Return what a drift report says of the paths, as far as it can be read."""
    from wire.canonical_json import decode_untrusted

    try:
        document = decode_untrusted(body.body, bytes_max=len(body.body))
    except RejectedError:
        return ""
    if body.report_kind != "drift" or not isinstance(document, dict):
        return ""
    count, paths = document.get("paths_count"), document.get("paths")
    if type(count) is not int:
        return ""
    if document.get("problem") is not None:
        problem, code = str(document["problem"]), str(document.get("problem_code"))
        return f": {problem[:_PROBLEM_CHARACTERS_MAX]} [{code[:_PROBLEM_CHARACTERS_MAX]}]"
    named = [str(path)[:64] for path in paths[:3]] if isinstance(paths, list) else []
    return f": {count} paths differ" + (f", such as {', '.join(named)}" if named else "")


def _announced(body: Any) -> str:
    """Return what an intent announces; a decision that cannot be read is taken for one of an application."""
    from wire.canonical_json import decode_untrusted

    name = body.patch_id.hex()[:12]
    try:
        decision = decode_untrusted(body.decision, bytes_max=len(body.decision))
    except RejectedError:
        decision = None
    facts = decision.get("facts") if isinstance(decision, dict) else None
    is_rollback = isinstance(facts, dict) and facts.get("action") == "rollback_patch"
    return f"rollback of {name} on" if is_rollback else f"application of {name} to"


def _evidence_summary(body: Any) -> str:
    from wire.canonical_json import decode_untrusted

    try:
        document = decode_untrusted(body.proof, bytes_max=len(body.proof))
    except RejectedError as error:
        return f"evidence submitted ({error.code})"
    about = document if isinstance(document, dict) else {}
    against = f" against {str(about['validator'])[:12]}" if "validator" in about else ""
    return f"evidence of {str(about.get('kind'))[:32]} submitted{against}"


def _attestation_summary(body: Any) -> str:
    from provenance.statement import AttestationStatement, decode_attestation_statement_untrusted
    from wire.envelope import decode_envelope_untrusted
    from wire.limits import TRAILER_LINE_BYTES_MAX

    try:
        envelope = decode_envelope_untrusted(body.envelope, bytes_max=TRAILER_LINE_BYTES_MAX)
        statement = decode_attestation_statement_untrusted(envelope.payload)
    except RejectedError as error:
        return f"patch {body.patch_id.hex()[:12]} attested ({error.code})"
    if not isinstance(statement, AttestationStatement):
        return f"patch {body.patch_id.hex()[:12]} sealed"
    said = {"approve": "approved", "reject": "rejected"}.get(str(statement.verdict), "commented on")
    return f"patch {body.patch_id.hex()[:12]} {said} by {statement.attestor.identity} as {statement.role}"
