"""Which operations are hurt by which faults on which disks, and the processes that share the points among them."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import agent.standby
from agent.errors import PolicyRefusedError
from tests.crash.faults import FAULTS
from tests.crash.host import Disk, Host
from tests.crash.matrix import OPERATIONS, Matrix, Tally
from tests.crash.plants import FOUND_BY, PLANTS
from tests.crash.power import PowerDisk, hide_mounts, missing_power
from tests.crash.story import STANDBY, STANDBY_NEW, FindingError, make_story
from tests.testkit.agent import POLICIES, agent_genesis
from tests.testkit.ledger import Chain

POLICY_ATTEMPTS: Final = 5
_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None)
MODES: Final = ("exchange", "in-place", STANDBY, STANDBY_NEW)
DISKS: Final = ("memory", "ext4", "xfs")
_SHORT_KINDS: Final = ("mixed", "unexplained", "lost")
_KERNEL_ONLY: Final = frozenset({"kill-anywhere", "torn", "short", "power", "power-log"})
"""Faults that the agent's own door cannot do."""


_Row = tuple[str, str, str, str, int]
"""Operation, patch, faults, disk, every how many-th point."""
_FULL: Final[tuple[_Row, ...]] = (
    ("apply", "wide", "kill torn short enospc enospc-always eio eacces", "memory", 1),
    ("apply", "many", "kill torn enospc", "memory", 4),
    ("apply", "narrow", "kill-anywhere eio-always eacces-always", "memory", 1),
    ("rollback", "wide", "kill torn short enospc enospc-always", "memory", 1),
    ("rollback", "narrow", "eio eacces eio-always", "memory", 1),
    ("hooks", "narrow", "kill enospc", "memory", 1),
    ("trial", "narrow", "kill torn enospc", "memory", 1),
    ("trial", "narrow", "eio", "memory", 5),
    ("recover", "narrow", "kill torn", "memory", 1),
    ("recover", "narrow", "enospc", "memory", 3),
    ("recover", "narrow", "eio eacces eio-always", "memory", 6),
    ("recover", "wide", "kill", "memory", 9),
    ("recover-rollback", "narrow", "kill", "memory", 2),
    ("recover-trial", "narrow", "kill", "memory", 5),
    ("rerecover", "narrow", "kill", "memory", 2),
    ("rerecover-rollback", "narrow", "kill", "memory", 5),
    ("apply", "wide", "power power-log", "ext4", 1),
    ("apply", "wide", "power power-log", "xfs", 1),
    ("apply", "many", "power", "ext4", 7),
    ("rollback", "narrow", "power", "ext4", 1),
    ("rollback", "narrow", "power", "xfs", 1),
    ("trial", "narrow", "power", "ext4", 4),
    ("recover", "narrow", "power", "ext4", 5),
    ("recover", "narrow", "power", "xfs", 5),
)
_FULL_STANDBY: Final[tuple[_Row, ...]] = (
    ("apply", "wide", "kill torn short enospc enospc-always eio eacces", "memory", 1),
    ("apply", "narrow", "kill-anywhere eio-always eacces-always", "memory", 1),
    ("rollback", "wide", "kill enospc-always", "memory", 1),
    ("rollback", "narrow", "eio", "memory", 1),
    ("hooks", "narrow", "kill", "memory", 1),
    ("trial", "narrow", "kill torn enospc", "memory", 1),
    ("recover", "narrow", "kill", "memory", 2),
    ("recover", "narrow", "enospc eio", "memory", 7),
    ("recover", "wide", "kill", "memory", 19),
    ("recover-trial", "narrow", "kill", "memory", 11),
    ("rerecover", "narrow", "kill", "memory", 2),
    ("apply", "wide", "power power-log", "ext4", 1),
    ("apply", "wide", "power power-log", "xfs", 1),
    ("rollback", "narrow", "power", "ext4", 1),
    ("trial", "narrow", "power", "ext4", 4),
    ("recover", "narrow", "power", "ext4", 9),
    ("recover", "narrow", "power", "xfs", 9),
)
"""What is done to a tree that has a standby tree, beside what every exchange goes through."""
_REDUCED: Final[dict[str, tuple[_Row, ...]]] = {
    "exchange": (
        ("apply", "wide", "kill", "memory", 13),
        ("apply", "narrow", "torn", "memory", 4),
        ("recover", "narrow", "kill", "memory", 17),
        ("apply", "narrow", "power", "ext4", 23),
    ),
    "in-place": (
        ("apply", "wide", "kill", "memory", 13),
        ("apply", "narrow", "eio", "memory", 53),
        ("rollback", "narrow", "kill", "memory", 17),
        ("recover", "narrow", "kill", "memory", 17),
        ("apply", "narrow", "power", "xfs", 31),
    ),
    STANDBY: (
        ("apply", "wide", "kill", "memory", 17),
        ("recover", "narrow", "kill", "memory", 29),
    ),
    STANDBY_NEW: (("apply", "wide", "kill", "memory", 31),),
}
"""By mode: a little of everything, for the ordinary test run."""


@dataclass(frozen=True, slots=True)
class Job:
    """One operation under one fault."""

    operation: str
    mode: str
    story: str
    fault: str
    disk: str
    stride: int = 1
    plant: str = ""
    """A bug put in: then the first finding is enough."""

    def __str__(self) -> str:
        plant = f", with the bug {self.plant}" if self.plant else ""
        every = f", every {self.stride}th" if self.stride > 1 else ""
        return f"{self.operation}, {self.mode}, {self.story} patch, {self.fault} on {self.disk}{every}{plant}"

    def with_plant(self, plant: str) -> Job:
        """Return the same with a bug put in."""
        return replace(self, plant=plant)


def jobs_of(stride: int = 1, *, reduced: bool = False) -> list[Job]:
    """Return everything that is done, or what the ordinary test run does of it."""
    jobs: list[Job] = []
    for mode in MODES:
        full = _FULL_STANDBY if mode in (STANDBY, STANDBY_NEW) else _FULL
        for operation, story, faults, disk, every in _REDUCED[mode] if reduced else full:
            jobs += [Job(operation, mode, story, fault, disk, every * stride) for fault in faults.split()]
    return jobs


def plant_jobs() -> list[Job]:
    """Return a job for each planted bug, by which it must be found."""
    return [
        Job("apply", mode, "narrow", fault, disk, stride, plant)
        for plant, (mode, fault, disk, stride, _) in FOUND_BY.items()
    ]


def run_jobs(
    jobs: Sequence[Job], directory: Path, processes: int, *, watched: bool
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Yield each job with what was found: points, mixed, unexplained, lost, findings, seconds; or why it was skipped.

    Args:
        jobs: What to do, one after the other, each shared by all processes.
        directory: Where to work.
        processes: How many at a time.
        watched: Whether calls are stopped in the kernel.
    """
    _check_policies()
    for job in jobs:
        begin = time.monotonic()
        parts = []
        for number in range(processes):
            place = directory / f"part-{number}"
            place.mkdir()
            parts.append((place, *_start(job, place, (number, processes), watched)))
        said: list[dict[str, Any]] = []
        for place, child, reading in parts:
            with open(reading, "rb") as pipe:
                text = pipe.read()
            os.waitpid(child, 0)
            said.append(json.loads(text) if text else {"failed": "a worker ended without a word"})
            shutil.rmtree(place)
        yield job, _joined(said) | {"seconds": time.monotonic() - begin}


def _check_policies() -> None:
    """Let every worker find the policy set checked: it takes a process and a while."""
    policy = Chain(genesis=agent_genesis()).view.policy()
    for patience in range(POLICY_ATTEMPTS):
        try:
            POLICIES.get(policy)
        except PolicyRefusedError:
            # A machine that is busy with other things may be too slow for its time limit, once.
            if patience == POLICY_ATTEMPTS - 1:
                raise
        else:
            return


def _start(job: Job, place: Path, part: tuple[int, int], watched: bool) -> tuple[int, int]:
    """Fork a worker; return its process id and where it tells what it found."""
    reading, writing = os.pipe()
    child = os.fork()
    if child != 0:
        os.close(writing)
        return child, reading
    os.close(reading)
    # Whoever ends the parent ends this, too: a worker alone would go on for minutes.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        said = _work(job, place, part, watched)
    except BaseException:  # noqa: BLE001 - the parent is told every end
        said = {"failed": traceback.format_exc()}
    with open(writing, "wb") as pipe:
        pipe.write(json.dumps(said).encode())
    os._exit(0)


def _work(job: Job, place: Path, part: tuple[int, int], watched: bool) -> dict[str, Any]:
    if not watched and job.fault in _KERNEL_ONLY:
        return {"skipped": "it needs calls to be stopped in the kernel"}
    disk_directory = place / "disk"
    disk_directory.mkdir()
    if job.disk == "memory":
        disk: Disk = Disk(disk_directory)
    else:
        try:
            hide_mounts()
        except OSError as error:
            return {"skipped": f"{error.strerror}"}
        if reason := missing_power(job.disk, place):
            return {"skipped": reason}
        disk = PowerDisk(disk_directory, job.disk)
    try:
        plant = PLANTS[job.plant] if job.plant else None
        change, hooks, depth = OPERATIONS[job.operation]
        if job.mode in (STANDBY, STANDBY_NEW):
            agent.standby.STANDBY_ENTRIES_MIN = 1  # type: ignore[misc]
        story = make_story(job.story, change, job.mode, hooks)
        host = Host(place, disk, story, plant=plant, watched=watched)
        if job.mode in (STANDBY, STANDBY_NEW) and not host.has_standby:
            return {"skipped": "no standby tree can be kept on this file system"}
        matrix = Matrix(host, part, job.stride, stop_at_first=bool(job.plant))
        return _told(matrix.run(depth, FAULTS[job.fault]))
    except FindingError as finding:
        # Not at a point, but on the way to one.
        return _told(Tally(0, [(finding.kind, finding.sentence)]))
    finally:
        disk.close()


def _told(tally: Tally) -> dict[str, Any]:
    counts: dict[str, Any] = {kind: tally.count(kind) for kind in _SHORT_KINDS}
    return counts | {"points": tally.points, "findings": [f"{kind}: {where}" for kind, where in tally.findings]}


def _joined(said: list[dict[str, Any]]) -> dict[str, Any]:
    for each in said:
        if "failed" in each:
            raise RuntimeError(f"a worker failed:\n{each['failed']}")
        if "skipped" in each:
            return each
    return {
        "points": sum(each["points"] for each in said),
        **{kind: sum(each[kind] for each in said) for kind in _SHORT_KINDS},
        "findings": [where for each in said for where in each["findings"]],
    }
