"""The patch files of one node, put together: what is kept, what is served, what is fetched.

Source: docs/spec/network.md 9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from node import clock
from node.distribution.fetching import PatchFetcher
from node.distribution.keeping import Needs, PatchKeeper, find_needs
from node.distribution.places import Places
from node.distribution.serving import PatchServer
from node.sync import PeerLedger
from wire.hashing import Digest
from wire.keys import KeyId

if TYPE_CHECKING:
    from node.app import Node


class PatchFiles:
    """The patch files of `node`. Made before its network runs."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._store = node.patch_store
        self.places = Places(node.config.patch_places, is_rationed=node.config.role == "validator")
        self.fetcher = PatchFetcher(
            node.network.own.key_id,
            self._store,
            neighbours=node.relaying.neighbours,
            connect=lambda key_id, address: PeerLedger(node.network, key_id, address),
            announced=node.relaying.announced,
            make_room=self.make_room,
            metrics=node.metrics,
        )
        self.keeper = PatchKeeper(
            self._store,
            needs=self._needs,
            is_fetching=self.fetcher.is_fetching,
            keep_days=node.config.patch_keep_days,
            now_s=lambda: clock.now_ms() / 1000,
            metrics=node.metrics,
        )
        self._server = PatchServer(
            self._store,
            self.places,
            remote=node.network.remote,
            is_exempt=node.relaying.server.is_exempt,
            progress=self._progress,
            metrics=node.metrics,
        )
        self._server.register(node.network)

    async def bring(self, digest: Digest, size: int) -> bool:
        """Return whether the file that the ledger names is here, after peers were asked for it if need be.

        Args:
            digest: SHA-256 of the file.
            size: Its bytes.

        Raises:
            RejectedError: ``node.patch.store_full``.
            UnavailableError: ``node.patch.write_failed``.
        """
        if self._store.has(digest):
            await trio.to_thread.run_sync(self._store.touch, digest)
            return True
        return await self.fetcher.fetch(digest, size)

    async def get(self, digest: Digest, size: int) -> bytes | None:
        """Return the file that the ledger names, or None when nobody who can be asked has it. Raises as `bring` and `PatchStore.read`."""
        if not await self.bring(digest, size):
            return None
        return await trio.to_thread.run_sync(self._store.read, digest)

    async def make_room(self, size: int) -> None:
        """Return when `size` more bytes may be kept, removing what may go.

        Raises:
            RejectedError: ``node.patch.store_full``.
        """
        await self.keeper.make_room(size)

    def document(self) -> dict[str, Any]:
        """Return what is kept, fetched and served, for the status document."""
        return {
            "bytes": self._store.bytes_kept,
            "bytes_max": self._node.config.patch_store_bytes_max,
            "places": self.places.limit,
            "places_used": self.places.used(trio.current_time()),
            "redirected": self.places.redirected,
            "spare_given": self.places.spare_given,
            **self.fetcher.document(),
        }

    def observe(self) -> None:
        """Set the metrics; called when somebody asks for them."""
        metrics = self._node.metrics
        metrics.patch_places.set(self.places.used(trio.current_time()))
        metrics.patch_redirected.set(self.places.redirected)
        metrics.patch_spare_copies.set(self.places.spare_given)
        metrics.patch_store_bytes.set(self._store.bytes_kept)

    def _progress(self, digest: Digest, asker: KeyId) -> int | None:
        """Return how many chunks are here of a file that the asker may wait for; None when it must look elsewhere.

        Who follows this node waits for it from the beginning on. Nobody follows itself by any way, so nobody waits for itself; and
        validators are asked by those alone who follow them.
        """
        chunks = self.fetcher.progress(digest)
        if chunks is None and self.fetcher.is_fetching(digest):
            followers = self._node.relaying.slots.followers(trio.current_time())
            return 0 if any(each.key_id == asker for each in followers) else None
        return chunks

    async def _needs(self) -> Needs:
        agent = self._node.agent
        installed = None if agent is None else await agent.installed_patches()
        return await trio.to_thread.run_sync(self._find_needs, installed)

    def _find_needs(self, installed: frozenset[bytes] | None) -> Needs:
        with self._node.replica.view() as view:
            return find_needs(view.patches(), view.rollouts(), installed)
