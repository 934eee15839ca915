"""Whoever is not a member gets nothing, and whatever bytes come, the node goes on serving its members."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from node.errors import PeerUnavailableError
from node.net.address import parse_address_untrusted
from node.net.gate import Gate, peer_of
from node.net.limits import PROTOCOL_CONSENSUS, PROTOCOL_RPC, STREAMS_PER_CONNECTION_MAX, Timing
from tests.testkit.net import Member, echo, linked, raw_key_of, running, seed_of, wait_until

pytestmark = pytest.mark.live


def port_of(member: Member) -> int:
    return parse_address_untrusted(member.address).port


async def still_serves(member: Member, *others: Member) -> None:
    """Fail unless `member` answers old peers and lets a new connection of a member in."""
    for other in others:
        assert await other.ask(member, "echo", b"old") == b"old"
    fresh = Member("fresh", ["a", "b", "fresh"])
    member.members.add(raw_key_of("fresh"))
    async with running(fresh):
        assert await fresh.ask(member, "echo", b"new") == b"new"


@asynccontextmanager
async def raw_connection(member: Member, name: str) -> AsyncIterator[tuple[object, Callable[[str], Awaitable[object]]]]:
    """Yield an authenticated libp2p connection to `member` under `name`'s key, and a way to open streams on it."""
    from node.net.host import LibP2PHost

    host = LibP2PHost(seed=seed_of(name), gate=Gate(lambda _: True, lambda _: None), on_inbound=lambda _: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run, parse_address_untrusted("/ip4/127.0.0.1/tcp/0"))
        connection = await host.dial(parse_address_untrusted(member.address), peer_of(raw_key_of(member.name)))

        async def open_stream(protocol: str) -> object:
            return await host.open_stream(connection, protocol)

        yield connection, open_stream
        nursery.cancel_scope.cancel()


async def test_a_stranger_is_cut_after_the_handshake() -> None:
    async with linked("a", "b") as (a, b):
        b.network.handle("echo", echo)
        stranger = Member("stranger", ["a", "b", "stranger"])
        async with running(stranger):
            with pytest.raises(PeerUnavailableError) as caught:
                await stranger.ask(b, "echo")
            assert caught.value.code == "node.net.unreachable"
            assert b.network.strangers_refused == 1
            assert {status.key_id for status in b.network.peers()} == {a.key_id}
            b.members.add(raw_key_of("stranger"))
            assert await stranger.ask(b, "echo", b"hello") == b"hello"


async def test_a_member_that_is_revoked_is_cut_and_cannot_come_back() -> None:
    timing = Timing(members_s=0.1, calm_heartbeat_s=0.1)
    async with linked("a", "b", timing=timing) as (a, b):
        b.members.discard(raw_key_of("a"))
        await wait_until(lambda: not a.network.is_linked(b.key_id) and not b.network.is_linked(a.key_id))
        await trio.sleep(0.3)
        assert not b.network.is_linked(a.key_id)
        b.members.add(raw_key_of("a"))
        await wait_until(lambda: a.network.is_linked(b.key_id) and b.network.is_linked(a.key_id))


async def test_plaintext_is_not_spoken() -> None:
    async with linked("a", "b") as (_, b):
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(b))
        answer = b""
        async with stream:
            for text in (b"/multistream/1.0.0\n", b"/plaintext/2.0.0\n"):
                await stream.send_all(bytes((len(text),)) + text)
            with trio.move_on_after(2):
                while len(answer) < 24:
                    answer += await stream.receive_some(100)
        assert answer == b"\x13/multistream/1.0.0\n\x03na\n"


async def test_garbage_on_the_port_does_no_harm() -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    multistream, noise = b"\x13/multistream/1.0.0\n", b"\x07/noise\n"
    openings = [b"", multistream, multistream + noise, multistream + noise + b"\x00\x20", b"GET / HTTP/1.1\r\n\r\n"]
    async with linked("a", "b") as (a, b):
        b.network.handle("echo", echo)

        async def attack(opening: bytes, garbage: bytes, *, is_rude: bool) -> None:
            with suppress(OSError, trio.BrokenResourceError):
                stream = await trio.open_tcp_stream("127.0.0.1", port_of(b))
                await stream.send_all(opening + garbage)
                if is_rude:
                    await trio.aclose_forcefully(stream)
                else:
                    with trio.move_on_after(0.1):
                        await stream.receive_some(1000)
                    await stream.aclose()

        async with trio.open_nursery() as nursery:
            for number in range(60):
                garbage = chance.randbytes(chance.choice((0, 1, 2, 50, 5000)))
                nursery.start_soon(
                    lambda n=number, g=garbage: attack(openings[n % len(openings)], g, is_rude=n % 3 == 0)
                )
        await still_serves(b, a)
        assert len(a.link_events) == len(b.link_events) == 1, f"seed {seed}"


async def test_silent_connections_do_not_lock_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.net.host.HANDSHAKES_MAX", 10)
    async with linked("a", "b") as (a, b):
        b.network.handle("echo", echo)
        silent = [await trio.open_tcp_stream("127.0.0.1", port_of(b)) for _ in range(25)]
        await still_serves(b, a)
        # The oldest were closed to make room.
        with trio.fail_after(2), suppress(trio.BrokenResourceError):
            while await silent[0].receive_some(1000):
                pass
        for stream in silent:
            await trio.aclose_forcefully(stream)


async def test_a_handshake_that_stops_half_way_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.net.host.HANDSHAKE_S_MAX", 1.0)
    a = Member("a", ["a"])
    async with running(a):
        stream = await trio.open_tcp_stream("127.0.0.1", port_of(a))
        await stream.send_all(b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x20" + os.urandom(5))
        with trio.fail_after(3), suppress(trio.BrokenResourceError):
            while await stream.receive_some(1000):
                pass
        await stream.aclose()


async def test_a_protocol_name_that_is_not_utf8_ends_its_stream_only() -> None:
    """py-libp2p by itself ends the whole process then."""
    async with linked("a", "b") as (a, b):
        b.network.handle("echo", echo)
        b.members.add(raw_key_of("rude"))
        async with raw_connection(b, "rude") as (connection, _):
            muxed = connection._muxed  # type: ignore[attr-defined]
            for name in (b"\xff\xfe\xfd\n", b"\n", b"x" * 2000 + b"\n"):
                stream = await muxed.open_stream()
                await stream.write(b"\x13/multistream/1.0.0\n")
                length = len(name)
                prefix = bytes((length,)) if length < 128 else bytes((length & 0x7F | 0x80, length >> 7))
                await stream.write(prefix + name)
                await trio.sleep(0.05)
            await still_serves(b, a)
        assert len(b.link_events) == 1


async def _cut(member: Member, name: str, protocol: str, data: bytes) -> None:
    """Send `data` on a new stream of an authenticated connection and fail unless the connection is cut."""
    async with raw_connection(member, name) as (connection, open_stream):
        stream = await open_stream(PROTOCOL_RPC)
        if protocol != PROTOCOL_RPC:
            stream = await open_stream(protocol)
        with suppress(PeerUnavailableError):  # Opening the stream was reason enough.
            await stream.write(data)  # type: ignore[attr-defined]
        with trio.fail_after(3):
            await connection.closed.wait()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("protocol", "data"),
    [
        (PROTOCOL_RPC, b"\xff\xff\xff\xff"),
        (PROTOCOL_RPC, b"\x00\x80\x00\x01"),
        (PROTOCOL_RPC, b"\x00\x00\x00\x01\x01"),
        (PROTOCOL_RPC, b"\x00\x00\x00\x05\x09\x00\x00\x00\x01"),
        (PROTOCOL_RPC, b"\x00\x00\x00\x05\x01\x00\x00\x00\x01"),
        (PROTOCOL_RPC, b"\x00\x00\x00\x08\x01\x00\x00\x00\x01\x09ab"),
        (PROTOCOL_RPC, b"\x00\x00\x00\x08\x01\x00\x00\x00\x01\x02\xff\xff"),
        (PROTOCOL_RPC, b"\x00\x00\x00\x06\x01\x00\x00\x00\x01\x00"),
        (PROTOCOL_RPC, b"\x00\x00\x00\x07\x03\x00\x00\x00\x01\xff\xff"),
        (PROTOCOL_CONSENSUS, b"\x00\x00\x00\x01x"),
        ("/ipfs/ping/1.0.0", b"\x00" * 32),
    ],
    ids=[
        "frame of 4 GiB",
        "frame of one byte too many",
        "frame without id",
        "unknown kind",
        "request without method",
        "cut method",
        "method not ASCII",
        "empty method",
        "malformed error",
        "consensus from a peer without link",
        "no heartbeat",
    ],
)
async def test_a_member_that_breaks_the_protocol_is_cut(protocol: str, data: bytes) -> None:
    timing = Timing(calm_heartbeat_s=0.2, calm_dead_s=0.6)
    a, b = Member("a", ["a", "b"]), Member("b", ["a", "b", "rude"], timing=timing)
    b.network.handle("echo", echo)
    async with running(a, b):
        await _cut(b, "rude", protocol, data)
        await still_serves(b, a)
        assert b.messages == {}


async def test_a_connection_without_streams_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.net.session.HANDSHAKE_S_MAX", 0.2)
    b = Member("b", ["b", "rude"])
    async with running(b), raw_connection(b, "rude") as (connection, _):
        with trio.fail_after(3):
            await connection.closed.wait()  # type: ignore[attr-defined]


async def test_streams_of_one_connection_are_bounded() -> None:
    b = Member("b", ["b", "greedy"])
    async with running(b), raw_connection(b, "greedy") as (connection, open_stream):
        muxed = connection._muxed  # type: ignore[attr-defined]
        await open_stream(PROTOCOL_RPC)
        for _ in range(STREAMS_PER_CONNECTION_MAX - 2):
            await muxed.open_stream()
        await open_stream("/ipfs/ping/1.0.0")
        with pytest.raises(PeerUnavailableError):
            await open_stream("/ipfs/ping/1.0.0")
        b.network.handle("echo", echo)
        await still_serves(b)


@pytest.mark.slow
async def test_three_hundred_inbound_connections_over_the_life_of_a_node() -> None:
    """py-libp2p by itself refuses everybody after 250, for ever."""
    from node.net.host import LibP2PHost

    a, b = Member("a", ["a", "b"]), Member("b", ["a", "b", "busy"])
    b.network.handle("echo", echo)
    host = LibP2PHost(seed=seed_of("busy"), gate=Gate(lambda _: True, lambda _: None), on_inbound=lambda _: None)
    async with running(a, b), trio.open_nursery() as nursery:
        await nursery.start(host.run, parse_address_untrusted("/ip4/127.0.0.1/tcp/0"))
        address, peer = parse_address_untrusted(b.address), peer_of(raw_key_of("b"))
        for _ in range(300):
            connection = await host.dial(address, peer)
            connection.abort()
        assert await a.ask(b, "echo", b"x") == b"x"
        server = b.network._host
        assert server is not None
        await wait_until(lambda: len(server._swarm.get_connections()) == 1, timeout_s=10)
        assert server._handshakes == {}
        assert set(b.network._sessions) == {a.key_id}
        nursery.cancel_scope.cancel()
