"""What a node tells about rollouts and groups of hosts.

Source: docs/spec/rollouts.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from ledger.rollout_turn import find_turn
from node.errors import not_found
from node.limits import PAGE_DEFAULT, PAGE_MAX
from node.local.protocol import Json
from node.params import as_count, as_name, as_optional_integer
from node.rollout_documents import OFFLINE_AFTER_MS, group_document, rollout_document

if TYPE_CHECKING:
    from node.app import Node

Params = Mapping[str, Json]
Document = dict[str, Any]


class RolloutServices:
    """The methods of one node about rollouts."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def methods(self) -> dict[str, Callable[[Params], Any]]:
        """Return every method by its name on the socket."""
        return {
            "rollouts.list": self.rollouts_list,
            "rollouts.get": self.rollouts_get,
            "rollouts.turn": self.rollouts_turn,
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
            rollout = view.rollout(rollout_id)
            header = view.header
            if rollout is None:
                raise not_found("rollout", rollout_id, header.height)
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
