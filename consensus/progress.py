"""How far one follower is, and what may be sent to it.

==========  =====================================  ==========================================
state       what the leader knows                  what it sends
==========  =====================================  ==========================================
probe       nothing, or that something got lost    one append, then waits for the answer
replicate   where the two logs agree               up to `inflight_max` appends ahead
snapshot    its next block is pruned here          with each heartbeat, that a snapshot is needed
==========  =====================================  ==========================================
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum


class ProgressState(StrEnum):
    """How the leader feeds one follower."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """The leader's book about one follower. Heights here steer what is sent; commitment rests on signatures alone."""

    __slots__ = (
        "certificate_sent",
        "commit_height",
        "heard",
        "heard_before",
        "inflight",
        "leaves_at",
        "leaves_since",
        "match_height",
        "next_height",
        "paused",
        "refuses",
        "round_id",
        "state",
    )

    def __init__(self, next_height: int) -> None:
        """Begin by probing at `next_height`."""
        self.state = ProgressState.PROBE
        self.match_height = 0
        """Durable at the follower and the same as here."""
        self.next_height = next_height
        """The next block to send; above `match_height`."""
        self.paused = False
        """Probing: an append with blocks awaits its answer."""
        self.refuses = False
        """Refused what was sent last; nothing more has become durable there since."""
        self.heard = False
        """Answered since the last quorum check."""
        self.heard_before = False
        """Answered in the period before that check."""
        self.commit_height = 0
        """The follower's commit height, as it last said."""
        self.certificate_sent = 0
        """Height of the last certificate sent."""
        self.round_id = 0
        """The latest heartbeat round it has answered."""
        self.leaves_since: int | None = None
        """The block since which the peer is no member; until that is committed, it gets nothing from there on. None: a member."""
        self.leaves_at: int | None = None
        """When that is committed: the tick at which this leader stops telling the peer so."""
        self.inflight: deque[int] = deque()
        """Last height of each unanswered append with blocks, ascending."""

    def can_send(self, inflight_max: int) -> bool:
        """Return whether an append with blocks may leave."""
        match self.state:
            case ProgressState.PROBE:
                return not self.paused
            case ProgressState.REPLICATE:
                return len(self.inflight) < inflight_max
            case ProgressState.SNAPSHOT:
                return False

    def note_sent(self, last_height: int) -> None:
        """Take note that blocks up to `last_height` left."""
        if self.state is ProgressState.PROBE:
            self.paused = True
        else:
            self.next_height = last_height + 1
            self.inflight.append(last_height)

    def note_agreement(self, match_height: int, received_height: int) -> None:
        """Take note of an answer: durable up to `match_height`, held up to `received_height`. Nothing ever falls by it."""
        if match_height > self.match_height:
            self.match_height = match_height
            self.refuses = False
        while self.inflight and self.inflight[0] <= received_height:
            self.inflight.popleft()
        if self.state is ProgressState.SNAPSHOT:
            # Where it stands was known; only a snapshot, or blocks that come back, can move it.
            self.next_height = max(self.next_height, self.match_height + 1)
        elif self.state is ProgressState.PROBE:
            self.state = ProgressState.REPLICATE
            self.next_height = max(self.match_height, received_height) + 1
        else:
            self.next_height = max(self.next_height, received_height + 1)

    def await_snapshot(self) -> None:
        """Send nothing but offers until the peer has a snapshot."""
        self.state = ProgressState.SNAPSHOT
        self.inflight.clear()

    def resume_from(self, first_height: int) -> None:
        """Leave the snapshot behind once the peer needs nothing below `first_height`, the lowest block that is here."""
        if self.state is ProgressState.SNAPSHOT and self.next_height >= first_height:
            self.state = ProgressState.REPLICATE

    def is_stale_refusal(self, reject_height: int) -> bool:
        """Return whether a refusal of the append after `reject_height` answers something that has long been overtaken."""
        if reject_height <= self.match_height or self.state is ProgressState.SNAPSHOT:
            return True
        return self.state is ProgressState.PROBE and reject_height != self.next_height - 1

    def probe_from(self, next_height: int) -> None:
        """Probe at `next_height`, or right above what is known to match."""
        self.state = ProgressState.PROBE
        self.next_height = max(next_height, self.match_height + 1)
        self.paused = False
        self.inflight.clear()
        # Whatever was sent may be lost, and a certificate above the follower's log is of no use to it.
        self.certificate_sent = 0
