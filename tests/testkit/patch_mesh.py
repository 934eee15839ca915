"""Nodes that fetch patch files from each other in memory: real stores, servers and fetchers, and liars between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import trio

from node.distribution.chunks import CHUNK_BYTES, ChunkList, count_chunks
from node.distribution.fetching import Neighbours, PatchFetcher
from node.distribution.places import Places
from node.distribution.plan import Found, State
from node.distribution.serving import (
    PatchServer,
    decode_chunk_untrusted,
    decode_found_untrusted,
    decode_list_untrusted,
    encode_find,
)
from node.machine import Machine
from node.net.address import key_id_of, with_peer_id_untrusted
from node.patch_store import PatchStore
from node.telemetry import Metrics
from tests.testkit.ledger import key_of
from wire.codec import encode
from wire.errors import RejectedError, UnavailableError
from wire.hashing import Digest
from wire.keys import KeyId

REQUEST_S = 10.0
"""How long a question may stay without an answer."""
PORTS = iter(range(20_000, 60_000))

R = TypeVar("R")
Ts = TypeVarTuple("Ts")


async def inline(function: Callable[[*Ts], R], /, *arguments: *Ts, limiter: trio.CapacityLimiter | None = None) -> R:
    """Call a function at once: a clock that jumps does not wait for threads."""
    del limiter
    await trio.lowlevel.checkpoint()
    return function(*arguments)


MACHINE = Machine(in_thread=inline)


class Node:
    """One node of the mesh.

    Args:
        mesh: The mesh.
        name: Its name.
        directory: Where its files lie.
        places: How many peers it gives one file to.
        is_validator: Whether it counts those who have taken a file.
        bytes_max: How much it keeps.
    """

    def __init__(
        self,
        mesh: Mesh,
        name: str,
        directory: Path,
        *,
        places: int = 6,
        is_validator: bool = False,
        bytes_max: int = 1 << 40,
    ) -> None:
        raw_key = key_of(name).public_key.raw
        self.name = name
        self.key_id = key_id_of(raw_key)
        self.address = with_peer_id_untrusted(f"/ip4/127.0.0.1/tcp/{next(PORTS)}", raw_key)
        self.is_validator = is_validator
        self.mesh = mesh
        self.directory = directory
        self.metrics = Metrics()
        self.bytes_max = bytes_max
        self.store = PatchStore(directory, random_suffix=lambda: "x", bytes_max=bytes_max)
        self.places = Places(places, is_rationed=is_validator)
        self.near: list[str] = []
        self.followers: set[KeyId] = set()
        """Who may wait for this node from the beginning on."""
        self.fetcher = self._make_fetcher()

        def progress(digest: Digest, asker: KeyId) -> int | None:
            chunks = self.fetcher.progress(digest)
            if chunks is None and asker in self.followers and self.fetcher.is_fetching(digest):
                return 0
            return chunks

        self.server = PatchServer(
            self.store,
            self.places,
            remote=lambda _: "127.0.0.1:1",
            is_exempt=lambda peer: mesh.nodes[peer].is_validator,
            progress=progress,
            metrics=self.metrics,
            machine=MACHINE,
        )
        self.sent = 0
        """Bytes of chunks."""
        self.asked_chunks: list[int] = []

    def _make_fetcher(self) -> PatchFetcher:
        async def make_room(size: int) -> None:
            self.store.check_room(size)

        return PatchFetcher(
            self.key_id,
            self.store,
            neighbours=self._neighbours,
            connect=lambda key_id, _: self.mesh.link(self, key_id),
            announced=lambda: None if self.is_validator else self.address,
            make_room=make_room,
            metrics=self.metrics,
            machine=MACHINE,
        )

    def restart(self) -> None:
        """Forget everything that is not on disk."""
        self.store = PatchStore(self.directory, random_suffix=lambda: "x", bytes_max=self.bytes_max)
        self.fetcher = self._make_fetcher()

    def _neighbours(self) -> Neighbours:
        fixed = [node for node in self.mesh.nodes.values() if node.is_validator and node is not self]
        near = [node for node in self.mesh.nodes.values() if node.name in self.near]
        return Neighbours(
            [self.mesh.link(self, node.key_id) for node in near], [self.mesh.link(self, node.key_id) for node in fixed]
        )

    # What it answers; a liar's class overrides one of them.

    async def find(self, peer: KeyId, digest: Digest, address: str | None, *, is_stranded: bool) -> Found:
        payload = encode_find(digest, address, is_stranded=is_stranded)
        return decode_found_untrusted(await self.server.find(peer, payload))

    async def list_chunks(self, peer: KeyId, digest: Digest, size: int) -> ChunkList | None:
        return decode_list_untrusted(await self.server.list_chunks(peer, encode((digest,))), size)

    async def chunk(self, peer: KeyId, digest: Digest, number: int) -> bytes | None:
        self.asked_chunks.append(number)
        await trio.sleep(self.mesh.chunk_s)
        data = decode_chunk_untrusted(await self.server.chunk(peer, encode((digest, number))))
        self.sent += len(data or b"")
        return data


class Liar(Node):
    """Has every file that it is asked for, or says so; `content` is what its chunks are."""

    content = b""
    lies_about = frozenset[int]()

    def claimed(self, size: int) -> ChunkList:
        from node.distribution.chunks import ChunkHasher

        hasher = ChunkHasher()
        for number in range(count_chunks(size)):
            hasher.add(self.piece(number))
        return hasher.finish()[1]

    def piece(self, number: int) -> bytes:
        piece = self.content[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
        return bytes(len(piece)) if number in self.lies_about else piece

    async def find(self, peer: KeyId, digest: Digest, address: str | None, *, is_stranded: bool) -> Found:
        await trio.lowlevel.checkpoint()
        return Found(State.HERE, 0, self.claimed(len(self.content)).root, ())

    async def list_chunks(self, peer: KeyId, digest: Digest, size: int) -> ChunkList | None:
        await trio.lowlevel.checkpoint()
        return self.claimed(size)

    async def chunk(self, peer: KeyId, digest: Digest, number: int) -> bytes | None:
        self.asked_chunks.append(number)
        await trio.sleep(self.mesh.chunk_s)
        return self.piece(number)


@dataclass
class Link:
    """`node.distribution.fetching.FilePeer` from one node of the mesh to another."""

    mesh: Mesh
    asker: Node
    node: Node

    @property
    def key_id(self) -> KeyId:
        return self.node.key_id

    @property
    def address(self) -> str:
        return self.node.address

    @property
    def name(self) -> str:
        return self.node.name

    async def patch_find(self, digest: Digest, address: str | None, *, is_stranded: bool) -> Found:
        with self._deadline():
            return await self.node.find(self.asker.key_id, digest, address, is_stranded=is_stranded)
        raise UnavailableError("node.net.timeout", "no answer")

    async def patch_list(self, digest: Digest, size: int) -> ChunkList | None:
        with self._deadline():
            return await self.node.list_chunks(self.asker.key_id, digest, size)
        raise UnavailableError("node.net.timeout", "no answer")

    async def patch_chunk(self, digest: Digest, number: int) -> bytes | None:
        with self._deadline():
            return await self.node.chunk(self.asker.key_id, digest, number)
        raise UnavailableError("node.net.timeout", "no answer")

    async def patch_done(self, digest: Digest, *, has_file: bool) -> None:
        with self._deadline():
            await self.node.server.done(self.asker.key_id, encode((digest, has_file)))

    def _deadline(self) -> trio.CancelScope:
        if self.node.name in self.mesh.away:
            raise UnavailableError("node.net.unreachable", "it is away")
        return trio.move_on_after(REQUEST_S)


@dataclass
class Mesh:
    """All nodes, by key."""

    directory: Path
    chunk_s: float = 0.01
    """How long a chunk takes."""
    nodes: dict[KeyId, Node] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)

    def add(self, name: str, kind: type[Node] = Node, **options: int | bool) -> Node:
        node = kind(self, name, self.directory / name, **options)  # type: ignore[arg-type]
        self.nodes[node.key_id] = node
        return node

    def link(self, asker: Node, key_id: KeyId) -> Link:
        node = self.nodes.get(key_id)
        if node is None:
            raise RejectedError("test.unknown", "there is no such node")
        return Link(self, asker, node)
