"""Peers of an observer that serve from the in-memory chains of `tests.testkit.ledger`, honest ones and liars."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import trio

from node.joining import FULL, Joined
from node.sync import CertifiedBlock
from node.sync_slots import Wish
from tests.testkit.ledger import Chain
from tests.testkit.node import certified
from wire.hashing import Digest
from wire.keys import KeyId


def key_id_named(name: str) -> KeyId:
    """Return the key id that stands for a name."""
    return KeyId(Digest(hashlib.sha256(name.encode()).digest()))


class SourceBase:
    """A peer that admits everybody and names nobody."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key_id = key_id_named(name)
        self.address = f"/dns4/{name}/tcp/1"
        self.path: tuple[KeyId, ...] = ()
        self.offers: tuple[str, ...] = ()
        self.refusal: str | None = None
        self.head = 0
        self.wishes: list[Wish] = []

    async def join(self, wish: Wish) -> Joined:
        self.wishes.append(wish)
        await trio.lowlevel.checkpoint()
        return Joined(self.refusal, self.head, self.path, self.offers)


class ScriptedSource(SourceBase):
    """Each answer is a list of blocks or an exception; afterwards it is quiet for ever."""

    def __init__(self, name: str, answers: Sequence[list[CertifiedBlock] | Exception], head: int = 0) -> None:
        super().__init__(name)
        self.answers = list(answers)
        self.asked: list[int] = []
        self.head = head

    async def blocks(self, start: int, *, bytes_max: int, wait_ms: int, end: int | None = None) -> list[CertifiedBlock]:
        self.asked.append(start)
        if not self.answers:
            await trio.sleep_forever()
        answer = self.answers.pop(0)
        await trio.lowlevel.checkpoint()
        if isinstance(answer, Exception):
            raise answer
        return answer


class ChainSource(SourceBase):
    """Serves a chain, and waits where it ends. A subclass that lies overrides `answer`."""

    def __init__(self, name: str, chain: Chain, *, slots: int | None = None) -> None:
        super().__init__(name)
        self.chain = chain
        self.slots = slots
        self.asked: list[tuple[int, int | None]] = []
        self.open = 0
        """Questions that wait for an answer."""
        self.pause_s = 0.0

    async def join(self, wish: Wish) -> Joined:
        self.head = max(self.head, self.chain.height)
        if self.slots == 0:
            self.refusal = FULL
        return await super().join(wish)

    async def blocks(self, start: int, *, bytes_max: int, wait_ms: int, end: int | None = None) -> list[CertifiedBlock]:
        self.asked.append((start, end))
        self.open += 1
        try:
            await trio.sleep(self.pause_s)
            if start > self.chain.height:
                await trio.sleep(wait_ms / 1000)
                return []
            return self.answer(start, end)
        finally:
            self.open -= 1

    def answer(self, start: int, end: int | None) -> list[CertifiedBlock]:
        count = None if end is None else end - start + 1
        return certified(self.chain, start)[:count]
