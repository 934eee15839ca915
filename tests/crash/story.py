"""What happens to a host while it is hurt: a tree, a change of every kind to it, and what the records must say then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from agent.results import Outcome
from agent.target import TargetState
from provenance.diff_model import MODE_LINK, Allowance, FileState
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, TARGET, TREE, Tree, World

WIDE_BEFORE: Final[Tree] = {**patches.EVERY_KIND_BEFORE, "lib/keep/data.bin": TREE["lib/keep/data.bin"]}
WIDE_AFTER: Final[Tree] = {
    **patches.EVERY_KIND_AFTER,
    "lib/keep/data.bin": FileState(0o100644, b"\0changed" * 1000),
    "lib/current": FileState(MODE_LINK, b"keep/data.bin"),
    "deep/er/still/new.txt": FileState(0o100644, b"four levels down\n"),
}
"""Modified, added, removed with its directory, renamed, made executable, binary, a link, new directories."""
NARROW_TREE: Final[Tree] = {**patches.BEFORE, "README": TREE["README"]}
"""For matrices whose size is a product."""


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
    """An application of one patch.

    Args:
        before: The tree at the beginning.
        make: Makes the signed patch.
        allowed: What the operator allows.
    """

    before: Tree
    make: Callable[[], bytes]
    allowed: tuple[Allowance, ...] = ()
    data: bytes = field(default=b"", init=False)
    is_atomic: bool = True
    """Whether readers see the old tree or the new one at any moment, also before a recovery."""
    done_reason = "agent.metadata.already_applied"
    """With what the same thing is refused when it has been done."""

    def prepare(self, world: World) -> None:
        """Put on the ledger what was there before the host began."""
        self.data = world.release(self.make())

    async def begin(self, world: World) -> None:
        """Bring the host to where the story begins."""
        await world.add_target(allowed=list(self.allowed))

    async def act(self, world: World) -> Outcome:
        """Do what is hurt."""
        return await world.agent.apply(self.data, TARGET, OPERATOR)

    def check(self, world: World, side: str, state: TargetState, old: bytes, new: bytes) -> None:
        """Compare what the ledger and the state say with the tree that is there.

        Raises:
            FindingError: ``lost`` or ``unexplained``.
        """
        is_new = side == "after"
        intents, outcomes = world.intents(), world.outcomes()
        told = [each for each in outcomes if each.intent_tx_id is not None]
        if len(told) != len(intents):
            raise FindingError("lost", f"{len(intents)} intents have {len(told)} outcomes")
        if is_new and not intents:
            raise FindingError("unexplained", "changed without an intent")
        counters = [each.counter for each in world.bodies() if hasattr(each, "counter")]
        if counters != list(range(1, len(counters) + 1)):
            raise FindingError("lost", f"the host's records are numbered {counters}")
        if len(state.installed) != is_new:
            raise FindingError(
                "unexplained", f"the state names {len(state.installed)} patches, the tree is the one {side}"
            )
        last = outcomes[-1] if outcomes else None
        successes = [each for each in outcomes if each.result == "SUCCESS"]
        if len(successes) != is_new:
            raise FindingError("unexplained", f"{len(successes)} outcomes say success, and the tree is the one {side}")
        for each in successes:
            if (each.tree_before, each.tree_after) != (old, new):
                raise FindingError("unexplained", "an outcome names other trees")
        if last is not None and not is_new and last.tree_after != old:
            raise FindingError("unexplained", "an outcome names another tree than the one that is there")


def wide_story() -> Story:
    """Return the application of a patch of every kind."""
    return Story(
        {**TREE, **WIDE_BEFORE},
        lambda: patches.make_patch(
            WIDE_BEFORE, WIDE_AFTER, patches.EVERY_KIND_RENAMES, allowances=tuple(sorted(Allowance))
        ),
        tuple(sorted(Allowance)),
    )


def narrow_story() -> Story:
    """Return the application of a patch of one line."""
    return Story(NARROW_TREE, patches.make_patch)


STORIES: Final[dict[str, Callable[[], Story]]] = {"wide": wide_story, "narrow": narrow_story}
