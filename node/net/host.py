"""py-libp2p 0.8.1, hardened: TCP, Noise and Yamux only, members only, and no peer's mistake ends the process.

This module and `node.net.muxer` import libp2p, which takes a second: import it when a network starts. What it changes, and why (each was
measured; docs/spec/network.md 6 tells the whole story):

* Noise alone is offered. By default libp2p also accepts plaintext, under which a peer's identity proves nothing.
* A member is recognised right after the handshake, before a multiplexer, a stream or an identify message exists.
* An exception in a stream handler or in protocol negotiation, such as a protocol name that is not UTF-8, ends that stream, not the host.
* An inbound connection's slot is released when the connection ends; libp2p keeps it for ever and refuses everybody after 250.
* Handshakes under way are bounded, and a new one closes the oldest, so that silent connections cannot lock the door.
* libp2p's own dialling in the background, resource manager, identify requests, retries and negative cache are off: each peer has one dial
  loop of ours.
* The multiplexer is `node.net.muxer`: the same protocol at a fifth of the cost.
* A connection is ended by closing its socket. Everything politer waits for a lock that a stuck peer holds.
"""

from __future__ import annotations

import logging
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio
from libp2p import create_identity_from_seed, new_host
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from multiaddr import Multiaddr

from node.errors import ListenError, PeerRefusedError, PeerUnavailableError
from node.net.address import PEER_ID_PREFIX, Address, parse_address_untrusted
from node.net.channel import ByteStream
from node.net.gate import Gate, Peer
from node.net.limits import (
    CLOSE_S_MAX,
    CONNECTIONS_MAX,
    HANDSHAKE_S_MAX,
    HANDSHAKES_MAX,
    PROTOCOL_CONSENSUS,
    PROTOCOL_RPC,
    STREAMS_PER_CONNECTION_MAX,
    STREAMS_WAITING_MAX,
)
from node.net.muxer import MuxedStream, Muxer

if TYPE_CHECKING:
    from trio_typing import TaskStatus

CONNECTIONS_PER_PEER_MAX: Final = 8
"""Never reached: the network keeps one connection in each direction. libp2p's own trimming would wait for locks of stuck peers."""

_log = structlog.get_logger("node.net")


class LibP2PStream:
    """A stream of a connection as `node.net.channel` wants it: one kind of error for every way in which a connection ends."""

    def __init__(self, stream: Any) -> None:
        # libp2p's own wrapper takes a lock for each call, to keep a state that nobody here asks for.
        self._stream: MuxedStream = stream.muxed_stream

    async def receive(self, take: Callable[[bytes], None]) -> None:
        """Call `take` with whatever arrives, until the end.

        Raises:
            PeerUnavailableError: ``node.net.connection_lost``.
            Exception: What `take` raised; it is not called again.
        """
        try:
            await self._stream.receive(take)
        except MuxedStreamError as error:
            raise _lost(error) from error

    def write_now(self, data: bytes) -> bool:
        """Write `data` if the connection takes it at once; return whether it did."""
        return self._stream.write_now(data)

    async def write(self, data: bytes) -> None:
        """Write all of `data`.

        Raises:
            PeerUnavailableError: ``node.net.connection_lost``.
        """
        try:
            await self._stream.write(data)
        except Exception as error:
            raise _lost(error) from error


class Connection:
    """One authenticated connection."""

    def __init__(self, muxed: Any, peer: Peer, *, is_outbound: bool) -> None:
        self.peer = peer
        self.is_outbound = is_outbound
        remote = muxed.get_remote_address()
        self.address = "" if remote is None else f"{remote[0]}:{remote[1]}"
        """The other end's IP address and port, as text."""
        self.closed: trio.Event = muxed.event_closed
        """Set when libp2p has noticed the end."""
        self._muxed = muxed
        self._offer, self.streams = trio.open_memory_channel[tuple[str, ByteStream]](STREAMS_WAITING_MAX)

    def abort(self) -> None:
        """Close the socket now. Every task that reads or writes on the connection fails; nothing waits for the peer."""
        _socket_stream(self._muxed.secured_conn).socket.close()

    def offer(self, protocol: str, stream: LibP2PStream) -> bool:
        """Hand over a stream that the peer has opened; return False when too many wait."""
        try:
            self._offer.send_nowait((protocol, stream))
        except trio.WouldBlock:
            return False
        return True


class LibP2PHost:
    """A libp2p host of ours, from `run` to its end.

    Args:
        seed: 32-byte seed of the Ed25519 node key.
        gate: Decides about inbound peers.
        on_inbound: Called, on the event loop, with each authenticated inbound connection; its streams come by `Connection.streams`.
    """

    def __init__(self, *, seed: bytes, gate: Gate, on_inbound: Callable[[Connection], None]) -> None:
        self._gate = gate
        self._on_inbound = on_inbound
        self._handshakes: OrderedDict[int, Any] = OrderedDict()
        self._connections: dict[int, Connection] = {}
        key_pair = create_identity_from_seed(seed)
        logging.getLogger("libp2p").setLevel(logging.CRITICAL)  # It reports ordinary ends of connections as errors.
        self._host = new_host(
            key_pair=key_pair,
            sec_opt={NOISE_ID: _GatedNoise(key_pair, gate)},
            muxer_opt={TProtocol(YAMUX_ID): Muxer},
            negotiate_timeout=int(HANDSHAKE_S_MAX),
            connection_config=ConnectionConfig(
                min_connections=0,
                low_watermark=0,
                high_watermark=CONNECTIONS_MAX,
                max_connections=CONNECTIONS_MAX,
                max_connections_per_peer=CONNECTIONS_PER_PEER_MAX,
                inbound_upgrade_timeout=HANDSHAKE_S_MAX,
                outbound_upgrade_timeout=HANDSHAKE_S_MAX,
                inbound_stream_protocol_negotiation_timeout=HANDSHAKE_S_MAX,
                outbound_stream_protocol_negotiation_timeout=HANDSHAKE_S_MAX,
            ),
            disable_identify_address_discovery=True,
        )
        self._swarm = self._host.get_network()
        self._negotiate = self._host._swarm_stream_handler
        self._harden()

    async def run(self, listen: Address, *, task_status: TaskStatus[Address] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and serve until cancelled; started with the address that was really bound.

        Raises:
            ListenError: ``node.net.listen``.
            ExceptionGroup: Whatever else killed the host; make another one.
        """
        _check_port_free(listen)
        async with self._host.run(listen_addrs=[Multiaddr(listen.transport)]):
            addresses = self._host.get_transport_addrs()
            if not addresses:
                raise ListenError(
                    "node.net.listen", f"cannot listen on {listen.transport}", hint="choose another port in config.toml"
                )
            try:
                task_status.started(parse_address_untrusted(str(addresses[0]).split("/p2p/", maxsplit=1)[0]))
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_S_MAX):
                    await self._close()

    async def dial(self, address: Address, peer: Peer) -> Connection:
        """Return a new connection to `peer`, which has proven its key.

        Cancelling it is safe.

        Raises:
            PeerUnavailableError: ``node.net.unreachable``.
        """
        try:
            connection = await self._swarm.dial_addr(Multiaddr(address.transport), ID(PEER_ID_PREFIX + peer.raw_key))
        except Exception as error:
            raise PeerUnavailableError(
                "node.net.unreachable", f"{address.transport} cannot be reached: {_reason(error)}"
            ) from error
        return self._connection_of(connection.muxed_conn, peer, is_outbound=True)

    async def open_stream(self, connection: Connection, protocol: str) -> LibP2PStream:
        """Return a new stream for `protocol`. When it fails or is cancelled, abort the connection.

        Raises:
            PeerUnavailableError: ``node.net.unreachable``.
        """
        try:
            for swarm_connection in self._swarm.get_connections(ID(PEER_ID_PREFIX + connection.peer.raw_key)):
                if swarm_connection.muxed_conn is connection._muxed:
                    stream = await swarm_connection.new_stream()
                    await self._host.multiselect_client.select_one_of(
                        [TProtocol(protocol)], MultiselectCommunicator(stream), int(HANDSHAKE_S_MAX)
                    )
                    return LibP2PStream(stream)
        except Exception as error:
            raise PeerUnavailableError(
                "node.net.unreachable", f"the peer does not speak {protocol}: {_reason(error)}"
            ) from error
        raise _lost(None)

    def _harden(self) -> None:
        async def nothing(*_: object) -> None:
            """Stand in for what a node of ours never does by itself."""

        self._swarm.retry_config = RetryConfig(max_retries=0)
        self._swarm.set_resource_manager(None)
        self._swarm.auto_connector.maybe_connect = nothing
        self._swarm.set_stream_handler(self._on_stream)
        self._swarm.upgrader.muxer_multistream.new_conn = self._new_muxer
        self._swarm._handle_inbound_connection = self._on_socket
        # What we must know about a peer stands in the ledger; what it says about itself we do not ask.
        self._host._schedule_identify = lambda *_, **__: None
        self._host.remove_stream_handler(ID_PUSH)
        for protocol in (PROTOCOL_CONSENSUS, PROTOCOL_RPC):
            self._host.set_stream_handler(TProtocol(protocol), self._stream_handler(protocol))

    async def _new_muxer(self, secured: Any, peer_id: Any) -> Muxer:
        """Negotiate Yamux and return ours; libp2p would make its own."""
        await self._swarm.upgrader.muxer_multistream.select_transport(secured)
        return Muxer(secured, peer_id)

    async def _on_socket(self, socket_stream: Any, address: object) -> None:
        """Take one inbound TCP connection from handshake to end."""
        key = id(socket_stream)
        if len(self._handshakes) >= HANDSHAKES_MAX:
            _, oldest = self._handshakes.popitem(last=False)
            oldest.stream.socket.close()
        self._handshakes[key] = socket_stream
        try:
            muxed = await self._swarm.upgrade_inbound_raw_conn(RawConnection(socket_stream, False), address)
            connection = self._connection_of(
                muxed, self._gate.admit_untrusted(muxed.peer_id.to_bytes()), is_outbound=False
            )
        except Exception as error:  # noqa: BLE001 - whatever a stranger's bytes cause ends with their connection
            _log.debug("an inbound connection failed", reason=_reason(error))
            socket_stream.stream.socket.close()
            return
        finally:
            self._handshakes.pop(key, None)
        self._on_inbound(connection)
        await connection.closed.wait()

    async def _on_stream(self, stream: Any) -> None:
        """Negotiate the protocol of a stream that a peer opened, and serve it."""
        try:
            if len(stream.swarm_conn.streams) > STREAMS_PER_CONNECTION_MAX:
                await stream.reset()
                return
            await self._negotiate(stream)
        except Exception as error:  # noqa: BLE001 - a peer's bytes must not end the host
            _log.debug("a stream failed", reason=_reason(error))
            await _reset(stream)

    def _stream_handler(self, protocol: str) -> Callable[[Any], Awaitable[None]]:
        async def handle(stream: Any) -> None:
            muxed = stream.muxed_conn
            # A stream may come before `_on_socket` runs again after the upgrade: then this makes the connection known.
            peer = self._gate.admit_untrusted(muxed.peer_id.to_bytes())
            connection = self._connection_of(muxed, peer, is_outbound=False)
            if connection.offer(protocol, LibP2PStream(stream)):
                await connection.closed.wait()
            else:
                await _reset(stream)

        return handle

    def _connection_of(self, muxed: Any, peer: Peer, *, is_outbound: bool) -> Connection:
        connection = self._connections.get(id(muxed))
        if connection is None or connection._muxed is not muxed:
            connection = self._connections[id(muxed)] = Connection(muxed, peer, is_outbound=is_outbound)
            if len(self._connections) > 2 * CONNECTIONS_MAX:
                self._forget_closed()
        return connection

    def _forget_closed(self) -> None:
        for key in [key for key, connection in self._connections.items() if connection.closed.is_set()]:
            del self._connections[key]

    async def _close(self) -> None:
        """Close the door, then every socket: libp2p's own close would wait for each stuck peer in turn, and close the door last."""
        for listener in self._swarm.listeners.values():
            await listener.close()
        for socket_stream in self._handshakes.values():
            socket_stream.stream.socket.close()
        for connection in self._connections.values():
            connection.abort()
        # What is left of them are bookkeeping tasks, which end with the host; closing each politely would take 0.2 s.
        self._swarm.connections.clear()
        await self._host.close()


class _GatedNoise:
    """Noise that turns strangers away as soon as their handshake has shown who they are."""

    def __init__(self, key_pair: Any, gate: Gate) -> None:
        self._noise = NoiseTransport(key_pair, noise_privkey=create_noise_key_pair().private_key)
        self._gate = gate

    async def secure_inbound(self, connection: Any) -> Any:
        """Return the secured connection of a member; close a stranger's."""
        secured = await self._noise.secure_inbound(connection)
        try:
            self._gate.admit_untrusted(secured.get_remote_peer().to_bytes())
        except PeerRefusedError as error:
            _socket_stream(secured).socket.close()
            raise HandshakeFailure(error.message) from error
        return secured

    async def secure_outbound(self, connection: Any, peer_id: Any) -> Any:
        """Return the secured connection to the peer that was dialled; libp2p compares its proven key with the one we asked for."""
        return await self._noise.secure_outbound(connection, peer_id)


def _socket_stream(secured: Any) -> Any:
    """Return the trio socket stream under a Noise session."""
    return secured.conn.read_writer.read_write_closer.stream.stream


async def _reset(stream: Any) -> None:
    try:
        await stream.reset()
    except Exception as error:  # noqa: BLE001 - the stream is given up either way
        _log.debug("a stream could not be reset", reason=_reason(error))


def _check_port_free(listen: Address) -> None:
    """Raise when somebody listens there already: libp2p would share the port with them, and each would get half of the connections."""
    if listen.protocol not in ("ip4", "ip6"):
        raise ListenError(
            "node.net.listen", "a node listens on an IP address", expected="/ip4/ADDRESS/tcp/PORT", actual=listen
        )
    family = socket.AF_INET if listen.protocol == "ip4" else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host, listen.port))
        except OSError as error:
            raise ListenError(
                "node.net.listen",
                f"cannot listen on {listen.transport}: {error.strerror}",
                hint="another process may use the port; choose another one in config.toml",
            ) from error


def _lost(error: Exception | None) -> PeerUnavailableError:
    reason = "" if error is None else f" ({_reason(error)})"
    return PeerUnavailableError("node.net.connection_lost", f"the connection to the peer was lost{reason}")


def _reason(error: BaseException) -> str:
    """Return the class and, if short, the text of the innermost cause: libp2p wraps errors without a word of their own."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error)
    return f"{type(error).__name__}: {text}" if 0 < len(text) <= 200 else type(error).__name__
