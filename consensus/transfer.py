"""Handing leadership over: to whom, and for how long it may take.

The leader stops proposing, waits until the successor's disk has its whole log, and then asks it to stand at once. If nobody has taken over
after a least election timeout, it goes on leading (thesis 3.10).

Source: docs/spec/consensus.md 10.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.common import Common
from consensus.errors import TransferRefusedError
from consensus.messages import NodeId
from consensus.replication import Replication


@dataclass(frozen=True, slots=True)
class Transfer:
    """A hand-over under way."""

    to: NodeId
    """Who is to lead."""
    until: int
    """The leader's tick at which it is given up."""
    is_asked: bool = False
    """It was asked to stand; it is asked again with each heartbeat, since messages get lost."""


def find_successor(common: Common, peers: Replication) -> NodeId | None:
    """Return, of those that answer and will still vote after a change under way, the one with the most blocks, or None."""
    answering = peers.answering(_candidates(common))
    return answering[0] if answering else None


def choose_successor(common: Common, peers: Replication, to: NodeId | None) -> NodeId:
    """Return who is to lead: `to`, or whom `find_successor` finds.

    Raises:
        TransferRefusedError: ``consensus.transfer.target`` when `to` cannot lead; ``consensus.transfer.nobody`` when nobody else can.
    """
    if to is not None and to not in _candidates(common):
        raise TransferRefusedError(
            "consensus.transfer.target",
            "leadership goes only to another voter that stays one",
            hint="name another voter, or nobody",
            actual=to,
        )
    successor = to or find_successor(common, peers)
    if successor is None:
        raise TransferRefusedError(
            "consensus.transfer.nobody", "no other voter answers", hint="wait until another voter is up"
        )
    return successor


def _candidates(common: Common) -> list[NodeId]:
    return [voter for voter in common.configuration.successors if voter != common.config.node_id]
