"""Keys: one form each, no weak point, no secret in any text, and signatures that hold only where they should."""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Callable
from functools import cache
from itertools import count

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from wire.base58 import ALPHABET, BASE58_CHARACTERS_MAX, base58_decode_untrusted, base58_encode
from wire.errors import InvalidSignatureError, MalformedError
from wire.keys import (
    Algorithm,
    PrivateKey,
    PublicKey,
    private_key_from_pem_untrusted,
    private_key_from_seed,
    public_key_from_did_untrusted,
    public_key_from_raw_untrusted,
    public_key_from_spki_untrusted,
    verify_batch,
)
from wire.limits import PEM_BYTES_MAX

KEYS = {algorithm: private_key_from_seed(algorithm, bytes(range(32))) for algorithm in Algorithm}
MESSAGE = b"what is signed"
PRIME = 2**255 - 19
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.fixture(params=list(Algorithm))
def key(request: pytest.FixtureRequest) -> PrivateKey:
    algorithm: Algorithm = request.param
    return KEYS[algorithm]


# -- the small-order points, computed rather than copied (RFC 8032 5.1) --


def add(p: tuple[int, int], q: tuple[int, int]) -> tuple[int, int]:
    d = -121665 * pow(121666, -1, PRIME)
    (x1, y1), (x2, y2) = p, q
    product = d * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, PRIME)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, PRIME)
    return x % PRIME, y % PRIME


def find_x(y: int) -> int | None:
    square = (y * y - 1) * pow(-121665 * pow(121666, -1, PRIME) * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if (x * x - square) % PRIME:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    return x if (x * x - square) % PRIME == 0 else None


@cache
def small_order_points() -> frozenset[tuple[int, int]]:
    """Multiply points of the whole curve by the prime group's order until all eight of the torsion group are there."""
    found: set[tuple[int, int]] = set()
    y = 2
    while len(found) < 8:
        x = find_x(y)
        if x is not None:
            total, power, scalar = (0, 1), (x, y), GROUP_ORDER
            while scalar:
                if scalar & 1:
                    total = add(total, power)
                power = add(power, power)
                scalar >>= 1
            found.add(total)
        y += 1
    return frozenset(found)


def encodings(point: tuple[int, int]) -> list[bytes]:
    """Every 32-byte string that decoders might take for the point: both signs when x is 0, y and y + p where that still fits."""
    x, y = point
    signs = (0, 1) if x == 0 else (x & 1,)
    return [(form | sign << 255).to_bytes(32, "little") for form in (y, y + PRIME) if form < 2**255 for sign in signs]


SMALL_ORDER = sorted(encoding for point in small_order_points() for encoding in encodings(point))


def test_there_are_eight_points_and_fourteen_encodings() -> None:
    assert len(small_order_points()) == 8
    assert len(set(SMALL_ORDER)) == len(SMALL_ORDER) == 14


@pytest.mark.parametrize("raw", SMALL_ORDER, ids=bytes.hex)
@pytest.mark.parametrize(
    "door",
    [
        lambda raw: public_key_from_raw_untrusted(Algorithm.ED25519, raw),
        lambda raw: public_key_from_spki_untrusted(bytes.fromhex("302a300506032b6570032100") + raw),
        lambda raw: public_key_from_did_untrusted("did:key:z" + base58_encode(b"\xed\x01" + raw)),
    ],
    ids=["raw", "spki", "did"],
)
def test_small_order_point_is_refused_by_every_door(raw: bytes, door: Callable[[bytes], PublicKey]) -> None:
    with pytest.raises(MalformedError) as caught:
        door(raw)
    assert caught.value.code == "wire.key.small_order"


@pytest.mark.parametrize("raw", SMALL_ORDER, ids=bytes.hex)
def test_signature_that_fits_every_message_is_never_accepted(raw: bytes) -> None:
    # R = the key itself and S = 0 passes for any message under the identity in the usual libraries. Even a key record made by
    # our own mistake, past the doors, must not verify it.
    forged = PublicKey(Algorithm.ED25519, raw, b"", KEYS[Algorithm.ED25519].public_key.key_id)
    for signature in (raw + bytes(32), (1).to_bytes(32, "little") + bytes(32)):
        assert not any(
            forged.is_valid(message, signature) for message in (b"", b"a", b"b", b"c", b"d", b"e", b"f", b"g")
        )


@pytest.mark.parametrize(
    "raw",
    [
        (2).to_bytes(32, "little"),  # on no curve point
        (PRIME + 3).to_bytes(32, "little"),  # y not reduced
        b"\xff" * 32,
    ],
    ids=bytes.hex,
)
def test_bytes_that_are_no_point_are_refused(raw: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        public_key_from_raw_untrusted(Algorithm.ED25519, raw)
    assert caught.value.code == "wire.key.point"


def test_point_outside_the_prime_group_is_refused() -> None:
    y = int.from_bytes(KEYS[Algorithm.ED25519].public_key.raw, "little") & (2**255 - 1)
    x = find_x(y)
    assert x is not None
    for torsion in small_order_points() - {(0, 1)}:
        mixed_x, mixed_y = add((x, y), torsion)
        with pytest.raises(MalformedError) as caught:
            public_key_from_raw_untrusted(Algorithm.ED25519, (mixed_y | (mixed_x & 1) << 255).to_bytes(32, "little"))
        assert caught.value.code == "wire.key.point"


# -- one form --


def test_every_notation_leads_to_the_same_key(key: PrivateKey) -> None:
    public = key.public_key
    same = {
        public,
        public_key_from_raw_untrusted(public.algorithm, public.raw),
        public_key_from_spki_untrusted(public.spki),
        public_key_from_did_untrusted(public.did),
    }
    assert len(same) == 1
    assert public.key_id == hashlib.sha256(public.spki).digest()
    assert public.key_id_hex == public.key_id.hex()
    assert {type(one.key_id) for one in same} == {bytes}


def test_other_tools_read_the_same_key(key: PrivateKey) -> None:
    public = serialization.load_pem_public_key(key.public_key.pem)
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    assert public.public_bytes(encoding, form) == key.public_key.spki
    if isinstance(public, ed25519.Ed25519PublicKey):
        public.verify(key.sign(MESSAGE), MESSAGE)
    assert len(key.public_key.raw) == (32 if key.algorithm is Algorithm.ED25519 else 33)


def test_public_key_survives_pickle_and_copy(key: PrivateKey) -> None:
    assert pickle.loads(pickle.dumps(key.public_key)) == copy.deepcopy(key.public_key) == key.public_key


def spki_of(
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed448.Ed448PrivateKey, compressed: bool = False
) -> bytes:
    public = private.public_key()
    if compressed and isinstance(public, ec.EllipticCurvePublicKey):
        point = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
        return bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


P256 = KEYS[Algorithm.P256].public_key
ED25519 = KEYS[Algorithm.ED25519].public_key


@pytest.mark.parametrize(
    "der",
    [
        b"",
        ED25519.spki[:-1],
        ED25519.spki + b"\x00",
        b"\x30\x81" + ED25519.spki[1:],
        ED25519.spki[:8] + b"\x6f" + ED25519.spki[9:],  # X25519's object identifier, or whatever is not Ed25519's
        P256.spki[:-1],
        P256.spki + b"\x00",
        P256.spki[:26] + b"\x06" + P256.spki[27:],  # hybrid point
        spki_of(ec.derive_private_key(7, ec.SECP256R1()), compressed=True),
        spki_of(ec.derive_private_key(7, ec.SECP384R1())),
        spki_of(ec.derive_private_key(7, ec.SECP256K1())),
        spki_of(ed448.Ed448PrivateKey.from_private_bytes(bytes(57))),
    ],
    ids=count(),
)
def test_other_public_key_forms_are_refused(der: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        public_key_from_spki_untrusted(der)
    assert caught.value.code == "wire.key.spki"


@pytest.mark.parametrize(
    ("algorithm", "raw", "code"),
    [
        (Algorithm.ED25519, b"", "length"),
        (Algorithm.ED25519, P256.raw, "length"),
        (Algorithm.ED25519, ED25519.raw[:31], "length"),
        (Algorithm.P256, b"", "length"),
        (Algorithm.P256, ED25519.raw, "length"),
        (Algorithm.P256, P256.spki[-65:], "length"),
        (Algorithm.P256, b"\x04" + P256.raw[1:], "point"),
        (Algorithm.P256, b"\x00" * 33, "point"),
        (Algorithm.P256, b"\x02" + b"\xff" * 32, "point"),
        (Algorithm.P256, b"\x02" + bytes(31) + b"\x01", "point"),
    ],
    ids=count(),
)
def test_raw_key_of_wrong_form_is_refused(algorithm: Algorithm, raw: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        public_key_from_raw_untrusted(algorithm, raw)
    assert caught.value.code == f"wire.key.{code}"


def test_uncompressed_point_off_the_curve_is_refused() -> None:
    der = P256.spki[:-1] + bytes([P256.spki[-1] ^ 1])
    for _ in range(2):  # a refusal is not cached as a key
        with pytest.raises(MalformedError) as caught:
            public_key_from_spki_untrusted(der)
        assert caught.value.code == "wire.key.point"


@pytest.mark.parametrize(
    ("did", "code"),
    [
        ("", "did"),
        ("did:web:example.com", "did"),
        ("did:key:", "did"),
        ("did:key:m" + ED25519.did[9:], "did"),
        (ED25519.did.upper(), "did"),
        (ED25519.did + "#" + ED25519.did[8:], "base58"),
        (" " + ED25519.did, "did"),
        (ED25519.did + " ", "base58"),
        (ED25519.did[:20] + "0" + ED25519.did[21:], "base58"),
        (ED25519.did[:20] + "\u0430" + ED25519.did[21:], "base58"),
        (ED25519.did[:-1], "did"),
        (ED25519.did + "1", "did"),
        ("did:key:z1" + ED25519.did[9:], "did"),
        ("did:key:z" + "2" * 1_000_000, "did"),
        ("did:key:z" + base58_encode(b"\xed\x01" + P256.raw), "did"),
        ("did:key:z" + base58_encode(b"\x80\x24" + ED25519.raw), "did"),
        ("did:key:z" + base58_encode(b"\xec\x01" + ED25519.raw), "did"),  # X25519
        ("did:key:z" + base58_encode(b"\xed\x81\x00" + ED25519.raw), "did"),  # the same code as a longer varint
        ("did:key:z" + base58_encode(b"\x80\x24\x04" + P256.raw[1:]), "point"),
        ("did:key:z" + base58_encode(b"\x80\x24\x02" + b"\xff" * 32), "point"),
    ],
    ids=count(),
)
def test_did_of_wrong_form_is_refused(did: str, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        public_key_from_did_untrusted(did)
    assert caught.value.code == f"wire.key.{code}"


def test_base58_alphabet_leaves_out_what_looks_alike() -> None:
    assert len(set(ALPHABET)) == 58
    assert not set("0OIl") & set(ALPHABET)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"\x00", "1"),
        (b"\x00\x00\x01", "112"),
        (b"Hello World!", "2NEpo7TZRRrLZSi2U"),
        (bytes.fromhex("0000287fb4cd"), "11233QC4"),
    ],
)
def test_base58_vectors_of_the_draft(data: bytes, text: str) -> None:
    assert base58_encode(data) == text
    assert base58_decode_untrusted(text) == data


def test_base58_text_above_the_limit_is_refused() -> None:
    assert len(base58_decode_untrusted("2" * BASE58_CHARACTERS_MAX)) > 90
    with pytest.raises(MalformedError) as caught:
        base58_decode_untrusted("2" * (BASE58_CHARACTERS_MAX + 1))
    assert caught.value.code == "wire.key.base58"


# -- signatures --


def test_signature_holds_and_is_the_same_every_time(key: PrivateKey) -> None:
    signature = key.sign(MESSAGE)
    assert signature == key.sign(MESSAGE)
    key.public_key.verify(MESSAGE, signature)
    assert key.public_key.is_valid(MESSAGE, signature)


def test_signature_does_not_hold_for_anything_else(key: PrivateKey) -> None:
    public = key.public_key
    signature = key.sign(MESSAGE)
    other = private_key_from_seed(key.algorithm, b"other" * 6 + b"!!").public_key
    wrong = [
        (public, MESSAGE + b"\x00", signature),
        (public, MESSAGE[:-1], signature),
        (public, b"", signature),
        (other, MESSAGE, signature),
        (public, MESSAGE, b""),
        (public, MESSAGE, signature[:-1]),
        (public, MESSAGE, signature + b"\x00"),
        (public, MESSAGE, b"\x00" + signature),
        (public, signature[-1:] + MESSAGE, signature[:-1]),
        (public, MESSAGE[1:], signature + MESSAGE[:1]),
        (public, MESSAGE, bytes(64)),
        (public, MESSAGE, b"\x30\x06\x02\x01\x00\x02\x01\x00"),
        (public, MESSAGE, signature * 1000),
    ]
    for index in range(len(signature)):
        wrong.append((public, MESSAGE, signature[:index] + bytes([signature[index] ^ 1]) + signature[index + 1 :]))
    assert verify_batch(wrong) == (False,) * len(wrong)
    assert verify_batch([(public, MESSAGE, signature)]) == (True,)
    for one, message, sig in wrong:
        with pytest.raises(InvalidSignatureError) as caught:
            one.verify(message, sig)
        assert caught.value.code == "wire.signature.invalid"
        assert caught.value.details["key_id"] == one.key_id_hex


def test_signature_of_one_algorithm_does_not_pass_for_the_other() -> None:
    for one, other in ((Algorithm.ED25519, Algorithm.P256), (Algorithm.P256, Algorithm.ED25519)):
        assert not KEYS[one].public_key.is_valid(MESSAGE, KEYS[other].sign(MESSAGE))


def test_second_form_of_an_ed25519_signature_is_refused() -> None:
    signature = KEYS[Algorithm.ED25519].sign(MESSAGE)
    s = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    assert not ED25519.is_valid(MESSAGE, signature[:32] + s.to_bytes(32, "little"))


def test_p256_signature_must_be_der() -> None:
    signature = KEYS[Algorithm.P256].sign(MESSAGE)
    assert signature[0] == 0x30
    assert not P256.is_valid(MESSAGE, b"\x30\x81" + signature[1:])  # a longer length is BER
    padded = bytes([0x30, signature[1] + 1, 0x02, signature[3] + 1, 0x00]) + signature[4:]
    assert not P256.is_valid(MESSAGE, padded)


def test_seed_gives_the_same_key_every_time() -> None:
    for algorithm in Algorithm:
        again = private_key_from_seed(algorithm, bytes(range(32)))
        assert again.public_key == KEYS[algorithm].public_key
        assert private_key_from_seed(algorithm, bytes(32)).public_key != again.public_key
    assert KEYS[Algorithm.ED25519].seed == bytes(range(32))


def test_p256_points_of_both_signs_are_keys() -> None:
    publics = [private_key_from_seed(Algorithm.P256, bytes([number]) * 32).public_key for number in range(8)]
    assert {public.raw[0] for public in publics} == {2, 3}
    for public in publics:
        assert public_key_from_raw_untrusted(Algorithm.P256, public.raw) == public


def test_p256_key_follows_from_its_seed_as_specified() -> None:
    seed = bytes(range(32))
    order = 2**256 - 2**224 + 2**192 - 89188191075325690597107910205041859247
    scalar = int(hashlib.sha512(b"patchwarden/p256-seed/1" + seed).hexdigest(), 16) % (order - 1) + 1
    assert (
        spki_of(ec.derive_private_key(scalar, ec.SECP256R1()))
        == private_key_from_seed(Algorithm.P256, seed).public_key.spki
    )


@pytest.mark.parametrize("length", [0, 31, 33, 64])
@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_seed_of_another_length_is_refused(algorithm: Algorithm, length: int) -> None:
    with pytest.raises(MalformedError) as caught:
        private_key_from_seed(algorithm, bytes(length))
    assert caught.value.code == "wire.key.seed"


def test_p256_key_has_no_seed() -> None:
    with pytest.raises(MalformedError) as caught:
        _ = KEYS[Algorithm.P256].seed
    assert caught.value.code == "wire.key.no_seed"


def test_private_key_shows_no_secret_and_is_not_copied(key: PrivateKey) -> None:
    assert repr(key) == str(key) == f"<PrivateKey {key.algorithm} {key.public_key.key_id_hex}>"
    assert bytes(range(32)).hex() not in repr(key)
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled or copied"):
            take(key)


# -- PEM --


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_private_key_survives_pem(key: PrivateKey, passphrase: bytes | None) -> None:
    pem = key.to_pem(passphrase)
    assert pem.startswith(
        b"-----BEGIN PRIVATE KEY-----" if passphrase is None else b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
    )
    again = private_key_from_pem_untrusted(b"\n" + pem + b"\n", passphrase)
    assert again.public_key == key.public_key
    assert again.sign(MESSAGE) == key.sign(MESSAGE)


def test_empty_passphrase_is_refused(key: PrivateKey) -> None:
    with pytest.raises(MalformedError) as caught:
        key.to_pem(b"")
    assert caught.value.code == "wire.key.passphrase"


def pem_of(private: object, form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8) -> bytes:
    return private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())  # type: ignore[attr-defined, no-any-return]


PLAIN = KEYS[Algorithm.ED25519].to_pem(None)
ENCRYPTED = KEYS[Algorithm.ED25519].to_pem(b"right")


@pytest.mark.parametrize(
    ("pem", "passphrase", "code"),
    [
        (b"", None, "pem"),
        (b"not a key", None, "pem"),
        (ED25519.pem, None, "pem"),
        (pem_of(ec.derive_private_key(7, ec.SECP256R1()), serialization.PrivateFormat.TraditionalOpenSSL), None, "pem"),
        (
            pem_of(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)), serialization.PrivateFormat.OpenSSH),
            None,
            "pem",
        ),
        (PLAIN.replace(b"M", b"!", 1), None, "pem"),
        (PLAIN[:40] + b"\n-----END PRIVATE KEY-----\n", None, "pem"),
        (PLAIN + b" " * PEM_BYTES_MAX, None, "pem"),
        (PLAIN, b"passphrase", "passphrase_unused"),
        (PLAIN, b"", "passphrase_unused"),
        (ENCRYPTED, None, "passphrase_missing"),
        (ENCRYPTED, b"", "passphrase_missing"),
        (ENCRYPTED, b"wrong", "passphrase"),
        (ENCRYPTED[:120] + b"\n-----END ENCRYPTED PRIVATE KEY-----\n", b"right", "passphrase"),
        (pem_of(ec.derive_private_key(7, ec.SECP384R1())), None, "algorithm"),
        (pem_of(ed448.Ed448PrivateKey.from_private_bytes(bytes(57))), None, "algorithm"),
        # An object identifier that nobody knows: Ed25519's 1.3.101.112 with another last number
        (
            b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2V/BCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n-----END PRIVATE KEY-----",
            None,
            "algorithm",
        ),
    ],
    ids=count(),
)
def test_pem_of_wrong_form_is_refused(pem: bytes, passphrase: bytes | None, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        private_key_from_pem_untrusted(pem, passphrase)
    assert caught.value.code == f"wire.key.{code}"


def test_large_foreign_keys_are_refused() -> None:
    private = rsa.generate_private_key(65537, 2048)
    with pytest.raises(MalformedError) as caught:
        private_key_from_pem_untrusted(pem_of(private), None)
    assert caught.value.code == "wire.key.algorithm"
    with pytest.raises(MalformedError) as caught:
        public_key_from_spki_untrusted(spki_of(private))
    assert caught.value.code == "wire.key.spki"
