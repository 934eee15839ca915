"""Lease reads as a validator drives them: which clock they go by, and a stopped process that has been replaced meanwhile (trap 15)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from consensus.config import Role
from ledger.genesis import genesis_block
from ledger.mempool import Mempool
from node.config import NodeConfig
from node.machine import Machine
from node.replica import LedgerReplica
from node.storage.block_store import BlockStore
from node.storage.leveldb import Store
from node.telemetry import Metrics
from node.validator import Validator
from tests.testkit.ledger import make_genesis, node_key
from wire.errors import UnavailableError
from wire.keys import KeyId

GENESIS = make_genesis(validators=3)
DELAY_S = 0.002


class Process:
    """A validator on a machine that can be stopped: no tick comes, nothing is received or sent, and its clock goes on."""

    def __init__(self, network: Network, number: int) -> None:
        self.network = network
        self.key = node_key(number)
        self.id = self.key.public_key.key_id
        self.metrics = Metrics()
        self.goes_on = trio.Event()
        self.goes_on.set()
        self.is_cut = False
        self.validator: Validator
        self.replica: LedgerReplica

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)
        await self.goes_on.wait()

    async def in_thread(self, function: Callable[..., Any], /, *arguments: Any, limiter: object = None) -> Any:
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    def send(self, to: KeyId, payload: bytes) -> bool:
        due = trio.current_time() + DELAY_S
        self.network.letters.send_nowait((due, self, self.network.processes[to], payload))
        return True

    def open(self, path: Path, *, lease_reads: bool) -> Store:
        store = Store.open(path, chain_id=GENESIS.chain_id, node_key_id=self.id)
        block, writes = genesis_block(GENESIS)
        machine = Machine(self.sleep, self.in_thread, lambda seconds: seconds, uptime_ms=self.network.uptime_ms)
        self.replica = LedgerReplica(
            BlockStore.bootstrap(store, block.block_hash, writes), self.network.now_ms, machine
        )
        # Each draws its election timeout from a place of its own, so that one of them is always the first.
        draws = iter(range(10**6))
        self.validator = Validator(
            replica=self.replica,
            config=NodeConfig.model_construct(name="v", lease_reads=lease_reads, idle_block_interval_ms=500),
            key=self.key,
            mempool=Mempool(transactions_max=100, bytes_max=10**6),
            send=self.send,
            entropy=lambda count: (next(draws) + 3 * self.key.public_key.key_id[0]) % count,
            metrics=self.metrics,
        )
        return store

    @property
    def reads_at_once(self) -> int:
        (line,) = [
            each for each in self.metrics.text().splitlines() if each.startswith("patchwarden_reads_at_once_total")
        ]
        return int(float(line.split()[1]))


class Network:
    """Three validators in one process, under a clock that jumps."""

    def __init__(self) -> None:
        self.send_letters, self.receive_letters = trio.open_memory_channel[tuple[float, Process, Process, bytes]](
            10_000
        )
        self.letters = self.send_letters
        self.processes = {process.id: process for process in (Process(self, number) for number in (1, 2, 3))}

    def uptime_ms(self) -> int:
        return int(trio.current_time() * 1000) + 10**6

    def now_ms(self) -> int:
        return GENESIS.time_ms + int(trio.current_time() * 1000)

    async def carry(self) -> None:
        async for due, sender, to, payload in self.receive_letters:
            await trio.sleep_until(due)
            if not (sender.is_cut or to.is_cut):
                to.validator.receive(sender.id, [payload])

    async def leader(self, *, but: Process | None = None) -> Process:
        with trio.fail_after(60):
            while True:
                for process in self.processes.values():
                    status = process.validator.status
                    if process is not but and status.role is Role.LEADER and status.commit_height > 0:
                        if status.last_term == status.term and status.commit_height == status.last_height:
                            return process
                await trio.sleep(0.05)


@asynccontextmanager
async def running(path: Path, *, lease_reads: bool) -> AsyncIterator[Network]:
    network = Network()
    async with AsyncExitStack() as undo:
        for number, process in enumerate(network.processes.values()):
            undo.callback(process.open(path / str(number), lease_reads=lease_reads).close)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.carry)
            for process in network.processes.values():
                nursery.start_soon(process.validator.run)
            yield network
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("lease_reads", [True, False])
async def test_reads_of_a_leader_go_by_lease_where_that_is_wanted_and_nowhere_else(
    tmp_path: Path, autojump_clock: MockClock, lease_reads: bool
) -> None:
    async with running(tmp_path, lease_reads=lease_reads) as network:
        leader = await network.leader()
        await trio.sleep(1)
        before = leader.reads_at_once
        begun = trio.current_time()
        height = await leader.validator.read_index()
        assert height == leader.validator.status.commit_height
        assert (leader.reads_at_once - before, trio.current_time() == begun) == (int(lease_reads), lease_reads)
        # A follower asks its leader, which answers by its lease or after a round.
        follower = next(each for each in network.processes.values() if each is not leader)
        begun = trio.current_time()
        assert await follower.validator.read_index() >= height
        assert (trio.current_time() - begun < 3 * DELAY_S) is lease_reads


async def test_a_validator_that_was_stopped_has_no_lease_when_it_wakes_up(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    # Protected by `Machine.uptime_ms` in `Validator._lease_clock`: it has gone on. No tick has come, the term is the old one, and what the
    # process has in memory says that it leads with a lease.
    async with running(tmp_path, lease_reads=True) as network:
        stopped = await network.leader()
        await trio.sleep(1)
        await stopped.validator.read_index()
        assert stopped.reads_at_once == 1
        stopped.goes_on, stopped.is_cut = trio.Event(), True
        other = await network.leader(but=stopped)
        await trio.sleep(2)
        old, new = stopped.validator.status, other.validator.status
        assert (old.role, new.role) == (Role.LEADER, Role.LEADER)
        assert new.commit_height > old.commit_height
        # The first thing that it does when it wakes up is to read.
        with trio.move_on_after(0.05) as scope:
            await stopped.validator.read_index()
        assert scope.cancelled_caught
        assert stopped.reads_at_once == 1
        # It hears what has become of the world, refuses what waited, and reads what the others have committed.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refused, stopped)
            await trio.lowlevel.checkpoint()
            stopped.is_cut = False
            stopped.goes_on.set()
        with trio.fail_after(30):
            while True:
                try:
                    assert await stopped.validator.read_index() >= new.commit_height
                    break
                except UnavailableError:
                    await trio.sleep(0.1)


async def refused(process: Process) -> None:
    with pytest.raises(UnavailableError) as caught:
        await process.validator.read_index()
    assert caught.value.code == "node.read.unconfirmed"
