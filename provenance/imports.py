"""Foreign patches: git mails, quilt and DEP-3 patches, plain unified diffs; read loosely here, made exact by `rebase` and `make_diff`.

Loose means: text around the sections is skipped, names may lack `a/` and `b/` or carry dates, CR LF is recognised, hunks may have moved.
It does not mean guessing: counts hold, content matches without fuzz, and where two readings are possible the patch is refused with the
line. What comes out is never applied as it is: the exact diff is taken anew from the base, shown, and signed.

======================  ==========================================================
module                  holds
======================  ==========================================================
``import_model``        the values
``import_metadata``     the header's text
``import_reader``       the reader of sections
``imports`` (this one)  the reader of a whole file; also the door to the others
``import_rebase``       where the hunks belong in a base
======================  ==========================================================
"""

from __future__ import annotations

import binascii
import re
from typing import Final

from provenance.diff_apply import split_lines
from provenance.errors import ImportRefusedError
from provenance.import_metadata import read_metadata
from provenance.import_model import ForeignFile, ForeignHunk, ForeignMetadata, ForeignPatch, Move, Note, Rebased
from provenance.import_reader import Reader, refusal
from provenance.import_rebase import rebase
from wire.limits import PATCH_FILE_BYTES_MAX

__all__ = [
    "ForeignFile",
    "ForeignHunk",
    "ForeignMetadata",
    "ForeignPatch",
    "Move",
    "Note",
    "Rebased",
    "read_foreign_patch_untrusted",
    "rebase",
]

FOREIGN_LINES_MAX: Final = 2_000_000
"""Lines of one foreign patch, as many as a strict diff may have."""
FOREIGN_FILES_MAX: Final = 20_000
"""Sections of one foreign patch."""
MAIL_HEAD_BYTES_MAX: Final = 64 * 1024
"""A mail's header, as far as its encoding is looked for."""
_TRANSFER_ENCODING: Final = re.compile(rb"(?im)^content-transfer-encoding:[ \t]*(quoted-printable|base64)\b")
_MULTIPART: Final = re.compile(rb"(?im)^content-type:[ \t]*multipart/")
_DIFF_BEGINS: Final = re.compile(rb"(?m)^(?:diff --git |--- )")


def read_foreign_patch_untrusted(data: bytes, *, file_name: str = "") -> ForeignPatch:
    """Return a patch in somebody else's form, taken apart but compared with nothing yet.

    Args:
        data: The whole file, at most `PATCH_FILE_BYTES_MAX`.
        file_name: The file's own name, which may hold a CVE id; "" if it has none.

    Raises:
        ImportRefusedError: `provenance.import.<rule>` with the 1-based line in `details["line"]` where one is at fault.

    Source: docs/spec/diff.md 7.
    """
    if len(data) > PATCH_FILE_BYTES_MAX:
        raise ImportRefusedError(
            "provenance.import.size", "a patch has too many bytes", expected=PATCH_FILE_BYTES_MAX, actual=len(data)
        )
    if data.count(b"\n") > FOREIGN_LINES_MAX:
        raise ImportRefusedError("provenance.import.size", "a patch has too many lines", expected=FOREIGN_LINES_MAX)
    decoded = _decode_mail(data)
    reader = Reader(split_lines(decoded))
    if decoded is not data:
        reader.notes.append(Note(1, "the mail's text was encoded; lines are counted as decoded"))
    header_end = reader.skip_text()
    header = b"".join(reader.lines[:header_end])
    files: list[ForeignFile] = []
    while not reader.at_end:
        files.append(reader.read_section())
        if len(files) > FOREIGN_FILES_MAX:
            raise refusal("size", "a patch has too many sections", reader.index, expected=FOREIGN_FILES_MAX)
        reader.skip_text()
    if not files:
        raise ImportRefusedError(
            "provenance.import.no_diff",
            "no unified diff was found",
            hint="Context, ed and normal diffs are not read; print the change with diff -u or git diff.",
        )
    return ForeignPatch(read_metadata(header, file_name), tuple(files), tuple(reader.notes))


def _decode_mail(data: bytes) -> bytes:
    """Return a mail whose text is in quoted-printable or base64 with the text as it was meant; anything else as it is.

    What comes out is read like any other foreign patch: only the exact diff taken from it is signed, so no tool decodes anything later.
    """
    head, blank, text = data[:MAIL_HEAD_BYTES_MAX].partition(b"\n\n")
    encoding = _TRANSFER_ENCODING.search(head)
    if not blank or encoding is None or _DIFF_BEGINS.search(head) is not None:
        return data
    if _MULTIPART.search(head) is not None:
        raise ImportRefusedError(
            "provenance.import.encoded_mail",
            "the mail has several encoded parts, and tools disagree about patches in them",
            hint="Decode it first, for example with git mailinfo.",
        )
    text = data[len(head) + len(blank) :]
    try:
        if encoding[1].lower() == b"base64":
            text = binascii.a2b_base64(text)
        else:
            text = binascii.a2b_qp(text)
    except binascii.Error as error:
        raise ImportRefusedError(
            "provenance.import.encoded_mail", f"the mail's text is not what its header says: {error}"
        ) from None
    return head + blank + text
