"""`patchwarden governance propose` of policies, thresholds, limits, keys, patches and rollouts, and what every proposing command has."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from node.cli.command import Command, Session
from node.cli.output import short
from node.cli.params import DIGEST, EXISTING_DIRECTORY

if TYPE_CHECKING:
    from ledger.actions import Action

Proposed: TypeAlias = "tuple[Action, str]"
"""What is proposed, and what a person should read about it."""


def proposes(name: str, *examples: str) -> Callable[[Callable[..., Proposed]], click.Command]:
    """Make a command of a function that returns an action: it opens a proposal of it, signed by an administrator.

    Args:
        name: The command's name.
        examples: Command lines for its help.
    """

    def decorate(make: Callable[..., Proposed]) -> click.Command:
        def run(session: Session, *, description: str, **arguments: object) -> None:
            from ledger.bodies import ProposalCreate
            from node.cli.submit import submit_body

            action, what = make(**arguments)
            submit_body(session, ProposalCreate(action, description), (("proposed", what),))

        update_wrapper(run, make)
        why = click.option("--description", default="", metavar="TEXT", help="Why, for those who vote.")
        command = click.command(name, cls=Command, node=True, signs=True, submits=True, examples=examples)
        return command(click.pass_obj(why(run)))

    return decorate


@proposes(
    "set-policy",
    "patchwarden governance propose set-policy policies/ --description 'three approvals' --key admin.key",
)
@click.argument("folder", type=EXISTING_DIRECTORY, metavar="DIR")
def set_policy(folder: Path) -> Proposed:
    """Propose the policy set in DIR: .cedar files, one policy each, and a .cedarschema. It is checked before it is proposed."""
    from ledger.actions import SetPolicy
    from node.cli.network import read_policy_set

    schema, policies = read_policy_set(folder)
    return SetPolicy(schema, policies), f"policy set of {len(policies)} policies"


@proposes("set-threshold", "patchwarden governance propose set-threshold two-thirds --key admin.key")
@click.argument("threshold", type=click.Choice(["majority", "two-thirds", "unanimous"]))
def set_threshold(threshold: str) -> Proposed:
    """Propose how many organisations decide from now on."""
    from ledger.actions import SetThreshold

    return SetThreshold(threshold), f"threshold {threshold}"


@proposes(
    "set-limits",
    "patchwarden governance propose set-limits --transaction-bytes 262144 --block-bytes 1048576 \\\n"
    "      --block-transactions 500 --key admin.key",
)
@click.option("--transaction-bytes", type=int, required=True, metavar="N", help="The longest transaction.")
@click.option("--block-bytes", type=int, required=True, metavar="N", help="The longest block.")
@click.option("--block-transactions", type=int, required=True, metavar="N", help="Transactions in one block.")
def set_limits(transaction_bytes: int, block_bytes: int, block_transactions: int) -> Proposed:
    """Propose how long transactions and blocks may be, from the next block on."""
    from ledger.actions import SetLimits

    limits = SetLimits(transaction_bytes, block_bytes, block_transactions)
    what = f"transactions of {transaction_bytes} bytes, blocks of {block_bytes} bytes and {block_transactions} transactions"
    return limits, what


@proposes(
    "revoke-key",
    "patchwarden governance propose revoke-key 3f… --last-valid-height 812 --reason 'key stolen' --key admin.key",
)
@click.argument("key_id", type=DIGEST, metavar="KEY_ID")
@click.option(
    "--last-valid-height",
    type=click.IntRange(min=0),
    required=True,
    metavar="H",
    help="The last height at which it counts.",
)
@click.option("--reason", required=True, metavar="TEXT", help="Why, for those who read the ledger.")
def revoke_key(key_id: str, last_valid_height: int, reason: str) -> Proposed:
    """Propose to revoke the key KEY_ID of any organisation, its last administrator's included."""
    from ledger.actions import RevokeKey

    return RevokeKey(bytes.fromhex(key_id), last_valid_height, reason), f"revocation of key {short(key_id)}"


@proposes(
    "withdraw-patch",
    "patchwarden governance propose withdraw-patch 3f… --reason 'breaks large frames' --key admin.key",
)
@click.argument("patch_id", type=DIGEST, metavar="PATCH")
@click.option("--reason", required=True, metavar="TEXT", help="Why, for those who read the ledger.")
def withdraw_patch(patch_id: str, reason: str) -> Proposed:
    """Propose to withdraw PATCH, whoever published it."""
    from ledger.actions import WithdrawPatch

    return WithdrawPatch(bytes.fromhex(patch_id), reason), f"withdrawal of {short(patch_id)}"


@proposes(
    "decide-rollout",
    "patchwarden governance propose decide-rollout spring@acme halt --reason 'it leaks' --key admin.key",
)
@click.argument("rollout_id", metavar="ROLLOUT")
@click.argument("decision", type=click.Choice(["halt", "resume", "withdraw"]))
@click.option("--reason", required=True, metavar="TEXT", help="Why, for those who read the ledger.")
def decide_rollout(rollout_id: str, decision: str, reason: str) -> Proposed:
    """Propose to halt, resume or withdraw ROLLOUT, whoever made it. What a vote has halted, only a vote resumes."""
    from ledger.actions import DecideRollout

    return DecideRollout(rollout_id, decision, reason), f"{decision} {rollout_id}"
