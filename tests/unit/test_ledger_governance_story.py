"""Who proposed, who voted what under which key, what became of it: the same from a ledger's history and from its blocks passing by."""

from __future__ import annotations

import pytest

from ledger import actions, bodies, governance_story, rules_governance
from ledger.audit import Auditor
from ledger.governance_story import Story, StoryCollector, find_story, story_place
from ledger.keyspace import HISTORY_KEY, Table, height_key
from tests.testkit.ledger import Chain, key_of, make_genesis

POLICY = actions.SetPolicy("", (("deny", "forbid (principal, action, resource);"),))


@pytest.fixture
def chain() -> Chain:
    chain = Chain(make_genesis(validators=1))
    chain.register("eve@acme", "administrator")
    return chain


def propose(chain: Chain, action: actions.Action = POLICY, by: str = "ada@acme") -> bytes:
    return chain.submit(bodies.ProposalCreate(action, "why"), by).tx_id


def vote(chain: Chain, proposal_id: bytes, by: str, approve: bool = True) -> bytes:
    return chain.submit(bodies.ProposalVote(proposal_id, approve), by).tx_id


def story(chain: Chain, proposal_id: bytes) -> Story:
    """Return the story, after showing that blocks which pass by tell all stories just so, with what an audit derives from them."""
    collector, auditor = StoryCollector(), Auditor(chain.genesis)
    for block in chain.blocks[1:]:
        collector.feed(block.header.height, block.header.time_ms, block.transactions)
        auditor.feed(block.raw, None)
    told = list(collector.stories(auditor.view))
    records = sorted(chain.view.proposals(), key=story_place)
    assert told == [find_story(chain.view, record) for record in records]
    return next(each for each in told if each.record.proposal_id == proposal_id)


def words(found: Story) -> list[tuple[str, str, int, bool]]:
    return [(step.what, step.identity, step.height, step.is_in_force) for step in found.steps]


def test_an_executed_proposal_names_every_vote_its_key_and_the_deciding_one(chain: Chain) -> None:
    proposed = propose(chain)
    vote(chain, proposed, "ada@acme", approve=False)
    vote(chain, proposed, "eve@acme")
    decided = vote(chain, proposed, "gil@gamma")
    told = story(chain, proposed)
    assert words(told) == [
        ("proposed", "ada@acme", 2, True),
        ("against", "ada@acme", 3, False),
        ("for", "eve@acme", 4, True),
        ("for", "gil@gamma", 5, True),
    ]
    last = told.steps[-1]
    assert (last.key_id, last.organisation, last.tx_id) == (key_of("gil@gamma").public_key.key_id, "gamma", decided)
    assert last.time_ms == chain.blocks[5].header.time_ms
    assert (told.status, told.tally, told.is_complete) == ("executed", None, True)
    assert told.ended is not None
    assert (told.ended.height, told.ended.time_ms, told.ended.tx_id) == (5, last.time_ms, decided)


def test_several_in_one_block_stand_in_their_order(chain: Chain) -> None:
    created = chain.sign(bodies.ProposalCreate(POLICY, ""), "ada@acme")
    votes = [chain.sign(bodies.ProposalVote(created.tx_id, True), by) for by in ("ben@beta", "ada@acme")]
    chain.commit(created, *votes)
    told = story(chain, created.tx_id)
    assert [step.index for step in told.steps] == [0, 1, 2]
    assert told.ended is not None
    assert told.ended.tx_id == votes[1].tx_id


def test_rejected_and_withdrawn_ones_say_by_whom(chain: Chain) -> None:
    proposed = propose(chain)
    vote(chain, proposed, "ada@acme", approve=False)
    last = vote(chain, proposed, "ben@beta", approve=False)
    told = story(chain, proposed)
    assert (told.status, told.ended and told.ended.tx_id) == ("rejected", last)
    other = propose(chain)
    withdrawn = chain.submit(bodies.ProposalWithdraw(other), "eve@acme").tx_id
    told = story(chain, other)
    assert words(told)[1][:2] == ("withdrawn", "eve@acme")
    assert (told.status, told.ended and told.ended.tx_id) == ("withdrawn", withdrawn)


def test_an_open_one_says_how_the_votes_stand(chain: Chain) -> None:
    proposed = propose(chain)
    told = story(chain, proposed)
    assert told.tally is not None
    assert (told.tally.approvals, told.tally.rejections, told.tally.needed, told.tally.members) == (0, 0, 2, 3)
    vote(chain, proposed, "ada@acme")
    vote(chain, proposed, "ben@beta", approve=False)
    told = story(chain, proposed)
    assert told.tally is not None
    assert (told.tally.approvals, told.tally.rejections) == (1, 1)
    assert (told.status, told.ended) == ("open", None)


def test_a_vote_under_a_key_that_was_revoked_from_before_is_marked(chain: Chain) -> None:
    proposed = propose(chain, by="ben@beta")
    vote(chain, proposed, "ada@acme")
    chain.submit(bodies.IdentityRevoke("ada@acme", None, chain.height - 1, "stolen"), "eve@acme")
    told = story(chain, proposed)
    assert [step.is_key_counted for step in told.steps] == [True, False]
    assert told.tally is not None
    assert told.tally.approvals == 0
    # It stays in the story when the organisation has voted again, and when everything is decided.
    vote(chain, proposed, "eve@acme")
    vote(chain, proposed, "ben@beta")
    told = story(chain, proposed)
    assert [(step.is_in_force, step.is_key_counted) for step in told.steps] == [
        (True, True), (False, False), (True, True), (True, True),
    ]  # fmt: skip
    assert told.status == "executed"


def test_a_rotated_key_stays_the_one_that_voted(chain: Chain) -> None:
    proposed = propose(chain)
    vote(chain, proposed, "ada@acme")
    old = key_of("ada@acme").public_key.key_id
    chain.submit(bodies.IdentityRotateKey("ada@acme", old, key_of("next").public_key.spki), "ada@acme")
    told = story(chain, proposed)
    assert [(step.identity, step.key_id, step.is_key_counted) for step in told.steps] == [("ada@acme", old, True)] * 2


def test_an_open_proposal_expires_by_height(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (rules_governance, governance_story):
        monkeypatch.setattr(module, "PROPOSAL_LIFETIME", 3)
    proposed = propose(chain)
    vote(chain, proposed, "ada@acme")
    chain.commit()
    assert story(chain, proposed).status == "open"
    last = chain.sign(bodies.ProposalVote(proposed, True), "ben@beta")
    chain.commit()
    told = story(chain, proposed)
    assert (told.status, told.record.status, told.tally) == ("expired", "open", None)
    assert told.ended is not None
    assert (told.ended.height, told.ended.tx_id) == (told.record.expires_height, None)
    assert told.ended.time_ms == chain.blocks[told.record.expires_height].header.time_ms
    assert chain.refusal(last).code == "ledger.proposal.expired"
    chain.commit()
    assert story(chain, proposed) == told


def test_pruned_history_leaves_the_record_and_says_so(chain: Chain) -> None:
    proposed = propose(chain)
    vote(chain, proposed, "ada@acme")
    vote(chain, proposed, "ben@beta")
    record = chain.view.proposal(proposed)
    assert record is not None
    chain.store.apply({(Table.META, HISTORY_KEY): height_key(4)})
    told = find_story(chain.view, record)
    assert (words(told), told.is_complete) == ([("for", "ben@beta", 4, True)], False)
    chain.store.apply({(Table.META, HISTORY_KEY): height_key(5)})
    told = find_story(chain.view, record)
    assert (told.steps, told.is_complete, told.status) == ((), False, "executed")
    assert told.ended is not None
    assert (told.ended.height, told.ended.tx_id, told.ended.time_ms) == (4, None, None)
