"""Reading the parameters of a request: each function returns a checked value or refuses with the parameter's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from node.local.protocol import Json
from wire.errors import RejectedError
from wire.hashing import Digest

NAME_CHARACTERS_MAX: Final = 256
"""The longest identifier that a request may carry."""
TEXT_CHARACTERS_MAX: Final = 4096
INTEGER_MAX: Final = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly."""

Params = Mapping[str, Json]


class ParameterError(RejectedError):
    """A parameter of a request breaks its rule (`node.param.<rule>`)."""


def as_integer(params: Params, name: str, default: int | None = None, *, maximum: int = INTEGER_MAX) -> int:
    """Return a non-negative integer parameter."""
    value = params.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
        raise ParameterError(
            "node.param.integer", f"{name} must be an integer", expected=f"0 to {maximum}", actual=repr(value)[:40]
        )
    return value


def as_optional_integer(params: Params, name: str) -> int | None:
    """Return a non-negative integer parameter, or None when it is absent or null."""
    return None if params.get(name) is None else as_integer(params, name)


def as_count(params: Params, name: str, default: int, maximum: int) -> int:
    """Return an integer parameter from 1 to `maximum`; an absent or null one is `default`."""
    value = default if params.get(name) is None else as_integer(params, name)
    if not 1 <= value <= maximum:
        raise ParameterError("node.param.integer", f"{name} is out of range", expected=f"1 to {maximum}", actual=value)
    return value


def as_name(params: Params, name: str, default: str | None = None) -> str:
    """Return a short, non-empty text parameter."""
    value = params.get(name, default)
    if not isinstance(value, str) or not 0 < len(value) <= NAME_CHARACTERS_MAX or not _is_unicode(value):
        raise ParameterError(
            "node.param.text",
            f"{name} must be a text of 1 to {NAME_CHARACTERS_MAX} characters",
            actual=repr(value)[:40],
        )
    return value


def _is_unicode(text: str) -> bool:
    """Return whether the text has a form in UTF-8: JSON can escape half a surrogate pair, which is no character."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def as_optional_name(params: Params, name: str) -> str | None:
    """Return a short text parameter, or None when it is absent or null."""
    return None if params.get(name) is None else as_name(params, name)


def as_optional_text(params: Params, name: str) -> str | None:
    """Return a text parameter of at most `TEXT_CHARACTERS_MAX` characters, or None when it is absent or null."""
    value = params.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > TEXT_CHARACTERS_MAX or not _is_unicode(value):
        raise ParameterError("node.param.text", f"{name} must be a text of at most {TEXT_CHARACTERS_MAX} characters")
    return value


def as_flag(params: Params, name: str, *, default: bool = False) -> bool:
    """Return a boolean parameter."""
    value = params.get(name, default)
    if not isinstance(value, bool):
        raise ParameterError("node.param.boolean", f"{name} must be true or false", actual=repr(value)[:40])
    return value


def as_list(params: Params, name: str, items_max: int) -> list[Json]:
    """Return a list parameter of 1 to `items_max` items."""
    value = params.get(name)
    if not isinstance(value, list) or not 0 < len(value) <= items_max:
        raise ParameterError("node.param.list", f"{name} must be a list of 1 to {items_max} items")
    return value


def as_hex_digest(params: Params, name: str) -> Digest:
    """Return 32 bytes from 64 lower-case hexadecimal digits."""
    value = as_name(params, name)
    if len(value) != 64 or any(character not in "0123456789abcdef" for character in value):
        raise ParameterError("node.param.digest", f"{name} must be 64 lower-case hexadecimal digits", actual=value[:80])
    return Digest(bytes.fromhex(value))
