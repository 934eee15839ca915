"""A patch file as a list of chunks: what each of them has to be, before the whole is here.

The ledger knows a file by the SHA-256 of all of its bytes. A chunk alone cannot be compared with that; so whoever has the whole file says
what its chunks are, and everything else follows from the rule that nobody may say so of a file that it has not verified as a whole:

* the list's root is claimed first, the list must have that root, and a chunk must be what the list says: who breaks its own word lies;
* the whole must be what the ledger says: if it is not, everybody who claimed that root has lied.

A file of a single chunk needs no list: the digest of the chunk is that of the file. Source: docs/spec/network.md 9, decision record 0021.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from wire.errors import MalformedError
from wire.hashing import Digest
from wire.limits import KIBIBYTE, PATCH_FILE_BYTES_MAX

CHUNK_BYTES: Final = 256 * KIBIBYTE
"""Every chunk but the last one, which is shorter unless the file is a multiple."""
DIGEST_BYTES: Final = 32
LIST_BYTES_MAX: Final = -(-PATCH_FILE_BYTES_MAX // CHUNK_BYTES) * DIGEST_BYTES
"""The list of the largest file."""
_LABEL: Final = b"patchwarden-chunks/1\x00"


def count_chunks(size: int) -> int:
    """Return how many chunks a file of `size` bytes has, at least one."""
    return max(1, -(-size // CHUNK_BYTES))


@dataclass(frozen=True, slots=True)
class ChunkList:
    """What the chunks of a file are."""

    size: int
    """Bytes of the file."""
    digests: tuple[Digest, ...]
    """SHA-256 of each chunk, in order."""

    @property
    def raw(self) -> bytes:
        """The list as it travels: the digests one after the other."""
        return b"".join(self.digests)

    @property
    def root(self) -> Digest:
        """What stands for the list: SHA-256 of a label, the file's size, the chunks' size, and the list."""
        head = self.size.to_bytes(8, "big") + CHUNK_BYTES.to_bytes(4, "big")
        return Digest(sha256(_LABEL + head + self.raw).digest())

    def offset(self, number: int) -> int:
        """Return where the chunk begins."""
        return number * CHUNK_BYTES

    def length(self, number: int) -> int:
        """Return how long the chunk is, bytes."""
        return min(CHUNK_BYTES, self.size - number * CHUNK_BYTES)


def single_chunk(size: int, digest: Digest) -> ChunkList | None:
    """Return the list of a file that is one chunk, which follows from its digest; None for a larger file."""
    return ChunkList(size, (digest,)) if count_chunks(size) == 1 else None


def read_list_untrusted(raw: bytes, size: int) -> ChunkList:
    """Return the list that a peer sent for a file of `size` bytes.

    Raises:
        MalformedError: ``node.patch.list_length``.
    """
    count = count_chunks(size)
    if len(raw) != count * DIGEST_BYTES:
        raise MalformedError(
            "node.patch.list_length",
            "a list of chunks has the wrong length",
            expected=count * DIGEST_BYTES,
            actual=len(raw),
        )
    return ChunkList(
        size, tuple(Digest(raw[begin : begin + DIGEST_BYTES]) for begin in range(0, len(raw), DIGEST_BYTES))
    )


class ChunkHasher:
    """Makes the list and the digest of a file that is read from its beginning to its end, in pieces of `CHUNK_BYTES`."""

    def __init__(self) -> None:
        self._whole = sha256()
        self._size = 0
        self._digests: list[Digest] = []

    def add(self, piece: bytes) -> None:
        """Take the next chunk; every one but the last has `CHUNK_BYTES`."""
        self._whole.update(piece)
        self._size += len(piece)
        self._digests.append(Digest(sha256(piece).digest()))

    def finish(self) -> tuple[Digest, ChunkList]:
        """Return the digest of the file, and its list."""
        digests = self._digests or [Digest(sha256().digest())]
        return Digest(self._whole.digest()), ChunkList(self._size, tuple(digests))
