"""The replica: events in, effects out."""

from __future__ import annotations

from collections.abc import Callable

from consensus.config import Config, Role, Status, Stored
from consensus.effects import Effects, Event, HardState
from consensus.log import LogReader

__all__ = ["Config", "HardState", "LogReader", "Replica", "Role", "Status", "Stored"]


class Replica:
    """One Raft replica. Not thread-safe: one task owns it."""

    def __init__(self, config: Config, stored: Stored, log: LogReader, entropy: Callable[[int], int]) -> None:
        """Start as a follower with what the disk holds.

        Args:
            config: Identity, validators and limits.
            stored: Hard state and commit height from disk.
            log: Reads the durable log.
            entropy: ``entropy(n)`` returns an integer from 0 to n - 1; spreads election timeouts.

        Raises:
            StoredStateError: ``consensus.stored.*`` when what the disk holds contradicts itself.
        """
        raise NotImplementedError

    def step(self, event: Event) -> Effects:
        """Take one event in and return what the driver must do; `consensus/effects.py` states the driver's duties.

        Raises:
            ProposalRefusedError: For `Propose` only: ``consensus.not_leader`` or ``consensus.window_full``; nothing has changed.
        """
        raise NotImplementedError

    @property
    def status(self) -> Status:
        """What this replica knows now."""
        raise NotImplementedError
