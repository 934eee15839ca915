"""In which order the hosts of a group take their turns: a permutation that follows from the rollout's and the group's name alone.

The hosts of a group have the places 0 to *n* − 1. Where a host stands in the order is computed from its own place in constant time, without
the list of the others: a Feistel network over the smallest even number of bits that holds *n*, walked until it comes out below *n*.

Source: docs/spec/rollouts.md 4.
"""

from __future__ import annotations

from typing import Final

from wire.hashing import DOMAIN_ROLLOUT_ORDER, hash_domain

ROUNDS: Final = 4
"""Rounds of the network. It spreads hosts over waves; nothing secret depends on it."""


def rank_of(rollout_id: str, group_id: str, slot: int, size: int) -> int:
    """Return the rank, 0 to `size` − 1, of the host at `slot` of a group that had `size` hosts; no two slots have the same."""
    assert 0 <= slot < size, "only hosts that were counted have a rank"
    half_bits = ((size - 1).bit_length() + 1) // 2
    if half_bits == 0:
        return 0
    key = b"%b\x00%b\x00" % (rollout_id.encode(), group_id.encode())
    rank = slot
    while True:
        rank = _permute(key, rank, half_bits)
        if rank < size:
            return rank


def _permute(key: bytes, value: int, half_bits: int) -> int:
    mask = (1 << half_bits) - 1
    left, right = value >> half_bits, value & mask
    for number in range(ROUNDS):
        digest = hash_domain(DOMAIN_ROLLOUT_ORDER, key + bytes([number]) + right.to_bytes(4, "big"))
        left, right = right, left ^ (int.from_bytes(digest[:4], "big") & mask)
    return left << half_bits | right
