"""Domain separation: what is hashed, byte for byte."""

from __future__ import annotations

import hashlib
from itertools import count

import pytest

from wire import hashing
from wire.hashing import hash_domain, sha256

DOMAINS = {
    name: value for name, value in vars(hashing).items() if name.startswith("DOMAIN_") and isinstance(value, bytes)
}


def test_sha256_is_sha256() -> None:
    assert sha256(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("domain", [*DOMAINS.values(), b"patchwarden/other/1", b"x" * 255], ids=count())
def test_domain_hash_covers_length_domain_and_data(domain: bytes) -> None:
    assert hash_domain(domain, b"data") == hashlib.sha256(bytes([len(domain)]) + domain + b"data").digest()


def test_length_keeps_domain_and_data_apart() -> None:
    assert hash_domain(b"a", b"bc") != hash_domain(b"ab", b"c")


def test_domains_differ_and_carry_name_and_version() -> None:
    assert len(set(DOMAINS.values())) == len(DOMAINS) >= 10
    for domain in DOMAINS.values():
        product, _, version = domain.decode("ascii").split("/")
        assert (product, version) == ("patchwarden", "1")


@pytest.mark.parametrize("domain", [b"", b"x" * 256], ids=["empty", "long"])
def test_impossible_domain_is_our_bug(domain: bytes) -> None:
    with pytest.raises(AssertionError):
        hash_domain(domain, b"data")
