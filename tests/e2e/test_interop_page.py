"""docs/interop.md shows what is so: its commands are run again, and print what it shows.

`pytest -m network tests/e2e/test_interop_page.py` runs those too for which libraries are fetched (`pip`, `npm`, `go`); the ordinary run
needs Debian's tools only.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.testkit.console import read_steps, run_page

PAGE = Path("docs/interop.md")
TOOLS = ("bash", "git", "patch", "busybox", "openssl", "ssh-keygen", "python3", "sed", "sha256sum", "diff", "cmp")
FETCHERS = ("pip", "npm", "node", "go")


def need(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def scratch(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    return directory


@pytest.mark.live
@pytest.mark.slow
def test_every_command_prints_what_the_page_shows(repository_root: Path, tmp_path: Path) -> None:
    need(*TOOLS)
    run_page((repository_root / PAGE).read_text(), scratch(tmp_path))


@pytest.mark.network
def test_libraries_of_others_print_what_the_page_shows(repository_root: Path, tmp_path: Path) -> None:
    need(*TOOLS, *FETCHERS)
    run_page((repository_root / PAGE).read_text(), scratch(tmp_path), ("network",))


def test_the_page_has_every_form_and_nothing_needs_what_nobody_runs(repository_root: Path) -> None:
    """A command that is in no block of a kind which some test runs would never be checked."""
    text = (repository_root / PAGE).read_text()
    steps = list(read_steps(text))
    assert {need for step in steps for need in step.needs} == {"network"}
    assert text.count("\n$ ") == len(steps)
    plain = " ".join(step.command for step in steps if not step.needs)
    fetched = " ".join(step.command for step in steps if step.needs)
    for command in (
        "git -C by-git apply", " am ", "patch -d", "busybox patch", "git -C by-git write-tree", "openssl pkeyutl -verify",
        "openssl dgst -sha256 -verify", "openssl pkey ", "ssh-keygen -l -f", "ssh-keygen -y", "verify-commit", "openssl verify",
        "openssl crl",
    ):  # fmt: skip
        assert command in plain, command
    for library in (
        "securesystemslib", "in_toto_attestation", "@sigstore/core", "go-securesystemslib", "in-toto/attestation",
        "transparency-dev/merkle", "@transmute/cose", "@auth0/cose",
    ):  # fmt: skip
        assert library in fetched, library
