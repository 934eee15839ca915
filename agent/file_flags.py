"""Which files and directories may not be changed at all, whoever asks: those that `chattr` has made immutable or append-only.

No second name can be given to such a file, nothing can be made or removed in such a directory, and one made anew in its place would not
have the flag. So a tree that is exchanged holds none, and a tree that is changed in place none where a patch touches it.

Source: docs/spec/agent.md 6.7.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import time
from collections.abc import Iterable, Mapping
from typing import Final

from agent.files import is_missing
from agent.inventory import SETTLED_NS, Entry

_GET_FLAGS: Final = 0x80086601
"""FS_IOC_GETFLAGS with a long, as on 64-bit Linux."""
_UNCHANGEABLE: Final = 0x10 | 0x20
"""FS_IMMUTABLE_FL and FS_APPEND_FL."""
ROOT_AND_ABOVE: Final = (b"..", b".")
"""What an exchange moves, and in what."""


class FlagMemory:
    """Which entries of one target carried no such flag when they were looked at: setting one moves the ctime.

    As with digests, a ctime counts only when it was settled by then (`SETTLED_NS`).
    """

    def __init__(self) -> None:
        self._entries: Mapping[bytes, Entry] = {}
        self._looked_ns = 0

    def find(self, root_fd: int, entries: Mapping[bytes, Entry]) -> bytes | None:
        """Return the first path of a tree, relative to its root, that is immutable or append-only, or None.

        The root itself (``.``) and the directory above it (``..``) count.

        Args:
            root_fd: The root, open.
            entries: Everything below it, as just scanned.

        Raises:
            OSError: Something could not be looked at.
        """
        looked_ns, get, settled = time.time_ns(), self._entries.get, self._looked_ns - SETTLED_NS
        paths = [
            path
            for path, entry in entries.items()
            if (before := get(path)) is None
            or before[8] >= settled
            or (before is not entry and (before[8], before[1], before[2]) != (entry[8], entry[1], entry[2]))
        ]
        found = find_unchangeable(root_fd, (*ROOT_AND_ABOVE, *paths))
        if found is None:
            self._entries, self._looked_ns = entries, looked_ns
        return found


def find_unchangeable(root_fd: int, paths: Iterable[bytes]) -> bytes | None:
    """Return the first of these paths that is immutable or append-only, or None. Raises OSError."""
    return next((path for path in paths if is_unchangeable(root_fd, path)), None)


def is_unchangeable(root_fd: int, path: bytes) -> bool:
    """Return whether what stands at `path`, which is not followed, is immutable or append-only; nothing there is neither.

    Args:
        root_fd: A directory, open.
        path: Relative to it.

    Raises:
        OSError: It could not be looked at.
    """
    return bool(_flags(root_fd, path) & _UNCHANGEABLE)


def _flags(root_fd: int, path: bytes) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root_fd)
    except OSError as error:
        if is_missing(error) or error.errno in (errno.ELOOP, errno.EACCES):
            return 0
        raise
    try:
        flags = array.array("L", [0])
        fcntl.ioctl(descriptor, _GET_FLAGS, flags)
    except OSError:
        # The file system knows no flags.
        return 0
    finally:
        os.close(descriptor)
    return flags[0]
