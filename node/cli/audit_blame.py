"""`patchwarden audit blame`: who is guilty when two histories contradict each other; and what to do with the proof."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.command import Command, Session
from node.cli.errors import FileError
from node.cli.output import fields
from node.cli.params import FILE
from node.cli.recovery_mark import mark_document, mark_lines
from wire.errors import RejectedError

if TYPE_CHECKING:
    from ledger.archive import ArchivedBlock
    from ledger.blame import Blame, History, Verdict
    from ledger.genesis import Genesis
    from node.cli.chain import ChainSource
    from node.storage.leveldb import Store


@click.command(
    "blame",
    cls=Command,
    examples=(
        "patchwarden audit blame ours.archive theirs.archive --genesis genesis.json",
        "patchwarden audit blame /srv/v1 http://127.0.0.1:7080 --genesis genesis.json --out proofs",
    ),
)
@click.argument("sources", nargs=-1, required=True, metavar="A B")
@click.option("--genesis", type=FILE, required=True, metavar="FILE", help="The founding document that you trust.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write each proof to a file in DIR, for `audit verify-blame` and `audit accuse`.",
)
@click.pass_obj
def blame(session: Session, sources: tuple[str, ...], genesis: Path, out: Path | None) -> None:
    """Compare histories, and name the validators whose own signatures convict them of a fork.

    A and B are archives, homes of nodes or URLs; more of them are compared pair by pair. Exit code 1 with a finding, 0 when no history
    contradicts another.
    """
    from node.cli.trusted import read_genesis

    if len(sources) < 2:
        raise click.UsageError("name two histories: archives, homes or URLs")
    founding = read_genesis(genesis)
    document = run_blame(session, sources, founding)
    if out is not None:
        _write_proofs(out, document)
    session.output.emit(document, blame_lines(document))
    if document["findings"]:
        click.get_current_context().exit(1)


@click.command(
    "verify-blame",
    cls=Command,
    examples=("patchwarden audit verify-blame double_proposal-9f86d081884c.json --genesis genesis.json",),
)
@click.argument("file", type=FILE, metavar="FILE")
@click.option("--genesis", type=FILE, required=True, metavar="FILE", help="The founding document that you trust.")
@click.pass_obj
def verify(session: Session, file: Path, genesis: Path) -> None:
    """Verify the proof in FILE offline: a validator signed what nobody signs who follows the rules. Exit code 1 when it does not hold."""
    from ledger.blame import verify_blame
    from node.cli.trusted import read_genesis

    proof = read_blame(file)
    validator = verify_blame(proof, read_genesis(genesis))
    document = {"valid": True, **_proof_document(proof, validator.name, validator.organisation)}
    session.output.emit(document, fields((("proof", "valid"), *_proof_fields(document))))


@click.command(
    "accuse",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden audit accuse double_proposal-9f86d081884c.json --key alice.key",),
)
@click.argument("file", type=FILE, metavar="FILE")
@click.pass_obj
def accuse(session: Session, file: Path) -> None:
    """Put the proof in FILE on record. Anybody registered may sign; it changes nobody's rights."""
    from dataclasses import replace

    from ledger.bodies import EvidenceSubmit
    from node.cli.submit import submit_body
    from wire import canonical_json

    # The ledger knows whose keys these are.
    proof = replace(read_blame(file), changes=())
    body = EvidenceSubmit(canonical_json.encode(proof.to_json()))
    submit_body(session, body, (("on record", f"{proof.kind} by {proof.validator.hex()}"),))


def read_blame(path: Path) -> Blame:
    """Return the proof in a file; nothing about it is verified.

    Raises:
        RejectedError: ``ledger.blame.malformed``, ``wire.json.*``, ``cli.file.*``.
    """
    from ledger.blame import Blame
    from ledger.blame_proof import BLAME_BYTES_MAX
    from node.cli.files import read_file
    from wire.canonical_json import decode_untrusted

    data = read_file(path, BLAME_BYTES_MAX)
    return Blame.from_json_untrusted(decode_untrusted(data, bytes_max=BLAME_BYTES_MAX, canonical=False))


def run_blame(session: Session, sources: Sequence[str], founding: Genesis) -> dict[str, Any]:
    """Return what comparing each pair of histories came to, as a document.

    Raises:
        RejectedError: A source is no chain of this network (``cli.audit.other_genesis``), or begins with something that does not hold.
        UnavailableError: A node does not answer.
    """
    from ledger.blame import find_guilty

    comparisons = []
    proofs: dict[tuple[str, str], dict[str, Any]] = {}
    for pair in combinations(sources, 2):
        with ExitStack() as stack:
            one, other = (stack.enter_context(_open_history(session, each, founding)) for each in pair)
            verdict = find_guilty(one, other, founding)
        comparisons.append(_comparison_document(pair, verdict))
        for each in verdict.blames:
            known = proofs.setdefault((str(each.kind), each.validator.hex()), _blame_document(each, founding))
            known["comparisons"].append(len(comparisons) - 1)
    # A problem on one side may be a mere defect of that copy; where it stands in the way of a certificate, no conflict can be shown.
    findings = len(proofs) + sum(each["conflict"] for each in comparisons)
    return {
        "chain_id": founding.chain_id,
        "genesis_hash": founding.genesis_hash.hex(),
        "conflict": any(each["conflict"] for each in comparisons),
        "findings": findings + sum(len(each["problems"]) for each in comparisons),
        "guilty": sorted({each["validator"] for each in proofs.values()}),
        "comparisons": comparisons,
        "blames": list(proofs.values()),
    }


def blame_lines(document: dict[str, Any]) -> list[str]:
    """Return the result for a person."""
    lines = []
    for each in document["comparisons"]:
        lines += _comparison_lines(each)
    for proof in document["blames"]:
        lines.append(f"GUILTY: {proof['name']} of {proof['organisation']} ({proof['validator']})")
        lines.append(f"  {proof['offence']} [{proof['kind']}]")
        if "file" in proof:
            lines.append(f"  proof: {proof['file']}")
    if (
        document["conflict"]
        and not document["blames"]
        and any(each["recovery_signers"] for each in document["comparisons"])
    ):
        lines.append("THE HISTORIES CONTRADICT EACH OTHER by a recovery; no validator need have lied")
    elif document["conflict"] and not document["blames"]:
        lines.append(
            "THE HISTORIES CONTRADICT EACH OTHER, and what is here convicts nobody yet: bring archives, and those named above"
        )
    elif not document["findings"]:
        lines.append("no history contradicts another")
    return lines


def _comparison_lines(each: dict[str, Any]) -> list[str]:
    one, other = each["histories"]
    if not each["fork"]:
        parting = "neither parts from the other"
    elif each["fork_height"] is None:
        parting = "they part below where one of them begins"
    else:
        parting = f"they part after block {each['fork_height']}"
    certified = ", ".join(
        f"{name} is certified up to {height}" if height else f"{name} has no certificate above"
        for name, height in zip(each["histories"], each["certified_heights"], strict=True)
    )
    lines = [f"{one} and {other}: {parting}"]
    if each["fork"]:
        lines.append(f"  {certified}: {'a CONFLICT' if each['conflict'] else 'no conflict'}")
    lines += [f"  {p['history']}, block {p['height']}: {p['message']} [{p['code']}]" for p in each["problems"]]
    lines += [f"  {mark['history']}: {line}" for mark in each["recoveries"] for line in mark_lines([mark])]
    if each["recovery_signers"]:
        lines.append(
            f"  ANSWER FOR THIS FORK, since they declared the majority lost: {', '.join(each['recovery_signers'])}"
        )
    lines += [
        f"  a change of validators was ended by block {m['height']}, {m['block_hash']}, of another history: bring that one too"
        for m in each["missing"]
    ]
    return lines


def _comparison_document(pair: tuple[str, ...], verdict: Verdict) -> dict[str, Any]:
    from ledger.audit_state import mark_of

    return {
        "histories": list(pair),
        "fork": verdict.is_fork,
        "recoveries": [{"history": name, **mark_document(mark_of(recovery))} for name, recovery in verdict.recoveries],
        "recovery_signers": list(verdict.recovery_signers),
        "fork_height": verdict.fork_height,
        "certified_heights": list(verdict.certified_heights),
        "conflict": verdict.is_conflict,
        "problems": [
            {"history": each.history, "height": each.height, "code": each.code, "message": each.message}
            for each in verdict.problems
        ],
        "missing": [{"height": height, "block_hash": digest.hex()} for height, digest in verdict.missing],
    }


def _blame_document(proof: Blame, founding: Genesis) -> dict[str, Any]:
    from ledger.blame import verify_blame

    validator = verify_blame(proof, founding)
    return {
        **_proof_document(proof, validator.name, validator.organisation),
        "comparisons": [],
        "proof": proof.to_json(),
    }


def _proof_document(proof: Blame, name: str, organisation: str) -> dict[str, Any]:
    from ledger.blame import describe_blame

    return {
        "kind": str(proof.kind),
        "validator": proof.validator.hex(),
        "name": name,
        "organisation": organisation,
        "offence": describe_blame(proof),
    }


def _proof_fields(document: dict[str, Any]) -> Iterator[tuple[str, object]]:
    yield "validator", f"{document['name']} of {document['organisation']}"
    yield "key", document["validator"]
    yield "offence", f"{document['offence']} [{document['kind']}]"


def _write_proofs(directory: Path, document: dict[str, Any]) -> None:
    from node.cli.files import write_file

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError("cli.file.unwritable", f"{directory} cannot be made: {error.strerror}") from error
    for each in document["blames"]:
        path = directory / f"{each['kind']}-{each['validator'][:12]}.json"
        write_file(path, json.dumps(each["proof"], indent=2).encode() + b"\n")
        each["file"] = str(path)


@contextmanager
def _open_history(session: Session, where: str, founding: Genesis) -> Iterator[History]:
    """Give the history at a URL, in a node's home or in an archive."""
    from ledger.blame import History
    from node.cli.chain import open_chain
    from node.config import Home

    output = session.output
    if "://" not in where and Path(where).is_dir() and not Home(Path(where)).socket.exists():
        from node.cli.store import open_stopped

        with open_stopped(Path(where)) as (genesis, store):
            _check_same(where, genesis.document, founding)
            yield _stored_history(session, where, store)
        return
    if "://" in where:
        reading, archive = Session(output, rpc=where), None
    elif Path(where).is_dir():
        reading, archive = Session(output, home=Path(where)), None
    else:
        reading, archive = Session(output), Path(where)
    try:
        with open_chain(reading, archive) as source:
            _check_same(where, source.genesis, founding)
            yield History(where, _readable(session, where, source))
    finally:
        reading.close()


def _check_same(where: str, genesis: bytes, founding: Genesis) -> None:
    from ledger.genesis import decode_genesis_untrusted

    theirs = decode_genesis_untrusted(genesis)
    if theirs.genesis_hash != founding.genesis_hash:
        raise RejectedError(
            "cli.audit.other_genesis",
            f"{where} is founded on another document",
            hint="only histories of one network can contradict each other",
            expected=founding.genesis_hash,
            actual=theirs.genesis_hash,
        )


def _readable(session: Session, where: str, source: ChainSource) -> Iterator[ArchivedBlock]:
    """Yield the blocks up to the first that cannot be read: what comes before it still convicts."""
    from ledger.archive import ArchivedBlock
    from node.cli.chain import DamagedBlock

    for each in source.read(1):
        if isinstance(each, DamagedBlock):
            session.output.note(f"{where}: block {each.height} cannot be read: {each.error.message}")
            return
        yield ArchivedBlock(each.block, each.certificate)


def _stored_history(session: Session, where: str, store: Store) -> History:
    """Return the committed chain of a stopped node, from the certified header on where older blocks are gone."""
    from ledger.archive import ArchivedBlock
    from ledger.blame import History, HistoryBase
    from ledger.configuration_history import build_configuration_proof
    from ledger.errors import LedgerCorruptionError
    from ledger.keyspace import Table, height_key
    from ledger.state import StateView
    from node.errors import StorageError
    from node.storage.block_store import BlockStore
    from wire.certificate import decode_commit_certificate_untrusted

    reader = BlockStore(store)
    view = StateView(reader)
    start = max(1, view.history_start)
    base = None
    if start > 1:
        header, raw = view.header_at(start - 1), view.certificate(start - 1)
        if header is None or raw is None:
            raise LedgerCorruptionError(
                "ledger.corruption.missing", f"header {start - 1} or its certificate is missing"
            )
        proof = build_configuration_proof(reader, start - 1)
        base = HistoryBase(header, decode_commit_certificate_untrusted(raw), proof)

    def read() -> Iterator[ArchivedBlock]:
        for height in range(start, view.height + 1):
            try:
                block = store.get(Table.BLOCK, height_key(height))
                certificate = store.get(Table.CERTIFICATE, height_key(height))
            except StorageError as error:
                session.output.note(f"{where}: block {height} cannot be read: {error.message}")
                return
            if block is None:
                session.output.note(f"{where}: block {height} is missing")
                return
            yield ArchivedBlock(block, certificate)

    return History(where, read(), base)
