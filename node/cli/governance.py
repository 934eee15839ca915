"""`patchwarden governance`: what all organisations decide together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.command import Command, Session, group
from node.cli.lazy import Place
from node.cli.output import fields, short, table
from node.cli.params import DIGEST, EXISTING_DIRECTORY, FILE

if TYPE_CHECKING:
    from ledger.actions import Action

governance = group(
    "Propose and vote on what all organisations decide.\n\nEach organisation has one vote, cast by one of its administrators. "
    "The vote that reaches the threshold executes the proposal in the same block.",
    {
        "propose": Place("node.cli.governance:propose", "Open a proposal."),
        "vote": Place("node.cli.governance:vote", "Cast your organisation's vote."),
        "withdraw": Place("node.cli.governance:withdraw", "Close your organisation's own proposal."),
        "list": Place("node.cli.governance:list_proposals", "List proposals, the newest first."),
        "show": Place("node.cli.governance:show", "Show one proposal with its votes."),
    },
)

propose = group(
    "Open a proposal. Creating one is not voting for it.",
    {
        "set-policy": Place("node.cli.governance:set_policy", "Adopt another policy set."),
        "add-organisation": Place("node.cli.governance:add_organisation", "Admit an organisation."),
        "add-ca": Place("node.cli.governance:add_ca", "Accept certificates of one more CA of an organisation."),
        "remove-ca": Place("node.cli.governance:remove_ca", "No longer accept a CA's certificates."),
        "set-threshold": Place("node.cli.governance:set_threshold", "Change how many organisations decide."),
        "revoke-key": Place("node.cli.governance:revoke_key", "Revoke anybody's key."),
        "withdraw-patch": Place("node.cli.governance:withdraw_patch", "Withdraw anybody's patch."),
        "add-learner": Place(
            "node.cli.governance_validators:add_learner", "Let a node receive blocks, without a vote."
        ),
        "promote-learner": Place("node.cli.governance_validators:promote_learner", "Give a learner a vote."),
        "remove-validator": Place(
            "node.cli.governance_validators:remove_validator", "Take a validator or learner out."
        ),
        "replace-validator": Place(
            "node.cli.governance_validators:replace_validator", "Let a learner take a validator's place."
        ),
    },
)

_WHY = click.option("--description", default="", metavar="TEXT", help="Why, for those who vote.")
_PROPOSAL = click.argument("proposal", type=DIGEST, metavar="PROPOSAL")


@click.command(
    "set-policy",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden governance propose set-policy policies/ --description 'three approvals' --key admin.key",),
)
@click.argument("folder", type=EXISTING_DIRECTORY, metavar="DIR")
@_WHY
@click.pass_obj
def set_policy(session: Session, folder: Path, description: str) -> None:
    """Propose the policy set in DIR: .cedar files, one policy each, and a .cedarschema. It is checked before it is proposed."""
    from ledger.actions import SetPolicy
    from node.cli.network import read_policy_set

    schema, policies = read_policy_set(folder)
    submit_proposal(session, SetPolicy(schema, policies), description, f"policy set of {len(policies)} policies")


@click.command(
    "add-organisation",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=(
        "patchwarden governance propose add-organisation delta 'Delta SA' \\\n"
        "      --administrator admin@delta 'Dora Admin' delta-admin.key.pub --key admin.key",
    ),
)
@click.argument("name", metavar="NAME")
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
@_WHY
@click.pass_obj
def add_organisation(  # noqa: PLR0917 - one parameter for each option
    session: Session,
    name: str,
    title: str,
    administrators: tuple[tuple[str, str, str], ...],
    authorities: tuple[Path, ...],
    description: str,
) -> None:
    """Propose to admit the organisation NAME with its first administrators."""
    from ledger.actions import AddOrganisation, Administrator
    from node.cli.public_keys import read_certificates, read_public_key

    people = tuple(
        Administrator(identity, person, read_public_key(key).spki) for identity, person, key in administrators
    )
    certificates = tuple(der for path in authorities for der in read_certificates(path))
    submit_proposal(session, AddOrganisation(name, title, people, certificates), description, f"admission of {name}")


@click.command(
    "add-ca",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden governance propose add-ca acme acme-ca.pem --key admin.key",),
)
@click.argument("organisation", metavar="ORGANISATION")
@click.argument("certificate", type=FILE, metavar="PEM")
@_WHY
@click.pass_obj
def add_ca(session: Session, organisation: str, certificate: Path, description: str) -> None:
    """Propose that certificates issued by this CA are accepted for identities of ORGANISATION."""
    from ledger.actions import AddCaCertificate
    from node.cli.public_keys import read_certificates

    der = read_certificates(certificate)[0]
    submit_proposal(session, AddCaCertificate(organisation, der), description, f"one more CA of {organisation}")


@click.command(
    "remove-ca",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden governance propose remove-ca acme acme-ca.pem --key admin.key",),
)
@click.argument("organisation", metavar="ORGANISATION")
@click.argument("certificate", type=FILE, metavar="PEM")
@_WHY
@click.pass_obj
def remove_ca(session: Session, organisation: str, certificate: Path, description: str) -> None:
    """Propose that new certificates of this CA are no longer accepted; identities registered under it stay."""
    from ledger.actions import RemoveCaCertificate
    from node.cli.public_keys import read_certificates
    from wire.hashing import sha256

    digest = sha256(read_certificates(certificate)[0])
    submit_proposal(
        session, RemoveCaCertificate(organisation, digest), description, f"removal of a CA of {organisation}"
    )


@click.command(
    "set-threshold",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden governance propose set-threshold two-thirds --key admin.key",),
)
@click.argument("threshold", type=click.Choice(["majority", "two-thirds", "unanimous"]))
@_WHY
@click.pass_obj
def set_threshold(session: Session, threshold: str, description: str) -> None:
    """Propose how many organisations decide from now on."""
    from ledger.actions import SetThreshold

    submit_proposal(session, SetThreshold(threshold), description, f"threshold {threshold}")


@click.command(
    "revoke-key",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=(
        "patchwarden governance propose revoke-key 3f… --last-valid-height 812 --reason 'key stolen' --key admin.key",
    ),
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
@_WHY
@click.pass_obj
def revoke_key(session: Session, key_id: str, last_valid_height: int, reason: str, description: str) -> None:
    """Propose to revoke the key KEY_ID of any organisation, its last administrator's included."""
    from ledger.actions import RevokeKey

    action = RevokeKey(bytes.fromhex(key_id), last_valid_height, reason)
    submit_proposal(session, action, description, f"revocation of key {short(key_id)}")


@click.command(
    "withdraw-patch",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden governance propose withdraw-patch 3f… --reason 'breaks large frames' --key admin.key",),
)
@click.argument("patch_id", type=DIGEST, metavar="PATCH")
@click.option("--reason", required=True, metavar="TEXT", help="Why, for those who read the ledger.")
@_WHY
@click.pass_obj
def withdraw_patch(session: Session, patch_id: str, reason: str, description: str) -> None:
    """Propose to withdraw PATCH, whoever published it."""
    from ledger.actions import WithdrawPatch

    submit_proposal(
        session, WithdrawPatch(bytes.fromhex(patch_id), reason), description, f"withdrawal of {short(patch_id)}"
    )


@click.command(
    "vote",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden governance vote 9f86… --approve --key admin.key",),
)
@_PROPOSAL
@click.option("--approve/--reject", default=None, required=True, help="For or against.")
@click.pass_obj
def vote(session: Session, proposal: str, approve: bool) -> None:
    """Cast your organisation's vote on PROPOSAL. A later vote replaces an earlier one while it is open."""
    from ledger.bodies import ProposalVote
    from node.cli.submit import submit_body

    body = ProposalVote(bytes.fromhex(proposal), approve)
    submit_body(session, body, (("proposal", proposal), ("voted", "for" if approve else "against")))


@click.command(
    "withdraw",
    cls=Command,
    node=True,
    signs=True,
    submits=True,
    examples=("patchwarden governance withdraw 9f86… --key admin.key",),
)
@_PROPOSAL
@click.pass_obj
def withdraw(session: Session, proposal: str) -> None:
    """Close the open PROPOSAL of your own organisation without effect."""
    from ledger.bodies import ProposalWithdraw
    from node.cli.submit import submit_body

    submit_body(session, ProposalWithdraw(bytes.fromhex(proposal)), (("withdrawn", proposal),))


@click.command("list", cls=Command, node=True, examples=("patchwarden governance list",))
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many.")
@click.pass_obj
def list_proposals(session: Session, limit: int) -> None:
    """List proposals, the newest first."""
    found = session.client().call("governance.list", limit=limit)
    from node.cli.governance_validators import action_summary

    rows = [
        (
            short(each["proposal_id"], 16),
            each["created_height"],
            each["status"],
            action_summary(each["action"]),
            sum(bool(one["approve"]) for one in each["votes"]),
            sum(not one["approve"] for one in each["votes"]),
            each["proposer"],
        )
        for each in found
    ]
    session.output.emit(found, table(rows, ("proposal", "height", "status", "action", "for", "against", "by")))


@click.command("show", cls=Command, node=True, examples=("patchwarden governance show 9f86…",))
@_PROPOSAL
@click.pass_obj
def show(session: Session, proposal: str) -> None:
    """Show PROPOSAL with its votes."""
    document = session.client().call("governance.get", proposal_id=proposal)
    session.output.emit(document, _lines(document))


def submit_proposal(session: Session, action: Action, description: str, what: str) -> None:
    """Open a proposal of `action` and say so, `what` being what a person should read about it."""
    from ledger.bodies import ProposalCreate
    from node.cli.submit import submit_body

    submit_body(session, ProposalCreate(action, description), (("proposed", what),))


def _lines(document: dict[str, Any]) -> list[str]:
    from node.cli.governance_validators import action_lines

    action = (
        action_lines(document["action"]) or json.dumps(document["action"], indent=2, ensure_ascii=False).splitlines()
    )
    return [
        *fields(
            (
                ("proposal", document["proposal_id"]),
                ("status", document["status"]),
                ("proposed by", document["proposer"]),
                ("why", document["description"] or None),
                ("created", f"height {document['created_height']}"),
                ("open until", f"height {document['expires_height']}"),
                ("closed", document["closed_height"]),
            )
        ),
        "action:",
        *(f"  {line}" for line in action),
        f"votes: {len(document['votes'])}",
        *(
            f"  {'for' if each['approve'] else 'against'}: {each['organisation']} ({each['identity']}, height {each['height']})"
            for each in document["votes"]
        ),
    ]
