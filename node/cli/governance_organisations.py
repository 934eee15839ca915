"""`patchwarden governance propose …-organisation|add-administrator|add-ca|remove-ca`."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.governance_propose import Proposed, proposes
from node.cli.params import FILE

_ORGANISATION = click.argument("organisation", metavar="ORGANISATION")
_CERTIFICATE = click.argument("certificate", type=FILE, metavar="PEM")
_REASON = click.option("--reason", required=True, metavar="TEXT", help="Why, for those who read the ledger.")


@proposes(
    "add-organisation",
    "patchwarden governance propose add-organisation delta 'Delta SA' \\\n"
    "      --administrator admin@delta 'Dora Admin' delta-admin.key.pub --key admin.key",
)
@click.argument("organisation", metavar="NAME")
@click.argument("title", metavar="TITLE")
@click.option(
    "--administrator",
    "administrators",
    type=(str, str, str),
    multiple=True,
    required=True,
    metavar="IDENTITY NAME KEY",
    help="A first administrator with a public key (file or did:key); several times.",
)
@click.option("--ca", "authorities", type=FILE, multiple=True, metavar="PEM", help="A CA certificate; several times.")
def add_organisation(
    organisation: str, title: str, administrators: tuple[tuple[str, str, str], ...], authorities: tuple[Path, ...]
) -> Proposed:
    """Propose to admit the organisation NAME with its first administrators."""
    from ledger.organisation_actions import AddOrganisation, Administrator
    from node.cli.public_keys import read_certificates, read_public_key

    people = tuple(
        Administrator(identity, person, read_public_key(key).spki) for identity, person, key in administrators
    )
    certificates = tuple(der for path in authorities for der in read_certificates(path))
    return AddOrganisation(organisation, title, people, certificates), f"admission of {organisation}"


@proposes(
    "rename-organisation", "patchwarden governance propose rename-organisation beta 'Beta & Daughters' --key admin.key"
)
@_ORGANISATION
@click.argument("title", metavar="TITLE")
def rename_organisation(organisation: str, title: str) -> Proposed:
    """Propose another name for people of ORGANISATION. Its identifier stays."""
    from ledger.organisation_actions import RenameOrganisation

    return RenameOrganisation(organisation, title), f"{organisation} is called {title}"


@proposes(
    "suspend-organisation",
    "patchwarden governance propose suspend-organisation gamma --reason 'under investigation' --key admin.key",
)
@_ORGANISATION
@_REASON
def suspend_organisation(organisation: str, reason: str) -> Proposed:
    """Propose that ORGANISATION has no vote and its people cannot act, until it is resumed. Its validators go on."""
    from ledger.organisation_actions import SuspendOrganisation

    return SuspendOrganisation(organisation, reason), f"suspension of {organisation}"


@proposes("resume-organisation", "patchwarden governance propose resume-organisation gamma --key admin.key")
@_ORGANISATION
def resume_organisation(organisation: str) -> Proposed:
    """Propose that the suspended ORGANISATION votes and acts again."""
    from ledger.organisation_actions import ResumeOrganisation

    return ResumeOrganisation(organisation), f"resumption of {organisation}"


@proposes(
    "remove-organisation",
    "patchwarden governance propose remove-organisation gamma --reason 'left the consortium' --key admin.key",
)
@_ORGANISATION
@_REASON
def remove_organisation(organisation: str, reason: str) -> Proposed:
    """Propose to end the membership of ORGANISATION for ever. Remove or replace its validators first."""
    from ledger.organisation_actions import RemoveOrganisation

    return RemoveOrganisation(organisation, reason), f"removal of {organisation}"


@proposes(
    "add-administrator",
    "patchwarden governance propose add-administrator eve@beta 'Eve Admin' eve.key.pub --key admin.key",
)
@click.argument("identity", metavar="IDENTITY")
@click.argument("name", metavar="NAME")
@click.argument("public_key", metavar="KEY")
def add_administrator(identity: str, name: str, public_key: str) -> Proposed:
    """Propose one more administrator, IDENTITY: the way back for an organisation whose administrators lost their keys.

    KEY is a public key, a file or did:key. An organisation that can act registers administrators itself: `identity register`.
    """
    from ledger.organisation_actions import AddAdministrator, Administrator
    from node.cli.public_keys import read_public_key

    organisation = identity.partition("@")[2]
    new = Administrator(identity, name, read_public_key(public_key).spki)
    return AddAdministrator(organisation, new), f"{identity} as an administrator of {organisation}"


@proposes("add-ca", "patchwarden governance propose add-ca acme acme-ca.pem --key admin.key")
@_ORGANISATION
@_CERTIFICATE
def add_ca(organisation: str, certificate: Path) -> Proposed:
    """Propose that certificates issued by this CA are accepted for identities of ORGANISATION."""
    from ledger.organisation_actions import AddCaCertificate
    from node.cli.public_keys import read_certificates

    return AddCaCertificate(organisation, read_certificates(certificate)[0]), f"one more CA of {organisation}"


@proposes("remove-ca", "patchwarden governance propose remove-ca acme acme-ca.pem --key admin.key")
@_ORGANISATION
@_CERTIFICATE
def remove_ca(organisation: str, certificate: Path) -> Proposed:
    """Propose that new certificates of this CA are no longer accepted; identities registered under it stay."""
    from ledger.organisation_actions import RemoveCaCertificate
    from node.cli.public_keys import read_certificates
    from wire.hashing import sha256

    digest = sha256(read_certificates(certificate)[0])
    return RemoveCaCertificate(organisation, digest), f"removal of a CA of {organisation}"
