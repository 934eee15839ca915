"""The history of a run: every call of every client with its moment of call and return, and every fault; one JSON object a line.

Moments are nanoseconds of the machine's monotonic clock; all clients live in one process, so they compare. A call that never got a final
answer has no ``return`` line: it may have taken effect at any time after its call, or never.

=========  ==========================================================================================================
event      members
=========  ==========================================================================================================
`call`     `id`, `at_ns`, `client`, `action`, `key`, `argument`, `tx_ids`
`return`   `id`, `at_ns`, `outcome` (``ok`` or ``refused``), `result`, `node`, `height`, `heights`, `attempts`
`fault`    `at_ns`, `kind`, `phase` (``begin`` or ``end``), `text`
=========  ==========================================================================================================
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TextIO

Action = Literal["create", "write", "read", "look", "load"]
"""create and write change a register, read is linearizable, look is a local read that may be old, load is a batch of other transactions."""
Outcome = Literal["ok", "refused"]

NEVER: Final = 1 << 62
"""The return of a call that had no final answer."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one client."""

    number: int
    client: str
    action: Action
    key: str
    """The register's name; empty for load."""
    argument: str | None
    """The value to write, or how a read is done: `index` or `log`."""
    tx_ids: tuple[str, ...]
    """What was submitted, in hexadecimal."""
    called_ns: int
    returned_ns: int = NEVER
    outcome: Outcome | None = None
    """None when no final answer came."""
    result: str | None = None
    """What a read saw (None: no such register), or the code of a refusal."""
    node: str = ""
    """Who gave the final answer."""
    height: int | None = None
    """Where the transaction or the read's marker stands, or the height of the state that was read."""
    heights: tuple[int, ...] = ()
    """Where each of `tx_ids` stands."""
    attempts: int = 0

    @property
    def is_open(self) -> bool:
        """Whether no final answer came."""
        return self.outcome is None


class Recorder:
    """Writes the history as it happens; any thread may call it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self.returns_ns: list[int] = []
        """When something was acknowledged, ascending enough to find gaps in."""

    def call(
        self, client: str, action: Action, key: str = "", argument: str | None = None, tx_ids: Sequence[str] = ()
    ) -> int:
        """Record that a call begins now; return its number."""
        number = next(self._numbers)
        line = {
            "event": "call",
            "id": number,
            "client": client,
            "action": action,
            "key": key,
            "argument": argument,
            "tx_ids": list(tx_ids),
        }
        self._write(line)
        return number

    def returned(
        self,
        number: int,
        outcome: Outcome,
        *,
        node: str,
        result: str | None = None,
        height: int | None = None,
        heights: Sequence[int] = (),
        attempts: int = 1,
    ) -> None:
        """Record that a call got its final answer now."""
        line = {
            "event": "return",
            "id": number,
            "outcome": outcome,
            "result": result,
            "node": node,
            "height": height,
            "heights": list(heights),
            "attempts": attempts,
        }
        at_ns = self._write(line)
        if outcome == "ok":
            self.returns_ns.append(at_ns)

    def fault(self, kind: str, phase: Literal["begin", "end"], text: str) -> None:
        """Record what the harness does to the cluster now."""
        self._write({"event": "fault", "kind": kind, "phase": phase, "text": text})

    def _write(self, line: dict[str, Any]) -> int:
        with self._lock:
            at_ns = time.monotonic_ns()
            if not self._file.closed:
                self._file.write(json.dumps({"at_ns": at_ns, **line}, separators=(",", ":")) + "\n")
            return at_ns

    def close(self) -> None:
        """Finish the file; later calls are dropped."""
        with self._lock:
            self._file.close()


def read_history(path: Path) -> list[Operation]:
    """Return the operations of a history file in the order of their calls."""
    calls: dict[int, dict[str, Any]] = {}
    returns: dict[int, dict[str, Any]] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            event = json.loads(line)
            if event["event"] == "call":
                calls[event["id"]] = event
            elif event["event"] == "return":
                returns[event["id"]] = event
    return [_operation(call, returns.get(number)) for number, call in sorted(calls.items())]


def _operation(call: dict[str, Any], answer: dict[str, Any] | None) -> Operation:
    begun = Operation(
        number=call["id"],
        client=call["client"],
        action=call["action"],
        key=call["key"],
        argument=call["argument"],
        tx_ids=tuple(call["tx_ids"]),
        called_ns=call["at_ns"],
    )
    if answer is None:
        return begun
    return Operation(
        number=begun.number,
        client=begun.client,
        action=begun.action,
        key=begun.key,
        argument=begun.argument,
        tx_ids=begun.tx_ids,
        called_ns=begun.called_ns,
        returned_ns=answer["at_ns"],
        outcome=answer["outcome"],
        result=answer["result"],
        node=answer["node"],
        height=answer["height"],
        heights=tuple(answer["heights"]),
        attempts=answer["attempts"],
    )


def longest_gap_s(returns_ns: Iterable[int], begin_ns: int, end_ns: int) -> float:
    """Return the longest time between two acknowledgements that overlaps the span, in seconds."""
    moments = sorted(returns_ns)
    before = max((at for at in moments if at <= begin_ns), default=begin_ns)
    after = min((at for at in moments if at >= end_ns), default=end_ns)
    inside = [before, *(at for at in moments if begin_ns < at < end_ns), after]
    return max((b - a for a, b in itertools.pairwise(inside)), default=0) / 1e9
