"""Certificates: what is signed byte for byte, majorities, and everything that is no proof."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import combinations, count

import msgpack
import pytest

from wire.certificate import (
    CommitCertificate,
    ElectionCertificate,
    acknowledgement_message,
    decode_commit_certificate_untrusted,
    decode_election_certificate_untrusted,
    encode_commit_certificate,
    encode_election_certificate,
    majority,
    prevote_message,
    proposal_message,
    verify_commit_certificate,
    verify_commit_quorums,
    verify_election_certificate,
    verify_election_quorums,
    vote_message,
)
from wire.codec import encode
from wire.errors import InvalidCertificateError, MalformedError
from wire.hashing import Digest
from wire.keys import Algorithm, KeyId, PrivateKey, PublicKey, private_key_from_seed
from wire.limits import CERTIFICATE_BYTES_MAX, SIGNATURE_BYTES_MAX, VALIDATORS_MAX

CHAIN = "acme-net"
HASH = Digest(b"\xab" * 32)
# One validator signs with P-256, so that signatures of both lengths are met.
KEYS = [
    private_key_from_seed(Algorithm.P256 if index == 2 else Algorithm.ED25519, bytes([index]) * 32)
    for index in range(5)
]
VALIDATORS = {key.public_key.key_id: key.public_key for key in KEYS}
STRANGER = private_key_from_seed(Algorithm.ED25519, b"\xee" * 32)

Signatures = tuple[tuple[KeyId, bytes], ...]


def signatures(keys: list[PrivateKey], message: bytes) -> Signatures:
    return tuple(sorted((key.public_key.key_id, key.sign(message)) for key in keys))


def commit(keys: list[PrivateKey], term: int = 3, height: int = 70_000) -> CommitCertificate:
    return CommitCertificate(term, height, HASH, signatures(keys, acknowledgement_message(CHAIN, term, height, HASH)))


def election(keys: list[PrivateKey], candidate: KeyId = KEYS[0].public_key.key_id) -> ElectionCertificate:
    message = vote_message(CHAIN, 4, candidate, 3, 70_000, HASH)
    return ElectionCertificate(4, candidate, 3, 70_000, HASH, signatures(keys, message))


def test_majorities_overlap_and_are_smallest() -> None:
    for size in range(1, 10):
        needed = majority(size)
        assert all(
            set(one) & set(two)
            for one in combinations(range(size), needed)
            for two in combinations(range(size), needed)
        )
        halves = combinations(range(size), needed - 1)
        assert any(not set(one) & set(two) for one in halves for two in combinations(range(size), needed - 1))


def test_messages_are_domain_separated_digests_of_the_listed_fields() -> None:
    def expected(domain: bytes, data: bytes) -> bytes:
        return hashlib.sha256(bytes([len(domain)]) + domain + data).digest()

    candidate = KEYS[0].public_key.key_id
    ballot = msgpack.packb([CHAIN, 4, candidate, 3, 9, HASH])
    assert proposal_message(HASH) == expected(b"patchwarden/proposal/1", HASH)
    assert acknowledgement_message(CHAIN, 3, 9, HASH) == expected(
        b"patchwarden/ack/1", msgpack.packb([CHAIN, 3, 9, HASH])
    )
    assert vote_message(CHAIN, 4, candidate, 3, 9, HASH) == expected(b"patchwarden/vote/1", ballot)
    assert prevote_message(CHAIN, 4, candidate, 3, 9, HASH) == expected(b"patchwarden/prevote/1", ballot)


def test_every_signed_field_changes_the_message() -> None:
    one, two = KEYS[0].public_key.key_id, KEYS[1].public_key.key_id
    other = Digest(b"\xac" * 32)
    ballots = [
        (CHAIN, 4, one, 3, 9, HASH),
        ("other", 4, one, 3, 9, HASH),
        (CHAIN, 5, one, 3, 9, HASH),
        (CHAIN, 4, two, 3, 9, HASH),
        (CHAIN, 4, one, 2, 9, HASH),
        (CHAIN, 4, one, 3, 8, HASH),
        (CHAIN, 4, one, 3, 9, other),
    ]
    acks = [(CHAIN, 3, 9, HASH), ("other", 3, 9, HASH), (CHAIN, 4, 9, HASH), (CHAIN, 3, 8, HASH), (CHAIN, 3, 9, other)]
    messages = [vote_message(*ballot) for ballot in ballots] + [prevote_message(*ballot) for ballot in ballots]
    messages += [acknowledgement_message(*ack) for ack in acks] + [proposal_message(HASH), proposal_message(other)]
    assert len(set(messages)) == len(messages)


@pytest.mark.parametrize("signers", [3, 4, 5])
def test_majority_of_signatures_verifies(signers: int) -> None:
    verify_commit_certificate(commit(KEYS[:signers]), CHAIN, VALIDATORS)
    verify_election_certificate(election(KEYS[-signers:]), CHAIN, VALIDATORS)


def test_single_validator_certifies_alone() -> None:
    alone = {KEYS[0].public_key.key_id: KEYS[0].public_key}
    verify_commit_certificate(commit(KEYS[:1]), CHAIN, alone)
    verify_election_certificate(election(KEYS[:1]), CHAIN, alone)


def test_certificates_survive_encoding() -> None:
    for number in range(6):
        assert decode_commit_certificate_untrusted(encode_commit_certificate(commit(KEYS[:number]))) == commit(
            KEYS[:number]
        )
        assert decode_election_certificate_untrusted(encode_election_certificate(election(KEYS[:number]))) == election(
            KEYS[:number]
        )


def test_largest_certificate_fits_its_limit() -> None:
    most = tuple((KeyId(bytes([index]) * 32), b"s" * SIGNATURE_BYTES_MAX) for index in range(VALIDATORS_MAX))
    data = encode_election_certificate(
        ElectionCertificate(2**63 - 1, KeyId(bytes(32)), 2**63 - 1, 2**63 - 1, HASH, most)
    )
    assert len(data) <= CERTIFICATE_BYTES_MAX
    assert decode_election_certificate_untrusted(data).signatures == most


# -- what is no proof --


def code_of(
    certificate: CommitCertificate | ElectionCertificate,
    chain: str = CHAIN,
    validators: Mapping[KeyId, PublicKey] = VALIDATORS,
) -> str:
    if isinstance(certificate, CommitCertificate):
        verify = partial(verify_commit_certificate, certificate)
    else:
        verify = partial(verify_election_certificate, certificate)
    with pytest.raises(InvalidCertificateError) as caught:
        verify(chain, validators)
    return caught.value.code


@pytest.mark.parametrize("make", [commit, election])
def test_too_few_signers(make: Callable[[list[PrivateKey]], CommitCertificate | ElectionCertificate]) -> None:
    for number in range(3):
        assert code_of(make(KEYS[:number])) == "wire.certificate.too_few"
    assert code_of(make(KEYS[:1]), validators=dict(list(VALIDATORS.items())[:2])) == "wire.certificate.too_few"


@pytest.mark.parametrize("make", [commit, election])
def test_stranger_among_the_signers(
    make: Callable[[list[PrivateKey]], CommitCertificate | ElectionCertificate],
) -> None:
    assert code_of(make([*KEYS[:3], STRANGER])) == "wire.certificate.stranger"
    assert code_of(make(KEYS[:3]), validators={}) == "wire.certificate.stranger"


@pytest.mark.parametrize("make", [commit, election])
def test_empty_certificate_proves_nothing_even_to_nobody(
    make: Callable[[list[PrivateKey]], CommitCertificate | ElectionCertificate],
) -> None:
    assert code_of(make([]), validators={}) == "wire.certificate.too_few"


@pytest.mark.parametrize("make", [commit, election])
def test_one_bad_signature_beside_a_majority_of_good_ones(
    make: Callable[[list[PrivateKey]], CommitCertificate | ElectionCertificate],
) -> None:
    certificate = make(KEYS)
    for index in range(5):
        damaged = list(certificate.signatures)
        damaged[index] = (damaged[index][0], damaged[(index + 1) % 5][1])
        assert code_of(replace(certificate, signatures=tuple(damaged))) == "wire.certificate.signature"


def test_certificate_of_another_chain_or_statement() -> None:
    assert code_of(commit(KEYS), chain="other") == "wire.certificate.signature"
    assert code_of(election(KEYS), chain="other") == "wire.certificate.signature"
    for changed in (
        replace(commit(KEYS), term=4),
        replace(commit(KEYS), height=1),
        replace(commit(KEYS), block_hash=Digest(bytes(32))),
    ):
        assert code_of(changed) == "wire.certificate.signature"
    for vote in (
        replace(election(KEYS), term=5),
        replace(election(KEYS), candidate=KEYS[1].public_key.key_id),
        replace(election(KEYS), last_term=2),
        replace(election(KEYS), last_height=1),
        replace(election(KEYS), last_hash=Digest(bytes(32))),
    ):
        assert code_of(vote) == "wire.certificate.signature"


def test_prevotes_are_no_votes() -> None:
    candidate = KEYS[0].public_key.key_id
    message = prevote_message(CHAIN, 4, candidate, 3, 70_000, HASH)
    assert code_of(replace(election(KEYS), signatures=signatures(KEYS, message))) == "wire.certificate.signature"


# -- form --


@pytest.mark.parametrize("make", [commit, election])
def test_signers_out_of_order_or_twice_are_refused(
    make: Callable[[list[PrivateKey]], CommitCertificate | ElectionCertificate],
) -> None:
    good = make(KEYS).signatures
    for bad in (good[::-1], (*good[:2], good[1]), (good[0], good[0]), (good[0], (good[0][0], good[1][1]))):
        with pytest.raises(MalformedError) as caught:
            replace(make(KEYS), signatures=bad)
        assert caught.value.code == "wire.certificate.order"


ID = b"\x01" * 32


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (7, "wire.field.tuple"),
        ((1, 2, 3, HASH), "wire.field.length"),
        ((2, 2, 3, HASH, ()), "wire.certificate.version"),
        (("1", 2, 3, HASH, ()), "wire.field.int"),
        ((1, -1, 3, HASH, ()), "wire.field.range"),
        ((1, 2, None, HASH, ()), "wire.field.int"),
        ((1, 2, 3, HASH[:31], ()), "wire.field.length"),
        ((1, 2, 3, HASH, None), "wire.field.tuple"),
        ((1, 2, 3, HASH, ((ID, b"s"),) * (VALIDATORS_MAX + 1)), "wire.field.length"),
        ((1, 2, 3, HASH, (ID,)), "wire.field.tuple"),
        ((1, 2, 3, HASH, ((ID, b"s", 1),)), "wire.field.length"),
        ((1, 2, 3, HASH, ((ID[:31], b"s"),)), "wire.field.length"),
        ((1, 2, 3, HASH, ((ID, b"s" * (SIGNATURE_BYTES_MAX + 1)),)), "wire.field.length"),
        ((1, 2, 3, HASH, ((ID, b"s"), (ID, b"t"))), "wire.certificate.order"),
    ],
    ids=count(),
)
def test_commit_certificate_of_wrong_form(value: object, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        decode_commit_certificate_untrusted(encode(value))  # type: ignore[arg-type]
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ((1, 4, ID, 3, 9, HASH), "wire.field.length"),
        ((0, 4, ID, 3, 9, HASH, ()), "wire.certificate.version"),
        ((1, 4, ID + b"x", 3, 9, HASH, ()), "wire.field.length"),
        ((1, 4, ID, -3, 9, HASH, ()), "wire.field.range"),
        ((1, 4, ID, 3, "9", HASH, ()), "wire.field.int"),
        ((1, 4, ID, 3, 9, "hash", ()), "wire.field.bytes"),
        ((1, 4, ID, 3, 9, HASH, ((ID, b"s"), (bytes(32), b"t"))), "wire.certificate.order"),
    ],
    ids=count(),
)
def test_election_certificate_of_wrong_form(value: object, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        decode_election_certificate_untrusted(encode(value))  # type: ignore[arg-type]
    assert caught.value.code == code


@pytest.mark.parametrize("decode", [decode_commit_certificate_untrusted, decode_election_certificate_untrusted])
def test_bytes_that_are_no_value(decode: Callable[[bytes], object]) -> None:
    for data, code in (
        (b"\xc1", "malformed"),
        (bytes(CERTIFICATE_BYTES_MAX + 1), "too_large"),
        (b"\xcc\x01", "not_canonical"),
    ):
        with pytest.raises(MalformedError) as caught:
            decode(data)
        assert caught.value.code == f"wire.codec.{code}"


def test_one_certificate_does_not_decode_as_the_other() -> None:
    with pytest.raises(MalformedError):
        decode_election_certificate_untrusted(encode_commit_certificate(commit(KEYS)))
    with pytest.raises(MalformedError):
        decode_commit_certificate_untrusted(encode_election_certificate(election(KEYS)))


# Joint configurations: two groups, and a majority of each


def groups(before: str, after: str) -> tuple[Mapping[KeyId, PublicKey], ...]:
    return tuple(
        {KEYS[int(digit)].public_key.key_id: KEYS[int(digit)].public_key for digit in digits}
        for digits in (before, after)
    )


@pytest.mark.parametrize(
    ("before", "after", "signers", "holds"),
    [
        ("012", "234", "012", False),  # all of the one, a third of the other
        ("012", "234", "234", False),
        ("012", "234", "123", True),
        ("012", "234", "0134", True),
        ("012", "234", "024", True),
        ("012", "0123", "012", True),
        ("0123", "012", "013", True),
        ("0123", "012", "03", False),
        ("0", "01", "0", False),
        ("0", "01", "01", True),
        ("01", "1", "1", False),
    ],
)
def test_a_joint_certificate_needs_a_majority_of_each_group(before: str, after: str, signers: str, holds: bool) -> None:
    quorums = groups(before, after)
    keys = [KEYS[int(digit)] for digit in signers]
    if holds:
        verify_commit_quorums(commit(keys), CHAIN, quorums)
        verify_election_quorums(election(keys), CHAIN, quorums)
        return
    for verify in (
        lambda: verify_commit_quorums(commit(keys), CHAIN, quorums),
        lambda: verify_election_quorums(election(keys), CHAIN, quorums),
    ):
        with pytest.raises(InvalidCertificateError) as caught:
            verify()
        assert caught.value.code == "wire.certificate.too_few"


def test_a_joint_certificate_is_as_strict_about_strangers_and_signatures() -> None:
    quorums = groups("012", "123")
    with pytest.raises(InvalidCertificateError) as caught:
        verify_commit_quorums(commit(KEYS), CHAIN, quorums)
    assert caught.value.code == "wire.certificate.stranger"
    certificate = commit(KEYS[:4])
    (signer, signature), *others = certificate.signatures
    bad = replace(certificate, signatures=((signer, signature[:-1] + bytes([signature[-1] ^ 1])), *others))
    with pytest.raises(InvalidCertificateError) as caught:
        verify_commit_quorums(bad, CHAIN, quorums)
    assert caught.value.code == "wire.certificate.signature"


def test_an_empty_group_in_a_joint_certificate_is_never_satisfied() -> None:
    with pytest.raises(InvalidCertificateError) as caught:
        verify_commit_quorums(commit(KEYS[:3]), CHAIN, (*groups("012", ""),))
    assert caught.value.code == "wire.certificate.too_few"
