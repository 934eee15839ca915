"""Whom a replica supports: what a candidate's log must be for its poll or its election.

Whether this node believes to be a voter does not matter here. A candidate asks those whom its own configuration counts, and may know of a
change that has not come here yet; without the vote of a learner that was promoted meanwhile a network could stand still. Who counts a
vote looks at its configuration, so nobody's vote counts who has none (docs/spec/consensus.md 4.8).

Source: Raft 5.4.1, 9.6; docs/spec/consensus.md 4.
"""

from __future__ import annotations

from consensus.common import Common
from consensus.config import Role
from consensus.messages import PreVote, PreVoteReply, RequestVote


def answer_pre_vote(common: Common, message: PreVote) -> None:
    """Answer the poll; nothing is recorded."""
    granted = (
        message.term > common.term
        and common.role is not Role.LEADER
        and not common.hears_leader()
        and not common.is_bound
        and may_support(common, message)
    )
    # A refusal names our own term, so that a candidate that is behind catches up; a grant names the candidate's and binds nobody.
    term = message.term if granted else common.term
    common.send(message.candidate, PreVoteReply(term, granted, common.config.node_id))


def must_withhold(common: Common, message: RequestVote) -> bool:
    """Return whether a request of a later term is to be ignored, term and all: a leader that is heard is not deposed.

    Neither by somebody who does not hear it (Raft 6, last problem), nor by somebody whom this node knows of no vote and who says that the
    leader wishes it. Nor while this node is bound by a promise.
    """
    if common.role is not Role.LEADER and not common.hears_leader() and not common.is_bound:
        return False
    return not (message.transfer and common.configuration.is_voter(message.candidate))


def may_support(common: Common, message: PreVote | RequestVote) -> bool:
    """Return whether the candidate's log may lead ours: at least as up to date, and not against what is committed here."""
    last_height, last_hash = message.last_height, message.last_hash
    if not common.is_up_to_date((message.last_term, last_height)):
        return False
    if last_height < common.commit_height:
        common.alarm("consensus.fork", f"{message.candidate.hex()} stands for election without what is committed here")
        return False
    if last_height <= common.log.last_height:
        term, block_hash = common.log.term_and_hash(last_height)
        if block_hash != last_hash and (last_height == common.commit_height or term == message.last_term):
            common.alarm(
                "consensus.equivocation",
                f"two blocks at height {last_height}: {block_hash.hex()} and {last_hash.hex()} of {message.candidate.hex()}",
            )
            return False
    return True
