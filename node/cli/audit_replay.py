"""`patchwarden audit replay`: from the founding document to the tip, believing nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from node.cli.command import Command, Session
from node.cli.errors import EXIT_CORRUPTION, EXIT_NO
from node.cli.output import fields
from node.cli.params import FILE
from node.cli.recovery_mark import mark_lines

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
        "patchwarden audit replay --archive chain.archive --resume chain.audit",
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
@click.option(
    "--resume",
    type=FILE,
    metavar="FILE",
    help="Keep in FILE how far the replay is, and go on from there if it exists: after an interruption, or when the chain has grown.",
)
@click.option("--report", type=FILE, multiple=True, metavar="FILE", help="Write the result to FILE: .json or .html.")
@click.pass_obj
def replay(  # noqa: PLR0917 - one parameter for each option
    session: Session,
    archive: Path | None,
    genesis: Path | None,
    level: str,
    jobs: int | None,
    resume: Path | None,
    report: tuple[Path, ...],
) -> None:
    """Derive the whole chain again from its founding document: links, Merkle roots, signatures, state, elections, certificates.

    Reads a live node (--rpc, or --home of a running one), the store of a stopped node (--home) or an archive. Exit code 1 with findings,
    4 when what a home stores is damaged.
    """
    from node.cli.audit_report import write_report
    from node.cli.audit_run import run_replay
    from node.cli.chain import open_chain
    from node.cli.verify_pool import VerifyPool, default_workers

    if any(each.suffix not in (".json", ".html") for each in report):
        raise click.UsageError("--report is a .json or an .html file")
    if archive is not None and session.has_node:
        raise click.UsageError("--archive and a node exclude each other")
    workers = (jobs or default_workers()) if level != "headers" else 1
    # Before anything else runs in this process: workers are forked only then.
    with VerifyPool(workers) as pool, open_chain(session, archive) as source:
        document = run_replay(source, genesis, level, pool, session.output, resume)
    for each in report:
        write_report(each, document)
    session.output.emit(document, replay_lines(document))
    if document["findings"]:
        is_damaged = any(each["what"].startswith("node.storage.") for each in document["findings"])
        click.get_current_context().exit(EXIT_CORRUPTION if is_damaged else EXIT_NO)


def replay_lines(document: dict[str, Any]) -> list[str]:
    """Return a replay's result for a person."""
    trust = (
        "given by you"
        if document["genesis_given"]
        else "as the source tells it; --genesis names the one that you trust"
    )
    rate = f", {document['transactions_per_second']} a second" if document["transactions_per_second"] else ""
    count = len(document["findings"]) + document["findings_omitted"]
    lines = list(
        fields(
            (
                ("chain", f"{document['chain_id']} from {document['source']}"),
                ("founding document", f"{document['genesis_hash']} ({trust})"),
                ("level", document["level"]),
                (
                    "replayed",
                    f"{document['blocks']} blocks, {document['transactions']} transactions in {document['seconds']:.1f} s{rate}",
                ),
                ("certified up to height", document["certified_height"]),
                ("tip", document["block_hash"]),
                ("state root", document["state_root"]),
                ("findings", count),
            )
        )
    )
    lines += mark_lines(document["recoveries"])
    for number, each in enumerate(document["findings"][:FINDINGS_SHOWN_MAX]):
        head = "first divergence: " if number == 0 else ""
        lines.append(f"  {head}{place_of(each)}: {each['message']} [{each['what']}]")
        if each["expected"] or each["actual"]:
            lines.append(f"    derived:    {each['expected']}")
            lines.append(f"    chain says: {each['actual']}")
    if count > FINDINGS_SHOWN_MAX:
        lines.append(f"  … and {count - FINDINGS_SHOWN_MAX} more: --report or -o json has them")
    lines.append("the chain holds" if document["valid"] else "THE CHAIN DOES NOT HOLD")
    return lines


def place_of(finding: dict[str, Any]) -> str:
    """Return where a finding is, for people."""
    place = f"block {finding['height']}" if finding["height"] else "founding document"
    return place if finding["index"] is None else f"{place}, transaction {finding['index']}"
