"""What nodes ask each other besides consensus: blocks with their certificates, and transactions to pass on.

=============  ====================================================  ====================================================
method         request                                               response
=============  ====================================================  ====================================================
follow.join    `node.joining`
blocks.get     (from height, to height or nil, at most bytes, wait   ((block, certificate or nil), …), the last certified
               in milliseconds)
tx.submit      (relay, (transaction, …))                             ((status, tx_id or nil, code or nil, sentence), …)
status.get     ()                                                    (height, block hash)
checkpoint.get (at most this height, or nil)                         the newest checkpoint up to there as a text, or nil
patch.*        `node.distribution.serving`
snapshot.*     `node.snapshots`
=============  ====================================================  ====================================================

Everything is one canonical tuple. An answer is bounded by what was asked for and by the peer's own limits, whichever is less.

Source: docs/spec/network.md 5.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from ledger.checkpoint import build_checkpoint
from ledger.errors import NotYetAvailableError
from ledger.limits import CHECKPOINT_BYTES_MAX
from ledger.state import StateView
from node.distribution.chunks import ChunkList
from node.distribution.plan import Found
from node.distribution.serving import (
    BUSY,
    PATCH_CHUNK,
    PATCH_DONE,
    PATCH_FIND,
    PATCH_LIST,
    decode_chunk_untrusted,
    decode_found_untrusted,
    decode_list_untrusted,
    encode_find,
)
from node.joining import FOLLOW_JOIN, FULL, Joined, JoinServer, decode_joined_untrusted, encode_wish
from node.limits import SUBMIT_TRANSACTIONS_MAX
from node.submission import STATUSES, Submitted
from node.sync_slots import Wish
from wire.codec import Value, decode_untrusted, encode
from wire.errors import RejectedError, UnavailableError
from wire.fields import as_bool, as_bytes, as_digest, as_int, as_optional, as_text, as_tuple
from wire.hashing import Digest
from wire.keys import KeyId
from wire.limits import BLOCK_BYTES_MAX, CERTIFICATE_BYTES_MAX, FRAME_BYTES_MAX, TX_BYTES_MAX

if TYPE_CHECKING:
    from node.app import Node
    from node.net.network import Network

BLOCKS_MAX: Final = 256
"""Blocks in one answer."""
BLOCKS_ANSWER_MAX: Final = 4096
"""Blocks in an answer that is read; it may have to be longer than asked for to end with a certified one."""
BLOCKS_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of blocks in one answer; a single block may be longer."""
LONG_POLL_MS_MAX: Final = 30_000
"""How long a question for blocks may stay open."""
SUBMIT_BYTES_MAX: Final = 6 * 1024 * 1024
"""Bytes of transactions passed on at once."""
FOLLOWER_LIVE_S: Final = 60.0
"""Whoever has asked for blocks within this time follows us."""
FOLLOWERS_MAX: Final = 1024
"""Followers remembered; the one that has not asked for the longest time is forgotten."""
REQUEST_TIMEOUT_S: Final = 10.0
SENTENCE_BYTES_MAX: Final = 1024
CODE_BYTES_MAX: Final = 128
_REQUEST_BYTES_MAX: Final = 1024

BLOCKS_GET: Final = "blocks.get"
TX_SUBMIT: Final = "tx.submit"
STATUS_GET: Final = "status.get"
CHECKPOINT_GET: Final = "checkpoint.get"
SNAPSHOT_OFFER: Final = "snapshot.offer"
SNAPSHOT_CHUNK: Final = "snapshot.chunk"

HISTORY_PRUNED: Final = "ledger.history.pruned"
"""A peer has forgotten the block that it was asked for."""
REFUSED: Final = "node.sync.refused"
"""A peer will not answer, for a reason of its own."""
KNOWN_CODES: Final = frozenset(
    {HISTORY_PRUNED, FULL}
    | {f"node.net.{rule}" for rule in ("unreachable", "timeout", "busy", "connection_lost", "peer_failed")}
)
"""Why a peer may give no blocks. Any other code is of its own making and stands behind `REFUSED`: codes are counted by name here."""
KNOWN_FILE_CODES: Final = KNOWN_CODES | {BUSY}
"""The same for patch files."""
FIND_TIMEOUT_S: Final = 5.0
"""How long a peer may take to say whether it has a patch file, a dial included."""
CHUNK_TIMEOUT_S: Final = 20.0
"""How long a peer may take for a chunk of a patch file, of which two are asked for at a time."""
DONE_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class CertifiedBlock:
    """An encoded block, and its own certificate where one was stored."""

    block: bytes
    certificate: bytes | None


class SyncServer:
    """Answers peers from one node's replica.

    Args:
        node: The node.
        joining: Decides who may have blocks; None admits everybody.
    """

    def __init__(self, node: Node, joining: JoinServer | None = None) -> None:
        self._node = node
        self._joining = joining
        self._followers: OrderedDict[KeyId, tuple[int, float]] = OrderedDict()

    def followers(self) -> dict[KeyId, int]:
        """Return who has asked for blocks lately, and from which height on."""
        since = trio.current_time() - FOLLOWER_LIVE_S
        return {key_id: height for key_id, (height, asked) in self._followers.items() if asked >= since}

    def _note_follower(self, peer: KeyId, height: int) -> None:
        self._followers[peer] = (height, trio.current_time())
        self._followers.move_to_end(peer)
        if len(self._followers) > FOLLOWERS_MAX:
            self._followers.popitem(last=False)

    def register(self, network: Network) -> None:
        """Answer the methods of this module on `network`."""
        network.handle(BLOCKS_GET, self._blocks)
        if self._joining is not None:
            self._joining.register(network)
        network.handle(TX_SUBMIT, self._submit)
        network.handle(STATUS_GET, self._status)
        network.handle(CHECKPOINT_GET, self._checkpoint)

    async def _blocks(self, peer: KeyId, payload: bytes) -> bytes:
        values = as_tuple(decode_untrusted(payload, bytes_max=_REQUEST_BYTES_MAX), "request", length=4)
        start = as_int(values[0], "from_height", 1)
        end = as_optional(values[1], "to_height", as_int)
        bytes_max = min(as_int(values[2], "bytes_max", 1), BLOCKS_BYTES_MAX)
        wait_ms = min(as_int(values[3], "wait_ms"), LONG_POLL_MS_MAX)
        if self._joining is not None and not self._joining.admits(
            peer, start - 1, is_single=bytes_max == 1 and wait_ms == 0
        ):
            raise UnavailableError(FULL, "this node feeds as many observers as it may", hint="ask for a slot first")
        self._note_follower(peer, start)
        replica = self._node.replica
        with trio.move_on_after(wait_ms / 1000):
            await replica.wait_above(start - 1)
        with replica.view() as view:
            view.check_kept(start)
            found = certified_blocks(view, start, bytes_max, end)
        return encode(tuple((item.block, item.certificate) for item in found))

    async def _submit(self, peer: KeyId, payload: bytes) -> bytes:
        del peer
        relay_value, raws_value = as_tuple(decode_untrusted(payload, bytes_max=FRAME_BYTES_MAX), "request", length=2)
        relay = as_bool(relay_value, "relay")
        raws = [
            as_bytes(raw, "transaction", bytes_max=TX_BYTES_MAX)
            for raw in as_tuple(raws_value, "transactions", length_max=SUBMIT_TRANSACTIONS_MAX)
        ]
        submitter = self._node.submitter
        if relay:
            # From a host: it cannot know who leads, so this node passes on what it does not lead for.
            results = await submitter.submit(raws, wait="admitted", timeout_ms=int(REQUEST_TIMEOUT_S * 500))
        else:
            results = await submitter.admit(raws)
        return encode(tuple(_submitted_to_value(result) for result in results))

    async def _status(self, peer: KeyId, payload: bytes) -> bytes:
        del peer
        as_tuple(decode_untrusted(payload, bytes_max=_REQUEST_BYTES_MAX), "request", length=0)
        tip = self._node.replica.latest_view().tip
        return encode((tip.header.height, tip.block_hash))

    async def _checkpoint(self, peer: KeyId, payload: bytes) -> bytes:
        del peer
        (height,) = as_tuple(decode_untrusted(payload, bytes_max=_REQUEST_BYTES_MAX), "request", length=1)
        try:
            with self._node.replica.store.snapshot() as reader:
                return encode(build_checkpoint(reader, as_optional(height, "height", as_int)).to_text())
        except NotYetAvailableError:
            return encode(None)


def certified_blocks(view: StateView, start: int, bytes_max: int, end: int | None = None) -> list[CertifiedBlock]:
    """Return blocks from `start` on up to a certified one, as many as fit into `bytes_max`; none when none is certified yet.

    When no certified block fits, or none up to `end`, the answer grows to the next one: a batch without a certificate would prove nothing.
    """
    answer: list[CertifiedBlock] = []
    certified = 0
    size = 0
    for height in range(start, view.height + 1):
        block = view.block(height)
        if block is None:
            break
        certificate = view.certificate(height)
        size += len(block.raw)
        is_beyond = end is not None and height > end
        if certified and (size > bytes_max or len(answer) >= BLOCKS_MAX or is_beyond):
            break
        answer.append(CertifiedBlock(block.raw, certificate))
        if certificate is not None:
            certified = len(answer)
    return answer[:certified]


class PeerLedger:
    """One peer as a source of blocks and files, and as a way for transactions. Nothing it says is believed here."""

    def __init__(self, network: Network, key_id: KeyId, address: str) -> None:
        self._network = network
        self.key_id = key_id
        """Its node key."""
        self.address = address
        """Where it is dialled, a multiaddress."""

    @property
    def name(self) -> str:
        """The peer for people: the beginning of its key id."""
        return self.key_id.hex()[:16]

    async def join(self, wish: Wish) -> Joined:
        """Ask for a slot; return the answer.

        Raises:
            RejectedError: The answer has no good form.
            UnavailableError: The peer does not answer; the code is one of `KNOWN_CODES`, or `REFUSED`.
        """
        return decode_joined_untrusted(await self._ask(FOLLOW_JOIN, encode_wish(wish), REQUEST_TIMEOUT_S))

    async def blocks(self, start: int, *, bytes_max: int, wait_ms: int, end: int | None = None) -> list[CertifiedBlock]:
        """Return blocks from `start` on, up to `end` or the first certified one above it; none when there is none within `wait_ms`.

        Raises:
            RejectedError: The answer has no good form.
            UnavailableError: The peer does not answer; the code is one of `KNOWN_CODES`, or `REFUSED`.
        """
        request = encode((start, end, bytes_max, wait_ms))
        answer = await self._ask(BLOCKS_GET, request, REQUEST_TIMEOUT_S + wait_ms / 1000)
        items = as_tuple(decode_untrusted(answer, bytes_max=FRAME_BYTES_MAX), "blocks", length_max=BLOCKS_ANSWER_MAX)
        return [_certified_block(item) for item in items]

    async def _ask(self, method: str, payload: bytes, timeout_s: float, known: frozenset[str] = KNOWN_CODES) -> bytes:
        """Return the answer; whatever word the peer has for refusing one is put behind a code of ours."""
        try:
            return await self._network.request(self.key_id, method, payload, timeout_s=timeout_s, address=self.address)
        except (RejectedError, UnavailableError) as error:
            if error.code in known:
                raise UnavailableError(error.code, error.message) from error
            raise UnavailableError(REFUSED, f"the peer refuses: {error.code}") from error

    async def submit(self, raws: Sequence[bytes], *, relay: bool, timeout_s: float) -> list[Submitted]:
        """Pass transactions on; return what became of each.

        Raises:
            UnavailableError: The peer does not answer, or does not lead.
        """
        results: list[Submitted] = []
        for chunk in _chunks(raws, SUBMIT_BYTES_MAX):
            answer = await self._request(TX_SUBMIT, (relay, tuple(chunk)), timeout_s=timeout_s)
            items = as_tuple(decode_untrusted(answer, bytes_max=FRAME_BYTES_MAX), "results", length=len(chunk))
            results.extend(_submitted_from_value(item) for item in items)
        return results

    async def checkpoint(self, height_max: int | None) -> bytes | None:
        """Return the peer's newest checkpoint, or the newest up to a height, as a text; None when it has none. Nothing is verified."""
        answer = await self._request(CHECKPOINT_GET, (height_max,), timeout_s=REQUEST_TIMEOUT_S)
        value = decode_untrusted(answer, bytes_max=FRAME_BYTES_MAX)
        return None if value is None else as_bytes(value, "checkpoint", bytes_max=CHECKPOINT_BYTES_MAX)

    async def snapshot_offer(self, height_min: int) -> bytes | None:
        """Return the manifest of a snapshot at `height_min` or above, or None when the peer has none yet; nothing is verified."""
        answer = await self._request(SNAPSHOT_OFFER, (height_min,), timeout_s=REQUEST_TIMEOUT_S)
        return as_optional(decode_untrusted(answer, bytes_max=FRAME_BYTES_MAX), "manifest", as_bytes)

    async def snapshot_chunk(self, digest: Digest, bytes_max: int) -> bytes | None:
        """Return a chunk of a snapshot, or None when the peer does not have it; the caller compares the digest."""
        answer = await self._request(SNAPSHOT_CHUNK, (digest,), timeout_s=REQUEST_TIMEOUT_S)
        value = decode_untrusted(answer, bytes_max=FRAME_BYTES_MAX)
        return None if value is None else as_bytes(value, "chunk", bytes_max=bytes_max)

    async def patch_find(self, digest: Digest, address: str | None, *, is_stranded: bool) -> Found:
        """Ask for a patch file and a place; return what the peer says.

        Args:
            digest: SHA-256 of the file.
            address: Where others may find this node; None when nobody can.
            is_stranded: Whether nobody else has helped.

        Raises:
            RejectedError: The answer has no good form.
            UnavailableError: The peer does not answer; the code is one of `KNOWN_FILE_CODES`, or `REFUSED`.
        """
        payload = encode_find(digest, address, is_stranded=is_stranded)
        return decode_found_untrusted(await self._ask(PATCH_FIND, payload, FIND_TIMEOUT_S, KNOWN_FILE_CODES))

    async def patch_list(self, digest: Digest, size: int) -> ChunkList | None:
        """Return what the chunks of a file of `size` bytes are, or None when the peer does not have it. Raises as `patch_find`."""
        answer = await self._ask(PATCH_LIST, encode((digest,)), REQUEST_TIMEOUT_S, KNOWN_FILE_CODES)
        return decode_list_untrusted(answer, size)

    async def patch_chunk(self, digest: Digest, number: int) -> bytes | None:
        """Return a chunk of a file, or None when the peer does not have it; the caller compares. Raises as `patch_find`."""
        answer = await self._ask(PATCH_CHUNK, encode((digest, number)), CHUNK_TIMEOUT_S, KNOWN_FILE_CODES)
        return decode_chunk_untrusted(answer)

    async def patch_done(self, digest: Digest, *, has_file: bool) -> None:
        """Say that no more of a file is asked for. Raises as `patch_find`."""
        await self._ask(PATCH_DONE, encode((digest, has_file)), DONE_TIMEOUT_S, KNOWN_FILE_CODES)

    async def _request(self, method: str, value: Value, *, timeout_s: float) -> bytes:
        return await self._network.request(
            self.key_id, method, encode(value), timeout_s=timeout_s, address=self.address
        )


def _chunks(raws: Sequence[bytes], bytes_max: int) -> list[list[bytes]]:
    chunks: list[list[bytes]] = []
    size = bytes_max
    for raw in raws:
        if size + len(raw) > bytes_max:
            chunks.append([])
            size = 0
        chunks[-1].append(raw)
        size += len(raw)
    return chunks


def _certified_block(value: object) -> CertifiedBlock:
    block, certificate = as_tuple(value, "block", length=2)
    return CertifiedBlock(
        as_bytes(block, "block", bytes_max=BLOCK_BYTES_MAX),
        as_optional(certificate, "certificate", _as_certificate),
    )


def _as_certificate(value: object, name: str) -> bytes:
    return as_bytes(value, name, bytes_max=CERTIFICATE_BYTES_MAX)


def _submitted_to_value(result: Submitted) -> Value:
    family = None
    code, sentence = "", ""
    if result.error is not None:
        family = isinstance(result.error, RejectedError)
        code, sentence = result.error.code, result.error.message[: SENTENCE_BYTES_MAX // 4]
    return (result.status, result.tx_id, family, code, sentence)


def _submitted_from_value(value: object) -> Submitted:
    status_value, tx_id, family, code_value, sentence_value = as_tuple(value, "result", length=5)
    status = next((known for known in STATUSES if known == status_value), None)
    if status is None:
        raise RejectedError("node.sync.status", "a peer's answer about a transaction has no known status")
    code = as_text(code_value, "code", CODE_BYTES_MAX)
    sentence = as_text(sentence_value, "sentence", SENTENCE_BYTES_MAX)
    error: RejectedError | UnavailableError | None = None
    if family is not None:
        error = (RejectedError if as_bool(family, "family") else UnavailableError)(code, sentence)
    return Submitted(as_optional(tx_id, "tx_id", as_digest), status, error=error)
