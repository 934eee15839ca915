"""The recorded files of a target's tree, so that a drift can be told path by path.

::

    patchwarden-manifest-1 LF
    MODE SP DIGEST TAB PATH NUL …      as git ls-tree -z tells a tree: octal mode, blob id in hexadecimal, path as bytes; sorted
    SHA-256 of all that, 64 hexadecimal digits, LF

Beside it stands ``manifest.changes``, a log of ``{"files": [[path, mode, digest], ...]}`` for each application in place since; mode 0 and
no digest for a file that went. A tree of many files would take longer to write down than to patch.

Paths are bytes that need not be text, hence no JSON. Only explanations depend on this file: that a tree has drifted, the tree digest in the
target's state says. A manifest that is absent, damaged or of another tree therefore only means that paths cannot be named.

Source: docs/spec/agent.md 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from agent.errors import StateCorruptError
from agent.files import Files, is_there
from agent.inventory import Inventory
from agent.limits import MANIFEST_CHANGED_PATHS_MAX, MANIFEST_CHANGES_MAX, STATE_FILE_BYTES_MAX
from agent.record_log import RecordLog, read_records
from provenance.tree_digest import tree_digest
from wire.hashing import Digest, sha256

_HEADER: Final = b"patchwarden-manifest-1\n"
_RECORD: Final = re.compile(rb"([0-7]{6}) ([0-9a-f]{64})\t([^\0]+)\0")
_CHECK_BYTES: Final = 65
CHANGES_SUFFIX: Final = ".changes"
"""Of the log beside a manifest: what applications in place have changed since it was written."""


def write_manifest(files: Files, path: str, inventory: Inventory) -> None:
    """Make `path` name every file of the inventory, durably. Raises OSError."""
    records = (
        b"%06o %s\t%s\0" % (inventory.entries[name].git_mode, digest.hex().encode(), name)
        for name, digest in sorted(inventory.digests.items())
    )
    body = _HEADER + b"".join(records)
    # Changes on top of an older manifest name nothing of a newer one.
    if is_there(path + CHANGES_SUFFIX):
        files.unlink(path + CHANGES_SUFFIX)
    files.replace(path, body + sha256(body).hex().encode() + b"\n")


def append_manifest(files: Files, path: str, inventory: Inventory, changed: Iterable[str]) -> None:
    """Make the manifest at `path` name the inventory's files, of which only `changed` differ from what it names, durably. Raises OSError.

    Cheap for a large tree: the changes stand beside the manifest, until they are many.
    """
    record = [
        [path, inventory.entries[path.encode()].git_mode, inventory.digests[path.encode()].hex()]
        if path.encode() in inventory.digests
        else [path, 0, ""]
        for path in changed
    ]
    if len(record) > MANIFEST_CHANGED_PATHS_MAX:
        write_manifest(files, path, inventory)
        return
    beside = path + CHANGES_SUFFIX
    try:
        log = RecordLog(files, beside)
    except StateCorruptError:
        write_manifest(files, path, inventory)
        return
    try:
        if log.lines < MANIFEST_CHANGES_MAX:
            log.append({"files": record})
            return
    finally:
        log.close()
    write_manifest(files, path, inventory)


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
    try:
        for record in read_records(path + CHANGES_SUFFIX):
            for name, mode, digest in record["files"]:
                raw = name.encode()
                if digest:
                    found[raw] = (int(mode), Digest(bytes.fromhex(digest)))
                else:
                    found.pop(raw, None)
    except (StateCorruptError, AttributeError, KeyError, TypeError, ValueError):
        return None
    return found if tree_digest(found) == expected else None
