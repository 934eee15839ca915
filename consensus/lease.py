"""Leases, an option that is off by default: while a majority has promised to support nobody else, reads need no round (thesis 6.4.1).

With the option on, a follower binds itself with each append: for `Config.election_ticks` of its own ticks it neither stands nor supports
anybody, whatever else it hears, except at the leader's own wish (`Common.is_bound`). Its answer says for how long that is sure to be. The
leader counts from the moment before it *sent* the round that is answered, on a clock that goes on while its process is stopped.

A lease is a promise about time, so every doubt about time ends it: the clock went back, ticks came late (this process was stopped, or
slow), the clock stood still while ticks came. Then reads take the way that needs no clock (`consensus.reads`).

Source: docs/spec/consensus.md 11.1.
"""

from __future__ import annotations

from collections import deque

from consensus.config import Config
from consensus.limits import LEASE_DRIFT_DIVISOR, LEASE_GAP_TICKS, LEASE_ROUNDS_MAX
from consensus.membership import Configuration
from consensus.messages import NodeId


class Lease:
    """What a leader knows about the promises of one term."""

    __slots__ = ("_config", "_is_given_up", "_rounds", "_tick", "_tick_ms", "_until_ms", "_until_tick")

    def __init__(self, config: Config) -> None:
        """Begin without any."""
        self._config = config
        self._is_given_up = not config.lease_reads
        self._tick = 0
        self._tick_ms: int | None = None
        self._rounds: deque[tuple[int, int, int]] = deque(maxlen=LEASE_ROUNDS_MAX)
        self._until_ms: dict[NodeId, int] = {}
        self._until_tick: dict[NodeId, int] = {}

    def note_tick(self, now_ms: int | None) -> None:
        """Take note of a tick and of the time at which it came, None when nobody knows; forget every promise if that is doubtful."""
        if self._is_in_doubt(now_ms):
            self._rounds.clear()
            self._until_ms.clear()
            self._until_tick.clear()
        self._tick += 1
        self._tick_ms = now_ms

    def note_round(self, round_id: int) -> None:
        """Take note that the round is about to be sent, in this tick."""
        if not self._is_given_up and self._tick_ms is not None:
            self._rounds.append((round_id, self._tick_ms, self._tick))

    def note_promise(self, peer: NodeId, round_id: int, promise_ms: int) -> None:
        """Take note of a voter's promise, given when it heard that round."""
        # What answers a later round answers this one too; what was sent before the oldest round that is remembered counts for nothing.
        sent = next((sent for sent in reversed(self._rounds) if sent[0] <= round_id), None)
        if sent is None:
            return
        _, sent_ms, sent_tick = sent
        lasts_ms = promise_ms - promise_ms // LEASE_DRIFT_DIVISOR
        self._until_ms[peer] = max(self._until_ms.get(peer, 0), sent_ms + lasts_ms)
        self._until_tick[peer] = max(self._until_tick.get(peer, 0), sent_tick + lasts_ms // self._config.tick_ms)

    def give_up(self) -> None:
        """Hold no lease in this term any more: this leader has asked somebody to be elected, and does not know when that arrives."""
        self._is_given_up = True

    def is_held(self, configuration: Configuration, now_ms: int | None) -> bool:
        """Return whether nobody else can have been elected at `now_ms`, by the promises of enough voters to decide.

        Args:
            configuration: The one that rules at the end of the log.
            now_ms: The time of the read, on the clock of the ticks.
        """
        if self._is_given_up or now_ms is None or self._tick_ms is None or self._is_in_doubt(now_ms):
            return False
        me = self._config.node_id
        # This leader itself supports nobody else as long as it leads; alone, it needs nobody's promise.
        until_ms = configuration.value_reached({**self._until_ms, me: now_ms + 1})
        until_tick = configuration.value_reached({**self._until_tick, me: self._tick + 1})
        return now_ms < until_ms and self._tick < until_tick

    def _is_in_doubt(self, now_ms: int | None) -> bool:
        """Return whether time did not go on as it should since the last tick."""
        if now_ms is None or self._tick_ms is None:
            return True
        return not 0 <= now_ms - self._tick_ms <= LEASE_GAP_TICKS * self._config.tick_ms
