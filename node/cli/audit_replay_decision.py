"""`patchwarden audit replay-decision`: every decision on the ledger again, from the ledger alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session
from node.cli.errors import EXIT_CORRUPTION, EXIT_NO, CommandError
from node.cli.output import fields, short
from node.cli.params import DIGEST, FILE

if TYPE_CHECKING:
    from agent.decision import Decision
    from node.cli.audit_decisions import DecisionReplay

FINDINGS_SHOWN_MAX: Final = 50
"""Findings printed; JSON has all that are kept."""


@click.command(
    "replay-decision",
    cls=Command,
    node=True,
    examples=(
        "patchwarden audit replay-decision --all --rpc http://127.0.0.1:7080 --genesis genesis.json",
        "patchwarden audit replay-decision --all --archive chain.archive -o json",
        "patchwarden audit replay-decision 7c1e… --home /srv/v1",
    ),
)
@click.argument("tx", type=DIGEST, required=False, metavar="[TX]")
@click.option("--all", "is_all", is_flag=True, help="Every decision of every host.")
@click.option("--archive", type=FILE, metavar="FILE", help="Read this archive instead of a node.")
@click.option(
    "--genesis", type=FILE, metavar="FILE", help="The founding document that you trust. Default: the source's own."
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1, max=256),
    metavar="N",
    help="Processes that verify signatures. Default: one for each processor.",
)
@click.pass_obj
def replay_decision(  # noqa: PLR0917 - one parameter for each option
    session: Session, tx: str | None, is_all: bool, archive: Path | None, genesis: Path | None, jobs: int | None
) -> None:
    """Judge the decision that the record TX carries (an intent, or a refusal's outcome), or all of them, again from the ledger alone.

    The whole chain is replayed from its founding document; each decision is compared with the state after the block that it names: policy,
    facts, verdict. Exit code 1 with findings, also about the chain itself; 4 when what a home stores is damaged.
    """
    if (tx is None) != is_all:
        raise click.UsageError("say either TX or --all")
    if archive is not None and session.has_node:
        raise click.UsageError("--archive and a node exclude each other")
    document = run(session, tx, archive, genesis, jobs)
    session.output.emit(document, decision_lines(document))
    if document["chain_findings"] and any(
        each["what"].startswith("node.storage.") for each in document["chain_findings"]
    ):
        click.get_current_context().exit(EXIT_CORRUPTION)
    if not document["valid"]:
        click.get_current_context().exit(EXIT_NO)


def run(
    session: Session, tx: str | None, archive: Path | None, genesis: Path | None, jobs: int | None
) -> dict[str, Any]:
    """Return what judging the decisions again came to, as a document.

    Raises:
        CommandError: ``cli.decision.not_found``, ``cli.decision.none``.
    """
    from node.cli.audit_decisions import DecisionReplay, Spill
    from node.cli.audit_run import run_replay
    from node.cli.chain import open_chain
    from node.cli.verify_pool import VerifyPool, default_workers

    begin = time.monotonic()
    # Before anything else runs in this process: workers are forked only then.
    with VerifyPool(jobs or default_workers()) as pool, Spill() as spill:
        watcher = DecisionReplay(spill, None if tx is None else bytes.fromhex(tx))
        with open_chain(session, archive) as source:
            watcher.collect(source.read(1))
        with open_chain(session, archive) as source:
            replayed = run_replay(source, genesis, "full", pool, session.output, watcher=watcher)
        return _document(watcher, replayed, tx, time.monotonic() - begin)


def _document(watcher: DecisionReplay, replayed: dict[str, Any], tx: str | None, seconds: float) -> dict[str, Any]:
    counts = watcher.counts
    decisions = counts.intents + counts.refusals
    if tx is not None and not decisions:
        if counts.without_decision:
            raise CommandError("cli.decision.none", "the decision did not fit into its record", actual=tx)
        raise CommandError("cli.decision.not_found", "the ledger has no such record with a decision", actual=tx)
    findings = [each.to_json() for each in watcher.findings]
    is_whole = not findings and not counts.unjudged
    return {
        "valid": is_whole and bool(replayed["valid"]),
        "chain_id": replayed["chain_id"],
        "source": replayed["source"],
        "source_kind": replayed["source_kind"],
        "genesis_hash": replayed["genesis_hash"],
        "genesis_given": replayed["genesis_given"],
        "height": replayed["height"],
        "transactions": replayed["transactions"],
        "decisions": decisions,
        **asdict(counts),
        "same": decisions - counts.different - counts.unjudged,
        "hosts": len(watcher.hosts),
        "seconds": round(seconds, 3),
        "decision": None if watcher.shown is None else _decision_document(watcher.shown),
        "chain_valid": replayed["valid"],
        "chain_findings": replayed["findings"],
        "findings_omitted": watcher.findings_count - len(findings),
        "findings": findings,
    }


def _decision_document(decision: Decision) -> dict[str, Any]:
    return {**decision.to_json(), "sentence": decision.sentence()}


def decision_lines(document: dict[str, Any]) -> Iterator[str]:
    """Yield the result for a person."""
    trust = "given by you" if document["genesis_given"] else "as the source tells it"
    yield from fields(
        (
            ("chain", f"{document['chain_id']} from {document['source']}"),
            ("founding document", f"{document['genesis_hash']} ({trust})"),
            ("replayed", f"{document['height']} blocks, {document['transactions']} transactions"),
            (
                "decisions",
                f"{document['decisions']} of {document['hosts']} hosts: {document['intents']} announced, "
                f"{document['refusals']} refusals by policy; {document['allowed']} allowed, {document['denied']} denied",
            ),
            (
                "not in their record",
                f"{document['without_decision']} decisions" if document["without_decision"] else None,
            ),
            ("not judged", f"{document['unjudged']} decisions" if document["unjudged"] else None),
            ("the same again", document["same"]),
            ("different", document["different"]),
            ("time", f"{document['seconds']:.1f} s"),
        )
    )
    decision = document["decision"]
    if decision is not None:
        yield f"decision: {decision['sentence']}"
        yield f"  at height {decision['height']} under policy {decision['policy_version']} ({short(decision['policy_hash'])})"
    for each in document["findings"][:FINDINGS_SHOWN_MAX]:
        where = f"block {each['height']}, transaction {each['index']} ({short(each['tx_id'])})"
        yield f"  {where}: {each['host']} on {each['target']}, patch {short(each['patch_id'])}"
        member = f"{each['member']}: " if each["member"] else ""
        yield f"    {member}{each['message']} [{each['code']}]"
        if each["recorded"] or each["derived"]:
            yield f"    recorded: {each['recorded']}"
            yield f"    ledger:   {each['derived']}"
    hidden = len(document["findings"]) + document["findings_omitted"] - FINDINGS_SHOWN_MAX
    if hidden > 0:
        yield f"  … and {hidden} more: -o json has those that are kept"
    if not document["chain_valid"]:
        yield f"THE CHAIN DOES NOT HOLD: {len(document['chain_findings'])} findings, `audit replay` tells them"
    elif document["valid"]:
        yield "every decision comes out as it was recorded"
    else:
        yield f"{document['different']} DECISIONS ARE NOT WHAT THE LEDGER SAYS"
