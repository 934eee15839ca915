"""The log as a replica sees it."""

from __future__ import annotations

from typing import Protocol

from consensus.messages import Entry
from wire.certificate import CommitCertificate
from wire.hashing import Digest


class LogReader(Protocol):
    """Synchronous reads of the durable log, as it is on disk at the moment of the call.

    Only durable blocks are asked for, and recent ones come from memory, so this serves the start, elections and far laggards.
    """

    @property
    def first_height(self) -> int:
        """Height of the lowest block that `entry` can return; 1 unless the log was pruned."""
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
        """Return term and hash of the block at `height`; for height 0 term 0 and the hash of genesis."""
        ...

    def find_certificate(self, height_max: int) -> CommitCertificate | None:
        """Return the stored commit certificate with the greatest height that is at most `height_max`, or None."""
        ...
