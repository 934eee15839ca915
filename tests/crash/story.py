"""What happens to a host while it is hurt: a tree, a change of every kind to it, and what the records must say then."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.errors import MetadataRefusedError
from agent.files import Files
from agent.hooks import HookKind
from agent.results import Outcome
from agent.standby import drop_standby
from agent.target import TargetState
from provenance.diff_model import MODE_LINK, Allowance, FileState
from provenance.layout import split_patch_file_untrusted
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, TARGET, TREE, Tree, World

STANDBY: Final = "standby"
STANDBY_NEW: Final = "standby-new"
"""Exchanges with a standby tree, that is there before, or is made by the application."""
APPLY: Final = "apply"
ROLLBACK: Final = "rollback"
PASSING: Final = "passing"
FAILING: Final = "failing"
STRANGER: Final = 4321
"""A user that owns some of the files, where the host may give them away."""

WIDE_BEFORE: Final[Tree] = {**patches.EVERY_KIND_BEFORE, "lib/keep/data.bin": TREE["lib/keep/data.bin"]}
WIDE_AFTER: Final[Tree] = {
    **patches.EVERY_KIND_AFTER,
    "lib/keep/data.bin": FileState(0o100644, b"\0changed" * 1000),
    "lib/current": FileState(MODE_LINK, b"keep/data.bin"),
    "deep/er/still/new.txt": FileState(0o100644, b"four levels down\n"),
    "lib/copied.c": FileState(0o100644, patches.FRAME_BEFORE + b"/* copied */\n"),
}
"""Modified, added, removed with its directory, renamed, copied, made executable, binary, a link, new directories."""
WIDE_COPIES: Final = {"lib/copied.c": "src/frame.c"}
NARROW_TREE: Final[Tree] = {**patches.BEFORE, "README": TREE["README"]}
"""For matrices whose size is a product."""
MANY_BEFORE: Final[Tree] = {f"many/{n % 3}/{n:02}": FileState(0o100644, b"line\nold %d\n" % n) for n in range(70)}
MANY_AFTER: Final[Tree] = {path: FileState(0o100644, b"line\nnew\n") for path in MANY_BEFORE}


class FindingError(Exception):
    """Something that must never be.

    Args:
        kind: `mixed` (a tree), `lost` (a record), or `unexplained`.
        sentence: What it is.
    """

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(f"{kind}: {sentence}")
        self.kind = kind
        self.sentence = sentence


@dataclass
class Story:
    """One thing that happens to a target: a patch is applied, or undone, or applied and taken back because it fails its trial.

    Args:
        before: The tree before the patch.
        make: Makes the signed patch.
        change: `apply` or `rollback`.
        mode: How the target is changed: `exchange` or `in-place`; `standby` and `standby-new` are exchanges of a large tree.
        hooks: No hooks, hooks that pass, or a health check that fails.
        allowed: What the operator allows.
    """

    before: Tree
    make: Callable[[], bytes]
    change: str = APPLY
    mode: str = "exchange"
    hooks: str = ""
    allowed: tuple[Allowance, ...] = ()
    data: bytes = field(default=b"", init=False)
    patch_id: str = field(default="", init=False)

    @property
    def is_atomic(self) -> bool:
        """Whether readers see the old tree or the new one at any moment, also before a recovery."""
        return self.mode != "in-place"

    @property
    def is_taken_back(self) -> bool:
        """Whether the change never stands in the end."""
        return self.hooks == FAILING

    @property
    def last_side(self) -> str:
        """Which tree stands in the end when nothing goes wrong."""
        return "before" if self.is_taken_back else "after"

    def prepare(self, world: World) -> None:
        """Put on the ledger what was there before the host began."""
        self.data = world.release(self.make())
        self.patch_id = split_patch_file_untrusted(self.data).patch_id

    async def begin(self, world: World) -> None:
        """Bring the host to where the story begins, with hooks that pass."""
        _mark(world.root, self.before)
        changes = {"mode": self.mode} if self.mode == "in-place" else {}
        await world.add_target(allowed=list(self.allowed), **changes)
        if self.hooks:
            for kind in HookKind:
                await world.agent.set_hook(TARGET, kind, {"argv": [shutil.which("true")]})
        if self.change == ROLLBACK:
            outcome = await world.agent.apply(self.data, TARGET, OPERATOR)
            if not outcome.is_success:
                raise FindingError("unexplained", f"what is to be undone is not done: {outcome.reason}")
        if self.mode == STANDBY_NEW:
            drop_standby(Files(), world.agent._registry.get(TARGET).config)

    async def turn(self, world: World) -> None:
        """Let the health check fail from now on, where the story says so."""
        if self.is_taken_back:
            await world.agent.set_hook(TARGET, HookKind.HEALTH, {"argv": [shutil.which("false")]})

    async def act(self, world: World) -> Outcome:
        """Do what is hurt. Raises PatchwardenError."""
        if self.change == APPLY:
            return await world.agent.apply(self.data, TARGET, OPERATOR)
        (outcome,) = await world.agent.rollback(self.patch_id, TARGET, OPERATOR)
        return outcome

    async def check_again(self, world: World, side: str, after: str) -> None:
        """Do it again from the tree on `side`, and see it end as it must. Raises FindingError."""
        try:
            outcome = await self.act(world)
        except MetadataRefusedError as error:
            is_success, reason = False, error.code
        else:
            is_success, reason = outcome.is_success, outcome.reason
        if self.is_taken_back:
            wanted = "agent.hook.health_failed"
        elif side == "before":
            wanted = ""
        else:
            wanted = "agent.metadata.already_applied" if self.change == APPLY else "agent.rollback.not_installed"
        if (is_success, reason) != (wanted == "", wanted):
            raise FindingError(
                "unexplained",
                f"after {after}, from the tree {side}: {reason or 'success'} and not {wanted or 'success'}",
            )

    def check(self, world: World, side: str, state: TargetState, old: bytes, new: bytes) -> None:
        """Compare what the ledger and the state say with the tree that is there.

        Raises:
            FindingError: ``lost`` or ``unexplained``.
        """
        is_new = side == "after"
        earlier = int(self.change == ROLLBACK)
        intents, outcomes = world.intents()[earlier:], world.outcomes()[earlier:]
        told = [each for each in outcomes if each.intent_tx_id is not None]
        if len(told) != len(intents):
            raise FindingError("lost", f"{len(intents)} intents have {len(told)} outcomes")
        counters = [each.counter for each in world.bodies() if hasattr(each, "counter")]
        if counters != list(range(1, len(counters) + 1)):
            raise FindingError("lost", f"the host's records are numbered {counters}")
        if is_new and not intents:
            raise FindingError("unexplained", "changed without an intent")
        if is_new and self.is_taken_back:
            raise FindingError("unexplained", "what has not passed its trial stands")
        if len(state.installed) != (is_new != (self.change == ROLLBACK)):
            raise FindingError(
                "unexplained", f"the state names {len(state.installed)} patches, the tree is the one {side}"
            )
        done = "SUCCESS" if self.change == APPLY else "ROLLED_BACK"
        successes = [each for each in outcomes if each.result == done]
        if len(successes) != is_new:
            raise FindingError("unexplained", f"{len(successes)} outcomes say {done}, and the tree is the one {side}")
        if any((each.tree_before, each.tree_after) != (old, new) for each in successes):
            raise FindingError("unexplained", "an outcome names other trees")
        if outcomes and not is_new and outcomes[-1].tree_after != old:
            raise FindingError("unexplained", "an outcome names another tree than the one that is there")


def _mark(root: Path, tree: Tree) -> None:
    """Give some of what is changed, of what is not and of the directories an owner, permissions and attributes, as far as the host can.

    Two names of one file are there, too, which no patch touches.
    """
    os.link(root / "README", root / "README.en")
    (root / "src").chmod(0o2750)
    (root / "README").chmod(0o604)
    marked = [root, root / "README", root / "src", *(root / path for path in tree if path.startswith(("src/", "lib/")))]
    for path in marked:
        if not path.exists():
            continue
        with suppress(OSError):
            os.setxattr(path, "user.patchwarden-test", path.name.encode())
        if os.geteuid() == 0 and path != root:
            mode = stat.S_IMODE(path.stat().st_mode)
            os.chown(path, STRANGER, STRANGER + 1)
            path.chmod(mode)


def make_story(patch: str, change: str, mode: str, hooks: str) -> Story:
    """Return a story with the patch `wide`, of every kind of change, `narrow`, of one line, or `many`, of files synced at once."""
    if patch == "narrow":
        return Story(NARROW_TREE, patches.make_patch, change, mode, hooks)
    if patch == "many":
        return Story(
            {**NARROW_TREE, **MANY_BEFORE}, lambda: patches.make_patch(MANY_BEFORE, MANY_AFTER), change, mode, hooks
        )
    everything = tuple(sorted(Allowance))
    return Story(
        {**TREE, **WIDE_BEFORE},
        lambda: patches.make_patch(
            WIDE_BEFORE, WIDE_AFTER, patches.EVERY_KIND_RENAMES, allowances=everything, copies=WIDE_COPIES
        ),
        change,
        mode,
        hooks,
        everything,
    )
