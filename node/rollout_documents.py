"""Rollouts and groups of hosts as JSON documents: pure functions from ledger records.

Source: docs/spec/rollouts.md; docs/spec/api.md.
"""

from __future__ import annotations

from typing import Any, Final

from ledger.rollout_records import COUNTED, HALTED, RUNNING, HostGroup, RolloutRecord
from ledger.rollout_turn import is_reached, openings

Document = dict[str, Any]

OFFLINE_AFTER_MS: Final = 300_000
"""Default of how long, by the ledger's time, a host of an open wave may say nothing before it is called offline."""
COUNT_NAMES: Final = tuple(state.replace("-", "_") for state in COUNTED)
"""What is counted of hosts, as members of documents."""


def rollout_document(
    rollout: RolloutRecord, height: int, time_ms: int, offline_after_ms: int = OFFLINE_AFTER_MS
) -> Document:
    """Return a rollout with the counts of each wave, as it stands in a block of this height and time.

    A host of which nothing was heard is `offline` when its wave has been open for `offline_after_ms`, and `waiting` before.
    """
    opens = openings(rollout)
    waves = []
    for index, wave in enumerate(rollout.waves):
        waves.append(
            {
                "name": wave.name,
                "group": wave.group,
                "hosts_max": wave.hosts,
                "share": wave.share,
                "success": wave.success,
                "soak_heights": wave.soak_heights,
                "soak_ms": wave.soak_ms,
                "needed": rollout.needed(index),
                **_counts(rollout, index, rollout.planned[index]),
            }
        )
    later = _counts(rollout, len(waves), None)
    for index, document in enumerate([*waves, later]):
        at = opens[index]
        document["opens"] = None if at is None else {"height": at[0], "time_ms": at[1]}
        document["open"] = is_open = rollout.status == RUNNING and is_reached(at, height, time_ms)
        heard = sum(document[name] for name in COUNT_NAMES)
        silent = max(0, document["hosts"] - heard)
        is_late = is_open and at is not None and time_ms - at[1] >= offline_after_ms
        document["waiting"], document["offline"] = (0, silent) if is_late else (silent, 0)
    return {
        "rollout_id": rollout.rollout_id,
        "organisation": rollout.organisation,
        "creator": rollout.creator,
        "description": rollout.description,
        "patch_id": rollout.patch_id.hex(),
        "components": list(rollout.components),
        "groups": [{"group_id": group, "hosts": hosts} for group, hosts, _ in rollout.groups],
        "created_height": rollout.created_height,
        "created_ms": rollout.created_ms,
        "status": rollout.status,
        "status_height": rollout.status_height,
        "status_by": rollout.status_by,
        "status_reason": rollout.status_reason,
        "complete": rollout.is_complete,
        "budget": rollout.budget,
        "failures": rollout.failures,
        "failures_forgiven": rollout.forgiven,
        "failures_left": None if rollout.status == HALTED else rollout.budget - (rollout.failures - rollout.forgiven),
        "waves": waves,
        "later": later,
        "height": height,
        "time_ms": time_ms,
        "offline_after_ms": offline_after_ms,
    }


def group_document(group: HostGroup) -> Document:
    """Return a group, without the names of its hosts."""
    return {
        "group_id": group.group_id,
        "hosts": group.hosts,
        "rollouts": list(group.rollouts),
        "changed_height": group.changed_height,
    }


def _counts(rollout: RolloutRecord, index: int, planned: int | None) -> Document:
    *numbers, met_height, met_ms = rollout.counts[index]
    counted: Document = dict(zip(COUNT_NAMES, numbers, strict=True))
    hosts = sum(counted.values()) if planned is None else planned
    met = None if met_height is None else {"height": met_height, "time_ms": met_ms}
    return {"hosts": hosts, **counted, "met": met}
