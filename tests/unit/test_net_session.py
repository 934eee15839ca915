"""One connection's rules on a clock that jumps: heartbeats, silence, stalls, membership, and queues."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import trio
import trio.testing

from node.errors import PeerUnavailableError
from node.net.channel import HEARTBEAT_FRAME, ByteStream, FrameChannel
from node.net.gate import Gate, Peer, peer_of
from node.net.limits import PROTOCOL_CONSENSUS, PROTOCOL_RPC, WRITE_BYTES_MAX, WRITE_STALL_S_MAX, Timing
from node.net.rpc import Handler
from node.net.session import Session
from tests.testkit.net import raw_key_of
from wire.errors import CorruptionError, RejectedError
from wire.framing import encode_frame
from wire.keys import KeyId

PEER = peer_of(raw_key_of("peer"))


class FakeStream:
    """A stream whose other end is the test."""

    def __init__(self) -> None:
        self.written: list[tuple[float, bytes]] = []
        self.blocked = False
        self.takes_at_once = False
        self._push, self._pull = trio.open_memory_channel[bytes](math.inf)

    async def receive(self, take: Callable[[bytes], None]) -> None:
        async for data in self._pull:
            take(data)
        raise PeerUnavailableError("node.net.connection_lost", "gone")

    def write_now(self, data: bytes) -> bool:
        if self.takes_at_once:
            self.written.append((trio.current_time(), data))
        return self.takes_at_once

    async def write(self, data: bytes) -> None:
        if self.blocked:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        self.written.append((trio.current_time(), data))

    def arrive(self, data: bytes) -> None:
        self._push.send_nowait(data)

    def end(self) -> None:
        self._push.close()


@dataclass
class FakeConnection:
    peer: Peer = PEER
    is_outbound: bool = True
    address: str = "127.0.0.1:1"
    aborted: int = 0

    def __post_init__(self) -> None:
        self.offer, self.streams = trio.open_memory_channel[tuple[str, ByteStream]](4)

    def abort(self) -> None:
        self.aborted += 1


@dataclass
class FakeOwner:
    timing: Timing = field(default_factory=Timing)
    handlers: Mapping[str, Handler] = field(default_factory=dict)
    messages: list[bytes] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    member: bool = True
    link: bool = True

    def on_consensus(self, peer: KeyId, payloads: list[bytes]) -> None:
        assert peer == PEER.key_id
        self.messages.extend(payloads)

    def is_member(self, peer: Peer) -> bool:
        assert peer is PEER
        return self.member

    def is_link(self, peer: Peer) -> bool:
        assert peer is PEER
        return self.link

    def session_ready(self, session: Session) -> None:
        self.events.append("ready" if session.consensus is None else "ready for consensus")

    def session_over(self, session: Session) -> None:
        self.events.append(f"over: {session.reason}")


def outbound(owner: FakeOwner, *protocols: str) -> tuple[Session, FakeConnection, dict[str, FakeStream]]:
    streams = {protocol: FakeStream() for protocol in protocols}
    connection = FakeConnection()
    return Session(connection, owner, streams), connection, streams


async def test_an_idle_link_sends_a_heartbeat_in_time(autojump_clock: trio.testing.MockClock) -> None:
    owner = FakeOwner()
    session, _, streams = outbound(owner, PROTOCOL_CONSENSUS, PROTOCOL_RPC)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        for _ in range(100):
            await trio.sleep(0.1)
            streams[PROTOCOL_RPC].arrive(HEARTBEAT_FRAME)
        times = [at for at, data in streams[PROTOCOL_CONSENSUS].written if data == HEARTBEAT_FRAME]
        assert len(times) >= 95
        assert max(later - earlier for earlier, later in pairwise(times)) <= 0.15
        assert owner.events[0] == "ready for consensus" or owner.events[:2] == ["ready", "ready for consensus"]
        nursery.cancel_scope.cancel()


async def test_what_is_sent_anyway_replaces_heartbeats(autojump_clock: trio.testing.MockClock) -> None:
    owner = FakeOwner()
    session, _, streams = outbound(owner, PROTOCOL_CONSENSUS, PROTOCOL_RPC)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await trio.sleep(0.01)
        assert session.consensus is not None
        before = len(streams[PROTOCOL_CONSENSUS].written)
        for _ in range(100):
            session.consensus.push(b"m")
            streams[PROTOCOL_CONSENSUS].arrive(encode_frame(b"m"))
            await trio.sleep(0.05)
        written = [data for _, data in streams[PROTOCOL_CONSENSUS].written[before:]]
        assert HEARTBEAT_FRAME not in written
        assert owner.messages == [b"m"] * 100
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("protocols", "dead_s"), [((PROTOCOL_CONSENSUS, PROTOCOL_RPC), 0.5), ((PROTOCOL_RPC,), 4.0)])
async def test_silence_is_death(
    autojump_clock: trio.testing.MockClock, protocols: tuple[str, ...], dead_s: float
) -> None:
    owner = FakeOwner()
    session, connection, _ = outbound(owner, *protocols)
    began = trio.current_time()
    await session.run()
    lived = trio.current_time() - began
    assert dead_s < lived <= dead_s * 1.4
    assert connection.aborted == 1
    assert session.closed.is_set()
    assert owner.events[-1] == f"over: nothing came from the peer for {dead_s:g} s"


async def test_any_byte_on_any_stream_is_life(autojump_clock: trio.testing.MockClock) -> None:
    session, _, streams = outbound(FakeOwner(), PROTOCOL_CONSENSUS, PROTOCOL_RPC)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        for number in range(50):
            await trio.sleep(0.4)
            streams[PROTOCOL_RPC if number % 2 else PROTOCOL_CONSENSUS].arrive(b"\x00")
        assert not session.closed.is_set()
        nursery.cancel_scope.cancel()


async def test_a_peer_that_sends_but_never_reads_is_cut(autojump_clock: trio.testing.MockClock) -> None:
    owner = FakeOwner()
    session, connection, streams = outbound(owner, PROTOCOL_CONSENSUS, PROTOCOL_RPC)
    streams[PROTOCOL_CONSENSUS].blocked = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        while not session.closed.is_set() and trio.current_time() < 60:
            await trio.sleep(0.1)
            streams[PROTOCOL_RPC].arrive(HEARTBEAT_FRAME)
    assert WRITE_STALL_S_MAX <= trio.current_time() < WRITE_STALL_S_MAX + 1
    assert connection.aborted == 1
    assert "read nothing" in session.reason


async def test_the_end_of_one_stream_is_the_end_of_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    owner = FakeOwner()
    session, connection, streams = outbound(owner, PROTOCOL_CONSENSUS, PROTOCOL_RPC)
    streams[PROTOCOL_CONSENSUS].end()
    await session.run()
    assert connection.aborted == 1
    assert owner.events[-1] == "over: gone"


@pytest.mark.parametrize("is_outbound", [True, False])
async def test_a_peer_that_is_no_member_any_more_is_cut(
    autojump_clock: trio.testing.MockClock, is_outbound: bool
) -> None:
    owner = FakeOwner(member=False)
    connection = FakeConnection(is_outbound=is_outbound)
    rpc = FakeStream()
    session = Session(connection, owner, {PROTOCOL_RPC: rpc})
    with trio.move_on_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            while not session.closed.is_set():
                await trio.sleep(0.2)
                rpc.arrive(HEARTBEAT_FRAME)
    # Whom we dialled by address for a request is not judged by a replica that may be behind.
    assert ("no longer a member" in session.reason) is not is_outbound


async def test_the_accepting_side_waits_for_streams_but_not_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    owner = FakeOwner()
    connection = FakeConnection(is_outbound=False)
    session = Session(connection, owner, {})
    await session.run()
    assert 3.9 < trio.current_time() < 6
    assert connection.aborted == 1
    assert owner.events == []  # It was never ready, so nobody is told that it is over.


async def test_the_accepting_side_takes_streams_in_any_order(autojump_clock: trio.testing.MockClock) -> None:
    for protocols in ((PROTOCOL_CONSENSUS, PROTOCOL_RPC), (PROTOCOL_RPC, PROTOCOL_CONSENSUS)):
        owner = FakeOwner()
        connection = FakeConnection(is_outbound=False)
        session = Session(connection, owner, {})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            for protocol in protocols:
                connection.offer.send_nowait((protocol, FakeStream()))
            await trio.testing.wait_all_tasks_blocked()
            assert owner.events[-1] == "ready for consensus"
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("link", "protocols"),
    [
        (False, (PROTOCOL_CONSENSUS,)),
        (False, (PROTOCOL_RPC, PROTOCOL_CONSENSUS)),
        (True, (PROTOCOL_RPC, PROTOCOL_RPC)),
        (True, (PROTOCOL_CONSENSUS, PROTOCOL_CONSENSUS)),
    ],
)
async def test_a_stream_too_many_or_without_right_ends_the_connection(
    autojump_clock: trio.testing.MockClock, link: bool, protocols: tuple[str, ...]
) -> None:
    owner = FakeOwner(link=link)
    connection = FakeConnection(is_outbound=False)
    for protocol in protocols:
        connection.offer.send_nowait((protocol, FakeStream()))
    session = Session(connection, owner, {})
    await session.run()
    assert connection.aborted == 1
    assert "a stream that it may not have" in session.reason


async def test_closing_a_session_aborts_the_connection_before_it_cancels_a_write(
    autojump_clock: trio.testing.MockClock,
) -> None:
    owner = FakeOwner()
    session, connection, streams = outbound(owner, PROTOCOL_CONSENSUS, PROTOCOL_RPC)
    streams[PROTOCOL_CONSENSUS].blocked = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await trio.sleep(0.2)
        session.close("enough")
        assert connection.aborted == 1
        await session.closed.wait()
    assert owner.events[-1] == "over: enough"


async def test_small_frames_share_a_write_and_large_ones_are_cut_at_the_limit() -> None:
    stream = FakeStream()
    channel = FrameChannel(stream, lambda _: None, 10_000_000)
    messages = [bytes((number % 256,)) * 400 for number in range(500)] + [b"L" * 200_000]
    for message in messages:
        assert channel.push(message)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run_writer)
        await channel.wait_drained()
        nursery.cancel_scope.cancel()
    sizes = [len(data) for _, data in stream.written]
    assert max(sizes) <= WRITE_BYTES_MAX
    assert len(sizes) <= 4 + 4
    assert b"".join(data for _, data in stream.written) == b"".join(map(encode_frame, messages))


async def test_a_frame_leaves_at_once_unless_others_wait_or_it_is_long(autojump_clock: trio.testing.MockClock) -> None:
    stream = FakeStream()
    channel = FrameChannel(stream, lambda _: None, 10_000_000)
    stream.takes_at_once = True
    await trio.sleep(0.001)
    assert channel.push(b"first")
    await trio.sleep(0.001)
    channel.heartbeat()
    assert [data for _, data in stream.written] == [encode_frame(b"first"), HEARTBEAT_FRAME]
    await trio.sleep(0.001)
    assert channel.push(b"L" * WRITE_BYTES_MAX)
    assert channel.push(b"after")
    assert len(stream.written) == 2
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run_writer)
        await channel.wait_drained()
        nursery.cancel_scope.cancel()
    assert b"".join(data for _, data in stream.written[2:]) == encode_frame(b"L" * WRITE_BYTES_MAX) + encode_frame(
        b"after"
    )
    await trio.sleep(0.001)
    assert channel.push(b"last")
    assert channel.push(b"right after")
    assert stream.written[-1][1] == encode_frame(b"last")


async def test_a_full_queue_makes_senders_wait() -> None:
    stream = FakeStream()
    channel = FrameChannel(stream, lambda _: None, 1000)
    assert channel.push(b"x" * 5000)  # An empty queue takes any frame.
    assert not channel.push(b"y")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.send, b"y")
        await trio.testing.wait_all_tasks_blocked()
        assert stream.written == []
        nursery.start_soon(channel.run_writer)
        await trio.testing.wait_all_tasks_blocked()
        assert b"".join(data for _, data in stream.written) == encode_frame(b"x" * 5000) + encode_frame(b"y")
        nursery.cancel_scope.cancel()


def test_the_gate_reports_corruption_and_admits_nobody() -> None:
    seen: list[CorruptionError] = []

    def is_member(_: bytes) -> bool:
        raise CorruptionError("node.storage.checksum", "a row is damaged")

    gate = Gate(is_member, seen.append)
    with pytest.raises(RejectedError) as caught:
        gate.admit_untrusted(bytes.fromhex("002408011220") + PEER.raw_key)
    assert caught.value.code == "node.net.not_a_member"
    assert [error.code for error in seen] == ["node.storage.checksum"]


@pytest.mark.parametrize("multihash", [b"", b"\x12\x20" + bytes(32), bytes.fromhex("002408011220") + bytes(32)])
def test_the_gate_refuses_keys_that_are_none(multihash: bytes) -> None:
    gate = Gate(lambda _: True, lambda _: None)
    with pytest.raises(RejectedError) as caught:
        gate.admit_untrusted(multihash)
    assert caught.value.code == "node.net.not_a_member"
    assert gate.refused == 1
    assert gate.admit_untrusted(bytes.fromhex("002408011220") + PEER.raw_key) == PEER
