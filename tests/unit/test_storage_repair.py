"""A damaged store made anew: the same rows as before, or an error that names what is lost and leaves the old database as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from consensus.effects import HardState, Persist
from consensus.messages import Entry
from ledger import bodies
from ledger.genesis import genesis_block
from ledger.keyspace import Table, height_key, identity_key
from ledger.state import StateView
from node.errors import StorageError
from node.storage.block_store import BlockStore
from node.storage.leveldb import DATABASE_FILE, Store
from node.storage.rebuild import Rebuild
from node.storage.tables import (
    TABLE_HARD_STATE,
    TABLE_LOG_ENTRY,
    TABLE_LOG_TERM,
    TABLE_LOG_TIP,
    TABLE_STORE,
)
from node.storage.verify import StoreFinding, verify_store
from node.sync import CertifiedBlock
from tests.testkit import damage
from tests.testkit.ledger import Chain, make_genesis, node_key
from tests.testkit.node import certified, open_store
from wire.certificate import encode_commit_certificate

VOTE = HardState(2, node_key(2).public_key.key_id)
TAIL = 2
"""Blocks at the end of the chain that the replica has in its log and has not committed."""
ALONE = 5
"""Height of a block that lies alone in a block of LevelDB's files."""

Answers = Sequence[Sequence[CertifiedBlock]]


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain()
    for name in ("alice@acme", "bob@beta"):
        chain.register(name, "developer")
    chain.register("web1@acme", "host")
    for number in range(2):
        reports = [bodies.HostReport("inventory", "app", bytes((number, part)) * 1500) for part in range(3)]
        chain.apply(chain.build(*(chain.sign(report, by="web1@acme") for report in reports)).block)
    chain.elect(2)
    for name in ("carl@gamma", "dora@gamma", "eve@acme"):
        chain.register(name, "developer")
    return chain


def entry(chain: Chain, height: int) -> Entry:
    block = chain.blocks[height]
    return Entry(block.header.term, height, block.block_hash, block.raw)


@pytest.fixture
def data(tmp_path: Path, chain: Chain) -> Path:
    return make_data(tmp_path / "data", chain, vote=VOTE)


def make_data(data: Path, chain: Chain, *, vote: HardState | None) -> Path:
    replay = Chain(genesis=chain.genesis)
    committed = chain.height - TAIL
    with open_store(data, chain.genesis) as store:
        blocks = blocks_of(store, chain)
        for block in chain.blocks[1 : committed + 1]:
            certificate = chain.certificate(block) if block.header.height % 2 == 0 else None
            blocks.commit([replay.apply(block)], certificate)
        blocks.persist(Persist(vote, None, tuple(entry(chain, committed + number + 1) for number in range(TAIL))))
    damage.compact(data)
    return data


def blocks_of(store: Store, chain: Chain) -> BlockStore:
    block, writes = genesis_block(chain.genesis)
    return BlockStore.bootstrap(store, block.block_hash, writes)


def rows_of(store: Store) -> dict[tuple[int, bytes], bytes]:
    rows = {}
    for row in store.scan():
        value = store.get(row.table, row.key)
        assert value is not None
        if (row.table, row.key) != (TABLE_STORE, b"sequence"):
            rows[row.table, row.key] = value
    return rows


def rows_at(data: Path, chain: Chain) -> dict[tuple[int, bytes], bytes]:
    with open_store(data, chain.genesis) as store:
        return rows_of(store)


class Network:
    """Peers that answer from a script: for each height the answers of one peer after the other."""

    def __init__(self, chain: Chain, answers: dict[int, Answers] | None = None) -> None:
        self.chain = chain
        self.answers = answers
        self.asked: list[int] = []

    def fetch(self, height: int) -> Answers:
        self.asked.append(height)
        if self.answers is not None:
            return self.answers.get(height, [])
        return [[], certified(self.chain, height)[:1]]


def rebuild(store: Store, chain: Chain, network: Network, *, votes: bool = True) -> int:
    return Rebuild(store, chain.genesis, votes=votes, fetch=network.fetch).run()


@pytest.mark.parametrize("votes", [True, False])
def test_a_sound_store_made_anew_has_the_same_rows_and_owner(data: Path, chain: Chain, votes: bool) -> None:
    before = rows_at(data, chain)
    network = Network(chain, {})
    with open_store(data, chain.genesis) as store:
        incarnation = store.incarnation
        assert rebuild(store, chain, network, votes=votes) == chain.height - TAIL
        assert rows_of(store) == before
        store.write({(200, b"later"): b""})
    with open_store(data, chain.genesis) as store:
        assert store.incarnation == incarnation
        assert store.get(200, b"later") == b""
        blocks = blocks_of(store, chain)
        assert (blocks.committed_height, blocks.last_height) == (chain.height - TAIL, chain.height)
        assert blocks.load().hard_state == VOTE
    assert not network.asked


EVERY_TABLE = sorted({int(table) for table in Table} | {TABLE_LOG_TERM, TABLE_LOG_ENTRY})


@pytest.mark.parametrize("table", EVERY_TABLE)
@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_whatever_row_is_lost_the_store_is_as_it_was_afterwards(data: Path, chain: Chain, table: int, how: str) -> None:
    before = rows_at(data, chain)
    keys = [key for number, key in before if number == table]
    assert keys
    for key in {keys[0], keys[-1]}:
        (damage.damage_row if how == "damaged" else damage.remove_row)(data, table, key)
    with open_store(data, chain.genesis) as store:
        rebuild(store, chain, Network(chain))
        after = rows_of(store)
        if table == Table.CERTIFICATE:
            # What a later one proves needs no certificate of its own.
            assert after == {
                row: value for row, value in before.items() if row not in {(table, keys[0]), (table, keys[-1])}
            }
        else:
            assert after == before
        assert not [found for found in verify_store(store) if isinstance(found, StoreFinding)]


def test_a_damaged_file_is_left_behind(data: Path, chain: Chain) -> None:
    before = rows_at(data, chain)
    damage.flip_bit_of_row(data, Table.BLOCK, height_key(ALONE))
    network = Network(chain)
    with open_store(data, chain.genesis) as store:
        rebuild(store, chain, network)
    assert rows_at(data, chain) == before
    assert network.asked == [ALONE]
    assert not (data / "db").exists()


def test_a_file_that_cannot_be_read_at_all_costs_only_what_peers_have(data: Path, chain: Chain) -> None:
    before = rows_at(data, chain)
    damage.destroy_block_of_row(data, Table.BLOCK, height_key(ALONE))
    damage.destroy_block_of_row(data, Table.STATE, identity_key("alice@acme"))
    with open_store(data, chain.genesis) as store:
        rebuild(store, chain, Network(chain))
    assert rows_at(data, chain) == before


def test_a_committed_block_that_nobody_sends_is_named_and_everything_stays(data: Path, chain: Chain) -> None:
    damage.damage_row(data, Table.BLOCK, height_key(2))
    liar = certified(chain, 3)[:1]
    other = Chain(genesis=make_genesis(chain_id="other-net"))
    other.register("alice@acme", "developer")
    other.register("bob@acme", "developer")
    for answers in ([], [[]], [liar], [certified(other, 2)[:1]], [[CertifiedBlock(b"garbage", None)]]):
        with open_store(data, chain.genesis) as store:
            with pytest.raises(
                StorageError, match=f"row {height_key(2).hex()} of table 7 .BLOCK. is damaged"
            ) as caught:
                rebuild(store, chain, Network(chain, {2: answers}))
            assert caught.value.code == "node.storage.missing_row"
            assert not store.is_sound(Table.BLOCK, height_key(2))
        assert not (data / DATABASE_FILE).exists()
    with open_store(data, chain.genesis) as store:
        rebuild(store, chain, Network(chain, {2: [liar, certified(chain, 2)[:1]]}))


@pytest.mark.parametrize(("table", "name"), [(TABLE_LOG_TIP, "LOG_TIP"), (TABLE_HARD_STATE, "HARD_STATE")])
@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_a_validator_that_lost_what_only_it_knew_is_refused(
    data: Path, chain: Chain, table: int, name: str, how: str
) -> None:
    (damage.damage_row if how == "damaged" else damage.remove_row)(data, table, b"")
    with open_store(data, chain.genesis) as store:
        with pytest.raises(StorageError, match=name) as caught:
            rebuild(store, chain, Network(chain))
        assert caught.value.code == "node.storage.missing_row"
    assert not (data / DATABASE_FILE).exists()


def test_a_host_that_lost_its_tip_begins_again(tmp_path: Path, chain: Chain) -> None:
    data = make_data(tmp_path / "data", chain, vote=None)
    damage.damage_row(data, TABLE_LOG_TIP, b"")
    with open_store(data, chain.genesis) as store:
        assert rebuild(store, chain, Network(chain), votes=False) == 0
        blocks = blocks_of(store, chain)
        assert (blocks.committed_height, blocks.last_height) == (0, 0)
        assert StateView(blocks).tip == Chain(genesis=chain.genesis).view.tip


def test_blocks_that_lead_elsewhere_than_to_the_committed_hash_are_refused(data: Path, chain: Chain) -> None:
    """A whole other history, executed and signed as it should be, is not the one that this node committed."""
    fork = Chain(genesis=chain.genesis)
    for number in range(chain.height - TAIL):
        fork.register(f"fork{number}@acme", "developer")
    with open_store(data, chain.genesis) as store:
        before = rows_of(store)
        store.write({(Table.BLOCK, height_key(block.header.height)): block.raw for block in fork.blocks[1:]})
        with pytest.raises(StorageError, match="lead to another block") as caught:
            rebuild(store, chain, Network(chain, {}))
        assert caught.value.code == "node.storage.damaged"
        assert store.get(TABLE_LOG_TIP, b"") == before[TABLE_LOG_TIP, b""]


# The tail: acknowledged, and not known to be committed


def lose_tail(data: Path, chain: Chain, height: int) -> None:
    damage.damage_row(data, TABLE_LOG_ENTRY, height_key(height))


def test_a_lost_block_of_the_tail_comes_back_by_its_hash(data: Path, chain: Chain) -> None:
    before = rows_at(data, chain)
    lose_tail(data, chain, chain.height - 1)
    damage.damage_row(data, TABLE_LOG_TERM, height_key(chain.height - 1))
    with open_store(data, chain.genesis) as store:
        rebuild(store, chain, Network(chain))
    assert rows_at(data, chain) == before


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_block_of_the_tail_that_nobody_has_is_refused_and_never_taken_for_the_end(
    data: Path, chain: Chain, lost: int
) -> None:
    height = chain.height - lost
    lose_tail(data, chain, height)
    with open_store(data, chain.genesis) as store:
        with pytest.raises(StorageError, match=f"row {height_key(height).hex()} of table 65") as caught:
            rebuild(store, chain, Network(chain, {}))
        assert caught.value.code == "node.storage.missing_row"
        assert store.get(TABLE_LOG_TERM, height_key(height)) is not None


def fork_of(chain: Chain, *, term: int) -> Chain:
    """Return a chain with the same committed blocks, and then others of a later term."""
    fork = Chain(genesis=chain.genesis)
    for block in chain.blocks[1 : chain.height - TAIL + 1]:
        fork.apply(block)
    fork.term = chain.term
    fork.elect(3)
    assert fork.term == term
    fork.register("fork1@acme", "developer")
    fork.register("fork2@acme", "developer")
    return fork


def test_a_lost_block_gives_way_to_the_one_that_the_network_has_certified(data: Path, chain: Chain) -> None:
    height = chain.height - 1
    lose_tail(data, chain, height)
    fork = fork_of(chain, term=3)
    answer = certified(fork, height)[:1]
    with open_store(data, chain.genesis) as store:
        rebuild(store, chain, Network(chain, {height: [answer]}))
        blocks = blocks_of(store, chain)
        assert blocks.last_height == height
        assert blocks.entry(height).data == fork.blocks[height].raw
        assert blocks.term_and_hash(height) == (3, fork.blocks[height].block_hash)
        # The log is of term 3 now: a vote of term 2 is past, and none was given in term 3.
        assert blocks.load().hard_state == HardState(3, None)


def test_a_certificate_further_up_proves_the_block_that_takes_the_place(data: Path, chain: Chain) -> None:
    height = chain.height - 1
    lose_tail(data, chain, height)
    fork = fork_of(chain, term=3)
    first, second = certified(fork, height)[:2]
    with open_store(data, chain.genesis) as store:
        rebuild(store, chain, Network(chain, {height: [[replace(first, certificate=None), second]]}))
        assert blocks_of(store, chain).entry(height).data == fork.blocks[height].raw


def test_another_block_without_a_certificate_that_holds_takes_nobodys_place(data: Path, chain: Chain) -> None:
    height = chain.height - 1
    lose_tail(data, chain, height)
    fork = fork_of(chain, term=3)
    first, second = certified(fork, height)[:2]
    block = fork.blocks[height]
    whole = fork.certificate(block)
    minority = encode_commit_certificate(replace(whole, signatures=whole.signatures[:2]))
    lies: list[list[CertifiedBlock]] = [
        [replace(first, certificate=None)],
        [replace(first, certificate=minority)],
        [replace(first, certificate=second.certificate)],
        [replace(first, certificate=None), replace(second, block=first.block)],
        [replace(first, certificate=b"garbage")],
    ]
    with open_store(data, chain.genesis) as store, pytest.raises(StorageError, match="table 65"):
        rebuild(store, chain, Network(chain, {height: lies}))


@pytest.mark.parametrize("lost", [0, 1])
def test_a_certified_block_with_which_the_position_does_not_rise_takes_nobodys_place(
    data: Path, chain: Chain, lost: int
) -> None:
    """Only liars can have certified it. Whoever acknowledged the own last block and forgot it would be convicted by what it signs next."""
    height = chain.height - lost
    lose_tail(data, chain, height)
    fork = Chain(genesis=chain.genesis)
    for block in chain.blocks[1 : chain.height - TAIL + 1]:
        fork.apply(block)
    fork.term, fork.leader = chain.term, chain.leader
    if lost == 0:
        fork.apply(chain.blocks[height - 1])
    fork.register("fork1@acme", "developer")
    answer = certified(fork, height)[:1]
    with open_store(data, chain.genesis) as store, pytest.raises(StorageError, match="table 65"):
        rebuild(store, chain, Network(chain, {height: [answer]}))
    # Who has promised nothing follows it.
    with open_store(data, chain.genesis) as store:
        rebuild(store, chain, Network(chain, {height: [answer]}), votes=False)
        assert blocks_of(store, chain).term_and_hash(height) == (2, fork.blocks[height].block_hash)
