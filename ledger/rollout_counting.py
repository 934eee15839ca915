"""How a rollout counts its hosts: one by one, as their targets change and as they leave the groups that it was made for.

Outcomes of different hosts commute. What a wave needs follows from the hosts that go with it, so a host that leaves before it has begun
makes its wave smaller. One that is under way, or has ever failed, stays in it: nobody opens the next wave by taking such a host away.

Source: docs/spec/rollouts.md 6 and 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, cast

from ledger.rollout_records import (
    APPLIED,
    BUDGET,
    COUNTED,
    FAILED,
    HALTED,
    REFUSED,
    ROLLED,
    RUNNING,
    Counts,
    RolloutHost,
    RolloutRecord,
)

NOT_CARRIED_OUT: Final = ("ERROR_LEDGER_UNAVAILABLE", "ERROR_STALE_REPLICA")
"""Results that say nothing about the patch: the host did not get to it, and may try again."""


def state_after(result: str, *, was_installed: bool) -> str | None:
    """Return what an outcome that closes an intent says of its target; None when nothing: it may be tried again."""
    if result == "SUCCESS":
        return APPLIED
    if result == "ROLLED_BACK":
        return ROLLED
    if was_installed:
        return APPLIED  # A rollback, or a second application, that came to nothing.
    return None if result in NOT_CARRIED_OUT else FAILED


def counted_host(
    rollout: RolloutRecord,
    before: RolloutHost,
    targets: Mapping[str, tuple[str, str, bytes | None]],
    *,
    height: int,
    time_ms: int,
) -> tuple[RolloutRecord, RolloutHost]:
    """Return the rollout and the host after the host's targets have become `targets` in the block of this height and time.

    More failures than the budget has room for halt the rollout in the same step.
    """
    after = replace(before, targets=tuple(targets[name] for name in sorted(targets)))
    has_failed = before.has_failed or any(state in (FAILED, ROLLED) for _, state, _ in after.targets)
    after = replace(after, has_failed=has_failed)
    counts = list(rollout.counts)
    counts[before.wave] = _moved(rollout, before.wave, before.state, after.state, at=(height, time_ms))
    failures = rollout.failures + (has_failed and not before.has_failed)
    changed = replace(rollout, counts=tuple(counts), failures=failures)
    if rollout.status == RUNNING and failures - rollout.forgiven > rollout.budget:
        changed = replace(
            changed,
            status=HALTED,
            status_height=height,
            status_by=BUDGET,
            status_reason=f"it failed on {failures - rollout.forgiven} hosts, and {rollout.budget} may",
        )
    return changed, after


def leaves_wave(rollout: RolloutRecord, host: RolloutHost) -> bool:
    """Return whether a host that leaves its group leaves its wave, too: it has not begun there, and has never failed."""
    return host.wave < len(rollout.planned) and not host.has_failed and host.state in (None, REFUSED)


def without_host(
    rollout: RolloutRecord, before: RolloutHost, *, height: int, time_ms: int
) -> tuple[RolloutRecord, RolloutHost]:
    """Return the rollout with one host fewer in the plan of the host's wave, and the host among those that came later."""
    after = replace(before, wave=len(rollout.planned))
    planned, counts = list(rollout.planned), list(rollout.counts)
    planned[before.wave] -= 1
    changed = replace(rollout, planned=tuple(planned))
    counts[before.wave] = _moved(changed, before.wave, before.state, None, at=(height, time_ms))
    counts[after.wave] = _moved(changed, after.wave, None, after.state, at=(height, time_ms))
    return replace(changed, counts=tuple(counts)), after


def _moved(rollout: RolloutRecord, wave: int, before: str | None, after: str | None, *, at: tuple[int, int]) -> Counts:
    """Return the counts of a wave after one host has gone from one state to another."""
    numbers = dict(zip(COUNTED, rollout.counts[wave][:5], strict=True))
    if before is not None:
        numbers[before] -= 1
    if after is not None:
        numbers[after] += 1
    met_height, met_ms = rollout.counts[wave][-2:]
    if wave == len(rollout.planned) or numbers[APPLIED] < rollout.needed(wave):
        met_height = met_ms = None
    elif met_height is None:
        met_height, met_ms = at
    return cast("Counts", (*numbers.values(), met_height, met_ms))
