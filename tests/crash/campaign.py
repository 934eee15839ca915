"""Which operations are hurt by which faults on which disks, and the processes that share the points among them."""

from __future__ import annotations

import json
import os
import shutil
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tests.crash.faults import FAULTS
from tests.crash.host import Disk, Host
from tests.crash.matrix import Matrix, Tally
from tests.crash.plants import FOUND_BY, PLANTS
from tests.crash.power import PowerDisk, hide_mounts, missing_power
from tests.crash.story import STORIES, FindingError

MODES: Final = ("exchange",)
DISKS: Final = ("memory", "ext4", "xfs")
_SHORT_KINDS: Final = ("mixed", "unexplained", "lost")
_KERNEL_ONLY: Final = frozenset({"kill-anywhere", "torn", "short", "power", "power-log"})
"""Faults that the agent's own door cannot do."""


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
    in_memory = [name for name in FAULTS if not name.startswith("power") and name != "kill-anywhere"]
    if reduced:
        jobs += [Job("apply", mode, "wide", "kill", "memory", 7 * stride) for mode in MODES]
        jobs += [Job("apply", mode, "narrow", "torn", "memory", 2 * stride) for mode in MODES]
        jobs += [Job("apply", mode, "narrow", "enospc", "memory", 7 * stride) for mode in MODES]
        jobs += [Job("apply", mode, "narrow", "eio-always", "memory", 29 * stride) for mode in MODES]
        jobs += [Job("apply", mode, "narrow", "eacces", "memory", 29 * stride) for mode in MODES]
        jobs += [Job("recover", mode, "narrow", "kill", "memory", 9 * stride) for mode in MODES]
        jobs += [Job("apply", mode, "narrow", "power", disk, 17 * stride) for mode in MODES for disk in DISKS[1:]]
        return jobs
    for mode in MODES:
        jobs += [Job("apply", mode, "wide", fault, "memory", stride) for fault in in_memory]
        jobs.append(Job("apply", mode, "narrow", "kill-anywhere", "memory", stride))
        jobs += [Job("recover", mode, "narrow", fault, "memory", stride) for fault in ("kill", "torn", "enospc")]
        jobs += [
            Job("recover", mode, "narrow", fault, "memory", 5 * stride) for fault in ("eio", "eacces", "eio-always")
        ]
        jobs.append(Job("rerecover", mode, "narrow", "kill", "memory", stride))
        for disk in DISKS[1:]:
            jobs += [Job("apply", mode, "wide", fault, disk, stride) for fault in ("power", "power-log")]
            jobs += [Job("recover", mode, "narrow", fault, disk, 4 * stride) for fault in ("power", "power-log")]
    return jobs


def plant_jobs() -> list[Job]:
    """Return a job for each planted bug, by which it must be found."""
    return [
        Job("apply", "exchange", "narrow", fault, disk, stride, plant)
        for plant, (fault, disk, stride) in FOUND_BY.items()
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


def _start(job: Job, place: Path, part: tuple[int, int], watched: bool) -> tuple[int, int]:
    """Fork a worker; return its process id and where it tells what it found."""
    reading, writing = os.pipe()
    child = os.fork()
    if child != 0:
        os.close(writing)
        return child, reading
    os.close(reading)
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
        host = Host(place, disk, STORIES[job.story](), plant=plant, watched=watched)
        matrix = Matrix(host, part, job.stride, stop_at_first=bool(job.plant))
        return _told(matrix.run(job.operation, FAULTS[job.fault]))
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
