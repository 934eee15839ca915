"""A tree exactly as it is: every name with its kind, permissions, owner, bytes and extended attributes."""

from __future__ import annotations

import os
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


def first_difference(one: Snapshot, other: Snapshot) -> str:
    """Return the first path at which two trees differ, and how; "" when they do not."""
    for path in sorted({*one, *other}):
        if one.get(path) != other.get(path):
            return f"{path or '.'}: {str(one.get(path))[:120]} / {str(other.get(path))[:120]}"
    return ""


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
