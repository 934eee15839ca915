"""Our Yamux: it speaks with libp2p's, keeps the order, honours windows, and ends with a peer that breaks the protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing
from libp2p import create_identity_from_seed
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.io.exceptions import IOException
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.noise.transport import Transport
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)
from libp2p.stream_muxer.yamux.yamux import Yamux

from node.net.muxer import (
    BACKLOG_BYTES_END,
    BACKLOG_BYTES_MAX,
    HEADER,
    INITIAL_WINDOW_BYTES,
    RECEIVE_WINDOW_BYTES,
    STREAMS_MAX,
    Muxer,
)
from tests.testkit.net import wait_until

DATA, WINDOW_UPDATE, PING, GO_AWAY = 0, 1, 2, 3
SYN, ACK, FIN, RST = 1, 2, 4, 8

KEYS = [create_identity_from_seed(bytes([number]) * 32) for number in (1, 2)]
PEERS = [ID.from_pubkey(key.public_key) for key in KEYS]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@asynccontextmanager
async def secured_pair() -> AsyncIterator[tuple[Any, Any]]:
    """Give both ends of a Noise session over a pair of sockets, the dialling one first."""
    sockets = trio.socket.socketpair()
    ends = [TrioTCPStream(trio.SocketStream(each)) for each in sockets]
    noises = [Transport(key, noise_privkey=create_new_key_pair().private_key) for key in KEYS]
    sessions: list[Any] = [None, None]

    async def dial() -> None:
        sessions[0] = await noises[0].secure_outbound(RawConnection(ends[0], True), PEERS[1])

    async def answer() -> None:
        sessions[1] = await noises[1].secure_inbound(RawConnection(ends[1], False))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        nursery.start_soon(answer)
    try:
        with trio.fail_after(20):
            yield sessions[0], sessions[1]
    finally:
        for each in sockets:
            each.close()


@asynccontextmanager
async def muxed(
    dialler: Callable[[Any, Any], Any] = Muxer, listener: Callable[[Any, Any], Any] = Muxer
) -> AsyncIterator[tuple[Any, Any]]:
    """Give two running ends."""
    async with secured_pair() as (dialled, listened), trio.open_nursery() as nursery:
        ends = dialler(dialled, PEERS[1]), listener(listened, PEERS[0])
        for end in ends:
            nursery.start_soon(end.start)
            await end.event_started.wait()
        yield ends
        nursery.cancel_scope.cancel()


class Raw:
    """An end that writes and reads single frames by hand."""

    def __init__(self, session: Any) -> None:
        self.session = session

    async def send(
        self, kind: int, flags: int, stream: int, length: int, data: bytes = b"", *, version: int = 0
    ) -> None:
        await self.session.write(HEADER.pack(version, kind, flags, stream, length) + data)

    async def receive(self) -> tuple[int, int, int, int]:
        _, kind, flags, stream, length = HEADER.unpack(await self.session.read(HEADER.size))
        if kind == DATA:
            await self.session.read(length)
        return kind, flags, stream, length


@asynccontextmanager
async def against_raw() -> AsyncIterator[tuple[Raw, Muxer]]:
    """Give a hand-written dialling end and our listening one."""
    async with secured_pair() as (dialled, listened), trio.open_nursery() as nursery:
        muxer = Muxer(listened, PEERS[0])
        nursery.start_soon(muxer.start)
        await muxer.event_started.wait()
        yield Raw(dialled), muxer
        nursery.cancel_scope.cancel()


async def read_all(stream: Any, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        parts += await stream.read(1 << 18)
    return bytes(parts)


@pytest.mark.parametrize(("dialler", "listener"), [(Muxer, Muxer), (Muxer, Yamux), (Yamux, Muxer)])
async def test_streams_carry_bytes_in_both_directions(dialler: Any, listener: Any) -> None:
    large = bytes(range(256)) * 12_000  # 3 MB: many frames, and more than the first window.
    async with muxed(dialler, listener) as ends:
        for opener, acceptor in (ends, ends[::-1]):
            stream = await opener.open_stream()
            other = await acceptor.accept_stream()
            await stream.write(b"hello")
            assert await other.read(3) == b"hel"
            assert await other.read(100) == b"lo"
            async with trio.open_nursery() as nursery:
                for sender, receiver in ((stream, other), (other, stream)):
                    nursery.start_soon(sender.write, large)
                    assert await read_all(receiver, len(large)) == large
            await stream.close()
            with pytest.raises(MuxedStreamEOF):
                await other.read(1)
            await other.write(b"still open")
            assert await stream.read(100) == b"still open"
            await other.reset()
            with pytest.raises((MuxedStreamReset, MuxedStreamEOF)):
                await stream.read(1)


async def test_small_messages_keep_their_order_over_many_streams() -> None:
    async with muxed() as (dialler, listener):
        streams = [await dialler.open_stream() for _ in range(8)]
        others = [await listener.accept_stream() for _ in range(8)]
        for number in range(2000):
            await streams[number % 8].write(b"%06d" % number)
        for index, other in enumerate(others):
            data = await read_all(other, 250 * 6)
            assert [int(data[at : at + 6]) for at in range(0, len(data), 6)] == list(range(index, 2000, 8))


async def test_a_writer_waits_for_the_readers_window_and_goes_on() -> None:
    async with muxed() as (dialler, listener):
        stream = await dialler.open_stream()
        other = await listener.accept_stream()
        data = bytes(3 * RECEIVE_WINDOW_BYTES)
        done = trio.Event()

        async def write() -> None:
            await stream.write(data)
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await wait_until(lambda: stream.send_window == 0 and len(other.received) == RECEIVE_WINDOW_BYTES)
            assert not done.is_set()
            assert len(other.received) == RECEIVE_WINDOW_BYTES
            assert await read_all(other, len(data)) == data
        assert done.is_set()


async def test_what_arrives_is_handed_over_at_once() -> None:
    async with muxed() as (dialler, listener):
        stream = await dialler.open_stream()
        other = await listener.accept_stream()
        assert stream.write_now(b"early ")
        await wait_until(lambda: bool(other.received))
        taken = bytearray()
        ended: list[BaseException] = []

        async def receive() -> None:
            try:
                await other.receive(taken.extend)
            except MuxedStreamEOF as error:
                ended.append(error)

        data = bytes(range(256)) * 40_000  # 10 MB: the window must be opened again.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await stream.write(data)
            await stream.close()
        assert taken == b"early " + data
        assert len(ended) == 1
        assert not stream.write_now(b"x")


async def test_what_the_taker_raises_ends_its_receive_alone() -> None:
    async with muxed() as (dialler, listener):
        stream, second = await dialler.open_stream(), await dialler.open_stream()
        other, second_other = await listener.accept_stream(), await listener.accept_stream()

        def refuse(data: bytes) -> None:
            raise ValueError(data)

        async with trio.open_nursery() as nursery:

            async def expect() -> None:
                with pytest.raises(ValueError, match="bad"):
                    await other.receive(refuse)

            nursery.start_soon(expect)
            await trio.testing.wait_all_tasks_blocked()
            await stream.write(b"bad")
        await second.write(b"good")
        assert await second_other.read() == b"good"


async def test_nothing_is_written_at_once_beyond_window_or_socket() -> None:
    async with muxed() as (dialler, _):
        stream = await dialler.open_stream()
        assert not stream.write_now(bytes(65_501))
        stream.send_window = 3
        assert not stream.write_now(b"four")
        assert stream.write_now(b"two")
        stream.send_window = 100
        dialler._backlog += b"x"
        assert not stream.write_now(b"x")
        dialler._backlog.clear()
        await stream.reset()
        assert not stream.write_now(b"x")


async def test_writers_wait_while_the_socket_takes_nothing() -> None:
    async with secured_pair() as (dialled, _), trio.open_nursery() as nursery:  # Nobody reads at the other end.
        muxer = Muxer(dialled, PEERS[1])
        nursery.start_soon(muxer.start)
        await muxer.event_started.wait()
        stream = await muxer.open_stream()
        stream.send_window = 1 << 30
        with trio.move_on_after(0.2) as scope:
            await stream.write(bytes(16 * 1024 * 1024))
        assert scope.cancelled_caught
        assert BACKLOG_BYTES_MAX < len(muxer._backlog) < 2 * BACKLOG_BYTES_MAX
        nursery.cancel_scope.cancel()


async def test_a_cancelled_write_leaves_the_connection_whole() -> None:
    async with muxed() as (dialler, listener):
        stream, second = await dialler.open_stream(), await dialler.open_stream()
        other, second_other = await listener.accept_stream(), await listener.accept_stream()
        with trio.move_on_after(0.05):
            await stream.write(bytes(2 * RECEIVE_WINDOW_BYTES))
        await second.write(b"whole")
        assert await second_other.read(100) == b"whole"
        assert len(await other.read(100)) == 100


async def test_the_end_of_the_connection_wakes_everybody() -> None:
    async with muxed() as (dialler, listener):
        stream = await dialler.open_stream()
        other = await listener.accept_stream()
        seen: list[type[BaseException]] = []

        async def expect(call: Callable[[], Any]) -> None:
            try:
                await call()
            except (MuxedStreamError, MuxedConnUnavailable) as error:
                seen.append(type(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, lambda: other.read(1))
            nursery.start_soon(expect, lambda: other.write(bytes(RECEIVE_WINDOW_BYTES + 1)))
            nursery.start_soon(expect, listener.accept_stream)
            await trio.sleep(0.05)
            await dialler.close()
        assert sorted(each.__name__ for each in seen) == [
            "MuxedConnUnavailable",
            "MuxedStreamEOF",
            "MuxedStreamError",
        ]
        await listener.event_closed.wait()
        for end in (dialler, listener):
            assert end.is_closed
            assert not end.is_established
            with pytest.raises(MuxedStreamError):
                await end.open_stream()
        with pytest.raises(MuxedStreamError):
            await stream.write(b"x")
        await stream.close()
        await stream.reset()


async def test_a_ping_is_answered_and_a_goodbye_ends_it() -> None:
    async with against_raw() as (raw, muxer):
        await raw.send(PING, SYN, 0, 77)
        assert await raw.receive() == (PING, ACK, 0, 77)
        await raw.send(GO_AWAY, 0, 0, 0)
        await muxer.event_closed.wait()


async def test_whoever_asks_and_never_reads_is_cut() -> None:
    async with against_raw() as (raw, muxer):
        pings = b"".join(HEADER.pack(0, PING, SYN, 0, number) for number in range(5000))
        with trio.move_on_after(15) as scope:
            async with trio.open_nursery() as nursery:

                async def flood() -> None:
                    # The cut may come while it writes.
                    with suppress(IOException):
                        while not muxer.is_closed:
                            await raw.session.write(pings)

                nursery.start_soon(flood)
                await muxer.event_closed.wait()
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        assert len(muxer._backlog) < 2 * BACKLOG_BYTES_END


async def test_a_streams_life_frame_by_frame() -> None:
    async with against_raw() as (raw, muxer):
        await raw.send(DATA, SYN, 1, 3, b"abc")
        assert await raw.receive() == (WINDOW_UPDATE, ACK, 1, RECEIVE_WINDOW_BYTES - INITIAL_WINDOW_BYTES)
        stream = await muxer.accept_stream()
        assert await stream.read() == b"abc"
        await raw.send(WINDOW_UPDATE, FIN, 1, 0)
        with pytest.raises(MuxedStreamEOF):
            await stream.read()
        await stream.close()
        assert await raw.receive() == (WINDOW_UPDATE, FIN, 1, 0)
        # It is gone; whatever comes for it is let pass, and its number may be used again.
        await raw.send(DATA, 0, 1, 2, b"zz")
        await raw.send(WINDOW_UPDATE, SYN, 1, 0)
        assert (await raw.receive())[1] == ACK
        again = await muxer.accept_stream()
        await raw.send(WINDOW_UPDATE, RST, 1, 0)
        with pytest.raises(MuxedStreamReset):
            await again.read()
        with pytest.raises(MuxedStreamError):
            await again.write(b"x")


async def test_streams_beyond_the_limit_are_refused_alone() -> None:
    async with against_raw() as (raw, muxer):
        for number in range(STREAMS_MAX + 1):
            await raw.send(WINDOW_UPDATE, SYN, 2 * number + 1, 0)
        flags = [(await raw.receive())[1] for _ in range(STREAMS_MAX + 1)]
        assert flags == [ACK] * STREAMS_MAX + [RST]
        for _ in range(STREAMS_MAX):
            await muxer.accept_stream()
        assert not muxer.is_closed


@pytest.mark.parametrize(
    ("kind", "flags", "stream", "length", "version"),
    [
        (DATA, 0, 1, RECEIVE_WINDOW_BYTES + 1, 0),
        (DATA, 0, 99, RECEIVE_WINDOW_BYTES + 1, 0),
        (WINDOW_UPDATE, SYN, 1, 0, 0),
        (WINDOW_UPDATE, SYN, 2, 0, 0),
        (WINDOW_UPDATE, SYN, 0, 0, 0),
        (4, 0, 0, 0, 0),
        (PING, SYN, 0, 0, 1),
    ],
)
async def test_what_breaks_the_protocol_ends_the_connection(
    kind: int, flags: int, stream: int, length: int, version: int
) -> None:
    async with against_raw() as (raw, muxer):
        await raw.send(WINDOW_UPDATE, SYN, 1, 0)
        await muxer.accept_stream()
        await raw.send(kind, flags, stream, length, version=version)
        await muxer.event_closed.wait()


async def test_a_message_that_was_tampered_with_ends_the_connection() -> None:
    async with against_raw() as (raw, muxer):
        await raw.session.conn.read_writer.write_msg(bytes(40))
        await muxer.event_closed.wait()


async def test_the_window_of_a_stream_is_one_for_all_its_frames() -> None:
    async with against_raw() as (raw, muxer):
        await raw.send(WINDOW_UPDATE, SYN, 1, 0)
        await muxer.accept_stream()
        for _ in range(RECEIVE_WINDOW_BYTES // 32_768):
            await raw.send(DATA, 0, 1, 32_768, bytes(32_768))
        await raw.send(PING, SYN, 0, 1)
        await raw.receive()
        assert await raw.receive() == (PING, ACK, 0, 1)
        await raw.send(DATA, 0, 1, 1, b"x")
        await muxer.event_closed.wait()
