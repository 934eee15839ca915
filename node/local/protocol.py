"""What travels over the core's Unix socket, and the limits of it.

One frame is four bytes of big-endian length and one JSON object:

======================  =============================================================================
request                 ``{"id": integer, "method": text, "params": object}``
answer                  ``{"id": integer, "result": value}``
refusal                 ``{"id": integer, "error": {"family", "code", "message", "hint"}}``
event                   ``{"id": integer, "event": value}``: any number of them, then an answer or refusal
======================  =============================================================================

Binary values are text inside: identifiers and digests as lower-case hexadecimal, larger blobs as base64.

Source: docs/spec/local-protocol.md.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final

from wire.errors import CorruptionError, PatchwardenError, RejectedError, UnavailableError

FRAME_BYTES_MAX: Final = 96 * 1024 * 1024
"""One frame: a blob of `BLOB_BYTES_MAX` in base64, with room for its request."""
BLOB_BYTES_MAX: Final = 64 * 1024 * 1024
"""A patch file inside one request; a longer one goes in parts, or by its place on this machine."""
PART_BYTES_MAX: Final = 4 * 1024 * 1024
"""One part of a patch file that goes in parts."""
REQUESTS_IN_FLIGHT_MAX: Final = 256
"""Requests of one connection that are being answered at once; the next one waits unread."""
CONNECTIONS_MAX: Final = 64
"""Connections to the socket at once; the next one waits unaccepted."""
LENGTH_BYTES: Final = 4

Json = Any
"""A JSON value. It is checked where it becomes a typed one, not by its static type."""


class InternalError(PatchwardenError):
    """The core met a bug of its own while it answered; its log says where."""


_FAMILIES: Final[tuple[tuple[str, type[PatchwardenError]], ...]] = (
    ("rejected", RejectedError),
    ("unavailable", UnavailableError),
    ("corruption", CorruptionError),
    ("bug", InternalError),
)


def encode_message(message: Json) -> bytes:
    """Return one frame that holds `message`."""
    payload = json.dumps(message, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")
    if len(payload) > FRAME_BYTES_MAX:
        raise RejectedError(
            "node.local.frame_too_large", "the message is too large", expected=FRAME_BYTES_MAX, actual=len(payload)
        )
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


def decode_message_untrusted(payload: bytes) -> dict[str, Json]:
    """Return the object that a frame's payload holds.

    Raises:
        RejectedError: The payload is not one JSON object (`node.local.malformed`).
    """
    try:
        message = load_json_untrusted(payload)
    except (ValueError, RecursionError) as error:
        raise RejectedError("node.local.malformed", "the frame is not JSON") from error
    if not isinstance(message, dict):
        raise RejectedError("node.local.malformed", "the frame is not a JSON object")
    return message


def load_json_untrusted(payload: bytes) -> Json:
    """Return the one value that every JSON reader finds in `payload`.

    Python's own reader takes more than JSON: UTF-16, NaN, and the last of two members of one name, where others take the first.

    Raises:
        ValueError: Not UTF-8, not JSON, or a member that stands twice.
        RecursionError: Nested too deeply.
    """
    return json.loads(payload.decode("utf-8"), object_pairs_hook=_as_object, parse_constant=_refuse_constant)


def _as_object(members: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(members)
    if len(value) != len(members):
        raise ValueError("an object has two members of one name")
    return value


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON number")


def error_to_json(error: PatchwardenError) -> dict[str, Json]:
    """Return the refusal's document, which `error_from_json` turns into an equal error."""
    family = next(name for name, kind in _FAMILIES if isinstance(error, kind))
    document: dict[str, Json] = {
        "family": family,
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
    }
    if error.details:
        document["details"] = dict(error.details)
    return document


def error_from_json(document: Json) -> PatchwardenError:
    """Return the error that a refusal carries; an unreadable refusal is an `InternalError`."""
    if not isinstance(document, dict):
        return InternalError("node.local.malformed", "the core's refusal cannot be read")
    kind = dict(_FAMILIES).get(str(document.get("family")), InternalError)
    details = document.get("details")
    return kind(
        str(document.get("code", "node.local.malformed")),
        str(document.get("message", "")),
        hint=str(document.get("hint", "")),
        details=details if isinstance(details, dict) else None,
    )


def encode_blob(data: bytes | memoryview) -> str:
    """Return `data` as base64 text."""
    return base64.b64encode(data).decode("ascii")


def decode_blob_untrusted(value: Json, name: str, *, bytes_max: int) -> bytes:
    """Return the bytes of a base64 text.

    Raises:
        RejectedError: Not text, not canonical base64 (`node.param.not_base64`), or too large (`node.param.too_large`).
    """
    if not isinstance(value, str):
        raise RejectedError("node.param.not_base64", f"{name} must be base64 text")
    if len(value) > (bytes_max + 2) // 3 * 4:
        raise RejectedError("node.param.too_large", f"{name} is too large", expected=f"at most {bytes_max} bytes")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RejectedError("node.param.not_base64", f"{name} is not base64") from error
    if len(data) > bytes_max:
        raise RejectedError("node.param.too_large", f"{name} is too large", expected=f"at most {bytes_max} bytes")
    # Python ignores the bits that the last character has too many. Only there can two texts mean the same, so a large file is not
    # encoded again as a whole.
    if len(value) != (len(data) + 2) // 3 * 4 or not value.endswith(encode_blob(data[len(data) // 3 * 3 :])):
        raise RejectedError("node.param.not_base64", f"{name} is not canonical base64")
    return data
