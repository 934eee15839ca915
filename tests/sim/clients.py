"""The clients: each submits transactions through whichever node it likes, tries again until it knows, and reads back.

What a client is told binds the network: *committed* means at that height for ever, *refused* means never. Calls on identities make a
history that must be linearizable; reads that are made on one node's replica must be what the chain says at the height that they name, and
never older than what the same node has acknowledged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import trio

from ledger import bodies
from ledger.state import StateView
from ledger.transaction import Transaction, build_transaction
from node.submission import Submitted
from tests.sim.errors import ViolationError
from tests.sim.linearizability import NEVER, Action, Answer, Call, is_linearizable
from tests.sim.oracle import demand
from tests.sim.timing import LINEARIZABLE_TIMEOUT_S
from tests.testkit.ledger import administrator_of, key_of
from wire.errors import RejectedError, UnavailableError

if TYPE_CHECKING:
    from tests.sim.node import Process, SimNode
    from tests.sim.world import World

ORGANISATION = "acme"
CALL_MS = (0.1, 3.0)
"""How long a question takes to a node, and its answer back."""
TIMEOUTS_MS = (200, 1000, 4000)
"""How long a client lets a node wait for a block."""
PROBE_TIMEOUT_MS = 500
PATIENCE_S = 1.0
"""How much longer than that it waits for the node."""
LONGEST_CALL_S = max(TIMEOUTS_MS) / 1000 + PATIENCE_S
"""A client whose node died waits so long before it asks another one."""
EXPIRES_SOON_BLOCKS = 3
EXPIRES_LATE_BLOCKS = 50_000
REFUSALS = {
    (Action.CREATE, "ledger.identity.exists"): Answer.EXISTS,
    (Action.WRITE, "ledger.identity.not_found"): Answer.MISSING,
}
"""Refusals that tell what the register held."""


@dataclass(slots=True)
class Open:
    """A call that a client waits for."""

    name: str
    action: Action
    key: str
    value: str
    transaction: Transaction
    began: int
    attempts: int = 0


class Clients:
    """All clients of one run, and what they were told."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._moments = 0
        self._nonces = 0
        self._running = 0
        self._idle = trio.Event()
        self.open: dict[str, Open] = {}
        self.waiting: dict[str, str] = {}
        """What others wait for, in words."""
        self._calls: dict[str, list[Call]] = {}
        self._refused: dict[bytes, tuple[Open, str]] = {}
        self._acknowledged: dict[bytes, int] = {}
        self._seen_by: dict[int, int] = {}
        """For each node the greatest height at which it has acknowledged or shown something."""
        self._created: list[str] = []
        """Registers that somebody has just heard are there: who writes to one of them now meets nodes that do not know it yet."""
        self.counts: Counter[str] = Counter()

    def start(self, nursery: trio.Nursery) -> None:
        """Let the clients work until the faults end."""
        for number in range(self._world.plan.clients):
            self._running += 1
            nursery.start_soon(self._client, f"c{number + 1}", Random(f"client {self._world.plan.seed} {number}"))

    async def probe(self) -> None:
        """Return when a new transaction through each node is committed."""
        async with trio.open_nursery() as nursery:
            for node in self._world.members:
                if not node.is_broken:
                    nursery.start_soon(self._probe, node)

    async def finish(self) -> None:
        """Return when every client knows what became of its last call."""
        if self._running:
            await self._idle.wait()

    def describe_open(self) -> str:
        """Return what is not answered."""
        waiting = [
            f"{each.name} waits for {each.action} {each.key} ({each.attempts} attempts)" for each in self.open.values()
        ]
        return ", ".join([*waiting, *self.waiting.values()]) or "every client has its answer"

    # What clients do

    async def _client(self, name: str, rng: Random) -> None:
        number = 0
        await trio.sleep(rng.uniform(0, 1.0))
        while not self._world.are_faults_over:
            number += 1
            kind = rng.random()
            if kind < 0.15:
                await self._look(name, rng)
            elif kind < 0.35:
                await self._read(name, rng)
            else:
                await self._change(name, rng, number)
            await trio.sleep(rng.choice((0.0, 0.005, 0.05, 0.3)))
        self._running -= 1
        if not self._running:
            self._idle.set()

    async def _change(self, name: str, rng: Random, number: int) -> None:
        key = f"host{rng.randrange(self._world.plan.identities)}-{name if rng.random() < 0.2 else 'all'}@{ORGANISATION}"
        value = f"attestor:{name}-{number}"
        action = Action.CREATE if rng.random() < 0.2 else Action.WRITE
        node = rng.choice(self._world.nodes)
        if rng.random() < 0.3:
            if self._created:
                key, action, node = self._created.pop(), Action.WRITE, self._world.leader() or node
            else:
                key, action = f"fresh-{name}-{number}@{ORGANISATION}", Action.CREATE
        expires = EXPIRES_SOON_BLOCKS if rng.random() < 0.1 else EXPIRES_LATE_BLOCKS
        transaction = self._sign(action, key, value, expires)
        call = self.open[name] = Open(name, action, key, value, transaction, self._moment())
        while True:
            call.attempts += 1
            result = await self.submit(node, transaction, rng, rng.choice(TIMEOUTS_MS))
            if result.status == "committed":
                self._acknowledge(node, call, result)
                if action is Action.CREATE:
                    self._created.append(key)
                break
            if result.status == "refused":
                self._refuse(call, result)
                break
            await trio.sleep(rng.uniform(0.01, 0.1))
            # Who has left the network never has an answer; by now it would be time to know.
            node = rng.choice(self._world.members if self._world.are_faults_over else self._world.nodes)
        del self.open[name]

    async def _look(self, name: str, rng: Random) -> None:
        node = rng.choice(self._world.nodes)
        key = f"host{rng.randrange(self._world.plan.identities)}-all@{ORGANISATION}"
        floor = self._seen_by.get(node.index, 0)
        answers: list[tuple[int, str | None]] = []

        def look(process: Process) -> None:
            with process.replica.store.snapshot() as snapshot:
                view = StateView(snapshot)
                record = view.identity(key)
                answers.append((view.height, None if record is None else record.roles[0]))

        try:
            await self._call(node, look, 1.0, rng)
        except UnavailableError:
            return
        ((height, value),) = answers
        self.counts["looks"] += 1
        self._world.trace.note(name, f"sees {key} = {value} at height {height} of {node.name}")
        expected = self._world.oracle.value_at(key, height)
        demand(
            value == expected, "read.wrong", f"{node.name} shows {value} at height {height}, the chain says {expected}"
        )
        demand(
            height >= floor, "read.old", f"{node.name} shows height {height} after it acknowledged or showed {floor}"
        )
        self._seen_by[node.index] = max(height, self._seen_by.get(node.index, 0))

    async def _read(self, name: str, rng: Random) -> None:
        """Read what is committed, not what one node has."""
        node = rng.choice(self._world.nodes)
        key = f"host{rng.randrange(self._world.plan.identities)}-all@{ORGANISATION}"
        answers: list[str | None] = []

        async def read(process: Process) -> None:
            await process.wait_linearizable()
            record = process.replica.latest_view().identity(key)
            answers.append(None if record is None else record.roles[0])

        began = self._moment()
        try:
            await self._call(node, read, LINEARIZABLE_TIMEOUT_S + PATIENCE_S, rng)
        except UnavailableError:
            return
        self.counts["reads"] += 1
        self._world.trace.note(name, f"reads {key} = {answers[0]} through {node.name}")
        self._calls.setdefault(key, []).append(Call(Action.READ, answers[0], began, self._moment(), Answer.DONE))

    async def _probe(self, node: SimNode) -> None:
        rng = Random(f"probe {self._world.plan.seed} {node.index}")
        key = f"probe-{node.name}@{ORGANISATION}"
        transaction = self._sign(Action.CREATE, key, "attestor:probe", EXPIRES_LATE_BLOCKS)
        name = f"probe-{node.name}"
        call = self.open[name] = Open(name, Action.CREATE, key, "attestor:probe", transaction, self._moment())
        while not node.is_broken and node in self._world.members:
            call.attempts += 1
            result = await self.submit(node, transaction, rng, PROBE_TIMEOUT_MS)
            if result.status == "committed":
                self._acknowledge(node, call, result)
                break
            demand(
                result.status != "refused",
                "liveness.refused",
                f"{node.name} refuses a good transaction: {result.error}",
            )
            await trio.sleep(0.05)
        del self.open[name]

    def _sign(self, action: Action, key: str, value: str, expires: int) -> Transaction:
        body: bodies.Body
        if action is Action.CREATE:
            # A key of its own: two creations of one identity must meet in its name, not in its key.
            spki = key_of(f"{key} {self._nonces + 1}").public_key.spki
            body = bodies.IdentityRegister(key, key, (value,), spki)
        else:
            body = bodies.IdentityUpdateRoles(key, (value,))
        return self.sign(body, administrator_of(ORGANISATION), expires)

    def sign(self, body: bodies.Body, by: str, expires: int = EXPIRES_LATE_BLOCKS) -> Transaction:
        """Return what somebody says, good for so many blocks."""
        self._nonces += 1
        return build_transaction(
            self._world.genesis.chain_id,
            body.KIND,
            body,
            key_of(by),
            self._nonces.to_bytes(16, "big"),
            len(self._world.oracle.canonical) + expires,
            self._world.wall_ms,
        )

    # Questions and answers

    async def submit(self, node: SimNode, transaction: Transaction, rng: Random, timeout_ms: int) -> Submitted:
        """Return what a node says of a transaction; unknown when it says nothing."""
        results: list[Submitted] = []

        async def submit(process: Process) -> None:
            results.extend(await process.submitter.submit([transaction.raw], wait="committed", timeout_ms=timeout_ms))

        try:
            await self._call(node, submit, timeout_ms / 1000 + PATIENCE_S, rng)
        except UnavailableError as error:
            return Submitted(transaction.tx_id, "unknown", error=error)
        return results[0]

    async def _call(self, node: SimNode, work: Callable[[Process], object], patience_s: float, rng: Random) -> None:
        """Let a node's process do something for a client; the question, the process or the answer may be lost.

        Raises:
            UnavailableError: No answer came, or the node cannot.
        """
        world = self._world
        answered = trio.Event()
        errors: list[RejectedError | UnavailableError] = []

        async def serve(process: Process) -> bytes:
            answer = work(process)
            if answer is not None:
                await answer  # type: ignore[misc]
            return b""

        def finish(answer: bytes | RejectedError | UnavailableError) -> None:
            if not isinstance(answer, bytes):
                errors.append(answer)
            world.agenda.after(rng.uniform(*CALL_MS) / 1000, answered.set)

        is_lost = not world.are_faults_over and rng.random() < 0.02

        def arrive() -> None:
            if node.process is None:
                finish(UnavailableError("sim.refused", f"nothing listens on {node.name}"))
            else:
                node.receive(lambda: node.serve(serve, finish))

        if not is_lost:
            world.agenda.after(rng.uniform(*CALL_MS) / 1000, arrive)
        with trio.move_on_after(patience_s) as limit:
            await answered.wait()
        if limit.cancelled_caught:
            raise UnavailableError("sim.no_answer", f"{node.name} does not answer")
        for error in errors:
            if isinstance(error, UnavailableError):
                raise error
            raise ViolationError("client.error", f"{node.name} refuses a good question: {error.code}: {error.message}")

    # What they were told

    def _acknowledge(self, node: SimNode, call: Open, result: Submitted) -> None:
        tx_id = call.transaction.tx_id
        place = self._world.oracle.locations.get(tx_id)
        self._world.trace.tell(
            call.name, f"{call.action} {call.key} {call.value}: committed at {result.height}, says {node.name}"
        )
        demand(
            place is not None and place[0] == result.height,
            "acknowledged.place",
            f"{node.name} acknowledges {tx_id.hex()[:16]} at height {result.height}, the chain says {place}",
        )
        assert result.height is not None
        self.counts["acknowledged"] += 1
        self._acknowledged[tx_id] = result.height
        self._seen_by[node.index] = max(result.height, self._seen_by.get(node.index, 0))
        self._note(call, Answer.DONE)

    def _refuse(self, call: Open, result: Submitted) -> None:
        assert result.error is not None
        code = result.error.code
        self._world.trace.tell(call.name, f"{call.action} {call.key} {call.value}: refused, {code}")
        self.counts["refused"] += 1
        if not isinstance(result.error, RejectedError):
            # Not now: the mempool is full. Nothing is known, and this client gives up.
            self._note(call, Answer.UNKNOWN)
            return
        self._refused[call.transaction.tx_id] = call, code
        answer = REFUSALS.get((call.action, code))
        if answer is not None:
            self._note(call, answer)
        else:
            demand(
                code == "ledger.tx.expired",
                "client.refused",
                f"{call.name}'s good transaction is refused: {result.error}",
            )

    def _note(self, call: Open, answer: Answer) -> None:
        ended = NEVER if answer is Answer.UNKNOWN else self._moment()
        self._calls.setdefault(call.key, []).append(Call(call.action, call.value, call.began, ended, answer))

    def _moment(self) -> int:
        self._moments += 1
        return self._moments

    # What must hold of it

    def check_history(self) -> None:
        """Demand that nothing acknowledged is lost, nothing refused was executed, and every register's history is linearizable."""
        locations = self._world.oracle.locations
        for tx_id, height in self._acknowledged.items():
            place = locations.get(tx_id)
            demand(
                place is not None and place[0] == height,
                "acknowledged.lost",
                f"{tx_id.hex()[:16]} was acknowledged at {height}",
            )
        for tx_id, (call, code) in self._refused.items():
            if tx_id in locations:
                # A refusal speaks of its moment. What an earlier attempt has left in a mempool may be executed when times have changed.
                demand(
                    call.attempts > 1,
                    "refused.executed",
                    f"{tx_id.hex()[:16]} was refused with {code} at once and stands at {locations[tx_id]}",
                )
                self.counts["refused and executed later"] += 1
                self._calls[call.key].append(Call(call.action, call.value, call.began, NEVER, Answer.UNKNOWN))
        for key, calls in sorted(self._calls.items()):
            self.counts["calls"] += len(calls)
            demand(
                is_linearizable(calls),
                "linearizability",
                f"no order explains what clients saw of {key}: " + "; ".join(map(str, calls)),
            )
