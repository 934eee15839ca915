"""A host that never meets its network: what docs/operations/air-gapped.md says, by its commands, with files carried between the two.

Network and host are never up at the same time, so nothing can have come another way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.testkit import patches
from tests.testkit.cli import refused, run_json
from tests.testkit.cluster import Cluster, NodeProcess, running_cluster
from tests.testkit.scene import COMPONENT, PEOPLE, approved, write_tree

pytestmark = [pytest.mark.live, pytest.mark.slow]

WEEK_MS = 604_800_000
PLACE = "web1@acme"


class Gap:
    """A network and a host, of which at most one is up."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        (self.validator,) = cluster.validators
        self.host = cluster.add_host(PLACE)
        with (self.host.home / "config.toml").open("a") as config:
            config.write(f"replica_age_max_ms = {WEEK_MS}\nunacknowledged_intents_max = 5\n")
        self.tree = directory / "srv" / "app"
        write_tree(self.tree, patches.BEFORE)

    @contextmanager
    def inside(self) -> Iterator[Path]:
        """Give the host's home while it runs, and nothing else does."""
        self.validator.stop()
        self.host.start()
        try:
            self.cluster.wait_for(self.host.is_up, "the host is up", self.host)
            yield self.host.home
        finally:
            self.host.stop()
            self.cluster.start([self.validator])

    def file(self, name: str) -> Path:
        return self.directory / f"{name}.bundle"

    def export(self, name: str, *options: str) -> dict[str, Any]:
        """Write what the network has to a file."""
        said: dict[str, Any] = run_json(
            "node", "export-bundle", *options, "--out", self.file(name), "--rpc", self.validator.rpc
        )
        return said

    def take(self, name: str) -> dict[str, Any]:
        """Take a file in at the host."""
        said: dict[str, Any] = run_json("agent", "import-bundle", self.file(name), "--home", self.host.home)
        return said


@pytest.fixture(scope="module")
def gap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gap]:
    directory = tmp_path_factory.mktemp("gap")
    with running_cluster(directory / "net", validators=1, templates=("offline-hosts",)) as cluster:
        for identity, roles in PEOPLE.items():
            cluster.register(identity, *roles)
        yield Gap(cluster, directory)


def _height(node: NodeProcess, cluster: Cluster) -> int:
    return int(node.status(cluster.client)["height"])


def test_a_patch_is_carried_in_and_its_record_out(gap: Gap) -> None:
    data = approved(patches.make_patch())
    patch_id = gap.cluster.publish(data)
    sent = gap.export("monday", "--patches")
    whole = gap.file("monday").read_bytes()
    gap.file("cut").write_bytes(whole[:-100])
    gap.file("changed").write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])

    with gap.inside() as home:
        assert refused("agent", "import-bundle", gap.file("cut"), "--home", home) == "ledger.bundle.truncated"
        taken = gap.take("monday")
        assert taken["height"] == sent["to"]
        assert refused("agent", "import-bundle", gap.file("changed"), "--home", home).startswith(
            ("ledger.bundle.", "node.patch.", "wire.")
        )
        run_json("agent", "target", "add", "app", gap.tree, "--component", COMPONENT, "--home", home)
        outcome = run_json("agent", "apply", patch_id, "--target", "app", "--home", home)
        assert (outcome["code"], outcome["recorded_height"]) == ("SUCCESS", None)
        after = patches.AFTER["src/frame.c"]
        assert after is not None
        assert (gap.tree / "src/frame.c").read_bytes() == after.content
        kinds = [each["kind"] for each in run_json("agent", "outbox", "--home", home)]
        assert kinds == ["host.report", "deployment.intent", "deployment.outcome"]
        run_json("agent", "export-outbox", "--out", gap.file("records"), "--home", home)

    for _ in range(2):
        said = run_json("tx", "submit", gap.file("records"), "--rpc", gap.validator.rpc)
        results = said if isinstance(said, list) else said["results"]
        assert {each["status"] for each in results} == {"committed"}
    deployments = gap.cluster.client.get(f"{gap.validator.rpc}/v1/deployments", params={"patch": patch_id}).json()
    assert [each["result"] for each in deployments] == ["SUCCESS"]
    gap.export("tuesday", "--from", "1")

    with gap.inside() as home:
        assert run_json("agent", "status", "--home", home)["records_waiting"] == 3
        gap.take("tuesday")
        gap.cluster.wait_for(
            lambda: run_json("agent", "status", "--home", home)["records_waiting"] == 0, "the answer is seen", gap.host
        )
        status = run_json("agent", "status", "--home", home)
        assert (status["records_delivered"], status["unacknowledged_intents"]) == (3, 0)
        assert refused("agent", "import-bundle", gap.file("monday"), "--home", home) == "node.bundle.older"
        assert _height(gap.host, gap.cluster) >= taken["height"]

    said = run_json(
        "audit", "replay-decision", "--all", "--rpc", gap.validator.rpc,
        "--genesis", gap.validator.home / "genesis.json",
    )  # fmt: skip
    assert said["different"] == 0
