"""The fuzzer's short form: every target takes its seeds, its kept inputs and some hundred damaged ones; and the harness notices faults.

The long form is `make fuzz`. Both run the same targets with the same checks.
"""

from __future__ import annotations

import ast
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest

from tests.fuzz.__main__ import replay
from tests.fuzz.mutate import inputs
from tests.fuzz.target import (
    CORPUS,
    MEMORY_BYTES_FIXED,
    MEMORY_BYTES_PER_BYTE,
    Fault,
    Tally,
    Target,
    cpu_ns_max,
    try_input,
)
from tests.fuzz.targets import all_targets
from wire.errors import MalformedError, RejectedError

SEED = 20261122
MEMORY_EVERY = 25
"""One input of so many is measured, which takes several times as long; the seeds all are."""
TARGETS = all_targets()
ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_in_is_accepted_or_refused_in_bounded_time_and_memory(name: str) -> None:
    target = TARGETS[name][1]
    kept = len(target.seeds()) + len(target.committed())
    tally = Tally()
    for index, data in enumerate(inputs(target, SEED)):
        finding = try_input(target, data, tally, with_memory=index < kept or index % MEMORY_EVERY == 0)
        assert finding is None, f"{finding.place}: {finding.what}\nseed {SEED}, input {index}: {finding.data[:200]!r}"
    assert tally.accepted, "no input was accepted: the seeds are stale"
    assert tally.refused, "no input was refused: nothing was damaged"


def test_inputs_are_the_same_for_the_same_seed() -> None:
    target = TARGETS["diff"][1]
    assert list(inputs(target, 7)) == list(inputs(target, 7))
    assert list(inputs(target, 7)) != list(inputs(target, 8))


PACKAGES = ("wire", "provenance", "ledger", "consensus", "agent", "node")
BEHIND_OTHER_DOORS = {
    "LedgerReplica.execute_untrusted": "block, transaction",
    "LedgerReplica.execute_now_untrusted": "block, transaction",
    "_decode_untrusted": "block, transaction",
    "CheckpointWatch.take_untrusted": "checkpoint",
    "CheckpointWatch.take_blocks_untrusted": "block, certificates",
    "_set_from_value_untrusted": "header",
    "_validator_from_value_untrusted": "header",
}
"""Doors that only lead to others, or that are passed once a process because the result is remembered; with the targets that feed those."""


def doors() -> set[tuple[str, str]]:
    """Return file and qualified name of every function whose name promises to take any bytes."""
    found: set[tuple[str, str]] = set()

    def look(node: ast.AST, file: str, outer: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                if child.name.endswith("_untrusted"):
                    found.add((file, outer + child.name))
            elif isinstance(child, ast.ClassDef):
                look(child, file, f"{outer}{child.name}.")

    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            look(ast.parse(path.read_text()), str(path), "")
    return found


def test_every_door_for_untrusted_bytes_is_reached_by_a_seed() -> None:
    """Whoever writes a new one writes its target, or says here which one leads to it."""
    seeds = [(target, data) for _, target in TARGETS.values() for data in target.seeds() if target.name != "diff-tools"]
    reached: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name.endswith("_untrusted"):
            reached.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        for target, data in seeds:
            with suppress(*target.refusals):
                target.take(data)
    finally:
        sys.setprofile(before)
    missing = {name for _, name in doors() - reached} - set(BEHIND_OTHER_DOORS)
    assert not missing, f"no target of tests/fuzz reaches {sorted(missing)}"
    assert set().union(*(named.split(", ") for named in BEHIND_OTHER_DOORS.values())) <= set(TARGETS)


def test_every_kept_input_belongs_to_a_target() -> None:
    assert {folder.name for folder in CORPUS.iterdir() if folder.is_dir()} <= set(TARGETS)


def planted(take: Callable[[bytes], bool]) -> Target:
    return Target("planted", take, lambda: [b"seed"])


def refuse(data: bytes) -> bool:
    raise MalformedError("wire.codec.truncated", "too short", actual=len(data))


def test_what_the_door_documents_is_no_finding() -> None:
    tally = Tally()
    assert try_input(planted(refuse), b"x", tally, with_memory=True) is None
    assert (tally.accepted, tally.refused) == (0, 1)


@pytest.mark.parametrize("error", [ValueError("no"), RecursionError(), MemoryError(), SystemExit(3), AssertionError()])
def test_any_other_exception_is_a_finding(error: BaseException) -> None:
    def crash(data: bytes) -> bool:
        raise error

    finding = try_input(planted(crash), b"x", Tally())
    assert finding is not None
    assert finding.fault is Fault.EXCEPTION
    assert finding.place == f"{type(error).__name__} in crash"
    assert finding.data == b"x"


def test_findings_of_one_place_have_one_name() -> None:
    def crash(data: bytes) -> bool:
        raise KeyError(data) if data else IndexError

    found = [try_input(planted(crash), data, Tally()) for data in (b"a", b"b", b"")]
    names = [finding.name for finding in found if finding]
    assert names[0] == names[1] != names[2]


def spend(cpu_ns: int) -> None:
    began = time.thread_time_ns()
    while time.thread_time_ns() - began < cpu_ns:
        pass


def test_an_input_that_takes_too_long_for_its_length_is_a_finding() -> None:
    def slow(data: bytes) -> bool:
        spend(cpu_ns_max(data) * 11 // 10)
        return True

    finding = try_input(planted(slow), b"x" * 100, Tally())
    assert finding is not None
    assert finding.fault is Fault.TIME


def test_one_slow_try_of_several_is_no_finding() -> None:
    tries = []

    def slow_once(data: bytes) -> bool:
        tries.append(data)
        if len(tries) == 1:
            spend(cpu_ns_max(data) * 11 // 10)
        return True

    assert try_input(planted(slow_once), b"x", Tally()) is None
    assert len(tries) > 1


@pytest.mark.parametrize("refuses", [False, True])
def test_an_input_that_takes_too_much_memory_for_its_length_is_a_finding(refuses: bool) -> None:
    def swell(data: bytes) -> bool:
        held = bytearray(MEMORY_BYTES_FIXED + MEMORY_BYTES_PER_BYTE * len(data) + 100_000)
        del held
        if refuses:
            raise RejectedError("fuzz.refused", "after the harm")
        return True

    assert try_input(planted(swell), b"x" * 10, Tally()) is None
    finding = try_input(planted(swell), b"x" * 10, Tally(), with_memory=True)
    assert finding is not None
    assert finding.fault is Fault.MEMORY


@pytest.mark.parametrize(
    ("data", "code", "told"), [(b"\x93\x01\x02", 0, "refused"), (b"\x93\x01\x02\x03", 0, "accepted")]
)
def test_an_input_is_replayed_without_the_fuzzer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes, code: int, told: str
) -> None:
    path = tmp_path / "input"
    path.write_bytes(data)
    assert replay(TARGETS["codec"][1], path) == code
    assert capsys.readouterr().out == f"codec: {told}, as it should be\n"


def test_a_replayed_finding_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"x")

    def crash(data: bytes) -> bool:
        raise KeyError(data)

    assert replay(planted(crash), path) == 1
    assert capsys.readouterr().out.startswith("planted: exception KeyError in crash\n")
