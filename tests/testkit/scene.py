"""A network of real processes with people, a host, and a guarded tree: where a patch can travel the whole way."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.local.client import LocalClient
from provenance.diff_model import FileState
from tests.testkit import patches
from tests.testkit.cluster import Cluster, NodeProcess, running_cluster
from tests.testkit.ledger import key_of

COMPONENT = "pkg:deb/debian/foo@1.2"
PEOPLE = {
    "alice@acme": ("developer",),
    "bob@beta": ("attestor:security-review",),
    "carol@gamma": ("attestor:qa",),
    "web1@acme": ("host",),
}


@dataclass
class Scene:
    cluster: Cluster
    host: NodeProcess
    tree: Path

    def call(self, method: str, **params: Any) -> Any:
        with LocalClient(self.host.socket, timeout_s=60) as client:
            return client.call(method, **params)

    def agent(self, method: str, data: bytes) -> dict[str, Any]:
        result: dict[str, Any] = self.call(f"agent.{method}", target="app", file=base64.b64encode(data).decode())
        return result

    def wait_height(self, height: int) -> None:
        self.cluster.wait_for(lambda: self.host.status(self.cluster.client)["height"] >= height, "the host follows")

    def wait_level(self) -> None:
        leader = self.cluster.leader()
        self.wait_height(leader.status(self.cluster.client)["height"])


def write_tree(root: Path, tree: patches.Tree) -> None:
    for name, state in tree.items():
        if isinstance(state, FileState):
            place = root / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(state.content)
            place.chmod(state.mode & 0o777)


@contextmanager
def running_scene(
    directory: Path, before: patches.Tree, *, validators: int = 4, component: str = COMPONENT
) -> Iterator[Scene]:
    """Give a running network whose people are registered and whose host guards a tree that holds `before`."""
    with running_cluster(directory / "net", validators=validators) as cluster:
        for identity, roles in PEOPLE.items():
            cluster.register(identity, *roles)
        host = cluster.add_host("web1@acme")
        cluster.start([host])
        tree = directory / "srv" / "app"
        write_tree(tree, before)
        scene = Scene(cluster, host, tree)
        scene.call("agent.target.add", name="app", root=str(tree), components=[component])
        yield scene


def approved(data: bytes) -> bytes:
    """Return the patch file with the two approvals that the default policies ask for."""
    return patches.approve(patches.approve(data), key_of("carol@gamma"), "carol@gamma", "qa")


def git_tree(root: Path) -> str:
    """Return git's own SHA-256 tree id of a directory."""
    repository = root.parent / "check.git"
    environment = {
        "GIT_DIR": str(repository),
        "GIT_WORK_TREE": str(root),
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
    }
    if not repository.exists():
        subprocess.run(
            ["git", "init", "-q", "--bare", "--object-format=sha256", str(repository)],
            check=True,
            env={"PATH": "/usr/bin:/bin"},
        )
        subprocess.run(["git", "config", "core.bare", "false"], check=True, env=environment)
    (repository / "index").unlink(missing_ok=True)
    subprocess.run(["git", "-c", "core.autocrlf=false", "add", "-A", "-f", "."], check=True, env=environment, cwd=root)
    done = subprocess.run(["git", "write-tree"], check=True, env=environment, capture_output=True, text=True)
    return done.stdout.strip()
