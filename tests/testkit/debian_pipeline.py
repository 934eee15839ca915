"""Real Debian patches on their whole way: imported, signed, attested, published, applied by an agent, and compared with the old tools."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provenance.components import describe_components
from provenance.diff import FileState, parse_diff_untrusted
from provenance.diff_make import make_diff
from provenance.imports import Rebased, read_foreign_patch_untrusted, rebase
from provenance.metadata import Category, Reason
from provenance.patchfile import build_patch_file
from provenance.verify import verify_patch_untrusted
from tests.testkit import patches
from tests.testkit.appliers import TOOL_SECONDS_MAX, write_tree
from tests.testkit.cluster import Cluster
from tests.testkit.debian import QuiltPatch
from tests.testkit.ledger import attest_body, publish_body
from tests.testkit.scene import Scene, approved

BATCH = 100
"""Transactions in one submission; their envelopes stay far below the gateway's bound."""

ReadState = Callable[[str], FileState | None]


@dataclass(frozen=True, slots=True)
class Signed:
    """One imported patch as a signed file with two approvals."""

    name: str
    """The file name that the package gives it."""
    data: bytes
    patch_id: str
    rebased: Rebased
    """What it does to the tree before it, as the import found."""


def import_and_sign(patch: QuiltPatch, read: ReadState, component: str, release_counter: int) -> Signed:
    """Return the patch as Alice's signed file for the tree behind `read`, with Bob's and Carol's approvals."""
    foreign = read_foreign_patch_untrusted(patch.data, file_name=patch.name)
    rebased = rebase(foreign, read, strip=patch.strip)
    diff = parse_diff_untrusted(make_diff(rebased.pre, rebased.post, rebased.renames, copies=rebased.copies))
    said = foreign.metadata
    title = said.title or patch.name
    metadata, raw = patches.make_metadata(
        rebased.pre,
        rebased.post,
        rebased.renames,
        copies=rebased.copies,
        affected_components=describe_components(diff, rebased.pre, rebased.post, {}, component),
        reason_for_patch=Reason(Category(said.category), title, said.description or title, said.references),
        release_counter=release_counter,
    )
    assert raw == diff.raw
    data = approved(build_patch_file(metadata, raw, patches.ALICE))
    return Signed(patch.name, data, verify_patch_untrusted(data).patch_id, rebased)


def publish_all(cluster: Cluster, signed: Sequence[Signed]) -> None:
    """Publish every file and then record every attestation, in few submissions that keep the order."""
    published = [cluster.sign(publish_body(each.data), "alice@acme") for each in signed]
    attested = [cluster.sign(attest_body(each.data, line), "alice@acme") for each in signed for line in (1, 2)]
    for transactions in (published, attested):
        for start in range(0, len(transactions), BATCH):
            for result in cluster.submit(transactions[start : start + BATCH]):
                assert result["status"] == "committed", result


def add_target(scene: Scene, name: str, tree: Mapping[str, FileState | None], component: str) -> Path:
    """Return the root of a new target that holds `tree`."""
    root = scene.tree.parent / name
    write_tree(root, tree)
    scene.call("agent.target.add", name=name, root=str(root), components=[component])
    return root


def apply(scene: Scene, target: str, signed: Signed) -> dict[str, Any]:
    """Have the agent apply the patch to the target, which must succeed."""
    outcome: dict[str, Any] = scene.call("agent.apply", target=target, file=base64.b64encode(signed.data).decode())
    assert (outcome["code"], outcome["patch_id"]) == ("SUCCESS", signed.patch_id), (signed.name, outcome)
    return outcome


def deployments(scene: Scene) -> dict[str, dict[str, Any]]:
    """Return the deployment records of the ledger by their patch id."""
    response = scene.cluster.client.get(f"{scene.cluster.validators[0].rpc}/v1/deployments", params={"limit": 500})
    return {record["patch_id"]: record for record in response.json()}


class Tools:
    """Four copies of one tree, each changed by one tool alone, a whole series long."""

    ORIGINAL = "patch, as the package has it"
    """GNU patch with the package's own file: what everything else must equal."""
    SIGNED: Mapping[str, tuple[str, ...]] = {
        "git apply": ("git", "apply", "--whitespace=nowarn"),
        "git am": ("git", "am", "--quiet", "--keep-cr"),
        "patch -p1": ("patch", "-p1", "--fuzz=0", "--force", "--no-backup-if-mismatch"),
    }
    """These get the signed file as it is."""

    def __init__(self, folder: Path, tree: Mapping[str, FileState | None]) -> None:
        self._home = folder
        self.roots = {name: folder / name.replace(" ", "-").replace(",", "") for name in (self.ORIGINAL, *self.SIGNED)}
        for root in self.roots.values():
            write_tree(root, tree)
        am = self.roots["git am"]
        for command in (("init", "-q"), ("add", "-A", "-f"), ("commit", "-q", "--allow-empty", "-m", "base")):
            self._run(am, ("git", *command))

    def apply(self, patch: QuiltPatch, signed: bytes) -> None:
        """Run every tool; each must accept its file whole."""
        original = ("patch", f"-p{patch.strip}", "--fuzz=0", "--force", "--no-backup-if-mismatch")
        self._run(self.roots[self.ORIGINAL], original, patch.data)
        for name, command in self.SIGNED.items():
            self._run(self.roots[name], command, signed)

    def _run(self, root: Path, command: Sequence[str], stdin: bytes = b"") -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._home),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CEILING_DIRECTORIES": str(self._home),
            "GIT_AUTHOR_NAME": "t",
            "GIT_AUTHOR_EMAIL": "t@example.org",
            "GIT_COMMITTER_NAME": "t",
            "GIT_COMMITTER_EMAIL": "t@example.org",
        }
        done = subprocess.run(
            command, cwd=root, env=environment, input=stdin, capture_output=True, timeout=TOOL_SECONDS_MAX, check=False
        )
        assert done.returncode == 0, (command, (done.stdout + done.stderr).decode("utf-8", "replace")[-2000:])
