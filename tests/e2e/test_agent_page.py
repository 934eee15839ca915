"""docs/operations/agent.md leads where it says: its commands are run again, and print what it shows.

`pytest -m network tests/e2e/test_agent_page.py` installs a host from the lock file as section 1 does.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.testkit.console import read_steps, run_page

PAGE = Path("docs/operations/agent.md")
TOOLS = ("bash", "git", "sed", "grep", "cat")


def need(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Linux bounds the path of a Unix socket.
    directory = tmp_path_factory.mktemp("page") / "work"
    directory.mkdir()
    return directory


@pytest.mark.live
@pytest.mark.slow
def test_an_empty_host_comes_where_the_page_says(
    repository_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    need(*TOOLS)
    run_page((repository_root / PAGE).read_text(), scratch(tmp_path_factory), ("devnet",))


@pytest.mark.network
def test_a_host_is_installed_as_the_page_says(repository_root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    need(*TOOLS, "make", "sha256sum")
    run_page((repository_root / PAGE).read_text(), scratch(tmp_path_factory), ("network",))


def test_the_page_leads_through_everything_that_an_operator_does(repository_root: Path) -> None:
    steps = list(read_steps((repository_root / PAGE).read_text()))
    assert {word for step in steps for word in step.needs} == {"devnet", "network"}
    run = [step for step in steps if "devnet" in step.needs]
    commands = "\n".join(step.command for step in run)
    for command in (
        "node init", "identity register", "node start", "agent target add", "agent explain", "agent apply", "agent rollback",
        "agent status", "agent history", "agent drift", "agent target adopt", "agent target hook", "agent doctor", "agent outbox",
        "agent target remove",
        "node stop", "identity revoke", "audit trace",
    ):  # fmt: skip
        assert f"patchwarden {command}" in commands, command
    assert "--mode in-place" in commands
    shown = "\n".join(line for step in run for line in step.output)
    for ending in (
        "ERROR_POLICY_DENIED", "SUCCESS", "ROLLED_BACK", "ERROR_APPLY_FAILED", "has drifted", "host.report", "0 failures",
    ):  # fmt: skip
        assert ending in shown, ending
