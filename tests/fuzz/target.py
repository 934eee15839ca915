"""What a target of the fuzzer is, and what it must never do.

A target takes any bytes and returns whether it accepted them. It may raise what its door documents, which is `RejectedError` nearly always;
anything else is a finding, and so is an input that costs more time or memory than its length allows.
"""

from __future__ import annotations

import hashlib
import time
import traceback
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from wire.errors import RejectedError

CPU_NS_FIXED: Final = 150_000_000
"""What any input may cost. No seed takes a fiftieth of it, but the first request to the gateway, which makes its models."""
CPU_NS_PER_BYTE: Final = 20_000
"""What a byte may add. The worst inputs that we know take 2,000 (`tests/fuzz/test_worst_inputs.py`), cases of policies up to 8,000,
and all several times as much under the fuzzer's instrumentation."""
CPU_TRIES: Final = 3
"""An input is too slow when the fastest of so many tries is: another process may have had the processor's caches."""
MEMORY_BYTES_FIXED: Final = 2 * 1024 * 1024
"""What any input may make Python allocate at the worst moment."""
MEMORY_BYTES_PER_BYTE: Final = 200
"""What a byte may add. The worst that we know is 132: a list of empty lists in CBOR, one byte each."""
INPUT_BYTES_MAX: Final = 8 * 1024
"""The longest input, unless the target says otherwise."""

_ROOT: Final = Path(__file__).parent.parent.parent
CORPUS: Final = Path(__file__).parent / "corpus"
"""Inputs that are kept: one folder a target. `regression-…` was a finding once."""


class Fault(Enum):
    """What can be wrong with how a target took an input."""

    EXCEPTION = "exception"
    TIME = "time"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Finding:
    """One input that a target did not take as it should."""

    target: str
    fault: Fault
    place: str
    """Where: the exception's class and the deepest line of ours, or ""; findings of one place are one finding."""
    what: str
    """For people: the traceback's end, or the cost and its limit."""
    data: bytes

    @property
    def name(self) -> str:
        """A file name that equal findings share."""
        key = f"{self.target} {self.fault.value} {self.place}"
        return f"{self.target}-{self.fault.value}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class Target:
    """One door."""

    name: str
    take: Callable[[bytes], bool]
    """Reads an input to the end and returns whether it was accepted; it also checks what must hold of an accepted one."""
    seeds: Callable[[], Sequence[bytes]]
    """Makes good inputs, so that they never grow stale."""
    refusals: tuple[type[BaseException], ...] = (RejectedError,)
    """What the door documents."""
    words: tuple[bytes, ...] = ()
    """Pieces of the format that are hard to guess."""
    input_bytes_max: int = INPUT_BYTES_MAX
    share: int = 1
    """How large a part of the minutes it gets."""
    short_inputs: int = 300
    """Mutated inputs in the short form."""

    def committed(self) -> list[bytes]:
        """Return the kept inputs, the findings of the past among them."""
        folder = CORPUS / self.name
        return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []


@dataclass(slots=True)
class Tally:
    """How often a target accepted and refused."""

    accepted: int = 0
    refused: int = 0

    @property
    def executions(self) -> int:
        return self.accepted + self.refused


def cpu_ns_max(data: bytes) -> int:
    return CPU_NS_FIXED + CPU_NS_PER_BYTE * len(data)


def memory_bytes_max(data: bytes) -> int:
    return MEMORY_BYTES_FIXED + MEMORY_BYTES_PER_BYTE * len(data)


def try_input(target: Target, data: bytes, tally: Tally, *, with_memory: bool = False) -> Finding | None:
    """Give the input to the target; return what is wrong with how it was taken, or None."""
    began = time.thread_time_ns()
    finding = _take(target, data, tally)
    spent = time.thread_time_ns() - began
    if finding is None and spent > cpu_ns_max(data):
        finding = _check_time(target, data, spent)
    if finding is None and with_memory:
        finding = _check_memory(target, data)
    return finding


def _take(target: Target, data: bytes, tally: Tally) -> Finding | None:
    try:
        accepted = target.take(data)
    except target.refusals:
        tally.refused += 1
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever else comes out is what the fuzzer looks for
        tally.refused += 1
        return Finding(target.name, Fault.EXCEPTION, _place(error), _tell(error), data)
    else:
        if accepted:
            tally.accepted += 1
        else:
            tally.refused += 1
    return None


def _check_time(target: Target, data: bytes, spent: int) -> Finding | None:
    for _ in range(CPU_TRIES - 1):
        began = time.thread_time_ns()
        _take(target, data, Tally())
        spent = min(spent, time.thread_time_ns() - began)
    if spent <= cpu_ns_max(data):
        return None
    what = f"{len(data)} bytes took {spent // 1_000_000} ms, allowed are {cpu_ns_max(data) // 1_000_000} ms"
    return Finding(target.name, Fault.TIME, "", what, data)


def _check_memory(target: Target, data: bytes) -> Finding | None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        _take(target, data, Tally())
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    if peak <= memory_bytes_max(data):
        return None
    what = f"{len(data)} bytes took {peak} bytes of memory, allowed are {memory_bytes_max(data)}"
    return Finding(target.name, Fault.MEMORY, "", what, data)


def _place(error: BaseException) -> str:
    ours = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(str(_ROOT)) and "/.venv/" not in frame.filename
    ]
    # Not the line's number: a recursion ends now here and now there.
    return f"{type(error).__name__} in {ours[-1].name}" if ours else type(error).__name__


def _tell(error: BaseException) -> str:
    return "".join(traceback.format_exception(error, limit=-6))[-4000:]
