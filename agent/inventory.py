"""What a target's tree is: every entry, the digest of every file, and the one digest of the whole.

The tree digest is git's tree id with SHA-256, so an auditor recomputes it with ``git add -A`` and ``git write-tree``; like git, it knows no
empty directories. A ``.git`` directory at the root is not content: it is carried along and not digested, as git itself does.

Reading is by directory descriptors and never follows a link. What was read before is taken over by `tree_cache`.

Source: docs/spec/agent.md 4; provenance/tree_digest.py.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from agent.errors import ApplyFailedError, TargetRefusedError
from agent.limits import TREE_DEPTH_MAX, TREE_ENTRIES_MAX
from provenance.diff_model import MODE_EXECUTABLE, MODE_LINK, MODE_REGULAR
from provenance.tree_digest import blob_digest, blob_header, tree_digest
from wire.hashing import Digest

GIT_DIRECTORY: Final = b".git"
_READ_BYTES: Final = 1 << 20
SETTLED_NS: Final = 50_000_000
"""How much older than the reading a ctime must be: clocks of file systems tick every 4 to 10 ms."""
_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TYPE_BITS: Final = 0o170000
_KINDS: Final = frozenset({stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK})
NAMES_ENCODING: Final = sys.getfilesystemencoding()
NAMES_ERRORS: Final = sys.getfilesystemencodeerrors()
"""How `os.fsencode` makes bytes of a name; a scan encodes very many, and does without the call."""
_new_entry: Final = tuple.__new__
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Entry(NamedTuple):
    """The status of one name below a target's root, from one lstat. A named tuple: a tree has very many, made and compared each time.

    The first seven are in the order of `os.stat_result`, so that an entry is made of a slice.
    """

    mode: int
    """`st_mode`: type and permission bits."""
    inode: int
    device: int
    links: int
    """Names of this inode."""
    owner: int
    group: int
    size: int
    """Bytes."""
    modified_ns: int
    """mtime, nanoseconds since the epoch."""
    changed_ns: int
    """ctime, nanoseconds since the epoch."""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def git_mode(self) -> int:
        """Mode as git keeps it: 100644, 100755 or 120000."""
        if self.is_link:
            return MODE_LINK
        return MODE_EXECUTABLE if self.mode & stat.S_IXUSR else MODE_REGULAR

    def is_same_state(self, other: Entry) -> bool:
        """Return whether nothing but link count and ctime differs: what making or removing a hard link changes."""
        return self._state() == other._state()

    def _state(self) -> tuple[int, ...]:
        # A directory's size and mtime change with the names in it, which are compared by themselves.
        if self.is_directory:
            return (self.mode, self.device, self.inode, self.owner, self.group)
        return (self.mode, self.device, self.inode, self.owner, self.group, self.size, self.modified_ns)


@dataclass(frozen=True, slots=True)
class Inventory:
    """A tree at one moment."""

    entries: Mapping[bytes, Entry]
    """Status of everything below the root by relative path, directories before what is in them."""
    digests: Mapping[bytes, Digest]
    """`blob_digest` of every file and link that is content, by relative path."""
    tree_digest: Digest
    """Git tree id (SHA-256), 32 bytes."""
    taken_ns: int
    """When reading began, nanoseconds since the epoch."""


def open_root(root: str) -> int:
    """Return a descriptor of the target's root directory; the caller closes it.

    Raises:
        TargetRefusedError: ``agent.target.missing``, ``agent.target.link``, ``agent.target.not_a_directory``.
    """
    try:
        return os.open(root, _DIRECTORY_FLAGS)
    except FileNotFoundError:
        raise TargetRefusedError("agent.target.missing", f"the target's directory {root} is not there") from None
    except NotADirectoryError:
        rule = "link" if os.path.islink(root) else "not_a_directory"
        raise TargetRefusedError(f"agent.target.{rule}", f"{root} is not a directory itself") from None
    except OSError as error:
        raise unreadable(root, error) from error


def scan_tree(
    root_fd: int, known: Mapping[bytes, Entry] | None = None, *, omit: bytes | None = None
) -> dict[bytes, Entry]:
    """Return the status of everything below an open root, directories before what is in them.

    Args:
        root_fd: The root directory.
        known: Entries of an earlier scan: those that are as they were are the same objects again, which makes comparing cheap.
        omit: A name in the root that is not looked at: the agent's own work directory.

    Raises:
        TargetRefusedError: ``agent.target.special_file`` (a device, socket or pipe), ``agent.target.mount_point``,
            ``agent.target.nested_repository``, ``agent.target.too_deep``, ``agent.target.too_many_entries``.
        ApplyFailedError: ``agent.target.unreadable``: something vanished meanwhile or may not be read.
    """
    return _Scan(os.fstat(root_fd).st_dev, {} if known is None else known, omit).run(root_fd)


def entry_of(status: os.stat_result) -> Entry:
    """Return the entry of one status."""
    return _new_entry(Entry, (*status[:7], status.st_mtime_ns, status.st_ctime_ns))


def take_inventory(root_fd: int, *, omit: bytes | None = None) -> Inventory:
    """Return the inventory of an open root, every file read; `tree_cache` reads only what changed.

    Raises:
        TargetRefusedError: As `scan_tree`.
        ApplyFailedError: ``agent.target.unreadable``, ``agent.target.changing``.
    """
    taken_ns = time.time_ns()
    return complete_inventory(root_fd, scan_tree(root_fd, omit=omit), taken_ns, {})


def complete_inventory(
    root_fd: int, entries: Mapping[bytes, Entry], taken_ns: int, known: Mapping[bytes, Digest]
) -> Inventory:
    """Return the inventory of scanned entries, reading every file that `known` has no digest for.

    Raises:
        ApplyFailedError: ``agent.target.unreadable``, ``agent.target.changing``.
    """
    digests: dict[bytes, Digest] = {}
    for path, entry in entries.items():
        if entry.is_directory or is_git_internal(path):
            continue
        digest = known.get(path)
        digests[path] = read_digest(root_fd, path, entry) if digest is None else digest
    files = {path: (entries[path].git_mode, digest) for path, digest in digests.items()}
    return Inventory(entries, digests, tree_digest(files), taken_ns)


def is_git_internal(path: bytes) -> bool:
    """Return whether `path` is git's own directory at the root, or in it."""
    return path == GIT_DIRECTORY or path.startswith(GIT_DIRECTORY + b"/")


def differing_paths(one: Inventory, digests: Mapping[bytes, tuple[int, Digest]]) -> tuple[bytes, ...]:
    """Return the paths at which a tree differs from recorded (git mode, digest) pairs, sorted."""
    present = {path: (one.entries[path].git_mode, digest) for path, digest in one.digests.items()}
    return tuple(sorted(path for path in {*present, *digests} if present.get(path) != digests.get(path)))


def read_file(root_fd: int, path: bytes, entry: Entry) -> bytes:
    """Return all bytes of a scanned file, which is still the one that was scanned.

    Raises:
        ApplyFailedError: ``agent.target.unreadable``, ``agent.target.changing``.
    """
    descriptor = _open_file(root_fd, path, entry)
    try:
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(entry.size + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    finally:
        os.close(descriptor)
    if len(data) != entry.size:
        raise changing(path)
    return data


class _Scan:
    """One walk over a tree. Tight on purpose: it is what a decision on a large tree costs."""

    def __init__(self, device: int, known: Mapping[bytes, Entry], omit: bytes | None) -> None:
        self._device = device
        self._known = known
        self._omit = omit
        self._entries: dict[bytes, Entry] = {}

    def run(self, root_fd: int) -> dict[bytes, Entry]:
        self._walk(root_fd, b"", 0)
        return self._entries

    def _walk(self, descriptor: int, prefix: bytes, depth: int) -> None:
        if depth > TREE_DEPTH_MAX:
            raise TargetRefusedError(
                "agent.target.too_deep",
                "the tree is nested too deep",
                expected=TREE_DEPTH_MAX,
                actual=os.fsdecode(prefix),
            )
        try:
            with os.scandir(descriptor) as names:
                found = sorted(
                    [
                        (each.name.encode(NAMES_ENCODING, NAMES_ERRORS), each.stat(follow_symlinks=False))
                        for each in names
                    ]
                )
        except OSError as error:
            raise unreadable(prefix or b".", error) from error
        entries, device, known = self._entries, self._device, self._known.get
        for name, status in found:
            path = prefix + name
            if path == self._omit:
                continue
            kind = status[0] & _TYPE_BITS
            if kind not in _KINDS or status[2] != device or name[:1] == b".":
                _check_entry(path, name, status, device)
            entry = _new_entry(Entry, (*status[:7], status.st_mtime_ns, status.st_ctime_ns))
            before = known(path)
            entries[path] = before if before is not None and before == entry else entry
            if kind == stat.S_IFDIR:
                self._descend(descriptor, name, path, depth)
        if len(entries) > TREE_ENTRIES_MAX:
            raise TargetRefusedError(
                "agent.target.too_many_entries", "the tree has too many entries", expected=TREE_ENTRIES_MAX
            )

    def _descend(self, descriptor: int, name: bytes, path: bytes, depth: int) -> None:
        try:
            child = os.open(name, _DIRECTORY_FLAGS, dir_fd=descriptor)
        except OSError as error:
            raise unreadable(path, error) from error
        try:
            self._walk(child, path + b"/", depth + 1)
        finally:
            os.close(child)


def _check_entry(path: bytes, name: bytes, status: os.stat_result, device: int) -> None:
    if status.st_dev != device:
        raise TargetRefusedError(
            "agent.target.mount_point",
            "another file system is mounted inside the target",
            actual=os.fsdecode(path),
            hint="guard each file system as a target of its own",
        )
    if name.lower() == GIT_DIRECTORY and path != GIT_DIRECTORY:
        raise TargetRefusedError(
            "agent.target.nested_repository",
            "the target holds a git repository below its root, which no tree digest covers",
            actual=os.fsdecode(path),
            hint="deploy an export of it",
        )
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        raise TargetRefusedError(
            "agent.target.special_file",
            "the target holds something that is no file, directory or link",
            actual=os.fsdecode(path),
        )


def read_digest(root_fd: int, path: bytes, entry: Entry) -> Digest:
    """Return the `blob_digest` of a scanned file or link, which is still the one that was scanned.

    Raises:
        ApplyFailedError: ``agent.target.unreadable``, ``agent.target.changing``.
    """
    if entry.is_link:
        try:
            return blob_digest(os.readlink(path, dir_fd=root_fd))
        except OSError as error:
            raise unreadable(path, error) from error
    descriptor = _open_file(root_fd, path, entry)
    size = 0
    hasher = hashlib.sha256(blob_header(entry.size))
    try:
        while chunk := os.read(descriptor, _READ_BYTES):
            hasher.update(chunk)
            size += len(chunk)
    except OSError as error:
        raise unreadable(path, error) from error
    finally:
        os.close(descriptor)
    if size != entry.size:
        raise changing(path)
    return Digest(hasher.digest())


def _open_file(root_fd: int, path: bytes, entry: Entry) -> int:
    """Return a descriptor of the very file that was scanned, whatever stands at its path by now."""
    try:
        descriptor = os.open(path, _FILE_FLAGS, dir_fd=root_fd)
    except OSError as error:
        raise unreadable(path, error) from error
    status = os.fstat(descriptor)
    found = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if found != (entry.device, entry.inode, entry.size, entry.modified_ns):
        os.close(descriptor)
        raise changing(path)
    return descriptor


def unreadable(path: str | bytes, error: OSError) -> ApplyFailedError:
    """Return the error that a path of the target cannot be read."""
    return ApplyFailedError(
        "agent.target.unreadable", f"a path of the target cannot be read ({error.strerror})", actual=os.fsdecode(path)
    )


def changing(path: bytes) -> ApplyFailedError:
    """Return the error that a file is not the one any more that was scanned."""
    return ApplyFailedError(
        "agent.target.changing",
        "a file of the target changes while it is read",
        actual=os.fsdecode(path),
        hint="stop what writes to the target and try again",
    )
