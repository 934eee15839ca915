"""A leader whose disk is nearly full admits nothing, and so nothing enters the network anywhere: it lets somebody else lead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

CHECK_S: Final = 1.0
"""How often a leader looks at its disk."""
AGAIN_S: Final = 30.0
"""How long a node that has handed leadership over waits before it does so again, if its disk has had no room since: where no disk has any,
leadership must not go round."""
RETRY_S: Final = 5.0
"""How long it waits after nobody could take leadership: none had caught up, or none was there."""

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
    wait_s = 0.0
    while True:
        await sleep(CHECK_S)
        wait_s = max(0.0, wait_s - CHECK_S)
        if has_space():
            wait_s = 0.0
        elif is_leader() and not wait_s:
            handed_over = await hand_over()
            _log.warning("the disk is nearly full; leadership is handed over", handed_over=handed_over)
            wait_s = AGAIN_S if handed_over else RETRY_S
