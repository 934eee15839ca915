"""Directories keep their set-group-id bit, or the patch is refused: some kernels and services do not let the agent set it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import trio

from agent.files import Files
from agent.limits import STANDBY_ENTRIES_MIN
from agent.results import ResultCode
from provenance.diff_model import FileState
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, STANDBY_NAME, TARGET, World

BEFORE: patches.Tree = {"shared/kept": FileState(0o100644, b"kept\n"), "shared/changed": FileState(0o100644, b"one\n")}
AFTER: patches.Tree = {
    **BEFORE,
    "shared/changed": FileState(0o100644, b"two\n"),
    "shared/new/file": FileState(0o100644, b"new\n"),
}
MANY: patches.Tree = {f"many/{number}": FileState(0o100644, b"") for number in range(STANDBY_ENTRIES_MIN)}
WAYS = pytest.mark.parametrize(
    ("mode", "more"), [("exchange", {}), ("exchange", MANY), ("in-place", {})], ids=["exchange", "standby", "in-place"]
)


class ForbiddenBit(Files):
    """A service whose manager forbids to set the bit (`RestrictSUIDSGID`)."""

    def change_mode(self, path: str | bytes, mode: int, *, dir_fd: int | None = None) -> None:
        if mode & stat.S_ISGID:
            raise PermissionError(1, "Operation not permitted")
        super().change_mode(path, mode, dir_fd=dir_fd)

    def set_mode(self, descriptor: int, mode: int, path: str | bytes) -> None:
        if mode & stat.S_ISGID:
            raise PermissionError(1, "Operation not permitted")
        super().set_mode(descriptor, mode, path)


class LostBit(Files):
    """A kernel that takes the bit away without a word, as from one who is not in the group and has no `CAP_FSETID`."""

    def change_mode(self, path: str | bytes, mode: int, *, dir_fd: int | None = None) -> None:
        super().change_mode(path, mode & ~stat.S_ISGID, dir_fd=dir_fd)

    def set_mode(self, descriptor: int, mode: int, path: str | bytes) -> None:
        super().set_mode(descriptor, mode & ~stat.S_ISGID, path)


def world_of(directory: Path, files: Files | None, more: patches.Tree) -> World:
    world = World(directory, files=files, tree={**BEFORE, **more})
    os.chmod(world.root / "shared", 0o2775)
    return world


@WAYS
def test_the_bit_stays_and_new_directories_have_it(tmp_path: Path, mode: str, more: patches.Tree) -> None:
    async def story() -> None:
        world = world_of(tmp_path, None, more)
        await world.add_target(mode=mode)
        outcome = await world.agent.apply(world.release(patches.make_patch(BEFORE, AFTER)), TARGET, OPERATOR)
        assert outcome.code is ResultCode.SUCCESS, outcome.reason
        world.agent.close()
        assert (world.root.parent / STANDBY_NAME).exists() == (bool(more) and mode == "exchange")
        for name in ("shared", "shared/new"):
            assert stat.S_IMODE((world.root / name).stat().st_mode) == 0o2775

    trio.run(story)


@pytest.mark.parametrize("files", [ForbiddenBit(), LostBit()], ids=["forbidden", "lost"])
@WAYS
def test_a_patch_that_would_lose_the_bit_is_refused(
    tmp_path: Path, mode: str, files: Files, more: patches.Tree
) -> None:
    async def story() -> None:
        world = world_of(tmp_path, files, more)
        await world.add_target(mode=mode)
        before = world.digest()
        outcome = await world.agent.apply(world.release(patches.make_patch(BEFORE, AFTER)), TARGET, OPERATOR)
        assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.attributes")
        assert "RestrictSUIDSGID" in outcome.hint
        assert await world.agent.check_drift() == ()
        world.agent.close()
        assert world.digest() == before
        assert stat.S_IMODE((world.root / "shared").stat().st_mode) == 0o2775
        assert world.leftovers() == []

    trio.run(story)
