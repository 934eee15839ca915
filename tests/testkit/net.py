"""Networks for tests: members with keys from their names, on loopback, with what they receive written down."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import trio

from node.net.limits import DEFAULT_TIMING, Timing
from node.net.network import LinkChange, Network
from wire.keys import Algorithm, KeyId, private_key_from_seed

ANY_PORT = "/ip4/127.0.0.1/tcp/0"


def seed_of(name: str) -> bytes:
    """Return the 32-byte node seed of a test member."""
    return hashlib.sha256(name.encode()).digest()


def raw_key_of(name: str) -> bytes:
    """Return the 32-byte public key of a test member."""
    return private_key_from_seed(Algorithm.ED25519, seed_of(name)).public_key.raw


async def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Return as soon as `condition` holds; fail when it does not within `timeout_s`."""
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition is about a network, which sets no event for it
            await trio.sleep(0.005)


class Member:
    """One network and what it has seen."""

    def __init__(
        self, name: str, members: Iterable[str] = (), *, timing: Timing = DEFAULT_TIMING, listen: str = ANY_PORT
    ) -> None:
        self.name = name
        self.members = {raw_key_of(member) for member in members}
        self.messages: dict[KeyId, list[bytes]] = {}
        self.batches = 0
        self.link_events: list[tuple[KeyId, LinkChange]] = []
        self.address = ""
        self.network = Network(
            seed=seed_of(name),
            listen=listen,
            is_member=lambda raw_key: raw_key in self.members,
            on_consensus=self._on_consensus,
            on_link=lambda peer, change: self.link_events.append((peer, change)),
            timing=timing,
        )
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()

    @property
    def key_id(self) -> KeyId:
        """The member's node key."""
        return self.network.own.key_id

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the network until `stop`."""
        async with trio.open_nursery() as nursery:
            with self._scope:
                async with trio.open_nursery() as inner:
                    self.address = await inner.start(self.network.run)
                    task_status.started()
                    await trio.sleep_forever()
            self._stopped.set()
            nursery.cancel_scope.cancel()

    async def stop(self) -> None:
        """End the network and return when it is closed."""
        self._scope.cancel()
        await self._stopped.wait()

    def link(self, others: Iterable[Member]) -> None:
        """Want links to exactly these."""
        self.network.set_links({other.key_id: (other.network.own.raw_key, other.address) for other in others})

    async def ask(self, other: Member, method: str, payload: bytes = b"", timeout_s: float = 5.0) -> bytes:
        """Send a request, dialling when needed."""
        return await self.network.request(other.key_id, method, payload, timeout_s=timeout_s, address=other.address)

    def _on_consensus(self, peer: KeyId, payloads: list[bytes]) -> None:
        self.batches += 1
        self.messages.setdefault(peer, []).extend(payloads)


@asynccontextmanager
async def running(*members: Member) -> AsyncIterator[trio.Nursery]:
    """Run these members' networks inside the block."""
    async with trio.open_nursery() as nursery:
        for member in members:
            await nursery.start(member.run)
        yield nursery
        async with trio.open_nursery() as stopping:
            for member in members:
                stopping.start_soon(member.stop)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def linked(*names: str, timing: Timing = DEFAULT_TIMING) -> AsyncIterator[tuple[Member, ...]]:
    """Run networks that all know each other and are all linked."""
    members = tuple(Member(name, names, timing=timing) for name in names)
    async with running(*members):
        for member in members:
            member.link(members)
        await wait_until(
            lambda: all(a is b or a.network.is_linked(b.key_id) for a in members for b in members), timeout_s=10
        )
        yield members


def echo(_peer: KeyId, payload: bytes) -> Awaitable[bytes]:
    """Answer with the payload."""

    async def answer() -> bytes:
        return payload

    return answer()
