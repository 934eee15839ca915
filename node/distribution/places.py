"""Who may take a patch file from this node, and who else is named to the rest.

A place belongs to a peer and a file, from its question until it says that it is done or has been silent for a while. A validator gives out
so many places for a file, and no more while it can name somebody who has taken the file: that is what keeps its work the same however many
hosts there are. A host only bounds how many take at once. Whoever has been sent away, and has found no help, gets a place beyond the limit,
up to as many again. Pure: time is an argument.

Source: docs/spec/network.md 9.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from node.sync_slots import rank
from wire.hashing import Digest
from wire.keys import KeyId

PLACE_LIVE_S: Final = 10.0
"""A place is free again when its holder has asked for nothing for so long."""
TAKEN_S: Final = 3600.0
"""Who has taken a file is named to others, and counts against a validator's limit, for so long."""
ALL_FILES_FACTOR: Final = 4
"""Places of all files together, for each place of one file."""
EXTRA_FACTOR: Final = 2
"""With those that have found no help elsewhere, at most so many times the limit."""
OFFERS_MAX: Final = 16
"""Addresses in one answer."""
FILES_MAX: Final = 256
"""Files remembered; the one that nobody has asked for the longest time is forgotten."""
HOLDERS_MAX: Final = 64
"""Peers remembered for a file; the one that has not asked for the longest time is forgotten."""


@dataclass(frozen=True, slots=True)
class _Holder:
    address: str | None
    asked: float
    is_done: bool


class Places:
    """The places of one node.

    Args:
        limit: How many peers may take one file at a time; 0 serves nobody.
        counts_takers: Whether those who have taken a file already count as well, as on a validator.
    """

    def __init__(self, limit: int, *, counts_takers: bool) -> None:
        self.limit = limit
        self.redirected = 0
        """Questions that were answered with `busy`, since the start."""
        self._counts_takers = counts_takers
        self._files: OrderedDict[Digest, OrderedDict[KeyId, _Holder]] = OrderedDict()

    def used(self, now: float) -> int:
        """Return how many places are held, of all files together."""
        return sum(self._is_held(holder, now) for holders in self._files.values() for holder in holders.values())

    def ask(self, digest: Digest, asker: KeyId, address: str | None, *, is_stranded: bool, now: float) -> bool:
        """Give the asker a place for the file, or keep its own; return False when it must go to one of `others`.

        Args:
            digest: The file.
            asker: Who asks.
            address: Where others may find it later; None when nobody can.
            is_stranded: Whether it says that nobody else has helped.
            now: Seconds.
        """
        holders = self._holders(digest)
        held = holders.get(asker)
        may = self.limit > 0 and (
            (held is not None and self._is_held(held, now)) or self._has_room(digest, asker, is_stranded, now)
        )
        if may:
            self._note(holders, asker, _Holder(address, now, is_done=False))
        else:
            self.redirected += 1
        return may

    def renew(self, digest: Digest, asker: KeyId, now: float) -> bool:
        """Return whether the asker holds a place for the file, and keep it for a while longer."""
        holders = self._files.get(digest)
        held = None if holders is None else holders.get(asker)
        if holders is None or held is None or not self._is_held(held, now):
            return False
        self._note(holders, asker, replace(held, asked=now))
        return True

    def done(self, digest: Digest, asker: KeyId, *, has_file: bool, now: float) -> None:
        """Free the asker's place; it has the file now and may be named to others, or it has given up."""
        if self.renew(digest, asker, now):
            holders = self._files[digest]
            if has_file:
                holders[asker] = replace(holders[asker], is_done=True)
            else:
                del holders[asker]

    def others(self, digest: Digest, asker: KeyId, now: float) -> tuple[str, ...]:
        """Return addresses of those who have taken the file here, or are taking it; the former first, in the asker's own order."""
        known = [
            (not holder.is_done, rank(asker, key_id), holder.address)
            for key_id, holder in self._files.get(digest, {}).items()
            if holder.address is not None and key_id != asker and now - holder.asked <= TAKEN_S
        ]
        return tuple(address for _, _, address in sorted(known)[:OFFERS_MAX])

    def _has_room(self, digest: Digest, asker: KeyId, is_stranded: bool, now: float) -> bool:
        holders = self._files[digest]
        active = sum(self._is_held(holder, now) for holder in holders.values())
        if self.used(now) >= self.limit * ALL_FILES_FACTOR:
            return False
        if is_stranded:
            return active < self.limit * EXTRA_FACTOR
        counted = active
        if self._counts_takers:
            # Only whom others can find: the rest takes no work off this node.
            counted += sum(
                not self._is_held(holder, now) and holder.address is not None and now - holder.asked <= TAKEN_S
                for key_id, holder in holders.items()
                if key_id != asker
            )
        return counted < self.limit

    def _holders(self, digest: Digest) -> OrderedDict[KeyId, _Holder]:
        holders = self._files.setdefault(digest, OrderedDict())
        self._files.move_to_end(digest)
        if len(self._files) > FILES_MAX:
            self._files.popitem(last=False)
        return holders

    @staticmethod
    def _note(holders: OrderedDict[KeyId, _Holder], asker: KeyId, holder: _Holder) -> None:
        holders[asker] = holder
        holders.move_to_end(asker)
        if len(holders) > HOLDERS_MAX:
            holders.popitem(last=False)

    @staticmethod
    def _is_held(holder: _Holder, now: float) -> bool:
        return not holder.is_done and now - holder.asked <= PLACE_LIVE_S
