"""Real Debian patches from their quilt series to a deployment record, over real processes; the old tools must make the same trees.

The ordinary run takes the committed corpus. The other one needs Debian's archive: the first twenty patches of three source packages, each
package in series order on one target that holds its whole upstream tree.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.keystore import save_key
from provenance.diff import FileState
from tests.testkit import patches
from tests.testkit.appliers import read_tree
from tests.testkit.debian import QuiltPatch, SourcePackage, SourceUnavailableError, fetch_source_packages
from tests.testkit.debian_pipeline import Signed, Tools, add_target, apply, deployments, import_and_sign, publish_all
from tests.testkit.ledger import key_of
from tests.testkit.scene import Scene, git_tree, running_scene

DEBIAN = Path(__file__).parent.parent / "vectors" / "debian"
PACKAGES = ("curl", "bash", "tar")
PATCHES_MAX = 20
"""Of each package; one with fewer gives all it has."""

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(shutil.which("patch") is None, reason="GNU patch is not installed"),
]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with running_scene(tmp_path_factory.mktemp("debian"), patches.BEFORE, validators=3) as scene:
        yield scene


def images(tree: dict[str, FileState]) -> dict[str, dict[str, str]]:
    return {
        path: {"mode": f"{state.mode:06o}", "sha256": hashlib.sha256(state.content).hexdigest()}
        for path, state in tree.items()
    }


def test_the_committed_corpus_goes_the_whole_way(scene: Scene, tmp_path: Path) -> None:
    cases: list[tuple[str, Path, QuiltPatch, Signed, dict[str, Any]]] = []
    for number, folder in enumerate(sorted(path.parent for path in DEBIAN.glob("*/*/change.patch"))):
        expected = json.loads((folder / "expected.json").read_text())
        component = f"pkg:deb/debian/{expected['package']}@{expected['version']}"
        patch = QuiltPatch(folder.name, 1, (folder / "change.patch").read_bytes())
        base = read_tree(folder / "pre")
        signed = import_and_sign(patch, base.get, component, release_counter=number + 1)
        root = add_target(scene, f"corpus-{number}", base, component)
        cases.append((f"corpus-{number}", root, patch, signed, expected))
        tools = Tools(tmp_path / str(number), base)
        tools.apply(patch, signed.data)
        for name, changed in tools.roots.items():
            assert images(read_tree(changed)) == expected["post"], (name, patch.name)
    assert len(cases) == 12
    publish_all(scene.cluster, [signed for _, _, _, signed, _ in cases])
    scene.wait_level()
    outcomes = [apply(scene, target, signed) for target, _, _, signed, _ in cases]
    scene.cluster.wait_equal()
    records = deployments(scene)
    for (target, root, patch, signed, expected), outcome in zip(cases, outcomes, strict=True):
        assert images(read_tree(root)) == expected["post"], patch.name
        record = records[signed.patch_id]
        assert (record["result"], record["target"]) == ("SUCCESS", target)
        assert record["tree_after"] == outcome["tree_after"] == git_tree(root)


def test_one_patch_goes_the_whole_way_by_commands_alone(scene: Scene, tmp_path: Path) -> None:
    folder = DEBIAN / "tar" / "Fix-handling-of-extended-header-prefixes.patch"
    base = read_tree(folder / "pre")
    root = add_target(scene, "by-command", base, "tar")
    for name in ("alice@acme", "bob@beta", "carol@gamma"):
        save_key(tmp_path / f"{name}.key", key_of(name))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "check").write_text("exit 0\n")
    node = scene.cluster.validators[0]

    def run(*words: str | Path) -> dict[str, Any]:
        command = [sys.executable, "-m", "node.cli", *map(str, words), "-o", "json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    run("patch", "import", "--base", folder / "pre", folder / "change.patch", "--out", "exact.diff")
    created = run(
        *("patch", "create", "--diff", "exact.diff", "--base", folder / "pre", "--component", "tar"),
        *("--category", "bug-fix", "--author", "Alice Example <alice@acme.example>", "--tests", "tests"),
        *("--key", "alice@acme.key", "--out", "fix.patch"),
    )
    for name, role in (("bob@beta", "security-review"), ("carol@gamma", "qa")):
        run(
            *("patch", "attest", "fix.patch", "--role", role, "--verdict", "approve"),
            *("--identity", name, "--key", f"{name}.key"),
        )
    run("patch", "publish", "fix.patch", "--key", "alice@acme.key", "--rpc", node.rpc)
    scene.wait_level()
    # By its id alone: the host fetches the file from whoever keeps it.
    applied = run("agent", "apply", created["patch_id"], "--target", "by-command", "--home", scene.host.home)
    assert applied["code"] == "SUCCESS"
    expected = json.loads((folder / "expected.json").read_text())
    assert images(read_tree(root)) == expected["post"]
    tools = Tools(tmp_path / "tools", base)
    tools.apply(QuiltPatch("x", 1, (folder / "change.patch").read_bytes()), (tmp_path / "fix.patch").read_bytes())
    for name, changed in tools.roots.items():
        assert images(read_tree(changed)) == expected["post"], name


# The archive


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourcePackage]:
    folder = tmp_path_factory.mktemp("debian-sources")
    try:
        return {package.name: package for package in fetch_source_packages(PACKAGES, folder)}
    except SourceUnavailableError as error:
        pytest.skip(f"Debian's sources cannot be had here: {error}")


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_a_series_of_a_whole_package(
    name: str, packages: dict[str, SourcePackage], scene: Scene, tmp_path: Path
) -> None:
    package = packages[name]
    series = package.patches[:PATCHES_MAX]
    component = f"pkg:deb/debian/{name}@{package.version}#series"
    tree: dict[str, FileState] = dict(package.base)
    tools = Tools(tmp_path, tree)
    root = add_target(scene, name, tree, component)
    signed: list[Signed] = []
    for number, patch in enumerate(series):
        signed.append(import_and_sign(patch, tree.get, component, release_counter=number + 1))
        tools.apply(patch, signed[-1].data)
        for path, state in signed[-1].rebased.post.items():
            if state is None:
                del tree[path]
            else:
                tree[path] = state
    reference = read_tree(tools.roots[Tools.ORIGINAL])
    assert reference == tree
    for tool in Tools.SIGNED:
        assert read_tree(tools.roots[tool]) == reference, tool

    publish_all(scene.cluster, signed)
    scene.wait_level()
    outcomes = [apply(scene, name, each) for each in signed]
    assert read_tree(root) == reference
    assert outcomes[-1]["tree_after"] == git_tree(root)
    assert [each["tree_before"] for each in outcomes[1:]] == [each["tree_after"] for each in outcomes[:-1]]
    scene.cluster.wait_equal()
    records = deployments(scene)
    assert {records[each.patch_id]["result"] for each in signed} == {"SUCCESS"}
    files = sum(len(each.rebased.post) for each in signed)
    print(f"{name} {package.version}: {len(signed)} of {len(package.patches)} patches, {files} files changed")
