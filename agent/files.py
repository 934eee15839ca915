"""Every call that changes the file system, one method each, so that a test can stop the process before any of them.

The agent changes files only through `Files`. In production its hook does nothing; crash tests kill the process in it. Reading needs no
method here: what is read cannot be left half done.

Source: docs/spec/agent.md 6.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

Path = str | bytes

Step = Callable[[str, Path], None]
"""Called with the name of a system call and its path, right before the call."""

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
TEMPORARY_SUFFIX: Final = ".new"
"""What `Files.replace` writes to first; a crash may leave it, and the next replacement removes it."""
_REMOVED_DEPTH_MAX: Final = 120
"""Directories inside one another that are removed from below; each holds a descriptor."""
PRIVATE_FILE_MODE: Final = 0o600
PRIVATE_DIRECTORY_MODE: Final = 0o700
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""To open a directory that is no link itself."""

_libc = ctypes.CDLL(None, use_errno=True)


def no_step(name: str, path: Path) -> None:
    """Do nothing: the hook of production."""


class Files:
    """The file system as the agent changes it.

    Args:
        step: Called before every change with the system call's name and path.
    """

    def __init__(self, step: Step = no_step) -> None:
        self._step = step

    # One system call each

    def make_directory(self, path: Path, mode: int = PRIVATE_DIRECTORY_MODE, *, dir_fd: int | None = None) -> None:
        """Create a directory. Raises OSError."""
        self._step("mkdir", path)
        os.mkdir(path, mode, dir_fd=dir_fd)

    def remove_directory(self, path: Path, *, dir_fd: int | None = None) -> None:
        """Remove an empty directory. Raises OSError."""
        self._step("rmdir", path)
        os.rmdir(path, dir_fd=dir_fd)

    def unlink(self, path: Path, *, dir_fd: int | None = None) -> None:
        """Remove a name. Raises OSError."""
        self._step("unlink", path)
        os.unlink(path, dir_fd=dir_fd)

    def rename(self, source: Path, destination: Path) -> None:
        """Give a file another name, replacing what is there. Raises OSError."""
        self._step("rename", destination)
        os.rename(source, destination)

    def move(self, source: Path, destination: Path, *, source_fd: int, destination_fd: int) -> None:
        """Give a file or directory below one directory a name below another, replacing what is there. Raises OSError."""
        self._step("rename", destination)
        os.rename(source, destination, src_dir_fd=source_fd, dst_dir_fd=destination_fd)

    def link_as(self, source: Path, destination: Path, *, source_fd: int, destination_fd: int) -> None:
        """Give a file, or a symbolic link itself, one more name, where nothing is. Raises OSError."""
        self._step("link", destination)
        os.link(source, destination, src_dir_fd=source_fd, dst_dir_fd=destination_fd, follow_symlinks=False)

    def link(self, path: Path, *, source_fd: int, destination_fd: int) -> None:
        """Give the file at `path` below one directory the same path below another. Raises OSError."""
        self._step("link", path)
        os.link(path, path, src_dir_fd=source_fd, dst_dir_fd=destination_fd, follow_symlinks=False)

    def make_link(self, target: bytes, path: Path, *, dir_fd: int | None = None) -> None:
        """Create a symbolic link. Raises OSError."""
        self._step("symlink", path)
        os.symlink(target, path, dir_fd=dir_fd)

    def exchange(self, one: Path, other: Path, *, one_fd: int = _AT_FDCWD) -> None:
        """Swap two names, the first below an open directory, in one step: nobody ever sees neither, or both alike. Raises OSError."""
        self._step("exchange", one)
        if _libc.renameat2(one_fd, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), os.fsdecode(one))

    def change_mode(self, path: Path, mode: int, *, dir_fd: int | None = None) -> None:
        """Set the permission bits of what has a name, not following a link. Raises OSError."""
        self._step("chmod", path)
        try:
            os.chmod(path, mode, dir_fd=dir_fd, follow_symlinks=False)
        except (ValueError, NotImplementedError) as error:
            # So Python puts it that a link has no permission bits of its own.
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path)) from error

    def change_owner(self, path: Path, owner: int, group: int, *, dir_fd: int | None = None) -> None:
        """Set owner and group, not following a link. Raises OSError."""
        self._step("chown", path)
        os.chown(path, owner, group, dir_fd=dir_fd, follow_symlinks=False)

    def change_times(self, path: Path, accessed_ns: int, modified_ns: int, *, dir_fd: int | None = None) -> None:
        """Set access and modification time in nanoseconds, not following a link. Raises OSError."""
        self._step("utime", path)
        os.utime(path, ns=(accessed_ns, modified_ns), dir_fd=dir_fd, follow_symlinks=False)

    def set_attribute(self, descriptor: int, name: str, value: bytes) -> None:
        """Set an extended attribute of an open file. Raises OSError."""
        self._step("setxattr", name)
        os.setxattr(descriptor, name, value)

    def remove_attribute(self, descriptor: int, name: str) -> None:
        """Take an extended attribute away from an open file. Raises OSError."""
        self._step("removexattr", name)
        os.removexattr(descriptor, name)

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable. Raises OSError."""
        self._step("fsync", path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_filesystem(self, descriptor: int, path: Path) -> None:
        """Make everything on the file system of an open directory durable. Raises OSError."""
        self._step("syncfs", path)
        if _libc.syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), os.fsdecode(path))

    # Writing

    def create(self, path: Path, mode: int = PRIVATE_FILE_MODE, *, dir_fd: int | None = None) -> int:
        """Create a file that must not be there, and return its descriptor, open for writing. Raises OSError."""
        self._step("open", path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path, flags, mode, dir_fd=dir_fd)

    def write(self, descriptor: int, data: bytes, path: Path) -> None:
        """Write all of `data`. Raises OSError; then part of it may be there."""
        self._step("write", path)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def sync(self, descriptor: int, path: Path) -> None:
        """Make an open file durable. Raises OSError."""
        self._step("fsync", path)
        os.fsync(descriptor)

    def set_owner(self, descriptor: int, owner: int, group: int, path: Path) -> None:
        """Set owner and group of an open file. Raises OSError."""
        self._step("fchown", path)
        os.fchown(descriptor, owner, group)

    def set_mode(self, descriptor: int, mode: int, path: Path) -> None:
        """Set the permission bits of an open file. Raises OSError."""
        self._step("fchmod", path)
        os.fchmod(descriptor, mode)

    def truncate(self, descriptor: int, length: int, path: Path) -> None:
        """Cut an open file to `length` bytes. Raises OSError."""
        self._step("ftruncate", path)
        os.ftruncate(descriptor, length)

    # Made of several, each interruptible

    def replace(self, path: str, data: bytes, mode: int = PRIVATE_FILE_MODE) -> None:
        """Make `path` hold exactly `data`, durably: whenever the process ends, it holds the old content or the new. Raises OSError."""
        temporary = path + TEMPORARY_SUFFIX
        if is_there(temporary):
            self.unlink(temporary)
        descriptor = self.create(temporary, mode)
        try:
            try:
                self.write(descriptor, data, temporary)
                self.sync(descriptor, temporary)
            finally:
                os.close(descriptor)
            self.rename(temporary, path)
        except OSError:
            # On a disk that is full, half a file must not take the room that others need.
            with suppress(OSError):
                self.unlink(temporary)
            raise
        self.sync_directory(os.path.dirname(path))

    def remove_unfinished(self, directory: str) -> None:
        """Remove every file below `directory` that `replace` was writing when its process was killed. Raises OSError."""
        for parent, _, names in os.walk(directory):
            for name in names:
                if name.endswith(TEMPORARY_SUFFIX):
                    self.unlink(os.path.join(parent, name))

    def make_directories(self, path: str, mode: int = PRIVATE_DIRECTORY_MODE) -> None:
        """Create `path` and what is missing above it, durably; nothing when it is there. Raises OSError."""
        if os.path.isdir(path):
            return
        parent = os.path.dirname(path)
        self.make_directories(parent, mode)
        try:
            self.make_directory(path, mode)
        except FileExistsError:
            if not os.path.isdir(path):
                raise
        self.sync_directory(parent)

    def remove_tree(self, path: Path) -> None:
        """Remove a tree; nothing when it is not there.

        By directory descriptors that never follow a link: processes that still work inside an old tree must not be able to lead the
        agent out of it while it is removed.

        Raises:
            OSError: Something in it cannot be removed, the first that was met; everything else is gone all the same.
        """
        if not is_there(path):
            return
        parent, name = os.path.split(path)
        parent_fd = os.open(parent, DIRECTORY_FLAGS & ~os.O_NOFOLLOW)
        try:
            self._remove_entry(parent_fd, os.fsencode(name))
        finally:
            os.close(parent_fd)

    def remove_below(self, parent_fd: int, name: bytes) -> None:
        """Remove what has a name in an open directory, with all that is in it; nothing when it is not there. Raises OSError."""
        with suppress(FileNotFoundError):
            self._remove_entry(parent_fd, name)

    def _remove_entry(self, parent_fd: int, name: bytes, top_fd: int = -1, depth: int = 0) -> None:
        """Remove one entry of an open directory.

        Args:
            parent_fd: The directory.
            name: The entry.
            top_fd: The uppermost directory that is being removed; -1 for the entry itself.
            depth: How far below it the entry is.
        """
        status = os.lstat(name, dir_fd=parent_fd)
        if not stat.S_ISDIR(status.st_mode):
            self.unlink(name, dir_fd=parent_fd)
            return
        if os.geteuid() != 0 and status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            # A directory that its owner may not write (mode 0555) must be opened up before it can be emptied.
            self.change_mode(name, PRIVATE_DIRECTORY_MODE, dir_fd=parent_fd)
        if depth > _REMOVED_DEPTH_MAX:
            # Whoever nests directories without end must not exhaust the agent's stack or descriptors: what is deep goes up first.
            place = next(b"%d" % n for n in itertools.count() if not _is_there(b"%d" % n, top_fd))
            self.move(name, place, source_fd=parent_fd, destination_fd=top_fd)
            return
        descriptor = os.open(name, DIRECTORY_FLAGS, dir_fd=parent_fd)
        try:
            # A second time only where something deep came up.
            while children := os.listdir(descriptor):
                problem: OSError | None = None
                for child in children:
                    try:
                        self._remove_entry(
                            descriptor, os.fsencode(child), descriptor if depth == 0 else top_fd, depth + 1
                        )
                    except OSError as error:
                        # One file that stays must not keep the second names of all others, which would refuse every patch of them.
                        problem = problem or error
                if problem is not None:
                    raise problem
                if depth:
                    break
        finally:
            os.close(descriptor)
        self.remove_directory(name, dir_fd=parent_fd)


def _is_there(name: bytes, directory_fd: int) -> bool:
    try:
        os.lstat(name, dir_fd=directory_fd)
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def opened_directory(path: str) -> Iterator[int]:
    """Hold a directory, which is no link itself, open. Raises OSError."""
    descriptor = os.open(path, DIRECTORY_FLAGS)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_private(status: os.stat_result) -> bool:
    """Return whether this is a directory of the agent's user that nobody else may enter."""
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & _OTHERS


@contextlib.contextmanager
def opened_private(path: str) -> Iterator[int]:
    """Hold a directory open in which nobody else can put one thing in another's place, whatever becomes of its own name.

    Whoever may write to the directory above can put another one in its place: only what is open says which one it is.

    Raises:
        OSError: It cannot be opened, or somebody else may enter it (ENOTDIR).
    """
    with opened_directory(path) as descriptor:
        if not is_private(os.fstat(descriptor)):
            raise NotADirectoryError(errno.ENOTDIR, "it is not the agent's own directory", path)
        yield descriptor


def is_there(path: Path, *, dir_fd: int | None = None) -> bool:
    """Return whether something stands at a path, be it a link to nothing. Raises OSError: a disk that fails has not said no."""
    try:
        os.lstat(path, dir_fd=dir_fd)
    except OSError as error:
        if is_missing(error):
            return False
        raise
    return True


def is_missing(error: OSError) -> bool:
    """Return whether a path could not be found because it, or a directory on the way, is not there."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR)
