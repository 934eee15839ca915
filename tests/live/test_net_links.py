"""Links on real sockets: they come up, carry messages in order and many at once, and follow the wanted set."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio

from node.errors import AddressError, ListenError, PeerUnavailableError
from node.net.address import parse_address_untrusted
from node.net.channel import ByteStream
from node.net.limits import CONSENSUS_QUEUE_BYTES_MAX, Timing
from node.net.network import LinkChange, Network
from tests.testkit.net import ANY_PORT, Member, linked, raw_key_of, running, seed_of, wait_until
from wire.keys import Algorithm, private_key_from_seed
from wire.limits import FRAME_BYTES_MAX

pytestmark = pytest.mark.live


async def test_a_link_comes_up_once_at_both_ends() -> None:
    async with linked("a", "b") as (a, b):
        assert a.link_events == [(b.key_id, LinkChange.UP)]
        assert b.link_events == [(a.key_id, LinkChange.UP)]
        (status,) = a.network.peers()
        assert (status.key_id, status.is_link, status.connected) == (b.key_id, True, True)
        assert status.address in b.address
        assert b.address == f"{status.address}/p2p/{status.peer_id}"


async def test_four_validators_link_with_each_other() -> None:
    async with linked("a", "b", "c", "d") as members:
        for member in members:
            assert [status.connected for status in member.network.peers()] == [True, True, True]
            for other in members:
                if other is not member:
                    assert member.network.send(other.key_id, member.name.encode())
        await wait_until(lambda: all(len(member.messages) == 3 for member in members))
        for member in members:
            for other in members:
                if other is not member:
                    assert member.messages[other.key_id] == [other.name.encode()]


async def test_messages_arrive_in_order_and_many_in_one_write() -> None:
    async with linked("a", "b") as (a, b):
        messages = [b"%06d" % number + b"." * (number % 300) for number in range(20_000)]
        for sender, receiver in ((a, b), (b, a)):
            for number, message in enumerate(messages):
                assert sender.network.send(receiver.key_id, message)
                if number % 50 == 49:
                    await trio.lowlevel.checkpoint()
        await wait_until(lambda: all(len(m.messages.get(o.key_id, ())) == 20_000 for m, o in ((a, b), (b, a))))
        assert a.messages[b.key_id] == messages
        assert b.messages[a.key_id] == messages
        assert a.batches + b.batches < 40_000 / 20


async def test_the_largest_message_arrives_and_a_larger_one_is_our_bug() -> None:
    async with linked("a", "b") as (a, b):
        largest = bytes(range(256)) * (FRAME_BYTES_MAX // 256)
        assert a.network.send(b.key_id, largest)
        assert a.network.send(b.key_id, b"after")
        await wait_until(lambda: len(b.messages.get(a.key_id, ())) == 2)
        assert b.messages[a.key_id] == [largest, b"after"]


async def test_a_full_queue_says_no_and_a_missing_link_too() -> None:
    async with linked("a", "b") as (a, b):
        message = bytes(1_000_000)
        accepted = 0
        while a.network.send(b.key_id, message):  # No checkpoint: nothing can leave meanwhile.
            accepted += 1
        assert accepted == CONSENSUS_QUEUE_BYTES_MAX // len(message)
        await wait_until(lambda: len(b.messages.get(a.key_id, ())) == accepted)
        assert a.network.send(b.key_id, message)
        assert not a.network.send(private_key_from_seed(Algorithm.ED25519, seed_of("x")).public_key.key_id, b"")
        assert not a.network.send(a.key_id, b"")


async def test_the_round_trip_time_is_measured() -> None:
    async with linked("a", "b", timing=Timing(ping_s=0.1)) as (a, b):
        await wait_until(lambda: all(m.network.peers()[0].rtt_ms is not None for m in (a, b)))
        assert 0 < (a.network.peers()[0].rtt_ms or 0) < 1000


async def test_an_idle_link_stays_up() -> None:
    timing = Timing(heartbeat_s=0.05, dead_s=0.3)
    async with linked("a", "b", timing=timing) as (a, b):
        await trio.sleep(1.2)
        assert (len(a.link_events), len(b.link_events)) == (1, 1)


async def test_a_link_that_is_no_longer_wanted_goes_down_and_stays_down() -> None:
    async with linked("a", "b", "c") as (a, b, c):
        for member in (a, b):
            member.link([c])
        await wait_until(lambda: not a.network.is_linked(b.key_id) and not b.network.is_linked(a.key_id))
        await trio.sleep(0.3)
        assert not a.network.is_linked(b.key_id)
        assert a.network.is_linked(c.key_id)
        a.link([b, c])
        b.link([a, c])
        await wait_until(lambda: a.network.is_linked(b.key_id) and b.network.is_linked(a.key_id))


async def test_a_link_is_made_again_after_the_peer_came_back_at_another_address() -> None:
    async with linked("a", "b") as (a, b):
        await b.stop()
        await wait_until(lambda: not a.network.is_linked(b.key_id))
        back = Member("b", ["a", "b"])
        async with running(back):
            back.link([a])
            a.link([back])
            await wait_until(lambda: a.network.is_linked(b.key_id) and back.network.is_linked(a.key_id))


async def test_a_consensus_stream_is_for_linked_peers_only() -> None:
    a, b = Member("a", ["a", "b"]), Member("b", ["a", "b"])
    low, high = sorted((a, b), key=lambda member: member.network.own.raw_key)
    async with running(a, b):
        low.link([high])  # The other side does not want the link.
        await wait_until(lambda: high.network.is_linked(low.key_id) or low.network.peers()[0].last_error != "")
        await trio.sleep(0.3)
        low.network.send(high.key_id, b"let me in")
        assert not high.network.is_linked(low.key_id)
        assert high.messages == {}
        high.link([low])
        await wait_until(lambda: high.network.is_linked(low.key_id) and low.network.is_linked(high.key_id))


async def test_a_port_in_use_is_an_error_that_names_it() -> None:
    a = Member("a")
    async with running(a):
        listen = a.address.split("/p2p/")[0]
        with pytest.raises(ExceptionGroup) as caught:
            async with trio.open_nursery() as nursery:
                await nursery.start(Member("b", listen=listen).network.run)
        assert caught.group_contains(ListenError, match=listen)


async def test_the_port_is_free_again_after_the_end() -> None:
    a = Member("a")
    async with running(a):
        listen = a.address.split("/p2p/")[0]
    again = Member("a", listen=listen)
    async with running(again):
        assert again.address == a.address


async def test_a_wrong_link_changes_nothing() -> None:
    async with linked("a", "b") as (a, b):
        raw, address = b.network.own.raw_key, b.address
        for peers in (
            {b.key_id: (raw, "/ip4/127.0.0.1/udp/1")},
            {b.key_id: (raw_key_of("c"), address)},
            {b.key_id: (raw, a.address)},
        ):
            with pytest.raises(AddressError):
                a.network.set_links(peers)
        assert a.network.is_linked(b.key_id)


async def test_the_own_key_among_the_links_is_left_out() -> None:
    network = Network(
        seed=seed_of("a"), listen=ANY_PORT, is_member=lambda _: True, on_consensus=lambda _peer, _messages: None
    )
    network.set_links({network.own.key_id: (network.own.raw_key, "/ip4/127.0.0.1/tcp/1")})
    assert network.peers() == ()


async def test_a_libp2p_host_that_dies_is_replaced_on_the_same_port() -> None:
    """Stands in for a mistake of the library that we did not foresee."""

    async def die() -> None:
        raise RuntimeError("a bug in a library")

    async with linked("a", "b") as (a, b):
        host = b.network._host
        assert host is not None
        host._swarm.manager.run_task(die)
        await wait_until(lambda: not a.network.is_linked(b.key_id) and not b.network.is_linked(a.key_id))
        await wait_until(lambda: a.network.is_linked(b.key_id) and b.network.is_linked(a.key_id))
        assert b.network._host is not host
        assert a.network.send(b.key_id, b"again")
        await wait_until(lambda: b.messages.get(a.key_id) == [b"again"])


async def first_bytes(stream: ByteStream) -> bytes:
    """Return what arrives first."""
    received: list[bytes] = []
    with trio.CancelScope() as scope, suppress(PeerUnavailableError):  # It may end right after.

        def take(data: bytes) -> None:
            received.append(data)
            scope.cancel()

        await stream.receive(take)
    return received[0]


async def test_ping_and_identify_of_libp2p_are_answered() -> None:
    from node.net.gate import Gate, peer_of
    from node.net.host import LibP2PHost

    b = Member("b", ["b", "other"])
    host = LibP2PHost(seed=seed_of("other"), gate=Gate(lambda _: True, lambda _: None), on_inbound=lambda _: None)
    async with running(b), trio.open_nursery() as nursery:
        await nursery.start(host.run, parse_address_untrusted(ANY_PORT))
        connection = await host.dial(parse_address_untrusted(b.address), peer_of(raw_key_of("b")))
        ping = await host.open_stream(connection, "/ipfs/ping/1.0.0")
        await ping.write(b"p" * 32)
        assert await first_bytes(ping) == b"p" * 32
        identify = await host.open_stream(connection, "/ipfs/id/1.0.0")
        answer = await first_bytes(identify)
        assert raw_key_of("b") in answer
        assert b"/patchwarden/rpc/1" in answer
        nursery.cancel_scope.cancel()


async def test_what_is_queued_leaves_before_the_network_ends() -> None:
    async with linked("a", "b") as (a, b):
        messages = [b"%d" % number * 1000 for number in range(1000)]
        for message in messages:
            assert a.network.send(b.key_id, message)
        await a.stop()
        await wait_until(lambda: not b.network.is_linked(a.key_id))
        assert b.messages[a.key_id] == messages
