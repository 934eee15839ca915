"""`patchwarden patch show`, `extract` and `lint`: reading a patch file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session
from node.cli.output import fields
from node.cli.params import DIGEST, EXISTING_DIRECTORY, FILE_OR_DASH
from node.cli.proof import PROOF, proven_lines, write_state_proof

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provenance.verify import VerifiedPatch

_FILE = click.argument("file", type=FILE_OR_DASH, metavar="FILE")
DESCRIPTION_LINES_MIN: Final = 1
_MARKER_BYTES: Final = 16
LARGE_LINES: Final = 1_000
"""Changed lines beyond which nobody reads every one."""


@click.command(
    "show",
    cls=Command,
    node=True,
    examples=("patchwarden patch show fix.patch", "patchwarden patch show 3f2a… --rpc http://127.0.0.1:7080"),
)
@click.argument("patch", metavar="FILE|ID")
@click.pass_obj
def show(session: Session, patch: str) -> None:
    """Show what a patch FILE says about itself, or what the ledger has about the published patch ID."""
    if not Path(patch).exists() and _is_id(patch):
        record = session.client().call("patches.get", patch_id=patch.lower())
        session.output.emit(record, _record_lines(record))
        return
    from node.cli.patch_files import read_patch
    from provenance.schema import extract_around

    _, verified = read_patch(Path(patch))
    document = extract_around(verified, None)
    document.pop("patch_diff")
    session.output.emit(document, _lines(verified))


@click.command(
    "status",
    cls=Command,
    node=True,
    examples=("patchwarden patch status 3f2a…", "patchwarden patch status 3f2a… --proof fix.proof"),
)
@click.argument("patch_id", type=DIGEST, metavar="PATCH")
@PROOF
@click.pass_obj
def status(session: Session, patch_id: str, proof: Path | None) -> None:
    """Show what the ledger has about PATCH: who published it, who attested it, whether it is withdrawn or superseded.

    With --proof, show what is proven about it at the newest certified block, also that it was never published.
    """
    if proof is not None:
        proven = write_state_proof(session, "patch", patch_id, proof)
        session.output.emit(proven, proven_lines(proven))
        return
    record = session.client().call("patches.get", patch_id=patch_id)
    session.output.emit(record, _record_lines(record))


@click.command(
    "extract",
    cls=Command,
    examples=(
        "patchwarden patch extract fix.patch > provenance.json",
        "patchwarden patch extract fix.patch | jq .reason_for_patch",
        "patchwarden patch extract fix.patch --part bundle --out fix.intoto.jsonl",
    ),
)
@_FILE
@click.option(
    "--part",
    type=click.Choice(["document", "body", "diff", "bundle"]),
    default="document",
    show_default=True,
    help="The JSON document; or the file's own bytes: what is signed, its diff, its trailer (an in-toto bundle).",
)
@click.option(
    "--out", type=FILE_OR_DASH, default="-", metavar="FILE", help="Where it goes; never overwritten. Default: standard output."
)  # fmt: skip
@click.pass_obj
def extract(session: Session, file: Path, part: str, out: Path) -> None:
    """Print the provenance of FILE as one JSON document: eight fields by their names, the diff, every attestation.

    It conforms to docs/spec/patch-provenance-v1.schema.json. The answer is JSON with -o text too. Other parts come byte for byte.
    """
    from node.cli.files import STANDARD, write_file
    from node.cli.patch_files import read_patch

    _, verified = read_patch(file)
    parts = verified.file
    pieces: Iterable[bytes | memoryview]
    if part == "document":
        # For a person, nothing of it may steer the terminal; JSON has its own way to write such characters.
        escapes = out == STANDARD and not session.output.as_json
        pieces = (_escaped(text).encode() if escapes else text.encode() for text in _document(verified))
    else:
        trailer = b"".join(line + b"\n" for line in parts.trailer)
        pieces = ({"body": parts.body_view, "diff": parts.diff_view, "bundle": memoryview(trailer)}[part],)
    counted = _Counted(pieces)
    write_file(out, counted, replace=False)
    if out == STANDARD:
        return  # The part itself is the answer.
    answer = {"file": str(out), "part": part, "bytes": counted.count, "sha256": counted.hasher.hexdigest()}
    session.output.emit(answer, fields((("written to", out), ("part", part), ("sha256", answer["sha256"]))))


class _Counted:
    """Pieces of a file, counted and hashed on their way."""

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = pieces
        self.count = 0
        self.hasher = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes | memoryview]:
        for piece in self._pieces:
            self.count += len(piece)
            self.hasher.update(piece)
            yield piece


def _document(patch: VerifiedPatch) -> Iterator[str]:
    """Yield the extracted document in pieces, with a line feed at its end."""
    from node.clock import random_bytes
    from provenance.schema import extract_text

    yield from extract_text(patch, f"patchwarden-diff-{random_bytes(_MARKER_BYTES).hex()}")
    yield "\n"


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


@click.command(
    "lint",
    cls=Command,
    examples=("patchwarden patch lint fix.patch", "patchwarden patch lint fix.patch --base ../frames-1.4 -o json"),
)
@_FILE
@click.option(
    "--base", type=EXISTING_DIRECTORY, metavar="DIR", help="The unpatched tree, to see what other tools would do in it."
)
@click.pass_obj
def lint(session: Session, file: Path, base: Path | None) -> None:
    """Look for what a reviewer could overlook in FILE: hidden characters, look-alikes, thin metadata. Exit code 1 with findings."""
    from node.cli.patch_files import read_patch
    from node.cli.source_tree import SourceTree
    from provenance.diff_lint import lint_diff

    _, verified = read_patch(file)
    pre = None if base is None else SourceTree(base).states(verified.diff)
    findings = [
        {"rule": f"diff.{each.rule.value}", "path": each.path, "line": each.line, "message": each.message}
        for each in lint_diff(verified.diff, pre)
    ]
    findings += list(_metadata_findings(verified))
    lines = [
        f"{each['path']}:{each['line']}: {each['message']} [{each['rule']}]"
        if each["path"]
        else f"{each['message']} [{each['rule']}]"
        for each in findings
    ]
    session.output.emit({"patch_id": verified.patch_id, "findings": findings}, lines or ["no findings"])
    if findings:
        click.get_current_context().exit(1)


def _metadata_findings(patch: VerifiedPatch) -> Iterator[dict[str, Any]]:
    metadata = patch.metadata
    reason = metadata.reason_for_patch
    if reason.description == reason.title:
        yield _finding("metadata.no_description", "the reason has a title and no description")
    if reason.category == "security-update" and not reason.references:
        yield _finding("metadata.no_reference", "a security update names neither a CVE nor a report")
    if metadata.build_environment.document is None:
        yield _finding("metadata.environment_hidden", "the build environment is a hash without its document")
    if metadata.patch_diff.lines_added + metadata.patch_diff.lines_removed > LARGE_LINES:
        yield _finding("diff.large", f"more than {LARGE_LINES} changed lines: nobody reads every one")
    for refused in patch.attestations_refused:
        yield _finding("trailer.set_aside", f"trailer line {refused.index + 1} proves nothing: {refused.message}")
    if not any(each.verdict for each in patch.attestations):
        yield _finding("trailer.no_verdict", "nobody has approved or rejected it in this file")


def _finding(rule: str, message: str) -> dict[str, Any]:
    return {"rule": rule, "path": None, "line": None, "message": message}


def _lines(patch: VerifiedPatch) -> Iterator[str]:
    metadata = patch.metadata
    reason, creator, summary = metadata.reason_for_patch, metadata.creator_identity, metadata.patch_diff
    yield from fields(
        (
            ("patch", patch.patch_id),
            ("title", reason.title),
            ("category", reason.category),
            ("references", ", ".join(reason.references) or None),
            ("reason", reason.description.split("\n") if reason.description != reason.title else None),
            ("author", f"{creator.name} <{creator.email}>"),
            ("signed by", f"{creator.label()} (key {patch.author_key.key_id_hex})"),
            ("created", metadata.creation_timestamp),
            ("expires", metadata.not_after),
            (
                "change",
                f"{summary.files} files, +{summary.lines_added} -{summary.lines_removed}, diff {summary.sha256}",
            ),
            ("release counter", metadata.release_counter),
            ("supersedes", metadata.supersedes or None),
            ("prerequisites", metadata.prerequisites or None),
            ("allowances", ", ".join(metadata.allowances) or None),
            ("build environment", metadata.build_environment.sha256),
            (
                "validation tests",
                f"{metadata.validation_tests.sha256} ({metadata.validation_tests.count} files, {metadata.validation_tests.method})",
            ),
        )
    )
    yield "components:"
    for component in metadata.affected_components:
        word = "copy of" if component.change == "copy" else "was"
        moved = f" ({word} {component.previous_path})" if component.previous_path else ""
        yield f"  {component.change:<7} {component.path}{moved}  [{component.name}]"
    yield f"attestations: {len(patch.attestations)}"
    for each in patch.attestations:
        comment = f": {each.comment}" if each.comment else ""
        yield f"  {each.verdict or 'statement'} by {each.identity} as {each.role}, {each.time}{comment}"
    for refused in patch.attestations_refused:
        yield f"  set aside, trailer line {refused.index + 1}: {refused.message} [{refused.code}]"
    yield f"seal: {f'by {patch.seal.identity}, {patch.seal.time}' if patch.seal else 'none'}"
    yield "Signatures hold; whose keys they are, the ledger knows: patchwarden patch verify --rpc URL"


def _record_lines(record: dict[str, Any]) -> Iterator[str]:
    withdrawn = None
    if record["withdrawn_height"] is not None:
        withdrawn = f"height {record['withdrawn_height']}: {record['withdrawn_reason']}"
    yield from fields(
        (
            ("patch", record["patch_id"]),
            ("author", record["author"]),
            ("author's key", record["author_key_id"]),
            ("published", f"height {record['published_height']}"),
            ("transaction", record["tx_id"]),
            ("components", ", ".join(record["components"])),
            ("release counter", record["release_counter"]),
            ("supersedes", record["supersedes"] or None),
            ("superseded by", record["superseded_by"]),
            ("withdrawn", withdrawn),
            ("file", f"{record['file_digest']} ({record['file_bytes']} bytes)"),
        )
    )
    yield f"attestations: {len(record['attestations'])}"
    for each in record["attestations"]:
        replaced = "" if each["current"] else " (replaced by a later one)"
        yield f"  {each['verdict']} by {each['identity']} as {each['role']}, height {each['recorded_height']}{replaced}"


def _is_id(text: str) -> bool:
    try:
        DIGEST.convert(text, None, None)
    except click.BadParameter:
        return False
    return True
