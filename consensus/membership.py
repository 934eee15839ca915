"""Who may vote, who only listens, and since which block.

A `Configuration` is what one block's ledger state says about the validators. While a change is under way it is *joint*: two groups, and
nothing is decided without a majority of each (Raft 6). `Configurations` knows which one rules at which height of the log, also when blocks
are truncated. Nothing else in this package counts members.

Source: docs/spec/consensus.md 3 and 9.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from consensus.limits import CONFIGURATION_HISTORY_MAX
from consensus.messages import NodeId
from consensus.quorum import VoteResult, is_joint_majority, joint_value_reached, joint_vote_result
from wire.keys import PublicKey
from wire.limits import VALIDATORS_MAX


@dataclass(frozen=True, slots=True)
class Configuration:
    """Who decides from one block on, that block included, and who listens. The order in which members are named means nothing."""

    voters: tuple[PublicKey, ...]
    """Who votes; while joint, those before the change. 1 to `VALIDATORS_MAX`, ascending by key id."""
    incoming: tuple[PublicKey, ...] | None = None
    """While joint, who votes after the change and already now, 1 to `VALIDATORS_MAX`; else None."""
    learners: tuple[PublicKey, ...] = ()
    """Who gets every block and decides nothing."""
    quorums: tuple[Mapping[NodeId, PublicKey], ...] = field(init=False, repr=False, compare=False)
    """Each group of which a majority must agree: one, or two while joint."""
    keys: Mapping[NodeId, PublicKey] = field(init=False, repr=False, compare=False)
    """Everybody who votes, by node id, ascending."""
    learner_ids: frozenset[NodeId] = field(init=False, repr=False, compare=False)
    """Everybody who only listens."""
    groups: tuple[tuple[NodeId, ...], ...] = field(init=False, repr=False, compare=False)
    """The node ids of each of `quorums`, ascending."""

    def __post_init__(self) -> None:
        """Bring the members into order and index them; a member named twice in one group is the caller's bug."""
        put = object.__setattr__
        put(self, "voters", _ordered(self.voters))
        put(self, "incoming", None if self.incoming is None else _ordered(self.incoming))
        put(self, "learners", _ordered(self.learners))
        halves = (self.voters,) if self.incoming is None else (self.voters, self.incoming)
        assert all(1 <= len(half) <= VALIDATORS_MAX for half in halves)
        quorums = tuple(MappingProxyType({key.key_id: key for key in half}) for half in halves)
        keys = {node_id: key for quorum in quorums for node_id, key in quorum.items()}
        put(self, "quorums", quorums)
        put(self, "keys", MappingProxyType(dict(sorted(keys.items()))))
        put(self, "learner_ids", frozenset(key.key_id for key in self.learners))
        put(self, "groups", tuple(tuple(quorum) for quorum in quorums))
        assert not self.learner_ids & keys.keys(), "a learner does not vote"

    @property
    def is_joint(self) -> bool:
        """Whether a change is under way."""
        return self.incoming is not None

    @property
    def voter_ids(self) -> tuple[NodeId, ...]:
        """Everybody who votes, ascending."""
        return tuple(self.keys)

    @property
    def successors(self) -> tuple[NodeId, ...]:
        """Who will still vote when the change under way ends, ascending; without one, everybody who votes."""
        return self.groups[-1]

    def is_voter(self, node_id: NodeId) -> bool:
        """Return whether the node votes, before or after the change."""
        return node_id in self.keys

    def is_member(self, node_id: NodeId) -> bool:
        """Return whether the node votes or learns."""
        return node_id in self.keys or node_id in self.learner_ids

    def other_voters(self, node_id: NodeId) -> tuple[NodeId, ...]:
        """Return everybody who votes except one, ascending."""
        return tuple(voter for voter in self.keys if voter != node_id)

    def peers(self, node_id: NodeId) -> tuple[NodeId, ...]:
        """Return everybody who gets blocks except one, ascending."""
        return tuple(sorted((self.keys.keys() | self.learner_ids) - {node_id}))

    def is_quorum(self, present: Collection[NodeId]) -> bool:
        """Return whether those among `present` who vote can decide."""
        return is_joint_majority(self.groups, present)

    def vote_result(self, answers: Mapping[NodeId, bool]) -> VoteResult:
        """Return how an election stands after `answers` (True: granted)."""
        return joint_vote_result(self.groups, answers)

    def value_reached(self, values: Mapping[NodeId, int]) -> int:
        """Return the greatest value that enough voters to decide have reached."""
        return joint_value_reached(self.groups, values)

    def may_follow(self, before: Configuration) -> bool:
        """Return whether a block may turn `before` into this.

        Learners come and go freely. Voters change in two steps: a joint configuration that keeps the voters, then its incoming half alone.
        """
        if self.incoming is None:
            return self.voters == (before.voters if before.incoming is None else before.incoming)
        return self.voters == before.voters and (before.incoming is None or before.incoming == self.incoming)


ConfigurationAt: TypeAlias = tuple[int, Configuration]
"""A height, and the configuration that rules from the block at this height on, that block included."""


def build_configuration(validators: Collection[PublicKey]) -> Configuration:
    """Return the configuration in which these validators, each named once, vote and nobody learns."""
    return Configuration(tuple(validators))


class Configurations:
    """Which configuration rules at which height.

    ::

        forgotten | history | committed one | ones of uncommitted blocks on disk | ones this leader has proposed
                            ^ always known

    What is on disk is told by the driver, since only the ledger can read a block. What a leader proposes rules from that moment on (Raft
    4.1 of the thesis) and becomes an ordinary one when it is durable.
    """

    __slots__ = ("_durable", "_proposed")

    def __init__(self, stored: Sequence[ConfigurationAt]) -> None:
        """Begin with those of the log on disk, ascending; the first one rules at the commit height or below."""
        assert stored
        self._durable = list(stored)
        self._proposed: list[ConfigurationAt] = []

    @property
    def latest(self) -> Configuration:
        """The one that rules at the end of the log."""
        return self._last[1]

    @property
    def latest_height(self) -> int:
        """Since which height it does."""
        return self._last[0]

    @property
    def tracked(self) -> tuple[ConfigurationAt, ...]:
        """Every one that is known here, ascending."""
        return (*self._durable, *self._proposed)

    def at(self, height: int) -> Configuration | None:
        """Return the one that rules at `height`, or None when that was so long ago that it was forgotten."""
        for known in (self._proposed, self._durable):
            for since, configuration in reversed(known):
                if since <= height:
                    return configuration
        return None

    def names(self, node_id: NodeId) -> bool:
        """Return whether any configuration known here has this node as a member."""
        return any(configuration.is_member(node_id) for _, configuration in self.tracked)

    def propose(self, height: int, configuration: Configuration) -> None:
        """Let `configuration` rule from this leader's own block at `height` on, which is not durable yet."""
        assert height > self.latest_height
        assert configuration.may_follow(self.latest)
        self._proposed.append((height, configuration))

    def withdraw(self) -> None:
        """Go back to what is on disk: this node leads no more. What is on its way to the disk will be told when it is there."""
        self._proposed.clear()

    def note_written(
        self, truncate_from: int | None, configurations: Iterable[ConfigurationAt], commit_height: int
    ) -> None:
        """Take note of one write: what was truncated brings back the configuration before, what was added rules."""
        if truncate_from is not None:
            assert truncate_from > commit_height, "nothing committed is truncated"
            while self._durable[-1][0] >= truncate_from:
                self._durable.pop()
        for height, configuration in configurations:
            assert height > self._durable[-1][0]
            assert configuration.may_follow(self._durable[-1][1]), "the ledger changes voters in two steps"
            self._durable.append((height, configuration))
            if self._proposed and self._proposed[0] == (height, configuration):
                del self._proposed[0]

    def forget_below(self, commit_height: int) -> None:
        """Keep what rules at and above the commit height, and a little history."""
        committed = sum(height <= commit_height for height, _ in self._durable)
        del self._durable[: max(0, committed - 1 - CONFIGURATION_HISTORY_MAX)]

    def reset(self, height: int, configuration: Configuration) -> None:
        """Forget everything: a snapshot says what rules at its height."""
        self._durable = [(height, configuration)]
        self._proposed.clear()

    def excluded_since(self, node_id: NodeId) -> int | None:
        """Return the height since which the node has been no member, or None when it is one at the end of the log."""
        since: int | None = None
        for height, configuration in reversed(self.tracked):
            if configuration.is_member(node_id):
                break
            since = height
        return since

    @property
    def _last(self) -> ConfigurationAt:
        return self._proposed[-1] if self._proposed else self._durable[-1]


def _ordered(keys: Iterable[PublicKey]) -> tuple[PublicKey, ...]:
    found = tuple(sorted(keys, key=lambda key: key.key_id))
    assert len({key.key_id for key in found}) == len(found), "each member is named once"
    return found
