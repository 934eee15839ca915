"""One host with one target, put back to its beginning for each point, and what must be true of it after every fault.

The ledger is another machine: it lies outside what is watched, keeps what it has accepted through kills and power cuts, and knows what the
host has ever said. The parent starts no thread, so that it may fork; every run of the agent is a child of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from agent.files import Files
from tests.crash.calls import Call
from tests.crash.faults import OFF_NAME, Plan
from tests.crash.notify import GO_ON, KILL, Watch
from tests.crash.story import FindingError, Story
from tests.crash.trees import (
    Snapshot,
    copy_tree,
    first_belonging_lost,
    first_difference,
    take_names,
    take_snapshot,
)
from tests.testkit.agent import POLICIES, STANDBY_NAME, TARGET, World
from tests.testkit.agent_crash import DurableLedger
from wire.errors import CorruptionError, PatchwardenError

REPORT_BYTES: Final = 16_384
WORK_NAME: Final = f".patchwarden-{TARGET}"
"""Where the agent works in a target that is changed in place."""

Action = Callable[["Host", World], Awaitable[dict[str, Any]]]


class Disk:
    """Where a host lives: a directory that is copied back for each point. Blocks written stay written, whatever is killed.

    Args:
        directory: An empty one, for this disk alone.
    """

    def __init__(self, directory: Path) -> None:
        self.home = directory / "host"
        self._template = directory / "template"
        self.home.mkdir()

    def keep(self) -> None:
        """Make the present content the beginning."""
        shutil.rmtree(self._template, ignore_errors=True)
        copy_tree(self.home, self._template)

    def restore(self) -> None:
        """Go back to the beginning."""
        shutil.rmtree(self.home)
        copy_tree(self._template, self.home)

    def cut(self, how: int) -> None:
        """Lose the power: what is not durable is lost. Memory knows no such thing."""
        raise AssertionError("this disk cannot lose its power")

    def come_back(self) -> None:
        """Be there again after a cut."""

    def close(self) -> None:
        """Release everything."""


class Host:
    """A prepared host.

    Args:
        directory: An empty one for what is not the host's.
        disk: Where the host lives.
        story: What happens to it.
        plant: Puts a bug into each process of the agent, or does nothing.
        watched: Whether calls are stopped in the kernel; otherwise only in the agent's own door to the file system.
    """

    def __init__(
        self,
        directory: Path,
        disk: Disk,
        story: Story,
        *,
        plant: Callable[[], None] | None = None,
        watched: bool = True,
    ) -> None:
        self._disk = disk
        self._story = story
        self._plant = plant
        self._is_watched = watched
        self._plan: Plan | None = None
        self._inside = os.path.realpath(disk.home)
        self._ledger_file = directory / "ledger"
        self._ledger_template = directory / "ledger-template"
        self._hit_file = directory / "hit"
        self.world = World(disk.home, tree=story.before)
        self.world.agent.close()
        story.prepare(self.world)
        POLICIES.get(self.world.chain.view.policy())
        ledger = DurableLedger(self.world.chain)
        ledger.path = self._ledger_file
        self.world.ledger = ledger
        self.old: Snapshot = {}
        self.new: Snapshot = {}
        self.has_standby = False
        """Whether the story leaves a standby tree beside the target."""
        self._begin()

    def _begin(self) -> None:
        story = self._story
        self._prepare(story.begin)
        self._keep()
        self.old = take_snapshot(self.world.root)
        self.old_digest = self.world.digest()
        self.clean_names = self._agent_names()
        self._prepare(story.act)
        self.new = take_snapshot(self.world.root)
        self.has_standby = (self.world.root.parent / STANDBY_NAME / "tree").is_dir()
        self.new_digest = self.world.digest()
        self.clean_names |= self._agent_names()
        if not first_difference(self.old, self.new):
            raise FindingError("unexplained", "the story itself changes nothing")
        if lost := first_belonging_lost(self.old, self.new):
            raise FindingError("mixed", f"owner or attributes are not kept: {lost}")
        if story.is_taken_back:
            self.restore()
            self._prepare(story.turn)
            self._keep()

    def _prepare(self, step: Callable[[World], Awaitable[Any]]) -> None:
        async def succeed(host: Host, world: World) -> dict[str, Any]:
            outcome = await step(world)
            if outcome is not None and not outcome.is_success:
                raise FindingError("unexplained", f"{outcome.reason} {outcome.message}")
            return {"ended": "prepared"}

        said = self.run(succeed, None)
        if "ended" not in said:
            raise FindingError("unexplained", f"the story itself fails: {said}")

    def _keep(self) -> None:
        self._disk.keep()
        self._ledger_file.touch()
        shutil.copyfile(self._ledger_file, self._ledger_template)

    # Runs

    def restore(self) -> None:
        """Go back to the beginning: disk and ledger."""
        self._disk.restore()
        shutil.copyfile(self._ledger_template, self._ledger_file)

    def run(self, action: Action, plan: Plan | None, cut: int | None = None) -> dict[str, Any]:
        """Return what a process that opens the agent and does `action` said at its end; {"killed": True} when it was killed.

        Args:
            action: What it does.
            plan: What happens to its calls.
            cut: How the disk loses its power when the plan kills; None when it does not.

        Raises:
            FindingError: ``unexplained``: it ended in another way.
        """
        reading, writing = os.pipe()
        watch = Watch(self._inside) if plan is not None and self._is_watched else None
        child = os.fork()
        if child == 0:
            os.close(reading)
            self._be_child(action, plan, watch, writing)
        os.close(writing)
        try:
            if watch is not None and plan is not None:
                status = watch.supervise(child, plan.decide, None if cut is None else partial(self._disk.cut, cut))
            else:
                _, status = os.waitpid(child, 0)
            said = b""
            while part := os.read(reading, REPORT_BYTES):
                said += part
        finally:
            os.close(reading)
        if plan is not None and watch is None and self._hit_file.exists():
            plan.hit = Call(self._hit_file.read_text(), (), True, -1, 0, 0)
            self._hit_file.unlink()
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            if cut is not None:
                self._disk.come_back()
            return {"killed": True}
        if os.WIFSIGNALED(status) or not said:
            raise FindingError("unexplained", f"the process ended with status {status}")
        report: dict[str, Any] = json.loads(said)
        if "failed" in report:
            raise FindingError(report.get("kind", "unexplained"), report["failed"])
        return report

    def _be_child(self, action: Action, plan: Plan | None, watch: Watch | None, writing: int) -> None:
        report: dict[str, Any]
        try:
            self.world.ledger.restore()  # type: ignore[attr-defined]
            self._plan = plan
            # Whatever bug there is, the host is prepared and judged by an agent without it.
            if self._plant is not None and plan is not None:
                self._plant()
            if watch is not None:
                watch.hand_over()
            elif plan is not None:
                self.world.files = Files(self._step)
            self.world.agent = self.world.open()
            report = trio.run(action, self, self.world)
        except FindingError as finding:
            report = {"failed": finding.sentence, "kind": finding.kind}
        except PatchwardenError as error:
            report = {"stopped": error.code, "message": error.message}
        except BaseException:  # noqa: BLE001 - the child tells every end
            report = {"failed": traceback.format_exc()[-2000:]}
        os.write(writing, json.dumps(report).encode()[:REPORT_BYTES])
        os._exit(0)

    def _step(self, name: str, path: str | bytes) -> None:
        """Do in the agent's own process what `Watch` does from outside."""
        assert self._plan is not None, "only a process with a plan has this hook"
        was_hit = self._plan.hit
        verdict = self._plan.decide(Call(name, (os.fsdecode(path),), True, -1, 0, 0))
        if self._plan.hit is not was_hit:
            self._hit_file.write_text(f"{name} {os.fsdecode(path)}")
        if verdict == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        elif verdict != GO_ON:
            raise OSError(verdict, os.strerror(verdict), os.fsdecode(path))

    def _say_it_is_over(self) -> None:
        """Let the disk work again, from within the process whose disk does not."""
        over = os.path.join(self._inside, OFF_NAME)
        os.path.lexists(over)
        if self._plan is not None:
            self._plan.decide(Call("lstat", (over,), False, -1, 0, 0))

    # What is true

    def look(self, *, tidy: bool = True) -> str:
        """Return "before" or "after", as the tree is.

        Args:
            tidy: Whether the agent must have taken away what it works with in the tree; a disk that fails then costs room, and no truth.

        Raises:
            FindingError: ``mixed``.
        """
        now = take_snapshot(self.world.root, "" if tidy else WORK_NAME)
        if now == self.old:
            return "before"
        if now == self.new:
            return "after"
        raise FindingError(
            "mixed",
            f"not the old tree ({first_difference(now, self.old)}), nor the new one ({first_difference(now, self.new)})",
        )

    def look_meanwhile(self) -> None:
        """Return when readers may see this tree while nothing has recovered it: where files are changed one by one, each is old or new.

        Raises:
            FindingError: ``mixed``.
        """
        if self._story.is_atomic:
            self.look()
            return
        now = take_snapshot(self.world.root, omit=WORK_NAME)
        for path in {*now, *self.old, *self.new}:
            is_being_made = path not in self.old and path in self.new and now.get(path, (0,))[0] == stat.S_IFDIR
            if now.get(path) not in (self.old.get(path), self.new.get(path)) and not is_being_made:
                raise FindingError(
                    "mixed", f"{path} is neither the old one nor the new one: {str(now.get(path))[:200]}"
                )

    def leftovers(self) -> list[str]:
        """Return what neither the beginning nor a clean ending has: staging directories, journals, unfinished files."""
        return self.world.leftovers() + sorted(self._agent_names() - self.clean_names)

    def _check_standby(self) -> None:
        """Return when the standby tree, where there is one, is made of the very files that stand in the target, and of no others.

        Raises:
            FindingError: ``unexplained``.
        """
        standby = self.world.root.parent / STANDBY_NAME / "tree"
        if not os.path.lexists(standby.parent):
            return
        one, other = take_names(self.world.root), take_names(standby)
        for path in sorted({*one, *other}):
            if one.get(path) != other.get(path):
                raise FindingError("unexplained", f"the standby tree differs at {path}")

    def _agent_names(self) -> set[str]:
        top = self.world.directory / "home"
        return {str(path.relative_to(top)) for path in top.rglob("*")}

    # Actions

    async def act(self, world: World) -> dict[str, Any]:
        """Do what the story does; afterwards the disk works again, and the agent goes on in the same process."""
        try:
            outcome = await self._story.act(world)
        except CorruptionError:
            raise
        except PatchwardenError as error:
            self._say_it_is_over()
            return await self._go_on(world, error.code, "")
        self._say_it_is_over()
        side = self.look(tidy=False)
        if outcome.is_success != (side == "after"):
            raise FindingError("unexplained", f"said {outcome.code} ({outcome.reason}), and the tree is the one {side}")
        if outcome.is_success:
            return {"ended": "success"}
        if not outcome.message:
            raise FindingError("unexplained", f"a failure without a sentence: {outcome}")
        return await self._go_on(world, outcome.reason, side)

    async def _go_on(self, world: World, code: str, side: str) -> dict[str, Any]:
        if not code.startswith("agent."):
            raise FindingError("unexplained", f"a failure with the code {code or 'of nobody'}")
        if not side:
            await world.agent.recover()
            side = self.look(tidy=False)
        await self._story.check_again(world, side, code)
        if self.look(tidy=False) != self._story.last_side:
            raise FindingError(
                "mixed", f"after {code} and another attempt, the tree is not the one {self._story.last_side}"
            )
        return {"ended": code}

    async def recover(self, world: World) -> dict[str, Any]:
        """Recover, and bring the records to the ledger."""
        try:
            await world.agent.recover()
            await world.agent._delivery.deliver(5.0)
        except CorruptionError:
            raise
        except PatchwardenError as error:
            self._say_it_is_over()
            await world.agent.recover()
            return {"ended": error.code}
        self._say_it_is_over()
        return {"ended": "recovered"}

    async def check(self, world: World) -> dict[str, Any]:
        """Recover for good, compare disk, state and ledger, and go on."""
        await world.agent.recover()
        await world.agent._delivery.deliver(5.0)
        if await world.agent.recover() != []:
            raise FindingError("unexplained", "there was something to recover twice")
        side = self.look()
        if rest := self.leftovers():
            raise FindingError("unexplained", f"left behind: {rest}")
        self._check_standby()
        status = world.agent.status()
        if (status.records_waiting, status.intents_open, status.records_refused) != (0, 0, 0):
            raise FindingError("lost", f"records wait or were refused: {status}")
        shown = await world.agent.show_target(TARGET)
        if shown.is_drifted:
            raise FindingError("unexplained", "the records do not explain the tree")
        self._story.check(world, side, shown.state, self.old_digest, self.new_digest)
        await world.agent.history(TARGET)
        await self._story.check_again(world, side, "recovery")
        if self.look() != self._story.last_side:
            raise FindingError("mixed", f"done again, the tree is not the one {self._story.last_side}")
        return {"side": side}
