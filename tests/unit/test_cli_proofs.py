"""`patchwarden proof`, `checkpoint` and `receipt` without a network: a node's own proving methods behind the real commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from ledger import actions, bodies
from ledger.configuration_history import build_configuration_proof
from ledger.cose_receipt import build_cose_receipts, sign_log_root
from ledger.keyspace import MemoryStore
from ledger.proofs import build_receipt
from ledger.transaction import decode_transaction_untrusted
from node.local.protocol import encode_blob
from node.proof_services import ProofServices
from tests.testkit import patches
from tests.testkit.cli import refused, run, run_json
from tests.testkit.ledger import Chain, make_genesis
from wire.errors import RejectedError, UnavailableError


class ProvingNode:
    """What the commands see of a node: its proving methods, over a chain in memory."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        store = SimpleNamespace(snapshot=self._snapshot)
        services = ProofServices(SimpleNamespace(replica=SimpleNamespace(store=store)))  # type: ignore[arg-type]
        self.methods = services.methods()

    @contextmanager
    def _snapshot(self) -> Iterator[MemoryStore]:
        yield self.chain.store

    def call(self, method: str, **params: Any) -> Any:
        if method == "genesis.get":
            return {"genesis": encode_blob(self.chain.genesis.document)}
        if method == "policy.get":
            return {"version": self.chain.view.policy_version().version}
        return trio.run(self.methods[method], params)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain()
    chain.register_patch_people()
    data = patches.approve(patches.make_patch())
    patch_id = chain.publish(data)
    chain.submit(bodies.PatchWithdraw(patch_id, "broken"), "alice@acme")
    chain.add_learner(5)
    chain.adopt(actions.ReplaceValidator("v2", "v5"))
    chain.settle()
    chain.submit(bodies.IdentitySuspend("bob@beta", "on leave"), "ben@beta")
    return chain


@pytest.fixture(autouse=True)
def node(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> ProvingNode:
    node = ProvingNode(chain)
    monkeypatch.setattr("node.cli.client.open_client", lambda session: node)
    return node


@pytest.fixture
def genesis(tmp_path: Path, chain: Chain) -> Path:
    path = tmp_path / "genesis.json"
    path.write_bytes(chain.genesis.document)
    return path


def patch_id(chain: Chain) -> str:
    return next(iter(chain.view.patches())).patch_id.hex()


def get_checkpoint(path: Path, *more: object) -> Path:
    run_json("checkpoint", "get", "--out", path, *more)
    return path


# -- state proofs ------------------------------------------------------------------------------------------------------


def test_identity_patch_and_policy_are_proven_and_verified_offline(tmp_path: Path, chain: Chain, genesis: Path) -> None:
    for words, record in (
        (("identity", "show", "bob@beta"), {"status": "suspended"}),
        (("patch", "status", patch_id(chain)), {"withdrawn_reason": "broken"}),
        (("policy", "show"), {"version": 0}),
    ):
        file = tmp_path / f"{words[0]}.proof"
        shown = run_json(*words, "--proof", file)
        verified = run_json("proof", "verify", file, "--genesis", genesis)
        assert verified == shown
        assert (verified["valid"], verified["present"], verified["height"]) == (True, True, chain.height)
        assert verified["record"].items() >= record.items()
    assert verified["in_force"] is True
    text = run("proof", "verify", tmp_path / "identity.proof", "--genesis", genesis).out
    assert "because of:" in text
    assert "the founding document" in text
    assert "suspended" in text


def test_absence_is_proven_and_no_failure(tmp_path: Path, genesis: Path) -> None:
    file = tmp_path / "nobody.proof"
    run_json("proof", "get", "identity", "nobody@acme", "--out", file)
    verified = run_json("proof", "verify", file, "--genesis", genesis)
    assert (verified["present"], verified["record"]) == (False, None)
    assert "absence is proven" in run("identity", "show", "nobody@acme", "--proof", file).out


def test_a_proof_that_does_not_hold_is_refused(
    tmp_path: Path, genesis: Path, node: ProvingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_genesis = tmp_path / "other.json"
    other_genesis.write_bytes(make_genesis(validators=1).document)
    file = tmp_path / "bob.proof"
    run_json("proof", "get", "identity", "bob@beta", "--out", file)
    assert refused("proof", "verify", file, "--genesis", other_genesis).startswith("ledger.proof.")
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "value": None}))
    assert refused("proof", "verify", file, "--genesis", genesis) == "ledger.proof.state"
    file.write_text("x")
    assert refused("proof", "verify", file, "--genesis", genesis) == "cli.file.not_json"
    monkeypatch.setitem(node.methods, "proofs.state", lambda params: _later({**document, "value": None}))
    kept = tmp_path / "kept.proof"
    assert refused("identity", "show", "bob@beta", "--proof", kept) == "ledger.proof.state"
    assert not kept.exists(), "a proof that does not hold is not written"


async def _later(value: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return value


def test_what_is_trusted_must_be_named(tmp_path: Path, genesis: Path) -> None:
    file = tmp_path / "bob.proof"
    run_json("proof", "get", "identity", "bob@beta", "--out", file)
    assert refused("proof", "verify", file, code=2) == "cli.usage"
    checkpoint = get_checkpoint(tmp_path / "c")
    assert refused("proof", "verify", file, "--genesis", genesis, "--checkpoint", checkpoint, code=2) == "cli.usage"
    assert refused("identity", "show", "bob@beta", "--proof", file, "--height", "3", code=2) == "cli.usage"


def test_a_proof_is_shown_without_a_file() -> None:
    assert run_json("proof", "get", "policy", "current")["subject"] == "policy"
    assert run_json("proof", "consistency", "--from", "1", "--to", "5")["size_after"] == 5
    assert refused("proof", "get", "policy", "newest") == "ledger.proof.subject"
    assert refused("proof", "consistency", "--from", "1", "--to", "5000") == "ledger.proof.log_size"


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_replaces_the_founding_document(tmp_path: Path, chain: Chain, genesis: Path) -> None:
    checkpoint = get_checkpoint(tmp_path / "early.checkpoint", "--height", "5")
    shown = run_json("checkpoint", "show", checkpoint)
    assert (shown["height"], len(shown["signers"]), shown["validator_changes"]) == (5, 3, 0)
    assert run_json("checkpoint", "verify", checkpoint, "--genesis", genesis)["valid"] is True
    file = tmp_path / "bob.proof"
    run_json("proof", "get", "identity", "bob@beta", "--out", file)
    assert run_json("proof", "verify", file, "--checkpoint", checkpoint)["record"]["status"] == "suspended"
    tx_id = decode_transaction_untrusted(chain.blocks[-1].transactions[0]).tx_id.hex()
    receipt = tmp_path / "receipt.json"
    run_json("receipt", "get", tx_id, "--out", receipt)
    answer = run("receipt", "verify", receipt, "--checkpoint", checkpoint)
    assert answer.code == 0
    assert "the checkpoint at height 5" in answer.out


def test_an_old_receipt_is_got_anew_for_a_new_checkpoint(tmp_path: Path, chain: Chain) -> None:
    """The validators of the receipt's header are not those of the checkpoint any more."""
    checkpoint = get_checkpoint(tmp_path / "new.checkpoint")
    tx_id = decode_transaction_untrusted(chain.blocks[1].transactions[0]).tx_id.hex()
    receipt = tmp_path / "receipt.json"
    run_json("receipt", "get", tx_id, "--out", receipt)
    assert refused("receipt", "verify", receipt, "--checkpoint", checkpoint) == "ledger.proof.configuration"
    run_json("receipt", "get", tx_id, "--height", chain.height, "--out", receipt)
    assert run_json("receipt", "verify", receipt, "--checkpoint", checkpoint)["height"] == chain.height
    assert refused("receipt", "get", tx_id, "--height", "9999", code=3) == "ledger.receipt.not_certified"
    assert refused("receipt", "get", "00" * 32) == "node.transaction.not_found"


def test_two_checkpoints_are_joined_by_a_consistency_proof(tmp_path: Path, genesis: Path) -> None:
    early, late = get_checkpoint(tmp_path / "a", "--height", "5"), get_checkpoint(tmp_path / "b")
    sizes = [str(run_json("checkpoint", "show", each)["log_size"]) for each in (early, late)]
    grew = tmp_path / "grew.json"
    run_json("proof", "consistency", "--from", sizes[0], "--to", sizes[1], "--out", grew)
    for how in (("--consistency", grew), ("--rpc", "http://127.0.0.1:9")):
        assert run_json("checkpoint", "verify", late, "--checkpoint", early, *how)["consistent"] is True
    assert run_json("checkpoint", "verify", late, "--checkpoint", early)["consistent"] is None
    assert refused("checkpoint", "verify", early, "--checkpoint", late) == "ledger.proof.configuration"
    document = json.loads(grew.read_text())
    grew.write_text(json.dumps({**document, "hashes": [*document["hashes"][:-1], "00" * 32]}))
    assert refused("checkpoint", "verify", late, "--checkpoint", early, "--consistency", grew) == "wire.merkle.root"
    assert refused("checkpoint", "verify", late, "--genesis", genesis, "--consistency", grew, code=2) == "cli.usage"
    assert run_json("checkpoint", "verify", late, "--genesis", genesis)["consistent"] is None


def test_a_checkpoint_that_was_changed_is_refused(tmp_path: Path, genesis: Path) -> None:
    checkpoint = get_checkpoint(tmp_path / "c")
    text = checkpoint.read_text()
    checkpoint.write_text(text.replace("height ", "height 1"))
    for command in (("show", checkpoint), ("verify", checkpoint, "--genesis", genesis)):
        assert refused("checkpoint", *command) == "ledger.checkpoint.malformed"
    assert run_json("checkpoint", "get")["text"] == text
    assert refused("checkpoint", "get", "--height", "0", code=2) == "cli.usage"
    assert run("checkpoint", "get").out == text


def test_without_a_certified_header_there_is_no_checkpoint(node: ProvingNode) -> None:
    """Height 0 never has one; a whole chain without one may get it in a moment."""
    with pytest.raises(RejectedError) as refused_first:
        node.call("checkpoint.get", height=0)
    assert refused_first.value.code == "node.checkpoint.not_found"
    node.chain = Chain()
    with pytest.raises(UnavailableError) as unavailable:
        node.call("checkpoint.get")
    assert unavailable.value.code == "ledger.checkpoint.none"


# -- COSE receipts -----------------------------------------------------------------------------------------------------


def cose_set(chain: Chain, height: int) -> bytes:
    """Return the COSE receipts of a block's first transaction, signed by every validator of its time."""
    tx_id = decode_transaction_untrusted(chain.blocks[height].transactions[0]).tx_id
    receipt = build_receipt(chain.store, tx_id)
    configuration = build_configuration_proof(chain.store, receipt.header.height).configuration
    signatures = {
        key.public_key.key_id: sign_log_root(key, chain.genesis.chain_id, receipt.header.log_root)
        for key in chain.node_keys
        if key.public_key.key_id in configuration.members
    }
    return build_cose_receipts(receipt, configuration, signatures).encode()


def test_cose_receipts_are_told_from_json_and_verified_offline(tmp_path: Path, chain: Chain, genesis: Path) -> None:
    early, late = tmp_path / "early.cbor", tmp_path / "late.cbor"
    early.write_bytes(cose_set(chain, 3))
    late.write_bytes(cose_set(chain, chain.height))
    for file in (early, late):
        verified = run_json("receipt", "verify", file, "--genesis", genesis)
        assert (verified["valid"], verified["format"], verified["height"]) == (True, "cose", None)
    assert "3 validators, a majority" in run("receipt", "verify", early, "--genesis", genesis).out
    now = get_checkpoint(tmp_path / "now.checkpoint")
    assert run_json("receipt", "verify", late, "--checkpoint", now)["valid"] is True
    assert refused("receipt", "verify", early, "--checkpoint", now) == "ledger.receipt.stranger"
    early.write_bytes(early.read_bytes()[:-1])
    assert refused("receipt", "verify", early, "--genesis", genesis) == "ledger.receipt.malformed"


def test_a_cose_receipt_is_got_into_a_file_only(tmp_path: Path, chain: Chain, node: ProvingNode) -> None:
    data = cose_set(chain, 4)
    node.methods["receipt.cose"] = lambda params: _later({"file": encode_blob(data)})
    file = tmp_path / "r.cbor"
    run_json("receipt", "get", "00" * 32, "--format", "cose", "--out", file)
    assert file.read_bytes() == data
    assert refused("receipt", "get", "00" * 32, "--format", "cose", code=2) == "cli.usage"
    node.methods["receipt.cose"] = lambda params: _later({"file": encode_blob(data[:-1])})
    assert refused("receipt", "get", "00" * 32, "--format", "cose", "--out", file) == "ledger.receipt.malformed"
