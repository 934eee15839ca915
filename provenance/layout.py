"""The three byte ranges of a patch file: preamble, diff, trailer.

::

    preamble   MBOX_LINE, mail header, `# ` lines, `---`, [list], empty ┐
    diff       from the first line that begins `diff --git `            │ body
    end        `-- `, `patchwarden 1`, empty line                       ┘
    trailer    one DSSE envelope a line: `{` … `}`, bytes 0x20–0x7E

The end cannot stand anywhere else: every line of the preamble begins otherwise, a line of a hunk begins with space, `+`, `-` or a
backslash, so none is `patchwarden 1`, and a trailer line begins with `{`. Limits come before anything that costs more than one pass.

Source: docs/spec/patch-file.md 2 and 3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NewType

from provenance.component_listing import LISTING_PREFIX
from provenance.errors import MalformedPatchError
from provenance.limits import (
    ENVELOPE_LINE_BYTES_MAX,
    LISTING_BYTES_MAX,
    LISTING_LINE_BYTES_MAX,
    PREAMBLE_BYTES_MAX,
    TRAILER_BYTES_MAX,
)
from provenance.preamble import MBOX_LINE, PREAMBLE_END, VERSION_LINE
from wire.errors import MalformedError
from wire.fields import as_text
from wire.hashing import sha256
from wire.limits import PATCH_FILE_BYTES_MAX, TRAILER_LINES_MAX

PatchId = NewType("PatchId", str)
"""The SHA-256 of a patch file's body, 64 hexadecimal digits: stays when attestations are added or the author signs again."""

BODY_END: Final = b"-- \npatchwarden 1\n\n"
"""What the body ends with: a mail signature with the format's name and version, and an empty line."""

_LISTING_LINE: Final = LISTING_PREFIX + b"{"
_LISTING_START: Final = b"\n---\n" + _LISTING_LINE
_DIFF_START: Final = b"\ndiff --git "
_TRAILER_BYTES: Final = bytes(range(0x20, 0x7F)) + b"\n"
_HEADER_NAMES: Final = (b"From", b"Date", b"Subject")
_HEADER_NAME: Final = re.compile(rb"([!-9;-~]+):")


@dataclass(frozen=True, slots=True)
class PatchFile:
    """A patch file's bytes and where its parts are. The form is checked; nothing is proven."""

    raw: bytes
    """The whole file, at most `PATCH_FILE_BYTES_MAX` bytes."""
    preamble: bytes
    """Up to the diff."""
    diff_end: int
    """Where `BODY_END` begins."""
    trailer: tuple[bytes, ...]
    """The envelopes without line feeds, the author's first; 1 to `TRAILER_LINES_MAX`."""
    listing: bytes = b""
    """The lines of the preamble between `---` and its empty line: the components of a wide patch; none of any other."""

    @property
    def body(self) -> bytes:
        """Return preamble, diff and `BODY_END`, what the author's statement is about; a copy."""
        return bytes(self.body_view)

    @property
    def body_view(self) -> memoryview:
        """Return the body as a stretch of the file."""
        return memoryview(self.raw)[: self.diff_end + len(BODY_END)]

    @property
    def diff(self) -> bytes:
        """Return what stands up to `BODY_END`; it begins with `diff --git ` and ends with a line feed; a copy."""
        return bytes(self.diff_view)

    @property
    def diff_view(self) -> memoryview:
        """Return the diff as a stretch of the file."""
        return memoryview(self.raw)[len(self.preamble) : self.diff_end]

    @property
    def patch_id(self) -> PatchId:
        """Return the SHA-256 of the body as 64 hexadecimal digits."""
        return PatchId(sha256(self.body_view).hex())


def split_patch_file_untrusted(data: bytes) -> PatchFile:
    """Return the file's parts, every byte of it in exactly one of them.

    Args:
        data: A whole patch file.

    Raises:
        MalformedPatchError: ``provenance.file.*``; the codes stand in the source.

    Source: docs/spec/patch-file.md 2 and 3.
    """
    check_file_size(len(data))
    if not data.startswith(MBOX_LINE):
        raise _refuse(
            "start",
            "a patch file begins with its mbox line",
            expected=MBOX_LINE.decode().rstrip(),
            actual=data[: len(MBOX_LINE)],
        )
    end = data.find(b"\n" + BODY_END)
    if end < 0:
        raise _refuse("no_end", "a patch file has a body that ends with '-- ', 'patchwarden 1' and an empty line")
    diff_end, body_end = end + 1, end + 1 + len(BODY_END)
    diff_start = data.find(_DIFF_START, 0, diff_end) + 1
    if diff_start == 0:
        raise _refuse("no_diff", "a patch file has a line that begins with 'diff --git '")
    preamble = data[:diff_start]
    head, listing = _split_listing(preamble)
    _check_preamble(head)
    _check_listing(listing)
    return PatchFile(
        raw=data,
        preamble=preamble,
        diff_end=diff_end,
        trailer=split_trailer_untrusted(data, body_end),
        listing=listing,
    )


def check_file_size(size: int) -> None:
    """Return when a patch file may have so many bytes. Raises MalformedPatchError: ``provenance.file.too_large``."""
    if size > PATCH_FILE_BYTES_MAX:
        raise _refuse(
            "too_large", "a patch file has too many bytes", expected=f"at most {PATCH_FILE_BYTES_MAX}", actual=size
        )


def split_trailer_untrusted(data: bytes, start: int = 0) -> tuple[bytes, ...]:
    """Return the lines of the trailer that begins at `start`; nothing of them is decoded yet.

    Raises:
        MalformedPatchError: ``provenance.file.*``.
    """
    if start == len(data):
        raise _refuse("no_author", "a patch file has at least one trailer line, the author's")
    if len(data) - start > TRAILER_BYTES_MAX:
        raise _refuse(
            "trailer_length",
            "the trailer has too many bytes",
            expected=f"at most {TRAILER_BYTES_MAX}",
            actual=len(data) - start,
        )
    if not data.endswith(b"\n"):
        raise _refuse("trailer_end", "the trailer ends with a line feed")
    count = data.count(b"\n", start)
    if count > TRAILER_LINES_MAX:
        raise _refuse(
            "trailer_lines", "the trailer has too many lines", expected=f"at most {TRAILER_LINES_MAX}", actual=count
        )
    trailer = data[start:]
    if foreign := trailer.translate(None, _TRAILER_BYTES):
        # busybox patch reads a NUL as the end of a line, and applied a hunk hidden behind one.
        raise _refuse("trailer_byte", "trailer bytes are 0x20 to 0x7E and line feeds", actual=foreign[:1])
    lines = tuple(trailer[:-1].split(b"\n"))
    for index, line in enumerate(lines):
        if len(line) > ENVELOPE_LINE_BYTES_MAX:
            raise _refuse(
                "trailer_line_length",
                f"trailer line {index + 1} is too long",
                expected=ENVELOPE_LINE_BYTES_MAX,
                actual=len(line),
            )
        if line[:1] != b"{" or line[-1:] != b"}":
            raise _refuse(
                "trailer_line", f"trailer line {index + 1} is not a JSON object", expected="{…}", actual=line[:16]
            )
    return lines


def _split_listing(preamble: bytes) -> tuple[bytes, bytes]:
    """Return the preamble as it is without the list of a wide patch, and that list; every line before `---` begins otherwise."""
    at = preamble.find(_LISTING_START)
    if at < 0:
        return preamble, b""
    begin = at + len(_LISTING_START) - len(_LISTING_LINE)
    return preamble[:begin] + b"\n", preamble[begin:-1]


def _check_listing(listing: bytes) -> None:
    """Refuse a list that could mean anything to a tool; what it says is compared later, against the signed metadata."""
    if len(listing) > LISTING_BYTES_MAX:
        raise _refuse(
            "listing_length",
            "the list of components is too long",
            expected=f"at most {LISTING_BYTES_MAX}",
            actual=len(listing),
        )
    if not listing:
        return
    _check_text(listing, LISTING_BYTES_MAX)
    if not listing.endswith(b"\n"):
        raise _refuse("preamble_end", "the preamble ends with an empty line before the diff")
    for line in listing[:-1].split(b"\n"):
        if not line.startswith(_LISTING_LINE) or not line.endswith(b"}") or len(line) > LISTING_LINE_BYTES_MAX:
            raise _refuse(
                "listing_line",
                "a line between '---' and the diff is '# ' and one component",
                expected=f"at most {LISTING_LINE_BYTES_MAX} bytes",
                actual=line[:80],
            )


def _check_text(text: bytes, bytes_max: int) -> None:
    try:
        as_text(text.decode("utf-8"), "preamble", bytes_max, multiline=True)
    except (UnicodeDecodeError, MalformedError) as error:
        raise _refuse("preamble_text", f"the preamble is not clean text: {error}") from None


def _check_preamble(preamble: bytes) -> None:
    """Refuse a preamble that could mean anything to a tool, whatever the metadata says.

    The exact text is compared later, against the signed metadata; this is the part of the defence that needs no signature.
    """
    if len(preamble) > PREAMBLE_BYTES_MAX:
        raise _refuse(
            "preamble_length",
            "the preamble is too long",
            expected=f"at most {PREAMBLE_BYTES_MAX}",
            actual=len(preamble),
        )
    _check_text(preamble, PREAMBLE_BYTES_MAX)
    header, found, comment = preamble.partition(b"\n\n")
    lines = header.split(b"\n")[1:]
    for line in lines:
        # A second mbox line splits the mail for git am; Prereq: stops patch -t; Content-…: makes git am decode the diff.
        match = _HEADER_NAME.match(line)
        if match is None or (match[1] not in _HEADER_NAMES and line + b"\n" != VERSION_LINE):
            raise _refuse("preamble_header", "the preamble has a line that its header must not have", actual=line)
    names = tuple(line.partition(b":")[0] for line in lines[:-1])
    if not found or names != _HEADER_NAMES or lines[-1] + b"\n" != VERSION_LINE:
        raise _refuse(
            "preamble_header",
            "the preamble's header is From, Date, Subject and X-Patchwarden-Version: 1, in this order",
        )
    if not comment.endswith(b"\n" + PREAMBLE_END):
        raise _refuse("preamble_end", "the preamble ends with '---' and an empty line before the diff")
    for line in comment[: -len(PREAMBLE_END) - 1].split(b"\n"):
        if line != b"#" and not line.startswith(b"# "):
            raise _refuse("preamble_line", "every line of text in the preamble begins with '# '", actual=line)


def _refuse(rule: str, sentence: str, *, expected: object = None, actual: object = None) -> MalformedPatchError:
    return MalformedPatchError(f"provenance.file.{rule}", sentence, expected=expected, actual=actual)
