"""Administration by several: nobody does alone what two must agree on, and two always can."""

from __future__ import annotations

import pytest

from ledger import bodies
from ledger.actions import AddAdministrator, Administrator, RevokeKey
from ledger.bodies import ADMINISTRATIVE_READERS, AdministrativeBody
from ledger.errors import TransactionRefusedError
from ledger.identity_past import identity_then
from ledger.keyspace import pending_act_key
from ledger.limits import ADMINISTRATORS_MAX, PROPOSAL_LIFETIME
from ledger.records import PendingAct
from ledger.rules_administration import approve_act
from ledger.rules_common import Context
from ledger.transaction import decode_transaction_untrusted
from tests.testkit.ledger import BLOCK_MS, Chain, key_of
from wire.codec import decode_untrusted, encode

FURTHER = ("amy@acme", "abe@acme")
"""Administrators besides ada@acme."""


def set_threshold(threshold: int, organisation: str = "acme") -> bodies.AdministrationSetThreshold:
    return bodies.AdministrationSetThreshold(organisation, threshold)


def register(identity_id: str, *roles: str) -> bodies.IdentityRegister:
    return bodies.IdentityRegister(identity_id, "Name", roles, key_of(identity_id).public_key.spki)


@pytest.fixture
def chain() -> Chain:
    """Three administrators of acme, of whom two must agree; a developer, and a host that is suspended."""
    chain = Chain()
    for name in FURTHER:
        chain.register(name, "administrator")
    chain.register("alice@acme", "developer")
    chain.register("web1@acme", "host")
    chain.submit(bodies.IdentitySuspend("web1@acme", "why"), by="ada@acme")
    chain.submit(set_threshold(2), by="ada@acme")
    return chain


def propose(chain: Chain, act: AdministrativeBody, by: str = "ada@acme") -> bytes:
    return chain.submit(bodies.AdministrationPropose(act), by).tx_id


def approve(chain: Chain, act_id: bytes, by: str = "amy@acme") -> None:
    chain.submit(bodies.AdministrationApprove(act_id), by)


def pending(chain: Chain, act_id: bytes) -> PendingAct:
    act = chain.view.pending_act(act_id)
    assert act is not None
    return act


ALICE = key_of("alice@acme").public_key.key_id
ACTS: tuple[AdministrativeBody, ...] = (
    register("new@acme", "developer"),
    bodies.IdentityUpdateRoles("alice@acme", ("auditor",)),
    bodies.IdentitySetRoleTerm("alice@acme", "developer", 1, None),
    bodies.IdentityRotateKey("alice@acme", ALICE, key_of("alice 2").public_key.spki),
    bodies.IdentityResume("web1@acme"),
    bodies.IdentityRevoke("alice@acme", None, 3, "left"),
    set_threshold(3),
)


def test_there_is_an_act_of_every_kind() -> None:
    assert {act.KIND for act in ACTS} == set(ADMINISTRATIVE_READERS)


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.KIND)
def test_two_do_what_none_does_alone(chain: Chain, act: AdministrativeBody) -> None:
    assert chain.refused(act, "ada@acme") == "ledger.administration.approvals_needed"
    before = chain.view.header.state_root
    act_id = propose(chain, act)
    assert chain.view.header.state_root != before
    opened = pending(chain, act_id)
    assert (opened.status, [each[0] for each in opened.approvals]) == ("open", ["ada@acme"])
    approve(chain, act_id)
    closed = pending(chain, act_id)
    assert (closed.status, closed.closed_height) == ("executed", chain.height)
    match act:
        case bodies.IdentityRegister():
            assert chain.view.identity("new@acme") is not None
        case bodies.IdentityUpdateRoles():
            assert identity_roles(chain, "alice@acme") == ("auditor",)
        case bodies.IdentityResume():
            web1 = chain.view.identity("web1@acme")
            assert web1 is not None
            assert web1.is_active
        case bodies.IdentityRevoke():
            key = chain.view.key(ALICE)
            assert key is not None
            assert key.last_valid_height == 3
        case bodies.AdministrationSetThreshold():
            assert chain.view.administration_threshold("acme") == 3
        case _:
            changed = chain.view.identity("alice@acme")
            assert changed is not None
            assert changed.changed_height == chain.height


def identity_roles(chain: Chain, name: str) -> tuple[str, ...]:
    identity = chain.view.identity(name)
    assert identity is not None
    return identity.roles


def test_one_alone_stops_somebody_and_owners_rotate_their_own_keys(chain: Chain) -> None:
    chain.submit(bodies.IdentitySuspend("alice@acme", "key lost"), by="ada@acme")
    own = bodies.IdentityRotateKey("amy@acme", key_of("amy@acme").public_key.key_id, key_of("amy 2").public_key.spki)
    chain.submit(own, by="amy@acme")


def test_other_organisations_go_on_alone(chain: Chain) -> None:
    chain.register("bob@beta", "attestor:security-review")
    assert chain.refused(register("x@beta", "developer"), "ada@acme") == "ledger.tx.not_authorised"
    assert chain.refused(set_threshold(1, "beta"), "ada@acme") == "ledger.tx.not_authorised"
    assert chain.view.administration_threshold("beta") == 1


def test_with_a_threshold_of_one_proposing_does_it(chain: Chain) -> None:
    act = bodies.AdministrationPropose(register("bob@beta", "auditor"))
    act_id = chain.submit(act, by="ben@beta").tx_id
    assert pending(chain, act_id).status == "executed"
    assert chain.view.identity("bob@beta") is not None


def test_one_person_counts_once_with_whatever_key(chain: Chain) -> None:
    act_id = propose(chain, ACTS[0])
    again = bodies.AdministrationApprove(act_id)
    assert chain.refused(again, "ada@acme") == "ledger.administration.already_approved"
    new = key_of("ada 2")
    own = bodies.IdentityRotateKey("ada@acme", key_of("ada@acme").public_key.key_id, new.public_key.spki)
    chain.submit(own, by="ada@acme")
    assert chain.refused(again, "ada@acme", key=new) == "ledger.administration.already_approved"


def test_approval_under_a_key_that_is_revoked_from_before_it_does_not_count(chain: Chain) -> None:
    act_id = propose(chain, ACTS[0])
    chain.adopt(RevokeKey(key_of("ada@acme").public_key.key_id, 2, "stolen"))
    approve(chain, act_id)
    assert pending(chain, act_id).status == "open"
    approve(chain, act_id, by="abe@acme")
    assert pending(chain, act_id).status == "executed"


def test_approval_of_who_is_no_administrator_any_more_does_not_count(chain: Chain) -> None:
    chain.register("ann@beta", "administrator")
    act_id = propose(chain, ACTS[0], by="abe@acme")
    chain.submit(bodies.IdentitySuspend("abe@acme", "on leave"), by="ada@acme")
    approve(chain, act_id)
    assert pending(chain, act_id).status == "open"
    approve(chain, act_id, by="ada@acme")
    assert pending(chain, act_id).status == "executed"


def test_threshold_that_is_lowered_lets_the_same_approval_decide(chain: Chain) -> None:
    act_id = propose(chain, ACTS[0])
    lower = propose(chain, set_threshold(1))
    approve(chain, lower)
    assert pending(chain, act_id).status == "open"
    approve(chain, act_id, by="ada@acme")
    assert pending(chain, act_id).status == "executed"


def test_act_that_cannot_be_executed_is_not_proposed_and_not_executed(chain: Chain) -> None:
    impossible = bodies.AdministrationPropose(bodies.IdentityResume("alice@acme"))
    assert chain.refused(impossible, "ada@acme") == "ledger.identity.not_suspended"
    first, second = propose(chain, ACTS[0]), propose(chain, ACTS[0])
    approve(chain, first)
    assert chain.refused(bodies.AdministrationApprove(second), "amy@acme") == "ledger.identity.exists"
    assert pending(chain, second).status == "open"


def test_as_many_administrators_as_must_agree_are_always_left(chain: Chain) -> None:
    chain.submit(bodies.IdentitySuspend("abe@acme", "on leave"), by="ada@acme")
    suspend = bodies.IdentitySuspend("amy@acme", "on leave too")
    assert chain.refused(suspend, "ada@acme") == "ledger.identity.too_few_administrators"
    revoke = bodies.AdministrationPropose(bodies.IdentityRevoke("amy@acme", None, chain.height, "left"))
    assert chain.refused(revoke, "ada@acme") == "ledger.identity.too_few_administrators"
    for_a_time = bodies.AdministrationPropose(bodies.IdentitySetRoleTerm("amy@acme", "administrator", 1, None))
    assert chain.refused(for_a_time, "ada@acme") == "ledger.identity.too_few_administrators"


def test_governance_helps_an_organisation_whose_keys_are_lost(chain: Chain) -> None:
    for name in FURTHER:
        chain.adopt(RevokeKey(key_of(name).public_key.key_id, chain.height, "lost"))
    act_id = propose(chain, ACTS[0])
    chain.adopt(AddAdministrator("acme", Administrator("aya@acme", "Aya", key_of("aya@acme").public_key.spki)))
    approve(chain, act_id, by="aya@acme")
    assert pending(chain, act_id).status == "executed"


@pytest.mark.parametrize(
    ("body", "by", "code"),
    [
        (bodies.AdministrationPropose(ACTS[0]), "ben@beta", "ledger.tx.not_authorised"),
        (bodies.AdministrationPropose(ACTS[0]), "alice@acme", "ledger.tx.not_authorised"),
        (bodies.AdministrationApprove(bytes(32)), "ada@acme", "ledger.administration.not_found"),
        (bodies.AdministrationWithdraw(bytes(32)), "ada@acme", "ledger.administration.not_found"),
        (bodies.AdministrationPropose(set_threshold(2)), "ada@acme", "ledger.administration.no_change"),
        (bodies.AdministrationPropose(set_threshold(4)), "ada@acme", "ledger.administration.threshold_too_high"),
        (set_threshold(2, "beta"), "ben@beta", "ledger.administration.threshold_too_high"),
        (set_threshold(1, "beta"), "ben@beta", "ledger.administration.no_change"),
    ],
)
def test_what_is_refused(chain: Chain, body: bodies.Body, by: str, code: str) -> None:
    assert chain.refused(body, by) == code


def test_acts_are_the_organisations_own_and_end_once(chain: Chain) -> None:
    act_id = propose(chain, ACTS[0])
    approval, withdrawal = bodies.AdministrationApprove(act_id), bodies.AdministrationWithdraw(act_id)
    for body in (approval, withdrawal):
        for stranger in ("ben@beta", "alice@acme"):
            assert chain.refused(body, stranger) == "ledger.tx.not_authorised"
    chain.submit(withdrawal, by="abe@acme")
    assert pending(chain, act_id).status == "withdrawn"
    for body in (approval, withdrawal):
        assert chain.refused(body, "amy@acme") == "ledger.administration.closed"
    assert chain.view.identity("new@acme") is None


def test_act_expires(chain: Chain) -> None:
    act_id = propose(chain, ACTS[0])
    signer, key = chain.view.identity("amy@acme"), chain.view.key(key_of("amy@acme").public_key.key_id)
    assert signer is not None
    assert key is not None
    last = pending(chain, act_id).expires_height
    assert last == pending(chain, act_id).created_height + PROPOSAL_LIFETIME
    body = bodies.AdministrationApprove(act_id)
    time_ms = chain.blocks[-1].header.time_ms + BLOCK_MS
    assert (
        pending_act_key(act_id) in approve_act(chain.view, Context(bytes(32), signer, key, last, time_ms), body).records
    )
    with pytest.raises(TransactionRefusedError) as caught:
        approve_act(chain.view, Context(bytes(32), signer, key, last + 1, time_ms), body)
    assert caught.value.code == "ledger.administration.expired"


def test_administrator_for_a_time_agrees_in_that_time_only(chain: Chain) -> None:
    act = propose(
        chain, bodies.IdentitySetRoleTerm("abe@acme", "administrator", None, chain.view.header.time_ms + 5 * BLOCK_MS)
    )
    approve(chain, act)
    act_id = propose(chain, ACTS[0], by="abe@acme")
    for _ in range(5):
        chain.commit()
    approve(chain, act_id)
    assert pending(chain, act_id).status == "open"


def test_revocation_by_several_is_known_from_the_approval_that_decided_it(chain: Chain) -> None:
    act_id = propose(chain, bodies.IdentityRevoke("alice@acme", ALICE, 3, "stolen"))
    approve(chain, act_id)

    def known(height: int) -> int | None:
        found = identity_then(chain.view, "alice@acme", height)
        assert found is not None
        return found[1][0].last_valid_height

    assert [known(height) for height in (chain.height - 2, chain.height - 1, chain.height)] == [None, None, 3]
    alone = bodies.AdministrationPropose(
        bodies.IdentityRevoke("ben@beta", key_of("ben@beta").public_key.key_id, 1, "stolen")
    )
    assert chain.refused(alone, "ben@beta") == "ledger.identity.last_administrator"


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        (("identity.suspend", ("alice@acme", "why")), "wire.field.choice"),
        (("administration.propose", ("identity.resume", ("web1@acme",))), "wire.field.choice"),
        ((7, ("web1@acme",)), "wire.field.choice"),
        (("identity.resume", ("web1",)), "wire.field.identity_id"),
        (("administration.set-threshold", ("acme", 0)), "wire.field.range"),
        (("administration.set-threshold", ("acme", ADMINISTRATORS_MAX + 1)), "wire.field.range"),
    ],
)
def test_acts_out_of_form_are_refused(chain: Chain, values: tuple[object, ...], cause: str) -> None:
    raw = chain.sign(bodies.AdministrationPropose(ACTS[0]), by="ada@acme").raw
    whole = decode_untrusted(raw, bytes_max=4096)
    assert isinstance(whole, tuple)
    with pytest.raises(TransactionRefusedError) as caught:
        decode_transaction_untrusted(encode((*whole[:3], (values,), *whole[4:])))  # type: ignore[arg-type]
    assert caught.value.code == "ledger.tx.malformed"
    assert caught.value.details["cause"].startswith("wire.field.")  # type: ignore[union-attr]
    assert caught.value.details["cause"] == cause
