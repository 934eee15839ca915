"""The crash harness in a reduced form: it finds nothing in the agent as it is, and every bug that is put in."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.campaign import jobs_of
from tests.crash.plants import PLANTS

pytestmark = [pytest.mark.slow]

TIMEOUT_S = 900


def crash(repository_root: Path, directory: Path, *arguments: str) -> str:
    """Run the harness in a process of its own: it forks, and may give itself mounts."""
    command = [sys.executable, "-m", "tests.crash", "--jobs", "1", *arguments]
    done = subprocess.run(command, cwd=repository_root, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_nothing_mixed_nothing_unexplained_nothing_lost(repository_root: Path, tmp_path: Path) -> None:
    said = crash(repository_root, tmp_path, "--reduced")
    skipped = said.count(": skipped: ")
    found = re.findall(
        r"^crash: (\w+, .*): ([\d,]+) points: 0 mixed, 0 unexplained, 0 lost records, ", said, re.MULTILINE
    )
    assert len(found) + skipped == len(jobs_of(reduced=True))
    assert all(int(points.replace(",", "")) > 0 for _, points in found)
    total = re.search(r"^crash: ([\d,]+) points: 0 mixed, 0 unexplained, 0 lost records; ", said, re.MULTILINE)
    assert total is not None
    assert int(total[1].replace(",", "")) > 20


def test_every_planted_bug_is_found(repository_root: Path, tmp_path: Path) -> None:
    said = crash(repository_root, tmp_path, "--self-test")
    lines = [line for line in said.splitlines() if line.startswith("crash: bug ")]
    assert len(lines) == len(PLANTS)
    assert all(": found by " in line or ": skipped: " in line for line in lines), said
    # Whatever is missing here, a kill and an error can always be made.
    assert sum(": found by " in line for line in lines) >= 5, said
