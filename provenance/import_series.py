"""Several foreign patches one after the other: mailboxes taken apart, series in order, each patch exact for what those before left.

A patch that is refused leaves the tree as it was. Those behind it are tried all the same, so that one run names everything that stands
in the way; whether anything is kept then is the caller's choice.

Source: docs/spec/diff.md 7.5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Final

from provenance.diff import parse_diff_untrusted
from provenance.diff_make import make_diff
from provenance.diff_model import Allowance, Diff, FileState
from provenance.errors import ImportRefusedError
from provenance.import_model import ForeignMetadata, ForeignPatch, Rebased
from provenance.import_rebase import ReadState, rebase
from provenance.imports import read_foreign_patch_untrusted
from wire.errors import RejectedError

SERIES_PATCHES_MAX: Final = 2000
"""Patches of one series, mails of one mailbox, commits of one range."""

_FROM_LINE: Final = re.compile(
    rb"From [^ \r\n]{1,320} +(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ 0-3]?[0-9] "
    rb"[0-9]{2}:[0-9]{2}:[0-9]{2}(?: [A-Z]{3,5})? [0-9]{4}(?: [+-][0-9]{4})?\r?"
)
"""The line that begins a mail in a mailbox, as git and mail programs write it."""
_SIGNATURE: Final = re.compile(rb"\n-- \n[^\n]*\n\Z")


class Step(StrEnum):
    """What is being done about one patch, in this order."""

    READ = "read"
    """Its text is taken apart."""
    PLACE = "place"
    """Its hunks are looked for in the base."""
    MAKE = "make"
    """The exact diff is made of both states, and compared with them."""


@dataclass(frozen=True, slots=True)
class Source:
    """One patch of a series, not read yet."""

    name: str
    """What a person knows it by: a file name, a commit, "mail 3"."""
    data: bytes
    strip: int | None = None
    """Leading components of its names to take away, if the series says so."""
    metadata: ForeignMetadata | None = None
    """What is known about it from elsewhere, such as a commit; None to read its own header."""
    refusal: RejectedError | None = None
    """Why it could not be taken from where it stands; it is refused with this."""


@dataclass(frozen=True, slots=True)
class Imported:
    """One patch made exact."""

    name: str
    foreign: ForeignPatch
    """What it said; its sections are dropped, since `rebased` and `diff` hold what they do."""
    rebased: Rebased
    diff: Diff


@dataclass(frozen=True, slots=True)
class Refused:
    """One patch that could not be made exact."""

    name: str
    error: RejectedError
    """`provenance.import.*`, `provenance.make.*` or `provenance.diff.*`, or the source's own refusal."""


def split_mailbox_untrusted(data: bytes) -> tuple[bytes, ...]:
    """Return the mails of a mailbox in its order; one that is no mailbox comes back whole.

    A mail begins at a `From ` line with a date, at the beginning or behind an empty line.

    Raises:
        ImportRefusedError: `provenance.import.series_length`.
    """
    starts: list[int] = []
    position = 0 if data.startswith(b"From ") else data.find(b"\nFrom ") + 1
    while position or not starts:
        end = data.find(b"\n", position)
        line = data[position : len(data) if end < 0 else end]
        if _FROM_LINE.fullmatch(line) is not None and (not position or _is_after_blank(data, position)):
            starts.append(position)
            if len(starts) > SERIES_PATCHES_MAX:
                raise _too_long(len(starts))
        position = data.find(b"\nFrom ", position) + 1
        if not position:
            break
    if not starts:
        return (data,)
    starts[0] = 0
    return tuple(data[begin:end] for begin, end in pairwise((*starts, len(data))))


def order_mails(metadata: Sequence[ForeignMetadata]) -> list[int]:
    """Return the order in which mails apply: their own where all carry `[PATCH n/m]` of one series, else as they stand."""
    numbers = [each.number for each in metadata if each.number is not None]
    if len(numbers) != len(metadata) or len({of for _, of in numbers}) != 1 or len(set(numbers)) != len(numbers):
        return list(range(len(metadata)))
    return sorted(range(len(metadata)), key=lambda index: numbers[index])


_NOTHING: Final[frozenset[Allowance]] = frozenset()


def import_series(
    sources: Iterable[Source],
    read: ReadState,
    allowed: frozenset[Allowance] = _NOTHING,
    on_step: Callable[[str, Step], None] | None = None,
) -> Iterator[Imported | Refused]:
    """Yield every patch of a series, exact for the base with all accepted patches before it applied.

    Args:
        sources: In their order, at most `SERIES_PATCHES_MAX`. Each is let go as soon as it was read.
        read: The base before the first one.
        allowed: What the exact diffs may hold besides text.
        on_step: Told the name of a patch and what is going to be done about it, for somebody who waits.

    Raises:
        ImportRefusedError: `provenance.import.series_length`.
    """
    tell = on_step or (lambda _name, _step: None)
    changed: dict[str, FileState | None] = {}

    def read_now(path: str) -> FileState | None:
        return changed[path] if path in changed else read(path)

    count = 0
    for source in sources:
        count += 1
        if count > SERIES_PATCHES_MAX:
            raise _too_long(count)
        name, strip = source.name, source.strip
        try:
            tell(name, Step.READ)
            foreign = _read(source)
            # A long patch is held once at a time: as its text, then as its sections, then as what they make of the base.
            del source
            tell(name, Step.PLACE)
            rebased = rebase(foreign, read_now, strip=strip)
            foreign = replace(foreign, files=())
            tell(name, Step.MAKE)
            text = make_diff(rebased.pre, rebased.post, rebased.renames, allowed, rebased.copies)
            imported = Imported(name, foreign, rebased, parse_diff_untrusted(text, allowed))
        except RejectedError as error:
            yield Refused(name, error)
            continue
        changed |= imported.rebased.post
        yield imported


def _read(source: Source) -> ForeignPatch:
    if source.refusal is not None:
        raise source.refusal
    foreign = read_foreign_patch_untrusted(source.data, file_name=source.name)
    return foreign if source.metadata is None else replace(foreign, metadata=source.metadata)


def _is_after_blank(data: bytes, position: int) -> bool:
    before = data[max(0, position - 3) : position]
    return before.endswith((b"\n\n", b"\n\r\n")) or _ends_signature(data, position)


def _ends_signature(data: bytes, position: int) -> bool:
    """Return whether a mail signature ends right above: some tools write mails without an empty line between them."""
    return _SIGNATURE.search(data, max(0, position - 80), position) is not None


def _too_long(count: int) -> ImportRefusedError:
    return ImportRefusedError(
        "provenance.import.series_length", "a series has too many patches", expected=SERIES_PATCHES_MAX, actual=count
    )
