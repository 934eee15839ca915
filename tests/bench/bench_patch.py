"""What one patch of ten files costs from its making to its application: `python -m tests.bench patch`.

Each step by itself, without the network: *create* is the whole command `patch create` after the start of Python, *verify* reads a file with
test result, review and seal, *decide* is the agent's policy step, *apply* everything from staging to the removed old tree on a real disk.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import trio

from agent import lifecycle, pipeline, registry
from agent.results import ResultCode
from node.keystore import save_key
from provenance.diff_model import FileState
from provenance.verify import verify_patch_untrusted
from tests.testkit import patches
from tests.testkit.agent import COMPONENT, OPERATOR, TARGET, World, write_tree
from tests.testkit.cli import run_json

FILES = 10
LINES = 200


def tree(generation: int) -> dict[str, FileState | None]:
    """Return ten files of which every generation changes three lines."""
    changed = {20: generation, 100: generation, 180: generation}
    return {
        f"src/file{number}.c": FileState(
            0o100644, b"".join(b"line %d, generation %d\n" % (line, changed.get(line, 0)) for line in range(LINES))
        )
        for number in range(FILES)
    }


def work_ms() -> float:
    """Return the processor time of this process and of its ended children, milliseconds."""
    times = os.times()
    return (times.user + times.system + times.children_user + times.children_system) * 1e3


def create_ms(directory: Path, rounds: int, *options: str) -> float:
    """Return the median processor time of `patch create`, milliseconds."""
    base = directory / "base"
    write_tree(base, tree(0))
    (base / "tests").mkdir()
    (base / "tests" / "check").write_text("exit 0\n")
    (directory / "fix.diff").write_bytes(patches.make_metadata(tree(0), tree(1))[1])
    if not (directory / "alice.key").exists():
        save_key(directory / "alice.key", patches.ALICE)
    command = (
        *("patch", "create", "--diff", directory / "fix.diff", "--base", base, "--reason", "Make it right"),
        *("--category", "bug-fix", "--author", "Alice Example <alice@acme.example>", "--key", directory / "alice.key"),
        *("--force", "--out", directory / "fix.patch", *options),
    )
    run_json(*command)
    durations = []
    for _ in range(rounds):
        before = work_ms()
        run_json(*command)
        durations.append(work_ms() - before)
    # The kernel counts in ticks of 10 ms for ended children: the mean is what many of them add up to.
    return statistics.fmean(durations)


def verify_ms(rounds: int) -> float:
    """Return the median duration of a whole verification, milliseconds."""
    data = patches.seal(patches.approve(patches.add_test_result(patches.make_patch(tree(0), tree(1)))))
    durations = []
    for _ in range(rounds):
        begin = time.perf_counter()
        verify_patch_untrusted(data)
        durations.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(durations)


@contextmanager
def timed(owner: Any, name: str, durations: list[tuple[float, float]]) -> Iterator[None]:
    """Measure every call of one function: duration and processor time, milliseconds."""
    original: Callable[..., Any] = getattr(owner, name)

    def measured(*arguments: Any, **options: Any) -> Any:
        begin, work = time.perf_counter(), time.thread_time()
        try:
            return original(*arguments, **options)
        finally:
            durations.append(((time.perf_counter() - begin) * 1e3, (time.thread_time() - work) * 1e3))

    with mock.patch.object(owner, name, measured):
        yield


def agent_ms(directory: Path, rounds: int) -> dict[str, float]:
    """Return the medians of the policy step and of an application, milliseconds."""

    async def apply_all() -> None:
        world = World(directory, tree=tree(0))
        await world.add_target()
        for generation in range(1, rounds + 1):
            data = world.release(patches.make_patch(tree(generation - 1), tree(generation), release_counter=generation))
            outcome = await world.agent.apply(data, TARGET, OPERATOR)
            assert outcome.code is ResultCode.SUCCESS, (COMPONENT, outcome)

    decisions: list[tuple[float, float]] = []
    owners: dict[str, Any] = {"apply_patch": lifecycle, "settle": lifecycle, "finish": registry}
    parts: dict[str, list[tuple[float, float]]] = {name: [] for name in owners}
    with ExitStack() as measured:
        measured.enter_context(timed(pipeline._Run, "_decide", decisions))
        for name, durations in parts.items():
            measured.enter_context(timed(owners[name], name, durations))
        trio.run(apply_all)
    applications = [tuple(map(sum, zip(*each, strict=True))) for each in zip(*parts.values(), strict=True)]
    return {
        "decide": statistics.median(each[0] for each in decisions),
        "decide, work": statistics.median(each[1] for each in decisions),
        "apply": statistics.median(each[0] for each in applications),
        "apply, work": statistics.median(each[1] for each in applications),
    }


def measure(quick: bool) -> dict[str, float]:
    """Return every figure by its name, milliseconds."""
    rounds = 5 if quick else 30
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        environment = directory / "environment.json"
        environment.write_bytes(patches.build_document())
        return {
            "create": create_ms(directory, rounds, "--build-env", str(environment)),
            "create, this machine described anew": create_ms(directory, rounds),
            "verify": verify_ms(rounds),
            **agent_ms(directory / "host", rounds),
        }
