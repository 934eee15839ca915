"""`patchwarden governance`: every action is proposed and shown; the history is the same from a node, a home and an archive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate

from ledger import actions, bodies
from ledger.actions import Action, Administrator
from ledger.bodies import ProposalCreate
from ledger.governance_story import find_story, story_place
from ledger.keyspace import Table, height_key
from ledger.transaction import decode_transaction_untrusted
from node.cli import client as client_module
from node.cli.command import Session
from node.cli.governance import propose
from node.cli.governance_show import PAGE
from node.governance_documents import governance_document, story_document
from tests.testkit import damage
from tests.testkit.certificates import make_chain
from tests.testkit.cli import run, run_json
from tests.testkit.ledger import Chain, key_of, make_genesis
from tests.testkit.node import raw_blocks, stopped_home, write_archive
from wire.hashing import sha256

CA = make_chain(key_of("x@acme"))[1]
NEW = key_of("eve@beta").public_key


@pytest.fixture(scope="module")
def chain() -> Chain:
    """A chain in which something of everything was decided: executed, rejected, withdrawn and open proposals, and a stolen vote."""
    chain = Chain(make_genesis(validators=1))
    chain.register("eve@acme", "administrator")
    chain.adopt(actions.AddCaCertificate("beta", CA))
    chain.adopt(actions.SetPolicy("", (("deny", "forbid (principal, action, resource);"),)))
    chain.adopt(actions.RenameOrganisation("gamma", "Gamma & Sons"))
    lost = chain.submit(ProposalCreate(actions.SetThreshold("unanimous"), ""), "gil@gamma").tx_id
    for voter in ("ada@acme", "ben@beta"):
        chain.submit(bodies.ProposalVote(lost, False), voter)
    back = chain.submit(ProposalCreate(actions.SuspendOrganisation("gamma", "?"), ""), "ada@acme").tx_id
    chain.submit(bodies.ProposalWithdraw(back), "ada@acme")
    left = chain.submit(ProposalCreate(actions.SetLimits(4096, 65536, 100), "less"), "ben@beta").tx_id
    chain.submit(bodies.ProposalVote(left, True), "ada@acme")
    chain.submit(bodies.IdentityRevoke("ada@acme", None, chain.height - 1, "stolen"), "eve@acme")
    return chain


class ChainNode:
    """A node that answers from a chain in memory, with the documents of a real one."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.pages = 0

    def call(self, method: str, **params: Any) -> Any:
        view = self.chain.view
        match method:
            case "status":
                return {"chain_id": view.chain_id, "height": view.height}
            case "governance.status":
                late = {"expiring": 2, "days_left": 12}
                return {**governance_document(view), "certificates": late}
            case "governance.get":
                record = view.proposal(bytes.fromhex(params["proposal_id"]))
                assert record is not None
                return story_document(find_story(view, record))
            case "governance.history":
                self.pages += 1
                after = (params.get("from", 0), bytes.fromhex(params.get("after", "")))
                found = sorted((each for each in view.proposals() if story_place(each) > after), key=story_place)
                return [story_document(find_story(view, each)) for each in found[: params["limit"]]]
            case "governance.certificates":
                return [] if params["within_days"] == 0 else CERTIFICATES
        raise AssertionError(method)

    def stream(self, method: str, **params: Any) -> Iterator[Any]:
        raise AssertionError(f"{method} {params}")

    def close(self) -> None:
        """Nothing to end."""


CERTIFICATES = [
    {
        "kind": "authority", "organisation": "acme", "identity": None, "key_id": None, "subject": "CN=Acme CA",
        "sha256": "00" * 32, "not_after_ms": 1_893_456_000_000, "days_left": 12,
    },
    {
        "kind": "identity", "organisation": "acme", "identity": "x@acme", "key_id": "11" * 32, "subject": "CN=X",
        "sha256": "22" * 32, "not_after_ms": 1_893_456_000_000, "days_left": 12,
    },
]  # fmt: skip


@pytest.fixture
def node(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> ChainNode:
    answering = ChainNode(chain)

    def open_fake(session: Session) -> ChainNode:
        del session
        return answering

    monkeypatch.setattr(client_module, "open_client", open_fake)
    return answering


# -- proposing ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    run_json("key", "generate", "--out", tmp_path / "admin.key", "--no-passphrase")
    (tmp_path / "ca.pem").write_bytes(load_der_x509_certificate(CA).public_bytes(Encoding.PEM))
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "deny.cedar").write_text("forbid (principal, action, resource);\n")
    (tmp_path / "policies" / "policy.cedarschema").write_text("")
    return tmp_path


PROPOSED: dict[str, tuple[tuple[object, ...], Action]] = {
    "set-threshold": (("two-thirds",), actions.SetThreshold("two-thirds")),
    "set-limits": (
        ("--transaction-bytes", 4096, "--block-bytes", 65536, "--block-transactions", 9),
        actions.SetLimits(4096, 65536, 9),
    ),
    "revoke-key": (
        ("33" * 32, "--last-valid-height", 8, "--reason", "stolen"),
        actions.RevokeKey(b"3" * 32, 8, "stolen"),
    ),
    "decide-rollout": (
        ("spring@acme", "halt", "--reason", "bad"),
        actions.DecideRollout("spring@acme", "halt", "bad"),
    ),
    "withdraw-patch": (("33" * 32, "--reason", "bad"), actions.WithdrawPatch(b"3" * 32, "bad")),
    "add-organisation": (
        ("delta", "Delta SA", "--administrator", "d@delta", "Dora", NEW.did, "--ca", "ca.pem"),
        actions.AddOrganisation("delta", "Delta SA", (Administrator("d@delta", "Dora", NEW.spki),), (CA,)),
    ),
    "rename-organisation": (("beta", "Beta & Daughters"), actions.RenameOrganisation("beta", "Beta & Daughters")),
    "suspend-organisation": (("beta", "--reason", "why"), actions.SuspendOrganisation("beta", "why")),
    "resume-organisation": (("beta",), actions.ResumeOrganisation("beta")),
    "remove-organisation": (("beta", "--reason", "left"), actions.RemoveOrganisation("beta", "left")),
    "add-administrator": (
        ("eve@beta", "Eve", NEW.did),
        actions.AddAdministrator("beta", Administrator("eve@beta", "Eve", NEW.spki)),
    ),
    "add-ca": (("acme", "ca.pem"), actions.AddCaCertificate("acme", CA)),
    "remove-ca": (("acme", "ca.pem"), actions.RemoveCaCertificate("acme", sha256(CA))),
}
"""Command to its arguments, and what it must propose. Those about validators stand in test_cli_membership.py."""


def test_every_proposing_command_is_tested() -> None:
    elsewhere = {"set-policy", "add-learner", "promote-learner", "remove-validator", "replace-validator"}
    assert set(propose.list_commands(None)) == {*PROPOSED, *elsewhere}  # type: ignore[arg-type]


@pytest.mark.parametrize("command", PROPOSED)
def test_what_is_said_is_proposed(node: ChainNode, files: Path, command: str) -> None:
    del node
    arguments, action = PROPOSED[command]
    given = [
        files / each if each == "ca.pem" else str(each).replace("33" * 32, (b"3" * 32).hex()) for each in arguments
    ]
    out = files / "transaction"
    run_json(
        "governance", "propose", command, *given, "--description", "because",
        "--key", files / "admin.key", "--write-transaction", out,
    )  # fmt: skip
    assert decode_transaction_untrusted(out.read_bytes()).body == ProposalCreate(action, "because")


# -- showing -----------------------------------------------------------------------------------------------------------


def shown(chain: Chain, name: str) -> str:
    """Return what `governance show` says about the chain's last proposal of this action."""
    found = [each for each in chain.view.proposals() if each.action[0] == name]
    return run("governance", "show", max(found, key=story_place).proposal_id.hex()).out


def test_a_proposal_shows_each_vote_with_its_key_and_what_decided(node: ChainNode, chain: Chain) -> None:
    out = shown(node.chain, "add-ca-certificate")
    key = key_of("ben@beta").public_key.key_id.hex()[:12]
    assert f"ben@beta of beta, key {key}" in out
    assert "status:      executed" in out
    assert f"{len(CA)} bytes, sha256 {sha256(CA).hex()}" in out
    assert out.splitlines()[-1].split()[0] == str(chain.view.proposal(story(chain, "add-ca-certificate")).closed_height)  # type: ignore[union-attr]
    out = shown(chain, "set-limits")
    assert "votes:       0 for, 0 against; 2 of 3 organisations decide" in out
    assert "does not count: the key was revoked from before" in out


def story(chain: Chain, name: str) -> bytes:
    return next(each.proposal_id for each in chain.view.proposals() if each.action[0] == name)


def test_status_says_who_can_decide(node: ChainNode) -> None:
    out = run("governance", "status").out
    assert "threshold:      majority: 2 of 3 votes" in out
    assert "able to vote:   3, 1 more than needed" in out
    assert "2 END SOON or have ended, the first in 12 days" in out
    assert ["gamma", "Gamma", "&", "Sons", "active", "yes", "gil@gamma", "1", "0"] in [
        line.split() for line in out.splitlines()
    ]
    document = run_json("governance", "status")
    assert document["open_proposals"] == [story(node.chain, "set-limits").hex()]


def test_certificates_are_listed_and_late_ones_end_with_1(node: ChainNode) -> None:
    del node
    assert run("governance", "certificates").code == 0
    late = run("governance", "certificates", "--expiring", "30")
    assert late.code == 1
    assert "x@acme" in late.out
    assert run("governance", "certificates", "--expiring", "0").code == 0


# -- history -----------------------------------------------------------------------------------------------------------


def test_a_node_a_home_and_an_archive_tell_the_same(node: ChainNode, chain: Chain, tmp_path: Path) -> None:
    live = run_json("governance", "history", "--rpc", "http://127.0.0.1:1")
    assert (live["source_kind"], live["replayed"], live["height"]) == ("node", False, chain.height)
    assert [each["status"] for each in live["proposals"]] == ["executed"] * 3 + ["rejected", "withdrawn", "open"]
    stolen = live["proposals"][-1]["steps"][1]
    assert (stolen["identity"], stolen["key_counted"]) == ("ada@acme", False)
    home = stopped_home(tmp_path / "v1", chain)
    archive = write_archive(tmp_path / "chain.archive", chain)
    genesis = tmp_path / "genesis.json"
    genesis.write_bytes(chain.genesis.document)
    for arguments, kind in (
        (("--home", home.path), "home"),
        (("--archive", archive), "archive"),
        (("--archive", archive, "--genesis", genesis), "archive"),
    ):
        derived = run_json("governance", "history", *arguments)
        assert (derived["source_kind"], derived["replayed"], derived["findings"]) == (kind, True, [])
        assert derived["proposals"] == live["proposals"]
        assert (derived["chain_id"], derived["height"]) == (live["chain_id"], live["height"])
    told = run("governance", "history", "--archive", archive).out
    assert "6 proposals up to height" in told
    assert "derived from the founding document; the chain holds" in told
    assert told.replace("derived from the founding document; the chain holds", "") == run(
        "governance", "history", "--rpc", "http://127.0.0.1:1"
    ).out.replace("as the node tells it; --replay derives it from its blocks", "")


def test_a_node_is_asked_page_by_page(monkeypatch: pytest.MonkeyPatch, node: ChainNode) -> None:
    monkeypatch.setattr("node.cli.governance_show.PAGE", 2)
    assert PAGE > 2
    told = run_json("governance", "history", "--rpc", "http://127.0.0.1:1")
    assert len(told["proposals"]) == 6
    assert node.pages == 4


def test_a_chain_that_does_not_hold_is_said_and_ends_with_1(chain: Chain, tmp_path: Path) -> None:
    """Whoever took a vote out of a block cannot make the rest fit."""
    blocks = raw_blocks(chain)
    at = chain.height - 2
    forged = chain.forge(chain.blocks[at], transactions=())
    blocks[at - 1] = (forged.raw, None)
    archive = write_archive(tmp_path / "forged.archive", chain, blocks)
    told = run("governance", "history", "--archive", archive)
    assert told.code == 1
    assert "THE CHAIN DOES NOT HOLD" in told.out
    home = stopped_home(tmp_path / "v1", chain)
    damage.damage_row(home.data, Table.BLOCK, height_key(at))
    assert run_json("governance", "history", "--home", home.path, code=1)["findings"]


def test_sources_exclude_each_other(node: ChainNode, tmp_path: Path) -> None:
    del node
    archive = tmp_path / "a"
    assert run("governance", "history", "--archive", archive, "--rpc", "http://127.0.0.1:1").code == 2
    assert run("governance", "history", "--genesis", archive, "--rpc", "http://127.0.0.1:1").code == 2
