"""`creator_identity`: the signing key follows from the field, in both kinds, and from nothing else."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from provenance.errors import InvalidMetadataError
from provenance.identity import CreatorIdentity, CreatorKind, decode_base64_untrusted, encode_base64
from tests.testkit.certificates import make_chain
from tests.testkit.patches import ALICE, BOB

DID = CreatorIdentity.from_key(ALICE.public_key, "Alice Example", "alice@acme.example")
X509 = CreatorIdentity.from_certificates(make_chain(ALICE), "Alice Example", "alice@acme.example")


def refusal(value: object) -> InvalidMetadataError:
    with pytest.raises(InvalidMetadataError) as caught:
        CreatorIdentity.from_json_untrusted(value)
    return caught.value


@pytest.mark.parametrize("identity", [DID, X509], ids=["did", "x509"])
def test_both_kinds_read_back_and_lead_to_the_signing_key(identity: CreatorIdentity) -> None:
    assert CreatorIdentity.from_json_untrusted(identity.to_json()) == identity
    assert identity.public_key() == ALICE.public_key


def test_a_p256_did_leads_to_its_key() -> None:
    assert CreatorIdentity.from_key(BOB.public_key, "Bob", "bob@beta.example").public_key() == BOB.public_key


def test_the_label_names_the_did_or_the_leaf_certificate() -> None:
    assert DID.label() == ALICE.public_key.did
    assert X509.label() == f"x509 certificate sha256:{hashlib.sha256(make_chain(ALICE)[0]).hexdigest()}"


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("Alice Example", "Alice Example <a@b>"),
        ("Example, Alice", '"Example, Alice" <a@b>'),
        ("Alice J. Example (Acme)", '"Alice J. Example (Acme)" <a@b>'),
        ("Zoë Müller", "Zoë Müller <a@b>"),
        ("O'Neil", "O'Neil <a@b>"),
    ],
)
def test_a_name_is_quoted_where_a_mail_reader_needs_it(name: str, header: str) -> None:
    assert CreatorIdentity.from_key(ALICE.public_key, name, "a@b").mail_address() == header


@pytest.mark.parametrize("name", ["a<b", "a>b", 'a"b', "a\\b", "a@b", "=?utf-8?q?x?=", "a =?b"])
def test_a_name_that_no_from_line_can_hold_is_refused(name: str) -> None:
    assert refusal({**DID.to_json(), "name": name}).code == "provenance.field.person_name"


@pytest.mark.parametrize("name", ["a\nContent-Type: text/plain", "a\rb", "a\u202eb", "\x7f", "a\u2066b"])
def test_control_and_bidirectional_characters_in_a_name_are_refused(name: str) -> None:
    assert refusal({**DID.to_json(), "name": name}).code == "provenance.field.characters"


@pytest.mark.parametrize(
    "email",
    [
        "alice",
        "@acme",
        "alice@",
        "a@b@c",
        "a b@c",
        "a@-b",
        "a@b-",
        "a@b..c",
        "a@b.",
        "ä@b",
        "a@ä",
        "=?u?q?x?=@b",
        "a@b>",
        "(a)@b",
    ],
)
def test_what_is_no_address_is_refused(email: str) -> None:
    assert refusal({**DID.to_json(), "email": email}).code == "provenance.field.email"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"kind": "web"}, "provenance.field.choice"),
        ({"kind": None}, "provenance.field.choice"),
        ({"certificate_chain": []}, "provenance.field.member_unknown"),
        ({"did": None}, "provenance.field.text"),
        ({"did": "x" * 129}, "provenance.field.length"),
        ({"name": "x" * 129}, "provenance.field.length"),
        ({"email": "x" * 250 + "@acme"}, "provenance.field.length"),
    ],
)
def test_a_field_outside_its_form_is_refused(changes: dict[str, Any], code: str) -> None:
    assert refusal({**DID.to_json(), **changes}).code == code


@pytest.mark.parametrize(
    ("chain", "code"),
    [
        ([], "provenance.field.length"),
        (["AAAA"] * 9, "provenance.field.length"),
        ("AAAA", "provenance.field.list"),
        ([7], "provenance.field.base64"),
        (["AAA"], "provenance.field.base64"),
        (["AAA=\n"], "provenance.field.base64"),
        (["AB=="], "provenance.field.base64"),
        (["____"], "provenance.field.base64"),
        (["ÄÄÄÄ"], "provenance.field.base64"),
        (["A" * 30_000], "provenance.field.length"),
    ],
)
def test_a_chain_that_is_no_list_of_certificates_is_refused(chain: object, code: str) -> None:
    assert refusal({**X509.to_json(), "certificate_chain": chain}).code == code


def test_an_x509_identity_has_no_did() -> None:
    assert refusal({**X509.to_json(), "did": ALICE.public_key.did}).code == "provenance.field.member_unknown"


@pytest.mark.parametrize("value", [None, "did:key:z", [], 3])
def test_an_identity_is_an_object(value: object) -> None:
    assert refusal(value).code == "provenance.field.object"


def test_no_key_follows_from_a_small_order_point() -> None:
    # The identity point: under it one signature verifies for every message in the usual libraries.
    did = "did:key:z" + _base58(b"\xed\x01" + b"\x01" + bytes(31))
    with pytest.raises(InvalidMetadataError) as caught:
        CreatorIdentity(CreatorKind.DID, did, (), "Mallory", "m@example.org").public_key()
    assert caught.value.code == "wire.key.small_order"


@pytest.mark.parametrize("did", ["did:web:example.org", "did:key:z6Mk0OIl", "DID:KEY:" + ALICE.public_key.did[8:]])
def test_no_key_follows_from_another_did(did: str) -> None:
    with pytest.raises(InvalidMetadataError) as caught:
        CreatorIdentity(CreatorKind.DID, did, (), "Mallory", "m@example.org").public_key()
    assert caught.value.code.startswith("wire.")


def test_no_key_follows_from_bytes_that_are_no_certificate() -> None:
    with pytest.raises(InvalidMetadataError) as caught:
        CreatorIdentity.from_certificates([b"not DER"], "Mallory", "m@example.org").public_key()
    assert caught.value.code == "wire.x509.malformed"


def test_base64_has_one_form() -> None:
    data = bytes(range(256))
    assert encode_base64(data) == base64.b64encode(data).decode()
    assert decode_base64_untrusted(encode_base64(data), "x") == data


def _base58(data: bytes) -> str:
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        text = alphabet[rest] + text
    return text
