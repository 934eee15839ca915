"""What governance promises, on real nodes: a validator's key rotates under load, and what has expired bricks nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ledger import bodies
from ledger.actions import Action, SetThreshold
from ledger.configuration import Validator
from ledger.organisation_actions import AddCaCertificate, RemoveCaCertificate
from ledger.proofs import Receipt, verify_receipt
from ledger.validator_actions import AddLearner, ReplaceValidator
from tests.live.test_cluster import Submissions
from tests.live.test_membership import decide, members, wait_settled
from tests.testkit.certificates import make_chain
from tests.testkit.cli import run_json
from tests.testkit.cluster import Cluster, NodeProcess, free_port, running_cluster
from tests.testkit.ledger import key_of, node_key
from wire.hashing import sha256

pytestmark = [pytest.mark.live, pytest.mark.slow]

CERTIFICATE_S = (15, 60)
"""How long the certificates of this network are valid; a machine on which three transactions take longer than that gets a second try."""
LOAD_BEFORE = 5
"""Transactions under load before a key is rotated, and after it."""


def submit(
    cluster: Cluster, body: bodies.Body, by: str, *, to: NodeProcess, timeout_ms: int = 20_000
) -> dict[str, Any]:
    """Submit one transaction, and return the answer whatever it is: its result, or the problem."""
    encoded = base64.b64encode(cluster.sign(body, by).raw).decode()
    answer: dict[str, Any] = cluster.client.post(
        f"{to.rpc}/v1/transactions", json={"transactions": [encoded], "wait": "committed", "timeout_ms": timeout_ms}
    ).json()
    result: dict[str, Any] = answer.get("results", [answer])[0]
    return result


def register_with_certificate(cluster: Cluster, identity: str, chain: tuple[bytes, ...], role: str) -> dict[str, Any]:
    body = bodies.IdentityRegister(identity, identity, (role,), key_of(identity).public_key.spki, chain)
    return submit(cluster, body, "ada@acme", to=cluster.leader())


def vote_through(cluster: Cluster, action: Action, *voters: str) -> str:
    """Propose and vote at whoever leads; return the proposal's id when it is executed."""
    node = cluster.leader()
    proposal = cluster.sign(bodies.ProposalCreate(action, "live"), voters[0])
    cluster.submit([proposal], to=node)
    for voter in voters:
        cluster.submit([cluster.sign(bodies.ProposalVote(proposal.tx_id, True), voter)], to=node)
    told = run_json("governance", "show", proposal.tx_id.hex(), "--rpc", node.rpc)
    assert told["status"] == "executed"
    return proposal.tx_id.hex()


@dataclass(frozen=True)
class Certificates:
    """Acme's only CA and one who registered under it as an administrator: both end while the network runs."""

    authority: bytes
    begin: datetime
    end: datetime

    def issue(self, identity: str, end: datetime | None = None) -> tuple[bytes, bytes]:
        """Return leaf and CA certificate for the key of `identity`, under this authority or another with a later end."""
        return make_chain(key_of(identity), identity, not_before=self.begin, not_after=end or self.end)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("governed")) as cluster:
        cluster.register("web1@acme", "host")
        yield cluster


@pytest.fixture(scope="module")
def certificates(cluster: Cluster) -> Certificates:
    for seconds in CERTIFICATE_S:
        now = datetime.now(UTC).replace(microsecond=0)
        begin, end = now - timedelta(days=1), now + timedelta(seconds=seconds)
        leaf, authority = make_chain(key_of("xena@acme"), "Xena", not_before=begin, not_after=end)
        vote_through(cluster, AddCaCertificate("acme", authority), "ada@acme", "ben@beta")
        answer = register_with_certificate(cluster, "xena@acme", (leaf, authority), "administrator")
        if answer.get("code") != "wire.x509.expired":
            break
    assert answer["status"] == "committed", answer
    return Certificates(authority, begin, end)


def founding_validator(cluster: Cluster, node: NodeProcess) -> Validator:
    return next(each for each in cluster.genesis.validators.validators if each.name == node.name)


def wait_height(cluster: Cluster, node: NodeProcess, height: int) -> None:
    cluster.wait_for(lambda: node.status(cluster.client)["height"] >= height, f"height {height}", node)


def receipt_of(cluster: Cluster, tx_id: str) -> Receipt:
    node = cluster.leader()
    found: list[Receipt] = []

    def certified() -> bool:
        response = cluster.client.get(f"{node.rpc}/v1/transactions/{tx_id}/receipt")
        if response.status_code == 200:
            found.append(Receipt.from_json_untrusted(response.json()))
        return bool(found)

    cluster.wait_for(certified, "the receipt is there", node)
    return found[0]


def test_the_leader_s_key_is_rotated_under_load(cluster: Cluster, certificates: Certificates, tmp_path: Path) -> None:
    # Made here already, so that its certificates end while this test runs.
    assert certificates.end > certificates.begin
    leader = cluster.leader()
    others = [node for node in cluster.validators if node is not leader]
    load = Submissions(cluster, [*others, leader])
    load.start()
    cluster.wait_for(lambda: len(load.acknowledged) >= LOAD_BEFORE, "the load has begun", leader)

    # The successor has another key, which is its libp2p identity too, and its own home: one key, one store, one incarnation.
    port, key = free_port(), node_key(12)
    address = f"/ip4/127.0.0.1/tcp/{port}"
    successor = cluster.add_validator(f"{leader.name}-2027", key, address)
    old = founding_validator(cluster, leader)
    organisation = old.organisation
    decide(cluster, AddLearner(Validator(successor.name, organisation, key.public_key.spki, address)), leader)
    cluster.start([successor])
    wait_height(cluster, successor, leader.status(cluster.client)["height"])
    decide(cluster, ReplaceValidator(leader.name, successor.name), leader)
    voters = {successor.name, *(node.name for node in others)}
    for node in (*others, successor):
        wait_settled(cluster, node, voters)
    cluster.wait_for(lambda: leader.status(cluster.client)["removed"], "who had the old key has left", leader)
    assert leader.stop() == 0
    cluster.validators = [*others, successor]
    cluster.extra.append(leader)
    rotated_at = len(load.acknowledged)
    cluster.wait_for(
        lambda: len(load.acknowledged) >= rotated_at + LOAD_BEFORE, "the load goes on", cluster.leader(), timeout_s=90
    )
    load.ended.set()
    load.join(60)
    assert not load.given_up

    # The old key is spent: nobody takes it back, under whatever name.
    again = replace(old, name="v9", address="/ip4/127.0.0.1/tcp/9")
    refused = submit(cluster, bodies.ProposalCreate(AddLearner(again), ""), "ada@acme", to=cluster.leader())
    assert refused["code"] == "ledger.proposal.validator_key_retired"

    # Receipts of before and after hold with the founding document alone, and so does everything.
    for tx_id, _ in (load.acknowledged[0], load.acknowledged[-1]):
        assert verify_receipt(receipt_of(cluster, tx_id), cluster.genesis).tx_id.hex() == tx_id
    archive, genesis = tmp_path / "chain.archive", tmp_path / "genesis.json"
    genesis.write_bytes(cluster.genesis.document)
    run_json("audit", "export", "--format", "archive", "--out", archive, "--rpc", others[0].rpc)
    replayed = run_json("audit", "replay", "--archive", archive, "--genesis", genesis)
    assert (replayed["valid"], replayed["findings"]) == (True, [])
    assert replayed["transactions"] >= len(load.acknowledged)

    # Whoever is asked tells the same about it: each node, and the archive.
    derived = run_json("governance", "history", "--archive", archive, "--genesis", genesis)
    assert derived["findings"] == []
    assert [each["action"][0] for each in derived["proposals"]][-2:] == ["add-learner", "replace-validator"]
    for node in cluster.validators:
        wait_height(cluster, node, derived["height"])
        assert run_json("governance", "history", "--rpc", node.rpc)["proposals"] == derived["proposals"]
    last = derived["proposals"][-1]
    assert [(step["what"], step["identity"]) for step in last["steps"]] == [
        ("proposed", "ada@acme"), ("for", "ada@acme"), ("for", "ben@beta"),
    ]  # fmt: skip
    assert last["ended"]["tx_id"] == last["steps"][-1]["tx_id"]


def test_with_every_certificate_expired_the_network_elects_commits_and_rotates_its_ca(
    cluster: Cluster, certificates: Certificates
) -> None:
    # The ledger's own time passes the end; an idle network makes a block now and then.
    node, end = cluster.validators[0], certificates.end
    cluster.wait_for(
        lambda: node.status(cluster.client)["time_ms"] > end.timestamp() * 1000 + 1000,
        "everything has expired",
        node,
        timeout_s=120,
    )
    late = run_json("governance", "certificates", "--expiring", "30", "--rpc", node.rpc, code=1)
    assert {(each["kind"], each["days_left"]) for each in late} == {("authority", -1), ("identity", -1)}
    assert run_json("governance", "status", "--rpc", node.rpc)["certificates"]["expiring"] >= 2

    # It elects …
    leader = cluster.leader()
    leader.kill()
    left = [each for each in cluster.validators if each is not leader]
    cluster.leader(left)
    cluster.validators = [*left, leader]
    # … commits, refuses what the certificates were for, and lets who was registered under them vote for a successor.
    refused = register_with_certificate(cluster, "yves@acme", certificates.issue("yves@acme"), "developer")
    assert refused["code"] == "wire.x509.expired", refused
    fresh_leaf, fresh = certificates.issue("yves@acme", end + timedelta(days=365))
    vote_through(cluster, AddCaCertificate("acme", fresh), "xena@acme", "ben@beta")
    vote_through(cluster, RemoveCaCertificate("acme", sha256(certificates.authority)), "xena@acme", "ben@beta")
    answer = register_with_certificate(cluster, "yves@acme", (fresh_leaf, fresh), "developer")
    assert answer["status"] == "committed", answer
    # Who was down meanwhile comes back to the same state.
    cluster.start([leader])
    cluster.wait_equal(cluster.validators)


def test_the_only_validator_is_not_replaced_by_a_key_that_nobody_has(tmp_path: Path) -> None:
    """The ledger cannot know whether somebody has a key; the leader does not begin a change that those who are up cannot finish."""
    with running_cluster(tmp_path / "one", validators=1) as cluster:
        (only,) = cluster.validators
        address = f"/ip4/127.0.0.1/tcp/{free_port()}"
        nobody = Validator("v2", "beta", key_of("lost").public_key.spki, address)
        vote_through(cluster, AddLearner(nobody), "ada@acme", "ben@beta")
        proposal = cluster.sign(bodies.ProposalCreate(ReplaceValidator("v1", "v2"), ""), "ada@acme")
        cluster.submit([proposal])
        cluster.submit([cluster.sign(bodies.ProposalVote(proposal.tx_id, True), "ada@acme")])
        waits = submit(cluster, bodies.ProposalVote(proposal.tx_id, True), "ben@beta", to=only, timeout_ms=1000)
        assert waits["code"] == "consensus.configuration_unready", waits
        # Everything else goes on: transactions, votes on other proposals, and the way back.
        vote_through(cluster, SetThreshold("two-thirds"), "ada@acme", "ben@beta")
        cluster.register("web1@acme", "host")
        assert members(cluster, only) == {"v1": "voter", "v2": "learner"}
        cluster.submit([cluster.sign(bodies.ProposalWithdraw(proposal.tx_id), "ada@acme")])
        told = run_json("governance", "show", proposal.tx_id.hex(), "--rpc", only.rpc)
        assert told["status"] == "withdrawn"
        assert cluster.leader() is only
