r"""What is carried by hand between a network and a machine that is cut off from it, as one stream of bytes.

::

    patchwarden-bundle 1\n
    frame: encode(("bundle", chain id, founding document's hash, height of the first block, or 0))
    frame: encode(("block", block, commit certificate or None))   consecutive blocks; the last one is certified
    frame: encode(("patch", SHA-256 of the file, its size))       a patch file, and then its bytes:
    frame: encode(("data", bytes))                                at most `DATA_BYTES_MAX` in each
    frame: encode(("transaction", signed transaction))            what a host has to tell, in the order in which it must be executed
    …
    frame: encode(("end", number of items, SHA-256 of every byte before this frame))

Nothing in it is believed because of the way on which it came: blocks count by their certificates, files by their digests, transactions by
their signatures. The closing record only tells whether the copy is whole. Both directions work piece by piece.

Source: docs/spec/network.md 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final, TypeAlias

from ledger.errors import ArchiveRefusedError
from wire.codec import Value, decode_untrusted, encode
from wire.errors import MalformedError, RejectedError
from wire.fields import as_bytes, as_digest, as_int, as_optional, as_text, as_tuple
from wire.framing import LENGTH_BYTES, FrameDecoder, encode_frame
from wire.hashing import Digest
from wire.limits import (
    BLOCK_BYTES_MAX,
    CERTIFICATE_BYTES_MAX,
    CHAIN_ID_BYTES_MAX,
    FRAME_BYTES_MAX,
    MEBIBYTE,
    PATCH_FILE_BYTES_MAX,
    TX_BYTES_MAX,
)

MAGIC: Final = b"patchwarden-bundle 1\n"
DATA_BYTES_MAX: Final = MEBIBYTE
"""Bytes of a patch file in one frame."""
_ITEM_BYTES_MAX: Final = BLOCK_BYTES_MAX + CERTIFICATE_BYTES_MAX + 64
_NAME_BYTES_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class BundleHead:
    """Of which network it is, and where its blocks begin."""

    chain_id: str
    genesis_hash: Digest
    """Hash of the founding document, 32 bytes."""
    first_height: int
    """Height of the first block; 0 without blocks."""


@dataclass(frozen=True, slots=True)
class BundledBlock:
    """A block and what proves it; neither is checked."""

    block: bytes
    certificate: bytes | None
    """Its commit certificate, or None where a later one covers it."""


@dataclass(frozen=True, slots=True)
class BundledPatch:
    """A patch file begins: `size` bytes follow as `BundledData`."""

    digest: Digest
    """SHA-256 of the file; not checked."""
    size: int


@dataclass(frozen=True, slots=True)
class BundledData:
    """The next bytes of the patch file that has begun."""

    data: bytes


@dataclass(frozen=True, slots=True)
class BundledTransaction:
    """A signed transaction; not checked."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class BundleEnd:
    """The last item: the bundle is whole."""

    items: int
    """How many items were in it, the head not counted."""


BundleItem: TypeAlias = BundleHead | BundledBlock | BundledPatch | BundledData | BundledTransaction | BundleEnd


class BundleEncoder:
    """Turns items into the bytes of a bundle: `begin` once, then what there is, `end` once; write out what each returns."""

    __slots__ = ("_hash", "_items")

    def __init__(self) -> None:
        self._hash = sha256()
        self._items = 0

    def begin(self, chain_id: str, genesis_hash: bytes, first_height: int) -> bytes:
        """Return the first bytes."""
        return self._put(MAGIC + encode_frame(encode(("bundle", chain_id, genesis_hash, first_height))))

    def block(self, block: bytes, certificate: bytes | None) -> bytes:
        """Return the bytes of the next block, with its certificate or None."""
        return self._item(("block", block, certificate))

    def patch(self, digest: bytes, size: int) -> bytes:
        """Return the bytes with which a patch file begins; `data` follows."""
        return self._item(("patch", digest, size))

    def data(self, data: bytes) -> bytes:
        """Return the bytes of a piece of a patch file, at most `DATA_BYTES_MAX` long."""
        return self._item(("data", data))

    def transaction(self, raw: bytes) -> bytes:
        """Return the bytes of a signed transaction."""
        return self._item(("transaction", raw))

    def end(self) -> bytes:
        """Return the last bytes."""
        return encode_frame(encode(("end", self._items, self._hash.digest())))

    def _item(self, value: Value) -> bytes:
        self._items += 1
        return self._put(encode_frame(encode(value)))

    def _put(self, data: bytes) -> bytes:
        self._hash.update(data)
        return data


class BundleDecoder:
    """Turns the bytes of a bundle, in pieces of any size, into its items."""

    __slots__ = ("_ended", "_frames", "_hash", "_head", "_items", "_offset", "_saw_head")

    def __init__(self) -> None:
        self._head = b""
        self._frames = FrameDecoder(FRAME_BYTES_MAX)
        self._hash = sha256()
        self._offset = 0
        self._items = 0
        self._saw_head = False
        self._ended = False

    def feed_untrusted(self, data: bytes) -> list[BundleItem]:
        """Return the items that `data` completes.

        Raises:
            ArchiveRefusedError: ``ledger.bundle.magic``, ``ledger.bundle.malformed``, ``ledger.bundle.trailing``, ``ledger.bundle.count``,
                ``ledger.bundle.digest``: use the decoder no more after that.
        """
        if len(self._head) < len(MAGIC):
            missing = len(MAGIC) - len(self._head)
            self._head += data[:missing]
            if not MAGIC.startswith(self._head):
                raise ArchiveRefusedError(
                    "ledger.bundle.magic",
                    "the file is not a bundle of this version",
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
            return [self._take(frame) for frame in self._frames.feed(data)]
        except MalformedError as error:
            raise ArchiveRefusedError(
                "ledger.bundle.malformed",
                f"the bundle does not have its form at byte {self._offset}: {error.message}",
                details={"cause": error.code, "offset": self._offset},
            ) from error

    def finish(self) -> None:
        """Return only when the closing record has come.

        Raises:
            ArchiveRefusedError: ``ledger.bundle.truncated``, ``ledger.bundle.trailing``.
        """
        if not self._ended:
            raise ArchiveRefusedError(
                "ledger.bundle.truncated",
                f"the bundle ends after {self._items} items, at byte {self._offset + self._frames.bytes_buffered},"
                " without its closing record",
                hint="copy the whole file again; what came of it so far stays",
            )
        if self._frames.bytes_buffered:
            raise _trailing()

    def _take(self, frame: bytes) -> BundleItem:
        if self._ended:
            raise _trailing()
        values = as_tuple(decode_untrusted(frame, bytes_max=_ITEM_BYTES_MAX), "item")
        name = as_text(values[0] if values else None, "item", _NAME_BYTES_MAX)
        if name == "end":
            return self._end(values)
        item: BundleItem
        if not self._saw_head:
            item = _as_head(name, values)
            self._saw_head = True
        else:
            item = _as_item(name, values)
            self._items += 1
        self._hash.update(len(frame).to_bytes(LENGTH_BYTES, "big"))
        self._hash.update(frame)
        self._offset += LENGTH_BYTES + len(frame)
        return item

    def _end(self, values: tuple[object, ...]) -> BundleEnd:
        _, items_value, digest_value = as_tuple(values, "end", length=3)
        items, digest = as_int(items_value, "number of items"), as_digest(digest_value, "digest")
        if items != self._items or not self._saw_head:
            raise ArchiveRefusedError(
                "ledger.bundle.count", "the bundle lacks items or has too many", expected=items, actual=self._items
            )
        if digest != self._hash.digest():
            raise ArchiveRefusedError(
                "ledger.bundle.digest",
                f"the bundle was changed after it was written, somewhere in its first {self._offset} bytes",
                expected=digest,
                actual=self._hash.digest(),
            )
        self._ended = True
        return BundleEnd(items)


def _as_head(name: str, values: tuple[object, ...]) -> BundleHead:
    if name != "bundle":
        raise MalformedError("wire.field.choice", "a bundle begins with its head", expected="bundle", actual=name)
    _, chain_id, genesis_hash, first = as_tuple(values, "head", length=4)
    return BundleHead(
        as_text(chain_id, "chain id", CHAIN_ID_BYTES_MAX),
        as_digest(genesis_hash, "founding document's hash"),
        as_int(first, "first height"),
    )


def _as_item(name: str, values: tuple[object, ...]) -> BundleItem:
    match name:
        case "block":
            _, block, certificate = as_tuple(values, name, length=3)
            return BundledBlock(
                as_bytes(block, "block", bytes_max=BLOCK_BYTES_MAX),
                as_optional(certificate, "certificate", _as_certificate),
            )
        case "patch":
            _, digest, size = as_tuple(values, name, length=3)
            return BundledPatch(as_digest(digest, "digest"), as_int(size, "size", 1, PATCH_FILE_BYTES_MAX))
        case "data":
            _, data = as_tuple(values, name, length=2)
            return BundledData(as_bytes(data, "data", bytes_max=DATA_BYTES_MAX))
        case "transaction":
            _, raw = as_tuple(values, name, length=2)
            return BundledTransaction(as_bytes(raw, "transaction", bytes_max=TX_BYTES_MAX))
        case _:
            raise MalformedError("wire.field.choice", "an item of an unknown kind", actual=name)


def _as_certificate(value: object, name: str) -> bytes:
    return as_bytes(value, name, bytes_max=CERTIFICATE_BYTES_MAX)


def _trailing() -> RejectedError:
    return ArchiveRefusedError("ledger.bundle.trailing", "something follows the bundle's closing record")
