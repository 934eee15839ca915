"""The new tree beside the old one: unchanged files as hard links, changed ones written anew, everything proven before anybody sees it.

Live files are never written: a changed file is a new inode, and an unchanged one is the very same inode, which is how the result is
proven without reading it again. Owners, permissions, extended attributes and times of directories are those of the live tree; what cannot
be kept refuses the patch.

Source: docs/spec/agent.md 6.2.
"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final

from agent.errors import ApplyFailedError, ApplyRefusedError
from agent.files import Files
from agent.inventory import Entry, Inventory, complete_inventory, entry_of, open_root, scan_tree
from agent.plan import Plan, PlannedChange
from provenance.diff_model import MODE_EXECUTABLE, MODE_LINK
from provenance.tree_digest import blob_digest
from wire.hashing import Digest

_EXECUTE_BITS: Final = 0o111
_NEW_FILE_MODE: Final = 0o644
_NEW_EXECUTABLE_MODE: Final = 0o755


@dataclass(frozen=True, slots=True)
class Staged:
    """A complete new tree, durable and proven, that nobody uses yet."""

    path: str
    """Where it stands."""
    inode: int
    """Inode of its root directory."""
    tree_digest: Digest
    """Git tree id (SHA-256), 32 bytes."""


def stage_tree(files: Files, root_fd: int, inventory: Inventory, plan: Plan, path: str) -> Staged:
    """Return the new tree, made at `path`, durable and proven to be the old one with exactly the plan's changes.

    Args:
        files: The door to the file system.
        root_fd: The live tree's root, open.
        inventory: The live tree.
        plan: What changes.
        path: Where nothing is yet, on the same file system.

    Raises:
        ApplyRefusedError: ``agent.apply.ownership``, ``agent.apply.attributes``, ``agent.apply.staged``.
        ApplyFailedError: ``agent.apply.io``; what was made so far is left for the caller to remove.
    """
    try:
        files.make_directory(path)
        stage_fd = open_root(path)
        try:
            _Stage(files, root_fd, stage_fd, inventory, plan).build()
            files.sync_filesystem(stage_fd, path)
            tree_digest = _prove(stage_fd, inventory, plan)
            return Staged(path, os.fstat(stage_fd).st_ino, tree_digest)
        finally:
            os.close(stage_fd)
    except OSError as error:
        raise ApplyFailedError(
            "agent.apply.io", f"the new tree cannot be made ({error.strerror})", details={"errno": error.errno or 0}
        ) from error


class _Stage:
    """The making of one staged tree."""

    def __init__(self, files: Files, root_fd: int, stage_fd: int, inventory: Inventory, plan: Plan) -> None:
        self._files = files
        self._root_fd = root_fd
        self._stage_fd = stage_fd
        self._inventory = inventory
        self._changes = {change.path: change for change in plan.changes}
        self._removes_directories = plan.removes_directories

    def build(self) -> None:
        """Make every directory, link every unchanged file, write every changed one, then give the directories their status."""
        directories: dict[bytes, Entry] = {}
        for path, entry in self._inventory.entries.items():
            if entry.is_directory:
                self._files.make_directory(path, dir_fd=self._stage_fd)
                directories[path] = entry
            elif path not in self._changes:
                self._files.link(path, source_fd=self._root_fd, destination_fd=self._stage_fd)
        if self._removes_directories:
            self._remove_emptied(directories)
        for change in self._changes.values():
            if change.post is not None:
                self._write(change, directories)
        touched = {os.path.dirname(path) for path in self._changes}
        for path, entry in reversed(directories.items()):
            self._give_status(path, entry, keep_times=path not in touched)
        self._give_status(b".", _root_entry(self._root_fd), keep_times=b"" not in touched)

    def _remove_emptied(self, directories: dict[bytes, Entry]) -> None:
        """Remove the directories that only held removed files, as git does; those that were empty before stay."""
        filled: set[bytes] = set()
        for path, change in self._changes.items():
            directory = os.path.dirname(path) if change.post is not None else b""
            while directory and directory not in filled:
                filled.add(directory)
                directory = os.path.dirname(directory)
        holds = Counter(
            os.path.dirname(path)
            for path, entry in self._inventory.entries.items()
            if entry.is_directory or path not in self._changes
        )
        for change in self._changes.values():
            if change.post is not None or change.path not in self._inventory.entries:
                continue
            directory = os.path.dirname(change.path)
            while directory in directories and not holds[directory] and directory not in filled:
                self._files.remove_directory(directory, dir_fd=self._stage_fd)
                del directories[directory]
                directory = os.path.dirname(directory)
                holds[directory] -= 1

    def _write(self, change: PlannedChange, directories: dict[bytes, Entry]) -> None:
        assert change.post is not None, "only files that are there after the patch are written"
        parent = self._make_parents(change.path, directories)
        source = None if change.inherits is None else self._inventory.entries[change.inherits]
        executable = change.post.mode == MODE_EXECUTABLE
        owner = parent if source is None else source
        if change.post.mode == MODE_LINK:
            self._files.make_link(change.post.content, change.path, dir_fd=self._stage_fd)
            self._own_link(change.path, owner)
            return
        descriptor = self._files.create(change.path, dir_fd=self._stage_fd)
        try:
            self._files.write(descriptor, change.post.content, change.path)
            self._own(descriptor, owner, change.path)
            if change.inherits is not None:
                self._copy_attributes(change.inherits, descriptor)
            self._files.set_mode(descriptor, _permissions(source, executable=executable), change.path)
        finally:
            os.close(descriptor)

    def _make_parents(self, path: bytes, directories: dict[bytes, Entry]) -> Entry:
        """Return the entry of the directory that `path` goes into, made like its own parent when it was not there."""
        directory = os.path.dirname(path)
        if not directory:
            return _root_entry(self._root_fd)
        known = directories.get(directory)
        if known is not None:
            return known
        parent = self._make_parents(directory, directories)
        self._files.make_directory(directory, dir_fd=self._stage_fd)
        directories[directory] = parent
        return parent

    def _own(self, descriptor: int, owner: Entry, path: bytes) -> None:
        status = os.fstat(descriptor)
        if (status.st_uid, status.st_gid) == (owner.owner, owner.group):
            return
        try:
            self._files.set_owner(descriptor, owner.owner, owner.group, path)
        except PermissionError as error:
            raise _ownership(path, owner) from error

    def _own_link(self, path: bytes, owner: Entry) -> None:
        status = os.lstat(path, dir_fd=self._stage_fd)
        if (status.st_uid, status.st_gid) == (owner.owner, owner.group):
            return
        try:
            self._files.change_owner(path, owner.owner, owner.group, dir_fd=self._stage_fd)
        except PermissionError as error:
            raise _ownership(path, owner) from error

    def _copy_attributes(self, source: bytes, descriptor: int) -> None:
        try:
            source_fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root_fd)
            try:
                wanted = {name: os.getxattr(source_fd, name) for name in os.listxattr(source_fd)}
            finally:
                os.close(source_fd)
            present = {name: os.getxattr(descriptor, name) for name in os.listxattr(descriptor)}
            for name, value in wanted.items():
                if present.get(name) != value:
                    self._files.set_attribute(descriptor, name, value)
        except OSError as error:
            raise ApplyRefusedError(
                "agent.apply.attributes",
                f"the extended attributes of a file cannot be kept ({error.strerror})",
                actual=os.fsdecode(source),
            ) from error

    def _give_status(self, path: bytes, entry: Entry, *, keep_times: bool) -> None:
        status = os.stat(path, dir_fd=self._stage_fd, follow_symlinks=False)
        if (status.st_uid, status.st_gid) != (entry.owner, entry.group):
            try:
                self._files.change_owner(path, entry.owner, entry.group, dir_fd=self._stage_fd)
            except PermissionError as error:
                raise _ownership(path, entry) from error
        if path in self._inventory.entries or path == b".":
            self._copy_directory_attributes(path)
        self._files.change_mode(path, stat.S_IMODE(entry.mode), dir_fd=self._stage_fd)
        if keep_times:
            self._files.change_times(path, entry.modified_ns, entry.modified_ns, dir_fd=self._stage_fd)

    def _copy_directory_attributes(self, path: bytes) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._stage_fd)
        try:
            self._copy_attributes(path, descriptor)
        finally:
            os.close(descriptor)


def _prove(stage_fd: int, inventory: Inventory, plan: Plan) -> Digest:
    """Return the digest of the staged tree, which holds exactly the old tree's files with the plan's changes.

    Unchanged files are proven by being the same inode; changed ones are read back.
    """
    taken_ns = time.time_ns()
    entries = scan_tree(stage_fd)
    changes = {change.path: change for change in plan.changes}
    expected = {path for path, entry in inventory.entries.items() if not entry.is_directory and path not in changes}
    expected |= {path for path, change in changes.items() if change.post is not None}
    found = {path for path, entry in entries.items() if not entry.is_directory}
    if expected != found:
        raise _unproven("its files are not the expected ones", min(expected ^ found))
    known: dict[bytes, Digest] = {}
    for path in found - changes.keys():
        if entries[path].inode != inventory.entries[path].inode:
            raise _unproven("an unchanged file is another one", path)
        if path in inventory.digests:
            known[path] = inventory.digests[path]
    staged = complete_inventory(stage_fd, entries, taken_ns, known)
    for path, change in changes.items():
        if change.post is None:
            continue
        if staged.digests[path] != blob_digest(change.post.content) or entries[path].git_mode != change.post.mode:
            raise _unproven("a changed file does not read back as it was written", path)
    return staged.tree_digest


def _permissions(source: Entry | None, *, executable: bool) -> int:
    """Return the permission bits: those of the file before, with execution added where it may be read, or taken away."""
    if source is None:
        return _NEW_EXECUTABLE_MODE if executable else _NEW_FILE_MODE
    bits = stat.S_IMODE(source.mode)
    if executable == bool(bits & stat.S_IXUSR):
        return bits
    return bits | ((bits & 0o444) >> 2) | stat.S_IXUSR if executable else bits & ~_EXECUTE_BITS


def _root_entry(root_fd: int) -> Entry:
    return entry_of(os.fstat(root_fd))


def _ownership(path: bytes, entry: Entry) -> ApplyRefusedError:
    return ApplyRefusedError(
        "agent.apply.ownership",
        f"the agent may not give a file to its owner {entry.owner}:{entry.group}",
        actual=os.fsdecode(path),
        hint="run the agent as root, or as the owner of the target",
    )


def _unproven(sentence: str, path: bytes) -> ApplyRefusedError:
    return ApplyRefusedError(
        "agent.apply.staged", f"the staged tree is not what it must be: {sentence}", actual=os.fsdecode(path)
    )
