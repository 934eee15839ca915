"""Which system calls reach a file system, where their paths stand among the arguments, and which of them change something.

Numbers are those of x86-64. Calls on descriptors name the descriptor; `AT` calls name a directory descriptor and a path below it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

MACHINE: Final = "x86_64"
AUDIT_ARCH: Final = 0xC000003E
"""What the kernel calls this machine in a seccomp filter."""

Place = tuple[int | None, int | None]
"""Argument numbers of a directory descriptor (or of the descriptor itself) and of a path; None for what the call does not have."""

_FD: Final = ((0, None),)
_PATH: Final = ((None, 0),)
_AT: Final = ((0, 1),)


@dataclass(frozen=True, slots=True)
class Kind:
    """One system call."""

    name: str
    places: tuple[Place, ...]
    """Where its paths stand."""
    changes: bool
    """Whether it changes a file system, or makes a change durable; opening is told by its flags."""
    flags: int | None = None
    """Argument number of the flags with which a file is opened."""


KINDS: Final[dict[int, Kind]] = {
    0: Kind("read", _FD, False),
    1: Kind("write", _FD, True),
    2: Kind("open", _PATH, False, 1),
    4: Kind("stat", _PATH, False),
    5: Kind("fstat", _FD, False),
    6: Kind("lstat", _PATH, False),
    17: Kind("pread64", _FD, False),
    18: Kind("pwrite64", _FD, True),
    20: Kind("writev", _FD, True),
    21: Kind("access", _PATH, False),
    40: Kind("sendfile", _FD, True),
    73: Kind("flock", _FD, False),
    74: Kind("fsync", _FD, True),
    75: Kind("fdatasync", _FD, True),
    76: Kind("truncate", _PATH, True),
    77: Kind("ftruncate", _FD, True),
    82: Kind("rename", ((None, 0), (None, 1)), True),
    83: Kind("mkdir", _PATH, True),
    84: Kind("rmdir", _PATH, True),
    85: Kind("creat", _PATH, True),
    86: Kind("link", ((None, 0), (None, 1)), True),
    87: Kind("unlink", _PATH, True),
    88: Kind("symlink", ((None, 1),), True),
    89: Kind("readlink", _PATH, False),
    90: Kind("chmod", _PATH, True),
    91: Kind("fchmod", _FD, True),
    92: Kind("chown", _PATH, True),
    93: Kind("fchown", _FD, True),
    94: Kind("lchown", _PATH, True),
    137: Kind("statfs", _PATH, False),
    138: Kind("fstatfs", _FD, False),
    188: Kind("setxattr", _PATH, True),
    189: Kind("lsetxattr", _PATH, True),
    190: Kind("fsetxattr", _FD, True),
    191: Kind("getxattr", _PATH, False),
    192: Kind("lgetxattr", _PATH, False),
    193: Kind("fgetxattr", _FD, False),
    194: Kind("listxattr", _PATH, False),
    195: Kind("llistxattr", _PATH, False),
    196: Kind("flistxattr", _FD, False),
    197: Kind("removexattr", _PATH, True),
    198: Kind("lremovexattr", _PATH, True),
    199: Kind("fremovexattr", _FD, True),
    217: Kind("getdents64", _FD, False),
    257: Kind("openat", _AT, False, 2),
    258: Kind("mkdirat", _AT, True),
    260: Kind("fchownat", _AT, True),
    262: Kind("newfstatat", _AT, False),
    263: Kind("unlinkat", _AT, True),
    264: Kind("renameat", ((0, 1), (2, 3)), True),
    265: Kind("linkat", ((0, 1), (2, 3)), True),
    266: Kind("symlinkat", ((1, 2),), True),
    267: Kind("readlinkat", _AT, False),
    268: Kind("fchmodat", _AT, True),
    269: Kind("faccessat", _AT, False),
    280: Kind("utimensat", _AT, True),
    285: Kind("fallocate", _FD, True),
    306: Kind("syncfs", _FD, True),
    316: Kind("renameat2", ((0, 1), (2, 3)), True),
    326: Kind("copy_file_range", ((2, None),), True),
    332: Kind("statx", _AT, False),
    437: Kind("openat2", _AT, False),
    439: Kind("faccessat2", _AT, False),
    452: Kind("fchmodat2", _AT, True),
}
"""By number. `sync` has no path, and nothing here calls it."""

WRITES: Final = frozenset({"write", "pwrite64"})
"""Calls of which a part may happen."""
NEEDS_ROOM: Final = frozenset(
    {"write", "pwrite64", "writev", "mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat", "rename", "renameat"}
    | {
        "renameat2",
        "fsync",
        "fdatasync",
        "syncfs",
        "fsetxattr",
        "setxattr",
        "lsetxattr",
        "fallocate",
        "copy_file_range",
    }
    | {"sendfile", "creat", "open", "openat", "chmod", "fchmodat", "fchmod", "utimensat"}
)
"""Calls that go on failing while a disk is full; removing goes on working. Opening only where it creates."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that a process is about to make."""

    name: str
    paths: tuple[str, ...]
    """Absolute; for a descriptor, what it is open on."""
    changes: bool
    descriptor: int
    """The descriptor of a call on one, otherwise -1."""
    length: int
    """Bytes that a write is about to write."""
    address: int
    """Where they stand in the process."""

    def __str__(self) -> str:
        return f"{self.name} {' '.join(self.paths)}"


def is_creating(flags: int) -> bool:
    """Return whether opening with these flags may change something."""
    return bool(flags & (os.O_CREAT | os.O_TRUNC))
