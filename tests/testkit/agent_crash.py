"""Kills an agent before every file system call of an application and of its recovery, and says what was left. Run as a program.

    python -m tests.testkit.agent_crash DIRECTORY kill|fail [recovery] [rollback] [hooks|unhealthy] [in-place|part] [every=N] [planted]

``kill`` ends the process with SIGKILL in front of a call; ``fail`` lets the call fail with ENOSPC. With ``recovery`` the recovery after a
crash is stopped in front of each of its own calls too. With ``rollback``
the patch is installed already, and undone. With ``hooks`` hooks run around the change, and with ``unhealthy`` the health check fails;
then only the calls from the journal on are tried. With ``in-place`` the target is changed file by file, with ``part`` only
the directory in which everything happens is exchanged, as in a large tree. ``every=N`` tries every N-th
call only. ``planted`` leaves the journal out, which must be found. Prints one JSON object: the number of runs, and every fault found.

The parent starts no thread, so that it may fork; each run is a child. The ledger survives its hosts: what it accepted stands in a file.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import trio

import agent.part
from agent.errors import MetadataRefusedError
from agent.files import PRIVATE_FILE_MODE, Files
from agent.hooks import HookKind
from agent.runtime import Outcome
from agent.target import JOURNAL_FILE
from provenance.layout import split_patch_file_untrusted
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, POLICIES, TARGET, TREE, FakeLedger, World, read_tree, tree_digest_of

STEPS_MAX = 2000
SMALL_TREE = {**patches.BEFORE, "README": TREE["README"]}
"""For the matrix of crashes within recoveries, whose size is a product."""
SAMPLE = 16
"""Of the crashes that only differ in how much is staged, every how many-th is recovered with crashes of its own."""
HEALTHY, UNHEALTHY = "hooks", "unhealthy"
TRUE, FALSE = os.path.realpath("/usr/bin/true"), os.path.realpath("/usr/bin/false")
TURNING_POINTS = ("journal", "outbox", "exchange", "rename frame.c", "unlink a.c")
"""Calls before which a crash always is: where the answer to "what happened?" changes."""


class DurableLedger(FakeLedger):
    """A ledger that outlives the processes of its hosts: accepted transactions are read again from a file."""

    path: Path

    def accept(self, raw: bytes) -> None:
        super().accept(raw)
        with self.path.open("ab") as file:
            file.write(len(raw).to_bytes(4, "big") + raw)
            file.flush()
            os.fsync(file.fileno())

    def restore(self) -> None:
        """Execute what the file holds."""
        data = self.path.read_bytes() if self.path.exists() else b""
        while data:
            length = int.from_bytes(data[:4], "big")
            FakeLedger.accept(self, data[4 : 4 + length])
            data = data[4 + length :]


class ForgetfulFiles(Files):
    """A planted fault: journals are never written, so nobody can tell after a crash what was going on."""

    def replace(self, path: str, data: bytes, mode: int = PRIVATE_FILE_MODE) -> None:
        if not path.endswith(JOURNAL_FILE):
            super().replace(path, data, mode)


def hook(stop_at: int, mode: str, trace: Path, until: str | None, *, planted: bool) -> Files:
    """Return a file system that ends the process, or fails, in front of its call number `stop_at`, counted from 1.

    With `until`, the first call whose path holds it is only counted.
    """
    count = 0

    def step(name: str, path: str | bytes) -> None:
        nonlocal count
        count += 1
        if until is not None and until in os.fsdecode(path) and not trace.exists():
            trace.write_text(f"{count} {name}")
        if count == stop_at:
            trace.write_text(f"{name} {os.fsdecode(path)}")
            if mode == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, "no space left (injected)", os.fsdecode(path))
        if count > STEPS_MAX:
            raise AssertionError("an application must end")

    return ForgetfulFiles(step) if planted and stop_at else Files(step)


class Crash:
    """All runs over one prepared host."""

    def __init__(self, directory: Path, mode: str, *, small: bool, options: Collection[str] = ()) -> None:
        self.directory = directory
        self.mode = mode
        self.rollback = "rollback" in options
        self.in_place = "in-place" in options
        self.planted = "planted" in options
        if "part" in options:
            agent.part.PART_ENTRIES_MIN = 0  # type: ignore[misc]
        self.every = max([1, *(int(each.partition("=")[2]) for each in options if each.startswith("every="))])
        self.health = next((each for each in (HEALTHY, UNHEALTHY) if each in options), None)
        self.is_unhealthy = False
        self.done = "ROLLED_BACK" if self.rollback else "SUCCESS"
        self.refused_then = "agent.rollback.not_installed" if self.rollback else "agent.metadata.already_applied"
        self.host = directory / "host"
        self.template = directory / "template"
        self.trace = directory / "trace"
        self.journal = self.host / "home" / "agent" / "targets" / TARGET / JOURNAL_FILE
        self.world = World(self.host, tree=SMALL_TREE if small else TREE)
        self.world.agent.close()
        every_kind = (patches.EVERY_KIND_BEFORE, patches.EVERY_KIND_AFTER, patches.EVERY_KIND_RENAMES)
        self.data = self.world.release(patches.make_patch() if small else patches.make_patch(*every_kind))
        POLICIES.get(self.world.chain.view.policy())
        ledger = DurableLedger(self.world.chain)
        ledger.path = self.host / "ledger"
        self.world.ledger = ledger
        self.runs = 0
        self.faults: list[str] = []
        self.patch_id = split_patch_file_untrusted(self.data).patch_id
        assert self.child(self.prepare, 0) == "ended"
        shutil.copytree(self.host, self.template, symlinks=True)
        self.old = tree_digest_of(self.world.root)
        self.new = self.find_new_digest()
        if self.health == UNHEALTHY:
            self.is_unhealthy = True
            self.refused_then = ""
            self.restore(self.template)
            assert self.child(self.make_unhealthy, 0) == "ended"
            shutil.rmtree(self.template)
            shutil.copytree(self.host, self.template, symlinks=True)

    def find_new_digest(self) -> bytes:
        assert self.child(self.act, 0) == "ended"
        digest = tree_digest_of(self.world.root)
        assert digest != self.old
        self.old_files, self.new_files = self.files_of(self.template), self.files_of(self.host)
        return digest

    def files_of(self, host: Path) -> dict[str, Any]:
        return read_tree(host / "srv" / "app")

    # Runs

    def child(self, action: Callable[[World], Awaitable[None]], stop_at: int, until: str | None = None) -> str:
        """Run `action` in a child over the host's files; return "ended", "killed" or what went wrong."""
        self.runs += 1
        self.trace.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            status = 3
            try:
                self.world.ledger.restore()  # type: ignore[attr-defined]
                self.world.files = hook(stop_at, self.mode, self.trace, until, planted=self.planted)
                self.world.agent = self.world.open()
                trio.run(action, self.world)
                status = 0
            except OSError as error:
                # Opening the agent is not what is tested, but it must not hang or lie.
                status = 4 if error.errno == errno.ENOSPC else 3
                if status == 3:
                    traceback.print_exc()
            except BaseException as error:  # noqa: BLE001 - the child tells every end by its status
                status = 4 if getattr(error, "code", "").startswith("agent.state.") else 3
                if status == 3:
                    traceback.print_exc()
            finally:
                os._exit(status)
        _, raw = os.waitpid(child, 0)
        if os.WIFSIGNALED(raw):
            return "killed" if os.WTERMSIG(raw) == signal.SIGKILL else f"signal {os.WTERMSIG(raw)}"
        return {0: "ended", 4: "stopped"}.get(os.WEXITSTATUS(raw), "failed")

    async def prepare(self, world: World) -> None:
        await world.add_target(mode="in-place" if self.in_place else "exchange")
        if self.health is not None:
            for kind in HookKind:
                await world.agent.set_hook(TARGET, kind, {"argv": [TRUE]})
        if self.rollback:
            assert (await world.agent.apply(self.data, TARGET, OPERATOR)).is_success

    async def make_unhealthy(self, world: World) -> None:
        await world.agent.set_hook(TARGET, HookKind.HEALTH, {"argv": [FALSE]})

    async def ask(self, world: World) -> Outcome:
        """Return how what is tested ended, once."""
        if not self.rollback:
            return await world.agent.apply(self.data, TARGET, OPERATOR)
        (outcome,) = await world.agent.rollback(self.patch_id, TARGET, OPERATOR)
        return outcome

    async def ask_again(self, world: World) -> str:
        """Return the code of the refusal of the same thing once more, or "" when it was done."""
        try:
            return (await self.ask(world)).reason
        except MetadataRefusedError as error:
            return error.code

    async def act(self, world: World) -> None:
        outcome = await self.ask(world)
        digest = world.digest()
        assert outcome.tree_after == digest
        assert outcome.is_success == (digest != self.old)

    async def recover(self, world: World) -> None:
        await world.agent.recover()
        await world.agent._delivery.deliver(5.0)

    async def check(self, world: World) -> None:
        """Recover for good, and compare the disk, the state and the ledger."""
        await self.recover(world)
        assert await world.agent.recover() == []
        digest = world.digest()
        is_new = digest == self.new
        assert world.leftovers() == [], world.leftovers()
        status = world.agent.status()
        assert (status.records_waiting, status.intents_open, status.records_refused) == (0, 0, 0), status
        shown = await world.agent.show_target(TARGET)
        assert not shown.is_drifted
        assert len(shown.state.installed) == (is_new != self.rollback)
        # What made the patch installed that is undone now has an intent and an outcome of its own.
        intents, outcomes = world.intents()[self.rollback :], world.outcomes()[self.rollback :]
        assert len(intents) <= 1
        assert len(intents) or not is_new, "applied without an intent"
        told = [each for each in outcomes if each.intent_tx_id is not None]
        assert len(told) == len(intents), "an intent has one outcome"
        for each in outcomes:
            assert (each.result == self.done) == is_new
            assert each.tree_after == digest
            assert each.tree_before == self.old
        counters = [each.counter for each in world.bodies() if hasattr(each, "counter")]
        assert counters == list(range(1, len(counters) + 1))
        assert not (is_new and self.is_unhealthy), "what did not pass its trial stands"
        if self.is_unhealthy:
            assert await self.ask_again(world) == "agent.hook.health_failed"
        else:
            assert await self.ask_again(world) == ("" if not is_new else self.refused_then)
        assert world.digest() == (self.old if self.is_unhealthy else self.new)
        assert read_tree(world.root) == (self.old_files if self.is_unhealthy else self.new_files)

    # Matrix

    def restore(self, source: Path) -> None:
        shutil.rmtree(self.host)
        shutil.copytree(source, self.host, symlinks=True)

    def look(self, where: str) -> None:
        """The tree is the old one or the new one, whenever somebody looks; in place each file is, while the journal is open."""
        digest = tree_digest_of(self.world.root)
        files = self.files_of(self.host)
        if (digest, files) in ((self.old, self.old_files), (self.new, self.new_files)):
            return
        if not self.in_place or not self.journal.exists():
            self.faults.append(f"{where}: a mixed tree")
            return
        for path in {*files, *self.old_files, *self.new_files}:
            if files.get(path) not in (self.old_files.get(path), self.new_files.get(path)):
                self.faults.append(f"{where}: {path} is neither the old file nor the new one")

    def finish(self, where: str) -> None:
        end = self.child(self.check, 0)
        if end != "ended":
            self.faults.append(f"{where}: checking {end}")

    def run(self, *, recovery: bool) -> dict[str, Any]:
        applications = recoveries = 0
        ended = ("killed",) if self.mode == "kill" else ("ended", "stopped")
        for stop_at in range(self.first_step(), STEPS_MAX, 1 if recovery else self.every):
            self.restore(self.template)
            end = self.child(self.act, stop_at)
            if not self.trace.exists():
                break
            is_turning = any(part in self.trace.read_text() for part in TURNING_POINTS)
            if stop_at % self.every and not is_turning and recovery:
                continue
            applications += 1
            where = f"application before {stop_at} ({self.trace.read_text()})"
            if end not in ended:
                self.faults.append(f"{where}: {end}")
            self.look(where)
            self.finish(where)
            if recovery and (stop_at % SAMPLE == 0 or is_turning):
                recoveries += self.run_recoveries(stop_at, where)
        return {"applications": applications, "recoveries": recoveries, "runs": self.runs, "faults": self.faults}

    def first_step(self) -> int:
        """Return the first call to stop before: hooks change nothing before the journal is written."""
        if self.health is None:
            return 1
        self.restore(self.template)
        assert self.child(self.act, STEPS_MAX, until="journal") in ("killed", "ended", "stopped")
        return int(self.trace.read_text().split()[0])

    def run_recoveries(self, crash_at: int, where: str) -> int:
        for count, stop_at in enumerate(range(1, STEPS_MAX, self.every)):
            # The crash is made anew each time: a copied host would have other inodes than its journal names.
            self.restore(self.template)
            self.child(self.act, crash_at)
            self.child(self.recover, stop_at)
            if not self.trace.exists():
                return count
            inside = f"{where}, recovery before {stop_at} ({self.trace.read_text()})"
            self.look(inside)
            self.finish(inside)
        raise AssertionError("a recovery must end")


def main() -> None:
    """Run the matrix that the arguments name."""
    directory, mode, *rest = sys.argv[1:]
    recovery = "recovery" in rest
    small = recovery or bool({"rollback", "part", HEALTHY, UNHEALTHY} & set(rest))
    crash = Crash(Path(directory), mode, small=small, options=rest)
    print(json.dumps(crash.run(recovery=recovery)))


if __name__ == "__main__":
    main()
