"""Whether what the clients saw could have happened one call after the other.

A register is one identity: it is created once, then overwritten; its value is its first role. A history is linearizable when each call can
be given a moment between its beginning and its end such that the calls, in the order of these moments, get the answers that they got. A
call without an answer may have happened at any time after its beginning, or never.

The search is Wing and Gong's: whatever began before every unplaced call has ended may be next. What was tried is remembered (Lowe).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

NEVER = 1 << 60
"""The end of a call without an answer."""


class Action(StrEnum):
    """What a call asks for."""

    CREATE = "create"
    WRITE = "write"
    READ = "read"


class Answer(StrEnum):
    """What became of it."""

    DONE = "done"
    EXISTS = "exists"
    """A create was refused because the register exists."""
    MISSING = "missing"
    """A write was refused because it does not."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Call:
    """One call on one register. Moments are places in the order of all events of a run."""

    action: Action
    value: str | None
    """What is written, or what a read saw; None where there is no register."""
    began: int
    ended: int
    answer: Answer

    def __str__(self) -> str:
        end = "…" if self.answer is Answer.UNKNOWN else str(self.ended)
        return f"[{self.began}, {end}] {self.action} {self.value}: {self.answer}"


def is_linearizable(calls: Sequence[Call]) -> bool:
    """Return whether the calls on one register, absent at first, have an order that explains every answer."""
    ordered = sorted(calls, key=lambda call: (call.began, call.ended))
    tried: set[tuple[int, str | None]] = set()
    answered = sum(1 << index for index, call in enumerate(ordered) if call.answer is not Answer.UNKNOWN)
    stack: list[tuple[int, str | None]] = [(0, None)]
    while stack:
        placed, value = stack.pop()
        if placed & answered == answered:
            return True
        if (placed, value) in tried:
            continue
        tried.add((placed, value))
        deadline = NEVER
        for index, call in enumerate(ordered):
            if placed >> index & 1:
                continue
            if call.began > deadline:
                break
            if call.answer is not Answer.UNKNOWN:
                deadline = min(deadline, call.ended)
            fits, after = _take(value, call)
            if fits:
                stack.append((placed | 1 << index, after))
    return False


def _take(value: str | None, call: Call) -> tuple[bool, str | None]:
    """Return whether the call could have got its answer when the register held `value`, and what it holds then."""
    match call.action, call.answer:
        case Action.CREATE, (Answer.DONE | Answer.UNKNOWN):
            return value is None, call.value
        case Action.CREATE, Answer.EXISTS:
            return value is not None, value
        case Action.WRITE, (Answer.DONE | Answer.UNKNOWN):
            return value is not None, call.value
        case Action.WRITE, Answer.MISSING:
            return value is None, value
        case Action.READ, Answer.DONE:
            return value == call.value, value
    return False, value
