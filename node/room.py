"""A leader whose disk is nearly full admits nothing, and so nothing enters the network anywhere: it lets somebody else lead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

CHECK_S: Final = 1.0
"""How often a leader looks at its disk."""
AGAIN_S: Final = 30.0
"""How long a node that has handed leadership over waits before it does so again: where no disk has room, leadership must not go round."""

_log = structlog.get_logger("node.room")


async def lead_only_with_room(
    *,
    is_leader: Callable[[], bool],
    has_space: Callable[[], bool],
    hand_over: Callable[[], Awaitable[bool]],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Hand leadership over whenever this node leads and its disk is nearly full, until cancelled.

    Args:
        is_leader: Whether this node leads now.
        has_space: Whether its disk has more room than the reserve.
        hand_over: Hands leadership to whoever is furthest; returns whether this node no longer leads.
        sleep: Returns after so many seconds.

    Source: docs/spec/storage.md 3.
    """
    while True:
        await sleep(CHECK_S)
        if is_leader() and not has_space():
            handed_over = await hand_over()
            _log.warning("the disk is nearly full; leadership is handed over", handed_over=handed_over)
            await sleep(AGAIN_S)
