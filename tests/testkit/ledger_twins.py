"""Slow and obvious versions of the ledger's algorithms, to compare the fast ones with."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from ledger.state_tree import hash_key, hash_value


def naive_state_root(entries: Mapping[bytes, bytes]) -> bytes:
    """Return the state root straight from its definition, bit by bit."""
    return _root({_bits(hash_key(key)): (hash_key(key), hash_value(value)) for key, value in entries.items()}, 0)


def _root(leaves: dict[str, tuple[bytes, bytes]], depth: int) -> bytes:
    if not leaves:
        return bytes(32)
    if len(leaves) == 1:
        ((key_hash, value_hash),) = leaves.values()
        return sha256(b"\x00" + key_hash + value_hash).digest()
    left = {bits: leaf for bits, leaf in leaves.items() if bits[depth] == "0"}
    right = {bits: leaf for bits, leaf in leaves.items() if bits[depth] == "1"}
    return sha256(b"\x01" + _root(left, depth + 1) + _root(right, depth + 1)).digest()


def _bits(place: bytes) -> str:
    return "".join(f"{byte:08b}" for byte in place)
