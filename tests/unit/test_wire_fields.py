"""The field readers: what each gives back, and each refusal with its code and the field's name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import pytest

from wire import fields
from wire.errors import MalformedError
from wire.limits import IDENTIFIER_BYTES_MAX

text = partial(fields.as_text, bytes_max=20)
lines = partial(fields.as_text, bytes_max=20, multiline=True)
pair = partial(fields.as_tuple, length=2)
few = partial(fields.as_tuple, length_max=2)
four_bytes = partial(fields.as_bytes, length=4)
some_bytes = partial(fields.as_bytes, bytes_max=4)
small = partial(fields.as_int, minimum=-2, maximum=5)
optional = partial(fields.as_optional, reader=fields.as_int)


@pytest.mark.parametrize(
    ("reader", "value"),
    [
        (fields.as_tuple, ()),
        (fields.as_tuple, (1,) * 50),
        (pair, (1, 2)),
        (few, ()),
        (few, (1, 2)),
        (fields.as_int, 0),
        (fields.as_int, 2**63 - 1),
        (small, -2),
        (small, 5),
        (fields.as_bool, True),
        (fields.as_bool, False),
        (fields.as_bytes, b"x" * 500),
        (four_bytes, b"abcd"),
        (some_bytes, b""),
        (some_bytes, b"abcd"),
        (fields.as_digest, b"d" * 32),
        (text, ""),
        (text, "a" * 20),
        (text, "é" * 10),
        (text, "نمی‌خواهم"),  # U+200C, without which Persian is misspelt
        (partial(fields.as_text, bytes_max=4, bytes_min=4), "\U0001f600"),
        (lines, "a\nb\n"),
        (fields.as_identifier, "a"),
        (fields.as_identifier, "0.a_b-c"),
        (fields.as_identifier, "a" * IDENTIFIER_BYTES_MAX),
        (fields.as_identity_id, "alice@acme"),
        (optional, None),
        (optional, 4),
    ],
    ids=count(),
)
def test_valid_value_is_returned(reader: Callable[[object, str], object], value: object) -> None:
    assert reader(value, "field") is value


@pytest.mark.parametrize(
    ("reader", "value", "rule"),
    [
        (fields.as_tuple, [1], "tuple"),
        (fields.as_tuple, None, "tuple"),
        (pair, (1,), "length"),
        (pair, (1, 2, 3), "length"),
        (few, (1, 2, 3), "length"),
        (fields.as_int, True, "int"),
        (fields.as_int, "1", "int"),
        (fields.as_int, 1.0, "int"),
        (fields.as_int, -1, "range"),
        (fields.as_int, 2**63, "range"),
        (small, -3, "range"),
        (small, 6, "range"),
        (fields.as_bool, 1, "bool"),
        (fields.as_bool, None, "bool"),
        (fields.as_bytes, "text", "bytes"),
        (fields.as_bytes, bytearray(b"abcd"), "bytes"),
        (four_bytes, b"abc", "length"),
        (four_bytes, b"abcde", "length"),
        (some_bytes, b"abcde", "length"),
        (fields.as_digest, b"d" * 31, "length"),
        (fields.as_digest, "d" * 32, "bytes"),
        (text, b"a", "text"),
        (text, "a" * 21, "length"),
        (text, "é" * 11, "length"),
        (text, "é" * 1_000_000, "length"),
        (partial(fields.as_text, bytes_max=9, bytes_min=1), "", "length"),
        (text, "\ud800", "characters"),
        (text, "a\nb", "characters"),
        (text, "a\r", "characters"),
        (text, "\x00", "characters"),
        (text, "\x1b[2J", "characters"),
        (text, "\x7f", "characters"),
        (text, "\x85", "characters"),
        (text, "a\u202eb", "characters"),
        (text, "a\u2066b", "characters"),
        (text, "\u200e", "characters"),
        (text, "\u200b", "characters"),
        (text, "\u2028", "characters"),
        (text, "\ufeff", "characters"),
        (text, "\u00ad", "characters"),
        (text, "\U000e0041", "characters"),
        (lines, "a\r\nb", "characters"),
        (lines, "a\tb", "characters"),
        (lines, "a\u202eb", "characters"),
        (text, "e\u0301", "not_nfc"),
        (text, "\u212b", "not_nfc"),
        (fields.as_identifier, b"a", "text"),
        *(
            (fields.as_identifier, bad, "identifier")
            for bad in ("", "A", "-a", ".a", "a b", "a\n", "é", "\u0430", "a" * 64, "a@b")
        ),
        (fields.as_identity_id, 1, "text"),
        *(
            (fields.as_identity_id, bad, "identity_id")
            for bad in ("", "alice", "@acme", "a@", "a@b@c", "A@b", "a@b\n", f"{'a' * 64}@b")
        ),
        (optional, "x", "int"),
        (optional, False, "int"),
    ],
    ids=count(),
)
def test_refusal_names_rule_and_field(reader: Callable[[Any, str], object], value: object, rule: str) -> None:
    with pytest.raises(MalformedError) as caught:
        reader(value, "reason")
    assert caught.value.code == f"wire.field.{rule}"
    assert caught.value.details["field"] == "reason"
    assert str(caught.value).startswith("reason ")


def test_forbidden_character_is_named_with_its_place() -> None:
    with pytest.raises(MalformedError, match=r"U\+202E at character 3"):
        text("abc\u202e", "title")
