"""The forms that everything else is made of: canonical msgpack and JSON, CBOR, envelopes, certificates, keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from provenance.verify import verify_patch_untrusted
from tests.fuzz.target import Target
from tests.testkit import der, patches
from tests.testkit.certificates import make_chain
from tests.testkit.wire_certificates import ca, ed25519_key, leaf, p256_key
from wire import canonical_json, cbor, codec
from wire.base58 import base58_decode_untrusted, base58_encode
from wire.certificate import (
    CommitCertificate,
    ElectionCertificate,
    decode_commit_certificate_untrusted,
    decode_election_certificate_untrusted,
    encode_commit_certificate,
    encode_election_certificate,
)
from wire.envelope import decode_envelope_untrusted, encode_envelope
from wire.errors import RejectedError
from wire.framing import FrameDecoder, encode_frame
from wire.hashing import Digest
from wire.keys import (
    Algorithm,
    KeyId,
    PrivateKey,
    private_key_from_pem_untrusted,
    private_key_from_seed,
    public_key_from_did_untrusted,
    public_key_from_raw_untrusted,
    public_key_from_spki_untrusted,
)
from wire.merkle import Frontier, decode_frontier_untrusted
from wire.openssh import (
    openssh_line,
    private_key_from_file_untrusted,
    private_key_from_openssh_untrusted,
    public_key_from_openssh_untrusted,
)
from wire.x509 import anchor_untrusted, certificate_chain_untrusted, verify_chain
from wire.x509_crl import SERIAL_BYTES, verify_revocation_list

LONGEST = 1 << 20
VERIFIED_AT = 1_780_000_000
"""A second at which the seeds' certificates are valid."""


FUZZED_WORK_MAX: Final = 100
"""Steps of key derivation that a fuzzed key file may ask for: what they cost is its word, and bounded by a number, not by its length."""


def split(data: bytes) -> list[bytes]:
    """Return the pieces of an input that stands for several values, each with its length in two bytes before it."""
    pieces = []
    while len(data) > 2:
        length = int.from_bytes(data[:2], "big")
        pieces.append(data[2 : 2 + length])
        data = data[2 + length :]
    return pieces


def join(*pieces: bytes) -> bytes:
    """Return the input that `split` takes apart."""
    return b"".join(len(piece).to_bytes(2, "big") + piece for piece in pieces)


def take_codec(data: bytes) -> bool:
    assert codec.encode(codec.decode_untrusted(data, bytes_max=LONGEST)) == data, "two encodings of one value"
    return True


def codec_seeds() -> list[bytes]:
    values: tuple[codec.Value, ...] = (
        None,
        (True, False, None, 0, 127, 128, 255, 65536, 2**32, 2**64 - 1, -1, -33, -(2**63)),
        (b"", b"x" * 300, "", "ü" * 40, "x" * 300),
        ((((((),),),),), tuple(range(20))),
        tuple((number, b"k", "v") for number in range(40)),
    )
    return [codec.encode(value) for value in values]


def take_cbor(data: bytes) -> bool:
    assert cbor.encode(cbor.decode_untrusted(data, bytes_max=LONGEST)) == data, "two encodings of one value"
    return True


def cbor_seeds() -> list[bytes]:
    return [
        cbor.encode(value)
        for value in (
            (1, -1, 23, 24, 256, 2**32, 2**63, "text", b"bytes", (), ((((),),),)),
            cbor.make_map({1: b"x", 395: (cbor.make_map({-1: (b"y",)}),)}),
            cbor.Tag(18, (b"", cbor.make_map({}), None, b"signature")),
        )
    ]


def take_json(data: bytes) -> bool:
    value = canonical_json.decode_untrusted(data, canonical=False)
    form = canonical_json.encode(value)
    assert canonical_json.decode_untrusted(form) == value, "the canonical form says something else"
    assert json.loads(data) == value, "another reader reads something else"
    try:
        assert canonical_json.decode_untrusted(data) == value
    except RejectedError:
        assert form != data, "the canonical form is refused"
        return False
    assert form == data, "what is not canonical is accepted"
    return True


def json_seeds() -> list[bytes]:
    return [
        verify_patch_untrusted(patches.make_patch()).author_envelope.payload,
        b'{"a":[1,-2,9007199254740991,true,false,null,"\\u0001\\"\\\\\xc3\xa9",{"b":{}}],"\xe2\x82\xac":"","\xf0\x9f\x98\x80":[]}',
        b' { "b" : 1 , "a" : [ ] } ',
        b"[" * 20 + b"]" * 20,
    ]


def take_envelope(data: bytes) -> bool:
    try:
        envelope = decode_envelope_untrusted(data)
    except RejectedError:
        envelope = decode_envelope_untrusted(data, allow_many=True)
        assert len(envelope.signatures) != 1
    assert encode_envelope(envelope) == data, "two forms of one envelope"
    return True


def envelope_seeds() -> list[bytes]:
    return patches.trailer_lines(patches.make_released_patch())


def _signatures(count: int) -> tuple[tuple[KeyId, bytes], ...]:
    return tuple((KeyId(Digest(bytes([number]) * 32)), bytes([number]) * 64) for number in range(1, count + 1))


def take_certificates(data: bytes) -> bool:
    """A commit certificate, an election certificate, a frontier."""
    taken = False
    try:
        assert encode_commit_certificate(decode_commit_certificate_untrusted(data)) == data
        taken = True
    except RejectedError:
        pass
    try:
        assert encode_election_certificate(decode_election_certificate_untrusted(data)) == data
        assert not taken, "one encoding, two certificates"
        taken = True
    except RejectedError:
        pass
    try:
        assert decode_frontier_untrusted(data).encode() == data
    except RejectedError:
        return taken
    return True


def certificates_seeds() -> list[bytes]:
    digest = Digest(b"\x07" * 32)
    frontier = Frontier()
    for number in range(13):
        frontier = frontier.append(Digest(bytes([number]) * 32))
    return [
        encode_commit_certificate(CommitCertificate(3, 9, digest, _signatures(3))),
        encode_election_certificate(ElectionCertificate(3, KeyId(digest), 2, 8, digest, _signatures(3))),
        frontier.encode(),
        Frontier().encode(),
    ]


def take_frames(data: bytes) -> bool:
    """The same frames come out whatever the pieces, and no more is held than came."""
    size, stream = (data[0] % 64) + 1 if data else 1, data[1:]
    whole = FrameDecoder(frame_bytes_max=512)
    pieces = FrameDecoder(frame_bytes_max=512)
    found: list[bytes] = []
    refused = False
    try:
        for start in range(0, len(stream), size):
            found += pieces.feed(stream[start : start + size])
            assert pieces.bytes_buffered < 512 + 4 + size
    except RejectedError:
        refused = True
    try:
        assert whole.feed(stream) == found
    except RejectedError:
        assert refused, "the same bytes are refused in one piece only"
        raise
    assert not refused, "the same bytes are refused in pieces only"
    assert b"".join(encode_frame(frame) for frame in found) == stream[: len(stream) - whole.bytes_buffered]
    return bool(found)


def frames_seeds() -> list[bytes]:
    return [
        b"\x03" + b"".join(encode_frame(bytes(count)) for count in (0, 1, 200, 512)),
        b"\x10" + encode_frame(b"a")[:3],
    ]


def _keys() -> Sequence[PrivateKey]:
    return [private_key_from_seed(algorithm, b"\x05" * 32) for algorithm in Algorithm]


def take_keys(data: bytes) -> bool:
    """A public key in each of its forms, and a private key in PEM."""
    taken = False
    for algorithm in Algorithm:
        try:
            assert public_key_from_raw_untrusted(algorithm, data).raw == data
            taken = True
        except RejectedError:
            pass
    try:
        assert public_key_from_spki_untrusted(data).spki == data
        taken = True
    except RejectedError:
        pass
    for passphrase in (None, b"passphrase"):
        try:
            private_key_from_pem_untrusted(data, passphrase, work_max=FUZZED_WORK_MAX)
            taken = True
        except RejectedError:
            pass
    text = data.decode("utf-8", "surrogateescape")
    try:
        assert public_key_from_did_untrusted(text).did == text
        taken = True
    except RejectedError:
        pass
    try:
        assert base58_encode(base58_decode_untrusted(text[:200])) == text[:200]
    except RejectedError:
        return taken
    return taken


def keys_seeds() -> list[bytes]:
    seeds = []
    for key in _keys():
        public = key.public_key
        seeds += [public.raw, public.spki, public.did.encode(), key.to_pem(None), key.to_pem(b"passphrase")]
    return seeds


def take_openssh(data: bytes) -> bool:
    """A line of OpenSSH's public keys, its private key files, and the file that may be either container."""
    taken = False
    try:
        key = public_key_from_openssh_untrusted(data)
        assert public_key_from_openssh_untrusted(openssh_line(key)) == key
        taken = True
    except RejectedError:
        pass
    for passphrase in (None, b"passphrase"):
        try:
            # Few rounds: what they cost is the file's word, and bounded by a number, not by its length.
            private_key_from_file_untrusted(data, passphrase, rounds_max=1, work_max=FUZZED_WORK_MAX)
            taken = True
        except RejectedError:
            continue
    try:
        private_key_from_openssh_untrusted(data, rounds_max=1)
    except RejectedError:
        return taken
    return True


@cache
def openssh_seeds() -> list[bytes]:
    lines = [openssh_line(key.public_key, "alice@acme") for key in _keys()]
    files = [
        key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()) for key in (ed25519_key(1), p256_key(1))
    ]
    locked = PrivateFormat.OpenSSH.encryption_builder().kdf_rounds(1).build(b"passphrase")
    files += [key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, locked) for key in (ed25519_key(1), p256_key(1))]
    return [*lines, *files]


AUTHORITY_KEY = ed25519_key(9)


@cache
def _authority() -> bytes:
    return ca("Root", AUTHORITY_KEY, "Root", AUTHORITY_KEY, usage=("key_cert_sign", "crl_sign"))


def take_crl(data: bytes) -> bool:
    """The body of a revocation list, honestly signed by a CA gone bad; and the same bytes as a list."""
    try:
        found = verify_revocation_list(der.sign(data, AUTHORITY_KEY), _authority())
    except RejectedError:
        verify_revocation_list(data, _authority())
        return True
    assert all(len(serial) == SERIAL_BYTES for serial in found.serials)
    codec.encode((found.number, found.this_update, found.next_update, found.serials))
    return True


@cache
def crl_seeds() -> list[bytes]:
    made = datetime(2026, 11, 22, tzinfo=UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(x509.load_der_x509_certificate(_authority()).subject)
    builder = (
        builder.last_update(made).next_update(made + timedelta(days=7)).add_extension(x509.CRLNumber(3), critical=False)
    )
    empty = builder.sign(AUTHORITY_KEY, None)
    for serial in (1, 1 << 158):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(made)
        builder = builder.add_revoked_certificate(
            entry.add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False).build()
        )
    full = builder.sign(AUTHORITY_KEY, None)
    bodies = [empty.tbs_certlist_bytes, full.tbs_certlist_bytes]
    return [*bodies, der.replace_integer(bodies[1], 1, b"\x01" * 25), full.public_bytes(Encoding.DER)]


def take_x509(data: bytes) -> bool:
    """The first piece is the leaf, the last one an anchor."""
    ders = split(data)
    taken = False
    for last in ders[-1:]:
        try:
            anchor_untrusted(last)
            taken = True
        except RejectedError:
            pass
    chain = certificate_chain_untrusted(ders)
    verify_chain(chain, [chain.ders[-1]], VERIFIED_AT)
    return taken


def x509_seeds() -> list[bytes]:
    ca_key, middle_key, leaf_key = p256_key(1), ed25519_key(2), p256_key(3)
    root = ca("Root", ca_key, "Root", ca_key)
    middle = ca("Middle", middle_key, "Root", ca_key, path_length=0)
    return [
        join(*make_chain(patches.ALICE)),
        join(leaf(leaf_key, "Middle", middle_key), middle, root),
        join(leaf(ed25519_key(4), "Root", ca_key), root),
        join(root),
    ]


def targets() -> list[Target]:
    return [
        Target("codec", take_codec, codec_seeds),
        Target("cbor", take_cbor, cbor_seeds),
        Target(
            "json",
            take_json,
            json_seeds,
            words=(b"\\ud83d", b"\\u0000", b"1e400", b"NaN", b"-0", b"\xef\xbb\xbf", b"9007199254740992"),
        ),
        Target(
            "envelope",
            take_envelope,
            envelope_seeds,
            words=(b'"payloadType"', b'"signatures":[]', b'"keyid":""', b"=="),
        ),
        Target("certificates", take_certificates, certificates_seeds),
        Target("frames", take_frames, frames_seeds),
        Target(
            "keys",
            take_keys,
            keys_seeds,
            words=(b"did:key:z6Mk", b"-----BEGIN PRIVATE KEY-----\n", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n"),
            short_inputs=60,
        ),
        Target(
            "openssh",
            take_openssh,
            openssh_seeds,
            words=(b"ssh-ed25519 ", b"ecdsa-sha2-nistp256 ", b"openssh-key-v1\0"),
            short_inputs=100,
        ),
        Target("crl", take_crl, crl_seeds, share=2, short_inputs=200),
        Target("x509", take_x509, x509_seeds, share=2, short_inputs=100),
    ]
