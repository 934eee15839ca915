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
from collections.abc import Mapping
from dataclasses import dataclass

from agent.errors import ApplyRefusedError
from agent.file_flags import is_unchangeable
from agent.files import DIRECTORY_FLAGS, Files, opened_private
from agent.host_checks import explain, immutable
from agent.inventory import Entry, Inventory, complete_inventory, entry_of, scan_tree
from agent.new_files import copy_access_lists, copy_attributes, make_file, own_mode, own_open
from agent.part import open_part
from agent.plan import Plan, PlannedChange, emptied_directories
from agent.progress import PATHS, STEP_APPLY, Tracker
from provenance.tree_digest import blob_digest
from wire.hashing import Digest


@dataclass(frozen=True, slots=True)
class Staged:
    """A complete new tree, durable and proven, that nobody uses yet."""

    path: str
    """Where it stands."""
    inode: int
    """Inode of its root directory."""
    tree_digest: Digest
    """Git tree id (SHA-256), 32 bytes."""


def stage_tree(
    files: Files, root_fd: int, inventory: Inventory, plan: Plan, path: str, *, tracker: Tracker | None = None
) -> Staged:
    """Return the new tree, made at `path`, durable and proven to be the old one with exactly the plan's changes.

    Args:
        files: The door to the file system.
        root_fd: The live tree's root, open.
        inventory: The live tree.
        plan: What changes.
        path: Where nothing is yet, on the same file system.
        tracker: Told how many paths are staged.

    Raises:
        ApplyRefusedError: ``agent.apply.ownership``, ``agent.apply.attributes``, ``agent.apply.staged``.
        ApplyFailedError: ``agent.apply.io`` or what `explain` tells; what was made so far is left for the caller to remove.
    """
    tracker = Tracker() if tracker is None else tracker
    try:
        root = entry_of(os.fstat(root_fd))
        files.make_directory(path)
        # As long as nobody else may enter it, a name in it is what it was a moment ago.
        with opened_private(path) as stage_fd:
            _Stage(files, root_fd, stage_fd, inventory, plan, root=root, tracker=tracker).build()
            tracker.begin(STEP_APPLY, "making the new tree durable")
            files.sync_filesystem(stage_fd, path)
            tracker.begin(STEP_APPLY, "proving the new tree")
            tree_digest = _prove(stage_fd, root, inventory, plan)
            return Staged(path, os.fstat(stage_fd).st_ino, tree_digest)
    except OSError as error:
        raise explain(error, "the new tree cannot be made") from error


class _Stage:
    """The making of one staged tree."""

    def __init__(
        self,
        files: Files,
        root_fd: int,
        stage_fd: int,
        inventory: Inventory,
        plan: Plan,
        *,
        root: Entry,
        tracker: Tracker,
    ) -> None:
        self._files = files
        self._root = root
        self._tracker = tracker
        self._root_fd = root_fd
        self._stage_fd = stage_fd
        self._inventory = inventory
        self._changes = {change.path: change for change in plan.changes}
        self._emptied = frozenset(emptied_directories(plan, inventory))

    def build(self) -> None:
        """Make every directory, link every unchanged file, write every changed one, then give the directories their status."""
        directories: dict[bytes, Entry] = {}
        added = sum(
            change.post is not None and change.path not in self._inventory.entries for change in self._changes.values()
        )
        self._tracker.begin(STEP_APPLY, "staging the new tree", len(self._inventory.entries) + added, PATHS)
        for path, entry in self._inventory.entries.items():
            if path not in self._changes:
                self._tracker.advance()
            if path in self._emptied:
                continue
            if entry.is_directory:
                self._files.make_directory(path, dir_fd=self._stage_fd)
                directories[path] = entry
            elif path not in self._changes:
                self._files.link(path, source_fd=self._root_fd, destination_fd=self._stage_fd)
        for change in self._changes.values():
            if change.post is not None:
                self._write(change, directories)
            self._tracker.advance()
        touched = {os.path.dirname(path) for path in self._changes}
        for path, entry in reversed(directories.items()):
            self._give_status(path, entry, keep_times=path not in touched)
        self._give_status(b".", self._root, keep_times=b"" not in touched)

    def _write(self, change: PlannedChange, directories: dict[bytes, Entry]) -> None:
        parent = self._make_parents(change.path, directories)
        make_file(
            self._files,
            change.path,
            change,
            directory_fd=self._stage_fd,
            root_fd=self._root_fd,
            source=None if change.inherits is None else self._inventory.entries[change.inherits],
            parent=parent,
            sync=False,
        )

    def _make_parents(self, path: bytes, directories: dict[bytes, Entry]) -> Entry:
        """Return the entry of the directory that `path` goes into, made like its own parent when it was not there."""
        directory = os.path.dirname(path)
        if not directory:
            return self._root
        known = directories.get(directory)
        if known is not None:
            return known
        parent = self._make_parents(directory, directories)
        self._files.make_directory(directory, dir_fd=self._stage_fd)
        directories[directory] = parent
        return parent

    def _give_status(self, path: bytes, entry: Entry, *, keep_times: bool) -> None:
        descriptor = os.open(path, DIRECTORY_FLAGS, dir_fd=self._stage_fd)
        try:
            own_open(self._files, descriptor, entry, path)
            if path in self._inventory.entries or path == b".":
                copy_attributes(self._files, self._root_fd, path, entry, descriptor)
                if is_unchangeable(self._root_fd, path):
                    # Since the decision, or it would have been refused there.
                    raise immutable("a directory that would be made anew", path)
            else:
                self._inherit_access_lists(path, descriptor)
            own_mode(self._files, descriptor, stat.S_IMODE(entry.mode), path)
        finally:
            os.close(descriptor)
        if keep_times:
            self._files.change_times(path, entry.modified_ns, entry.modified_ns, dir_fd=self._stage_fd)

    def _inherit_access_lists(self, path: bytes, descriptor: int) -> None:
        """Give a new directory the access lists of the lowest one above it that is in the live tree, and stays."""
        above = os.path.dirname(path)
        while above and (above not in self._inventory.entries or above in self._emptied):
            above = os.path.dirname(above)
        above_fd = open_part(self._root_fd, above)
        try:
            copy_access_lists(self._files, above_fd, descriptor, path)
        finally:
            os.close(above_fd)


def _prove(stage_fd: int, root: Entry, inventory: Inventory, plan: Plan) -> Digest:
    """Return the digest of the staged tree, which holds exactly the old tree's files with the plan's changes.

    Unchanged files are proven by being the same inode; changed ones are read back; directories have owner and mode of the old ones.

    Args:
        stage_fd: The staged tree's root.
        root: The live one's.
        inventory: The live tree.
        plan: What changes.
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
    _prove_directories({b"": entry_of(os.fstat(stage_fd)), **entries}, {b"": root, **inventory.entries})
    staged = complete_inventory(stage_fd, entries, taken_ns, known)
    for path, change in changes.items():
        if change.post is None:
            continue
        if staged.digests[path] != blob_digest(change.post.content) or entries[path].git_mode != change.post.mode:
            raise _unproven("a changed file does not read back as it was written", path)
    return staged.tree_digest


def _prove_directories(staged: Mapping[bytes, Entry], live: Mapping[bytes, Entry]) -> None:
    """Refuse a directory that is another than the live one, or of a new one than the lowest live one above; "" is the root."""
    for path, entry in staged.items():
        if not entry.is_directory:
            continue
        like = path
        while like not in live or not live[like].is_directory:
            like = os.path.dirname(like)
        before = live[like]
        if (entry.mode, entry.owner, entry.group) != (before.mode, before.owner, before.group):
            raise _unproven("a directory has another owner or other permissions", path or b".")


def _unproven(sentence: str, path: bytes) -> ApplyRefusedError:
    return ApplyRefusedError(
        "agent.apply.staged", f"the staged tree is not what it must be: {sentence}", actual=os.fsdecode(path)
    )
