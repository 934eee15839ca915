"""What must hold after a run: judged from the history file and from one store, without asking any node.

=====================================================  ==================================================================
check                                                  what it would find
=====================================================  ==================================================================
`check_acknowledged`                                   an acknowledged transaction that is lost, elsewhere, or there twice
`check_real_time_order`                                two calls in the ledger against the order in which clients made them
`check_registers`                                      a history that is not linearizable
`check_states`                                         a value that the ledger never had there; a node that went back
=====================================================  ==================================================================
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ledger import bodies
from ledger.block import decode_block_untrusted
from ledger.keyspace import Reader, Table, height_key
from ledger.transaction import decode_transaction_untrusted
from tests.faults.history import Operation
from tests.faults.linearizability import SearchTooLongError, check_register

Position = tuple[int, int]
"""Height, index in the block."""

SHOWN_MAX = 10
"""Violations of one sort that are worth printing."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the committed blocks of one store say about the run."""

    height: int
    positions: Mapping[str, tuple[Position, ...]]
    """Where each transaction stands, by its id; more than one place is a violation."""
    registers: Mapping[str, tuple[tuple[Position, str], ...]]
    """Every value that each identity was given, in order."""


def read_ledger(store: Reader, height: int) -> Ledger:
    """Read all blocks from 1 to `height`."""
    positions: dict[str, list[Position]] = defaultdict(list)
    registers: dict[str, list[tuple[Position, str]]] = defaultdict(list)
    for number in range(1, height + 1):
        raw = store.get(Table.BLOCK, height_key(number))
        assert raw is not None, f"block {number} is missing"
        for index, raw_transaction in enumerate(decode_block_untrusted(raw).transactions):
            transaction = decode_transaction_untrusted(raw_transaction)
            positions[transaction.tx_id.hex()].append((number, index))
            match transaction.body:
                case bodies.IdentityRegister() | bodies.IdentityUpdateRoles() as body:
                    registers[body.identity_id].append(((number, index), body.roles[0]))
    return Ledger(
        height,
        {tx_id: tuple(places) for tx_id, places in positions.items()},
        {name: tuple(values) for name, values in registers.items()},
    )


def check_acknowledged(operations: Sequence[Operation], ledger: Ledger) -> Iterator[str]:
    """Yield every acknowledged transaction that is not on the ledger exactly once, where its acknowledgement said."""
    for tx_id, places in ledger.positions.items():
        if len(places) != 1:
            yield f"transaction {tx_id} stands on the ledger {len(places)} times: {places}"
    for operation in operations:
        for tx_id, height in zip(operation.tx_ids, operation.heights, strict=False):
            places = ledger.positions.get(tx_id, ())
            if height < 0:
                yield f"{operation.client} was refused a transaction that nothing speaks against: {tx_id}"
            elif not places:
                yield f"acknowledged transaction {tx_id} of {operation.client} at height {height} is lost"
            elif places[0][0] != height:
                yield f"acknowledged transaction {tx_id} stands at {places[0][0]} and not at {height}"
        if operation.outcome == "refused" and operation.action in ("create", "write"):
            if (places := ledger.positions.get(operation.tx_ids[0], ())) != ():
                yield f"refused transaction {operation.tx_ids[0]} of {operation.client} stands on the ledger at {places}"


def check_real_time_order(operations: Sequence[Operation], ledger: Ledger) -> Iterator[str]:
    """Yield every call that began after another had returned and yet does not stand in a later block, or read an older state."""
    spans = []
    for operation in operations:
        if operation.outcome != "ok":
            continue
        heights = [ledger.positions[tx_id][0][0] for tx_id in operation.tx_ids if tx_id in ledger.positions]
        if operation.action == "read" and operation.height is not None:
            heights = [operation.height]
        spans += [(operation.called_ns, operation.returned_ns, height, operation) for height in heights]
    for height, operation, highest, earlier in _pairs_in_time(spans):
        # What was committed after the call began is in a later block; a read without a marker may see the same state again.
        if height < highest or (height == highest and operation.argument != "index"):
            yield (
                f"{operation.action} {operation.number} of {operation.client} began after {earlier.action} "
                f"{earlier.number} of {earlier.client} had returned, and stands at {height}, which is not above {highest}"
            )


def _pairs_in_time(
    spans: Iterable[tuple[int, int, int, Operation]],
) -> Iterator[tuple[int, Operation, int, Operation]]:
    """Yield the height of each call beside the greatest height of those that had returned when it began."""
    by_call = sorted(spans, key=lambda span: span[0])
    by_return = iter(sorted(by_call, key=lambda span: span[1]))
    following = next(by_return, None)
    highest: tuple[int, Operation] | None = None
    for called_ns, _, height, operation in by_call:
        while following is not None and following[1] < called_ns:
            if highest is None or following[2] > highest[0]:
                highest = (following[2], following[3])
            following = next(by_return, None)
        if highest is not None:
            yield height, operation, *highest


def check_registers(operations: Sequence[Operation]) -> Iterator[str]:
    """Yield every register whose history is not linearizable."""
    by_key: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        if operation.key:
            by_key[operation.key].append(operation)
    for key, history in sorted(by_key.items()):
        try:
            verdict = check_register(history)
        except SearchTooLongError as error:
            yield f"the history of {key} cannot be judged: {error}"
            continue
        if not verdict.is_linearizable:
            stuck = "; ".join(_describe(each) for each in verdict.stuck)
            yield f"the history of {key} is not linearizable: with value {verdict.value}, none of these can be next: {stuck}"


def _describe(operation: Operation) -> str:
    text = operation.argument or operation.result
    return (
        f"#{operation.number} {operation.client} {operation.action} {text} at {operation.node} "
        f"[{operation.called_ns} {operation.returned_ns}] {operation.outcome}"
    )


def check_states(operations: Sequence[Operation], ledger: Ledger) -> Iterator[str]:
    """Yield reads that do not show what the ledger held at the height they name, and nodes that went back in time."""
    by_place: dict[tuple[str, str], list[tuple[int, int, int, Operation]]] = defaultdict(list)
    for read in operations:
        if read.outcome != "ok" or not (read.action == "look" or read.argument == "index"):
            continue
        height = -1 if read.height is None else read.height
        by_place[read.node, read.key].append((read.called_ns, read.returned_ns, height, read))
        if read.result is not None:
            values = [value for (at, _), value in ledger.registers.get(read.key, ()) if at <= height]
            if not values or values[-1] != read.result:
                yield f"read {read.number} at {read.node} saw {read.result} in {read.key}, which did not hold it at {height}"
    for (node, key), spans in by_place.items():
        for height, read, highest, earlier in _pairs_in_time(spans):
            if height < highest:
                yield (
                    f"{node} went back: read {read.number} saw {key} as of {height}, "
                    f"read {earlier.number} before it as of {highest}"
                )


def check_history(operations: Sequence[Operation], ledger: Ledger) -> list[str]:
    """Return everything that is wrong, at most `SHOWN_MAX` of each sort."""
    return list(
        itertools.chain.from_iterable(
            itertools.islice(found, SHOWN_MAX)
            for found in (
                check_acknowledged(operations, ledger),
                check_real_time_order(operations, ledger),
                check_registers(operations),
                check_states(operations, ledger),
            )
        )
    )


def count_actions(operations: Iterable[Operation]) -> str:
    """Return how many calls of each sort there were."""
    counts: dict[str, int] = defaultdict(int)
    for operation in operations:
        counts[f"{operation.action} without an answer" if operation.is_open else operation.action] += 1
        if operation.action == "load":
            counts["transactions in loads"] += len(operation.heights)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
