"""What a patch of ten files costs in a tree of 10,000, beside `git apply` and `patch` on the same work.

Part of `python -m tests.bench patch`. The whole pipeline of the agent counts, from the bytes of the patch file to the recorded end, but for
the ledger itself: what the fake ledger takes is subtracted. *Work* is processor time, of ended children too.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from provenance.diff_model import FileState
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, STANDBY_NAME, TARGET, FakeLedger, World, write_tree

DIRECTORIES = 250
FILES = 10_000
PATCHED = 10
LINES = 100
Tree = dict[str, FileState | None]


def content(number: int, generation: int) -> FileState:
    """Return one file of some 3 KB, of which every generation changes two lines."""
    lines = (
        b"file %d, line %d, generation %d\n" % (number, line, generation * (line in (30, 70))) for line in range(LINES)
    )
    return FileState(0o100644, b"".join(lines))


def name(number: int) -> str:
    directory = number % DIRECTORIES
    return f"part{directory // 25}/section{directory % 25}/file{number // DIRECTORIES}.txt"


def whole() -> Tree:
    """Return the tree: 250 directories below ten, 40 files in each."""
    return {name(number): content(number, 0) for number in range(FILES)}


def touched(generation: int, *, spread: bool) -> Tree:
    """Return the ten files that a patch changes: of one directory, or each of another top directory."""
    numbers = range(0, DIRECTORIES, DIRECTORIES // PATCHED) if spread else range(0, PATCHED * DIRECTORIES, DIRECTORIES)
    return {name(number): content(number, generation) for number in numbers}


class MeteredLedger(FakeLedger):
    """Counts the processor time that the ledger itself takes, which is not the pipeline's."""

    def __init__(self, chain: Any) -> None:
        super().__init__(chain)
        self.work_ms = 0.0

    def view(self) -> Any:
        begin = time.thread_time()
        try:
            return super().view()
        finally:
            self.work_ms += (time.thread_time() - begin) * 1e3

    def accept(self, raw: bytes) -> None:
        begin = time.thread_time()
        try:
            super().accept(raw)
        finally:
            self.work_ms += (time.thread_time() - begin) * 1e3


def pipeline_ms(
    directory: Path, mode: str, rounds: int, *, spread: bool, is_first: bool = False
) -> tuple[float, float]:
    """Return the median work and duration of an application, milliseconds; with `is_first`, each finds no standby tree."""
    works, durations = [], []

    async def run() -> None:
        world = World(directory, tree=whole())
        world.ledger = MeteredLedger(world.chain)
        world.reopen()
        await world.add_target(mode=mode)
        # What was just written is read once more by the next scan; a target is not patched in the second it is added.
        await trio.sleep(0.1)
        await world.agent.check_drift()
        for generation in range(1, rounds + 1):
            before, after = touched(generation - 1, spread=spread), touched(generation, spread=spread)
            data = world.release(patches.make_patch(before, after, release_counter=generation))
            world.ledger.view()
            if is_first:
                shutil.rmtree(world.root.parent / STANDBY_NAME)
                await world.agent.check_drift()
            await trio.sleep(0.1)
            ledger, begin, work = world.ledger.work_ms, time.perf_counter(), time.process_time()
            outcome = await world.agent.apply(data, TARGET, OPERATOR)
            inside = world.ledger.work_ms - ledger
            works.append((time.process_time() - work) * 1e3 - inside)
            durations.append((time.perf_counter() - begin) * 1e3 - inside)
            assert outcome.is_success, outcome.message
        assert not (await world.agent.show_target(TARGET)).is_drifted
        world.agent.close()

    trio.run(run)
    return statistics.median(works), statistics.median(durations)


def drift_ms(directory: Path, rounds: int) -> float:
    """Return the median work of a scan of the unchanged tree, milliseconds."""

    async def run() -> list[float]:
        world = World(directory, tree=whole())
        await world.add_target()
        await trio.sleep(0.1)
        await world.agent.check_drift()
        works = []
        for _ in range(rounds):
            begin = time.process_time()
            assert await world.agent.check_drift() == ()
            works.append((time.process_time() - begin) * 1e3)
        world.agent.close()
        return works

    return statistics.median(trio.run(run))


def tool_ms(directory: Path, command: tuple[str, ...], rounds: int) -> tuple[float, float]:
    """Return the mean work and the median duration of another tool that applies the same diff, milliseconds."""
    write_tree(directory, whole())
    durations: list[float] = []
    before = os.times()
    for generation in range(1, rounds + 1):
        diff = patches.make_metadata(touched(generation - 1, spread=True), touched(generation, spread=True))[1]
        begin = time.perf_counter()
        subprocess.run(command, input=diff, cwd=directory, check=True, capture_output=True)
        durations.append((time.perf_counter() - begin) * 1e3)
    after = os.times()
    work = after.children_user + after.children_system - before.children_user - before.children_system
    return work * 1e3 / rounds, statistics.median(durations)


def measure(quick: bool) -> dict[str, tuple[float, str]]:
    """Return every figure by its name, in milliseconds, with its target."""
    rounds = 3 if quick else 9
    found: dict[str, tuple[float, str]] = {}

    def within(action: Callable[[Path], Any]) -> Any:
        path = Path(tempfile.mkdtemp())
        try:
            return action(path / "host")
        finally:
            shutil.rmtree(path)

    for title, mode, spread, is_first, target in (
        ("in place, files everywhere", "in-place", True, False, "target <= 25"),
        ("exchange, files of one directory", "exchange", False, False, "target <= 150"),
        ("exchange, files everywhere", "exchange", True, False, "target <= 150"),
        ("exchange, everywhere, no standby tree yet", "exchange", True, True, "it is made by the way"),
    ):
        work, duration = within(
            lambda path, mode=mode, spread=spread, is_first=is_first: pipeline_ms(
                path, mode, rounds, spread=spread, is_first=is_first
            )
        )
        found[f"whole pipeline {title}, work"] = (work, target)
        found[f"whole pipeline {title}, duration"] = (duration, "")
    found["drift scan of the unchanged tree, work"] = (within(lambda path: drift_ms(path, rounds)), "target <= 60")
    for tool, command in (("git apply", ("git", "apply")), ("patch", ("patch", "-p1", "-s"))):
        if shutil.which(command[0]) is None:
            continue
        work, duration = within(lambda path, command=command: tool_ms(path, command, 3 * rounds))
        found[f"{tool}, work"], found[f"{tool}, duration"] = (
            (work, "nothing verified, recorded or made durable"),
            (duration, ""),
        )
    return found


if __name__ == "__main__":
    for title, (value, note) in measure(True).items():
        print(f"{title:<60} {value:>10.1f} ms  {note}")
