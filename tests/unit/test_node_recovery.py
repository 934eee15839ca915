"""Recoveries from home to home: proposed on a stopped survivor, signed offline, applied once, never against what a node knows better."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from consensus.effects import HardState, Persist
from consensus.messages import Entry
from ledger import bodies
from ledger.keyspace import Table
from ledger.recovery import TERMS_AHEAD
from ledger.state import StateView
from ledger.transition import execute_block
from node.config import Home
from node.keystore import save_key
from node.recovery import RecoveryFile
from node.storage.block_store import BlockStore
from node.storage.leveldb import Store
from node.storage.rebuild import Rebuild
from tests.testkit import damage
from tests.testkit.cli import refused, run, run_json
from tests.testkit.ledger import Chain, key_of, make_genesis, node_key
from tests.testkit.recovery import recover
from tests.unit.test_node_backup import make_home

UNDERSTOOD = "--i-understand-that-data-may-be-lost"


@pytest.fixture
def chain() -> Chain:
    chain = Chain()
    for name in ("dora@acme", "bert@beta"):
        chain.register(name, "developer")
    return chain


@pytest.fixture
def home(tmp_path: Path, chain: Chain) -> Home:
    return make_home(tmp_path / "v1", chain)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The administrators' keys, and somebody else's."""
    directory = tmp_path / "keys"
    directory.mkdir()
    for name in ("ada@acme", "ben@beta", "gil@gamma", "dora@acme"):
        save_key(directory / name, key_of(name))
    return directory


def propose(home: Home, out: Path, *more: object) -> dict[str, object]:
    document: dict[str, object] = run_json(
        "recovery", "propose", "--home", home.path, "--reason", "fire", "--out", out, *(more or ("--survivor", "v1"))
    )
    return document


def sign(home: Home, file: Path, keys: Path, name: str) -> dict[str, object]:
    document: dict[str, object] = run_json(
        "recovery", "sign", file, "--genesis", home.genesis, "--key", keys / name, UNDERSTOOD
    )
    return document


@pytest.fixture
def signed(tmp_path: Path, home: Home, keys: Path) -> Path:
    file = tmp_path / "recovery.json"
    propose(home, file)
    sign(home, file, keys, "ada@acme")
    assert sign(home, file, keys, "ben@beta")["is_signed"]
    return file


def registration(name: str) -> bodies.IdentityRegister:
    return bodies.IdentityRegister(name, name, ("developer",), key_of(name).public_key.spki)


def add_to_log(home: Home, chain: Chain, *, term: int, count: int = 2) -> None:
    """Put blocks into the log of a stopped node that are not certified, and a vote."""
    store = Store.open(home.data, chain_id=chain.genesis.chain_id, node_key_id=node_key(1).public_key.key_id)
    try:
        blocks = BlockStore(store)
        entries = []
        for number in range(count):
            block = chain.commit(chain.sign(registration(f"late{number}@acme"), "ada@acme")).block
            entries.append(Entry(block.header.term, block.header.height, block.block_hash, block.raw))
        blocks.persist(Persist(HardState(term, node_key(1).public_key.key_id), None, tuple(entries)))
    finally:
        store.close()


def test_the_statement_says_what_is_kept_and_what_is_lost(tmp_path: Path, home: Home, chain: Chain) -> None:
    document = propose(home, tmp_path / "r.json")
    assert (document["kept_height"], document["height"], document["term"]) == (2, 3, 1 + TERMS_AHEAD)
    assert document["kept_block_hash"] == chain.blocks[-1].block_hash.hex()
    assert (document["validators"], document["lost"]) == (["v1"], ["v2", "v3", "v4"])
    assert (document["signers"], document["signatures_needed"]) == ([], 2)
    assert document["may_sign"] == ["ada@acme", "ben@beta", "gil@gamma"]
    text = run("recovery", "show", tmp_path / "r.json", "--genesis", home.genesis).out
    assert "GIVEN UP" in text
    assert "2 more organisations must sign" in text
    code = refused(
        "recovery", "propose", "--home", home.path, "--survivor", "v1", "--reason", "x", "--out", tmp_path / "r.json"
    )
    assert code == "cli.file.exists"


def test_a_signed_recovery_is_applied_once(tmp_path: Path, home: Home, chain: Chain, signed: Path) -> None:
    arguments = ("recovery", "apply", signed, "--home", home.path, UNDERSTOOD)
    applied = run_json(*arguments)
    assert (applied["height"], applied["applied_before"], applied["validators"]) == (3, False, ["v1"])
    again = run_json(*arguments)
    assert (again["block_hash"], again["applied_before"]) == (applied["block_hash"], True)
    store = Store.open(home.data, chain_id=chain.genesis.chain_id, node_key_id=node_key(1).public_key.key_id)
    try:
        blocks = BlockStore(store)
        stored = blocks.load()
        assert (blocks.committed_height, blocks.last_height) == (3, 3)
        assert stored.hard_state == HardState(1 + TERMS_AHEAD, None)
        assert stored.commit_certificate is not None
        assert stored.commit_certificate.height == 2
        assert [each.name for each in StateView(blocks).configuration().voters] == ["v1"]
    finally:
        store.close()
    assert run_json("node", "verify-store", "--home", home.path, code=4)["findings"][0]["what"] == (
        "ledger.audit.not_certified"
    )


def test_two_survivors_make_one_block(tmp_path: Path, home: Home, chain: Chain, signed: Path) -> None:
    other = make_home(tmp_path / "v2", chain)
    hashes = {
        run_json("recovery", "apply", signed, "--home", each.path, UNDERSTOOD)["block_hash"] for each in (home, other)
    }
    assert len(hashes) == 1


def test_nothing_is_done_without_saying_so(tmp_path: Path, home: Home, keys: Path, signed: Path) -> None:
    assert run("recovery", "apply", signed, "--home", home.path).code == 2
    assert run("recovery", "sign", signed, "--genesis", home.genesis, "--key", keys / "gil@gamma").code == 2
    assert run("recovery", "propose", "--home", home.path, "--reason", "x", "--out", tmp_path / "n").code == 2


def test_too_few_signatures_are_refused(tmp_path: Path, home: Home, keys: Path) -> None:
    file = tmp_path / "r.json"
    propose(home, file)
    for name in (None, "gil@gamma"):
        if name is not None:
            sign(home, file, keys, name)
        assert refused("recovery", "apply", file, "--home", home.path, UNDERSTOOD) == "ledger.recovery.too_few"


def test_who_may_not_sign_does_not(tmp_path: Path, home: Home, keys: Path) -> None:
    file = tmp_path / "r.json"
    propose(home, file)
    before = file.read_bytes()
    arguments = ("recovery", "sign", file, "--genesis", home.genesis, UNDERSTOOD, "--key")
    assert refused(*arguments, keys / "dora@acme") == "node.recovery.not_a_signer"
    assert file.read_bytes() == before


def test_a_signer_sees_that_the_file_is_of_another_network(tmp_path: Path, signed: Path) -> None:
    other = tmp_path / "other.json"
    other.write_bytes(make_genesis(chain_id="other-net").document)
    assert refused("recovery", "show", signed, "--genesis", other) == "ledger.proof.wrong_chain"
    twin = tmp_path / "twin.json"
    twin.write_bytes(make_genesis(validators=3).document)
    assert refused("recovery", "show", signed, "--genesis", twin) == "ledger.proof.configuration"


def test_what_was_changed_in_the_file_is_refused(tmp_path: Path, home: Home, signed: Path) -> None:
    document = json.loads(signed.read_bytes())
    whole = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    assert RecoveryFile.decode_untrusted(whole).encode() == whole == signed.read_bytes()
    for changes in (
        {"version": 2},
        {"chain_id": "other-net"},
        {"recovery": "AAAA"},
        {"configuration": document["recovery"]},
        {"candidates": {}},
        {"candidates": ["?"]},
        {"more": 1},
    ):
        changed = json.dumps({**document, **changes}, separators=(",", ":"), sort_keys=True)
        (tmp_path / "changed").write_text(changed)
        code = refused("recovery", "show", tmp_path / "changed", "--genesis", home.genesis)
        assert code == "node.recovery.malformed", changes
    (tmp_path / "changed").write_bytes(b"\xff")
    assert refused("recovery", "show", tmp_path / "changed", "--genesis", home.genesis) == "node.recovery.malformed"


def test_a_node_that_knows_more_is_the_one_to_recover_from(
    tmp_path: Path, chain: Chain, home: Home, signed: Path
) -> None:
    chain.register("carl@gamma", "developer")
    ahead = make_home(tmp_path / "ahead", chain)
    arguments = ("recovery", "apply", signed, "--home")
    assert refused(*arguments, ahead.path, UNDERSTOOD) == "node.recovery.ahead"
    shorter = Chain(genesis=chain.genesis)
    shorter.apply(chain.blocks[1])
    behind = make_home(tmp_path / "behind", shorter)
    assert refused(*arguments, behind.path, UNDERSTOOD) == "node.recovery.behind"
    fork = Chain(genesis=chain.genesis)
    fork.register("zoe@acme", "developer")
    fork.register("zac@acme", "developer")
    other = make_home(tmp_path / "other", fork)
    assert refused(*arguments, other.path, UNDERSTOOD) == "node.recovery.other_block"


def test_blocks_that_were_not_certified_are_dropped_and_kept_as_files(
    tmp_path: Path, home: Home, chain: Chain, keys: Path
) -> None:
    add_to_log(home, chain, term=7)
    file = tmp_path / "r.json"
    document = propose(home, file)
    assert (document["kept_height"], document["log_height"], document["term"]) == (2, 4, 7 + TERMS_AHEAD)
    sign(home, file, keys, "ada@acme")
    sign(home, file, keys, "gil@gamma")
    applied = run_json("recovery", "apply", file, "--home", home.path, UNDERSTOOD)
    assert (applied["blocks_dropped"], applied["transactions_dropped"]) == (2, 2)
    kept = sorted(each.read_bytes() for each in (home.path / "recovery").iterdir())
    assert kept == sorted(block.raw for block in chain.blocks[3:])


def test_blocks_of_a_later_term_are_not_dropped(home: Home, chain: Chain, signed: Path) -> None:
    chain.term = 1 + TERMS_AHEAD
    add_to_log(home, chain, term=chain.term)
    assert refused("recovery", "apply", signed, "--home", home.path, UNDERSTOOD) == "node.recovery.term"


def test_a_vote_that_was_given_meanwhile_stays(home: Home, chain: Chain, signed: Path) -> None:
    """A survivor that was started too early may have voted for another one that has the recovery already."""
    add_to_log(home, chain, term=2 + TERMS_AHEAD, count=0)
    run_json("recovery", "apply", signed, "--home", home.path, UNDERSTOOD)
    store = Store.open(home.data, chain_id=chain.genesis.chain_id, node_key_id=node_key(1).public_key.key_id)
    try:
        assert BlockStore(store).load().hard_state == HardState(2 + TERMS_AHEAD, node_key(1).public_key.key_id)
    finally:
        store.close()


def test_an_unknown_survivor_is_named(tmp_path: Path, home: Home) -> None:
    arguments = ("recovery", "propose", "--home", home.path, "--reason", "x", "--out", tmp_path / "r", "--survivor")
    assert refused(*arguments, "v9") == "node.recovery.unknown_survivor"
    assert run(*arguments, "v1", "--survivor", "v2", "--survivor", "v3", "--survivor", "v4").code == 1


def test_a_restored_home_may_be_the_one_that_is_left(tmp_path: Path, home: Home, keys: Path) -> None:
    run_json("node", "backup", "--home", home.path, "--out", tmp_path / "b")
    run_json("node", "restore", tmp_path / "b", "--home", tmp_path / "n1", "--genesis", home.genesis, "--jobs", 1)
    fresh = Home(tmp_path / "n1")
    file = tmp_path / "r.json"
    document = propose(fresh, file, "--newcomer", "n1", "acme", "/ip4/127.0.0.1/tcp/7001")
    assert (document["validators"], document["lost"]) == (["n1"], ["v1", "v2", "v3", "v4"])
    sign(fresh, file, keys, "ada@acme")
    sign(fresh, file, keys, "ben@beta")
    assert run_json("recovery", "apply", file, "--home", fresh.path, UNDERSTOOD)["height"] == 3


def test_a_recovered_chain_is_backed_up_restored_and_audited(
    tmp_path: Path, chain: Chain, home: Home, signed: Path
) -> None:
    run_json("recovery", "apply", signed, "--home", home.path, UNDERSTOOD)
    recover(chain, RecoveryFile.decode_untrusted(signed.read_bytes()).recovery)
    chain.register("carl@gamma", "developer")
    block = chain.blocks[-1]
    store = Store.open(home.data, chain_id=chain.genesis.chain_id, node_key_id=node_key(1).public_key.key_id)
    try:
        blocks = BlockStore(store)
        blocks.commit([execute_block(blocks, block, now_ms=block.header.time_ms)], chain.certificate(block))
    finally:
        store.close()
    assert run_json("node", "verify-store", "--home", home.path)["findings"] == []
    run_json("node", "backup", "--home", home.path, "--out", tmp_path / "b")
    arguments = ("node", "restore", tmp_path / "b", "--home", tmp_path / "v5", "--jobs", 1, "--genesis", home.genesis)
    assert run_json(*arguments)["height"] == 4
    for place in (home.path, tmp_path / "v5"):
        document = run_json("audit", "replay", "--home", place, "--genesis", home.genesis, "--jobs", 1)
        assert document["valid"]
        assert [each["height"] for each in document["recoveries"]] == [3]
    answer = run("audit", "replay", "--home", home.path, "--jobs", 1)
    assert "RECOVERED at height 3" in answer.out
    export = tmp_path / "tx.jsonl"
    run_json("audit", "export", "--format", "jsonl", "--archive", tmp_path / "b" / "chain.archive", "--out", export)
    row = json.loads(export.read_text().splitlines()[2])
    assert row["kind"] == "network.recover"
    assert "RECOVERED" in row["summary"]


def test_a_damaged_store_is_made_anew_across_a_recovery(chain: Chain, home: Home, signed: Path) -> None:
    run_json("recovery", "apply", signed, "--home", home.path, UNDERSTOOD)
    damage.damage_row(home.data, Table.STATE, b"v")
    store = Store.open(home.data, chain_id=chain.genesis.chain_id, node_key_id=node_key(1).public_key.key_id)
    try:
        assert Rebuild(store, chain.genesis, votes=True, fetch=lambda _height: ()).run() == 3
        assert [each.name for each in StateView(BlockStore(store)).configuration().voters] == ["v1"]
    finally:
        store.close()
