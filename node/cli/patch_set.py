"""A series as a directory: exact diffs in their order and `set.json`, which says what belongs to each; signed, a set with prerequisites."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from node.cli.errors import CommandError, FileError
from node.cli.files import read_file, write_file
from provenance.limits import DESCRIPTION_BYTES_MAX
from wire.limits import PATCH_FILE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provenance.import_series import Imported
    from provenance.imports import ForeignMetadata

SET_FILE: Final = "set.json"
SET_BYTES_MAX: Final = 64 * 1024 * 1024
SET_FORMAT: Final = "patchwarden-set-1"
_NAME: Final = re.compile(r"[0-9]{4,5}-[A-Za-z0-9.-]{1,64}\.diff")
_WORDS_MAX: Final = 52


@dataclass(frozen=True, slots=True)
class SetEntry:
    """One patch of a set, ready to sign."""

    file: str
    """Name of the diff in the set's directory."""
    category: str
    """The importer's guess, or what the author has put in its place."""


def diff_name(number: int, title: str) -> str:
    """Return the file name of a patch of a set, in `git format-patch`'s way: `0003-check-the-length.diff`."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-")[:_WORDS_MAX].strip("-")
    return f"{number:04}-{words or 'patch'}.diff"


def patch_name(name: str) -> str:
    """Return the file name of a signed patch of a set."""
    return name.removesuffix(".diff") + ".patch"


def make_directory(path: Path) -> None:
    """Make a directory to write a set in.

    Raises:
        FileError: ``cli.file.exists``: it is there and holds something; ``cli.file.unwritable``.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise FileError(
                "cli.file.exists", f"{path} is not empty", hint="choose another name for the output, or empty it"
            )
    except OSError as error:
        raise FileError("cli.file.unwritable", f"{path} cannot be made a directory: {error.strerror}") from error


def write_set(directory: Path, patches: Sequence[Imported]) -> list[dict[str, Any]]:
    """Write the exact diffs of a series with their headers, then `set.json`; return the entries of the latter.

    Raises:
        FileError: ``cli.file.*``.
    """
    make_directory(directory)
    entries: list[dict[str, Any]] = []
    for number, each in enumerate(patches, 1):
        name = diff_name(number, each.foreign.metadata.title or each.name)
        write_file(directory / name, header_of(each.foreign.metadata) + each.diff.raw)
        entries.append({"file": name, **describe(each)})
    document = {"format": SET_FORMAT, "patches": entries}
    write_file(directory / SET_FILE, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
    return entries


def read_set(directory: Path) -> list[SetEntry]:
    """Return the patches of a set in their order.

    Raises:
        FileError: ``cli.file.*``.
        CommandError: ``cli.set.form``.
    """
    path = directory / SET_FILE
    try:
        document = json.loads(read_file(path, SET_BYTES_MAX))
        if document["format"] != SET_FORMAT:
            raise ValueError(f"its format is not {SET_FORMAT}")
        entries = [SetEntry(str(each["file"]), str(each["category"])) for each in document["patches"]]
        if bad := next((each.file for each in entries if _NAME.fullmatch(each.file) is None), None):
            raise ValueError(f"{bad!a} is no name of a diff in it")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CommandError("cli.set.form", f"{path} is not the list of a set: {error}") from None
    if not entries:
        raise CommandError("cli.set.form", f"{path} names no patch")
    return entries


def read_diff(directory: Path, entry: SetEntry) -> bytes:
    """Return one diff of a set with its header. Raises FileError."""
    return read_file(directory / entry.file, PATCH_FILE_BYTES_MAX)


def describe(each: Imported) -> dict[str, Any]:
    """Return what was found about one imported patch, as JSON."""
    metadata, rebased = each.foreign.metadata, each.rebased
    notes = sorted((*metadata.notes, *each.foreign.notes, *rebased.notes), key=lambda note: note.line)
    return {
        "source": each.name,
        "files": len(each.diff.files),
        "lines_added": each.diff.lines_added,
        "lines_removed": each.diff.lines_removed,
        "strip": rebased.strip,
        "moved_hunks": [{"path": move.path, "line": move.line, "offset": move.offset} for move in rebased.moves],
        "title": metadata.title,
        "description": metadata.description,
        "author": metadata.author,
        "references": list(metadata.references),
        "origin": metadata.origin,
        "trailers": list(metadata.trailers),
        "category": metadata.category,
        "notes": [{"line": note.line, "text": note.text} for note in notes],
    }


def header_of(metadata: ForeignMetadata) -> bytes:
    """Return the text that stands in front of an exact diff, in DEP-3's form: `patch create` takes the reason from it."""
    if not metadata.title:
        return b""
    lines = [f"Description: {metadata.title}"]
    description = metadata.description.encode()[:DESCRIPTION_BYTES_MAX].decode("utf-8", "ignore")
    lines += [f" {line}" if line else " ." for line in description.split("\n") if description]
    if metadata.author:
        lines.append(f"Author: {metadata.author}")
    if metadata.origin:
        lines.append(f"Origin: {metadata.origin}")
    lines += [f"Bug: {reference}" for reference in metadata.references]
    return "\n".join([*lines, *metadata.trailers, "---", ""]).encode()
