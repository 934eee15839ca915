"""`patchwarden checkpoint`: a certified header as a small text, to be carried by hand and trusted instead of a founding document."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.command import Command, Session, group
from node.cli.lazy import Place
from node.cli.output import fields
from node.cli.params import FILE, FILE_OR_DASH
from node.cli.trusted import read_checkpoint, read_trusted, trust_options, trust_text

if TYPE_CHECKING:
    from ledger.checkpoint import Checkpoint

checkpoint = group(
    "Carry a certified header by hand.\n\nA checkpoint is a few lines of text. Whoever trusts one verifies receipts and state proofs "
    "from it, without the founding document and without a network.",
    {
        "get": Place("node.cli.checkpoint:get", "Get a node's newest certified header as a text."),
        "show": Place("node.cli.checkpoint:show", "Show what a checkpoint says."),
        "verify": Place("node.cli.checkpoint:verify", "Verify a checkpoint, and that it extends another one."),
        "accuse": Place("node.cli.checkpoint:accuse", "Put two histories that contradict each other on record."),
    },
)

_FILE = click.argument("file", type=FILE_OR_DASH, metavar="FILE")


@click.command(
    "get",
    cls=Command,
    node=True,
    examples=(
        "patchwarden checkpoint get --out today.checkpoint",
        "patchwarden checkpoint get --height 4000 --rpc http://127.0.0.1:7080",
    ),
)
@click.option("--height", type=click.IntRange(min=1), metavar="H", help="The newest one up to this height.")
@click.option("--out", type=FILE_OR_DASH, metavar="FILE", help="Write it to FILE. Default: show it.")
@click.pass_obj
def get(session: Session, height: int | None, out: Path | None) -> None:
    """Get a node's newest certified header as a text. Its form is checked; nothing is trusted yet."""
    from ledger.checkpoint import checkpoint_from_text_untrusted
    from node.cli.files import write_file

    text: str = session.client().call("checkpoint.get", height=height)
    found = checkpoint_from_text_untrusted(text.encode())
    document = checkpoint_document(found)
    if out is None:
        session.output.emit({**document, "text": text}, text.splitlines())
        return
    write_file(out, text.encode())
    session.output.emit(
        {**document, "file": str(out)}, fields((("checkpoint of height", found.height), ("written to", out)))
    )


@click.command("show", cls=Command, examples=("patchwarden checkpoint show today.checkpoint",))
@_FILE
@click.pass_obj
def show(session: Session, file: Path) -> None:
    """Show what the checkpoint in FILE says. Its form is checked, its signatures are not: `checkpoint verify` does that."""
    document = checkpoint_document(read_checkpoint(file))
    session.output.emit(document, _lines(document))


@click.command(
    "verify",
    cls=Command,
    node=True,
    examples=(
        "patchwarden checkpoint verify today.checkpoint --genesis genesis.json",
        "patchwarden checkpoint verify today.checkpoint --checkpoint january.checkpoint --consistency proof.json",
        "patchwarden checkpoint verify today.checkpoint --checkpoint january.checkpoint --rpc http://127.0.0.1:7080",
    ),
)
@_FILE
@trust_options
@click.option(
    "--consistency",
    type=FILE_OR_DASH,
    metavar="PROOF",
    help="With --checkpoint: the proof that the log only grew, by `proof consistency`. With a node named, it is asked.",
)
@click.pass_obj
def verify(
    session: Session, file: Path, genesis: Path | None, checkpoint: Path | None, consistency: Path | None
) -> None:
    """Verify the checkpoint in FILE. Exit code 1 when it does not hold, or contradicts the one that you trust."""
    from ledger.checkpoint import verify_checkpoint
    from ledger.consistency import ConsistencyProof, verify_extends
    from node.cli.trusted import read_json
    from wire.limits import MEBIBYTE

    trusted = read_trusted(genesis, checkpoint)
    found = read_checkpoint(file)
    verify_checkpoint(found, trusted)
    before, after = trusted.header, found.header
    grew: bool | None = None
    if before is not None and (consistency is not None or session.has_node):
        if before.log_size > after.log_size:
            before, after = after, before
        if consistency is not None:
            value = read_json(consistency, MEBIBYTE)
        else:
            value = session.client().call("proofs.consistency", **{"from": before.log_size, "to": after.log_size})
        verify_extends(ConsistencyProof.from_json_untrusted(value), before, after)
        grew = True
    elif consistency is not None:
        raise click.UsageError("--consistency joins two checkpoints: name the other one with --checkpoint")
    document = checkpoint_document(found)
    session.output.emit(
        {"valid": True, **document, "consistent": grew},
        [
            *fields(
                (
                    ("checkpoint", "valid"),
                    ("because of", trust_text(trusted)),
                    ("the log only grew", "proven" if grew else None),
                )
            ),
            *_lines(document),
        ],
    )


@click.command(
    "accuse",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=(
        "patchwarden checkpoint accuse ~/.patchwarden/checkpoints/split-view-812-9f86d081884c7d65.json --key alice.key",
    ),
)
@click.argument("file", type=FILE, metavar="FILE")
@click.pass_obj
def accuse(session: Session, file: Path) -> None:
    """Put the evidence in FILE on record: that the validators have certified two histories. Anybody registered may sign.

    A node writes such a file when it finds a checkpoint of a peer that contradicts its own chain.
    """
    from ledger.bodies import EvidenceSubmit
    from ledger.checkpoint import SplitView
    from ledger.limits import EVIDENCE_BYTES_MAX
    from node.cli.submit import submit_body
    from node.cli.trusted import read_json
    from wire import canonical_json

    split = SplitView.from_json_untrusted(read_json(file, 2 * EVIDENCE_BYTES_MAX))
    body = EvidenceSubmit(canonical_json.encode(split.to_json()))
    submit_body(session, body, (("on record", f"two histories at height {split.height}"),))


def checkpoint_document(found: Checkpoint) -> dict[str, Any]:
    """Return what a checkpoint says."""
    from node.cli.recovery_mark import marks_of
    from node.documents import header_document

    names = {each.key_id: each.name for each in found.configuration.configuration.nodes}
    return {
        **header_document(found.header),
        "signers": [names[key_id] for key_id, _ in found.certificate.signatures],
        "validators": [each.name for each in found.configuration.configuration.voters],
        "validator_changes": len(found.configuration.changes),
        "recoveries": marks_of(found.configuration),
    }


def _lines(document: dict[str, Any]) -> list[str]:
    from node.cli.recovery_mark import mark_lines

    return list(
        fields(
            (
                ("chain", document["chain_id"]),
                ("height", f"{document['height']}, term {document['term']}"),
                ("block", document["block_hash"]),
                ("log", f"{document['log_size']} transactions, root {document['log_root']}"),
                ("state root", document["state_root"]),
                ("signed by", f"{', '.join(document['signers'])} of {', '.join(document['validators'])}"),
                ("changes of validators since the founding", document["validator_changes"] or None),
            )
        )
    ) + mark_lines(document["recoveries"])
