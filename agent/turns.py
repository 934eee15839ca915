"""Taking part in rollouts: which patches it is this host's turn for.

Whose turn it is follows from the ledger (`ledger.rollout_turn`); nothing here decides it.

Source: docs/spec/agent.md 3.4; docs/spec/rollouts.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agent.errors import MetadataRefusedError
from ledger.records import PatchRecord
from ledger.rollout_records import FAILED, HALTED, REFUSED, ROLLED
from ledger.rollout_turn import Turn, find_turn
from ledger.state import StateView

CHANNEL: Final = "automatic"
"""How a patch is asked for that a rollout brings."""


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """A patch that a rollout brings to this host now."""

    turn: Turn
    patch: PatchRecord

    @property
    def rollout_id(self) -> str:
        """The rollout's id."""
        return self.turn.rollout.rollout_id

    def state_of(self, target: str) -> str | None:
        """Return what the ledger says of a target in this rollout, or None while it says nothing."""
        return next((state for name, state, _ in self.turn.host.targets if name == target), None)

    def is_wanted(self, target: str) -> bool:
        """Return whether the patch is to be applied to the target: nothing is known of it yet, or it was refused."""
        return self.state_of(target) in (None, REFUSED)


def find_open_turns(view: StateView, host: str) -> list[OpenTurn]:
    """Return the patches that rollouts bring to this host now, the oldest rollout first.

    A host where one has failed or was rolled back does nothing more in it by itself: somebody must look.
    """
    member = view.group_member(host)
    group = None if member is None else view.group(member.group_id)
    found = []
    for rollout_id in () if group is None else group.rollouts:
        rollout = view.rollout(rollout_id)
        turn = None if rollout is None else find_turn(view, host, rollout.patch_id)
        if turn is None or turn.rollout.rollout_id != rollout_id or not _may_go(view, turn):
            continue
        if turn.host.state in (FAILED, ROLLED):
            continue
        patch = view.patch(turn.rollout.patch_id)
        assert patch is not None, "only published patches are rolled out"
        if patch.withdrawn_height is None and patch.superseded_by is None:
            found.append(OpenTurn(turn, patch))
    return found


def check_turn(view: StateView, host: str, patch_id: bytes) -> None:
    """Return only when no rollout that brings this patch to this host says "not now".

    Raises:
        MetadataRefusedError: ``agent.metadata.rollout_halted``, ``agent.metadata.rollout_not_open``.
    """
    turn = find_turn(view, host, patch_id)
    if turn is None or _may_go(view, turn):
        return
    rollout = turn.rollout
    if rollout.status == HALTED:
        raise MetadataRefusedError(
            "agent.metadata.rollout_halted",
            f"the rollout {rollout.rollout_id} was halted at height {rollout.status_height} by {rollout.status_by}",
            hint=f"look at it: rollout status {rollout.rollout_id}",
        )
    raise MetadataRefusedError(
        "agent.metadata.rollout_not_open",
        f"wave {turn.wave_name} of the rollout {rollout.rollout_id}, with which this host goes, is not open",
        expected="its turn" if turn.opens is None else f"height {turn.opens[0]} and block time {turn.opens[1]} ms",
        actual=f"height {view.height} and block time {view.header.time_ms} ms",
    )


def _may_go(view: StateView, turn: Turn) -> bool:
    # An intent stands in a later block than the newest one, and no block's time goes back.
    header = view.header
    return turn.may_go(header.height + 1, header.time_ms)
