"""`patchwarden light` over several nodes without a network: honest ones, ones that are behind, and ones that lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger import actions
from ledger.checkpoint import SplitView, build_checkpoint, verify_split_view
from ledger.cose_receipt import build_cose_receipts, sign_log_root
from ledger.errors import HistoryPrunedError
from ledger.proofs import build_receipt
from ledger.transaction import decode_transaction_untrusted
from ledger.trust import TrustedHead
from node.cli.errors import NodeUnreachableError
from tests.testkit.cli import refused, run, run_json
from tests.testkit.ledger import Chain, make_genesis
from tests.unit.test_cli_proofs import ProvingNode
from tests.unit.test_ledger_light import note, rival

GOOD, LATE, BAD = "http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"


class LyingNode(ProvingNode):
    """A node whose answers are replaced: by a value, what a function makes of the true one, or an error."""

    def __init__(self, chain: Chain, **lies: Any) -> None:
        super().__init__(chain)
        self.lies = {name.replace("_", "."): lie for name, lie in lies.items()}

    def call(self, method: str, **params: Any) -> Any:
        if method not in self.lies:
            return super().call(method, **params)
        lie = self.lies[method]
        if isinstance(lie, Exception):
            raise lie
        return lie(super().call(method, **params)) if callable(lie) else lie


@pytest.fixture(scope="module")
def chain() -> Chain:
    chain = Chain()
    chain.register("web1@acme", "host")
    for _ in range(8):
        note(chain)
    return chain


@pytest.fixture(scope="module")
def early(chain: Chain) -> Chain:
    return rival(chain, 5, 0)


@pytest.fixture
def nodes(chain: Chain, early: Chain, monkeypatch: pytest.MonkeyPatch) -> dict[str, ProvingNode]:
    nodes = {GOOD: ProvingNode(chain), LATE: ProvingNode(early), BAD: ProvingNode(chain)}
    monkeypatch.setattr("node.cli.light_nodes.open_node", nodes.__getitem__)
    return nodes


@pytest.fixture
def genesis(tmp_path: Path, chain: Chain) -> Path:
    path = tmp_path / "genesis.json"
    path.write_bytes(chain.genesis.document)
    return path


@pytest.fixture
def state(tmp_path: Path, nodes: dict[str, ProvingNode], genesis: Path) -> Path:
    """A client that saw height 5."""
    path = tmp_path / "demo.light"
    assert run_json("light", "sync", "--state", path, "--genesis", genesis, "--rpc", LATE)["height"] == 5
    return path


def outcomes(document: Any) -> dict[str, tuple[str, str | None]]:
    return {each["url"]: (each["outcome"], each["code"]) for each in document["nodes"]}


def test_the_first_run_names_what_is_trusted_and_the_next_ones_need_not(
    state: Path, chain: Chain, genesis: Path, tmp_path: Path
) -> None:
    assert state.stat().st_mode & 0o777 == 0o600
    synced = run_json("light", "sync", "--state", state, "--rpc", GOOD)
    assert (synced["advanced_from"], synced["height"], synced["trusts"]) == (5, chain.height, "genesis")
    shown = run_json("light", "status", "--state", state)
    assert shown["block_hash"] == chain.blocks[-1].header.hash().hex()
    text = run("light", "status", "--state", state).out
    assert f"height:     {chain.height}, term 1" in text
    assert "the founding document" in text
    missing = tmp_path / "other.light"
    assert refused("light", "sync", "--state", missing, "--rpc", GOOD, code=2) == "cli.usage"
    assert refused("light", "status", "--state", missing) == "cli.file.unreadable"
    both = ("--genesis", genesis, "--checkpoint", genesis)
    assert refused("light", "sync", "--state", missing, *both, "--rpc", GOOD, code=2) == "cli.usage"
    assert refused("light", "sync", "--state", state, code=2) == "cli.usage"


def test_it_begins_with_a_checkpoint_too(tmp_path: Path, chain: Chain, state: Path) -> None:
    checkpoint = tmp_path / "three.checkpoint"
    checkpoint.write_bytes(build_checkpoint(chain.store, 3).to_text())
    other = tmp_path / "other.light"
    synced = run_json("light", "sync", "--state", other, "--checkpoint", checkpoint, "--rpc", GOOD)
    assert (synced["trusts"], synced["start_height"], synced["height"]) == ("checkpoint", 3, chain.height)
    assert "a checkpoint at height 3" in run("light", "status", "--state", other).out
    code = refused("light", "sync", "--state", state, "--checkpoint", checkpoint, "--rpc", GOOD)
    assert code == "cli.light.other_start"


def test_a_node_that_is_behind_is_no_liar_and_takes_nobody_back(state: Path, chain: Chain) -> None:
    run_json("light", "sync", "--state", state, "--rpc", GOOD)
    kept = state.read_bytes()
    synced = run_json("light", "sync", "--state", state, "--rpc", LATE, "--rpc", GOOD)
    assert outcomes(synced) == {LATE: ("behind", None), GOOD: ("agrees", None)}
    assert refused("light", "sync", "--state", state, "--rpc", LATE, code=3) == "cli.light.no_node"
    assert state.read_bytes() == kept


def test_every_older_header_is_behind_however_often_the_validators_changed(
    tmp_path: Path, nodes: dict[str, ProvingNode]
) -> None:
    chain = Chain(make_genesis(validators=3))
    chain.add_learner(4)
    chain.adopt(actions.ReplaceValidator("v1", "v4"))
    chain.settle()
    chain.register("web1@acme", "host")
    nodes[GOOD] = ProvingNode(chain)
    genesis, state = tmp_path / "genesis.json", tmp_path / "changed.light"
    genesis.write_bytes(chain.genesis.document)
    run_json("light", "sync", "--state", state, "--genesis", genesis, "--rpc", GOOD)
    for height in range(1, chain.height):
        nodes[LATE] = LyingNode(chain, checkpoint_get=build_checkpoint(chain.store, height).to_text().decode())
        synced = run_json("light", "sync", "--state", state, "--rpc", LATE, "--rpc", GOOD)
        assert outcomes(synced) == {LATE: ("behind", None), GOOD: ("agrees", None)}


def forged_header(text: str) -> str:
    """Return a checkpoint whose header says another time: all lines fit, the signatures do not."""
    from ledger.checkpoint import checkpoint_from_text_untrusted

    found = checkpoint_from_text_untrusted(text.encode())
    header = replace(found.header, time_ms=found.header.time_ms + 1)
    certificate = replace(found.certificate, block_hash=header.hash())
    return replace(found, header=header, certificate=certificate).to_text().decode()


def cut_certificate(text: str) -> str:
    return "\n".join([*text.split("\n")[:-2], ""])


def shifted(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "hashes": [*document["hashes"][:-1], "00" * 32]}


@pytest.mark.parametrize(
    ("lie", "verdict"),
    [
        (("checkpoint_get", forged_header), ("dropped", "wire.certificate.signature")),
        (("checkpoint_get", cut_certificate), ("dropped", "wire.certificate.too_few")),
        (("checkpoint_get", "hello"), ("dropped", "ledger.checkpoint.malformed")),
        (("checkpoint_get", {"height": 9}), ("dropped", "ledger.checkpoint.malformed")),
        (("proofs_consistency", shifted), ("dropped", "wire.merkle.root")),
        (("proofs_consistency", None), ("dropped", "ledger.proof.malformed")),
        (("checkpoint_get", NodeUnreachableError("cli.rpc.unreachable", "gone")), ("no answer", "cli.rpc.unreachable")),
        (("checkpoint_get", httpx.DecodingError("bad gzip")), ("no answer", "cli.rpc.unreadable")),
    ],
    ids=str,
)
def test_a_lying_node_is_named_and_dropped_and_the_others_are_used(
    state: Path, chain: Chain, nodes: dict[str, ProvingNode], lie: tuple[str, Any], verdict: tuple[str, str]
) -> None:
    (method, answer), (outcome, code) = lie, verdict
    nodes[BAD] = LyingNode(chain, **{method: answer})
    kept = state.read_bytes()
    alone = run("light", "sync", "--state", state, "--rpc", BAD)
    assert (alone.code, state.read_bytes()) == (3, kept)
    assert f"{BAD} {outcome}" in alone.err
    assert f"[{code}]" in alone.err
    synced = run_json("light", "sync", "--state", state, "--rpc", BAD, "--rpc", GOOD)
    assert outcomes(synced) == {BAD: (outcome, code), GOOD: ("agrees", None)}
    assert synced["height"] == chain.height


@pytest.mark.parametrize("helps", [True, False])
def test_a_node_that_has_pruned_its_log_is_helped_by_another(
    state: Path, chain: Chain, nodes: dict[str, ProvingNode], *, helps: bool
) -> None:
    nodes[BAD] = LyingNode(chain, proofs_consistency=HistoryPrunedError("ledger.history.pruned", "not kept"))
    assert refused("light", "sync", "--state", state, "--rpc", BAD, code=3) == "cli.light.no_node"
    helper = LyingNode(chain, checkpoint_get=NodeUnreachableError("cli.rpc.unreachable", "gone"))
    nodes[LATE] = helper
    if not helps:
        helper.lies["proofs.consistency"] = shifted
        words = ("light", "sync", "--state", state, "--rpc", BAD, "--rpc", LATE)
        assert refused(*words, code=3) == "cli.light.no_node"
        return
    synced = run_json("light", "sync", "--state", state, "--rpc", BAD, "--rpc", LATE)
    assert outcomes(synced) == {BAD: ("agrees", None), LATE: ("no answer", "cli.rpc.unreachable")}


@pytest.mark.parametrize(("fork", "blocks"), [(3, 2), (3, 9), (5, 4)])
def test_a_stolen_majority_is_found_by_asking_two_nodes_and_the_evidence_is_kept(
    state: Path, chain: Chain, nodes: dict[str, ProvingNode], fork: int, blocks: int
) -> None:
    nodes[BAD] = ProvingNode(rival(chain, fork, blocks))
    kept = state.read_bytes()
    code = refused("light", "sync", "--state", state, "--rpc", GOOD, "--rpc", BAD)
    assert code == "ledger.light.split_view"
    assert state.read_bytes() == kept
    file = state.with_name("demo.light.split-view.json")
    split = SplitView.from_json_untrusted(json.loads(file.read_bytes()))
    if split.first.height == split.second.height:
        assert verify_split_view(split, TrustedHead.founding(chain.genesis)) == split.first.height
    assert str(file) in run("light", "sync", "--state", state, "--rpc", GOOD, "--rpc", BAD).err


# -- proofs ------------------------------------------------------------------------------------------------------------


def test_receipts_and_proofs_are_verified_from_what_was_seen(
    state: Path, tmp_path: Path, chain: Chain, nodes: dict[str, ProvingNode]
) -> None:
    tx_id = decode_transaction_untrusted(chain.blocks[4].transactions[0]).tx_id
    receipt = build_receipt(chain.store, tx_id)
    file, cose, proof = tmp_path / "r.json", tmp_path / "r.cbor", tmp_path / "p.json"
    file.write_text(json.dumps(receipt.to_json()))
    configuration = chain.view.configuration()
    signatures = {
        key.public_key.key_id: sign_log_root(key, chain.genesis.chain_id, receipt.header.log_root)
        for key in chain.node_keys
    }
    cose.write_bytes(build_cose_receipts(receipt, configuration, signatures).encode())
    for each, form in ((file, "json"), (cose, "cose")):
        verified = run_json("light", "verify", each, "--state", state)
        assert (verified["tx_id"], verified["format"]) == (tx_id.hex(), form)
    assert "receipt:" in run("light", "verify", file, "--state", state).out
    proof.write_text(json.dumps(nodes[GOOD].call("proofs.state", subject="identity", id="web1@acme")))
    assert run_json("light", "verify", proof, "--state", state)["record"]["status"] == "active"
    proof.write_text(json.dumps({**json.loads(proof.read_text()), "value": None}))
    assert refused("light", "verify", proof, "--state", state) == "ledger.proof.state"
    proof.write_text("{")
    assert refused("light", "verify", proof, "--state", state) == "cli.file.not_json"
    file.write_text(json.dumps(build_receipt(rival(chain, 4, 1).store, last_id(rival(chain, 4, 1))).to_json()))
    assert refused("light", "verify", file, "--state", state) == "ledger.light.split_view"
    assert state.with_name("demo.light.split-view.json").exists()


def last_id(chain: Chain) -> bytes:
    return decode_transaction_untrusted(chain.blocks[-1].transactions[0]).tx_id


def test_the_newest_proven_answer_is_shown_with_height_and_age(state: Path, chain: Chain) -> None:
    shown = run_json("light", "show", "identity", "web1@acme", "--state", state, "--rpc", LATE, "--rpc", GOOD)
    assert (shown["present"], shown["height"], shown["record"]["status"]) == (True, chain.height, "active")
    assert outcomes(shown) == {LATE: ("agrees", None), GOOD: ("agrees", None)}
    assert run_json("light", "status", "--state", state)["height"] == chain.height
    absent = run("light", "show", "identity", "nobody@acme", "--state", state, "--rpc", GOOD).out
    assert "absence is proven" in absent
    assert "age:" in absent
    assert run_json("light", "show", "policy", "current", "--state", state, "--rpc", GOOD)["record"]["version"] == 0
    # An old answer is no answer, however well it is certified.
    words = ("light", "show", "identity", "web1@acme", "--state", state, "--rpc", LATE)
    assert refused(*words, code=3) == "cli.light.no_node"
    assert refused("light", "show", "identity", "x", "--state", state, "--rpc", GOOD) == "ledger.proof.subject"


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (lambda proof: {**proof, "value": None}, "ledger.proof.state"),
        (lambda proof: {**proof, "id": "web2@acme"}, "ledger.proof.subject"),
        (lambda proof: [proof], "ledger.proof.malformed"),
    ],
)
def test_a_lie_about_one_thing_is_found(
    state: Path, chain: Chain, nodes: dict[str, ProvingNode], lie: Callable[[Any], Any], code: str
) -> None:
    nodes[BAD] = LyingNode(chain, proofs_state=lie)
    words = ("light", "show", "identity", "web1@acme", "--state", state, "--rpc", BAD)
    assert refused(*words, code=3) == "cli.light.no_node"
    shown = run_json(*words, "--rpc", GOOD)
    assert shown["record"]["status"] == "active"
    assert outcomes(shown) == {BAD: ("dropped", code), GOOD: ("agrees", None)}


def test_a_damaged_state_is_refused(state: Path) -> None:
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    for words in (("status",), ("sync", "--rpc", GOOD)):
        assert refused("light", *words, "--state", state) == "ledger.light.damaged"
