"""Governance: administrators propose, organisations vote, and the deciding vote executes.

Each organisation has one vote, cast or changed by any of its administrators while the proposal is open. An action that no longer fits the
ledger when the deciding vote comes refuses that vote and changes nothing; the proposal stays open.

Source: docs/spec/ledger.md 6.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, assert_never

from ledger import actions
from ledger.actions import Action, action_from_value_untrusted
from ledger.bodies import ProposalCreate, ProposalVote, ProposalWithdraw
from ledger.genesis import organisation_records
from ledger.keyspace import (
    GOVERNANCE_KEY,
    POLICY_VERSION_KEY,
    identity_key,
    key_key,
    organisation_key,
    policy_key,
    proposal_key,
)
from ledger.limits import ADMINISTRATORS_MAX, CA_CERTIFICATES_MAX, ORGANISATIONS_MAX, PROPOSAL_LIFETIME
from ledger.records import (
    ACTIVE,
    DEFEATED,
    EXECUTED,
    OPEN,
    WITHDRAWN,
    IdentityRecord,
    KeyRecord,
    Organisation,
    PolicySet,
    PolicyVersion,
    ProposalRecord,
    Record,
    hash_policy,
)
from ledger.roles import ADMINISTRATOR
from ledger.rules_common import Context, Effects, check_administrator_of, check_role, refuse
from ledger.rules_identity import check_new_key, revoked_keys
from ledger.rules_patch import withdrawn
from ledger.rules_validator import change_validators
from ledger.state import StateView
from wire.certificate import majority
from wire.hashing import sha256
from wire.x509 import anchor_untrusted

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
    votes = {vote[0]: vote for vote in proposal.votes}
    cast = votes.get(voter.organisation)
    if cast is not None and cast[2] is body.approve:
        raise refuse("proposal.already_voted", f"{voter.organisation} has cast this vote already")
    votes[voter.organisation] = (voter.organisation, voter.identity_id, body.approve, context.height)
    proposal = replace(proposal, votes=tuple(votes[name] for name in sorted(votes)))
    governance = view.governance()
    needed = votes_needed(governance.threshold, len(governance.organisations))
    approvals = sum(1 for vote in proposal.votes if vote[2])
    rejections = len(proposal.votes) - approvals
    if approvals >= needed:
        effects = execute_action(view, context, action_from_value_untrusted(proposal.action))
        return _effects(replace(proposal, status=EXECUTED, closed_height=context.height), effects)
    if len(governance.organisations) - rejections < needed:
        return _effects(replace(proposal, status=DEFEATED, closed_height=context.height))
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


def votes_needed(threshold: str, organisations: int) -> int:
    """Return how many of so many organisations must approve.

    Args:
        threshold: One of `ledger.actions.THRESHOLDS`.
        organisations: How many there are, at least 1.
    """
    match threshold:
        case "two-thirds":
            return (2 * organisations + 2) // 3
        case "unanimous":
            return organisations
        case _:
            return majority(organisations)


def execute_action(view: StateView, context: Context, action: Action) -> Effects:
    """Return what the action changes now.

    Raises:
        RejectedError: ``ledger.proposal.organisation_exists``, ``.too_many_organisations``, ``.foreign_administrator``,
            ``.repeated_administrator``, ``.organisation_not_found``, ``.certificate_exists``, ``.certificate_not_found``,
            ``.too_many_certificates``, ``.no_change``, ``ledger.identity.*``, ``ledger.patch.*``, ``wire.key.*``, ``wire.x509.*``, and the
            codes of `change_validators`.
    """
    match action:
        case actions.SetPolicy():
            return _set_policy(view, context, action)
        case actions.SetThreshold():
            governance = view.governance()
            if governance.threshold == action.threshold:
                raise refuse("proposal.no_change", f"the threshold is {action.threshold} already")
            changed = replace(governance, threshold=action.threshold, changed_height=context.height)
            return Effects({GOVERNANCE_KEY: changed})
        case actions.AddOrganisation():
            return _add_organisation(view, context, action)
        case actions.AddAdministrator():
            return _add_administrator(view, context, action)
        case actions.AddCaCertificate():
            return _add_certificate(view, action)
        case actions.RemoveCaCertificate():
            return _remove_certificate(view, action)
        case actions.RevokeKey():
            return _revoke_key(view, context, action)
        case actions.WithdrawPatch():
            return withdrawn(view, context, action.patch_id, action.reason)
        case actions.AddLearner() | actions.PromoteLearner() | actions.RemoveValidator() | actions.ReplaceValidator():
            return change_validators(view, context, action)
        case _:
            assert_never(action)


def _set_policy(view: StateView, context: Context, action: actions.SetPolicy) -> Effects:
    current = view.policy_version()
    policy_hash = hash_policy(action.schema, action.policies)
    if policy_hash == current.policy_hash:
        raise refuse("proposal.no_change", "this policy set is in force already", actual=policy_hash)
    version = current.version + 1
    policy = PolicySet(version, action.schema, action.policies, policy_hash, context.height)
    return Effects({policy_key(version): policy, POLICY_VERSION_KEY: PolicyVersion(version, policy_hash)})


def _add_organisation(view: StateView, context: Context, action: actions.AddOrganisation) -> Effects:
    name = action.organisation
    governance = view.governance()
    if view.organisation(name) is not None:
        raise refuse("proposal.organisation_exists", f"{name} is a member already")
    if len(governance.organisations) >= ORGANISATIONS_MAX:
        raise refuse("proposal.too_many_organisations", "the network is full", f"at most {ORGANISATIONS_MAX}")
    seen: set[str | bytes] = set()
    for each in action.administrators:
        _check_belongs(each.identity_id, name)
        if each.identity_id in seen or each.spki in seen:
            raise refuse(
                "proposal.repeated_administrator", "an administrator or a key stands twice", actual=each.identity_id
            )
        seen |= {each.identity_id, each.spki}
        check_new_key(view, each.spki)
    for der in action.ca_certificates:
        anchor_untrusted(der)
    records = organisation_records(
        name, action.display_name, action.administrators, action.ca_certificates, height=context.height
    )
    organisations = tuple(sorted((*governance.organisations, name)))
    records[GOVERNANCE_KEY] = replace(governance, organisations=organisations, changed_height=context.height)
    return Effects(
        records, (organisation_key(name), *(identity_key(each.identity_id) for each in action.administrators))
    )


def _add_administrator(view: StateView, context: Context, action: actions.AddAdministrator) -> Effects:
    organisation = _find_organisation(view, action.organisation)
    new = action.administrator
    _check_belongs(new.identity_id, organisation.name)
    if view.identity(new.identity_id) is not None:
        raise refuse("identity.exists", f"{new.identity_id} is registered already")
    if len(organisation.administrators) >= ADMINISTRATORS_MAX:
        raise refuse(
            "identity.too_many_administrators", f"{organisation.name} has too many", f"at most {ADMINISTRATORS_MAX}"
        )
    key_id = check_new_key(view, new.spki).key_id
    height = context.height
    administrators = tuple(sorted((*organisation.administrators, new.identity_id)))
    records: dict[bytes, Record] = {
        organisation_key(organisation.name): replace(organisation, administrators=administrators),
        identity_key(new.identity_id): IdentityRecord(
            new.identity_id, organisation.name, new.display_name, (ADMINISTRATOR,), ACTIVE, (key_id,), height, height
        ),
        key_key(key_id): KeyRecord(key_id, new.spki, new.identity_id, height, None, None, "", ()),
    }
    return Effects(records, (organisation_key(organisation.name), identity_key(new.identity_id)))


def _add_certificate(view: StateView, action: actions.AddCaCertificate) -> Effects:
    organisation = _find_organisation(view, action.organisation)
    anchor_untrusted(action.certificate)
    if action.certificate in organisation.ca_certificates:
        raise refuse("proposal.certificate_exists", f"{organisation.name} has this CA certificate already")
    if len(organisation.ca_certificates) >= CA_CERTIFICATES_MAX:
        raise refuse(
            "proposal.too_many_certificates",
            f"{organisation.name} has too many CA certificates",
            f"at most {CA_CERTIFICATES_MAX}",
        )
    key = organisation_key(organisation.name)
    certificates = (*organisation.ca_certificates, action.certificate)
    return Effects({key: replace(organisation, ca_certificates=certificates)}, (key,))


def _remove_certificate(view: StateView, action: actions.RemoveCaCertificate) -> Effects:
    organisation = _find_organisation(view, action.organisation)
    left = tuple(der for der in organisation.ca_certificates if sha256(der) != action.certificate_digest)
    if left == organisation.ca_certificates:
        raise refuse(
            "proposal.certificate_not_found",
            f"{organisation.name} has no such CA certificate",
            actual=action.certificate_digest,
        )
    key = organisation_key(organisation.name)
    return Effects({key: replace(organisation, ca_certificates=left)}, (key,))


def _revoke_key(view: StateView, context: Context, action: actions.RevokeKey) -> Effects:
    key = view.key(action.key_id)
    if key is None:
        raise refuse("identity.key_not_found", "the key is not registered", actual=action.key_id)
    records = revoked_keys(view, context, (action.key_id,), action.last_valid_height, action.reason)
    if not records:
        raise refuse("identity.already_revoked", "the key was revoked from this height or an earlier one already")
    return Effects(records, (identity_key(key.identity_id),))


def _find_organisation(view: StateView, name: str) -> Organisation:
    organisation = view.organisation(name)
    if organisation is None:
        raise refuse("proposal.organisation_not_found", "the organisation is not a member of this network", actual=name)
    return organisation


def _check_belongs(identity_id: str, organisation: str) -> None:
    if identity_id.partition("@")[2] != organisation:
        raise refuse(
            "proposal.foreign_administrator",
            "an administrator belongs to another organisation",
            f"…@{organisation}",
            identity_id,
        )


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
