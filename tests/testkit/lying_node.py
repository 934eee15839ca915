"""`python -m tests.testkit.lying_node HOME`: a node that lies to whoever follows it, in the way that the file ``lie`` in its home names.

It follows the network honestly itself; only what it serves is bent.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

import node.app
from node.joining import JoinServer, decode_joined_untrusted, encode_joined
from node.process import main
from node.sync import SyncServer
from wire.codec import Value, decode_untrusted, encode
from wire.keys import KeyId
from wire.limits import FRAME_BYTES_MAX

BOAST_BLOCKS: Final = 1000
"""How many blocks more than it has a boaster says it has."""

Items = tuple[tuple[bytes, bytes | None], ...]


def _garbage(items: Items) -> Items:
    return tuple((b"\x93garbage", certificate) for _, certificate in items)


def _reversed(items: Items) -> Items:
    return items[::-1]


def _uncertified(items: Items) -> Items:
    return tuple((block, None) for block, _ in items)


def _withheld(_: Items) -> Items:
    return ()


LIES: dict[str, Callable[[Items], Items]] = {
    "garbage": _garbage,
    "reversed": _reversed,
    "uncertified": _uncertified,
    "withheld": _withheld,
    "boasts": lambda items: items,
    "slow": lambda items: items,
}


class LyingSyncServer(SyncServer):
    """Bends every answer about blocks."""

    async def _blocks(self, peer: KeyId, payload: bytes) -> bytes:
        answer = await super()._blocks(peer, payload)
        if LIE == "slow":
            # The connection lives, the answer never comes.
            await trio.sleep_forever()
        items: Items = decode_untrusted(answer, bytes_max=FRAME_BYTES_MAX)  # type: ignore[assignment]
        value: Value = LIES[LIE](items)
        return encode(value)


class LyingJoinServer(JoinServer):
    """Says that it has more than it has, when that is the lie."""

    async def join(self, peer: KeyId, payload: bytes) -> bytes:
        """Answer one question for a slot."""
        joined = decode_joined_untrusted(await super().join(peer, payload))
        return encode_joined(replace(joined, head=joined.head + BOAST_BLOCKS if LIE == "boasts" else joined.head))


if __name__ == "__main__":
    LIE = (Path(sys.argv[1]) / "lie").read_text().strip()
    node.app.SyncServer = LyingSyncServer  # type: ignore[misc]
    node.relaying.JoinServer = LyingJoinServer  # type: ignore[misc]
    sys.exit(main())
