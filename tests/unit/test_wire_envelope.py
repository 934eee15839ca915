"""Envelopes: one line for one envelope, exactly the members, and signatures over type and payload."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from itertools import count

import pytest
import rfc8785

from wire.envelope import (
    PAYLOAD_TYPE_INTOTO,
    Envelope,
    Signature,
    decode_envelope_untrusted,
    encode_envelope,
    pae,
    sign_envelope,
    verify_envelope,
)
from wire.errors import InvalidSignatureError, MalformedError
from wire.hashing import sha256
from wire.keys import Algorithm, PrivateKey, private_key_from_seed
from wire.limits import ENVELOPE_SIGNATURES_MAX, SIGNATURE_BYTES_MAX

KEY = private_key_from_seed(Algorithm.ED25519, b"\x01" * 32)
OTHER = private_key_from_seed(Algorithm.P256, b"\x02" * 32)
PAYLOAD = b'{"_type":"https://in-toto.io/Statement/v1"}'
ENVELOPE = sign_envelope(PAYLOAD, KEY)
LINE = encode_envelope(ENVELOPE)


def both() -> Envelope:
    return replace(ENVELOPE, signatures=(*ENVELOPE.signatures, *sign_envelope(PAYLOAD, OTHER).signatures))


def test_line_is_the_rfc_8785_form_of_the_dsse_document() -> None:
    document = {
        "payload": b64encode(PAYLOAD).decode(),
        "payloadType": PAYLOAD_TYPE_INTOTO,
        "signatures": [
            {"keyid": KEY.public_key.key_id_hex, "sig": b64encode(KEY.sign(pae(PAYLOAD_TYPE_INTOTO, PAYLOAD))).decode()}
        ],
    }
    assert rfc8785.dumps(document) == LINE
    assert all(0x20 <= byte <= 0x7E for byte in LINE)


@pytest.mark.parametrize("key", [KEY, OTHER], ids=lambda key: key.algorithm)
@pytest.mark.parametrize("payload", [b"", b"\x00\xff" * 500, PAYLOAD], ids=["empty", "binary", "statement"])
def test_envelope_comes_back_and_verifies(key: PrivateKey, payload: bytes) -> None:
    envelope = sign_envelope(payload, key)
    again = decode_envelope_untrusted(encode_envelope(envelope))
    assert again == envelope
    assert again.payload_digest == sha256(payload)
    verify_envelope(again, key.public_key)


def test_payload_type_is_signed() -> None:
    with pytest.raises(InvalidSignatureError) as caught:
        verify_envelope(replace(ENVELOPE, payload_type="application/json"), KEY.public_key)
    assert caught.value.code == "wire.signature.invalid"


def test_payload_is_signed() -> None:
    with pytest.raises(InvalidSignatureError) as caught:
        verify_envelope(replace(ENVELOPE, payload=PAYLOAD + b" "), KEY.public_key)
    assert caught.value.code == "wire.signature.invalid"


def test_border_between_type_and_payload_is_signed() -> None:
    assert pae("a", b"b c") != pae("a b", b"c") != pae("a 1 b", b"c")


def test_signature_under_another_key_id_is_refused() -> None:
    # Algorithm confusion: a P-256 key's id before an Ed25519 signature.
    relabelled = replace(ENVELOPE, signatures=(Signature(OTHER.public_key.key_id_hex, ENVELOPE.signatures[0].sig),))
    with pytest.raises(InvalidSignatureError) as caught:
        verify_envelope(relabelled, OTHER.public_key)
    assert caught.value.code == "wire.signature.invalid"
    with pytest.raises(InvalidSignatureError) as caught:
        verify_envelope(relabelled, KEY.public_key)
    assert caught.value.code == "wire.envelope.other_key"


def test_each_signature_of_many_verifies_under_its_own_key() -> None:
    envelope = decode_envelope_untrusted(encode_envelope(both()), allow_many=True)
    verify_envelope(envelope, KEY.public_key)
    verify_envelope(envelope, OTHER.public_key)


def document_with(**changes: object) -> bytes:
    document = json.loads(LINE)
    document.update(changes)
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def signature_with(**changes: object) -> bytes:
    return document_with(signatures=[json.loads(LINE)["signatures"][0] | changes])


WITHOUT_PAYLOAD = json.dumps({name: value for name, value in json.loads(LINE).items() if name != "payload"}).encode()
SIGNATURE = json.loads(LINE)["signatures"][0]
SIG = SIGNATURE["sig"]
MANY = [{"keyid": f"{index:064x}", "sig": SIG} for index in range(ENVELOPE_SIGNATURES_MAX + 1)]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"", "wire.json.syntax"),
        (LINE[:-1], "wire.json.syntax"),
        (LINE + LINE, "wire.json.syntax"),
        (b"\xef\xbb\xbf" + LINE, "wire.json.bom"),
        (LINE[:-1] + b',"payload":"AAAA"}', "wire.json.duplicate_member"),
        (document_with(extra=1.5), "wire.json.float"),
        (b"[]", "wire.envelope.members"),
        (b"null", "wire.envelope.members"),
        (b"{}", "wire.envelope.members"),
        (WITHOUT_PAYLOAD, "wire.envelope.members"),
        (document_with(extra=1), "wire.envelope.members"),
        (document_with(payload=None), "wire.envelope.members"),
        (document_with(payloadType=1), "wire.envelope.members"),
        (document_with(signatures={}), "wire.envelope.members"),
        (document_with(signatures=[1]), "wire.envelope.members"),
        (document_with(signatures=[{}]), "wire.envelope.members"),
        (document_with(signatures=[SIGNATURE | {"cert": ""}]), "wire.envelope.members"),
        (signature_with(sig=1), "wire.envelope.members"),
        (signature_with(keyid=None), "wire.envelope.members"),
        (document_with(payload="QQ"), "wire.envelope.base64"),
        (document_with(payload="QR=="), "wire.envelope.base64"),
        (document_with(payload="QQ==\n"), "wire.envelope.base64"),
        (document_with(payload="QQ== "), "wire.envelope.base64"),
        (document_with(payload="Q!Q="), "wire.envelope.base64"),
        (document_with(payload="_-8="), "wire.envelope.base64"),
        (document_with(payload="QQ==QQ=="), "wire.envelope.base64"),
        (document_with(payload="é"), "wire.envelope.base64"),
        (document_with(payload="===="), "wire.envelope.base64"),
        (signature_with(sig=SIG[:-3] + chr(ord(SIG[-3]) + 1) + "=="), "wire.envelope.base64"),
        (document_with(payloadType=""), "wire.envelope.payload_type"),
        (document_with(payloadType="a b"), "wire.envelope.payload_type"),
        (document_with(payloadType='a"b'), "wire.envelope.payload_type"),
        (document_with(payloadType="a\\b"), "wire.envelope.payload_type"),
        (document_with(payloadType="a/é"), "wire.envelope.payload_type"),
        (document_with(payloadType="a/b\n"), "wire.envelope.payload_type"),
        (document_with(payloadType="a/" + "b" * 126), "wire.envelope.payload_type"),
        (document_with(signatures=[]), "wire.envelope.signatures"),
        (encode_envelope(both()), "wire.envelope.signatures"),
        (signature_with(keyid=""), "wire.envelope.keyid"),
        (signature_with(keyid=KEY.public_key.key_id_hex.upper()), "wire.envelope.keyid"),
        (signature_with(keyid=KEY.public_key.key_id_hex[:-1]), "wire.envelope.keyid"),
        (signature_with(keyid=KEY.public_key.key_id_hex + "\n"), "wire.envelope.keyid"),
        (signature_with(keyid=KEY.public_key.did), "wire.envelope.keyid"),
        (signature_with(sig=""), "wire.envelope.sig"),
        (signature_with(sig=b64encode(bytes(SIGNATURE_BYTES_MAX + 1)).decode()), "wire.envelope.sig"),
        (LINE + b"\n", "wire.envelope.not_canonical"),
        (b" " + LINE, "wire.envelope.not_canonical"),
        (json.dumps(json.loads(LINE)).encode(), "wire.envelope.not_canonical"),
        (LINE.replace(b"payloadType", b"\\u0070ayloadType"), "wire.envelope.not_canonical"),
        (LINE.replace(b"in-toto+json", b"in-toto\\u002bjson"), "wire.envelope.not_canonical"),
        (LINE.replace(b"application/", b"application\\/"), "wire.envelope.not_canonical"),
        (
            json.dumps(dict(reversed(json.loads(LINE).items())), separators=(",", ":")).encode(),
            "wire.envelope.not_canonical",
        ),
    ],
    ids=count(),
)
def test_refusal(line: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        decode_envelope_untrusted(line)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (document_with(signatures=[]), "wire.envelope.signatures"),
        (document_with(signatures=MANY), "wire.envelope.signatures"),
        (document_with(signatures=[SIGNATURE, SIGNATURE]), "wire.envelope.signatures"),
    ],
    ids=["none", "too many", "one key twice"],
)
def test_refusal_where_many_signatures_are_allowed(line: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        decode_envelope_untrusted(line, allow_many=True)
    assert caught.value.code == code


def test_most_signatures_pass() -> None:
    line = document_with(signatures=MANY[:-1])
    assert len(decode_envelope_untrusted(line, allow_many=True).signatures) == ENVELOPE_SIGNATURES_MAX


def test_length_is_checked_before_anything_else() -> None:
    assert decode_envelope_untrusted(LINE, bytes_max=len(LINE)) == ENVELOPE
    with pytest.raises(MalformedError) as caught:
        decode_envelope_untrusted(b"!" * 11, bytes_max=10)
    assert caught.value.code == "wire.json.too_large"


@pytest.mark.parametrize(
    ("envelope", "code"),
    [
        (replace(ENVELOPE, payload_type='"'), "wire.envelope.payload_type"),
        (replace(ENVELOPE, signatures=()), "wire.envelope.signatures"),
        (replace(ENVELOPE, signatures=ENVELOPE.signatures * 2), "wire.envelope.signatures"),
        (replace(ENVELOPE, signatures=(Signature('"', b"x"),)), "wire.envelope.keyid"),
        (replace(ENVELOPE, signatures=(Signature("0" * 64, b""),)), "wire.envelope.sig"),
    ],
    ids=count(),
)
def test_what_nobody_accepts_is_not_written(envelope: Envelope, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        encode_envelope(envelope)
    assert caught.value.code == code


def test_nothing_is_signed_under_an_impossible_type() -> None:
    with pytest.raises(MalformedError) as caught:
        sign_envelope(b"", KEY, "two words")
    assert caught.value.code == "wire.envelope.payload_type"


def test_every_changed_byte_of_a_line_is_refused_or_does_not_verify() -> None:
    for index in range(len(LINE)):
        for byte in {LINE[index] ^ 1, LINE[index] ^ 0x20}:
            changed = LINE[:index] + bytes([byte]) + LINE[index + 1 :]
            try:
                envelope = decode_envelope_untrusted(changed)
            except MalformedError:
                continue
            with pytest.raises(InvalidSignatureError):
                verify_envelope(envelope, KEY.public_key)
