"""The part of a tree that one application exchanges: the lowest directory in which everything happens, or in a small tree the whole.

A large tree that changes in one corner need not be made anew: exchanging the corner is the same one step. What the plan touches, and what
it takes attributes from, lies in it; the directory itself stays what it is.

Source: docs/spec/agent.md 6.2.
"""

from __future__ import annotations

import os
from dataclasses import replace

from agent.files import DIRECTORY_FLAGS, is_missing
from agent.inventory import Entry, Inventory
from agent.limits import PART_ENTRIES_MIN
from agent.plan import Plan, emptied_directories
from provenance.tree_digest import tree_digest


def find_part(plan: Plan, inventory: Inventory) -> bytes:
    """Return the directory that is exchanged, relative to the root; empty for the root itself."""
    if len(inventory.entries) < PART_ENTRIES_MIN:
        return b""
    paths = [change.path for change in plan.changes]
    paths += [change.inherits for change in plan.changes if change.inherits is not None]
    common = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else b""
    emptied = set(emptied_directories(plan, inventory))
    while common and (common in emptied or not _may_move(common, inventory)):
        common = os.path.dirname(common)
    return common


def cut_part(plan: Plan, inventory: Inventory, part: bytes) -> tuple[Plan, Inventory]:
    """Return the plan and the inventory with every path relative to `part`, of which alone they tell."""
    if not part:
        return plan, inventory
    prefix = part + b"/"
    start = len(prefix)
    changes = tuple(
        replace(change, path=change.path[start:], inherits=None if change.inherits is None else change.inherits[start:])
        for change in plan.changes
    )
    images = {path[start:]: image for path, image in plan.pre_images.items() if path.startswith(prefix)}
    entries = {path[start:]: entry for path, entry in inventory.entries.items() if path.startswith(prefix)}
    digests = {path[start:]: digest for path, digest in inventory.digests.items() if path.startswith(prefix)}
    files = {path: (entries[path].git_mode, digest) for path, digest in digests.items()}
    cut = Inventory(entries, digests, tree_digest(files), inventory.taken_ns)
    return replace(plan, changes=changes, pre_images=images), cut


def open_part(root_fd: int, part: bytes) -> int:
    """Return a descriptor of a directory below an open root, never through a link; the caller closes it. Raises OSError."""
    descriptor = os.open(".", DIRECTORY_FLAGS, dir_fd=root_fd)
    for name in part.split(b"/") if part else ():
        try:
            below = os.open(name, DIRECTORY_FLAGS, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def open_lowest(root_fd: int, directory: bytes) -> int:
    """Return a descriptor of the lowest directory on the way to `directory`, itself included, that is there; never through a link.

    The caller closes it. Raises OSError.
    """
    while directory:
        try:
            return open_part(root_fd, directory)
        except OSError as error:
            if not is_missing(error):
                raise
        directory = os.path.dirname(directory)
    return open_part(root_fd, b"")


def _may_move(directory: bytes, inventory: Inventory) -> bool:
    """Return whether the directory is there, and the agent may give its place to another one."""
    entry = inventory.entries.get(directory)
    above = inventory.entries.get(os.path.dirname(directory))
    return entry is not None and entry.is_directory and _is_own(entry) and (above is None or _is_own(above))


def _is_own(entry: Entry) -> bool:
    return os.geteuid() in (0, entry.owner)
