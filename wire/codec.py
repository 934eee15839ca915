r"""Canonical positional msgpack: one value has one encoding, and one encoding has one value.

A value is ``None``, a bool, an integer from -2**63 to 2**64-1, bytes, text, or a tuple of values. Maps, floats, extensions and lists do
not exist here: records are tuples whose positions carry the meaning, which `wire.fields` names and checks. msgpack alone accepts several
encodings of one value (``b"\xcd\x00\x01"`` is 1 as well as ``b"\x01"``), so decoding ends with encoding again and comparing.

This is the only door to msgpack. Source: docs/spec/wire.md 3.
"""

from __future__ import annotations

from typing import Final, TypeAlias, cast

from msgpack import Packer, unpackb

from wire.errors import MalformedError
from wire.limits import CODEC_DEPTH_MAX, CODEC_ITEMS_MAX

Value: TypeAlias = "None | bool | int | bytes | str | tuple[Value, ...]"
"""Anything that has a canonical encoding."""

_BUFFER_BYTES: Final = 4096
"""What a packer begins with, growing as it must. Its own 256 KiB for every value, however small, cost more than all the rest of packing:
the system gives out and takes back so large a piece each time (0.4 ms of a commit's work on each validator)."""

_UNWALKED_ITEMS_MAX: Final = 512 * 1024
"""Tuple places that array headers may make msgpack allocate unseen: 4 MiB of memory."""

_ARRAY_16: Final = 0xDC
_ARRAY_32: Final = 0xDD

_SCALARS: Final = frozenset((int, bytes, str, bool, type(None)))


def encode(value: Value) -> bytes:
    """Return the one canonical encoding of `value`.

    Subclasses such as `enum.StrEnum` members are encoded as the text or integer that they are.

    Raises:
        MalformedError: ``wire.codec.unencodable`` (a type outside `Value`, an integer out of range, a lone surrogate),
            ``wire.codec.too_deep``, ``wire.codec.too_many_items``.
    """
    if type(value) is tuple:
        _check_tuple(value, strict=False)
    elif type(value) not in _SCALARS:
        _check_scalar_subclass(value)
    try:
        return _pack(value)
    except (OverflowError, ValueError) as error:
        # OverflowError: an integer beyond 64 bits. ValueError: UnicodeEncodeError, or bytes beyond 4 GiB.
        raise MalformedError("wire.codec.unencodable", f"a value has no canonical encoding ({error})") from None


def decode_untrusted(data: bytes, *, bytes_max: int) -> Value:
    """Return the value whose one canonical encoding is `data`; sequences come as tuples.

    Args:
        data: The whole encoding and nothing after it.
        bytes_max: The longest accepted `data`; checked before anything else.

    Raises:
        MalformedError: ``wire.codec.too_large``, ``wire.codec.malformed`` (not msgpack, cut short, followed by more, invalid UTF-8),
            ``wire.codec.type`` (a map, float or extension), ``wire.codec.too_deep``, ``wire.codec.too_many_items``,
            ``wire.codec.not_canonical``.
    """
    if len(data) > bytes_max:
        raise MalformedError(
            "wire.codec.too_large",
            "the encoding is too long",
            expected=f"at most {bytes_max} bytes",
            actual=len(data),
        )
    # msgpack allocates a whole tuple for every array header, before its values come, down to 1024 levels: one megabyte of headers took
    # 1.5 GB and four seconds (msgpack 1.2.3). Few bytes that could be such headers cannot do that, so only the others are walked first.
    array_length_max = min(len(data), CODEC_ITEMS_MAX)
    if (
        len(data) * array_length_max > _UNWALKED_ITEMS_MAX  # Short ones cannot, whatever they hold.
        and (data.count(_ARRAY_16) + data.count(_ARRAY_32)) * array_length_max > _UNWALKED_ITEMS_MAX
    ):
        _check_headers(data)
    try:
        value = unpackb(
            data,
            use_list=False,
            raw=False,
            strict_map_key=True,
            max_array_len=array_length_max,
            max_map_len=0,
            max_ext_len=0,
        )
    except ValueError as error:
        # Every refusal of msgpack is a ValueError: FormatError, StackError, ExtraData, UnicodeDecodeError and the limits.
        # The text of some carries payload, so only its class goes into the sentence.
        raise MalformedError(
            "wire.codec.malformed",
            f"the bytes are not one msgpack value of the accepted types ({type(error).__name__})",
            details={"bytes": len(data)},
        ) from None
    if type(value) is tuple:
        _check_tuple(value, strict=True)
    elif type(value) not in _SCALARS:
        raise _wrong_type(type(value).__name__)
    if _pack(value) != data:
        raise MalformedError(
            "wire.codec.not_canonical",
            "the value has a shorter or different canonical encoding than the one that came",
            hint="encode integers, lengths and texts in their shortest form",
        )
    return cast(Value, value)


def _pack(value: object) -> bytes:
    # A packer that is kept would be quicker still, but not be safe in several threads.
    return Packer(use_bin_type=True, buf_size=_BUFFER_BYTES).pack(value)


def _check_headers(data: bytes) -> None:
    """Return when the array headers in `data` together announce at most `CODEC_ITEMS_MAX` values, nested at most `CODEC_DEPTH_MAX` deep.

    Nothing is allocated but one integer a level. What is cut short or never valid is left to the decoder, which stops at the same byte.
    """
    position = 0
    items = 1
    left = 1  # values still to come at this level
    above: list[int] = []  # the same, for each level above
    while left or above:
        if not left:
            left = above.pop()
            continue
        if position >= len(data):
            return
        left -= 1
        byte = data[position]
        position += 1
        skip = _SKIP[byte]
        if skip >= 0:
            position += skip
        elif skip >= _LENGTH_32:
            width = -skip
            position += width + int.from_bytes(data[position : position + width], "big")
        elif skip >= _ITEMS_32:
            width = _ITEMS_0 - skip
            length = int.from_bytes(data[position : position + width], "big") if width else byte & 0x0F
            position += width
            items += length
            if items > CODEC_ITEMS_MAX:
                raise _too_many_items()
            above.append(left)
            left = length
            if len(above) > CODEC_DEPTH_MAX:
                raise _too_deep()
        else:
            # Not left to the decoder: an empty map would pass there, and the headers after it would go uncounted.
            raise _wrong_type(f"the type byte {byte:#04x}")


# What follows each type byte: so many bytes (0 and more), a length of 1, 2 or 4 bytes and then so many bytes, or values announced in
# the type byte itself or in 2 or 4 bytes. Source: the msgpack specification, "Formats".
_LENGTH_32: Final = -4
_ITEMS_0: Final = -5
_ITEMS_32: Final = -9
_REFUSED: Final = -10


def _skip_of(byte: int) -> int:
    if byte <= 0x7F or byte >= 0xE0:
        return 0
    if 0x90 <= byte <= 0x9F:
        return _ITEMS_0
    if 0xA0 <= byte <= 0xBF:
        return byte & 0x1F
    fixed = {
        0xC0: 0,
        0xC2: 0,
        0xC3: 0,
        0xCC: 1,
        0xCD: 2,
        0xCE: 4,
        0xCF: 8,
        0xD0: 1,
        0xD1: 2,
        0xD2: 4,
        0xD3: 8,
    }
    with_length = {0xC4: -1, 0xC5: -2, 0xC6: -4, 0xD9: -1, 0xDA: -2, 0xDB: -4}
    arrays = {_ARRAY_16: _ITEMS_0 - 2, _ARRAY_32: _ITEMS_32}
    return (fixed | with_length | arrays).get(byte, _REFUSED)


_SKIP: Final = tuple(_skip_of(byte) for byte in range(256))


def _check_tuple(value: tuple[object, ...], *, strict: bool) -> None:
    """Return when every part has an accepted type, nested at most `CODEC_DEPTH_MAX` deep, `CODEC_ITEMS_MAX` parts in all.

    Breadth first, one loop a level, so that hostile nesting costs no recursion.
    """
    items = 1
    depth = 0
    level: list[tuple[object, ...]] = [value]
    while level:
        depth += 1
        if depth > CODEC_DEPTH_MAX:
            raise _too_deep()
        below: list[tuple[object, ...]] = []
        for part in level:
            items += len(part)
            if items > CODEC_ITEMS_MAX:
                raise _too_many_items()
            for item in part:
                kind = type(item)
                if kind is tuple:
                    below.append(cast("tuple[object, ...]", item))
                elif kind not in _SCALARS:
                    if strict:
                        raise _wrong_type(type(item).__name__)
                    _check_scalar_subclass(item)
        level = below


def _check_scalar_subclass(value: object) -> None:
    if not isinstance(value, int | bytes | str):
        raise MalformedError(
            "wire.codec.unencodable",
            "a value has no canonical encoding",
            expected="None, bool, int, bytes, str or a tuple of these",
            actual=type(value).__name__,
        )


def _wrong_type(what: str) -> MalformedError:
    return MalformedError(
        "wire.codec.type",
        "the encoding holds a type that has no place in it",
        expected="nil, boolean, integer, binary, text or array",
        actual=what,
    )


def _too_deep() -> MalformedError:
    return MalformedError(
        "wire.codec.too_deep",
        "the values are nested too deep",
        expected=f"at most {CODEC_DEPTH_MAX} levels",
    )


def _too_many_items() -> MalformedError:
    return MalformedError(
        "wire.codec.too_many_items",
        "there are too many values",
        expected=f"at most {CODEC_ITEMS_MAX}",
    )
