"""A target changed file by file: the same tree as by an exchange, untouched files untouched, and all in or all out after anything."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.applying import settle, settle_in_place
from agent.files import Files
from agent.host_checks import explain
from agent.in_place import Operations
from agent.results import ResultCode, StepName
from agent.switch import Side, read_journal
from agent.target import JOURNAL_FILE, MANIFEST_FILE
from provenance.diff_model import Allowance, FileState
from provenance.layout import split_patch_file_untrusted
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, TARGET, TREE, WORK_NAME, World, read_tree, tree_digest_of

EVERY_KIND = (patches.EVERY_KIND_BEFORE, patches.EVERY_KIND_AFTER, patches.EVERY_KIND_RENAMES)
EVERY_ALLOWANCE = tuple(sorted(Allowance))


async def in_place(tmp_path: Path, **changes: Any) -> World:
    """Return a host whose target is changed in place."""
    world = World(tmp_path)
    await world.add_target(mode="in-place", allowed=list(EVERY_ALLOWANCE), **changes)
    return world


def reopen_with(world: World, step: Callable[[str, str | bytes], None]) -> None:
    """Open the agent anew, over files that ask `step` before every change."""
    world.files = Files(step)
    world.reopen()


def once(name: str, part: str, act: Callable[[], None]) -> Callable[[str, str | bytes], None]:
    """Return a step that acts before the first call of this name on such a path."""
    done: list[None] = []

    def step(call: str, path: str | bytes) -> None:
        if not done and call == name and part in os.fsdecode(path):
            done.append(None)
            act()

    return step


class Stop(BaseException):
    """Ends an application like a crash, in this process."""


def stop() -> None:
    raise Stop


def moved(journal: Path, act: Callable[[], None]) -> Callable[[str, str | bytes], None]:
    """Return a step that acts before the second file of an application is put into the tree; new directories come before the first."""
    directories = {os.fsencode(os.path.dirname(path)) for path in patches.EVERY_KIND_AFTER}
    count = 0

    def step(call: str, path: str | bytes) -> None:
        nonlocal count
        if call == "rename" and isinstance(path, bytes) and path not in directories and journal.exists():
            count += 1
            if count == 2:
                act()

    return step


def journal_of(world: World) -> Path:
    return Path(world.agent._registry.get(TARGET).store.path(JOURNAL_FILE))


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


# The tree


async def test_every_kind_of_change_gives_the_tree_of_an_exchange(tmp_path: Path) -> None:
    digests = []
    for mode in ("exchange", "in-place"):
        world = World(tmp_path / mode)
        await world.add_target(mode=mode)
        untouched = (world.root / "bin/tool").stat()
        outcome = await world.agent.apply(world.release(patches.make_patch(*EVERY_KIND)), TARGET, OPERATOR)
        assert outcome.is_success, outcome.message
        assert outcome.tree_after == world.digest()
        assert world.leftovers() == []
        (told,) = [each.message for each in outcome.steps if each.step is StepName.APPLY]
        assert told.endswith({"exchange": "in one switch", "in-place": "file by file, in place"}[mode])
        shown = await world.agent.show_target(TARGET)
        assert (shown.config.mode, shown.is_drifted) == (mode, False)
        digests.append(outcome.tree_after)
    assert digests[0] == digests[1]
    expected = {**TREE, **patches.EVERY_KIND_AFTER}
    assert read_tree(world.root) == {name: state for name, state in expected.items() if state is not None}
    after = (world.root / "bin/tool").stat()
    assert (after.st_ino, after.st_ctime_ns) == (untouched.st_ino, untouched.st_ctime_ns), "not so much as linked"


async def test_links_and_emptied_directories(tmp_path: Path) -> None:
    world = await in_place(tmp_path)
    before = {"old/gone.txt": TREE["old/gone.txt"], "src/to": None, "README": TREE["README"]}
    after = {"old/gone.txt": None, "src/to": FileState(0o120000, b"../README"), "README": None}
    allowances = (Allowance.REMOVE_DIRECTORY, Allowance.SYMLINK)
    data = world.release(patches.make_patch(before, after, allowances=allowances))
    digest, tree = world.digest(), read_tree(world.root)
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert outcome.is_success, outcome.message
    assert os.readlink(world.root / "src/to") == "../README"
    assert not (world.root / "old").exists()
    assert outcome.tree_after == world.digest()
    (undone,) = await world.agent.rollback(split_patch_file_untrusted(data).patch_id, TARGET, OPERATOR)
    assert undone.code is ResultCode.ROLLED_BACK
    assert (world.digest(), read_tree(world.root)) == (digest, tree)
    assert world.leftovers() == []


async def test_only_what_the_patch_touches_is_looked_at(tmp_path: Path) -> None:
    """A drift elsewhere is found by the next scan; the record of the patched tree is that of the tree as it was scanned."""
    world = await in_place(tmp_path)
    (world.root / "bin/tool").write_bytes(b"drifted\n")
    outcome = await world.agent.apply(world.release(), TARGET, OPERATOR)
    assert outcome.is_success, outcome.message
    shown = await world.agent.show_target(TARGET)
    assert shown.is_drifted
    assert shown.drifted_paths == ("bin/tool",), "the changes beside the manifest are known"


async def test_drift_where_the_patch_looks_is_seen_at_once(tmp_path: Path) -> None:
    world = await in_place(tmp_path)
    (world.root / "src/frame.c").write_bytes(b"drifted\n")
    outcome = await world.agent.apply(world.release(), TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.POLICY_DENIED, "agent.policy.no-drift")


async def test_manifest_follows_many_patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.manifest.MANIFEST_CHANGES_MAX", 2)
    world = await in_place(tmp_path)
    state = TREE["README"]
    assert state is not None
    changes = Path(world.agent._registry.get(TARGET).store.path(MANIFEST_FILE + ".changes"))
    lines = []
    for number in range(1, 5):
        after = FileState(0o100644, b"read me %d\n" % number)
        data = world.release(patches.make_patch({"README": state}, {"README": after}, release_counter=number))
        assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success
        lines.append(lines_of(changes))
        (world.root / "bin" / "tool").write_bytes(b"drift %d\n" % number)
        assert (await world.agent.show_target(TARGET)).drifted_paths == ("bin/tool",)
        (world.root / "bin" / "tool").write_bytes(b"#!/bin/sh\necho tool\n")
        state = after
    assert lines == [1, 2, 0, 1]


# Crashes and other hands


async def test_stopped_in_the_middle_goes_forward(tmp_path: Path) -> None:
    world = await in_place(tmp_path)
    old = world.digest()
    data = world.release(patches.make_patch(*EVERY_KIND))
    reopen_with(world, moved(journal_of(world), stop))
    with pytest.raises(Stop):
        await world.agent.apply(data, TARGET, OPERATOR)
    assert tree_digest_of(world.root) != old, "one file is new"
    assert WORK_NAME in os.listdir(world.root)
    world.files = None
    world.reopen()
    (recovery,) = await world.agent.recover()
    assert recovery.applied
    expected = {**TREE, **patches.EVERY_KIND_AFTER}
    assert read_tree(world.root) == {name: state for name, state in expected.items() if state is not None}
    await world.agent._delivery.deliver(5.0)
    (told,) = world.outcomes()
    assert (told.result, told.tree_before, told.tree_after) == ("SUCCESS", old, world.digest())
    assert world.leftovers() == []


async def test_full_disk_in_the_middle_goes_back(tmp_path: Path) -> None:
    world = await in_place(tmp_path)
    old, tree = world.digest(), read_tree(world.root)
    journal = journal_of(world)
    moves: list[str] = []

    def step(call: str, path: str | bytes) -> None:
        name = os.fsdecode(path)
        if call == "rename" and isinstance(path, bytes) and journal.exists():
            moves.append(name)
            if name == "run":
                raise OSError(errno.ENOSPC, "no space left", name)

    reopen_with(world, step)
    outcome = await world.agent.apply(world.release(patches.make_patch(*EVERY_KIND)), TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.no_space")
    assert len(moves) > 4, "some were new already"
    assert (world.digest(), read_tree(world.root)) == (old, tree)
    assert outcome.tree_after == old
    assert world.leftovers() == []
    assert not (await world.agent.show_target(TARGET)).is_drifted


async def test_what_is_recorded_as_new_never_goes_back(tmp_path: Path) -> None:
    world = await in_place(tmp_path)
    data = world.release(patches.make_patch(*EVERY_KIND))
    reopen_with(world, moved(journal_of(world), stop))
    with pytest.raises(Stop):
        await world.agent.apply(data, TARGET, OPERATOR)
    world.files = None
    world.reopen()
    slot = world.agent._registry.get(TARGET)
    journal = read_journal(str(journal_of(world)))
    assert journal is not None
    assert journal.operations is not None
    slot.store.write_target_state(journal.state_after)

    def fail() -> None:
        raise OSError(errno.EIO, "input/output error")

    with pytest.raises(OSError, match="input/output"):
        settle(Files(once("rename", "", fail)), slot.store, slot.config, journal.intent)
    (recovery,) = await world.agent.recover()
    assert recovery.applied
    assert not (await world.agent.show_target(TARGET)).is_drifted


async def test_a_root_that_cannot_be_opened_now_is_nobody_elses(tmp_path: Path) -> None:
    world = await in_place(tmp_path)
    config = world.agent._registry.get(TARGET).config
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        settle_in_place(
            Files(), replace(config, root=str(tmp_path / "loop" / "app")), Operations((), (), ()), back=False
        )
    gone = replace(config, root=str(tmp_path / "gone"))
    assert settle_in_place(Files(), gone, Operations((), (), ()), back=False) is Side.OTHER


async def test_full_disk_for_a_moment_is_gone_over(tmp_path: Path) -> None:
    world = await in_place(tmp_path)

    def full() -> None:
        raise OSError(errno.ENOSPC, "no space left")

    reopen_with(world, moved(journal_of(world), full))
    outcome = await world.agent.apply(world.release(patches.make_patch(*EVERY_KIND)), TARGET, OPERATOR)
    assert outcome.is_success
    assert outcome.tree_after == world.digest()


async def test_file_that_somebody_writes_meanwhile_is_left_to_them(tmp_path: Path) -> None:
    world = await in_place(tmp_path)
    before = read_tree(world.root)
    theirs = world.root / "src/frame.c"

    def write() -> None:
        theirs.unlink()
        theirs.write_bytes(b"theirs\n")

    reopen_with(world, moved(journal_of(world), write))
    outcome = await world.agent.apply(world.release(patches.make_patch(*EVERY_KIND)), TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.tree_changed")
    assert read_tree(world.root) == {**before, "src/frame.c": FileState(0o100644, b"theirs\n")}
    assert outcome.tree_after == world.digest()
    assert (await world.agent.show_target(TARGET)).is_drifted


@pytest.mark.parametrize("moment", ["open new-", "link old-", "write journal"])
async def test_write_before_the_journal_refuses(tmp_path: Path, moment: str) -> None:
    world = await in_place(tmp_path)
    name, part = moment.split()
    theirs = world.root / "src/frame.c"
    reopen_with(world, once(name, part, lambda: theirs.write_bytes(b"theirs\n") and None))
    outcome = await world.agent.apply(world.release(), TARGET, OPERATOR)
    assert outcome.code is ResultCode.APPLY_FAILED
    assert outcome.reason in ("agent.apply.tree_changed", "agent.target.changing", "agent.apply.pre_image")
    assert theirs.read_bytes() == b"theirs\n"
    assert world.leftovers() == []


@pytest.mark.parametrize("moment", ["open new-", "write journal", "rename frame.c"])
async def test_directory_that_becomes_a_link_leads_nowhere(tmp_path: Path, moment: str) -> None:
    """Whoever swaps a directory on the way for a link to elsewhere does not get the patch there."""
    world = await in_place(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(world.root / "src", elsewhere)
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}

    def swap() -> None:
        (world.root / "src").rename(world.root / "aside")
        (world.root / "src").symlink_to(elsewhere)

    name, part = moment.split()
    reopen_with(world, once(name, part, swap))
    outcome = await world.agent.apply(world.release(), TARGET, OPERATOR)
    assert outcome.code is ResultCode.APPLY_FAILED
    assert outcome.reason in ("agent.apply.link", "agent.apply.tree_changed"), outcome.reason
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before
    if moment != "rename frame.c":
        assert (world.root / "aside/frame.c").read_bytes() == patches.FRAME_BEFORE
    assert (await world.agent.show_target(TARGET)).is_drifted


async def test_crash_whose_work_directory_is_gone_is_told_as_it_is(tmp_path: Path) -> None:
    world = await in_place(tmp_path)
    data = world.release(patches.make_patch(*EVERY_KIND))
    reopen_with(world, moved(journal_of(world), stop))
    with pytest.raises(Stop):
        await world.agent.apply(data, TARGET, OPERATOR)
    shutil.rmtree(world.root / WORK_NAME)
    world.files = None
    world.reopen()
    (recovery,) = await world.agent.recover()
    assert not recovery.applied
    assert "neither" in recovery.message
    await world.agent._delivery.deliver(5.0)
    (told,) = world.outcomes()
    assert (told.result, told.tree_after) == ("ERROR_APPLY_FAILED", world.digest())
    assert json.loads(told.detail)["reason"] == "agent.apply.interrupted"


async def test_emptied_directory_that_is_filled_meanwhile_stays(tmp_path: Path) -> None:
    world = await in_place(tmp_path)
    before, after = {"old/gone.txt": TREE["old/gone.txt"]}, {"old/gone.txt": None}
    data = world.release(patches.make_patch(before, after, allowances=(Allowance.REMOVE_DIRECTORY,)))
    reopen_with(world, once("rename", "gone-0", lambda: (world.root / "old/theirs").write_bytes(b"x") and None))
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.tree_changed")
    assert sorted(os.listdir(world.root / "old")) == ["gone.txt", "theirs"]


async def test_disk_that_cannot_be_synced_stops_the_agent_and_is_recovered(tmp_path: Path) -> None:
    from agent.errors import StateCorruptError

    world = await in_place(tmp_path)
    journal = journal_of(world)

    def step(call: str, path: str | bytes) -> None:
        if call == "fsync" and journal.exists() and os.fsdecode(path) == "work":
            raise OSError(errno.EIO, "Input/output error")

    reopen_with(world, step)
    data = world.release()
    with pytest.raises(StateCorruptError) as caught:
        await world.agent.apply(data, TARGET, OPERATOR)
    assert caught.value.code == "agent.state.sync"
    world.files = None
    world.reopen()
    (recovery,) = await world.agent.recover()
    assert recovery.applied
    assert world.leftovers() == []


async def test_patch_into_the_work_directory_is_refused(tmp_path: Path) -> None:
    world = await in_place(tmp_path)
    path = f"{WORK_NAME}/new-0"
    data = world.release(patches.make_patch({path: None}, {path: FileState(0o100644, b"x\n")}))
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.own_directory")
    assert world.leftovers() == []


async def test_journal_of_a_copied_host_is_settled_by_content(tmp_path: Path) -> None:
    """A copy has other inodes, so nobody can tell whether its old files are those of the backups: it goes back."""
    world = await in_place(tmp_path)
    data = world.release(patches.make_patch(*EVERY_KIND))
    reopen_with(world, moved(journal_of(world), stop))
    with pytest.raises(Stop):
        await world.agent.apply(data, TARGET, OPERATOR)
    copy = tmp_path / "srv" / "copy"
    shutil.copytree(world.root, copy, symlinks=True)
    shutil.rmtree(world.root)
    copy.rename(world.root)
    slot = world.agent._registry.get(TARGET)
    journal = read_journal(slot.store.path(JOURNAL_FILE))
    assert journal is not None
    assert settle(Files(), slot.store, slot.config, journal.intent).side is Side.OLD
    assert tree_digest_of(world.root) == journal.tree_before


# Targets


async def test_mode_is_exchange_or_in_place(tmp_path: Path) -> None:
    from agent.errors import TargetRefusedError

    world = World(tmp_path)
    for mode in ("sideways", 7, None):
        with pytest.raises(TargetRefusedError) as caught:
            await world.agent.add_target(world.document(mode=mode))
        assert caught.value.code == "agent.target.mode"
    await world.add_target(mode="in-place")
    assert world.leftovers() == [], "the trial leaves nothing"
    world.reopen()
    assert (await world.agent.show_target(TARGET)).config.mode == "in-place"


async def test_target_in_which_nothing_can_be_linked_is_refused(tmp_path: Path) -> None:
    from agent.errors import ApplyFailedError

    def step(call: str, path: str | bytes) -> None:
        if call == "link":
            raise OSError(errno.EPERM, "Operation not permitted")

    world = World(tmp_path, files=Files(step))
    with pytest.raises(ApplyFailedError) as caught:
        await world.add_target(mode="in-place")
    assert caught.value.code == "agent.target.no_in_place"
    assert WORK_NAME not in os.listdir(world.root)
    assert world.agent.list_targets() == ()


async def test_several_targets_on_one_host_each_in_its_mode(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.add_target(mode="in-place")
    other = tmp_path / "srv" / "second"
    shutil.copytree(world.root, other)
    await world.agent.add_target(world.document(name="second", root=str(other)))
    data = world.release()
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success
    assert (await world.agent.show_target("second")).state.installed == (), "one patch on one target is on that one"
    assert tree_digest_of(other) != world.digest()
    assert (await world.agent.apply(data, "second", OPERATOR)).is_success
    assert tree_digest_of(other) == world.digest()
    for name in (TARGET, "second"):
        shown = await world.agent.show_target(name)
        assert not shown.is_drifted
        assert list((shown.state.counters or {}).values()) == [1], "release counters by component and target"
    again = await world.agent.apply(data, "second", OPERATOR)
    assert again.reason == "agent.metadata.already_applied"


def test_failure_of_a_call_on_a_descriptor_is_explained_too() -> None:
    assert explain(OSError(errno.EIO, "Input/output error", 7), "it failed").message == "it failed (Input/output error)"
    assert "name" in explain(OSError(errno.ENOSPC, "No space left", b"name"), "it failed").message
