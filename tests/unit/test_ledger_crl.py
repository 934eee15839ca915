"""Revocation lists on the ledger: read strictly, verified with a CA of the organisation, and what they take back is out for ever."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from ledger import bodies
from ledger.identity_past import identity_then
from ledger.keyspace import Table, revocations_key
from ledger.limits import REVOKED_SERIALS_MAX
from ledger.records import Revocations
from tests.testkit import der
from tests.testkit.certificates import CA_KEY, make_chain
from tests.testkit.ledger import Chain, key_of, make_genesis
from tests.testkit.wire_certificates import ca, ed25519_key
from wire.errors import RejectedError
from wire.hashing import sha256
from wire.limits import X509_CRL_BYTES_MAX, X509_CRL_ENTRIES_MAX
from wire.x509_crl import CRL_NUMBER_MAX, serial_bytes, subject_bytes, verify_revocation_list

KEY = key_of("x@acme")
CHAIN = make_chain(KEY)
CA = CHAIN[1]
KEY_ID = KEY.public_key.key_id
MADE = datetime(2026, 11, 22, 5, tzinfo=UTC)
NAME = x509.load_der_x509_certificate(CA).subject
REPORT = bodies.HostReport("inventory", "site", b"{}")


def make_crl(
    serials: Sequence[int] = (2,),
    number: int | None = 1,
    *,
    key: Ed25519PrivateKey = CA_KEY,
    issuer: x509.Name = NAME,
    made: datetime = MADE,
    until: datetime | None = MADE + timedelta(days=7),
    reason: x509.ReasonFlags | None = None,
    more: Sequence[tuple[x509.ExtensionType, bool]] = (),
) -> bytes:
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer).last_update(made)
    builder = builder.next_update(made + timedelta(days=7) if until is None else until)
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for extension, critical in more:
        builder = builder.add_extension(extension, critical=critical)
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(made)
        if reason is not None:
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key, None).public_bytes(Encoding.DER)


@pytest.fixture
def chain() -> Chain:
    """Acme with a CA, under which the host x@acme has its certificate, serial number 2."""
    chain = Chain(make_genesis(ca_certificates=(CA,)))
    register = bodies.IdentityRegister("x@acme", "X", ("host",), KEY.public_key.spki, CHAIN)
    chain.submit(register, by="ada@acme")
    chain.register("y@acme", "host")
    return chain


def publish(crl: bytes, *key_ids: bytes) -> bodies.IdentityPublishCrl:
    return bodies.IdentityPublishCrl("acme", crl, tuple(sorted(key_ids)))


SERIAL = 0x0123456789


@pytest.mark.parametrize("serial", [b"\x01" * 25, b"\x81" * 20, b"\xff"])
def test_a_serial_number_out_of_range_is_refused_and_breaks_nothing(chain: Chain, serial: bytes) -> None:
    """Found by the fuzzer: it was an `OverflowError` at execution, on every node."""
    body = x509.load_der_x509_crl(make_crl((SERIAL,))).tbs_certlist_bytes
    crl = der.sign(der.replace_integer(body, SERIAL, serial), CA_KEY)
    built = chain.build(chain.sign(publish(crl), "ada@acme"))
    assert [error.code for _, error in built.refused] == ["wire.x509.crl_malformed"]


def test_a_list_of_another_version_is_refused_before_its_signature_is_looked_at(chain: Chain) -> None:
    """Found by the fuzzer: the library raises `InvalidVersion`, which is no `ValueError`, and anybody registered can send such a list."""
    body = x509.load_der_x509_crl(make_crl((SERIAL,), 3)).tbs_certlist_bytes
    crl = der.encode(
        der.SEQUENCE, der.replace_integer(body, 1, b"\0") + der.ED25519 + der.encode(der.BIT_STRING, bytes(65))
    )
    built = chain.build(chain.sign(publish(crl), "ada@acme"))
    assert [error.code for _, error in built.refused] == ["wire.x509.crl_malformed"]


@pytest.mark.parametrize(("number", "refused"), [(CRL_NUMBER_MAX, False), (CRL_NUMBER_MAX + 1, True), (1 << 100, True)])
def test_a_number_that_no_record_can_hold_is_refused(chain: Chain, number: int, refused: bool) -> None:
    """Found by the fuzzer: the record had no encoding, after the transaction had been accepted."""
    built = chain.build(chain.sign(publish(make_crl((7,), number)), "ada@acme"))
    assert [error.code for _, error in built.refused] == ["wire.x509.crl_malformed"] * refused


def test_a_certificate_with_a_serial_number_out_of_range_is_named_by_no_list() -> None:
    body = x509.load_der_x509_certificate(CA).tbs_certificate_bytes
    assert serial_bytes(der.sign(der.replace_integer(body, 1, b"\x01" * 25), CA_KEY)) == b""
    assert serial_bytes(CA) == bytes(19) + b"\x01"


def test_list_ends_the_key_from_its_own_height_on(chain: Chain) -> None:
    chain.submit(REPORT, by="x@acme")
    before = chain.height
    chain.submit(publish(make_crl(), KEY_ID), by="y@acme")
    key = chain.view.key(KEY_ID)
    assert key is not None
    assert (key.last_valid_height, key.reason) == (chain.height, "its CA has revoked the certificate")
    assert chain.refused(REPORT, "x@acme") == "ledger.tx.key_not_valid"
    record = chain.view.revocations("acme", sha256(subject_bytes(CA)))
    assert record is not None
    assert (record.number, record.recorded_height, record.serials) == (1, chain.height, ((2).to_bytes(20, "big"),))
    then = identity_then(chain.view, "x@acme", before)
    assert then is not None
    assert then[1][0].last_valid_height is None
    now = identity_then(chain.view, "x@acme", chain.height)
    assert now is not None
    assert now[1][0] == key


def test_revoked_certificate_comes_in_no_more(chain: Chain) -> None:
    # Everything the tests' PKI makes has serial number 2: another key's certificate is as revoked.
    chain.submit(publish(make_crl()), by="y@acme")
    other = key_of("z@acme")
    register = bodies.IdentityRegister("z@acme", "Z", ("host",), other.public_key.spki, make_chain(other))
    assert chain.refused(register, "ada@acme") == "ledger.identity.certificate_revoked"
    new = key_of("y 2")
    old_id = key_of("y@acme").public_key.key_id
    rotate = bodies.IdentityRotateKey("y@acme", old_id, new.public_key.spki, make_chain(new))
    assert chain.refused(rotate, "y@acme") == "ledger.identity.certificate_revoked"


def test_what_was_taken_back_once_stays_so(chain: Chain) -> None:
    chain.submit(publish(make_crl()), by="y@acme")
    chain.submit(publish(make_crl((7,), number=2)), by="y@acme")
    record = chain.view.revocations("acme", sha256(subject_bytes(CA)))
    assert record is not None
    assert [int.from_bytes(serial) for serial in record.serials] == [2, 7]
    chain.submit(publish(make_crl((), number=3), KEY_ID), by="y@acme")
    key = chain.view.key(KEY_ID)
    assert key is not None
    assert key.last_valid_height == chain.height


@pytest.mark.parametrize("reason", [x509.ReasonFlags.certificate_hold, x509.ReasonFlags.remove_from_crl])
def test_what_is_only_on_hold_is_not_revoked(chain: Chain, reason: x509.ReasonFlags) -> None:
    crl = make_crl(reason=reason)
    assert chain.refused(publish(crl, KEY_ID), "y@acme") == "ledger.identity.certificate_not_revoked"
    assert verify_revocation_list(make_crl(reason=x509.ReasonFlags.key_compromise), CA).serials != ()


OTHER_CA = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.mark.parametrize(
    ("body", "by", "code"),
    [
        (publish(make_crl(), KEY_ID), "ben@beta", "ledger.tx.not_authorised"),
        (publish(make_crl(key=OTHER_CA)), "y@acme", "ledger.identity.unknown_issuer"),
        (
            publish(make_crl(issuer=x509.load_der_x509_certificate(CHAIN[0]).subject)),
            "y@acme",
            "ledger.identity.unknown_issuer",
        ),
        (bodies.IdentityPublishCrl("beta", make_crl(), ()), "ben@beta", "ledger.identity.unknown_issuer"),
        (publish(make_crl(until=MADE + timedelta(minutes=1))), "y@acme", "ledger.identity.crl_time"),
        (publish(make_crl(), bytes(32)), "y@acme", "ledger.identity.key_not_found"),
        (publish(make_crl(), key_of("ben@beta").public_key.key_id), "y@acme", "ledger.identity.key_not_found"),
        (
            publish(make_crl(), key_of("y@acme").public_key.key_id),
            "y@acme",
            "ledger.identity.certificate_not_revoked",
        ),
        (publish(make_crl((3,)), KEY_ID), "y@acme", "ledger.identity.certificate_not_revoked"),
        (publish(b"nothing"), "y@acme", "wire.x509.crl_malformed"),
        (publish(make_crl(number=None)), "y@acme", "wire.x509.crl_malformed"),
        (publish(make_crl(more=((x509.DeltaCRLIndicator(1), True),))), "y@acme", "wire.x509.critical_extension"),
        (publish(make_crl(more=((x509.DeltaCRLIndicator(1), False),))), "y@acme", "wire.x509.critical_extension"),
    ],
)
def test_what_is_refused(chain: Chain, body: bodies.Body, by: str, code: str) -> None:
    assert chain.refused(body, by) == code


def test_list_that_is_younger_than_the_tip_is_taken(chain: Chain) -> None:
    chain.submit(publish(make_crl(made=MADE + timedelta(days=1)), KEY_ID), by="y@acme")


def test_older_lists_and_ended_keys_are_refused(chain: Chain) -> None:
    chain.submit(publish(make_crl(number=5), KEY_ID), by="y@acme")
    for number in (4, 5):
        assert chain.refused(publish(make_crl(number=number)), "y@acme") == "ledger.identity.crl_not_newer"
    assert chain.refused(publish(make_crl(number=6), KEY_ID), "y@acme") == "ledger.identity.already_revoked"


def test_last_administrator_is_not_taken_by_a_list(chain: Chain) -> None:
    boss = key_of("boss")
    rotate = bodies.IdentityRotateKey(
        "ada@acme", key_of("ada@acme").public_key.key_id, boss.public_key.spki, make_chain(boss)
    )
    chain.submit(rotate, by="ada@acme")
    chain.commit()
    body = publish(make_crl(), boss.public_key.key_id)
    # Its key counts in the next block still; from there on nobody would be left.
    assert chain.refused(body, "y@acme") == "ledger.identity.too_few_administrators"


def test_memory_of_a_ca_is_bounded(chain: Chain) -> None:
    issuer = sha256(subject_bytes(CA))
    serials = tuple(sorted((number + 10).to_bytes(20, "big") for number in range(REVOKED_SERIALS_MAX)))
    full = Revocations("acme", issuer, 1, 0, 1, 1, serials)
    chain.store.apply({(Table.STATE, revocations_key("acme", issuer)): full.encode()})
    body = publish(make_crl(number=2))
    with pytest.raises(RejectedError) as caught:
        chain.submit(body, by="y@acme")
    assert caught.value.code == "ledger.identity.too_many_revocations"


def crl_code(der: bytes, authority: bytes = CA) -> str:
    with pytest.raises(RejectedError) as caught:
        verify_revocation_list(der, authority)
    return caught.value.code


def test_lists_beyond_the_limits_are_refused() -> None:
    assert crl_code(bytes(X509_CRL_BYTES_MAX + 1)) == "wire.x509.crl_length"
    assert crl_code(make_crl(range(1, X509_CRL_ENTRIES_MAX + 2))) == "wire.x509.crl_malformed"
    assert len(verify_revocation_list(make_crl(range(1, 101)), CA).serials) == 100


def test_ca_that_may_not_sign_lists_is_refused() -> None:
    key = ed25519_key(5)
    authority = ca("Root", key, "Root", key, usage=("key_cert_sign",))
    crl = make_crl(key=key, issuer=x509.load_der_x509_certificate(authority).subject)  # type: ignore[arg-type]
    assert crl_code(crl, authority) == "wire.x509.crl_usage"


def test_every_changed_byte_of_a_list_is_refused() -> None:
    good = make_crl()
    for index in range(0, len(good), 3):
        changed = good[:index] + bytes((good[index] ^ 1,)) + good[index + 1 :]
        with pytest.raises(RejectedError):
            verify_revocation_list(changed, CA)
