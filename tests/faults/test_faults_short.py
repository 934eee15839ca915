"""The harness itself, short: real processes in namespaces are hurt, recover, and lose nothing. `make faults` runs it for longer."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults import machine
from tests.faults.measures import measure_failover
from tests.faults.mixed import MixedRun
from tests.faults.network import REPOSITORY

pytestmark = [pytest.mark.live, pytest.mark.slow]

SEED = 20261122
INTERRUPT_TIMEOUT_S = 60


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    obstacle = machine.find_obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)
    machine.sweep()
    before = _traces()
    yield
    assert _traces() == before


def _traces() -> tuple[set[str], int]:
    """Return the harness's namespaces, and how many of its mounts there are."""
    names = {entry.name for entry in machine.NETNS_DIRECTORY.glob(f"{machine.PREFIX}-*")}
    mounts = Path("/proc/mounts").read_text(encoding="utf-8")
    return names, sum(line.startswith(f"{machine.PREFIX}-") for line in mounts.splitlines())


def test_a_network_that_is_hurt_for_a_moment_loses_nothing_and_stays_linearizable(tmp_path: Path) -> None:
    kinds = ["kill", "partition", "pause", "one-way", "disk-full", "sync-error", "clock"]
    result = MixedRun(tmp_path, seed=SEED, minutes=0.75, only=kinds).run()
    assert result.violations == []
    assert result.rounds >= 3


def test_a_killed_leader_is_followed_by_another_one(tmp_path: Path) -> None:
    result = measure_failover(tmp_path, 2, SEED)
    assert result.violations == []


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.faults", "--minutes", "5", "--seed", str(SEED), "--only", "pause,disk-low"]
    with (tmp_path / "out").open("wb") as out:
        harness = subprocess.Popen(command, stdout=out, stderr=out, cwd=REPOSITORY)
    text = ""
    begin = time.monotonic()
    try:
        while "round 1" not in text and time.monotonic() - begin < INTERRUPT_TIMEOUT_S and harness.poll() is None:
            time.sleep(0.1)
            text = (tmp_path / "out").read_text(encoding="utf-8")
        namespaces = _traces()[0]
        children = _children(harness.pid)
        harness.send_signal(signal.SIGINT)
        code = harness.wait(INTERRUPT_TIMEOUT_S)
    finally:
        harness.kill()
        harness.wait()
    assert "round 1" in text, text
    assert any(name.startswith(f"{machine.PREFIX}-{harness.pid}-") for name in namespaces)
    assert len(children) >= 6  # Five nodes and the switch.
    assert code == 130, (tmp_path / "out").read_text(encoding="utf-8")[-3000:]
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return found
