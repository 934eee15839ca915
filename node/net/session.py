"""One connection to one peer: its streams, its heartbeats, and the watchdog that ends it.

The side that dialled opens the RPC stream, and the consensus stream when the two are linked. Whatever fails, the whole connection is
aborted: a half-working connection is worth less than a new one, which takes 30 ms.

The watchdog counts silence in its own ticks, not by the clock: a process that was stopped or starved, and finds the peer's bytes waiting
when it wakes, does not take its own sleep for the peer's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog
import trio

from node.errors import PeerProtocolError, PeerUnavailableError
from node.net.channel import ByteStream, FrameChannel
from node.net.gate import Peer
from node.net.limits import (
    CONSENSUS_QUEUE_BYTES_MAX,
    DRAIN_S_MAX,
    HANDSHAKE_S_MAX,
    PROTOCOL_CONSENSUS,
    PROTOCOL_RPC,
    WRITE_STALL_S_MAX,
    Timing,
)
from node.net.rpc import Handler, RpcEndpoint
from wire.errors import PatchwardenError
from wire.keys import KeyId

_CONNECTION_LOST: Final = "node.net.connection_lost"

_log = structlog.get_logger("node.net")


class PeerConnection(Protocol):
    """What a session needs of a connection (`node.net.host.Connection`)."""

    peer: Peer
    """Whose key was proven."""
    is_outbound: bool
    """Whether we dialled."""
    address: str
    """The other end, for people."""
    streams: trio.MemoryReceiveChannel[tuple[str, ByteStream]]
    """Streams that the peer opens, with their protocols."""

    def abort(self) -> None:
        """Close the socket now."""
        ...


class SessionOwner(Protocol):
    """Who is told about sessions (`node.net.network.Network`). All calls come on the event loop and must not block."""

    timing: Timing
    """How soon silence is death."""
    handlers: Mapping[str, Handler]
    """Who serves which method."""
    on_consensus: Callable[[KeyId, list[bytes]], None]
    """Takes consensus messages."""

    def is_member(self, peer: Peer) -> bool:
        """Return whether the peer may stay."""
        ...

    def is_link(self, peer: Peer) -> bool:
        """Return whether the peer may send consensus messages."""
        ...

    def session_ready(self, session: Session) -> None:
        """Take note that the session can carry requests, and consensus messages if it has that stream."""
        ...

    def session_over(self, session: Session) -> None:
        """Take note that the session has ended."""
        ...


class Session:
    """One connection's life.

    Args:
        connection: The authenticated connection.
        owner: Who is told.
        opened: Streams by protocol that we have opened already; empty on the side that accepted.
    """

    def __init__(self, connection: PeerConnection, owner: SessionOwner, opened: Mapping[str, ByteStream]) -> None:
        self.peer = connection.peer
        self.address = connection.address
        self.is_outbound = connection.is_outbound
        self.rpc: RpcEndpoint | None = None
        self.consensus: FrameChannel | None = None
        self.since: float = trio.current_time()
        """When it began, by trio's clock."""
        self.closed = trio.Event()
        self.reason = ""
        """Why it ended, once it has."""
        self.was_closed = False
        """Whether the peer's end closed the connection, rather than this one, or time."""
        self._connection = connection
        self._owner = owner
        self._opened = dict(opened)
        self._scope = trio.CancelScope()
        self._changed = trio.Event()

    async def run(self) -> None:
        """Carry the streams until the connection ends; returns then. The connection is aborted in every case.

        Raises:
            CorruptionError: In a group, from one of our own handlers: the node must stop.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for protocol, stream in self._opened.items():
                        self._start_stream(nursery, protocol, stream)
                    nursery.start_soon(self._accept_streams, nursery)
                    nursery.start_soon(self._watch)
        except* (PeerUnavailableError, PeerProtocolError) as group:
            self._end(_first(group))
        finally:
            self._connection.abort()
            self.closed.set()
            if self.rpc is not None:
                self._owner.session_over(self)

    def close(self, reason: str) -> None:
        """End the session at once."""
        if not self.reason:
            self.reason = reason
        # Closed before cancelled: a cancelled write must never be followed by another one on the same connection.
        self._connection.abort()
        self._scope.cancel()

    async def drain(self) -> None:
        """Return when what is queued has left, or after `DRAIN_S_MAX`."""
        with trio.move_on_after(DRAIN_S_MAX):
            for channel in self._channels():
                await channel.wait_drained()

    def _start_stream(self, nursery: trio.Nursery, protocol: str, stream: ByteStream) -> None:
        match protocol:
            case p if p == PROTOCOL_RPC and self.rpc is None:
                self.rpc = RpcEndpoint(stream, self.peer.key_id, self._owner.handlers)
                nursery.start_soon(self.rpc.run)
            case p if p == PROTOCOL_CONSENSUS and self.consensus is None and self._owner.is_link(self.peer):
                self.consensus = FrameChannel(stream, self._on_consensus, CONSENSUS_QUEUE_BYTES_MAX)
                nursery.start_soon(self.consensus.run_writer)
                nursery.start_soon(self.consensus.run_reader)
            case _:
                raise PeerProtocolError(
                    "node.net.protocol", f"a peer opened a stream that it may not have ({protocol})"
                )
        self._changed.set()
        if self.rpc is not None:
            self._owner.session_ready(self)

    async def _accept_streams(self, nursery: trio.Nursery) -> None:
        with trio.move_on_after(HANDSHAKE_S_MAX):
            while self.rpc is None:
                self._start_stream(nursery, *await self._connection.streams.receive())
        if self.rpc is None:
            raise PeerProtocolError("node.net.protocol", "a peer connected and opened no stream")
        while True:
            self._start_stream(nursery, *await self._connection.streams.receive())

    def _on_consensus(self, payloads: list[bytes]) -> None:
        self._owner.on_consensus(self.peer.key_id, payloads)

    async def _watch(self) -> None:
        timing = self._owner.timing
        silence_s = since_ping_s = since_members_s = 0.0
        received = 0
        woke_at = trio.current_time()
        while True:
            heartbeat_s, dead_s = (
                (timing.calm_heartbeat_s, timing.calm_dead_s)
                if self.consensus is None
                else (timing.heartbeat_s, timing.dead_s)
            )
            tick_s = heartbeat_s / 2
            with trio.move_on_after(tick_s):
                await self._changed.wait()
                self._changed = trio.Event()  # The peer opened a stream: another pace may hold from now on.
            now = trio.current_time()
            passed_s, woke_at = min(now - woke_at, 2 * tick_s), now
            channels = self._channels()
            received_now = sum(channel.received_bytes for channel in channels)
            silence_s = silence_s + passed_s if received_now == received else 0.0
            received = received_now
            if silence_s > dead_s:
                raise PeerUnavailableError("node.net.silent", f"nothing came from the peer for {dead_s:g} s")
            if any(channel.stalled_s() > WRITE_STALL_S_MAX for channel in channels):
                raise PeerUnavailableError("node.net.silent", f"the peer read nothing for {WRITE_STALL_S_MAX:g} s")
            if channels and now - max(channel.sent_at for channel in channels) >= heartbeat_s - tick_s / 2:
                channels[0].heartbeat()
            if self.is_outbound and self.consensus is None and self.rpc is not None:
                unused_s = self.rpc.unused_s()
                if unused_s > timing.unused_s:
                    raise PeerUnavailableError("node.net.unused", f"nothing was asked for {timing.unused_s:g} s")
            since_ping_s += passed_s
            if self.rpc is not None and since_ping_s >= timing.ping_s:
                since_ping_s = 0.0
                self.rpc.ping()
            since_members_s += passed_s
            if since_members_s >= timing.members_s:
                since_members_s = 0.0
                # Whom we dialled for a request, we chose by its address: our replica may be too old to know it.
                is_guarded = self.consensus is not None or not self.is_outbound
                if is_guarded and not self._owner.is_member(self.peer):
                    raise PeerProtocolError("node.net.not_a_member", "the peer is no longer a member")

    def _channels(self) -> list[FrameChannel]:
        """Return the open channels, the one that carries heartbeats first."""
        channels = [] if self.consensus is None else [self.consensus]
        return channels if self.rpc is None else [*channels, self.rpc.channel]

    def _end(self, error: PatchwardenError) -> None:
        if not self.reason:
            self.reason = error.message
            self.was_closed = error.code == _CONNECTION_LOST
            if isinstance(error, PeerProtocolError):
                _log.warning("a connection was cut", peer=self.peer.peer_id, code=error.code, reason=error.message)


def _first(group: BaseExceptionGroup[PatchwardenError]) -> PatchwardenError:
    """Return the error that says most: a broken rule before a lost connection."""
    errors: list[PatchwardenError] = []
    groups: list[BaseExceptionGroup[PatchwardenError]] = [group]
    while groups:
        for error in groups.pop().exceptions:
            if isinstance(error, BaseExceptionGroup):
                groups.append(error)
            else:
                errors.append(error)
    return next((error for error in errors if isinstance(error, PeerProtocolError)), errors[0])
