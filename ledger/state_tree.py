"""The authenticated map over the state: one root, and proofs of presence and of absence.

It is a compact sparse Merkle tree over the hashes of the state keys, read bit by bit from the most significant one. The hash of a set of
entries is

* 32 zero bytes for no entry,
* ``SHA-256(0x00 || key hash || value hash)`` for one entry, wherever it stands (a subtree with one leaf is that leaf),
* ``SHA-256(0x01 || hash of those with bit 0 || hash of those with bit 1)`` otherwise.

So the root depends on the entries alone, never on their history. Storage is another matter: sixteen subtrees, four bits apart, share one
row of the table STATE_NODE (a *page*), so that a lookup costs a few reads and an update a few writes::

    page key     depth in nibbles (1 byte) || the path's nibbles, padded with a zero nibble
    page value   16-bit mask of non-empty slots || 16-bit mask of slots with a single leaf || the slots, in order
    slot         key hash || value hash (a single leaf), or the subtree's hash (its own page has the rest)

Source: docs/spec/ledger.md 8; the collapsing of single leaves follows Diem's Jellyfish Merkle tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from struct import Struct
from typing import Final, TypeAlias

from ledger.block import ZERO_DIGEST
from ledger.errors import LedgerCorruptionError, ProofRefusedError
from ledger.keyspace import Reader, Table, WriteSet
from wire.hashing import DIGEST_BYTES, DOMAIN_STATE_KEY, DOMAIN_STATE_VALUE, Digest, hash_domain

KEY_BITS: Final = 256
ROOT_PAGE: Final = b"\x00"
"""Key of the page at depth 0."""

_Slot: TypeAlias = bytes | None
"""None: empty. 64 bytes: a leaf, key hash and value hash. 32 bytes: the hash of a subtree with two leaves or more."""
_Item: TypeAlias = tuple[bytes, bytes | None]
"""Key hash, and the new value hash or None to remove the entry."""

_LEAF_BYTES: Final = 2 * DIGEST_BYTES
_SLOTS: Final = 16
_MASKS: Final = Struct(">HH")
_ALL: Final = (1 << _SLOTS) - 1
_DENSE_OFFSETS: Final = tuple(range(_MASKS.size, _MASKS.size + _SLOTS * DIGEST_BYTES, DIGEST_BYTES))


def hash_key(key: bytes) -> Digest:
    """Return the place of a state key in the tree, 32 bytes."""
    return hash_domain(DOMAIN_STATE_KEY, key)


def hash_value(value: bytes) -> Digest:
    """Return what the tree commits to for a value, 32 bytes."""
    return hash_domain(DOMAIN_STATE_VALUE, value)


def update(reader: Reader, changes: Mapping[bytes, bytes | None]) -> tuple[Digest, WriteSet]:
    """Return the root after `changes`, and the rows of STATE_NODE that change.

    Args:
        reader: The tree as it is; only STATE_NODE is read.
        changes: State key to new value, or to None to remove it. Removing what is not there changes nothing.

    Raises:
        LedgerCorruptionError: ``ledger.corruption.state_tree``: a page is missing or unreadable.
    """
    writes: WriteSet = {}
    items = sorted((hash_key(key), None if value is None else hash_value(value)) for key, value in changes.items())
    raw = reader.get(Table.STATE_NODE, ROOT_PAGE)
    slots: list[_Slot] = [None] * _SLOTS if raw is None else _decode_page(raw)
    # The root page stays a page even when it holds a single leaf or nothing.
    _update_slots(reader, slots, 0, items, writes)
    if items:
        writes[Table.STATE_NODE, ROOT_PAGE] = _encode_page(slots) if any(slots) else None
    return _hash_of(_fold(slots)), writes


def read_root(reader: Reader) -> Digest:
    """Return the root of the tree that `reader` holds."""
    raw = reader.get(Table.STATE_NODE, ROOT_PAGE)
    return ZERO_DIGEST if raw is None else _hash_of(_fold(_decode_page(raw)))


@dataclass(frozen=True, slots=True)
class StateProof:
    """Shows what a state key holds, or that it holds nothing, under a state root."""

    key: bytes
    """The state key (`ledger.keyspace`)."""
    value: bytes | None
    """The encoded record, or None: absent."""
    siblings: tuple[Digest, ...]
    """Hashes beside the path from the root down, 32 bytes each; zeros for an empty subtree."""
    other_leaf: tuple[Digest, Digest] | None
    """For absence: key hash and value hash of the one leaf that stands where the key would be, or None if nothing stands there."""


def prove(reader: Reader, key: bytes) -> StateProof:
    """Return the proof of what `key` holds under the tree's root.

    Raises:
        LedgerCorruptionError: ``ledger.corruption.state_tree``.
    """
    place = hash_key(key)
    siblings: list[Digest] = []
    depth = 0
    raw = reader.get(Table.STATE_NODE, ROOT_PAGE)
    slots: list[_Slot] = [None] * _SLOTS if raw is None else _decode_page(raw)
    while True:
        end = _descend(slots, _nibble(place, depth), siblings)
        if end is None or len(end) == _LEAF_BYTES:
            break
        depth += 1
        slots = _read_page(reader, place, depth)
    if end is None:
        return StateProof(key, None, tuple(siblings), None)
    if end[:DIGEST_BYTES] != place:
        return StateProof(key, None, tuple(siblings), (Digest(end[:DIGEST_BYTES]), Digest(end[DIGEST_BYTES:])))
    value = reader.get(Table.STATE, key)
    if value is None or hash_value(value) != end[DIGEST_BYTES:]:
        raise _corrupt("a leaf does not agree with its value")
    return StateProof(key, value, tuple(siblings), None)


def verify_state_proof(proof: StateProof, state_root: bytes) -> None:
    """Return only when, under `state_root`, ``proof.key`` holds ``proof.value``, or nothing if that is None.

    Args:
        proof: From anybody.
        state_root: From a certified header, 32 bytes.

    Raises:
        ProofRefusedError: ``ledger.proof.state``.
    """
    place = hash_key(proof.key)
    depth = len(proof.siblings)
    if depth > KEY_BITS:
        raise _not_proven("the path is longer than a key", KEY_BITS, depth)
    if proof.value is not None:
        if proof.other_leaf is not None:
            raise _not_proven("a proof of presence names another leaf", None, None)
        current = _hash_leaf(place + hash_value(proof.value))
    elif proof.other_leaf is None:
        current = ZERO_DIGEST
    else:
        other, value_hash = proof.other_leaf
        if len(other) != DIGEST_BYTES or len(value_hash) != DIGEST_BYTES:
            raise _not_proven("a leaf is two digests", None, None)
        if other == place or _prefix(other, depth) != _prefix(place, depth):
            raise _not_proven("the other leaf does not stand where the key would be", None, other)
        current = _hash_leaf(other + value_hash)
    for bit_index in range(depth - 1, -1, -1):
        sibling = proof.siblings[bit_index]
        if len(sibling) != DIGEST_BYTES:
            raise _not_proven("a sibling is not a digest", DIGEST_BYTES, len(sibling))
        goes_right = place[bit_index >> 3] >> (7 - (bit_index & 7)) & 1
        current = _hash_inner(sibling, current) if goes_right else _hash_inner(current, sibling)
    if current != state_root:
        raise _not_proven("the path does not lead to the state root", state_root, current)


def _update_slots(reader: Reader, slots: list[_Slot], depth: int, items: Iterable[_Item], writes: WriteSet) -> None:
    """Change `slots`, the page at `depth`, by the sorted `items` below it, and the pages below through `writes`."""
    for nibble, grouped in groupby(items, key=lambda item: _nibble(item[0], depth)):
        group = list(grouped)
        slot = slots[nibble]
        if slot is not None and len(slot) == DIGEST_BYTES:
            below = _read_page(reader, group[0][0], depth + 1)
            slots[nibble] = _update_page(reader, below, depth + 1, group, writes)
            continue
        if slot is not None and all(place != slot[:DIGEST_BYTES] for place, _ in group):
            group.append((slot[:DIGEST_BYTES], slot[DIGEST_BYTES:]))
            group.sort()
        live = [(place, value_hash) for place, value_hash in group if value_hash is not None]
        if len(live) <= 1:
            slots[nibble] = live[0][0] + live[0][1] if live else None
        else:
            slots[nibble] = _update_page(reader, [None] * _SLOTS, depth + 1, live, writes)


def _update_page(reader: Reader, slots: list[_Slot], depth: int, items: Sequence[_Item], writes: WriteSet) -> _Slot:
    """Return what the parent's slot becomes after `items` are put into the page `slots`, which is written or removed."""
    key = _page_key(items[0][0], depth)
    _update_slots(reader, slots, depth, items, writes)
    folded = _fold(slots)
    if folded is None or len(folded) == _LEAF_BYTES:
        # Only a page that was stored can shrink to this; a new one is made for two leaves or more.
        writes[Table.STATE_NODE, key] = None
        return folded
    writes[Table.STATE_NODE, key] = _encode_page(slots)
    return folded


def _fold(slots: Sequence[_Slot]) -> _Slot:
    """Return what a power of two of neighbouring slots are together, as one slot of a page above would hold it."""
    level = slots
    while len(level) > 1:
        level = [_join(left, right) for left, right in zip(level[::2], level[1::2], strict=True)]
    return level[0]


def _join(left: _Slot, right: _Slot) -> _Slot:
    if left is None:
        if right is None or len(right) == _LEAF_BYTES:
            return right
        return sha256(b"\x01" + ZERO_DIGEST + right).digest()
    if right is None:
        if len(left) == _LEAF_BYTES:
            return left
        return sha256(b"\x01" + left + ZERO_DIGEST).digest()
    if len(left) == _LEAF_BYTES:
        left = sha256(b"\x00" + left).digest()
    if len(right) == _LEAF_BYTES:
        right = sha256(b"\x00" + right).digest()
    return sha256(b"\x01" + left + right).digest()


def _descend(slots: Sequence[_Slot], nibble: int, siblings: list[Digest]) -> _Slot:
    """Return where the path through a page ends, and append the hashes beside it: nothing, a leaf, or the hash of the next page."""
    here = slots
    while True:
        folded = _fold(here)
        if folded is None or len(folded) == _LEAF_BYTES or len(here) == 1:
            return folded
        half = len(here) // 2
        # The nibble's bits from the top: each halves what is left.
        if nibble & half:
            siblings.append(_hash_of(_fold(here[:half])))
            here = here[half:]
        else:
            siblings.append(_hash_of(_fold(here[half:])))
            here = here[:half]


def _hash_of(slot: _Slot) -> Digest:
    if slot is None:
        return ZERO_DIGEST
    return _hash_leaf(slot) if len(slot) == _LEAF_BYTES else Digest(slot)


def _hash_leaf(leaf: bytes) -> Digest:
    return Digest(sha256(b"\x00" + leaf).digest())


def _hash_inner(left: bytes, right: bytes) -> Digest:
    return Digest(sha256(b"\x01" + left + right).digest())


def _nibble(place: bytes, depth: int) -> int:
    byte = place[depth >> 1]
    return byte & 0x0F if depth & 1 else byte >> 4


def _prefix(place: bytes, bits: int) -> int:
    return int.from_bytes(place, "big") >> (KEY_BITS - bits)


def _page_key(place: bytes, depth: int) -> bytes:
    whole = depth >> 1
    if depth & 1:
        return bytes((depth, *place[:whole], place[whole] & 0xF0))
    return bytes((depth,)) + place[:whole]


def _read_page(reader: Reader, place: bytes, depth: int) -> list[_Slot]:
    raw = reader.get(Table.STATE_NODE, _page_key(place, depth))
    if raw is None:
        raise _corrupt(f"the page at depth {depth} is missing")
    return _decode_page(raw)


def _encode_page(slots: Sequence[_Slot]) -> bytes:
    present = 0
    leaves = 0
    for index, slot in enumerate(slots):
        if slot is not None:
            present |= 1 << index
            if len(slot) == _LEAF_BYTES:
                leaves |= 1 << index
    return _MASKS.pack(present, leaves) + b"".join(slot for slot in slots if slot is not None)


def _decode_page(raw: bytes) -> list[_Slot]:
    if len(raw) < _MASKS.size:
        raise _corrupt("a page is cut short")
    present, leaves = _MASKS.unpack_from(raw)
    if leaves & ~present or len(raw) != _MASKS.size + DIGEST_BYTES * (present.bit_count() + leaves.bit_count()):
        raise _corrupt("a page does not have the length that it announces")
    if present == _ALL and not leaves:
        return [raw[offset : offset + DIGEST_BYTES] for offset in _DENSE_OFFSETS]
    slots: list[_Slot] = [None] * _SLOTS
    position = _MASKS.size
    for index in range(_SLOTS):
        if present >> index & 1:
            end = position + (_LEAF_BYTES if leaves >> index & 1 else DIGEST_BYTES)
            slots[index] = raw[position:end]
            position = end
    return slots


def _corrupt(why: str) -> LedgerCorruptionError:
    return LedgerCorruptionError("ledger.corruption.state_tree", f"the stored state tree cannot be read: {why}")


def _not_proven(why: str, expected: object, actual: object) -> ProofRefusedError:
    return ProofRefusedError(
        "ledger.proof.state", f"the state proof does not hold: {why}", expected=expected, actual=actual
    )
