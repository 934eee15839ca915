"""`patchwarden network`: founding documents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from node.cli.command import Command, Session, group
from node.cli.lazy import Place
from node.cli.output import fields
from node.cli.params import EXISTING_DIRECTORY, FILE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.actions import Administrator
    from ledger.records import Validator

POLICY_SUFFIX: Final = ".cedar"
SCHEMA_SUFFIX: Final = ".cedarschema"

network = group(
    "Found a network.",
    {
        "genesis": Place("node.cli.network:genesis", "Write a founding document from organisations and validators."),
        "show": Place("node.cli.network:show", "Check a founding document and show what it says."),
    },
)


@click.command(
    "genesis",
    cls=Command,
    examples=(
        "patchwarden network genesis --chain-id releases \\\n"
        "      --organisation acme 'Acme Ltd' --organisation beta 'Beta GmbH' \\\n"
        "      --administrator admin@acme 'Ada Admin' acme-admin.key.pub \\\n"
        "      --administrator admin@beta 'Ben Admin' beta-admin.key.pub \\\n"
        "      --validator v1@acme did:key:z6Mk… /ip4/192.0.2.1/tcp/7070 \\\n"
        "      --validator v2@beta did:key:z6Mk… /ip4/192.0.2.2/tcp/7070 --out genesis.json",
    ),
)
@click.option("--chain-id", required=True, metavar="NAME", help="The network's name; every signature covers it.")
@click.option(
    "--organisation",
    "organisations",
    type=(str, str),
    multiple=True,
    required=True,
    metavar="NAME TITLE",
    help="A founding organisation; several times.",
)
@click.option(
    "--administrator",
    "administrators",
    type=(str, str, str),
    multiple=True,
    required=True,
    metavar="IDENTITY NAME KEY",
    help="A first administrator, with a public key (file or did:key); several times.",
)
@click.option(
    "--validator",
    "validators",
    type=(str, str, str),
    multiple=True,
    required=True,
    metavar="NAME@ORGANISATION KEY ADDRESS",
    help="A node that votes, with its public key and multiaddress; several times. `node init` prints all three.",
)
@click.option(
    "--ca",
    "authorities",
    type=(str, FILE),
    multiple=True,
    metavar="ORGANISATION PEM",
    help="A CA certificate; several times.",
)
@click.option(
    "--threshold",
    type=click.Choice(["majority", "two-thirds", "unanimous"]),
    default="majority",
    show_default=True,
    help="How many organisations decide.",
)
@click.option(
    "--policy",
    type=EXISTING_DIRECTORY,
    metavar="DIR",
    help="Folder of .cedar files and one .cedarschema. Default: the built-in set.",
)
@click.option(
    "--time", "founded", metavar="TIME", help="When it is founded, such as 2026-11-22T06:50:00Z. Default: now."
)
@click.option("--out", type=FILE, required=True, metavar="FILE", help="Where the document goes; never overwritten.")
@click.pass_obj
def genesis(  # noqa: PLR0917 - one parameter for each option
    session: Session,
    chain_id: str,
    organisations: Sequence[tuple[str, str]],
    administrators: Sequence[tuple[str, str, str]],
    validators: Sequence[tuple[str, str, str]],
    authorities: Sequence[tuple[str, Path]],
    threshold: str,
    policy: Path | None,
    founded: str | None,
    out: Path,
) -> None:
    """Write the founding document of a network: who belongs to it, who votes on blocks, which policy holds at first."""
    from ledger.genesis import GenesisOrganisation, build_genesis
    from node.cli.files import write_file
    from node.cli.patch_files import now
    from node.cli.public_keys import read_certificates

    schema, policies = read_policy_set(policy)
    members = []
    for name, title in organisations:
        members.append(
            GenesisOrganisation(
                name,
                title,
                tuple(_administrator(*each) for each in administrators if each[0].endswith(f"@{name}")),
                tuple(der for owner, path in authorities if owner == name for der in read_certificates(path)),
            )
        )
    names = {name for name, _ in organisations}
    for identity, *_ in administrators:
        if identity.partition("@")[2] not in names:
            raise click.UsageError(f"--administrator {identity}: no --organisation has this name")
    for owner, _ in authorities:
        if owner not in names:
            raise click.UsageError(f"--ca {owner}: no --organisation has this name")
    document = build_genesis(
        chain_id=chain_id,
        time=founded or now(),
        organisations=members,
        validators=[_validator(*each) for each in validators],
        policy_schema=schema,
        policies=policies,
        threshold=threshold,
    )
    write_file(out, document.document, replace=False)
    answer = {
        "file": str(out),
        "chain_id": chain_id,
        "genesis_hash": document.genesis_hash.hex(),
        "organisations": [name for name, _ in organisations],
        "validators": [each.name for each in document.validators.validators],
        "policies": len(policies),
    }
    session.output.emit(
        answer,
        fields(
            (
                ("founding document", out),
                ("chain", chain_id),
                ("hash", answer["genesis_hash"]),
                ("organisations", ", ".join(name for name, _ in organisations)),
                ("validators", len(validators)),
                ("policies", len(policies)),
            )
        ),
    )


@click.command("show", cls=Command, examples=("patchwarden network show genesis.json",))
@click.argument("file", type=FILE, metavar="FILE")
@click.pass_obj
def show(session: Session, file: Path) -> None:
    """Check the founding document in FILE and show what it says. Exit code 1 when it breaks a rule."""
    from node.cli.receipt import read_genesis

    document = read_genesis(file)
    answer = {
        "chain_id": document.chain_id,
        "genesis_hash": document.genesis_hash.hex(),
        "time": document.time,
        "threshold": document.threshold,
        "organisations": [
            {"name": each.name, "administrators": [one.identity_id for one in each.administrators]}
            for each in document.organisations
        ],
        "validators": [
            {"name": each.name, "organisation": each.organisation, "did": each.public_key.did, "address": each.address}
            for each in document.validators.validators
        ],
        "policies": [name for name, _ in document.policies],
    }
    session.output.emit(
        answer,
        [
            *fields(
                (
                    ("chain", document.chain_id),
                    ("hash", answer["genesis_hash"]),
                    ("founded", document.time),
                    ("decided by", f"{document.threshold} of the organisations"),
                    ("policies", ", ".join(name for name, _ in document.policies)),
                )
            ),
            "organisations:",
            *(
                f"  {each.name} ({each.display_name}), administrators {', '.join(one.identity_id for one in each.administrators)}"
                for each in document.organisations
            ),
            "validators:",
            *(f"  {each.name} of {each.organisation} at {each.address}" for each in document.validators.validators),
        ],
    )


def read_policy_set(folder: Path | None, *, may_be_empty: bool = False) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return schema and policies: those in a folder, checked, or the built-in set.

    Args:
        folder: Where they are; None for the built-in set.
        may_be_empty: Whether somebody asked for a set without policies, which denies everything; otherwise it is taken for a mistyped path.

    Raises:
        CommandError: ``cli.policy.folder``: it does not hold exactly one schema. ``cli.policy.empty``: it holds no policy.
        PolicyRefusedError: ``agent.policy.*``.
    """
    from agent.policy_text import check_policy_set, default_policy_set
    from node.cli.errors import CommandError
    from node.cli.files import read_text
    from wire.limits import MEBIBYTE

    if folder is None:
        return default_policy_set()
    schemas = sorted(folder.glob(f"*{SCHEMA_SUFFIX}"))
    if len(schemas) > 1:
        raise CommandError(
            "cli.policy.folder", f"{folder} holds {len(schemas)} schemas", expected="one .cedarschema file"
        )
    schema = read_text(schemas[0], MEBIBYTE) if schemas else default_policy_set()[0]
    policies = tuple(
        (path.name.removesuffix(POLICY_SUFFIX), read_text(path, MEBIBYTE))
        for path in sorted(folder.glob(f"*{POLICY_SUFFIX}"))
    )
    if not policies and not may_be_empty:
        raise CommandError(
            "cli.policy.empty",
            f"{folder} holds no policies, and a set without policies denies everything",
            expected=f"files that end with {POLICY_SUFFIX}",
            hint="name the directory with the policies; `policy lint` and `policy propose` take none with --deny-everything",
        )
    check_policy_set(schema, policies)
    return schema, policies


def _administrator(identity: str, name: str, key: str) -> Administrator:
    from ledger.actions import Administrator
    from node.cli.public_keys import read_public_key

    return Administrator(identity, name, read_public_key(key).spki)


def _validator(name: str, key: str, address: str) -> Validator:
    from ledger.records import Validator
    from node.cli.public_keys import read_public_key
    from node.net.address import parse_address_untrusted

    node, _, organisation = name.partition("@")
    if not organisation:
        raise click.UsageError(f"--validator {name}: say NAME@ORGANISATION")
    parse_address_untrusted(address)
    return Validator(node, organisation, read_public_key(key).spki, address)
