r"""The form that every file has which is written as one stream and may be carried away: archives and bundles.

::

    magic                                                         the kind and its version, one line
    frame: the head                                               a frame is a 4-byte big-endian length, then so many bytes
    frame: an item
    …
    frame: encode(("end", number of items, SHA-256 of every byte before this frame))

The closing record shows whether the stream is whole and as it was written, and nothing else: whether what is in it is true, those ask who
read it. Both directions work piece by piece: no stream is ever held in memory.

Source: docs/spec/ledger.md 12, docs/spec/network.md 8.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar, Final, Generic, TypeVar

from ledger.errors import ArchiveRefusedError
from wire.codec import decode_untrusted, encode
from wire.errors import MalformedError
from wire.fields import as_digest, as_int, as_tuple
from wire.framing import LENGTH_BYTES, FrameDecoder, encode_frame
from wire.hashing import Digest
from wire.limits import FRAME_BYTES_MAX

END: Final = "end"
_END_FIELDS: Final = 3

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class SealedForm:
    """One kind of sealed stream: how it begins, and how its refusals read."""

    magic: bytes
    """The bytes with which it begins; they end with a line feed."""
    noun: str
    """What it is called, with its article: "an archive"."""
    name: str
    """The same without: "archive"."""
    head: str
    """What its head is called: "the founding document"."""
    unit: str
    """What one of its items is called: "block"."""
    item_bytes_max: int
    """The longest frame of an item."""
    again: str
    """What to do with one that was cut."""
    code_magic: str
    code_malformed: str
    code_truncated: str
    code_trailing: str
    code_count: str
    code_digest: str


@dataclass(frozen=True, slots=True)
class Seal:
    """A closing record, as it stands there."""

    items: int
    digest: Digest


class SealedEncoder:
    """Turns frames into the bytes of a sealed stream: `begin` once, `item` for each, `end` once; write out what each returns."""

    __slots__ = ("_hash", "_items")

    def __init__(self) -> None:
        self._hash = sha256()
        self._items = 0

    def end(self) -> bytes:
        """Return the last bytes."""
        return encode_frame(encode((END, self._items, self._hash.digest())))

    def _begin(self, form: SealedForm, head: bytes) -> bytes:
        return self._put(form.magic + encode_frame(head))

    def _item(self, frame: bytes) -> bytes:
        self._items += 1
        return self._put(encode_frame(frame))

    def _put(self, data: bytes) -> bytes:
        self._hash.update(data)
        return data


class SealedDecoder(ABC, Generic[Item]):
    """Turns the bytes of a sealed stream, in pieces of any size, into its items; what an item is, a subclass says."""

    __slots__ = ("_ended", "_frames", "_hash", "_items", "_magic", "_offset", "_saw_head")

    form: ClassVar[SealedForm]

    def __init__(self) -> None:
        self._magic = b""
        self._frames = FrameDecoder(FRAME_BYTES_MAX)
        self._hash = sha256()
        self._offset = 0
        self._items = 0
        self._saw_head = False
        self._ended = False

    def feed_untrusted(self, data: bytes) -> list[Item]:
        """Return the items that `data` completes.

        Raises:
            ArchiveRefusedError: The form's codes for a wrong magic, a frame without its form, something behind the closing record, a
                wrong number of items, and a wrong digest: use the decoder no more after that.
        """
        if len(self._magic) < len(self.form.magic):
            data = self._take_magic(data)
        if not data:
            return []
        try:
            return [self._take(frame) for frame in self._frames.feed(data)]
        except MalformedError as error:
            raise self._malformed(error) from error

    def finish(self) -> None:
        """Return only when the closing record has come, and nothing after it.

        Raises:
            ArchiveRefusedError: The form's codes for a stream that was cut, and for one that goes on.
        """
        if not self._ended:
            raise ArchiveRefusedError(
                self.form.code_truncated,
                f"the {self.form.name} ends after {self._items} {self.form.unit}s,"
                f" at byte {self._offset + self._frames.bytes_buffered}, without its closing record",
                hint=self.form.again,
            )
        if self._frames.bytes_buffered:
            raise self._trailing()

    @abstractmethod
    def _read_head(self, frame: bytes) -> Item:
        """Return the first item, or raise `MalformedError`."""

    @abstractmethod
    def _read_item(self, frame: bytes) -> Item | Seal:
        """Return the item, or what `as_seal` makes of a closing record, or raise `MalformedError`."""

    @abstractmethod
    def _make_end(self, items: int) -> Item:
        """Return the last item: so many were there."""

    def _decode(self, frame: bytes) -> tuple[object, ...]:
        return as_tuple(decode_untrusted(frame, bytes_max=self.form.item_bytes_max), "item")

    def _take_magic(self, data: bytes) -> bytes:
        magic = self.form.magic
        missing = len(magic) - len(self._magic)
        self._magic += data[:missing]
        if not magic.startswith(self._magic):
            raise ArchiveRefusedError(
                self.form.code_magic,
                f"the file is not {self.form.noun} of this version",
                expected=magic,
                actual=self._magic,
            )
        if len(self._magic) == len(magic):
            self._hash.update(magic)
            self._offset = len(magic)
        return data[missing:]

    def _take(self, frame: bytes) -> Item:
        if self._ended:
            raise self._trailing()
        item: Item
        if self._saw_head:
            read = self._read_item(frame)
            if isinstance(read, Seal):
                return self._close(read)
            item = read
            self._items += 1
        else:
            item = self._read_head(frame)
            self._saw_head = True
        self._hash.update(len(frame).to_bytes(LENGTH_BYTES, "big"))
        self._hash.update(frame)
        self._offset += LENGTH_BYTES + len(frame)
        return item

    def _close(self, seal: Seal) -> Item:
        if seal.items != self._items:
            raise ArchiveRefusedError(
                self.form.code_count,
                f"the {self.form.name} lacks {self.form.unit}s or has too many",
                expected=seal.items,
                actual=self._items,
            )
        if seal.digest != self._hash.digest():
            raise ArchiveRefusedError(
                self.form.code_digest,
                f"the {self.form.name} was changed after it was written, somewhere in its first {self._offset} bytes",
                expected=seal.digest,
                actual=self._hash.digest(),
            )
        self._ended = True
        return self._make_end(seal.items)

    def _malformed(self, error: MalformedError) -> ArchiveRefusedError:
        what = f"{self.form.unit} {self._items + 1}" if self._saw_head else self.form.head
        return ArchiveRefusedError(
            self.form.code_malformed,
            f"the {self.form.name} does not have its form at byte {self._offset}, where {what} should begin: {error.message}",
            details={"cause": error.code, "offset": self._offset},
        )

    def _trailing(self) -> ArchiveRefusedError:
        return ArchiveRefusedError(self.form.code_trailing, f"something follows the {self.form.name}'s closing record")


def is_seal(values: tuple[object, ...]) -> bool:
    """Return whether these are the fields of a closing record."""
    return len(values) == _END_FIELDS and values[0] == END


def as_seal(values: tuple[object, ...]) -> Seal:
    """Return the closing record that these fields are.

    Raises:
        MalformedError: ``wire.field.*``.
    """
    _, items, digest = as_tuple(values, END, length=_END_FIELDS)
    return Seal(as_int(items, "number of items"), as_digest(digest, "digest"))
