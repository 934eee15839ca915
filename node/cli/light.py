"""`patchwarden light`: follow a chain by certified headers alone, and believe no node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from node.cli.command import Command, Session, group
from node.cli.lazy import Place
from node.cli.output import fields
from node.cli.params import FILE, FILE_OR_DASH
from node.cli.proof import PROOF_BYTES_MAX, SUBJECT
from node.cli.trusted import read_checkpoint, read_genesis, trust_options

if TYPE_CHECKING:
    from ledger.checkpoint import Checkpoint
    from ledger.cose_receipt import CoseReceipts
    from ledger.errors import ProofRefusedError
    from ledger.light import LightClient, SplitViewError
    from ledger.proofs import Receipt
    from ledger.state_proof import CertifiedStateProof
    from node.cli.light_nodes import Asked
    from node.cli.rpc import RpcClient

T = TypeVar("T")

light = group(
    "Follow a chain by certified headers alone, and believe no node.\n\nA file keeps what you trust and the highest certified header "
    "that you saw. Any nodes may be asked: what they say is verified, and one that lies is named and dropped.",
    {
        "sync": Place("node.cli.light:sync", "Follow to the newest certified header that the nodes can prove."),
        "status": Place("node.cli.light:status", "Show the highest certified header that was seen."),
        "verify": Place("node.cli.light:verify", "Verify a receipt or a state proof from that header."),
        "show": Place("node.cli.light:show", "Ask for one thing on the ledger, and show the proven answer."),
    },
)

MS_PER_S: Final = 1000
FILE_MODE: Final = 0o600

_STATE: Final = click.option(
    "--state", type=FILE, required=True, metavar="STATE", help="Keeps what is trusted and the highest header seen."
)
_RPC: Final = click.option(
    "--rpc",
    "urls",
    multiple=True,
    required=True,
    envvar="PATCHWARDEN_RPC",
    metavar="URL",
    help="A node's HTTP address, such as http://127.0.0.1:7080. Several are compared with each other.",
)


@click.command(
    "sync",
    cls=Command,
    examples=(
        "patchwarden light sync --state demo.light --genesis genesis.json --rpc http://127.0.0.1:7080",
        "patchwarden light sync --state demo.light --rpc http://127.0.0.1:7080 --rpc http://127.0.0.1:7082",
    ),
)
@_STATE
@trust_options
@_RPC
@click.pass_obj
def sync(session: Session, state: Path, genesis: Path | None, checkpoint: Path | None, urls: tuple[str, ...]) -> None:
    """Follow to the newest certified header that the nodes can prove. The first time, name what you trust.

    Exit code 1 when the validators have certified two histories: the evidence is then written beside STATE.
    """
    from node.cli.light_nodes import ask_all, ask_checkpoint, report_lines

    before = _begin(state, genesis, checkpoint)
    asked = _ask(state, lambda: ask_all(before, urls, ask_checkpoint))
    document = {
        **_client_document(asked.client),
        "advanced_from": before.height,
        "nodes": [each.document() for each in asked.reports],
    }
    session.output.emit(
        document,
        [*_client_lines(document), *fields((("followed from height", before.height), *report_lines(asked.reports)))],
    )


@click.command("status", cls=Command, examples=("patchwarden light status --state demo.light",))
@_STATE
@click.pass_obj
def status(session: Session, state: Path) -> None:
    """Show the highest certified header that was seen, and how old it is. Nobody is asked."""
    document = _client_document(_read(state))
    session.output.emit(document, _client_lines(document))


@click.command(
    "verify",
    cls=Command,
    examples=(
        "patchwarden light verify receipt.json --state demo.light",
        "patchwarden light verify alice.proof --state demo.light -o json",
    ),
)
@click.argument("file", type=FILE_OR_DASH, metavar="FILE")
@_STATE
@click.pass_obj
def verify(session: Session, file: Path, state: Path) -> None:
    """Verify the receipt (JSON or COSE) or state proof in FILE from the highest header that was seen. Nobody is asked.

    Exit code 1 when it does not hold.
    """
    from ledger.light import SplitViewError
    from ledger.state_proof import CertifiedStateProof
    from node.cli.proof import proven_document, proven_lines
    from node.cli.receipt import receipt_lines, verified_receipt_document

    client = _read(state)
    proof = _read_proof(file)
    try:
        if isinstance(proof, CertifiedStateProof):
            client.verify_state_proof(proof)
            document = proven_document(proof, client.head)
            lines = proven_lines(document, client.head)
        else:
            client.verify_receipt(proof)
            document = verified_receipt_document(proof, client.head)
            lines = list(receipt_lines(proof, document, client.head))
    except SplitViewError as error:
        _keep_evidence(state, error)
        raise
    session.output.emit(document, lines)


@click.command(
    "show",
    cls=Command,
    examples=(
        "patchwarden light show identity alice@acme --state demo.light --rpc http://127.0.0.1:7080",
        "patchwarden light show policy current --state demo.light --rpc http://127.0.0.1:7080",
    ),
)
@click.argument("subject", type=SUBJECT)
@click.argument("name", metavar="NAME")
@_STATE
@_RPC
@click.pass_obj
def show(session: Session, subject: str, name: str, state: Path, urls: tuple[str, ...]) -> None:
    """Ask for one thing on the ledger and show the newest proven answer, with its height and age.

    Absence is proven too. An answer older than what was seen before is not taken.
    """
    from ledger.state_proof import CertifiedStateProof, subject_key_untrusted
    from node.cli.light_nodes import ask_all, call, report_lines
    from node.cli.proof import proven_document, proven_lines

    subject_key_untrusted(subject, name)  # A wrong id is the caller's, no node's.

    def question(client: LightClient, node: RpcClient) -> tuple[Checkpoint, CertifiedStateProof]:
        proof = CertifiedStateProof.from_json_untrusted(call(node, "proofs.state", subject=subject, id=name))
        if (proof.subject, proof.name) != (subject, name):
            raise _other_answer(f"{subject} {name}", f"{proof.subject} {proof.name}")
        return client.checkpoint_of(proof.header, proof.certificate, proof.configuration), proof

    def judge(client: LightClient, proof: CertifiedStateProof) -> None:
        client.verify_state_proof(proof)

    client = _read(state)
    asked = _ask(state, lambda: ask_all(client, urls, question, judge))
    newest = asked.answers[-1][1]
    document = {
        **proven_document(newest, asked.client.head),
        "age_ms": _age_ms(newest.header.time_ms),
        "nodes": [each.document() for each in asked.reports],
    }
    age = ("age", _age_text(document["age_ms"]))
    session.output.emit(document, [*proven_lines(document), *fields((age, *report_lines(asked.reports)))])


def _begin(state: Path, genesis: Path | None, checkpoint: Path | None) -> LightClient:
    """Return the kept client, or a new one of what the command line trusts.

    Raises:
        CommandError: ``cli.light.other_start``: something else is named than what the kept client trusts.
        click.UsageError: Nothing is kept, and not exactly one thing named.
        RejectedError: ``ledger.light.damaged``, ``ledger.genesis.*``, ``ledger.checkpoint.*``, ``cli.file.*``.
    """
    from ledger.light import LightClient
    from node.cli.errors import CommandError

    if genesis is not None and checkpoint is not None:
        raise click.UsageError("name one thing that you trust: --genesis FILE or --checkpoint FILE")
    named = None
    if genesis is not None:
        named = LightClient.from_genesis(read_genesis(genesis))
    elif checkpoint is not None:
        named = LightClient.from_checkpoint(read_checkpoint(checkpoint))
    if state.exists():
        client = _read(state)
        if named is not None and named.start != client.start:
            raise CommandError(
                "cli.light.other_start",
                f"{state} trusts something else than what is named",
                hint="leave --genesis and --checkpoint out, or begin a new --state",
            )
        return client
    if named is None:
        raise click.UsageError(
            f"{state} is not there yet: name what you trust with --genesis FILE or --checkpoint FILE"
        )
    return named


def _read(state: Path) -> LightClient:
    from ledger.light import STATE_BYTES_MAX, light_client_from_bytes_untrusted
    from node.cli.files import read_file

    return light_client_from_bytes_untrusted(read_file(state, STATE_BYTES_MAX))


def _ask(state: Path, ask: Callable[[], Asked[T]]) -> Asked[T]:
    """Return what came of asking, and keep the client; of two histories the evidence is kept and the client stays where it was."""
    from ledger.light import SplitViewError
    from node.cli.files import write_file

    try:
        asked = ask()
    except SplitViewError as error:
        _keep_evidence(state, error)
        raise
    # Another run may have come further meanwhile: what is kept never goes back.
    if not state.exists() or _read(state).height < asked.client.height:
        write_file(state, asked.client.to_bytes(), mode=FILE_MODE)
    return asked


def _keep_evidence(state: Path, error: SplitViewError) -> None:
    import json

    from node.cli.files import write_file

    path = state.with_name(f"{state.name}.split-view.json")
    write_file(path, json.dumps(error.evidence().to_json(), indent=1).encode() + b"\n")
    error.hint = f"trust no newer block; both are kept in {path}: `patchwarden checkpoint accuse` puts them on record"


def _read_proof(path: Path) -> CertifiedStateProof | Receipt | CoseReceipts:
    from ledger.state_proof import CertifiedStateProof
    from node.cli.files import read_file
    from node.cli.receipt import receipt_from_bytes, receipt_from_document
    from node.cli.trusted import parse_json

    data = read_file(path, PROOF_BYTES_MAX)
    if not data.lstrip().startswith(b"{"):
        return receipt_from_bytes(data)
    value = parse_json(data)
    if "subject" in value:
        return CertifiedStateProof.from_json_untrusted(value)
    return receipt_from_document(value)


def _other_answer(expected: str, actual: str) -> ProofRefusedError:
    from ledger.errors import ProofRefusedError

    return ProofRefusedError(
        "ledger.proof.subject", "the proof is about another thing than was asked for", expected=expected, actual=actual
    )


def _client_document(client: LightClient) -> dict[str, Any]:
    from ledger.genesis import Genesis
    from node.cli.recovery_mark import marks_of

    head, origin = client.head, client.origin
    document: dict[str, Any] = {
        "chain_id": head.chain_id,
        "trusts": "genesis" if isinstance(client.start, Genesis) else "checkpoint",
        "start_height": origin.height,
        "height": client.height,
        "validators": [each.name for each in head.configuration.voters],
        "block_hash": None,
        "age_ms": None,
        "recoveries": marks_of(None if client.newest is None else client.newest.configuration),
    }
    if head.header is not None:
        from node.documents import header_document

        document |= {**header_document(head.header), "age_ms": _age_ms(head.header.time_ms)}
    return document


def _client_lines(document: dict[str, Any]) -> list[str]:
    from node.cli.recovery_mark import mark_lines

    start = "the founding document"
    if document["trusts"] == "checkpoint":
        start = f"a checkpoint at height {document['start_height']}"
    header = document["block_hash"] is not None
    return list(
        fields(
            (
                ("chain", document["chain_id"]),
                ("trusts", start),
                ("height", f"{document['height']}, term {document['term']}" if header else "0, nothing seen yet"),
                ("block", document["block_hash"]),
                ("age", _age_text(document["age_ms"]) if header else None),
                ("log", f"{document['log_size']} transactions, root {document['log_root']}" if header else None),
                ("validators", ", ".join(document["validators"])),
            )
        )
    ) + mark_lines(document["recoveries"])


def _age_ms(time_ms: int) -> int:
    from node.clock import now_ms

    return now_ms() - time_ms


def _age_text(age_ms: int) -> str:
    """Return an age in words; a header from the future says so, since one of the clocks is wrong."""
    if age_ms < 0:
        return f"{-age_ms / MS_PER_S:.1f} s in the future: this clock or the validators' is wrong"
    return f"{age_ms / MS_PER_S:.1f} s"
