"""Whom this node feeds with blocks: observers in so many slots, validators always; and whom it names to the rest.

::

    validator ──┬── observer ──┬── observer        each feeds at most `observers_max` others
                ├── observer   └── observer
                └── observer ───── observer        who finds no slot is told the addresses of those who have one

A slot belongs to whoever has asked lately. Nobody is sent away into nothing: while there is nobody to name, and for those who have found no
source anywhere, there are slots beyond the limit. Pure: time is an argument.

Source: docs/spec/network.md 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from wire.keys import KeyId

SLOT_LIVE_S: Final = 30.0
"""A slot is free again when its holder has asked for nothing for so long."""
EXTRA_FACTOR: Final = 2
"""With everybody who has found no source elsewhere, at most so many times the limit."""
FOLLOWERS_MAX: Final = 1024
"""Slots beyond any limit, where there is nobody to name."""
OFFERS_MAX: Final = 16
"""Addresses in one answer."""
OFFER_LAG_BLOCKS: Final = 512
"""A follower that was so far behind the asker when it last asked is not named to it."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What an observer says of itself when it asks for a slot."""

    address: str | None
    """Where others may follow it; None when nobody can."""
    height: int
    """The height of its replica."""
    room: int
    """How many more it would feed itself."""
    sources: int
    """From how many others it gets blocks now."""
    is_stranded: bool
    """Whether it has looked for a source everywhere and has none."""


@dataclass(frozen=True, slots=True)
class Follower:
    """Who holds a slot."""

    key_id: KeyId
    """Its node key."""
    wish: Wish
    """What it last said of itself; the height is from its last question."""
    asked: float
    """When it asked last, seconds."""
    is_extra: bool
    """Whether the slot is beyond the limit."""


class Slots:
    """The slots of one node.

    Args:
        observers_max: How many observers to feed.
    """

    def __init__(self, observers_max: int) -> None:
        self.observers_max = observers_max
        self.redirected = 0
        """Questions for a slot that were answered with others' addresses, since the start."""
        self._followers: dict[KeyId, Follower] = {}

    def used(self, now: float) -> int:
        """Return how many hold a slot."""
        self._expire(now)
        return len(self._followers)

    def room(self, now: float) -> int:
        """Return how many slots are free."""
        return max(0, self.observers_max - self.used(now))

    def followers(self, now: float) -> tuple[Follower, ...]:
        """Return who holds a slot, in the order in which they came."""
        self._expire(now)
        return tuple(self._followers.values())

    def join(self, asker: KeyId, wish: Wish, now: float) -> bool:
        """Give the asker a slot, or keep it in its own; return False when it must go to one of `offers`."""
        self._expire(now)
        held = self._followers.get(asker)
        if held is not None:
            if held.is_extra and len(self._followers) > self.observers_max:
                # It came when it had nobody else. Now it has, and the place may be somebody's who has not.
                if wish.sources > 1 and self.offers(asker, wish.height, now):
                    del self._followers[asker]
                    self.redirected += 1
                    return False
                self._followers[asker] = replace(held, wish=wish, asked=now)
            else:
                self._followers[asker] = Follower(asker, wish, now, is_extra=False)
            return True
        used = len(self._followers)
        is_extra = used >= self.observers_max
        if is_extra and self.offers(asker, wish.height, now):
            may = wish.is_stranded and used < EXTRA_FACTOR * self.observers_max
        else:
            may = used < FOLLOWERS_MAX
        if may:
            self._followers[asker] = Follower(asker, wish, now, is_extra)
        else:
            self.redirected += 1
        return may

    def note_question(self, asker: KeyId, height: int, now: float) -> bool:
        """Return whether the asker may have blocks: it holds a slot, or takes a free one by asking. Its replica is at `height`."""
        held = self._followers.get(asker)
        if held is None:
            return self.join(asker, Wish(None, height, 0, 0, is_stranded=False), now)
        self._followers[asker] = replace(held, wish=replace(held.wish, height=height), asked=now)
        return True

    def leave(self, peer: KeyId) -> None:
        """Free the slot of `peer`, if it holds one."""
        self._followers.pop(peer, None)

    def offers(self, asker: KeyId, height: int, now: float) -> tuple[str, ...]:
        """Return addresses at which an asker whose replica is at `height` may ask instead, the most promising first.

        Who asks gets them in an order of its own, so that not all go to the same one.
        """
        self._expire(now)
        fit = [
            follower
            for follower in self._followers.values()
            if follower.wish.address is not None
            and follower.key_id != asker
            and follower.wish.height + OFFER_LAG_BLOCKS >= height
        ]
        fit.sort(key=lambda follower: (follower.wish.room == 0, rank(asker, follower.key_id)))
        return tuple(follower.wish.address or "" for follower in fit[:OFFERS_MAX])

    def _expire(self, now: float) -> None:
        for key_id in [each.key_id for each in self._followers.values() if now - each.asked > SLOT_LIVE_S]:
            del self._followers[key_id]


def rank(asker: KeyId, other: KeyId) -> bytes:
    """Return where `other` stands in the asker's own order: the same each time, and another for each asker."""
    return sha256(bytes(asker) + bytes(other)).digest()


def is_loop(own: KeyId, path: Sequence[KeyId]) -> bool:
    """Return whether blocks on this path from a validator come from `own` itself."""
    return own in path
