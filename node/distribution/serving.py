"""What this node answers those who want a patch file.

===========  ================================================  =================================================================
method       request                                           response
===========  ================================================  =================================================================
patch.find   (file digest, address or nil, stranded)           (state, chunks that are here, root or nil, (address, …))
patch.list   (file digest)                                     the digests of all chunks, or nil
patch.chunk  (file digest, number)                             the chunk, or nil
patch.done   (file digest, whether it is there now)            nil
===========  ================================================  =================================================================

Chunks and lists go only to who has a place (`node.distribution.places`), and to those who take part in consensus.
Source: docs/spec/network.md 9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from node.distribution.chunks import CHUNK_BYTES, DIGEST_BYTES, LIST_BYTES_MAX, ChunkList, read_list_untrusted
from node.distribution.places import OFFERS_MAX, Places
from node.distribution.plan import Found, State
from node.joining import reachable_address
from node.machine import REAL_MACHINE, Machine
from node.patch_store import PatchStore
from node.telemetry import Metrics
from wire.codec import Value, decode_untrusted, encode
from wire.errors import MalformedError, UnavailableError
from wire.fields import as_bool, as_bytes, as_digest, as_int, as_optional, as_text, as_tuple
from wire.hashing import Digest
from wire.keys import KeyId
from wire.limits import FRAME_BYTES_MAX

if TYPE_CHECKING:
    from node.net.network import Network

PATCH_FIND: Final = "patch.find"
PATCH_LIST: Final = "patch.list"
PATCH_CHUNK: Final = "patch.chunk"
PATCH_DONE: Final = "patch.done"
BUSY: Final = "node.patch.busy"
"""Who asks for a chunk has no place here, or not any more."""
READS_MAX: Final = 4
"""Chunks that are read from the disk at once, and files whose lists are made."""
CHUNKS_MAX: Final = LIST_BYTES_MAX // DIGEST_BYTES
_STATES: Final = {state.value: state for state in State}
_ADDRESS_BYTES_MAX: Final = 400
_STATE_BYTES_MAX: Final = 16
_REQUEST_BYTES_MAX: Final = 1024


class PatchServer:
    """Serves the files of one node.

    Args:
        store: The files.
        places: Who may take them.
        remote: Returns where a connected peer's connection comes from.
        is_exempt: Whether a peer needs no place.
        progress: Returns how many chunks of a file are here that is being fetched now; None when the asker must not wait for it.
        metrics: What is counted.
        machine: Threads.
    """

    def __init__(
        self,
        store: PatchStore,
        places: Places,
        *,
        remote: Callable[[KeyId], str],
        is_exempt: Callable[[KeyId], bool],
        progress: Callable[[Digest, KeyId], int | None],
        metrics: Metrics,
        machine: Machine = REAL_MACHINE,
    ) -> None:
        self._store = store
        self._places = places
        self._remote = remote
        self._is_exempt = is_exempt
        self._progress = progress
        self._sent = metrics.patch_bytes.labels("sent")
        self._machine = machine
        self._reading = trio.CapacityLimiter(READS_MAX)

    def register(self, network: Network) -> None:
        """Answer the methods of this module on `network`."""
        network.handle(PATCH_FIND, self.find)
        network.handle(PATCH_LIST, self.list_chunks)
        network.handle(PATCH_CHUNK, self.chunk)
        network.handle(PATCH_DONE, self.done)

    async def find(self, peer: KeyId, payload: bytes) -> bytes:
        """Say whether the file is here, give the asker a place if there is one, and name others."""
        digest_value, address_value, stranded_value = _request(payload, 3)
        digest = as_digest(digest_value, "file_digest")
        address = reachable_address(as_optional(address_value, "address", _as_address), peer, self._remote(peer))
        is_stranded = as_bool(stranded_value, "is_stranded")
        chunks = await self._list_of(digest)
        now = trio.current_time()
        if chunks is None:
            progress = self._progress(digest, peer)
            state = State.ABSENT if progress is None else State.COMING
            return encode_found(Found(state, progress or 0, None, self._places.others(digest, peer, now)))
        may = self._is_exempt(peer) or self._places.ask(
            digest, peer, address, chunks=len(chunks.digests), is_stranded=is_stranded, now=now
        )
        offers = self._places.others(digest, peer, now)
        return encode_found(Found(State.HERE if may else State.BUSY, len(chunks.digests), chunks.root, offers))

    async def list_chunks(self, peer: KeyId, payload: bytes) -> bytes:
        """Return what the chunks of the file are."""
        (digest_value,) = _request(payload, 1)
        digest = as_digest(digest_value, "file_digest")
        self._check_place(digest, peer)
        chunks = await self._list_of(digest)
        return encode(None if chunks is None else chunks.raw)

    async def chunk(self, peer: KeyId, payload: bytes) -> bytes:
        """Return a chunk of the file."""
        digest_value, number_value = _request(payload, 2)
        digest = as_digest(digest_value, "file_digest")
        number = as_int(number_value, "number", maximum=CHUNKS_MAX - 1)
        if not self._is_exempt(peer) and not self._places.spend(digest, peer, trio.current_time()):
            raise _busy()
        data = await self._machine.in_thread(
            self._store.read, digest, number * CHUNK_BYTES, CHUNK_BYTES, limiter=self._reading
        )
        self._sent.inc(len(data or b""))
        return encode(data)

    async def done(self, peer: KeyId, payload: bytes) -> bytes:
        """Free the asker's place."""
        digest_value, has_value = _request(payload, 2)
        digest = as_digest(digest_value, "file_digest")
        has_file = as_bool(has_value, "has_file")
        chunks = await self._list_of(digest)
        if chunks is not None:
            count, now = len(chunks.digests), trio.current_time()
            self._places.done(digest, peer, chunks=count, has_file=has_file, now=now)
        return encode(None)

    def _check_place(self, digest: Digest, peer: KeyId) -> None:
        if not self._is_exempt(peer) and not self._places.renew(digest, peer, trio.current_time()):
            raise _busy()

    async def _list_of(self, digest: Digest) -> ChunkList | None:
        return await self._machine.in_thread(self._store.chunk_list, digest, limiter=self._reading)


def _busy() -> UnavailableError:
    return UnavailableError(BUSY, "the peer has no place for this file here", hint="ask for one first")


def encode_find(digest: Digest, address: str | None, *, is_stranded: bool) -> bytes:
    """Return the payload of `patch.find`."""
    return encode((digest, address, is_stranded))


def encode_found(found: Found) -> bytes:
    """Return the answer to `patch.find`."""
    value: Value = (found.state.value, found.progress, found.root, found.offers)
    return encode(value)


def decode_found_untrusted(payload: bytes) -> Found:
    """Return a peer's answer to `patch.find`. Its offers have the form of text; nothing else about them is checked.

    Raises:
        MalformedError: ``wire.*``, ``node.patch.state``.
    """
    values = as_tuple(decode_untrusted(payload, bytes_max=FRAME_BYTES_MAX), "answer", length=4)
    state = _STATES.get(as_text(values[0], "state", _STATE_BYTES_MAX))
    if state is None:
        raise MalformedError("node.patch.state", "the state is not known", expected=", ".join(_STATES))
    offers = as_tuple(values[3], "offers", length_max=OFFERS_MAX)
    return Found(
        state,
        as_int(values[1], "progress", maximum=CHUNKS_MAX),
        as_optional(values[2], "root", as_digest),
        tuple(_as_address(offer, "offer") for offer in offers),
    )


def decode_list_untrusted(payload: bytes, size: int) -> ChunkList | None:
    """Return a peer's list for a file of `size` bytes, or None when it has none.

    Raises:
        MalformedError: ``wire.*``, ``node.patch.list_length``.
    """
    value = decode_untrusted(payload, bytes_max=FRAME_BYTES_MAX)
    return None if value is None else read_list_untrusted(as_bytes(value, "list", bytes_max=LIST_BYTES_MAX), size)


def decode_chunk_untrusted(payload: bytes) -> bytes | None:
    """Return a peer's chunk, or None when it has none.

    Raises:
        MalformedError: ``wire.*``.
    """
    value = decode_untrusted(payload, bytes_max=FRAME_BYTES_MAX)
    return None if value is None else as_bytes(value, "chunk", bytes_max=CHUNK_BYTES)


def _request(payload: bytes, length: int) -> tuple[object, ...]:
    return as_tuple(decode_untrusted(payload, bytes_max=_REQUEST_BYTES_MAX), "request", length=length)


def _as_address(value: object, name: str) -> str:
    return as_text(value, name, _ADDRESS_BYTES_MAX)
