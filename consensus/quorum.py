"""The arithmetic of majorities, apart from everything else because it can be wrong.

Source: Raft 5.2, 5.4.2; docs/spec/consensus.md 3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum

from consensus.messages import NodeId
from wire.certificate import majority


class VoteResult(StrEnum):
    """How an election stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def is_majority(members: Sequence[NodeId], present: Collection[NodeId]) -> bool:
    """Return whether `present` holds a majority of `members`; others in it do not count. No members have no majority."""
    return sum(member in present for member in members) >= majority(len(members))


def vote_result(members: Sequence[NodeId], answers: Mapping[NodeId, bool]) -> VoteResult:
    """Return how an election among `members` stands after `answers` (True: granted); answers of others do not count."""
    granted = sum(answers.get(member, False) for member in members)
    refused = sum(not answers.get(member, True) for member in members)
    needed = majority(len(members))
    if granted >= needed:
        return VoteResult.WON
    if len(members) - refused < needed:
        return VoteResult.LOST
    return VoteResult.PENDING


def value_reached(members: Sequence[NodeId], values: Mapping[NodeId, int]) -> int:
    """Return the greatest value that a majority of `members` has reached; a member without a value has 0."""
    if not members:
        return 0
    reached = sorted((values.get(member, 0) for member in members), reverse=True)
    return reached[majority(len(members)) - 1]


# Joint consensus: several groups, of which each must agree (Raft 6).


def is_joint_majority(groups: Sequence[Sequence[NodeId]], present: Collection[NodeId]) -> bool:
    """Return whether `present` holds a majority of each group."""
    return all(is_majority(group, present) for group in groups)


def joint_vote_result(groups: Sequence[Sequence[NodeId]], answers: Mapping[NodeId, bool]) -> VoteResult:
    """Return how an election stands that must be won in each group: lost as soon as it is lost in one."""
    results = {vote_result(group, answers) for group in groups}
    for result in (VoteResult.LOST, VoteResult.PENDING):
        if result in results:
            return result
    return VoteResult.WON


def joint_value_reached(groups: Sequence[Sequence[NodeId]], values: Mapping[NodeId, int]) -> int:
    """Return the greatest value that a majority of each group has reached."""
    return min(value_reached(group, values) for group in groups)
