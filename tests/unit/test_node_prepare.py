"""Before the node: a damaged store whose blocks are not all kept is made anew from a snapshot, or the lost row is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from consensus.effects import HardState, Persist
from consensus.messages import Entry
from ledger import bodies
from ledger.keyspace import Table, height_key, identity_key
from node.errors import StorageError, StorageFailedError, StorageRefusedError
from node.prepare import make_anew, note_damage
from node.replica import LedgerReplica
from node.storage.leveldb import DATABASE_FILE
from node.storage.snapshot_files import IncomingSnapshot, SnapshotFiles
from node.storage.tables import TABLE_HARD_STATE
from node.storage.verify import StoreFinding, verify_store
from node.sync import CertifiedBlock
from tests.testkit import damage
from tests.testkit.ledger import Chain, node_key
from tests.testkit.node import open_replica, open_store
from tests.unit.test_node_snapshots import FakePeer, make_files
from wire.errors import UnavailableError

COMMITTED = 12
VOTE = HardState(1, node_key(1).public_key.key_id)


class Peer(FakePeer):
    """A peer with a snapshot and no blocks."""

    async def blocks(self, start: int, *, bytes_max: int, wait_ms: int) -> list[CertifiedBlock]:
        raise UnavailableError("ledger.history.pruned", "forgotten")


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain()
    chain.register("web1@acme", "host")
    while chain.height < COMMITTED + 4:
        chain.submit(bodies.HostReport("inventory", "app", b"report"), by="web1@acme")
    return chain


def entry(chain: Chain, height: int) -> Entry:
    block = chain.blocks[height]
    return Entry(block.header.term, height, block.block_hash, block.raw)


@contextmanager
def replica_at(path: Path, chain: Chain, height: int) -> Iterator[LedgerReplica]:
    with open_replica(path, chain.genesis) as empty:
        replay = Chain(genesis=chain.genesis)
        for block in chain.blocks[1 : height + 1]:
            empty.store.commit([replay.apply(block)], chain.certificate(block))
        yield LedgerReplica(empty.store, empty.now_ms)


def snapshot_at(path: Path, chain: Chain, height: int) -> SnapshotFiles:
    with replica_at(path / "other", chain, height) as replica:
        return make_files(path, replica)


@pytest.fixture(params=["pruned", "full"])
def data(request: pytest.FixtureRequest, tmp_path: Path, chain: Chain) -> Path:
    """A damaged store with two blocks above the committed ones; either without the first blocks, or with one of them lost."""
    with replica_at(tmp_path / "data", chain, COMMITTED) as replica:
        tail = (entry(chain, COMMITTED + 1), entry(chain, COMMITTED + 2))
        replica.store.persist(Persist(VOTE, None, tail))
        if request.param == "pruned":
            replica.store.raise_first_height(COMMITTED - 3)
            while replica.store.prune_step(100):
                pass
    if request.param == "pruned":
        damage.damage_row(tmp_path / "data", Table.STATE, identity_key("web1@acme"))
    else:
        damage.damage_row(tmp_path / "data", Table.BLOCK, height_key(3))
    return tmp_path / "data"


async def _make(data: Path, chain: Chain, *peers: FakePeer, votes: bool) -> int:
    with open_store(data, chain.genesis) as store:
        return await make_anew(store, chain.genesis, peers, votes=votes)  # type: ignore[arg-type]


@pytest.mark.parametrize("votes", [True, False])
async def test_a_snapshot_takes_the_place_of_blocks_that_are_kept_nowhere(
    tmp_path: Path, data: Path, chain: Chain, votes: bool, autojump_clock: trio.abc.Clock
) -> None:
    del autojump_clock
    files = snapshot_at(tmp_path / "made", chain, COMMITTED + 4)
    assert await _make(data, chain, Peer("peer", files), votes=votes) == COMMITTED + 4
    with open_replica(data, chain.genesis) as replica:
        assert (replica.height, replica.store.last_height) == (COMMITTED + 4, COMMITTED + 4)
        assert replica.latest_view().tip == chain.view.tip
        assert replica.store.load().hard_state == VOTE
        assert not [found for found in verify_store(replica.store.store) if isinstance(found, StoreFinding)]


async def test_a_validator_takes_no_snapshot_below_its_own_log(
    tmp_path: Path, data: Path, chain: Chain, autojump_clock: trio.abc.Clock
) -> None:
    """Its acknowledgement of block 14 may be what made that block committed."""
    del autojump_clock
    files = snapshot_at(tmp_path / "made", chain, COMMITTED + 1)
    peer = Peer("peer", files)
    with pytest.raises(StorageError):
        await _make(data, chain, peer, votes=True)
    assert peer.wanted[0] == COMMITTED + 2
    assert not peer.asked
    assert not (data / DATABASE_FILE).exists()


async def test_a_validator_takes_no_snapshot_of_an_earlier_term_than_its_log(
    tmp_path: Path, chain: Chain, autojump_clock: trio.abc.Clock
) -> None:
    """And one that was fetched in vain does not keep it from the next; the simulator found a node that never came back (seed 412)."""
    del autojump_clock
    later = Chain(genesis=chain.genesis)
    for block in chain.blocks[1 : COMMITTED + 1]:
        later.apply(block)
    later.elect(2)
    later.register("alice@acme", "developer")
    data = tmp_path / "data"
    with replica_at(data, chain, COMMITTED) as replica:
        replica.store.persist(Persist(HardState(2, None), None, (entry(later, COMMITTED + 1),)))
        replica.store.raise_first_height(COMMITTED - 3)
        while replica.store.prune_step(100):
            pass
    damage.damage_row(data, Table.STATE, identity_key("web1@acme"))
    files = snapshot_at(tmp_path / "made", chain, COMMITTED + 4)
    with pytest.raises(StorageError, match="no snapshot can be had"):
        await _make(data, chain, Peer("early", files), votes=True)
    assert not (data / DATABASE_FILE).exists()
    while later.height < COMMITTED + 5:
        later.submit(bodies.HostReport("inventory", "app", b"report"), by="web1@acme")
    assert files.newest is not None
    incoming = IncomingSnapshot(data, files.newest.manifest)
    incoming.begin()
    for number, digest in enumerate(incoming.manifest.chunk_digests):
        assert incoming.put(number, files.chunk(digest) or b"")
    late = Peer("late", snapshot_at(tmp_path / "late", later, COMMITTED + 5))
    assert await _make(data, chain, late, votes=True) == COMMITTED + 5


async def test_who_does_not_vote_takes_a_snapshot_of_any_term(
    tmp_path: Path, data: Path, chain: Chain, autojump_clock: trio.abc.Clock
) -> None:
    del autojump_clock
    files = snapshot_at(tmp_path / "made", chain, COMMITTED + 4)
    assert await _make(data, chain, Peer("peer", files), votes=False) == COMMITTED + 4


async def test_without_help_the_lost_row_is_named_and_everything_stays(
    data: Path, chain: Chain, autojump_clock: trio.abc.Clock
) -> None:
    del autojump_clock
    with pytest.raises(StorageError) as caught:
        await _make(data, chain, Peer("away", None), votes=True)
    assert caught.value.code in ("node.storage.missing_row", "node.storage.damaged")
    assert not (data / DATABASE_FILE).exists()


async def test_a_lost_vote_is_not_made_good_by_any_snapshot(
    tmp_path: Path, data: Path, chain: Chain, autojump_clock: trio.abc.Clock
) -> None:
    del autojump_clock
    damage.damage_row(data, TABLE_HARD_STATE, b"")
    peer = Peer("peer", snapshot_at(tmp_path / "made", chain, COMMITTED + 4))
    with pytest.raises(StorageError, match="HARD_STATE"):
        await _make(data, chain, peer, votes=True)
    assert not peer.asked


def _row(code: str) -> StorageError:
    return StorageError(code, "row", details={"table": 7, "key": "00"})


@pytest.mark.parametrize(
    ("error", "asks"),
    [
        (_row("node.storage.checksum"), True),
        (_row("node.storage.missing_row"), True),
        (BaseExceptionGroup("", [KeyboardInterrupt(), ExceptionGroup("", [_row("node.storage.damaged")])]), True),
        (StorageError("node.storage.lost_writes", "older"), False),
        (StorageError("node.storage.damaged", "cannot be opened"), False),
        (StorageFailedError("node.storage.write_failed", "no"), False),
        (StorageRefusedError("node.storage.in_use", "no"), False),
        (ValueError("bug"), False),
    ],
)
def test_only_errors_about_rows_make_the_next_start_repair(
    tmp_path: Path, chain: Chain, error: BaseException, asks: bool
) -> None:
    with open_store(tmp_path / "data", chain.genesis) as store:
        note_damage(store, error)
        assert store.needs_repair == asks
