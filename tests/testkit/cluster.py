"""A network of real node processes on loopback for live tests and benchmarks, with everybody's keys at hand.

Every home lies in one directory; ports are found free; processes are started, paused, killed and ended by their own ids only.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from agent.gallery import get_template, with_templates
from ledger import bodies
from ledger.bodies import Body
from ledger.transaction import Transaction, build_transaction
from node.keystore import save_key
from provenance.layout import split_patch_file_untrusted
from tests.testkit.ledger import administrator_of, attest_body, key_of, make_genesis, node_key, publish_body
from wire.keys import PrivateKey

CHAIN_ID = "live-net"
START_TIMEOUT_S = 60.0
REPOSITORY = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class NodeProcess:
    """One node: its home, and its process while it runs."""

    def __init__(self, home: Path, name: str) -> None:
        self.home = home
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self.module = "node.process"
        """What runs the node."""
        self.command: list[str] | None = None
        """What runs it instead of that module, with all its words."""

    def start(self) -> None:
        assert self.process is None or self.process.poll() is not None
        (self.home / "run.json").unlink(missing_ok=True)
        with (self.home / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command or [sys.executable, "-m", self.module, str(self.home)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                start_new_session=True,
            )

    @property
    def rpc(self) -> str:
        document = json.loads((self.home / "run.json").read_text())
        url: str = document["rpc"]
        return url

    @property
    def socket(self) -> Path:
        return self.home / "core.sock"

    def log(self) -> str:
        return (self.home / "node.log").read_text(errors="replace")

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(10)

    def stop(self, timeout_s: float = 15) -> int:
        """End the node in order and return its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
                self.process.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
                raise
        return self.process.returncode

    def is_up(self) -> bool:
        return self.process is not None and self.process.poll() is None and (self.home / "run.json").exists()

    def status(self, client: httpx.Client) -> dict[str, Any]:
        """Return the node's status; raises while it does not answer."""
        response = client.get(f"{self.rpc}/v1/status")
        response.raise_for_status()
        document: dict[str, Any] = response.json()
        return document


class Cluster:
    """Validators v1, v2, … and hosts of one network."""

    def __init__(
        self,
        directory: Path,
        *,
        validators: int = 4,
        settings: dict[str, object] | None = None,
        templates: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.settings = settings or {}
        self.ports = [free_port() for _ in range(validators)]
        schema, policies = with_templates([get_template(name) for name in templates])
        self.genesis = make_genesis(
            validators=validators,
            chain_id=CHAIN_ID,
            addresses=[f"/ip4/127.0.0.1/tcp/{port}" for port in self.ports],
            policies=policies,
            policy_schema=schema,
        )
        self.client = httpx.Client(timeout=40)
        self.validators = [
            self._make_home(f"v{index + 1}", node_key(index + 1), {"listen": f"/ip4/127.0.0.1/tcp/{port}"})
            for index, port in enumerate(self.ports)
        ]
        self.hosts: list[NodeProcess] = []
        self.extra: list[NodeProcess] = []

    def _make_home(self, name: str, key: PrivateKey, settings: dict[str, object]) -> NodeProcess:
        home = self.directory / name
        home.mkdir(parents=True)
        (home / "genesis.json").write_bytes(self.genesis.document)
        save_key(home / "node.key", key)
        values = {"name": name, "idle_block_interval_ms": 2000, **self.settings, **settings}
        (home / "config.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
        return NodeProcess(home, name)

    def add_host(self, identity: str) -> NodeProcess:
        """Make the home of a host whose identity is, or will be, on the ledger; it is not started."""
        settings: dict[str, object] = {"role": "host", "identity": identity}
        host = self._make_home(identity.partition("@")[0], key_of(identity), settings)
        self.hosts.append(host)
        return host

    def add_validator(self, name: str, key: PrivateKey, address: str) -> NodeProcess:
        """Make the home of a node that is to become a validator; it is not started, and `validators` does not name it."""
        node = self._make_home(name, key, {"listen": address})
        self.extra.append(node)
        return node

    @property
    def nodes(self) -> list[NodeProcess]:
        return [*self.validators, *self.hosts]

    def start(self, nodes: Iterable[NodeProcess] | None = None) -> None:
        """Start nodes and wait until they answer and a leader is known."""
        chosen = list(self.validators if nodes is None else nodes)
        for node in chosen:
            node.start()
        for node in chosen:
            self.wait_for(lambda node=node: node.is_up(), f"{node.name} is up", node)  # type: ignore[misc]
            self.wait_for(lambda node=node: bool(node.status(self.client)["leader"]), f"{node.name} has a leader", node)  # type: ignore[misc]

    def stop(self) -> None:
        """End every process that was started here, in order where that works."""
        for node in [*self.nodes, *self.extra]:
            if node.process is not None and node.process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    node.stop()
        self.client.close()

    def wait_for(
        self,
        condition: Callable[[], bool],
        what: str,
        node: NodeProcess | None = None,
        timeout_s: float = START_TIMEOUT_S,
    ) -> float:
        """Return the seconds after which `condition` held; fail with the node's last log lines when it does not in time."""
        begin = time.monotonic()
        while time.monotonic() - begin < timeout_s:
            with suppress(httpx.HTTPError, FileNotFoundError, json.JSONDecodeError, KeyError):
                if condition():
                    return time.monotonic() - begin
            if node is not None and node.process is not None and node.process.poll() is not None:
                raise AssertionError(f"{node.name} ended with {node.process.returncode}:\n{node.log()[-3000:]}")
            time.sleep(0.02)
        log = "" if node is None else f"\n{node.log()[-3000:]}"
        raise AssertionError(f"not within {timeout_s} s: {what}{log}")

    def leader(self, among: Sequence[NodeProcess] | None = None) -> NodeProcess:
        """Return the node that leads now, waiting for an election if need be."""
        found: list[NodeProcess] = []

        def one_leads() -> bool:
            for node in among or self.validators:
                if node.is_up():
                    with suppress(httpx.HTTPError):
                        if node.status(self.client)["role"] == "leader":
                            found.append(node)
                            return True
            return False

        self.wait_for(one_leads, "somebody leads")
        return found[-1]

    def wait_equal(self, nodes: Sequence[NodeProcess] | None = None) -> dict[str, Any]:
        """Wait until the nodes stand at one height with one block and one state root; return that status."""
        statuses: list[dict[str, Any]] = []

        def equal() -> bool:
            statuses[:] = [node.status(self.client) for node in nodes or self.nodes]
            return len({(s["height"], s["block_hash"], s["state_root"]) for s in statuses}) == 1

        self.wait_for(equal, "all nodes agree")
        return statuses[0]

    # Transactions

    def sign(self, body: Body, by: str, *, height: int = 0) -> Transaction:
        """Return the transaction that `by` says, with fresh chance."""
        return build_transaction(
            CHAIN_ID, body.KIND, body, key_of(by), os.urandom(16), height + 50_000, time.time_ns() // 1_000_000
        )

    def submit(
        self, transactions: Sequence[Transaction], *, to: NodeProcess | None = None, timeout_ms: int = 20_000
    ) -> list[dict[str, Any]]:
        """Submit and wait for the commit; return one result for each. A refusal of a single one raises."""
        response = self.client.post(
            f"{(to or self.validators[0]).rpc}/v1/transactions",
            json={
                "transactions": [base64.b64encode(each.raw).decode() for each in transactions],
                "wait": "committed",
                "timeout_ms": timeout_ms,
            },
        )
        if response.status_code != 200:
            raise AssertionError(response.text[:2000])
        results: list[dict[str, Any]] = response.json()["results"]
        return results

    def register(self, identity: str, *roles: str) -> None:
        """Register an identity by its organisation's administrator."""
        body = bodies.IdentityRegister(identity, identity.partition("@")[0], roles, key_of(identity).public_key.spki)
        (result,) = self.submit([self.sign(body, administrator_of(identity.partition("@")[2]))])
        assert result["status"] == "committed", result

    # Patches

    def publish(self, data: bytes, *, by: str = "alice@acme", to: NodeProcess | None = None) -> str:
        """Publish a patch file with every attestation that it carries, store the file, and return the patch id."""
        body = publish_body(data)
        self.submit([self.sign(body, by)], to=to)
        for line in range(1, len(split_patch_file_untrusted(data).trailer)):
            self.submit([self.sign(attest_body(data, line), by)], to=to)
        patch_id = body.patch_id.hex()
        response = self.client.put(f"{(to or self.validators[0]).rpc}/v1/patches/{patch_id}", content=data)
        if response.status_code != 200:
            raise AssertionError(response.text[:2000])
        return patch_id


@contextmanager
def running_cluster(
    directory: Path,
    *,
    validators: int = 4,
    settings: dict[str, object] | None = None,
    module: str = "node.process",
    templates: Sequence[str] = (),
) -> Iterator[Cluster]:
    """Give a running network, each node run by `module`, with these policy templates; no process of it is left afterwards."""
    cluster = Cluster(directory, validators=validators, settings=settings, templates=templates)
    for node in cluster.validators:
        node.module = module
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
