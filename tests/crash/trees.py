"""A tree exactly as it is: every name with its kind, permissions, owner, bytes and extended attributes."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

Snapshot = dict[str, tuple[object, ...]]
"""By path below the root; "" is the root itself."""


def take_snapshot(root: Path, omit: str = "") -> Snapshot:
    """Return the tree at `root` but for a directory with the name `omit` in it; empty when nothing stands there."""
    if not os.path.lexists(root):
        return {}
    found: Snapshot = {"": _describe(str(root))}
    for directory, directories, files in os.walk(root):
        if omit in directories and Path(directory) == root:
            directories.remove(omit)
        for name in (*directories, *files):
            path = os.path.join(directory, name)
            found[os.path.relpath(path, root)] = _describe(path)
    return found


def copy_tree(source: Path, destination: Path) -> None:
    """Make `destination` what `source` is: bytes, kinds, permissions, owners, times, extended attributes, and which names are one file."""
    seen: dict[int, str] = {}

    def copy(one: str, other: str) -> str:
        status = os.lstat(one)
        if status.st_ino in seen:
            os.link(seen[status.st_ino], other)
            return other
        if status.st_nlink > 1:
            seen[status.st_ino] = other
        shutil.copy2(one, other, follow_symlinks=False)
        _give(other, status)
        return other

    shutil.copytree(source, destination, symlinks=True, copy_function=copy)
    for directory, _, _ in os.walk(source):
        _give(str(destination / os.path.relpath(directory, source)), os.lstat(directory))
    for path in source.rglob("*"):
        if path.is_symlink():
            status, other = os.lstat(path), destination / path.relative_to(source)
            if status.st_ino in seen:
                other.unlink()
                os.link(seen[status.st_ino], other, follow_symlinks=False)
                continue
            seen[status.st_ino] = str(other)
            _give(str(other), status)


def first_belonging_lost(before: Snapshot, after: Snapshot) -> str:
    """Return the first path in both trees whose owner or extended attributes differ, and how; "" when there is none."""
    for path in sorted(before.keys() & after.keys()):
        was, now = (tuple(each[path][place] for place in (2, 3, 4)) for each in (before, after))
        if was != now and stat.S_IFLNK not in (before[path][0], after[path][0]):
            return f"{path or '.'}: {was} / {now}"
    return ""


def _give(path: str, status: os.stat_result) -> None:
    """Give `path` the owner of `status`, and the permissions that a change of owner may have taken."""
    if (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid()):
        return
    os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(path, stat.S_IMODE(status.st_mode))


def first_difference(one: Snapshot, other: Snapshot) -> str:
    """Return the first path at which two trees differ, and how; "" when they do not."""
    for path in sorted({*one, *other}):
        if one.get(path) != other.get(path):
            return f"{path or '.'}: {str(one.get(path))[:120]} / {str(other.get(path))[:120]}"
    return ""


def take_names(root: Path) -> dict[str, int]:
    """Return the inode of every name below `root`, 0 for a directory."""
    found: dict[str, int] = {}
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            status = os.lstat(os.path.join(directory, name))
            path = os.path.relpath(os.path.join(directory, name), root)
            found[path] = 0 if stat.S_ISDIR(status.st_mode) else status.st_ino
    return found


def _describe(path: str) -> tuple[object, ...]:
    status = os.lstat(path)
    head = (stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    if stat.S_ISLNK(status.st_mode):
        return (head[0], status.st_uid, status.st_gid, os.readlink(path))
    attributes = tuple(sorted((name, os.getxattr(path, name)) for name in os.listxattr(path)))
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            return (*head, attributes, file.read())
    return (*head, attributes)
