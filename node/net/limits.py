"""The limits and timings of the network. Bytes and counts unless the name ends in a unit of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wire.limits import FRAME_BYTES_MAX

PROTOCOL_CONSENSUS: Final = "/patchwarden/consensus/1"
PROTOCOL_RPC: Final = "/patchwarden/rpc/1"

WRITE_BYTES_MAX: Final = 65_000
"""One write to a stream. Noise carries at most 65,519 bytes, Yamux adds 12: a longer write costs a second, tiny Noise message."""

CONSENSUS_QUEUE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Unsent consensus messages to one peer; beyond it `send` says no and Raft repeats later."""
RPC_QUEUE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Unsent requests and responses to one peer; beyond it those who would send more wait."""

METHOD_BYTES_MAX: Final = 64
RPC_HEADER_BYTES_MAX: Final = 1 + 4 + 1 + METHOD_BYTES_MAX
RPC_PAYLOAD_BYTES_MAX: Final = FRAME_BYTES_MAX - RPC_HEADER_BYTES_MAX
"""One request's or response's payload."""
RPC_SERVED_MAX: Final = 64
"""Requests of one peer that are served at the same time; the next one is answered with ``node.net.busy``."""
RPC_PENDING_MAX: Final = 512
"""Our requests to one peer without an answer yet."""
ERROR_BYTES_MAX: Final = 4096
"""An encoded error response."""

CONNECTIONS_MAX: Final = 512
"""Connections of authenticated members, in and out."""
HANDSHAKES_MAX: Final = 64
"""Inbound connections that have not proven who they are; one more closes the oldest of them."""
STREAMS_PER_CONNECTION_MAX: Final = 16
"""Open streams that a peer may have on one connection; ours are two, identify and ping are short."""
STREAMS_WAITING_MAX: Final = 4

HANDSHAKE_S_MAX: Final = 5.0
"""From the accepted TCP connection to an authenticated, multiplexed one; then again to the first stream."""
DIAL_S_MAX: Final = 3.0
"""One dial: TCP, handshake and streams."""
REDIAL_S_MIN: Final = 0.05
REDIAL_S_MAX: Final = 1.0
STABLE_S: Final = 1.0
"""A link that lived this long was a good one: the next dial is immediate again."""
WRITE_STALL_S_MAX: Final = 10.0
"""A single write that takes longer means that the peer does not read although it lives."""
CLOSE_S_MAX: Final = 2.0
"""The polite part of the shutdown."""
DRAIN_S_MAX: Final = 0.3
"""How long queued frames may take to leave at shutdown."""
HOST_RESTART_S: Final = 0.5
HOST_RESTARTS_MAX: Final = 20
"""How often a libp2p host that died is made anew within `HOST_RESTARTS_WINDOW_S` before the node gives up."""
HOST_RESTARTS_WINDOW_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Timing:
    """How soon silence is death. Seconds."""

    heartbeat_s: float = 0.1
    """A link that has sent nothing for so long sends an empty frame."""
    dead_s: float = 0.5
    """A link that has heard nothing for so long is aborted."""
    calm_heartbeat_s: float = 1.0
    """As `heartbeat_s` for a connection without a consensus stream."""
    calm_dead_s: float = 4.0
    """As `dead_s` for a connection without a consensus stream."""
    ping_s: float = 2.0
    """How often the round trip time is measured."""
    unused_s: float = 30.0
    """A connection without a consensus stream that has carried no request for so long is closed by the side that dialled it."""
    members_s: float = 1.0
    """How often a connected peer's membership is checked again."""


DEFAULT_TIMING: Final = Timing()
