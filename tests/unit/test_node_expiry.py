"""Trap 26: what expires stops nobody, governance replaces it, and nodes warn long before."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from ledger import actions, bodies
from ledger.state import StateView
from node.expiry import (
    CHECK_S,
    LOOK_S,
    NEVER_DAYS,
    WARN_DAYS,
    Certificate,
    ExpiryWatch,
    check_expiry,
    find_certificates,
)
from node.telemetry import Metrics
from tests.testkit.certificates import NOT_AFTER, make_chain
from tests.testkit.ledger import Chain, key_of, make_genesis
from wire.hashing import sha256

END_MS = int(NOT_AFTER.timestamp() * 1000)
DAY_MS = 24 * 3600 * 1000
YEAR_2031_MS = 1_924_992_000_000


def with_certificate() -> tuple[Chain, bodies.IdentityRegister]:
    """Return a chain whose first organisation has a CA, and a registration with a chain to it."""
    key = key_of("x@acme")
    leaf, authority = make_chain(key)
    body = bodies.IdentityRegister("x@acme", "X", ("developer",), key.public_key.spki, (leaf, authority))
    return Chain(make_genesis(ca_certificates=[authority])), body


def test_trap_26_who_is_registered_acts_on_when_its_certificates_have_expired() -> None:
    # Protected by where `verify_chain` stands: in the rule that registers a key, and not in `Execution.check`.
    chain, body = with_certificate()
    chain.submit(replace(body, roles=("administrator", "developer")), by="ada@acme")
    built = chain.build(
        chain.sign(bodies.ProposalCreate(actions.SetPolicy("", ()), "x"), "x@acme"), time_ms=YEAR_2031_MS
    )
    assert built.refused == ()
    assert len(built.block.transactions) == 1


def test_trap_26_with_everything_expired_somebody_is_elected_and_the_authority_is_replaced() -> None:
    """Nothing in elections, certificates of blocks, votes or actions asks an X.509 certificate for its time."""
    chain, body = with_certificate()
    chain.submit(replace(body, roles=("administrator", "developer")), by="ada@acme")
    (expired,) = chain.genesis.organisations[0].ca_certificates
    leaf, successor = make_chain(key_of("y@acme"), not_after=NOT_AFTER + timedelta(days=3650))

    def say(what: bodies.Body, by: str) -> str:
        """Commit it in a block of after everything expired, by a leader who was elected then; return its id."""
        transaction = chain.sign(what, by)
        built = chain.build(transaction, time_ms=max(YEAR_2031_MS, chain.blocks[-1].header.time_ms))
        assert built.refused == ()
        chain.apply(built.block)
        return transaction.tx_id.hex()

    chain.elect(2)
    for action in (actions.AddCaCertificate("acme", successor), actions.RemoveCaCertificate("acme", sha256(expired))):
        proposal = bytes.fromhex(say(bodies.ProposalCreate(action, ""), "x@acme"))
        for voter in ("x@acme", "ben@beta"):
            say(bodies.ProposalVote(proposal, True), voter)
    organisation = chain.view.organisation("acme")
    assert organisation is not None
    assert organisation.ca_certificates == (successor,)
    registered = bodies.IdentityRegister(
        "y@acme", "Y", ("developer",), key_of("y@acme").public_key.spki, (leaf, successor)
    )
    say(registered, "x@acme")
    assert chain.view.header.term == chain.term
    assert chain.view.header.time_ms >= YEAR_2031_MS


def test_trap_26_no_record_of_a_key_or_a_validator_can_expire() -> None:
    # A height takes a key's word away, by a transaction that says so; nothing in these records is a time.
    chain, body = with_certificate()
    chain.submit(body, by="ada@acme")
    view = chain.view
    key = view.key(key_of("x@acme").public_key.key_id)
    assert key is not None
    assert key.is_valid_at(2**50)
    for validator in view.validators().validators:
        assert not any("expir" in name or "until" in name or "after" in name for name in type(validator).__slots__)


@pytest.mark.parametrize(
    ("days", "warned"), [(WARN_DAYS + 1, False), (WARN_DAYS, False), (WARN_DAYS - 1, True), (0, True), (-1, True)]
)
def test_trap_26_nodes_warn_long_before(days: int, warned: bool) -> None:
    # Protected by the comparison with `WARN_DAYS` in `check_expiry`.
    chain, _ = with_certificate()
    with capture_logs() as logs:
        assert check_expiry(tuple(find_certificates(chain.view)), END_MS - days * DAY_MS) == days
    assert [log["event"] for log in logs] == (
        []
        if not warned
        else ["a certificate expires soon" if days >= 0 else "a certificate authority's certificate has expired"]
    )
    if warned:
        assert (logs[0]["organisation"], logs[0]["days_left"], logs[0]["log_level"]) == ("acme", days, "warning")


def test_without_certificates_there_is_nothing_to_say() -> None:
    with capture_logs() as logs:
        assert check_expiry(tuple(find_certificates(Chain(make_genesis()).view)), END_MS * 2) == NEVER_DAYS
    assert logs == []


def test_the_chain_of_a_key_in_use_is_told_and_that_of_a_retired_one_is_not() -> None:
    chain, body = with_certificate()
    chain.submit(body, by="ada@acme")
    authority, identity = find_certificates(chain.view)
    assert (authority.kind, authority.organisation, authority.identity, authority.key_id) == (
        "authority", "acme", None, None,
    )  # fmt: skip
    key_id = key_of("x@acme").public_key.key_id
    assert (identity.kind, identity.identity, identity.key_id) == ("identity", "x@acme", key_id)
    assert identity.not_after_ms == authority.not_after_ms == END_MS
    assert identity.document(END_MS - DAY_MS)["days_left"] == 1
    with capture_logs() as logs:
        assert check_expiry([identity], END_MS + 1) == NEVER_DAYS
    assert [(log["count"], log["identities"]) for log in logs] == [(1, ["x@acme (-1 days)"])]
    rotated = bodies.IdentityRotateKey("x@acme", key_id, key_of("next").public_key.spki)
    chain.submit(rotated, by="ada@acme")
    assert [each.kind for each in find_certificates(chain.view)] == ["authority"]


def test_the_chain_of_a_revoked_identity_is_not_told() -> None:
    chain, body = with_certificate()
    chain.submit(body, by="ada@acme")
    chain.submit(bodies.IdentityRevoke("x@acme", None, chain.height + 1, "left"), by="ada@acme")
    # Its key counts in the block of the revocation; nobody who is revoked needs another certificate.
    assert [each.kind for each in find_certificates(chain.view)] == ["authority"]


def test_a_certificate_that_cannot_be_read_any_more_ends_nothing() -> None:
    class Unread:
        def organisations(self) -> list[object]:
            organisation = Chain(make_genesis()).view.organisation("acme")
            assert organisation is not None
            return [replace(organisation, ca_certificates=(b"not a certificate",))]

        def keys(self) -> list[object]:
            key = Chain(make_genesis()).view.key(key_of("ada@acme").public_key.key_id)
            assert key is not None
            return [replace(key, certificate_chain=(b"not one either",))]

        def identity(self, identity_id: str) -> object:
            return Chain(make_genesis()).view.identity(identity_id)

        height = 0

    view: StateView = Unread()  # type: ignore[assignment]
    with capture_logs() as logs:
        assert check_expiry(tuple(find_certificates(view)), 0) == NEVER_DAYS
    assert [(log["event"], log["code"]) for log in logs] == [
        ("a certificate on the ledger cannot be read", "wire.x509.malformed")
    ] * 2


async def test_many_who_ask_at_once_cost_one_look(autojump_clock: MockClock) -> None:
    chain, _ = with_certificate()
    looks: list[float] = []

    async def find() -> tuple[Certificate, ...]:
        looks.append(trio.current_time())
        await trio.sleep(1)
        return tuple(find_certificates(chain.view))

    watch = ExpiryWatch(find=find, now_ms=lambda: 0, metrics=Metrics(), sleep=trio.sleep)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(watch.look)
    assert len(looks) == 1
    await trio.sleep(LOOK_S)
    (found,) = await watch.look()
    assert (len(looks), found.organisation) == (2, "acme")


async def test_it_is_looked_at_every_day(autojump_clock: MockClock) -> None:
    chain, body = with_certificate()
    chain.submit(body, by="ada@acme")
    metrics = Metrics()
    begun = trio.current_time()

    def now_ms() -> int:
        return END_MS - 100 * DAY_MS + int((trio.current_time() - begun) * 1000)

    async def find() -> tuple[Certificate, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(find_certificates(chain.view))

    watch = ExpiryWatch(find=find, now_ms=now_ms, metrics=metrics, sleep=trio.sleep)
    assert watch.document() == {"expiring": 0, "days_left": None}
    with trio.move_on_after(12 * CHECK_S + 1):
        with capture_logs() as logs:
            await watch.run()
    assert [log["days_left"] for log in logs if "days_left" in log] == [89, 88]
    assert [log["identities"] for log in logs if "count" in log] == [["x@acme (89 days)"], ["x@acme (88 days)"]]
    assert "patchwarden_certificate_days_left 88.0" in metrics.text()
    assert 'patchwarden_certificates_expiring{kind="authority"} 1.0' in metrics.text()
    assert 'patchwarden_certificates_expiring{kind="identity"} 1.0' in metrics.text()
    assert watch.document() == {"expiring": 2, "days_left": 87}
