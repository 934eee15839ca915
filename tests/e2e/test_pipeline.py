"""One signed patch the whole way, through real processes: publish, attest, refuse, apply, record, and every node tells the same story."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from node.local.client import LocalClient
from provenance.diff_model import FileState
from tests.testkit import patches
from tests.testkit.cluster import Cluster, NodeProcess, running_cluster
from tests.testkit.ledger import attest_body, key_of

pytestmark = pytest.mark.live

COMPONENT = "pkg:deb/debian/foo@1.2"


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


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("net")
    with running_cluster(directory) as cluster:
        for identity, roles in {
            "alice@acme": ("developer",),
            "bob@beta": ("attestor:security-review",),
            "carol@gamma": ("attestor:qa",),
            "web1@acme": ("host",),
        }.items():
            cluster.register(identity, *roles)
        host = cluster.add_host("web1@acme")
        cluster.start([host])
        tree = directory / "srv" / "app"
        write_tree(tree, patches.BEFORE)
        scene = Scene(cluster, host, tree)
        scene.call("agent.target.add", name="app", root=str(tree), components=[COMPONENT])
        yield scene


def test_whole_way_of_one_patch(scene: Scene) -> None:
    cluster = scene.cluster
    data = patches.approve(patches.make_patch())
    patch_id = cluster.publish(data)
    scene.wait_level()

    refused = scene.agent("apply", data)
    assert refused["code"] == "ERROR_POLICY_DENIED"
    assert [rule for rule, _ in refused["decision"]["forbidden_by"]] == ["two-independent-approvals"]
    assert (scene.tree / "src/frame.c").read_bytes() == patches.FRAME_BEFORE

    data = patches.approve(data, key_of("carol@gamma"), "carol@gamma", "qa")
    cluster.submit([cluster.sign(attest_body(data), "carol@gamma")])
    scene.wait_level()
    assert scene.agent("explain", data)["code"] == "SUCCESS"
    assert (scene.tree / "src/frame.c").read_bytes() == patches.FRAME_BEFORE

    applied = scene.agent("apply", data)
    assert applied["code"] == "SUCCESS"
    assert (scene.tree / "src/frame.c").read_bytes() == patches.AFTER["src/frame.c"].content  # type: ignore[union-attr]
    assert applied["tree_after"] == git_tree(scene.tree)

    cluster.wait_equal()
    for node in cluster.nodes:
        records = cluster.client.get(f"{node.rpc}/v1/deployments", params={"patch": patch_id}).json()
        assert [record["result"] for record in records] == ["SUCCESS", "ERROR_POLICY_DENIED"]
        assert records[0]["tree_after"] == applied["tree_after"]

    again = scene.agent("apply", data)
    assert again["code"] == "ERROR_INVALID_METADATA"
    assert git_tree(scene.tree) == applied["tree_after"]


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
