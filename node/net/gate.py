"""Who may enter: members of the ledger, known by the key that their handshake proved.

The gate is asked twice: after the handshake of an inbound connection, before anything else of it exists, and again now and then while a
connection lasts, so that a revoked node is cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from node.clock import monotonic_ms
from node.errors import PeerRefusedError
from node.net.address import key_id_of, peer_id, raw_key_from_multihash_untrusted
from wire.errors import CorruptionError, RejectedError
from wire.keys import KeyId

REFUSAL_LOG_MS: Final = 1_000
"""At most one line a second about strangers: a flood of them must not fill the disk."""

_log = structlog.get_logger("node.net")


@dataclass(frozen=True, slots=True)
class Peer:
    """A node whose key is proven (inbound) or demanded (outbound)."""

    raw_key: bytes
    """The 32-byte Ed25519 node key."""
    key_id: KeyId
    """The same key as the ledger names it."""

    @property
    def peer_id(self) -> str:
        """The same key as libp2p names it."""
        return peer_id(self.raw_key)


def peer_of(raw_key: bytes) -> Peer:
    """Return the peer with this 32-byte key.

    Raises:
        RejectedError: ``wire.key.*`` when it is no usable key.
    """
    return Peer(raw_key, key_id_of(raw_key))


class Gate:
    """Decides with the ledger's word.

    Args:
        is_member: Whether the node with this 32-byte Ed25519 key may connect, by the ledger's present state. Must not block.
        on_corruption: Told when `is_member` finds the ledger damaged; nobody is admitted then.
    """

    def __init__(self, is_member: Callable[[bytes], bool], on_corruption: Callable[[CorruptionError], None]) -> None:
        self._is_member = is_member
        self._on_corruption = on_corruption
        self._logged_at_ms = -REFUSAL_LOG_MS
        self.refused = 0
        """Strangers turned away since the start."""

    def admit_untrusted(self, multihash: bytes) -> Peer:
        """Return the peer whose handshake proved this PeerId, in binary form, if it is a member.

        Raises:
            PeerRefusedError: ``node.net.not_a_member``.
        """
        try:
            peer = peer_of(raw_key_from_multihash_untrusted(multihash))
        except RejectedError as error:
            raise self._refuse(multihash.hex()) from error
        if not self.is_member(peer):
            raise self._refuse(peer.peer_id)
        return peer

    def is_member(self, peer: Peer) -> bool:
        """Return whether the ledger still lists this peer."""
        try:
            return self._is_member(peer.raw_key)
        except CorruptionError as error:
            self._on_corruption(error)
            return False

    def _refuse(self, who: str) -> PeerRefusedError:
        self.refused += 1
        now_ms = monotonic_ms()
        if now_ms - self._logged_at_ms >= REFUSAL_LOG_MS:
            self._logged_at_ms = now_ms
            _log.warning("a stranger was refused", peer=who, refused=self.refused)
        return PeerRefusedError("node.net.not_a_member", "this network does not know the peer", actual=who)
