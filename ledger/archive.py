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
from typing import ClassVar, Final, TypeAlias

from ledger.errors import ArchiveRefusedError
from ledger.limits import GENESIS_BYTES_MAX
from ledger.sealed_stream import Seal, SealedDecoder, SealedEncoder, SealedForm, as_seal, is_seal
from wire.codec import encode
from wire.errors import MalformedError
from wire.fields import as_bytes, as_optional, as_tuple
from wire.limits import BLOCK_BYTES_MAX, CERTIFICATE_BYTES_MAX

MAGIC: Final = b"patchwarden-archive 1\n"
_FORM: Final = SealedForm(
    magic=MAGIC,
    noun="an archive",
    name="archive",
    head="the founding document",
    unit="block",
    item_bytes_max=BLOCK_BYTES_MAX + CERTIFICATE_BYTES_MAX + 64,
    again="copy the whole file again",
    code_magic="ledger.archive.magic",
    code_malformed="ledger.archive.malformed",
    code_truncated="ledger.archive.truncated",
    code_trailing="ledger.archive.trailing",
    code_count="ledger.archive.count",
    code_digest="ledger.archive.digest",
)


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


class ArchiveEncoder(SealedEncoder):
    """Turns a chain into the bytes of an archive: `begin` once, `block` for each, `end` once; write out what each returns."""

    __slots__ = ()

    def begin(self, document: bytes) -> bytes:
        """Return the first bytes, with the founding document."""
        return self._begin(_FORM, document)

    def block(self, block: bytes, certificate: bytes | None) -> bytes:
        """Return the bytes of the next block, with its certificate or None."""
        return self._item(encode((block, certificate)))


class ArchiveDecoder(SealedDecoder[ArchiveItem]):
    """Turns the bytes of an archive, in pieces of any size, into its items.

    Args:
        is_tolerant: Whether a frame that holds no item is given as `ArchivedDamage`, for whoever looks behind it, instead of refused.
    """

    __slots__ = ("_is_tolerant",)

    form: ClassVar = _FORM

    def __init__(self, *, is_tolerant: bool = False) -> None:
        super().__init__()
        self._is_tolerant = is_tolerant

    def _read_head(self, frame: bytes) -> ArchivedGenesis:
        return ArchivedGenesis(as_bytes(frame, "founding document", bytes_max=GENESIS_BYTES_MAX))

    def _read_item(self, frame: bytes) -> ArchivedBlock | ArchivedDamage | Seal:
        try:
            values = self._decode(frame)
            if is_seal(values):
                return as_seal(values)
            block, certificate = as_tuple(values, "item", length=2)
            return ArchivedBlock(
                as_bytes(block, "block", bytes_max=BLOCK_BYTES_MAX),
                as_optional(certificate, "certificate", as_bytes),
            )
        except MalformedError as error:
            if not self._is_tolerant:
                raise
            return ArchivedDamage(self._malformed(error))

    def _make_end(self, items: int) -> ArchiveEnd:
        return ArchiveEnd(items)
