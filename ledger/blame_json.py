"""Reading and writing the members of a proof's JSON form, each in its one form.

Source: docs/spec/accountability.md 4.
"""

from __future__ import annotations

import binascii
import re
from typing import Final

from ledger.errors import ProofRefusedError
from wire.fields import INTEGER_MAX
from wire.hashing import DIGEST_BYTES, Digest

_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_HEX: Final = re.compile(rf"[0-9a-f]{{{2 * DIGEST_BYTES}}}", re.ASCII)


def members(
    value: object, what: str, needed: frozenset[str], allowed: frozenset[str] = frozenset()
) -> dict[str, object]:
    """Return the object when it has exactly the needed members, and maybe some of those allowed; raises ``ledger.blame.malformed``."""
    if not isinstance(value, dict) or value.keys() - allowed != needed:
        raise malformed(f"{what} has exactly the members {', '.join(sorted(needed))}")
    return value


def from_number(document: dict[str, object], name: str) -> int:
    """Return a term or height from its decimal text without leading zeros; raises ``ledger.blame.malformed``."""
    text = document[name]
    if not isinstance(text, str) or _NUMBER.fullmatch(text) is None or int(text) > INTEGER_MAX:
        raise malformed(f"{name} is not a number in decimal digits")
    return int(text)


def from_hex(document: dict[str, object], name: str) -> Digest:
    """Return a digest from lower hexadecimal; raises ``ledger.blame.malformed``."""
    text = document[name]
    if not isinstance(text, str) or _HEX.fullmatch(text) is None:
        raise malformed(f"{name} is not {DIGEST_BYTES} bytes in lower hexadecimal")
    return Digest(bytes.fromhex(text))


def to_base64(data: bytes) -> str:
    """Return the one base64 text of `data`."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def from_base64(document: dict[str, object], name: str, bytes_max: int) -> bytes:
    """Return bytes from their one base64 text; raises ``ledger.blame.malformed``."""
    text = document[name]
    if isinstance(text, str) and len(text) <= 2 * bytes_max + 4 and text.isascii():
        try:
            data = binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error:
            data = b""
        if to_base64(data) == text and len(data) <= bytes_max:
            return data
    raise malformed(f"{name} is not canonical base64 of at most {bytes_max} bytes")


def malformed(sentence: str) -> ProofRefusedError:
    """Return the refusal of a document that does not have its form."""
    return ProofRefusedError("ledger.blame.malformed", f"the proof does not have its form: {sentence}")
