"""The ledger's formats stay what they are: a small chain, made from fixed keys, has these hashes for ever.

A change here is a change of the protocol: every node and every archive out there would disagree. Make a new version instead.
"""

from __future__ import annotations

from ledger import bodies
from ledger.actions import ReplaceValidator, SetPolicy
from ledger.blame import find_guilty
from ledger.configuration_history import build_configuration_proof
from ledger.state_tree import hash_key, hash_value
from ledger.transaction import Transaction
from tests.testkit import patches
from tests.testkit.forks import Branch
from tests.testkit.ledger import Chain, make_genesis
from wire import canonical_json
from wire.codec import encode
from wire.hashing import sha256

GENESIS_HASH = "1a0b8ac7a17dc1618566a4641fd6f1f1270c6b568b87992fc44202d4b196ba96"
GENESIS_BLOCK = "b04c57b3b765760ecb38ceeb719783e3dc14de9b5bec6808c32adaec1303883f"
GENESIS_STATE = "004a16177878e7f08a4815f0f2423e43efec9401f84212b827e0e4bf7773da3d"
VALIDATORS = "099898d70e97f1ba74b4843b200a2b98c0167d725443b409e409c8425d1dbe1d"
REPORT_TX = "cadbd2d404a3bfa3dd9bdb57734b8e9cf407891580126a0bbcd59e9d94f894c8"
LAST_BLOCK = "1aea5d1e0a730f80736e4841b5d06ffe43bc368f309104c232bdbd233e323f93"
LAST_STATE = "80ae2a65197fc063c4fa09edfd28b4c6f356f70b7b4ff374dd29695293ba9baa"
WITH_LEARNER = "0618481d55862ff69edbfeb531695b4c82d827a3e59c537be48465ee6676232e"
JOINT = "01666cec75b9aa49a2e8ebe073b2d4632c1db1c809d22d8c687aa7e5a239535f"
SETTLED = "f5faac7b25842fdbeeb34476f8ac35796817b449a55e62ef2d84a0f4c50ea0a5"
PROOF = "fe5ab3b85105cbe3a4498925f5800d5eda43914cb1fdc1db052c8b2707600eae"
SETTLED_BLOCK = "86910f2c89466c19bb51f2a66d8ea9d320581f13c2eb53490b9e74628b7e5278"
BLAME = "0a4070a1999a02949d17a58836341423938f7549808738480f891c2008f2ff71"
LAST_LOG = "45955202b4c3f80a3d3822219719da663c10ed591650da588075081da0694864"


def make_chain() -> tuple[Chain, Transaction]:
    chain = Chain()
    chain.register_patch_people()
    data = patches.approve(patches.add_test_result(patches.make_patch()))
    patch_id = chain.publish(data)
    chain.attest(data, "ci@acme", 1)
    chain.attest(data, "bob@beta", 2)
    opened = chain.submit(bodies.DeploymentIntent(1, bytes(32), "site", patch_id, bytes(32), b"{}"), "web1@acme").tx_id
    outcome = bodies.DeploymentOutcome(2, opened, "site", patch_id, opened, "SUCCESS", bytes(32), b"\x01" * 32, b"{}")
    chain.submit(outcome, "web1@acme")
    chain.elect(2)
    proposal = chain.submit(bodies.ProposalCreate(SetPolicy("", ()), "none"), "ada@acme").tx_id
    for voter in ("ada@acme", "ben@beta"):
        chain.submit(bodies.ProposalVote(proposal, True), voter)
    report = chain.submit(bodies.HostReport("drift", "site", b"{}"), "web1@acme")
    return chain, report


def test_a_founding_document_has_these_hashes() -> None:
    genesis = make_genesis()
    header = Chain(genesis).blocks[0].header
    assert genesis.genesis_hash.hex() == GENESIS_HASH
    assert header.hash().hex() == GENESIS_BLOCK
    assert header.state_root.hex() == GENESIS_STATE
    assert header.validators_hash.hex() == VALIDATORS


def test_a_small_chain_has_these_hashes() -> None:
    chain, report = make_chain()
    header = chain.blocks[-1].header
    assert report.tx_id.hex() == REPORT_TX
    assert header.log_root.hex() == LAST_LOG
    assert header.state_root.hex() == LAST_STATE
    assert header.hash().hex() == LAST_BLOCK


def test_a_place_in_the_state_tree_is_this() -> None:
    assert hash_key(b"iada@acme").hex() == "088ca94557b3093e4afde97470683c5a940d844fae4834ef0296b860a3845b05"
    assert hash_value(b"").hex() == "8baf208fefef0169b316f58ca7a47c994759818e48493900dc024c23bc14123f"


def test_a_change_of_the_validators_has_these_hashes() -> None:
    chain = Chain(make_genesis(validators=3))
    chain.add_learner(4)
    assert chain.view.configuration().hash.hex() == WITH_LEARNER
    chain.adopt(ReplaceValidator("v1", "v4"))
    assert chain.view.configuration().hash.hex() == JOINT
    chain.settle()
    assert chain.view.configuration().hash.hex() == SETTLED
    proof = build_configuration_proof(chain.store, chain.height)
    assert sha256(encode(proof.to_value())).hex() == PROOF
    assert chain.blocks[-1].header.hash().hex() == SETTLED_BLOCK


def test_a_proof_against_a_validator_is_these_bytes() -> None:
    common = Chain()
    common.commit()
    ours, theirs = Branch.of(common), Branch.of(common)
    ours.add([1, 2, 3])
    theirs.add([2, 3, 4], term=2, leader=4, voters=[2, 3, 4])
    blame, _ = find_guilty(ours.history(), theirs.history(), common.genesis).blames
    assert sha256(canonical_json.encode(blame.to_json())).hex() == BLAME
