"""Whom an observer may ask, and what it thinks of each: who comes next, who has to wait, who has lied.

Fixed candidates are the configured peers and the ledger's validators; the others are observers that somebody named. All are tried in an
order of this node's own, the fixed ones first. Whoever fails waits a little, longer each time; who has no slot waits longer; who has sent
what does not hold is dropped, at least for a minute. Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Final

from node.sync_slots import rank
from wire.keys import KeyId

FAILED_PAUSE_S: Final = 0.2
FAILED_PAUSE_MAX_S: Final = 30.0
"""Who does not answer is asked again after a pause between these, twice as long each time."""
FULL_PAUSE_S: Final = 5.0
FULL_PAUSE_MAX_S: Final = 300.0
"""The same for who has no slot for us."""
LIE_PAUSE_S: Final = 60.0
LIE_PAUSE_MAX_S: Final = 3600.0
"""The same for who sent what does not hold."""
STRANDED_PAUSE_S: Final = 2.0
"""Without any source nobody but a liar waits longer than this."""
NAMED_MAX: Final = 64
"""Observers remembered that others have named."""
SHOWN_MAX: Final = 32
"""Dropped peers in the status."""


@dataclass(slots=True)
class Candidate:
    """Somebody who may be asked."""

    key_id: KeyId
    """Its node key."""
    address: str
    """Where it is dialled."""
    is_fixed: bool
    """Whether it is configured or a validator, rather than named by somebody."""
    failures: int = 0
    """How often in a row it did not help."""
    lies: int = 0
    """How often it sent what does not hold."""
    not_before: float = 0.0
    """When it may be asked again, seconds."""
    code: str = ""
    """Why it last did not help; empty when it did."""
    is_dropped: bool = False
    """Whether it is left alone because of what it sent last."""


class Directory:
    """The candidates of one observer.

    Args:
        own: This node's key.
    """

    def __init__(self, own: KeyId) -> None:
        self._own = own
        self._candidates: dict[KeyId, Candidate] = {}

    def set_fixed(self, addresses: Mapping[KeyId, str]) -> None:
        """Let exactly these be the fixed candidates."""
        for key_id, candidate in self._candidates.items():
            candidate.is_fixed = key_id in addresses
        for key_id, address in addresses.items():
            candidate = self._candidates.setdefault(key_id, Candidate(key_id, address, is_fixed=True))
            candidate.address = address
        self._candidates.pop(self._own, None)

    def learn(self, key_id: KeyId, address: str) -> None:
        """Remember an observer that somebody named; the one that was named first, of too many, is forgotten."""
        if key_id == self._own:
            return
        candidate = self._candidates.get(key_id)
        if candidate is not None:
            if not candidate.is_fixed:
                candidate.address = address
            return
        named = [each for each in self._candidates.values() if not each.is_fixed]
        if len(named) >= NAMED_MAX:
            # Who was dropped stays known, or it would be named again at once.
            oldest = next((each for each in named if not each.is_dropped), None)
            if oldest is None:
                return
            del self._candidates[oldest.key_id]
        self._candidates[key_id] = Candidate(key_id, address, is_fixed=False)

    def choose(self, busy: Container[KeyId], now: float) -> Candidate | None:
        """Return who is asked next: nobody who is `busy`, and nobody who has to wait."""
        free = [each for each in self._candidates.values() if each.key_id not in busy and each.not_before <= now]
        return min(free, key=lambda each: (not each.is_fixed, rank(self._own, each.key_id)), default=None)

    def note_useful(self, key_id: KeyId, now: float) -> None:
        """Take note that it has helped; what a liar sent before its lie does not count."""
        candidate = self._candidates.get(key_id)
        if candidate is not None and not (candidate.is_dropped and candidate.not_before > now):
            candidate.failures, candidate.code, candidate.is_dropped = 0, "", False

    def note_failed(self, key_id: KeyId, code: str, now: float) -> None:
        """Take note that it did not help, for no fault that could be proven."""
        self._pause(key_id, code, now, FAILED_PAUSE_S, FAILED_PAUSE_MAX_S)

    def note_full(self, key_id: KeyId, code: str, now: float) -> None:
        """Take note that it will not feed this node."""
        self._pause(key_id, code, now, FULL_PAUSE_S, FULL_PAUSE_MAX_S)

    def note_lie(self, key_id: KeyId, code: str, now: float) -> float:
        """Take note that it sent what does not hold; return for how many seconds it is left alone."""
        candidate = self._candidates.get(key_id)
        if candidate is None:
            return 0.0
        candidate.lies += 1
        pause_s = min(LIE_PAUSE_S * (1 << min(candidate.lies - 1, 16)), LIE_PAUSE_MAX_S)
        candidate.code, candidate.not_before, candidate.is_dropped = code, now + pause_s, True
        return pause_s

    def is_dropped(self, key_id: KeyId, now: float) -> bool:
        """Return whether a peer is left alone now because of what it sent."""
        candidate = self._candidates.get(key_id)
        return candidate is not None and candidate.is_dropped and candidate.not_before > now

    def hurry(self, now: float) -> None:
        """Let nobody but liars wait long: there is no source left."""
        for candidate in self._candidates.values():
            if not candidate.is_dropped:
                candidate.not_before = min(candidate.not_before, now + STRANDED_PAUSE_S)

    def named(self, now: float) -> list[Candidate]:
        """Return the observers that somebody named and that need not wait, in this node's own order."""
        found = [each for each in self._candidates.values() if not each.is_fixed and each.not_before <= now]
        return sorted(found, key=lambda each: rank(self._own, each.key_id))

    def dropped(self, now: float) -> list[Candidate]:
        """Return who is left alone because of what it sent, the one for the longest time first."""
        found = [each for each in self._candidates.values() if each.is_dropped and each.not_before > now]
        return sorted(found, key=lambda each: -each.not_before)[:SHOWN_MAX]

    def _pause(self, key_id: KeyId, code: str, now: float, least_s: float, most_s: float) -> None:
        candidate = self._candidates.get(key_id)
        if candidate is not None:
            pause_s = min(least_s * (1 << min(candidate.failures, 16)), most_s)
            candidate.failures += 1
            candidate.code, candidate.not_before, candidate.is_dropped = code, now + pause_s, False
