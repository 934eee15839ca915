"""The second tree beside a large one: always the live tree's own files, never believed, and never in the way of anything."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

import agent.standby
import agent.tree_cache
from agent.errors import ApplyFailedError
from agent.files import Files
from agent.hooks import HookKind
from agent.results import Outcome, ResultCode
from provenance.diff_model import Allowance, FileState
from provenance.layout import split_patch_file_untrusted
from tests.crash.story import WIDE_AFTER, WIDE_BEFORE
from tests.crash.trees import Snapshot, copy_tree, first_difference, take_names, take_snapshot
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, STANDBY_NAME, TARGET, TREE, World, read_tree, tree_digest_of
from wire.errors import UnavailableError

WIDE_TREE = {**TREE, **WIDE_BEFORE}
EVERYTHING = tuple(sorted(Allowance))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a small tree count as a large one."""
    monkeypatch.setattr(agent.standby, "STANDBY_ENTRIES_MIN", 1)


@pytest.fixture
async def world(tmp_path: Path, small: None) -> World:
    world = World(tmp_path, tree=WIDE_TREE)
    await world.add_target(allowed=list(EVERYTHING))
    if not standby(world).is_dir():
        pytest.skip("no standby tree can be kept on this file system")
    return world


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Return what a small tree, which is made anew, becomes by the same patch."""
    world = World(tmp_path_factory.mktemp("expected"), tree=WIDE_TREE)

    async def run() -> None:
        await world.add_target(allowed=list(EVERYTHING))
        assert (await apply(world, wide(world))).is_success

    trio.run(run)
    world.agent.close()
    return take_snapshot(world.root)


def standby(world: World) -> Path:
    return world.root.parent / STANDBY_NAME / "tree"


def wide(world: World) -> bytes:
    """Return a published patch with a change of every kind, in many directories."""
    return world.release(patches.make_patch(WIDE_BEFORE, WIDE_AFTER, patches.EVERY_KIND_RENAMES, allowances=EVERYTHING))


def assert_equal(world: World) -> None:
    """See that every name in the standby tree is the live tree's own file, and every directory is like the live one."""
    assert take_names(world.root) == take_names(standby(world))
    assert first_difference(take_snapshot(world.root), take_snapshot(standby(world))) == ""
    for directory, _, _ in os.walk(world.root):
        other = standby(world) / Path(directory).relative_to(world.root)
        assert Path(directory).stat().st_mtime_ns == other.stat().st_mtime_ns, directory
    assert stat.S_IMODE(standby(world).parent.stat().st_mode) == 0o700


async def apply(world: World, data: bytes) -> Outcome:
    return await world.agent.apply(data, TARGET, OPERATOR)


def watch(world: World, step: Callable[[str, str], None]) -> None:
    """Open the agent again with something that happens before its calls."""
    world.files = Files(lambda call, path: step(call, os.fsdecode(path)))
    world.reopen()


def watch_reading(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the paths of files that are read from now on, as they come."""
    read: list[bytes] = []
    original = agent.tree_cache.read_digest

    def counted(root_fd: int, path: bytes, entry: object) -> object:
        read.append(path)
        return original(root_fd, path, entry)  # type: ignore[arg-type]

    monkeypatch.setattr(agent.tree_cache, "read_digest", counted)
    return read


# What it is


async def test_added_target_has_one_and_a_change_costs_no_ctime(world: World) -> None:
    assert_equal(world)
    (world.root / "docs").mkdir()
    (world.root / "bin").chmod(0o2750)
    roots = (world.root.stat().st_ino, standby(world).stat().st_ino)
    before = (world.root / "README").stat()
    data = wide(world)
    outcome = await apply(world, data)
    assert outcome.is_success, outcome.message
    assert outcome.tree_after == world.digest()
    assert (world.root.stat().st_ino, standby(world).stat().st_ino) == roots[::-1]
    after = (world.root / "README").stat()
    assert (after.st_ino, after.st_nlink, after.st_ctime_ns) == (before.st_ino, 2, before.st_ctime_ns)
    assert (world.root / "bin").stat().st_mode & 0o7777 == 0o2750
    assert_equal(world)
    assert world.leftovers() == []
    assert not (await world.agent.show_target(TARGET)).is_drifted
    (undone,) = await world.agent.rollback(split_patch_file_untrusted(data).patch_id, TARGET, OPERATOR)
    assert undone.code is ResultCode.ROLLED_BACK
    assert world.root.stat().st_ino == roots[0]
    assert_equal(world)


async def test_nothing_of_the_old_content_stays(world: World) -> None:
    old = (world.root / "src/frame.c").read_bytes()
    assert (await apply(world, wide(world))).is_success
    held = [path for path in standby(world).rglob("*") if path.is_file() and path.read_bytes() == old]
    assert held == []
    assert (world.root / "src/frame.c").stat().st_nlink == 2


async def test_without_one_the_application_makes_it(world: World) -> None:
    shutil.rmtree(standby(world).parent)
    assert (await apply(world, wide(world))).is_success
    assert_equal(world)
    assert not (await world.agent.show_target(TARGET)).is_drifted


async def test_small_tree_and_one_changed_in_place_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "one")
    await world.add_target()
    assert (await apply(world, world.release())).is_success
    assert not standby(world).exists()
    monkeypatch.setattr(agent.standby, "STANDBY_ENTRIES_MIN", 1)
    world = World(tmp_path / "other")
    await world.add_target(mode="in-place")
    assert (await apply(world, world.release())).is_success
    assert not standby(world).exists()
    assert not (await world.agent.show_target(TARGET)).to_json()["standby"]


async def test_removing_the_target_removes_it(world: World) -> None:
    assert (await world.agent.show_target(TARGET)).to_json()["standby"]
    await world.agent.remove_target(TARGET)
    assert sorted(os.listdir(world.root.parent)) == [world.root.name]
    assert (world.root / "README").stat().st_nlink == 1


async def test_changed_in_place_from_now_on_there_is_none_and_its_names_are_in_nobodys_way(world: World) -> None:
    """Names left in a standby tree would be hard links, which no patch in place may change."""
    assert standby(world).exists()
    await world.agent.change_mode(TARGET, "in-place")
    assert not standby(world).exists()
    assert (await apply(world, wide(world))).is_success
    await world.agent.change_mode(TARGET, "exchange")
    assert not (await world.agent.show_target(TARGET)).is_drifted
    assert world.leftovers() == []


async def test_operator_can_do_without_it_and_have_it_again(world: World) -> None:
    for restart in (False, True):
        await world.agent.change_standby(TARGET, kept=False)
        assert ("agent.target.standby", {"target": TARGET, "kept": False}) in world.notes
        if restart:
            world.reopen()
        shown = (await world.agent.show_target(TARGET)).to_json()
        assert (shown["standby"], shown["keeps_standby"], shown["drifted"]) == (False, False, False)
        assert not standby(world).parent.exists()
        assert (world.root / "README").stat().st_nlink == 1
        await world.agent.change_standby(TARGET, kept=True)
        assert (await world.agent.show_target(TARGET)).to_json()["standby"]
        assert_equal(world)
    await world.agent.change_standby(TARGET, kept=False)
    assert (await apply(world, wide(world))).is_success
    await world.agent.adopt_target(TARGET)
    assert not standby(world).parent.exists()


async def test_switching_it_off_or_on_reads_no_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.agent._registry.get(TARGET)._cache._now_ns = lambda: 2 * 10**18
    await world.agent.show_target(TARGET)
    read = watch_reading(monkeypatch)
    for kept in (False, True):
        await world.agent.change_standby(TARGET, kept=kept)
        assert not (await world.agent.show_target(TARGET)).is_drifted
    assert read == []


async def test_one_that_could_not_be_removed_goes_with_the_next_application(world: World) -> None:
    def step(call: str, path: str) -> None:
        if call == "rmdir":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    watch(world, step)
    with pytest.raises(UnavailableError):
        await world.agent.change_standby(TARGET, kept=False)
    assert standby(world).parent.exists()
    world.files = None
    world.reopen()
    assert (await world.agent.show_target(TARGET)).to_json()["keeps_standby"] is False
    assert (await apply(world, wide(world))).is_success
    assert not standby(world).parent.exists()


@pytest.mark.parametrize("room", [0, 5, 6, 7, 8])
async def test_root_whose_name_leaves_no_room_for_it_has_none(tmp_path: Path, small: None, room: int) -> None:
    """Room is what the staging directory's name leaves: `.old-N` takes six bytes, `.standby` eight."""
    longest = os.statvfs(tmp_path).f_namemax
    world = World(tmp_path)
    root = world.root.with_name("n" * (longest - len(f"..patchwarden-{TARGET}") - room))
    shutil.copytree(world.root, root)
    await world.add_target(root=str(root))
    before, after = {"README": TREE["README"]}, {"README": FileState(0o100644, b"second\n")}
    for data in (world.release(), world.release(patches.make_patch(before, after, release_counter=2))):
        assert (await apply(world, data)).is_success
        beside = {name for name in os.listdir(root.parent) if name not in (world.root.name, root.name)}
        assert beside <= {f".{root.name}.patchwarden-{TARGET}.standby"}
        assert not beside or room == 8
    assert [event for event, _ in world.notes if event == "agent.clean_up.failed"] == []
    await world.agent.remove_target(TARGET)
    assert sorted(os.listdir(root.parent)) == [world.root.name, root.name]


async def test_root_whose_name_leaves_no_room_at_all_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    root = world.root.with_name("n" * (os.statvfs(tmp_path).f_namemax - len(f"..patchwarden-{TARGET}") + 1))
    shutil.copytree(world.root, root)
    with pytest.raises(ApplyFailedError) as caught:
        await world.add_target(root=str(root))
    assert caught.value.code == "agent.target.no_exchange"
    await world.add_target(root=str(root), mode="in-place")


async def test_file_system_that_lists_other_numbers_has_none(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent.standby, "_FILE_SYSTEMS", frozenset())
    world = World(tmp_path)
    await world.add_target()
    assert (await apply(world, world.release())).is_success
    assert not standby(world).exists()


async def test_part_of_a_tree_is_still_exchanged_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.part.PART_ENTRIES_MIN", 0)
    monkeypatch.setattr(agent.standby, "STANDBY_ENTRIES_MIN", 5)
    before = world.root.stat().st_ino
    assert (await apply(world, world.release())).is_success
    assert world.root.stat().st_ino == before
    assert take_names(world.root) == take_names(standby(world))
    assert (standby(world) / "src/frame.c").read_bytes() == (world.root / "src/frame.c").read_bytes()


async def test_large_part_takes_the_whole_tree(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.part.PART_ENTRIES_MIN", 0)
    before = world.root.stat().st_ino
    assert (await apply(world, world.release())).is_success
    assert world.root.stat().st_ino != before
    assert_equal(world)


async def test_nothing_that_stays_is_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.agent._registry.get(TARGET)._cache._now_ns = lambda: 2 * 10**18
    assert not (await world.agent.show_target(TARGET)).is_drifted
    read = watch_reading(monkeypatch)
    shutil.rmtree(standby(world).parent)
    assert not (await world.agent.show_target(TARGET)).is_drifted
    read.clear()
    assert (await apply(world, wide(world))).is_success
    assert not (await world.agent.show_target(TARGET)).is_drifted
    assert set(read) <= {os.fsencode(path) for path in WIDE_AFTER}


# Written to by others


def _foreign_file(world: World, tree: Path) -> None:
    (tree / "lib/foreign.so").write_bytes(b"not the target's\n")
    (tree / "README2").symlink_to("/etc/passwd")


def _other_inode(world: World, tree: Path) -> None:
    content = (tree / "README").read_bytes()
    (tree / "README").unlink()
    (tree / "README").write_bytes(content)


def _other_content(world: World, tree: Path) -> None:
    (tree / "README").unlink()
    (tree / "README").write_bytes(b"planted\n")


def _extra_directory(world: World, tree: Path) -> None:
    (tree / "bin/deep/er").mkdir(parents=True)
    (tree / "bin/deep/er/file").write_bytes(b"planted\n")
    os.mkfifo(tree / "bin/deep/pipe")


def _other_mode(world: World, tree: Path) -> None:
    (tree / "lib").chmod(0o777)
    tree.chmod(0o777)


def _link_for_directory(world: World, tree: Path) -> None:
    elsewhere = world.directory / "elsewhere"
    shutil.copytree(tree / "lib", elsewhere)
    shutil.rmtree(tree / "lib")
    (tree / "lib").symlink_to(elsewhere)


def _link_to_live(world: World, tree: Path) -> None:
    shutil.rmtree(tree / "lib")
    (tree / "lib").symlink_to(world.root / "lib")


def _file_for_directory(world: World, tree: Path) -> None:
    shutil.rmtree(tree / "src")
    (tree / "src").write_bytes(b"planted\n")


def _directory_for_file(world: World, tree: Path) -> None:
    (tree / "README").unlink()
    (tree / "README").mkdir()
    (tree / "README/inner").write_bytes(b"planted\n")


def _nested_without_end(world: World, tree: Path) -> None:
    """More levels than descriptors or stack frames."""
    inside = os.open(tree / "bin", os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(1500):
        os.mkdir("0", dir_fd=inside)
        below = os.open("0", os.O_RDONLY | os.O_DIRECTORY, dir_fd=inside)
        os.close(inside)
        inside = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=inside))
    os.close(inside)


def _missing(world: World, tree: Path) -> None:
    shutil.rmtree(tree / "data")
    (tree / "README").unlink()


def _link_for_root(world: World, tree: Path) -> None:
    elsewhere = world.directory / "elsewhere"
    shutil.copytree(tree, elsewhere)
    shutil.rmtree(tree)
    tree.symlink_to(elsewhere)


def _open_above(world: World, tree: Path) -> None:
    tree.parent.chmod(0o755)


def _nothing_left(world: World, tree: Path) -> None:
    shutil.rmtree(tree)


TAMPERINGS = (
    _foreign_file,
    _other_inode,
    _other_content,
    _extra_directory,
    _other_mode,
    _link_for_directory,
    _link_to_live,
    _file_for_directory,
    _directory_for_file,
    _nested_without_end,
    _missing,
    _link_for_root,
    _open_above,
    _nothing_left,
)


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda each: each.__name__)
async def test_what_was_done_to_it_never_gets_into_the_live_tree(
    world: World, expected: Snapshot, tamper: Callable[[World, Path], None]
) -> None:
    tamper(world, standby(world))
    elsewhere = world.directory / "elsewhere"
    kept = take_snapshot(elsewhere)
    outcome = await apply(world, wide(world))
    assert outcome.is_success, outcome.message
    assert first_difference(take_snapshot(world.root), expected) == ""
    assert_equal(world)
    assert take_snapshot(elsewhere) == kept, "what a link leads to is nobody's business"
    assert not (await world.agent.show_target(TARGET)).is_drifted


async def test_one_that_was_moved_away_holds_other_names_of_every_file(world: World) -> None:
    elsewhere = world.directory / "elsewhere"
    standby(world).parent.rename(elsewhere)
    standby(world).parent.symlink_to(elsewhere)
    kept = take_snapshot(elsewhere)
    assert (await apply(world, wide(world))).reason == "agent.apply.hard_link"
    assert take_snapshot(elsewhere) == kept
    shutil.rmtree(elsewhere)
    await world.agent.adopt_target(TARGET)
    assert_equal(world)


async def test_attributes_of_its_directories_are_the_live_ones(world: World) -> None:
    try:
        os.setxattr(world.root / "lib", "user.kept", b"yes")
        os.setxattr(standby(world) / "lib", "user.planted", b"yes")
    except OSError:
        pytest.skip("no extended attributes here")
    assert (await apply(world, wide(world))).is_success
    assert os.listxattr(world.root / "lib") == os.listxattr(standby(world) / "lib") == ["user.kept"]


@pytest.mark.parametrize(
    "tamper", [_foreign_file, _other_inode, _other_mode, _link_to_live, _missing], ids=lambda each: each.__name__
)
async def test_what_is_done_to_it_during_an_application_refuses(
    world: World, tamper: Callable[[World, Path], None]
) -> None:
    done: list[None] = []

    def step(call: str, path: str) -> None:
        if call == "syncfs" and not done:
            done.append(None)
            tamper(world, standby(world))

    before = take_snapshot(world.root)
    watch(world, step)
    data = wide(world)
    outcome = await apply(world, data)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.staged")
    assert take_snapshot(world.root) == before
    assert_equal(world)
    assert world.leftovers() == []
    watch(world, lambda call, path: None)
    assert (await apply(world, data)).is_success


async def test_process_that_stays_in_an_old_tree_is_led_nowhere(world: World) -> None:
    """Its directory becomes the standby tree, and then the live one again; what it made there in between is gone."""
    inside = os.open(world.root / "lib/keep", os.O_RDONLY | os.O_DIRECTORY)
    try:
        data = wide(world)
        assert (await apply(world, data)).is_success
        os.close(os.open("late", os.O_WRONLY | os.O_CREAT, dir_fd=inside))
        assert (standby(world) / "lib/keep/late").exists()
        await world.agent.rollback(split_patch_file_untrusted(data).patch_id, TARGET, OPERATOR)
        assert os.fstat(inside).st_ino == (world.root / "lib/keep").stat().st_ino
        assert not (world.root / "lib/keep/late").exists()
    finally:
        os.close(inside)
    assert_equal(world)


async def test_who_writes_to_the_live_tree_meanwhile_loses_nothing(world: World) -> None:
    def step(call: str, path: str) -> None:
        if call == "syncfs":
            (world.root / "lib/theirs").write_bytes(b"theirs\n")

    watch(world, step)
    outcome = await apply(world, wide(world))
    assert outcome.reason == "agent.apply.tree_changed"
    assert (world.root / "lib/theirs").read_bytes() == b"theirs\n"
    assert take_names(world.root) == take_names(standby(world)), "it is as the live tree all the same"


@pytest.mark.parametrize("moment", ["mkdir new-", "link README"])
async def test_who_writes_while_it_is_made_refuses_too(world: World, moment: str) -> None:
    shutil.rmtree(standby(world).parent)
    name, part = moment.split()
    done: list[None] = []

    def step(call: str, path: str) -> None:
        if call == name and part in path and not done:
            done.append(None)
            os.unlink(world.root / "README")
            (world.root / "README").write_bytes(b"theirs\n")

    watch(world, step)
    outcome = await apply(world, wide(world))
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.tree_changed")
    assert (world.root / "README").read_bytes() == b"theirs\n"


# Names


async def test_names_in_it_are_no_other_names_of_a_file(world: World) -> None:
    assert (world.root / "src/frame.c").stat().st_nlink == 2
    assert (await apply(world, world.release())).is_success


@pytest.mark.parametrize("place", ["inside", "outside"])
async def test_other_names_of_a_file_still_refuse(world: World, place: str) -> None:
    other = world.root / "lib/second.c" if place == "inside" else world.directory / "second.c"
    os.link(world.root / "src/frame.c", other)
    await world.agent.adopt_target(TARGET)
    assert (world.root / "src/frame.c").stat().st_nlink == (4 if place == "inside" else 3)
    outcome = await apply(world, world.release())
    assert outcome.reason == "agent.apply.hard_link"
    assert "has 2 names" in outcome.message


async def test_name_at_another_place_in_it_is_found(world: World) -> None:
    (standby(world) / "src/frame.c").rename(standby(world) / "lib/elsewhere.c")
    assert (await apply(world, world.release())).is_success
    assert_equal(world)


async def test_link_on_the_way_does_not_count_as_a_name_in_it(world: World) -> None:
    """A link from the standby tree to the live one shows every file at its place, and holds no name of any."""
    shutil.rmtree(standby(world) / "src")
    (standby(world) / "src").symlink_to(world.root / "src")
    os.link(world.root / "src/frame.c", world.directory / "second.c")
    assert (world.root / "src/frame.c").stat().st_nlink == 2
    assert (await apply(world, world.release())).reason == "agent.apply.hard_link"


async def test_drift_that_is_adopted_comes_into_it(world: World) -> None:
    (world.root / "README").rename(world.root / "README.txt")
    (world.root / "fresh").mkdir(0o750)
    (world.root / "fresh/file").write_bytes(b"fresh\n")
    await world.agent.adopt_target(TARGET)
    assert_equal(world)
    assert (await apply(world, wide(world))).is_success
    assert_equal(world)


# Where it cannot be


async def test_target_without_room_for_it_is_guarded_all_the_same(tmp_path: Path, small: None) -> None:
    def step(call: str, path: str) -> None:
        if call == "link" and not path.startswith("old-"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    world = World(tmp_path, files=Files(lambda call, path: step(call, os.fsdecode(path))))
    await world.add_target()
    assert not standby(world).parent.exists()
    outcome = await apply(world, world.release())
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.no_space")
    assert world.leftovers() == []
    assert not standby(world).parent.exists()


async def test_what_only_it_cannot_have_is_done_without_it(world: World) -> None:
    def step(call: str, path: str) -> None:
        if call == "mkdir" and path.endswith(".standby"):
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK), path)

    shutil.rmtree(standby(world).parent)
    watch(world, step)
    outcome = await apply(world, wide(world))
    assert outcome.is_success, outcome.message
    assert outcome.tree_after == world.digest()
    assert not standby(world).parent.exists()
    assert not (await world.agent.show_target(TARGET)).is_drifted


async def test_too_little_room_is_seen_before(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(standby(world).parent)
    monkeypatch.setattr(agent.standby, "_DIRECTORY_BYTES", 1 << 60)
    assert (await apply(world, wide(world))).is_success
    assert not standby(world).parent.exists()


async def test_disk_that_fails_while_it_is_brought_up_costs_the_standby_tree_only(world: World) -> None:
    def step(call: str, path: str) -> None:
        if call == "link" and path == "frame.c":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    watch(world, step)
    assert (await apply(world, wide(world))).is_success
    assert not standby(world).parent.exists()
    assert world.leftovers() == []
    watch(world, lambda call, path: None)
    await world.agent.adopt_target(TARGET)
    assert_equal(world)


# Trials


async def test_trial_that_fails_is_taken_back_from_it(world: World) -> None:
    true, false = shutil.which("true"), shutil.which("false")
    await world.agent.set_hook(TARGET, HookKind.BEFORE, {"argv": [true]})
    await world.agent.set_hook(TARGET, HookKind.HEALTH, {"argv": [false]})
    before, root = take_snapshot(world.root), world.root.stat().st_ino
    data = wide(world)
    outcome = await apply(world, data)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.hook.health_failed")
    assert (take_snapshot(world.root), world.root.stat().st_ino) == (before, root)
    assert_equal(world)
    await world.agent.set_hook(TARGET, HookKind.HEALTH, {"argv": [true]})
    assert (await apply(world, data)).is_success
    assert world.root.stat().st_ino != root
    assert_equal(world)
    assert not (await world.agent.show_target(TARGET)).is_drifted


async def test_what_a_hook_writes_to_it_refuses(world: World) -> None:
    script = world.directory / "hook"
    script.write_text(f"#!/bin/sh\necho planted > '{standby(world)}/lib/planted'\n")
    script.chmod(0o700)
    await world.agent.set_hook(TARGET, HookKind.BEFORE, {"argv": [str(script)]})
    outcome = await apply(world, wide(world))
    assert outcome.reason == "agent.apply.staged"
    assert_equal(world)


async def test_host_that_was_copied_goes_on(world: World, tmp_path: Path) -> None:
    """A copy has other inodes, and names of one file may have become two files."""
    away = tmp_path / "away"
    copy_tree(world.root, away)
    shutil.rmtree(world.root)
    away.rename(world.root)
    assert (await apply(world, wide(world))).is_success
    assert tree_digest_of(world.root) == world.digest()
    assert read_tree(world.root)["README"] == FileState(0o100644, b"read me\n")
    assert_equal(world)
