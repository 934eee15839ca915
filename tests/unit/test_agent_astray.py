"""Whoever may write to a directory in which the agent works leads it nowhere: by no link, and by nothing else put in a name's place."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from agent.errors import TargetRefusedError
from agent.files import Files
from agent.limits import STANDBY_ENTRIES_MIN
from agent.results import Outcome, ResultCode
from provenance.diff_model import FileState
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, STANDBY_NAME, TARGET, TREE, WORK_NAME, Tree, World

STAGING_NAME = f".app.patchwarden-{TARGET}"
MANY: Tree = {f"many/{number}": FileState(0o100644, b"") for number in range(STANDBY_ENTRIES_MIN)}
WAYS = pytest.mark.parametrize(
    ("mode", "more"), [("exchange", {}), ("exchange", MANY), ("in-place", {})], ids=["exchange", "standby", "in-place"]
)
NEW_FILE = ({"new/f": None}, {"new/f": FileState(0o100644, b"x\n")})
ELSEWHERE_MODE = 0o640


def world_of(directory: Path, mode: str, more: Tree) -> World:
    """Return a host with a target, in which something will happen between the agent's calls."""
    world = World(directory, tree={**TREE, **more})
    trio.run(lambda: world.add_target(mode=mode))
    if more and not (world.root.parent / STANDBY_NAME).is_dir():
        world.agent.close()
        pytest.skip("no standby tree can be kept on this file system")
    return world


def apply_watched(
    world: World, patch: tuple[Tree, Tree], step: Callable[[str, bytes], None], files: type[Files] = Files
) -> Outcome:
    """Return how an application ends before each of whose calls `step` is called."""
    data = world.release(patches.make_patch(*patch))

    async def run() -> Outcome:
        world.files = files(lambda call, path: step(call, os.fsencode(path)))
        world.reopen()
        try:
            return await world.agent.apply(data, TARGET, OPERATOR)
        finally:
            world.agent.close()

    return trio.run(run)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Return a file outside of the target."""
    path = tmp_path / "elsewhere"
    path.write_bytes(b"secret\n")
    path.chmod(ELSEWHERE_MODE)
    return path


@pytest.mark.parametrize("kind", ["link", "file"])
@WAYS
def test_what_takes_the_place_of_a_new_directory_keeps_its_permissions(
    tmp_path: Path, elsewhere: Path, mode: str, more: Tree, kind: str
) -> None:
    """The directory above belongs to somebody else, who chooses its mode, and may rename what is in it between any two calls."""
    world = world_of(tmp_path / "world", mode, more)
    world.root.chmod(0o2777)
    swapped: list[str] = []

    def step(call: str, path: bytes) -> None:
        for root in (world.root, world.root.parent / STANDBY_NAME / "tree"):
            place = root / "new"
            if not swapped and place.is_dir() and not place.is_symlink():
                swapped.append(call)
                place.rename(root / "away")
                place.symlink_to(elsewhere) if kind == "link" else os.link(elsewhere, place)

    apply_watched(world, NEW_FILE, step)
    assert swapped, "the moment was there"
    assert stat.S_IMODE(elsewhere.stat().st_mode) == ELSEWHERE_MODE
    assert elsewhere.read_bytes() == b"secret\n"


@WAYS
def test_new_directory_has_its_status_before_it_has_its_name(tmp_path: Path, mode: str, more: Tree) -> None:
    world = world_of(tmp_path, mode, more)
    world.root.chmod(0o2750)
    seen: set[int] = set()
    after: list[None] = []

    def step(call: str, path: bytes) -> None:
        if after or call == "exchange":
            after.append(None)
            return
        for root in (world.root, world.root.parent / STANDBY_NAME / "tree"):
            if (root / "new").is_dir():
                seen.add(stat.S_IMODE((root / "new").stat().st_mode))

    assert apply_watched(world, NEW_FILE, step).is_success
    assert seen == (set() if mode == "exchange" and not more else {0o2750}), "none, or complete"
    assert stat.S_IMODE((world.root / "new").stat().st_mode) == 0o2750


def test_directory_put_in_the_place_of_one_that_the_standby_tree_lacks_keeps_its_permissions(tmp_path: Path) -> None:
    """The old tree becomes the standby tree; somebody has kept its root open, and waits for what is made in it."""
    world = World(tmp_path, tree={**TREE, **MANY})
    (world.root / "vault").mkdir()
    (world.root / "vault/file").write_bytes(b"secret\n")
    trio.run(world.add_target)
    tree = world.root.parent / STANDBY_NAME / "tree"
    if not tree.is_dir():
        world.agent.close()
        pytest.skip("no standby tree can be kept on this file system")
    vaults = []
    for root in (world.root, tree):
        (root / "vault").chmod(0o700)
        vaults.append(os.open(root / "vault", os.O_RDONLY | os.O_DIRECTORY))
    exchanged: list[None] = []
    swapped: list[None] = []

    def step(call: str, path: bytes) -> None:
        if call == "exchange":
            exchanged.append(None)
        elif exchanged and not swapped and (tree / "new").is_dir():
            swapped.append(None)
            (tree / "new").rename(tree / "away")
            (tree / "vault").rename(tree / "new")

    try:
        assert apply_watched(world, NEW_FILE, step).is_success
        assert swapped, "the moment was there"
        assert [stat.S_IMODE(os.fstat(each).st_mode) for each in vaults] == [0o700, 0o700]
    finally:
        for each in vaults:
            os.close(each)


@WAYS
def test_work_directory_that_others_may_enter_is_not_worked_in(tmp_path: Path, mode: str, more: Tree) -> None:
    """Beside the root, or in it, somebody who may write there puts a directory of their own in the place of the agent's."""
    world = world_of(tmp_path, mode, more)
    staging = world.root / WORK_NAME if mode == "in-place" else world.root.parent / STAGING_NAME
    place = staging if mode == "in-place" or more else staging / "tree"
    before = world.digest()
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)

    class Swapped(Files):
        def make_directory(self, path: str | bytes, mode: int = 0o700, *, dir_fd: int | None = None) -> None:
            super().make_directory(path, mode, dir_fd=dir_fd)
            if path == str(place) and theirs.exists():
                place.rename(tmp_path / "away")
                theirs.rename(place)

    outcome = apply_watched(world, NEW_FILE, lambda call, path: None, Swapped)
    assert not theirs.exists(), "the moment was there"
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.link")
    assert world.digest() == before
    assert os.listdir(tmp_path / "away") == []


@pytest.mark.parametrize("kind", ["link", "directory", "nothing"])
@WAYS
def test_attributes_come_from_the_file_that_was_decided_on(tmp_path: Path, mode: str, more: Tree, kind: str) -> None:
    """While the new file is written, what is on the way to the old one is exchanged, and put back."""
    world = world_of(tmp_path / "world", mode, more)
    outside, place = tmp_path / "outside", world.root / "bin"
    outside.mkdir()
    (outside / "tool").write_bytes(b"theirs\n")
    try:
        os.setxattr(outside / "tool", "user.planted", b"yes")
    except OSError:
        world.agent.close()
        pytest.skip("no extended attributes here")
    swapped: list[str] = []

    written: list[bytes] = []

    def step(call: str, path: bytes) -> None:
        if call == "write" and (path in (b"README", b"bin/tool") or path.startswith(b"new-")):
            written.append(path)
        if call == "write" and not swapped and len(written) == 2:
            swapped.append(call)
            place.rename(world.root / "away")
            if kind == "link":
                place.symlink_to(outside)
            elif kind == "directory":
                outside.rename(place)
        elif swapped == ["write"] and call != "write":
            swapped.append(call)
            if kind == "link":
                place.unlink()
            elif kind == "directory":
                place.rename(outside)
            (world.root / "away").rename(place)

    # Two files, so that a large tree is exchanged as a whole.
    patch = {"README": FileState(0o100644, b"new\n"), "bin/tool": FileState(0o100755, b"#!/bin/sh\necho new\n")}
    before = world.digest()
    outcome = apply_watched(world, ({path: TREE[path] for path in patch}, patch), step)
    assert len(swapped) == 2, "the moment was there"
    reason = "agent.apply.link" if kind == "link" else "agent.target.changing"
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, reason)
    assert world.digest() == before
    assert "user.planted" not in os.listxattr(place / "tool")


@pytest.mark.parametrize("what", ["open", "other names"])
@pytest.mark.parametrize("mode", ["exchange", "in-place"])
def test_what_was_renamed_to_where_the_agent_works_is_told_and_never_removed(
    tmp_path: Path, mode: str, what: str
) -> None:
    """Who may write to the directory above renames what they could not empty."""
    world = World(tmp_path)
    data = world.release()
    places = [world.root / WORK_NAME] if mode == "in-place" else [world.root.parent / STAGING_NAME]
    if mode == "exchange":
        places += [world.root.parent / f"{STAGING_NAME}.old-0", world.root.parent / STANDBY_NAME]

    async def story() -> None:
        await world.add_target(mode=mode)
        before = world.digest() if mode == "exchange" else None
        for place in places:
            place.mkdir(mode=0o755 if what == "open" else 0o700)
            (place / ("new-0" if what == "open" else "ledger")).write_bytes(b"precious\n")
        world.reopen()
        assert await world.agent.check_drift() == ()
        outcome = await world.agent.apply(data, TARGET, OPERATOR)
        assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.target.own_directory")
        assert outcome.intent_tx is None, "nothing was announced"
        told = [dict(facts) for event, facts in world.notes if event == "agent.clean_up.failed"]
        assert any("not the agent's" in str(each["message"]) for each in told)
        assert before is None or world.digest() == before

    trio.run(story)
    for place in places:
        assert [each.read_bytes() for each in place.iterdir()] == [b"precious\n"]
        shutil.rmtree(place)
    assert trio.run(world.agent.apply, data, TARGET, OPERATOR).is_success
    world.agent.close()


@pytest.mark.parametrize("mode", ["exchange", "in-place"])
def test_target_is_not_added_where_something_stands_in_the_place_of_the_work_directory(
    tmp_path: Path, mode: str
) -> None:
    world = World(tmp_path)
    place = world.root / WORK_NAME if mode == "in-place" else world.root.parent / STAGING_NAME
    place.mkdir()
    (place / "precious").touch()
    with pytest.raises(TargetRefusedError) as caught:
        trio.run(lambda: world.add_target(mode=mode))
    assert caught.value.code == "agent.target.own_directory"
    assert (place / "precious").exists()
    world.agent.close()
