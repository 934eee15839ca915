"""Whether the agent may give a directory the set-user-id or set-group-id bit of the one that it stands for.

A kernel takes set-group-id away without a word from one who is neither in the directory's group nor has `CAP_FSETID`; a service manager may
forbid both bits (`RestrictSUIDSGID`). Both can be known before anything is made.

Source: docs/spec/agent.md 6.7.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Final, Self

from agent.inventory import Entry

SET_ID_BITS: Final = stat.S_ISUID | stat.S_ISGID
SET_ID_HINT: Final = (
    "set-group-id: the agent's user must be in the group, and its service must allow it (RestrictSUIDSGID=no)"
)
_STATUS_PATH: Final = "/proc/thread-self/status"
_CAP_FSETID: Final = 4


@dataclass(frozen=True, slots=True)
class SetIdRights:
    """What this thread may do about the two bits."""

    is_forbidden: bool
    """Whether nobody here may set them."""
    groups: frozenset[int] | None
    """Whose directories may have set-group-id; None for all."""

    @classmethod
    def of_this_thread(cls) -> Self:
        """Return what the kernel says; nothing is changed."""
        return cls(_is_forbidden(), None if _has_capability() else frozenset((os.getegid(), *os.getgroups())))

    def can_keep(self, entry: Entry) -> bool:
        """Return whether a new directory can be given the bits of this one, with its group."""
        if not entry.mode & SET_ID_BITS:
            return True
        is_group_free = not entry.mode & stat.S_ISGID or self.groups is None or entry.group in self.groups
        return is_group_free and not self.is_forbidden


def _is_forbidden() -> bool:
    """Return whether the call itself is refused, whatever it is about; no file has this number."""
    try:
        os.fchmod(-1, stat.S_ISGID)
    except OSError as error:
        return error.errno != errno.EBADF
    return False


def _has_capability() -> bool:
    try:
        with open(_STATUS_PATH, encoding="ascii", errors="replace") as file:
            effective = next(line.split()[1] for line in file if line.startswith("CapEff:"))
        return bool(int(effective, 16) >> _CAP_FSETID & 1)
    except (OSError, StopIteration, ValueError, IndexError):
        return os.geteuid() == 0
