"""Who may take a patch file from this node, and who else is named to the rest.

A place belongs to a peer and a file, from its question until it says that it is done or has been silent for a while. A host bounds how many
take at once; whoever has been sent away, and has found no help, gets a place beyond the limit, up to as many again.

A validator bounds what it gives besides, chunk by chunk, so that its work is the same however many hosts there are and however slow::

    copies     so many in an hour, each to somebody who can be found and is named to the rest
    spare      so many more at once, and then one in `spare_interval_s`: for who has found no help, and for whom nobody can find
    chunks     each copy is so many chunks (`allowance`); who has had them has had its copy, and needs another one

Nobody is left without: a spare copy comes back with time alone, and the last one is for who has had none. Pure: time is an argument.

Source: docs/spec/network.md 9.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace
from typing import Final

from node.sync_slots import rank
from wire.hashing import Digest
from wire.keys import KeyId

PLACE_LIVE_S: Final = 10.0
"""A place is free again when its holder has asked for nothing for so long."""
TAKEN_S: Final = 3600.0
"""Who has taken a file is named to others, and counts against a validator's limit, for so long."""
SPARE_S_MIN: Final = 10.0
SPARE_S_PER_CHUNK: Final = 4.0
"""A validator has one more spare copy of a file after so long for each chunk, 64 KiB a second, and not sooner than the former."""
SPARE_HOUR_FACTOR: Final = 15
"""And not more than so many spare copies of a file in `TAKEN_S`, for each one that is given in any case."""
RETRY_SHARE: Final = 4
RETRY_CHUNKS: Final = 2
"""A copy is its chunks, one more for every `RETRY_SHARE` of them, and `RETRY_CHUNKS`: answers get lost."""
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


def allowance(chunks: int) -> int:
    """Return how many chunks a validator gives for one copy of a file of `chunks`."""
    return chunks + chunks // RETRY_SHARE + RETRY_CHUNKS


def spare_max(limit: int) -> int:
    """Return how many spare copies a validator has at most: two at least, since the last one is not for everybody."""
    return max(2, limit)


def spare_interval_s(chunks: int) -> float:
    """Return after how many seconds a validator has one more spare copy of a file of `chunks`."""
    return max(SPARE_S_MIN, SPARE_S_PER_CHUNK * chunks)


def copies_max(limit: int, chunks: int, seconds: float) -> int:
    """Return how many copies of a file one validator gives in so many seconds at most, whoever asks: the bound that tests hold it to."""
    hours = 1 + int(seconds // TAKEN_S)
    spare = spare_max(limit) + int(seconds / spare_interval_s(chunks))
    return limit * hours + min(spare, limit * SPARE_HOUR_FACTOR * hours)


@dataclass(frozen=True, slots=True)
class _Holder:
    address: str | None
    asked: float
    is_done: bool
    left: int
    """Chunks that it may still be given; of no meaning without a ration."""
    given: float = 0.0
    """When its copy was given."""


@dataclass(slots=True)
class _Ration:
    """What a validator has given of one file."""

    spare: float
    spare_at: float
    copies: deque[float] = field(default_factory=deque)
    """When the usual copies of the last hour were given."""
    spares: deque[float] = field(default_factory=deque)
    """The same of spare ones."""

    def refill(self, limit: int, chunks: int, now: float) -> None:
        self.spare = min(float(spare_max(limit)), self.spare + max(0.0, now - self.spare_at) / spare_interval_s(chunks))
        self.spare_at = now
        for given in (self.copies, self.spares):
            while given and now - given[0] > TAKEN_S:
                given.popleft()

    def give_back(self, given: float, limit: int) -> None:
        """Take note that nothing was taken of the copy that was given then."""
        if given in self.copies:
            self.copies.remove(given)
        elif given in self.spares:
            self.spares.remove(given)
            self.spare = min(float(spare_max(limit)), self.spare + 1)


@dataclass(slots=True)
class _File:
    ration: _Ration
    holders: OrderedDict[KeyId, _Holder] = field(default_factory=OrderedDict)


class Places:
    """The places of one node.

    Args:
        limit: How many peers may take one file at a time; 0 serves nobody.
        is_rationed: Whether what it gives of a file has a bound over time as well, as on a validator.
    """

    def __init__(self, limit: int, *, is_rationed: bool) -> None:
        self.limit = limit
        self.redirected = 0
        """Questions that were answered with `busy`, since the start."""
        self.spare_given = 0
        """Copies beyond those that are given in any case, since the start."""
        self._is_rationed = is_rationed
        self._files: OrderedDict[Digest, _File] = OrderedDict()

    def used(self, now: float) -> int:
        """Return how many places are held, of all files together."""
        return sum(_is_held(holder, now) for file in self._files.values() for holder in file.holders.values())

    def ask(
        self, digest: Digest, asker: KeyId, address: str | None, *, chunks: int, is_stranded: bool, now: float
    ) -> bool:
        """Give the asker a place for the file, or keep its own; return False when it must go to one of `others`.

        Args:
            digest: The file.
            asker: Who asks.
            address: Where others may find it later; None when nobody can.
            chunks: How many the file has.
            is_stranded: Whether it says that nobody else has helped.
            now: Seconds.
        """
        file = self._file(digest, now)
        held = file.holders.get(asker)
        if held is not None and _is_held(held, now) and self._has_left(held):
            self._note(file, asker, replace(held, address=address, asked=now))
            return True
        granted = self._grant(file, asker, address, chunks, is_stranded=is_stranded, now=now)
        if granted is None:
            self.redirected += 1
            return False
        self._note(file, asker, granted)
        return True

    def renew(self, digest: Digest, asker: KeyId, now: float) -> bool:
        """Return whether the asker holds a place for the file, and keep it for a while longer."""
        return self._renew(digest, asker, now, chunks=0)

    def spend(self, digest: Digest, asker: KeyId, now: float) -> bool:
        """Return whether the asker may be given a chunk now, which then counts as given; keep its place for a while longer."""
        return self._renew(digest, asker, now, chunks=1)

    def done(self, digest: Digest, asker: KeyId, *, chunks: int, has_file: bool, now: float) -> None:
        """Free the asker's place; it has the file now and may be named to others, or it has given up.

        A copy of which nothing was taken can be given to somebody else.
        """
        if not self.renew(digest, asker, now):
            return
        file = self._files[digest]
        held = file.holders[asker]
        if has_file:
            file.holders[asker] = replace(held, is_done=True)
            return
        if self._is_rationed and held.left == allowance(chunks):
            del file.holders[asker]
            file.ration.give_back(held.given, self.limit)
        elif not self._is_rationed:
            del file.holders[asker]
        else:
            # It is remembered with what it had, so that it goes on with the rest of its copy.
            file.holders[asker] = replace(held, address=None, asked=now - PLACE_LIVE_S - 1)

    def others(self, digest: Digest, asker: KeyId, now: float) -> tuple[str, ...]:
        """Return addresses of those who have taken the file here, or are taking it; the former first, in the asker's own order."""
        file = self._files.get(digest)
        known = [
            (not holder.is_done, rank(asker, key_id), holder.address)
            for key_id, holder in (() if file is None else file.holders.items())
            if holder.address is not None and key_id != asker and now - holder.asked <= TAKEN_S
        ]
        return tuple(address for _, _, address in sorted(known)[:OFFERS_MAX])

    def _grant(
        self, file: _File, asker: KeyId, address: str | None, chunks: int, *, is_stranded: bool, now: float
    ) -> _Holder | None:
        """Return the place that the asker gets now; None when there is none for it."""
        active = sum(_is_held(holder, now) for key_id, holder in file.holders.items() if key_id != asker)
        if self.used(now) >= self.limit * ALL_FILES_FACTOR or active >= self.limit * (
            EXTRA_FACTOR if is_stranded else 1
        ):
            return None
        place = _Holder(address, now, is_done=False, left=allowance(chunks), given=now)
        if not self._is_rationed:
            return place
        before = file.holders.get(asker)
        if before is not None and now - before.asked > TAKEN_S:
            before = None
        if before is not None and not before.is_done and before.left:
            return replace(before, address=address, asked=now)  # It goes on with its copy.
        ration = file.ration
        ration.refill(self.limit, chunks, now)
        if address is not None and len(ration.copies) < self.limit:
            ration.copies.append(now)
            return place
        # Only who can be found takes work off this node, so a copy for somebody else is a spare one; the last is for who has had none.
        least = 1 if before is None else spare_max(self.limit)
        is_due = ration.spare >= least and len(ration.spares) < self.limit * SPARE_HOUR_FACTOR
        if (is_stranded or address is None) and is_due:
            ration.spare -= 1
            ration.spares.append(now)
            self.spare_given += 1
            return place
        return None

    def _renew(self, digest: Digest, asker: KeyId, now: float, chunks: int) -> bool:
        file = self._files.get(digest)
        held = None if file is None else file.holders.get(asker)
        if file is None or held is None or not _is_held(held, now) or (chunks and not self._has_left(held)):
            return False
        self._note(file, asker, replace(held, asked=now, left=max(0, held.left - chunks)))
        return True

    def _has_left(self, holder: _Holder) -> bool:
        return holder.left > 0 or not self._is_rationed

    def _file(self, digest: Digest, now: float) -> _File:
        file = self._files.setdefault(digest, _File(_Ration(float(spare_max(self.limit)), now)))
        self._files.move_to_end(digest)
        if len(self._files) > FILES_MAX:
            self._files.popitem(last=False)
        return file

    @staticmethod
    def _note(file: _File, asker: KeyId, holder: _Holder) -> None:
        file.holders[asker] = holder
        file.holders.move_to_end(asker)
        if len(file.holders) > HOLDERS_MAX:
            file.holders.popitem(last=False)


def _is_held(holder: _Holder, now: float) -> bool:
    return not holder.is_done and now - holder.asked <= PLACE_LIVE_S
