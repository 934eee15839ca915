"""The simulator's own parts: a disk that forgets, a checker that cannot be fooled, and rules that the oracle does not let pass."""

from __future__ import annotations

from itertools import permutations
from random import Random

import pytest

from node.errors import StorageError, StorageFailedError
from tests.sim.disk import SimDisk, SimStore
from tests.sim.errors import MachineEndedError
from tests.sim.linearizability import NEVER, Action, Answer, Call, is_linearizable

KEY = (1, b"key")


def _disk() -> SimDisk:
    return SimDisk("v1", Random(0))


def _store(disk: SimDisk, ends_at: str = "") -> SimStore:
    def boundary(what: str) -> None:
        if what == ends_at:
            raise MachineEndedError

    return SimStore(disk, boundary)


@pytest.mark.parametrize("loses_power", [False, True])
def test_a_written_batch_outlives_every_end(loses_power: bool) -> None:
    disk = _disk()
    _store(disk).write({KEY: b"value"})
    if loses_power:
        assert disk.lose_power() == 0
    assert _store(disk).get(*KEY) == b"value"


def test_an_unsynced_batch_outlives_the_process_and_not_always_the_power() -> None:
    outcomes = set()
    for seed in range(20):
        disk = SimDisk("v1", Random(seed))
        with pytest.raises(MachineEndedError):
            _store(disk, "unsynced write").write({KEY: b"value"})
        disk.lose_power()
        outcomes.add(_store(disk).get(*KEY))
    assert outcomes == {None, b"value"}


@pytest.mark.parametrize("ends_at", ["write", "torn write"])
def test_a_batch_that_did_not_get_through_is_gone_whole(ends_at: str) -> None:
    disk = _disk()
    _store(disk).write({KEY: b"old"})
    with pytest.raises(MachineEndedError):
        _store(disk, ends_at).write({KEY: b"new", (1, b"other"): b"new"})
    store = _store(disk)
    assert (store.get(*KEY), store.get(1, b"other")) == (b"old", None)


def test_an_acknowledged_batch_that_was_lost_is_noticed_at_the_next_start() -> None:
    disk = _disk()
    _store(disk).write({KEY: b"value"})
    disk.high_water_synced = disk.high_water
    disk.batches -= 1
    with pytest.raises(StorageError) as caught:
        _store(disk)
    assert caught.value.code == "node.storage.lost_writes"


def test_a_full_disk_and_a_failing_sync_end_the_writing_for_good() -> None:
    for fault in ("is_full", "sync_fails"):
        disk = _disk()
        store = _store(disk)
        setattr(disk, fault, True)
        with pytest.raises(StorageFailedError):
            store.write({KEY: b"value"})
        setattr(disk, fault, False)
        with pytest.raises(StorageFailedError):
            store.write({KEY: b"value"})
        _store(disk).write({KEY: b"value"})
        assert _store(disk).get(*KEY) == b"value"


def test_a_flipped_bit_is_found_by_whoever_reads_the_row() -> None:
    disk = _disk()
    _store(disk).write({KEY: b"value"})
    assert disk.flip_bit() == KEY
    store = _store(disk)
    for read in (lambda: store.get(*KEY), lambda: list(store.iterate(1)), lambda: store.snapshot().get(*KEY)):
        with pytest.raises(StorageError) as caught:
            read()
        assert caught.value.code == "node.storage.checksum"
    assert [row.error is not None for row in store.scan()] == [True]
    store.write({KEY: b"new"})
    assert (store.get(*KEY), disk.damaged) == (b"new", set())


def _naive(calls: list[Call]) -> bool:
    """Try every order of every choice of unanswered calls."""
    answered = [call for call in calls if call.answer is not Answer.UNKNOWN]
    unanswered = [call for call in calls if call.answer is Answer.UNKNOWN]
    for chosen in range(1 << len(unanswered)):
        some = answered + [call for index, call in enumerate(unanswered) if chosen >> index & 1]
        for order in permutations(some):
            if _respects_time(order) and _explains(order):
                return True
    return False


def _respects_time(order: tuple[Call, ...]) -> bool:
    return not any(later.ended < earlier.began for index, earlier in enumerate(order) for later in order[index + 1 :])


def _explains(order: tuple[Call, ...]) -> bool:
    value: str | None = None
    for call in order:
        done = call.answer in (Answer.DONE, Answer.UNKNOWN)
        match call.action:
            case Action.CREATE:
                if done == (value is not None):
                    return False
                value = call.value if done else value
            case Action.WRITE:
                if done == (value is None):
                    return False
                value = call.value if done else value
            case Action.READ:
                if call.value != value:
                    return False
    return True


def test_the_checker_agrees_with_every_order_tried_one_by_one() -> None:
    rng = Random(1)
    verdicts = []
    for _ in range(1500):
        calls = []
        for number in range(rng.randint(1, 5)):
            began = rng.randrange(12)
            action = rng.choice(list(Action))
            value = rng.choice([f"v{number}", "v0", None if action is Action.READ else "v1"])
            answers = {
                Action.CREATE: (Answer.DONE, Answer.EXISTS, Answer.UNKNOWN),
                Action.WRITE: (Answer.DONE, Answer.MISSING, Answer.UNKNOWN),
                Action.READ: (Answer.DONE,),
            }[action]
            answer = rng.choice(answers)
            ended = NEVER if answer is Answer.UNKNOWN else began + rng.randint(1, 8)
            calls.append(Call(action, value, began, ended, answer))
        verdict = is_linearizable(calls)
        assert verdict == _naive(calls), "; ".join(map(str, calls))
        verdicts.append(verdict)
    assert 200 < sum(verdicts) < 1300


def test_a_read_that_misses_an_acknowledged_write_is_no_history() -> None:
    create = Call(Action.CREATE, "a", 1, 2, Answer.DONE)
    assert is_linearizable([create, Call(Action.READ, "a", 3, 4, Answer.DONE)])
    assert not is_linearizable([create, Call(Action.READ, None, 3, 4, Answer.DONE)])
    assert is_linearizable([create, Call(Action.READ, None, 2, 4, Answer.DONE)])
