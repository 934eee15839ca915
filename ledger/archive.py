r"""A whole chain as one stream of bytes: to carry away, to keep, and to replay on another machine.

::

    patchwarden-archive 1\n
    frame: the founding document                                  a frame is a 4-byte big-endian length, then so many bytes
    frame: encode((block, commit certificate or None))            one for each block from height 1 on, in order
    …
    frame: encode(("end", number of blocks, SHA-256 of every byte before this frame))

The closing record shows whether the stream is whole and as it was written; whether the chain in it is valid is `ledger.audit`'s question.
Both directions work piece by piece: no archive is ever held in memory.

Source: docs/spec/ledger.md 12.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final, TypeAlias

from ledger.errors import ArchiveRefusedError
from ledger.limits import GENESIS_BYTES_MAX
from wire.codec import decode_untrusted, encode
from wire.errors import MalformedError, RejectedError
from wire.fields import as_bytes, as_digest, as_int, as_optional, as_tuple
from wire.framing import LENGTH_BYTES, FrameDecoder, encode_frame
from wire.limits import BLOCK_BYTES_MAX, CERTIFICATE_BYTES_MAX, FRAME_BYTES_MAX

MAGIC: Final = b"patchwarden-archive 1\n"
END: Final = "end"
_ITEM_BYTES_MAX: Final = BLOCK_BYTES_MAX + CERTIFICATE_BYTES_MAX + 64
_END_FIELDS: Final = 3


@dataclass(frozen=True, slots=True)
class ArchivedGenesis:
    """The first item: what the chain is founded on."""

    document: bytes
    """The founding document; not checked."""


@dataclass(frozen=True, slots=True)
class ArchivedBlock:
    """A block and what proves it; neither is checked."""

    block: bytes
    """The block's wire form."""
    certificate: bytes | None
    """Its commit certificate, or None where a later one covers it."""


@dataclass(frozen=True, slots=True)
class ArchiveEnd:
    """The last item: the archive is whole and undamaged."""

    blocks: int
    """How many blocks were in it."""


@dataclass(frozen=True, slots=True)
class ArchivedDamage:
    """A whole frame that holds neither a block nor the end."""

    error: ArchiveRefusedError
    """What is wrong with it."""


ArchiveItem: TypeAlias = ArchivedGenesis | ArchivedBlock | ArchivedDamage | ArchiveEnd


class ArchiveEncoder:
    """Turns a chain into the bytes of an archive: `begin` once, `block` for each, `end` once; write out what each returns."""

    __slots__ = ("_blocks", "_hash")

    def __init__(self) -> None:
        self._hash = sha256()
        self._blocks = 0

    def begin(self, document: bytes) -> bytes:
        """Return the first bytes, with the founding document."""
        return self._put(MAGIC + encode_frame(document))

    def block(self, block: bytes, certificate: bytes | None) -> bytes:
        """Return the bytes of the next block, with its certificate or None."""
        self._blocks += 1
        return self._put(encode_frame(encode((block, certificate))))

    def end(self) -> bytes:
        """Return the last bytes."""
        return encode_frame(encode((END, self._blocks, self._hash.digest())))

    def _put(self, data: bytes) -> bytes:
        self._hash.update(data)
        return data


class ArchiveDecoder:
    """Turns the bytes of an archive, in pieces of any size, into its items.

    Args:
        is_tolerant: Whether a frame that holds no item is given as `ArchivedDamage`, for whoever looks behind it, instead of refused.
    """

    __slots__ = ("_blocks", "_ended", "_frames", "_hash", "_head", "_is_tolerant", "_offset", "_saw_genesis")

    def __init__(self, *, is_tolerant: bool = False) -> None:
        self._is_tolerant = is_tolerant
        self._head = b""
        self._offset = 0
        self._frames = FrameDecoder(FRAME_BYTES_MAX)
        self._hash = sha256()
        self._saw_genesis = False
        self._blocks = 0
        self._ended = False

    def feed_untrusted(self, data: bytes) -> list[ArchiveItem]:
        """Return the items that `data` completes.

        Raises:
            ArchiveRefusedError: ``ledger.archive.magic``, ``ledger.archive.malformed``, ``ledger.archive.trailing`` (something follows the
                closing record), ``ledger.archive.count``, ``ledger.archive.digest``: use the decoder no more after that.
        """
        if len(self._head) < len(MAGIC):
            missing = len(MAGIC) - len(self._head)
            self._head += data[:missing]
            if not MAGIC.startswith(self._head):
                raise ArchiveRefusedError(
                    "ledger.archive.magic",
                    "the file is not an archive of this version",
                    expected=MAGIC,
                    actual=self._head,
                )
            if len(self._head) == len(MAGIC):
                self._hash.update(MAGIC)
                self._offset = len(MAGIC)
            data = data[missing:]
        if not data:
            return []
        try:
            return [self._item(frame) for frame in self._frames.feed(data)]
        except MalformedError as error:
            raise self._malformed(error) from error

    def finish(self) -> None:
        """Return only when the closing record has come.

        Raises:
            ArchiveRefusedError: ``ledger.archive.truncated``, ``ledger.archive.trailing``.
        """
        if not self._ended:
            raise ArchiveRefusedError(
                "ledger.archive.truncated",
                f"the archive ends after {self._blocks} blocks, at byte {self._offset + self._frames.bytes_buffered},"
                " without its closing record",
                hint="copy the whole file again",
            )
        if self._frames.bytes_buffered:
            raise _trailing()

    def _item(self, frame: bytes) -> ArchiveItem:
        if self._ended:
            raise _trailing()
        item: ArchiveItem
        if not self._saw_genesis:
            self._saw_genesis = True
            item = ArchivedGenesis(as_bytes(frame, "founding document", bytes_max=GENESIS_BYTES_MAX))
        else:
            try:
                values = as_tuple(decode_untrusted(frame, bytes_max=_ITEM_BYTES_MAX), "item")
                if len(values) == _END_FIELDS and values[0] == END:
                    return self._end(values)
                block, certificate = as_tuple(values, "item", length=2)
                item = ArchivedBlock(
                    as_bytes(block, "block", bytes_max=BLOCK_BYTES_MAX),
                    as_optional(certificate, "certificate", as_bytes),
                )
            except MalformedError as error:
                if not self._is_tolerant:
                    raise
                item = ArchivedDamage(self._malformed(error))
            self._blocks += 1
        self._hash.update(len(frame).to_bytes(LENGTH_BYTES, "big"))
        self._hash.update(frame)
        self._offset += LENGTH_BYTES + len(frame)
        return item

    def _end(self, values: tuple[object, ...]) -> ArchiveEnd:
        blocks = as_int(values[1], "number of blocks")
        digest = as_digest(values[2], "digest")
        if blocks != self._blocks:
            raise ArchiveRefusedError(
                "ledger.archive.count", "the archive lacks blocks or has too many", expected=blocks, actual=self._blocks
            )
        if digest != self._hash.digest():
            raise ArchiveRefusedError(
                "ledger.archive.digest",
                f"the archive was changed after it was written, somewhere in its first {self._offset} bytes",
                expected=digest,
                actual=self._hash.digest(),
            )
        self._ended = True
        return ArchiveEnd(blocks)

    def _malformed(self, error: RejectedError) -> ArchiveRefusedError:
        what = f"block {self._blocks + 1}" if self._saw_genesis else "the founding document"
        return ArchiveRefusedError(
            "ledger.archive.malformed",
            f"the archive does not have its form at byte {self._offset}, where {what} should begin: {error.message}",
            details={"cause": error.code, "offset": self._offset},
        )


def _trailing() -> ArchiveRefusedError:
    return ArchiveRefusedError("ledger.archive.trailing", "something follows the archive's closing record")
