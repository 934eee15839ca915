"""The question for a slot, and its answer: `follow.join`.

An observer asks whoever it wants to follow before it asks for blocks, and again every few seconds. It says where it can be followed itself;
the answer says how far the other one is, by which way blocks come to it, and who else may be asked.

Source: docs/spec/network.md 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

import trio

from ledger.state import StateView
from node.errors import AddressError
from node.membership import known_nodes
from node.net.address import key_id_of, parse_address_untrusted
from node.sync_slots import OFFERS_MAX, Slots, Wish, is_loop
from wire.codec import Value, decode_untrusted, encode
from wire.errors import MalformedError, RejectedError
from wire.fields import as_bool, as_digest, as_int, as_optional, as_text, as_tuple
from wire.keys import KeyId
from wire.limits import FRAME_BYTES_MAX

if TYPE_CHECKING:
    from node.net.network import Network
    from node.replica import LedgerReplica

FOLLOW_JOIN: Final = "follow.join"
PATH_MAX: Final = 16
"""Nodes on the way of a block from a validator; who is that far away feeds nobody."""
BEHIND_BLOCKS_MAX: Final = 64
"""Who is so far behind the asker is of no use to it."""
SINGLE_PER_S_MAX: Final = 32
"""Questions for a single block without a slot that are answered in a second, of all peers together."""
_COUNT_MAX: Final = 1_000_000
_ADDRESS_BYTES_MAX: Final = 400
_REQUEST_BYTES_MAX: Final = 1024

FULL: Final = "node.sync.full"
"""All slots are taken."""
LOOP: Final = "node.sync.loop"
"""The blocks here come from who asks."""
DEEP: Final = "node.sync.deep"
"""The way from the validators is too long already."""
BEHIND: Final = "node.sync.behind"
"""This node is behind who asks."""
REFUSALS: Final = (FULL, LOOP, DEEP, BEHIND)


@dataclass(frozen=True, slots=True)
class Joined:
    """The answer to a question for a slot."""

    refusal: str | None
    """Why there is no slot; None when there is one."""
    head: int
    """The height up to which the node has certified blocks."""
    path: tuple[KeyId, ...]
    """Through whom blocks come to the node, a validator first; empty for a validator itself."""
    offers: tuple[str, ...]
    """Multiaddresses, with ``/p2p/…``, of others that may be asked."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a node that is asked stands itself."""

    path: tuple[KeyId, ...]
    """Through whom blocks come to it."""
    is_fed: bool
    """Whether blocks come to it now: it is a validator, or has a source."""


def encode_wish(wish: Wish) -> bytes:
    """Return the request's payload."""
    return encode((wish.address, wish.height, wish.room, wish.sources, wish.is_stranded))


def decode_wish_untrusted(payload: bytes) -> Wish:
    """Return what an observer says of itself.

    Raises:
        MalformedError: ``wire.*``.
    """
    values = as_tuple(decode_untrusted(payload, bytes_max=_REQUEST_BYTES_MAX), "request", length=5)
    return Wish(
        as_optional(values[0], "address", _as_address),
        as_int(values[1], "height"),
        as_int(values[2], "room", maximum=_COUNT_MAX),
        as_int(values[3], "sources", maximum=_COUNT_MAX),
        as_bool(values[4], "is_stranded"),
    )


def encode_joined(joined: Joined) -> bytes:
    """Return the response's payload."""
    path: tuple[Value, ...] = tuple(bytes(key_id) for key_id in joined.path)
    return encode((joined.refusal, joined.head, path, joined.offers))


def decode_joined_untrusted(payload: bytes) -> Joined:
    """Return a peer's answer. Its offers have the form of text; nothing else about them is checked.

    Raises:
        MalformedError: ``wire.*``.
    """
    values = as_tuple(decode_untrusted(payload, bytes_max=FRAME_BYTES_MAX), "answer", length=4)
    refusal = as_optional(values[0], "refusal", _as_refusal)
    path = as_tuple(values[2], "path", length_max=PATH_MAX)
    offers = as_tuple(values[3], "offers", length_max=OFFERS_MAX)
    return Joined(
        refusal,
        as_int(values[1], "head"),
        tuple(KeyId(as_digest(key_id, "path")) for key_id in path),
        tuple(_as_address(offer, "offer") for offer in offers),
    )


def _as_address(value: object, name: str) -> str:
    return as_text(value, name, _ADDRESS_BYTES_MAX)


def _as_refusal(value: object, name: str) -> str:
    if value not in REFUSALS:
        raise MalformedError("node.sync.refusal", f"{name} is not known", expected=", ".join(REFUSALS))
    return str(value)


def reachable_address(announced: str | None, asker: KeyId, remote: str) -> str | None:
    """Return the multiaddress at which others may find the asker, or None when they cannot.

    Args:
        announced: Where it says it listens, with ``/p2p/…``.
        asker: The key that its connection has proven; an address of somebody else is none of its.
        remote: Where its connection comes from, ``IP:PORT``: stands in for an address such as 0.0.0.0.
    """
    if announced is None:
        return None
    try:
        address = parse_address_untrusted(announced)
        if address.raw_key is None or key_id_of(address.raw_key) != asker or not address.port:
            return None
        if address.protocol not in ("ip4", "ip6"):
            return str(address)
        seen = ip_address(remote.rpartition(":")[0].strip("[]"))
    except (RejectedError, ValueError):
        return None
    if ip_address(address.host).is_unspecified:
        address = replace(address, protocol=f"ip{seen.version}", host=str(seen))
    # Another machine's loopback is nobody's.
    return str(address) if seen.is_loopback or not ip_address(address.host).is_loopback else None


def owner_of_untrusted(address: str) -> KeyId:
    """Return whose an offered address is.

    Raises:
        AddressError: ``node.net.address``, ``node.net.peer_id``: nobody can be dialled there.
    """
    parsed = parse_address_untrusted(address)
    if parsed.raw_key is None or not parsed.port:
        raise AddressError(
            "node.net.address", "the address does not say whose it is", expected="…/p2p/PEERID", actual=address
        )
    return key_id_of(parsed.raw_key)


def certified_height(view: StateView) -> int:
    """Return the height of the newest block whose own certificate is stored, or 0."""
    height = view.height
    while height > 0 and view.certificate(height) is None:
        height -= 1
    return height


class JoinServer:
    """Gives slots and names others.

    Args:
        slots: The slots.
        replica: This node's ledger.
        standing: Returns where this node stands.
        remote: Returns where a connected peer's connection comes from.
    """

    def __init__(
        self,
        slots: Slots,
        replica: LedgerReplica,
        standing: Callable[[], Standing],
        remote: Callable[[KeyId], str],
    ) -> None:
        self._slots = slots
        self._replica = replica
        self._standing = standing
        self._remote = remote
        self._spare_since = -1.0
        self._spare_used = 0

    def register(self, network: Network) -> None:
        """Answer `follow.join` on `network`."""
        network.handle(FOLLOW_JOIN, self.join)

    def is_exempt(self, peer: KeyId) -> bool:
        """Return whether the peer takes part in consensus, and so needs no slot."""
        committed, tip = self._replica.latest_view(), StateView(self._replica.chain.tip())
        return peer in known_nodes(committed.configuration(), tip.configuration())

    def admits(self, peer: KeyId, height: int, *, is_single: bool = False) -> bool:
        """Return whether the peer, whose replica is at `height`, may have blocks; a single one may be for a repair, which needs no slot."""
        now = trio.current_time()
        if self.is_exempt(peer) or self._slots.note_question(peer, height, now):
            return True
        return is_single and self._spare(now)

    def _spare(self, now: float) -> bool:
        """Return whether this second has room for one more question without a slot, and count it."""
        if now - self._spare_since >= 1:
            self._spare_since, self._spare_used = now, 0
        self._spare_used += 1
        return self._spare_used <= SINGLE_PER_S_MAX

    async def join(self, peer: KeyId, payload: bytes) -> bytes:
        """Answer one question for a slot."""
        wish = decode_wish_untrusted(payload)
        wish = replace(wish, address=reachable_address(wish.address, peer, self._remote(peer)))
        now = trio.current_time()
        for follower in self._slots.followers(now):
            if not self._remote(follower.key_id):
                self._slots.leave(follower.key_id)  # Its connection is gone, and so is whoever asked by it.
        with self._replica.view() as view:
            head = certified_height(view)
        standing = self._standing()
        refusal = None
        if not self.is_exempt(peer):
            refusal = self._refusal(peer, wish, head, standing, now)
        return encode_joined(Joined(refusal, head, standing.path, self._slots.offers(peer, wish.height, now)))

    def _refusal(self, peer: KeyId, wish: Wish, head: int, standing: Standing, now: float) -> str | None:
        refusal: str | None = None
        if is_loop(peer, standing.path):
            refusal = LOOP
        elif len(standing.path) >= PATH_MAX:
            refusal = DEEP
        elif head <= wish.height if not standing.is_fed else head + BEHIND_BLOCKS_MAX < wish.height:
            refusal = BEHIND
        if refusal is None:
            return None if self._slots.join(peer, wish, now) else FULL
        self._slots.leave(peer)
        return refusal
