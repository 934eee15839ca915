"""The part of a patch file that a person reads: a pure function of the signed metadata.

There is one truth, the predicate; the preamble is what it looks like. A verifier renders it again and demands the same bytes, so no reader
is ever shown a text that the author's statement does not hold. Free text stands only behind `# `, where no tool that applies patches looks
for a diff, and continuation lines are indented behind it, so that no free text looks like one of our own labelled lines either.

Source: docs/spec/patch-file.md 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from provenance.component_listing import encode_listing
from provenance.components import AffectedComponent
from provenance.diff_model import ChangeKind
from provenance.metadata import PatchMetadata
from provenance.timestamp import mail_date

MBOX_LINE: Final = b"From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n"
"""The first line of every patch file: git's own magic date, and no commit, because there need not be one."""
SUBJECT_PREFIX: Final = "[PATCH] "
VERSION_LINE: Final = b"X-Patchwarden-Version: 1\n"
PREAMBLE_END: Final = b"---\n\n"
"""Ends the message for `git am`; the diff follows. The list of a wide patch stands before its empty line."""

_PREFIX: Final = "# "
_INDENT: Final = "#   "
_EMPTY: Final = "#"


def render_preamble(metadata: PatchMetadata) -> bytes:
    """Return the preamble of a patch file with this metadata, up to the first byte of the diff.

    Args:
        metadata: Checked metadata: its texts hold no control character besides line feeds in the description.

    Source: docs/spec/patch-file.md 3.
    """
    reason = metadata.reason_for_patch
    header = (
        f"From: {metadata.creator_identity.mail_address()}\n"
        f"Date: {mail_date(metadata.creation_timestamp)}\n"
        f"Subject: {SUBJECT_PREFIX}{reason.title}\n"
    )
    lines = "".join(f"{line}\n" for line in _comment_lines(metadata))
    head = MBOX_LINE + header.encode() + VERSION_LINE + b"\n" + lines.encode() + PREAMBLE_END
    if metadata.component_summary is None:
        return head
    return head[:-1] + encode_listing(metadata.affected_components) + b"\n"


def _comment_lines(metadata: PatchMetadata) -> Iterator[str]:
    """Yield the lines between header and `---`, without line feeds."""
    reason, creator, environment, tests = (
        metadata.reason_for_patch,
        metadata.creator_identity,
        metadata.build_environment,
        metadata.validation_tests,
    )
    yield from _labelled("Reason", reason.description.split("\n"))
    yield from _labelled("Category", [reason.category.value])
    yield from _labelled("References", reason.references)
    if metadata.component_summary is None:
        yield from _labelled("Components", [_describe(component) for component in metadata.affected_components])
    else:
        shares = metadata.component_summary.shares
        yield from _labelled("Components", [f"{share.name} (files: {share.files})" for share in shares])
    yield f"{_PREFIX}Creator: {creator.label()}   Created: {metadata.creation_timestamp}"
    yield f"{_PREFIX}Build-Environment: sha256:{environment.sha256}"
    yield f"{_PREFIX}Validation-Tests: sha256:{tests.sha256} ({tests.method}, files: {tests.count})"
    yield f"{_PREFIX}Release-Counter: {metadata.release_counter}"
    yield from _labelled("Supersedes", metadata.supersedes)
    yield from _labelled("Prerequisites", metadata.prerequisites)
    yield from _labelled("Not-After", [metadata.not_after] if metadata.not_after else [])
    yield from _labelled("Allowances", [", ".join(metadata.allowances)] if metadata.allowances else [])


def _labelled(label: str, values: Sequence[str]) -> Iterator[str]:
    """Yield nothing for no values; otherwise the label with the first, and the others indented below it."""
    for index, value in enumerate(values):
        if index == 0:
            yield f"{_PREFIX}{label}: {value}"
        else:
            # An empty line carries no white space at its end: editors and mail tools like to remove it.
            yield f"{_INDENT}{value}" if value else _EMPTY


def _describe(component: AffectedComponent) -> str:
    """Return the component's name and, in parentheses, its path; for a rename or copy, both paths."""
    if component.change is ChangeKind.COPY:
        return f"{component.name} (copy of {component.previous_path} => {component.path})"
    if component.previous_path is not None:
        return f"{component.name} ({component.previous_path} => {component.path})"
    return f"{component.name} ({component.path})"
