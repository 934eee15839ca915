"""The systemd unit that the repository offers: it starts what exists, is accepted by systemd, and exposes little."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.inbox import InboxFolder
from node.process import EXIT_CORRUPTION, EXIT_REJECTED, EXIT_UNAVAILABLE
from tests.testkit.cli import every_command
from tests.testkit.unit_bounds import read_unit

UNIT = Path("deploy/systemd/patchwarden-host.service")
EXPOSURE_MAX = 2.0
"""Of 10, as `systemd-analyze security` counts; 1.8 with systemd 252."""
TOOL_SECONDS = 120


def test_the_unit_starts_a_command_that_exists_as_nobody_special(repository_root: Path) -> None:
    unit = read_unit((repository_root / UNIT).read_text())
    program, *words = shlex.split(unit["ExecStart"][0])
    assert program == "/usr/bin/patchwarden"
    command = dict(every_command())[tuple(words[:2])]
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words[2:] if word.startswith("--")} <= known
    assert unit["User"] == ["patchwarden"]
    assert words[words.index("--home") + 1] == f"/var/lib/{unit['StateDirectory'][0]}"
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == [""]
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["ProtectSystem"] == ["strict"]
    # An agent that may not change owners could not even keep its own.
    assert unit["SystemCallFilter"][-1].split() == ["@chown", "setrlimit"]


def test_what_a_next_start_can_repair_is_started_again(repository_root: Path) -> None:
    page = (repository_root / "docs/operations/node.md").read_text().partition("```ini\n")[2].partition("```")[0]
    for text in ((repository_root / UNIT).read_text(), page):
        unit = read_unit(text)
        assert unit["Restart"] == ["on-failure"]
        final = {int(word) for word in unit["RestartPreventExitStatus"][0].split()}
        assert EXIT_REJECTED in final
        assert not final & {EXIT_UNAVAILABLE, EXIT_CORRUPTION}


def test_what_an_inbox_keeps_is_readable_for_its_group(repository_root: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    (tmp_path / "fix.patch").write_bytes(b"")
    inbox = InboxFolder(str(tmp_path))
    (found,) = inbox.look()
    before = os.umask(int(read_unit((repository_root / UNIT).read_text())["UMask"][0], 8))
    try:
        inbox.settle(found, "done", {"code": "SUCCESS"})
    finally:
        os.umask(before)
    assert (tmp_path / "done").stat().st_mode & 0o777 == 0o750
    result = tmp_path / "done" / "fix.patch.json"
    assert result.stat().st_mode & 0o777 == 0o640
    assert json.loads(result.read_text()) == {"code": "SUCCESS"}


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=TOOL_SECONDS
    )


def test_systemd_finds_no_fault_in_the_unit(repository_root: Path, tmp_path: Path) -> None:
    # Neither the user nor the program need be on this machine; everything else is as it stands.
    text = (repository_root / UNIT).read_text()
    unit = tmp_path / UNIT.name
    unit.write_text(
        re.sub(r"^(User|Group)=.*$", r"\1=root", text, flags=re.M).replace("/usr/bin/patchwarden", "/bin/sh")
    )
    answer = analyze("verify", "--man=no", str(unit))
    if "SysV" in answer.stderr or "Failed to initialize" in answer.stderr:
        pytest.skip(f"systemd-analyze cannot verify here: {answer.stderr[:200]}")
    assert not [line for line in answer.stderr.splitlines() if UNIT.name in line], answer.stderr
    planted = tmp_path / "planted.service"
    planted.write_text(unit.read_text().replace("NoNewPrivileges=yes", "NoNewPrivilege=yes"))
    assert "NoNewPrivilege" in analyze("verify", "--man=no", str(planted)).stderr


def test_the_unit_exposes_little(repository_root: Path, tmp_path: Path) -> None:
    def exposure(unit: Path) -> float:
        answer = analyze("security", "--offline=true", "--no-pager", str(unit))
        found = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", answer.stdout)
        if found is None:
            pytest.skip(f"systemd-analyze cannot judge a file here: {answer.stderr[:200]}")
        return float(found[1])

    assert exposure(repository_root / UNIT) <= EXPOSURE_MAX
    bare = tmp_path / UNIT.name
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert exposure(bare) > EXPOSURE_MAX
