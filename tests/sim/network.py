"""The wires between the machines: consensus messages, and requests with their answers.

Production links deliver in order or not at all. Here messages may also be repeated, reordered and arrive after their sender has died, which
consensus must bear. Every message is encoded and decoded on its way, by production code.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING

import trio

from consensus.messages import decode_message_untrusted
from node.errors import PeerUnavailableError
from node.sync import TX_SUBMIT
from tests.sim.plan import Rates
from wire.errors import RejectedError, UnavailableError
from wire.keys import KeyId

if TYPE_CHECKING:
    from tests.sim.node import Process
    from tests.sim.world import World

Handler = Callable[[KeyId, bytes], Awaitable[bytes]]

QUIET = Rates()
RETRANSMITTED_S = 0.25
"""How late comes what TCP sent twice."""
WATCH_S = 0.2
"""How often whoever waits for an answer looks whether the connection stands."""
STORM = Rates(loss=0.5, repetition=0.3, reordering=0.7, delay_ms=(1.0, 400.0))


class Network:
    """What lies between the machines."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        self._last_due: dict[tuple[int, int], float] = {}
        self.cuts: dict[int, set[tuple[int, int]]] = {}
        """For each fault that cuts: the pairs (from, to) that hear nothing."""
        self.storms = 0
        self.is_quiet = False
        """Whether nothing goes wrong any more."""

    def is_cut(self, sender: int, to: int) -> bool:
        """Return whether nothing gets from one machine to the other."""
        return any((sender, to) in pairs for pairs in self.cuts.values())

    def carry(self, sender: int, to: int, what: str, deliver: Callable[[], None], *, may_repeat: bool = False) -> None:
        """Let `deliver` be called in a while, or never; perhaps twice when it `may_repeat`."""
        rng, rates = self._random, self._rates
        trace, name = self._world.trace, f"v{sender + 1}>v{to + 1}"
        if rng.random() < rates.loss:
            trace.note(name, f"lost: {what}")
            return
        copies = 2 if may_repeat and rng.random() < rates.repetition else 1
        for copy in range(copies):
            due = self._world.now + rng.uniform(*rates.delay_ms) / 1000
            if copy == 0 and rng.random() >= rates.reordering:
                due = max(due, self._last_due.get((sender, to), 0.0))
                self._last_due[sender, to] = due
            self._world.agenda.at(due, lambda: self._arrive(sender, to, what, deliver))

    def carry_surely(self, sender: int, to: int, what: str, deliver: Callable[[], None]) -> None:
        """Let `deliver` be called once the machine is reached, as TCP would; whoever waits gives up when the connection is lost."""
        rng, rates = self._random, self._rates
        late_s = RETRANSMITTED_S if rng.random() < rates.loss else 0.0
        self._world.agenda.after(
            late_s + rng.uniform(*rates.delay_ms) / 1000, lambda: self._arrive_surely(sender, to, what, deliver)
        )

    def _arrive_surely(self, sender: int, to: int, what: str, deliver: Callable[[], None]) -> None:
        if self.is_cut(sender, to):
            self._world.agenda.after(RETRANSMITTED_S, lambda: self._arrive_surely(sender, to, what, deliver))
        else:
            self._arrive(sender, to, what, deliver)

    @property
    def _rates(self) -> Rates:
        return QUIET if self.is_quiet else STORM if self.storms else self._world.plan.rates

    def _arrive(self, sender: int, to: int, what: str, deliver: Callable[[], None]) -> None:
        name = f"v{sender + 1}>v{to + 1}"
        if self.is_cut(sender, to):
            self._world.trace.note(name, f"cut off: {what}")
            return
        self._world.trace.note(name, what)
        self._world.nodes[to].receive(deliver)


class Endpoint:
    """The network as one process sees it: as much of the interface of `node.net.network.Network` as the node uses."""

    def __init__(self, process: Process, network: Network) -> None:
        self._process = process
        self._network = network
        self._handlers: dict[str, Handler] = {}

    def handle(self, method: str, handler: Handler) -> None:
        self._handlers[method] = handler

    def send(self, peer: KeyId, payload: bytes) -> bool:
        process = self._process
        node, world = process.node, process.node.world
        process.boundary("send")
        to = world.by_id[peer]
        message = decode_message_untrusted(payload)
        world.oracle.note_sent(node, to.id, message)
        if not node.is_linked(to.index):
            return False
        self._network.carry(
            node.index, to.index, show(message), lambda: to.take_message(node.id, payload), may_repeat=True
        )
        return True

    async def request(
        self, peer: KeyId, method: str, payload: bytes, *, timeout_s: float, address: str | None = None
    ) -> bytes:
        """Return a peer's answer, or raise when it refuses, when the connection is lost, or when time is up.

        Of `tx.submit` question and answer may be lost without a word: clients must bear every outcome.
        """
        del address
        node = self._process.node
        world = node.world
        to = world.by_id[peer]
        served_by = to.process
        if served_by is None or not served_by.knows(node.id):
            raise PeerUnavailableError("node.net.unreachable", "the peer cannot be reached")
        carry = self._network.carry if method == TX_SUBMIT else self._network.carry_surely
        answered = trio.Event()
        answers: list[bytes | RejectedError | UnavailableError] = []

        def answer(value: bytes | RejectedError | UnavailableError) -> None:
            def arrive() -> None:
                answers.append(value)
                answered.set()

            carry(to.index, node.index, f"answer to {method}", arrive)

        carry(
            node.index,
            to.index,
            method,
            lambda: to.serve(lambda p: p.endpoint.answer(node.id, method, payload), answer),
        )
        deadline = world.now + timeout_s
        while not answers and world.now < deadline:
            with trio.move_on_at(min(deadline, world.now + WATCH_S)):
                await answered.wait()
            if not answers and (to.process is not served_by or world.is_parted(node, to)):
                raise PeerUnavailableError("node.net.connection_lost", "the connection ended")
        if not answers:
            raise PeerUnavailableError("node.net.timeout", "the peer did not answer in time")
        if isinstance(answers[0], bytes):
            return answers[0]
        raise answers[0]

    async def answer(self, sender: KeyId, method: str, payload: bytes) -> bytes:
        """Let the handler of the method answer."""
        handler = self._handlers.get(method)
        if handler is None:
            raise RejectedError("node.net.method", "the peer does not know this method", actual=method)
        return await handler(sender, payload)


def serve_on(
    nursery: trio.Nursery,
    work: Callable[[], Awaitable[bytes]],
    answer: Callable[[bytes | RejectedError | UnavailableError], None],
) -> None:
    """Run `work` beside the process' other tasks and hand its answer on."""

    async def run() -> None:
        try:
            answer(await work())
        except (RejectedError, UnavailableError) as error:
            answer(error)

    nursery.start_soon(run)


def show(message: object) -> str:
    """Return a message in one short line."""
    parts = [type(message).__name__]
    for name in (
        "term",
        "granted",
        "ok",
        "last_term",
        "last_height",
        "prev_height",
        "match_height",
        "reject_height",
        "commit_height",
    ):
        value = getattr(message, name, None)
        if value is not None:
            parts.append(f"{name.replace('_height', '')}={value}")
    if entries := getattr(message, "entries", None):
        parts.append(f"blocks={entries[0].height}-{entries[-1].height}")
    if getattr(message, "commit_certificate", None) is not None:
        parts.append("certificate")
    if acknowledgements := getattr(message, "acknowledgements", None):
        parts.append("signed=" + ",".join(str(each.height) for each in acknowledgements))
    return " ".join(parts)
