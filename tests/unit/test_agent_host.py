"""What a file is besides its content stays or refuses the patch, and a host that cannot carry it out says why, with nothing changed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import agent.standby
from agent import file_flags, host_checks
from agent.errors import ApplyFailedError, TargetRefusedError
from agent.file_flags import FlagMemory, is_unchangeable
from agent.files import Files, opened_directory
from agent.host_checks import check_mounts, explain, mount_points
from agent.inventory import SETTLED_NS, open_root, scan_tree
from agent.limits import TREES_ASIDE_MAX
from agent.results import Outcome, ResultCode
from agent.target import LOCK_FILE
from provenance.diff_model import Allowance, FileState
from tests.testkit import patches
from tests.testkit.agent import OPERATOR, STANDBY_NAME, TARGET, TREE, WORK_NAME, World, read_tree, write_tree
from wire.errors import UnavailableError

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
MODES = pytest.mark.parametrize("mode", ["exchange", "in-place"])
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, bits, who)
    for tag, bits, who in (
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, 1234),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 4, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
)
"""u::rw-, u:1234:r--, g::r--, m::r--, o::---"""
CAPABILITY = struct.pack("<IIIII", 0x02000000, 1 << 10, 0, 0, 0)
"""cap_net_bind_service=p"""


async def apply(tmp_path: Path, mode: str, prepare: Any = None, **changes: Any) -> tuple[World, Outcome]:
    """Return how a patch of src/frame.c ended on a target that `prepare` made what it is."""
    world = World(tmp_path)
    if prepare is not None:
        prepare(world.root)
    await world.add_target(mode=mode)
    data = world.release(**changes)
    return world, await world.agent.apply(data, TARGET, OPERATOR)


def start(*command: str | Path) -> subprocess.Popen[bytes]:
    """Start a program, or skip the test where files of tests may not be executed."""
    try:
        return subprocess.Popen(command)
    except PermissionError:
        pytest.skip("the file system of the tests is mounted noexec")


def set_attribute(path: Path, name: str, value: bytes) -> None:
    """Set an extended attribute, or skip the test where that cannot be done."""
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        pytest.skip(f"{name} cannot be set here: {error.strerror}")


# Attributes


@MODES
@pytest.mark.parametrize(
    ("name", "value"),
    [("user.note", b"kept"), ("system.posix_acl_access", ACL), ("security.capability", CAPABILITY)],
)
async def test_attributes_of_a_changed_file_stay(tmp_path: Path, mode: str, name: str, value: bytes) -> None:
    world = World(tmp_path)
    path = world.root / "src/frame.c"
    set_attribute(path, name, value)
    kept = {each: os.getxattr(path, each) for each in os.listxattr(path)}
    bits = stat.S_IMODE(path.stat().st_mode)
    await world.add_target(mode=mode)
    outcome = await world.agent.apply(world.release(), TARGET, OPERATOR)
    assert outcome.is_success, outcome.message
    assert {each: os.getxattr(path, each) for each in os.listxattr(path)} == kept
    assert stat.S_IMODE(path.stat().st_mode) == bits
    assert path.read_bytes() != patches.FRAME_BEFORE


@MODES
@AS_ROOT
async def test_owner_and_permissions_of_a_changed_file_stay(tmp_path: Path, mode: str) -> None:
    def prepare(root: Path) -> None:
        os.chown(root / "src/frame.c", 1234, 2345)
        (root / "src/frame.c").chmod(0o640)

    world, outcome = await apply(tmp_path, mode, prepare)
    assert outcome.is_success, outcome.message
    status = os.stat(world.root / "src/frame.c")
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 2345, 0o640)


@MODES
async def test_attribute_that_vouches_for_the_content_refuses(tmp_path: Path, mode: str) -> None:
    world = World(tmp_path)
    set_attribute(world.root / "src/frame.c", "security.ima", b"\x04\x04" + bytes(32))
    before = read_tree(world.root)
    await world.add_target(mode=mode)
    outcome = await world.agent.apply(world.release(), TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.attributes")
    assert read_tree(world.root) == before
    assert world.leftovers() == []


@MODES
async def test_attribute_that_cannot_be_set_refuses(tmp_path: Path, mode: str) -> None:
    world = World(tmp_path)
    set_attribute(world.root / "src/frame.c", "user.note", b"kept")
    await world.add_target(mode=mode)

    def step(call: str, path: str | bytes) -> None:
        if call == "setxattr":
            raise OSError(errno.ENOTSUP, "Operation not supported")

    world.files = Files(step)
    world.reopen()
    outcome = await world.agent.apply(world.release(), TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.attributes")
    assert (world.root / "src/frame.c").read_bytes() == patches.FRAME_BEFORE


def _chmod(path: Path) -> None:
    path.chmod(0o700)


def _chown(path: Path) -> None:
    os.chown(path, 1234, 1234)


def _note(path: Path) -> None:
    os.setxattr(path, "user.note", b"by the administrator")


@pytest.mark.parametrize("size", ["small", "wide"])
@pytest.mark.parametrize("what", [".", "lib/keep"])
@pytest.mark.parametrize("change", [_chmod, _note, pytest.param(_chown, marks=AS_ROOT)])
async def test_what_is_done_to_a_directory_meanwhile_is_not_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str, what: str, change: Callable[[Path], None]
) -> None:
    (tmp_path / "tried").mkdir()
    set_attribute(tmp_path / "tried", "user.note", b"")
    monkeypatch.setattr(agent.standby, "STANDBY_ENTRIES_MIN", 1 if size == "wide" else 1000)
    world = World(tmp_path)
    await world.add_target()
    data = world.release()
    statuses: list[os.stat_result] = []

    def step(call: str, path: str | bytes) -> None:
        if call == "syncfs" and not statuses:
            change(world.root / what)
            statuses.append((world.root / what).stat())

    world.files = Files(step)
    world.reopen()
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.tree_changed")
    now = (world.root / what).stat()
    assert (now.st_ino, now.st_mode, now.st_uid) == (statuses[0].st_ino, statuses[0].st_mode, statuses[0].st_uid)
    assert world.leftovers() == []
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success
    now = (world.root / what).stat()
    assert (now.st_mode, now.st_uid) == (statuses[0].st_mode, statuses[0].st_uid)
    assert os.listxattr(world.root / what) == (["user.note"] if change is _note else [])


@pytest.mark.parametrize("size", ["small", "wide"])
async def test_directory_that_a_writer_only_passes_through_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    monkeypatch.setattr(agent.standby, "STANDBY_ENTRIES_MIN", 1 if size == "wide" else 1000)
    world = World(tmp_path)
    await world.add_target()
    data = world.release()

    def step(call: str, path: str | bytes) -> None:
        if call == "syncfs":
            for directory in (world.root, world.root / "lib"):
                (directory / "passing").touch()
                (directory / "passing").unlink()

    world.files = Files(step)
    world.reopen()
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success


@MODES
@pytest.mark.parametrize("kind", ["hard link", "setuid", "setgid"])
async def test_what_a_new_file_cannot_stand_for_refuses(tmp_path: Path, mode: str, kind: str) -> None:
    def prepare(root: Path) -> None:
        if kind == "hard link":
            os.link(root / "src/frame.c", root / "twin.c")
        else:
            (root / "src/frame.c").chmod(0o644 | (stat.S_ISUID if kind == "setuid" else stat.S_ISGID))

    world, outcome = await apply(tmp_path, mode, prepare)
    rule = "hard_link" if kind == "hard link" else "special_mode"
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, f"agent.apply.{rule}")
    assert world.leftovers() == []


@MODES
async def test_holes_may_be_filled_and_content_stays(tmp_path: Path, mode: str) -> None:
    world = World(tmp_path)
    with (world.root / "lib/keep/data.bin").open("r+b") as file:
        file.truncate(1 << 20)
    await world.add_target(mode=mode)
    outcome = await world.agent.apply(world.release(), TARGET, OPERATOR)
    assert outcome.is_success
    assert (world.root / "lib/keep/data.bin").stat().st_size == 1 << 20


@MODES
async def test_file_that_is_being_executed_is_replaced(tmp_path: Path, mode: str) -> None:
    """Writing to it would be refused (ETXTBSY); it is replaced, and who runs it goes on."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    world = World(tmp_path)
    shutil.copy(sleep, world.root / "bin/tool")
    content = (world.root / "bin/tool").read_bytes()
    await world.add_target(mode=mode, allowed=["binary"])
    process = start(world.root / "bin/tool", "60")
    try:
        before, after = FileState(0o100755, content), FileState(0o100755, content + b"\0")
        data = patches.make_patch({"bin/tool": before}, {"bin/tool": after}, allowances=(Allowance.BINARY,))
        outcome = await world.agent.apply(world.release(data), TARGET, OPERATOR)
        assert outcome.is_success, outcome.message
        assert process.poll() is None
        assert (world.root / "bin/tool").read_bytes() == content + b"\0"
    finally:
        process.kill()
        process.wait()


# The host


def set_flags(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        set_open_flags(descriptor, flags)
    finally:
        os.close(descriptor)


def set_open_flags(descriptor: int, flags: int) -> None:
    fcntl.ioctl(descriptor, 0x40086602, struct.pack("L", flags))


@pytest.fixture
def immutable() -> Iterator[Any]:
    """Yield a function that makes a path immutable, or skips; all can be changed again at the end, wherever they are by then."""
    made: list[int] = []

    def make(path: Path, flag: int = 0x10) -> None:
        made.append(os.open(path, os.O_RDONLY))
        try:
            set_open_flags(made[-1], flag)
        except OSError as error:
            pytest.skip(f"no flags here: {error.strerror}")

    yield make
    for descriptor in made:
        with suppress(OSError):
            set_open_flags(descriptor, 0)
        os.close(descriptor)


@MODES
@pytest.mark.parametrize("what", ["src/frame.c", "src"])
async def test_immutable_file_or_directory_refuses_beforehand(
    tmp_path: Path, immutable: Any, mode: str, what: str
) -> None:
    world = World(tmp_path)
    await world.add_target(mode=mode)
    data = world.release()
    immutable(world.root / what)
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.immutable")
    assert world.intents() == [], "nothing was announced"
    assert "chattr" in outcome.hint


@pytest.mark.parametrize("what", ["lib/keep", "lib/keep/data.bin", ".", ".."])
async def test_nothing_in_a_tree_that_is_exchanged_is_immutable(tmp_path: Path, immutable: Any, what: str) -> None:
    world = World(tmp_path)
    await world.add_target()
    data = world.release()
    immutable(world.root / what)
    for answer in (await world.agent.explain(data, TARGET, OPERATOR), await world.agent.apply(data, TARGET, OPERATOR)):
        assert (answer.code, answer.reason) == (ResultCode.APPLY_FAILED, "agent.apply.immutable")
        assert "chattr" in answer.hint
    assert world.intents() == [], "nothing was announced"
    assert world.leftovers() == []


@pytest.mark.parametrize("what", ["lib/keep", "lib/keep/data.bin", ".", ".."])
async def test_target_with_something_immutable_is_guarded_in_place_only(
    tmp_path: Path, immutable: Any, what: str
) -> None:
    world = World(tmp_path)
    immutable(world.root / what)
    with pytest.raises(ApplyFailedError) as caught:
        await world.add_target()
    assert caught.value.code == "agent.target.no_exchange"
    assert os.listdir(world.root.parent) == ["app"]
    if what == ".":
        return  # There the agent could not work in place either.
    await world.add_target(mode="in-place")
    with pytest.raises(ApplyFailedError) as caught:
        await world.agent.change_mode(TARGET, "exchange")
    assert caught.value.code == "agent.target.no_exchange"
    assert (await world.agent.apply(world.release(), TARGET, OPERATOR)).is_success


async def test_flag_is_seen_though_nothing_else_has_changed(tmp_path: Path, immutable: Any) -> None:
    world = World(tmp_path)
    await world.add_target()
    data = world.release()
    for _ in range(2):  # By now every flag was read; whether again or not depends on the time that has passed.
        assert (await world.agent.explain(data, TARGET, OPERATOR)).is_success
    immutable(world.root / "lib/keep/data.bin")
    assert (await world.agent.explain(data, TARGET, OPERATOR)).reason == "agent.apply.immutable"


async def test_flags_of_files_that_stayed_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    settled = os.stat(world.root / "README").st_ctime_ns + 2 * SETTLED_NS
    monkeypatch.setattr(file_flags.time, "time_ns", lambda: settled)
    memory, looked = FlagMemory(), []
    monkeypatch.setattr(file_flags, "is_unchangeable", lambda _, path: looked.append(path))
    with opened_directory(str(world.root)) as root_fd:
        entries = scan_tree(root_fd)
        assert memory.find(root_fd, entries) is None
        assert set(looked) == {b".", b"..", *entries}
        looked.clear()
        os.utime(world.root / "README", ns=(0, 0))
        (world.root / "new").touch()
        assert memory.find(root_fd, scan_tree(root_fd, entries)) is None
        assert looked == [b"..", b".", b"README", b"new"]


@MODES
async def test_immutable_directory_above_a_new_one_refuses_beforehand(
    tmp_path: Path, immutable: Any, mode: str
) -> None:
    world = World(tmp_path)
    await world.add_target(mode=mode)
    new = {"lib/new/deep/file": FileState(0o100644, b"new\n")}
    data = world.release(patches.make_patch(dict.fromkeys(new), new))
    immutable(world.root / "lib")
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.immutable")
    assert world.intents() == []


@pytest.mark.parametrize("what", [".", "lib"])
async def test_immutable_root_or_directory_above_an_emptied_one_refuses_in_place(
    tmp_path: Path, immutable: Any, what: str
) -> None:
    world = World(tmp_path)
    await world.add_target(mode="in-place", allowed=[Allowance.REMOVE_DIRECTORY, Allowance.BINARY])
    gone = {"lib/keep/data.bin": FileState(0o100644, bytes(range(256)))}
    allowances = (Allowance.BINARY, Allowance.REMOVE_DIRECTORY)
    data = world.release(patches.make_patch(gone, dict.fromkeys(gone), allowances=allowances))
    immutable(world.root / what)
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.immutable"), outcome.message
    assert world.intents() == []


async def test_flag_that_is_set_meanwhile_is_not_lost(tmp_path: Path, immutable: Any) -> None:
    immutable(tmp_path)  # Here, and not in the midst, the test is skipped.
    set_flags(tmp_path, 0)
    world = World(tmp_path)
    await world.add_target()
    data = world.release()

    def step(call: str, path: str | bytes) -> None:
        if call == "mkdir" and path == b"lib":
            immutable(world.root / "lib/keep")

    world.files = Files(step)
    world.reopen()
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.immutable")
    with opened_directory(str(world.root)) as root_fd:
        assert is_unchangeable(root_fd, b"lib/keep")
    assert world.leftovers() == []


async def test_old_tree_that_cannot_be_removed_stops_nothing(tmp_path: Path, immutable: Any) -> None:
    world = World(tmp_path)
    await world.add_target()
    one = world.release()
    old = world.root.parent / f".app.patchwarden-{TARGET}"
    (old / "tree/lib").mkdir(parents=True)
    (old / "tree/lib/stays").touch()
    os.link(world.root / "README", old / "tree/a name of README")
    old.chmod(0o700)
    immutable(old / "tree/lib/stays")
    assert (await world.agent.apply(one, TARGET, OPERATOR)).is_success
    aside = old.with_name(old.name + ".old-0")
    assert [path.name for path in aside.rglob("*")] == ["tree", "lib", "stays"], "all names but one are gone"
    assert "agent.clean_up.failed" in dict(world.notes)
    change = {"README": FileState(0o100644, b"again\n")}
    two = world.release(patches.make_patch({"README": TREE["README"]}, change, release_counter=2))
    assert (await world.agent.apply(two, TARGET, OPERATOR)).is_success
    with pytest.raises(ApplyFailedError) as caught:
        await world.agent.remove_target(TARGET)
    assert caught.value.code == "agent.apply.immutable"
    assert "chattr -R" in caught.value.hint
    assert [each.report_kind for each in world.reports()] == ["adopt"], "it is still guarded"
    set_flags(aside / "tree/lib/stays", 0)
    await world.agent.remove_target(TARGET)
    assert os.listdir(world.root.parent) == ["app"]


async def test_second_name_that_cannot_be_removed_is_told(
    tmp_path: Path, immutable: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent.standby, "STANDBY_ENTRIES_MIN", 1)
    world = World(tmp_path)
    await world.add_target()
    if not (world.root.parent / STANDBY_NAME).is_dir():
        pytest.skip("no standby tree can be kept on this file system")
    immutable(world.root / "lib/keep/data.bin")
    for attempt in (
        partial(world.agent.change_mode, TARGET, "in-place"),
        partial(world.agent.change_standby, TARGET, kept=False),
        partial(world.agent.remove_target, TARGET),
    ):
        with pytest.raises(ApplyFailedError) as caught:
            await attempt()
        assert caught.value.code == "agent.apply.immutable"
        assert str(world.root.parent) in caught.value.hint
    assert await world.agent.history(TARGET) == (), "it is still guarded, or this would be refused"
    set_flags(world.root / "lib/keep/data.bin", 0)
    await world.agent.remove_target(TARGET)
    assert os.listdir(world.root.parent) == ["app"]


async def test_old_trees_that_stay_are_bounded(tmp_path: Path, immutable: Any) -> None:
    world = World(tmp_path)
    await world.add_target()
    data = world.release()
    old = world.root.parent / f".app.patchwarden-{TARGET}"
    for name in (old, *(old.with_name(f"{old.name}.old-{number}") for number in range(TREES_ASIDE_MAX))):
        name.mkdir(mode=0o700)
        (name / "tree").touch()
        immutable(name / "tree")
    before = read_tree(world.root)
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.permission")
    assert read_tree(world.root) == before
    set_flags(old / "tree", 0)
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success


async def test_what_cannot_be_removed_in_place_refuses_beforehand(tmp_path: Path, immutable: Any) -> None:
    world = World(tmp_path)
    await world.add_target(mode="in-place")
    data = world.release()
    (world.root / WORK_NAME).mkdir(mode=0o700)
    (world.root / WORK_NAME / "old-1").touch()
    immutable(world.root / WORK_NAME / "old-1")
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.immutable")
    assert world.intents() == []
    set_flags(world.root / WORK_NAME / "old-1", 0)
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success
    assert world.leftovers() == []


@MODES
@pytest.mark.parametrize(("free", "inodes"), [(100, 10**6), (10**9, 0)])
async def test_full_file_system_refuses_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, free: int, inodes: int
) -> None:
    world = World(tmp_path)
    await world.add_target(mode=mode)
    status = os.statvfs(world.root)
    fields = [1, 1, free, free, free, 10**6, inodes, inodes, status.f_flag & ~os.ST_RDONLY, status.f_namemax]
    monkeypatch.setattr(host_checks.os, "fstatvfs", lambda _: os.statvfs_result(fields))
    outcome = await world.agent.apply(world.release(), TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, "agent.apply.no_space")
    assert world.intents() == []


@MODES
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "no_space"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read_only"),
        (errno.EACCES, "permission"),
        (errno.EXDEV, "mount_point"),
        (errno.EIO, "io"),
    ],
)
async def test_what_only_an_attempt_tells_has_its_code(tmp_path: Path, mode: str, number: int, code: str) -> None:
    world = World(tmp_path)
    await world.add_target(mode=mode)
    before = read_tree(world.root)

    def step(call: str, path: str | bytes) -> None:
        if call == "write" and isinstance(path, bytes):
            raise OSError(number, os.strerror(number), os.fsdecode(path))

    world.files = Files(step)
    world.reopen()
    outcome = await world.agent.apply(world.release(), TARGET, OPERATOR)
    assert (outcome.code, outcome.reason) == (ResultCode.APPLY_FAILED, f"agent.apply.{code}")
    assert read_tree(world.root) == before
    assert world.leftovers() == []
    assert outcome.tree_after == outcome.tree_before == world.digest()


def test_error_names_what_the_host_said() -> None:
    error = explain(OSError(errno.ENOSPC, "No space left on device", "/srv/x"), "the new tree cannot be made")
    assert error.message.startswith("the new tree cannot be made: the file system is full")
    assert error.hint == "make room and apply again"


@MODES
async def test_target_that_another_process_changes_is_in_use(tmp_path: Path, mode: str) -> None:
    world = World(tmp_path)
    await world.add_target(mode=mode)
    before = read_tree(world.root)
    descriptor = os.open(world.agent._registry.get(TARGET).store.path(LOCK_FILE), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(UnavailableError) as caught:
            await world.agent.apply(world.release(), TARGET, OPERATOR)
        assert caught.value.code == "agent.state.in_use"
    finally:
        os.close(descriptor)
    assert read_tree(world.root) == before


# Mounts


class Mounts:
    """Mounts for one test, gone after it."""

    def __init__(self) -> None:
        self._made: list[Path] = []

    def make(self, path: Path, *arguments: str) -> None:
        done = subprocess.run(["mount", *arguments, str(path)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no mounts here: {done.stderr.strip()}")
        self._made.append(path)

    def remount(self, path: Path, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True, capture_output=True)

    def close(self) -> None:
        for path in reversed(self._made):
            subprocess.run(["umount", str(path)], check=True, capture_output=True)


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting needs root")
    made = Mounts()
    yield made
    made.close()


def test_mount_points_are_read_as_the_kernel_tells_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "mountinfo"
    told.write_text(
        "21 1 8:1 / / rw - ext4 /dev/a rw\n"
        "22 21 0:5 / /srv/with\\040space/in rw shared:1 - tmpfs none rw\n"
        "broken line\n"
    )
    monkeypatch.setattr(host_checks, "_MOUNTS_PATH", str(told))
    assert mount_points() == {"/", "/srv/with space/in"}
    check_mounts("/srv/with space/in")
    check_mounts("/srv/with")
    with pytest.raises(TargetRefusedError) as caught:
        check_mounts("/srv/with space")
    assert caught.value.code == "agent.target.mount_point"
    told.unlink()
    assert mount_points() == frozenset()


@MODES
async def test_mount_inside_the_target_refuses_even_of_the_same_file_system(
    tmp_path: Path, mounts: Mounts, mode: str
) -> None:
    world = World(tmp_path)
    await world.add_target(mode=mode)
    data = world.release()
    (world.root / "inside").mkdir()
    await world.agent.adopt_target(TARGET)
    mounts.make(world.root / "inside", "--bind", str(world.root / "lib"))
    outcome = await world.agent.apply(data, TARGET, OPERATOR)
    assert outcome.code is ResultCode.APPLY_FAILED
    assert outcome.reason == "agent.target.mount_point"
    assert world.intents() == []
    with pytest.raises(TargetRefusedError) as caught:
        await world.agent.add_target(world.document(name="second", root=str(world.root.parent)))
    assert caught.value.code in ("agent.target.overlap", "agent.target.mount_point")


async def test_mount_point_is_changed_in_place_and_told_so(tmp_path: Path, mounts: Mounts) -> None:
    source = World(tmp_path / "source")
    source.agent.close()
    root = tmp_path / "host" / "srv" / "app"
    root.mkdir(parents=True)
    mounts.make(root, "-t", "tmpfs", "-o", "size=8m,mode=755", "none")
    shutil.copytree(source.root, root, dirs_exist_ok=True)
    world = World(tmp_path / "host")
    with pytest.raises(ApplyFailedError) as caught:
        await world.add_target()
    assert caught.value.code == "agent.target.no_exchange"
    assert "--mode in-place" in caught.value.hint
    await world.add_target(mode="in-place")
    data = world.release()
    mounts.remount(root, "ro")
    refused = await world.agent.apply(data, TARGET, OPERATOR)
    assert (refused.code, refused.reason) == (ResultCode.APPLY_FAILED, "agent.apply.read_only")
    mounts.remount(root, "rw")
    with (root / "filler").open("wb") as file:
        file.write(bytes(6 << 20))
    await world.agent.adopt_target(TARGET)
    full = await world.agent.apply(data, TARGET, OPERATOR)
    assert (full.code, full.reason) == (ResultCode.APPLY_FAILED, "agent.apply.no_space")
    (root / "filler").unlink()
    await world.agent.adopt_target(TARGET)
    assert (await world.agent.apply(data, TARGET, OPERATOR)).is_success
    assert world.leftovers() == []
    descriptor = open_root(str(root))
    os.close(descriptor)


@pytest.mark.parametrize("is_new", [False, True], ids=["of-a-lower-layer", "of-the-upper-layer"])
async def test_overlay_exchanges_only_what_was_made_in_it(tmp_path: Path, mounts: Mounts, is_new: bool) -> None:
    layers = {name: tmp_path / name for name in ("lowerdir", "upperdir", "workdir")}
    for path in layers.values():
        path.mkdir()
    (tmp_path / "host").mkdir()
    if not is_new:
        write_tree(layers["lowerdir"] / "srv" / "app", TREE)
    options = ",".join(f"{name}={path}" for name, path in layers.items())
    mounts.make(tmp_path / "host", "-t", "overlay", "-o", f"{options},redirect_dir=off", "overlay")
    world = World(tmp_path / "host")
    try:
        if is_new:
            await world.add_target()
        else:
            with pytest.raises(ApplyFailedError) as caught:
                await world.add_target()
            assert caught.value.code == "agent.target.no_exchange"
            assert "overlay" in caught.value.message
            await world.add_target(mode="in-place")
            with pytest.raises(ApplyFailedError) as caught:
                await world.agent.change_mode(TARGET, "exchange")
            assert caught.value.code == "agent.target.no_exchange"
        assert os.listdir(world.root.parent) == ["app"]
        outcome = await world.agent.apply(world.release(), TARGET, OPERATOR)
        assert outcome.is_success, outcome.message
    finally:
        world.agent.close()  # or it could not be unmounted
