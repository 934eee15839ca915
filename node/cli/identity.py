"""`patchwarden identity`: who is who on the ledger."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session, group
from node.cli.consistency import CONSISTENCY, as_of_text
from node.cli.errors import CommandError
from node.cli.lazy import Place
from node.cli.output import fields, short, table
from node.cli.params import DIGEST, FILE, IDENTITY
from node.cli.proof import PROOF, proven_lines, write_state_proof

if TYPE_CHECKING:
    from node.cli.client import NodeClient

PAGE: Final = 200
"""Identities asked for at once."""

identity = group(
    "Register people, services and hosts; rotate and revoke keys.\n\nAn administrator signs for the identities of their own "
    "organisation. What a key signed stays valid up to the height that its revocation names.",
    {
        "register": Place("node.cli.identity:register", "Register an identity with its first key."),
        "show": Place("node.cli.identity:show", "Show one identity, now or at a past height."),
        "list": Place("node.cli.identity:list_identities", "List identities."),
        "set-roles": Place("node.cli.identity:set_roles", "Replace an identity's roles."),
        "set-term": Place("node.cli.identity:set_term", "Bind a role to a time."),
        "rotate-key": Place("node.cli.identity:rotate_key", "Add a key and retire the old one in one step."),
        "suspend": Place("node.cli.identity:suspend", "Stop an identity from acting, for the time being."),
        "resume": Place("node.cli.identity:resume", "Let a suspended identity act again."),
        "revoke": Place("node.cli.identity:revoke", "Revoke a key, or an identity with all its keys, for ever."),
        "history": Place("node.cli.identity:history", "Show every transaction about an identity."),
        "pending": Place("node.cli.identity_administration:pending", "Show what administrators must still agree on."),
        "approve": Place("node.cli.identity_administration:approve", "Agree to an act of administration."),
        "withdraw": Place(
            "node.cli.identity_administration:withdraw", "Close an act of administration without effect."
        ),
        "set-threshold": Place(
            "node.cli.identity_administration:set_threshold", "Say how many administrators must agree."
        ),
        "publish-crl": Place("node.cli.identity_crl:publish_crl", "Put a CA's revocation list on the ledger."),
        "affected": Place("node.cli.identity_affected:affected", "List what the revocation of its keys takes back."),
    },
)

_NAME = click.argument("identity", type=IDENTITY, metavar="IDENTITY")
_REASON = click.option("--reason", required=True, metavar="TEXT", help="Why, for those who read the ledger.")
_ROLES = click.option(
    "--role",
    "roles",
    multiple=True,
    required=True,
    metavar="ROLE",
    help="administrator, developer, attestor:NAME, host, auditor, release-manager or validator; may be given several times.",
)
_CERTIFICATE = click.option(
    "--certificate",
    type=FILE,
    metavar="PEM",
    help="Certificate chain of the key, leaf first; it must lead to a CA of the organisation.",
)


@click.command(
    "register",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=(
        "patchwarden identity register alice@acme --public-key alice.key.pub --role developer --key admin.key",
        "patchwarden identity register bob@beta --public-key did:key:z6Mk… --role attestor:security-review --key admin.key",
    ),
)
@_NAME
@click.option(
    "--public-key",
    "public_key",
    metavar="FILE|DID",
    help="The identity's public key: PEM file or did:key. Taken from --certificate when that is given.",
)
@_ROLES
@click.option("--name", "display_name", metavar="TEXT", help="Name for people. Default: the identity's id.")
@_CERTIFICATE
@click.pass_obj
def register(  # noqa: PLR0917 - one parameter for each option
    session: Session,
    identity: str,
    public_key: str | None,
    roles: tuple[str, ...],
    display_name: str | None,
    certificate: Path | None,
) -> None:
    """Register IDENTITY with its first key. Signed by an administrator of its organisation."""
    from ledger.bodies import IdentityRegister
    from ledger.roles import as_roles, normalise_roles
    from node.cli.identity_administration import administer

    spki, key_id, chain = _new_key(public_key, certificate)
    checked = as_roles(normalise_roles(roles), "role")
    body = IdentityRegister(identity, display_name or identity, checked, spki, chain)
    administer(session, body, (("registered", identity), ("roles", ", ".join(checked)), ("key id", key_id)))


@click.command(
    "show",
    cls=Command,
    node=True,
    examples=(
        "patchwarden identity show alice@acme",
        "patchwarden identity show alice@acme --height 812 -o json",
        "patchwarden identity show alice@acme --consistency local",
        "patchwarden identity show alice@acme --proof alice.proof",
    ),
)
@_NAME
@click.option("--height", type=click.IntRange(min=0), metavar="H", help="As it was after this block.")
@CONSISTENCY
@PROOF
@click.pass_obj
def show(session: Session, identity: str, height: int | None, consistency: str | None, proof: Path | None) -> None:
    """Show IDENTITY with every key it ever had.

    With --proof, show what is proven about it at the newest certified block, also that there is no such identity.
    """
    if proof is not None:
        if height is not None or consistency is not None:
            raise click.UsageError("--proof is about the newest certified block, without --height and --consistency")
        proven = write_state_proof(session, "identity", identity, proof)
        session.output.emit(proven, proven_lines(proven))
        return
    document = session.client().call("identities.get", identity=identity, height=height, consistency=consistency)
    now_ms = _block_time_ms(session.client(), height) if document.get("role_terms") else 0
    session.output.emit(document, _lines(document, now_ms))


@click.command(
    "list",
    cls=Command,
    node=True,
    examples=("patchwarden identity list", "patchwarden identity list --organisation acme --role developer"),
)
@click.option("--organisation", metavar="NAME", help="Only identities of this organisation.")
@click.option("--role", metavar="ROLE", help="Only identities that hold this role.")
@click.pass_obj
def list_identities(session: Session, organisation: str | None, role: str | None) -> None:
    """List identities in order of their ids."""
    client = session.client()
    found = all_identities(client, organisation=organisation, role=role)
    now_ms = _block_time_ms(client, None) if any(each.get("role_terms") for each in found) else 0
    rows = [
        (each["identity"], each["status"], _roles_text(each, now_ms), len(each["keys"]), each["display_name"])
        for each in found
    ]
    session.output.emit(found, table(rows, ("identity", "status", "roles", "keys", "name")))


@click.command(
    "set-roles",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden identity set-roles alice@acme --role developer --role auditor --key admin.key",),
)
@_NAME
@_ROLES
@click.pass_obj
def set_roles(session: Session, identity: str, roles: tuple[str, ...]) -> None:
    """Replace the roles of IDENTITY by the ones given. Signed by an administrator of its organisation."""
    from ledger.bodies import IdentityUpdateRoles
    from ledger.roles import as_roles, normalise_roles
    from node.cli.identity_administration import administer

    checked = as_roles(normalise_roles(roles), "role")
    administer(session, IdentityUpdateRoles(identity, checked), (("changed", identity), ("roles", ", ".join(checked))))


@click.command(
    "set-term",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=(
        "patchwarden identity set-term eve@acme --role developer --until 2027-01-31T00:00:00Z --key admin.key",
        "patchwarden identity set-term eve@acme --role developer --unlimited --key admin.key",
    ),
)
@_NAME
@click.option("--role", required=True, metavar="ROLE", help="A role that IDENTITY holds.")
@click.option(
    "--from", "begin", metavar="TIME", help="The role counts from this block time on, such as 2027-01-01T00:00:00Z."
)
@click.option("--until", "end", metavar="TIME", help="The role counts up to this block time.")
@click.option("--unlimited", is_flag=True, help="Take the bounds away.")
@click.pass_obj
def set_term(  # noqa: PLR0917 - one parameter for each option
    session: Session, identity: str, role: str, begin: str | None, end: str | None, unlimited: bool
) -> None:
    """Bind a role of IDENTITY to a time by the ledger's clock. Signed by an administrator of its organisation."""
    from ledger.bodies import IdentitySetRoleTerm
    from ledger.roles import as_role
    from node.cli.audit_trace import term_text
    from node.cli.identity_administration import administer

    if unlimited is (begin is not None or end is not None):
        raise click.UsageError("give --from, --until or both; or --unlimited alone")
    from_ms, until_ms = (None if text is None else _moment_ms(text) for text in (begin, end))
    body = IdentitySetRoleTerm(identity, as_role(role, "role"), from_ms, until_ms)
    administer(session, body, (("changed", identity), ("role", f"{role} {term_text(from_ms, until_ms)}")))


def _moment_ms(text: str) -> int:
    from provenance.timestamp import seconds_from_timestamp

    return seconds_from_timestamp(text) * 1000


@click.command(
    "rotate-key",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden identity rotate-key alice@acme --new-key alice-2027.key.pub --key alice.key",),
)
@_NAME
@click.option("--new-key", metavar="FILE|DID", help="The new public key. Taken from --certificate when that is given.")
@click.option("--old-key-id", type=DIGEST, help="The key that retires. Default: the only one in use.")
@_CERTIFICATE
@click.pass_obj
def rotate_key(
    session: Session, identity: str, new_key: str | None, old_key_id: str | None, certificate: Path | None
) -> None:
    """Add a key to IDENTITY and retire an old one. Signed by the old key or by an administrator."""
    from ledger.bodies import IdentityRotateKey
    from node.cli.identity_administration import administer

    spki, key_id, chain = _new_key(new_key, certificate)
    retired = old_key_id or _only_key(session.client(), identity)
    body = IdentityRotateKey(identity, bytes.fromhex(retired), spki, chain)
    administer(session, body, (("rotated", identity), ("retired key", retired), ("new key", key_id)))


@click.command(
    "suspend",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=('patchwarden identity suspend alice@acme --reason "laptop lost, under investigation" --key admin.key',),
)
@_NAME
@_REASON
@click.pass_obj
def suspend(session: Session, identity: str, reason: str) -> None:
    """Stop IDENTITY from acting until it is resumed. Signed by an administrator of its organisation."""
    from ledger.bodies import IdentitySuspend
    from node.cli.submit import submit_body

    submit_body(session, IdentitySuspend(identity, reason), (("suspended", identity), ("reason", reason)))


@click.command(
    "resume",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden identity resume alice@acme --key admin.key",),
)
@_NAME
@click.pass_obj
def resume(session: Session, identity: str) -> None:
    """Let a suspended IDENTITY act again. Signed by an administrator of its organisation."""
    from ledger.bodies import IdentityResume
    from node.cli.identity_administration import administer

    administer(session, IdentityResume(identity), (("resumed", identity),))


@click.command(
    "revoke",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=(
        'patchwarden identity revoke mallory@acme --reason "never was trustworthy" --key admin.key',
        'patchwarden identity revoke alice@acme --last-valid-height 4711 --reason "left the company" --key admin.key',
        'patchwarden identity revoke bob@beta --key-id 3f… --last-valid-height 812 --reason "key stolen" --key admin.key',
    ),
)
@_NAME
@click.option("--key-id", type=DIGEST, help="Revoke this key only. Default: the identity with all its keys.")
@click.option(
    "--last-valid-height",
    type=click.IntRange(min=0),
    metavar="H",
    help="What was recorded up to this height stays valid; it may lie in the past. Default: with --key-id the newest block;"
    " without it 0: nothing that was ever recorded of IDENTITY counts any more.",
)
@_REASON
@click.pass_obj
def revoke(session: Session, identity: str, key_id: str | None, last_valid_height: int | None, reason: str) -> None:
    """Revoke a key of IDENTITY, or IDENTITY with all its keys. This cannot be undone.

    `identity affected IDENTITY --last-valid-height H` tells before what that takes back, and `identity affected IDENTITY` afterwards.
    """
    from ledger.bodies import IdentityRevoke
    from node.cli.identity_administration import administer

    height = last_valid_height
    if height is None:
        height = 0 if key_id is None else session.client().call("status")["height"]
    body = IdentityRevoke(identity, None if key_id is None else bytes.fromhex(key_id), height, reason)
    what = f"key {key_id}" if key_id else "the identity and all its keys"
    until = (
        "valid up to height",
        f"{height}: what was recorded until then stays valid" if height else "0: nothing stays valid",
    )
    summary = (("revoked", f"{identity}: {what}"), until, ("reason", reason))
    administer(session, body, (*summary, ("what it takes back", f"patchwarden identity affected {identity}")))


@click.command("history", cls=Command, node=True, examples=("patchwarden identity history alice@acme",))
@_NAME
@click.pass_obj
def history(session: Session, identity: str) -> None:
    """Show every transaction about IDENTITY, the oldest first."""
    found = session.client().call("identities.history", identity=identity)
    rows = [(each["height"], _said(each["raw"]), each["signer"], short(each["tx_id"], 16)) for each in found]
    session.output.emit(found, table(rows, ("height", "what", "signed by", "transaction")))


def _said(raw: str) -> str:
    from ledger.transaction import decode_transaction_untrusted
    from node.cli.audit_trace import summary_of
    from node.local.protocol import decode_blob_untrusted
    from wire.limits import TX_BYTES_MAX

    transaction = decode_transaction_untrusted(decode_blob_untrusted(raw, "transaction", bytes_max=TX_BYTES_MAX))
    return summary_of(transaction.body)


def all_identities(client: NodeClient, **wanted: str | None) -> list[dict[str, Any]]:
    """Return every identity that fits, page by page."""
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = client.call("identities.list", limit=PAGE, after=after, **wanted)
        # `after` may or may not be inclusive at a node of another version; an identity is taken once.
        new = [each for each in page if after is None or each["identity"] > after]
        found += new
        if len(page) < PAGE or not new:
            return found
        after = new[-1]["identity"]


def find_identity_of_key(client: NodeClient, key_id: str) -> str:
    """Return the identity that a key belongs to.

    Raises:
        CommandError: ``cli.identity.unknown_key``: the ledger has no such key.
    """
    for each in all_identities(client):
        if any(key["key_id"] == key_id for key in each["keys"]):
            return str(each["identity"])
    raise CommandError(
        "cli.identity.unknown_key",
        "the ledger has no identity with this key",
        actual=key_id,
        hint="have an administrator register it: patchwarden identity register",
    )


def _new_key(public_key: str | None, certificate: Path | None) -> tuple[bytes, str, tuple[bytes, ...]]:
    """Return SPKI, key id and certificate chain of the key that the options name."""
    from node.cli.public_keys import read_certificates, read_public_key
    from wire.x509 import certificate_chain_untrusted

    chain = () if certificate is None else read_certificates(certificate)
    if public_key is not None:
        public = read_public_key(public_key)
    elif chain:
        public = certificate_chain_untrusted(chain).public_key
    else:
        raise click.UsageError("name the public key: a PEM file, a did:key, or a --certificate that holds it")
    return public.spki, public.key_id_hex, chain


def _only_key(client: NodeClient, identity: str) -> str:
    keys = [
        key["key_id"]
        for key in client.call("identities.get", identity=identity)["keys"]
        if key["retired_height"] is None and key["last_valid_height"] is None
    ]
    if len(keys) != 1:
        raise CommandError(
            "cli.identity.which_key",
            f"{identity} has {len(keys)} keys in use",
            hint="name the one that retires with --old-key-id",
        )
    return str(keys[0])


def _block_time_ms(client: NodeClient, height: int | None) -> int:
    """Return the time of a past block, or that of one that would be made now: by that alone is told whether a role counts."""
    if height is not None:
        return int(client.call("blocks.get", height=height)["time_ms"])
    newest = int(client.call("blocks.get", height=client.call("status")["height"])["time_ms"])
    return max(newest, time.time_ns() // 1_000_000)


def _roles_text(document: dict[str, Any], now_ms: int) -> str:
    """Return the roles, each with whether it counts in a block of `now_ms` where it is bound to a time."""
    standing = {each["role"]: _standing(each, now_ms) for each in document.get("role_terms", ())}
    return ", ".join(f"{role}{standing.get(role, '')}" for role in document["roles"])


def _standing(term: dict[str, Any], now_ms: int) -> str:
    if term["until_ms"] is not None and now_ms > term["until_ms"]:
        return " (ended)"
    return " (not begun)" if term["from_ms"] is not None and now_ms < term["from_ms"] else ""


def _lines(document: dict[str, Any], now_ms: int) -> list[str]:
    from node.cli.audit_trace import term_text

    lines = list(
        fields(
            (
                ("identity", document["identity"]),
                ("name", document["display_name"]),
                ("organisation", document["organisation"]),
                ("roles", _roles_text(document, now_ms)),
                *(
                    (f"  {each['role']}", term_text(each["from_ms"], each["until_ms"]) + _standing(each, now_ms))
                    for each in document.get("role_terms", ())
                ),
                ("status", document["status"]),
                ("registered", f"height {document['registered_height']}"),
                ("last changed", f"height {document['changed_height']}"),
                ("as of", as_of_text(document)),
            )
        )
    )
    for each in document["keys"]:
        lines += ["", *fields((("key", each["key_id"]), ("  algorithm", each["algorithm"]), ("  did", each["did"])))]
        lines += fields(
            (
                ("  valid from", f"height {each['added_height']}"),
                ("  retired after", each["retired_height"]),
                ("  revoked after", each["last_valid_height"]),
                ("  reason", each["reason"] or None),
            )
        )
    return lines
