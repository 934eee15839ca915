"""A patch put into a tree file by file, and how to get it all in or all out again after a crash anywhere in between.

::

    work directory ─▶ new files made, proven, durable ─▶ old files linked as backups ─▶ journal ─▶ RENAMES ─▶ directories synced
    └──────────────────────── the tree is the old one ────────────────────────────────┘└─ old, new, or each file by itself ─┘

In the work directory stand ``new-N``, ``old-N`` and ``gone-N``: the file of operation N after and before, and the N-th removed directory;
``made-N``, the N-th new directory, until it is complete and moved to its place.
No record says which renames were done: the tree itself does, since content and mode of every touched path are known before and after.
From every mixture one way is open: *forward*, as long as each file that is still old has its ``new-N``; *back*, as long as each file that
is new has its ``old-N``. A path that is neither was written by somebody else: it is left alone, and everything else goes back.

New files come before old ones go, so that whoever reads finds a renamed file twice, and never not at all. No touched path is a directory of
another one (docs/spec/diff.md 3), so neither can stand in the other's way.

Source: docs/spec/agent.md 6.6.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from agent.errors import ApplyRefusedError
from agent.files import DIRECTORY_FLAGS, Files, is_missing, is_there
from agent.inventory import Entry, Inventory, entry_of
from agent.limits import SYNCED_SINGLY_MAX
from agent.new_files import make_directory, make_file
from agent.part import open_lowest
from agent.plan import Plan, emptied_directories
from agent.progress import FILES, STEP_APPLY, Tracker
from provenance.components import FileImage
from provenance.diff_model import MODE_EXECUTABLE, MODE_LINK, MODE_REGULAR

_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ_BYTES: Final = 1 << 20
_NO_DIRECTORY: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_TAKEN: Final = (errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST)
"""What a rename of a directory says where something else has the name by now."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What becomes of one path."""

    path: str
    """Relative to the root."""
    before: FileImage | None
    """The file before, or None where none was."""
    after: FileImage | None
    """The file after, or None where it is removed."""

    @property
    def raw(self) -> bytes:
        """The path as the file system has it."""
        return self.path.encode()


@dataclass(frozen=True, slots=True)
class Operations:
    """Everything that one application does to a tree."""

    files: tuple[Operation, ...]
    """One for each touched path, sorted by path; the position is N in the names of the work directory."""
    made: tuple[str, ...]
    """Directories that are made, each after the one that it is in."""
    removed: tuple[str, ...]
    """Directories that the patch empties and removes, each before the one that it is in."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "files": [[each.path, _image_json(each.before), _image_json(each.after)] for each in self.files],
            "made": list(self.made),
            "removed": list(self.removed),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Operations:
        """Return the record that `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(
            tuple(
                Operation(str(path), _image_from_json(before), _image_from_json(after))
                for path, before, after in document["files"]
            ),
            tuple(map(str, document["made"])),
            tuple(map(str, document["removed"])),
        )


class Place(Enum):
    """What stands at one touched path."""

    OLD = "old"
    NEW = "new"
    MISSING = "missing"
    """Nothing, although there was a file before and is one after."""
    OTHER = "other"
    """Neither the file before nor the file after: somebody else wrote it."""


class ForeignWriteError(Exception):
    """Somebody else has written to a path that is being changed.

    Args:
        path: Which.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


def plan_operations(plan: Plan, inventory: Inventory) -> Operations:
    """Return what has to be done to a tree for a plan."""
    files = tuple(
        Operation(
            change.path.decode(),
            plan.pre_images[change.path],
            None if change.post is None else FileImage.of(change.post),
        )
        for change in plan.changes
    )
    removed = emptied_directories(plan, inventory)
    staying = {path for path, entry in inventory.entries.items() if entry.is_directory} - set(removed)
    made: dict[bytes, None] = {}
    for change in plan.changes:
        if change.post is None:
            continue
        parts = change.path.split(b"/")[:-1]
        for count in range(1, len(parts) + 1):
            directory = b"/".join(parts[:count])
            if directory not in staying:
                made[directory] = None
    return Operations(files, tuple(map(os.fsdecode, made)), tuple(map(os.fsdecode, removed)))


class Workshop:
    """The work directory of one application, and the live tree beside it.

    Args:
        files: The door to the file system.
        root_fd: The live tree's root, open.
        work_fd: The work directory, open, on the same file system.
        operations: What is done.
        tracker: Told how far it is.
    """

    def __init__(
        self, files: Files, root_fd: int, work_fd: int, operations: Operations, tracker: Tracker | None = None
    ) -> None:
        self._files = files
        self._tracker = Tracker() if tracker is None else tracker
        self._root_fd = root_fd
        self._work_fd = work_fd
        self._operations = operations

    # Before the journal

    def prepare(self, plan: Plan, inventory: Inventory) -> None:
        """Make every new file and a backup of every old one in the work directory, durably; the tree stays as it is.

        Raises:
            ApplyRefusedError: ``agent.apply.ownership``, ``agent.apply.attributes``, ``agent.apply.staged``.
            ApplyFailedError: ``agent.target.changing``.
            OSError: It could not be done; what was made is left for the caller to remove.
        """
        syncs_singly = len(plan.changes) <= SYNCED_SINGLY_MAX
        self._count("writing the new files")
        for number, (change, operation) in enumerate(zip(plan.changes, self._operations.files, strict=True)):
            self._tracker.advance()
            if change.post is None:
                continue
            make_file(
                self._files,
                _new(number),
                change,
                directory_fd=self._work_fd,
                root_fd=self._root_fd,
                source=None if change.inherits is None else inventory.entries[change.inherits],
                parent=self._nearest_directory(change.path),
                sync=syncs_singly,
            )
            if look(self._work_fd, _new(number)) != operation.after:
                raise ApplyRefusedError(
                    "agent.apply.staged", "a new file does not read back as it was written", actual=operation.path
                )
        self._count("keeping the old files")
        for number, operation in enumerate(self._operations.files):
            self._tracker.advance()
            if operation.before is not None:
                parent_fd, name = self._open_parent(operation.path)
                try:
                    self._files.link_as(name, _old(number), source_fd=parent_fd, destination_fd=self._work_fd)
                finally:
                    os.close(parent_fd)
        self._tracker.begin(STEP_APPLY, "making the new files durable")
        if syncs_singly:
            self._files.sync(self._work_fd, "work")
        else:
            self._files.sync_filesystem(self._work_fd, "work")

    def check_backups(self) -> None:
        """Return when every backup is the very file that still stands in the tree, with the content that its author signed.

        Raises:
            ForeignWriteError: Somebody has written meanwhile.
            OSError: Something cannot be read.
        """
        self._count("checking the old files again")
        for number, operation in enumerate(self._operations.files):
            self._check_backup(number, operation)
            self._tracker.advance()
        for directory in self._operations.made:
            if self._is_there(directory):
                raise ForeignWriteError(directory)

    # After the journal

    def places(self) -> tuple[Place, ...]:
        """Return what stands at each touched path. Raises OSError: one cannot be read."""
        return tuple(self._place(each) for each in self._operations.files)

    def can_go_forward(self) -> bool:
        """Return whether every file that is not new yet can still become so. Raises OSError."""
        return all(
            place is Place.NEW or (place is not Place.OTHER and (operation.after is None or self._has(_new(number))))
            for number, operation, place in self._standing()
        )

    def can_go_back(self) -> bool:
        """Return whether every file that is not old can still become so, but for those that somebody else wrote. Raises OSError."""
        return all(
            place in (Place.OLD, Place.OTHER) or operation.before is None or self._has(_old(number))
            for number, operation, place in self._standing()
        )

    def go_forward(self) -> None:
        """Make the tree the new one, durably, from any mixture that allows it. May be repeated.

        Raises:
            ForeignWriteError: Somebody has written to a path; the caller goes back.
            ApplyRefusedError: ``agent.apply.ownership``, ``agent.apply.attributes``; the caller goes back.
            OSError: It could not be done; the caller goes back.
        """
        for number, directory in enumerate(self._operations.made):
            self._make_directory(number, directory)
        self._count("putting the new files in place")
        for number, operation in enumerate(self._operations.files):
            if operation.after is not None:
                self._put_new(number, operation)
            self._tracker.advance()
        self._remove_files()
        self._remove_directories()
        for operation, place in zip(self._operations.files, self.places(), strict=True):
            if place is not Place.NEW:
                raise ForeignWriteError(operation.path)

    def _count(self, doing: str) -> None:
        self._tracker.begin(STEP_APPLY, doing, len(self._operations.files), FILES)

    def go_back(self) -> None:
        """Make the tree the old one again, durably, but for paths that somebody else has written. May be repeated.

        Raises:
            OSError: It could not be done; the journal stays, and the next recovery tries again.
        """
        self._restore_directories()
        self._restore_files()
        for number, operation in reversed(tuple(enumerate(self._operations.files))):
            if operation.after is not None:
                self._take_new(number, operation)
        for directory in reversed(self._operations.made):
            self._unmake_directory(directory)

    def sync(self) -> None:
        """Make every name that was changed durable. Raises OSError."""
        touched = {os.path.dirname(path) for path in self._touched()}
        for directory in sorted(touched):
            try:
                descriptor = self._open_directory(directory)
            except OSError as error:
                # A directory that is gone has no names; its own disappearance is synced with the one above.
                if error.errno in _NO_DIRECTORY:
                    continue
                raise
            try:
                self._files.sync(descriptor, directory or ".")
            finally:
                os.close(descriptor)
        self._files.sync(self._work_fd, "work")

    # One step each, forward

    def _put_new(self, number: int, operation: Operation) -> None:
        place = self._place(operation)
        if place is Place.NEW:
            return
        if place is Place.OTHER:
            raise ForeignWriteError(operation.path)
        parent_fd, name = self._open_parent(operation.path)
        try:
            if place is Place.OLD and operation.before is not None:
                self._check_same(_old(number), parent_fd, name, operation)
            self._files.move(_new(number), name, source_fd=self._work_fd, destination_fd=parent_fd)
        finally:
            os.close(parent_fd)

    def _remove_files(self) -> None:
        for number, operation in enumerate(self._operations.files):
            if operation.after is not None:
                continue
            place = self._place(operation)
            if place is Place.NEW:
                continue
            if place is Place.OTHER:
                raise ForeignWriteError(operation.path)
            parent_fd, name = self._open_parent(operation.path)
            try:
                self._check_same(_old(number), parent_fd, name, operation)
                self._files.unlink(name, dir_fd=parent_fd)
            finally:
                os.close(parent_fd)

    def _remove_directories(self) -> None:
        for number, directory in enumerate(self._operations.removed):
            if self._has(_gone(number)):
                continue
            parent_fd, name = self._open_parent(directory)
            try:
                if not _is_empty_directory(parent_fd, name):
                    raise ForeignWriteError(directory)
                self._files.move(name, _gone(number), source_fd=parent_fd, destination_fd=self._work_fd)
                if not _is_empty_directory(self._work_fd, _gone(number)):
                    # Somebody was quicker by a hair: the directory goes back with what is in it now.
                    self._files.move(_gone(number), name, source_fd=self._work_fd, destination_fd=parent_fd)
                    raise ForeignWriteError(directory)
            finally:
                os.close(parent_fd)

    def _make_directory(self, number: int, directory: str) -> None:
        parent_fd, name = self._open_parent(directory)
        try:
            if is_there(name, dir_fd=parent_fd):
                if not stat.S_ISDIR(os.lstat(name, dir_fd=parent_fd).st_mode):
                    raise ForeignWriteError(directory)
                return
            # Whole before it has its name: its owner may write to the directory above, and a crash leaves no half of it there.
            owner = entry_of(os.fstat(parent_fd))
            self._files.remove_below(self._work_fd, _made(number))
            make_directory(
                self._files,
                _made(number),
                owner,
                stat.S_IMODE(owner.mode),
                os.fsencode(directory),
                directory_fd=self._work_fd,
                like_fd=parent_fd,
            )
            try:
                self._files.move(_made(number), name, source_fd=self._work_fd, destination_fd=parent_fd)
            except OSError as error:
                if error.errno in _TAKEN:
                    raise ForeignWriteError(directory) from error
                raise
        finally:
            os.close(parent_fd)

    # One step each, back

    def _take_new(self, number: int, operation: Operation) -> None:
        place = self._place(operation)
        if place in (Place.OLD, Place.OTHER):
            return
        parent = self._find_parent(operation.path)
        if parent is None:
            return
        parent_fd, name = parent
        try:
            if operation.before is None:
                self._files.unlink(name, dir_fd=parent_fd)
            else:
                self._files.move(_old(number), name, source_fd=self._work_fd, destination_fd=parent_fd)
        finally:
            os.close(parent_fd)

    def _restore_files(self) -> None:
        for number, operation in enumerate(self._operations.files):
            if operation.after is None and self._place(operation) is Place.NEW:
                parent = self._find_parent(operation.path)
                if parent is None:
                    continue
                parent_fd, name = parent
                try:
                    self._files.move(_old(number), name, source_fd=self._work_fd, destination_fd=parent_fd)
                finally:
                    os.close(parent_fd)

    def _restore_directories(self) -> None:
        for number, directory in reversed(tuple(enumerate(self._operations.removed))):
            if not self._has(_gone(number)):
                continue
            parent = self._find_parent(directory)
            if parent is None:
                continue
            parent_fd, name = parent
            try:
                if not is_there(name, dir_fd=parent_fd):
                    self._files.move(_gone(number), name, source_fd=self._work_fd, destination_fd=parent_fd)
            finally:
                os.close(parent_fd)

    def _unmake_directory(self, directory: str) -> None:
        parent = self._find_parent(directory)
        if parent is None:
            return
        parent_fd, name = parent
        try:
            if _is_empty_directory(parent_fd, name):
                self._files.remove_directory(name, dir_fd=parent_fd)
        finally:
            os.close(parent_fd)

    # Looking

    def _place(self, operation: Operation) -> Place:
        parent, found = self._find_parent(operation.path), None
        if parent is not None:
            try:
                found = look(*parent)
            finally:
                os.close(parent[0])
        if found == operation.after:
            return Place.NEW
        if found == operation.before:
            return Place.OLD
        return Place.MISSING if found is None else Place.OTHER

    def _check_backup(self, number: int, operation: Operation) -> None:
        if self._place(operation) is not Place.OLD:
            raise ForeignWriteError(operation.path)
        if operation.before is None:
            return
        if look(self._work_fd, _old(number)) != operation.before:
            raise ForeignWriteError(operation.path)
        parent_fd, name = self._open_parent(operation.path)
        try:
            self._check_same(_old(number), parent_fd, name, operation)
        finally:
            os.close(parent_fd)

    def _check_same(self, backup: bytes, parent_fd: int, name: bytes, operation: Operation) -> None:
        """Return when the file at a path still is the one of which there is a backup: its writer would lose what was written."""
        one, other = os.lstat(backup, dir_fd=self._work_fd), os.lstat(name, dir_fd=parent_fd)
        if (one.st_dev, one.st_ino) != (other.st_dev, other.st_ino):
            raise ForeignWriteError(operation.path)

    def _standing(self) -> list[tuple[int, Operation, Place]]:
        return [(number, each, self._place(each)) for number, each in enumerate(self._operations.files)]

    def _is_there(self, path: str) -> bool:
        parent = self._find_parent(path)
        if parent is None:
            return False
        parent_fd, name = parent
        try:
            return is_there(name, dir_fd=parent_fd)
        finally:
            os.close(parent_fd)

    def _has(self, name: bytes) -> bool:
        return is_there(name, dir_fd=self._work_fd)

    def _touched(self) -> list[str]:
        operations = self._operations
        return [*(each.path for each in operations.files), *operations.made, *operations.removed]

    def _nearest_directory(self, path: bytes) -> Entry:
        """Return the status of the lowest directory on the way to `path` that is there: what is made below it belongs to its owner."""
        descriptor = open_lowest(self._root_fd, os.path.dirname(path))
        try:
            return entry_of(os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def _open_parent(self, path: str) -> tuple[int, bytes]:
        """Return the directory that `path` is in, open, and its name there; never through a link. Raises OSError."""
        directory, name = os.path.split(path)
        return self._open_directory(directory), os.fsencode(name)

    def _find_parent(self, path: str) -> tuple[int, bytes] | None:
        """Return as `_open_parent` does, or None where a directory on the way is missing or is none. Raises OSError."""
        try:
            return self._open_parent(path)
        except OSError as error:
            if error.errno in _NO_DIRECTORY:
                return None
            raise

    def _open_directory(self, directory: str) -> int:
        descriptor = os.open(".", DIRECTORY_FLAGS, dir_fd=self._root_fd)
        for part in os.fsencode(directory).split(b"/") if directory else ():
            try:
                below = os.open(part, DIRECTORY_FLAGS, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor


def look(directory_fd: int, name: bytes) -> FileImage | None:
    """Return digest and mode of the file or link in an open directory, or None when nothing is there.

    What is neither has a mode that no file has. Raises OSError: it cannot be read.
    """
    try:
        status = os.lstat(name, dir_fd=directory_fd)
    except OSError as error:
        if is_missing(error):
            return None
        raise
    if stat.S_ISLNK(status.st_mode):
        return FileImage(hashlib.sha256(os.readlink(name, dir_fd=directory_fd)).hexdigest(), MODE_LINK)
    if not stat.S_ISREG(status.st_mode):
        return FileImage("", status.st_mode)
    descriptor = os.open(name, _FILE_FLAGS, dir_fd=directory_fd)
    try:
        hasher = hashlib.sha256()
        while chunk := os.read(descriptor, _READ_BYTES):
            hasher.update(chunk)
    finally:
        os.close(descriptor)
    return FileImage(hasher.hexdigest(), MODE_EXECUTABLE if status.st_mode & stat.S_IXUSR else MODE_REGULAR)


def _is_empty_directory(directory_fd: int, name: bytes) -> bool:
    try:
        descriptor = os.open(name, DIRECTORY_FLAGS, dir_fd=directory_fd)
    except OSError as error:
        if error.errno in _NO_DIRECTORY:
            return False
        raise
    try:
        with os.scandir(descriptor) as names:
            return next(names, None) is None
    finally:
        os.close(descriptor)


def _new(number: int) -> bytes:
    return b"new-%d" % number


def _old(number: int) -> bytes:
    return b"old-%d" % number


def _made(number: int) -> bytes:
    return b"made-%d" % number


def _gone(number: int) -> bytes:
    return b"gone-%d" % number


def _image_json(image: FileImage | None) -> list[Any] | None:
    return None if image is None else [image.mode, image.sha256]


def _image_from_json(value: Any) -> FileImage | None:
    return None if value is None else FileImage(str(value[1]), int(value[0]))
