"""Which waiting transactions can change who votes: those wait for a change under way, and nothing else does."""

from __future__ import annotations

from ledger import actions, bodies
from node.membership import may_change_configuration
from tests.testkit.ledger import Chain, validator


def test_only_votes_about_validators_and_the_end_of_a_change_can_change_who_votes() -> None:
    chain = Chain()
    about_a_node = chain.submit(bodies.ProposalCreate(actions.AddLearner(validator(9)), ""), "ada@acme").tx_id
    about_votes = chain.submit(bodies.ProposalCreate(actions.SetThreshold("unanimous"), ""), "ada@acme").tx_id
    for body, expected in (
        (bodies.ProposalVote(about_a_node, True), True),
        (bodies.ProposalVote(about_a_node, False), True),
        (bodies.ProposalVote(about_votes, True), False),
        # A proposal that this ledger does not have yet may be about anything.
        (bodies.ProposalVote(bytes(32), True), True),
        (bodies.ProposalWithdraw(about_a_node), False),
        (bodies.ProposalCreate(actions.RemoveValidator("v1"), ""), False),
        (bodies.HostReport("drift", "site", b""), False),
    ):
        assert may_change_configuration(chain.view, chain.sign(body, "ada@acme")) is expected, body


def test_the_end_of_a_change_changes_who_votes() -> None:
    chain = Chain()
    chain.add_learner(5)
    chain.adopt(actions.PromoteLearner("v5"))
    assert may_change_configuration(chain.view, chain.sign_settlement())
