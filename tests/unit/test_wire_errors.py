"""Errors: the sentence, the cut, and what programs read."""

from __future__ import annotations

import json

import pytest

from wire.errors import (
    CorruptionError,
    InvalidCertificateError,
    InvalidProofError,
    InvalidSignatureError,
    MalformedError,
    PatchwardenError,
    RejectedError,
    UnavailableError,
    show_value,
)


@pytest.mark.parametrize(
    ("expected", "actual", "message"),
    [
        (None, None, "the rule"),
        ("one", "two", "the rule: expected one, got two"),
        (1, 0, "the rule: expected 1, got 0"),
        ("one", None, "the rule: expected one"),
        (None, b"\x00\xff", "the rule: got 00ff"),
        ("", b"", "the rule: expected an empty text, got no bytes"),
    ],
)
def test_sentence_names_rule_expected_and_actual(expected: object, actual: object, message: str) -> None:
    error = PatchwardenError("x.y", "the rule", expected=expected, actual=actual)
    assert str(error) == error.message == message


@pytest.mark.parametrize(
    "value",
    [b"\xaa" * 1_000_000, "a" * 1_000_000, 10**300, "\u202e" * 500],
    ids=["bytes", "text", "number", "escaped"],
)
def test_shown_value_is_cut(value: object) -> None:
    shown = show_value(value)
    assert len(shown) == 121
    assert shown.endswith("…")


@pytest.mark.parametrize("value", [b"\xaa" * 60, "a" * 120, "x"], ids=["bytes", "text", "short"])
def test_shown_value_that_fits_is_whole(value: bytes | str) -> None:
    assert show_value(value) == (value if isinstance(value, str) else value.hex())


def test_shown_text_brings_no_control_characters_to_a_terminal() -> None:
    assert show_value("a\x1b[31mb\n\u202e") == "a\\x1b[31mb\\n\\u202e"


def test_ellipsis_of_our_own_sentences_is_shown_as_it_is_and_nothing_else() -> None:
    assert show_value("CVE-YYYY-NNNN or http(s)://…") == "CVE-YYYY-NNNN or http(s)://…"
    assert show_value("…\u2025\u202e…\x1b\u0435") == "…\\u2025\\u202e…\\x1b\\u0435"
    error = RejectedError("wire.test.rule", "no", expected="PROGRAM [ARGUMENT…]", actual="\u202e")
    assert error.message == "no: expected PROGRAM [ARGUMENT…], got \\u202e"


def test_shown_integer_too_long_for_python_to_print_is_described() -> None:
    assert show_value(1 << 100_000) == "an integer of 100001 bits"


def test_shown_views_of_bytes_are_hexadecimal() -> None:
    assert show_value(bytearray(b"\x01")) == show_value(memoryview(b"\x01")) == "01"


def test_as_dict_is_json() -> None:
    error = RejectedError("wire.test", "the rule", hint="do it", details={"field": "a", "count": 2})
    assert json.loads(json.dumps(error.as_dict())) == {
        "code": "wire.test",
        "message": "the rule",
        "hint": "do it",
        "details": {"field": "a", "count": 2},
    }


def test_details_cannot_be_changed() -> None:
    given: dict[str, str | int] = {"a": 1}
    error = RejectedError("wire.test", "the rule", details=given)
    given["a"] = 2
    assert dict(error.details) == {"a": 1}
    with pytest.raises(TypeError):
        error.details["a"] = 3  # type: ignore[index]


def test_repr_shows_class_and_code() -> None:
    assert repr(MalformedError("wire.test", "the rule")) == "MalformedError('wire.test', 'the rule')"


def test_each_error_belongs_to_one_family() -> None:
    families = (RejectedError, UnavailableError, CorruptionError)
    for error in (MalformedError, InvalidSignatureError, InvalidProofError, InvalidCertificateError):
        assert [family for family in families if issubclass(error, family)] == [RejectedError]
    for family in families:
        assert issubclass(family, PatchwardenError)
        assert [other for other in families if issubclass(family, other)] == [family]
