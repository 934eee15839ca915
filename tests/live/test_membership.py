"""A network grows and shrinks under load by votes of its organisations: nothing acknowledged is lost, and who left says so."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from ledger import bodies
from ledger.actions import Action
from ledger.configuration import Validator
from ledger.validator_actions import AddLearner, PromoteLearner, RemoveValidator, ReplaceValidator
from node.local.client import LocalClient
from tests.live.test_cluster import Submissions
from tests.testkit.cluster import Cluster, NodeProcess, free_port, running_cluster
from tests.testkit.ledger import node_key
from wire.errors import RejectedError, UnavailableError

pytestmark = [pytest.mark.live, pytest.mark.slow]

LARGEST = 5


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("grow"), validators=1) as cluster:
        cluster.register("web1@acme", "host")
        yield cluster


def decide(cluster: Cluster, action: Action, to: NodeProcess) -> None:
    """Propose an action and vote for it by a majority of the organisations; returns when it is executed."""
    proposal = cluster.sign(bodies.ProposalCreate(action, "grow or shrink"), "ada@acme")
    (result,) = cluster.submit([proposal], to=to)
    assert result["status"] == "committed", result
    for voter in ("ada@acme", "ben@beta"):
        for _ in range(100):
            try:
                (result,) = cluster.submit([cluster.sign(bodies.ProposalVote(proposal.tx_id, True), voter)], to=to)
            except AssertionError as refusal:
                # Another change is still under way: the interface asks to vote again when it is finished.
                if "configuration_busy" not in str(refusal):
                    raise
                time.sleep(0.05)
                continue
            assert result["status"] == "committed", result
            break


def members(cluster: Cluster, node: NodeProcess) -> dict[str, str]:
    answer = cluster.client.get(f"{node.rpc}/v1/validators").json()
    return {member["name"]: member["membership"] for member in answer}


def wait_settled(cluster: Cluster, node: NodeProcess, voters: set[str]) -> None:
    def settled() -> bool:
        now = members(cluster, node)
        return {name for name, kind in now.items() if kind == "voter"} == voters and not {
            "incoming",
            "outgoing",
        } & set(now.values())

    cluster.wait_for(settled, f"the voters are {sorted(voters)}", node)


def add_validator(cluster: Cluster, index: int) -> NodeProcess:
    port = free_port()
    key = node_key(index)
    address = f"/ip4/127.0.0.1/tcp/{port}"
    node = cluster.add_validator(f"v{index}", key, address)
    first = cluster.validators[0]
    decide(cluster, AddLearner(Validator(f"v{index}", "beta", key.public_key.spki, address)), first)
    cluster.start([node])
    assert node.status(cluster.client)["role"] in ("learner", "follower")
    height = first.status(cluster.client)["height"]
    cluster.wait_for(lambda: node.status(cluster.client)["height"] >= height, "the learner caught up", node)
    decide(cluster, PromoteLearner(f"v{index}"), first)
    return node


def test_network_grows_and_shrinks_under_load(cluster: Cluster) -> None:
    load = Submissions(cluster, cluster.validators[:1])
    load.start()
    voters = {"v1"}
    for index in range(2, LARGEST + 1):
        cluster.validators.append(add_validator(cluster, index))
        voters.add(f"v{index}")
        for node in cluster.validators:
            wait_settled(cluster, node, voters)
    assert cluster.leader() in cluster.validators

    for index in range(LARGEST, 1, -1):
        decide(cluster, RemoveValidator(f"v{index}"), cluster.validators[0])
        voters.discard(f"v{index}")
        left = cluster.validators.pop()
        wait_settled(cluster, cluster.validators[0], voters)
        cluster.wait_for(lambda node=left: node.status(cluster.client)["removed"], "who left says so", left)  # type: ignore[misc]
        assert left.stop() == 0
    load.ended.set()
    load.join(60)

    assert not load.given_up
    for tx_id, _ in load.acknowledged:
        response = cluster.client.get(f"{cluster.validators[0].rpc}/v1/transactions/{tx_id}")
        assert response.json()["status"] == "committed"
    assert len(load.acknowledged) > 20


def test_leader_can_be_replaced_and_removed(cluster: Cluster) -> None:
    second = add_validator(cluster, 2)
    cluster.validators.append(second)
    wait_settled(cluster, cluster.validators[0], {"v1", "v2"})
    leader = cluster.leader()
    other = next(node for node in cluster.validators if node is not leader)
    decide(cluster, RemoveValidator(leader.name), leader)
    wait_settled(cluster, other, {other.name})
    assert cluster.leader([other]) is other
    (result,) = cluster.submit([cluster.sign(bodies.HostReport("inventory", "app", b"after"), "web1@acme")], to=other)
    assert result["status"] == "committed"

    port = free_port()
    address = f"/ip4/127.0.0.1/tcp/{port}"
    third = cluster.add_validator("v3", node_key(3), address)
    decide(cluster, AddLearner(Validator("v3", "gamma", node_key(3).public_key.spki, address)), other)
    third.home.joinpath("config.toml").write_text(
        third.home.joinpath("config.toml").read_text() + f'peers = ["{other.status(cluster.client)["multiaddr"]}"]\n'
    )
    cluster.start([third])
    height = other.status(cluster.client)["height"]
    cluster.wait_for(lambda: third.status(cluster.client)["height"] >= height, "the learner caught up", third)
    decide(cluster, ReplaceValidator(other.name, "v3"), other)
    wait_settled(cluster, third, {"v3"})
    assert cluster.leader([third]) is third


def leads_after_hand_over(cluster: Cluster, to: NodeProcess) -> bool:
    """Return whether the node leads, after whoever led was asked to let it; it may have to catch up first."""
    leader = cluster.leader()
    if leader is not to:
        with suppress(UnavailableError, RejectedError), LocalClient(leader.socket) as client:
            client.call("node.transfer-leadership", to=to.name)
    return leader is to


def test_who_was_away_follows_a_leader_that_came_meanwhile(cluster: Cluster) -> None:
    """Guarded by `CheckpointWatch.configuration_ahead`: without it who was away refuses its leader as a stranger, for ever."""
    first = cluster.validators[0]
    for index in (2, 3):
        cluster.validators.append(add_validator(cluster, index))
    wait_settled(cluster, first, {"v1", "v2", "v3"})
    leader = cluster.leader()
    away = next(node for node in cluster.validators if node not in (leader, first))
    cluster.validators.remove(away)
    away.kill()
    newcomer = add_validator(cluster, 4)
    cluster.validators.append(newcomer)
    wait_settled(cluster, first, {"v1", "v2", "v3", "v4"})
    cluster.wait_for(lambda: leads_after_hand_over(cluster, newcomer), "who came leads", newcomer)
    cluster.start([away])
    height = newcomer.status(cluster.client)["height"]
    cluster.wait_for(lambda: away.status(cluster.client)["height"] >= height, "who was away caught up", away)
