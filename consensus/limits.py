"""The limits that only consensus needs. Sizes are bytes, counts are items, times are ticks, unless the name says otherwise.

What several packages share (`BLOCK_BYTES_MAX`, `FRAME_BYTES_MAX`, `CERTIFICATE_BYTES_MAX`, `VALIDATORS_MAX`) lives in `wire/limits.py`.
"""

from __future__ import annotations

from typing import Final

from wire.limits import BLOCK_BYTES_MAX, FRAME_BYTES_MAX, MEBIBYTE

MESSAGE_BYTES_MAX: Final = FRAME_BYTES_MAX
"""One encoded message: an append of `APPEND_BYTES_MAX` or of one block of `BLOCK_BYTES_MAX`, with its certificate."""

TERM_MAX: Final = 2**62
"""No message carries a higher term. Terms are not reused, so the end of the numbers would be the end of the network."""

TERM_STEP_MAX: Final = 2**24
"""A message whose term is further ahead than this is dropped: one faulty validator cannot use up the terms. PreVote keeps an
honest validator within a few terms of the others, however long it was alone."""

HEIGHT_MAX: Final = 2**62
"""No message carries a greater height."""

ROUND_MAX: Final = 2**62
"""No message carries a greater round id."""

ELECTION_TICKS: Final = 10
"""Ticks without a leader before an election, at least; the timeout is drawn from one to two times this (Raft 9.3)."""

TICK_MS: Final = 50
"""Milliseconds of one tick, where somebody must know."""

HEARTBEAT_TICKS: Final = 2
"""Ticks between two heartbeats. Several fit into `ELECTION_TICKS`, so that one lost message starts no election."""

APPEND_BYTES_MAX: Final = BLOCK_BYTES_MAX
"""Block bytes in one append; one block may always travel alone, whatever its size."""

APPEND_ENTRIES_MAX: Final = 64
"""Blocks in one append."""

ACKNOWLEDGEMENTS_MAX: Final = 128
"""Signed acknowledgements in one reply: a follower signs each block that is not yet certified, the highest ones first."""

INFLIGHT_MAX: Final = 8
"""Appends with blocks that one follower has not answered yet."""

UNCOMMITTED_BLOCKS_MAX: Final = 64
"""Blocks that a leader proposes ahead of the commit height; beyond it `Propose` is refused. At most `ACKNOWLEDGEMENTS_MAX`, so that
followers whose disks write different batches still sign common heights."""

UNCOMMITTED_BYTES_MAX: Final = 16 * MEBIBYTE
"""Block bytes that a leader proposes ahead of the commit height."""

HELD_BYTES_MAX: Final = 256 * MEBIBYTE
"""Block bytes that a follower holds back until they lead further than the blocks they replace (docs/spec/consensus.md 6.3)."""

RECENT_BYTES_MAX: Final = 32 * MEBIBYTE
"""Durable block bytes kept in memory for followers that are close behind; older ones are read from the log reader."""

RECENT_ENTRIES_MAX: Final = 1024
"""Durable blocks kept in memory for followers that are close behind."""

REFUSED_BLOCKS_MAX: Final = 64
"""Refused block hashes that a follower remembers, so that a leader that repeats one costs no execution each time."""

RECENT_CERTIFICATES_MAX: Final = 256
"""Commit certificates kept in memory for followers that are close behind."""

CONFIGURATION_HISTORY_MAX: Final = 8
"""Configurations of committed blocks that are remembered besides the one that rules: their members are no strangers."""

LEAVING_TIMEOUTS: Final = 20
"""Least election timeouts during which a leader still sends to a node that is no member any more, so that it learns of it."""

REFUSED_TIMEOUTS: Final = 3
"""Least election timeouts without a commitment, while those who refuse this leader's blocks keep it from a majority, after which it steps
down. A follower asks its ledger again after one of them, so this is more than one verdict."""

STAND_BACK_TIMEOUTS: Final = 2
"""Least election timeouts that such a leader waits longer than the others before it stands again."""

LEASE_MARGIN_TICKS: Final = 2
"""Ticks that a follower's promise is shorter than what it keeps: one may be waiting when the append comes, the next may follow at once."""

LEASE_DRIFT_DIVISOR: Final = 10
"""A leader believes this part less of a promise: clocks may differ in speed by as much, which no working one does."""

LEASE_GAP_TICKS: Final = 3
"""Time between two ticks, counted in their length, above which a leader no longer trusts time and forgets every promise."""

LEASE_ROUNDS_MAX: Final = 64
"""Heartbeat rounds whose sending time is remembered; older ones are older than any lease."""

PROMISE_MS_MAX: Final = 3_600_000
"""No message carries a longer promise, in milliseconds."""

READS_PENDING_MAX: Final = 4096
"""Linearizable reads that await their confirmation at one replica; more are refused."""
