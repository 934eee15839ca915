"""Observers serve observers: a node's slots, what an observer learns from the node around it, and whom it asks for more than blocks.

Whatever an observer wants to have (snapshots, a damaged block, a checkpoint to compare with), it asks of those it follows and of other
observers first; patch files have rules of their own (`node.distribution`). How often it goes to a validator past them depends on how far
from the validators it is, so that what validators are asked for has a bound however many observers there are.

Source: docs/spec/network.md 7.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final

import trio

from node.distribution.fetching import Neighbours
from node.joining import JoinServer, Standing
from node.net.address import with_peer_id_untrusted
from node.observer import Surroundings
from node.sync import PeerLedger
from node.sync_slots import Slots
from wire.keys import KeyId

if TYPE_CHECKING:
    from node.app import Node

NAMED_ASKED_MAX: Final = 3
"""Observers besides those it follows that a node asks for something, before it asks validators."""
NAMED_ASKED_FOR_FILES_MAX: Final = 16
"""The same for a patch file, when nobody else helps."""
DIRECT_CHECK_TURNS: Final = 12
"""A follower of a validator compares checkpoints with a validator once in so many turns, of 5 s; one that is a step further away
`observers_max` times as seldom, and so on."""
DIRECT_CHECK_TURNS_MAX: Final = 17_280
"""Once a day."""


class Relaying:
    """What a node has to do with observers, itself one or not.

    Raises:
        AddressError: ``node.net.address``, ``node.net.peer_id``: the setting `announce` is no address of this node.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        announce = node.config.announce
        self._announce = with_peer_id_untrusted(announce, node.network.own.raw_key) if announce else None
        self.slots = Slots(node.config.observers_max)
        self.server = JoinServer(self.slots, node.replica, self._standing, node.network.remote)
        self._turns = count(1)
        self._next_fixed = count()

    def surroundings(self, own: KeyId) -> Surroundings:
        """Return what the node's observer knows of the node."""
        return Surroundings(
            own=own,
            announce=self._announced,
            room=lambda: self.slots.room(trio.current_time()),
            connect=lambda key_id, address: PeerLedger(self._node.network, key_id, address),
            certified=self._certified,
        )

    def peers(self) -> list[PeerLedger]:
        """Return whom to ask for what any node may have: on an observer those near it first, the validators last."""
        fixed = self._node.peer_ledgers()
        if self._node.observer is None:
            return fixed
        near = {peer.key_id: peer for peer in self._near()}
        return [*near.values(), *(peer for peer in fixed if peer.key_id not in near)]

    def neighbours(self) -> Neighbours:
        """Return whom to ask for a patch file."""
        fixed = self._node.peer_ledgers()
        if self._node.observer is None:
            return Neighbours([], fixed)
        names = {peer.key_id for peer in fixed}
        near = [peer for peer in self._near(0) if peer.key_id not in names]
        names.update(peer.key_id for peer in near)
        return Neighbours(
            near, fixed, [peer for peer in self._near(NAMED_ASKED_FOR_FILES_MAX) if peer.key_id not in names]
        )

    def announced(self) -> str | None:
        """Return where others may find this node; None for one that will be a validator, and one that nobody can reach."""
        return self._announced()

    def peers_to_compare(self) -> list[PeerLedger]:
        """Return whose checkpoints may be asked for this time."""
        observer, fixed = self._node.observer, self._node.peer_ledgers()
        others = [] if observer is None else self._near()
        if observer is None or not others:
            return fixed
        turns = DIRECT_CHECK_TURNS * max(2, self.slots.observers_max) ** max(0, len(observer.path) - 1)
        if fixed and next(self._turns) % min(turns, DIRECT_CHECK_TURNS_MAX) == 0:
            return [fixed[next(self._next_fixed) % len(fixed)]]
        return others

    def document(self) -> dict[str, Any]:
        """Return who is fed, and by whom this node is, for the status document."""
        observer = self._node.observer
        followers = self.slots.followers(trio.current_time())
        return {
            "observers": {
                "limit": self.slots.observers_max,
                "redirected": self.slots.redirected,
                "fed": [
                    {
                        "key_id": each.key_id.hex(),
                        "address": each.wish.address,
                        "height": each.wish.height,
                        "beyond_limit": each.is_extra,
                    }
                    for each in followers
                ],
            },
            "sync": None if observer is None else observer.document(),
        }

    def observe(self) -> None:
        """Set the metrics; called when somebody asks for them."""
        metrics = self._node.metrics
        observer = self._node.observer
        metrics.sync_sources.set(0 if observer is None else observer.sources)
        metrics.observers.set(self.slots.used(trio.current_time()))
        metrics.observers_redirected.set(self.slots.redirected)
        consensus, rpc = self._node.network.sent_bytes()
        metrics.sent_bytes.labels("consensus").set(consensus)
        metrics.sent_bytes.labels("rpc").set(rpc)

    def _near(self, named_max: int = NAMED_ASKED_MAX) -> list[PeerLedger]:
        assert self._node.observer is not None
        return [
            PeerLedger(self._node.network, peer.key_id, peer.address) for peer in self._node.observer.others(named_max)
        ]

    def _standing(self) -> Standing:
        observer = self._node.observer
        if observer is None:
            return Standing((), is_fed=True)
        return Standing(observer.path, is_fed=observer.is_fed)

    def _announced(self) -> str | None:
        """Return where others may follow this node; None for one that will be a validator, and one that feeds nobody."""
        config = self._node.config
        if config.role == "validator" or not self.slots.observers_max or not self._node.multiaddr:
            return None
        return self._announce or self._node.multiaddr

    def _certified(self) -> int:
        highest = self._node.checkpoints.highest
        return 0 if highest is None else highest.height
