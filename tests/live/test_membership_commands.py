"""A network's validators are added, replaced and removed by commands alone, as docs/operations/node.md says it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.testkit.cli import Answer, refused, run, run_json
from tests.testkit.cluster import free_port
from tests.testkit.devnet import Devnet, running_devnet, wait_for

pytestmark = [pytest.mark.live, pytest.mark.slow]

CAUGHT_UP_WITHIN = 3
"""Blocks that may be new between a learner's answer and the leader's."""


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Devnet]:
    with running_devnet(tmp_path / "net", "--validators", "3", "--hosts", "0") as devnet:
        yield devnet


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        if process.poll() is None:
            process.kill()
            process.wait()


def start(home: Path) -> subprocess.Popen[bytes]:
    with (home.parent / f"{home.name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "node.cli", "node", "start", "--home", str(home)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def init(net: Devnet, home: Path) -> dict[str, Any]:
    document: dict[str, Any] = run_json(
        "node", "init", "--home", home, "--name", home.name, "--listen", f"/ip4/127.0.0.1/tcp/{free_port()}",
        "--peer", net.node("v1")["multiaddr"], "--peer", net.node("v3")["multiaddr"], "--genesis", net.document["genesis"],
    )  # fmt: skip
    return document


def decide(net: Devnet, *action: object) -> str:
    """Propose a change and vote for it by two of three organisations; return the proposal when it is executed."""
    node = ("--rpc", net.rpc())
    proposal = str(run_json("governance", "propose", *action, "--key", net.key("admin@acme"), *node)["tx_id"])
    for voter in ("admin@acme", "admin@beta"):
        arguments = ("governance", "vote", proposal, "--approve", "--key", net.key(voter), *node, "-o", "json")
        deadline = time.monotonic() + 30
        while (answer := run(*arguments)).code != 0:
            # The change before this one may not be settled yet: the refusal asks to vote again.
            assert is_busy(answer), answer.err
            assert time.monotonic() < deadline, answer.err
            time.sleep(0.1)
    assert run_json("governance", "show", proposal, *node)["status"] == "executed"
    return proposal


def is_busy(answer: Answer) -> bool:
    return bool(answer.error["code"] == "ledger.proposal.configuration_busy")


def members(*node: object) -> dict[str, str]:
    return {each["name"]: each["membership"] for each in run_json("node", "validators", *node)}


def leader_home(net: Devnet, homes: dict[str, str]) -> str:
    """Return the home of whoever leads, once somebody does."""
    found: list[str] = []

    def known() -> bool:
        name = run_json("node", "status", "--rpc", net.rpc())["leader"]
        found[:] = [homes[name]] if name else []
        return bool(found) and run_json("node", "status", "--home", found[0])["role"] == "leader"

    wait_for(known, "somebody leads", 30)
    return found[0]


def has_caught_up(name: str, leader: str) -> bool:
    found = {each["name"]: each for each in run_json("node", "validators", "--home", leader)}
    height = found[name]["match_height"]
    return height is not None and height >= run_json("node", "status", "--home", leader)["height"] - CAUGHT_UP_WITHIN


def test_validators_come_and_go_by_commands(
    net: Devnet, tmp_path: Path, processes: list[subprocess.Popen[bytes]]
) -> None:
    homes = {name: net.home(name) for name in ("v1", "v2", "v3")}

    def add_learner(name: str) -> Path:
        home = tmp_path / name
        node = init(net, home)
        proposal = decide(net, "add-learner", f"{name}@beta", node["did"], node["multiaddr"])
        assert node["did"] in run("governance", "show", proposal, "--rpc", net.rpc()).out
        assert f"add-learner {name}@beta" in run("governance", "list", "--rpc", net.rpc()).out
        processes.append(start(home))
        homes[name] = str(home)
        wait_for(lambda: has_caught_up(name, leader_home(net, homes)), f"{name} has caught up", 60)
        assert members("--rpc", net.rpc())[name] == "learner"
        return home

    fourth = add_learner("v4")
    decide(net, "promote-learner", "v4")
    four = {"v1": "voter", "v2": "voter", "v3": "voter", "v4": "voter"}
    wait_for(lambda: members("--home", fourth) == four, "v4 votes", 30)

    led = leader_home(net, homes)
    other = next(home for name, home in homes.items() if home != led and name != "v4")
    assert refused("node", "transfer-leadership", "--home", other) == "node.transfer.not_leader"
    assert refused("node", "transfer-leadership", "--to", "v9", "--home", led) == "node.transfer.unknown"
    if led != str(fourth):
        assert run_json("node", "transfer-leadership", "--to", "v4", "--home", led)["transferred"] is True
        wait_for(lambda: run_json("node", "status", "--home", fourth)["role"] == "leader", "v4 leads", 30)

    add_learner("v5")
    decide(net, "replace-validator", "v2", "v5")
    # Who was the last to lose its vote stays listed until the next change.
    four = {"v1": "voter", "v2": "leaving", "v3": "voter", "v4": "voter", "v5": "voter"}
    wait_for(lambda: members("--rpc", net.rpc()) == four, "v5 votes in the place of v2", 30)
    wait_for(lambda: run_json("node", "status", "--home", homes["v2"])["removed"], "v2 knows that it has left", 30)
    assert "has left the network" in run("node", "status", "--home", homes["v2"]).out

    decide(net, "remove-validator", "v4")
    three = {"v1": "voter", "v3": "voter", "v4": "leaving", "v5": "voter"}
    wait_for(lambda: members("--rpc", net.rpc()) == three, "v4 has left", 30)
    wait_for(lambda: run_json("node", "status", "--home", fourth)["removed"], "v4 knows that it has left", 30)
    run_json("node", "stop", "--home", fourth)
    assert processes[0].wait(20) == 0

    # Those who are left decide and answer without those who went.
    decide(net, "set-threshold", "two-thirds")
    shown = run_json("identity", "show", "alice@acme", "--consistency", "linearizable", "--home", homes["v5"])
    assert shown["as_of"]["consistency"] == "linearizable"
    assert "(local)" in run("policy", "show", "--consistency", "local", "--home", homes["v5"]).out
