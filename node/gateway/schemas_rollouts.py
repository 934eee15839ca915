"""The answers about rollouts and groups of hosts."""

from __future__ import annotations

from node.gateway.schemas import Answer, Height, Hex32


class Moment(Answer):
    """A height and a block time, both of which must be reached."""

    height: Height
    time_ms: int


class LaterHosts(Answer):
    """How the hosts fare that came into a group after the rollout was made: they go with the last wave, and are part of no plan."""

    hosts: int
    under_way: int
    failed: int
    rolled_back: int
    refused: int
    applied: int
    waiting: int
    offline: int
    """Of hosts of which nothing was heard: those whose wave has been open for `offline_after_ms`."""
    met: Moment | None
    """Since when enough hosts have it applied."""
    opens: Moment | None
    """When it opens or opened; null while that depends on outcomes."""
    open: bool


class RolloutWave(LaterHosts):
    """A wave and how its hosts fare. Shares are ten-thousandths."""

    name: str
    group: str | None
    hosts_max: int | None
    share: int | None
    success: int
    soak_heights: int
    soak_ms: int
    needed: int


class GroupOfRollout(Answer):
    """A group, and how many hosts it had when the rollout was made."""

    group_id: str
    hosts: int


class Rollout(Answer):
    """A patch on its way to the hosts of some groups."""

    rollout_id: str
    organisation: str
    creator: str
    description: str
    patch_id: Hex32
    components: list[str]
    groups: list[GroupOfRollout]
    created_height: Height
    created_ms: int
    status: str
    status_height: Height
    status_by: str
    status_reason: str
    complete: bool
    budget: int
    failures: int
    failures_forgiven: int
    failures_left: int | None
    """Null while it is halted."""
    waves: list[RolloutWave]
    later: LaterHosts
    height: Height
    time_ms: int
    offline_after_ms: int


class TargetInTurn(Answer):
    """What a host said of one of its targets."""

    target: str
    state: str


class HostTurn(Answer):
    """Where a host stands in a rollout."""

    rollout_id: str
    host: str
    wave: str
    later: bool
    opens: Moment | None
    may_go: bool
    state: str | None
    targets: list[TargetInTurn]
    height: Height


class HostGroup(Answer):
    """A group of hosts."""

    group_id: str
    hosts: int
    rollouts: list[str]
    changed_height: Height


class HostGroupMembers(HostGroup):
    """A group with some of its hosts, by place."""

    members: list[str]
    next: int | None
    """The place of the first that is not there, or null."""


class HostInRollout(Answer):
    """What a rollout counts of a host."""

    host: str
    group: str | None
    """The group that it is in now."""
    wave: str
    later: bool
    state: str
    """``under-way``, ``failed``, ``rolled-back``, ``refused``, ``applied`` or ``silent``."""
    has_failed: bool
    targets: list[TargetInTurn]


class RolloutHosts(Answer):
    """Hosts of a rollout."""

    rollout_id: str
    hosts: list[HostInRollout]
    next: str | None
    """The host behind which the next page begins, or null."""
    height: Height


class CoursePoint(Moment):
    """How many hosts were in which state after a block."""

    under_way: int
    failed: int
    rolled_back: int
    refused: int
    applied: int
    silent: int
    """Hosts of the plan of which nothing was heard."""
    failures: int
    failures_forgiven: int


class CourseMark(Moment):
    """A change of a rollout's status."""

    status: str
    by: str
    reason: str


class BegunWave(Moment):
    """A wave, and when it first went."""

    name: str


class Course(Answer):
    """How a rollout came to be what it is."""

    rollout_id: str
    budget: int
    points: list[CoursePoint]
    """The first, and of each of equal stretches of time the last."""
    points_total: int
    """How many blocks changed something."""
    marks: list[CourseMark]
    """Changes of status, the newest 100."""
    waves: list[BegunWave]
    """Those that have begun."""
    complete: bool
    """Whether it ends at the rollout as it is; false where history was pruned or is too long."""
    height: Height
