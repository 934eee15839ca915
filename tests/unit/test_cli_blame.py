"""`patchwarden audit blame`: forks name the guilty, anything else names nobody, and what it writes is verified offline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ledger.blame import Blame, BlameKind
from ledger.block import build_raw_block
from ledger.bodies import EvidenceSubmit
from ledger.genesis import Genesis, genesis_block
from ledger.keyspace import Table, height_key
from node.cli.audit_blame import run_blame
from node.cli.audit_trace import summary_of
from node.cli.command import Session
from node.cli.output import Output
from node.config import Home
from node.storage.block_store import BlockStore
from node.storage.leveldb import Store
from tests.testkit import damage
from tests.testkit.cli import refused, run, run_json
from tests.testkit.forks import Branch, id_of
from tests.testkit.ledger import Chain, make_genesis, node_key
from wire.certificate import decode_commit_certificate_untrusted


@pytest.fixture(scope="module")
def common() -> Chain:
    chain = Chain()
    for _ in range(3):
        chain.commit()
    return chain


@pytest.fixture
def genesis(tmp_path: Path, common: Chain) -> Path:
    path = tmp_path / "genesis.json"
    path.write_bytes(common.genesis.document)
    return path


def archive(path: Path, branch: Branch) -> Path:
    path.write_bytes(branch.archive())
    return path


@pytest.fixture
def ours(tmp_path: Path, common: Chain) -> Path:
    branch = Branch.of(common)
    branch.add([1, 2, 3])
    return archive(tmp_path / "ours.archive", branch)


@pytest.fixture
def theirs(tmp_path: Path, common: Chain) -> Path:
    """v1 proposes another block 4; v2 and v3 signed the first one too."""
    branch = Branch.of(common)
    branch.add([1, 2, 4], late_ms=1)
    return archive(tmp_path / "theirs.archive", branch)


def test_a_fork_names_the_guilty_and_leaves_with_code_1(
    ours: Path, theirs: Path, genesis: Path, tmp_path: Path
) -> None:
    proofs = tmp_path / "proofs"
    document = run_json("audit", "blame", ours, theirs, "--genesis", genesis, "--out", proofs, code=1)
    assert document["conflict"] is True
    assert document["guilty"] == sorted([id_of(1).hex(), id_of(2).hex()])
    (comparison,) = document["comparisons"]
    assert comparison["histories"] == [str(ours), str(theirs)]
    assert (comparison["fork_height"], comparison["certified_heights"]) == (3, [4, 4])
    assert [each["kind"] for each in document["blames"]] == [
        "double_proposal",
        "double_acknowledgement",
        "double_acknowledgement",
    ]
    assert document["blames"][0]["name"] == "v1"
    assert document["findings"] == 4
    for each in document["blames"]:
        proof = json.loads(Path(each["file"]).read_text())
        assert proof == each["proof"]
        verified = run_json("audit", "verify-blame", each["file"], "--genesis", genesis)
        assert (verified["valid"], verified["name"], verified["kind"]) == (True, each["name"], each["kind"])
    text = run("audit", "blame", ours, theirs, "--genesis", genesis)
    assert text.code == 1
    assert "they part after block 3" in text.out
    assert "a CONFLICT" in text.out
    assert f"GUILTY: v1 of acme ({id_of(1).hex()})" in text.out
    assert "offence" in run("audit", "verify-blame", document["blames"][0]["file"], "--genesis", genesis).out


def test_histories_that_do_not_contradict_each_other_leave_with_code_0(
    ours: Path, genesis: Path, common: Chain, tmp_path: Path
) -> None:
    shorter = archive(tmp_path / "shorter.archive", Branch.of(common))
    document = run_json("audit", "blame", ours, shorter, "--genesis", genesis)
    assert (document["conflict"], document["findings"], document["blames"]) == (False, 0, [])
    text = run("audit", "blame", ours, shorter, "--genesis", genesis)
    assert text.code == 0
    assert "neither parts from the other" in text.out
    assert "no history contradicts another" in text.out


def test_what_was_never_certified_is_no_finding(ours: Path, genesis: Path, common: Chain, tmp_path: Path) -> None:
    branch = Branch.of(common)
    branch.add([], term=2, leader=4, voters=[2, 3, 4])
    text = run("audit", "blame", archive(tmp_path / "loose.archive", branch), ours, "--genesis", genesis)
    assert text.code == 1, "two of the voters had acknowledged ours"
    branch = Branch.of(common)
    branch.add([2, 3, 4], term=2, leader=4, voters=[2, 3, 4])
    loose = Branch.of(common)
    loose.add([])
    certified = archive(tmp_path / "certified.archive", branch)
    document = run_json("audit", "blame", archive(tmp_path / "l.archive", loose), certified, "--genesis", genesis)
    assert document["comparisons"][0]["fork"] is True
    assert document["findings"] == 0


def test_three_histories_are_compared_pair_by_pair(
    ours: Path, theirs: Path, genesis: Path, common: Chain, tmp_path: Path
) -> None:
    third = Branch.of(common)
    third.add([2, 3, 4], term=2, leader=4, voters=[2, 3, 4])
    path = archive(tmp_path / "third.archive", third)
    document = run_json("audit", "blame", ours, theirs, path, "--genesis", genesis, code=1)
    assert len(document["comparisons"]) == 3
    assert {each["kind"] for each in document["blames"]} == {
        "double_proposal",
        "double_acknowledgement",
        "acknowledged_then_voted",
    }
    assert set(document["guilty"]) == {id_of(n).hex() for n in (1, 2, 3, 4)}


def test_what_does_not_hold_is_told(ours: Path, genesis: Path, common: Chain, tmp_path: Path) -> None:
    branch = Branch.of(common)
    good = branch.add([], late_ms=1)
    branch.blocks[-1] = build_raw_block(good.header, (), bytes(64), None)
    document = run_json("audit", "blame", ours, archive(tmp_path / "bad.archive", branch), "--genesis", genesis, code=1)
    assert (document["conflict"], document["blames"]) == (False, [])
    (problem,) = document["comparisons"][0]["problems"]
    assert problem["code"] == "ledger.block.bad_proposer_signature"
    text = run("audit", "blame", ours, tmp_path / "bad.archive", "--genesis", genesis).out
    assert "[ledger.block.bad_proposer_signature]" in text


def test_refusals(ours: Path, theirs: Path, genesis: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_bytes(make_genesis(chain_id="other-net").document)
    assert refused("audit", "blame", ours, theirs, "--genesis", other) == "cli.audit.other_genesis"
    assert refused("audit", "blame", ours, tmp_path / "none", "--genesis", genesis) == "cli.file.unreadable"
    assert run("audit", "blame", ours, "--genesis", genesis).code == 2
    junk = tmp_path / "junk.json"
    junk.write_text("{}")
    assert refused("audit", "verify-blame", junk, "--genesis", genesis) == "ledger.blame.malformed"


# Homes


def make_home(path: Path, branch: Branch, genesis: Genesis) -> Path:
    """Return the home of a stopped node that has the branch."""
    home = Home(path)
    path.mkdir()
    home.genesis.write_bytes(genesis.document)
    home.node_key.write_bytes(node_key(1).to_pem(None))
    home.node_key.chmod(0o600)
    store = Store.open(home.data, chain_id=genesis.chain_id, node_key_id=id_of(1))
    try:
        block, writes = genesis_block(genesis)
        blocks = BlockStore.bootstrap(store, block.block_hash, writes)
        replay = Chain(genesis=genesis)
        for each in branch.blocks[1:]:
            raw = branch.certificates.get(each.header.height)
            certificate = None if raw is None else decode_commit_certificate_untrusted(raw)
            blocks.commit([replay.apply(each)], certificate)
    finally:
        store.close()
    return path


def test_homes_of_stopped_nodes_are_histories_too(ours: Path, genesis: Path, common: Chain, tmp_path: Path) -> None:
    branch = Branch.of(common)
    branch.add([2, 3, 4], term=2, leader=4, voters=[2, 3, 4])
    home = make_home(tmp_path / "v1", branch, common.genesis)
    document = run_json("audit", "blame", home, ours, "--genesis", genesis, code=1)
    assert document["guilty"] == sorted([id_of(2).hex(), id_of(3).hex()])
    # A block that cannot be read hides nothing that comes before it, and is told.
    damage.compact(home / "data")

    damage.damage_row(home / "data", Table.BLOCK, height_key(2))
    answer = run("audit", "blame", home, ours, "--genesis", genesis)
    assert "block 2 cannot be read" in answer.err
    assert answer.code == 0


def test_a_pruned_home_begins_with_a_certified_header(ours: Path, genesis: Path, common: Chain, tmp_path: Path) -> None:
    branch = Branch.of(common)
    branch.add([2, 3, 4], term=2, leader=4, voters=[2, 3, 4])
    home = make_home(tmp_path / "v1", branch, common.genesis)
    store = Store.open(Home(home).data, chain_id=common.genesis.chain_id, node_key_id=id_of(1))
    try:
        block, writes = genesis_block(common.genesis)
        blocks = BlockStore.bootstrap(store, block.block_hash, writes)
        blocks.raise_first_height(3)
        while blocks.prune_step(10):
            pass
        assert blocks.store.get(Table.BLOCK, height_key(2)) is None
    finally:
        store.close()
    document = run_json("audit", "blame", home, ours, "--genesis", genesis, code=1)
    assert document["comparisons"][0]["fork_height"] == 3
    assert document["guilty"] == sorted([id_of(2).hex(), id_of(3).hex()])


def test_a_session_that_asks_nobody_is_enough(ours: Path, theirs: Path, common: Chain) -> None:
    document = run_blame(Session(Output(as_json=True)), [str(ours), str(theirs)], common.genesis)
    assert document["conflict"] is True


def test_submitted_evidence_has_a_line_in_a_story() -> None:
    blame = Blame(BlameKind.DOUBLE_VOTE, "test-net", id_of(1), ())
    body = EvidenceSubmit(json.dumps(blame.to_json(), sort_keys=True, separators=(",", ":")).encode())
    assert summary_of(body) == f"evidence of double_vote submitted against {id_of(1).hex()[:12]}"
    assert summary_of(EvidenceSubmit(b"junk")) == "evidence submitted (wire.json.syntax)"
