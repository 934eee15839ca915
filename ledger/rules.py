"""The rule of each kind of transaction: who may say it, and which records it changes.

A rule is a function of what the ledger knows, of who speaks, and of what is said; it returns the changed records or raises, and changes
nothing itself. The rules stand in modules by subject; here is what they share, and the table of them all.

Source: docs/spec/ledger.md 5.
"""

from __future__ import annotations

from typing import assert_never

from ledger import bodies, rollout_bodies
from ledger.bodies import MemberBody
from ledger.keyspace import identity_key, organisation_key
from ledger.rules_administration import (
    approve_act,
    check_alone,
    propose_act,
    set_administration_threshold,
    withdraw_act,
)
from ledger.rules_common import Context, Effects
from ledger.rules_crl import publish_crl
from ledger.rules_evidence import submit_evidence
from ledger.rules_governance import create_proposal, vote_on_proposal, withdraw_proposal
from ledger.rules_host import record_intent, record_outcome, record_report
from ledger.rules_identity import (
    register_identity,
    resume_identity,
    revoke_identity,
    rotate_key,
    set_role_term,
    suspend_identity,
    update_roles,
)
from ledger.rules_patch import attest_patch, publish_patch, withdraw_patch
from ledger.rules_rollout import assign_hosts, create_rollout, decide_rollout
from ledger.rules_validator import settle_validators
from ledger.state import StateView

__all__ = ["Context", "Effects", "apply_rule", "settle_validators"]


def apply_rule(view: StateView, context: Context, body: MemberBody) -> Effects:
    """Return what `body` changes when the context's signer says it now. What a node says under its own key has no such signer.

    The subjects of the result begin with the signer and the signer's organisation, and name each thing once.

    Raises:
        RejectedError: The codes of the rule.
    """
    check_alone(view, context, body)
    effects = _apply(view, context, body)
    signer = context.signer
    subjects = dict.fromkeys(
        (identity_key(signer.identity_id), organisation_key(signer.organisation), *effects.subjects)
    )
    return Effects(effects.records, tuple(subjects))


def _apply(view: StateView, context: Context, body: MemberBody) -> Effects:  # noqa: PLR0912 - one line a kind
    match body:
        case bodies.HostReport():
            return record_report(view, context, body)
        case bodies.DeploymentIntent():
            return record_intent(view, context, body)
        case bodies.DeploymentOutcome():
            return record_outcome(view, context, body)
        case bodies.PatchPublish():
            return publish_patch(view, context, body)
        case bodies.PatchAttest():
            return attest_patch(view, context, body)
        case bodies.PatchWithdraw():
            return withdraw_patch(view, context, body)
        case bodies.IdentityRegister():
            return register_identity(view, context, body)
        case bodies.IdentityUpdateRoles():
            return update_roles(view, context, body)
        case bodies.IdentitySetRoleTerm():
            return set_role_term(view, context, body)
        case bodies.IdentityRotateKey():
            return rotate_key(view, context, body)
        case bodies.IdentitySuspend():
            return suspend_identity(view, context, body)
        case bodies.IdentityResume():
            return resume_identity(view, context, body)
        case bodies.IdentityRevoke():
            return revoke_identity(view, context, body)
        case bodies.IdentityPublishCrl():
            return publish_crl(view, context, body)
        case bodies.AdministrationSetThreshold():
            return set_administration_threshold(view, context, body)
        case bodies.AdministrationPropose():
            return propose_act(view, context, body)
        case bodies.AdministrationApprove():
            return approve_act(view, context, body)
        case bodies.AdministrationWithdraw():
            return withdraw_act(view, context, body)
        case bodies.ProposalCreate():
            return create_proposal(view, context, body)
        case bodies.ProposalVote():
            return vote_on_proposal(view, context, body)
        case bodies.ProposalWithdraw():
            return withdraw_proposal(view, context, body)
        case rollout_bodies.GroupAssign():
            return assign_hosts(view, context, body)
        case rollout_bodies.RolloutCreate():
            return create_rollout(view, context, body)
        case rollout_bodies.RolloutDecide():
            return decide_rollout(view, context, body)
        case bodies.EvidenceSubmit():
            return submit_evidence(view, context, body)
        case _:
            assert_never(body)
