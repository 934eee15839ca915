"""Killed in front of calls of an application or of its recovery: never a mixed tree, never a lie, nothing lost.

Every third call here, in the agent's own door to the file system; `make crash` does every one, in the kernel.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.applying import settle
from agent.files import Files
from agent.switch import Side, find_side, read_journal
from agent.target import JOURNAL_FILE
from ledger.bodies import DeploymentIntent
from provenance.layout import split_patch_file_untrusted
from tests.testkit.agent import OPERATOR, TARGET, TREE, World, write_tree

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def memory_directory(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory in memory where there is one: a process that is killed loses no writes, and syncs cost nothing there."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else str(tmp_path)
    with tempfile.TemporaryDirectory(dir=base) as directory:
        yield Path(directory)


def run_matrix(directory: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.testkit.agent_crash", str(directory / "matrix"), *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert report["faults"] == [], done.stderr
    return report


@pytest.mark.slow
def test_killed_before_any_call_of_an_application(memory_directory: Path) -> None:
    assert run_matrix(memory_directory, "kill", "every=3")["applications"] > 26


@pytest.mark.slow
def test_disk_full_before_any_call_of_an_application(memory_directory: Path) -> None:
    assert run_matrix(memory_directory, "fail", "every=3")["applications"] > 26


@pytest.mark.slow
def test_killed_before_any_call_of_a_recovery(memory_directory: Path) -> None:
    assert run_matrix(memory_directory, "kill", "recovery", "every=3")["recoveries"] > 30


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["kill", "fail"])
def test_stopped_before_any_call_of_a_rollback(memory_directory: Path, mode: str) -> None:
    assert run_matrix(memory_directory, mode, "rollback", "every=3")["applications"] > 13


@pytest.mark.slow
@pytest.mark.parametrize("health", ["hooks", "unhealthy"])
def test_killed_before_any_call_from_the_journal_on_with_hooks(memory_directory: Path, health: str) -> None:
    assert run_matrix(memory_directory, "kill", health, "every=3")["applications"] > 10


@pytest.mark.slow
def test_killed_before_calls_of_an_application_that_exchanges_a_part(memory_directory: Path) -> None:
    assert run_matrix(memory_directory, "kill", "part", "every=4")["applications"] > 8


@pytest.mark.slow
def test_killed_before_calls_of_an_application_in_place(memory_directory: Path) -> None:
    assert run_matrix(memory_directory, "kill", "in-place", "every=6")["applications"] > 15


@pytest.mark.slow
def test_disk_full_before_calls_of_a_rollback_in_place(memory_directory: Path) -> None:
    assert run_matrix(memory_directory, "fail", "in-place", "rollback", "every=6")["applications"] > 4


@pytest.mark.slow
def test_killed_before_calls_of_a_recovery_in_place(memory_directory: Path) -> None:
    assert run_matrix(memory_directory, "kill", "recovery", "in-place", "every=12")["recoveries"] > 5


@pytest.mark.slow
def test_matrix_finds_an_application_without_a_journal(memory_directory: Path) -> None:
    command = [sys.executable, "-m", "tests.testkit.agent_crash", str(memory_directory / "matrix")]
    arguments = ["kill", "in-place", "planted", "every=5"]
    done = subprocess.run(
        [*command, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False
    )
    report = json.loads(done.stdout.splitlines()[-1])
    assert any("a mixed tree" in fault for fault in report["faults"])


class Stop(BaseException):
    """Ends an application like a crash, in this process."""


def stop_before(name: str, part: str) -> Any:
    def step(call: str, path: str | bytes) -> None:
        if call == name and part in os.fsdecode(path):
            raise Stop

    return Files(step)


async def crash(tmp_path: Path, name: str, part: str) -> tuple[World, bytes]:
    """Return a host whose application was stopped before a call, opened again."""
    world = World(tmp_path)
    await world.add_target()
    data = world.release()
    world.files = stop_before(name, part)
    world.reopen()
    with pytest.raises(Stop):
        await world.agent.apply(data, TARGET, OPERATOR)
    world.files = None
    world.reopen()
    return world, data


async def test_stopped_before_the_switch_the_tree_is_old_and_the_record_says_so(tmp_path: Path) -> None:
    world, data = await crash(tmp_path, "exchange", "app")
    before = world.digest()
    (recovery,) = await world.agent.recover()
    assert not recovery.applied
    assert "nothing was changed" in recovery.message
    assert world.leftovers() == []
    await world.agent._delivery.deliver(5.0)
    (told,) = world.outcomes()
    assert (told.result, told.tree_after) == ("ERROR_APPLY_FAILED", before)
    assert json.loads(told.detail)["reason"] == "agent.apply.interrupted"
    assert (await world.agent.history(TARGET))[0]["reason"] == "agent.apply.interrupted"
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success


async def test_stopped_after_the_switch_the_tree_is_new_and_the_record_says_so(tmp_path: Path) -> None:
    world, data = await crash(tmp_path, "open", "state.json")
    (recovery,) = await world.agent.recover()
    assert recovery.applied
    assert await world.agent.recover() == []
    await world.agent._delivery.deliver(5.0)
    (told,) = world.outcomes()
    assert (told.result, told.tree_after) == ("SUCCESS", world.digest())
    assert told.tree_after != told.tree_before
    assert not (await world.agent.show_target(TARGET)).is_drifted
    assert (await world.agent.apply(data, TARGET, OPERATOR)).reason == "agent.metadata.already_applied"


async def test_next_application_recovers_first(tmp_path: Path) -> None:
    world, data = await crash(tmp_path, "exchange", "app")
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success
    assert [body.result for body in world.outcomes()] == ["ERROR_APPLY_FAILED", "SUCCESS"]


async def test_interrupted_intent_that_never_left_is_told_later(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.add_target()
    data = world.release()
    world.ledger.is_offline = True
    waiting = world.agent.status().records_waiting
    patch_id = bytes.fromhex(split_patch_file_untrusted(data).patch_id)
    await world.agent._delivery.queue(DeploymentIntent(0, bytes(32), TARGET, patch_id, world.digest(), b"{}"))
    world.reopen()
    (recovery,) = await world.agent.recover()
    assert not recovery.applied
    assert world.agent.status().records_waiting == waiting + 2
    world.ledger.is_offline = False
    await world.agent._delivery.deliver(5.0)
    (intent,), (told,) = world.intents(), world.outcomes()
    assert told.counter == intent.counter + 1
    assert told.intent_tx_id == told.previous


async def test_open_intent_of_a_removed_target_is_closed(tmp_path: Path) -> None:
    world, _ = await crash(tmp_path, "mkdir", "patchwarden")
    config = tmp_path / "home" / "agent" / "targets" / TARGET / "target.json"
    config.unlink()
    world.reopen()
    (recovery,) = await world.agent.recover()
    assert (recovery.target, recovery.applied) == (TARGET, False)
    assert world.agent.status().intents_open == 0


async def test_journal_of_a_copied_host_is_judged_by_content(tmp_path: Path) -> None:
    world, _ = await crash(tmp_path, "open", "state.json")
    slot = world.agent._registry.get(TARGET)
    journal = read_journal(slot.store.path(JOURNAL_FILE))
    assert journal is not None
    assert find_side(slot.config, journal) is Side.NEW
    # The copy stays, so that no directory made later gets its inode.
    copy = tmp_path / "srv" / "copy"
    world.root.rename(copy)
    assert find_side(slot.config, journal) is Side.OTHER
    shutil.copytree(copy, world.root)
    assert find_side(slot.config, journal) is Side.OTHER
    assert settle(world.agent._files, slot.store, slot.config, journal.intent).side is Side.NEW
    write_tree(world.root, TREE)
    assert settle(world.agent._files, slot.store, slot.config, journal.intent).side is Side.OLD
    (world.root / "README").write_bytes(b"neither\n")
    (recovery,) = await world.agent.recover()
    assert not recovery.applied
    assert "neither" in recovery.message
    await world.agent._delivery.deliver(5.0)
    (told,) = world.outcomes()
    assert (told.result, told.tree_after) == ("ERROR_APPLY_FAILED", world.digest())
