"""Clients that never give up: they submit, ask again at another node, read back, and record every call.

Registers are identities of the ledger: created once, then overwritten with roles that no other call writes. A few live at a time and are
replaced by new ones every `EPOCH_S`, so that no register's history grows beyond what can be judged.

A read is linearizable, in one of two ways. `index`: a validator is asked for consistency=linearizable (Raft's ReadIndex). `log`: a marker
transaction is committed, then the register is read at the node that saw it committed, which by then holds everything that was acknowledged
before the read began. The second one needs nothing of the product but its log, and so keeps the first one honest. `look` is a local read.
"""

from __future__ import annotations

import base64
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from ledger import bodies
from ledger.roles import attestor_role
from ledger.transaction import Transaction
from node.local.client import LocalClient
from tests.faults.cluster import HOST_IDENTITY, Cluster
from tests.faults.history import Action, Recorder
from tests.faults.linearizability import EXISTS
from tests.faults.node import Node
from tests.testkit.ledger import administrator_of, key_of
from wire.errors import PatchwardenError

EPOCH_S: Final = 15.0
REGISTERS: Final = 3
"""Registers at a time."""
ORGANISATION: Final = "acme"
NOT_FOUND: Final = "node.identity.not_found"
STALE_REFUSALS: Final = frozenset({"ledger.identity.not_found"})
"""Refusals of a node that has not yet seen what this client knows to be committed; another node is asked."""
ATTEMPT_TIMEOUT_MS: Final = 2500
SOCKET_TIMEOUT_S: Final = 5.0
RETRY_PAUSE_S: Final = 0.05
LOAD_BODY_BYTES: Final = 300
ACTIONS: Final[tuple[tuple[Action, int], ...]] = (("write", 45), ("read", 30), ("look", 25))


class StoppedError(Exception):
    """The run is over; the call stays without an answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The final answer to one transaction."""

    node: Node
    height: int | None
    code: str
    """Empty when it was committed."""
    attempts: int


class Client(threading.Thread):
    """One thread with a connection of its own to each node."""

    def __init__(self, name: str, workload: Workload) -> None:
        super().__init__(name=name, daemon=True)
        self.workload = workload
        self.chance = random.Random(f"{workload.seed} {name}")
        self.error: BaseException | None = None
        self._connections: dict[str, LocalClient] = {}

    def run(self) -> None:
        try:
            while not self.workload.ended.is_set():
                self.act()
        except StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - a thread's border: the harness reports it as its own failure
            self.error = error
        finally:
            for connection in self._connections.values():
                connection.__exit__()

    def act(self) -> None:
        """Make one call and see it through."""
        raise NotImplementedError

    def ask(self, node: Node, method: str, **params: Any) -> Any:
        """Return a node's answer over this client's connection to it, which is made anew after a break."""
        connection = self._connections.get(node.name)
        if connection is None:
            connection = self._connections[node.name] = LocalClient(node.socket, timeout_s=SOCKET_TIMEOUT_S)
        try:
            return connection.call(method, **params)
        except PatchwardenError as error:
            if error.code == "node.local.unreachable":
                # Late answers to this call must not be taken for answers to the next one.
                del self._connections[node.name]
                connection.__exit__()
            raise

    def pick(self) -> Node:
        """Return any node; one that is down costs an attempt, as it would cost a real client."""
        return self.chance.choice(self.workload.cluster.nodes)

    def pause(self, seconds: float) -> None:
        """Wait, or end the call when the run is over."""
        if self.workload.ended.wait(seconds):
            raise StoppedError

    def submit(self, transactions: Sequence[Transaction]) -> list[Answer]:
        """Return the final answer to each, after as many attempts at changing nodes as it takes."""
        answers: list[Answer | None] = [None] * len(transactions)
        for attempt in itertools.count(1):
            waiting = [index for index, answer in enumerate(answers) if answer is None]
            if not waiting:
                return [answer for answer in answers if answer is not None]
            node = self.pick()
            try:
                results = self.ask(
                    node,
                    "tx.submit",
                    transactions=[base64.b64encode(transactions[index].raw).decode() for index in waiting],
                    wait="committed",
                    timeout_ms=ATTEMPT_TIMEOUT_MS,
                )
            except PatchwardenError as error:
                self.workload.count(error.code)
                self.pause(RETRY_PAUSE_S)
                continue
            for index, result in zip(waiting, results, strict=True):
                answers[index] = self._judge(node, result, attempt)
            if None in answers:
                self.pause(RETRY_PAUSE_S)
        raise AssertionError("itertools.count has no end")

    def _judge(self, node: Node, result: dict[str, Any], attempt: int) -> Answer | None:
        if result["status"] == "committed":
            self.workload.committed(result["height"])
            return Answer(node, result["height"], "", attempt)
        error = result["error"] or {"code": result["status"], "family": ""}
        self.workload.count(error["code"])
        if error["family"] == "rejected" and error["code"] not in STALE_REFUSALS:
            return Answer(node, None, error["code"], attempt)
        return None


class RegisterClient(Client):
    """Creates, overwrites and reads registers."""

    def __init__(self, name: str, workload: Workload) -> None:
        super().__init__(name, workload)
        self._numbers = itertools.count(1)
        self._known: set[str] = set()

    def act(self) -> None:
        self.pause(self.chance.uniform(0, 2 * self.workload.pause_s))
        key = self.workload.register(self.chance)
        if key not in self._known:
            self._change("create", key)
            self._known.add(key)
            return
        names, weights = zip(*ACTIONS, strict=True)
        action: Action = self.chance.choices(names, weights)[0]
        match action:
            case "read":
                self._read(key)
            case "look":
                self._look(key)
            case _:
                self._change(action, key)

    def _change(self, action: Action, key: str) -> None:
        cluster = self.workload.cluster
        value = attestor_role(f"{self.name}-{next(self._numbers)}")
        body: bodies.Body
        if action == "create":
            body = bodies.IdentityRegister(key, key, (value,), key_of(f"{key} {value}").public_key.spki)
        else:
            body = bodies.IdentityUpdateRoles(key, (value,))
        transaction = cluster.sign(body, administrator_of(ORGANISATION))
        number = self.workload.recorder.call(self.name, action, key, value, [transaction.tx_id.hex()])
        (answer,) = self.submit([transaction])
        self.workload.recorder.returned(
            number,
            "refused" if answer.code else "ok",
            node=answer.node.name,
            result=answer.code or None,
            height=answer.height,
            heights=() if answer.height is None else (answer.height,),
            attempts=answer.attempts,
        )
        if answer.code and answer.code != EXISTS:
            self.workload.count(f"unexpected {answer.code}")

    def _read(self, key: str) -> None:
        """Read in one of the two ways; when a node goes away in between, the same call begins anew at another one."""
        way = self.chance.choice(("index", "log"))
        number = self.workload.recorder.call(self.name, "read", key, way)
        attempts = 0
        while True:
            attempts += 1
            try:
                if way == "index":
                    node = self.chance.choice(self.workload.cluster.validators)
                    value, height = self._read_at(node, key, "linearizable")
                else:
                    node, height, value = self._read_through_log(key)
            except PatchwardenError as error:
                self.workload.count(error.code)
                self.pause(RETRY_PAUSE_S)
                continue
            self.workload.recorder.returned(
                number, "ok", node=node.name, result=value, height=height, attempts=attempts
            )
            return

    def _read_through_log(self, key: str) -> tuple[Node, int | None, str | None]:
        """Return who answered, the marker's height, and the register's value."""
        marker = self.workload.cluster.sign(bodies.HostReport("inventory", "marker", b""), HOST_IDENTITY)
        (answer,) = self.submit([marker])
        assert not answer.code, f"a marker was refused: {answer.code}"
        value, _ = self._read_at(answer.node, key, "local")
        return answer.node, answer.height, value

    def _look(self, key: str) -> None:
        node = self.pick()
        number = self.workload.recorder.call(self.name, "look", key)
        with suppress(PatchwardenError):
            value, height = self._read_at(node, key, "local")
            self.workload.recorder.returned(number, "ok", node=node.name, result=value, height=height)

    def _read_at(self, node: Node, key: str, consistency: str) -> tuple[str | None, int | None]:
        """Return the register's value and the height of the state it was read from; None and None when there is no such register."""
        try:
            document = self.ask(node, "identities.get", identity=key, consistency=consistency)
        except PatchwardenError as error:
            if error.code == NOT_FOUND:
                return None, None
            raise
        (value,) = document["roles"]
        return value, document["as_of"]["height"]


class LoadClient(Client):
    """Submits batches of reports, which only have to be there once at the end."""

    def act(self) -> None:
        begin = time.monotonic()
        cluster = self.workload.cluster
        transactions = [
            cluster.sign(
                bodies.HostReport("inventory", self.name, self.chance.randbytes(LOAD_BODY_BYTES)), HOST_IDENTITY
            )
            for _ in range(self.workload.batch)
        ]
        number = self.workload.recorder.call(self.name, "load", tx_ids=[each.tx_id.hex() for each in transactions])
        answers = self.submit(transactions)
        for answer in answers:
            if answer.code:
                self.workload.count(f"unexpected {answer.code}")
        self.workload.recorder.returned(
            number,
            "refused" if any(answer.code for answer in answers) else "ok",
            node=answers[-1].node.name,
            heights=[answer.height or -1 for answer in answers],
            attempts=max(answer.attempts for answer in answers),
        )
        self.pause(max(0.0, self.workload.batch_interval_s - (time.monotonic() - begin)))


class Workload:
    """All clients of one run."""

    def __init__(
        self,
        cluster: Cluster,
        recorder: Recorder,
        *,
        seed: int,
        clients: int = 6,
        pause_s: float = 0.05,
        loaders: int = 2,
        batch: int = 50,
        batch_interval_s: float = 0.5,
    ) -> None:
        """Make the clients; `start` lets them go.

        Args:
            cluster: Whom they speak to.
            recorder: Who writes down what they do.
            seed: Of what each does; its timing is the machine's.
            clients: Those that work on registers.
            pause_s: Their mean pause between two calls.
            loaders: Those that submit batches.
            batch: Transactions in a batch.
            batch_interval_s: The time from the beginning of one batch to that of the next; 0 for as much as goes.
        """
        self.cluster = cluster
        self.recorder = recorder
        self.seed = seed
        self.pause_s = pause_s
        self.batch = batch
        self.batch_interval_s = batch_interval_s
        self.ended = threading.Event()
        self.answers: Counter[str] = Counter()
        """How often each refusal or failure came; they are what retries are for."""
        self.acknowledged = 0
        """Transactions."""
        self._counting = threading.Lock()
        self._began = time.monotonic()
        self.clients: list[Client] = [RegisterClient(f"c{number}", self) for number in range(clients)]
        self.clients += [LoadClient(f"load{number}", self) for number in range(loaders)]

    def register(self, chance: random.Random) -> str:
        """Return the name of one of the registers of this moment."""
        epoch = int((time.monotonic() - self._began) / EPOCH_S)
        return f"r{epoch}-{chance.randrange(REGISTERS)}@{ORGANISATION}"

    def committed(self, height: int) -> None:
        """Count a transaction that was acknowledged as committed."""
        self.cluster.height_seen = max(self.cluster.height_seen, height)
        with self._counting:
            self.acknowledged += 1

    def count(self, code: str) -> None:
        """Count an answer that was not the one hoped for."""
        self.answers[code] += 1

    def start(self) -> None:
        for client in self.clients:
            client.start()

    def stop(self, timeout_s: float = 30) -> None:
        """End the clients; a call that is under way stays without an answer.

        Raises:
            BaseException: What a client ended with, if it was not this.
        """
        self.ended.set()
        for client in self.clients:
            client.join(timeout_s)
            if client.error is not None:
                raise client.error
