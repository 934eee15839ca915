"""Snapshots between nodes: made, served, fetched in spite of liars and interruptions, and put in place in one step."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from consensus.config import Config
from consensus.core import Replica
from consensus.effects import HardState, InstalledSnapshot, Persist
from consensus.messages import Entry
from ledger import bodies
from ledger.errors import HistoryPrunedError, NotYetAvailableError
from ledger.genesis import genesis_block
from ledger.keyspace import Table, height_key
from ledger.snapshot import decode_manifest_untrusted
from node.errors import SnapshotUnavailableError
from node.membership import core_configuration
from node.observer import Observer
from node.replica import LedgerReplica
from node.snapshots import (
    FETCH_HOLD_S,
    FETCH_LIVE_S,
    SnapshotClient,
    SnapshotServer,
    at_least,
    install_offline,
    install_snapshot,
)
from node.storage.leveldb import DATABASE_FILE, Store
from node.storage.snapshot_files import SNAPSHOTS_KEPT, SnapshotFiles
from node.storage.verify import StoreFinding, verify_store
from node.sync import CertifiedBlock
from node.telemetry import Metrics
from tests.testkit.ledger import Chain, node_key
from tests.testkit.node import certified, open_replica, open_store
from tests.testkit.sync import SourceBase
from wire.codec import decode_untrusted, encode
from wire.errors import UnavailableError
from wire.hashing import Digest, sha256

VOTE = HardState(2, node_key(3).public_key.key_id)


@pytest.fixture(scope="module")
def chain() -> Chain:
    """A chain whose state takes several small chunks: each report is one thing that the ledger remembers."""
    chain = Chain()
    chain.register("web1@acme", "host")
    for number in range(4):
        reports = [bodies.HostReport("inventory", f"target-{number}-{part}", b"report") for part in range(20)]
        chain.apply(chain.build(*(chain.sign(report, by="web1@acme") for report in reports)).block)
    chain.elect(2)
    chain.register("alice@acme", "developer")
    return chain


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, chain: Chain) -> Iterator[LedgerReplica]:
    """A node with the whole chain."""
    with open_replica(tmp_path_factory.mktemp("source") / "data", chain.genesis) as replica:
        replay = Chain(genesis=chain.genesis)
        for block in chain.blocks[1:]:
            replica.store.commit([replay.apply(block)], chain.certificate(block))
        replica.store.reload()
        yield LedgerReplica(replica.store, replica.now_ms)


def make_files(path: Path, replica: LedgerReplica) -> SnapshotFiles:
    files = SnapshotFiles(path)
    files.open()
    with replica.store.snapshot() as reader:
        files.make(reader)
    return files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, source: LedgerReplica) -> Path:
    """A directory with one snapshot of the source's state, in several small chunks."""
    path = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ledger.snapshot.SNAPSHOT_CHUNK_BYTES", 1024)
        make_files(path, source)
    return path


@pytest.fixture
def files(tmp_path: Path, made: Path) -> SnapshotFiles:
    shutil.copytree(made, tmp_path / "served")
    files = SnapshotFiles(tmp_path / "served")
    files.open()
    return files


class FakePeer(SourceBase):
    """A peer that serves from files through the production server; what it says can be bent."""

    def __init__(self, name: str, files: SnapshotFiles | None) -> None:
        super().__init__(name)
        self.wanted: list[int] = []
        self.asked: list[Digest] = []
        self.bend_offer: Callable[[bytes | None], bytes | None] = lambda raw: raw
        self.bend_chunk: Callable[[bytes | None], bytes | None] = lambda raw: raw
        self.blocks_kept_from = 1
        self.chain: Chain | None = None
        self._server = None if files is None else SnapshotServer(files, self.wanted.append)

    async def snapshot_offer(self, height_min: int) -> bytes | None:
        if self._server is None:
            raise UnavailableError("node.net.unreachable", "away")
        answer = decode_untrusted(
            await self._server.offer(node_key(1).public_key.key_id, encode((height_min,))), bytes_max=1 << 23
        )
        assert answer is None or isinstance(answer, bytes)
        return self.bend_offer(answer)

    async def snapshot_chunk(self, digest: Digest, bytes_max: int) -> bytes | None:
        if self._server is None:
            raise UnavailableError("node.net.unreachable", "away")
        self.asked.append(digest)
        answer = decode_untrusted(
            await self._server.chunk(node_key(1).public_key.key_id, encode((digest,))), bytes_max=1 << 23
        )
        assert answer is None or isinstance(answer, bytes)
        bent = self.bend_chunk(answer)
        assert bent is None or len(bent) <= bytes_max
        return bent

    async def blocks(self, start: int, *, bytes_max: int, wait_ms: int, end: int | None = None) -> list[CertifiedBlock]:
        assert self.chain is not None
        if start < self.blocks_kept_from:
            raise UnavailableError("ledger.history.pruned", "forgotten")
        if start > self.chain.height:
            await trio.sleep_forever()
        return certified(self.chain, start)


def client_of(store: Store, chain: Chain, *peers: FakePeer) -> SnapshotClient:
    return SnapshotClient(store, chain.genesis, lambda: peers)  # type: ignore[arg-type,return-value]


def assert_is_at(replica: LedgerReplica, chain: Chain, height: int | None = None) -> None:
    at = chain.height if height is None else height
    assert replica.height == at
    assert replica.store.last_height == at
    assert replica.latest_view().tip.block_hash == chain.blocks[at].block_hash
    assert not [found for found in verify_store(replica.store.store) if isinstance(found, StoreFinding)]


# Making and keeping


def test_a_snapshot_is_found_again_after_a_restart(tmp_path: Path, made: Path, source: LedgerReplica) -> None:
    del source
    shutil.copytree(made, tmp_path / "data")
    (tmp_path / "data" / "snapshots" / "part-000000000099").mkdir()
    (tmp_path / "data" / "snapshots" / "stray").write_bytes(b"x")
    files = SnapshotFiles(tmp_path / "data")
    files.open()
    newest = files.newest
    assert newest is not None
    assert [path.name for path in (tmp_path / "data" / "snapshots").iterdir()] == [f"{newest.height:012}"]
    assert len(newest.manifest.chunk_digests) > 1
    for digest in newest.manifest.chunk_digests:
        chunk = files.chunk(digest)
        assert chunk is not None
        assert sha256(chunk) == digest
    assert files.chunk(sha256(b"another")) is None


@pytest.mark.parametrize("what", ["manifest", "00000.chunk"])
def test_a_snapshot_with_a_file_missing_is_removed(tmp_path: Path, made: Path, what: str) -> None:
    shutil.copytree(made, tmp_path / "data")
    (snapshot,) = (tmp_path / "data" / "snapshots").iterdir()
    (snapshot / what).unlink()
    files = SnapshotFiles(tmp_path / "data")
    files.open()
    assert files.newest is None
    assert not snapshot.exists()


def test_a_damaged_chunk_is_not_served_and_ends_its_snapshot(files: SnapshotFiles) -> None:
    newest = files.newest
    assert newest is not None
    chunk = newest.path / "00000.chunk"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"\x00")
    assert files.chunk(newest.manifest.chunk_digests[0]) is None
    assert files.newest is None
    assert not newest.path.exists()


def test_only_the_newest_are_kept(tmp_path: Path, chain: Chain) -> None:
    files = SnapshotFiles(tmp_path / "served")
    files.open()
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        replay = Chain(genesis=chain.genesis)
        for block in chain.blocks[1:6]:
            replica.store.commit([replay.apply(block)], chain.certificate(block))
            with replica.store.snapshot() as reader:
                files.make(reader)
            files.forget_old()
    kept = sorted(path.name for path in (tmp_path / "served" / "snapshots").iterdir())
    assert kept == [f"{height:012}" for height in range(6 - SNAPSHOTS_KEPT, 6)]
    assert files.newest is not None
    assert files.newest.height == 5


def test_a_tip_without_certificate_has_no_snapshot(tmp_path: Path, chain: Chain) -> None:
    files = SnapshotFiles(tmp_path / "served")
    files.open()
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        replica.store.commit([Chain(genesis=chain.genesis).apply(chain.blocks[1])], None)
        with replica.store.snapshot() as reader, pytest.raises(NotYetAvailableError):
            files.make(reader)
    assert not list((tmp_path / "served" / "snapshots").iterdir())


# Fetching and installing


async def test_an_observer_begins_from_a_snapshot_and_goes_on(
    tmp_path: Path, chain: Chain, files: SnapshotFiles
) -> None:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        writing = trio.CapacityLimiter(1)
        waited = trio.Event()

        async def wait() -> None:
            await replica.wait_transaction(_first_transaction(chain))
            waited.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            client = client_of(replica.store.store, chain, FakePeer("peer", files))
            filled = await client.fetch(at_least(1))
            assert replica.height == 0, "nothing has changed yet"
            assert not waited.is_set()
            await install_snapshot(replica, filled, None, writing)
            await client.forget_incoming(filled.height)
            with trio.fail_after(5):
                await waited.wait()
        assert_is_at(replica, chain)
        assert replica.store.first_height == chain.height + 1
        view = replica.latest_view()
        assert view.tip == chain.view.tip
        assert list(view.identities()) == list(chain.view.identities())
        with pytest.raises(HistoryPrunedError):
            view.check_kept(chain.height)
        assert not list((replica.store.store.path / "incoming").iterdir())
        later = Chain(genesis=chain.genesis)
        for block in chain.blocks[1:]:
            later.apply(block)
        later.term, later.leader = chain.term, chain.leader
        later.register("bob@beta", "developer")
        executed = await replica.execute_untrusted(later.blocks[-1].raw, block_hash=None, now_ms=None)
        replica.commit_to_store([([executed], later.certificate(later.blocks[-1]))])
        replica.committed([executed])
        assert replica.store.entry(chain.height + 1).data == later.blocks[-1].raw
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        assert_is_at(replica, later)


def _first_transaction(chain: Chain) -> Digest:
    from ledger.transaction import decode_transaction_untrusted

    return decode_transaction_untrusted(chain.blocks[1].transactions[0]).tx_id


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (VOTE, VOTE),
        (HardState(1, VOTE.voted_for), HardState(2, None)),
        (HardState(7, None), HardState(7, None)),
    ],
)
async def test_a_validator_keeps_its_vote_and_never_has_a_log_ahead_of_its_term(
    tmp_path: Path, chain: Chain, files: SnapshotFiles, before: HardState, after: HardState
) -> None:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        filled = await client_of(replica.store.store, chain, FakePeer("peer", files)).fetch(at_least(1))
        await install_snapshot(replica, filled, before, trio.CapacityLimiter(1))
        assert replica.store.load().hard_state == after
        stored = replica.store.load()
        assert (stored.commit_height, stored.commit_certificate) == (filled.height, filled.certificate)
        assert (filled.term, filled.block_hash) == replica.store.term_and_hash(chain.height)
        assert filled.configuration == chain.view.configuration()
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        assert replica.store.load().hard_state == after


async def test_the_consensus_core_goes_on_from_an_installed_snapshot(
    tmp_path: Path, chain: Chain, files: SnapshotFiles
) -> None:
    """What the validator's driver does: ask the core, install between two of its steps, tell the core (`consensus.effects` rule 9)."""
    key = node_key(1)
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        # A block of an earlier term, acknowledged and never committed.
        behind = chain.blocks[1]
        entry = Entry(behind.header.term, 1, behind.block_hash, behind.raw)
        replica.store.persist(Persist(HardState(1, None), None, (entry,)))
        executed = await replica.execute_untrusted(behind.raw, block_hash=None, now_ms=None)
        assert replica.chain.tip_height == executed.height == 1
        stored = replica.store.load()
        config = Config(
            chain_id=chain.genesis.chain_id,
            node_id=key.public_key.key_id,
            key=key,
            validators=tuple(chain.view.validators().public_keys.values()),
        )
        core = Replica(config, stored, replica.store, lambda _: 0)
        filled = await client_of(replica.store.store, chain, FakePeer("peer", files)).fetch(at_least(2))
        assert core.needs_snapshot(filled.height, filled.term, filled.block_hash)
        assert not core.needs_snapshot(1, behind.header.term, behind.block_hash)
        await install_snapshot(replica, filled, stored.hard_state, trio.CapacityLimiter(1))
        core.step(
            InstalledSnapshot(
                filled.height,
                filled.term,
                filled.block_hash,
                core_configuration(filled.configuration),
                filled.certificate,
            )
        )
        status = core.status
        assert (status.commit_height, status.last_height, status.last_hash) == (
            filled.height,
            filled.height,
            filled.block_hash,
        )
        assert status.term == filled.term
        assert replica.chain.tip_height == filled.height, "what was executed above the old tip is forgotten"
        assert replica.store.load().hard_state == HardState(filled.term, None)


async def test_a_peer_without_a_snapshot_that_is_high_enough_is_told_so(
    tmp_path: Path, chain: Chain, files: SnapshotFiles
) -> None:
    peer = FakePeer("peer", files)
    assert await peer.snapshot_offer(chain.height + 1) is None
    assert peer.wanted == [chain.height + 1]
    assert await peer.snapshot_offer(chain.height) is not None


async def test_it_is_known_for_a_while_who_fetches_what(
    files: SnapshotFiles, autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what is fetched is kept: while chunks are asked for, as long again for filling a database, and not for ever."""
    del autojump_clock
    monkeypatch.setattr("node.snapshots.FETCHERS_MAX", 3)
    server = SnapshotServer(files, lambda _: None)
    newest = files.newest
    assert newest is not None
    peer = node_key(1).public_key.key_id
    fetching = {peer: newest.height}
    await server.offer(peer, encode((newest.height + 1,)))
    assert server.fetched() == {}
    await server.offer(peer, encode((1,)))
    assert server.fetched() == fetching
    await trio.sleep(FETCH_LIVE_S + 1)
    assert server.fetched() == {}
    await server.chunk(peer, encode((sha256(b"nowhere"),)))
    assert server.fetched() == {}
    for digest in newest.manifest.chunk_digests[:4]:
        await server.chunk(peer, encode((digest,)))
        assert server.fetched() == fetching
        await trio.sleep(FETCH_LIVE_S - 1)
    await server.chunk(peer, encode((newest.manifest.chunk_digests[0],)))
    await trio.sleep(4 * FETCH_LIVE_S)
    assert server.fetched() == fetching, "it has fetched for as long as this"
    await trio.sleep(2 * FETCH_LIVE_S)
    assert server.fetched() == {}
    for _ in range(int(FETCH_HOLD_S / FETCH_LIVE_S) + 2):
        await server.chunk(peer, encode((newest.manifest.chunk_digests[0],)))
        await trio.sleep(FETCH_LIVE_S)
    assert server.fetched() == {}, "whoever takes that long is waited for no longer"
    for number in range(2, 6):
        await server.offer(node_key(number).public_key.key_id, encode((1,)))
    assert set(server.fetched()) == {node_key(number).public_key.key_id for number in (3, 4, 5)}


def _garbage(raw: bytes | None) -> bytes | None:
    assert raw is not None
    return b"garbage"


def _changed(raw: bytes | None, **changes: object) -> bytes:
    assert raw is not None
    return replace(decode_manifest_untrusted(raw), **changes).encode()  # type: ignore[arg-type]


def _of_another_network(raw: bytes | None) -> bytes | None:
    return _changed(raw, chain_id="other-net")


def _with_other_chunks(raw: bytes | None) -> bytes | None:
    assert raw is not None
    digests = decode_manifest_untrusted(raw).chunk_digests
    return _changed(raw, chunk_digests=tuple(reversed(digests)))


def _with_a_chunk_that_nobody_has(raw: bytes | None) -> bytes | None:
    assert raw is not None
    return _changed(raw, chunk_digests=(sha256(b"nowhere"), *decode_manifest_untrusted(raw).chunk_digests[1:]))


def _with_fewer_chunks(raw: bytes | None) -> bytes | None:
    assert raw is not None
    return _changed(raw, chunk_digests=decode_manifest_untrusted(raw).chunk_digests[:-1])


def _by_a_minority(raw: bytes | None) -> bytes | None:
    assert raw is not None
    certificate = decode_manifest_untrusted(raw).certificate
    return _changed(raw, certificate=replace(certificate, signatures=certificate.signatures[:2]))


@pytest.mark.parametrize(
    "lie",
    [
        _garbage,
        _of_another_network,
        _with_other_chunks,
        _with_a_chunk_that_nobody_has,
        _with_fewer_chunks,
        _by_a_minority,
    ],
)
async def test_a_lying_offer_changes_nothing_and_an_honest_peer_is_found(
    tmp_path: Path,
    chain: Chain,
    files: SnapshotFiles,
    lie: Callable[[bytes | None], bytes | None],
    autojump_clock: trio.abc.Clock,
) -> None:
    del autojump_clock
    liar, honest = FakePeer("liar", files), FakePeer("honest", files)
    liar.bend_offer = lie
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        with pytest.raises(SnapshotUnavailableError) as caught:
            await client_of(replica.store.store, chain, liar).fetch(at_least(1))
        assert caught.value.code == "node.snapshot.none"
        assert replica.height == 0
        assert not (replica.store.store.path / DATABASE_FILE).exists()
        filled = await client_of(replica.store.store, chain, liar, honest).fetch(at_least(1))
        await install_snapshot(replica, filled, None, trio.CapacityLimiter(1))
        assert_is_at(replica, chain)


def _none(raw: bytes | None) -> bytes | None:
    del raw
    return None


def _cut(raw: bytes | None) -> bytes | None:
    return None if raw is None else raw[:-1]


@pytest.mark.parametrize("bend", [_none, _cut, _garbage])
async def test_a_chunk_that_is_not_the_named_one_is_asked_for_elsewhere(
    tmp_path: Path, chain: Chain, files: SnapshotFiles, bend: Callable[[bytes | None], bytes | None]
) -> None:
    liar, away, honest = FakePeer("liar", files), FakePeer("away", None), FakePeer("honest", files)
    liar.bend_chunk = bend
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        filled = await client_of(replica.store.store, chain, liar, away, honest).fetch(at_least(1))
        await install_snapshot(replica, filled, None, trio.CapacityLimiter(1))
        assert_is_at(replica, chain)
    assert len(liar.asked) == 1, "whoever does not have one chunk is asked last from then on"
    assert set(honest.asked) == set(filled.manifest.chunk_digests)


class InterruptedFetchError(Exception):
    pass


@pytest.mark.parametrize("damaged", [False, True])
async def test_what_was_fetched_is_not_fetched_again_after_an_interruption(
    tmp_path: Path, chain: Chain, files: SnapshotFiles, damaged: bool
) -> None:
    newest = files.newest
    assert newest is not None
    digests = newest.manifest.chunk_digests
    cut_off = FakePeer("cut off", files)

    def end_after_two(raw: bytes | None) -> bytes | None:
        if len(cut_off.asked) > 2:
            raise InterruptedFetchError
        return raw

    cut_off.bend_chunk = end_after_two
    with open_replica(tmp_path / "data", chain.genesis) as replica, pytest.raises(InterruptedFetchError):
        await client_of(replica.store.store, chain, cut_off).fetch(at_least(1))
    (incoming,) = (tmp_path / "data" / "incoming").iterdir()
    assert sorted(path.name for path in incoming.iterdir()) == ["00000.chunk", "00001.chunk", "manifest"]
    if damaged:
        chunk = incoming / "00001.chunk"
        chunk.write_bytes(chunk.read_bytes()[:100])
    again = FakePeer("again", files)
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        filled = await client_of(replica.store.store, chain, again).fetch(at_least(1))
        assert again.asked == list(digests[1 if damaged else 2 :])
        await install_snapshot(replica, filled, None, trio.CapacityLimiter(1))
        assert_is_at(replica, chain)


async def test_a_snapshot_that_was_filled_and_not_installed_is_forgotten(
    tmp_path: Path, chain: Chain, files: SnapshotFiles
) -> None:
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        filled = await client_of(replica.store.store, chain, FakePeer("peer", files)).fetch(at_least(1))
        filled.database.close()
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        assert replica.height == 0
        peer = FakePeer("peer", files)
        filled = await client_of(replica.store.store, chain, peer).fetch(at_least(1))
        assert not peer.asked, "the chunks were here"
        await install_snapshot(replica, filled, None, trio.CapacityLimiter(1))
        assert_is_at(replica, chain)


async def test_a_disk_without_room_refuses_before_anything_is_fetched(
    tmp_path: Path, chain: Chain, files: SnapshotFiles
) -> None:
    class SmallDisk:
        def __init__(self, store: Store) -> None:
            self.path = store.path

        def free_bytes(self) -> int:
            return 1000

    peer = FakePeer("peer", files)
    with open_store(tmp_path / "data", chain.genesis) as store, pytest.raises(SnapshotUnavailableError) as caught:
        await client_of(SmallDisk(store), chain, peer).fetch(at_least(1))  # type: ignore[arg-type]
    assert caught.value.code == "node.snapshot.no_space"
    assert not peer.asked


async def test_a_new_store_begins_offline(tmp_path: Path, chain: Chain, files: SnapshotFiles) -> None:
    with open_store(tmp_path / "data", chain.genesis) as store:
        install_offline(store, await client_of(store, chain, FakePeer("peer", files)).fetch(at_least(1)))
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        assert_is_at(replica, chain)
        genesis, _ = genesis_block(chain.genesis)
        assert replica.store.get(Table.BLOCK, height_key(0)) == genesis.raw


async def test_a_follower_slower_than_pruning_converges(tmp_path: Path, chain: Chain, files: SnapshotFiles) -> None:
    """All peers have forgotten the next block: the observer takes a snapshot and follows on from there."""
    longer = Chain(genesis=chain.genesis)
    for block in chain.blocks[1:]:
        longer.apply(block)
    longer.term, longer.leader = chain.term, chain.leader
    longer.register("bob@beta", "developer")
    longer.register("carl@beta", "developer")
    peers = [FakePeer("first", files), FakePeer("second", files)]
    for peer in peers:
        peer.chain, peer.blocks_kept_from = longer, chain.height
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        client = client_of(replica.store.store, chain, *peers)
        observer = Observer(replica, lambda: peers, Metrics(), client, votes=True)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(observer.run)
                while replica.height < longer.height:  # noqa: ASYNC110 - the deadline is above
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
        assert_is_at(replica, longer)
        assert replica.store.first_height == chain.height + 1
        assert replica.store.load().hard_state == HardState(longer.term)


async def test_as_long_as_one_peer_keeps_the_history_no_snapshot_is_taken(
    tmp_path: Path, chain: Chain, files: SnapshotFiles
) -> None:
    pruned, full = FakePeer("pruned", files), FakePeer("full", files)
    pruned.chain = full.chain = chain
    pruned.blocks_kept_from = chain.height
    with open_replica(tmp_path / "data", chain.genesis) as replica:
        client = client_of(replica.store.store, chain, pruned, full)
        observer = Observer(replica, lambda: [pruned, full], Metrics(), client)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(observer.run)
                while replica.height < chain.height:  # noqa: ASYNC110 - the deadline is above
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
        assert replica.store.first_height == 1
        assert not pruned.asked
        assert not full.asked
