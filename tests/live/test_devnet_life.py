"""`patchwarden devnet`: comes up, tells scripts everything, obeys, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.testkit.cli import refused, run, run_json
from tests.testkit.devnet import Devnet, is_ready, processes_with, running_devnet, start_devnet, wait_for

pytestmark = pytest.mark.live

ORGANISATIONS = ("acme", "beta", "gamma")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devnet]:
    directory = tmp_path_factory.mktemp("dn") / "net"
    with running_devnet(directory) as devnet:
        yield devnet
    assert processes_with(str(directory)) == []
    assert all(node["pid"] is None for node in devnet.document["nodes"])
    assert devnet.process.returncode == 0
    assert not (directory / "control.sock").exists()


def state(net: Devnet, name: str) -> str:
    nodes = run_json("devnet", "status", "--dir", net.directory)["nodes"]
    return next(str(node["state"]) for node in nodes if node["name"] == name)


def test_file_says_what_scripts_need(net: Devnet) -> None:
    document = net.document
    assert set(document) == {"chain_id", "genesis", "nodes", "people"}
    assert Path(document["genesis"]).is_absolute()
    assert [(node["name"], node["role"]) for node in document["nodes"]] == [
        ("v1", "validator"), ("v2", "validator"), ("v3", "validator"), ("v4", "validator"), ("web1", "host"),
    ]  # fmt: skip
    for node in document["nodes"]:
        assert set(node) == {"name", "role", "home", "rpc", "multiaddr", "pid"}
        assert Path(node["home"]).is_absolute()
        status = httpx.get(f"{node['rpc']}/v1/status").json()
        assert (status["name"], status["pid"], status["chain_id"]) == (node["name"], node["pid"], document["chain_id"])
        assert status["multiaddr"] == node["multiaddr"]
    for person in document["people"]:
        assert set(person) == {"identity", "roles", "key"}
        assert stat.S_IMODE(os.stat(person["key"]).st_mode) == 0o600
    assert {person["identity"] for person in document["people"]} >= {"alice@acme", "bob@beta", "carol@gamma"}


def test_people_and_hosts_are_on_the_ledger(net: Devnet) -> None:
    found = {each["identity"]: each for each in run_json("identity", "list", "--rpc", net.rpc())}
    for person in net.document["people"]:
        assert found[person["identity"]]["roles"] == person["roles"]
        key_id = run_json("key", "show", person["key"])["key_id"]
        assert [key["key_id"] for key in found[person["identity"]]["keys"]] == [key_id]
    assert found["web1@acme"]["roles"] == ["host"]
    history = run_json("identity", "history", "alice@acme", "--rpc", net.rpc())
    assert [(each["kind"], each["signer"]) for each in history] == [("identity.register", "admin@acme")]


def test_nodes_are_killed_started_paused_and_resumed(net: Devnet) -> None:
    victim = net.node("v2")["pid"]
    killed = run_json("devnet", "kill", "v2", "--dir", net.directory)
    assert (killed["state"], killed["pid"]) == ("stopped", None)
    assert net.node("v2")["pid"] is None
    assert state(net, "v2") == "stopped"
    assert refused("devnet", "kill", "v2", "--dir", net.directory) == "cli.devnet.stopped"
    started = run_json("devnet", "start", "v2", "--dir", net.directory)
    assert started["pid"] not in (None, victim)
    assert net.node("v2")["pid"] == started["pid"]
    assert net.node("v2")["rpc"] == started["rpc"]  # The address stays.
    assert refused("devnet", "start", "v2", "--dir", net.directory) == "cli.devnet.running"
    run_json("devnet", "pause", "v2", "--dir", net.directory)
    assert state(net, "v2") == "paused"
    run_json("devnet", "resume", "v2", "--dir", net.directory)
    wait_for(lambda: state(net, "v2") == "running", "v2 goes on")
    run_json("devnet", "stop", "v2", "--dir", net.directory)
    assert state(net, "v2") == "stopped"
    run_json("devnet", "start", "v2", "--dir", net.directory)


def test_node_that_dies_by_itself_is_noticed(net: Devnet) -> None:
    os.kill(net.node("v3")["pid"], signal.SIGKILL)
    wait_for(lambda: net.node("v3")["pid"] is None, "devnet.json says that v3 has gone")
    run_json("devnet", "start", "v3", "--dir", net.directory)


def test_status_tells_where_each_ledger_stands(net: Devnet) -> None:
    nodes = run_json("devnet", "status", "--dir", net.directory)["nodes"]
    assert sum(node["ledger_role"] == "leader" for node in nodes) == 1
    assert all(node["height"] > 0 for node in nodes)
    text = run("devnet", "status", "--dir", net.directory).out
    assert text.splitlines()[0].split() == ["NODE", "STATE", "ROLE", "HEIGHT", "TERM", "PID", "RPC"]


def test_logs_are_shown(net: Devnet) -> None:
    lines = run("devnet", "logs", "v1", "--lines", "5", "--dir", net.directory).out.splitlines()
    assert 1 <= len(lines) <= 5
    assert all(line.startswith("v1: ") for line in lines)
    assert refused("devnet", "logs", "nobody", "--dir", net.directory) == "cli.devnet.no_such_node"


def test_second_supervisor_is_refused(net: Devnet) -> None:
    assert refused("devnet", "up", "--dir", net.directory, code=3) == "cli.devnet.in_use"
    assert refused("devnet", "up", "--dir", net.directory, "--validators", "7", code=2) == "cli.usage"
    assert is_ready(net)


def test_socket_is_the_owners_alone(net: Devnet) -> None:
    assert stat.S_IMODE((net.directory / "control.sock").stat().st_mode) == 0o600


def test_network_is_stopped_and_goes_on_where_it_was(tmp_path: Path) -> None:
    directory = tmp_path / "net"
    with running_devnet(directory, "--validators", "1", "--hosts", "0") as devnet:
        before = devnet.document
        height = run_json("node", "status", "--home", devnet.home("v1"))["height"]
        assert run_json("devnet", "stop", "--dir", directory) == {"stopped": True}
        assert devnet.process.wait(10) == 0
    assert run_json("node", "verify-store", "--home", before["nodes"][0]["home"])["findings"] == []
    assert run_json("audit", "replay", "--home", before["nodes"][0]["home"])["valid"] is True
    assert [node["state"] for node in run_json("devnet", "status", "--dir", directory)["nodes"]] == ["stopped"]
    assert refused("devnet", "stop", "--dir", directory, code=3) == "cli.devnet.down"
    with running_devnet(directory) as devnet:
        after = devnet.document
        assert {**after["nodes"][0], "pid": None} == {**before["nodes"][0], "pid": None}
        assert run_json("node", "status", "--home", devnet.home("v1"))["height"] >= height


def test_supervisor_that_is_killed_leaves_nothing_running(tmp_path: Path) -> None:
    directory = tmp_path / "net"
    with running_devnet(directory, "--validators", "1", "--hosts", "1") as devnet:
        run_json("devnet", "pause", "v1", "--dir", directory)
        devnet.process.kill()
        devnet.process.wait()
        wait_for(lambda: processes_with(str(directory)) == [], "every process of the network is gone")
    # What it left is not in the way of the next start.
    with running_devnet(directory) as devnet:
        assert is_ready(devnet)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_first_start_that_is_interrupted_leaves_neither_process_nor_directory(
    tmp_path: Path, number: signal.Signals
) -> None:
    directory = tmp_path / "net"
    process = start_devnet(directory)
    wait_for(lambda: len(processes_with(str(directory / "nodes"))) >= 1, "the first node has been started")
    process.send_signal(number)
    assert process.wait(30) == 130
    assert processes_with(str(directory)) == []
    assert not directory.exists()


def test_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert refused("devnet", "up", "--dir", tmp_path) == "cli.devnet.not_empty"
    assert os.listdir(tmp_path) == ["notes.txt"]
    assert refused("devnet", "status", "--dir", tmp_path) == "cli.devnet.missing"
    (tmp_path / "devnet.json").write_text("{}")
    assert refused("devnet", "status", "--dir", tmp_path) == "cli.devnet.damaged"


def test_path_that_no_socket_can_have_is_refused_at_once(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100)
    assert refused("devnet", "up", "--dir", directory) == "cli.devnet.path_too_long"
    assert not directory.exists()


def test_port_that_is_taken_ends_the_start_with_the_reason(tmp_path: Path) -> None:
    directory = tmp_path / "net"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start_devnet(directory, "--validators", "1", "--hosts", "0", "--base-port", str(port - 1))
        assert process.wait(60) == 3
    log = (tmp_path / "net.log").read_text()
    assert "[cli.devnet.start]" in log
    assert "node.rpc.listen" in log
    assert processes_with(str(directory)) == []
    assert not directory.exists()
