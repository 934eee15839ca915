"""Small files of the agent's own state: canonical JSON with its digest, replaced in one step.

::

    <canonical JSON> LF <SHA-256 of that JSON, 64 hexadecimal digits> LF

A file that is there but does not read back is never taken for an absent one: the agent stops (`StateCorruptError`).

Source: docs/spec/agent.md 5.
"""

from __future__ import annotations

from typing import Any

from agent.errors import StateCorruptError
from agent.files import Files
from agent.limits import STATE_FILE_BYTES_MAX
from wire import canonical_json
from wire.errors import RejectedError
from wire.hashing import sha256


def write_state(files: Files, path: str, document: dict[str, Any]) -> None:
    """Make `path` hold `document`, durably and in one step. Raises OSError."""
    body = canonical_json.encode(document)
    files.replace(path, body + b"\n" + sha256(body).hex().encode() + b"\n")


def read_state(path: str) -> dict[str, Any] | None:
    """Return the document that `write_state` wrote, or None when there is no file.

    Raises:
        StateCorruptError: ``agent.state.damaged``.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(STATE_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror}") from error
    if len(data) > STATE_FILE_BYTES_MAX:
        raise damaged(path, "is too large")
    body, separator, tail = data.partition(b"\n")
    if not separator or tail != sha256(body).hex().encode() + b"\n":
        raise damaged(path, "does not match its own digest")
    try:
        document = canonical_json.decode_untrusted(body, bytes_max=STATE_FILE_BYTES_MAX)
    except RejectedError as error:
        raise damaged(path, error.message) from error
    if not isinstance(document, dict):
        raise damaged(path, "is not an object")
    return document


def damaged(path: str, sentence: str) -> StateCorruptError:
    """Return the error that a state file at `path` is not what the agent wrote."""
    return StateCorruptError(
        "agent.state.damaged",
        f"{path} {sentence}",
        hint="restore the agent's directory from a backup, or move it away and adopt the targets again",
    )
