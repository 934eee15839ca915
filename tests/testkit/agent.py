"""A host with an agent, a target and a ledger in memory, for tests: everything signed for real, nothing mocked.

::

    world = World(tmp_path)
    data = world.release()                    # a patch, two approvals, published and recorded
    outcome = await world.agent.apply(data, "app", OPERATOR)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.access import CommittedAt
from agent.config import AgentConfig
from agent.facts import Requester
from agent.files import Files
from agent.inventory import open_root, take_inventory
from agent.policy_cache import PolicyCache
from agent.policy_text import default_policy_set
from agent.runtime import Agent
from agent.target import PATCHES_DIRECTORY, TargetStore
from ledger import bodies
from ledger.actions import Administrator
from ledger.genesis import Genesis, GenesisOrganisation, build_genesis
from ledger.keyspace import MemoryStore
from ledger.records import Validator
from ledger.state import StateView
from ledger.transaction import TxId, decode_transaction_untrusted
from provenance.diff_model import FileState
from tests.testkit import patches
from tests.testkit.ledger import (
    CHAIN_ID,
    FOUNDED,
    ORGANISATIONS,
    Chain,
    administrator_of,
    attest_body,
    key_of,
    node_key,
    publish_body,
)
from wire.errors import RejectedError, UnavailableError
from wire.hashing import Digest, sha256

HOST = "web1@acme"
TARGET = "app"
WORK_NAME = f".patchwarden-{TARGET}"
"""Where the agent works in a target that is changed in place."""
COMPONENT = "pkg:deb/debian/foo@1.2"
OPERATOR = Requester("root", ("operator",), "socket")
POLICIES = PolicyCache()
"""Checking a policy set starts a process; the tests share what was checked."""
NOW_MS = 1_795_332_600_000
"""2026-11-22T07:30:00Z (a Sunday), after the creation of the test patches and after the blocks of a test chain."""

Tree = Mapping[str, FileState | None]

TREE: Tree = {
    **patches.EVERY_KIND_BEFORE,
    "README": FileState(0o100644, b"read me\n"),
    "bin/tool": FileState(0o100755, b"#!/bin/sh\necho tool\n"),
    "lib/keep/data.bin": FileState(0o100644, bytes(range(256))),
}
"""What stands at the target's root: everything that the test patches touch, and files that they do not."""


def agent_genesis(
    policies: tuple[str, tuple[tuple[str, str], ...]] | None = None, ca_certificates: tuple[bytes, ...] = ()
) -> Genesis:
    """Return a founding document with the default policy set, or another (schema, policies); the certificates are acme's."""
    schema, texts = default_policy_set() if policies is None else policies
    return build_genesis(
        chain_id=CHAIN_ID,
        time=FOUNDED,
        organisations=[
            GenesisOrganisation(
                name,
                name.capitalize(),
                (
                    Administrator(
                        administrator_of(name), administrator_of(name), key_of(administrator_of(name)).public_key.spki
                    ),
                ),
                ca_certificates if name == "acme" else (),
            )
            for name in ORGANISATIONS
        ],
        validators=[Validator("v1", "acme", node_key(1).public_key.spki, "/ip4/127.0.0.1/tcp/4001")],
        policy_schema=schema,
        policies=texts,
    )


class FakeLedger:
    """A `LedgerAccess` over a chain in memory. Every accepted transaction is a block of its own."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.is_offline = False
        """Whether submitting fails."""
        self.loses_receipts = False
        """Whether receipts never come, although transactions are committed."""
        self.age_ms = 500
        self.frozen: StateView | None = None
        """What the replica shows instead of the chain's tip, or None."""
        self.splits: frozenset[int] = frozenset()
        """Heights at which this node has found two certified histories."""
        self.patches: dict[bytes, bytes] = {}
        self.submitted: list[bytes] = []
        self._snapshot: tuple[int, StateView] | None = None

    @property
    def chain_id(self) -> str:
        return self.chain.genesis.chain_id

    def view(self) -> StateView:
        return self.frozen or self.snapshot()

    def snapshot(self) -> StateView:
        """Return the tip as a view that does not move."""
        if self._snapshot is None or self._snapshot[0] != self.chain.height:
            store = MemoryStore()
            store.apply(self.chain.store.dump())
            self._snapshot = (self.chain.height, StateView(store))
        return self._snapshot[1]

    def replica_age_ms(self) -> int:
        return self.age_ms

    def split_heights(self) -> frozenset[int]:
        return self.splits

    async def submit(self, raw: bytes) -> None:
        if self.is_offline:
            raise UnavailableError("node.offline", "no validator answers")
        transaction = decode_transaction_untrusted(raw)
        if self.chain.view.location(transaction.tx_id) is None:
            self.accept(raw)

    def accept(self, raw: bytes) -> None:
        """Commit one transaction; a refusal raises."""
        self.chain.commit(decode_transaction_untrusted(raw))
        self.submitted.append(raw)

    async def wait_receipt(self, tx_id: TxId, timeout_s: float) -> CommittedAt:
        location = None if self.loses_receipts else self.view().location(tx_id)
        if location is None:
            raise UnavailableError("node.timeout", f"not committed within {timeout_s} s")
        return CommittedAt(location.height, tx_id)

    async def fetch_patch(self, digest: bytes, size: int) -> bytes | None:
        return self.patches.get(digest)


STANDBY_NAME = f".app.patchwarden-{TARGET}.standby"
"""Where the agent keeps the second tree of a large target, beside the root."""


class World:
    """A network, a host with one target, and its agent."""

    def __init__(
        self,
        directory: Path,
        *,
        files: Files | None = None,
        policies: tuple[str, tuple[tuple[str, str], ...]] | None = None,
        tree: Tree = TREE,
        ca_certificates: tuple[bytes, ...] = (),
    ) -> None:
        self.directory = directory
        self.root = directory / "srv" / "app"
        self.now_ms = NOW_MS
        """The host's clock, as somebody has set it."""
        self.uptime_ms = 5_000
        """The one that nobody can set."""
        self.nonces = 0
        self.files = files
        self.notes: list[tuple[str, dict[str, object]]] = []
        self.chain = Chain(genesis=agent_genesis(policies, ca_certificates))
        self.chain.register("alice@acme", "developer")
        self.chain.register("bob@beta", "attestor:security-review")
        self.chain.register("carol@gamma", "attestor:qa")
        self.chain.register(HOST, "host")
        self.ledger = FakeLedger(self.chain)
        if not self.root.exists():
            write_tree(self.root, tree)
        self.agent = self.open()

    def open(self, **changes: Any) -> Agent:
        """Return an agent over the host's directory, as after a restart."""
        settings: dict[str, Any] = {
            "home": self.directory / "home",
            "identity_id": HOST,
            "key": key_of(HOST),
            "intent_wait_s": 5.0,
            "outcome_wait_s": 5.0,
        }
        return Agent(
            AgentConfig(**(settings | changes)),
            self.ledger,
            now_ms=lambda: self.now_ms,
            uptime_ms=lambda: self.uptime_ms,
            nonce=self.nonce,
            files=self.files,
            policies=POLICIES,
            note=lambda event, facts: self.notes.append((event, dict(facts))),
        )

    def reopen(self, **changes: Any) -> Agent:
        """Close the agent and open it again."""
        self.agent.close()
        self.agent = self.open(**changes)
        return self.agent

    def pass_ms(self, milliseconds: int) -> None:
        """Let time pass."""
        self.now_ms += milliseconds
        self.uptime_ms += milliseconds

    def nonce(self) -> bytes:
        self.nonces += 1
        return sha256(b"nonce %d %d" % (os.getpid(), self.nonces))[:16]

    async def add_target(self, **changes: Any) -> None:
        """Guard the target."""
        await self.agent.add_target(self.document(**changes))

    def document(self, **changes: Any) -> dict[str, Any]:
        return {
            "name": TARGET,
            "root": str(self.root),
            "components": [COMPONENT],
            "windows": [],
            "frozen": False,
        } | changes

    # Patches

    def release(self, data: bytes | None = None, *, publish: bool = True, attest: bool = True) -> bytes:
        """Return a patch file with Bob's and Carol's approvals, published and recorded."""
        data = patches.make_patch() if data is None else data
        data = patches.approve(data)
        data = patches.approve(data, key_of("carol@gamma"), "carol@gamma", "qa")
        if publish:
            self.publish(data, attest=attest)
        return data

    def publish(self, data: bytes, *, attest: bool = True, by: str = "alice@acme") -> None:
        """Publish a file, with all its attestations relayed by its author."""
        body = publish_body(data)
        self.chain.submit(body, by)
        self.ledger.patches[body.file_digest] = data
        if attest:
            for line in range(1, 1 + len(body.attestation_digests)):
                self.chain.submit(attest_body(data, line), by)

    # Looking

    def digest(self) -> Digest:
        """Return the target's tree digest, read afresh."""
        return tree_digest_of(self.root)

    def outcomes(self) -> list[bodies.DeploymentOutcome]:
        """Return every outcome on the ledger, oldest first."""
        return [body for body in self.bodies() if isinstance(body, bodies.DeploymentOutcome)]

    def intents(self) -> list[bodies.DeploymentIntent]:
        """Return every intent on the ledger, oldest first."""
        return [body for body in self.bodies() if isinstance(body, bodies.DeploymentIntent)]

    def reports(self) -> list[bodies.HostReport]:
        """Return every report on the ledger, oldest first."""
        return [body for body in self.bodies() if isinstance(body, bodies.HostReport)]

    def bodies(self) -> list[Any]:
        return [decode_transaction_untrusted(raw).body for block in self.chain.blocks for raw in block.transactions]

    def leftovers(self) -> list[str]:
        """Return what an application must not leave behind: staging directories, journals, files of patches that are not installed.

        A standby tree stays.
        """
        beside = [name for name in os.listdir(self.root.parent) if name not in (self.root.name, STANDBY_NAME)]
        beside += [name for name in os.listdir(self.root) if name == WORK_NAME]
        store = TargetStore(Files(), str(self.directory / "home" / "agent" / "targets" / TARGET))
        beside += [name for name in os.listdir(store.directory) if name.startswith("journal")]
        state = store.read_target_state()
        installed = set() if state is None else {each.patch_id for each in state.installed}
        return beside + sorted({*os.listdir(store.path(PATCHES_DIRECTORY))} - installed)


def write_tree(root: Path, tree: Tree) -> None:
    """Make exactly `tree` at `root`."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for name, state in tree.items():
        if state is not None:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(state.content)
            path.chmod(state.mode & 0o777)


def read_tree(root: Path) -> dict[str, FileState]:
    """Return every file below `root` that is content."""
    return {
        str(path.relative_to(root)): FileState(0o100755 if path.stat().st_mode & 0o100 else 0o100644, path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.relative_to(root).parts[0] != WORK_NAME
    }


def tree_digest_of(root: Path | str) -> Digest:
    """Return the tree digest of `root`, read afresh; what the agent of the target makes there for itself is no content."""
    descriptor = open_root(str(root))
    try:
        return take_inventory(descriptor, omit=WORK_NAME.encode()).tree_digest
    finally:
        os.close(descriptor)


def refusal_of(error: BaseException) -> str:
    """Return the code of a refusal."""
    assert isinstance(error, RejectedError | UnavailableError)
    return error.code
