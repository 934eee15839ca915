"""Server-sent events: a stream that says now and then that it is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from node.gateway.limits import EVENT_KEEP_ALIVE_S
from wire.errors import PatchwardenError

QUEUE_MAX: Final = 16
"""Events ahead of a slow reader; the core waits for room."""


async def with_keep_alive(events: AsyncIterator[str], *, every_s: float = EVENT_KEEP_ALIVE_S) -> AsyncIterator[str]:
    """Yield `events`, and a comment whenever none came for `every_s` seconds; end when they end or the core goes away."""
    queue: asyncio.Queue[str | None] = asyncio.Queue(QUEUE_MAX)

    async def pump() -> None:
        try:
            async for event in events:
                await queue.put(event)
        except PatchwardenError:
            pass  # The head of the answer has left: all that can still be said is that the stream is over.
        finally:
            await queue.put(None)

    # The first bytes tell the client, and whatever stands in between, that the stream is open.
    yield ": open\n\n"
    task = asyncio.create_task(pump())
    try:
        while True:
            try:
                async with asyncio.timeout(every_s):
                    event = await queue.get()
            except TimeoutError:
                yield ": still here\n\n"
                continue
            if event is None:
                return
            yield event
    finally:
        task.cancel()
