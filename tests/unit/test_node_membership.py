"""Which waiting transactions can change who votes: those wait for a change under way, and nothing else does."""

from __future__ import annotations

from ledger import actions, bodies
from node.membership import may_change_configuration, with_one_change
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


def test_a_block_takes_one_change_of_who_votes_and_everything_else() -> None:
    """Guarded by `with_one_change`: one block that ended a change and began another ended its leader (seed 1189 of the simulator)."""
    chain = Chain()
    chain.add_learner(5)
    removal = chain.submit(bodies.ProposalCreate(actions.RemoveValidator("v1"), ""), "ada@acme").tx_id
    chain.adopt(actions.PromoteLearner("v5"))
    settlement = chain.sign_settlement()
    votes = [chain.sign(bodies.ProposalVote(removal, True), voter) for voter in ("ada@acme", "ben@beta")]
    other = chain.sign(bodies.ProposalWithdraw(removal), "ada@acme")
    waiting = [settlement, votes[0], other, votes[1]]
    assert with_one_change(chain.view, waiting) == (settlement, other)
    assert with_one_change(chain.view, waiting[1:]) == (votes[0], other)
    assert with_one_change(chain.view, [other]) == (other,)
