"""Pruning: old blocks go when a snapshot stands for them, not under a live follower without a word; questions about them have a code."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from structlog.testing import capture_logs

from consensus.effects import HardState, Persist
from consensus.messages import Entry
from ledger import bodies
from ledger.errors import HistoryPrunedError
from ledger.keyspace import Table, height_key
from ledger.transaction import decode_transaction_untrusted
from node.config import ConfigError, build_config
from node.gateway.problems import status_of
from node.history import HistoryKeeper
from node.machine import Machine
from node.proof_services import ProofServices
from node.replica import LedgerReplica
from node.services import Services
from node.storage.snapshot_files import SnapshotFiles
from node.storage.tables import TABLE_LOG_TERM
from node.storage.verify import StoreFinding, verify_store
from node.sync import certified_blocks
from tests.testkit.ledger import Chain
from tests.testkit.node import open_replica

HEIGHT = 60


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain()
    chain.register("web1@acme", "host")
    while chain.height < HEIGHT + 3:
        chain.submit(bodies.HostReport("inventory", "app", b"report"), by="web1@acme")
    return chain


async def _no_sleep(seconds: float) -> None:
    assert seconds > 0
    await trio.lowlevel.checkpoint()


@pytest.fixture
def replica(tmp_path: Path, chain: Chain) -> Iterator[LedgerReplica]:
    """A replica with `HEIGHT` committed blocks, and one more in its log."""
    with open_replica(tmp_path / "data", chain.genesis) as empty:
        replay = Chain(genesis=chain.genesis)
        for block in chain.blocks[1 : HEIGHT + 1]:
            empty.store.commit([replay.apply(block)], chain.certificate(block))
        last = chain.blocks[HEIGHT + 1]
        entry = Entry(last.header.term, last.header.height, last.block_hash, last.raw)
        empty.store.persist(Persist(HardState(1, None), None, (entry,)))
        yield LedgerReplica(empty.store, empty.now_ms, Machine(sleep=_no_sleep))


async def keep(
    replica: LedgerReplica,
    *,
    keep_blocks: int | None,
    followers: dict[str, int] | None = None,
    wanted: int = 0,
    interval_blocks: int = 1000,
    rounds: int = 5,
    then: Callable[[int, SnapshotFiles], None] = lambda _, __: None,
    fetched: Callable[[], Collection[int]] = tuple,
    has_left_behind: Callable[[], bool] = lambda: False,
) -> SnapshotFiles:
    """Let a keeper work for exactly so many rounds; `then` is called before each, with its number from 1 on."""
    count = 0
    done = trio.Event()

    async def sleep(seconds: float) -> None:
        nonlocal count
        assert seconds > 0
        if count == rounds:
            done.set()
            await trio.sleep_forever()
        count += 1
        then(count, files)
        await trio.lowlevel.checkpoint()

    replica.machine = Machine(sleep=sleep)
    files = SnapshotFiles(replica.store.store.path)
    keeper = HistoryKeeper(
        replica,
        files,
        keep_blocks=keep_blocks,
        interval_blocks=interval_blocks,
        followers=lambda: followers or {},
        fetched=fetched,
        has_left_behind=has_left_behind,
    )
    if wanted:
        keeper.want(wanted)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            await done.wait()
            nursery.cancel_scope.cancel()
    return files


def heights_of(replica: LedgerReplica, table: int) -> list[int]:
    return [int.from_bytes(key, "big") for key, _ in replica.store.store.iterate(table)]


def assert_kept_from(replica: LedgerReplica, first: int) -> None:
    """Exactly the blocks from `first` on are there, with what belongs to them, and block 0; below `first` is only what it follows."""
    assert replica.store.first_height == first
    assert heights_of(replica, Table.BLOCK) == [0, *range(first, HEIGHT + 1)]
    assert heights_of(replica, Table.HEADER) == [0, *range(first - 1, HEIGHT + 1)]
    assert heights_of(replica, Table.CERTIFICATE) == list(range(first - 1, HEIGHT + 1))
    assert heights_of(replica, TABLE_LOG_TERM) == [0, *range(first - 1, HEIGHT + 2)]
    assert all(int.from_bytes(key[-12:-4], "big") >= first for key, _ in replica.store.store.iterate(Table.HISTORY))
    assert not [found for found in verify_store(replica.store.store) if isinstance(found, StoreFinding)]


async def test_a_full_history_stays_and_nothing_is_made_unasked(replica: LedgerReplica) -> None:
    files = await keep(replica, keep_blocks=None)
    assert files.newest is None
    assert heights_of(replica, Table.BLOCK) == list(range(HEIGHT + 1))
    assert not [found for found in verify_store(replica.store.store) if isinstance(found, StoreFinding)]


async def test_a_node_with_a_full_history_makes_a_snapshot_when_a_peer_asks(replica: LedgerReplica) -> None:
    files = await keep(replica, keep_blocks=None, wanted=10)
    assert files.newest is not None
    assert files.newest.height == HEIGHT
    assert (await keep(replica, keep_blocks=None, wanted=HEIGHT + 1)).newest is not None


async def test_blocks_go_when_a_snapshot_stands_for_them(tmp_path: Path, chain: Chain, replica: LedgerReplica) -> None:
    files = await keep(replica, keep_blocks=10)
    assert files.newest is not None
    assert files.newest.height == HEIGHT
    assert_kept_from(replica, HEIGHT - 9)
    # What follows works on: blocks above, the log, a restart.
    assert replica.store.entry(HEIGHT - 9).data == chain.blocks[HEIGHT - 9].raw
    assert replica.store.term_and_hash(HEIGHT - 10)[1] == chain.blocks[HEIGHT - 10].block_hash
    stored = replica.store.load()
    assert stored.commit_height == HEIGHT
    executed = await replica.execute_untrusted(chain.blocks[HEIGHT + 1].raw, block_hash=None, now_ms=None)
    replica.commit_to_store([([executed], chain.certificate(chain.blocks[HEIGHT + 1]))])
    replica.committed([executed])
    replica.store.store.close()
    with open_replica(tmp_path / "data", chain.genesis) as again:
        assert (again.height, again.store.first_height) == (HEIGHT + 1, HEIGHT - 9)
        assert again.latest_view().tip.block_hash == chain.blocks[HEIGHT + 1].block_hash


async def test_nothing_is_pruned_before_a_snapshot_is_whole(replica: LedgerReplica) -> None:
    class NoSpace:
        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def has_space(self) -> bool:
            return False

    store = replica.store.store
    replica.store.store = NoSpace()  # type: ignore[assignment]
    files = await keep(replica, keep_blocks=10)
    assert files.newest is None
    assert replica.store.first_height == 1
    assert heights_of(replica, Table.BLOCK) == list(range(HEIGHT + 1))


async def test_a_live_follower_is_waited_for_and_the_log_says_so(replica: LedgerReplica) -> None:
    with capture_logs() as log:
        await keep(replica, keep_blocks=20, followers={"slow": 30, "quick": HEIGHT + 1})
    assert_kept_from(replica, 30)
    assert "history is kept longer for a slow follower" in [line["event"] for line in log]


async def test_a_follower_that_is_too_slow_is_left_behind_and_the_log_says_so(replica: LedgerReplica) -> None:
    with capture_logs() as log:
        await keep(replica, keep_blocks=20, followers={"slow": 3})
    assert_kept_from(replica, HEIGHT - 2 * 20 + 1)
    assert "a follower is too slow and will need a snapshot" in [line["event"] for line in log]


async def test_pruning_that_was_interrupted_is_finished_by_the_next_run(replica: LedgerReplica) -> None:
    replica.store.raise_first_height(40)
    assert replica.store.prune_step(5)
    assert replica.store.store.get(Table.META, b"history") == height_key(6)
    replica.store.reload()
    assert replica.store.first_height == 6
    await keep(replica, keep_blocks=10)
    assert_kept_from(replica, HEIGHT - 9)


async def test_questions_about_forgotten_heights_have_a_code_of_their_own(chain: Chain, replica: LedgerReplica) -> None:
    await keep(replica, keep_blocks=10)

    class Node:
        pass

    node = Node()
    node.replica = replica  # type: ignore[attr-defined]
    node.agent_methods = dict  # type: ignore[attr-defined]
    node.validator = None  # type: ignore[attr-defined]
    services = Services(node)  # type: ignore[arg-type]
    forgotten, kept = HEIGHT - 10, HEIGHT - 9
    tx_id = decode_transaction_untrusted(chain.blocks[forgotten].transactions[0]).tx_id
    for question in (
        services.blocks_get({"height": forgotten}),
        services.blocks_raw({"from": forgotten}),
        services.blocks_list({"from": forgotten}),
        services.tx_get({"tx_id": tx_id.hex()}),
        ProofServices(node).receipt({"tx_id": tx_id.hex()}),  # type: ignore[arg-type]
        services.identities_get({"identity": "web1@acme", "height": forgotten - 1}),
    ):
        with pytest.raises(HistoryPrunedError) as caught:
            await question
        assert caught.value.code == "ledger.history.pruned"
        assert dict(caught.value.details)["history_start"] == kept
        assert status_of(caught.value) == HTTPStatus.GONE
    assert (await services.blocks_get({"height": kept}))["height"] == kept
    assert (await services.blocks_get({"height": 0}))["height"] == 0
    tx_id = decode_transaction_untrusted(chain.blocks[kept].transactions[0]).tx_id
    receipt = await ProofServices(node).receipt({"tx_id": tx_id.hex()})  # type: ignore[arg-type]
    assert receipt["log_index"] == kept - 1
    with replica.view() as view:
        assert certified_blocks(view, kept, 1)[0].block == chain.blocks[kept].raw


@pytest.mark.parametrize(("text", "blocks"), [("full", None), ("pruned:1", 1), ("pruned:100000", 100_000)])
def test_the_setting_says_how_many_blocks_are_kept(text: str, blocks: int | None) -> None:
    assert build_config({"name": "v1", "history": text}).history_blocks == blocks


@pytest.mark.parametrize("text", ["", "none", "pruned", "pruned:0", "pruned:-1", "pruned: 5", "pruned:1e3"])
def test_other_settings_are_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config({"name": "v1", "history": text})
    assert caught.value.code == "node.config.refused"


# For those who fetch a snapshot

BEGIN = 20
KEPT = 4


@pytest.fixture
def growing(tmp_path: Path, chain: Chain) -> Iterator[tuple[LedgerReplica, Callable[[int], None]]]:
    """A replica at `BEGIN`, and what makes it grow up to a height."""
    replay = Chain(genesis=chain.genesis)
    with open_replica(tmp_path / "growing", chain.genesis) as replica:

        def grow(height: int) -> None:
            executed = [replay.apply(block) for block in chain.blocks[replay.height + 1 : height + 1]]
            for each in executed:
                replica.chain.push(each)
                replica.store.commit([each], chain.certificate(each.block))
                replica.committed([each])

        grow(BEGIN)
        yield replica, grow


async def test_blocks_above_a_snapshot_stay_while_a_follower_fetches_it(
    growing: tuple[LedgerReplica, Callable[[int], None]],
) -> None:
    """Slow fetching against fast pruning: it shall not be left behind again. Protected by `HistoryKeeper._held_for_fetching`."""
    replica, grow = growing
    heights = []

    def then(count: int, files: SnapshotFiles) -> None:
        del files
        if count >= 3:
            heights.append(replica.store.first_height)
            grow(BEGIN + 10 * (count - 2) if count < 6 else replica.height)

    await keep(replica, keep_blocks=KEPT, rounds=8, then=then, has_left_behind=lambda: len(heights) < 5)
    assert heights == [BEGIN - KEPT + 1, *[BEGIN + 1] * 4, replica.height - KEPT + 1]


@pytest.mark.parametrize("why", ["too long", "no room"])
async def test_they_stay_no_longer_than_there_is_time_and_room(
    growing: tuple[LedgerReplica, Callable[[int], None]], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    replica, grow = growing
    has_space = [True]
    monkeypatch.setattr(replica.store.store, "has_space", lambda: has_space[0])

    def then(count: int, files: SnapshotFiles) -> None:
        del files
        if count == 4:
            grow(BEGIN + 20)
        if count == 6:
            assert replica.store.first_height == BEGIN + 1
            if why == "no room":
                has_space[0] = False
            else:
                monkeypatch.setattr("node.history.FETCH_HOLD_S", 0)

    with capture_logs() as logs:
        await keep(replica, keep_blocks=KEPT, rounds=9, then=then, has_left_behind=lambda: True)
    assert replica.store.first_height == BEGIN + 20 - KEPT + 1
    said = [each for each in logs if each["event"].startswith("a follower takes too long to fetch")]
    assert bool(said) == (why == "too long")


async def test_what_a_host_fetches_here_is_kept_with_the_blocks_above_it(
    growing: tuple[LedgerReplica, Callable[[int], None]],
) -> None:
    """Protected by `SnapshotFiles.forget_old`, and bounded by its `SNAPSHOTS_HELD_MAX`."""
    replica, grow = growing
    kept: list[list[int]] = []

    def then(count: int, files: SnapshotFiles) -> None:
        kept.append([each.height for each in files._snapshots])
        if count >= 3:
            grow(min(BEGIN + 2 * (count - 2), 40))

    files = await keep(replica, keep_blocks=KEPT, rounds=14, then=then, fetched=lambda: {BEGIN})
    assert files.newest is not None
    assert kept[-1] == [BEGIN, 38, 40]
    assert replica.store.first_height == BEGIN + 1
    # However many are fetched, and by whomever, these are all that are kept.
    most = await keep(
        replica,
        keep_blocks=KEPT,
        rounds=11,
        then=lambda count, _: grow(40 + 2 * (count - 1)),
        fetched=lambda: range(HEIGHT),
    )
    assert [each.height for each in most._snapshots] == [54, 56, 58, 60]
    assert sorted(path.name for path in (replica.store.store.path / "snapshots").iterdir()) == [
        f"{height:012}" for height in (54, 56, 58, 60)
    ]
