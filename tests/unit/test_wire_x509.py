"""X.509 chains: each rule of the six broken once, and what stays within them."""

from __future__ import annotations

import datetime
from itertools import count

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.testkit.wire_certificates import AT, NOT_AFTER, NOT_BEFORE, ca, ed25519_key, leaf, p256_key
from wire.errors import InvalidCertificateError, MalformedError, RejectedError
from wire.keys import Algorithm
from wire.limits import X509_CERTIFICATE_BYTES_MAX, X509_CHAIN_LENGTH_MAX
from wire.x509 import anchor_untrusted, certificate_chain_untrusted, verify_chain

ROOT_KEY, MIDDLE_KEY, LEAF_KEY = ed25519_key(1), p256_key(2), p256_key(3)
ROOT = ca("Root", ROOT_KEY, "Root", ROOT_KEY)
MIDDLE = ca("Middle", MIDDLE_KEY, "Root", ROOT_KEY, path_length=0)
LEAF = leaf(LEAF_KEY, "Middle", MIDDLE_KEY)
DIRECT = leaf(LEAF_KEY, "Root", ROOT_KEY)
P384 = ec.derive_private_key(9, ec.SECP384R1())
START, END = int(NOT_BEFORE.timestamp()), int(NOT_AFTER.timestamp())


def code_of(ders: list[bytes], anchors: list[bytes], at: int = AT) -> str:
    chain = certificate_chain_untrusted(ders)
    with pytest.raises(RejectedError) as caught:
        verify_chain(chain, anchors, at)
    return caught.value.code


@pytest.mark.parametrize(
    ("ders", "anchors"),
    [
        ([DIRECT], [ROOT]),
        ([DIRECT, ROOT], [ROOT]),
        ([LEAF, MIDDLE], [ROOT]),
        ([LEAF, MIDDLE, ROOT], [ROOT]),
        ([LEAF], [MIDDLE]),
        ([LEAF, MIDDLE], [MIDDLE]),
        ([LEAF, MIDDLE], [ca("Other", ed25519_key(9), "Other", ed25519_key(9)), ROOT]),
        # Two anchors of one name: the one that signed counts.
        ([DIRECT], [ca("Root", ed25519_key(9), "Root", ed25519_key(9)), ROOT]),
        ([leaf(ed25519_key(3), "Root", ROOT_KEY, constraints=None)], [ROOT]),
        (
            [
                leaf(
                    LEAF_KEY,
                    "Root",
                    ROOT_KEY,
                    purposes=(ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.CODE_SIGNING),
                )
            ],
            [ROOT],
        ),
        (
            [
                leaf(
                    LEAF_KEY,
                    "Root",
                    ROOT_KEY,
                    more=((x509.SubjectAlternativeName([x509.RFC822Name("a@acme.example")]), True),),
                )
            ],
            [ROOT],
        ),
        (
            [
                leaf(
                    LEAF_KEY,
                    "Root",
                    ROOT_KEY,
                    more=((x509.NameConstraints([x509.DNSName("acme.example")], None), False),),
                )
            ],
            [ROOT],
        ),
    ],
    ids=count(),
)
def test_chain_that_leads_to_an_anchor_is_accepted(ders: list[bytes], anchors: list[bytes]) -> None:
    verify_chain(certificate_chain_untrusted(ders), anchors, AT)


def test_chain_carries_what_the_leaf_says() -> None:
    chain = certificate_chain_untrusted([LEAF, MIDDLE])
    assert chain.subject == "CN=Alice,O=ACME"
    assert chain.issuer == "CN=Middle,O=ACME"
    assert chain.serial == 7
    assert (chain.not_before, chain.not_after) == (START, END)
    assert chain.public_key.algorithm is Algorithm.P256
    assert chain.ders == (LEAF, MIDDLE)


def test_anchor_carries_what_the_certificate_says() -> None:
    anchor = anchor_untrusted(ROOT)
    assert (anchor.subject, anchor.serial, anchor.not_before, anchor.not_after, anchor.der) == (
        "CN=Root,O=ACME",
        7,
        START,
        END,
        ROOT,
    )
    assert anchor.public_key.algorithm is Algorithm.ED25519


@pytest.mark.parametrize("at", [START, END])
def test_validity_includes_both_ends(at: int) -> None:
    verify_chain(certificate_chain_untrusted([LEAF, MIDDLE]), [ROOT], at)


@pytest.mark.parametrize(
    ("at", "code"), [(START - 1, "not_yet_valid"), (END + 1, "expired"), (0, "not_yet_valid"), (2**40, "expired")]
)
def test_time_outside_validity_is_refused(at: int, code: str) -> None:
    assert code_of([LEAF, MIDDLE], [ROOT], at) == f"wire.x509.{code}"


def test_a_renewed_anchor_counts_beside_the_one_that_has_expired() -> None:
    """A CA that renews its certificate keeps name and key: which of its certificates was trusted first must not matter."""
    ended = ca("Root", ROOT_KEY, "Root", ROOT_KEY, not_after=NOT_BEFORE + datetime.timedelta(days=1))
    renewed = ROOT
    for anchors in ([ended, renewed], [renewed, ended]):
        verify_chain(certificate_chain_untrusted([DIRECT]), anchors, AT)
        # One that is part of the chain itself is judged like every other certificate of it.
        assert code_of([DIRECT, ended], anchors) == "wire.x509.expired"
    assert code_of([DIRECT], [ended]) == "wire.x509.expired"
    assert code_of([DIRECT], [ended, ended]) == "wire.x509.expired"


def test_every_certificate_of_the_path_must_be_valid_at_the_time() -> None:
    day = datetime.timedelta(days=1)
    early, late = {"not_after": NOT_BEFORE + day}, {"not_before": NOT_AFTER - day}
    for times, code in ((early, "wire.x509.expired"), (late, "wire.x509.not_yet_valid")):
        assert code_of([leaf(LEAF_KEY, "Middle", MIDDLE_KEY, **times), MIDDLE], [ROOT]) == code
        assert code_of([LEAF, ca("Middle", MIDDLE_KEY, "Root", ROOT_KEY, **times)], [ROOT]) == code
        assert code_of([LEAF, MIDDLE], [ca("Root", ROOT_KEY, "Root", ROOT_KEY, **times)]) == code


def middle(**options: object) -> bytes:
    return ca("Middle", MIDDLE_KEY, "Root", ROOT_KEY, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ders", "anchors", "code"),
    [
        # Nothing that is trusted stands behind it
        ([LEAF, MIDDLE], [], "no_anchor"),
        ([LEAF], [ROOT], "no_anchor"),
        ([DIRECT], [ca("Root", ed25519_key(9), "Root", ed25519_key(9))], "no_anchor"),
        (
            [ca("Root", ROOT_KEY, "Root", ROOT_KEY, constraints=False, usage=("digital_signature",))],
            [ROOT],
            "extended_key_usage",
        ),
        ([leaf(LEAF_KEY, "Alice", LEAF_KEY)], [leaf(LEAF_KEY, "Alice", LEAF_KEY)], "not_ca"),
        # The links between certificates
        ([LEAF, ROOT], [ROOT], "issuer"),
        ([DIRECT, MIDDLE], [ROOT], "issuer"),
        ([leaf(LEAF_KEY, "Middle", ed25519_key(9)), MIDDLE], [ROOT], "signature"),
        ([LEAF, ca("Middle", p256_key(8), "Root", ROOT_KEY)], [ROOT], "signature"),
        # The leaf
        ([leaf(LEAF_KEY, "Root", ROOT_KEY, constraints=True)], [ROOT], "leaf_is_ca"),
        ([ROOT], [ROOT], "leaf_is_ca"),
        ([leaf(LEAF_KEY, "Root", ROOT_KEY, usage=None)], [ROOT], "key_usage"),
        ([leaf(LEAF_KEY, "Root", ROOT_KEY, usage=("key_agreement",))], [ROOT], "key_usage"),
        ([leaf(LEAF_KEY, "Root", ROOT_KEY, purposes=None)], [ROOT], "extended_key_usage"),
        ([leaf(LEAF_KEY, "Root", ROOT_KEY, purposes=(ExtendedKeyUsageOID.SERVER_AUTH,))], [ROOT], "extended_key_usage"),
        (
            [leaf(LEAF_KEY, "Root", ROOT_KEY, purposes=(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,))],
            [ROOT],
            "extended_key_usage",
        ),
        # The issuers
        ([LEAF, middle(constraints=False)], [ROOT], "not_ca"),
        ([LEAF, middle(constraints=None)], [ROOT], "not_ca"),
        ([LEAF, middle(usage=None)], [ROOT], "key_usage"),
        ([LEAF, middle(usage=("digital_signature", "crl_sign"))], [ROOT], "key_usage"),
        ([LEAF], [middle(constraints=False)], "not_ca"),
        ([DIRECT], [ca("Root", ROOT_KEY, "Root", ROOT_KEY, usage=())], "key_usage"),
        ([LEAF, MIDDLE], [ca("Root", ROOT_KEY, "Root", ROOT_KEY, path_length=0)], "path_length"),
        # A damaged anchor
        ([LEAF, MIDDLE], [ROOT[:-1]], "malformed"),
    ],
    ids=count(),
)
def test_chain_that_breaks_a_rule_is_refused(ders: list[bytes], anchors: list[bytes], code: str) -> None:
    assert code_of(ders, anchors) == f"wire.x509.{code}"


def with_uris(*uris: str) -> bytes:
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
    return leaf(LEAF_KEY, "Root", ROOT_KEY, more=((names, False),))


def test_did_key_of_a_leaf_is_its_own() -> None:
    own = certificate_chain_untrusted([DIRECT]).public_key.did
    other = certificate_chain_untrusted([leaf(ed25519_key(7), "Root", ROOT_KEY)]).public_key.did
    assert own != other
    for uris in ((own,), (own, "https://acme.example/alice"), ("did:web:acme.example",)):
        verify_chain(certificate_chain_untrusted([with_uris(*uris)]), [ROOT], AT)
    for uris in ((other,), (own, other), (f"{own}#{own[8:]}",), ("did:key:",)):
        assert code_of([with_uris(*uris)], [ROOT]) == "wire.x509.subject_did"


def test_path_length_counts_the_cas_below() -> None:
    keys = [ed25519_key(10 + index) for index in range(5)]
    names = [f"CA {index}" for index in range(5)]

    def path(limits: list[int | None]) -> list[bytes]:
        made = [ca(names[0], keys[0], names[0], keys[0], path_length=limits[0])]
        made += [ca(names[i], keys[i], names[i - 1], keys[i - 1], path_length=limits[i]) for i in range(1, 5)]
        return [leaf(LEAF_KEY, names[4], keys[4]), *reversed(made)]

    for limits in ([None] * 5, [4, 3, 2, 1, 0], [9, None, 2, None, 0]):
        ders = path(limits)
        verify_chain(certificate_chain_untrusted(ders), [ders[-1]], AT)
        verify_chain(certificate_chain_untrusted(ders[:-1]), [ders[-1]], AT)
    for place in range(4):
        limits = [None] * 5
        limits[place] = 3 - place
        ders = path(limits)
        assert code_of(ders, [ders[-1]]) == "wire.x509.path_length"


RSA = rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    ("ders", "code"),
    [
        ([], "wire.x509.length"),
        ([ROOT] * (X509_CHAIN_LENGTH_MAX + 1), "wire.x509.length"),
        ([LEAF, bytes(X509_CERTIFICATE_BYTES_MAX + 1)], "wire.x509.length"),
        ([b""], "wire.x509.malformed"),
        ([b"\x30\x00"], "wire.x509.malformed"),
        ([LEAF[:-1]], "wire.x509.malformed"),
        ([LEAF + b"\x00"], "wire.x509.malformed"),
        ([LEAF, b"-----BEGIN CERTIFICATE-----"], "wire.x509.malformed"),
        ([leaf(RSA, "Root", ROOT_KEY)], "wire.key.spki"),
        ([leaf(P384, "Root", ROOT_KEY)], "wire.key.spki"),
        ([leaf(LEAF_KEY, "Root", RSA)], "wire.x509.algorithm"),
        ([leaf(LEAF_KEY, "Root", p256_key(5), hash_algorithm=hashes.SHA384())], "wire.x509.algorithm"),
        # ECDSA with SHA-256 by a key of another curve: its own certificate is refused.
        ([leaf(LEAF_KEY, "CA", P384), ca("CA", P384, "CA", P384)], "wire.key.spki"),
        (
            [
                leaf(
                    LEAF_KEY,
                    "Root",
                    ROOT_KEY,
                    more=((x509.NameConstraints([x509.DNSName("acme.example")], None), True),),
                )
            ],
            "wire.x509.critical_extension",
        ),
        (
            [LEAF, middle(more=((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),))],
            "wire.x509.critical_extension",
        ),
    ],
    ids=count(),
)
def test_certificate_of_wrong_form_is_refused(ders: list[bytes], code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        certificate_chain_untrusted(ders)
    assert caught.value.code == code


def test_small_order_key_in_a_certificate_is_refused() -> None:
    raw = ed25519_key(3).public_key().public_bytes_raw()
    der = leaf(ed25519_key(3), "Root", ROOT_KEY).replace(raw, (1).to_bytes(32, "little"))
    with pytest.raises(MalformedError) as caught:
        certificate_chain_untrusted([der])
    assert caught.value.code == "wire.key.small_order"


@pytest.mark.parametrize(
    ("der", "code"), [(DIRECT, "not_ca"), (middle(usage=("crl_sign",)), "key_usage")], ids=["leaf", "no keyCertSign"]
)
def test_certificate_that_may_not_issue_is_no_anchor(der: bytes, code: str) -> None:
    with pytest.raises(InvalidCertificateError) as caught:
        anchor_untrusted(der)
    assert caught.value.code == f"wire.x509.{code}"


def test_refusal_names_the_certificate() -> None:
    chain = certificate_chain_untrusted([DIRECT])
    with pytest.raises(
        InvalidCertificateError, match=r"the certificate of 'CN=Alice,O=ACME' was valid until \d+"
    ) as caught:
        verify_chain(chain, [ROOT], END + 1)
    assert caught.value.details == {"serial": "7"}


def test_every_changed_byte_of_a_leaf_is_refused() -> None:
    for index in range(len(DIRECT)):
        changed = DIRECT[:index] + bytes([DIRECT[index] ^ 1]) + DIRECT[index + 1 :]
        with pytest.raises(RejectedError):
            verify_chain(certificate_chain_untrusted([changed]), [ROOT], AT)
