"""The standby tree: a second tree of the same files beside a large target, so that a change everywhere costs what it changes.

Every file in it is the very file of the live tree under a second name; only its directories are its own. An application brings it equal to
the live tree, gives it the changed files, proves it and exchanges the two roots; the old tree is the standby from then on. Nothing that a
record says of it is believed, only what a walk finds: processes that were at work in a tree when it was exchanged may still write there.
Numbers of inodes are read from directories, without a status of every file, hence only on file systems known to list the true ones.

Source: docs/spec/agent.md 6.9; docs/adr/0023-a-standby-tree.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.errors import ApplyRefusedError, TargetRefusedError
from agent.files import DIRECTORY_FLAGS, Files, is_missing, is_private, is_there, opened_directory, opened_private
from agent.inventory import NAMES_ENCODING, NAMES_ERRORS, Entry, Inventory, entry_of, is_git_internal, read_digest
from agent.limits import SPACE_RESERVE_BYTES, STANDBY_ENTRIES_MIN, TREE_DEPTH_MAX
from agent.new_files import give_attributes, make_directory, make_file, read_attributes
from agent.own_directory import remove_own_directory
from agent.part import open_part
from agent.plan import Plan, PlannedChange, emptied_directories
from agent.target import Mode, TargetConfig
from provenance.tree_digest import blob_digest
from wire.hashing import Digest

_TYPE_BITS: Final = 0o170000
_ENTRY_BYTES: Final = 64
"""What a name takes in a directory, about."""
_DIRECTORY_BYTES: Final = 8192
"""What a directory takes at least, its inode included."""
_FILE_SYSTEMS: Final = frozenset({0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0xF2F52010})
"""ext2 to ext4, xfs, btrfs, tmpfs, f2fs: a directory lists the inode numbers that `stat` tells."""
_STATFS_BYTES: Final = 512
_libc = ctypes.CDLL(None, use_errno=True)


class StandbyUnfitError(Exception):
    """The standby tree cannot be brought equal to the live one; the caller does without it."""


def standby_tree(config: TargetConfig) -> str:
    """Return where the standby tree of a target stands, in a directory that only the agent may enter."""
    return os.path.join(config.standby, "tree")


def has_standby(config: TargetConfig) -> bool:
    """Return whether something stands where a target's standby tree would be. Raises OSError: a disk that fails has not said no."""
    try:
        return config.mode is Mode.EXCHANGE and is_there(config.standby)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False  # The root's name leaves no room for this one: such a target does without.
        raise


def is_wide(entries: Collection[bytes]) -> bool:
    """Return whether what would be exchanged is so much that a standby tree pays."""
    return len(entries) >= STANDBY_ENTRIES_MIN


def is_standby_possible(config: TargetConfig, root_fd: int, entries: Collection[bytes]) -> bool:
    """Return whether a standby tree pays for a tree with these entries, and can be kept on its file system."""
    return (
        config.mode is Mode.EXCHANGE
        and config.keeps_standby
        and is_wide(entries)
        and len(os.fsencode(os.path.basename(config.standby))) <= os.fstatvfs(root_fd).f_namemax
        and file_system_of(root_fd) in _FILE_SYSTEMS
        and os.stat(os.path.dirname(config.root)).st_dev == os.fstat(root_fd).st_dev
    )


def drop_standby(files: Files, config: TargetConfig) -> None:
    """Remove the standby tree; nothing when there is none, or something else stands there. Raises OSError."""
    if has_standby(config):
        with contextlib.suppress(TargetRefusedError):
            remove_own_directory(files, config.standby, is_closed=False)


@contextlib.contextmanager
def opened_standby(files: Files, config: TargetConfig, root_fd: int, inventory: Inventory) -> Iterator[Standby]:
    """Hold the standby tree open, made when it is not there; it is whatever it is, until it is brought equal.

    Args:
        files: The door to the file system.
        config: The target.
        root_fd: The live tree's root.
        inventory: The live tree.

    Raises:
        StandbyUnfitError: There is no room for it, or something else stands there.
        OSError: It cannot be made or opened.
    """
    if not (is_there(config.standby) and is_private(os.lstat(config.standby))):
        try:
            remove_own_directory(files, config.standby, is_closed=False)
        except TargetRefusedError as error:
            raise StandbyUnfitError(error.message) from error
        _check_room(root_fd, inventory)
        files.make_directory(config.standby)
        files.sync_directory(os.path.dirname(config.standby))
    with opened_private(config.standby) as above_fd:
        if not _is_directory(b"tree", above_fd):
            files.remove_below(above_fd, b"tree")
            files.make_directory(b"tree", dir_fd=above_fd)
        with _opened(b"tree", above_fd) as standby_fd:
            yield Standby(files, root_fd, standby_fd, inventory)


def names_in_standby(config: TargetConfig, path: bytes, entry: Entry) -> int:
    """Return how many names of a live file the standby tree holds; looked up, never taken for granted."""
    try:
        if not has_standby(config) or not stat.S_ISDIR(os.lstat(config.standby).st_mode):
            return 0
        with opened_directory(standby_tree(config)) as standby_fd:
            if os.fstat(standby_fd).st_dev != entry.device:
                return 0
            if entry.links == 2 and _has_name(standby_fd, path, entry):
                return 1
            return _count_names(standby_fd, entry.inode)
    except OSError:
        return 0


@dataclass(slots=True)
class _Look:
    """What a walk over the standby tree has found."""

    directories: dict[bytes, Entry] = field(default_factory=dict)
    """Status of every directory that was looked into; "" is the root."""
    wrong: list[bytes] = field(default_factory=list)
    """Names that stand for something else than in the tree that it must be."""
    missing: list[bytes] = field(default_factory=list)
    """Names that must be there, directories before what is in them."""
    unlike: list[bytes] = field(default_factory=list)
    """Directories with another owner, mode, time or attribute."""

    @property
    def is_clean(self) -> bool:
        """Whether it is the tree that it must be."""
        return not (self.wrong or self.missing or self.unlike)


@dataclass(frozen=True, slots=True)
class Proven:
    """What a standby tree with the changes in it has instead of the live tree's."""

    entries: Mapping[bytes, Entry]
    """All its directories, and the changed files."""
    removed: Collection[bytes]
    """Paths that it no longer has."""


class Standby:
    """An open standby tree.

    Args:
        files: The door to the file system.
        root_fd: The live tree's root.
        standby_fd: Its own root.
        inventory: The live tree.
    """

    def __init__(self, files: Files, root_fd: int, standby_fd: int, inventory: Inventory) -> None:
        self._files = files
        self._root_fd = root_fd
        self._standby_fd = standby_fd
        self._inventory = inventory
        self._entries: Mapping[bytes, Entry] = inventory.entries
        self._root = entry_of(os.fstat(root_fd))
        self._after: dict[bytes, Entry] = {}
        self._removed: set[bytes] = set()
        self._opened: dict[bytes, int] = {}
        self._made = 0

    @property
    def inode(self) -> int:
        """Inode of its root directory."""
        return os.fstat(self._standby_fd).st_ino

    # Equal to the live tree

    def make_equal(self, within: Collection[bytes] | None = None) -> bool:
        """Return whether anything had to be changed, after the standby tree is the live tree: every name, every directory's status.

        Args:
            within: The only paths that can differ, with every directory on the way to them; None for all.

        Raises:
            StandbyUnfitError: It does not become equal: somebody writes to one of them.
            OSError: Something could not be made or removed; do it again, or do without it.
        """
        look = self._look(self._entries, within, with_live=True)
        if look.is_clean:
            return False
        if within is not None and any(self._entries[path].is_directory for path in look.missing):
            # What is below a directory that was lost is not among the paths named.
            within, look = None, self._look(self._entries, None, with_live=True)
        self._repair(look)
        if not self._look(self._entries, within, with_live=True).is_clean:
            raise StandbyUnfitError("the standby tree does not become equal to the live one")
        return True

    def _repair(self, look: _Look) -> None:
        touched = {os.path.dirname(path) for path in (*look.wrong, *look.missing)}
        for path in look.wrong:
            with self._changeable(os.path.dirname(path)) as above_fd:
                self._files.remove_below(above_fd, os.path.basename(path))
        known = {path: entry.inode for path, entry in look.directories.items()}
        directory, above_fd, live_fd = None, -1, -1
        with contextlib.ExitStack() as stack:
            for path in look.missing:
                if directory != os.path.dirname(path):
                    stack.close()
                    directory = os.path.dirname(path)
                    above_fd = stack.enter_context(self._changeable(directory))
                    live_fd = stack.enter_context(_opened(directory, self._root_fd))
                name = os.path.basename(path)
                if self._entries[path].is_directory:
                    self._files.make_directory(name, dir_fd=above_fd)
                    known[path] = _inode_of_new(above_fd, name)
                    touched.add(path)
                else:
                    self._files.link_as(name, name, source_fd=live_fd, destination_fd=above_fd)
        self._opened.clear()
        for path in sorted({*touched, *look.unlike}, reverse=True):
            self._give_status(path, known.get(path))

    def _give_status(self, path: bytes, inode: int | None) -> None:
        """Give a directory, if it still is the one that was looked at or made, owner, attributes, mode and time of the live one."""
        entry = self._entries[path] if path else self._root
        with _opened(path, self._standby_fd) as descriptor, _opened(path, self._root_fd) as live_fd:
            status = os.fstat(descriptor)
            if status.st_ino != inode:
                raise StandbyUnfitError("somebody puts another directory in the place of one of the standby tree")
            if (status.st_uid, status.st_gid) != (entry.owner, entry.group):
                self._files.set_owner(descriptor, entry.owner, entry.group, path)
            wanted, present = read_attributes(live_fd), read_attributes(descriptor)
            give_attributes(self._files, descriptor, wanted, present)
            self._files.set_mode(descriptor, stat.S_IMODE(entry.mode), path)
            self._files.change_times(b".", entry.modified_ns, entry.modified_ns, dir_fd=descriptor)

    # The changes

    def change(self, plan: Plan, work_fd: int, advance: Callable[[], None]) -> None:
        """Make it the live tree with the plan's changes; new files are made in the work directory and moved to their places.

        Args:
            plan: What changes.
            work_fd: An empty directory on the same file system.
            advance: Called after each path.

        Raises:
            ApplyRefusedError: ``agent.apply.ownership``, ``agent.apply.attributes``.
            ApplyFailedError: ``agent.target.changing``.
            OSError: Something could not be made; what was made so far is there, until it is brought equal again.
        """
        self._after = after = dict(self._entries)
        self._removed = set()
        for change in plan.changes:
            if change.post is None:
                advance()
            if change.post is None and after.pop(change.path, None) is not None:
                self._removed.add(change.path)
                with self._changeable(os.path.dirname(change.path)) as above_fd:
                    self._files.unlink(os.path.basename(change.path), dir_fd=above_fd)
        for directory in emptied_directories(plan, self._inventory):
            with self._changeable(os.path.dirname(directory)) as above_fd:
                self._files.remove_directory(os.path.basename(directory), dir_fd=above_fd)
            del after[directory]
            self._removed.add(directory)
        for change in plan.changes:
            if change.post is not None:
                self._write(change, work_fd)
                advance()
        for path, mode in self._opened.items():
            if path in after or not path:
                with _opened(path, self._standby_fd) as descriptor:
                    self._files.set_mode(descriptor, mode, path)
        self._opened.clear()

    def _write(self, change: PlannedChange, work_fd: int) -> None:
        directory, name = os.path.split(change.path)
        parent = self._make_parents(directory, work_fd)
        made = self._new_name()
        make_file(
            self._files,
            made,
            change,
            directory_fd=work_fd,
            root_fd=self._root_fd,
            source=None if change.inherits is None else self._entries[change.inherits],
            parent=parent,
            sync=False,
        )
        with self._changeable(directory) as above_fd:
            self._files.move(made, name, source_fd=work_fd, destination_fd=above_fd)
            self._after[change.path] = entry_of(os.lstat(name, dir_fd=above_fd))

    def _make_parents(self, directory: bytes, work_fd: int) -> Entry:
        """Return the entry of a directory, made like the one above it when it was not there."""
        if not directory:
            return self._root
        if directory in self._after:
            return self._after[directory]
        above, name = os.path.split(directory)
        parent = self._make_parents(above, work_fd)
        made = self._new_name()
        mode = given = stat.S_IMODE(parent.mode)
        if os.geteuid() != 0 and mode & stat.S_IRWXU != stat.S_IRWXU:
            # What even its owner may not write to could not be moved, and nothing could be put into it.
            given = mode | stat.S_IRWXU
            self._opened[directory] = mode
        # Whole before it has its name, and made elsewhere: somebody may have kept the directory above open, and it inherits nothing.
        with self._changeable(above) as above_fd:
            make_directory(self._files, made, parent, given, directory, directory_fd=work_fd, like_fd=above_fd)
            self._files.move(made, name, source_fd=work_fd, destination_fd=above_fd)
        self._after[directory] = parent
        return parent

    def _new_name(self) -> bytes:
        self._made += 1
        return b"new-%d" % self._made

    # The proof

    def prove(self, plan: Plan) -> Proven:
        """Return what is new in the tree after the plan, when the standby tree is exactly that one.

        Unchanged files are proven by being the live tree's own, changed ones are read back.

        Raises:
            ApplyRefusedError: ``agent.apply.staged``.
            ApplyFailedError: ``agent.target.unreadable``, ``agent.target.changing``.
            OSError: It cannot be read.
        """
        look = self._look(self._after, None, with_live=False)
        if not look.is_clean:
            raise _unproven("it is not made of the expected files", (*look.wrong, *look.missing, *look.unlike)[0])
        for change in plan.changes:
            if change.post is None:
                continue
            entry = self._after[change.path]
            if (
                entry.git_mode != change.post.mode
                or entry_of(self._status(change.path)) != entry
                or read_digest(self._standby_fd, change.path, entry) != blob_digest(change.post.content)
            ):
                raise _unproven("a changed file does not read back as it was written", change.path)
        del look.directories[b""]
        made = {change.path: self._after[change.path] for change in plan.changes if change.post is not None}
        return Proven(look.directories | made, self._removed)

    def _status(self, path: bytes) -> os.stat_result:
        return os.lstat(path, dir_fd=self._standby_fd)

    # Small things

    def _look(self, expected: Mapping[bytes, Entry], within: Collection[bytes] | None, *, with_live: bool) -> _Look:
        walk = _Walk(expected, within, self._root.device)
        walk.run(self._standby_fd, self._root_fd if with_live else None, b"", self._root)
        return walk.ended()

    @contextlib.contextmanager
    def _changeable(self, path: bytes) -> Iterator[int]:
        """Hold a directory of the standby tree open, opened up where even its owner may not write to it."""
        with _opened(path, self._standby_fd) as descriptor:
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            if os.geteuid() != 0 and mode & stat.S_IRWXU != stat.S_IRWXU:
                self._files.set_mode(descriptor, mode | stat.S_IRWXU, path)
                self._opened.setdefault(path, mode)
            yield descriptor


class _Walk:
    """One walk over a standby tree, by names and inodes. Tight on purpose: it is done several times for each application."""

    def __init__(self, expected: Mapping[bytes, Entry], within: Collection[bytes] | None, device: int) -> None:
        self._expected = expected
        self._within = within
        self._device = device
        self._right: list[bytes] = []
        self._look = _Look()

    def run(self, descriptor: int, live_fd: int | None, path: bytes, entry: Entry) -> None:
        """Look into one directory, which must be like `entry`, and into what must be a directory in it."""
        self._compare(descriptor, live_fd, path, entry)
        with os.scandir(descriptor) as names:
            found = list(names)
        prefix, get = path + b"/" if path else b"", self._expected.get
        within, right, wrong = self._within, self._right, self._look.wrong
        for each in found:
            name = each.name.encode(NAMES_ENCODING, NAMES_ERRORS)
            child = prefix + name
            wanted = get(child)
            if wanted is None:
                wrong.append(child)
            elif wanted[0] & _TYPE_BITS == stat.S_IFDIR:
                if (within is None or child in within) and not self._descend(descriptor, live_fd, name, child, wanted):
                    wrong.append(child)
                else:
                    right.append(child)
            elif wanted[1] != each.inode():
                wrong.append(child)
            else:
                right.append(child)

    def ended(self) -> _Look:
        """Return what was found."""
        expected, look = self._expected, self._look
        if self._within is None and len(self._right) != len(expected):
            right = set(self._right)
            look.missing = [path for path in expected if path not in right]
            look.missing.sort()
        elif self._within is not None:
            right = set(self._right)
            look.missing = sorted(path for path in self._within if path in expected and path not in right)
        return look

    def _descend(self, descriptor: int, live_fd: int | None, name: bytes, path: bytes, entry: Entry) -> bool:
        try:
            child = os.open(name, DIRECTORY_FLAGS, dir_fd=descriptor)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT):
                return False
            raise
        try:
            if live_fd is None:
                self.run(child, None, path, entry)
                return True
            live = os.open(name, DIRECTORY_FLAGS, dir_fd=live_fd)
            try:
                self.run(child, live, path, entry)
            finally:
                os.close(live)
        finally:
            os.close(child)
        return True

    def _compare(self, descriptor: int, live_fd: int | None, path: bytes, entry: Entry) -> None:
        status = os.fstat(descriptor)
        if status.st_dev != self._device:
            raise StandbyUnfitError("something is mounted in the standby tree")
        self._look.directories[path] = found = entry_of(status)
        if (found.mode, found.owner, found.group) != (entry.mode, entry.owner, entry.group) or (
            live_fd is not None
            and (found.modified_ns != entry.modified_ns or read_attributes(descriptor) != read_attributes(live_fd))
        ):
            self._look.unlike.append(path)


def made_inventory(now: Mapping[bytes, Entry], inventory: Inventory, plan: Plan, proven: Proven) -> Inventory:
    """Return the tree after the exchange: directories and changed files as proven, every other file as the live tree has it.

    Args:
        now: The live tree right before.
        inventory: The live tree as it was decided on; its digests still hold.
        plan: What was changed.
        proven: What `Standby.prove` returned.
    """
    entries, digests = dict(now), dict(inventory.digests)
    for path in proven.removed:
        entries.pop(path, None)
    entries.update(proven.entries)
    for path, file in changed_files(plan).items():
        if file is None:
            digests.pop(path, None)
        elif not is_git_internal(path):
            digests[path] = file[1]
    return Inventory(entries, digests, inventory.tree_digest, inventory.taken_ns)


def changed_files(plan: Plan) -> dict[bytes, tuple[int, Digest] | None]:
    """Return git mode and digest of every touched path after the plan, None of removed ones."""
    return {
        change.path: None if change.post is None else (change.post.mode, blob_digest(change.post.content))
        for change in plan.changes
    }


def paths_within(paths: Collection[bytes]) -> frozenset[bytes]:
    """Return the paths with every directory on the way to them."""
    found = set(paths)
    for path in paths:
        above = os.path.dirname(path)
        while above and above not in found:
            found.add(above)
            above = os.path.dirname(above)
    return frozenset(found)


@contextlib.contextmanager
def _opened(path: bytes, below_fd: int) -> Iterator[int]:
    """Hold a directory below another one open, never reached through a link. Raises OSError."""
    descriptor = open_part(below_fd, path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _inode_of_new(above_fd: int, name: bytes) -> int:
    """Return the inode of a directory that was just made where others may have the directory above open."""
    descriptor = os.open(name, DIRECTORY_FLAGS, dir_fd=above_fd)
    try:
        status = os.fstat(descriptor)
        if not is_private(status) or os.listdir(descriptor):
            raise StandbyUnfitError("somebody puts another directory in the place of a new one")
        return status.st_ino
    finally:
        os.close(descriptor)


def _is_directory(name: bytes, above_fd: int) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(name, dir_fd=above_fd).st_mode)
    except OSError as error:
        if is_missing(error):
            return False
        raise


def _has_name(standby_fd: int, path: bytes, entry: Entry) -> bool:
    try:
        with _opened(os.path.dirname(path), standby_fd) as descriptor:
            status = os.lstat(os.path.basename(path), dir_fd=descriptor)
            return (status.st_dev, status.st_ino) == (entry.device, entry.inode)
    except OSError:
        return False


def _count_names(descriptor: int, inode: int, depth: int = 0) -> int:
    if depth > TREE_DEPTH_MAX:
        return 0
    with os.scandir(descriptor) as names:
        found = [(each.name, each.inode(), each.is_dir(follow_symlinks=False)) for each in names]
    count = 0
    for name, number, is_directory in found:
        if is_directory:
            with _opened(os.fsencode(name), descriptor) as below:
                count += _count_names(below, inode, depth + 1)
        else:
            count += number == inode
    return count


def _check_room(root_fd: int, inventory: Inventory) -> None:
    """Return when the file system has room for the names and directories of a second tree, with a reserve."""
    count = sum(entry.is_directory for entry in inventory.entries.values()) + 2
    status = os.fstatvfs(root_fd)
    needed = count * _DIRECTORY_BYTES + len(inventory.entries) * _ENTRY_BYTES + SPACE_RESERVE_BYTES
    if status.f_bavail * status.f_frsize < needed or (status.f_files and status.f_favail < 2 * count):
        raise StandbyUnfitError("the file system has no room for a standby tree")


def file_system_of(descriptor: int) -> int:
    """Return the number by which the kernel names a kind of file system (`f_type` of statfs)."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.fstatfs(descriptor, buffer):
        return 0
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder)


def _unproven(sentence: str, path: bytes) -> ApplyRefusedError:
    return ApplyRefusedError(
        "agent.apply.staged",
        f"the standby tree is not what it must be: {sentence}",
        actual=os.fsdecode(path) or ".",
    )
