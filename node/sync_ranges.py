"""Which blocks to ask which source for: ranges from several at once, handed on in order.

::

    committed … next ▸ [ ready ][ in flight from A ][ gap ][ ready ][ in flight from B ] … heads of the sources
                                                      └─ the next question

Nothing is planned ahead. What is asked for next is the first gap above what was handed on, so that whatever a source that failed has left
undone becomes a gap again by itself. Above all heads one source at a time is asked for what comes next, and keeps the question open (the
*tail*). Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wire.keys import KeyId

if TYPE_CHECKING:
    from node.sync import CertifiedBlock

RANGE_BLOCKS: Final = 64
"""Blocks in one range."""
WINDOW_BLOCKS: Final = 1024
"""How far above the block that is wanted next anything is asked for."""
WINDOW_BYTES: Final = 32 * 1024 * 1024
"""Bytes that wait to be handed on; beyond it only what is wanted next is asked for."""
HEDGE_S: Final = 2.0
"""What everything waits for is asked of a second source after so long."""


@dataclass(frozen=True, slots=True)
class Job:
    """A question for one source."""

    start: int
    """The first height."""
    end: int | None
    """The last height; None for the tail: whatever comes next."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a source has answered."""

    start: int
    """The height that its first block should have."""
    blocks: Sequence[CertifiedBlock]
    """The blocks, not verified; at least one."""
    source: KeyId
    """Who sent them."""

    @property
    def end(self) -> int:
        """The height that its last block should have."""
        return self.start + len(self.blocks) - 1


@dataclass(frozen=True, slots=True)
class _Flight:
    job: Job
    since: float


class RangePlan:
    """What is wanted above `height`, in flight, and ready.

    Args:
        height: The height that is here already.
    """

    def __init__(self, height: int) -> None:
        self._next = height + 1
        self._ready: list[Batch] = []
        self._ready_bytes = 0
        self._flights: dict[KeyId, _Flight] = {}

    @property
    def next_height(self) -> int:
        """The height that is handed on next."""
        return self._next

    @property
    def tail_source(self) -> KeyId | None:
        """Who is asked for what comes above all heads."""
        return next((source for source, flight in self._flights.items() if flight.job.end is None), None)

    def next_job(
        self, source: KeyId, *, head: int, head_max: int, certified: int, now: float, may_wait: bool = True
    ) -> Job | None:
        """Return what to ask `source` for, and count on its answer; None when there is nothing for it now.

        Args:
            source: Who has no question open.
            head: The height up to which it says it has blocks.
            head_max: The greatest such height of all sources.
            certified: A height that is known to be certified, from anywhere.
            now: Seconds.
            may_wait: Whether it may be the one that is asked for what comes next.
        """
        assert source not in self._flights, "a source has one question at a time"
        job = self._first_gap(head, head_max, now, may_wait) or self._second_question(head, certified, now)
        if job is not None:
            self._flights[source] = _Flight(job, now)
        return job

    def _first_gap(self, head: int, head_max: int, now: float, may_wait: bool) -> Job | None:
        start, limit = self._next, self._next + WINDOW_BLOCKS
        covers = [(batch.start, batch.end) for batch in self._ready]
        for flight in self._flights.values():
            if flight.job.end is not None:
                covers.append((flight.job.start, flight.job.end))
            elif now - flight.since < HEDGE_S:
                # Its answer is on the way. Later, who has blocks above it may give them.
                covers.append((flight.job.start, limit))
        covers.sort()
        for cover_start, cover_end in covers:
            if cover_start > start:
                limit = min(limit, cover_start)
                break
            start = max(start, cover_end + 1)
        if self._ready_bytes > WINDOW_BYTES and start > self._next:
            return None
        if start <= head:
            end = min(start + RANGE_BLOCKS, limit, head + 1) - 1
            return Job(start, end) if end >= start else None
        # Not while anything below is on the way: that may have to be asked of this source as well.
        if may_wait and head_max < start < limit and not self._flights:
            return Job(start, None)
        return None

    def _second_question(self, head: int, certified: int, now: float) -> Job | None:
        """Return the question on which everything waits, when all who were asked take long and this one may know better."""
        start = self._next
        if any(batch.start <= start <= batch.end for batch in self._ready):
            return None
        asked = [
            flight
            for flight in self._flights.values()
            if flight.job.start <= start and (flight.job.end is None or flight.job.end >= start)
        ]
        if not asked or any(now - flight.since < HEDGE_S for flight in asked):
            return None
        end = asked[0].job.end
        if end is None:
            return Job(start, None) if certified >= start else None
        return Job(start, min(end, head)) if head >= start else None

    def deliver(self, source: KeyId, blocks: Sequence[CertifiedBlock]) -> None:
        """Take what `source` has answered; without blocks the question may be asked again."""
        flight = self._flights.pop(source, None)
        if flight is not None and blocks:
            batch = Batch(flight.job.start, blocks, source)
            if batch.end >= self._next:
                self._ready.append(batch)
                self._ready_bytes += _size(batch)

    def release(self, source: KeyId) -> None:
        """Count no longer on an answer of `source`."""
        self._flights.pop(source, None)

    def forget(self, source: KeyId) -> None:
        """Use nothing that `source` has sent, and count on nothing more."""
        self.release(source)
        self._keep([batch for batch in self._ready if batch.source != source])

    def take(self) -> Batch | None:
        """Return the batch that holds the next height, which counts as handed on; None when it is not here."""
        self._keep([batch for batch in self._ready if batch.end >= self._next])
        found = next((batch for batch in self._ready if batch.start <= self._next), None)
        if found is not None:
            self._keep([batch for batch in self._ready if batch is not found])
            self._next = found.end + 1
        return found

    def go_back(self, height: int) -> None:
        """Want what follows `height` next: what was handed on did not hold."""
        self._next = height + 1

    def _keep(self, batches: list[Batch]) -> None:
        self._ready = batches
        self._ready_bytes = sum(_size(batch) for batch in batches)


def _size(batch: Batch) -> int:
    return sum(len(item.block) + len(item.certificate or b"") for item in batch.blocks)
