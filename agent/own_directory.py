"""The directories that the agent makes to work in, told from whatever else stands at their names before anything is removed there.

They stand in directories that others may write to. Whoever may rename what they could not remove would otherwise have the agent remove it:
a directory counts as the agent's own only when it belongs to the agent's user, nobody else may enter it, and all names in it are those
that the agent gives.

Source: docs/spec/agent.md 6.6.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Final

from agent.errors import TargetRefusedError
from agent.files import DIRECTORY_FLAGS, Files, is_private, is_there

_NAMES: Final = re.compile(rb"tree|one|other|third|(?:new|old|made|gone)-[0-9]+")
"""What an application, a standby tree and the trial of a mode make there."""
_STANDBY_NAMES: Final = re.compile(rb"tree")


def check_own_directory(path: str) -> None:
    """Return when no directory but one of the agent's own stands at a path.

    Raises:
        TargetRefusedError: ``agent.target.own_directory``.
        OSError: It cannot be looked at.
    """
    if is_there(path) and stat.S_ISDIR(os.lstat(path).st_mode):
        os.close(_open_own(path, is_closed=True)[0])


def remove_own_directory(files: Files, path: str, *, is_closed: bool = True) -> None:
    """Remove a directory of the agent's own with all that is in it, or a file or link; nothing when nothing is there.

    Args:
        files: The door to the file system.
        path: Where it stands.
        is_closed: Whether it counts only while nobody else may enter it. A standby tree's stays for long, and may have been opened up by
            hand; then all that is in it is that tree.

    Raises:
        TargetRefusedError: ``agent.target.own_directory``; nothing is removed.
        OSError: Something in it cannot be removed, the first that was met; everything else is gone all the same.
    """
    if not is_there(path):
        return
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        # Whoever may put one there may remove it as well.
        files.unlink(path)
        return
    problem: OSError | None = None
    descriptor, names = _open_own(path, is_closed=is_closed)
    try:
        for name in names:
            try:
                files.remove_below(descriptor, name)
            except OSError as error:
                problem = problem or error
    finally:
        os.close(descriptor)
    if problem is not None:
        raise problem
    files.remove_directory(path)


def _open_own(path: str, *, is_closed: bool) -> tuple[int, list[bytes]]:
    """Return a directory of the agent's own, open, and the names in it. Raises TargetRefusedError, OSError."""
    try:
        descriptor = os.open(path, DIRECTORY_FLAGS)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.ENOTDIR, errno.ELOOP):
            raise _foreign(path) from error
        raise
    try:
        names = [os.fsencode(name) for name in os.listdir(descriptor)]
        status = os.fstat(descriptor)
        is_own = is_private(status) if is_closed else status.st_uid == os.geteuid()
        known = _NAMES if is_closed else _STANDBY_NAMES
        if not is_own or not all(map(known.fullmatch, names)):
            raise _foreign(path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, names


def _foreign(path: str) -> TargetRefusedError:
    return TargetRefusedError(
        "agent.target.own_directory",
        "something that is not the agent's stands where the agent works",
        actual=path,
        hint="move it away",
    )
