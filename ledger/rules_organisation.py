"""What governance does to organisations: admits and renames them, suspends and removes them, gives them administrators and CAs.

Source: docs/spec/ledger.md 6.1; docs/spec/governance.md 4.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from ledger import organisation_actions as actions
from ledger.errors import TransactionRefusedError
from ledger.genesis import organisation_records
from ledger.keyspace import GOVERNANCE_KEY, identity_key, key_key, organisation_key, standing_key
from ledger.limits import ADMINISTRATORS_MAX, CA_CERTIFICATES_MAX, ORGANISATIONS_MAX
from ledger.organisation_actions import OrganisationAction
from ledger.records import ACTIVE, REMOVED, SUSPENDED, IdentityRecord, KeyRecord, Organisation, Record, Standing
from ledger.roles import ADMINISTRATOR
from ledger.rules_common import Context, Effects, refuse
from ledger.rules_identity import check_new_key
from ledger.state import StateView
from wire.hashing import sha256
from wire.x509 import anchor_untrusted


def change_organisation(view: StateView, context: Context, action: OrganisationAction) -> Effects:
    """Return what the action changes now.

    Raises:
        RejectedError: ``ledger.proposal.organisation_exists``, ``.too_many_organisations``, ``.foreign_administrator``,
            ``.repeated_administrator``, ``.organisation_not_found``, ``.organisation_removed``, ``.organisation_has_validators``,
            ``.certificate_exists``, ``.certificate_not_found``, ``.too_many_certificates``, ``.no_change``, ``ledger.identity.*``,
            ``wire.key.*``, ``wire.x509.*``.
    """
    match action:
        case actions.AddOrganisation():
            return _add_organisation(view, context, action)
        case actions.RenameOrganisation():
            return _rename_organisation(view, action)
        case actions.SuspendOrganisation():
            return _change_standing(view, context, action.organisation, SUSPENDED, action.reason)
        case actions.ResumeOrganisation():
            return _change_standing(view, context, action.organisation, ACTIVE, "")
        case actions.RemoveOrganisation():
            return _change_standing(view, context, action.organisation, REMOVED, action.reason)
        case actions.AddAdministrator():
            return _add_administrator(view, context, action)
        case actions.AddCaCertificate():
            return _add_certificate(view, action)
        case actions.RemoveCaCertificate():
            return _remove_certificate(view, action)
        case _:
            assert_never(action)


def find_member(view: StateView, name: str) -> Organisation:
    """Return the organisation, which is not removed.

    Raises:
        TransactionRefusedError: ``ledger.proposal.organisation_not_found``, ``ledger.proposal.organisation_removed``.
    """
    organisation = view.organisation(name)
    if organisation is None:
        raise refuse("proposal.organisation_not_found", "the organisation is not a member of this network", actual=name)
    if view.organisation_status(name) == REMOVED:
        raise refuse("proposal.organisation_removed", f"{name} was removed, and that cannot be undone")
    return organisation


def _rename_organisation(view: StateView, action: actions.RenameOrganisation) -> Effects:
    organisation = find_member(view, action.organisation)
    if organisation.display_name == action.display_name:
        raise refuse("proposal.no_change", f"{organisation.name} has this name already", actual=action.display_name)
    key = organisation_key(organisation.name)
    return Effects({key: replace(organisation, display_name=action.display_name)}, (key,))


def _change_standing(view: StateView, context: Context, name: str, status: str, reason: str) -> Effects:
    find_member(view, name)
    if status == view.organisation_status(name):
        raise refuse("proposal.no_change", f"{name} is {status} already")
    if status == REMOVED and (nodes := [each.name for each in view.configuration().nodes if each.organisation == name]):
        raise refuse(
            "proposal.organisation_has_validators",
            f"{name} still has validators or learners",
            "none",
            ", ".join(nodes),
            hint="remove or replace them first",
        )
    governance = view.governance()
    others = tuple(each for each in governance.organisations if each != name)
    names = tuple(sorted((*others, name))) if status == ACTIVE else others
    if len(names) > ORGANISATIONS_MAX:
        raise _too_many()
    records: dict[bytes, Record] = {
        standing_key(name): Standing(name, status, context.height, reason),
        GOVERNANCE_KEY: replace(governance, organisations=names, changed_height=context.height),
    }
    return Effects(records, (organisation_key(name),))


def _add_organisation(view: StateView, context: Context, action: actions.AddOrganisation) -> Effects:
    name = action.organisation
    governance = view.governance()
    if view.organisation(name) is not None:
        raise refuse("proposal.organisation_exists", f"{name} is a member already")
    if len(governance.organisations) >= ORGANISATIONS_MAX:
        raise _too_many()
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
    organisation = find_member(view, action.organisation)
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
    organisation = find_member(view, action.organisation)
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
    organisation = find_member(view, action.organisation)
    left = tuple(der for der in organisation.ca_certificates if sha256(der) != action.certificate_digest)
    if left == organisation.ca_certificates:
        raise refuse(
            "proposal.certificate_not_found",
            f"{organisation.name} has no such CA certificate",
            actual=action.certificate_digest,
        )
    key = organisation_key(organisation.name)
    return Effects({key: replace(organisation, ca_certificates=left)}, (key,))


def _check_belongs(identity_id: str, organisation: str) -> None:
    if identity_id.partition("@")[2] != organisation:
        raise refuse(
            "proposal.foreign_administrator",
            "an administrator belongs to another organisation",
            f"…@{organisation}",
            identity_id,
        )


def _too_many() -> TransactionRefusedError:
    return refuse("proposal.too_many_organisations", "the network is full", f"at most {ORGANISATIONS_MAX}")
