"""Requests on real sockets: answers, refusals with their codes, limits, cancellation, and dials on demand."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio

from node.errors import AddressError, PeerUnavailableError
from node.net import rpc
from node.net.limits import RPC_PAYLOAD_BYTES_MAX, RPC_SERVED_MAX
from node.net.network import LinkChange
from tests.testkit.net import Member, echo, linked, raw_key_of, running, wait_until
from wire.errors import CorruptionError, RejectedError, UnavailableError
from wire.keys import KeyId

pytestmark = pytest.mark.live


async def test_requests_are_answered_in_both_directions_at_once() -> None:
    async with linked("a", "b") as (a, b):
        for member in (a, b):
            member.network.handle("echo", echo)
        answers: list[tuple[bytes, bytes]] = []

        async def ask(asker: Member, other: Member, payload: bytes) -> None:
            answers.append((payload, await asker.ask(other, "echo", payload)))

        async with trio.open_nursery() as nursery:
            for number in range(40):
                for asker, other in ((a, b), (b, a)):
                    nursery.start_soon(ask, asker, other, asker.name.encode() + bytes(number * 997))
        assert len(answers) == 80
        assert all(payload == answer for payload, answer in answers)


async def test_the_largest_payload_is_carried_and_a_larger_one_refused() -> None:
    async with linked("a", "b") as (a, b):
        b.network.handle("echo", echo)
        payload = bytes(range(256)) * (RPC_PAYLOAD_BYTES_MAX // 256) + b"x" * (RPC_PAYLOAD_BYTES_MAX % 256)
        assert await a.ask(b, "echo", payload) == payload
        with pytest.raises(RejectedError) as caught:
            await a.ask(b, "echo", payload + b"x")
        assert caught.value.code == "node.net.too_large"


async def test_errors_of_the_families_arrive_with_code_sentence_and_hint() -> None:
    async def refuse(_peer: KeyId, _payload: bytes) -> bytes:
        raise RejectedError("ledger.tx.expired", "not after 7, naïvely\x1b[31m", hint="build it again")

    async def later(_peer: KeyId, _payload: bytes) -> bytes:
        raise UnavailableError("consensus.not_leader", "another node leads")

    async with linked("a", "b") as (a, b):
        b.network.handle("refuse", refuse)
        b.network.handle("later", later)
        with pytest.raises(RejectedError) as rejected:
            await a.ask(b, "refuse")
        assert (rejected.value.code, rejected.value.message, rejected.value.hint) == (
            "ledger.tx.expired",
            "not after 7, na?vely?[31m",
            "build it again",
        )
        with pytest.raises(UnavailableError) as unavailable:
            await a.ask(b, "later")
        assert unavailable.value.code == "consensus.not_leader"
        with pytest.raises(RejectedError) as unknown:
            await a.ask(b, "no-such")
        assert unknown.value.code == "node.net.unknown_method"


async def test_a_bug_in_a_handler_costs_that_request_only() -> None:
    async def broken(_peer: KeyId, _payload: bytes) -> bytes:
        raise ZeroDivisionError

    async def too_long(_peer: KeyId, _payload: bytes) -> bytes:
        return bytes(RPC_PAYLOAD_BYTES_MAX + 1)

    async with linked("a", "b") as (a, b):
        b.network.handle("broken", broken)
        b.network.handle("too-long", too_long)
        b.network.handle("echo", echo)
        for method in ("broken", "too-long"):
            with pytest.raises(UnavailableError) as caught:
                await a.ask(b, method)
            assert caught.value.code == "node.net.peer_failed"
        assert await a.ask(b, "echo", b"still here") == b"still here"
        assert a.link_events == [(b.key_id, LinkChange.UP)]


async def _ask_forever(asker: Member, other: Member, method: str) -> None:
    """Run `other` and ask it again and again until it ends."""
    async with trio.open_nursery() as nursery:
        await nursery.start(other.run)
        with trio.fail_after(5):
            while True:
                with suppress(UnavailableError):
                    await asker.ask(other, method, timeout_s=0.2)
                await trio.sleep(0.05)


async def test_corruption_in_a_handler_ends_the_network() -> None:
    async def corrupt(_peer: KeyId, _payload: bytes) -> bytes:
        raise CorruptionError("node.storage.checksum", "a row is damaged")

    a = Member("a", ["a", "b"])
    b = Member("b", ["a", "b"])
    b.network.handle("corrupt", corrupt)
    async with running(a):
        with pytest.raises(ExceptionGroup) as caught:
            await _ask_forever(a, b, "corrupt")
        assert caught.group_contains(CorruptionError)


async def test_a_member_list_that_is_corrupt_ends_the_network() -> None:
    a, b = Member("a", ["a", "b"]), Member("b")

    class Damaged(set[bytes]):
        def __contains__(self, _: object) -> bool:
            raise CorruptionError("node.storage.checksum", "a row is damaged")

    b.members = Damaged()
    async with running(a):
        with pytest.raises(ExceptionGroup) as caught:
            await _ask_forever(a, b, "echo")
        assert caught.group_contains(CorruptionError)


async def test_a_requester_that_gives_up_cancels_the_handler() -> None:
    events: list[str] = []

    async def slow(_peer: KeyId, _payload: bytes) -> bytes:
        events.append("began")
        try:
            await trio.sleep_forever()
        finally:
            events.append("ended")

    async with linked("a", "b") as (a, b):
        b.network.handle("slow", slow)
        with pytest.raises(UnavailableError) as caught:
            await a.ask(b, "slow", timeout_s=0.1)
        assert caught.value.code == "node.net.timeout"
        await wait_until(lambda: events == ["began", "ended"])
        with trio.move_on_after(0.1):
            await a.ask(b, "slow")
        await wait_until(lambda: events == ["began", "ended"] * 2)


async def test_requests_beyond_the_limit_are_told_that_the_peer_is_busy() -> None:
    release = trio.Event()

    async def slow(_peer: KeyId, _payload: bytes) -> bytes:
        await release.wait()
        return b"done"

    codes: list[str] = []

    async with linked("a", "b") as (a, b):
        b.network.handle("slow", slow)

        async def ask() -> None:
            try:
                codes.append((await a.ask(b, "slow")).decode())
            except UnavailableError as error:
                codes.append(error.code)

        async with trio.open_nursery() as nursery:
            for _ in range(RPC_SERVED_MAX + 3):
                nursery.start_soon(ask)
            await wait_until(lambda: len(codes) == 3)
            assert codes == ["node.net.busy"] * 3
            release.set()
        assert codes[3:] == ["done"] * RPC_SERVED_MAX


async def test_our_own_unanswered_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "RPC_PENDING_MAX", 2)
    served = 0

    async def slow(_peer: KeyId, _payload: bytes) -> bytes:
        nonlocal served
        served += 1
        await trio.sleep_forever()
        return b""

    async with linked("a", "b") as (a, b):
        b.network.handle("slow", slow)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(a.ask, b, "slow")
            await wait_until(lambda: served == 2)
            with pytest.raises(UnavailableError) as caught:
                await a.ask(b, "slow")
            assert caught.value.code == "node.net.busy"
            nursery.cancel_scope.cancel()


async def test_a_lost_connection_fails_what_waits_for_it() -> None:
    began = trio.Event()

    async def slow(_peer: KeyId, _payload: bytes) -> bytes:
        began.set()
        await trio.sleep_forever()
        return b""

    async with linked("a", "b") as (a, b):
        b.network.handle("slow", slow)
        codes: list[str] = []

        async def ask() -> None:
            try:
                await a.ask(b, "slow")
            except UnavailableError as error:
                codes.append(error.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await began.wait()
            await b.stop()
        assert codes == ["node.net.connection_lost"]


async def test_a_peer_is_dialled_once_for_many_requests_and_kept() -> None:
    a, b = Member("a", ["a", "b"]), Member("b", ["a", "b"])
    b.network.handle("echo", echo)
    async with running(a, b):
        answers: list[bytes] = []

        async def ask(payload: bytes) -> None:
            answers.append(await a.ask(b, "echo", payload))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(ask, b"%d" % number)
        assert sorted(answers) == [b"%d" % number for number in range(10)]
        (session,) = b.network._sessions[a.key_id]
        (status,) = a.network.peers()
        assert (status.connected, status.is_link) == (True, False)
        # The dialled side can ask over the same connection.
        a.network.handle("echo", echo)
        assert await b.network.request(a.key_id, "echo", b"back", timeout_s=1) == b"back"
        assert b.network._sessions[a.key_id] == [session]


async def test_requests_to_nowhere_are_refused_with_a_reason() -> None:
    a, b = Member("a", ["a", "b"]), Member("b", ["a", "b"])
    async with running(a):
        async with running(b):
            address = b.address
        with pytest.raises(PeerUnavailableError) as caught:
            await a.network.request(b.key_id, "echo", b"", timeout_s=1)
        assert caught.value.code == "node.net.unreachable"
        for _ in range(3):  # No negative cache: each attempt is a real one, and quick.
            with trio.fail_after(1), pytest.raises(PeerUnavailableError) as caught:
                await a.network.request(b.key_id, "echo", b"", timeout_s=3, address=address)
            assert caught.value.code == "node.net.unreachable"
        back = Member("b", ["a", "b"], listen=address.split("/p2p/")[0])
        back.network.handle("echo", echo)
        async with running(back):
            assert await a.ask(back, "echo", b"x") == b"x"


async def test_an_address_without_or_with_another_key_is_refused() -> None:
    a, b, c = (Member(name, ["a", "b", "c"]) for name in "abc")
    async with running(a, b, c):
        for address in (b.address.split("/p2p/")[0], c.address, "nonsense"):
            with pytest.raises(AddressError):
                await a.network.request(b.key_id, "echo", b"", timeout_s=1, address=address)
        # Another node answers at the address: the handshake proves another key than the one we asked for.
        wrong = f"{c.address.split('/p2p/')[0]}/p2p/{b.network.own.peer_id}"
        with pytest.raises(PeerUnavailableError) as caught:
            await a.network.request(b.key_id, "echo", b"", timeout_s=3, address=wrong)
        assert caught.value.code == "node.net.unreachable"


async def test_a_port_that_accepts_and_says_nothing_costs_the_dial_timeout_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.net.network.DIAL_S_MAX", 0.3)
    a = Member("a", ["a", "b"])
    async with running(a):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            port = listener.socket.getsockname()[1]
            address = f"/ip4/127.0.0.1/tcp/{port}"
            b = Member("b")
            with trio.fail_after(2), pytest.raises(PeerUnavailableError) as caught:
                await a.network.request(
                    b.key_id, "echo", b"", timeout_s=5, address=f"{address}/p2p/{b.network.own.peer_id}"
                )
            assert caught.value.code == "node.net.unreachable"
            with trio.fail_after(1), pytest.raises(PeerUnavailableError):
                await a.network.request(
                    b.key_id, "echo", b"", timeout_s=0.05, address=f"{address}/p2p/{b.network.own.peer_id}"
                )


async def test_a_network_that_does_not_run_reaches_nobody() -> None:
    a = Member("a", ["a", "b"])
    b = Member("b")
    with pytest.raises(PeerUnavailableError):
        await a.network.request(
            b.key_id, "echo", b"", timeout_s=1, address=f"/ip4/127.0.0.1/tcp/1/p2p/{b.network.own.peer_id}"
        )
    assert raw_key_of("b") == b.network.own.raw_key
