"""The repository's own promises: folders, lock files, documents, commands."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

PACKAGES = ("wire", "provenance", "ledger", "consensus", "agent", "node")


@pytest.fixture(scope="module")
def project(repository_root: Path) -> dict[str, object]:
    return tomllib.loads((repository_root / "pyproject.toml").read_text())


def is_checkout(root: Path) -> bool:
    return (root / ".git").exists()


def makefile_targets(root: Path) -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_documented_and_typed(repository_root: Path, package: str) -> None:
    assert (repository_root / package / "py.typed").read_bytes() == b""
    assert (repository_root / package / "__init__.py").read_text().startswith('"""')


@pytest.mark.parametrize("tool", ["hatch", "mypy", "importlinter"])
def test_every_tool_names_the_same_packages(project: dict[str, dict[str, dict[str, object]]], tool: str) -> None:
    tools = project["tool"]
    named = {
        "hatch": lambda: tools["hatch"]["build"]["targets"]["wheel"]["packages"],
        "mypy": lambda: tools["mypy"]["packages"],
        "importlinter": lambda: tools["importlinter"]["root_packages"],
    }
    assert named[tool]() == list(PACKAGES)


def test_no_test_folder_is_named_like_a_package(repository_root: Path) -> None:
    folders = {path.name for path in (repository_root / "tests").rglob("*") if path.is_dir()}
    assert not folders & set(PACKAGES)


def test_files_name_no_registry_and_no_machine_path(repository_root: Path) -> None:
    if not is_checkout(repository_root):
        pytest.skip("only a git checkout knows which files belong to the repository")
    found = subprocess.run([repository_root / "scripts/find-addresses"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    "line", ["see https://pypi" + ".org/simple", "cd /work/" + "main", "x = '/home/" + "alice/key.pem'"]
)
def test_find_addresses_finds_them(repository_root: Path, tmp_path: Path, line: str) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    script = scripts / "find-addresses"
    script.write_bytes((repository_root / "scripts/find-addresses").read_bytes())
    script.chmod(0o755)
    (tmp_path / "notes.txt").write_text(f"harmless\n{line}\n")
    for command in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    found = subprocess.run([script], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.startswith("notes.txt:2:")


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_make_command_in_documents_exists(repository_root: Path, document: str) -> None:
    named = set(
        re.findall(r"\bmake ([a-z]+)(?=[`\s]*$|`)", (repository_root / document).read_text(), flags=re.MULTILINE)
    )
    assert named, f"{document} names no make target"
    assert named <= makefile_targets(repository_root)


def test_help_names_every_target(repository_root: Path) -> None:
    answer = subprocess.run(["make", "help"], cwd=repository_root, capture_output=True, text=True, check=True)
    shown = set(re.findall(r"^ +make ([a-z-]+)", answer.stdout, flags=re.MULTILINE))
    assert shown == makefile_targets(repository_root)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_relative_links_lead_somewhere(repository_root: Path, document: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", (repository_root / document).read_text())
    assert [link for link in links if not (repository_root / link).exists()] == []


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-build.lock", "requirements-fuzz.lock"])
def test_lock_has_exact_versions_with_hashes_and_no_address(repository_root: Path, lock: str) -> None:
    text = (repository_root / lock).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*(-[fir]\b|--(?!hash=sha256:)|file:)", text, flags=re.MULTILINE)
    entries = re.findall(r"^[a-z0-9].*\n(?:    .*\n?)*", text, flags=re.MULTILINE)
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9][a-z0-9._-]*==[^ ]+( ; .*)? \\\n", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_lock_holds_every_declared_dependency(repository_root: Path, project: dict[str, dict[str, list[str]]]) -> None:
    locked = set(
        re.findall(r"^([a-z0-9][a-z0-9._-]*)==", (repository_root / "requirements.lock").read_text(), re.MULTILINE)
    )
    extras: dict[str, list[str]] = dict(project["project"]["optional-dependencies"])
    declared = project["project"]["dependencies"] + extras["dev"]
    names = {re.split(r"[^a-z0-9._-]", line, maxsplit=1)[0] for line in declared}
    assert names <= locked


def test_the_fuzzer_is_locked_apart_from_everything_else(
    repository_root: Path, project: dict[str, dict[str, dict[str, list[str]]]]
) -> None:
    declared = {
        re.split(r"[^a-z0-9._-]", line, maxsplit=1)[0] for line in project["project"]["optional-dependencies"]["fuzz"]
    }
    own = set(
        re.findall(r"^([a-z0-9][a-z0-9._-]*)==", (repository_root / "requirements-fuzz.lock").read_text(), re.MULTILINE)
    )
    everybodys = (repository_root / "requirements.lock").read_text()
    assert declared <= own
    assert not [name for name in declared if re.search(rf"^{name}==", everybodys, re.MULTILINE)]


def test_locks_agree_on_shared_packages(repository_root: Path) -> None:
    def versions(lock: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9._-]+)==([^ ]+)", (repository_root / lock).read_text(), re.MULTILINE))

    run_time, build = versions("requirements.lock"), versions("requirements-build.lock")
    assert {name: run_time[name] for name in run_time.keys() & build} == {
        name: build[name] for name in run_time.keys() & build
    }


@pytest.mark.skipif(os.name != "posix", reason="a POSIX shell script")
class TestEnsurePackages:
    """scripts/ensure-packages, in front of fake commands."""

    def run(self, root: Path, fakes: Path, python: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [root / "scripts/ensure-packages", python],
            env={"PATH": f"{fakes}:{os.environ['PATH']}", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def fake(self, folder: Path, name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def test_old_python_is_named_in_one_line(self, repository_root: Path, tmp_path: Path) -> None:
        python = self.fake(tmp_path, "old-python", 'case "$2" in *version_info*) exit 1;; esac; echo "it is 3.9.18"')
        answer = self.run(repository_root, tmp_path, str(python))
        assert answer.returncode == 1
        assert len(answer.stderr.splitlines()) == 1
        assert "Python 3.11 or newer is needed" in answer.stderr
        assert "it is 3.9.18" in answer.stderr

    def test_missing_packages_are_named_in_one_line_without_root(self, repository_root: Path, tmp_path: Path) -> None:
        self.fake(tmp_path, "id", "echo 1000")
        self.fake(tmp_path, "apt-get", "echo apt-get must not run without root >&2; exit 9")
        self.fake(tmp_path, "patch", "exit 127")
        answer = self.run(repository_root, tmp_path, "python3", CC="no-such-compiler")
        assert answer.returncode == 1
        assert answer.stdout == ""
        assert re.fullmatch(r"setup: .*: apt-get install --yes gcc libc6-dev .*\bpatch\n", answer.stderr)

    def test_root_installs_what_is_missing_after_one_update(self, repository_root: Path, tmp_path: Path) -> None:
        calls = tmp_path / "calls"
        self.fake(tmp_path, "id", "echo 0")
        self.fake(tmp_path, "patch", f"test -e {tmp_path}/installed")
        self.fake(
            tmp_path, "apt-get", f'echo "$*" >>{calls}; case "$*" in *install*) touch {tmp_path}/installed;; esac'
        )
        answer = self.run(repository_root, tmp_path, "python3")
        assert answer.returncode == 0, answer.stderr
        update, install = calls.read_text().splitlines()
        assert update.endswith("update")
        assert re.search(r"install --yes --no-install-recommends .*\bpatch$", install)
