"""JSON with one form and one reading: RFC 8785 out, and in only what every reader understands alike.

Readers disagree about duplicate members, numbers beyond 2**53, fractions, lone surrogates and byte order marks; each of those is refused,
so what was signed is what everybody reads. Texts are NFC, because two normal forms look the same and hash differently.

Caps on size, depth and count hold before the parser runs. This is the only door to JSON that is signed or that comes from outside.

Source: docs/spec/wire.md 6; RFC 8785; RFC 7493 (I-JSON).
"""

from __future__ import annotations

import json
import re
from typing import Final, NoReturn, TypeAlias, cast
from unicodedata import is_normalized

import rfc8785

from wire.errors import MalformedError
from wire.limits import JSON_BYTES_MAX, JSON_DEPTH_MAX, JSON_INTEGER_MAX, JSON_ITEMS_MAX

JsonValue: TypeAlias = "None | bool | int | str | list[JsonValue] | dict[str, JsonValue]"
"""What `decode_untrusted` returns."""

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

# A string, or its beginning where the closing quote is missing: with the quote optional and the loops possessive, one pass is always
# linear. What it leaves behind is the structure.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")

_INTEGER_DIGITS_MAX: Final = len(str(-JSON_INTEGER_MAX))
_FIRST_AFTER_SURROGATES: Final = "\ue000"


def encode(value: object) -> bytes:
    """Return the one RFC 8785 form of `value`, in UTF-8.

    Takes what `JsonValue` says, and tuples for lists. What `decode_untrusted` would refuse is refused here too, so nothing is ever signed
    that nobody accepts.

    Raises:
        MalformedError: ``wire.json.type`` (a float, bytes, a member name that is no text, …), ``wire.json.integer_range``,
            ``wire.json.surrogate``, ``wire.json.not_nfc``, ``wire.json.too_deep``, ``wire.json.too_many_items``.
    """
    if _check_values(value):
        # RFC 8785 orders members by UTF-16 code units and json by code points. They differ only where a name holds a character after
        # the surrogates; everywhere else, and without floats, json's C code gives the same bytes seven times as fast.
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, check_circular=False)
        return text.encode("utf-8")
    return rfc8785.dumps(cast("JsonValue", value))


def decode_untrusted(
    data: bytes, *, bytes_max: int = JSON_BYTES_MAX, depth_max: int = JSON_DEPTH_MAX, canonical: bool = True
) -> JsonValue:
    """Return the value of one JSON document.

    Args:
        data: The document in UTF-8 and nothing else.
        bytes_max: The longest accepted document; checked before anything else.
        depth_max: How deep objects and arrays may nest, at most `JSON_DEPTH_MAX`; checked before parsing.
        canonical: Whether `data` must be in its RFC 8785 form.

    Raises:
        MalformedError: ``wire.json.too_large``, ``wire.json.bom``, ``wire.json.utf8``, ``wire.json.too_deep``,
            ``wire.json.too_many_items``, ``wire.json.syntax``, ``wire.json.duplicate_member``, ``wire.json.float``,
            ``wire.json.integer_range``, ``wire.json.surrogate``, ``wire.json.not_nfc``, ``wire.json.not_canonical``.
    """
    if len(data) > bytes_max:
        raise MalformedError(
            "wire.json.too_large",
            "the JSON document is too long",
            expected=f"at most {bytes_max} bytes",
            actual=len(data),
        )
    if data.startswith(_BYTE_ORDER_MARK):
        raise MalformedError(
            "wire.json.bom", "the JSON document begins with a byte order mark", hint="write it as plain UTF-8"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(
            "wire.json.utf8", "the JSON document is not UTF-8", details={"position": error.start}
        ) from None
    _check_structure(data, min(depth_max, JSON_DEPTH_MAX))
    try:
        value = cast("JsonValue", _DECODER.decode(text))
    except json.JSONDecodeError as error:
        raise MalformedError(
            "wire.json.syntax",
            f"the JSON document is malformed ({error.msg})",
            details={"line": error.lineno, "column": error.colno},
        ) from None
    if canonical:
        if encode(value) != data:
            raise MalformedError(
                "wire.json.not_canonical", "the JSON document is not in its RFC 8785 form", hint="write it canonically"
            )
    elif not (data.isascii() and b"\\u" not in data):
        # Plain ASCII without escapes can hold neither surrogates nor another normal form.
        _check_values(value)
    return value


def _check_structure(data: bytes, depth_max: int) -> None:
    """Return when the document nests at most `depth_max` deep and holds at most `JSON_ITEMS_MAX` values and names. Linear in time."""
    structure = _STRING.sub(b"", data)
    items = 1 + sum(map(structure.count, b",:[{"))
    if items > JSON_ITEMS_MAX:
        raise _too_many_items()
    depth = 0
    for byte in structure.translate(None, _NOT_BRACKETS):
        if byte in b"[{":
            depth += 1
            if depth > depth_max:
                raise _too_deep(depth_max)
        else:
            depth -= 1


def _check_values(value: object) -> bool:
    """Return whether members sort alike by code point and by UTF-16; raise when a value has no place in our JSON.

    Breadth first, one loop a level, so that depth costs no recursion and a value that contains itself is refused as too deep.
    """
    sorts_alike = True
    items = 1
    depth = -1
    level: list[object] = [value]
    while level:
        depth += 1
        below: list[object] = []
        for item in level:
            if depth == JSON_DEPTH_MAX and isinstance(item, dict | list | tuple):
                raise _too_deep(JSON_DEPTH_MAX)
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, int):  # bool is an int, and in range
                if not -JSON_INTEGER_MAX <= item <= JSON_INTEGER_MAX:
                    raise _integer_range()
            elif isinstance(item, dict):
                for name in item:
                    if not isinstance(name, str):
                        raise _wrong_type(f"a member name of type {type(name).__name__}")
                    if not name.isascii():
                        _check_text(name)
                        sorts_alike = sorts_alike and max(name) < _FIRST_AFTER_SURROGATES
                below.extend(item.values())
                items += 2 * len(item)
            elif isinstance(item, list | tuple):
                below.extend(item)
                items += len(item)
            elif item is not None:
                raise _wrong_type(type(item).__name__)
        if items > JSON_ITEMS_MAX:
            raise _too_many_items()
        level = below
    return sorts_alike


def _check_text(text: str) -> None:
    if text.isascii():
        return
    if _SURROGATE.search(text) is not None:
        raise MalformedError("wire.json.surrogate", "a text holds a lone surrogate, which is no character")
    if not is_normalized("NFC", text):
        raise MalformedError(
            "wire.json.not_nfc", "a text is not in Unicode normal form C", hint="normalise texts before signing"
        )


def _members(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        # Taking names out of the finished object as they come, the first that is no longer there is the second of its name.
        duplicate = next(name for name, _ in pairs if members.pop(name, _TAKEN) is _TAKEN)
        raise MalformedError("wire.json.duplicate_member", "an object has two members of one name", actual=duplicate)
    return members


def _integer(text: str) -> int:
    # The length first: Python needs quadratic time for long integers, and refuses the longest with an error of its own.
    if len(text) > _INTEGER_DIGITS_MAX or not -JSON_INTEGER_MAX <= (number := int(text)) <= JSON_INTEGER_MAX:
        raise _integer_range()
    if text == "-0":
        return _refuse_float(text)
    return number


def _refuse_float(text: str) -> NoReturn:
    raise MalformedError(
        "wire.json.float",
        "a number is not a plain integer",
        hint="write times and fractions as text",
        expected="an integer",
        actual=text,
    )


def _wrong_type(what: str) -> MalformedError:
    return MalformedError(
        "wire.json.type",
        "a value has no place in the JSON",
        expected="null, boolean, integer, text, list or object",
        actual=what,
    )


def _integer_range() -> MalformedError:
    return MalformedError(
        "wire.json.integer_range", "an integer is too large", expected=f"at most {JSON_INTEGER_MAX} in magnitude"
    )


def _too_deep(depth_max: int) -> MalformedError:
    return MalformedError(
        "wire.json.too_deep", "objects and arrays nest too deep", expected=f"at most {depth_max} levels"
    )


def _too_many_items() -> MalformedError:
    return MalformedError("wire.json.too_many_items", "there are too many values", expected=f"at most {JSON_ITEMS_MAX}")


_TAKEN: Final = object()
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_float=_refuse_float, parse_int=_integer, parse_constant=_refuse_float, strict=True
)
