"""The systemd unit that the repository offers: it starts what exists, is accepted by systemd, and exposes little."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.testkit.cli import every_command

UNIT = Path("deploy/systemd/patchwarden-host.service")
EXPOSURE_MAX = 2.0
"""Of 10, as `systemd-analyze security` counts; 1.8 with systemd 252."""
TOOL_SECONDS = 120


def settings(text: str) -> dict[str, list[str]]:
    """Return the values of each setting, in order; every line is a section, a comment or a setting."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if not line or line.startswith("#") or re.fullmatch(r"\[(Unit|Service|Install)\]", line):
            continue
        name, separator, value = line.partition("=")
        assert separator, line
        assert re.fullmatch(r"[A-Za-z]+", name), line
        found.setdefault(name, []).append(value)
    return found


def test_the_unit_starts_a_command_that_exists_as_nobody_special(repository_root: Path) -> None:
    unit = settings((repository_root / UNIT).read_text())
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
