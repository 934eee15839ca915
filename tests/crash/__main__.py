"""An agent is killed, cut from its power or refused by its disk at every file-system call, and what is left is judged.

python -m tests.crash                                      everything: about 40 minutes on two processors
python -m tests.crash --operation recover --fault kill     one operation, one fault
python -m tests.crash --stride 7                           every seventh point
python -m tests.crash --plant no-sync --fault power        with a bug put in; it must be found
python -m tests.crash --self-test                          each planted bug in turn; every one must be found
python -m tests.crash --list                               operations, modes, faults, disks, plants

Ends with 0 when nothing was found, with 1 otherwise. What cannot be done here is skipped with its reason.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.crash.campaign import DISKS, MODES, Job, jobs_of, plant_jobs, run_jobs
from tests.crash.faults import FAULTS
from tests.crash.matrix import OPERATIONS
from tests.crash.notify import missing_means
from tests.crash.plants import FOUND_BY, PLANTS

FINDINGS_SHOWN: Final = 20
MEMORY: Final = "/dev/shm"
MEMORY_BYTES_MIN: Final = 256 << 20


def main() -> int:
    """Run what the arguments name, and return the exit code."""
    # Ended from outside, it removes what it has made all the same.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    arguments = _parse()
    if arguments.list:
        for name, values in (
            ("operation", OPERATIONS),
            ("mode", MODES),
            ("fault", FAULTS),
            ("disk", DISKS),
            ("plant", PLANTS),
        ):
            print(f"--{name}: {' '.join(values)}")
        return 0
    reason = "as asked for" if arguments.no_kernel else missing_means()
    if reason:
        print(f"crash: calls are not stopped in the kernel but in the agent's own door to the file system: {reason}")
    with tempfile.TemporaryDirectory(prefix="pwcrash-", dir=arguments.directory or _base()) as directory:
        if arguments.self_test:
            return _self_test(Path(directory), watched=not reason)
        jobs = [job for job in jobs_of(arguments.stride, reduced=arguments.reduced) if _is_chosen(job, arguments)]
        if arguments.plant:
            jobs = [job.with_plant(arguments.plant) for job in jobs]
        return _run(jobs, Path(directory), arguments.jobs, watched=not reason)


def _run(jobs: list[Job], directory: Path, processes: int, *, watched: bool) -> int:
    begin = time.monotonic()
    totals = {"points": 0, "mixed": 0, "unexplained": 0, "lost": 0}
    shown = 0
    for job, said in run_jobs(jobs, directory, processes, watched=watched):
        if "skipped" in said:
            print(f"crash: {job}: skipped: {said['skipped']}", flush=True)
            continue
        for name in totals:
            totals[name] += said[name]
        print(f"crash: {job}: {_sentence(said)}, {said['seconds']:.0f} s", flush=True)
        for where in said["findings"]:
            shown += 1
            if shown <= FINDINGS_SHOWN:
                print(f"  {where}", flush=True)
    print(f"crash: {_sentence(totals)}; {time.monotonic() - begin:.0f} s")
    return 1 if totals["mixed"] + totals["unexplained"] + totals["lost"] else 0


def _self_test(directory: Path, *, watched: bool) -> int:
    """Put in each bug, and return 1 when one is not found."""
    missed = 0
    for job, said in run_jobs(plant_jobs(), directory, 1, watched=watched):
        if "skipped" in said:
            print(f"crash: bug {job.plant}: skipped: {said['skipped']}", flush=True)
        elif any(FOUND_BY[job.plant][-1] in each for each in said["findings"]):
            print(
                f"crash: bug {job.plant}: found by {job.fault}: {said['findings'][0].splitlines()[-1][:200]}",
                flush=True,
            )
        else:
            missed += 1
            print(f"crash: bug {job.plant}: NOT FOUND by {job.fault}: {said['findings'] or said['points']}", flush=True)
    return 1 if missed else 0


def _base() -> str | None:
    """Return where a kill loses no writes and syncs cost nothing: memory, where there is such a place with some room."""
    if not os.access(MEMORY, os.W_OK):
        return None
    status = os.statvfs(MEMORY)
    return MEMORY if status.f_bavail * status.f_frsize > MEMORY_BYTES_MIN else None


def _sentence(counts: dict[str, int]) -> str:
    return (
        f"{counts['points']:,} points: {counts['mixed']} mixed, {counts['unexplained']} unexplained, "
        f"{counts['lost']} lost records"
    )


def _is_chosen(job: Job, arguments: argparse.Namespace) -> bool:
    return all(
        wanted is None or value in wanted.split(",")
        for wanted, value in (
            (arguments.operation, job.operation),
            (arguments.mode, job.mode),
            (arguments.fault, job.fault),
            (arguments.disk, job.disk),
            (arguments.story, job.story),
        )
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--operation", help="only these, with commas between")
    parser.add_argument("--mode")
    parser.add_argument("--fault")
    parser.add_argument("--disk")
    parser.add_argument("--story")
    parser.add_argument("--plant", choices=tuple(PLANTS), help="put a bug in")
    parser.add_argument("--stride", type=int, default=1, help="do every how many-th point")
    parser.add_argument("--reduced", action="store_true", help="what the ordinary test run does")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--no-kernel", action="store_true", help="stop calls in the agent's own door only")
    parser.add_argument("--directory", help="where to work; in memory when there is such a place")
    parser.add_argument("--self-test", action="store_true", help="put in each bug in turn")
    parser.add_argument("--list", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
