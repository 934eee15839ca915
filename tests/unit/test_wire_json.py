"""JSON: every difference between readers is refused with its code, and what is written is what is read."""

from __future__ import annotations

import enum
import time
from itertools import count
from typing import Any

import pytest

from wire.canonical_json import decode_untrusted, encode
from wire.errors import MalformedError
from wire.limits import JSON_DEPTH_MAX, JSON_INTEGER_MAX, JSON_ITEMS_MAX, MEBIBYTE


def code_of(data: bytes, **options: Any) -> str:
    with pytest.raises(MalformedError) as caught:
        decode_untrusted(data, **options)
    return caught.value.code


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (None, b"null"),
        (True, b"true"),
        (0, b"0"),
        (-JSON_INTEGER_MAX, b"-9007199254740991"),
        ("", b'""'),
        ('\x00\x1f"\\\b\t\n\f\r/\x7f', b'"\\u0000\\u001f\\"\\\\\\b\\t\\n\\f\\r/\x7f"'),
        ("€\u2028😀", '"€\u2028😀"'.encode()),
        ([], b"[]"),
        ({}, b"{}"),
        ({"b": [1, {"z": None, "a": False}], "a": "x"}, b'{"a":"x","b":[1,{"a":false,"z":null}]}'),
        ({"ﾮ": 1, "😀": 2, "z": 3}, '{"z":3,"😀":2,"ﾮ":1}'.encode()),  # by UTF-16, U+1F600 comes before U+FFAE
        ({"aﾮ": 1, "a😀": 2}, '{"a😀":2,"aﾮ":1}'.encode()),
    ],
    ids=count(),
)
def test_value_has_one_form(value: Any, data: bytes) -> None:
    assert encode(value) == data
    assert decode_untrusted(data) == value
    assert decode_untrusted(data, canonical=False) == value


def test_tuples_and_text_enumerations_are_written_as_what_they_are() -> None:
    class Verdict(enum.StrEnum):
        APPROVE = "approve"

    assert encode({"v": (Verdict.APPROVE, 1)}) == b'{"v":["approve",1]}'
    assert encode({Verdict.APPROVE: 1}) == b'{"approve":1}'


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b'{"a":1,"a":1}', "duplicate_member"),
        (b'{"a":1,"\\u0061":2}', "duplicate_member"),
        (b'[{"x":{"verdict":"reject","b":1,"verdict":"approve"}}]', "duplicate_member"),
        (b"1.0", "float"),
        (b"1.5", "float"),
        (b"1e5", "float"),
        (b"1E400", "float"),
        (b"-0", "float"),
        (b"-0.0", "float"),
        (b"NaN", "float"),
        (b"[Infinity]", "float"),
        (b"-Infinity", "float"),
        (b"9007199254740992", "integer_range"),
        (b"-9007199254740992", "integer_range"),
        (b"1" * 5000, "integer_range"),
        (b'"\\ud800"', "surrogate"),
        (b'"\\udc00\\ud800"', "surrogate"),
        (b'{"\\ud83d":1}', "surrogate"),
        ('"e\u0301"'.encode(), "not_nfc"),
        ('{"e\u0301":1}'.encode(), "not_nfc"),
        (b'"e\\u0301"', "not_nfc"),
        (b"\xef\xbb\xbf{}", "bom"),
        (b'"\xff"', "utf8"),
        (b'"\xed\xa0\x80"', "utf8"),
        (b"\xff\xfe1\x00", "utf8"),
        (b"", "syntax"),
        (b" ", "syntax"),
        (b"{", "syntax"),
        (b"[1,]", "syntax"),
        (b"{'a':1}", "syntax"),
        (b"[1 2]", "syntax"),
        (b"01", "syntax"),
        (b"+1", "syntax"),
        (b"1_0", "syntax"),
        (b"0x1", "syntax"),
        (b"[] []", "syntax"),
        (b"nul", "syntax"),
        (b'"a\nb"', "syntax"),
        (b'"a\x00b"', "syntax"),
        (b'"\\x41"', "syntax"),
        (b'"\\ud8"', "syntax"),
        (b'"abc', "syntax"),
        (b'"abc\\', "syntax"),
        (b"]", "syntax"),
        ("[１]".encode(), "syntax"),  # a digit elsewhere in Unicode  # noqa: RUF001
    ],
    ids=count(),
)
@pytest.mark.parametrize("canonical", [True, False], ids=["canonical", "any form"])
def test_refusal(data: bytes, rule: str, canonical: bool) -> None:
    assert code_of(data, canonical=canonical) == f"wire.json.{rule}"


@pytest.mark.parametrize(
    "data",
    [
        b' {"a":1}',
        b'{"a":1}\n',
        b'{"a": 1}',
        b'{"b":1,"a":2}',
        b'"\\u0041"',
        b'"\\/"',
        b'"\\u001F"',
        b'"\\u00e9"',
        '{"ﾮ":1,"😀":2}'.encode(),
    ],
    ids=count(),
)
def test_other_forms_are_refused_only_where_the_canonical_one_is_due(data: bytes) -> None:
    assert code_of(data) == "wire.json.not_canonical"
    value = decode_untrusted(data, canonical=False)
    assert decode_untrusted(encode(value)) == value


def test_length_is_checked_before_anything_else() -> None:
    assert code_of(b"\xff" * 11, bytes_max=10) == "wire.json.too_large"
    assert code_of(b"\xff" * 10, bytes_max=10) == "wire.json.utf8"
    assert code_of(b'"' + b"a" * MEBIBYTE + b'"') == "wire.json.too_large"


@pytest.mark.parametrize("canonical", [True, False])
def test_depth_at_its_border(canonical: bool) -> None:
    deepest = b"[" * JSON_DEPTH_MAX + b"]" * JSON_DEPTH_MAX
    assert encode(decode_untrusted(deepest, canonical=canonical)) == deepest
    assert code_of(b"[" + deepest + b"]", canonical=canonical) == "wire.json.too_deep"
    assert code_of(b'{"a":' * (JSON_DEPTH_MAX + 1), canonical=canonical) == "wire.json.too_deep"
    assert decode_untrusted(b"[[],[],{}]", depth_max=2, canonical=canonical) == [[], [], {}]
    assert code_of(b"[[[]]]", depth_max=2, canonical=canonical) == "wire.json.too_deep"
    # Nobody asks for more depth than there is.
    assert code_of(b"[" + deepest + b"]", depth_max=1000, canonical=canonical) == "wire.json.too_deep"


def test_encoder_has_the_decoders_borders() -> None:
    deepest: Any = []
    for _ in range(JSON_DEPTH_MAX - 1):
        deepest = [deepest]
    assert decode_untrusted(encode(deepest)) == deepest
    with pytest.raises(MalformedError) as caught:
        encode([deepest])
    assert caught.value.code == "wire.json.too_deep"
    most = [0] * (JSON_ITEMS_MAX - 1)
    assert decode_untrusted(encode(most)) == most
    with pytest.raises(MalformedError) as caught:
        encode([*most, 0])
    assert caught.value.code == "wire.json.too_many_items"
    assert code_of(b"[" + b"0," * (JSON_ITEMS_MAX - 1) + b"0]") == "wire.json.too_many_items"


def test_brackets_in_strings_are_no_depth() -> None:
    value = ["[{" * 100, '\\"[[[' * 50, {"{[" * 40: '"' * 30}]
    assert decode_untrusted(encode(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        b"[" + b"0," * JSON_ITEMS_MAX + b"0]",
        b"[" * 20 + b"[]," * JSON_ITEMS_MAX + b"[]" + b"]" * 20,
        b"{" + b'"":0,' * (JSON_ITEMS_MAX // 2) + b'"":0}',
    ],
    ids=["values", "arrays", "members"],
)
def test_number_of_values_is_bounded_before_parsing(data: bytes) -> None:
    assert code_of(data) == "wire.json.too_many_items"


@pytest.mark.parametrize(
    "data",
    [
        b'"' + b'\\"' * 500_000,
        b'"' * 1_000_001,
        b"[" * 1_000_000,
        b"[]" * 500_000,
        b'"\\' * 500_000,
        b"{" + b",".join(b'"%d":0' % i for i in range(49_000)) + b',"0":0}',
        b"9" * 1_000_000,
        "é".encode() * 500_000,
    ],
    ids=["quotes", "strings", "open", "closed", "backslashes", "duplicate", "digits", "letters"],
)
def test_hostile_document_is_refused_in_linear_time(data: bytes) -> None:
    started = time.perf_counter()
    assert code_of(data, bytes_max=2 * MEBIBYTE).startswith("wire.json.")
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (1.0, "type"),
        ([1.5], "type"),
        (b"bytes", "type"),
        ({"a": {1, 2}}, "type"),
        ({1: "a"}, "type"),
        ({None: "a"}, "type"),
        (object(), "type"),
        (JSON_INTEGER_MAX + 1, "integer_range"),
        ([-JSON_INTEGER_MAX - 1], "integer_range"),
        ("\ud800", "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        ("e\u0301", "not_nfc"),
        ({"A\u030a": 1}, "not_nfc"),
        ([0] * JSON_ITEMS_MAX, "too_many_items"),
        ({str(i): 0 for i in range(JSON_ITEMS_MAX // 2)}, "too_many_items"),
    ],
    ids=count(),
)
def test_what_nobody_accepts_is_not_written(value: Any, rule: str) -> None:
    with pytest.raises(MalformedError) as caught:
        encode(value)
    assert caught.value.code == f"wire.json.{rule}"


def test_value_that_contains_itself_is_too_deep() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(MalformedError) as caught:
        encode(value)
    assert caught.value.code == "wire.json.too_deep"


def test_syntax_error_says_where_and_quotes_nothing() -> None:
    with pytest.raises(MalformedError) as caught:
        decode_untrusted(b'{"a":1,\n"secret"}', canonical=False)
    assert caught.value.details == {"line": 2, "column": 9}
    assert "secret" not in str(caught.value)
