"""Identities and keys: who may change them, what is refused with which code, and when a key counts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from ledger import bodies
from ledger.keyspace import TRANSACTION_CHAIN_KEY, Table, identity_key, key_key, organisation_key
from ledger.limits import ADMINISTRATORS_MAX, KEYS_PER_IDENTITY_MAX, NOT_AFTER_WINDOW_MAX
from ledger.records import IdentityRecord
from tests.testkit.certificates import make_chain
from tests.testkit.ledger import Chain, key_of, make_genesis
from wire.keys import Algorithm

SMALL_ORDER_SPKI = bytes.fromhex("302a300506032b6570032100") + b"\x01" + bytes(31)


@pytest.fixture
def chain() -> Chain:
    return Chain()


def register(identity_id: str, *roles: str, key: str | None = None) -> bodies.IdentityRegister:
    return bodies.IdentityRegister(identity_id, "Name", roles, key_of(key or identity_id).public_key.spki)


def test_registration_makes_an_active_identity_with_one_valid_key(chain: Chain) -> None:
    chain.register("alice@acme", "developer", "attestor:security-review")
    identity = chain.view.identity("alice@acme")
    key = chain.view.key(key_of("alice@acme").public_key.key_id)
    assert identity is not None
    assert identity.is_active
    assert identity.organisation == "acme"
    assert identity.roles == ("attestor:security-review", "developer")
    assert (identity.registered_height, identity.changed_height) == (1, 1)
    assert key is not None
    assert identity.key_ids == (key.key_id,)
    assert [key.is_valid_at(height) for height in (0, 1, 2, 10**9)] == [False, True, True, True]
    assert chain.view.identity_of_key(key.key_id) == identity
    assert chain.view.identity_of_key(bytes(32)) is None


def test_p256_keys_register_and_sign(chain: Chain) -> None:
    chain.register("web1@acme", "host", algorithm=Algorithm.P256)
    chain.submit(bodies.HostReport("drift", "site", b"{}"), by="web1@acme")


@pytest.mark.parametrize(
    ("body", "by", "code"),
    [
        (register("x@nowhere", "developer"), "ada@acme", "ledger.identity.unknown_organisation"),
        (register("x@beta", "developer"), "ada@acme", "ledger.tx.not_authorised"),
        (register("x@acme", "developer"), "alice@acme", "ledger.tx.not_authorised"),
        (register("alice@acme", "developer", key="other"), "ada@acme", "ledger.identity.exists"),
        (register("x@acme", "developer", key="alice@acme"), "ada@acme", "ledger.identity.key_exists"),
        (
            bodies.IdentityRegister("x@acme", "X", ("host",), SMALL_ORDER_SPKI),
            "ada@acme",
            "wire.key.small_order",
        ),
        (bodies.IdentityUpdateRoles("x@acme", ("host",)), "ada@acme", "ledger.identity.not_found"),
        (bodies.IdentityUpdateRoles("alice@acme", ("host",)), "ben@beta", "ledger.tx.not_authorised"),
        (bodies.IdentityUpdateRoles("ada@acme", ("host",)), "ada@acme", "ledger.identity.last_administrator"),
        (bodies.IdentitySuspend("ada@acme", ""), "ada@acme", "ledger.identity.last_administrator"),
        (bodies.IdentityRevoke("ada@acme", None, 0, ""), "ada@acme", "ledger.identity.last_administrator"),
        (bodies.IdentitySuspend("x@acme", ""), "ada@acme", "ledger.identity.not_found"),
        (bodies.IdentitySuspend("alice@acme", ""), "ben@beta", "ledger.tx.not_authorised"),
        (bodies.IdentityResume("alice@acme"), "ada@acme", "ledger.identity.not_suspended"),
        (bodies.IdentityResume("alice@acme"), "ben@beta", "ledger.tx.not_authorised"),
        (bodies.IdentityRevoke("x@acme", None, 0, ""), "ada@acme", "ledger.identity.not_found"),
        (bodies.IdentityRevoke("alice@acme", None, 0, ""), "ben@beta", "ledger.tx.not_authorised"),
        (bodies.IdentityRevoke("alice@acme", bytes(32), 0, ""), "ada@acme", "ledger.identity.key_not_found"),
        (bodies.IdentityRevoke("alice@acme", None, 3, ""), "ada@acme", "ledger.identity.future_height"),
        (
            bodies.IdentityRotateKey("alice@acme", bytes(32), key_of("new").public_key.spki),
            "ada@acme",
            "ledger.identity.key_not_found",
        ),
        (
            bodies.IdentityRotateKey("alice@acme", key_of("ada@acme").public_key.key_id, key_of("new").public_key.spki),
            "ada@acme",
            "ledger.identity.key_not_found",
        ),
        (
            bodies.IdentityRotateKey(
                "alice@acme", key_of("alice@acme").public_key.key_id, key_of("new").public_key.spki
            ),
            "ben@beta",
            "ledger.tx.not_authorised",
        ),
        (
            bodies.IdentityRotateKey(
                "alice@acme", key_of("alice@acme").public_key.key_id, key_of("ada@acme").public_key.spki
            ),
            "alice@acme",
            "ledger.identity.key_exists",
        ),
        (
            bodies.IdentityRotateKey("x@acme", bytes(32), key_of("new").public_key.spki),
            "ada@acme",
            "ledger.identity.not_found",
        ),
    ],
)
def test_refusals_name_their_rule_and_change_nothing(chain: Chain, body: bodies.Body, by: str, code: str) -> None:
    chain.register("alice@acme", "developer")
    assert chain.height == 1
    assert chain.refused(body, by) == code


def test_roles_change_and_are_the_ones_that_count(chain: Chain) -> None:
    chain.register("web1@acme", "host")
    chain.submit(bodies.IdentityUpdateRoles("web1@acme", ("auditor",)), by="ada@acme")
    identity = chain.view.identity("web1@acme")
    assert identity is not None
    assert identity.roles == ("auditor",)
    assert (identity.registered_height, identity.changed_height) == (1, 2)
    assert chain.refused(bodies.HostReport("drift", "site", b""), "web1@acme") == "ledger.tx.not_authorised"


def test_a_second_administrator_lets_the_first_go(chain: Chain) -> None:
    chain.register("eve@acme", "administrator")
    organisation = chain.view.organisation("acme")
    assert organisation is not None
    assert organisation.administrators == ("ada@acme", "eve@acme")
    chain.submit(bodies.IdentityUpdateRoles("ada@acme", ("auditor",)), by="eve@acme")
    changed = chain.view.organisation("acme")
    assert changed is not None
    assert changed.administrators == ("eve@acme",)
    assert chain.refused(bodies.IdentitySuspend("eve@acme", ""), "eve@acme") == "ledger.identity.last_administrator"
    chain.submit(bodies.IdentityUpdateRoles("ada@acme", ("administrator",)), by="eve@acme")
    chain.submit(bodies.IdentitySuspend("eve@acme", "leave"), by="ada@acme")
    left = chain.view.organisation("acme")
    assert left is not None
    assert left.administrators == ("ada@acme",)


def test_an_administrator_whose_key_does_not_count_is_nobody(chain: Chain) -> None:
    """Eve is listed, but her only key is revoked: so Ada is the last administrator who can act."""
    eve = chain.register("eve@acme", "administrator")
    chain.submit(bodies.IdentityRevoke("eve@acme", eve.public_key.key_id, 1, "lost"), by="ada@acme")
    organisation = chain.view.organisation("acme")
    assert organisation is not None
    assert organisation.administrators == ("ada@acme", "eve@acme")
    assert chain.refused(bodies.IdentitySuspend("ada@acme", ""), "ada@acme") == "ledger.identity.last_administrator"
    ada = key_of("ada@acme").public_key.key_id
    body = bodies.IdentityRevoke("ada@acme", ada, chain.height, "")
    assert chain.refused(body, "ada@acme") == "ledger.identity.last_administrator"


def test_suspension_stops_and_resumption_restores(chain: Chain) -> None:
    chain.register("web1@acme", "host")
    report = bodies.HostReport("drift", "site", b"")
    chain.submit(bodies.IdentitySuspend("web1@acme", "on leave"), by="ada@acme")
    assert chain.refused(report, "web1@acme") == "ledger.tx.signer_suspended"
    assert chain.refused(bodies.IdentitySuspend("web1@acme", ""), "ada@acme") == "ledger.identity.not_active"
    chain.submit(bodies.IdentityResume("web1@acme"), by="ada@acme")
    chain.submit(report, by="web1@acme")


def test_suspended_administrators_leave_the_list_and_come_back(chain: Chain) -> None:
    chain.register("eve@acme", "administrator")
    chain.submit(bodies.IdentitySuspend("eve@acme", ""), by="ada@acme")
    organisation = chain.view.organisation("acme")
    assert organisation is not None
    assert organisation.administrators == ("ada@acme",)
    chain.submit(bodies.IdentityResume("eve@acme"), by="ada@acme")
    assert chain.view.organisation("acme") == replace(organisation, administrators=("ada@acme", "eve@acme"))


def test_rotation_by_the_key_itself_retires_it_at_this_height(chain: Chain) -> None:
    old = chain.register("web1@acme", "host")
    new = key_of("web1@acme second")
    chain.submit(bodies.IdentityRotateKey("web1@acme", old.public_key.key_id, new.public_key.spki), by="web1@acme")
    record, fresh = chain.view.key(old.public_key.key_id), chain.view.key(new.public_key.key_id)
    assert record is not None
    assert fresh is not None
    assert [record.is_valid_at(height) for height in (1, 2, 3)] == [True, True, False]
    assert [fresh.is_valid_at(height) for height in (1, 2, 3)] == [False, True, True]
    report = bodies.HostReport("drift", "site", b"")
    assert chain.refused(report, "web1@acme") == "ledger.tx.key_not_valid"
    assert chain.refused(
        bodies.IdentityRotateKey("web1@acme", old.public_key.key_id, key_of("third").public_key.spki), "ada@acme"
    ) == "ledger.identity.key_retired"  # fmt: skip
    chain.keys["web1@acme"] = new
    chain.submit(report, by="web1@acme")


def test_old_and_new_key_both_count_in_the_block_of_the_rotation(chain: Chain) -> None:
    old = chain.register("web1@acme", "host")
    new = key_of("web1@acme second")
    rotate = chain.sign(
        bodies.IdentityRotateKey("web1@acme", old.public_key.key_id, new.public_key.spki), by="web1@acme"
    )
    report = bodies.HostReport("drift", "site", b"")
    executed = chain.commit(rotate, chain.sign(report, "web1@acme", key=old), chain.sign(report, "web1@acme", key=new))
    assert len(executed.tx_ids) == 3


def test_an_administrator_replaces_a_revoked_key(chain: Chain) -> None:
    old = chain.register("web1@acme", "host")
    chain.submit(bodies.IdentityRevoke("web1@acme", old.public_key.key_id, 1, "stolen"), by="ada@acme")
    new = key_of("web1@acme second")
    chain.submit(bodies.IdentityRotateKey("web1@acme", old.public_key.key_id, new.public_key.spki), by="ada@acme")
    record = chain.view.key(old.public_key.key_id)
    assert record is not None
    assert (record.retired_height, record.last_valid_height, record.reason) == (3, 1, "stolen")
    chain.keys["web1@acme"] = new
    chain.submit(bodies.HostReport("drift", "site", b""), by="web1@acme")


def test_revocation_is_by_height_and_reaches_into_the_past(chain: Chain) -> None:
    key = chain.register("web1@acme", "host")
    for _ in range(4):
        chain.submit(bodies.HostReport("drift", "site", b""), by="web1@acme")
    chain.submit(bodies.IdentityRevoke("web1@acme", key.public_key.key_id, 3, "compromised"), by="ada@acme")
    record = chain.view.key(key.public_key.key_id)
    assert record is not None
    assert [record.is_valid_at(height) for height in range(6)] == [False, True, True, True, False, False]
    assert chain.refused(bodies.HostReport("drift", "site", b""), "web1@acme") == "ledger.tx.key_not_valid"
    # Further back, but never forward.
    for height, code in ((3, "already_revoked"), (4, "already_revoked")):
        body = bodies.IdentityRevoke("web1@acme", key.public_key.key_id, height, "")
        assert chain.refused(body, "ada@acme") == f"ledger.identity.{code}"
    chain.submit(bodies.IdentityRevoke("web1@acme", key.public_key.key_id, 2, "earlier"), by="ada@acme")
    moved = chain.view.key(key.public_key.key_id)
    assert moved is not None
    assert (moved.last_valid_height, moved.reason) == (2, "earlier")


def test_a_revoked_identity_never_comes_back(chain: Chain) -> None:
    key = chain.register("web1@acme", "host")
    chain.submit(bodies.IdentityRevoke("web1@acme", None, chain.height + 1, "gone"), by="ada@acme")
    identity = chain.view.identity("web1@acme")
    assert identity is not None
    assert identity.status == "revoked"
    new = key_of("other").public_key.spki
    for body in (
        bodies.IdentityResume("web1@acme"),
        bodies.IdentitySuspend("web1@acme", ""),
        bodies.IdentityUpdateRoles("web1@acme", ("developer",)),
        bodies.IdentityRotateKey("web1@acme", key.public_key.key_id, new),
    ):
        assert chain.refused(body, "ada@acme") == "ledger.identity.revoked"
    again = bodies.IdentityRevoke("web1@acme", None, 2, "")
    assert chain.refused(again, "ada@acme") == "ledger.identity.already_revoked"
    # Only the compromise point can still move back.
    chain.submit(bodies.IdentityRevoke("web1@acme", None, 1, "earlier"), by="ada@acme")
    record = chain.view.key(key.public_key.key_id)
    assert record is not None
    assert record.last_valid_height == 1


def test_a_revoked_identity_cannot_act_even_in_the_block_of_its_revocation(chain: Chain) -> None:
    """Its key still counts at that height; its owner does not."""
    chain.register("web1@acme", "host")
    revoke = chain.sign(bodies.IdentityRevoke("web1@acme", None, chain.height + 1, ""), "ada@acme")
    report = chain.sign(bodies.HostReport("drift", "site", b""), "web1@acme")
    built = chain.build(revoke, report)
    ((refused, error),) = built.refused
    assert refused is report
    assert error.code == "ledger.tx.signer_revoked"
    assert built.executed.tx_ids == (revoke.tx_id,)


def test_certificate_chains_are_checked_against_the_organisation(chain: Chain) -> None:
    key = key_of("x@acme")
    leaf, authority = make_chain(key)
    chain = Chain(make_genesis(ca_certificates=[authority]))
    body = bodies.IdentityRegister("x@acme", "X", ("developer",), key.public_key.spki, (leaf, authority))
    other = replace(body, spki=key_of("y@acme").public_key.spki)
    assert chain.refused(other, "ada@acme") == "ledger.identity.certificate_key"
    foreign = replace(body, identity_id="x@beta")
    assert chain.refused(foreign, "ben@beta") == "wire.x509.no_anchor"
    garbage = replace(body, certificate_chain=(b"not a certificate",))
    assert chain.refused(garbage, "ada@acme") == "wire.x509.malformed"
    chain.submit(body, by="ada@acme")
    record = chain.view.key(key.public_key.key_id)
    assert record is not None
    assert record.certificate_chain == (leaf, authority)
    assert record.public_key == key.public_key


def test_certificates_are_judged_by_the_block_s_time() -> None:
    """The certificates of the testkit are valid from 2026 to 2030; the block says it is 2031."""
    key = key_of("x@acme")
    leaf, authority = make_chain(key)
    chain = Chain(make_genesis(ca_certificates=[authority]))
    body = bodies.IdentityRegister("x@acme", "X", ("developer",), key.public_key.spki, (leaf, authority))
    year_2031_ms = 1_924_992_000_000
    built = chain.build(chain.sign(body, "ada@acme"), time_ms=year_2031_ms)
    ((_, error),) = built.refused
    assert error.code == "wire.x509.expired"


def test_administrators_are_bounded(chain: Chain) -> None:
    names = [f"admin{index}@acme" for index in range(ADMINISTRATORS_MAX)]
    chain.commit(*(chain.sign(register(name, "administrator"), "ada@acme") for name in names[:-1]))
    assert chain.refused(register(names[-1], "administrator"), "ada@acme") == "ledger.identity.too_many_administrators"
    chain.register(names[-1], "developer")
    body = bodies.IdentityUpdateRoles(names[-1], ("administrator",))
    assert chain.refused(body, "ada@acme") == "ledger.identity.too_many_administrators"


def test_keys_of_an_identity_are_bounded(chain: Chain) -> None:
    keys = [key_of(f"k{index}") for index in range(KEYS_PER_IDENTITY_MAX)]
    chain.keys["x@acme"] = keys[0]
    chain.register("x@acme", "developer")
    for old, new in pairwise(keys):
        chain.submit(bodies.IdentityRotateKey("x@acme", old.public_key.key_id, new.public_key.spki), by="ada@acme")
    identity = chain.view.identity("x@acme")
    assert identity is not None
    assert len(identity.key_ids) == KEYS_PER_IDENTITY_MAX
    body = bodies.IdentityRotateKey("x@acme", keys[-1].public_key.key_id, key_of("more").public_key.spki)
    assert chain.refused(body, "ada@acme") == "ledger.identity.too_many_keys"


def test_identities_can_be_read_at_a_past_height(chain: Chain) -> None:
    chain.register("alice@acme", "developer")
    chain.register("bob@acme", "developer")
    chain.submit(bodies.IdentityUpdateRoles("alice@acme", ("auditor",)), by="ada@acme")
    roles = [
        record and record.roles for record in (chain.view.identity_at("alice@acme", height) for height in range(5))
    ]
    assert roles == [None, ("developer",), ("developer",), ("auditor",), ("auditor",)]
    assert chain.view.identity_at("ada@acme", 0) == chain.view.identity("ada@acme")
    assert chain.view.identity_at("nobody@acme", 9) is None


def test_lists_and_history_tell_who_did_what(chain: Chain) -> None:
    chain.register("alice@acme", "developer")
    chain.register("bob@beta", "developer")
    assert [each.identity_id for each in chain.view.identities()] == [
        "ada@acme", "alice@acme", "ben@beta", "bob@beta", "gil@gamma",
    ]  # fmt: skip
    assert [each.identity_id for each in chain.view.identities(after="ben@beta")] == ["bob@beta", "gil@gamma"]
    assert [each.name for each in chain.view.organisations()] == ["acme", "beta", "gamma"]
    assert len(list(chain.view.keys())) == 5
    for subject, heights in (
        (identity_key("alice@acme"), [1]),
        (identity_key("ada@acme"), [1]),
        (organisation_key("acme"), [1]),
        (organisation_key("beta"), [2]),
        (identity_key("al"), []),
    ):
        assert [entry.height for entry in chain.view.history(subject)] == heights
    (entry,) = chain.view.history(identity_key("bob@beta"), height_from=2)
    location = chain.view.location(entry.tx_id)
    assert location is not None
    assert (location.height, location.index, location.log_index) == (entry.height, entry.index, 1) == (2, 0, 1)
    assert list(chain.view.history(identity_key("bob@beta"), height_from=3)) == []


def test_only_changed_records_are_written(chain: Chain) -> None:
    executed = chain.commit(chain.sign(register("alice@acme", "developer"), "ada@acme"))
    changed = {key for table, key in executed.writes if table is Table.STATE}
    key_id = key_of("alice@acme").public_key.key_id
    assert changed == {identity_key("alice@acme"), key_key(key_id), TRANSACTION_CHAIN_KEY}
    raw = executed.writes[Table.STATE, identity_key("alice@acme")]
    assert raw is not None
    assert IdentityRecord.decode(raw).identity_id == "alice@acme"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"chain_id": "other-net"}, "ledger.tx.wrong_chain"),
        ({"not_after_height": 0}, "ledger.tx.expired"),
        ({"not_after_height": 1 + NOT_AFTER_WINDOW_MAX + 1}, "ledger.tx.not_after_too_far"),
        ({"key": key_of("a stranger")}, "ledger.tx.unknown_signer"),
    ],
)
def test_envelope_rules_have_their_codes(chain: Chain, changes: dict[str, object], code: str) -> None:
    assert chain.refused(register("alice@acme", "developer"), "ada@acme", **changes) == code


def test_the_window_of_heights_is_inclusive_at_both_ends(chain: Chain) -> None:
    for not_after in (1, 1 + NOT_AFTER_WINDOW_MAX):
        transaction = chain.sign(register("alice@acme", "developer"), "ada@acme", not_after_height=not_after)
        assert chain.build(transaction).refused == ()
