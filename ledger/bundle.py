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
from typing import ClassVar, Final, TypeAlias

from ledger.sealed_stream import Seal, SealedDecoder, SealedEncoder, SealedForm, as_seal
from wire.codec import encode
from wire.errors import MalformedError
from wire.fields import as_bytes, as_digest, as_int, as_optional, as_text, as_tuple
from wire.hashing import Digest
from wire.limits import (
    BLOCK_BYTES_MAX,
    CERTIFICATE_BYTES_MAX,
    CHAIN_ID_BYTES_MAX,
    MEBIBYTE,
    PATCH_FILE_BYTES_MAX,
    TX_BYTES_MAX,
)

MAGIC: Final = b"patchwarden-bundle 1\n"
DATA_BYTES_MAX: Final = MEBIBYTE
"""Bytes of a patch file in one frame."""
_NAME_BYTES_MAX: Final = 16
_FORM: Final = SealedForm(
    magic=MAGIC,
    noun="a bundle",
    name="bundle",
    head="its head",
    unit="item",
    item_bytes_max=BLOCK_BYTES_MAX + CERTIFICATE_BYTES_MAX + 64,
    again="copy the whole file again; what came of it so far stays",
    code_magic="ledger.bundle.magic",
    code_malformed="ledger.bundle.malformed",
    code_truncated="ledger.bundle.truncated",
    code_trailing="ledger.bundle.trailing",
    code_count="ledger.bundle.count",
    code_digest="ledger.bundle.digest",
)


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


class BundleEncoder(SealedEncoder):
    """Turns items into the bytes of a bundle: `begin` once, then what there is, `end` once; write out what each returns."""

    __slots__ = ()

    def begin(self, chain_id: str, genesis_hash: bytes, first_height: int) -> bytes:
        """Return the first bytes."""
        return self._begin(_FORM, encode(("bundle", chain_id, genesis_hash, first_height)))

    def block(self, block: bytes, certificate: bytes | None) -> bytes:
        """Return the bytes of the next block, with its certificate or None."""
        return self._item(encode(("block", block, certificate)))

    def patch(self, digest: bytes, size: int) -> bytes:
        """Return the bytes with which a patch file begins; `data` follows."""
        return self._item(encode(("patch", digest, size)))

    def data(self, data: bytes) -> bytes:
        """Return the bytes of a piece of a patch file, at most `DATA_BYTES_MAX` long."""
        return self._item(encode(("data", data)))

    def transaction(self, raw: bytes) -> bytes:
        """Return the bytes of a signed transaction."""
        return self._item(encode(("transaction", raw)))


class BundleDecoder(SealedDecoder[BundleItem]):
    """Turns the bytes of a bundle, in pieces of any size, into its items."""

    __slots__ = ()

    form: ClassVar = _FORM

    def _read_head(self, frame: bytes) -> BundleHead:
        values = self._decode(frame)
        name = _name(values)
        if name != "bundle":
            raise MalformedError("wire.field.choice", "a bundle begins with its head", expected="bundle", actual=name)
        _, chain_id, genesis_hash, first = as_tuple(values, "head", length=4)
        return BundleHead(
            as_text(chain_id, "chain id", CHAIN_ID_BYTES_MAX),
            as_digest(genesis_hash, "founding document's hash"),
            as_int(first, "first height"),
        )

    def _read_item(self, frame: bytes) -> BundledBlock | BundledPatch | BundledData | BundledTransaction | Seal:
        values = self._decode(frame)
        match _name(values):
            case "block" as name:
                _, block, certificate = as_tuple(values, name, length=3)
                return BundledBlock(
                    as_bytes(block, "block", bytes_max=BLOCK_BYTES_MAX),
                    as_optional(certificate, "certificate", _as_certificate),
                )
            case "patch" as name:
                _, digest, size = as_tuple(values, name, length=3)
                return BundledPatch(as_digest(digest, "digest"), as_int(size, "size", 1, PATCH_FILE_BYTES_MAX))
            case "data" as name:
                _, data = as_tuple(values, name, length=2)
                return BundledData(as_bytes(data, "data", bytes_max=DATA_BYTES_MAX))
            case "transaction" as name:
                _, raw = as_tuple(values, name, length=2)
                return BundledTransaction(as_bytes(raw, "transaction", bytes_max=TX_BYTES_MAX))
            case "end":
                return as_seal(values)
            case name:
                raise MalformedError("wire.field.choice", "an item of an unknown kind", actual=name)

    def _make_end(self, items: int) -> BundleEnd:
        return BundleEnd(items)


def _name(values: tuple[object, ...]) -> str:
    return as_text(values[0] if values else None, "item", _NAME_BYTES_MAX)


def _as_certificate(value: object, name: str) -> bytes:
    return as_bytes(value, name, bytes_max=CERTIFICATE_BYTES_MAX)
