"""`patchwarden audit replay`: from the founding document to the tip, believing nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session
from node.cli.output import fields
from node.cli.params import FILE

if TYPE_CHECKING:
    from ledger.audit import AuditSummary
    from ledger.genesis import Genesis
    from node.cli.chain import ChainSource
    from node.cli.output import Output

FINDINGS_SHOWN_MAX: Final = 50
"""Findings printed; the report has all of them."""


@click.command(
    "replay",
    cls=Command,
    node=True,
    examples=(
        "patchwarden audit replay --rpc http://127.0.0.1:7080 --genesis genesis.json",
        "patchwarden audit replay --home /srv/v1 --level signatures",
        "patchwarden audit replay --archive chain.archive --jobs 4 --report report.html",
    ),
)
@click.option("--archive", type=FILE, metavar="FILE", help="Read this archive instead of a node.")
@click.option(
    "--genesis", type=FILE, metavar="FILE", help="The founding document that you trust. Default: the source's own."
)
@click.option(
    "--level",
    type=click.Choice(["headers", "signatures", "full"]),
    default="full",
    show_default=True,
    help="Links and roots; and validators' signatures; and every transaction with the state after it.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1, max=256),
    metavar="N",
    help="Processes that verify signatures. Default: one for each processor.",
)
@click.option("--report", type=FILE, metavar="FILE", help="Write the result to FILE: .json or .html.")
@click.pass_obj
def replay(  # noqa: PLR0917 - one parameter for each option
    session: Session, archive: Path | None, genesis: Path | None, level: str, jobs: int | None, report: Path | None
) -> None:
    """Derive the whole chain again from its founding document: links, Merkle roots, signatures, state, elections, certificates.

    Reads a live node (--rpc, or --home of a running one), the store of a stopped node (--home) or an archive. Exit code 1 with findings.
    """
    from node.cli.chain import open_chain

    if report is not None and report.suffix not in (".json", ".html"):
        raise click.UsageError("--report is a .json or an .html file")
    if archive is not None and session.has_node:
        raise click.UsageError("--archive and a node exclude each other")
    with open_chain(session, archive) as source:
        document = run_replay(source, genesis, level, jobs, session.output)
    if report is not None:
        _write_report(report, document)
    session.output.emit(document, replay_lines(document))
    if document["findings"]:
        click.get_current_context().exit(1)


def run_replay(
    source: ChainSource, genesis: Path | None, level: str, jobs: int | None, output: Output
) -> dict[str, Any]:
    """Return what replaying a chain came to, as a document.

    Raises:
        RejectedError: The founding document is refused, or another one was given than the chain's (``cli.audit.other_genesis``).
    """
    from ledger.audit import AuditLevel, Auditor
    from ledger.genesis import decode_genesis_untrusted
    from node.cli.receipt import read_genesis
    from node.cli.verify_pool import VerifyPool, default_workers

    founding = decode_genesis_untrusted(source.genesis) if genesis is None else read_genesis(genesis)
    workers = jobs or default_workers()
    begin = time.monotonic()
    with VerifyPool(workers) as pool, output.progress("blocks replayed", source.height) as progress:
        auditor = Auditor(founding, level=AuditLevel(level), verifier=pool)
        for block in source.blocks:
            for finding in auditor.feed(block.block, block.certificate):
                output.note(f"block {finding.height}: {finding.message} [{finding.what}]")
            progress.update(auditor.height)
        summary = auditor.finish()
    return _document(source, founding, level, summary, time.monotonic() - begin, is_trusted=genesis is not None)


def _document(
    source: ChainSource,
    founding: Genesis,
    level: str,
    summary: AuditSummary,
    seconds: float,
    *,
    is_trusted: bool,
) -> dict[str, Any]:
    return {
        "valid": not summary.findings,
        "source": source.name,
        "chain_id": founding.chain_id,
        "genesis_hash": founding.genesis_hash.hex(),
        "genesis_given": is_trusted,
        "level": level,
        "blocks": summary.blocks,
        "transactions": summary.transactions,
        "height": summary.height,
        "certified_height": summary.certified_height,
        "block_hash": summary.tip.hash().hex(),
        "state_root": summary.state_root.hex() if level == "full" else None,
        "seconds": round(seconds, 3),
        "transactions_per_second": round(summary.transactions / seconds) if seconds > 0 else None,
        "findings": [
            {
                "height": each.height,
                "index": each.index,
                "what": each.what,
                "message": each.message,
                "expected": each.expected,
                "actual": each.actual,
            }
            for each in summary.findings
        ],
    }


def replay_lines(document: dict[str, Any]) -> list[str]:
    """Return a replay's result for a person."""
    trust = (
        "given by you"
        if document["genesis_given"]
        else "as the source tells it; --genesis names the one that you trust"
    )
    lines = list(
        fields(
            (
                ("chain", f"{document['chain_id']} from {document['source']}"),
                ("founding document", f"{document['genesis_hash']} ({trust})"),
                ("level", document["level"]),
                (
                    "replayed",
                    f"{document['blocks']} blocks, {document['transactions']} transactions in {document['seconds']:.1f} s",
                ),
                ("certified up to height", document["certified_height"]),
                ("tip", document["block_hash"]),
                ("state root", document["state_root"]),
                ("findings", len(document["findings"])),
            )
        )
    )
    for each in document["findings"][:FINDINGS_SHOWN_MAX]:
        place = f"block {each['height']}" + (f", transaction {each['index']}" if each["index"] is not None else "")
        lines.append(f"  {place}: {each['message']} [{each['what']}]")
        if each["expected"] or each["actual"]:
            lines.append(f"    derived: {each['expected']}")
            lines.append(f"    chain says: {each['actual']}")
    if len(document["findings"]) > FINDINGS_SHOWN_MAX:
        lines.append(
            f"  … and {len(document['findings']) - FINDINGS_SHOWN_MAX} more: --report or -o json has all of them"
        )
    lines.append("the chain holds" if document["valid"] else "THE CHAIN DOES NOT HOLD")
    return lines


def _write_report(path: Path, document: dict[str, Any]) -> None:
    import json

    from node.cli.files import write_file

    if path.suffix == ".json":
        write_file(path, json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n")
        return
    from node.cli.audit_report import render_html

    write_file(path, render_html(document).encode())
