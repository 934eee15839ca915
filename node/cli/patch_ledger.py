"""`patchwarden patch publish`, `withdraw`, `fetch` and `list`: patches and the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session
from node.cli.errors import CommandError
from node.cli.output import fields, short, table
from node.cli.params import DIGEST, FILE, FILE_OR_DASH
from wire.errors import RejectedError

if TYPE_CHECKING:
    from provenance.verify import VerifiedPatch
    from wire.keys import Signer

RECORDED: Final = "recorded"
KNOWN: Final = "known"
REFUSED: Final = "refused"


@click.command(
    "publish",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=(
        "patchwarden patch publish fix.patch --key alice.key",
        "patchwarden patch publish fix.patch --key alice.key --rpc http://127.0.0.1:7080 --home ~/.patchwarden",
    ),
)
@click.argument("file", type=FILE, metavar="FILE")
@click.pass_obj
def publish(session: Session, file: Path) -> None:
    """Record the patch FILE and every attestation in it that the ledger does not have, and store the file.

    Signed by the author. Running it again is harmless, and brings later attestations of the file to the ledger.
    """
    from node.cli.patch_files import find_record, read_patch

    _, patch = read_patch(file)
    client = session.client()
    key = session.key()
    record = find_record(client, patch.patch_id)
    published = None
    if record is None:
        published = _publish(session, key, patch)
        if published is None:
            return
        record = client.call("patches.get", patch_id=patch.patch_id)
    elif record["author_payload_digest"] != patch.author_payload_digest.hex():
        raise CommandError(
            "cli.publish.other_statement",
            "the ledger has this patch with another author's statement",
            expected=record["author_payload_digest"],
            actual=patch.author_payload_digest,
        )
    attestations = _attest_all(session, key, patch, record)
    stored = _store(session, patch, record)
    document = {
        "patch_id": patch.patch_id,
        "published": published,
        "published_height": record["published_height"],
        "attestations": attestations,
        "file_digest": record["file_digest"],
        "stored": stored,
    }
    session.output.emit(document, _publish_lines(document))
    refused = next((each for each in attestations if each["status"] == REFUSED), None)
    if refused is not None:
        raise RejectedError(refused["code"], f"an attestation was not recorded: {refused['message']}")


@click.command(
    "withdraw",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=('patchwarden patch withdraw 3f2a… --reason "breaks frames longer than 64 KiB" --key alice.key',),
)
@click.argument("patch_id", type=DIGEST, metavar="PATCH")
@click.option("--reason", required=True, metavar="TEXT", help="Why, for those who read the ledger.")
@click.pass_obj
def withdraw(session: Session, patch_id: str, reason: str) -> None:
    """Stop every agent from applying PATCH. Signed by its author or an administrator of the author's organisation."""
    from ledger.bodies import PatchWithdraw
    from node.cli.submit import submit_body

    submit_body(session, PatchWithdraw(bytes.fromhex(patch_id), reason), (("withdrawn", patch_id), ("reason", reason)))


@click.command(
    "fetch",
    cls=Command,
    node=True,
    examples=("patchwarden patch fetch 3f2a… --out fix.patch",),
)
@click.argument("patch_id", type=DIGEST, metavar="PATCH")
@click.option("--out", type=FILE_OR_DASH, required=True, metavar="FILE", help="Where the patch file goes.")
@click.pass_obj
def fetch(session: Session, patch_id: str, out: Path) -> None:
    """Get the published patch file PATCH; it is compared with the ledger and verified before it is written."""
    from node.cli.files import write_file
    from node.cli.patch_transfer import receive_patch
    from provenance.verify import verify_patch_untrusted
    from wire.hashing import sha256

    client = session.client()
    record = client.call("patches.get", patch_id=patch_id)
    with session.output.stages() as stages:
        data = receive_patch(
            client, patch_id, lambda done, total: stages.show("received", done >> 10, total >> 10, "KiB")
        )
    found, digest = verify_patch_untrusted(data).patch_id, sha256(data).hex()
    if (found, digest) != (patch_id, record["file_digest"]):
        raise CommandError(
            "cli.fetch.other_file", "the node sent another file", expected=record["file_digest"], actual=digest
        )
    write_file(out, data)
    if str(out) == "-":
        return
    document = {"patch_id": patch_id, "file": str(out), "file_digest": digest, "file_bytes": len(data)}
    session.output.emit(
        document, fields((("patch", patch_id), ("file", out), ("bytes", len(data)), ("sha256", digest)))
    )


@click.command("list", cls=Command, node=True, examples=("patchwarden patch list --limit 10",))
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many.")
@click.pass_obj
def list_patches(session: Session, limit: int) -> None:
    """List published patches, the newest first."""
    found = session.client().call("patches.list", limit=limit)
    rows = []
    for each in found:
        current = [one for one in each["attestations"] if one["current"]]
        state = "withdrawn" if each["withdrawn_height"] else "superseded" if each["superseded_by"] else "published"
        rows.append(
            (
                short(each["patch_id"], 16),
                each["published_height"],
                state,
                each["author"],
                sum(one["verdict"] == "approve" for one in current),
                sum(one["verdict"] == "reject" for one in current),
                ", ".join(each["components"]),
            )
        )
    session.output.emit(found, table(rows, ("patch", "height", "state", "author", "for", "against", "components")))


def _publish(session: Session, key: Signer, patch: VerifiedPatch) -> dict[str, Any] | None:
    from ledger.bodies import PatchPublish
    from node.cli.submit import sign, submit, write_transaction
    from wire.hashing import sha256

    if key.public_key != patch.author_key:
        raise CommandError(
            "cli.publish.not_author",
            "a patch is published by its author",
            expected=f"the key {patch.author_key.key_id_hex}",
            actual=key.public_key.key_id_hex,
        )
    body = PatchPublish(
        patch_id=bytes.fromhex(patch.patch_id),
        file_digest=sha256(patch.file.raw),
        file_bytes=len(patch.file.raw),
        envelope=patch.file.trailer[0],
        attestation_digests=tuple(each.payload_digest for each in patch.attestations),
    )
    transaction = sign(session.client(), body, key)
    if session.transaction_out is not None:
        write_transaction(session, transaction, (("publishes", patch.patch_id),))
        return None
    (committed,) = submit(session.client(), [transaction], session.timeout_s)
    return committed.document()


def _attest_all(session: Session, key: Signer, patch: VerifiedPatch, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Bring the file's attestations to the ledger, in the file's order; one that is refused does not stop the others."""
    from ledger.bodies import PatchAttest
    from node.cli.submit import sign, submit

    known = {each["payload_digest"] for each in record["attestations"]}
    results = []
    for each in patch.attestations:
        result: dict[str, Any] = {
            "identity": each.identity,
            "role": each.role,
            "verdict": None if each.verdict is None else each.verdict.value,
            "payload_digest": each.payload_digest.hex(),
            "status": KNOWN,
        }
        results.append(result)
        if each.payload_digest.hex() in known:
            continue
        body = PatchAttest(bytes.fromhex(patch.patch_id), patch.file.trailer[each.index])
        try:
            (committed,) = submit(session.client(), [sign(session.client(), body, key)], session.timeout_s)
        except RejectedError as error:
            result |= {"status": REFUSED, "code": error.code, "message": error.message}
        else:
            result |= {"status": RECORDED, "tx_id": committed.tx_id, "height": committed.height}
    return results


def _store(session: Session, patch: VerifiedPatch, record: dict[str, Any]) -> bool:
    """Give the node the file as it was published; later attestations live on the ledger, not in the stored file."""
    from node.cli.patch_files import published_part
    from node.cli.patch_transfer import send_patch

    published = published_part(patch, record["file_digest"])
    if published is None:
        session.output.note("the published file is not a beginning of this one, so the node's copy stays as it is")
        return False
    with session.output.stages() as stages:
        send_patch(
            session.client(),
            published,
            patch.patch_id,
            lambda done, total: stages.show("sent", done >> 10, total >> 10, "KiB"),
        )
    return True


def _publish_lines(document: dict[str, Any]) -> list[str]:
    published = document["published"]
    lines = list(
        fields(
            (
                ("patch", document["patch_id"]),
                ("published", f"height {document['published_height']}" + ("" if published else " (before)")),
                ("transaction", published["tx_id"] if published else None),
                ("file", f"{document['file_digest']} {'stored' if document['stored'] else 'not stored'}"),
            )
        )
    )
    for each in document["attestations"]:
        where = {KNOWN: "known", RECORDED: f"height {each.get('height')}", REFUSED: f"refused: {each.get('code')}"}
        lines.append(
            f"  {each['verdict'] or 'statement'} by {each['identity']} as {each['role']}: {where[each['status']]}"
        )
    return lines
