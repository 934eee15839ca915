"""The network as the node core sees it: links to validators, messages, requests.

A *link* is a lasting connection with a consensus stream between two validators; the one with the lower PeerId dials, and dials again for
as long as the link is wanted. Other connections are made when a request needs one, and kept. All of it runs in one trio task tree, that of
`Network.run`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog
import trio

from node.clock import jittered
from node.errors import AddressError, ListenError, PeerUnavailableError
from node.net.address import Address, parse_address_untrusted
from node.net.gate import Gate, Peer, peer_of
from node.net.limits import (
    DEFAULT_TIMING,
    DIAL_S_MAX,
    HOST_RESTART_S,
    HOST_RESTARTS_MAX,
    HOST_RESTARTS_WINDOW_S,
    PROTOCOL_CONSENSUS,
    PROTOCOL_RPC,
    REDIAL_S_MAX,
    REDIAL_S_MIN,
    STABLE_S,
    Timing,
)
from node.net.rpc import Handler
from node.net.session import Session
from wire.errors import CorruptionError, PatchwardenError
from wire.keys import Algorithm, KeyId, private_key_from_seed

if TYPE_CHECKING:
    from trio_typing import TaskStatus

    from node.net.host import Connection, LibP2PHost

_log = structlog.get_logger("node.net")


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """What we know about one peer, for people and metrics."""

    key_id: KeyId
    """Its node key, as the ledger names it."""
    peer_id: str
    """Its node key, as libp2p names it."""
    address: str
    """Where it is dialled, or where it came from."""
    is_link: bool
    """Whether consensus messages go there."""
    connected: bool
    """Whether a connection stands now."""
    rtt_ms: float | None
    """The last measured round trip, milliseconds."""
    connected_s: float | None
    """For how long the connection has stood, seconds."""
    last_error: str
    """Why the last attempt or connection ended; "" when none did."""


class LinkChange(Enum):
    """What has become of the link to a peer."""

    UP = "up"
    """It stands."""
    DOWN = "down"
    """It is gone: the peer fell silent, broke a rule, or has a newer connection."""
    CLOSED = "closed"
    """It is gone, because the peer's end closed it: its process has ended or is about to."""


@dataclass(slots=True)
class _Link:
    """One wanted link."""

    peer: Peer
    address: Address
    scope: trio.CancelScope


class Network:
    """The node's place among its peers. Nothing happens before `run`.

    Args:
        seed: 32-byte seed of the Ed25519 node key; the PeerId comes from it.
        listen: Multiaddress to listen on, ``/ip4/127.0.0.1/tcp/0`` for a port that the system chooses.
        is_member: Whether the node with this 32-byte Ed25519 key may connect, by the ledger's present state. Must not block.
        on_consensus: Takes the consensus messages of a linked peer, in order, several at once. Called on the event loop; must not block.
        on_link: Told when the link to a peer comes up or goes down. Called on the event loop; must not block.
        timing: How soon silence is death.
    """

    def __init__(
        self,
        *,
        seed: bytes,
        listen: str,
        is_member: Callable[[bytes], bool],
        on_consensus: Callable[[KeyId, list[bytes]], None],
        on_link: Callable[[KeyId, LinkChange], None] = lambda _peer, _change: None,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        self.own = peer_of(private_key_from_seed(Algorithm.ED25519, seed).public_key.raw)
        """This node."""
        self.timing = timing
        self._handlers: dict[str, Handler] = {}
        self.handlers: Mapping[str, Handler] = MappingProxyType(self._handlers)
        self.on_consensus = on_consensus
        self._on_link = on_link
        self._seed = seed
        self._listen = parse_address_untrusted(listen)
        self._gate = Gate(is_member, self._on_corruption)
        self._links: dict[KeyId, _Link] = {}
        self._sessions: dict[KeyId, list[Session]] = {}
        self._linked: dict[KeyId, Session] = {}
        self._dials: dict[KeyId, trio.Event] = {}
        self._last_error: dict[KeyId, str] = {}
        self._sent_bytes_before = [0, 0]
        self._corruption: CorruptionError | None = None
        self._corrupted = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._host: LibP2PHost | None = None

    # For the node core

    async def run(self, *, task_status: TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, keep the links and serve requests until cancelled; started with our multiaddress including ``/p2p/…``.

        Everything is closed when it ends, the port included.

        Raises:
            ListenError: ``node.net.listen``; in a group.
            CorruptionError: What `is_member` or a handler found; in a group. The node must stop.
        """
        # Whoever cancels us must not cancel the writers in the middle of a frame: the tasks live behind a shield, and end after a goodbye.
        shield = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            try:
                task_status.started(await nursery.start(self._run_tasks, shield))
                await trio.sleep_forever()
            finally:
                await self._say_goodbye()
                shield.cancel()

    def set_links(self, peers: Mapping[KeyId, tuple[bytes, str]]) -> None:
        """Keep links to exactly these validators from now on; this node itself may be among them. May be called before `run` and often.

        Args:
            peers: Key id to 32-byte Ed25519 key and multiaddress (with or without ``/p2p/…``).

        Raises:
            AddressError: ``node.net.address``, ``node.net.peer_id``; nothing has changed.
            RejectedError: ``wire.key.*``; nothing has changed.
        """
        wanted: dict[KeyId, tuple[Peer, Address]] = {}
        for key_id, (raw_key, text) in peers.items():
            peer, address = peer_of(raw_key), parse_address_untrusted(text)
            if peer.key_id != key_id or address.raw_key not in (None, raw_key):
                raise AddressError(
                    "node.net.peer_id", "a validator's address names another key than its own", actual=text
                )
            if peer.key_id != self.own.key_id:
                wanted[key_id] = peer, address
        for key_id, link in list(self._links.items()):
            if key_id not in wanted or wanted[key_id][1].transport != link.address.transport:
                del self._links[key_id]
                link.scope.cancel()
                session = self._linked.get(key_id)
                if session is not None:
                    session.close("the link is no longer wanted")
        for key_id, (peer, address) in wanted.items():
            if key_id not in self._links:
                link = self._links[key_id] = _Link(peer, address, trio.CancelScope())
                if self._nursery is not None:
                    self._nursery.start_soon(self._keep_link, link)

    def send(self, peer: KeyId, payload: bytes) -> bool:
        """Queue a consensus message for a linked peer; False when the link is down or its queue is full. Never blocks.

        Messages arrive in order or not at all, and none arrives twice.
        """
        session = self._linked.get(peer)
        return session is not None and session.consensus is not None and session.consensus.push(payload)

    def is_linked(self, peer: KeyId) -> bool:
        """Return whether the link to the peer stands."""
        return peer in self._linked

    async def request(
        self, peer: KeyId, method: str, payload: bytes, *, timeout_s: float, address: str | None = None
    ) -> bytes:
        """Return a peer's answer to a request.

        Args:
            peer: The key id of the peer.
            method: Up to 64 of ``a-z 0-9 . _ -``.
            payload: At most `RPC_PAYLOAD_BYTES_MAX` bytes.
            timeout_s: For all of it, a dial included.
            address: Where to dial the peer when it is not connected: a multiaddress with ``/p2p/…``, which may be left out for a linked
                peer. Without an address, a peer that is not connected is unreachable.

        Raises:
            RejectedError: The peer refused, with its code; ``node.net.too_large``, ``node.net.address``, ``node.net.peer_id``.
            UnavailableError: The peer cannot now, with its code; ``node.net.unreachable``, ``node.net.timeout``, ``node.net.busy``,
                ``node.net.connection_lost``.
        """
        deadline = trio.current_time() + timeout_s
        session = self._find_session(peer)
        if session is None:
            session = await self._dialled_session(peer, address, timeout_s)
        assert session.rpc is not None, "a session is listed when its RPC stream stands"
        return await session.rpc.request(method, payload, max(0.0, deadline - trio.current_time()))

    def handle(self, method: str, handler: Handler) -> None:
        """Serve requests for `method` by `handler`, which gets the peer's key id and the payload.

        It may raise errors of the rejected and unavailable families, which the requester gets with their code. It is cancelled when the
        requester gives up or its connection ends. A corruption error ends the network.
        """
        assert method not in self._handlers, f"there is a handler for {method} already"
        self._handlers[method] = handler

    def peers(self) -> tuple[PeerStatus, ...]:
        """Return every linked or connected peer, in the order of their key ids."""
        return tuple(self._status(key_id) for key_id in sorted(self._links.keys() | self._sessions.keys()))

    def remote(self, peer: KeyId) -> str:
        """Return where the peer's newest connection comes from or goes to, ``IP:PORT``; "" when there is none."""
        sessions = self._sessions.get(peer)
        return sessions[-1].address if sessions else ""

    def sent_bytes(self) -> tuple[int, int]:
        """Return the bytes that were sent since the start: on consensus streams, and for requests and answers."""
        consensus, rpc = self._sent_bytes_before
        for sessions in self._sessions.values():
            for session in sessions:
                consensus += 0 if session.consensus is None else session.consensus.sent_bytes
                rpc += 0 if session.rpc is None else session.rpc.channel.sent_bytes
        return consensus, rpc

    @property
    def strangers_refused(self) -> int:
        """How many connections of non-members were turned away."""
        return self._gate.refused

    # For sessions

    def is_member(self, peer: Peer) -> bool:
        """Return whether the peer may stay connected."""
        return self._gate.is_member(peer)

    def is_link(self, peer: Peer) -> bool:
        """Return whether the peer may send consensus messages."""
        return peer.key_id in self._links

    def session_ready(self, session: Session) -> None:
        """List the session; one in each direction is kept for a peer, the newer one."""
        key_id = session.peer.key_id
        sessions = self._sessions.setdefault(key_id, [])
        if session not in sessions:
            for older in [older for older in sessions if older.is_outbound == session.is_outbound]:
                older.close("a newer connection took its place")
            sessions.append(session)
        if session.consensus is not None and self._linked.get(key_id) is not session:
            older_link = self._linked.get(key_id)
            self._linked[key_id] = session
            if older_link is not None:
                older_link.close("a newer connection took its place")
                self._on_link(key_id, LinkChange.DOWN)
            _log.info("link up", peer=session.peer.peer_id, address=session.address)
            self._on_link(key_id, LinkChange.UP)

    def session_over(self, session: Session) -> None:
        """Strike the session off the list."""
        key_id = session.peer.key_id
        self._last_error[key_id] = session.reason
        sessions = self._sessions.get(key_id, [])
        if session in sessions:
            sessions.remove(session)
            for index, channel in enumerate((session.consensus, None if session.rpc is None else session.rpc.channel)):
                self._sent_bytes_before[index] += 0 if channel is None else channel.sent_bytes
        if not sessions:
            self._sessions.pop(key_id, None)
        if self._linked.get(key_id) is session:
            del self._linked[key_id]
            _log.info("link down", peer=session.peer.peer_id, reason=session.reason)
            self._on_link(key_id, LinkChange.CLOSED if session.was_closed else LinkChange.DOWN)

    # Inside

    async def _run_tasks(self, scope: trio.CancelScope, *, task_status: TaskStatus[str]) -> None:
        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._raise_corruption)
                    listening = await nursery.start(self._keep_host)
                    for link in self._links.values():
                        nursery.start_soon(self._keep_link, link)
                    own_address = Address(listening.protocol, listening.host, listening.port, self.own.raw_key)
                    task_status.started(str(own_address))
        finally:
            self._nursery = None

    async def _keep_host(self, *, task_status: TaskStatus[Address]) -> None:
        """Run a libp2p host; should one die of something that we did not foresee, run another one on the same port."""
        from node.net.host import LibP2PHost  # A second of imports.

        listen = self._listen
        restarts: deque[float] = deque()
        is_first = True
        while True:
            host = LibP2PHost(seed=self._seed, gate=self._gate, on_inbound=self._on_inbound)
            try:
                async with trio.open_nursery() as nursery:
                    listen = await nursery.start(host.run, listen)
                    self._host = host
                    if is_first:
                        task_status.started(listen)
                        is_first = False
            except* ListenError:
                if is_first:
                    raise
                _log.exception("the network could not listen again")
            except* Exception:
                # The host's own tasks run library code on strangers' bytes; ours run elsewhere and do not pass here.
                if is_first:
                    raise
                _log.exception("the libp2p host died; making a new one")
            finally:
                self._host = None
            now = trio.current_time()
            restarts.append(now)
            while restarts[0] < now - HOST_RESTARTS_WINDOW_S:
                restarts.popleft()
            if len(restarts) > HOST_RESTARTS_MAX:
                raise ListenError("node.net.listen", "the libp2p host keeps dying; the log has every reason")
            await trio.sleep(HOST_RESTART_S)

    def _on_inbound(self, connection: Connection) -> None:
        if self._nursery is None:
            connection.abort()
        else:
            self._nursery.start_soon(Session(connection, self, {}).run)

    async def _keep_link(self, link: _Link) -> None:
        """Dial a linked peer whenever there is no link, if dialling is our part."""
        if self.own.raw_key > link.peer.raw_key:
            return
        pause_s = REDIAL_S_MIN
        with link.scope:
            while True:
                session = self._linked.get(link.peer.key_id)
                if session is None and self._gate.is_member(link.peer):
                    try:
                        session = await self._connect(link.peer, link.address, (PROTOCOL_CONSENSUS, PROTOCOL_RPC))
                    except PeerUnavailableError as error:
                        self._last_error[link.peer.key_id] = error.message
                if session is not None:
                    await session.closed.wait()
                    if trio.current_time() - session.since >= STABLE_S:
                        pause_s = REDIAL_S_MIN
                await trio.sleep(jittered(pause_s))
                pause_s = min(2 * pause_s, REDIAL_S_MAX)

    async def _connect(self, peer: Peer, address: Address, protocols: tuple[str, ...]) -> Session:
        """Return a new, running session with `peer`.

        Raises:
            PeerUnavailableError: ``node.net.unreachable``.
        """
        host, nursery = self._host, self._nursery
        if host is None or nursery is None:
            raise PeerUnavailableError("node.net.unreachable", "this node's network is not running")
        session: Session | None = None
        with trio.move_on_after(DIAL_S_MAX):
            connection = await host.dial(address, peer)
            try:
                streams = {protocol: await host.open_stream(connection, protocol) for protocol in protocols}
                session = Session(connection, self, streams)
            finally:
                if session is None:
                    connection.abort()
        if session is None:
            raise PeerUnavailableError(
                "node.net.unreachable", f"{address.transport} did not answer within {DIAL_S_MAX:g} s"
            )
        nursery.start_soon(session.run)
        return session

    async def _dialled_session(self, key_id: KeyId, text: str | None, timeout_s: float) -> Session:
        if text is None:
            raise PeerUnavailableError("node.net.unreachable", "the peer is not connected", actual=key_id)
        address = parse_address_untrusted(text)
        link = self._links.get(key_id)
        if address.raw_key is None and link is None:
            raise AddressError(
                "node.net.address", "the address does not say whose it is", expected="…/p2p/PEERID", actual=text
            )
        target = link.peer if link is not None else peer_of(address.raw_key or b"")
        if target.key_id != key_id or address.raw_key not in (None, target.raw_key):
            raise AddressError("node.net.peer_id", "the address belongs to another peer", actual=text)
        # One dial for all who want it, in a task of its own: a caller who gives up does not take the others' connection along.
        event = self._dials.get(target.key_id)
        if event is None:
            if self._nursery is None:
                raise PeerUnavailableError("node.net.unreachable", "this node's network is not running")
            event = self._dials[target.key_id] = trio.Event()
            self._nursery.start_soon(self._dial_once, target, address, event)
        with trio.move_on_after(timeout_s):
            await event.wait()
        session = self._find_session(target.key_id)
        if session is None:
            reason = self._last_error.get(target.key_id) or "no answer in time"
            raise PeerUnavailableError("node.net.unreachable", f"{address.transport} cannot be reached: {reason}")
        return session

    async def _dial_once(self, peer: Peer, address: Address, event: trio.Event) -> None:
        try:
            session = await self._connect(peer, address, (PROTOCOL_RPC,))
            while not session.closed.is_set() and self._find_session(peer.key_id) is None:
                await trio.lowlevel.checkpoint()  # Its task starts in the next round.
        except PatchwardenError as error:
            self._last_error[peer.key_id] = error.message
        finally:
            del self._dials[peer.key_id]
            event.set()

    def _find_session(self, key_id: KeyId) -> Session | None:
        linked = self._linked.get(key_id)
        if linked is not None:
            return linked
        sessions = self._sessions.get(key_id)
        return sessions[-1] if sessions else None

    def _status(self, key_id: KeyId) -> PeerStatus:
        link, session = self._links.get(key_id), self._find_session(key_id)
        peer = link.peer if link is not None else None
        if session is not None:
            peer = session.peer
        assert peer is not None, "a listed peer has a link or a session"
        return PeerStatus(
            key_id=key_id,
            peer_id=peer.peer_id,
            address=link.address.transport if link is not None else session.address if session is not None else "",
            is_link=link is not None,
            connected=session is not None,
            rtt_ms=session.rpc.rtt_ms if session is not None and session.rpc is not None else None,
            connected_s=trio.current_time() - session.since if session is not None else None,
            last_error=self._last_error.get(key_id, ""),
        )

    def _on_corruption(self, error: CorruptionError) -> None:
        self._corruption = error
        self._corrupted.set()

    async def _raise_corruption(self) -> None:
        await self._corrupted.wait()
        assert self._corruption is not None, "the event is set after the error"
        raise self._corruption

    async def _say_goodbye(self) -> None:
        """Let what is queued leave, all peers at once, and close."""
        with trio.CancelScope(shield=True):
            sessions = [session for sessions in self._sessions.values() for session in sessions]
            async with trio.open_nursery() as nursery:
                for session in sessions:
                    nursery.start_soon(session.drain)
