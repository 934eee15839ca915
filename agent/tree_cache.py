"""What a target's tree was when it was last read, so that reading it again costs one status of every name and nothing more.

::

    carry     after the agent itself has linked or unlinked files: the same, for one directory, and links are no change
    scan      one lstat of everything; only what changed is read and hashed; with `full`, everything is read
    refresh   one lstat of the paths asked for and of their directories; the rest is as the last scan found it
    save      to the disk, so that the first scan after a restart is a cheap one, too

A digest is taken over only when the whole status is as it was, with device, inode and ctime, and when that ctime was *settled* at the
reading: a file may change again within one tick of the file system's clock without its status showing it (git calls such files racy).
What is younger than that is read again by the next scan. A file that is changed through a mapping, or below the file system, shows no new
ctime at all: only a full scan sees it.

On the disk (integers big-endian)::

    patchwarden-tree-cache-1 LF
    time of the reading i64, number of entries u32, tree digest 32 bytes
    each entry: mode u32, inode u64, device u64, links u32, owner u32, group u32, size u64, mtime i64, ctime i64, digest 32 bytes
    each path, in the same order: bytes NUL
    SHA-256 of all that, 32 bytes

It is a cache: one that is absent, too large or damaged means that everything is read, never that something is believed.

Source: docs/spec/agent.md 3.3 and 5.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from agent.files import Files, is_missing
from agent.inventory import (
    SETTLED_NS,
    Entry,
    Inventory,
    entry_of,
    is_git_internal,
    read_digest,
    scan_tree,
    unreadable,
)
from agent.limits import TREE_CACHE_BYTES_MAX, TREE_ENTRIES_MAX
from agent.part import open_part
from provenance.tree_digest import MODE_DIRECTORY, TreeEntry, directory_digest
from wire.hashing import DIGEST_BYTES, Digest, sha256

_MAGIC: Final = b"patchwarden-tree-cache-1\n"
_HEAD: Final = struct.Struct(">qI32s")
_RECORD: Final = struct.Struct(">IQQIIIQqq32s")
_NO_DIGEST: Final = bytes(DIGEST_BYTES)
"""Of directories, and of what is no content."""

GitFile = tuple[int, Digest]
"""Git mode and blob id of a file."""


class TreeDigests:
    """The git tree id of a set of files, directory by directory: a change costs the directories on its way, not the tree.

    Args:
        files: Git mode and `blob_digest` by path.
    """

    def __init__(self, files: Mapping[bytes, GitFile]) -> None:
        self._children: dict[bytes, dict[bytes, GitFile]] = {b"": {}}
        self.root = directory_digest(())
        """Git tree id (SHA-256), 32 bytes."""
        self.change(files)

    def change(self, changes: Mapping[bytes, GitFile | None]) -> Digest:
        """Return the tree id after these paths have become these files, or None of them.

        Raises:
            InvalidMetadataError: ``provenance.tree.*``.
        """
        touched: set[bytes] = set()
        for path, file in changes.items():
            directory, _, name = path.rpartition(b"/")
            children = self._children.setdefault(directory, {})
            if file is None:
                children.pop(name, None)
            else:
                children[name] = file
            touched.add(directory)
        by_depth: dict[int, set[bytes]] = {}
        for directory in touched:
            by_depth.setdefault(_depth(directory), set()).add(directory)
        for depth in range(max(by_depth, default=-1), -1, -1):
            for directory in by_depth.get(depth, ()):
                self._settle(directory, by_depth)
        return self.root

    def preview(self, changes: Mapping[bytes, GitFile | None]) -> Digest:
        """Return what the tree id would be after these changes; nothing is changed."""
        before = {path: self._file(path) for path in changes}
        try:
            return self.change(changes)
        finally:
            self.change(before)

    def _file(self, path: bytes) -> GitFile | None:
        directory, _, name = path.rpartition(b"/")
        return self._children.get(directory, {}).get(name)

    def _settle(self, directory: bytes, by_depth: dict[int, set[bytes]]) -> None:
        """Compute one directory, whose subdirectories are computed, and note it in the one above; git knows no empty ones."""
        children = self._children[directory]
        digest = directory_digest(TreeEntry(name, mode, digest) for name, (mode, digest) in children.items())
        if not directory:
            self.root = digest
            return
        above, _, name = directory.rpartition(b"/")
        siblings = self._children.setdefault(above, {})
        if children:
            siblings[name] = (MODE_DIRECTORY, digest)
        else:
            if name in siblings and siblings[name][0] == MODE_DIRECTORY:
                del siblings[name]
            del self._children[directory]
        by_depth.setdefault(_depth(above), set()).add(above)


class TreeCache:
    """The last reading of one target's tree. The caller holds the target's lock around every call.

    Args:
        files: The door to the file system.
        path: Where `save` keeps it.
        omit: A name in the root that is the agent's own, or None.
        now_ns: The clock that stamps ctimes, the kernel's own: nanoseconds since the epoch.
        read: Called for each file that is read.
    """

    def __init__(
        self,
        files: Files,
        path: str,
        omit: bytes | None = None,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        read: Callable[[], None] = lambda: None,
    ) -> None:
        self._files = files
        self._read = read
        self._path = path
        self._omit = omit
        self._now_ns = now_ns
        self._inventory: Inventory | None = None
        self._digests: TreeDigests | None = None
        self._carried: frozenset[bytes] = frozenset()
        self._is_loaded = False
        self._is_saved = False

    def last(self) -> Inventory | None:
        """Return the last reading, from the disk when this process has made none, or None."""
        if self._inventory is None and not self._is_loaded:
            self._is_loaded = True
            self._inventory = read_cache(self._path)
            self._is_saved = self._inventory is not None
        return self._inventory

    def scan(self, root_fd: int, *, full: bool = False) -> Inventory:
        """Return the tree as it is now; files that are as the last reading found them are not read again, unless `full`.

        Raises:
            TargetRefusedError: As `scan_tree`.
            ApplyFailedError: ``agent.target.unreadable``, ``agent.target.changing``.
        """
        known = None if full else self.last()
        taken_ns = self._now_ns()
        entries = scan_tree(root_fd, None if known is None else known.entries, omit=self._omit)
        if known is None:
            return self._keep_all(entries, self._read_all(root_fd, entries), taken_ns)
        settled = known.taken_ns - SETTLED_NS
        if entries == known.entries and all(entry.changed_ns < settled for entry in entries.values()):
            self._inventory = Inventory(known.entries, known.digests, known.tree_digest, taken_ns)
            return self._inventory
        digests = dict(known.digests)
        changes: dict[bytes, GitFile | None] = dict.fromkeys(known.digests.keys() - entries.keys())
        for path, entry in entries.items():
            before = known.entries.get(path)
            is_young = entry.changed_ns >= settled and path not in self._carried
            if before is entry and not is_young:
                continue
            digest = known.digests.get(path)
            if entry.is_directory or is_git_internal(path):
                if digest is not None:
                    changes[path] = None
                continue
            if before is None or digest is None or before != entry or is_young:
                digests[path] = self._read_digest(root_fd, path, entry)
                if before is None or digests[path] != digest or before.git_mode != entry.git_mode:
                    changes[path] = (entry.git_mode, digests[path])
        for path, file in changes.items():
            if file is None:
                del digests[path]
        return self._keep(known, Inventory(entries, digests, known.tree_digest, taken_ns), changes)

    def refresh(self, root_fd: int, paths: Iterable[bytes], *, age_s_max: float) -> Inventory:
        """Return the tree with these paths as they are now and the rest as the last scan found it; a whole scan where that is not enough.

        Directories on the way must be the ones of the last scan: when one of them was made, replaced or removed since, or when there was no
        scan, the whole tree is scanned.

        Args:
            root_fd: The root directory.
            paths: What to look at, relative to the root.
            age_s_max: How long ago the last whole scan may be, seconds.

        Raises:
            TargetRefusedError: As `scan_tree`.
            ApplyFailedError: ``agent.target.unreadable``, ``agent.target.changing``.
        """
        known = self.last()
        if known is None or not 0 <= self._now_ns() - known.taken_ns <= age_s_max * 1e9:
            return self.scan(root_fd)
        wanted = frozenset(paths)
        directories = {parent for path in wanted for parent in _parents(path)}
        found: dict[bytes, Entry | None] = {}
        for directory in sorted(directories):
            found[directory] = _status(root_fd, directory)
            if not _is_same_directory(found[directory], known.entries.get(directory)):
                return self.scan(root_fd)
        for path in wanted:
            entry = found[path] = _status(root_fd, path)
            before = known.entries.get(path)
            if any(each is not None and not (each.is_file or each.is_link) for each in (entry, before)):
                return self.scan(root_fd)
        settled = known.taken_ns - SETTLED_NS
        entries, digests = dict(known.entries), dict(known.digests)
        changes: dict[bytes, GitFile | None] = {}
        for path, entry in found.items():
            if entry is None:
                if entries.pop(path, None) is not None and path in wanted:
                    digests.pop(path, None)
                    changes[path] = None
                continue
            before = known.entries.get(path)
            entries[path] = entry
            if path not in wanted or is_git_internal(path):
                continue
            if before != entry or entry.changed_ns >= settled or path not in digests:
                digests[path] = self._read_digest(root_fd, path, entry)
                changes[path] = (entry.git_mode, digests[path])
        return self._keep(known, Inventory(entries, digests, known.tree_digest, known.taken_ns), changes)

    def carry(self, root_fd: int, part: bytes) -> Inventory:
        """Return the tree after the agent itself has made, or removed, second names of the files below the directory `part`.

        Only that directory is scanned. Names move a file's ctime, so here a file keeps its digest when nothing but link count and ctime
        differ. Whoever writes to it later moves its mtime, too; a forger of times in these moments is left to the next full reading.

        Raises:
            TargetRefusedError: As `scan_tree`.
            ApplyFailedError: ``agent.target.unreadable``, ``agent.target.changing``.
        """
        known = self.last()
        if known is None:
            return self.scan(root_fd)
        try:
            part_fd = open_part(root_fd, part)
        except OSError as error:
            raise unreadable(part or b".", error) from error
        try:
            found = scan_tree(part_fd, omit=None if part else self._omit)
        finally:
            os.close(part_fd)
        prefix = part + b"/" if part else b""
        settled = known.taken_ns - SETTLED_NS
        entries = {path: entry for path, entry in known.entries.items() if not path.startswith(prefix)}
        digests = {path: digest for path, digest in known.digests.items() if not path.startswith(prefix)}
        changes: dict[bytes, GitFile | None] = {}
        carried: set[bytes] = set()
        for name, entry in found.items():
            path = prefix + name
            entries[path] = entry
            if entry.is_directory or is_git_internal(path):
                continue
            before, digest = known.entries.get(path), known.digests.get(path)
            is_settled = before is not None and (before.changed_ns < settled or path in self._carried)
            if before is not None and digest is not None and is_settled and entry.is_same_state(before):
                digests[path] = digest
                carried.add(path)
                continue
            digests[path] = self._read_digest(root_fd, path, entry)
            if before is None or digests[path] != digest or before.git_mode != entry.git_mode:
                changes[path] = (entry.git_mode, digests[path])
        changes |= dict.fromkeys(known.digests.keys() - digests.keys())
        if part:
            entries[part] = _status(root_fd, part) or known.entries[part]
        inventory = self._keep(known, Inventory(entries, digests, known.tree_digest, known.taken_ns), changes)
        self._carried = frozenset(carried)
        return inventory

    def follow(self, inventory: Inventory, changes: Mapping[bytes, GitFile | None], *, linked: bool) -> Inventory:
        """Return the tree after the agent itself has put another one in its place that it has proven; nothing is looked at again.

        Args:
            inventory: Its entries and digests.
            changes: In which files it differs from the last reading; None for removed ones.
            linked: Whether the agent has made or removed second names of other files: then these keep their digests as in `carry`.
        """
        known = self.last()
        assert known is not None, "what was decided on was read"
        settled = known.taken_ns - SETTLED_NS
        carried: set[bytes] = set()
        for path, entry in inventory.entries.items() if linked else ():
            before = known.entries.get(path)
            if before is not None and before is not entry and path not in changes and entry.is_same_state(before):
                if before.changed_ns < settled or path in self._carried:
                    carried.add(path)
        now = self._keep(known, replace(inventory, taken_ns=known.taken_ns), changes)
        self._carried = frozenset(carried)
        return now

    def preview(self, changes: Mapping[bytes, GitFile | None]) -> Digest:
        """Return what the last reading's tree digest would be after these changes; nothing is changed."""
        return self._tree_digests().preview(changes)

    def save(self) -> None:
        """Make the last reading durable, when it is another than the one on the disk. Raises OSError."""
        if self._inventory is None or self._is_saved:
            return
        data = encode_cache(self._inventory)
        if len(data) <= TREE_CACHE_BYTES_MAX:
            self._files.replace(self._path, data)
        self._is_saved = True

    def forget(self) -> None:
        """Read everything again the next time; the tree has become another by other hands than those that were watched."""
        self._inventory, self._digests, self._is_loaded = None, None, True

    def _read_all(self, root_fd: int, entries: Mapping[bytes, Entry]) -> dict[bytes, Digest]:
        return {
            path: self._read_digest(root_fd, path, entry)
            for path, entry in entries.items()
            if not (entry.is_directory or is_git_internal(path))
        }

    def _read_digest(self, root_fd: int, path: bytes, entry: Entry) -> Digest:
        digest = read_digest(root_fd, path, entry)
        self._read()
        return digest

    def _tree_digests(self) -> TreeDigests:
        known = self.last()
        assert known is not None, "something was read before"
        if self._digests is None:
            self._digests = TreeDigests(_git_files(known.entries, known.digests))
        return self._digests

    def _keep(self, known: Inventory, now: Inventory, changes: Mapping[bytes, GitFile | None]) -> Inventory:
        """Return `now`, which is `known` with these changes, with its tree digest, and remember it."""
        digest = self._tree_digests().change(changes) if changes else known.tree_digest
        self._inventory, self._is_saved, self._carried = replace(now, tree_digest=digest), False, frozenset()
        return self._inventory

    def _keep_all(self, entries: Mapping[bytes, Entry], digests: Mapping[bytes, Digest], taken_ns: int) -> Inventory:
        """Return what was read from nothing, and remember it."""
        self._digests = TreeDigests(_git_files(entries, digests))
        self._inventory = Inventory(entries, digests, self._digests.root, taken_ns)
        self._is_loaded, self._is_saved, self._carried = True, False, frozenset()
        return self._inventory


def encode_cache(inventory: Inventory) -> bytes:
    """Return the file that keeps a reading."""
    entries, digests = inventory.entries, inventory.digests
    body = b"".join(
        (
            _MAGIC,
            _HEAD.pack(inventory.taken_ns, len(entries), inventory.tree_digest),
            *(_RECORD.pack(*entry, digests.get(path, _NO_DIGEST)) for path, entry in entries.items()),
            *(path + b"\0" for path in entries),
        )
    )
    return body + sha256(body)


def read_cache(path: str) -> Inventory | None:
    """Return the reading that `encode_cache` wrote, or None when there is no such file, or it is not what was written."""
    try:
        with open(path, "rb") as file:
            data = file.read(TREE_CACHE_BYTES_MAX + 1)
    except OSError:
        return None
    body = data[:-DIGEST_BYTES]
    if not data.startswith(_MAGIC) or len(data) > TREE_CACHE_BYTES_MAX or sha256(body) != data[-DIGEST_BYTES:]:
        return None
    begin = len(_MAGIC) + _HEAD.size
    if len(body) < begin:
        return None
    taken_ns, count, digest = _HEAD.unpack_from(body, len(_MAGIC))
    end = begin + count * _RECORD.size
    paths = body[end:].split(b"\0")
    if count > TREE_ENTRIES_MAX or len(body) < end or len(paths) != count + 1 or len(set(paths)) != count + 1:
        return None
    entries: dict[bytes, Entry] = {}
    digests: dict[bytes, Digest] = {}
    for name, record in zip(paths, _RECORD.iter_unpack(body[begin:end]), strict=False):
        entries[name] = Entry._make(record[:-1])
        if record[-1] != _NO_DIGEST:
            digests[name] = Digest(record[-1])
    return Inventory(entries, digests, Digest(digest), taken_ns)


def _git_files(entries: Mapping[bytes, Entry], digests: Mapping[bytes, Digest]) -> dict[bytes, GitFile]:
    return {path: (entries[path].git_mode, digest) for path, digest in digests.items()}


def _status(root_fd: int, path: bytes) -> Entry | None:
    try:
        return entry_of(os.lstat(path, dir_fd=root_fd))
    except OSError as error:
        if is_missing(error):
            return None
        raise unreadable(path, error) from error


def _is_same_directory(now: Entry | None, before: Entry | None) -> bool:
    if now is None or before is None:
        return now is before
    return now.is_directory and before.is_directory and (now.device, now.inode) == (before.device, before.inode)


def _parents(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(1, len(parts))]


def _depth(directory: bytes) -> int:
    return 0 if not directory else directory.count(b"/") + 1
