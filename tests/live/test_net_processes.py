"""Two processes: one is stopped, continued, killed and started again; the other notices and finds it again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from node.net.limits import Timing
from node.net.network import LinkChange
from tests.testkit.net import Member, raw_key_of, running, wait_until

pytestmark = pytest.mark.live

NOTICED_S_MAX = 2.0
"""Half a second of silence is death; the rest is for machines that share two cores."""
BACK_S_MAX = 4.0


class Peer:
    """A `tests.testkit.net_process` and what it said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.address = ""

    async def read(self) -> None:
        """Collect its lines until it ends."""
        assert self.process.stdout is not None
        while line := await trio.to_thread.run_sync(self.process.stdout.readline, abandon_on_cancel=True):
            self.lines.append(line.strip())
            if line.startswith("address "):
                self.address = line.split()[1]


@asynccontextmanager
async def peer_process(name: str, listen: str, other: Member, *options: str) -> AsyncIterator[Peer]:
    """Run a peer of `other` in a process of its own; it is killed at the end."""
    process = subprocess.Popen(  # noqa: ASYNC220 - it starts in milliseconds, and a Popen can be killed from everywhere
        [sys.executable, "-m", "tests.testkit.net_process", name, listen, f"{other.name}={other.address}", *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    peer = Peer(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.read)
            await wait_until(lambda: peer.address != "", timeout_s=20)
            yield peer
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def members() -> tuple[str, str]:
    """Return two names, the first of which dials."""
    low, high = sorted(("p", "q"), key=raw_key_of)
    return low, high


def want(member: Member, name: str, address: str) -> None:
    other = Member(name)
    member.network.set_links({other.key_id: (other.network.own.raw_key, address)})


@pytest.mark.parametrize("dialler", ["the survivor dials", "the other dials"])
@pytest.mark.parametrize("option", ["--quiet", "--flood"])
async def test_a_stopped_process_is_noticed_and_found_again(dialler: str, option: str) -> None:
    low, high = members()
    own, theirs = (low, high) if dialler == "the survivor dials" else (high, low)
    survivor = Member(own, [own, theirs])
    async with running(survivor), peer_process(theirs, "/ip4/127.0.0.1/tcp/0", survivor, option) as peer:
        key_id = Member(theirs).key_id
        want(survivor, theirs, peer.address)
        await wait_until(lambda: survivor.network.is_linked(key_id), timeout_s=10)
        if option == "--flood":
            while survivor.network.send(key_id, bytes(60_000)):
                pass  # A writer that is busy when the peer stops must not keep anybody.
        peer.process.send_signal(signal.SIGSTOP)
        stopped_at = time.monotonic()
        await wait_until(lambda: not survivor.network.is_linked(key_id), timeout_s=NOTICED_S_MAX)
        assert time.monotonic() - stopped_at >= 0.2
        peer.process.send_signal(signal.SIGCONT)
        await wait_until(lambda: survivor.network.is_linked(key_id), timeout_s=BACK_S_MAX)
        survivor.messages.clear()
        if option == "--flood":
            await wait_until(lambda: survivor.messages.get(key_id) is not None)


@pytest.mark.parametrize("dialler", ["the survivor dials", "the other dials"])
async def test_a_killed_process_is_noticed_at_once_and_found_again(dialler: str) -> None:
    low, high = members()
    own, theirs = (low, high) if dialler == "the survivor dials" else (high, low)
    survivor = Member(own, [own, theirs])
    key_id = Member(theirs).key_id
    listen = "/ip4/127.0.0.1/tcp/0"
    async with running(survivor):
        for _ in range(2):
            async with peer_process(theirs, listen, survivor, "--talk") as peer:
                listen = peer.address.split("/p2p/")[0]  # The same port again: nothing of the dead process holds it.
                want(survivor, theirs, peer.address)
                await wait_until(lambda: survivor.network.is_linked(key_id), timeout_s=10)
                peer.process.kill()
                await wait_until(lambda: not survivor.network.is_linked(key_id), timeout_s=1)
        assert [change for _, change in survivor.link_events] == [LinkChange.UP, LinkChange.CLOSED] * 2


async def test_a_process_that_slept_does_not_take_its_own_sleep_for_the_peers() -> None:
    """After SIGCONT the sleeper reads what waited for it first; the link that the other end kept is not cut by the sleeper."""
    low, high = members()
    survivor = Member(low, [low, high], timing=Timing(dead_s=30))
    async with running(survivor), peer_process(high, "/ip4/127.0.0.1/tcp/0", survivor, "--quiet") as peer:
        key_id = Member(high).key_id
        want(survivor, high, peer.address)
        await wait_until(lambda: survivor.network.is_linked(key_id), timeout_s=10)
        await wait_until(lambda: "up " + low in peer.lines)
        for _ in range(3):
            peer.process.send_signal(signal.SIGSTOP)
            await trio.sleep(0.8)  # Longer than death at the sleeper's end; this end is patient.
            peer.process.send_signal(signal.SIGCONT)
            await trio.sleep(0.2)
        assert survivor.link_events == [(key_id, LinkChange.UP)]
        assert "down " + low not in peer.lines


def test_the_network_api_does_not_import_libp2p() -> None:
    """The CLI and configuration need addresses and error classes, not a second of imports."""
    code = (
        "import sys, node.net.network, node.net.address, node.storage.block_store, node.keystore, node.telemetry;"
        "sys.exit('libp2p' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
