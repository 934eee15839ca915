"""The log of one replica: what is durable, what is on its way to the disk, and what is held back.

::

    1 ............ durable_height ............ last_height
    |  on disk, recent ones in memory too  |  in memory only: being written, or held back

*Position* is (term, height) of the last block, the order in which Raft compares logs (Raft 5.4.1). The position of what is written never
falls: blocks that would replace others but end at a lower position are held back in memory until those that follow them lead further.
An acknowledged block's position is therefore a lower bound for every later vote, whatever a leader sends (docs/spec/consensus.md 6.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from consensus.errors import StoredStateError
from consensus.limits import RECENT_ENTRIES_MAX
from consensus.messages import Entry
from wire.certificate import CommitCertificate
from wire.hashing import Digest

Position: TypeAlias = tuple[int, int]
"""(term, height) of a log's last block."""


class LogReader(Protocol):
    """Synchronous reads of the durable log, as it is on disk at the moment of the call.

    Only durable blocks are asked for, and recent ones come from memory, so this serves the start, elections and far laggards.
    """

    @property
    def first_height(self) -> int:
        """Height of the lowest block that `entry` can return; 1 unless the log was pruned or began with a snapshot."""
        ...

    @property
    def last_height(self) -> int:
        """Height of the last block on disk; 0 at genesis."""
        ...

    def entry(self, height: int) -> Entry:
        """Return the block at `height`, from `first_height` to `last_height`."""
        ...

    def entries(self, low: int, high: int, bytes_max: int) -> tuple[Entry, ...]:
        """Return blocks `low` to `high`, both included, cut after at most `bytes_max` bytes of data but never empty."""
        ...

    def term_and_hash(self, height: int) -> tuple[int, Digest]:
        """Return term and hash of the block at `height`, `first_height` - 1 or above; for height 0 term 0 and the hash of genesis."""
        ...

    def find_certificate(self, height_max: int) -> CommitCertificate | None:
        """Return the stored commit certificate with the greatest height that is at most `height_max`, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Write:
    """What must be written for the disk to agree with the log in memory."""

    truncate_from: int | None
    """Blocks from this height on are replaced."""
    entries: tuple[Entry, ...]
    """Blocks to write; never empty."""


class RaftLog:
    """A log in memory over a `LogReader`. Knows order and durability; knows no rule about leaders or commitment."""

    __slots__ = (
        "_bytes_max",
        "_entries",
        "_floor",
        "_held_bytes",
        "_held_from",
        "_reader",
        "_recent_bytes",
        "_start",
        "durable_height",
        "last_hash",
        "last_height",
        "last_term",
    )

    def __init__(self, reader: LogReader, recent_bytes_max: int) -> None:
        """Begin with what is on disk, nothing of it in memory."""
        self._reader = reader
        self._bytes_max = recent_bytes_max
        self._load()

    def _load(self) -> None:
        self.last_height = self._reader.last_height
        self.last_term, self.last_hash = self._reader.term_and_hash(self.last_height)
        self.durable_height = self.last_height
        # Blocks from _start to last_height, by height. Those above durable_height are here always, the others as room allows.
        self._entries: dict[int, Entry] = {}
        self._start = self.last_height + 1
        self._recent_bytes = 0
        self._held_from: int | None = None
        self._held_bytes = 0
        self._floor: Position = (self.last_term, self.last_height)

    @property
    def position(self) -> Position:
        """The highest of: the position of what is (being) written, and that of the log in memory."""
        return max(self._floor, (self.last_term, self.last_height))

    @property
    def is_durable(self) -> bool:
        """Whether the whole log in memory is on disk."""
        return self.durable_height == self.last_height

    @property
    def is_held(self) -> bool:
        """Whether the end of the log is held back."""
        return self._held_from is not None

    @property
    def held_bytes(self) -> int:
        """Block bytes that are held back."""
        return self._held_bytes

    @property
    def first_height(self) -> int:
        """Height of the lowest block that can be read."""
        return self._reader.first_height

    def term_and_hash(self, height: int) -> tuple[int, Digest]:
        """Return term and hash of the block at `height`, `first_height` - 1 to `last_height`."""
        assert 0 <= height <= self.last_height
        entry = self._entries.get(height)
        if entry is not None:
            return entry.term, entry.block_hash
        return self._reader.term_and_hash(height)

    def entries(self, low: int, count_max: int, bytes_max: int) -> tuple[Entry, ...]:
        """Return blocks from `low` on: at most `count_max`, at most `bytes_max` bytes of data but at least one; none above the last."""
        high = min(self.last_height, low + count_max - 1)
        if low > high:
            return ()
        if low < self._start:
            return self._reader.entries(low, min(high, self._start - 1), bytes_max)
        found: list[Entry] = []
        size = 0
        for height in range(low, high + 1):
            entry = self._entries[height]
            size += len(entry.data)
            if found and size > bytes_max:
                break
            found.append(entry)
        return tuple(found)

    def find_last_at_or_below_term(self, height: int, term: int) -> tuple[int, int]:
        """Return (height, term) of the highest block at or below `height` whose term is at most `term`.

        If no block that can be read is so, that is the height below the first one: genesis, or what a snapshot stands for. Terms never
        fall along a log, so this is a binary search.
        """
        low = self.first_height - 1
        high = max(low, min(height, self.last_height))
        while low < high:
            middle = (low + high + 1) // 2
            if self.term_and_hash(middle)[0] <= term:
                low = middle
            else:
                high = middle - 1
        return low, self.term_and_hash(low)[0]

    def append(self, entry: Entry) -> None:
        """Add a leader's own block, which must be written."""
        assert not self.is_held
        self._push(entry)
        self._floor = (self.last_term, self.last_height)

    def accept(self, entries: Sequence[Entry]) -> Write | None:
        """Take in blocks that begin right after, or replace, blocks of this log; return what must be written, if anything.

        The first entry is at most one above the last height, and differs from what is there. None means that the blocks are held
        back. The caller has checked that nothing committed is replaced, and that the log is durable or held when `can_replace` says so.
        """
        first = entries[0].height
        replaces = first <= self.last_height
        end = (entries[-1].term, entries[-1].height)
        truncate_from = first if replaces else None
        if self._held_from is not None:
            self._held_from = min(self._held_from, first)
        elif replaces and end <= self._floor:
            assert self.is_durable
            self._held_from = first
        if replaces:
            self._cut(first)
        for entry in entries:
            self._push(entry)
        if self._held_from is None:
            self._floor = end
            return Write(truncate_from, tuple(entries))
        if end <= self._floor:
            self._held_bytes = sum(len(self._entries[h].data) for h in range(self._held_from, self.last_height + 1))
            return None
        truncate_from = self._held_from
        self._held_from = None
        self._held_bytes = 0
        self._floor = end
        return Write(truncate_from, tuple(self._entries[h] for h in range(truncate_from, self.last_height + 1)))

    def can_accept(self, entries: Sequence[Entry]) -> bool:
        """Return whether `accept` can take these blocks now; if not, it can when everything under way is durable."""
        if self.is_held or self.is_durable or entries[0].height > self.last_height:
            return True
        return (entries[-1].term, entries[-1].height) > self._floor

    def mark_durable(self, height: int, block_hash: Digest) -> bool:
        """Take note that the log on disk ends with this block; return whether more of this log is durable than before."""
        if self.is_held or not self.durable_height < height <= self.last_height:
            return False
        # A write that was overtaken by a replacement says nothing about this log; the replacement's own write will.
        if self._entries[height].block_hash != block_hash:
            return False
        self.durable_height = height
        self._evict()
        return True

    def contains(self, height: int, block_hash: Digest) -> bool:
        """Return whether the log has this very block at this height."""
        return self.first_height - 1 <= height <= self.last_height and self.term_and_hash(height)[1] == block_hash

    def reload(self) -> None:
        """Forget everything that is not durable and go back to the log on disk, which a snapshot may have replaced."""
        self._load()

    def _cut(self, height: int) -> None:
        for gone in range(max(height, self._start), self.last_height + 1):
            self._recent_bytes -= len(self._entries.pop(gone).data)
        self._start = min(self._start, height)
        self.last_height = height - 1
        self.durable_height = min(self.durable_height, self.last_height)

    def _push(self, entry: Entry) -> None:
        assert entry.height == self.last_height + 1
        self._entries[entry.height] = entry
        self._recent_bytes += len(entry.data)
        self.last_height, self.last_term, self.last_hash = entry.height, entry.term, entry.block_hash

    def _evict(self) -> None:
        while self._start <= self.durable_height and (
            self._recent_bytes > self._bytes_max or len(self._entries) > RECENT_ENTRIES_MAX
        ):
            self._recent_bytes -= len(self._entries.pop(self._start).data)
            self._start += 1


def check_stored(reader: LogReader, term: int, commit_height: int) -> None:
    """Return only when log, term and commit height on disk can belong together.

    Raises:
        StoredStateError: ``consensus.stored.log`` when the log ends below the commit height; ``consensus.stored.term`` when its last
            block is of a later term than the stored one.
    """
    if reader.last_height < commit_height:
        raise StoredStateError(
            "consensus.stored.log",
            "the stored log ends below the commit height",
            hint="do not start this node: restore its data directory, or let it join as a new one",
            expected=f"height {commit_height}",
            actual=f"height {reader.last_height}",
        )
    last_term, _ = reader.term_and_hash(reader.last_height)
    if last_term > term:
        raise StoredStateError(
            "consensus.stored.term",
            "the stored log is ahead of the stored term",
            hint="do not start this node: restore its data directory, or let it join as a new one",
            expected=f"a term of at least {last_term}",
            actual=term,
        )
