"""Who is guilty of a fork: two histories in, and out come the validators whose own signatures convict them.

Both histories are followed from the founding document. As long as they are one, only the changes of the validators matter. From the first
block on in which they differ, what proposers, voters and acknowledgers signed is kept, and in the end each validator's statements are held
against each other (`ledger.blame_proof` says which contradict). An accusation rests on signatures alone, so no history, however false, can
accuse somebody who follows the rules.

That two certified histories which contradict each other always convict somebody is proven in docs/spec/accountability.md. Where a change of
the validators was ended by proof of a block that stands outside its history, that block's history may be needed too: `Verdict.missing`
names it.

Source: docs/spec/accountability.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from ledger.blame_history import FollowedHistory, History, HistoryBase, Origin, Problem
from ledger.blame_proof import (
    Acknowledgement,
    Blame,
    BlameKind,
    BlockContext,
    Statement,
    Vote,
    check_blame,
    describe_blame,
    kind_of_refusal,
    verify_blame,
)
from ledger.genesis import Genesis
from ledger.recovery import Recovery
from wire.errors import RejectedError
from wire.hashing import Digest
from wire.keys import KeyId

__all__ = [
    "Blame",
    "BlameKind",
    "History",
    "HistoryBase",
    "Problem",
    "Verdict",
    "check_blame",
    "describe_blame",
    "find_guilty",
    "verify_blame",
]

S = TypeVar("S", Acknowledgement, Vote)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What two histories came to."""

    is_fork: bool
    """Whether they part: neither is the beginning of the other."""
    fork_height: int | None
    """Height of the last block that both have; None when they do not part, or part below where one of them begins."""
    certified_heights: tuple[int, int]
    """In each history the highest height above the fork for which a certificate holds; 0 where there is none."""
    blames: tuple[Blame, ...]
    """At most one proof for each validator and kind, each verified; in order of the kinds in `BlameKind`."""
    problems: tuple[Problem, ...]
    """What does not hold in the parts that differ."""
    missing: tuple[tuple[int, Digest], ...]
    """Blocks that proved a change of the validators and stand outside the history that names them: (height, hash)."""
    recoveries: tuple[tuple[str, Recovery], ...] = ()
    """Where the organisations went on without a majority of the validators, in the parts that differ, with the history's name."""

    @property
    def is_conflict(self) -> bool:
        """Whether they part and both are certified above the fork: what must never happen."""
        return self.is_fork and all(self.certified_heights)

    @property
    def recovery_signers(self) -> tuple[str, ...]:
        """Administrators who answer for the fork: of two recoveries those whose organisation signed both, of a single one all of them.

        Signatures under one and the same statement accuse nobody.
        """
        first = dict(reversed(self.recoveries))
        # Where no recovery begins right at the fork, it is not what made it.
        if not self.is_conflict or all(recovery.header.height != self.fork_height for recovery in first.values()):
            return ()
        signed = [{each.organisation: each.identity_id for each in recovery.approvals} for recovery in first.values()]
        if len(first) == 1:
            return tuple(sorted(signed[0].values()))
        if len({recovery.statement.message() for recovery in first.values()}) == 1:
            return ()
        both = signed[0].keys() & signed[1].keys()
        return tuple(sorted({each[organisation] for each in signed for organisation in both}))

    @property
    def guilty(self) -> tuple[KeyId, ...]:
        """Everybody who is convicted, each once."""
        return tuple(dict.fromkeys(each.validator for each in self.blames))


def find_guilty(one: History, other: History, genesis: Genesis) -> Verdict:
    """Return what the two histories say about each other, and who is convicted by them.

    Args:
        one: From anybody.
        other: From anybody.
        genesis: The founding document that the caller trusts.

    Raises:
        RejectedError: A history begins with something that does not hold: ``ledger.proof.*``, ``wire.certificate.*``.
    """
    sides = FollowedHistory(one, genesis), FollowedHistory(other, genesis)
    is_fork, fork_height = _follow(*sides)
    problems = [problem for side in sides for problem in side.problems]
    blames: dict[tuple[BlameKind, KeyId], Blame] = {}
    for accusation in _accusations(*sides, genesis.chain_id):
        place = accusation.kind, accusation.validator
        if place not in blames:
            try:
                verify_blame(accusation, genesis)
            except RejectedError:
                continue  # a signature that does not hold is nobody's statement
            blames[place] = accusation
    order = list(BlameKind)
    return Verdict(
        is_fork,
        fork_height,
        (sides[0].certified_height, sides[1].certified_height) if is_fork else (0, 0),
        tuple(sorted(blames.values(), key=lambda each: (order.index(each.kind), each.validator))),
        tuple(problems),
        tuple(dict.fromkeys(each for side in sides for each in side.missing)),
        tuple((side.name, recovery) for side in sides for recovery in side.recoveries) if is_fork else (),
    )


def _follow(one: FollowedHistory, other: FollowedHistory) -> tuple[bool, int | None]:
    """Read both to their ends, keeping what differs; return whether they part, and the last height at which they do not."""
    lower, higher = (one, other) if one.height <= other.height else (other, one)
    while lower.height < higher.height:
        # Whether this is common is known only where the higher one begins.
        item = lower.read()
        if item is None:
            return False, None
        lower.keep(*item)
    if lower.tip_hash != higher.tip_hash:
        one.keep_rest()
        other.keep_rest()
        return True, None
    one.forget()
    other.forget()
    while True:
        fork_height = one.height
        ours, theirs = one.read(), other.read()
        if ours is None or theirs is None:
            return False, None
        if ours[0].block_hash != theirs[0].block_hash:
            one.keep(*ours)
            other.keep(*theirs)
            one.keep_rest()
            other.keep_rest()
            return True, fork_height
        one.share(ours[0])
        other.share(theirs[0])


def _accusations(one: FollowedHistory, other: FollowedHistory, chain_id: str) -> Iterator[Blame]:
    """Yield everything that would convict somebody, if the signatures hold that were not looked at yet."""
    origins = other.origins | one.origins

    def accuse(
        kind: BlameKind, validator: KeyId, *statements: Statement, context: BlockContext | None = None
    ) -> Iterator[Blame]:
        if validator in origins:
            yield Blame(kind, chain_id, validator, statements, context, origins[validator].changes)

    for height in sorted(one.proposals.keys() & other.proposals.keys()):
        ours, theirs = one.proposals[height], other.proposals[height]
        if (ours.header.term, ours.header.proposer) == (theirs.header.term, theirs.header.proposer):
            yield from accuse(BlameKind.DOUBLE_PROPOSAL, ours.header.proposer, ours, theirs)
    acknowledgements = _by_signer(one.acknowledgements + other.acknowledgements, origins, chain_id)
    votes = _by_signer(one.votes + other.votes, origins, chain_id)
    for validator, cast in votes.items():
        cast.sort(key=lambda vote: (vote.term, vote.choice))
        for vote, next_vote in pairwise(cast):
            if vote.term == next_vote.term and vote.choice != next_vote.choice:
                yield from accuse(BlameKind.DOUBLE_VOTE, validator, vote, next_vote)
    for validator, given in acknowledgements.items():
        given.sort(key=lambda acknowledged: (acknowledged.position, acknowledged.block_hash))
        for acknowledged, next_acknowledged in pairwise(given):
            if (
                acknowledged.position == next_acknowledged.position
                and acknowledged.block_hash != next_acknowledged.block_hash
            ):
                yield from accuse(BlameKind.DOUBLE_ACKNOWLEDGEMENT, validator, acknowledged, next_acknowledged)
        positions = [acknowledged.position for acknowledged in given]
        for vote in votes.get(validator, ()):
            before = bisect_left(positions, (vote.term, 0))
            if before and positions[before - 1] > vote.position:
                yield from accuse(BlameKind.ACKNOWLEDGED_THEN_VOTED, validator, given[before - 1], vote)
    for side in (one, other):
        for context in side.invalid:
            refusal = context.refusal()
            assert refusal is not None, "only what can be shown was kept"
            kind, header = kind_of_refusal(refusal), context.header
            proposal = side.proposals[header.height]
            yield from accuse(kind, header.proposer, proposal, context=context)
            block_hash = header.hash()
            for validator, given in acknowledgements.items():
                for acknowledged in given:
                    if acknowledged.block_hash == block_hash:
                        yield from accuse(kind, validator, acknowledged, context=context)


def _by_signer(
    statements: Iterable[tuple[KeyId, S]], origins: Mapping[KeyId, Origin], chain_id: str
) -> dict[KeyId, list[S]]:
    """Return the statements of validators whose signatures hold."""
    found: dict[KeyId, list[S]] = {}
    for signer, statement in statements:
        origin = origins.get(signer)
        if origin is not None and origin.key.is_valid(statement.message(chain_id), statement.signature):
            found.setdefault(signer, []).append(statement)
    return found
