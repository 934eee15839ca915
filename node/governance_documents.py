"""The JSON documents about governance: proposals with their stories, and who can decide.

The same functions make the answer of a node and that of an offline replay, so both are the same to the last character.
Source: docs/spec/governance.md 5; docs/spec/api.md.
"""

from __future__ import annotations

from typing import Any

from ledger.governance_story import Ended, Step, Story, proposal_status
from ledger.quorum import Tally, find_acting_administrator, votes_needed
from ledger.records import OPEN
from ledger.state import StateView
from node import documents

Document = dict[str, Any]


def story_document(story: Story) -> Document:
    """Return a proposal with its votes, its transactions in order, and what became of it."""
    return {
        **documents.proposal_document(story.record, story.status),
        "steps": [_step(each) for each in story.steps],
        "tally": None if story.tally is None else _tally(story.tally),
        "ended": None if story.ended is None else _ended(story.ended),
        "complete": story.is_complete,
    }


def governance_document(view: StateView) -> Document:
    """Return who has a vote, who can cast it, how many decide, and what is open; the view lists."""
    governance, height = view.governance(), view.height
    members = [_member(view, each.name, height) for each in view.organisations()]
    acting = sum(member["has_vote"] and member["acting_administrator"] is not None for member in members)
    count = len(governance.organisations)
    needed = votes_needed(governance.threshold, count)
    network = view.network
    return {
        "height": height,
        "threshold": governance.threshold,
        "votes": count,
        "votes_needed": needed,
        "able_to_vote": acting,
        "spare": acting - needed,
        "changed_height": governance.changed_height,
        "organisations": members,
        "limits": {
            "transaction_bytes_max": network.transaction_bytes_max,
            "block_bytes_max": network.block_bytes_max,
            "block_transactions_max": network.block_transactions_max,
        },
        "policy_version": view.policy_version().version,
        "validators": len(view.validators().validators),
        "change_of_validators_under_way": view.configuration().is_joint,
        "open_proposals": sorted(
            each.proposal_id.hex() for each in view.proposals() if proposal_status(each, height) == OPEN
        ),
    }


def _member(view: StateView, name: str, height: int) -> Document:
    organisation = view.organisation(name)
    assert organisation is not None, "it was listed"
    standing = view.standing(name)
    return {
        "name": name,
        "display_name": organisation.display_name,
        "status": view.organisation_status(name),
        "reason": "" if standing is None else standing.reason,
        "changed_height": organisation.admitted_height if standing is None else standing.changed_height,
        "has_vote": name in view.governance().organisations,
        "administrators": list(organisation.administrators),
        "acting_administrator": find_acting_administrator(view, name, height + 1, {}),
        "ca_certificates": len(organisation.ca_certificates),
    }


def _step(step: Step) -> Document:
    return {
        "what": step.what,
        "tx_id": step.tx_id.hex(),
        "height": step.height,
        "index": step.index,
        "time_ms": step.time_ms,
        "identity": step.identity,
        "organisation": step.organisation,
        "key_id": step.key_id.hex(),
        "in_force": step.is_in_force,
        "key_counted": step.is_key_counted,
    }


def _tally(tally: Tally) -> Document:
    return {
        "for": tally.approvals,
        "against": tally.rejections,
        "needed": tally.needed,
        "votes": tally.members,
    }


def _ended(ended: Ended) -> Document:
    return {
        "height": ended.height,
        "time_ms": ended.time_ms,
        "tx_id": None if ended.tx_id is None else ended.tx_id.hex(),
    }
