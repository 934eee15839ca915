"""`node verify-store`: every damaged row by table and key, and exit code 4; a sound store is also audited."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.keyspace import Table, height_key, identity_key
from node.config import Home
from node.keystore import save_key
from tests.testkit import damage
from tests.testkit.cli import run, run_json
from tests.testkit.ledger import Chain, node_key
from tests.testkit.node import open_replica


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """The home of a stopped node with three committed blocks."""
    chain = Chain()
    replay = Chain(genesis=chain.genesis)
    for name in ("alice@acme", "bob@beta", "carl@gamma"):
        chain.register(name, "developer")
    home = Home(tmp_path / "v1")
    home.path.mkdir()
    home.genesis.write_bytes(chain.genesis.document)
    save_key(home.node_key, node_key(1))
    with open_replica(home.data, chain.genesis) as replica:
        for block in chain.blocks[1:]:
            replica.store.commit([replay.apply(block)], chain.certificate(block))
    return home


def verify(home: Home, code: int) -> dict[str, object]:
    document: dict[str, object] = run_json("node", "verify-store", "--home", home.path, code=code)
    return document


def test_a_sound_store_is_read_and_its_chain_is_audited(home: Home) -> None:
    document = verify(home, 0)
    assert (document["height"], document["transactions"], document["findings"]) == (3, 3, [])


def test_every_damaged_row_is_listed_by_table_and_key(home: Home) -> None:
    damage.damage_row(home.data, Table.BLOCK, height_key(2))
    damage.damage_row(home.data, Table.STATE, identity_key("alice@acme"))
    damage.remove_row(home.data, Table.HEADER, height_key(1))
    findings = verify(home, 4)["findings"]
    assert isinstance(findings, list)
    assert {(each["table"], each["key"], each["what"]) for each in findings} == {
        ("BLOCK", height_key(2).hex(), "node.storage.checksum"),
        ("STATE", identity_key("alice@acme").hex(), "node.storage.checksum"),
        ("HEADER", height_key(1).hex(), "node.storage.missing_row"),
    }
    answer = run("node", "verify-store", "--home", home.path)
    assert answer.code == 4
    for finding in findings:
        assert finding["message"] in answer.out
    assert "3 findings" in answer.err


def test_a_block_that_does_not_follow_is_found_by_the_audit(home: Home) -> None:
    other = Chain()
    other.register("mallory@acme", "developer")
    from node.storage.leveldb import Store

    with_key = node_key(1).public_key.key_id
    store = Store.open(home.data, chain_id=other.genesis.chain_id, node_key_id=with_key)
    store.write({(Table.BLOCK, height_key(1)): other.blocks[1].raw})
    store.close()
    findings = verify(home, 4)["findings"]
    assert isinstance(findings, list)
    assert findings
    assert all(each["height"] is not None and each["table"] is None for each in findings)


def test_a_store_in_use_is_left_alone(home: Home) -> None:
    from ledger.genesis import decode_genesis_untrusted

    with open_replica(home.data, decode_genesis_untrusted(home.genesis.read_bytes())):
        answer = run("node", "verify-store", "--home", home.path, "-o", "json")
    assert answer.code == 1
    assert answer.error["code"] == "node.storage.in_use"
