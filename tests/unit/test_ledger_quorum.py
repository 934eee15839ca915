"""Which votes count, and that governance never decides itself away: what would leave no proposal that can pass is refused."""

from __future__ import annotations

import pytest

from ledger import actions, bodies
from ledger.actions import Administrator
from ledger.quorum import count_votes
from ledger.records import ProposalRecord
from tests.testkit.ledger import ADMINISTRATORS, Chain, key_of, make_genesis
from wire.keys import PrivateKey

POLICY = actions.SetPolicy("", (("deny", "forbid (principal, action, resource);"),))
LOST = "ledger.proposal.quorum_lost"


def propose(chain: Chain, action: actions.Action, by: str = "ada@acme") -> bytes:
    return chain.submit(bodies.ProposalCreate(action, ""), by).tx_id


def vote(chain: Chain, proposal_id: bytes, *voters: str) -> ProposalRecord:
    for voter in voters:
        chain.submit(bodies.ProposalVote(proposal_id, True), voter)
    record = chain.view.proposal(proposal_id)
    assert record is not None
    return record


def approvals(chain: Chain, proposal_id: bytes) -> int:
    record = chain.view.proposal(proposal_id)
    assert record is not None
    return count_votes(chain.view, record).approvals


@pytest.fixture
def chain() -> Chain:
    """Three organisations with one validator that is acme's; two decide."""
    chain = Chain(make_genesis(validators=1))
    chain.register("eve@acme", "administrator")
    return chain


@pytest.fixture
def waiting(chain: Chain) -> bytes:
    """A proposal with ada@acme's vote for it, which is not enough."""
    proposal_id = propose(chain, POLICY)
    assert vote(chain, proposal_id, "ada@acme").status == "open"
    return proposal_id


def test_a_vote_outlives_the_rotation_of_its_key(chain: Chain, waiting: bytes) -> None:
    new = key_of("ada's next")
    old_id = key_of("ada@acme").public_key.key_id
    chain.submit(bodies.IdentityRotateKey("ada@acme", old_id, new.public_key.spki), "ada@acme")
    assert approvals(chain, waiting) == 1
    again = chain.sign(bodies.ProposalVote(waiting, True), "ada@acme", key=new)
    assert chain.refusal(again).code == "ledger.proposal.already_voted"
    assert vote(chain, waiting, "ben@beta").status == "executed"


def test_a_vote_outlives_the_suspension_and_the_later_revocation_of_its_voter(chain: Chain, waiting: bytes) -> None:
    chain.submit(bodies.IdentitySuspend("ada@acme", "on leave"), "eve@acme")
    assert approvals(chain, waiting) == 1
    chain.submit(bodies.IdentityRevoke("ada@acme", None, chain.height, "left"), "eve@acme")
    assert approvals(chain, waiting) == 1
    assert vote(chain, waiting, "ben@beta").status == "executed"


def test_a_vote_does_not_outlive_a_revocation_from_before_it(chain: Chain, waiting: bytes) -> None:
    """The key was stolen before it voted: the organisation has not voted, and does so now."""
    before = chain.height - 1
    chain.submit(bodies.IdentityRevoke("ada@acme", None, before, "stolen"), "eve@acme")
    assert approvals(chain, waiting) == 0
    record = vote(chain, waiting, "ben@beta")
    assert (record.status, len(record.votes)) == ("open", 2)
    # The same word, by somebody who may say it: no repetition.
    record = vote(chain, waiting, "eve@acme")
    assert (record.status, record.votes[0][1]) == ("executed", "eve@acme")


def test_a_stolen_vote_against_does_not_defeat(chain: Chain) -> None:
    waiting = propose(chain, POLICY, "ben@beta")
    chain.submit(bodies.ProposalVote(waiting, False), "ada@acme")
    chain.submit(bodies.IdentityRevoke("ada@acme", None, chain.height - 1, "stolen"), "eve@acme")
    chain.submit(bodies.ProposalVote(waiting, False), "gil@gamma")
    record = chain.view.proposal(waiting)
    assert record is not None
    assert record.status == "open"


def test_the_same_vote_again_decides_when_the_members_have_changed(chain: Chain) -> None:
    """Unanimity of three; the third leaves; nobody has a new vote to cast, so the old one is cast again."""
    chain.adopt(actions.SetThreshold("unanimous"))
    waiting = propose(chain, POLICY)
    assert vote(chain, waiting, "ada@acme", "ben@beta").status == "open"
    assert chain.refused(bodies.ProposalVote(waiting, True), "ben@beta") == "ledger.proposal.already_voted"
    leave = propose(chain, actions.RemoveOrganisation("gamma", "leaves"))
    assert vote(chain, leave, "ada@acme", "ben@beta", "gil@gamma").status == "executed"
    assert vote(chain, waiting, "ada@acme").status == "executed"


# -- what would leave nobody to decide ---------------------------------------------------------------------------------


def revoke(name: str, height: int = 0) -> actions.RevokeKey:
    return actions.RevokeKey(key_of(name).public_key.key_id, height, "stolen")


def without(*lost: str) -> Chain:
    """Return a network of three organisations some of which have lost their administrator's key already."""
    chain = Chain(make_genesis(validators=1))
    for name in lost:
        chain.adopt(revoke(name))
    return chain


def test_the_last_keys_are_revoked_only_while_enough_organisations_are_left() -> None:
    chain = without("gil@gamma")
    for name in ("ada@acme", "ben@beta"):
        assert chain.refused(bodies.ProposalCreate(revoke(name), ""), "ada@acme") == LOST
        # From this height on, too: it would not count in the next block, in which everything else must be decided.
        assert chain.refused(bodies.ProposalCreate(revoke(name, chain.height + 1), ""), "ada@acme") == LOST
    chain.register("ann@acme", "administrator")
    chain.adopt(revoke("ann@acme", chain.height))
    chain.adopt(actions.AddAdministrator("gamma", Administrator("gus@gamma", "Gus", key_of("gus").public_key.spki)))
    key_of_ben = chain.submit(bodies.ProposalCreate(revoke("ben@beta"), ""), "ada@acme").tx_id
    vote(chain, key_of_ben, "ada@acme", "ben@beta")
    assert chain.refused(bodies.ProposalCreate(revoke("ada@acme"), ""), "ada@acme") == LOST


@pytest.mark.parametrize("threshold", ["unanimous"])
def test_a_threshold_that_could_never_be_met_is_refused(threshold: str) -> None:
    chain = without("gil@gamma")
    assert chain.refused(bodies.ProposalCreate(actions.SetThreshold(threshold), ""), "ada@acme") == LOST


def test_an_organisation_whose_vote_is_needed_is_neither_removed_nor_suspended() -> None:
    chain = without("gil@gamma")
    for action in (actions.SuspendOrganisation("beta", ""), actions.RemoveOrganisation("beta", "")):
        assert chain.refused(bodies.ProposalCreate(action, ""), "ada@acme") == LOST
    # The one that cannot act can go, and then the others decide by two of two.
    chain.adopt(actions.RemoveOrganisation("gamma", ""))
    chain.adopt(POLICY)


def test_the_last_organisation_stays() -> None:
    chain = Chain(make_genesis(validators=1, organisations=["acme"]))
    body = bodies.ProposalCreate(actions.SuspendOrganisation("acme", ""), "")
    assert chain.refused(body, "ada@acme") == LOST


def test_an_organisation_that_cannot_act_is_not_resumed_into_a_lost_quorum() -> None:
    """Two organisations under unanimity; the third, suspended, has lost its key: with it nothing could pass."""
    chain = Chain(make_genesis(validators=1))
    chain.adopt(actions.SuspendOrganisation("gamma", ""))
    chain.adopt(revoke("gil@gamma"))
    chain.adopt(actions.SetThreshold("unanimous"))
    resume = bodies.ProposalCreate(actions.ResumeOrganisation("gamma"), "")
    assert chain.refused(resume, "ada@acme") == LOST
    chain.adopt(actions.AddAdministrator("gamma", Administrator("gus@gamma", "Gus", key_of("gus").public_key.spki)))
    chain.adopt(actions.ResumeOrganisation("gamma"))


def test_a_deciding_vote_that_comes_too_late_is_refused_too(chain: Chain) -> None:
    """Each of two proposals is possible when it is made, both together are not."""
    first = propose(chain, revoke("gil@gamma"))
    second = propose(chain, revoke("ben@beta"))
    vote(chain, first, "ada@acme", "ben@beta")
    vote(chain, second, "ada@acme")
    assert chain.refused(bodies.ProposalVote(second, True), "ben@beta") == LOST
    record = chain.view.proposal(second)
    assert record is not None
    assert record.status == "open"


def test_an_organisation_cannot_take_its_own_last_administrator(chain: Chain) -> None:
    def own(name: str) -> PrivateKey:
        return key_of(name)

    for name in ADMINISTRATORS.values():
        if name == "ada@acme":
            continue
        assert chain.refused(bodies.IdentitySuspend(name, ""), name) == "ledger.identity.last_administrator"
        revoked = bodies.IdentityRevoke(name, own(name).public_key.key_id, 0, "")
        assert chain.refused(revoked, name) == "ledger.identity.last_administrator"
