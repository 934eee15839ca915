"""Identities and their keys: registered, changed, suspended and revoked by an administrator of their organisation.

An organisation always keeps at least one administrator who can act: a change that would leave none is refused. Only governance can go
further (`ledger.rules_governance`).

Source: docs/spec/ledger.md 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

from ledger.bodies import (
    IdentityRegister,
    IdentityResume,
    IdentityRevoke,
    IdentityRotateKey,
    IdentitySetRoleTerm,
    IdentitySuspend,
    IdentityUpdateRoles,
)
from ledger.keyspace import identity_key, key_key, organisation_key
from ledger.limits import ADMINISTRATORS_MAX, KEYS_PER_IDENTITY_MAX
from ledger.quorum import acting_administrators
from ledger.records import ACTIVE, REVOKED, SUSPENDED, IdentityRecord, KeyRecord, Organisation, Record
from ledger.roles import RoleTerm
from ledger.rules_common import Context, Effects, check_administrator_of, refuse
from ledger.rules_crl import check_not_revoked
from ledger.state import StateView
from wire.keys import PublicKey, public_key_from_spki_untrusted
from wire.x509 import certificate_chain_untrusted, verify_chain


def register_identity(view: StateView, context: Context, body: IdentityRegister) -> Effects:
    """Return the new identity, its key, and the organisation when it gains an administrator.

    Raises:
        RejectedError: ``ledger.identity.unknown_organisation``, ``ledger.tx.not_authorised``, ``ledger.identity.exists``,
            ``ledger.identity.key_exists``, ``ledger.identity.certificate_key``, ``ledger.identity.certificate_revoked``,
            ``ledger.identity.too_many_administrators``,
            ``wire.key.*``, ``wire.x509.*``.
    """
    name = body.identity_id.partition("@")[2]
    organisation = view.organisation(name)
    if organisation is None:
        raise refuse("identity.unknown_organisation", "the organisation is not a member of this network", actual=name)
    check_administrator_of(context, name, f"register {body.identity_id}")
    if view.identity(body.identity_id) is not None:
        raise refuse("identity.exists", f"{body.identity_id} is registered already")
    key = check_new_key(view, body.spki)
    _check_chain(view, organisation, context, key, body.certificate_chain)
    identity = IdentityRecord(
        body.identity_id, name, body.display_name, body.roles, ACTIVE, (key.key_id,), context.height, context.height
    )
    records: dict[bytes, Record] = {
        identity_key(body.identity_id): identity,
        key_key(key.key_id): KeyRecord(
            key.key_id, key.spki, body.identity_id, context.height, None, None, "", body.certificate_chain
        ),
    }
    return Effects(records | _administrators(organisation, identity), _subjects(body.identity_id))


def update_roles(view: StateView, context: Context, body: IdentityUpdateRoles) -> Effects:
    """Return the identity with its new roles, and the organisation when its administrators change.

    Raises:
        TransactionRefusedError: ``ledger.identity.not_found``, ``ledger.tx.not_authorised``, ``ledger.identity.revoked``,
            ``ledger.identity.last_administrator``, ``ledger.identity.too_few_administrators``, ``ledger.identity.too_many_administrators``.
    """
    identity, organisation = _find(view, context, body.identity_id, "change the roles of")
    terms = tuple(term for term in identity.role_terms if term[0] in body.roles)
    changed = replace(identity, roles=body.roles, role_terms=terms, changed_height=context.height)
    records: dict[bytes, Record] = {identity_key(body.identity_id): changed}
    records |= _administrators(organisation, changed)
    _check_somebody_left(view, context, organisation, records)
    return Effects(records, _subjects(body.identity_id))


def set_role_term(view: StateView, context: Context, body: IdentitySetRoleTerm) -> Effects:
    """Return the identity with the role bound to a time, or to none, and the organisation when its lasting administrators change.

    Raises:
        TransactionRefusedError: ``ledger.identity.not_found``, ``ledger.tx.not_authorised``, ``ledger.identity.revoked``,
            ``ledger.identity.role_not_held``, ``ledger.identity.bad_term``, ``ledger.identity.term_unchanged``,
            ``ledger.identity.last_administrator``, ``ledger.identity.too_few_administrators``, ``ledger.identity.too_many_administrators``.
    """
    identity, organisation = _find(view, context, body.identity_id, "bind a role of")
    if body.role not in identity.roles:
        raise refuse(
            "identity.role_not_held", f"{body.identity_id} does not hold {body.role}", actual=", ".join(identity.roles)
        )
    if body.until_ms is not None and body.until_ms < max(body.from_ms or 0, context.time_ms):
        raise refuse(
            "identity.bad_term",
            "the term ends before it begins, or is over",
            f"at least {max(body.from_ms or 0, context.time_ms)}",
            body.until_ms,
            hint="to take a role away now, set the roles without it",
        )
    is_bound = (body.from_ms, body.until_ms) != (None, None)
    others = tuple(term for term in identity.role_terms if term[0] != body.role)
    terms = tuple(sorted((*others, (body.role, body.from_ms, body.until_ms)), key=_role_of)) if is_bound else others
    if terms == identity.role_terms:
        raise refuse("identity.term_unchanged", f"the role {body.role} of {body.identity_id} has this term already")
    changed = replace(identity, role_terms=terms, changed_height=context.height)
    records: dict[bytes, Record] = {identity_key(body.identity_id): changed}
    records |= _administrators(organisation, changed)
    _check_somebody_left(view, context, organisation, records)
    return Effects(records, _subjects(body.identity_id))


def rotate_key(view: StateView, context: Context, body: IdentityRotateKey) -> Effects:
    """Return the identity with a new key, the new key, and the old one, which counts for the last time at this height.

    Raises:
        RejectedError: ``ledger.identity.not_found``, ``ledger.identity.revoked``, ``ledger.identity.key_not_found``,
            ``ledger.tx.not_authorised``, ``ledger.identity.key_retired``, ``ledger.identity.too_many_keys``,
            ``ledger.identity.key_exists``, ``ledger.identity.certificate_key``, ``ledger.identity.certificate_revoked``,
            ``wire.key.*``, ``wire.x509.*``.
    """
    identity, organisation = _find_any(view, body.identity_id)
    old = view.key(body.old_key_id)
    if old is None or old.identity_id != body.identity_id:
        raise refuse("identity.key_not_found", f"{body.identity_id} has no such key", actual=body.old_key_id)
    if context.key.key_id != body.old_key_id:
        check_administrator_of(context, identity.organisation, f"rotate a key of {body.identity_id} without it")
    if old.retired_height is not None:
        raise refuse("identity.key_retired", f"the key was retired at height {old.retired_height}", actual=old.key_id)
    if len(identity.key_ids) >= KEYS_PER_IDENTITY_MAX:
        raise refuse(
            "identity.too_many_keys",
            f"{body.identity_id} had too many keys",
            f"at most {KEYS_PER_IDENTITY_MAX}",
            hint="register a new identity",
        )
    key = check_new_key(view, body.new_spki)
    _check_chain(view, organisation, context, key, body.certificate_chain)
    records: dict[bytes, Record] = {
        identity_key(body.identity_id): replace(
            identity, key_ids=(*identity.key_ids, key.key_id), changed_height=context.height
        ),
        key_key(old.key_id): replace(old, retired_height=context.height),
        key_key(key.key_id): KeyRecord(
            key.key_id, key.spki, body.identity_id, context.height, None, None, "", body.certificate_chain
        ),
    }
    return Effects(records, _subjects(body.identity_id))


def suspend_identity(view: StateView, context: Context, body: IdentitySuspend) -> Effects:
    """Return the suspended identity, and the organisation when it loses an administrator.

    Raises:
        TransactionRefusedError: ``ledger.identity.not_found``, ``ledger.tx.not_authorised``, ``ledger.identity.revoked``,
            ``ledger.identity.not_active``, ``ledger.identity.last_administrator``, ``ledger.identity.too_few_administrators``.
    """
    identity, organisation = _find(view, context, body.identity_id, "suspend")
    if identity.status != ACTIVE:
        raise refuse("identity.not_active", f"{body.identity_id} is suspended already")
    return _change_status(view, context, organisation, replace(identity, status=SUSPENDED))


def resume_identity(view: StateView, context: Context, body: IdentityResume) -> Effects:
    """Return the identity, active again, and the organisation when it regains an administrator.

    Raises:
        TransactionRefusedError: ``ledger.identity.not_found``, ``ledger.tx.not_authorised``, ``ledger.identity.revoked``,
            ``ledger.identity.not_suspended``, ``ledger.identity.too_many_administrators``.
    """
    identity, organisation = _find(view, context, body.identity_id, "resume")
    if identity.status != SUSPENDED:
        raise refuse("identity.not_suspended", f"{body.identity_id} is not suspended")
    return _change_status(view, context, organisation, replace(identity, status=ACTIVE))


def revoke_identity(view: StateView, context: Context, body: IdentityRevoke) -> Effects:
    """Return the keys with their last valid height; without a key id also the revoked identity.

    A revocation can be moved further into the past by another one, never forward.

    Raises:
        TransactionRefusedError: ``ledger.identity.not_found``, ``ledger.tx.not_authorised``, ``ledger.identity.key_not_found``,
            ``ledger.identity.future_height``, ``ledger.identity.already_revoked``, ``ledger.identity.last_administrator``,
            ``ledger.identity.too_few_administrators``.
    """
    identity, organisation = _find_any(view, body.identity_id, may_be_revoked=True)
    check_administrator_of(context, identity.organisation, f"revoke {body.identity_id}")
    if body.key_id is not None and body.key_id not in identity.key_ids:
        raise refuse("identity.key_not_found", f"{body.identity_id} has no such key", actual=body.key_id)
    key_ids = identity.key_ids if body.key_id is None else (body.key_id,)
    records = revoked_keys(view, context, key_ids, body.last_valid_height, body.reason)
    if body.key_id is None and identity.status != REVOKED:
        changed = replace(identity, status=REVOKED, changed_height=context.height)
        records[identity_key(body.identity_id)] = changed
        records |= _administrators(organisation, changed)
    if not records:
        raise refuse(
            "identity.already_revoked", f"{body.identity_id} was revoked from this height or an earlier one already"
        )
    _check_somebody_left(view, context, organisation, records)
    return Effects(records, _subjects(body.identity_id))


def revoked_keys(
    view: StateView, context: Context, key_ids: tuple[bytes, ...], last_valid_height: int, reason: str
) -> dict[bytes, Record]:
    """Return those of the keys whose last valid height becomes lower, by state key.

    Raises:
        TransactionRefusedError: ``ledger.identity.future_height``: what is not recorded yet cannot be revoked.
    """
    if last_valid_height > context.height:
        raise refuse(
            "identity.future_height",
            "a revocation names a height that is not reached",
            f"at most {context.height}",
            last_valid_height,
        )
    records: dict[bytes, Record] = {}
    for key_id in key_ids:
        key = view.key(key_id)
        assert key is not None, "an identity's keys are on the ledger"
        if key.last_valid_height is None or last_valid_height < key.last_valid_height:
            records[key_key(key_id)] = replace(key, last_valid_height=last_valid_height, reason=reason)
    return records


def check_new_key(view: StateView, spki: bytes) -> PublicKey:
    """Return the key, which nobody ever registered.

    Raises:
        RejectedError: ``wire.key.*`` (such as a small-order point), ``ledger.identity.key_exists``.
    """
    key = public_key_from_spki_untrusted(spki)
    known = view.key(key.key_id)
    if known is not None:
        raise refuse(
            "identity.key_exists",
            f"the key is registered for {known.identity_id} already",
            actual=key.key_id,
            hint="generate another key",
        )
    return key


def _check_chain(
    view: StateView, organisation: Organisation, context: Context, key: PublicKey, ders: tuple[bytes, ...]
) -> None:
    if not ders:
        return
    chain = certificate_chain_untrusted(ders)
    if chain.public_key.key_id != key.key_id:
        raise refuse(
            "identity.certificate_key",
            "the certificate is for another key than the one being registered",
            key.key_id,
            chain.public_key.key_id,
        )
    verify_chain(chain, organisation.ca_certificates, context.time_ms // 1000)
    check_not_revoked(view, organisation.name, ders)


def _find_any(
    view: StateView, identity_id: str, *, may_be_revoked: bool = False
) -> tuple[IdentityRecord, Organisation]:
    identity = view.identity(identity_id)
    organisation = None if identity is None else view.organisation(identity.organisation)
    if identity is None or organisation is None:
        raise refuse("identity.not_found", f"{identity_id} is not registered")
    if identity.status == REVOKED and not may_be_revoked:
        raise refuse("identity.revoked", f"{identity_id} is revoked, and that cannot be undone")
    return identity, organisation


def _find(view: StateView, context: Context, identity_id: str, verb: str) -> tuple[IdentityRecord, Organisation]:
    identity, organisation = _find_any(view, identity_id)
    check_administrator_of(context, identity.organisation, f"{verb} {identity_id}")
    return identity, organisation


def _change_status(view: StateView, context: Context, organisation: Organisation, identity: IdentityRecord) -> Effects:
    changed = replace(identity, changed_height=context.height)
    records: dict[bytes, Record] = {identity_key(identity.identity_id): changed}
    records |= _administrators(organisation, changed)
    _check_somebody_left(view, context, organisation, records)
    return Effects(records, _subjects(identity.identity_id))


def _administrators(organisation: Organisation, identity: IdentityRecord) -> dict[bytes, Record]:
    """Return the organisation when `identity`, as it is now, joins or leaves its lasting administrators."""
    acts = identity.is_lasting_administrator
    listed = identity.identity_id in organisation.administrators
    if acts == listed:
        return {}
    others = tuple(each for each in organisation.administrators if each != identity.identity_id)
    administrators = tuple(sorted((*others, identity.identity_id))) if acts else others
    if len(administrators) > ADMINISTRATORS_MAX:
        raise refuse(
            "identity.too_many_administrators",
            f"{organisation.name} has as many administrators as it can",
            f"at most {ADMINISTRATORS_MAX}",
        )
    return {organisation_key(organisation.name): replace(organisation, administrators=administrators)}


def _check_somebody_left(
    view: StateView, context: Context, organisation: Organisation, records: Mapping[bytes, Record]
) -> None:
    """Return when, after `records`, as many administrators as must agree still have a key that counts in the next block."""
    needed = view.administration_threshold(organisation.name)
    left = sum(1 for _ in islice(acting_administrators(view, organisation.name, context.height + 1, records), needed))
    if left == 0:
        raise refuse(
            "identity.last_administrator",
            f"{organisation.name} would be left without an administrator who can act",
            hint="appoint another administrator first",
        )
    if left < needed:
        raise refuse(
            "identity.too_few_administrators",
            f"{organisation.name} would be left with fewer administrators who can act than must agree",
            f"at least {needed}",
            left,
            hint="appoint another administrator, or lower the number that must agree, first",
        )


def _role_of(term: RoleTerm) -> str:
    return term[0]


def _subjects(identity_id: str) -> tuple[bytes, ...]:
    return (identity_key(identity_id),)
