"""`patchwarden governance propose add-learner|promote-learner|remove-validator|replace-validator`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from node.cli.errors import CommandError
from node.cli.governance_propose import Proposed, proposes

if TYPE_CHECKING:
    from ledger.configuration import Validator


@proposes(
    "add-learner",
    "patchwarden governance propose add-learner v4@beta did:key:z6Mk… /ip4/192.0.2.4/tcp/7070 --key admin.key",
    "patchwarden governance propose add-learner v4@beta v4.key.pub /ip4/192.0.2.4/tcp/7070 --key admin.key",
)
@click.argument("node", metavar="NAME@ORGANISATION")
@click.argument("public_key", metavar="KEY")
@click.argument("address", metavar="MULTIADDR")
def add_learner(node: str, public_key: str, address: str) -> Proposed:
    """Propose that a node receives blocks, without a vote yet.

    KEY is its Ed25519 node key (a file or did:key) and MULTIADDR where its peers reach it; `node init` prints both.
    """
    from ledger.validator_actions import AddLearner

    learner = read_validator(node, public_key, address)
    return AddLearner(learner), f"{learner.name} of {learner.organisation} as a learner"


@proposes("promote-learner", "patchwarden governance propose promote-learner v4 --key admin.key")
@click.argument("name", metavar="NAME")
def promote_learner(name: str) -> Proposed:
    """Propose that the learner NAME votes on blocks. Let it catch up first: `node validators` asked of the leader tells."""
    from ledger.validator_actions import PromoteLearner

    return PromoteLearner(_name(name)), f"a vote for {name}"


@proposes(
    "remove-validator",
    "patchwarden governance propose remove-validator v2 --description 'disk is worn' --key admin.key",
)
@click.argument("name", metavar="NAME")
def remove_validator(name: str) -> Proposed:
    """Propose that the validator or learner NAME leaves. Its node key never comes back."""
    from ledger.validator_actions import RemoveValidator

    return RemoveValidator(_name(name)), f"removal of {name}"


@proposes("replace-validator", "patchwarden governance propose replace-validator v2 v4 --key admin.key")
@click.argument("name", metavar="NAME")
@click.argument("learner", metavar="LEARNER")
def replace_validator(name: str, learner: str) -> Proposed:
    """Propose that LEARNER takes the place of the validator NAME, in one change: how a validator's key is rotated, too.

    NAME's node key never comes back.
    """
    from ledger.validator_actions import ReplaceValidator

    return ReplaceValidator(_name(name), _name(learner)), f"{learner} in the place of {name}"


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


def _name(text: str) -> str:
    from wire.errors import RejectedError
    from wire.fields import as_identifier

    try:
        return as_identifier(text, "name")
    except RejectedError as error:
        raise click.UsageError(f"{text!r} is no name: {error.message}") from error
