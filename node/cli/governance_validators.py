"""`patchwarden governance propose add-learner|promote-learner|remove-validator|replace-validator`, and how these are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.command import Command, Session
from node.cli.errors import CommandError
from node.cli.output import fields

if TYPE_CHECKING:
    from ledger.configuration import Validator

_WHY = click.option("--description", default="", metavar="TEXT", help="Why, for those who vote.")

_SHOWN: Final = {
    "add-learner": ("node", "organisation", "key", "address"),
    "promote-learner": ("node",),
    "remove-validator": ("node",),
    "replace-validator": ("node", "by learner"),
}
"""What stands behind each action's name, in its order."""


@click.command(
    "add-learner",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=(
        "patchwarden governance propose add-learner v4@beta did:key:z6Mk… /ip4/192.0.2.4/tcp/7070 --key admin.key",
        "patchwarden governance propose add-learner v4@beta v4.key.pub /ip4/192.0.2.4/tcp/7070 --key admin.key",
    ),
)
@click.argument("node", metavar="NAME@ORGANISATION")
@click.argument("public_key", metavar="KEY")
@click.argument("address", metavar="MULTIADDR")
@_WHY
@click.pass_obj
def add_learner(session: Session, node: str, public_key: str, address: str, description: str) -> None:
    """Propose that a node receives blocks, without a vote yet.

    KEY is its Ed25519 node key (a file or did:key) and MULTIADDR where its peers reach it; `node init` prints both.
    """
    from ledger.validator_actions import AddLearner
    from node.cli.governance import submit_proposal

    learner = read_validator(node, public_key, address)
    submit_proposal(session, AddLearner(learner), description, f"{learner.name} of {learner.organisation} as a learner")


@click.command(
    "promote-learner",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden governance propose promote-learner v4 --key admin.key",),
)
@click.argument("name", metavar="NAME")
@_WHY
@click.pass_obj
def promote_learner(session: Session, name: str, description: str) -> None:
    """Propose that the learner NAME votes on blocks. Let it catch up first: `node validators` asked of the leader tells."""
    from ledger.validator_actions import PromoteLearner
    from node.cli.governance import submit_proposal

    submit_proposal(session, PromoteLearner(_name(name)), description, f"a vote for {name}")


@click.command(
    "remove-validator",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden governance propose remove-validator v2 --description 'disk is worn' --key admin.key",),
)
@click.argument("name", metavar="NAME")
@_WHY
@click.pass_obj
def remove_validator(session: Session, name: str, description: str) -> None:
    """Propose that the validator or learner NAME leaves. Its node key never comes back."""
    from ledger.validator_actions import RemoveValidator
    from node.cli.governance import submit_proposal

    submit_proposal(session, RemoveValidator(_name(name)), description, f"removal of {name}")


@click.command(
    "replace-validator",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden governance propose replace-validator v2 v4 --key admin.key",),
)
@click.argument("name", metavar="NAME")
@click.argument("learner", metavar="LEARNER")
@_WHY
@click.pass_obj
def replace_validator(session: Session, name: str, learner: str, description: str) -> None:
    """Propose that LEARNER takes the place of the validator NAME, in one change. NAME's node key never comes back."""
    from ledger.validator_actions import ReplaceValidator
    from node.cli.governance import submit_proposal

    action = ReplaceValidator(_name(name), _name(learner))
    submit_proposal(session, action, description, f"{learner} in the place of {name}")


def read_validator(node: str, public_key: str, address: str) -> Validator:
    """Return the node that the arguments name.

    Args:
        node: ``NAME@ORGANISATION``.
        public_key: A file or ``did:key:…``.
        address: A multiaddress; its ``/p2p/…``, where it has one, belongs to the key.

    Raises:
        CommandError: ``cli.node.key``: the key is no Ed25519 key; ``cli.node.port``: the address names no port;
            ``cli.file.*``, ``cli.key.*``.
        RejectedError: ``node.net.*``, ``wire.key.*``.
        click.UsageError: `node` has no organisation or is no identifier.
    """
    from ledger.configuration import Validator
    from node.cli.public_keys import read_public_key
    from node.net.address import parse_address_untrusted, with_peer_id_untrusted
    from wire.keys import Algorithm

    name, _, organisation = node.partition("@")
    if not name or not organisation:
        raise click.UsageError(f"a validator is named NAME@ORGANISATION, not {node}")
    key = read_public_key(public_key)
    if key.algorithm is not Algorithm.ED25519:
        raise CommandError("cli.node.key", "a node's key is an Ed25519 key", actual=str(key.algorithm))
    with_peer_id_untrusted(address, key.raw)
    if parse_address_untrusted(address).port == 0:
        raise CommandError(
            "cli.node.port", "nobody can reach a node at port 0", actual=address, hint="fix its port with `listen`"
        )
    return Validator(_name(name), _name(organisation), key.spki, address)


def action_summary(action: list[Any]) -> str:
    """Return an action in a few words, for a table: its name, and for a change of the validators whom it is about."""
    name = str(action[0])
    match action:
        case ["add-learner", node, organisation, *_]:
            return f"{name} {node}@{organisation}"
        case ["replace-validator", node, learner]:
            return f"{name} {node} by {learner}"
        case ["promote-learner" | "remove-validator", node]:
            return f"{name} {node}"
        case _:
            return name


def action_lines(action: list[Any]) -> list[str] | None:
    """Return an action about the validators as lines for people, or None for every other action."""
    name, *values = action
    names = _SHOWN.get(name, ())
    if not names or len(names) != len(values):
        return None
    shown = [_key(value) if what == "key" else value for what, value in zip(names, values, strict=True)]
    return list(fields((("change", name), *zip(names, shown, strict=True))))


def _key(spki: object) -> object:
    """Return the DID of the key, as `node init` and `node validators` show it; what is no key stays as it is."""
    from wire.errors import RejectedError
    from wire.keys import public_key_from_spki_untrusted

    try:
        return public_key_from_spki_untrusted(bytes.fromhex(str(spki))).did
    except (RejectedError, ValueError):
        return spki


def _name(text: str) -> str:
    from wire.errors import RejectedError
    from wire.fields import as_identifier

    try:
        return as_identifier(text, "name")
    except RejectedError as error:
        raise click.UsageError(f"{text!r} is no name: {error.message}") from error
