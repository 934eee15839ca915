"""The first twenty patches of three real Debian source packages, imported in series order, against what GNU patch makes of them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from provenance.diff import FileState, parse_diff_untrusted
from provenance.diff_apply import apply_diff
from provenance.diff_make import make_diff
from provenance.imports import read_foreign_patch_untrusted, rebase
from tests.testkit.appliers import read_tree, write_tree
from tests.testkit.debian import SourcePackage, SourceUnavailableError, fetch_source_packages

pytestmark = [pytest.mark.network, pytest.mark.slow]

PACKAGES = ("curl", "bash", "tar")
PATCHES_MAX = 20
"""Of each package; one with fewer gives all it has."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SourcePackage]:
    if shutil.which("patch") is None:
        pytest.skip("GNU patch is not installed")
    folder = tmp_path_factory.mktemp("debian-sources")
    try:
        return {package.name: package for package in fetch_source_packages(PACKAGES, folder)}
    except SourceUnavailableError as error:
        pytest.skip(f"Debian's sources cannot be had here: {error}")


@pytest.fixture
def tree_of_gnu_patch(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "tree"
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_series_of_patches_is_imported_exactly(
    name: str, packages: dict[str, SourcePackage], tree_of_gnu_patch: Path
) -> None:
    package = packages[name]
    tree: dict[str, FileState] = dict(package.base)
    write_tree(tree_of_gnu_patch, tree)
    patches = package.patches[:PATCHES_MAX]
    assert patches
    for patch in patches:
        foreign = read_foreign_patch_untrusted(patch.data, file_name=patch.name)
        result = rebase(foreign, tree.get, strip=patch.strip)
        diff = parse_diff_untrusted(make_diff(result.pre, result.post, result.renames))
        for path, state in apply_diff(diff, result.pre).items():
            if state is None:
                del tree[path]
            else:
                tree[path] = state
        command = ("patch", f"-p{patch.strip}", "--fuzz=0", "--force", "--silent", "--no-backup-if-mismatch")
        done = subprocess.run(
            command, cwd=tree_of_gnu_patch, input=patch.data, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, (patch.name, done.stdout)
    assert read_tree(tree_of_gnu_patch) == tree
