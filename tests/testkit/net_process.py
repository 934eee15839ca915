"""A network in a process of its own: ``python -m tests.testkit.net_process NAME LISTEN PEER=ADDRESS…``.

Prints one line for each event: ``address TEXT``, ``up NAME``, ``down NAME``, ``got NAME COUNT``. With ``--talk`` it sends a message of
2 KB to every linked peer each 10 ms; with ``--flood`` as much as the queues take.
"""

from __future__ import annotations

import sys

import trio

from node.net.network import LinkChange
from tests.testkit.net import Member
from wire.keys import KeyId

TALK_S = 0.01


def say(*words: object) -> None:
    """Print one line at once."""
    print(*words, flush=True)


async def main(name: str, listen: str, peers: dict[str, str], *, chunk: int) -> None:
    """Run until killed."""
    member = Member(name, [name, *peers], listen=listen)
    names: dict[KeyId, str] = {Member(peer).key_id: peer for peer in peers}
    counts = dict.fromkeys(peers, 0)
    own = member.network

    def on_link(peer: KeyId, change: LinkChange) -> None:
        say("up" if change is LinkChange.UP else "down", names[peer])

    def on_consensus(peer: KeyId, messages: list[bytes]) -> None:
        counts[names[peer]] += len(messages)

    own._on_link = on_link
    own.on_consensus = on_consensus
    async with trio.open_nursery() as nursery:
        await nursery.start(member.run)
        say("address", member.address)
        own.set_links(
            {Member(peer).key_id: (Member(peer).network.own.raw_key, address) for peer, address in peers.items()}
        )
        while True:
            await trio.sleep(TALK_S)
            for key_id in names:
                while chunk and own.send(key_id, bytes(chunk)) and chunk > 10_000:
                    pass
            for peer, count in counts.items():
                if count:
                    say("got", peer, count)
                    counts[peer] = 0


if __name__ == "__main__":
    arguments = [word for word in sys.argv[1:] if not word.startswith("--")]
    size = 60_000 if "--flood" in sys.argv else 2_000 if "--talk" in sys.argv else 0
    trio.run(lambda: main(arguments[0], arguments[1], dict(pair.split("=", 1) for pair in arguments[2:]), chunk=size))
