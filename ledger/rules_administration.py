"""Administration by several: what changes an organisation's identities once as many administrators as it demands have agreed.

An organisation demands one unless its administrators have agreed on more. While it demands more, none of them can do alone what the table
says; they propose it, which counts as agreeing, and the others approve.

=======================================================  =====================
what                                                     how many
=======================================================  =====================
register, roles, terms, resume, revoke, the number       as many as demanded
rotating a key without that key                          as many as demanded
rotating a key with that very key                        its owner
suspending                                               one
=======================================================  =====================

Source: docs/spec/ledger.md 5.6.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, assert_never

from ledger import bodies
from ledger.bodies import AdministrativeBody, MemberBody, administrative_body_untrusted
from ledger.keyspace import administration_key, organisation_key, pending_act_key
from ledger.limits import PROPOSAL_LIFETIME
from ledger.quorum import acting_administrators
from ledger.records import EXECUTED, OPEN, WITHDRAWN, Administration, PendingAct
from ledger.roles import ADMINISTRATOR
from ledger.rules_common import Context, Effects, check_administrator_of, refuse
from ledger.rules_identity import (
    register_identity,
    resume_identity,
    revoke_identity,
    rotate_key,
    set_role_term,
    update_roles,
)
from ledger.state import StateView

_TAKE_PART: Final = "take part in administration"


def check_alone(view: StateView, context: Context, body: MemberBody) -> None:
    """Return unless `body` is an act of administration that the signer may not do alone.

    Raises:
        TransactionRefusedError: ``ledger.administration.approvals_needed``.
    """
    if not isinstance(body, AdministrativeBody):
        return
    organisation = _organisation_of(body)
    if organisation != context.signer.organisation:
        return  # The rule itself says who may.
    if isinstance(body, bodies.IdentityRotateKey) and body.old_key_id == context.key.key_id:
        return
    needed = view.administration_threshold(organisation)
    if needed > 1 and ADMINISTRATOR in context.signer.roles:
        raise refuse(
            "administration.approvals_needed",
            f"no administrator of {organisation} does this alone",
            f"{needed} of them",
            hint="propose it: administration.propose",
        )


def set_administration_threshold(view: StateView, context: Context, body: bodies.AdministrationSetThreshold) -> Effects:
    """Return how many administrators must agree from the next transaction on.

    Raises:
        TransactionRefusedError: ``ledger.tx.not_authorised``, ``ledger.administration.no_change``,
            ``ledger.administration.threshold_too_high``.
    """
    name = body.organisation
    check_administrator_of(context, name, f"say how {name} is administered")
    if body.threshold == view.administration_threshold(name):
        raise refuse("administration.no_change", f"{body.threshold} administrators of {name} must agree already")
    acting = sum(1 for _ in acting_administrators(view, name, context.height + 1, {}))
    if body.threshold > acting:
        raise refuse(
            "administration.threshold_too_high",
            f"{name} has too few lasting administrators who can act",
            f"at most {acting}",
            body.threshold,
            hint="register more administrators first",
        )
    changed = Administration(name, body.threshold, context.height)
    return Effects({administration_key(name): changed}, (organisation_key(name),))


def propose_act(view: StateView, context: Context, body: bodies.AdministrationPropose) -> Effects:
    """Return the act with the proposer's approval; when that is enough, also what the act changes. It would be executable now.

    Raises:
        RejectedError: ``ledger.tx.not_authorised``, and the codes of the act.
    """
    organisation = _organisation_of(body.act)
    check_administrator_of(context, organisation, _TAKE_PART)
    effects = _execute(view, context, body.act)
    act = PendingAct(
        act_id=context.tx_id,
        organisation=organisation,
        proposer=context.signer.identity_id,
        kind=body.act.KIND,
        body=body.act.to_value(),
        created_height=context.height,
        expires_height=context.height + PROPOSAL_LIFETIME,
        status=OPEN,
        approvals=(_approval(context),),
        closed_height=None,
    )
    return _close(act, context, effects) if _is_agreed(view, context, act) else _effects(act)


def approve_act(view: StateView, context: Context, body: bodies.AdministrationApprove) -> Effects:
    """Return the act with the signer's approval; when that is enough, also what the act changes.

    Raises:
        RejectedError: ``ledger.administration.not_found``, ``ledger.tx.not_authorised``, ``ledger.administration.closed``,
            ``ledger.administration.expired``, ``ledger.administration.already_approved``, and the codes of the act when this approval
            would execute it: then nothing changes, and the act stays open.
    """
    act = _find_open(view, context, body.act_id)
    signer = context.signer.identity_id
    counted = {each[0] for each in act.approvals if _counts(view, context, act, each)}
    others = tuple(each for each in act.approvals if each[0] != signer)
    changed = replace(act, approvals=tuple(sorted((*others, _approval(context)))))
    if _is_agreed(view, context, changed):
        return _close(changed, context, _execute(view, context, administrative_body_untrusted(act.kind, act.body)))
    if signer in counted:
        raise refuse("administration.already_approved", f"{signer} has agreed already")
    return _effects(changed)


def withdraw_act(view: StateView, context: Context, body: bodies.AdministrationWithdraw) -> Effects:
    """Return the act, closed without effect by any administrator of the organisation.

    Raises:
        TransactionRefusedError: ``ledger.administration.not_found``, ``ledger.tx.not_authorised``, ``ledger.administration.closed``,
            ``ledger.administration.expired``.
    """
    act = _find_open(view, context, body.act_id)
    return _effects(replace(act, status=WITHDRAWN, closed_height=context.height))


def is_approval_counted(view: StateView, act: PendingAct, approval: tuple[str, bytes, int], time_ms: int) -> bool:
    """Return whether an approval counts in a block of `time_ms`: by an administrator of now, under a key that counted when it was given."""
    identity, key = view.identity(approval[0]), view.key(approval[1])
    return (
        identity is not None
        and identity.is_active
        and identity.organisation == act.organisation
        and ADMINISTRATOR in identity.roles_at(time_ms)
        and key is not None
        and key.is_valid_at(approval[2])
    )


def _counts(view: StateView, context: Context, act: PendingAct, approval: tuple[str, bytes, int]) -> bool:
    return is_approval_counted(view, act, approval, context.time_ms)


def _is_agreed(view: StateView, context: Context, act: PendingAct) -> bool:
    counted = sum(_counts(view, context, act, each) for each in act.approvals)
    return counted >= view.administration_threshold(act.organisation)


def _approval(context: Context) -> tuple[str, bytes, int]:
    return context.signer.identity_id, context.key.key_id, context.height


def _find_open(view: StateView, context: Context, act_id: bytes) -> PendingAct:
    act = view.pending_act(act_id)
    if act is None:
        raise refuse("administration.not_found", "no such act of administration was proposed", actual=act_id)
    check_administrator_of(context, act.organisation, _TAKE_PART)
    if act.status != OPEN:
        raise refuse("administration.closed", f"the act is {act.status} since height {act.closed_height}")
    if context.height > act.expires_height:
        raise refuse("administration.expired", f"the act could be approved up to height {act.expires_height}")
    return act


def _close(act: PendingAct, context: Context, effects: Effects) -> Effects:
    closed = _effects(replace(act, status=EXECUTED, closed_height=context.height))
    return Effects({**effects.records, **closed.records}, (*closed.subjects, *effects.subjects))


def _effects(act: PendingAct) -> Effects:
    key = pending_act_key(act.act_id)
    return Effects({key: act}, (key, organisation_key(act.organisation)))


def _organisation_of(body: AdministrativeBody) -> str:
    if isinstance(body, bodies.AdministrationSetThreshold):
        return body.organisation
    return body.identity_id.partition("@")[2]


def _execute(view: StateView, context: Context, body: AdministrativeBody) -> Effects:
    match body:
        case bodies.IdentityRegister():
            return register_identity(view, context, body)
        case bodies.IdentityUpdateRoles():
            return update_roles(view, context, body)
        case bodies.IdentitySetRoleTerm():
            return set_role_term(view, context, body)
        case bodies.IdentityRotateKey():
            return rotate_key(view, context, body)
        case bodies.IdentityResume():
            return resume_identity(view, context, body)
        case bodies.IdentityRevoke():
            return revoke_identity(view, context, body)
        case bodies.AdministrationSetThreshold():
            return set_administration_threshold(view, context, body)
        case _:
            assert_never(body)
