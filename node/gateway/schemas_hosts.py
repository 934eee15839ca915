"""The answers about hosts.

Source: docs/spec/api.md 2.
"""

from __future__ import annotations

from typing import Any, Literal

from node.gateway.schemas import Answer, Height, Hex32, Target


class Host(Answer):
    """A host, and how much the ledger knows of it."""

    host: str
    organisation: str
    status: Literal["active", "suspended", "revoked"]
    group: str | None
    targets_total: int
    """At most 256."""
    targets_more: bool
    """Whether it has more, which were not looked at."""
    targets_drifted: int
    """Targets about which the last report is a drift."""
    records: int
    """Intents and outcomes that it has recorded, ever."""
    recorded_height: Height | None


class Report(Answer):
    """What a host last reported about a target. `detail` is the host's own JSON, or null."""

    kind: str
    tx_id: Hex32
    height: Height
    time_ms: int | None
    detail: dict[str, Any] | None


class ReportedTarget(Target):
    """A target, and what was last reported about it."""

    report: Report | None


class HostWithTargets(Host):
    """A host with its targets, at most 256 of them."""

    targets: list[ReportedTarget]
    height: Height
    time_ms: int


class HostRecord(Answer):
    """An intent or an outcome."""

    tx_id: Hex32
    kind: Literal["intent", "outcome"]
    counter: int
    height: Height
    time_ms: int
    target: str
    patch_id: Hex32
    deployment_id: Hex32
    result: str | None
    reason: str | None
    """The code that the host gave, of an outcome."""
    message: str | None
    verdict: str | None
    """What policy said, where it was asked."""


class HostRecords(Answer):
    """Records of a host, the newest first. Below `history_start` this node keeps none."""

    host: str
    records: list[HostRecord]
    next: Hex32 | None
    history_start: Height
