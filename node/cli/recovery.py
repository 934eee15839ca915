"""`patchwarden recovery`: going on when a majority of the validators is lost for good, by the organisations' word."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session, group
from node.cli.lazy import Place
from node.cli.output import fields, time_text
from node.cli.params import FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.genesis import Genesis
    from node.recovery import RecoveryFile

recovery = group(
    "Go on when a majority of the validators is lost for good.\n\nA last resort: what the lost validators certified and no survivor "
    "has is given up, and the mark stays on the chain for ever. See docs/operations/backup.md.",
    {
        "propose": Place("node.cli.recovery:propose", "Write the statement, from a stopped survivor."),
        "show": Place("node.cli.recovery:show", "Verify a recovery and show what it says."),
        "sign": Place("node.cli.recovery:sign", "Sign it as an administrator; no node is needed."),
        "apply": Place("node.cli.recovery:apply", "Put the signed recovery on a stopped survivor."),
    },
)

_FILE: Final = click.argument("path", type=FILE, metavar="FILE")
_GENESIS: Final = click.option(
    "--genesis", type=FILE, required=True, metavar="FILE", help="The network's founding document, which you trust."
)
_UNDERSTAND: Final = click.option(
    "--i-understand-that-data-may-be-lost",
    "is_understood",
    is_flag=True,
    required=True,
    help="Say that the majority is lost for good, and that what it certified above the kept height is given up.",
)


@click.command(
    "propose",
    cls=Command,
    home=True,
    examples=(
        'patchwarden recovery propose --home /srv/v1 --survivor v1 --reason "fire in two data centres" --out recovery.json',
        "patchwarden recovery propose --home /srv/n1 --newcomer n1 acme /ip4/192.0.2.9/tcp/7070 \\\n"
        '      --reason "all validators lost, restored from the backup of 3 May" --out recovery.json',
    ),
)
@click.option("--survivor", "survivors", multiple=True, metavar="NAME", help="A validator that is left; several times.")
@click.option(
    "--newcomer",
    type=(str, str, str),
    metavar="NAME ORGANISATION MULTIADDR",
    help="Let the node at the home, under its own new key, be a validator: where nobody is left.",
)
@click.option("--reason", required=True, metavar="TEXT", help="Why. It stands on the chain for ever.")
@click.option("--out", type=FILE, required=True, metavar="FILE", help="Where the statement goes.")
@click.pass_obj
def propose(
    session: Session, survivors: tuple[str, ...], newcomer: tuple[str, str, str] | None, reason: str, out: Path
) -> None:
    """Write the statement that the administrators then sign: the last certified height here is kept, the named validators decide above it.

    Use the survivor with the highest certified height.
    """
    from ledger.configuration import Validator
    from node.cli.files import write_file
    from node.cli.store import open_stopped
    from node.clock import now_ms
    from node.config import Home
    from node.keystore import load_key
    from node.net.address import parse_address_untrusted
    from node.recovery import propose_recovery
    from node.storage.block_store import BlockStore

    place = session.node_home()
    newcomers = []
    if newcomer is not None:
        name, organisation, address = newcomer
        parse_address_untrusted(address)
        newcomers.append(Validator(name, organisation, load_key(Home(place).node_key).public_key.spki, address))
    if not survivors and not newcomers:
        raise click.UsageError("name who decides from now on: --survivor NAME, or --newcomer …")
    with open_stopped(place) as (_, store):
        file = propose_recovery(BlockStore(store), survivors, tuple(newcomers), reason, now_ms())
    write_file(out, file.encode(), replace=False)
    document = _document(file)
    session.output.emit({**document, "file": str(out)}, [*_lines(document), f"written to {out}: now `recovery sign`"])


@click.command("show", cls=Command, examples=("patchwarden recovery show recovery.json --genesis genesis.json",))
@_FILE
@_GENESIS
@click.pass_obj
def show(session: Session, path: Path, genesis: Path) -> None:
    """Verify everything in FILE from the founding document and show what it says and who has signed."""
    document = _document(_read(path, genesis)[0])
    session.output.emit(document, _lines(document))


@click.command(
    "sign",
    cls=Command,
    signs=True,
    examples=(
        "patchwarden recovery sign recovery.json --genesis genesis.json --key ada.key --i-understand-that-data-may-be-lost",
    ),
)
@_FILE
@_GENESIS
@_UNDERSTAND
@click.pass_obj
def sign(session: Session, path: Path, genesis: Path, is_understood: bool) -> None:
    """Add your signature to FILE, as an active administrator of an organisation that has a vote. You answer for it."""
    from node.cli.files import write_file

    assert is_understood, "the option is required"
    file = _read(path, genesis)[0].signed(session.key())
    write_file(path, file.encode())
    document = _document(file)
    session.output.emit(document, _lines(document))


@click.command(
    "apply",
    cls=Command,
    home=True,
    examples=("patchwarden recovery apply recovery.json --home /srv/v1 --i-understand-that-data-may-be-lost",),
)
@_FILE
@_UNDERSTAND
@click.pass_obj
def apply(session: Session, path: Path, is_understood: bool) -> None:
    """Put the recovery in FILE, signed by enough organisations, on the stopped node at the home. Every survivor applies the same file."""
    from node.cli.store import open_stopped
    from node.config import Home
    from node.recovery import apply_recovery
    from node.storage.block_store import BlockStore

    assert is_understood, "the option is required"
    place = session.node_home()
    file, _ = _read(path, Home(place).genesis)
    file.recovery.verify()
    with open_stopped(place) as (_, store):
        applied = apply_recovery(BlockStore(store), file.recovery, place)
    document = {
        "height": applied.height,
        "block_hash": applied.block_hash,
        "applied_before": not applied.is_new,
        "blocks_dropped": len(applied.dropped),
        "transactions_dropped": applied.dropped_transactions,
        "validators": _document(file)["validators"],
    }
    kept = f"{len(applied.dropped)} with {applied.dropped_transactions} transactions; kept in {place / 'recovery'}"
    session.output.emit(
        document,
        [
            *fields(
                (
                    ("recovered at height", applied.height),
                    ("block", f"{applied.block_hash} (the same on every survivor)"),
                    ("blocks dropped", kept if applied.dropped else "none"),
                    ("validators", ", ".join(document["validators"])),
                )
            ),
            "applied before; nothing has changed" if document["applied_before"] else "now start the node",
        ],
    )


def _read(path: Path, genesis: Path) -> tuple[RecoveryFile, Genesis]:
    from node.cli.files import read_file
    from node.cli.trusted import read_genesis
    from node.recovery import FILE_BYTES_MAX, RecoveryFile

    file, founding = RecoveryFile.decode_untrusted(read_file(path, FILE_BYTES_MAX)), read_genesis(genesis)
    file.verify(founding)
    return file, founding


def _document(file: RecoveryFile) -> dict[str, Any]:
    from ledger.audit_state import mark_of

    statement, mark = file.recovery.statement, mark_of(file.recovery)
    return {
        "chain_id": statement.header.chain_id,
        "kept_height": mark.kept_height,
        "kept_block_hash": statement.header.hash().hex(),
        "kept_time_ms": statement.header.time_ms,
        "log_height": mark.log_height,
        "height": mark.height,
        "term": mark.term,
        "time_ms": statement.time_ms,
        "validators": list(mark.voters),
        "lost": list(mark.lost),
        "reason": mark.reason,
        "signers": list(mark.signers),
        "signatures_needed": file.needed,
        "is_signed": file.is_signed,
        "may_sign": [
            each.identity_id
            for each in file.candidates
            if each.organisation not in {signed.organisation for signed in file.recovery.approvals}
        ],
    }


def _lines(document: dict[str, Any]) -> Iterator[str]:
    dropped = document["log_height"] - document["kept_height"]
    left = document["signatures_needed"] - len(document["signers"])
    yield from fields(
        (
            ("network", document["chain_id"]),
            ("kept up to height", f"{document['kept_height']}, {time_text(document['kept_time_ms'])}"),
            ("block", document["kept_block_hash"]),
            ("GIVEN UP", "whatever was certified above, and no survivor has: nobody can list it"),
            ("dropped", f"{dropped} blocks that were never certified here" if dropped else None),
            ("recovery block", f"height {document['height']}, term {document['term']}"),
            ("validators from there on", ", ".join(document["validators"])),
            ("lost for good", ", ".join(document["lost"])),
            ("reason", document["reason"]),
            ("signed by", ", ".join(document["signers"]) or "nobody yet"),
            (
                "signatures",
                f"{left} more organisations must sign: {', '.join(document['may_sign'])} may" if left > 0 else "enough",
            ),
        )
    )
