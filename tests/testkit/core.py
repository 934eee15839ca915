"""A node's core without a network: its real services over a ledger in memory, called as the gateway calls them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import trio

from ledger.state import StateView
from node.services import Services
from tests.testkit.ledger import Chain


class MemoryCore:
    """Stands in for `AsyncLocalClient`: each call runs to its end in a trio run of its own."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.broken: Exception | None = None
        """What every call raises instead of answering."""
        self.timeouts_s: set[float] = set()
        """How long callers were ready to wait."""
        node = SimpleNamespace(
            replica=SimpleNamespace(view=self._view, replica_age_ms=lambda: 1200),
            mempool=SimpleNamespace(find=lambda tx_id: None),
            patch_store=SimpleNamespace(has=lambda digest: True),
            validator=None,
            agent_methods=dict,
            status_document=self._status,
            member_documents=self._members,
        )
        self.services = Services(node).methods()  # type: ignore[arg-type]

    async def call(
        self, method: str, more: Mapping[str, Any] | None = None, *, timeout_s: float = 60, **params: Any
    ) -> Any:
        """Return what the service answers."""
        self.timeouts_s.add(timeout_s)
        if self.broken is not None:
            raise self.broken
        return trio.run(self.services[method], {**params, **(more or {})})

    async def stream(self, method: str, **params: Any) -> AsyncIterator[Any]:
        """Yield nothing: no test of pages listens."""
        del method, params
        return
        yield

    @contextmanager
    def _view(self) -> Iterator[StateView]:
        yield self.chain.view

    def _status(self) -> dict[str, Any]:
        header = self.chain.view.header
        return {
            "name": "v1", "chain_id": self.chain.view.chain_id, "role": "leader", "term": header.term, "leader": "v1",
            "height": header.height, "log_size": header.log_size, "replica_age_ms": 1200, "version": "0.1.0",
            "mempool": 0, "peers_connected": 3,
        }  # fmt: skip

    def _members(self) -> list[dict[str, Any]]:
        return [
            {"name": f"v{index}", "organisation": "acme", "key_id": f"{index:064x}", "membership": "voter",
             "match_height": None if index == 3 else self.chain.height - index}
            for index in range(4)
        ]  # fmt: skip
