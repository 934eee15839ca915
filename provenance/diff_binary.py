"""Changes of binary content in git's form: both whole contents, compressed and in base85, so that each side proves itself.

::

    GIT binary patch
    literal SIZE            the content afterwards
    <lines>

    literal SIZE            the content before
    <lines>
                            an empty line ends each part

Git's `delta` form is not read: with two literals the pre-image is compared whole and nothing is computed. A line is one letter (how many
bytes) and base85; only the last line of a part is shorter than 52 bytes. What is compressed has exactly the size that it says.

Source: docs/spec/diff.md 2.1.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Sequence
from typing import Final

from provenance.diff_model import BinaryPart
from provenance.diff_reader import Reader, refusal

BINARY_FILE_BYTES_MAX: Final = 32 * 1024 * 1024
"""One side of one binary file."""
BINARY_BYTES_MAX: Final = 128 * 1024 * 1024
"""All sides of all binary files of one diff, decoded: what a small text may unfold to in the memory of whoever verifies it."""

_LINE_BYTES: Final = 52
_NAME_DIGITS: Final = (40, 64)
_MARKER: Final = b"GIT binary patch"
_SIZE: Final = re.compile(rb"0|[1-9][0-9]{0,8}")
_COMPRESSION: Final = 9
_DELTA_SHIFT_MAX: Final = 28
_DELTA_COPY_DEFAULT: Final = 0x10000
_LENGTH_CODES: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def begins_binary(reader: Reader) -> bool:
    """Return whether the current line begins a binary change."""
    return reader.line == _MARKER


def read_binary(reader: Reader, blobs: tuple[str, str] | None, room: int) -> tuple[BinaryPart, BinaryPart]:
    """Read a binary change, and return the content before and after.

    Args:
        reader: At its first line.
        blobs: The names on the section's index line, which must be whole.
        room: Bytes that all parts of the diff may still decode to.

    Raises:
        DiffRefusedError: `binary_form`, `size`, `index_line`, `truncated`.
    """
    at = reader.number
    reader.step()
    new = _read_part(reader, room)
    old = _read_part(reader, room - len(new.content))
    if old.content == new.content:
        raise refusal("no_change", "a section changes something", at)
    if b"\0" not in old.content and b"\0" not in new.content:
        raise refusal("binary_form", "content without a NUL byte is text, and stands in hunks", at)
    names = blobs or ("", "")
    # Git reads only names of its repository's kind, the zeros of a missing side too.
    is_full = len(names[0]) == len(names[1]) in _NAME_DIGITS
    for part, name in zip((old, new), names, strict=True):
        is_right = blob_name(part.content, len(name)) == name if name.strip("0") else not part.content
        if not is_full or not is_right:
            raise refusal("index_line", "the index line of a binary change names its contents in full", at, actual=name)
    return old, new


def make_part(content: bytes) -> BinaryPart:
    """Return one side of a binary change with its text."""
    packed = zlib.compress(content, _COMPRESSION)
    lines = []
    for begin in range(0, len(packed), _LINE_BYTES):
        piece = packed[begin : begin + _LINE_BYTES]
        lines.append(_LENGTH_CODES[len(piece) - 1 : len(piece)] + base64.b85encode(piece, pad=True) + b"\n")
    return BinaryPart(content, b"".join(lines))


def blob_name(content: bytes, digits: int) -> str:
    """Return git's name of a content, SHA-1 for 40 digits and SHA-256 for 64; "" for any other number."""
    framed = b"blob %d\0" % len(content)
    match digits:
        case 40:
            return hashlib.sha1(framed + content, usedforsecurity=False).hexdigest()
        case 64:
            return hashlib.sha256(framed + content).hexdigest()
        case _:
            return ""


def read_packed(lines: Sequence[bytes], size: int) -> bytes | None:
    """Return what the lines of one part hold, exactly `size` bytes; None if they do not."""
    if size > BINARY_FILE_BYTES_MAX:
        return None
    packed = bytearray()
    for index, line in enumerate(lines):
        piece = _decode_line(line)
        if piece is None or (len(piece) < _LINE_BYTES and index + 1 < len(lines)):
            return None
        packed += piece
    stream = zlib.decompressobj()
    try:
        # Memory stays in proportion to the size, whatever the text unfolds to.
        content = stream.decompress(packed, size + 1)
    except zlib.error:
        return None
    return content if len(content) == size and stream.eof and not stream.unused_data else None


def apply_delta(base: bytes, delta: bytes) -> bytes | None:
    """Return what git's delta makes of a content; None if it is none for it.

    Source: git's Documentation/gitformat-pack, "Deltified representation".
    """
    sizes = []
    at = 0
    for _ in range(2):
        value = shift = 0
        while True:
            if at >= len(delta) or shift > _DELTA_SHIFT_MAX:
                return None
            value |= (delta[at] & 0x7F) << shift
            shift += 7
            at += 1
            if delta[at - 1] < 0x80:
                break
        sizes.append(value)
    if sizes[0] != len(base) or sizes[1] > BINARY_FILE_BYTES_MAX:
        return None
    result = bytearray()
    while at < len(delta):
        code = delta[at]
        at += 1
        if code & 0x80:
            fields = [0] * 7
            for bit in range(7):
                if code >> bit & 1:
                    if at >= len(delta):
                        return None
                    fields[bit] = delta[at]
                    at += 1
            offset = int.from_bytes(bytes(fields[:4]), "little")
            length = int.from_bytes(bytes(fields[4:]), "little") or _DELTA_COPY_DEFAULT
            piece = base[offset : offset + length]
        else:
            length = code
            piece = delta[at : at + length]
            at += length
        if not length or len(piece) != length or len(result) + length > sizes[1]:
            return None
        result += piece
    return bytes(result) if len(result) == sizes[1] else None


def _read_part(reader: Reader, room: int) -> BinaryPart:
    """Read `literal SIZE`, its lines and the empty line."""
    at = reader.number
    text = reader.take(b"literal ")
    if text is None or _SIZE.fullmatch(text) is None:
        raise refusal("binary_form", "a part of a binary change begins with 'literal ' and a size", at, actual=text)
    size = int(text)
    if size > min(BINARY_FILE_BYTES_MAX, room):
        limit = min(BINARY_FILE_BYTES_MAX, room)
        raise refusal("size", "binary content has too many bytes", at, expected=limit, actual=size)
    lines: list[bytes] = []
    begin = reader.position
    while reader.line:
        lines.append(reader.line)
        reader.step()
    if reader.at_end:
        raise refusal("truncated", "an empty line ends a part of a binary change", reader.number)
    content = read_packed(lines, size)
    if content is None:
        raise refusal("binary_form", "binary content is full lines of base85 that unfold to the size it says", at)
    encoded = reader.data[begin : reader.position]
    reader.step()
    return BinaryPart(content, encoded)


def _decode_line(line: bytes) -> bytes | None:
    """Return the bytes of one line, or None where printing them would give another one: other padding, bytes that do not count."""
    length = _LENGTH_CODES.find(line[:1]) + 1 if line else 0
    try:
        piece = base64.b85decode(line[1:])[:length]
    except ValueError:
        return None
    return piece if length and len(piece) == length and base64.b85encode(piece, pad=True) == line[1:] else None
