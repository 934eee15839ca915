"""Readers that turn the members of decoded JSON objects into checked fields of records.

Each takes the value, the field's name for the error, and the rule; returns the typed value or raises `InvalidMetadataError` with a
``provenance.field.*`` code whose details name the field. They add what JSON has and positional encodings have not: objects with exactly
these members, hexadecimal digests, closed choices. Texts follow the rules of `wire.fields.as_text`.

Source: docs/spec/patch-file.md 4.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from provenance.errors import InvalidMetadataError
from provenance.timestamp import seconds_from_timestamp
from wire.errors import MalformedError
from wire.fields import as_identifier, as_identity_id, as_text
from wire.limits import JSON_INTEGER_MAX

T = TypeVar("T")

_HEX_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def read_object(value: object, name: str, members: frozenset[str]) -> Mapping[str, object]:
    """Return `value`, an object with exactly the named members.

    Raises:
        InvalidMetadataError: ``provenance.field.object``, ``provenance.field.member_missing``, ``provenance.field.member_unknown``.
    """
    if not isinstance(value, dict):
        raise refuse_field("object", name, "is not an object", "an object", type(value).__name__)
    # Unknown before missing: a member with the wrong case is both, and the unknown spelling explains it.
    if unknown := sorted(value.keys() - members):
        raise refuse_field("member_unknown", name, "has a member that this version does not know", None, unknown[0])
    if missing := sorted(members - value.keys()):
        raise refuse_field("member_missing", name, "lacks a member", missing[0], None)
    return value


def read_list(value: object, name: str, length_max: int, length_min: int = 0) -> Sequence[object]:
    """Return `value`, a list of `length_min` to `length_max` values.

    Raises:
        InvalidMetadataError: ``provenance.field.list``, ``provenance.field.length``.
    """
    if not isinstance(value, list | tuple):
        raise refuse_field("list", name, "is not a list", "a list", type(value).__name__)
    if not length_min <= len(value) <= length_max:
        raise refuse_field(
            "length", name, "has the wrong number of values", f"{length_min} to {length_max}", len(value)
        )
    return value


def read_line(value: object, name: str, bytes_max: int, bytes_min: int = 1) -> str:
    """Return `value`, a text of one line that neither begins nor ends with white space.

    Raises:
        InvalidMetadataError: ``provenance.field.text``, ``.length``, ``.characters``, ``.not_nfc``, ``.spaces``.
    """
    text = _wire(lambda: as_text(value, name, bytes_max, bytes_min))
    if text != text.strip():
        raise refuse_field("spaces", name, "begins or ends with white space", None, text)
    return text


def read_paragraphs(value: object, name: str, bytes_max: int, bytes_min: int = 0) -> str:
    """Return `value`, a text of any number of lines, none of which ends with white space, without empty lines at its ends.

    So every text has one form: a mail tool that trims cannot make two texts out of one.

    Raises:
        InvalidMetadataError: ``provenance.field.text``, ``.length``, ``.characters``, ``.not_nfc``, ``.spaces``.
    """
    text = _wire(lambda: as_text(value, name, bytes_max, bytes_min, multiline=True))
    if text != text.strip() or any(line != line.rstrip() for line in text.split("\n")):
        raise refuse_field(
            "spaces", name, "has white space at the end of a line or at its own beginning or end", None, None
        )
    return text


def read_choice(value: object, name: str, choices: Sequence[str]) -> str:
    """Return `value`, one of `choices`, exactly so spelt.

    Raises:
        InvalidMetadataError: ``provenance.field.choice``.
    """
    if not isinstance(value, str) or value not in choices:
        shown = value if isinstance(value, str) else type(value).__name__
        raise refuse_field("choice", name, "is not one of the allowed values", ", ".join(choices), shown)
    return value


def read_integer(value: object, name: str, minimum: int = 0, maximum: int = JSON_INTEGER_MAX) -> int:
    """Return `value`, an integer from `minimum` to `maximum`, both included; true and false are not integers.

    Raises:
        InvalidMetadataError: ``provenance.field.integer``, ``provenance.field.range``.
    """
    if type(value) is not int:
        raise refuse_field("integer", name, "is not an integer", "an integer", type(value).__name__)
    if not minimum <= value <= maximum:
        raise refuse_field("range", name, "is out of range", f"{minimum} to {maximum}", value)
    return value


def read_hex_digest(value: object, name: str) -> str:
    """Return `value`, a SHA-256 digest as 64 lower-case hexadecimal digits.

    Raises:
        InvalidMetadataError: ``provenance.field.digest``.
    """
    if not isinstance(value, str) or _HEX_DIGEST.fullmatch(value) is None:
        shown = value if isinstance(value, str) else type(value).__name__
        raise refuse_field("digest", name, "is not a SHA-256 digest", "64 lower-case hexadecimal digits", shown)
    return value


def read_timestamp(value: object, name: str) -> str:
    """Return `value`, a timestamp such as ``2026-11-22T06:50:00Z``.

    Raises:
        InvalidMetadataError: ``provenance.field.timestamp``.
    """
    if not isinstance(value, str):
        raise refuse_field("timestamp", name, "is not a timestamp", "YYYY-MM-DDThh:mm:ssZ", type(value).__name__)
    seconds_from_timestamp(value, name)
    return value


def read_identifier(value: object, name: str) -> str:
    """Return `value`, an identifier such as ``security-review``.

    Raises:
        InvalidMetadataError: ``provenance.field.text``, ``provenance.field.identifier``.
    """
    return _wire(lambda: as_identifier(value, name))


def read_identity_id(value: object, name: str) -> str:
    """Return `value`, an identity id such as ``alice@acme``.

    Raises:
        InvalidMetadataError: ``provenance.field.text``, ``provenance.field.identity_id``.
    """
    return _wire(lambda: as_identity_id(value, name))


def read_optional(value: object, name: str, reader: Callable[[object, str], T]) -> T | None:
    """Return None for null, and otherwise what `reader` makes of the value.

    Raises:
        InvalidMetadataError: What `reader` raises.
    """
    return None if value is None else reader(value, name)


def refuse_field(rule: str, name: str, sentence: str, expected: object, actual: object) -> InvalidMetadataError:
    """Return the refusal of one field, code ``provenance.field.<rule>``, its details naming the field."""
    return InvalidMetadataError(
        f"provenance.field.{rule}", f"{name} {sentence}", expected=expected, actual=actual, details={"field": name}
    )


def _wire(read: Callable[[], T]) -> T:
    """Return what a reader of floor 0 returns; its refusal becomes one of metadata, with the same rule in the code."""
    try:
        return read()
    except MalformedError as error:
        rule = error.code.rpartition(".")[2]
        raise InvalidMetadataError(
            f"provenance.field.{rule}", error.message, hint=error.hint, details=error.details
        ) from error
