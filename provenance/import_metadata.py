"""What a patch's own header says: git's mail form, Debian's DEP-3 fields, dpatch comments or free text.

The header is somebody's prose. It is read without trust and without failing: what cannot be understood becomes description, what no
preamble may carry is taken out. Nothing read here counts before the author has seen and signed it.
"""

from __future__ import annotations

import binascii
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from provenance.import_model import ForeignMetadata, Note
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
TRAILER_BYTES_MAX: Final = 512
"""One line such as `Signed-off-by: …`."""
NOTE_BYTES_MAX: Final = 120
"""How much of a line a note shows."""

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
    r"(?i)description|subject|author|from|origin|bug(?:-[a-z0-9]+)?|forwarded|applied-upstream|last-update"
    r"|closes|link|fixes|date|cc|[a-z]+(?:-[a-z]+){0,3}-by"
)
_TRAILER: Final = re.compile(
    r"(?i)author|bug(?:-[a-z0-9]+)?|origin|applied-upstream|forwarded|last-update|closes|link|fixes|date|cc|[a-z]+(?:-[a-z]+){0,3}-by"
)
"""Fields that stay as lines below the description, unless they are the author or the origin itself."""
_MAIL_ROUTE: Final = re.compile(
    r"(?i)to|received|message-id|in-reply-to|references|mime-version|content-.*|x-.*|list-.*|return-path|delivered-to|sender"
    r"|reply-to|user-agent|dkim-.*|arc-.*|authentication-results|precedence|errors-to|received-spf"
)
"""Fields of a mail that say how it travelled."""
_MAIL_START: Final = re.compile(r"From ([0-9a-f]{40,64}) [A-Z][a-z]{2} [A-Z][a-z]{2} ")
_NUMBER: Final = re.compile(r"\b([0-9]{1,4})/([0-9]{1,4})\b")
_DIFF_STAT: Final = re.compile(
    r"\s*| [^|]+\|\s+(?:[0-9]+(?: [+-]*)?|Bin.*)| [0-9]+ files? changed.*| (?:create|delete) mode .*| (?:rename|copy) .*| mode change .*"
)
"""What git prints between `---` and the diff, which the exact diff says itself."""
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
class _Field:
    """One `Name: value` of a header."""

    name: str
    """As written."""
    value: list[str]
    """Its first line, then its continuation lines without the leading blank."""
    line: int
    """1-based."""
    taken: bool = False
    """Whether a part of the metadata holds it."""

    @property
    def text(self) -> str:
        """The value as one line."""
        return " ".join(line.strip() for line in self.value if line.strip())


@dataclass(slots=True)
class _Header:
    """A header taken apart: fields by lower-case name in order, and what is none of them."""

    fields: list[_Field] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    commit: str = ""
    """The name of the commit that git's mail form begins with; "" for none."""
    notes: list[Note] = field(default_factory=list)

    def find(self, *names: str) -> list[str] | None:
        """Return the lines of the first field with the first of the names that occurs; from then on the field counts as taken."""
        for name in names:
            for each in self.fields:
                if each.name.lower() == name:
                    each.taken = True
                    return each.value
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
    if len(header) > HEADER_BYTES_MAX:
        parts.notes.append(Note(text.count("\n") + 1, f"not taken over: the header beyond {HEADER_BYTES_MAX} bytes"))
    subject = parts.find("subject")
    title, description = _title_and_description(parts)
    name, email = _author(parts)
    references = _references(f"{file_name}\n{text}", parts)
    origin = parts.text("origin") or (parts.commit and f"commit {parts.commit}")
    trailers = tuple(_trailers(parts))
    return ForeignMetadata(
        # "=?" in a title could be decoded by a mail reader; no title may have it.
        title=_clean_line(title.replace("=?", "= ?"), TITLE_BYTES_MAX),
        description=_clean(description, DESCRIPTION_BYTES_MAX),
        author_name=_clean_line(name, PERSON_NAME_BYTES_MAX),
        author_email=_clean_line(email, EMAIL_BYTES_MAX),
        references=references,
        origin=_clean_line(origin, ORIGIN_BYTES_MAX),
        category=_guess_category(title, text, references),
        trailers=trailers,
        number=_number(subject),
        notes=tuple(sorted(parts.notes, key=lambda note: note.line)),
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
    open_field: _Field | None = None
    for number, line in enumerate(lines, 1):
        if line == "---":
            _skip_comment(lines, number, parts)
            break
        if number == 1 and line.startswith("From "):
            match = _MAIL_START.match(line)
            parts.commit = match[1] if match is not None and match[1].strip("0") else ""
            continue
        if line.startswith("#"):
            _take_comment(line, number, parts)
            continue
        if _DIFF_NOISE.fullmatch(line):
            continue
        if open_field is not None and line[:1] in (" ", "\t") and line.strip():
            open_field.value.append("" if line.strip() == "." else line[1:])
            continue
        open_field = None
        match = _FIELD.fullmatch(line)
        if match is not None and (in_block or _BODY_FIELDS.fullmatch(match[1])):
            open_field = _Field(match[1], [(match[2] or "").strip()], number)
            parts.fields.append(open_field)
            continue
        if in_block and not line.strip():
            in_block = not parts.fields  # blank lines before the first field belong to no block
            continue
        in_block = False
        parts.body.append(line)
    return parts


def _skip_comment(lines: Sequence[str], number: int, parts: _Header) -> None:
    """Note what stands between `---` and the diff: words to the reviewers of a mail, which no commit has either."""
    for after, line in enumerate(lines[number:], number + 1):
        if _DIFF_STAT.fullmatch(line) is None and _DIFF_NOISE.fullmatch(line) is None:
            parts.notes.append(Note(after, f"not taken over, it stands below '---': {_show(line)}"))


def _take_comment(line: str, number: int, parts: _Header) -> None:
    """Keep what dpatch's comments say."""
    if (match := _DPATCH_TEXT.match(line)) is not None:
        parts.body.append(line[match.end() :].strip())
    elif (match := _DPATCH_AUTHOR.fullmatch(line)) is not None:
        parts.fields.append(_Field("author", [match[1]], number))
    elif line.strip("# "):
        parts.notes.append(Note(number, f"not taken over, it is a comment: {_show(line)}"))


def _trailers(parts: _Header) -> Iterator[str]:
    """Yield the fields that stay as lines, and note those that are lost; all others are taken by now."""
    for each in parts.fields:
        if each.taken or not each.text:
            continue
        if _TRAILER.fullmatch(each.name) is not None:
            line = _clean_line(f"{each.name}: {decode_words(each.text)}", TRAILER_BYTES_MAX)
            yield line
            if line.endswith("…"):
                parts.notes.append(Note(each.line, f"cut to {TRAILER_BYTES_MAX} bytes: {_show(each.name)}"))
        else:
            how = "how the mail travelled" if _MAIL_ROUTE.fullmatch(each.name) else "a field without a place"
            parts.notes.append(Note(each.line, f"not taken over, {how}: {_show(f'{each.name}: {each.text}')}"))


def _number(subject: Sequence[str] | None) -> tuple[int, int] | None:
    """Return the n and m of `[PATCH n/m]`."""
    tag = _TAG.match(decode_words(" ".join(subject))) if subject else None
    match = None if tag is None else _NUMBER.search(tag[0])
    return None if match is None else (int(match[1]), int(match[2]))


def _show(text: str) -> str:
    return _clean_line(text, NOTE_BYTES_MAX)


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
    for each in parts.fields:
        name = each.name.lower()
        if name != "bug" and not name.startswith("bug-") and name not in ("closes", "link", "fixes"):
            continue
        urls = [match[0].rstrip(".;)") for match in _URL.finditer(each.text)]
        rest = each.text
        for url in urls:
            rest = rest.replace(url, "")
            if len(url) > REFERENCE_BYTES_MAX or not url.isascii() or _UNSHOWN.search(url) is not None:
                parts.notes.append(Note(each.line, f"not taken over, no URL that a reference can be: {_show(url)}"))
            else:
                found[url] = None
        # A URL or a CVE id alone is a reference; with more words around, such as a commit and its title, the line stays besides.
        each.taken = not _CVE.sub("", rest).strip(" ,;.()")
    if len(found) > REFERENCES_MAX:
        parts.notes.append(Note(1, f"not taken over: {len(found) - REFERENCES_MAX} references beyond {REFERENCES_MAX}"))
    return tuple(list(found)[:REFERENCES_MAX])


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
