"""The simulated world: time, machines, faults, and the two phases of a run.

First faults happen while clients work, and what must hold is asserted after every event. Then the faults end, and the network must live:
one leader, every client answered, a new transaction through each node committed, and all nodes the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any, ClassVar

import structlog
import trio
import trio.testing

from ledger.genesis import Genesis, genesis_block
from ledger.keyspace import WriteSet
from node.validator import Validator
from tests.sim.clients import LONGEST_CALL_S, Clients
from tests.sim.errors import ViolationError
from tests.sim.network import Network
from tests.sim.node import Doom, Parts, Process, SimNode, leaves
from tests.sim.operator import Operator
from tests.sim.oracle import Oracle
from tests.sim.plan import TICK_MS, Fault, Kind, Plan
from tests.sim.trace import Trace
from tests.testkit.ledger import make_genesis, node_key
from wire.hashing import Digest
from wire.keys import KeyId

LIVENESS_ELECTIONS = 12
"""When the faults have ended, so many longest election timeouts are enough for everything that must come."""
EVENTS_MAX = 600_000
"""A run with more events than this does not come to an end."""
CATCH_UP_S = 15.0
"""How much longer those may take who must catch up before they are of use: production pauses for seconds where asking again and again
would help nobody, before another peer is asked for blocks (`node.observer`) or for a snapshot (`node.snapshots`, `node.catch_up`)."""
LINKS_EVERY_S = 0.1
LINK_LOST_S = 0.8
"""How long a cut lasts before the two ends take their connection for lost."""
START_MS = 3_600_000
"""The first run begins so long after the network was founded."""


class Agenda:
    """What happens when; one thing at a time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._changed = trio.Event()

    def at(self, due: float, action: Callable[[], None]) -> None:
        """Call `action` at a moment."""
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, action))
        if self._heap[0][1] == self._count:
            self._changed.set()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` in so many seconds."""
        self.at(trio.current_time() + seconds, action)

    async def run(self) -> None:
        """Do what is due, for ever."""
        while True:
            self._changed = trio.Event()
            if not self._heap:
                await self._changed.wait()
                continue
            with trio.move_on_at(self._heap[0][0]):
                await self._changed.wait()
            while self._heap and self._heap[0][0] <= trio.current_time():
                heapq.heappop(self._heap)[2]()
                await trio.lowlevel.checkpoint()


@dataclass(slots=True)
class Outcome:
    """How a run ended."""

    plan: Plan
    violation: ViolationError | None
    trace: Trace
    counts: dict[str, int] = field(default_factory=dict)


class World:
    """One run."""

    def __init__(
        self, plan: Plan, parts: Parts, *, is_verbose: bool = False, echo: Callable[[str], None] | None = None
    ):
        self.plan = plan
        self.parts = parts
        self.agenda = Agenda()
        self.trace = Trace(lambda: self.now, is_verbose=is_verbose, echo=echo)
        self.random = Random(f"world {plan.seed}")
        self.genesis, self.genesis_hash, self.genesis_writes = founded(plan.size)
        self.oracle = Oracle(self)
        self.network = Network(self, Random(f"network {plan.seed}"))
        self.nodes = [SimNode(self, index, node_key(index + 1)) for index in range(plan.machines)]
        self.by_id = {node.id: node for node in self.nodes}
        self.clients = Clients(self)
        self.operator = Operator(self)
        self.nursery: trio.Nursery
        self.are_faults_over = False
        self._links: dict[tuple[int, int], tuple[object, object]] = {}
        self._cut_since: dict[tuple[int, int], float] = {}
        self._ends: list[Callable[[], None]] = []
        self.live_after_s = 0.0

    @property
    def now(self) -> float:
        """Simulated seconds since the run began."""
        return trio.current_time()

    @property
    def wall_ms(self) -> int:
        """The true time, milliseconds since epoch."""
        return self.genesis.time_ms + START_MS + int(self.now * 1000)

    async def run(self) -> None:
        """Run both phases; return when everything held.

        Raises:
            ViolationError: Something did not, in a group.
        """
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            nursery.start_soon(self.agenda.run)
            for node in self.nodes:
                node.start()
            self._tend_links()
            for fault in self.plan.faults:
                if fault.at_s < self.plan.fault_s:
                    self.agenda.at(fault.at_s, lambda fault=fault: self._begin(fault))  # type: ignore[misc]
            self.clients.start(nursery)
            self.operator.start()
            await trio.sleep(self.plan.fault_s)
            self.end_faults()
            await self._demand_liveness()
            nursery.cancel_scope.cancel()
        self.oracle.check_end()

    # Faults

    def leader(self) -> SimNode | None:
        """Return the node that leads in the highest term."""
        leading = [node for node in self.nodes if node.is_leader]
        return max(leading, key=lambda node: node.process.validator.status.term, default=None)  # type: ignore[union-attr]

    def _begin(self, fault: Fault) -> None:
        if self.are_faults_over:
            return
        targets: list[SimNode] = []
        for index in fault.targets:
            node = self.leader() or self.random.choice(self.nodes) if index < 0 else self.nodes[index]
            if node not in targets:
                targets.append(node)
        who = ", ".join(node.name for node in targets)
        self.trace.tell("fault", f"{fault}{f' ({who})' if -1 in fault.targets else ''}")
        self._FAULTS[fault.kind](self, fault, targets)

    def _until(self, fault: Fault, action: Callable[[], None]) -> None:
        """Let `action` end the fault, at its time or when all faults end."""
        done = False

        def end() -> None:
            nonlocal done
            if not done:
                done = True
                self.trace.tell("fault", f"#{fault.number} {fault.kind} ends")
                action()

        self._ends.append(end)
        self.agenda.after(fault.seconds, end)

    def _kill(self, fault: Fault, targets: list[SimNode]) -> None:
        for node in self.nodes if fault.kind is Kind.BLACKOUT else targets:
            node.end("is killed", loses_power=fault.kind is not Kind.KILL, down_s=fault.seconds)

    def _doom(self, fault: Fault, targets: list[SimNode]) -> None:
        for node in targets:
            node.doom = Doom(fault.amount, fault.kind is Kind.POWER_AT, fault.seconds)

    def _cut(self, fault: Fault, targets: list[SimNode]) -> None:
        side = {node.index for node in targets}
        pairs: set[tuple[int, int]] = set()
        for a in side:
            for b in range(self.plan.machines):
                if b not in side:
                    pairs.add((a, b))
                    if not fault.is_one_way:
                        pairs.add((b, a))
        self.network.cuts[fault.number] = pairs
        self._until(fault, lambda: self.network.cuts.pop(fault.number, None) and None)

    def _storm(self, fault: Fault, targets: list[SimNode]) -> None:
        del targets
        self.network.storms += 1

        def end() -> None:
            self.network.storms -= 1

        self._until(fault, end)

    def _pause(self, fault: Fault, targets: list[SimNode]) -> None:
        for node in targets:
            node.pause()
            self._until(fault, node.resume)

    def _clock(self, fault: Fault, targets: list[SimNode]) -> None:
        for node in targets:
            node.clock_jump_ms += fault.amount

            def end(node: SimNode = node) -> None:
                node.clock_jump_ms -= fault.amount

            self._until(fault, end)

    def _slow_disk(self, fault: Fault, targets: list[SimNode]) -> None:
        for node in targets:
            node.slow_disk_ms += fault.amount

            def end(node: SimNode = node) -> None:
                node.slow_disk_ms -= fault.amount

            self._until(fault, end)

    def _disk_full(self, fault: Fault, targets: list[SimNode]) -> None:
        for node in targets:
            node.disk.is_nearly_full = True
            node.had_disk_trouble = True

            def fill(node: SimNode = node) -> None:
                if node.disk.is_nearly_full:
                    node.disk.is_full = True

            def end(node: SimNode = node) -> None:
                node.disk.is_nearly_full = node.disk.is_full = False

            self.agenda.after(fault.seconds / 3, fill)
            self._until(fault, end)

    def _sync_fails(self, fault: Fault, targets: list[SimNode]) -> None:
        for node in targets:
            node.disk.sync_fails = node.had_disk_trouble = True

            def end(node: SimNode = node) -> None:
                node.disk.sync_fails = False

            self._until(fault, end)

    def _bit_rot(self, fault: Fault, targets: list[SimNode]) -> None:
        for node in targets:
            for _ in range(fault.amount):
                place = node.disk.flip_bit() if node.disk.tables else None
                if place is not None:
                    self.trace.tell(node.name, f"a bit flips in table {place[0]}, row {place[1].hex()[:32]}")

    def _hand_over(self, fault: Fault, targets: list[SimNode]) -> None:
        del fault
        for node in targets:
            if node.process is not None and node.process.validator is not None:
                to = self.random.choice([None, *(each.id for each in self.nodes if each is not node)])
                node.process.nursery.start_soon(self._hand_over_now, node.process.validator, to)

    async def _hand_over_now(self, validator: Validator, to: KeyId | None) -> None:
        if validator.is_leader:
            self.count_hand_over(await validator.transfer_leadership(to))

    def count_hand_over(self, happened: bool) -> None:
        """Take note of how one ended."""
        self.oracle.counts["hand-overs" if happened else "hand-overs given up"] += 1

    def _stop(self, fault: Fault, targets: list[SimNode]) -> None:
        for node in targets:
            if node.process is not None:
                node.process.nursery.start_soon(self._stop_now, node, node.process, fault.seconds)

    async def _stop_now(self, node: SimNode, process: Process, down_s: float) -> None:
        await process.stop()
        if node.process is process:
            node.end("has stopped", loses_power=False, down_s=down_s)

    _FAULTS: ClassVar[dict[Kind, Callable[[World, Fault, list[SimNode]], None]]] = {
        Kind.KILL: _kill,
        Kind.POWER: _kill,
        Kind.BLACKOUT: _kill,
        Kind.KILL_AT: _doom,
        Kind.POWER_AT: _doom,
        Kind.CUT: _cut,
        Kind.ISOLATE: _cut,
        Kind.STORM: _storm,
        Kind.PAUSE: _pause,
        Kind.CLOCK: _clock,
        Kind.SLOW_DISK: _slow_disk,
        Kind.DISK_FULL: _disk_full,
        Kind.SYNC_FAILS: _sync_fails,
        Kind.BIT_ROT: _bit_rot,
        Kind.HAND_OVER: _hand_over,
        Kind.STOP: _stop,
    }

    def end_faults(self) -> None:
        """End everything that goes wrong, and start what is down."""
        self.trace.tell("world", "all faults end")
        self.are_faults_over = True
        for end in self._ends:
            end()
        self.network.is_quiet = True
        for node in self.nodes:
            node.doom = None
            if node.follows:
                # Whom its operator has named may have left the network since.
                node.peers = [member.id for member in self.members]
                node.end("is set up anew", loses_power=False, down_s=0.0)
            node.start()

    # Connections

    def _tend_links(self) -> None:
        """Make and break connections as the real network would, some time after what breaks or allows them."""
        for a in self.nodes:
            for b in self.nodes[a.index + 1 :]:
                self._tend_link(a, b)
        self.agenda.after(LINKS_EVERY_S, self._tend_links)

    def _tend_link(self, a: SimNode, b: SimNode) -> None:
        pair = (a.index, b.index)
        ends = (a.process, b.process)
        is_cut = self.network.is_cut(*pair) or self.network.is_cut(b.index, a.index)
        if is_cut:
            self._cut_since.setdefault(pair, self.now)
        else:
            self._cut_since.pop(pair, None)
        current = self._links.get(pair)
        is_wanted = None not in ends and b.id in a.process.wanted and a.id in b.process.wanted  # type: ignore[union-attr]
        if current is not None and (current != ends or not is_wanted or self.is_parted(a, b)):
            del self._links[pair]
            self._tell_link(a, b, is_up=False, only=current[0])
            self._tell_link(b, a, is_up=False, only=current[1])
        elif current is None and is_wanted and not is_cut:
            self._links[pair] = ends
            self._tell_link(a, b, is_up=True, only=ends[0])
            self._tell_link(b, a, is_up=True, only=ends[1])

    def is_parted(self, a: SimNode, b: SimNode) -> bool:
        """Return whether two machines have been cut off from each other for so long that no connection stands."""
        pair = (min(a.index, b.index), max(a.index, b.index))
        return pair in self._cut_since and self.now - self._cut_since[pair] >= LINK_LOST_S

    def _tell_link(self, node: SimNode, peer: SimNode, *, is_up: bool, only: object) -> None:
        process = node.process
        if process is None or process is not only:
            return
        if is_up:
            process.links.add(peer.id)
        else:
            process.links.discard(peer.id)
        # The system closes the connections of a process that ends; a machine without power says nothing.
        is_closed = not is_up and peer.process is None and not peer.lost_power
        self.trace.note(node.name, f"link to {peer.name} {'up' if is_up else 'closed' if is_closed else 'down'}")
        validator = process.validator
        if validator is not None:
            node.receive(lambda: validator.link_changed(peer.id, is_up=is_up, is_closed=is_closed))

    # The end

    async def _demand_liveness(self) -> None:
        election_s = 2 * self.nodes[0].config.election_ticks * TICK_MS / 1000 * max(self.plan.tick_rates)
        bound_s = LIVENESS_ELECTIONS * election_s
        if self.plan.changes or self.plan.histories:
            bound_s += CATCH_UP_S
        began = self.now
        await self._within(bound_s, "a new transaction through each node", self.clients.probe)
        self.live_after_s = self.now - began
        self.trace.tell("world", f"alive again: {self._describe_nodes()}")
        # Who has just become a member may have to catch up first.
        more_s = max(election_s, bound_s - LIVENESS_ELECTIONS * election_s)
        await self._within(LONGEST_CALL_S + more_s, "every client's answer", self.clients.finish)
        await self._within(bound_s, "the end of every change of members", self.operator.finish)
        await self._within(more_s, "all nodes the same", self._all_equal)
        self.clients.check_history()

    async def _within(self, seconds: float, what: str, wait: Callable[[], Awaitable[None]]) -> None:
        with trio.move_on_after(seconds) as limit:
            await wait()
        if limit.cancelled_caught:
            raise ViolationError(
                "liveness",
                f"not within {seconds:.1f} s after the last fault: {what}; {self.clients.describe_open()}; {self._describe_nodes()}",
            )

    async def _all_equal(self) -> None:
        while True:
            tips = {self.oracle.tip_of(node) for node in self.members if not node.is_broken}
            if (
                len(tips) == 1
                and None not in tips
                and self.leader() is not None
                and not self.oracle.configuration.is_joint
            ):
                return
            await trio.sleep(TICK_MS / 1000)

    @property
    def members(self) -> list[SimNode]:
        """Whoever gets blocks, as the committed chain has it."""
        nodes = self.oracle.configuration.nodes
        return [node for node in self.nodes if nodes.find(node.id) is not None]

    def _describe_nodes(self) -> str:
        parts = []
        for node in self.nodes:
            process = node.process
            if process is None:
                parts.append(f"{node.name} {'broken' if node.is_broken else 'down'}")
            elif process.validator is None:
                parts.append(f"{node.name} follows at {process.replica.height}")
            elif process.validator.removed.is_set():
                parts.append(f"{node.name} left at {process.replica.height}")
            else:
                status = process.validator.status
                parts.append(
                    f"{node.name} {status.role} term {status.term} last {status.last_height} commit {status.commit_height}"
                )
        return ", ".join(parts)


@lru_cache
def founded(size: int) -> tuple[Genesis, Digest, WriteSet]:
    """Return founding document, hash of block 0 and its rows for a network of so many validators."""
    genesis = make_genesis(validators=size, chain_id="sim-net")
    block, writes = genesis_block(genesis)
    return genesis, block.block_hash, writes


def run_plan(
    plan: Plan, parts: Parts | None = None, *, is_verbose: bool = False, echo: Callable[[str], None] | None = None
) -> Outcome:
    """Run a plan from its first event to its last, and say how it ended."""
    worlds: list[World] = []

    async def main() -> None:
        world = World(plan, parts or Parts(), is_verbose=is_verbose, echo=echo)
        worlds.append(world)
        for line in plan.describe():
            world.trace.tell("plan", line)
        await world.run()

    violation: ViolationError | None = None
    with deterministic_trio(plan.seed), logging_to(worlds):
        try:
            trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        except ViolationError as error:
            violation = error
        except BaseExceptionGroup as group:
            violation = _find_violation(group)
    world = worlds[0]
    return Outcome(plan, violation, world.trace, world.oracle.counts | world.clients.counts)


def _find_violation(group: BaseExceptionGroup[BaseException]) -> ViolationError:
    errors = list(leaves(group))
    for error in errors:
        if isinstance(error, KeyboardInterrupt):
            raise error
    for error in errors:
        if isinstance(error, ViolationError):
            return error
    if isinstance(errors[0], AssertionError):
        raise errors[0]
    raise group


@contextmanager
def deterministic_trio(seed: int) -> Iterator[None]:
    """Let trio's scheduler draw from the seed, as trio's own plugin for hypothesis does."""
    run_module: Any = trio._core._run
    before = run_module._ALLOW_DETERMINISTIC_SCHEDULING
    run_module._ALLOW_DETERMINISTIC_SCHEDULING = True
    run_module._r.seed(f"trio {seed}")
    try:
        yield
    finally:
        run_module._ALLOW_DETERMINISTIC_SCHEDULING = before


@contextmanager
def logging_to(worlds: list[World]) -> Iterator[None]:
    """Let what the nodes of the first world log go into its trace."""

    def take(logger: object, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        del logger
        name = str(event.pop("sim_node", "?"))
        text = " ".join(f"{key}={value}" for key, value in sorted(event.items()) if key != "event")
        worlds[0].trace.note(name, f"log {level}: {event['event']} {text}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, take], cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)
        structlog.contextvars.clear_contextvars()
