"""`patchwarden patch verify`: everything that can be checked about a patch file, one step after the other, each with its result.

=========  ================================================================================================
what       is asked
=========  ================================================================================================
file       nothing: layout, the author's signature, metadata, diff, attestations, seal prove themselves
base       a source tree: the diff applies to it exactly
ledger     a node: whose keys these are, what was recorded, whether it still counts
receipts   a founding document or checkpoint, and receipts carried by hand: the same without asking anybody
=========  ================================================================================================

A failed step does not stop those that do not need it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session
from node.cli.output import Progress
from node.cli.params import EXISTING_DIRECTORY, FILE, FILE_OR_DASH
from node.cli.patch_names import UNKNOWN_KEY, Names
from node.cli.patch_people import Voice, people_document, people_lines, voices_of_file, with_ledger, with_receipt
from node.cli.trusted import read_genesis, read_trusted, trust_options
from wire.errors import RejectedError

if TYPE_CHECKING:
    from ledger.trust import TrustedHead
    from provenance.diff_model import FileState
    from provenance.errors import InvalidMetadataError
    from provenance.trailer import Attestation, ReleaseSeal
    from provenance.verify import VerifiedPatch

PASSED: Final = "passed"
WARNING: Final = "warning"
FAILED: Final = "failed"
NOT_RECORDED: Final = "cli.verify.not_recorded"
NOT_COUNTED_CODE: Final = "cli.verify.set_aside"
OTHER_FILE: Final = "cli.verify.other_file"
_MARKS: Final = {PASSED: "ok  ", WARNING: "note", FAILED: "FAIL"}


@dataclass(slots=True)
class Report:
    """The steps of one verification, in order."""

    steps: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: str, result: str, message: str, code: str | None = None) -> None:
        """Note one step's result."""
        self.steps.append({"step": step, "result": result, "message": message, "code": code})

    def attempt(self, step: str, check: Callable[[], str]) -> bool:
        """Run one check; it returns the sentence of its success, or raises why not."""
        try:
            self.add(step, PASSED, check())
        except RejectedError as error:
            self.add(step, FAILED, error.message, error.code)
            return False
        return True

    def refuse(self, step: str, error: RejectedError, prefix: str = "") -> None:
        """Note why a line does not speak for whom it names: a failure, but a note where the ledger knows neither name nor key."""
        result = WARNING if error.code == UNKNOWN_KEY else FAILED
        self.add(step, result, f"{prefix}{error.message}", error.code)

    def note(self, step: str, check: Callable[[], str]) -> str | None:
        """Run one check whose refusal sets something aside and fails nothing; return why, or None."""
        try:
            self.add(step, PASSED, check())
        except RejectedError as error:
            self.add(step, WARNING, f"set aside: {error.message}", error.code)
            return error.message
        return None

    @property
    def is_valid(self) -> bool:
        """Whether no step failed."""
        return all(step["result"] != FAILED for step in self.steps)


@click.command(
    "verify",
    cls=Command,
    node=True,
    examples=(
        "patchwarden patch verify fix.patch",
        "patchwarden patch verify fix.patch --rpc http://127.0.0.1:7080",
        "patchwarden patch verify fix.patch --genesis genesis.json --receipt publish.json --receipt review.json",
        "patchwarden patch verify fix.patch --checkpoint today.checkpoint --receipt publish.json",
    ),
)
@click.argument("file", type=FILE_OR_DASH, metavar="FILE")
@click.option("--base", type=EXISTING_DIRECTORY, metavar="DIR", help="Check that it applies exactly to this tree.")
@trust_options
@click.option(
    "--receipt", "receipts", type=FILE, multiple=True, metavar="FILE", help="A receipt about this patch; several times."
)
@click.pass_obj
def verify(  # noqa: PLR0917 - one parameter for each option
    session: Session,
    file: Path,
    base: Path | None,
    genesis: Path | None,
    checkpoint: Path | None,
    receipts: tuple[Path, ...],
) -> None:
    """Check the patch FILE and print every step with its result, and who says what about it. Exit code 1 when a step fails.

    Without a node (--rpc, --home) only the file is asked; with one, the ledger too. Receipts answer for the ledger offline.
    """
    if bool(receipts) != (genesis is not None or checkpoint is not None):
        raise click.UsageError("--receipt goes together with --genesis or --checkpoint")
    trusted = read_trusted(genesis, checkpoint) if receipts else None
    report = Report()
    shown = not session.output.as_json
    patch = _verify_file(file, report, shown=shown)
    voices: list[Voice] = []
    if patch is not None:
        members, names = _whose_keys(session, genesis)
        forged = _verify_trailer(patch, names, report)
        voices = voices_of_file(patch, forged)
        if base is not None:
            with Progress("files compared", len(patch.diff.files), shown=shown) as progress:
                _verify_base(patch, base, report, progress)
        if session.has_node:
            voices = _verify_ledger(session, patch, members, report, voices)
        if trusted is not None:
            voices = _verify_receipts(patch, trusted, receipts, report, voices)
    document = {
        "valid": report.is_valid,
        "patch_id": None if patch is None else patch.patch_id,
        "steps": report.steps,
        **people_document(voices),
    }
    lines = [
        f"{_MARKS[step['result']]}  {step['step']}: {step['message']}" + (f" [{step['code']}]" if step["code"] else "")
        for step in report.steps
    ]
    people = ["", *people_lines(voices), ""] if voices else []
    session.output.emit(document, [*lines, *people, "valid" if report.is_valid else "NOT VALID"])
    if not report.is_valid:
        click.get_current_context().exit(1)


def _verify_file(file: Path, report: Report, *, shown: bool) -> VerifiedPatch | None:
    from node.cli.files import read_file
    from provenance.verify import check_metadata, check_signature_untrusted, extract_metadata
    from wire.limits import KIBIBYTE, PATCH_FILE_BYTES_MAX

    data = read_file(file, PATCH_FILE_BYTES_MAX)
    step = "author's signature"
    broken_seals: list[InvalidMetadataError] = []
    try:
        signed = check_signature_untrusted(data)
        report.add(step, PASSED, f"key {signed.author_key.key_id_hex} signed this body and this diff")
        step = "metadata"
        described = extract_metadata(signed)
        report.add(step, PASSED, "every field has its form, and the preamble shows exactly them")
        step = "diff"
        with Progress(
            "KiB of diff read", described.metadata.patch_diff.size_bytes // KIBIBYTE, shown=shown
        ) as progress:
            patch = check_metadata(described, lambda done: progress.update(done // KIBIBYTE), broken_seals.append)
    except RejectedError as error:
        report.add(step, FAILED, error.message, error.code)
        return None
    summary = patch.metadata.patch_diff
    report.add(step, PASSED, f"one meaning, {summary.files} files as described, digest {summary.sha256}")
    for broken in broken_seals:
        report.add("release seal", FAILED, broken.message, broken.code)
    return patch


def _whose_keys(session: Session, genesis: Path | None) -> tuple[list[dict[str, Any]], Names]:
    """Return every identity of the ledger where one is asked, and whose keys are whose by whoever is believed."""
    from node.cli.identity import all_identities

    if session.has_node:
        members = all_identities(session.client())
        return members, Names.of_ledger(members)
    return [], Names.nobody_asked() if genesis is None else Names.of_genesis(read_genesis(genesis))


def _verify_trailer(patch: VerifiedPatch, names: Names, report: Report) -> dict[int, RejectedError]:
    """Note what the lines behind the author's prove, and return why those do not speak that bear another one's name, by index."""
    forged: dict[int, RejectedError] = {}
    for each in patch.attestations:
        said = each.verdict.value if each.verdict else each.predicate_type
        refusal = names.refusal(each.identity, each.keyid)
        if refusal is None:
            what = f"{said} by {each.identity} as {each.role}: bound to this patch, signature holds"
            report.add("attestation", PASSED, what)
        else:
            forged[each.index] = refusal
            report.refuse("attestation", refusal, f"trailer line {each.index + 1}, {said} as {each.role}: ")
    for refused in patch.attestations_refused:
        report.add("attestation", FAILED, f"trailer line {refused.index + 1}: {refused.message}", refused.code)
    if patch.seal is not None:
        refusal = names.refusal(patch.seal.identity, patch.seal.keyid)
        if refusal is None:
            count = len(patch.seal.attestations)
            report.add("release seal", PASSED, f"by {patch.seal.identity} over exactly these {count} attestations")
        else:
            forged[patch.seal.index] = refusal
            report.refuse("release seal", refusal)
    return forged


def _verify_base(patch: VerifiedPatch, base: Path, report: Report, progress: Progress) -> None:
    from node.cli.source_tree import SourceTree
    from provenance.components import FileImage
    from provenance.diff_apply import apply_each
    from provenance.errors import ApplyRefusedError

    tree = SourceTree(base, links="symlink" in patch.metadata.allowances)
    before = {each.previous_path or each.path: (each.path, each.pre) for each in patch.metadata.affected_components}
    after = {each.path: each.post for each in patch.metadata.affected_components}

    def read(path: str) -> FileState | None:
        state = tree.read(path)
        named, expected = before.get(path, (path, None))
        image = None if state is None else FileImage.of(state)
        if image != expected:
            raise ApplyRefusedError(
                "provenance.apply.pre_image",
                f"{named!a} is not the file that the patch was made for",
                expected="no file" if expected is None else expected.sha256,
                actual="no file" if image is None else image.sha256,
            )
        return state

    def check() -> str:
        for done, (change, _, result) in enumerate(apply_each(patch.diff, read), 1):
            state, expected = result[change.path], after[change.path]
            if (None if state is None else FileImage.of(state)) != expected:
                raise ApplyRefusedError(
                    "provenance.apply.post_image", f"{change.path!a} does not become what the author signed"
                )
            progress.update(done)
        return f"applies exactly to {base}, and gives the files that the author signed"

    report.attempt("base", check)


def _verify_ledger(
    session: Session, patch: VerifiedPatch, members: list[dict[str, Any]], report: Report, voices: list[Voice]
) -> list[Voice]:
    from node.cli.patch_files import find_record

    client = session.client()
    status = client.call("status")
    owners = {key["key_id"]: (identity, key) for identity in members for key in identity["keys"]}
    height = int(status["height"])
    record = find_record(client, patch.patch_id)
    recorded_height = height if record is None else int(record["published_height"])
    owner = owners.get(patch.author_key.key_id_hex)
    author_holds = report.attempt("author on the ledger", lambda: _check_author(owner, recorded_height))
    author_refusal = None if author_holds else report.steps[-1]["message"]
    if record is None:
        report.add(
            "publication", WARNING, f"not published on {status['chain_id']} (height {height}): no host applies it"
        )
    else:
        report.attempt("publication", lambda: _check_record(patch, record))
        _verify_published(patch, record, report)
    judged = [] if record is None else client.call("patches.attestations", patch_id=patch.patch_id)
    forged = {voice.line for voice in voices if voice.is_forged}
    own = [each for each in patch.attestations if each.index + 1 not in forged]
    _verify_attestors(own, {each["payload_digest"]: each for each in judged}, report)
    seal_refusal = None
    seal = patch.seal
    if seal is not None and seal.index + 1 not in forged:
        home = None if owner is None else owner[0]["organisation"]
        seal_refusal = report.note("sealer", lambda: _check_sealer(seal, owners.get(seal.keyid), home, height))
    published_ms = None if record is None else client.call("blocks.get", height=recorded_height)["time_ms"]
    return with_ledger(
        voices,
        record,
        judged,
        author_refusal=author_refusal,
        seal_refusal=seal_refusal,
        published_ms=published_ms,
    )


def _verify_published(patch: VerifiedPatch, record: dict[str, Any], report: Report) -> None:
    """Note whether this is the file that was published, as far as that went: the ledger knows its digest."""
    from node.cli.patch_files import published_part

    part = published_part(patch, record["file_digest"])
    if part is None:
        report.add(
            "published file",
            WARNING,
            "what follows the author's line is not as it was published: lines, a seal perhaps, were taken out or moved; "
            f"published were {record['file_bytes']} bytes with the digest {record['file_digest']} (patch fetch gets them)",
            OTHER_FILE,
        )
        return
    more = len(patch.file.raw) - len(part)
    added = f", and behind it what was added since ({more} bytes)" if more else ""
    report.add("published file", PASSED, f"this very file, digest {record['file_digest']}{added}")


def _verify_attestors(attestations: list[Attestation], recorded: dict[str, dict[str, Any]], report: Report) -> None:
    """Note of each attestation whether it counts, as the node judges it; what is set aside is no failure of the file."""
    for each in attestations:
        entry = recorded.pop(each.payload_digest.hex(), None)
        step = f"attestor {each.identity}"
        if entry is None:
            report.add(step, WARNING, f"set aside: the attestation as {each.role} is not recorded", NOT_RECORDED)
        elif not entry["counts"]:
            report.add(step, WARNING, f"set aside: {entry['why_not']}", NOT_COUNTED_CODE)
        else:
            report.add(step, PASSED, f"{each.role}, of {entry['organisation']}, recorded at {entry['recorded_height']}")
    for entry in recorded.values():
        if entry["current"]:
            report.add(
                "ledger",
                WARNING,
                f"also recorded: {entry['verdict']} by {entry['identity']} as {entry['role']}, not in this file",
            )


def _check_sealer(
    seal: ReleaseSeal, owner: tuple[dict[str, Any], dict[str, Any]] | None, home: str | None, height: int
) -> str:
    """Check what a host asks of a seal: that its signer may speak now, and is of the author's organisation or an attestor."""
    identity, key = _holder(owner, f"the key that signed as {seal.identity}")
    if identity["status"] != "active":
        raise _refusal("status", f"{identity['identity']} is {identity['status']}")
    _check_valid(identity, key, height)
    if identity["organisation"] != home and not any(role.startswith("attestor:") for role in identity["roles"]):
        raise _refusal("role", f"{seal.identity} is neither of the author's organisation nor an attestor")
    return f"{seal.identity}, of {identity['organisation']}, key valid at height {height}"


def _check_author(owner: tuple[dict[str, Any], dict[str, Any]] | None, height: int) -> str:
    identity, key = _holder(owner, "the author's key")
    _check_valid(identity, key, height)
    if "developer" not in identity["roles"]:
        raise _refusal("role", f"{identity['identity']} does not hold the role developer")
    return f"{identity['identity']}, developer, key valid at height {height}"


def _check_record(patch: VerifiedPatch, record: dict[str, Any]) -> str:
    for name, expected, actual in (
        ("author's statement", record["author_payload_digest"], patch.author_payload_digest.hex()),
        ("author's key", record["author_key_id"], patch.author_key.key_id_hex),
        ("release counter", record["release_counter"], patch.metadata.release_counter),
    ):
        if expected != actual:
            raise _refusal("record", f"the ledger has another {name}", expected, actual)
    if record["withdrawn_height"] is not None:
        raise _refusal("withdrawn", f"withdrawn at height {record['withdrawn_height']}: {record['withdrawn_reason']}")
    if record["superseded_by"] is not None:
        raise _refusal("superseded", f"replaced by {record['superseded_by']}")
    return f"by {record['author']} at height {record['published_height']}, not withdrawn, not superseded"


def _holder(owner: tuple[dict[str, Any], dict[str, Any]] | None, what: str) -> tuple[dict[str, Any], dict[str, Any]]:
    if owner is None:
        raise _refusal("unknown_key", f"{what} belongs to nobody on the ledger")
    return owner


def _check_valid(identity: dict[str, Any], key: dict[str, Any], height: int) -> None:
    if identity["status"] == "suspended":
        raise _refusal("status", f"{identity['identity']} is suspended")
    ends = [end for end in (key["retired_height"], key["last_valid_height"]) if end is not None]
    if not key["added_height"] <= height or any(height > end for end in ends):
        reason = f" ({key['reason']})" if key["reason"] else ""
        raise _refusal(
            "key",
            f"the key of {identity['identity']} does not count at height {height}{reason}",
            f"heights {key['added_height']} to {min(ends, default='now')}",
        )


def _refusal(rule: str, message: str, expected: object = None, actual: object = None) -> RejectedError:
    return RejectedError(f"cli.verify.{rule}", message, expected=expected, actual=actual)


def _verify_receipts(
    patch: VerifiedPatch, trusted: TrustedHead, receipts: tuple[Path, ...], report: Report, voices: list[Voice]
) -> list[Voice]:
    from ledger.bodies import PatchAttest, PatchPublish
    from ledger.proofs import Receipt
    from node.cli.receipt import read_receipt, verify_any_receipt

    lines = {line: number for number, line in enumerate(patch.file.trailer)}
    told = voices

    def check(path: Path) -> str:
        nonlocal told
        receipt = read_receipt(path)
        transaction = verify_any_receipt(receipt, trusted)
        body = transaction.body
        by = f"height {receipt.header.height}" if isinstance(receipt, Receipt) else f"log size {receipt.log_size}"
        where = f"certified on {trusted.chain_id} by {by}"
        if not isinstance(body, PatchPublish | PatchAttest) or body.patch_id.hex() != patch.patch_id:
            raise _refusal("receipt", f"the receipt proves a {transaction.kind} that is not about this patch")
        if body.envelope not in lines:
            raise _refusal("receipt", "the receipt proves an envelope that is not in this file")
        if isinstance(receipt, Receipt):
            # The header may be of a later block: a receipt bounds the height of what it proves from above.
            told = with_receipt(told, lines[body.envelope] + 1, receipt.header.height, receipt.header.time_ms)
        if isinstance(body, PatchPublish):
            return f"the author's statement is {where}"
        return f"the attestation in trailer line {lines[body.envelope] + 1} is {where}"

    for path in receipts:
        report.attempt(f"receipt {path}", lambda path=path: check(path))  # type: ignore[misc]
    return told
