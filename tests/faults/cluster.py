"""Real node processes of one network, each in a namespace of its own, with everybody's keys at hand."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from agent.policy_text import default_policy_set
from ledger import bodies
from ledger.bodies import Body
from ledger.configuration import Validator
from ledger.genesis import Genesis
from ledger.transaction import Transaction, build_transaction
from node.keystore import save_key
from node.net.address import peer_id
from tests.faults.machine import HarnessError, build_clock_library
from tests.faults.network import REPOSITORY, Network, address_of
from tests.faults.node import SMALL_DISK_BYTES, Node
from tests.testkit.ledger import administrator_of, key_of, make_genesis, node_key
from wire.errors import PatchwardenError

CHAIN_ID: Final = "fault-net"
PORT: Final = 4001
HOST_IDENTITY: Final = "web1@acme"
NOT_AFTER_HEIGHTS: Final = 50_000
"""How long a transaction stays executable: far beyond any fault, so that a retry is never refused for its age."""
PACKAGES: Final = ("wire", "provenance", "ledger", "consensus", "agent", "node")
WAIT_STEP_S: Final = 0.05


class Cluster:
    """Validators v1, v2, … and, if asked for, one host's node that follows them."""

    def __init__(
        self,
        directory: Path,
        *,
        validators: int = 4,
        spares: int = 0,
        host: bool = False,
        movable_clocks: bool = False,
        small_disk: int | None = None,
        small_disk_bytes: int = SMALL_DISK_BYTES,
        settings: dict[str, object] | None = None,
    ) -> None:
        """Write the homes.

        Args:
            directory: Empty; must be on the disk whose syncs are to be measured.
            validators: How many.
            spares: Nodes that may become validators later (`add_spare`).
            host: Whether there is a host's node too, the last one of `nodes`.
            movable_clocks: Whether the nodes' wall clocks can be moved.
            small_disk: Index of the validator whose data directory lies on a small file system.
            small_disk_bytes: Its size.
            settings: Settings of every node that differ from the defaults.
        """
        self.directory = directory
        names = [f"v{index + 1}" for index in range(validators + spares)] + (["h1"] if host else [])
        self.network = Network(names)
        schema, policies = default_policy_set()
        self.genesis: Genesis = make_genesis(
            validators=validators,
            chain_id=CHAIN_ID,
            addresses=[f"/ip4/{address_of(index)}/tcp/{PORT}" for index in range(validators)],
            policies=policies,
            policy_schema=schema,
        )
        self.nodes: list[Node] = []
        """Those that are running, or should be."""
        self.validators: list[Node] = []
        self._spares: list[Node] = []
        self._removed: list[Node] = []
        self._validator_count = validators
        self._spare_count = spares
        self._small_disk = small_disk
        self._small_disk_bytes = small_disk_bytes
        self._movable_clocks = movable_clocks
        self._settings = settings or {}
        self._nonces = itertools.count(1)
        self.height_seen = 0

    def open(self) -> None:
        """Make network, homes and small disk; nothing runs yet."""
        self.network.open()
        self.directory.mkdir(parents=True, exist_ok=True)
        code = self._copy_code()
        clock_library = build_clock_library(self.directory) if self._movable_clocks else None
        for index, name in enumerate(self.network.names):
            home = self.directory / name
            home.mkdir()
            node = Node(name, home, self.network.namespaces[index], code=code, clock_library=clock_library)
            is_host = index >= self._validator_count + self._spare_count
            (home / "genesis.json").write_bytes(self.genesis.document)
            save_key(home / "node.key", key_of(HOST_IDENTITY) if is_host else node_key(index + 1))
            if is_host:
                self._configure(node, role="host", identity=HOST_IDENTITY, peers=self._peers())
            else:
                self._configure(node)
            node.set_clock(0)
            (self._spares if self._validator_count <= index and not is_host else self.nodes).append(node)
        self.validators = self.nodes[: self._validator_count]
        if self._small_disk is not None:
            self.nodes[self._small_disk].mount_small_disk(self._small_disk_bytes)

    def _copy_code(self) -> Path:
        """Return a copy of what the nodes are made of: who works on the sources meanwhile must not change what a restart starts."""
        code = self.directory / "code"
        for package in PACKAGES:
            shutil.copytree(REPOSITORY / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
        return code

    def _configure(self, node: Node, **settings: object) -> None:
        values: dict[str, object] = {
            "name": node.name,
            # HTTP is for loopback; the harness speaks to the Unix socket.
            "gateway": False,
            "listen": f"/ip4/{address_of(self.index_of(node))}/tcp/{PORT}",
            **self._settings,
            **settings,
        }
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        (node.home / "config.toml").write_text(text, encoding="utf-8")

    def add_spare(self) -> tuple[Node, Validator]:
        """Return the next spare node, which is not started, and how the ledger is told of it."""
        node = self._spares[0]
        self._configure(node, peers=self._peers())
        index = self.index_of(node)
        key = node_key(index + 1)
        return node, Validator(node.name, "beta", key.public_key.spki, f"/ip4/{address_of(index)}/tcp/{PORT}")

    def take_in(self, node: Node) -> None:
        """Let the spare node that `add_spare` returned belong to `nodes` and `validators` from now on."""
        self._spares.remove(node)
        self.nodes = [*self.nodes, node]
        self.validators = [*self.validators, node]

    def take_away(self, node: Node) -> None:
        """Let a node that is no validator any more no longer belong to the cluster; it is not ended."""
        self.validators = [each for each in self.validators if each is not node]
        self.nodes = [each for each in self.nodes if each is not node]
        self._removed.append(node)

    def _peers(self) -> list[str]:
        indexes = [self.index_of(node) for node in self.validators] or range(self._validator_count)
        return [
            f"/ip4/{address_of(index)}/tcp/{PORT}/p2p/{peer_id(node_key(index + 1).public_key.raw)}"
            for index in indexes
        ]

    def start(self) -> None:
        """Start all nodes and wait until the network takes transactions; the host's identity is registered."""
        for node in self.validators:
            node.start()
        for node in self.validators:
            node.wait_up()
        self.register(HOST_IDENTITY, "host")
        for node in self.nodes[self._validator_count :]:
            node.start()
            node.wait_up()

    def close(self) -> None:
        """End every process of this cluster and remove its network and mounts; files stay."""
        everybody = [*self.nodes, *self._spares, *self._removed]
        for node in everybody:
            node.kill()
        try:
            for node in everybody:
                node.unmount()
        finally:
            self.network.close()

    # Looking

    def index_of(self, node: Node) -> int:
        """Return a node's place in the network."""
        return self.network.names.index(node.name)

    def find_leader(self, among: Sequence[Node] | None = None) -> Node | None:
        """Return the node that leads in the highest term, or None while none says so."""
        found: list[tuple[int, int, Node]] = []
        for number, node in enumerate(among or self.validators):
            if node.is_running and not node.paused and (status := node.status()) is not None:
                if status["role"] == "leader":
                    found.append((status["term"], number, node))
        return max(found, key=lambda item: item[:2])[2] if found else None

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float) -> float:
        """Return the seconds after which `condition` held.

        Raises:
            HarnessError: It did not in time.
        """
        begin = time.monotonic()
        while time.monotonic() - begin < timeout_s:
            if condition():
                return time.monotonic() - begin
            time.sleep(WAIT_STEP_S)
        raise HarnessError(f"not within {timeout_s:g} s: {what}")

    def wait_leader(self, timeout_s: float = 30) -> Node:
        """Return the leader as soon as there is one."""
        self.wait_for(lambda: self.find_leader() is not None, "somebody leads", timeout_s)
        leader = self.find_leader()
        if leader is None:
            raise HarnessError("the leader was gone at once")
        return leader

    def wait_equal(self, timeout_s: float = 60) -> dict[str, Any]:
        """Return the status of all nodes once they stand at one height with one block and one state root."""
        last: list[dict[str, Any] | None] = []

        def equal() -> bool:
            last[:] = [node.status() for node in self.nodes]
            return None not in last and len({(s["height"], s["block_hash"], s["state_root"]) for s in last if s}) == 1

        try:
            self.wait_for(equal, "all nodes agree", timeout_s)
        except HarnessError as error:
            where = [
                (node.name, s and (s["height"], s["role"], s["term"])) for node, s in zip(self.nodes, last, strict=True)
            ]
            raise HarnessError(f"{error}: {where}") from None
        assert last[0] is not None
        return last[0]

    def wait_level(self, timeout_s: float = 60) -> None:
        """Wait until every node has what the highest one had at the beginning: under load heights are never equal."""
        highest = max((status["height"] for node in self.nodes if (status := node.status()) is not None), default=0)
        for node in self.nodes:
            self.wait_for(
                lambda node=node: (node.status() or {"height": -1})["height"] >= highest,  # type: ignore[misc]
                f"{node.name} has block {highest}",
                timeout_s,
            )

    # Speaking

    def sign(self, body: Body, by: str) -> Transaction:
        """Return the transaction that `by` says, good for every retry to come."""
        nonce = os.getpid().to_bytes(8, "big") + next(self._nonces).to_bytes(8, "big")
        return build_transaction(
            CHAIN_ID,
            body.KIND,
            body,
            key_of(by),
            nonce,
            self.height_seen + NOT_AFTER_HEIGHTS,
            time.time_ns() // 1_000_000,
        )

    def submit(self, transaction: Transaction, *, among: Sequence[Node] | None = None, timeout_s: float = 60) -> int:
        """Return the height at which the transaction was committed, after as many attempts as that took.

        Raises:
            HarnessError: It was refused for good, or not committed in time.
        """
        encoded = base64.b64encode(transaction.raw).decode()
        begin = time.monotonic()
        last = "nothing answered"
        while time.monotonic() - begin < timeout_s:
            for node in among or self.validators:
                if not node.is_running or node.paused:
                    continue
                try:
                    (result,) = node.call("tx.submit", transactions=[encoded], wait="committed", timeout_ms=2000)
                except PatchwardenError as error:
                    last = f"{node.name}: {error.code}"
                    continue
                if result["status"] == "committed":
                    height: int = result["height"]
                    self.height_seen = max(self.height_seen, height)
                    return height
                last = f"{node.name}: {result['status']} {(result['error'] or {}).get('code', '')}"
                if result["status"] == "refused" and result["error"]["family"] == "rejected":
                    raise HarnessError(f"a transaction of the harness was refused: {last}")
            time.sleep(WAIT_STEP_S)
        raise HarnessError(f"no transaction was committed within {timeout_s:g} s; last answer: {last}")

    def register(self, identity: str, *roles: str) -> None:
        """Register an identity by its organisation's administrator."""
        name, _, organisation = identity.partition("@")
        body = bodies.IdentityRegister(identity, name, roles, key_of(identity).public_key.spki)
        self.submit(self.sign(body, administrator_of(organisation)))


@contextmanager
def running_cluster(cluster: Cluster) -> Iterator[Cluster]:
    """Give the cluster running; no process, namespace or mount of it is left afterwards."""
    try:
        cluster.open()
        cluster.start()
        yield cluster
    finally:
        with suppress(ProcessLookupError):
            cluster.close()
