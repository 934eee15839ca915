"""The in-toto Statement v1 as this format uses it: which bytes a claim is about, and what kind of claim it is.

Subjects are named and ordered, each with exactly one SHA-256 digest, so that a statement about the same things has the same form. in-toto
asks readers to ignore unknown members of a statement; a statement in a patch file has none, and unknown ones are refused.

Source: docs/spec/patch-file.md 5; in-toto attestation framework, spec/v1/statement.md and resource_descriptor.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from provenance.errors import MalformedPatchError, refuse_as
from provenance.limits import PREDICATE_TYPE_BYTES_MAX
from wire import canonical_json
from wire.canonical_json import JsonValue
from wire.errors import RejectedError

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"

_MEMBERS: Final = frozenset({"_type", "subject", "predicateType", "predicate"})
_HEX_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TYPE_URI: Final = re.compile(r"https?://[!-~]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of checked form; the predicate is still anybody's JSON."""

    subjects: tuple[tuple[str, str], ...]
    """Name and SHA-256 (64 hexadecimal digits) of each thing it is about."""
    predicate_type: str
    """A URI, at most `PREDICATE_TYPE_BYTES_MAX` bytes."""
    predicate: Mapping[str, object]
    """Decoded JSON: objects as dicts, arrays as lists, no floats."""

    @property
    def digests(self) -> tuple[str, ...]:
        """Return the subjects' digests in order."""
        return tuple(digest for _, digest in self.subjects)


def encode_statement(subjects: tuple[tuple[str, str], ...], predicate_type: str, predicate: JsonValue) -> bytes:
    """Return the payload of an envelope: the statement in canonical JSON.

    Raises:
        MalformedError: ``wire.json.*`` when the predicate holds what JSON of ours must not.
    """
    subject: list[JsonValue] = [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects]
    return canonical_json.encode(
        {
            "_type": STATEMENT_TYPE,
            "subject": subject,
            "predicateType": predicate_type,
            "predicate": predicate,
        }
    )


def decode_statement_untrusted(payload: bytes, subject_names: tuple[str, ...]) -> Statement:
    """Return the statement that `payload` encodes in its one form.

    Args:
        payload: Of an envelope.
        subject_names: The subjects that it must have, in this order.

    Raises:
        MalformedPatchError: ``wire.json.*``, ``provenance.statement.members``, ``.type``, ``.predicate_type``, ``.predicate``,
            ``.subject``.
    """
    try:
        value = canonical_json.decode_untrusted(payload)
    except RejectedError as error:
        raise refuse_as(MalformedPatchError, error, "statement") from error
    if not isinstance(value, dict) or value.keys() != _MEMBERS:
        found = ", ".join(value) if isinstance(value, dict) else type(value).__name__
        raise _refuse(
            "members", "a statement has exactly the members of in-toto v1", ", ".join(sorted(_MEMBERS)), found
        )
    if value["_type"] != STATEMENT_TYPE:
        raise _refuse("type", "the statement is not an in-toto Statement v1", STATEMENT_TYPE, value["_type"])
    predicate_type, predicate = value["predicateType"], value["predicate"]
    if (
        not isinstance(predicate_type, str)
        or len(predicate_type) > PREDICATE_TYPE_BYTES_MAX
        or not _TYPE_URI.fullmatch(predicate_type)
    ):
        raise _refuse("predicate_type", "the predicate type is not a URI", "http(s)://…", predicate_type)
    if not isinstance(predicate, dict):
        raise _refuse("predicate", "the predicate is not an object", "an object", type(predicate).__name__)
    subjects = _read_subjects(value["subject"])
    if tuple(name for name, _ in subjects) != subject_names:
        found = ", ".join(name for name, _ in subjects)
        raise _refuse("subject", "the statement is about other subjects", ", ".join(subject_names), found)
    return Statement(subjects, predicate_type, predicate)


def _read_subjects(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list):
        raise _refuse("subject", "the subjects are not a list", "a list", type(value).__name__)
    subjects = []
    for item in value:
        match item:
            case {"name": str(name), "digest": {"sha256": str(digest), **other_digests}, **other_members} if (
                not other_digests and not other_members and _HEX_DIGEST.fullmatch(digest)
            ):
                subjects.append((name, digest))
            case _:
                raise _refuse(
                    "subject", "a subject is not a name with one SHA-256 digest", '{"name", "digest": {"sha256"}}', item
                )
    return tuple(subjects)


def _refuse(rule: str, sentence: str, expected: object, actual: object) -> MalformedPatchError:
    return MalformedPatchError(f"provenance.statement.{rule}", sentence, expected=expected, actual=actual)
