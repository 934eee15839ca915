"""Who may put something else in a path's place: the owner of each directory on the way, and whoever may write to one.

A path is only as trustworthy as the weakest step to it. Every step is looked at, also of each symbolic link that leads on: it belongs to
root or to the agent's user, and nobody else may write to it. A directory with the sticky bit (such as /tmp) may be written by others:
they cannot replace what belongs to root or to the agent there, and whether the next step does is looked at.

Source: docs/spec/agent.md 6.8.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Final

ROOT: Final = 0
LINKS_MAX: Final = 40
"""Links that one path may lead through, as for the kernel."""
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Weakness:
    """A step of a path at which somebody else may put something in its place."""

    path: str
    by: str
    """Who may: a phrase."""
    anybody: bool = False
    """Whether every user may."""


def find_weakness(path: str, uid: int) -> Weakness | None:
    """Return the first step of an absolute path that somebody who is neither root nor `uid` may change, or None.

    Raises:
        OSError: A step cannot be looked at, or there are too many links.
    """
    ahead = [name for name in reversed(path.split("/")) if name]
    here, links = "/", 0
    found = _judge(here, os.lstat(here), uid)
    while ahead and found is None:
        name = ahead.pop()
        if name == "..":
            here = os.path.dirname(here)
            continue
        step = os.path.join(here, name)
        status = os.lstat(step)
        found = _judge(step, status, uid)
        if not stat.S_ISLNK(status.st_mode):
            here = step
            continue
        links += 1
        if links > LINKS_MAX:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        goal = os.readlink(step)
        here = "/" if goal.startswith("/") else here
        ahead += [name for name in reversed(goal.split("/")) if name not in ("", ".")]
    return found


def _judge(path: str, status: os.stat_result, uid: int) -> Weakness | None:
    if status.st_uid not in (ROOT, uid):
        return Weakness(path, f"the user {status.st_uid}, to whom it belongs,")
    is_sticky = stat.S_ISDIR(status.st_mode) and bool(status.st_mode & stat.S_ISVTX)
    if stat.S_ISLNK(status.st_mode) or is_sticky or not status.st_mode & _OTHERS_WRITE:
        return None
    if status.st_mode & stat.S_IWOTH:
        return Weakness(path, "anybody", anybody=True)
    return Weakness(path, f"its group {status.st_gid}")
