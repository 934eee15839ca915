"""Trap 23: whoever follows the chain by height gets each block once, in order: also over pruning, snapshots and other nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ledger.errors import HistoryPrunedError
from node.replica import LedgerReplica
from node.services import Services
from tests.testkit.ledger import Chain, make_genesis
from tests.testkit.node import certified, open_replica
from wire.certificate import decode_commit_certificate_untrusted

HEIGHT = 12


class Node:
    """What `Services.events_subscribe` needs of a node."""

    def __init__(self, replica: LedgerReplica) -> None:
        self.replica = replica


@pytest.fixture
def chain() -> Chain:
    chain = Chain(make_genesis())
    for number in range(HEIGHT):
        if number % 4 == 2:
            chain.elect(number % 3)
        chain.commit()
    return chain


@pytest.fixture
def replica(tmp_path: Path, chain: Chain) -> Iterator[LedgerReplica]:
    with open_replica(tmp_path / "data", chain.genesis) as opened:
        yield opened


async def grow(replica: LedgerReplica, chain: Chain, upto: int) -> None:
    """Commit the chain's next blocks, several at once where there are several."""
    blocks = certified(chain)[replica.height : upto]
    executed = [
        await replica.execute_untrusted(each.block, block_hash=None, now_ms=None) for each in blocks if each is not None
    ]
    last = blocks[-1].certificate
    assert last is not None
    replica.commit_to_store([(executed, decode_commit_certificate_untrusted(last))])
    replica.committed(executed)


async def follow(replica: LedgerReplica, start: int | None, seen: list[int], chain: Chain | None = None) -> None:
    params: dict[str, Any] = {} if start is None else {"from_height": start}
    async for block in Services(Node(replica)).events_subscribe(params):  # type: ignore[arg-type]
        assert chain is None or block["block_hash"] == chain.blocks[block["height"]].block_hash.hex()
        seen.append(block["height"])


async def test_trap_23_blocks_that_come_several_at_a_time_under_several_leaders_are_told_once_each(
    replica: LedgerReplica, chain: Chain, autojump_clock: MockClock
) -> None:
    # Protected by the block that is read for each height in `Services.events_subscribe`, and `height += 1` after it.
    seen: list[int] = []
    late: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, replica, 1, seen, chain)
        for upto in (1, 4, 5, 9):
            await grow(replica, chain, upto)
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(follow, replica, 3, late, chain)
        await trio.testing.wait_all_tasks_blocked()
        await grow(replica, chain, HEIGHT)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen == list(range(1, HEIGHT + 1))
    assert late == list(range(3, HEIGHT + 1))
    assert len({block.header.proposer for block in chain.blocks[1:]}) > 1


async def test_trap_23_who_comes_back_goes_on_after_the_last_height_on_any_node(
    replica: LedgerReplica, chain: Chain, tmp_path: Path, autojump_clock: MockClock
) -> None:
    seen: list[int] = []
    await grow(replica, chain, 7)
    with trio.move_on_after(1):
        await follow(replica, 1, seen, chain)
    with open_replica(tmp_path / "other", chain.genesis) as other:
        await grow(other, chain, 5)  # it is behind: what was told already is not told again
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, other, seen[-1] + 1, seen, chain)
            await trio.testing.wait_all_tasks_blocked()
            assert seen == list(range(1, 8))
            await grow(other, chain, HEIGHT)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert seen == list(range(1, HEIGHT + 1))


async def test_trap_23_what_was_pruned_is_never_skipped_in_silence(replica: LedgerReplica, chain: Chain) -> None:
    # Protected by `_block` in `Services.events_subscribe`, which tells a forgotten height from one that never was.
    await grow(replica, chain, HEIGHT)
    replica.store.raise_first_height(8)
    while replica.store.prune_step(64):
        pass
    seen: list[int] = []
    with pytest.raises(HistoryPrunedError) as caught:
        await follow(replica, 5, seen)
    assert (caught.value.code, seen) == ("ledger.history.pruned", [])
    assert dict(caught.value.details)["history_start"] == 8
    with trio.move_on_after(0.1):
        await follow(replica, 8, seen, chain)
    assert seen == list(range(8, HEIGHT + 1))


async def test_trap_23_pruning_that_overtakes_a_slow_listener_ends_its_stream(
    replica: LedgerReplica, chain: Chain
) -> None:
    await grow(replica, chain, HEIGHT)
    stream = Services(Node(replica)).events_subscribe({"from_height": 1})  # type: ignore[arg-type]
    assert (await anext(stream))["height"] == 1
    assert (await anext(stream))["height"] == 2
    replica.store.raise_first_height(8)
    while replica.store.prune_step(64):
        pass
    with pytest.raises(HistoryPrunedError):
        await anext(stream)


async def test_without_a_height_the_stream_begins_with_the_next_block(
    replica: LedgerReplica, chain: Chain, autojump_clock: MockClock
) -> None:
    await grow(replica, chain, 4)
    seen: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, replica, None, seen, chain)
        await trio.testing.wait_all_tasks_blocked()
        await grow(replica, chain, 6)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen == [5, 6]
