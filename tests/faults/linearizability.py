"""Whether a history of calls on one register is linearizable, after Wing and Gong, with Lowe's memory of what was tried.

A history is linearizable when every call can be given one moment between its call and its return, so that the calls in the order of these
moments behave as the register says. The search takes the calls in order: at any point, one that began before every unfinished one has
returned may be next. Pairs of (which calls are placed, value) that led nowhere are never tried again.

A call without an answer may be placed anywhere after its beginning, or nowhere.

The register is an identity on the ledger: absent, then created once, then overwritten. A refusal tells its state as a read does.
Source: Wing and Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for linearizability" (2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.faults.history import Operation

EXISTS: Final = "ledger.identity.exists"
STEPS_MAX: Final = 5_000_000
"""Beyond this the search gives up; a register with a bounded number of calls stays far below."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the search found out about one register."""

    is_linearizable: bool
    steps: int
    stuck: tuple[Operation, ...] = ()
    """Where it is not: the calls of which none could be placed after the longest order that was found."""
    value: str | None = None
    """The register's value there."""


class SearchTooLongError(Exception):
    """The history is too large to be judged."""


def apply(value: str | None, operation: Operation) -> tuple[bool, str | None]:
    """Return whether the call could have had its answer when the register held `value`, and what it holds afterwards."""
    match operation.action, operation.outcome:
        case "create", "ok":
            return value is None, operation.argument
        case "create", "refused":
            return value is not None and operation.result == EXISTS, value
        case "create", None:
            return value is None, operation.argument
        case "write", ("ok" | None):
            return value is not None, operation.argument
        case "read", "ok":
            return value == operation.result, value
        case _:
            return False, value


def check_register(operations: Sequence[Operation]) -> Verdict:
    """Return whether the calls on one register, all of the same key, are linearizable; local looks are not asked for.

    Raises:
        SearchTooLongError: More than `STEPS_MAX` steps.
    """
    done = sorted((op for op in operations if not op.is_open and op.action != "look"), key=lambda op: op.called_ns)
    # A read without an answer says nothing and changes nothing.
    open_calls = [op for op in operations if op.is_open and op.action in ("create", "write")]
    tried: set[tuple[int, int, int, str | None]] = set()
    # Placed are: everything below `low`, the bits of `mask` above it, the bits of `extra` among the calls without an answer.
    stack: list[tuple[int, int, int, str | None]] = [(0, 0, 0, None)]
    longest: tuple[int, tuple[Operation, ...], str | None] = (-1, (), None)
    steps = 0
    while stack:
        low, mask, extra, value = stack.pop()
        while mask & 1:
            mask >>= 1
            low += 1
        if low == len(done):
            return Verdict(True, steps)
        if (low, mask, extra, value) in tried:
            continue
        tried.add((low, mask, extra, value))
        steps += 1
        if steps > STEPS_MAX:
            raise SearchTooLongError(f"{len(done)} calls, {len(open_calls)} of them without an answer")
        candidates, deadline = _candidates(done, low, mask)
        placed = low + mask.bit_count()
        if placed > longest[0]:
            longest = (placed, tuple(done[index] for index in candidates), value)
        for number, operation in enumerate(open_calls):
            if not extra >> number & 1 and operation.called_ns <= deadline:
                fits, after = apply(value, operation)
                if fits:
                    stack.append((low, mask, extra | 1 << number, after))
        for index in reversed(candidates):
            fits, after = apply(value, done[index])
            if fits:
                stack.append((low, mask | 1 << (index - low), extra, after))
    return Verdict(False, steps, longest[1], longest[2])


def _candidates(done: Sequence[Operation], low: int, mask: int) -> tuple[list[int], int]:
    """Return which calls may be next, and until when one must have been called for that."""
    deadline = done[low].returned_ns
    unplaced = []
    index = low
    while index < len(done) and done[index].called_ns <= deadline:
        if not mask >> (index - low) & 1:
            unplaced.append(index)
            deadline = min(deadline, done[index].returned_ns)
        index += 1
    return [index for index in unplaced if done[index].called_ns <= deadline], deadline
