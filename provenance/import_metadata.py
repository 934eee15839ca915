"""What a patch's own header says: git's mail form, Debian's DEP-3 fields, dpatch comments or free text.

The header is somebody's prose. It is read without trust and without failing: what cannot be understood becomes description, what no
preamble may carry is taken out. Nothing read here counts before the author has seen and signed it.
"""

from __future__ import annotations

import binascii
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from provenance.import_model import ForeignMetadata
from provenance.limits import (
    DESCRIPTION_BYTES_MAX,
    EMAIL_BYTES_MAX,
    PERSON_NAME_BYTES_MAX,
    REFERENCE_BYTES_MAX,
    REFERENCES_MAX,
    TITLE_BYTES_MAX,
)

HEADER_BYTES_MAX: Final = 256 * 1024
"""Text before the diff that is looked at; a commit message is smaller by orders of magnitude."""
ORIGIN_BYTES_MAX: Final = 512
"""The origin, cut like a reference."""

_CHARSETS: Final = frozenset(
    [
        "utf-8",
        "us-ascii",
        *(f"iso-8859-{part}" for part in range(1, 17) if part != 12),
        *(f"windows-{page}" for page in range(1250, 1259)),
        *("koi8-r", "koi8-u", "euc-jp", "iso-2022-jp", "shift_jis", "euc-kr", "gb2312", "gbk", "gb18030", "big5"),
    ]
)
"""Character sets of mail headers; Python knows codecs that are none."""

_ENCODED_WORD: Final = re.compile(r"=\?([A-Za-z0-9_-]{1,40})(?:\*[A-Za-z-]{0,20})?\?([BbQq])\?([^? \t]{0,1000})\?=")
_BETWEEN_ENCODED_WORDS: Final = re.compile(r"(\?=)[ \t]+(?==\?)")
_FIELD: Final = re.compile(r"([A-Za-z][A-Za-z0-9-]{0,60}):(?:[ \t](.*)|)")
_BODY_FIELDS: Final = re.compile(
    r"(?i)description|subject|author|from|origin|bug(?:-[a-z0-9]+)?|forwarded|applied-upstream|last-update|reviewed-by|acked-by"
    r"|closes|link|fixes|signed-off-by|co-authored-by|date"
)
_TAG: Final = re.compile(r"\[[^\]\[]{0,80}PATCH[^\]\[]{0,80}\]\s*", re.IGNORECASE)
_PERSON: Final = re.compile(r"\s*\"?([^<\"]*?)\"?\s*<([^<>\s]+)>")
_CVE: Final = re.compile(r"(?i)\bCVE-[0-9]{4}-[0-9]{4,19}\b")
_URL: Final = re.compile(r"https?://[^\s<>\"',]+")
_DPATCH_TEXT: Final = re.compile(r"#+\s*DP:")
_DIFF_NOISE: Final = re.compile(r"Index:? .*|=+|diff .*")
"""What diff programs print above a section."""
_DPATCH_AUTHOR: Final = re.compile(r"##\s*\S+ by (.+)")
_SECURITY: Final = re.compile(r"(?i)\bsecurity\b|\bvulnerab")
_FEATURE: Final = re.compile(r"(?i)\s*(?:add|implement|support|introduce|allow|new)\b")
_UNSHOWN: Final = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffc\ufffe\uffff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Control characters except LF, and characters that show nothing or reorder what is shown."""


@dataclass(slots=True)
class _Header:
    """A header taken apart: fields by lower-case name in order, and what is none of them."""

    fields: list[tuple[str, list[str]]] = field(default_factory=list)
    """Name and value; the value's first line, then its continuation lines without the leading blank."""
    body: list[str] = field(default_factory=list)

    def find(self, *names: str) -> list[str] | None:
        """Return the lines of the first field with the first of the names that occurs."""
        for name in names:
            for known, value in self.fields:
                if known == name:
                    return value
        return None

    def text(self, *names: str) -> str:
        """Return the first such field as one line; "" if there is none."""
        return " ".join(line.strip() for line in self.find(*names) or [])


def read_metadata(header: bytes, file_name: str = "") -> ForeignMetadata:
    """Return what the text before a diff says about it; never fails.

    Args:
        header: Bytes before the first section; only the first `HEADER_BYTES_MAX` are looked at.
        file_name: The patch file's own name, where distributions often put the CVE id.

    Source: docs/spec/diff.md 7.2; DEP-3; RFC 2047.
    """
    text = _decode_text(header[:HEADER_BYTES_MAX])
    parts = _take_apart(text.split("\n"))
    title, description = _title_and_description(parts)
    name, email = _author(parts)
    references = _references(f"{file_name}\n{text}", parts)
    return ForeignMetadata(
        title=_clean_line(title, TITLE_BYTES_MAX),
        description=_clean(description, DESCRIPTION_BYTES_MAX),
        author_name=_clean_line(name, PERSON_NAME_BYTES_MAX),
        author_email=_clean_line(email, EMAIL_BYTES_MAX),
        references=references,
        origin=_clean_line(parts.text("origin", "applied-upstream"), ORIGIN_BYTES_MAX),
        category=_guess_category(title, text, references),
    )


def decode_words(text: str) -> str:
    """Return a mail header's value with its encoded words decoded; a word in an unknown form stays as it is.

    Source: RFC 2047.
    """

    def decode(match: re.Match[str]) -> str:
        charset = match[1].lower()
        if charset not in _CHARSETS:
            return match[0]
        try:
            if match[2] in "Bb":
                raw = binascii.a2b_base64(match[3].encode("ascii"))
            else:
                raw = binascii.a2b_qp(match[3].encode("ascii"), header=True)
        except (binascii.Error, UnicodeEncodeError):
            return match[0]
        return raw.decode(charset, "replace")

    return _ENCODED_WORD.sub(decode, _BETWEEN_ENCODED_WORDS.sub(r"\1", text))


def _decode_text(raw: bytes) -> str:
    """Return the header as text: UTF-8 if it is, else Latin-1, where every byte is some character."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text.replace("\r\n", "\n")


def _take_apart(lines: Sequence[str]) -> _Header:
    """Split the header in fields and body. A first block of `Name: value` lines may hold any field, the text after it only known ones."""
    parts = _Header()
    in_block = True
    value: list[str] | None = None
    for number, line in enumerate(lines):
        if line == "---":
            break
        if number == 0 and line.startswith("From "):
            continue
        if line.startswith("#"):
            _take_comment(line, parts)
            continue
        if _DIFF_NOISE.fullmatch(line):
            continue
        if value is not None and line[:1] in (" ", "\t") and line.strip():
            value.append("" if line.strip() == "." else line[1:])
            continue
        value = None
        match = _FIELD.fullmatch(line)
        if match is not None and (in_block or _BODY_FIELDS.fullmatch(match[1])):
            value = [(match[2] or "").strip()]
            parts.fields.append((match[1].lower(), value))
            continue
        if in_block and not line.strip():
            in_block = not parts.fields  # blank lines before the first field belong to no block
            continue
        in_block = False
        parts.body.append(line)
    return parts


def _take_comment(line: str, parts: _Header) -> None:
    """Keep what dpatch's comments say."""
    if (match := _DPATCH_TEXT.match(line)) is not None:
        parts.body.append(line[match.end() :].strip())
    elif (match := _DPATCH_AUTHOR.fullmatch(line)) is not None:
        parts.fields.append(("author", [match[1]]))


def _title_and_description(parts: _Header) -> tuple[str, list[str]]:
    body = list(parts.body)
    described = parts.find("description")
    subject = parts.find("subject")
    if subject is not None:
        title = decode_words(" ".join(line.strip() for line in subject))
        begin = 0
        while (tag := _TAG.match(title, begin)) is not None:
            begin = tag.end()
        return title[begin:], [*(described or []), *body]
    if described is not None:
        return described[0], [*described[1:], *body]
    first = next((index for index, line in enumerate(body) if line.strip()), len(body))
    return (body[first], body[first + 1 :]) if first < len(body) else ("", [])


def _author(parts: _Header) -> tuple[str, str]:
    # Runs of blanks are made one first: the pattern below would look at every part of them.
    value = " ".join(decode_words(parts.text("from", "author")).split())
    match = _PERSON.match(value)
    if match is not None:
        return match[1].strip().strip("'"), match[2]
    return ("", value) if "@" in value and " " not in value else (value, "")


def _references(text: str, parts: _Header) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for match in _CVE.finditer(text):
        found[match[0].upper()] = None
    for name, value in parts.fields:
        if name == "bug" or name.startswith("bug-") or name in ("closes", "link", "fixes"):
            for match in _URL.finditer(" ".join(value)):
                found[match[0].rstrip(".;)")] = None
    allowed = (
        reference
        for reference in found
        if len(reference.encode()) <= REFERENCE_BYTES_MAX and _UNSHOWN.search(reference) is None
    )
    return tuple(unicodedata.normalize("NFC", reference) for reference in list(allowed)[:REFERENCES_MAX])


def _guess_category(title: str, text: str, references: Iterable[str]) -> str:
    if any(reference.startswith("CVE-") for reference in references) or _SECURITY.search(text) is not None:
        return "security-update"
    return "feature" if _FEATURE.match(title) is not None else "bug-fix"


def _clean_line(text: str, bytes_max: int) -> str:
    return _clean([text.replace("\n", " ")], bytes_max)


def _clean(lines: Iterable[str], bytes_max: int) -> str:
    """Return the lines as one text that a preamble may carry, cut at a character."""
    text = "\n".join(line.replace("\t", " ").rstrip() for line in lines).strip()
    text = unicodedata.normalize("NFC", _UNSHOWN.sub("", text))
    encoded = text.encode()
    if len(encoded) <= bytes_max:
        return text.strip()
    mark = "…"
    return encoded[: bytes_max - len(mark.encode())].decode("utf-8", "ignore").rstrip() + mark
