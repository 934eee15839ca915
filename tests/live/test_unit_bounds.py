"""A validator and a host with its agent do all their work within the bounds of the systemd unit that the repository offers.

No systemd runs: what its settings do to a process, `tests/testkit/unit_bounds.py` does, from the unit's own text.
"""

from __future__ import annotations

import base64
import os
import shlex
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.bodies import IdentityRegister
from node.local.client import LocalClient
from provenance.diff_model import FileState
from tests.testkit import patches
from tests.testkit.cluster import Cluster, NodeProcess
from tests.testkit.ledger import administrator_of, key_of
from tests.testkit.scene import COMPONENT, PEOPLE, approved, write_tree
from tests.testkit.unit_bounds import bounded, missing_means, plan_of, read_service

UNIT = Path("deploy/systemd/patchwarden-host.service")
GROUP = 54_321
DROP_IN = f"SupplementaryGroups={GROUP}"
"""What an operator adds whose files belong to another group of the service's user; tried by root, who may be in any."""
BEFORE: patches.Tree = {
    "app.conf": FileState(0o100644, b"workers 4\n"),
    "gone": FileState(0o100644, b"gone\n"),
    "tool": FileState(0o100644, b"#!/bin/sh\n"),
}
AFTER: patches.Tree = {
    "app.conf": FileState(0o100644, b"workers 6\n"),
    "gone": None,
    "tool": FileState(0o100755, b"#!/bin/sh\n"),
    "new/file": FileState(0o100644, b"new\n"),
}
MANY = 1_000
"""Files beside them in the target that has a standby tree."""
COMPLAINTS = ("Operation not permitted", "Permission denied", "not supported", "Read-only", "gateway died", "Traceback")
"""What no line of a log says of a process whose bounds hinder it nowhere."""
HOOK = """#!/bin/sh
# Programs of the system, a pipe, and a network socket of Python's.
grep Seccomp: /proc/self/status | tr -s '\\t ' ' '
exec {python} -I -S -c 'import socket; socket.create_server(("127.0.0.1", 0)).close(); print("listens")'
"""

pytestmark = [pytest.mark.live, pytest.mark.slow]


class Place:
    """A network of one validator and one host, both bounded, and the host's targets."""

    def __init__(self, directory: Path, unit: str) -> None:
        unit = unit.replace("[Install]", f"{DROP_IN}\n\n[Install]")
        self.srv = directory / "srv"
        self.srv.mkdir()
        self.cluster = Cluster(directory / "net", validators=1)
        self.host = self.cluster.add_host("web1@acme")
        self.hook = directory / "hook"
        self.hook.write_text(HOOK.format(python=shlex.quote(sys.executable)))
        self.hook.chmod(0o755)
        program, *words = shlex.split(read_service(unit)["ExecStart"][0])
        assert program == "/usr/bin/patchwarden"
        for node in self.cluster.nodes:
            words[words.index("--home") + 1] = str(node.home)
            command = [sys.executable, "-m", "node.cli", *words]
            node.command = bounded(plan_of(unit, node.home, self.srv), *command)

    def register(self) -> None:
        """Register everybody at once."""
        said = [
            self.cluster.sign(
                IdentityRegister(identity, identity.partition("@")[2], roles, key_of(identity).public_key.spki),
                administrator_of(identity.partition("@")[2]),
            )
            for identity, roles in PEOPLE.items()
        ]
        assert {result["status"] for result in self.cluster.submit(said)} == {"committed"}

    def call(self, method: str, **params: Any) -> Any:
        with LocalClient(self.host.socket, timeout_s=120) as client:
            return client.call(method, **params)

    def add(self, name: str, *, mode: str = "exchange", files: int = 0) -> Path:
        """Guard a new target."""
        root = self.srv / name
        write_tree(root, BEFORE)
        for number in range(files):
            (root / f"file-{number}").touch()
        if os.geteuid() == 0:
            os.chown(root / "app.conf", -1, GROUP)
        self.call("agent.target.add", name=name, root=str(root), components=[COMPONENT], mode=mode)
        return root


@pytest.fixture(scope="module")
def place(repository_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if reason := missing_means():
        pytest.skip(reason)
    place = Place(tmp_path_factory.mktemp("unit"), (repository_root / UNIT).read_text())
    try:
        place.cluster.start()
        place.register()
        place.cluster.start([place.host])
        yield place
    finally:
        place.cluster.stop()


def status_of(node: NodeProcess) -> dict[str, str]:
    """Return what the kernel says of a node's process."""
    assert node.process is not None
    lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def mounts_of(node: NodeProcess, option: str) -> str:
    """Return the places that a node sees mounted with an option, each between spaces."""
    assert node.process is not None
    lines = Path(f"/proc/{node.process.pid}/mountinfo").read_text().splitlines()
    return "".join(f" {words[4]} " for words in map(str.split, lines) if option in words[5].split(","))


def test_node_and_agent_do_their_work_within_the_bounds(place: Place) -> None:
    for node in place.cluster.nodes:
        status = status_of(node)
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        if os.geteuid() == 0:
            assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    roots = {
        "app": place.add("app"),
        "volume": place.add("volume", mode="in-place"),
        "large": place.add("large", files=MANY),
    }
    hooks = {"app": ("before", "after", "health"), "volume": ("health",), "large": ()}
    for name, kinds in hooks.items():
        for kind in kinds:
            place.call("agent.target.hook", target=name, hook=kind, argv=[str(place.hook)])
    assert (place.srv / ".large.patchwarden-large.standby").is_dir()
    data = approved(patches.make_patch(BEFORE, AFTER))
    patch_id = place.cluster.publish(data)
    height = place.cluster.validators[0].status(place.cluster.client)["height"]
    place.cluster.wait_for(
        lambda: place.host.status(place.cluster.client)["height"] >= height, "the host follows", place.host
    )

    assert place.host.process is not None
    if os.readlink(f"/proc/{place.host.process.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt"):
        assert f" {place.srv} " in mounts_of(place.host, "rw")
        assert " / " in mounts_of(place.host, "ro")
    for name, root in roots.items():
        outcome = place.call("agent.apply", target=name, file=base64.b64encode(data).decode())
        assert outcome["code"] == "SUCCESS", (outcome, place.host.log()[-2000:])
        assert [(run["hook"], run["passed"]) for run in outcome["hooks"]] == [(kind, True) for kind in hooks[name]]
        assert {run["output"] for run in outcome["hooks"]} <= {"Seccomp: 2\nlistens"}
        assert (root / "app.conf").read_bytes() == b"workers 6\n"
        # The service's own mask is nobody's of a target.
        modes = {each: stat.S_IMODE((root / each).stat().st_mode) for each in ("app.conf", "tool", "new", "new/file")}
        assert os.geteuid() != 0 or (root / "app.conf").stat().st_gid == GROUP
        assert modes == {"app.conf": 0o644, "tool": 0o755, "new": stat.S_IMODE(root.stat().st_mode), "new/file": 0o644}
        assert place.call("agent.drift", target=name, full=True) == []
        (root / "app.conf").write_bytes(b"workers 64\n")
        assert [each["name"] for each in place.call("agent.drift", target=name)] == [name]
        (root / "app.conf").write_bytes(b"workers 6\n")
        assert place.call("agent.drift", target=name) == []
        (undone,) = place.call("agent.rollback", target=name, patch_id=patch_id)["outcomes"]
        assert undone["code"] == "ROLLED_BACK", (undone, place.host.log()[-2000:])
        assert (root / "app.conf").read_bytes() == b"workers 4\n"
        assert not (root / "new").exists()
    place.cluster.wait_for(
        lambda: place.call("agent.status")["records_waiting"] == 0, "the outbox is empty", place.host
    )

    # A directory whose bit may not be set is refused as such, and stays as it is.
    shared = place.add("shared")
    (shared / "directory").mkdir()
    (shared / "directory").chmod(0o2775)
    place.call("agent.target.adopt", target="shared")
    outcome = place.call("agent.apply", target="shared", file=base64.b64encode(data).decode())
    assert outcome["reason"] == "agent.apply.attributes", outcome
    assert "RestrictSUIDSGID" in outcome["hint"]
    assert stat.S_IMODE((shared / "directory").stat().st_mode) == 0o2775

    for node in reversed(place.cluster.nodes):
        assert node.stop(60) == 0, node.log()[-2000:]
        assert [line for line in node.log().splitlines() if any(word in line for word in COMPLAINTS)] == []
