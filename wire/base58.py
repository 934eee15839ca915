"""Base58 with the Bitcoin alphabet, as `did:key` identifiers use it.

Both directions cost time quadratic in the length, so the length is bounded: keys take 48 characters.

Source: draft-msporny-base58-03; the multibase registry, code ``z``.
"""

from __future__ import annotations

from typing import Final

from wire.errors import MalformedError

ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
BASE58_CHARACTERS_MAX: Final = 128

_VALUE_OF: Final = {character: value for value, character in enumerate(ALPHABET)}


def base58_encode(data: bytes) -> str:
    """Return `data` in base58; each leading zero byte becomes one ``1``."""
    number = int.from_bytes(data, "big")
    characters: list[str] = []
    while number:
        number, value = divmod(number, 58)
        characters.append(ALPHABET[value])
    characters.extend("1" * (len(data) - len(data.lstrip(b"\0"))))
    return "".join(reversed(characters))


def base58_decode_untrusted(text: str) -> bytes:
    """Return the bytes that `text` stands for; every text of the alphabet stands for exactly one byte string and back.

    Raises:
        MalformedError: ``wire.key.base58`` (a character outside the alphabet, or more than `BASE58_CHARACTERS_MAX`).
    """
    if len(text) > BASE58_CHARACTERS_MAX:
        raise MalformedError(
            "wire.key.base58",
            "the base58 text is too long",
            expected=f"at most {BASE58_CHARACTERS_MAX} characters",
            actual=len(text),
        )
    number = 0
    for character in text:
        value = _VALUE_OF.get(character)
        if value is None:
            raise MalformedError("wire.key.base58", "a character is not of the base58 alphabet", actual=character)
        number = number * 58 + value
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
