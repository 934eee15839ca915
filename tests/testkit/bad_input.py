"""A running network under attack: everything an outsider can send, with the proof that it was refused and changed nothing.

A `Siege` wraps a `Scene`. Whatever it commits it remembers, so that a test can ask in the end whether every node still has it.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from ledger.bodies import Body
from ledger.transaction import Transaction, build_transaction
from node.local.client import LocalClient
from provenance.metadata import CreatorIdentity
from provenance.patchfile import build_patch_file
from tests.testkit import patches
from tests.testkit.cluster import CHAIN_ID, NodeProcess
from tests.testkit.ledger import attest_body, key_of, publish_body
from tests.testkit.scene import Scene, approved, git_tree
from wire.keys import PrivateKey


@dataclass
class Siege:
    """One network that everything is thrown at."""

    scene: Scene
    acknowledged: set[str] = field(default_factory=set)
    """Ids of every transaction that a node called committed."""
    counter: int = 0
    """The last release counter that was used."""
    pids: dict[str, int] = field(default_factory=dict)
    tree: str = ""
    """The digest that the guarded tree has to have."""

    def __post_init__(self) -> None:
        self.tree = git_tree(self.scene.tree)
        self.pids = {node.name: self.status(node)["pid"] for node in self.nodes}

    # The nodes

    @property
    def nodes(self) -> list[NodeProcess]:
        return [*self.scene.cluster.validators, self.scene.host]

    @property
    def client(self) -> httpx.Client:
        return self.scene.cluster.client

    @property
    def rpc(self) -> str:
        """Where users talk to the network."""
        return self.scene.cluster.validators[0].rpc

    def status(self, node: NodeProcess) -> dict[str, Any]:
        return node.status(self.client)

    def height(self) -> int:
        height: int = self.status(self.scene.cluster.leader())["height"]
        return height

    def log_size(self) -> int:
        """Return how many transactions the network has ever committed."""
        size: int = self.status(self.scene.cluster.leader())["log_size"]
        return size

    def check_alive(self) -> None:
        """Fail unless every node still is the process that it was, answers over HTTP and on its socket, and met no bug."""
        for node in self.nodes:
            status = self.status(node)
            assert status["pid"] == self.pids[node.name], f"{node.name} was started anew"
            assert status["gateway_restarts"] == 0, f"{node.name}'s gateway was started anew"
            assert self.client.get(f"{node.rpc}/livez").status_code == 200
            log = node.log()
            for trouble in ("Traceback", "node.bug", "died", "local method failed", "request failed"):
                assert trouble not in log, f"{node.name}: {log[max(0, log.find(trouble) - 2000) :][:4000]}"

    # Transactions

    def commit(self, *signed: tuple[Body, str]) -> None:
        """Have each body committed, all in one submission."""
        results = self.scene.cluster.submit([self.scene.cluster.sign(body, by) for body, by in signed])
        for result in results:
            assert result["status"] == "committed", result
            self.acknowledged.add(result["tx_id"])

    def sign(self, body: Body, by: str | PrivateKey, **changes: Any) -> Transaction:
        """Return what `by` says; `changes` replaces arguments of `build_transaction`."""
        arguments: dict[str, Any] = {
            "chain_id": CHAIN_ID,
            "key": key_of(by) if isinstance(by, str) else by,
            "nonce": os.urandom(16),
            "not_after_height": 50_000,
            "client_time_ms": time.time_ns() // 1_000_000,
        }
        return build_transaction(kind=body.KIND, body=body, **(arguments | changes))

    def post(self, raws: Sequence[bytes], node: NodeProcess | None = None, timeout_ms: int = 20_000) -> httpx.Response:
        rpc = self.rpc if node is None else node.rpc
        encoded = [base64.b64encode(raw).decode() for raw in raws]
        return self.client.post(f"{rpc}/v1/transactions", json={"transactions": encoded, "timeout_ms": timeout_ms})

    def refuse(self, *cases: tuple[Transaction | bytes, str]) -> None:
        """Submit bad transactions by each door; every one is refused with its code, and the ledger has none of them."""
        raws = [case if isinstance(case, bytes) else case.raw for case, _ in cases]
        size = self.log_size()
        for node in (self.scene.cluster.validators[0], self.scene.cluster.validators[1], self.scene.host):
            for raw, (case, code) in zip(raws, cases, strict=True):
                response = self.post([raw], node)
                assert response.json()["code"] == code, (case, response.text)
                assert response.status_code in (400, 404, 409, 413, 422), response.text
                assert response.headers["content-type"] == "application/problem+json"
        for case, _ in cases:
            if isinstance(case, Transaction):
                response = self.client.get(f"{self.rpc}/v1/transactions/{case.tx_id.hex()}")
                assert response.json()["code"] == "node.transaction.not_found"
        assert self.log_size() == size

    # Patches

    def patch(
        self,
        before: patches.Tree = patches.BEFORE,
        after: patches.Tree = patches.AFTER,
        author: str = "alice@acme",
        **changes: Any,
    ) -> bytes:
        """Return a fresh patch file by `author`, without attestations."""
        self.counter += 1
        key = key_of(author)
        creator = CreatorIdentity.from_key(key.public_key, author.partition("@")[0], f"{author}.example")
        metadata, diff = patches.make_metadata(
            before, after, **({"creator_identity": creator, "release_counter": self.counter} | changes)
        )
        return build_patch_file(metadata, diff, key)

    def patch_of_diff(self, diff: bytes) -> bytes:
        """Return a file around any diff, honest in everything but the diff itself: what a developer gone bad would sign."""
        self.counter += 1
        return patches.sign_around(diff, self.counter)

    def publish(self, data: bytes, author: str = "alice@acme") -> bytes:
        """Publish a file with every attestation in it; return it when the host knows."""
        body = publish_body(data)
        self.commit((body, author))
        lines = range(1, 1 + len(body.attestation_digests))
        if lines:
            self.commit(*((attest_body(data, line), author) for line in lines))
        self.scene.wait_level()
        return data

    def release(self, data: bytes | None = None, author: str = "alice@acme") -> bytes:
        """Publish a patch with the two approvals that the policies ask for."""
        return self.publish(approved(self.patch() if data is None else data), author)

    def decline(
        self, data: bytes, code: str, reason: str, *, target: str = "app", host: NodeProcess | None = None
    ) -> dict[str, Any]:
        """Apply a bad patch; it is refused for this reason, the ledger says so, and the tree is what it was."""
        node = host or self.scene.host
        before = self.tree
        file = base64.b64encode(data).decode()
        asked: dict[str, Any] = call(node, "agent.explain", target=target, file=file)
        assert (asked["code"], asked["reason"]) == (code, reason), asked
        outcome: dict[str, Any] = call(node, "agent.apply", target=target, file=file)
        assert (outcome["code"], outcome["reason"]) == (code, reason), outcome
        assert outcome["tree_before"] == outcome["tree_after"]
        assert git_tree(self.scene.tree) == before
        record = self.record(outcome)
        assert (record["result"], record["intent_height"]) == (code, None)
        assert record["patch_id"] == (outcome["patch_id"] or "00" * 32)
        assert (record["tree_before"], record["tree_after"]) == (outcome["tree_before"], outcome["tree_after"])
        if target == "app" and node is self.scene.host:
            assert record["tree_before"] == before
        return outcome

    def record(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Return the deployment record of an ending from a validator, as soon as it has it."""
        found: list[dict[str, Any]] = []

        def recorded() -> bool:
            records = self.client.get(f"{self.rpc}/v1/deployments", params={"limit": 20}).json()
            found[:] = [each for each in records if each["outcome_tx_id"] == outcome["outcome_tx"]]
            return bool(found)

        self.scene.cluster.wait_for(recorded, "the ending is on the ledger")
        self.acknowledged.add(outcome["outcome_tx"])
        return found[0]

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        self.scene.cluster.wait_for(condition, what)


def call(node: NodeProcess, method: str, **params: Any) -> Any:
    """Ask a node's core on its socket."""
    with LocalClient(node.socket, timeout_s=60) as client:
        return client.call(method, **params)
