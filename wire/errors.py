"""The error families: who must act, a stable code, and one sentence.

======================  ==========================================  ==========================
class                   what is true                                who must act
======================  ==========================================  ==========================
``RejectedError``       the input breaks a rule and always will      the sender
``UnavailableError``    the input may be fine, but not now           the caller, by trying later
``CorruptionError``     what this node stored is not what it wrote   the operator; the node stops
======================  ==========================================  ==========================

Any other exception that leaves the project's code is a bug. No message ever carries a secret or a whole payload: values are cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SHOWN_CHARACTERS_MAX = 120
"""How much of an expected or actual value an error shows; enough for a digest in hexadecimal, far below a payload."""

_SHOWN_INTEGER_BITS_MAX = 4096
_ELLIPSIS = "…"

_NO_DETAILS: Mapping[str, str | int] = MappingProxyType({})


def show_value(value: object) -> str:
    """Return `value` as error text: bytes as hexadecimal, everything cut at `SHOWN_CHARACTERS_MAX` characters."""
    if isinstance(value, bytes | bytearray | memoryview):
        head = bytes(value[: SHOWN_CHARACTERS_MAX // 2 + 1])
        text = head.hex() if head else "no bytes"
    elif isinstance(value, str):
        # Cut before escaping, so that a huge text costs nothing; escape, so that control characters never reach a terminal.
        # Our own sentences say … for what is left out, and nobody is misled by that one.
        parts = value[: SHOWN_CHARACTERS_MAX + 1].split(_ELLIPSIS)
        text = _ELLIPSIS.join(ascii(each)[1:-1] for each in parts) or "an empty text"
    elif isinstance(value, int) and value.bit_length() > _SHOWN_INTEGER_BITS_MAX:
        text = f"an integer of {value.bit_length()} bits"  # Python refuses to print the longest ones
    else:
        text = str(value)
    return text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "…"


class PatchwardenError(Exception):
    """Something refused or failed for a reason with a name; raised only as one of the three families.

    Args:
        code: The stable dotted code, such as ``wire.codec.not_canonical``. Programs match on it; it never changes meaning.
        message: One sentence without a full stop that names the rule.
        hint: What the reader should do next, or "".
        expected: What the rule demands; shown after the message.
        actual: What came; shown after the message. Never pass a secret.
        details: Further facts for programs: texts and integers only.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str = "",
        expected: object = None,
        actual: object = None,
        details: Mapping[str, str | int] | None = None,
    ) -> None:
        if expected is not None and actual is not None:
            message = f"{message}: expected {show_value(expected)}, got {show_value(actual)}"
        elif expected is not None:
            message = f"{message}: expected {show_value(expected)}"
        elif actual is not None:
            message = f"{message}: got {show_value(actual)}"
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.details: Mapping[str, str | int] = MappingProxyType(dict(details)) if details else _NO_DETAILS

    def __str__(self) -> str:
        """Return the message alone, ready to follow a file name or a command."""
        return self.message

    def __repr__(self) -> str:
        """Return class, code and message, for logs and test output."""
        return f"{type(self).__name__}({self.code!r}, {self.message!r})"

    def as_dict(self) -> dict[str, object]:
        """Return code, message, hint and details as plain values that `json.dumps` takes."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "details": dict(self.details),
        }


class RejectedError(PatchwardenError):
    """The input breaks a rule and always will: the sender must act."""


class UnavailableError(PatchwardenError):
    """The request cannot be served now and nothing was changed: try again later."""


class CorruptionError(PatchwardenError):
    """Stored data is not what was written: stop, and let an operator or a repair from a peer act."""


class MalformedError(RejectedError):
    """The bytes do not have the form that their format prescribes (``wire.codec.*``, ``wire.json.*``, ``wire.field.*``, …)."""


class InvalidSignatureError(RejectedError):
    """A signature does not hold for this message under this key (``wire.signature.*``)."""


class InvalidProofError(RejectedError):
    """A Merkle proof does not lead to the root it claims (``wire.merkle.*``)."""


class InvalidCertificateError(RejectedError):
    """A quorum certificate or an X.509 chain does not prove what it claims (``wire.certificate.*``, ``wire.x509.*``)."""
