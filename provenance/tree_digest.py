"""Git's object ids with SHA-256, computed from contents alone: the digest of a target's tree, which an auditor recomputes with git.

``git init --object-format=sha256``, ``git add -A``, ``git write-tree`` over the same files gives the same id (in-toto's `gitTree`).
Directories that hold no file do not exist for git, and not here. Nothing here reads a file: the caller hashes contents.

Source: docs/spec/patch-file.md 8; git's `hash-function-transition` document; in-toto's digest set, `gitTree`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from provenance.diff_model import MODE_LINK
from provenance.errors import InvalidMetadataError
from provenance.limits import TREE_DEPTH_MAX
from wire.hashing import DIGEST_BYTES, Digest

MODE_DIRECTORY: Final = 0o040000
_MODES: Final = frozenset({0o100644, 0o100755, MODE_LINK, MODE_DIRECTORY})
"""Submodules (160000) name a commit in another repository: their content is not here to be digested."""


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One name in one directory."""

    name: bytes
    """A single path component."""
    mode: int
    """100644, 100755, 120000 (a link) or 040000 (a directory), octal."""
    digest: Digest
    """`blob_digest` of the content, of the link's target, or `tree_digest` of the directory; 32 bytes."""


def blob_header(size: int) -> bytes:
    """Return what git hashes before a content of `size` bytes, for callers that stream the content into SHA-256."""
    return b"blob %d\0" % size


def blob_digest(content: bytes) -> Digest:
    """Return the id of a content: SHA-256 of `blob_header` and the bytes."""
    return Digest(hashlib.sha256(blob_header(len(content)) + content).digest())


def directory_digest(entries: Iterable[TreeEntry]) -> Digest:
    """Return the id of one directory from its entries, in any order.

    Raises:
        InvalidMetadataError: ``provenance.tree.name``, ``provenance.tree.mode``, ``provenance.tree.digest``, ``provenance.tree.duplicate``.
    """
    items: list[tuple[bytes, bytes]] = []
    names: set[bytes] = set()
    for entry in entries:
        _check_entry(entry)
        if entry.name in names:
            raise InvalidMetadataError("provenance.tree.duplicate", "a directory has one name twice", actual=entry.name)
        names.add(entry.name)
        # Git sorts a directory as if its name ended with a slash, and writes modes without leading zeros.
        key = entry.name + b"/" if entry.mode == MODE_DIRECTORY else entry.name
        items.append((key, b"%o %s\0%s" % (entry.mode, entry.name, entry.digest)))
    items.sort()
    listing = b"".join(item for _, item in items)
    return Digest(hashlib.sha256(b"tree %d\0" % len(listing) + listing).digest())


def tree_digest(files: Mapping[bytes, tuple[int, Digest]]) -> Digest:
    """Return the id of a whole tree.

    Args:
        files: By path relative to the root, `/` between components: mode (100644, 100755 or 120000) and `blob_digest`.

    Raises:
        InvalidMetadataError: As `directory_digest`, and ``provenance.tree.depth`` below `TREE_DEPTH_MAX` directories.
    """
    root: dict[bytes, _Node] = {}
    for path, leaf in files.items():
        if leaf[0] == MODE_DIRECTORY:
            raise InvalidMetadataError(
                "provenance.tree.mode", "a path of a tree names a directory, not a file", actual=path
            )
        *directories, name = path.split(b"/")
        if len(directories) > TREE_DEPTH_MAX:
            raise InvalidMetadataError(
                "provenance.tree.depth", "a tree is nested too deep", expected=TREE_DEPTH_MAX, actual=len(directories)
            )
        node = root
        for directory in directories:
            child = node.setdefault(directory, {})
            if not isinstance(child, dict):
                raise InvalidMetadataError("provenance.tree.duplicate", "a path is a file and a directory", actual=path)
            node = child
        if name in node:
            raise InvalidMetadataError("provenance.tree.duplicate", "a path is a file and a directory", actual=path)
        node[name] = leaf
    return _node_digest(root)


_Node = dict[bytes, "_Node"] | tuple[int, Digest]


def _node_digest(directory: dict[bytes, _Node]) -> Digest:
    return directory_digest(
        TreeEntry(name, MODE_DIRECTORY, _node_digest(node)) if isinstance(node, dict) else TreeEntry(name, *node)
        for name, node in directory.items()
    )


def _check_entry(entry: TreeEntry) -> None:
    if entry.name in (b"", b".", b"..") or b"/" in entry.name or b"\0" in entry.name:
        raise InvalidMetadataError(
            "provenance.tree.name", "a name in a tree is not a single path component", actual=entry.name
        )
    if entry.mode not in _MODES:
        raise InvalidMetadataError(
            "provenance.tree.mode",
            "a file in a tree has another mode",
            expected="100644, 100755, 120000",
            actual=f"{entry.mode:o}",
        )
    if len(entry.digest) != DIGEST_BYTES:
        raise InvalidMetadataError(
            "provenance.tree.digest",
            "a digest in a tree has the wrong length",
            expected=DIGEST_BYTES,
            actual=len(entry.digest),
        )
