"""SHA-256, and SHA-256 under a domain so that one signature never means two things.

Every digest that is signed or that names a ledger object is a `hash_domain`. Plain `sha256` names contents: patch bodies, diffs, payloads,
public keys, files.
"""

from __future__ import annotations

from hashlib import sha256 as _sha256
from typing import Final, NewType

Digest = NewType("Digest", bytes)
"""A SHA-256 digest: exactly 32 bytes."""

DIGEST_BYTES: Final = 32

DOMAIN_TRANSACTION: Final = b"patchwarden/tx/1"
DOMAIN_BLOCK: Final = b"patchwarden/block/1"
DOMAIN_PROPOSAL: Final = b"patchwarden/proposal/1"
DOMAIN_ACK: Final = b"patchwarden/ack/1"
DOMAIN_PREVOTE: Final = b"patchwarden/prevote/1"
DOMAIN_VOTE: Final = b"patchwarden/vote/1"
DOMAIN_ELECTION: Final = b"patchwarden/election/1"
DOMAIN_STATE_KEY: Final = b"patchwarden/state-key/1"
DOMAIN_STATE_VALUE: Final = b"patchwarden/state-value/1"
DOMAIN_VALIDATORS: Final = b"patchwarden/validators/1"
DOMAIN_POLICY: Final = b"patchwarden/policy/1"
DOMAIN_GENESIS: Final = b"patchwarden/genesis/1"
DOMAIN_CHECKPOINT: Final = b"patchwarden/checkpoint/1"
DOMAIN_SNAPSHOT: Final = b"patchwarden/snapshot/1"
DOMAIN_PEER: Final = b"patchwarden/peer/1"
DOMAIN_EXECUTED: Final = b"patchwarden/executed/1"
DOMAIN_RECOVERY: Final = b"patchwarden/recovery/1"
DOMAIN_ROLLOUT_ORDER: Final = b"patchwarden/rollout-order/1"

DOMAIN_BYTES_MAX: Final = 255
"""A domain's length is hashed as one byte."""


def sha256(data: bytes | memoryview) -> Digest:
    """Return the SHA-256 of `data`, 32 bytes."""
    return Digest(_sha256(data).digest())


def hash_domain(domain: bytes, data: bytes) -> Digest:
    """Return the SHA-256 of the domain's length (one byte), the domain and `data`: 32 bytes that no other domain can produce.

    The length byte keeps ``("a", "bc")`` and ``("ab", "c")`` apart.

    Args:
        domain: One of the `DOMAIN_` constants, 1 to 255 bytes.
        data: What is hashed, usually a canonical encoding.

    Source: docs/spec/wire.md 2.
    """
    return Digest(_sha256(_prefix(domain) + data).digest())


def _prefix(domain: bytes) -> bytes:
    prefix = _PREFIXES.get(domain)
    if prefix is None:
        # Domains are constants of the program, so a bad one is our bug and not an input to refuse.
        assert 1 <= len(domain) <= DOMAIN_BYTES_MAX, "a domain has 1 to 255 bytes"
        prefix = bytes([len(domain)]) + domain
    return prefix


_PREFIXES: Final = {
    domain: bytes([len(domain)]) + domain
    for domain in (
        DOMAIN_TRANSACTION,
        DOMAIN_BLOCK,
        DOMAIN_PROPOSAL,
        DOMAIN_ACK,
        DOMAIN_PREVOTE,
        DOMAIN_VOTE,
        DOMAIN_ELECTION,
        DOMAIN_STATE_KEY,
        DOMAIN_STATE_VALUE,
        DOMAIN_VALIDATORS,
        DOMAIN_POLICY,
        DOMAIN_GENESIS,
        DOMAIN_CHECKPOINT,
        DOMAIN_SNAPSHOT,
        DOMAIN_PEER,
        DOMAIN_EXECUTED,
        DOMAIN_RECOVERY,
        DOMAIN_ROLLOUT_ORDER,
    )
}
