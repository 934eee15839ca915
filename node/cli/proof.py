"""`patchwarden proof`: what the ledger says of one thing, and that its log only grew, for people who ask no node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session, group
from node.cli.lazy import Place
from node.cli.output import fields
from node.cli.params import FILE, FILE_OR_DASH
from node.cli.trusted import read_json, read_trusted, trust_options, trust_text
from wire.limits import TX_BYTES_MAX

if TYPE_CHECKING:
    from ledger.state_proof import CertifiedStateProof
    from ledger.trust import TrustedHead

PROOF_BYTES_MAX: Final = 6 * TX_BYTES_MAX
"""The longest state proof: that of a policy set after many changes of the validators."""

SHOWN_MAX: Final = 120
"""Characters of one value of a record that a person is shown."""

SUBJECT: Final = click.Choice(
    ["identity", "organisation", "standing", "key", "patch", "attestations", "policy", "proposal", "target"]
)
"""What can be proven; the same as `ledger.state_proof.SUBJECTS`."""

proof = group(
    "Prove what the ledger says, or does not say; verify it offline.",
    {
        "get": Place("node.cli.proof:get", "Get the proof of what the state says of one thing."),
        "verify": Place("node.cli.proof:verify", "Verify such a proof without a node."),
        "consistency": Place("node.cli.proof:consistency", "Get the proof that the log only grew."),
    },
)

PROOF: Final = click.option(
    "--proof",
    type=FILE,
    metavar="FILE",
    help="Write the proof of it to FILE, for `proof verify`. It is verified before.",
)


@click.command(
    "get",
    cls=Command,
    node=True,
    examples=(
        "patchwarden proof get identity alice@acme --out alice.proof",
        "patchwarden proof get patch 3f2a… --out fix.proof",
        "patchwarden proof get policy current",
    ),
)
@click.argument("subject", type=SUBJECT)
@click.argument("name", metavar="ID")
@click.option("--out", type=FILE_OR_DASH, metavar="FILE", help="Write the proof to FILE. Default: show it.")
@click.pass_obj
def get(session: Session, subject: str, name: str, out: Path | None) -> None:
    """Get the proof of what the state says of ID at the newest certified block, or that it says nothing."""
    from node.cli.files import write_file

    document = session.client().call("proofs.state", subject=subject, id=name)
    encoded = json.dumps(document, indent=2, ensure_ascii=False)
    if out is None:
        session.output.emit(document, encoded.splitlines())
        return
    write_file(out, encoded.encode() + b"\n")
    session.output.emit(
        {"subject": subject, "id": name, "file": str(out)},
        fields(((f"proof about {subject}", name), ("written to", out))),
    )


@click.command(
    "verify",
    cls=Command,
    examples=(
        "patchwarden proof verify alice.proof --genesis genesis.json",
        "patchwarden proof verify fix.proof --checkpoint today.checkpoint -o json",
    ),
)
@click.argument("file", type=FILE_OR_DASH, metavar="FILE")
@trust_options
@click.pass_obj
def verify(session: Session, file: Path, genesis: Path | None, checkpoint: Path | None) -> None:
    """Verify the state proof in FILE offline and show what it proves. Exit code 1 when it does not hold.

    That something is *not* on the ledger is proven too, and is exit code 0.
    """
    from ledger.state_proof import CertifiedStateProof

    trusted = read_trusted(genesis, checkpoint)
    document = proven_document(CertifiedStateProof.from_json_untrusted(read_json(file, PROOF_BYTES_MAX)), trusted)
    session.output.emit(document, proven_lines(document, trusted))


@click.command(
    "consistency",
    cls=Command,
    node=True,
    examples=("patchwarden proof consistency --from 1042 --to 2310 --out grew.json",),
)
@click.option("--from", "before", type=click.IntRange(min=0), required=True, metavar="N", help="The earlier log size.")
@click.option("--to", "after", type=click.IntRange(min=0), required=True, metavar="M", help="The later log size.")
@click.option("--out", type=FILE_OR_DASH, metavar="FILE", help="Write the proof to FILE. Default: show it.")
@click.pass_obj
def consistency(session: Session, before: int, after: int, out: Path | None) -> None:
    """Get the proof that the log of M transactions begins with the log of N. `checkpoint verify` verifies it with two checkpoints."""
    from node.cli.files import write_file

    document = session.client().call("proofs.consistency", **{"from": before, "to": after})
    encoded = json.dumps(document, indent=2)
    if out is None:
        session.output.emit(document, encoded.splitlines())
        return
    write_file(out, encoded.encode() + b"\n")
    session.output.emit(
        {"from": before, "to": after, "file": str(out)},
        fields((("hashes", len(document["hashes"])), ("written to", out))),
    )


def write_state_proof(session: Session, subject: str, name: str, path: Path) -> dict[str, Any]:
    """Write the proof about one thing to a file, and return what it proves.

    It is verified with the node's own founding document, so that a proof that is kept for later is known to be one. Whoever verifies it
    later trusts a founding document of their own.

    Raises:
        RejectedError: The node's proof does not hold.
        UnavailableError: The node has none now.
    """
    from ledger.genesis import decode_genesis_untrusted
    from ledger.limits import GENESIS_BYTES_MAX
    from ledger.state_proof import CertifiedStateProof
    from ledger.trust import TrustedHead
    from node.cli.files import write_file
    from node.local.protocol import decode_blob_untrusted

    client = session.client()
    value = client.call("proofs.state", subject=subject, id=name)
    raw = decode_blob_untrusted(client.call("genesis.get")["genesis"], "genesis", bytes_max=GENESIS_BYTES_MAX)
    trusted = TrustedHead.founding(decode_genesis_untrusted(raw))
    document = proven_document(CertifiedStateProof.from_json_untrusted(value), trusted)
    write_file(path, json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")
    return document


def proven_document(state_proof: CertifiedStateProof, trusted: TrustedHead) -> dict[str, Any]:
    """Return what a state proof proves, after verifying it.

    Raises:
        RejectedError: It does not hold.
    """
    from ledger.state_proof import verify_certified_state_proof
    from node.documents import record_document

    proven = verify_certified_state_proof(state_proof, trusted)
    header = state_proof.header
    record = None if proven.record is None else record_document(proven.record)
    document = {
        "valid": True,
        "subject": proven.subject,
        "id": proven.name,
        "present": record is not None,
        "record": record,
        "chain_id": header.chain_id,
        "height": header.height,
        "time_ms": header.time_ms,
        "state_root": header.state_root.hex(),
    }
    if record is not None and proven.subject == "policy":
        document["in_force"] = record["policy_hash"] == header.policy_hash.hex()
    return document


def proven_lines(document: dict[str, Any], trusted: TrustedHead | None = None) -> list[str]:
    """Return for a person what a state proof proves."""
    record = document["record"]
    lines = list(
        fields(
            (
                ("proof", "valid"),
                ("because of", None if trusted is None else trust_text(trusted)),
                (document["subject"], document["id"]),
                ("on the ledger", "yes" if document["present"] else "no: its absence is proven"),
                ("in force", {True: "yes", False: "no", None: None}[document.get("in_force")]),
                ("certified at", f"height {document['height']} of {document['chain_id']}"),
            )
        )
    )
    shown = [(f"  {name}", _short(value)) for name, value in (record or {}).items() if value not in (None, [], "")]
    return [*lines, *fields(shown)]


def _short(value: object) -> str:
    if isinstance(value, list):
        # Of pairs, such as policies with their texts, the names.
        value = ", ".join(str(each[0]) if isinstance(each, list) and each else str(each) for each in value)
    text = " ".join(str(value).split())
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}… (-o json has all)"
