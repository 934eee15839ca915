"""Readers that turn decoded values into checked fields of records.

Each takes the value, the field's name for the error, and the rule; returns the typed value or raises `MalformedError` with a
``wire.field.*`` code whose details name the field. Texts are NFC, without control characters and without the bidirectional controls that
make a reader see something else than what is there.

Source: docs/spec/wire.md 4; CVE-2021-42574 for the bidirectional controls.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar
from unicodedata import is_normalized

from wire.errors import MalformedError
from wire.hashing import DIGEST_BYTES, Digest
from wire.limits import IDENTIFIER_BYTES_MAX

T = TypeVar("T")

INTEGER_MAX: Final = 2**63 - 1
"""The largest integer of a field unless it says otherwise: it fits a signed 64-bit column everywhere."""

IDENTIFIER_PATTERN: Final = rf"[a-z0-9][a-z0-9._-]{{0,{IDENTIFIER_BYTES_MAX - 1}}}"
_IDENTIFIER: Final = re.compile(IDENTIFIER_PATTERN, re.ASCII)
_IDENTITY_ID: Final = re.compile(rf"{IDENTIFIER_PATTERN}@{IDENTIFIER_PATTERN}", re.ASCII)

# C0, DEL and C1 controls; line and paragraph separators; the bidirectional embeddings, overrides, isolates and marks; the invisible
# characters that make two texts look alike (zero width space, word joiner, byte order mark, soft hyphen); tags. The joiners U+200C and
# U+200D are accepted: Persian and Hindi cannot be written without them.
_CONTROLS: Final = (
    r"\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e007f"
)
_FORBIDDEN: Final = re.compile(f"[{_CONTROLS}]")
_FORBIDDEN_MULTILINE: Final = re.compile(rf"(?!\n)[{_CONTROLS}]")


def as_tuple(value: object, name: str, length: int | None = None, length_max: int | None = None) -> tuple[object, ...]:
    """Return `value`, a tuple of exactly `length` or at most `length_max` values when given.

    Raises:
        MalformedError: ``wire.field.tuple``, ``wire.field.length``.
    """
    if type(value) is not tuple:
        raise _refuse("tuple", name, "is not a sequence", "a tuple", _kind(value))
    if length is not None and len(value) != length:
        raise _refuse("length", name, "has the wrong number of values", length, len(value))
    if length_max is not None and len(value) > length_max:
        raise _refuse("length", name, "has too many values", f"at most {length_max}", len(value))
    return value


def as_int(value: object, name: str, minimum: int = 0, maximum: int = INTEGER_MAX) -> int:
    """Return `value`, an integer from `minimum` to `maximum`, both included.

    Raises:
        MalformedError: ``wire.field.int`` (also for a bool), ``wire.field.range``.
    """
    if type(value) is not int:
        raise _refuse("int", name, "is not an integer", "an integer", _kind(value))
    if not minimum <= value <= maximum:
        raise _refuse("range", name, "is out of range", f"{minimum} to {maximum}", value)
    return value


def as_bool(value: object, name: str) -> bool:
    """Return `value`, a bool; 0 and 1 are not bools.

    Raises:
        MalformedError: ``wire.field.bool``.
    """
    if type(value) is not bool:
        raise _refuse("bool", name, "is not a boolean", "a boolean", _kind(value))
    return value


def as_bytes(value: object, name: str, length: int | None = None, bytes_max: int | None = None) -> bytes:
    """Return `value`, exactly `length` or at most `bytes_max` bytes when given.

    Raises:
        MalformedError: ``wire.field.bytes``, ``wire.field.length``.
    """
    if type(value) is not bytes:
        raise _refuse("bytes", name, "is not a byte string", "bytes", _kind(value))
    if length is not None and len(value) != length:
        raise _refuse("length", name, "has the wrong length", f"{length} bytes", len(value))
    if bytes_max is not None and len(value) > bytes_max:
        raise _refuse("length", name, "is too long", f"at most {bytes_max} bytes", len(value))
    return value


def as_digest(value: object, name: str) -> Digest:
    """Return `value`, a 32-byte digest.

    Raises:
        MalformedError: ``wire.field.bytes``, ``wire.field.length``.
    """
    return Digest(as_bytes(value, name, length=DIGEST_BYTES))


def as_text(
    value: object,
    name: str,
    bytes_max: int,
    bytes_min: int = 0,
    *,
    multiline: bool = False,
) -> str:
    """Return `value`, a text of `bytes_min` to `bytes_max` bytes in UTF-8: NFC, no control, bidirectional or invisible character.

    Args:
        value: What was decoded.
        name: The field, for the error.
        bytes_max: The longest accepted text in UTF-8.
        bytes_min: The shortest accepted text in UTF-8.
        multiline: Whether line feeds may stand in it (never carriage returns).

    Raises:
        MalformedError: ``wire.field.text``, ``wire.field.length``, ``wire.field.characters``, ``wire.field.not_nfc``.
    """
    if type(value) is not str:
        raise _refuse("text", name, "is not a text", "text", _kind(value))
    if len(value) > bytes_max:  # A text of n characters has at least n bytes: refuse a huge one before encoding it.
        raise _refuse(
            "length",
            name,
            "is too long",
            f"at most {bytes_max} bytes",
            f"{len(value)} characters",
        )
    try:
        length = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise _refuse("characters", name, "holds a lone surrogate", None, None) from None
    if not bytes_min <= length <= bytes_max:
        raise _refuse(
            "length",
            name,
            "has the wrong length",
            f"{bytes_min} to {bytes_max} bytes",
            length,
        )
    forbidden = (_FORBIDDEN_MULTILINE if multiline else _FORBIDDEN).search(value)
    if forbidden is not None:
        raise _refuse(
            "characters",
            name,
            "holds a control, bidirectional or invisible character",
            None,
            f"U+{ord(forbidden.group()):04X} at character {forbidden.start()}",
        )
    if not is_normalized("NFC", value):
        raise _refuse("not_nfc", name, "is not in Unicode normal form C", None, None)
    return value


def as_identifier(value: object, name: str) -> str:
    """Return `value`, an identifier such as ``acme``: 1 to 63 of ``a-z 0-9 . _ -``, beginning with a letter or digit.

    Raises:
        MalformedError: ``wire.field.text``, ``wire.field.identifier``.
    """
    if type(value) is not str:
        raise _refuse("text", name, "is not a text", "text", _kind(value))
    if _IDENTIFIER.fullmatch(value) is None:
        raise _refuse(
            "identifier",
            name,
            "is not an identifier",
            f"1 to {IDENTIFIER_BYTES_MAX} of a-z 0-9 . _ -",
            value,
        )
    return value


def as_identity_id(value: object, name: str) -> str:
    """Return `value`, an identity id such as ``alice@acme``: the identity's identifier, ``@``, its organisation's identifier.

    Raises:
        MalformedError: ``wire.field.text``, ``wire.field.identity_id``.
    """
    if type(value) is not str:
        raise _refuse("text", name, "is not a text", "text", _kind(value))
    if _IDENTITY_ID.fullmatch(value) is None:
        raise _refuse(
            "identity_id",
            name,
            "is not an identity id",
            "identifier@organisation",
            value,
        )
    return value


def as_optional(value: object, name: str, reader: Callable[[object, str], T]) -> T | None:
    """Return None for None, and otherwise what `reader` makes of the value.

    Raises:
        MalformedError: What `reader` raises.
    """
    return None if value is None else reader(value, name)


def _refuse(rule: str, name: str, sentence: str, expected: object, actual: object) -> MalformedError:
    return MalformedError(
        f"wire.field.{rule}",
        f"{name} {sentence}",
        expected=expected,
        actual=actual,
        details={"field": name},
    )


def _kind(value: object) -> str:
    return type(value).__name__
