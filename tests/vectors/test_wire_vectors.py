"""What others published: RFC 8032, RFC 6979, RFC 9162, RFC 8785, did:key, DSSE. None of these values were made by this project."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from itertools import count

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from wire import canonical_json
from wire.envelope import Envelope, Signature, decode_envelope_untrusted, encode_envelope, pae, verify_envelope
from wire.errors import MalformedError
from wire.hashing import Digest
from wire.keys import (
    Algorithm,
    PrivateKey,
    private_key_from_pem_untrusted,
    private_key_from_seed,
    public_key_from_did_untrusted,
    public_key_from_raw_untrusted,
)
from wire.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
    verify_consistency,
    verify_inclusion,
)

# RFC 8032 7.1: secret key, public key, message, signature
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        hashlib.sha512(b"abc").hexdigest(),
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032, ids=["1", "2", "3", "SHA(abc)"])
def test_rfc_8032(secret: str, public: str, message: str, signature: str) -> None:
    key = private_key_from_seed(Algorithm.ED25519, bytes.fromhex(secret))
    assert key.public_key.raw.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    public_key_from_raw_untrusted(Algorithm.ED25519, bytes.fromhex(public)).verify(
        bytes.fromhex(message), bytes.fromhex(signature)
    )


def p256_from_scalar(scalar: int) -> PrivateKey:
    private = ec.derive_private_key(scalar, ec.SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private_key_from_pem_untrusted(pem, None)


@pytest.mark.parametrize(
    ("message", "r", "s"),
    [
        (
            b"sample",
            0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716,
            0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8,
        ),
        (
            b"test",
            0xF1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367,
            0x019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083,
        ),
    ],
    ids=["sample", "test"],
)
def test_rfc_6979_a_2_5(message: bytes, r: int, s: int) -> None:
    key = p256_from_scalar(0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721)
    assert key.public_key.raw[1:].hex() == "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
    assert key.public_key.spki[-32:].hex() == "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
    assert decode_dss_signature(key.sign(message)) == (r, s)
    key.public_key.verify(message, encode_dss_signature(r, s))


# The tree that Certificate Transparency's implementations have tested themselves with since RFC 6962.
CT_LEAVES = [
    leaf_hash(bytes.fromhex(entry))
    for entry in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
CT_NODES = {(level, index): digest for level, index, digest in Frontier().extend(CT_LEAVES)[1]}


def read_node(level: int, index: int) -> Digest:
    return CT_NODES[level, index]


def test_certificate_transparency_roots() -> None:
    assert EMPTY_ROOT.hex() == CT_ROOTS[0]
    for size, expected in enumerate(CT_ROOTS):
        assert root(CT_LEAVES[:size]).hex() == expected
        assert Frontier().extend(CT_LEAVES[:size])[0].root().hex() == expected


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [
        (0, 1, []),
        (
            0,
            8,
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            [
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
        (
            1,
            5,
            [
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ],
)
def test_certificate_transparency_inclusion_proofs(index: int, size: int, path: list[str]) -> None:
    proof = tuple(Digest(bytes.fromhex(digest)) for digest in path)
    assert inclusion_proof(read_node, index, size) == proof
    verify_inclusion(CT_LEAVES[index], index, size, proof, Digest(bytes.fromhex(CT_ROOTS[size])))


@pytest.mark.parametrize(
    ("before", "after", "path"),
    [
        (1, 1, []),
        (
            1,
            8,
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            6,
            8,
            [
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            5,
            [
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ],
)
def test_certificate_transparency_consistency_proofs(before: int, after: int, path: list[str]) -> None:
    proof = tuple(Digest(bytes.fromhex(digest)) for digest in path)
    assert consistency_proof(read_node, before, after) == proof
    verify_consistency(
        before, Digest(bytes.fromhex(CT_ROOTS[before])), after, Digest(bytes.fromhex(CT_ROOTS[after])), proof
    )


# The did:key specification's Ed25519 test vectors: seeds 0, 1 and 2
@pytest.mark.parametrize(
    ("seed", "did"),
    [
        (0, "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"),
        (1, "did:key:z6MkjchhfUsD6mmvni8mCdXHw216Xrm9bQe2mBH1P5RDjVJG"),
        (2, "did:key:z6MknGc3ocHs3zdPiJbnaaqDi58NGb4pk1Sp9WxWufuXSdxf"),
    ],
)
def test_did_key_of_ed25519(seed: int, did: str) -> None:
    key = private_key_from_seed(Algorithm.ED25519, seed.to_bytes(32, "big"))
    assert key.public_key.did == did
    assert public_key_from_did_untrusted(did) == key.public_key


# The did:key specification's P-256 test vectors: the identifier, and x of its JSON Web Key
@pytest.mark.parametrize(
    ("did", "x"),
    [
        ("did:key:zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169", "fyNYMN0976ci7xqiSdag3buk-ZCwgXU4kz9XNkBlNUI"),
        ("did:key:zDnaerx9CtbPJ1q36T5Ln5wYt3MQYeGRG5ehnPAmxcf5mDZpv", "igrFmi0whuihKnj9R3Om1SoMph72wUGeFaBbzG2vzns"),
    ],
)
def test_did_key_of_p256(did: str, x: str) -> None:
    key = public_key_from_did_untrusted(did)
    assert key.algorithm is Algorithm.P256
    assert key.raw[1:] == b64decode(x + "=", altchars=b"-_")
    assert key.did == did


def test_dsse_protocol_vector() -> None:
    # protocol.md, "Test Vectors". Its signature is r and s side by side; ours are DER.
    payload_type = "http://example.com/HelloWorld"
    assert pae(payload_type, b"hello world") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    key = p256_from_scalar(97358161215184420915383655311931858321456579547487070936769975997791359926199)
    x = 46950820868899156662930047687818585632848591499744589407958293238635476079160
    assert int.from_bytes(key.public_key.raw[1:], "big") == x
    raw = b64decode("A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==")
    signature = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    envelope = Envelope(payload_type, b"hello world", (Signature(key.public_key.key_id_hex, signature),))
    verify_envelope(envelope, key.public_key)
    assert decode_envelope_untrusted(encode_envelope(envelope)) == envelope
    assert json.loads(encode_envelope(envelope))["payload"] == "aGVsbG8gd29ybGQ="


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # RFC 8785 3.2.2.2: the string of the example
        (r'"\u20ac$\u000F\u000aA\u0027\u0042\u0022\u005c\\\"\/"', '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'),
        # RFC 8785 3.2.3: its property order, without the one name that is not NFC
        (
            r'{"\u20ac":"Euro Sign","\r":"Carriage Return","1":"One","\ud83d\ude00":"Emoji: Grinning Face",'
            r'"\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}',
            '{"\\r":"Carriage Return","1":"One","\x80":"Control","ö":"Latin Small Letter O With Diaeresis",'
            '"€":"Euro Sign","😀":"Emoji: Grinning Face"}',
        ),
        # The reference implementation's french.json, structures.json and arrays.json
        (
            '{"peach":"This sorting order","péché":"is wrong according to French",'
            '"pêche":"but canonicalization MUST","sin":"ignore locale"}',
            '{"peach":"This sorting order","péché":"is wrong according to French",'
            '"pêche":"but canonicalization MUST","sin":"ignore locale"}',
        ),
        (
            '{"1":{"f":{"f":"hi","F":5} ,"\\n":56},"10":{},"":"empty","a":{},"111":[{"e":"yes","E":"no"}],"A":{}}',
            '{"":"empty","1":{"\\n":56,"f":{"F":5,"f":"hi"}},"10":{},"111":[{"E":"no","e":"yes"}],"A":{},"a":{}}',
        ),
        ('[56,{"d":true,"10":null,"1":[]}]', '[56,{"1":[],"10":null,"d":true}]'),
    ],
    ids=count(),
)
def test_rfc_8785(given: str, expected: str) -> None:
    value = canonical_json.decode_untrusted(given.encode(), canonical=False)
    assert canonical_json.encode(value).decode() == expected
    assert canonical_json.decode_untrusted(expected.encode()) == value


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ('{"\\ufb33":"Hebrew Letter Dalet With Dagesh"}', "wire.json.not_nfc"),  # from the example of 3.2.3
        ('{"Unnormalized Unicode":"A\\u030a"}', "wire.json.not_nfc"),  # the reference implementation's unicode.json
        ('{"numbers":[333333333.33333329,1E30,4.50,2e-3]}', "wire.json.float"),  # 3.2.2
        ('"\\uDEAD"', "wire.json.surrogate"),  # 3.2.2.2: must be an error
    ],
)
def test_rfc_8785_examples_outside_our_subset_are_refused(given: str, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        canonical_json.decode_untrusted(given.encode(), canonical=False)
    assert caught.value.code == code
