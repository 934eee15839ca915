"""Who may vote, and what is a majority of them.

One configuration has one majority. Joint consensus (two majorities at once) is a second class with the same methods; nothing else in
this package counts members.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from consensus.messages import NodeId
from consensus.quorum import VoteResult, is_majority, value_reached, vote_result
from wire.keys import PublicKey
from wire.limits import VALIDATORS_MAX


@dataclass(frozen=True, slots=True)
class Configuration:
    """The voting members at one time."""

    members: tuple[NodeId, ...]
    """Ascending, each once."""
    keys: Mapping[NodeId, PublicKey] = field(repr=False)
    """The public key of each member."""

    def is_member(self, node_id: NodeId) -> bool:
        """Return whether the node votes."""
        return node_id in self.keys

    def others(self, node_id: NodeId) -> tuple[NodeId, ...]:
        """Return the members except one, ascending."""
        return tuple(member for member in self.members if member != node_id)

    def is_quorum(self, present: Collection[NodeId]) -> bool:
        """Return whether the members among `present` can decide."""
        return is_majority(self.members, present)

    def vote_result(self, answers: Mapping[NodeId, bool]) -> VoteResult:
        """Return how an election stands after `answers` (True: granted)."""
        return vote_result(self.members, answers)

    def value_reached(self, values: Mapping[NodeId, int]) -> int:
        """Return the greatest value that enough members to decide have reached."""
        return value_reached(self.members, values)


def build_configuration(validators: Collection[PublicKey]) -> Configuration:
    """Return the configuration of these validators: 1 to `VALIDATORS_MAX` different keys."""
    keys = {key.key_id: key for key in validators}
    assert len(keys) == len(validators), "each validator is named once"
    assert 1 <= len(keys) <= VALIDATORS_MAX
    members = tuple(sorted(keys))
    return Configuration(members, MappingProxyType({member: keys[member] for member in members}))
