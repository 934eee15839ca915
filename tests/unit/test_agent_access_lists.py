"""POSIX access lists: what is new has those of the directory that it is in, and none of where it was made."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest
import trio

from agent.files import Files
from agent.limits import STANDBY_ENTRIES_MIN
from agent.results import Outcome, ResultCode
from provenance.diff_model import FileState
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, STANDBY_NAME, TARGET, World

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 1, 2, 4, 0x10, 0x20
NO_ID = 0xFFFFFFFF
BEFORE: patches.Tree = {
    "lib/kept": FileState(0o100644, b"kept\n"),
    "lib/changed": FileState(0o100644, b"one\n"),
    "bin/tool": FileState(0o100755, b"one\n"),
}
AFTER: patches.Tree = {
    **BEFORE,
    "lib/changed": FileState(0o100644, b"two\n"),
    "lib/new/deep/file": FileState(0o100644, b"new\n"),
    "lib/file": FileState(0o100644, b"new\n"),
    "bin/new/file": FileState(0o100755, b"new\n"),
}
MANY: patches.Tree = {f"many/{number}": FileState(0o100644, b"") for number in range(STANDBY_ENTRIES_MIN)}
WAYS = pytest.mark.parametrize(
    ("mode", "more"), [("exchange", {}), ("exchange", MANY), ("in-place", {})], ids=["exchange", "standby", "in-place"]
)


def access_list(user: int, group: int, mask: int, other: int, owner: int = 7) -> bytes:
    """Return the list by which the user 33 may do `user`, and the group only what `group` says."""
    entries = [(USER_OBJ, owner, NO_ID), (USER, user, 33), (GROUP_OBJ, group, NO_ID), (MASK, mask, NO_ID)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in [*entries, (OTHER, other, NO_ID)])


LIB, NEW_IN_LIB, OUTSIDE = access_list(7, 0, 7, 0), access_list(6, 5, 7, 0), access_list(7, 7, 7, 7)
"""Of the directory `lib`, of what is made in it, and of what is made where the agent works."""


def lists_of(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path) if name in (ACCESS, DEFAULT)}


def world_of(directory: Path, more: patches.Tree, files: Files | None = None) -> World:
    """Return a host whose target, and the directory beside which it stands, have access lists."""
    world = World(directory, files=files, tree={**BEFORE, **more})
    try:
        os.setxattr(world.root / "lib", ACCESS, LIB)
        os.setxattr(world.root / "lib", DEFAULT, NEW_IN_LIB)
        for place in (world.root, world.root.parent):
            os.setxattr(place, DEFAULT, OUTSIDE)
    except OSError:
        world.agent.close()
        pytest.skip("no access lists here")
    return world


async def apply(world: World, mode: str, more: patches.Tree) -> Outcome:
    await world.add_target(mode=mode)
    if more and not (world.root.parent / STANDBY_NAME).is_dir():
        world.agent.close()
        pytest.skip("no standby tree can be kept on this file system")
    try:
        return await world.agent.apply(world.release(patches.make_patch(BEFORE, AFTER)), TARGET, OPERATOR)
    finally:
        world.agent.close()


@WAYS
def test_what_is_new_has_the_lists_of_its_directory(tmp_path: Path, mode: str, more: patches.Tree) -> None:
    world = world_of(tmp_path, more)
    outcome = trio.run(apply, world, mode, more)
    assert outcome.code is ResultCode.SUCCESS, outcome.message
    for name in ("lib", "lib/new", "lib/new/deep"):
        assert lists_of(world.root / name) == {ACCESS: LIB, DEFAULT: NEW_IN_LIB}, name
        assert stat.S_IMODE((world.root / name).stat().st_mode) == 0o770, name
    for name in ("lib/file", "lib/new/deep/file"):
        # Bounded by the permissions that a new file has, as chmod does it: the mask, and what everybody may.
        assert lists_of(world.root / name) == {ACCESS: access_list(6, 5, 4, 4, owner=6)}, name
        assert stat.S_IMODE((world.root / name).stat().st_mode) == 0o644, name
    assert lists_of(world.root) == {DEFAULT: OUTSIDE}
    for name in ("lib/changed", "bin", "bin/tool", "bin/new", "bin/new/file"):
        assert lists_of(world.root / name) == {}, name


class Unlisted(Files):
    """A file system on which access lists are shown and cannot be set."""

    def set_attribute(self, descriptor: int, name: str, value: bytes) -> None:
        raise OSError(95, "Operation not supported")


@pytest.mark.parametrize("mode", ["exchange", "in-place"])
def test_lists_that_cannot_be_kept_refuse_the_patch(tmp_path: Path, mode: str) -> None:
    world = world_of(tmp_path, {}, Unlisted())
    before = world.digest()
    outcome = trio.run(apply, world, mode, {})
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.attributes")
    assert world.digest() == before
    assert world.leftovers() == []
