"""A running validator that fell behind pruning: it fetches a snapshot, installs it between two steps of its core, and goes on.

Trap 18 of consensus: a crash between any two steps, a snapshot older than what is committed, an installation while blocks are applied,
slow fetching against fast pruning. Each protected line that a test here is for is named with it.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from consensus.core import Replica
from consensus.effects import Effects, Event, HardState, InstalledSnapshot, Persist
from consensus.messages import (
    Append,
    AppendReply,
    Entry,
    Message,
    RequestVote,
    SnapshotOffer,
    decode_message_untrusted,
    encode_message,
)
from ledger import bodies
from ledger.actions import RemoveValidator
from ledger.mempool import Mempool
from ledger.transaction import decode_transaction_untrusted
from node import catch_up, snapshots
from node.config import NodeConfig
from node.errors import StorageFailedError, find_leaves
from node.machine import Machine, run_in_thread
from node.replica import LedgerReplica
from node.snapshots import Demand, FilledSnapshot, SnapshotClient, SnapshotServer
from node.storage import block_store
from node.storage.database import Database
from node.storage.leveldb import Store
from node.storage.snapshot_files import SnapshotFiles
from node.storage.verify import StoreFinding, verify_store
from node.telemetry import Metrics
from node.validator import Validator
from tests.testkit.ledger import Chain, node_key
from tests.testkit.node import open_replica
from wire.certificate import encode_commit_certificate
from wire.codec import decode_untrusted, encode
from wire.hashing import Digest
from wire.keys import KeyId

OWN, LEADER, OTHER = (node_key(number).public_key.key_id for number in (1, 3, 2))
BEHIND = 3
"""The height at which the validator stands when it comes back."""
TERM = 2
CONFIG = NodeConfig.model_construct(name="v1", tick_ms=50, election_ticks=400)
CHUNK_BYTES = 1024


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "ROUND_PAUSE_S", 0.01)
    monkeypatch.setattr(catch_up, "RETRY_PAUSE_S", 0.01)


def grown(chain: Chain, blocks: int) -> Chain:
    for _ in range(blocks):
        chain.submit(bodies.HostReport("inventory", f"target-{chain.height}", b"report"), by="web1@acme")
    return chain


def copy_of(chain: Chain) -> Chain:
    copy = Chain(genesis=chain.genesis, nonces=chain.nonces)
    for block in chain.blocks[1:]:
        copy.apply(block)
    copy.term, copy.leader, copy.node_keys = chain.term, chain.leader, list(chain.node_keys)
    return copy


@pytest.fixture(scope="module")
def chain() -> Chain:
    """What the network has committed: some blocks of term 1, then of term 2, of which the leader keeps few."""
    chain = Chain()
    chain.register("web1@acme", "host")
    grown(chain, 3)
    chain.elect(2)
    return grown(chain, 8)


@pytest.fixture(scope="module")
def longer(chain: Chain) -> Chain:
    """The same, some blocks later."""
    return grown(copy_of(chain), 6)


@contextmanager
def replica_with(path: Path, chain: Chain, height: int) -> Iterator[LedgerReplica]:
    """Give a replica that has the chain up to `height`, committed."""
    replay = Chain(genesis=chain.genesis)
    with open_replica(path, chain.genesis, now_ms=chain.blocks[-1].header.time_ms) as empty:
        for block in chain.blocks[1 : height + 1]:
            empty.store.commit([replay.apply(block)], chain.certificate(block))
        empty.store.persist(Persist(hard_state=HardState(chain.blocks[height].header.term, None)))
        yield LedgerReplica(empty.store, empty.now_ms)


def make_snapshot(path: Path, chain: Chain, *, chunk_bytes: int = CHUNK_BYTES) -> Path:
    """Return a data directory with nothing but a snapshot of the chain's tip."""
    files = SnapshotFiles(path / "served")
    files.open()
    with pytest.MonkeyPatch.context() as patch, replica_with(path / "source", chain, chain.height) as replica:
        patch.setattr("ledger.snapshot.SNAPSHOT_CHUNK_BYTES", chunk_bytes)
        with replica.store.snapshot() as reader:
            files.make(reader)
    return path / "served"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, chain: Chain) -> Path:
    return make_snapshot(tmp_path_factory.mktemp("network"), chain)


@pytest.fixture(scope="module")
def served_later(tmp_path_factory: pytest.TempPathFactory, longer: Chain) -> Path:
    return make_snapshot(tmp_path_factory.mktemp("network"), longer)


def opened_files(path: Path) -> SnapshotFiles:
    files = SnapshotFiles(path)
    files.open()
    return files


class Peer:
    """A peer that serves one directory of snapshots through the production server; `before_chunk` may hold it up."""

    def __init__(self, path: Path) -> None:
        self.name = "peer"
        self.before_chunk: Callable[[], Any] = trio.lowlevel.checkpoint
        self.chunks_asked = 0
        self.offers_asked: list[int] = []
        self.serve(path)

    def serve(self, *paths: Path) -> None:
        """Serve what is in these directories from now on, and offer what is in the first one."""
        self._servers = [SnapshotServer(opened_files(path), self.offers_asked.append) for path in paths]

    async def snapshot_offer(self, height_min: int) -> bytes | None:
        answer = decode_untrusted(await self._servers[0].offer(OTHER, encode((height_min,))), bytes_max=1 << 23)
        assert answer is None or isinstance(answer, bytes)
        return answer

    async def snapshot_chunk(self, digest: Digest, bytes_max: int) -> bytes | None:
        del bytes_max
        self.chunks_asked += 1
        await self.before_chunk()
        for server in self._servers:
            answer = decode_untrusted(await server.chunk(OTHER, encode((digest,))), bytes_max=1 << 23)
            if answer is not None:
                assert isinstance(answer, bytes)
                return answer
        return None


class WatchedCore(Replica):
    """The production core; remembers what it was asked and told."""

    __slots__ = ("history",)
    history: list[object]

    def needs_snapshot(self, height: int, term: int, block_hash: Digest) -> bool:
        answer = super().needs_snapshot(height, term, block_hash)
        self.history.append(("needs_snapshot", height, answer))
        return answer

    def step(self, event: Event) -> Effects:
        self.history.append(event)
        return super().step(event)


class HeldClient(SnapshotClient):
    """The production client; what it has fetched can be held back, as if the validator's tasks had not run yet."""

    hold: trio.Event | None = None
    """While it is there and not set, nothing comes back."""
    is_held = False

    async def fetch(self, demand: Demand) -> FilledSnapshot:
        filled = await super().fetch(demand)
        if self.hold is not None:
            self.is_held = True
            await self.hold.wait()
        return filled


@dataclass
class Bench:
    """A running validator, and the rest of the network as far as it sees one."""

    validator: Validator
    replica: LedgerReplica
    client: HeldClient
    sent: list[tuple[KeyId, Message]]
    history: list[object]
    round_id: int = 0
    metrics: Metrics = field(default_factory=Metrics)

    def receive(self, message: Message, sender: KeyId = LEADER) -> None:
        self.validator.receive(sender, [encode_message(message)])

    def offer(self, chain: Chain, first_height: int | None = None, term: int = TERM) -> None:
        self.round_id += 1
        first = chain.height + 1 if first_height is None else first_height
        self.receive(SnapshotOffer(term, LEADER, first, chain.height, self.round_id))

    def append(self, chain: Chain, prev: int, upto: int, *, term: int = TERM, certified: bool = True) -> None:
        """Send the chain's blocks above `prev` up to `upto`, and the certificate of the last."""
        self.round_id += 1
        before, last = chain.blocks[prev], chain.blocks[upto]
        entries = tuple(
            Entry(block.header.term, block.header.height, block.block_hash, block.raw)
            for block in chain.blocks[prev + 1 : upto + 1]
        )
        certificate = encode_commit_certificate(chain.certificate(last))
        self.receive(
            Append(
                term,
                LEADER,
                before.header.term,
                prev,
                before.block_hash,
                entries,
                upto if certified else prev,
                certificate if certified else None,
                self.round_id,
            )
        )

    @property
    def replies(self) -> list[AppendReply]:
        return [message for _, message in self.sent if isinstance(message, AppendReply)]

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(20):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event; the deadline is above
                await trio.sleep(0.005)

    async def until_height(self, height: int) -> None:
        """Wait for the height, and for the end of everything about a snapshot."""
        await self.until(lambda: self.replica.height == height and self.validator._to_install is None)


@asynccontextmanager
async def running(
    replica: LedgerReplica, chain: Chain, peer: Peer, machine: Machine | None = None
) -> AsyncIterator[Bench]:
    """Run a validator over the replica; it is cancelled at the end, as a process that is killed."""
    if machine is not None:
        replica.machine = machine
    sent: list[tuple[KeyId, Message]] = []
    history: list[object] = []
    metrics = Metrics()
    client = HeldClient(replica.store.store, chain.genesis, lambda: [peer], replica.machine)  # type: ignore[list-item]

    def send(to: KeyId, payload: bytes) -> bool:
        sent.append((to, decode_message_untrusted(payload)))
        return True

    def make_core(*arguments: Any) -> Replica:
        core = WatchedCore(*arguments)
        core.history = history
        return core

    validator = Validator(
        replica=replica,
        config=CONFIG,
        key=node_key(1),
        mempool=Mempool(),
        send=send,
        entropy=lambda _: 0,
        metrics=metrics,
        make_core=make_core,
        snapshots=client,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(validator.run)
        yield Bench(validator, replica, client, sent, history, metrics=metrics)
        nursery.cancel_scope.cancel()


def assert_at(replica: LedgerReplica, chain: Chain) -> None:
    """The replica is where the chain is, by every root; its store holds, and nothing is left of what it took to get there."""
    header = replica.latest_view().header
    assert header == chain.blocks[-1].header
    assert replica.store.last_height == replica.chain.tip_height == chain.height
    assert not [found for found in verify_store(replica.store.store) if isinstance(found, StoreFinding)]
    assert not list_incoming(replica.store.store.path)


def list_incoming(data: Path) -> list[Path]:
    return list((data / "incoming").iterdir()) if (data / "incoming").exists() else []


def databases(data: Path) -> list[str]:
    return sorted(path.name for path in data.glob("db*"))


# Going on


@pytest.mark.parametrize("voted", [HardState(1, None), HardState(TERM, OTHER), HardState(TERM, None)])
async def test_a_validator_behind_pruning_goes_on_from_a_snapshot(
    tmp_path: Path, chain: Chain, longer: Chain, served: Path, voted: HardState
) -> None:
    transaction = decode_transaction_untrusted(chain.blocks[-1].transactions[0])
    with replica_with(tmp_path / "data", chain, BEHIND) as replica:
        replica.store.persist(Persist(hard_state=voted))
        async with running(replica, chain, Peer(served)) as bench, trio.open_nursery() as nursery:
            nursery.start_soon(replica.wait_transaction, transaction.tx_id)
            bench.validator._mempool.add(transaction)
            bench.offer(chain)
            await bench.until_height(chain.height)
            assert bench.replies[-1].match_height == chain.height
            assert transaction.tx_id not in bench.validator._mempool, "it stands in a block that this node never saw"
            assert replica.store.load().hard_state == (voted if voted.term == TERM else HardState(TERM, None))
            # What is reported with the next write, whether that has blocks or not.
            assert (bench.validator._disk_height, bench.validator._disk_hash) == (
                chain.height,
                chain.blocks[-1].block_hash,
            )
            assert bench.validator._disk_hard_state == replica.store.load().hard_state
            # What the leader has above it comes in the ordinary way, and is acknowledged.
            bench.append(longer, chain.height, longer.height, certified=False)
            await bench.until(lambda: bench.replies[-1].match_height == longer.height)
            assert bench.replies[-1].acknowledgements[-1].height == longer.height
            bench.append(longer, longer.height, longer.height)
            await bench.until_height(longer.height)
            assert bench.metrics.snapshots_installed._value.get() == 1
        assert_at(replica, longer)
        assert replica.store.first_height == chain.height + 1
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        assert_at(replica, longer)
        assert databases(tmp_path / "data") == ["db-1"]


async def test_blocks_of_an_earlier_term_that_were_never_committed_give_way(
    tmp_path: Path, chain: Chain, served: Path
) -> None:
    """Its log is longer than the snapshot and of an earlier term: the position rises all the same (docs/spec/consensus.md 6.3)."""
    with replica_with(tmp_path / "data", chain, BEHIND) as replica:
        own = grown(copy_of_upto(chain, BEHIND), chain.height - BEHIND + 4)
        for block in own.blocks[BEHIND + 1 :]:
            entry = Entry(block.header.term, block.header.height, block.block_hash, block.raw)
            replica.store.persist(Persist(hard_state=HardState(1, None), entries=(entry,)))
        assert replica.store.last_height > chain.height
        async with running(replica, chain, Peer(served)) as bench:
            assert bench.replica.chain.tip_height == own.height
            bench.offer(chain)
            await bench.until_height(chain.height)
        assert_at(replica, chain)


def copy_of_upto(chain: Chain, height: int) -> Chain:
    copy = Chain(genesis=chain.genesis, nonces=1000)
    for block in chain.blocks[1 : height + 1]:
        copy.apply(block)
    return copy


async def test_a_log_of_a_later_term_waits_for_a_later_snapshot(
    tmp_path: Path, chain: Chain, served: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Protected by `(term, height) >= position` in `consensus.core.Replica.needs_snapshot`, and by `_Search.above`."""
    own = copy_of_upto(chain, BEHIND)
    own.elect(1)
    own.elect(1)
    grown(own, 1)
    later = copy_of(chain)
    later.elect(0)
    later.elect(2)
    grown(later, 1)
    assert own.term == TERM + 1
    assert later.term == TERM + 2
    with replica_with(tmp_path / "data", chain, BEHIND) as replica:
        block = own.blocks[-1]
        entry = Entry(block.header.term, block.header.height, block.block_hash, block.raw)
        replica.store.persist(Persist(hard_state=HardState(TERM + 1, OTHER), entries=(entry,)))
        peer = Peer(served)
        async with running(replica, chain, peer) as bench:
            bench.offer(chain, term=TERM + 1)
            await bench.until(lambda: chain.height + 1 in peer.offers_asked)
            assert (replica.height, peer.chunks_asked) == (BEHIND, 0)
            peer.serve(make_snapshot(tmp_path_factory.mktemp("later"), later))
            await bench.until_height(later.height)
        assert_at(replica, later)
        assert replica.store.load().hard_state == HardState(TERM + 2, None)


async def test_a_snapshot_that_removes_this_node_ends_its_consensus(
    tmp_path: Path, chain: Chain, tmp_path_factory: pytest.TempPathFactory
) -> None:
    without = copy_of(chain)
    without.adopt(RemoveValidator("v1"))
    without.settle()
    served = make_snapshot(tmp_path_factory.mktemp("without"), without)
    with replica_with(tmp_path / "data", chain, BEHIND) as replica:
        async with running(replica, chain, Peer(served)) as bench:
            bench.offer(without)
            with trio.fail_after(20):
                await bench.validator.removed.wait()
        assert_at(replica, without)


# Beside everything else


class Gate:
    """A machine on which functions of certain names wait in front of their thread until the gate opens."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.opened = trio.Event()
        self.waiting: list[str] = []

    async def in_thread(self, function: Callable[..., Any], /, *arguments: Any, limiter: Any = None) -> Any:
        name = function.__name__
        if name in self.names and not self.opened.is_set():
            self.waiting.append(name)
            await self.opened.wait()
        return await run_in_thread(function, *arguments, limiter=limiter)

    @property
    def machine(self) -> Machine:
        return Machine(in_thread=self.in_thread)


async def test_it_is_installed_between_two_steps_with_nothing_being_written(
    tmp_path: Path, chain: Chain, served: Path
) -> None:
    """An installation while blocks are applied waits for them, protected by `Validator._finish_writes`.

    Between the core's word that it wants the snapshot and the news that it has it, it is asked and told nothing.
    """
    gate = Gate("_write")
    with replica_with(tmp_path / "data", chain, BEHIND) as replica:
        replica.store.persist(Persist(hard_state=HardState(TERM, None)))
        async with running(replica, chain, Peer(served), gate.machine) as bench:
            bench.append(chain, BEHIND, BEHIND + 2)
            await bench.until(lambda: gate.waiting == ["_write"])
            bench.offer(chain)
            await bench.until(lambda: bench.validator._to_install is not None)
            assert not bench.validator._work, "all of it is in the writing thread"
            # Messages and ticks go on coming; none of them reaches the core before the writes are done.
            steps = len(bench.history)
            bench.receive(RequestVote(TERM + 1, OTHER, TERM, chain.height, chain.blocks[-1].block_hash, False), OTHER)
            bench.offer(chain)
            await trio.sleep(0.15)
            assert len(bench.history) == steps
            assert replica.height == BEHIND
            assert not (replica.store.store.path / "DATABASE").exists()
            gate.opened.set()
            await bench.until_height(chain.height)
            asked = [each for each in bench.history if isinstance(each, tuple) and each[0] == "needs_snapshot"]
            assert asked[-1] == ("needs_snapshot", chain.height, True)
            place = bench.history.index(asked[-1], steps)
            assert isinstance(bench.history[place + 1], InstalledSnapshot)
            assert not [each for each in bench.history[place + 2 :] if isinstance(each, InstalledSnapshot)]
            committed = [each for each in bench.history[steps:place] if not isinstance(each, tuple)]
            assert committed, "the core heard of its writes before"
        assert_at(replica, chain)


@pytest.mark.parametrize("certified", [True, False])
async def test_a_snapshot_that_is_not_above_the_log_by_then_is_ignored(
    tmp_path: Path, chain: Chain, longer: Chain, served: Path, certified: bool
) -> None:
    """Older than what is committed, or a block of which this node has acknowledged what stands upon it.

    Protected by the question in `Validator._install`; the blocks came when the fetch was over.
    """
    with replica_with(tmp_path / "data", longer, BEHIND) as replica:
        async with running(replica, longer, Peer(served)) as bench:
            bench.client.hold = trio.Event()
            bench.offer(chain)
            await bench.until(lambda: bench.client.is_held)
            bench.append(longer, BEHIND, longer.height, certified=certified)
            await bench.until(lambda: bench.replies[-1].match_height == longer.height)
            bench.client.hold.set()
            await bench.until(lambda: databases(tmp_path / "data") == ["db"] and not list_incoming(tmp_path / "data"))
            assert not [each for each in bench.history if isinstance(each, InstalledSnapshot)]
            if not certified:
                assert replica.height == BEHIND
                assert replica.store.last_height == longer.height
                bench.append(longer, longer.height, longer.height)
            await bench.until_height(longer.height)
        assert_at(replica, longer)
        assert replica.store.first_height == 1
        assert databases(replica.store.store.path) == ["db"]


async def test_a_fetch_ends_when_the_blocks_come_after_all(
    tmp_path: Path, chain: Chain, longer: Chain, served: Path
) -> None:
    """Another leader keeps more. Protected by `_Search.helps` and `SnapshotClient.fetch`'s question whether one is needed."""
    peer = Peer(served)
    go_on = trio.Event()
    peer.before_chunk = go_on.wait
    with replica_with(tmp_path / "data", longer, BEHIND) as replica:
        async with running(replica, longer, peer) as bench:
            bench.offer(chain)
            await bench.until(lambda: peer.chunks_asked == 1)
            bench.append(longer, BEHIND, longer.height)
            await bench.until_height(longer.height)
            go_on.set()
            await bench.until(lambda: bench.client.progress is None and not list_incoming(tmp_path / "data"))
        assert peer.chunks_asked == 1
        assert_at(replica, longer)
        assert databases(tmp_path / "data") == ["db"]


async def test_pruning_that_runs_meanwhile_takes_nothing_from_the_snapshot(
    tmp_path: Path, chain: Chain, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes what it has derived from the old database. Protected by the lock in `BlockStore.switch`."""
    derived = threading.Event()
    prune_blocks = block_store.prune_blocks

    def slow_prune_blocks(*arguments: Any) -> Any:
        rows = prune_blocks(*arguments)
        derived.set()
        # Long enough for an installation, which waits for the end of this instead.
        time.sleep(0.3)
        return rows

    monkeypatch.setattr(block_store, "prune_blocks", slow_prune_blocks)
    with replica_with(tmp_path / "data", chain, BEHIND) as replica:
        replica.store.raise_first_height(BEHIND)
        async with running(replica, chain, Peer(served)) as bench, trio.open_nursery() as nursery:
            bench.client.hold = trio.Event()
            bench.offer(chain)
            await bench.until(lambda: bench.client.is_held)
            nursery.start_soon(run_in_thread, replica.store.prune_step, 64)
            await bench.until(derived.is_set)
            bench.client.hold.set()
            await bench.until_height(chain.height)
        assert_at(replica, chain)
        assert block_store.read_first_height(replica.store.store) == replica.store.first_height == chain.height + 1


async def test_slow_fetching_against_fast_pruning_fetches_again_something_newer(
    tmp_path: Path, chain: Chain, longer: Chain, served: Path, served_later: Path
) -> None:
    """Protected by `_Search.is_high_enough`, which asks `CatchUp` for its leader's last word before each chunk."""
    peer = Peer(served)
    go_on = trio.Event()
    peer.before_chunk = go_on.wait
    with replica_with(tmp_path / "data", chain, BEHIND) as replica:
        async with running(replica, chain, peer) as bench:
            bench.offer(chain)
            await bench.until(lambda: peer.chunks_asked == 1)
            peer.serve(served_later, served)
            bench.offer(longer)
            await bench.until(lambda: bench.round_id == 2 and not bench.validator._events)
            go_on.set()
            await bench.until_height(longer.height)
            assert [each.height for each in bench.history if isinstance(each, InstalledSnapshot)] == [longer.height]
        assert_at(replica, longer)


async def test_a_cut_off_fetch_goes_on_where_it_was_after_a_restart(tmp_path: Path, chain: Chain, served: Path) -> None:
    peer = Peer(served)
    count = len(opened_files(served)._chunks)
    assert count >= 3

    async def stop_after_two() -> None:
        if peer.chunks_asked > 2:
            await trio.sleep_forever()

    peer.before_chunk = stop_after_two
    with replica_with(tmp_path / "data", chain, BEHIND) as replica:
        async with running(replica, chain, peer) as bench:
            bench.offer(chain)
            await bench.until(lambda: peer.chunks_asked == 3)
            progress = bench.client.progress
            assert progress is not None
            assert (progress.height, progress.chunks, progress.chunks_here) == (chain.height, count, 2)
    again = Peer(served)
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        async with running(replica, chain, again) as bench:
            bench.offer(chain)
            await bench.until_height(chain.height)
        assert again.chunks_asked == count - 2
        assert_at(replica, chain)


# Disks


async def test_a_disk_that_cannot_take_the_snapshot_is_tried_again(
    tmp_path: Path, chain: Chain, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of what the node uses is touched by a fetch that fails: not in a chunk, not in filling, not beside the hard state."""
    failures = ["chunk", "fill", "hard state"]
    write = Database.write

    def failing_write(database: Database, rows: Any) -> None:
        is_new = database.path.name != "db"
        is_hard_state = len(rows) == 1
        if is_new and failures and failures[0] == ("hard state" if is_hard_state else "fill"):
            failures.pop(0)
            raise snapshots.DatabaseError("disk full")
        write(database, rows)

    fsync = os.fsync

    def failing_fsync(descriptor: int) -> None:
        if failures and failures[0] == "chunk":
            failures.pop(0)
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with replica_with(tmp_path / "data", chain, BEHIND) as replica:
        replica.store.persist(Persist(hard_state=HardState(TERM, OTHER)))
        async with running(replica, chain, Peer(served)) as bench:
            monkeypatch.setattr(Database, "write", failing_write)
            monkeypatch.setattr(os, "fsync", failing_fsync)
            bench.offer(chain)
            await bench.until_height(chain.height)
            assert not failures
            assert replica.store.load().hard_state == HardState(TERM, OTHER)
        assert_at(replica, chain)


async def test_a_failed_switch_ends_the_node(
    tmp_path: Path, chain: Chain, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reached the disk is not known then (docs/spec/storage.md 3)."""

    def failing_replace(source: str, target: str) -> None:
        if str(target).endswith("DATABASE"):
            raise OSError(5, "Input/output error")
        real_replace(source, target)

    real_replace = os.replace
    monkeypatch.setattr(os, "replace", failing_replace)
    with replica_with(tmp_path / "data", chain, BEHIND) as replica:
        with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012 - the validator runs beside
            async with running(replica, chain, Peer(served)) as bench:
                bench.offer(chain)
                await bench.until_height(chain.height)
        assert any(isinstance(leaf, StorageFailedError) for leaf in find_leaves(caught.value))
    monkeypatch.undo()
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        assert replica.height == BEHIND


# Crashes


class Crashes:
    """Copies of a data directory as a kill would have left it before each effect on the disk, and after the last one."""

    def __init__(self, data: Path, copies: Path) -> None:
        self._data = data
        self._copies = copies
        self.taken: list[tuple[str, Path]] = []
        self._is_copying = False

    def note(self, what: str) -> None:
        if self._is_copying:
            return
        self._is_copying = True
        copy = self._copies / str(len(self.taken))
        shutil.copytree(self._data, copy)
        self.taken.append((what, copy))
        self._is_copying = False

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        def before(owner: Any, name: str) -> None:
            function = getattr(owner, name)

            def noting(*arguments: Any, **options: Any) -> Any:
                self.note(name)
                return function(*arguments, **options)

            patch.setattr(owner, name, noting)

        for name in ("fsync", "replace", "mkdir", "pwrite"):
            before(os, name)
        before(shutil, "rmtree")
        before(Database, "write")
        before(Store, "new_database")


async def test_a_crash_between_any_two_steps_loses_nothing(
    tmp_path: Path, chain: Chain, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far it came, the next start finds the old state or the new one, whole, with its vote, and gets there by itself."""
    voted = HardState(TERM, OTHER)
    crashes = Crashes(tmp_path / "data", tmp_path / "copies")
    with replica_with(tmp_path / "data", chain, BEHIND) as replica:
        block = chain.blocks[BEHIND + 1]
        entry = Entry(block.header.term, block.header.height, block.block_hash, block.raw)
        replica.store.persist(Persist(hard_state=voted, entries=(entry,)))
        async with running(replica, chain, Peer(served)) as bench:
            with monkeypatch.context() as patch:
                crashes.watch(patch)
                bench.offer(chain)
                await bench.until_height(chain.height)
                await bench.until(lambda: not list_incoming(tmp_path / "data"))
            crashes.note("everything")
    effects = {what for what, _ in crashes.taken}
    assert effects >= {"fsync", "replace", "mkdir", "pwrite", "rmtree", "write", "new_database"}
    found = set()
    for what, copy in crashes.taken:
        with open_replica(copy, chain.genesis, now_ms=chain.blocks[-1].header.time_ms) as replica:
            assert len(databases(copy)) == 1, what
            assert replica.store.load().hard_state == voted, what
            assert not [each for each in verify_store(replica.store.store) if isinstance(each, StoreFinding)], what
            found.add((replica.height, replica.store.last_height))
            async with running(replica, chain, Peer(served)) as bench:
                bench.offer(chain)
                await bench.until_height(chain.height)
                await bench.until(lambda copy=copy: not list_incoming(copy))  # type: ignore[misc]
            assert_at(replica, chain)
            assert replica.store.load().hard_state == voted, what
    assert found == {(BEHIND, BEHIND + 1), (chain.height, chain.height)}
