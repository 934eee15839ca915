"""What a seed means: the network, its machines, the clients, and every fault, all drawn before the run begins.

A swarm: in each run some kinds of faults are absent, so that others can bite. Faults are numbered, and leaving some out leaves the others
where they are; that is how a failing run is shrunk.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from random import Random

SIZES = (1, 2, 3, 3, 3, 4, 4, 5, 5, 7)
TICK_MS = 50
CLOCK_JUMPS_MS = (-3_600_000, -5000, -100, 100, 5000, 3_600_000)
FAR_AHEAD_MS = 60_000
"""Followers refuse blocks that lie further ahead of their clocks. A leader that made one can only be outvoted by the others, so at most one
machine is ever that far ahead, and only where the others are a majority. (Half of the machines that far ahead stop a network until its
clocks have caught up with the block.)"""


class Kind(StrEnum):
    """Kinds of faults."""

    KILL = "kill"
    """A process ends at once; what it handed to the operating system stays."""
    POWER = "power"
    """A machine loses its power: what was not synced may be gone."""
    KILL_AT = "kill-at"
    """A process ends at one of its next effects: between two messages, before, within or after a write."""
    POWER_AT = "power-at"
    """The same, and the power with it."""
    BLACKOUT = "blackout"
    """Every machine loses its power at once."""
    CUT = "cut"
    """Two groups of machines do not hear each other, or one does not hear the other."""
    ISOLATE = "isolate"
    """The machine that leads is cut off, in one direction or both."""
    STORM = "storm"
    """For a while many messages are lost, repeated, late."""
    PAUSE = "pause"
    """A process stands still, and goes on."""
    CLOCK = "clock"
    """A machine's clock jumps."""
    SLOW_DISK = "slow-disk"
    """Writes take long."""
    DISK_FULL = "disk-full"
    """First the reserve is gone, then all space; later there is space again."""
    SYNC_FAILS = "sync-fails"
    """Writes and syncs fail for a while."""
    BIT_ROT = "bit-rot"
    """A bit flips on a disk. The machine may not take part any more once it has seen it."""
    HAND_OVER = "hand-over"
    """Whoever leads is asked to let somebody else lead."""
    STOP = "stop"
    """A process is asked to stop: it hands over what it leads, ends, and comes back."""


CRASHING = frozenset({Kind.KILL, Kind.POWER, Kind.KILL_AT, Kind.POWER_AT, Kind.BLACKOUT})
FOUNDING = tuple(kind for kind in Kind if kind not in (Kind.HAND_OVER, Kind.STOP))
"""Kinds of the faults that befall the founding machines."""
LATER = (
    Kind.HAND_OVER,
    Kind.STOP,
    Kind.KILL,
    Kind.POWER,
    Kind.KILL_AT,
    Kind.POWER_AT,
    Kind.ISOLATE,
    Kind.CUT,
    Kind.PAUSE,
)
"""Kinds of those that befall any machine, the ones that come later included."""
SPARES_MAX = 4
CHANGES_MAX = 8


class Aim(StrEnum):
    """What an operator wants to do to the members."""

    ADD = "add"
    """A machine that waits becomes a learner."""
    PROMOTE = "promote"
    """A learner becomes a voter."""
    REMOVE = "remove"
    """A voter or a learner goes."""
    REMOVE_LEADER = "remove the leader"
    REPLACE = "replace"
    """A learner takes the place of a voter."""


@dataclass(frozen=True, slots=True)
class Change:
    """One wish of an operator; whom it is about is drawn from those who are members then."""

    at_s: float
    aim: Aim


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    number: int
    kind: Kind
    at_s: float
    seconds: float
    """For how long, or how long the machine stays down."""
    targets: tuple[int, ...]
    """Machines by index; -1 is whoever leads when it happens."""
    amount: int = 0
    """Effects until the end for *-at, milliseconds for clocks and disks."""
    is_one_way: bool = False

    def __str__(self) -> str:
        who = ", ".join("the leader" if target < 0 else f"v{target + 1}" for target in self.targets)
        amount = f", {self.amount}" if self.amount else ""
        return f"#{self.number} {self.kind} of {who or 'all'} for {self.seconds:.2f} s{amount}{', one way' if self.is_one_way else ''}"


@dataclass(frozen=True, slots=True)
class Rates:
    """What always may happen on the way of a message, and how long disks take."""

    loss: float = 0.0
    repetition: float = 0.0
    reordering: float = 0.0
    delay_ms: tuple[float, float] = (0.2, 2.0)
    disk_ms: tuple[float, float] = (0.5, 3.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    seed: int
    size: int
    fault_s: float
    """How long faults happen."""
    rates: Rates
    faults: tuple[Fault, ...]
    clients: int
    """Concurrent clients."""
    identities: int
    """Registers that they fight for."""
    wall_offsets_ms: tuple[int, ...]
    """How far each machine's clock is from the true time."""
    tick_rates: tuple[float, ...]
    """How long a second takes on each machine."""
    core: dict[str, int] = field(default_factory=dict)
    """Limits of the consensus core that differ from the defaults."""
    node: dict[str, int] = field(default_factory=dict)
    """Settings of the node that differ from the defaults."""
    spares: int = 0
    """Machines that are there from the start and no members yet."""
    changes: tuple[Change, ...] = ()
    """What becomes of the members."""
    histories: tuple[str, ...] = ()
    """For each machine its setting `history`; all are whole when there is none."""
    scrub_rows_per_s: int = 0
    inline: tuple[bool, ...] = ()
    """For each machine whether it does short writes on the event loop; none does when there is none."""

    @property
    def machines(self) -> int:
        """All of them."""
        return self.size + self.spares

    def describe(self) -> list[str]:
        """Return the plan in lines for people."""
        rates, usual = self.rates, Rates()
        shown = [
            f"{f.name} {getattr(rates, f.name)}"
            for f in fields(Rates)
            if getattr(rates, f.name) != getattr(usual, f.name)
        ]
        lines = [
            f"seed {self.seed}: {self.size} validators, {self.clients} clients on {self.identities} identities, "
            f"faults for {self.fault_s:.1f} s",
            f"  messages and disks: {'; '.join(shown) or 'no faults'}",
            f"  clocks: {', '.join(map(str, self.wall_offsets_ms))} ms off, rates {', '.join(f'{r:.2f}' for r in self.tick_rates)}",
            f"  limits: {self.core | self.node}",
        ]
        if self.histories:
            lines.append(f"  histories: {', '.join(self.histories)}")
        if any(self.inline):
            who = ", ".join(f"v{index + 1}" for index, is_inline in enumerate(self.inline) if is_inline)
            lines.append(f"  writes on the event loop: {who}")
        if self.changes:
            changes = ", ".join(f"{change.aim} at {change.at_s:.1f} s" for change in self.changes)
            lines.append(f"  members, with {self.spares} more machines: {changes}")
        lines += [f"  {fault.at_s:7.3f} s  {fault}" for fault in self.faults]
        return lines


def draw_plan(seed: int) -> Plan:
    """Return what `seed` means."""
    rng = Random(f"plan {seed}")
    size = rng.choice(SIZES)
    fault_s = rng.uniform(3.0, 10.0)

    def rate(most: float, likely: float = 0.5) -> float:
        return round(rng.random() * most, 3) if rng.random() < likely else 0.0

    slow_network, slow_disk = rng.random() < 0.25, rng.random() < 0.25
    rates = Rates(
        loss=rate(0.1),
        repetition=rate(0.2),
        reordering=rate(0.5),
        delay_ms=(0.2, round(rng.uniform(10, 80), 1)) if slow_network else (0.1, round(rng.uniform(0.5, 5), 1)),
        disk_ms=(0.5, round(rng.uniform(10, 60), 1)) if slow_disk else (0.1, round(rng.uniform(0.5, 5), 1)),
    )
    skew_ms = rng.choice((0, 50, 2000))
    drift = rng.choice((0.0, 0.05, 0.3))
    plan = Plan(
        seed=seed,
        size=size,
        fault_s=round(fault_s, 2),
        rates=rates,
        faults=_draw_faults(rng, size, fault_s),
        clients=rng.choice((1, 2, 3, 5)),
        identities=rng.choice((1, 2, 4)),
        wall_offsets_ms=tuple(rng.randint(-skew_ms, skew_ms) for _ in range(size)),
        tick_rates=tuple(round(1.0 + rng.uniform(-drift, drift), 3) for _ in range(size)),
        core=_some(
            rng,
            append_entries_max=(1, 2, 8),
            inflight_max=(1, 2),
            uncommitted_blocks_max=(1, 2, 4),
            recent_bytes_max=(0, 2000),
        ),
        node=_some(
            rng,
            block_transactions_max=(1, 2, 5),
            blocks_in_flight_max=(1, 8),
            idle_block_interval_ms=(300, 1000),
            election_ticks=(4, 6),
            heartbeat_ticks=(1, 3),
        ),
    )
    plan = _with_stores(Random(f"stores {seed}"), _with_members(Random(f"members {seed}"), plan))
    return _with_inline_writes(Random(f"inline {seed}"), plan)


def _with_inline_writes(rng: Random, plan: Plan) -> Plan:
    """Return the plan with some machines, or all, that do short writes on the event loop as real ones do while their disks are quick."""
    likely = rng.choice((0.0, 0.5, 1.0, 1.0))
    return replace(plan, inline=tuple(rng.random() < likely for _ in range(plan.machines)))


def _with_stores(rng: Random, plan: Plan) -> Plan:
    """Return the plan with histories of some machines pruned in a part of the runs, and stores that are looked at."""
    histories: tuple[str, ...] = ()
    if rng.random() < 0.4:
        kept = rng.choice((2, 4, 8))
        likely = rng.choice((0.5, 1.0))
        histories = tuple(f"pruned:{kept}" if rng.random() < likely else "full" for _ in range(plan.machines))
    return replace(plan, histories=histories, scrub_rows_per_s=rng.choice((0, 100, 1000)))


def _with_members(rng: Random, plan: Plan) -> Plan:
    """Return the plan with hand-overs, and in half of the runs with members that come and go.

    Where they do, no machine is lost for good: whether a majority is left would depend on who is a member by then.
    """
    has_changes = rng.random() < 0.5
    spares = rng.randint(1, SPARES_MAX) if has_changes else 0
    machines = plan.size + spares
    faults = list(plan.faults)
    if has_changes:
        faults = [fault for fault in faults if fault.kind is not Kind.BIT_ROT and not _is_far_ahead(fault)]
    kinds = [kind for kind in LATER if rng.random() < 0.35]
    at_s = rng.uniform(0.5, 2.0)
    number = max((fault.number for fault in plan.faults), default=-1) + 1
    while kinds and at_s < plan.fault_s:
        faults.append(_draw_fault(rng, rng.choice(kinds), number, round(at_s, 3), machines))
        number += 1
        at_s += rng.expovariate(1 / rng.choice((0.8, 2.0)))
    skew_ms = max(map(abs, plan.wall_offsets_ms))
    drift = max(abs(rate - 1.0) for rate in plan.tick_rates)
    return replace(
        plan,
        faults=tuple(sorted(faults, key=lambda fault: (fault.at_s, fault.number))),
        wall_offsets_ms=plan.wall_offsets_ms + tuple(rng.randint(-skew_ms, skew_ms) for _ in range(spares)),
        tick_rates=plan.tick_rates + tuple(round(1.0 + rng.uniform(-drift, drift), 3) for _ in range(spares)),
        spares=spares,
        changes=_draw_changes(rng, plan.fault_s) if has_changes else (),
    )


def _draw_changes(rng: Random, fault_s: float) -> tuple[Change, ...]:
    weights = {
        Aim.ADD: 3.0,
        Aim.PROMOTE: rng.choice((2.0, 6.0)),
        Aim.REMOVE: rng.choice((0.5, 2.0)),
        Aim.REMOVE_LEADER: rng.choice((0.0, 1.0)),
        Aim.REPLACE: rng.choice((1.0, 4.0)),
    }
    first = Change(round(rng.uniform(0.3, 1.5), 3), Aim.ADD)
    changes = [first]
    while len(changes) < CHANGES_MAX:
        at_s = changes[-1].at_s + rng.expovariate(1 / rng.choice((0.2, 1.0, 2.0)))
        if at_s >= fault_s:
            break
        (aim,) = rng.choices(list(weights), list(weights.values()))
        changes.append(Change(round(at_s, 3), aim))
    return tuple(changes)


def _is_far_ahead(fault: Fault) -> bool:
    return fault.kind is Kind.CLOCK and fault.amount > FAR_AHEAD_MS


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What of a plan is played. Leaving something out leaves the rest where it is."""

    faults: tuple[int, ...] | None = None
    """The numbers of the faults that happen; None for all."""
    without: tuple[str, ...] = ()
    """Some of `NARROWINGS`."""
    clients: int | None = None
    """At most so many clients."""
    until_s: float | None = None
    """Faults end no later."""

    @property
    def options(self) -> str:
        """The options of the command line that say the same."""
        parts = []
        if self.faults is not None:
            parts.append("--only " + (",".join(map(str, self.faults)) or "none"))
        if self.without:
            parts.append("--without " + ",".join(self.without))
        if self.clients is not None:
            parts.append(f"--clients {self.clients}")
        if self.until_s is not None:
            parts.append(f"--until {self.until_s}")
        return " ".join(parts)


def narrow(plan: Plan, narrowing: Narrowing) -> Plan:
    """Return the plan with only some of its faults, rates, odd settings and clients."""
    without = narrowing.without
    rates = replace(plan.rates, **{f.name: f.default for f in fields(Rates) if f.name in without})
    faults = tuple(each for each in plan.faults if narrowing.faults is None or each.number in narrowing.faults)
    return replace(
        plan,
        rates=rates,
        faults=faults,
        clients=plan.clients if narrowing.clients is None else min(narrowing.clients, plan.clients),
        fault_s=plan.fault_s if narrowing.until_s is None else min(narrowing.until_s, plan.fault_s),
        wall_offsets_ms=(0,) * plan.machines if "skew" in without else plan.wall_offsets_ms,
        tick_rates=(1.0,) * plan.machines if "drift" in without else plan.tick_rates,
        core={} if "core" in without else plan.core,
        node={} if "node" in without else plan.node,
        changes=() if "members" in without else plan.changes,
        histories=() if "pruning" in without else plan.histories,
        inline=() if "inline" in without else plan.inline,
    )


NARROWINGS = (*(f.name for f in fields(Rates)), "skew", "drift", "core", "node", "members", "pruning", "inline")
"""What `narrow` can leave out."""


def _some(rng: Random, **choices: tuple[int, ...]) -> dict[str, int]:
    return {name: rng.choice(values) for name, values in choices.items() if rng.random() < 0.4}


def _draw_faults(rng: Random, size: int, fault_s: float) -> tuple[Fault, ...]:
    kinds = [kind for kind in FOUNDING if rng.random() < 0.45]
    if not kinds:
        return ()
    weights = [0.3 if kind is Kind.BLACKOUT else 1.0 for kind in kinds]
    faults: list[Fault] = []
    at_s = rng.uniform(0.2, 1.5)
    mean_s = rng.choice((0.4, 0.8, 2.0))
    # Rotten machines stay away for good, and one whose clock was far ahead can neither lead nor vote for the others until the true time
    # has caught up with its block: a majority without them must be left to go on.
    left = (size - 1) // 2
    has_far_clock = False
    while at_s < fault_s:
        (kind,) = rng.choices(kinds, weights)
        fault = _draw_fault(rng, kind, len(faults), round(at_s, 3), size)
        if _is_far_ahead(fault):
            if not has_far_clock and left == 0:
                fault = replace(fault, amount=FAR_AHEAD_MS // 2)
            elif not has_far_clock:
                has_far_clock, left = True, left - 1
        if kind is not Kind.BIT_ROT:
            faults.append(fault)
        elif left > 0:
            left -= 1
            faults.append(fault)
        at_s += rng.expovariate(1 / mean_s)
    return tuple(faults)


def _draw_fault(rng: Random, kind: Kind, number: int, at_s: float, size: int) -> Fault:
    one = (rng.choice((-1, rng.randrange(size))),)
    some = tuple(sorted(rng.sample(range(size), rng.randint(1, max(1, size - 1)))))
    seconds = round(rng.choice((rng.uniform(0.02, 0.3), rng.uniform(0.3, 3.0))), 3)
    match kind:
        case Kind.KILL_AT | Kind.POWER_AT:
            return Fault(number, kind, at_s, seconds, one, amount=rng.randint(1, 40))
        case Kind.BLACKOUT:
            return Fault(number, kind, at_s, seconds, ())
        case Kind.CUT:
            return Fault(number, kind, at_s, seconds, some, is_one_way=rng.random() < 0.3)
        case Kind.ISOLATE:
            return Fault(number, kind, at_s, seconds, (-1,), is_one_way=rng.random() < 0.5)
        case Kind.HAND_OVER:
            return Fault(number, kind, at_s, seconds, (-1,))
        case Kind.STORM:
            return Fault(number, kind, at_s, seconds, ())
        case Kind.CLOCK:
            amount = rng.choice(CLOCK_JUMPS_MS)
            if amount > FAR_AHEAD_MS:
                one = (0,)
            return Fault(number, kind, at_s, seconds, one, amount=amount)
        case Kind.SLOW_DISK:
            return Fault(number, kind, at_s, seconds, one, amount=rng.choice((20, 100, 500)))
        case Kind.BIT_ROT:
            return Fault(number, kind, at_s, seconds, (rng.randrange(size),), amount=rng.randint(1, 8))
        case _:
            return Fault(number, kind, at_s, seconds, one)
