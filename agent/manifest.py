"""The recorded files of a target's tree, so that a drift can be told path by path.

::

    patchwarden-manifest-1 LF
    MODE SP DIGEST TAB PATH NUL …      as git ls-tree -z tells a tree: octal mode, blob id in hexadecimal, path as bytes; sorted
    SHA-256 of all that, 64 hexadecimal digits, LF

Paths are bytes that need not be text, hence no JSON. Only explanations depend on this file: that a tree has drifted, the tree digest in the
target's state says. A manifest that is absent, damaged or of another tree therefore only means that paths cannot be named.

Source: docs/spec/agent.md 5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from agent.files import Files
from agent.inventory import Inventory
from agent.limits import STATE_FILE_BYTES_MAX
from provenance.tree_digest import tree_digest
from wire.hashing import Digest, sha256

_HEADER: Final = b"patchwarden-manifest-1\n"
_RECORD: Final = re.compile(rb"([0-7]{6}) ([0-9a-f]{64})\t([^\0]+)\0")
_CHECK_BYTES: Final = 65


def write_manifest(files: Files, path: str, inventory: Inventory) -> None:
    """Make `path` name every file of the inventory, durably. Raises OSError."""
    records = (
        b"%06o %s\t%s\0" % (inventory.entries[name].git_mode, digest.hex().encode(), name)
        for name, digest in sorted(inventory.digests.items())
    )
    body = _HEADER + b"".join(records)
    files.replace(path, body + sha256(body).hex().encode() + b"\n")


def read_manifest(path: str, expected: Digest) -> Mapping[bytes, tuple[int, Digest]] | None:
    """Return (git mode, digest) by path of the tree with digest `expected`, or None when this file does not tell it."""
    try:
        with open(path, "rb") as file:
            data = file.read(STATE_FILE_BYTES_MAX)
    except OSError:
        return None
    body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if not body.startswith(_HEADER) or check != sha256(body).hex().encode() + b"\n":
        return None
    found = {
        match[3]: (int(match[1], 8), Digest(bytes.fromhex(match[2].decode())))
        for match in _RECORD.finditer(body, len(_HEADER))
    }
    return found if tree_digest(found) == expected else None
