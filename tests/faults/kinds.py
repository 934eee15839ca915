"""The kinds of faults. Each is a context: the fault is there during the body, and has ended, with its own checks made, after it.

What a fault does is drawn from the `random.Random` that it is given; what it is done to depends on the cluster (who leads, who is well).
"""

from __future__ import annotations

import base64
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Literal

from ledger import bodies
from node.process import EXIT_CORRUPTION
from tests.faults import disk
from tests.faults.cluster import HOST_IDENTITY, Cluster
from tests.faults.machine import HarnessError
from tests.faults.network import Impairment, Link, Rules
from tests.faults.node import Node
from wire.errors import PatchwardenError

WRITE_FAILED: Final = "node.storage.write_failed"
DISK_LOW: Final = "node.disk_low"
LEADER_SHARE: Final = 0.5
"""How often the leader is chosen, who would otherwise be one of four."""
FAIL_TIMEOUT_S: Final = 20.0
"""A node whose disk fails must end within this; under load it writes all the time."""
ADMISSION_S_MAX: Final = 10.0
"""A leader that has no room must have made room for another one within this."""
SHORT_PAUSE_S: Final = 0.2
CLOCK_STEPS_S: Final = (-86_400, -3_600, -90, -5, 5, 45, 90, 3_600, 86_400)

Need = Literal["strace", "clock library", "small disk"]


@dataclass
class Stage:
    """What faults act on, and what they found wrong."""

    cluster: Cluster
    spared: Node | None = None
    """A validator whose process is never ended, so that its memory can be followed through the whole run."""
    busy: set[str] = field(default_factory=set)
    """Nodes that a fault has taken for itself."""
    violations: list[str] = field(default_factory=list)

    def pick(self, chance: random.Random, *, ends_process: bool) -> Node:
        """Take a node for a fault, often the leader; raises `NothingToHurt` when all are taken."""
        leader = self.cluster.find_leader()
        allowed = [
            node
            for node in self.cluster.nodes
            if node.is_running and node.name not in self.busy and not (ends_process and node is self.spared)
        ]
        roll, other = chance.random(), chance.random()
        if leader in allowed and roll < LEADER_SHARE:
            assert leader is not None
            return leader
        if not allowed:
            raise NothingToHurt
        return allowed[int(other * len(allowed))]

    @contextmanager
    def taking(self, node: Node) -> Iterator[None]:
        """Keep other faults away from a node."""
        self.busy.add(node.name)
        try:
            yield
        finally:
            self.busy.discard(node.name)

    def violate(self, text: str) -> None:
        """Note what must not be."""
        self.violations.append(text)

    def restart(self, node: Node) -> None:
        """Start a node that is down and wait until it answers."""
        node.start()
        try:
            node.wait_up()
        except HarnessError as error:
            self.violate(f"a node did not come back: {error}")


class NothingToHurt(Exception):  # noqa: N818 - not an error: the round goes on without this fault
    """Every node that the fault could take is taken."""


Body = Callable[[Stage, random.Random], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault."""

    name: str
    body: Body
    weight: int
    need: Need | None

    def happening(self, stage: Stage, chance: random.Random) -> AbstractContextManager[str]:
        """Give what is being done, in words, while it is done."""
        return contextmanager(self.body)(stage, chance)


KINDS: Final[dict[str, Kind]] = {}


def kind(name: str, *, weight: int = 2, need: Need | None = None) -> Callable[[Body], Body]:
    """Add a kind of fault; weight says how often it is drawn beside the others."""

    def add(body: Body) -> Body:
        KINDS[name] = Kind(name, body, weight, need)
        return body

    return add


# Processes


@kind("kill", weight=4)
def _kill(stage: Stage, chance: random.Random) -> Iterator[str]:
    node = stage.pick(chance, ends_process=True)
    with stage.taking(node):
        node.kill()
        at_once = chance.random() < 0.5
        if at_once:
            stage.restart(node)
        yield f"kill -9 {node.name}, {'started at once' if at_once else 'down'}"
        if not at_once:
            stage.restart(node)


@kind("kill-all", weight=1)
def _kill_all(stage: Stage, chance: random.Random) -> Iterator[str]:
    nodes = [node for node in stage.cluster.nodes if node.is_running and node.name not in stage.busy]
    if stage.spared in nodes:
        # All but the spared one: the majority's memory is gone all the same.
        nodes.remove(stage.spared)
    chance.shuffle(nodes)
    with ExitStack() as stack:
        for node in nodes:
            stack.enter_context(stage.taking(node))
            node.kill()
        for node in nodes:
            time.sleep(chance.uniform(0, 0.7))
            node.start()
        yield f"kill -9 {' '.join(node.name for node in nodes)}, started one after the other"
        for node in nodes:
            try:
                node.wait_up()
            except HarnessError as error:
                stage.violate(f"a node did not come back: {error}")


@kind("terminate")
def _terminate(stage: Stage, chance: random.Random) -> Iterator[str]:
    node = stage.pick(chance, ends_process=True)
    with stage.taking(node):
        code = node.stop()
        if code != 0:
            stage.violate(f"{node.name} ended with {code} on SIGTERM")
        yield f"SIGTERM to {node.name}"
        stage.restart(node)


@kind("pause", weight=3)
def _pause(stage: Stage, chance: random.Random) -> Iterator[str]:
    node = stage.pick(chance, ends_process=False)
    with stage.taking(node):
        node.pause()
        try:
            yield f"SIGSTOP {node.name}"
        finally:
            node.resume()


@kind("flicker")
def _flicker(stage: Stage, chance: random.Random) -> Iterator[str]:
    node = stage.pick(chance, ends_process=False)
    with stage.taking(node):
        times = chance.randint(2, 5)
        for _ in range(times):
            node.pause()
            time.sleep(SHORT_PAUSE_S * chance.uniform(0.5, 4))
            node.resume()
            time.sleep(SHORT_PAUSE_S * chance.uniform(0.5, 2))
        yield f"SIGSTOP {node.name} {times} times for up to {SHORT_PAUSE_S * 4:.1f} s"


# Network


@contextmanager
def _rules(stage: Stage, rules: Rules) -> Iterator[None]:
    number = stage.cluster.network.add(rules)
    try:
        yield
    finally:
        stage.cluster.network.remove(number)


def _all_links(stage: Stage) -> list[Link]:
    indexes = range(len(stage.cluster.nodes))
    return [(source, target) for source in indexes for target in indexes if source != target]


@kind("partition", weight=4)
def _partition(stage: Stage, chance: random.Random) -> Iterator[str]:
    nodes = list(range(len(stage.cluster.nodes)))
    leader = stage.cluster.find_leader()
    if leader is not None and chance.random() < LEADER_SHARE:
        aside = [stage.cluster.index_of(leader)]
    else:
        chance.shuffle(nodes)
        aside = nodes[: chance.randint(1, max(1, len(nodes) // 2))]
    blocked = Impairment(blocked=True)
    rules = {(a, b): blocked for a, b in _all_links(stage) if (a in aside) != (b in aside)}
    with _rules(stage, rules):
        yield f"{_names(stage, aside)} cut off from the others"


@kind("one-way", weight=3)
def _one_way(stage: Stage, chance: random.Random) -> Iterator[str]:
    index = stage.cluster.index_of(stage.pick(chance, ends_process=False))
    links = _all_links(stage)
    match chance.choice(("deaf", "mute", "pair")):
        case "deaf":
            cut, text = [link for link in links if link[1] == index], "hears nobody"
        case "mute":
            cut, text = [link for link in links if link[0] == index], "is heard by nobody"
        case _:
            other = chance.choice([other for other in range(len(stage.cluster.nodes)) if other != index])
            cut, text = [(index, other)], f"is not heard by {_names(stage, [other])}"
    with _rules(stage, dict.fromkeys(cut, Impairment(blocked=True))):
        yield f"{_names(stage, [index])} {text}"


@kind("loss")
def _loss(stage: Stage, chance: random.Random) -> Iterator[str]:
    permille = chance.choice((20, 50, 100, 200, 300))
    with _rules(stage, dict.fromkeys(_all_links(stage), Impairment(loss_permille=permille))):
        yield f"{permille / 10:g} % of all packets lost"


@kind("delay")
def _delay(stage: Stage, chance: random.Random) -> Iterator[str]:
    delay_ms = chance.choice((5, 20, 50, 100))
    jitter_ms = delay_ms * chance.choice((0, 0.2, 0.8))
    links = _all_links(stage)
    where = "everywhere"
    if chance.random() < 0.5:
        index = stage.cluster.index_of(stage.pick(chance, ends_process=False))
        links = [link for link in links if index in link]
        where = f"around {_names(stage, [index])}"
    impairment = Impairment(delay_ms=delay_ms, jitter_ms=jitter_ms, duplicate_permille=chance.choice((0, 0, 20)))
    with _rules(stage, dict.fromkeys(links, impairment)):
        yield f"packets {delay_ms} ± {jitter_ms:g} ms late {where}, {impairment.duplicate_permille / 10:g} % of them twice"


def _names(stage: Stage, indexes: list[int]) -> str:
    return " ".join(stage.cluster.nodes[index].name for index in sorted(indexes))


# Disk


@kind("sync-error", need="strace")
def _sync_error(stage: Stage, chance: random.Random) -> Iterator[str]:
    node = stage.pick(chance, ends_process=True)
    with stage.taking(node):
        node.expected_down = True
        offset = node.log_size()
        with disk.injected(node, f"{disk.SYNCS}:error=EIO"):
            wrote = _expect_failed_write(stage, node, offset, "every sync fails with EIO", is_traced=True)
        yield f"syncs of {node.name} fail with EIO{'' if wrote else ', and it makes none'}"
        _restart_failed(stage, node)


@kind("write-error", need="strace")
def _write_error(stage: Stage, chance: random.Random) -> Iterator[str]:
    node = stage.pick(chance, ends_process=True)
    with stage.taking(node):
        node.expected_down = True
        offset = node.log_size()
        code = chance.choice(("ENOSPC", "EIO", "EDQUOT"))
        with disk.injected(node, f"write:error={code}", paths=disk.log_files(node)):
            wrote = _expect_failed_write(stage, node, offset, f"every write fails with {code}", is_traced=True)
        yield f"writes to the log of {node.name} fail with {code}{'' if wrote else ', and it makes none'}"
        _restart_failed(stage, node)


@kind("slow-disk", need="strace")
def _slow_disk(stage: Stage, chance: random.Random) -> Iterator[str]:
    node = stage.pick(chance, ends_process=False)
    with stage.taking(node):
        delay_ms = chance.choice((20, 60, 150, 400))
        with disk.injected(node, f"{disk.SYNCS}:delay_enter={delay_ms * 1000}"):
            yield f"every sync of {node.name} takes {delay_ms} ms longer"


@kind("disk-low", need="small disk")
def _disk_low(stage: Stage, chance: random.Random) -> Iterator[str]:
    node = _small_disk_node(stage)
    with stage.taking(node):
        leads = chance.random() < LEADER_SHARE and _make_leader(stage, node)
        disk.fill(node, disk.LOW_BYTES)
        try:
            if (code := _submission_code(stage, node)) != DISK_LOW:
                stage.violate(f"{node.name} has a nearly full disk and answers a submission with {code!r}")
            if node.status() is None:
                stage.violate(f"{node.name} has a nearly full disk and answers no question")
            if leads:
                _expect_admission_elsewhere(stage, node)
            yield f"{disk.LOW_BYTES >> 20} MiB left on the disk of {node.name}{', which led' if leads else ''}"
        finally:
            disk.release(node)
        if (code := _submission_code(stage, node)) == DISK_LOW:
            stage.violate(f"{node.name} has room again and still admits nothing")


def _make_leader(stage: Stage, node: Node) -> bool:
    """Let leadership be handed to the node, if whoever leads can be asked; return whether it leads."""
    leader = stage.cluster.find_leader()
    if leader is None or node not in stage.cluster.validators:
        return False
    if leader is not node:
        with suppress(PatchwardenError):
            leader.call("node.transfer-leadership", to=node.name)
    return stage.cluster.find_leader() is node


def _expect_admission_elsewhere(stage: Stage, node: Node) -> None:
    others = [other for other in stage.cluster.validators if other is not node and other.name not in stage.busy]
    transaction = stage.cluster.sign(bodies.HostReport("inventory", "elsewhere", b""), HOST_IDENTITY)
    try:
        stage.cluster.submit(transaction, among=others, timeout_s=ADMISSION_S_MAX)
    except HarnessError as error:
        stage.violate(f"the leader {node.name} has a nearly full disk, and nothing is admitted anywhere: {error}")


@kind("disk-full", need="small disk")
def _disk_full(stage: Stage, chance: random.Random) -> Iterator[str]:
    del chance
    node = _small_disk_node(stage)
    with stage.taking(node):
        node.expected_down = True
        offset = node.log_size()
        disk.fill(node, 0)
        _expect_failed_write(stage, node, offset, "its disk is full")
        yield f"no byte left on the disk of {node.name}"
        disk.release(node)
        _restart_failed(stage, node)


def _small_disk_node(stage: Stage) -> Node:
    for node in stage.cluster.nodes:
        if node.has_small_disk and node.is_running and node.name not in stage.busy:
            return node
    raise NothingToHurt


def _submission_code(stage: Stage, node: Node) -> str:
    """Return the code with which the node refuses to take a good transaction, or an empty text."""
    transaction = stage.cluster.sign(bodies.HostReport("inventory", "disk", b""), HOST_IDENTITY)
    try:
        (result,) = node.call(
            "tx.submit", transactions=[base64.b64encode(transaction.raw).decode()], wait="admitted", timeout_ms=1000
        )
    except PatchwardenError as error:
        return error.code
    code: str = (result["error"] or {"code": ""})["code"]
    return code


def _expect_failed_write(stage: Stage, node: Node, offset: int, what: str, *, is_traced: bool = False) -> bool:
    """Wait until the node has ended by a failed write; return False when it runs on because it is traced and has written nothing.

    Who is cut off from the others at the same time may have nothing to write.
    """
    code = node.wait_ended(FAIL_TIMEOUT_S)
    if code is None and is_traced and not disk.has_injected(node):
        node.expected_down = False
        return False
    if code is None:
        stage.violate(f"{node.name} runs on although {what}")
        node.kill()
    elif code != EXIT_CORRUPTION or WRITE_FAILED not in node.log_since(offset):
        stage.violate(f"{node.name}: {what}; it ended with {code}: {node.log_since(offset)[-1500:]}")
    return True


def _restart_failed(stage: Stage, node: Node) -> None:
    if not node.is_running:
        stage.restart(node)


# Clocks


@kind("clock", weight=3, need="clock library")
def _clock(stage: Stage, chance: random.Random) -> Iterator[str]:
    node = stage.pick(chance, ends_process=False)
    with stage.taking(node):
        step_s = chance.choice(CLOCK_STEPS_S)
        node.set_clock(step_s)
        try:
            yield f"the clock of {node.name} jumps by {step_s:+d} s"
        finally:
            node.set_clock(0)


def end_everything(stage: Stage) -> None:
    """Leave no node stopped by a signal: for a run that is broken off."""
    for node in stage.cluster.nodes:
        if node.paused and node.is_running:
            node.signal(signal.SIGCONT)
