"""`patchwarden identity publish-crl`: a certificate authority's revocation list, brought to the ledger with the keys that it ends."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.command import Command, Session
from node.cli.errors import CommandError
from node.cli.params import FILE
from wire.errors import RejectedError

if TYPE_CHECKING:
    from wire.x509_crl import RevocationList


@click.command(
    "publish-crl",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden identity publish-crl acme acme.crl --key ci.key",),
)
@click.argument("organisation", metavar="ORGANISATION")
@click.argument("file", type=FILE, metavar="FILE")
@click.pass_obj
def publish_crl(session: Session, organisation: str, file: Path) -> None:
    """Put the revocation list in FILE (PEM or DER) of a CA of ORGANISATION on the ledger. Signed by any identity of it.

    Keys whose certificates the list takes back count for the last time in that block; such certificates come in no more.
    """
    from ledger.bodies import IdentityPublishCrl
    from ledger.limits import CRL_KEYS_MAX
    from node.cli.identity import all_identities
    from node.cli.submit import submit_body

    crl = _read(file)
    authority, found = _verify(session, organisation, crl)
    members = all_identities(session.client(), organisation=organisation)
    ended = sorted(_ended(members, authority, found))[:CRL_KEYS_MAX]
    names = {key_id: each["identity"] for each in members for key_id in (key["key_id"] for key in each["keys"])}
    summary = [
        ("list number", found.number),
        ("certificates", f"{len(found.serials)} revoked"),
        *(("ends", f"key {key_id} of {names[key_id]}") for key_id in ended),
    ]
    submit_body(session, IdentityPublishCrl(organisation, crl, tuple(bytes.fromhex(each) for each in ended)), summary)


def _read(file: Path) -> bytes:
    from node.cli.files import read_file
    from node.cli.public_keys import pem_blocks
    from wire.limits import X509_CRL_BYTES_MAX

    data = read_file(file, 2 * X509_CRL_BYTES_MAX)
    lists = [der for kind, der in pem_blocks(file, data) if kind == b"X509 CRL"]
    return lists[0] if lists else data


def _verify(session: Session, organisation: str, crl: bytes) -> tuple[bytes, RevocationList]:
    from node.local.protocol import decode_blob_untrusted
    from wire.limits import X509_CERTIFICATE_BYTES_MAX
    from wire.x509_crl import verify_revocation_list

    known = {each["name"]: each["ca_certificates"] for each in session.client().call("organisations.list")}
    reason: RejectedError | None = None
    for blob in known.get(organisation, ()):
        authority = decode_blob_untrusted(blob, "ca_certificates", bytes_max=X509_CERTIFICATE_BYTES_MAX)
        try:
            return authority, verify_revocation_list(crl, authority)
        except RejectedError as error:
            reason = error
    raise CommandError(
        "cli.crl.unknown_issuer",
        f"the list is not one of a CA that {organisation} has on the ledger",
        hint="governance certificates lists them" if reason is None else f"the last that was tried: {reason.message}",
    ) from reason


def _ended(members: list[dict[str, Any]], authority: bytes, found: RevocationList) -> list[str]:
    from node.local.protocol import decode_blob_untrusted
    from wire.limits import X509_CERTIFICATE_BYTES_MAX
    from wire.x509_crl import issuer_bytes, serial_bytes, subject_bytes

    issuer, serials = subject_bytes(authority), frozenset(found.serials)
    ended = []
    for key in (key for each in members for key in each["keys"] if key["last_valid_height"] is None):
        chain = [
            decode_blob_untrusted(blob, "certificate", bytes_max=X509_CERTIFICATE_BYTES_MAX)
            for blob in key["certificate_chain"]
        ]
        if any(issuer_bytes(der) == issuer and serial_bytes(der) in serials for der in chain):
            ended.append(str(key["key_id"]))
    return ended
