"""A replica that somebody rolled back on the disk: an older copy of the database in the place of the newer one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from agent.results import ResultCode
from node.replica import LedgerReplica
from provenance.diff_model import FileState
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, TARGET, World
from tests.testkit.ledger import Chain
from tests.testkit.node import open_replica


def follow(replica: LedgerReplica, chain: Chain) -> None:
    """Commit what the chain has more, with certificates, as an observer does."""
    again = Chain(genesis=chain.genesis)
    for block in chain.blocks[1:]:
        executed = again.apply(block)
        if block.header.height > replica.height:
            replica.store.commit([executed], chain.certificate(block))


async def test_an_older_copy_of_the_database_is_noticed_and_nothing_is_decided_on_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.add_target()
    data = world.release()
    home = tmp_path / "data"
    with open_replica(home, world.chain.genesis) as replica:
        follow(replica, world.chain)
        old = world.chain.height
    shutil.copytree(home, tmp_path / "copy")
    # The host acts on what comes later, and remembers outside the database that it did.
    assert (await world.agent.apply(data, TARGET, OPERATOR)).code is ResultCode.SUCCESS
    world.chain.register("dave@acme", "developer")
    third = world.release(_next())
    assert (await world.agent.apply(third, TARGET, OPERATOR)).code is ResultCode.SUCCESS
    mark = world.agent.status().high_water
    assert mark is not None
    assert mark > old
    tree = world.digest()

    shutil.rmtree(home)
    shutil.move(tmp_path / "copy", home)
    with open_replica(home, world.chain.genesis) as replica, replica.view() as view:
        assert view.height == old
        world.ledger.frozen = view
        # Neither a patch of then, nor a question, nor a restart of the agent gets by it.
        for _ in range(2):
            for ask in (world.agent.explain, world.agent.apply):
                outcome = await ask(data, TARGET, OPERATOR)
                assert (outcome.code, outcome.reason) == (ResultCode.STALE_REPLICA, "agent.replica.rolled_back")
            status = world.agent.status()
            assert (status.replica_height, status.high_water) == (old, mark)
            world.reopen()
        assert world.digest() == tree
    # The node catches up, with the same database, and the host goes on by itself.
    with open_replica(home, world.chain.genesis) as replica:
        follow(replica, world.chain)
        with replica.view() as view:
            world.ledger.frozen = view
            outcome = await world.agent.explain(data, TARGET, OPERATOR)
            assert outcome.reason == "agent.metadata.already_applied"
    world.ledger.frozen = None
    world.agent.close()


def _next() -> bytes:
    state = patches.AFTER["src/frame.c"]
    assert isinstance(state, FileState)
    return patches.make_patch(patches.AFTER, {"src/frame.c": replace(state, content=b"int x;\n")}, release_counter=2)
