"""`patchwarden block`: the chain, block by block."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import click

from node.cli.command import Command, Session, group
from node.cli.lazy import Place
from node.cli.output import fields, short, table

HEX_DIGITS: Final = 64

block = group(
    "Show, list and follow blocks.",
    {
        "show": Place("node.cli.block:show", "Show one block."),
        "list": Place("node.cli.block:list_blocks", "List blocks, the newest first."),
        "follow": Place("node.cli.block:follow", "Print blocks as they are committed."),
    },
)


@click.command(
    "show",
    cls=Command,
    node=True,
    examples=("patchwarden block show latest", "patchwarden block show 812 -o json"),
)
@click.argument("block", metavar="HEIGHT|HASH|latest")
@click.pass_obj
def show(session: Session, block: str) -> None:
    """Show one block: its header, its transactions, its commit certificate."""
    client = session.client()
    if block == "latest":
        document = client.call("blocks.get", height=client.call("status")["height"])
    elif block.isdecimal() and len(block) < HEX_DIGITS:
        document = client.call("blocks.get", height=int(block))
    elif len(block) == HEX_DIGITS:
        document = client.call("blocks.get", hash=block.lower())
    else:
        raise click.UsageError("a block is named by its height, its hash of 64 digits, or `latest`")
    session.output.emit(document, _lines(document))


@click.command(
    "list",
    cls=Command,
    node=True,
    examples=("patchwarden block list", "patchwarden block list --from 800 --limit 20"),
)
@click.option(
    "--from", "start", type=click.IntRange(min=0), metavar="H", help="Begin at this height. Default: the newest."
)
@click.option("--limit", type=click.IntRange(min=1, max=500), default=20, show_default=True, help="How many.")
@click.pass_obj
def list_blocks(session: Session, start: int | None, limit: int) -> None:
    """List blocks downwards from a height."""
    params = {"limit": limit} | ({} if start is None else {"from": start})
    found = session.client().call("blocks.list", **params)
    rows = [
        (each["height"], each["term"], when(each["time_ms"]), each["transactions"], short(each["block_hash"], 16))
        for each in found
    ]
    session.output.emit(found, table(rows, ("height", "term", "time", "transactions", "hash")))


@click.command(
    "follow",
    cls=Command,
    node=True,
    examples=("patchwarden block follow", "patchwarden block follow --from 1 -o json | jq .height"),
)
@click.option(
    "--from", "start", type=click.IntRange(min=0), metavar="H", help="Begin at this height. Default: the next."
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after this many blocks.")
@click.pass_obj
def follow(session: Session, start: int | None, count: int | None) -> None:
    """Print every block from a height on, in order, without gap or repeat, until interrupted. JSON is one line a block."""
    params = {} if start is None else {"from_height": start}
    for number, each in enumerate(session.client().stream("events.subscribe", **params), start=1):
        transactions = each["transactions"]
        kinds = ", ".join(sorted({one["kind"] for one in transactions}))
        line = f"{each['height']:>8}  {when(each['time_ms'])}  term {each['term']}  {len(transactions)} tx  {kinds}"
        session.output.emit_event(each, line.rstrip())
        if number == count:
            return


def when(time_ms: int) -> str:
    """Return milliseconds since the epoch as a time in UTC for people."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _lines(document: dict[str, Any]) -> list[str]:
    certificate = document["certificate"]
    signed = None
    if certificate is not None:
        signed = f"{len(certificate['signatures'])} validators of term {certificate['term']}"
    return [
        *fields(
            (
                ("height", document["height"]),
                ("hash", document["block_hash"]),
                ("previous", document["previous_hash"]),
                ("time", f"{when(document['time_ms'])} UTC"),
                ("term", document["term"]),
                ("proposer", document["proposer"]),
                ("state root", document["state_root"]),
                ("log", f"{document['log_size']} transactions, root {document['log_root']}"),
                ("policy", document["policy_hash"]),
                ("election", "first block of its term" if document["election_certificate"] else None),
                ("certified by", signed or "a later block's certificate"),
                ("size", f"{document['size_bytes']} bytes"),
            )
        ),
        f"transactions: {len(document['transactions'])}",
        *(f"  {tx_id}" for tx_id in document["transactions"]),
    ]
