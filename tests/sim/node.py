"""One machine of the simulated network, and the node process that runs on it.

The process is production code: `Validator`, `LedgerReplica`, `Submitter`, `BlockStore`, `Mempool`, `SyncServer` and everything beneath.
The machine stands for what a process cannot be without: a disk, a clock, threads, a network. Between any two effects of the process the
machine may end (`Process.boundary`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import structlog
import trio

from consensus.config import Config, Status, Stored
from consensus.core import Replica
from consensus.effects import Effects, Event, Persist
from consensus.log import LogReader
from ledger.keyspace import Table
from ledger.mempool import Mempool
from ledger.state import StateView
from ledger.transition import Executed
from node.config import NodeConfig
from node.errors import StorageError, StorageFailedError
from node.joining import JoinServer, Standing
from node.machine import Machine
from node.membership import known_nodes
from node.observer import Observer
from node.prepare import note_damage
from node.replica import LedgerReplica
from node.storage.block_store import BlockStore
from node.storage.database import Database
from node.storage.tables import TABLE_LOG_ENTRY
from node.submission import Submitted, Submitter
from node.sync import PeerLedger, SyncServer
from node.sync_slots import Slots
from node.telemetry import Metrics
from node.validator import Validator
from tests.sim.disk import SimDisk, SimStore
from tests.sim.errors import MachineEndedError, ViolationError
from tests.sim.network import Endpoint, serve_on
from tests.sim.plan import TICK_MS
from tests.sim.timing import DRAIN_TIMEOUT_S, LINEARIZABLE_TIMEOUT_S
from tests.sim.upkeep import Repair, SimCheckpointWatch, SimUpkeep, snapshot_client
from wire.certificate import CommitCertificate
from wire.errors import CorruptionError, RejectedError, UnavailableError
from wire.keys import KeyId, PrivateKey

if TYPE_CHECKING:
    from tests.sim.world import World

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

RESTART_S = 0.3
"""How long after its end a supervisor starts a process again that ended by itself."""


class SimBlockStore(BlockStore):
    """The production block store; tells the oracle what has become durable."""

    process: Process

    def write(
        self, persists: Sequence[Persist], commits: Sequence[tuple[Sequence[Executed], CommitCertificate | None]]
    ) -> None:
        super().write(persists, commits)
        node = self.process.node
        node.note_write()
        for persist in persists:
            node.world.oracle.note_persisted(node, persist)
        for executed, certificate in commits:
            node.world.oracle.note_committed(node, executed, certificate)

    def switch(self, database: Database) -> None:
        super().switch(database)
        self.process.node.world.oracle.note_installed(self.process.node, self)

    def raise_first_height(self, height: int) -> None:
        super().raise_first_height(height)
        self.process.node.world.oracle.counts["prunings"] += 1


class SimCore(Replica):
    """The production core; shows the oracle every step."""

    __slots__ = ("last_status", "process")
    process: Process
    last_status: Status
    """After the last step: it changes with steps only."""

    def step(self, event: Event) -> Effects:
        process = self.process
        process.boundary("step")
        before = self.last_status
        effects = super().step(event)
        self.last_status = after = self.status
        process.node.world.oracle.note_step(process.node, event, effects, before, after)
        process.boundary("effects")
        return effects


@dataclass(frozen=True, slots=True)
class Parts:
    """What a node is made of; a test that plants a bug brings a part with it."""

    core: type[SimCore] = SimCore
    validator: type[Validator] = Validator
    store: type[SimStore] = SimStore
    blocks: type[SimBlockStore] = SimBlockStore
    replica: type[LedgerReplica] = LedgerReplica
    submitter: type[Submitter] = Submitter
    mempool: type[Mempool] = Mempool
    are_promises_checked: bool = True
    """Whether each message is compared with its sender's disk. Without that, a planted bug must be found by its consequences."""


class Process:
    """One life of a node."""

    def __init__(self, node: SimNode) -> None:
        self.node = node
        self.is_alive = True
        self.scope = trio.CancelScope()
        self.nursery: trio.Nursery
        self.links: set[KeyId] = set()
        """Whom consensus messages reach."""
        self.wanted: frozenset[KeyId] = frozenset()
        """Whom they should reach."""
        self.patch_store = None
        self.metrics = Metrics()
        self.store: SimStore | None = None
        self.endpoint: Endpoint
        self.replica: LedgerReplica
        self.mempool: Mempool
        self.submitter: Submitter
        self.validator: Validator | None = None
        self.observer: Observer | None = None

    def boundary(self, what: str) -> None:
        """Return if the process goes on to do `what`.

        Raises:
            MachineEndedError: It does not.
        """
        if self.is_alive and self.node.doom is not None:
            self.node.doom.effects_left -= 1
            if self.node.doom.effects_left <= 0:
                doom, self.node.doom = self.node.doom, None
                self.node.end(f"ends before: {what}", loses_power=doom.loses_power, down_s=doom.down_s)
        if not self.is_alive:
            raise MachineEndedError

    async def open(self) -> None:
        """Put the node together as `node.app` does.

        Raises:
            CorruptionError: The disk holds something else than was written.
        """
        node, world, parts = self.node, self.node.world, self.node.world.parts
        config = node.config
        self.store = store = parts.store(node.disk, self.boundary)
        if store.needs_repair:
            await self._repair(store)
        blocks = parts.blocks.bootstrap(store, world.genesis_hash, world.genesis_writes)  # type: ignore[arg-type]
        blocks.process = self
        world.oracle.note_opened(node, blocks)
        self.endpoint = Endpoint(self, world.network)
        self.replica = parts.replica(blocks, node.now_ms, node.machine)
        self._watch_execution()
        self.mempool = parts.mempool(
            transactions_max=config.mempool_transactions_max, bytes_max=config.mempool_bytes_max
        )
        # Whoever follows here is a learner, and needs no slot.
        joining = JoinServer(Slots(0), self.replica, self._standing, lambda _: "")
        sync = SyncServer(self, joining)  # type: ignore[arg-type]
        sync.register(self.endpoint)  # type: ignore[arg-type]
        self.snapshots = snapshot_client(store, world.genesis, self.peer_ledgers, self.replica.machine)
        if node.is_spare and self._is_new():
            self.observer = Observer(self.replica, self.peer_ledgers, self.metrics, self.snapshots, votes=True)
        else:
            self.validator = self._make_validator()
        self.submitter = parts.submitter(
            self.replica,
            self.mempool,
            is_leader=self.leads,
            forward=self._forward,
            mempool_grew=lambda: None if self.validator is None else self.validator.mempool_grew(),
            awaited_elsewhere=lambda: None if self.validator is None else self.validator.note_awaited_elsewhere(),
            wait_current=self.wait_linearizable,
        )

        self.upkeep = SimUpkeep(self, sync)
        self.checkpoints = SimCheckpointWatch(self)
        self.checkpoints.load()

    def _standing(self) -> Standing:
        if self.observer is None:
            return Standing((), is_fed=True)
        return Standing(self.observer.path, is_fed=self.observer.is_fed)

    async def _repair(self, store: SimStore) -> None:
        endpoint = Endpoint(self, self.node.world.network)
        peers = [PeerLedger(endpoint, each.id, "") for each in self.node.world.nodes if each is not self.node]  # type: ignore[arg-type]
        await Repair(self.node, store, peers, self.node.machine).run()

    def peer_ledgers(self) -> list[PeerLedger]:
        """Return ways to ask whoever was set up, and the validators that the ledger names; as `node.app` does."""
        validators = [each.key_id for each in self.replica.latest_view().validators()]
        known = dict.fromkeys([*self.node.peers, *validators])
        return [PeerLedger(self.endpoint, each, "") for each in known if each != self.node.id]  # type: ignore[arg-type]

    def _watch_execution(self) -> None:
        """Show the oracle every block that is executed, also after a restart from a snapshot."""
        replica, node = self.replica, self.node
        push, restart = replica.chain.push, replica.restart

        def watched(executed: Executed) -> None:
            push(executed)
            node.world.oracle.note_executed(node, executed)

        def restarted() -> None:
            del replica.restart
            restart()
            self._watch_execution()

        replica.chain.push = watched  # type: ignore[method-assign]
        replica.restart = restarted  # type: ignore[method-assign]

    def _make_validator(self) -> Validator:
        node = self.node
        return node.world.parts.validator(
            replica=self.replica,
            config=node.config,
            key=node.key,
            mempool=self.mempool,
            send=self.endpoint.send,
            entropy=node.random.randrange,
            metrics=self.metrics,
            make_core=self._make_core,  # type: ignore[arg-type]
            on_configuration=self.link_validators,
            on_leader=self._leader_changed,
            snapshots=self.snapshots,
        )

    async def run(self) -> None:
        """Take part, or first follow until the ledger names this node, as `node.app` does; return when it is no member any more."""
        self.nursery.start_soon(self.submitter.run)
        self.nursery.start_soon(self.upkeep.run)
        self.nursery.start_soon(self.checkpoints.run)
        if self.validator is None:
            self.nursery.start_soon(self._watch_proposer)
            await self._join()
        assert self.validator is not None
        self.link_validators()
        await self.validator.run()

    async def _join(self) -> None:
        assert self.observer is not None
        async with trio.open_nursery() as watching:
            watching.start_soon(self.observer.run)
            while self._is_new():
                await self.replica.wait_above(self.replica.height)
            watching.cancel_scope.cancel()
        self.observer = None
        self.validator = self._make_validator()
        self.node.world.trace.tell(self.node.name, f"takes part from height {self.replica.height} on")

    def _leader_changed(self) -> None:
        self.submitter.leader_changed()

    async def _watch_proposer(self) -> None:
        while self.validator is None:
            proposer = self.replica.latest_view().header.proposer
            await self.replica.wait_above(self.replica.height)
            if self.replica.latest_view().header.proposer != proposer:
                self.submitter.leader_changed()

    def leads(self) -> bool:
        """Return whether this process leads."""
        return self.validator is not None and self.validator.is_leader

    def _nodes(self) -> Collection[KeyId]:
        return known_nodes(
            self.replica.latest_view().configuration(), StateView(self.replica.chain.tip()).configuration()
        )

    def _linked_nodes(self) -> Collection[KeyId]:
        ahead = self.checkpoints.configuration_ahead
        return self._nodes() if ahead is None else {*known_nodes(ahead), *self._nodes()}

    def _is_new(self) -> bool:
        return self.node.id not in self._nodes()

    def knows(self, node_id: KeyId) -> bool:
        """Return whether the ledger names the node, so that it may connect; a damaged ledger ends it, as with `node.net.gate`."""
        try:
            return node_id in self._linked_nodes()
        except CorruptionError as error:
            self.nursery.start_soon(_raise, error)
            return False

    def link_validators(self) -> None:
        """Want consensus links to exactly the nodes that take part now, as `node.app` does."""
        own = self.node.id
        retired = self.replica.latest_view().retired_validator(own) is not None
        nodes = () if retired and own not in self._nodes() else self._linked_nodes()
        self.wanted = frozenset(node_id for node_id in nodes if node_id != own)

    async def stop(self) -> None:
        """Take no more, let somebody else lead, and give what is under way a moment to be answered; as `node.app` does."""
        self.submitter.open = False
        if self.validator is not None:
            leads = self.leads()
            handed_over = await self.validator.transfer_leadership()
            if leads:
                self.node.world.count_hand_over(handed_over)
        with trio.move_on_after(DRAIN_TIMEOUT_S):
            await self.submitter.hand_on()
            while len(self.mempool) and self.leads():
                await self.replica.wait_above(self.replica.height)
            await self.submitter.drain()

    def _make_core(self, config: Config, stored: Stored, log: LogReader, entropy: Callable[[int], int]) -> SimCore:
        world = self.node.world
        core = world.parts.core(replace(config, **world.plan.core), stored, log, entropy)  # type: ignore[arg-type]
        core.process, core.last_status = self, core.status
        return core

    async def wait_linearizable(self) -> None:
        """Return when this replica holds everything that was committed anywhere before the call, as `node.app` does.

        Raises:
            UnavailableError: No leader confirmed it in time.
        """
        if self.validator is None:
            raise UnavailableError("sim.not_a_validator", "only validators answer linearizable reads")
        with trio.move_on_after(LINEARIZABLE_TIMEOUT_S):
            height = await self.validator.read_index()
            await self.replica.wait_above(height - 1)
            return
        raise UnavailableError("node.read.timeout", "no leader confirmed that this replica is current in time")

    async def _forward(self, raws: Sequence[bytes], timeout_s: float) -> list[Submitted]:
        candidates = [each.key_id for each in self.replica.latest_view().validators() if each.key_id != self.node.id]
        if self.validator is not None:
            leader = self.validator.status.leader
            if leader is None or leader not in candidates:
                raise UnavailableError("node.no_leader", "no leader is known", hint="retry in a moment")
            candidates = [leader]
        last = UnavailableError("node.no_peer", "no peer is configured")
        for key_id in candidates:
            try:
                peer = PeerLedger(self.endpoint, key_id, "")  # type: ignore[arg-type]
                return await peer.submit(raws, relay=self.validator is None, timeout_s=timeout_s)
            except UnavailableError as error:
                last = error
        raise last


@dataclass(slots=True)
class Doom:
    """A process that will end within its next effects."""

    effects_left: int
    loses_power: bool
    down_s: float


class SimNode:
    """One machine."""

    def __init__(self, world: World, index: int, key: PrivateKey) -> None:
        plan = world.plan
        self.world = world
        self.index = index
        self.is_spare = index >= plan.size
        """It is no founding member: an operator may make it one."""
        self.peers: list[KeyId] = []
        """Whom it asks for blocks before the ledger names it: what its operator has set up."""
        self.name = f"v{index + 1}"
        self.key = key
        self.id: KeyId = key.public_key.key_id
        self.random = Random(f"node {plan.seed} {index}")
        self.disk = SimDisk(self.name, Random(f"disk {plan.seed} {index}"))
        self.config = NodeConfig.model_construct(
            name=self.name,
            **{
                "tick_ms": TICK_MS,
                "idle_block_interval_ms": 2000,
                "history": plan.histories[index] if plan.histories else "full",
                "scrub_rows_per_s": plan.scrub_rows_per_s,
                **plan.node,
            },
        )
        self.machine = Machine(
            self.sleep,
            self.in_thread,
            self._jittered,
            writes_inline=bool(plan.inline) and plan.inline[index],
            seconds=lambda: trio.current_time() + self._inline_s,
        )
        self._inline_s = 0.0
        """How long the writes on the event loop would have taken; no time passes in them."""
        self._is_in_thread = False
        self.process: Process | None = None
        """The process that runs; None while there is none, and while one is being put together."""
        self._opening: Process | None = None
        self.is_broken = False
        """It has seen damage on its disk and may not take part any more."""
        self.had_disk_trouble = False
        self.lost_power = False
        """Whether the last process ended with the power."""
        self.doom: Doom | None = None
        self.clock_jump_ms = 0
        self.slow_disk_ms = 0
        self.pauses = 0
        self._resumed = trio.Event()
        self._backlog: list[Callable[[], None]] = []

    @property
    def is_leader(self) -> bool:
        return self.process is not None and self.process.leads()

    @property
    def follows(self) -> bool:
        """Whether its process takes certified blocks over and has no part in making them."""
        return self.process is not None and self.process.validator is None

    # The machine

    def now_ms(self) -> int:
        """Return this machine's wall clock, milliseconds since epoch."""
        return self.world.wall_ms + self.world.plan.wall_offsets_ms[self.index] + self.clock_jump_ms

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds of this machine's time."""
        await trio.sleep(seconds * self.world.plan.tick_rates[self.index])
        await self._while_paused()

    def _jittered(self, seconds: float) -> float:
        return seconds * self.random.uniform(0.5, 1.0)

    async def in_thread(
        self, function: Callable[[*Ts], R], /, *arguments: *Ts, limiter: trio.CapacityLimiter | None = None
    ) -> R:
        """Run what blocks; the machine may end or stand still before and after it."""
        del limiter
        low, high = self.world.plan.rates.disk_ms
        await trio.sleep((self.random.uniform(low, high) + self.slow_disk_ms) / 1000)
        await self._while_paused()
        self._is_in_thread = True
        try:
            result = function(*arguments)
        finally:
            self._is_in_thread = False
        # Done, and not yet told to the event loop.
        await trio.sleep(self.random.uniform(0, 1) / 1000)
        await self._while_paused()
        return result

    def note_write(self) -> None:
        """Take note of a write: one on the event loop takes the disk as long as one in a thread."""
        if not self._is_in_thread:
            low, high = self.world.plan.rates.disk_ms
            self._inline_s += (self.random.uniform(low, high) + self.slow_disk_ms) / 1000

    def pause(self) -> None:
        """Let nothing happen on this machine."""
        self.pauses += 1

    def resume(self) -> None:
        """Go on, with what came in meanwhile."""
        self.pauses -= 1
        if not self.pauses:
            resumed, self._resumed = self._resumed, trio.Event()
            resumed.set()
            backlog, self._backlog = self._backlog, []
            for deliver in backlog:
                deliver()

    async def _while_paused(self) -> None:
        while self.pauses:
            await self._resumed.wait()

    # The wires

    def receive(self, deliver: Callable[[], None]) -> None:
        """Deliver now, or when the machine goes on."""
        if self.pauses:
            self._backlog.append(deliver)
        else:
            deliver()

    def take_message(self, sender: KeyId, payload: bytes) -> None:
        """Hand a consensus message to the process, if there is one."""
        if self.process is not None and self.process.validator is not None:
            self.process.validator.receive(sender, [payload])

    def serve(
        self,
        work: Callable[[Process], Awaitable[bytes]],
        answer: Callable[[bytes | RejectedError | UnavailableError], None],
    ) -> None:
        """Let the process answer a question, if there is one."""
        process = self.process
        if process is not None:
            serve_on(process.nursery, lambda: work(process), answer)

    def is_linked(self, index: int) -> bool:
        """Return whether this process has a connection to that machine's."""
        return self.process is not None and self.world.nodes[index].id in self.process.links

    # Lives

    def start(self) -> None:
        """Start a process, unless there is one or must not be one."""
        is_set_up = self.peers or not self.is_spare
        if is_set_up and self.process is None and self._opening is None and not self.is_broken:
            self.world.trace.tell(self.name, "starts")
            self._opening = Process(self)
            self.world.nursery.start_soon(self._live, self._opening)

    def end(self, reason: str, *, loses_power: bool, down_s: float) -> None:
        """End the process at once."""
        process = self.process or self._opening
        self.process = self._opening = None
        if process is None:
            return
        process.is_alive = False
        process.scope.cancel()
        self.lost_power = loses_power
        self.doom = None
        lost = self.disk.lose_power() if loses_power else 0
        self.world.trace.tell(
            self.name, reason + (f", power lost and {lost} unsynced writes with it" if loses_power else "")
        )
        self.world.agenda.after(down_s, self.start)

    async def _live(self, process: Process) -> None:
        structlog.contextvars.bind_contextvars(sim_node=self.name)
        try:
            with process.scope:
                async with trio.open_nursery() as nursery:
                    process.nursery = nursery
                    await process.open()
                    self.process, self._opening = process, None
                    await process.run()
                    self.world.oracle.note_left(self)
                    await trio.sleep_forever()
        except BaseExceptionGroup as group:
            self._account_for(process, list(leaves(group)))
            return
        if process.is_alive:
            raise ViolationError("process.ended", f"{self.name} ended without a reason")

    def _account_for(self, process: Process, errors: list[BaseException]) -> None:
        """Take note of why a process ended; raise unless it had to."""
        for error in errors:
            # An interrupt is for whoever runs the simulator; it says nothing about the node.
            if isinstance(error, ViolationError | trio.Cancelled | KeyboardInterrupt):
                raise error
        for error in errors:
            if isinstance(error, MachineEndedError):
                assert not process.is_alive
            elif isinstance(error, StorageFailedError) and self.had_disk_trouble:
                self.end(f"stops: {error.message}", loses_power=False, down_s=RESTART_S)
            elif isinstance(error, CorruptionError) and self._saw_damage(error):
                self._stop_damaged(process, error)
            elif process.is_alive or not isinstance(error, StorageFailedError | StorageError):
                raise ViolationError("process.failed", f"{self.name}: {type(error).__name__}: {error}") from error

    def _stop_damaged(self, process: Process, error: CorruptionError) -> None:
        """End as `node.app.run_node` does: the next start repairs the store, unless what is lost can come from nowhere."""
        assert process.store is not None
        is_repairing = process is self._opening and self.disk.wants_repair
        note_damage(process.store, error)  # type: ignore[arg-type]
        # A block or a snapshot may be had later; every other row that a repair misses is lost.
        is_lost = is_repairing and error.details.get("table") not in (None, Table.BLOCK, TABLE_LOG_ENTRY)
        self.is_broken = is_lost or not self.disk.wants_repair
        what = "stops for good" if self.is_broken else "stops to be repaired"
        self.end(f"{what}: {error.code}: {error.message}", loses_power=False, down_s=RESTART_S)

    def _saw_damage(self, error: CorruptionError) -> bool:
        return bool(self.disk.damaged) and error.code.startswith(("node.storage.", "ledger.corruption."))


async def _raise(error: CorruptionError) -> None:
    raise error


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors of a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from leaves(each)
    else:
        yield error
