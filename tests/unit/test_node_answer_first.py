"""Callers hear of a commit before the node has noted it on its own disk, and whoever looks for it then finds it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ledger import bodies
from ledger.mempool import Mempool
from ledger.transaction import Transaction
from ledger.transition import Executed
from node.config import NodeConfig
from node.replica import LedgerReplica
from node.telemetry import Metrics
from node.validator import Validator
from tests.testkit.ledger import Chain, administrator_of, key_of, make_genesis, node_key
from tests.testkit.node import open_replica


@dataclass
class Node:
    """The only validator of a network, which notes what its disk is asked to write."""

    chain: Chain
    replica: LedgerReplica
    mempool: Mempool
    validator: Validator
    commits: list[tuple[Executed, ...]] = field(default_factory=list)
    broken: OSError | None = None

    def register(self, name: str) -> Transaction:
        """Admit a transaction."""
        body = bodies.IdentityRegister(name, "A Person", ("developer",), key_of(name).public_key.spki)
        transaction = self.chain.sign(body, by=administrator_of(name.partition("@")[2]))
        self.mempool.add(transaction)
        return transaction

    def watch_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Note from now on the blocks that the disk takes as committed; fail for `broken`."""
        write = self.replica.store.write

        def noted(persists: Any, commits: Any) -> None:
            blocks = tuple(executed for group, _ in commits for executed in group)
            if blocks and self.broken is not None:
                raise self.broken
            write(persists, commits)
            if blocks:
                self.commits.append(blocks)

        monkeypatch.setattr(self.replica.store, "write", noted)


@asynccontextmanager
async def leading_node(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    chain = Chain(make_genesis(validators=1))
    with open_replica(path, chain.genesis) as replica:
        mempool = Mempool(transactions_max=100, bytes_max=10**6)
        validator = Validator(
            replica=replica,
            config=NodeConfig.model_construct(name="v", idle_block_interval_ms=10**9),
            key=node_key(1),
            mempool=mempool,
            send=lambda *_: True,
            entropy=lambda count: count - 1,
            metrics=Metrics(),
        )
        node = Node(chain, replica, mempool, validator)
        async with trio.open_nursery() as nursery:
            await nursery.start(validator.run)
            await replica.wait_above(0)
            node.watch_disk(monkeypatch)
            yield node
            nursery.cancel_scope.cancel()


async def test_a_caller_hears_of_the_commit_before_it_is_written(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guarded by `Validator._answer_first`."""
    async with leading_node(tmp_path / "data", monkeypatch) as node:
        transaction = node.register("alice@acme")
        node.validator.mempool_grew()
        height = await node.replica.wait_transaction(transaction.tx_id)
        assert node.commits == []
        assert height == node.replica.height + 1
        await trio.testing.wait_all_tasks_blocked()
        assert [executed.height for blocks in node.commits for executed in blocks] == [height]
        assert node.replica.height == height
        assert await node.replica.wait_transaction(transaction.tx_id) == height


@pytest.mark.parametrize("look", ["view", "latest_view"])
async def test_whoever_looks_for_it_finds_it(
    look: str, tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guarded by `LedgerReplica.write_announced`: without it in both, one of these fails."""
    async with leading_node(tmp_path / "data", monkeypatch) as node:
        transaction = node.register("alice@acme")
        node.validator.mempool_grew()
        height = await node.replica.wait_transaction(transaction.tx_id)
        assert node.commits == []
        if look == "view":
            with node.replica.view() as view:
                location = view.location(transaction.tx_id)
        else:
            location = node.replica.latest_view().location(transaction.tx_id)
        assert location is not None
        assert location.height == height
        assert len(node.commits) == 1


async def test_nobody_waits_nothing_waits(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with leading_node(tmp_path / "data", monkeypatch) as node:
        transaction = node.register("alice@acme")
        node.validator.mempool_grew()
        await trio.testing.wait_all_tasks_blocked()
        assert node.replica.is_committed(transaction.tx_id)


async def test_a_disk_that_fails_then_stops_the_node_and_not_who_looked(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with leading_node(tmp_path / "data", monkeypatch) as node:
            transaction = node.register("alice@acme")
            node.broken = OSError("no more of this")
            node.validator.mempool_grew()
            await node.replica.wait_transaction(transaction.tx_id)
            assert node.replica.latest_view().location(transaction.tx_id) is None
            await trio.sleep_forever()
