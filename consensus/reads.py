"""Linearizable reads: a leader answers when a majority has confirmed it after the request; others ask their leader (thesis 6.4).

A leader reads at its commit height, and must be sure of two things. That it knows everything that is committed: so nothing is answered
before a block of its own term is committed. That nobody led a later term when the request came: so a heartbeat round must be answered by a
majority that *began after* the request. Rounds of one term have numbers that never repeat, and answers of other terms do not count, so no
older answer can be taken for one. Requests that come while a round is under way share the next one.

This way needs no clock. The other one, which does, is `consensus.lease`, and is off unless an operator wants it.

Source: docs/spec/consensus.md 11.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from consensus.common import Common
from consensus.limits import READS_PENDING_MAX, ROUND_MAX
from consensus.messages import NodeId, ReadIndexReply, ReadIndexRequest

NUMBERS_FIRST_MAX: Final = ROUND_MAX // 2
"""The first number of a run is drawn below this, which leaves it as many again."""


@dataclass(frozen=True, slots=True)
class Read:
    """One request, of this node's driver or of a follower."""

    number: int
    """The request id of the driver, or the follower's number."""
    follower: NodeId | None = None
    """Who asks; None for this node."""


class LeaderReads:
    """Reads that await the confirmation of this leader."""

    __slots__ = ("_common", "_height", "_round", "_round_id", "_waiting")

    def __init__(self, common: Common) -> None:
        """Begin with none."""
        self._common = common
        self._waiting: list[Read] = []
        self._round: list[Read] = []
        self._round_id = 0
        self._height = 0

    @property
    def is_round_under_way(self) -> bool:
        """Whether a round awaits its answers."""
        return bool(self._round)

    @property
    def is_waiting(self) -> bool:
        """Whether there are reads for which a round must begin."""
        return bool(self._waiting)

    def add(self, read: Read) -> None:
        """Let the read wait for the next round; too many are refused."""
        if len(self._waiting) + len(self._round) < READS_PENDING_MAX:
            self._waiting.append(read)
        else:
            self._refuse(read)

    def answer(self, read: Read) -> None:
        """Answer the read now: it is known that nobody else leads."""
        self._answer(read, self._common.commit_height)

    def begin(self, round_id: int) -> None:
        """Let everything that waits be confirmed by the round `round_id`, which begins now; the commit height of now is the answer."""
        self._round, self._waiting = self._waiting, []
        self._round_id = round_id
        self._height = self._common.commit_height

    def confirm(self, round_id: int) -> None:
        """Answer what the rounds up to `round_id` confirm."""
        if not self._round or round_id < self._round_id:
            return
        for read in self._round:
            self._answer(read, self._height)
        self._round = []

    def refuse_all(self) -> None:
        """Give up: this node leads no more."""
        for read in (*self._round, *self._waiting):
            self._refuse(read)

    def _answer(self, read: Read, height: int) -> None:
        common = self._common
        if read.follower is None:
            common.out.reads_ready.append((read.number, height))
        else:
            common.send(read.follower, ReadIndexReply(common.term, common.config.node_id, read.number, height))

    def _refuse(self, read: Read) -> None:
        # A follower is not told: it gives up by itself, and may have another leader by then.
        if read.follower is None:
            self._common.out.reads_refused.append(read.number)


class ForwardedReads:
    """Reads that this node has asked its leader about."""

    __slots__ = ("_common", "_entropy", "_number", "_pending")

    def __init__(self, common: Common, entropy: Callable[[int], int]) -> None:
        """Begin with none."""
        self._common = common
        self._entropy = entropy
        self._number: int | None = None
        self._pending: dict[int, tuple[int, int]] = {}

    def add(self, request_id: int) -> None:
        """Ask the leader; refuse the read if there is none, or if too many are pending."""
        common = self._common
        if common.leader is None or len(self._pending) >= READS_PENDING_MAX:
            common.out.reads_refused.append(request_id)
            return
        # Begin with numbers that an earlier run of this node has hardly used: answers to it may still be on their way.
        self._number = self._entropy(NUMBERS_FIRST_MAX) if self._number is None else self._number + 1
        self._pending[self._number] = (request_id, common.ticks + common.config.election_ticks)
        common.send(common.leader, ReadIndexRequest(common.term, common.config.node_id, self._number))

    def handle_reply(self, message: ReadIndexReply) -> None:
        """Answer the read if it is still pending; the reply is known to be of the leader and term that is followed."""
        pending = self._pending.pop(message.number, None)
        if pending is not None:
            self._common.out.reads_ready.append((pending[0], message.height))

    def tick(self) -> None:
        """Refuse what has waited for a least election timeout."""
        while self._pending:
            number = next(iter(self._pending))
            request_id, until = self._pending[number]
            if until > self._common.ticks:
                return
            del self._pending[number]
            self._common.out.reads_refused.append(request_id)

    def refuse_all(self) -> None:
        """Give up: the leader is another one, or none."""
        self._common.out.reads_refused.extend(request_id for request_id, _ in self._pending.values())
        self._pending.clear()
