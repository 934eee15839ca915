"""What a node tells about rollouts and groups of hosts.

Source: docs/spec/rollouts.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import trio

from ledger.rollout_records import COUNTED, RolloutHost, RolloutRecord
from ledger.rollout_turn import find_turn, find_wave
from ledger.state import StateView
from node.errors import not_found
from node.limits import PAGE_DEFAULT, PAGE_MAX
from node.local.protocol import Json
from node.params import ParameterError, as_count, as_name, as_optional_integer, as_optional_name
from node.rollout_course import COURSE_POINTS_DEFAULT, COURSE_POINTS_MAX, Courses, course_document
from node.rollout_documents import OFFLINE_AFTER_MS, group_document, rollout_document

if TYPE_CHECKING:
    from node.app import Node

Params = Mapping[str, Json]
Document = dict[str, Any]

SILENT: Final = "silent"
"""What is said of a host of which a rollout heard nothing."""
HOSTS_SCAN_MAX: Final = 20_000
"""Hosts that are looked at for one page."""
HOSTS_SLICE: Final = 64
"""After so many, about 0.5 ms of work, the node does something else."""


class RolloutServices:
    """The methods of one node about rollouts."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._courses = Courses()

    def methods(self) -> dict[str, Callable[[Params], Any]]:
        """Return every method by its name on the socket."""
        return {
            "rollouts.list": self.rollouts_list,
            "rollouts.get": self.rollouts_get,
            "rollouts.turn": self.rollouts_turn,
            "rollouts.hosts": self.rollouts_hosts,
            "rollouts.course": self.rollouts_course,
            "groups.list": self.groups_list,
            "groups.get": self.groups_get,
        }

    async def rollouts_list(self, params: Params) -> list[Document]:
        """Return rollouts, the newest first."""
        limit = as_count(params, "limit", PAGE_DEFAULT, PAGE_MAX)
        with self._node.replica.view() as view:
            header = view.header
            found = sorted(view.rollouts(), key=lambda each: (-each.created_height, each.rollout_id))
            return [rollout_document(each, header.height, header.time_ms) for each in found[:limit]]

    async def rollouts_get(self, params: Params) -> Document:
        """Return one rollout with the counts of each wave."""
        rollout_id = as_name(params, "rollout_id")
        after = as_optional_integer(params, "offline_after_ms")
        with self._node.replica.view() as view:
            rollout = _rollout(view, rollout_id)
            header = view.header
            return rollout_document(
                rollout, header.height, header.time_ms, OFFLINE_AFTER_MS if after is None else after
            )

    async def rollouts_turn(self, params: Params) -> Document:
        """Return where one host stands in a rollout: its wave, when that opens, and what its targets said."""
        rollout_id, host = as_name(params, "rollout_id"), as_name(params, "host")
        with self._node.replica.view() as view:
            rollout = view.rollout(rollout_id)
            header = view.header
            turn = None if rollout is None else find_turn(view, host, rollout.patch_id)
            if turn is None or turn.rollout.rollout_id != rollout_id:
                raise not_found("turn", f"{host} in {rollout_id}", header.height)
            opens = turn.opens
            return {
                "rollout_id": rollout_id,
                "host": host,
                "wave": turn.wave_name,
                "later": turn.host.wave == len(turn.rollout.planned),
                "opens": None if opens is None else {"height": opens[0], "time_ms": opens[1]},
                "may_go": turn.may_go(header.height + 1, header.time_ms),
                "state": turn.host.state,
                "targets": [{"target": name, "state": state} for name, state, _ in turn.host.targets],
                "height": header.height,
            }

    async def rollouts_course(self, params: Params) -> Document:
        """Return how many hosts were in which state when."""
        rollout_id = as_name(params, "rollout_id")
        points = as_count(params, "points", COURSE_POINTS_DEFAULT, COURSE_POINTS_MAX)
        with self._node.replica.view() as view:
            rollout = _rollout(view, rollout_id)
            course = await self._courses.find(view, rollout)
            header = view.header
            return course_document(rollout, course, max(2, points), (header.height, header.time_ms))

    async def rollouts_hosts(self, params: Params) -> Document:
        """Return hosts of a rollout with what is said of each: in order of group and place, or those in one state in order of id.

        `next` is the host behind which the next page begins, or None. A page can be short, even empty, and have a next one:
        `HOSTS_SCAN_MAX` hosts are looked at for it.
        """
        rollout_id, after = as_name(params, "rollout_id"), as_optional_name(params, "after")
        limit = as_count(params, "limit", PAGE_DEFAULT, PAGE_MAX)
        state = as_optional_name(params, "state")
        if state is not None and state not in (*COUNTED, SILENT):
            raise ParameterError(
                "node.param.state", "the state is not known", expected=", ".join((*COUNTED, SILENT)), actual=state
            )
        with self._node.replica.view() as view:
            rollout = _rollout(view, rollout_id)
            scan = _heard(view, rollout, after) if state in COUNTED else _placed(view, rollout, after)
            hosts: list[Document] = []
            last: str | None = None
            more = False
            for row, host in enumerate(scan):
                if row == HOSTS_SCAN_MAX or len(hosts) == limit:
                    more = True
                    break
                if row % HOSTS_SLICE == HOSTS_SLICE - 1:
                    await trio.lowlevel.checkpoint()
                last = host.host
                if state is None or (host.state or SILENT) == state:
                    hosts.append(_host_document(view, rollout, host))
            return {"rollout_id": rollout_id, "hosts": hosts, "next": last if more else None, "height": view.height}

    async def groups_list(self, params: Params) -> list[Document]:
        """Return the groups of hosts, in order of id."""
        limit = as_count(params, "limit", PAGE_DEFAULT, PAGE_MAX)
        with self._node.replica.view() as view:
            return [group_document(each) for each in islice(view.groups(), limit)]

    async def groups_get(self, params: Params) -> Document:
        """Return one group with some of its hosts in order of their places; the next page begins at place `next`."""
        group_id = as_name(params, "group_id")
        start = as_optional_integer(params, "from") or 0
        limit = as_count(params, "limit", PAGE_DEFAULT, PAGE_MAX)
        with self._node.replica.view() as view:
            group = view.group(group_id)
            if group is None:
                raise not_found("group", group_id, view.height)
            members = list(islice(view.group_hosts(group, start), limit))
            behind = start + len(members)
            return {**group_document(group), "members": members, "next": behind if behind < group.hosts else None}


def _rollout(view: StateView, rollout_id: str) -> RolloutRecord:
    rollout = view.rollout(rollout_id)
    if rollout is None:
        raise not_found("rollout", rollout_id, view.height)
    return rollout


def _heard(view: StateView, rollout: RolloutRecord, after: str | None) -> Iterator[RolloutHost]:
    """Yield the hosts that the rollout counts, in order of id, also those that have left their group since."""
    counted = view.rollout_hosts(rollout.patch_id, after or "")
    return (each for each in counted if each.rollout_id == rollout.rollout_id)


def _placed(view: StateView, rollout: RolloutRecord, after: str | None) -> Iterator[RolloutHost]:
    """Yield the hosts that are in the rollout's groups now, in order of group and place, behind a host that is."""
    groups = [group for group, _, _ in rollout.groups]
    start = 0
    if after is not None:
        member = view.group_member(after)
        if member is None or member.group_id not in groups:
            raise ParameterError(
                "node.param.after", "the host is in none of the rollout's groups", actual=after, hint="begin anew"
            )
        groups, start = groups[groups.index(member.group_id) :], member.slot + 1
    for group_id in groups:
        group = view.group(group_id)
        assert group is not None, "a group never goes"
        for name in view.group_hosts(group, start):
            counted = view.rollout_host(rollout.patch_id, name)
            if counted is None or counted.rollout_id != rollout.rollout_id:
                member = view.group_member(name)
                assert member is not None, "who has a place is a member"
                counted = RolloutHost(name, rollout.rollout_id, find_wave(rollout, member), False, ())
            yield counted
        start = 0


def _host_document(view: StateView, rollout: RolloutRecord, host: RolloutHost) -> Document:
    names = [wave.name for wave in rollout.waves]
    member = view.group_member(host.host)
    return {
        "host": host.host,
        "group": None if member is None else member.group_id or None,
        "wave": names[min(host.wave, len(names) - 1)],
        "later": host.wave == len(names),
        "state": host.state or SILENT,
        "has_failed": host.has_failed,
        "targets": [{"target": name, "state": state} for name, state, _ in host.targets],
    }
