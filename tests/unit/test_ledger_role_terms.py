"""Roles that are bound to a time of the ledger: when they count, for whom, and that the last administrator is never one of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger import bodies
from ledger.actions import SetThreshold
from ledger.errors import LedgerCorruptionError, TransactionRefusedError
from ledger.keyspace import identity_key
from ledger.limits import TERM_MS_MAX
from ledger.records import IdentityRecord
from ledger.roles import roles_at
from ledger.transaction import decode_transaction_untrusted
from tests.testkit import patches
from tests.testkit.cli import refused
from tests.testkit.ledger import BLOCK_MS, Chain, attest_body
from wire.codec import decode_untrusted, encode
from wire.errors import RejectedError

REPORT = bodies.HostReport("drift", "site", b"{}")


@pytest.fixture
def chain() -> Chain:
    chain = Chain()
    chain.register_patch_people()
    return chain


def next_ms(chain: Chain) -> int:
    """Return the time of the next block."""
    return chain.blocks[-1].header.time_ms + BLOCK_MS


def bind(chain: Chain, identity: str, role: str, from_ms: int | None, until_ms: int | None) -> None:
    chain.submit(bodies.IdentitySetRoleTerm(identity, role, from_ms, until_ms), by="ada@acme")


def identity_of(chain: Chain, name: str) -> IdentityRecord:
    identity = chain.view.identity(name)
    assert identity is not None
    return identity


def test_role_counts_in_the_blocks_of_its_term_both_ends_included() -> None:
    terms = (("host", 10, 20), ("developer", None, 5), ("auditor", 7, None))
    roles = ("administrator", "auditor", "developer", "host")
    assert roles_at(roles, terms, 5) == ("administrator", "developer")
    assert roles_at(roles, terms, 6) == ("administrator",)
    assert roles_at(roles, terms, 7) == ("administrator", "auditor")
    assert roles_at(roles, terms, 10) == roles_at(roles, terms, 20) == ("administrator", "auditor", "host")
    assert roles_at(roles, terms, 21) == ("administrator", "auditor")


def test_role_ends_by_itself_with_the_block_after_its_last_moment(chain: Chain) -> None:
    last = next_ms(chain) + BLOCK_MS
    bind(chain, "web1@acme", "host", None, last)
    chain.submit(REPORT, by="web1@acme")
    assert chain.blocks[-1].header.time_ms == last
    late = chain.build(chain.sign(REPORT, by="web1@acme"))
    assert [error.code for _, error in late.refused] == ["ledger.tx.not_authorised"]
    chain.commit()  # Admission goes by the tip's time.
    assert chain.refused(REPORT, "web1@acme") == "ledger.tx.not_authorised"
    assert identity_of(chain, "web1@acme").roles == ("host",)


def test_role_begins_by_itself(chain: Chain) -> None:
    first = next_ms(chain) + 2 * BLOCK_MS
    bind(chain, "web1@acme", "host", first, None)
    assert chain.refused(REPORT, "web1@acme") == "ledger.tx.not_authorised"
    chain.commit()
    chain.submit(REPORT, by="web1@acme")
    assert chain.blocks[-1].header.time_ms == first


def test_bounds_are_changed_and_taken_away(chain: Chain) -> None:
    bind(chain, "web1@acme", "host", None, next_ms(chain))
    chain.commit()
    assert chain.refused(REPORT, "web1@acme") == "ledger.tx.not_authorised"
    bind(chain, "web1@acme", "host", None, TERM_MS_MAX)
    chain.submit(REPORT, by="web1@acme")
    bind(chain, "web1@acme", "host", None, None)
    assert identity_of(chain, "web1@acme").role_terms == ()
    chain.submit(REPORT, by="web1@acme")


def test_verdict_is_judged_by_the_term_at_its_height_also_when_another_passes_it_on(chain: Chain) -> None:
    data = patches.approve(patches.make_patch(), patches.CAROL, "ci@acme", "tests")
    chain.publish(data)
    bind(chain, "ci@acme", "attestor:tests", None, next_ms(chain))
    chain.commit()
    assert chain.refused(attest_body(data), "ci@acme") == "ledger.tx.not_authorised"
    assert chain.refused(attest_body(data), "alice@acme") == "ledger.patch.not_attestor"


def test_roles_that_are_set_anew_keep_the_terms_of_those_that_stay(chain: Chain) -> None:
    bind(chain, "dave@acme", "developer", 1, None)
    bind(chain, "dave@acme", "attestor:release", None, TERM_MS_MAX)
    assert identity_of(chain, "dave@acme").role_terms == (
        ("attestor:release", None, TERM_MS_MAX),
        ("developer", 1, None),
    )
    chain.submit(bodies.IdentityUpdateRoles("dave@acme", ("auditor", "developer")), by="ada@acme")
    assert identity_of(chain, "dave@acme").role_terms == (("developer", 1, None),)


@pytest.mark.parametrize(
    ("body", "by", "code"),
    [
        (bodies.IdentitySetRoleTerm("x@acme", "host", 1, None), "ada@acme", "ledger.identity.not_found"),
        (bodies.IdentitySetRoleTerm("web1@acme", "host", 1, None), "ben@beta", "ledger.tx.not_authorised"),
        (bodies.IdentitySetRoleTerm("web1@acme", "host", 1, None), "web1@acme", "ledger.tx.not_authorised"),
        (bodies.IdentitySetRoleTerm("web1@acme", "developer", 1, None), "ada@acme", "ledger.identity.role_not_held"),
        (bodies.IdentitySetRoleTerm("web1@acme", "host", None, 1), "ada@acme", "ledger.identity.bad_term"),
        (
            bodies.IdentitySetRoleTerm("web1@acme", "host", TERM_MS_MAX, TERM_MS_MAX - 1),
            "ada@acme",
            "ledger.identity.bad_term",
        ),
        (bodies.IdentitySetRoleTerm("web1@acme", "host", None, None), "ada@acme", "ledger.identity.term_unchanged"),
        (
            bodies.IdentitySetRoleTerm("ada@acme", "administrator", None, TERM_MS_MAX),
            "ada@acme",
            "ledger.identity.last_administrator",
        ),
    ],
)
def test_what_is_refused(chain: Chain, body: bodies.Body, by: str, code: str) -> None:
    assert chain.refused(body, by) == code


def test_a_revoked_identity_and_an_equal_term_are_refused(chain: Chain) -> None:
    bind(chain, "web1@acme", "host", 1, None)
    same = bodies.IdentitySetRoleTerm("web1@acme", "host", 1, None)
    assert chain.refused(same, "ada@acme") == "ledger.identity.term_unchanged"
    chain.submit(bodies.IdentityRevoke("web1@acme", None, chain.height, "gone"), by="ada@acme")
    other = bodies.IdentitySetRoleTerm("web1@acme", "host", 2, None)
    assert chain.refused(other, "ada@acme") == "ledger.identity.revoked"


def test_administrator_for_a_time_acts_and_is_none_that_the_organisation_can_rely_on(chain: Chain) -> None:
    chain.register("eve@acme", "administrator")
    bind(chain, "eve@acme", "administrator", None, next_ms(chain) + 2 * BLOCK_MS)
    organisation = chain.view.organisation("acme")
    assert organisation is not None
    assert organisation.administrators == ("ada@acme",)
    revoke = bodies.IdentityRevoke("ada@acme", None, chain.height, "gone")
    assert chain.refused(revoke, "eve@acme") == "ledger.identity.last_administrator"
    chain.submit(bodies.IdentitySuspend("web1@acme", "on call"), by="eve@acme")
    chain.submit(bodies.ProposalCreate(SetThreshold("unanimous"), ""), by="eve@acme")
    chain.commit()
    assert chain.refused(bodies.IdentityResume("web1@acme"), "eve@acme") == "ledger.tx.not_authorised"
    bind(chain, "eve@acme", "administrator", None, None)
    organisation = chain.view.organisation("acme")
    assert organisation is not None
    assert organisation.administrators == ("ada@acme", "eve@acme")
    chain.submit(bodies.IdentityResume("web1@acme"), by="eve@acme")


def test_record_without_terms_has_the_bytes_of_before(chain: Chain) -> None:
    bare = identity_of(chain, "web1@acme")
    values = decode_untrusted(bare.encode(), bytes_max=4096)
    assert isinstance(values, tuple)
    assert (values[0], len(values)) == (1, 9)
    bound = replace(bare, role_terms=(("host", 1, None),))
    values = decode_untrusted(bound.encode(), bytes_max=4096)
    assert isinstance(values, tuple)
    assert (values[0], len(values)) == (2, 10)
    assert (IdentityRecord.decode(bare.encode()), IdentityRecord.decode(bound.encode())) == (bare, bound)


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: (2, *values[1:]),
        lambda values: (1, *values[1:], (("host", 1, None),)),
        lambda values: (2, *values[1:], ()),
        lambda values: (3, *values[1:]),
        lambda values: (),
    ],
    ids=["version of terms without them", "terms in version 1", "no terms in version 2", "version 3", "empty"],
)
def test_stored_record_of_another_shape_is_corruption(chain: Chain, damage: object) -> None:
    values = decode_untrusted(identity_of(chain, "web1@acme").encode(), bytes_max=4096)
    assert callable(damage)
    with pytest.raises(LedgerCorruptionError) as caught:
        IdentityRecord.decode(encode(damage(values)))
    assert caught.value.code == "ledger.corruption.record"


def test_terms_stand_under_the_state_root_and_in_the_history_of_the_identity(chain: Chain) -> None:
    before = chain.height
    bind(chain, "web1@acme", "host", 1, None)
    assert chain.view.identity_at("web1@acme", before) == replace(
        identity_of(chain, "web1@acme"), role_terms=(), changed_height=identity_of(chain, "web1@acme").registered_height
    )
    assert chain.view.identity_at("web1@acme", before + 1) == identity_of(chain, "web1@acme")
    (entry,) = [each for each in chain.view.history(identity_key("web1@acme")) if each.height > before]
    assert entry.height == before + 1


@pytest.mark.parametrize(
    ("values", "code"),
    [
        (("web1@acme", "king", 1, None), "ledger.identity.bad_role"),
        (("web1@acme", "host", -1, None), "ledger.tx.malformed"),
        (("web1@acme", "host", None, TERM_MS_MAX + 1), "ledger.tx.malformed"),
        (("web1@acme", "host", "1", None), "ledger.tx.malformed"),
        (("web1@acme", "host", 1), "ledger.tx.malformed"),
    ],
)
def test_bodies_out_of_form_are_refused(chain: Chain, values: tuple[object, ...], code: str) -> None:
    raw = chain.sign(bodies.IdentitySetRoleTerm("web1@acme", "host", 1, None), by="ada@acme").raw
    whole = decode_untrusted(raw, bytes_max=4096)
    assert isinstance(whole, tuple)
    with pytest.raises(TransactionRefusedError) as caught:
        decode_transaction_untrusted(encode((*whole[:3], values, *whole[4:])))  # type: ignore[arg-type]
    assert isinstance(caught.value, RejectedError)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "options",
    [(), ("--unlimited", "--until", "2027-01-01T00:00:00Z")],
)
def test_command_wants_bounds_or_none(options: tuple[str, ...]) -> None:
    command = ("identity", "set-term", "eve@acme", "--role", "host", "--key", "/nowhere", *options)
    assert refused(*command, code=2) == "cli.usage"


def test_command_refuses_times_of_another_form() -> None:
    command = ("identity", "set-term", "eve@acme", "--role", "host", "--key", "/nowhere", "--until", "tomorrow")
    assert refused(*command) == "provenance.field.timestamp"
