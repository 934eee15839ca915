"""Validators change by commands: what is proposed, how it is shown, who is how far, how current an answer is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.actions import Action
from ledger.bodies import ProposalCreate
from ledger.configuration import Validator
from ledger.transaction import decode_transaction_untrusted
from ledger.validator_actions import VALIDATOR_ACTIONS, AddLearner, PromoteLearner, RemoveValidator, ReplaceValidator
from node.cli import client as client_module
from node.cli.command import Session
from node.net.address import peer_id
from tests.testkit.cli import refused, run, run_json
from tests.testkit.ledger import node_key
from wire.errors import RejectedError

ADDRESS = "/ip4/192.0.2.4/tcp/7070"
KEY = node_key(4).public_key
AS_OF = {"consistency": "linearizable", "height": 812, "replica_age_ms": 40}


class FakeNode:
    """A node that answers from a table, and notes what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "status": {
                "chain_id": "releases",
                "height": 812,
                "role": "leader",
                "leader": "v1",
                "last_height": 815,
                "node_key_id": "01" * 32,
            }
        }
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def call(self, method: str, **params: Any) -> Any:
        self.asked.append((method, params))
        answer = self.answers[method]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def stream(self, method: str, **params: Any) -> Iterator[Any]:
        raise AssertionError(f"nobody subscribes to {method} here: {params}")

    def close(self) -> None:
        """Nothing to end."""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    answering = FakeNode()

    def open_fake(session: Session) -> FakeNode:
        del session
        return answering

    monkeypatch.setattr(client_module, "open_client", open_fake)
    return answering


@pytest.fixture
def key(tmp_path: Path) -> Path:
    run_json("key", "generate", "--out", tmp_path / "admin.key", "--no-passphrase")
    return tmp_path / "admin.key"


def proposed(tmp_path: Path, key: Path, *arguments: object) -> ProposalCreate:
    """Return what stands in the transaction that a `governance propose` command signs."""
    out = tmp_path / "transaction"
    run_json("governance", "propose", *arguments, "--key", key, "--write-transaction", out)
    body = decode_transaction_untrusted(out.read_bytes()).body
    out.unlink()
    assert isinstance(body, ProposalCreate)
    return body


# -- proposing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [ADDRESS, f"{ADDRESS}/p2p/{peer_id(KEY.raw)}"])
def test_learner_is_proposed_with_key_and_address(fake: FakeNode, tmp_path: Path, key: Path, address: str) -> None:
    body = proposed(tmp_path, key, "add-learner", "v4@beta", KEY.did, address, "--description", "one more")
    assert body == ProposalCreate(AddLearner(Validator("v4", "beta", KEY.spki, address)), "one more")


def test_learners_key_may_be_a_file(fake: FakeNode, tmp_path: Path, key: Path) -> None:
    node = run_json("key", "generate", "--out", tmp_path / "v4.key", "--no-passphrase")
    action = proposed(tmp_path, key, "add-learner", "v4@beta", node["public_file"], ADDRESS).action
    assert isinstance(action, AddLearner)
    assert action.learner.public_key.did == node["did"]


@pytest.mark.parametrize(
    ("arguments", "action"),
    [
        (("promote-learner", "v4"), PromoteLearner("v4")),
        (("remove-validator", "v2"), RemoveValidator("v2")),
        (("replace-validator", "v2", "v4"), ReplaceValidator("v2", "v4")),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else "",
)
def test_other_changes_name_nodes(
    fake: FakeNode, tmp_path: Path, key: Path, arguments: tuple[str, ...], action: Action
) -> None:
    assert proposed(tmp_path, key, *arguments) == ProposalCreate(action, "")


def test_every_change_of_validators_can_be_proposed() -> None:
    offered = run("governance", "propose", "--help").out
    for action in VALIDATOR_ACTIONS:
        assert action.NAME in offered


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (("add-learner", "v4", KEY.did, ADDRESS), "cli.usage", 2),
        (("add-learner", "@beta", KEY.did, ADDRESS), "cli.usage", 2),
        (("add-learner", "V4@beta", KEY.did, ADDRESS), "cli.usage", 2),
        (("add-learner", "v4@beta@beta", KEY.did, ADDRESS), "cli.usage", 2),
        (("promote-learner", "no name"), "cli.usage", 2),
        (("replace-validator", "v2", "no name"), "cli.usage", 2),
        (("add-learner", "v4@beta", KEY.did, "192.0.2.4:7070"), "node.net.address", 1),
        (("add-learner", "v4@beta", KEY.did, "/ip4/192.0.2.4/tcp/0"), "cli.node.port", 1),
        (
            ("add-learner", "v4@beta", KEY.did, f"{ADDRESS}/p2p/{peer_id(node_key(5).public_key.raw)}"),
            "node.net.peer_id",
            1,
        ),
    ],
)
def test_slips_are_refused_before_anything_is_signed(
    fake: FakeNode, key: Path, arguments: tuple[str, ...], code: str, exit_code: int
) -> None:
    assert refused("governance", "propose", *arguments, "--key", key, code=exit_code) == code
    assert fake.asked == []


def test_node_key_is_ed25519(fake: FakeNode, tmp_path: Path, key: Path) -> None:
    other = run_json("key", "generate", "--out", tmp_path / "p.key", "--no-passphrase", "--algorithm", "p256")
    arguments = ("governance", "propose", "add-learner", "v4@beta", other["did"], ADDRESS, "--key", key)
    assert refused(*arguments) == "cli.node.key"


# -- showing -----------------------------------------------------------------------------------------------------------


def proposal(*action: object) -> dict[str, Any]:
    return {
        "proposal_id": "ab" * 32,
        "proposer": "admin@acme",
        "organisation": "acme",
        "action": list(action),
        "description": "",
        "created_height": 7,
        "expires_height": 100_007,
        "status": "open",
        "votes": [],
        "closed_height": None,
        "steps": [],
        "tally": {"for": 0, "against": 0, "needed": 2, "votes": 3},
        "ended": None,
        "complete": True,
    }


def test_proposals_about_validators_are_readable(fake: FakeNode) -> None:
    fake.answers["governance.get"] = proposal("add-learner", "v4", "beta", KEY.spki.hex(), ADDRESS)
    lines = [line.split() for line in run("governance", "show", "ab" * 32).out.splitlines()]
    for line in (["change:", "add-learner"], ["node:", "v4"], ["organisation:", "beta"], ["node", "key:", KEY.did]):
        assert line in lines
    assert ["address:", ADDRESS] in lines
    fake.answers["governance.get"] = proposal("replace-validator", "v2", "v4")
    lines = [line.split() for line in run("governance", "show", "ab" * 32).out.splitlines()]
    assert ["node:", "v2"] in lines
    assert ["by", "learner:", "v4"] in lines


@pytest.mark.parametrize("action", [("make-coffee", "strong"), ("promote-learner", "v4", "of another version")])
def test_unknown_actions_are_shown_whole(fake: FakeNode, action: tuple[str, ...]) -> None:
    fake.answers["governance.get"] = proposal(*action)
    shown = run("governance", "show", "ab" * 32).out
    for value in action:
        assert f'"{value}"' in shown


def test_what_is_no_key_is_shown_as_it_is(fake: FakeNode) -> None:
    fake.answers["governance.get"] = proposal("add-learner", "v4", "beta", "zz", ADDRESS)
    assert ["node", "key:", "zz"] in [line.split() for line in run("governance", "show", "ab" * 32).out.splitlines()]


def test_list_names_whom_a_change_is_about(fake: FakeNode) -> None:
    fake.answers["governance.list"] = [
        proposal("add-learner", "v4", "beta", KEY.spki.hex(), ADDRESS),
        proposal("promote-learner", "v4"),
        proposal("remove-validator", "v2"),
        proposal("replace-validator", "v2", "v4"),
        proposal("set-threshold", "majority"),
    ]
    out = run("governance", "list").out
    for text in (
        "add-learner v4@beta ",
        "promote-learner v4 ",
        "remove-validator v2 ",
        "replace-validator v2 by v4 ",
        "set-threshold majority ",
    ):
        assert text in out
    assert KEY.spki.hex() not in out


# -- nodes -------------------------------------------------------------------------------------------------------------


def member(number: int, membership: str, match_height: int | None) -> dict[str, Any]:
    return {
        "name": f"v{number}",
        "organisation": "acme",
        "key_id": f"{number:02d}" * 32,
        "did": KEY.did,
        "address": ADDRESS,
        "membership": membership,
        "match_height": match_height,
    }


def test_leader_shows_how_far_everybody_is(fake: FakeNode) -> None:
    fake.answers["validators"] = [member(1, "voter", None), member(2, "voter", 814), member(3, "learner", 90)]
    answer = run("node", "validators")
    rows = [line.split()[:4] for line in answer.out.splitlines()]
    assert rows == [
        ["VALIDATOR", "ORGANISATION", "MEMBERSHIP", "HAS"],
        ["v1", "acme", "voter", "815"],
        ["v2", "acme", "voter", "814"],
        ["v3", "acme", "learner", "90"],
    ]
    assert answer.err == ""
    assert run_json("node", "validators") == fake.answers["validators"]


@pytest.mark.parametrize(("leader", "named"), [("v2", "it is v2"), (None, "not known now")])
def test_other_nodes_name_the_leader(fake: FakeNode, leader: str | None, named: str) -> None:
    fake.answers["validators"] = [member(1, "voter", None), member(2, "voter", None)]
    fake.answers["status"] |= {"role": "follower", "leader": leader}
    answer = run("node", "validators")
    assert [line.split()[3] for line in answer.out.splitlines()] == ["HAS", "-", "-"]
    assert named in answer.err


@pytest.mark.parametrize("to", ["v2", None])
def test_leadership_is_handed_over(fake: FakeNode, to: str | None) -> None:
    fake.answers["node.transfer-leadership"] = {"transferred": True, "took_ms": 12}
    chosen = () if to is None else ("--to", to)
    assert run_json("node", "transfer-leadership", *chosen) == {"transferred": True, "took_ms": 12}
    assert fake.asked == [("node.transfer-leadership", {"to": to})]
    assert "12 ms" in run("node", "transfer-leadership", *chosen).out


def test_only_the_leader_hands_over(fake: FakeNode) -> None:
    fake.answers["node.transfer-leadership"] = RejectedError("node.transfer.not_leader", "this node does not lead")
    assert refused("node", "transfer-leadership") == "node.transfer.not_leader"


# -- how current -------------------------------------------------------------------------------------------------------

IDENTITY = {
    "identity": "alice@acme",
    "display_name": "Alice",
    "organisation": "acme",
    "roles": ["developer"],
    "status": "active",
    "registered_height": 1,
    "changed_height": 1,
    "keys": [],
}
POLICY = {"version": 0, "policy_hash": "ab" * 32, "adopted_height": 0, "policies": []}


@pytest.mark.parametrize(
    ("words", "method", "document"),
    [
        (("identity", "show", "alice@acme"), "identities.get", IDENTITY),
        (("policy", "show"), "policy.get", POLICY),
    ],
    ids=["identity", "policy"],
)
def test_answers_say_how_current_they_are(
    fake: FakeNode, words: tuple[str, ...], method: str, document: dict[str, Any]
) -> None:
    fake.answers[method] = {**document, "as_of": AS_OF}
    assert "height 812, confirmed by the leader (linearizable)" in run(*words, "--consistency", "linearizable").out
    assert fake.asked.pop()[1]["consistency"] == "linearizable"
    fake.answers[method] = {**document, "as_of": {**AS_OF, "consistency": "local", "replica_age_ms": 1500}}
    assert "height 812, a replica 1.5 s old (local)" in run(*words, "--consistency", "local").out
    assert fake.asked.pop()[1]["consistency"] == "local"
    run_json(*words)
    assert fake.asked.pop()[1]["consistency"] is None, "the node decides what its default is"
    fake.answers[method] = document
    assert "as of" not in run(*words).out
    assert refused(*words, "--consistency", "perhaps", code=2) == "cli.usage"
