"""`patchwarden patch attest` and `patch seal`: what others add to a patch file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session
from node.cli.errors import CommandError
from node.cli.output import fields
from node.cli.params import FILE, IDENTITY

if TYPE_CHECKING:
    from provenance.verify import VerifiedPatch
    from wire.envelope import Envelope
    from wire.keys import Signer

PREDICATE_BYTES_MAX: Final = 512 * 1024
"""A predicate file; it must fit one trailer line in base64."""

_FILE = click.argument("file", type=FILE, metavar="FILE")
_IDENTITY = click.option(
    "--identity",
    type=IDENTITY,
    metavar="NAME@ORGANISATION",
    help="Who you are on the ledger. Default: looked up by your key, when a node is named.",
)


@click.command(
    "attest",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=(
        "patchwarden patch attest fix.patch --role security-review --verdict approve \\\n"
        "      --comment 'read twice' --identity bob@beta --key bob.key",
        "patchwarden patch attest fix.patch --role qa --predicate results.json --identity ci@gamma --key ci.key --rpc http://127.0.0.1:7080",
        "patchwarden patch attest fix.patch --role vulnerability-scan --predicate-type vulns --predicate scan.json --key scan.key",
    ),
)
@_FILE
@click.option("--role", required=True, metavar="ROLE", help="In which capacity, such as security-review.")
@click.option(
    "--verdict", type=click.Choice(["approve", "reject"]), help="What you say; follows from a test result's predicate."
)
@click.option("--comment", default="", metavar="TEXT", help="For whoever reads it.")
@_IDENTITY
@click.option(
    "--predicate", type=FILE, metavar="FILE", help="A JSON predicate instead of a review, such as a test result."
)
@click.option(
    "--predicate-type",
    metavar="NAME|URI",
    help="Its type: test-result (default), vulns, svr, vsa, or any other type's URI.",
)
@click.option("--ledger-only", is_flag=True, help="Submit it and leave the file as it is: for files that are sealed.")
@click.pass_obj
def attest(  # noqa: PLR0917 - one parameter for each option
    session: Session,
    file: Path,
    role: str,
    verdict: str | None,
    comment: str,
    identity: str | None,
    predicate: Path | None,
    predicate_type: str | None,
    ledger_only: bool,
) -> None:
    """Add your signed verdict to the patch FILE.

    When a node is named and the patch is published, the verdict is recorded on the ledger too; otherwise `patch publish` brings it there.
    """
    from node.cli.files import write_file
    from node.cli.patch_files import find_record, read_patch, signing_identity
    from provenance.patchfile import check_appended
    from wire.envelope import encode_envelope

    data, patch = read_patch(file)
    if ledger_only and not session.has_node:
        raise click.UsageError("--ledger-only needs a node: --rpc or --home")
    if predicate is None and verdict is None:
        raise click.UsageError("say --verdict approve or reject, or give a --predicate")
    key = session.key()
    who = signing_identity(session, identity, key.public_key)
    envelope = _envelope(patch, key, who, role, verdict, comment, predicate, predicate_type)
    line = encode_envelope(envelope)
    if not ledger_only:
        check_appended(patch, line)
    committed = None
    if session.has_node:
        if find_record(session.client(), patch.patch_id) is not None:
            committed = _record(session, key, patch.patch_id, line)
        elif ledger_only:
            raise CommandError("cli.attest.not_published", "the patch is not published", actual=patch.patch_id)
    if not ledger_only:
        write_file(file, (data, line, b"\n"))
    said = verdict or _verdict(envelope)
    document = {
        "patch_id": patch.patch_id,
        "file": None if ledger_only else str(file),
        "identity": who,
        "role": role,
        "verdict": said,
        "payload_digest": envelope.payload_digest.hex(),
        "recorded": committed,
    }
    where = f"on the ledger at height {committed['height']}" if committed else "not yet: `patch publish` records it"
    session.output.emit(
        document,
        fields(
            (
                ("patch", patch.patch_id),
                ("attested by", f"{who} as {role}"),
                ("verdict", said or "none"),
                ("comment", comment or None),
                ("added to", None if ledger_only else file),
                ("recorded", where),
                ("transaction", committed["tx_id"] if committed else None),
            )
        ),
    )


@click.command(
    "seal",
    cls=Command,
    node=True,
    signs=True,
    examples=("patchwarden patch seal fix.patch --identity alice@acme --key alice.key",),
)
@_FILE
@_IDENTITY
@click.pass_obj
def seal(session: Session, file: Path, identity: str | None) -> None:
    """Close the patch FILE: the seal lists every attestation, so adding or taking one away is evident."""
    from node.cli.files import write_file
    from node.cli.patch_files import now, read_patch, signing_identity
    from provenance.attestation import build_seal
    from provenance.patchfile import check_appended
    from wire.envelope import encode_envelope

    data, patch = read_patch(file)
    key = session.key()
    who = signing_identity(session, identity, key.public_key)
    line = encode_envelope(build_seal(patch, key, who, now()))
    check_appended(patch, line)
    write_file(file, (data, line, b"\n"))
    count = len(patch.attestations)
    document = {"patch_id": patch.patch_id, "file": str(file), "identity": who, "attestations": count}
    session.output.emit(
        document, fields((("patch", patch.patch_id), ("sealed by", who), ("over", f"{count} attestations")))
    )


def _envelope(  # noqa: PLR0917 - what an attestation is made of
    patch: VerifiedPatch,
    key: Signer,
    who: str,
    role: str,
    verdict: str | None,
    comment: str,
    predicate: Path | None,
    predicate_type: str | None,
) -> Envelope:
    from node.cli.files import read_file
    from node.cli.patch_files import now
    from provenance.attestation import build_attestation, build_predicate_attestation
    from provenance.predicates import PREDICATE_SVR, PREDICATE_VSA, PREDICATE_VULNS
    from provenance.statement import PREDICATE_TEST_RESULT

    types = {
        "test-result": PREDICATE_TEST_RESULT,
        "vulns": PREDICATE_VULNS,
        "svr": PREDICATE_SVR,
        "vsa": PREDICATE_VSA,
    }
    if predicate is None:
        if predicate_type is not None:
            raise click.UsageError("--predicate-type needs a --predicate")
        assert verdict is not None, "the caller has looked"
        return build_attestation(patch, role, verdict, key, who, comment, now())
    envelope = build_predicate_attestation(
        patch,
        types.get(predicate_type or "test-result", predicate_type or ""),
        read_file(predicate, PREDICATE_BYTES_MAX),
        role,
        key,
        who,
        comment,
        now(),
    )
    follows = _verdict(envelope)
    if verdict is not None and verdict != follows:
        raise CommandError(
            "cli.attest.verdict",
            "the predicate says something else than --verdict",
            expected=follows or "no verdict",
            actual=verdict,
        )
    return envelope


def _verdict(envelope: Envelope) -> str | None:
    from provenance.statement import AttestationStatement, decode_attestation_statement_untrusted

    statement = decode_attestation_statement_untrusted(envelope.payload)
    if isinstance(statement, AttestationStatement) and statement.verdict is not None:
        return statement.verdict.value
    return None


def _record(session: Session, key: Signer, patch_id: str, line: bytes) -> dict[str, Any] | None:
    """Bring the attestation to the ledger, signed by the attestor."""
    from ledger.bodies import PatchAttest
    from node.cli.files import write_file
    from node.cli.submit import sign, submit

    transaction = sign(session.client(), PatchAttest(bytes.fromhex(patch_id), line), key)
    if session.transaction_out is not None:
        write_file(session.transaction_out, transaction.raw)
        return None
    (committed,) = submit(session.client(), [transaction], session.timeout_s)
    return committed.document()
