"""`patchwarden governance`: what all organisations decide together."""

from __future__ import annotations

import click

from node.cli.command import Command, Session, group
from node.cli.lazy import Place
from node.cli.params import DIGEST

governance = group(
    "Propose and vote on what all organisations decide.\n\nEach organisation has one vote, cast by one of its administrators. "
    "The vote that reaches the threshold executes the proposal in the same block.",
    {
        "propose": Place("node.cli.governance:propose", "Open a proposal."),
        "vote": Place("node.cli.governance:vote", "Cast your organisation's vote."),
        "withdraw": Place("node.cli.governance:withdraw", "Close your organisation's own proposal."),
        "list": Place("node.cli.governance_show:list_proposals", "List proposals, the newest first."),
        "show": Place("node.cli.governance_show:show", "Show one proposal and who voted what."),
        "history": Place(
            "node.cli.governance_show:history", "Tell of every proposal who voted what, from a node or offline."
        ),
        "status": Place(
            "node.cli.governance_show:status", "Show who has a vote, who can cast it, and how many decide."
        ),
        "certificates": Place("node.cli.governance_show:certificates", "List certificates on the ledger by their end."),
    },
)

propose = group(
    "Open a proposal. Creating one is not voting for it.",
    {
        "set-policy": Place("node.cli.governance_propose:set_policy", "Adopt another policy set."),
        "set-threshold": Place("node.cli.governance_propose:set_threshold", "Change how many organisations decide."),
        "set-limits": Place(
            "node.cli.governance_propose:set_limits", "Change how long transactions and blocks may be."
        ),
        "revoke-key": Place("node.cli.governance_propose:revoke_key", "Revoke anybody's key."),
        "withdraw-patch": Place("node.cli.governance_propose:withdraw_patch", "Withdraw anybody's patch."),
        "decide-rollout": Place("node.cli.governance_propose:decide_rollout", "Halt, resume or end anybody's rollout."),
        "add-organisation": Place("node.cli.governance_organisations:add_organisation", "Admit an organisation."),
        "rename-organisation": Place(
            "node.cli.governance_organisations:rename_organisation", "Give an organisation another name for people."
        ),
        "suspend-organisation": Place(
            "node.cli.governance_organisations:suspend_organisation", "Take an organisation's vote for the time being."
        ),
        "resume-organisation": Place(
            "node.cli.governance_organisations:resume_organisation", "Let a suspended organisation vote again."
        ),
        "remove-organisation": Place(
            "node.cli.governance_organisations:remove_organisation", "End an organisation's membership for ever."
        ),
        "add-administrator": Place(
            "node.cli.governance_organisations:add_administrator", "Give an organisation one more administrator."
        ),
        "add-ca": Place(
            "node.cli.governance_organisations:add_ca", "Accept certificates of one more CA of an organisation."
        ),
        "remove-ca": Place("node.cli.governance_organisations:remove_ca", "No longer accept a CA's certificates."),
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

_PROPOSAL = click.argument("proposal", type=DIGEST, metavar="PROPOSAL")


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
