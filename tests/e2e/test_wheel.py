"""The wheel: it holds exactly our packages, and runs from an empty directory without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = ("wire", "provenance", "ledger", "consensus", "agent", "node")

pytestmark = pytest.mark.slow


def pip(*arguments: str | Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments, "--no-deps", "--no-index"],
        check=True,
    )


@pytest.fixture(scope="module")
def wheel(repository_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, repository_root)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--target", folder, wheel)
    return folder


def run(installed: Path, cwd: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    # The wheel's packages stand before everything else; only third-party packages come from this environment.
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1", "PYTHONWARNINGS": "error"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_wheel_holds_every_file_of_our_packages_and_nothing_else(repository_root: Path, wheel: Path) -> None:
    expected = {
        path.relative_to(repository_root).as_posix()
        for package in PACKAGES
        for path in (repository_root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if not name.endswith("/")}
    assert {name for name in files if ".dist-info/" not in name} == expected


def test_wheel_says_what_it_is(wheel: Path) -> None:
    assert wheel.name.startswith("patchwarden-")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (
            archive.read(name).decode() for name in archive.namelist() if name.endswith(".dist-info/METADATA")
        )
        (scripts,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert scripts.split() == ["[console_scripts]", "patchwarden", "=", "node.cli.main:main"]


def test_installed_packages_are_the_wheels_own(installed: Path, tmp_path: Path) -> None:
    program = f"import importlib; print(*(importlib.import_module(name).__file__ for name in {PACKAGES}), sep='\\n')"
    answer = run(installed, tmp_path, sys.executable, "-c", program)
    assert answer.returncode == 0, answer.stderr
    assert [Path(line) for line in answer.stdout.splitlines()] == [
        installed / name / "__init__.py" for name in PACKAGES
    ]


def test_command_runs_from_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    answer = run(installed, tmp_path, sys.executable, installed / "bin" / "patchwarden", "--help")
    assert answer.returncode == 0, answer.stderr
    assert "patchwarden" in answer.stdout
    assert list(tmp_path.iterdir()) == []
