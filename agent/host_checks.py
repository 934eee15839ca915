"""What the host itself must allow before a target is touched, and what its answers mean.

Everything that can be known beforehand refuses beforehand: mounts inside the target, a read-only or full file system, flags that forbid
changes. What only an attempt tells comes as an `OSError`, which `explain` gives its code; the caller has changed nothing, or takes it back.

Source: docs/spec/agent.md 6.7.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from typing import Final

from agent.errors import ApplyFailedError, ApplyRefusedError, TargetRefusedError
from agent.file_flags import FlagMemory, find_unchangeable
from agent.files import DIRECTORY_FLAGS, is_there
from agent.inventory import Entry, Inventory, entry_of, unreadable
from agent.limits import SPACE_RESERVE_BYTES
from agent.own_directory import check_own_directory
from agent.plan import Plan, emptied_directories
from agent.set_id import SET_ID_BITS, SET_ID_HINT, SetIdRights
from agent.target import Mode, TargetConfig

_UNKEEPABLE: Final = "the set-group-id bit of a directory cannot be kept by this agent"
_MOUNTS_PATH: Final = "/proc/self/mountinfo"
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")
_MOUNT_POINT_FIELD: Final = 4

_CODES: Final = {
    errno.ENOSPC: ("no_space", "the file system is full"),
    errno.EDQUOT: ("quota", "the disk quota of the target's owner is used up"),
    errno.EROFS: ("read_only", "the file system is read-only"),
    errno.EACCES: ("permission", "the agent may not do this"),
    errno.EPERM: ("permission", "the host does not let the agent do this"),
    errno.EXDEV: ("mount_point", "something is mounted inside the target, or it lies in a lower layer of an overlay"),
    errno.ELOOP: ("link", "a directory of the target has become a symbolic link"),
    errno.ENOTDIR: ("link", "a directory of the target has become something else"),
    errno.EMLINK: ("links", "a file of the target has as many names as its file system can count"),
}
_HINTS: Final = {
    "no_space": "make room and apply again",
    "quota": "make room, or raise the quota, and apply again",
    "read_only": "mount it for writing and apply again",
    "permission": "run the agent as root, or as the owner of the target",
    "link": "stop what writes to the target and try again",
}


def explain(error: OSError, doing: str) -> ApplyFailedError:
    """Return what a failed system call means to the operator: its code, and what to do.

    Args:
        error: What the host answered.
        doing: What failed, such as "the new tree cannot be made".
    """
    rule, reason = _CODES.get(error.errno or 0, ("io", ""))
    # Of a call on a descriptor, the name is the descriptor's number.
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
    return ApplyFailedError(
        f"agent.apply.{rule}",
        f"{doing}: {reason} ({error.strerror})" if reason else f"{doing} ({error.strerror})",
        actual=path,
        hint=_HINTS.get(rule, ""),
        details={"errno": error.errno or 0},
    )


def mount_points() -> frozenset[str]:
    """Return where file systems are mounted, as this process sees it; empty where the host does not say."""
    try:
        with open(_MOUNTS_PATH, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return frozenset()
    fields = (line.split(b" ")[_MOUNT_POINT_FIELD] for line in lines if line.count(b" ") > _MOUNT_POINT_FIELD)
    return frozenset(os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field)) for field in fields)


def check_mounts(root: str) -> None:
    """Return when nothing is mounted below `root`, not even the same file system once more (a bind mount).

    Raises:
        TargetRefusedError: ``agent.target.mount_point``.
    """
    inside = sorted(each for each in mount_points() if each.startswith(root + "/"))
    if inside:
        raise TargetRefusedError(
            "agent.target.mount_point",
            "another file system is mounted inside the target",
            actual=inside[0],
            hint="guard each file system as a target of its own",
        )


def check_host(config: TargetConfig, root_fd: int, plan: Plan, inventory: Inventory, flags: FlagMemory) -> None:
    """Return when the host lets a plan be carried out, as far as that can be known before anything is touched.

    Args:
        config: The target.
        root_fd: Its root, open.
        plan: What changes.
        inventory: The tree.
        flags: What is known of the flags in it.

    Raises:
        TargetRefusedError: ``agent.target.mount_point``, ``agent.target.own_directory``.
        ApplyRefusedError: ``agent.apply.own_directory``, ``agent.apply.attributes``.
        ApplyFailedError: ``agent.apply.read_only``, ``agent.apply.no_space``, ``agent.apply.immutable``.
    """
    own = config.own_name
    for change in plan.changes:
        if own is not None and change.path.split(b"/", 1)[0] == own:
            raise ApplyRefusedError(
                "agent.apply.own_directory",
                "the patch names a path in the directory in which the agent itself works",
                actual=os.fsdecode(change.path),
            )
    try:
        check_own_directory(config.staging)
    except OSError as error:
        raise explain(error, "the place where the agent works cannot be looked at") from error
    check_mounts(config.root)
    check_room(root_fd, plan)
    check_flags(config, root_fd, plan, inventory, flags)
    path = _find_unkeepable(config, root_fd, inventory, plan)
    if path is not None:
        raise ApplyRefusedError(
            "agent.apply.attributes",
            f"{_UNKEEPABLE}, and the patch makes it anew, or one like it",
            actual=os.fsdecode(path),
            hint=SET_ID_HINT,
        )


def check_tree(config: TargetConfig, root_fd: int, inventory: Inventory, flags: FlagMemory) -> None:
    """Return when everything in a tree can be kept in the target's mode, so that adding it promises nothing that no patch could have.

    Args:
        config: The target as it would be.
        root_fd: Its root, open.
        inventory: The tree.
        flags: What is known of the flags in it.

    Raises:
        ApplyFailedError: ``agent.target.no_exchange``.
    """
    if config.mode is not Mode.EXCHANGE:
        return
    try:
        found = flags.find(root_fd, inventory.entries)
    except OSError as error:
        raise unreadable(config.root, error) from error
    if found is not None:
        raise ApplyFailedError(
            "agent.target.no_exchange",
            "something in the tree is immutable or append-only, so it cannot be exchanged as a whole",
            actual=os.fsdecode(found),
            hint="chattr -i, or -a; or add it with --mode in-place",
        )
    path = _find_unkeepable(config, root_fd, inventory, None)
    if path is not None:
        raise ApplyFailedError(
            "agent.target.no_exchange",
            f"{_UNKEEPABLE}, so the tree cannot be exchanged as a whole",
            actual=os.fsdecode(path),
            hint=f"{SET_ID_HINT}; or add it with --mode in-place",
        )


def _find_unkeepable(config: TargetConfig, root_fd: int, inventory: Inventory, plan: Plan | None) -> bytes | None:
    """Return a directory whose set-group-id bit one made in its place, or below it, could not have, or None.

    In place only the ones below which new directories are made.

    Args:
        config: The target.
        root_fd: Its root, open.
        inventory: The tree.
        plan: What changes; None for anything that may.
    """
    entries, root = inventory.entries, entry_of(os.fstat(root_fd))
    if config.mode is Mode.EXCHANGE:
        # Most trees have none, and all of a large one is looked through for each patch.
        paths = [b".", *(path for path, entry in entries.items() if entry[0] & SET_ID_BITS and entry.is_directory)]
    else:
        made = [change.path for change in plan.changes if change.post is not None] if plan is not None else []
        directories = {path: os.path.dirname(path) for path in made}
        paths = [_lowest(entries, path) for path, above in directories.items() if above and above not in entries]
    rights = SetIdRights.of_this_thread()
    return next((path for path in paths if not rights.can_keep(root if path == b"." else entries[path])), None)


def _lowest(entries: Mapping[bytes, Entry], path: bytes) -> bytes:
    """Return the lowest directory above a path that is there."""
    above = os.path.dirname(path)
    while above and above not in entries:
        above = os.path.dirname(above)
    return above or b"."


def check_room(root_fd: int, plan: Plan) -> None:
    """Return when the file system can be written to and has room for the new files, with a reserve.

    Raises:
        ApplyFailedError: ``agent.apply.read_only``, ``agent.apply.no_space``.
    """
    status = os.fstatvfs(root_fd)
    if status.f_flag & os.ST_RDONLY:
        raise explain(OSError(errno.EROFS, os.strerror(errno.EROFS)), "the target cannot be changed")
    needed = sum(len(change.post.content) for change in plan.changes if change.post is not None) + SPACE_RESERVE_BYTES
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise _no_space("bytes", needed, free)
    names = len(plan.changes)
    if status.f_files and status.f_favail < names:
        raise _no_space("inodes", names, status.f_favail)


def check_flags(config: TargetConfig, root_fd: int, plan: Plan, inventory: Inventory, flags: FlagMemory) -> None:
    """Return when nothing that the application needs to change is immutable or append-only.

    In place that is every touched file, the directories in which names come and go, and the root, in which the agent works. An exchange
    makes all directories anew and gives every file a second name, so there it is the whole tree, its root and the directory above that.

    Args:
        config: The target.
        root_fd: Its root, open.
        plan: What changes.
        inventory: The tree.
        flags: What is known of the flags in it.

    Raises:
        ApplyFailedError: ``agent.apply.immutable``.
    """
    try:
        found = find_unchangeable(root_fd, _left_in_place(config, root_fd))
        if found is not None:
            raise immutable("what an earlier application has left", found)
        found = find_unchangeable(root_fd, _touched(root_fd, plan, inventory))
        if found is not None:
            raise immutable("a file or directory that the patch changes", found)
        if config.mode is Mode.EXCHANGE:
            found = flags.find(root_fd, inventory.entries)
    except OSError as error:
        raise explain(error, "the flags of the target cannot be read") from error
    if found is not None:
        raise immutable(
            "something in a tree that is exchanged",
            found,
            f"chattr -i, or -a, and apply again; then, to have it so for good: agent target mode {config.name} in-place",
        )


def _touched(root_fd: int, plan: Plan, inventory: Inventory) -> list[bytes]:
    """Return every touched path, the lowest directory above it that is there, the one above a directory that goes, and the root; sorted."""
    paths = {change.path for change in plan.changes}
    directories = {os.path.dirname(path) or b"." for path in emptied_directories(plan, inventory)}
    for path in paths:
        above = os.path.dirname(path)
        while above and not is_there(above, dir_fd=root_fd):
            above = os.path.dirname(above)
        directories.add(above or b".")
    return sorted(paths | directories | {b"."})


def _left_in_place(config: TargetConfig, root_fd: int) -> list[bytes]:
    """Return what stands in the work directory of a target in place, with it: nothing, unless it could not be removed."""
    own = config.own_name
    if own is None or not is_there(own, dir_fd=root_fd):
        return []
    work_fd = os.open(own, DIRECTORY_FLAGS, dir_fd=root_fd)
    try:
        return [own, *(own + b"/" + os.fsencode(name) for name in os.listdir(work_fd))]
    finally:
        os.close(work_fd)


def immutable(what: str, path: str | bytes, hint: str = "chattr -i, or -a, and apply again") -> ApplyFailedError:
    """Return the error that `what`, at a path of the target, carries a flag that keeps everybody from changing it."""
    return ApplyFailedError(
        "agent.apply.immutable", f"{what} is immutable or append-only", actual=os.fsdecode(path), hint=hint
    )


def _no_space(what: str, needed: int, free: int) -> ApplyFailedError:
    return ApplyFailedError(
        "agent.apply.no_space",
        f"the target's file system has too few {what} free for the new files",
        expected=f"{needed} {what}",
        actual=free,
        hint=_HINTS["no_space"],
    )
