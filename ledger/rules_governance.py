"""Governance: administrators propose, organisations vote, and the deciding vote executes.

Each organisation has one vote, cast or changed by any of its administrators while the proposal is open; which votes count, and how many
are needed, is `ledger.quorum`'s. An action that no longer fits the ledger when the deciding vote comes refuses that vote and changes
nothing; the proposal stays open. What actions do to organisations stands in `ledger.rules_organisation`, what they do to validators in
`ledger.rules_validator`.

Source: docs/spec/ledger.md 6; docs/spec/governance.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ledger import actions
from ledger.actions import Action, action_from_value_untrusted
from ledger.bodies import ProposalCreate, ProposalVote, ProposalWithdraw
from ledger.keyspace import (
    GOVERNANCE_KEY,
    NETWORK_KEY,
    identity_key,
    proposal_key,
)
from ledger.limits import NETWORK_LIMITS, PROPOSAL_LIFETIME
from ledger.quorum import check_quorum_kept, count_votes, is_counted
from ledger.records import (
    DEFEATED,
    EXECUTED,
    OPEN,
    WITHDRAWN,
    ProposalRecord,
)
from ledger.roles import ADMINISTRATOR
from ledger.rules_common import Context, Effects, check_administrator_of, check_role, refuse
from ledger.rules_identity import revoked_keys
from ledger.rules_organisation import change_organisation
from ledger.rules_patch import withdrawn
from ledger.rules_policy import change_policy
from ledger.rules_rollout import decide_rollout_by_vote
from ledger.rules_validator import change_validators
from ledger.state import StateView

_PROPOSE: Final = "take part in governance"


def create_proposal(view: StateView, context: Context, body: ProposalCreate) -> Effects:
    """Return the open proposal, without votes; its action would be executable now.

    Raises:
        RejectedError: ``ledger.tx.not_authorised``, and the codes of `execute_action`.
    """
    check_role(context, ADMINISTRATOR, _PROPOSE)
    execute_action(view, context, body.action)
    proposal = ProposalRecord(
        proposal_id=context.tx_id,
        proposer=context.signer.identity_id,
        organisation=context.signer.organisation,
        action=body.action.to_value(),
        description=body.description,
        created_height=context.height,
        expires_height=context.height + PROPOSAL_LIFETIME,
        status=OPEN,
        votes=(),
        closed_height=None,
    )
    return _effects(proposal)


def vote_on_proposal(view: StateView, context: Context, body: ProposalVote) -> Effects:
    """Return the proposal with the organisation's vote; when it decides, also what the action changes.

    Raises:
        RejectedError: ``ledger.tx.not_authorised``, ``ledger.proposal.not_found``, ``ledger.proposal.closed``,
            ``ledger.proposal.expired``, ``ledger.proposal.already_voted`` (the same), and the codes of `execute_action`.
    """
    check_role(context, ADMINISTRATOR, _PROPOSE)
    proposal = _find_open(view, context, body.proposal_id)
    voter = context.signer
    governance = view.governance()
    votes = {vote[0]: vote for vote in proposal.votes}
    cast = votes.get(voter.organisation)
    is_repeated = cast is not None and cast[2] is body.approve and is_counted(view, governance, cast)
    votes[voter.organisation] = (voter.organisation, voter.identity_id, body.approve, context.height)
    proposal = replace(proposal, votes=tuple(votes[name] for name in sorted(votes)))
    tally = count_votes(view, proposal)
    if tally.is_reached:
        effects = execute_action(view, context, action_from_value_untrusted(proposal.action))
        return _effects(replace(proposal, status=EXECUTED, closed_height=context.height), effects)
    if tally.is_out_of_reach:
        return _effects(replace(proposal, status=DEFEATED, closed_height=context.height))
    if is_repeated:
        # Only now: when the members or the threshold have changed since, the same vote may decide.
        raise refuse("proposal.already_voted", f"{voter.organisation} has cast this vote already")
    return _effects(proposal)


def withdraw_proposal(view: StateView, context: Context, body: ProposalWithdraw) -> Effects:
    """Return the proposal, withdrawn by its own organisation.

    Raises:
        TransactionRefusedError: ``ledger.proposal.not_found``, ``ledger.proposal.closed``, ``ledger.proposal.expired``,
            ``ledger.tx.not_authorised``.
    """
    proposal = _find_open(view, context, body.proposal_id)
    check_administrator_of(context, proposal.organisation, "withdraw this proposal")
    return _effects(replace(proposal, status=WITHDRAWN, closed_height=context.height))


def execute_action(view: StateView, context: Context, action: Action) -> Effects:
    """Return what the action changes now. Afterwards some proposal can still pass.

    Raises:
        RejectedError: ``ledger.proposal.no_change``, ``ledger.proposal.quorum_lost``, ``ledger.identity.*``, ``ledger.patch.*``, and the
            codes of `change_organisation` and `change_validators`.
    """
    effects = _execute(view, context, action)
    check_quorum_kept(view, context.height, effects.records)
    return effects


def _execute(view: StateView, context: Context, action: Action) -> Effects:
    match action:
        case actions.SetPolicy() | actions.SetPolicyCases():
            return change_policy(view, context, action)
        case actions.SetThreshold():
            governance = view.governance()
            if governance.threshold == action.threshold:
                raise refuse("proposal.no_change", f"the threshold is {action.threshold} already")
            changed = replace(governance, threshold=action.threshold, changed_height=context.height)
            return Effects({GOVERNANCE_KEY: changed})
        case actions.SetLimits():
            return _set_limits(view, action)
        case actions.RevokeKey():
            return _revoke_key(view, context, action)
        case actions.WithdrawPatch():
            return withdrawn(view, context, action.patch_id, action.reason)
        case actions.DecideRollout():
            return decide_rollout_by_vote(view, context, action)
        case actions.AddLearner() | actions.PromoteLearner() | actions.RemoveValidator() | actions.ReplaceValidator():
            return change_validators(view, context, action)
        case _:
            return change_organisation(view, context, action)


def _set_limits(view: StateView, action: actions.SetLimits) -> Effects:
    network = view.network
    if (network.transaction_bytes_max, network.block_bytes_max, network.block_transactions_max) == action.values:
        raise refuse("proposal.no_change", "these limits are in force already")
    limits = {name: getattr(action, name) for name in NETWORK_LIMITS}
    return Effects({NETWORK_KEY: replace(network, **limits)})


def _revoke_key(view: StateView, context: Context, action: actions.RevokeKey) -> Effects:
    key = view.key(action.key_id)
    if key is None:
        raise refuse("identity.key_not_found", "the key is not registered", actual=action.key_id)
    records = revoked_keys(view, context, (action.key_id,), action.last_valid_height, action.reason)
    if not records:
        raise refuse("identity.already_revoked", "the key was revoked from this height or an earlier one already")
    return Effects(records, (identity_key(key.identity_id),))


def _find_open(view: StateView, context: Context, proposal_id: bytes) -> ProposalRecord:
    proposal = view.proposal(proposal_id)
    if proposal is None:
        raise refuse("proposal.not_found", "there is no such proposal", actual=proposal_id)
    if proposal.status != OPEN:
        raise refuse("proposal.closed", f"the proposal was {proposal.status} at height {proposal.closed_height}")
    if context.height > proposal.expires_height:
        raise refuse("proposal.expired", f"the proposal expired at height {proposal.expires_height}")
    return proposal


def _effects(proposal: ProposalRecord, executed: Effects | None = None) -> Effects:
    key = proposal_key(proposal.proposal_id)
    if executed is None:
        return Effects({key: proposal}, (key,))
    return Effects({**executed.records, key: proposal}, (key, *executed.subjects))
