"""What every record of the state is: a frozen dataclass with one canonical encoding.

A record's encoding is the canonical tuple of a format version and its fields in the order in which they stand; the order never changes.
Records are decoded from this node's own tables, whose rows carry a checksum and stand under the state root, so decoding checks the shape
and not every field: a row that fails is corruption, not somebody's input.

Source: docs/spec/ledger.md 4.
"""

from __future__ import annotations

from dataclasses import fields
from operator import attrgetter
from typing import Any, Final, Self, cast

from ledger.errors import LedgerCorruptionError
from wire.codec import Value, decode_untrusted, encode
from wire.errors import MalformedError
from wire.limits import TX_BYTES_MAX

RECORD_VERSION: Final = 1
RECORD_BYTES_MAX: Final = 2 * TX_BYTES_MAX
"""The longest record: everything one transaction can carry, and what the record adds."""


class Record:
    """A record of the state: a frozen dataclass whose fields all have a canonical encoding."""

    __slots__ = ()

    def encode(self) -> bytes:
        """Return the canonical encoding: format version, then the fields in order."""
        return encode((RECORD_VERSION, *_values(self)))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the record that `encode` made `data` from.

        Raises:
            LedgerCorruptionError: ``ledger.corruption.record``: the stored bytes are not such a record.
        """
        value = decode_record(cls, data)
        if len(value) != len(_names(cls)) + 1 or value[0] != RECORD_VERSION:
            raise corrupt_record(cls, "wrong shape or version")
        return cls(*cast("tuple[Any, ...]", value[1:]))


def decode_record(cls: type[Record], data: bytes) -> tuple[Value, ...]:
    """Return the version and the fields that a stored record consists of; which version it may be is the record's to say.

    Raises:
        LedgerCorruptionError: ``ledger.corruption.record``.
    """
    try:
        value = decode_untrusted(data, bytes_max=RECORD_BYTES_MAX)
    except MalformedError as error:
        raise corrupt_record(cls, error.message) from error
    if type(value) is not tuple or not value:
        raise corrupt_record(cls, "wrong shape or version")
    return value


def corrupt_record(cls: type[Record], why: str) -> LedgerCorruptionError:
    """Return the error for stored bytes that are no `cls`."""
    return LedgerCorruptionError("ledger.corruption.record", f"a stored {cls.__name__} cannot be read ({why})")


_NAMES: Final[dict[type[Record], tuple[str, ...]]] = {}
_GETTERS: Final[dict[type[Record], attrgetter[tuple[Value, ...]]]] = {}


def _names(cls: type[Record]) -> tuple[str, ...]:
    names = _NAMES.get(cls)
    if names is None:
        names = _NAMES[cls] = tuple(field.name for field in fields(cast(Any, cls)))
    return names


def _values(record: Record) -> tuple[Value, ...]:
    cls = type(record)
    getter = _GETTERS.get(cls)
    if getter is None:
        getter = _GETTERS[cls] = attrgetter(*_names(cls))
    return getter(record)
