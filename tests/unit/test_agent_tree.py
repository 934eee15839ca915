"""Trees: what is counted, what is refused, and that a staged tree keeps everything but what the patch changes."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import applying
from agent.applying import check_staging
from agent.errors import ApplyFailedError, ApplyRefusedError, TargetRefusedError
from agent.files import Files
from agent.inventory import (
    Inventory,
    complete_inventory,
    differing_paths,
    open_root,
    read_file,
    scan_tree,
    take_inventory,
)
from agent.manifest import read_manifest, write_manifest
from agent.plan import Plan, check_pre_images, make_plan
from agent.stage import Staged, stage_tree
from agent.target import TargetConfig
from provenance.diff_model import FileState
from provenance.verify import verify_patch_untrusted
from tests.testkit import patches
from tests.testkit.agent import TREE, read_tree, tree_digest_of, write_tree
from wire.hashing import sha256


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    write_tree(root, TREE)
    return root


@pytest.fixture
def root_fd(root: Path) -> Iterator[int]:
    descriptor = open_root(str(root))
    yield descriptor
    os.close(descriptor)


def git(root: Path, *arguments: str, git_dir: Path) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(git_dir),
        "GIT_DIR": str(git_dir / "git"),
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    if arguments[0] != "init":
        environment["GIT_WORK_TREE"] = str(root)
    done = subprocess.run(["git", *arguments], cwd=root, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


# Inventory


def test_tree_digest_is_what_git_computes(root: Path, tmp_path: Path) -> None:
    (root / "empty").mkdir()
    (root / "link").symlink_to("README")
    (root / "dangling").symlink_to("/nowhere/at all")
    (root / "a").mkdir()
    (root / "a" / "x").write_bytes(b"1")
    (root / "a.b").write_bytes(b"2")
    (root / "a-b").write_bytes(b"")
    (root / os.fsdecode(b"latin\xe9")).write_bytes(b"not text")
    git_dir = tmp_path / "elsewhere"
    git_dir.mkdir()
    git(root, "init", "-q", "--bare", "--object-format=sha256", str(git_dir / "git"), git_dir=git_dir)
    git(root, "config", "core.bare", "false", git_dir=git_dir)
    git(root, "-c", "core.autocrlf=false", "add", "-A", "-f", ".", git_dir=git_dir)
    assert tree_digest_of(root).hex() == git(root, "write-tree", git_dir=git_dir)


def test_git_directory_at_the_root_is_no_content(root: Path) -> None:
    before = tree_digest_of(root)
    (root / ".git").mkdir()
    (root / ".git" / "index").write_bytes(b"changes all the time")
    assert tree_digest_of(root) == before
    (root / "src" / ".git").mkdir()
    with pytest.raises(TargetRefusedError) as caught:
        tree_digest_of(root)
    assert caught.value.code == "agent.target.nested_repository"


def test_what_changes_the_digest(root: Path) -> None:
    seen = {tree_digest_of(root)}
    for change in (
        lambda: (root / "README").write_bytes(b"other"),
        lambda: (root / "README").chmod(0o755),
        lambda: (root / "README").rename(root / "README.txt"),
        lambda: (root / "new").symlink_to("README.txt"),
        (root / "README.txt").unlink,
    ):
        change()
        digest = tree_digest_of(root)
        assert digest not in seen
        seen.add(digest)
    (root / "bin").chmod(0o700)
    (root / "bin" / "tool").chmod(0o700)
    assert tree_digest_of(root) == digest, "git knows one mode bit"


def test_special_files_are_refused(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(TargetRefusedError) as caught:
        tree_digest_of(root)
    assert caught.value.code == "agent.target.special_file"


def test_deep_tree_is_refused(root: Path) -> None:
    deep = root.joinpath(*["d"] * 102)
    deep.mkdir(parents=True)
    with pytest.raises(TargetRefusedError) as caught:
        tree_digest_of(root)
    assert caught.value.code == "agent.target.too_deep"


def test_large_tree_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.inventory.TREE_ENTRIES_MAX", 5)
    with pytest.raises(TargetRefusedError) as caught:
        tree_digest_of(root)
    assert caught.value.code == "agent.target.too_many_entries"


@pytest.mark.parametrize(("kind", "code"), [("none", "missing"), ("link", "link"), ("file", "not_a_directory")])
def test_root_that_is_no_directory_is_refused(tmp_path: Path, root: Path, kind: str, code: str) -> None:
    path = tmp_path / "root"
    if kind == "link":
        path.symlink_to(root)
    elif kind == "file":
        path.write_bytes(b"")
    with pytest.raises(TargetRefusedError) as caught:
        open_root(str(path))
    assert caught.value.code == f"agent.target.{code}"


def test_file_swapped_while_it_is_read_is_noticed(root: Path, root_fd: int) -> None:
    entries = scan_tree(root_fd)
    (root / "README").unlink()
    (root / "README").write_bytes(b"read me\n")
    with pytest.raises(ApplyFailedError) as caught:
        complete_inventory(root_fd, entries, 0, {})
    assert caught.value.code in ("agent.target.changing", "agent.target.unreadable")
    (root / "bin" / "tool").write_bytes(b"grew longer than it was before, while somebody reads\n" * 9)
    with pytest.raises(ApplyFailedError) as caught:
        read_file(root_fd, b"bin/tool", entries[b"bin/tool"])
    assert caught.value.code == "agent.target.changing"


# Manifest


def test_manifest_names_what_differs(root: Path, root_fd: int, tmp_path: Path) -> None:
    path = str(tmp_path / "manifest")
    before = take_inventory(root_fd)
    write_manifest(Files(), path, before)
    recorded = read_manifest(path, before.tree_digest)
    assert recorded is not None
    assert differing_paths(before, recorded) == ()
    (root / "README").write_bytes(b"x")
    (root / "bin" / "tool").chmod(0o644)
    (root / "lib" / "keep" / "data.bin").unlink()
    (root / os.fsdecode(b"new\xff")).touch()
    after = take_inventory(root_fd)
    assert differing_paths(after, recorded) == (b"README", b"bin/tool", b"lib/keep/data.bin", b"new\xff")
    assert read_manifest(path, after.tree_digest) is None, "a manifest of another tree names nothing"
    data = bytearray(Path(path).read_bytes())
    data[40] ^= 1
    Path(path).write_bytes(data)
    assert read_manifest(path, before.tree_digest) is None
    assert read_manifest(str(tmp_path / "missing"), before.tree_digest) is None


# Plan and stage


def plan_for(root_fd: int, before: patches.Tree, after: patches.Tree, **renames: str) -> tuple[Inventory, Plan]:
    patch = verify_patch_untrusted(patches.make_patch(before, after, renames))
    inventory = take_inventory(root_fd)
    return inventory, make_plan(patch, root_fd, inventory)


def stage(root_fd: int, inventory: Inventory, plan: Plan, path: Path) -> Staged:
    return stage_tree(Files(), root_fd, inventory, plan, str(path))


def test_staged_tree_is_the_old_one_with_the_changes(root: Path, root_fd: int, tmp_path: Path) -> None:
    (root / "empty").mkdir()
    (root / "old" / "empty inside").mkdir()
    (root / "link").symlink_to("/etc/passwd")
    (root / "lib" / "keep").chmod(0o2750)
    (root / "bin" / "tool").chmod(0o750)
    os.utime(root / "bin", ns=(1_000_000_000, 2_000_000_000))
    patch = verify_patch_untrusted(
        patches.make_patch(patches.EVERY_KIND_BEFORE, patches.EVERY_KIND_AFTER, patches.EVERY_KIND_RENAMES)
    )
    inventory = take_inventory(root_fd)
    plan = make_plan(patch, root_fd, inventory)
    new = tmp_path / "new"
    staged = stage(root_fd, inventory, plan, new)
    assert staged.tree_digest == tree_digest_of(new)
    assert staged.inode == new.stat().st_ino
    assert read_tree(root) == {name: state for name, state in TREE.items() if state is not None}, "the live tree stays"
    expected = {**TREE, **patches.EVERY_KIND_AFTER}
    assert read_tree(new) == {name: state for name, state in expected.items() if state is not None}
    assert (new / "empty").is_dir()
    assert (new / "old" / "empty inside").is_dir(), "git removes emptied directories; this one was empty before"
    assert os.readlink(new / "link") == "/etc/passwd"
    assert (new / "bin" / "tool").stat().st_ino == (root / "bin" / "tool").stat().st_ino
    assert (new / "src" / "frame.c").stat().st_ino != (root / "src" / "frame.c").stat().st_ino
    assert stat.S_IMODE((new / "lib" / "keep").stat().st_mode) == 0o2750
    assert (new / "bin").stat().st_mtime_ns == 2_000_000_000
    assert stat.S_IMODE((new / "docs" / "new file.txt").stat().st_mode) == 0o755
    assert (root / "src" / "frame.c").stat().st_nlink == 1, "a changed file is not shared"


COPY_AFTER: patches.Tree = {
    **patches.AFTER,
    "src/copy.c": patches.BEFORE["src/frame.c"],
    "lib/new/changed.c": FileState(0o100755, patches.FRAME_BEFORE + b"/* more */\n"),
}
COPIES = {"src/copy.c": "src/frame.c", "lib/new/changed.c": "src/frame.c"}


def test_copies_are_of_the_file_as_it_was_with_its_permissions(root: Path, root_fd: int, tmp_path: Path) -> None:
    (root / "src" / "frame.c").chmod(0o640)
    os.link(root / "bin" / "tool", tmp_path / "elsewhere")
    patch = verify_patch_untrusted(patches.make_patch(patches.BEFORE, COPY_AFTER, copies=COPIES))
    inventory = take_inventory(root_fd)
    plan = make_plan(patch, root_fd, inventory)
    assert [(change.path, change.inherits) for change in plan.changes] == [
        (b"lib/new/changed.c", b"src/frame.c"),
        (b"src/copy.c", b"src/frame.c"),
        (b"src/frame.c", b"src/frame.c"),
    ]
    new = tmp_path / "new"
    staged = stage(root_fd, inventory, plan, new)
    assert staged.tree_digest == tree_digest_of(new)
    expected = {**TREE, **COPY_AFTER}
    assert read_tree(new) == {name: state for name, state in expected.items() if state is not None}
    assert stat.S_IMODE((new / "src" / "copy.c").stat().st_mode) == 0o640, "a copy is no more readable than its source"
    assert stat.S_IMODE((new / "lib" / "new" / "changed.c").stat().st_mode) == 0o750
    (root / "src" / "frame.c").write_bytes(b"somebody was here\n")
    with pytest.raises(ApplyRefusedError) as caught:
        check_pre_images(plan, root_fd, take_inventory(root_fd))
    assert caught.value.code == "agent.apply.pre_image"


@pytest.mark.parametrize(
    ("obstacle", "code"), [("content", "pre_image"), ("link", "link"), ("setuid", "special_mode"), ("names", "")]
)
def test_what_a_copy_is_made_of_is_checked_like_what_is_changed(
    root: Path, root_fd: int, tmp_path: Path, obstacle: str, code: str
) -> None:
    source = root / "src" / "frame.c"
    after = {**patches.BEFORE, "src/copy.c": patches.BEFORE["src/frame.c"]}
    patch = verify_patch_untrusted(patches.make_patch(patches.BEFORE, after, copies={"src/copy.c": "src/frame.c"}))
    match obstacle:
        case "content":
            source.write_bytes(b"another\n")
        case "link":
            source.rename(root / "src" / "real.c")
            source.symlink_to("real.c")
        case "setuid":
            source.chmod(0o4644)
        case _:
            os.link(source, tmp_path / "another name")
    inventory = take_inventory(root_fd)
    if not code:
        assert make_plan(patch, root_fd, inventory).changes[0].path == b"src/copy.c", (
            "the source stays under all its names"
        )
        return
    with pytest.raises(ApplyRefusedError) as caught:
        make_plan(patch, root_fd, inventory)
    assert caught.value.code == f"agent.apply.{code}"


@pytest.mark.parametrize(
    ("bits", "mode", "bits_after"),
    [
        (0o640, 0o100755, 0o750),
        (0o600, 0o100755, 0o700),
        (0o755, 0o100644, 0o644),
        (0o711, 0o100644, 0o600),
        (0o664, 0o100644, 0o664),
    ],
)
def test_permissions_beyond_git_stay(root: Path, tmp_path: Path, bits: int, mode: int, bits_after: int) -> None:
    path = root / "src/frame.c"
    path.chmod(bits)
    git_mode = 0o100755 if bits & 0o100 else 0o100644
    old = {"src/frame.c": FileState(git_mode, patches.FRAME_BEFORE)}
    new = {"src/frame.c": FileState(mode, patches.FRAME_BEFORE + b"/* more */\n")}
    root_fd = open_root(str(root))
    inventory, plan = plan_for(root_fd, old, new)
    stage(root_fd, inventory, plan, tmp_path / "new")
    os.close(root_fd)
    assert stat.S_IMODE((tmp_path / "new/src/frame.c").stat().st_mode) == bits_after


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
def test_owners_stay(root: Path, root_fd: int, tmp_path: Path) -> None:
    os.chown(root / "src/frame.c", 1234, 2345)
    os.chown(root / "src", 1234, 1234)
    (root / "docs").mkdir()
    os.chown(root / "docs", 77, 78)
    before = {**patches.BEFORE, "docs/new": None}
    after = {**patches.AFTER, "docs/new": FileState(0o100644, b"new\n")}
    inventory, plan = plan_for(root_fd, before, after)
    stage(root_fd, inventory, plan, tmp_path / "new")
    changed = (tmp_path / "new/src/frame.c").stat()
    assert (changed.st_uid, changed.st_gid) == (1234, 2345)
    assert (tmp_path / "new/src").stat().st_uid == 1234
    added = (tmp_path / "new/docs/new").stat()
    assert (added.st_uid, added.st_gid) == (77, 78), "a new file belongs to whom its directory belongs"


def test_extended_attributes_stay(root: Path, root_fd: int, tmp_path: Path) -> None:
    try:
        os.setxattr(root / "src/frame.c", "user.note", b"kept")
        os.setxattr(root / "src", "user.note", b"also")
    except OSError:
        pytest.skip("this file system has no user attributes")
    inventory, plan = plan_for(root_fd, patches.BEFORE, patches.AFTER)
    stage(root_fd, inventory, plan, tmp_path / "new")
    assert os.getxattr(tmp_path / "new/src/frame.c", "user.note") == b"kept"
    assert os.getxattr(tmp_path / "new/src", "user.note") == b"also"


def test_hard_linked_file_is_refused(root: Path, root_fd: int) -> None:
    os.link(root / "src/frame.c", root / "twin.c")
    with pytest.raises(ApplyRefusedError) as caught:
        plan_for(root_fd, patches.BEFORE, patches.AFTER)
    assert caught.value.code == "agent.apply.hard_link"


@pytest.mark.parametrize("bit", [stat.S_ISUID, stat.S_ISGID, stat.S_ISVTX])
def test_special_mode_is_refused(root: Path, root_fd: int, bit: int) -> None:
    (root / "src/frame.c").chmod(0o644 | bit)
    with pytest.raises(ApplyRefusedError) as caught:
        plan_for(root_fd, patches.BEFORE, patches.AFTER)
    assert caught.value.code == "agent.apply.special_mode"


def test_hard_links_outside_the_patch_stay(root: Path, root_fd: int, tmp_path: Path) -> None:
    os.link(root / "README", root / "READ.ME")
    inventory, plan = plan_for(root_fd, patches.BEFORE, patches.AFTER)
    stage(root_fd, inventory, plan, tmp_path / "new")
    assert (tmp_path / "new/README").stat().st_ino == (tmp_path / "new/READ.ME").stat().st_ino


@pytest.mark.parametrize("kind", ["directory", "file-above"])
def test_path_that_is_something_else_is_refused(root: Path, root_fd: int, kind: str) -> None:
    if kind == "directory":
        (root / "added").mkdir()
        path = "added"
    else:
        (root / "added").write_bytes(b"")
        path = "added/below"
    with pytest.raises(ApplyRefusedError) as caught:
        plan_for(root_fd, {path: None}, {path: FileState(0o100644, b"new\n")})
    assert caught.value.code == "agent.apply.not_a_file"


def test_pre_images_are_checked_again(root: Path, root_fd: int) -> None:
    inventory, plan = plan_for(root_fd, patches.BEFORE, patches.AFTER)
    check_pre_images(plan, root_fd, inventory)
    content = patches.FRAME_BEFORE.replace(b"sum", b"mus")
    status = (root / "src/frame.c").stat()
    with (root / "src/frame.c").open("r+b") as file:
        file.write(content)
    os.utime(root / "src/frame.c", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ApplyRefusedError) as caught:
        check_pre_images(plan, root_fd, inventory)
    assert caught.value.code == "agent.apply.pre_image"
    (root / "src/frame.c").unlink()
    with pytest.raises(ApplyRefusedError):
        check_pre_images(plan, root_fd, inventory)


def test_staging_that_fails_says_why(root: Path, root_fd: int, tmp_path: Path) -> None:
    inventory, plan = plan_for(root_fd, patches.BEFORE, patches.AFTER)
    (tmp_path / "new").mkdir()
    with pytest.raises(ApplyFailedError) as caught:
        stage(root_fd, inventory, plan, tmp_path / "new")
    assert caught.value.code == "agent.apply.io"


def test_staged_tree_is_proven(root: Path, root_fd: int, tmp_path: Path) -> None:
    """Somebody who gets between staging and proof, or a bug in staging, is noticed."""
    inventory, plan = plan_for(root_fd, patches.BEFORE, patches.AFTER)
    new = tmp_path / "new"

    def meddle(action: str) -> Files:
        def step(name: str, path: str | bytes) -> None:
            if name != "syncfs":
                return
            if action == "extra":
                (new / "extra").touch()
            elif action == "lost":
                (new / "README").unlink()
            elif action == "swapped":
                (new / "README").unlink()
                (new / "README").write_bytes(b"read me\n")
            elif action in ("src", "."):
                (new / action).chmod(0o710)
            else:
                (new / "src/frame.c").write_bytes(b"other")

        return Files(step)

    for action in ("extra", "lost", "swapped", "content", "src", "."):
        with pytest.raises(ApplyRefusedError) as caught:
            stage_tree(meddle(action), root_fd, inventory, plan, str(new))
        assert caught.value.code == "agent.apply.staged"
        Files().remove_tree(str(new))


def test_staging_place_is_probed_and_left_clean(tmp_path: Path) -> None:
    root = tmp_path / "srv" / "app"
    root.mkdir(parents=True)
    document = {"version": 1, "name": "app", "root": str(root), "components": ["*"], "windows": [], "frozen": False}
    config = TargetConfig.from_json_untrusted(document)
    check_staging(Files(), config)
    assert os.listdir(tmp_path / "srv") == ["app"]

    def fail(name: str, path: str | bytes) -> None:
        if name == "exchange":
            raise OSError(22, "Invalid argument")

    with pytest.raises(ApplyFailedError) as caught:
        check_staging(Files(fail), config)
    assert caught.value.code == "agent.target.no_exchange"
    assert os.listdir(tmp_path / "srv") == ["app"]
    with pytest.raises(ApplyFailedError):
        check_staging(Files(), TargetConfig.from_json_untrusted({**document, "root": "/proc/self"}))


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOTEMPTY, None), (errno.EEXIST, None), (errno.EXDEV, "lower layer"), (errno.EPERM, "not permitted")],
)
def test_overlay_is_asked_whether_the_root_can_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str | None
) -> None:
    root = tmp_path / "srv" / "app"
    root.mkdir(parents=True)
    document = {"version": 1, "name": "app", "root": str(root), "components": ["*"], "windows": [], "frozen": False}
    config = TargetConfig.from_json_untrusted(document)
    asked: list[str] = []

    class Overlay(Files):
        def rename(self, source: str | bytes, destination: str | bytes) -> None:
            assert os.listdir(destination)
            asked.append(os.fsdecode(source))
            raise OSError(number, os.strerror(number))

    check_staging(Overlay(), config)
    assert asked == [], "other file systems are not asked"
    monkeypatch.setattr(applying, "file_system_of", lambda _: 0x794C7630)
    if says is None:
        check_staging(Overlay(), config)
        check_staging(Files(), config)  # what a kernel says
    else:
        with pytest.raises(ApplyFailedError, match=says) as caught:
            check_staging(Overlay(), config)
        assert caught.value.code == "agent.target.no_exchange"
        assert "in-place" in caught.value.hint
    assert asked == [str(root)]
    assert os.listdir(tmp_path / "srv") == ["app"]


def test_overlay_that_moves_the_root_gets_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "srv" / "app"
    root.mkdir(parents=True)
    (root / "kept").touch()
    document = {"version": 1, "name": "app", "root": str(root), "components": ["*"], "windows": [], "frozen": False}

    class Replacing(Files):
        def rename(self, source: str | bytes, destination: str | bytes) -> None:
            shutil.rmtree(destination, ignore_errors=True)
            os.rename(source, destination)

    monkeypatch.setattr(applying, "file_system_of", lambda _: 0x794C7630)
    with pytest.raises(ApplyFailedError, match="not empty"):
        check_staging(Replacing(), TargetConfig.from_json_untrusted(document))
    assert os.listdir(root) == ["kept"]
    assert os.listdir(tmp_path / "srv") == ["app"]


def test_removed_and_added_in_one_directory(root: Path, root_fd: int, tmp_path: Path) -> None:
    (root / "old").chmod(0o700)
    before = {"old/gone.txt": TREE["old/gone.txt"], "old/new.txt": None}
    after = {"old/gone.txt": None, "old/new.txt": FileState(0o100644, b"three\n")}
    inventory, plan = plan_for(root_fd, before, after)
    stage(root_fd, inventory, plan, tmp_path / "new")
    assert os.listdir(tmp_path / "new" / "old") == ["new.txt"]
    assert stat.S_IMODE((tmp_path / "new" / "old").stat().st_mode) == 0o700
    assert sha256((tmp_path / "new/old/new.txt").read_bytes()) == sha256(b"three\n")
